// Search, filter, sort and copy. Everything on the page is there without it.
(function () {
  "use strict";
  var doc = document;
  function each(selector, run, root) { Array.prototype.forEach.call((root || doc).querySelectorAll(selector), run); }

  // Letters without case and marks, on both sides of a comparison, so that "maori" finds Māori.
  function plain(text) { return text.toLowerCase().normalize("NFKD").replace(/\p{M}+/gu, ""); }

  // "#q=ber&family=a&sort=total:descending"; any other hash is an anchor.
  function readHash() {
    var state = {};
    location.hash.slice(1).split("&").forEach(function (pair) {
      var cut = pair.indexOf("=");
      if (cut < 1) { return; }
      try { state[pair.slice(0, cut)] = decodeURIComponent(pair.slice(cut + 1)); } catch (e) { /* not ours */ }
    });
    return state;
  }
  function writeHash(state) {
    var text = Object.keys(state).filter(function (k) { return state[k]; })
      .map(function (k) { return k + "=" + encodeURIComponent(state[k]).replace(/%3A/g, ":"); }).join("&");
    try { history.replaceState(null, "", text ? "#" + text : location.pathname + location.search); } catch (e) { /* the address stays as it is */ }
  }

  // Tables: a heading with data-sort becomes a button.
  var collator = new Intl.Collator("en", { sensitivity: "base", numeric: true });
  function value(cell, numeric) {
    var text = cell.hasAttribute("data-v") ? cell.getAttribute("data-v") : cell.textContent.trim();
    if (!numeric) { return text; }
    return parseFloat(text.replace(/[^\d.eE+-]/g, ""));
  }
  function sortTable(table, key, direction) {
    var head = table.querySelector('th[data-sort="' + key + '"]');
    if (!head) { return false; }
    var body = table.tBodies[0], column = head.cellIndex, sign = direction === "ascending" ? 1 : -1;
    var numeric = head.classList.contains("n") || key === "id" || key === "others";
    var rows = Array.prototype.map.call(body.rows, function (row, i) { return { row: row, i: i, v: value(row.cells[column], numeric) }; });
    rows.sort(function (a, b) {
      if (!numeric) { return sign * collator.compare(a.v, b.v) || a.i - b.i; }
      var na = isNaN(a.v), nb = isNaN(b.v);
      if (na || nb) { return na - nb || a.i - b.i; }
      return sign * (a.v - b.v) || a.i - b.i;
    });
    var fragment = doc.createDocumentFragment();
    rows.forEach(function (r) { fragment.appendChild(r.row); });
    body.appendChild(fragment);
    each("th[aria-sort]", function (th) { th.removeAttribute("aria-sort"); }, table);
    head.setAttribute("aria-sort", direction);
    return true;
  }
  function opposite(d) { return d === "ascending" ? "descending" : "ascending"; }
  each("table.sortable", function (table) {
    each("th[data-sort]", function (th) {
      var button = doc.createElement("button");
      button.type = "button";
      button.className = "sort";
      while (th.firstChild) { button.appendChild(th.firstChild); }
      th.appendChild(button);
      button.addEventListener("click", function () {
        var now = th.getAttribute("aria-sort"), key = th.getAttribute("data-sort");
        var next = now ? opposite(now) : th.getAttribute("data-first") || "descending";
        sortTable(table, key, next);
        if (table.id === "table") { state.sort = key + ":" + next; writeHash(state); }
      });
    }, table);
  });

  // The finder on the home page.
  var table = doc.getElementById("table"), input = doc.getElementById("q"), family = doc.getElementById("family"), found = doc.getElementById("found");
  var state = readHash(), rows = [], original = [], timer;
  function filter() {
    var words = plain(input.value).split(/\s+/).filter(Boolean), key = family.value, shown = 0;
    rows.forEach(function (r) {
      var keep = (!key || r.family === key) && words.every(function (w) { return r.text.indexOf(w) >= 0; });
      if (r.row.hidden === keep) { r.row.hidden = !keep; }
      if (keep) { shown += 1; }
    });
    var total = rows.length;
    found.textContent = shown === total ? total + " languages" : shown ? shown + " of " + total + " languages" : "No language matches. Try a code such as “mlt”, a script or a family.";
    state.q = input.value;
    state.family = key;
  }
  function filterAndKeep() {
    filter();
    clearTimeout(timer);
    timer = setTimeout(function () { writeHash(state); }, 150);
  }
  function clear() { input.value = ""; family.value = ""; filterAndKeep(); }
  function restore() {
    var wanted = readHash();
    if (!("q" in wanted || "family" in wanted || "sort" in wanted) && location.hash.length > 1) { return; }
    state = wanted;
    input.value = state.q || "";
    family.value = state.family || "";
    if (family.selectedIndex < 0) { family.value = ""; }
    if (state.sort) {
      var cut = state.sort.split(":");
      sortTable(table, cut[0].replace(/\W/g, ""), cut[1] === "ascending" ? "ascending" : "descending");
    } else if (table.querySelector("th[aria-sort]")) {
      original.forEach(function (row) { table.tBodies[0].appendChild(row); });
      each("th[aria-sort]", function (th) { th.removeAttribute("aria-sort"); }, table);
    }
    filter();
  }
  if (table && input) {
    original = Array.prototype.slice.call(table.tBodies[0].rows);
    rows = original.map(function (row) { return { row: row, family: row.getAttribute("data-f"), text: plain(row.getAttribute("data-s")) }; });
    input.addEventListener("input", filterAndKeep);
    family.addEventListener("change", filterAndKeep);
    input.addEventListener("keydown", function (e) {
      var first = table.querySelector("tbody tr:not([hidden]) th a");
      if (e.key === "Enter" && !e.isComposing && first && input.value) { e.preventDefault(); first.focus(); }
    });
    addEventListener("hashchange", restore);
    restore();
    if (location.hash === "#q=") { input.focus(); }
  }

  // Keys: "/" finds, Escape clears. "/" can be switched off in the footer.
  var box = doc.getElementById("shortcut");
  function stored(set) {
    try {
      if (set === undefined) { return localStorage.getItem("neuroglot-slash") !== "off"; }
      localStorage.setItem("neuroglot-slash", set ? "on" : "off");
    } catch (e) { return true; }
  }
  if (box) {
    box.checked = stored();
    box.addEventListener("change", function () { stored(box.checked); });
  }
  doc.addEventListener("keydown", function (e) {
    var typing = /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && e.target.type !== "checkbox" || e.target.isContentEditable;
    if (e.key === "/" && !typing && !e.ctrlKey && !e.metaKey && !e.altKey && (!box || box.checked)) {
      e.preventDefault();
      if (input) { input.focus(); input.select(); } else { location.href = doc.querySelector(".brand").getAttribute("href") + "#q="; }
    } else if (e.key === "Escape" && input && (input.value || family.value) && (!typing || e.target === input)) {
      e.preventDefault();
      clear();
    }
  });

  // Snippets get a button that copies them.
  each("pre.code", function (pre) {
    var wrap = doc.createElement("div"), button = doc.createElement("button");
    wrap.className = "codebox";
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy: " + pre.getAttribute("aria-label"));
    pre.parentNode.insertBefore(wrap, pre);
    wrap.appendChild(button);
    wrap.appendChild(pre);
    button.addEventListener("click", function () {
      function say(text) { button.textContent = text; setTimeout(function () { button.textContent = "Copy"; }, 1600); }
      function select() { getSelection().selectAllChildren(pre); say("Selected"); }
      if (navigator.clipboard) { navigator.clipboard.writeText(pre.textContent).then(function () { say("Copied"); }, select); } else { select(); }
    });
  });
})();
