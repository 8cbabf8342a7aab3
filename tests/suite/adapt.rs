//! Laws of adaptation that hold for every method and every family.

use std::{collections::BTreeMap, path::Path as FilePath};

use candle_core::{DType, Device, Tensor, Var};
use neuroglot::{
    adapt::{self, Adaptation, Choice, DeltaHead, METHODS, Method, Trainable},
    identify::Matching,
    model::{Activations, Decoder, Path, Projection, Site, UNSCORED, Unobserved},
    neuron::NeuronId,
};
use tempfile::TempDir;

use crate::{
    adapt_bench::{Bench, dense, disturb, each, folder, relative, targets},
    tensors::{floats, largest_difference},
};

#[test]
fn the_gradients_of_every_weight_are_those_of_the_operators_with_gradients() {
    each(&dense(), |bench| {
        let mut vars: BTreeMap<String, Var> = BTreeMap::new();
        let plain = Decoder::build(&bench.architecture, Path::Differentiable, |name| {
            let var = Var::from_tensor(&bench.checkpoint.tensor(name, DType::F32, &Device::Cpu)?)?;
            vars.insert(name.to_owned(), var.clone());
            Ok(var.into_inner())
        })
        .unwrap();
        let wanted = plain.nll(&bench.ids).unwrap().mean_all().unwrap();
        let gradients = wanted.backward().unwrap();
        let (_, trainable) = bench.open(Method::named("full").unwrap());
        for activations in [Activations::Kept, Activations::Recomputed] {
            let (loss, found) =
                trainable.decoder.gradients(&bench.ids, &bench.targets(), &trainable.vars(), activations).unwrap();
            let wanted: f32 = wanted.to_scalar().unwrap();
            if (loss - f64::from(wanted)).abs() > 1e-5 {
                return Err(format!("the loss is {loss}, and {wanted} by the other path"));
            }
            for (parameter, found) in trainable.parameters.iter().zip(found) {
                let found = found.ok_or_else(|| format!("{} has no gradient", parameter.name))?;
                let wanted = gradients.get(&vars[&parameter.name]).unwrap();
                // Where nothing turns queries and keys, the gradient of a key's bias is zero but for rounding.
                let difference = floats(&(&found - wanted).unwrap()).iter().map(|x| x * x).sum::<f64>().sqrt();
                let size = floats(wanted).iter().map(|x| x * x).sum::<f64>().sqrt();
                if difference > 2e-5 * size + 1e-7 {
                    return Err(format!(
                        "{activations:?}: the gradient of {} differs by {difference:e}",
                        parameter.name
                    ));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_frozen_model_gives_its_input_the_gradient_that_it_should_have() {
    // Only the first layer trains: its gradient comes through every kernel above it.
    each(&dense(), |bench| {
        let first = bench.architecture.place(Site { layer: 0, projection: Projection::Gate }).unwrap();
        let name = format!("{}.weight", first.stem);
        let build = |path: Path| {
            let mut own: Option<Var> = None;
            let decoder = {
                let weight = |asked: &str| {
                    let tensor = bench.checkpoint.tensor(asked, DType::F32, &Device::Cpu)?;
                    if asked != name {
                        return Ok(tensor);
                    }
                    let var = Var::from_tensor(&tensor)?;
                    own = Some(var.clone());
                    Ok(var.into_inner())
                };
                match path {
                    Path::Training => Decoder::trained(&bench.architecture, weight, |_, _| Ok(None)).unwrap(),
                    path => Decoder::build(&bench.architecture, path, weight).unwrap(),
                }
            };
            (decoder, own.unwrap())
        };
        let ((plain, plain_var), (trained, var)) = (build(Path::Differentiable), build(Path::Training));
        let gradients = plain.nll(&bench.ids).unwrap().mean_all().unwrap().backward().unwrap();
        let wanted = gradients.get(&plain_var).unwrap();
        for activations in [Activations::Kept, Activations::Recomputed] {
            let (_, found) =
                trained.gradients(&bench.ids, &bench.targets(), std::slice::from_ref(&var), activations).unwrap();
            let error = relative(found[0].as_ref().unwrap(), wanted);
            if error > 2e-5 {
                return Err(format!("{activations:?}: the gradient differs by {error:e}"));
            }
        }
        let (a, b) = (
            trained.logits(&bench.ids, &mut Unobserved).unwrap().detach(),
            bench.base().logits(&bench.ids, &mut Unobserved).unwrap(),
        );
        let difference = largest_difference(&a, &b);
        if difference < 1e-4 { Ok(()) } else { Err(format!("logits differ by {difference}")) }
    });
}

#[test]
fn what_is_not_scored_changes_neither_loss_nor_gradient() {
    let bench = Bench::new(&folder("tiny-llama/scaled"));
    let (_, trainable) = bench.open(Method::named("subnetwork").unwrap());
    let (batch, seq) = bench.ids.dims2().unwrap();
    let half = seq / 2;
    let mut short = bench.ids.narrow(1, 0, half).unwrap().contiguous().unwrap();
    let (wanted, gradients) =
        trainable.decoder.gradients(&short, &targets(&short), &trainable.vars(), Activations::Kept).unwrap();
    // The same windows filled up with other tokens.
    let filling = Tensor::zeros((batch, seq - half), DType::U32, &Device::Cpu).unwrap();
    let own = targets(&short);
    short = Tensor::cat(&[&short, &filling], 1).unwrap();
    let padded: Vec<u32> = own
        .chunks(half)
        .flat_map(|window| window.iter().copied().chain(std::iter::repeat_n(UNSCORED, seq - half)))
        .collect();
    let (loss, found) = trainable.decoder.gradients(&short, &padded, &trainable.vars(), Activations::Kept).unwrap();
    assert!((loss - wanted).abs() < 1e-6, "{loss} {wanted}");
    for (found, wanted) in found.iter().zip(&gradients) {
        assert!(relative(found.as_ref().unwrap(), wanted.as_ref().unwrap()) < 1e-5);
    }
    let (nll, scored) = trainable.decoder.scored_nll(&short, &padded).unwrap();
    assert_eq!(scored, batch * (half - 1));
    assert!((nll / scored as f64 - wanted).abs() < 1e-6);
}

#[test]
fn a_target_that_the_model_has_no_logit_for_is_refused() {
    let bench = Bench::new(&folder("tiny-llama/scaled"));
    let (_, trainable) = bench.open(Method::named("subnetwork").unwrap());
    let mut targets = bench.targets();
    targets[3] = 99_999;
    let pass = trainable.decoder.gradients(&bench.ids, &targets, &trainable.vars(), Activations::Kept);
    let error = pass.expect_err("there is no such id").to_string();
    assert!(error.contains("99999") && error.contains("logits"), "{error}");
}

/// Every method on every family that it fits.
fn laws(check: impl Fn(&Bench, &Method) -> Result<(), String>) {
    each(&dense(), |bench| {
        for method in METHODS {
            check(bench, method).map_err(|why| format!("{}: {why}", method.name))?;
        }
        Ok(())
    });
}

#[test]
fn a_fresh_adaptation_is_the_identity() {
    laws(|bench, method| {
        let (_, trainable) = bench.open(method);
        let found = trainable.decoder.logits(&bench.ids, &mut Unobserved).unwrap().detach();
        let frozen = Decoder::trained(
            &bench.architecture,
            |name| bench.checkpoint.tensor(name, DType::F32, &Device::Cpu),
            |_, _| Ok(None),
        )
        .unwrap();
        let wanted = frozen.logits(&bench.ids, &mut Unobserved).unwrap();
        // Whole tensors go through other products than frozen ones.
        let limit = if trainable.tensors.is_empty() { f32::MIN_POSITIVE } else { 5e-5 };
        let difference = largest_difference(&found, &wanted);
        if difference < limit { Ok(()) } else { Err(format!("logits differ by {difference}")) }
    });
}

#[test]
fn gradients_reach_every_trained_value_and_the_plan_knows_their_number() {
    laws(|bench, method| {
        let (adaptation, trainable) = bench.open(method);
        let cost = adapt::cost(
            &*adaptation,
            &bench.architecture,
            DType::F32,
            Activations::Kept,
            [1, 1, bench.ids.dim(1).unwrap()],
            1,
        );
        if cost.trained != trainable.size() {
            return Err(format!("{} values were announced and {} train", cost.trained, trainable.size()));
        }
        // LoRA's A has no gradient while B is zero.
        disturb(&trainable);
        let (_, found) = trainable
            .decoder
            .gradients(&bench.ids, &bench.targets(), &trainable.vars(), Activations::Recomputed)
            .unwrap();
        for (parameter, found) in trainable.parameters.iter().zip(found) {
            let found = found.ok_or_else(|| format!("{} has no gradient", parameter.name))?;
            if floats(&found).iter().all(|&g| g == 0.0) {
                return Err(format!("the gradient of {} is zero", parameter.name));
            }
        }
        Ok(())
    });
}

/// A delta of what a trainable has become.
fn delta_of(bench: &Bench, adaptation: &dyn Adaptation, trainable: &Trainable, method: &str, place: &FilePath) {
    let head = DeltaHead {
        base: "neuroglot/tiny".to_owned(),
        revision: None,
        language: "mlt_Latn".parse().unwrap(),
        method: method.to_owned(),
        run: "0".repeat(16),
        trained: trainable.size(),
        parameters: bench.architecture.parameters(),
        corpus: "dir:text".to_owned(),
        tokens: 0,
        atlas: None,
    };
    adapt::write_delta(place, &head, trainable, adaptation.neurons(), &bench.checkpoint, &bench.architecture).unwrap();
}

#[test]
fn patched_and_merged_weights_give_the_same() {
    laws(|bench, method| {
        let (_, trainable) = bench.open(method);
        disturb(&trainable);
        let wanted = trainable.decoder.logits(&bench.ids, &mut Unobserved).unwrap().detach();
        let merged = Decoder::build(&bench.architecture, Path::Differentiable, |name| {
            if let Some((_, var)) = trainable.tensors.iter().find(|(own, _)| own == name) {
                return Ok(var.as_tensor().clone());
            }
            let mut tensor = bench.checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
            for (site, patch) in &trainable.patches {
                let place = bench.architecture.place(*site).unwrap();
                if name == format!("{}.weight", place.stem) {
                    tensor = place.cut.put(&tensor, &patch.merge(&place.cut.of(&tensor)?)?)?;
                } else if name == format!("{}.bias", place.stem) {
                    tensor = place.cut.put_bias(&tensor, &patch.merge_bias(&place.cut.of_bias(&tensor)?)?)?;
                }
            }
            Ok(tensor)
        })
        .unwrap();
        let error = relative(&merged.logits(&bench.ids, &mut Unobserved).unwrap(), &wanted);
        if error < 1e-5 { Ok(()) } else { Err(format!("logits differ by {error:e} of their size")) }
    });
}

#[test]
fn a_delta_gives_what_the_patches_give_and_touches_nothing_else() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("delta.safetensors");
    laws(|bench, method| {
        let (adaptation, trainable) = bench.open(method);
        disturb(&trainable);
        let wanted = trainable.decoder.logits(&bench.ids, &mut Unobserved).unwrap().detach();
        delta_of(bench, &*adaptation, &trainable, method.name, &place);
        let delta = adapt::Delta::open(&place, &bench.checkpoint).map_err(|error| error.to_string())?;
        let touched: Vec<&str> = delta.tensors().collect();
        let own = Decoder::build(&bench.architecture, Path::Differentiable, |name| {
            let tensor = delta.tensor(&bench.checkpoint, name, DType::F32, &Device::Cpu)?;
            let base = bench.checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
            let same = largest_difference(&tensor, &base) == 0.0;
            assert!(same != touched.contains(&name), "{name} {} changed", if same { "has not" } else { "has" });
            Ok(tensor)
        })
        .unwrap();
        let found = own.logits(&bench.ids, &mut Unobserved).unwrap();
        // A delta is in the base's number format.
        let limit = if bench.checkpoint.stored_dtype() == "F32" { 1e-5 } else { 2e-2 };
        let error = relative(&found, &wanted);
        if error > limit {
            return Err(format!("logits differ by {error:e} of their size"));
        }
        let changes = adapt::changes(&delta, &bench.checkpoint, &bench.architecture).unwrap();
        if changes.iter().any(|change| change.relative <= 0.0 || change.mean <= 0.0) {
            return Err("a part that was moved is said not to have changed".to_owned());
        }
        Ok(())
    });
}

#[test]
fn a_delta_trains_neurons_and_leaves_the_others_to_the_bit() {
    let bench = Bench::new(&folder("families/phi3-short"));
    let (adaptation, trainable) = bench.open(Method::named("subnetwork").unwrap());
    disturb(&trainable);
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("delta.safetensors");
    delta_of(&bench, &*adaptation, &trainable, "subnetwork", &place);
    let delta = adapt::Delta::open(&place, &bench.checkpoint).unwrap();
    let shape = bench.architecture.spec.ffn;
    for layer in 0..shape.layers {
        for projection in [Projection::Gate, Projection::Up, Projection::Down] {
            let own = bench.architecture.place(Site { layer, projection }).unwrap();
            let name = format!("{}.weight", own.stem);
            let rows = |tensor: Tensor| {
                let tensor = own.cut.of(&tensor).unwrap();
                let tensor = if projection == Projection::Down { tensor.t().unwrap() } else { tensor };
                tensor.to_vec2::<f32>().unwrap()
            };
            let before = rows(bench.checkpoint.tensor(&name, DType::F32, &Device::Cpu).unwrap());
            let after = rows(delta.tensor(&bench.checkpoint, &name, DType::F32, &Device::Cpu).unwrap());
            for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                let trains = bench.neurons.contains(NeuronId::dense(layer, index));
                assert_eq!(before != after, trains, "{projection:?} {layer}.{index}");
            }
        }
    }
}

#[test]
fn what_lora_drops_is_the_same_when_a_layer_is_recomputed() {
    let bench = Bench::new(&folder("tiny-llama/scaled"));
    let choice = Choice { dropout: 0.5, ..bench.choice() };
    let adaptation = Method::named("lora").unwrap().open(&choice).unwrap();
    let trainable =
        Trainable::load(&bench.checkpoint, &bench.architecture, &*adaptation, DType::F32, &Device::Cpu).unwrap();
    disturb(&trainable);
    let pass = |seed: Option<u64>, activations| {
        trainable.seed(seed);
        trainable.decoder.gradients(&bench.ids, &bench.targets(), &trainable.vars(), activations).unwrap()
    };
    let (kept, recomputed) = (pass(Some(3), Activations::Kept), pass(Some(3), Activations::Recomputed));
    assert_eq!(kept.0.to_bits(), recomputed.0.to_bits());
    for (a, b) in kept.1.iter().zip(&recomputed.1) {
        assert!(largest_difference(a.as_ref().unwrap(), b.as_ref().unwrap()) <= 0.0);
    }
    let loss = |seed| pass(seed, Activations::Kept).0.to_bits();
    assert_ne!(kept.0.to_bits(), loss(Some(4)), "another seed drops others");
    assert_eq!(loss(None), loss(None));
    assert_ne!(kept.0.to_bits(), loss(None), "validation drops nothing");
}

#[test]
fn in_bf16_the_gradients_are_near_those_in_f32() {
    for place in ["tiny-llama/scaled", "families/gpt2", "families/gemma2"] {
        let bench = Bench::new(&folder(place));
        let load = |dtype| {
            let adaptation = Method::named("subnetwork").unwrap().open(&bench.choice()).unwrap();
            Trainable::load(&bench.checkpoint, &bench.architecture, &*adaptation, dtype, &Device::Cpu).unwrap()
        };
        let (wide, narrow) = (load(DType::F32), load(DType::BF16));
        let pass = |trainable: &Trainable| {
            trainable.decoder.gradients(&bench.ids, &bench.targets(), &trainable.vars(), Activations::Kept).unwrap()
        };
        let ((loss, wanted), (rounded, found)) = (pass(&wide), pass(&narrow));
        assert!((loss - rounded).abs() < 0.02 * loss, "{place}: {loss} {rounded}");
        for ((parameter, found), wanted) in wide.parameters.iter().zip(found).zip(wanted) {
            let error = relative(&found.unwrap(), &wanted.unwrap());
            assert!(error < 0.1, "{place}: {} differs by {error}", parameter.name);
        }
    }
}

#[test]
fn a_random_control_matches_and_avoids_the_language() {
    let bench = Bench::new(&folder("tiny-llama/scaled"));
    let neurons = |matching, seed| {
        let choice = Choice { matching, seed, ..bench.choice() };
        Method::named("random").unwrap().open(&choice).unwrap().neurons().unwrap().clone()
    };
    let (own, drawn) = (&bench.neurons, neurons(Matching::PerLayer, 1));
    for layer in 0..own.shape().layers {
        assert_eq!(drawn.layer(layer).len(), own.layer(layer).len());
        assert_eq!(own.shared(&drawn, layer), 0);
    }
    assert_eq!(neurons(Matching::Overall, 1).len(), own.len());
    assert_eq!(drawn, neurons(Matching::PerLayer, 1));
    assert_ne!(drawn, neurons(Matching::PerLayer, 2));
    let last = Method::named("last-layers").unwrap().open(&bench.choice()).unwrap();
    let last = last.neurons().unwrap();
    assert_eq!(last.len(), own.len());
    assert!(last.layer(own.shape().layers - 1).len() >= last.layer(0).len());
}
