//! Other people's clients against the test Hub: that it is not only ours that agrees with it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    demo::committed,
    harness::bytes_below,
    hub::{Hub, Kind, Options},
    readers::python,
};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracles/hub");

/// SHA-256 of every file below a folder, by its path with `/`.
pub fn hashes(folder: &Path) -> BTreeMap<String, String> {
    let hash = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    bytes_below(folder).into_iter().map(|(path, bytes)| (path.to_str().unwrap().to_owned(), hash(&bytes))).collect()
}

/// The same of what a client printed, without what the Hub itself puts into a repository.
fn printed(found: Value) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = serde_json::from_value(found).unwrap();
    found.remove(".gitattributes");
    found
}

/// Runs a client's script with nothing of this machine's Hub: its JSON, or what it complained of.
fn run(mut command: Command, hub: &Hub, token: Option<&str>, home: &Path) -> Result<Value, String> {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HF_") || name.starts_with("HUGGING")) {
        command.env_remove(name);
    }
    // Elsewhere than in this checkout, where `atlas/demo` is a folder: datasets would read that.
    let elsewhere = TempDir::new().unwrap();
    command
        .current_dir(elsewhere.path())
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", home)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("HF_HUB_DISABLE_PROGRESS_BARS", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("{stdout}{stderr}"));
    }
    // The last line: a library's words may stand before it.
    let line = stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|error| format!("{error}: {stdout}{stderr}"))
}

/// Python's `huggingface_hub` and datasets; none where they are not installed, which is said aloud.
pub struct Python {
    program: String,
    xet: bool,
    pub home: TempDir,
}

impl Python {
    pub fn find() -> Option<Self> {
        let program = python("huggingface_hub, hf_xet, datasets")?;
        Some(Self { program, xet: true, home: TempDir::new().unwrap() })
    }

    fn without_xet(self) -> Self {
        Self { xet: false, ..self }
    }

    pub fn ask(&self, hub: &Hub, token: Option<&str>, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.arg(format!("{SCRIPTS}/client.py")).args(arguments);
        if !self.xet {
            // `run` takes the machine's own HF_ variables away, so this one is given by the shell.
            let mut shell = Command::new("sh");
            shell
                .args(["-c", "HF_HUB_DISABLE_XET=1 exec \"$@\"", "sh", &self.program])
                .arg(format!("{SCRIPTS}/client.py"));
            shell.args(arguments);
            command = shell;
        }
        run(command, hub, token, self.home.path())
    }
}

/// Where `tests/oracles/setup.sh DIR hub` put JavaScript's client and olah; where they are not, that is said aloud.
fn installed(file: &str) -> Option<PathBuf> {
    let folder = std::env::var("NEUROGLOT_HUB_CLIENTS").unwrap_or_default();
    let found = Path::new(&folder).join(file);
    if !folder.is_empty() && found.exists() {
        return Some(found);
    }
    let _ = writeln!(
        std::io::stderr(),
        "\n*** NOT RUN: no {file} in NEUROGLOT_HUB_CLIENTS={folder}. Install it by `tests/oracles/setup.sh DIR hub` (needs node and\n\
         *** npm), and set NEUROGLOT_HUB_CLIENTS=DIR; without it nothing here proves that these programs read our releases.\n"
    );
    None
}

/// JavaScript's client.
pub fn javascript(hub: &Hub, token: Option<&str>, arguments: &[&str]) -> Option<Result<Value, String>> {
    let package = installed("node_modules/@huggingface/hub/package.json")?;
    let mut command = Command::new("node");
    command.arg(format!("{SCRIPTS}/client.cjs")).args(arguments).env("NODE_PATH", package.ancestors().nth(3).unwrap());
    Some(run(command, hub, token, Path::new("/nonexistent")))
}

fn python_round_trip(hub: &Hub, python: &Python) {
    let (folder, wanted) = (committed(), hashes(&committed()));
    let upload = |tag: &[&str]| {
        let arguments = [&["upload", folder.to_str().unwrap(), "atlas/demo"], tag].concat();
        python.ask(hub, Some(Hub::TOKEN), &arguments).unwrap_or_else(|error| panic!("{error}"))
    };
    let first = upload(&["v1.0.0"]);
    let remote = hub.repo(Kind::Dataset, "atlas/demo").unwrap();
    assert!(remote.private);
    assert_eq!(first["tags"]["v1.0.0"], remote.branches["main"]);
    let lfs = first["lfs"].as_object().unwrap();
    assert!(lfs.keys().all(|path| path.ends_with(".parquet") || path.ends_with(".safetensors")) && lfs.len() > 5);
    assert!(lfs.iter().all(|(path, sha256)| *sha256 == wanted[path]), "{lfs:?}");
    // Nothing changed, no commit.
    assert_eq!(upload(&[])["commits"], first["commits"]);
    let place = TempDir::new().unwrap();
    let got = python.ask(hub, Some(Hub::READER), &["download", "atlas/demo", "v1.0.0", place.path().to_str().unwrap()]);
    assert_eq!(printed(got.unwrap()), wanted);
    let refused = python.ask(hub, Some(Hub::STRANGER), &["download", "atlas/demo", "v1.0.0", "/nonexistent"]);
    assert!(refused.unwrap_err().contains("RepositoryNotFoundError"));
    assert_eq!(hub.leaks(), Vec::<String>::new());
}

#[test]
fn python_uploads_and_downloads_through_the_content_addressed_store() {
    let Some(python) = Python::find() else { return };
    let hub = Hub::start();
    python_round_trip(&hub, &python);
    assert!(hub.requests().iter().any(|seen| seen.path.contains("/shards")), "Xet was not used");
}

#[test]
fn python_uploads_and_downloads_lfs_objects_whole_and_in_parts() {
    let Some(python) = Python::find() else { return };
    let python = python.without_xet();
    let hub = Hub::with(Options { part: 20_000, page: 4, xet: false, ..Options::default() });
    python_round_trip(&hub, &python);
    let asked = |part: &str| hub.requests().iter().any(|seen| seen.path.contains(part));
    assert!(asked("/api/complete_multipart/") && asked("/api/verify/") && !asked("/shards"));
}

#[test]
fn datasets_loads_every_configuration_of_the_demo_atlas_by_its_tag() {
    let Some(python) = Python::find() else { return };
    let hub = Hub::start();
    let folder = committed();
    let upload = ["upload", folder.to_str().unwrap(), "atlas/demo", "v1.0.0"];
    python.ask(&hub, Some(Hub::TOKEN), &upload).unwrap();
    let rows = python.ask(&hub, Some(Hub::READER), &["load", "atlas/demo", "v1.0.0"]).unwrap_or_else(|e| panic!("{e}"));
    every_configuration_is_whole(&rows, &folder);
}

/// Asserts that `client.py load` found every table of an atlas' card, with the rows that the manifest counts.
pub fn every_configuration_is_whole(rows: &Value, atlas: &Path) {
    let manifest: Value = serde_json::from_slice(&fs::read(atlas.join("manifest.json")).unwrap()).unwrap();
    let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
    for file in manifest["files"].as_array().unwrap().iter().filter(|file| file["rows"].is_u64()) {
        let path = file["path"].as_str().unwrap().strip_prefix("data/").unwrap();
        let config = path.split(['/', '.']).next().unwrap();
        *wanted.entry(config.to_owned()).or_default() += file["rows"].as_u64().unwrap();
    }
    let found = rows.as_object().unwrap().iter();
    let found = found.map(|(config, splits)| {
        (config.clone(), splits.as_object().unwrap().values().map(|rows| rows.as_u64().unwrap()).sum())
    });
    assert_eq!(found.collect::<BTreeMap<String, u64>>(), wanted);
}

#[test]
fn python_names_every_refusal_as_it_does_with_the_real_hub() {
    if Python::find().is_none() {
        return;
    }
    let hub = Hub::start();
    for id in ["atlas/open", "atlas/hidden", "lab/gated"] {
        hub.push("atlas", Kind::Dataset, id, [("README.md", b"# A card\n".to_vec())]);
    }
    hub.restrict(Kind::Dataset, "atlas/hidden", true, false);
    hub.restrict(Kind::Dataset, "lab/gated", false, true);
    let check = |token: &str, wanted: &[(&str, &str)]| {
        // A cache of one's own: Python gives out what an earlier token brought into it.
        let python = Python::find().expect("it was found above");
        let found = python.ask(&hub, Some(token), &["refused"]).unwrap_or_else(|error| panic!("{error}"));
        for (question, answer) in wanted {
            assert_eq!(found[question], *answer, "{question}: {found:#}");
        }
    };
    check(
        Hub::TOKEN,
        &[
            ("whoami", "allowed"),
            ("open", "allowed"),
            ("hidden", "allowed"),
            ("gated", "allowed"),
            ("missing repository", "RepositoryNotFoundError 404"),
            ("missing revision", "RevisionNotFoundError 404"),
            ("missing file", "RemoteEntryNotFoundError 404"),
            ("stale parent", "HfHubHTTPError 412"),
            ("tag twice", "HfHubHTTPError 409"),
            ("foreign namespace", "HfHubHTTPError 403"),
            ("taken", "HfHubHTTPError 409"),
        ],
    );
    check(
        Hub::STRANGER,
        &[
            ("hidden", "RepositoryNotFoundError 404"),
            ("gated", "GatedRepoError 403"),
            ("gated info", "allowed"),
            ("stale parent", "HfHubHTTPError 403"),
        ],
    );
    check("hf_wrong", &[("whoami", "HfHubHTTPError 401"), ("open", "HfHubHTTPError 401")]);
}

#[test]
fn javascript_uploads_and_downloads_with_and_without_the_content_addressed_store() {
    let wanted = hashes(&committed());
    for way in ["xet", "plain"] {
        let hub = Hub::with(Options { page: 5, ..Options::default() });
        let folder = committed();
        let upload = ["upload", folder.to_str().unwrap(), "atlas/demo", way];
        let Some(uploaded) = javascript(&hub, Some(Hub::TOKEN), &upload) else { return };
        let commit = uploaded.unwrap_or_else(|error| panic!("{way}: {error}"))["commit"].clone();
        let commit = commit.as_str().unwrap();
        assert_eq!(hub.repo(Kind::Dataset, "atlas/demo").unwrap().branches["main"], commit);
        for back in ["xet", "plain"] {
            let got = javascript(&hub, Some(Hub::READER), &["download", "atlas/demo", commit, back]).unwrap();
            assert_eq!(printed(got.unwrap_or_else(|error| panic!("{way}, {back}: {error}"))), wanted, "{way}, {back}");
        }
        let cache = TempDir::new().unwrap();
        let snapshot = ["snapshot", "atlas/demo", "main", cache.path().to_str().unwrap()];
        let got = javascript(&hub, Some(Hub::READER), &snapshot).unwrap();
        assert_eq!(printed(got.unwrap_or_else(|error| panic!("{way}: {error}"))), wanted);
        assert_eq!(hub.leaks(), Vec::<String>::new());
    }
}

/// A process that ends with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn python_downloads_through_olah_a_proxy_of_the_hub() {
    let Some(python) = Python::find() else { return };
    let Some(olah) = installed("bin/olah-cli") else { return };
    let hub = Hub::start();
    let folder = committed();
    python.ask(&hub, Some(Hub::TOKEN), &["upload", folder.to_str().unwrap(), "atlas/demo", "v1.0.0"]).unwrap();
    hub.restrict(Kind::Dataset, "atlas/demo", false, false);
    let place = TempDir::new().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let netloc = hub.endpoint().trim_start_matches("http://").to_owned();
    let mirror = format!("127.0.0.1:{port}");
    let log = fs::File::create(place.path().join("olah.log")).unwrap();
    let mut command = Command::new(olah);
    command.current_dir(place.path()).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--hf-scheme", "http", "--hf-netloc", &netloc, "--hf-lfs-netloc", &netloc]);
    command.args(["--mirror-scheme", "http", "--mirror-netloc", &mirror, "--mirror-lfs-netloc", &mirror]);
    command.args(["--repos-path", "repos", "--log-path", "logs"]).stdout(log.try_clone().unwrap()).stderr(log);
    let _olah = Running(command.stdin(Stdio::null()).spawn().unwrap());
    let start = Instant::now();
    while TcpStream::connect(&mirror).is_err() {
        let said = || fs::read_to_string(place.path().join("olah.log")).unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "olah does not start: {}", said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let out = place.path().join("out");
    let mut client = Command::new("sh");
    let through = format!("HF_ENDPOINT=http://{mirror} HF_HUB_DISABLE_XET=1 exec \"$@\"");
    client.args(["-c", &through, "sh", &python.program]).arg(format!("{SCRIPTS}/client.py"));
    client.args(["download", "atlas/demo", "v1.0.0", out.to_str().unwrap()]);
    let got = run(client, &hub, None, python.home.path());
    let said = fs::read_to_string(place.path().join("olah.log")).unwrap();
    assert_eq!(printed(got.unwrap_or_else(|error| panic!("{error}\nolah: {said}"))), hashes(&folder));
}
