//! `neuroglot mask`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{Outcome, Talk, usage};
use crate::{
    atlas::{Atlas, Mask, MaskFormat, MaskSet, NeuronRow, model_folder},
    language::{LanguageCode, Registry},
    neuron::NeuronSet,
    output,
    output::thousands,
};

/// Write the neurons of one language, or of several, as a mask that other programs read.
#[derive(Args)]
pub struct MaskArgs {
    /// Atlas folder.
    #[arg(value_name = "ATLAS")]
    atlas: PathBuf,
    /// The language, in any usual spelling; or a list of them, `all`, or @FILE.
    #[arg(long, visible_alias = "languages", value_name = "LANGUAGE")]
    language: String,
    /// safetensors: bits; json: indices per layer (and expert); parquet: rows with evidence; pth: lists for torch.load, of models
    /// without experts, in the order of --language (`all` of an import: in that of the file that was imported).
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
        // What was typed is checked before what was found; `all` can only be found.
        let typed = Registry::builtin().resolve_order(&self.language, &[]).map_err(usage)?;
        let atlas = Atlas::open(&self.atlas)?;
        let model = atlas.model(self.model.as_deref())?;
        let tables = atlas.method(model, &self.method)?;
        let (run, parameters, _) = atlas.identification(model, &self.method)?;
        let languages = if typed.is_empty() { parameters.languages } else { typed };
        let mut sets = Vec::new();
        let mut rate = None;
        for &language in &languages {
            let (set, cut) = atlas.set(model, &self.method, language, self.top_rate)?;
            sets.push(set);
            rate = Some(cut);
        }
        let rate = rate.with_context(|| format!("{}: no language was compared in it", self.atlas.display()))?;
        let neurons: usize = sets.iter().map(NeuronSet::len).sum();
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
            sets: languages.iter().copied().zip(sets).collect(),
        };
        if let Some(bytes) = masks.bytes_in_order(self.format, &languages)? {
            output::write(&self.out, &bytes)?;
        } else {
            let rows = tables.neurons.iter().filter(|row| languages.contains(&row.language));
            let rows: Vec<NeuronRow> = rows.filter(|row| rate.includes(row.rank)).cloned().collect();
            NeuronRow::write(&rows, &self.out)?;
        }
        let report =
            serde_json::json!({ "languages": languages, "model": model.id, "neurons": neurons, "out": self.out });
        talk.result(&report, || {
            format!("{} neurons of {} in {}", thousands(neurons as u64), names(&languages), self.out.display())
        })?;
        if self.format == MaskFormat::Pth && languages.len() > 1 {
            let order = languages.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            talk.say(format!("a pth file does not name its languages; keep their order beside it: {order}"));
        }
        Ok(Outcome::Done)
    }
}

/// `Maltese (mlt_Latn)`, or how many languages there are.
fn names(languages: &[LanguageCode]) -> String {
    match languages {
        [code] => {
            Registry::builtin().get(*code).map_or_else(|| code.to_string(), |known| format!("{} ({code})", known.name))
        }
        many => format!("{} languages", many.len()),
    }
}
