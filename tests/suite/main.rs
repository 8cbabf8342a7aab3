//! The integration tests: the library's laws, and the program as a person meets it.

mod bad_input;
mod corpus;
mod harness;
mod identify;
mod identify_laws;
mod identify_parity;
mod language;
mod modules;
mod tokens;
