//! Identification by hand: every number that the formulas give is derived in a comment.

#![allow(clippy::float_cmp, reason = "what is exact by hand must be exact")]

use neuroglot::identify::{
    Arithmetic, Class, Identifier, IdentifyError, IdentifyOptions, LanguageCounts, Lape, METHODS, Matching, Note,
    Profiles, Quantile, Random, Rate, Resampling, Selection, Stability, TiesAtCut, class, classes, method, overlaps,
};
use neuroglot::language::LanguageCode;
use neuroglot::neuron::{FfnShape, NeuronId};

const SHAPE: FfnShape = FfnShape::dense(2, 3);

fn code(text: &str) -> LanguageCode {
    text.parse().unwrap()
}

fn counts(language: &str, tokens: u64, active: &[u32]) -> LanguageCounts {
    let (active, fold_active) = (active.to_vec(), Vec::new());
    LanguageCounts { language: code(language), fold_tokens: vec![tokens], active, fold_active, fold_routed: Vec::new() }
}

fn folded(language: &str, folds: &[(u64, &[u32])]) -> LanguageCounts {
    let active = (0..folds[0].1.len()).map(|place| folds.iter().map(|(_, fold)| fold[place]).sum()).collect();
    let fold_tokens = folds.iter().map(|fold| fold.0).collect();
    let fold_active = folds.iter().map(|fold| fold.1.to_vec()).collect();
    LanguageCounts { language: code(language), fold_tokens, active, fold_active, fold_routed: Vec::new() }
}

fn profiles(languages: Vec<LanguageCounts>) -> Profiles {
    Profiles::new(SHAPE, languages).unwrap()
}

fn lape(filter_rate: f64, activation_bar: f64, top_rate: f64) -> Lape {
    Lape {
        filter_rate: filter_rate.try_into().unwrap(),
        activation_bar: activation_bar.try_into().unwrap(),
        top_rate: top_rate.try_into().unwrap(),
        arithmetic: Arithmetic::Exact,
    }
}

fn id(layer: usize, index: usize) -> NeuronId {
    NeuronId::dense(layer, index)
}

fn words(selection: &Selection) -> Vec<String> {
    selection.notes.iter().map(ToString::to_string).collect()
}

/// Three languages, two layers of three neurons. The probabilities p = active / tokens, with S = Σ p and the entropy H:
///
/// ```text
///            mlt (10 tokens)   afr (20)     npi (10)      S     H
///   0.0      8 = .8            0  = 0       0 = 0         .8    0
///   0.1      4 = .4            8  = .4      4 = .4        1.2   ln 3 = 1.098612
///   0.2      0 = 0             0  = 0       0 = 0         0     0, but it never fires
///   1.0      6 = .6            12 = .6      0 = 0         1.2   ln 2 = 0.693147
///   1.1      1 = .1            18 = .9      0 = 0         1     -.1 ln .1 - .9 ln .9 = .230259 + .094824 = 0.325083
///   1.2      2 = .2            4  = .2      7 = .7        1.1   2 · (2/11) ln (11/2) + (7/11) ln (11/7)
///                                                               = .619908 + .287627 = 0.907535
/// ```
///
/// All 18 probabilities in order: seven 0, .1, two .2, three .4, two .6, .7, .8, .9.
fn example() -> Profiles {
    profiles(vec![
        counts("mlt_Latn", 10, &[8, 4, 0, 6, 1, 2]),
        counts("afr_Latn", 20, &[0, 8, 0, 12, 18, 4]),
        counts("npi_Deva", 10, &[0, 4, 0, 0, 0, 7]),
    ])
}

#[test]
fn lape_selects_the_neurons_that_the_formula_gives_by_hand() {
    // filter: k = round(18 · 0.7 = 12.6) = 13, and the 13th of the list is the last .4. Strictly above .4 in some
    // language are 0.0, 1.0, 1.1 and 1.2; neuron 0.1 is at .4 everywhere, which is not above.
    // select: round(6 · 0.5) = 3 of those 4: H = 0 (0.0), 0.325083 (1.1), 0.693147 (1.0).
    // assign: the activation bar is the same .4. 0.0 has .8 in mlt; 1.1 has .9 in afr; 1.0 has .6 in mlt and afr.
    let selection = lape(0.7, 0.7, 0.5).identify(&example()).unwrap();

    assert_eq!(selection.method, "lape");
    assert_eq!(selection.filter_bar, Some(0.4));
    assert_eq!(selection.activation_bar, Some(0.4));
    assert_eq!((selection.finite, selection.asked), (4, 3));
    assert_eq!(selection.entropy_cut, Some(2f64.ln()));
    assert_eq!(selection.ties_at_cut, TiesAtCut { tied: 1, taken: 1 });
    assert_eq!(selection.tokens, [10, 20, 10]);
    assert_eq!(selection.notes, []);
    let ids: Vec<NeuronId> = selection.neurons.iter().map(|neuron| neuron.id).collect();
    assert_eq!(ids, [id(0, 0), id(1, 1), id(1, 0)]);
    let entropies: Vec<f64> = selection.neurons.iter().map(|neuron| neuron.entropy).collect();
    assert_eq!(entropies[0], 0.0);
    assert!((entropies[1] - 0.325_082_973).abs() < 1e-9);
    assert_eq!(selection.neurons.iter().map(|neuron| neuron.rank).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(selection.neurons[1].probabilities, [0.1, 0.9, 0.0]);
    assert_eq!(selection.set(0).iter().collect::<Vec<_>>(), [id(0, 0), id(1, 0)]);
    assert_eq!(selection.set(1).iter().collect::<Vec<_>>(), [id(1, 0), id(1, 1)]);
    assert_eq!(
        selection.set(2).layers(),
        [Vec::<u32>::new(), Vec::new()],
        "a language without neurons has an empty row in every layer"
    );
    assert_eq!(selection.union().len(), 3);
}

#[test]
fn the_entropy_of_every_neuron_in_the_example_is_the_one_derived_by_hand() {
    let selection = lape(0.05, 0.05, 1.0).identify(&example()).unwrap();
    // k = round(18 · 0.05 = 0.9) = 1: the bar is 0 and only the neuron that never fires is filtered out.
    assert_eq!((selection.filter_bar, selection.finite), (Some(0.0), 5));
    let found: Vec<(NeuronId, f64)> = selection.neurons.iter().map(|neuron| (neuron.id, neuron.entropy)).collect();
    let derived = [(0, 0, 0.0), (1, 1, 0.325_083), (1, 0, 2f64.ln()), (1, 2, 0.907_535), (0, 1, 3f64.ln())];
    for ((found_id, found), (layer, index, derived)) in found.into_iter().zip(derived) {
        assert_eq!(found_id, id(layer, index));
        assert!((found - derived).abs() < 1e-6, "{found_id:?}: {found} but by hand {derived}");
    }
    assert_eq!(words(&selection), ["asked for 6 neurons, but only 5 pass the filter: no other was selected"]);
}

const EXPERTS: FfnShape = FfnShape { layers: 1, experts: 2, width: 2 };

fn routed(language: &str, folds: &[(u64, [u64; 2], &[u32])]) -> LanguageCounts {
    let counts: Vec<(u64, &[u32])> = folds.iter().map(|&(tokens, _, active)| (tokens, active)).collect();
    let fold_routed = folds.iter().map(|(_, routed, _)| routed.to_vec()).collect();
    LanguageCounts { fold_routed, ..folded(language, &counts) }
}

/// One layer, two experts of two neurons; every token goes to one of them. p = active / routed tokens of the expert:
///
/// ```text
///            mlt (8 + 2 of 10 tokens)   afr (4 + 16 of 20)     S      H
///   e0 n0    6 of 8 = .75               1 of 4  = .25          1      -.75 ln .75 - .25 ln .25 = .215762 + .346574 = 0.562335
///   e0 n1    2 of 8 = .25               1 of 4  = .25          .5     ln 2 = 0.693147
///   e1 n0    2 of 2 = 1                 4 of 16 = .25          1.25   -.8 ln .8 - .2 ln .2 = .178515 + .321888 = 0.500402
///   e1 n1    0 of 2 = 0                 12 of 16 = .75         .75    0
/// ```
///
/// Over all tokens of a language, e1 n0 would have .2 in both and the highest entropy of all.
fn experts() -> Profiles {
    let mlt = routed("mlt_Latn", &[(10, [8, 2], &[6, 2, 2, 0])]);
    let afr = routed("afr_Latn", &[(20, [4, 16], &[1, 1, 4, 12])]);
    Profiles::new(EXPERTS, vec![mlt, afr]).unwrap()
}

#[test]
fn lape_divides_by_the_tokens_of_the_expert_as_by_hand() {
    // All eight: 0, four .25, two .75, 1. filter: k = round(8 · .6 = 4.8) = 5, the last .25; strictly above it are e0 n0 (mlt),
    // e1 n0 (mlt) and e1 n1 (afr). select: round(4 · .5) = 2 of those: e1 n1 (H = 0) and e1 n0 (0.500402).
    for arithmetic in [Arithmetic::Exact, Arithmetic::Reference] {
        let selection = Lape { arithmetic, ..lape(0.6, 0.6, 0.5) }.identify(&experts()).unwrap();
        assert_eq!((selection.filter_bar, selection.finite, selection.asked), (Some(0.25), 3, 2));
        let expert = |index| NeuronId { layer: 0, expert: 1, index };
        assert_eq!(selection.neurons.iter().map(|neuron| neuron.id).collect::<Vec<_>>(), [expert(1), expert(0)]);
        assert_eq!(selection.neurons[1].probabilities, [1.0, 0.25]);
        assert_eq!(selection.neurons[0].entropy, 0.0);
        assert!((selection.neurons[1].entropy - 0.500_402).abs() < 1e-6);
        assert_eq!((&selection.neurons[0].assigned[..], &selection.neurons[1].assigned[..]), (&[1][..], &[0][..]));
        assert_eq!(selection.notes, []);
    }
    // Cosine of (.75 .25 1 0) and (.25 .25 .25 .75): .1875 + .0625 + .25 = .5 over √1.625 · √.75.
    let selection = lape(0.6, 0.6, 0.5).identify(&experts()).unwrap();
    let pair = &overlaps(&experts(), &selection).unwrap()[0];
    assert!((pair.cosine.unwrap() - 0.5 / (1.625f64.sqrt() * 0.75f64.sqrt())).abs() < 1e-15);
}

#[test]
fn an_expert_without_tokens_of_a_language_is_never_active_there_and_is_reported() {
    let mlt = routed("mlt_Latn", &[(10, [10, 0], &[6, 2, 0, 0])]);
    let profiles = Profiles::new(EXPERTS, vec![mlt, (*experts().languages()[1]).clone()]).unwrap();
    let selection = lape(0.3, 0.3, 1.0).identify(&profiles).unwrap();
    // .6 .2 0 0 and .25 .25 .25 .75: both neurons of expert 1 fire in afr alone.
    let entropy = |index| selection.neurons.iter().find(|n| (n.id.expert, n.id.index) == (1, index)).unwrap().entropy;
    assert_eq!((entropy(0), entropy(1)), (0.0, 0.0));
    assert_eq!(
        words(&selection)[0],
        "experts that get no token of some language: 1 of 2 over all layers (mlt_Latn); \
         their neurons count as never active there"
    );
}

#[test]
fn the_design_effect_with_experts_is_the_one_derived_by_hand() {
    // mlt, expert 0: 2 of 10, then 4 of 10 routed tokens; p = .3, between .2 over F - 1 = 1, binomial .21 as without experts.
    // Expert 1 gets tokens in one fold only and says nothing, although its neuron fires at 5 of 10.
    let mlt = routed("mlt_Latn", &[(20, [10, 10], &[2, 0, 5, 0]), (20, [10, 0], &[4, 0, 0, 0])]);
    let afr = routed("afr_Latn", &[(20, [10, 10], &[0, 3, 0, 0]), (20, [10, 10], &[0, 3, 0, 0])]);
    let profiles = Profiles::new(EXPERTS, vec![mlt, afr]).unwrap();
    let lape = lape(0.3, 0.3, 1.0);
    let selection = lape.identify(&profiles).unwrap();
    let stability = Stability::estimate(&lape, &profiles, &selection, Resampling { resamples: 50, seed: 1 }).unwrap();
    assert!((stability.languages[0].deff.unwrap() - 0.2 / 0.21).abs() < 1e-12);
    assert_eq!(stability.languages[1].deff, Some(0.0), "afr's folds agree");
    // A count is never drawn above the tokens of its expert: it would be a probability above 1.
    assert!(stability.selection_freq.iter().flatten().all(|freq| freq.is_some_and(|freq| freq <= 1.0)));
}

#[test]
fn routed_tokens_that_contradict_the_model_or_the_counts_are_refused_by_name_and_number() {
    let refused = |shape, counts| Profiles::new(shape, vec![counts]).unwrap_err().to_string();
    let good = routed("mlt_Latn", &[(10, [8, 2], &[6, 2, 2, 0])]);
    assert_eq!(
        refused(EXPERTS, LanguageCounts { fold_routed: Vec::new(), ..good.clone() }),
        "mlt_Latn: routed tokens for 0 folds and 2 experts, but the model has 1 and 2"
    );
    assert_eq!(
        refused(EXPERTS, LanguageCounts { fold_routed: vec![vec![8]], ..good.clone() }),
        "mlt_Latn: routed tokens for 1 folds and 1 experts, but the model has 1 and 2"
    );
    assert_eq!(
        refused(FfnShape::dense(1, 4), good.clone()),
        "mlt_Latn: routed tokens for 1 folds and 2 experts, but the model has 0 and 0"
    );
    assert_eq!(
        refused(EXPERTS, LanguageCounts { fold_routed: vec![vec![8, 11]], ..good.clone() }),
        "mlt_Latn: fold 0: layer 0 expert 1 got 11 of 10 tokens"
    );
    assert_eq!(
        refused(EXPERTS, LanguageCounts { fold_routed: vec![vec![9, 1]], ..good }),
        "mlt_Latn: the sum over folds: layer 0 expert 1 neuron 0 fired at 2 of 1 tokens"
    );
    let of_fold = routed("mlt_Latn", &[(10, [8, 2], &[0, 0, 0, 0]), (10, [2, 8], &[3, 0, 0, 0])]);
    assert_eq!(refused(EXPERTS, of_fold), "mlt_Latn: fold 1: layer 0 expert 0 neuron 0 fired at 3 of 2 tokens");
    assert_eq!(
        Profiles::new(FfnShape { layers: 1 << 20, experts: 1 << 12, width: 2 }, vec![]).unwrap_err().to_string(),
        "a model of 1048576 layers × 4096 experts × 2 neurons cannot be identified: it must have between 1 and 2^32 - 1"
    );
}

#[test]
fn a_control_draws_from_all_experts_of_a_layer() {
    let shape = FfnShape { layers: 1, experts: 2, width: 20 };
    let of = |name: &str, own: usize| LanguageCounts {
        language: code(name),
        fold_tokens: vec![100],
        active: (0..40).map(|place| if place / 4 == own { 45 } else { 2 }).collect(),
        fold_active: vec![],
        fold_routed: vec![vec![50, 50]],
    };
    let profiles = Profiles::new(shape, vec![of("mlt_Latn", 0), of("afr_Latn", 1)]).unwrap();
    let lape = lape(0.85, 0.85, 0.2);
    let own = lape.identify(&profiles).unwrap();
    assert!(own.set(0).iter().all(|neuron| neuron.expert == 0));
    let control = Random { lape, seed: 1, matching: Matching::PerLayer }.identify(&profiles).unwrap();
    let drawn = control.set(0);
    assert_eq!((drawn.len(), own.set(0).len()), (4, 4));
    assert!(drawn.iter().any(|neuron| neuron.expert == 1), "{drawn:?}");
}

#[test]
fn reference_arithmetic_gives_the_same_answer_where_f32_is_enough() {
    let exact = lape(0.7, 0.7, 0.5).identify(&example()).unwrap();
    let reference = Lape { arithmetic: Arithmetic::Reference, ..lape(0.7, 0.7, 0.5) }.identify(&example()).unwrap();
    assert_eq!(reference.filter_bar, Some(f64::from(0.4f32)), "the bar is the f32 next to .4");
    for language in 0..3 {
        assert_eq!(reference.set(language), exact.set(language));
    }
}

#[test]
fn an_activation_bar_above_the_filter_bar_leaves_neurons_without_a_language_and_says_so() {
    // k = round(18 · 0.8 = 14.4) = 14, a .6; neuron 1.0 has .6 and .6, which is not above.
    let selection = lape(0.7, 0.8, 0.5).identify(&example()).unwrap();
    assert_eq!(selection.activation_bar, Some(0.6));
    assert_eq!(selection.neurons[2].assigned, [0u16; 0]);
    assert_eq!(
        words(&selection),
        ["selected neurons that serve no language: 1, because the activation bar 0.6 is above the filter bar 0.4"]
    );
}

#[test]
fn fewer_neurons_than_asked_are_selected_rather_than_a_filtered_one() {
    let selection = lape(0.7, 0.7, 1.0).identify(&example()).unwrap();
    assert_eq!((selection.neurons.len(), selection.asked), (4, 6));
    assert_eq!(words(&selection), ["asked for 6 neurons, but only 4 pass the filter: no other was selected"]);
}

#[test]
fn neurons_of_one_entropy_at_the_cut_are_taken_by_layer_and_index_and_counted() {
    // Four neurons fire in one language each, so H = 0 four times; 2 of 6 are asked for.
    let profiles =
        profiles(vec![counts("mlt_Latn", 10, &[9, 0, 0, 0, 9, 0]), counts("afr_Latn", 10, &[0, 9, 0, 0, 0, 9])]);
    let selection = lape(0.6, 0.6, 0.34).identify(&profiles).unwrap();
    assert_eq!(selection.neurons.iter().map(|neuron| neuron.id).collect::<Vec<_>>(), [id(0, 0), id(0, 1)]);
    assert_eq!(selection.ties_at_cut, TiesAtCut { tied: 4, taken: 2 });
    assert_eq!(
        words(&selection),
        ["of 4 neurons with exactly the entropy of the cut, 0, the selection takes the first 2 by layer and index"]
    );
}

#[test]
fn when_no_neuron_is_above_the_bar_none_is_selected_and_the_note_names_the_bar() {
    // Two neurons always fire in mlt, two in afr: 4 of 12 probabilities are 1, and the 11th smallest is one of them.
    let profiles =
        profiles(vec![counts("mlt_Latn", 5, &[5, 5, 0, 0, 0, 0]), counts("afr_Latn", 5, &[0, 0, 5, 5, 0, 0])]);
    let selection = lape(0.9, 0.9, 0.5).identify(&profiles).unwrap();
    assert_eq!((selection.neurons.len(), selection.finite, selection.filter_bar), (0, 0, Some(1.0)));
    assert_eq!(selection.entropy_cut, None);
    assert_eq!(
        words(&selection),
        ["none of 6 neurons has a probability above the filter bar 1, so no neuron was selected"]
    );
}

#[test]
fn with_one_language_nothing_is_selected() {
    let profiles = profiles(vec![counts("mlt_Latn", 10, &[1, 2, 3, 4, 5, 6])]);
    let selection = lape(0.5, 0.5, 0.5).identify(&profiles).unwrap();
    assert_eq!(selection.neurons, []);
    assert_eq!(
        words(&selection),
        ["only mlt_Latn has tokens: an entropy over one language says nothing, so no neuron was selected"]
    );
}

#[test]
fn a_language_without_tokens_changes_no_other_language_and_is_an_empty_row() {
    let mut languages: Vec<LanguageCounts> = example().languages().iter().map(|counts| (**counts).clone()).collect();
    languages.insert(1, counts("kat_Geor", 0, &[0; 6]));
    let with = lape(0.7, 0.7, 0.5).identify(&profiles(languages)).unwrap();
    let without = lape(0.7, 0.7, 0.5).identify(&example()).unwrap();
    assert_eq!(with.filter_bar, without.filter_bar);
    assert!(with.set(1).is_empty());
    assert_eq!((with.set(0), with.set(2), with.set(3)), (without.set(0), without.set(1), without.set(2)));
    assert_eq!(with.neurons[1].probabilities, [0.1, 0.0, 0.9, 0.0]);
    assert_eq!(words(&with), ["kat_Geor has no tokens: it takes no part in the arithmetic and gets no neurons"]);
}

#[test]
fn when_no_language_has_tokens_nothing_is_selected() {
    let profiles = profiles(vec![counts("mlt_Latn", 0, &[0; 6]), counts("afr_Latn", 0, &[0; 6])]);
    let selection = Lape::default().identify(&profiles).unwrap();
    assert_eq!(selection.neurons, []);
    assert_eq!(words(&selection)[2], "no language has tokens, so no neuron was selected");
}

#[test]
fn languages_with_one_profile_get_no_neurons_whatever_their_token_counts() {
    let profiles =
        profiles(vec![counts("mlt_Latn", 10, &[1, 2, 3, 4, 5, 6]), counts("afr_Latn", 20, &[2, 4, 6, 8, 10, 12])]);
    let selection = lape(0.5, 0.5, 0.5).identify(&profiles).unwrap();
    assert_eq!(selection.neurons, []);
    assert_eq!(
        words(&selection),
        ["all 2 languages fire every neuron at the same rate: every entropy is the same, so no neuron was selected"]
    );
}

#[test]
fn two_languages_with_the_same_counts_are_named() {
    let mut languages: Vec<LanguageCounts> = example().languages().iter().map(|counts| (**counts).clone()).collect();
    languages.push(counts("slv_Latn", 10, &[8, 4, 0, 6, 1, 2]));
    let selection = lape(0.7, 0.7, 0.5).identify(&profiles(languages)).unwrap();
    assert_eq!(selection.set(0), selection.set(3));
    assert!(
        words(&selection)
            .contains(&"mlt_Latn and slv_Latn have identical counts: is it one text under several names?".to_owned())
    );
}

#[test]
fn reference_arithmetic_says_when_f32_can_no_longer_count() {
    let profiles = profiles(vec![
        counts("mlt_Latn", 20_000_000, &[16_777_217, 1, 2, 3, 4, 5]),
        counts("afr_Latn", 1 << 24, &[5, 4, 3, 2, 1, 16_777_216]),
    ]);
    let lape = Lape { arithmetic: Arithmetic::Reference, ..lape(0.5, 0.5, 0.5) };
    assert_eq!(
        words(&lape.identify(&profiles).unwrap()),
        ["f32 counts round above 16777216 tokens and make artificial ties \
             (mlt_Latn: up to 20000000 tokens): use exact arithmetic"]
    );
    assert_eq!(lape.arithmetic.probability(16_777_217, 1 << 25), 0.5, "2^24 + 1 rounds to 2^24");
    assert!(Lape { arithmetic: Arithmetic::Exact, ..lape }.identify(&profiles).unwrap().notes.is_empty());
}

#[test]
fn a_rate_that_rounds_to_no_neuron_says_so() {
    let selection = lape(0.7, 0.7, 0.05).identify(&example()).unwrap();
    assert_eq!((selection.asked, selection.neurons.len()), (0, 0));
    assert_eq!(words(&selection), ["the rate is too small: of 6 neurons it asks for none"]);
}

#[test]
fn ranks_round_a_half_to_the_even_neighbour() {
    // 18 · 0.25 = 4.5 and 18 · 0.75 = 13.5.
    assert_eq!(Rate::try_from(0.25).unwrap().of(18), 4);
    assert_eq!(Rate::try_from(0.75).unwrap().of(18), 14);
}

#[test]
fn rates_and_quantiles_say_what_they_accept() {
    assert_eq!("0.95".parse::<Quantile>().unwrap().get(), 0.95);
    assert_eq!("1".parse::<Rate>().unwrap().get(), 1.0);
    for text in ["0", "1", "-0.5", "NaN", "inf", "95%", ""] {
        let message = text.parse::<Quantile>().unwrap_err().to_string();
        assert_eq!(message, format!("`{text}` is not a quantile: give a number above 0 and below 1, such as 0.95"));
    }
    for text in ["0", "1.01", "NaN", "all"] {
        let message = text.parse::<Rate>().unwrap_err().to_string();
        assert_eq!(message, format!("`{text}` is not a rate: give a number above 0 and at most 1, such as 0.05"));
    }
}

#[test]
fn a_smaller_rate_is_cut_from_the_ranking_and_a_larger_one_is_refused() {
    let half = lape(0.7, 0.7, 0.5).identify(&example()).unwrap();
    let third = Rate::try_from(0.34).unwrap();
    assert_eq!(half.at_rate(third).unwrap(), lape(0.7, 0.7, 0.34).identify(&example()).unwrap());
    assert_eq!(
        half.at_rate(Rate::try_from(0.9).unwrap()).unwrap_err().to_string(),
        "this selection was cut at 3 neurons and cannot give 5: identify again at the larger rate"
    );
}

#[test]
fn profiles_that_contradict_themselves_are_refused_by_name_and_number() {
    let refused = |languages: Vec<LanguageCounts>| Profiles::new(SHAPE, languages).unwrap_err().to_string();
    assert_eq!(refused(vec![]), "there are no languages to identify neurons for: give at least two");
    assert_eq!(
        refused(vec![counts("mlt_Latn", 9, &[1; 5])]),
        "mlt_Latn: the sum over folds has 5 neurons, but the model has 6"
    );
    assert_eq!(
        refused(vec![counts("mlt_Latn", 9, &[0, 0, 0, 0, 10, 0])]),
        "mlt_Latn: the sum over folds: layer 1 neuron 1 fired at 10 of 9 tokens"
    );
    assert_eq!(
        refused(vec![counts("mlt_Latn", 9, &[1; 6]), counts("mlt_Latn", 8, &[1; 6])]),
        "mlt_Latn is given twice: merge its counts or drop one"
    );
    assert_eq!(
        refused(vec![counts("mlt_Latn", 1 << 32, &[1; 6])]),
        "mlt_Latn: 4294967296 tokens are too many: counts of 32 bits follow at most 2^32 - 1 = 4294967295"
    );
    let unpaired = LanguageCounts { fold_tokens: vec![4], ..folded("mlt_Latn", &[(2, &[1; 6]), (2, &[1; 6])]) };
    assert_eq!(refused(vec![unpaired]), "mlt_Latn: folds of counts: 2, but folds of tokens: 1");
    let fold = folded("mlt_Latn", &[(1, &[1, 2, 0, 0, 0, 0]), (5, &[0; 6])]);
    assert_eq!(refused(vec![fold]), "mlt_Latn: fold 0: layer 0 neuron 1 fired at 2 of 1 tokens");
    let mut sum = folded("mlt_Latn", &[(5, &[1; 6]), (5, &[1; 6])]);
    sum.active[3] = 3;
    assert_eq!(refused(vec![sum]), "mlt_Latn: layer 1 neuron 0: the folds add up to 2, but the sum says 3");
    let shape = FfnShape::dense(0, 3);
    assert_eq!(
        Profiles::new(shape, vec![counts("mlt_Latn", 9, &[])]).unwrap_err().to_string(),
        "a model of 0 layers × 3 neurons cannot be identified: it must have between 1 and 2^32 - 1"
    );
}

#[test]
fn a_subset_identifies_again_and_an_unknown_language_is_named() {
    let subset = example().subset(&[code("npi_Deva"), code("mlt_Latn")]).unwrap();
    assert_eq!(subset.codes(), [code("npi_Deva"), code("mlt_Latn")]);
    let missing = example().subset(&[code("mlt_Latn"), code("cym_Latn"), code("isl_Latn")]).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "not profiled: cym_Latn and isl_Latn; the profile holds mlt_Latn, afr_Latn and npi_Deva"
    );
    let twice = example().subset(&[code("mlt_Latn"), code("mlt_Latn")]).unwrap_err();
    assert_eq!(twice, IdentifyError::Duplicate { language: code("mlt_Latn") });
}

#[test]
fn every_method_is_found_by_its_name_and_signs_its_selection() {
    for row in METHODS {
        let identifier = (method(row.name).unwrap().build)(&IdentifyOptions::default());
        assert_eq!(identifier.identify(&example()).unwrap().method, row.name);
        assert!(!row.help.is_empty() && !row.help.contains('\n'));
    }
    let unknown = method("entropy").err().unwrap();
    assert_eq!(unknown.to_string(), "there is no method `entropy`: give one of lape, random");
}

#[test]
fn a_control_matches_every_layer_and_holds_none_of_the_languages_own_neurons() {
    // A wide example: neuron j fires in language j mod 2 for j < 8 in each layer, and a little elsewhere.
    let shape = FfnShape::dense(3, 40);
    let active = |language: usize| (0..120).map(|j| if j % 40 < 8 && j % 2 == language { 90 } else { 5 }).collect();
    let of = |name: &str, language: usize| LanguageCounts {
        language: code(name),
        fold_tokens: vec![100],
        active: active(language),
        fold_active: vec![],
        fold_routed: vec![],
    };
    let profiles = Profiles::new(shape, vec![of("mlt_Latn", 0), of("afr_Latn", 1)]).unwrap();
    let lape = lape(0.85, 0.85, 0.2);
    let own = lape.identify(&profiles).unwrap();
    let draw = |seed, matching| Random { lape, seed, matching }.identify(&profiles).unwrap();
    for language in 0..2 {
        let control = draw(1, Matching::PerLayer).set(language);
        for layer in 0..3 {
            assert_eq!(own.set(language).layer(layer).len(), 4);
            assert_eq!(control.layer(layer).len(), 4);
        }
        assert!(control.iter().all(|neuron| !own.set(language).contains(neuron)));
        let overall = draw(1, Matching::Overall).set(language);
        assert_eq!(overall.len(), 12);
        assert!(overall.iter().all(|neuron| !own.set(language).contains(neuron)));
    }
    assert_eq!(draw(1, Matching::PerLayer), draw(1, Matching::PerLayer));
    assert_ne!(draw(1, Matching::PerLayer).neurons, draw(2, Matching::PerLayer).neurons);
    let refused = draw(1, Matching::PerLayer).at_rate(Rate::try_from(0.1).unwrap()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a selection by `random` has no ranks to cut at another rate: identify again at that rate"
    );
}

#[test]
fn a_control_without_enough_other_neurons_takes_all_and_says_so() {
    // In layer 1, afr has 1.0 and 1.1 (see the example), and only 1.2 is left to draw.
    let control = Random { lape: lape(0.7, 0.7, 0.5), seed: 0, matching: Matching::PerLayer };
    let selection = control.identify(&example()).unwrap();
    assert_eq!(selection.set(1).iter().collect::<Vec<_>>(), [id(1, 2)]);
    assert_eq!(words(&selection), ["afr_Latn: in layer 1 a control of 2 finds only 1 among the other neurons"]);
    // Overall, 0.0, 0.1 and 1.2 fire and are not afr's: enough for two.
    let overall = Random { matching: Matching::Overall, ..control }.identify(&example()).unwrap();
    assert_eq!((overall.set(1).len(), overall.notes.len()), (2, 0));
}

#[test]
fn a_neuron_has_the_first_class_that_fits() {
    let family = |language: LanguageCode| match &language.to_string()[..3] {
        "slv" | "slk" => "Slavic",
        "mlt" => "Semitic",
        _ => "other",
    };
    let selection = |assigned: Vec<u16>, p: f64| {
        let mut selection = lape(0.7, 0.7, 0.5).identify(&example()).unwrap();
        let names = ["slv_Latn", "slk_Latn", "mlt_Latn", "afr_Latn", "isl_Latn", "cym_Latn", "kat_Geor"];
        selection.languages = names.map(code).to_vec();
        selection.tokens = vec![10, 10, 10, 10, 10, 10, 0];
        selection.neurons.truncate(1);
        selection.neurons[0].assigned = assigned;
        selection.neurons[0].probabilities = vec![p; 7];
        selection
    };
    let class_of = |assigned: &[u16], p: f64| classes(&selection(assigned.to_vec(), p), family)[0];
    assert_eq!(class_of(&[2], 0.5), Some(Class::Exclusive));
    assert_eq!(class_of(&[0, 1], 0.5), Some(Class::Family));
    assert_eq!(class_of(&[0, 2], 0.5), Some(Class::Shared));
    // Six languages have tokens: three are half of them, whatever their families.
    assert_eq!(class_of(&[3, 4, 5], 0.5), Some(Class::General));
    assert_eq!(class_of(&[], 0.5), None);
    assert_eq!(class_of(&[0, 1], 0.0), Some(Class::Dead));
    let one = selection(vec![2], 0.5);
    assert_eq!(class(&one, &one.neurons[0], family).map(Class::name), Some("exclusive"));
    for class in Class::ALL {
        assert_eq!(serde_json::to_value(class).unwrap(), class.name());
    }
}

#[test]
fn the_overlap_of_two_languages_is_the_one_derived_by_hand() {
    // mlt has {0.0, 1.0}, afr {1.0, 1.1}, npi none. Shared by mlt and afr: 1.0. Jaccard 1/3, coefficient 1/2.
    // Cosine of mlt (8 4 0 6 1 2) and afr (0 8 0 12 18 4): 32 + 72 + 18 + 8 = 130 over √121 · √548 = 11 · 23.409400.
    let profiles = example();
    let pairs = overlaps(&profiles, &lape(0.7, 0.7, 0.5).identify(&profiles).unwrap()).unwrap();
    assert_eq!(pairs.iter().map(|pair| (pair.a, pair.b)).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    assert_eq!((pairs[0].shared, pairs[0].jaccard, pairs[0].coefficient), (1, Some(1.0 / 3.0), Some(0.5)));
    assert!((pairs[0].cosine.unwrap() - 130.0 / (11.0 * 548f64.sqrt())).abs() < 1e-15);
    assert_eq!((pairs[1].shared, pairs[1].jaccard, pairs[1].coefficient), (0, Some(0.0), None));
}

#[test]
fn two_languages_that_never_fire_have_no_overlap_rather_than_a_zero() {
    let profiles = profiles(vec![counts("mlt_Latn", 4, &[0; 6]), counts("afr_Latn", 0, &[0; 6])]);
    let pair = &overlaps(&profiles, &Lape::default().identify(&profiles).unwrap()).unwrap()[0];
    assert_eq!((pair.shared, pair.jaccard, pair.coefficient, pair.cosine), (0, None, None, None));
}

#[test]
fn the_design_effect_is_the_one_derived_by_hand() {
    // One neuron fires in mlt: 2 of 10, then 4 of 10 tokens. p = .3; between = 10 · .1² + 10 · .1² = .2 over F - 1 = 1;
    // binomial = .3 · .7 = .21; deff = .2 / .21. The third fold has no tokens and does not count.
    // afr has one fold with tokens: nothing can be said.
    let profiles = profiles(vec![
        folded("mlt_Latn", &[(10, &[2, 0, 0, 0, 0, 0]), (10, &[4, 0, 0, 0, 0, 0]), (0, &[0; 6])]),
        folded("afr_Latn", &[(10, &[0, 3, 0, 0, 0, 0]), (0, &[0; 6]), (0, &[0; 6])]),
    ]);
    let lape = lape(0.5, 0.5, 0.5);
    let selection = lape.identify(&profiles).unwrap();
    let stability = Stability::estimate(&lape, &profiles, &selection, Resampling::default()).unwrap();
    let [mlt, afr] = &stability.languages[..] else { panic!("two rows") };
    assert!((mlt.deff.unwrap() - 0.2 / 0.21).abs() < 1e-12);
    assert_eq!((afr.deff, afr.mean_selection_freq, afr.split_half_jaccard), (None, None, None));
    assert_eq!(mlt.split_half_jaccard, None, "no other language has tokens in both halves");
    // The bar is 0, so the margin is p itself.
    assert!((mlt.margin_to_bar.unwrap() - 0.3).abs() < 1e-12);
}

#[test]
fn folds_that_agree_make_every_selected_neuron_certain() {
    let quarter = |language: &str, active: &[u32]| folded(language, &[(10, active); 4]);
    let profiles = profiles(vec![
        quarter("mlt_Latn", &[8, 4, 0, 6, 1, 2]),
        quarter("afr_Latn", &[0, 4, 0, 6, 9, 2]),
        quarter("npi_Deva", &[0, 4, 0, 0, 0, 7]),
    ]);
    let lape = lape(0.7, 0.7, 0.5);
    let selection = lape.identify(&profiles).unwrap();
    let stability = Stability::estimate(&lape, &profiles, &selection, Resampling { resamples: 20, seed: 3 }).unwrap();
    assert_eq!(stability.selection_freq, [vec![Some(1.0)], vec![Some(1.0)], vec![Some(1.0), Some(1.0)]]);
    let mlt = &stability.languages[0];
    assert_eq!((mlt.deff, mlt.mean_selection_freq, mlt.split_half_jaccard), (Some(0.0), Some(1.0), Some(1.0)));
    // Margin of mlt's neurons to the bar of .4: (.8 - .4 + .6 - .4) / 2.
    assert!((mlt.margin_to_bar.unwrap() - 0.3).abs() < 1e-12);
    assert_eq!(stability.languages[2].margin_to_bar, None, "npi has no neuron");
}

#[test]
fn a_neuron_near_the_cut_comes_back_less_often_than_one_far_from_it() {
    // 2 of 6 neurons are asked for; 0.0 is far ahead, and 1.0 and 1.1 differ by less than the folds do.
    let of = |language: &str, a: &[u32], b: &[u32]| folded(language, &[(100, a), (100, b), (100, a), (100, b)]);
    let profiles = profiles(vec![
        of("mlt_Latn", &[90, 10, 10, 60, 50, 10], &[90, 10, 10, 50, 58, 10]),
        of("afr_Latn", &[1, 10, 10, 10, 10, 10], &[1, 10, 10, 10, 10, 10]),
    ]);
    let lape = lape(0.6, 0.6, 0.34);
    let selection = lape.identify(&profiles).unwrap();
    assert_eq!(selection.neurons[1].id, id(1, 0));
    let resampling = Resampling { resamples: 400, seed: 9 };
    let stability = Stability::estimate(&lape, &profiles, &selection, resampling).unwrap();
    let freq: Vec<f32> = stability.selection_freq.iter().map(|freq| freq[0].unwrap()).collect();
    assert_eq!(freq[0], 1.0);
    assert!((0.4..0.9).contains(&freq[1]), "{freq:?}");
    let again = Stability::estimate(&lape, &profiles, &selection, resampling).unwrap();
    assert_eq!(stability, again, "the same seed gives the same frequencies");
}

#[test]
fn without_folds_nothing_about_stability_is_made_up() {
    let lape = lape(0.7, 0.7, 0.5);
    let selection = lape.identify(&example()).unwrap();
    let stability = Stability::estimate(&lape, &example(), &selection, Resampling::default()).unwrap();
    assert_eq!(stability.selection_freq, [vec![None], vec![None], vec![None, None]]);
    for row in stability.languages {
        assert_eq!((row.deff, row.mean_selection_freq, row.split_half_jaccard), (None, None, None));
    }
}

#[test]
fn evidence_is_refused_for_a_selection_of_other_profiles() {
    let lape = lape(0.7, 0.7, 0.5);
    let selection = lape.identify(&example()).unwrap();
    let others = example().subset(&[code("mlt_Latn"), code("afr_Latn")]).unwrap();
    assert_eq!(overlaps(&others, &selection).unwrap_err(), IdentifyError::OtherProfiles);
    let refused = Stability::estimate(&lape, &others, &selection, Resampling::default()).unwrap_err();
    assert_eq!(refused, IdentifyError::OtherProfiles);
    let third = selection.at_rate(Rate::try_from(0.34).unwrap()).unwrap();
    let refused = Stability::estimate(&lape, &example(), &third, Resampling::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the selection is of 2 neurons by `lape`, not of 3 by `lape`: examine it with its own options"
    );
}

#[test]
fn a_selection_survives_json_with_every_bit() {
    let selection = lape(0.7, 0.8, 0.5).identify(&example()).unwrap();
    let text = serde_json::to_string(&selection).unwrap();
    assert_eq!(serde_json::from_str::<Selection>(&text).unwrap(), selection);
    assert!(matches!(selection.notes[..], [Note::WithoutLanguage { neurons: 1, .. }]));
}
