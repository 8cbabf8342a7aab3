//! What was typed: languages and options.

use insta::assert_snapshot;

use super::{asked, profile};

#[test]
fn an_unknown_language_is_wrong_usage_and_the_nearest_is_offered() {
    assert_snapshot!(asked(&[("--languages", "Maltesse")]), @r"
    exit code 2
    error: no language is called `Maltesse` (did you mean mlt_Latn (Maltese)?); a language is written as `mt`, `mlt`, `mlt_Latn`, `Maltese` or `Malti`
    ");
    assert_snapshot!(asked(&[("--languages", "tlh")]), @r"
    exit code 2
    error: no language is called `tlh`; a language is written as `mt`, `mlt`, `mlt_Latn`, `Maltese` or `Malti`
    ");
}

#[test]
fn a_spelling_of_several_languages_lists_them() {
    assert_snapshot!(asked(&[("--languages", "nor")]), @r"
    exit code 2
    error: `nor` names 2 languages: nno_Latn (Norwegian Nynorsk), nob_Latn (Norwegian Bokmål); write one of these codes
    ");
    assert_snapshot!(asked(&[("--languages", "mlt,zho")]), @r"
    exit code 2
    error: `zho` names 2 languages: zho_Hans (Chinese (Simplified)), zho_Hant (Chinese (Traditional)); write one of these codes
    ");
}

#[test]
fn a_list_that_is_not_there_or_empty_is_wrong_usage() {
    assert_snapshot!(asked(&[("--languages", "@wanted.txt")]), @r"
    exit code 2
    error: wanted.txt: cannot read the list of languages: No such file or directory (os error 2)
    ");
    assert_snapshot!(profile(|s| s.write("wanted.txt", "# none yet\n"), &[("--languages", "@wanted.txt")]), @r"
    exit code 2
    error: the list of languages is empty; write codes separated by commas, `all`, or `@FILE`
    ");
}

#[test]
fn a_context_that_the_model_was_not_made_for_is_wrong_usage() {
    assert_snapshot!(asked(&[("--context", "512"), ("--tokens", "1024")]), @r"
    exit code 2
    error: --context 512 is longer than the 256 positions that the model was made for; choose 256 or less
    ");
}

#[test]
fn fewer_tokens_than_a_window_are_wrong_usage() {
    assert_snapshot!(asked(&[("--tokens", "15")]), @r"
    exit code 2
    error: --tokens 15 is less than one window of --context 16; ask for at least 16 tokens
    ");
}

#[test]
fn more_tokens_than_can_be_counted_are_wrong_usage() {
    assert_snapshot!(asked(&[("--tokens", "18446744073709551615")]), @r"
    exit code 2
    error: invalid value '18446744073709551615' for '--tokens <N>': 18446744073709551615 is not in 1..=1000000000000

    For more information, try '--help'.
    ");
}

#[test]
fn a_shard_beyond_the_number_of_shards_is_wrong_usage() {
    assert_snapshot!(asked(&[("--shard", "5/4")]), @r"
    exit code 2
    error: invalid value '5/4' for '--shard <I/N>': write I/N with 1 ≤ I ≤ N, as in 2/4

    For more information, try '--help'.
    ");
}
