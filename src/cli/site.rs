//! `neuroglot site`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Talk};
use crate::{atlas::Atlas, site};

/// Render the website of one or more atlases: static pages that need no server and load nothing from elsewhere.
#[derive(Args)]
pub struct SiteArgs {
    /// Atlas folders.
    #[arg(value_name = "ATLAS", required = true)]
    atlases: Vec<PathBuf>,
    /// Folder for the pages.
    #[arg(long, default_value = "site", value_name = "DIR")]
    out: PathBuf,
}

impl SiteArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let atlases = self.atlases.iter().map(|path| Atlas::open(path)).collect::<Result<Vec<_>, _>>()?;
        let report = site::render(&atlases, &self.out)?;
        talk.result(&report, || format!("{} pages; open {}", report.pages, report.index.display()))?;
        Ok(Outcome::Done)
    }
}
