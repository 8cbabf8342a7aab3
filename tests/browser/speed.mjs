// node speed.mjs SITE [--out FILE] [--no-lighthouse]: figures of a site in a browser, printed and never judged.
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { flags, kinds, launch, profile, program, serve } from "./browser.mjs";

const site = process.argv[2], out = process.argv.includes("--out") ? process.argv[process.argv.indexOf("--out") + 1] : null;
if (!site || !existsSync(join(site, "index.html")) || !program) { console.error("give the folder of a rendered site, and install chromium"); process.exit(2); }
const { found, model, sizes } = kinds(site), server = await serve(site), browser = await launch(), figures = {};
const say = (name, value) => { figures[name] = value; console.log(name.padEnd(44) + value); };
const packed = path => gzipSync(readFileSync(path)).length;
const size = (folder, total = { files: 0, bytes: 0 }) => {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) { size(join(folder, entry.name), total); } else { total.files += 1; total.bytes += statSync(join(folder, entry.name)).size; }
  }
  return total;
};
const median = values => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

const whole = size(site);
say("site, MB", (whole.bytes / 1e6).toFixed(1));
say("site, files", whole.files);
say("shards of one model, MB", (size(join(site, model, "shards")).bytes / 1e6).toFixed(1));
const assets = readdirSync(join(site, "assets"));
for (const kind of ["css", "js"]) { say(kind + ", gz bytes in all", assets.filter(name => name.endsWith("." + kind) && !name.startsWith("words")).reduce((sum, name) => sum + packed(join(site, "assets", name)), 0)); }

// What goes over the wire before anybody touches the page, as the browser counts it.
for (const kind of ["home", "language", "model-overlap", "model-compare"]) {
  const context = await browser.newContext(), page = await context.newPage(), client = await context.newCDPSession(page);
  let bytes = 0;
  await client.send("Network.enable");
  client.on("Network.loadingFinished", event => { bytes += event.encodedDataLength; });
  await page.goto(server.url + found[kind], { waitUntil: "networkidle" });
  say(kind + ", gz bytes before interaction", bytes);
  await context.close();
}

{
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } }), page = await context.newPage();
  await page.goto(server.url + "index.html");
  const keys = await page.evaluate(() => {
    const input = document.getElementById("q"), times = [];
    for (let round = 0; round < 5; round++) {
      for (const text of ["s", "sw", "swa", "", "a", "ar", "ara", "arab", "", "x"]) {
        const start = performance.now();
        input.value = text;
        input.dispatchEvent(new Event("input"));
        document.body.offsetHeight;
        times.push(performance.now() - start);
      }
    }
    return times;
  });
  say("search keystroke with layout, ms median", median(keys).toFixed(2));
  say("search keystroke with layout, ms worst", Math.max(...keys).toFixed(2));
  await context.close();
}

{
  const zooms = [];
  let frames = null;
  for (let round = 0; round < 3; round++) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 } }), page = await context.newPage();
    await page.goto(server.url + found.language, { waitUntil: "networkidle" });
    await page.locator("figure[data-map] .map-tools button").first().click();
    await page.waitForFunction(() => document.querySelector("figure[data-map]").dataset.opened);
    zooms.push(await page.evaluate(() => +document.querySelector("figure[data-map]").dataset.opened));
    if (round === 2) {
      // In, across and out again for four seconds; every frame of the browser in which the map was drawn counts.
      frames = await page.evaluate(async () => {
        const map = await ATLAS.map.open(), gaps = [], work = [], paint = map.paint.bind(map);
        map.paint = () => { const start = performance.now(); paint(); work.push(performance.now() - start); };
        let last = 0, drawn = map.frames, count = 0;
        const begin = performance.now();
        await new Promise(done => {
          const step = now => {
            if (last) { gaps.push(now - last); }
            last = now;
            const part = (now - begin) / 4000, scale = map.smallest() * (24 / map.smallest()) ** (0.5 - 0.5 * Math.cos(part * 4 * Math.PI));
            map.to(map.width * (0.3 + 0.2 * Math.sin(part * 9)) - map.pixels / scale / 2, scale, true);
            count += 1;
            if (part < 1) { requestAnimationFrame(step); } else { done(); }
          };
          requestAnimationFrame(step);
        });
        const seconds = (performance.now() - begin) / 1000;
        gaps.sort((a, b) => a - b);
        work.sort((a, b) => a - b);
        return { rate: (map.frames - drawn) / seconds, asked: count / seconds, slow: gaps[Math.floor(gaps.length * 0.95)], work: work[Math.floor(work.length / 2)], worst: work[Math.floor(work.length * 0.99)] };
      });
    }
    await context.close();
  }
  say("first zoom with its loading, ms median of 3", median(zooms));
  say("frames/s while zooming", frames.rate.toFixed(1));
  say("frame gap, ms 95th percentile", frames.slow.toFixed(1));
  say("work per frame, ms median", frames.work.toFixed(2));
  say("work per frame, ms 99th percentile", frames.worst.toFixed(2));
}
await browser.close();

if (!process.argv.includes("--no-lighthouse")) {
  const [{ default: lighthouse, desktopConfig }, { launch: chrome }] = [await import("lighthouse"), await import("chrome-launcher")];
  for (const kind of ["home", "language", "model-compare", "model-overlap"]) {
    for (const [form, config] of [["mobile", undefined], ["desktop", desktopConfig]]) {
      const runs = [];
      for (let round = 0; round < 3; round++) {
        const started = await chrome({ chromePath: program, chromeFlags: flags, userDataDir: profile(), logLevel: "silent" });
        const { lhr } = await lighthouse(server.url + found[kind], { port: started.port, logLevel: "silent", output: "json" }, config);
        runs.push(lhr);
        await started.kill();
      }
      const score = name => Math.round(100 * median(runs.map(run => run.categories[name].score)));
      const of = name => median(runs.map(run => run.audits[name].numericValue));
      say("Lighthouse " + kind + " " + form, ["performance", "accessibility", "best-practices", "seo"].map(name => score(name)).join(" ") + ", LCP " + Math.round(of("largest-contentful-paint")) + " ms, CLS " + of("cumulative-layout-shift").toFixed(3) + ", TBT " + Math.round(of("total-blocking-time")) + " ms");
      const missed = Object.values(runs[0].audits).filter(audit => audit.score !== null && audit.score < 0.9 && ["binary", "metricSavings"].includes(audit.scoreDisplayMode)).map(audit => audit.id);
      if (missed.length) { console.log("".padEnd(44) + "below: " + missed.join(", ")); }
    }
  }
}
server.close();
const machine = cpus()[0].model.trim() + ", " + cpus().length + " processors";
console.log(machine);
if (out) { writeFileSync(out, JSON.stringify({ machine, languages: sizes.length, figures }, null, 2) + "\n"); }
