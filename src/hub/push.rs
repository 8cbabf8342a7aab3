//! Commits to a repository: each upon a known parent, so that nothing of anybody else's is overwritten, and each compared with
//! the Hub's tree once it is made.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::SystemTime,
};

use hf_hub::repository::{CommitOperation, GitCommitInfo};

use super::{Content, Hub, HubError, Kind, Meter, RemoteFile, RepoId, Snapshot, Watch, fetch::blob_id};
use crate::output;

/// A repository that is written to.
pub struct Repository {
    hub: Hub,
    kind: Kind,
    repo: RepoId,
    /// Stands in every commit of this process, so that a commit whose answer was lost is known again.
    mark: String,
}

/// A file that goes to a repository.
#[derive(Clone, Debug)]
pub struct Addition {
    /// Its path there.
    pub path: String,
    /// Where it lies here.
    pub source: Source,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
    /// Its id in git.
    blob: String,
    /// Whether it belongs into the storage for large files: git is for text.
    binary: bool,
}

/// Content that goes to a repository.
#[derive(Clone, Debug)]
pub enum Source {
    /// Of a file.
    File(PathBuf),
    /// Made for the occasion.
    Bytes(Vec<u8>),
}

/// One step of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    /// A file comes, or replaces another.
    Add(Addition),
    /// A file goes.
    Remove(String),
}

/// Stands before the mark of a process in its commits' descriptions.
const SIGN: &str = "neuroglot-publish: ";

/// Bytes that tell text from the rest, as the Hub itself does.
const SAMPLE: usize = 512;

impl Addition {
    /// A file of this machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &str, place: &Path) -> Result<Self, HubError> {
        let unreadable = |source| HubError::of_file(place.to_owned(), source);
        let mut sample = Vec::new();
        let file = File::open(place).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        file.take(SAMPLE as u64).read_to_end(&mut sample).map_err(unreadable)?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            sha256: output::sha256_file(place).map_err(unreadable)?,
            blob: blob_id(place).map_err(unreadable)?,
            binary: is_binary(&sample),
            source: Source::File(place.to_owned()),
        })
    }

    /// Bytes that were made for the occasion.
    #[must_use]
    pub fn of_bytes(path: &str, bytes: Vec<u8>) -> Self {
        use sha1::{Digest, Sha1};
        let blob = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(&bytes);
        Self {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            sha256: output::sha256(&bytes),
            blob: output::hex(&blob.finalize()),
            binary: is_binary(&bytes[..bytes.len().min(SAMPLE)]),
            source: Source::Bytes(bytes),
        }
    }

    /// Whether a file of the Hub holds the same content.
    #[must_use]
    pub fn is(&self, remote: &RemoteFile) -> bool {
        match &remote.content {
            Content::Large { .. } => remote.is_large(&self.sha256, self.bytes) == Some(true),
            Content::Small { blob } => *blob == self.blob,
            Content::Unknown => false,
        }
    }

    fn operation(&self) -> CommitOperation {
        match &self.source {
            Source::File(place) => CommitOperation::add_file(&self.path, place),
            Source::Bytes(bytes) => CommitOperation::add_bytes(&self.path, bytes.clone()),
        }
    }
}

/// A cut may fall into a character; what ends there is text all the same.
fn is_binary(sample: &[u8]) -> bool {
    sample.contains(&0) || std::str::from_utf8(sample).is_err_and(|error| error.error_len().is_some())
}

impl Hub {
    /// A repository to write to.
    ///
    /// # Errors
    /// Offline.
    pub fn repository(&self, kind: Kind, repo: &RepoId) -> Result<Repository, HubError> {
        if self.environment.offline {
            let what = format!("a {kind} that is written to, `{repo}`,");
            return Err(HubError::Offline { what, cache: self.environment.cache.clone() });
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mark = output::sha256(format!("{} {}", std::process::id(), now.as_nanos()).as_bytes())[..16].to_owned();
        Ok(Repository { hub: self.clone(), kind, repo: repo.clone(), mark })
    }
}

impl Repository {
    /// Its name.
    #[must_use]
    pub fn repo(&self) -> &RepoId {
        &self.repo
    }

    /// The commit that `main` stands at; none where there is no such repository.
    ///
    /// # Errors
    /// When the Hub cannot be asked.
    pub fn head(&self) -> Result<Option<String>, HubError> {
        match self.hub.commit_of(self.kind, &self.repo, None) {
            Ok(commit) => Ok(Some(commit)),
            Err(HubError::NoRepository { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a token says who writes.
    ///
    /// # Errors
    /// When there is none.
    pub fn check_token(&self) -> Result<(), HubError> {
        match self.hub.environment.token {
            Some(_) => Ok(()),
            None => Err(HubError::NoToken { endpoint: self.hub.endpoint() }),
        }
    }

    /// Whether any commit was made by [`Repository::commit`], of any process: somebody else may have pushed after it.
    ///
    /// # Errors
    /// When the Hub cannot be asked.
    pub fn is_ours(&self) -> Result<bool, HubError> {
        let marked = |commit: &GitCommitInfo| commit.title.contains(SIGN) || commit.message.contains(SIGN);
        Ok(self.history(None)?.iter().any(marked))
    }

    fn newest(&self) -> Result<Option<GitCommitInfo>, HubError> {
        Ok(self.history(Some(1))?.into_iter().next())
    }

    /// The commits of `main`, newest first.
    fn history(&self, limit: Option<usize>) -> Result<Vec<GitCommitInfo>, HubError> {
        let question = self.hub.question(self.kind, &self.repo, None, None);
        let files = self.hub.files_of(self.kind, &self.repo);
        Hub::persist(&question, || files.list_commits().revision("main").maybe_limit(limit).send())
    }

    /// The repository as it is at a commit.
    #[must_use]
    pub fn at(&self, commit: &str) -> Snapshot {
        self.hub.at_commit(self.kind, &self.repo, commit.to_owned())
    }

    /// Makes the repository and says what `main` stands at.
    ///
    /// # Errors
    /// When the name is taken, or the token may not make a repository there.
    pub fn create(&self, private: bool) -> Result<String, HubError> {
        let question = self.hub.question(self.kind, &self.repo, None, None);
        let id = self.repo.to_string();
        let made = Hub::persist(&question, || {
            let create = self.hub.client.create_repository().repo_id(&id).repo_type(self.kind.repo_type());
            create.private(private).send()
        });
        let taken = |problem: &str| HubError::Taken { repo: self.repo.clone(), problem: problem.to_owned() };
        match made {
            Ok(_) => {}
            // An answer that was lost makes the second attempt find what the first one made.
            Err(HubError::Moved { .. }) => {
                return self.head()?.ok_or_else(|| taken("it stands on the Hub, and this token may not see it"));
            }
            Err(error) => return Err(error),
        }
        self.head()?.ok_or_else(|| HubError::Strange {
            endpoint: self.hub.endpoint(),
            problem: format!("`{}` was made and is not there", self.repo),
        })
    }

    /// Its tags and the commits that they stand at.
    ///
    /// # Errors
    /// When the Hub cannot be asked.
    pub fn tags(&self) -> Result<BTreeMap<String, String>, HubError> {
        let question = self.hub.question(self.kind, &self.repo, None, None);
        let files = self.hub.files_of(self.kind, &self.repo);
        let refs = Hub::persist(&question, || files.list_refs().send())?;
        Ok(refs.tags.into_iter().map(|tag| (tag.name, tag.target_commit)).collect())
    }

    /// Makes a commit upon `parent` and says which it is.
    ///
    /// # Errors
    /// When `main` does not stand at `parent` any more, or anything on the way fails; `main` is then as it was.
    pub fn commit(&self, changes: &[Change], message: &str, parent: &str, watch: &Watch) -> Result<String, HubError> {
        let operations: Vec<CommitOperation> = changes
            .iter()
            .map(|change| match change {
                Change::Add(addition) => addition.operation(),
                Change::Remove(path) => CommitOperation::delete(path),
            })
            .collect();
        let bytes = changes.iter().map(|change| if let Change::Add(add) = change { add.bytes } else { 0 }).sum();
        let meter = Meter::new(watch, bytes);
        let question = self.hub.question(self.kind, &self.repo, None, None);
        let files = self.hub.files_of(self.kind, &self.repo);
        let mut attempt = 1;
        loop {
            let commit = files
                .create_commit()
                .operations(operations.clone())
                .commit_message(message)
                .commit_description(format!("{SIGN}{}", self.mark))
                .parent_commit(parent)
                .progress(meter.clone());
            let error = match commit.send() {
                Ok(info) => {
                    meter.end();
                    let made = info.commit_oid.filter(|commit| super::is_commit(commit));
                    return made.map_or_else(|| self.own_head(parent), Ok);
                }
                Err(error) => question.answer(error),
            };
            match error {
                // The commit of an attempt whose answer was lost, or somebody else's.
                HubError::Moved { .. } => {
                    let made = self.own_head(parent)?;
                    meter.end();
                    return Ok(made);
                }
                error if error.passes() && attempt < super::ATTEMPTS => Hub::wait(&error, attempt),
                error => return Err(self.why(error)),
            }
            attempt += 1;
        }
    }

    /// As in [`Snapshot`]: the large files' protocol does not say why it was refused.
    fn why(&self, error: HubError) -> HubError {
        match error {
            HubError::Transfer { .. } => self.hub.commit_of(self.kind, &self.repo, None).err().unwrap_or(error),
            error => error,
        }
    }

    /// `main`, if the commit there is of this process.
    fn own_head(&self, parent: &str) -> Result<String, HubError> {
        let moved = |found: &str| HubError::Moved {
            repo: self.repo.clone(),
            expected: parent.to_owned(),
            found: found.to_owned(),
        };
        let head = self.newest()?.ok_or_else(|| moved("no commit"))?;
        let own = head.id != parent && (head.message.contains(&self.mark) || head.title.contains(&self.mark));
        if own { Ok(head.id) } else { Err(moved(&head.id)) }
    }

    /// Compares what was sent with the Hub's tree at a commit.
    ///
    /// # Errors
    /// The first file that is not there as it was sent, or lies in git instead of the storage for large files.
    pub fn compare<'a>(&self, commit: &str, sent: impl IntoIterator<Item = &'a Addition>) -> Result<(), HubError> {
        let snapshot = self.at(commit);
        let files = snapshot.files()?;
        for addition in sent {
            let altered = |found: &str| HubError::Altered {
                repo: self.repo.clone(),
                path: addition.path.clone(),
                found: found.to_owned(),
                wanted: format!("SHA-256 {}", addition.sha256),
            };
            let file = files.get(&addition.path).ok_or_else(|| altered("not there"))?;
            if !addition.is(file) {
                return Err(altered(&format!("a file of {} bytes with other content", file.bytes)));
            }
            if addition.binary && matches!(file.content, Content::Small { .. }) {
                let (endpoint, repo) = (self.hub.endpoint(), self.repo.clone());
                return Err(HubError::Inline { endpoint, repo, path: addition.path.clone() });
            }
        }
        Ok(())
    }

    /// Puts a tag on a commit.
    ///
    /// # Errors
    /// When the tag stands at another commit, or the Hub cannot be asked.
    pub fn tag(&self, tag: &str, commit: &str) -> Result<(), HubError> {
        let question = self.hub.question(self.kind, &self.repo, Some(tag), None);
        let files = self.hub.files_of(self.kind, &self.repo);
        match Hub::persist(&question, || files.create_tag().tag(tag).revision(commit).send()) {
            Err(HubError::Moved { .. }) => match self.tags()?.remove(tag) {
                // Of an attempt whose answer was lost.
                Some(there) if there == commit => Ok(()),
                there => Err(HubError::TagTaken {
                    repo: self.repo.clone(),
                    tag: tag.to_owned(),
                    commit: there.unwrap_or_else(|| "another commit".to_owned()),
                }),
            },
            made => made,
        }
    }
}
