//! What the website's pages say of tables that are unusual: captions that stay true, evidence where there is some, several models,
//! addresses, and a site that is rendered again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use neuroglot::{
    atlas::{AblationRow, Atlas, FileEntry, MANIFEST, Manifest, NeuronRow},
    language::LanguageCode,
    site::{self, Options},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    demo::committed,
    harness::{files_below, neuroglot},
};

const MODEL: &str = "neuroglot__demo-2.7m";

fn english() -> Options {
    Options { locales: Some(vec!["en".to_owned()]), ..Options::default() }
}

fn demo() -> Atlas {
    Atlas::open(&committed()).unwrap()
}

fn render(atlases: &[Atlas]) -> TempDir {
    let folder = TempDir::new().unwrap();
    site::render_with(atlases, folder.path(), &english()).unwrap();
    folder
}

fn page(site: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&fs::read(site.path().join(MODEL).join(format!("{name}.json"))).unwrap()).unwrap()
}

/// A page's HTML; the engine writes a slash as an entity.
fn html(site: &Path, path: &str) -> String {
    fs::read_to_string(site.join(path)).unwrap().replace("&#x2f;", "/")
}

fn code(text: &str) -> LanguageCode {
    text.parse().unwrap()
}

/// What a page says, without the marks that isolate names.
fn said(value: &Value) -> String {
    value.as_str().unwrap().replace(['\u{2068}', '\u{2069}'], "")
}

/// The demo atlas with neurons of its first method kept or dropped, and the numbers of languages counted again.
fn with(keep: impl Fn(LanguageCode, usize, usize) -> bool) -> Atlas {
    let mut atlas = demo();
    for tables in atlas.methods.values_mut() {
        tables.neurons.retain(|row| keep(row.language, row.layer, row.neuron));
        let served: Vec<_> = tables.neurons.iter().map(NeuronRow::id).collect();
        for row in &mut tables.neurons {
            let id = row.id();
            row.languages = served.iter().filter(|other| **other == id).count() as u16;
        }
    }
    atlas
}

#[test]
fn the_captions_of_every_language_are_true_of_its_rows() {
    let (atlas, site) = (demo(), render(&[demo()]));
    let tables = atlas.method(atlas.model(None).unwrap(), "lape").unwrap();
    for language in &atlas.languages {
        let rows = tables.of(language.code);
        let json = page(&site, &language.code.to_string());
        let mut layers = [0usize; 6];
        rows.iter().for_each(|row| layers[row.layer] += 1);
        let most = *layers.iter().max().unwrap();
        let fullest: Vec<usize> = (0..6).filter(|&layer| layers[layer] == most).collect();
        let caption = said(&json["map"]["caption"]);
        let wanted = match fullest.as_slice() {
            _ if rows.is_empty() => "No neuron serves".to_owned(),
            [layer] if rows.len() == 1 => {
                format!("The only neuron that serves {} lies in layer {layer}.", language.name)
            }
            [layer] if most == rows.len() => {
                format!("All {most} neurons that serve {} lie in layer {layer}.", language.name)
            }
            [layer] => {
                format!("Layer {layer} holds the most neurons that serve {}: {most} of {}.", language.name, rows.len())
            }
            [a, b] => format!(
                "Layers {a} and {b} hold the most neurons that serve {}: {most} each, of {}.",
                language.name,
                rows.len()
            ),
            many => format!("No one layer stands out: {} layers hold {most} each of the {}", many.len(), rows.len()),
        };
        assert!(caption.starts_with(&wanted), "{}: {caption}", language.code);
        let alone = rows.iter().filter(|row| row.languages == 1).count();
        let late = rows.iter().filter(|row| row.layer >= 4).count();
        let finding = said(&json["finding"]);
        match alone {
            0 => assert!(!finding.contains("no other language"), "{finding}"),
            1 if rows.len() > 1 => assert!(finding.contains("1 of them serves no other language."), "{finding}"),
            n if n < rows.len() => {
                assert!(finding.contains(&format!("{n} of them serve no other language.")), "{finding}");
            }
            _ => assert!(finding.contains("any other language") || finding.contains("no other language"), "{finding}"),
        }
        if let Some((share, layer)) = stands_out(&json["depth"]["rows"]) {
            let caption = said(&json["depth"]["caption"]);
            let direction = if share > 0.0 { "more" } else { "fewer" };
            assert!(
                caption.contains(&format!("{direction} of its neurons in layer {layer}:")),
                "{}: {caption}",
                language.code
            );
        }
        if rows.len() > 1 {
            let wanted = match late {
                0 => "None lies in".to_owned(),
                late if late == rows.len() => "All lie in".to_owned(),
                1 => "1 lies in".to_owned(),
                late => format!("{late} lie in"),
            };
            assert!(finding.contains(&format!("{wanted} the last 2 of 6 layers.")), "{finding}");
        }
    }
}

/// The layer furthest from the mean of those outside the band that eight languages in ten lie in, and how far it is.
fn stands_out(rows: &Value) -> Option<(f64, usize)> {
    let number = |row: &Value, name: &str| row[name].as_f64();
    let rows = rows.as_array().unwrap().iter().enumerate();
    let outside = rows.filter_map(|(layer, row)| {
        let share = number(row, "share")?;
        let (low, high, mean) = (number(row, "low")?, number(row, "high")?, number(row, "mean")?);
        ((share < low || share > high) && (share - mean).abs() >= 0.002).then_some((share - mean, layer))
    });
    outside.fold(
        None,
        |most: Option<(f64, usize)>, next| {
            if most.is_none_or(|most| next.0.abs() > most.0.abs()) { Some(next) } else { most }
        },
    )
}

#[test]
fn a_language_with_no_neuron_with_one_and_with_all_in_one_layer_is_described_as_it_is() {
    let (none, one, layer) = (code("cym_Latn"), code("mlt_Latn"), code("fao_Latn"));
    let full = demo();
    let tables = full.method(full.model(None).unwrap(), "lape").unwrap();
    let first = tables.of(one)[0].id();
    let deep = tables.of(layer).iter().map(|row| row.layer).max().unwrap();
    let atlas = with(|language, at, neuron| {
        language != none
            && (language != one || (at, neuron) == (first.layer, first.index))
            && (language != layer || at == deep)
    });
    let site = render(&[atlas]);

    let json = page(&site, "cym_Latn");
    assert_eq!(said(&json["finding"]), "At the 5\u{a0}% rate, none of the 4,608 neurons is selected for Welsh.");
    assert!(said(&json["map"]["caption"]).starts_with("No neuron serves Welsh at this rate"));
    assert!(said(&json["depth"]["caption"]).starts_with("Welsh has no neurons at this rate"));
    assert_eq!(json["confidence"]["level"], "unknown");

    let json = page(&site, "mlt_Latn");
    assert!(said(&json["finding"]).starts_with("1 of 4,608 neurons serves Maltese."), "{}", json["finding"]);
    assert_eq!(json["neurons"]["shown_text"], "The only one is listed.");
    let caption = said(&json["map"]["caption"]);
    assert!(
        caption.starts_with(&format!("The only neuron that serves Maltese lies in layer {}.", first.layer)),
        "{caption}"
    );

    let json = page(&site, "fao_Latn");
    let caption = said(&json["map"]["caption"]);
    assert!(caption.starts_with("All ") && caption.contains(&format!("lie in layer {deep}.")), "{caption}");
    let caption = said(&json["depth"]["caption"]);
    assert!(caption.contains(&format!("in layer {deep}: 100\u{a0}% of them")), "{caption}");
}

#[test]
fn an_atlas_whose_every_set_is_empty_has_all_its_pages_and_none_claims_anything() {
    let mut atlas = with(|_, _, _| false);
    for tables in atlas.methods.values_mut() {
        tables.overlap.iter_mut().for_each(|row| (row.shared, row.jaccard, row.overlap_coefficient) = (0, None, None));
        tables.stability.clear();
    }
    let site = render(&[atlas]);
    assert_eq!(said(&page(&site, "overlap")["caption"]), "No two languages share a neuron.");
    assert!(page(&site, "compare")["compared"].is_null());
    assert_eq!(
        said(&page(&site, "families")["caption"]),
        "No neuron serves several languages of one family and nobody else."
    );
    assert_eq!(
        page(&site, "evidence")["stability"]["caption"],
        "How stable the sets are was not measured for this atlas."
    );
    assert!(page(&site, "index")["overview"].is_null());
    assert!(said(&page(&site, "mlt_Latn")["depth"]["caption"]).starts_with("No language has neurons"));
}

#[test]
fn the_overlap_page_its_table_and_its_csv_say_what_the_table_of_pairs_says() {
    let (atlas, site) = (demo(), render(&[demo()]));
    let tables = atlas.method(atlas.model(None).unwrap(), "lape").unwrap();
    let json = page(&site, "overlap");
    let codes: Vec<LanguageCode> =
        json["languages"].as_array().unwrap().iter().map(|row| code(row["code"].as_str().unwrap())).collect();
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), 132);
    let mut seen = 0;
    for row in &tables.overlap {
        let [a, b] =
            [row.language_a, row.language_b].map(|code| codes.iter().position(|found| *found == code).unwrap());
        assert_eq!(json["jaccard"][a.max(b)][a.min(b)].as_f64(), row.jaccard);
        seen += 1;
    }
    assert_eq!(seen, 132 * 131 / 2);
    let csv = fs::read_to_string(site.path().join(MODEL).join("figures/overlap.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + seen);
    let first = &tables.overlap[0];
    assert!(
        csv.lines()
            .nth(1)
            .unwrap()
            .starts_with(&format!("{},{},{},", first.language_a, first.language_b, first.shared))
    );
    let html = fs::read_to_string(site.path().join(MODEL).join("overlap.html")).unwrap();
    let table = html.split("id=\"overlap-table\"").nth(1).unwrap();
    assert_eq!(
        table.split("</table>").next().unwrap().matches("<td>").count(),
        132 * 131 / 2 + usize::from(table.contains("<td></td>"))
    );
}

/// The demo atlas on the disk with a matrix of three languages, their own cells as given and every other cell 0.1.
fn ablated(own: f64, random: f64) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in files_below(&committed()) {
        let place = folder.path().join(&file);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(committed().join(&file), place).unwrap();
    }
    let codes = ["cym_Latn", "fao_Latn", "mlt_Latn"].map(code);
    let cell = |ablated, language, control: &str, draw, delta| AblationRow {
        model: "neuroglot/demo-2.7m".to_owned(),
        run: "0123456789abcdef".to_owned(),
        method: "lape".to_owned(),
        ablated,
        language,
        control: control.to_owned(),
        draw,
        delta,
        stderr: Some(0.01),
    };
    let mut rows = Vec::new();
    for a in codes {
        rows.extend(codes.map(|b| cell(a, b, AblationRow::OWN, 0, if a == b { own } else { 0.1 })));
        for draw in 0..3 {
            rows.push(cell(a, a, AblationRow::PER_LAYER, draw, random));
        }
    }
    let path = format!("data/ablation/{MODEL}/lape.parquet");
    let written = AblationRow::write(&rows, &folder.path().join(&path)).unwrap();
    let mut manifest = Manifest::read(folder.path()).unwrap();
    let bytes = fs::read(folder.path().join(&path)).unwrap();
    let sha256 = neuroglot::output::sha256(&bytes);
    manifest.files.push(FileEntry { path, bytes: bytes.len() as u64, sha256, rows: Some(written) });
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    fs::write(folder.path().join(MANIFEST), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
    folder
}

#[test]
fn an_ablation_matrix_is_drawn_from_its_table_and_its_caption_says_whether_the_diagonal_stands_out() {
    let atlas = ablated(0.9, 0.2);
    let site = render(&[Atlas::open(atlas.path()).unwrap()]);
    let json = page(&site, "evidence");
    let caption = said(&json["ablation"]["caption"]);
    assert_eq!(
        caption,
        "Without its own neurons a language’s loss rises by 0.900 nats per token on average, other languages’ by 0.100: the diagonal \
         stands out. As many random neurons do less (0.200)."
    );
    assert_eq!(json["ablation"]["languages"].as_array().unwrap().len(), 3);
    assert_eq!(json["ablation"]["languages"][0]["row_rank_text"], "1");
    assert_eq!(json["ablation"]["summary"][2]["ratio_text"], "4.5", "0.9 / 0.2");
    let confidence = page(&site, "mlt_Latn")["confidence"]["rows"].clone();
    assert_eq!(confidence.as_array().unwrap().last().unwrap()["value"], "0.900");
    let csv = fs::read_to_string(site.path().join(MODEL).join("figures/ablation.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 9 + 9);
    let html = fs::read_to_string(site.path().join(MODEL).join("evidence.html")).unwrap();
    assert!(
        html.contains("<svg class=\"matrix\" viewBox=\"0 0 3 3\"") && !html.contains("Not measured for this atlas.")
    );

    let atlas = ablated(0.05, 0.2);
    let site = render(&[Atlas::open(atlas.path()).unwrap()]);
    let caption = said(&page(&site, "evidence")["ablation"]["caption"]);
    assert!(caption.contains("does not stand out") && caption.contains("do no less"), "{caption}");
}

#[test]
fn an_atlas_without_ablation_says_that_it_was_not_measured() {
    let site = render(&[demo()]);
    assert!(page(&site, "evidence")["ablation"].is_null());
    let html = fs::read_to_string(site.path().join(MODEL).join("evidence.html")).unwrap();
    assert!(html.contains("Not measured for this atlas."));
}

/// The demo atlas under another model's name, without some languages' neurons.
fn other() -> Atlas {
    let mut atlas = demo();
    "other/model".clone_into(&mut atlas.models[0].id);
    atlas.runs.iter_mut().for_each(|run| "other/model".clone_into(&mut run.model));
    let methods = std::mem::take(&mut atlas.methods);
    atlas.methods =
        methods.into_iter().map(|((_, method), tables)| (("other__model".to_owned(), method), tables)).collect();
    atlas
}

#[test]
fn a_switch_of_model_keeps_the_language_and_two_models_are_compared() {
    let site = render(&[demo(), other()]);
    let page = html(site.path(), &format!("{MODEL}/mlt_Latn.html"));
    assert!(page.contains("href=\"../other__model/mlt_Latn.html\""));
    assert!(site.path().join("other__model/mlt_Latn.html").is_file());
    let page = html(site.path(), &format!("{MODEL}/overlap.html"));
    assert!(page.contains("href=\"../other__model/overlap.html\""));
    let models: Value = serde_json::from_slice(&fs::read(site.path().join("models.json")).unwrap()).unwrap();
    assert_eq!(models["rows"].as_array().unwrap().len(), 132);
    let rho = models["pairs"][0]["spearman"].as_f64().unwrap();
    assert!((rho - 1.0).abs() < 1e-9, "the same sets under two names: {rho}");
}

#[test]
fn two_atlases_of_one_model_are_refused_before_anything_is_written_over() {
    let folder = TempDir::new().unwrap();
    let error = site::render_with(&[demo(), demo()], folder.path(), &english()).unwrap_err().to_string();
    assert!(error.contains("both hold neuroglot/demo-2.7m"), "{error}");
    assert!(!folder.path().join("index.html").exists());
}

#[test]
fn rendering_again_touches_nothing_that_is_the_same_and_removes_what_is_gone() {
    let folder = TempDir::new().unwrap();
    let french = Options { locales: Some(vec!["fr".to_owned()]), ..Options::default() };
    let first = site::render_with(&[demo()], folder.path(), &french).unwrap();
    assert_eq!(first.changed, first.files);
    let stamp = |path: &str| fs::metadata(folder.path().join(path)).unwrap().modified().unwrap();
    let before = stamp("index.html");
    let again = site::render_with(&[demo()], folder.path(), &french).unwrap();
    assert_eq!((again.changed, again.removed, again.files), (0, 0, first.files));
    assert_eq!(stamp("index.html"), before);

    fs::write(folder.path().join("mine.txt"), "a file of the reader's").unwrap();
    let mut smaller = demo();
    smaller.languages[0].name = "Another name".to_owned();
    let changed = site::render_with(&[smaller], folder.path(), &english()).unwrap();
    assert!(changed.changed > 0 && changed.changed < changed.files, "{changed:?}");
    assert!(changed.removed >= 132, "the French pages: {changed:?}");
    assert!(!folder.path().join("fr").exists());
    assert!(folder.path().join("mine.txt").is_file());
    let listed = fs::read_to_string(folder.path().join("neuroglot-site.txt")).unwrap();
    let listed: BTreeSet<PathBuf> = listed.lines().skip(1).map(PathBuf::from).collect();
    let mut found: BTreeSet<PathBuf> = files_below(folder.path()).into_iter().collect();
    found.remove(Path::new("mine.txt"));
    found.remove(Path::new("neuroglot-site.txt"));
    assert_eq!(listed, found);
}

#[test]
fn a_list_of_files_that_was_tampered_with_removes_nothing_outside_the_site() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("site");
    fs::write(folder.path().join("precious"), "not ours").unwrap();
    site::render_with(&[demo()], &place, &english()).unwrap();
    let list = place.join("neuroglot-site.txt");
    let absolute = folder.path().join("precious");
    let text = fs::read_to_string(&list).unwrap() + "../precious\n" + absolute.to_str().unwrap() + "\n";
    fs::write(&list, text).unwrap();
    site::render_with(&[demo()], &place, &english()).unwrap();
    assert!(absolute.is_file());
}

#[test]
fn an_address_adds_canonical_links_a_sitemap_and_pictures_and_nothing_else_names_a_host() {
    let folder = TempDir::new().unwrap();
    let url = "https://example.org/atlas/".parse().unwrap();
    let options = Options { url: Some(url), locales: Some(vec!["ar".to_owned()]), ..Options::default() };
    site::render_with(&[demo()], folder.path(), &options).unwrap();
    let page = html(folder.path(), &format!("{MODEL}/mlt_Latn.html"));
    let at = format!("https://example.org/atlas/{MODEL}/");
    assert!(page.contains(&format!("<link rel=\"canonical\" href=\"{at}mlt_Latn.html\">")));
    assert!(page.contains(&format!("<meta property=\"og:image\" content=\"{at}cards/mlt_Latn.png\">")));
    assert!(page.contains(&format!("hreflang=\"ar\" href=\"https://example.org/atlas/ar/{MODEL}/mlt_Latn.html\"")));
    let png = fs::read(folder.path().join(MODEL).join("cards/mlt_Latn.png")).unwrap();
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!((&png[16..20], &png[20..24]), (&1200u32.to_be_bytes()[..], &630u32.to_be_bytes()[..]));
    let map = fs::read_to_string(folder.path().join("sitemap.xml")).unwrap();
    let pages =
        files_below(folder.path()).into_iter().filter(|file| file.extension().is_some_and(|end| end == "html")).count();
    assert_eq!(map.matches("<loc>").count(), pages);
    assert!(map.contains("<loc>https://example.org/atlas/</loc>"));
    for bad in [
        "example.org",
        "ftp://example.org",
        "https://",
        "https://a b.org",
        "https://example.org/?q",
        "https://x/\"><script>",
    ] {
        assert!(bad.parse::<site::SiteUrl>().is_err(), "{bad}");
    }
}

#[test]
fn the_size_said_before_is_near_the_size_after() {
    let folder = TempDir::new().unwrap();
    for (data, locales) in [(site::Data::Default, None), (site::Data::Full, Some(Vec::new()))] {
        let options = Options { data, locales, ..Options::default() };
        let said = site::plan(&[demo()], &options).unwrap().bytes as f64;
        let found = site::render_with(&[demo()], folder.path(), &options).unwrap().bytes as f64;
        assert!((0.7..1.4).contains(&(said / found)), "{data:?}: said {said}, found {found}");
    }
}

#[test]
fn a_site_is_ready_for_its_hosts() {
    let site = render(&[demo()]);
    let space = fs::read_to_string(site.path().join("README.md")).unwrap();
    let head = space.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap();
    assert!(head.contains("sdk: static") && head.contains("app_file: index.html"), "{head}");
    assert!(
        fs::read_to_string(site.path().join(".github/workflows/pages.yml")).unwrap().contains("actions/deploy-pages")
    );
    assert!(site.path().join(".nojekyll").is_file());
    assert!(!site.path().join("sitemap.xml").exists(), "what needs an address is left out without one");
}

#[test]
fn figures_are_whole_svg_and_their_csv_has_a_row_for_every_neuron() {
    let mut atlas = demo();
    let maltese = atlas.languages.iter_mut().find(|language| language.code == code("mlt_Latn")).unwrap();
    maltese.name = "=cmd|' /C calc'!A0 <b>&\"".to_owned();
    let site = render(&[atlas]);
    let folder = site.path().join(MODEL).join("figures");
    let mut seen = 0;
    for file in files_below(&folder).into_iter().filter(|file| file.extension().is_some_and(|end| end == "svg")) {
        balanced(&fs::read_to_string(folder.join(&file)).unwrap(), &file);
        seen += 1;
    }
    assert!(seen > 2 * 132);
    let atlas = demo();
    let rows = atlas.method(atlas.model(None).unwrap(), "lape").unwrap().of(code("fao_Latn"));
    let csv = fs::read_to_string(folder.join("fao_Latn-map.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + rows.len());
    for (line, row) in csv.lines().skip(1).zip(rows) {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells[0].parse::<usize>().unwrap(), row.layer);
        assert_eq!(cells[2].parse::<usize>().unwrap(), row.neuron);
        assert_eq!(cells[6].parse::<f32>().unwrap().to_bits(), row.probability.unwrap().to_bits());
    }
    let languages = fs::read_to_string(folder.join("languages.csv")).unwrap();
    assert!(
        languages.contains("\"'=cmd|' /C calc'!A0 <b>&\"\"\""),
        "a name that a spreadsheet would run is kept from it"
    );
}

/// Every element of an XML text is closed, in order, and no bare `&` or `<` stands in it.
fn balanced(text: &str, file: &Path) {
    let mut open: Vec<&str> = Vec::new();
    for piece in text.split('<').skip(1) {
        let (tag, words) = piece.split_once('>').unwrap_or_else(|| panic!("{}: {piece}", file.display()));
        for reference in words.split('&').skip(1) {
            assert!(reference.split_once(';').is_some_and(|(name, _)| name.len() < 6), "{}: {words}", file.display());
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{}", file.display());
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{}: {open:?}", file.display());
}

#[test]
fn the_command_refuses_a_locale_and_an_address_that_there_are_not() {
    let folder = TempDir::new().unwrap();
    let atlas = committed();
    let atlas = atlas.to_str().unwrap();
    let said = neuroglot(folder.path(), ["site", atlas, "--locales", "en,xx"]);
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(said.stderr.contains("`xx`") && said.stderr.contains("sw"), "{}", said.stderr);
    let said = neuroglot(folder.path(), ["site", atlas, "--site-url", "example.org"]);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("https://example.org/atlas"), "{}", said.stderr);
    assert!(!folder.path().join("site").exists());
}
