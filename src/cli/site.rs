//! `neuroglot site`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Talk};
use crate::{
    atlas::Atlas,
    site::{self, SiteUrl},
};

/// Render the website of one or more atlases: static pages that need no server and load nothing from elsewhere.
#[derive(Args)]
pub struct SiteArgs {
    /// Atlas folders.
    #[arg(value_name = "ATLAS", required = true)]
    atlases: Vec<PathBuf>,
    /// Folder for the pages.
    #[arg(long, default_value = "site", value_name = "DIR")]
    out: PathBuf,
    /// Where the site will stand, such as `https://example.org/atlas`: adds canonical links, a sitemap, and pictures for shared links.
    #[arg(long, value_name = "URL")]
    site_url: Option<SiteUrl>,
    /// Languages of the interface beside English; all, unless said.
    #[arg(long, value_delimiter = ',', value_name = "CODES")]
    locales: Option<Vec<String>>,
}

impl SiteArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let atlases = self.atlases.iter().map(|path| Atlas::open(path)).collect::<Result<Vec<_>, _>>()?;
        let options = site::Options { url: self.site_url, locales: self.locales, ..site::Options::default() };
        let report = site::render_with(&atlases, &self.out, &options)?;
        talk.result(&report, || {
            format!(
                "{} pages, {} files ({} new or changed, {} removed); open {}",
                report.pages,
                report.files,
                report.changed,
                report.removed,
                report.index.display()
            )
        })?;
        Ok(Outcome::Done)
    }
}
