//! The GPU's kernels without a GPU: the same text compiled as C++ and run thread after thread, held to the formulas.

use std::{
    io::Write,
    path::{Path, PathBuf},
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
pub fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

pub fn compile(folder: &TempDir, name: &str) -> PathBuf {
    let program = folder.path().join(name);
    let source = format!("{}/tests/gpu/{name}.cpp", env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let arguments = ["-std=c++17", "-O1", "-w", "-pthread", "-o"];
    let done = Command::new(&compiler).args(arguments).arg(&program).arg(source).output();
    let done = done.unwrap_or_else(|error| panic!("{compiler}: {error}; building the dependencies needs it too"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    program
}

pub fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Numbers as the kernels read them.
pub fn stored(values: &[f32], narrow: bool) -> Vec<u8> {
    if narrow {
        values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

pub fn loaded(bytes: &[u8], narrow: bool) -> Vec<f64> {
    if narrow {
        bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
    } else {
        bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    }
}

/// What a program answers.
pub fn answer(program: &Path, input: Vec<u8>) -> Vec<u8> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

struct Answer {
    out: Vec<f64>,
    active: Vec<u64>,
    sum: Vec<f64>,
    sum_sq: Vec<f64>,
    max: Vec<f32>,
}

const TOKENS: usize = 150;
const WIDTH: usize = 72;
const LAYERS: usize = 3;
const LAYER: usize = 1;
/// Ends of runs and their folds: of different lengths, folds that change and come again.
const RUNS: [(usize, usize); 5] = [(64, 0), (65, 1), (100, 1), (149, 0), (150, 2)];
const FOLDS: usize = 3;

pub fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap()
}

fn run(program: &Path, kind: usize, gate: &[f32], up: Option<&[f32]>, [narrow, wide]: [bool; 2]) -> Answer {
    let sizes = [kind, TOKENS, WIDTH, LAYERS, LAYER, FOLDS].map(size);
    let mut input = words(&sizes);
    input.extend(words(&[u32::from(up.is_some()), u32::from(narrow), u32::from(wide)]));
    input.extend(words(&[size(RUNS.len()), 0]));
    input.extend(words(&RUNS.map(|(end, _)| size(end))));
    input.extend(words(&RUNS.map(|(_, fold)| size(fold))));
    input.extend(stored(&[gate, up.unwrap_or_default()].concat(), narrow));
    let output = answer(program, input);
    let mut bytes = output.as_slice();
    let mut take = |n: usize| {
        let (head, rest) = bytes.split_at(n);
        bytes = rest;
        head.to_vec()
    };
    let out = loaded(&take((if narrow { 2 } else { 4 }) * TOKENS * WIDTH), narrow);
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
    let program = compile(&folder, "activation");
    let wave = |i: usize, step: f32| 3.0 * (i as f32 * step).sin();
    let gate: Vec<f32> = (0..TOKENS * WIDTH).map(|i| if i % 97 == 0 { 0.0 } else { wave(i, 0.7) }).collect();
    let up: Vec<f32> = (0..TOKENS * WIDTH).map(|i| wave(i, 1.3)).collect();
    for [narrow, wide] in [[false, false], [false, true], [true, false], [true, true]] {
        let seen = |x: f32| if narrow { bf16::from_f32(x).to_f64() } else { f64::from(x) };
        let tolerance = if narrow { 1.0 / 256.0 } else { 1e-6 };
        for (kind, (name, formula)) in ACTIVATIONS.iter().enumerate() {
            for up in [Some(up.as_slice()), None] {
                let answer = run(&program, kind, &gate, up, [narrow, wide]);
                let what =
                    format!("{name}, {}, bf16 {narrow}, wide {wide}", if up.is_some() { "gated" } else { "plain" });
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

/// Some tokens of windows, heads before tokens, turned by the formula.
#[test]
fn the_gpus_kernels_put_heads_first_and_turn_them() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "attention");
    let (windows, seq, heads, dim, first, tokens) = (2, 7, 3, 32, 2, 4);
    let x: Vec<f32> = (0..windows * seq * heads * dim).map(|i| (i as f32 * 0.37).sin()).collect();
    for [narrow, wide] in [[false, false], [false, true], [true, false], [true, true]] {
        let seen = |x: f32| if narrow { bf16::from_f32(x).to_f64() } else { f64::from(x) };
        for (rotated, interleaved) in [(32, false), (16, false), (0, false), (32, true), (6, true), (6, false)] {
            if wide && (interleaved || rotated == 6) {
                continue;
            }
            let half = rotated / 2;
            let angle = |position: usize, i: usize| (position + 1) as f32 * 0.9f32.powi(i as i32);
            let table = |value: fn(f32) -> f32| -> Vec<f32> {
                (0..seq * half).map(|i| value(angle(i / half, i % half))).collect()
            };
            let (cos, sin) = (table(f32::cos), table(f32::sin));
            let sizes = [0, usize::from(narrow), usize::from(wide), windows, seq, heads, dim, first, tokens, rotated];
            let mut input = words(&sizes.map(size));
            let first_flag = input.len();
            input.extend(words(&[u32::from(interleaved)]));
            input.extend(stored(&[x.as_slice(), &cos, &sin].concat(), narrow));
            let numbers = loaded(&answer(&program, input.clone()), narrow);
            let (turned, back) = numbers.split_at(windows * heads * tokens * dim);
            input[first_flag..first_flag + 4].copy_from_slice(&(u32::from(interleaved) + 2).to_le_bytes());
            let again = loaded(&answer(&program, input), narrow);
            for (found, x) in again[turned.len()..].iter().zip(&x) {
                let tolerance = if narrow { 1.0 / 64.0 } else { 1e-6 };
                assert!((found - seen(*x)).abs() <= tolerance, "turned back, rotated {rotated}: {found} for {x}");
            }
            let mut wanted_back: Vec<f64> = x.iter().map(|&x| seen(x)).collect();
            for (at, &found) in turned.iter().enumerate() {
                let (i, token) = (at % dim, at / dim % tokens);
                let (head, window) = (at / dim / tokens % heads, at / dim / tokens / heads);
                let row = ((window * seq + first + token) * heads + head) * dim;
                let (low, partner, pair) = match i {
                    _ if i >= rotated => (true, i, None),
                    _ if interleaved => (i % 2 == 0, i ^ 1, Some(i / 2)),
                    _ if i < half => (true, i + half, Some(i)),
                    _ => (false, i - half, Some(i - half)),
                };
                let (own, other) = (seen(x[row + i]), seen(x[row + partner]));
                let wanted = pair.map_or(own, |pair| {
                    let place = (first + token) * half + pair;
                    let sign = if low { -1.0 } else { 1.0 };
                    own * seen(cos[place]) + sign * other * seen(sin[place])
                });
                let tolerance = if narrow { 1.0 / 128.0 } else { 1e-6 };
                assert!(
                    (found - wanted).abs() <= tolerance,
                    "rotated {rotated}, interleaved {interleaved}, bf16 {narrow}, value {at}: {found} for {wanted}"
                );
                wanted_back[row + i] = found;
            }
            assert_eq!(back, wanted_back, "put back");
        }
    }
}

#[test]
fn the_gpus_kernel_makes_weights_of_scores() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "attention");
    let (heads, queries) = (2, 3);
    // Keys with and without a whole number of words, one of them alone, more than one round of a warp.
    for (keys, first, oldest) in [(40, 37, 0), (5, 3, 1), (33, 30, 0), (1, 0, 0), (264, 400, 139)] {
        let (queries, rows) = if keys == 1 { (1, heads) } else { (queries, 2 * heads * queries) };
        let raw: Vec<f32> = (0..rows * keys).map(|i| 6.0 * (i as f32 * 0.73).sin()).collect();
        for (narrow, kernel) in [(false, 0), (false, 1), (true, 0), (true, 1), (true, 2), (true, 8)] {
            if kernel > 0 && keys % 8 != 0 {
                continue;
            }
            let seen = |x: f32| if narrow { bf16::from_f32(x).to_f64() } else { f64::from(x) };
            for (window, cap, slopes) in
                [(0, 0.0, None), (4, 0.0, None), (0, 3.0, None), (0, 0.0, Some([0.5f32, 0.25]))]
            {
                let scale = 0.7f32;
                let sizes = [1, usize::from(narrow), kernel, rows, heads, queries, keys, first, oldest, window];
                let mut input = words(&sizes.map(size));
                input.extend(words(&[u32::from(slopes.is_some())]));
                input.extend(stored(&[scale, cap], false));
                input.extend(stored(slopes.as_ref().map_or(&[], |slopes| slopes.as_slice()), false));
                input.extend(stored(&raw, narrow));
                let found = loaded(&answer(&program, input), narrow);
                for (row, found) in found.chunks(keys).enumerate() {
                    let position = first + row % queries;
                    let sees = |key: usize| {
                        let key = oldest + key;
                        key <= position && (window == 0 || position - key < window)
                    };
                    let score = |key: usize| {
                        let mut score = seen(raw[row * keys + key]) * f64::from(scale);
                        if cap > 0.0 {
                            score = f64::from(cap) * (score / f64::from(cap)).tanh();
                        }
                        let slope = slopes.map_or(0.0, |slopes| f64::from(slopes[row / queries % heads]));
                        (score - slope * (position as f64 - (oldest + key) as f64)).exp()
                    };
                    let total: f64 = (0..keys).filter(|&key| sees(key)).map(score).sum();
                    for (key, &found) in found.iter().enumerate() {
                        let wanted = if sees(key) { score(key) / total } else { 0.0 };
                        let tolerance = if narrow { 1.0 / 256.0 } else { 1e-6 };
                        assert!(
                            (found - wanted).abs() <= tolerance * (0.01 + wanted),
                            "{keys} keys, kernel {kernel}, window {window}, cap {cap}, row {row}, key {key}: {found} for {wanted}"
                        );
                    }
                }
            }
        }
    }
}

/// The sizes of one attention, and what is done to its scores.
struct Attended {
    dim: usize,
    windows: usize,
    seq: usize,
    heads: usize,
    kv_heads: usize,
    rotated: usize,
    window: usize,
    cap: f32,
    slopes: Option<[f32; 2]>,
}

const SCALE: f32 = 0.9;

/// Windows of no whole number of tiles, of one tile and of one token; heads that share keys; whatever is done to scores.
const ATTENDED: [Attended; 6] = [
    Attended { dim: 32, windows: 2, seq: 150, heads: 2, kv_heads: 1, rotated: 32, window: 0, cap: 0.0, slopes: None },
    Attended { dim: 32, windows: 1, seq: 260, heads: 2, kv_heads: 2, rotated: 16, window: 70, cap: 0.0, slopes: None },
    Attended { dim: 48, windows: 1, seq: 131, heads: 2, kv_heads: 1, rotated: 0, window: 1, cap: 0.0, slopes: None },
    Attended { dim: 48, windows: 1, seq: 64, heads: 2, kv_heads: 2, rotated: 48, window: 0, cap: 2.0, slopes: None },
    Attended { dim: 80, windows: 1, seq: 1, heads: 2, kv_heads: 1, rotated: 16, window: 0, cap: 0.0, slopes: None },
    Attended {
        dim: 80,
        windows: 1,
        seq: 70,
        heads: 2,
        kv_heads: 1,
        rotated: 0,
        window: 9,
        cap: 0.0,
        slopes: Some([0.5, 0.25]),
    },
];

/// Numbers as the kernel reads them.
fn rounded(n: usize, step: f32, height: f32) -> Vec<f32> {
    (0..n).map(|i| bf16::from_f32(height * (i as f32 * step).sin()).to_f32()).collect()
}

#[test]
fn the_gpus_kernel_attends_in_one_pass_as_the_formula_says() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "flash");
    for case in ATTENDED {
        let Attended { dim, windows, seq, heads, kv_heads, rotated, window, cap, slopes } = case;
        let what = format!("heads of {dim}, {windows} × {seq}, window {window}, cap {cap}, slopes {slopes:?}");
        let query = rounded(windows * seq * heads * dim, 0.37, 1.5);
        let key = rounded(windows * kv_heads * seq * dim, 0.73, 1.0);
        let value = rounded(windows * seq * kv_heads * dim, 0.91, 2.0);
        let half = rotated / 2;
        let angle = |i: usize| (i / half) as f32 * 0.8f32.powi((i % half) as i32);
        let table = |of: fn(f32) -> f32| -> Vec<f32> {
            (0..seq * half).map(|i| bf16::from_f32(of(angle(i))).to_f32()).collect()
        };
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let shaped = usize::from(cap > 0.0 || slopes.is_some());
        let sizes = [dim, shaped, windows, seq, heads, kv_heads, rotated, window, usize::from(slopes.is_some())];
        let mut input = words(&sizes.map(size));
        input.extend(stored(&[SCALE / (dim as f32).sqrt(), cap], false));
        input.extend(stored(slopes.as_ref().map_or(&[], |slopes| slopes.as_slice()), false));
        input.extend(stored(&[&query[..], &key, &value, &cos, &sin].concat(), true));
        let found = loaded(&answer(&program, input), true);
        assert_eq!(found.len(), query.len(), "{what}");
        for (row, found) in found.chunks(dim).enumerate() {
            let (head, position, own_window) = (row % heads, row / heads % seq, row / heads / seq);
            let mut turned = query[row * dim..][..dim].to_vec();
            for i in 0..half {
                let (low, high) = (query[row * dim + i], query[row * dim + half + i]);
                let (cos, sin) = (cos[position * half + i], sin[position * half + i]);
                // Rounded as the kernel rounds it, for its scores are those of rounded queries.
                turned[i] = bf16::from_f32(low * cos - high * sin).to_f32();
                turned[half + i] = bf16::from_f32(high * cos + low * sin).to_f32();
            }
            let kv_head = head / (heads / kv_heads);
            let keys = if window == 0 { 0 } else { (position + 1).saturating_sub(window) }..=position;
            let weight = |at: usize| {
                let key = &key[((own_window * kv_heads + kv_head) * seq + at) * dim..][..dim];
                let product: f64 = turned.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let mut score = product * f64::from(SCALE) / (dim as f64).sqrt();
                if cap > 0.0 {
                    score = f64::from(cap) * (score / f64::from(cap)).tanh();
                }
                let slope = slopes.map_or(0.0, |slopes| f64::from(slopes[head]));
                (score - slope * (position - at) as f64).exp()
            };
            let weights: Vec<(usize, f64)> = keys.map(|at| (at, weight(at))).collect();
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            for (i, &found) in found.iter().enumerate() {
                let value = |at: usize| f64::from(value[((own_window * seq + at) * kv_heads + kv_head) * dim + i]);
                let wanted = weights.iter().map(|&(at, weight)| weight * value(at)).sum::<f64>() / total;
                assert!((found - wanted).abs() <= 0.02, "{what}, row {row}, value {i}: {found} for {wanted}");
            }
        }
    }
}
