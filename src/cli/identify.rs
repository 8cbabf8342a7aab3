//! `neuroglot identify`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rayon::prelude::*;

use super::{Outcome, Talk, usage};
use crate::{
    atlas::{self, Evidence, Identification, IdentifyParameters, Release},
    identify::{
        Arithmetic, IdentifyOptions, LanguageCounts, Lape, METHODS, Matching, Profiles, Quantile, Rate, Resampling,
        Selection, Stability, method, overlaps,
    },
    language::{LanguageCode, Registry},
    output::thousands,
    profile::{Profile, ProfileFolder},
    tokens::Coverage,
};

/// Find the neurons that serve each language, from counts alone: no model and no GPU needed.
///
/// Every set depends on the list of languages compared: with another --languages, all sets change.
#[derive(Args)]
pub struct IdentifyArgs {
    /// Folder that `profile` wrote.
    #[arg(value_name = "PROFILE")]
    profile: PathBuf,
    /// Folder for the atlas; other models and methods that it holds stay.
    #[arg(long, value_name = "ATLAS")]
    out: PathBuf,
    /// Languages to compare: a list in any usual spelling, `all` of the profile, or @FILE.
    #[arg(long, default_value = "all", value_name = "LIST")]
    languages: String,
    #[command(flatten)]
    settings: IdentifySettings,
}

/// Settings that `identify` and `demo` share.
#[derive(Args, Clone)]
pub struct IdentifySettings {
    #[arg(long, default_value = "lape", value_name = "METHOD", value_parser = METHODS.iter().map(|m| m.name).collect::<Vec<_>>(), help = methods_help())]
    pub method: String,
    /// Share of the model's neurons to select; may be given several times.
    #[arg(long, default_value = "0.05", value_name = "R", value_parser = rate)]
    pub top_rate: Vec<Rate>,
    /// Quantile of all activation probabilities that a neuron must exceed in some language.
    #[arg(long, default_value = "0.95", value_name = "R", value_parser = quantile)]
    pub filter_rate: Quantile,
    /// Quantile of all activation probabilities above which a neuron serves a language.
    #[arg(long, default_value = "0.95", value_name = "R", value_parser = quantile)]
    pub activation_bar: Quantile,
    /// `exact` computes in f64; `reference` in f32 as the published code does.
    #[arg(long, default_value = "exact", value_parser = ["exact", "reference"])]
    pub arithmetic: String,
    /// Whether the random control matches the neurons per layer or overall.
    #[arg(long, default_value = "per-layer", value_parser = ["per-layer", "overall"])]
    pub matching: String,
    /// Seed of draws.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Resamples behind the selection frequencies; 0 leaves them out.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub resamples: u32,
    /// SPDX identifier of the licence of the atlas' tables and masks.
    #[arg(long, default_value = "CC-BY-4.0", value_name = "SPDX")]
    pub licence: String,
    /// A remark for the atlas' card, such as where the text comes from; may be given several times.
    #[arg(long, value_name = "SENTENCE")]
    pub remark: Vec<String>,
    /// JSON object from language codes to a remark on that language's text.
    #[arg(long, value_name = "FILE")]
    pub language_remarks: Option<PathBuf>,
}

impl IdentifySettings {
    pub fn release(&self) -> anyhow::Result<Release> {
        let language_remarks = match &self.language_remarks {
            None => std::collections::BTreeMap::new(),
            Some(path) => {
                let json = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
                serde_json::from_slice(&json)
                    .with_context(|| format!("{}: is no JSON object from language codes to remarks", path.display()))?
            }
        };
        Ok(Release { licence: self.licence.clone(), remarks: self.remark.clone(), language_remarks })
    }
}

fn methods_help() -> String {
    let rows: Vec<String> = METHODS.iter().map(|method| format!("{}: {}", method.name, method.help)).collect();
    format!("How to find them. {}", rows.join("; "))
}

fn rate(text: &str) -> Result<Rate, String> {
    text.parse().map_err(|error: crate::identify::IdentifyError| error.to_string())
}

fn quantile(text: &str) -> Result<Quantile, String> {
    text.parse().map_err(|error: crate::identify::IdentifyError| error.to_string())
}

impl IdentifyArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let profile = ProfileFolder::open(&self.profile)?;
        let there = profile.languages()?;
        if there.is_empty() {
            anyhow::bail!("{}: no language is finished yet; run `neuroglot profile` again", self.profile.display());
        }
        let languages = Registry::builtin().resolve_list(&self.languages, &there).map_err(usage)?;
        if let Some(missing) = languages.iter().find(|language| !there.contains(language)) {
            anyhow::bail!(
                "{}: {missing} has not been profiled; run `neuroglot profile --languages {missing}` with the same settings",
                self.profile.display()
            );
        }
        atlas::check_place(&self.out)?;
        let release = self.settings.release()?;
        let found = identify(&profile, &languages, &self.settings)?;
        let selection = found.selection.clone();
        let manifest = atlas::build(&self.out, &release, &[found])?;
        let report =
            serde_json::json!({ "atlas": self.out, "totals": manifest.totals, "selection": report(&selection) });
        talk.result(&report, || text(&selection, &self.out))?;
        talk.say(format!("next: neuroglot site {} --out site", self.out.display()));
        Ok(Outcome::Done)
    }
}

fn report(selection: &Selection) -> serde_json::Value {
    let languages = selection.languages.iter().enumerate();
    let sizes: serde_json::Map<String, serde_json::Value> =
        languages.map(|(at, language)| (language.to_string(), selection.set(at).len().into())).collect();
    serde_json::json!({
        "method": selection.method,
        "filter_bar": selection.filter_bar,
        "activation_bar": selection.activation_bar,
        "entropy_cut": selection.entropy_cut,
        "finite": selection.finite,
        "asked": selection.asked,
        "selected": selection.neurons.len(),
        "languages": sizes,
        "notes": selection.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn text(selection: &Selection, out: &std::path::Path) -> String {
    let mut sizes: Vec<(usize, LanguageCode)> =
        selection.languages.iter().enumerate().map(|(at, &language)| (selection.set(at).len(), language)).collect();
    sizes.sort();
    let empty = sizes.iter().filter(|(size, _)| *size == 0).count();
    let mut lines = vec![format!(
        "{} of {} neurons serve {} of {} languages",
        thousands(selection.neurons.len() as u64),
        thousands(selection.shape.neurons() as u64),
        sizes.len() - empty,
        sizes.len()
    )];
    if let (Some((fewest, a)), Some((most, b))) = (sizes.first(), sizes.last()) {
        lines.push(format!("from {fewest} ({a}) to {most} ({b}) neurons per language"));
    }
    lines.extend(selection.notes.iter().map(|note| format!("note: {note}")));
    lines.push(format!("atlas in {}", out.display()));
    lines.join("\n")
}

/// Reads the counts and identifies, with all evidence that counts alone can give.
pub fn identify<'a>(
    profile: &'a ProfileFolder,
    languages: &[LanguageCode],
    settings: &IdentifySettings,
) -> anyhow::Result<Identification<'a>> {
    let (counts, (coverage, means)) = read(profile, languages)?;
    let profiles = Profiles::new(profile.head.model.spec.ffn, counts)?;
    let mut rates = settings.top_rate.clone();
    rates.sort_by(|a, b| a.get().total_cmp(&b.get()));
    rates.dedup();
    let options = IdentifyOptions {
        filter_rate: settings.filter_rate,
        activation_bar: settings.activation_bar,
        top_rate: *rates.last().expect("clap gives a default"),
        arithmetic: settings.arithmetic.parse::<Arithmetic>()?,
        seed: settings.seed,
        matching: settings.matching.parse::<Matching>()?,
    };
    let row = method(&settings.method)?;
    let selection = (row.build)(&options).identify(&profiles)?;
    // A ranking is cut at every rate; a control that ranks nothing has only its own.
    let cuts: Vec<(f64, Selection)> =
        match rates.iter().map(|&rate| Ok((rate.get(), selection.at_rate(rate)?))).collect() {
            Ok(cuts) => cuts,
            Err(crate::identify::IdentifyError::NotRanked { .. }) => vec![(options.top_rate.get(), selection.clone())],
            Err(error) => return Err(error.into()),
        };
    let lape = Lape {
        filter_rate: options.filter_rate,
        activation_bar: options.activation_bar,
        top_rate: options.top_rate,
        arithmetic: options.arithmetic,
    };
    let resampling = Resampling { resamples: settings.resamples, seed: settings.seed };
    let stable = settings.resamples > 0 && selection.method == "lape";
    let stability = if stable { Some(Stability::estimate(&lape, &profiles, &selection, resampling)?) } else { None };
    let evidence = Evidence { overlaps: overlaps(&profiles, &selection)?, stability };
    let parameters = IdentifyParameters {
        profile: Some(profile.head.run.clone()),
        method: settings.method.clone(),
        filter_rate: Some(options.filter_rate.get()),
        activation_bar: Some(options.activation_bar.get()),
        top_rates: cuts.iter().map(|(rate, _)| *rate).collect(),
        arithmetic: Some(settings.arithmetic.clone()),
        seed: settings.seed,
        resamples: if stable { settings.resamples } else { 0 },
        languages: languages.to_vec(),
        origin: None,
    };
    Ok(Identification { profile, coverage, means, parameters, selection, rates: cuts, evidence })
}

type Read = (Vec<LanguageCounts>, (Vec<Coverage>, Vec<Vec<f32>>));

/// The counts of every language, narrowed as they are read: 132 languages of an 8B model would not fit otherwise.
fn read(profile: &ProfileFolder, languages: &[LanguageCode]) -> anyhow::Result<Read> {
    let read =
        languages.par_iter().map(|&language| narrow(profile.read(language)?)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(read.into_iter().map(|(counts, coverage, means)| (counts, (coverage, means))).unzip())
}

fn narrow(profile: Profile) -> anyhow::Result<(LanguageCounts, Coverage, Vec<f32>)> {
    let Profile { coverage, tally } = profile;
    let shape = tally.shape();
    let narrow = |active: &Vec<u64>| active.iter().map(|&n| u32::try_from(n)).collect::<Result<Vec<u32>, _>>();
    let folds = tally.active.iter().map(narrow).collect::<Result<Vec<_>, _>>();
    let Ok(fold_active) = folds else {
        anyhow::bail!("{}: more than 4,294,967,295 active tokens in one fold; profile fewer tokens", coverage.language);
    };
    let total = |at: usize| fold_active.iter().try_fold(0u32, |sum, fold| sum.checked_add(fold[at]));
    let Some(active) = (0..shape.neurons()).map(total).collect::<Option<Vec<u32>>>() else {
        anyhow::bail!("{}: more than 4,294,967,295 active tokens; profile fewer tokens", coverage.language);
    };
    let counts = LanguageCounts {
        language: coverage.language,
        fold_tokens: coverage.fold_tokens.clone(),
        active,
        fold_active,
        fold_routed: tally.routed,
    };
    // Over the tokens that the neuron's feed-forward network gets.
    let means = tally.sum.chunks(shape.width).enumerate().flat_map(|(ffn, sums)| {
        let tokens = counts.tokens_of(ffn).max(1) as f64;
        sums.iter().map(move |sum| (sum / tokens) as f32)
    });
    let means = means.collect();
    Ok((counts, coverage, means))
}
