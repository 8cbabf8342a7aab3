//! A run's page: one HTML file without requests to elsewhere, and the same numbers as JSON beside it.

use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde::Serialize;
use serde_json::{Value, json};

use super::{AdaptError, Change, Metric, Outcome, RunFolder};
use crate::{
    language::{LanguageCode, Registry},
    model::Projection,
    output::{self, thousands},
};

/// What a page says.
#[derive(Clone, Debug, Serialize)]
pub struct Page<'a> {
    /// The language.
    pub language: LanguageCode,
    /// The method.
    pub method: &'a str,
    /// The base model.
    pub base: &'a str,
    /// The run.
    pub run: &'a str,
    /// Everything that decided it.
    pub parameters: &'a Value,
    /// Values that were trained.
    pub trained: u64,
    /// Values of the model.
    pub model_parameters: u64,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// What came out.
    pub outcome: &'a Outcome,
    /// How far the weights moved.
    pub changes: &'a [Change],
}

/// Plot area, in user units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
/// Points of a curve at most: a mean over as many steps as stand for one.
const POINTS: usize = 320;

/// Writes `report.html` and `report.json` into the run's folder.
///
/// # Errors
/// When the metrics cannot be read or the folder cannot be written to.
pub fn page(folder: &RunFolder, page: &Page) -> Result<(), AdaptError> {
    let metrics = folder.read_metrics()?;
    let json = json!({ "report": page, "metrics": metrics });
    output::write(&folder.file("report.json"), &serde_json::to_vec_pretty(&json).expect("plain data"))?;
    output::write(&folder.file("report.html"), html(page, &metrics).as_bytes())?;
    Ok(())
}

fn html(page: &Page, metrics: &[Metric]) -> String {
    let name =
        Registry::builtin().get(page.language).map_or_else(|| page.language.to_string(), |known| known.name.clone());
    let steps: Vec<(f64, f64)> = metrics
        .iter()
        .filter_map(|metric| match metric {
            Metric::Step { step, loss, .. } => Some((*step as f64, *loss)),
            Metric::Validation { .. } => None,
        })
        .collect();
    let held_out: Vec<(f64, f64)> = metrics
        .iter()
        .filter_map(|metric| match metric {
            Metric::Validation { step, validation, .. } => Some((*step as f64, *validation)),
            Metric::Step { .. } => None,
        })
        .collect();
    let norms: Vec<(f64, f64)> = metrics
        .iter()
        .filter_map(|metric| match metric {
            Metric::Step { step, gradient_norm, .. } => Some((*step as f64, *gradient_norm)),
            Metric::Validation { .. } => None,
        })
        .collect();
    let outcome = page.outcome;
    let context = json!({
        "title": format!("{} adapted to {name}", page.base),
        "name": name,
        "page": page,
        "trained": thousands(page.trained),
        "parameters": thousands(page.model_parameters),
        "share": format!("{:.2}", 100.0 * page.trained as f64 / page.model_parameters.max(1) as f64),
        "tokens": thousands(page.tokens),
        "before": format!("{:.4}", outcome.before),
        "best": format!("{:.4}", outcome.best),
        "last": format!("{:.4}", outcome.last),
        "gain": format!("{:+.4}", outcome.best - outcome.before),
        "better": outcome.best < outcome.before,
        "loss": plot(&[("training", &thinned(&steps)), ("held out", &held_out)]),
        "norm": plot(&[("gradient norm", &thinned(&norms))]),
        "layers": layers(page.changes),
        "others": page.changes.iter().filter(|change| change.layer.is_none()).map(|change| json!({
            "tensor": change.tensor,
            "relative": format!("{:.2e}", change.relative),
            "mean": format!("{:.2e}", change.mean),
            "weights": thousands(change.weights),
        })).collect::<Vec<_>>(),
        "settings": settings(page.parameters),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
        .add_template("adapt.html", include_str!("../../templates/adapt.html"))
        .expect("the template is compiled in");
    let template = environment.get_template("adapt.html").expect("it was added above");
    template.render(Serde(context)).expect("a test renders the page")
}

/// Means over runs of neighbours, so that a long run is as light a page as a short one.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(each).map(mean).collect()
}

/// Curves over the same axes: paths, and where the axes are.
fn plot(curves: &[(&str, &[(f64, f64)])]) -> Value {
    let all = || curves.iter().flat_map(|(_, points)| points.iter()).filter(|(_, y)| y.is_finite());
    let (left, right) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.0), b.max(p.0)));
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.1), b.max(p.1)));
    if !left.is_finite() {
        return Value::Null;
    }
    let (across, up) = ((right - left).max(1e-12), (high - low).max(1e-12));
    let x = |value: f64| WIDTH * (value - left) / across;
    let y = |value: f64| HEIGHT * (1.0 - (value - low) / up);
    let path = |points: &[(f64, f64)]| {
        let place =
            |(i, p): (usize, &(f64, f64))| format!("{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, x(p.0), y(p.1));
        points.iter().enumerate().map(place).collect::<Vec<_>>().join(" ")
    };
    let curves = curves.iter().enumerate().map(|(i, (name, points))| {
        let dots: Vec<Value> = if points.len() <= 40 {
            points.iter().map(|p| json!({ "x": format!("{:.1}", x(p.0)), "y": format!("{:.1}", y(p.1)), "title": format!("step {:.0}: {:.4}", p.0, p.1) })).collect()
        } else {
            Vec::new()
        };
        json!({ "name": name, "class": i, "path": path(points), "dots": dots })
    });
    json!({
        "width": WIDTH, "height": HEIGHT,
        "curves": curves.collect::<Vec<_>>(),
        "low": format!("{low:.3}"), "high": format!("{high:.3}"), "left": format!("{left:.0}"), "right": format!("{right:.0}"),
    })
}

/// A row per layer with a bar per projection.
fn layers(changes: &[Change]) -> Value {
    let largest =
        changes.iter().filter(|change| change.layer.is_some()).map(|change| change.relative).fold(0.0, f64::max);
    let last = changes.iter().filter_map(|change| change.layer).max();
    let used: Vec<Projection> = Projection::ALL
        .into_iter()
        .filter(|own| changes.iter().any(|change| change.projection == Some(*own)))
        .collect();
    let cell = |layer: usize, projection: Projection| {
        let own = changes.iter().find(|change| change.layer == Some(layer) && change.projection == Some(projection));
        own.map_or(Value::Null, |change| {
            json!({
                "bar": format!("{:.1}", if largest > 0.0 { 100.0 * change.relative / largest } else { 0.0 }),
                "relative": format!("{:.2e}", change.relative),
                "mean": format!("{:.2e}", change.mean),
            })
        })
    };
    let rows = (0..last.map_or(0, |last| last + 1)).map(|layer| {
        json!({ "layer": layer, "cells": used.iter().map(|&projection| cell(layer, projection)).collect::<Vec<_>>() })
    });
    json!({ "projections": used.iter().map(|own| own.name()).collect::<Vec<_>>(), "rows": rows.collect::<Vec<_>>() })
}

/// The settings as rows of a table, nested ones by their paths.
fn settings(parameters: &Value) -> Vec<(String, String)> {
    fn walk(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                walk(&name, value, rows);
            }),
            Value::Null => {}
            Value::String(text) => rows.push((prefix.to_owned(), text.clone())),
            plain => rows.push((prefix.to_owned(), plain.to_string())),
        }
    }
    let mut rows = Vec::new();
    walk("", parameters, &mut rows);
    rows
}
