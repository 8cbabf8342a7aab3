//! `torch.save` files of lists of int64 tensors: a zip of stored entries around a pickle (protocol 2), as `torch` writes
//! them, so that `torch.load(…, weights_only=True)` and published scripts read our masks.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// `list[language][layer]` of sorted int64 indices.
pub fn lists(languages: &[&[Vec<u32>]]) -> Vec<u8> {
    let mut pickle = Pickle::new();
    let mut storages: Vec<&[u32]> = Vec::new();
    pickle.list(|pickle| {
        for layers in languages {
            pickle.list(|pickle| {
                for layer in *layers {
                    pickle.tensor(storages.len(), layer.len());
                    storages.push(layer);
                }
            });
        }
    });
    archive(&pickle.end(), &storages).expect("memory does not refuse a write")
}

fn archive(pickle: &[u8], storages: &[&[u32]]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    // The default time stamp is a constant, so that the same masks are the same bytes.
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut entry = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored)?;
        zip.write_all(bytes).map_err(zip::result::ZipError::from)
    };
    entry("data.pkl", pickle)?;
    entry("byteorder", b"little")?;
    for (key, indices) in storages.iter().enumerate() {
        let bytes: Vec<u8> = indices.iter().flat_map(|&index| i64::from(index).to_le_bytes()).collect();
        entry(&format!("data/{key}"), &bytes)?;
    }
    entry("version", b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

/// The few opcodes of Python's pickle that such a file needs.
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }

    fn list(&mut self, mut items: impl FnMut(&mut Self)) {
        self.0.extend(b"](");
        items(self);
        self.0.push(b'e');
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
    }

    fn integer(&mut self, value: usize) {
        self.0.push(b'J');
        self.0.extend(i32::try_from(value).expect("a layer has fewer than 2^31 neurons").to_le_bytes());
    }

    /// `torch._utils._rebuild_tensor_v2(storage, 0, (length,), (1,), False, OrderedDict())`, the storage by persistent id
    /// `('storage', torch.LongStorage, key, 'cpu', length)`.
    fn tensor(&mut self, key: usize, length: usize) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.extend(b"((");
        self.text("storage");
        self.global("torch", "LongStorage");
        self.text(&key.to_string());
        self.text("cpu");
        self.integer(length);
        self.0.extend(b"tQ");
        self.integer(0);
        self.integer(length);
        self.0.push(0x85);
        self.integer(1);
        self.0.extend([0x85, 0x89]);
        self.global("collections", "OrderedDict");
        self.0.extend(b")RtR");
    }
}
