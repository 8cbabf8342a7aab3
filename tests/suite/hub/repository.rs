//! What the Hub keeps of a repository: commits with their whole trees, branches and tags, named as git names them.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Bytes;
use sha1::{Digest, Sha1};

/// What a new repository is born with on the Hub: the patterns of the files that are stored as LFS objects.
const GITATTRIBUTES: &str = "\
*.7z filter=lfs diff=lfs merge=lfs -text
*.arrow filter=lfs diff=lfs merge=lfs -text
*.bin filter=lfs diff=lfs merge=lfs -text
*.gz filter=lfs diff=lfs merge=lfs -text
*.npy filter=lfs diff=lfs merge=lfs -text
*.parquet filter=lfs diff=lfs merge=lfs -text
*.pt filter=lfs diff=lfs merge=lfs -text
*.pth filter=lfs diff=lfs merge=lfs -text
*.safetensors filter=lfs diff=lfs merge=lfs -text
*.zip filter=lfs diff=lfs merge=lfs -text
*.zst filter=lfs diff=lfs merge=lfs -text
";
/// Files above this are LFS objects whatever their name.
const LARGEST_REGULAR: u64 = 10 << 20;

/// Models and data sets; the Hub's other kinds are not spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// From `model` or `dataset`, or their plurals.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "model" | "models" => Some(Self::Model),
            "dataset" | "datasets" => Some(Self::Dataset),
            _ => None,
        }
    }

    pub fn singular(self) -> &'static str {
        if self == Self::Model { "model" } else { "dataset" }
    }

    /// What stands before `owner/name` in a web address.
    pub fn prefix(self) -> &'static str {
        if self == Self::Model { "" } else { "datasets/" }
    }
}

/// A repository's kind, owner and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoId {
    pub kind: Kind,
    pub owner: String,
    pub name: String,
}

impl RepoId {
    /// From `owner/name`.
    pub fn new(kind: Kind, id: &str) -> Self {
        let (owner, name) = id.split_once('/').expect("an id is owner/name");
        Self { kind, owner: owner.to_owned(), name: name.to_owned() }
    }

    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

/// The content of a file: a git blob, or an LFS object of which git holds the pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Regular(Bytes),
    Lfs { sha256: String, size: u64 },
}

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The git blob's id: of the pointer where the file is an LFS object.
    pub oid: String,
    pub content: Content,
}

impl Entry {
    pub fn regular(bytes: Bytes) -> Self {
        Self { oid: blob_id(&bytes), content: Content::Regular(bytes) }
    }

    pub fn lfs(sha256: &str, size: u64) -> Self {
        let content = Content::Lfs { sha256: sha256.to_owned(), size };
        Self { oid: blob_id(pointer(sha256, size).as_bytes()), content }
    }

    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Regular(bytes) => bytes.len() as u64,
            Content::Lfs { size, .. } => *size,
        }
    }

    /// The hash that the Hub calls a file's `ETag`: SHA-256 of an LFS object, else the blob's id.
    pub fn etag(&self) -> &str {
        match &self.content {
            Content::Regular(_) => &self.oid,
            Content::Lfs { sha256, .. } => sha256,
        }
    }
}

/// The text that git keeps in the place of an LFS object.
pub fn pointer(sha256: &str, size: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
}

/// The id that git gives a file.
pub fn blob_id(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One commit, with all files and not only those that it changed.
#[derive(Clone, Debug)]
pub struct Commit {
    pub oid: String,
    pub parent: Option<String>,
    pub title: String,
    pub description: String,
    pub author: String,
    pub date: String,
    pub files: BTreeMap<String, Entry>,
}

/// A row of a tree listing.
pub enum Row<'a> {
    File(&'a str, &'a Entry),
    Directory(String, String),
}

impl Commit {
    /// What lies in a folder (`""` is the root), or below it: folders before files, each in the order of their names. None is
    /// the answer where there is no such folder.
    pub fn tree(&self, folder: &str, recursive: bool) -> Option<Vec<Row<'_>>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{}/", folder.trim_end_matches('/')) };
        let below: Vec<(&str, &Entry)> = self
            .files
            .iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            .map(|(path, file)| (&**path, file))
            .collect();
        if below.is_empty() && !prefix.is_empty() {
            return None;
        }
        let mut folders = BTreeSet::new();
        for (path, _) in &below {
            let inner = path[prefix.len()..].match_indices('/').map(|(at, _)| &path[..prefix.len() + at]);
            folders.extend(if recursive { inner.collect::<Vec<_>>() } else { inner.take(1).collect() });
        }
        let rows = folders.into_iter().map(|folder| Row::Directory(folder.to_owned(), self.tree_id(folder)));
        let files = below.into_iter().filter(|(path, _)| recursive || !path[prefix.len()..].contains('/'));
        Some(rows.chain(files.map(|(path, file)| Row::File(path, file))).collect())
    }

    /// An id for a folder that changes with what is in it.
    pub fn tree_id(&self, folder: &str) -> String {
        let prefix = format!("{folder}/");
        let mut hash = Sha1::new();
        for (path, file) in self.files.iter().filter(|(path, _)| path.starts_with(&prefix)) {
            hash.update(format!("{path} {}\n", file.oid));
        }
        hex(&hash.finalize())
    }

    /// Whether a file of this name and size is to be an LFS object.
    pub fn wants_lfs(&self, path: &str, size: u64, sample: &[u8]) -> bool {
        let attributes = match self.files.get(".gitattributes").map(|file| &file.content) {
            Some(Content::Regular(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        let named = attributes.lines().filter(|line| line.contains("filter=lfs")).any(|line| {
            let pattern = line.split_whitespace().next().unwrap_or_default();
            pattern.strip_prefix('*').map_or(path == pattern, |suffix| path.ends_with(suffix))
        });
        named || size > LARGEST_REGULAR || sample.contains(&0)
    }
}

/// A repository.
#[derive(Clone, Debug)]
pub struct Repository {
    pub id: RepoId,
    pub private: bool,
    pub gated: bool,
    /// In the order in which they were made.
    pub commits: Vec<Commit>,
    pub branches: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
}

impl Repository {
    /// As the Hub creates it: one commit with `.gitattributes` on `main`.
    pub fn new(id: RepoId, private: bool, author: &str) -> Self {
        let mut new =
            Self { id, private, gated: false, commits: Vec::new(), branches: BTreeMap::new(), tags: BTreeMap::new() };
        let files = BTreeMap::from([(".gitattributes".to_owned(), Entry::regular(GITATTRIBUTES.into()))]);
        new.commit("main", "initial commit", "", author, files);
        new
    }

    /// Makes a commit on a branch.
    pub fn commit(
        &mut self,
        branch: &str,
        title: &str,
        description: &str,
        author: &str,
        files: BTreeMap<String, Entry>,
    ) -> &Commit {
        let number = self.commits.len();
        let parent = self.branches.get(branch).cloned();
        // A clock that every run agrees on: a second for every commit of the repository.
        let date = format!("2026-01-01T{:02}:{:02}:{:02}.000Z", number / 3600, number / 60 % 60, number % 60);
        let (title, description) = (title.to_owned(), description.to_owned());
        let mut commit =
            Commit { oid: String::new(), parent, title, description, author: author.to_owned(), date, files };
        let mut hash = Sha1::new();
        hash.update(format!("{} {number} {branch} {:?} {}\n", self.id.id(), commit.parent, commit.title));
        for (path, file) in &commit.files {
            hash.update(format!("{path} {}\n", file.oid));
        }
        commit.oid = hex(&hash.finalize());
        self.branches.insert(branch.to_owned(), commit.oid.clone());
        self.commits.push(commit);
        self.commits.last().expect("it was added above")
    }

    /// The commit that a branch, a tag or a commit's id names.
    pub fn resolve(&self, revision: &str) -> Option<&Commit> {
        let revision = revision.strip_prefix("refs/heads/").or(revision.strip_prefix("refs/tags/")).unwrap_or(revision);
        let revision = if revision == "HEAD" { "main" } else { revision };
        let oid = self.branches.get(revision).or_else(|| self.tags.get(revision)).map_or(revision, String::as_str);
        self.commits.iter().find(|commit| commit.oid == oid)
    }

    /// A commit and all before it, newest first.
    pub fn history(&self, commit: &Commit) -> Vec<&Commit> {
        let mut found = vec![self.resolve(&commit.oid).expect("a commit of this repository")];
        while let Some(parent) = found.last().and_then(|commit| commit.parent.as_ref()) {
            found.push(self.resolve(parent).expect("a parent is a commit of the same repository"));
        }
        found
    }

    /// The commit that gave a file the content that it has in this one.
    pub fn last_change(&self, commit: &Commit, path: &str) -> &Commit {
        let history = self.history(commit);
        let now = commit.files.get(path);
        let kept = history.iter().take_while(|earlier| earlier.files.get(path) == now).count();
        history[kept.max(1) - 1]
    }
}
