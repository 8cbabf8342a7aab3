//! How to read the maps, with this atlas' own numbers.

use serde_json::{Value, json};

use super::{
    Sheet, Spot,
    figure::{self, MapRow, Marks},
    view::Band,
    words,
};

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let (parameters, result) = (&view.parameters, &view.result);
    let bar = |bar: Option<f64>| bar.map_or_else(|| "–".to_owned(), |bar| format!("{bar:.3}"));
    let mut rates: Vec<String> = result.rates.iter().map(|rate| words::percent(rate.rate)).collect();
    rates.reverse();
    let cut = view.rate().and_then(|rate| rate.entropy_cut);
    let own = json!({ "method": {
        "name": view.method,
        "neurons_text": words::thousands(view.model.shape().neurons() as u64),
        "languages_text": view.languages.len().to_string(),
        "filter_rate_text": parameters.filter_rate.map_or_else(|| "–".to_owned(), |rate| rate.to_string()),
        "activation_bar_text": parameters.activation_bar.map_or_else(|| "–".to_owned(), |rate| rate.to_string()),
        "rates_text": words::list(&rates),
        "filter_bar_text": bar(result.filter_bar),
        "activation_bar_value_text": bar(result.activation_bar),
        "entropy_cut_text": cut.map_or_else(|| "–".to_owned(), |cut| format!("{cut:.3} nats")),
        "stability_text": if parameters.resamples > 0 {
            format!("how often a neuron is chosen again in {} resamples of the text: 1 is always", parameters.resamples)
        } else {
            "not measured for this atlas".to_owned()
        },
    }, "example": example() });
    Sheet {
        template: "method.html",
        title: "How to read this atlas".to_owned(),
        description: "How the maps are drawn, how neurons are selected, and what the atlas does not show.".to_owned(),
        own,
        art: json!({}),
        figures: Vec::new(),
    }
}

/// A made-up language of eight neurons in three layers, small enough to be read mark by mark.
fn example() -> Value {
    let row = |specific: &[usize], shared: &[usize], others: &[usize]| MapRow {
        specific: specific.to_vec(),
        shared: shared.to_vec(),
        others: others.to_vec(),
    };
    let rows = [
        row(&[], &[210], &[70, 312]),
        row(&[224, 231], &[246], &[30, 100, 141, 300, 342, 384]),
        row(&[224, 258], &[156, 168], &[22, 35, 44, 73, 79, 128, 136, 180, 202, 270, 278, 289, 331, 380, 392]),
    ];
    let band = |mean, low, high| Band { mean, low, high };
    let bands = [band(0.1, 0.0, 0.2), band(0.22, 0.1, 0.35), band(0.68, 0.5, 0.85)];
    let ticks = [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")];
    json!({
        "map": { "layers": 3 },
        "counts": { "total_text": "8", "specific_text": "4", "shared_text": "4" },
        "art": figure::map_as(Marks::Pins, 420, &rows),
        "depth": { "axis_max": 1.0, "ticks": ticks.map(|(value, text)| json!({ "value": value, "text": text })) },
        "depth_art": figure::depth(&bands, Some(&[0.125, 0.375, 0.5]), 1.0),
    })
}
