//! An NVIDIA GPU against the CPU. Only where there is one: `cargo test --release --features cuda --test suite -- --ignored cuda::`.

use std::{
    ops::Deref,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use candle_core::{DType, Device, Result, Tensor, Var};
use neuroglot::{
    checkpoint::Checkpoint,
    model::{
        Activations, Architecture, Cache, Decoder, Path, Tally, UNSCORED, Unobserved,
        device::{DeviceChoice, free_memory},
        family,
    },
    profile::in_batches,
    tokens::Window,
};
use serde_json::{Map, Value};

use crate::{
    adapt_bench as adapt, families,
    tensors::{counts_agree, fixture, floats, ids, tally},
};

/// Tests share the GPU, but for the one that looks at how much of its memory is free.
static GPU: RwLock<()> = RwLock::new(());

struct Gpu(Device, #[allow(dead_code)] RwLockReadGuard<'static, ()>);

impl Deref for Gpu {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

fn open() -> Device {
    DeviceChoice::Cuda(0).open().unwrap_or_else(|error| panic!("{error}")).device
}

fn gpu() -> Gpu {
    Gpu(open(), GPU.read().unwrap_or_else(PoisonError::into_inner))
}

fn load(folder: &FilePath, dtype: DType, device: &Device) -> Decoder {
    Decoder::load(&Checkpoint::open(folder).unwrap(), dtype, device, Path::Inference).unwrap()
}

fn demo() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("atlas/demo/model")
}

/// ‖a − b‖ / ‖b‖.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (floats(&a.to_device(&Device::Cpu).unwrap()), floats(&b.to_device(&Device::Cpu).unwrap()));
    assert_eq!(a.len(), b.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    square(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())
}

/// Windows of a length, of ids that the reference has.
fn longer(reference: &Tensor, windows: usize, seq: usize) -> Tensor {
    let known: Vec<u32> = ids(reference).flatten_all().unwrap().to_vec1().unwrap();
    let long = (0..windows * seq).map(|i| known[(i * 7 + i / known.len()) % known.len()]).collect();
    Tensor::from_vec(long, (windows, seq), &Device::Cpu).unwrap()
}

/// The share of signs that are another.
fn moved(a: &[u64], b: &[u64], tokens: usize) -> f64 {
    let moved: u64 = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).sum();
    moved as f64 / (tokens * a.len()) as f64
}

fn count(decoder: &Decoder, ids: &Tensor) -> Tally {
    let there = ids.to_device(decoder.device()).unwrap();
    let mut tally = tally(decoder, ids, |tally| decoder.observe(&there, tally).unwrap());
    tally.settle().unwrap();
    tally
}

/// Runs a check on every checkpoint and reports all that fail.
fn walk(check: impl Fn(&FilePath) -> std::result::Result<(), String>) {
    let name = |folder: &FilePath| folder.file_name().unwrap().to_string_lossy().into_owned();
    let folders = families::checkpoints();
    let failures: Vec<_> =
        folders.iter().filter_map(|f| check(f).err().map(|why| format!("{}: {why}", name(f)))).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn within(what: &str, found: f64, tolerance: f64) -> std::result::Result<(), String> {
    eprintln!("  {what}: {found:.2e}");
    if found <= tolerance { Ok(()) } else { Err(format!("{what}: {found:.2e}, more than {tolerance:.0e}")) }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_family_is_on_the_gpu_what_it_is_on_the_cpu() {
    let gpu = gpu();
    walk(|folder| {
        eprintln!("{}", folder.display());
        let reference = fixture(&folder.join("reference.safetensors"));
        let (cpu, wide) = (load(folder, DType::F32, &Device::Cpu), load(folder, DType::F32, &gpu));
        let narrow = load(folder, DType::BF16, &gpu);
        let own = ids(&reference["input_ids"]);
        let near = &reference["gate_near_zero"];
        counts_agree(&count(&wide, &own).active[0], &reference["gate_active"], near)?;
        // More than one block of queries, a last one that is no whole word, and one window alone.
        let known = cpu.spec().embedding.learned_positions.map_or(usize::MAX, |table| table.rows - table.offset);
        for (windows, seq) in [(2, 300), (1, 131), (3, 8)] {
            let seq = seq.min(known).min(cpu.spec().positions);
            let ids = longer(&reference["input_ids"], windows, seq);
            let there = ids.to_device(&gpu).unwrap();
            let logits = |decoder: &Decoder, ids: &Tensor| decoder.logits(ids, &mut Unobserved).unwrap();
            let wanted = logits(&cpu, &ids);
            let name = |what| format!("{what}, {windows} × {seq}");
            within(&name("logits in f32"), apart(&logits(&wide, &there), &wanted), 1e-4)?;
            // A router that rounds sends tokens to other experts.
            let routed = cpu.spec().ffn.is_routed();
            let tolerance = if routed { 0.5 } else { 0.1 };
            within(&name("logits in bf16"), apart(&logits(&narrow, &there), &wanted), tolerance)?;
            let (here, wide, narrow) = (count(&cpu, &ids), count(&wide, &ids), count(&narrow, &ids));
            let tokens = windows * seq;
            within(&name("signs in f32"), moved(&wide.active[0], &here.active[0], tokens), 1e-4)?;
            within(&name("signs in bf16"), moved(&narrow.active[0], &here.active[0], tokens), 0.05)?;
            let sums = |tally: &Tally| Tensor::from_slice(&tally.sum_sq, tally.sum_sq.len(), &Device::Cpu).unwrap();
            within(&name("squares in f32"), apart(&sums(&wide), &sums(&here)), 1e-4)?;
            let max = |tally: &Tally| Tensor::from_slice(&tally.max, tally.max.len(), &Device::Cpu).unwrap();
            let max = |tally: &Tally| max(tally).clamp(-1e30f32, 1e30).unwrap();
            within(&name("maxima in f32"), apart(&max(&wide), &max(&here)), 1e-4)?;
        }
        Ok(())
    });
}

/// A family's fixture with other sizes, and weights for it.
fn resized(
    family: &str,
    sizes: &[(&str, usize)],
) -> (Architecture, impl Fn(&str, DType, &Device) -> Result<Tensor> + use<>) {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(family);
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_slice(&config).unwrap();
    config.extend(sizes.iter().map(|&(name, size)| (name.to_owned(), size.into())));
    let architecture = family::of_config(folder, &config, &|_| false).unwrap();
    let needs = architecture.tensors();
    let weight = move |name: &str, dtype, device: &Device| {
        let shape = &needs.iter().find(|need| need.name == name).unwrap().shape;
        let seed = name.bytes().fold(1.0f32, |seed, byte| (seed * 31.0 + f32::from(byte)) % 1013.0);
        let values = (0..shape.iter().product()).map(|i: usize| 0.4 * (i as f32 * 0.618 + seed).sin()).collect();
        Tensor::from_vec::<_, f32>(values, shape.as_slice(), device)?.to_dtype(dtype)
    };
    (architecture, weight)
}

/// Heads of sizes that no fixture has, with whatever is done to scores: those of sizes that attention in one pass takes, and others.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn heads_of_every_size_attend_on_the_gpu_as_on_the_cpu() {
    let gpu = gpu();
    let mut cases = Vec::new();
    for dim in [24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 272] {
        cases.push((format!("mistral, heads of {dim}"), resized("mistral-nemo", &[("head_dim", dim)])));
    }
    for dim in [64, 128, 256] {
        let sizes = [("head_dim", dim), ("sliding_window", 70)];
        cases.push((format!("windows, heads of {dim}"), resized("mistral-window", &sizes)));
        let capped = [&sizes[..], &[("sliding_window_size", 70)]].concat();
        cases.push((format!("capped, heads of {dim}"), resized("gemma2", &capped)));
        let sizes = [("hidden_size", 2 * dim), ("n_head", 2)];
        cases.push((format!("slopes, heads of {dim}"), resized("bloom", &sizes)));
    }
    let mut failures = Vec::new();
    for (what, (architecture, weight)) in &cases {
        let run = |dtype, device: &Device, (windows, seq): (usize, usize)| {
            let decoder = Decoder::build(architecture, Path::Inference, |name| weight(name, dtype, device)).unwrap();
            let ids: Vec<u32> = (0..windows * seq).map(|i| (i * 7919 % decoder.spec().vocabulary) as u32).collect();
            let ids = Tensor::from_vec(ids, (windows, seq), device).unwrap();
            decoder.hidden(&ids, &mut Unobserved).unwrap().to_dtype(DType::F32).unwrap()
        };
        for sizes in [(2, 200), (3, 64), (1, 1)] {
            let wanted = run(DType::F32, &Device::Cpu, sizes);
            // The many norms of Gemma 2 make more of what is rounded: 0.15 where only the factors of products are, on the CPU.
            let narrow = if what.starts_with("capped") { 0.3 } else { 0.05 };
            for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::BF16, narrow)] {
                let found = apart(&run(dtype, &gpu, sizes), &wanted);
                failures.extend(within(&format!("{what}, {sizes:?}, {dtype:?}"), found, tolerance).err());
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Products that are large enough for another algorithm to be searched, before and after their search.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_that_come_again_and_again_keep_their_bits() {
    let gpu = gpu();
    let sizes = [("hidden_size", 2048), ("intermediate_size", 8192)];
    let (architecture, weight) = resized("mistral-nemo", &sizes);
    let decoder = Decoder::build(&architecture, Path::Inference, |name| weight(name, DType::BF16, &gpu)).unwrap();
    let ids: Vec<u32> = (0..8 * 512).map(|i| (i * 7919 % decoder.spec().vocabulary) as u32).collect();
    let ids = Tensor::from_vec(ids, (8, 512), &gpu).unwrap();
    let run = || {
        let hidden = decoder.hidden(&ids, &mut Unobserved).unwrap().to_device(&Device::Cpu).unwrap();
        hidden.flatten_all().unwrap().to_vec1::<half::bf16>().unwrap()
    };
    let first = run();
    assert!(first.iter().any(|x| x.to_f32() != 0.0) && first.iter().all(|x| x.is_finite()));
    let log = tempfile::NamedTempFile::new().unwrap();
    let told = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    tracing::subscriber::with_default(told.with_writer(Arc::new(log.reopen().unwrap())).finish(), || {
        for pass in 1..140 {
            assert!(run() == first, "pass {pass}");
        }
    });
    // Gate and up projections are of one size, down projections of another.
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(log.matches("products were compared").count(), 2, "{log}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn folds_and_batches_are_counted_on_the_gpu_as_on_the_cpu() {
    let (cpu, gpu) = (load(&demo(), DType::F32, &Device::Cpu), load(&demo(), DType::F32, &gpu()));
    let context = 128;
    let id = |i: usize| u32::try_from(i * 7919 % cpu.spec().vocabulary).unwrap();
    let folds =
        |window: usize| (0..context).map(move |i| u8::from((i + window) % 50 > 20) + u8::from(i > 100)).collect();
    let window = |w: usize| Window { ids: (0..context).map(|i| id(w * context + i)).collect(), folds: folds(w) };
    let windows: Vec<Window> = (0..11).map(window).collect();
    let run = |decoder: &Decoder, mut room: usize| {
        let mut tally = Tally::new(decoder.spec().ffn, 3);
        in_batches(&windows, &mut room, &mut tally, &mut |windows, tally| {
            let ids: Vec<u32> = windows.iter().flat_map(|window| window.ids.clone()).collect();
            decoder.observe(&Tensor::from_vec(ids, (windows.len(), context), decoder.device())?, tally)
        })
        .unwrap();
        tally.settle().unwrap();
        tally
    };
    let (here, there, apart) = (run(&cpu, 4), run(&gpu, 4), run(&gpu, 3));
    for fold in 0..3 {
        let share = moved(&here.active[fold], &there.active[fold], 11 * context);
        assert!(share < 1e-4, "fold {fold}: {share}");
        let share = moved(&apart.active[fold], &there.active[fold], 11 * context);
        assert!(share < 1e-4, "fold {fold} in other batches: {share}");
    }
    for ((a, b), what) in [(&here.sum, &there.sum), (&here.sum_sq, &there.sum_sq)].into_iter().zip(["sum", "squares"]) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-3 * (1.0 + a.abs()), "{what}: {a} here, {b} there");
        }
    }
    let again = run(&gpu, 4);
    assert!((&again.active, &again.sum, &again.sum_sq) == (&there.active, &there.sum, &there.sum_sq), "not repeatable");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn rows_are_extended_on_the_gpu_as_on_the_cpu() {
    let (cpu, gpu) = (load(&demo(), DType::F32, &Device::Cpu), load(&demo(), DType::F32, &gpu()));
    let rows: [Vec<u32>; 2] = [(5..40).collect(), (90..110).collect()];
    let run = |decoder: &Decoder| {
        let mut cache = Cache::new(2);
        let first: Vec<&[u32]> = rows.iter().map(|row| &row[..15]).collect();
        decoder.extend(&mut cache, &first).unwrap();
        let rest: Vec<&[u32]> = rows.iter().map(|row| &row[15..20]).collect();
        decoder.extend(&mut cache, &rest).unwrap()
    };
    let difference = apart(&run(&gpu), &run(&cpu));
    assert!(difference < 1e-4, "{difference}");
}

/// Loss of two windows and its gradients for all weights, by their names.
fn gradients(folder: &FilePath, device: &Device, activations: Activations) -> (f64, Vec<(String, Option<Tensor>)>) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let architecture = family::read(&checkpoint).unwrap();
    let (mut names, mut variables) = (Vec::new(), Vec::new());
    let weight = |name: &str| {
        let variable = Var::from_tensor(&checkpoint.tensor(name, DType::F32, device)?)?;
        names.push(name.to_owned());
        variables.push(variable.clone());
        Ok(variable.as_tensor().clone())
    };
    let decoder = Decoder::trained(&architecture, weight, |_, _| Ok(None)).unwrap();
    let ids: Vec<u32> = (0..140).map(|i| (i * 31 + 7) % decoder.spec().vocabulary as u32).collect();
    let targets: Vec<u32> = ids.iter().map(|id| if id % 5 == 0 { UNSCORED } else { id / 2 }).collect();
    let ids = Tensor::from_vec(ids, (2, 70), device).unwrap();
    let (loss, found) = decoder.gradients(&ids, &targets, &variables, activations).unwrap();
    (loss, names.into_iter().zip(found).collect())
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gradients_on_the_gpu_are_those_of_the_cpu() {
    let gpu = gpu();
    for folder in [demo(), FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/gemma2")] {
        let (loss, wanted) = gradients(&folder, &Device::Cpu, Activations::Kept);
        for activations in [Activations::Kept, Activations::Recomputed] {
            let (found_loss, found) = gradients(&folder, &gpu, activations);
            assert!((loss - found_loss).abs() < 1e-4 * loss, "{loss} here, {found_loss} there");
            assert!(!wanted.is_empty() && wanted.len() == found.len());
            for ((name, wanted), (_, found)) in wanted.iter().zip(&found) {
                let (Some(wanted), Some(found)) = (wanted, found) else { panic!("{name} has no gradient") };
                let difference = apart(found, wanted);
                assert!(difference < 1e-3, "{}, {name}: {difference}", folder.display());
            }
        }
    }
}

/// Beside frozen weights, whose kernels are others than those of trained ones.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_method_has_the_gradients_of_the_cpu() {
    let gpu = gpu();
    adapt::each(&adapt::dense(), |bench| {
        let (ids, targets) = (bench.ids.to_device(&gpu).unwrap(), bench.targets());
        for method in ["subnetwork", "lora", "ia3", "ffn"] {
            let run = |dtype, device: &Device, ids: &Tensor, activations| {
                let trainable = bench.disturbed(method, dtype, device);
                let (loss, found) = trainable.decoder.gradients(ids, &targets, &trainable.vars(), activations).unwrap();
                let home = |found: Option<Tensor>| found.unwrap().to_device(&Device::Cpu).unwrap();
                (loss, found.into_iter().map(home).collect::<Vec<_>>())
            };
            let (loss, wanted) = run(DType::F32, &Device::Cpu, &bench.ids, Activations::Kept);
            for (dtype, activations, tolerance) in [
                (DType::F32, Activations::Kept, 1e-3),
                (DType::F32, Activations::Recomputed, 1e-3),
                // On the CPU, where only the factors of products are rounded, LoRA's furthest is 0.31.
                (DType::BF16, Activations::Kept, 0.4),
            ] {
                let (found_loss, found) = run(dtype, &gpu, &ids, activations);
                let what = format!("{method} in {dtype:?}, {activations:?}");
                within(&format!("{what}, loss"), (loss - found_loss).abs() / loss, tolerance / 10.0)?;
                let furthest = wanted.iter().zip(&found).map(|(wanted, found)| adapt::relative(found, wanted));
                within(&format!("{what}, gradients"), furthest.fold(0.0, f64::max), tolerance)?;
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_gpu_says_how_much_memory_is_free_and_when_there_is_too_little() {
    let _alone = GPU.write().unwrap_or_else(PoisonError::into_inner);
    let gpu = open();
    let before = free_memory(&gpu).unwrap();
    assert!(before > 1 << 30, "{before}");
    let held = Tensor::zeros(1 << 28, DType::U8, &gpu).unwrap();
    let during = free_memory(&gpu).unwrap();
    assert!(during + (1 << 27) < before, "{during} with a quarter of a GB held, {before} without");
    drop(held);
    gpu.synchronize().unwrap();
    // What is kept for this program counts as free.
    assert!(free_memory(&gpu).unwrap() + (1 << 26) > before);
    let refused = Tensor::zeros(1usize << 42, DType::U8, &gpu).unwrap_err();
    assert!(neuroglot::model::device::is_out_of_memory(&refused), "{refused}");
    let number = DeviceChoice::Cuda(77).open().err().expect("there are no 78 GPUs");
    assert!(number.to_string().contains("--device cuda:77") && number.to_string().contains("nvidia-smi"), "{number}");
}
