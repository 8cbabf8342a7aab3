//! GGUF files: what they give is what the Hugging Face folder gives that they were made from, and what is damaged, hostile or not
//! understood is refused in words. The files are of `tests/oracles/tiny_gguf.py`.

use std::{collections::HashMap, fs, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use insta::assert_snapshot;
use neuroglot::{
    checkpoint::Checkpoint,
    model::{Decoder, Path, Unobserved, family},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    gguf_parts::{self, Parts},
    harness::Sandbox,
    tensors::{floats, largest_difference, tally},
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn gguf(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(&format!("tiny-gguf/{name}.gguf"))).unwrap()
}

fn folder(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(&format!("tiny-llama/{name}"))).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    crate::tensors::fixture(&fixture(name))
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    floats(&checkpoint.tensor(name, DType::F32, &Device::Cpu).unwrap())
}

fn logits(checkpoint: &Checkpoint, ids: &Tensor) -> Tensor {
    let decoder = Decoder::load(checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap();
    decoder.logits(&crate::tensors::ids(ids), &mut Unobserved).unwrap()
}

fn ids(checkpoint: &Checkpoint, vocabulary: usize, text: &str) -> Vec<u32> {
    let tokenizer = checkpoint.tokenizer(vocabulary).unwrap();
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

// What a file gives.

#[test]
fn a_file_gives_the_spec_the_weights_and_the_logits_of_the_folder_that_it_was_made_from() {
    for name in ["scaled", "biased", "half"] {
        let (file, folder) = (gguf(name), folder(name));
        let (theirs, own) = (family::read(&folder).unwrap(), family::read(&file).unwrap());
        assert_eq!(own, theirs, "{name}");
        file.check(&own.tensors(), |_| false).unwrap();
        for need in theirs.tensors() {
            assert_eq!(values(&file, &need.name), values(&folder, &need.name), "{name}: {}", need.name);
        }
        let ids = &tensors(&format!("tiny-llama/{name}/reference.safetensors"))["input_ids"];
        assert_eq!(floats(&logits(&file, ids)), floats(&logits(&folder, ids)), "{name}");
    }
}

#[test]
fn every_architecture_gives_the_spec_the_weights_and_the_logits_of_its_folder() {
    for name in ["gemma-tanh", "gemma2", "gemma3-text", "mistral-nemo", "qwen2-tied", "qwen3-tied"] {
        let sandbox = Sandbox::empty();
        sandbox.model(fixture(&format!("families/{name}")).to_str().unwrap());
        if name.starts_with("gemma2") || name.starts_with("gemma3") {
            // What it is in the fixtures, GGUF cannot say.
            sandbox.config("query_pre_attn_scalar", 16);
        }
        let (file, folder) = (gguf(name), Checkpoint::open(&sandbox.path("model")).unwrap());
        let (own, theirs) = (family::read(&file).unwrap(), family::read(&folder).unwrap());
        assert_eq!(own, theirs, "{name}");
        file.check(&own.tensors(), |_| false).unwrap();
        for need in theirs.tensors() {
            let (found, wanted) = (values(&file, &need.name), values(&folder, &need.name));
            if name.starts_with("gemma") && need.name.ends_with("norm.weight") {
                let largest = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(largest <= f64::from(f32::EPSILON), "{name}: {}", need.name);
            } else {
                assert_eq!(found, wanted, "{name}: {}", need.name);
            }
        }
        let ids = &tensors(&format!("families/{name}/reference.safetensors"))["input_ids"];
        let difference = largest_difference(&logits(&file, ids), &logits(&folder, ids));
        assert!(difference <= if name.starts_with("gemma") { 1e-5 } else { 0.0 }, "{name}: {difference}");
    }
}

#[test]
fn a_file_gives_the_token_ids_of_the_folder_that_it_was_made_from() {
    let text = "The sea, a stone!\nOf limestone: the bell's \"lime\"? </s><s> no";
    assert_eq!(ids(&gguf("scaled"), 64, text), ids(&folder("scaled"), 64, &text.replace('"', "")));
}

#[test]
fn a_profile_of_a_file_has_the_counts_of_its_folder_and_says_what_it_was() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.gguf", fs::read(fixture("tiny-gguf/scaled.gguf")).unwrap());
    sandbox.write("tiny-q8.gguf", fs::read(fixture("tiny-gguf/scaled-q8_0.gguf")).unwrap());
    sandbox.profile(&[("--model-id", "tiny")]).done();
    sandbox.profile(&[("--model", "tiny.gguf"), ("--out", "gguf")]).done();
    sandbox.profile(&[("--model", "tiny-q8.gguf"), ("--out", "q8")]).done();
    let head = |out: &str| -> Value { serde_json::from_slice(&sandbox.read(&format!("{out}/profile.json"))).unwrap() };
    let (folder, file, q8) = (head("out"), head("gguf"), head("q8"));
    assert_eq!(file["model"], folder["model"]);
    assert_eq!(q8["model"]["id"], "tiny-q8");
    assert_eq!(q8["model"]["dtype"], "Q8_0 + F32");
    let hash = |head: &Value, of: &str| head["parameters"]["hashes"][of].clone();
    assert_eq!(hash(&file, "config"), hash(&q8, "config"), "however the weights are stored");
    assert_eq!(hash(&file, "tokenizer"), hash(&q8, "tokenizer"));
    let sha256 = neuroglot::output::sha256_file(&sandbox.path("tiny-q8.gguf")).unwrap();
    assert_eq!(hash(&q8, "weights"), json!({ "tiny-q8.gguf": sha256 }));
    let counts = |out: &str| {
        let folder = neuroglot::profile::ProfileFolder::open(&sandbox.path(out)).unwrap();
        let profiles = folder.languages().unwrap().into_iter().map(|language| folder.read(language).unwrap());
        profiles.map(|profile| (profile.coverage, profile.tally.active)).collect::<Vec<_>>()
    };
    assert_eq!(counts("gguf"), counts("out"));
}

#[test]
fn quantised_weights_give_the_logits_that_transformers_gives_for_their_values() {
    let ids = &tensors("tiny-llama/scaled/reference.safetensors")["input_ids"];
    let wanted = &tensors("tiny-gguf/scaled-q8_0.safetensors")["logits"];
    let difference = largest_difference(&logits(&gguf("scaled-q8_0"), ids), wanted);
    assert!(difference < 1e-4, "logits differ by {difference}");
}

#[test]
fn every_number_format_is_dequantised_as_the_gguf_package_does_it() {
    let (file, reference) = (gguf("formats"), tensors("tiny-gguf/formats.safetensors"));
    assert_eq!(reference.len(), 13);
    for (name, wanted) in reference {
        let found = file.tensor(&name, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(found.dims(), wanted.dims());
        // Each value is a product and a sum in f32, whose rounding depends on whether they are fused.
        let largest = floats(&wanted).into_iter().map(f64::abs).fold(0.0, f64::max);
        let difference = f64::from(largest_difference(&found, &wanted));
        assert!(difference <= 2e-7 * largest, "{name}: {difference} of {largest}");
    }
}

#[test]
fn gemma_3_gives_the_logits_of_transformers_and_its_norms_come_back_from_one_plus_w() {
    let (file, reference) = (gguf("gemma3"), tensors("tiny-gguf/gemma3.safetensors"));
    let made_from = TempDir::new().unwrap();
    fs::copy(fixture("tiny-gguf/gemma3.json"), made_from.path().join("config.json")).unwrap();
    fs::copy(fixture("tiny-gguf/gemma3.safetensors"), made_from.path().join("model.safetensors")).unwrap();
    let theirs = family::read(&Checkpoint::open(made_from.path()).unwrap()).unwrap();
    assert_eq!(family::read(&file).unwrap(), theirs);
    for need in theirs.tensors() {
        let (found, wanted) = (file.tensor(&need.name, DType::F32, &Device::Cpu).unwrap(), &reference[&need.name]);
        if need.name.ends_with("norm.weight") {
            // 1 + w was rounded to 24 bits when the file was made: half a step of numbers up to 2.
            assert!(largest_difference(&found, wanted) <= f32::EPSILON, "{}", need.name);
        } else {
            assert_eq!(floats(&found), floats(wanted), "{}", need.name);
        }
    }
    let difference = largest_difference(&logits(&file, &reference["input_ids"]), &reference["logits"]);
    assert!(difference < 1e-4, "logits differ by {difference}");
}

#[test]
fn the_tokenizers_give_the_ids_of_the_programs_that_the_files_were_made_with() {
    let recorded: Value = serde_json::from_slice(&fs::read(fixture("tiny-gguf/tokens.json")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(recorded["texts"].clone()).unwrap();
    assert!(texts.len() >= 40);
    for (name, wanted) in recorded["ids"].as_object().unwrap() {
        let vocabulary = if name.starts_with("spm") { 1500 } else { 702 };
        let tokenizer = gguf(name).tokenizer(vocabulary).unwrap();
        let wanted: Vec<Vec<u32>> = serde_json::from_value(wanted.clone()).unwrap();
        for (text, wanted) in texts.iter().zip(&wanted) {
            let found = tokenizer.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(found.get_ids(), wanted, "{name}: {text:?}: {:?}", found.get_tokens());
        }
    }
}

#[test]
fn tokens_decode_to_the_text_that_they_came_from() {
    for (name, vocabulary) in [("bpe-llama-bpe", 702), ("spm", 1500), ("spm-gemma", 1500)] {
        let tokenizer = gguf(name).tokenizer(vocabulary).unwrap();
        for text in ["It-temp illum, 12.", "  two  spaces", "日本語 and ქართული\n"] {
            let ids = tokenizer.encode_fast(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text, "{name}");
        }
    }
}

// What is refused. The file is the one of the tiny Llama checkpoint, with something changed.

/// `profile` of a file that was changed as a whole.
fn refused_bytes(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.gguf", change(fs::read(fixture("tiny-gguf/scaled.gguf")).unwrap()));
    let said = sandbox.profile(&[("--model", "tiny.gguf")]);
    assert_ne!(said.code, 0, "{}", said.text());
    assert!(said.stdout.is_empty(), "{}", said.stdout);
    sandbox.holds_nothing_half_written();
    said.text()
}

/// `profile` of a file one part of which was changed.
fn refused(change: impl FnOnce(&mut Parts)) -> String {
    refused_bytes(|bytes| {
        let mut parts = Parts::read(&bytes);
        change(&mut parts);
        parts.bytes()
    })
}

fn cut(length: usize) -> String {
    refused_bytes(|bytes| bytes[..length].to_vec())
}

#[test]
fn taking_a_file_apart_and_together_changes_nothing() {
    for name in ["scaled", "scaled-q8_0", "spm-gemma", "bpe-tekken"] {
        let bytes = fs::read(fixture(&format!("tiny-gguf/{name}.gguf"))).unwrap();
        assert!(Parts::read(&bytes).bytes() == bytes, "{name}");
    }
}

#[test]
fn a_file_that_does_not_begin_as_gguf_does_is_refused() {
    assert_snapshot!(refused_bytes(|bytes| [b"GGML", &bytes[4..]].concat()), @r"
    exit code 1
    error: tiny.gguf: is broken: it does not begin with `GGUF`; this is no GGUF file
    ");
    assert_snapshot!(refused_bytes(|_| Vec::new()), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 0 bytes and its header asks for 4; download it again
    ");
}

#[test]
fn a_gguf_file_is_known_by_its_beginning_whatever_its_name() {
    let sandbox = Sandbox::new();
    sandbox.write("weights", fs::read(fixture("tiny-gguf/scaled.gguf")).unwrap());
    sandbox.profile(&[("--model", "weights")]).done();
}

#[test]
fn a_file_of_another_version_or_byte_order_is_refused() {
    assert_snapshot!(refused(|parts| parts.version = 1), @r"
    exit code 1
    error: tiny.gguf: is broken: it is of GGUF version 1; 2 and 3 are read, convert the model again with a current llama.cpp
    ");
    assert_snapshot!(refused(|parts| parts.version = 3u32.swap_bytes()), @r"
    exit code 1
    error: tiny.gguf: is broken: it is big-endian; convert the model again without --bigendian
    ");
}

#[test]
fn a_file_that_is_cut_short_is_refused_with_its_length() {
    assert_snapshot!(cut(20), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 20 bytes and its header asks for 24; download it again
    ");
    assert_snapshot!(cut(700), @r"
    exit code 1
    error: tiny.gguf: is broken: it declares 22 tensors and 20 keys, more than its 700 bytes can hold; download it again
    ");
    assert_snapshot!(cut(3000), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 3000 bytes and its header asks for 106048; download it again
    ");
    assert_snapshot!(cut(100_000), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 100000 bytes and its header asks for 106048; download it again
    ");
}

#[test]
fn counts_and_lengths_that_the_file_cannot_hold_are_refused_before_memory_is_asked_for() {
    assert_snapshot!(refused(|parts| parts.counts = Some((1 << 60, 20))), @r"
    exit code 1
    error: tiny.gguf: is broken: it declares 1152921504606846976 tensors and 20 keys, more than its 106048 bytes can hold; download it again
    ");
    assert_snapshot!(refused(|parts| parts.counts = Some((3, u64::MAX))), @r"
    exit code 1
    error: tiny.gguf: is broken: it declares 3 tensors and 18446744073709551615 keys, more than its 106048 bytes can hold; download it again
    ");
    let long = (1u64 << 62).to_le_bytes();
    assert_snapshot!(refused(|parts| parts.set("general.name", gguf_parts::TEXT, long)), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 106048 bytes and its header asks for 4611686018427388005; download it again
    ");
    let list = |kind| gguf_parts::list(kind, 1 << 62, &[]);
    assert_snapshot!(refused(|parts| parts.set("general.name", gguf_parts::LIST, list(gguf_parts::F32))), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 106048 bytes and its header asks for 18446744073709551615; download it again
    ");
    assert_snapshot!(refused(|parts| parts.set("general.name", gguf_parts::LIST, list(gguf_parts::TEXT))), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 106048 bytes and its header asks for 1099511627921; download it again
    ");
}

#[test]
fn values_that_gguf_does_not_have_are_refused() {
    assert_snapshot!(refused(|parts| parts.set("general.name", 13, [0; 8])), @r"
    exit code 1
    error: tiny.gguf: is broken: `general.name` is of type 13, which GGUF does not have; download it again
    ");
    let nested = gguf_parts::list(gguf_parts::LIST, 1, &gguf_parts::list(gguf_parts::U32, 1, &[0; 4]));
    assert_snapshot!(refused(|parts| parts.set("general.name", gguf_parts::LIST, nested)), @r"
    exit code 1
    error: tiny.gguf: is broken: `general.name` is a list of lists, which no model's metadata hold; download it again
    ");
    assert_snapshot!(refused(|parts| parts.set("general.alignment", gguf_parts::U32, [0; 4])), @r"
    exit code 1
    error: tiny.gguf: `general.alignment` is 0, but a power of two is wanted; the file is damaged or was written by another program than llama.cpp
    ");
    assert_snapshot!(refused(|parts| parts.set("general.alignment", gguf_parts::U32, 48u32.to_le_bytes())), @r"
    exit code 1
    error: tiny.gguf: `general.alignment` is 48, but a power of two is wanted; the file is damaged or was written by another program than llama.cpp
    ");
}

#[test]
fn what_is_there_twice_is_refused() {
    assert_snapshot!(refused(|parts| parts.metadata.push(parts.metadata[3].clone())), @r"
    exit code 1
    error: tiny.gguf: is broken: it has the key `llama.embedding_length` twice; download it again
    ");
    assert_snapshot!(refused(|parts| parts.tensors.push(parts.tensors[3].clone())), @r"
    exit code 1
    error: tiny.gguf: is broken: it has the tensor `blk.0.attn_norm.weight` twice; download it again
    ");
    let alias = |parts: &mut Parts| {
        let mut twin = parts.tensor("blk.0.ffn_up.weight").clone();
        twin.name = "model.layers.0.mlp.up_proj.weight".to_owned();
        parts.tensors.push(twin);
    };
    assert_snapshot!(refused(alias), @r"
    exit code 1
    error: tiny.gguf: is broken: its tensors `blk.0.ffn_up.weight` and `model.layers.0.mlp.up_proj.weight` are the same one; download it again
    ");
    assert_snapshot!(refused(|parts| parts.set("tokenizer.ggml.tokens", gguf_parts::LIST, gguf_parts::texts(&["a"; 64]))), @r"
    exit code 1
    error: tiny.gguf: its vocabulary is broken: the tokens 0 and 1 are the same; download the file again, or take another
    ");
}

#[test]
fn tensors_of_impossible_size_or_place_are_refused() {
    let up = "blk.0.ffn_up.weight";
    assert_snapshot!(refused(|parts| parts.tensor(up).dimensions = vec![1 << 33, 1 << 33]), @r"
    exit code 1
    error: tiny.gguf: is broken: tensor `blk.0.ffn_up.weight` has the dimensions [8589934592, 8589934592], which no tensor can have; download it again
    ");
    assert_snapshot!(refused(|parts| parts.tensor(up).dimensions = vec![0, 48]), @r"
    exit code 1
    error: tiny.gguf: is broken: tensor `blk.0.ffn_up.weight` has the dimensions [0, 48], which no tensor can have; download it again
    ");
    assert_snapshot!(refused(|parts| parts.tensor(up).dimensions = vec![1; 5]), @r"
    exit code 1
    error: tiny.gguf: is broken: tensor `blk.0.ffn_up.weight` has 5 dimensions; one to four are possible
    ");
    assert_snapshot!(refused(|parts| parts.tensor(up).dimensions = vec![1 << 40]), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 106048 bytes and its header asks for 4398046542912; download it again
    ");
    assert_snapshot!(refused(|parts| parts.tensor(up).offset = 1 << 40), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 106048 bytes and its header asks for 1099511636896; download it again
    ");
    assert_snapshot!(refused(|parts| parts.tensor(up).offset = u64::MAX - 31), @r"
    exit code 1
    error: tiny.gguf: is cut short: it has 106048 bytes and its header asks for 18446744073709551615; download it again
    ");
    assert_snapshot!(refused(|parts| parts.tensor(up).offset += 4), @r"
    exit code 1
    error: tiny.gguf: is broken: tensor `blk.0.ffn_up.weight` begins at byte 28836, which is no multiple of 32; download it again
    ");
}

#[test]
fn number_formats_that_are_not_read_are_refused() {
    let up = "blk.0.ffn_up.weight";
    assert_snapshot!(refused(|parts| parts.tensor(up).format = 23), @r"
    exit code 1
    error: tiny.gguf: tensor `blk.0.ffn_up.weight` is stored as IQ4_XS; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K are read. Take a file that is quantised in one of these
    ");
    assert_snapshot!(refused(|parts| parts.tensor(up).format = 99), @r"
    exit code 1
    error: tiny.gguf: tensor `blk.0.ffn_up.weight` is stored as type 99; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K are read. Take a file that is quantised in one of these
    ");
    // Q4_K: rows of 32 are no whole blocks of 256.
    assert_snapshot!(refused(|parts| parts.tensor(up).format = 12), @r"
    exit code 1
    error: tiny.gguf: is broken: tensor `blk.0.ffn_up.weight` has rows of 32, which are no whole blocks of Q4_K (256); download it again
    ");
}

#[test]
fn tensors_that_the_metadata_do_not_fit_are_refused_by_the_names_of_the_file() {
    assert_snapshot!(refused(|parts| parts.tensors.retain(|place| place.name != "blk.1.attn_q.weight")), @r"
    exit code 1
    error: tiny.gguf: has no tensor `blk.1.attn_q.weight`, but this config needs one of shape [64, 32]
    ");
    assert_snapshot!(refused(|parts| parts.tensor("blk.0.ffn_up.weight").dimensions = vec![48, 32]), @r"
    exit code 1
    error: tiny.gguf: tensor `blk.0.ffn_up.weight` is [32, 48], but this config needs [48, 32]
    ");
    assert_snapshot!(refused(|parts| parts.tensor("blk.1.ffn_up.weight").name = "blk.1.ffn_up_exps.weight".to_owned()), @r"
    exit code 1
    error: tiny.gguf: has no tensor `blk.1.ffn_up.weight`, but this config needs one of shape [48, 32]
    ");
    let gate = |parts: &mut Parts| {
        let mut gate = parts.tensor("output_norm.weight").clone();
        gate.name = "blk.0.attn_gate.weight".to_owned();
        parts.tensors.push(gate);
    };
    assert_snapshot!(refused(gate), @r"
    exit code 1
    error: tiny.gguf: holds tensor `blk.0.attn_gate.weight` [32], which this config has no place for; config and weights do not belong together
    ");
}

#[test]
fn a_file_that_holds_no_whole_model_is_refused() {
    assert_snapshot!(refused(|parts| parts.set("general.type", gguf_parts::TEXT, gguf_parts::text("adapter"))), @r"
    exit code 1
    error: tiny.gguf: `general.type` is `adapter`, so that it is no model by itself; give the file of the model
    ");
    assert_snapshot!(refused(|parts| parts.set("split.count", gguf_parts::U32, 3u32.to_le_bytes())), @r"
    exit code 1
    error: tiny.gguf: is one of 3 parts; join them with llama.cpp's `llama-gguf-split --merge` first
    ");
    assert_snapshot!(refused(|parts| parts.set("general.architecture", gguf_parts::TEXT, gguf_parts::text("mamba"))), @r"
    exit code 1
    error: tiny.gguf: `general.architecture` is `mamba`; read from GGUF are llama, qwen2, qwen3, gemma, gemma2, gemma3. Another model can be read from its Hugging Face folder, if its family is known
    ");
    assert_snapshot!(refused(|parts| parts.remove("general.architecture")), @r"
    exit code 1
    error: tiny.gguf: has no `general.architecture`, and nothing can stand in for it; take a complete file, or convert the model with a current llama.cpp
    ");
}

#[test]
fn metadata_that_are_missing_or_of_another_type_are_refused() {
    assert_snapshot!(refused(|parts| parts.remove("llama.embedding_length")), @r"
    exit code 1
    error: tiny.gguf: has no `llama.embedding_length`, and nothing can stand in for it; take a complete file, or convert the model with a current llama.cpp
    ");
    assert_snapshot!(refused(|parts| parts.set("llama.block_count", gguf_parts::TEXT, gguf_parts::text("two"))), @r"
    exit code 1
    error: tiny.gguf: `llama.block_count` is `two`, but one whole number is wanted; the file is damaged or was written by another program than llama.cpp
    ");
    assert_snapshot!(refused(|parts| parts.set("llama.attention.head_count", gguf_parts::F32, f32::NAN.to_le_bytes())), @r"
    exit code 1
    error: tiny.gguf: `llama.attention.head_count` is NaN, but one whole number is wanted; the file is damaged or was written by another program than llama.cpp
    ");
    assert_snapshot!(refused(|parts| parts.set("llama.attention.head_count", gguf_parts::U32, [0; 4])), @r"
    exit code 1
    error: tiny.gguf: `num_attention_heads` is 0, but a whole number above 0 and below 2^31 is wanted
    ");
    let per_layer = gguf_parts::list(gguf_parts::U32, 2, &[48, 0, 0, 0, 64, 0, 0, 0]);
    assert_snapshot!(refused(|parts| parts.set("llama.feed_forward_length", gguf_parts::LIST, per_layer)), @r"
    exit code 1
    error: tiny.gguf: `llama.feed_forward_length` is a list of 2, but one whole number is wanted; the file is damaged or was written by another program than llama.cpp
    ");
}

#[test]
fn metadata_that_change_the_arithmetic_and_are_not_understood_are_refused() {
    let number = |n: f32| n.to_le_bytes();
    assert_snapshot!(refused(|parts| parts.set("llama.logit_scale", gguf_parts::F32, number(0.5))), @r"
    exit code 1
    error: tiny.gguf: `llama.logit_scale` is 0.5, and no such key is known: it may change the model's arithmetic. Take the model's Hugging Face folder
    ");
    assert_snapshot!(refused(|parts| parts.set("llama.expert_count", gguf_parts::U32, 8u32.to_le_bytes())), @r"
    exit code 1
    error: tiny.gguf: `llama.expert_count` is 8, which changes the model's arithmetic and is not implemented; 0 is wanted
    ");
    assert_snapshot!(refused(|parts| parts.set("llama.rope.dimension_count", gguf_parts::U32, 8u32.to_le_bytes())), @r"
    exit code 1
    error: tiny.gguf: `llama.rope.dimension_count` is 8, which changes the model's arithmetic and is not implemented; the width of a head (16) is wanted
    ");
    assert_snapshot!(refused(|parts| parts.set("llama.rope.scaling.type", gguf_parts::TEXT, gguf_parts::text("yarn"))), @r"
    exit code 1
    error: tiny.gguf: `llama.rope.scaling.type` is `yarn`, which changes the model's arithmetic and is not implemented; `none` or `linear` with a factor is wanted
    ");
    let divisor = |parts: &mut Parts| {
        let at = parts.tensor("rope_freqs.weight").offset as usize;
        parts.data[at..at + 4].copy_from_slice(&number(1.5));
    };
    assert_snapshot!(refused(divisor), @r"
    exit code 1
    error: tiny.gguf: `rope_freqs.weight` is a tensor of divisors of the rotary frequencies, which changes the model's arithmetic and is not implemented; Llama 3's scaling is wanted
    ");
}

#[test]
fn inert_metadata_are_accepted() {
    let sandbox = Sandbox::new();
    let mut parts = Parts::read(&fs::read(fixture("tiny-gguf/scaled.gguf")).unwrap());
    parts.set("llama.expert_count", gguf_parts::U32, [0; 4]);
    parts.set("llama.attention.causal", 7, [1]);
    parts.set("quantize.imatrix.file", gguf_parts::TEXT, gguf_parts::text("notes"));
    // Not UTF-8, and nobody reads it.
    parts.set("general.description", gguf_parts::TEXT, gguf_parts::text(b"caf\xe9"));
    sandbox.write("tiny.gguf", parts.bytes());
    sandbox.profile(&[("--model", "tiny.gguf")]).done();
}

#[test]
fn tokenizers_that_cannot_be_rebuilt_with_certainty_are_refused() {
    let text = |key: &'static str, value: &'static str| {
        refused(move |parts| parts.set(key, gguf_parts::TEXT, gguf_parts::text(value)))
    };
    assert_snapshot!(text("tokenizer.ggml.model", "bert"), @r"
    exit code 1
    error: tiny.gguf: `tokenizer.ggml.model` is `bert`; a tokenizer can be made of `gpt2` (byte-level BPE) and `llama` (SentencePiece). Take the model's Hugging Face folder, which has its tokenizer.json
    ");
    assert_snapshot!(text("tokenizer.ggml.pre", "deepseek-llm"), @r"
    exit code 1
    error: tiny.gguf: `tokenizer.ggml.pre` is `deepseek-llm`; a tokenizer can be made of gpt-2, default, smollm, starcoder, refact, llama-bpe, llama3, llama-v3, falcon3, pixtral, smaug-bpe, qwen2, tekken. Take the model's Hugging Face folder, which has its tokenizer.json
    ");
    assert_snapshot!(refused(|parts| parts.remove("tokenizer.ggml.pre")), @r"
    exit code 1
    error: tiny.gguf: has no `tokenizer.ggml.pre`, and nothing can stand in for it; take a complete file, or convert the model with a current llama.cpp
    ");
    assert_snapshot!(refused(|parts| parts.remove("tokenizer.ggml.tokens")), @r"
    exit code 1
    error: tiny.gguf: has no `tokenizer.ggml.tokens`, and nothing can stand in for it; take a complete file, or convert the model with a current llama.cpp
    ");
    assert_snapshot!(refused(|parts| parts.remove("tokenizer.ggml.token_type")), @r"
    exit code 1
    error: tiny.gguf: has no `tokenizer.ggml.token_type`, and nothing can stand in for it; take a complete file, or convert the model with a current llama.cpp
    ");
    // SentencePiece without scores.
    assert_snapshot!(text("tokenizer.ggml.model", "llama"), @r"
    exit code 1
    error: tiny.gguf: has no `tokenizer.ggml.scores`, and nothing can stand in for it; take a complete file, or convert the model with a current llama.cpp
    ");
}

#[test]
fn a_broken_vocabulary_is_refused() {
    let merges = |merge: &'static str| {
        refused(move |parts| parts.set("tokenizer.ggml.merges", gguf_parts::LIST, gguf_parts::texts(&[merge])))
    };
    assert_snapshot!(merges("a b"), @r"
    exit code 1
    error: tiny.gguf: its vocabulary is broken: it merges `a` and `b`, but not all three are tokens; download the file again, or take another
    ");
    assert_snapshot!(merges("ab"), @r"
    exit code 1
    error: tiny.gguf: its vocabulary is broken: its merge `ab` is no pair of tokens; download the file again, or take another
    ");
    let types = gguf_parts::list(gguf_parts::U32, 2, &[0; 8]);
    assert_snapshot!(refused(|parts| parts.set("tokenizer.ggml.token_type", gguf_parts::LIST, types)), @r"
    exit code 1
    error: tiny.gguf: `tokenizer.ggml.token_type` is a list of 2, but one number for every token is wanted; the file is damaged or was written by another program than llama.cpp
    ");
    let latin_1 = |parts: &mut Parts| {
        let tokens = parts.value("tokenizer.ggml.tokens");
        // The last letter of the last token.
        *tokens.last_mut().unwrap() = 0xe9;
    };
    assert_snapshot!(refused(latin_1), @r"
    exit code 1
    error: tiny.gguf: `tokenizer.ggml.tokens` is \xe9 at place 63, but a list of strings in UTF-8 is wanted; the file is damaged or was written by another program than llama.cpp
    ");
    let more = |parts: &mut Parts| {
        let tokens: Vec<String> = (0..70).map(|i| format!("{i}")).collect();
        parts.set("tokenizer.ggml.tokens", gguf_parts::LIST, gguf_parts::texts(&tokens));
        let types: Vec<u8> = (0..70).flat_map(|_| 1u32.to_le_bytes()).collect();
        parts.set("tokenizer.ggml.token_type", gguf_parts::LIST, gguf_parts::list(gguf_parts::U32, 70, &types));
        parts.set("tokenizer.ggml.merges", gguf_parts::LIST, gguf_parts::texts(&["1 0"]));
    };
    assert_snapshot!(refused(more), @r"
    exit code 1
    error: tiny.gguf: has 70 token ids, but the model's embedding has 64 rows; it is another model's tokenizer
    ");
}

/// Opens a file and asks for all that is in it; what comes is not looked at.
fn read_all(path: &std::path::Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let _ = checkpoint.tokenizer(64);
    let Ok(architecture) = family::read(&checkpoint) else { return };
    let needs = architecture.tensors();
    if checkpoint.check(&needs, |name| architecture.ignores(name)).is_ok() {
        needs.iter().for_each(|need| drop(checkpoint.tensor(&need.name, DType::F32, &Device::Cpu)));
    }
}

#[test]
fn no_cut_and_no_changed_byte_makes_the_reader_panic() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("changed.gguf");
    for (name, step) in [("scaled-q8_0", 7), ("spm-gemma", 301), ("bpe-qwen2", 307)] {
        let bytes = fs::read(fixture(&format!("tiny-gguf/{name}.gguf"))).unwrap();
        let head = bytes.len() - Parts::read(&bytes).data.len();
        for at in (0..head).step_by(step) {
            for value in [0x00, 0x7f, 0xff, bytes[at].wrapping_add(1)] {
                let mut changed = bytes.clone();
                changed[at] = value;
                fs::write(&path, &changed).unwrap();
                read_all(&path);
            }
            fs::write(&path, &bytes[..at]).unwrap();
            read_all(&path);
        }
    }
}

// Published models.

fn published(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names the file")))
}

/// Every line of the demo's sentences, by language.
fn sentences() -> Vec<(String, Vec<String>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("atlas/demo/sentences");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut languages: Vec<_> = files
        .map(|path| {
            let lines = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), lines)
        })
        .collect();
    languages.sort();
    assert_eq!(languages.len(), 132);
    languages
}

#[test]
#[ignore = "needs SmolLM2-135M as GGUF and as a folder: set NEUROGLOT_SMOLLM2_GGUF and NEUROGLOT_SMOLLM2"]
fn smollm2s_file_gives_the_ids_of_its_tokenizer_json() {
    let file = Checkpoint::open(&published("NEUROGLOT_SMOLLM2_GGUF")).unwrap().tokenizer(49152).unwrap();
    let folder = Checkpoint::open(&published("NEUROGLOT_SMOLLM2")).unwrap().tokenizer(49152).unwrap();
    let (mut texts, mut tokens) = (0, 0);
    for (language, lines) in sentences() {
        for line in lines {
            let encode = |tokenizer: &tokenizers::Tokenizer| tokenizer.encode_fast(line.as_str(), false).unwrap();
            let (found, wanted) = (encode(&file), encode(&folder));
            assert_eq!(found.get_ids(), wanted.get_ids(), "{language}: {line}");
            (texts, tokens) = (texts + 1, tokens + found.len());
        }
    }
    println!("{texts} texts, {tokens} ids, all alike");
}

#[test]
#[ignore = "needs SmolLM2-135M as GGUF and as a folder: set NEUROGLOT_SMOLLM2_GGUF and NEUROGLOT_SMOLLM2"]
fn smollm2s_file_gives_the_weights_and_counts_of_the_folder_that_was_made_from_it() {
    let file = Checkpoint::open(&published("NEUROGLOT_SMOLLM2_GGUF")).unwrap();
    let folder = Checkpoint::open(&published("NEUROGLOT_SMOLLM2")).unwrap();
    let theirs = family::read(&folder).unwrap();
    assert_eq!(family::read(&file).unwrap(), theirs);
    for need in theirs.tensors() {
        assert!(values(&file, &need.name) == values(&folder, &need.name), "{}", need.name);
    }
    let load = |checkpoint| Decoder::load(checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap();
    let (file, folder, tokenizer) = (load(&file), load(&folder), folder.tokenizer(49152).unwrap());
    for (language, lines) in sentences().into_iter().step_by(12) {
        let ids = tokenizer.encode_fast(lines.join("\n"), false).unwrap().get_ids()[..128].to_vec();
        let ids = Tensor::from_vec(ids, (1, 128), &Device::Cpu).unwrap();
        let counts = |decoder: &Decoder| tally(decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
        assert_eq!(counts(&file).active, counts(&folder).active, "{language}");
    }
}

#[test]
#[ignore = "needs Gemma-3-270M as GGUF: set NEUROGLOT_GEMMA3_GGUF"]
fn gemma_3s_file_gives_the_ids_of_sentencepiece() {
    let recorded: Value = serde_json::from_slice(&fs::read(fixture("gemma3_270m.json")).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&published("NEUROGLOT_GEMMA3_GGUF")).unwrap();
    let before = std::time::Instant::now();
    let tokenizer = checkpoint.tokenizer(262_144).unwrap();
    println!("the tokenizer was built in {:.2} s", before.elapsed().as_secs_f64());
    let (mut texts, mut tokens) = (0, 0);
    for (language, lines) in sentences() {
        let ids = lines.iter().flat_map(|line| {
            let encoding = tokenizer.encode_fast(line.as_str(), false).unwrap();
            encoding.get_ids().to_vec()
        });
        let ids: Vec<u32> = ids.collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let found = json!({ "ids": ids.len(), "sha256": neuroglot::output::sha256(&bytes) });
        assert_eq!(found, recorded["tokens"][&language], "{language}");
        (texts, tokens) = (texts + lines.len(), tokens + ids.len());
    }
    println!("{texts} texts, {tokens} ids, all alike");
}
