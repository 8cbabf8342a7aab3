//! The text.

use insta::assert_snapshot;

use super::{asked, damaged, profile};
use crate::harness::{Sandbox, prose};

#[test]
fn a_corpus_of_unknown_kind_is_wrong_usage() {
    assert_snapshot!(asked(&[("--corpus", "text")]), @r"
    exit code 2
    error: `text` is no corpus; write one of dir:PATH, jsonl:PATH, parquet:PATH, ids:PATH, hub:OWNER/NAME[/FOLDER][@REVISION], glotcc, fineweb2, flores, wikipedia
    ");
    assert_snapshot!(asked(&[("--corpus", "csv:text")]), @r"
    exit code 2
    error: `csv:text` is no corpus; write one of dir:PATH, jsonl:PATH, parquet:PATH, ids:PATH, hub:OWNER/NAME[/FOLDER][@REVISION], glotcc, fineweb2, flores, wikipedia
    ");
}

#[test]
fn a_corpus_that_is_not_there_is_named() {
    assert_snapshot!(asked(&[("--corpus", "dir:nowhere")]), @r"
    exit code 1
    error: nowhere: there is no such file or folder
    ");
}

#[test]
fn a_file_is_no_folder_of_texts() {
    assert_snapshot!(asked(&[("--corpus", "dir:text/mlt_Latn.txt")]), @r"
    exit code 1
    error: text/mlt_Latn.txt: is a file, but a folder with a file for each language is wanted
    ");
}

#[test]
fn an_empty_corpus_says_what_would_be_read() {
    assert_snapshot!(profile(|s| std::fs::create_dir(s.path("bare")).unwrap(), &[("--corpus", "dir:bare")]), @r"
    exit code 1
    error: bare: holds no text of a language we know; CODE.txt, CODE.txt.gz or CODE.txt.zst is wanted, where CODE is a language such as `mlt_Latn` or `mt` (it is empty)
    ");
}

#[test]
fn a_corpus_of_unknown_names_says_which_it_has_seen() {
    let strange = |s: &Sandbox| {
        s.write("strange/notes.txt", "a");
        s.write("strange/mlt_Latn.docx", "a");
        s.write("strange/fr/readme.md", "a");
        std::fs::create_dir_all(s.path("strange/mlt_Latn.txt")).unwrap();
    };
    assert_snapshot!(profile(strange, &[("--corpus", "dir:strange")]), @r"
    exit code 1
    error: strange: holds no text of a language we know; CODE.txt, CODE.txt.gz or CODE.txt.zst is wanted, where CODE is a language such as `mlt_Latn` or `mt` (there is fr/ without such files, mlt_Latn.docx, mlt_Latn.txt, notes.txt)
    ");
}

#[test]
fn a_file_name_of_several_languages_is_passed_over_aloud() {
    let norwegian = |s: &Sandbox| s.write("norwegian/no.txt", "a");
    assert_snapshot!(profile(norwegian, &[("--corpus", "dir:norwegian")]), @r"
    exit code 1
     WARN norwegian/no.txt: is passed over: `no` names 2 languages: nno_Latn (Norwegian Nynorsk), nob_Latn (Norwegian Bokmål); write one of these codes
    error: norwegian: holds no text of a language we know; CODE.txt, CODE.txt.gz or CODE.txt.zst is wanted, where CODE is a language such as `mlt_Latn` or `mt` (there is no.txt)
    ");
}

#[test]
fn two_files_of_one_language_are_refused() {
    assert_snapshot!(damaged(|s| s.write("text/mt.txt.gz", "a")), @r"
    exit code 1
    error: text/mlt_Latn.txt and text/mt.txt.gz both hold mlt_Latn; keep one, or put both into a folder `mlt_Latn/`
    ");
}

#[test]
fn a_broken_gzip_file_is_named() {
    let broken = |s: &Sandbox| s.write("packed/mlt_Latn.txt.gz", prose(0, 12));
    assert_snapshot!(profile(broken, &[("--corpus", "dir:packed")]), @r"
    exit code 1
    error: packed/mlt_Latn.txt.gz: cannot be read: invalid gzip header
    ");
}

#[test]
fn a_zstd_file_that_was_cut_short_is_named() {
    let broken = |s: &Sandbox| {
        s.write("packed/mlt_Latn.txt.zst", zstd::encode_all(prose(0, 12).as_bytes(), 3).unwrap());
        s.halve("packed/mlt_Latn.txt.zst");
    };
    assert_snapshot!(profile(broken, &[("--corpus", "dir:packed")]), @r"
    exit code 1
    error: packed/mlt_Latn.txt.zst: cannot be read: incomplete frame
    ");
}

#[test]
fn more_lines_than_document_ids_are_refused() {
    assert_snapshot!(damaged(|s| s.write("text/DOCUMENT_IDS.tsv", "a\na\nb\n")), @r"
    exit code 1
    error: text/DOCUMENT_IDS.tsv: names 3 lines, but text/cym_Latn.txt has 4; mend it, or choose --document line, paragraph or file
    ");
}

#[test]
fn more_document_ids_than_lines_are_refused() {
    let ids = "a\n".repeat(5000);
    assert_snapshot!(profile(|s| s.write("text/DOCUMENT_IDS.tsv", ids), &[("--tokens", "100000")]), @r"
    exit code 1
    error: text/DOCUMENT_IDS.tsv: names 5000 lines, but text/cym_Latn.txt has 23; mend it, or choose --document line, paragraph or file
    ");
}

#[test]
fn a_language_without_text_is_said_with_those_that_have_some() {
    assert_snapshot!(asked(&[("--languages", "deu,mlt")]), @r"
    exit code 1
    error: dir:text has no text for deu_Latn; it has cym_Latn, fra_Latn, mlt_Latn
    ");
}

#[test]
fn a_line_that_is_not_json_is_named() {
    let broken = |s: &Sandbox| s.write("lines/mlt_Latn.jsonl", "{\"text\": \"sea\"}\n\nsea\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:lines")]), @r"
    exit code 1
    error: lines/mlt_Latn.jsonl, line 3: not JSON: expected value at column 1
    ");
}

#[test]
fn a_line_without_text_names_the_field() {
    let broken = |s: &Sandbox| s.write("lines/mlt_Latn.jsonl", "{\"content\": \"sea\"}\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:lines")]), @r"
    exit code 1
    error: lines/mlt_Latn.jsonl, line 1: has no string field `text`; name it with --text-column
    ");
}

#[test]
fn rows_without_a_language_are_refused() {
    let broken = |s: &Sandbox| s.write("all.jsonl", "{\"text\": \"sea\", \"lang\": \"mt\"}\n{\"text\": \"sea\"}\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:all.jsonl")]), @r"
    exit code 1
    error: all.jsonl, line 2: no field `language`, `lang`, `code` says its language
    ");
}

#[test]
fn rows_of_an_unknown_language_are_refused() {
    let broken = |s: &Sandbox| s.write("all.jsonl", "{\"text\": \"sea\", \"lang\": \"Klingon\"}\n");
    assert_snapshot!(profile(broken, &[("--corpus", "jsonl:all.jsonl")]), @r"
    exit code 1
    error: all.jsonl, line 1: no language is called `Klingon`; a language is written as `mt`, `mlt`, `mlt_Latn`, `Maltese` or `Malti`
    ");
}

#[test]
fn a_table_without_the_text_column_lists_its_columns() {
    let broken =
        |s: &Sandbox| crate::corpus::table(&s.path("tables/mlt_Latn.parquet"), &[("sentence", &[Some("sea")])]);
    assert_snapshot!(profile(broken, &[("--corpus", "parquet:tables")]), @r"
    exit code 1
    error: tables/mlt_Latn.parquet: has no column `text`, but sentence; name the text column with --text-column
    ");
}

#[test]
fn a_table_of_many_languages_without_their_column_is_refused() {
    let broken = |s: &Sandbox| crate::corpus::table(&s.path("all.parquet"), &[("text", &[Some("sea")])]);
    assert_snapshot!(profile(broken, &[("--corpus", "parquet:all.parquet")]), @r"
    exit code 1
    error: all.parquet: has no column `language`, `lang`, `code`, but text; call the column of languages so, or give a folder with a table for each language
    ");
}

#[test]
fn a_table_that_is_no_parquet_file_is_named() {
    let broken = |s: &Sandbox| s.write("tables/mlt_Latn.parquet", "text\nsea\n");
    assert_snapshot!(profile(broken, &[("--corpus", "parquet:tables")]), @r"
    exit code 1
    error: tables/mlt_Latn.parquet: is not a readable Parquet file: Parquet error: Invalid Parquet file. Corrupt footer; download or make it again
    ");
}

#[test]
fn prepared_windows_of_another_length_say_which_to_ask_for() {
    assert_snapshot!(profile(|s| s.ids("mlt_Latn", 8, &[5; 64]), &[("--corpus", "ids:ids")]), @r"
    exit code 1
    error: mlt_Latn: prepared window 1 has 8 ids, but --context is 16; set --context 8
    ");
}

#[test]
fn prepared_ids_of_another_vocabulary_are_refused() {
    assert_snapshot!(profile(|s| s.ids("mlt_Latn", 16, &[64; 64]), &[("--corpus", "ids:ids")]), @r"
    exit code 1
    error: mlt_Latn: prepared window 1 holds id 64, but the model's embedding has 64 rows; the ids are another tokenizer's
    ");
}
