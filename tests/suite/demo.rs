//! The demo from end to end, and the demo atlas that is committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use candle_core::{DType, Device, Tensor};
use neuroglot::{
    atlas::{self, Atlas},
    checkpoint::Checkpoint,
    corpus::{self, CorpusOptions, DocumentUnit, Split},
    language::LanguageCode,
    model::{Decoder, Observer, Path as Operators, Tally},
    neuron::FfnShape,
    profile::{CountsReader, CountsTable},
    tokens::{WindowPlan, Windows},
};
use tempfile::TempDir;

use crate::harness::files_below;

pub const SHAPE: FfnShape = FfnShape::dense(6, 768);

pub fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("atlas/demo-atlas")
}

/// The demo, run once for all tests that look at it.
pub fn demo() -> &'static Path {
    static DEMO: OnceLock<TempDir> = OnceLock::new();
    DEMO.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        run(folder.path());
        folder
    })
    .path()
}

fn run(out: &Path) {
    let run = Command::new(env!("CARGO_BIN_EXE_neuroglot")).args(["demo", "--out"]).arg(out).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{stderr}");
    assert!(stdout.contains("serve 132 languages") && stdout.contains("index.html"), "{stdout}");
}

fn counts(atlas: &Path) -> CountsTable {
    let path = atlas.join("data/counts/neuroglot__demo-2.7m/part-00000.parquet");
    CountsReader::open(&path).unwrap().read(SHAPE).unwrap()
}

#[test]
fn two_runs_of_the_demo_are_equal_to_the_byte() {
    let again = TempDir::new().unwrap();
    run(again.path());
    let files = files_below(demo());
    assert!(files.len() > 132 * 7, "{} files", files.len());
    assert_eq!(files, files_below(again.path()));
    for file in files {
        assert!(fs::read(demo().join(&file)).unwrap() == fs::read(again.path().join(&file)).unwrap(), "{file:?}");
    }
}

/// Where AVX-512 is missing, products in f32 are a library's, which no other test sees on a processor that has it.
#[test]
fn by_the_librarys_products_the_demo_finds_the_same_neurons() {
    let out = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_neuroglot"));
    let run = command.env("NEUROGLOT_AVX512", "0").args(["demo", "--out"]).arg(out.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let sets = |folder: &Path| {
        let atlas = Atlas::open(&folder.join("atlas")).unwrap();
        let rows = &atlas.method(atlas.model(None).unwrap(), "lape").unwrap().neurons;
        rows.iter().map(|row| (row.language, row.layer, row.neuron)).collect::<BTreeSet<_>>()
    };
    let (library, ours) = (sets(out.path()), sets(demo()));
    let (both, all) = (library.intersection(&ours).count(), library.union(&ours).count());
    assert!(both as f64 >= 0.99 * all as f64, "{both} of {all} (language, neuron) are in both");
}

#[test]
fn the_demo_runs_every_token_of_every_language_and_finds_neurons_for_each() {
    let atlas = Atlas::open(&demo().join("atlas")).unwrap();
    assert_eq!(atlas.coverage.iter().map(|row| row.tokens).sum::<u64>(), 255_360);
    assert_eq!(atlas.languages.len(), 132);
    let model = atlas.model(None).unwrap();
    let tables = atlas.method(model, "lape").unwrap();
    let sizes: Vec<usize> = atlas.languages.iter().map(|language| tables.of(language.code).len()).collect();
    assert!(sizes.iter().all(|&size| size > 0), "{sizes:?}");
    let neurons: BTreeSet<_> = tables.neurons.iter().map(|row| (row.layer, row.neuron)).collect();
    // round_half_even(4,608 · 0.05) = round(230.4)
    assert_eq!(neurons.len(), 230);
}

#[test]
fn the_committed_atlas_is_whole() {
    let wrong: Vec<_> =
        atlas::verify(&committed()).unwrap().into_iter().filter(|check| check.problem.is_some()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// How many tokens have a gate within 1e-4 of zero: another processor may round it to the other side.
struct NearZero(Vec<u64>);

impl Observer for NearZero {
    fn gate(&mut self, layer: usize, gate: &Tensor) -> candle_core::Result<()> {
        for row in gate.flatten_to(1)?.to_vec2::<f32>()? {
            for (neuron, value) in row.iter().enumerate().filter(|(_, value)| value.abs() < 1e-4) {
                self.0[layer * SHAPE.width + neuron] += u64::from(value.is_finite());
            }
        }
        Ok(())
    }
}

fn near_zero(language: LanguageCode) -> Vec<u64> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("atlas/demo");
    let checkpoint = Checkpoint::open(&demo.join("model")).unwrap();
    let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Operators::Inference).unwrap();
    let tokenizer = checkpoint.tokenizer(decoder.spec().vocabulary).unwrap();
    let options = CorpusOptions { unit: DocumentUnit::Line, text_column: None, ..CorpusOptions::default() };
    let corpus = corpus::open(&format!("dir:{}", demo.join("sentences").display()).parse().unwrap(), &options).unwrap();
    let plan = WindowPlan { context: 128, tokens: 4096, folds: 4, separator: None, vocabulary: 5120 };
    let mut found = NearZero(vec![0; SHAPE.neurons()]);
    for window in Windows::new(language, plan, &tokenizer, corpus.documents(language, Split::All).unwrap()) {
        let ids = Tensor::from_vec(window.unwrap().ids, (1, 128), &Device::Cpu).unwrap();
        decoder.observe(&ids, &mut found).unwrap();
    }
    found.0
}

#[test]
fn the_demo_gives_the_committed_counts_again_but_for_gates_near_zero() {
    let (found, wanted) = (counts(&demo().join("atlas")), counts(&committed()));
    assert_eq!(found.languages, wanted.languages);
    let total = |tally: &Tally, neuron: usize| tally.active.iter().map(|fold| fold[neuron]).sum::<u64>();
    let mut differences = 0;
    for (at, language) in found.languages.iter().enumerate() {
        let (here, there) = (&found.tallies[at], &wanted.tallies[at]);
        let unequal: Vec<usize> = (0..SHAPE.neurons()).filter(|&n| total(here, n) != total(there, n)).collect();
        if unequal.is_empty() {
            continue;
        }
        let allowed = near_zero(language.parse().unwrap());
        for neuron in unequal {
            let difference = total(here, neuron).abs_diff(total(there, neuron));
            assert!(difference <= allowed[neuron], "{language} neuron {neuron} differs by {difference}");
            differences += difference;
        }
    }
    assert!(differences as f64 <= 1e-6 * 255_360.0 * SHAPE.neurons() as f64, "{differences} differences in all");
    println!("{differences} gates near zero fell to the other side");
}

#[test]
fn the_demo_gives_the_committed_selection_again_but_for_neurons_at_the_cut() {
    let rows = |path: &Path| -> BTreeMap<(LanguageCode, usize, usize), (f32, f32)> {
        let atlas = Atlas::open(path).unwrap();
        let tables = atlas.method(atlas.model(None).unwrap(), "lape").unwrap().clone();
        let evidence = |row: &atlas::NeuronRow| (row.entropy.unwrap(), row.margin.unwrap());
        tables.neurons.iter().map(|row| ((row.language, row.layer, row.neuron), evidence(row))).collect()
    };
    let (found, wanted) = (rows(&demo().join("atlas")), rows(&committed()));
    let atlas = Atlas::open(&committed()).unwrap();
    let (_, _, result) = atlas.identification(atlas.model(None).unwrap(), "lape").unwrap();
    let cut = result.largest().unwrap().entropy_cut.unwrap() as f32;
    for (one, other) in [(&found, &wanted), (&wanted, &found)] {
        for (row, (entropy, margin)) in one.iter().filter(|(row, _)| !other.contains_key(row)) {
            // A flip or two in 2,000 tokens moves a probability by 0.001 and an entropy by less.
            assert!((entropy - cut).abs() < 1e-3 || margin.abs() < 2e-3, "{row:?}: entropy {entropy}, margin {margin}");
        }
    }
}
