//! Laws of the atlas over random profiles: what is written is read again, the same input gives the same bytes, and a language
//! without neurons is a row and never a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use neuroglot::{
    atlas::{self, Atlas, Evidence, Identification, IdentifyParameters, MaskSet, NeuronRow, Release},
    checkpoint::CheckpointHashes,
    corpus::{Notes, Split},
    identify::{Identifier, LanguageCounts, Lape, Profiles, Rate, Resampling, Stability, overlaps},
    language::LanguageCode,
    model::{
        Activation, DecoderSpec, RopeScaling, RopeSpec, Tally,
        spec::{
            AttentionSpec, EmbeddingSpec, FeedForwardSpec, HeadSpec, LayerSpec, NormKind, NormSpec, Placement,
            QueryKeyNorm,
        },
    },
    neuron::{FfnShape, NeuronId},
    profile::{COUNTING, CountsReader, ModelCard, Profile, ProfileFolder, ProfileHead, RoutedTable, RunParameters},
    tokens::{Coverage, CoverageStatus, Separator},
};
use proptest::prelude::*;
use tempfile::TempDir;

const FOLDS: usize = 2;
const LANGUAGES: [&str; 4] = ["cym_Latn", "kat_Geor", "mlt_Latn", "urd_Arab"];

/// The head of a profile of a made-up model, in two folds.
pub fn head(shape: FfnShape) -> ProfileHead {
    let norm = NormSpec { kind: NormKind::Rms, bias: false, eps: 1e-5 };
    let spec = DecoderSpec {
        vocabulary: 64,
        hidden: 8,
        ffn: shape,
        positions: 128,
        embedding: EmbeddingSpec::default(),
        norm,
        placement: Placement::Pre,
        attention: AttentionSpec {
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            input_bias: false,
            output_bias: false,
            query_key_norm: QueryKeyNorm::None,
            softcap: None,
            alibi: false,
        },
        layers: vec![LayerSpec { window: None, rope: Some(0), scale: 0.5 }; shape.layers],
        ropes: vec![RopeSpec { theta: 10_000.0, dim: 4, interleaved: false, scaling: RopeScaling::Default }],
        feed_forward: FeedForwardSpec { activation: Activation::Silu, gated: true, bias: false, routing: None },
        head: HeadSpec { tied: true, ..HeadSpec::default() },
    };
    let hashes = CheckpointHashes {
        config: "c".into(),
        tokenizer: "t".into(),
        weights: BTreeMap::from([("w".into(), "h".into())]),
    };
    let parameters = RunParameters {
        model: "owner/model".into(),
        revision: None,
        hashes,
        corpus: "dir:text".into(),
        document: "line".into(),
        split: Split::All,
        tokens: 128,
        context: 16,
        separator: Separator::None,
        folds: FOLDS,
        precision: "f32".into(),
        device: "cpu".into(),
        counting: COUNTING,
    };
    let card = ModelCard {
        id: "owner/model".into(),
        revision: None,
        architecture: "llama".into(),
        parameters: 1234,
        dtype: "F32".into(),
        licence: None,
        spec,
    };
    ProfileHead::new(parameters, card)
}

/// A profile with the given counts: 64 tokens in each fold, or none at all; where there are experts, some of them go to each.
fn profile(shape: FfnShape, language: &str, counts: &[u8], tokens: u64) -> Profile {
    let mut tally = Tally::new(shape, FOLDS);
    let share = |n: u8| u64::from(n) * tokens / 255;
    for (fold, routed) in tally.routed.iter_mut().enumerate() {
        for (ffn, routed) in routed.iter_mut().enumerate() {
            *routed = share(counts[(ffn + fold) % counts.len()]);
        }
    }
    for (fold, active) in tally.active.iter_mut().enumerate() {
        for (neuron, active) in active.iter_mut().enumerate() {
            let most = tally.routed.get(fold).map_or(tokens, |routed| routed[shape.ffn_of(neuron)]);
            *active = share(counts[(neuron * FOLDS + fold) % counts.len()]).min(most);
        }
    }
    for neuron in 0..shape.neurons() {
        // Values of f32, as an atlas keeps them.
        tally.sum[neuron] = f64::from(f32::from(counts[neuron % counts.len()]) - 100.0);
        tally.sum_sq[neuron] = f64::from(f32::from(counts[neuron % counts.len()]) * 3.5);
        tally.max[neuron] = if tokens == 0 { f32::NEG_INFINITY } else { f32::from(counts[neuron % counts.len()]) };
    }
    let coverage = Coverage {
        language: language.parse().unwrap(),
        status: if tokens == 0 { CoverageStatus::Empty } else { CoverageStatus::Full },
        tokens: tokens * FOLDS as u64,
        tokens_read: tokens * FOLDS as u64 + 3,
        notes: Notes { documents: 7, bytes: 900, ..Notes::default() },
        fold_tokens: vec![tokens; FOLDS],
        fold_documents: vec![4, 3],
        text_sha256: "abc".into(),
    };
    Profile { coverage, tally }
}

fn build(profile: &ProfileFolder, profiles: &[Profile], rate: f64, place: &Path) -> neuroglot::identify::Selection {
    let shape = profile.head.model.spec.ffn;
    let counts = profiles.iter().map(|profile| {
        let fold_active: Vec<Vec<u32>> =
            profile.tally.active.iter().map(|fold| fold.iter().map(|&n| n as u32).collect()).collect();
        let active = (0..shape.neurons()).map(|n| fold_active.iter().map(|fold| fold[n]).sum()).collect();
        let fold_tokens = profile.coverage.fold_tokens.clone();
        let fold_routed = profile.tally.routed.clone();
        LanguageCounts { language: profile.coverage.language, fold_tokens, active, fold_active, fold_routed }
    });
    let counts = Profiles::new(shape, counts.collect()).unwrap();
    let lape = Lape { top_rate: Rate::try_from(rate).unwrap(), ..Lape::default() };
    let selection = lape.identify(&counts).unwrap();
    let resampling = Resampling { resamples: 10, seed: 0 };
    let stability = Stability::estimate(&lape, &counts, &selection, resampling).unwrap();
    let parameters = IdentifyParameters {
        profile: Some(profile.head.run.clone()),
        method: "lape".into(),
        filter_rate: Some(0.95),
        activation_bar: Some(0.95),
        top_rates: vec![rate],
        arithmetic: Some("exact".into()),
        seed: 0,
        resamples: 10,
        languages: selection.languages.clone(),
        origin: None,
    };
    let identification = Identification {
        profile,
        coverage: profiles.iter().map(|profile| profile.coverage.clone()).collect(),
        means: profiles.iter().map(|profile| profile.tally.sum.iter().map(|sum| *sum as f32).collect()).collect(),
        parameters,
        rates: vec![(rate, selection.clone())],
        evidence: Evidence { overlaps: overlaps(&counts, &selection).unwrap(), stability: Some(stability) },
        selection: selection.clone(),
    };
    let release =
        Release { licence: "CC0-1.0".into(), remarks: vec!["A remark.".into()], language_remarks: BTreeMap::new() };
    atlas::build(place, &release, &[identification]).unwrap();
    selection
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let manifest = atlas::Manifest::read(folder).unwrap();
    let names = manifest.files.into_iter().map(|file| file.path).chain(["manifest.json".to_owned()]);
    names.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

fn rows(atlas: &Atlas, language: LanguageCode) -> BTreeSet<NeuronId> {
    let tables = atlas.method(atlas.model(None).unwrap(), "lape").unwrap();
    tables.of(language).iter().map(NeuronRow::id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again_and_the_same_input_gives_the_same_bytes(
        layers in 1usize..4,
        experts in prop_oneof![Just(1usize), 2usize..5],
        width in 1usize..20,
        counts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 8..60), 4),
        empty in 0usize..5,
        rate in 0.02f64..1.0,
    ) {
        let shape = FfnShape { layers, experts, width };
        let folder = TempDir::new().unwrap();
        let profile_folder = ProfileFolder::begin(&folder.path().join("profile"), head(shape)).unwrap();
        let profiles: Vec<Profile> = LANGUAGES
            .iter()
            .zip(&counts)
            .enumerate()
            .map(|(at, (language, counts))| profile(shape, language, counts, if at == empty { 0 } else { 64 }))
            .collect();
        for profile in &profiles {
            profile_folder.write(profile).unwrap();
            prop_assert_eq!(&profile_folder.read(profile.coverage.language).unwrap(), profile);
        }
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let selection = build(&profile_folder, &profiles, rate, &one);
        build(&profile_folder, &profiles, rate, &other);
        prop_assert_eq!(files(&one), files(&other));

        // Building into an atlas that is there already changes nothing.
        build(&profile_folder, &profiles, rate, &one);
        prop_assert_eq!(files(&one), files(&other));

        let wrong: Vec<_> = atlas::verify(&one).unwrap().into_iter().filter(|check| check.problem.is_some()).collect();
        prop_assert!(wrong.is_empty(), "{:?}", wrong);

        let atlas = Atlas::open(&one).unwrap();
        prop_assert_eq!(atlas.languages.len(), 4);
        prop_assert_eq!(atlas.coverage.len(), 4);
        let masks = MaskSet::read(&one.join("masks/owner__model/lape.safetensors"), shape).unwrap();
        prop_assert_eq!(masks.len(), 4, "a language without neurons has a mask");
        let tables = atlas.method(atlas.model(None).unwrap(), "lape").unwrap();
        prop_assert_eq!(tables.stability.len(), 4, "and a row");
        prop_assert_eq!(tables.overlap.len(), 6);
        for (at, &language) in selection.languages.iter().enumerate() {
            let wanted: BTreeSet<_> = selection.set(at).iter().collect();
            prop_assert_eq!(&rows(&atlas, language), &wanted);
            let mask: BTreeSet<_> = masks[&language].iter().collect();
            prop_assert_eq!(mask, wanted);
        }
        let part = CountsReader::open(&one.join("data/counts/owner__model/part-00000.parquet")).unwrap().read(shape).unwrap();
        prop_assert_eq!(part.languages, LANGUAGES);
        let routed = shape.is_routed().then(|| {
            RoutedTable::read(&one.join("data/routed/owner__model/part-00000.parquet"), shape, FOLDS).unwrap()
        });
        prop_assert_eq!(routed.is_some(), one.join("data/routed").exists(), "a dense model has no routed tokens");
        for ((tally, language), profile) in part.tallies.iter().zip(LANGUAGES).zip(&profiles) {
            let mut tally = tally.clone();
            tally.routed = routed.as_ref().map_or_else(Vec::new, |routed| routed.of(language).unwrap().clone());
            prop_assert_eq!(&tally, &profile.tally);
        }
    }
}
