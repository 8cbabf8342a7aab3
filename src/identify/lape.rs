//! Language Activation Probability Entropy (Tang et al. 2024, arXiv 2402.16438). In: profiles. Out: the neurons whose
//! probability of firing is high somewhere and concentrated on few languages.

use rayon::prelude::*;

use super::arithmetic::{Arithmetic, Row};
use super::kth::kth_smallest;
use super::selection::F32_WHOLE;
use super::{Identifier, IdentifyError, LanguageCounts, Note, Profiles, Quantile, Rate};
use super::{SelectedNeuron, Selection, TiesAtCut};

pub(super) const NAME: &str = "lape";

/// Neurons whose block of counts over all languages stays in a core's cache.
const BLOCK: usize = 512;

/// The neurons with the lowest entropy over languages, among those that some language fires often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lape {
    /// Quantile of all probabilities that a neuron must exceed in at least one language.
    pub filter_rate: Quantile,
    /// Quantile of all probabilities above which a neuron serves a language.
    pub activation_bar: Quantile,
    /// Share of all neurons to select.
    pub top_rate: Rate,
    /// How the numbers are computed.
    pub arithmetic: Arithmetic,
}

impl Default for Lape {
    fn default() -> Self {
        Self {
            filter_rate: Quantile::known(0.95),
            activation_bar: Quantile::known(0.95),
            top_rate: Rate::known(0.05),
            arithmetic: Arithmetic::Exact,
        }
    }
}

impl Identifier for Lape {
    fn identify(&self, profiles: &Profiles) -> Result<Selection, IdentifyError> {
        let mut selection = self.nothing(profiles);
        selection.notes = self.input_notes(profiles);
        let compared = compared(profiles);
        if compared.len() < 2 {
            let language = compared.first().map(|counts| counts.language);
            selection.notes.push(Note::TooFewLanguages { language });
            return Ok(selection);
        }
        let rows: Vec<Row<'_>> = compared.iter().map(|counts| counts.row(profiles.shape())).collect();
        if rows.iter().all(|row| same_rates(&rows[0], row)) {
            selection.notes.push(Note::SameProfile { languages: compared.len() });
            return Ok(selection);
        }
        Ok(self.evidence(&self.cut(&rows), profiles, selection))
    }
}

/// A neuron that passes the filter; the order of the fields is the order of the ranking.
#[derive(Clone, Copy)]
pub(super) struct Ranked {
    pub entropy: f64,
    pub place: u32,
}

/// The bars and the ranked neurons, before anything is said about them.
pub(super) struct Cut {
    pub filter_bar: f64,
    pub activation_bar: f64,
    pub finite: usize,
    pub ties: TiesAtCut,
    pub ranked: Vec<Ranked>,
}

impl Lape {
    /// The method itself, on languages that all have tokens.
    pub(super) fn cut(&self, rows: &[Row<'_>]) -> Cut {
        let neurons = rows[0].active.len();
        let bar = |rate: Quantile| kth_smallest(rows, self.arithmetic, rate.rank(neurons * rows.len()));
        let filter_bar = bar(self.filter_rate);
        let activation_bar =
            if self.activation_bar == self.filter_rate { filter_bar } else { bar(self.activation_bar) };
        let finite = self.finite(rows, filter_bar);
        let count = finite.len();
        let (ranked, ties) = lowest(finite, self.top_rate.of(neurons));
        Cut { filter_bar, activation_bar, finite: count, ties, ranked }
    }

    /// Every neuron with a probability above the filter bar, with its entropy, in no particular order.
    fn finite(&self, rows: &[Row<'_>], filter_bar: f64) -> Vec<Ranked> {
        let held = self.highest_held(rows, filter_bar);
        let (neurons, span) = (rows[0].active.len(), rows[0].span());
        let block = |(start, end): (usize, usize)| {
            let part = start / span;
            // Counts are stored language by language: walking a block of each keeps the reads in order and in cache.
            let mut passes = [false; BLOCK];
            for (row, held) in rows.iter().zip(&held) {
                let held = held[part];
                for (passes, &active) in passes.iter_mut().zip(&row.active[start..end]) {
                    *passes |= active > held;
                }
            }
            let columns: Vec<(&[u32], u64)> = rows.iter().map(|row| (row.active, row.tokens()[part])).collect();
            let mut probabilities = vec![0.0; rows.len()];
            let mut ranked = Vec::new();
            for place in (start..end).filter(|place| passes[place - start]) {
                for (probability, &(active, tokens)) in probabilities.iter_mut().zip(&columns) {
                    *probability = self.arithmetic.probability(active[place], tokens);
                }
                let entropy = self.arithmetic.entropy_in_place(&mut probabilities);
                ranked.push(Ranked { entropy, place: place as u32 });
            }
            ranked
        };
        // A block lies within neurons that see the same tokens.
        let parts = (0..neurons).step_by(span).map(|start| (start, neurons.min(start + span)));
        let blocks: Vec<(usize, usize)> = parts
            .flat_map(|(start, end)| (start..end).step_by(BLOCK).map(move |start| (start, end.min(start + BLOCK))))
            .collect();
        blocks.into_par_iter().flat_map_iter(block).collect()
    }

    /// For each row, and in it for neurons that see the same tokens, the highest count that the bar still holds back.
    pub(super) fn highest_held(&self, rows: &[Row<'_>], bar: f64) -> Vec<Vec<u32>> {
        let held = |row: &Row<'_>| row.tokens().iter().map(|&n| self.arithmetic.highest_held(bar, n)).collect();
        rows.par_iter().map(held).collect()
    }

    /// A selection of nothing, with everything that is known before the arithmetic.
    fn nothing(&self, profiles: &Profiles) -> Selection {
        Selection {
            method: NAME.to_owned(),
            shape: profiles.shape(),
            languages: profiles.codes(),
            tokens: profiles.languages().iter().map(|counts| counts.tokens()).collect(),
            filter_bar: None,
            activation_bar: None,
            entropy_cut: None,
            finite: 0,
            asked: self.top_rate.of(profiles.shape().neurons()),
            ties_at_cut: TiesAtCut::default(),
            neurons: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn evidence(&self, cut: &Cut, profiles: &Profiles, mut selection: Selection) -> Selection {
        let (filter_bar, neurons) = (cut.filter_bar, selection.shape.neurons());
        if cut.finite == 0 {
            selection.notes.push(Note::AllFiltered { neurons, filter_bar });
        }
        let neuron = |(rank, ranked): (usize, &Ranked)| {
            let place = ranked.place as usize;
            let probabilities = self.probabilities(profiles, place);
            let above = |language: &u16| probabilities[usize::from(*language)] > cut.activation_bar;
            SelectedNeuron {
                id: selection.shape.neuron(place),
                rank: rank as u32,
                entropy: ranked.entropy,
                assigned: (0..probabilities.len() as u16).filter(above).collect(),
                probabilities,
            }
        };
        selection.neurons = cut.ranked.par_iter().enumerate().map(|(rank, ranked)| neuron((rank, ranked))).collect();
        selection.filter_bar = Some(filter_bar);
        selection.activation_bar = Some(cut.activation_bar);
        selection.entropy_cut = cut.ranked.last().map(|ranked| ranked.entropy);
        selection.finite = cut.finite;
        selection.ties_at_cut = cut.ties;
        selection.with_cut_notes()
    }

    /// A neuron's probability in every language; 0 in one that gives it no tokens.
    pub(super) fn probabilities(&self, profiles: &Profiles, place: usize) -> Vec<f64> {
        let ffn = profiles.shape().ffn_of(place);
        let probability = |counts: &LanguageCounts| match counts.tokens_of(ffn) {
            0 => 0.0,
            tokens => self.arithmetic.probability(counts.active[place], tokens),
        };
        profiles.languages().iter().map(|counts| probability(counts)).collect()
    }

    fn input_notes(&self, profiles: &Profiles) -> Vec<Note> {
        let languages = profiles.languages();
        let empty = languages.iter().filter(|counts| counts.tokens() == 0);
        let mut notes: Vec<Note> = empty.map(|counts| Note::NoTokens { language: counts.language }).collect();
        notes.extend(identical_counts(profiles));
        notes.extend(unrouted(profiles));
        let rounded: Vec<_> = languages.iter().filter(|counts| counts.most_tokens() > F32_WHOLE).collect();
        if let Some(tokens) = rounded.iter().map(|counts| counts.most_tokens()).max()
            && self.arithmetic == Arithmetic::Reference
        {
            let languages = rounded.iter().map(|counts| counts.language).collect();
            notes.push(Note::RoundedCounts { languages, tokens });
        }
        notes
    }
}

/// The languages that take part: those with tokens.
fn compared(profiles: &Profiles) -> Vec<&LanguageCounts> {
    profiles.languages().iter().map(AsRef::as_ref).filter(|counts| counts.tokens() > 0).collect()
}

/// The `asked` lowest of the ranking in order, and how many neurons tie at the last.
fn lowest(mut ranked: Vec<Ranked>, asked: usize) -> (Vec<Ranked>, TiesAtCut) {
    let order = |a: &Ranked, b: &Ranked| a.entropy.total_cmp(&b.entropy).then(a.place.cmp(&b.place));
    let taken = asked.min(ranked.len());
    if taken == 0 {
        return (Vec::new(), TiesAtCut::default());
    }
    let (_, &mut cut, _) = ranked.select_nth_unstable_by(taken - 1, order);
    let at_cut =
        |ranked: &[Ranked]| ranked.iter().filter(|ranked| ranked.entropy.total_cmp(&cut.entropy).is_eq()).count();
    let ties = TiesAtCut { tied: at_cut(&ranked), taken: at_cut(&ranked[..taken]) };
    ranked.truncate(taken);
    ranked.shrink_to_fit();
    ranked.par_sort_unstable_by(order);
    (ranked, ties)
}

/// Whether two languages fire every neuron at the same rate; as whole numbers, so that no rounding decides.
fn same_rates(a: &Row<'_>, b: &Row<'_>) -> bool {
    a.parts().zip(b.parts()).all(|((a_tokens, a), (b_tokens, b))| {
        let same = |(&a, &b): (&u32, &u32)| u64::from(a) * b_tokens == u64::from(b) * a_tokens;
        a.iter().zip(b).all(same)
    })
}

/// A note on experts that some language's tokens are never routed to.
fn unrouted(profiles: &Profiles) -> Option<Note> {
    let shape = profiles.shape();
    if !shape.is_routed() {
        return None;
    }
    let compared = compared(profiles);
    let missing = |counts: &&LanguageCounts| (0..shape.ffns()).map(|ffn| counts.tokens_of(ffn) == 0).collect();
    let missing: Vec<Vec<bool>> = compared.iter().map(missing).collect();
    let experts = (0..shape.ffns()).filter(|&ffn| missing.iter().any(|missing| missing[ffn])).count();
    let languages = compared.iter().zip(&missing).filter(|(_, missing)| missing.contains(&true));
    let languages = languages.map(|(counts, _)| counts.language).collect();
    (experts > 0).then(|| Note::Unrouted { experts, of: shape.ffns(), languages })
}

/// One note for each group of languages whose counts are equal throughout.
fn identical_counts(profiles: &Profiles) -> Vec<Note> {
    let compared = compared(profiles);
    // Equal counts have equal sums: only languages that agree in those are compared neuron by neuron.
    let key = |counts: &&LanguageCounts| (counts.tokens(), counts.active.iter().map(|&a| u64::from(a)).sum::<u64>());
    let keys: Vec<(u64, u64)> = compared.par_iter().map(key).collect();
    let mut grouped = vec![false; compared.len()];
    let mut notes = Vec::new();
    for first in 0..compared.len() {
        if grouped[first] {
            continue;
        }
        let same = |&other: &usize| {
            let (a, b) = (compared[first], compared[other]);
            keys[other] == keys[first] && a.active == b.active && a.routed() == b.routed()
        };
        let group: Vec<usize> = (first..compared.len()).filter(same).collect();
        for &member in &group {
            grouped[member] = true;
        }
        if group.len() > 1 {
            let languages = group.iter().map(|&member| compared[member].language).collect();
            notes.push(Note::IdenticalCounts { languages });
        }
    }
    notes
}
