//! Deltas, and records to evaluate on.

use serde_json::{Value, json};

use super::{Log, hostile_safetensors, limited, parquet, safetensors};
use crate::harness::{Sandbox, prose};

#[test]
fn deltas_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    sandbox.write("text/mlt_Latn.txt", prose(0, 60));
    let sandbox = sandbox.with_atlas();
    let run = "adapt --model model --atlas atlas --language mlt --corpus dir:text --tokens 96 --context 16 --lr 3e-2 --out run";
    sandbox.run(run).done();
    let file = "run/delta.safetensors";
    let whole = sandbox.read(file);
    let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header: Value = serde_json::from_slice(&whole[8..end]).unwrap();
        change(&mut header);
        safetensors(header.to_string(), &whole[end..])
    };
    let said = |key: &'static str, value: Value| with(&|header| header["__metadata__"][key] = value.clone());
    let neurons = |values: &[u32]| {
        let header: Value = serde_json::from_slice(&whole[8..end]).unwrap();
        let from = header["layers.0.mlp.neurons"]["data_offsets"][0].as_u64().unwrap() as usize;
        let mut bytes = whole.clone();
        for (value, to) in values.iter().zip(bytes[end + from..].chunks_exact_mut(4)) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    };
    let mut cases = hostile_safetensors("layers.0.mlp.gate", "F32");
    cases.extend([
        ("a head a million lists deep", said("head", json!("[".repeat(1_000_000)))),
        ("hashes that are no list", said("sha256", json!("7"))),
        ("hashes of nothing", said("base_sha256", json!("{}"))),
        ("no hashes", with(&|header| drop(header["__metadata__"].as_object_mut().unwrap().remove("sha256")))),
        ("a newer version", said("version", json!("2"))),
        ("a neuron beyond the model", neurons(&[4_000_000_000])),
        (
            "layer 2^64 - 1",
            with(&|header| {
                let gate = header["layers.0.mlp.gate"].take();
                header.as_object_mut().unwrap().remove("layers.0.mlp.gate");
                header["layers.18446744073709551615.mlp.gate"] = gate;
            }),
        ),
        (
            "a tensor that leads away",
            with(&|header| {
                let gate = header["layers.0.mlp.gate"].take();
                header.as_object_mut().unwrap().remove("layers.0.mlp.gate");
                header["tensor.../../../../etc/passwd"] = gate;
            }),
        ),
        ("rows of another width", with(&|header| header["layers.0.mlp.gate"]["shape"] = json!([1, 1]))),
        ("rows in another format", with(&|header| header["layers.0.mlp.gate"]["dtype"] = json!("F64"))),
    ]);
    cases.extend((1..8).map(|eighth| ("a delta that ends early", whole[..whole.len() * eighth / 8].to_vec())));
    for (name, bytes) in cases {
        sandbox.write(file, bytes);
        log.refused(&sandbox, name, "apply run --model model --out applied", file);
    }
    sandbox.write(file, whole.clone());
    limited(&sandbox, "apply run --model model --out applied").done();
    log.done(35);
}

#[test]
fn records_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let evaluate = |file: &str| format!("evaluate --model model --task belebele --data {file} --out new.json");
    let texts = |text: &str| {
        std::sync::Arc::new(arrow::array::StringArray::from(vec![text; 1 << 16])) as arrow::array::ArrayRef
    };
    let bomb = parquet("none", vec![("question", texts(&"a".repeat(1000)))], 100);
    assert!(bomb.len() < 4 << 20);
    let whole = parquet("none", vec![("question", texts("Why?"))], 1);
    let cuts = (1..4).map(|quarter| ("a table that ends early", whole[..whole.len() * quarter / 4].to_vec()));
    let cases = [
        ("no table", Vec::new()),
        ("a table of zeros", vec![0; 4096]),
        ("six gigabytes of questions", bomb),
        ("no answers", whole.clone()),
        (
            "no text",
            parquet(
                "none",
                vec![("question", std::sync::Arc::new(arrow::array::BinaryArray::from(vec![&b"\xff"[..]])) as _)],
                1,
            ),
        ),
    ];
    for (name, bytes) in cases.into_iter().chain(cuts) {
        sandbox.write("eng_Latn.parquet", bytes);
        log.refused(&sandbox, name, &evaluate("eng_Latn.parquet"), "eng_Latn.parquet");
    }
    for (name, text) in [
        ("a list", "[1]\n".to_owned()),
        ("an object a million lists deep", format!("{{\"question\":{}\n", "[".repeat(1_000_000))),
        ("a number for a question", "{\"question\":1}\n".to_owned()),
        ("a line without end", "x".repeat(80 << 20)),
    ] {
        sandbox.write("eng_Latn.jsonl", text);
        log.refused(&sandbox, name, &evaluate("eng_Latn.jsonl"), "eng_Latn.jsonl");
    }
    for (name, text) in [("a row of one cell", "a\tb\nc\n"), ("no text", "question\n\u{0}\n")] {
        sandbox.write("eng_Latn.tsv", text);
        log.refused(&sandbox, name, &evaluate("eng_Latn.tsv"), "eng_Latn.tsv");
    }
    log.done(14);
}
