//! Numbers and names as people read them.

pub use crate::output::{count, thousands};

/// `5 %`, `0.5 %`, `33.3 %`: at most one decimal.
pub fn percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

/// `37 kB`, in powers of 1,000 as disks count.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} bytes"),
        1_000..1_000_000 => format!("{:.0} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

/// A name inside a sentence: isolated, so that a right-to-left name leaves the sentence's order alone.
pub fn isolated(name: &str) -> String {
    format!("\u{2068}{name}\u{2069}")
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// English name of an ISO 15924 script.
pub fn script(code: &str) -> &str {
    SCRIPTS.iter().find(|(script, _)| *script == code).map_or(code, |(_, name)| name)
}

const SCRIPTS: &[(&str, &str)] = &[
    ("Adlm", "Adlam"),
    ("Arab", "Arabic"),
    ("Armn", "Armenian"),
    ("Beng", "Bengali"),
    ("Cans", "Canadian syllabics"),
    ("Cher", "Cherokee"),
    ("Copt", "Coptic"),
    ("Cyrl", "Cyrillic"),
    ("Deva", "Devanagari"),
    ("Ethi", "Ethiopic"),
    ("Geor", "Georgian"),
    ("Goth", "Gothic"),
    ("Grek", "Greek"),
    ("Gujr", "Gujarati"),
    ("Guru", "Gurmukhi"),
    ("Hang", "Hangul"),
    ("Hans", "Han (simplified)"),
    ("Hant", "Han (traditional)"),
    ("Hebr", "Hebrew"),
    ("Jpan", "Japanese"),
    ("Khmr", "Khmer"),
    ("Knda", "Kannada"),
    ("Laoo", "Lao"),
    ("Latn", "Latin"),
    ("Limb", "Limbu"),
    ("Mlym", "Malayalam"),
    ("Mong", "Mongolian"),
    ("Mtei", "Meitei"),
    ("Mymr", "Myanmar"),
    ("Nkoo", "N’Ko"),
    ("Olck", "Ol Chiki"),
    ("Orya", "Odia"),
    ("Sinh", "Sinhala"),
    ("Syrc", "Syriac"),
    ("Taml", "Tamil"),
    ("Telu", "Telugu"),
    ("Tfng", "Tifinagh"),
    ("Thaa", "Thaana"),
    ("Thai", "Thai"),
    ("Tibt", "Tibetan"),
    ("Vaii", "Vai"),
    ("Yiii", "Yi"),
];
