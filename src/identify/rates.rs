//! Rates that carry their range in their type. In: text or numbers from outside. Out: quantiles and shares, and the
//! ranks that they stand for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::IdentifyError;

/// A place in a sorted list, strictly between its ends: 0 < q < 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Quantile(f64);

/// A share of a whole: 0 < r ≤ 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate(f64);

impl Quantile {
    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// The rank (from 1) of this quantile in a sorted list: `round_half_even(count · q)`, and never before the first.
    pub(super) fn rank(self, count: usize) -> usize {
        round_half_even(count as f64 * self.0).clamp(1, count)
    }

    /// For defaults that the eye can check.
    pub(super) const fn known(quantile: f64) -> Self {
        assert!(0.0 < quantile && quantile < 1.0);
        Self(quantile)
    }
}

impl Rate {
    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// How many of `count` things this rate asks for: `round_half_even(count · r)`.
    #[must_use]
    pub fn of(self, count: usize) -> usize {
        round_half_even(count as f64 * self.0)
    }

    /// For defaults that the eye can check.
    pub(super) const fn known(rate: f64) -> Self {
        assert!(0.0 < rate && rate <= 1.0);
        Self(rate)
    }
}

/// Python's `round`, by which the published code turns a rate into a rank.
fn round_half_even(value: f64) -> usize {
    value.round_ties_even() as usize
}

impl TryFrom<f64> for Quantile {
    type Error = IdentifyError;

    fn try_from(value: f64) -> Result<Self, IdentifyError> {
        let inside = 0.0 < value && value < 1.0;
        inside.then_some(Self(value)).ok_or_else(|| IdentifyError::Quantile { given: value.to_string() })
    }
}

impl TryFrom<f64> for Rate {
    type Error = IdentifyError;

    fn try_from(value: f64) -> Result<Self, IdentifyError> {
        let inside = 0.0 < value && value <= 1.0;
        inside.then_some(Self(value)).ok_or_else(|| IdentifyError::Rate { given: value.to_string() })
    }
}

impl FromStr for Quantile {
    type Err = IdentifyError;

    fn from_str(text: &str) -> Result<Self, IdentifyError> {
        let wrong = || IdentifyError::Quantile { given: text.to_owned() };
        text.parse::<f64>().map_err(|_| wrong())?.try_into().map_err(|_| wrong())
    }
}

impl FromStr for Rate {
    type Err = IdentifyError;

    fn from_str(text: &str) -> Result<Self, IdentifyError> {
        let wrong = || IdentifyError::Rate { given: text.to_owned() };
        text.parse::<f64>().map_err(|_| wrong())?.try_into().map_err(|_| wrong())
    }
}

impl From<Quantile> for f64 {
    fn from(quantile: Quantile) -> Self {
        quantile.0
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
