//! Evaluation against lm-evaluation-harness, sacrebleu and transformers on the bundled model (`tests/oracles/evaluate.py`), and the
//! command as a person meets it.

use std::{
    path::{Path as FilePath, PathBuf},
    sync::atomic::AtomicBool,
};

use candle_core::{DType, Device, IndexOp, Tensor};
use neuroglot::{
    checkpoint::Checkpoint,
    corpus::CorpusOptions,
    evaluate::{
        self, Better, EvaluateError, Evaluation, Report, Spread, Subject, SubjectSettings, TASKS, Task, TaskOptions,
        bleu, chrf, statistics,
    },
    language::LanguageCode,
    model::{Decoder, Path, Unobserved},
};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::harness::{Sandbox, bytes_below};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/atlas/demo/model");
const SENTENCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/atlas/demo/sentences");
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/evaluate");

fn fixture(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(FilePath::new(FIXTURES).join(name)).unwrap()).unwrap()
}

fn code(code: &str) -> LanguageCode {
    code.parse().unwrap()
}

/// The bundled model.
struct Demo {
    decoder: Decoder,
    tokenizer: Tokenizer,
    stop: AtomicBool,
}

impl Demo {
    fn new() -> Self {
        let checkpoint = Checkpoint::open(FilePath::new(DEMO)).unwrap();
        let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap();
        let tokenizer = checkpoint.tokenizer(decoder.spec().vocabulary).unwrap();
        Self { decoder, tokenizer, stop: AtomicBool::new(false) }
    }

    fn subject(&self, context: usize, batch_tokens: usize) -> Subject<'_> {
        let settings = SubjectSettings { prefix: 0, ends: vec![1], context, batch_tokens, precision: "f32".to_owned() };
        evaluate::subject(&self.decoder, &self.tokenizer, settings, &self.stop)
    }

    fn run(&self, task: &dyn Task, language: &str, context: usize, batch_tokens: usize) -> Report {
        let subject = self.subject(context, batch_tokens);
        task.run(&subject, code(language), &mut |_| ()).unwrap().expect("nobody stopped it")
    }
}

fn options() -> TaskOptions {
    TaskOptions {
        corpus: Some(format!("dir:{SENTENCES}").parse().unwrap()),
        reading: CorpusOptions::default(),
        split: neuroglot::corpus::Split::All,
        data: None,
        limit: None,
        source: code("eng_Latn"),
        shots: 2,
        new_tokens: 12,
        seed: 0,
    }
}

fn of_format(name: &str) -> Box<dyn Task> {
    let data = Some(format!("jsonl:{FIXTURES}/{name}").parse().unwrap());
    evaluate::open(name, &TaskOptions { data, ..options() }).unwrap()
}

fn value(report: &Report, metric: &str) -> (f64, f64) {
    let score = report.scores.iter().find(|score| score.metric == metric).unwrap();
    (score.value, score.stderr.unwrap())
}

fn near(found: f64, wanted: f64, tolerance: f64, what: &str) {
    assert!((found - wanted).abs() <= tolerance, "{what}: {found}, but {wanted} is wanted");
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn choices_score_as_lm_evaluation_harness_has_them() {
    let (demo, recorded) = (Demo::new(), fixture("lm_eval.json"));
    let (mut items, mut formats) = (0, std::collections::BTreeSet::new());
    for (key, wanted) in recorded.as_object().unwrap() {
        let (name, context) = key.split_once('@').unwrap();
        let (format, language) = name.split_once('/').unwrap();
        formats.insert(format);
        let report = demo.run(of_format(format).as_ref(), language, context.parse().unwrap(), 1024);
        let lists = wanted["log_likelihoods"].as_array().unwrap();
        assert_eq!(report.units, lists.len(), "{key}");
        for (item, wanted) in report.items.iter().zip(lists) {
            let found = numbers(&item["log_likelihoods"]);
            assert_eq!(found.len(), wanted.as_array().unwrap().len(), "{key} {item}");
            for (found, wanted) in found.iter().zip(numbers(wanted)) {
                near(*found, wanted, 1e-3, &format!("{key}, {item}"));
            }
            items += 1;
        }
        for metric in ["acc", "acc_norm", "acc_bytes"] {
            let (mean, stderr) = value(&report, metric);
            let wanted = numbers(&wanted[metric]);
            near(mean, wanted[0], 1e-9, &format!("{key} {metric}"));
            near(stderr, wanted[1], 1e-9, &format!("{key} {metric} standard error"));
        }
    }
    assert_eq!(formats.into_iter().collect::<Vec<_>>(), {
        let mut names: Vec<_> = evaluate::FORMATS.iter().map(|format| format.name).collect();
        names.sort_unstable();
        names
    });
    assert!(items > 120, "{items}");
}

#[test]
fn scores_do_not_depend_on_what_shares_a_batch() {
    let demo = Demo::new();
    let task = of_format("arc");
    let (one, many) = (demo.run(task.as_ref(), "eng_Latn", 512, 1), demo.run(task.as_ref(), "eng_Latn", 512, 4096));
    for (one, many) in one.items.iter().zip(&many.items) {
        for (a, b) in numbers(&one["log_likelihoods"]).iter().zip(numbers(&many["log_likelihoods"])) {
            near(*a, b, 1e-4, "log-likelihood");
        }
    }
}

#[test]
fn perplexity_is_the_rolling_log_likelihood_of_lm_evaluation_harness() {
    let (demo, recorded) = (Demo::new(), fixture("perplexity.json"));
    let corpus = Some(format!("jsonl:{FIXTURES}/documents").parse().unwrap());
    let task = evaluate::open("perplexity", &TaskOptions { corpus, ..options() }).unwrap();
    for (language, wanted) in recorded.as_object().unwrap() {
        for batch in [64, 1024] {
            let report = demo.run(task.as_ref(), language, 64, batch);
            let column = |name: &str| report.items.iter().map(|item| item[name].as_f64().unwrap()).collect::<Vec<_>>();
            assert_eq!(column("tokens"), numbers(&wanted["tokens"]));
            assert_eq!(column("bytes"), numbers(&wanted["bytes"]));
            for (found, wanted) in column("nll").iter().zip(numbers(&wanted["nll"])) {
                // The harness adds in f32.
                near(*found, wanted, 1e-3 + 1e-6 * wanted, language);
            }
            let (bits, stderr) = value(&report, "bits_per_byte");
            near(bits, wanted["bits_per_byte"].as_f64().unwrap(), 1e-5, language);
            // The linearised error of a ratio beside the jackknife's: they agree as far as a few documents let them.
            let jackknife = wanted["jackknife"].as_f64().unwrap();
            assert!((stderr / jackknife - 1.0).abs() < 0.35, "{language}: {stderr} beside {jackknife}");
        }
    }
}

#[test]
fn alignment_is_that_of_numpy_on_the_states_of_transformers() {
    let (demo, recorded) = (Demo::new(), fixture("alignment.json"));
    let task = evaluate::open("alignment", &options()).unwrap();
    for (language, layers) in recorded.as_object().unwrap() {
        let report = demo.run(task.as_ref(), language, 512, 1024);
        for (number, wanted) in layers.as_array().unwrap().iter().enumerate() {
            let number_of = |name: &str| wanted[name].as_f64().unwrap();
            near(report.items[number]["matched"].as_f64().unwrap(), number_of("matched"), 1e-4, language);
            near(report.items[number]["mismatched"].as_f64().unwrap(), number_of("mismatched"), 1e-4, language);
            let (difference, stderr) = value(&report, &format!("layer_{number:02}"));
            near(difference, number_of("matched") - number_of("mismatched"), 1e-4, language);
            // Other draws of the same bootstrap.
            assert!((stderr / number_of("stderr") - 1.0).abs() < 0.1, "{stderr} beside {}", number_of("stderr"));
        }
    }
}

#[test]
fn chrf_and_bleu_are_those_of_sacrebleu() {
    let recorded = fixture("sacrebleu.json");
    let cases = recorded.as_array().unwrap();
    assert!(cases.len() > 40, "{}", cases.len());
    for case in cases {
        let texts =
            |name: &str| case[name].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect::<Vec<_>>();
        let pairs: Vec<_> = texts("hypotheses").into_iter().zip(texts("references")).collect();
        let of_pair = |(hypothesis, reference): &(&str, &str)| chrf::Statistics::of(hypothesis, reference);
        let all = pairs.iter().map(of_pair).fold(chrf::Statistics::default(), |all, one| all.plus(&one));
        near(all.score(), case["chrf++"].as_f64().unwrap(), 1e-9, &format!("chrF++ of {}", case["name"]));
        let of_pair = |(hypothesis, reference): &(&str, &str)| bleu::Statistics::of(hypothesis, reference);
        let all = pairs.iter().map(of_pair).fold(bleu::Statistics::default(), |all, one| all.plus(&one));
        near(all.score(), case["bleu"].as_f64().unwrap(), 1e-9, &format!("BLEU of {}", case["name"]));
    }
}

/// Greedy generation without a cache: the whole text is run again for every token.
fn recomputed(demo: &Demo, prompt: &str, new_tokens: usize) -> String {
    let mut ids = demo.tokenizer.encode(prompt, true).unwrap().get_ids().to_vec();
    let start = ids.len();
    while ids.len() < start + new_tokens {
        let window = Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu).unwrap();
        let logits = demo.decoder.logits(&window, &mut Unobserved).unwrap().i((0, ids.len() - 1)).unwrap();
        let next = logits.argmax(0).unwrap().to_scalar::<u32>().unwrap();
        if next == 1 {
            break;
        }
        ids.push(next);
    }
    let text = demo.tokenizer.decode(&ids[start..], true).unwrap();
    text.split('\n').next().unwrap().trim().to_owned()
}

#[test]
fn translations_are_those_of_greedy_generation_without_a_cache() {
    let demo = Demo::new();
    let task = evaluate::open("translation", &TaskOptions { limit: Some(9), ..options() }).unwrap();
    for language in ["mlt_Latn", "zho_Hans"] {
        let together = demo.run(task.as_ref(), language, 512, 4096);
        let apart = demo.run(task.as_ref(), language, 512, 1);
        let mut written = 0;
        for (item, other) in together.items.iter().zip(&apart.items) {
            // The first prompt is in the report; the others end otherwise.
            let prompt = together.prompt.as_ref().unwrap();
            let first = together.items[0]["source"].as_str().unwrap();
            let prompt = prompt.replacen(first, item["source"].as_str().unwrap(), 1);
            let wanted = recomputed(&demo, &prompt, 12);
            assert_eq!(item["hypothesis"], wanted, "{language}: {prompt}");
            assert_eq!(item, other);
            written += wanted.len();
        }
        assert!(written > 50, "the model wrote next to nothing");
        assert_eq!(together.units, 9);
        let (score, stderr) = value(&together, "chrf++");
        assert_eq!(score > 0.0, stderr > 0.0, "{score} ± {stderr}");
    }
}

#[test]
fn standard_errors_are_those_worked_by_hand() {
    // 1, 0, 1, 1: mean 0.75, squares of deviations 3 · 0.0625 + 0.5625 = 0.75, √(0.75 / (4 · 3)) = 0.25.
    let score = statistics::mean("acc", Better::Higher, &[1.0, 0.0, 1.0, 1.0]);
    near(score.value, 0.75, 0.0, "mean");
    near(score.stderr.unwrap(), 0.25, 1e-15, "its error");
    // 10 / 2 and 20 / 8: ratio 30 / 10 = 3, x̄ = 5, influences (10 − 6) / 5 = 0.8 and (20 − 24) / 5 = −0.8, √(1.28 / 2) = 0.8.
    let score = statistics::ratio("nll", Better::Lower, &[10.0, 20.0], &[2.0, 8.0]);
    near(score.value, 3.0, 0.0, "ratio");
    near(score.stderr.unwrap(), 0.8, 1e-15, "its error");
    // The jackknife of a mean is the mean's own error.
    let values = [1.0, 4.0, 2.0, 9.0, 5.0];
    let without: Vec<f64> = values.iter().map(|value| (values.iter().sum::<f64>() - value) / 4.0).collect();
    let (one, other) =
        (statistics::jackknife("m", Better::Higher, 4.2, &without), statistics::mean("m", Better::Higher, &values));
    near(one.stderr.unwrap(), other.stderr.unwrap(), 1e-12, "the jackknife's error");
    // A shift that is the same for all units is certain.
    let shifted = statistics::mean("m", Better::Higher, &values.map(|value| value + 1.0));
    near(shifted.spread.minus(&other.spread).unwrap().stderr().unwrap(), 0.0, 1e-12, "the difference's error");
    assert_eq!(Spread::Influence(vec![0.0]).stderr(), None, "one unit has no error");
    assert_eq!(Spread::Influence(vec![0.0]).minus(&Spread::Influence(vec![0.0, 1.0])), None);
}

#[test]
fn documents_of_prepared_ids_have_no_bytes_to_count() {
    let sandbox = Sandbox::empty();
    let ids = Tensor::zeros((2, 8), DType::U32, &Device::Cpu).unwrap();
    std::fs::create_dir(sandbox.path("ids")).unwrap();
    ids.save_safetensors("input_ids", sandbox.path("ids/mlt_Latn.safetensors")).unwrap();
    let corpus = Some(format!("ids:{}", sandbox.path("ids").display()).parse().unwrap());
    let task = evaluate::open("perplexity", &TaskOptions { corpus, ..options() }).unwrap();
    let demo = Demo::new();
    let error = task.run(&demo.subject(64, 64), code("mlt_Latn"), &mut |_| ()).unwrap_err();
    assert!(matches!(error, EvaluateError::NoText { .. }), "{error}");
}

/// A sandbox with the bundled model and data behind short names.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::empty();
    std::os::unix::fs::symlink(DEMO, sandbox.path("model")).unwrap();
    std::os::unix::fs::symlink(SENTENCES, sandbox.path("sentences")).unwrap();
    std::os::unix::fs::symlink(FIXTURES, sandbox.path("data")).unwrap();
    sandbox
}

const TWO_TASKS: &str = "evaluate --model model --task perplexity=dir:sentences --task belebele=jsonl:data/belebele --languages eng_Latn,deu_Latn --document line";

#[test]
fn a_run_that_ended_goes_on_where_it_stopped_and_gives_the_same_bytes() {
    let sandbox = sandbox();
    sandbox.run(&format!("{TWO_TASKS} --out whole")).done();
    sandbox.run(&format!("{TWO_TASKS} --out whole.json")).done();
    let whole = bytes_below(&sandbox.path("whole"));
    assert_eq!(
        whole.keys().map(|path| path.to_str().unwrap()).collect::<Vec<_>>(),
        [
            "belebele/deu_Latn.json",
            "belebele/eng_Latn.json",
            "evaluation.json",
            "perplexity/deu_Latn.json",
            "perplexity/eng_Latn.json"
        ]
    );
    // As one that was killed behind its second report left it.
    for file in whole.keys().filter(|path| !path.starts_with("belebele")) {
        sandbox.write(&format!("part/{}", file.display()), &whole[file]);
    }
    let said = sandbox.run(&format!("{TWO_TASKS} --out part")).done();
    assert!(said.stderr.contains("2 of 4 reports were finished before and are kept"), "{}", said.stderr);
    assert_eq!(bytes_below(&sandbox.path("part")), whole);
    let file = sandbox.read("whole.json");
    let mut half: Value = serde_json::from_slice(&file).unwrap();
    half["reports"].as_array_mut().unwrap().remove(1);
    sandbox.write("part.json", serde_json::to_string_pretty(&half).unwrap());
    sandbox.run(&format!("{TWO_TASKS} --out part.json")).done();
    assert!(sandbox.read("part.json") == file, "the file differs");
    // Both forms hold the same.
    let (a, b) =
        (Evaluation::read(&sandbox.path("whole")).unwrap(), Evaluation::read(&sandbox.path("whole.json")).unwrap());
    assert_eq!(a.run, b.run);
    for report in &b.reports {
        assert_eq!(a.report(&report.task, report.language), Some(report));
    }
    // Nothing is left to do, and another run is refused.
    let said = sandbox.run(&format!("{TWO_TASKS} --out whole")).done();
    assert!(said.stderr.contains("4 of 4 reports"), "{}", said.stderr);
    let said = sandbox.run(&format!("{TWO_TASKS} --out whole --limit 3"));
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("another evaluation, which differs in tasks.settings.limit"), "{}", said.stderr);
}

#[test]
fn a_model_beside_itself_differs_by_nothing_and_beside_another_by_what_the_two_say() {
    let sandbox = sandbox();
    let run = "evaluate --model model --task perplexity --corpus dir:sentences --languages mlt_Latn,eng_Latn --document line --limit 8";
    sandbox.run(&format!("{run} --out a.json")).done();
    let said = sandbox.run(&format!("{run} --json --out b.json --compare a.json")).done();
    let result: Value = serde_json::from_str(&said.stdout).unwrap();
    let differences = result["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 6);
    assert!(differences.iter().all(|row| row["difference"] == 0.0 && row["stderr"] == 0.0), "{differences:?}");
    // Another model: the same weights with a head that is off.
    let other = other_model(&sandbox);
    let said = sandbox.run(&format!("{} --json --out c.json --base model", run.replace("--model model", other))).done();
    let result: Value = serde_json::from_str(&said.stdout).unwrap();
    let (before, after) =
        (Evaluation::read(&sandbox.path("a.json")).unwrap(), Evaluation::read(&sandbox.path("c.json")).unwrap());
    assert_eq!(Evaluation::read(&sandbox.path("c.base.json")).unwrap().reports, before.reports);
    let row = result["differences"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["metric"] == "nll" && row["language"] == "mlt_Latn");
    let row = row.unwrap();
    let items = |evaluation: &Evaluation| {
        let report = evaluation.report("perplexity", code("mlt_Latn")).unwrap();
        report
            .items
            .iter()
            .map(|item| [item["nll"].as_f64().unwrap(), item["tokens"].as_f64().unwrap()])
            .collect::<Vec<_>>()
    };
    // d = Σ (after − before) / Σ tokens; influences of the ratio of the differences.
    let changes: Vec<[f64; 2]> =
        items(&before).iter().zip(items(&after)).map(|(old, new)| [new[0] - old[0], old[1]]).collect();
    let total: f64 = changes.iter().map(|change| change[1]).sum();
    let mean = changes.iter().map(|change| change[0]).sum::<f64>() / total;
    let n = changes.len() as f64;
    let influence = changes.iter().map(|change| (change[0] - mean * change[1]) / (total / n));
    let stderr = (influence.map(|d| d * d).sum::<f64>() / (n * (n - 1.0))).sqrt();
    assert!(mean.abs() > 1e-3);
    near(row["difference"].as_f64().unwrap(), mean, 1e-9, "the difference");
    near(row["stderr"].as_f64().unwrap(), stderr, 1e-9, "its error");
    // Text of another number of documents is no pair.
    let said = sandbox.run(&format!("{run} --limit 7 --out d.json --compare a.json").replacen("--limit 8 ", "", 1));
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("not of the same text"), "{}", said.stderr);
}

/// The bundled model with its last norm halved.
fn other_model(sandbox: &Sandbox) -> &'static str {
    let mut tensors =
        candle_core::safetensors::load(FilePath::new(DEMO).join("model.safetensors"), &Device::Cpu).unwrap();
    let norm = (&tensors["model.norm.weight"] * 0.5).unwrap();
    tensors.insert("model.norm.weight".to_owned(), norm);
    std::fs::create_dir(sandbox.path("other")).unwrap();
    candle_core::safetensors::save(&tensors, sandbox.path("other/model.safetensors")).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(FilePath::new(DEMO).join(file), sandbox.path("other").join(file)).unwrap();
    }
    "--model other"
}

#[test]
fn the_table_names_every_measure_and_its_error() {
    let sandbox = sandbox();
    let said = sandbox.run(&format!("{TWO_TASKS} --out found")).done();
    let table: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(table.len(), 1 + 2 * 3 + 2 * 3, "{}", said.stdout);
    assert!(table[1].starts_with("perplexity   deu_Latn"), "{}", table[1]);
    assert!(table.iter().skip(1).all(|line| line.contains(" ± ")), "{}", said.stdout);
    assert!(said.stderr.contains("tokens/s"), "{}", said.stderr);
}

#[test]
fn files_of_all_kinds_hold_the_same_items() {
    let sandbox = sandbox();
    let lines =
        String::from_utf8(std::fs::read(PathBuf::from(FIXTURES).join("sib200/mlt_Latn.jsonl")).unwrap()).unwrap();
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cells = |row: &Value| {
        format!("{}\t{}\t{}", row["index_id"], row["category"].as_str().unwrap(), row["text"].as_str().unwrap())
    };
    let tsv: Vec<String> = rows.iter().map(cells).collect();
    sandbox.write("tsv/mlt_Latn/test.tsv", format!("index_id\tcategory\ttext\n{}\n", tsv.join("\n")));
    sandbox.write("tsv/mlt_Latn/train.tsv", "index_id\tcategory\ttext\n0\ttravel\tnot this one\n");
    let mixed: Vec<String> = rows
        .iter()
        .map(|row| {
            let mut row = row.clone();
            row["language"] = json!("mt");
            row.to_string()
        })
        .collect();
    sandbox.write("mixed.jsonl", mixed.join("\n"));
    let log = |data: &str, out: &str| {
        sandbox.run(&format!("evaluate --model model --task sib200 --data {data} --out {out}")).done();
        Evaluation::read(&sandbox.path(out)).unwrap().reports
    };
    let plain = log("jsonl:data/sib200", "a.json");
    assert_eq!(plain[0].units, 10);
    assert_eq!(log("tsv:tsv", "b.json"), plain);
    assert_eq!(log("mixed.jsonl", "c.json"), plain);
    assert_eq!(log("data/sib200/mlt_Latn.jsonl", "d.json"), plain);
}

#[test]
fn bad_items_are_named_with_their_file_and_row() {
    let sandbox = sandbox();
    let good: Value = serde_json::from_str(
        String::from_utf8(std::fs::read(PathBuf::from(FIXTURES).join("belebele/eng_Latn.jsonl")).unwrap())
            .unwrap()
            .lines()
            .next()
            .unwrap(),
    )
    .unwrap();
    let refused = |name: &str, change: &dyn Fn(&mut serde_json::Map<String, Value>), wanted: &str| {
        let mut bad = good.clone();
        change(bad.as_object_mut().unwrap());
        sandbox.write(&format!("{name}/eng_Latn.jsonl"), format!("{good}\n{bad}\n"));
        let said =
            sandbox.run(&format!("evaluate --model model --task belebele --data jsonl:{name} --out out-{name}.json"));
        assert_eq!(said.code, 1, "{name}: {}", said.stderr);
        assert!(said.stderr.contains(wanted), "{name}: {}", said.stderr);
        assert!(said.stderr.contains(&format!("{name}/eng_Latn.jsonl, ")), "{name}: {}", said.stderr);
    };
    refused(
        "missing",
        &|row| drop(row.remove("mc_answer3")),
        "row 2: has no field `mc_answer3`, but link, question_number",
    );
    refused("null", &|row| drop(row.insert("question".into(), Value::Null)), "row 2: field `question` is null");
    refused("empty", &|row| drop(row.insert("mc_answer2".into(), json!(" "))), "row 2: field `mc_answer2` is empty");
    refused(
        "range",
        &|row| drop(row.insert("correct_answer_num".into(), json!("5"))),
        "row 2: field `correct_answer_num` is 5, and 1 to 4 is wanted",
    );
    refused("zero", &|row| drop(row.insert("correct_answer_num".into(), json!(0))), "field `correct_answer_num` is 0");
    refused("word", &|row| drop(row.insert("correct_answer_num".into(), json!("two"))), "a whole number is wanted");
    refused(
        "number",
        &|row| drop(row.insert("flores_passage".into(), json!(7))),
        "field `flores_passage` is 7, and text is wanted",
    );
    let said_of = |task: &str, rows: &str| {
        sandbox.write("bad/eng_Latn.jsonl", rows);
        let said = sandbox.run(&format!("evaluate --model model --task {task} --data jsonl:bad --out bad.json"));
        assert_eq!(said.code, 1, "{}", said.stderr);
        said.stderr
    };
    assert!(said_of("belebele", "").contains("has no item in eng_Latn"), "an empty file");
    assert!(said_of("belebele", "[1]\n").contains("line 1: is no JSON object, and one per line is wanted"), "a list");
    assert!(said_of("arc", "{\"question\": \"?\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", \"B\"]}, \"answerKey\": \"C\"}\n")
        .contains("field `answerKey` is `C`, and one of A, B is wanted"));
    assert!(
        said_of("arc", "{\"question\": \"?\", \"choices\": [\"a\"], \"answerKey\": \"A\"}\n")
            .contains("a list of texts is wanted")
    );
    assert!(
        said_of("mmlu", "{\"question\": \"?\", \"choices\": [\"a\", \"b\"], \"answer\": 0}\n")
            .contains("holds 2 answers, and 4 are wanted")
    );
    assert!(
        said_of("piqa", "{\"goal\": \"?\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 2}\n")
            .contains("says that answer 3 is right, and has 2")
    );
    assert!(said_of("sib200", "{\"text\": \"?\", \"category\": \"music\"}\n").contains("field `category` is `music`"));
    assert!(said_of("global-mmlu", "{\"question\": \"?\"}\n").contains("has no field `option_a`"));
    assert!(
        said_of("xnli", "{\"premise\": \"a\", \"hypothesis\": \"b\", \"label\": 3}\n")
            .contains("field `label` is 3, and 0 to 2 is wanted")
    );
    assert!(said_of("hellaswag", "{\"activity_label\": \"a\", \"ctx_a\": \"b\", \"ctx_b\": \"\", \"endings\": [\"c\", 1], \"label\": \"0\"}\n").contains("holds what is no text"));
}

#[test]
fn wrong_usage_says_what_to_do() {
    let sandbox = sandbox();
    let said = |arguments: &str| sandbox.run(&format!("evaluate --model model --out out.json {arguments}"));
    let refused = |code: i32, arguments: &str, wanted: &str| {
        let said = said(arguments);
        assert_eq!(said.code, code, "{arguments}: {}", said.stderr);
        assert!(said.stderr.contains(wanted), "{arguments}: {}", said.stderr);
    };
    refused(2, "--task poetry", "`poetry` is no task; choose among perplexity, translation, alignment, belebele");
    refused(2, "--task perplexity", "perplexity reads text, and none was given; name it with --corpus");
    refused(2, "--task perplexity --corpus dir:sentences --context 513", "--context 513 is outside of 2 to 512");
    refused(2, "--task belebele --data data.xml", "`data.xml` is no corpus; write one of jsonl:PATH");
    refused(1, "--task belebele --data jsonl:nowhere", "nowhere: there is no such file or folder");
    refused(
        1,
        "--task belebele --data jsonl:data/belebele --languages mlt_Latn",
        "belebele: there is nothing in mlt_Latn; there is deu_Latn",
    );
    refused(2, "--task perplexity,perplexity --corpus dir:sentences", "--task names perplexity twice");
    refused(
        1,
        "--task translation --corpus dir:sentences --languages mt --shots 40",
        "has no line behind the examples in mlt_Latn",
    );
    sandbox.write("uneven/eng_Latn.txt", "one\ntwo\n");
    sandbox.write("uneven/mlt_Latn.txt", "wieħed\n");
    refused(1, "--task alignment --corpus dir:uneven", "has 1 lines in mlt_Latn and 2 in eng_Latn");
    sandbox.write("other.json", "{}");
    let evaluate = "--task perplexity --corpus dir:sentences --languages mt --limit 2";
    refused(1, &format!("{evaluate} --compare other.json"), "other.json: is no evaluation that this program reads");
    sandbox.write("full/notes.txt", "mine");
    let said = sandbox.run(&format!("evaluate --model model --out full {evaluate}"));
    assert!(said.stderr.contains("is not empty and holds no evaluation"), "{}", said.stderr);
}

#[test]
fn blank_lines_keep_their_places_among_parallel_ones() {
    let sandbox = sandbox();
    sandbox.write("text/eng_Latn.txt", "a cat\na dog\n\na horse\na bird\n");
    sandbox.write("text/mlt_Latn.txt", "qattus\n\nfenek\nżiemel\ngħasfur\n");
    sandbox
        .run("evaluate --model model --task translation --corpus dir:text --shots 1 --new-tokens 3 --out out.json")
        .done();
    let report = &Evaluation::read(&sandbox.path("out.json")).unwrap().reports[0];
    let pairs: Vec<(&str, &str)> = report
        .items
        .iter()
        .map(|item| (item["source"].as_str().unwrap(), item["reference"].as_str().unwrap()))
        .collect();
    assert_eq!(pairs, [("a horse", "żiemel"), ("a bird", "għasfur")]);
    assert_eq!(
        report.prompt.as_deref().unwrap(),
        "English sentence: a cat\nMaltese sentence: qattus\n\nEnglish sentence: a horse\nMaltese sentence:"
    );
}

#[test]
fn every_task_stands_in_the_help() {
    let help = Sandbox::empty().run("evaluate --help").done().stdout;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for kind in TASKS {
        assert!(help.contains(&format!("{}: {}", kind.name, kind.help)), "{}", kind.name);
    }
    for format in evaluate::FORMATS {
        assert!(help.contains(&format!("{} ({}; {})", format.name, format.help, format.published)), "{}", format.name);
    }
}
