//! The card of an adapted model: README.md of a checkpoint, or of a delta that `apply` puts on its base model.

use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde::Serialize;
use serde_json::json;

use crate::{language::LanguageCode, language::Registry, output::thousands};

/// What is published of an adapted model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Artefact {
    /// A whole checkpoint that any loader reads.
    Checkpoint,
    /// The weights that changed, and nothing else.
    Delta,
}

/// One measured number, before the adaptation and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// Task, as in `perplexity`.
    pub task: String,
    /// The language it was measured in.
    pub language: LanguageCode,
    /// The number's name and unit.
    pub metric: String,
    /// Of the base model.
    pub before: f64,
    /// Of the adapted model.
    pub after: f64,
    /// Standard error of the difference, where it is known.
    pub standard_error: Option<f64>,
}

/// Everything that a card of an adapted model says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdaptedModel {
    /// Checkpoint or delta.
    pub artefact: Artefact,
    /// `owner/name` of the base model.
    pub base: String,
    /// Its commit.
    pub base_revision: Option<String>,
    /// SPDX identifier of the base model's licence, which binds what is made from it.
    pub licence: Option<String>,
    /// The language adapted to.
    pub language: LanguageCode,
    /// How: `subnetwork`, `lora`.
    pub method: String,
    /// Weights that were trained, and of how many.
    pub trained: u64,
    /// All weights of the model.
    pub parameters: u64,
    /// The atlas that named the neurons, `owner/name@commit`, where one did.
    pub atlas: Option<String>,
    /// The text, `fineweb2:owner/name@commit`.
    pub corpus: String,
    /// Its tokens.
    pub tokens: u64,
    /// Hash of all parameters.
    pub run: String,
    /// What was measured; an adaptation that nobody measured says so.
    pub measurements: Vec<Measurement>,
    /// What a reader should know.
    pub remarks: Vec<String>,
    /// `owner/name` of the publication.
    pub repo: String,
    /// Its tag.
    pub tag: String,
}

/// The text of README.md.
#[must_use]
pub fn model_card(model: &AdaptedModel) -> String {
    let language = Registry::builtin().get(model.language);
    let name = language.map_or_else(|| model.language.to_string(), |language| language.name.clone());
    let iso = language.and_then(|language| language.iso639_1.clone());
    let row = |measurement: &Measurement| {
        let change = measurement.after - measurement.before;
        let error = measurement.standard_error.map_or_else(|| "not known".to_owned(), |error| format!("± {error:.3}"));
        json!({
            "task": measurement.task,
            "language": measurement.language,
            "metric": measurement.metric,
            "before": format!("{:.3}", measurement.before),
            "after": format!("{:.3}", measurement.after),
            "change": format!("{change:+.3}"),
            "error": error,
        })
    };
    let forgetting = model.measurements.iter().any(|measurement| measurement.language != model.language);
    let (owner_less, delta) = (model.base.rsplit('/').next().unwrap_or(&model.base), model.artefact == Artefact::Delta);
    let context = json!({
        "model": model,
        "delta": delta,
        "title": format!("{owner_less} adapted to {name}"),
        "name": name,
        "iso": iso.unwrap_or_else(|| model.language.iso639_3().to_owned()),
        "trained": thousands(model.trained),
        "parameters": thousands(model.parameters),
        "share": format!("{:.2}", 100.0 * model.trained as f64 / model.parameters.max(1) as f64),
        "tokens": thousands(model.tokens),
        "rows": model.measurements.iter().map(row).collect::<Vec<_>>(),
        "forgetting": forgetting,
        "dataset": model.corpus.split_once(':').map_or("", |(_, place)| place.split('@').next().unwrap_or(place)),
        "from_hub": model.corpus.split_once(':').is_some_and(|(_, place)| place.contains('@')),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let text = include_str!("../../templates/model-card.md");
    environment.add_template("model-card.md", text).expect("the template is compiled in");
    let template = environment.get_template("model-card.md").expect("it was added above");
    template.render(Serde(context)).expect("a test renders the card")
}
