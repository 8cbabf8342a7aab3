//! `adapt` and `apply` as a person meets them: runs that are killed and continued, what they refuse, and what other programs make of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use neuroglot::checkpoint::Checkpoint;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{SHARDED, Sandbox, bytes_below, prose},
    tensors::{fixture, largest_difference},
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/atlas/demo");
const ATLAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/atlas/demo-atlas");

/// Text with enough paragraphs that some are held out, and an atlas.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("text/mlt_Latn.txt", prose(0, 60));
    sandbox.with_atlas()
}

const RUN: &str =
    "adapt --model model --atlas atlas --language mlt --corpus dir:text --tokens 960 --context 16 --validate-every 10";

/// A run of the bundled model that takes a few seconds.
fn adapt(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neuroglot"));
    command.args(["adapt", "--quiet", "--threads", "1", "--model", &format!("{DEMO}/model")]);
    command.args(["--model-id", "neuroglot/demo-2.7m", "--atlas", ATLAS, "--language", "mlt"]);
    command.args(["--corpus", &format!("dir:{DEMO}/sentences"), "--document", "line", "--context", "32"]);
    command.args([
        "--batch",
        "1",
        "--accumulate",
        "2",
        "--tokens",
        "7680",
        "--validate-every",
        "24",
        "--save-every",
        "3",
    ]);
    command.args(["--lr", "1e-2", "--out"]).arg(out).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Every file that a run's end depends on.
fn lasting(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = bytes_below(folder);
    files.remove(Path::new("speed.jsonl"));
    files
}

#[test]
fn a_run_that_is_killed_twenty_times_ends_with_the_bytes_of_one_that_was_not() {
    let folder = TempDir::new().unwrap();
    // Random dropping is part of what must come back.
    for more in [&[][..], &["--method", "lora", "--rank", "2", "--schedule", "cosine", "--warmup", "5"][..]] {
        let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
        assert!(adapt(&whole, more).status().unwrap().success());
        // A multiplicative generator: other moments in every round, the same in every run of the test.
        let mut seed: u64 = 20_261_126;
        let mut interrupted = 0;
        for _ in 0..20 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut run = adapt(&killed, more).spawn().unwrap();
            thread::sleep(Duration::from_millis(20 + (seed >> 33) % 300));
            interrupted += usize::from(run.try_wait().unwrap().is_none());
            run.kill().unwrap();
            run.wait().unwrap();
        }
        assert!(interrupted > 5, "only {interrupted} runs were killed while they ran");
        assert!(adapt(&killed, more).status().unwrap().success());
        let (whole_files, killed_files) = (lasting(&whole), lasting(&killed));
        assert_eq!(whole_files.keys().collect::<Vec<_>>(), killed_files.keys().collect::<Vec<_>>());
        for (name, bytes) in &whole_files {
            assert!(killed_files[name] == *bytes, "{} differs", name.display());
        }
        fs::remove_dir_all(&whole).unwrap();
        fs::remove_dir_all(&killed).unwrap();
    }
}

fn steps(folder: &Path) -> usize {
    fs::read_to_string(folder.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

fn wait_for(run: &mut Child, folder: &Path, wanted: usize) {
    let patience = Instant::now() + Duration::from_secs(120);
    while steps(folder) < wanted && run.try_wait().unwrap().is_none() {
        assert!(Instant::now() < patience, "no step was done in two minutes");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[cfg(unix)]
fn a_signal_ends_a_run_that_the_same_command_continues() {
    let folder = TempDir::new().unwrap();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    assert!(adapt(&whole, &[]).status().unwrap().success());
    let mut run = adapt(&stopped, &["--recompute"]).spawn().unwrap();
    wait_for(&mut run, &stopped, 10);
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(3));
    assert!(!stopped.join("result.json").exists());
    // What is kept and what is computed again changes no result.
    assert!(adapt(&stopped, &[]).status().unwrap().success());
    assert_eq!(lasting(&whole), lasting(&stopped));
}

#[test]
fn a_run_makes_the_held_out_text_more_likely_and_says_so() {
    let sandbox = sandbox();
    let said = sandbox.run(&format!("--json {RUN} --lr 3e-2 --out run")).done();
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    let outcome = |name: &str| json["outcome"][name].as_f64().unwrap();
    assert!(outcome("best") < outcome("before"), "{json}");
    let page = String::from_utf8(sandbox.read("run/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Maltese"));
    let requests = ["src=", "href=", "@import", "url("];
    assert!(requests.iter().all(|request| !page.contains(request)), "the page asks for something elsewhere");
    let report: Value = serde_json::from_slice(&sandbox.read("run/report.json")).unwrap();
    let changes = report["report"]["changes"].as_array().unwrap();
    assert!(!changes.is_empty() && changes.iter().all(|change| change["relative"].as_f64().unwrap() > 0.0));
    let metrics = String::from_utf8(sandbox.read("run/metrics.jsonl")).unwrap();
    assert!(!metrics.contains("second"), "metrics hold no times");
    // Done is done: the same command finds the same result.
    let again = sandbox.run(&format!("--json {RUN} --lr 3e-2 --out run")).done();
    assert_eq!(again.stdout, said.stdout);
}

#[test]
fn applying_changes_what_the_delta_names_and_doing_it_twice_is_the_same() {
    let sandbox = sandbox();
    sandbox.run(&format!("{RUN} --lr 3e-2 --out run")).done();
    sandbox.run("apply run --model model --out once").done();
    sandbox.run("apply run --model model --out once").done();
    sandbox.run("apply run --model once --out twice").done();
    let (once, twice) = (sandbox.read("once/model.safetensors"), sandbox.read("twice/model.safetensors"));
    assert_eq!(once, twice);
    for name in ["config.json", "tokenizer.json"] {
        assert_eq!(sandbox.read(&format!("model/{name}")), sandbox.read(&format!("once/{name}")));
    }
    let open = |name: &str| Checkpoint::open(&sandbox.path(name)).unwrap();
    let (base, applied) = (open("model"), open("once"));
    let file = fixture(&sandbox.path("model/model.safetensors"));
    let mut changed = 0;
    for name in file.keys() {
        let (before, after) = (base.bytes(name).unwrap().read().unwrap(), applied.bytes(name).unwrap().read().unwrap());
        assert!(before == after || name.contains(".mlp."), "{name} changed");
        changed += usize::from(before != after);
    }
    assert!(changed > 0);
    let card = String::from_utf8(sandbox.read("once/README.md")).unwrap();
    assert!(card.contains("subnetwork") && card.contains("Maltese"));
    // A base that is another model is refused, and nothing is written.
    sandbox.weights(|tensors| {
        let name = tensors.keys().find(|name| name.contains("mlp.down")).unwrap().clone();
        tensors.get_mut(&name).unwrap().bytes[0] ^= 1;
    });
    let said = sandbox.run("apply run --model model --out other");
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("SHA-256 differs"), "{}", said.stderr);
    assert!(!sandbox.path("other").exists());
}

#[test]
fn shards_are_written_as_the_base_has_them() {
    let sandbox = Sandbox::new();
    sandbox.write("text/mlt_Latn.txt", prose(0, 60));
    sandbox.model(SHARDED);
    let sandbox = sandbox.with_atlas();
    sandbox.run(&format!("{RUN} --lr 3e-2 --out run")).done();
    sandbox.run("apply run --model model --out applied").done();
    let (base, own) = (bytes_below(&sandbox.path("model")), bytes_below(&sandbox.path("applied")));
    let mut changed = 0;
    for (name, bytes) in &base {
        if name.extension().is_some_and(|ending| ending == "safetensors") && !name.starts_with("reference.safetensors")
        {
            assert_eq!(own[name].len(), bytes.len(), "{}", name.display());
            changed += usize::from(own[name] != *bytes);
        } else if name.extension().is_some_and(|ending| ending == "json") {
            assert_eq!(own[name], *bytes, "{}", name.display());
        }
    }
    assert!(changed > 0);
}

#[test]
fn every_method_runs_and_a_sweep_is_one_table() {
    let sandbox = sandbox();
    let run = format!("{RUN} --out sweep --sweep methods=all seeds=1,2");
    let said = sandbox.run(&run).done();
    assert_eq!(said.stdout.matches("\n| ").count(), neuroglot::adapt::METHODS.len(), "{}", said.stdout);
    for method in neuroglot::adapt::METHODS {
        let name = format!("sweep/{}-lr{:e}-seed2", method.name, method.rate);
        assert!(sandbox.path(&format!("{name}/delta.safetensors")).is_file(), "{name}");
        sandbox.run(&format!("apply {name} --model model --out out-{}", method.name)).done();
    }
    let again = sandbox.run(&run).done();
    assert_eq!(again.stdout, said.stdout);
    let table: Value = serde_json::from_slice(&sandbox.read("sweep/sweep.json")).unwrap();
    assert_eq!(table["runs"].as_array().unwrap().len(), 2 * neuroglot::adapt::METHODS.len());
}

#[test]
fn a_dry_run_writes_nothing() {
    let sandbox = sandbox();
    let said = sandbox.run(&format!("{RUN} --out run --dry-run")).done();
    assert!(said.stdout.contains("layer   0") && said.stdout.contains("memory: about"), "{}", said.stdout);
    assert!(said.stdout.contains("steps: 30 over 960 tokens"), "{}", said.stdout);
    assert!(!sandbox.path("run").exists());
}

#[test]
fn patience_ends_a_run_and_the_best_is_what_is_kept() {
    let sandbox = sandbox();
    // So large a learning rate only does harm.
    let said = sandbox.run(&format!("--json {RUN} --lr 30 --patience 2 --out run").replace("-every 10", "-every 1"));
    let json: Value = serde_json::from_str(&said.done().stdout).unwrap();
    let step = |name: &str| json["outcome"][name].as_u64().unwrap();
    assert!(step("step") < 30 && step("best_step") + 2 == step("step"), "{json}");
}

/// What a refused command said.
fn refused(sandbox: &Sandbox, arguments: &str, code: i32, wanted: &str) {
    let said = sandbox.run(arguments);
    assert_eq!(said.code, code, "{arguments}: {}", said.text());
    assert!(said.stderr.contains(wanted), "{arguments}: {}", said.stderr);
    assert!(!sandbox.path("run").exists(), "{arguments}: wrote something");
}

#[test]
fn a_run_that_took_no_step_gives_way_and_one_that_did_does_not() {
    let sandbox = Sandbox::new();
    // One document: nothing of it can be held out.
    sandbox.write("text/mlt_Latn.txt", prose(0, 60).replace("\n\n", "\n"));
    let sandbox = sandbox.with_atlas();
    let said = sandbox.run(&format!("{RUN} --out run"));
    assert_eq!(said.code, 1, "{}", said.text());
    assert!(said.stderr.contains("--document line"), "{}", said.stderr);
    sandbox.run(&format!("{RUN} --document line --out run")).done();
    let said = sandbox.run(&format!("{RUN} --document line --seed 2 --out run"));
    assert_eq!(said.code, 1, "{}", said.text());
    assert!(said.stderr.contains("holds another run, which differs in settings.seed"), "{}", said.stderr);
}

#[test]
fn masks_of_other_models_are_refused() {
    let sandbox = sandbox();
    sandbox.run("mask atlas --language mlt --out mask.safetensors").done();
    refused(
        &sandbox,
        &format!("{RUN} --out run --model-id someone/else --model-revision x --dry-run --atlas mask.safetensors")
            .replace("--atlas atlas ", ""),
        1,
        "is of model model, but the model here has someone/else",
    );
    // From a file it is the same run as from the folder.
    sandbox.run(&format!("{RUN} --out a").replace("--atlas atlas", "--atlas mask.safetensors")).done();
    sandbox.run(&format!("{RUN} --out b")).done();
    assert_eq!(sandbox.read("a/metrics.jsonl"), sandbox.read("b/metrics.jsonl"));
    // Other weights under the same name.
    sandbox.weights(|tensors| tensors.values_mut().next().unwrap().bytes[0] ^= 1);
    refused(&sandbox, &format!("{RUN} --out run"), 1, "other weights");
    // Another width.
    let other = Sandbox::new();
    other.write("text/mlt_Latn.txt", prose(0, 60));
    other.write("mask.safetensors", sandbox.read("mask.safetensors"));
    other.model(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/families/gpt2"));
    other.write("model/tokenizer.json", sandbox.read("model/tokenizer.json"));
    refused(
        &other,
        &format!("{RUN} --out run").replace("--atlas atlas", "--atlas mask.safetensors"),
        1,
        "neurons, but the model here has",
    );
}

#[test]
fn what_cannot_be_adapted_is_refused_in_words() {
    let sandbox = sandbox();
    refused(&sandbox, &format!("{RUN} --out run --method magic"), 2, "there is no such method");
    refused(&sandbox, &RUN.replace("--atlas atlas", "--out run"), 2, "say where they are with --atlas");
    refused(&sandbox, &format!("{RUN} --out run --lr 0"), 2, "a number above 0");
    refused(&sandbox, &format!("{RUN} --out run --sweep colour=red"), 2, "write methods=A,B");
    refused(&sandbox, &format!("{RUN} --out run").replace("--language mlt", "--language mlt,fra"), 2, "one language");
    refused(&sandbox, &format!("{RUN} --out run").replace("--language mlt", "--language deu"), 1, "deu_Latn");
    refused(&sandbox, &format!("{RUN} --out run --context 100000"), 2, "context");
    // Too few documents to hold one out.
    let said = sandbox.run(&format!("{RUN} --out few").replace("--language mlt", "--language fra"));
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("--validation-corpus"), "{}", said.stderr);
    // Another run in the folder.
    sandbox.run(&format!("{RUN} --out one")).done();
    let said = sandbox.run(&format!("{RUN} --out one --seed 5"));
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("holds another run"), "{}", said.stderr);
    // Experts.
    let experts = Sandbox::new();
    experts.write("text/mlt_Latn.txt", prose(0, 60));
    let tokenizer = experts.read("model/tokenizer.json");
    experts.model(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/families/mixtral"));
    experts.write("model/tokenizer.json", tokenizer);
    let said = experts.run(&format!("{RUN} --out run --method ffn"));
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("experts"), "{}", said.stderr);
}

#[test]
fn a_damaged_delta_is_refused() {
    let sandbox = sandbox();
    sandbox.run(&format!("{RUN} --lr 3e-2 --out run")).done();
    let whole = sandbox.read("run/delta.safetensors");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(whole[8..header].to_vec()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let changed = text.replacen(from, to, 1);
        [&(changed.len() as u64).to_le_bytes(), changed.as_bytes(), &whole[header..]].concat()
    };
    let cases = [
        (whole[..whole.len() - 4].to_vec(), "cut short"),
        (whole[..20].to_vec(), "is no whole safetensors file"),
        (Vec::new(), "too short"),
        (vec![0; 64], "is no safetensors file: its header cannot be read"),
        (with("neuroglot.delta", "neuroglot.dalte"), "is of format"),
        (with("\"layers.0.mlp.gate\"", "\"layers.9.mlp.gate\""), "without `layers.9.mlp.neurons`"),
        (with("\"layers.0.mlp.gate\"", "\"layers.0.mlp.goat\""), "does not know"),
    ];
    for (bytes, wanted) in cases {
        sandbox.write("bad.safetensors", bytes);
        let said = sandbox.run("apply bad.safetensors --model model --out applied");
        assert_eq!(said.code, 1, "{wanted}");
        assert!(said.stderr.contains(wanted), "{wanted}: {}", said.stderr);
        assert!(!sandbox.path("applied").exists());
    }
}

#[test]
fn a_damaged_run_says_which_file_and_is_not_continued() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("run");
    let mut run = adapt(&out, &[]).spawn().unwrap();
    wait_for(&mut run, &out, 10);
    run.kill().unwrap();
    run.wait().unwrap();
    for (name, left) in [("state.safetensors", 0), ("state.safetensors", 900), ("metrics.jsonl", 0), ("run.json", 7)] {
        let file = out.join(name);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..left]).unwrap();
        let ended = adapt(&out, &[]).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(&format!("{}: is damaged (", file.display())), "{said}");
        assert!(said.contains("put it back, or remove the run's folder"), "{said}");
        assert_eq!(fs::read(&file).unwrap(), whole[..left], "{name} was written to");
        fs::write(&file, whole).unwrap();
    }
    assert!(adapt(&out, &[]).status().unwrap().success());
}

/// Logits of a checkpoint by transformers, with an adapter by PEFT, of the ids in a file.
fn transformers(sandbox: &Sandbox, checkpoint: &str, ids: &str, adapter: Option<&str>) -> candle_core::Tensor {
    let python = std::env::var("NEUROGLOT_PYTHON").expect("NEUROGLOT_PYTHON names the oracle's interpreter");
    let out = sandbox.path("logits.safetensors");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracles/adapt.py");
    let mut command = Command::new(python);
    command.arg(script).arg("logits").arg(sandbox.path(checkpoint));
    command.arg(sandbox.path(ids)).arg(&out).args(adapter.map(|adapter| sandbox.path(adapter)));
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    fixture(&out)["logits"].clone()
}

/// Logits of a checkpoint by this program's library.
fn logits(sandbox: &Sandbox, checkpoint: &str, ids: &str) -> candle_core::Tensor {
    use candle_core::{DType, Device};
    use neuroglot::model::{Decoder, Path as Operators, Unobserved};
    let checkpoint = Checkpoint::open(&sandbox.path(checkpoint)).unwrap();
    let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Operators::Inference).unwrap();
    let ids = crate::tensors::ids(&fixture(&sandbox.path(ids))["input_ids"]);
    decoder.logits(&ids, &mut Unobserved).unwrap()
}

#[test]
#[ignore = "needs NEUROGLOT_PYTHON"]
fn transformers_and_peft_read_what_is_written_and_compute_the_same() {
    const IDS: &str = "model/reference.safetensors";
    let sandbox = sandbox();
    for method in ["subnetwork", "full", "lora", "ia3"] {
        sandbox.run(&format!("{RUN} --lr 3e-2 --method {method} --out run-{method}")).done();
        sandbox.run(&format!("apply run-{method} --model model --out out-{method}")).done();
        let ours = logits(&sandbox, &format!("out-{method}"), IDS);
        let theirs = transformers(&sandbox, &format!("out-{method}"), IDS, None);
        assert!(largest_difference(&ours, &theirs) < 1e-4, "{method}");
        let base = transformers(&sandbox, "model", IDS, None);
        assert!(largest_difference(&base, &theirs) > 1e-3, "{method} changed nothing");
        if ["lora", "ia3"].contains(&method) {
            let with_adapter = transformers(&sandbox, "model", IDS, Some(&format!("run-{method}/adapter")));
            assert!(largest_difference(&ours, &with_adapter) < 1e-4, "{method} by PEFT");
        }
    }
}

/// A mask file of one language: every hundredth neuron.
fn even_mask(layers: usize, width: usize) -> Vec<u8> {
    let row: Vec<u8> =
        (0..width / 8).map(|byte| (0..8).map(|bit| u8::from((byte * 8 + bit) % 100 == 0) << bit).sum()).collect();
    let said = serde_json::json!({
        "__metadata__": {
            "model": "smollm2", "layers": layers.to_string(), "width": width.to_string(), "method": "even", "run": "even", "top_rate": "0.01"
        },
        "mlt_Latn": { "dtype": "U8", "shape": [layers, row.len()], "data_offsets": [0, layers * row.len()] },
    });
    let header = said.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &row.repeat(layers)].concat()
}

/// Every tensor's bytes.
fn tensors(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = fs::read(folder.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&file).unwrap();
    all.iter().map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())).collect()
}

#[test]
#[ignore = "needs SmolLM2-135M in f32 and transformers: set NEUROGLOT_SMOLLM2 and NEUROGLOT_PYTHON"]
fn smollm2s_neurons_are_trained_and_transformers_computes_the_same_of_the_checkpoint() {
    let sandbox = Sandbox::new();
    let base = PathBuf::from(
        std::env::var_os("NEUROGLOT_SMOLLM2").expect("NEUROGLOT_SMOLLM2 names the folder of SmolLM2-135M in f32"),
    );
    let model = base.display();
    sandbox.write("mask.safetensors", even_mask(30, 1536));
    sandbox
        .run(&format!(
            "adapt --model {model} --model-id smollm2 --atlas mask.safetensors --language mlt --corpus dir:{DEMO}/sentences --document line \
             --tokens 4096 --context 256 --batch 2 --lr 1e-2 --out run"
        ))
        .done();
    sandbox.run(&format!("apply run --model {model} --out applied")).done();
    let tokenizer = Checkpoint::open(&base).unwrap().tokenizer(49_152).unwrap();
    let text = fs::read_to_string(format!("{DEMO}/sentences/mlt_Latn.txt")).unwrap();
    let ids: Vec<i64> = tokenizer.encode(text, false).unwrap().get_ids()[..256].iter().map(|&id| id.into()).collect();
    let ids = candle_core::Tensor::from_vec(ids, (2, 128), &candle_core::Device::Cpu).unwrap();
    candle_core::safetensors::save(&[("input_ids", ids)].into(), sandbox.path("ids.safetensors")).unwrap();
    let (ours, theirs) =
        (logits(&sandbox, "applied", "ids.safetensors"), transformers(&sandbox, "applied", "ids.safetensors", None));
    let (apart, moved) = (
        largest_difference(&ours, &theirs),
        largest_difference(&theirs, &transformers(&sandbox, &model.to_string(), "ids.safetensors", None)),
    );
    let scale = theirs.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    eprintln!(
        "logits of SmolLM2 with trained neurons: {apart:.1e} apart, {moved:.1e} from the base's, up to {scale:.1e}"
    );
    assert!(apart < 1e-4 * scale.max(1.0), "{apart} of {scale}");
    assert!(moved > 1e-2, "training changed nothing");
    let (before, after) = (tensors(&base), tensors(&sandbox.path("applied")));
    let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
    assert_eq!(before.len(), after.len());
    assert_eq!(changed.len(), 90);
    assert!(changed.iter().all(|name| name.contains(".mlp.")), "{changed:?}");
}
