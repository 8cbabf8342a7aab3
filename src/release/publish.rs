//! `publish`: an atlas becomes a repository. The plan is made first and changes nothing; its steps can be interrupted anywhere, for
//! what is there already is known by its hash and is not sent again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use super::ReleaseError;
use crate::{
    atlas::{self, Atlas, FileEntry, MANIFEST, Manifest, Place},
    hub::{Addition, Change, Content, Hub, HubError, Kind, RemoteFile, RepoId, Repository, Snapshot, Watch},
    output::{size, thousands},
};

/// What a person decides about a publication.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to.
    pub repo: RepoId,
    /// Whether a new repository is open to all.
    pub public: bool,
    /// The release; the next one unless said.
    pub tag: Option<String>,
}

/// What will be done.
pub struct Plan {
    repository: Repository,
    page: String,
    public: bool,
    tag: String,
    /// Commit that `main` stands at; none where the repository has to be made.
    head: Option<String>,
    /// Every file of the release.
    files: Vec<Addition>,
    /// Paths of those that are not there.
    new: BTreeSet<String>,
    /// Paths of those that are there with other content.
    changed: BTreeSet<String>,
    /// Paths that go.
    removed: Vec<String>,
    /// Whether the repository has shown that it takes large files.
    proven: bool,
    /// Where the tag stands.
    tagged: Option<String>,
    card: String,
}

/// How a publication ended.
#[derive(Clone, Debug, Serialize)]
pub struct Published {
    /// `owner/name`.
    pub repo: String,
    /// Its page.
    pub page: String,
    /// The release.
    pub tag: String,
    /// The commit that it is.
    pub commit: String,
    /// Commits that were made for it, by this command.
    pub commits: usize,
    /// Files that were sent.
    pub sent: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it was interrupted; the same command continues.
    pub interrupted: bool,
}

/// What a publication tells while it goes.
pub enum Step<'a> {
    /// The repository was made.
    Created(&'a str),
    /// A commit is being sent: its number, of how many, and its files and bytes.
    Commit {
        /// From 1.
        number: usize,
        /// Of all.
        of: usize,
        /// Files in it.
        files: usize,
        /// Bytes in it.
        bytes: u64,
    },
    /// A commit was made, and the Hub's tree is as it should be.
    Checked(&'a str),
    /// The tag was put.
    Tagged(&'a str),
}

const CARD: &str = "README.md";
/// Files of a commit, and bytes unless it is a single file: an interruption costs no more than one commit.
const COMMIT_FILES: usize = 100;
const COMMIT_BYTES: u64 = 1 << 30;
/// Bytes of the first commit to a repository that has no large file as yet: a Hub without Xet would put it into git, all of it in
/// memory on the way, and only the tree shows that it did.
const FIRST_BYTES: u64 = 64 << 20;
/// Files that a repository has before anything is published to it.
const EMPTY: [&str; 3] = [".gitattributes", CARD, "LICENSE"];

impl Plan {
    /// Checks the atlas, looks at the Hub, and says what there is to do.
    ///
    /// # Errors
    /// When the atlas is not whole or holds a link, the Hub cannot be asked, or the repository holds something else.
    pub fn new(hub: &Hub, path: &Path, settings: &Settings) -> Result<Self, ReleaseError> {
        let asked = settings.tag.as_deref().map(Version::parse).transpose()?;
        let atlas = sound(path)?;
        let data = additions(path, &atlas.manifest)?;
        let repository = hub.repository(Kind::Dataset, &settings.repo)?;
        let head = repository.head()?;
        let remote = head.as_deref().map(|head| repository.at(head));
        let there = match &remote {
            Some(remote) => remote.files()?.clone(),
            None => BTreeMap::new(),
        };
        let before = remote.as_ref().map(|remote| release_of(&repository, remote, &there)).transpose()?.flatten();
        let tags = if head.is_some() { repository.tags()? } else { BTreeMap::new() };
        let release = |version: &Version| {
            let tag = version.to_string();
            let repo = settings.repo.to_string();
            let card = atlas.card(Place { repo: &repo, tag: &tag });
            let entry = FileEntry {
                path: CARD.to_owned(),
                bytes: card.len() as u64,
                sha256: crate::output::sha256(card.as_bytes()),
                rows: None,
            };
            let manifest = atlas.manifest.released(&tag, entry);
            let last = [
                Addition::of_bytes(CARD, card.clone().into_bytes()),
                Addition::of_bytes(MANIFEST, manifest.json().into_bytes()),
            ];
            (card, last)
        };
        let differs = |addition: &Addition| there.get(&addition.path).is_none_or(|remote| !addition.is(remote));
        let same = |version: &Version| !data.iter().chain(&release(version).1).any(differs);
        let version = asked.unwrap_or_else(|| next(before.as_ref(), &tags, same));
        let tag = version.to_string();
        let (card, last) = release(&version);
        let files: Vec<Addition> = data.into_iter().chain(last).collect();
        let (changed, new): (Vec<&Addition>, Vec<&Addition>) =
            files.iter().filter(|file| differs(file)).partition(|file| there.contains_key(&file.path));
        let paths = |files: Vec<&Addition>| files.iter().map(|file| file.path.clone()).collect::<BTreeSet<_>>();
        let (new, changed) = (paths(new), paths(changed));
        let ours: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let named: BTreeSet<&str> =
            before.iter().flat_map(|before| &before.files).map(|file| file.path.as_str()).collect();
        // Data that no manifest names is of a publication that was interrupted: a repository of ours holds nothing else there.
        let stale = |path: &str| named.contains(path) || path.starts_with("data/") || path.starts_with("masks/");
        let removed: Vec<String> =
            there.keys().filter(|path| !ours.contains(path.as_str()) && stale(path)).cloned().collect();
        let tagged = tags.get(&tag).cloned();
        if let Some(commit) = &tagged
            && !(new.is_empty() && changed.is_empty() && removed.is_empty())
        {
            return Err(HubError::TagTaken { repo: settings.repo.clone(), tag, commit: commit.clone() }.into());
        }
        Ok(Self {
            proven: there.values().any(|file| matches!(file.content, Content::Large { .. })),
            page: hub.page(Kind::Dataset, &settings.repo),
            public: settings.public,
            repository,
            tag,
            head,
            files,
            new,
            changed,
            removed,
            tagged,
            card,
        })
    }

    /// The card that the release will have.
    #[must_use]
    pub fn card(&self) -> &str {
        &self.card
    }

    /// Bytes that will be sent.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.open().map(|file| file.bytes).sum()
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.tagged.is_some() && self.commits() == 0
    }

    /// Files to be sent.
    fn open(&self) -> impl Iterator<Item = &Addition> {
        self.files.iter().filter(|file| self.new.contains(&file.path) || self.changed.contains(&file.path))
    }

    /// The data files to be sent, cut into commits.
    fn batches(&self) -> Vec<Vec<&Addition>> {
        let mut batches: Vec<Vec<&Addition>> = Vec::new();
        let mut bytes = 0;
        for file in self.open().filter(|file| !is_last(file)) {
            let most = if batches.len() == 1 && !self.proven { FIRST_BYTES } else { COMMIT_BYTES };
            match batches.last_mut() {
                Some(batch) if batch.len() < COMMIT_FILES && bytes + file.bytes <= most => batch.push(file),
                _ => {
                    batches.push(vec![file]);
                    bytes = 0;
                }
            }
            bytes += file.bytes;
        }
        batches
    }

    /// The last commit: card and manifest, which say what the rest is, and whatever the earlier release had beside it.
    fn last(&self) -> Vec<Change> {
        let additions = self.open().filter(|file| is_last(file)).cloned().map(Change::Add);
        additions.chain(self.removed.iter().cloned().map(Change::Remove)).collect()
    }

    fn commits(&self) -> usize {
        self.batches().len() + usize::from(!self.last().is_empty())
    }

    /// The plan in words.
    #[must_use]
    pub fn words(&self) -> String {
        let mut text = String::new();
        let state = match (&self.head, self.public) {
            (Some(_), _) => "there already; its visibility stays as it is",
            (None, true) => "to be made, public",
            (None, false) => "to be made, private",
        };
        let kept = self.files.len() - self.new.len() - self.changed.len();
        let sum = |paths: &BTreeSet<String>| {
            self.files.iter().filter(|file| paths.contains(&file.path)).map(|file| file.bytes).sum::<u64>()
        };
        let _ = writeln!(text, "{} ({state})\nrelease {}", self.page, self.tag);
        let _ =
            writeln!(text, "  new        {:>6} files  {:>10}", thousands(self.new.len() as u64), size(sum(&self.new)));
        let _ = writeln!(
            text,
            "  changed    {:>6} files  {:>10}",
            thousands(self.changed.len() as u64),
            size(sum(&self.changed))
        );
        let _ = writeln!(text, "  removed    {:>6} files", thousands(self.removed.len() as u64));
        let _ = writeln!(text, "  unchanged  {:>6} files", thousands(kept as u64));
        for (sign, path) in self.listed() {
            let _ = writeln!(text, "    {sign} {path}");
        }
        let _ = match (self.commits(), &self.tagged) {
            (0, Some(_)) => write!(text, "nothing to do: the release is there"),
            (0, None) => write!(text, "no commit, but the tag {} is missing", self.tag),
            (commits, _) => write!(text, "{} to send in {commits} commits", size(self.bytes())),
        };
        text
    }

    /// What changes, up to a screenful.
    fn listed(&self) -> Vec<(&'static str, String)> {
        const LINES: usize = 24;
        let new = self.new.iter().map(|path| ("+", path.clone()));
        let changed = self.changed.iter().map(|path| ("~", path.clone()));
        let removed = self.removed.iter().map(|path| ("-", path.clone()));
        let mut all: Vec<_> = new.chain(changed).chain(removed).collect();
        if all.len() > LINES {
            let more = all.len() - LINES;
            all.truncate(LINES);
            all.push(("…", format!("and {} more", thousands(more as u64))));
        }
        all
    }

    /// The plan for machines.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "repo": self.repository.repo().to_string(),
            "page": self.page,
            "exists": self.head.is_some(),
            "private": self.head.is_none().then_some(!self.public),
            "tag": self.tag,
            "new": self.new,
            "changed": self.changed,
            "removed": self.removed,
            "files": self.files.len(),
            "bytes": self.bytes(),
            "commits": self.commits(),
            "done": self.is_done(),
        })
    }

    /// Makes the repository and says what it stands at.
    fn create(&self, tell: &mut impl FnMut(Step)) -> Result<String, ReleaseError> {
        let head = self.repository.create(!self.public)?;
        // Somebody may have made it since the plan was, and begun to fill it: the plan knows nothing of that.
        let new = self.repository.at(&head);
        if new.files()?.keys().any(|path| !EMPTY.contains(&path.as_str())) {
            let (repo, expected) = (self.repository.repo().clone(), "no commit".to_owned());
            return Err(HubError::Moved { repo, expected, found: head }.into());
        }
        tell(Step::Created(&self.page));
        Ok(head)
    }

    /// Does what there is to do. Stops between commits when `stop` is set.
    ///
    /// # Errors
    /// The first thing that goes wrong. Whatever was committed stays, and the same plan made anew goes on from there.
    pub fn run(&self, watch: &Watch, stop: &AtomicBool, mut tell: impl FnMut(Step)) -> Result<Published, ReleaseError> {
        self.repository.check_token()?;
        let mut at = if let Some(head) = &self.head { head.clone() } else { self.create(&mut tell)? };
        let of = self.commits();
        let mut done = Published {
            repo: self.repository.repo().to_string(),
            page: self.page.clone(),
            tag: self.tag.clone(),
            commit: String::new(),
            commits: 0,
            sent: 0,
            bytes: 0,
            interrupted: false,
        };
        let batches = self.batches().into_iter().map(|batch| batch.into_iter().cloned().map(Change::Add).collect());
        let last = Some(self.last()).filter(|last| !last.is_empty());
        for changes in batches.chain(last) {
            if stop.load(Ordering::Relaxed) {
                return Ok(Published { commit: at, interrupted: true, ..done });
            }
            let sent =
                || changes.iter().filter_map(|change| if let Change::Add(file) = change { Some(file) } else { None });
            let (number, files, bytes) = (done.commits + 1, sent().count(), sent().map(|file| file.bytes).sum());
            tell(Step::Commit { number, of, files, bytes });
            let message = if number == of {
                format!("{}: card and manifest", self.tag)
            } else {
                format!("{}: data, {number} of {}", self.tag, of - 1)
            };
            at = self.repository.commit(&changes, &message, &at, watch)?;
            self.repository.compare(&at, sent())?;
            tell(Step::Checked(&at));
            (done.commits, done.sent, done.bytes) = (number, done.sent + files, done.bytes + bytes);
        }
        if of > 0 {
            self.repository.compare(&at, &self.files)?;
        }
        if let Some(commit) = &self.tagged {
            at.clone_from(commit);
        } else {
            self.repository.tag(&self.tag, &at)?;
            tell(Step::Tagged(&self.tag));
        }
        Ok(Published { commit: at, ..done })
    }
}

fn is_last(file: &Addition) -> bool {
    [CARD, MANIFEST].contains(&file.path.as_str())
}

/// The atlas, if nothing is wrong with it.
fn sound(path: &Path) -> Result<Atlas, ReleaseError> {
    if let Some(link) = link_below(path) {
        return Err(ReleaseError::Link { path: link });
    }
    let checks = atlas::verify(path)?;
    let wrong: Vec<_> = checks.iter().filter_map(|check| Some((&check.what, check.problem.as_ref()?))).collect();
    if let Some((what, problem)) = wrong.first() {
        return Err(ReleaseError::Unsound {
            path: path.to_owned(),
            wrong: wrong.len(),
            checks: checks.len(),
            first: format!("{what} {problem}"),
        });
    }
    Ok(Atlas::open(path)?)
}

/// The first symbolic link below a folder.
fn link_below(folder: &Path) -> Option<std::path::PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    entries.iter().find_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_symlink() => Some(entry.path()),
        Ok(kind) if kind.is_dir() => link_below(&entry.path()),
        _ => None,
    })
}

/// Every file of the atlas but its card, by path.
fn additions(path: &Path, manifest: &Manifest) -> Result<Vec<Addition>, ReleaseError> {
    let mut files: Vec<&FileEntry> = manifest.files.iter().filter(|file| file.path != CARD).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files.iter().map(|file| Addition::of_file(&file.path, &path.join(&file.path))).collect::<Result<_, _>>()?)
}

/// The release that a repository holds. One that holds anything else is somebody's, and is left alone.
fn release_of(
    repository: &Repository,
    remote: &Snapshot,
    there: &BTreeMap<String, RemoteFile>,
) -> Result<Option<Manifest>, ReleaseError> {
    let taken = |problem: String| HubError::Taken { repo: repository.repo().clone(), problem };
    if there.contains_key(MANIFEST) {
        return match super::manifest(remote) {
            Ok((manifest, _)) => Ok(Some(manifest)),
            Err(ReleaseError::Atlas(error)) => Err(taken(format!("it holds no atlas of ours ({error})")).into()),
            Err(error) => Err(error),
        };
    }
    match there.keys().find(|path| !EMPTY.contains(&path.as_str())) {
        // A first publication that was interrupted has data and no manifest as yet.
        Some(foreign) if !repository.is_ours()? => {
            Err(taken(format!("it is a repository with other things in it ({foreign}) and no {MANIFEST}")).into())
        }
        _ => Ok(None),
    }
}

/// The release to come: the one that is there, if its content is the atlas' or it was never tagged; else the next minor version.
fn next(before: Option<&Manifest>, tags: &BTreeMap<String, String>, same: impl Fn(&Version) -> bool) -> Version {
    let first = Version { major: 1, minor: 0, patch: 0 };
    let there = before.and_then(|before| Version::parse(before.release.as_deref()?).ok());
    let mut version = match there {
        Some(there) if same(&there) => return there,
        Some(there) => there,
        None => first,
    };
    while tags.contains_key(&version.to_string()) {
        version = Version { minor: version.minor + 1, patch: 0, ..version };
    }
    version
}

/// `vX.Y.Z`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    fn parse(tag: &str) -> Result<Self, ReleaseError> {
        let number = |text: &str| {
            let plain = text == "0" || !text.starts_with('0');
            text.parse().ok().filter(|_| plain && text.bytes().all(|b| b.is_ascii_digit()))
        };
        let parts: Option<Vec<u32>> = tag.strip_prefix('v').and_then(|tag| tag.split('.').map(number).collect());
        match parts.as_deref() {
            Some(&[major, minor, patch]) => Ok(Self { major, minor, patch }),
            _ => Err(ReleaseError::Tag(tag.to_owned())),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}
