//! One model of an atlas as its pages show it: every table indexed by language, and the order in which neurons are drawn.

use std::collections::BTreeMap;

use kodama::{Method, linkage};

use super::activity::Activity;
use crate::{
    atlas::{
        Atlas, AtlasError, CoverageRow, IdentifyParameters, IdentifyResult, LanguageRow, MethodTables, ModelRow,
        NeuronRow, OverlapRow, RateResult, RunRow, StabilityRow, model_folder,
    },
    language::LanguageCode,
    neuron::NeuronId,
};

/// Columns that a neuron map draws at most: wider layers share columns.
const COLUMNS: usize = 768;

/// One model, one method.
pub struct View<'a> {
    pub atlas: &'a Atlas,
    pub model: &'a ModelRow,
    pub method: String,
    pub folder: String,
    pub tables: &'a MethodTables,
    pub identify: &'a RunRow,
    pub profile: Option<&'a RunRow>,
    pub parameters: IdentifyParameters,
    pub result: IdentifyResult,
    /// The languages compared, by name.
    pub languages: Vec<&'a LanguageRow>,
    coverage: BTreeMap<LanguageCode, &'a CoverageRow>,
    stability: BTreeMap<LanguageCode, &'a StabilityRow>,
    overlap: BTreeMap<(LanguageCode, LanguageCode), &'a OverlapRow>,
    /// Languages that each selected neuron serves.
    pub neurons: BTreeMap<NeuronId, Served<'a>>,
    /// Where every language stands around a circle, like beside like, in turns of 2π.
    pub angles: BTreeMap<LanguageCode, f64>,
    /// How often every neuron fires in every language, and the order in which maps show them.
    pub activity: Activity,
}

/// A selected neuron: the rows that it has, and its column on the maps.
#[derive(Default)]
pub struct Served<'a> {
    pub rows: Vec<&'a NeuronRow>,
    pub column: usize,
}

impl<'a> View<'a> {
    pub fn new(atlas: &'a Atlas, model: &'a ModelRow, method: &str) -> Result<Self, AtlasError> {
        let tables = atlas.method(model, method)?;
        let (identify, parameters, result) = atlas.identification(model, method)?;
        let profile = atlas.runs.iter().find(|run| run.kind == "profile" && Some(&run.run) == identify.parent.as_ref());
        let of_profile = |row: &&CoverageRow| profile.is_some_and(|profile| profile.run == row.run);
        let mut languages: Vec<&LanguageRow> =
            atlas.languages.iter().filter(|language| parameters.languages.contains(&language.code)).collect();
        languages.sort_by(|a, b| (&a.name, a.code).cmp(&(&b.name, b.code)));
        let overlap = tables.overlap.iter().map(|row| ((row.language_a, row.language_b), row)).collect();
        let angles = angles(&leaves(&languages, &overlap));
        let codes: Vec<LanguageCode> = languages.iter().map(|language| language.code).collect();
        let activity = Activity::read(atlas, model, profile, &tables.neurons, &codes, &angles)?;
        let mut view = Self {
            folder: model_folder(&model.id),
            method: method.to_owned(),
            languages,
            coverage: atlas.coverage.iter().filter(of_profile).map(|row| (row.language, row)).collect(),
            stability: tables.stability.iter().map(|row| (row.language, row)).collect(),
            overlap,
            neurons: BTreeMap::new(),
            angles,
            activity,
            atlas,
            model,
            tables,
            identify,
            profile,
            parameters,
            result,
        };
        for row in &tables.neurons {
            view.neurons.entry(row.id()).or_default().rows.push(row);
        }
        view.place();
        Ok(view)
    }

    pub fn coverage(&self, language: LanguageCode) -> Option<&CoverageRow> {
        self.coverage.get(&language).copied()
    }

    pub fn stability(&self, language: LanguageCode) -> Option<&StabilityRow> {
        self.stability.get(&language).copied()
    }

    pub fn overlap(&self, a: LanguageCode, b: LanguageCode) -> Option<&OverlapRow> {
        self.overlap.get(&(a.min(b), a.max(b))).copied()
    }

    pub fn language(&self, code: LanguageCode) -> Option<&LanguageRow> {
        self.languages.iter().find(|language| language.code == code).copied()
    }

    /// The largest rate: what the pages show.
    pub fn rate(&self) -> Option<&RateResult> {
        self.result.largest()
    }

    /// Neurons of a language per layer.
    pub fn per_layer(&self, language: LanguageCode) -> Vec<usize> {
        let mut counts = vec![0; self.model.layers];
        self.tables.of(language).iter().for_each(|row| counts[row.layer] += 1);
        counts
    }

    /// Columns of the maps.
    pub fn columns(&self) -> usize {
        self.model.shape().layer_width().min(COLUMNS)
    }

    /// Gives every selected neuron its column: its place in the order of its layer ([`Activity::order`]), as far as there are columns.
    fn place(&mut self) {
        let (columns, shape) = (self.columns(), self.model.shape());
        let mut layers: BTreeMap<usize, Vec<(usize, NeuronId)>> = BTreeMap::new();
        for &id in self.neurons.keys() {
            layers.entry(id.layer).or_default().push((shape.in_layer(id), id));
        }
        for (layer, mut neurons) in layers {
            let places = self.activity.places(layer);
            neurons.iter_mut().for_each(|(place, _)| *place = places[*place] as usize);
            neurons.sort_unstable();
            let wanted: Vec<usize> = neurons.iter().map(|(place, _)| place * columns / places.len()).collect();
            for (column, (_, id)) in spread(&wanted, columns).into_iter().zip(neurons) {
                self.neurons.get_mut(&id).expect("it was taken from there").column = column;
            }
        }
    }
}

/// Languages in an order in which those that fire alike stand together: the leaves of a tree by average linkage over
/// 1 − cosine of their activation probabilities (Müllner 2011, arXiv 1109.2378).
fn leaves(
    languages: &[&LanguageRow],
    overlap: &BTreeMap<(LanguageCode, LanguageCode), &OverlapRow>,
) -> Vec<LanguageCode> {
    let codes: Vec<LanguageCode> = languages.iter().map(|language| language.code).collect();
    let distance = |a: LanguageCode, b: LanguageCode| {
        1.0 - overlap.get(&(a.min(b), a.max(b))).and_then(|row| row.cosine).unwrap_or(0.0)
    };
    let pairs = codes.iter().enumerate().flat_map(|(i, &a)| codes[i + 1..].iter().map(move |&b| (a, b)));
    let mut distances: Vec<f64> = pairs.map(|(a, b)| distance(a, b)).collect();
    let steps = linkage(&mut distances, codes.len(), Method::Average);
    let mut clusters: Vec<Vec<LanguageCode>> = codes.iter().map(|&code| vec![code]).collect();
    for step in steps.steps() {
        let (mut left, right) =
            (std::mem::take(&mut clusters[step.cluster1]), std::mem::take(&mut clusters[step.cluster2]));
        left.extend(right);
        clusters.push(left);
    }
    clusters.pop().unwrap_or_default()
}

/// The languages around a circle in that order.
fn angles(leaves: &[LanguageCode]) -> BTreeMap<LanguageCode, f64> {
    let angle = |place: usize| std::f64::consts::TAU * (place as f64 + 0.5) / leaves.len() as f64;
    leaves.iter().enumerate().map(|(at, &code)| (code, angle(at))).collect()
}

/// Columns near the wanted ones (ascending), no two alike as long as there is room.
fn spread(wanted: &[usize], columns: usize) -> Vec<usize> {
    if wanted.len() > columns / 2 {
        return wanted.to_vec();
    }
    let mut places = Vec::with_capacity(wanted.len());
    for &column in wanted {
        places.push(column.max(places.last().map_or(0, |last| last + 1)));
    }
    // What was pushed over the right edge moves back to the left.
    let mut limit = columns;
    for place in places.iter_mut().rev() {
        *place = (*place).min(limit - 1);
        limit = *place;
    }
    places
}
