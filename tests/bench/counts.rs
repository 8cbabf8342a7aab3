//! Writing and reading the table of counts at the size of an 8B model: 458,752 neurons a language, 4 folds.
//!
//!     cargo bench --bench counts [-- LANGUAGES]        8 languages unless said; 132 are a release

use std::{path::Path, time::Instant};

use neuroglot::{
    corpus::Notes,
    model::Tally,
    neuron::FfnShape,
    profile::{CountsReader, Profile, ProfileError, TableLayout, write_counts},
    tokens::{Coverage, CoverageStatus},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SHAPE: FfnShape = FfnShape::dense(32, 14_336);
const TOKENS: u64 = 1_000_000;
const FOLDS: usize = 4;

fn main() {
    let languages: usize = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(8);
    let profile = profile();
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("counts.parquet");
    let start = Instant::now();
    let profiles = (0..languages).map(|_| Ok::<&Profile, ProfileError>(&profile));
    let layout = TableLayout {
        run: "0123456789abcdef".to_owned(),
        tokens: TOKENS,
        folds: FOLDS,
        experts: true,
        further: Vec::new(),
        group_rows: 50_000,
    };
    let rows = write_counts(&place, &layout, profiles).expect("room on the disk");
    report("write", rows, start, &place);
    let start = Instant::now();
    let table = CountsReader::open(&place).expect("a table").read(SHAPE).expect("its rows");
    report("read", table.languages.len() * SHAPE.neurons(), start, &place);
}

fn report(what: &str, rows: usize, start: Instant, place: &Path) {
    let seconds = start.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(place).expect("it was written").len();
    println!(
        "{what:5} {rows} rows, {:.1} MB: {seconds:.2} s, {:.2} million rows/s",
        bytes as f64 / 1e6,
        rows as f64 / seconds / 1e6
    );
}

/// Counts as a model gives them: mostly quiet neurons, moments without pattern in their last bits.
fn profile() -> Profile {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut unit = move || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut tally = Tally::new(SHAPE, FOLDS);
    for neuron in 0..SHAPE.neurons() {
        let rate = 0.02 + 0.4 * unit().powi(3);
        for fold in &mut tally.active {
            fold[neuron] = ((rate + 0.01 * unit()) * TOKENS as f64 / FOLDS as f64) as u64;
        }
        tally.sum[neuron] = (unit() - 0.5) * TOKENS as f64;
        tally.sum_sq[neuron] = unit() * TOKENS as f64;
        tally.max[neuron] = (unit() * 10.0) as f32;
    }
    let coverage = Coverage {
        language: "mlt_Latn".parse().expect("a code"),
        status: CoverageStatus::Full,
        tokens: TOKENS,
        tokens_read: TOKENS,
        notes: Notes::default(),
        fold_tokens: vec![TOKENS / FOLDS as u64; FOLDS],
        fold_documents: vec![1; FOLDS],
        text_sha256: String::new(),
    };
    Profile { coverage, tally }
}
