//! The GPU's kernels without a GPU: the same text compiled as C++ and run thread after thread, held to the formulas.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use half::bf16;
use tempfile::TempDir;

/// The order of the kernel's numbers for them.
type Formula = fn(f64) -> f64;
const ACTIVATIONS: [(&str, Formula); 4] = [
    ("SiLU", |x| x / (1.0 + (-x).exp())),
    ("GELU", |x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))),
    ("GELU by tanh", |x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())),
    ("ReLU", |x| x.max(0.0)),
];

/// By its power series, which is exact enough for small arguments.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn compile(folder: &TempDir) -> std::path::PathBuf {
    let program = folder.path().join("on_processor");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/on_processor.cpp");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let done = Command::new(&compiler).args(["-std=c++14", "-O1", "-w", "-o"]).arg(&program).arg(source).output();
    let done = done.unwrap_or_else(|error| panic!("{compiler}: {error}; building the dependencies needs it too"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    program
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

struct Answer {
    out: Vec<f64>,
    active: Vec<u64>,
    sum: Vec<f64>,
    sum_sq: Vec<f64>,
    max: Vec<f32>,
}

const TOKENS: usize = 150;
const WIDTH: usize = 70;
const LAYERS: usize = 3;
const LAYER: usize = 1;
/// Ends of runs and their folds: of different lengths, folds that change and come again.
const RUNS: [(usize, usize); 5] = [(64, 0), (65, 1), (100, 1), (149, 0), (150, 2)];
const FOLDS: usize = 3;

fn run(program: &std::path::Path, kind: usize, gate: &[f32], up: Option<&[f32]>, narrow: bool) -> Answer {
    let size = |n: usize| u32::try_from(n).unwrap();
    let mut input = words(&[
        size(kind),
        size(TOKENS),
        size(WIDTH),
        size(LAYERS),
        size(LAYER),
        size(FOLDS),
        u32::from(up.is_some()),
        u32::from(narrow),
    ]);
    input.extend(words(&[size(RUNS.len()), 0]));
    input.extend(words(&RUNS.map(|(end, _)| size(end))));
    input.extend(words(&RUNS.map(|(_, fold)| size(fold))));
    for value in gate.iter().chain(up.unwrap_or_default()) {
        if narrow {
            input.extend(bf16::from_f32(*value).to_le_bytes());
        } else {
            input.extend(value.to_le_bytes());
        }
    }
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let mut bytes = output.stdout.as_slice();
    let mut take = |n: usize| {
        let (head, rest) = bytes.split_at(n);
        bytes = rest;
        head.to_vec()
    };
    let out = if narrow {
        take(2 * TOKENS * WIDTH).chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
    } else {
        take(4 * TOKENS * WIDTH).chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    let neurons = LAYERS * WIDTH;
    let eight = |bytes: Vec<u8>| bytes.chunks(8).map(|b| <[u8; 8]>::try_from(b).unwrap()).collect::<Vec<_>>();
    Answer {
        out,
        active: eight(take(8 * FOLDS * neurons)).into_iter().map(u64::from_le_bytes).collect(),
        sum: eight(take(8 * neurons)).into_iter().map(f64::from_le_bytes).collect(),
        sum_sq: eight(take(8 * neurons)).into_iter().map(f64::from_le_bytes).collect(),
        max: take(4 * neurons).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
    }
}

#[test]
fn the_gpus_kernels_multiply_and_count_as_the_formulas_say() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder);
    let wave = |i: usize, step: f32| 3.0 * (i as f32 * step).sin();
    let gate: Vec<f32> = (0..TOKENS * WIDTH).map(|i| if i % 97 == 0 { 0.0 } else { wave(i, 0.7) }).collect();
    let up: Vec<f32> = (0..TOKENS * WIDTH).map(|i| wave(i, 1.3)).collect();
    for narrow in [false, true] {
        let seen = |x: f32| if narrow { bf16::from_f32(x).to_f64() } else { f64::from(x) };
        let tolerance = if narrow { 1.0 / 256.0 } else { 1e-6 };
        for (kind, (name, formula)) in ACTIVATIONS.iter().enumerate() {
            for up in [Some(up.as_slice()), None] {
                let answer = run(&program, kind, &gate, up, narrow);
                let what = format!("{name}, {}, bf16 {narrow}", if up.is_some() { "gated" } else { "plain" });
                for (i, found) in answer.out.iter().enumerate() {
                    let wanted = formula(seen(gate[i])) * up.map_or(1.0, |up| seen(up[i]));
                    assert!((found - wanted).abs() <= tolerance * (1.0 + wanted.abs()), "{what}: {found} for {wanted}");
                }
                for neuron in 0..WIDTH {
                    let at = LAYER * WIDTH + neuron;
                    let column = |tokens: std::ops::Range<usize>| tokens.map(|t| seen(gate[t * WIDTH + neuron]));
                    let mut start = 0;
                    let mut active = [0u64; FOLDS];
                    for (end, fold) in RUNS {
                        active[fold] += 2 * column(start..end).filter(|&g| g > 0.0).count() as u64;
                        start = end;
                    }
                    for (fold, wanted) in active.into_iter().enumerate() {
                        assert_eq!(
                            answer.active[fold * LAYERS * WIDTH + at],
                            wanted,
                            "{what}, neuron {neuron}, fold {fold}"
                        );
                    }
                    let sum = 2.0 * column(0..TOKENS).map(formula).sum::<f64>();
                    let squares = 2.0 * column(0..TOKENS).map(|g| formula(g).powi(2)).sum::<f64>();
                    let max = column(0..TOKENS).map(formula).fold(f64::NEG_INFINITY, f64::max);
                    assert!((answer.sum[at] - sum).abs() < 1e-5 * (1.0 + squares), "{what}");
                    assert!((answer.sum_sq[at] - squares).abs() < 1e-5 * (1.0 + squares), "{what}");
                    assert!((f64::from(answer.max[at]) - max).abs() < 1e-6, "{what}");
                }
                let others = answer.active.iter().enumerate().filter(|(i, _)| i % (LAYERS * WIDTH) / WIDTH != LAYER);
                assert!(others.into_iter().all(|(_, &n)| n == 0), "{what}: another layer's neurons were counted");
            }
        }
    }
}
