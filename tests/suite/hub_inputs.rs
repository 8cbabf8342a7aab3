//! Models and corpora by their names on a Hub, the cache that Python shares, and what is said when a Hub says no.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use arrow::{
    array::{RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use neuroglot::{
    atlas::Atlas,
    corpus::PRESETS,
    hub::{HubPath, RepoId, without_secrets},
    language::{LanguageCode, Registry},
};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use crate::{
    demo::committed,
    harness::{SHARDED, Said, Sandbox, TINY, command, files_below, prose, said},
    hub::{Hub, Kind, Part},
    readers::python,
};

/// Runs the program against a test Hub, with a cache inside the sandbox and nothing of this machine's.
fn ask(hub: &Hub, sandbox: &Sandbox, token: Option<&str>, arguments: &str) -> Said {
    ask_at(&hub.endpoint(), sandbox, token, &[], arguments)
}

fn ask_at(endpoint: &str, sandbox: &Sandbox, token: Option<&str>, variables: &[(&str, &str)], arguments: &str) -> Said {
    let folder = sandbox.path("");
    let mut command = command(&folder, arguments.split_whitespace());
    command.env("HF_ENDPOINT", endpoint).env_remove("TRANSFORMERS_OFFLINE");
    command.env("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms").env("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "2");
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    command.envs(variables.iter().copied());
    said(&folder, &command.output().unwrap())
}

/// A fixture's files, for [`Hub::push`].
fn fixture(folder: &str) -> Vec<(String, Vec<u8>)> {
    let file = |name: std::path::PathBuf| {
        let bytes = fs::read(std::path::Path::new(folder).join(&name)).unwrap();
        (name.to_str().unwrap().to_owned(), bytes)
    };
    files_below(folder.as_ref()).into_iter().map(file).collect()
}

fn push(hub: &Hub, kind: Kind, id: &str, files: &[(String, Vec<u8>)]) {
    let author = id.split('/').next().unwrap();
    hub.push(author, kind, id, files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
}

fn profile(model: &str, corpus: &str, out: &str) -> String {
    format!("profile --model {model} --corpus {corpus} --tokens 64 --context 16 --out {out}")
}

fn head(sandbox: &Sandbox, out: &str) -> Value {
    serde_json::from_slice(&sandbox.read(&format!("{out}/profile.json"))).unwrap()
}

/// A table with one column of text.
fn table(column: &str, rows: &[String]) -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Utf8, true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(rows.to_vec()))]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn rows(seed: usize, count: usize) -> Vec<String> {
    prose(seed, count).split("\n\n").map(str::to_owned).collect()
}

/// Paths of files that were asked for at the Hub.
fn fetched(hub: &Hub) -> BTreeSet<String> {
    let of_file = |path: &str| path.split_once("/resolve/")?.1.split_once('/').map(|(_, path)| path.to_owned());
    hub.requests().iter().filter_map(|seen| of_file(&seen.path)).collect()
}

#[test]
fn a_model_is_fetched_once_without_what_it_does_not_need_and_its_commit_is_recorded() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    let mut files = fixture(TINY);
    files.extend(
        [("pytorch_model.bin", 3000), ("onnx/model.onnx", 3000), ("README.md", 10), ("runs/log.txt", 10)]
            .map(|(name, length)| (name.to_owned(), vec![b'x'; length])),
    );
    push(&hub, Kind::Model, "atlas/tiny", &files);
    let commit = hub.repo(Kind::Model, "atlas/tiny").unwrap().branches["main"].clone();

    ask(&hub, &sandbox, None, &profile("atlas/tiny", "dir:text", "out")).done();
    let wanted = ["config.json", "model.safetensors", "tokenizer.json"].map(str::to_owned);
    let found = fetched(&hub);
    assert!(wanted.iter().all(|file| found.contains(file)), "{found:?}");
    assert!(
        !found.iter().any(|file| file.contains("bin") || file.contains("onnx") || file.contains("log")),
        "{found:?}"
    );
    let head_of_first = head(&sandbox, "out");
    assert_eq!(head_of_first["model"]["id"], "atlas/tiny");
    assert_eq!(head_of_first["model"]["revision"], *commit);
    assert_eq!(head_of_first["parameters"]["revision"], *commit);

    // The same weights from a folder give the same counts under another name.
    ask(&hub, &sandbox, None, &profile("model", "dir:text", "local")).done();
    assert_eq!(head(&sandbox, "local")["parameters"]["hashes"], head_of_first["parameters"]["hashes"]);

    // Again, by the commit and by the branch: nothing is fetched. Without the Hub: the same.
    hub.heal();
    ask(&hub, &sandbox, None, &profile(&format!("atlas/tiny@{commit}"), "dir:text", "again")).done();
    assert_eq!(hub.count(Part::Download), 0, "{:?}", hub.requests());
    drop(hub);
    let nowhere = "http://127.0.0.1:1";
    ask_at(nowhere, &sandbox, None, &[], &(profile("atlas/tiny@main", "dir:text", "offline") + " --offline")).done();
    let variable = [("HF_HUB_OFFLINE", "1")];
    ask_at(nowhere, &sandbox, None, &variable, &profile("atlas/tiny", "dir:text", "variable")).done();
    for out in ["again", "offline", "variable"] {
        assert_eq!(head(&sandbox, out), head_of_first, "{out}");
    }
}

#[test]
fn of_the_model_that_masks_are_of_the_config_is_fetched_and_nothing_else() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    push(&hub, Kind::Model, "atlas/tiny", &fixture(TINY));
    let commit = hub.repo(Kind::Model, "atlas/tiny").unwrap().branches["main"].clone();
    ask(&hub, &sandbox, None, &profile("model", "dir:text", "profile")).done();
    ask(&hub, &sandbox, None, "identify profile --top-rate 0.2 --out ours").done();
    ask(&hub, &sandbox, None, "mask ours --language all --format pth --out masks.pth").done();
    hub.heal();
    let languages = Atlas::open(&sandbox.path("ours")).unwrap().languages;
    let languages = languages.iter().map(|row| row.code.to_string()).collect::<Vec<_>>().join(",");
    let import = format!("import masks.pth --model atlas/tiny@main --languages {languages} --out theirs");
    ask(&hub, &sandbox, None, &import).done();
    assert_eq!(fetched(&hub), BTreeSet::from(["config.json".to_owned()]));
    let theirs = Atlas::open(&sandbox.path("theirs")).unwrap();
    assert_eq!((theirs.models[0].id.as_str(), theirs.models[0].revision.as_deref()), ("atlas/tiny", Some(&*commit)));
}

#[test]
fn a_model_is_adapted_with_an_atlas_that_lies_on_the_hub() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    push(&hub, Kind::Model, "atlas/tiny", &fixture(TINY));
    sandbox.write("text/mlt_Latn.txt", prose(0, 60));
    let token = Some(Hub::TOKEN);
    ask(&hub, &sandbox, token, &profile("atlas/tiny", "dir:text", "profile")).done();
    ask(&hub, &sandbox, token, "identify profile --top-rate 0.2 --out here").done();
    ask(&hub, &sandbox, token, "publish here --repo atlas/release").done();
    let commit = hub.repo(Kind::Dataset, "atlas/release").unwrap().branches["main"].clone();
    let adapt = |atlas: &str, out: &str| {
        let text = "--corpus dir:text --tokens 480 --context 16";
        ask(
            &hub,
            &sandbox,
            token,
            &format!("adapt --model atlas/tiny --atlas {atlas} --language mt {text} --out {out}"),
        )
    };
    adapt("atlas/release@v1.0.0", "far").done();
    adapt("here", "near").done();
    // Again: finished before, and the folder with the fetched masks is no other run.
    assert!(adapt("atlas/release@v1.0.0", "far").done().stderr.contains("was finished before"));
    let report: Value = serde_json::from_slice(&sandbox.read("far/result.json")).unwrap();
    assert_eq!(report["head"]["atlas"], format!("atlas/release@{commit}"));
    let metrics = |run: &str| sandbox.read(&format!("{run}/metrics.jsonl"));
    assert_eq!(metrics("far"), metrics("near"));
}

#[test]
fn a_language_that_nobody_knows_is_said_before_a_hub_is_asked() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    let said = ask(&hub, &sandbox, None, "pull atlas/release --languages klingonish --out pulled");
    assert!(said.code != 0 && said.stderr.contains("no language is called `klingonish`"), "{}", said.stderr);
    assert!(hub.requests().is_empty() && !sandbox.path("pulled").exists());
}

#[test]
fn of_a_sharded_model_the_index_says_what_is_fetched() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    let mut files = fixture(SHARDED);
    files.push(("model-00005-of-00005.safetensors".to_owned(), vec![0; 3000]));
    push(&hub, Kind::Model, "atlas/shards", &files);
    ask(&hub, &sandbox, None, &profile("atlas/shards", "dir:text", "out")).done();
    let found = fetched(&hub);
    assert_eq!(found.iter().filter(|file| file.starts_with("model-")).count(), 4, "{found:?}");

    // An index that climbs out of its folder is refused before anything is fetched by it.
    let index = files.iter_mut().find(|(name, _)| name.ends_with("index.json")).unwrap();
    index.1 = br#"{"weight_map": {"lm_head.weight": "../../../etc/passwd"}}"#.to_vec();
    push(&hub, Kind::Model, "atlas/climbs", &files);
    let refused = ask(&hub, &sandbox, None, &profile("atlas/climbs", "dir:text", "climbs"));
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("names `../../../etc/passwd`, which is no file beside it"), "{}", refused.stderr);
}

#[test]
fn a_gguf_file_is_named_in_its_repository_and_nothing_else_is_fetched() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    let gguf = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-gguf/scaled.gguf")).unwrap();
    let files = ["scaled.gguf", "Q8/other.gguf"].map(|name| (name.to_owned(), gguf.clone()));
    push(&hub, Kind::Model, "atlas/gguf", &files);
    ask(&hub, &sandbox, None, &profile("atlas/gguf/scaled.gguf@main", "dir:text", "out")).done();
    assert_eq!(fetched(&hub), BTreeSet::from(["scaled.gguf".to_owned()]));
    assert_eq!(head(&sandbox, "out")["model"]["id"], "atlas/gguf");

    let unnamed = ask(&hub, &sandbox, None, &profile("atlas/gguf", "dir:text", "unnamed"));
    assert_eq!(unnamed.code, 1);
    assert!(unnamed.stderr.contains("name one, as in OWNER/NAME/Q8/other.gguf"), "{}", unnamed.stderr);
}

#[test]
fn python_finds_in_the_cache_what_we_fetched_and_we_what_python_did() {
    let Some(python) = python("huggingface_hub") else { return };
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    push(&hub, Kind::Model, "atlas/tiny", &fixture(TINY));
    ask(&hub, &sandbox, None, &profile("atlas/tiny", "dir:text", "out")).done();
    let run = |home: &str, offline: &str| {
        let script = "from huggingface_hub import hf_hub_download as get\n\
                      print([get('atlas/tiny', name) for name in ('config.json', 'model.safetensors', 'tokenizer.json')])";
        let mut command = std::process::Command::new(&python);
        command.args(["-c", script]).env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", sandbox.path(home));
        let output = command.env("HF_HUB_OFFLINE", offline).env_remove("HF_TOKEN").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("hf", "1");
    // The other way round.
    run("of-python", "0");
    hub.heal();
    let home = sandbox.path("of-python");
    let variables = [("HF_HOME", home.to_str().unwrap()), ("HF_HUB_OFFLINE", "1")];
    ask_at(&hub.endpoint(), &sandbox, None, &variables, &profile("atlas/tiny", "dir:text", "theirs")).done();
    assert_eq!(hub.requests().len(), 0);
    assert_eq!(head(&sandbox, "theirs"), head(&sandbox, "out"));
}

#[test]
fn a_preset_reads_file_after_file_and_fetches_none_that_it_does_not_need() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    let part = |name: &str, seed, count| (name.to_owned(), table("text", &rows(seed, count)));
    let files = [
        part("data/mlt_Latn/test/000_00000.parquet", 0, 12),
        part("data/mlt_Latn/train/000_00000.parquet", 1, 12),
        part("data/mlt_Latn/train/000_00001.parquet", 2, 12),
        part("data/cmn_Hani/test/000_00000.parquet", 3, 2),
        part("data/cmn_Hani/train/000_00000.parquet", 4, 40),
        part("data/cmn_Hani/train/000_00001.parquet", 5, 40),
        part("data/mlt_Latn_removed/train/000_00000.parquet", 6, 2),
        part("data/fra_Latn/test/000_00000.parquet", 7, 12),
    ];
    push(&hub, Kind::Dataset, "HuggingFaceFW/fineweb-2", &files);
    let commit = hub.repo(Kind::Dataset, "HuggingFaceFW/fineweb-2").unwrap().branches["main"].clone();
    let run = profile("model", "fineweb2", "out") + " --languages mt,zho_Hans";
    let text = |said: Said| {
        let report: Value = serde_json::from_str(&said.done().stdout).unwrap();
        let coverage = report["coverage"].as_array().unwrap().iter();
        coverage.map(|row| (row["language"].to_string(), row["text_sha256"].to_string())).collect::<BTreeMap<_, _>>()
    };
    let of_hub = text(ask(&hub, &sandbox, None, &(run + " --json")));
    let read = [
        "data/mlt_Latn/test/000_00000.parquet",
        "data/cmn_Hani/test/000_00000.parquet",
        "data/cmn_Hani/train/000_00000.parquet",
    ];
    assert_eq!(fetched(&hub), read.map(str::to_owned).into());
    assert_eq!(head(&sandbox, "out")["parameters"]["corpus"], format!("fineweb2:HuggingFaceFW/fineweb-2@{commit}"));
    assert_eq!(head(&sandbox, "out")["parameters"]["document"], "row");

    // It is the text that a folder with the same files has.
    for (name, bytes) in files.iter().filter(|(name, _)| read.contains(&name.as_str())) {
        let [_, language, part, file] = name.split('/').collect::<Vec<_>>()[..] else { panic!("{name}") };
        sandbox.write(&format!("tables/{}/{part}-{file}", language.replace("cmn_Hani", "zho_Hans")), bytes);
    }
    assert_eq!(of_hub, text(ask(&hub, &sandbox, None, &(profile("model", "parquet:tables", "local") + " --json"))));

    // Offline, from the cache; a language that is not in it is said to be missing.
    let offline = profile("model", &format!("fineweb2@{commit}"), "offline") + " --languages mlt --offline";
    ask_at("http://127.0.0.1:1", &sandbox, None, &[], &offline).done();
    let unknown = ask(&hub, &sandbox, None, &(profile("model", "fineweb2", "welsh") + " --languages cy"));
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("has no text for cym_Latn; it has fra_Latn, mlt_Latn, zho_Hans"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn every_preset_and_any_data_set_find_their_languages() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    let put = |id: &str, column: &str, names: &[&str]| {
        let files: Vec<_> =
            names.iter().map(|name| ((*name).to_owned(), table(column, &rows(name.len(), 12)))).collect();
        push(&hub, Kind::Dataset, id, &files);
    };
    put(
        "cis-lmu/GlotCC-V1",
        "content",
        &["v1.0/mlt-Latn/mlt-Latn_0.parquet", "v1.0/und-Latn/und-Latn_0.parquet", "v1.0/fas-Arab/x.parquet"],
    );
    put(
        "openlanguagedata/flores_plus",
        "text",
        &["dev/mlt_Latn.parquet", "devtest/mlt_Latn.parquet", "dev/cmn_Hans.parquet", "dev/twi_Latn_asan1239.parquet"],
    );
    put(
        "wikimedia/wikipedia",
        "text",
        &[
            "20231101.mt/train-00000-of-00001.parquet",
            "20231101.als/train-00000-of-00001.parquet",
            "20231101.simple/x.parquet",
            "20220301.cy/x.parquet",
        ],
    );
    put(
        "atlas/texts",
        "body",
        &["data/mlt_Latn/train-00000.parquet", "data/cy/train.parquet", "extra/fra_Latn.parquet", "notes/x.parquet"],
    );
    let languages = |corpus: &str, options: &str| {
        let out = corpus.replace([':', '/', '@'], "-");
        ask(&hub, &sandbox, Some(Hub::TOKEN), &(profile("model", corpus, &out) + options)).done();
        let files = files_below(&sandbox.path(&out)).into_iter();
        files
            .filter_map(|file| Some(file.to_str()?.strip_prefix("counts/")?.strip_suffix(".parquet")?.to_owned()))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(languages("glotcc", ""), "mlt_Latn pes_Arab");
    assert_eq!(languages("flores", ""), "mlt_Latn twi_Latn zho_Hans");
    assert_eq!(languages("wikipedia", ""), "gsw_Latn mlt_Latn");
    assert_eq!(languages("hub:atlas/texts", " --text-column body"), "cym_Latn fra_Latn mlt_Latn");
    assert_eq!(languages("hub:atlas/texts/data@main", " --text-column body"), "cym_Latn mlt_Latn");
}

#[test]
fn names_of_configurations_mean_languages_that_the_registry_has() {
    let preset = |name: &str| PRESETS.iter().find(|preset| preset.name == name).unwrap();
    for preset in PRESETS {
        preset.repo.parse::<RepoId>().unwrap();
        for (name, code) in preset.exceptions() {
            let known = code.is_empty()
                || code.parse::<LanguageCode>().is_ok_and(|code| Registry::builtin().get(code).is_some());
            assert!(known, "{}: {name} means {code}, which is not in the registry", preset.name);
        }
    }
    let mean = |of: &str, name: &str| preset(of).language(name).map(|code| code.to_string()).unwrap_or_default();
    // One language, one code: what the data sets call otherwise, and what only looks like a code.
    for (of, name, code) in [
        ("fineweb2", "mlt_Latn", "mlt_Latn"),
        ("fineweb2", "cmn_Hani", "zho_Hans"),
        ("fineweb2", "ekk_Latn", "est_Latn"),
        ("fineweb2", "mlt_Latn_removed", ""),
        ("glotcc", "kat-Geor", "kat_Geor"),
        ("glotcc", "fas-Arab", "pes_Arab"),
        ("flores", "twi_Latn_akua1239", "twi_Latn"),
        ("wikipedia", "mt", "mlt_Latn"),
        ("wikipedia", "als", "gsw_Latn"),
        ("wikipedia", "sq", "als_Latn"),
        ("wikipedia", "no", "nob_Latn"),
        ("wikipedia", "nn", "nno_Latn"),
        ("wikipedia", "simple", ""),
        ("wikipedia", "zh-yue", "yue_Hant"),
        ("wikipedia", "ckb", "ckb_Arab"),
    ] {
        assert_eq!(mean(of, name), code, "{of} {name}");
    }
}

#[test]
fn each_refusal_has_its_own_message_and_none_has_the_token() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    let tiny = fixture(TINY);
    push(&hub, Kind::Model, "atlas/tiny", &tiny);
    push(&hub, Kind::Model, "atlas/hidden", &tiny);
    hub.restrict(Kind::Model, "atlas/hidden", true, false);
    push(&hub, Kind::Model, "atlas/gated", &tiny);
    hub.restrict(Kind::Model, "atlas/gated", false, true);
    let untokenized: Vec<_> = tiny.iter().filter(|(name, _)| name != "tokenizer.json").cloned().collect();
    push(&hub, Kind::Model, "atlas/untokenized", &untokenized);
    push(&hub, Kind::Dataset, "rival/theirs", &[("poems.csv".to_owned(), b"a,b\n".to_vec())]);
    push(
        &hub,
        Kind::Dataset,
        "openlanguagedata/flores_plus",
        &[("dev/mlt_Latn.parquet".to_owned(), table("text", &rows(0, 12)))],
    );
    hub.restrict(Kind::Dataset, "openlanguagedata/flores_plus", false, true);
    sandbox.write("hf/token", format!("{}\n", Hub::STRANGER));
    let none = sandbox.path("no-token");
    let none = none.to_str().unwrap();
    let run = |token: Option<&str>, arguments: &str| {
        let variables = [("HF_TOKEN_PATH", none)];
        ask_at(&hub.endpoint(), &sandbox, token, if token == Some("file") { &[] } else { &variables }, arguments)
    };
    let model = |id: &str| profile(id, "dir:text", "out");
    let atlas = committed().to_str().unwrap().to_owned();
    let publish = |repo: &str| format!("publish {atlas} --repo {repo}");
    let (token, stranger) = (Some(Hub::TOKEN), Some(Hub::STRANGER));
    let expired = Some(Hub::RIVAL);
    hub.expire(Hub::RIVAL);
    // Who asks, what, and what the answer must hold.
    let cases: Vec<(Option<&str>, String, &str)> = vec![
        (None, model("atlas/none"), "there is none, or it is private and no token is set"),
        (
            stranger,
            model("atlas/hidden"),
            "there is none, or it is private and the token in the variable HF_TOKEN may not see it",
        ),
        (None, model("atlas/gated"), "is gated: accept its conditions at"),
        (stranger, model("atlas/gated"), "must be of the same account"),
        (stranger, profile("model", "flores", "out"), "datasets/openlanguagedata/flores_plus with your account"),
        (
            Some("hf_mistyped0123456789mistyped"),
            model("atlas/tiny"),
            "does not know the token in the variable HF_TOKEN",
        ),
        (expired, model("atlas/tiny"), "the token in the variable HF_TOKEN is expired"),
        (None, model("atlas/tiny@v9"), "has no revision `v9`; its branches and tags stand at"),
        (None, model("atlas/tiny@a..b"), "`a..b` is no revision"),
        (None, model("atlas/untokenized"), "has no file `tokenizer.json` at revision"),
        (None, "verify atlas/none".to_owned(), "shows no data set `atlas/none`"),
        (None, "pull rival/theirs --out pulled".to_owned(), "holds no atlas (no manifest.json)"),
        (None, publish("atlas/new"), "no token is set"),
        (Some(Hub::READER), publish("atlas/new"), "may not do this to `atlas/new`"),
        (token, publish("rival/new"), "may not do this to `rival/new`"),
        (token, publish("lab/new --tag 1.0"), "--tag `1.0` is no release"),
    ];
    let mut messages = BTreeSet::new();
    for (token, arguments, wanted) in &cases {
        let said = run(*token, arguments);
        assert!(said.code != 0 && said.stderr.contains(wanted), "{arguments}: {}", said.text());
        for secret in hub.secrets().iter().map(String::as_str).chain(*token) {
            assert!(!said.text().contains(secret), "{arguments}: {}", said.text());
        }
        messages.insert((*wanted).to_owned());
    }
    assert_eq!(messages.len(), cases.len());
    hub.renew();
    // A name that is taken: a repository with other things in it.
    let taken = run(Some(Hub::RIVAL), &publish("rival/theirs"));
    assert!(taken.code == 1 && taken.stderr.contains("the name `rival/theirs` is taken"), "{}", taken.text());
    // The token of `hf auth login`, with its line break.
    let of_file = run(Some("file"), &model("atlas/hidden"));
    assert!(of_file.code == 1, "{}", of_file.text());
    // No network, and nothing in the cache.
    let unreachable = ask_at("http://127.0.0.1:1", &sandbox, None, &[], &model("atlas/other"));
    assert!(unreachable.stderr.contains("http://127.0.0.1:1 cannot be reached"), "{}", unreachable.text());
    let uncached = run(None, &(model("atlas/other") + " --offline"));
    assert!(uncached.stderr.contains("is not in the cache"), "{}", uncached.text());
    let no_address = ask_at("huggingface", &sandbox, None, &[], &model("atlas/other"));
    assert_eq!(no_address.code, 2, "{}", no_address.text());
}

#[test]
fn the_token_is_found_where_python_finds_it() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    push(&hub, Kind::Model, "atlas/hidden", &fixture(TINY));
    hub.restrict(Kind::Model, "atlas/hidden", true, false);
    let run = |variables: &[(&str, &str)]| {
        let _ = fs::remove_dir_all(sandbox.path("out"));
        ask_at(&hub.endpoint(), &sandbox, None, variables, &profile("atlas/hidden", "dir:text", "out"))
    };
    assert_eq!(run(&[]).code, 1);
    sandbox.write("elsewhere", format!("  {}\r\n", Hub::TOKEN));
    let named = sandbox.path("elsewhere");
    run(&[("HF_TOKEN_PATH", named.to_str().unwrap())]).done();
    run(&[("HF_TOKEN", &format!("{}\n", Hub::TOKEN))]).done();
    sandbox.write("hf/token", Hub::TOKEN);
    run(&[]).done();
    // The variable is stronger than the file, and an empty one is none.
    assert_eq!(run(&[("HF_TOKEN", Hub::STRANGER)]).code, 1);
    run(&[("HF_TOKEN", "")]).done();
    assert_eq!(run(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).code, 1);
    assert_eq!(hub.leaks(), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let (hub, sandbox) = (Hub::start(), Sandbox::new());
    push(&hub, Kind::Model, "atlas/tiny", &fixture(TINY));
    let remote = hub.repo(Kind::Model, "atlas/tiny").unwrap();
    let config = &remote.files("main")["config.json"];
    let blobs = sandbox.path("hf/hub/models--atlas--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    // The device on which every disk is full.
    std::os::unix::fs::symlink("/dev/full", blobs.join(format!("{}.incomplete", config.oid))).unwrap();
    let full = ask(&hub, &sandbox, None, &profile("atlas/tiny", "dir:text", "out"));
    assert_eq!(full.code, 1);
    assert!(full.stderr.contains("the disk is full; make room"), "{}", full.text());
}

#[test]
fn names_on_a_hub_are_read_as_people_write_them() {
    let read = |text: &str| text.parse::<HubPath>().map(|place| (place.repo.to_string(), place.path, place.revision));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(read("a/b").unwrap(), ("a/b".to_owned(), None, None));
    assert_eq!(read("a/b@refs/pr/1").unwrap(), ("a/b".to_owned(), None, some("refs/pr/1")));
    assert_eq!(read("a/b/c/d.gguf@v1").unwrap(), ("a/b".to_owned(), some("c/d.gguf"), some("v1")));
    for wrong in [
        "a", "a/", "/a", "a b/c", "a/b@", "a/b@../x", "a/b@-x", "a/../b", "a/b/../c", "a--b/c", "a/.b", "a/b.git",
        "a/b/",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn secrets_do_not_pass() {
    for (text, clean) in [
        ("Authorization: Bearer abc.def-1, then", "Authorization: Bearer [token], then"),
        ("token hf_0123456789abcdefghijk end", "token [token] end"),
        ("hf_hub is a name", "hf_hub is a name"),
        ("Bearer ", "Bearer "),
    ] {
        assert_eq!(without_secrets(text), clean);
    }
}
