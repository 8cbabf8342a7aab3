//! Rows that are extended token by token: the same hidden states as those of whole windows, in every family.

use candle_core::{DType, Device, IndexOp, Tensor};
use neuroglot::{
    checkpoint::Checkpoint,
    model::{Cache, Decoder, Path, Unobserved},
};

use crate::{
    families::checkpoints,
    tensors::{fixture, ids, largest_difference},
};

/// Every checkpoint's decoder and the rows of its reference.
fn walk(dtype: DType, path: Path, check: impl Fn(&str, &Decoder, &[Vec<u32>])) {
    for folder in checkpoints() {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let decoder = Decoder::load(&checkpoint, dtype, &Device::Cpu, path).unwrap();
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]).to_vec2::<u32>().unwrap();
        check(&folder.file_name().unwrap().to_string_lossy(), &decoder, &ids);
    }
}

fn whole(decoder: &Decoder, row: &[u32]) -> Tensor {
    let ids = Tensor::from_slice(row, (1, row.len()), decoder.device()).unwrap();
    decoder.hidden(&ids, &mut Unobserved).unwrap().i(0).unwrap()
}

/// Extends rows by pieces and compares every token's hidden state with that of the row run whole up to there.
fn pieces_are_wholes(name: &str, decoder: &Decoder, rows: &[Vec<u32>], cuts: &[Vec<usize>], tolerance: f32) {
    let mut cache = Cache::new(rows.len());
    for piece in 0..cuts[0].len() - 1 {
        let new: Vec<&[u32]> = rows.iter().zip(cuts).map(|(row, cuts)| &row[cuts[piece]..cuts[piece + 1]]).collect();
        let hidden = decoder.extend(&mut cache, &new).unwrap();
        for (number, (row, cuts)) in rows.iter().zip(cuts).enumerate() {
            let (from, to) = (cuts[piece], cuts[piece + 1]);
            if from == to {
                continue;
            }
            let wanted = whole(decoder, &row[..to]).narrow(0, from, to - from).unwrap();
            let found = hidden.i(number).unwrap().narrow(0, 0, to - from).unwrap();
            let difference = largest_difference(&found, &wanted);
            assert!(difference < tolerance, "{name}, row {number}, tokens {from}..{to}: differ by {difference}");
        }
    }
}

#[test]
fn rows_extended_by_pieces_are_the_rows_run_whole_in_every_family() {
    for path in [Path::Inference, Path::Portable] {
        walk(DType::F32, path, |name, decoder, rows| {
            let n = rows[0].len();
            // A long beginning, tokens one by one, the rest; the second row is always elsewhere and pauses once.
            let first = vec![0, n / 2, n / 2 + 1, n / 2 + 2, n];
            let second = vec![0, n / 3, n / 3, n / 3 + 3, n - 2];
            let rows: Vec<Vec<u32>> = vec![rows[0].clone(), rows[rows.len() - 1].clone()];
            pieces_are_wholes(name, decoder, &rows, &[first, second], 1e-4);
        });
    }
}

#[test]
fn rows_extended_by_pieces_are_the_rows_run_whole_where_products_are_rounded() {
    walk(DType::BF16, Path::Inference, |name, decoder, rows| {
        let n = rows[0].len();
        let rows = vec![rows[0].clone()];
        // Rounding falls elsewhere when sums are made in another order: a few units in the last place of bf16.
        pieces_are_wholes(name, decoder, &rows, &[vec![0, n / 2, n / 2 + 1, n]], 0.1);
    });
}

#[test]
fn selected_rows_go_on_as_they_would_have() {
    walk(DType::F32, Path::Inference, |name, decoder, rows| {
        let (a, b) = (&rows[0], &rows[rows.len() - 1]);
        let mut cache = Cache::new(2);
        decoder.extend(&mut cache, &[&a[..5], &b[..3]]).unwrap();
        let mut picked = cache.select(&[1, 0, 1]).unwrap();
        let hidden = decoder.extend(&mut picked, &[&b[3..6], &a[5..6], &a[..2]]).unwrap();
        let rows = [b[..6].to_vec(), a[..6].to_vec(), [&b[..3], &a[..2]].concat()];
        for (number, (row, new)) in rows.iter().zip([3, 1, 2]).enumerate() {
            let wanted = whole(decoder, row).narrow(0, row.len() - new, new).unwrap();
            let found = hidden.i(number).unwrap().narrow(0, 0, new).unwrap();
            assert!(largest_difference(&found, &wanted) < 1e-4, "{name}, row {number}");
            assert_eq!(picked.rows()[number], *row);
        }
    });
}

#[test]
fn a_cache_of_other_rows_is_refused() {
    let checkpoint = Checkpoint::open(std::path::Path::new(crate::harness::TINY)).unwrap();
    let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap();
    let error = decoder.extend(&mut Cache::new(2), &[&[1, 2]]).unwrap_err();
    assert!(error.to_string().contains("1 rows cannot extend a cache of 2"), "{error}");
}
