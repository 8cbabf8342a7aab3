//! The languages by family and branch, with what the members of each share.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Sheet, Spot, figure, view::View, words};
use crate::atlas::LanguageRow;

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let model = words::isolated(&view.model.id);
    let families: Vec<Value> = view.families.iter().map(|family| {
        let members: Vec<&LanguageRow> = view.languages.iter().filter(|language| language.family == family.name).copied().collect();
        let mut branches: BTreeMap<Option<&str>, Vec<&LanguageRow>> = BTreeMap::new();
        members.iter().for_each(|language| branches.entry(language.subfamily.as_deref()).or_default().push(language));
        let own = own_neurons(view, &members);
        let cohesion = cohesion(view, &members);
        json!({
            "key": family.key, "name": family.name, "size": family.size,
            "size_text": spot.count(family.size, "{n} language", "{n} languages", &[]),
            "own": own, "own_text": spot.integer(own),
            "cohesion": cohesion, "cohesion_text": spot.decimal(cohesion, 3),
            "branches": branches.into_iter().map(|(name, members)| json!({
                "name": name, "languages": members.into_iter().map(|language| leaf(spot, language)).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })
    }).collect();
    let rows = view.families.iter().map(|family| {
        let members: Vec<&LanguageRow> =
            view.languages.iter().filter(|language| language.family == family.name).copied().collect();
        let cohesion = cohesion(view, &members).map_or_else(String::new, |value| value.to_string());
        vec![family.name.clone(), family.size.to_string(), own_neurons(view, &members).to_string(), cohesion]
    });
    let csv = figure::csv(&["family", "languages", "family_neurons", "mean_jaccard"], rows);
    Sheet {
        template: "families.html",
        title: spot.say("Families of languages in {model}", &[("model", &model)]),
        description: spot.say(
            "The languages of the atlas by family and branch, with the neurons of {model} that only one family uses.",
            &[("model", &model)],
        ),
        own: json!({ "caption": caption(spot), "families": families }),
        art: json!({}),
        figures: vec![("figures/families.csv".to_owned(), csv)],
    }
}

fn leaf(spot: &Spot, language: &LanguageRow) -> Value {
    let total = spot.view.sizes(language.code).0;
    let spark = spot.view.per_layer(language.code);
    json!({
        "href": format!("{}.html", language.code), "code": language.code, "name": language.name, "bcp47": language.bcp47,
        "autonym": language.autonym.as_ref().unwrap_or(&language.name), "script_name": words::script(language.code.script()),
        "total": total, "total_text": spot.count(total, "{n} neuron", "{n} neurons", &[]),
        "spark": spark, "spark_max": spark.iter().copied().max().unwrap_or(0),
    })
}

/// Selected neurons that serve at least two of these languages and none other.
fn own_neurons(view: &View, members: &[&LanguageRow]) -> usize {
    let member = |code| members.iter().any(|language| language.code == code);
    view.neurons
        .values()
        .filter(|served| served.rows.len() > 1 && served.rows.iter().all(|row| member(row.language)))
        .count()
}

/// Mean Jaccard index of the pairs within; none of fewer than two languages.
fn cohesion(view: &View, members: &[&LanguageRow]) -> Option<f64> {
    let pairs = members.iter().enumerate().flat_map(|(at, a)| members[at + 1..].iter().map(move |b| (a.code, b.code)));
    let found: Vec<f64> = pairs.filter_map(|(a, b)| view.overlap(a, b).and_then(|row| row.jaccard)).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

/// The family with the most neurons of its own, of those with at least two languages.
fn caption(spot: &Spot) -> String {
    let view = spot.view;
    let mut found: Vec<(usize, &str, usize)> = view
        .families
        .iter()
        .filter(|family| family.size > 1)
        .map(|family| {
            let members: Vec<&LanguageRow> =
                view.languages.iter().filter(|language| language.family == family.name).copied().collect();
            (own_neurons(view, &members), family.name.as_str(), family.size)
        })
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    match found.as_slice() {
        [(most, name, size), rest @ ..] if *most > 0 && rest.first().is_none_or(|next| next.0 < *most) => spot.count(
            *most,
            "{family}, with {size} languages, has the most neurons that serve its own members and nobody else: {n}.",
            "{family}, with {size} languages, has the most neurons that serve its own members and nobody else: {n}.",
            &[("family", &words::isolated(name)), ("size", &spot.integer(*size))],
        ),
        [(most, ..), ..] if *most > 0 => spot.count(
            *most,
            "No one family has the most neurons that serve its own members and nobody else: several have {n}.",
            "No one family has the most neurons that serve its own members and nobody else: several have {n} each.",
            &[],
        ),
        _ => spot.say("No neuron serves several languages of one family and nobody else.", &[]),
    }
}
