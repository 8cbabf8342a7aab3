//! What the browser loads when somebody zooms into a map, opens a neuron or compares languages: small files that are classic scripts,
//! since neither `fetch` nor modules work where a page is opened from a disk. Each says `ATLAS.put("MODEL/NAME", "…")`, base64 of gzip.
//!
//! | file | holds |
//! |---|---|
//! | `meta.js` | JSON: the model's grid, its languages by name, their order by likeness, where blocks begin |
//! | `order-LAYER.js` | the neuron at every place of the layer's maps: 3 planes of bytes, low ones first |
//! | `mean.js` | at every place of every layer ⌊m / 8⌋ for the mean probability over all languages, m = round(255 · √mean), a byte each |
//! | `map-CODE.js` | at every place of every layer how far the language's round(255 · √p) lies from 8 ⌊m / 8⌋ + 4, in steps of 32, a signed byte each: mostly 0, which packs to a bit or two |
//! | `list-CODE.js` | the language's own neurons: their number per layer (2 planes), then of all of them, by layer and place, the step from the place before (3), the index in the layer (3), how many languages it serves (2), round(255 · √p) |
//! | `block-LAYER-K.js` | up to 256 neurons of a layer: their number (2 bytes), indices (3 planes), then each one's round(255 · √p) in every language, by likeness, as differences from one to the next, then a bit for every language that it serves |
//! | `overlap.js` | of every pair a < b of languages: neurons in common (3 planes), then Jaccard, overlap coefficient and cosine in steps of 1/10,000 (2 planes each; 65,535 for none) |
//!
//! Numbers of more than one byte lie as planes (all low bytes, then all next ones), which packs better. They are rounded for display;
//! tables and downloads have them in full.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, GzBuilder};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;

use super::{SiteError, activity::Activity, files::Files, view::View};
use crate::{
    atlas::{LanguageRow, OverlapRow},
    language::LanguageCode,
    neuron::{FfnShape, NeuronId},
};

/// How much of the activity goes to the browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Data {
    /// Maps of all neurons in coarse steps; the selected neurons in every language in 256.
    #[default]
    Default,
    /// Every neuron in every language in 256 steps.
    Full,
}

/// The shards of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shards {
    /// Their folder, from the site's root.
    pub folder: String,
    /// How many there are.
    pub files: usize,
    /// Their bytes together.
    pub bytes: u64,
}

/// Neurons of a block.
const BLOCK: usize = 256;
/// Step of the mean, and of what a language's map says beside it. With 32, no byte is more than 16 off, and what is only noise between
/// languages vanishes: a map packs to a tenth of what 256 steps would take.
const MEAN_STEP: u8 = 8;
const MAP_STEP: f32 = 32.0;
/// What stands for no number in `overlap.js`.
const NONE: u32 = 65_535;

/// Writes the shards of a model.
///
/// # Errors
/// When a file cannot be written.
pub fn write(view: &View, activity: &Activity, files: &Files, data: Data) -> Result<Shards, SiteError> {
    let folder = format!("{}/shards", view.folder);
    let writer = Writer { view, activity, files, folder: &folder };
    let blocks = writer.blocks(data);
    let mean: Vec<u8> = activity.mean().into_iter().map(|q| q / MEAN_STEP).collect();
    let mut written = vec![writer.meta(&blocks, data)?, writer.mean(&mean)?, writer.overlap()?];
    let shape = activity.shape();
    let orders: Vec<u64> =
        (0..shape.layers).into_par_iter().map(|layer| writer.order(layer)).collect::<Result<_, _>>()?;
    let places: Vec<Vec<u32>> = (0..shape.layers).map(|layer| activity.places(layer)).collect();
    let languages: Vec<[u64; 2]> = (0..activity.languages().len())
        .into_par_iter()
        .map(|at| Ok([writer.map(at, &mean)?, writer.list(activity.languages()[at], &places)?]))
        .collect::<Result<_, SiteError>>()?;
    let leaves = writer.leaves();
    let blocks: Vec<u64> = blocks.par_iter().map(|block| writer.block(block, &leaves)).collect::<Result<_, _>>()?;
    written.extend(orders);
    written.extend(languages.into_iter().flatten());
    written.extend(blocks);
    Ok(Shards { files: written.len(), bytes: written.iter().sum(), folder })
}

/// About how many bytes the shards of a model take, before anything is computed: rates measured on counts of real models.
#[must_use]
pub fn estimate(shape: FfnShape, languages: usize, selected: usize, data: Data) -> u64 {
    let (neurons, languages) = (shape.neurons() as f64, languages as f64);
    let blocks = if data == Data::Full { neurons } else { selected as f64 };
    let maps = 0.12 * neurons * languages;
    let orders = 3.2 * neurons;
    (maps + orders + 0.95 * blocks * languages + 60.0 * selected as f64 + 8.0 * languages * languages) as u64
}

/// The middle of a step of the mean.
fn centre(mean: u8) -> u8 {
    mean * MEAN_STEP + MEAN_STEP / 2
}

/// Neurons that are shipped together.
struct Block {
    layer: usize,
    number: usize,
    /// Places in the layer.
    within: Vec<u32>,
}

struct Writer<'a> {
    view: &'a View<'a>,
    activity: &'a Activity,
    files: &'a Files,
    folder: &'a str,
}

impl Writer<'_> {
    fn put(&self, name: &str, content: &[u8]) -> Result<u64, SiteError> {
        let script = script(&format!("{}/{name}", self.view.folder), content);
        self.files.put(&format!("{}/{name}.js", self.folder), script.as_bytes())?;
        Ok(script.len() as u64)
    }

    /// The languages by likeness, as indices of the order by name.
    fn leaves(&self) -> Vec<usize> {
        let at = |leaf| self.activity.languages().iter().position(|code| code == leaf);
        self.view.tree.leaves.iter().filter_map(at).collect()
    }

    fn blocks(&self, data: Data) -> Vec<Block> {
        let shape = self.activity.shape();
        let selected = |layer: usize| {
            let of_layer = NeuronId { layer, expert: 0, index: 0 }..NeuronId { layer: layer + 1, expert: 0, index: 0 };
            self.view.neurons.range(of_layer).map(|(id, _)| shape.in_layer(*id) as u32).collect()
        };
        let cut = |layer: usize| {
            let within: Vec<u32> =
                if data == Data::Full { (0..shape.layer_width() as u32).collect() } else { selected(layer) };
            let blocks = within.chunks(BLOCK).enumerate();
            blocks.map(|(number, within)| Block { layer, number, within: within.to_vec() }).collect::<Vec<_>>()
        };
        (0..shape.layers).flat_map(cut).collect()
    }

    fn meta(&self, blocks: &[Block], data: Data) -> Result<u64, SiteError> {
        let (view, shape) = (self.view, self.activity.shape());
        let language = |row: &&LanguageRow| {
            json!({
                "code": row.code, "name": row.name, "autonym": row.autonym, "lang": row.bcp47, "family": row.family,
                "key": view.family_key(&row.family),
            })
        };
        let mut firsts: Vec<Vec<u32>> = vec![Vec::new(); shape.layers];
        blocks.iter().for_each(|block| firsts[block.layer].push(block.within[0]));
        let meta = json!({
            "model": view.model.id,
            "layers": shape.layers,
            "experts": shape.experts,
            "width": shape.width,
            "counted": self.activity.counted(),
            "full": data == Data::Full,
            "languages": view.languages.iter().map(language).collect::<Vec<_>>(),
            "leaves": self.leaves(),
            "blocks": firsts,
        });
        self.put("meta", meta.to_string().as_bytes())
    }

    fn order(&self, layer: usize) -> Result<u64, SiteError> {
        let mut content = Vec::new();
        planes(&mut content, self.activity.order(layer), 3);
        self.put(&format!("order-{layer}"), &content)
    }

    fn map(&self, language: usize, mean: &[u8]) -> Result<u64, SiteError> {
        let row = self.activity.row(language).iter().zip(mean);
        let apart: Vec<u8> =
            row.map(|(&q, &mean)| ((f32::from(q) - f32::from(centre(mean))) / MAP_STEP).round() as i8 as u8).collect();
        self.put(&format!("map-{}", self.activity.languages()[language]), &self.seriated(&apart))
    }

    fn mean(&self, mean: &[u8]) -> Result<u64, SiteError> {
        self.put("mean", &self.seriated(mean))
    }

    /// The bytes of all neurons in the order of the maps.
    fn seriated(&self, row: &[u8]) -> Vec<u8> {
        let width = self.activity.shape().layer_width();
        let layers = row.chunks(width).enumerate();
        layers.flat_map(|(layer, row)| self.activity.order(layer).iter().map(|&within| row[within as usize])).collect()
    }

    fn list(&self, language: LanguageCode, places: &[Vec<u32>]) -> Result<u64, SiteError> {
        let shape = self.activity.shape();
        let at = self.activity.languages().iter().position(|&code| code == language);
        let row = self.activity.row(at.expect("the list is of these languages"));
        let mut layers: Vec<Vec<(u32, u32, u32, u8)>> = vec![Vec::new(); shape.layers];
        for neuron in self.view.tables.of(language) {
            let within = shape.in_layer(neuron.id());
            let place = places[neuron.layer][within];
            layers[neuron.layer].push((
                place,
                within as u32,
                u32::from(neuron.languages),
                row[shape.flat(neuron.id())],
            ));
        }
        layers.iter_mut().for_each(|layer| layer.sort_unstable());
        let mut steps = Vec::new();
        for layer in &layers {
            let before = std::iter::once(0).chain(layer.iter().map(|neuron| neuron.0));
            steps.extend(layer.iter().zip(before).map(|(neuron, before)| neuron.0 - before));
        }
        let all: Vec<_> = layers.iter().flatten().collect();
        let mut content = Vec::new();
        planes(&mut content, &layers.iter().map(|layer| layer.len() as u32).collect::<Vec<_>>(), 2);
        planes(&mut content, &steps, 3);
        planes(&mut content, &all.iter().map(|neuron| neuron.1).collect::<Vec<_>>(), 3);
        planes(&mut content, &all.iter().map(|neuron| neuron.2).collect::<Vec<_>>(), 2);
        content.extend(all.iter().map(|neuron| neuron.3));
        self.put(&format!("list-{language}"), &content)
    }

    fn block(&self, block: &Block, leaves: &[usize]) -> Result<u64, SiteError> {
        let shape = self.activity.shape();
        let mut content = Vec::new();
        content.extend((block.within.len() as u16).to_le_bytes());
        planes(&mut content, &block.within, 3);
        for &within in &block.within {
            let flat = block.layer * shape.layer_width() + within as usize;
            let mut before = 0u8;
            for &language in leaves {
                let q = self.activity.row(language)[flat];
                content.push(q.wrapping_sub(before));
                before = q;
            }
        }
        for &within in &block.within {
            let id = shape.neuron(block.layer * shape.layer_width() + within as usize);
            let rows = self.view.neurons.get(&id).map(|served| served.rows.as_slice()).unwrap_or_default();
            let serves = |&language: &usize| rows.iter().any(|row| row.language == self.activity.languages()[language]);
            let bits = |languages: &[usize]| {
                (0..).zip(languages).map(|(bit, language)| u8::from(serves(language)) << bit).sum::<u8>()
            };
            content.extend(leaves.chunks(8).map(bits));
        }
        self.put(&format!("block-{}-{}", block.layer, block.number), &content)
    }

    fn overlap(&self) -> Result<u64, SiteError> {
        let codes = self.activity.languages();
        let pairs = || (0..codes.len()).flat_map(|a| (a + 1..codes.len()).map(move |b| (a, b)));
        let rows: Vec<_> = pairs().map(|(a, b)| self.view.overlap(codes[a], codes[b])).collect();
        let steps = |value: Option<f64>| value.map_or(NONE, |value| (value * 10_000.0).round() as u32);
        let mut content = Vec::new();
        planes(&mut content, &rows.iter().map(|row| row.map_or(0, |row| row.shared as u32)).collect::<Vec<_>>(), 3);
        let measures: [fn(&OverlapRow) -> Option<f64>; 3] =
            [|row| row.jaccard, |row| row.overlap_coefficient, |row| row.cosine];
        for measure in measures {
            planes(&mut content, &rows.iter().map(|row| steps(row.and_then(measure))).collect::<Vec<_>>(), 2);
        }
        self.put("overlap", &content)
    }
}

/// The low bytes of all numbers, then the next ones, and so on.
fn planes(content: &mut Vec<u8>, numbers: &[u32], bytes: u32) {
    for byte in 0..bytes {
        content.extend(numbers.iter().map(|number| (number >> (8 * byte)) as u8));
    }
}

/// A shard as a script. Its bytes depend on nothing but its content.
fn script(key: &str, content: &[u8]) -> String {
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
    packed.write_all(content).expect("memory takes all");
    let packed = STANDARD.encode(packed.finish().expect("memory takes all"));
    // A model's folder is letters, digits, `-`, `_`, `.`: nothing in a key needs an escape.
    format!("ATLAS.put(\"{key}\",\"{packed}\")\n")
}
