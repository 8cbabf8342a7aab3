//! The first page of a model: what this is, and all languages in one table.

use std::{collections::BTreeSet, fmt::Write};

use serde_json::{Value, json};

use super::{Sheet, Spot, figure, view::View, words};
use crate::{atlas::LanguageRow, language::Registry};

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let model = words::isolated(&view.model.id);
    let languages = view.languages.len();
    let small = if view.result.rates.len() > 1 { view.result.rates.first() } else { None };
    let rate = view.rate().map_or_else(String::new, |rate| spot.percent(rate.rate));
    let tokens: u64 =
        view.languages.iter().filter_map(|language| view.coverage(language.code)).map(|row| row.tokens).sum();
    let overview = overview(spot);
    let own = json!({
        "heading": spot.count(languages, "{n} language, neuron by neuron", "{n} languages, neuron by neuron", &[]),
        "intro": spot.count(
            languages,
            "For {n} language, this atlas shows which feed-forward neurons of {model} fire for it and for few others. Choose it to see its \
             neurons on a map, and how far the numbers can be trusted.",
            "For each of {n} languages, this atlas shows which feed-forward neurons of {model} fire for that language and for few others. \
             Choose a language to see its neurons on a map, the languages it shares them with, and how far the numbers can be trusted.",
            &[("model", &model)],
        ),
        "totals": {
            "languages": languages,
            "languages_text": spot.integer(languages),
            "families_text": spot.integer(view.families.len()),
            "selected_text": spot.integer(view.neurons.len()),
            "tokens_text": spot.locale.integer(tokens),
            "corpus": view.profile.and_then(|run| run.corpus.clone()).unwrap_or_default(),
        },
        "notes": notes(spot),
        "rates": view.result.rates.iter().rev().map(|rate| {
            let served: BTreeSet<_> = view.tables.neurons.iter().filter(|row| rate.includes(row.rank)).map(|row| row.language).collect();
            json!({
                "label": spot.percent(rate.rate),
                "neurons_text": spot.integer(rate.selected),
                "languages_with_neurons_text":
                    spot.say("{a} of {b}", &[("a", &spot.integer(served.len())), ("b", &spot.integer(languages))]),
                "default": Some(rate) == view.rate(),
            })
        }).collect::<Vec<_>>(),
        "examples": examples(spot),
        "overview": overview,
        "languages": view.languages.iter().map(|language| row(spot, language)).collect::<Vec<_>>(),
        "small_label": small.map(|rate| spot.percent(rate.rate)),
        "languages_caption": spot.say(
            "Neurons of {model} that serve each language, at the {rate} rate. The small bars run from the first layer (left) to the \
             last (right); depth is their mean place, from 0 (first layer) to 1 (last); stability is how often a neuron is chosen again \
             when the text is resampled.",
            &[("model", &model), ("rate", &rate)],
        ),
        "family_legend": legend(spot),
        "scripts": scripts(view),
    });
    let figures = if overview.is_null() || spot.top { Vec::new() } else { pictures(spot, &overview) };
    Sheet {
        template: "home.html",
        title: spot.say("Language neurons of {model}", &[("model", &model)]),
        description: spot.count(
            languages,
            "Which feed-forward neurons of {model} serve {n} language: a table, a map, and the numbers behind them.",
            "Which feed-forward neurons of {model} serve each of {n} languages: a table, a map per language, and the numbers behind them.",
            &[("model", &model)],
        ),
        own,
        art: json!({ "overview": art(view) }),
        figures,
    }
}

fn notes(spot: &Spot) -> Vec<String> {
    let view = spot.view;
    let last = spot.say(
        "A neuron that fires for a language need not cause anything: this atlas shows where activity is, not what would happen without it.",
        &[],
    );
    let said = view.atlas.manifest.remarks.iter().chain(&view.result.notes).cloned();
    said.chain(imported(spot)).chain(routing(spot)).chain([last]).collect()
}

/// What a reader should know of masks that others made.
pub fn imported(spot: &Spot) -> Option<String> {
    spot.view.identify.origin.as_ref().map(|origin| {
        spot.say("Probabilities are unknown: these masks were imported from {origin}.", &[("origin", origin)])
    })
}

/// What a reader should know of a model with experts.
fn routing(spot: &Spot) -> Option<String> {
    spot.view.model.shape().is_routed().then(|| {
        spot.say(
            "Each layer has {experts} experts, and a router sends every token to a few of them: a neuron’s probability counts only the \
             tokens that its expert gets.",
            &[("experts", &spot.integer(spot.view.model.experts))],
        )
    })
}

/// Families with a letter of their own, and the others together.
pub fn legend(spot: &Spot) -> Vec<Value> {
    let (own, others): (Vec<_>, Vec<_>) = spot.view.families.iter().partition(|family| family.key != "other");
    let mut legend: Vec<Value> =
        own.iter().map(|family| json!({ "key": family.key, "name": family.name, "count": family.size })).collect();
    let rest: usize = others.iter().map(|family| family.size).sum();
    if rest > 0 {
        legend.push(json!({ "key": "other", "name": spot.say("Other families", &[]), "count": rest }));
    }
    legend
}

/// Scripts of the languages, by name.
fn scripts(view: &View) -> Vec<Value> {
    let codes: BTreeSet<&str> = view.languages.iter().map(|language| language.code.script()).collect();
    let mut named: Vec<(&str, &str)> = codes.into_iter().map(|code| (words::script(code), code)).collect();
    named.sort_unstable();
    named.into_iter().map(|(name, code)| json!({ "code": code, "name": name })).collect()
}

/// Selected neurons of each layer.
fn per_layer(view: &View) -> Vec<usize> {
    let mut counts = vec![0usize; view.model.layers];
    view.neurons.keys().for_each(|id| counts[id.layer] += 1);
    counts
}

fn art(view: &View) -> Value {
    let counts = per_layer(view);
    let layers = counts.len();
    let height = figure::row_height(layers).min(22);
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let bars = counts.iter().enumerate().map(|(layer, count)| {
        let y = (layers - layer) * height;
        json!({
            "d": format!("M0 {}h{}v{}H0z", y - height + 2, (count * 1000 + most / 2) / most, height - 4),
            "text_y": y - height / 2 + 4,
        })
    });
    let every = if height < 12 { 10 } else { 5 };
    let axis =
        (0..layers).filter(|&layer| layers <= 12 || layer + 1 == layers || layer % every == 0 && layer + 2 < layers);
    json!({
        "height": layers * height, "row": height, "bars": bars.collect::<Vec<_>>(),
        "axis": axis.map(|layer| json!({ "y": (layers - layer) * height - height / 2 + 4, "text": layer })).collect::<Vec<_>>(),
    })
}

fn pictures(spot: &Spot, overview: &Value) -> Vec<(String, Vec<u8>)> {
    let view = spot.view;
    let art = art(view);
    let counts = per_layer(view);
    let height = art["height"].as_u64().unwrap_or(0) as usize;
    let title = format!("Selected neurons of {} by layer", view.model.id);
    let mut picture = figure::Picture::new(
        720,
        height + 20,
        &title,
        overview["caption"].as_str().unwrap_or_default(),
        &figure::source(view),
    );
    let bars = art["bars"].as_array().into_iter().flatten();
    let mut plot = String::new();
    for (bar, count) in bars.zip(&counts) {
        let path = bar["d"].as_str().unwrap_or_default();
        write!(plot, "<path class=\"o-bar\" d=\"{path}\"/>").expect("a string takes all");
        picture.text(700.0, bar["text_y"].as_f64().unwrap_or(0.0) + 14.0, "end", &words::thousands(*count as u64));
    }
    for tick in art["axis"].as_array().into_iter().flatten() {
        picture.text(46.0, tick["y"].as_f64().unwrap_or(0.0) + 14.0, "end", &tick["text"].to_string());
    }
    picture.text(20.0, 8.0, "start", "Layer").plot((56.0, 14.0), (590.0, height as f64), (1000, height), &plot);
    let rows = counts.iter().enumerate().map(|(layer, count)| vec![layer.to_string(), count.to_string()]);
    let languages = view.languages.iter().map(|language| {
        let (total, specific) = view.sizes(language.code);
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        vec![
            language.code.to_string(),
            language.name.clone(),
            language.family.clone(),
            language.code.script().to_owned(),
            total.to_string(),
            specific.to_string(),
            (total - specific).to_string(),
            number(view.depth_of(language.code)),
            number(view.stability(language.code).and_then(|row| row.mean_selection_freq)),
            view.coverage(language.code).map_or_else(String::new, |row| row.tokens.to_string()),
        ]
    });
    let head =
        ["code", "name", "family", "script", "neurons", "only_this_language", "shared", "depth", "stability", "tokens"];
    vec![
        ("figures/overview.svg".to_owned(), picture.finish()),
        ("figures/overview.csv".to_owned(), figure::csv(&["layer", "selected_neurons"], rows)),
        ("figures/languages.csv".to_owned(), figure::csv(&head, languages)),
    ]
}

/// Neurons of all languages together, by layer.
fn overview(spot: &Spot) -> Value {
    let view = spot.view;
    if view.neurons.is_empty() {
        return Value::Null;
    }
    let counts = per_layer(view);
    let (layers, total, quarter) = (counts.len(), view.neurons.len(), view.late_layers());
    let late: usize = counts[layers - quarter..].iter().sum();
    let share = |count: usize| spot.percent(count as f64 / total as f64);
    let (late_text, total_text, layers_text) = (share(late), spot.integer(total), spot.integer(layers));
    let caption = if quarter >= layers {
        spot.count(total, "{n} neuron is selected.", "{n} neurons are selected.", &[])
    } else if quarter == 1 {
        spot.say(
            "{share} of the {total} selected neurons lie in the last of {layers} layers.",
            &[("share", &late_text), ("total", &total_text), ("layers", &layers_text)],
        )
    } else {
        spot.say(
            "{share} of the {total} selected neurons lie in the last {quarter} of {layers} layers.",
            &[
                ("share", &late_text),
                ("total", &total_text),
                ("quarter", &spot.integer(quarter)),
                ("layers", &layers_text),
            ],
        )
    };
    json!({
        "caption": caption,
        "rows": counts.iter().enumerate().map(|(layer, &count)| json!({
            "layer": layer, "count": count, "count_text": spot.integer(count), "share_text": share(count),
        })).collect::<Vec<_>>(),
    })
}

fn row(spot: &Spot, language: &LanguageRow) -> Value {
    let view = spot.view;
    let (total, specific) = view.sizes(language.code);
    let spark = view.per_layer(language.code);
    let depth = view.depth_of(language.code);
    let stability = view.stability(language.code).and_then(|row| row.mean_selection_freq);
    let small = if view.result.rates.len() > 1 { view.result.rates.first() } else { None };
    let tokens = view.coverage(language.code).map(|row| row.tokens);
    let rows = view.tables.of(language.code);
    let small = small.map(|rate| rows.iter().filter(|row| rate.includes(row.rank)).count());
    json!({
        "code": language.code,
        "href": format!("{}{}.html", spot.pages(view), language.code),
        "name": language.name,
        "autonym": language.autonym.as_ref().unwrap_or(&language.name),
        "bcp47": language.bcp47,
        "direction": language.direction,
        "script": language.code.script(),
        "script_name": words::script(language.code.script()),
        "family": language.family,
        "family_key": view.family_key(&language.family),
        "subfamily": language.subfamily,
        "total": total,
        "total_text": spot.integer(total),
        "specific": specific,
        "specific_text": spot.integer(specific),
        "shared": total - specific,
        "shared_text": spot.integer(total - specific),
        "small": small,
        "small_text": small.map_or_else(|| "–".to_owned(), |small| spot.integer(small)),
        "depth": depth,
        "depth_text": spot.decimal(depth, 2),
        "stability": stability,
        "stability_text": spot.decimal(stability, 2),
        "tokens": tokens,
        "tokens_text": tokens.map_or_else(|| "–".to_owned(), |tokens| spot.locale.integer(tokens)),
        "spark_max": spark.iter().copied().max().unwrap_or(0),
        "spark": spark,
        "search": search(language),
    })
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
fn examples(spot: &Spot) -> Vec<Value> {
    let view = spot.view;
    let mut languages = view.languages.clone();
    languages.sort_by_key(|language| (std::cmp::Reverse(view.sizes(language.code).0), language.code));
    let mut scripts = BTreeSet::new();
    languages.retain(|language| {
        !view.tables.of(language.code).is_empty() && scripts.insert(language.code.script().to_owned())
    });
    let card = |language: &&LanguageRow| {
        let (total, specific) = view.sizes(language.code);
        let neurons = spot.count(total, "{n} neuron", "{n} neurons", &[]);
        let spark = view.per_layer(language.code);
        json!({
            "href": format!("{}{}.html", spot.pages(view), language.code),
            "name": language.name,
            "autonym": language.autonym.as_ref().unwrap_or(&language.name),
            "bcp47": language.bcp47,
            "spark": spark,
            "spark_max": spark.iter().copied().max().unwrap_or(0),
            "sentence": spot.say(
                "{neurons}, {own} of them for this language alone",
                &[("neurons", &neurons), ("own", &spot.integer(specific))],
            ),
        })
    };
    languages.iter().take(6).map(card).collect()
}
