//! Files of a repository at one commit: listed, brought into the cache whole, checked against the hashes that the Hub's tree gives.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use hf_hub::repository::RepoTreeEntry;
use sha1::{Digest as _, Sha1};

use super::{Hub, HubError, Kind, Meter, RepoId, Watch, check_revision, is_commit};
use crate::output;

/// What the Hub says of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file in the storage for large files, by the id of the pointer that git has in its place. The pointer names the SHA-256 and
    /// the size and nothing else, so that whoever knows these two knows the id; the hash itself is in the Hub's answer, under a name
    /// that the crate below does not look for.
    Large {
        /// The pointer's id in git.
        pointer: String,
    },
    /// A file in git itself.
    Small {
        /// Its id there.
        blob: String,
    },
    /// Nothing: a file of the cache, which is asked without the Hub.
    Unknown,
}

/// A file in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path from the repository's root.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its content.
    pub content: Content,
}

/// A repository at one commit.
pub struct Snapshot {
    hub: Hub,
    kind: Kind,
    repo: RepoId,
    commit: String,
    tree: OnceLock<BTreeMap<String, RemoteFile>>,
}

/// Files that are fetched at the same time.
const AT_ONCE: usize = 8;

impl Hub {
    /// The repository at a revision: `main` unless said. The answer is a commit, whatever the revision was, so that everything
    /// after it is of one piece.
    ///
    /// # Errors
    /// When there is no such repository or revision, it may not be seen, or the network is down; offline, when the cache does not
    /// know the revision.
    pub fn snapshot(&self, kind: Kind, repo: &RepoId, revision: Option<&str>) -> Result<Snapshot, HubError> {
        let revision = revision.unwrap_or("main");
        check_revision(revision)?;
        let commit = if self.environment.offline {
            self.remembered(kind, repo, revision)?
        } else {
            let commit = self.commit_of(kind, repo, Some(revision))?;
            self.remember(kind, repo, revision, &commit);
            commit
        };
        Ok(self.at_commit(kind, repo, commit))
    }

    /// The repository at a commit that is known.
    #[must_use]
    pub fn at(&self, kind: Kind, repo: &RepoId, commit: &str) -> Snapshot {
        self.at_commit(kind, repo, commit.to_owned())
    }

    pub(super) fn at_commit(&self, kind: Kind, repo: &RepoId, commit: String) -> Snapshot {
        Snapshot { hub: self.clone(), kind, repo: repo.clone(), commit, tree: OnceLock::new() }
    }

    fn folder(&self, kind: Kind, repo: &RepoId) -> PathBuf {
        self.environment.cache.join(format!("{}--{}--{}", kind.cached(), repo.owner(), repo.name()))
    }

    fn remembered(&self, kind: Kind, repo: &RepoId, revision: &str) -> Result<String, HubError> {
        let folder = self.folder(kind, repo);
        let commit = if is_commit(revision) {
            Some(revision.to_owned()).filter(|commit| folder.join("snapshots").join(commit).is_dir())
        } else {
            fs::read_to_string(folder.join("refs").join(revision)).ok().map(|commit| commit.trim().to_owned())
        };
        commit.filter(|commit| is_commit(commit)).ok_or_else(|| HubError::Offline {
            what: format!("the {kind} `{repo}` at revision {revision}"),
            cache: self.environment.cache.clone(),
        })
    }

    /// Writes where a branch or tag stands, as `huggingface_hub` does, so that both know it offline.
    fn remember(&self, kind: Kind, repo: &RepoId, revision: &str, commit: &str) {
        if is_commit(revision) {
            return;
        }
        let place = self.folder(kind, repo).join("refs").join(revision);
        let known = fs::read_to_string(&place).is_ok_and(|known| known.trim() == commit);
        if !known && let Err(error) = output::write(&place, commit.as_bytes()) {
            tracing::debug!(%error, "a revision is not remembered");
        }
    }
}

impl Snapshot {
    /// The commit.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The repository.
    #[must_use]
    pub fn repo(&self) -> &RepoId {
        &self.repo
    }

    /// `owner/name@commit`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}@{}", self.repo, self.commit)
    }

    /// Every file, by path. Offline, those that the cache holds.
    ///
    /// # Errors
    /// When the Hub cannot be asked, or lists a path that would leave a folder.
    pub fn files(&self) -> Result<&BTreeMap<String, RemoteFile>, HubError> {
        if let Some(files) = self.tree.get() {
            return Ok(files);
        }
        let files = self.below("")?;
        Ok(self.tree.get_or_init(|| files))
    }

    /// The files below a folder of the repository, by path; none where there is no such folder.
    ///
    /// # Errors
    /// As [`Snapshot::files`].
    pub fn below(&self, folder: &str) -> Result<BTreeMap<String, RemoteFile>, HubError> {
        if self.hub.environment.offline {
            return Ok(self.cached_below(folder));
        }
        let entries = self.tree(folder, true)?.into_iter();
        let files = entries.filter_map(|entry| match entry {
            RepoTreeEntry::File { oid, size, path, lfs, .. } => {
                let content = match lfs {
                    Some(_) => Content::Large { pointer: oid },
                    None => Content::Small { blob: oid },
                };
                Some(RemoteFile { path, bytes: size, content })
            }
            RepoTreeEntry::Directory { .. } => None,
        });
        files.map(|file| self.plain(&file.path).map(|()| (file.path.clone(), file))).collect()
    }

    /// The names of the folders right below a folder, sorted.
    ///
    /// # Errors
    /// As [`Snapshot::files`].
    pub fn folders(&self, folder: &str) -> Result<Vec<String>, HubError> {
        let inside = |path: &str| {
            let rest = if folder.is_empty() { path } else { path.strip_prefix(folder)?.strip_prefix('/')? };
            rest.split_once('/').map(|(name, _)| name.to_owned())
        };
        let mut names: Vec<String> = if self.hub.environment.offline {
            self.cached_below(folder).keys().filter_map(|path| inside(path)).collect()
        } else {
            let entries = self.tree(folder, false)?.into_iter();
            let name = |entry| match entry {
                RepoTreeEntry::Directory { path, .. } => inside(&format!("{path}/")),
                RepoTreeEntry::File { .. } => None,
            };
            entries.filter_map(name).collect()
        };
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn tree(&self, folder: &str, recursive: bool) -> Result<Vec<RepoTreeEntry>, HubError> {
        let path = (!folder.is_empty()).then(|| folder.to_owned());
        let question = self.hub.question(self.kind, &self.repo, Some(&self.commit), path.as_deref());
        let files = self.hub.files_of(self.kind, &self.repo);
        let ask = || {
            files.list_tree().revision(self.commit.clone()).maybe_path_in_repo(path.clone()).recursive(recursive).send()
        };
        match Hub::persist(&question, ask) {
            Err(HubError::NoFile { .. }) if path.is_some() => Ok(Vec::new()),
            entries => entries,
        }
    }

    /// A path from elsewhere becomes a path on this machine: one that would climb out of its folder is refused.
    fn plain(&self, path: &str) -> Result<(), HubError> {
        if output::stays_inside(path) {
            return Ok(());
        }
        let problem = format!("`{}` lists a file `{path}`, which would lie outside the repository", self.repo);
        Err(HubError::Strange { endpoint: self.hub.endpoint(), problem })
    }

    fn cached_below(&self, folder: &str) -> BTreeMap<String, RemoteFile> {
        let root = self.hub.folder(self.kind, &self.repo).join("snapshots").join(&self.commit);
        let mut found = BTreeMap::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                // Through the link to its blob: a link into nothing is no file.
                match fs::metadata(entry.path()) {
                    Ok(about) if about.is_dir() => open.push(path),
                    Ok(about) => {
                        let file = RemoteFile { path: path.clone(), bytes: about.len(), content: Content::Unknown };
                        found.insert(path, file);
                    }
                    Err(_) => {}
                }
            }
        }
        found
    }

    /// What the tree says of one file.
    ///
    /// # Errors
    /// As [`Snapshot::files`]; also when there is no such file.
    pub fn file(&self, path: &str) -> Result<&RemoteFile, HubError> {
        let missing = || {
            if self.hub.environment.offline {
                let what = format!("{path} of `{}`", self.id());
                return HubError::Offline { what, cache: self.hub.environment.cache.clone() };
            }
            HubError::NoFile {
                kind: self.kind,
                repo: self.repo.clone(),
                revision: self.commit.clone(),
                path: path.to_owned(),
            }
        };
        self.files()?.get(path).ok_or_else(missing)
    }

    /// Asks whether a file would be given out, without fetching it.
    ///
    /// # Errors
    /// When the repository's conditions are not accepted, or it may not be read at all.
    pub fn check_access(&self, file: &RemoteFile) -> Result<(), HubError> {
        if self.hub.environment.offline || self.cached(file).is_some() {
            return Ok(());
        }
        let question = self.hub.question(self.kind, &self.repo, Some(&self.commit), Some(&file.path));
        let files = self.hub.files_of(self.kind, &self.repo);
        let ask = || files.get_file_metadata().filepath(&file.path).revision(&self.commit).send();
        match Hub::persist(&question, ask) {
            // The storage that a large file is redirected to does not repeat the Hub's headers: it was given out.
            Ok(_) | Err(HubError::Strange { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where a file lies in the cache, if it does and is whole.
    #[must_use]
    pub fn cached(&self, file: &RemoteFile) -> Option<PathBuf> {
        if self.unchecked(&file.path).exists() {
            return None;
        }
        let place = self.place(&file.path);
        fs::metadata(&place).is_ok_and(|about| about.is_file() && about.len() == file.bytes).then_some(place)
    }

    /// Stands in the cache while a file is fetched and not compared yet: a process that is killed in between leaves it, and nobody
    /// takes the file for whole.
    fn unchecked(&self, path: &str) -> PathBuf {
        let name = format!("{}.unchecked", &output::sha256(format!("{}/{path}", self.commit).as_bytes())[..32]);
        let locks = self.hub.environment.cache.join(".locks");
        locks.join(self.hub.folder(self.kind, &self.repo).file_name().unwrap_or_default()).join(name)
    }

    fn place(&self, path: &str) -> PathBuf {
        self.hub.folder(self.kind, &self.repo).join("snapshots").join(&self.commit).join(path)
    }

    /// The folder that all fetched files lie in.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.place("")
    }

    /// Brings a file into the cache, whole and checked, and says where it lies.
    ///
    /// # Errors
    /// When it cannot be fetched, or keeps arriving with other bytes than the tree says.
    pub fn fetch(&self, file: &RemoteFile, watch: &Watch) -> Result<PathBuf, HubError> {
        let meter = Meter::new(watch, file.bytes);
        if let Some(place) = self.cached(file) {
            meter.end();
            return Ok(place);
        }
        if self.hub.environment.offline {
            let what = format!("{} of `{}`", file.path, self.id());
            return Err(HubError::Offline { what, cache: self.hub.environment.cache.clone() });
        }
        let unchecked = self.unchecked(&file.path);
        let checked = |place: PathBuf| {
            meter.end();
            match fs::remove_file(&unchecked) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(HubError::of_file(unchecked.clone(), error)),
                _ => Ok(place),
            }
        };
        if unchecked.exists() && self.check(file, &self.place(&file.path)).is_ok() {
            return checked(self.place(&file.path));
        }
        self.evict(&file.path);
        output::write(&unchecked, b"").map_err(|error| HubError::of_file(error.path, error.source))?;
        let question = self.hub.question(self.kind, &self.repo, Some(&self.commit), Some(&file.path));
        let files = self.hub.files_of(self.kind, &self.repo);
        let mut attempt = 1;
        loop {
            let download = files.download_file().filename(&file.path).revision(&self.commit).progress(meter.clone());
            let arrived = match download.send() {
                Ok(place) => self.check(file, &place).map(|()| place),
                Err(error) => Err(question.answer(error)),
            };
            match arrived {
                Ok(place) => return checked(place),
                // Shards of one run fetch one model: who comes second waits for the first, however long that takes.
                Err(HubError::Busy { .. }) => std::thread::sleep(std::time::Duration::from_secs(1)),
                Err(error) => {
                    // The cache is others' too: bytes that are not the file's must not stay in it.
                    if matches!(error, HubError::Corrupt { .. }) {
                        self.evict(&file.path);
                    }
                    if !error.passes() || attempt == super::ATTEMPTS {
                        return Err(self.why(error));
                    }
                    Hub::wait(&error, attempt);
                    attempt += 1;
                }
            }
        }
    }

    /// The protocol of large files says little of tokens and permissions; the repository's own page says it all.
    fn why(&self, error: HubError) -> HubError {
        match error {
            HubError::Transfer { .. } => {
                self.hub.commit_of(self.kind, &self.repo, Some(&self.commit)).err().unwrap_or(error)
            }
            error => error,
        }
    }

    /// Several files, some at once; `arrived` is told where each lies. Stops between files when `stop` is set, and says whether all
    /// are there.
    ///
    /// # Errors
    /// The first that cannot be fetched, or that `arrived` refuses; those that are finished stay in the cache.
    pub fn fetch_all(
        &self,
        files: &[&RemoteFile],
        watch: &Watch,
        stop: &AtomicBool,
        arrived: impl Fn(&RemoteFile, PathBuf) -> Result<(), HubError> + Sync,
    ) -> Result<bool, HubError> {
        let open: Mutex<std::slice::Iter<&RemoteFile>> = Mutex::new(files.iter());
        let failure: Mutex<Option<HubError>> = Mutex::new(None);
        let failed = || failure.lock().expect("no holder panics");
        let next = || {
            if stop.load(Ordering::Relaxed) || failed().is_some() {
                return None;
            }
            open.lock().expect("no holder panics").next()
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(files.len()) {
                scope.spawn(|| {
                    while let Some(file) = next() {
                        if let Err(error) = self.fetch(file, watch).and_then(|place| arrived(file, place)) {
                            failed().get_or_insert(error);
                        }
                    }
                });
            }
        });
        let left = open.lock().expect("no holder panics").len();
        match failure.into_inner().expect("no holder panics") {
            Some(error) => Err(error),
            None => Ok(left == 0),
        }
    }

    fn check(&self, file: &RemoteFile, place: &Path) -> Result<(), HubError> {
        let unreadable = |source| HubError::of_file(place.to_owned(), source);
        let about = fs::metadata(place).map_err(unreadable)?;
        let (found, wanted) = match &file.content {
            _ if about.len() != file.bytes => (format!("{} bytes", about.len()), format!("{} bytes", file.bytes)),
            Content::Large { pointer } => {
                let sha256 = output::sha256_file(place).map_err(unreadable)?;
                // The cache keeps a large file under the hash that the Hub gave with it: so much for pointers that are written
                // in another way than today's.
                let named = place.canonicalize().is_ok_and(|blob| blob.ends_with(&sha256));
                let found = if named { pointer.clone() } else { pointer_id(&sha256, about.len()) };
                (format!("the pointer id {found}"), format!("the pointer id {pointer}"))
            }
            Content::Small { blob } => {
                (format!("the blob id {}", blob_id(place).map_err(unreadable)?), format!("the blob id {blob}"))
            }
            Content::Unknown => return Ok(()),
        };
        if found == wanted {
            return Ok(());
        }
        Err(HubError::Corrupt { repo: self.repo.clone(), path: file.path.clone(), found, wanted })
    }

    /// Takes a file out of the cache, its link and what it points to.
    fn evict(&self, path: &str) {
        let place = self.place(path);
        let Ok(about) = fs::symlink_metadata(&place) else { return };
        if about.is_symlink()
            && let (Ok(blob), Ok(cache)) = (place.canonicalize(), self.hub.folder(self.kind, &self.repo).canonicalize())
            && blob.starts_with(cache.join("blobs"))
        {
            let _ = fs::remove_file(blob);
        }
        // Whatever cannot be removed will be found wrong again.
        let _ = fs::remove_file(place);
    }
}

impl RemoteFile {
    /// Whether it is the large file of a hash and a size; a file in git itself has to be looked into.
    #[must_use]
    pub fn is_large(&self, sha256: &str, bytes: u64) -> Option<bool> {
        match &self.content {
            Content::Large { pointer } => Some(*pointer == pointer_id(sha256, bytes)),
            Content::Small { .. } | Content::Unknown => None,
        }
    }
}

/// The id under which git knows the pointer to a large file.
fn pointer_id(sha256: &str, bytes: u64) -> String {
    let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {bytes}\n");
    let blob = Sha1::new_with_prefix(format!("blob {}\0", text.len())).chain_update(text);
    output::hex(&blob.finalize())
}

/// The id under which git knows a file's content.
pub(super) fn blob_id(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", file.metadata()?.len()));
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(output::hex(&hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}
