//! Which neurons serve which language. In: how often each neuron fires on each language's tokens ([`Profiles`]).
//! Out: a [`Selection`] with its evidence, how far it can be trusted ([`Stability`]), and how the languages overlap.
//! Only arithmetic, no files and no tensors: anyone can identify again from published counts on a laptop.
//!
//! ```text
//! LanguageCounts -> Profiles -> { lape | random } -> Selection -> { stability | classes | overlap }
//! ```

mod arithmetic;
mod classes;
mod counts;
mod kth;
mod lape;
mod overlap;
mod random;
mod rates;
mod selection;
mod stability;

pub use arithmetic::Arithmetic;
pub use classes::{Class, class, class_of, classes};
pub use counts::{LanguageCounts, Profiles};
pub use lape::Lape;
pub use overlap::{Overlap, overlaps};
pub use random::{Matching, Random, control};
pub use rates::{Quantile, Rate};
pub use selection::{Note, SelectedNeuron, Selection, TiesAtCut};
pub use stability::{LanguageStability, Resampling, Stability};

use crate::language::LanguageCode;
use crate::neuron::{FfnShape, NeuronId};

/// A way to find the neurons that serve each language.
///
/// Four laws hold for every row of [`METHODS`]: permuting the languages permutes the answer, scaling a language's
/// counts and tokens together changes nothing, a neuron that never fires is never selected, and a model whose experts all see
/// every token gets the answer of the dense model that they make up.
pub trait Identifier: Send + Sync {
    /// Selects neurons and says for which languages, with the evidence.
    ///
    /// # Errors
    /// If the method cannot answer for these profiles; degenerate profiles are not errors but [`Note`]s.
    fn identify(&self, profiles: &Profiles) -> Result<Selection, IdentifyError>;
}

/// What the methods can be told; each takes what it needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdentifyOptions {
    /// Quantile of all activation probabilities that a neuron must exceed in some language to be considered.
    pub filter_rate: Quantile,
    /// Quantile of all activation probabilities above which a selected neuron serves a language.
    pub activation_bar: Quantile,
    /// Share of the model's neurons to select.
    pub top_rate: Rate,
    /// How the numbers are computed.
    pub arithmetic: Arithmetic,
    /// Seed of the control's draw.
    pub seed: u64,
    /// What the control's draw has in common with the selection it stands beside.
    pub matching: Matching,
}

impl Default for IdentifyOptions {
    fn default() -> Self {
        let Lape { filter_rate, activation_bar, top_rate, arithmetic } = Lape::default();
        Self { filter_rate, activation_bar, top_rate, arithmetic, seed: 0, matching: Matching::PerLayer }
    }
}

impl IdentifyOptions {
    fn lape(&self) -> Lape {
        Lape {
            filter_rate: self.filter_rate,
            activation_bar: self.activation_bar,
            top_rate: self.top_rate,
            arithmetic: self.arithmetic,
        }
    }
}

/// A row of [`METHODS`].
#[derive(Clone, Copy)]
pub struct Method {
    /// The name on the command line and in the atlas.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Builds the method from the shared options.
    pub build: fn(&IdentifyOptions) -> Box<dyn Identifier>,
}

/// Every method, in the order in which help lists them.
pub const METHODS: &[Method] = &[
    Method {
        name: lape::NAME,
        help: "neurons whose activation probabilities have the lowest entropy over the languages",
        build: |options| Box::new(options.lape()),
    },
    Method {
        name: random::NAME,
        help: "control: for each language as many random neurons as lape finds, and none of those",
        build: |options| Box::new(Random { lape: options.lape(), seed: options.seed, matching: options.matching }),
    },
];

/// The row of [`METHODS`] with a name.
///
/// # Errors
/// If no method has this name; the error lists those that there are.
pub fn method(name: &str) -> Result<&'static Method, IdentifyError> {
    METHODS.iter().find(|method| method.name == name).ok_or_else(|| IdentifyError::UnknownMethod {
        name: name.to_owned(),
        known: METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", "),
    })
}

/// Why counts cannot be used, or a question cannot be answered from them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IdentifyError {
    /// A number outside (0, 1).
    #[error("`{given}` is not a quantile: give a number above 0 and below 1, such as 0.95")]
    Quantile {
        /// The text or number as it was given.
        given: String,
    },
    /// A number outside (0, 1].
    #[error("`{given}` is not a rate: give a number above 0 and at most 1, such as 0.05")]
    Rate {
        /// The text or number as it was given.
        given: String,
    },
    /// A word that names no way of computing or matching.
    #[error("`{given}` is not a choice of {what}: give {known}")]
    Choice {
        /// What was to be chosen.
        what: &'static str,
        /// The text as it was given.
        given: String,
        /// The words that there are.
        known: &'static str,
    },
    /// A name that is not in [`METHODS`].
    #[error("there is no method `{name}`: give one of {known}")]
    UnknownMethod {
        /// The name as it was given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// Profiles of no language at all.
    #[error("there are no languages to identify neurons for: give at least two")]
    NoLanguages,
    /// More languages than an index of 16 bits can name.
    #[error("{languages} languages are too many: at most 65535 can be compared")]
    TooManyLanguages {
        /// How many were given.
        languages: usize,
    },
    /// A grid without neurons, or with more than 32 bits can number.
    #[error("a model of {shape} cannot be identified: it must have between 1 and 2^32 - 1")]
    Shape {
        /// The grid as it was given.
        shape: FfnShape,
    },
    /// The same language twice.
    #[error("{language} is given twice: merge its counts or drop one")]
    Duplicate {
        /// The repeated language.
        language: LanguageCode,
    },
    /// Counts for another number of neurons.
    #[error("{language}: {row} has {found} neurons, but the model has {wanted}")]
    Length {
        /// Whose counts.
        language: LanguageCode,
        /// Which counts: the sum or one fold.
        row: String,
        /// How many were found.
        found: usize,
        /// How many the model has.
        wanted: usize,
    },
    /// Folds of counts and folds of tokens that do not pair up.
    #[error("{language}: folds of counts: {active}, but folds of tokens: {tokens}")]
    Folds {
        /// Whose counts.
        language: LanguageCode,
        /// Folds with counts.
        active: usize,
        /// Folds with token numbers.
        tokens: usize,
    },
    /// Routed tokens that are not those of every fold and every expert.
    #[error(
        "{language}: routed tokens for {} folds and {} experts, but the model has {} and {}",
        .found.0, .found.1, .wanted.0, .wanted.1
    )]
    Routing {
        /// Whose counts.
        language: LanguageCode,
        /// Folds, and experts over all layers, with routed tokens.
        found: (usize, usize),
        /// What there should be.
        wanted: (usize, usize),
    },
    /// An expert that got more tokens than there were.
    #[error("{language}: fold {fold}: layer {layer} expert {expert} got {routed} of {tokens} tokens")]
    RoutedAboveTokens {
        /// Whose counts.
        language: LanguageCode,
        /// Which fold.
        fold: usize,
        /// Layer of the expert.
        layer: usize,
        /// The expert.
        expert: usize,
        /// Tokens routed to it.
        routed: u64,
        /// Out of how many.
        tokens: u64,
    },
    /// A neuron that fired more often than there were tokens for it.
    #[error("{language}: {row}: {} fired at {active} of {tokens} tokens", .shape.words(*.neuron))]
    ActiveAboveTokens {
        /// Whose counts.
        language: LanguageCode,
        /// Which counts: the sum or one fold.
        row: String,
        /// The grid.
        shape: FfnShape,
        /// Where.
        neuron: NeuronId,
        /// How often it fired.
        active: u32,
        /// Out of how many tokens.
        tokens: u64,
    },
    /// Folds that do not add up to the sum.
    #[error("{language}: {}: the folds add up to {folds}, but the sum says {active}", .shape.words(*.neuron))]
    FoldSum {
        /// Whose counts.
        language: LanguageCode,
        /// The grid.
        shape: FfnShape,
        /// Where.
        neuron: NeuronId,
        /// What the folds add up to.
        folds: u64,
        /// What the sum says.
        active: u32,
    },
    /// More tokens than counts of 32 bits can follow.
    #[error("{language}: {tokens} tokens are too many: counts of 32 bits follow at most 2^32 - 1 = 4294967295")]
    TooManyTokens {
        /// Whose counts.
        language: LanguageCode,
        /// How many tokens.
        tokens: u64,
    },
    /// Languages that were asked for and were never profiled.
    #[error("not profiled: {}; the profile holds {}", listed(.missing), listed(.known))]
    Missing {
        /// Asked for, but not there.
        missing: Vec<LanguageCode>,
        /// What there is.
        known: Vec<LanguageCode>,
    },
    /// A smaller rate asked of a selection that no entropy ranks.
    #[error("a selection by `{method}` has no ranks to cut at another rate: identify again at that rate")]
    NotRanked {
        /// The method that made it.
        method: String,
    },
    /// A larger rate asked of a selection than it was made at.
    #[error("this selection was cut at {selected} neurons and cannot give {asked}: identify again at the larger rate")]
    BeyondSelection {
        /// How many the rate asks for.
        asked: usize,
        /// How many the selection was asked for.
        selected: usize,
    },
    /// A selection examined with other options than it was made with.
    #[error(
        "the selection is of {asked} neurons by `{method}`, not of {wanted} by `lape`: examine it with its own options"
    )]
    OtherOptions {
        /// The method that made it.
        method: String,
        /// How many neurons it was asked for.
        asked: usize,
        /// How many the options ask for.
        wanted: usize,
    },
    /// A selection put beside profiles that it does not come from.
    #[error(
        "the selection and the profiles are of different models or languages: \
         use the profiles that it was identified from"
    )]
    OtherProfiles,
}

/// Languages as a list for a sentence: `a`, `a and b`, `a, b and c`.
pub(crate) fn listed(languages: &[LanguageCode]) -> String {
    let names: Vec<String> = languages.iter().map(ToString::to_string).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "no language".to_owned(),
    }
}
