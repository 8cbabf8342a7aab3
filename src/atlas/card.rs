//! The dataset card: README.md of a release, generated from what the atlas holds.

use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde_json::json;

use super::{IdentifyResult, LanguageRow, ModelRow};

/// The text of README.md.
pub fn card(
    licence: &str,
    remarks: &[String],
    models: &[ModelRow],
    languages: &[LanguageRow],
    results: &[(String, IdentifyResult)],
    tables: &[&str],
    rows: usize,
) -> String {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template("card.md", include_str!("../../templates/card.md")).expect("the template is compiled in");
    // ISO 639-1 where there is one, else 639-3; quoted in the template, for `no` unquoted is false in YAML.
    let mut codes: Vec<String> = languages
        .iter()
        .map(|language| language.iso639_1.clone().unwrap_or_else(|| language.code.iso639_3().to_owned()))
        .collect();
    codes.sort();
    codes.dedup();
    let config = |name: &&str| {
        let many = ["neurons", "counts", "routed", "overlap", "stability"].contains(name);
        let files = if many { format!("data/{name}/**/*.parquet") } else { format!("data/{name}.parquet") };
        json!({ "name": name, "files": files, "default": *name == "neurons" })
    };
    let size = match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        _ => "100M<n<1B",
    };
    let model = |model: &ModelRow| {
        let of_model: Vec<&IdentifyResult> =
            results.iter().filter(|(id, _)| *id == model.id).map(|(_, result)| result).collect();
        json!({
            "id": model.id,
            "folder": super::model_folder(&model.id),
            "layers": model.layers,
            "experts": model.experts,
            "width": model.width,
            "rates": of_model.iter().flat_map(|result| &result.rates).collect::<Vec<_>>(),
            "notes": of_model.iter().flat_map(|result| &result.notes).collect::<Vec<_>>(),
        })
    };
    let context = json!({
        "licence": licence.to_lowercase(),
        "languages": codes,
        "example": languages.first().map(|language| language.code),
        "count": languages.len(),
        "configs": tables.iter().map(config).collect::<Vec<_>>(),
        "size": size,
        "models": models.iter().map(model).collect::<Vec<_>>(),
        "remarks": remarks,
        "counted": tables.contains(&"counts"),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let template = environment.get_template("card.md").expect("it was added above");
    template.render(Serde(context)).expect("a test renders the card")
}
