//! What a person reads when something is wrong: the exit code and the message, whole. Every message names the file, field or
//! value, says what is wanted, and leaves nothing half-written.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use insta::assert_snapshot;
use safetensors::Dtype;
use serde_json::json;

use crate::harness::{SHARDED, Sandbox, Stored, command, profile_arguments, prose, said};

/// `profile` over inputs that were damaged, with options that differ from the usual ones.
fn profile(damage: impl FnOnce(&Sandbox), options: &[(&str, &str)]) -> String {
    let sandbox = Sandbox::new();
    damage(&sandbox);
    let said = sandbox.profile(options);
    assert_ne!(said.code, 0, "{}", said.text());
    assert!(said.stdout.is_empty(), "{}", said.stdout);
    sandbox.holds_nothing_half_written();
    said.text()
}

fn damaged(damage: impl FnOnce(&Sandbox)) -> String {
    profile(damage, &[])
}

fn asked(options: &[(&str, &str)]) -> String {
    profile(|_| {}, options)
}

/// Another command over a profile in `out/` and an atlas in `atlas/` that were damaged.
fn after(damage: impl FnOnce(&Sandbox), arguments: &str) -> String {
    let sandbox = Sandbox::new().with_atlas();
    damage(&sandbox);
    let before = sandbox.files("");
    let said = sandbox.run(arguments);
    assert_ne!(said.code, 0, "{}", said.text());
    assert_eq!(sandbox.files(""), before, "a refused command leaves no file");
    said.text()
}

// The model.

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

// The corpus.

#[test]
fn a_corpus_of_unknown_kind_is_wrong_usage() {
    assert_snapshot!(asked(&[("--corpus", "text")]), @r"
    exit code 2
    error: `text` is no corpus; write one of dir:PATH, jsonl:PATH, parquet:PATH, ids:PATH, hub:OWNER/NAME[/FOLDER][@REVISION], glotcc, fineweb2, flores, wikipedia
    ");
    assert_snapshot!(asked(&[("--corpus", "csv:text")]), @r"
    exit code 2
    error: `csv:text` is no corpus; write one of dir:PATH, jsonl:PATH, parquet:PATH, ids:PATH, hub:OWNER/NAME[/FOLDER][@REVISION], glotcc, fineweb2, flores, wikipedia
    ");
}

#[test]
fn a_corpus_that_is_not_there_is_named() {
    assert_snapshot!(asked(&[("--corpus", "dir:nowhere")]), @r"
    exit code 1
    error: nowhere: there is no such file or folder
    ");
}

#[test]
fn a_file_is_no_folder_of_texts() {
    assert_snapshot!(asked(&[("--corpus", "dir:text/mlt_Latn.txt")]), @r"
    exit code 1
    error: text/mlt_Latn.txt: is a file, but a folder with a file for each language is wanted
    ");
}

#[test]
fn an_empty_corpus_says_what_would_be_read() {
    assert_snapshot!(profile(|s| std::fs::create_dir(s.path("bare")).unwrap(), &[("--corpus", "dir:bare")]), @r"
    exit code 1
    error: bare: holds no text of a language we know; CODE.txt, CODE.txt.gz or CODE.txt.zst is wanted, where CODE is a language such as `mlt_Latn` or `mt` (it is empty)
    ");
}

#[test]
fn a_corpus_of_unknown_names_says_which_it_has_seen() {
    let strange = |s: &Sandbox| {
        s.write("strange/notes.txt", "a");
        s.write("strange/mlt_Latn.docx", "a");
        s.write("strange/fr/readme.md", "a");
        std::fs::create_dir_all(s.path("strange/mlt_Latn.txt")).unwrap();
    };
    assert_snapshot!(profile(strange, &[("--corpus", "dir:strange")]), @r"
    exit code 1
    error: strange: holds no text of a language we know; CODE.txt, CODE.txt.gz or CODE.txt.zst is wanted, where CODE is a language such as `mlt_Latn` or `mt` (there is fr/ without such files, mlt_Latn.docx, mlt_Latn.txt, notes.txt)
    ");
}

#[test]
fn a_file_name_of_several_languages_is_passed_over_aloud() {
    let norwegian = |s: &Sandbox| s.write("norwegian/no.txt", "a");
    assert_snapshot!(profile(norwegian, &[("--corpus", "dir:norwegian")]), @r"
    exit code 1
     WARN norwegian/no.txt: is passed over: `no` names 2 languages: nno_Latn (Norwegian Nynorsk), nob_Latn (Norwegian Bokmål); write one of these codes
    error: norwegian: holds no text of a language we know; CODE.txt, CODE.txt.gz or CODE.txt.zst is wanted, where CODE is a language such as `mlt_Latn` or `mt` (there is no.txt)
    ");
}

#[test]
fn two_files_of_one_language_are_refused() {
    assert_snapshot!(damaged(|s| s.write("text/mt.txt.gz", "a")), @r"
    exit code 1
    error: text/mlt_Latn.txt and text/mt.txt.gz both hold mlt_Latn; keep one, or put both into a folder `mlt_Latn/`
    ");
}

#[test]
fn a_broken_gzip_file_is_named() {
    let broken = |s: &Sandbox| s.write("packed/mlt_Latn.txt.gz", prose(0, 12));
    assert_snapshot!(profile(broken, &[("--corpus", "dir:packed")]), @r"
    exit code 1
    error: packed/mlt_Latn.txt.gz: cannot be read: invalid gzip header
    ");
}

#[test]
fn a_zstd_file_that_was_cut_short_is_named() {
    let broken = |s: &Sandbox| {
        s.write("packed/mlt_Latn.txt.zst", zstd::encode_all(prose(0, 12).as_bytes(), 3).unwrap());
        s.halve("packed/mlt_Latn.txt.zst");
    };
    assert_snapshot!(profile(broken, &[("--corpus", "dir:packed")]), @r"
    exit code 1
    error: packed/mlt_Latn.txt.zst: cannot be read: incomplete frame
    ");
}

#[test]
fn more_lines_than_document_ids_are_refused() {
    assert_snapshot!(damaged(|s| s.write("text/DOCUMENT_IDS.tsv", "a\na\nb\n")), @r"
    exit code 1
    error: text/DOCUMENT_IDS.tsv: names 3 lines, but text/cym_Latn.txt has 4; mend it, or choose --document line, paragraph or file
    ");
}

#[test]
fn more_document_ids_than_lines_are_refused() {
    let ids = "a\n".repeat(5000);
    assert_snapshot!(profile(|s| s.write("text/DOCUMENT_IDS.tsv", ids), &[("--tokens", "100000")]), @r"
    exit code 1
    error: text/DOCUMENT_IDS.tsv: names 5000 lines, but text/cym_Latn.txt has 23; mend it, or choose --document line, paragraph or file
    ");
}

#[test]
fn a_language_without_text_is_said_with_those_that_have_some() {
    assert_snapshot!(asked(&[("--languages", "deu,mlt")]), @r"
    exit code 1
    error: dir:text has no text for deu_Latn; it has cym_Latn, fra_Latn, mlt_Latn
    ");
}

#[test]
fn a_line_that_is_not_json_is_named() {
    let broken = |s: &Sandbox| s.write("lines/mlt_Latn.jsonl", "{\"text\": \"sea\"}\n\nsea\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:lines")]), @r"
    exit code 1
    error: lines/mlt_Latn.jsonl, line 3: not JSON: expected value at column 1
    ");
}

#[test]
fn a_line_without_text_names_the_field() {
    let broken = |s: &Sandbox| s.write("lines/mlt_Latn.jsonl", "{\"content\": \"sea\"}\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:lines")]), @r"
    exit code 1
    error: lines/mlt_Latn.jsonl, line 1: has no string field `text`; name it with --text-column
    ");
}

#[test]
fn rows_without_a_language_are_refused() {
    let broken = |s: &Sandbox| s.write("all.jsonl", "{\"text\": \"sea\", \"lang\": \"mt\"}\n{\"text\": \"sea\"}\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:all.jsonl")]), @r"
    exit code 1
    error: all.jsonl, line 2: no field `language`, `lang`, `code` says its language
    ");
}

#[test]
fn rows_of_an_unknown_language_are_refused() {
    let broken = |s: &Sandbox| s.write("all.jsonl", "{\"text\": \"sea\", \"lang\": \"Klingon\"}\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:all.jsonl")]), @r"
    exit code 1
    error: all.jsonl, line 1: no language is called `Klingon`; a language is written as `mt`, `mlt`, `mlt_Latn`, `Maltese` or `Malti`
    ");
}

#[test]
fn a_table_without_the_text_column_lists_its_columns() {
    let broken =
        |s: &Sandbox| crate::corpus::table(&s.path("tables/mlt_Latn.parquet"), &[("sentence", &[Some("sea")])]);
    assert_snapshot!(profile(broken, &[("--corpus", "parquet:tables")]), @r"
    exit code 1
    error: tables/mlt_Latn.parquet: has no column `text`, but sentence; name the text column with --text-column
    ");
}

#[test]
fn a_table_of_many_languages_without_their_column_is_refused() {
    let broken = |s: &Sandbox| crate::corpus::table(&s.path("all.parquet"), &[("text", &[Some("sea")])]);
    assert_snapshot!(profile(broken, &[("--corpus", "parquet:all.parquet")]), @r"
    exit code 1
    error: all.parquet: has no column `language`, `lang`, `code`, but text; call the column of languages so, or give a folder with a table for each language
    ");
}

#[test]
fn a_table_that_is_no_parquet_file_is_named() {
    let broken = |s: &Sandbox| s.write("tables/mlt_Latn.parquet", "text\nsea\n");
    assert_snapshot!(profile(broken, &[("--corpus", "parquet:tables")]), @r"
    exit code 1
    error: tables/mlt_Latn.parquet: is not a readable Parquet file: Parquet error: Invalid Parquet file. Corrupt footer
    ");
}

#[test]
fn prepared_windows_of_another_length_say_which_to_ask_for() {
    assert_snapshot!(profile(|s| s.ids("mlt_Latn", 8, &[5; 64]), &[("--corpus", "ids:ids")]), @r"
    exit code 1
    error: mlt_Latn: prepared window 1 has 8 ids, but --context is 16; set --context 8
    ");
}

#[test]
fn prepared_ids_of_another_vocabulary_are_refused() {
    assert_snapshot!(profile(|s| s.ids("mlt_Latn", 16, &[64; 64]), &[("--corpus", "ids:ids")]), @r"
    exit code 1
    error: mlt_Latn: prepared window 1 holds id 64, but the model's embedding has 64 rows; the ids are another tokenizer's
    ");
}

// The languages.

#[test]
fn an_unknown_language_is_wrong_usage_and_the_nearest_is_offered() {
    assert_snapshot!(asked(&[("--languages", "Maltesse")]), @r"
    exit code 2
    error: no language is called `Maltesse` (did you mean mlt_Latn (Maltese)?); a language is written as `mt`, `mlt`, `mlt_Latn`, `Maltese` or `Malti`
    ");
    assert_snapshot!(asked(&[("--languages", "tlh")]), @r"
    exit code 2
    error: no language is called `tlh`; a language is written as `mt`, `mlt`, `mlt_Latn`, `Maltese` or `Malti`
    ");
}

#[test]
fn a_spelling_of_several_languages_lists_them() {
    assert_snapshot!(asked(&[("--languages", "nor")]), @r"
    exit code 2
    error: `nor` names 2 languages: nno_Latn (Norwegian Nynorsk), nob_Latn (Norwegian Bokmål); write one of these codes
    ");
    assert_snapshot!(asked(&[("--languages", "mlt,zho")]), @r"
    exit code 2
    error: `zho` names 2 languages: zho_Hans (Chinese (Simplified)), zho_Hant (Chinese (Traditional)); write one of these codes
    ");
}

#[test]
fn a_list_that_is_not_there_or_empty_is_wrong_usage() {
    assert_snapshot!(asked(&[("--languages", "@wanted.txt")]), @r"
    exit code 2
    error: wanted.txt: cannot read the list of languages: No such file or directory (os error 2)
    ");
    assert_snapshot!(profile(|s| s.write("wanted.txt", "# none yet\n"), &[("--languages", "@wanted.txt")]), @r"
    exit code 2
    error: the list of languages is empty; write codes separated by commas, `all`, or `@FILE`
    ");
}

// The options.

#[test]
fn a_context_that_the_model_was_not_made_for_is_wrong_usage() {
    assert_snapshot!(asked(&[("--context", "512"), ("--tokens", "1024")]), @r"
    exit code 2
    error: --context 512 is longer than the 256 positions that the model was made for; choose 256 or less
    ");
}

#[test]
fn fewer_tokens_than_a_window_are_wrong_usage() {
    assert_snapshot!(asked(&[("--tokens", "15")]), @r"
    exit code 2
    error: --tokens 15 is less than one window of --context 16; ask for at least 16 tokens
    ");
}

#[test]
fn more_tokens_than_can_be_counted_are_wrong_usage() {
    assert_snapshot!(asked(&[("--tokens", "18446744073709551615")]), @r"
    exit code 2
    error: invalid value '18446744073709551615' for '--tokens <N>': 18446744073709551615 is not in 1..=1000000000000

    For more information, try '--help'.
    ");
}

#[test]
fn a_shard_beyond_the_number_of_shards_is_wrong_usage() {
    assert_snapshot!(asked(&[("--shard", "5/4")]), @r"
    exit code 2
    error: invalid value '5/4' for '--shard <I/N>': write I/N with 1 ≤ I ≤ N, as in 2/4

    For more information, try '--help'.
    ");
}

// The output.

#[test]
fn a_folder_of_another_run_says_where_the_runs_differ() {
    let sandbox = Sandbox::new();
    sandbox.profile(&[]).done();
    let before = sandbox.read("out/profile.json");
    assert_snapshot!(sandbox.profile(&[("--tokens", "32"), ("--folds", "2")]).text(), @r"
    exit code 1
    error: out/profile.json: holds another run, which differs in folds (4 there, 2 here), tokens (64 there, 32 here); choose another --out, or the same settings to continue it
    ");
    assert_eq!(sandbox.read("out/profile.json"), before);
}

#[test]
fn a_run_that_finished_no_language_gives_way_to_the_corrected_command() {
    let sandbox = Sandbox::new();
    sandbox.ids("mlt_Latn", 8, &[5; 64]);
    assert_eq!(sandbox.profile(&[("--corpus", "ids:ids")]).code, 1);
    sandbox.profile(&[("--corpus", "ids:ids"), ("--context", "8")]).done();
}

#[test]
fn a_folder_with_other_things_in_it_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.write("out/thesis.tex", "a");
    assert_snapshot!(sandbox.profile(&[]).text(), @r"
    exit code 1
    error: out: is not empty and holds no profile; choose an empty or new folder with --out
    ");
    assert_eq!(sandbox.files("out"), ["out/thesis.tex"]);
}

#[test]
fn a_file_in_the_way_of_the_output_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.write("out", "a");
    assert_snapshot!(sandbox.profile(&[]).text(), @r"
    exit code 1
    error: out/profile.json: cannot be written: File exists (os error 17); a file stands where a folder is wanted, choose another --out
    ");
    assert_snapshot!(sandbox.profile(&[("--out", "out/deeper")]).text(), @r"
    exit code 1
    error: out/deeper/profile.json: cannot be written: Not a directory (os error 20); a file stands where a folder is wanted, choose another --out
    ");
    assert_eq!(sandbox.read("out"), b"a");
}

#[test]
fn a_folder_where_nothing_can_be_written_is_named() {
    assert_snapshot!(asked(&[("--out", "/proc/neuroglot")]), @r"
    exit code 1
    error: /proc/neuroglot/profile.json: cannot be written: No such file or directory (os error 2)
    ");
}

#[test]
fn a_read_only_disk_is_named() {
    let sandbox = Sandbox::new();
    let Some(_disk) = Disk::mount(&sandbox.path("disk"), "ro") else { return };
    assert_snapshot!(sandbox.profile(&[("--out", "disk/out")]).text(), @r"
    exit code 1
    error: disk/out/profile.json: cannot be written: Read-only file system (os error 30); choose a folder that you may write to with --out
    ");
}

#[test]
fn on_a_full_disk_what_is_finished_is_kept_and_the_same_command_continues() {
    let sandbox = Sandbox::new();
    let Some(disk) = Disk::mount(&sandbox.path("disk"), "size=12k") else { return };
    let full = sandbox.profile(&[("--out", "disk/out")]);
    assert_snapshot!(full.text(), @r"
    exit code 1
    cym_Latn         64 tokens of 4 documents
    error: disk/out/counts/fra_Latn.parquet: cannot be written: No space left on device (os error 28); make room and run the same command again, what is finished is kept
    ");
    let finished = sandbox.files("disk/out");
    assert!(finished.iter().all(|file| !file.contains(".part")), "{finished:?}");
    let kept = sandbox.read(&finished[0]);
    disk.grow();
    sandbox.profile(&[("--out", "disk/out")]).done();
    assert_eq!(sandbox.read(&finished[0]), kept);
    sandbox.profile(&[]).done();
    for language in sandbox.files("out/counts") {
        assert_eq!(sandbox.read(&language), sandbox.read(&format!("disk/{language}")));
    }
}

#[test]
fn an_atlas_on_a_full_disk_is_not_taken_for_an_atlas() {
    let sandbox = Sandbox::new();
    sandbox.profile(&[]).done();
    let Some(_disk) = Disk::mount(&sandbox.path("disk"), "size=16k") else { return };
    // Which file is the first that does not fit depends on how well the others pack.
    let text = sandbox.run("identify out --out disk/atlas").text();
    assert!(text.starts_with("exit code 1\nerror: disk/atlas/"), "{text}");
    assert!(text.contains("cannot be written: No space left on device"), "{text}");
    assert!(text.contains("; make room and run the same command again, what is finished is kept"), "{text}");
    assert!(!sandbox.path("disk/atlas/manifest.json").exists());
    assert_snapshot!(sandbox.run("verify disk/atlas").text(), @r"
    exit code 1
    error: disk/atlas: holds no atlas (no manifest.json); `neuroglot identify PROFILE --out disk/atlas` makes one
    ");
}

#[test]
fn an_interrupted_run_is_resumable_and_its_counts_are_those_of_a_run_without_a_break() {
    let sandbox = Sandbox::new();
    let codes = [
        "afr", "dan", "deu", "eng", "est", "eus", "fin", "fra", "gle", "hun", "isl", "ita", "lit", "mlt", "nld", "swe",
    ];
    for (seed, code) in codes.iter().enumerate() {
        sandbox.write(&format!("many/{code}.txt"), prose(seed, 1_000));
    }
    let options = [("--corpus", "dir:many"), ("--tokens", "16384"), ("--batch-tokens", "64")];
    let mut child = command(&sandbox.path(""), profile_arguments(&options))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first language is finished, fifteen are not.
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    talk.read_line(&mut first).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    talk.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{first}{rest}");
    assert!(rest.contains("of 16 languages are finished in out; the same command continues"), "{rest}");
    assert!(sandbox.files("").iter().all(|file| !file.contains(".part")));

    sandbox.profile(&options).done();
    sandbox.profile(&[options.as_slice(), &[("--out", "whole")]].concat()).done();
    for language in sandbox.files("whole/counts") {
        assert_eq!(sandbox.read(&language), sandbox.read(&language.replace("whole", "out")), "{language}");
    }
}

/// A file system of its own, gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Says loudly where this machine does not let a test mount one.
    fn mount(place: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(place.to_owned()));
        }
        // Written past the test harness, which would swallow it.
        let _ =
            writeln!(std::io::stderr(), "NOT RUN: a test that mounts a tmpfs with {options}; run the suite as root");
        None
    }

    fn grow(&self) {
        assert!(Command::new("mount").args(["-o", "remount,size=4m"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

// The profile.

#[test]
fn a_folder_without_a_profile_is_no_input_of_identify() {
    assert_snapshot!(after(|_| {}, "identify text --out new"), @r"
    exit code 1
    error: text: holds no profile (no profile.json); `neuroglot profile --out text` makes one
    ");
    assert_snapshot!(after(|_| {}, "identify nowhere --out new"), @r"
    exit code 1
    error: nowhere: holds no profile (no profile.json); `neuroglot profile --out nowhere` makes one
    ");
}

#[test]
fn a_profile_without_a_finished_language_cannot_be_identified() {
    let clear = |s: &Sandbox| std::fs::remove_dir_all(s.path("out/counts")).unwrap();
    assert_snapshot!(after(clear, "identify out --out new"), @r"
    exit code 1
    error: out: no language is finished yet; run `neuroglot profile` again
    ");
}

#[test]
fn a_language_that_was_not_profiled_cannot_be_identified() {
    assert_snapshot!(after(|_| {}, "identify out --out new --languages mlt,deu"), @r"
    exit code 1
    error: out: deu_Latn has not been profiled; run `neuroglot profile --languages deu_Latn` with the same settings
    ");
}

#[test]
fn a_rate_above_one_is_wrong_usage() {
    assert_snapshot!(after(|_| {}, "identify out --out new --top-rate 5"), @r"
    exit code 2
    error: invalid value '5' for '--top-rate <R>': `5` is not a rate: give a number above 0 and at most 1, such as 0.05

    For more information, try '--help'.
    ");
}

#[test]
fn a_method_that_does_not_exist_is_wrong_usage() {
    assert_snapshot!(after(|_| {}, "identify out --out new --method lapel"), @r"
    exit code 2
    error: invalid value 'lapel' for '--method <METHOD>'
      [possible values: lape, random]

      tip: a similar value exists: 'lape'

    For more information, try '--help'.
    ");
}

#[test]
fn a_profile_whose_settings_were_changed_by_hand_is_refused() {
    let tamper = |s: &Sandbox| s.json("out/profile.json", |head| head["parameters"]["tokens"] = 128.into());
    assert_snapshot!(after(tamper, "identify out --out new"), @r"
    exit code 1
    error: out/profile.json: its run id does not fit its parameters, for somebody changed them; profile again into another folder
    ");
}

#[test]
fn a_profile_whose_shape_was_changed_by_hand_is_refused() {
    let tamper =
        |s: &Sandbox| s.json("out/profile.json", |head| head["model"]["spec"]["ffn"]["width"] = u64::MAX.into());
    assert_snapshot!(after(tamper, "identify out --out new"), @r"
    exit code 1
    error: out/counts/cym_Latn.parquet: has 96 rows, which is no whole number of languages of 2 × 18446744073709551615 neurons; delete it and make it again
    ");
}

#[test]
fn a_profile_of_a_newer_version_is_refused() {
    let newer = |s: &Sandbox| s.json("out/profile.json", |head| head["schema_version"] = "2.0".into());
    assert_snapshot!(after(newer, "identify out --out new"), @r"
    exit code 1
    error: out/profile.json: is `neuroglot.profile 2.0`, but this neuroglot reads neuroglot.profile 1.0; use a newer one
    ");
}

#[test]
fn counts_that_were_cut_short_are_refused_by_every_reader() {
    let halve = |s: &Sandbox| s.halve("out/counts/fra_Latn.parquet");
    assert_snapshot!(after(halve, "identify out --out new"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is not a readable Parquet file: Parquet error: it has no footer at its end; delete it and profile again
    ");
    assert_snapshot!(after(halve, "profile --model model --corpus dir:text --tokens 64 --context 16 --out out"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is not a readable Parquet file: Parquet error: it has no footer at its end; delete it and profile again
    ");
    assert_snapshot!(after(halve, "merge out --out new"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is not a readable Parquet file: Parquet error: it has no footer at its end; delete it and profile again
    ");
}

#[test]
fn counts_of_another_run_are_refused() {
    let mix = |s: &Sandbox| {
        s.profile(&[("--out", "other"), ("--tokens", "32")]).done();
        s.write("out/counts/fra_Latn.parquet", s.read("other/counts/fra_Latn.parquet"));
    };
    assert_snapshot!(after(mix, "identify out --out new"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is of run `[HASH]`, but profile.json of run `[HASH]`; delete the file and profile again
    ");
}

#[test]
fn counts_under_another_languages_name_are_refused() {
    let mix = |s: &Sandbox| s.write("out/counts/deu_Latn.parquet", s.read("out/counts/fra_Latn.parquet"));
    assert_snapshot!(after(mix, "identify out --out new"), @r#"
    exit code 1
    error: out/counts/deu_Latn.parquet: holds ["fra_Latn"], but deu_Latn is wanted; delete it and make it again
    "#);
}

#[test]
fn profiles_of_two_runs_are_not_merged() {
    let other = |s: &Sandbox| drop(s.profile(&[("--out", "other"), ("--tokens", "32")]).done());
    let sandbox = Sandbox::new().with_atlas();
    other(&sandbox);
    assert_snapshot!(sandbox.run("merge out other --out new").text(), @r"
    exit code 1
    error: other/profile.json: is of another run than out: it differs in tokens (32 there, 64 here); only parts of one run are merged
    ");
}

// The atlas.

#[test]
fn an_atlas_is_not_built_over_other_things() {
    assert_snapshot!(after(|_| {}, "identify out --out text"), @r"
    exit code 1
    error: text: is not empty and holds no atlas; choose an empty or new folder with --out
    ");
    assert_snapshot!(after(|_| {}, "identify out --out model/config.json"), @r"
    exit code 1
    error: model/config.json: is a file, but an atlas is a folder, with manifest.json in it; give a folder
    ");
}

#[test]
fn a_mask_of_what_the_atlas_does_not_hold_says_what_it_holds() {
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --method random"), @r"
    exit code 1
    error: atlas: has no neurons of model by `random`; it has lape
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --top-rate 0.2"), @r"
    exit code 1
    error: atlas: was not identified at --top-rate 0.2; it holds 0.1
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language deu --out mask"), @r"
    exit code 1
    error: atlas: deu_Latn is not among the 3 languages of this atlas
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --model meta/llama"), @r"
    exit code 1
    error: atlas: has no model `meta/llama`; it holds model
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language no --out mask"), @r"
    exit code 2
    error: `no` names 2 languages: nno_Latn (Norwegian Nynorsk), nob_Latn (Norwegian Bokmål); write one of these codes
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --format onnx"), @r"
    exit code 2
    error: invalid value 'onnx' for '--format <FORMAT>'
      [possible values: safetensors, json, parquet, pth]

    For more information, try '--help'.
    ");
    assert_snapshot!(after(|_| {}, "mask out --language mlt --out mask"), @r"
    exit code 1
    error: out: holds no atlas (no manifest.json); `neuroglot identify PROFILE --out out` makes one
    ");
}

#[test]
fn a_mask_is_not_written_over_a_folder() {
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out model"), @r"
    exit code 1
    error: model: cannot be written: Is a directory (os error 21); a folder stands where a file is wanted, choose another --out
    ");
}

#[test]
fn a_folder_without_an_atlas_is_not_verified() {
    assert_snapshot!(after(|_| {}, "verify text"), @r"
    exit code 1
    error: text: holds no atlas (no manifest.json); `neuroglot identify PROFILE --out text` makes one
    ");
}

#[test]
fn a_flipped_byte_is_found() {
    let flip = |s: &Sandbox| {
        let mut bytes = s.read("atlas/README.md");
        bytes[9] ^= 1;
        s.write("atlas/README.md", bytes);
    };
    assert_snapshot!(after(flip, "verify atlas"), @r"
    exit code 1
    stdout: README.md: has SHA-256 [HASH], but the manifest says [HASH]
    error: atlas: 1 of 11 checks failed; pull or identify again
    ");
}

#[test]
fn a_missing_file_is_found() {
    assert_snapshot!(after(|s| s.remove("atlas/LICENSE"), "verify atlas"), @r"
    exit code 1
    stdout: LICENSE: cannot be read: No such file or directory (os error 2)
    error: atlas: 1 of 11 checks failed; pull or identify again
    ");
}

#[test]
fn a_file_that_the_manifest_does_not_name_is_found() {
    assert_snapshot!(after(|s| s.write("atlas/data/extra.parquet", "a"), "verify atlas"), @r"
    exit code 1
    stdout: data/extra.parquet: is not in the manifest; delete it
    error: atlas: 1 of 12 checks failed; pull or identify again
    ");
}

#[test]
fn a_manifest_that_leads_out_of_the_atlas_is_refused() {
    let lead_out = |s: &Sandbox| {
        s.json("atlas/manifest.json", |manifest| manifest["files"][0]["path"] = "../text/mlt_Latn.txt".into());
    };
    assert_snapshot!(after(lead_out, "verify atlas"), @r"
    exit code 1
    error: atlas/manifest.json: names `../text/mlt_Latn.txt`, which lies outside the atlas; pull the atlas or make it again
    ");
}

#[test]
fn an_atlas_of_a_newer_major_version_is_refused() {
    let newer = |s: &Sandbox| s.json("atlas/manifest.json", |manifest| manifest["schema_version"] = "2.0".into());
    assert_snapshot!(after(newer, "verify atlas"), @r"
    exit code 1
    error: atlas/manifest.json: is `neuroglot.manifest 2.0`, but this neuroglot reads neuroglot.manifest 1.0; use a newer one
    ");
}

#[test]
fn a_manifest_that_is_not_json_is_refused() {
    assert_snapshot!(after(|s| s.write("atlas/manifest.json", r#"{"schema": "neurog"#), "verify atlas"), @r"
    exit code 1
    error: atlas/manifest.json: is broken: EOF while parsing a string at line 1 column 18; pull the atlas or make it again
    ");
}

#[test]
fn a_failed_process_is_told_from_a_wrong_command_by_its_exit_code() {
    let sandbox = Sandbox::new();
    let output = command(&sandbox.path(""), ["frobnicate"]).output().unwrap();
    assert_eq!(said(&sandbox.path(""), &output).code, 2);
    assert_eq!(sandbox.run("profile").code, 2);
    assert_eq!(sandbox.run("verify text").code, 1);
    assert_eq!(sandbox.run("--help").code, 0);
    assert_eq!(sandbox.run("--version").code, 0);
}
