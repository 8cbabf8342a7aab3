//! `neuroglot demo`.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use include_dir::{Dir, include_dir};

use super::{
    Outcome, Talk,
    hub::{HubArgs, Located, NameArgs},
    identify::{IdentifySettings, identify},
    place::PlaceArgs,
    profile::{ProfilePlan, ProfileSettings},
};
use crate::{
    atlas::{self, Atlas, Release},
    corpus::{CorpusSpec, DocumentUnit},
    identify::{Quantile, Rate},
    language::LanguageCode,
    model::device::{DeviceChoice, Precision},
    output::{self, thousands},
    profile::{Finish, ProfileFolder},
    site,
};

/// Profile the bundled model over the bundled sentences in 132 languages, identify, and render the website: the whole way in a
/// minute, offline.
#[derive(Args)]
pub struct DemoArgs {
    /// Folder for everything that the demo makes.
    #[arg(long, default_value = "neuroglot-demo", value_name = "DIR")]
    out: PathBuf,
}

/// The bundled model and sentences, inside the program so that the demo runs anywhere.
static BUNDLE: Dir = include_dir!("$CARGO_MANIFEST_DIR/atlas/demo");

/// Tokens per window: the length that the bundled model was trained at.
const CONTEXT: u32 = 128;
/// More than any language of the bundle has, so that every sentence is run.
const TOKENS: u64 = 4096;

impl DemoArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let bundle = self.out.join("bundle");
        unpack(&BUNDLE, &bundle)?;
        let corpus: CorpusSpec = format!("dir:{}", bundle.join("sentences").display()).parse()?;
        let model = Located { path: bundle.join("model"), origin: None };
        let plan = ProfilePlan::new(&model, &corpus, "all", TOKENS, &profile_settings(), None)?;
        talk.say(format!("profiling a model of 2.7 million parameters over {} languages", plan.languages.len()));
        let folder = ProfileFolder::begin(&self.out.join("profile"), plan.head.clone())?;
        if plan.run(&folder, talk)? == Finish::Stopped {
            talk.say("interrupted; the same command continues");
            return Ok(Outcome::Interrupted);
        }
        talk.say("identifying");
        let found = identify(&folder, &plan.languages, &identify_settings())?;
        let (selected, place) = (found.selection.neurons.len(), self.out.join("atlas"));
        atlas::build(&place, &release()?, &[found])?;
        talk.say("rendering");
        let report = site::render(&[Atlas::open(&place)?], &self.out.join("site"))?;
        let json = serde_json::json!({ "atlas": place, "site": report, "selected": selected, "languages": plan.languages.len() });
        talk.result(&json, || {
            format!(
                "{} neurons serve {} languages.\natlas    {}\nwebsite  {} pages; open {}",
                thousands(selected as u64),
                plan.languages.len(),
                place.display(),
                report.pages,
                report.index.display()
            )
        })?;
        Ok(Outcome::Done)
    }
}

fn unpack(folder: &Dir, place: &std::path::Path) -> anyhow::Result<()> {
    for file in folder.files() {
        let path = place.join(file.path());
        if std::fs::read(&path).ok().as_deref() != Some(file.contents()) {
            output::write(&path, file.contents())?;
        }
    }
    folder.dirs().try_for_each(|folder| unpack(folder, place))
}

fn profile_settings() -> ProfileSettings {
    ProfileSettings {
        context: CONTEXT,
        folds: 4,
        document: DocumentUnit::Line,
        text_column: None,
        split: crate::corpus::Split::All,
        document_separator: crate::tokens::Separator::None,
        batch_tokens: None,
        place: PlaceArgs { device: DeviceChoice::Cpu, dtype: Precision::F32 },
        name: NameArgs {
            id: Some("neuroglot/demo-2.7m".to_owned()),
            revision: None,
            licence: Some("CC-BY-SA-4.0".to_owned()),
        },
        hub: HubArgs::default(),
    }
}

fn identify_settings() -> IdentifySettings {
    let rate = |rate| Rate::try_from(rate).expect("a constant between 0 and 1");
    let quantile = Quantile::try_from(0.95).expect("a constant between 0 and 1");
    IdentifySettings {
        method: "lape".to_owned(),
        top_rate: vec![rate(0.01), rate(0.05)],
        filter_rate: quantile,
        activation_bar: quantile,
        arithmetic: "exact".to_owned(),
        matching: "per-layer".to_owned(),
        seed: 0,
        resamples: 200,
        licence: "CC0-1.0".to_owned(),
        remark: Vec::new(),
        language_remarks: None,
    }
}

fn release() -> anyhow::Result<Release> {
    let grades = BUNDLE.get_file("grades.json").expect("the bundle has grades").contents();
    let grades: BTreeMap<LanguageCode, String> = serde_json::from_slice(grades)?;
    let words = |grade: &str| match grade {
        "A" => "A (native-like)",
        "B" => "B (good)",
        _ => "C (understandable, may contain errors)",
    };
    let remark = |grade: &String| {
        format!(
            "Its sentences were written by a language model, which graded them {} itself; no speaker has reviewed them.",
            words(grade)
        )
    };
    Ok(Release {
        licence: "CC0-1.0".to_owned(),
        remarks: vec![
            "The sentences were written for this project by a language model and have not been reviewed by speakers.".to_owned(),
            "40 sentences are about 2,000 tokens per language: few for an identification. Read the stability column before you rely on a single neuron.".to_owned(),
        ],
        language_remarks: grades.iter().map(|(&language, grade)| (language, remark(grade))).collect(),
    })
}
