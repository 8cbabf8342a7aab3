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
    per_layer: BTreeMap<LanguageCode, Vec<usize>>,
    /// The languages in an order in which those that fire alike stand together, and how they come together.
    pub tree: Tree,
    /// Places of the languages around a circle, like beside like.
    pub angles: BTreeMap<LanguageCode, f64>,
    /// Per layer, where the languages' neurons lie.
    pub bands: Vec<Band>,
    /// Families, the largest first.
    pub families: Vec<Family>,
    /// Languages that each selected neuron serves.
    pub neurons: BTreeMap<NeuronId, Served<'a>>,
}

/// Over all languages that have neurons, the share of them that lies in one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Mean share.
    pub mean: f64,
    /// A tenth of the languages lie below it.
    pub low: f64,
    /// A tenth lie above it.
    pub high: f64,
}

/// A family of languages in the atlas. The eight largest have a letter and a colour of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// `a` to `h`, or `other`.
    pub key: &'static str,
    /// Its name.
    pub name: String,
    /// Its languages in the atlas.
    pub size: usize,
}

/// Languages by how alike they fire: average linkage over 1 − cosine of their activation probabilities (Müllner 2011,
/// arXiv 1109.2378).
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The leaves from one end to the other.
    pub leaves: Vec<LanguageCode>,
    /// Each fork: the two nodes that it joins, and their distance. Nodes below the number of leaves are languages by their place among
    /// [`View::languages`], the others forks in this order.
    pub forks: Vec<(usize, usize, f64)>,
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
            per_layer: BTreeMap::new(),
            tree: Tree::default(),
            angles: BTreeMap::new(),
            bands: Vec::new(),
            families: Vec::new(),
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
        view.per_layer = view.languages.iter().map(|language| (language.code, view.layers_of(language.code))).collect();
        view.bands = view.measure();
        view.families = view.sort_families();
        view.tree = view.grow();
        view.angles = view.circle();
        Ok(view)
    }

    /// Whether a code is that of one of the languages compared.
    pub fn has(&self, code: &str) -> bool {
        self.languages.iter().any(|language| language.code.to_string() == code)
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
    pub fn per_layer(&self, language: LanguageCode) -> &[usize] {
        self.per_layer.get(&language).map_or(&[], Vec::as_slice)
    }

    fn layers_of(&self, language: LanguageCode) -> Vec<usize> {
        let mut counts = vec![0; self.model.layers];
        self.tables.of(language).iter().for_each(|row| counts[row.layer] += 1);
        counts
    }

    /// Share of a language's neurons in each layer; none of a language without neurons.
    pub fn shares(&self, language: LanguageCode) -> Option<Vec<f64>> {
        let counts = self.per_layer(language);
        let total: usize = counts.iter().sum();
        (total > 0).then(|| counts.iter().map(|&count| count as f64 / total as f64).collect())
    }

    fn measure(&self) -> Vec<Band> {
        let all: Vec<Vec<f64>> = self.languages.iter().filter_map(|language| self.shares(language.code)).collect();
        let band = |layer: usize| {
            let mut column: Vec<f64> = all.iter().map(|shares| shares[layer]).collect();
            column.sort_by(f64::total_cmp);
            let mean = column.iter().sum::<f64>() / column.len().max(1) as f64;
            Band { mean, low: quantile(&column, 0.1), high: quantile(&column, 0.9) }
        };
        (0..self.model.layers).map(band).collect()
    }

    fn sort_families(&self) -> Vec<Family> {
        const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        self.languages.iter().for_each(|language| *sizes.entry(&language.family).or_default() += 1);
        let mut sizes: Vec<(&str, usize)> = sizes.into_iter().collect();
        sizes.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let family = |(at, (name, size)): (usize, (&str, usize))| Family {
            key: KEYS.get(at).copied().unwrap_or("other"),
            name: name.to_owned(),
            size,
        };
        sizes.into_iter().enumerate().map(family).collect()
    }

    /// Letter of a family, or `other`.
    pub fn family_key(&self, family: &str) -> &'static str {
        self.families.iter().find(|known| known.name == family).map_or("other", |known| known.key)
    }

    /// Neurons of a language, and how many of them serve no other.
    pub fn sizes(&self, language: LanguageCode) -> (usize, usize) {
        let rows = self.tables.of(language);
        (rows.len(), rows.iter().filter(|row| row.languages == 1).count())
    }

    /// Layers of the last quarter, rounded up: of 6 layers the last 2.
    pub fn late_layers(&self) -> usize {
        self.model.layers.div_ceil(4)
    }

    /// Mean place of a language's neurons, from 0 in the first layer to 1 in the last.
    pub fn depth_of(&self, language: LanguageCode) -> Option<f64> {
        let rows = self.tables.of(language);
        let last = self.model.layers.saturating_sub(1).max(1) as f64;
        (!rows.is_empty()).then(|| rows.iter().map(|row| row.layer as f64 / last).sum::<f64>() / rows.len() as f64)
    }

    /// Columns of the maps.
    pub fn columns(&self) -> usize {
        self.model.shape().layer_width().min(COLUMNS)
    }

    fn grow(&self) -> Tree {
        let codes: Vec<LanguageCode> = self.languages.iter().map(|language| language.code).collect();
        let distance = |a, b| 1.0 - self.overlap(a, b).and_then(|row| row.cosine.or(row.jaccard)).unwrap_or(0.0);
        let pairs = codes.iter().enumerate().flat_map(|(i, &a)| codes[i + 1..].iter().map(move |&b| (a, b)));
        let mut distances: Vec<f64> = pairs.map(|(a, b)| distance(a, b)).collect();
        let steps = linkage(&mut distances, codes.len(), Method::Average);
        let mut clusters: Vec<Vec<LanguageCode>> = codes.iter().map(|&code| vec![code]).collect();
        let mut forks = Vec::new();
        for step in steps.steps() {
            forks.push((step.cluster1, step.cluster2, step.dissimilarity));
            let (mut left, right) =
                (std::mem::take(&mut clusters[step.cluster1]), std::mem::take(&mut clusters[step.cluster2]));
            left.extend(right);
            clusters.push(left);
        }
        Tree { leaves: clusters.pop().unwrap_or_default(), forks }
    }

    /// The languages' places around a circle, in the order of the tree: a neuron's place on the maps is the direction of those that
    /// it fires for.
    fn circle(&self) -> BTreeMap<LanguageCode, f64> {
        let leaves = &self.tree.leaves;
        let angle = |place: usize| std::f64::consts::TAU * (place as f64 + 0.5) / leaves.len() as f64;
        leaves.iter().enumerate().map(|(at, &code)| (code, angle(at))).collect()
    }

    /// Gives every selected neuron its column on every map, near its place in the order of its layer.
    pub fn place(&mut self, activity: &Activity) {
        let (columns, shape) = (self.columns(), self.model.shape());
        for layer in 0..shape.layers {
            let places = activity.places(layer);
            let mut neurons: Vec<(u32, NeuronId)> = self
                .neurons
                .keys()
                .filter(|id| id.layer == layer)
                .map(|&id| (places[shape.in_layer(id)], id))
                .collect();
            neurons.sort_unstable();
            let column = |place: u32| (place as usize * columns / shape.layer_width()).min(columns - 1);
            let wanted: Vec<usize> = neurons.iter().map(|(place, _)| column(*place)).collect();
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

/// Quantile of sorted values, linear between neighbours.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = q * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}
