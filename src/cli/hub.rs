//! What the commands that ask a Hub have in common: the option, and finding a model that may lie there.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{STOP, Talk, usage};
use crate::{
    checkpoint::HubModel,
    hub::{Hub, HubPath},
    output::size,
};

/// How a Hub is asked.
#[derive(Args, Clone, Default)]
pub struct HubArgs {
    /// Ask no Hub: take what its cache holds, as HF_HUB_OFFLINE=1 does.
    #[arg(long)]
    pub offline: bool,
}

/// A model on this machine, and what it is called elsewhere.
pub struct Located {
    /// The folder or the GGUF file.
    pub path: PathBuf,
    /// `owner/name` and the commit, of a model from a Hub.
    pub origin: Option<(String, String)>,
}

impl HubArgs {
    /// The Hub that the environment names.
    pub fn open(&self) -> anyhow::Result<Hub> {
        Hub::open(self.offline).map_err(usage)
    }

    /// A model by its path, or by `owner/name[/FILE.gguf][@revision]` where no such path is. What is missing of it is fetched;
    /// nothing comes back when the command was interrupted meanwhile.
    pub fn locate(&self, model: &Path, talk: &Talk) -> anyhow::Result<Option<Located>> {
        let local = || Ok(Some(Located { path: model.to_owned(), origin: None }));
        if model.exists() {
            return local();
        }
        let Some(place) = model.to_str().and_then(|text| text.parse::<HubPath>().ok()) else { return local() };
        let typed = || format!("`{}` is no folder or file here, and so a Hub was asked for it", model.display());
        let hub = self.open()?;
        let found = HubModel::find(&hub, &place).with_context(typed)?;
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
