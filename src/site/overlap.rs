//! Which languages share neurons: a matrix in the order of a tree, and the same as a table.

use serde_json::{Value, json};

use super::{Sheet, Spot, compare, figure, home, view::View, words};
use crate::language::LanguageCode;

/// Width of the tree beside the matrix, in squares of a hundred languages.
const BRANCHES: f64 = 16.0;

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let model = words::isolated(&view.model.id);
    let leaves = &view.tree.leaves;
    let jaccard = |y: usize, x: usize| if x == y { None } else { between(view, leaves[y], leaves[x]) };
    let pairs = compare::closest(view);
    let largest = pairs.first().map_or(0.0, |pair| pair.2);
    let (_, top) = figure::ticks(largest);
    let size = leaves.len();
    let width = (size as f64 * BRANCHES / 100.0).max(2.0);
    let art = json!({
        "size": size,
        "top": top,
        "cells": figure::matrix((size, size), jaccard, top),
        "tree_width": width,
        "tree": figure::dendrogram(view, width),
        "families": strip(view),
    });
    let caption = caption(spot);
    let legend = (0..figure::STEPS).map(|step| {
        let edge = |at: usize| top * at as f64 / figure::STEPS as f64;
        json!({ "step": step, "from": edge(step), "text": spot.decimal(Some(edge(step)), figure::places(top)) })
    });
    let figures = vec![
        ("figures/overlap.svg".to_owned(), picture(view, &art, &caption)),
        ("figures/overlap.csv".to_owned(), csv(view)),
    ];
    let row = |code: &LanguageCode| {
        let language = view.language(*code).expect("a leaf is one of the languages");
        json!({
            "code": code, "name": language.name, "family": language.family, "family_key": view.family_key(&language.family),
            "href": format!("{code}.html"),
        })
    };
    // Below the diagonal only: the rest says the same.
    let cells: Vec<Vec<Option<f64>>> =
        (0..size).map(|y| (0..y).map(|x| between(view, leaves[y], leaves[x])).collect()).collect();
    Sheet {
        template: "overlap.html",
        title: spot.say("Which languages share neurons of {model}", &[("model", &model)]),
        description: spot.say(
            "The overlap of every pair of languages in {model}: a matrix in the order of a tree, and the same as a table.",
            &[("model", &model)],
        ),
        own: json!({
            "caption": caption,
            "languages": leaves.iter().map(row).collect::<Vec<_>>(),
            "jaccard": cells,
            "scale_steps": legend.collect::<Vec<_>>(),
            "scale_top": spot.decimal(Some(top), figure::places(top)),
            "family_legend": home::legend(spot),
            "closest": pairs.iter().take(10).filter_map(|(a, b, jaccard, shared)| {
                let (first, second) = (view.language(*a)?, view.language(*b)?);
                Some(json!({
                    "a": first.name, "b": second.name, "href": format!("compare.html#a={a}&b={b}"),
                    "jaccard_text": spot.decimal(Some(*jaccard), 2), "shared_text": spot.integer(*shared),
                }))
            }).collect::<Vec<_>>(),
        }),
        art,
        figures,
    }
}

fn between(view: &View, a: LanguageCode, b: LanguageCode) -> Option<f64> {
    view.overlap(a, b).and_then(|row| row.jaccard)
}

/// The closest pair, and whether relatives share more than others do.
fn caption(spot: &Spot) -> String {
    let view = spot.view;
    let pairs = compare::closest(view);
    let Some((a, b, largest, _)) = pairs.first() else {
        return spot.say("No two languages share a neuron.", &[]);
    };
    let named = |code: LanguageCode| {
        view.language(code).map_or_else(|| code.to_string(), |language| words::isolated(&language.name))
    };
    let tied = pairs.iter().filter(|pair| (pair.2 - largest).abs() < 1e-12).count();
    let first = if tied > 1 {
        spot.say(
            "{count} pairs share the most, at a Jaccard index of {largest}.",
            &[("count", &spot.integer(tied)), ("largest", &spot.decimal(Some(*largest), 2))],
        )
    } else {
        spot.say(
            "{a} and {b} share the most: a Jaccard index of {largest}.",
            &[("a", &named(*a)), ("b", &named(*b)), ("largest", &spot.decimal(Some(*largest), 2))],
        )
    };
    let family = |code: LanguageCode| view.language(code).map(|language| language.family.as_str());
    let (mut within, mut across) = ((0.0, 0usize), (0.0, 0usize));
    for row in &view.tables.overlap {
        let Some(jaccard) = row.jaccard else { continue };
        let sum = if family(row.language_a) == family(row.language_b) { &mut within } else { &mut across };
        *sum = (sum.0 + jaccard, sum.1 + 1);
    }
    if within.1 == 0 || across.1 == 0 {
        return first;
    }
    let (within, across) = (within.0 / within.1 as f64, across.0 / across.1 as f64);
    let words = [("within", spot.decimal(Some(within), 3)), ("across", spot.decimal(Some(across), 3))];
    let words: Vec<(&str, &str)> = words.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let second = if within > across * 1.1 {
        spot.say(
            "Languages of one family share more ({within} on average) than languages of different families ({across}).",
            &words,
        )
    } else if within < across / 1.1 {
        spot.say(
            "Languages of one family share less ({within} on average) than languages of different families ({across}).",
            &words,
        )
    } else {
        spot.say("Languages of one family share about as much ({within} on average) as languages of different families ({across}).", &words)
    };
    format!("{first} {second}")
}

/// Runs of one family along the leaves: where they begin, how long they are, and the family's key.
fn strip(view: &View) -> Vec<Value> {
    let keys: Vec<&str> = view
        .tree
        .leaves
        .iter()
        .map(|code| view.language(*code).map_or("other", |language| view.family_key(&language.family)))
        .collect();
    let mut runs = Vec::new();
    let mut at = 0;
    while at < keys.len() {
        let run = keys[at..].iter().take_while(|key| **key == keys[at]).count();
        runs.push(json!({ "at": at, "run": run, "key": keys[at], "letter": if keys[at] == "other" { "·".to_owned() } else { keys[at].to_uppercase() } }));
        at += run;
    }
    runs
}

fn csv(view: &View) -> Vec<u8> {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let rows = view.tables.overlap.iter().map(|row| {
        vec![
            row.language_a.to_string(),
            row.language_b.to_string(),
            row.shared.to_string(),
            number(row.jaccard),
            number(row.overlap_coefficient),
            number(row.cosine),
        ]
    });
    figure::csv(&["language_a", "language_b", "shared", "jaccard", "overlap_coefficient", "cosine"], rows)
}

fn picture(view: &View, art: &Value, caption: &str) -> Vec<u8> {
    let size = view.tree.leaves.len().max(1);
    let side = 1180.0;
    let square = side / size as f64;
    let names = 150.0;
    let title = format!("Languages that share neurons of {}", view.model.id);
    let mut picture = figure::Picture::new(1500, side as usize + 56, &title, caption, &figure::source(view));
    let cells: String = art["cells"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|cell| format!("<path class=\"q{}\" d=\"{}\"/>", cell["step"], cell["d"].as_str().unwrap_or_default()))
        .collect();
    for (at, code) in view.tree.leaves.iter().enumerate() {
        let name = view.language(*code).map_or_else(|| code.to_string(), |language| language.name.clone());
        let short: String = name.chars().take(22).collect();
        picture.name(130.0 + names - 6.0, (at as f64 + 0.5) * square + 8.0, square, &short);
    }
    let tree = format!("<path class=\"branch\" d=\"{}\"/>", art["tree"].as_str().unwrap_or_default());
    let width = art["tree_width"].as_f64().unwrap_or(2.0).ceil() as usize;
    picture.plot((20.0, 8.0), (100.0, side), (width, size), &tree);
    picture.plot((130.0 + names, 8.0), (side, side), (size, size), &format!("<g class=\"cells\">{cells}</g>"));
    picture.scale(130.0 + names, side + 20.0, art["top"].as_f64().unwrap_or(1.0), "Jaccard index").finish()
}
