//! How a file comes to be: written beside its place, flushed to the disk, renamed. A reader never sees half of one, and a
//! run that is killed leaves the old file or none.

use std::{
    fs::File,
    io::{BufWriter, ErrorKind, Read, Write},
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// A file on its way. Dropped before [`Draft::keep`], it leaves nothing behind.
pub struct Draft {
    writer: Option<BufWriter<File>>,
    beside: PathBuf,
    place: PathBuf,
}

impl Draft {
    /// Begins a file that will stand at `place`; its folder is made if need be.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn new(place: &Path) -> Result<Self, OutputError> {
        let failed = |source| OutputError { path: place.to_owned(), source };
        let folder = place.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let name = place.file_name().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?.to_string_lossy();
        let beside = folder.join(format!(".{name}.part"));
        let file = File::create(&beside).map_err(failed)?;
        Ok(Self { writer: Some(BufWriter::with_capacity(1 << 16, file)), beside, place: place.to_owned() })
    }

    /// Puts the finished file into its place.
    ///
    /// # Errors
    /// When the disk is full or the rename fails; the place is then as it was.
    pub fn keep(self) -> Result<(), OutputError> {
        self.put(true)
    }

    fn put(mut self, wait: bool) -> Result<(), OutputError> {
        let failed = |source| OutputError { path: self.place.clone(), source };
        let writer = self.writer.take().expect("a draft is kept once");
        let file = writer.into_inner().map_err(|error| failed(error.into_error()))?;
        if wait {
            file.sync_all().map_err(failed)?;
        }
        std::fs::rename(&self.beside, &self.place).map_err(failed)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.writer.as_mut().expect("a kept draft is gone").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.as_mut().expect("a kept draft is gone").flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing beside any more; a failed clean-up leaves a `.part` that the next run overwrites.
        let _ = std::fs::remove_file(&self.beside);
    }
}

/// Whether a folder holds anything but files of these names. What a killed run left of a [`Draft`] is nothing: the next one writes
/// over it.
#[must_use]
pub fn is_occupied(folder: &Path, ours: &[&str]) -> bool {
    let is_draft = |name: &str| name.strip_prefix('.').and_then(|name| name.strip_suffix(".part")).is_some();
    let foreign = |name: &str| !ours.contains(&name) && !is_draft(name);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| foreign(&entry.file_name().to_string_lossy()))
}

/// Writes a whole file.
///
/// # Errors
/// As [`Draft`].
pub fn write(place: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut draft = Draft::new(place)?;
    draft.write_all(bytes).map_err(|source| OutputError { path: place.to_owned(), source })?;
    draft.keep()
}

/// Writes a whole file that the same command would make again: renamed into its place like any other, but not waited for until it is on
/// the disk. A thousand pages are written in the time that a disk takes for a few waits.
///
/// # Errors
/// As [`Draft`].
pub fn write_again(place: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut draft = Draft::new(place)?;
    draft.write_all(bytes).map_err(|source| OutputError { path: place.to_owned(), source })?;
    draft.put(false)
}

/// SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// SHA-256 of a file, in hexadecimal, without reading it into memory.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_file(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}

/// Whether a path from elsewhere stays inside the folder that it is put below: names only, none that climbs or begins anew.
#[must_use]
pub fn stays_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && !path.ends_with('/')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// A size as people say it, `1.2 GB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let power = (bytes.ilog10() as usize / 3).min(units.len());
    // 999,950 bytes are 1.0 MB, not 1000.0 kB.
    let rounded = bytes as f64 / 1000f64.powi(power as i32);
    let power = if rounded >= 999.95 && power < units.len() { power + 1 } else { power };
    format!("{:.1} {}", bytes as f64 / 1000f64.powi(power as i32), units[power - 1])
}

/// A number with its thousands apart, `1,234,567`.
#[must_use]
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).expect("digits")).collect();
    groups.join(",")
}

/// `1 neuron`, `14 neurons`.
#[must_use]
pub fn count(n: usize, what: &str) -> String {
    format!("{} {what}{}", thousands(n as u64), if n == 1 { "" } else { "s" })
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot be written: {source}{}", way_out(.source))]
pub struct OutputError {
    /// Its place.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// What to do about a problem, unless its words say so already: they do behind a semicolon.
#[must_use]
pub(crate) fn unless_said<'a>(problem: &str, way_out: &'a str) -> &'a str {
    if problem.contains("; ") { "" } else { way_out }
}

fn way_out(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; make room and run the same command again, what is finished is kept"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that you may write to with --out"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "; a file stands where a folder is wanted, choose another --out"
        }
        ErrorKind::IsADirectory => "; a folder stands where a file is wanted, choose another --out",
        _ => "",
    }
}
