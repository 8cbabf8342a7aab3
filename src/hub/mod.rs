//! Transport to and from a Hub: the files of a repository at a revision, and nothing about what they mean. In: `owner/name`, a
//! revision, paths. Out: files in the cache that Python's `huggingface_hub` shares, checked against the Hub's own hashes; and
//! commits, checked after they were made.
//!
//! The wire is the `hf-hub` crate. What it leaves open is done here: revisions are asked for before files, content is checked
//! after every download and every commit, `HF_HUB_OFFLINE` is kept, and errors say what to do.

mod environment;
mod error;
mod fetch;
mod push;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hf_hub::{
    HFClientSync, HFError, HFRepositorySync,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler, UploadEvent},
    repository::RepoTypeAny,
};

use self::{environment::Environment, error::Question};
pub use self::{
    environment::without_secrets,
    error::HubError,
    fetch::{Content, RemoteFile, Snapshot},
    push::{Addition, Change, Repository},
};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    /// What stands before `owner/name` in an address.
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }

    fn repo_type(self) -> RepoTypeAny {
        match self {
            Self::Model => RepoTypeAny::Model,
            Self::Dataset => RepoTypeAny::Dataset,
        }
    }

    /// The beginning of a repository's folder in the cache.
    fn cached(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Dataset => "data set",
        })
    }
}

/// `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoId(String);

impl RepoId {
    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.0.split_once('/').map_or("", |(owner, _)| owner)
    }

    /// The name without its owner.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl FromStr for RepoId {
    type Err = HubError;

    /// The rules of the Hub: letters, digits, `-`, `_` and `.`, none of `-` and `.` at an end or twice.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let part = |part: &str| {
            let edge = |c: char| matches!(c, '-' | '.');
            (1..=96).contains(&part.len())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
                && !part.starts_with(edge)
                && !part.ends_with(edge)
                && !["--", "..", ".git"]
                    .iter()
                    .any(|ill| if *ill == ".git" { part.ends_with(ill) } else { part.contains(ill) })
        };
        match text.split_once('/') {
            Some((owner, name)) if part(owner) && part(name) => Ok(Self(text.to_owned())),
            _ => Err(HubError::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What people write for files on a Hub: `owner/name`, perhaps with a path inside it and a revision, `owner/name/file@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPath {
    /// The repository.
    pub repo: RepoId,
    /// A file or folder in it.
    pub path: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: Option<String>,
}

impl FromStr for HubPath {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let (place, revision) = match text.split_once('@') {
            Some((place, revision)) => (place, Some(revision)),
            None => (text, None),
        };
        let second = place.match_indices('/').nth(1).map(|(at, _)| at);
        let (repo, path) = match second {
            Some(at) => (&place[..at], Some(&place[at + 1..])),
            None => (place, None),
        };
        if path.is_some_and(|path| !crate::output::stays_inside(path)) {
            return Err(HubError::Name(text.to_owned()));
        }
        if let Some(revision) = revision {
            check_revision(revision)?;
        }
        Ok(Self { repo: repo.parse()?, path: path.map(str::to_owned), revision: revision.map(str::to_owned) })
    }
}

/// A revision becomes a file's name in the cache and a part of addresses: what git itself would refuse is refused here.
fn check_revision(revision: &str) -> Result<(), HubError> {
    let plain = |c: char| c.is_ascii_graphic() && !r"~^:?*[\@".contains(c);
    if crate::output::stays_inside(revision)
        && revision.len() <= 255
        && revision.chars().all(plain)
        && !revision.contains("..")
        && !revision.starts_with('-')
    {
        Ok(())
    } else {
        Err(HubError::RevisionName(revision.to_owned()))
    }
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a transfer tells while it goes: how many bytes were done since it last told.
pub type Watch = Arc<dyn Fn(u64) + Send + Sync>;

/// Nobody watches.
#[must_use]
pub fn unwatched() -> Watch {
    Arc::new(|_| ())
}

/// A Hub, and the cache of what came from it.
#[derive(Clone)]
pub struct Hub {
    client: HFClientSync,
    environment: Arc<Environment>,
}

/// How long a connection may take to be made, and how long it may stay silent: as in `huggingface_hub`, but a server that thinks
/// about a commit of a hundred files is given its time.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(120);
/// How often a request is sent again, on top of what the crate below does within some seconds.
const ATTEMPTS: u32 = 4;

impl Hub {
    /// The Hub that the environment names. `offline`: use nothing but the cache.
    ///
    /// # Errors
    /// When `HF_ENDPOINT` is no address.
    pub fn open(offline: bool) -> Result<Self, HubError> {
        let environment = Environment::read(offline);
        let cache = environment.cache.clone();
        Self::with(environment, cache)
    }

    /// The same Hub with a cache of its own, for files that are moved away as soon as they are there.
    ///
    /// # Errors
    /// As [`Hub::open`].
    pub fn with_cache(&self, cache: PathBuf) -> Result<Self, HubError> {
        let environment = Environment::read(self.environment.offline);
        Self::with(environment, cache)
    }

    fn with(environment: Environment, cache: PathBuf) -> Result<Self, HubError> {
        let strange = |problem: String| HubError::Endpoint { endpoint: environment.shown_endpoint(), problem };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .user_agent(concat!("neuroglot/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| strange(error.to_string()))?;
        if !environment.endpoint.starts_with("http://") && !environment.endpoint.starts_with("https://") {
            return Err(strange("it begins with neither https:// nor http://".to_owned()));
        }
        let mut builder = hf_hub::HFClient::builder().endpoint(&environment.endpoint).cache_dir(&cache).client(http);
        if let Some(token) = &environment.token {
            builder = builder.token(token.secret());
        }
        let client = builder.build_sync().map_err(|error| strange(without_secrets(&error.to_string())))?;
        Ok(Self { client, environment: Arc::new(Environment { cache, ..environment }) })
    }

    /// Base address, as it may be shown.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.environment.shown_endpoint()
    }

    /// The page of a repository.
    #[must_use]
    pub fn page(&self, kind: Kind, repo: &RepoId) -> String {
        format!("{}/{}{repo}", self.endpoint(), kind.prefix())
    }

    fn files_of(&self, kind: Kind, repo: &RepoId) -> HFRepositorySync<RepoTypeAny> {
        self.client.repository(kind.repo_type(), repo.owner(), repo.name())
    }

    /// What the Hub says of a repository: the commit that a revision stands at.
    fn commit_of(&self, kind: Kind, repo: &RepoId, revision: Option<&str>) -> Result<String, HubError> {
        let question = self.question(kind, repo, revision, None);
        let revision = revision.map(str::to_owned);
        let commit = Self::persist(&question, || match kind {
            Kind::Model => {
                let model = self.client.model(repo.owner(), repo.name());
                Ok(model.info().maybe_revision(revision.clone()).send()?.sha)
            }
            Kind::Dataset => {
                let dataset = self.client.dataset(repo.owner(), repo.name());
                Ok(dataset.info().maybe_revision(revision.clone()).send()?.sha)
            }
        })?;
        commit.filter(|commit| is_commit(commit)).ok_or_else(|| HubError::Strange {
            endpoint: self.endpoint(),
            problem: format!("the {kind} `{repo}` stands at no commit"),
        })
    }

    fn question<'a>(
        &'a self,
        kind: Kind,
        repo: &'a RepoId,
        revision: Option<&'a str>,
        path: Option<&'a str>,
    ) -> Question<'a> {
        Question { environment: &self.environment, kind, repo, revision, path }
    }

    /// Asks until there is an answer that another attempt would not change.
    fn persist<T>(question: &Question, ask: impl Fn() -> Result<T, HFError>) -> Result<T, HubError> {
        let mut attempt = 1;
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => question.answer(error),
            };
            if !error.passes() || attempt == ATTEMPTS {
                return Err(error);
            }
            Self::wait(&error, attempt);
            attempt += 1;
        }
    }

    /// Waits before attempt number `attempt` + 1, and says so where a person would wonder.
    fn wait(error: &HubError, attempt: u32) {
        let pause = error.pause(attempt);
        if pause >= Duration::from_secs(5) {
            tracing::warn!("waiting {} seconds: {error}", pause.as_secs());
        } else {
            tracing::debug!("once more: {error}");
        }
        std::thread::sleep(pause);
    }
}

/// Turns the crate's events on one transfer into [`Watch`]'s steps; a transfer that begins anew tells nothing twice.
struct Meter {
    watch: Watch,
    total: u64,
    told: AtomicU64,
}

impl Meter {
    fn new(watch: &Watch, total: u64) -> Arc<Self> {
        Arc::new(Self { watch: watch.clone(), total, told: AtomicU64::new(0) })
    }

    fn at(&self, bytes: u64) {
        let bytes = bytes.min(self.total);
        let before = self.told.fetch_max(bytes, Ordering::Relaxed);
        if bytes > before {
            (self.watch)(bytes - before);
        }
    }

    fn end(&self) {
        self.at(self.total);
    }
}

impl ProgressHandler for Meter {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Upload(UploadEvent::Progress { bytes_completed, .. })
            | ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. }) => {
                self.at(*bytes_completed);
            }
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().for_each(|file| self.at(file.bytes_completed));
            }
            _ => {}
        }
    }
}
