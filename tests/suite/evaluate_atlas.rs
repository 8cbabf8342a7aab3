//! What an adaptation changed, on its way into an atlas and onto its pages, and a delta evaluated in place of a checkpoint.

use std::{fs, path::Path as FilePath};

use neuroglot::{
    atlas::{AdaptationRow, Atlas, add_adaptation},
    evaluate::Evaluation,
};
use serde_json::Value;

use crate::harness::{Sandbox, bytes_below, files_below};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MODEL: &str = "neuroglot/demo-2.7m";

/// The bundled model, its sentences and a copy of the demo's atlas.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::empty();
    let demo = FilePath::new(ROOT).join("atlas");
    std::os::unix::fs::symlink(demo.join("demo/model"), sandbox.path("model")).unwrap();
    std::os::unix::fs::symlink(demo.join("demo/sentences"), sandbox.path("sentences")).unwrap();
    for (file, bytes) in bytes_below(&demo.join("demo-atlas")) {
        sandbox.write(&format!("atlas/{}", file.display()), bytes);
    }
    // Another model: the same weights with the last norm halved.
    let device = candle_core::Device::Cpu;
    let mut tensors = candle_core::safetensors::load(demo.join("demo/model/model.safetensors"), &device).unwrap();
    let norm = (&tensors["model.norm.weight"] * 0.5).unwrap();
    tensors.insert("model.norm.weight".to_owned(), norm);
    fs::create_dir(sandbox.path("other")).unwrap();
    candle_core::safetensors::save(&tensors, sandbox.path("other/model.safetensors")).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(demo.join("demo/model").join(file), sandbox.path("other").join(file)).unwrap();
    }
    sandbox
}

const RUN: &str = "evaluate --task perplexity --corpus dir:sentences --document line --limit 12 --languages mlt_Latn,eng_Latn,fra_Latn";

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// A row with everything but what a test is about.
fn row(target: &str, language: &str, difference: f64, stderr: Option<f64>) -> AdaptationRow {
    AdaptationRow {
        model: MODEL.to_owned(),
        run: "0123456789abcdef".to_owned(),
        method: "subnetwork".to_owned(),
        target: target.parse().unwrap(),
        parameters: Some(5_000),
        task: "perplexity".to_owned(),
        language: language.parse().unwrap(),
        metric: "bits_per_byte".to_owned(),
        better: AdaptationRow::LOWER.to_owned(),
        units: 12,
        before: 2.0,
        after: 2.0 + difference,
        difference,
        stderr,
    }
}

#[test]
fn differences_go_into_an_atlas_and_leave_the_rest_as_it_was() {
    let sandbox = sandbox();
    let before = bytes_below(&sandbox.path("atlas"));
    let command = format!(
        "{RUN} --model other --base model --base-id {MODEL} --out out.json --into atlas --target mt --method full --parameters 128 --json"
    );
    let result = json(sandbox.run(&command).done().stdout.as_bytes());
    let run = result["run"].as_str().unwrap();
    let path = format!("data/adaptation/neuroglot__demo-2.7m/full-{run}.parquet");
    assert_eq!(result["table"], path);
    sandbox.run("verify atlas").done();
    let after = bytes_below(&sandbox.path("atlas"));
    let changed: Vec<_> = after
        .iter()
        .filter(|(file, bytes)| before.get(*file) != Some(bytes))
        .map(|(file, _)| file.display().to_string())
        .collect();
    assert_eq!(changed, ["README.md", &path, "manifest.json"]);
    let card = String::from_utf8(after[FilePath::new("README.md")].clone()).unwrap();
    assert!(card.contains("data/adaptation/**/*.parquet"), "{card}");
    let atlas = Atlas::open(&sandbox.path("atlas")).unwrap();
    let rows = &atlas.adaptation["neuroglot__demo-2.7m"];
    let differences = result["differences"].as_array().unwrap();
    assert_eq!((rows.len(), differences.len()), (9, 9));
    for (row, difference) in rows.iter().zip(differences) {
        assert_eq!(
            (row.metric.as_str(), row.language.to_string().as_str()),
            (difference["metric"].as_str().unwrap(), difference["language"].as_str().unwrap())
        );
        assert_eq!(
            vec![row.before, row.after, row.difference, row.stderr.unwrap()],
            ["before", "after", "difference", "stderr"].map(|name| difference[name].as_f64().unwrap()).to_vec()
        );
        assert_eq!(
            (row.target.to_string().as_str(), row.parameters, row.units, row.model.as_str()),
            ("mlt_Latn", Some(128), 12, MODEL)
        );
    }
    // Another language of the same run stands beside these.
    let mut more = row("mlt_Latn", "deu_Latn", 0.5, Some(0.1));
    (more.run, more.method) = (rows[0].run.clone(), "full".to_owned());
    add_adaptation(&sandbox.path("atlas"), vec![more]).unwrap();
    assert_eq!(Atlas::open(&sandbox.path("atlas")).unwrap().adaptation["neuroglot__demo-2.7m"].len(), 10);
    for (file, bytes) in &after {
        sandbox.write(&format!("atlas/{}", file.display()), bytes);
    }
    // Again gives the same bytes.
    sandbox.run(&command).done();
    assert_eq!(bytes_below(&sandbox.path("atlas")), after);
}

#[test]
fn pages_say_of_adaptations_what_the_table_says() {
    let sandbox = sandbox();
    let rows = vec![
        row("mlt_Latn", "mlt_Latn", -0.5, Some(0.1)),
        row("mlt_Latn", "eng_Latn", 0.25, Some(0.03)),
        row("mlt_Latn", "fra_Latn", -0.01, Some(0.04)),
        // Another measure of the same task is in the table alone.
        AdaptationRow { metric: "nll".to_owned(), ..row("mlt_Latn", "mlt_Latn", -0.7, Some(0.1)) },
    ];
    let path = add_adaptation(&sandbox.path("atlas"), rows).unwrap();
    assert_eq!(path, "data/adaptation/neuroglot__demo-2.7m/subnetwork-0123456789abcdef.parquet");
    sandbox.run("site atlas --out site --locales fr").done();
    let folder = "site/neuroglot__demo-2.7m";
    for page in ["adaptation", "mlt_Latn"] {
        let twin = json(&sandbox.read(&format!("{folder}/{page}.json")));
        let adaptation = &twin["adaptation"];
        let rows = adaptation["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 1, "{adaptation}");
        let row = &rows[0];
        assert_eq!(
            [&row["before"], &row["after"], &row["difference"], &row["stderr"]].map(|n| n.as_f64().unwrap()).to_vec(),
            vec![2.0, 1.5, -0.5, 0.1]
        );
        assert!((row["elsewhere"].as_f64().unwrap() - 0.12).abs() < 1e-12);
        // √(0.03² + 0.04²) / 2 = 0.025
        assert!((row["elsewhere_stderr"].as_f64().unwrap() - 0.025).abs() < 1e-12);
        assert_eq!(
            (&row["worst"]["code"], &row["others"], &row["parameters"]),
            (&"eng_Latn".into(), &2.into(), &5000.into())
        );
        assert_eq!(
            adaptation["caption"],
            "Measures in the languages trained for: 1 better, 0 worse, 0 not told apart from no change."
        );
        assert_eq!(
            adaptation["elsewhere"],
            "Measures in other languages: 0 better, 1 worse, 1 not told apart from no change."
        );
        let html = String::from_utf8(sandbox.read(&format!("{folder}/{page}.html"))).unwrap();
        for text in
            ["−0.500 ± 0.100", "+0.120 ± 0.025", "+0.250 ± 0.030", "5,000 (0.2", "lower is better", "subnetwork"]
        {
            assert!(html.contains(text), "{page} without {text}");
        }
        let french = String::from_utf8(sandbox.read(&format!("site/fr/neuroglot__demo-2.7m/{page}.html"))).unwrap();
        assert!(french.contains("−0,500 ± 0,100") && french.contains("plus bas vaut mieux"), "{page} in French");
    }
    // Other languages were not trained for.
    assert_eq!(json(&sandbox.read(&format!("{folder}/eng_Latn.json")))["adaptation"], Value::Null);
}

#[test]
fn captions_are_true_at_the_edges() {
    let captions = |rows: Vec<AdaptationRow>| {
        let sandbox = sandbox();
        add_adaptation(&sandbox.path("atlas"), rows).unwrap();
        sandbox.run("site atlas --out site --locales en").done();
        let twin = json(&sandbox.read("site/neuroglot__demo-2.7m/adaptation.json"))["adaptation"].clone();
        let text = |name: &str| twin[name].as_str().unwrap().to_owned();
        (text("caption"), text("elsewhere"), twin["rows"].clone())
    };
    // The target alone, of one document.
    let (own, elsewhere, rows) = captions(vec![row("mlt_Latn", "mlt_Latn", -0.5, None)]);
    assert_eq!(own, "Measures in the languages trained for: 0 better, 0 worse, 1 not told apart from no change.");
    assert_eq!(elsewhere, "No other language was measured, so what was lost elsewhere is not known.");
    assert_eq!(
        (&rows[0]["elsewhere_text"], &rows[0]["worst"], &rows[0]["difference_text"]),
        (&"–".into(), &Value::Null, &"−0.500".into())
    );
    // Everything but the target; all of it gains.
    let (own, elsewhere, rows) =
        captions(vec![row("mlt_Latn", "eng_Latn", -0.5, Some(0.1)), row("mlt_Latn", "fra_Latn", -0.9, Some(0.1))]);
    assert_eq!(own, "No language that was trained for was measured, so what was won is not known.");
    assert_eq!(elsewhere, "Measures in other languages: 2 better, 0 worse, 0 not told apart from no change.");
    assert_eq!((&rows[0]["before_text"], &rows[0]["worst"]["code"]), (&"–".into(), &"eng_Latn".into()));
    // No change at all is no gain, and exactly twice the error is not beyond it.
    let higher = AdaptationRow {
        better: AdaptationRow::HIGHER.to_owned(),
        metric: "acc".to_owned(),
        task: "belebele".to_owned(),
        ..row("mlt_Latn", "mlt_Latn", 0.5, Some(0.25))
    };
    let (own, _, rows) = captions(vec![row("mlt_Latn", "mlt_Latn", 0.0, Some(0.0)), higher]);
    assert_eq!(own, "Measures in the languages trained for: 0 better, 0 worse, 2 not told apart from no change.");
    assert_eq!(rows[1]["difference_text"], "0.000 ± 0.000");
    // A language that the atlas does not have is named by its code, without a link.
    let (_, _, rows) = captions(vec![row("ido_Latn", "ido_Latn", -0.5, Some(0.1))]);
    assert_eq!((&rows[0]["target"]["name"], &rows[0]["target"]["href"]), (&"ido_Latn".into(), &Value::Null));
}

#[test]
fn results_that_mean_nothing_are_refused_when_they_are_read() {
    let sandbox = sandbox();
    let refused = |rows: Vec<AdaptationRow>, wanted: &str| {
        let path = add_adaptation(&sandbox.path("atlas"), rows).map(|path| sandbox.path("atlas").join(path));
        let said = sandbox.run("verify atlas");
        assert_eq!(said.code, 1, "{}", said.text());
        assert!(said.text().contains(wanted), "{}", said.text());
        // Back to the atlas as it was.
        drop(path);
        for (file, bytes) in bytes_below(&FilePath::new(ROOT).join("atlas/demo-atlas")) {
            sandbox.write(&format!("atlas/{}", file.display()), bytes);
        }
        fs::remove_dir_all(sandbox.path("atlas/data/adaptation")).unwrap();
    };
    let good = row("mlt_Latn", "mlt_Latn", -0.5, Some(0.1));
    refused(
        vec![AdaptationRow { difference: 0.4, ..good.clone() }],
        "`difference` is not `after` minus `before` in row 0",
    );
    refused(
        vec![AdaptationRow { better: "sideways".to_owned(), ..good.clone() }],
        "column `better` is `sideways` in row 0",
    );
    refused(
        vec![AdaptationRow { stderr: Some(-1.0), ..good.clone() }],
        "column `stderr` is no standard error in row 0",
    );
    let error = add_adaptation(&sandbox.path("atlas"), vec![AdaptationRow { model: "else/where".to_owned(), ..good }])
        .unwrap_err();
    assert!(error.to_string().contains("has no model `else/where`"), "{error}");
    assert!(add_adaptation(&sandbox.path("atlas"), Vec::new()).unwrap_err().to_string().contains("no results"));
}

#[test]
fn an_atlas_takes_results_of_its_own_model_only() {
    let sandbox = sandbox();
    let refused = |code: i32, arguments: &str, wanted: &str| {
        let said = sandbox.run(&format!("{RUN} --out out.json {arguments}"));
        assert_eq!(said.code, code, "{arguments}: {}", said.stderr);
        assert!(said.stderr.contains(wanted), "{arguments}: {}", said.stderr);
    };
    let into = "--into atlas --target mt --method full";
    refused(2, &format!("--model other {into}"), "--into takes differences; give --base or --compare");
    refused(
        2,
        "--model other --base model --base-id neuroglot/demo-2.7m --into atlas",
        "--into needs --target and --method",
    );
    refused(1, &format!("--model other --base model {into}"), "has no model `model`");
    refused(
        1,
        &format!("--model model --base other --base-id {MODEL} {into}"),
        "has other weights than the one that was evaluated",
    );
    refused(2, "--model other --base", "--base names no model; name one, or give --delta");
    assert_eq!(
        files_below(&sandbox.path("")).iter().filter(|file| file.ends_with("out.json")).count(),
        0,
        "nothing was run"
    );
}

#[test]
fn a_delta_is_evaluated_as_the_checkpoint_that_it_makes() {
    let sandbox = sandbox();
    sandbox.run("adapt --model model --atlas atlas --language mt --corpus dir:sentences --document line --method subnetwork --tokens 512 --context 64 --lr 0.01 --out run").done();
    sandbox.run("apply run --model model --out applied").done();
    let said = sandbox
        .run(&format!("{RUN} --model model --model-id {MODEL} --delta run --base --out delta.json --into atlas --json"))
        .done();
    sandbox.run(&format!("{RUN} --model applied --out applied.json")).done();
    let read = |name: &str| Evaluation::read(&sandbox.path(name)).unwrap();
    let (delta, applied, base) = (read("delta.json"), read("applied.json"), read("delta.base.json"));
    assert_eq!(delta.reports, applied.reports);
    assert_ne!(delta.reports, base.reports);
    assert!(delta.parameters.delta.is_some() && base.parameters.delta.is_none());
    // The table says what the delta says of itself.
    let rows = Atlas::open(&sandbox.path("atlas")).unwrap().adaptation["neuroglot__demo-2.7m"].clone();
    assert!(json(said.stdout.as_bytes())["table"].as_str().unwrap().contains(&format!("subnetwork-{}", rows[0].run)));
    assert_eq!((rows[0].method.as_str(), rows[0].target.to_string().as_str()), ("subnetwork", "mlt_Latn"));
    assert!(rows[0].parameters.unwrap() > 0);
    // A delta whose weights another base has otherwise is refused.
    let device = candle_core::Device::Cpu;
    let mut tensors = candle_core::safetensors::load(sandbox.path("other/model.safetensors"), &device).unwrap();
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains("gate_proj")) {
        *tensor = (&*tensor * 0.5).unwrap();
    }
    candle_core::safetensors::save(&tensors, sandbox.path("other/model.safetensors")).unwrap();
    let said = sandbox.run(&format!("{RUN} --model other --delta run --out else.json"));
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("gate_proj"), "{}", said.stderr);
}
