//! The decoder against transformers (recorded by tests/oracles), against candle-transformers, and against itself.

use std::path::PathBuf;

use candle_core::{DType, Device, IndexOp, Tensor};
use neuroglot::{
    checkpoint::Checkpoint,
    model::{Decoder, Observer, Path, Tally, Unobserved, family},
};
use serde_json::json;

use crate::tensors::{counts_agree, fixture, floats, ids, largest_difference, tally};

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn decoder(folder: &str, path: Path) -> Decoder {
    let checkpoint = Checkpoint::open(&repository(folder)).unwrap();
    Decoder::load(&checkpoint, DType::F32, &Device::Cpu, path).unwrap()
}

#[test]
fn the_bundled_models_logits_and_hidden_states_are_those_of_transformers() {
    let decoder = decoder("atlas/demo/model", Path::Inference);
    let reference = fixture(&repository("tests/fixtures/demo_logits.safetensors"));
    let ids = ids(&reference["input_ids"]);
    let logits = decoder.logits(&ids, &mut Unobserved).unwrap();
    let positions = ids_u32(&reference["positions"]);
    let picked = logits.index_select(&Tensor::new(positions.as_slice(), &Device::Cpu).unwrap(), 1).unwrap();
    assert!(largest_difference(&picked, &reference["logits"]) < 1e-4);
    let hidden = decoder.hidden(&ids, &mut Unobserved).unwrap();
    assert!(largest_difference(&hidden, &reference["last_hidden"]) < 1e-4);
    for (found, wanted) in floats(&decoder.nll(&ids).unwrap()).iter().zip(floats(&reference["nll"])) {
        assert!((found - wanted).abs() < 1e-5 * wanted, "{found} nats here, {wanted} in the reference");
    }
}

fn ids_u32(tensor: &Tensor) -> Vec<u32> {
    ids(tensor).to_vec1().unwrap()
}

#[test]
fn the_bundled_models_counts_and_moments_are_those_of_transformers() {
    let decoder = decoder("atlas/demo/model", Path::Inference);
    let reference = fixture(&repository("tests/fixtures/demo_logits.safetensors"));
    let ids = ids(&reference["input_ids"]);
    let tally = tally(&decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
    counts_agree(&tally.active[0], &reference["gate_active"], &reference["gate_near_zero"]).unwrap();
    for (name, found) in [("gate_sum", &tally.sum), ("gate_sum_sq", &tally.sum_sq)] {
        for (found, wanted) in found.iter().zip(floats(&reference[name])) {
            assert!(
                (found - wanted).abs() < 1e-4 * (1.0 + wanted.abs()),
                "{name}: {found} here, {wanted} in the reference"
            );
        }
    }
    for (found, wanted) in tally.max.iter().zip(floats(&reference["gate_max"])) {
        assert!((f64::from(*found) - wanted).abs() < 1e-4 * (1.0 + wanted.abs()));
    }
}

/// Sees every gate through the general seam instead of lending a tally.
struct Watcher(Vec<(usize, Vec<usize>)>);

impl Observer for Watcher {
    fn gate(&mut self, layer: usize, gate: &Tensor) -> candle_core::Result<()> {
        self.0.push((layer, gate.dims().to_vec()));
        Ok(())
    }
}

#[test]
fn an_observer_sees_every_layers_gate_once_and_changes_no_logit() {
    let decoder = decoder("atlas/demo/model", Path::Inference);
    let ids = ids(&fixture(&repository("tests/fixtures/demo_logits.safetensors"))["input_ids"]);
    let unobserved = decoder.logits(&ids, &mut Unobserved).unwrap();
    let mut watcher = Watcher(Vec::new());
    let watched = decoder.logits(&ids, &mut watcher).unwrap();
    let wanted: Vec<_> = (0..6).map(|layer| (layer, vec![6, 64, 768])).collect();
    assert_eq!(watcher.0, wanted);
    let mut counted = None;
    let tally = tally(&decoder, &ids, |tally| drop(decoder.logits(&ids, tally).unwrap()));
    counted.replace(tally);
    assert!(largest_difference(&unobserved, &watched) == 0.0);
    let mut again = Watcher(Vec::new());
    decoder.observe(&ids, &mut again).unwrap();
    assert_eq!(again.0, wanted);
}

#[test]
fn a_batch_of_windows_counts_as_its_windows_one_by_one() {
    let decoder = decoder("atlas/demo/model", Path::Inference);
    let ids = ids(&fixture(&repository("tests/fixtures/demo_logits.safetensors"))["input_ids"]);
    let together = tally(&decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
    let mut apart = Tally::new(decoder.spec().ffn, 1);
    for row in 0..6 {
        apart.begin([[0u8; 64].as_slice()]);
        decoder.observe(&ids.i(row..=row).unwrap(), &mut apart).unwrap();
    }
    assert_eq!(together.active, apart.active);
    assert_eq!(together.sum, apart.sum, "sums are added in the order of the tokens, whatever the batch");
}

#[test]
fn the_folds_of_tokens_add_up_to_the_counts_without_folds() {
    let decoder = decoder("atlas/demo/model", Path::Inference);
    let ids = ids(&fixture(&repository("tests/fixtures/demo_logits.safetensors"))["input_ids"]);
    let whole = tally(&decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
    let folds: Vec<Vec<u8>> = (0..6).map(|row| (0..64).map(|token| ((token / 7 + row) % 3) as u8).collect()).collect();
    let mut folded = Tally::new(decoder.spec().ffn, 3);
    folded.begin(folds.iter().map(Vec::as_slice));
    decoder.observe(&ids, &mut folded).unwrap();
    for (neuron, &n) in whole.active[0].iter().enumerate() {
        assert_eq!(n, folded.active.iter().map(|fold| fold[neuron]).sum::<u64>());
    }
}

/// The gates of every layer, one pass after the other.
struct Keeper(Vec<Vec<f32>>);

impl Observer for Keeper {
    fn gate(&mut self, _: usize, gate: &Tensor) -> candle_core::Result<()> {
        self.0.push(gate.flatten_all()?.to_vec1()?);
        Ok(())
    }
}

#[test]
fn what_is_counted_panel_by_panel_is_what_an_observer_of_whole_gates_counts() {
    let fixture = fixture(&repository("tests/fixtures/demo_logits.safetensors"));
    // So many tokens that every thread has some, up to 64 of them, in stretches of every length.
    let ids = Tensor::cat(&vec![ids(&fixture["input_ids"]); 11], 0).unwrap();
    let (batch, seq) = ids.dims2().unwrap();
    let fold = |token: usize| (token * token / 50 % 3) as u8;
    let folds: Vec<Vec<u8>> = (0..batch).map(|row| (0..seq).map(|token| fold(row + token)).collect()).collect();
    for dtype in [DType::F32, DType::BF16] {
        let checkpoint = Checkpoint::open(&repository("atlas/demo/model")).unwrap();
        let decoder = Decoder::load(&checkpoint, dtype, &Device::Cpu, Path::Inference).unwrap();
        let mut tally = Tally::new(decoder.spec().ffn, 3);
        tally.begin(folds.iter().map(Vec::as_slice));
        decoder.observe(&ids, &mut tally).unwrap();
        let mut keeper = Keeper(Vec::new());
        decoder.observe(&ids, &mut keeper).unwrap();
        for (layer, gates) in keeper.0.iter().enumerate() {
            let mut active = vec![vec![0u64; 768]; 3];
            let (mut sum, mut sum_sq, mut max) = (vec![0f64; 768], vec![0f64; 768], vec![f64::NEG_INFINITY; 768]);
            for (gates, &fold) in gates.chunks_exact(768).zip(folds.iter().flatten()) {
                for (neuron, &gate) in gates.iter().enumerate() {
                    let silu = f64::from(gate) / (1.0 + f64::from(-gate).exp());
                    active[usize::from(fold)][neuron] += u64::from(gate > 0.0);
                    sum[neuron] += silu;
                    sum_sq[neuron] += silu * silu;
                    max[neuron] = max[neuron].max(silu);
                }
            }
            let own = layer * 768..(layer + 1) * 768;
            for (found, wanted) in tally.active.iter().zip(&active) {
                assert_eq!(found[own.clone()], wanted[..], "{dtype:?}, layer {layer}");
            }
            let max_found: Vec<f64> = tally.max[own.clone()].iter().map(|&max| f64::from(max)).collect();
            for (found, wanted) in [(&tally.sum[own.clone()], &sum), (&tally.sum_sq[own], &sum_sq), (&max_found, &max)]
            {
                for (found, wanted) in found.iter().zip(wanted) {
                    assert!((found - wanted).abs() < 1e-5 * (1.0 + wanted.abs()) + 1e-3, "{found} for {wanted}");
                }
            }
        }
    }
}

/// A decoder of made-up weights.
fn made_up(config: &serde_json::Value, dtype: DType, path: Path) -> Decoder {
    let architecture = family::of_config("config.json".into(), config.as_object().unwrap(), &|_| false).unwrap();
    let needs = architecture.tensors();
    let weight = |name: &str| {
        let need = needs.iter().find(|need| need.name == name).unwrap();
        let values = (0..need.shape.iter().product()).map(|i: usize| (i * 7919 % 1009) as f32 / 8072.0 - 0.0625);
        Tensor::from_iter(values, &Device::Cpu)?.reshape(need.shape.as_slice())?.to_dtype(dtype)
    };
    Decoder::build(&architecture, path, weight).unwrap()
}

#[test]
fn networks_of_any_width_give_what_plain_operators_give() {
    for (hidden, neurons, heads) in [(44, 101, 2), (36, 7, 3), (96, 48, 1), (40, 147, 4), (104, 1539, 2)] {
        let config = json!({
            "model_type": "llama", "vocab_size": 97, "hidden_size": hidden, "intermediate_size": neurons,
            "num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": 22,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
        });
        let ids = Tensor::from_iter((0..5 * 37).map(|i| (i * 31 % 97) as u32), &Device::Cpu).unwrap();
        let ids = ids.reshape((5, 37)).unwrap();
        let [fused, plain] = [Path::Inference, Path::Differentiable].map(|path| {
            let decoder = made_up(&config, DType::F32, path);
            // More tokens than two threads would share panels for.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
            let mut logits = None;
            // Counted, for then a network goes through the kernels as a whole.
            let tally = tally(&decoder, &ids, |tally| {
                logits = Some(pool.install(|| decoder.logits(&ids, tally)).unwrap());
            });
            (logits.unwrap(), tally)
        });
        let difference = largest_difference(&fused.0, &plain.0);
        assert!(difference < 1e-4, "{hidden} wide, {neurons} neurons: {difference}");
        for (fused, plain) in fused.1.sum.iter().zip(&plain.1.sum) {
            assert!((fused - plain).abs() < 1e-3, "{hidden} wide, {neurons} neurons: {fused} for {plain}");
        }
    }
}

#[test]
fn queries_see_as_many_keys_as_their_window_has_in_blocks_of_any_kind() {
    for window in [1, 9, 63, 64, 65, 70, 129, 400] {
        let config = json!({
            "model_type": "mistral", "vocab_size": 97, "hidden_size": 40, "intermediate_size": 50, "num_hidden_layers": 2,
            "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 22, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true, "sliding_window": window,
        });
        let ids = Tensor::from_iter((0..2 * 203).map(|i| (i * 31 % 97) as u32), &Device::Cpu).unwrap();
        let ids = ids.reshape((2, 203)).unwrap();
        let [ours, plain] = [Path::Inference, Path::Differentiable].map(|path| {
            let decoder = made_up(&config, DType::F32, path);
            let mut logits = None;
            tally(&decoder, &ids, |tally| logits = Some(decoder.logits(&ids, tally).unwrap()));
            logits.unwrap()
        });
        let difference = largest_difference(&ours, &plain);
        assert!(difference < 1e-4, "{window} keys: {difference}");
    }
}

#[test]
fn counts_and_moments_are_the_same_bits_with_any_number_of_threads() {
    // So wide that a product is added up in more than one block.
    let config = json!({
        "model_type": "llama", "vocab_size": 97, "hidden_size": 1088, "intermediate_size": 1603, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
    });
    // With three threads each has its own windows; with twenty a task is a run of 64 tokens, or one of a single token.
    let (batch, seq) = (32, 65);
    let ids = Tensor::from_iter((0..batch * seq).map(|i| (i * 31 % 97) as u32), &Device::Cpu).unwrap();
    let ids = ids.reshape((batch, seq)).unwrap();
    let folds = [[0u8; 64].as_slice(), &[1]].concat();
    for dtype in [DType::F32, DType::BF16] {
        let decoder = made_up(&config, dtype, Path::Inference);
        let counted = [1, 3, 20, 40].map(|threads| {
            let mut tally = Tally::new(decoder.spec().ffn, 2);
            tally.begin(vec![folds.as_slice(); batch]);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| decoder.observe(&ids, &mut tally)).unwrap();
            (threads, tally)
        });
        let (_, one) = &counted[0];
        for (threads, many) in &counted[1..] {
            let same =
                (&many.active, &many.sum, &many.sum_sq, &many.max) == (&one.active, &one.sum, &one.sum_sq, &one.max);
            assert!(same, "{dtype:?}, {threads} threads");
        }
    }
}

#[test]
fn permuting_the_neurons_of_a_layer_permutes_its_counts() {
    let checkpoint = Checkpoint::open(&repository("atlas/demo/model")).unwrap();
    let architecture = family::read(&checkpoint).unwrap();
    let order: Vec<u32> = (0..768u32).map(|i| (i * 5 + 3) % 768).collect();
    let index = Tensor::new(order.as_slice(), &Device::Cpu).unwrap();
    let permuted = Decoder::build(&architecture, Path::Inference, |name| {
        let weight = checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
        match name {
            "model.layers.2.mlp.gate_proj.weight" | "model.layers.2.mlp.up_proj.weight" => {
                weight.index_select(&index, 0)
            }
            "model.layers.2.mlp.down_proj.weight" => weight.index_select(&index, 1),
            _ => Ok(weight),
        }
    })
    .unwrap();
    let plain = decoder("atlas/demo/model", Path::Inference);
    let ids = ids(&fixture(&repository("tests/fixtures/demo_logits.safetensors"))["input_ids"]);
    let a = tally(&plain, &ids, |tally| plain.observe(&ids, tally).unwrap());
    let b = tally(&permuted, &ids, |tally| permuted.observe(&ids, tally).unwrap());
    let layer = |tally: &Tally| tally.active[0][2 * 768..3 * 768].to_vec();
    let (a, b) = (layer(&a), layer(&b));
    assert!(order.iter().enumerate().all(|(to, &from)| b[to] == a[from as usize]));
}

#[test]
fn the_bundled_models_logits_are_those_of_candle_transformers() {
    use candle_transformers::models::llama::{Cache, Config, Llama};
    let config = Config {
        hidden_size: 128,
        intermediate_size: 768,
        vocab_size: 5120,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        use_flash_attn: false,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: 512,
        tie_word_embeddings: true,
    };
    let weights =
        candle_core::safetensors::load(repository("atlas/demo/model/model.safetensors"), &Device::Cpu).unwrap();
    let weights = candle_nn::VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let llama = Llama::load(weights, &config).unwrap();
    let decoder = decoder("atlas/demo/model", Path::Inference);
    let ids = ids(&fixture(&repository("tests/fixtures/demo_logits.safetensors"))["input_ids"]);
    let mut cache = Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
    // It gives the last position's logits only.
    let theirs = llama.forward(&ids, 0, &mut cache).unwrap();
    let ours = decoder.logits(&ids, &mut Unobserved).unwrap().i((.., 63, ..)).unwrap();
    assert!(largest_difference(&theirs, &ours.contiguous().unwrap()) < 1e-4);
}
