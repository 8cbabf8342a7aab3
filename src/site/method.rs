//! How to read the maps, with this atlas' own numbers.

use serde_json::json;

use super::{Page, Site, joined, view::View, words};

pub fn page(site: &Site, view: &View) -> Page {
    let (parameters, result) = (&view.parameters, &view.result);
    let bar = |bar: Option<f64>| bar.map_or_else(|| "–".to_owned(), |bar| format!("{bar:.3}"));
    let mut rates: Vec<String> = result.rates.iter().map(|rate| words::percent(rate.rate)).collect();
    rates.reverse();
    let cut = view.rate().and_then(|rate| rate.entropy_cut);
    let own = json!({ "method": {
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
    }});
    let description = "How the maps are drawn, how neurons are selected, and what the atlas does not show.";
    let common = site.common(view, "method", "../", "How to read this atlas", description);
    Page { path: format!("{}/method.html", view.folder), template: "method.html", data: joined(common, own) }
}
