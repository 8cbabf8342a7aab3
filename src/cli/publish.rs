//! `neuroglot publish`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, STOP, Talk, hub::HubArgs, usage};
use crate::{
    hub::RepoId,
    output::size,
    release::{Plan, ReleaseError, Settings, Step},
};

/// Publish an atlas as a data set on the Hugging Face Hub: checked before, compared file by file after, tagged.
///
/// Whatever interrupts it, the same command continues; what is there already is not sent again. The token is taken from `HF_TOKEN`, from
/// the file that `HF_TOKEN_PATH` names, or from `hf auth login`.
#[derive(Args)]
pub struct PublishArgs {
    /// Atlas folder.
    #[arg(value_name = "ATLAS")]
    atlas: PathBuf,
    /// Where to, on the Hub.
    #[arg(long, value_name = "OWNER/NAME", value_parser = |text: &str| text.parse::<RepoId>().map_err(|error| error.to_string()))]
    repo: RepoId,
    /// Say what would be done, print the card, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Make a new repository public; private unless said.
    #[arg(long)]
    public: bool,
    /// The release; v1.0.0 at first, the next minor version after a change.
    #[arg(long, value_name = "vX.Y.Z")]
    tag: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
}

impl PublishArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let hub = self.hub.open()?;
        let settings = Settings { repo: self.repo, public: self.public, tag: self.tag };
        talk.say(format!("checking {}", self.atlas.display()));
        let plan = Plan::new(&hub, &self.atlas, &settings).map_err(|error| match error {
            ReleaseError::Tag(_) => usage(error),
            error => error.into(),
        })?;
        if self.dry_run {
            let mut json = plan.json();
            json["card"] = plan.card().into();
            talk.result(&json, || format!("{}\n\n{}", plan.words(), plan.card()))?;
            return Ok(Outcome::Done);
        }
        talk.say(plan.words());
        let progress = talk.bytes(plan.bytes());
        let done = plan.run(&progress.watch(), &STOP, |step| match step {
            Step::Created(page) => progress.line(format!("made {page}")),
            Step::Commit { number, of, files, bytes } => {
                progress.now(format!("commit {number}/{of}"));
                progress.line(format!("commit {number} of {of}: {files} files, {}; {}", size(bytes), progress.state()));
            }
            Step::Checked(commit) => progress.line(format!("  {commit}: on the Hub as sent")),
            Step::Tagged(tag) => progress.line(format!("tagged {tag}")),
        })?;
        progress.end();
        if done.interrupted {
            talk.say(format!("interrupted after {} commits; the same command continues", done.commits));
            return Ok(Outcome::Interrupted);
        }
        talk.result(&done, || {
            if done.commits == 0 {
                format!("{} {}: all files are there, no commit was made ({})", done.page, done.tag, done.commit)
            } else {
                format!(
                    "{} {} ({}): {} files, {} in {} commits",
                    done.page,
                    done.tag,
                    done.commit,
                    done.sent,
                    size(done.bytes),
                    done.commits
                )
            }
        })?;
        Ok(Outcome::Done)
    }
}
