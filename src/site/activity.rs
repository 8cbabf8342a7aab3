//! How often every neuron fires in every language, as the browser gets it, and the order in which maps show the neurons of a layer.
//! In: an atlas' counts, or only its selected neurons where it has none. Out: one byte per neuron and language, and the order.

use std::{collections::BTreeMap, sync::Mutex};

use rayon::prelude::*;

use crate::{
    atlas::{Atlas, AtlasError, ModelRow, NeuronRow, RunRow, model_folder},
    language::LanguageCode,
    neuron::FfnShape,
    profile::{Routed, RoutedTable, visit_active},
};

/// A probability as one byte, round(255 · √p): steps are fine where most neurons are, near 0.
#[must_use]
pub fn quantised(probability: f64) -> u8 {
    (255.0 * probability.clamp(0.0, 1.0).sqrt()).round() as u8
}

/// The probability that a byte stands for.
#[must_use]
pub fn probability(q: u8) -> f64 {
    (f64::from(q) / 255.0).powi(2)
}

/// One model's activity.
pub struct Activity {
    shape: FfnShape,
    languages: Vec<LanguageCode>,
    /// Of every language the bytes of all neurons, layer by layer and expert by expert.
    rows: Vec<Vec<u8>>,
    /// Of every layer, the neurons' places within it in the order of the maps.
    order: Vec<Vec<u32>>,
    counted: bool,
}

impl Activity {
    /// Reads the counts of these languages. `angles` are their places around a circle, like beside like.
    ///
    /// # Errors
    /// When a table of counts is there and cannot be read.
    pub fn read(
        atlas: &Atlas,
        model: &ModelRow,
        profile: Option<&RunRow>,
        neurons: &[NeuronRow],
        languages: &[LanguageCode],
        angles: &BTreeMap<LanguageCode, f64>,
    ) -> Result<Self, AtlasError> {
        let shape = model.shape();
        let rows: Vec<Mutex<Vec<u8>>> = languages.iter().map(|_| Mutex::new(vec![0; shape.neurons()])).collect();
        let at: BTreeMap<LanguageCode, usize> = languages.iter().enumerate().map(|(at, &code)| (code, at)).collect();
        let counted = read_counts(atlas, model, profile, &at, &rows)?;
        let mut rows: Vec<Vec<u8>> = rows.into_iter().map(|row| row.into_inner().expect("no reader panics")).collect();
        if !counted {
            for row in neurons {
                if let Some(&at) = at.get(&row.language) {
                    rows[at][shape.flat(row.id())] = row.probability.map_or(255, |p| quantised(f64::from(p)));
                }
            }
        }
        let angles: Vec<f64> = languages.iter().map(|code| angles.get(code).copied().unwrap_or_default()).collect();
        let order = (0..shape.layers).into_par_iter().map(|layer| order(shape, layer, &rows, &angles)).collect();
        Ok(Self { shape, languages: languages.to_vec(), rows, order, counted })
    }

    /// The grid.
    #[must_use]
    pub fn shape(&self) -> FfnShape {
        self.shape
    }

    /// The languages, in the order of [`Activity::row`].
    #[must_use]
    pub fn languages(&self) -> &[LanguageCode] {
        &self.languages
    }

    /// Whether the bytes are those of counts: without them, only what the selection says is known.
    #[must_use]
    pub fn counted(&self) -> bool {
        self.counted
    }

    /// Of one language the bytes of all neurons, in the order of [`FfnShape::flat`].
    #[must_use]
    pub fn row(&self, language: usize) -> &[u8] {
        &self.rows[language]
    }

    /// The neurons of a layer, by their places in it, in the order of the maps: neurons that fire for the same languages stand side
    /// by side, and it is the same order for every language. Neurons that never fire come last.
    #[must_use]
    pub fn order(&self, layer: usize) -> &[u32] {
        &self.order[layer]
    }

    /// Where on the maps every neuron of a layer stands: the inverse of [`Activity::order`].
    #[must_use]
    pub fn places(&self, layer: usize) -> Vec<u32> {
        let mut places = vec![0; self.order[layer].len()];
        for (place, &within) in self.order[layer].iter().enumerate() {
            places[within as usize] = place as u32;
        }
        places
    }

    /// The bytes of the mean probability over all languages, in the order of [`FfnShape::flat`].
    #[must_use]
    pub fn mean(&self) -> Vec<u8> {
        let squares = squares();
        let mut sums = vec![0.0f32; self.shape.neurons()];
        for row in &self.rows {
            sums.iter_mut().zip(row).for_each(|(sum, &q)| *sum += squares[usize::from(q)]);
        }
        let languages = self.rows.len().max(1) as f64;
        sums.iter().map(|&sum| quantised(f64::from(sum) / languages)).collect()
    }
}

/// [`probability`] of every byte.
fn squares() -> [f32; 256] {
    std::array::from_fn(|q| probability(q as u8) as f32)
}

/// Fills the rows from the tables of counts; `false` where the atlas has none of the profile that was identified.
fn read_counts(
    atlas: &Atlas,
    model: &ModelRow,
    profile: Option<&RunRow>,
    at: &BTreeMap<LanguageCode, usize>,
    rows: &[Mutex<Vec<u8>>],
) -> Result<bool, AtlasError> {
    let (shape, folder) = (model.shape(), model_folder(&model.id));
    let parts = |kind: &str| {
        let prefix = format!("data/{kind}/{folder}/");
        atlas
            .manifest
            .files
            .iter()
            .filter(move |file| file.path.starts_with(&prefix))
            .map(|file| atlas.path().join(&file.path))
    };
    let Some(profile) = profile.filter(|_| parts("counts").next().is_some()) else { return Ok(false) };
    let tokens: BTreeMap<LanguageCode, u64> =
        atlas.coverage.iter().filter(|row| row.run == profile.run).map(|row| (row.language, row.tokens)).collect();
    let mut routed: BTreeMap<String, Routed> = BTreeMap::new();
    if shape.is_routed() {
        let folds = usize::try_from(profile.folds.unwrap_or(1)).unwrap_or(1);
        for part in parts("routed") {
            routed.extend(RoutedTable::read(&part, shape, folds)?.languages);
        }
    }
    for part in parts("counts") {
        visit_active(&part, shape, |code, first, active| {
            let code: LanguageCode = code.parse().map_err(|error| format!("{error}"))?;
            let Some(&at) = at.get(&code) else { return Ok(()) };
            let all = tokens.get(&code).copied().unwrap_or(0);
            let experts = routed.get(&code.to_string());
            let mut row = rows[at].lock().expect("no reader panics");
            for (flat, (q, &active)) in (first..).zip(row[first..].iter_mut().zip(active)) {
                let tokens = experts.map_or(all, |routed| routed.iter().map(|fold| fold[shape.ffn_of(flat)]).sum());
                *q = if tokens == 0 { 0 } else { quantised(active as f64 / tokens as f64) };
            }
            Ok(())
        })?;
    }
    Ok(true)
}

/// The seriation of one layer. The languages stand around a circle; a neuron points to the mean of all of them, weighted by how often
/// it fires for each, and the directions are its order. Firing that is the same everywhere cancels out.
fn order(shape: FfnShape, layer: usize, rows: &[Vec<u8>], angles: &[f64]) -> Vec<u32> {
    let (start, width) = (layer * shape.layer_width(), shape.layer_width());
    let squares = squares();
    let mut points = vec![(0.0f32, 0.0f32); width];
    let mut fires = vec![false; width];
    for (row, angle) in rows.iter().zip(angles) {
        let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
        for ((&q, point), fires) in row[start..start + width].iter().zip(&mut points).zip(&mut fires) {
            let weight = squares[usize::from(q)];
            *point = (point.0 + weight * cos, point.1 + weight * sin);
            *fires |= q > 0;
        }
    }
    let turn = std::f64::consts::TAU;
    let direction = |(x, y): (f32, f32)| f64::from(y).atan2(f64::from(x)).rem_euclid(turn);
    let mut order: Vec<(bool, f64, u32)> =
        points.iter().zip(&fires).zip(0..).map(|((&point, &fires), at)| (!fires, direction(point), at)).collect();
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    order.into_iter().map(|(_, _, at)| at).collect()
}
