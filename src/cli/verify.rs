//! `neuroglot verify`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{
    Outcome, Talk,
    hub::{HubArgs, on_hub},
};
use crate::{atlas, release::verify_remote};

/// Check that an atlas is whole: hashes, tables, masks against tables, counts against coverage. Of a release on the Hub, every file's
/// hash against the manifest, without fetching it.
#[derive(Args)]
pub struct VerifyArgs {
    /// Atlas folder, or OWNER/NAME[@REVISION] on the Hub.
    #[arg(value_name = "ATLAS")]
    atlas: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
}

impl VerifyArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let remote = on_hub(&self.atlas)?.filter(|place| place.path.is_none());
        let (what, checks, advice) = match remote {
            Some(place) => {
                let typed = || format!("`{}` is no folder here, and so a Hub was asked for it", self.atlas.display());
                let (id, checks) =
                    verify_remote(&self.hub.open()?, &place.repo, place.revision.as_deref()).with_context(typed)?;
                (id, checks, "publish it again")
            }
            None => (self.atlas.display().to_string(), atlas::verify(&self.atlas)?, "pull or identify again"),
        };
        let wrong: Vec<_> = checks.iter().filter(|check| check.problem.is_some()).collect();
        let lines =
            wrong.iter().map(|check| format!("{}: {}", check.what, check.problem.as_deref().unwrap_or_default()));
        let lines = lines.collect::<Vec<_>>().join("\n");
        talk.result(
            &checks,
            || {
                if wrong.is_empty() { format!("{what}: whole, {} checks", checks.len()) } else { lines }
            },
        )?;
        if !wrong.is_empty() {
            anyhow::bail!("{what}: {} of {} checks failed; {advice}", wrong.len(), checks.len());
        }
        Ok(Outcome::Done)
    }
}
