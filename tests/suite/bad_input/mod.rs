//! What a person reads when something is wrong: the exit code and the message, whole. Every message names the file, field or
//! value, says what is wanted, and leaves nothing half-written.

mod atlas;
mod command;
mod corpus;
mod model;
mod output;

use crate::harness::Sandbox;

/// `profile` over inputs that were damaged, with options that differ from the usual ones.
fn profile(damage: impl FnOnce(&Sandbox), options: &[(&str, &str)]) -> String {
    let sandbox = Sandbox::new();
    damage(&sandbox);
    let said = sandbox.profile(options);
    assert_ne!(said.code, 0, "{}", said.text());
    assert!(said.stdout.is_empty(), "{}", said.stdout);
    sandbox.holds_nothing_half_written();
    said.text()
}

fn damaged(damage: impl FnOnce(&Sandbox)) -> String {
    profile(damage, &[])
}

fn asked(options: &[(&str, &str)]) -> String {
    profile(|_| {}, options)
}

/// Another command over a profile in `out/` and an atlas in `atlas/` that were damaged.
fn after(damage: impl FnOnce(&Sandbox), arguments: &str) -> String {
    let sandbox = Sandbox::new().with_atlas();
    damage(&sandbox);
    let before = sandbox.files("");
    let said = sandbox.run(arguments);
    assert_ne!(said.code, 0, "{}", said.text());
    assert_eq!(sandbox.files(""), before, "a refused command leaves no file");
    said.text()
}
