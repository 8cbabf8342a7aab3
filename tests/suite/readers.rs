//! The demo atlas read without our code: datasets, pandas, polars, duckdb, pyarrow, safetensors and torch.

use std::{io::Write, path::Path, process::Command};

use tempfile::TempDir;

use crate::demo::committed;

/// Python with the readers' packages: `NEUROGLOT_PYTHON`, as tests/oracles/setup.sh makes it, or whatever `python3` is.
pub fn python(modules: &str) -> Option<String> {
    let python = std::env::var("NEUROGLOT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if has.is_ok_and(|run| run.status.success()) {
        return Some(python);
    }
    // Past `eprintln!`, whose words the harness keeps to itself when a test passes.
    let _ = writeln!(
        std::io::stderr(),
        "\n*** NOT RUN: {python} cannot import {modules}. Make a Python that can by `tests/oracles/setup.sh DIR full`, and set\n\
         *** NEUROGLOT_PYTHON=DIR/bin/python; without it nothing here proves that other programs read our files.\n"
    );
    None
}

pub fn read_atlas(arguments: &[&Path]) {
    let Some(python) = python("datasets, pandas, polars, duckdb, pyarrow, safetensors") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/read_atlas.py");
    let run = Command::new(python).env("PYTHONDONTWRITEBYTECODE", "1").arg(script).args(arguments).output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}

#[test]
fn datasets_pandas_polars_duckdb_and_safetensors_read_the_demo_atlas() {
    read_atlas(&[&committed()]);
}

fn mask(format: &str, out: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neuroglot"));
    command.arg("mask").arg(committed()).args(["--language", "Maltese", "--format", format, "--out"]).arg(out);
    let run = command.output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn torch_reads_the_lists_that_it_finds_in_the_other_three_formats_too() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    for (format, name) in
        [("pth", "m.pth"), ("json", "m.json"), ("parquet", "m.parquet"), ("safetensors", "m.safetensors")]
    {
        mask(format, &file(name));
    }
    let Some(python) = python("torch, polars, safetensors, numpy") else { return };
    let script = r#"
import json, sys, numpy, polars, torch
from safetensors.numpy import load_file
folder = sys.argv[1]
[lists] = torch.load(f"{folder}/m.pth", weights_only=True)
assert all(t.dtype == torch.int64 and t.dim() == 1 for t in lists), lists
lists = [t.tolist() for t in lists]
assert lists == json.load(open(f"{folder}/m.json"))["languages"]["mlt_Latn"]
bits = numpy.unpackbits(load_file(f"{folder}/m.safetensors")["mlt_Latn"], axis=1, bitorder="little")
assert lists == [numpy.flatnonzero(row).tolist() for row in bits]
rows = polars.read_parquet(f"{folder}/m.parquet").select("layer", "neuron").rows()
assert rows == [(layer, neuron) for layer, row in enumerate(lists) for neuron in row]
assert len(rows) > 0
"#;
    let run = Command::new(python).args(["-c", script]).arg(folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
