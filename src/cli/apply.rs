//! `neuroglot apply`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Talk, hub::HubArgs};
use crate::{
    adapt::{self, Delta, DeltaHead},
    checkpoint::Checkpoint,
    output,
    release::{AdaptedModel, Artefact, Measurement, model_card},
};

/// Put a delta on its base model: a plain checkpoint that any Hugging Face loader reads, whose other bytes are the base's.
#[derive(Args)]
pub struct ApplyArgs {
    /// delta.safetensors, or the folder of the run that made it.
    #[arg(value_name = "DELTA")]
    delta: PathBuf,
    /// The base model: a folder, or OWNER/NAME[@REVISION] on the Hub.
    #[arg(long, value_name = "DIR|OWNER/NAME")]
    model: PathBuf,
    /// Folder for the checkpoint.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The base model's licence for the card, as an SPDX identifier.
    #[arg(long, value_name = "SPDX")]
    model_licence: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
}

impl ApplyArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let Some(model) = self.hub.locate(&self.model, talk)? else {
            talk.say("interrupted; the same command continues");
            return Ok(Outcome::Interrupted);
        };
        let checkpoint = Checkpoint::open(&model.path)?;
        let file = if self.delta.is_dir() { self.delta.join("delta.safetensors") } else { self.delta };
        let delta = Delta::open(&file, &checkpoint)?;
        let applied = adapt::apply(&delta, &checkpoint, &self.out)?;
        let card = card(&delta.head, Artefact::Checkpoint, self.model_licence, Vec::new());
        output::write(&self.out.join("README.md"), model_card(&card).as_bytes())?;
        talk.result(&applied, || applied.words())?;
        Ok(Outcome::Done)
    }
}

/// What a model card says of a delta.
pub(super) fn card(
    head: &DeltaHead,
    artefact: Artefact,
    licence: Option<String>,
    measurements: Vec<Measurement>,
) -> AdaptedModel {
    let name = head.base.rsplit('/').next().unwrap_or(&head.base);
    AdaptedModel {
        artefact,
        base: head.base.clone(),
        base_revision: head.revision.clone(),
        licence,
        language: head.language,
        method: head.method.clone(),
        trained: head.trained,
        parameters: head.parameters,
        atlas: head.atlas.clone(),
        corpus: head.corpus.clone(),
        tokens: head.tokens,
        run: head.run.clone(),
        measurements,
        remarks: Vec::new(),
        repo: format!("OWNER/{name}-{}", head.language),
        tag: "main".to_owned(),
    }
}
