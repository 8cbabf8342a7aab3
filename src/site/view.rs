//! One model of an atlas as its pages show it: every table indexed by language, and the order in which neurons are drawn.

use std::collections::BTreeMap;

use kodama::{Method, linkage};

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
        let mut view = Self {
            folder: model_folder(&model.id),
            method: method.to_owned(),
            languages,
            coverage: atlas.coverage.iter().filter(of_profile).map(|row| (row.language, row)).collect(),
            stability: tables.stability.iter().map(|row| (row.language, row)).collect(),
            overlap: tables.overlap.iter().map(|row| ((row.language_a, row.language_b), row)).collect(),
            neurons: BTreeMap::new(),
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

    /// Languages in an order in which those that fire alike stand together: the leaves of a tree by average linkage over
    /// 1 − cosine of their activation probabilities (Müllner 2011, arXiv 1109.2378).
    fn leaves(&self) -> Vec<LanguageCode> {
        let codes: Vec<LanguageCode> = self.languages.iter().map(|language| language.code).collect();
        let distance = |a, b| 1.0 - self.overlap(a, b).and_then(|row| row.cosine).unwrap_or(0.0);
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

    /// Gives every selected neuron its column: the languages stand around a circle in the order of [`View::leaves`], a neuron points
    /// to the mean of those that it serves, weighted by its shares, and its direction is its column on every map.
    fn place(&mut self) {
        let leaves = self.leaves();
        let angle = |place: usize| std::f64::consts::TAU * (place as f64 + 0.5) / leaves.len() as f64;
        let angles: BTreeMap<LanguageCode, f64> =
            leaves.iter().enumerate().map(|(at, &code)| (code, angle(at))).collect();
        let columns = self.columns();
        let mut layers: BTreeMap<usize, Vec<(f64, NeuronId)>> = BTreeMap::new();
        for (&id, served) in &self.neurons {
            let point = served.rows.iter().fold((0.0, 0.0), |(x, y), row| {
                let weight = f64::from(row.share.unwrap_or(1.0));
                let angle = angles.get(&row.language).copied().unwrap_or_default();
                (x + weight * angle.cos(), y + weight * angle.sin())
            });
            let direction = point.1.atan2(point.0).rem_euclid(std::f64::consts::TAU) / std::f64::consts::TAU;
            layers.entry(id.layer).or_default().push((direction, id));
        }
        for mut neurons in layers.into_values() {
            neurons.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let wanted: Vec<usize> =
                neurons.iter().map(|(direction, _)| ((direction * columns as f64) as usize).min(columns - 1)).collect();
            for (column, (_, id)) in spread(&wanted, columns).into_iter().zip(neurons) {
                self.neurons.get_mut(&id).expect("it was taken from there").column = column;
            }
        }
    }
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
