// The panel of one neuron: how often it fires in every language, sorted or by family. "#n-17-10432" opens it.
(() => {
  "use strict";
  const { t, tn, el, button, percent, integer } = ATLAS;
  const doc = document, section = ATLAS.id("neuron");
  if (!section || !ATLAS.map) { return; }
  const collator = new Intl.Collator(ATLAS.locale);
  let byFamily = false, shown = null;
  const name = language => el("bdi", { dir: "auto" }, language.name);
  const autonym = language => language.autonym && language.autonym !== language.name
    ? [el("bdi", { class: "autonym", lang: language.lang, dir: "auto" }, language.autonym), " "] : [];
  const badge = key => el("span", { class: "fam fam-" + key, "aria-hidden": "true" }, key === "other" ? "·" : key.toUpperCase());

  const row = (m, found, i, hash) => {
    const language = m.languages[i], share = ATLAS.probability(found.q[i]), here = language.code === ATLAS.map.code;
    const bar = el("span", { class: "p-bar", "aria-hidden": "true" }), fill = el("span", { class: found.serves[i] ? "p-own" : "p-rest" });
    fill.style.inlineSize = 100 * share + "%";
    bar.append(fill);
    return el("li", { class: here ? "here" : null },
      el("a", { href: language.code + ".html#" + hash, "aria-current": here ? "page" : null }, badge(language.key), " ", name(language), " ", el("span", { class: "quiet" }, autonym(language))),
      bar, el("span", { class: "num" }, percent(share), found.serves[i] ? el("span", { class: "serves" }, el("span", { "aria-hidden": "true" }, " ●"), el("span", { class: "unseen" }, " " + t("served"))) : null));
  };
  const lists = (m, found, hash) => {
    const order = m.languages.map((_, i) => i).sort((a, b) => found.q[b] - found.q[a] || collator.compare(m.languages[a].name, m.languages[b].name));
    if (!byFamily) { return [el("ol", { class: "plain p-list" }, order.map(i => row(m, found, i, hash)))]; }
    const families = new Map();
    for (const i of order) { const key = m.languages[i].family; families.set(key, [...families.get(key) || [], i]); }
    const mean = members => members.reduce((sum, i) => sum + ATLAS.probability(found.q[i]), 0) / members.length;
    return Array.from(families).sort((a, b) => mean(b[1]) - mean(a[1])).map(([family, members]) => el("div", { class: "p-family" },
      el("h4", null, badge(m.languages[members[0]].key), " ", el("bdi", { dir: "auto" }, family), " ", el("span", { class: "quiet" }, tn(members.length, "{n} language, mean {share}", "{n} languages, mean {share}", { share: percent(mean(members)) }))),
      el("ol", { class: "plain p-list" }, members.map(i => row(m, found, i, hash)))));
  };
  const sentence = (m, found) => {
    const served = m.languages.map((_, i) => i).filter(i => found.serves[i]).sort((a, b) => found.q[b] - found.q[a]), most = found.q.indexOf(Math.max(...found.q));
    const where = t("It fires most for {name}: at {share} of tokens.", { name: "\u2068" + m.languages[most].name + "\u2069", share: percent(ATLAS.probability(found.q[most])) });
    return where + " " + (served.length === 0 ? t("It serves no language at this rate.") : tn(served.length, "It serves {n} language.", "It serves {n} languages."));
  };

  // Into sight, and held there for a second and a half or until somebody moves: the page above is still being laid out when a link
  // opens it, and the browser goes to the row of that name of its own accord.
  const bring = () => {
    const end = performance.now() + 1500, moves = ["wheel", "touchstart", "pointerdown", "keydown"];
    let held = true;
    const release = () => { held = false; moves.forEach(move => removeEventListener(move, release)); };
    moves.forEach(move => addEventListener(move, release, { passive: true }));
    const hold = () => {
      if (!held || section.hidden || performance.now() > end) { release(); return; }
      const top = section.getBoundingClientRect().top;
      if (top < 0 || top > 40) { section.scrollIntoView({ block: "start", behavior: "instant" }); }
      requestAnimationFrame(hold);
    };
    hold();
  };
  const show = async (layer, within, focus) => {
    const asked = shown = {}, m = await ATLAS.map.model();
    const hash = ATLAS.neuronHash(m, layer, within);
    if (!(layer < m.layers && within < m.layerWidth)) { return; }
    const found = await m.neuron(layer, within).catch(() => null);
    if (asked !== shown) { return; }
    const heading = section.querySelector("h2") || section.appendChild(el("h2", { id: "neuron-title" }));
    heading.tabIndex = -1;
    heading.textContent = t("Neuron {id}", { id: ATLAS.neuronName(m, layer, within) });
    const body = el("div", { class: "p-body" }), said = el("span", { class: "quiet", role: "status" });
    const draw = () => { body.replaceChildren(...lists(m, found, hash)); };
    const radio = (value, text) => {
      const input = el("input", { type: "radio", name: "p-order", value: value ? "family" : "sorted", onchange: () => { byFamily = value; draw(); } });
      input.checked = byFamily === value;
      return el("label", { class: "check" }, input, " ", text);
    };
    const content = found ? [
      el("p", { class: "lead-2" }, sentence(m, found)),
      el("fieldset", { class: "p-tools" }, el("legend", { class: "unseen" }, t("Order of the languages")), radio(false, t("Sorted")), radio(true, t("By family"))),
      body,
      el("p", { class: "small" }, m.counted ? t("How often the neuron fires, as a share of each language’s tokens; rounded for display to 256 steps. A dot marks the languages that it serves at this rate.")
        : t("This atlas holds no counts: a neuron’s probability is known only for the languages that it serves.")),
    ] : [el("p", { class: "lead-2" }, t("This neuron serves no language at this rate, and this site holds the numbers of such neurons for the map only. “neuroglot site --data full” ships them for all."))];
    if (found) { draw(); }
    const tools = el("p", { class: "p-tools" },
      button(t("Copy link"), () => ATLAS.copy(location.href.split("#")[0] + "#" + hash, heading, text => { said.textContent = text; }), { class: "tool" }),
      button(t("Show on the map"), async () => { const map = await ATLAS.map.open(); if (map) { await map.show(layer, within); map.canvas.focus(); } }, { class: "tool" }),
      button(t("Close"), close, { class: "tool" }), " ", said);
    section.replaceChildren(heading, tools, ...content);
    section.hidden = false;
    section.dataset.neuron = hash;
    bring();
    if (focus) { heading.focus({ preventScroll: true }); }
  };
  const close = () => {
    const row = ATLAS.id(section.dataset.neuron), link = row && (row.querySelector("a") || row);
    section.hidden = true;
    shown = null;
    ATLAS.setHash("");
    if (link) { link.focus(); } else { ATLAS.id("main").focus(); }
  };
  const follow = async focus => {
    const parts = /^#n-(\d+)-(\d+)(?:-(\d+))?$/.exec(location.hash);
    if (!parts) { return; }
    const m = await ATLAS.map.model(), [layer, a, b] = parts.slice(1).map(Number);
    if (parts[3] === undefined) { if (m.experts === 1) { show(layer, a, focus); } } else if (m.experts > 1) { show(layer, a * m.width + b, focus); }
  };
  addEventListener("hashchange", () => follow(true));
  // A link to the neuron that is shown already: the address does not change, the panel opens again.
  doc.addEventListener("click", e => {
    const link = e.target.closest && e.target.closest("a[href^='#n-']");
    if (link && link.getAttribute("href") === location.hash) { follow(true); }
  });
  follow(true);
})();
