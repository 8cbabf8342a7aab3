// Every page: words and numbers of the locale, search, filter, sort, keys, copying, figures as PNG.
// Everything on the page is there without it.
self.ATLAS = self.ATLAS || {};
(() => {
  "use strict";
  const doc = document, root = doc.documentElement, words = ATLAS.words || {}, forms = ATLAS.forms || ["one", "other"];
  const locale = root.lang || "en";
  const all = (selector, within) => Array.from((within || doc).querySelectorAll(selector));
  const id = name => doc.getElementById(name);
  root.classList.add("js");

  // The key of a text is its English; tables of other locales come before this script.
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values && name in values ? values[name] : whole);
  const t = (english, values) => fill(words[english] ? words[english][0] : english, values);
  const plural = new Intl.PluralRules(locale);
  const tn = (n, one, other, values) => {
    const own = words[one + "|" + other];
    const text = own ? own[forms.indexOf(plural.select(n))] || own[own.length - 1] : n === 1 ? one : other;
    return fill(text, Object.assign({ n: integer(n) }, values));
  };
  const numbers = new Intl.NumberFormat(locale, { numberingSystem: "latn" });
  const shares = new Intl.NumberFormat(locale, { numberingSystem: "latn", style: "percent", maximumFractionDigits: 1 });
  const integer = n => numbers.format(n);
  const percent = share => shares.format(share).replace(/^([\d.,]+)%$/, locale === "en" ? "$1\u00a0%" : "$1%");

  // An element: el("p", { class: "quiet" }, "text", child).
  const el = (name, attributes, ...children) => {
    const element = doc.createElement(name);
    for (const key in attributes) {
      const value = attributes[key];
      if (key.startsWith("on")) { element.addEventListener(key.slice(2), value); }
      else if (value === true) { element.setAttribute(key, ""); }
      else if (value !== false && value != null) { element.setAttribute(key, value); }
    }
    element.append(...children.flat(Infinity).filter(child => child != null && child !== false));
    return element;
  };
  const button = (text, act, attributes) => el("button", Object.assign({ type: "button", onclick: act }, attributes), text);

  // State in the address: "#q=ber&family=a&sort=total:descending". Anything else behind "#" is an anchor or a neuron.
  const readHash = () => {
    const state = {};
    for (const pair of location.hash.slice(1).split("&")) {
      const cut = pair.indexOf("=");
      if (cut < 1) { continue; }
      try { state[pair.slice(0, cut)] = decodeURIComponent(pair.slice(cut + 1)); } catch (e) { /* not ours */ }
    }
    return state;
  };
  const writeHash = state => {
    const text = Object.keys(state).filter(key => state[key])
      .map(key => key + "=" + encodeURIComponent(state[key]).replace(/%3A/g, ":").replace(/%2C/g, ",")).join("&");
    setHash(text);
  };
  const setHash = text => {
    try { history.replaceState(null, "", text ? "#" + text : location.pathname + location.search); } catch (e) { /* the address stays */ }
  };
  Object.assign(ATLAS, { t, tn, integer, percent, el, button, all, id, readHash, writeHash, setHash, locale });

  // Letters without case and marks, on both sides of a comparison, so that "maori" finds Māori.
  const plain = text => text.toLowerCase().normalize("NFKD").replace(/\p{M}+/gu, "");

  // Tables: a heading with data-sort becomes a button.
  const collator = new Intl.Collator(locale, { sensitivity: "base", numeric: true });
  const value = (cell, numeric) => {
    const text = cell.hasAttribute("data-v") ? cell.getAttribute("data-v") : cell.textContent.trim();
    if (!numeric) { return text; }
    const point = (1.5).toLocaleString(locale, { numberingSystem: "latn" })[1];
    return parseFloat(cell.hasAttribute("data-v") ? text : text.replace(/[^\d,.eE+\u2212-]/g, "").split(point).map(part => part.replace(/[.,]/g, "")).join("."));
  };
  const sortTable = (table, key, direction) => {
    const head = table.querySelector('th[data-sort="' + key + '"]');
    if (!head) { return; }
    const body = table.tBodies[0], sign = direction === "ascending" ? 1 : -1;
    const numeric = head.classList.contains("n") || key === "id" || key === "others";
    const rows = Array.from(body.rows, (row, i) => ({ row, i, v: value(row.cells[head.cellIndex], numeric) }));
    rows.sort((a, b) => {
      if (!numeric) { return sign * collator.compare(a.v, b.v) || a.i - b.i; }
      const na = isNaN(a.v), nb = isNaN(b.v);
      return na || nb ? na - nb || a.i - b.i : sign * (a.v - b.v) || a.i - b.i;
    });
    body.append(...rows.map(r => r.row));
    all("th[aria-sort]", table).forEach(th => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
  };
  for (const table of all("table.sortable")) {
    for (const th of all("th[data-sort]", table)) {
      const sort = button("", () => {
        const now = th.getAttribute("aria-sort"), key = th.getAttribute("data-sort");
        const next = now ? (now === "ascending" ? "descending" : "ascending") : th.getAttribute("data-first") || "descending";
        sortTable(table, key, next);
        if (table.id === "table") { state.sort = key + ":" + next; writeHash(state); }
      }, { class: "sort" });
      sort.append(...th.childNodes);
      th.append(sort);
    }
  }

  // The finder on the home page.
  const table = id("table"), input = id("q"), found = id("found"), menus = ["family", "script"].map(id).filter(Boolean);
  let state = readHash(), rows = [], original = [], timer, frame = 0;
  // Rows that come back cost the browser a third of a millisecond each: the first at once, the others frame by frame below them.
  const reveal = coming => {
    cancelAnimationFrame(frame);
    for (const row of coming.splice(0, 12)) { row.hidden = false; }
    if (coming.length) { frame = requestAnimationFrame(() => reveal(coming)); }
  };
  const filter = () => {
    const coming = [], known = new Map(rows.map(r => [r.row, r]));
    const wanted = plain(input.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const r = known.get(row), keep = menus.every(menu => !menu.value || r[menu.id] === menu.value) && wanted.every(word => r.text.includes(word));
      if (!keep) { row.hidden = true; } else if (row.hidden) { coming.push(row); }
      shown += keep;
    }
    reveal(coming);
    const total = rows.length;
    found.textContent = shown === total ? tn(total, "{n} language", "{n} languages")
      : shown ? tn(total, "{shown} of {n} language", "{shown} of {n} languages", { shown: integer(shown) })
        : t("No language matches. Try a code such as “mlt”, a script or a family.");
    state.q = input.value;
    for (const menu of menus) { state[menu.id] = menu.value; }
  };
  // While rows come and go, columns keep their widths: they do not jump, and the browser need not measure every cell again.
  const loose = () => { table.style.tableLayout = table.style.width = ""; all("thead th", table).forEach(th => { th.style.width = ""; }); };
  const fix = () => {
    if (table.style.tableLayout) { return; }
    const widths = all("thead th", table).map(th => [th, th.offsetWidth]), width = table.offsetWidth;
    for (const [th, w] of widths) { th.style.width = w + "px"; }
    table.style.width = width + "px";
    table.style.tableLayout = "fixed";
  };
  const filterAndKeep = () => {
    fix();
    filter();
    clearTimeout(timer);
    timer = setTimeout(() => writeHash(state), 150);
  };
  const clear = () => { input.value = ""; menus.forEach(menu => { menu.value = ""; }); filterAndKeep(); };
  const restore = () => {
    const wanted = readHash();
    if (!["q", "family", "script", "sort"].some(key => key in wanted) && location.hash.length > 1) { return; }
    state = wanted;
    input.value = state.q || "";
    for (const menu of menus) {
      menu.value = state[menu.id] || "";
      if (menu.selectedIndex < 0) { menu.value = ""; }
    }
    if (state.sort) {
      const [key, direction] = state.sort.split(":");
      sortTable(table, key.replace(/\W/g, ""), direction === "ascending" ? "ascending" : "descending");
    } else if (table.querySelector("th[aria-sort]")) {
      table.tBodies[0].append(...original);
      all("th[aria-sort]", table).forEach(th => th.removeAttribute("aria-sort"));
    }
    filter();
  };
  if (table && input && found) {
    original = Array.from(table.tBodies[0].rows);
    rows = original.map(row => ({
      row, family: row.getAttribute("data-f"), script: row.getAttribute("data-script"), text: plain(row.getAttribute("data-s")),
    }));
    input.addEventListener("input", filterAndKeep);
    // Measured before anybody types, so that the first letter does not wait for it.
    input.addEventListener("focus", fix);
    menus.forEach(menu => menu.addEventListener("change", filterAndKeep));
    input.addEventListener("keydown", e => {
      const first = table.querySelector("tbody tr:not([hidden]) th a");
      if (e.key === "Enter" && !e.isComposing && first && input.value) { e.preventDefault(); first.focus(); }
    });
    addEventListener("hashchange", restore);
    addEventListener("resize", loose);
    restore();
    if (location.hash === "#q=") { input.focus(); }
  }

  // Keys. Those of one letter can be switched off in the footer (WCAG 2.1.4).
  const box = id("shortcut");
  const stored = set => {
    try {
      if (set === undefined) { return localStorage.getItem("neuroglot-keys") !== "off"; }
      localStorage.setItem("neuroglot-keys", set ? "on" : "off");
    } catch (e) { return true; }
  };
  if (box) {
    box.checked = stored();
    box.addEventListener("change", () => stored(box.checked));
  }
  const help = () => {
    const row = (keys, what) => el("div", null, el("dt", null, keys.map((key, i) => [i ? " " : "", el("kbd", null, key)])), el("dd", null, what));
    const rows = [row(["/"], t("Search the languages"))];
    if (doc.querySelector("a[rel=prev],a[rel=next]")) { rows.push(row(["←", "→"], t("Previous and next language"))); }
    if (doc.querySelector("[data-map],#compare-out")) {
      rows.push(row(["+", "−", "0"], t("On the zoomed map: closer, further, whole map")),
        row(["←", "→", "↑", "↓"], t("On the zoomed map: to the next neuron or layer")),
        row(["Shift ←", "Shift →"], t("On the zoomed map: to the next neuron that serves the language")),
        row(["Enter"], t("On the zoomed map: open the neuron")));
    }
    rows.push(row(["?"], t("This help")), row(["Esc"], t("Close, or clear the search")));
    const dialog = el("dialog", { class: "help", "aria-labelledby": "help-title" },
      el("h2", { id: "help-title" }, t("Keys")), el("dl", { class: "rows" }, rows),
      el("p", { class: "quiet" }, t("Keys of a single letter or sign can be switched off at the foot of the page.")),
      el("form", { method: "dialog" }, el("button", { class: "tool" }, t("Close"))));
    dialog.addEventListener("close", () => dialog.remove());
    doc.body.append(dialog);
    dialog.showModal();
  };
  if (box) { box.closest("p").append(" ", button(t("All keys"), help, { class: "tool" })); }
  doc.addEventListener("keydown", e => {
    const target = e.target, typing = /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) && target.type !== "checkbox" || target.isContentEditable;
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || doc.querySelector("dialog[open]")) { return; }
    if (e.key === "Escape" && input && (input.value || menus.some(menu => menu.value)) && (!typing || target === input)) {
      e.preventDefault();
      clear();
    }
    if (typing || box && !box.checked) { return; }
    if (e.key === "/") {
      e.preventDefault();
      if (input) { input.focus(); input.select(); } else { location.href = doc.querySelector(".brand").getAttribute("href") + "#q="; }
    } else if (e.key === "?") {
      e.preventDefault();
      help();
    } else if (/^Arrow(Left|Right)$/.test(e.key) && !e.shiftKey && !target.closest("[tabindex='0'],input,summary")) {
      // Not where the arrows scroll a table or move a cursor; towards the next language, whichever way the page reads.
      const forward = (e.key === "ArrowRight") === (root.dir !== "rtl");
      const link = doc.querySelector(forward ? "a[rel=next]" : "a[rel=prev]");
      if (link) { link.click(); }
    }
  });

  // Snippets get a button that copies them.
  const copy = (text, node, say) => {
    const select = () => { getSelection().selectAllChildren(node); say(t("Selected")); };
    if (navigator.clipboard) { navigator.clipboard.writeText(text).then(() => say(t("Copied")), select); } else { select(); }
  };
  ATLAS.copy = copy;
  for (const pre of all("pre.code")) {
    const say = text => { copier.textContent = text; setTimeout(() => { copier.textContent = t("Copy"); }, 1600); };
    const copier = button(t("Copy"), () => copy(pre.textContent, pre, say), { class: "copy", "aria-label": t("Copy: {what}", { what: pre.getAttribute("aria-label") || "" }) });
    const wrap = el("div", { class: "codebox" });
    pre.replaceWith(wrap);
    wrap.append(copier, pre);
  }

  // A figure as PNG: its caption, its drawings and their notes, painted on a canvas twice as fine as the screen.
  const styles = ["fill", "stroke", "stroke-width", "stroke-linecap", "stroke-dasharray", "stroke-opacity", "fill-opacity", "opacity", "vector-effect", "font-family", "font-size", "font-weight", "text-anchor", "display", "visibility"];
  const standing = svg => {
    const copied = svg.cloneNode(true), from = [svg, ...all("*", svg)], to = [copied, ...all("*", copied)];
    from.forEach((node, i) => {
      const computed = getComputedStyle(node);
      for (const name of styles) { to[i].style.setProperty(name, computed.getPropertyValue(name)); }
    });
    const { width, height } = svg.getBoundingClientRect();
    copied.setAttribute("xmlns", "http:" + "//www.w3.org/2000/svg");
    copied.setAttribute("width", width);
    copied.setAttribute("height", height);
    copied.style.overflow = "visible";
    return new XMLSerializer().serializeToString(copied);
  };
  const pictured = svg => {
    const image = new Image();
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(standing(svg));
    return image.decode().then(() => image);
  };
  const wrapped = (paint, text, width) => {
    const lines = [""];
    for (const word of text.split(/\s+/)) {
      const longer = (lines[lines.length - 1] + " " + word).trim();
      if (paint.measureText(longer).width > width && lines[lines.length - 1]) { lines.push(word); } else { lines[lines.length - 1] = longer; }
    }
    return lines;
  };
  const keep = (blob, name) => {
    const link = el("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    return blob;
  };
  ATLAS.save = (canvas, name) => new Promise(done => canvas.toBlob(blob => done(keep(blob, name + ".png")), "image/png"));
  // Figures that are drawn here have no files: a table and a drawing become some.
  ATLAS.table = (name, rows) => keep(new Blob([rows.map(row => row.map(cell => /[",\n]/.test(cell) ? '"' + String(cell).replaceAll('"', '""') + '"' : cell).join(",")).join("\n") + "\n"], { type: "text/csv" }), name + ".csv");
  ATLAS.drawing = (name, svg) => keep(new Blob([standing(svg)], { type: "image/svg+xml" }), name + ".svg");
  const png = async (figure, name) => {
    const shown = node => { const box = node.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
    const drawings = all("svg,canvas", figure).filter(node => shown(node) && !node.closest("button,.key,.get,.under,table,details"));
    const notes = all(".axis-note", figure).flatMap(note => note.children.length ? [...note.children] : [note]).filter(shown), caption = figure.querySelector("figcaption");
    const boxes = [...drawings, ...notes].map(node => node.getBoundingClientRect());
    const left = Math.min(...boxes.map(b => b.left)), top = Math.min(...boxes.map(b => b.top));
    const width = Math.max(...boxes.map(b => b.right)) - left, height = Math.max(...boxes.map(b => b.bottom)) - top;
    const page = getComputedStyle(doc.body), margin = 16, canvas = el("canvas"), paint = canvas.getContext("2d");
    const font = "600 15px " + getComputedStyle(caption || figure).fontFamily;
    paint.font = font;
    const lines = caption ? wrapped(paint, caption.textContent.trim(), width) : [], head = lines.length * 21 + (lines.length ? 12 : 0);
    canvas.width = 2 * (width + 2 * margin);
    canvas.height = 2 * (height + head + 2 * margin + 18);
    paint.scale(2, 2);
    paint.fillStyle = page.backgroundColor;
    paint.fillRect(0, 0, canvas.width, canvas.height);
    paint.translate(margin, margin);
    paint.direction = root.dir === "rtl" ? "rtl" : "ltr";
    paint.textAlign = "start";
    paint.fillStyle = page.color;
    paint.font = font;
    const start = root.dir === "rtl" ? width : 0;
    lines.forEach((line, i) => paint.fillText(line, start, 15 + 21 * i));
    for (const [i, node] of [...drawings, ...notes].entries()) {
      const box = boxes[i], x = box.left - left, y = box.top - top + head;
      if (node.matches("canvas")) { paint.drawImage(node, x, y, box.width, box.height); }
      else if (node.matches("svg")) { paint.drawImage(await pictured(node), x, y, box.width, box.height); }
      else {
        const style = getComputedStyle(node);
        paint.font = style.fontSize + " " + style.fontFamily;
        paint.fillStyle = style.color;
        paint.fillText(node.textContent.replace(/\s+/g, " ").trim(), root.dir === "rtl" ? x + box.width : x, y + box.height * 0.7);
      }
    }
    paint.font = "11px " + getComputedStyle(doc.body).fontFamily;
    paint.fillStyle = page.color;
    paint.fillText(doc.title, start, height + head + 14);
    return ATLAS.save(canvas, name);
  };
  doc.addEventListener("click", e => {
    const asked = e.target.closest && e.target.closest("button[data-png]");
    if (asked) { png(asked.closest("figure"), asked.getAttribute("data-png").replace(/.*\//, "").replace(/\.svg$/, "")); }
  });
})();
