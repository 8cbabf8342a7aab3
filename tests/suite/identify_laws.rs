//! Laws of identification, for any counts.

#![allow(clippy::float_cmp, reason = "the laws hold to the bit")]

use neuroglot::identify::{
    Arithmetic, Identifier, IdentifyOptions, LanguageCounts, Lape, METHODS, Matching, Profiles, Quantile, Random, Rate,
    Resampling, Selection, Stability, overlaps,
};
use neuroglot::language::LanguageCode;
use neuroglot::neuron::{FfnShape, NeuronId};
use proptest::prelude::*;

const CODES: [&str; 7] = ["mlt_Latn", "afr_Latn", "npi_Deva", "kat_Geor", "isl_Latn", "cym_Latn", "slv_Latn"];

fn code(language: usize) -> LanguageCode {
    CODES[language].parse().unwrap()
}

/// Counts of one to seven languages, in two folds, of a dense model or of one with experts; some tokens 0, many neurons quiet, some
/// experts without tokens, and values that tie often.
fn any_profiles() -> impl Strategy<Value = Profiles> {
    (1..4usize, prop_oneof![Just(1usize), 2..4usize], 1..16usize, 1..=CODES.len()).prop_flat_map(
        |(layers, experts, width, languages)| {
            let shape = FfnShape { layers, experts, width };
            let fold = (0..40u64).prop_flat_map(move |tokens| (Just(tokens), routed(shape, tokens))).prop_flat_map(
                move |(tokens, routed)| {
                    let of = |ffn: usize| routed.get(ffn).copied().unwrap_or(tokens) as u32;
                    let active: Vec<_> =
                        (0..shape.neurons()).map(|place| quiet_up_to(of(shape.ffn_of(place)))).collect();
                    (Just(tokens), Just(routed), active)
                },
            );
            proptest::collection::vec((fold.clone(), fold), languages).prop_map(move |folds| {
                let counts = folds.into_iter().enumerate().map(|(language, (a, b))| LanguageCounts {
                    language: code(language),
                    active: a.2.iter().zip(&b.2).map(|(a, b)| a + b).collect(),
                    fold_tokens: vec![a.0, b.0],
                    fold_active: vec![a.2, b.2],
                    fold_routed: if shape.is_routed() { vec![a.1, b.1] } else { Vec::new() },
                });
                Profiles::new(shape, counts.collect()).unwrap()
            })
        },
    )
}

/// Tokens for every expert; none for a dense model.
fn routed(shape: FfnShape, tokens: u64) -> impl Strategy<Value = Vec<u64>> {
    let experts = if shape.is_routed() { shape.ffns() } else { 0 };
    proptest::collection::vec(prop_oneof![1 => Just(0), 4 => 0..=tokens], experts)
}

fn quiet_up_to(tokens: u32) -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(0), 3 => 0..=tokens]
}

/// How often every neuron fires: over the tokens of its expert, or over none, which is never.
fn probability(arithmetic: Arithmetic, counts: &LanguageCounts, shape: FfnShape, place: usize) -> f64 {
    arithmetic.probability(counts.active[place], counts.tokens_of(shape.ffn_of(place)).max(1))
}

fn quantile() -> impl Strategy<Value = Quantile> {
    (0.01..0.99).prop_map(|quantile: f64| quantile.try_into().unwrap())
}

fn rate() -> impl Strategy<Value = Rate> {
    (0.01..=1.0).prop_map(|rate: f64| rate.try_into().unwrap())
}

fn any_lape() -> impl Strategy<Value = Lape> {
    (quantile(), quantile(), rate(), prop_oneof![Just(Arithmetic::Exact), Just(Arithmetic::Reference)]).prop_map(
        |(filter_rate, activation_bar, top_rate, arithmetic)| Lape {
            filter_rate,
            activation_bar,
            top_rate,
            arithmetic,
        },
    )
}

fn any_options() -> impl Strategy<Value = IdentifyOptions> {
    let matching = prop_oneof![Just(Matching::PerLayer), Just(Matching::Overall)];
    (any_lape(), any::<u64>(), matching).prop_map(|(lape, seed, matching)| IdentifyOptions {
        filter_rate: lape.filter_rate,
        activation_bar: lape.activation_bar,
        top_rate: lape.top_rate,
        arithmetic: Arithmetic::Exact,
        seed,
        matching,
    })
}

/// What a selection says of one neuron, with languages by name.
type Evidence = (NeuronId, u32, u64, Vec<(LanguageCode, u64, bool)>);

/// A selection with languages by name instead of by place.
fn by_name(selection: &Selection) -> (Vec<Evidence>, Vec<Option<u64>>, usize) {
    let neurons = selection.neurons.iter().map(|neuron| {
        let mut languages: Vec<_> = (0..selection.languages.len())
            .map(|place| {
                let serves = neuron.assigned.contains(&(place as u16));
                (selection.languages[place], neuron.probabilities[place].to_bits(), serves)
            })
            .collect();
        languages.sort();
        (neuron.id, neuron.rank, neuron.entropy.to_bits(), languages)
    });
    let bars = [selection.filter_bar, selection.activation_bar, selection.entropy_cut];
    (neurons.collect(), bars.map(|bar| bar.map(f64::to_bits)).to_vec(), selection.finite)
}

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// The probability that a rank points at, by sorting all of them.
fn sorted_quantile(profiles: &Profiles, arithmetic: Arithmetic, quantile: Quantile) -> f64 {
    let compared = profiles.languages().iter().filter(|counts| counts.tokens() > 0);
    let shape = profiles.shape();
    let mut all: Vec<f64> = compared
        .flat_map(|counts| (0..shape.neurons()).map(|place| probability(arithmetic, counts, shape, place)))
        .collect();
    all.sort_by(f64::total_cmp);
    let rank = (all.len() as f64 * quantile.get()).round_ties_even() as usize;
    all[rank.max(1) - 1]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn permuting_the_languages_permutes_the_answer_of_every_method(
        (profiles, order) in any_profiles().prop_flat_map(|profiles| {
            let order = Just(profiles.codes()).prop_shuffle();
            (Just(profiles), order)
        }),
        options in any_options(),
    ) {
        for method in METHODS {
            let identifier = (method.build)(&options);
            let straight = identifier.identify(&profiles).unwrap();
            let permuted = identifier.identify(&profiles.subset(&order).unwrap()).unwrap();
            prop_assert_eq!(by_name(&straight), by_name(&permuted), "{}", method.name);
        }
    }

    #[test]
    fn scaling_counts_and_tokens_together_changes_nothing_for_any_method(
        profiles in any_profiles(),
        options in any_options(),
        factors in proptest::collection::vec(1..2000u32, CODES.len()),
    ) {
        let scaled = profiles.languages().iter().zip(&factors).map(|(counts, &factor)| LanguageCounts {
            language: counts.language,
            fold_tokens: vec![counts.tokens() * u64::from(factor)],
            active: counts.active.iter().map(|active| active * factor).collect(),
            fold_active: Vec::new(),
            fold_routed: if counts.fold_routed.is_empty() {
                Vec::new()
            } else {
                vec![(0..profiles.shape().ffns()).map(|ffn| counts.tokens_of(ffn) * u64::from(factor)).collect()]
            },
        });
        let scaled = Profiles::new(profiles.shape(), scaled.collect()).unwrap();
        for method in METHODS {
            let identifier = (method.build)(&options);
            let (before, after) = (identifier.identify(&profiles).unwrap(), identifier.identify(&scaled).unwrap());
            prop_assert_eq!(by_name(&before), by_name(&after), "{}", method.name);
        }
    }

    #[test]
    fn experts_that_all_see_every_token_get_the_answer_of_the_dense_model_that_they_make_up(
        profiles in any_profiles(),
        options in any_options(),
        lape in any_lape(),
    ) {
        let shape = profiles.shape();
        let wide = FfnShape::dense(shape.layers, shape.layer_width());
        let over_all_tokens = |shape: FfnShape| {
            let counts = profiles.languages().iter().map(|counts| LanguageCounts {
                fold_routed: if shape.is_routed() {
                    counts.fold_tokens.iter().map(|&tokens| vec![tokens; shape.ffns()]).collect()
                } else {
                    Vec::new()
                },
                ..(**counts).clone()
            });
            Profiles::new(shape, counts.collect()).unwrap()
        };
        let (routed, dense) = (over_all_tokens(shape), over_all_tokens(wide));
        let places = |selection: &Selection| {
            let (mut neurons, bars, finite) = by_name(selection);
            neurons.iter_mut().for_each(|neuron| neuron.0 = wide.neuron(selection.shape.flat(neuron.0)));
            (neurons, bars, finite, selection.notes.clone(), selection.ties_at_cut)
        };
        for method in METHODS {
            let identify = |profiles| places(&(method.build)(&options).identify(profiles).unwrap());
            prop_assert_eq!(identify(&routed), identify(&dense), "{}", method.name);
        }
        let evidence = |profiles: &Profiles| {
            let selection = lape.identify(profiles).unwrap();
            let resampling = Resampling { resamples: 1, seed: 0 };
            (overlaps(profiles, &selection).unwrap(), Stability::estimate(&lape, profiles, &selection, resampling).unwrap())
        };
        let ((pairs, stability), (dense_pairs, dense_stability)) = (evidence(&routed), evidence(&dense));
        for (pair, dense) in pairs.iter().zip(&dense_pairs) {
            prop_assert_eq!((pair.shared, pair.jaccard, pair.coefficient), (dense.shared, dense.jaccard, dense.coefficient));
            let difference = pair.cosine.zip(dense.cosine).map_or(0.0, |(cosine, dense)| (cosine - dense).abs());
            prop_assert!(difference < 1e-12 && pair.cosine.is_some() == dense.cosine.is_some());
        }
        for (row, dense) in stability.languages.iter().zip(&dense_stability.languages) {
            prop_assert_eq!((row.split_half_jaccard, row.margin_to_bar), (dense.split_half_jaccard, dense.margin_to_bar));
            let difference = row.deff.zip(dense.deff).map_or(0.0, |(deff, dense)| (deff - dense).abs() / dense.max(1.0));
            prop_assert!(difference < 1e-12 && row.deff.is_some() == dense.deff.is_some());
        }
    }

    #[test]
    fn permuting_the_experts_of_a_layer_permutes_the_answer(
        (profiles, order) in any_profiles().prop_flat_map(|profiles| {
            let order = Just((0..profiles.shape().experts).collect::<Vec<_>>()).prop_shuffle();
            (Just(profiles), order)
        }),
        lape in any_lape(),
    ) {
        let shape = profiles.shape();
        let moved = |neuron: NeuronId| NeuronId { expert: order[neuron.expert], ..neuron };
        let to_ffn = |ffn: usize| shape.ffn(ffn / shape.experts, order[ffn % shape.experts]);
        let permuted = profiles.languages().iter().map(|counts| {
            let mut permuted = LanguageCounts { fold_active: Vec::new(), ..(**counts).clone() };
            for place in 0..shape.neurons() {
                permuted.active[shape.flat(moved(shape.neuron(place)))] = counts.active[place];
            }
            for (to, from) in permuted.fold_routed.iter_mut().zip(&counts.fold_routed) {
                (0..shape.ffns()).for_each(|ffn| to[to_ffn(ffn)] = from[ffn]);
            }
            permuted
        });
        let permuted = Profiles::new(shape, permuted.collect()).unwrap();
        let (before, after) = (lape.identify(&profiles).unwrap(), lape.identify(&permuted).unwrap());
        prop_assert_eq!((before.filter_bar, before.finite), (after.filter_bar, after.finite));
        let entropies = |selection: &Selection| selection.neurons.iter().map(|neuron| neuron.entropy).collect::<Vec<_>>();
        prop_assert_eq!(entropies(&before), entropies(&after));
        // Which of several neurons at the cut are taken goes by their places, and those have changed.
        let inside = |selection: &Selection, moved: &dyn Fn(NeuronId) -> NeuronId| {
            let cut = selection.entropy_cut.filter(|_| selection.ties_at_cut.taken < selection.ties_at_cut.tied);
            let within = selection.neurons.iter().filter(|neuron| Some(neuron.entropy) != cut);
            let mut ids: Vec<_> = within.map(|neuron| (moved(neuron.id), neuron.assigned.clone())).collect();
            ids.sort();
            ids
        };
        prop_assert_eq!(inside(&before, &moved), inside(&after, &|neuron| neuron));
    }

    #[test]
    fn a_neuron_that_never_fires_is_never_selected_by_any_method(
        profiles in any_profiles(),
        options in any_options(),
        lape in any_lape(),
    ) {
        let fires = |id| profiles.languages().iter().any(|counts| counts.active[profiles.shape().flat(id)] > 0);
        let methods = METHODS.iter().map(|method| (method.build)(&options));
        let selections = methods.chain([Box::new(lape) as Box<dyn Identifier>]);
        for selection in selections.map(|method| method.identify(&profiles).unwrap()) {
            prop_assert!(selection.neurons.iter().all(|neuron| fires(neuron.id)));
        }
    }

    #[test]
    fn a_smaller_rate_cut_from_a_larger_is_what_identifying_at_it_gives(
        profiles in any_profiles(),
        lape in any_lape(),
        smaller in rate(),
    ) {
        let smaller = if smaller > lape.top_rate { lape.top_rate } else { smaller };
        let large = lape.identify(&profiles).unwrap();
        let small = Lape { top_rate: smaller, ..lape }.identify(&profiles).unwrap();
        for language in 0..large.languages.len() {
            prop_assert!(small.set(language).iter().all(|neuron| large.set(language).contains(neuron)));
        }
        prop_assert_eq!(large.at_rate(smaller).unwrap(), small);
    }

    #[test]
    fn equal_bars_give_every_selected_neuron_a_language_and_the_number_asked_when_enough_are_finite(
        profiles in any_profiles(),
        lape in any_lape(),
    ) {
        let selection = Lape { activation_bar: lape.filter_rate, ..lape }.identify(&profiles).unwrap();
        prop_assert_eq!(selection.filter_bar, selection.activation_bar);
        let union: std::collections::BTreeSet<NeuronId> =
            (0..selection.languages.len()).flat_map(|place| selection.set(place).iter().collect::<Vec<_>>()).collect();
        prop_assert_eq!(union.len(), selection.asked.min(selection.finite));
        prop_assert_eq!(union.len(), selection.union().len());
    }

    #[test]
    fn the_bars_are_those_of_a_full_sort(profiles in any_profiles(), lape in any_lape()) {
        let selection = lape.identify(&profiles).unwrap();
        if let Some(bar) = selection.filter_bar {
            prop_assert_eq!(bar, sorted_quantile(&profiles, lape.arithmetic, lape.filter_rate));
        }
        if let Some(bar) = selection.activation_bar {
            prop_assert_eq!(bar, sorted_quantile(&profiles, lape.arithmetic, lape.activation_bar));
        }
    }

    #[test]
    fn the_ranking_is_that_of_every_finite_neuron_sorted(profiles in any_profiles(), lape in any_lape()) {
        let selection = lape.identify(&profiles).unwrap();
        let Some(bar) = selection.filter_bar else { return Ok(()) };
        let compared: Vec<_> = profiles.languages().iter().filter(|counts| counts.tokens() > 0).collect();
        let shape = profiles.shape();
        let of_all = |place: usize| {
            compared.iter().map(|counts| probability(lape.arithmetic, counts, shape, place)).collect::<Vec<_>>()
        };
        let mut all: Vec<(f64, usize)> = (0..shape.neurons())
            .filter(|&place| of_all(place).iter().any(|&p| p > bar))
            .map(|place| (lape.arithmetic.entropy(&of_all(place)), place))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        prop_assert_eq!(selection.finite, all.len());
        all.truncate(selection.asked);
        let found = selection.neurons.iter().map(|neuron| (neuron.entropy, profiles.shape().flat(neuron.id)));
        prop_assert_eq!(found.collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_control_is_as_large_as_what_it_controls_or_says_why_and_shares_none_of_it(
        profiles in any_profiles(),
        options in any_options(),
    ) {
        let lape = Lape {
            filter_rate: options.filter_rate,
            activation_bar: options.activation_bar,
            top_rate: options.top_rate,
            arithmetic: options.arithmetic,
        };
        let own = lape.identify(&profiles).unwrap();
        let control = Random { lape, seed: options.seed, matching: options.matching }.identify(&profiles).unwrap();
        for language in 0..own.languages.len() {
            let (own, drawn) = (own.set(language), control.set(language));
            prop_assert!(drawn.iter().all(|neuron| !own.contains(neuron)));
            let short = control.notes.iter().any(|note| {
                note.to_string().starts_with(&format!("{}: ", control.languages[language]))
            });
            prop_assert_eq!(drawn.len() < own.len(), short);
            prop_assert!(drawn.len() <= own.len());
        }
    }

    #[test]
    fn an_entropy_lies_between_zero_and_the_logarithm_of_the_languages(
        probabilities in proptest::collection::vec(prop_oneof![Just(0.0), 0.0..=1.0], 1..40),
    ) {
        let entropy = Arithmetic::Exact.entropy(&probabilities);
        let fires = probabilities.iter().filter(|&&p| p > 0.0).count();
        prop_assert!(0.0 <= entropy && entropy <= (fires.max(1) as f64).ln() + 1e-12, "{}", entropy);
        prop_assert!((entropy - Arithmetic::Reference.entropy(&probabilities)).abs() < 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_number_of_threads_changes_no_answer(
        profiles in any_profiles(),
        options in any_options(),
        lape in any_lape(),
    ) {
        let answer = || {
            let controls = METHODS.iter().map(|method| (method.build)(&options).identify(&profiles).unwrap());
            let controls: Vec<Selection> = controls.collect();
            let selection = lape.identify(&profiles).unwrap();
            let resampling = Resampling { resamples: 12, seed: options.seed };
            let stability = Stability::estimate(&lape, &profiles, &selection, resampling).unwrap();
            let overlaps = overlaps(&profiles, &selection).unwrap();
            (controls, selection, stability, overlaps)
        };
        prop_assert_eq!(with_threads(1, answer), with_threads(5, answer));
    }

    #[test]
    fn a_share_of_resamples_is_a_share_and_stands_beside_its_language(profiles in any_profiles(), lape in any_lape()) {
        let selection = lape.identify(&profiles).unwrap();
        let resampling = Resampling { resamples: 10, seed: 1 };
        let stability = Stability::estimate(&lape, &profiles, &selection, resampling).unwrap();
        prop_assert_eq!(stability.selection_freq.len(), selection.neurons.len());
        for (neuron, freq) in selection.neurons.iter().zip(&stability.selection_freq) {
            prop_assert_eq!(neuron.assigned.len(), freq.len());
            for (&language, freq) in neuron.assigned.iter().zip(freq) {
                let deff = stability.languages[usize::from(language)].deff;
                prop_assert_eq!(deff.is_some(), freq.is_some());
                prop_assert!(freq.is_none_or(|freq| (0.0..=1.0).contains(&freq)));
            }
        }
    }
}

/// Large enough for several blocks, pieces and chunks, with sizes that divide into none of them.
#[test]
fn a_model_of_many_blocks_gives_the_bars_of_a_full_sort_on_any_number_of_threads() {
    let shape = FfnShape::dense(7, 12_007);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let counts = (0..6).map(|language| {
        let tokens = 100_003 + 7 * language as u64;
        let active = (0..shape.neurons()).map(|_| (next() % tokens * (next() % 100) / 100) as u32).collect();
        LanguageCounts {
            language: code(language),
            fold_tokens: vec![tokens],
            active,
            fold_active: Vec::new(),
            fold_routed: Vec::new(),
        }
    });
    let profiles = Profiles::new(shape, counts.collect()).unwrap();
    for arithmetic in [Arithmetic::Exact, Arithmetic::Reference] {
        let lape = Lape { arithmetic, activation_bar: 0.5.try_into().unwrap(), ..Lape::default() };
        let selection = with_threads(1, || lape.identify(&profiles).unwrap());
        assert_eq!(selection, with_threads(3, || lape.identify(&profiles).unwrap()));
        assert_eq!(selection.filter_bar, Some(sorted_quantile(&profiles, arithmetic, lape.filter_rate)));
        assert_eq!(selection.activation_bar, Some(sorted_quantile(&profiles, arithmetic, lape.activation_bar)));
        let pairs = with_threads(1, || overlaps(&profiles, &selection).unwrap());
        assert_eq!(pairs, with_threads(3, || overlaps(&profiles, &selection).unwrap()));
        let (a, b) = (&profiles.languages()[1].active, &profiles.languages()[4].active);
        let dot =
            |a: &[u32], b: &[u32]| a.iter().zip(b).map(|(&a, &b)| u128::from(a) * u128::from(b)).sum::<u128>() as f64;
        let cosine = dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt());
        let pair = pairs.iter().find(|pair| (pair.a, pair.b) == (1, 4)).unwrap();
        assert!((pair.cosine.unwrap() - cosine).abs() < 1e-12);
    }
}
