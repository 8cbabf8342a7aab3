//! manifest.json: what is read leads nowhere outside the atlas, and is written as it was read.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use neuroglot::atlas::Manifest;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("manifest.json");
    let Ok(manifest) = Manifest::parse(path, bytes) else { return };
    for file in &manifest.files {
        assert!(Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_))));
    }
    let again = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(Manifest::parse(path, &again).unwrap(), manifest);
});
