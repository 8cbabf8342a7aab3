//! A zip archive in parts, each of which may lie: what the tests of damaged and hostile archives are written with.

use std::io::{Read, Write};

/// An entry as its two headers describe it and as it is. Fields that are none say the truth.
#[derive(Clone, Default)]
pub struct Entry {
    pub name: Vec<u8>,
    /// The name in front of the data, where it differs from that in the directory.
    pub local_name: Option<Vec<u8>>,
    /// What is stored, packed or not.
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    pub sum: Option<u32>,
    /// Declared sizes: packed, unpacked.
    pub sizes: Option<(u32, u32)>,
    /// The file's mode, as Unix systems say it.
    pub mode: u32,
    /// Place of the local header of another entry, by its number.
    pub shares: Option<usize>,
}

impl Entry {
    pub fn stored(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self { name: name.as_ref().to_vec(), data: data.as_ref().to_vec(), ..Self::default() }
    }

    /// Deflated; `size` is what it unpacks to.
    pub fn deflated(name: impl AsRef<[u8]>, unpacked: impl Read, declared: Option<u32>) -> Self {
        let mut unpacked = std::io::BufReader::new(unpacked);
        let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        let mut sum = flate2::Crc::new();
        let mut block = vec![0; 1 << 16];
        loop {
            match unpacked.read(&mut block).unwrap() {
                0 => break,
                n => {
                    sum.update(&block[..n]);
                    packer.write_all(&block[..n]).unwrap();
                }
            }
        }
        let data = packer.finish().unwrap();
        let sizes = (data.len() as u32, declared.unwrap_or(sum.amount()));
        let (name, method) = (name.as_ref().to_vec(), 8);
        Self { name, data, method, sum: Some(sum.sum()), sizes: Some(sizes), ..Self::default() }
    }
}

/// What stands at the end of an archive, where it is not the truth.
#[derive(Default)]
pub struct End {
    pub entries: Option<u16>,
    pub directory: Option<(u32, u32)>,
    pub comment: Vec<u8>,
    /// Entries that a zip64 record declares.
    pub zip64: Option<u64>,
}

/// The entries of an archive, in their order, unpacked.
pub fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(archive)).unwrap();
    let count = zip.len();
    let entry = |at: usize| {
        let mut file = zip.by_index(at).unwrap();
        let mut data = Vec::new();
        file.read_to_end(&mut data).unwrap();
        Entry::stored(file.name_raw(), data)
    };
    (0..count).map(entry).collect()
}

pub fn archive(entries: &[Entry]) -> Vec<u8> {
    archive_with(entries, &End::default())
}

pub fn archive_with(entries: &[Entry], end: &End) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    let mut places: Vec<u32> = Vec::new();
    for entry in entries {
        let mut sum = flate2::Crc::new();
        sum.update(&entry.data);
        let sum = entry.sum.unwrap_or(sum.sum());
        let (packed, unpacked) = entry.sizes.unwrap_or((entry.data.len() as u32, entry.data.len() as u32));
        let common = |name: &[u8], extra: u16| {
            let mut fields = Vec::new();
            for half in [20, entry.flags, entry.method, 0, 0x21] {
                fields.extend(half.to_le_bytes());
            }
            for word in [sum, packed, unpacked] {
                fields.extend(word.to_le_bytes());
            }
            fields.extend((name.len() as u16).to_le_bytes());
            fields.extend(extra.to_le_bytes());
            fields
        };
        let place = entry.shares.map_or(bytes.len() as u32, |other| places[other]);
        places.push(place);
        if entry.shares.is_none() {
            let name = entry.local_name.as_ref().unwrap_or(&entry.name);
            bytes.extend(b"PK\x03\x04");
            bytes.extend(common(name, 0));
            bytes.extend(name);
            bytes.extend(&entry.data);
        }
        directory.extend(b"PK\x01\x02");
        directory.extend([20, 3]);
        directory.extend(common(&entry.name, 0));
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(place.to_le_bytes());
        directory.extend(&entry.name);
    }
    let (start, size) = end.directory.unwrap_or((bytes.len() as u32, directory.len() as u32));
    bytes.extend(&directory);
    if let Some(count) = end.zip64 {
        let record = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([45, 3, 45, 0]);
        bytes.extend([0; 8]);
        for wide in [count, count, directory.len() as u64, u64::from(start)] {
            bytes.extend(wide.to_le_bytes());
        }
        bytes.extend(b"PK\x06\x07");
        bytes.extend([0; 4]);
        bytes.extend(record.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
    }
    bytes.extend(b"PK\x05\x06");
    bytes.extend([0; 4]);
    let count = end.entries.unwrap_or(if end.zip64.is_some() { u16::MAX } else { entries.len() as u16 });
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(if end.zip64.is_some() { u32::MAX } else { start }.to_le_bytes());
    bytes.extend((end.comment.len() as u16).to_le_bytes());
    bytes.extend(&end.comment);
    bytes
}
