// The neuron map on a canvas: layers from bottom to top, a layer's neurons from left to right, in two lanes: above how often each
// fires, below marks for those that serve the language. A pyramid of maxima makes every frame cost as much as the screen is wide.
(() => {
  "use strict";
  const { t, tn, el, button, percent, integer } = ATLAS;
  const doc = document, still = matchMedia("(prefers-reduced-motion: reduce)");
  const cividis = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];
  const between = (stops, x) => {
    const at = Math.min(Math.floor(x * (stops.length - 1)), stops.length - 2), part = x * (stops.length - 1) - at;
    return stops[at].map((v, i) => Math.round(v + (stops[at + 1][i] - v) * part));
  };
  const pack = ([r, g, b], a = 255) => (a << 24 | b << 16 | g << 8 | r) >>> 0;
  // A token of the style sheet as numbers: the browser itself reads the colour.
  const token = name => {
    const paint = el("canvas", { width: 1, height: 1 }).getContext("2d");
    paint.fillStyle = getComputedStyle(doc.documentElement).getPropertyValue(name).trim() || "#888";
    paint.fillRect(0, 0, 1, 1);
    return Array.from(paint.getImageData(0, 0, 1, 1).data.slice(0, 3));
  };
  const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

  // Rows of bytes and their halves: entry i of level k is the entry of 2^k neurons that matters most.
  const pyramid = (rows, width, matters) => {
    const levels = [{ data: rows, width }], layers = rows.length / width;
    while (levels[levels.length - 1].width > 1) {
      const below = levels[levels.length - 1], half = Math.ceil(below.width / 2), data = new Uint8Array(half * layers);
      for (let row = 0; row < layers; row++) {
        for (let i = 0; i < half; i++) {
          const a = below.data[row * below.width + 2 * i], b = 2 * i + 1 < below.width ? below.data[row * below.width + 2 * i + 1] : a;
          data[row * half + i] = matters[a] >= matters[b] ? a : b;
        }
      }
      levels.push({ data, width: half });
    }
    return levels;
  };
  const upward = Uint8Array.from({ length: 256 }, (_, v) => v), outward = upward.map(v => Math.abs(v - 128));

  // options: model, heat() -> { values, kind: "level" | "difference" }, marks, sentence(layer, place, within), open(layer, within)
  class NeuronMap {
    constructor(options) {
      Object.assign(this, options);
      const { model } = this;
      this.width = model.layerWidth;
      this.layers = model.layers;
      this.rowHeight = ATLAS.rowHeight(this.layers);
      this.left = 0;
      this.scale = 0;
      this.byIndex = false;
      this.cursor = null;
      this.canvas = el("canvas", { tabindex: "0", role: "application", "aria-roledescription": t("zoomable map"), "aria-label": this.label });
      this.tip = el("p", { class: "tip", "aria-hidden": "true", hidden: true });
      this.line = el("p", { class: "zoom-line", role: "status" }, t("Arrow keys move, plus and minus zoom, Enter opens a neuron."));
      this.box = el("div", { class: "zoom-box" }, this.canvas, this.tip);
      this.frame = el("div", { class: "zoom-frame", dir: "ltr" }, ATLAS.axis(this.layers, this.rowHeight), this.box);
      this.strip = el("canvas", { class: "zoom-overview", "aria-hidden": "true" });
      this.tools = el("div", { class: "zoom-tools", role: "group", "aria-label": t("Map") },
        button("+", () => this.zoom(2), { class: "tool", "aria-label": t("Closer") }),
        button("−", () => this.zoom(0.5), { class: "tool", "aria-label": t("Further") }),
        button(t("Whole map"), () => this.to(0, this.smallest()), { class: "tool" }), this.menu());
      this.element = el("div", { class: "zoom" }, el("p", { class: "axis-note" }, t("↑ last layer ({layer})", { layer: this.layers - 1 })), this.frame,
        el("p", { class: "axis-note" }, t("↓ first layer (0)")), this.strip, this.line, this.legend = el("p", { class: "zoom-key" }));
      this.listen();
    }

    // Colour and order.
    menu() {
      const choice = (label, values, act) => {
        const select = el("select", { onchange: () => act(select.value) }, values.map(([value, text]) => el("option", { value }, text)));
        return el("label", { class: "choice" }, label + " ", select);
      };
      return [this.heats.length > 1 && choice(t("Colour"), this.heats.map((heat, i) => [i, heat.name]), value => this.colour(+value)),
        choice(t("Order"), [["like", t("like beside like")], ["index", t("by index")]], value => this.arrange(value === "index"))];
    }

    async start(view) {
      await this.colour(0);
      if (view) { this.left = view[0]; this.scale = view[1]; }
      this.resize();
      new ResizeObserver(() => this.resize()).observe(this.box);
      return this;
    }

    async colour(which) {
      this.heat = this.heats[which];
      this.values = await this.heat.values();
      await this.build();
    }

    async arrange(byIndex) {
      if (byIndex) { await Promise.all(Array.from({ length: this.layers }, (_, layer) => this.model.order(layer))); }
      this.byIndex = byIndex;
      await this.build();
    }

    // Place on the map now -> place in the seriation.
    place(layer, x) { return this.byIndex ? this.model.known(layer).places[x] : x; }

    build() {
      const { width, layers } = this, marks = new Uint8Array(width * layers);
      let values = this.values;
      for (const mark of this.marks) { marks[mark.layer * width + mark.place] = mark.kind; }
      this.own = Array.from({ length: layers }, () => []);
      if (this.byIndex) {
        const move = rows => {
          const moved = new Uint8Array(rows.length);
          for (let layer = 0; layer < layers; layer++) {
            const { order } = this.model.known(layer);
            for (let place = 0; place < width; place++) { moved[layer * width + order[place]] = rows[layer * width + place]; }
          }
          return moved;
        };
        values = move(values);
        this.shownMarks = move(marks);
      } else {
        this.shownMarks = marks;
      }
      for (let layer = 0; layer < layers; layer++) {
        for (let x = 0; x < width; x++) { if (this.shownMarks[layer * width + x]) { this.own[layer].push(x); } }
      }
      this.shown = values;
      this.heatLevels = pyramid(values, width, this.heat.difference ? outward : upward);
      this.markLevels = pyramid(this.shownMarks, width, upward);
      this.paints();
      this.legends();
      this.draw();
    }

    paints() {
      const paper = token("--paper"), raised = token("--raised"), own = token("--own"), shared = token("--shared");
      const ramp = this.heat.difference ? x => between([own, raised, shared].reverse(), x) : x => between(cividis, x);
      this.heatPaint = Uint32Array.from({ length: 256 }, (_, v) => pack(this.heat.difference ? ramp(clamp((v - 128) / 20 + 0.5, 0, 1)) : ramp(v / 255)));
      this.tall = Uint32Array.from([0, 0, pack(own), pack(own)]);
      this.low = Uint32Array.from([0, pack(shared), pack(own), pack(own)]);
      if (this.markPaint) { const m = this.markPaint({ own, shared }); this.tall = m.tall; this.low = m.low; }
      this.paper = "rgb(" + paper + ")";
      this.focus = getComputedStyle(doc.documentElement).getPropertyValue("--focus");
      this.ink = getComputedStyle(doc.documentElement).getPropertyValue("--ink");
    }

    legends() {
      const bar = el("canvas", { width: 128, height: 10, "aria-hidden": "true" }), paint = bar.getContext("2d"), image = paint.createImageData(128, 10);
      const pixels = new Uint32Array(image.data.buffer);
      for (let i = 0; i < pixels.length; i++) {
        const x = i % 128;
        pixels[i] = this.heatPaint[this.heat.difference ? Math.round(118 + 20 * x / 127) : Math.round(255 * x / 127)];
      }
      paint.putImageData(image, 0, 0);
      this.legend.replaceChildren(this.heat.difference ? this.heat.low + " " : percent(0) + " ", bar, this.heat.difference ? " " + this.heat.high : " " + percent(1) + " · " + t("in the middle {share}", { share: percent(0.25) }), " · ", t("rounded for display"), " · ", this.markKey);
    }

    smallest() { return this.pixels / this.width; }

    resize() {
      const css = this.box.clientWidth, fine = Math.min(devicePixelRatio || 1, 2);
      if (!css) { return; }
      const whole = !this.pixels || this.scale <= this.smallest() * 1.001;
      this.pixels = Math.round(css);
      this.fine = fine;
      this.canvas.width = this.strip.width = Math.round(this.pixels * fine);
      this.canvas.height = Math.round(this.layers * this.rowHeight * fine);
      this.canvas.style.height = this.layers * this.rowHeight + "px";
      this.strip.height = 6;
      if (whole && !(this.scale > this.smallest() * 1.001)) { this.scale = this.smallest(); this.left = 0; }
      this.bound();
      this.buffer = null;
      this.draw();
    }

    bound() {
      this.scale = clamp(this.scale, this.smallest(), Math.max(24, this.smallest()));
      this.left = clamp(this.left, 0, Math.max(0, this.width - this.pixels / this.scale));
    }

    // Zooms by a factor about a point of the screen: the cursor, or the middle.
    zoom(factor, about) {
      const x = about ?? (this.cursor && this.visible(this.cursor.x) ? (this.cursor.x + 0.5 - this.left) * this.scale : this.pixels / 2);
      const target = this.target || this, scale = clamp(target.scale * factor, this.smallest(), Math.max(24, this.smallest()));
      this.to(target.left + x / target.scale - x / scale, scale);
    }

    visible(x) { return x >= this.left && x < this.left + this.pixels / this.scale; }

    to(left, scale, at_once) {
      left = clamp(left, 0, Math.max(0, this.width - this.pixels / scale));
      if (at_once || still.matches) { this.target = null; this.left = left; this.scale = scale; this.bound(); this.draw(); return; }
      const from = { left: this.left, scale: this.scale, time: performance.now() };
      this.target = { left, scale };
      const target = this.target, step = now => {
        if (this.target !== target) { return; }
        const part = clamp((now - from.time) / 160, 0, 1), ease = part * (2 - part);
        this.scale = from.scale * (scale / from.scale) ** ease;
        // The point that stays in its place stays in it all the way.
        const fixed = Math.abs(scale - from.scale) < 1e-9 ? null : (from.left * from.scale - left * scale) / (from.scale - scale);
        this.left = fixed === null ? from.left + (left - from.left) * ease : fixed - (fixed - from.left) * from.scale / this.scale;
        if (part === 1) { this.left = left; this.scale = scale; this.target = null; }
        this.bound();
        this.paint();
        if (part < 1) { requestAnimationFrame(step); } else { this.keep(); }
      };
      requestAnimationFrame(step);
    }

    draw() {
      if (!this.drawing) { this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.paint(); }); }
      this.keep();
    }

    keep() {
      clearTimeout(this.keeping);
      this.keeping = setTimeout(() => this.moved && this.moved(this), 250);
    }

    paint() {
      if (!this.pixels || !this.heatLevels) { return; }
      const { canvas, layers, fine, width } = this, paint = canvas.getContext("2d"), columns = canvas.width;
      if (!this.buffer) {
        this.buffer = el("canvas", { width: columns, height: 3 * layers });
        this.image = this.buffer.getContext("2d").createImageData(columns, 3 * layers);
        this.words = new Uint32Array(this.image.data.buffer);
      }
      const per = 1 / (this.scale * fine), level = clamp(Math.floor(Math.log2(per)), 0, this.heatLevels.length - 1);
      const heat = this.heatLevels[level], marks = this.markLevels[level], matters = this.heat.difference ? outward : upward, { words } = this;
      for (let x = 0; x < columns; x++) {
        const from = this.left + x * per, first = clamp(Math.floor(from), 0, width - 1) >> level;
        const last = Math.max(first, clamp(Math.ceil(from + per) - 1, 0, width - 1) >> level);
        for (let layer = 0; layer < layers; layer++) {
          let h = heat.data[layer * heat.width + first], m = marks.data[layer * heat.width + first];
          for (let i = first + 1; i <= last; i++) {
            const other = heat.data[layer * heat.width + i];
            if (matters[other] > matters[h]) { h = other; }
            m = Math.max(m, marks.data[layer * heat.width + i]);
          }
          const row = 3 * (layers - 1 - layer) * columns + x;
          words[row] = this.heatPaint[h];
          words[row + columns] = this.tall[m];
          words[row + 2 * columns] = this.low[m];
        }
      }
      this.buffer.getContext("2d").putImageData(this.image, 0, 0);
      paint.imageSmoothingEnabled = false;
      paint.fillStyle = this.paper;
      paint.fillRect(0, 0, columns, canvas.height);
      const row = this.rowHeight * fine, lane = [0.5, 0.2, 0.2].map(part => Math.round(part * row));
      for (let r = 0; r < layers; r++) {
        let y = Math.round(r * row) + Math.round(0.06 * row);
        lane.forEach((height, i) => { paint.drawImage(this.buffer, 0, 3 * r + i, columns, 1, 0, y, columns, height); y += height; });
      }
      const cell = this.scale * fine;
      if (cell >= 6 * fine) {
        paint.fillStyle = this.paper;
        for (let x = Math.ceil(this.left); (x - this.left) * cell < columns; x++) { paint.fillRect(Math.round((x - this.left) * cell), 0, fine, canvas.height); }
      }
      if (this.cursor && this.visible(this.cursor.x)) {
        const x = (this.cursor.x - this.left) * cell, y = (layers - 1 - this.cursor.layer) * row, w = Math.max(cell, 5 * fine);
        for (const [colour, line] of [[this.paper, 5], [this.focus, 2.5]]) {
          paint.strokeStyle = colour;
          paint.lineWidth = line * fine;
          paint.strokeRect(x + cell / 2 - w / 2, y + fine, w, row - 2 * fine);
        }
      }
      const strip = this.strip.getContext("2d");
      strip.clearRect(0, 0, columns, 6);
      this.frames = (this.frames || 0) + 1;
      if (this.scale <= this.smallest() * 1.001) { return; }
      strip.fillStyle = this.ink;
      strip.globalAlpha = 0.18;
      strip.fillRect(0, 2, columns, 2);
      strip.globalAlpha = 1;
      strip.fillRect(this.left / width * columns, 0, Math.max(4 * fine, this.pixels / this.scale / width * columns), 6);
    }

    // What is under a point of the screen: in a crowd, the neuron that matters most.
    under(x, y) {
      const layer = clamp(this.layers - 1 - Math.floor(y / this.rowHeight), 0, this.layers - 1), start = clamp(Math.floor(this.left + x / this.scale), 0, this.width - 1);
      if (this.scale >= 3) { return { layer, x: start }; }
      const reach = 3 / this.scale, own = this.own[layer];
      let best = null;
      for (const at of own) { if (Math.abs(at - start) <= reach && (best === null || Math.abs(at - start) < Math.abs(best - start))) { best = at; } }
      if (best === null) {
        const matters = this.heat.difference ? outward : upward, end = Math.min(this.width, Math.max(start + 1, Math.ceil(this.left + (x + 1) / this.scale)));
        best = start;
        for (let at = start; at < end; at++) { if (matters[this.shown[layer * this.width + at]] > matters[this.shown[layer * this.width + best]]) { best = at; } }
      }
      return { layer, x: best };
    }

    async tell(layer, x) {
      const order = await this.model.order(layer), place = this.place(layer, x);
      return this.sentence(layer, place, order.order[place]);
    }

    async point(spot, speak) {
      const asked = this.asked = {};
      const text = await this.tell(spot.layer, spot.x);
      if (asked !== this.asked) { return; }
      this.tip.textContent = text;
      this.tip.hidden = false;
      const x = (spot.x + 0.5 - this.left) * this.scale, y = (this.layers - 1 - spot.layer) * this.rowHeight;
      this.tip.style.left = clamp(x - this.tip.offsetWidth / 2, 0, Math.max(0, this.pixels - this.tip.offsetWidth)) + "px";
      this.tip.style.top = (y > this.tip.offsetHeight + 8 ? y - this.tip.offsetHeight - 6 : y + this.rowHeight + 6) + "px";
      if (speak) { this.line.textContent = text; }
    }

    put(layer, x, speak = true) {
      this.cursor = { layer: clamp(layer, 0, this.layers - 1), x: clamp(x, 0, this.width - 1) };
      const span = this.pixels / this.scale;
      if (!this.visible(this.cursor.x) || this.cursor.x + 1 > this.left + span) { this.to(this.cursor.x + 0.5 - span / 2, this.scale, true); }
      this.draw();
      if (speak) { this.point(this.cursor, true); }
    }

    async enter(spot) {
      const { order } = await this.model.order(spot.layer);
      this.open(spot.layer, order[this.place(spot.layer, spot.x)]);
    }

    // Shows a neuron by its name: close enough to see it, with the cursor on it.
    async show(layer, within) {
      const { places } = await this.model.order(layer), x = this.byIndex ? within : places[within];
      if (this.scale < 6) { this.to(x + 0.5 - this.pixels / 16, 8, true); }
      this.put(layer, x, false);
    }

    listen() {
      const { canvas } = this, points = new Map();
      const local = e => { const box = canvas.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
      let dragged = 0;
      canvas.addEventListener("wheel", e => {
        const across = Math.abs(e.deltaX) > Math.abs(e.deltaY);
        // The page scrolls as ever, until somebody works on the map or asks for a zoom.
        if (!across && !e.ctrlKey && !e.metaKey && doc.activeElement !== canvas) { return; }
        e.preventDefault();
        const unit = e.deltaMode === 1 ? 16 : 1;
        if (across) { this.to(this.left + e.deltaX * unit / this.scale, this.scale, true); return; }
        const x = local(e)[0], scale = clamp(this.scale * 2 ** (-e.deltaY * unit / 180), this.smallest(), Math.max(24, this.smallest()));
        this.to(this.left + x / this.scale - x / scale, scale, true);
      }, { passive: false });
      canvas.addEventListener("pointerdown", e => {
        points.set(e.pointerId, local(e));
        if (points.size === 1) { dragged = 0; }
        canvas.setPointerCapture(e.pointerId);
      });
      canvas.addEventListener("pointermove", e => {
        const now = local(e), before = points.get(e.pointerId);
        if (!before) { if (e.pointerType !== "touch") { this.point(this.under(...now), false); } return; }
        if (points.size === 1) {
          dragged += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
          this.to(this.left - (now[0] - before[0]) / this.scale, this.scale, true);
        } else {
          dragged = 99;
          const other = Array.from(points).find(([key]) => key !== e.pointerId)[1];
          const was = Math.abs(before[0] - other[0]), is = Math.abs(now[0] - other[0]);
          if (was > 8 && is > 8) {
            const middle = (now[0] + other[0]) / 2, at = this.left + (before[0] + other[0]) / 2 / this.scale;
            const scale = clamp(this.scale * is / was, this.smallest(), Math.max(24, this.smallest()));
            this.to(at - middle / scale, scale, true);
          }
        }
        points.set(e.pointerId, now);
      });
      const up = e => {
        if (points.delete(e.pointerId) && e.type === "pointerup" && dragged < 6) {
          const spot = this.under(...local(e));
          canvas.focus({ preventScroll: true });
          this.put(spot.layer, spot.x);
          if (this.scale >= 6) { this.enter(spot); } else { this.to(spot.x + 0.5 - local(e)[0] / (this.scale * 4), clamp(this.scale * 4, this.smallest(), 24)); }
        }
      };
      canvas.addEventListener("pointerup", up);
      canvas.addEventListener("pointercancel", up);
      canvas.addEventListener("pointerleave", () => { this.asked = null; this.tip.hidden = true; });
      canvas.addEventListener("focus", () => { if (!this.cursor) { this.put(this.marks.length ? this.marks[0].layer : 0, this.marks.length ? this.own[this.marks[0].layer][0] : 0); } });
      canvas.addEventListener("blur", () => { this.tip.hidden = true; });
      canvas.addEventListener("keydown", e => {
        if (e.altKey || e.ctrlKey || e.metaKey) { return; }
        const c = this.cursor || { layer: 0, x: 0 }, own = this.own[c.layer], page = Math.max(1, Math.round(this.pixels / this.scale / 2));
        const step = Math.max(1, Math.round(2 / this.scale));
        const beside = way => way > 0 ? own.find(x => x > c.x) : own.findLast ? own.findLast(x => x < c.x) : own.filter(x => x < c.x).pop();
        const acts = {
          ArrowLeft: () => this.put(c.layer, e.shiftKey ? beside(-1) ?? c.x : c.x - step), ArrowRight: () => this.put(c.layer, e.shiftKey ? beside(1) ?? c.x : c.x + step),
          ArrowUp: () => this.put(c.layer + 1, c.x), ArrowDown: () => this.put(c.layer - 1, c.x),
          Home: () => this.put(c.layer, 0), End: () => this.put(c.layer, this.width - 1), PageUp: () => this.put(c.layer, c.x - page), PageDown: () => this.put(c.layer, c.x + page),
          "+": () => this.zoom(2), "=": () => this.zoom(2), "-": () => this.zoom(0.5), 0: () => this.to(0, this.smallest()),
          Enter: () => this.enter(c), " ": () => this.enter(c),
          Escape: () => { this.tip.hidden = true; if (this.leave) { this.leave(); } },
        };
        if (acts[e.key]) { e.preventDefault(); e.stopPropagation(); acts[e.key](); }
      });
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (this.heatLevels) { this.paints(); this.legends(); this.draw(); } });
    }
  }
  ATLAS.NeuronMap = NeuronMap;
  // Differences as a map paints them, 128 for none; of one language from the mean, or of two. (A loop: `from` with a function is ten times slower.)
  ATLAS.apart = (a, b) => {
    const values = new Uint8Array(a.length);
    for (let i = 0; i < values.length; i++) { values[i] = 128 + 2 * (b ? a[i] - b[i] : a[i]); }
    return values;
  };
  // A coarse probability: one digit of it is known.
  ATLAS.level = q => {
    const p = ATLAS.probability(q), digit = p > 0 ? 10 ** Math.floor(Math.log10(p)) : 1;
    return percent(Math.round(p / digit) * digit);
  };

  // The numbers of the layers beside a drawing: all where there is room, else every fifth and the last.
  ATLAS.svg = (name, attributes, ...children) => {
    const element = doc.createElementNS("http:" + "//www.w3.org/2000/svg", name);
    for (const key in attributes) { element.setAttribute(key, attributes[key]); }
    element.append(...children);
    return element;
  };
  ATLAS.rowHeight = layers => layers <= 8 ? 36 : layers <= 16 ? 24 : layers <= 40 ? 15 : 10;
  ATLAS.axis = (layers, height) => ATLAS.svg("svg", { class: "axis-y", width: 26, height: layers * height, "aria-hidden": "true", focusable: "false" },
    ...Array.from({ length: layers }, (_, i) => i).filter(i => layers <= 12 || i === layers - 1 || i % 5 === 0 && i < layers - 2)
      .map(i => ATLAS.svg("text", { x: 17, y: (layers - i) * height - height / 2 + 4, "text-anchor": "end" }, String(i))));

  // What a map says of a neuron in one language.
  ATLAS.said = (model, name, layer, within, q, level, served) => {
    const share = q === null ? t("about {share}", { share: ATLAS.level(level) }) : percent(ATLAS.probability(q));
    const serves = served === 0 ? t("does not serve {name} at this rate", { name }) : served === 1 ? t("serves {name} only", { name })
      : tn(served - 1, "serves {name} and {n} other language", "serves {name} and {n} other languages", { name });
    const where = model.experts > 1 ? t("Layer {layer}, expert {expert}, neuron {neuron}", { layer, expert: Math.floor(within / model.width), neuron: integer(within % model.width) })
      : t("Layer {layer}, neuron {neuron}", { layer, neuron: integer(within) });
    return t("{where}: fires at {share} of tokens; {serves}.", { where, share, serves });
  };

  // The map of a language's page.
  const figure = doc.querySelector("figure[data-map]");
  if (!figure) { return; }
  const code = figure.getAttribute("data-language"), model = () => ATLAS.model(figure.getAttribute("data-shards"));
  const fixed = figure.querySelector(".map"), tools = figure.querySelector(".map-tools");
  const opener = button(t("Zoom to single neurons"), () => open(true), { class: "tool", "aria-expanded": "false" });
  let map = null, opening = null;
  tools.prepend(opener);
  // Whoever comes near will want the data.
  for (const near of ["pointerenter", "focus"]) { opener.addEventListener(near, () => { opening = opening || create(); opening.catch(() => { opening = null; }); }); }
  const state = view => view.scale > view.smallest() * 1.01 || view.byIndex
    ? [Math.round(view.left * 10) / 10, Math.round(view.scale * 1e4) / 1e4].join(",") : "0";
  const create = async () => {
    const m = await model(), [{ levels, apart }, list] = await Promise.all([m.map(code), m.list(code)]), { name } = m.language(code), own = new Map();
    for (let i = 0; i < list.n; i++) { own.set(list.layers[i] * m.layerWidth + list.places[i], i); }
    const heats = [{ name: t("how often it fires"), values: async () => levels }];
    if (m.counted) {
      heats.push({
        name: t("against the mean of all languages"), difference: true, low: t("less than the mean"), high: t("more than the mean"),
        values: async () => ATLAS.apart(apart),
      });
    }
    return new ATLAS.NeuronMap({
      model: m, heats, markKey: t("marks below each row: tall serve {name} only, low serve others too", { name }), label: t("Neurons of {name}, layer by layer", { name }),
      marks: Array.from({ length: list.n }, (_, i) => ({ layer: list.layers[i], place: list.places[i], kind: list.served[i] === 1 ? 2 : 1 })),
      sentence: (layer, place, within) => {
        const i = own.get(layer * m.layerWidth + place);
        return ATLAS.said(m, name, layer, within, i === undefined ? null : list.q[i], levels[layer * m.layerWidth + place], i === undefined ? 0 : list.served[i]);
      },
      open: (layer, within) => { location.hash = ATLAS.neuronHash(m, layer, within); },
      moved: view => { if (!/^#n-/.test(location.hash) && opener.getAttribute("aria-expanded") === "true") { ATLAS.setHash("map=" + state(view)); } },
      leave: () => close(),
    }).start((ATLAS.readHash().map || "").split(",").map(Number).filter(v => v > 0).length === 2 ? ATLAS.readHash().map.split(",").map(Number) : null);
  };
  const open = async focus => {
    if (opener.getAttribute("aria-expanded") === "true") { close(); return map; }
    const started = performance.now();
    opener.disabled = true;
    try {
      map = await (opening = opening || create());
    } catch (e) {
      opening = null;
      tools.append(el("p", { class: "none", role: "alert" }, t("The data of this map could not be loaded: {file}", { file: e.message })));
      return null;
    } finally {
      opener.disabled = false;
    }
    opener.setAttribute("aria-expanded", "true");
    opener.textContent = t("Back to the drawing");
    if (!map.element.isConnected) { fixed.after(map.element); tools.append(map.tools); }
    fixed.hidden = true;
    map.element.hidden = map.tools.hidden = false;
    map.resize();
    map.paint();
    figure.dataset.opened = Math.round(performance.now() - started);
    if (focus) { map.canvas.focus({ preventScroll: true }); }
    return map;
  };
  const close = () => {
    fixed.hidden = false;
    map.element.hidden = map.tools.hidden = true;
    opener.setAttribute("aria-expanded", "false");
    opener.textContent = t("Zoom to single neurons");
    opener.focus();
    if (/^#map=/.test(location.hash)) { ATLAS.setHash(""); }
  };
  ATLAS.map = { open: async () => opener.getAttribute("aria-expanded") === "true" ? map : open(false), model, code };
  if (ATLAS.readHash().map !== undefined) { open(false); }
})();
