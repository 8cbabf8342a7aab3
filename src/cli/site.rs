//! `neuroglot site`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{Outcome, STOP, Talk, usage};
use crate::{
    atlas::Atlas,
    site::{self, Data, SiteUrl},
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
    /// Languages of the interface beside English, or `all`. Unless said, all where the pages of a model stay below 60 MB, as those of small
    /// models do (130 MB with `--data full`), else English alone.
    #[arg(long, value_delimiter = ',', value_name = "CODES")]
    locales: Option<Vec<String>>,
    /// What goes to the browser beside the pages: `default` draws every neuron in 16 steps, `full` adds every neuron's probability in
    /// every language.
    #[arg(long, value_enum, default_value_t, value_name = "AMOUNT")]
    data: Data,
    /// Put the whole site into one zip file, too: for reading without a network.
    #[arg(long, value_name = "FILE")]
    zip: Option<PathBuf>,
    /// Then show the site on this machine, for nobody else, until Ctrl-C.
    #[arg(long)]
    serve: bool,
    /// Port of `--serve`; a free one, unless said.
    #[arg(long, default_value_t = 0, requires = "serve", value_name = "PORT")]
    port: u16,
}

impl SiteArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        site::check_locales(self.locales.as_deref()).map_err(usage)?;
        let atlases = self.atlases.iter().map(|path| Atlas::open(path)).collect::<Result<Vec<_>, _>>()?;
        let options = site::Options { url: self.site_url, locales: self.locales, data: self.data, zip: self.zip };
        let plan = site::plan(&atlases, &options)?;
        let size = site::size_text(plan.bytes);
        talk.say(format!("about {size} will be written to {}, in {}", self.out.display(), plan.locales.join(", ")));
        if plan.short {
            talk.say("in English only, since in all languages of the interface it would be too large; `--locales all` writes them");
        }
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
        if self.serve {
            let ready = |address| talk.say(format!("http://{address}/ (Ctrl-C ends it)"));
            site::serve(&self.out, self.port, &STOP, ready)
                .with_context(|| format!("{} cannot be served; choose another --port", self.out.display()))?;
        }
        Ok(Outcome::Done)
    }
}
