//! Every architecture against transformers: the tiny checkpoints of `tests/oracles/tiny_families.py`, and laws that hold for each.

use std::{
    collections::BTreeSet,
    path::{Path as FilePath, PathBuf},
};

use candle_core::{DType, Device, IndexOp, Tensor, Var};
use candle_nn::VarBuilder;
use neuroglot::{
    checkpoint::Checkpoint,
    model::{Architecture, Decoder, Observer, Path, Tally, Unobserved, family, family::Fused},
    neuron::NeuronId,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::Sandbox,
    tensors::{counts_agree, fixture, floats, ids, largest_difference, tally},
};

/// Folders with a config and a reference: Llama's are older and have a place of their own.
pub fn checkpoints() -> Vec<PathBuf> {
    let fixtures = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let inside = |folder| std::fs::read_dir(fixtures.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = inside("families").chain(inside("tiny-llama")).collect();
    folders.sort();
    folders
}

fn load(folder: &FilePath, path: Path) -> Result<Decoder, String> {
    let checkpoint = Checkpoint::open(folder).map_err(|error| error.to_string())?;
    Decoder::load(&checkpoint, DType::F32, &Device::Cpu, path).map_err(|error| error.to_string())
}

/// Runs a check on every checkpoint and reports all that fail.
fn walk(check: impl Fn(&FilePath) -> Result<(), String>) {
    let failures: Vec<_> = checkpoints()
        .iter()
        .filter_map(|folder| {
            check(folder).err().map(|why| format!("{}: {why}", folder.file_name().unwrap().to_string_lossy()))
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn near(what: &str, found: &Tensor, wanted: &Tensor, tolerance: f32) -> Result<(), String> {
    let difference = largest_difference(found, wanted);
    if difference < tolerance { Ok(()) } else { Err(format!("{what} differ by {difference}")) }
}

#[test]
fn every_family_has_a_tiny_checkpoint() {
    let found: BTreeSet<String> = checkpoints()
        .iter()
        .map(|folder| Checkpoint::open(folder).unwrap().config()["model_type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, family::FAMILIES.iter().map(|family| family.model_type.to_owned()).collect());
}

#[test]
fn logits_and_hidden_states_are_those_of_transformers() {
    walk(|folder| {
        let reference = fixture(&folder.join("reference.safetensors"));
        let decoder = load(folder, Path::Inference)?;
        let ids = ids(&reference["input_ids"]);
        let hidden = decoder.hidden(&ids, &mut Unobserved).map_err(|error| error.to_string())?;
        // Llama's references are without.
        if let Some(wanted) = reference.get("last_hidden") {
            near("hidden states", &hidden, wanted, 1e-4)?;
        }
        near("logits", &decoder.logits(&ids, &mut Unobserved).unwrap(), &reference["logits"], 1e-4)
    });
}

#[test]
fn counts_are_those_of_transformers() {
    walk(|folder| {
        let reference = fixture(&folder.join("reference.safetensors"));
        let decoder = load(folder, Path::Inference)?;
        let ids = ids(&reference["input_ids"]);
        let tally = tally(&decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
        if let Some(routed) = reference.get("routed") {
            let found: Vec<f64> = tally.routed[0].iter().map(|&tokens| tokens as f64).collect();
            assert_eq!(found, floats(routed), "tokens routed to each expert of {}", folder.display());
        }
        counts_agree(&tally.active[0], &reference["gate_active"], &reference["gate_near_zero"])
    });
}

#[test]
fn a_batch_of_windows_counts_as_its_windows_one_by_one() {
    walk(|folder| {
        let decoder = load(folder, Path::Inference)?;
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        // Few tokens are multiplied in another way than many.
        let ids = Tensor::cat(&vec![&ids; 1100_usize.div_ceil(ids.elem_count())], 0).unwrap();
        let (batch, seq) = ids.dims2().unwrap();
        let together = tally(&decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
        let mut apart = Tally::new(decoder.spec().ffn, 1);
        for row in 0..batch {
            apart.begin([vec![0u8; seq].as_slice()]);
            decoder.observe(&ids.i(row..=row).unwrap(), &mut apart).unwrap();
        }
        let counts = together.active == apart.active && together.routed == apart.routed;
        // A router multiplies few tokens in other blocks than many, so that an expert's sums may differ in their last bits.
        let moments = decoder.spec().ffn.is_routed()
            || (together.sum, together.sum_sq, together.max) == (apart.sum, apart.sum_sq, apart.max);
        if counts && moments { Ok(()) } else { Err("the counts or the moments differ".to_owned()) }
    });
}

/// The FFN projections of a layer with their neurons in another order, all others as they are.
fn permuted(architecture: &Architecture, layer: usize, order: &[u32], name: &str, tensor: &Tensor) -> Tensor {
    let (names, width) = (&architecture.names, order.len());
    let inside = |stem: &str| name.starts_with(&format!("{}.", names.inner(layer, stem)));
    let experts = inside(names.experts);
    let [expert_gate, expert_up, expert_down] = names.expert_projections.map(|stem| experts && name.contains(stem));
    let (inputs, stacked) = match &names.gated {
        _ if !architecture.spec.feed_forward.gated => (inside(names.plain), false),
        Fused::Stacked(stem) | Fused::ByHead(stem) => (inside(stem), true),
        Fused::Apart(stems) => (stems.iter().any(|stem| inside(stem)), false),
    };
    let is_weight = name.ends_with(".weight");
    let (outputs_at, inputs_at) = if names.transposed && is_weight { (1, 0) } else { (0, 1) };
    let index = |copies: usize| {
        let places = (0..copies).flat_map(|copy| order.iter().map(move |&i| i + (copy * width) as u32));
        Tensor::from_iter(places, &Device::Cpu).unwrap()
    };
    if inputs || expert_gate || expert_up {
        tensor.index_select(&index(1 + usize::from(stacked)), outputs_at).unwrap()
    } else if (inside(names.down) && !experts || expert_down) && is_weight {
        tensor.index_select(&index(1), inputs_at).unwrap()
    } else {
        tensor.clone()
    }
}

#[test]
fn permuting_the_neurons_of_a_layer_permutes_its_counts() {
    walk(|folder| {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let architecture = family::read(&checkpoint).map_err(|error| error.to_string())?;
        let shape = architecture.spec.ffn;
        let order: Vec<u32> = (0..shape.width as u32).rev().collect();
        let build = |layer: Option<usize>| {
            Decoder::build(&architecture, Path::Inference, |name| {
                let tensor = checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
                Ok(layer.map_or(tensor.clone(), |layer| permuted(&architecture, layer, &order, name, &tensor)))
            })
            .unwrap()
        };
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        let count = |decoder: &Decoder| tally(decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
        let (plain, other) = (count(&build(None)), count(&build(Some(0))));
        for (flat, &n) in plain.active[0].iter().enumerate() {
            let neuron = shape.neuron(flat);
            let there = if neuron.layer == 0 { shape.width - 1 - neuron.index } else { neuron.index };
            let found = other.active[0][shape.flat(NeuronId { index: there, ..neuron })];
            if found != n {
                return Err(format!("{neuron:?} is active {n} times, and {found} times in its other place"));
            }
        }
        Ok(())
    });
}

#[test]
fn the_fused_and_the_differentiable_path_agree() {
    walk(|folder| {
        let (fused, plain) = (load(folder, Path::Inference)?, load(folder, Path::Differentiable)?);
        let reference = fixture(&folder.join("reference.safetensors"));
        let ids = ids(&reference["input_ids"]);
        let (a, b) = (fused.logits(&ids, &mut Unobserved).unwrap(), plain.logits(&ids, &mut Unobserved).unwrap());
        near("logits", &a, &b, 1e-4)?;
        let counted = tally(&plain, &ids, |tally| plain.observe(&ids, tally).unwrap());
        counts_agree(&counted.active[0], &reference["gate_active"], &reference["gate_near_zero"])
    });
}

#[test]
fn the_operators_that_every_device_has_agree_with_our_own() {
    walk(|folder| {
        let (ours, portable) = (load(folder, Path::Inference)?, load(folder, Path::Portable)?);
        let reference = fixture(&folder.join("reference.safetensors"));
        let ids = ids(&reference["input_ids"]);
        let (a, b) = (ours.logits(&ids, &mut Unobserved).unwrap(), portable.logits(&ids, &mut Unobserved).unwrap());
        near("logits", &a, &b, 1e-4)?;
        let counted = tally(&portable, &ids, |tally| portable.observe(&ids, tally).unwrap());
        counts_agree(&counted.active[0], &reference["gate_active"], &reference["gate_near_zero"])
    });
}

#[test]
fn in_bf16_every_family_is_near_itself_in_f32() {
    walk(|folder| {
        let checkpoint = Checkpoint::open(folder).map_err(|error| error.to_string())?;
        let load =
            |dtype, path| Decoder::load(&checkpoint, dtype, &Device::Cpu, path).map_err(|error| error.to_string());
        let (wide, narrow) = (load(DType::F32, Path::Inference)?, load(DType::BF16, Path::Inference)?);
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        let (a, b) = (wide.hidden(&ids, &mut Unobserved).unwrap(), narrow.hidden(&ids, &mut Unobserved).unwrap());
        let scale = floats(&a).iter().map(|x| x * x).sum::<f64>().sqrt();
        let error = floats(&(a - b).unwrap()).iter().map(|x| x * x).sum::<f64>().sqrt();
        // A mixture may send a token that is near the border to another expert.
        let allowed = if wide.spec().ffn.is_routed() { 0.5 } else { 0.05 };
        let logits = narrow.logits(&ids, &mut Unobserved).map_err(|error| error.to_string())?;
        if logits.dtype() != DType::F32 {
            return Err(format!("logits in {:?}", logits.dtype()));
        }
        if error < allowed * scale { Ok(()) } else { Err(format!("relative error {}", error / scale)) }
    });
}

#[test]
fn an_observer_changes_no_logit_and_a_whole_pass_counts_as_a_profiling_pass() {
    walk(|folder| {
        let decoder = load(folder, Path::Inference)?;
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        let unobserved = decoder.logits(&ids, &mut Unobserved).unwrap();
        let observed = std::cell::RefCell::new(None);
        let whole = tally(&decoder, &ids, |tally| drop(observed.replace(decoder.logits(&ids, tally).ok())));
        let profiled = tally(&decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
        if whole != profiled {
            return Err("the counts differ".to_owned());
        }
        near("logits", &observed.take().unwrap(), &unobserved, f32::MIN_POSITIVE)
    });
}

/// For each family a field that changes the arithmetic: folder, path of the field, a value that is not implemented.
const REFUSED: &[(&str, &str, &str)] = &[
    ("mistral-nemo", "attention_bias", "true"),
    ("mistral-nemo", "hidden_act", "\"quick_gelu\""),
    ("qwen2-tied", "rope_scaling", r#"{"type": "dynamic", "factor": 2.0}"#),
    ("qwen2-tied", "partial_rotary_factor", "0.5"),
    ("qwen3-tied", "layer_types", r#"["chunked_attention", "full_attention"]"#),
    ("gemma-tanh", "use_bidirectional_attention", "true"),
    ("gemma2", "use_bidirectional_attention", "true"),
    ("gemma2", "sliding_window_size", "9"),
    ("gemma3-text", "use_bidirectional_attention", "true"),
    ("gemma3-vision", "text_config/use_bidirectional_attention", "true"),
    ("phi3-short", "lm_head_bias", "true"),
    ("phi3-short", "full_attn_mod", "2"),
    ("phi3-short", "rope_scaling/short_factor", "[1.0]"),
    ("olmo2", "clip_qkv", "8.0"),
    ("cohere", "rope_scaling", r#"{"type": "dynamic", "factor": 2.0}"#),
    ("cohere2", "use_qk_norm", "true"),
    ("cohere2", "use_parallel_block", "false"),
    ("cohere2", "rotary_pct", "0.5"),
    ("smollm3", "no_rope_layers", "[1]"),
    ("gpt-neox", "hidden_act", "\"quick_gelu\""),
    ("phi", "hidden_act", "\"quick_gelu\""),
    ("bloom", "apply_residual_connection_post_layernorm", "true"),
    ("opt", "do_layer_norm_before", "false"),
    ("opt", "word_embed_proj_dim", "16"),
    ("opt", "_remove_final_layer_norm", "true"),
    ("mixtral", "num_experts_per_tok", "9"),
    ("mixtral", "hidden_act", "\"quick_gelu\""),
    ("qwen3-moe", "decoder_sparse_step", "2"),
    ("qwen3-moe", "mlp_only_layers", "[0]"),
    ("gpt2", "add_cross_attention", "true"),
    ("gpt2", "activation_function", "\"quick_gelu\""),
];

/// A copy of a checkpoint with another config.
fn changed(folder: &FilePath, change: impl FnOnce(&mut Value)) -> (TempDir, Checkpoint) {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(copy.path()).unwrap();
    (copy, checkpoint)
}

/// What is said of a checkpoint whose config was changed.
fn with_config(folder: &FilePath, change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let (_copy, checkpoint) = changed(folder, change);
    family::read(&checkpoint).map(drop).map_err(|error| error.to_string())
}

type Theirs = fn(Value, VarBuilder, &Tensor) -> candle_core::Result<Tensor>;

fn config<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Families that candle-transformers has: folder, fields that both get, fields that only theirs needs, their model.
/// Theirs counts a sliding window in another way or not at all, stretches no positions, and divides
/// scores by the root of the head's width only; these are switched off.
#[allow(clippy::type_complexity)]
fn second_oracle() -> Vec<(&'static str, Value, Value, Theirs)> {
    use candle_transformers::models::{
        gemma, gemma2, gemma3, mistral, mixtral, olmo2, phi, phi3, qwen2, qwen3, qwen3_moe, smol::smollm3,
    };
    let theta = || json!({"rope_theta": 10_000.0});
    vec![
        ("mistral-window", json!({"sliding_window": null}), json!({}), |c, vb, ids| {
            mistral::Model::new(&config(c), vb)?.forward(ids, 0)
        }),
        ("qwen2-tied", json!({}), json!({}), |c, vb, ids| {
            qwen2::ModelForCausalLM::new(&config(c), vb)?.forward(ids, 0)
        }),
        ("qwen3-tied", json!({}), json!({}), |c, vb, ids| {
            qwen3::ModelForCausalLM::new(&config(c), vb)?.forward(ids, 0)
        }),
        ("gemma-tanh", json!({}), json!({"rope_theta": 10_000.0, "hidden_activation": null}), |c, vb, ids| {
            gemma::Model::new(false, &config(c), vb)?.forward(ids, 0)
        }),
        (
            "gemma2",
            json!({"sliding_window": 4096, "sliding_window_size": 4096, "query_pre_attn_scalar": 16}),
            json!({}),
            |c, vb, ids| gemma2::Model::new(false, &config(c), vb)?.forward(ids, 0),
        ),
        (
            "gemma3-text",
            json!({"sliding_window": 4096, "rope_scaling": null, "query_pre_attn_scalar": 16}),
            json!({}),
            |c, vb, ids| gemma3::Model::new(false, &config(c), vb)?.forward(ids, 0),
        ),
        ("phi", json!({}), json!({}), |c, vb, ids| phi::Model::new(&config(c), vb)?.forward(ids)),
        ("phi3-window", json!({"sliding_window": null}), theta(), |c, vb, ids| {
            phi3::Model::new(&config(c), vb)?.forward(ids, 0)
        }),
        (
            "mixtral",
            json!({"sliding_window": null}),
            json!({"sliding_window": 4096, "use_flash_attn": false}),
            |c, vb, ids| mixtral::Model::new(&config(c), vb)?.forward(ids, 0),
        ),
        ("qwen3-moe", json!({}), json!({}), |c, vb, ids| {
            qwen3_moe::ModelForCausalLM::new(&config(c), vb)?.forward(ids, 0)
        }),
        ("smollm3", json!({}), json!({"tie_word_embeddings": true}), |c, vb, ids| {
            smollm3::ModelForCausalLM::new(&config(c), vb)?.forward(ids, 0)
        }),
        ("olmo2", json!({}), json!({}), |c, vb, ids| olmo2::Model::new(&config(c), vb)?.forward(ids, 0)),
    ]
}

#[test]
fn logits_are_those_of_candle_transformers_where_it_has_the_family() {
    let folders = checkpoints();
    for (name, both, theirs_only, model) in second_oracle() {
        let folder = folders.iter().find(|folder| folder.ends_with(name)).unwrap();
        let merge = |config: &mut Value, fields: &Value| {
            for (field, value) in fields.as_object().unwrap() {
                config[field] = value.clone();
            }
        };
        let (_copy, checkpoint) = changed(folder, |config| merge(config, &both));
        let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap();
        let mut config = Value::Object(checkpoint.config().clone());
        merge(&mut config, &theirs_only);
        let weights = family::read(&checkpoint).unwrap().tensors().into_iter().map(|need| {
            let tensor = checkpoint.tensor(&need.name, DType::F32, &Device::Cpu).unwrap();
            (need.name, tensor)
        });
        let weights = VarBuilder::from_tensors(weights.collect(), DType::F32, &Device::Cpu);
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        // Theirs gives the last position only.
        let theirs = model(config, weights, &ids).unwrap_or_else(|error| panic!("{name}: {error}"));
        let seq = ids.dim(1).unwrap();
        let ours = decoder.logits(&ids, &mut Unobserved).unwrap().i((.., seq - 1, ..)).unwrap();
        let theirs = theirs.reshape(ours.shape()).unwrap();
        near("logits", &theirs, &ours.contiguous().unwrap(), 1e-4).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn a_field_that_changes_the_arithmetic_and_is_not_implemented_is_refused_in_every_family() {
    let folders = checkpoints();
    for (name, field, value) in REFUSED {
        let folder = folders.iter().find(|folder| folder.ends_with(name)).unwrap_or_else(|| panic!("no {name}"));
        let value: Value = serde_json::from_str(value).unwrap();
        let said = with_config(folder, |config| {
            let (object, field) = match field.split_once('/') {
                Some((object, field)) => (&mut config[object], field),
                None => (config, *field),
            };
            object[field] = value.clone();
        });
        let said = said.expect_err(&format!("{name}: `{field}` is {value} and was accepted"));
        let named = field.replace('/', ".");
        assert!(said.contains(&format!("`{named}`")) || said.contains("rope_type"), "{name}: {said}");
    }
    let refused: BTreeSet<&str> = REFUSED.iter().map(|(name, _, _)| *name).collect();
    let families: BTreeSet<String> = refused.iter().map(|name| model_type(&folders, name)).collect();
    let all = family::FAMILIES.iter().map(|family| family.model_type.to_owned()).filter(|name| name != "llama");
    assert_eq!(families, all.collect(), "llama's are in bad_input.rs");
}

fn model_type(folders: &[PathBuf], name: &str) -> String {
    let folder = folders.iter().find(|folder| folder.ends_with(name)).unwrap();
    Checkpoint::open(folder).unwrap().config()["model_type"].as_str().unwrap().to_owned()
}

#[test]
fn a_field_that_nobody_knows_is_refused_in_every_family() {
    walk(|folder| {
        let said = with_config(folder, |config| config["surprise_factor"] = 2.into());
        match said {
            Err(said) if said.contains("surprise_factor") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Keeps every gate as it was given, and a copy of its values at that time.
#[derive(Default)]
struct Keeper {
    kept: Vec<Tensor>,
    copied: Vec<Tensor>,
}

impl Keeper {
    fn keep(&mut self, gate: &Tensor) -> candle_core::Result<()> {
        self.kept.push(gate.clone());
        self.copied.push(gate.copy()?);
        Ok(())
    }
}

impl Observer for Keeper {
    fn gate(&mut self, _: usize, gate: &Tensor) -> candle_core::Result<()> {
        self.keep(gate)
    }

    fn expert(&mut self, _: usize, _: usize, _: &[u32], gate: &Tensor) -> candle_core::Result<()> {
        self.keep(gate)
    }
}

#[test]
fn a_gate_that_an_observer_keeps_stays_what_it_was() {
    walk(|folder| {
        let decoder = load(folder, Path::Inference)?;
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        let mut keeper = Keeper::default();
        decoder.logits(&ids, &mut keeper).unwrap();
        assert!(keeper.kept.len() >= decoder.spec().ffn.layers);
        for (kept, copied) in keeper.kept.iter().zip(&keeper.copied) {
            near("gates", kept, copied, f32::MIN_POSITIVE)?;
        }
        Ok(())
    });
}

#[test]
fn every_weight_receives_a_gradient() {
    walk(|folder| {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let architecture = family::read(&checkpoint).map_err(|error| error.to_string())?;
        let mut vars: Vec<(String, Var)> = Vec::new();
        let decoder = Decoder::build(&architecture, Path::Differentiable, |name| {
            let var = Var::from_tensor(&checkpoint.tensor(name, DType::F32, &Device::Cpu)?)?;
            vars.push((name.to_owned(), var.clone()));
            Ok(var.as_tensor().clone())
        })
        .unwrap();
        let asked: BTreeSet<&String> = vars.iter().map(|(name, _)| name).collect();
        assert_eq!(asked.len(), vars.len(), "a tensor was asked for twice");
        let needed = architecture.tensors();
        assert_eq!(asked, needed.iter().map(|need| &need.name).collect());
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        let gradients = decoder.nll(&ids).unwrap().mean_all().unwrap().backward().unwrap();
        for (weight, var) in vars {
            let Some(gradient) = gradients.get(&var) else { return Err(format!("{weight} has no gradient")) };
            let size: f32 = gradient.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
            if size <= 0.0 {
                return Err(format!("the gradient of {weight} is zero"));
            }
        }
        Ok(())
    });
}

/// A sandbox with one of the tiny checkpoints, and a tokenizer of as many tokens.
fn sandbox(folder: &FilePath) -> Sandbox {
    let sandbox = Sandbox::new();
    let tokenizer = sandbox.read("model/tokenizer.json");
    sandbox.model(folder.to_str().unwrap());
    sandbox.write("model/tokenizer.json", tokenizer);
    sandbox
}

#[test]
fn the_program_profiles_every_family_and_says_which() {
    walk(|folder| {
        let said = sandbox(folder).profile(&[]);
        if said.code == 0 { Ok(()) } else { Err(said.text()) }
    });
}

#[test]
fn a_model_with_experts_comes_from_text_to_its_website() {
    let folders = checkpoints();
    let mixtral = folders.iter().find(|folder| folder.ends_with("mixtral")).unwrap();
    let sandbox = sandbox(mixtral).with_atlas();
    sandbox.run("verify atlas").done();
    sandbox.run("site atlas --out site --locales en").done();
    let page = sandbox
        .files("site")
        .into_iter()
        .find(|page| page.contains("mlt") && FilePath::new(page).extension().is_some_and(|ending| ending == "html"))
        .unwrap();
    assert!(String::from_utf8(sandbox.read(&page)).unwrap().contains("expert"));
}
