// A browser with nothing of anybody's in it, a site's pages by kind, and a server that answers as a host would.
import { createServer } from "node:http";
import { createReadStream, existsSync, mkdtempSync, readFileSync, readdirSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join, normalize, resolve, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { chromium } from "playwright-core";

export const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
export const program = process.env.NEUROGLOT_CHROMIUM || ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

export const launch = () => chromium.launch({ executablePath: program, args: flags, headless: true });
export const profile = () => mkdtempSync(join(tmpdir(), "neuroglot-chromium-"));

// Every HTML file below a folder, by its path from there.
export function pages(site, folder = "") {
  return readdirSync(join(site, folder), { withFileTypes: true }).flatMap(entry => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? pages(site, path) : entry.name.endsWith(".html") ? [path] : [];
  });
}

// The kinds of pages: of languages, one with the most neurons, one read from the right, one without neurons, one with a single neuron.
export function kinds(site) {
  const models = readdirSync(site, { withFileTypes: true }).filter(entry => entry.isDirectory() && existsSync(join(site, entry.name, "shards"))).map(entry => entry.name);
  const model = models[0], found = { home: "index.html" };
  for (const name of ["about", "models"]) { if (existsSync(join(site, name + ".html"))) { found[name] = name + ".html"; } }
  for (const file of readdirSync(join(site, model))) {
    const name = file.replace(/\.html$/, "");
    if (file.endsWith(".html") && !/^[a-z]{3}_[A-Z][a-z]{3}$/.test(name)) { found["model-" + name] = model + "/" + file; }
  }
  const sizes = readdirSync(join(site, model)).filter(file => /^[a-z]{3}_[A-Z][a-z]{3}\.json$/.test(file)).map(file => {
    const page = JSON.parse(readFileSync(join(site, model, file), "utf8"));
    return { file: model + "/" + file.replace(".json", ".html"), total: page.counts.total, rtl: page.language.direction === "rtl", name: page.language.name };
  }).sort((a, b) => b.total - a.total);
  found.language = sizes[0].file;
  const add = (name, test) => { const one = sizes.find(test); if (one) { found[name] = one.file; } };
  add("language-rtl", one => one.rtl);
  add("language-none", one => one.total === 0);
  add("language-one", one => one.total === 1);
  add("language-hostile", one => /[<>"]/.test(one.name));
  return { models, model, found, sizes };
}

const types = { ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png" };

// Serves a site on a free port of this machine, packed, as hosts do.
export function serve(site) {
  const root = resolve(site);
  const server = createServer((request, response) => {
    let path = normalize(join(root, decodeURIComponent(request.url.split(/[?#]/)[0])));
    if (!path.startsWith(root + sep) && path !== root) { response.writeHead(404).end(); return; }
    if (existsSync(path) && statSync(path).isDirectory()) { path = join(path, "index.html"); }
    if (!existsSync(path)) { response.writeHead(404).end(); return; }
    const type = types[extname(path)], head = { "content-type": type || "application/octet-stream", "cache-control": "max-age=600" };
    if (type && extname(path) !== ".png" && /gzip/.test(request.headers["accept-encoding"] || "")) {
      response.writeHead(200, { ...head, "content-encoding": "gzip" }).end(gzipSync(readFileSync(path)));
    } else {
      response.writeHead(200, head);
      createReadStream(path).pipe(response);
    }
  });
  return new Promise(done => server.listen(0, "127.0.0.1", () => done({ url: "http://127.0.0.1:" + server.address().port + "/", close: () => server.close() })));
}

export const fileUrl = (site, path) => pathToFileURL(join(resolve(site), path)).href;
