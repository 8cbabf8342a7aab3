//! `neuroglot pull`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, STOP, Talk, hub::HubArgs};
use crate::{
    hub::RepoId,
    output::size,
    release::{Choice, Pull, Pulled},
};

/// Fetch an atlas from the Hugging Face Hub, all of it or what is needed for some models, methods or languages; every file is checked.
#[derive(Args)]
pub struct PullArgs {
    /// The data set on the Hub.
    #[arg(value_name = "OWNER/NAME", value_parser = |text: &str| text.parse::<RepoId>().map_err(|error| error.to_string()))]
    repo: RepoId,
    /// A release such as v1.0.0, a branch or a commit; the newest state unless said.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Only these models, by their ids in the atlas, separated by commas.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    model: Vec<String>,
    /// Only these methods, separated by commas.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    method: Vec<String>,
    /// Masks and tables for these languages, in any usual spelling, without the counts: a mask file holds all languages of a model in a
    /// few megabytes, and `mask` cuts one out of it.
    #[arg(long, value_name = "LIST")]
    languages: Option<String>,
    /// With --languages, the counts as well.
    #[arg(long, requires = "languages")]
    counts: bool,
    /// Folder for the atlas; one of an earlier pull is brought up to date.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
}

impl PullArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let hub = self.hub.open()?;
        let choice =
            Choice { models: self.model, methods: self.method, languages: self.languages, counts: self.counts };
        let (pull, languages) = Pull::new(&hub, &self.repo, self.revision.as_deref(), &choice, &self.out)?;
        if pull.files() > 0 {
            talk.say(format!("{}: {} files, {} to fetch", self.repo, pull.files(), size(pull.bytes())));
        }
        let progress = talk.bytes(pull.bytes());
        let done = Pulled { languages, ..pull.run(&progress.watch(), &STOP)? };
        progress.end();
        if done.interrupted {
            talk.say("interrupted; the same command continues");
            return Ok(Outcome::Interrupted);
        }
        talk.result(&done, || {
            let release = done.release.as_deref().unwrap_or("no release");
            format!(
                "{} {release} ({}) in {}: {} files fetched ({}), {} were there",
                done.repo,
                done.commit,
                done.out.display(),
                done.fetched,
                size(done.bytes),
                done.kept
            )
        })?;
        if let Some(language) = done.languages.first() {
            talk.say(format!(
                "next: neuroglot mask {} --language {language} --out {language}.safetensors",
                done.out.display()
            ));
        }
        Ok(Outcome::Done)
    }
}
