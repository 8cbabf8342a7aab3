//! Every file of the atlas with its size and hash, and the runs that made it.

use serde_json::{Value, json};

use super::{Sheet, Spot, words};

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let manifest = &view.atlas.manifest;
    let files = manifest.files.iter().map(|file| {
        json!({
            "path": file.path, "bytes": file.bytes, "bytes_text": words::bytes(file.bytes), "sha256": file.sha256,
            "rows_text": file.rows.map_or_else(|| "–".to_owned(), |rows| words::thousands(rows as u64)),
            "description": describe(&file.path),
        })
    });
    let runs = [view.profile, Some(view.identify)].into_iter().flatten().map(|run| {
        json!({ "run": run.run, "kind": run.kind, "tool_version": run.tool_version, "parameters": run.parameters })
    });
    let mut provenance = provenance(spot);
    provenance.push((spot.say("Program", &[]), format!("neuroglot {}", view.identify.tool_version)));
    let total: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    Sheet {
        template: "data.html",
        title: "Data and provenance".to_owned(),
        description: format!(
            "The tables and masks of the atlas of {}, with sizes, hashes, and the runs that made them.",
            words::isolated(&view.model.id)
        ),
        own: json!({
            "files": files.collect::<Vec<_>>(),
            "total_text": words::bytes(total),
            "licence": manifest.licence,
            "runs": runs.collect::<Vec<_>>(),
            "provenance": provenance.into_iter().map(|(label, value)| json!({ "label": label, "value": value })).collect::<Vec<_>>(),
        }),
        art: json!({}),
        figures: Vec::new(),
    }
}

fn describe(path: &str) -> &'static str {
    const KINDS: [(&str, &str); 12] = [
        ("data/neurons/", "one row per neuron and language that it serves"),
        ("data/counts/", "exact counts per language, layer and neuron: enough to identify again without a GPU"),
        ("data/routed/", "tokens per language, layer and expert"),
        ("data/overlap/", "one row per pair of languages"),
        ("data/stability/", "one row per language: how far its set can be trusted"),
        ("data/ablation/", "what switching neurons off does to every language, with random controls"),
        ("data/adaptation/", "results of training with these neurons"),
        ("data/models", "one row per model"),
        ("data/languages", "one row per language"),
        ("data/runs", "everything needed to repeat a run"),
        ("data/coverage", "per language, the text that was run"),
        ("masks/", "bit-packed masks, one tensor per language"),
    ];
    KINDS.iter().find(|(prefix, _)| path.starts_with(prefix)).map_or("", |(_, words)| words)
}

/// Where a model's numbers come from, as pairs of a label and a value.
pub fn provenance(spot: &Spot) -> Vec<(String, String)> {
    let view = spot.view;
    let none = || "–".to_owned();
    let mut rows = vec![(spot.say("Model", &[]), view.model.id.clone())];
    rows.extend(view.model.revision.clone().map(|revision| (spot.say("Revision", &[]), revision)));
    let weights = view.model.weights_sha256.as_ref();
    rows.push((
        spot.say("Weights", &[]),
        weights.map_or_else(none, |hashes| hashes.trim_matches(['{', '}']).replace('"', "")),
    ));
    if let Some(run) = view.profile {
        let context = run.context.map_or_else(none, |tokens| {
            spot.say("{tokens} tokens, full, not padded", &[("tokens", &spot.locale.integer(tokens))])
        });
        let (precision, device) = (run.precision.clone().unwrap_or_else(none), run.device.clone().unwrap_or_else(none));
        rows.extend([
            (spot.say("Text", &[]), run.corpus.clone().unwrap_or_else(none)),
            (spot.say("Split", &[]), run.split.clone().unwrap_or_else(none)),
            (spot.say("Tokens asked", &[]), run.tokens.map_or_else(none, |tokens| spot.locale.integer(tokens))),
            (spot.say("Window", &[]), context),
            (spot.say("Between documents", &[]), run.separator.clone().unwrap_or_else(none)),
            (spot.say("Folds of documents", &[]), run.folds.map_or_else(none, |folds| folds.to_string())),
            (
                spot.say("Computed in", &[]),
                spot.say("{precision} on {device}", &[("precision", &precision), ("device", &device)]),
            ),
            (spot.say("Profile run", &[]), run.run.clone()),
        ]);
    }
    let parameters = &view.parameters;
    let arithmetic = parameters.arithmetic.as_ref().map_or_else(
        || view.method.clone(),
        |kind| spot.say("{method}, {kind} arithmetic", &[("method", &view.method), ("kind", kind)]),
    );
    rows.extend(view.identify.origin.clone().map(|origin| (spot.say("Imported from", &[]), origin)));
    rows.extend([
        (spot.say("Method", &[]), arithmetic),
        (spot.say("Top rate", &[]), parameters.top_rates.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")),
        (spot.say("Filter rate", &[]), parameters.filter_rate.map_or_else(none, |rate| rate.to_string())),
        (spot.say("Activation bar", &[]), parameters.activation_bar.map_or_else(none, |rate| rate.to_string())),
        (spot.say("Languages compared", &[]), spot.integer(parameters.languages.len())),
        (spot.say("Identification run", &[]), view.identify.run.clone()),
    ]);
    rows
}

/// The run ids that a citation names.
pub fn runs(spot: &Spot) -> Value {
    json!({ "profile": spot.view.profile.map(|run| &run.run), "identify": spot.view.identify.run })
}
