//! The dataset card: README.md of a release, generated from what the atlas holds.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde_json::{Value, json};

use super::{Atlas, CoverageRow, IdentifyResult, LanguageRow, ModelRow, RunRow, StabilityRow};
use crate::output::{size, thousands};

/// What a card is made from.
pub(super) struct Facts<'a> {
    pub licence: &'a str,
    pub remarks: &'a [String],
    pub models: &'a [ModelRow],
    pub languages: &'a [LanguageRow],
    pub runs: &'a [RunRow],
    pub coverage: &'a [CoverageRow],
    /// By model folder and method.
    pub stability: &'a BTreeMap<(String, String), Vec<StabilityRow>>,
    /// Every file but the card and the manifest: path, bytes, rows.
    pub files: &'a [(String, u64, Option<usize>)],
    pub version: &'a str,
}

/// Where a release stands.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// `owner/name`.
    pub repo: &'a str,
    /// Its tag.
    pub tag: &'a str,
}

/// The tables in the order of the card, the folders among them, and what each is for.
const TABLES: [(&str, bool, &str); 11] = [
    ("neurons", true, "language, layer, neuron, rank, entropy, probability, selection_freq"),
    ("counts", true, "language, layer, neuron, active tokens per fold, moments"),
    ("routed", true, "language, layer, expert, tokens sent there per fold"),
    ("models", false, "id, revision, layers, width, hashes of the files"),
    ("languages", false, "code, names, family, script, speakers"),
    ("runs", false, "all parameters of every run"),
    ("coverage", false, "run, language, tokens, documents, bytes, status"),
    ("overlap", true, "pairs of languages: shared neurons, Jaccard"),
    ("stability", true, "language: selection frequency, split-half agreement"),
    ("ablation", true, "language whose loss changed, language whose neurons were switched off"),
    ("adaptation", true, "method, language trained for, task and language measured, before, after, standard error"),
];

impl Facts<'_> {
    /// Path patterns and rows of every table that has rows: a configuration without files cannot be loaded.
    fn configs(&self) -> Vec<Value> {
        let config = |&(name, is_folder, about): &(&str, bool, &str)| {
            let single = format!("data/{name}.parquet");
            let of_table = |path: &str| {
                if is_folder { path.starts_with(&format!("data/{name}/")) } else { path == single }
            };
            let rows: usize =
                self.files.iter().filter(|(path, _, _)| of_table(path)).filter_map(|(_, _, rows)| *rows).sum();
            let pattern = if is_folder { format!("data/{name}/**/*.parquet") } else { single.clone() };
            (rows > 0).then(|| {
                json!({
                    "name": name, "files": pattern, "default": name == "neurons", "about": about,
                    "count": rows, "rows": thousands(rows as u64),
                })
            })
        };
        TABLES.iter().filter_map(config).collect()
    }

    fn results(&self, model: &ModelRow) -> Vec<IdentifyResult> {
        let of_model = |run: &&RunRow| run.model == model.id && run.method.as_deref() != Some("random");
        let parse = |run: &RunRow| serde_json::from_str(run.result.as_deref()?).ok();
        self.runs.iter().filter(of_model).filter_map(parse).collect()
    }

    fn model(&self, model: &ModelRow) -> Value {
        let results = self.results(model);
        let profiles = self.runs.iter().filter(|run| run.model == model.id && run.kind == "profile");
        json!({
            "id": model.id,
            "folder": super::model_folder(&model.id),
            "architecture": model.architecture,
            "revision": model.revision,
            "layers": model.layers,
            "experts": model.experts,
            "width": model.width,
            "rates": results.iter().flat_map(|result| &result.rates).collect::<Vec<_>>(),
            "notes": results.iter().flat_map(|result| &result.notes).collect::<Vec<_>>(),
            "profiles": profiles.map(|run| self.profile(run)).collect::<Vec<_>>(),
        })
    }

    fn profile(&self, run: &RunRow) -> Value {
        let rows: Vec<&CoverageRow> = self.coverage.iter().filter(|row| row.run == run.run).collect();
        let status = |status: &str| rows.iter().filter(|row| row.status == status).count();
        json!({
            "id": run.run,
            "corpus": run.corpus,
            "split": run.split,
            "tokens": thousands(run.tokens.unwrap_or_default()),
            "context": run.context,
            "precision": run.precision,
            "languages": rows.len(),
            "full": status("full"),
            "short": status("short"),
            "empty": status("empty"),
        })
    }

    /// The mask file of the example: LAPE's of the first model at its largest rate, where there is one.
    fn mask(&self) -> &str {
        let folder = self.models.first().map(|model| format!("masks/{}/", super::model_folder(&model.id)));
        let masks = || {
            let inside = |path: &&str| folder.as_ref().is_some_and(|folder| path.starts_with(folder.as_str()));
            self.files.iter().map(|(path, _, _)| path.as_str()).filter(inside)
        };
        masks().find(|path| path.ends_with("/lape.safetensors")).or_else(|| masks().next()).unwrap_or_default()
    }

    /// What speaks for the sets, and what nobody has looked at yet, in sentences.
    fn evidence(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for ((folder, method), rows) in self.stability {
            let Some(model) = self.models.iter().find(|model| super::model_folder(&model.id) == *folder) else {
                continue;
            };
            let figure = |of: fn(&StabilityRow) -> Option<f64>| median(rows.iter().filter_map(of).collect());
            let halves = figure(|row| row.split_half_jaccard);
            let frequency = figure(|row| row.mean_selection_freq);
            match (halves, frequency) {
                (None, None) => {
                    sentences.push(format!("{}, {method}: how stable the sets are was not measured.", model.id));
                }
                (halves, frequency) => {
                    let halves = halves.map(|value| {
                        format!(
                            "two halves of the documents agree with a Jaccard of {value:.2} (median over the languages)"
                        )
                    });
                    let frequency = frequency
                        .map(|value| format!("a selected neuron returns in {:.0} % of the resamples", 100.0 * value));
                    let both = [halves, frequency].into_iter().flatten().collect::<Vec<_>>().join("; ");
                    sentences.push(format!(
                        "Stability of {}, {method}: {both}. Per language in the table `stability`.",
                        model.id
                    ));
                }
            }
        }
        if self.stability.is_empty() {
            sentences.push("Stability: not measured.".to_owned());
        }
        let has = |kind: &str| self.files.iter().any(|(path, _, rows)| path.starts_with(kind) && *rows != Some(0));
        sentences.push(if has("data/ablation/") {
            "Ablation: the table `ablation` says what each language loses when another one's neurons are switched off.".to_owned()
        } else {
            "Ablation: none in this release. That switching these neurons off harms their language, and no other, has not been shown for them.".to_owned()
        });
        if has("data/adaptation/") {
            sentences.push("Adaptation: the table `adaptation` says what training changed, in the language trained for and in others.".to_owned());
        }
        let control = self.runs.iter().any(|run| run.method.as_deref() == Some("random"));
        sentences.push(if control {
            "Control: sets of the same sizes drawn at random are in the atlas under the method `random`.".to_owned()
        } else {
            "Control: no random sets are in this release; `neuroglot identify --method random` draws them from the counts.".to_owned()
        });
        sentences
    }

    /// The text of README.md.
    pub fn card(&self, place: Option<Place>) -> String {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment
            .add_template("card.md", include_str!("../../templates/card.md"))
            .expect("the template is compiled in");
        // ISO 639-1 where there is one, else 639-3; quoted in the template, for `no` unquoted is false in YAML.
        let mut codes: Vec<String> = self
            .languages
            .iter()
            .map(|language| language.iso639_1.clone().unwrap_or_else(|| language.code.iso639_3().to_owned()))
            .collect();
        codes.sort();
        codes.dedup();
        let configs = self.configs();
        let of_neurons = configs.iter().find(|config| config["name"] == "neurons");
        let rows = of_neurons.and_then(|config| config["count"].as_u64()).unwrap_or_default();
        let example = self.languages.first();
        let models = self.models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>().join(", ");
        let runs: Vec<String> = self.runs.iter().map(|run| format!("`{}`", run.run)).collect();
        let bytes: u64 = self.files.iter().map(|(_, bytes, _)| bytes).sum();
        let context = json!({
            "licence": licence(self.licence),
            "title": format!("Neuron atlas of {models}"),
            "languages": codes,
            "example": example.map(|language| language.code),
            "count": self.languages.len(),
            "has_counts": configs.iter().any(|config| config["name"] == "counts"),
            "configs": configs,
            "size": size_category(rows),
            "models": self.models.iter().map(|model| self.model(model)).collect::<Vec<_>>(),
            "mask": self.mask(),
            "evidence": self.evidence(),
            "remarks": self.remarks,
            "files": self.files.len(),
            "bytes": size(bytes),
            "place": place.map_or("path/to/this/folder", |place| place.repo),
            "tag": place.map(|place| place.tag),
            "runs": runs.join(", "),
            "version": self.version,
        });
        let template = environment.get_template("card.md").expect("it was added above");
        template.render(Serde(context)).expect("a test renders the card")
    }
}

impl Atlas {
    /// The card of a release of this atlas: README.md with the place that it stands at.
    #[must_use]
    pub fn card(&self, place: Place) -> String {
        let stability = self.methods.iter().map(|(key, tables)| (key.clone(), tables.stability.clone())).collect();
        let files: Vec<_> = (self.manifest.files.iter())
            .filter(|file| file.path != "README.md")
            .map(|file| (file.path.clone(), file.bytes, file.rows))
            .collect();
        let facts = Facts {
            licence: &self.manifest.licence,
            remarks: &self.manifest.remarks,
            models: &self.models,
            languages: &self.languages,
            runs: &self.runs,
            coverage: &self.coverage,
            stability: &stability,
            files: &files,
            version: &self.manifest.tool.version,
        };
        facts.card(Some(place))
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn size_category(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        _ => "100M<n<1B",
    }
}

/// Licences that the Hub has a word for; any other is `other` with its name beside it.
const KNOWN_LICENCES: [&str; 14] = [
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-3.0",
    "cc-by-sa-3.0",
    "odc-by",
    "odbl",
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "gpl-3.0",
    "openrail",
];

fn licence(spdx: &str) -> Value {
    let word = spdx.to_lowercase();
    let word = word.strip_suffix("-1.0").filter(|word| ["odc-by", "odbl"].contains(word)).unwrap_or(&word).to_owned();
    let known = KNOWN_LICENCES.contains(&word.as_str());
    json!({
        "front": if known { format!("\"{word}\"") } else { "\"other\"".to_owned() },
        "name": (!known).then_some(&word),
        "text": spdx,
    })
}
