//! `neuroglot merge`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Talk};
use crate::{output::count, profile::ProfileFolder};

/// Join the folders of shards, or of several rounds of languages, of one run into one profile.
#[derive(Args)]
pub struct MergeArgs {
    /// Folders that `profile` wrote.
    #[arg(value_name = "PROFILE", required = true)]
    profiles: Vec<PathBuf>,
    /// Folder for the whole.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl MergeArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let parts = self.profiles.iter().map(|path| ProfileFolder::open(path)).collect::<Result<Vec<_>, _>>()?;
        // Whatever is wrong with a part is said before the first file is written.
        parts.iter().try_for_each(|part| parts[0].accepts(part))?;
        let whole = ProfileFolder::begin(&self.out, parts[0].head.clone())?;
        for part in &parts {
            whole.absorb(part)?;
        }
        let languages = whole.languages()?;
        let report = serde_json::json!({ "run": whole.head.run, "out": self.out, "languages": languages });
        talk.result(&report, || format!("{} in {}", count(languages.len(), "language"), self.out.display()))?;
        Ok(Outcome::Done)
    }
}
