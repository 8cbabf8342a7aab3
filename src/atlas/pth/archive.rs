//! The zip archive around a `torch.save` file: its entries checked before any is read, none ever written to a disk.
//! In: a reader. Out: the bytes of an entry, no more than were asked for.

use std::io::{Read, Seek, SeekFrom};

use flate2::{Crc, read::DeflateDecoder};
use zip::{CompressionMethod, ZipArchive};

use super::read::PthError;

/// Entries that an archive may have: one a tensor and half a dozen more.
const MOST_ENTRIES: usize = 1 << 18;
/// What an archive begins with: the signature of its first entry.
const SIGNATURE: &[u8] = b"PK\x03\x04";

/// An archive whose every entry lies below one folder, once, where its directory says, and overlaps no other.
pub struct Archive<R> {
    zip: ZipArchive<R>,
    root: String,
}

impl<R: Read + Seek> Archive<R> {
    /// Opens an archive and checks all of it but the entries' contents.
    pub fn open(mut reader: R) -> Result<Self, PthError> {
        let mut start = [0; 4];
        let found = read_up_to(&mut reader, &mut start)?;
        if found == 0 {
            return Err(PthError::Empty);
        }
        if &start[..found] != SIGNATURE {
            // Before torch 1.6 a file was pickles one after the other, the first of them a number.
            return Err(if start.starts_with(&[0x80, 2, 0x8a]) { PthError::Legacy } else { PthError::NoZip });
        }
        reader.seek(SeekFrom::Start(0))?;
        let mut zip = ZipArchive::new(reader).map_err(PthError::zip)?;
        if zip.len() > MOST_ENTRIES {
            return Err(PthError::Zip(format!("has {} entries, more than any mask needs", zip.len())));
        }
        if zip.offset() != 0 {
            return Err(PthError::Zip(format!("has {} bytes before its first entry", zip.offset())));
        }
        zip.validate_header_consistency().map_err(PthError::zip)?;
        let root = root(&mut zip)?;
        Ok(Self { zip, root })
    }

    /// The size that an entry declares, by its name below the root; none if there is no such entry.
    pub fn size(&mut self, name: &str) -> Result<Option<u64>, PthError> {
        match self.zip.index_for_name(&format!("{}/{name}", self.root)) {
            None => Ok(None),
            Some(index) => Ok(Some(self.zip.by_index_raw(index).map_err(PthError::zip)?.size())),
        }
    }

    /// The bytes of an entry that has at most so many.
    pub fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>, PthError> {
        let path = format!("{}/{name}", self.root);
        let problem = |problem: String| PthError::Zip(format!("entry `{path}` {problem}"));
        let index = self.zip.index_for_name(&path).ok_or_else(|| problem("is missing".to_owned()))?;
        let entry = self.zip.by_index_raw(index).map_err(PthError::zip)?;
        let (size, sum, compression) = (entry.size(), entry.crc32(), entry.compression());
        if size > most {
            return Err(problem(format!("declares {size} bytes, more than the {most} that it may have")));
        }
        // What an entry really holds is not what it declares: one byte more is asked for, and none beyond it is ever unpacked.
        let mut bytes = Vec::new();
        let read = match compression {
            CompressionMethod::Stored => entry.take(size + 1).read_to_end(&mut bytes),
            _ => DeflateDecoder::new(entry).take(size + 1).read_to_end(&mut bytes),
        };
        read.map_err(|error| problem(format!("cannot be unpacked: {error}")))?;
        if bytes.len() as u64 != size {
            return Err(problem(format!("does not hold the {size} bytes that it declares")));
        }
        let mut found = Crc::new();
        found.update(&bytes);
        if found.sum() != sum {
            return Err(problem(format!("has the check sum {:08x}, but {sum:08x} is declared", found.sum())));
        }
        Ok(bytes)
    }
}

fn read_up_to(reader: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut found = 0;
    while found < bytes.len() {
        match reader.read(&mut bytes[found..])? {
            0 => break,
            more => found += more,
        }
    }
    Ok(found)
}

/// The one folder that all entries lie in, whatever its name; entries of any other kind or place are refused, though none is unpacked.
fn root<R: Read + Seek>(zip: &mut ZipArchive<R>) -> Result<String, PthError> {
    let mut root: Option<String> = None;
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(PthError::zip)?;
        let name = entry.name().map_err(PthError::zip)?.into_owned();
        let shown: String = name.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let problem = |problem: &str| Err(PthError::Zip(format!("entry `{shown}` {problem}")));
        let parts: Vec<&str> = name.strip_suffix('/').unwrap_or(&name).split('/').collect();
        if name.contains(['\\', '\0']) || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return problem("leads out of the archive");
        }
        if parts.len() < 2 && !entry.is_dir() {
            return problem("lies in no folder, as torch's do");
        }
        if entry.is_symlink() {
            return problem("is a link");
        }
        if entry.encrypted() {
            return problem("is encrypted");
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::DEFLATE) {
            return problem("is packed in a way that torch does not write");
        }
        let first = parts.first().copied().unwrap_or_default();
        match &root {
            Some(root) if root != first => return problem(&format!("lies beside the folder `{root}` of the others")),
            Some(_) => {}
            None => root = Some(first.to_owned()),
        }
    }
    root.ok_or_else(|| PthError::Zip("has no entries".to_owned()))
}
