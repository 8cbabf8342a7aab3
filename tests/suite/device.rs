//! Devices, number formats and batches: what is asked for and what becomes of it.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use neuroglot::{
    checkpoint::Checkpoint,
    model::{self, Decoder, DecoderSpec, Observer, Tally, device::batch_tokens},
    profile::in_batches,
    tokens::Window,
};
use serde_json::Value;

use crate::{
    demo::committed,
    harness::{Sandbox, command, said},
};

#[test]
fn a_device_that_this_program_was_built_without_is_refused_in_words() {
    let sandbox = Sandbox::new();
    for (device, feature) in [("cuda", "cuda"), ("cuda:3", "cuda"), ("metal", "metal")] {
        if (feature == "cuda" && cfg!(feature = "cuda")) || (feature == "metal" && cfg!(feature = "metal")) {
            continue;
        }
        let said = sandbox.run(&format!(
            "profile --model model --corpus dir:text --tokens 64 --context 16 --out p --device {device}"
        ));
        assert_eq!(said.code, 1, "{}", said.stderr);
        let wanted = format!(
            "--device {device}: this program was built without {feature}; build it by `cargo build --release --features {feature}`, or take --device cpu"
        );
        assert!(said.stderr.contains(&wanted), "{}", said.stderr);
        assert!(!sandbox.path("p").exists());
    }
    let said = sandbox.run("profile --model model --corpus dir:text --tokens 64 --out p --device cuda:x");
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("`cuda:x` is no device; write auto, cpu, cuda, cuda:N or metal"), "{}", said.stderr);
}

/// What a program for GPUs says of the driver in `driver/libcuda.so.1`, which hides the real one, if there is one.
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
fn beside_a_driver(sandbox: &Sandbox, device: &str) -> crate::harness::Said {
    let paths = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let arguments = "profile --model model --corpus dir:text --tokens 64 --context 16 --out p".split(' ');
    let mut command = command(&sandbox.path(""), arguments.chain(["--device", device]));
    command.env("LD_LIBRARY_PATH", format!("{}:{paths}", sandbox.path("driver").display()));
    said(&sandbox.path(""), &command.output().unwrap())
}

#[test]
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
fn a_program_for_gpus_starts_without_their_driver_and_says_so() {
    let sandbox = Sandbox::new();
    sandbox.write("driver/libcuda.so.1", "no library");
    let refused = beside_a_driver(&sandbox, "cuda");
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("NVIDIA's driver is not on this machine ("), "{}", refused.stderr);
    assert!(!sandbox.path("p").exists());
    let fallen = beside_a_driver(&sandbox, "auto").done();
    assert!(fallen.stderr.contains("no GPU can be used, so this computes on the CPU"), "{}", fallen.stderr);
}

/// A driver of four functions: what they are given and what they give comes through.
#[test]
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
fn a_program_for_gpus_calls_the_driver_that_it_finds() {
    let sandbox = Sandbox::new();
    let source = r#"
        int cuInit(unsigned flags) { return flags; }
        int cuDeviceGet(int *device, int number) { *device = 1000 + number; return 0; }
        int cuDevicePrimaryCtxRetain(void **context, int device) { *context = 0; return device == 1003 ? 2 : 1; }
        int cuGetErrorString(int error, const char **words) { *words = error == 2 ? "no room" : "not these"; return 0; }
    "#;
    sandbox.write("driver/driver.c", source);
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let arguments = ["-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"];
    assert!(
        std::process::Command::new(compiler)
            .args(arguments)
            .current_dir(sandbox.path("driver"))
            .status()
            .unwrap()
            .success()
    );
    let refused = beside_a_driver(&sandbox, "cuda:3");
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--device cuda:3: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"no room\")"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_number_format_is_part_of_the_run() {
    let sandbox = Sandbox::new();
    let command = "profile --model model --corpus dir:text --tokens 64 --context 16 --out p";
    sandbox.run(&format!("{command} --dtype bf16")).done();
    let head: serde_json::Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("p/profile.json")).unwrap()).unwrap();
    assert_eq!((&head["parameters"]["precision"], &head["parameters"]["device"]), (&"bf16".into(), &"cpu".into()));
    let said = sandbox.run(command);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("precision"), "{}", said.stderr);
}

fn decoder(folder: &str) -> Decoder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    Decoder::load(&Checkpoint::open(&folder).unwrap(), DType::F32, &Device::Cpu, model::Path::Inference).unwrap()
}

/// Counts up to one layer and then has no more room.
struct Cramped<'a> {
    tally: &'a mut Tally,
    seen: usize,
    room: usize,
}

impl Observer for Cramped<'_> {
    fn gate(&mut self, _: usize, _: &Tensor) -> candle_core::Result<()> {
        candle_core::bail!("CUDA_ERROR_OUT_OF_MEMORY, as a driver says it")
    }

    fn expert(&mut self, layer: usize, _: usize, _: &[u32], gate: &Tensor) -> candle_core::Result<()> {
        self.gate(layer, gate)
    }

    fn tally(&mut self) -> Option<&mut Tally> {
        self.seen += 1;
        (self.seen <= self.room).then_some(&mut *self.tally)
    }
}

fn windows(decoder: &Decoder, n: usize, context: usize) -> Vec<Window> {
    let id = |i: usize| u32::try_from(i * 7919 % decoder.spec().vocabulary).unwrap();
    let folds = |window: usize| (0..context).map(move |i| u8::from((i + window) % 5 > 2)).collect();
    (0..n).map(|w| Window { ids: (0..context).map(|i| id(w * context + i)).collect(), folds: folds(w) }).collect()
}

fn ids(windows: &[Window]) -> Tensor {
    let (n, context) = (windows.len(), windows[0].ids.len());
    let ids: Vec<u32> = windows.iter().flat_map(|window| window.ids.clone()).collect();
    Tensor::from_vec(ids, (n, context), &Device::Cpu).unwrap()
}

#[test]
fn a_batch_without_room_is_halved_and_nothing_is_lost_or_counted_twice() {
    for folder in ["atlas/demo/model", "tests/fixtures/families/mixtral"] {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).exists();
        assert!(there, "{folder} is gone; take another mixture");
        let decoder = decoder(folder);
        let windows = windows(&decoder, 7, 12);
        let empty = || Tally::new(decoder.spec().ffn, 2);
        let mut whole = empty();
        let mut room = 7;
        in_batches(&windows, &mut room, &mut whole, &mut |windows, tally| decoder.observe(&ids(windows), tally))
            .unwrap();
        assert_eq!(room, 7);
        // Room for batches of two, and in larger ones for the first layer or two: the harder the larger the batch.
        let (mut halved, mut passes) = (empty(), Vec::new());
        in_batches(&windows, &mut room, &mut halved, &mut |windows, tally| {
            passes.push(windows.len());
            let room = if windows.len() <= 2 { usize::MAX } else { 8 - windows.len() };
            decoder.observe(&ids(windows), &mut Cramped { tally, seen: 0, room })
        })
        .unwrap();
        assert_eq!(room, 2, "{folder}");
        assert!(passes.iter().any(|&n| n > 2) && passes.iter().filter(|&&n| n <= 2).sum::<usize>() == 7, "{passes:?}");
        assert!((&halved.active, &halved.routed) == (&whole.active, &whole.routed), "{folder}: counts differ");
        if decoder.spec().ffn.is_routed() {
            // The router multiplies few tokens in other blocks than many, so that an expert's sums may differ in their last bits.
            for (a, b) in halved.sum.iter().zip(&whole.sum).chain(halved.sum_sq.iter().zip(&whole.sum_sq)) {
                assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{folder}: {a} for {b}");
            }
        } else {
            assert!((&halved.sum, &halved.sum_sq, &halved.max) == (&whole.sum, &whole.sum_sq, &whole.max), "{folder}");
        }
    }
}

#[test]
fn a_single_window_without_room_is_an_error() {
    let decoder = decoder("atlas/demo/model");
    let (windows, mut tally, mut room) = (windows(&decoder, 2, 12), Tally::new(decoder.spec().ffn, 2), 2);
    let failed = in_batches(&windows, &mut room, &mut tally, &mut |windows, tally| {
        decoder.observe(&ids(windows), &mut Cramped { tally, seen: 0, room: 1 })
    });
    assert!(failed.unwrap_err().to_string().contains("OUT_OF_MEMORY"));
}

#[test]
fn a_batch_is_whole_windows_and_at_least_one() {
    let spec = decoder("atlas/demo/model").spec().clone();
    let few = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for (context, wanted) in [(128, 2048), (500, 2000), (4096, 4096)] {
        assert_eq!(few.install(|| batch_tokens(&spec, DType::F32, &Device::Cpu, context)), wanted);
    }
}

#[test]
fn many_threads_have_as_many_tokens_each_as_memory_holds() {
    let spec = decoder("atlas/demo/model").spec().clone();
    let tokens = |spec: &DecoderSpec, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| batch_tokens(spec, DType::BF16, &Device::Cpu, 512))
    };
    assert_eq!([8, 16, 64, 200].map(|threads| tokens(&spec, threads)), [2048, 4096, 16_384, 16_384]);
    // 1.2 MB of activations per token: 3 GiB hold 2,684, and of a machine with less the batch is smaller still, but never below 2,048.
    let mut wide = spec;
    wide.ffn.width = 100_000;
    assert_eq!(tokens(&wide, 2), 2048);
    assert!([2048, 2560].contains(&tokens(&wide, 64)));
}

#[test]
fn the_demo_in_bf16_selects_what_it_selects_in_f32() {
    let sandbox = Sandbox::new();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("atlas/demo");
    let (model, text) = (demo.join("model"), demo.join("sentences"));
    let corpus = format!("dir:{}", text.display());
    let model = model.display().to_string();
    let profile = ["profile", "--model", &model, "--corpus", &corpus, "--languages", "all", "--dtype", "bf16"];
    let size = ["--tokens", "4096", "--context", "128", "--model-id", "neuroglot/demo-2.7m", "--out", "rounded"];
    said(&sandbox.path(""), &command(&sandbox.path(""), profile.into_iter().chain(size)).output().unwrap()).done();
    sandbox.run("identify rounded --out atlas").done();
    let exact = committed();
    let asked = format!("compare atlas {} --json", exact.display());
    let compared: Value = serde_json::from_str(&sandbox.run(&asked).done().stdout).unwrap();
    let pairs = compared["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 132);
    let sum = |name: &str| pairs.iter().map(|pair| pair[name].as_u64().unwrap()).sum::<u64>();
    let (shared, all) = (sum("shared"), sum("neurons_a") + sum("neurons_b"));
    // Jaccard over all (language, neuron): 0.998 on the machine where this was written.
    assert!(shared as f64 / (all - shared) as f64 >= 0.98, "{shared} shared of {all} in both");
}
