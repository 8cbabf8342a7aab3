//! The k-th smallest of all activation probabilities. In: counts. Out: one number. The probabilities are computed on
//! the fly and never held: for 132 languages of an 8B model they would take 485 MB, and sorting them longer than all
//! the rest.

use std::ops::Range;

use rayon::prelude::*;

use super::arithmetic::{Arithmetic, Row};

const DIGIT_BITS: u32 = 16;
const DIGITS: usize = 1 << DIGIT_BITS;
/// The most counts in a piece.
const PIECE: usize = 1 << 16;
/// The fewest counts that are worth a histogram of their own.
const TASK: usize = 1 << 20;

/// A part of one language's counts, of neurons that see the same tokens, and the counts in it that can still be the answer.
struct Piece<'a> {
    tokens: u64,
    active: &'a [u32],
    remaining: Range<u64>,
}

/// The `rank`-th smallest probability (from 1) over all rows.
///
/// A radix select: the bits of non-negative floats sort as the floats do, so each round counts one digit of 16 bits
/// among the values that share the digits found so far, and the digit in which the rank falls is the next.
/// Probabilities grow with the counts, so the values that share digits are a range of counts, and only those are
/// divided again.
pub(super) fn kth_smallest(rows: &[Row<'_>], arithmetic: Arithmetic, mut rank: usize) -> f64 {
    let mut pieces: Vec<Piece<'_>> = rows.iter().flat_map(pieces).collect();
    let mut found = 0;
    for shift in [48, 32, 16, 0] {
        let histogram = last_digits(&pieces, arithmetic, shift);
        let mut digit = 0;
        while rank > histogram[digit] {
            rank -= histogram[digit];
            digit += 1;
        }
        found = found << DIGIT_BITS | digit as u64;
        for Piece { tokens, remaining, .. } in &mut pieces {
            let digits = |active: u64| arithmetic.probability(active as u32, *tokens).to_bits() >> shift;
            let first = partition_point(remaining.clone(), |active| digits(active) < found);
            *remaining = first..partition_point(first..remaining.end, |active| digits(active) == found);
        }
    }
    f64::from_bits(found)
}

fn pieces<'a>(row: &Row<'a>) -> impl Iterator<Item = Piece<'a>> {
    row.parts().flat_map(|(tokens, active)| {
        active.chunks(PIECE).map(move |active| Piece { tokens, active, remaining: 0..tokens + 1 })
    })
}

/// How often each digit comes next among the counts that remain.
fn last_digits(pieces: &[Piece<'_>], arithmetic: Arithmetic, shift: u32) -> Vec<usize> {
    let count = |mut histogram: Vec<usize>, Piece { tokens, active, remaining }: &Piece<'_>| {
        for &active in active.iter().filter(|&&active| remaining.contains(&u64::from(active))) {
            let digits = arithmetic.probability(active, *tokens).to_bits() >> shift;
            histogram[digits as usize % DIGITS] += 1;
        }
        histogram
    };
    let add = |mut sum: Vec<usize>, other: Vec<usize>| {
        sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        sum
    };
    let together = TASK / pieces[0].active.len();
    pieces.par_iter().with_min_len(together).fold(|| vec![0; DIGITS], count).reduce(|| vec![0; DIGITS], add)
}

/// The first number of a range for which `before` is no longer true; the end if it always is.
pub(super) fn partition_point(range: Range<u64>, before: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = u64::midpoint(low, high);
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
