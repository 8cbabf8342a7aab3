//! A Hub for tests: the interface that the three official clients (Rust, Python, JavaScript) speak, on loopback, with faults.
//!
//! Two hosts, as on the Hub: `127.0.0.1` answers questions, `localhost` on another port keeps the bytes. The bytes of large
//! files are kept by the official simulation of the content-addressed store. Read from the sources of `hf-hub` 1.0.0,
//! `huggingface_hub` 2.4.0 and `@huggingface/hub` 2.17.5; each file says which part of the Hub it stands for.

// What answers a request is async to axum, whether or not it waits for something.
#![allow(clippy::unused_async)]

mod access;
mod api;
mod commit;
mod faults;
mod files;
mod repository;
mod server;
mod storage;
mod xet;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, http::HeaderMap};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, runtime::Runtime};

use access::{Account, Accounts, Refusal, Wish};
use faults::Faults;
pub use faults::{Fault, Flaw, Host, Part};
pub use repository::{Content, Kind, RepoId};
use repository::{Entry, Repository};
pub use server::Seen;
use storage::Storage;
use xet::Xet;

/// What can be different between two Hubs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether large files go through the content-addressed store; the official clients all want it.
    pub xet: bool,
    /// Rows of a listing's page; 1,000 on the Hub.
    pub page: usize,
    /// Whether the store lies in a temporary folder and not in memory.
    pub disk: bool,
    /// Bytes of a part of an LFS upload in many parts; a larger object is sent so.
    pub part: u64,
    /// Seconds for which a token of the store is good.
    pub xet_lifetime: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { xet: true, page: 1000, disk: false, part: 64 << 20, xet_lifetime: 3600 }
    }
}

/// All that the Hub knows.
struct World {
    options: Options,
    hub: SocketAddr,
    objects: SocketAddr,
    accounts: Mutex<Accounts>,
    repositories: Mutex<BTreeMap<RepoId, Repository>>,
    storage: Storage,
    xet: Xet,
    faults: Mutex<Faults>,
    seen: Mutex<Vec<Seen>>,
    leaks: Mutex<Vec<String>>,
}

impl World {
    fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    fn storage_endpoint(&self) -> String {
        format!("http://localhost:{}", self.objects.port())
    }

    fn expire(&self, token: &str) {
        if let Some(account) = self.accounts.lock().unwrap().by_token.get_mut(token) {
            account.expired = true;
        }
    }

    /// Does something to a repository that the asker may do.
    fn with<T>(
        &self,
        headers: &HeaderMap,
        id: &RepoId,
        wish: Wish,
        act: impl FnOnce(&mut Repository) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        self.accounts.lock().unwrap().admit(headers, repositories.get(id), wish)?;
        act(repositories.get_mut(id).expect("nobody is admitted to what does not exist"))
    }
}

/// A file as a test sees it on the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    pub size: u64,
    /// Of an LFS object.
    pub sha256: Option<String>,
    /// Of any other file.
    pub text: Option<Vec<u8>>,
    pub oid: String,
}

/// A commit as a test sees it.
#[derive(Clone, Debug)]
pub struct RemoteCommit {
    pub oid: String,
    pub files: BTreeMap<String, RemoteFile>,
}

/// A repository as a test sees it.
#[derive(Clone, Debug)]
pub struct Remote {
    pub private: bool,
    pub branches: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    /// In the order in which they were made.
    pub commits: Vec<RemoteCommit>,
}

impl Remote {
    /// The files of a branch, a tag or a commit.
    pub fn files(&self, revision: &str) -> &BTreeMap<String, RemoteFile> {
        let oid = self.branches.get(revision).or_else(|| self.tags.get(revision)).map_or(revision, String::as_str);
        &self.commits.iter().find(|commit| commit.oid == oid).unwrap_or_else(|| panic!("no revision {revision}")).files
    }
}

/// The running Hub; it ends with its value.
pub struct Hub {
    world: Arc<World>,
    runtime: Option<Runtime>,
}

impl Hub {
    /// A Hub as huggingface.co is.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let world = runtime.block_on(async {
            let hub = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let objects = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let world = Arc::new(World {
                xet: Xet::start(options.disk, options.xet_lifetime).await,
                options,
                hub: hub.local_addr().unwrap(),
                objects: objects.local_addr().unwrap(),
                accounts: Mutex::new(accounts()),
                repositories: Mutex::default(),
                storage: Storage::default(),
                faults: Mutex::default(),
                seen: Mutex::default(),
                leaks: Mutex::default(),
            });
            let routes = Router::new()
                .merge(api::routes())
                .merge(commit::routes())
                .merge(files::routes())
                .merge(storage::hub_routes())
                .merge(xet::hub_routes())
                .fallback(async || {
                    Refusal::new(axum::http::StatusCode::NOT_FOUND, None, "Sorry, we can't find this page")
                });
            let stores = Router::new().merge(storage::routes()).merge(xet::routes());
            tokio::spawn(server::serve(hub, Host::Hub, routes.with_state(world.clone()), world.clone()));
            tokio::spawn(server::serve(objects, Host::Storage, stores.with_state(world.clone()), world.clone()));
            world
        });
        Self { world, runtime: Some(runtime) }
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.world.endpoint()
    }

    /// The token of user `atlas`, who may write to `atlas/…` and `lab/…`.
    pub const TOKEN: &str = TOKENS[0].0;

    /// The token of user `rival`, also of `lab`.
    pub const RIVAL: &str = TOKENS[1].0;

    /// A token of user `atlas` that only reads.
    pub const READER: &str = TOKENS[2].0;

    /// The token of a user who belongs to nothing.
    pub const STRANGER: &str = TOKENS[3].0;

    /// Every secret that the Hub knows or gave out: none may be found in anything that a client writes.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets: Vec<String> = TOKENS.iter().map(|(token, ..)| (*token).to_owned()).collect();
        secrets.extend(self.world.xet.secrets());
        secrets
    }

    pub fn expire(&self, token: &str) {
        self.world.expire(token);
    }

    /// Makes every token good again.
    pub fn renew(&self) {
        self.world.accounts.lock().unwrap().by_token.values_mut().for_each(|account| account.expired = false);
    }

    /// Lets a user into a gated repository.
    pub fn admit(&self, user: &str, kind: Kind, id: &str) {
        self.world.accounts.lock().unwrap().admitted.insert((user.to_owned(), RepoId::new(kind, id)));
    }

    /// Arms a fault.
    pub fn fail(&self, fault: Fault) {
        self.world.faults.lock().unwrap().arm(fault);
    }

    /// Disarms all faults, makes every token good again, and forgets what was asked.
    pub fn heal(&self) {
        self.world.faults.lock().unwrap().clear();
        self.world.seen.lock().unwrap().clear();
        self.renew();
    }

    /// How many requests went wrong on purpose since the last [`Self::heal`].
    pub fn struck(&self) -> usize {
        self.world.faults.lock().unwrap().struck()
    }

    /// What was asked since the last [`Self::heal`], in order.
    pub fn requests(&self) -> Vec<Seen> {
        self.world.seen.lock().unwrap().clone()
    }

    /// How many requests of a part came since the last [`Self::heal`].
    pub fn count(&self, part: Part) -> usize {
        self.requests().iter().filter(|seen| part == Part::Any || seen.part == part).count()
    }

    /// Requests that brought a Hub token to the storage host.
    pub fn leaks(&self) -> Vec<String> {
        self.world.leaks.lock().unwrap().clone()
    }

    /// A repository, if there is one.
    pub fn repo(&self, kind: Kind, id: &str) -> Option<Remote> {
        let repositories = self.world.repositories.lock().unwrap();
        let found = repositories.get(&RepoId::new(kind, id))?;
        let file = |(path, entry): (&String, &Entry)| {
            let (sha256, text) = match &entry.content {
                Content::Regular(bytes) => (None, Some(bytes.to_vec())),
                Content::Lfs { sha256, .. } => (Some(sha256.clone()), None),
            };
            (path.clone(), RemoteFile { size: entry.size(), sha256, text, oid: entry.oid.clone() })
        };
        let commits = found
            .commits
            .iter()
            .map(|commit| RemoteCommit { oid: commit.oid.clone(), files: commit.files.iter().map(file).collect() });
        let (branches, tags) = (found.branches.clone(), found.tags.clone());
        Some(Remote { private: found.private, branches, tags, commits: commits.collect() })
    }

    /// Files of a revision whose bytes, read out of the storage, are not those that its commit names.
    pub fn damaged(&self, kind: Kind, id: &str, revision: &str) -> Vec<String> {
        let remote = self.repo(kind, id).expect("a repository");
        let problem = |file: &RemoteFile| {
            let sha256 = file.sha256.as_ref()?;
            match self.runtime().block_on(self.world.storage.read(&self.world.xet, sha256)) {
                Err(problem) => Some(problem),
                Ok(bytes) if bytes.len() as u64 != file.size => Some(format!("{} bytes of {}", bytes.len(), file.size)),
                Ok(bytes) => (repository::hex(&Sha256::digest(&bytes)) != *sha256).then(|| "other bytes".to_owned()),
            }
        };
        let files = remote.files(revision);
        files.iter().filter_map(|(path, file)| Some(format!("{path}: {}", problem(file)?))).collect()
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it ends with this value")
    }

    /// Makes a repository, or changes one behind everyone's back: these files are added or replaced in one commit on `main`.
    pub fn push<'a>(&self, author: &str, kind: Kind, id: &str, files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) {
        let mut repositories = self.world.repositories.lock().unwrap();
        let id = RepoId::new(kind, id);
        let repository = repositories.entry(id.clone()).or_insert_with(|| Repository::new(id, false, author));
        let head = repository.resolve("main").expect("every repository has main");
        let mut tree = head.files.clone();
        for (path, bytes) in files {
            let entry = if head.wants_lfs(path, bytes.len() as u64, &bytes[..bytes.len().min(512)]) {
                let size = bytes.len() as u64;
                Entry::lfs(&self.world.storage.put(bytes.into()), size)
            } else {
                Entry::regular(bytes.into())
            };
            tree.insert(path.to_owned(), entry);
        }
        repository.commit("main", "Pushed by a test", "", author, tree);
    }

    /// Hides a repository, or asks for consent before its files are read.
    pub fn restrict(&self, kind: Kind, id: &str, private: bool, gated: bool) {
        let mut repositories = self.world.repositories.lock().unwrap();
        let repository = repositories.get_mut(&RepoId::new(kind, id)).expect("a repository");
        (repository.private, repository.gated) = (private, gated);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Token, user, whether it writes. No token of the real Hub looks like these.
const TOKENS: [(&str, &str, bool); 4] = [
    ("hf_testAtlasWrites0123456789abcdefghij", "atlas", true),
    ("hf_testRivalWrites0123456789abcdefghij", "rival", true),
    ("hf_testAtlasReads00123456789abcdefghij", "atlas", false),
    ("hf_testStranger0000123456789abcdefghij", "stranger", true),
];

fn accounts() -> Accounts {
    let account = |(token, user, writes): (&str, &str, bool)| {
        let organisations = if user == "stranger" { Vec::new() } else { vec!["lab".to_owned()] };
        (token.to_owned(), Account { user: user.to_owned(), organisations, writes, expired: false })
    };
    Accounts { by_token: TOKENS.map(account).into(), ..Accounts::default() }
}

/// For use by hand: serves until it is interrupted, and says where.
#[test]
#[ignore = "needs a person: it serves a test Hub until it is interrupted"]
fn serve_by_hand() {
    let hub = Hub::start();
    println!("export HF_ENDPOINT={} HF_TOKEN={}", hub.endpoint(), Hub::TOKEN);
    loop {
        std::thread::park();
    }
}
