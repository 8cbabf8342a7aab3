//! Several models side by side: the same language in each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Sheet, Spot, figure, view::View, words};
use crate::{atlas::LanguageRow, language::LanguageCode};

pub fn sheet(spot: &Spot) -> Sheet {
    let views = &spot.site.views;
    let mut languages: BTreeMap<LanguageCode, &LanguageRow> = BTreeMap::new();
    for view in views {
        languages.extend(view.languages.iter().map(|language| (language.code, *language)));
    }
    let mut languages: Vec<&LanguageRow> = languages.into_values().collect();
    languages.sort_by(|a, b| (&a.name, a.code).cmp(&(&b.name, b.code)));
    let rows = languages.iter().map(|language| {
        let cells = views.iter().map(|view| cell(spot, view, language.code)).collect::<Vec<_>>();
        json!({
            "code": language.code, "name": language.name, "autonym": language.autonym.as_ref().unwrap_or(&language.name),
            "bcp47": language.bcp47, "cells": cells,
        })
    });
    let head: Vec<String> = ["language".to_owned()]
        .into_iter()
        .chain(views.iter().flat_map(|view| [format!("neurons_{}", view.folder), format!("depth_{}", view.folder)]))
        .collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let table = languages.iter().map(|language| {
        let cells = views.iter().flat_map(|view| {
            let depth = view.depth_of(language.code).map_or_else(String::new, |depth| depth.to_string());
            [if has(view, language.code) { view.sizes(language.code).0.to_string() } else { String::new() }, depth]
        });
        [language.code.to_string()].into_iter().chain(cells).collect()
    });
    let csv = figure::csv(&head, table);
    Sheet {
        template: "models.html",
        title: "Compare models".to_owned(),
        description: format!(
            "The same languages in {} models: how many neurons serve each, and how deep they lie.",
            views.len()
        ),
        own: json!({
            "views": views.iter().map(|view| json!({
                "id": view.model.id, "href": format!("{}/index.html", view.folder), "layers": view.model.layers, "width": view.model.width, "width_text": words::thousands(view.model.width as u64),
                "neurons_text": words::thousands(view.model.shape().neurons() as u64),
                "selected_text": words::thousands(view.neurons.len() as u64),
                "languages": view.languages.len(), "rate_text": view.rate().map_or_else(String::new, |rate| words::percent(rate.rate)),
            })).collect::<Vec<_>>(),
            "pairs": pairs(views),
            "rows": rows.collect::<Vec<_>>(),
            "languages_csv": format!("{}/figures/models.csv", spot.view.folder),
        }),
        art: json!({}),
        figures: vec![("figures/models.csv".to_owned(), csv)],
    }
}

fn has(view: &View, code: LanguageCode) -> bool {
    view.language(code).is_some()
}

fn cell(spot: &Spot, view: &View, code: LanguageCode) -> Value {
    if !has(view, code) {
        return Value::Null;
    }
    let (total, specific) = view.sizes(code);
    let spark = view.per_layer(code);
    json!({
        "href": format!("{}/{code}.html", view.folder), "total": total, "total_text": spot.integer(total), "specific": specific,
        "depth": view.depth_of(code), "depth_text": spot.decimal(view.depth_of(code), 2),
        "spark": spark, "spark_max": spark.iter().copied().max().unwrap_or(0),
    })
}

/// Every pair of models: how alike the order of their languages by number of neurons is (Spearman's ρ over those that both have).
fn pairs(views: &[View]) -> Vec<Value> {
    let mut pairs = Vec::new();
    for (at, a) in views.iter().enumerate() {
        for b in &views[at + 1..] {
            let codes = |view: &View| view.languages.iter().map(|language| language.code).collect::<BTreeSet<_>>();
            let both: Vec<LanguageCode> = codes(a).intersection(&codes(b)).copied().collect();
            let sizes = |view: &View| both.iter().map(|code| view.sizes(*code).0 as f64).collect::<Vec<_>>();
            let rho = spearman(&sizes(a), &sizes(b));
            let sentence = match rho {
                None => format!(
                    "{} and {} have {} in common: too few, or too much alike, to compare.",
                    words::isolated(&a.model.id),
                    words::isolated(&b.model.id),
                    words::count(both.len(), "language")
                ),
                Some(rho) => {
                    let verdict = match rho {
                        rho if rho >= 0.7 => "mostly give the same languages many neurons",
                        rho if rho >= 0.3 => "give some of the same languages many neurons",
                        rho if rho > -0.3 => "do not agree on which languages have many neurons",
                        _ => "give many neurons to different languages",
                    };
                    format!(
                        "{} and {} {verdict} (rank correlation {rho:.2} over {} languages).",
                        words::isolated(&a.model.id),
                        words::isolated(&b.model.id),
                        both.len()
                    )
                }
            };
            pairs.push(json!({ "a": a.model.id, "b": b.model.id, "languages": both.len(), "spearman": rho, "sentence": sentence }));
        }
    }
    pairs
}

/// Rank correlation; none of fewer than three pairs, or where one side is constant.
fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let ranks = |values: &[f64]| -> Vec<f64> {
        let below = |value: f64| values.iter().filter(|other| **other < value).count() as f64;
        let equal = |value: f64| values.iter().filter(|other| (**other - value).abs() < 1e-12).count() as f64;
        values.iter().map(|&value| below(value) + (equal(value) - 1.0) / 2.0).collect()
    };
    if a.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}
