//! The answer of an identification, with its evidence. In: ranked neurons and the bars they were held to. Out: sets per
//! language, nested cuts of the same ranking, and notes in plain words on whatever a reader should know.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{IdentifyError, Profiles, Rate, listed};
use crate::language::LanguageCode;
use crate::neuron::{FfnShape, NeuronId, NeuronSet};

/// Neurons that a method selected, for which languages, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Name of the method.
    pub method: String,
    /// The grid that the neurons live on.
    pub shape: FfnShape,
    /// The languages, in the order of the profiles.
    pub languages: Vec<LanguageCode>,
    /// Tokens that each language's counts come from.
    pub tokens: Vec<u64>,
    /// Probability that a neuron had to exceed in some language to be considered; none if nothing could be compared.
    pub filter_bar: Option<f64>,
    /// Probability above which a neuron serves a language; none if nothing could be compared.
    pub activation_bar: Option<f64>,
    /// Highest entropy that was selected; none if no neuron was, or if not by entropy.
    pub entropy_cut: Option<f64>,
    /// Neurons that pass the filter and so have a finite entropy.
    pub finite: usize,
    /// Neurons that the rate asks for.
    pub asked: usize,
    /// Neurons at exactly the cut's entropy.
    pub ties_at_cut: TiesAtCut,
    /// The selected neurons, by rank.
    pub neurons: Vec<SelectedNeuron>,
    /// What a reader should know.
    pub notes: Vec<Note>,
}

/// One selected neuron and its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectedNeuron {
    /// Which neuron.
    pub id: NeuronId,
    /// Its place by (entropy, layer, expert, index), from 0.
    pub rank: u32,
    /// Entropy of its activation probabilities over the languages, in nats.
    pub entropy: f64,
    /// Its activation probability in each language; 0 in a language without tokens, or without any for its expert.
    pub probabilities: Vec<f64>,
    /// The languages that it serves, as sorted indices: where its probability is above the activation bar.
    pub assigned: Vec<u16>,
}

/// Neurons whose entropy is exactly that of the cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TiesAtCut {
    /// How many there are.
    pub tied: usize,
    /// How many of them were selected, by layer and index.
    pub taken: usize,
}

impl Selection {
    /// The neurons of one language, by its index; an index beyond the languages has none.
    #[must_use]
    pub fn set(&self, language: usize) -> NeuronSet {
        let serves = |neuron: &&SelectedNeuron| neuron.assigned.iter().any(|&index| usize::from(index) == language);
        NeuronSet::new(self.shape, self.neurons.iter().filter(serves).map(|neuron| neuron.id))
    }

    /// All selected neurons.
    #[must_use]
    pub fn union(&self) -> NeuronSet {
        NeuronSet::new(self.shape, self.neurons.iter().map(|neuron| neuron.id))
    }

    /// The first ranks of this selection: exactly what identifying at this rate gives.
    ///
    /// # Errors
    /// If the rate asks for more than this selection was asked for, or if its neurons are not ranked by entropy.
    pub fn at_rate(&self, rate: Rate) -> Result<Self, IdentifyError> {
        let asked = rate.of(self.shape.neurons());
        if self.entropy_cut.is_none() && !self.neurons.is_empty() {
            return Err(IdentifyError::NotRanked { method: self.method.clone() });
        }
        // Beyond its own rate a selection still knows the answer if no neuron was left out.
        if asked > self.asked && self.asked < self.finite {
            return Err(IdentifyError::BeyondSelection { asked, selected: self.asked });
        }
        let neurons = self.neurons[..asked.min(self.neurons.len())].to_vec();
        let notes = self.notes.iter().filter(|note| !note.is_about_the_cut()).cloned().collect();
        let entropy_cut = neurons.last().map(|neuron| neuron.entropy);
        let ties_at_cut = self.ties_at(entropy_cut, neurons.len());
        Ok(Self { entropy_cut, asked, ties_at_cut, neurons, notes, ..self.without_neurons() }.with_cut_notes())
    }

    fn ties_at(&self, cut: Option<f64>, selected: usize) -> TiesAtCut {
        let Some(cut) = cut else { return TiesAtCut::default() };
        let at_cut =
            |neurons: &[SelectedNeuron]| neurons.iter().filter(|neuron| neuron.entropy.total_cmp(&cut).is_eq()).count();
        // Neurons that were left out tie only with the last rank, and those are already counted.
        let tied = if self.entropy_cut == Some(cut) { self.ties_at_cut.tied } else { at_cut(&self.neurons) };
        TiesAtCut { tied, taken: at_cut(&self.neurons[..selected]) }
    }

    fn without_neurons(&self) -> Self {
        Self {
            method: self.method.clone(),
            languages: self.languages.clone(),
            tokens: self.tokens.clone(),
            neurons: Vec::new(),
            notes: Vec::new(),
            ..*self
        }
    }

    /// Refuses profiles that this selection does not come from.
    pub(super) fn check_source(&self, profiles: &Profiles) -> Result<(), IdentifyError> {
        let tokens = profiles.languages().iter().map(|counts| counts.tokens());
        let same = self.shape == profiles.shape()
            && self.languages == profiles.codes()
            && tokens.eq(self.tokens.iter().copied());
        if same { Ok(()) } else { Err(IdentifyError::OtherProfiles) }
    }

    /// Adds what is to be said about where the ranking was cut.
    pub(super) fn with_cut_notes(mut self) -> Self {
        if self.notes.iter().any(Note::explains_an_empty_selection) {
            return self;
        }
        let TiesAtCut { tied, taken } = self.ties_at_cut;
        if self.asked == 0 {
            self.notes.push(Note::NothingAsked { neurons: self.shape.neurons() });
        }
        if self.finite < self.asked {
            self.notes.push(Note::FewerThanAsked { finite: self.finite, asked: self.asked });
        }
        if let Some(entropy) = self.entropy_cut.filter(|_| taken < tied) {
            self.notes.push(Note::TiesAtCut { entropy, tied, taken });
        }
        let neurons = self.neurons.iter().filter(|neuron| neuron.assigned.is_empty()).count();
        if let (Some(filter_bar), Some(activation_bar), 1..) = (self.filter_bar, self.activation_bar, neurons) {
            self.notes.push(Note::WithoutLanguage { neurons, filter_bar, activation_bar });
        }
        self
    }
}

/// Something about a selection that a reader should know; its `Display` says it in plain words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// A language that was profiled over nothing.
    NoTokens {
        /// Which.
        language: LanguageCode,
    },
    /// Fewer than two languages have tokens.
    TooFewLanguages {
        /// The only one, if there is one.
        language: Option<LanguageCode>,
    },
    /// Every language fires every neuron at the same rate.
    SameProfile {
        /// How many languages.
        languages: usize,
    },
    /// Experts that some language's tokens are never routed to.
    Unrouted {
        /// How many, over all layers.
        experts: usize,
        /// How many experts there are.
        of: usize,
        /// The languages.
        languages: Vec<LanguageCode>,
    },
    /// Languages whose counts are equal throughout.
    IdenticalCounts {
        /// Which.
        languages: Vec<LanguageCode>,
    },
    /// Tokens beyond what f32 counts without rounding.
    RoundedCounts {
        /// Which languages have that many.
        languages: Vec<LanguageCode>,
        /// The most tokens that one of them has.
        tokens: u64,
    },
    /// No neuron passes the filter.
    AllFiltered {
        /// Neurons of the model.
        neurons: usize,
        /// The bar that none exceeds.
        filter_bar: f64,
    },
    /// The rate rounds to no neuron.
    NothingAsked {
        /// Neurons of the model.
        neurons: usize,
    },
    /// Fewer neurons pass the filter than the rate asks for.
    FewerThanAsked {
        /// How many pass.
        finite: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// The cut falls between neurons of equal entropy.
    TiesAtCut {
        /// The entropy that they share.
        entropy: f64,
        /// How many share it.
        tied: usize,
        /// How many of those were taken.
        taken: usize,
    },
    /// Selected neurons that serve no language.
    WithoutLanguage {
        /// How many.
        neurons: usize,
        /// The bar that they exceed.
        filter_bar: f64,
        /// The bar that they do not.
        activation_bar: f64,
    },
    /// A control for which there were not enough other neurons.
    TooFewOthers {
        /// For which language.
        language: LanguageCode,
        /// In which layer; none when the draw is over all layers.
        layer: Option<usize>,
        /// How many neurons the control should have.
        wanted: usize,
        /// How many there were, all taken.
        drawn: usize,
    },
}

/// Counts up to here are whole numbers in f32; above, they round.
pub(super) const F32_WHOLE: u64 = 1 << 24;

impl Note {
    /// Whether another rate could change this note.
    pub(super) fn is_about_the_cut(&self) -> bool {
        matches!(
            self,
            Self::NothingAsked { .. }
                | Self::FewerThanAsked { .. }
                | Self::TiesAtCut { .. }
                | Self::WithoutLanguage { .. }
        )
    }

    /// Whether this alone is why no neuron was selected.
    fn explains_an_empty_selection(&self) -> bool {
        matches!(self, Self::TooFewLanguages { .. } | Self::SameProfile { .. } | Self::AllFiltered { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTokens { language } => {
                write!(f, "{language} has no tokens: it takes no part in the arithmetic and gets no neurons")
            }
            Self::TooFewLanguages { language: Some(language) } => write!(
                f,
                "only {language} has tokens: an entropy over one language says nothing, so no neuron was selected"
            ),
            Self::TooFewLanguages { language: None } => write!(f, "no language has tokens, so no neuron was selected"),
            Self::SameProfile { languages } => write!(
                f,
                "all {languages} languages fire every neuron at the same rate: \
                 every entropy is the same, so no neuron was selected"
            ),
            Self::Unrouted { experts, of, languages } => write!(
                f,
                "experts that get no token of some language: {experts} of {of} over all layers ({}); \
                 their neurons count as never active there",
                listed(languages)
            ),
            Self::IdenticalCounts { languages } => {
                write!(f, "{} have identical counts: is it one text under several names?", listed(languages))
            }
            Self::RoundedCounts { languages, tokens } => write!(
                f,
                "f32 counts round above {F32_WHOLE} tokens and make artificial ties \
                 ({}: up to {tokens} tokens): use exact arithmetic",
                listed(languages)
            ),
            Self::AllFiltered { neurons, filter_bar } => write!(
                f,
                "none of {neurons} neurons has a probability above the filter bar {filter_bar}, \
                 so no neuron was selected"
            ),
            Self::NothingAsked { neurons } => {
                write!(f, "the rate is too small: of {neurons} neurons it asks for none")
            }
            Self::FewerThanAsked { finite, asked } => {
                write!(f, "asked for {asked} neurons, but only {finite} pass the filter: no other was selected")
            }
            Self::TiesAtCut { entropy, tied, taken } => write!(
                f,
                "of {tied} neurons with exactly the entropy of the cut, {entropy}, \
                 the selection takes the first {taken} by layer and index"
            ),
            Self::WithoutLanguage { neurons, filter_bar, activation_bar } => write!(
                f,
                "selected neurons that serve no language: {neurons}, \
                 because the activation bar {activation_bar} is above the filter bar {filter_bar}"
            ),
            Self::TooFewOthers { language, layer: Some(layer), wanted, drawn } => {
                write!(
                    f,
                    "{language}: in layer {layer} a control of {wanted} finds only {drawn} among the other neurons"
                )
            }
            Self::TooFewOthers { language, layer: None, wanted, drawn } => {
                write!(f, "{language}: in the model a control of {wanted} finds only {drawn} among the other neurons")
            }
        }
    }
}
