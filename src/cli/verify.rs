//! `neuroglot verify`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Talk};
use crate::atlas;

/// Check that an atlas is whole: hashes, tables, masks against tables, counts against coverage.
#[derive(Args)]
pub struct VerifyArgs {
    /// Atlas folder.
    #[arg(value_name = "ATLAS")]
    atlas: PathBuf,
}

impl VerifyArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let checks = atlas::verify(&self.atlas)?;
        let wrong: Vec<_> = checks.iter().filter(|check| check.problem.is_some()).collect();
        let lines =
            wrong.iter().map(|check| format!("{}: {}", check.what, check.problem.as_deref().unwrap_or_default()));
        let lines = lines.collect::<Vec<_>>().join("\n");
        talk.result(&checks, || {
            if wrong.is_empty() { format!("{}: whole, {} checks", self.atlas.display(), checks.len()) } else { lines }
        })?;
        if !wrong.is_empty() {
            anyhow::bail!(
                "{}: {} of {} checks failed; pull or identify again",
                self.atlas.display(),
                wrong.len(),
                checks.len()
            );
        }
        Ok(Outcome::Done)
    }
}
