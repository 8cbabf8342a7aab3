//! Releases from end to end against the test Hub: published once, read by others, and whole after whatever happens on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    demo::committed,
    harness::{Said, Sandbox, bytes_below, command, files_below, said},
    hub::{Fault, Flaw, Hub, Kind, Options, Part, Remote, RemoteFile},
    hub_clients::{Python, every_configuration_is_whole, hashes, javascript},
};

const REPO: &str = "lab/release";

/// A person's machine: the folder in which the program runs, and its cache of the Hub.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with nothing of this machine's Hub; waits between attempts of the store's library are short.
    fn command(&self, hub: &Hub, token: &str, arguments: &[&str]) -> Command {
        let mut command = command(self.folder.path(), arguments);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HF_") || name.starts_with("HUGGING")) {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", self.path("hf")).env("HF_TOKEN", token);
        command.env("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms").env("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "2");
        command
    }

    fn run(&self, hub: &Hub, token: &str, arguments: &[&str]) -> Said {
        said(self.folder.path(), &self.command(hub, token, arguments).output().unwrap())
    }

    fn publish(&self, hub: &Hub, atlas: &Path) -> Said {
        self.run(hub, Hub::TOKEN, &["publish", atlas.to_str().unwrap(), "--repo", REPO, "--json"])
    }

    fn pull(&self, hub: &Hub, out: &str) -> Said {
        self.run(hub, Hub::READER, &["pull", REPO, "--out", out, "--json"])
    }

    /// Starts a command and does not wait for it.
    fn start(&self, hub: &Hub, token: &str, arguments: &[&str]) -> Started {
        let (out, err) = (self.path("started.out"), self.path("started.err"));
        let mut command = self.command(hub, token, arguments);
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).stdin(Stdio::null());
        Started { child: command.spawn().unwrap(), err }
    }
}

/// A running command.
struct Started {
    child: Child,
    err: PathBuf,
}

impl Started {
    /// Kills the process outright (SIGKILL) as soon as something is so, or finds that it ended before.
    fn kill_when(mut self, so: impl Fn() -> bool) {
        let start = Instant::now();
        while !so() && self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(120), "{}", fs::read_to_string(&self.err).unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(!fs::read_to_string(&self.err).unwrap().contains("panicked"));
    }

    /// Exit code and words.
    fn wait(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        let words = fs::read_to_string(&self.err).unwrap();
        assert!(!words.contains("panicked"), "{words}");
        (code, words)
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The atlas of the tiny model.
fn tiny() -> &'static Path {
    static ATLAS: OnceLock<(Sandbox, PathBuf)> = OnceLock::new();
    let (_, path) = ATLAS.get_or_init(|| {
        let sandbox = Sandbox::new().with_atlas();
        let path = sandbox.path("atlas");
        (sandbox, path)
    });
    path
}

/// A copy of the tiny atlas in `DESK/name` with files of random bytes beside its own, all in the manifest.
fn synthetic(desk: &Desk, name: &str, seed: u64, files: usize, bytes: usize) -> PathBuf {
    let atlas = desk.path(name);
    for (path, bytes) in bytes_below(tiny()) {
        let place = atlas.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, bytes).unwrap();
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut manifest: Value = serde_json::from_slice(&fs::read(atlas.join("manifest.json")).unwrap()).unwrap();
    fs::create_dir_all(atlas.join("data/synthetic")).unwrap();
    let mut content = vec![0; bytes];
    for number in 0..files {
        random.fill_bytes(&mut content);
        // Text would go into git, and the first byte makes it none.
        content[0] = 0;
        let path = format!("data/synthetic/{seed}-{number:05}.bin");
        fs::write(atlas.join(&path), &content).unwrap();
        let entry = json!({ "path": path, "bytes": bytes, "sha256": sha256(&content) });
        manifest["files"].as_array_mut().unwrap().push(entry);
    }
    manifest["files"].as_array_mut().unwrap().sort_by_key(|file| file["path"].as_str().unwrap().to_owned());
    fs::write(atlas.join("manifest.json"), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
    atlas
}

/// What a release holds besides the two files that are made for it when it is published.
fn data(atlas: &Path) -> BTreeMap<String, String> {
    let mut data = hashes(atlas);
    assert!(data.remove("README.md").is_some() && data.remove("manifest.json").is_some());
    data
}

fn hash_of(file: &RemoteFile) -> String {
    file.sha256.clone().unwrap_or_else(|| sha256(file.text.as_ref().unwrap()))
}

/// Asserts that a tag stands at a whole release of an atlas: every file with its hash, and a manifest that says the same.
fn whole(remote: &Remote, tag: &str, atlas: &Path) {
    let files = remote.files(tag);
    let manifest: Value = serde_json::from_slice(files["manifest.json"].text.as_ref().unwrap()).unwrap();
    assert_eq!(manifest["release"], tag);
    let said: BTreeMap<String, String> = (manifest["files"].as_array().unwrap().iter())
        .map(|file| (file["path"].as_str().unwrap().to_owned(), file["sha256"].as_str().unwrap().to_owned()))
        .collect();
    let mut there: BTreeMap<String, String> = files.iter().map(|(path, file)| (path.clone(), hash_of(file))).collect();
    there.retain(|path, _| ![".gitattributes", "manifest.json"].contains(&path.as_str()));
    assert_eq!(there, said, "the manifest of {tag} and what is there");
    there.remove("README.md");
    assert_eq!(there, data(atlas), "{tag} and the atlas");
}

/// Asserts that the only release is `v1.0.0`, whole, at the head of `main`, and that no commit on the way was empty.
fn whole_at_the_first_attempt_or_the_second(hub: &Hub, atlas: &Path, context: &str) {
    let remote = hub.repo(Kind::Dataset, REPO).unwrap_or_else(|| panic!("{context}: no repository"));
    let tags: Vec<_> = remote.tags.iter().collect();
    assert_eq!(tags, [(&"v1.0.0".to_owned(), &remote.branches["main"])], "{context}");
    whole(&remote, "v1.0.0", atlas);
    assert_eq!(hub.damaged(Kind::Dataset, REPO, "v1.0.0"), Vec::<String>::new(), "{context}");
    assert!(remote.commits.windows(2).all(|pair| pair[0].files != pair[1].files), "{context}: an empty commit");
    assert!(hub.leaks().is_empty(), "{context}: {:?}", hub.leaks());
}

#[test]
fn the_demo_atlas_is_published_once_and_read_by_everybody() {
    let (hub, desk, atlas) = (Hub::start(), Desk::new(), committed());
    let first: Value = serde_json::from_str(&desk.publish(&hub, &atlas).done().stdout).unwrap();
    assert_eq!((&first["tag"], first["interrupted"].as_bool()), (&json!("v1.0.0"), Some(false)));
    whole_at_the_first_attempt_or_the_second(&hub, &atlas, "the first time");
    let remote = hub.repo(Kind::Dataset, REPO).unwrap();
    assert!(remote.private, "private unless asked");
    // Again: not one commit, not one byte.
    hub.heal();
    let second: Value = serde_json::from_str(&desk.publish(&hub, &atlas).done().stdout).unwrap();
    assert_eq!((&second["commits"], &second["commit"]), (&json!(0), &first["commit"]));
    let asked = hub.requests();
    assert!(!asked.is_empty() && asked.iter().all(|seen| ["GET", "HEAD"].contains(&&*seen.method)), "{asked:?}");
    assert_eq!(hub.repo(Kind::Dataset, REPO).unwrap().commits.len(), remote.commits.len());
    // Ours, twice: the second pull fetches nothing.
    desk.pull(&hub, "pulled").done();
    let pulled = hashes(&desk.path("pulled"));
    hub.heal();
    desk.pull(&hub, "pulled").done();
    let again: Vec<String> = hub.requests().into_iter().filter(|s| s.part == Part::Download).map(|s| s.path).collect();
    assert!(again.iter().all(|path| path.contains("manifest.json")), "{again:?}");
    desk.run(&hub, Hub::READER, &["verify", REPO]).done();
    desk.run(&hub, Hub::READER, &["verify", "pulled"]).done();
    let wanted: BTreeMap<String, String> = (remote.files("v1.0.0").iter())
        .filter(|(path, _)| *path != ".gitattributes")
        .map(|(path, file)| (path.clone(), hash_of(file)))
        .collect();
    assert_eq!(pulled, wanted);
    // Others'.
    let same = |found: Result<Value, String>, who: &str| {
        let found = found.unwrap_or_else(|error| panic!("{who}: {error}"));
        let mut found: BTreeMap<String, String> = serde_json::from_value(found).unwrap();
        found.remove(".gitattributes");
        assert_eq!(found, wanted, "{who}");
    };
    for way in ["xet", "plain"] {
        if let Some(found) = javascript(&hub, Some(Hub::READER), &["download", REPO, "v1.0.0", way]) {
            same(found, "JavaScript");
        }
    }
    let Some(python) = Python::find() else { return };
    let place = desk.path("python");
    same(python.ask(&hub, Some(Hub::READER), &["download", REPO, "v1.0.0", place.to_str().unwrap()]), "Python");
    let rows = python.ask(&hub, Some(Hub::READER), &["load", REPO, "v1.0.0"]).unwrap_or_else(|error| panic!("{error}"));
    every_configuration_is_whole(&rows, &atlas);
    assert_eq!(hub.leaks(), Vec::<String>::new());
}

/// At least ten places among so many requests, the first and the last of them.
fn places(total: usize) -> Vec<usize> {
    assert!(total >= 10, "only {total} requests to spoil");
    let places: BTreeSet<usize> = (0..12).map(|n| n * (total - 1) / 11).collect();
    places.into_iter().collect()
}

/// Spoils a publication at ten places or more, each in two ways: once, so that the program may get over it; and for good, with the
/// process killed outright at the first blow. Run again, the release is whole.
fn publish_survives(flaw: Flaw, part: Part, files: usize) {
    let shelf = Desk::new();
    let atlas = synthetic(&shelf, "atlas", 1, files, 300);
    let clean = Hub::start();
    shelf.publish(&clean, &atlas).done();
    let mut struck = 0;
    for at in places(clean.count(part)) {
        // Every Hub a desk of its own: the client remembers by the address of a store what lies in it, and a port comes back.
        let context = format!("{flaw:?} at {at} of {part:?}");
        let (desk, hub) = (Desk::new(), Hub::start());
        hub.fail(Fault::new(flaw).on(part).at(at));
        let first = desk.publish(&hub, &atlas);
        assert!(first.code <= 1, "{context}: {}", first.text());
        // How many requests there are differs by one or two from run to run.
        assert!(hub.struck() > 0 || first.code == 0, "{context}: {}", first.text());
        struck += hub.struck();
        hub.heal();
        desk.publish(&hub, &atlas).done();
        whole_at_the_first_attempt_or_the_second(&hub, &atlas, &context);

        let (context, desk, hub) = (format!("{context}, killed"), Desk::new(), Hub::start());
        hub.fail(Fault::new(flaw).on(part).at(at).lasting());
        let arguments = ["publish", atlas.to_str().unwrap(), "--repo", REPO];
        desk.start(&hub, Hub::TOKEN, &arguments).kill_when(|| hub.struck() > 0);
        hub.heal();
        desk.publish(&hub, &atlas).done();
        whole_at_the_first_attempt_or_the_second(&hub, &atlas, &context);
    }
    assert!(struck >= 10, "{flaw:?} struck {struck} times");
}

#[test]
fn publish_survives_an_error_of_the_hub_anywhere() {
    publish_survives(Flaw::Status(500), Part::Any, 4);
}

#[test]
fn publish_survives_too_many_requests_anywhere() {
    publish_survives(Flaw::Status(429), Part::Any, 4);
}

#[test]
fn publish_survives_a_connection_cut_in_the_middle_of_a_request() {
    publish_survives(Flaw::CutRequest, Part::Any, 4);
}

#[test]
fn publish_survives_an_answer_that_is_lost() {
    publish_survives(Flaw::NoAnswer, Part::Any, 4);
}

#[test]
fn publish_survives_a_connection_cut_in_the_middle_of_an_answer() {
    publish_survives(Flaw::CutResponse, Part::Any, 4);
}

#[test]
fn publish_survives_an_answer_that_is_half_as_long() {
    publish_survives(Flaw::Truncated, Part::Any, 4);
}

#[test]
fn publish_survives_a_token_that_expires() {
    publish_survives(Flaw::Expire, Part::Any, 4);
}

#[test]
#[ignore = "needs minutes: uploads of a thousand files, spoiled and killed at a dozen places each"]
fn publish_survives_whatever_happens_to_the_bytes_of_a_large_release_or_to_its_commits() {
    for flaw in [Flaw::CutRequest, Flaw::NoAnswer, Flaw::Status(500)] {
        publish_survives(flaw, Part::Upload, 1000);
        publish_survives(flaw, Part::Commit, 1000);
    }
    publish_survives(Flaw::AlteredRequest, Part::Upload, 1000);
}

/// Spoils a pull at ten places or more, as [`publish_survives`]. No file is ever wrong under its own name.
fn pull_survives(flaw: Flaw, part: Part) {
    let (hub, desk) = (Hub::start(), Desk::new());
    let atlas = synthetic(&desk, "atlas", 2, 6, 3000);
    desk.publish(&hub, &atlas).done();
    let remote = hub.repo(Kind::Dataset, REPO).unwrap();
    let wanted: BTreeMap<String, String> = (remote.files("main").iter())
        .filter(|(path, _)| *path != ".gitattributes")
        .map(|(path, file)| (path.clone(), hash_of(file)))
        .collect();
    let fresh = || {
        hub.heal();
        Desk::new()
    };
    let clean = fresh();
    clean.pull(&hub, "out").done();
    assert_eq!(hashes(&clean.path("out")), wanted);
    // What stands under its own name; what is on its way lies in a folder, or has a name, that says so.
    let found = |desk: &Desk| -> BTreeMap<String, String> {
        let files = files_below(&desk.path("out")).into_iter().map(|path| path.to_str().unwrap().to_owned());
        let named = files.filter(|path| !path.split('/').any(|part| part.contains(".part")));
        named.map(|path| (path.clone(), sha256(&fs::read(desk.path("out").join(path)).unwrap()))).collect()
    };
    let is_done = |desk: &Desk| found(desk) == wanted && files_below(&desk.path("out")).len() == wanted.len();
    let no_file_is_wrong = |desk: &Desk, context: &str| {
        for (path, hash) in found(desk) {
            assert_eq!(wanted.get(&path), Some(&hash), "{context}: {path}");
        }
    };
    let mut struck = 0;
    for at in places(hub.count(part)) {
        let (context, desk) = (format!("{flaw:?} at {at} of {part:?}"), fresh());
        hub.fail(Fault::new(flaw).on(part).at(at));
        let first = desk.pull(&hub, "out");
        assert!(first.code <= 1, "{context}: {}", first.text());
        assert!(first.code == 1 || is_done(&desk), "{context}");
        assert!(hub.struck() > 0 || first.code == 0, "{context}: {}", first.text());
        struck += hub.struck();
        no_file_is_wrong(&desk, &context);
        hub.heal();
        desk.pull(&hub, "out").done();
        assert!(is_done(&desk), "{context}: {:?}", files_below(&desk.path("out")));

        let (context, desk) = (format!("{context}, killed"), fresh());
        hub.fail(Fault::new(flaw).on(part).at(at).lasting());
        desk.start(&hub, Hub::READER, &["pull", REPO, "--out", "out"]).kill_when(|| hub.struck() > 0);
        no_file_is_wrong(&desk, &context);
        hub.heal();
        desk.pull(&hub, "out").done();
        assert!(is_done(&desk), "{context}: {:?}", files_below(&desk.path("out")));
    }
    assert!(struck >= 10, "{flaw:?} struck {struck} times");
}

#[test]
fn pull_survives_an_error_of_the_hub_anywhere() {
    pull_survives(Flaw::Status(500), Part::Any);
}

#[test]
fn pull_survives_too_many_requests_anywhere() {
    pull_survives(Flaw::Status(429), Part::Any);
}

#[test]
fn pull_survives_a_connection_that_is_cut_anywhere() {
    pull_survives(Flaw::CutRequest, Part::Any);
}

#[test]
fn pull_survives_a_connection_cut_in_the_middle_of_a_file() {
    pull_survives(Flaw::CutResponse, Part::Download);
}

#[test]
fn pull_survives_files_that_are_too_short_and_say_nothing_of_it() {
    pull_survives(Flaw::Truncated, Part::Download);
}

#[test]
fn pull_survives_files_with_another_hash() {
    pull_survives(Flaw::Altered, Part::Download);
}

#[test]
fn pull_survives_a_token_that_expires() {
    pull_survives(Flaw::Expire, Part::Any);
}

#[test]
fn a_publisher_that_is_killed_between_any_two_commits_goes_on_where_it_was() {
    let (hub, desk) = (Hub::start(), Desk::new());
    let atlas = synthetic(&desk, "atlas", 3, 1000, 64);
    let commits = || hub.repo(Kind::Dataset, REPO).map_or(0, |remote| remote.commits.len());
    let arguments = ["publish", atlas.to_str().unwrap(), "--repo", REPO];
    let mut at = BTreeSet::new();
    for kill in 0..11 {
        // The repository is born with a commit of its own.
        desk.start(&hub, Hub::TOKEN, &arguments).kill_when(|| commits() > kill);
        at.insert(commits());
    }
    assert!(at.len() >= 10, "killed at these numbers of commits only: {at:?}");
    desk.publish(&hub, &atlas).done();
    whole_at_the_first_attempt_or_the_second(&hub, &atlas, "after eleven kills");
}

#[test]
fn of_two_publishers_at_once_one_wins_the_other_is_told_and_nothing_is_lost() {
    let desks = [Desk::new(), Desk::new()];
    let atlases = [synthetic(&desks[0], "atlas", 4, 150, 100), synthetic(&desks[1], "atlas", 5, 150, 100)];
    let mut told = 0;
    for round in 0..4 {
        let hub = Hub::start();
        let start =
            |n: usize, token| desks[n].start(&hub, token, &["publish", atlases[n].to_str().unwrap(), "--repo", REPO]);
        let (one, other) = (start(0, Hub::TOKEN), start(1, Hub::RIVAL));
        let ends = [one.wait(), other.wait()];
        let context = format!("round {round}: {ends:?}");
        // Each release that there is, is whole.
        let check = |context: &str| {
            let remote = hub.repo(Kind::Dataset, REPO).unwrap();
            println!("{context}: {:?}", remote.tags);
            for tag in remote.tags.keys() {
                let n = usize::from(!remote.files(tag).contains_key("data/synthetic/4-00000.bin"));
                whole(&remote, tag, &atlases[n]);
            }
            remote.tags.len()
        };
        let releases = check(&context);
        assert_eq!(releases, ends.iter().filter(|(code, _)| *code == 0).count(), "{context}");
        for (n, (code, words)) in ends.iter().enumerate().filter(|(_, (code, _))| *code != 0) {
            told += 1;
            assert_eq!(*code, 1, "{context}");
            assert!(words.contains("somebody else pushed") || words.contains("taken"), "{words}");
            let token = [Hub::TOKEN, Hub::RIVAL][n];
            let arguments = ["publish", atlases[n].to_str().unwrap(), "--repo", REPO];
            desks[n].run(&hub, token, &arguments).done();
        }
        assert_eq!(check(&format!("{context}, again")), 2, "{context}");
    }
    assert!(told > 0, "the publishers never met");
}

#[test]
fn what_somebody_else_pushes_in_the_middle_of_a_publication_is_seen_and_kept() {
    let (hub, desk) = (Hub::start(), Desk::new());
    let atlas = synthetic(&desk, "atlas", 6, 300, 100);
    let commits = || hub.repo(Kind::Dataset, REPO).map_or(0, |remote| remote.commits.len());
    let publisher = desk.start(&hub, Hub::TOKEN, &["publish", atlas.to_str().unwrap(), "--repo", REPO]);
    let start = Instant::now();
    while commits() < 3 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    hub.push("rival", Kind::Dataset, REPO, [("notes/by-rival.txt", b"mine".to_vec())]);
    let (code, words) = publisher.wait();
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("somebody else pushed"), "{words}");
    assert!(hub.repo(Kind::Dataset, REPO).unwrap().tags.is_empty());
    desk.publish(&hub, &atlas).done();
    let remote = hub.repo(Kind::Dataset, REPO).unwrap();
    let there = remote.files("v1.0.0");
    assert_eq!(there["notes/by-rival.txt"].text.as_deref(), Some(&b"mine"[..]));
    let wanted = data(&atlas);
    assert!(wanted.iter().all(|(path, hash)| hash_of(&there[path]) == *hash));
}

#[test]
fn a_hub_that_would_put_large_files_into_git_gets_no_release() {
    let (hub, desk) = (Hub::with(Options { xet: false, ..Options::default() }), Desk::new());
    let refused = desk.publish(&hub, tiny());
    assert_eq!(refused.code, 1, "{}", refused.text());
    assert!(refused.stderr.contains("into git itself"), "{}", refused.stderr);
    assert!(hub.repo(Kind::Dataset, REPO).unwrap().tags.is_empty());
}

#[test]
fn verify_sees_a_release_that_somebody_changed_on_the_hub() {
    let (hub, desk) = (Hub::start(), Desk::new());
    desk.publish(&hub, tiny()).done();
    hub.push(
        "rival",
        Kind::Dataset,
        REPO,
        [("data/models.parquet", b"PAR1 other".to_vec()), ("LICENSE", b"mine".to_vec())],
    );
    desk.run(&hub, Hub::READER, &["verify", &format!("{REPO}@v1.0.0")]).done();
    let changed = desk.run(&hub, Hub::READER, &["verify", REPO]);
    assert_eq!(changed.code, 1, "{}", changed.text());
    let words = format!("{}{}", changed.stdout, changed.stderr);
    assert!(words.contains("data/models.parquet") && words.contains("LICENSE"), "{words}");
    let refused = desk.pull(&hub, "out");
    assert_eq!(refused.code, 1, "{}", refused.text());
    assert!(!desk.path("out/manifest.json").exists());
}

#[test]
fn no_token_is_found_in_anything_that_was_said_or_written() {
    let (hub, desk) = (Hub::start(), Desk::new());
    let atlas = synthetic(&desk, "atlas", 7, 5, 2000);
    let wrong = "hf_wrongWrongWrong0123456789abcdefghij";
    let mut said = Vec::new();
    let mut run = |token: &str, arguments: &[&str]| {
        let mut command = desk.command(&hub, token, arguments);
        command.env("RUST_LOG", "trace").env("NEUROGLOT_LOG", "trace").env("RUST_BACKTRACE", "full");
        command.env("HF_XET_LOG_LEVEL", "trace");
        if token.is_empty() {
            command.env_remove("HF_TOKEN");
        }
        let output = command.output().unwrap();
        said.extend([output.stdout, output.stderr]);
        output.status.code().unwrap()
    };
    let atlas = atlas.to_str().unwrap();
    let publish = ["publish", atlas, "--repo", REPO];
    assert_eq!(run(Hub::TOKEN, &["publish", atlas, "--repo", REPO, "--dry-run"]), 0);
    assert_eq!(run(wrong, &publish), 1);
    assert_eq!(run(Hub::READER, &publish), 1);
    assert_eq!(run(Hub::STRANGER, &["publish", atlas, "--repo", "lab/other"]), 1);
    for flaw in [Flaw::Repeat, Flaw::Expire, Flaw::Status(500), Flaw::CutRequest, Flaw::CutResponse, Flaw::Truncated] {
        for at in [0, 3, 8] {
            hub.fail(Fault::new(flaw).at(at));
            assert!(run(Hub::TOKEN, &publish) <= 1);
            hub.heal();
        }
    }
    assert_eq!(run(Hub::TOKEN, &publish), 0);
    assert_eq!(run(Hub::READER, &["pull", REPO, "--out", "out"]), 0);
    assert_eq!(run(Hub::READER, &["verify", REPO]), 0);
    hub.fail(Fault::new(Flaw::Repeat).at(1).lasting());
    assert_eq!(run(Hub::READER, &["pull", REPO, "--out", "second"]), 1);
    hub.heal();
    // From the file of `hf auth login`, which is the only one that may hold it.
    fs::write(desk.path("hf/token"), Hub::READER).unwrap();
    assert_eq!(run("", &["pull", REPO, "--out", "third"]), 0);

    let mut secrets = hub.secrets();
    secrets.push(wrong.to_owned());
    let holds = |bytes: &[u8], secret: &str| {
        // A piece of it is as bad.
        let piece = &secret.as_bytes()[3..secret.len().min(27)];
        bytes.windows(piece.len()).any(|window| window == piece)
    };
    for secret in &secrets {
        for text in &said {
            assert!(!holds(text, secret), "{secret} in {}", String::from_utf8_lossy(text));
        }
        for (path, bytes) in bytes_below(desk.folder.path()).iter().filter(|(path, _)| *path != Path::new("hf/token")) {
            assert!(!holds(bytes, secret), "{secret} in {}", path.display());
        }
    }
    let words: usize = said.iter().map(Vec::len).sum();
    assert!(
        words > 5000 && secrets.len() > 5,
        "there was something to search: {words} bytes, {} secrets",
        secrets.len()
    );
    assert_eq!(hub.leaks(), Vec::<String>::new());
}

#[test]
#[ignore = "needs about three times NEUROGLOT_HUB_MEGABYTES (1024) of disk, and minutes"]
fn a_gigabyte_in_three_hundred_files_is_published_once_and_downloaded_by_everybody() {
    let megabytes: usize = std::env::var("NEUROGLOT_HUB_MEGABYTES").map_or(1024, |text| text.parse().unwrap());
    let (hub, desk) = (Hub::with(Options { disk: true, ..Options::default() }), Desk::new());
    let atlas = synthetic(&desk, "atlas", 8, 300, (megabytes << 20) / 300);
    let clock = Instant::now();
    let timed = |what: &str, start: Instant| println!("{what}: {:.1} s, {megabytes} MB", start.elapsed().as_secs_f64());
    desk.publish(&hub, &atlas).done();
    timed("publish", clock);
    whole_at_the_first_attempt_or_the_second(&hub, &atlas, "a gigabyte");
    let commits = hub.repo(Kind::Dataset, REPO).unwrap().commits.len();
    let start = Instant::now();
    desk.publish(&hub, &atlas).done();
    timed("publish again", start);
    assert_eq!(hub.repo(Kind::Dataset, REPO).unwrap().commits.len(), commits);
    let wanted = data(&atlas);
    let same = |mut found: BTreeMap<String, String>, who: &str| {
        found.retain(|path, _| ![".gitattributes", "README.md", "manifest.json"].contains(&path.as_str()));
        assert!(found == wanted, "{who} got other files");
    };
    let start = Instant::now();
    desk.pull(&hub, "pulled").done();
    timed("pull", start);
    same(hashes(&desk.path("pulled")), "pull");
    fs::remove_dir_all(desk.path("pulled")).unwrap();
    let parse = |found: Result<Value, String>| serde_json::from_value(found.unwrap_or_else(|e| panic!("{e}"))).unwrap();
    let start = Instant::now();
    if let Some(found) = javascript(&hub, Some(Hub::READER), &["download", REPO, "v1.0.0", "xet"]) {
        same(parse(found), "JavaScript");
        timed("JavaScript", start);
    }
    let Some(python) = Python::find() else { return };
    let (start, place) = (Instant::now(), desk.path("python"));
    same(parse(python.ask(&hub, Some(Hub::READER), &["download", REPO, "v1.0.0", place.to_str().unwrap()])), "Python");
    timed("Python", start);
}
