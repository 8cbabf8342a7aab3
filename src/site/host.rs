//! What a host needs: a workflow for GitHub Pages, the head of a static Hugging Face Space, and, for a known address, sitemap and
//! pictures of shared links.

use std::{fmt::Write, str::FromStr};

use super::{Files, Site, SiteError, Spot, figure, view::View};
use crate::language::LanguageCode;

/// Where a site will stand: `https://example.org/atlas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteUrl(String);

impl FromStr for SiteUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~/:%@".contains(c);
        match rest {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(fits) => {
                Ok(Self(text.trim_end_matches('/').to_owned()))
            }
            _ => Err(format!(
                "`{text}` is no address of a site; write it like https://example.org/atlas, without ? and #"
            )),
        }
    }
}

impl SiteUrl {
    /// Address of a page, by its path without ending; a folder's index is the folder.
    pub(super) fn page(&self, path: &str) -> String {
        match path.strip_suffix("index") {
            Some(folder) if folder.is_empty() || folder.ends_with('/') => format!("{}/{folder}", self.0),
            _ => format!("{}/{path}.html", self.0),
        }
    }

    /// Address of a file.
    pub(super) fn file(&self, path: &str) -> String {
        format!("{}/{path}", self.0)
    }
}

/// Path of the picture that a shared link to a page shows.
pub(super) fn image(spot: &Spot) -> String {
    let name = if spot.kind() == "language" { &spot.name } else { "index" };
    format!("{}/cards/{name}.png", spot.view.folder)
}

/// Size of such a picture, as those who show them want it.
const CARD: (usize, usize) = (1200, 630);

const WORKFLOW: &str = "\
# Puts this folder on GitHub Pages. Commit the whole folder as a repository, then choose Settings, Pages, Source: GitHub Actions.
name: Pages
on:
  push:
    branches: [main]
  workflow_dispatch:
permissions:
  contents: read
  pages: write
  id-token: write
concurrency:
  group: pages
  cancel-in-progress: true
jobs:
  deploy:
    runs-on: ubuntu-latest
    environment:
      name: github-pages
      url: ${{ steps.deployment.outputs.page_url }}
    steps:
      - uses: actions/checkout@v4
      - uses: actions/configure-pages@v5
      - uses: actions/upload-pages-artifact@v3
        with:
          path: .
      - id: deployment
        uses: actions/deploy-pages@v4
";

/// Writes what hosts need beside the pages.
pub(super) fn write(site: &Site, files: &Files) -> Result<(), SiteError> {
    files.put(".github/workflows/pages.yml", WORKFLOW.as_bytes())?;
    // Without it GitHub's own renderer would leave out files that begin with an underscore.
    files.put(".nojekyll", b"")?;
    files.put("README.md", space(site).as_bytes())?;
    let Some(url) = &site.url else { return Ok(()) };
    let pages: Vec<String> =
        files.paths().into_iter().filter_map(|path| path.strip_suffix(".html").map(str::to_owned)).collect();
    let mut map = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n",
    );
    for page in &pages {
        let _ = writeln!(map, "<url><loc>{}</loc></url>", figure::escaped(&url.page(page)));
    }
    map.push_str("</urlset>\n");
    files.put("sitemap.xml", map.as_bytes())?;
    files.put("robots.txt", format!("User-agent: *\nAllow: /\nSitemap: {}\n", url.file("sitemap.xml")).as_bytes())?;
    for view in &site.views {
        files.put(&format!("{}/cards/index.png", view.folder), &card(view, None))?;
        for language in &view.languages {
            files.put(&format!("{}/cards/{}.png", view.folder, language.code), &card(view, Some(language.code)))?;
        }
    }
    Ok(())
}

/// README of a static Space: its head is what the Hub reads.
fn space(site: &Site) -> String {
    let models: Vec<String> = site.views.iter().map(|view| format!("- {}", view.model.id)).collect();
    let licence = site.views[0].atlas.manifest.licence.to_lowercase();
    format!(
        "---\ntitle: Language neuron atlas\nsdk: static\napp_file: index.html\npinned: false\nlicense: {}\n---\n\n\
         Which feed-forward neurons of a language model serve each language: static pages, complete without JavaScript, that load\n\
         nothing from elsewhere. Open `index.html`.\n\n{}\n\nRendered by neuroglot {}.\n",
        serde_json::to_string(&licence).expect("a text"),
        models.join("\n"),
        env!("CARGO_PKG_VERSION"),
    )
}

/// A neuron map as a picture of four colours: what a shared link to a language shows. It has no words, since fonts are not ours to
/// bring; the page's title stands beside it wherever it is shown.
fn card(view: &View, language: Option<LanguageCode>) -> Vec<u8> {
    const PALETTE: [[u8; 3]; 5] = [[252, 252, 250], [11, 61, 145], [208, 138, 46], [176, 181, 186], [220, 221, 214]];
    let (width, height) = CARD;
    let mut pixels = vec![0u8; width * height];
    let layers = view.model.layers;
    let (left, top) = (60, 45);
    let row = (height - 2 * top) / layers.max(1);
    let mut column = |x: usize, base: usize, tall: usize, wide: usize, colour: u8| {
        for y in base.saturating_sub(tall)..base {
            let from = y.min(height - 1) * width;
            (x..(x + wide).min(width)).for_each(|x| pixels[from + x] = colour);
        }
    };
    let mut marks: Vec<(usize, usize, u8)> = Vec::new();
    for (id, served) in &view.neurons {
        let kind = match language {
            Some(code) if !served.rows.iter().any(|row| row.language == code) => 3,
            _ if served.rows.len() == 1 => 1,
            _ => 2,
        };
        marks.push((id.layer, served.column, kind));
    }
    // What matters most is drawn last.
    marks.sort_unstable_by_key(|mark| (std::cmp::Reverse(mark.2), mark.0, mark.1));
    for layer in 0..layers {
        column(left, height - top - layer * row, 1, width - 2 * left, 4);
    }
    for (layer, place, kind) in marks {
        let x = left + place * (width - 2 * left) / view.columns().max(1);
        let tall = row * [0, 85, 50, 22][usize::from(kind)] / 100;
        column(x, height - top - layer * row, tall.max(2), if kind == 3 { 1 } else { 3 }, kind);
    }
    png(&pixels, CARD, &PALETTE)
}

/// An image with a palette, as PNG.
fn png(pixels: &[u8], (width, height): (usize, usize), palette: &[[u8; 3]]) -> Vec<u8> {
    use std::io::Write as _;
    let mut bytes = vec![0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
    let mut chunk = |kind: &[u8; 4], content: &[u8]| {
        let body: Vec<u8> = kind.iter().chain(content).copied().collect();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        bytes.extend((content.len() as u32).to_be_bytes());
        bytes.extend(&body);
        bytes.extend(crc.sum().to_be_bytes());
    };
    let size = [(width as u32).to_be_bytes(), (height as u32).to_be_bytes()].concat();
    // Eight bits a pixel, by palette, not interlaced.
    chunk(b"IHDR", &[&size[..], &[8, 3, 0, 0, 0]].concat());
    chunk(b"PLTE", &palette.concat());
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    for line in pixels.chunks(width) {
        packed.write_all(&[0]).and_then(|()| packed.write_all(line)).expect("memory takes what it is given");
    }
    chunk(b"IDAT", &packed.finish().expect("memory takes what it is given"));
    chunk(b"IEND", &[]);
    bytes
}
