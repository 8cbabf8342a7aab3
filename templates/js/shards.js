// Data on demand: classic scripts that call ATLAS.put("MODEL/NAME", base64 of gzip), as src/site/shards.rs describes them.
(() => {
  "use strict";
  const promises = new Map(), waiting = new Map();
  const unpack = text => {
    const packed = atob(text), bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) { bytes[i] = packed.charCodeAt(i); }
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  };
  ATLAS.put = (key, text) => { const done = waiting.get(key); if (done) { waiting.delete(key); done(unpack(text)); } };
  const load = (folder, model, name) => {
    const key = model + "/" + name;
    if (!promises.has(key)) {
      promises.set(key, new Promise((resolve, reject) => {
        waiting.set(key, resolve);
        const script = ATLAS.el("script", { src: folder + name + ".js" });
        script.onload = () => { script.remove(); if (waiting.has(key)) { reject(new Error(key)); } };
        script.onerror = () => { script.remove(); promises.delete(key); reject(new Error(key)); };
        document.head.append(script);
      }).then(buffer => new Uint8Array(buffer)));
    }
    return promises.get(key);
  };

  // Numbers that lie as planes of bytes.
  class Reader {
    constructor(bytes) { this.bytes = bytes; this.at = 0; }
    numbers(count, size) {
      const numbers = new Uint32Array(count);
      for (let plane = 0; plane < size; plane++) {
        for (let i = 0; i < count; i++) { numbers[i] |= this.bytes[this.at++] << 8 * plane; }
      }
      return numbers;
    }
    rest(count) { return this.bytes.subarray(this.at, this.at += count); }
  }

  const models = new Map();
  // One model's shards: what of it is wanted, unpacked.
  ATLAS.model = folder => {
    // ".../MODEL/shards/": the shards name themselves by their model.
    const slug = decodeURIComponent(new URL(folder, location.href).pathname.split("/").slice(-3)[0]);
    if (!models.has(slug)) {
      models.set(slug, load(folder, slug, "meta").then(bytes => {
        const meta = JSON.parse(new TextDecoder().decode(bytes)), width = meta.experts * meta.width, orders = [];
        const index = new Map(meta.languages.map((language, i) => [language.code, i]));
        return Object.assign(meta, {
          folder, slug, layerWidth: width,
          language: code => meta.languages[index.get(code)],
          index: code => index.get(code),
          // At every place round(255 √p), coarse, and how far it lies from the mean of all languages, in steps of 32.
          map: async code => {
            const [mean, map] = await Promise.all([load(folder, slug, "mean"), load(folder, slug, "map-" + code)]), apart = new Int8Array(map.buffer, map.byteOffset, map.length);
            const levels = new Uint8ClampedArray(mean.length);
            for (let i = 0; i < levels.length; i++) { levels[i] = 8 * mean[i] + 4 + 32 * apart[i]; }
            return { apart, levels };
          },
          // place -> neuron of the layer, and back; what is loaded already is given at once by `known`.
          known: layer => orders[layer],
          order: async layer => {
            if (!orders[layer]) {
              const order = new Reader(await load(folder, slug, "order-" + layer)).numbers(width, 3), places = new Uint32Array(width);
              order.forEach((within, place) => { places[within] = place; });
              orders[layer] = { order, places };
            }
            return orders[layer];
          },
          list: async code => {
            const reader = new Reader(await load(folder, slug, "list-" + code));
            const counts = reader.numbers(meta.layers, 2), n = counts.reduce((a, b) => a + b, 0);
            const places = reader.numbers(n, 3), within = reader.numbers(n, 3), served = reader.numbers(n, 2), q = reader.rest(n);
            const layers = new Uint16Array(n);
            let at = 0;
            counts.forEach((count, layer) => {
              for (let i = 0; i < count; i++, at++) {
                layers[at] = layer;
                if (i) { places[at] += places[at - 1]; }
              }
            });
            return { n, counts, layers, places, within, served, q };
          },
          // A neuron in every language by index; null where no shard holds it.
          neuron: async (layer, within) => {
            const firsts = meta.blocks[layer] || [];
            let block = firsts.length - 1;
            while (block >= 0 && firsts[block] > within) { block--; }
            if (block < 0) { return null; }
            const reader = new Reader(await load(folder, slug, "block-" + layer + "-" + block));
            const n = reader.numbers(1, 2)[0], row = reader.numbers(n, 3).indexOf(within), languages = meta.languages.length;
            if (row < 0) { return null; }
            const steps = reader.rest(n * languages), serves = reader.rest(n * Math.ceil(languages / 8));
            const q = new Uint8Array(languages), bits = new Uint8Array(languages);
            let before = 0;
            meta.leaves.forEach((language, i) => {
              before = before + steps[row * languages + i] & 255;
              q[language] = before;
              bits[language] = serves[row * Math.ceil(languages / 8) + (i >> 3)] >> (i & 7) & 1;
            });
            return { q, serves: bits };
          },
          overlap: async () => {
            const n = meta.languages.length, pairs = n * (n - 1) / 2, reader = new Reader(await load(folder, slug, "overlap"));
            const shared = reader.numbers(pairs, 3), [jaccard, coefficient, cosine] = [0, 1, 2].map(() => reader.numbers(pairs, 2));
            const measures = { jaccard, coefficient, cosine }, at = (a, b) => a < b ? a * (2 * n - a - 1) / 2 + b - a - 1 : at(b, a);
            return (a, b) => {
              const pair = { shared: shared[at(a, b)] };
              for (const name in measures) { const v = measures[name][at(a, b)]; pair[name] = v === 65535 ? null : v / 10000; }
              return pair;
            };
          },
        });
      }));
    }
    return models.get(slug);
  };
  ATLAS.probability = q => q * q / 65025;
  // A neuron's name and permanent link.
  ATLAS.neuronName = (model, layer, within) => model.experts > 1
    ? "L" + layer + "·E" + Math.floor(within / model.width) + "·N" + within % model.width : "L" + layer + "·N" + within;
  ATLAS.neuronHash = (model, layer, within) => "n-" + layer + "-" + (model.experts > 1
    ? Math.floor(within / model.width) + "-" + within % model.width : within);
})();
