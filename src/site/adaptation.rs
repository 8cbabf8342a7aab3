//! What training a language's neurons changed, where there are results: what the language won, and what others lost.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Sheet, Spot, words};
use crate::atlas::AdaptationRow;

/// The measure of each task that a page shows; the others are in the tables.
const MAIN: [&str; 4] = ["bits_per_byte", "acc", "chrf++", "alignment"];
/// A change of fewer standard errors may be chance.
const CERTAIN: f64 = 2.0;

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let model = words::isolated(&view.model.id);
    let folder = format!("data/adaptation/{}/", view.folder);
    let tables = view.atlas.manifest.files.iter().filter(|file| file.path.starts_with(&folder));
    let tables =
        tables.map(|file| json!({ "path": file.path, "bytes_text": words::bytes(file.bytes), "sha256": file.sha256 }));
    Sheet {
        template: "adaptation.html",
        title: spot.say("Adaptation of {model}", &[("model", &model)]),
        description: spot
            .say("What training only a language’s neurons of {model} changed, before and after.", &[("model", &model)]),
        own: json!({ "tables": tables.collect::<Vec<_>>(), "adaptation": results(spot, |_| true) }),
        art: json!({}),
        figures: Vec::new(),
    }
}

/// The results of some adaptations of the model, one row per run and main measure; null where there are none.
pub fn results(spot: &Spot, wanted: impl Fn(&AdaptationRow) -> bool) -> Value {
    let all = spot.view.atlas.adaptation.get(&spot.view.folder).map_or(&[][..], Vec::as_slice);
    let mut groups: BTreeMap<_, Vec<&AdaptationRow>> = BTreeMap::new();
    for row in all.iter().filter(|row| MAIN.contains(&row.metric.as_str()) && wanted(row)) {
        groups.entry((row.target, &row.task, &row.metric, &row.method, &row.run)).or_default().push(row);
    }
    if groups.is_empty() {
        return Value::Null;
    }
    let rows: Vec<Value> = groups.values().map(|rows| row(spot, rows)).collect();
    let (own, elsewhere): (Vec<&AdaptationRow>, Vec<&AdaptationRow>) =
        groups.values().flatten().copied().partition(|row| row.language == row.target);
    json!({ "rows": rows, "caption": caption(spot, &own), "elsewhere": caption_elsewhere(spot, &elsewhere) })
}

/// Measures that became better and worse for certain, and those of which nobody can tell.
fn verdicts(spot: &Spot, rows: &[&AdaptationRow]) -> [(&'static str, String); 3] {
    let certain = |sign: f64| {
        let is = |row: &&&AdaptationRow| row.stderr.is_some_and(|error| sign * row.gain() > CERTAIN * error);
        rows.iter().filter(is).count()
    };
    let (better, worse) = (certain(1.0), certain(-1.0));
    let number = |n: usize| spot.integer(n);
    [("better", number(better)), ("worse", number(worse)), ("open", number(rows.len() - better - worse))]
}

fn caption(spot: &Spot, rows: &[&AdaptationRow]) -> String {
    if rows.is_empty() {
        return spot.say("No language that was trained for was measured, so what was won is not known.", &[]);
    }
    let [better, worse, open] = verdicts(spot, rows);
    spot.say(
        "Measures in the languages trained for: {better} better, {worse} worse, {open} not told apart from no change.",
        &[(better.0, &better.1), (worse.0, &worse.1), (open.0, &open.1)],
    )
}

fn caption_elsewhere(spot: &Spot, rows: &[&AdaptationRow]) -> String {
    if rows.is_empty() {
        return spot.say("No other language was measured, so what was lost elsewhere is not known.", &[]);
    }
    let [better, worse, open] = verdicts(spot, rows);
    spot.say(
        "Measures in other languages: {better} better, {worse} worse, {open} not told apart from no change.",
        &[(better.0, &better.1), (worse.0, &worse.1), (open.0, &open.1)],
    )
}

/// One run and measure: in its own language, and elsewhere.
fn row(spot: &Spot, rows: &[&AdaptationRow]) -> Value {
    let first = rows[0];
    let own = rows.iter().find(|row| row.language == first.target);
    let others: Vec<&&AdaptationRow> = rows.iter().filter(|row| row.language != first.target).collect();
    let none = || "–".to_owned();
    let name = |code: crate::language::LanguageCode| {
        spot.view.language(code).map_or_else(|| code.to_string(), |language| language.name.clone())
    };
    let mean = (!others.is_empty()).then(|| others.iter().map(|row| row.difference).sum::<f64>() / others.len() as f64);
    // Languages are other text, so that their errors are independent.
    let squares = others.iter().map(|row| row.stderr.map(|error| error * error)).sum::<Option<f64>>();
    let error = squares.filter(|_| !others.is_empty()).map(|squares| squares.sqrt() / others.len() as f64);
    let worst = others.iter().min_by(|a, b| a.gain().total_cmp(&b.gain()).then(a.language.cmp(&b.language)));
    let share = first.parameters.map(|touched| touched as f64 / spot.view.model.parameters.max(1) as f64);
    json!({
        "target": {
            "code": first.target, "name": name(first.target),
            "href": spot.view.language(first.target).map(|_| format!("{}.html", first.target)),
        },
        "method": first.method,
        "run": first.run,
        "parameters": first.parameters,
        "parameters_text": first.parameters.map_or_else(none, |touched| spot.integer(touched as usize)),
        "share_text": share.map(|share| spot.locale.percent_of_little(share)),
        "task": first.task,
        "metric": first.metric,
        "better": first.better,
        "better_text": if first.better == AdaptationRow::LOWER { spot.say("lower is better", &[]) } else { spot.say("higher is better", &[]) },
        "before": own.map(|row| row.before),
        "before_text": own.map_or_else(none, |row| spot.decimal(Some(row.before), 3)),
        "after": own.map(|row| row.after),
        "after_text": own.map_or_else(none, |row| spot.decimal(Some(row.after), 3)),
        "difference": own.map(|row| row.difference),
        "stderr": own.and_then(|row| row.stderr),
        "difference_text": own.map_or_else(none, |row| change(spot, row.difference, row.stderr)),
        "others": others.len(),
        "others_text": spot.integer(others.len()),
        "elsewhere": mean,
        "elsewhere_stderr": error,
        "elsewhere_text": mean.map_or_else(none, |mean| change(spot, mean, error)),
        "worst": worst.map(|row| json!({
            "code": row.language, "name": name(row.language), "difference": row.difference,
            "href": spot.view.language(row.language).map(|_| format!("{}.html", row.language)),
            "difference_text": change(spot, row.difference, row.stderr),
        })),
    })
}

/// A change with its sign and, where it is known, its standard error.
fn change(spot: &Spot, value: f64, stderr: Option<f64>) -> String {
    let size = spot.decimal(Some(value.abs()), 3);
    let is_zero = format!("{:.3}", value.abs()) == "0.000";
    let sign = if is_zero {
        ""
    } else if value < 0.0 {
        "−"
    } else {
        "+"
    };
    match stderr {
        Some(stderr) => format!("{sign}{size} ± {}", spot.decimal(Some(stderr), 3)),
        None => format!("{sign}{size}"),
    }
}
