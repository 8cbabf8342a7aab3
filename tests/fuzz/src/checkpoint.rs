//! A GGUF file, or, behind a first byte, one of the files of a model's folder: config.json, tokenizer.json, model.safetensors.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use neuroglot::{checkpoint::Checkpoint, model::family};

const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-llama/scaled");
        let shared = PathBuf::from("/dev/shm");
        let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap().keep();
        for file in FILES {
            fs::copy(from.join(file), folder.join(file)).unwrap();
        }
        folder
    })
}

fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    if bytes.starts_with(b"GGUF") {
        let place = folder.join("model.gguf");
        fs::write(&place, bytes).unwrap();
        open(&place);
        return;
    }
    let Some((&which, file)) = bytes.split_first() else { return };
    let place = folder.join(FILES[usize::from(which) % FILES.len()]);
    let before = fs::read(&place).unwrap();
    fs::write(&place, file).unwrap();
    open(folder);
    fs::write(&place, before).unwrap();
});

/// Everything that comes before the weights are read.
fn open(path: &std::path::Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let Ok(architecture) = family::read(&checkpoint) else { return };
    if checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name)).is_ok() {
        let _ = checkpoint.tokenizer(architecture.spec.vocabulary);
        let _ = architecture.parameters();
    }
}
