//! Which language a spelling means, and what every row of the registry has to keep.

use std::collections::BTreeSet;

use neuroglot::language::{Direction, LanguageCode, LanguageError, Registry};
use tempfile::TempDir;

fn registry() -> &'static Registry {
    Registry::builtin()
}

fn means(spelling: &str) -> String {
    match registry().resolve(spelling) {
        Ok(language) => language.code.to_string(),
        Err(error) => panic!("{spelling}: {error}"),
    }
}

/// `spelling=code`, separated by spaces.
fn all_mean(pairs: &str) {
    for (spelling, code) in pairs.split_whitespace().map(|pair| pair.split_once('=').unwrap()) {
        assert_eq!(means(spelling), code, "{spelling}");
    }
}

fn candidates(spelling: &str) -> Vec<String> {
    match registry().resolve(spelling) {
        Err(LanguageError::Ambiguous { candidates, .. }) => {
            candidates.iter().map(|candidate| candidate.split(' ').next().unwrap().to_owned()).collect()
        }
        other => panic!("{spelling} is not ambiguous but {other:?}"),
    }
}

fn is_unknown(spelling: &str) -> bool {
    matches!(registry().resolve(spelling), Err(LanguageError::Unknown { .. }))
}

#[test]
fn every_usual_spelling_of_maltese_means_maltese() {
    for spelling in "mt mlt mlt_Latn mt-Latn mlt-Latn Maltese Malti malt1254 mt-MT mlt_Latn_MT".split(' ') {
        assert_eq!(means(spelling), "mlt_Latn", "{spelling}");
    }
}

#[test]
fn case_accents_apostrophes_and_separators_make_no_difference() {
    for spelling in ["MT", "MLT_LATN", "mlt-latn", " malti ", "MALTESE"] {
        assert_eq!(means(spelling), "mlt_Latn", "{spelling}");
    }
    assert_eq!(means("Turkce"), "tur_Latn");
    assert_eq!(means("ISLENSKA"), "isl_Latn");
    assert_eq!(means("te-reo maori"), "mri_Latn");
    assert_eq!(means("Norsk bokmal"), "nob_Latn");
    assert_eq!(means("o'zbekcha"), "uzn_Latn");
    assert_eq!(means("Kʼicheʼ"), means("K'iche'"));
    assert_eq!(means("ΕΛΛΗΝΙΚΆ"), "ell_Grek");
    // Composed and decomposed letters are the same letters.
    assert_eq!(means("fran\u{e7}ais"), means("franc\u{327}ais"));
}

#[test]
fn an_accent_counts_where_it_tells_two_languages_apart() {
    assert_eq!((means("Lü"), means("lu")), ("khb_Talu".to_owned(), "lub_Latn".to_owned()));
    assert_eq!((means("Gã"), means("ga")), ("gaa_Latn".to_owned(), "gle_Latn".to_owned()));
}

#[test]
fn a_region_narrows_a_tag_and_an_unneeded_one_is_passed_over() {
    all_mean(
        "pt-BR=por_Latn pt_PT=por_Latn en-US=eng_Latn es-419=spa_Latn zh-Hant-TW=zho_Hant zh-TW=zho_Hant \
         zh-CN=zho_Hans zho-CN=zho_Hans zho-TW=zho_Hant fa-AF=prs_Arab sw-CD=swc_Latn sr-Latn-RS=srp_Latn",
    );
}

#[test]
fn codes_that_standards_changed_or_split_mean_the_row_that_corpora_have() {
    all_mean(
        "est=est_Latn ekk=est_Latn ekk_Latn=est_Latn et=est_Latn cmn_Hans=zho_Hans cmn-Hant=zho_Hant fas=pes_Arab \
         pes=pes_Arab fa=pes_Arab swa=swh_Latn swh=swh_Latn sw=swh_Latn ara=arb_Arab ar=arb_Arab lav=lvs_Latn \
         aze=azj_Latn uzb=uzn_Latn sqi=als_Latn yi=ydd_Hebr ne=npi_Deva mg=plt_Latn or=ory_Orya ps=pbt_Arab \
         ku=kmr_Latn iw=heb_Hebr aze_Arab=azb_Arab uzb-Cyrl=uzn_Cyrl",
    );
}

/// A corpus called `hin` is in Devanagari; that Hindi is also written in Latin letters makes nobody doubt it.
#[test]
fn a_code_of_several_scripts_means_the_usual_one() {
    all_mean(
        "hi=hin_Deva hin=hin_Deva Hindi=hin_Deva hi-Latn=hin_Latn Hinglish=hin_Latn ur=urd_Arab urd=urd_Arab \
         ha=hau_Latn hau=hau_Latn jv=jav_Latn kaz=kaz_Cyrl ug=uig_Arab sa=san_Deva sd=snd_Arab tk=tuk_Latn \
         ms=zsm_Latn ms-Arab=zsm_Arab ace=ace_Latn yue=yue_Hant kas=kas_Arab",
    );
}

#[test]
fn a_spelling_of_several_languages_or_scripts_is_refused_with_the_candidates() {
    for spelling in ["nor", "no", "Norwegian", "nor_Latn", "no-NO"] {
        assert_eq!(candidates(spelling), ["nno_Latn", "nob_Latn"], "{spelling}");
    }
    for spelling in ["zho", "zh", "Chinese", "cmn", "Mandarin", "zh-XX"] {
        assert_eq!(candidates(spelling), ["zho_Hans", "zho_Hant"], "{spelling}");
    }
    // Serbian is written in both scripts alike; CLDR's choice of Cyrillic for a bare `sr` would mislabel half of all corpora.
    for spelling in ["srp", "sr", "Serbian", "sr-RS"] {
        assert_eq!(candidates(spelling), ["srp_Cyrl", "srp_Latn"], "{spelling}");
    }
    // CLDR takes a bare `crh` for Cyrillic, the registry's plain name is the Latin row's, as in FLORES.
    assert_eq!(candidates("crh"), ["crh_Cyrl", "crh_Latn"]);
    assert_eq!(candidates("kur"), ["ckb_Arab", "kmr_Latn", "sdh_Arab"]);
    assert_eq!(candidates("kur-Arab"), ["ckb_Arab", "sdh_Arab"]);
    assert_eq!(candidates("Tonga"), ["toi_Latn", "ton_Latn"]);
}

#[test]
fn what_is_no_language_is_unknown_and_its_neighbours_are_offered() {
    for spelling in ["", " ", "_", "xx", "mlt_Cyrl", "Latn", "all", "tlh"] {
        assert!(is_unknown(spelling), "{spelling:?} is {:?}", registry().resolve(spelling));
    }
    let offered = |spelling: &str| match registry().resolve(spelling) {
        Err(LanguageError::Unknown { similar, .. }) => similar,
        other => panic!("{spelling} is {other:?}"),
    };
    assert_eq!(offered("Maltesse"), ["mlt_Latn (Maltese)"]);
    assert!(offered("mlt_Lath").contains(&"mlt_Latn (Maltese)".to_owned()));
    assert!(offered("xyzzyplugh").is_empty());
    assert!(offered("xx").is_empty());
}

#[test]
fn every_row_is_found_by_its_code_name_and_aliases_and_by_its_tag_unless_the_script_is_in_doubt() {
    let mut doubtful = BTreeSet::new();
    for language in registry().languages() {
        let own = [&language.code.to_string(), &language.name];
        for spelling in own.into_iter().chain(&language.aliases) {
            assert_eq!(means(spelling), language.code.to_string(), "{spelling}");
        }
        match registry().resolve(&language.bcp47) {
            Ok(found) => assert_eq!(found.code, language.code, "{}", language.bcp47),
            Err(LanguageError::Ambiguous { candidates, .. }) => {
                assert!(candidates.iter().any(|candidate| candidate.starts_with(&language.code.to_string())));
                doubtful.insert(language.bcp47.as_str());
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(doubtful, BTreeSet::from(["crh", "kaa", "lad", "shi", "sr"]));
}

#[test]
fn every_code_of_a_row_leads_to_its_language_or_to_candidates() {
    for language in registry().languages() {
        let codes = [Some(language.code.iso639_3()), language.iso639_1.as_deref(), language.glottocode.as_deref()];
        let others = [language.autonym.as_deref(), language.macrolanguage.as_deref()];
        for spelling in codes.into_iter().flatten() {
            match registry().resolve(spelling) {
                Ok(found) => assert_eq!(found.code.iso639_3(), language.code.iso639_3(), "{spelling}"),
                Err(LanguageError::Ambiguous { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for spelling in others.into_iter().flatten() {
            assert!(!is_unknown(spelling), "{spelling}");
        }
    }
}

#[test]
fn every_code_of_the_demo_and_of_the_large_test_sets_is_known() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/atlas/demo/sentences");
    let mut sentences = 0;
    for entry in std::fs::read_dir(demo).unwrap() {
        let stem = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert_eq!(means(&stem), stem);
        sentences += 1;
    }
    assert!(sentences >= 100, "{sentences}");
    // FLORES-200 and NTREX-128, where their spelling is not simply a code of ours.
    all_mean(
        "twi_Latn_asan=twi_Latn arb_Latn=arb_Latn min_Arab=min_Arab taq_Tfng=taq_Tfng aze-Latn=azj_Latn \
         eng-US=eng_Latn fra-CA=fra_Latn spa-MX=spa_Latn por-BR=por_Latn srp-Cyrl=srp_Cyrl ckb-Arab=ckb_Arab \
         msa=zsm_Latn uzb=uzn_Latn mon=khk_Cyrl orm=gaz_Latn nep=npi_Deva tah=tah_Latn div=div_Thaa dzo=dzo_Tibt \
         yid=ydd_Hebr mlg=plt_Latn bod=bod_Tibt",
    );
}

#[test]
fn a_list_is_codes_with_commas_or_all_or_a_file() {
    let list = |text: &str| registry().resolve_list(text, &["fra_Latn".parse().unwrap()]);
    let codes = |text: &str| list(text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(codes("mt,cym_Latn, Welsh ,mlt"), ["cym_Latn", "mlt_Latn"]);
    assert_eq!(codes("all"), ["fra_Latn"]);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("wanted.txt");
    std::fs::write(&file, "# the north\nWelsh # Cymru\r\n\nmt, fr\n").unwrap();
    assert_eq!(codes(&format!("@{}", file.display())), ["cym_Latn", "fra_Latn", "mlt_Latn"]);
    assert!(matches!(list(""), Err(LanguageError::EmptyList)));
    assert!(matches!(list(" , "), Err(LanguageError::EmptyList)));
    assert!(matches!(list("mt,xx"), Err(LanguageError::Unknown { .. })));
    assert!(matches!(list("@/nowhere"), Err(LanguageError::List { .. })));
}

#[test]
fn the_registry_holds_hundreds_of_languages_with_the_facts_that_the_site_shows() {
    let languages = registry().languages();
    assert!(languages.len() >= 300, "{}", languages.len());
    let mut names = BTreeSet::new();
    let mut tags = BTreeSet::new();
    for language in languages {
        let code = language.code;
        assert!(names.insert(&language.name), "{code}: {} is another row's name too", language.name);
        assert!(tags.insert(&language.bcp47), "{code}: {} is another row's tag too", language.bcp47);
        assert!(language.iso639_1.as_ref().is_none_or(|iso| iso.len() == 2), "{code}");
        assert!(language.macrolanguage.as_ref().is_none_or(|iso| iso.len() == 3), "{code}");
        assert!(language.glottocode.as_ref().is_none_or(|glottocode| glottocode.len() == 8), "{code}");
        assert!(language.coordinates.is_none_or(|(n, e)| n.abs() <= 90.0 && e.abs() <= 180.0), "{code}");
        assert!(!language.sources.is_empty(), "{code}");
        let right_to_left = ["Adlm", "Arab", "Hebr", "Nkoo", "Syrc", "Thaa"].contains(&code.script());
        assert_eq!(language.direction == Direction::Rtl, right_to_left, "{code}");
        assert_eq!(registry().get(code), Some(language));
    }
}

#[test]
fn the_table_is_sorted_clean_text() {
    let table = include_str!("../../atlas/languages.tsv");
    assert!(!table.contains('\r') && table.ends_with('\n'));
    let rows: Vec<&str> = table.lines().filter(|line| !line.starts_with('#')).skip(1).collect();
    assert!(rows.is_sorted_by(|a, b| a[..8] < b[..8]), "rows are sorted by code, each once");
    for row in rows {
        let cells: Vec<&str> = row.split('\t').collect();
        assert_eq!(cells.len(), 16, "{row}");
        assert!(cells.iter().all(|cell| cell.trim() == *cell), "{row}");
    }
}

#[test]
fn a_table_that_is_wrong_is_refused_with_the_row_and_the_column() {
    let table = include_str!("../../atlas/languages.tsv");
    let maltese = table.lines().find(|line| line.starts_with("mlt_Latn")).unwrap();
    let header = table.lines().find(|line| line.starts_with("code\t")).unwrap();
    let refused = |rows: &str| Registry::parse(&format!("{header}\n{rows}\n")).map(drop).unwrap_err();
    assert!(refused(&format!("{maltese}\n{maltese}")).contains("mlt_Latn stands in two rows"));
    assert!(refused(&maltese.replace("ltr", "down")).contains("mlt_Latn: `down` is no direction"));
    assert!(refused(&maltese.replace("mlt_Latn", "mlt")).contains("`mlt` is not a language code"));
    assert!(refused("mlt_Latn\tmt").contains("2 columns"));
    assert!(Registry::parse("code\tname\n").map(drop).unwrap_err().contains("columns"));
}

#[test]
fn a_code_is_three_small_letters_and_a_script() {
    for text in ["mlt_Latn", "zho_Hant"] {
        assert_eq!(text.parse::<LanguageCode>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "mlt",
        "mlt-Latn",
        "Mlt_Latn",
        "mlt_latn",
        "mlt_LATN",
        "mltt_Latn",
        "mlt_Lat",
        "mlt_Latn_x",
        "mlé_Latn",
        "12a_Latn",
    ] {
        assert!(text.parse::<LanguageCode>().is_err(), "{text}");
    }
}
