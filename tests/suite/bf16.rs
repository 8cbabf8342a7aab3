//! Products in bf16: every kernel that this processor has against sums in f64, and models in bf16 against themselves in f32.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use neuroglot::{
    checkpoint::Checkpoint,
    model::{
        Decoder, Path, Unobserved,
        bf16::{Kernel, Panels},
    },
};
use proptest::prelude::*;

use crate::tensors::{fixture, floats, ids, tally};

fn values(seed: u64, n: usize) -> Vec<f32> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(-2.0f32..2.0)).collect()
}

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(bf16::from_f32(value).to_f32())).collect()
}

/// `x Wᵀ` of the rounded factors, summed in f64, and for each sum the largest error that adding in f32 may leave.
fn exact(x: &[f32], weight: &[f32], inner: usize) -> Vec<(f64, f64)> {
    let (x, weight) = (rounded(x), rounded(weight));
    let sum = |row: &[f64], column: &[f64]| {
        let products = || row.iter().zip(column).map(|(a, b)| a * b);
        (products().sum(), 1e-7 * (inner as f64).sqrt() * (1.0 + products().map(f64::abs).sum::<f64>()))
    };
    x.chunks(inner).flat_map(|row| weight.chunks(inner).map(move |column| sum(row, column))).collect()
}

/// A weight laid out for every kernel that this processor has.
fn panels(weight: &[f32], inner: usize) -> Vec<(Kernel, Panels)> {
    let halves: Vec<_> = weight.iter().map(|&value| bf16::from_f32(value)).collect();
    let of = |kernel| (kernel, Panels::of(&halves, weight.len() / inner, inner, kernel));
    Kernel::available().into_iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_kernel_gives_the_product_of_the_rounded_factors(
        tokens in 1usize..300, inner in 1usize..400, out in 1usize..300, seed: u64,
    ) {
        let (x, weight) = (values(seed, tokens * inner), values(seed ^ 1, out * inner));
        let (panels, exact) = (panels(&weight, inner), exact(&x, &weight, inner));
        for (kernel, panels) in panels {
            let product = panels.product(&x);
            prop_assert_eq!(product.len(), exact.len());
            for (i, (&found, &(wanted, tolerance))) in product.iter().zip(&exact).enumerate() {
                prop_assert!((f64::from(found) - wanted).abs() <= tolerance, "{kernel:?}, value {i}: {found} for {wanted}");
            }
        }
    }
}

#[test]
fn a_long_inner_dimension_is_added_up_over_its_blocks() {
    let (tokens, inner, out) = (20, 5000, 70);
    let (x, weight) = (values(1, tokens * inner), values(2, out * inner));
    let (panels, exact) = (panels(&weight, inner), exact(&x, &weight, inner));
    for (kernel, panels) in panels {
        for (found, (wanted, tolerance)) in panels.product(&x).iter().zip(&exact) {
            assert!((f64::from(*found) - wanted).abs() <= *tolerance, "{kernel:?}: {found} for {wanted}");
        }
    }
}

#[test]
fn a_tokens_sums_are_the_same_bits_whatever_else_is_in_the_batch() {
    let (tokens, inner, out) = (700, 96, 130);
    let (x, weight) = (values(3, tokens * inner), values(4, out * inner));
    for (kernel, panels) in panels(&weight, inner) {
        let together = panels.product(&x);
        for token in [0, 1, 17, 511, 699] {
            let alone = panels.product(&x[token * inner..][..inner]);
            assert_eq!(alone, together[token * out..][..out], "{kernel:?}, token {token}");
        }
    }
}

#[test]
fn numbers_that_are_none_stay_so() {
    for (kernel, panels) in panels(&[1.0; 4], 2) {
        let product = panels.product(&[f32::NAN, 1.0, f32::INFINITY, 1.0]);
        assert!(product[0].is_nan() && product[1].is_nan(), "{kernel:?}");
        assert!(product[2].is_infinite() && product[2] > 0.0, "{kernel:?}");
    }
}

/// This process has chosen: another one is told to do without AVX-512 in f32, as on a processor that has none.
#[test]
fn widened_factors_are_multiplied_by_the_library_where_we_have_no_kernel() {
    let tests = [
        "every_kernel_gives_the_product_of_the_rounded_factors",
        "a_long_inner_dimension_is_added_up_over_its_blocks",
        "a_tokens_sums_are_the_same_bits_whatever_else_is_in_the_batch",
        "numbers_that_are_none_stay_so",
    ];
    let mut suite = std::process::Command::new(std::env::current_exe().unwrap());
    suite.env("NEUROGLOT_AVX512", "0").arg("--exact");
    let run = suite.args(tests.map(|test| format!("bf16::{test}"))).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("4 passed"), "{said}");
}

#[test]
fn a_kernel_of_another_processor_is_refused() {
    for kernel in [Kernel::Amx, Kernel::Avx512].into_iter().filter(|kernel| !Kernel::available().contains(kernel)) {
        let refused =
            std::panic::catch_unwind(|| Panels::of(&[bf16::ONE; 4], 2, 2, kernel)).err().expect("it is not there");
        let said = refused.downcast_ref::<String>().unwrap();
        assert!(said.contains("another processor's"), "{said}");
    }
}

fn bundled(dtype: DType, path: Path) -> Decoder {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/atlas/demo/model");
    Decoder::load(&Checkpoint::open(std::path::Path::new(folder)).unwrap(), dtype, &Device::Cpu, path).unwrap()
}

#[test]
fn the_bundled_model_in_bf16_is_near_itself_in_f32() {
    let reference = fixture(&std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/demo_logits.safetensors"
    )));
    let ids = ids(&reference["input_ids"]);
    let (narrow, wide) = (bundled(DType::BF16, Path::Inference), bundled(DType::F32, Path::Inference));
    let nll = |decoder: &Decoder| floats(&decoder.nll(&ids).unwrap());
    for (found, wanted) in nll(&narrow).iter().zip(nll(&wide)) {
        assert!((found - wanted).abs() < 0.01 * wanted, "{found} nats in bf16, {wanted} in f32");
    }
    let count = |decoder: &Decoder| tally(decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
    let (a, b) = (count(&narrow), count(&wide));
    let tokens: u64 = ids.elem_count() as u64 * a.active[0].len() as u64;
    let moved: u64 = a.active[0].iter().zip(&b.active[0]).map(|(a, b)| a.abs_diff(*b)).sum();
    assert!(moved > 0, "in bf16 some sign is another");
    assert!(moved * 200 < tokens, "{moved} of {tokens} signs are another");
}

#[test]
fn a_head_that_is_the_embedding_multiplies_without_a_copy_of_its_own() {
    let narrow = bundled(DType::BF16, Path::Inference);
    let ids = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).unwrap();
    let logits = narrow.logits(&ids, &mut Unobserved).unwrap();
    assert_eq!((logits.dtype(), logits.dim(2).unwrap()), (DType::F32, narrow.spec().vocabulary));
}
