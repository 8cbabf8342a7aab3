//! Loops that the compiler turns into vector instructions of the widest set that this processor has.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_storeu_si512};
use std::mem::MaybeUninit;

/// Sixteen pairs of bf16, each in 32 bits with the earlier one low; a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; 16]);

/// Declares a function whose body is compiled three times, for AVX-512, for AVX2 with FMA, and for any processor, and that runs
/// the widest one that this processor has. What the body calls must be `#[inline(always)]` to be compiled with it.
macro_rules! vectorised {
    ($(#[$meta:meta])* $visible:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $visible fn $name($($arg: $kind),*) {
            #[inline(always)]
            fn body($($arg: $kind),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,fma")]
                fn avx512($($arg: $kind),*) {
                    body($($arg),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $kind),*) {
                    body($($arg),*);
                }
                let has_fma = is_x86_feature_detected!("fma");
                if has_fma
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                {
                    // SAFETY: the processor has the instructions.
                    #[allow(unsafe_code)]
                    return unsafe { avx512($($arg),*) };
                }
                if has_fma && is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the instructions.
                    #[allow(unsafe_code)]
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*);
        }
    };
}
pub(crate) use vectorised;

/// Values of which a chain of steps takes each for all before it takes the next: one after the other, a vector would wait for its own
/// last step at every one. Four vectors of AVX-512, and loops over so many are still loops when the compiler makes vectors of them.
pub const AT_ONCE: usize = 64;

/// What is made of each value.
#[inline(always)]
pub fn map<const N: usize>(mut values: [f32; N], each: impl Fn(f32) -> f32) -> [f32; N] {
    for value in &mut values {
        *value = each(*value);
    }
    values
}

/// What is made of each pair of values.
#[inline(always)]
pub fn pairwise<const N: usize>(mut left: [f32; N], right: &[f32; N], each: impl Fn(f32, f32) -> f32) -> [f32; N] {
    for (left, right) in left.iter_mut().zip(right) {
        *left = each(*left, *right);
    }
    left
}

/// `eˣ` by the Cephes polynomial, within 2 units in the last place over the range that f32 can hold; no branches and no calls,
/// so that a loop over it becomes vector code.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let [y] = exp_of([x]);
    y
}

/// The same of values [at once](AT_ONCE).
#[inline(always)]
pub fn exp_of<const N: usize>(x: [f32; N]) -> [f32; N] {
    use exponential::{LN2_HIGH, LN2_LOW, LOG2_E, P, ROUND};
    let x = map(x, |x| x.clamp(-87.0, 88.0));
    let shifted = map(x, |x| x.mul_add(LOG2_E, ROUND));
    let n = map(shifted, |shifted| shifted - ROUND);
    let r = pairwise(x, &n, |x, n| n.mul_add(-LN2_HIGH, x));
    let r = pairwise(r, &n, |r, n| n.mul_add(-LN2_LOW, r));
    let p = map(r, |r| P[0].mul_add(r, P[1]));
    let p = pairwise(p, &r, |p, r| p.mul_add(r, P[2]));
    let p = pairwise(p, &r, |p, r| p.mul_add(r, P[3]));
    let p = pairwise(p, &r, |p, r| p.mul_add(r, P[4]));
    let p = pairwise(p, &r, |p, r| p.mul_add(r, P[5]));
    let y = pairwise(p, &r, |p, r| (p * r).mul_add(r, r) + 1.0);
    let scale = map(shifted, |shifted| f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23)));
    pairwise(y, &scale, |y, scale| y * scale)
}

/// The numbers in `eˣ = 2ⁿ eʳ`, n = round(x / ln 2), eʳ = 1 + r + r² P(r).
pub mod exponential {
    pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// ln 2 in two parts, the first exact in 9 bits, so that n·ln 2 is subtracted without loss.
    pub const LN2_HIGH: f32 = 0.693_359_4;
    pub const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding 1.5·2²³ leaves the nearest integer in the low bits of the mantissa.
    pub const ROUND: f32 = 12_582_912.0;
    /// The highest power's first.
    pub const P: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1];
}

/// `erf(x)` by a rational function of x, within 3e-7 everywhere (the one that Eigen and XLA use for f32).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let p = (-2.726_142_3e-10_f32).mul_add(square, 2.770_681_4e-8);
    let p = p.mul_add(square, -2.101_024e-6);
    let p = p.mul_add(square, -5.692_506_4e-5);
    let p = p.mul_add(square, -7.349_906_3e-4);
    let p = p.mul_add(square, -2.954_6e-3);
    let p = p.mul_add(square, -1.609_603_3e-2);
    let q = (-1.456_607_2e-5_f32).mul_add(square, -2.133_740_6e-4);
    let q = q.mul_add(square, -1.682_827e-3);
    let q = q.mul_add(square, -7.373_329_2e-3);
    let q = q.mul_add(square, -1.426_474e-2);
    x * p / q
}

/// The 16 bits of the nearest bf16, ties to even; a NaN stays one.
#[inline(always)]
fn nearest(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { bits >> 16 | 0x40 } else { rounded }
}

/// Values as pairs of bf16, the earlier of a pair low; what `pairs` has more is zero. Where the processor rounds itself, what is
/// smaller than 2⁻¹²⁶ becomes zero, as which its products would take it.
///
/// # Panics
/// When there are more values than pairs have room for.
pub fn pack(values: &[f32], pairs: &mut [MaybeUninit<u32>]) {
    let (pairs, padding) = pairs.split_at_mut(values.len().div_ceil(2));
    padding.fill(MaybeUninit::new(0));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions.
        #[allow(unsafe_code)]
        return unsafe { pack_avx512(values, pairs) };
    }
    pack_each(values, pairs);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack_avx512(values: &[f32], pairs: &mut [MaybeUninit<u32>]) {
    let (whole, rest) = values.as_chunks::<32>();
    let (to, to_rest) = pairs.split_at_mut(whole.len() * 16);
    for (values, to) in whole.iter().zip(to.as_chunks_mut::<16>().0) {
        // SAFETY: 32 values are read and 16 pairs written.
        #[allow(unsafe_code)]
        unsafe {
            let (low, high) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[16..].as_ptr()));
            let rounded = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_si512(to.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(rounded));
        }
    }
    pack_each(rest, to_rest);
}

/// The same into lines, wherever each of them is.
///
/// # Panics
/// When there are more values than lines have room for.
#[cfg(target_arch = "x86_64")]
pub fn pack_lines<'a>(values: &[f32], lines: impl ExactSizeIterator<Item = &'a mut MaybeUninit<Line>>) {
    assert!(values.len() <= 32 * lines.len(), "a line has room for 32 values");
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions.
        #[allow(unsafe_code)]
        return unsafe { pack_lines_avx512(values, lines) };
    }
    each_line(values, lines, |values| {
        Line(std::array::from_fn(|pair| nearest(values[2 * pair]) | nearest(values[2 * pair + 1]) << 16))
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack_lines_avx512<'a>(values: &[f32], lines: impl Iterator<Item = &'a mut MaybeUninit<Line>>) {
    each_line(values, lines, |values| {
        // SAFETY: 32 values are read, and a line is the sixteen pairs that they make.
        #[allow(unsafe_code)]
        unsafe {
            let (low, high) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[16..].as_ptr()));
            std::mem::transmute::<__m512bh, Line>(_mm512_cvtne2ps_pbh(high, low))
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn each_line<'a>(
    mut values: &[f32],
    lines: impl Iterator<Item = &'a mut MaybeUninit<Line>>,
    rounded: impl Fn(&[f32; 32]) -> Line,
) {
    for line in lines {
        if let Some((whole, rest)) = values.split_first_chunk() {
            values = rest;
            line.write(rounded(whole));
        } else {
            let mut padded = [0.0; 32];
            padded[..values.len()].copy_from_slice(std::mem::take(&mut values));
            line.write(rounded(&padded));
        }
    }
}

vectorised! {
    /// As many pairs as the values make.
    fn pack_each(values: &[f32], pairs: &mut [MaybeUninit<u32>]) {
        let (whole, rest) = values.as_chunks::<2>();
        for (to, [low, high]) in pairs.iter_mut().zip(whole) {
            to.write(nearest(*low) | nearest(*high) << 16);
        }
        if let [last] = rest {
            pairs[whole.len()].write(nearest(*last));
        }
    }
}

vectorised! {
    /// Values rounded to bf16, in f32.
    pub fn round(values: &[f32], rounded: &mut [MaybeUninit<f32>]) {
        for (to, value) in rounded.iter_mut().zip(values) {
            to.write(f32::from_bits(nearest(*value) << 16));
        }
    }
}

vectorised! {
    /// Values of two rows as pairs of bf16, those of the first low.
    pub fn interleave(low: &[f32], high: &[f32], pairs: &mut [u32]) {
        for (to, (low, high)) in pairs.iter_mut().zip(low.iter().zip(high)) {
            *to = nearest(*low) | nearest(*high) << 16;
        }
    }
}

/// The larger number of two; of one that is none, the first.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Values taken together by halves: one after the other, each would wait for the one before.
#[inline(always)]
fn across<const N: usize>(mut lanes: [f32; N], together: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = together(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Maximum in running parts, for vector code.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let (parts, rest) = values.as_chunks::<AT_ONCE>();
    let mut maxima = [f32::NEG_INFINITY; AT_ONCE];
    for part in parts {
        maxima = pairwise(maxima, part, larger);
    }
    for (max, &value) in maxima.iter_mut().zip(rest) {
        *max = larger(*max, value);
    }
    across(maxima, larger)
}

/// Sum in running parts: vector code, and less rounding than one part.
#[inline(always)]
pub fn sum(values: &[f32]) -> f32 {
    sum_by(values, |value| value)
}

/// The same of what is made of each value.
#[inline(always)]
pub fn sum_by(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (parts, rest) = values.as_chunks::<AT_ONCE>();
    let mut sums = [0.0; AT_ONCE];
    for part in parts {
        sums = pairwise(sums, part, |sum, value| sum + term(value));
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += term(value);
    }
    across(sums, |a, b| a + b)
}

/// The same of what is made of the pairs of two rows.
#[inline(always)]
pub fn sum_by_pairs(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<AT_ONCE>(), right.as_chunks::<AT_ONCE>());
    let mut sums = [0.0; AT_ONCE];
    for (left, right) in left.iter().zip(right) {
        sums = pairwise(sums, &pairwise(*left, right, &term), |sum, term| sum + term);
    }
    for (sum, (&left, &right)) in sums.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        *sum += term(left, right);
    }
    across(sums, |a, b| a + b)
}
