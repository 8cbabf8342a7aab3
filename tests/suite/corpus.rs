//! What a document is, for every kind of corpus and every way of cutting text.

use std::{io::Write, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use neuroglot::{
    corpus::{self, Corpus, CorpusOptions, Document, DocumentUnit, Notes, Split},
    language::LanguageCode,
};
use parquet::arrow::ArrowWriter;

use crate::harness::Sandbox;

/// Writes a table of text columns.
pub fn table(path: &Path, columns: &[(&str, &[Option<&str>])]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let column = |(_, values): &(&str, &[Option<&str>])| Arc::new(values.iter().collect::<StringArray>()) as ArrayRef;
    let batch = RecordBatch::try_new(schema.clone(), columns.iter().map(column).collect()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

pub fn code(text: &str) -> LanguageCode {
    text.parse().unwrap()
}

fn open(sandbox: &Sandbox, kind: &str, name: &str, unit: DocumentUnit) -> Box<dyn Corpus> {
    let options = CorpusOptions { unit, text_column: None, ..CorpusOptions::default() };
    corpus::open(&format!("{kind}:{}", sandbox.path(name).display()).parse().unwrap(), &options).unwrap()
}

fn texts(corpus: &dyn Corpus, language: &str, split: Split) -> (Vec<String>, Notes) {
    let mut documents = corpus.documents(code(language), split).unwrap();
    let texts = documents
        .by_ref()
        .map(|document| match document.unwrap() {
            Document::Text(text) => text,
            Document::Ids(ids) => panic!("{ids:?} is no text"),
        })
        .collect();
    let notes = documents.notes().clone();
    (texts, notes)
}

/// The documents of one Maltese file of a `dir:` corpus.
fn cut(text: &str, unit: DocumentUnit) -> Vec<String> {
    let sandbox = Sandbox::empty();
    sandbox.write("text/mlt_Latn.txt", text);
    texts(open(&sandbox, "dir", "text", unit).as_ref(), "mlt_Latn", Split::All).0
}

#[test]
fn blank_lines_part_paragraphs_and_belong_to_none() {
    let text = "\n \none\ntwo\n\n\t\r\n\nthree\r\nfour";
    assert_eq!(cut(text, DocumentUnit::Auto), ["one\ntwo\n", "three\r\nfour"]);
    assert_eq!(cut(text, DocumentUnit::Paragraph), cut(text, DocumentUnit::Auto));
}

#[test]
fn every_line_or_every_file_is_a_document_when_asked() {
    let text = "one\ntwo\n\nthree\n";
    assert_eq!(cut(text, DocumentUnit::Line), ["one\n", "two\n", "three\n"]);
    assert_eq!(cut(text, DocumentUnit::File), [text]);
}

#[test]
fn document_ids_part_the_lines_of_every_language_alike() {
    let sandbox = Sandbox::empty();
    sandbox.write("text/DOCUMENT_IDS.tsv", "a\na\nb\nb\na\n");
    sandbox.write("text/mlt_Latn.txt", "1\n2\n3\n4\n5\n");
    sandbox.write("text/cym_Latn.txt", "I\nII\nIII\nIV\nV");
    let corpus = open(&sandbox, "dir", "text", DocumentUnit::Auto);
    assert_eq!(corpus.unit(), "document-ids");
    assert_eq!(texts(corpus.as_ref(), "mlt_Latn", Split::All).0, ["1\n2\n", "3\n4\n", "5\n"]);
    assert_eq!(texts(corpus.as_ref(), "cym_Latn", Split::All).0, ["I\nII\n", "III\nIV\n", "V"]);
    let lines = open(&sandbox, "dir", "text", DocumentUnit::Line);
    assert_eq!(lines.unit(), "line");
    assert_eq!(texts(lines.as_ref(), "mlt_Latn", Split::All).0.len(), 5);
}

#[test]
fn a_folder_of_a_language_is_read_file_by_file_in_the_order_of_names() {
    let sandbox = Sandbox::empty();
    sandbox.write("text/mt/b.txt", "second");
    sandbox.write("text/mt/a.txt", "first\n\nfirst again");
    sandbox.write("text/mt/notes.md", "no text");
    sandbox.write("text/Welsh.txt", "other");
    let corpus = open(&sandbox, "dir", "text", DocumentUnit::Auto);
    assert_eq!(corpus.languages(), [code("cym_Latn"), code("mlt_Latn")]);
    assert_eq!(texts(corpus.as_ref(), "mlt_Latn", Split::All).0, ["first\n", "first again", "second"]);
}

#[test]
fn packed_files_give_the_same_documents_and_the_same_hash() {
    let text = "one\ntwo\n\nthree\n";
    let sandbox = Sandbox::empty();
    sandbox.write("plain/mlt_Latn.txt", text);
    sandbox.write("zst/mlt_Latn.txt.zst", zstd::encode_all(text.as_bytes(), 3).unwrap());
    // Two members, as parallel compressors write them.
    let member = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    sandbox.write("gz/mlt_Latn.txt.gz", [member(&text[..6]), member(&text[6..])].concat());
    let read = |name| {
        let corpus = open(&sandbox, "dir", name, DocumentUnit::Auto);
        let mut documents = corpus.documents(code("mlt_Latn"), Split::All).unwrap();
        let all: Vec<Document> = documents.by_ref().map(Result::unwrap).collect();
        (all, documents.sha256())
    };
    assert_eq!(read("plain").0.len(), 2);
    assert_eq!(read("gz"), read("plain"));
    assert_eq!(read("zst"), read("plain"));
}

#[test]
fn the_hash_tells_texts_and_their_borders_apart() {
    let hash = |text: &str, unit| {
        let sandbox = Sandbox::empty();
        sandbox.write("text/mlt_Latn.txt", text);
        let mut documents = open(&sandbox, "dir", "text", unit).documents(code("mlt_Latn"), Split::All).unwrap();
        documents.by_ref().for_each(|document| drop(document.unwrap()));
        documents.sha256()
    };
    assert_eq!(hash("a\nb\n", DocumentUnit::Line), hash("a\nb\n", DocumentUnit::Line));
    assert_ne!(hash("a\nb\n", DocumentUnit::Line), hash("a\nb\n", DocumentUnit::File));
    assert_ne!(hash("a\nb\n", DocumentUnit::Line), hash("a\nc\n", DocumentUnit::Line));
}

#[test]
fn json_lines_and_tables_give_the_same_documents() {
    let sandbox = Sandbox::empty();
    let rows = r#"{"text": "one", "n": 1}
{"text": ""}

{"text": null}
{"text": "two\nlines"}
"#;
    sandbox.write("jsonl/mlt.jsonl", rows);
    sandbox.write("zst/mlt.ndjson.zst", zstd::encode_all(rows.as_bytes(), 3).unwrap());
    table(&sandbox.path("parquet/mlt.parquet"), &[("text", &[Some("one"), Some(""), None, Some("two\nlines")])]);
    for (kind, name) in [("jsonl", "jsonl"), ("jsonl", "zst"), ("parquet", "parquet")] {
        let corpus = open(&sandbox, kind, name, DocumentUnit::Auto);
        assert_eq!(corpus.unit(), "row");
        let (texts, notes) = texts(corpus.as_ref(), "mlt_Latn", Split::All);
        assert_eq!(texts, ["one", "two\nlines"], "{name}");
        assert_eq!((notes.documents, notes.empty_documents, notes.bytes), (2, 2, 12), "{name}");
    }
}

#[test]
fn one_file_of_many_languages_is_parted_by_its_language_column() {
    let sandbox = Sandbox::empty();
    sandbox.write(
        "all.jsonl",
        "{\"text\": \"bonġu\", \"lang\": \"mt\"}\n{\"text\": \"bore da\", \"lang\": \"Welsh\"}\n{\"text\": \"saħħa\", \"lang\": \"mlt_Latn\"}\n",
    );
    let languages: &[Option<&str>] = &[Some("mt"), Some("Welsh"), Some("mlt_Latn")];
    table(
        &sandbox.path("all.parquet"),
        &[("language", languages), ("text", &[Some("bonġu"), Some("bore da"), Some("saħħa")])],
    );
    for (kind, name) in [("jsonl", "all.jsonl"), ("parquet", "all.parquet")] {
        let corpus = open(&sandbox, kind, name, DocumentUnit::Auto);
        assert_eq!(corpus.languages(), [code("cym_Latn"), code("mlt_Latn")]);
        assert_eq!(texts(corpus.as_ref(), "mlt_Latn", Split::All).0, ["bonġu", "saħħa"]);
        assert_eq!(texts(corpus.as_ref(), "cym_Latn", Split::All).0, ["bore da"]);
    }
}

#[test]
fn another_text_column_is_read_when_named() {
    let sandbox = Sandbox::empty();
    sandbox.write("jsonl/mlt.jsonl", "{\"text\": \"no\", \"content\": \"yes\"}\n");
    table(&sandbox.path("parquet/mlt.parquet"), &[("text", &[Some("no")]), ("content", &[Some("yes")])]);
    for kind in ["jsonl", "parquet"] {
        let options = CorpusOptions { text_column: Some("content".to_owned()), ..CorpusOptions::default() };
        let corpus =
            corpus::open(&format!("{kind}:{}", sandbox.path(kind).display()).parse().unwrap(), &options).unwrap();
        assert_eq!(texts(corpus.as_ref(), "mlt_Latn", Split::All).0, ["yes"]);
    }
}

#[test]
fn prepared_windows_are_documents_as_they_stand() {
    let sandbox = Sandbox::empty();
    sandbox.ids("mlt_Latn", 4, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let corpus = open(&sandbox, "ids", "ids", DocumentUnit::Auto);
    let documents = corpus.documents(code("mlt_Latn"), Split::All).unwrap();
    let windows: Vec<Document> = documents.map(Result::unwrap).collect();
    assert_eq!(windows, [Document::Ids(vec![1, 2, 3, 4]), Document::Ids(vec![5, 6, 7, 8])]);
}

#[test]
fn byte_order_marks_bad_bytes_and_empty_documents_are_counted_and_not_fatal() {
    let sandbox = Sandbox::empty();
    sandbox.write("text/mlt_Latn/a.txt", b"\xef\xbb\xbfone\n");
    sandbox.write("text/mlt_Latn/b.txt", b"tw\xff\xfeo\n");
    sandbox.write("text/mlt_Latn/c.txt", b"");
    sandbox.write("text/mlt_Latn/d.txt", b"\xef\xbb\xbf");
    sandbox.write("text/mlt_Latn/e.txt", "\u{a0}\u{3000}\n");
    let corpus = open(&sandbox, "dir", "text", DocumentUnit::File);
    let (texts, notes) = texts(corpus.as_ref(), "mlt_Latn", Split::All);
    assert_eq!(texts, ["one\n", "tw\u{fffd}\u{fffd}o\n"]);
    // A file without a byte is no document; the marks are of a.txt and d.txt; the bytes are those after mending, 4 + 10.
    let wanted = Notes { documents: 2, empty_documents: 2, invalid_utf8: 1, byte_order_marks: 2, bytes: 14 };
    assert_eq!(notes, wanted);
}

#[test]
fn bad_bytes_inside_a_json_line_are_counted_too() {
    let sandbox = Sandbox::empty();
    sandbox.write("rows/mlt_Latn.jsonl", b"{\"text\": \"tw\xffo\"}\n{\"text\": \"one\"}\n");
    let corpus = open(&sandbox, "jsonl", "rows", DocumentUnit::Auto);
    let (texts, notes) = texts(corpus.as_ref(), "mlt_Latn", Split::All);
    assert_eq!(texts, ["tw\u{fffd}o", "one"]);
    assert_eq!((notes.documents, notes.invalid_utf8), (2, 1));
}

#[test]
fn the_held_out_documents_and_the_others_are_disjoint_and_complete() {
    let sandbox = Sandbox::empty();
    sandbox.write("text/mlt_Latn.txt", (1..=65).map(|n| format!("{n}\n")).collect::<String>());
    let corpus = open(&sandbox, "dir", "text", DocumentUnit::Line);
    let of = |split| texts(corpus.as_ref(), "mlt_Latn", split).0;
    let (all, train, held_out) = (of(Split::All), of(Split::Train), of(Split::HeldOut));
    assert_eq!(held_out, ["20\n", "40\n", "60\n"]);
    assert_eq!(all.len(), 65);
    let of_both: Vec<&String> = all.iter().filter(|text| train.contains(text) != held_out.contains(text)).collect();
    assert_eq!(of_both.len(), 65);
    assert_eq!(train.len() + held_out.len(), 65);
}

#[test]
fn a_corpus_is_known_by_its_name_and_not_by_its_place() {
    let sandbox = Sandbox::empty();
    sandbox.write("ntrex-128/mlt_Latn.txt", "one");
    sandbox.write("elsewhere/ntrex-128/mlt_Latn.txt", "one");
    sandbox.write("all.jsonl", "{\"text\": \"one\", \"lang\": \"mt\"}\n");
    let id = |kind, name| open(&sandbox, kind, name, DocumentUnit::Auto).id().to_owned();
    assert_eq!(id("dir", "ntrex-128"), "dir:ntrex-128");
    assert_eq!(id("dir", "elsewhere/ntrex-128/"), "dir:ntrex-128");
    assert_eq!(id("dir", "elsewhere/../ntrex-128"), "dir:ntrex-128");
    assert_eq!(id("jsonl", "all.jsonl"), "jsonl:all.jsonl");
}

#[test]
fn the_same_documents_come_in_the_same_order_every_time() {
    let sandbox = Sandbox::new();
    let corpus = open(&sandbox, "dir", "text", DocumentUnit::Auto);
    assert_eq!(texts(corpus.as_ref(), "mlt_Latn", Split::All), texts(corpus.as_ref(), "mlt_Latn", Split::All));
}
