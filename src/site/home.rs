//! The first page of a model: what this is, and all languages in one table.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Home, Page, Site, family_key, family_keys, joined, view::View, words};
use crate::{atlas::LanguageRow, language::Registry};

pub fn page(site: &Site, view: &View, place: Home) -> Page {
    let (root, path) = match place {
        Home::Site => ("", "index.html".to_owned()),
        Home::Model => ("../", format!("{}/index.html", view.folder)),
    };
    let base = if place == Home::Site { format!("{}/", view.folder) } else { String::new() };
    let model = words::isolated(&view.model.id);
    let description = format!(
        "Which feed-forward neurons of {model} serve each of {} languages: a table, a map per language, and the numbers behind them.",
        view.languages.len()
    );
    let common = site.common(view, "home", root, &format!("Language neurons of {model}"), &description);
    Page { path, template: "home.html", data: joined(common, own(view, &base)) }
}

fn own(view: &View, base: &str) -> Value {
    let keys = family_keys(view);
    let small = if view.result.rates.len() > 1 { view.result.rates.first() } else { None };
    let rate = view.rate().map_or_else(String::new, |rate| words::percent(rate.rate));
    let model = words::isolated(&view.model.id);
    let others: usize = keys.iter().filter(|(key, _, _)| key == "other").map(|(_, _, size)| size).sum();
    let mut legend: Vec<Value> = keys
        .iter()
        .filter(|(key, _, _)| key != "other")
        .map(|(key, name, size)| json!({ "key": key, "name": name, "count": size }))
        .collect();
    if others > 0 {
        legend.push(json!({ "key": "other", "name": "Other families", "count": others }));
    }
    let tokens: u64 =
        view.languages.iter().filter_map(|language| view.coverage(language.code)).map(|row| row.tokens).sum();
    json!({
        "heading": format!("{} languages, neuron by neuron", view.languages.len()),
        "intro": format!(
            "For each of {} languages, this atlas shows which feed-forward neurons of {model} fire for that language and for few \
             others. Choose a language to see its neurons on a map, the languages it shares them with, and how far the numbers can be \
             trusted.",
            view.languages.len()
        ),
        "totals": {
            "languages_text": view.languages.len().to_string(),
            "families_text": keys.len().to_string(),
            "selected_text": words::thousands(view.neurons.len() as u64),
            "tokens_text": words::thousands(tokens),
            "corpus": view.profile.and_then(|run| run.corpus.clone()).unwrap_or_default(),
        },
        "notes": view.atlas.manifest.remarks.iter().chain(&view.result.notes).cloned().chain(routing(view)).chain([
            "A neuron that fires for a language need not cause anything: this atlas shows where activity is, not what would happen \
             without it.".to_owned(),
        ]).collect::<Vec<_>>(),
        "rates": view.result.rates.iter().rev().map(|rate| {
            let served: BTreeSet<_> = view.tables.neurons.iter().filter(|row| rate.includes(row.rank)).map(|row| row.language).collect();
            json!({
                "label": words::percent(rate.rate),
                "neurons_text": words::thousands(rate.selected as u64),
                "languages_with_neurons_text": format!("{} of {}", served.len(), view.languages.len()),
                "default": Some(rate) == view.rate(),
            })
        }).collect::<Vec<_>>(),
        "examples": examples(view, base),
        "overview": overview(view),
        "languages": view.languages.iter().map(|language| row(view, language, base, &keys)).collect::<Vec<_>>(),
        "small_label": small.map(|rate| words::percent(rate.rate)),
        "languages_caption": format!(
            "Neurons of {model} that serve each language, at the {rate} rate. The small bars run from the first layer (left) to the \
             last (right); depth is their mean place, from 0 (first layer) to 1 (last); stability is how often a neuron is chosen again \
             when the text is resampled."
        ),
        "family_legend": legend,
    })
}

/// What a reader should know of a model with experts.
fn routing(view: &View) -> Option<String> {
    let experts = view.model.experts;
    view.model.shape().is_routed().then(|| {
        format!(
            "Each layer has {experts} experts, and a router sends every token to a few of them: a neuron's probability counts only the \
             tokens that its expert gets."
        )
    })
}

/// Neurons of all languages together, by layer.
fn overview(view: &View) -> Value {
    if view.neurons.is_empty() {
        return Value::Null;
    }
    let layers = view.model.layers;
    let mut counts = vec![0usize; layers];
    view.neurons.keys().for_each(|id| counts[id.layer] += 1);
    let total = view.neurons.len();
    // The last quarter, rounded up: of 6 layers the last 2.
    let quarter = layers.div_ceil(4);
    let late: usize = counts[layers - quarter..].iter().sum();
    let share = |count: usize| words::percent(count as f64 / total as f64);
    json!({
        "caption": format!(
            "{} of the {} selected neurons lie in the last {} of {layers} layers.",
            share(late),
            words::thousands(total as u64),
            if quarter == 1 { "one".to_owned() } else { quarter.to_string() }
        ),
        "axis_max": counts.iter().max(),
        "rows": counts.iter().enumerate().map(|(layer, &count)| json!({
            "layer": layer, "count": count, "count_text": words::thousands(count as u64), "share_text": share(count),
        })).collect::<Vec<_>>(),
    })
}

fn row(view: &View, language: &LanguageRow, base: &str, keys: &[(String, String, usize)]) -> Value {
    let rows = view.tables.of(language.code);
    let specific = rows.iter().filter(|row| row.languages == 1).count();
    let spark = view.per_layer(language.code);
    let depth = depth(view, language);
    let stability = view.stability(language.code).and_then(|row| row.mean_selection_freq);
    let small = if view.result.rates.len() > 1 { view.result.rates.first() } else { None };
    let tokens = view.coverage(language.code).map_or(0, |row| row.tokens);
    let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    json!({
        "code": language.code,
        "href": format!("{base}{}.html", language.code),
        "name": language.name,
        "autonym": language.autonym.as_ref().unwrap_or(&language.name),
        "bcp47": language.bcp47,
        "direction": language.direction,
        "script": language.code.script(),
        "script_name": words::script(language.code.script()),
        "family": language.family,
        "family_key": family_key(keys, &language.family),
        "subfamily": language.subfamily,
        "area": language.area,
        "total": rows.len(),
        "specific": specific,
        "shared": rows.len() - specific,
        "small": small.map(|rate| rows.iter().filter(|row| rate.includes(row.rank)).count()),
        "depth": depth,
        "depth_text": text(depth),
        "stability": stability,
        "stability_text": text(stability),
        "tokens": tokens,
        "tokens_text": words::thousands(tokens),
        "spark_max": spark.iter().copied().max().unwrap_or(0),
        "spark": spark,
        "search": search(language),
    })
}

/// Mean place of a language's neurons, from 0 in the first layer to 1 in the last.
fn depth(view: &View, language: &LanguageRow) -> Option<f64> {
    let rows = view.tables.of(language.code);
    let last = view.model.layers.saturating_sub(1).max(1) as f64;
    (!rows.is_empty()).then(|| rows.iter().map(|row| row.layer as f64 / last).sum::<f64>() / rows.len() as f64)
}

/// Every spelling that the search field finds a language by.
fn search(language: &LanguageRow) -> String {
    let mut words: Vec<String> =
        vec![language.name.clone(), language.code.to_string(), language.code.iso639_3().to_owned()];
    words.extend(language.autonym.clone());
    words.extend(language.iso639_1.clone());
    words.push(language.bcp47.clone());
    words.extend(language.glottocode.clone());
    words.push(words::script(language.code.script()).to_owned());
    words.push(language.family.clone());
    words.extend(language.subfamily.clone());
    words.extend(Registry::builtin().get(language.code).map(|known| known.aliases.clone()).unwrap_or_default());
    let mut seen = BTreeSet::new();
    words.retain(|word| seen.insert(word.to_lowercase()));
    words.join(" ").to_lowercase()
}

/// Six languages to begin with, each of another script: those with the most neurons.
fn examples(view: &View, base: &str) -> Vec<Value> {
    let mut languages = view.languages.clone();
    languages.sort_by_key(|language| (std::cmp::Reverse(view.tables.of(language.code).len()), language.code));
    let mut scripts = BTreeSet::new();
    languages.retain(|language| {
        !view.tables.of(language.code).is_empty() && scripts.insert(language.code.script().to_owned())
    });
    let card = |language: &&LanguageRow| {
        let rows = view.tables.of(language.code);
        let own = rows.iter().filter(|row| row.languages == 1).count();
        json!({
            "href": format!("{base}{}.html", language.code),
            "name": language.name,
            "autonym": language.autonym.as_ref().unwrap_or(&language.name),
            "bcp47": language.bcp47,
            "direction": language.direction,
            "sentence": format!("{}, {own} of them for this language alone", words::count(rows.len(), "neuron")),
        })
    };
    languages.iter().take(6).map(card).collect()
}
