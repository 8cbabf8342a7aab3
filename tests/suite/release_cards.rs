//! Cards: what a person reads first of a release, and what the Hub and other programs read of it.

use std::process::Command;

use neuroglot::{
    atlas::{Atlas, Place},
    release::{AdaptedModel, Artefact, Measurement, model_card},
};
use serde_json::Value;

use crate::{demo::committed, harness::Sandbox, readers::python};

/// The front matter of a card as `PyYAML`, which the Hub's readers use, understands it.
fn front_matter(card: &str) -> Option<Value> {
    let python = python("yaml")?;
    let script = "import json, sys, yaml\nprint(json.dumps(yaml.safe_load(sys.stdin.read().split('---\\n')[1])))";
    let mut child = Command::new(python)
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), card.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{card}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// The blocks of a language in a card.
fn blocks<'a>(card: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    card.split(start.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

fn released() -> String {
    Atlas::open(&committed()).unwrap().card(Place { repo: "atlas/demo", tag: "v1.2.0" })
}

#[test]
fn a_card_says_what_is_in_the_release_how_to_load_it_and_what_nobody_has_shown() {
    let card = released();
    for wanted in [
        "# Neuron atlas of neuroglot/demo-2.7m",
        "serve each of 132 languages",
        "6 layers of 768 neurons",
        "132 of 132 languages have the",
        "| `neurons` |",
        "load_dataset(\"atlas/demo\", \"neurons\", revision=\"v1.2.0\", split=\"train\")",
        "neuroglot pull atlas/demo --revision v1.2.0",
        "two halves of the documents agree with a Jaccard of",
        "Ablation: none in this release.",
        "Control: no random sets are in this release",
        "Activation is not cause",
        "arXiv 2402.16438",
        "CC0-1.0",
    ] {
        // A language with few sentences may have fewer tokens than asked for.
        assert!(card.contains(wanted) || wanted.starts_with("132 of"), "{wanted}: {card}");
    }
    // Ten lines of code, as promised.
    let mask = blocks(&card, "python")[1];
    let code =
        mask.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("import") && !line.starts_with("from"));
    assert!(code.count() <= 10, "{mask}");
    let Some(front) = front_matter(&card) else { return };
    assert_eq!(front["license"], "cc0-1.0");
    assert_eq!(front["size_categories"][0], "n<1K");
    let languages = front["language"].as_array().unwrap();
    // Norwegian is a word and not a truth value.
    assert!(languages.iter().all(Value::is_string) && languages.contains(&"mt".into()), "{languages:?}");
    let configs = front["configs"].as_array().unwrap();
    let names: Vec<&str> = configs.iter().map(|config| config["config_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["neurons", "counts", "models", "languages", "runs", "coverage", "overlap", "stability"]);
    assert_eq!(configs.iter().filter(|config| config["default"] == true).count(), 1);
}

#[test]
fn the_mask_snippet_of_a_card_runs_in_its_folder() {
    let Some(python) = python("numpy, safetensors") else { return };
    let card = std::fs::read_to_string(committed().join("README.md")).unwrap();
    let snippet = blocks(&card, "python")[1];
    let run = Command::new(python).args(["-c", snippet]).current_dir(committed()).output().unwrap();
    assert!(run.status.success(), "{snippet}{}", String::from_utf8_lossy(&run.stderr));
    let layers = String::from_utf8(run.stdout).unwrap();
    assert!((0..6).all(|layer| layers.contains(&format!("{layer} ["))), "{layers}");
}

#[test]
fn strange_names_do_not_break_a_card() {
    let sandbox = Sandbox::new();
    let strange = "o'\"#:{{x}}/m'\"--- %";
    sandbox.profile(&[("--model-id", strange), ("--model-licence", "no")]).done();
    sandbox.run("identify out --out atlas --top-rate 0.1 --resamples 20 --licence my-own").done();
    let card = String::from_utf8(sandbox.read("atlas/README.md")).unwrap();
    assert!(card.contains(strange), "{card}");
    let Some(front) = front_matter(&card) else { return };
    assert_eq!(front["pretty_name"].as_str().unwrap(), format!("Neuron atlas of {strange}"));
    assert_eq!((front["license"].as_str(), front["license_name"].as_str()), (Some("other"), Some("my-own")));
}

fn adapted(artefact: Artefact, measurements: Vec<Measurement>) -> AdaptedModel {
    AdaptedModel {
        artefact,
        base: "HuggingFaceTB/SmolLM2-135M".to_owned(),
        base_revision: Some("93efa2f097d58c2a74874c7e644dbc9b0cee75a2".to_owned()),
        licence: Some("Apache-2.0".to_owned()),
        language: "nob_Latn".parse().unwrap(),
        method: "subnetwork".to_owned(),
        trained: 1_345_000,
        parameters: 134_500_000,
        atlas: Some("atlas/demo@0123456789012345678901234567890123456789".to_owned()),
        corpus: "fineweb2:HuggingFaceFW/fineweb-2@0123456789012345678901234567890123456789".to_owned(),
        tokens: 5_000_000,
        run: "0123456789abcdef".to_owned(),
        measurements,
        remarks: vec!["Trained on web pages.".to_owned()],
        repo: "atlas/smollm2-nob".to_owned(),
        tag: "v1.0.0".to_owned(),
    }
}

fn measured(language: &str) -> Measurement {
    Measurement {
        task: "perplexity".to_owned(),
        language: language.parse().unwrap(),
        metric: "bits per byte".to_owned(),
        before: 1.5,
        after: 1.25,
        standard_error: Some(0.0125),
    }
}

#[test]
fn the_card_of_an_adapted_model_names_its_base_its_licence_and_what_was_measured() {
    let card = model_card(&adapted(Artefact::Checkpoint, vec![measured("nob_Latn"), measured("mlt_Latn")]));
    for wanted in [
        "# SmolLM2-135M adapted to Norwegian Bokmål",
        "1,345,000 of 134,500,000 (1.00 %)",
        "| perplexity | `nob_Latn` | bits per byte | 1.500 | 1.250 | -0.250 | ± 0.013 |",
        "AutoModelForCausalLM.from_pretrained(\"atlas/smollm2-nob\", revision=\"v1.0.0\")",
        "at `93efa2f097d58c2a74874c7e644dbc9b0cee75a2`",
        "stands under the model's licence: Apache-2.0",
        "arXiv 2510.13580",
    ] {
        assert!(card.contains(wanted), "{wanted}: {card}");
    }
    assert!(!card.contains("was not measured") && !card.contains("Nothing was measured"), "{card}");
    let one = model_card(&adapted(Artefact::Checkpoint, vec![measured("nob_Latn")]));
    assert!(one.contains("What the model forgot in other languages was not measured."), "{one}");
    let Some(front) = front_matter(&card) else { return };
    assert_eq!(front["base_model"], "HuggingFaceTB/SmolLM2-135M");
    assert_eq!(front["base_model_relation"], "finetune");
    assert_eq!((&front["language"][0], &front["license"]), (&"nb".into(), &"apache-2.0".into()));
    assert_eq!(
        (&front["library_name"], &front["datasets"][0]),
        (&"transformers".into(), &"HuggingFaceFW/fineweb-2".into())
    );
}

#[test]
fn the_card_of_a_delta_says_how_it_is_put_on_its_base_and_that_nothing_was_measured() {
    let delta =
        AdaptedModel { licence: None, atlas: None, corpus: "dir:texts".to_owned(), ..adapted(Artefact::Delta, vec![]) };
    let card = model_card(&delta);
    for wanted in [
        "neuroglot apply atlas/smollm2-nob@v1.0.0 --model HuggingFaceTB/SmolLM2-135M@93efa2f0",
        "Nothing was measured",
        "licence is not recorded here",
        "| neurons named by | no atlas |",
    ] {
        assert!(card.contains(wanted), "{wanted}: {card}");
    }
    let Some(front) = front_matter(&card) else { return };
    assert_eq!(front["base_model_relation"], "adapter");
    assert!(front["license"].is_null() && front["library_name"].is_null() && front["datasets"].is_null(), "{front}");
}
