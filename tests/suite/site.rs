//! The website of the demo atlas: whole without a server, a network or JavaScript, and its numbers those of the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use neuroglot::{
    atlas::{Atlas, MaskSet},
    site,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    demo::{SHAPE, committed},
    harness::files_below,
};

fn rendered() -> &'static Path {
    static SITE: OnceLock<TempDir> = OnceLock::new();
    SITE.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        site::render(&[Atlas::open(&committed()).unwrap()], folder.path()).unwrap();
        folder
    })
    .path()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let all = files_below(folder).into_iter().filter(|file| file.extension().is_some_and(|found| found == extension));
    all.map(|file| folder.join(file)).collect()
}

/// Values of an attribute, entities decoded.
fn attribute(html: &str, name: &str) -> Vec<String> {
    let opening = format!(" {name}=\"");
    let pieces = html.split(&opening).skip(1);
    let decode =
        |value: &str| value.replace("&#x2f;", "/").replace("&#x27;", "'").replace("&quot;", "\"").replace("&amp;", "&");
    pieces.map(|piece| decode(piece.split('"').next().unwrap())).collect()
}

#[test]
fn every_link_of_every_page_leads_to_a_file_of_the_site() {
    let pages = files(rendered(), "html");
    // Of every locale: a home and six pages of the model, and its languages; of English alone: method, data, cite, about.
    assert_eq!(pages.len(), 5 * (1 + 6 + 132) + 4);
    let mut links = 0;
    for page in pages {
        let html = fs::read_to_string(&page).unwrap();
        for link in attribute(&html, "href").into_iter().chain(attribute(&html, "src")) {
            // A paper is a click away and never loaded with the page; the policy in the page's head sees to that.
            if link.starts_with("data:image/") || link.starts_with("https://arxiv.org/abs/") {
                continue;
            }
            assert!(!link.contains("//"), "{} links to {link}", page.display());
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.is_file(), "{}: {link} is not there", page.display());
            if file.is_empty() {
                assert!(html.contains(&format!("id=\"{anchor}\"")), "{}: {link} leads nowhere", page.display());
            }
            links += 1;
        }
    }
    assert!(links > 132 * 20, "{links} links");
}

#[test]
fn no_page_asks_anything_of_another_host_or_runs_inline_code() {
    for page in files(rendered(), "html") {
        let html = fs::read_to_string(&page).unwrap();
        assert!(html.contains("http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'"));
        for forbidden in
            ["<style", " style=\"", "<iframe", "onclick", "javascript:", "@import", "<link rel=\"preconnect"]
        {
            assert!(!html.contains(forbidden), "{}: {forbidden}", page.display());
        }
        assert!(html.matches("<script").count() == html.matches("<script src=\"").count());
    }
    for asset in files(rendered(), "css").into_iter().chain(files(rendered(), "js")) {
        let text = fs::read_to_string(&asset).unwrap();
        assert!(
            !text.contains("http://") && !text.contains("https://") && !text.contains("fetch("),
            "{}",
            asset.display()
        );
    }
}

#[test]
fn the_table_of_all_languages_is_whole_without_javascript() {
    let html = fs::read_to_string(rendered().join("index.html")).unwrap();
    let atlas = Atlas::open(&committed()).unwrap();
    for language in &atlas.languages {
        assert!(html.contains(&format!("{}.html", language.code)), "{}", language.code);
    }
    assert_eq!(html.matches("<tr data-s=").count(), 132);
}

#[test]
fn page_json_table_and_mask_say_the_same_of_every_language() {
    let atlas = Atlas::open(&committed()).unwrap();
    let model = atlas.model(None).unwrap();
    let tables = atlas.method(model, "lape").unwrap();
    for language in &atlas.languages {
        let rows = tables.of(language.code);
        let folder = rendered().join("neuroglot__demo-2.7m");
        let json: Value =
            serde_json::from_slice(&fs::read(folder.join(format!("{}.json", language.code))).unwrap()).unwrap();
        let html = fs::read_to_string(folder.join(format!("{}.html", language.code))).unwrap();
        assert_eq!(json["counts"]["total"], rows.len());
        assert_eq!(json["counts"]["specific"], rows.iter().filter(|row| row.languages == 1).count());
        let shown: BTreeMap<String, &Value> = json["neurons"]["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["id"].as_str().unwrap().to_owned(), row))
            .collect();
        assert_eq!(shown.len(), rows.len());
        for row in rows {
            let shown = shown[&format!("L{}·N{}", row.layer, row.neuron)];
            assert_eq!(shown["rank"], serde_json::json!(row.rank));
            assert_eq!(shown["probability_text"], format!("{:.3}", row.probability.unwrap()));
            assert_eq!(shown["entropy_text"], format!("{:.2}", row.entropy.unwrap()));
            assert!(html.contains(&format!("<a id=\"n-{0}-{1}\" href=\"#n-{0}-{1}\"", row.layer, row.neuron)));
            assert!(html.contains(&format!("{:.3}", row.probability.unwrap())));
        }
        let masks = MaskSet::read(&folder.join(format!("{}.safetensors", language.code)), SHAPE).unwrap();
        let mask: BTreeSet<_> = masks[&language.code].iter().map(|neuron| (neuron.layer, neuron.index)).collect();
        assert_eq!(mask, rows.iter().map(|row| (row.layer, row.neuron)).collect());
        for download in json["downloads"].as_array().unwrap() {
            let file = folder.join(download["label"].as_str().unwrap());
            assert_eq!(download["sha256"], neuroglot::output::sha256_file(&file).unwrap());
            assert_eq!(download["bytes"], fs::metadata(&file).unwrap().len());
        }
    }
}

#[test]
fn a_map_has_one_mark_for_every_neuron_and_the_same_places_on_every_page() {
    let folder = rendered().join("neuroglot__demo-2.7m");
    let places = |code: &str| -> Vec<BTreeSet<u64>> {
        let json: Value = serde_json::from_slice(&fs::read(folder.join(format!("{code}.json"))).unwrap()).unwrap();
        let marks = |row: &Value| {
            let kinds = ["specific", "shared", "others"].map(|kind| row[kind].as_array().unwrap().clone());
            kinds.concat().iter().map(|x| x.as_u64().unwrap()).collect()
        };
        json["map"]["rows"].as_array().unwrap().iter().map(marks).collect()
    };
    let one = places("mlt_Latn");
    assert_eq!(one.iter().map(BTreeSet::len).sum::<usize>(), 230);
    assert!(one.iter().flatten().all(|&x| x < 768));
    assert_eq!(one, places("jpn_Jpan"));
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    let again = TempDir::new().unwrap();
    site::render(&[Atlas::open(&committed()).unwrap()], again.path()).unwrap();
    for extension in ["html", "json", "css", "js", "pth", "safetensors", "parquet", "svg", "csv", "txt", "yml", "md"] {
        for file in files(rendered(), extension) {
            let other = again.path().join(file.strip_prefix(rendered()).unwrap());
            assert!(fs::read(&file).unwrap() == fs::read(&other).unwrap(), "{}", file.display());
        }
    }
}

#[test]
fn a_name_that_is_code_stays_a_name_and_a_language_without_neurons_has_a_page() {
    let mut atlas = Atlas::open(&committed()).unwrap();
    let code = "mlt_Latn".parse().unwrap();
    let language = atlas.languages.iter_mut().find(|language| language.code == code).unwrap();
    language.name = "<script>alert(\"x\")</script> \u{202e}'&".to_owned();
    language.autonym = Some("\"><img src=x onerror=y>".to_owned());
    for tables in atlas.methods.values_mut() {
        tables.neurons.retain(|row| row.language != "cym_Latn".parse().unwrap());
    }
    let folder = TempDir::new().unwrap();
    site::render(&[atlas], folder.path()).unwrap();
    for page in ["index.html", "neuroglot__demo-2.7m/mlt_Latn.html", "neuroglot__demo-2.7m/method.html"] {
        let html = fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(!html.contains("<script>alert") && !html.contains("<img"), "{page}");
    }
    let html = fs::read_to_string(folder.path().join("neuroglot__demo-2.7m/cym_Latn.html")).unwrap();
    assert!(
        html.contains("none of the 4,608 neurons is selected for"),
        "the page of a language without neurons says so"
    );
}

#[test]
fn pages_and_assets_are_as_small_as_a_phone_needs() {
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;
    let packed = |path: &Path| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&fs::read(path).unwrap()).unwrap();
        encoder.finish().unwrap().len()
    };
    let assets = |beginning: &str| {
        let names = files_below(&rendered().join("assets")).into_iter();
        let asked = names.filter(|name| name.to_str().unwrap().starts_with(beginning));
        asked.map(|name| packed(&rendered().join("assets").join(name))).max().unwrap()
    };
    let home = packed(&rendered().join("index.html"));
    // A page loads the style, its scripts, and the words of its locale.
    let css = files(rendered(), "css").iter().map(|path| packed(path)).sum::<usize>();
    let js = ["map.", "words."].iter().map(|beginning| assets(beginning)).sum::<usize>()
        + files(rendered(), "js")
            .iter()
            .filter(|path| path.to_str().unwrap().contains("assets/site."))
            .map(|path| packed(path))
            .sum::<usize>();
    assert!(css <= 8_000 && js <= 25_000, "css {css}, js {js}");
    assert!(home + css + js <= 90_000, "home {home}");
    let page = packed(&rendered().join("neuroglot__demo-2.7m/mlt_Latn.html"));
    assert!(page + css + js <= 60_000, "language page {page}");
    let page = packed(&rendered().join("neuroglot__demo-2.7m/overlap.html"));
    assert!(page + css + js <= 100_000, "overlap {page}");
}
