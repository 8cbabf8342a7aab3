//! The website in a real browser, and the snippets that it shows, run as they stand.

use std::{fs, io::Write, path::Path, process::Command};

use neuroglot::{
    atlas::Atlas,
    language::LanguageCode,
    site::{self, Options},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{demo::committed, harness::neuroglot, readers::python};

const MODEL: &str = "neuroglot__demo-2.7m";

/// The demo atlas made hard to show: names that are code or turn the text around, a language without neurons, one with a single one.
fn hostile() -> Atlas {
    let mut atlas = Atlas::open(&committed()).unwrap();
    let code = |text: &str| -> LanguageCode { text.parse().unwrap() };
    let mut rename = |which: &str, name: &str, autonym: &str| {
        let language = atlas.languages.iter_mut().find(|language| language.code == code(which)).unwrap();
        (language.name, language.autonym) = (name.to_owned(), Some(autonym.to_owned()));
    };
    rename("mlt_Latn", "<script>alert(\"x\")</script> & 'quotes'", "\"><img src=x onerror=alert(1)>");
    rename("isl_Latn", "\u{202e}turned\u{202c} \u{2067}around\u{2069}", "\u{202e}\u{202e}never closed");
    for tables in atlas.methods.values_mut() {
        let mut kept = false;
        tables.neurons.retain(|row| {
            let first = row.language == code("cym_Latn") && !kept;
            kept |= first;
            row.language != code("est_Latn") && (row.language != code("cym_Latn") || first)
        });
    }
    atlas
}

/// What a browser and its validators say of a site; they are named where they are missing.
fn browse(folder: &Path, further: &[&str]) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|run| run.status.success());
    let chromium = std::env::var("NEUROGLOT_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
    let missing: Vec<&str> = [
        (there("node"), "node 20"),
        (there(&chromium), "chromium (or NEUROGLOT_CHROMIUM)"),
        (there("java"), "java"),
        (tests.join("node_modules").is_dir(), "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --prefix tests/browser"),
    ]
    .into_iter()
    .filter_map(|(there, what)| (!there).then_some(what))
    .collect();
    if !missing.is_empty() {
        // Past `eprintln!`, whose words the harness keeps to itself when a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "\n*** NOT RUN: the website was not looked at in a browser. What is missing: {}\n",
            missing.join("; ")
        );
        return;
    }
    let run = Command::new("node").arg(tests.join("run.mjs")).arg(folder).args(further).output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_browser_finds_nothing_wrong_with_the_site_of_an_atlas_that_is_hard_to_show() {
    let folder = TempDir::new().unwrap();
    let options = Options { locales: Some(["en", "fr", "ar"].map(str::to_owned).to_vec()), ..Options::default() };
    site::render_with(&[hostile()], folder.path(), &options).unwrap();
    browse(folder.path(), &["--quick"]);
}

#[test]
fn the_snippets_of_a_languages_page_do_what_they_say() {
    let Some(python) = python("numpy, torch, safetensors, transformers") else { return };
    let folder = TempDir::new().unwrap();
    let options = Options { locales: Some(vec!["en".to_owned()]), ..Options::default() };
    site::render_with(&[Atlas::open(&committed()).unwrap()], &folder.path().join("site"), &options).unwrap();
    let page: Value =
        serde_json::from_slice(&fs::read(folder.path().join(format!("site/{MODEL}/mlt_Latn.json"))).unwrap()).unwrap();
    let html = fs::read_to_string(folder.path().join(format!("site/{MODEL}/mlt_Latn.html"))).unwrap();
    // The snippets name the atlas `ATLAS` and the model by its id: both stand here under these names.
    let link = |from: &Path, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(from, to).unwrap();
    };
    link(&committed(), "ATLAS");
    link(&Path::new(env!("CARGO_MANIFEST_DIR")).join("atlas/demo/model"), "neuroglot/demo-2.7m");
    let command = page["snippets"]["command"].as_str().unwrap();
    assert!(html.contains(command), "the page shows another command than its data: {command}");
    let arguments = command.strip_prefix("neuroglot ").unwrap();
    neuroglot(folder.path(), arguments.split_whitespace()).done();
    let downloaded = fs::read(folder.path().join(format!("site/{MODEL}/mlt_Latn.safetensors"))).unwrap();
    assert!(
        fs::read(folder.path().join("mlt_Latn.safetensors")).unwrap() == downloaded,
        "the download is what the command makes"
    );
    // Behind the page's own lines: every neuron that the mask names is silent, and others are not.
    let snippet = page["snippets"]["python"].as_str().unwrap();
    let check = "
seen = []
for layer in model.model.layers:
    layer.mlp.down_proj.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    layer.mlp.act_fn.register_forward_hook(lambda module, inputs, a: seen.append(a))
model(torch.arange(2, 66)[None])
silent = 0
for gate, off in zip(seen[0::2], masks):
    off = off[: gate.shape[-1]]
    assert (gate[..., off] == 0).all(), 'a neuron of the mask is active'
    assert (gate[..., ~off] != 0).any(), 'the whole layer is silent'
    silent += int(off.sum())
print(silent)
";
    fs::write(folder.path().join("snippet.py"), format!("{snippet}\n{check}")).unwrap();
    let run = Command::new(python)
        .current_dir(folder.path())
        .env("HF_HUB_OFFLINE", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg("snippet.py")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{stderr}");
    assert_eq!(stdout.trim(), page["counts"]["total"].to_string(), "{stderr}");
}
