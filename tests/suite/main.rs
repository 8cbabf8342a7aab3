//! All integration tests, in one binary.

mod atlas;
mod demo;
mod identify;
mod identify_laws;
mod identify_parity;
mod model;
mod profile;
mod readers;
mod site;
