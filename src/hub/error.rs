//! What can go wrong with a Hub, each in its own words: the crate below knows responses, a person has to know what to do.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use hf_hub::HFError;

use super::{Kind, RepoId, environment::Environment, without_secrets};

/// What can go wrong with a Hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not of the form `owner/name`.
    #[error("`{0}` is no repository of a Hub; write OWNER/NAME, perhaps with @REVISION behind it")]
    Name(String),
    /// A revision that git could not hold.
    #[error("`{0}` is no revision; write a branch, a tag such as v1.0.0, or a commit of 40 digits")]
    RevisionName(String),
    /// An address that is none.
    #[error("HF_ENDPOINT: `{endpoint}` is no address of a Hub: {problem}")]
    Endpoint {
        /// The value.
        endpoint: String,
        /// What is wrong.
        problem: String,
    },
    /// No connection.
    #[error(
        "{endpoint} cannot be reached: {problem}; check the network and HF_ENDPOINT, or use what the cache holds by --offline"
    )]
    NoNetwork {
        /// The Hub.
        endpoint: String,
        /// What the network said.
        problem: String,
    },
    /// Not in the cache, and only the cache may be used.
    #[error(
        "{what} is not in the cache {cache}, and HF_HUB_OFFLINE or --offline forbids to ask the Hub; run it once without"
    )]
    Offline {
        /// Repository, revision, file.
        what: String,
        /// The folder.
        cache: PathBuf,
    },
    /// None, or a private one.
    #[error("{endpoint} shows no {kind} `{repo}`: there is none, or it is private and {}", unseen(.token.as_deref()))]
    NoRepository {
        /// The Hub.
        endpoint: String,
        /// Model or data set.
        kind: Kind,
        /// The repository.
        repo: RepoId,
        /// Where the token that was sent came from.
        token: Option<String>,
    },
    /// Conditions to be accepted first.
    #[error(
        "the {kind} `{repo}` is gated: accept its conditions at {page} with your account, then {}",
        accepted(.token.as_deref())
    )]
    Gated {
        /// Model or data set.
        kind: Kind,
        /// The repository.
        repo: RepoId,
        /// Where a person accepts the conditions.
        page: String,
        /// Where the token that was sent came from.
        token: Option<String>,
    },
    /// Nobody said who asks.
    #[error(
        "{endpoint} wants to know who asks, and no token is set: make one at {endpoint}/settings/tokens and put it into HF_TOKEN, or log in with `hf auth login`"
    )]
    NoToken {
        /// The Hub.
        endpoint: String,
    },
    /// A token that the Hub does not know.
    #[error(
        "{endpoint} does not know the token in {token}; it may be mistyped, revoked or of another Hub: make a new one at {endpoint}/settings/tokens"
    )]
    WrongToken {
        /// The Hub.
        endpoint: String,
        /// Where the token came from.
        token: String,
    },
    /// A token whose time is over.
    #[error(
        "the token in {token} is expired; make a new one at {endpoint}/settings/tokens and run the same command again"
    )]
    ExpiredToken {
        /// The Hub.
        endpoint: String,
        /// Where the token came from.
        token: String,
    },
    /// A token that may not do this.
    #[error(
        "the token in {token} may not do this to `{repo}`{}; it needs the permission to write there: {endpoint}/settings/tokens",
        quoted(.said)
    )]
    Forbidden {
        /// The Hub.
        endpoint: String,
        /// Where the token came from.
        token: String,
        /// The repository.
        repo: RepoId,
        /// What the Hub said.
        said: String,
    },
    /// Somebody else's.
    #[error("the name `{repo}` is taken: {problem}; choose another one with --repo")]
    Taken {
        /// The repository.
        repo: RepoId,
        /// By what.
        problem: String,
    },
    /// A tag of an earlier release.
    #[error("the tag {tag} of `{repo}` stands at {commit}, which has other content; choose the next one with --tag")]
    TagTaken {
        /// The repository.
        repo: RepoId,
        /// The tag.
        tag: String,
        /// Its commit.
        commit: String,
    },
    /// No branch, tag or commit of that name.
    #[error("the {kind} `{repo}` has no revision `{revision}`; its branches and tags stand at {page}")]
    NoRevision {
        /// Model or data set.
        kind: Kind,
        /// The repository.
        repo: RepoId,
        /// What was asked for.
        revision: String,
        /// Where they can be seen.
        page: String,
    },
    /// No file of that name.
    #[error("the {kind} `{repo}` has no file `{path}` at revision {revision}")]
    NoFile {
        /// Model or data set.
        kind: Kind,
        /// The repository.
        repo: RepoId,
        /// The revision.
        revision: String,
        /// What was asked for.
        path: String,
    },
    /// A full disk.
    #[error("{path}: the disk is full; make room and run the same command again, what is finished is kept")]
    NoRoom {
        /// The folder or the file.
        path: PathBuf,
    },
    /// Another process is fetching the same file.
    #[error("{path}: another program is fetching this file into the cache; run the same command again when it is done")]
    Busy {
        /// Its lock.
        path: PathBuf,
    },
    /// Somebody else wrote to the repository in the meantime.
    #[error(
        "somebody else pushed to `{repo}` while this was running (it stands at {found} now, not at {expected}): nothing of theirs was overwritten. Look at it, then run the same command again"
    )]
    Moved {
        /// The repository.
        repo: RepoId,
        /// The commit that we built upon.
        expected: String,
        /// The commit that is there.
        found: String,
    },
    /// Too many requests.
    #[error("{endpoint} takes no more requests for now{}; what is finished is kept, run the same command again later", wait(*.pause))]
    TooMany {
        /// The Hub.
        endpoint: String,
        /// How long it wants us to wait.
        pause: Option<Duration>,
    },
    /// The Hub's own trouble.
    #[error("{endpoint} answers with status {status}{}; run the same command again, what is finished is kept", quoted(.said))]
    Server {
        /// The Hub.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// What the Hub said.
        said: String,
    },
    /// A connection that ended early.
    #[error("the connection to {endpoint} was cut: {problem}; run the same command again, what is finished is kept")]
    Cut {
        /// The Hub.
        endpoint: String,
        /// What the network said.
        problem: String,
    },
    /// The large files' own protocol failed.
    #[error("{what} over Xet failed: {problem}; run the same command again, what is finished is kept")]
    Transfer {
        /// Upload or download.
        what: String,
        /// What the library said.
        problem: String,
    },
    /// Other bytes than the Hub promised.
    #[error(
        "{path} of `{repo}` arrived with {found}, but the Hub says {wanted}; it was thrown away. Run the same command again, and if it stays so, tell the repository's owner"
    )]
    Corrupt {
        /// The repository.
        repo: RepoId,
        /// The file.
        path: String,
        /// What arrived.
        found: String,
        /// What should have.
        wanted: String,
    },
    /// A binary file that was put into git itself.
    #[error(
        "{endpoint} took {path} into git itself instead of the storage for large files: it has no Xet. Publish to a Hub that has it; `{repo}` holds no release as yet"
    )]
    Inline {
        /// The Hub.
        endpoint: String,
        /// The repository.
        repo: RepoId,
        /// The file.
        path: String,
    },
    /// The tree after a commit is not what was committed.
    #[error("{path} of `{repo}` is {found} on the Hub, but {wanted} was sent; run the same command again")]
    Altered {
        /// The repository.
        repo: RepoId,
        /// The file.
        path: String,
        /// What the tree says.
        found: String,
        /// What was sent.
        wanted: String,
    },
    /// An answer that makes no sense.
    #[error("{endpoint} answers what no Hub should: {problem}")]
    Strange {
        /// The Hub.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of the cache or of the release that the system does not let us read or write.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn unseen(token: Option<&str>) -> String {
    match token {
        Some(found_in) => format!("the token in {found_in} may not see it; check the name"),
        None => "no token is set; check the name, or put a token that may see it into HF_TOKEN".to_owned(),
    }
}

fn accepted(token: Option<&str>) -> String {
    match token {
        Some(found_in) => format!("run it again (the token in {found_in} must be of the same account)"),
        None => "put a token of that account into HF_TOKEN and run it again".to_owned(),
    }
}

fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn wait(pause: Option<Duration>) -> String {
    pause.map_or_else(String::new, |pause| format!(" (it asks for {} seconds)", pause.as_secs()))
}

/// What was asked of whom, so that an error can name it.
pub(super) struct Question<'a> {
    pub environment: &'a Environment,
    pub kind: Kind,
    pub repo: &'a RepoId,
    pub revision: Option<&'a str>,
    pub path: Option<&'a str>,
}

impl Question<'_> {
    /// The crate's error in a person's words.
    pub fn answer(&self, error: HFError) -> HubError {
        let endpoint = self.environment.shown_endpoint();
        match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => self.of_status(
                context.status.as_u16(),
                context.error_code.as_deref().unwrap_or_default(),
                context.server_message.as_deref().unwrap_or_default(),
            ),
            HFError::RateLimited { retry_after, .. } => HubError::TooMany { endpoint, pause: retry_after },
            HFError::RepoNotFound { .. } => self.no_repository(),
            HFError::RevisionNotFound { .. } => self.no_revision(),
            HFError::EntryNotFound { path, .. } => self.no_file(&path),
            HFError::LocalEntryNotFound { path } => {
                HubError::Offline { what: format!("{} of {}", path, self.repo), cache: self.environment.cache.clone() }
            }
            HFError::Request { source, .. } => {
                let problem = innermost(&source);
                if source.is_connect() || source.is_timeout() {
                    HubError::NoNetwork { endpoint, problem }
                } else if is_full(&problem) {
                    HubError::NoRoom { path: self.environment.cache.clone() }
                } else {
                    HubError::Cut { endpoint, problem }
                }
            }
            HFError::Io(source) => HubError::of_file(self.environment.cache.clone(), source),
            HFError::CacheLockTimeout { path } => HubError::Busy { path },
            HFError::Xet { operation, source } => {
                let problem = innermost(source.as_ref());
                if is_full(&problem) {
                    return HubError::NoRoom { path: self.environment.cache.clone() };
                }
                HubError::Transfer { what: operation.to_string(), problem }
            }
            other => HubError::Strange { endpoint, problem: shown(&other.to_string()) },
        }
    }

    /// The Hub's own words for what went wrong are its codes; the status alone says less.
    fn of_status(&self, status: u16, code: &str, message: &str) -> HubError {
        let (endpoint, said) = (self.environment.shown_endpoint(), shown(message));
        let token = self.token();
        match (code, status) {
            ("GatedRepo", _) => {
                HubError::Gated { kind: self.kind, repo: self.repo.clone(), page: self.page(""), token }
            }
            (_, 401) => match token {
                Some(token) if message.to_lowercase().contains("expired") => HubError::ExpiredToken { endpoint, token },
                Some(token) => HubError::WrongToken { endpoint, token },
                None if code == "RepoNotFound" || self.path.is_some() || self.revision.is_some() => {
                    self.no_repository()
                }
                None => HubError::NoToken { endpoint },
            },
            (_, 403) => match token {
                Some(token) if message.to_lowercase().contains("expired") => HubError::ExpiredToken { endpoint, token },
                Some(token) => HubError::Forbidden { endpoint, token, repo: self.repo.clone(), said },
                None => HubError::NoToken { endpoint },
            },
            ("RepoNotFound", _) => self.no_repository(),
            ("RevisionNotFound", _) => self.no_revision(),
            ("EntryNotFound", _) => self.no_file(self.path.unwrap_or_default()),
            (_, 404) => match (self.path, self.revision) {
                (Some(path), _) => self.no_file(path),
                (None, Some(_)) => self.no_revision(),
                (None, None) => self.no_repository(),
            },
            (_, 409 | 412) => HubError::Moved {
                repo: self.repo.clone(),
                expected: self.revision.unwrap_or("main").to_owned(),
                found: "another commit".to_owned(),
            },
            (_, 429) => HubError::TooMany { endpoint, pause: None },
            _ => HubError::Server { endpoint, status, said },
        }
    }

    fn token(&self) -> Option<String> {
        self.environment.token.as_ref().map(|token| token.found_in.clone())
    }

    fn page(&self, below: &str) -> String {
        format!("{}/{}{}{below}", self.environment.shown_endpoint(), self.kind.prefix(), self.repo)
    }

    fn no_repository(&self) -> HubError {
        HubError::NoRepository {
            endpoint: self.environment.shown_endpoint(),
            kind: self.kind,
            repo: self.repo.clone(),
            token: self.token(),
        }
    }

    fn no_revision(&self) -> HubError {
        HubError::NoRevision {
            kind: self.kind,
            repo: self.repo.clone(),
            revision: self.revision.unwrap_or("main").to_owned(),
            page: self.page("/tree/main"),
        }
    }

    fn no_file(&self, path: &str) -> HubError {
        HubError::NoFile {
            kind: self.kind,
            repo: self.repo.clone(),
            revision: self.revision.unwrap_or("main").to_owned(),
            path: path.to_owned(),
        }
    }
}

impl HubError {
    /// An error of the file system.
    #[must_use]
    pub fn of_file(path: PathBuf, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoRoom { path },
            _ => Self::File { path, source },
        }
    }

    /// Whether the same request may well succeed a little later.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::TooMany { .. } | Self::Cut { .. } | Self::Transfer { .. } | Self::Corrupt { .. })
            || matches!(self, Self::Server { status, .. } if *status >= 500 || *status == 408)
    }

    /// How long to wait before attempt number `attempt`, from 1.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        // Nobody waits for an hour in front of a terminal: a longer pause is said and left to the person.
        const LONGEST: Duration = Duration::from_secs(300);
        let usual = Duration::from_millis(500) * 4u32.pow(attempt.min(5) - 1);
        match self {
            Self::TooMany { pause: Some(pause), .. } => (*pause).min(LONGEST),
            _ => usual,
        }
    }
}

/// The last cause of an error, which is the one that says something.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    shown(&cause.to_string())
}

fn is_full(problem: &str) -> bool {
    problem.contains("No space left on device") || problem.contains("Disk quota exceeded")
}

/// Words of others as they may be shown: on one line, without secrets, without the signatures that addresses carry.
fn shown(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.find("://") {
        Some(_) => word.split('?').next().unwrap_or(word).to_owned(),
        None => word.to_owned(),
    });
    let text = without_secrets(&words.collect::<Vec<_>>().join(" "));
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
