//! What sets of neurons have in common: the same language in two atlases, or two languages of one.
//! In: atlases whose models have one grid. Out: sizes, shared neurons, Jaccard and overlap coefficient, in all and by layer.

use std::path::PathBuf;

use serde::Serialize;

use super::{Atlas, AtlasError, ModelRow};
use crate::{
    language::LanguageCode,
    neuron::{FfnShape, NeuronSet},
};

/// What two sets have in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shared {
    /// Neurons of the first.
    pub neurons_a: usize,
    /// Neurons of the second.
    pub neurons_b: usize,
    /// Neurons of both.
    pub shared: usize,
    /// Neurons of both that two random sets with as many neurons in every layer have on average.
    pub shared_by_chance: f64,
    /// Shared over all of both; none where both are empty.
    pub jaccard: Option<f64>,
    /// Shared over the smaller; none where one is empty.
    pub overlap_coefficient: Option<f64>,
}

impl Shared {
    fn new(neurons_a: usize, neurons_b: usize, shared: usize, shared_by_chance: f64) -> Self {
        let ratio = |whole: usize| (whole > 0).then(|| shared as f64 / whole as f64);
        Self {
            neurons_a,
            neurons_b,
            shared,
            shared_by_chance,
            jaccard: ratio(neurons_a + neurons_b - shared),
            overlap_coefficient: ratio(neurons_a.min(neurons_b)),
        }
    }

    /// Of two sets over one grid.
    #[must_use]
    pub fn of(a: &NeuronSet, b: &NeuronSet) -> Self {
        let layers = Self::by_layer(a, b);
        let sum = |part: fn(&Self) -> usize| layers.iter().map(part).sum();
        Self::new(
            sum(|layer| layer.neurons_a),
            sum(|layer| layer.neurons_b),
            sum(|layer| layer.shared),
            layers.iter().map(|layer| layer.shared_by_chance).sum(),
        )
    }

    /// Of every layer of two sets over one grid.
    #[must_use]
    pub fn by_layer(a: &NeuronSet, b: &NeuronSet) -> Vec<Self> {
        let width = a.shape().layer_width().max(1) as f64;
        let layer = |layer| {
            let (first, second) = (a.layer(layer).len(), b.layer(layer).len());
            Self::new(first, second, a.shared(b, layer), first as f64 * second as f64 / width)
        };
        (0..a.shape().layers).map(layer).collect()
    }
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// The atlas.
    pub atlas: PathBuf,
    /// Its model.
    pub model: String,
    /// The model's revision.
    pub revision: Option<String>,
    /// How its neurons were found.
    pub method: String,
    /// The rate of the cut.
    pub top_rate: f64,
    /// The run that found them.
    pub run: String,
    /// Where imported masks come from.
    pub origin: Option<String>,
    /// Languages that were compared to find them: other lists give other sets.
    pub languages: usize,
}

/// Two sets that were compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The language on the first side.
    pub language_a: LanguageCode,
    /// The language on the second.
    pub language_b: LanguageCode,
    /// All layers together.
    #[serde(flatten)]
    pub total: Shared,
    /// Layer by layer.
    pub layers: Vec<Shared>,
}

/// Everything that was compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The first atlas.
    pub a: Side,
    /// The second, which may be the same.
    pub b: Side,
    /// The grid of both models.
    pub shape: FfnShape,
    /// Pairs of languages, in order.
    pub pairs: Vec<Pair>,
}

/// Which part of an atlas is compared.
pub struct Chosen<'a> {
    /// The atlas.
    pub atlas: &'a Atlas,
    /// Its model.
    pub model: &'a ModelRow,
    /// The method.
    pub method: &'a str,
    /// One of the atlas' rates; the largest unless said.
    pub top_rate: Option<f64>,
}

impl Chosen<'_> {
    /// The languages that were identified, by code.
    fn languages(&self) -> Result<Vec<LanguageCode>, AtlasError> {
        let (_, parameters, _) = self.atlas.identification(self.model, self.method)?;
        let mut languages = parameters.languages;
        languages.sort_unstable();
        Ok(languages)
    }

    fn set(&self, language: LanguageCode) -> Result<NeuronSet, AtlasError> {
        Ok(self.atlas.set(self.model, self.method, language, self.top_rate)?.0)
    }

    fn side(&self) -> Result<Side, AtlasError> {
        let languages = self.languages()?;
        let (run, _, _) = self.atlas.identification(self.model, self.method)?;
        let (_, rate) = match languages.first() {
            Some(&language) => self.atlas.set(self.model, self.method, language, self.top_rate)?,
            None => {
                return Err(AtlasError::broken(self.atlas.path(), format!("run {} compared no languages", run.run)));
            }
        };
        Ok(Side {
            atlas: self.atlas.path().to_owned(),
            model: self.model.id.clone(),
            revision: self.model.revision.clone(),
            method: self.method.to_owned(),
            top_rate: rate.rate,
            run: run.run.clone(),
            origin: run.origin.clone(),
            languages: languages.len(),
        })
    }
}

/// Compares every language of both atlases, or those named; of an atlas with itself, every pair of the languages named.
///
/// # Errors
/// When the models' grids differ, no language is in both, or one that is named is missing from either.
pub fn compare(a: &Chosen, b: Option<&Chosen>, languages: Option<&[LanguageCode]>) -> Result<Comparison, AtlasError> {
    let other = b.unwrap_or(a);
    let (shape, second) = (a.model.shape(), other.model.shape());
    if shape != second {
        return Err(AtlasError::Shapes {
            model_a: a.model.id.clone(),
            shape_a: shape,
            model_b: other.model.id.clone(),
            shape_b: second,
        });
    }
    let pairs = match (b, languages) {
        (Some(_), Some(named)) => named.iter().map(|&language| (language, language)).collect(),
        (Some(b), None) => in_common(a, b)?,
        (None, named) => {
            let all = a.languages()?;
            let named = named.unwrap_or(&all);
            named.iter().enumerate().flat_map(|(at, &a)| named[at + 1..].iter().map(move |&b| (a, b))).collect()
        }
    };
    let pair = |(language_a, language_b)| {
        let (first, second) = (a.set(language_a)?, other.set(language_b)?);
        let (total, layers) = (Shared::of(&first, &second), Shared::by_layer(&first, &second));
        Ok(Pair { language_a, language_b, total, layers })
    };
    let pairs = pairs.into_iter().map(pair).collect::<Result<_, AtlasError>>()?;
    Ok(Comparison { a: a.side()?, b: other.side()?, shape, pairs })
}

fn in_common(a: &Chosen, b: &Chosen) -> Result<Vec<(LanguageCode, LanguageCode)>, AtlasError> {
    let (first, second) = (a.languages()?, b.languages()?);
    let both: Vec<_> =
        first.iter().filter(|language| second.contains(language)).map(|&language| (language, language)).collect();
    if both.is_empty() {
        let some = |languages: &[LanguageCode]| languages.iter().take(8).map(ToString::to_string).collect();
        return Err(AtlasError::NothingInCommon {
            a: a.atlas.path().to_owned(),
            b: b.atlas.path().to_owned(),
            held_a: some(&first),
            held_b: some(&second),
        });
    }
    Ok(both)
}
