//! The rows of every table but the counts, their columns, and both ways between them: a file per table.

mod ablation;
mod adaptation;
mod coverage;
mod languages;
mod models;
mod neurons;
mod overlap;
mod runs;
mod stability;

pub(super) use self::runs::IMPORT;
pub use self::{
    ablation::AblationRow,
    adaptation::AdaptationRow,
    coverage::CoverageRow,
    languages::LanguageRow,
    models::ModelRow,
    neurons::NeuronRow,
    overlap::OverlapRow,
    runs::{IdentifyParameters, IdentifyResult, Origin, RateResult, RunRow},
    stability::StabilityRow,
};
use super::table::{Columns, Table, floats32};
