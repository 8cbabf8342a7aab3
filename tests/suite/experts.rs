//! Models with experts: tokens that a router sends to some of them, and a made-up model's way from its profile to its website.

use std::{collections::BTreeSet, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use insta::assert_snapshot;
use neuroglot::{
    atlas::{self, Atlas, MaskSet, NeuronRow},
    checkpoint::Checkpoint,
    corpus::Notes,
    language::LanguageCode,
    model::{Activation, Decoder, Observer, Path as Operators, Tally},
    neuron::{FfnShape, NeuronId, NeuronSet},
    output,
    profile::{Profile, ProfileFolder, RoutedTable, TableLayout, write_routed},
    tokens::{Coverage, CoverageStatus},
};
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    atlas::head,
    harness::{Sandbox, TINY, bytes_below},
    readers::read_atlas,
};

// The grid.

#[test]
fn a_neuron_is_found_by_its_place_and_its_place_by_the_neuron() {
    let shape = FfnShape { layers: 2, experts: 3, width: 5 };
    assert_eq!((shape.neurons(), shape.ffns(), shape.layer_width()), (30, 6, 15));
    // 1 · 15 + 2 · 5 + 4 = 29, the last.
    let last = NeuronId { layer: 1, expert: 2, index: 4 };
    assert_eq!((shape.flat(last), shape.ffn_of(29), shape.in_layer(last)), (29, 5, 14));
    assert_eq!(shape.words(last), "layer 1 expert 2 neuron 4");
    let all: Vec<NeuronId> = (0..30).map(|place| shape.neuron(place)).collect();
    assert!(all.is_sorted() && all.iter().enumerate().all(|(place, &neuron)| shape.flat(neuron) == place));
    assert!(!shape.holds(NeuronId { expert: 3, ..last }) && !shape.holds(NeuronId { index: 5, ..last }));
    let set = NeuronSet::new(shape, [last, all[7], all[7], all[1]]);
    assert_eq!(set.layers(), [vec![1, 7], vec![14]]);
    assert_eq!(set.expert(0, 1).collect::<Vec<_>>(), [2]);
    assert_eq!(set.iter().collect::<Vec<_>>(), [all[1], all[7], last]);
    assert!(set.contains(last) && !set.contains(NeuronId { expert: 3, ..last }));
}

#[test]
fn a_dense_model_is_written_as_it_was_before_there_were_experts_and_read_from_there() {
    let dense = FfnShape::dense(32, 14_336);
    assert_eq!(serde_json::to_string(&dense).unwrap(), r#"{"layers":32,"width":14336}"#);
    assert_eq!(serde_json::from_str::<FfnShape>(r#"{"layers":32,"width":14336}"#).unwrap(), dense);
    let routed = FfnShape { experts: 8, ..dense };
    assert_eq!(serde_json::to_string(&routed).unwrap(), r#"{"layers":32,"experts":8,"width":14336}"#);
    assert_eq!(serde_json::from_str::<FfnShape>(&serde_json::to_string(&routed).unwrap()).unwrap(), routed);
    assert_eq!(serde_json::to_string(&NeuronId::dense(3, 123)).unwrap(), r#"{"layer":3,"index":123}"#);
    let neuron = NeuronId { layer: 3, expert: 7, index: 123 };
    assert_eq!(serde_json::from_str::<NeuronId>(&serde_json::to_string(&neuron).unwrap()).unwrap(), neuron);
    assert_eq!(
        (dense.to_string(), routed.to_string()),
        ("32 layers × 14336 neurons".to_owned(), "32 layers × 8 experts × 14336 neurons".to_owned())
    );
}

// The tally.

const ROUTED: FfnShape = FfnShape { layers: 2, experts: 3, width: 5 };

/// Folds of the tokens of every window, and gates with a token's row wherever the expert gets it.
#[derive(Clone, Debug)]
struct Batch {
    windows: Vec<Vec<u8>>,
    rows: Vec<Option<Vec<f32>>>,
}

impl Batch {
    fn folds(&self) -> Vec<u8> {
        self.windows.concat()
    }

    /// Ascending places of the routed tokens, and their rows.
    fn routed(&self) -> (Vec<u32>, Tensor) {
        let tokens =
            (0..).zip(&self.rows).filter(|(_, row)| row.is_some()).map(|(token, _)| token).collect::<Vec<u32>>();
        let values: Vec<f32> = self.rows.iter().flatten().flatten().copied().collect();
        let gate = Tensor::from_vec(values, (tokens.len(), ROUTED.width), &Device::Cpu).unwrap();
        (tokens, gate)
    }

    fn tally(&self, tally: &mut Tally, layer: usize, expert: usize) {
        tally.begin(self.windows.iter().map(Vec::as_slice));
        let (tokens, gate) = self.routed();
        tally.add_routed(Activation::Silu, layer, expert, &tokens, &gate).unwrap();
    }

    /// The batch of one window alone.
    fn window(&self, at: usize) -> Self {
        let start: usize = self.windows[..at].iter().map(Vec::len).sum();
        let rows = self.rows[start..start + self.windows[at].len()].to_vec();
        Self { windows: vec![self.windows[at].clone()], rows }
    }
}

fn any_batch() -> impl Strategy<Value = Batch> {
    // Windows longer than one task's 64 tokens; folds in stretches.
    let window = proptest::collection::vec((0..3u8, 1..90usize), 1..4)
        .prop_map(|stretches| stretches.into_iter().flat_map(|(fold, n)| vec![fold; n]).collect::<Vec<u8>>());
    proptest::collection::vec(window, 1..4).prop_flat_map(|windows| {
        let row = proptest::option::weighted(0.6, proptest::collection::vec(-4f32..4.0, ROUTED.width));
        let tokens = windows.iter().map(Vec::len).sum::<usize>();
        proptest::collection::vec(row, tokens).prop_map(move |rows| Batch { windows: windows.clone(), rows })
    })
}

/// What was counted, to the bit and without the batch at hand: sums, squares, maxima, then active and routed tokens per fold.
fn counted(tally: &Tally) -> Vec<Vec<u64>> {
    let bits = |sums: &[f64]| sums.iter().map(|sum| sum.to_bits()).collect();
    let max = tally.max.iter().map(|max| u64::from(max.to_bits())).collect();
    [&[bits(&tally.sum), bits(&tally.sum_sq), max], &tally.active[..], &tally.routed].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn an_expert_is_counted_over_the_tokens_that_are_routed_to_it_fold_by_fold(
        batches in proptest::collection::vec((any_batch(), 0..2usize, 0..3usize), 1..4),
    ) {
        let mut tally = Tally::new(ROUTED, 3);
        let mut active = vec![vec![0u64; ROUTED.neurons()]; 3];
        let mut routed = vec![vec![0u64; ROUTED.ffns()]; 3];
        let (mut sum, mut sum_sq) = (vec![0f64; ROUTED.neurons()], vec![0f64; ROUTED.neurons()]);
        for (batch, layer, expert) in &batches {
            batch.tally(&mut tally, *layer, *expert);
            let ffn = ROUTED.ffn(*layer, *expert);
            for (fold, row) in batch.folds().into_iter().zip(&batch.rows) {
                let Some(row) = row else { continue };
                routed[usize::from(fold)][ffn] += 1;
                for (index, &gate) in row.iter().enumerate() {
                    let place = ROUTED.flat(NeuronId { layer: *layer, expert: *expert, index });
                    active[usize::from(fold)][place] += u64::from(gate > 0.0);
                    let a = f64::from(gate) / (1.0 + (-f64::from(gate)).exp());
                    sum[place] += a;
                    sum_sq[place] += a * a;
                }
            }
        }
        prop_assert_eq!(&tally.active, &active);
        prop_assert_eq!(&tally.routed, &routed);
        let close = |found: &[f64], wanted: &[f64]| found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4);
        prop_assert!(close(&tally.sum, &sum) && close(&tally.sum_sq, &sum_sq));
    }

    #[test]
    fn an_experts_sums_depend_neither_on_the_threads_nor_on_what_shares_the_batch(batch in any_batch()) {
        let together = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut tally = Tally::new(ROUTED, 3);
            pool.install(|| batch.tally(&mut tally, 1, 2));
            counted(&tally)
        };
        let mut apart = Tally::new(ROUTED, 3);
        for at in 0..batch.windows.len() {
            batch.window(at).tally(&mut apart, 1, 2);
        }
        prop_assert_eq!(&together(1), &together(5));
        prop_assert_eq!(&together(1), &counted(&apart));
    }
}

#[test]
fn tokens_that_are_not_of_the_batch_or_stand_twice_are_refused() {
    let gate = |tokens: usize| Tensor::zeros((tokens, ROUTED.width), DType::F32, &Device::Cpu).unwrap();
    let refused = |shape: FfnShape, expert: usize, tokens: &[u32], rows: usize| {
        let mut tally = Tally::new(shape, 1);
        tally.begin([[0u8; 4].as_slice(), &[0; 4]]);
        let error = tally.add_routed(Activation::Silu, 0, expert, tokens, &gate(rows)).unwrap_err();
        assert!(tally.active[0].iter().chain(tally.routed.iter().flatten()).all(|&n| n == 0));
        error.to_string()
    };
    assert!(refused(ROUTED, 0, &[1, 1], 2).contains("each stands there once"));
    assert!(refused(ROUTED, 0, &[3, 2], 2).contains("in the order of the batch"));
    assert!(refused(ROUTED, 0, &[7, 8], 2).contains("token 8 is routed, but the tally was told of 8 tokens"));
    assert!(refused(ROUTED, 0, &[1, 2], 3).contains("gates [3, 5] of 2 tokens"));
    assert!(refused(ROUTED, 3, &[1], 1).contains("the model has 2 layers × 3 experts × 5 neurons"));
    assert!(refused(FfnShape::dense(2, 5), 0, &[1], 1).contains("the model has 2 layers × 5 neurons"));
    let mut tally = Tally::new(ROUTED, 1);
    tally.begin([[0u8; 4].as_slice()]);
    tally.add_routed(Activation::Silu, 0, 0, &[], &gate(0)).unwrap();
    assert_eq!(tally.routed, [vec![0; 6]], "an expert without tokens is no error");
}

/// Takes every dense gate apart into halves of its width, as if they were two experts that get every token.
struct Halves(Tally);

impl Observer for Halves {
    fn gate(&mut self, layer: usize, gate: &Tensor) -> candle_core::Result<()> {
        let gate = gate.flatten_to(1)?;
        let tokens: Vec<u32> = (0..gate.dim(0)? as u32).collect();
        for expert in 0..2 {
            let half = gate.narrow(1, expert * 24, 24)?;
            self.0.add_routed(Activation::Silu, layer, expert, &tokens, &half)?;
        }
        Ok(())
    }
}

#[test]
fn experts_that_get_every_token_are_counted_as_the_dense_layer_that_they_make_up_to_the_bit() {
    let checkpoint = Checkpoint::open(Path::new(TINY)).unwrap();
    let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Operators::Inference).unwrap();
    let ids = Tensor::from_vec((0..200u32).map(|i| i * 7 % 64).collect(), (2, 100), &Device::Cpu).unwrap();
    let folds: Vec<Vec<u8>> = vec![[vec![0; 30], vec![1; 70]].concat(), vec![2; 100]];
    let mut dense = Tally::new(decoder.spec().ffn, 3);
    dense.begin(folds.iter().map(Vec::as_slice));
    decoder.observe(&ids, &mut dense).unwrap();
    let mut halves = Halves(Tally::new(FfnShape { layers: 2, experts: 2, width: 24 }, 3));
    halves.0.begin(folds.iter().map(Vec::as_slice));
    decoder.observe(&ids, &mut halves).unwrap();
    assert_eq!(halves.0.routed, [vec![30; 4], vec![70; 4], vec![100; 4]]);
    halves.0.routed.clear();
    assert_eq!(counted(&dense), counted(&halves.0));
}

#[test]
fn an_observer_that_knows_nothing_of_experts_says_so_instead_of_seeing_nothing() {
    struct Dense;
    impl Observer for Dense {
        fn gate(&mut self, _: usize, _: &Tensor) -> candle_core::Result<()> {
            Ok(())
        }
    }
    let gate = Tensor::zeros((1, 5), DType::F32, &Device::Cpu).unwrap();
    let error = Dense.expert(1, 2, &[0], &gate).unwrap_err().to_string();
    assert!(error.contains("this observer sees dense layers only, but layer 1 has experts (here 2)"), "{error}");
}

// From a profile to a website.

const SHAPE: FfnShape = FfnShape { layers: 2, experts: 4, width: 12 };
const LANGUAGES: [&str; 4] = ["cym_Latn", "kat_Geor", "mlt_Latn", "urd_Arab"];
const FOLD_TOKENS: [u64; 2] = [300, 200];

/// Every token goes to one expert of a layer: 1 to 4 tenths of a language's tokens to each, other ones for every language. Urdu leaves
/// the last expert out. A language's own neurons fire at nine in ten of their expert's tokens, the others at one in twenty.
fn profile(at: usize) -> Profile {
    let mut tally = Tally::new(SHAPE, FOLD_TOKENS.len());
    for (fold, &tokens) in FOLD_TOKENS.iter().enumerate() {
        for ffn in 0..SHAPE.ffns() {
            let tenths = (at + ffn) as u64 % 4 + 1;
            tally.routed[fold][ffn] = tenths * tokens / 10;
        }
        if at == 3 {
            tally.routed[fold][6] += tally.routed[fold][7];
            tally.routed[fold][7] = 0;
        }
        for place in 0..SHAPE.neurons() {
            let (routed, id) = (tally.routed[fold][SHAPE.ffn_of(place)], SHAPE.neuron(place));
            let own = id.index % 4 == at && (id.expert + id.layer + at).is_multiple_of(2);
            tally.active[fold][place] = if own { routed * 9 / 10 - id.index as u64 % 3 } else { routed / 20 };
            // Values of f32, as an atlas keeps them.
            tally.sum[place] += tally.active[fold][place] as f64 / 4.0;
            tally.sum_sq[place] += tally.active[fold][place] as f64 / 2.0;
            tally.max[place] = if routed == 0 { tally.max[place] } else { 2.5 };
        }
    }
    let coverage = Coverage {
        language: LANGUAGES[at].parse().unwrap(),
        status: CoverageStatus::Full,
        tokens: FOLD_TOKENS.iter().sum(),
        tokens_read: 503,
        notes: Notes { documents: 7, bytes: 900, ..Notes::default() },
        fold_tokens: FOLD_TOKENS.to_vec(),
        fold_documents: vec![4, 3],
        text_sha256: "abc".into(),
    };
    Profile { coverage, tally }
}

fn write(sandbox: &Sandbox, name: &str, languages: impl IntoIterator<Item = usize>) -> ProfileFolder {
    let folder = ProfileFolder::begin(&sandbox.path(name), head(SHAPE)).unwrap();
    languages.into_iter().for_each(|at| folder.write(&profile(at)).unwrap());
    folder
}

/// Two shards, merged, and an atlas of them.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::empty();
    write(&sandbox, "1-2", [0, 2]);
    write(&sandbox, "2-2", [1, 3]);
    sandbox.run("merge 1-2 2-2 --out whole").done();
    sandbox.run("identify whole --out atlas --top-rate 0.1 --top-rate 0.25 --resamples 20").done();
    sandbox
}

#[test]
fn a_profile_with_experts_is_merged_and_read_back_with_its_routed_tokens() {
    let sandbox = sandbox();
    let whole = write(&sandbox, "at-once", 0..4);
    assert_eq!(bytes_below(&sandbox.path("at-once")), bytes_below(&sandbox.path("whole")));
    for (at, language) in LANGUAGES.iter().enumerate() {
        assert_eq!(whole.read(language.parse().unwrap()).unwrap(), profile(at));
    }
    assert_eq!(sandbox.run("merge whole 1-2 --out whole").text(), "exit code 0\nstdout: 4 languages in whole\n");
}

#[test]
fn what_is_identified_divides_by_the_tokens_of_the_expert_and_names_those_without() {
    let sandbox = sandbox();
    assert_snapshot!(sandbox.run("identify whole --out again --top-rate 0.25 --resamples 20").text(), @r"
    exit code 0
    stdout: 17 of 96 neurons serve 4 of 4 languages
    from 4 (cym_Latn) to 5 (urd_Arab) neurons per language
    note: experts that get no token of some language: 1 of 8 over all layers (urd_Arab); their neurons count as never active there
    note: asked for 24 neurons, but only 17 pass the filter: no other was selected
    atlas in again
    next: neuroglot site again --out site
    ");
    let atlas = Atlas::open(&sandbox.path("atlas")).unwrap();
    let model = atlas.model(None).unwrap();
    assert_eq!(model.shape(), SHAPE);
    let rows = &atlas.method(model, "lape").unwrap().neurons;
    assert_eq!(rows.len(), 17);
    for row in rows {
        let at = LANGUAGES.iter().position(|code| *code == row.language.to_string()).unwrap();
        let (Profile { tally, .. }, place) = (profile(at), SHAPE.flat(row.id()));
        let active: u64 = tally.active.iter().map(|fold| fold[place]).sum();
        let routed: u64 = tally.routed.iter().map(|fold| fold[SHAPE.ffn_of(place)]).sum();
        assert_eq!(row.probability, Some((active as f64 / routed as f64) as f32), "{row:?}");
        assert_eq!(row.mean_activation, Some((tally.sum[place] / routed as f64) as f32), "{row:?}");
        assert!(row.probability.unwrap() > 0.8, "{row:?}");
    }
    // Urdu's tokens never reach expert 3 of layer 1.
    assert!(!rows.iter().any(|row| (row.language.to_string().as_str(), row.layer, row.expert) == ("urd_Arab", 1, 3)));
    let files: Vec<String> = atlas.manifest.files.iter().map(|file| file.path.clone()).collect();
    assert!(files.contains(&"data/routed/owner__model/part-00000.parquet".to_owned()), "{files:?}");
    let routed = atlas.path().join("data/routed/owner__model/part-00000.parquet");
    let table = RoutedTable::read(&routed, SHAPE, 2).unwrap();
    for (at, language) in LANGUAGES.iter().enumerate() {
        assert_eq!(table.of(language), Some(&profile(at).tally.routed));
    }
}

#[test]
fn a_whole_atlas_with_experts_is_found_whole_and_a_wrong_number_of_routed_tokens_is_found() {
    let sandbox = sandbox();
    assert!(atlas::verify(&sandbox.path("atlas")).unwrap().iter().all(|check| check.problem.is_none()));
    let part = "data/routed/owner__model/part-00000.parquet";
    let head = head(SHAPE);
    let layout = TableLayout {
        run: head.run.clone(),
        tokens: 128,
        folds: 2,
        experts: true,
        further: vec![("neuroglot.run".to_owned(), head.run)],
        group_rows: 50_000,
    };
    let rewritten = |change: &dyn Fn(&mut Vec<Vec<u64>>)| {
        let languages = (0..4).map(|at| {
            let mut routed = profile(at).tally.routed;
            change(&mut routed);
            Ok((LANGUAGES[at].parse::<LanguageCode>().unwrap(), routed))
        });
        write_routed(&sandbox.path("atlas").join(part), &layout, SHAPE, languages).unwrap();
        let bytes = sandbox.read(&format!("atlas/{part}"));
        sandbox.json("atlas/manifest.json", |manifest| {
            let files = manifest["files"].as_array_mut().unwrap();
            let file = files.iter_mut().find(|file| file["path"] == part).unwrap();
            file["bytes"] = bytes.len().into();
            file["sha256"] = output::sha256(&bytes).into();
        });
        let checks = atlas::verify(&sandbox.path("atlas")).unwrap();
        checks.into_iter().filter_map(|check| check.problem).collect::<Vec<_>>()
    };
    assert_eq!(rewritten(&|_| {}), [""; 0]);
    let fewer = rewritten(&|routed| routed[1][2] = 1);
    assert_eq!(fewer, ["cym_Latn: a neuron is active in more tokens than were run or routed to its expert"]);
    let more = rewritten(&|routed| routed[1][2] = 201);
    assert_eq!(more, ["cym_Latn: more tokens are routed to an expert than were run"]);
}

#[test]
fn a_profile_that_lost_or_contradicts_its_routed_tokens_is_refused_by_name() {
    let sandbox = sandbox();
    sandbox.remove("whole/routed/mlt_Latn.parquet");
    assert_snapshot!(sandbox.run("identify whole --out again").text(), @r"
    exit code 1
    error: whole/routed/mlt_Latn.parquet: is not there, but the model has experts; delete counts/mlt_Latn.parquet and profile again
    ");
    let mut broken = profile(2);
    broken.tally.routed[0][5] = 3;
    ProfileFolder::open(&sandbox.path("whole")).unwrap().write(&broken).unwrap();
    assert_snapshot!(sandbox.run("identify whole --out again").text(), @r"
    exit code 1
    error: mlt_Latn: the sum over folds: layer 1 expert 1 neuron 2 fired at 176 of 83 tokens
    ");
}

#[test]
fn masks_with_experts_say_the_same_in_every_format_that_has_a_place_for_them() {
    let sandbox = sandbox();
    for format in ["safetensors", "json", "parquet"] {
        sandbox.run(&format!("mask atlas --language mlt --format {format} --out m.{format}")).done();
    }
    assert_snapshot!(sandbox.run("mask atlas --language mlt --format pth --out m.pth").text(), @r"
    exit code 1
    error: a pth mask lists the neurons of each layer, as published code reads them, and has no place for experts (the model has 2 layers × 4 experts × 12 neurons); choose safetensors, json or parquet
    ");
    assert!(!sandbox.path("m.pth").exists());
    let rows = NeuronRow::read(&sandbox.path("m.parquet")).unwrap();
    let wanted: BTreeSet<NeuronId> = rows.iter().map(NeuronRow::id).collect();
    assert!(wanted.iter().any(|neuron| neuron.expert > 0));
    let sets = MaskSet::read(&sandbox.path("m.safetensors"), SHAPE).unwrap();
    assert_eq!(sets[&"mlt_Latn".parse().unwrap()].iter().collect::<BTreeSet<_>>(), wanted);
    let json: Value = serde_json::from_slice(&sandbox.read("m.json")).unwrap();
    let lists: Vec<Vec<Vec<usize>>> = serde_json::from_value(json["languages"]["mlt_Latn"].clone()).unwrap();
    assert_eq!((lists.len(), lists[0].len()), (2, 4));
    let mut found = BTreeSet::new();
    for (layer, experts) in lists.iter().enumerate() {
        for (expert, indices) in experts.iter().enumerate() {
            found.extend(indices.iter().map(|&index| NeuronId { layer, expert, index }));
        }
    }
    assert_eq!(found, wanted);
    let bits = "bit j of byte i (least significant first) is n = 8*i+j: expert n // width, neuron n % width";
    assert_eq!(json["metadata"]["bits"], bits);
    assert_eq!((&json["metadata"]["experts"], &json["metadata"]["width"]), (&"4".into(), &"12".into()));
    // Four experts of 12 neurons are 48 bits a layer; bit n = 26 is neuron 2 of expert 2.
    let file = sandbox.read("m.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let bits = tensors.tensor("mlt_Latn").unwrap();
    assert_eq!(bits.shape(), [2, 6]);
    let bit = |n: usize| bits.data()[n / 8] >> (n % 8) & 1 == 1;
    assert!((0..48).all(|n| bit(n) == wanted.contains(&SHAPE.neuron(n))));
}

#[test]
fn the_website_of_a_model_with_experts_names_them() {
    let sandbox = sandbox();
    sandbox.run("site atlas --out site").done();
    let read = |name: &str| String::from_utf8(sandbox.read(&format!("site/owner__model/{name}"))).unwrap();
    let (page, json): (String, Value) = (read("mlt_Latn.html"), serde_json::from_str(&read("mlt_Latn.json")).unwrap());
    let atlas = Atlas::open(&sandbox.path("atlas")).unwrap();
    let rows = atlas.method(atlas.model(None).unwrap(), "lape").unwrap().of("mlt_Latn".parse().unwrap());
    for row in rows {
        let (layer, expert, neuron) = (row.layer, row.expert, row.neuron);
        assert!(page.contains(&format!(">L{layer}·E{expert}·N{neuron}<")));
        assert!(page.contains(&format!("id=\"n-{layer}-{expert}-{neuron}\"")));
        assert!(page.contains(&format!("data-v=\"{}\"", layer * 1_000_000 + expert * 12 + neuron)));
    }
    assert_eq!(json["map"]["width"], 48);
    let files: Vec<&str> =
        json["downloads"].as_array().unwrap().iter().map(|file| file["format"].as_str().unwrap()).collect();
    assert_eq!(files, ["safetensors", "JSON", "Parquet"], "pth has no place for experts");
    assert!(page.contains("List the neurons in Python") && !page.contains("gate_proj"));
    assert!(read("method.html").contains("routed to its expert</mtext>"));
    assert!(read("index.html").contains("Each layer has 4 experts"));
    let card = String::from_utf8(sandbox.read("atlas/README.md")).unwrap();
    assert!(
        card.contains("2 layers of 4 experts of 12 neurons.") && card.contains("data/routed/**/*.parquet"),
        "{card}"
    );
}

#[test]
fn datasets_pandas_polars_duckdb_and_safetensors_read_an_atlas_of_a_dense_model_and_one_with_experts() {
    let sandbox = Sandbox::new();
    sandbox.profile(&[("--folds", "2")]).done();
    sandbox.run("identify out --out atlas --top-rate 0.1 --resamples 20").done();
    write(&sandbox, "whole", 0..4);
    sandbox.run("identify whole --out atlas --top-rate 0.1 --resamples 20").done();
    sandbox.run("verify atlas").done();
    assert_eq!(Atlas::open(&sandbox.path("atlas")).unwrap().models.len(), 2);
    sandbox.run("site atlas --out site").done();
    read_atlas(&[&sandbox.path("atlas")]);
}

// Files of a time before there were experts.

const BEFORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/version-1.0");

#[test]
fn an_atlas_and_a_profile_of_version_1_0_are_read() {
    let atlas = Path::new(BEFORE).join("atlas");
    let wrong: Vec<_> = atlas::verify(&atlas).unwrap().into_iter().filter(|check| check.problem.is_some()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let old = Atlas::open(&atlas).unwrap();
    assert_eq!(old.model(None).unwrap().shape(), FfnShape::dense(2, 48));
    let sandbox = Sandbox::empty();
    let (profile, atlas) = (Path::new(BEFORE).join("profile"), atlas.display().to_string());
    let identify = format!("identify {} --out again --top-rate 0.1 --resamples 20", profile.display());
    sandbox.run(&identify).done();
    let (new, model) = (Atlas::open(&sandbox.path("again")).unwrap(), old.model(None).unwrap());
    let ids = |atlas: &Atlas| -> Vec<(LanguageCode, NeuronId)> {
        atlas.method(model, "lape").unwrap().neurons.iter().map(|row| (row.language, row.id())).collect()
    };
    assert_eq!(ids(&new), ids(&old));
    sandbox.run(&format!("mask {atlas} --language mlt --out m.safetensors")).done();
    sandbox.run(&format!("site {atlas} --out site")).done();
}

#[test]
fn a_dense_profile_has_no_trace_of_experts() {
    let sandbox = Sandbox::new();
    sandbox.profile(&[]).done();
    assert!(!sandbox.files("out").iter().any(|file| file.contains("routed")));
    let head = String::from_utf8(sandbox.read("out/profile.json")).unwrap();
    let before = fs::read_to_string(Path::new(BEFORE).join("profile/profile.json")).unwrap();
    assert!(!head.contains("expert"));
    let keys =
        |json: &str| json.lines().filter_map(|line| Some(line.split_once("\": ")?.0.to_owned())).collect::<Vec<_>>();
    assert_eq!(keys(&head), keys(&before));
    let columns = |path: &Path| -> Vec<String> {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
        let schema = reader.metadata().file_metadata();
        let pairs = schema.key_value_metadata().unwrap().iter().map(|pair| pair.key.clone());
        schema.schema_descr().columns().iter().map(|column| column.name().to_owned()).chain(pairs).collect()
    };
    let file = "counts/mlt_Latn.parquet";
    assert_eq!(columns(&sandbox.path("out").join(file)), columns(&Path::new(BEFORE).join("profile").join(file)));
}
