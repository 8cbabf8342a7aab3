//! Renders the site of a synthetic atlas at the size of an 8B model over 132 languages; the atlas is made once and kept.
//!
//!     cargo bench --bench site -- FOLDER [MODELS [LAYERS WIDTH LANGUAGES [EXPERTS]]] [--full]
//!
//! Then `node tests/browser/run.mjs FOLDER/site --speed` takes the browser's figures.

use std::{path::PathBuf, time::Instant};

use neuroglot::{atlas::Atlas, neuron::FfnShape, site};

#[path = "synthetic.rs"]
mod synthetic;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| text != "--bench").collect();
    let full = arguments.iter().any(|text| text == "--full");
    let words: Vec<&String> = arguments.iter().filter(|text| !text.starts_with("--")).collect();
    let Some(folder) = words.first() else { panic!("give a folder with some gigabytes of room") };
    let folder = PathBuf::from(folder);
    let number = |at: usize, otherwise: usize| words.get(at).map_or(otherwise, |text| text.parse().expect("a number"));
    let shape = FfnShape { layers: number(2, 32), width: number(3, 14_336), experts: number(5, 1) };
    let (models, languages) = (number(1, 1), synthetic::languages(number(4, 132)));
    let models: Vec<_> = (0..models)
        .map(|seed| synthetic::Model {
            id: format!("synthetic/model-{}", (b'a' + seed as u8) as char),
            shape,
            seed: seed as u64,
        })
        .collect();
    if !folder.join("atlas/manifest.json").is_file()
        || Atlas::open(&folder.join("atlas")).expect("an atlas").models.len() < models.len()
    {
        let start = Instant::now();
        synthetic::build(&folder, &models, &languages);
        println!(
            "atlas of {} models, {shape}, {} languages: {:.1} s",
            models.len(),
            languages.len(),
            start.elapsed().as_secs_f64()
        );
    }
    let start = Instant::now();
    let atlas = Atlas::open(&folder.join("atlas")).expect("an atlas");
    let data = if full { site::Data::Full } else { site::Data::Default };
    let options = site::Options { data, ..site::Options::default() };
    let report = site::render_with(&[atlas], &folder.join("site"), &options).expect("a site can be written there");
    println!(
        "site: {} pages, {} files, {:.1} MB, {:.1} s, peak memory {} MB",
        report.pages,
        report.files,
        report.bytes as f64 / 1e6,
        start.elapsed().as_secs_f64(),
        peak()
    );
}

/// The most memory that this process has held, in MB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) * 1024 / 1_000_000
}
