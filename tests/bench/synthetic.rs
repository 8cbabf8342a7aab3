//! An atlas at the size of a large model, made of counts with the structure that real ones have, in minutes and without a model.

use std::{collections::BTreeMap, path::Path};

use neuroglot::{
    atlas::{self, Evidence, Identification, IdentifyParameters, Release},
    checkpoint::CheckpointHashes,
    corpus::{Notes, Split},
    identify::{Identifier, LanguageCounts, LanguageStability, Lape, Profiles, Rate, Stability, overlaps},
    language::{Language, LanguageCode, Registry},
    model::{Tally, family},
    neuron::FfnShape,
    profile::{COUNTING, ModelCard, Profile, ProfileFolder, ProfileHead, RunParameters},
    tokens::{Coverage, CoverageStatus, Separator},
};
use rayon::prelude::*;

/// Tokens of every language but the last, which has few.
const TOKENS: u64 = 1_000_000;
const FOLDS: usize = 4;

/// A model that never was.
pub struct Model {
    /// Its id.
    pub id: String,
    /// Its grid.
    pub shape: FfnShape,
    /// What its neurons come from.
    pub seed: u64,
}

/// The first languages of the registry that a corpus of many languages would have: those with a known number of speakers first.
pub fn languages(n: usize) -> Vec<LanguageCode> {
    let mut all: Vec<&Language> = Registry::builtin().languages().iter().collect();
    all.sort_by_key(|language| (std::cmp::Reverse(language.speakers.unwrap_or(0)), language.code));
    let mut codes: Vec<LanguageCode> = all.into_iter().take(n).map(|language| language.code).collect();
    codes.sort();
    codes
}

/// Profiles the models over the languages into `place/profiles` and identifies them into `place/atlas`.
pub fn build(place: &Path, models: &[Model], languages: &[LanguageCode]) {
    let release = Release {
        licence: "CC0-1.0".to_owned(),
        remarks: vec!["These counts are synthetic: they have the size and the structure of a large model's and say nothing about any.".to_owned()],
        language_remarks: BTreeMap::new(),
    };
    for model in models {
        let folder = profile(&place.join("profiles").join(model.id.replace('/', "__")), model, languages);
        let found = identify(&folder, languages);
        atlas::build(&place.join("atlas"), &release, &[found]).expect("an atlas can be written there");
    }
}

fn profile(place: &Path, model: &Model, languages: &[LanguageCode]) -> ProfileFolder {
    let Model { id, shape, .. } = model;
    let mut config = serde_json::json!({
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": shape.width,
        "num_hidden_layers": shape.layers, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 500_000, "max_position_embeddings": 131_072, "tie_word_embeddings": false,
    });
    let config = config.as_object_mut().expect("an object");
    let architecture = family::of_config("synthetic".into(), config, &|_| false).expect("a config of llama");
    let parameters = architecture.parameters();
    let mut spec = architecture.spec;
    spec.ffn = *shape;
    let hash = neuroglot::output::sha256(id.as_bytes());
    let run = RunParameters {
        model: id.clone(),
        revision: None,
        hashes: CheckpointHashes {
            config: hash.clone(),
            tokenizer: hash.clone(),
            weights: BTreeMap::from([("model.safetensors".to_owned(), hash)]),
        },
        corpus: "synthetic counts".to_owned(),
        document: "line".to_owned(),
        split: Split::All,
        tokens: TOKENS,
        context: 1000,
        separator: Separator::None,
        folds: FOLDS,
        precision: "f32".to_owned(),
        device: "cpu".to_owned(),
        counting: COUNTING,
    };
    let card = ModelCard {
        id: id.clone(),
        revision: None,
        architecture: "llama".to_owned(),
        spec,
        parameters,
        dtype: "BF16".to_owned(),
        licence: None,
    };
    let folder = ProfileFolder::begin(place, ProfileHead::new(run, card)).expect("a profile can be written there");
    let places = places(languages);
    languages.par_iter().filter(|&&code| !folder.has(code)).for_each(|&code| {
        let tokens = if Some(&code) == languages.last() { TOKENS / 50 } else { TOKENS };
        folder.write(&counts(model, code, &places, tokens)).expect("room on the disk");
    });
    folder
}

/// Where every language stands among its relatives, from 0 to 1.
fn places(languages: &[LanguageCode]) -> BTreeMap<LanguageCode, f64> {
    let key = |code: &LanguageCode| {
        let language = Registry::builtin().get(*code);
        let family = language.map(|language| (language.family.clone(), language.subfamily.clone()));
        (family, code.script().to_owned(), *code)
    };
    let mut sorted = languages.to_vec();
    sorted.sort_by_key(key);
    let all = sorted.len() as f64;
    sorted.into_iter().enumerate().map(|(at, code)| (code, at as f64 / all)).collect()
}

/// A neuron is mostly quiet everywhere, some fire more often; in the first and the last layers one in seven, elsewhere one in thirty,
/// also fires for a few languages that stand together, and much less for those farther away.
fn counts(model: &Model, code: LanguageCode, places: &BTreeMap<LanguageCode, f64>, tokens: u64) -> Profile {
    let shape = model.shape;
    let (here, step) = (places[&code], 1.0 / places.len() as f64);
    let mut tally = Tally::new(shape, FOLDS);
    let own = mixed(u64::from_le_bytes(code.to_string().as_bytes()[..8].try_into().expect("a code has eight letters")));
    for flat in 0..shape.neurons() {
        let depth = shape.neuron(flat).layer as f64 / (shape.layers.max(2) - 1) as f64;
        let neuron = Bits(mixed(model.seed << 40 | flat as u64));
        let noise = Bits(mixed(own ^ neuron.0));
        let base = 0.004 + 0.4 * neuron.unit(0).powi(3);
        let tuned = neuron.unit(1) < 0.03 + 0.12 * (2.0 * depth - 1.0).abs().powi(3);
        let mut p = base * (0.7 + 0.6 * noise.unit(0));
        if tuned {
            let apart = (neuron.unit(2) - here).abs();
            let reach = step * (0.3 + 8.0 * neuron.unit(3).powi(2));
            p = 0.2 * p + (0.15 + 0.8 * neuron.unit(4)) * (-0.5 * (apart.min(1.0 - apart) / reach).powi(2)).exp();
        }
        let fired = (p.min(0.98) * tokens as f64) as u64;
        for fold in 0..FOLDS {
            tally.active[fold][flat] = (fired / FOLDS as u64 + (noise.0 >> fold & 1)).min(tokens / FOLDS as u64);
        }
        tally.sum[flat] = f64::from((fired as f32) * 0.5);
        tally.sum_sq[flat] = f64::from((fired as f32) * 0.4);
        tally.max[flat] = 4.0;
    }
    if shape.is_routed() {
        tally.routed = vec![vec![tokens / FOLDS as u64; shape.ffns()]; FOLDS];
    }
    let documents = tokens / 500;
    let coverage = Coverage {
        language: code,
        status: if tokens < TOKENS { CoverageStatus::Short } else { CoverageStatus::Full },
        tokens,
        tokens_read: tokens,
        notes: Notes { documents, bytes: tokens * 4, ..Notes::default() },
        fold_tokens: vec![tokens / FOLDS as u64; FOLDS],
        fold_documents: vec![documents / FOLDS as u64; FOLDS],
        text_sha256: neuroglot::output::sha256(code.to_string().as_bytes()),
    };
    Profile { coverage, tally }
}

fn identify<'a>(folder: &'a ProfileFolder, languages: &[LanguageCode]) -> Identification<'a> {
    let read = |&code: &LanguageCode| {
        let Profile { coverage, tally } = folder.read(code).expect("it was written");
        let fold = |fold: &Vec<u64>| fold.iter().map(|&n| n as u32).collect::<Vec<u32>>();
        let mut active = vec![0u32; tally.shape().neurons()];
        for fold in &tally.active {
            active.iter_mut().zip(fold).for_each(|(sum, &n)| *sum += n as u32);
        }
        let tokens = coverage.tokens as f64;
        let means = tally.sum.iter().map(|sum| (sum / tokens) as f32).collect::<Vec<f32>>();
        let fold_active = if tally.shape().is_routed() { tally.active.iter().map(fold).collect() } else { Vec::new() };
        let counts = LanguageCounts {
            language: code,
            fold_tokens: coverage.fold_tokens.clone(),
            active,
            fold_active,
            fold_routed: tally.routed,
        };
        (counts, (coverage, means))
    };
    let (counts, (coverage, means)): (Vec<_>, (Vec<_>, Vec<_>)) = languages.par_iter().map(read).unzip();
    let profiles = Profiles::new(folder.head.model.spec.ffn, counts).expect("the counts fit the grid");
    let lape = Lape::default();
    let selection = lape.identify(&profiles).expect("the profiles can be compared");
    let rates = [0.01, 0.05].map(|rate| {
        let rate: Rate = rate.to_string().parse().expect("a rate");
        (rate.get(), selection.at_rate(rate).expect("a cut of the same ranking"))
    });
    let evidence = Evidence {
        overlaps: overlaps(&profiles, &selection).expect("of the same profiles"),
        stability: Some(stability(&selection)),
    };
    let parameters = IdentifyParameters {
        profile: Some(folder.head.run.clone()),
        method: "lape".to_owned(),
        filter_rate: Some(lape.filter_rate.get()),
        activation_bar: Some(lape.activation_bar.get()),
        top_rates: rates.iter().map(|(rate, _)| *rate).collect(),
        arithmetic: Some("exact".to_owned()),
        seed: 0,
        resamples: 200,
        origin: None,
        languages: languages.to_vec(),
    };
    Identification { profile: folder, coverage, means, parameters, selection, rates: rates.to_vec(), evidence }
}

/// Not estimated, which takes minutes at this size: a neuron far above the bar is chosen again, one near it often is not.
fn stability(selection: &neuroglot::identify::Selection) -> Stability {
    let bar = selection.activation_bar.unwrap_or_default();
    let frequency = |p: f64| Some((0.5 + 4.0 * (p - bar)).clamp(0.3, 1.0) as f32);
    let selection_freq = selection.neurons.iter().map(|neuron| {
        neuron
            .assigned
            .iter()
            .map(|&language| frequency(neuron.probabilities[usize::from(language)]))
            .collect::<Vec<_>>()
    });
    let selection_freq: Vec<Vec<Option<f32>>> = selection_freq.collect();
    let languages = selection.languages.iter().enumerate().map(|(at, &language)| {
        let of_language = selection.neurons.iter().zip(&selection_freq).filter_map(|(neuron, frequencies)| {
            let place = neuron.assigned.iter().position(|&index| usize::from(index) == at)?;
            frequencies[place]
        });
        let all: Vec<f32> = of_language.collect();
        let mean = (!all.is_empty()).then(|| all.iter().sum::<f32>() / all.len() as f32);
        LanguageStability {
            language,
            deff: Some(3.0),
            mean_selection_freq: mean,
            split_half_jaccard: mean.map(|mean| mean * mean),
            margin_to_bar: mean.map(|mean| f64::from(mean) / 8.0),
        }
    });
    Stability { languages: languages.collect(), selection_freq }
}

/// Random bits of a neuron, or of a neuron in a language.
struct Bits(u64);

impl Bits {
    /// One of five numbers from 0 to 1, of 12 bits each.
    fn unit(&self, which: u32) -> f64 {
        ((self.0 >> (12 * which)) & 0xfff) as f64 / 4095.0
    }
}

/// The finaliser of splitmix64.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
