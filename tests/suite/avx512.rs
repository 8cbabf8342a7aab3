//! Products in f32 by AVX-512 against sums in f64, where this processor has it.

use neuroglot::model::avx512::{Panels, is_there};
use proptest::prelude::*;

fn values(seed: u64, n: usize) -> Vec<f32> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(-2.0f32..2.0)).collect()
}

/// Asserts `x Wᵀ` to be the sums in f64 but for what adding in f32 may lose.
fn holds(tokens: usize, inner: usize, out: usize, seed: u64) {
    let (x, weight) = (values(seed, tokens * inner), values(seed ^ 1, out * inner));
    let product = Panels::of(&weight, out, inner).product(&x);
    assert_eq!(product.len(), tokens * out);
    for (token, (x, found)) in x.chunks(inner).zip(product.chunks(out)).enumerate() {
        for (column, (weight, &found)) in weight.chunks(inner).zip(found).enumerate() {
            let products = || x.iter().zip(weight).map(|(&a, &b)| f64::from(a) * f64::from(b));
            let (wanted, all) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let tolerance = 1e-7 * (inner as f64).sqrt() * (1.0 + all);
            assert!((f64::from(found) - wanted).abs() <= tolerance, "[{token}, {column}]: {found} for {wanted}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_product_is_the_sum_of_products(
        tokens in 1usize..300, inner in 1usize..400, out in 1usize..300, seed: u64,
    ) {
        if is_there() {
            holds(tokens, inner, out, seed);
        }
    }
}

#[test]
fn a_long_inner_dimension_is_added_up_over_its_blocks() {
    if is_there() {
        holds(20, 5000, 70, 1);
    }
}

#[test]
fn a_tokens_sums_are_the_same_bits_whatever_else_is_in_the_batch() {
    if !is_there() {
        return;
    }
    let (tokens, inner, out) = (700, 1600, 130);
    let (x, weight) = (values(3, tokens * inner), values(4, out * inner));
    let panels = Panels::of(&weight, out, inner);
    let together = panels.product(&x);
    for token in [0, 1, 17, 511, 699] {
        assert_eq!(panels.product(&x[token * inner..][..inner]), together[token * out..][..out], "token {token}");
    }
}

#[test]
fn numbers_that_are_none_stay_so() {
    if is_there() {
        let product = Panels::of(&[1.0; 4], 2, 2).product(&[f32::NAN, 1.0, f32::INFINITY, 1.0]);
        assert!(product[..2].iter().all(|y| y.is_nan()) && product[2..].iter().all(|&y| y == f32::INFINITY));
    }
}
