//! A grid of methods, rates and seeds, and the table of what came out.

use serde_json::{Value, json};

use super::{positive, run::Done};
use crate::{
    adapt::{METHODS, Method},
    cli::usage,
    output::thousands,
};

/// One run of a sweep, or the only one.
#[derive(Clone)]
pub(super) struct Cell {
    pub(super) method: &'static Method,
    pub(super) rate: f64,
    pub(super) seed: u64,
}

impl Cell {
    pub(super) fn name(&self) -> String {
        format!("{}-lr{:e}-seed{}", self.method.name, self.rate, self.seed)
    }
}

/// `methods=… seeds=… rates=…`.
pub(super) fn grid(words: &[String], own: &Cell, rate: Option<f64>) -> anyhow::Result<Vec<Cell>> {
    let (mut methods, mut seeds, mut rates) =
        (vec![own.method], vec![own.seed], rate.into_iter().collect::<Vec<f64>>());
    for word in words.iter().flat_map(|word| word.split_whitespace()) {
        let wrong = || {
            usage(anyhow::anyhow!("--sweep: `{word}` is not understood; write methods=A,B seeds=1,2 rates=1e-4,3e-4"))
        };
        let (name, list) = word.split_once('=').ok_or_else(wrong)?;
        let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
        match name {
            "methods" if list == "all" => methods = METHODS.iter().collect(),
            "methods" => methods = items.map(Method::named).collect::<Result<_, _>>().map_err(usage)?,
            "seeds" => seeds = items.map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?,
            "rates" => rates = items.map(positive).collect::<Result<_, _>>().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
    }
    if methods.is_empty() || seeds.is_empty() {
        return Err(usage(anyhow::anyhow!("--sweep: a grid needs a method and a seed at least")));
    }
    let mut cells = Vec::new();
    for method in methods {
        let own = if rates.is_empty() { vec![method.rate] } else { rates.clone() };
        for rate in own {
            cells.extend(seeds.iter().map(|&seed| Cell { method, rate, seed }));
        }
    }
    Ok(cells)
}

/// Per method and rate: the mean gain over the seeds and its standard error.
pub(super) fn methods(rows: &[(Cell, Done)]) -> Vec<Value> {
    let mut groups: Vec<(&Cell, Vec<&Done>)> = Vec::new();
    for (cell, done) in rows {
        match groups
            .iter_mut()
            .find(|(first, _)| first.method.name == cell.method.name && first.rate.to_bits() == cell.rate.to_bits())
        {
            Some((_, group)) => group.push(done),
            None => groups.push((cell, vec![done])),
        }
    }
    let summary = |(cell, group): &(&Cell, Vec<&Done>)| {
        let gains: Vec<f64> = group.iter().map(|done| done.outcome.best - done.outcome.before).collect();
        let n = gains.len() as f64;
        let mean = gains.iter().sum::<f64>() / n;
        let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        json!({
            "method": cell.method.name, "rate": cell.rate, "seeds": gains.len(), "trained": group[0].head.trained,
            "change": mean, "standard_error": (gains.len() > 1).then(|| (variance / n).sqrt()),
            "relative_change": group.iter().map(|done| done.relative).sum::<f64>() / n,
        })
    };
    groups.iter().map(summary).collect()
}

pub(super) fn table(rows: &[(Cell, Done)]) -> String {
    let mut lines = vec![
        "| method | learning rate | seeds | weights | held-out loss, change in nats per token | standard error | weights moved by |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in methods(rows) {
        let error =
            row["standard_error"].as_f64().map_or_else(|| "one seed".to_owned(), |error| format!("± {error:.4}"));
        lines.push(format!(
            "| {} | {:e} | {} | {} | {:+.4} | {error} | {:.2e} |",
            row["method"].as_str().unwrap_or_default(),
            row["rate"].as_f64().unwrap_or_default(),
            row["seeds"],
            thousands(row["trained"].as_u64().unwrap_or_default()),
            row["change"].as_f64().unwrap_or_default(),
            row["relative_change"].as_f64().unwrap_or_default(),
        ));
    }
    lines.join("\n") + "\n"
}
