//! The tree tells the story: the order of the modules, and the tables that the help is made from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use neuroglot::{
    corpus::{PRESETS, SOURCES},
    evaluate::{FORMATS, TASKS},
    identify::METHODS,
    model::family::FAMILIES,
};

use crate::harness::Sandbox;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The modules in the order in which lib.rs declares them.
fn order() -> Vec<String> {
    let text = fs::read_to_string(Path::new(SOURCE).join("lib.rs")).unwrap();
    let name = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    text.lines().filter_map(name).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The modules that a source text names after `crate::`, in a `use` or in a path, one by one or in braces.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    code.split("crate::").skip(1).flat_map(heads).collect()
}

/// `language`, or the first word of every item of `{language::{…}, output::hex}`.
fn heads(text: &str) -> Vec<String> {
    let word =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(items) = text.strip_prefix('{') else { return vec![word(text)] };
    let mut depth = 0;
    let mut found = vec![word(items)];
    for (at, c) in items.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => found.push(word(&items[at + 1..])),
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn imports_are_read_in_every_form() {
    let text = "use crate::language::Registry;\nuse crate::{\n    corpus::{self, Corpus},\n    tokens,\n};\nlet x = crate::output::hex(b\"\");\n// crate::not_this\n";
    assert_eq!(imports(text), ["language", "corpus", "tokens", "output"]);
}

#[test]
fn no_module_imports_one_that_stands_after_it() {
    let order = order();
    assert!(order.len() >= 10, "{order:?}");
    let place = |module: &str| order.iter().position(|name| name == module);
    let mut read = 0;
    for file in files(Path::new(SOURCE)) {
        let inside = file.strip_prefix(SOURCE).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = place(module) else {
            assert!(["lib", "main"].contains(&module), "{} is not declared in lib.rs", file.display());
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let other = place(&import).unwrap_or_else(|| panic!("{}: crate::{import} is no module", file.display()));
            assert!(other <= own, "{}: {module} stands before {import} and imports it", file.display());
            read += 1;
        }
    }
    assert!(read > 50, "only {read} imports were found");
}

#[test]
fn every_row_of_the_tables_stands_in_the_help_of_its_command() {
    let sandbox = Sandbox::empty();
    // Lines are broken at the width of a terminal.
    let help = |command: &str| {
        let text = sandbox.run(&format!("{command} --help")).done().stdout;
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let profile = help("profile");
    for source in SOURCES {
        assert!(profile.contains(&format!("{}:{}", source.name, source.place)), "{}", source.name);
        assert!(profile.contains(source.help), "{}", source.help);
    }
    for preset in PRESETS {
        assert!(profile.contains(&format!("{}[@REVISION], {}", preset.name, preset.help)), "{}", preset.name);
    }
    for family in FAMILIES {
        assert!(profile.contains(family.model_type) && profile.contains(family.models), "{}", family.model_type);
    }
    let identify = help("identify");
    for method in METHODS {
        assert!(identify.contains(&format!("{}: {}", method.name, method.help)), "{}", method.name);
    }
}

#[test]
fn the_rows_of_a_table_have_different_names() {
    let names = |mut names: Vec<&'static str>| {
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    };
    names(SOURCES.iter().map(|source| source.name).chain(PRESETS.iter().map(|preset| preset.name)).collect());
    names(TASKS.iter().map(|task| task.name).chain(FORMATS.iter().map(|format| format.name)).collect());
    names(FAMILIES.iter().map(|family| family.model_type).collect());
    names(METHODS.iter().map(|method| method.name).collect());
}
