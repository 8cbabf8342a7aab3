// Two languages of a model beside each other: "#a=mlt_Latn&b=ita_Latn".
(() => {
  "use strict";
  const { t, tn, el, button, percent, integer } = ATLAS;
  const either = (...names) => names.map(ATLAS.id).find(Boolean);
  const out = either("compare-out", "compared"), place = out && out.closest("[data-shards]"), choices = [either("compare-a", "a"), either("compare-b", "b")];
  if (!place || !choices[0] || !choices[1]) { return; }
  const isolated = text => "\u2068" + text + "\u2069";
  const model = () => ATLAS.model(place.getAttribute("data-shards"));
  // Shares per layer of both languages, one line each, as the depth profiles are drawn.
  const profile = (m, a, b, names) => {
    const height = ATLAS.rowHeight(m.layers), shares = [a, b].map(list => Array.from(list.counts, count => list.n ? count / list.n : 0));
    const most = Math.max(0.01, ...shares.flat()), points = own => own.map((share, layer) => (layer ? "L" : "M") + (1000 * share / most).toFixed(1) + " " + (m.layers - layer - 0.5) * height).join("");
    const drawing = ATLAS.svg("svg", { class: "plot", width: "100%", height: m.layers * height, viewBox: "0 0 1000 " + m.layers * height, preserveAspectRatio: "none", role: "img" },
      ATLAS.svg("title", {}, t("Depth profiles of {a} and of {b}", { a: names[0], b: names[1] })), ATLAS.svg("path", { class: "grid", d: "M0 0v" + m.layers * height + "M1000 0v" + m.layers * height }),
      ATLAS.svg("path", { class: "l-b", d: points(shares[1]) }), ATLAS.svg("path", { class: "l-a", d: points(shares[0]) }));
    const key = (name, kind) => el("li", null, ATLAS.svg("svg", { width: 26, height: 14, viewBox: "0 0 26 14", "aria-hidden": "true", focusable: "false" }, ATLAS.svg("path", { class: kind, d: "M0 7h26" })), " ", name);
    const table = el("table", { class: "data" }, el("caption", null, t("Share of each language’s neurons, layer by layer")),
      el("thead", null, el("tr", null, [t("Layer"), ...names].map((text, i) => el("th", { scope: "col", class: i ? "n" : null }, text)))),
      el("tbody", null, shares[0].map((_, layer) => el("tr", null, el("th", { scope: "row" }, String(layer)), shares.map(own => el("td", { class: "n" }, percent(own[layer]))))).reverse()));
    const name = "depth-" + a.code + "-" + b.code, files = el("p", { class: "get" }, el("span", { class: "quiet" }, t("This figure:")), " ", button("SVG", () => ATLAS.drawing(name, drawing)), " ", button("PNG", null, { "data-png": name }), " ",
      button("CSV", () => ATLAS.table(name, [["layer", "share_" + a.code, "share_" + b.code], ...shares[0].map((share, layer) => [layer, share, shares[1][layer]])])));
    return [el("div", { class: "depth", dir: "ltr" }, ATLAS.axis(m.layers, height), drawing, el("p", { class: "axis-x axis-note ends" }, el("span", null, percent(0)), el("span", null, percent(most)))),
      el("ul", { class: "plain inline key" }, key(names[0], "l-a"), key(names[1], "l-b")), files, el("details", null, el("summary", null, t("The profiles as a table")), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("The profiles as a table") }, table))];
  };

  let turn = 0;
  const show = async (first, second) => {
    const mine = ++turn, m = await model();
    if (m.index(first) === undefined || m.index(second) === undefined) { return; }
    out.setAttribute("aria-busy", "true");
    const [a, b, mapA, mapB, overlap] = await Promise.all([m.list(first), m.list(second), m.map(first), m.map(second), m.overlap()]);
    if (mine !== turn) { return; }
    const languages = [first, second].map(m.language), names = languages.map(language => isolated(language.name)), [nameA, nameB] = names;
    const key = (list, i) => list.layers[i] * m.layerWidth + list.places[i], ownA = new Map(), ownB = new Map();
    for (let i = 0; i < a.n; i++) { ownA.set(key(a, i), i); }
    for (let i = 0; i < b.n; i++) { ownB.set(key(b, i), i); }
    const shared = [...ownA.keys()].filter(at => ownB.has(at)), pair = overlap(m.index(first), m.index(second));
    const finding = first === second ? t("{a} is compared with itself.", { a: nameA })
      : !a.n || !b.n ? t("{a} has no neurons at this rate: there is nothing to share.", { a: a.n ? nameB : nameA })
        : !shared.length ? t("{a} and {b} share no neuron.", { a: nameA, b: nameB })
          : tn(shared.length, "{a} and {b} share {n} neuron: {shareA} of those of {a}, {shareB} of those of {b}.", "{a} and {b} share {n} neurons: {shareA} of those of {a}, {shareB} of those of {b}.", { a: nameA, b: nameB, shareA: percent(shared.length / a.n), shareB: percent(shared.length / b.n) });
    const stat = (label, value) => el("div", null, el("dt", null, label), el("dd", null, value));
    const number = value => value === null ? "–" : value.toLocaleString(ATLAS.locale, { minimumFractionDigits: 2, maximumFractionDigits: 2, numberingSystem: "latn" });
    const marks = [...new Set([...ownA.keys(), ...ownB.keys()])].map(at => ({ layer: Math.floor(at / m.layerWidth), place: at % m.layerWidth, kind: ownA.has(at) ? ownB.has(at) ? 3 : 2 : 1 }));
    const map = new ATLAS.NeuronMap({
      model: m, marks, markKey: t("marks below each row: upper serve {a}, lower serve {b}", { a: nameA, b: nameB }), label: t("Difference between {a} and {b}, neuron by neuron", { a: nameA, b: nameB }),
      heats: [{
        name: t("difference"), difference: true, low: t("more for {name}", { name: nameB }), high: t("more for {name}", { name: nameA }),
        values: async () => ATLAS.apart(mapA.apart, mapB.apart),
      }],
      // Tall marks of the first, low ones of the second, whole ones of both.
      markPaint: ({ own, shared: other }) => {
        const colour = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
        return { tall: Uint32Array.from([0, 0, colour(own), colour(own)]), low: Uint32Array.from([0, colour(other), 0, colour(other)]) };
      },
      sentence: (layer, at, within) => {
        const i = layer * m.layerWidth + at, share = (list, own, levels) => own.has(i) ? percent(ATLAS.probability(list.q[own.get(i)])) : t("about {share}", { share: ATLAS.level(levels[i]) });
        return t("{id}: fires at {shareA} for {a}, at {shareB} for {b}.", { id: ATLAS.neuronName(m, layer, within), a: nameA, b: nameB, shareA: share(a, ownA, mapA.levels), shareB: share(b, ownB, mapB.levels) });
      },
      open: (layer, within) => { location.href = first + ".html#" + ATLAS.neuronHash(m, layer, within); },
    });
    const rows = shared.map(at => ({ layer: Math.floor(at / m.layerWidth), i: ownA.get(at), j: ownB.get(at) })).sort((x, y) => Math.min(a.q[y.i], b.q[y.j]) - Math.min(a.q[x.i], b.q[x.j])).slice(0, 50);
    const table = el("table", { class: "data" }, el("caption", null, tn(shared.length, "The neuron in common.", "{n} neurons in common; up to 50 are listed, those that fire most for both first.")),
      el("thead", null, el("tr", null, [t("Neuron"), ...names, t("Serves")].map((text, i) => el("th", { scope: "col", class: i ? "n" : null }, text)))),
      el("tbody", null, rows.map(({ layer, i, j }) => el("tr", null,
        el("th", { scope: "row" }, el("a", { href: first + ".html#" + ATLAS.neuronHash(m, layer, a.within[i]) }, ATLAS.neuronName(m, layer, a.within[i]))),
        [a.q[i], b.q[j]].map(q => el("td", { class: "n" }, percent(ATLAS.probability(q)))),
        el("td", { class: "n" }, tn(a.served[i], "{n} language", "{n} languages"))))));
    // Of a neuron that does not serve a language the list does not know how often it fires there.
    const tableOf = () => ATLAS.table("compare-" + first + "-" + second, [["layer", "neuron", "probability_" + first, "probability_" + second],
      ...marks.sort((x, y) => x.layer - y.layer || x.place - y.place).map(({ layer, place }) => {
        const at = layer * m.layerWidth + place, i = ownA.get(at), j = ownB.get(at), fires = (list, k) => k === undefined ? "" : ATLAS.probability(list.q[k]).toFixed(3);
        return [layer, i === undefined ? b.within[j] : a.within[i], fires(a, i), fires(b, j)];
      })]);
    const link = language => el("a", { href: language.code + ".html" }, el("bdi", { dir: "auto" }, language.name));
    out.replaceChildren(
      el("p", { class: "lead" }, finding),
      el("dl", { class: "stats" }, stat(t("only {name}", { name: nameA }), integer(a.n - shared.length)), stat(t("both"), integer(shared.length)), stat(t("only {name}", { name: nameB }), integer(b.n - shared.length)),
        stat("Jaccard", number(pair ? pair.jaccard : null)), stat(t("cosine of all activity"), number(pair ? pair.cosine : null))),
      el("p", null, link(languages[0]), " · ", link(languages[1])),
      el("figure", { class: "fig" }, el("figcaption", null, t("Where {a} and {b} differ: blue neurons fire more for {a}, amber ones for {b}.", { a: nameA, b: nameB })), map.tools, map.element, el("p", { class: "get" }, el("span", { class: "quiet" }, t("This figure:")), " ", button("PNG", null, { "data-png": "compare-" + first + "-" + second }), " ", button("CSV", tableOf))),
      el("figure", { class: "fig" }, el("figcaption", null, t("Where the neurons of each lie: share per layer.")), profile(m, { ...a, code: first }, { ...b, code: second }, names)),
      ...(rows.length ? [el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("Neurons in common") }, table)] : []));
    const heading = place.querySelector("h2");
    if (heading) { heading.textContent = t("{a} and {b}", { a: nameA, b: nameB }); }
    out.removeAttribute("aria-busy");
    await map.start();
    ATLAS.compared = { map, first, second };
  };
  const chosen = () => choices.map(choice => choice.value);
  const restore = () => {
    const { a, b } = ATLAS.readHash(), known = code => code && Array.from(choices[0].options).some(option => option.value === code);
    if (known(a)) { choices[0].value = a; }
    if (known(b)) { choices[1].value = b; }
    if (known(a) || known(b)) { show(...chosen()); }
  };
  choices.forEach(choice => choice.addEventListener("change", () => {
    const [a, b] = chosen();
    ATLAS.writeHash({ a, b });
    show(a, b);
  }));
  addEventListener("hashchange", restore);
  restore();
})();
