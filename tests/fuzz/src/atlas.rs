//! Every table of an atlas: the first byte says which one is replaced by the rest, and the atlas is opened, asked and verified.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use neuroglot::{
    atlas::{Atlas, Chosen, compare},
    neuron::FfnShape,
    profile::CountsReader,
};

/// The tables of an atlas of the first version, the smallest that there is.
const TABLES: [&str; 8] = [
    "data/models.parquet",
    "data/languages.parquet",
    "data/runs.parquet",
    "data/coverage.parquet",
    "data/neurons/model/lape.parquet",
    "data/overlap/model/lape.parquet",
    "data/stability/model/lape.parquet",
    "data/counts/model/part-00000.parquet",
];

/// A copy of the atlas in memory, made once.
fn atlas() -> &'static PathBuf {
    static ATLAS: OnceLock<PathBuf> = OnceLock::new();
    ATLAS.get_or_init(|| {
        let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/version-1.0/atlas");
        let shared = PathBuf::from("/dev/shm");
        let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap().keep();
        for path in TABLES.iter().chain(&["manifest.json"]) {
            fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            fs::copy(from.join(path), folder.join(path)).unwrap();
        }
        folder
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, table)) = bytes.split_first() else { return };
    let path = TABLES[usize::from(which) % TABLES.len()];
    let (folder, place) = (atlas(), atlas().join(path));
    let before = fs::read(&place).unwrap();
    fs::write(&place, table).unwrap();
    if path.starts_with("data/counts") {
        if let Ok(reader) = CountsReader::open(&place) {
            let _ = reader.coverage();
            let _ = reader.read(FfnShape::dense(2, 48));
        }
    } else if let Ok(atlas) = Atlas::open(folder) {
        for model in &atlas.models {
            let _ = compare(&Chosen { atlas: &atlas, model, method: "lape", top_rate: None }, None, None);
        }
    }
    fs::write(&place, before).unwrap();
});
