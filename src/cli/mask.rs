//! `neuroglot mask`.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;

use super::{Outcome, Talk, usage};
use crate::{
    atlas::{Atlas, Mask, MaskFormat, MaskSet, NeuronRow, model_folder},
    language::Registry,
    output,
    output::thousands,
};

/// Write one language's neurons as a mask that other programs read.
#[derive(Args)]
pub struct MaskArgs {
    /// Atlas folder.
    #[arg(value_name = "ATLAS")]
    atlas: PathBuf,
    /// The language, in any usual spelling.
    #[arg(long, value_name = "LANGUAGE")]
    language: String,
    /// safetensors: bits; json: indices per layer (and expert); parquet: rows with evidence; pth: lists for torch.load, of models
    /// without experts.
    #[arg(long, value_enum, default_value = "safetensors")]
    format: MaskFormat,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The model, where the atlas holds several.
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// The method.
    #[arg(long, default_value = "lape", value_name = "METHOD")]
    method: String,
    /// One of the atlas' rates; the largest unless said.
    #[arg(long, value_name = "R")]
    top_rate: Option<f64>,
}

impl MaskArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let language = Registry::builtin().resolve(&self.language).map_err(usage)?;
        let atlas = Atlas::open(&self.atlas)?;
        let model = atlas.model(self.model.as_deref())?;
        let (set, rate) = atlas.set(model, &self.method, language.code, self.top_rate)?;
        let neurons = set.len();
        let (run, _, _) = atlas.identification(model, &self.method)?;
        let table = format!("data/neurons/{}/{}.parquet", model_folder(&model.id), self.method);
        let masks = MaskSet {
            mask: Mask {
                model: model.id.clone(),
                revision: model.revision.clone(),
                method: self.method.clone(),
                top_rate: rate.rate,
                asked: rate.asked,
                run: run.run.clone(),
                table_sha256: atlas.manifest.file(&table).map(|file| file.sha256.clone()).unwrap_or_default(),
            },
            sets: BTreeMap::from([(language.code, set)]),
        };
        if let Some(bytes) = masks.bytes(self.format)? {
            output::write(&self.out, &bytes)?;
        } else {
            let rows = atlas.method(model, &self.method)?.of(language.code);
            let rows: Vec<NeuronRow> = rows.iter().filter(|row| rate.includes(row.rank)).cloned().collect();
            NeuronRow::write(&rows, &self.out)?;
        }
        let report =
            serde_json::json!({ "language": language.code, "model": model.id, "neurons": neurons, "out": self.out });
        talk.result(&report, || {
            format!(
                "{} neurons of {} ({}) in {}",
                thousands(neurons as u64),
                language.name,
                language.code,
                self.out.display()
            )
        })?;
        Ok(Outcome::Done)
    }
}
