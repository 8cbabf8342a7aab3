//! What a pass costs, by hand, and the command that measures it.

#![allow(clippy::float_cmp, reason = "sums of whole numbers are exact")]

use std::path::PathBuf;

use neuroglot::model::family;
use serde_json::json;

use crate::harness::Sandbox;

#[test]
fn a_profiling_pass_of_smollm2_costs_what_its_sizes_say() {
    let config = json!({
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_act": "silu",
        "tie_word_embeddings": true,
    });
    let architecture =
        family::of_config(PathBuf::from("config.json"), config.as_object().unwrap(), &|_| false).unwrap();
    let flops = architecture.spec.flops(512);
    // A layer: queries and output 2 · 576 · 576, keys and values 2 · 576 · 192, gate, up and down 3 · 576 · 1536:
    // 3,538,944 multiplications and as many additions. Of the last layer's FFN only the gate: 2 · 576 · 1536 fewer.
    assert_eq!(flops.projections, 2.0 * (30.0 * 3_538_944.0 - 2.0 * 576.0 * 1536.0));
    // The mean token sees (512 + 1) / 2 keys; 576 multiplications for its score, 576 for its value, in 30 layers.
    assert_eq!(flops.attention, 2.0 * 2.0 * 576.0 * 256.5 * 30.0);
}

#[test]
fn a_sliding_window_and_the_side_by_side_cost_less() {
    let read = |config: serde_json::Value| {
        let config = config.as_object().unwrap().clone();
        family::of_config(PathBuf::from("config.json"), &config, &|_| false).unwrap().spec.flops(4)
    };
    let mistral = json!({
        "model_type": "mistral", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4, "sliding_window": 2,
    });
    // Tokens see 1, 2, 2 and 2 keys: 7 / 4 in the mean; 4 multiplications each for score and value, two layers.
    assert_eq!(read(mistral).attention, 2.0 * 2.0 * 4.0 * 1.75 * 2.0);
    let phi = json!({
        "model_type": "phi", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 1,
    });
    // The last layer's FFN stands beside attention: one layer attends (2.5 keys in the mean), one and a half FFNs of 2 · 24.
    assert_eq!(read(phi.clone()).attention, 2.0 * 2.0 * 4.0 * 2.5);
    assert_eq!(read(phi).projections, 2.0 * (4.0 * 16.0 + 3.0 * 24.0));
}

#[test]
fn bench_times_a_checkpoint_and_prints_json() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("bench --model model --context 16 --batch-tokens 64 --rounds 1 --json").done();
    let measured: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    for field in ["product_flops", "copy_bytes", "tokens", "share", "flops_per_token"] {
        assert!(measured[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert_eq!((&measured["layers"], &measured["batch"]), (&json!(2), &json!(4)));
    assert_eq!(sandbox.run("bench --shape nova").code, 2);
    assert_eq!(sandbox.run("bench --model model --context 4096").code, 2);
}
