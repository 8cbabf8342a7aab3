// node run.mjs SITE [--quick] [--only NAME]: what must hold of a site in a browser. Ends with 1 where something does not.
//   --quick   every kind of page once in light mode, no validator of all pages
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileUrl, kinds, launch, pages, program, serve } from "./browser.mjs";

const require = createRequire(import.meta.url);
const axeSource = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const site = process.argv[2], quick = process.argv.includes("--quick");
const only = process.argv.includes("--only") ? process.argv[process.argv.indexOf("--only") + 1] : null;
if (!site || !existsSync(join(site, "index.html"))) { console.error("give the folder of a rendered site"); process.exit(2); }
if (!program) { console.error("no chromium is installed: set NEUROGLOT_CHROMIUM to one"); process.exit(2); }

const { found, model, sizes } = kinds(site);
const failures = [];
let checks = 0;
const fail = (what, problem) => { failures.push(what + ": " + problem); console.log("  FAIL " + what + ": " + problem); };
const check = (what, holds, problem = "") => { checks += 1; if (!holds) { fail(what, problem); } };
const section = async (name, run) => {
  if (only && only !== name) { return; }
  const start = Date.now(), before = checks;
  console.log("== " + name);
  try { await run(); } catch (error) { fail(name, error.stack); }
  console.log("   " + (checks - before) + " checks, " + ((Date.now() - start) / 1000).toFixed(1) + " s");
};
const browser = await launch();
const server = await serve(site);

// Opens a page and notes everything that it asks for and complains of.
async function open(path, options = {}, base = null, hash = "") {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options }), page = await context.newPage();
  const seen = { requests: [], errors: [] };
  page.on("request", request => seen.requests.push(request.url()));
  page.on("requestfailed", request => seen.errors.push("not loaded: " + request.url()));
  page.on("pageerror", error => seen.errors.push(String(error)));
  page.on("console", message => { if (message.type() === "error") { seen.errors.push(message.text()); } });
  await page.goto((base ? base + path : fileUrl(site, path)) + hash, { waitUntil: "load" });
  return { page, context, seen };
}

const modes = {
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  narrow: { viewport: { width: 320, height: 700 } },
  forced: { forcedColors: "active" },
  print: {},
};
const translated = path => [["ar", "ar/" + path], ["fr", "fr/" + path]].filter(([, path]) => existsSync(join(site, path)));
const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
async function axe(what, page, selector) {
  await page.evaluate(axeSource);
  const result = await page.evaluate(([tags, selector]) => self.axe.run(selector || document, { runOnly: { type: "tag", values: tags }, resultTypes: ["violations"] }), [tags, selector]);
  check(what, result.violations.length === 0, result.violations.map(v => v.id + " (" + v.nodes.length + "×): " + v.nodes[0].html.slice(0, 160) + " — " + v.nodes[0].failureSummary.split("\n").slice(1, 3).join(" ")).join("\n       "));
}

await section("accessibility", async () => {
  for (const [kind, path] of Object.entries(found)) {
    for (const [mode, options] of Object.entries(quick ? { light: modes.light } : modes)) {
      const { page, context } = await open(path, { ...options, bypassCSP: true });
      if (mode === "print") { await page.emulateMedia({ media: "print" }); }
      await axe(kind + ", " + mode, page);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (mode === "narrow") { check(kind + " fits 320 px", wide <= 0, wide + " px too wide"); }
      await context.close();
    }
    for (const [locale, other] of quick ? [] : translated(path)) {
      const { page, context } = await open(other, { bypassCSP: true });
      await axe(kind + ", " + locale, page);
      const direction = await page.evaluate(() => [document.documentElement.dir, document.documentElement.lang]);
      check(kind + ", " + locale + " direction", direction[0] === (locale === "ar" ? "rtl" : "ltr") && direction[1] === locale, direction.join());
      await context.close();
    }
  }
});

await section("nothing from elsewhere, no complaint, no shift", async () => {
  for (const [kind, path] of Object.entries(found)) {
    for (const [way, base] of [["file", null], ["http", server.url]]) {
      const context = await browser.newContext({ viewport: { width: 412, height: 823 } }), page = await context.newPage();
      const bad = [], errors = [];
      page.on("request", request => { if (!request.url().startsWith(base || "file:") && !request.url().startsWith("data:")) { bad.push(request.url()); } });
      page.on("pageerror", error => errors.push(String(error)));
      page.on("console", message => { if (message.type() === "error") { errors.push(message.text()); } });
      await page.addInitScript(() => {
        self.shift = 0;
        new PerformanceObserver(list => { for (const entry of list.getEntries()) { if (!entry.hadRecentInput) { self.shift += entry.value; } } }).observe({ type: "layout-shift", buffered: true });
      });
      await page.goto(base ? base + path : fileUrl(site, path), { waitUntil: "load" });
      await page.waitForTimeout(150);
      check(kind + " over " + way + " asks nobody else", bad.length === 0, bad.join(" "));
      check(kind + " over " + way + " has no error", errors.length === 0, errors.join(" | "));
      const shift = await page.evaluate(() => self.shift);
      check(kind + " over " + way + " stands still", shift < 0.02, "CLS " + shift.toFixed(3));
      await context.close();
    }
  }
});

await section("without JavaScript", async () => {
  for (const [kind, path] of Object.entries(found)) {
    const { page, context } = await open(path, { javaScriptEnabled: false });
    const visible = await page.locator(".js-only:visible, button:visible").count();
    check(kind + " shows no control that needs a script", visible === 0, visible + " controls");
    const text = (await page.locator("main").innerText()).trim();
    check(kind + " says something", text.length > 200, text.length + " letters");
    check(kind + " has one heading", await page.locator("h1:visible").count() === 1);
    if (kind === "home") { check("home lists every language", await page.locator("#table tbody tr:visible").count() === sizes.length); }
    if (kind === "language") {
      check("the map is drawn", await page.locator(".map svg.plot path").count() > 3);
      check("the neurons are listed", await page.locator("tr[id^=row-n-]:visible").count() > 0);
    }
    await context.close();
  }
});

await section("search, sort, keys", async () => {
  const { page, context, seen } = await open("index.html");
  const rows = page.locator("#table tbody tr:visible"), all = sizes.length;
  check("all rows at first", await rows.count() === all, await rows.count() + "");
  await page.keyboard.press("/");
  check("/ goes to the search", await page.evaluate(() => document.activeElement.id) === "q");
  await page.keyboard.type("mlt");
  check("a code finds its language", await rows.count() >= 1 && await rows.count() < 5, await rows.count() + "");
  check("the number is announced", /\d/.test(await page.locator("#found").innerText()));
  await page.keyboard.press("Enter");
  check("Enter goes to the first hit", await page.evaluate(() => document.activeElement.closest("tr") !== null));
  await page.waitForTimeout(250);
  check("the address keeps the search", page.url().includes("#q=mlt"), page.url());
  await page.locator("#q").focus();
  await page.keyboard.press("Escape");
  await page.waitForFunction(all => document.querySelectorAll("#table tbody tr:not([hidden])").length === all, all, { timeout: 5000 }).catch(() => null);
  check("Escape clears", await rows.count() === all);
  await page.locator("#q").fill("zzzz");
  check("nothing found is said", await rows.count() === 0 && (await page.locator("#found").innerText()).length > 20);
  await page.locator("#q").fill("");
  const head = page.locator("#table th[data-sort=total] button");
  await head.click();
  const values = await page.locator("#table tbody tr").evaluateAll((rows, column) => rows.map(row => parseInt(row.cells[column].textContent.replace(/\D/g, ""), 10) || 0), await page.locator("#table th[data-sort=total]").evaluate(th => th.cellIndex));
  check("a heading sorts", values.every((v, i) => !i || values[i - 1] >= v), values.slice(0, 5).join());
  check("and says so", await page.locator("#table th[data-sort=total]").getAttribute("aria-sort") === "descending");
  await page.waitForTimeout(200);
  const url = page.url();
  await page.goto("about:blank");
  await page.goto(url);
  check("the address brings the order back", await page.locator("#table th[data-sort=total]").getAttribute("aria-sort") === "descending", url);
  await page.locator("body").click({ position: { x: 2, y: 2 } });
  await page.keyboard.press("?");
  check("? opens the help", await page.locator("dialog[open]").count() === 1);
  await page.keyboard.press("Escape");
  check("Escape closes it", await page.locator("dialog[open]").count() === 0);
  await page.locator("#shortcut").uncheck();
  await page.locator("#shortcut").blur();
  await page.keyboard.press("?");
  check("keys can be switched off", await page.locator("dialog[open]").count() === 0);
  check("no errors", seen.errors.length === 0, seen.errors.join(" | "));
  await context.close();

  const slow = await open("index.html");
  const longest = await slow.page.evaluate(() => {
    const input = document.getElementById("q");
    let worst = 0;
    for (const text of ["s", "sw", "swa", "", "arab", "arabi", "x"]) {
      const start = performance.now();
      input.value = text;
      input.dispatchEvent(new Event("input"));
      worst = Math.max(worst, performance.now() - start);
    }
    return worst;
  });
  console.log("   search: " + longest.toFixed(2) + " ms at most per keystroke");
  await slow.context.close();

  const middle = sizes.map(s => s.file).find(file => readFileSync(join(site, file), "utf8").includes('rel="next"') && readFileSync(join(site, file), "utf8").includes('rel="prev"'));
  if (middle) {
    const walk = await open(middle);
    await walk.page.keyboard.press("ArrowRight");
    await walk.page.waitForURL(url => url.href !== fileUrl(site, middle));
    await walk.page.keyboard.press("ArrowLeft");
    await walk.page.waitForURL(fileUrl(site, middle));
    check("arrow keys go to the next language and back", walk.page.url() === fileUrl(site, middle), walk.page.url());
    await walk.context.close();
  }
});

await section("copies and pictures", async () => {
  const { page, context } = await open(found.language, { permissions: ["clipboard-read", "clipboard-write"], acceptDownloads: true }, server.url);
  await page.locator(".codebox button").first().click();
  const copied = await page.evaluate(() => navigator.clipboard.readText()), shown = await page.locator("pre.code").first().innerText();
  check("a snippet is copied as it stands", copied.trim() === shown.trim(), copied.slice(0, 80));
  for (const [i, picture] of (await page.locator("button[data-png]:visible").all()).entries()) {
    const [download] = await Promise.all([page.waitForEvent("download"), picture.click()]);
    const bytes = readFileSync(await download.path());
    check("figure " + i + " is saved as PNG", bytes.readUInt32BE(0) === 0x89504e47 && bytes.length > 5000 && download.suggestedFilename().endsWith(".png"), download.suggestedFilename() + " " + bytes.length);
  }
  await context.close();
  const fromDisk = await open(found.language, { acceptDownloads: true });
  const [download] = await Promise.all([fromDisk.page.waitForEvent("download"), fromDisk.page.locator("button[data-png]:visible").first().click()]);
  check("also from a disk", readFileSync(await download.path()).length > 5000);
  await fromDisk.context.close();
});

// The neuron map: the same over both ways, since a disk allows less than a host.
for (const [way, base] of [["file", null], ["http", server.url]]) {
  await section("the zoomable map over " + way, async () => {
    const { page, context, seen } = await open(found.language, {}, base);
    const opener = page.locator("figure[data-map] .map-tools button").first();
    await opener.click();
    const canvas = page.locator(".zoom-box canvas");
    await canvas.waitFor();
    check("it says that it is open", await opener.getAttribute("aria-expanded") === "true");
    check("the canvas has the focus", await page.evaluate(() => document.activeElement.matches(".zoom-box canvas")));
    const line = page.locator(".zoom-line");
    await page.waitForFunction(() => /\d/.test(document.querySelector(".zoom-line").textContent));
    const first = await line.innerText();
    await page.keyboard.press("Shift+ArrowRight");
    await page.waitForFunction(text => document.querySelector(".zoom-line").textContent !== text, first);
    check("the cursor's neuron is read out", /fires at|se déclenche|neuron/i.test(await line.innerText()) && await line.getAttribute("role") === "status", await line.innerText());
    check("own neurons are said to serve the language", /serves/.test(await line.innerText()), await line.innerText());
    for (let i = 0; i < 9; i++) { await page.keyboard.press("+"); await page.waitForTimeout(190); }
    const close = await page.evaluate(async () => { const map = await ATLAS.map.open(); return { scale: map.scale, visible: map.visible(map.cursor.x) }; });
    check("plus zooms to single neurons and keeps the cursor in sight", close.scale >= 20 && close.visible, JSON.stringify(close));
    await page.waitForTimeout(400);
    check("the address keeps the view", /#map=/.test(page.url()), page.url());
    const kept = page.url();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => /^#n-/.test(location.hash));
    const heading = page.locator("#neuron h2");
    await heading.waitFor({ state: "visible" });
    const hash = new URL(page.url()).hash;
    const [, layer, index] = hash.split("-");
    check("Enter opens the neuron's panel", (await heading.innerText()).includes("L" + layer + "·N" + index), await heading.innerText());
    await page.waitForFunction(() => document.querySelectorAll("#neuron .p-list li").length > 0);
    check("it lists every language", await page.locator("#neuron .p-list li").count() === sizes.length, await page.locator("#neuron .p-list li").count() + "");
    check("the heading has the focus", await page.evaluate(() => document.activeElement.closest("#neuron") !== null));
    const json = JSON.parse(readFileSync(join(site, found.language.replace(".html", ".json")), "utf8"));
    const told = json.neurons.rows.find(row => "#" + row.anchor === hash);
    const own = await page.locator("#neuron .p-list li.here .num").innerText();
    if (told) { check("the panel says what the table says", Math.abs(parseFloat(own) / 100 - told.probability) < 0.006, own + " and " + told.probability); }
    const shares = await page.locator("#neuron .p-list .num").allInnerTexts();
    const sorted = shares.map(parseFloat);
    check("sorted by probability", sorted.every((v, i) => !i || sorted[i - 1] >= v - 1e-9), sorted.slice(0, 6).join());
    await page.locator("#neuron input[value=family]").check();
    check("or by family", await page.locator("#neuron .p-family").count() > 1 && await page.locator("#neuron .p-list li").count() === sizes.length);
    await page.goto("about:blank");
    await page.goto(kept);
    await page.locator(".zoom-box canvas").waitFor();
    await page.waitForTimeout(300);
    const again = await page.evaluate(async () => (await ATLAS.map.open()).scale);
    check("the address brings the view back", Math.abs(again - close.scale) < 0.01, again + " and " + close.scale);
    await page.locator("figure[data-map] select").last().selectOption("index");
    await page.waitForFunction(async () => (await ATLAS.map.open()).byIndex);
    await page.locator(".zoom-box canvas").focus();
    await page.keyboard.press("Home");
    await page.waitForFunction(() => /neuron 0\b/.test(document.querySelector(".zoom-line").textContent), null, { timeout: 5000 });
    check("by index the first is neuron 0", true);
    if (await page.locator("figure[data-map] select").count() > 1) {
      await page.locator("figure[data-map] select").first().selectOption("1");
      await page.waitForTimeout(200);
      check("the other colours are there", await page.evaluate(async () => (await ATLAS.map.open()).heat.difference === true));
    }
    await page.keyboard.press("Escape");
    check("no errors", seen.errors.length === 0, seen.errors.join(" | "));
    await context.close();

    // A permanent link, as somebody else opens it.
    const linked = await open(found.language, {}, base, "#" + json.neurons.rows[0].anchor);
    await linked.page.waitForFunction(() => document.querySelectorAll("#neuron .p-list li").length > 0);
    check("a permanent link opens the panel", (await linked.page.locator("#neuron h2").innerText()).includes(json.neurons.rows[0].id), await linked.page.locator("#neuron h2").innerText());
    const sight = await linked.page.waitForFunction(() => { const box = document.querySelector("#neuron h2").getBoundingClientRect(); return box.top >= -5 && box.top < innerHeight; }, null, { timeout: 5000 }).catch(() => null);
    check("in sight", sight, await linked.page.locator("#neuron h2").evaluate(h => "its top is at " + h.getBoundingClientRect().top));
    await linked.page.getByRole("button", { name: "Close" }).click();
    check("and closes", await linked.page.locator("#neuron").isHidden());
    check("no errors", linked.seen.errors.length === 0, linked.seen.errors.join(" | "));
    await linked.context.close();
  });
}

await section("what scripts build is accessible too", async () => {
  for (const [mode, options] of Object.entries(quick ? { light: modes.light } : { light: modes.light, dark: modes.dark, narrow: modes.narrow })) {
    const language = await open(found.language, { ...options, bypassCSP: true });
    await language.page.locator("figure[data-map] .map-tools button").first().click();
    await language.page.locator(".zoom-box canvas").waitFor();
    await language.page.evaluate(async () => { const map = await ATLAS.map.open(); map.enter({ layer: map.marks[0].layer, x: map.marks[0].place }); });
    await language.page.waitForFunction(() => document.querySelectorAll("#neuron .p-list li").length > 0);
    await axe("open map and panel, " + mode, language.page);
    const wide = await language.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    check("open map and panel fit, " + mode, wide <= 0, wide + " px too wide");
    await language.page.locator("#neuron h2").press("?");
    await axe("help, " + mode, language.page, "dialog");
    await language.context.close();
    const compare = await open(model + "/compare.html", { ...options, bypassCSP: true }, null, "#a=" + code(0) + "&b=" + code(1));
    await compare.page.locator("#compared .zoom-box canvas, #compare-out .zoom-box canvas").waitFor();
    await axe("comparison, " + mode, compare.page);
    const over = await compare.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    check("comparison fits, " + mode, over <= 0, over + " px too wide");
    await compare.context.close();
    const overlap = await open(model + "/overlap.html", { ...options, bypassCSP: true });
    await overlap.page.locator(".matrix-box").focus();
    await overlap.page.waitForTimeout(200);
    await axe("overlap with its cursor, " + mode, overlap.page);
    await overlap.context.close();
  }
});

function code(i) { return sizes[i].file.split("/").pop().replace(".html", ""); }

await section("touch", async () => {
  const { page, context } = await open(found.language, { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
  await page.locator("figure[data-map] .map-tools button").first().tap();
  await page.locator(".zoom-box canvas").waitFor();
  await page.locator(".zoom-box canvas").scrollIntoViewIfNeeded();
  const box = await page.locator(".zoom-box canvas").boundingBox(), client = await context.newCDPSession(page);
  const touch = (type, ...points) => client.send("Input.dispatchTouchEvent", { type, touchPoints: points.map(([x, y], id) => ({ x, y, id })) });
  const y = box.y + 40, middle = box.x + box.width / 2;
  const before = await page.evaluate(async () => (await ATLAS.map.open()).scale);
  await touch("touchStart", [middle - 20, y], [middle + 20, y]);
  for (let i = 1; i <= 8; i++) { await touch("touchMove", [middle - 20 - 10 * i, y], [middle + 20 + 10 * i, y]); await page.waitForTimeout(20); }
  await touch("touchEnd");
  const after = await page.evaluate(async () => { const map = await ATLAS.map.open(); return [map.scale, map.left]; });
  check("two fingers zoom", after[0] > 2 * before, before + " to " + after[0]);
  await touch("touchStart", [middle + 60, y]);
  for (let i = 1; i <= 6; i++) { await touch("touchMove", [middle + 60 - 15 * i, y]); await page.waitForTimeout(20); }
  await touch("touchEnd");
  const moved = await page.evaluate(async () => (await ATLAS.map.open()).left);
  check("one finger moves", moved > after[1], after[1] + " to " + moved);
  await context.close();
});

await section("comparison", async () => {
  const { page, context, seen } = await open(model + "/compare.html", {}, null, "#a=" + code(0) + "&b=" + code(1));
  const out = page.locator("#compared, #compare-out");
  await out.locator(".zoom-box canvas").waitFor();
  const lists = [0, 1].map(i => JSON.parse(readFileSync(join(site, sizes[i].file.replace(".html", ".json")), "utf8")));
  const stats = (await out.locator("dl.stats dd").allInnerTexts()).slice(0, 3).map(text => parseInt(text.replace(/\D/g, ""), 10));
  check("own and common neurons add up", stats[0] + stats[1] === lists[0].counts.total && stats[2] + stats[1] === lists[1].counts.total, stats.join() + " of " + lists.map(l => l.counts.total).join());
  const select = page.locator("#compare-b, #b").first();
  await select.selectOption(code(2));
  await page.waitForFunction(second => self.ATLAS.compared && ATLAS.compared.second === second, code(2));
  check("a choice goes into the address", page.url().includes("b=" + code(2)), page.url());
  const heading = await page.locator("[data-compare] h2, [data-shards] h2").first().innerText();
  check("the heading names the pair", heading.includes(sizes[0].name) && heading.includes(sizes[2].name), heading);
  check("no errors", seen.errors.length === 0, seen.errors.join(" | "));
  await context.close();
});

await section("overlap", async () => {
  const { page, context, seen } = await open(model + "/overlap.html");
  await page.locator(".matrix-box").focus();
  await page.waitForFunction(() => /Jaccard/.test(document.querySelector(".zoom-line").textContent));
  const first = await page.locator(".zoom-line").innerText();
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction(text => document.querySelector(".zoom-line").textContent !== text, first);
  check("the cursor's pair is read out", /Jaccard \d/.test(await page.locator(".zoom-line").innerText()), await page.locator(".zoom-line").innerText());
  if (await page.locator("input[name=measure]").count()) {
    await page.locator("input[name=measure][value=cosine]").check();
    await page.waitForFunction(() => document.querySelector(".matrix-box canvas, canvas.matrix-other"));
    check("another measure is drawn", true);
  }
  await page.locator(".matrix-box").focus();
  await page.keyboard.press("Enter");
  await page.waitForURL(/compare\.html#a=/);
  check("Enter compares", true);
  check("no errors", seen.errors.length === 0, seen.errors.join(" | "));
  await context.close();
});

await section("links", async () => {
  const ids = new Map(), html = path => { if (!ids.has(path)) { ids.set(path, readFileSync(path, "utf8")); } return ids.get(path); };
  const decode = text => text.replace(/&#x2f;/g, "/").replace(/&amp;/g, "&").replace(/&#x27;/g, "'").replace(/&quot;/g, '"').replace(/&#(\d+);/g, (_, n) => String.fromCodePoint(+n));
  let links = 0;
  for (const path of pages(site)) {
    const place = resolve(site, path);
    for (const [, name, raw] of html(place).matchAll(/\s(href|src)="([^"]*)"/g)) {
      const link = decode(raw);
      if (/^(data:|https:\/\/)/.test(link)) { continue; }
      links += 1;
      const [file, anchor] = link.split("#"), target = file ? resolve(dirname(place), decodeURIComponent(file)) : place;
      if (!existsSync(target) || !statSync(target).isFile()) { fail("link of " + path, link); continue; }
      if (anchor && !anchor.includes("=") && target.endsWith(".html") && !html(target).includes('id="' + anchor + '"')) { fail("anchor of " + path, link); }
    }
  }
  checks += links;
  check("there are links", links > 1000, links + "");
});

await section("valid HTML", async () => {
  const all = quick ? Object.values(found) : pages(site);
  const jar = join(dirname(require.resolve("vnu-jar/package.json")), "build", "dist", "vnu.jar");
  for (let at = 0; at < all.length; at += 200) {
    try {
      execFileSync("java", ["-jar", jar, "--errors-only", "--format", "json", ...all.slice(at, at + 200).map(path => join(resolve(site), path))], { stdio: ["ignore", "ignore", "pipe"], maxBuffer: 1 << 28 });
    } catch (error) {
      if (error.code === "ENOENT") { fail("valid HTML", "no java is installed for the validator"); return; }
      const messages = JSON.parse(error.stderr.toString()).messages, seen = new Set();
      for (const { url, lastLine, message, extract } of messages) {
        if (!seen.has(message)) { seen.add(message); fail("vnu", url.replace(/.*\/(?=[^/]*\/[^/]*$)/, "") + ":" + lastLine + ": " + message + " — " + (extract || "").slice(0, 120).replace(/\n/g, " ")); }
      }
    }
  }
  checks += all.length;
  const { HtmlValidate } = await import("html-validate");
  const validator = new HtmlValidate({
    extends: ["html-validate:standard"],
    rules: {
      // Matters of taste, or of what a minimal page of a host needs.
      "doctype-style": "off", "void-style": "off", "no-trailing-whitespace": "off", "attribute-boolean-style": "off", "attribute-empty-style": "off",
      "require-sri": "off", "no-inline-style": "error", "long-title": "off", "tel-non-breaking": "off", "no-raw-characters": ["error", { relaxed: true }],
    },
  });
  for (const [kind, path] of Object.entries(found)) {
    const report = await validator.validateFile(join(resolve(site), path));
    const messages = report.results.flatMap(result => result.messages).filter(message => message.severity === 2);
    check("html-validate " + kind, messages.length === 0, [...new Set(messages.map(m => m.ruleId + ": " + m.message + " (line " + m.line + ")"))].slice(0, 6).join("\n       "));
  }
});

await browser.close();
server.close();
console.log(failures.length ? "\n" + failures.length + " of " + checks + " checks failed" : "\nall " + checks + " checks hold");
process.exit(failures.length ? 1 : 0);
