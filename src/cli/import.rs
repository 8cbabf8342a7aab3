//! `neuroglot import`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value};

use super::{
    Outcome, Talk, bench,
    hub::{HubArgs, NameArgs},
    usage,
};
use crate::{
    atlas::{self, Import, Manifest, ModelRow, Release, UNKNOWN_LICENCE},
    checkpoint::Checkpoint,
    identify::Rate,
    language::Registry,
    model::{Architecture, ModelError, family},
    output::{self, count, thousands},
};

/// Make an atlas of masks that others published: `torch.save` files of lists per language and layer.
///
/// The file is read without running anything that is in it. It says which neurons serve a language and nothing else: probabilities,
/// entropies and stability stay unknown in the atlas. Nor does it say which languages its lists are of; --languages does.
#[derive(Args)]
pub struct ImportArgs {
    /// File of masks (.pth).
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[arg(long, value_name = "MODEL", help = model_help())]
    model: String,
    /// The languages of the file's lists, in its order: a list in any usual spelling, or @FILE.
    #[arg(long, value_name = "LIST")]
    languages: String,
    /// Folder for the atlas; other models and methods that it holds stay.
    #[arg(long, value_name = "ATLAS")]
    out: PathBuf,
    /// How the masks were found.
    #[arg(long, default_value = "lape", value_name = "METHOD", value_parser = method)]
    method: String,
    /// The rate at which they were found, if it is known.
    #[arg(long, value_name = "R")]
    top_rate: Option<Rate>,
    /// Where the file was published: an address or a citation, kept as it is.
    #[arg(long, value_name = "TEXT")]
    origin: Option<String>,
    #[command(flatten)]
    name: NameArgs,
    /// SPDX identifier of the masks' licence; that of the atlas that is there, or `unknown`, unless said.
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
}

fn model_help() -> String {
    let known = bench::shape_names();
    format!(
        "The model that the masks are of: a folder with config.json (weights are not needed), a GGUF file, owner/name[@revision] on the Hub, or one of {known}"
    )
}

/// A method names a file.
fn method(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(plain) {
        return Err("write letters, digits, `-` and `_`, as in `lape`".to_owned());
    }
    Ok(name.to_owned())
}

impl ImportArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let languages = Registry::builtin().resolve_order(&self.languages, &[]).map_err(usage)?;
        if languages.is_empty() {
            return Err(usage(anyhow::anyhow!(
                "--languages all: the file does not say which languages it holds; name them in its order"
            )));
        }
        let Some(model) = self.model(talk)? else {
            talk.say("interrupted; the same command continues");
            return Ok(Outcome::Interrupted);
        };
        atlas::check_place(&self.out)?;
        let rate = self.top_rate.map(Rate::get);
        let masks = Import::read(&self.file, model, &self.method, languages, rate, self.origin.clone())?;
        let release = Release { licence: self.licence(), remarks: Vec::new(), language_remarks: BTreeMap::new() };
        let manifest = atlas::import(&self.out, &release, &masks)?;
        let sizes: Map<String, Value> = (masks.languages.iter().zip(&masks.sets))
            .map(|(language, set)| (language.to_string(), set.len().into()))
            .collect();
        let report = serde_json::json!({
            "atlas": self.out, "model": masks.model.id, "origin": masks.origin, "totals": manifest.totals, "languages": sizes,
        });
        talk.result(&report, || {
            let rows = masks.languages.iter().zip(&masks.sets);
            let rows = rows.map(|(language, set)| format!("{language} {:>9}", thousands(set.len() as u64)));
            let end =
                format!("{} of {} in {}", count(masks.languages.len(), "language"), masks.model.id, self.out.display());
            rows.chain([end]).collect::<Vec<_>>().join("\n")
        })?;
        talk.say(
            "a mask says which neurons, and nothing of how often they fire: probabilities are unknown in this atlas",
        );
        Ok(Outcome::Done)
    }

    fn licence(&self) -> String {
        let there = || Manifest::read(&self.out).ok().map(|manifest| manifest.licence);
        self.licence.clone().or_else(there).unwrap_or_else(|| UNKNOWN_LICENCE.to_owned())
    }

    /// What the masks are of; nothing, when its config was still being fetched as the command was interrupted.
    fn model(&self, talk: &Talk) -> anyhow::Result<Option<ModelRow>> {
        if let Some((config, architecture)) = bench::shape(&self.model)?.filter(|_| !Path::new(&self.model).exists()) {
            let id = self.name.id.as_ref().unwrap_or(&self.model).clone();
            return Ok(Some(self.row((id, self.name.revision.clone()), &config, &architecture, None)));
        }
        let Some(found) = self.hub.locate_config(Path::new(&self.model), talk)? else { return Ok(None) };
        let name = found.name(&self.name)?;
        let path = found.path;
        let (config, architecture, config_sha256) = if path.is_dir() {
            let file = path.join("config.json");
            let json = std::fs::read(&file).with_context(|| {
                format!("{}: cannot be read; the folder of --model holds the model's config.json", file.display())
            })?;
            let config: Map<String, Value> =
                serde_json::from_slice(&json).with_context(|| format!("{}: is no JSON object", file.display()))?;
            let architecture = family::of_config(file, &config, &|_| false).map_err(ModelError::from)?;
            (config, architecture, Some(output::sha256(&json)))
        } else if path.is_file() {
            let checkpoint = Checkpoint::open(&path)?;
            let architecture = family::read(&checkpoint).map_err(ModelError::from)?;
            (checkpoint.config().clone(), architecture, None)
        } else {
            return Err(usage(anyhow::anyhow!(
                "--model {}: is no folder with config.json, no GGUF file, no owner/name on the Hub and none of {}",
                self.model,
                bench::shape_names()
            )));
        };
        Ok(Some(self.row(name, &config, &architecture, config_sha256)))
    }

    fn row(
        &self,
        (id, revision): (String, Option<String>),
        config: &Map<String, Value>,
        architecture: &Architecture,
        config_sha256: Option<String>,
    ) -> ModelRow {
        let ffn = architecture.spec.ffn;
        ModelRow {
            id,
            revision,
            architecture: config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned(),
            layers: ffn.layers,
            experts: ffn.experts,
            width: ffn.width,
            parameters: architecture.parameters(),
            dtype: None,
            config_sha256,
            tokenizer_sha256: None,
            weights_sha256: None,
            licence: self.name.licence.clone(),
        }
    }
}
