//! The integration tests: the library's laws, and the program as a person meets it.

mod atlas;
mod bad_input;
mod bench;
mod corpus;
mod demo;
mod experts;
mod families;
mod gemma3;
mod gguf;
mod gguf_parts;
mod harness;
mod hostile;
mod identify;
mod identify_laws;
mod identify_parity;
mod import;
mod language;
mod model;
mod modules;
mod profile;
mod readers;
mod site;
mod site_pages;
mod tensors;
mod tokens;
mod zips;
