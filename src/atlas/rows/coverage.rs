//! `data/coverage.parquet`: one row per profile and language.

use std::path::Path;

use super::{Columns, Table};
use crate::{atlas::AtlasError, language::LanguageCode};

/// What of a language was run, `data/coverage.parquet`.
#[derive(Clone, Debug, PartialEq)]
pub struct CoverageRow {
    /// Run.
    pub run: String,
    /// Language.
    pub language: LanguageCode,
    /// `full`, `short` or `empty`.
    pub status: String,
    /// Tokens run.
    pub tokens: u64,
    /// Tokens read.
    pub tokens_read: u64,
    /// Documents read.
    pub documents: u64,
    /// Documents without text.
    pub empty_documents: u64,
    /// Documents with bytes that are not UTF-8.
    pub invalid_utf8: u64,
    /// Byte-order marks taken off.
    pub byte_order_marks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Tokens read per byte read; none where nothing was.
    pub tokens_per_byte: Option<f64>,
    /// Tokens run, per fold.
    pub fold_tokens: Vec<u64>,
    /// Documents read, per fold.
    pub fold_documents: Vec<u64>,
    /// SHA-256 over the documents read.
    pub text_sha256: String,
    /// What a reader should know of the text.
    pub remark: Option<String>,
}

impl CoverageRow {
    const SCHEMA: (&str, &str) = ("neuroglot.coverage", "1.0");

    pub(in crate::atlas) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        let signed = |values: &[u64]| values.iter().map(|&n| n as i64).collect();
        Table::default()
            .text("run", rows.iter().map(|row| &row.run))
            .text("language", rows.iter().map(|row| row.language.to_string()))
            .text("status", rows.iter().map(|row| &row.status))
            .i64("tokens", rows.iter().map(|row| row.tokens as i64))
            .i64("tokens_read", rows.iter().map(|row| row.tokens_read as i64))
            .i64("documents", rows.iter().map(|row| row.documents as i64))
            .i64("empty_documents", rows.iter().map(|row| row.empty_documents as i64))
            .i64("invalid_utf8", rows.iter().map(|row| row.invalid_utf8 as i64))
            .i64("byte_order_marks", rows.iter().map(|row| row.byte_order_marks as i64))
            .i64("bytes", rows.iter().map(|row| row.bytes as i64))
            .optional_f64("tokens_per_byte", rows.iter().map(|row| row.tokens_per_byte))
            .lists("fold_tokens", rows.iter().map(|row| signed(&row.fold_tokens)))
            .lists("fold_documents", rows.iter().map(|row| signed(&row.fold_documents)))
            .text("text_sha256", rows.iter().map(|row| &row.text_sha256))
            .optional_text("remark", rows.iter().map(|row| row.remark.as_ref()))
            .write(place, Self::SCHEMA)
    }

    pub(in crate::atlas) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (runs, languages, statuses) = (table.text("run")?, table.parsed("language")?, table.text("status")?);
        let (tokens, tokens_read, documents) =
            (table.counts("tokens")?, table.counts("tokens_read")?, table.counts("documents")?);
        let (empty, invalid, marks) =
            (table.counts("empty_documents")?, table.counts("invalid_utf8")?, table.counts("byte_order_marks")?);
        let (bytes, tokens_per_byte) = (table.counts("bytes")?, table.optional_float("tokens_per_byte")?);
        let (fold_tokens, fold_documents, hashes) =
            (table.lists("fold_tokens")?, table.lists("fold_documents")?, table.text("text_sha256")?);
        let remarks = table.optional_text("remark")?;
        let row = |i: usize| Self {
            remark: remarks[i].clone(),
            run: runs[i].clone(),
            language: languages[i],
            status: statuses[i].clone(),
            tokens: tokens[i],
            tokens_read: tokens_read[i],
            documents: documents[i],
            empty_documents: empty[i],
            invalid_utf8: invalid[i],
            byte_order_marks: marks[i],
            bytes: bytes[i],
            tokens_per_byte: tokens_per_byte[i],
            fold_tokens: fold_tokens[i].clone(),
            fold_documents: fold_documents[i].clone(),
            text_sha256: hashes[i].clone(),
        };
        Ok((0..table.rows()).map(row).collect())
    }
}
