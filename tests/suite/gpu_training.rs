//! The GPU's kernels that training needs, without a GPU: as in gpu.rs, and gradients against differences of the formulas.

use half::bf16;
use tempfile::TempDir;

use crate::gpu::{answer, compile, erf, loaded, size, stored, words};

fn wave(n: usize, step: f32, height: f32) -> Vec<f32> {
    (0..n).map(|i| height * (i as f32 * step).sin()).collect()
}

/// Values as the kernel sees them.
fn seen(values: &[f32], narrow: bool) -> Vec<f64> {
    values.iter().map(|&x| if narrow { bf16::from_f32(x).to_f64() } else { f64::from(x) }).collect()
}

/// The slope of a function, by its values to both sides.
fn slope(of: impl Fn(f64) -> f64, at: f64) -> f64 {
    (of(at + 1e-5) - of(at - 1e-5)) / 2e-5
}

fn near(what: &str, found: &[f64], wanted: &[f64], narrow: bool) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let tolerance = if narrow { 1.0 / 128.0 } else { 2e-5 };
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= tolerance * (0.05 + wanted.abs()), "{what}, value {i}: {found} for {wanted}");
    }
}

const FORMATS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

#[test]
fn norms_and_their_gradients() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "norm");
    for (rows, width) in [(3, 520), (2, 33), (5, 8)] {
        let (x, gradient) = (wave(rows * width, 0.41, 3.0), wave(rows * width, 0.77, 1.0));
        let weight: Vec<f32> = (0..width).map(|i| 1.0 + (i as f32 * 0.3).cos()).collect();
        let bias = wave(width, 0.9, 0.5);
        let usual = FORMATS.into_iter().flat_map(|format| [(format, false, false), (format, true, false)]);
        for ([narrow, wide], centred, held) in usual.chain([([true, true], false, true)]) {
            if wide && width % 8 != 0 {
                continue;
            }
            let by = u32::from(wide) + u32::from(held);
            let mut input = words(&[u32::from(narrow), by, size(rows), size(width), u32::from(centred)]);
            input.extend(stored(&[1e-5], false));
            input.extend(stored(&[&x[..], &weight, &bias, &gradient].concat(), narrow));
            let found = loaded(&answer(&program, input), narrow);
            let (x, weight) = (seen(&x, narrow), seen(&weight, narrow));
            let (bias, gradient) = (seen(&bias, narrow), seen(&gradient, narrow));
            let norm = |x: &[f64]| -> Vec<f64> {
                let n = x.len() as f64;
                let mean = if centred { x.iter().sum::<f64>() / n } else { 0.0 };
                let root = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + 1e-5).sqrt();
                let plain = x.iter().zip(&weight).map(|(x, w)| (x - mean) / root * w);
                plain.zip(&bias).map(|(y, b)| if centred { y + b } else { y }).collect()
            };
            let (mut out, mut back) = (Vec::new(), Vec::new());
            for (x, gradient) in x.chunks(width).zip(gradient.chunks(width)) {
                out.extend(norm(x));
                back.extend((0..width).map(|i| {
                    let along = |value: f64| {
                        let mut x = x.to_vec();
                        x[i] = value;
                        norm(&x).iter().zip(gradient).map(|(y, g)| y * g).sum::<f64>()
                    };
                    slope(along, x[i])
                }));
            }
            let what = format!("{rows} x {width}, bf16 {narrow}, wide {wide}, centred {centred}, held {held}");
            near(&what, &found[..rows * width], &out, narrow);
            near(&format!("{what}, back"), &found[rows * width..], &back, narrow);
        }
    }
}

#[test]
fn the_gradient_of_attentions_scores() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "attention");
    for ((rows, keys), cap) in [((3, 264), 0.0), ((2, 33), 0.0), ((4, 8), 2.0)] {
        let scale = 0.7f32;
        let raw = wave(rows * keys, 0.73, 4.0);
        let gradient = wave(rows * keys, 0.31, 1.0);
        for [narrow, wide] in FORMATS {
            if wide && keys % 8 != 0 {
                continue;
            }
            let known = seen(&raw, narrow);
            // The last key of every row is not seen.
            let softmax = |raw: &[f64]| -> Vec<f64> {
                let (scale, cap) = (f64::from(scale), f64::from(cap));
                let score = |x: f64| if cap > 0.0 { cap * (x * scale / cap).tanh() } else { x * scale };
                let all: Vec<f64> =
                    raw.iter().enumerate().map(|(i, &x)| if i + 1 < keys { score(x).exp() } else { 0.0 }).collect();
                let total: f64 = all.iter().sum();
                all.into_iter().map(|x| x / total).collect()
            };
            let weights: Vec<f32> = known.chunks(keys).flat_map(softmax).map(|x| x as f32).collect();
            let sizes = [2, usize::from(narrow), usize::from(wide), rows, keys, usize::from(cap > 0.0), 0, 0, 0, 0, 0];
            let mut input = words(&sizes.map(size));
            input.extend(stored(&[scale, cap], false));
            input.extend(stored(&[&weights[..], &raw, &gradient].concat(), narrow));
            let found = loaded(&answer(&program, input), narrow);
            let above = seen(&gradient, narrow);
            let wanted: Vec<f64> = known
                .chunks(keys)
                .zip(above.chunks(keys))
                .flat_map(|(raw, above)| {
                    (0..keys).map(move |i| {
                        let along = |value: f64| {
                            let mut raw = raw.to_vec();
                            raw[i] = value;
                            softmax(&raw).iter().zip(above).map(|(p, g)| p * g).sum::<f64>()
                        };
                        slope(along, raw[i])
                    })
                })
                .collect();
            near(&format!("{rows} x {keys}, cap {cap}, bf16 {narrow}, wide {wide}"), &found, &wanted, narrow);
        }
    }
}

#[test]
fn the_gated_activation_and_its_gradient() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "training");
    let count = 96;
    let (gate, up, gradient) = (wave(count, 0.7, 2.0), wave(count, 1.3, 1.5), wave(count, 0.2, 1.0));
    let tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    let formulas: [&dyn Fn(f64) -> f64; 4] =
        [&|x| x / (1.0 + (-x).exp()), &|x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)), &tanh, &|x| x.max(0.0)];
    for [narrow, wide] in FORMATS {
        for (kind, act) in formulas.iter().enumerate() {
            let mut input = words(&[0, u32::from(narrow), u32::from(wide), size(kind), size(count), 0, 0]);
            input.extend(stored(&[&gate[..], &up, &gradient].concat(), narrow));
            let found = loaded(&answer(&program, input), narrow);
            let (gate, up, above) = (seen(&gate, narrow), seen(&up, narrow), seen(&gradient, narrow));
            let all = || gate.iter().zip(&up).zip(&above);
            let wanted = [
                all().map(|((g, u), _)| act(*g) * u).collect::<Vec<_>>(),
                // At the bend of ReLU the kernel takes the slope of the left.
                all().map(|((g, u), a)| a * u * if *g == 0.0 && kind == 3 { 0.0 } else { slope(act, *g) }).collect(),
                all().map(|((g, _), a)| a * act(*g)).collect(),
            ];
            near(&format!("activation {kind}, bf16 {narrow}, wide {wide}"), &found, &wanted.concat(), narrow);
        }
    }
}

#[test]
fn cross_entropy_and_its_gradient() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "training");
    let scale = 0.25f32;
    for (rows, width, parts) in [(3, 1000, 8), (2, 24, 8), (4, 333, 2)] {
        let mut logits = wave(rows * width, 0.37, 9.0);
        logits[5] = f32::NEG_INFINITY;
        let targets: Vec<u32> = (0..rows).map(|row| if row == 1 { u32::MAX } else { size(row * 7 % width) }).collect();
        for [narrow, wide] in FORMATS {
            if wide && width % 8 != 0 {
                continue;
            }
            let header = [1, usize::from(narrow), usize::from(wide), rows, width, parts, 0];
            let mut input = words(&header.map(size));
            input.extend(stored(&[scale], false));
            input.extend(words(&targets));
            input.extend(stored(&logits, narrow));
            let bytes = answer(&program, input);
            let (losses, gradient) = (loaded(&bytes[..4 * rows], false), loaded(&bytes[4 * rows..], narrow));
            let known = seen(&logits, narrow);
            let (mut wanted_losses, mut wanted) = (Vec::new(), Vec::new());
            for (row, &target) in known.chunks(width).zip(&targets) {
                let total: f64 = row.iter().map(|x| x.exp()).sum();
                let scored = (target as usize) < width;
                wanted_losses.push(if scored { f64::from(scale) * (total.ln() - row[target as usize]) } else { 0.0 });
                wanted.extend(row.iter().enumerate().map(|(i, x)| {
                    let own = x.exp() / total - f64::from(u8::from(i == target as usize));
                    if scored { f64::from(scale) * own } else { 0.0 }
                }));
            }
            let what = format!("{rows} x {width}, {parts} parts, bf16 {narrow}, wide {wide}");
            near(&what, &losses, &wanted_losses, false);
            near(&format!("{what}, back"), &gradient, &wanted, narrow);
        }
    }
    // A logit that is no number must not pass for a loss.
    let mut input = words(&[1, 0, 0, 1, 40, 4, 0]);
    input.extend(stored(&[1.0], false));
    input.extend(words(&[3]));
    input.extend(stored(&[&[0.0; 30][..], &[f32::NAN], &[1.0; 9]].concat(), false));
    assert!(loaded(&answer(&program, input)[..4], false)[0].is_nan());
}

#[test]
fn sums_and_sums_of_squares() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "training");
    let (x, y) = (wave(96, 0.7, 2.0), wave(96, 1.3, 1.5));
    for [narrow, wide] in FORMATS {
        let mut input = words(&[5, u32::from(narrow), u32::from(wide), 96, 0, 0, 0]);
        input.extend(stored(&[&x[..], &y].concat(), narrow));
        let found = loaded(&answer(&program, input), narrow);
        let wanted: Vec<f64> = seen(&x, narrow).iter().zip(seen(&y, narrow)).map(|(x, y)| x + y).collect();
        near(&format!("sum, bf16 {narrow}, wide {wide}"), &found, &wanted, narrow);
    }
    // The last parts are short, or have nothing.
    for (count, parts) in [(1000, 3), (96, 1), (65, 40), (5, 4)] {
        let x = wave(count, 0.7, 2.0);
        let mut input = words(&[6, 0, 0, size(count), size(parts), 0, 0]);
        input.extend(stored(&x, false));
        let found = loaded(&answer(&program, input), false);
        assert_eq!(found.len(), parts);
        let wanted: f64 = seen(&x, false).iter().map(|x| x * x).sum();
        near(&format!("{count} values in {parts} parts"), &[found.iter().sum::<f64>()], &[wanted], false);
    }
}

#[test]
fn trained_rows_and_columns_are_laid_into_a_weight() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "training");
    let (out, inner, indices) = (6, 5, [1u32, 3, 4]);
    let weight = wave(out * inner, 0.3, 1.0);
    for narrow in [false, true] {
        for along in [0, 1] {
            let shape = if along == 0 { (indices.len(), inner) } else { (out, indices.len()) };
            let values = wave(shape.0 * shape.1, 0.9, 2.0);
            let mut input = words(&[2, u32::from(narrow), 0, size(indices.len()), size(out), size(inner), size(along)]);
            input.extend(words(&indices));
            input.extend(stored(&values, false));
            input.extend(stored(&weight, narrow));
            let found = loaded(&answer(&program, input), narrow);
            let (mut wanted, new) = (seen(&weight, narrow), seen(&values, narrow));
            for row in 0..shape.0 {
                for column in 0..shape.1 {
                    let value = new[row * shape.1 + column];
                    if along == 0 {
                        wanted[indices[row] as usize * inner + column] = value;
                    } else {
                        wanted[row * inner + indices[column] as usize] = value;
                    }
                }
            }
            assert_eq!(found, wanted, "along {along}, bf16 {narrow}");
        }
    }
}

#[test]
fn a_gpu_drops_what_the_cpu_drops() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "training");
    let (seed, rate) = (0x1234_5678_9abc_def0u64, 0.3);
    let x = wave(70_003, 0.01, 2.0).iter().map(|x| x + 3.0).collect::<Vec<_>>();
    let tensor = candle_core::Tensor::from_slice(&x, x.len(), &candle_core::Device::Cpu).unwrap();
    let here: Vec<f32> = neuroglot::adapt::dropout(&tensor, rate, seed).unwrap().to_vec1().unwrap();
    let limit = (rate * 65536.0f64).round() as u32;
    let mut input = words(&[3, 0, 0, size(x.len()), limit, seed as u32, (seed >> 32) as u32]);
    input.extend(stored(&[(1.0 / (1.0 - rate)) as f32], false));
    input.extend(stored(&x, false));
    let there = loaded(&answer(&program, input), false);
    assert!(here.iter().zip(&there).all(|(here, there)| f64::from(*here).to_bits() == there.to_bits()));
    let dropped = here.iter().filter(|&&x| x == 0.0).count() as f64 / here.len() as f64;
    assert!((dropped - rate).abs() < 0.01, "{dropped}");
}

#[test]
fn a_gpus_step_of_adamw_is_the_formula() {
    let folder = TempDir::new().unwrap();
    let program = compile(&folder, "training");
    let count = 50;
    let [value, mean, gradient, base] = [0.3, 0.7, 1.1, 0.2].map(|step| wave(count, step, 1.0));
    let square: Vec<f32> = wave(count, 0.5, 1.0).iter().map(|x| x * x).collect();
    let [factor, mix, beta2, rest, keep, pull, root, eps, step] =
        [0.5f32, 0.1, 0.999, 0.001, 0.99, 0.01, 0.3, 1e-8, 0.02];
    for pulled in [false, true] {
        let mut input = words(&[4, u32::from(pulled), 0, size(count), 0, 0, 0]);
        input.extend(stored(&[factor, mix, beta2, rest, keep, pull, root, eps, step], false));
        input.extend(stored(&[&value[..], &mean, &square, &gradient, &base].concat(), false));
        let found = loaded(&answer(&program, input), false);
        let mut wanted = [Vec::new(), Vec::new(), Vec::new()];
        for i in 0..count {
            let [x, m, v, g, b] = [&value, &mean, &square, &gradient, &base].map(|values| f64::from(values[i]));
            let [factor, mix, beta2, rest, keep, pull, root, eps, step] =
                [factor, mix, beta2, rest, keep, pull, root, eps, step].map(f64::from);
            let g = g * factor;
            let (m, v) = (m + (g - m) * mix, v * beta2 + rest * g * g);
            let x = if pulled { x - pull * (x - b) } else { x * keep };
            wanted[0].push(x - step * m / (v.sqrt() / root + eps));
            wanted[1].push(m);
            wanted[2].push(v);
        }
        near(&format!("pulled {pulled}"), &found, &wanted.concat(), false);
    }
}
