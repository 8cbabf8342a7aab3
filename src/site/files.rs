//! Where the site's files go: each written once, left alone where it already says the same, and removed where the site no longer has it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::SiteError;
use crate::output;

/// A file by which a site is known to be ours; it lists every other one.
const MARK: &str = "neuroglot-site.txt";
const HEAD: &str = "A website rendered by neuroglot; open index.html. Its files:";

/// The files of one site.
pub struct Files {
    place: PathBuf,
    written: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    paths: BTreeSet<String>,
    bytes: u64,
    changed: usize,
}

/// What became of a site's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Files of the site.
    pub files: usize,
    /// Their bytes together.
    pub bytes: u64,
    /// How many were new or not what they had been.
    pub changed: usize,
    /// How many of an earlier site went.
    pub removed: usize,
}

impl Files {
    /// A site in a folder that is new, empty or holds a site of ours.
    pub fn new(place: &Path) -> Result<Self, SiteError> {
        let entries: Vec<_> = std::fs::read_dir(place).into_iter().flatten().flatten().collect();
        let ours = |name: &std::ffi::OsStr| name == MARK || name == "assets" || name == "index.html";
        if !entries.is_empty() && !entries.iter().any(|entry| ours(&entry.file_name())) {
            return Err(SiteError::Occupied { path: place.to_owned() });
        }
        Ok(Self { place: place.to_owned(), written: Mutex::default() })
    }

    /// Puts a file at a path within the site. One that holds the same bytes already is not touched.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), SiteError> {
        let place = self.place.join(path);
        let same = std::fs::metadata(&place).is_ok_and(|found| found.is_file() && found.len() == bytes.len() as u64)
            && std::fs::read(&place).is_ok_and(|found| found == bytes);
        if !same {
            output::write_again(&place, bytes)?;
        }
        let mut written = self.written.lock().expect("no writer panics");
        if written.paths.insert(path.to_owned()) {
            written.bytes += bytes.len() as u64;
            written.changed += usize::from(!same);
        }
        Ok(())
    }

    /// Every file put so far, by path.
    pub fn paths(&self) -> Vec<String> {
        self.written.lock().expect("no writer panics").paths.iter().cloned().collect()
    }

    /// Writes the list of files, then removes what an earlier list named and this one does not.
    pub fn finish(self) -> Result<Written, SiteError> {
        let before = std::fs::read_to_string(self.place.join(MARK)).unwrap_or_default();
        let list = format!("{HEAD}\n{}\n", self.paths().join("\n"));
        let Tally { paths, bytes, changed } = self.written.into_inner().expect("no writer panics");
        let stale = before.lines().skip(1).filter(|path| !paths.contains(*path) && within(path));
        let mut removed = 0;
        for path in stale {
            let place = self.place.join(path);
            // What was removed by hand is gone as it should be; a folder that still holds something stays.
            removed += usize::from(std::fs::remove_file(&place).is_ok());
            for folder in place.ancestors().skip(1).take_while(|folder| *folder != self.place) {
                if std::fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
        if before != list {
            output::write(&self.place.join(MARK), list.as_bytes())?;
        }
        Ok(Written { files: paths.len(), bytes, changed, removed })
    }
}

/// Whether a line of an earlier list is a path inside the site: the list may have been edited.
fn within(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}
