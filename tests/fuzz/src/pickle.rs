//! The pickle of a file of published masks, bare, and what its lists give inside an archive of ours.
#![no_main]

use std::{io::Cursor, path::Path};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use neuroglot::{
    atlas::pth::{Lists, MaskFile},
    language::LanguageCode,
    neuron::FfnShape,
};

fuzz_target!(|bytes: &[u8]| {
    // An archive begins so; everything else is taken for the pickle in it.
    if bytes.starts_with(b"PK") {
        let Ok(mut file) = MaskFile::new(Cursor::new(bytes)) else { return };
        let codes: Vec<LanguageCode> =
            ["cym_Latn", "mlt_Latn", "fra_Latn"].iter().map(|code| code.parse().unwrap()).collect();
        if let Ok(sets) = file.sets(FfnShape::dense(2, 48), &codes) {
            assert_eq!(sets.len(), 3);
        }
    } else if let Ok(lists) = Lists::parse(bytes) {
        for tensor in lists.languages.iter().flatten() {
            let storage = &lists.storages[tensor.storage];
            assert!(tensor.length == 0 || tensor.offset + (tensor.length - 1) * tensor.stride < storage.length);
        }
    }
});

// Check sums hide what is behind them: half of the changes are made to the pickle inside the archive, which is then sealed again.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if !data.starts_with(b"PK") || seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    reseal(data, size, max_size).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});

/// Changes one entry of an archive and writes it anew.
fn reseal(data: &mut [u8], size: usize, max_size: usize) -> Option<usize> {
    use std::io::{Read, Write};
    let mut zip = zip::ZipArchive::new(Cursor::new(data[..size].to_vec())).ok()?;
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for at in 0..zip.len() {
        let mut entry = zip.by_index(at).ok()?;
        let name = entry.name().ok()?.into_owned();
        let mut bytes = Vec::new();
        entry.by_ref().take(1 << 16).read_to_end(&mut bytes).ok()?;
        if Path::new(&name).ends_with("data.pkl") {
            let length = bytes.len();
            bytes.resize(length + 64, 0);
            let length = fuzzer_mutate(&mut bytes, length, length + 64);
            bytes.truncate(length);
        }
        out.start_file(name, stored).ok()?;
        out.write_all(&bytes).ok()?;
    }
    let sealed = out.finish().ok()?.into_inner();
    (sealed.len() <= max_size.min(data.len())).then(|| {
        data[..sealed.len()].copy_from_slice(&sealed);
        sealed.len()
    })
}
