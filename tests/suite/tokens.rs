//! Windows of tokens: laws that hold for every corpus, and a few small ones by hand. The tiny tokenizer has one token for every
//! ASCII letter, so that the tokens of a text can be counted by eye.

use std::sync::LazyLock;

use neuroglot::{
    corpus::{self, CorpusOptions, Documents, Split},
    tokens::{Coverage, CoverageStatus, Separator, TokensError, Window, WindowPlan, Windows},
};
use proptest::{collection::vec, prelude::*};
use tokenizers::Tokenizer;

use crate::{
    corpus::code,
    harness::{Sandbox, TINY},
};

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_file(format!("{TINY}/tokenizer.json")).unwrap());

fn plan(context: usize, tokens: u64, folds: usize) -> WindowPlan {
    WindowPlan { context, tokens, folds, separator: None, vocabulary: 64 }
}

fn jsonl(sandbox: &Sandbox, documents: &[String]) -> Documents {
    let rows: String = documents.iter().map(|text| format!("{}\n", serde_json::json!({ "text": text }))).collect();
    sandbox.write("jsonl/mlt_Latn.jsonl", rows);
    let spec = format!("jsonl:{}", sandbox.path("jsonl").display()).parse().unwrap();
    corpus::open(&spec, &CorpusOptions::default()).unwrap().documents(code("mlt_Latn"), Split::All).unwrap()
}

fn run(documents: &[String], plan: WindowPlan) -> (Vec<Window>, Coverage) {
    let sandbox = Sandbox::empty();
    let mut windows = Windows::new(code("mlt_Latn"), plan, &TOKENIZER, jsonl(&sandbox, documents));
    let all = windows.by_ref().map(Result::unwrap).collect();
    (all, windows.coverage())
}

fn ids(windows: &[Window]) -> Vec<u32> {
    windows.iter().flat_map(|window| window.ids.clone()).collect()
}

/// `a` is 12, `b` 13 and so on.
fn letters(text: &str) -> Vec<u32> {
    text.bytes().map(|letter| u32::from(letter - b'a') + 12).collect()
}

fn texts(documents: &[&str]) -> Vec<String> {
    documents.iter().map(|text| (*text).to_owned()).collect()
}

fn documents() -> impl Strategy<Value = Vec<String>> {
    vec("[a-z]{1,40}|[a-z]{1,400}", 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_full_and_as_many_as_the_text_and_the_plan_allow(
        documents in documents(), context in 2usize..40, tokens in 40u64..600, folds in 1usize..9,
    ) {
        let (windows, coverage) = run(&documents, plan(context, tokens, folds));
        prop_assert!(windows.iter().all(|window| window.ids.len() == context && window.folds.len() == context));
        let there: usize = documents.iter().map(String::len).sum();
        let wanted = (tokens / context as u64).min((there / context) as u64);
        prop_assert_eq!(windows.len() as u64, wanted);
        prop_assert_eq!(coverage.tokens, wanted * context as u64);
        let status = match wanted {
            0 => CoverageStatus::Empty,
            n if n < tokens / context as u64 => CoverageStatus::Short,
            _ => CoverageStatus::Full,
        };
        prop_assert_eq!(coverage.status, status);
    }

    #[test]
    fn the_numbers_of_a_coverage_add_up(documents in documents(), context in 2usize..40, tokens in 40u64..600, folds in 1usize..9) {
        let (windows, coverage) = run(&documents, plan(context, tokens, folds));
        prop_assert_eq!(coverage.fold_tokens.len(), folds);
        prop_assert_eq!(coverage.fold_tokens.iter().sum::<u64>(), coverage.tokens);
        prop_assert_eq!(coverage.fold_documents.iter().sum::<u64>(), coverage.notes.documents);
        for (fold, &given) in coverage.fold_tokens.iter().enumerate() {
            let of_fold = windows.iter().flat_map(|window| &window.folds).filter(|&&f| usize::from(f) == fold).count();
            prop_assert_eq!(of_fold as u64, given);
        }
        let read = usize::try_from(coverage.notes.documents).unwrap();
        let lengths: usize = documents[..read].iter().map(String::len).sum();
        prop_assert_eq!(coverage.tokens_read, lengths as u64);
        prop_assert_eq!(coverage.notes.bytes, lengths as u64);
        prop_assert!(coverage.tokens <= coverage.tokens_read);
    }

    #[test]
    fn the_number_of_folds_changes_nothing_about_the_windows(documents in documents(), context in 2usize..40, tokens in 40u64..600) {
        let (one, without) = run(&documents, plan(context, tokens, 1));
        for folds in [2, 4, 7] {
            let (several, with) = run(&documents, plan(context, tokens, folds));
            prop_assert_eq!(ids(&one), ids(&several));
            prop_assert_eq!((without.tokens, &without.text_sha256), (with.tokens, &with.text_sha256));
        }
    }

    #[test]
    fn every_token_of_a_window_is_one_of_the_text_and_none_is_used_twice(
        documents in documents(), context in 2usize..40, tokens in 40u64..600,
    ) {
        let (windows, _) = run(&documents, plan(context, tokens, 4));
        let mut left = [0i64; 64];
        documents.iter().flat_map(|text| letters(text)).for_each(|id| left[id as usize] += 1);
        ids(&windows).into_iter().for_each(|id| left[id as usize] -= 1);
        prop_assert!(left.iter().all(|&n| n >= 0));
    }

    #[test]
    fn a_document_lies_in_one_fold(documents in documents(), folds in 1usize..9) {
        // Nothing is above the cap of a quarter of the tokens, so the text stands in the windows in its own order.
        let (windows, coverage) = run(&documents, plan(8, 2400, folds));
        let mut given = windows.iter().flat_map(|window| window.ids.iter().zip(&window.folds));
        let mut dealt = vec![0; folds];
        'all: for text in &documents {
            let mut fold = None;
            for letter in letters(text) {
                let Some((&id, &of)) = given.next() else { break 'all };
                prop_assert_eq!(id, letter);
                prop_assert_eq!(*fold.get_or_insert(of), of);
            }
            if let Some(fold) = fold {
                dealt[usize::from(fold)] += 1;
            }
        }
        prop_assert!(given.next().is_none());
        prop_assert!(dealt.iter().zip(&coverage.fold_documents).all(|(seen, read)| seen <= read));
    }
}

#[test]
fn a_small_corpus_by_hand() {
    // 3 + 4 + 2 tokens are two windows of 4 and a rest of 1. The folds: the first two documents take an empty fold each, the
    // third the one with 3 tokens against 4.
    let (windows, coverage) = run(&texts(&["abc", "defg", "hi"]), plan(4, 100, 2));
    assert_eq!(ids(&windows), letters("abcdefgh"));
    assert_eq!(
        windows.iter().map(|window| window.folds.clone()).collect::<Vec<_>>(),
        [vec![0, 0, 0, 1], vec![1, 1, 1, 0]]
    );
    assert_eq!((coverage.tokens, coverage.tokens_read, coverage.status), (8, 9, CoverageStatus::Short));
    assert_eq!((coverage.fold_tokens, coverage.fold_documents), (vec![4, 4], vec![2, 1]));
}

#[test]
fn no_document_is_read_that_is_not_needed() {
    let (windows, coverage) = run(&texts(&["abcd", "efgh", "ijkl"]), plan(4, 8, 1));
    assert_eq!(windows.len(), 2);
    assert_eq!((coverage.notes.documents, coverage.status), (2, CoverageStatus::Full));
}

#[test]
fn one_long_document_does_not_end_the_corpus_early() {
    let mut documents = vec!["a".repeat(5_000)];
    documents.extend((0..40).map(|_| "b".repeat(20)));
    let (windows, coverage) = run(&documents, plan(10, 400, 4));
    // The long one has a quarter, 100 tokens; fifteen short ones of 20 fill the rest, and all folds have text.
    let given = ids(&windows);
    assert_eq!(given.iter().filter(|&&id| id == 12).count(), 100);
    assert_eq!(coverage.notes.documents, 16);
    assert!(coverage.fold_tokens.iter().all(|&tokens| tokens > 0), "{:?}", coverage.fold_tokens);
}

#[test]
fn what_a_long_document_has_more_is_used_when_the_others_end() {
    let (windows, coverage) = run(&texts(&[&"a".repeat(5_000), &"b".repeat(20)]), plan(10, 400, 4));
    let given = ids(&windows);
    assert_eq!((given.len(), coverage.status), (400, CoverageStatus::Full));
    assert_eq!(given.iter().filter(|&&id| id == 13).count(), 20);
}

#[test]
fn separators_stand_before_or_after_every_document() {
    let with =
        |separator| run(&texts(&["ab", "cde", "f"]), WindowPlan { separator: Some(separator), ..plan(3, 100, 1) }).0;
    let (before, after) = (with((Separator::Bos, 0)), with((Separator::Eos, 1)));
    assert_eq!(
        ids(&before),
        [[0].as_slice(), &letters("ab"), &[0], &letters("cde"), &[0], &letters("f")].concat()[..9]
    );
    assert_eq!(ids(&after), [letters("ab").as_slice(), &[1], &letters("cde"), &[1], &letters("f"), &[1]].concat()[..9]);
}

#[test]
fn a_corpus_without_a_full_window_is_empty_and_no_error() {
    for documents in [vec![], texts(&["abc"]), texts(&["", "  "])] {
        let (windows, coverage) = run(&documents, plan(4, 8, 4));
        assert!(windows.is_empty());
        assert_eq!((coverage.status, coverage.tokens), (CoverageStatus::Empty, 0));
        assert_eq!(coverage.fold_tokens, [0; 4]);
    }
}

#[test]
fn prepared_windows_are_run_as_they_are_or_refused() {
    let sandbox = Sandbox::empty();
    sandbox.ids("mlt_Latn", 4, &[1, 2, 3, 4, 5, 6, 7, 63]);
    let open = |plan| {
        let spec = format!("ids:{}", sandbox.path("ids").display()).parse().unwrap();
        let documents =
            corpus::open(&spec, &CorpusOptions::default()).unwrap().documents(code("mlt_Latn"), Split::All).unwrap();
        Windows::new(code("mlt_Latn"), plan, &TOKENIZER, documents).collect::<Result<Vec<_>, _>>()
    };
    // A separator is a matter of text; who prepares windows has put one where it belongs.
    let windows = open(WindowPlan { separator: Some((Separator::Bos, 0)), ..plan(4, 8, 2) }).unwrap();
    assert_eq!(ids(&windows), [1, 2, 3, 4, 5, 6, 7, 63]);
    assert!(matches!(open(plan(8, 8, 2)), Err(TokensError::Context { window: 1, found: 4, wanted: 8, .. })));
    let narrow = WindowPlan { vocabulary: 63, ..plan(4, 8, 2) };
    assert!(matches!(open(narrow), Err(TokensError::Id { window: 2, id: 63, vocabulary: 63, .. })));
}
