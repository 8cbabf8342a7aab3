//! The interface's words: every text is there in every locale, and numbers and plurals are as each writes them.

use std::{collections::BTreeSet, fs, path::Path};

use neuroglot::site::{LOCALES, texts};

/// Every text that a template, a script or the program says.
fn said() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut said = BTreeSet::new();
    let scans: [(&str, &str, &[&str], &[&str]); 3] = [
        ("templates", "html", &["t"], &["tn"]),
        ("templates/js", "js", &["t"], &["tn"]),
        ("src/site", "rs", &[".say"], &[".count"]),
    ];
    for (folder, extension, plain, plural) in scans {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|found| found == extension) {
                said.extend(texts(&fs::read_to_string(path).unwrap(), plain, plural));
            }
        }
    }
    said.into_iter().collect()
}

fn locale(code: &str) -> &'static neuroglot::site::Locale {
    LOCALES.iter().find(|locale| locale.code == code).unwrap()
}

#[test]
fn every_text_is_in_every_locale_with_the_same_placeholders_and_all_its_forms() {
    let said = said();
    assert!(said.len() > 300, "{} texts", said.len());
    for locale in &LOCALES[1..] {
        let problems = locale.problems(&said);
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}

#[test]
fn the_scan_reads_calls_and_nothing_else() {
    let source = "t(\"One\") x.set(\"no\") not(\"no\") tn(f(a, b), \"{n} a\", \"{n} b\", { x: 1 }) t(\"With \\\"quotes\\\"\", x=1) tn(n, name)";
    assert_eq!(texts(source, &["t"], &["tn"]), ["One", "With \"quotes\"", "{n} a|{n} b"]);
    assert_eq!(texts("spot.say(\n  \"over \\\n   lines\", &[])", &[".say"], &[]), ["over lines"]);
}

#[test]
fn numbers_are_written_as_each_locale_writes_them() {
    // CLDR 48, with European digits: English groups by commas, French by narrow spaces, Spanish from five digits on.
    for (code, grouped, small, decimal, percent) in [
        ("en", "14,336", "4,608", "0.05", "33.3\u{a0}%"),
        ("fr", "14\u{202f}336", "4\u{202f}608", "0,05", "33,3\u{202f}%"),
        ("es", "14.336", "4608", "0,05", "33,3\u{a0}%"),
        ("ar", "14,336", "4,608", "0.05", "33.3\u{200e}%\u{200e}"),
        ("sw", "14,336", "4,608", "0.05", "33.3%"),
    ] {
        let locale = locale(code);
        assert_eq!(locale.integer(14_336), grouped);
        assert_eq!(locale.integer(4_608), small);
        assert_eq!(locale.decimal(0.05, 2), decimal);
        assert_eq!(locale.percent(1.0 / 3.0), percent);
    }
    assert_eq!(locale("en").percent(0.05), "5\u{a0}%");
    assert_eq!(locale("fr").decimal(-1234.5, 1), "\u{2212}1\u{202f}234,5");
}

#[test]
fn plurals_follow_cldr() {
    let form = |code: &str, n: usize| locale(code).count(n, "{n} language", "{n} languages", &[]);
    assert_eq!([form("en", 0), form("en", 1), form("en", 2)], ["0 languages", "1 language", "2 languages"]);
    // French counts 0 as one; whole millions take "de".
    assert_eq!(
        [form("fr", 0), form("fr", 2), form("fr", 1_000_000)],
        ["0 langue", "2 langues", "1\u{202f}000\u{202f}000 de langues"]
    );
    assert_eq!([form("es", 0), form("es", 1)], ["0 lenguas", "1 lengua"]);
    // Arabic: none, one, two, 3–10, 11–99, and the others by their last two digits.
    let arabic = [0, 1, 2, 3, 11, 100, 103, 111].map(|n| form("ar", n));
    assert_eq!(arabic, ["لا لغات", "لغة واحدة", "لغتان", "3 لغات", "11 لغة", "100 لغة", "103 لغات", "111 لغة"]);
}

#[test]
fn what_a_locale_does_not_say_stays_english_and_a_list_reads_as_one() {
    assert_eq!(locale("sw").say("Nobody says this of {x}", &[("x", "y")]), "Nobody says this of y");
    let list = |code: &str, n: usize| {
        locale(code).list(&["a", "b", "c"][..n].iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!([list("en", 0), list("en", 1), list("en", 2), list("en", 3)], ["", "a", "a and b", "a, b and c"]);
    assert_eq!(list("fr", 3), "a, b et c");
}
