//! `neuroglot compare`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Talk, usage};
use crate::{
    atlas::{Atlas, Chosen, Comparison, ModelRow, Pair, Shared, Side, compare},
    language::Registry,
    output::thousands,
};

/// Compare the neurons of each language in two atlases, or of several languages in one.
///
/// Languages are matched by their codes, never by their place. Two models can be compared if their layers and widths are the same, as of a
/// base model and its fine-tuned one; that neuron 7 of one is the same as neuron 7 of the other is for you to know.
#[derive(Args)]
pub struct CompareArgs {
    /// Atlas folder; or two.
    #[arg(value_name = "ATLAS", required = true, num_args = 1..=2)]
    atlases: Vec<PathBuf>,
    /// Languages to compare: of two atlases, those that both hold unless said; of one, every pair of them.
    #[arg(long, value_name = "LIST")]
    languages: Option<String>,
    /// The model, where an atlas holds several; twice, where the two atlases' models have different names.
    #[arg(long, value_name = "ID")]
    model: Vec<String>,
    /// The method; twice, where the two differ.
    #[arg(long, default_value = "lape", value_name = "METHOD")]
    method: Vec<String>,
    /// One of the atlases' rates, the largest unless said; twice, where the two differ.
    #[arg(long, value_name = "R")]
    top_rate: Vec<f64>,
    /// Show every pair layer by layer; done anyway where there is only one.
    #[arg(long)]
    by_layer: bool,
}

impl CompareArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        for (option, given) in
            [("--model", self.model.len()), ("--method", self.method.len()), ("--top-rate", self.top_rate.len())]
        {
            if given > 2 {
                return Err(usage(anyhow::anyhow!("{option} is given {given} times, but there are at most two sides")));
            }
        }
        let atlases = self.atlases.iter().map(|path| Atlas::open(path)).collect::<Result<Vec<_>, _>>()?;
        let models = self.models(&atlases)?;
        let chosen = |side: usize| Chosen {
            atlas: &atlases[side.min(atlases.len() - 1)],
            model: models[side],
            method: of_side(&self.method, side).expect("clap gives a default"),
            top_rate: of_side(&self.top_rate, side).copied(),
        };
        let (a, b) = (chosen(0), chosen(1));
        // Two models or methods of one atlas are two sides as well.
        let one = atlases.len() == 1 && a.model.id == b.model.id && a.method == b.method && a.top_rate == b.top_rate;
        let known: Vec<_> = a.atlas.languages.iter().map(|row| row.code).collect();
        let languages = self.languages.as_deref().map(|list| Registry::builtin().resolve_order(list, &known));
        let languages = languages.transpose().map_err(usage)?;
        if one && languages.as_ref().is_some_and(|languages| languages.len() < 2) {
            return Err(usage(anyhow::anyhow!(
                "--languages names one language; name two of one atlas, or give two atlases"
            )));
        }
        let comparison = compare(&a, (!one).then_some(&b), languages.as_deref())?;
        talk.result(&comparison, || self.text(&comparison))?;
        Ok(Outcome::Done)
    }

    /// The model of either side.
    fn models<'a>(&self, atlases: &'a [Atlas]) -> anyhow::Result<[&'a ModelRow; 2]> {
        let model = |side: usize| {
            let atlas = &atlases[side.min(atlases.len() - 1)];
            atlas.model(of_side(&self.model, side).map(String::as_str))
        };
        Ok([model(0)?, model(1)?])
    }

    fn text(&self, comparison: &Comparison) -> String {
        let Comparison { a, b, shape, pairs } = comparison;
        let mut lines = if a == b { vec![side(a)] } else { vec![format!("A: {}", side(a)), format!("B: {}", side(b))] };
        lines.extend([format!("{shape}"), String::new()]);
        let name = |pair: &Pair| {
            if pair.language_a == pair.language_b {
                pair.language_a.to_string()
            } else {
                format!("{} {}", pair.language_a, pair.language_b)
            }
        };
        lines.push(heading("languages"));
        lines.extend(pairs.iter().map(|pair| row(&name(pair), &pair.total)));
        for pair in pairs.iter().filter(|_| self.by_layer || pairs.len() == 1) {
            lines.extend([String::new(), heading(&format!("{} layer", name(pair)))]);
            lines.extend(pair.layers.iter().enumerate().map(|(layer, shared)| row(&layer.to_string(), shared)));
        }
        lines.join("\n")
    }
}

/// The value of a side: its own, or the one that both share.
fn of_side<T>(values: &[T], side: usize) -> Option<&T> {
    values.get(side).or(values.first())
}

fn side(side: &Side) -> String {
    let origin = side.origin.as_ref().map_or_else(String::new, |origin| format!(", imported from {origin}"));
    format!(
        "{}, {} by {} at {:.4} among {} languages, run {}{origin}",
        side.atlas.display(),
        side.model,
        side.method,
        side.top_rate,
        side.languages,
        side.run
    )
}

fn heading(first: &str) -> String {
    format!(
        "{first:<19} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "in A", "in B", "shared", "by chance", "Jaccard", "overlap"
    )
}

fn row(first: &str, shared: &Shared) -> String {
    let share = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
    format!(
        "{first:<19} {:>9} {:>9} {:>9} {:>9.1} {:>8} {:>8}",
        thousands(shared.neurons_a as u64),
        thousands(shared.neurons_b as u64),
        thousands(shared.shared as u64),
        shared.shared_by_chance,
        share(shared.jaccard),
        share(shared.overlap_coefficient)
    )
}
