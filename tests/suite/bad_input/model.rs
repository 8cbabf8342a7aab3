//! The model's folder and files.

use insta::assert_snapshot;
use safetensors::Dtype;
use serde_json::json;

use super::{asked, damaged, profile};
use crate::harness::{SHARDED, Sandbox, Stored};

#[test]
fn a_model_folder_that_is_not_there_is_named() {
    assert_snapshot!(asked(&[("--model", "nowhere")]), @r"
    exit code 1
    error: nowhere: there is no such model; a folder with config.json, tokenizer.json and model.safetensors, a GGUF file, or OWNER/NAME on a Hub (with @main behind it where a folder OWNER is here) is wanted
    ");
}

#[test]
fn a_file_is_no_model_folder() {
    assert_snapshot!(asked(&[("--model", "model/config.json")]), @r"
    exit code 1
    error: model/config.json: there is no such model; a folder with config.json, tokenizer.json and model.safetensors, a GGUF file, or OWNER/NAME on a Hub (with @main behind it where a folder OWNER is here) is wanted
    ");
}

#[test]
fn a_model_folder_without_config_is_refused() {
    assert_snapshot!(damaged(|s| s.remove("model/config.json")), @r"
    exit code 1
    error: model/config.json: there is no such file; a model folder holds config.json, tokenizer.json and model.safetensors
    ");
}

#[test]
fn a_config_that_is_not_json_is_refused_with_the_place() {
    assert_snapshot!(damaged(|s| s.halve("model/config.json")), @r"
    exit code 1
    error: model/config.json: is broken: no JSON object: EOF while parsing a string at line 19 column 20; download it again
    ");
}

#[test]
fn a_config_that_is_a_list_is_refused() {
    assert_snapshot!(damaged(|s| s.write("model/config.json", "[]")), @r"
    exit code 1
    error: model/config.json: is broken: no JSON object: invalid type: sequence, expected a map at line 1 column 0; download it again
    ");
}

#[test]
fn a_config_without_a_size_names_the_field() {
    let remove =
        |s: &Sandbox| s.json("model/config.json", |config| drop(config.as_object_mut().unwrap().remove("hidden_size")));
    assert_snapshot!(damaged(remove), @r"
    exit code 1
    error: model/config.json: has no field `hidden_size`, and nothing can stand in for it; take the config.json that came with the weights
    ");
}

#[test]
fn a_size_of_zero_is_refused() {
    assert_snapshot!(damaged(|s| s.config("intermediate_size", 0)), @r"
    exit code 1
    error: model/config.json: `intermediate_size` is 0, but a whole number above 0 and below 2^31 is wanted
    ");
}

#[test]
fn a_billion_layers_are_refused_before_anything_is_allocated() {
    assert_snapshot!(damaged(|s| s.config("num_hidden_layers", 1_000_000_000)), @r"
    exit code 1
    error: model/config.json: `num_hidden_layers` is 1000000000, but a whole number below 32,768 is wanted
    ");
}

#[test]
fn an_unknown_architecture_is_refused_with_the_known_ones() {
    assert_snapshot!(damaged(|s| s.config("model_type", "mamba")), @r"
    exit code 1
    error: model/config.json: `model_type` is `mamba`; known are llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma, gemma2, gemma3_text, gemma3, phi3, olmo2, cohere, cohere2, smollm3, gpt_neox, phi, bloom, opt, gpt2. CONTRIBUTING.md says how a family is added
    ");
}

#[test]
fn another_scaling_of_positions_is_refused() {
    let dynamic =
        |s: &Sandbox| s.json("model/config.json", |config| config["rope_parameters"]["rope_type"] = "dynamic".into());
    assert_snapshot!(damaged(dynamic), @r"
    exit code 1
    error: model/config.json: `rope_parameters.rope_type` is `dynamic`, which changes the model's arithmetic and is not implemented; `default`, `linear`, `llama3`, `yarn` or `longrope` is wanted
    ");
}

#[test]
fn another_activation_is_refused() {
    assert_snapshot!(damaged(|s| s.config("hidden_act", "quick_gelu")), @r"
    exit code 1
    error: model/config.json: `hidden_act` is `quick_gelu`, which changes the model's arithmetic and is not implemented; `silu`, `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast` or `relu` is wanted
    ");
}

#[test]
fn a_sliding_window_is_refused() {
    assert_snapshot!(damaged(|s| s.config("sliding_window", 128)), @r"
    exit code 1
    error: model/config.json: `sliding_window` is 128, and no such field is known: it may change the model's arithmetic. Take it out if it does not
    ");
}

#[test]
fn partial_rotary_embeddings_are_refused_wherever_they_stand() {
    let nested = |s: &Sandbox| {
        s.json("model/config.json", |config| config["rope_parameters"]["partial_rotary_factor"] = 0.5.into());
    };
    assert_snapshot!(damaged(nested), @r"
    exit code 1
    error: model/config.json: `rope_parameters.partial_rotary_factor` is 0.5, which changes the model's arithmetic and is not implemented; 1 is wanted
    ");
    assert_snapshot!(damaged(|s| s.config("partial_rotary_factor", 0.5)), @r"
    exit code 1
    error: model/config.json: `partial_rotary_factor` is 0.5, which changes the model's arithmetic and is not implemented; 1 is wanted
    ");
}

#[test]
fn a_field_that_nobody_knows_is_refused() {
    assert_snapshot!(damaged(|s| s.config("residual_multiplier", 0.22)), @r"
    exit code 1
    error: model/config.json: `residual_multiplier` is 0.22, and no such field is known: it may change the model's arithmetic. Take it out if it does not
    ");
}

#[test]
fn a_model_folder_without_weights_is_refused() {
    assert_snapshot!(damaged(|s| s.remove("model/model.safetensors")), @r"
    exit code 1
    error: model: holds neither model.safetensors nor model.safetensors.index.json; convert other formats with `save_pretrained(…, safe_serialization=True)`
    ");
}

#[test]
fn weights_that_were_cut_short_are_refused_with_both_lengths() {
    assert_snapshot!(damaged(|s| s.halve("model/model.safetensors")), @r"
    exit code 1
    error: model/model.safetensors: is cut short: it has 52572 bytes and its header asks for 105144; download it again
    ");
}

#[test]
fn an_empty_weight_file_is_refused() {
    assert_snapshot!(damaged(|s| s.write("model/model.safetensors", "")), @r"
    exit code 1
    error: model/model.safetensors: is cut short: it has 0 bytes and its header asks for 8; download it again
    ");
}

#[test]
fn a_weight_file_with_an_absurd_header_is_refused() {
    assert_snapshot!(damaged(|s| s.write("model/model.safetensors", [0xff; 64])), @r"
    exit code 1
    error: model/model.safetensors: is broken: it is no safetensors file, for it declares a header of 18446744073709551615 bytes; download it again
    ");
}

#[test]
fn a_tensor_of_another_shape_names_both_shapes() {
    assert_snapshot!(damaged(|s| s.config("intermediate_size", 40)), @r"
    exit code 1
    error: model/model.safetensors: tensor `model.layers.0.mlp.gate_proj.weight` is [48, 32], but this config needs [40, 32]
    ");
}

#[test]
fn a_missing_tensor_is_named() {
    let remove = |s: &Sandbox| s.weights(|tensors| drop(tensors.remove("model.layers.1.mlp.gate_proj.weight")));
    assert_snapshot!(damaged(remove), @r"
    exit code 1
    error: model/model.safetensors: has no tensor `model.layers.1.mlp.gate_proj.weight`, but this config needs one of shape [48, 32]
    ");
}

#[test]
fn a_bias_that_the_config_does_not_know_is_refused() {
    let bias = Stored { dtype: Dtype::F32, shape: vec![48], bytes: vec![0; 4 * 48] };
    let add = |s: &Sandbox| s.weights(|tensors| drop(tensors.insert("model.layers.0.mlp.up_proj.bias".into(), bias)));
    assert_snapshot!(damaged(add), @r"
    exit code 1
    error: model/model.safetensors: holds tensor `model.layers.0.mlp.up_proj.bias` [48], which this config has no place for; config and weights do not belong together
    ");
}

#[test]
fn quantised_weights_are_refused() {
    let quantise = |s: &Sandbox| {
        s.weights(|tensors| {
            let weight = tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
            (weight.dtype, weight.bytes) = (Dtype::I8, vec![1; weight.bytes.len() / 4]);
        });
    };
    assert_snapshot!(damaged(quantise), @r"
    exit code 1
    error: model/model.safetensors: tensor `model.layers.0.mlp.up_proj.weight` is stored as I8; F32, F16 and BF16 are read, quantised weights are not
    ");
}

#[test]
fn weights_that_are_no_numbers_are_found_by_the_layer() {
    let spoil = |s: &Sandbox| {
        s.weights(|tensors| {
            tensors.get_mut("model.layers.1.mlp.gate_proj.weight").unwrap().bytes[..4]
                .copy_from_slice(&f32::NAN.to_le_bytes());
        });
    };
    assert_snapshot!(damaged(spoil), @r"
    exit code 1
    error: cym_Latn: the activations of layer 1 are not finite; the weights overflow in f32, or are damaged
    ");
}

#[test]
fn a_missing_shard_is_named() {
    let remove = |s: &Sandbox| {
        s.model(SHARDED);
        s.remove("model/model-00003-of-00004.safetensors");
    };
    assert_snapshot!(damaged(remove), @r"
    exit code 1
    error: model/model.safetensors.index.json: names `model-00003-of-00004.safetensors` for 16 tensors, but there is no such file beside it; download it again
    ");
}

#[test]
fn an_index_that_leads_out_of_the_folder_is_refused() {
    let lead_out = |s: &Sandbox| {
        s.model(SHARDED);
        s.json("model/model.safetensors.index.json", |index| {
            index["weight_map"]["model.norm.weight"] = "../evil.safetensors".into();
        });
    };
    assert_snapshot!(damaged(lead_out), @r"
    exit code 1
    error: model/model.safetensors.index.json: is broken: it names `../evil.safetensors`, which is no file beside it; download it again
    ");
}

#[test]
fn a_missing_tokenizer_is_named() {
    assert_snapshot!(damaged(|s| s.remove("model/tokenizer.json")), @r"
    exit code 1
    error: model/tokenizer.json: there is no such file; a model folder holds config.json, tokenizer.json and model.safetensors
    ");
}

#[test]
fn a_broken_tokenizer_is_refused() {
    assert_snapshot!(damaged(|s| s.halve("model/tokenizer.json")), @r"
    exit code 1
    error: model/tokenizer.json: is broken: EOF while parsing a string at line 50 column 8; download it again
    ");
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused() {
    let grow = |s: &Sandbox| s.json("model/tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["é"] = 64.into());
    assert_snapshot!(damaged(grow), @r"
    exit code 1
    error: model/tokenizer.json: has 65 token ids, but the model's embedding has 64 rows; it is another model's tokenizer
    ");
}

#[test]
fn a_separator_that_the_model_lacks_is_refused() {
    assert_snapshot!(profile(|s| s.config("bos_token_id", json!(null)), &[("--document-separator", "bos")]), @r"
    exit code 1
    error: model/config.json: `bos_token_id` names no token, so --document-separator bos cannot be used with this model
    ");
}
