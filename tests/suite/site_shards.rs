//! What the browser gets on demand, unpacked again and held against the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
    sync::OnceLock,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use neuroglot::{
    atlas::Atlas,
    language::LanguageCode,
    profile::CountsReader,
    site::{self, Data, Options},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    demo::{SHAPE, committed},
    harness::{bytes_below, files_below},
};

const MODEL: &str = "neuroglot__demo-2.7m";

fn render(data: Data) -> TempDir {
    let folder = TempDir::new().unwrap();
    let options = Options { locales: Some(vec!["en".to_owned()]), data, ..Options::default() };
    site::render_with(&[Atlas::open(&committed()).unwrap()], folder.path(), &options).unwrap();
    folder
}

fn rendered() -> &'static Path {
    static SITE: OnceLock<TempDir> = OnceLock::new();
    SITE.get_or_init(|| render(Data::Full)).path()
}

/// A shard's bytes.
fn shard(site: &Path, name: &str) -> Vec<u8> {
    let text = fs::read_to_string(site.join(MODEL).join(format!("shards/{name}.js"))).unwrap();
    let packed = text.strip_prefix(&format!("ATLAS.put(\"{MODEL}/{name}\",\"")).unwrap().strip_suffix("\")\n").unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&STANDARD.decode(packed).unwrap()[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

struct Reader(Vec<u8>, usize);

impl Reader {
    fn numbers(&mut self, count: usize, planes: usize) -> Vec<u32> {
        let start = self.1;
        self.1 += count * planes;
        (0..count)
            .map(|i| (0..planes).map(|plane| u32::from(self.0[start + plane * count + i]) << (8 * plane)).sum())
            .collect()
    }

    fn rest(&mut self, count: usize) -> &[u8] {
        self.1 += count;
        &self.0[self.1 - count..self.1]
    }
}

/// round(255 · √p) of every neuron of every language, from the exact counts.
fn counted() -> &'static BTreeMap<LanguageCode, Vec<u8>> {
    static COUNTS: OnceLock<BTreeMap<LanguageCode, Vec<u8>>> = OnceLock::new();
    COUNTS.get_or_init(|| {
        let atlas = Atlas::open(&committed()).unwrap();
        let path = committed().join(format!("data/counts/{MODEL}/part-00000.parquet"));
        let table = CountsReader::open(&path).unwrap().read(SHAPE).unwrap();
        let rows = table.languages.iter().zip(&table.tallies).map(|(code, tally)| {
            let code: LanguageCode = code.parse().unwrap();
            let tokens = atlas.coverage.iter().find(|row| row.language == code).unwrap().tokens as f64;
            let active = |at: usize| tally.active.iter().map(|fold| fold[at]).sum::<u64>() as f64;
            (code, (0..SHAPE.neurons()).map(|at| (255.0 * (active(at) / tokens).sqrt()).round() as u8).collect())
        });
        rows.collect()
    })
}

fn meta() -> (Value, Vec<LanguageCode>) {
    let meta: Value = serde_json::from_slice(&shard(rendered(), "meta")).unwrap();
    let codes = meta["languages"].as_array().unwrap().iter().map(|row| row["code"].as_str().unwrap().parse().unwrap());
    let codes = codes.collect();
    (meta, codes)
}

fn order(layer: usize) -> Vec<u32> {
    let order = Reader(shard(rendered(), &format!("order-{layer}")), 0).numbers(SHAPE.width, 3);
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), SHAPE.width, "an order names every neuron once");
    order
}

#[test]
fn a_map_is_never_more_than_a_step_off_the_counts_and_a_mean_is_theirs() {
    let (_, codes) = meta();
    let mean = shard(rendered(), "mean");
    let orders: Vec<Vec<u32>> = (0..SHAPE.layers).map(order).collect();
    for code in codes {
        let exact = &counted()[&code];
        let map = shard(rendered(), &format!("map-{code}"));
        assert_eq!(map.len(), SHAPE.neurons());
        for (layer, order) in orders.iter().enumerate() {
            for (place, &within) in order.iter().enumerate() {
                let at = layer * SHAPE.width + place;
                let shown = (i32::from(mean[at]) * 8 + 4 + 32 * i32::from(map[at] as i8)).clamp(0, 255);
                let q = i32::from(exact[layer * SHAPE.width + within as usize]);
                assert!((shown - q).abs() <= 16, "{code} layer {layer} neuron {within}: {shown} for {q}");
            }
        }
    }
}

#[test]
fn lists_and_blocks_say_what_the_tables_say() {
    let atlas = Atlas::open(&committed()).unwrap();
    let tables = atlas.method(atlas.model(None).unwrap(), "lape").unwrap();
    let (meta, codes) = meta();
    for &code in &codes {
        let rows = tables.of(code);
        let mut list = Reader(shard(rendered(), &format!("list-{code}")), 0);
        let counts = list.numbers(SHAPE.layers, 2);
        let n = rows.len();
        let (steps, within, served) = (list.numbers(n, 3), list.numbers(n, 3), list.numbers(n, 2));
        let q = list.rest(n).to_vec();
        let layers = counts.iter().enumerate().flat_map(|(layer, &count)| std::iter::repeat_n(layer, count as usize));
        let found: BTreeMap<(usize, usize), (u32, u8)> = layers
            .clone()
            .zip(&within)
            .zip(served.iter().zip(&q))
            .map(|((layer, &within), (&served, &q))| ((layer, within as usize), (served, q)))
            .collect();
        let wanted: BTreeMap<(usize, usize), (u32, u8)> = rows
            .iter()
            .map(|row| {
                let q = (255.0 * f64::from(row.probability.unwrap()).sqrt()).round() as u8;
                ((row.layer, row.neuron), (u32::from(row.languages), q))
            })
            .collect();
        assert_eq!(found, wanted, "{code}");
        // Places come as steps within a layer.
        let mut place = (usize::MAX, 0);
        for ((layer, step), &within) in layers.zip(&steps).zip(&within) {
            place = if place.0 == layer { (layer, place.1 + step) } else { (layer, *step) };
            assert_eq!(order(layer)[place.1 as usize], within, "{code}");
        }
    }
    let leaves: Vec<usize> =
        meta["leaves"].as_array().unwrap().iter().map(|leaf| leaf.as_u64().unwrap() as usize).collect();
    assert_eq!(leaves.iter().collect::<BTreeSet<_>>().len(), codes.len());
    for layer in 0..SHAPE.layers {
        let firsts = meta["blocks"][layer].as_array().unwrap();
        assert_eq!(firsts.len(), SHAPE.width.div_ceil(256), "--data full ships every neuron");
        for (number, first) in firsts.iter().enumerate() {
            let mut block = Reader(shard(rendered(), &format!("block-{layer}-{number}")), 0);
            let n = block.numbers(1, 2)[0] as usize;
            let within = block.numbers(n, 3);
            assert_eq!(u64::from(within[0]), first.as_u64().unwrap());
            let (steps, bits) =
                (block.rest(n * codes.len()).to_vec(), block.rest(n * codes.len().div_ceil(8)).to_vec());
            for (row, &neuron) in within.iter().enumerate() {
                let mut q = 0u8;
                for (at, &leaf) in leaves.iter().enumerate() {
                    q = q.wrapping_add(steps[row * codes.len() + at]);
                    assert_eq!(q, counted()[&codes[leaf]][layer * SHAPE.width + neuron as usize]);
                    let serves = bits[row * codes.len().div_ceil(8) + at / 8] >> (at % 8) & 1 == 1;
                    let listed =
                        tables.of(codes[leaf]).iter().any(|row| row.layer == layer && row.neuron == neuron as usize);
                    assert_eq!(serves, listed, "layer {layer} neuron {neuron} and {}", codes[leaf]);
                }
            }
        }
    }
}

#[test]
fn overlaps_are_those_of_the_table() {
    let atlas = Atlas::open(&committed()).unwrap();
    let tables = atlas.method(atlas.model(None).unwrap(), "lape").unwrap();
    let (_, codes) = meta();
    let pairs = codes.len() * (codes.len() - 1) / 2;
    let mut reader = Reader(shard(rendered(), "overlap"), 0);
    let (shared, measures) = (reader.numbers(pairs, 3), [0; 3].map(|_| reader.numbers(pairs, 2)));
    let mut at = 0;
    for (first, &a) in codes.iter().enumerate() {
        for &b in &codes[first + 1..] {
            let row =
                tables.overlap.iter().find(|row| (row.language_a, row.language_b) == (a.min(b), a.max(b))).unwrap();
            assert_eq!(shared[at], row.shared as u32);
            for (measure, exact) in measures.iter().zip([row.jaccard, row.overlap_coefficient, row.cosine]) {
                let wanted = exact.map_or(65_535, |value| (value * 10_000.0).round() as u32);
                assert_eq!(measure[at], wanted, "{a} and {b}");
            }
            at += 1;
        }
    }
}

#[test]
fn shards_are_the_same_bytes_again_and_the_usual_ones_leave_out_what_nobody_selected() {
    let (usual, again) = (render(Data::Default), render(Data::Default));
    let shards = |site: &TempDir| bytes_below(&site.path().join(MODEL).join("shards"));
    assert!(shards(&usual) == shards(&again));
    let blocks = |site: &Path| {
        let files = files_below(&site.join(MODEL).join("shards"));
        files
            .iter()
            .filter(|file| file.to_str().unwrap().starts_with("block-"))
            .map(|file| fs::metadata(site.join(MODEL).join("shards").join(file)).unwrap().len())
            .sum::<u64>()
    };
    assert!(blocks(usual.path()) * 10 < blocks(rendered()), "230 of 4,608 neurons are selected");
    for file in files_below(&usual.path().join(MODEL).join("shards")) {
        let text = fs::read_to_string(usual.path().join(MODEL).join("shards").join(&file)).unwrap();
        assert!(text.is_ascii() && text.lines().count() == 1, "{}", file.display());
    }
}
