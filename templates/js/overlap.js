// A cursor on the matrix of overlaps: arrow keys or a pointer, the pair in words, Enter for the comparison.
(() => {
  "use strict";
  const { t, tn, el, integer } = ATLAS;
  const matrix = ATLAS.id("overlap-matrix") || document.querySelector("figure[data-overlap] svg.matrix"), figure = matrix && matrix.closest("[data-shards]");
  if (!figure) { return; }
  const model = () => ATLAS.model(figure.getAttribute("data-shards"));
  model().then(m => {
  const given = (figure.getAttribute("data-codes") || "").split(/[\s,]+/).filter(Boolean);
  const codes = given.length ? given : m.leaves.map(i => m.languages[i].code), size = codes.length;
  const line = el("p", { class: "zoom-line", role: "status" }, t("Arrow keys move over the matrix, Enter compares the two languages."));
  const box = el("div", { class: "matrix-box", tabindex: "0", role: "application", "aria-roledescription": t("matrix"), "aria-label": t("Overlap of every pair of languages") });
  const mark = el("span", { class: "matrix-mark", "aria-hidden": "true", hidden: true }), tip = el("p", { class: "tip", "aria-hidden": "true", hidden: true });
  matrix.replaceWith(box);
  box.append(matrix, mark, tip);
  (box.closest(".square") || box).after(line);
  let row = 0, column = Math.min(1, size - 1);
  const number = value => value === null ? "–" : value.toLocaleString(ATLAS.locale, { minimumFractionDigits: 2, maximumFractionDigits: 2, numberingSystem: "latn" });
  const show = async (r, c, speak) => {
    [row, column] = [Math.min(Math.max(r, 0), size - 1), Math.min(Math.max(c, 0), size - 1)];
    const here = matrix.getBoundingClientRect(), around = box.getBoundingClientRect(), view = matrix.viewBox.baseVal;
    // The grid may have room around it for names: data-origin says where it begins, in units of the view.
    const [x0, y0, unit] = (figure.getAttribute("data-grid") || "0 0 " + view.width / size).split(" ").map(Number), k = here.width / view.width;
    mark.hidden = false;
    mark.style.left = here.left - around.left + (x0 + column * unit) * k + "px";
    mark.style.top = here.top - around.top + (y0 + row * unit) * k + "px";
    mark.style.width = mark.style.height = Math.max(unit * k, 6) + "px";
    const pair = await m.overlap(), [a, b] = [codes[row], codes[column]].map(code => m.language(code)), names = { a: "\u2068" + a.name + "\u2069", b: "\u2068" + b.name + "\u2069" };
    const found = row === column ? null : pair(m.index(a.code), m.index(b.code));
    const text = found ? tn(found.shared, "{a} and {b}: {n} neuron in common, Jaccard {jaccard}, overlap coefficient {coefficient}, cosine {cosine}", "{a} and {b}: {n} neurons in common, Jaccard {jaccard}, overlap coefficient {coefficient}, cosine {cosine}",
      Object.assign({ jaccard: number(found.jaccard), coefficient: number(found.coefficient), cosine: number(found.cosine) }, names)) : names.a;
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = Math.max(0, Math.min(parseFloat(mark.style.left), box.clientWidth - tip.offsetWidth)) + "px";
    tip.style.top = parseFloat(mark.style.top) + parseFloat(mark.style.height) + 6 + "px";
    if (speak) { line.textContent = text; }
  };
  // The other measures, drawn over the picture of the page: from their least to their most over all pairs.
  const cividis = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];
  const measures = ATLAS.all("input[name=measure]", figure), other = el("canvas", { class: "matrix-other", width: size, height: size, "aria-hidden": "true", hidden: true });
  matrix.after(other);
  const draw = async measure => {
    const pair = await m.overlap(), at = codes.map(code => m.index(code)), values = [];
    for (let r = 0; r < size; r++) { for (let c = 0; c < size; c++) { values.push(r === c ? null : pair(at[r], at[c])[measure.value]); } }
    const known = values.filter(v => v !== null), least = Math.min(...known), most = Math.max(...known), paint = other.getContext("2d"), image = paint.createImageData(size, size);
    values.forEach((v, i) => {
      const colour = v === null ? [128, 128, 128] : cividis[Math.min(9, Math.floor(10 * (v - least) / (most - least || 1)))];
      image.data.set([...colour, v === null ? 60 : 255], 4 * i);
    });
    paint.putImageData(image, 0, 0);
    other.hidden = measure.value === "jaccard";
    line.textContent = t("{measure}: from {least} to {most}", { measure: measure.closest("label").textContent.trim(), least: number(least), most: number(most) });
  };
  measures.forEach(measure => measure.addEventListener("change", () => draw(measure)));
  const spot = e => {
    const here = matrix.getBoundingClientRect(), view = matrix.viewBox.baseVal, [x0, y0, unit] = (figure.getAttribute("data-grid") || "0 0 " + view.width / size).split(" ").map(Number), k = here.width / view.width;
    return [Math.floor(((e.clientY - here.top) / k - y0) / unit), Math.floor(((e.clientX - here.left) / k - x0) / unit)];
  };
  const inside = ([r, c]) => r >= 0 && c >= 0 && r < size && c < size;
  const compare = () => { if (row !== column) { location.href = "compare.html#a=" + codes[row] + "&b=" + codes[column]; } };
  box.addEventListener("pointermove", e => { const at = spot(e); if (inside(at)) { show(...at, false); } });
  box.addEventListener("pointerleave", () => { tip.hidden = true; });
  box.addEventListener("click", e => { const at = spot(e); if (inside(at)) { [row, column] = at; compare(); } });
  box.addEventListener("focus", () => show(row, column, true));
  box.addEventListener("keydown", e => {
    if (e.altKey || e.ctrlKey || e.metaKey) { return; }
    const far = e.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [0, -far], ArrowRight: [0, far], ArrowUp: [-far, 0], ArrowDown: [far, 0], Home: [0, -size], End: [0, size] };
    if (moves[e.key]) { e.preventDefault(); e.stopPropagation(); show(row + moves[e.key][0], column + moves[e.key][1], true); }
    else if (e.key === "Enter") { e.preventDefault(); compare(); }
    else if (e.key === "Escape") { tip.hidden = true; }
  });
  }, () => { /* without its data the picture and the table stay */ });
})();
