//! Masks that others published, as an atlas: which neurons serve which language, and nothing that a mask does not say.
//! In: lists of indices, their languages, and the model's grid. Out: the tables of an atlas, open where nobody knows.

use std::{collections::BTreeMap, path::Path};

use super::{
    AtlasError, IdentifyParameters, IdentifyResult, Manifest, MethodTables, ModelRow, NeuronRow, Origin, OverlapRow,
    RateResult, Release, RunRow, StabilityRow,
    build::{Entry, write_atlas},
    compare::Shared,
    pth::MaskFile,
    rows::IMPORT,
};
use crate::{
    identify::class_of,
    language::{LanguageCode, Registry},
    neuron::{NeuronId, NeuronSet},
    output,
    profile::canonical,
};

/// The licence of masks whose publisher named none here.
pub const UNKNOWN_LICENCE: &str = "unknown";

/// Masks from a file and what is known of them.
#[derive(Clone, Debug)]
pub struct Import {
    /// The model.
    pub model: ModelRow,
    /// The method that the masks are said to come from.
    pub method: String,
    /// The rate at which they were identified, where it is known.
    pub top_rate: Option<f64>,
    /// The languages, in the order of the file.
    pub languages: Vec<LanguageCode>,
    /// One set per language.
    pub sets: Vec<NeuronSet>,
    /// The file.
    pub origin: Origin,
}

impl Import {
    /// Reads a file of masks of a model.
    ///
    /// # Errors
    /// When the file is not what `torch.save` writes for such lists, or does not fit the model or the number of languages.
    pub fn read(
        path: &Path,
        model: ModelRow,
        method: &str,
        languages: Vec<LanguageCode>,
        top_rate: Option<f64>,
        source: Option<String>,
    ) -> Result<Self, AtlasError> {
        let wrong = |source| AtlasError::Pth { path: path.to_owned(), source };
        let sets = MaskFile::open(path).and_then(|mut file| file.sets(model.shape(), &languages)).map_err(wrong)?;
        let unreadable = |error: std::io::Error| AtlasError::broken(path, format!("cannot be read: {error}"));
        let origin = Origin {
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes: std::fs::metadata(path).map_err(unreadable)?.len(),
            sha256: output::sha256_file(path).map_err(unreadable)?,
            source,
        };
        Ok(Self { model, method: method.to_owned(), top_rate, languages, sets, origin })
    }

    /// Every neuron of any language, with the languages that it serves.
    fn union(&self) -> BTreeMap<NeuronId, Vec<LanguageCode>> {
        let mut union: BTreeMap<NeuronId, Vec<LanguageCode>> = BTreeMap::new();
        for (set, &language) in self.sets.iter().zip(&self.languages) {
            set.iter().for_each(|neuron| union.entry(neuron).or_default().push(language));
        }
        union
    }

    fn entry(&self) -> Entry<'static> {
        let union = self.union();
        let neurons = self.model.shape().neurons();
        // What a mask does not say can still be counted: the share that it holds.
        let rate = self.top_rate.unwrap_or(union.len() as f64 / neurons.max(1) as f64);
        let asked = self.top_rate.map_or(union.len(), |rate| (rate * neurons as f64).round_ties_even() as usize);
        let run = self.run(rate, asked, union.len());
        Entry {
            tables: MethodTables {
                neurons: self.neuron_rows(&run.run, &union),
                overlap: self.overlap_rows(&run.run),
                stability: self.stability_rows(&run.run),
                ablation: Vec::new(),
            },
            result: self.result(rate, asked, union.len()),
            model: self.model.clone(),
            runs: vec![run],
            coverage: Vec::new(),
            method: self.method.clone(),
            languages: self.languages.clone(),
            counts: None,
        }
    }

    fn result(&self, rate: f64, asked: usize, selected: usize) -> IdentifyResult {
        let mut notes = vec![format!(
            "these masks were imported ({}): probabilities, entropies and stability are unknown here",
            self.origin
        )];
        if self.top_rate.is_none() {
            notes.push("the rate is the share of the model's neurons that is in the masks".to_owned());
        } else if asked != selected {
            notes.push(format!("the masks hold {selected} neurons, but rate {rate} selects {asked}"));
        }
        let cut = RateResult { rate, asked, selected, entropy_cut: None, tied: None, taken: None };
        IdentifyResult { filter_bar: None, activation_bar: None, finite: None, rates: vec![cut], notes }
    }

    fn run(&self, rate: f64, asked: usize, selected: usize) -> RunRow {
        let parameters = IdentifyParameters {
            profile: None,
            method: self.method.clone(),
            filter_rate: None,
            activation_bar: None,
            top_rates: vec![rate],
            arithmetic: None,
            seed: 0,
            resamples: 0,
            languages: self.languages.clone(),
            origin: Some(self.origin.clone()),
        };
        let json = canonical(&serde_json::to_value(&parameters).expect("plain data"));
        let result = self.result(rate, asked, selected);
        RunRow {
            run: output::sha256(json.as_bytes())[..16].to_owned(),
            kind: IMPORT.to_owned(),
            parent: None,
            model: self.model.id.clone(),
            revision: self.model.revision.clone(),
            corpus: None,
            split: None,
            tokens: None,
            context: None,
            separator: None,
            folds: None,
            seed: None,
            precision: None,
            device: None,
            method: Some(self.method.clone()),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            parameters: json,
            result: Some(canonical(&serde_json::to_value(result).expect("plain data"))),
            origin: Some(self.origin.to_string()),
        }
    }

    fn neuron_rows(&self, run: &str, union: &BTreeMap<NeuronId, Vec<LanguageCode>>) -> Vec<NeuronRow> {
        let family = |code: &LanguageCode| Registry::builtin().get(*code).map_or("", |row| row.family.as_str());
        let mut rows = Vec::new();
        for (&id, served) in union {
            let class = class_of(served.iter().map(family), self.languages.len());
            rows.extend(served.iter().map(|&language| NeuronRow {
                model: self.model.id.clone(),
                run: run.to_owned(),
                method: self.method.clone(),
                language,
                layer: id.layer,
                expert: id.expert,
                neuron: id.index,
                rank: None,
                entropy: None,
                probability: None,
                share: None,
                mean_activation: None,
                margin: None,
                selection_freq: None,
                languages: served.len() as u16,
                class: class.map(|class| class.name().to_owned()),
            }));
        }
        rows.sort_by_key(|row| (row.language, row.id()));
        rows
    }

    fn overlap_rows(&self, run: &str) -> Vec<OverlapRow> {
        let mut sets: Vec<(LanguageCode, &NeuronSet)> = self.languages.iter().copied().zip(&self.sets).collect();
        sets.sort_by_key(|(language, _)| *language);
        let pairs = sets.iter().enumerate().flat_map(|(at, a)| sets[at + 1..].iter().map(move |b| (a, b)));
        let row = |((language_a, a), (language_b, b)): (&(LanguageCode, &NeuronSet), &(LanguageCode, &NeuronSet))| {
            let shared = Shared::of(a, b);
            OverlapRow {
                model: self.model.id.clone(),
                run: run.to_owned(),
                method: self.method.clone(),
                language_a: *language_a,
                language_b: *language_b,
                shared: shared.shared,
                jaccard: shared.jaccard,
                overlap_coefficient: shared.overlap_coefficient,
                cosine: None,
            }
        };
        pairs.map(row).collect()
    }

    fn stability_rows(&self, run: &str) -> Vec<StabilityRow> {
        let mut rows: Vec<StabilityRow> = (self.languages.iter().zip(&self.sets))
            .map(|(&language, set)| StabilityRow {
                model: self.model.id.clone(),
                run: run.to_owned(),
                method: self.method.clone(),
                language,
                neurons: set.len(),
                deff: None,
                mean_selection_freq: None,
                split_half_jaccard: None,
                margin_to_bar: None,
            })
            .collect();
        rows.sort_by_key(|row| row.language);
        rows
    }
}

/// Writes imported masks into an atlas: a new folder, or one that holds an atlas already, whose other models and methods stay.
///
/// # Errors
/// When the folder holds anything else, or the model under another grid, or the disk is full.
pub fn import(place: &Path, release: &Release, masks: &Import) -> Result<Manifest, AtlasError> {
    write_atlas(place, release, &[masks.entry()], &BTreeMap::new())
}
