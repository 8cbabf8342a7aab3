//! The control: what a set of the same size does when nothing chose it. In: profiles. Out: for each language random
//! neurons, as many as LAPE gives it, none of which LAPE gives it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Identifier, IdentifyError, Lape, Note, Profiles, SelectedNeuron, Selection, TiesAtCut};
use crate::language::LanguageCode;
use crate::neuron::NeuronSet;

pub(super) const NAME: &str = "random";

/// What a control has in common with the selection it stands beside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matching {
    /// As many neurons in every layer, from any of its experts.
    #[default]
    PerLayer,
    /// As many neurons in all, from any layer.
    Overall,
}

/// For each language as many random neurons as LAPE finds, never LAPE's own and never one that never fires.
///
/// A language's draw depends on the seed, its code and its own LAPE set, so that languages can be reordered freely. In
/// the selection a language is `assigned` where it drew, whatever the neuron's probability, and there is no entropy
/// cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Random {
    /// The selection that is matched.
    pub lape: Lape,
    /// Seed of the draw.
    pub seed: u64,
    /// What is matched.
    pub matching: Matching,
}

impl Identifier for Random {
    fn identify(&self, profiles: &Profiles) -> Result<Selection, IdentifyError> {
        let lape = self.lape.identify(profiles)?;
        let fires = firing(profiles);
        let mut notes: Vec<Note> = lape.notes.iter().filter(|note| !note.is_about_the_cut()).cloned().collect();
        let mut drawn: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for language in 0..lape.languages.len() {
            let places =
                draw(self.seed, self.matching, lape.languages[language], &lape.set(language), &fires, &mut notes);
            for place in places {
                drawn.entry(place).or_default().push(language as u16);
            }
        }
        let neurons = self.ranked(profiles, drawn);
        Ok(Selection {
            method: NAME.to_owned(),
            entropy_cut: None,
            ties_at_cut: TiesAtCut::default(),
            neurons,
            notes,
            ..lape
        })
    }
}

/// As many random neurons as a set has, none of them the set's own: the control of an adaptation, for which no profile is at hand that
/// could tell which neurons never fire. A layer whose set is more than half of it gives all its others.
#[must_use]
pub fn control(own: &NeuronSet, language: LanguageCode, seed: u64, matching: Matching) -> NeuronSet {
    let shape = own.shape();
    let places = draw(seed, matching, language, own, &vec![true; shape.neurons()], &mut Vec::new());
    NeuronSet::new(shape, places.into_iter().map(|place| shape.neuron(place as usize)))
}

/// One language's control, as places in layer-major order.
fn draw(
    seed: u64,
    matching: Matching,
    language: LanguageCode,
    own: &NeuronSet,
    fires: &[bool],
    notes: &mut Vec<Note>,
) -> Vec<u32> {
    let mut rng = stream(seed, language, 0);
    let shape = own.shape();
    let others = |layer: usize| {
        let width = shape.layer_width();
        let others = (0..width as u32).filter(move |place| own.layer(layer).binary_search(place).is_err());
        others.map(move |place| (layer * width) as u32 + place).filter(|&place| fires[place as usize])
    };
    let pools: Vec<(Option<usize>, usize, Vec<u32>)> = match matching {
        Matching::PerLayer => (0..shape.layers)
            .filter(|&layer| !own.layer(layer).is_empty())
            .map(|layer| (Some(layer), own.layer(layer).len(), others(layer).collect()))
            .collect(),
        Matching::Overall => vec![(None, own.len(), (0..shape.layers).flat_map(others).collect())],
    };
    let mut places = Vec::with_capacity(own.len());
    for (layer, wanted, mut pool) in pools {
        if pool.len() < wanted {
            notes.push(Note::TooFewOthers { language, layer, wanted, drawn: pool.len() });
        }
        places.extend_from_slice(draw_first(&mut pool, wanted, &mut rng));
    }
    places
}

impl Random {
    /// The drawn neurons in the order of their entropies, with the evidence that LAPE would give.
    fn ranked(&self, profiles: &Profiles, drawn: BTreeMap<u32, Vec<u16>>) -> Vec<SelectedNeuron> {
        let neuron = |(place, assigned): (u32, Vec<u16>)| {
            let probabilities = self.lape.probabilities(profiles, place as usize);
            let entropy = self.lape.arithmetic.entropy(&probabilities);
            SelectedNeuron { id: profiles.shape().neuron(place as usize), rank: 0, entropy, probabilities, assigned }
        };
        let mut neurons: Vec<SelectedNeuron> = drawn.into_par_iter().map(neuron).collect();
        neurons.sort_by(|a, b| a.entropy.total_cmp(&b.entropy).then(a.id.cmp(&b.id)));
        neurons.iter_mut().zip(0..).for_each(|(neuron, rank)| neuron.rank = rank);
        neurons
    }
}

/// For each neuron, whether any language fires it.
fn firing(profiles: &Profiles) -> Vec<bool> {
    let mut fires = vec![false; profiles.shape().neurons()];
    for counts in profiles.languages() {
        fires.iter_mut().zip(&counts.active).for_each(|(fires, &active)| *fires |= active > 0);
    }
    fires
}

/// The first `wanted` of a shuffle (Fisher and Yates), or all if there are fewer.
fn draw_first<'a>(pool: &'a mut [u32], wanted: usize, rng: &mut ChaCha8Rng) -> &'a [u32] {
    let wanted = wanted.min(pool.len());
    for place in 0..wanted {
        // A product's upper half is uniform to within 2^-32, and no library's version changes it.
        let left = (pool.len() - place) as u128;
        let ahead = (u128::from(rng.next_u64()) * left) >> 64;
        pool.swap(place, place + ahead as usize);
    }
    &pool[..wanted]
}

/// The stream of random numbers for one language and one repetition.
pub(super) fn stream(seed: u64, language: LanguageCode, repetition: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&repetition.to_le_bytes());
    key[16..].iter_mut().zip(language.to_string().bytes()).for_each(|(key, byte)| *key = byte);
    ChaCha8Rng::from_seed(key)
}

impl FromStr for Matching {
    type Err = IdentifyError;

    fn from_str(text: &str) -> Result<Self, IdentifyError> {
        match text {
            "per-layer" => Ok(Self::PerLayer),
            "overall" => Ok(Self::Overall),
            _ => Err(IdentifyError::Choice {
                what: "matching",
                given: text.to_owned(),
                known: "`per-layer` or `overall`",
            }),
        }
    }
}

impl fmt::Display for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PerLayer => "per-layer",
            Self::Overall => "overall",
        })
    }
}
