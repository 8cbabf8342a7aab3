//! neuroglot profiles decoder language models over many languages, finds the FFN neurons that serve each of them, and
//! publishes them as an atlas.
//!
//! The modules stand in the order in which the data moves, and each imports only from those above it:
//!
//! ```text
//! language -> corpus -> tokens -> model forward with an observer -> activation counts -> identification
//!          -> atlas (Parquet, masks, manifest) -> { site | adaptation -> evaluation | release to and from the Hub }
//! ```

pub mod language;
pub mod neuron;
pub mod output;
pub mod hub;
pub mod corpus;
pub mod checkpoint;
pub mod tokens;
pub mod model;
pub mod profile;
pub mod identify;
pub mod atlas;
pub mod site;
pub mod adapt;
pub mod evaluate;
pub mod release;
pub mod cli;
