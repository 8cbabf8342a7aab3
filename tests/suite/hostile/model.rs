//! Checkpoints: folders of a config, a tokenizer and weights, and GGUF files.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{Log, PROFILE, hostile_safetensors};
use crate::{
    gguf_parts::{self, Parts},
    harness::Sandbox,
};

#[test]
fn checkpoints_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let weights = sandbox.read("model/model.safetensors");
    let cuts = (1..10).map(|tenth| ("weights that end early", weights[..weights.len() * tenth / 10].to_vec()));
    for (name, bytes) in hostile_safetensors("model.norm.weight", "F32").into_iter().chain(cuts) {
        sandbox.write("model/model.safetensors", bytes);
        log.refused(&sandbox, name, PROFILE, "model/model.safetensors");
    }
    sandbox.remove("model/model.safetensors");
    for (name, index) in [
        ("an index that is no JSON", "{".to_owned()),
        ("an index that leads away", json!({ "weight_map": { "a": "../../secret.safetensors" } }).to_string()),
        ("an index to a folder", json!({ "weight_map": { "a": "." } }).to_string()),
        ("an index to itself", json!({ "weight_map": { "a": "model.safetensors.index.json" } }).to_string()),
        ("an index a million lists deep", "[".repeat(1_000_000)),
        ("an index without files", "{}".to_owned()),
    ] {
        sandbox.write("model/model.safetensors.index.json", index);
        log.refused(&sandbox, name, PROFILE, "model/model.safetensors.index.json");
    }
    log.done(30);
}

#[test]
fn configs_and_tokenizers_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let config = sandbox.read("model/config.json");
    for (field, value) in [
        ("vocab_size", json!(1u64 << 62)),
        ("hidden_size", json!(2_147_483_647)),
        ("num_hidden_layers", json!(32_000)),
        ("num_attention_heads", json!(0)),
        ("intermediate_size", json!(-48)),
        ("rms_norm_eps", json!("small")),
        ("max_position_embeddings", json!(1e300)),
        ("model_type", json!("../../llama")),
    ] {
        sandbox.config(field, value);
        // A size that could be one is held against the weights.
        log.refused(&sandbox, field, PROFILE, "model/");
        sandbox.write("model/config.json", &config);
    }
    for (name, bytes) in [
        ("a config a million lists deep", "[".repeat(1_000_000)),
        ("an empty config", String::new()),
        ("a config that is a word", "\"llama\"".to_owned()),
    ] {
        sandbox.write("model/config.json", bytes);
        log.refused(&sandbox, name, PROFILE, "model/config.json");
    }
    sandbox.write("model/config.json", &config);
    let whole = sandbox.read("model/tokenizer.json");
    let tokenizer: Value = serde_json::from_slice(&whole).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut tokenizer = tokenizer.clone();
        change(&mut tokenizer);
        tokenizer.to_string().into_bytes()
    };
    for (name, bytes) in [
        ("an empty tokenizer", Vec::new()),
        ("half a tokenizer", whole[..whole.len() / 2].to_vec()),
        ("a tokenizer a million lists deep", "[".repeat(1_000_000).into_bytes()),
        ("a tokenizer that is a number", b"7".to_vec()),
        // Found by fuzzing: the crate panics where a decoder is no JSON.
        (
            "a decoder that is no JSON",
            String::from_utf8(whole.clone())
                .unwrap()
                .replacen("\"decoder\":", "\"decoder\":{7:1},\"was\":", 1)
                .into_bytes(),
        ),
        ("a tokenizer of an unknown kind", with(&|tokenizer| tokenizer["model"]["type"] = "Evil".into())),
        ("a token with the last of all ids", with(&|tokenizer| tokenizer["model"]["vocab"]["a"] = u32::MAX.into())),
        ("a token with a negative id", with(&|tokenizer| tokenizer["model"]["vocab"]["a"] = (-1).into())),
        (
            "merges of tokens that are not there",
            with(&|tokenizer| tokenizer["model"]["merges"] = json!(["no such", "q q"])),
        ),
        (
            "a pattern that is none",
            with(&|tokenizer| {
                tokenizer["pre_tokenizer"] =
                    json!({ "type": "Split", "pattern": { "Regex": "(" }, "behavior": "Isolated", "invert": false });
            }),
        ),
    ] {
        sandbox.write("model/tokenizer.json", bytes);
        log.refused(&sandbox, name, PROFILE, "model/tokenizer.json");
    }
    log.done(20);
}

#[test]
fn gguf_files_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-gguf/scaled.gguf");
    let whole = fs::read(path).unwrap();
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::read(&whole);
        change(&mut parts);
        parts.bytes()
    };
    let first = Parts::read(&whole).tensors[0].name.clone();
    let place = |change: &dyn Fn(&mut gguf_parts::Place)| with(&|parts| change(parts.tensor(&first)));
    // A list in a list, as deep as a hundred thousand.
    let deep: Vec<u8> = (0..100_000).fold(Vec::new(), |mut bytes, _| {
        bytes.extend(gguf_parts::LIST.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes
    });
    let mut cases = vec![
        ("only the signature", b"GGUF".to_vec()),
        ("a version of the future", with(&|parts| parts.version = 99)),
        ("2^64 - 1 tensors", with(&|parts| parts.counts = Some((u64::MAX, 1)))),
        ("2^63 entries", with(&|parts| parts.counts = Some((1, 1 << 63)))),
        ("2^32 tensors", with(&|parts| parts.counts = Some((1 << 32, parts.metadata.len() as u64)))),
        (
            "a text of 2^63 bytes",
            with(&|parts| parts.set("general.name", gguf_parts::TEXT, (1u64 << 63).to_le_bytes())),
        ),
        (
            "a list of 2^61 numbers",
            with(&|parts| parts.set("general.tags", gguf_parts::LIST, gguf_parts::list(gguf_parts::U32, 1 << 61, &[]))),
        ),
        (
            "a list of 2^40 texts",
            with(&|parts| {
                parts.set("general.tags", gguf_parts::LIST, gguf_parts::list(gguf_parts::TEXT, 1 << 40, &[]));
            }),
        ),
        ("lists a hundred thousand deep", with(&|parts| parts.set("general.tags", gguf_parts::LIST, deep.clone()))),
        ("a value of an unknown type", with(&|parts| parts.set("general.name", 77, [0; 8]))),
        (
            "a key that stands twice",
            with(&|parts| {
                let twice = parts.metadata[0].clone();
                parts.metadata.push(twice);
            }),
        ),
        ("an alignment of nothing", with(&|parts| parts.set("general.alignment", gguf_parts::U32, 0u32.to_le_bytes()))),
        (
            "an alignment of 2^31",
            with(&|parts| parts.set("general.alignment", gguf_parts::U32, (1u32 << 31).to_le_bytes())),
        ),
        ("a tensor of 2^62 values", place(&|place| place.dimensions = vec![1 << 31, 1 << 31])),
        ("a tensor of 2^64 values", place(&|place| place.dimensions = vec![1 << 32, 1 << 32])),
        ("a tensor of no values", place(&|place| place.dimensions = vec![0])),
        ("a tensor of a hundred dimensions", place(&|place| place.dimensions = vec![1; 100])),
        ("a tensor behind the end", place(&|place| place.offset = 1 << 40)),
        ("a tensor at the end of all numbers", place(&|place| place.offset = u64::MAX - 31)),
        ("a tensor between two places", place(&|place| place.offset = 7)),
        ("a tensor of an unknown format", place(&|place| place.format = 4_000_000_000)),
        (
            "two tensors of one name",
            with(&|parts| {
                let twice = parts.tensors[0].clone();
                parts.tensors.push(twice);
            }),
        ),
        ("layers without end", with(&|parts| parts.set("llama.block_count", gguf_parts::U32, u32::MAX.to_le_bytes()))),
        (
            "neurons without end",
            with(&|parts| parts.set("llama.feed_forward_length", gguf_parts::U32, u32::MAX.to_le_bytes())),
        ),
    ];
    cases.extend((1..16).map(|part| ("a file that ends early", whole[..whole.len() * part / 16].to_vec())));
    for (name, bytes) in cases {
        sandbox.write("m.gguf", bytes);
        log.refused(&sandbox, name, &PROFILE.replace("--model model", "--model m.gguf"), "m.gguf");
    }
    log.done(35);
}
