//! Values with standard errors, of units that were drawn independently of one another.

use super::{Better, Score, Spread};

/// Σ values / n.
#[must_use]
pub fn mean(metric: &str, better: Better, values: &[f64]) -> Score {
    ratio(metric, better, values, &vec![1.0; values.len()])
}

/// Σ values / Σ sizes. Units are of different sizes, so that the sizes vary too; the influence of unit i is
/// `(y_i − R x_i) / x̄` (the delta method; Cochran 1977, §6.4).
#[must_use]
pub fn ratio(metric: &str, better: Better, values: &[f64], sizes: &[f64]) -> Score {
    let total: f64 = sizes.iter().sum();
    let value = values.iter().sum::<f64>() / total;
    let mean_size = total / sizes.len() as f64;
    let influence = values.iter().zip(sizes).map(|(y, x)| (y - value * x) / mean_size).collect();
    of_influence(metric, better, value, influence)
}

/// A function of what all units sum up to, given its value without each of them (the jackknife; Efron 1982): the influence of unit i is
/// `(n − 1) (mean of all leave-one-out values − that without i)`.
#[must_use]
pub fn jackknife(metric: &str, better: Better, value: f64, without: &[f64]) -> Score {
    let n = without.len() as f64;
    let centre = without.iter().sum::<f64>() / n;
    let influence = without.iter().map(|value| (n - 1.0) * (centre - value)).collect();
    of_influence(metric, better, value, influence)
}

/// A smooth function of a score: value and influences, the latter times the slope.
#[must_use]
pub fn mapped(metric: &str, score: &Score, value: f64, slope: f64) -> Score {
    let Spread::Influence(influence) = &score.spread else { unreachable!("ratios have influences") };
    of_influence(metric, score.better, value, influence.iter().map(|d| d * slope).collect())
}

fn of_influence(metric: &str, better: Better, value: f64, influence: Vec<f64>) -> Score {
    let spread = Spread::Influence(influence);
    Score { metric: metric.to_owned(), value, stderr: spread.stderr(), better, spread }
}

/// A value with its resamples.
#[must_use]
pub fn bootstrap(metric: &str, better: Better, value: f64, resamples: Vec<f64>) -> Score {
    let spread = Spread::Resamples(resamples);
    Score { metric: metric.to_owned(), value, stderr: spread.stderr(), better, spread }
}

impl Spread {
    /// The standard error.
    #[must_use]
    pub fn stderr(&self) -> Option<f64> {
        match self {
            Self::Influence(influence) => {
                let n = influence.len() as f64;
                (n > 1.0).then(|| (influence.iter().map(|d| d * d).sum::<f64>() / (n * (n - 1.0))).sqrt())
            }
            Self::Resamples(values) => {
                let n = values.len() as f64;
                let mean = values.iter().sum::<f64>() / n;
                let square = |value: &f64| (value - mean) * (value - mean);
                (n > 1.0).then(|| (values.iter().map(square).sum::<f64>() / (n - 1.0)).sqrt())
            }
        }
    }

    /// That of the difference to another of the same units, in which what both share is gone.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Option<Self> {
        let paired = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        match (self, other) {
            (Self::Influence(a), Self::Influence(b)) if a.len() == b.len() => Some(Self::Influence(paired(a, b))),
            (Self::Resamples(a), Self::Resamples(b)) if a.len() == b.len() => Some(Self::Resamples(paired(a, b))),
            _ => None,
        }
    }
}
