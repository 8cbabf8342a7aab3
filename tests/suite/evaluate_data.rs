//! Questions as they are published: Parquet with lists and structures, data sets on a Hub, parts of them.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray},
    datatypes::{Field, Schema},
};
use neuroglot::evaluate::Evaluation;
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use crate::{
    harness::{Sandbox, command, said},
    hub::{Hub, Kind},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::empty();
    std::os::unix::fs::symlink(Path::new(ROOT).join("atlas/demo/model"), sandbox.path("model")).unwrap();
    std::os::unix::fs::symlink(Path::new(ROOT).join("tests/fixtures/evaluate"), sandbox.path("data")).unwrap();
    sandbox
}

fn records(name: &str) -> Vec<Value> {
    let path = Path::new(ROOT).join("tests/fixtures/evaluate").join(name);
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(rows: &[Value], field: &str) -> StringArray {
    rows.iter().map(|row| row[field].as_str()).collect()
}

fn lists(rows: &[&Value]) -> ListArray {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for row in rows {
        row.as_array().unwrap().iter().for_each(|text| builder.values().append_value(text.as_str().unwrap()));
        builder.append(true);
    }
    builder.finish()
}

fn table(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// MMLU as it is published: a list of answers, and the number of the right one.
fn mmlu() -> Vec<u8> {
    let rows = records("mmlu/eng_Latn.jsonl");
    let answers: Int64Array = rows.iter().map(|row| row["answer"].as_i64()).collect();
    let choices = lists(&rows.iter().map(|row| &row["choices"]).collect::<Vec<_>>());
    table(vec![
        ("question", Arc::new(texts(&rows, "question"))),
        ("subject", Arc::new(texts(&rows, "subject"))),
        ("choices", Arc::new(choices)),
        ("answer", Arc::new(answers)),
    ])
}

/// ARC as it is published: a structure of two lists.
fn arc() -> Vec<u8> {
    let rows = records("arc/eng_Latn.jsonl");
    let part =
        |name: &str| -> ArrayRef { Arc::new(lists(&rows.iter().map(|row| &row["choices"][name]).collect::<Vec<_>>())) };
    let (text, label) = (part("text"), part("label"));
    let field = |name: &str, list: &ArrayRef| Arc::new(Field::new(name, list.data_type().clone(), true));
    let choices =
        StructArray::from(vec![(field("text", &text), text.clone()), (field("label", &label), label.clone())]);
    table(vec![
        ("id", Arc::new(texts(&rows, "id"))),
        ("question", Arc::new(texts(&rows, "question"))),
        ("choices", Arc::new(choices)),
        ("answerKey", Arc::new(texts(&rows, "answerKey"))),
    ])
}

#[test]
fn parquet_with_lists_and_structures_holds_the_same_items_as_lines_of_json() {
    let sandbox = sandbox();
    sandbox.write("mmlu/eng_Latn/test.parquet", mmlu());
    sandbox.write("arc.parquet", arc());
    let reports = |task: &str, out: &str| {
        sandbox.run(&format!("evaluate --model model --task {task} --out {out}")).done();
        Evaluation::read(&sandbox.path(out)).unwrap().reports
    };
    assert_eq!(reports("mmlu=parquet:mmlu", "a.json"), reports("mmlu=jsonl:data/mmlu", "b.json"));
    // A single file of a set in English says no language and needs none.
    assert_eq!(reports("arc=arc.parquet", "c.json"), reports("arc=jsonl:data/arc", "d.json"));
    let broken = mmlu();
    sandbox.write("broken.parquet", &broken[..broken.len() / 2]);
    let said = sandbox.run("evaluate --model model --task mmlu=broken.parquet --out e.json");
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("broken.parquet: is not a readable Parquet file"), "{}", said.stderr);
    sandbox.write("numbers.parquet", table(vec![("question", Arc::new(Int64Array::from(vec![1])))]));
    let said = sandbox.run("evaluate --model model --task mmlu=numbers.parquet --out e.json");
    assert!(said.stderr.contains("numbers.parquet, row 1: has no field `choices`, but question"), "{}", said.stderr);
}

#[test]
fn published_sets_are_fetched_from_the_hub_one_language_at_a_time() {
    let (hub, sandbox) = (Hub::start(), sandbox());
    let file = |name: &str| std::fs::read(Path::new(ROOT).join("tests/fixtures/evaluate").join(name)).unwrap();
    hub.push(
        "facebook",
        Kind::Dataset,
        "facebook/belebele",
        [
            ("data/eng_Latn.jsonl", file("belebele/eng_Latn.jsonl")),
            ("data/deu_Latn.jsonl", file("belebele/deu_Latn.jsonl")),
            ("README.md", b"# Belebele".to_vec()),
        ],
    );
    hub.push(
        "cais",
        Kind::Dataset,
        "cais/mmlu",
        [
            ("all/dev-00000-of-00001.parquet", b"not read".to_vec()),
            ("all/test-00000-of-00001.parquet", mmlu()),
            ("abstract_algebra/test-00000-of-00001.parquet", b"not read".to_vec()),
        ],
    );
    let ask = |arguments: &str| {
        let folder = sandbox.path("");
        let mut command = command(&folder, arguments.split_whitespace());
        command.env("HF_ENDPOINT", hub.endpoint());
        said(&folder, &command.output().unwrap())
    };
    ask("evaluate --model model --task belebele,mmlu --languages en --out out.json").done();
    let found = Evaluation::read(&sandbox.path("out.json")).unwrap();
    sandbox.run("evaluate --model model --task belebele=jsonl:data/belebele,mmlu=jsonl:data/mmlu --languages en --out local.json").done();
    assert_eq!(found.reports, Evaluation::read(&sandbox.path("local.json")).unwrap().reports);
    let commit = found.parameters.tasks[0].settings["data"].as_str().unwrap();
    assert!(commit.starts_with("hub:facebook/belebele@") && commit.len() > 50, "{commit}");
    let fetched: Vec<String> =
        hub.requests().iter().map(|seen| seen.path.clone()).filter(|path| path.contains("/resolve/")).collect();
    assert!(fetched.iter().any(|path| path.ends_with("eng_Latn.jsonl")), "{fetched:?}");
    assert!(
        !fetched
            .iter()
            .any(|path| path.ends_with("deu_Latn.jsonl") || path.contains("dev-") || path.contains("abstract")),
        "{fetched:?}"
    );
}
