//! The softmax of attention's scores on the CPU.

use std::ops::Range;

use super::simd::{AT_ONCE, exp, exp_of, map, max, pairwise, sum, vectorised};

/// Which of consecutive keys consecutive queries see: each the keys up to its own position.
#[derive(Clone, Copy)]
pub struct Seen {
    /// The position of the first query.
    pub query: usize,
    /// The position of the first key.
    pub key: usize,
    /// How many keys a query sees at most.
    pub window: Option<usize>,
}

impl Seen {
    /// The keys that the `i`-th query sees.
    #[inline(always)]
    pub fn by(self, i: usize) -> Range<usize> {
        let behind = self.query + i + 1;
        let oldest = self.window.map_or(0, |window| behind.saturating_sub(window));
        oldest.max(self.key) - self.key..behind - self.key
    }
}

/// Where scores end to count, below a row's largest: e⁻⁷⁰ is no weight, and divided by the sum of all it is still a normal number, as
/// what is smaller is not, with which processors take a hundred times as long.
const FAR: f32 = -70.0;

/// Of rows of scores `[queries, keys]`, the softmax of those that are seen, times `scale`, a positive number; the others become 0.
pub fn softmax(scores: &mut [f32], keys: usize, seen: Seen, scale: f32) {
    #[cfg(target_arch = "x86_64")]
    if keys.is_multiple_of(AT_ONCE) && is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions.
        #[allow(unsafe_code)]
        return unsafe { avx512::softmax(scores, keys, seen, scale) };
    }
    of_rows(scores, keys, seen, scale);
}

vectorised! {
    fn of_rows(scores: &mut [f32], keys: usize, seen: Seen, scale: f32) {
        for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let seen = seen.by(i);
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            let scores = &mut scores[seen];
            let shift = -scale * max(scores);
            let (parts, rest) = scores.as_chunks_mut::<AT_ONCE>();
            let mut sums = [0.0; AT_ONCE];
            for part in parts {
                *part = exp_of(map(*part, |s| s.mul_add(scale, shift).clamp(FAR, f32::INFINITY)));
                sums = pairwise(sums, part, |sum, weight| sum + weight);
            }
            for (s, sum) in rest.iter_mut().zip(&mut sums) {
                *s = exp(s.mul_add(scale, shift).clamp(FAR, f32::INFINITY));
                *sum += *s;
            }
            let inverse = 1.0 / sum(&sums);
            for s in scores {
                *s *= inverse;
            }
        }
    }
}

/// The same of rows of whole blocks of 64 keys. A row is too short to hide what its largest score, its sum and the division wait for: while
/// one row's weights are computed, so are the next one's largest score and the one before's quotients.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::{
        arch::x86_64::{
            __m512, __mmask16, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps,
            _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_max_ps, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_mul_ps,
            _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
            _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
        },
        array::from_fn,
        ops::Range,
    };

    use super::{
        super::simd::{
            AT_ONCE,
            exponential::{LN2_HIGH, LN2_LOW, LOG2_E, P, ROUND},
        },
        FAR, Seen,
    };

    type Block = [f32; AT_ONCE];
    type Vectors = [__m512; 4];

    #[target_feature(enable = "avx512f")]
    pub fn softmax(scores: &mut [f32], keys: usize, seen: Seen, scale: f32) {
        let (rows, width) = (scores.len() / keys, keys / AT_ONCE);
        let (blocks, _) = scores.as_chunks_mut();
        let row = |i: usize| i * width..(i + 1) * width;
        let (mut shift, mut inverse) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        for i in 0..rows + 2 {
            let (mut next_shift, mut next_inverse) = (shift, inverse);
            if i < rows {
                next_shift = _mm512_set1_ps(-scale * largest(&blocks[row(i)], &seen.by(i)));
            }
            if let Some(i) = i.checked_sub(1)
                && i < rows
            {
                let sum = weights(&mut blocks[row(i)], &seen.by(i), _mm512_set1_ps(scale), shift);
                next_inverse = _mm512_set1_ps(1.0 / sum);
            }
            if let Some(i) = i.checked_sub(2) {
                for block in &mut blocks[row(i)] {
                    write(read(block).map(|weight| _mm512_mul_ps(weight, inverse)), block);
                }
            }
            (shift, inverse) = (next_shift, next_inverse);
        }
    }

    /// The largest score that is seen.
    #[target_feature(enable = "avx512f")]
    fn largest(row: &[Block], seen: &Range<usize>) -> f32 {
        let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); 4];
        for (i, block) in row.iter().enumerate() {
            let scores = read(block);
            largest = match masks(seen, i) {
                None => from_fn(|j| _mm512_max_ps(largest[j], scores[j])),
                Some(seen) => from_fn(|j| _mm512_mask_max_ps(largest[j], seen[j], largest[j], scores[j])),
            };
        }
        let [a, b, c, d] = largest;
        _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, c), _mm512_max_ps(b, d)))
    }

    /// Weights in place of scores, and their sum.
    #[target_feature(enable = "avx512f")]
    fn weights(row: &mut [Block], seen: &Range<usize>, scale: __m512, shift: __m512) -> f32 {
        let mut sums = [_mm512_setzero_ps(); 4];
        for (i, block) in row.iter_mut().enumerate() {
            let mut weights = exp(read(block).map(|score| _mm512_fmadd_ps(score, scale, shift)));
            if let Some(seen) = masks(seen, i) {
                weights = from_fn(|j| _mm512_maskz_mov_ps(seen[j], weights[j]));
            }
            sums = from_fn(|j| _mm512_add_ps(sums[j], weights[j]));
            write(weights, block);
        }
        let [a, b, c, d] = sums;
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, c), _mm512_add_ps(b, d)))
    }

    /// Which scores of a row's `number`-th block are seen, if not all.
    fn masks(seen: &Range<usize>, number: usize) -> Option<[__mmask16; 4]> {
        let first = number * AT_ONCE;
        if seen.start <= first && first + AT_ONCE <= seen.end {
            return None;
        }
        let before = |key: usize| {
            let there = key.saturating_sub(first);
            if there < AT_ONCE { (1u64 << there) - 1 } else { u64::MAX }
        };
        let bits = before(seen.end) & !before(seen.start);
        Some([0, 16, 32, 48].map(|first| (bits >> first & 0xffff) as __mmask16))
    }

    /// [`exp_of`](super::exp_of), step by step, of what is not far above 0.
    #[target_feature(enable = "avx512f")]
    fn exp(x: Vectors) -> Vectors {
        let all = |value: f32| _mm512_set1_ps(value);
        // Of two numbers the larger, and if the second is none, that.
        let x = x.map(|x| _mm512_max_ps(all(FAR), x));
        let shifted = x.map(|x| _mm512_fmadd_ps(x, all(LOG2_E), all(ROUND)));
        let n = shifted.map(|shifted| _mm512_sub_ps(shifted, all(ROUND)));
        let r: Vectors = from_fn(|i| _mm512_fmadd_ps(n[i], all(-LN2_HIGH), x[i]));
        let r: Vectors = from_fn(|i| _mm512_fmadd_ps(n[i], all(-LN2_LOW), r[i]));
        let p = r.map(|r| _mm512_fmadd_ps(all(P[0]), r, all(P[1])));
        let p: Vectors = from_fn(|i| _mm512_fmadd_ps(p[i], r[i], all(P[2])));
        let p: Vectors = from_fn(|i| _mm512_fmadd_ps(p[i], r[i], all(P[3])));
        let p: Vectors = from_fn(|i| _mm512_fmadd_ps(p[i], r[i], all(P[4])));
        let p: Vectors = from_fn(|i| _mm512_fmadd_ps(p[i], r[i], all(P[5])));
        let y: Vectors = from_fn(|i| _mm512_fmadd_ps(_mm512_mul_ps(p[i], r[i]), r[i], r[i]));
        let exponents = shifted.map(|shifted| _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted)));
        let powers = exponents.map(|n| _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23))));
        from_fn(|i| _mm512_mul_ps(_mm512_add_ps(y[i], all(1.0)), powers[i]))
    }

    #[target_feature(enable = "avx512f")]
    fn read(block: &Block) -> Vectors {
        let (vectors, _) = block.as_chunks::<16>();
        // SAFETY: each is sixteen values.
        #[allow(unsafe_code)]
        from_fn(|i| unsafe { _mm512_loadu_ps(vectors[i].as_ptr()) })
    }

    #[target_feature(enable = "avx512f")]
    fn write(values: Vectors, block: &mut Block) {
        let (vectors, _) = block.as_chunks_mut::<16>();
        for (vector, values) in vectors.iter_mut().zip(values) {
            // SAFETY: each is sixteen values.
            #[allow(unsafe_code)]
            unsafe {
                _mm512_storeu_ps(vector.as_mut_ptr(), values);
            }
        }
    }
}
