//! A whole site as one zip file, to be read without a network: unpack it and open index.html. The same site gives the same bytes.

use std::{io::Write, path::Path};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::SiteError;
use crate::output::{Draft, OutputError};

/// What is packed already and would only take time.
const PACKED: [&str; 4] = ["png", "parquet", "zip", "gz"];

/// Writes the files of a site, by their paths from its folder, into a zip at a place that is none of them, in a folder `name`.
///
/// # Errors
/// When a file cannot be read or the zip cannot be written; nothing half-written stays.
pub fn write(site: &Path, paths: &[String], name: &str, place: &Path) -> Result<u64, SiteError> {
    let mut draft = Draft::new(place)?;
    let failed = |error: zip::result::ZipError| OutputError { path: place.to_owned(), source: error.into() };
    let mut sorted: Vec<&String> = paths.iter().collect();
    sorted.sort();
    let bytes = {
        let mut writer = ZipWriter::new_stream(Counted { draft: &mut draft, bytes: 0 });
        for path in sorted {
            let file = site.join(path);
            let content = std::fs::read(&file).map_err(|source| OutputError { path: file.clone(), source })?;
            let packed = file.extension().is_some_and(|extension| PACKED.iter().any(|packed| extension == *packed));
            let method = if packed { CompressionMethod::Stored } else { CompressionMethod::Deflated };
            // The default time stamp is a constant.
            let options = SimpleFileOptions::default().compression_method(method).unix_permissions(0o644);
            writer.start_file(format!("{name}/{path}"), options).map_err(failed)?;
            writer.write_all(&content).map_err(|source| OutputError { path: place.to_owned(), source })?;
        }
        writer.finish().map_err(failed)?.into_inner().bytes
    };
    draft.keep()?;
    Ok(bytes)
}

/// Counts what goes through.
struct Counted<'a> {
    draft: &'a mut Draft,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.draft.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.draft.flush()
    }
}
