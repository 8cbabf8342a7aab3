//! All integration tests, in one binary.

mod identify;
mod identify_laws;
mod identify_parity;
mod model;
