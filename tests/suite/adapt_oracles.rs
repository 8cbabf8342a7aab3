//! Adaptation against PyTorch and PEFT (tests/oracles/adapt.py).

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor, Var};
use neuroglot::{
    adapt::{self, AdamW, Method, Moments, Trainable},
    model::{Activations, Site, Unobserved},
};

use crate::{
    adapt_bench::{Bench, folder, relative, targets},
    tensors::{fixture, floats, largest_difference},
};

/// One step's gradients by our own pass, clipped, and a step of AdamW.
fn step(trainable: &Trainable, ids: &Tensor, moments: &mut [Moments], number: u64, optimiser: &AdamW) -> (f64, f64) {
    let (loss, found) =
        trainable.decoder.gradients(ids, &targets(ids), &trainable.vars(), Activations::Recomputed).unwrap();
    let gradients: Vec<Tensor> = found.into_iter().map(Option::unwrap).collect();
    let norm = adapt::norm(&gradients).unwrap();
    let factor = adapt::clip(norm, 1.0);
    for ((parameter, moments), gradient) in trainable.parameters.iter().zip(moments).zip(&gradients) {
        optimiser.step(number, optimiser.rate, &parameter.var, moments, (gradient, factor), None).unwrap();
    }
    (loss, norm)
}

fn moments(trainable: &Trainable) -> Vec<Moments> {
    trainable.parameters.iter().map(|parameter| Moments::new(&parameter.var).unwrap()).collect()
}

/// The ids of one step: all of them turned on by as many.
fn turned(ids: &Tensor, vocabulary: usize, step: u32) -> Tensor {
    let values: Vec<u32> = ids.flatten_all().unwrap().to_vec1().unwrap();
    let values: Vec<u32> = values.into_iter().map(|id| (id + step) % vocabulary as u32).collect();
    Tensor::from_vec(values, ids.shape(), &Device::Cpu).unwrap()
}

const ORACLES: [(&str, &str); 4] = [
    ("llama", "tiny-llama/scaled"),
    ("phi3", "families/phi3-short"),
    ("gpt2", "families/gpt2"),
    ("qwen3", "families/qwen3-untied"),
];

#[test]
fn gradients_of_neurons_are_pytorchs_dense_gradients_gathered() {
    for (name, place) in ORACLES {
        let reference = fixture(&folder(&format!("adapt/{name}.safetensors")));
        let bench = Bench::new(&folder(place));
        let (_, trainable) = bench.open(Method::named("subnetwork").unwrap());
        let (loss, found) =
            trainable.decoder.gradients(&bench.ids, &bench.targets(), &trainable.vars(), Activations::Kept).unwrap();
        let wanted = floats(&reference["loss"])[0];
        assert!((loss - wanted).abs() < 1e-5, "{name}: {loss} {wanted}");
        for (parameter, found) in trainable.parameters.iter().zip(found) {
            let key = format!("gradient.{}", parameter.name.strip_suffix(".values").unwrap());
            let error = relative(&found.unwrap(), &reference[&key]);
            assert!(error < 1e-5, "{name}: {key} differs by {error:e}");
        }
    }
}

#[test]
fn ten_steps_are_pytorchs_ten_steps() {
    for (name, place) in ORACLES {
        let reference = fixture(&folder(&format!("adapt/{name}.safetensors")));
        let bench = Bench::new(&folder(place));
        let (_, trainable) = bench.open(Method::named("subnetwork").unwrap());
        let mut moments = moments(&trainable);
        let (losses, norms) = (floats(&reference["losses"]), floats(&reference["norms"]));
        for number in 0..losses.len() {
            let ids = turned(&bench.ids, bench.architecture.spec.vocabulary, number as u32);
            let (loss, norm) = step(&trainable, &ids, &mut moments, number as u64 + 1, &AdamW::new(1e-3));
            assert!((loss - losses[number]).abs() < 1e-4, "{name}, step {number}: {loss} {}", losses[number]);
            assert!((norm / norms[number] - 1.0).abs() < 1e-3, "{name}, step {number}: {norm} {}", norms[number]);
        }
        for parameter in &trainable.parameters {
            let key = format!("after.{}", parameter.name.strip_suffix(".values").unwrap());
            let difference = largest_difference(parameter.var.as_tensor(), &reference[&key]);
            assert!(difference < 1e-4, "{name}: {key} differs by {difference}");
        }
    }
}

/// PEFT's name of a patch's value.
fn peft_name(bench: &Bench, method: &str, site: Site, value: &str) -> String {
    let stem = bench.architecture.place(site).unwrap().stem;
    match method {
        "lora" => format!("base_model.model.{stem}.{value}.default.weight"),
        _ => format!("base_model.model.{stem}.ia3_l.default"),
    }
}

#[test]
fn lora_and_ia3_are_pefts() {
    for method in ["lora", "ia3"] {
        let reference: HashMap<String, Tensor> = fixture(&folder(&format!("adapt/{method}.safetensors")));
        let bench = Bench::new(&folder("tiny-llama/scaled"));
        let (_, trainable) = bench.open(Method::named(method).unwrap());
        let patches: Vec<(Site, Arc<dyn neuroglot::model::Patch>)> = trainable.patches.clone();
        let values = || {
            patches.iter().flat_map(|(site, patch)| patch.vars().into_iter().map(move |(name, var)| (*site, name, var)))
        };
        for (site, name, var) in values() {
            let own = &reference[&format!("before.{}", peft_name(&bench, method, site, name))];
            var.set(&own.reshape(var.shape()).unwrap()).unwrap();
        }
        let mut moments = moments(&trainable);
        for (number, wanted) in floats(&reference["losses"]).into_iter().enumerate() {
            let ids = turned(&bench.ids, bench.architecture.spec.vocabulary, number as u32);
            let (loss, _) = step(&trainable, &ids, &mut moments, number as u64 + 1, &AdamW::new(1e-2));
            assert!((loss - wanted).abs() < 1e-4, "{method}, step {number}: {loss} {wanted}");
        }
        for (site, name, var) in values() {
            let key = format!("after.{}", peft_name(&bench, method, site, name));
            let difference = largest_difference(var.as_tensor(), &reference[&key].reshape(var.shape()).unwrap());
            assert!(difference < 1e-4, "{key} differs by {difference}");
        }
        let logits = trainable.decoder.logits(&bench.ids, &mut Unobserved).unwrap().detach();
        assert!(largest_difference(&logits, &reference["logits"]) < 1e-4);
    }
}

#[test]
fn adamw_does_by_hand_what_its_formula_says() {
    // g = 0.5, lr 0.1, decay 0.01: value 1 → 0.999; mean 0.05, square 0.00025; corrected 0.5 and 0.25, so the step is 0.1 · 0.5 / 0.5.
    let number = |value: f32| Tensor::new(&[value], &Device::Cpu).unwrap();
    let stepped = |optimiser: AdamW, factor: f32, base: Option<f32>| {
        let value = Var::from_tensor(&number(1.0)).unwrap();
        let mut moments = Moments::new(&value).unwrap();
        let gradient = number(0.5 / factor);
        optimiser.step(1, 0.1, &value, &mut moments, (&gradient, factor), base.map(number).as_ref()).unwrap();
        value.to_vec1::<f32>().unwrap()[0]
    };
    for factor in [1.0, 0.25] {
        let value = stepped(AdamW::new(0.1), factor, None);
        assert!((value - 0.899).abs() < 1e-6, "{value}");
        // Towards the base 0.8: 1 − 0.001 · 0.2 = 0.9998.
        let base = AdamW { decay_to: adapt::DecayTo::Base, ..AdamW::new(0.1) };
        let value = stepped(base, factor, Some(0.8));
        assert!((value - 0.8998).abs() < 1e-6, "{value}");
    }
    // ‖(3, 4)‖ = 5 becomes 1, and what is shorter stays.
    let norm = adapt::norm(&[number(3.0), number(4.0)]).unwrap();
    assert!((norm - 5.0).abs() < 1e-9);
    assert!((adapt::clip(norm, 1.0) - 0.2).abs() < 1e-6);
    assert!((adapt::clip(0.5, 1.0) - 1.0).abs() < f32::EPSILON);
    // 10 of 110 steps of warm-up, then half a cosine or a line to zero.
    let at = |schedule: adapt::Schedule, step| schedule.factor(step, 10, 110);
    assert!((at(adapt::Schedule::Cosine, 6) - 0.5).abs() < 1e-12);
    assert!((at(adapt::Schedule::Cosine, 61) - 0.5).abs() < 1e-12);
    assert!((at(adapt::Schedule::Linear, 36) - 0.75).abs() < 1e-12);
    assert!((at(adapt::Schedule::Constant, 110) - 1.0).abs() < 1e-12);
}
