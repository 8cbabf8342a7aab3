//! What the commands that ask a Hub have in common: the option, and finding a model that may lie there.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{STOP, Talk, usage};
use crate::{
    checkpoint::{CheckpointError, HubModel},
    hub::{Hub, HubError, HubPath},
    output::size,
};

/// How a Hub is asked.
#[derive(Args, Clone, Default)]
pub struct HubArgs {
    /// Ask no Hub: take what its cache holds, as `HF_HUB_OFFLINE=1` does.
    #[arg(long)]
    pub offline: bool,
}

/// What a model is called in what is made of it.
#[derive(Args, Clone, Debug, Default)]
pub struct NameArgs {
    /// The model's name in what is made, owner/name; the one on the Hub, or the folder's or the GGUF file's name, unless said.
    #[arg(long = "model-id", value_name = "ID")]
    pub id: Option<String>,
    /// The model's revision; of a model on the Hub, the commit that was fetched.
    #[arg(long = "model-revision", value_name = "REVISION")]
    pub revision: Option<String>,
    /// The model's licence, as an SPDX identifier.
    #[arg(long = "model-licence", value_name = "SPDX")]
    pub licence: Option<String>,
}

/// A model on this machine, and what it is called elsewhere.
pub struct Located {
    /// The folder or the GGUF file.
    pub path: PathBuf,
    /// `owner/name` and the commit, of a model from a Hub.
    pub origin: Option<(String, String)>,
}

impl Located {
    /// What the model is called in an atlas, and its revision: of a model from a Hub, the commit, whatever anybody says.
    pub fn name(&self, said: &NameArgs) -> anyhow::Result<(String, Option<String>)> {
        let NameArgs { id, revision, .. } = said;
        let Some((found, commit)) = &self.origin else {
            return Ok((id.clone().unwrap_or_else(|| folder_name(&self.path)), revision.clone()));
        };
        if revision.as_ref().is_some_and(|said| said != commit) {
            return Err(usage(anyhow::anyhow!(
                "--model-revision says otherwise than the Hub, where {found} is fetched at {commit}; write --model {found}@REVISION instead"
            )));
        }
        Ok((id.as_ref().unwrap_or(found).clone(), Some(commit.clone())))
    }
}

/// What a model is called that nobody gave a name.
pub fn folder_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = absolute.file_name().map_or_else(|| "model".into(), std::ffi::OsStr::to_string_lossy);
    name.strip_suffix(".gguf").unwrap_or(&name).to_owned()
}

/// What a person means by `owner/name`: a place on a Hub, unless it is a path here, or would be one if its last part were there.
pub fn on_hub(typed: &Path) -> anyhow::Result<Option<HubPath>> {
    let place: HubPath = match typed.to_str().map(str::parse) {
        Some(Ok(place)) if !typed.exists() => place,
        Some(Err(error @ HubError::RevisionName(_))) if !typed.exists() => return Err(usage(error)),
        _ => return Ok(None),
    };
    let is_near = typed.components().next().is_some_and(|first| Path::new(&first).is_dir());
    Ok(Some(place).filter(|place| place.revision.is_some() || !is_near))
}

impl HubArgs {
    /// The Hub that the environment names.
    pub fn open(&self) -> anyhow::Result<Hub> {
        Hub::open(self.offline).map_err(usage)
    }

    /// A model by its path, or by `owner/name[/FILE.gguf][@revision]` where no such path is. What is missing of it is fetched;
    /// nothing comes back when the command was interrupted meanwhile.
    pub fn locate(&self, model: &Path, talk: &Talk) -> anyhow::Result<Option<Located>> {
        self.fetch(model, talk, HubModel::find)
    }

    /// As [`HubArgs::locate`], without the weights.
    pub fn locate_config(&self, model: &Path, talk: &Talk) -> anyhow::Result<Option<Located>> {
        self.fetch(model, talk, HubModel::find_config)
    }

    fn fetch(
        &self,
        model: &Path,
        talk: &Talk,
        find: fn(&Hub, &HubPath) -> Result<HubModel, CheckpointError>,
    ) -> anyhow::Result<Option<Located>> {
        let local = || Ok(Some(Located { path: model.to_owned(), origin: None }));
        let Some(place) = on_hub(model)? else { return local() };
        let typed = || format!("`{}` is no folder or file here, and so a Hub was asked for it", model.display());
        let hub = self.open()?;
        let found = find(&hub, &place).with_context(typed)?;
        let missing = found.missing_bytes();
        if missing > 0 {
            let files = found.files().len();
            talk.say(format!("{}@{}: {files} files, {} to fetch", found.id(), found.commit(), size(missing)));
        }
        let progress = talk.bytes(missing);
        let path = found.fetch(&progress.watch(), &STOP)?;
        progress.end();
        Ok(path.map(|path| Located { path, origin: Some((found.id(), found.commit().to_owned())) }))
    }
}
