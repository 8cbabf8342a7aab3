//! The languages that the pages speak: English, and what the tables in `templates/locales` translate.

use super::words;

/// A language of the interface.
pub struct Locale {
    /// Folder of its pages and name of its table; English has none.
    pub code: &'static str,
    /// BCP 47 tag.
    pub bcp47: &'static str,
    /// `ltr` or `rtl`.
    pub direction: &'static str,
    /// Its own name for itself.
    pub name: &'static str,
}

/// English, in which every text of the interface is written.
pub const ENGLISH: Locale = Locale { code: "en", bcp47: "en", direction: "ltr", name: "English" };

impl Locale {
    /// Whether this is English.
    pub fn is_english(&self) -> bool {
        self.code == "en"
    }

    /// A text with its `{names}` filled in.
    pub fn say(&self, english: &str, arguments: &[(&str, &str)]) -> String {
        fill(english, arguments)
    }

    /// The form of a text that goes with a number; `{n}` is that number.
    pub fn count(&self, n: usize, one: &str, other: &str, arguments: &[(&str, &str)]) -> String {
        let number = self.integer(n as u64);
        let mut all = vec![("n", number.as_str())];
        all.extend(arguments);
        fill(if n == 1 { one } else { other }, &all)
    }

    /// `1,234`.
    pub fn integer(&self, n: u64) -> String {
        words::thousands(n)
    }

    /// `0.12`.
    pub fn decimal(&self, value: f64, places: usize) -> String {
        format!("{value:.places$}")
    }

    /// `12.5 %`.
    pub fn percent(&self, share: f64) -> String {
        words::percent(share)
    }
}

fn fill(text: &str, arguments: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        let Some(end) = rest[start..].find('}') else { break };
        let name = &rest[start + 1..start + end];
        filled.push_str(&rest[..start]);
        match arguments.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => filled.push_str(value),
            None => filled.push_str(&rest[start..=start + end]),
        }
        rest = &rest[start + end + 1..];
    }
    filled + rest
}

/// English and the locales asked for; all where none is named.
pub fn chosen(asked: Option<&[String]>) -> Result<Vec<&'static Locale>, super::SiteError> {
    let mut chosen = vec![&ENGLISH];
    for code in asked.unwrap_or_default() {
        if code != "en" {
            return Err(super::SiteError::Locale { asked: code.clone(), known: "en".to_owned() });
        }
    }
    chosen.dedup_by_key(|locale| locale.code);
    Ok(chosen)
}
