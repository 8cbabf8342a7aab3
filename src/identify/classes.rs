//! What kind of neuron a selected neuron is. In: the languages that it serves, and their families. Out: one word.

use serde::{Deserialize, Serialize};

use super::{SelectedNeuron, Selection};
use crate::language::LanguageCode;

/// The kind of a selected neuron; the first that fits, in this order. Serialised as the lower-case name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// `dead`: it never fires. LAPE selects none; masks that others made may hold some.
    Dead,
    /// `exclusive`: it serves one language.
    Exclusive,
    /// `general`: it serves at least half of the languages that have tokens.
    General,
    /// `family`: it serves several languages, all of one family.
    Family,
    /// `shared`: it serves several languages of several families.
    Shared,
}

impl Class {
    /// Every class, in the order in which they are tried.
    pub const ALL: [Self; 5] = [Self::Dead, Self::Exclusive, Self::General, Self::Family, Self::Shared];

    /// The name under which it is serialised.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Exclusive => "exclusive",
            Self::General => "general",
            Self::Family => "family",
            Self::Shared => "shared",
        }
    }
}

/// The class of one neuron of a selection; none if it fires but serves no language.
pub fn class<'a>(
    selection: &Selection,
    neuron: &SelectedNeuron,
    family: impl Fn(LanguageCode) -> &'a str,
) -> Option<Class> {
    if !neuron.probabilities.is_empty() && neuron.probabilities.iter().all(|&p| p == 0.0) {
        return Some(Class::Dead);
    }
    let languages = selection.tokens.iter().filter(|&&tokens| tokens > 0).count();
    class_of(neuron.assigned.iter().map(|&language| family(selection.languages[usize::from(language)])), languages)
}

/// The class of a neuron that fires, by the families of the languages that it serves, among so many that were compared; none if it
/// serves no language.
pub fn class_of<'a>(mut families: impl ExactSizeIterator<Item = &'a str>, languages: usize) -> Option<Class> {
    let served = families.len();
    let first = families.next();
    match served {
        0 => None,
        1 => Some(Class::Exclusive),
        _ if 2 * served >= languages => Some(Class::General),
        _ if families.all(|family| Some(family) == first) => Some(Class::Family),
        _ => Some(Class::Shared),
    }
}

/// The class of every neuron of a selection, in the order of their ranks.
pub fn classes<'a>(selection: &Selection, family: impl Fn(LanguageCode) -> &'a str) -> Vec<Option<Class>> {
    selection.neurons.iter().map(|neuron| class(selection, neuron, &family)).collect()
}
