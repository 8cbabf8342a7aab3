//! The words of the interface in every locale. The key of a text is its English: templates, Rust and JavaScript say it where they
//! need it, and `templates/locales/*.tsv` (compiled in) hold what other locales say instead, with as many plural forms as they have.
//! Out: sentences and numbers as a locale writes them, for the pages and for the browser's scripts.

use std::{collections::BTreeMap, fmt::Write, sync::OnceLock};

use minijinja::{
    Environment, Error, HtmlEscape,
    value::{Kwargs, Value},
};

/// How a page speaks to its readers: a language of the interface, not one of the atlas.
pub struct Locale {
    /// Folder of its pages and name of its table; the pages of English stand at the site's root.
    pub code: &'static str,
    /// BCP 47 tag.
    pub bcp47: &'static str,
    /// `ltr` or `rtl`.
    pub direction: &'static str,
    /// Its own name for itself.
    pub name: &'static str,
    table: &'static str,
    /// English text, or `one|other` of it, to this locale's text or plural forms.
    words: OnceLock<BTreeMap<&'static str, Vec<&'static str>>>,
    /// Which of the forms a number takes.
    plural: fn(u64) -> usize,
    /// Names of the forms in the order of the table, for the browser's `Intl.PluralRules`.
    forms: &'static [&'static str],
    numbers: Numbers,
}

/// How numbers are written; with European digits everywhere, since codes, formulas and files have them.
struct Numbers {
    group: &'static str,
    decimal: &'static str,
    /// Digits of the smallest number that is grouped: Spanish writes 4608 but 14.336.
    grouped_from: usize,
    percent: &'static str,
}

const PLAIN: Numbers = Numbers { group: ",", decimal: ".", grouped_from: 4, percent: "\u{a0}%" };

/// Every locale, English first. Plural rules are those of CLDR 48 for whole numbers.
pub static LOCALES: [Locale; 5] = [
    Locale {
        code: "en",
        bcp47: "en",
        direction: "ltr",
        name: "English",
        table: "",
        words: OnceLock::new(),
        plural: |n| usize::from(n != 1),
        forms: &["one", "other"],
        numbers: PLAIN,
    },
    Locale {
        code: "fr",
        bcp47: "fr",
        direction: "ltr",
        name: "Français",
        table: include_str!("../../templates/locales/fr.tsv"),
        words: OnceLock::new(),
        plural: |n| if n < 2 { 0 } else { 1 + usize::from(!n.is_multiple_of(1_000_000)) },
        forms: &["one", "many", "other"],
        numbers: Numbers { group: "\u{202f}", decimal: ",", percent: "\u{202f}%", ..PLAIN },
    },
    Locale {
        code: "es",
        bcp47: "es",
        direction: "ltr",
        name: "Español",
        table: include_str!("../../templates/locales/es.tsv"),
        words: OnceLock::new(),
        plural: |n| if n == 1 { 0 } else { 1 + usize::from(n == 0 || !n.is_multiple_of(1_000_000)) },
        forms: &["one", "many", "other"],
        numbers: Numbers { group: ".", decimal: ",", grouped_from: 5, ..PLAIN },
    },
    Locale {
        code: "ar",
        bcp47: "ar",
        direction: "rtl",
        name: "العربية",
        table: include_str!("../../templates/locales/ar.tsv"),
        words: OnceLock::new(),
        plural: |n| match (n, n % 100) {
            (0..=2, _) => n as usize,
            (_, 3..=10) => 3,
            (_, 11..=99) => 4,
            _ => 5,
        },
        forms: &["zero", "one", "two", "few", "many", "other"],
        // The marks keep the sign with its number inside a right-to-left sentence.
        numbers: Numbers { percent: "\u{200e}%\u{200e}", ..PLAIN },
    },
    Locale {
        code: "sw",
        bcp47: "sw",
        direction: "ltr",
        name: "Kiswahili",
        table: include_str!("../../templates/locales/sw.tsv"),
        words: OnceLock::new(),
        plural: |n| usize::from(n != 1),
        forms: &["one", "other"],
        numbers: Numbers { percent: "%", ..PLAIN },
    },
];

/// English, in which every text of the interface is written.
pub static ENGLISH: &Locale = &LOCALES[0];

/// English and the locales asked for; all where none is named.
///
/// # Errors
/// When one is asked for that there is no table of.
pub fn chosen(asked: Option<&[String]>) -> Result<Vec<&'static Locale>, super::SiteError> {
    let Some(asked) = asked else { return Ok(LOCALES.iter().collect()) };
    if asked.iter().any(|code| code == "all") {
        return Ok(LOCALES.iter().collect());
    }
    let known = |code: &String| LOCALES.iter().any(|locale| locale.code == code);
    if let Some(asked) = asked.iter().find(|code| !known(code)) {
        let known = LOCALES.iter().map(|locale| locale.code).collect::<Vec<_>>().join(", ") + ", all";
        return Err(super::SiteError::Locale { asked: asked.clone(), known });
    }
    Ok(LOCALES.iter().filter(|locale| locale.is_english() || asked.iter().any(|code| code == locale.code)).collect())
}

/// A table: to a line an English text and what the locale says, tabs between; lines that begin with `#` are remarks. The English of a
/// plural is both its forms with `|` between, and behind it stand all forms of the locale.
fn words(table: &'static str) -> BTreeMap<&'static str, Vec<&'static str>> {
    let row = |line: &'static str| line.split_once('\t').map(|(key, forms)| (key, forms.split('\t').collect()));
    table.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

impl Locale {
    /// Whether this is English.
    #[must_use]
    pub fn is_english(&self) -> bool {
        self.code == "en"
    }

    fn words(&self) -> &BTreeMap<&'static str, Vec<&'static str>> {
        self.words.get_or_init(|| words(self.table))
    }

    /// A sentence in this locale, with its placeholders `{name}` filled; in English where the table lacks it.
    #[must_use]
    pub fn say(&self, english: &str, values: &[(&str, &str)]) -> String {
        fill(self.text(english), |name| value(values, name))
    }

    fn text<'a>(&'a self, english: &'a str) -> &'a str {
        self.words().get(english).map_or(english, |forms| forms[0])
    }

    /// A sentence about `n` things, in the form that `n` takes here; `{n}` in it is the number.
    #[must_use]
    pub fn count(&self, n: usize, one: &str, other: &str, values: &[(&str, &str)]) -> String {
        let number = self.integer(n as u64);
        let value = |name: &str| if name == "n" { Some(number.clone()) } else { value(values, name) };
        fill(self.form(n as u64, one, other), value)
    }

    fn form<'a>(&'a self, n: u64, one: &'a str, other: &'a str) -> &'a str {
        let english = if n == 1 { one } else { other };
        let forms = self.words().get(format!("{one}|{other}").as_str());
        forms.and_then(|forms| forms.get((self.plural)(n)).copied()).unwrap_or(english)
    }

    /// A whole number: `1,234` in English, `1 234` in French.
    #[must_use]
    pub fn integer(&self, n: u64) -> String {
        self.grouped(&n.to_string())
    }

    fn grouped(&self, digits: &str) -> String {
        if digits.len() < self.numbers.grouped_from {
            return digits.to_owned();
        }
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
        groups.join(self.numbers.group)
    }

    /// A number with a fixed number of decimals.
    #[must_use]
    pub fn decimal(&self, value: f64, places: usize) -> String {
        self.written(&format!("{value:.places$}"))
    }

    /// A small share in percent, with its first two digits: `0.028 %`.
    #[must_use]
    pub fn percent_of_little(&self, share: f64) -> String {
        let percent = share * 100.0;
        if percent <= 0.0 || percent >= 0.1 {
            return self.percent(share);
        }
        let places = (1.0 - percent.log10().floor()).min(9.0) as usize;
        self.decimal(percent, places) + self.numbers.percent
    }

    /// A share in percent with at most one decimal: `5 %`, `33.3 %`.
    #[must_use]
    pub fn percent(&self, share: f64) -> String {
        let text = format!("{:.1}", share * 100.0);
        self.written(text.strip_suffix(".0").unwrap_or(&text)) + self.numbers.percent
    }

    /// A number that Rust wrote, as this locale does.
    fn written(&self, text: &str) -> String {
        let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("\u{2212}", text));
        match text.split_once('.') {
            Some((whole, part)) => format!("{sign}{}{}{part}", self.grouped(whole), self.numbers.decimal),
            None if text.bytes().all(|b| b.is_ascii_digit()) => format!("{sign}{}", self.grouped(text)),
            None => format!("{sign}{text}"),
        }
    }

    /// `a`, `a and b`, `a, b and c`.
    #[must_use]
    pub fn list(&self, items: &[String]) -> String {
        match items.split_last() {
            None => String::new(),
            Some((last, [])) => last.clone(),
            Some((last, rest)) => {
                let first = rest.join(&self.say(", ", &[]));
                self.say("{first} and {last}", &[("first", &first), ("last", last)])
            }
        }
    }

    /// The texts that the browser's scripts need, as a classic script: those of `scripts` that this locale says differently.
    #[must_use]
    pub fn script(&self, scripts: &str) -> String {
        let used = texts(scripts, &["t"], &["tn"]);
        let words: BTreeMap<&str, &Vec<&str>> = self
            .words()
            .iter()
            .filter(|(key, _)| used.iter().any(|text| text == *key))
            .map(|(key, forms)| (*key, forms))
            .collect();
        let json = serde_json::to_string(&words).expect("plain data");
        let forms = serde_json::to_string(self.forms).expect("plain data");
        format!("(self.ATLAS = self.ATLAS || {{}}).words = {json};\nATLAS.forms = {forms};\n")
    }

    /// Gives templates `t("English", name=…)`, `tn(n, "one", "other", name=…)`, the filters `integer`, `percent` and
    /// `decimal(places)`, and `locale` with `code`, `bcp47`, `name` and `dir`.
    pub fn register(&'static self, environment: &mut Environment) {
        environment.add_function("t", |english: &str, values: Kwargs| filled(self.text(english), None, &values));
        environment.add_function("tn", |n: u64, one: &str, other: &str, values: Kwargs| {
            filled(self.form(n, one, other), Some(self.integer(n)), &values)
        });
        environment.add_filter("integer", |n: u64| self.integer(n));
        environment.add_filter("percent", |share: f64| self.percent(share));
        environment.add_filter("decimal", |value: f64, places: usize| self.decimal(value, places));
        let about = [("code", self.code), ("bcp47", self.bcp47), ("name", self.name), ("dir", self.direction)];
        environment.add_global("locale", Value::from_iter(about));
    }

    /// What stands against this locale's table, given every text that is said somewhere: texts that it lacks or that nobody says any
    /// more, forms that are missing, placeholders that differ.
    #[must_use]
    pub fn problems(&self, said: &[String]) -> Vec<String> {
        let mut problems = Vec::new();
        for key in said {
            let Some(forms) = self.words().get(key.as_str()) else {
                problems.push(format!("{}: lacks `{key}`", self.code));
                continue;
            };
            // "One neuron" need not repeat its number, and neither need a form for 0 or 2.
            let plural = key.contains('|');
            let names =
                |text: &str| placeholders(text).into_iter().filter(|name| !plural || name != "n").collect::<Vec<_>>();
            let wanted = names(key.rsplit('|').next().unwrap_or(key));
            if forms.len() != if plural { self.forms.len() } else { 1 } {
                problems.push(format!("{}: `{key}` has {} forms", self.code, forms.len()));
            }
            problems.extend(
                forms
                    .iter()
                    .filter(|form| form.trim().is_empty() && !key.trim().is_empty() || names(form) != wanted)
                    .map(|form| format!("{}: `{key}` became `{form}`", self.code)),
            );
            let last = forms.last().copied().unwrap_or_default();
            if plural && key.contains("{n}") && !last.contains("{n}") {
                problems.push(format!("{}: `{key}` loses its number in `{last}`", self.code));
            }
        }
        let unsaid = self.words().keys().filter(|key| !said.iter().any(|text| text == *key));
        problems.extend(unsaid.map(|key| format!("{}: nobody says `{key}`", self.code)));
        problems
    }
}

fn value(values: &[(&str, &str)], name: &str) -> Option<String> {
    values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

/// A sentence as safe HTML: what is filled in is escaped, unless it is HTML already.
fn filled(text: &str, n: Option<String>, values: &Kwargs) -> Result<Value, Error> {
    let mut known: BTreeMap<String, String> = n.into_iter().map(|n| ("n".to_owned(), n)).collect();
    for name in values.args() {
        let value: Value = values.get(name)?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        known.insert(name.to_owned(), if value.is_safe() { text } else { HtmlEscape(&text).to_string() });
    }
    values.assert_all_used()?;
    let escaped = HtmlEscape(text).to_string();
    Ok(Value::from_safe_string(fill(&escaped, |name| known.get(name).cloned())))
}

/// Puts values in the place of `{name}`; what has no value stays as it is, for a test to see.
fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else { break };
        filled.push_str(before);
        match value(name) {
            Some(value) => filled.push_str(&value),
            None => write!(filled, "{{{name}}}").expect("a string takes all"),
        }
        rest = behind;
    }
    filled + rest
}

fn placeholders(text: &str) -> Vec<String> {
    let mut names: Vec<String> =
        text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

/// Texts that a source says: the first string literal of calls of `plain`, and the two of calls of `plural` with `|` between.
#[must_use]
pub fn texts(source: &str, plain: &[&str], plural: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (names, wanted) in [(plain, 1), (plural, 2)] {
        for name in names {
            let call = format!("{name}(");
            for (at, _) in source.match_indices(&call) {
                let before = source[..at].chars().next_back();
                // `.say(` is a call of `.say`; `set(` is none of `t`.
                if !name.starts_with('.') && before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.') {
                    continue;
                }
                let literals = literals(&source[at + call.len()..], wanted);
                if literals.len() == wanted {
                    found.push(literals.join("|"));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The first string literals of a call, of which the last is followed by `,` or `)`; for two, an argument stands before them.
fn literals(rest: &str, wanted: usize) -> Vec<String> {
    let mut rest = rest.trim_start();
    let mut found = Vec::new();
    if wanted == 2 {
        // The number before the literals: anything up to the comma that belongs to this call.
        let Some(comma) = comma(rest) else { return found };
        rest = rest[comma + 1..].trim_start();
    }
    while found.len() < wanted {
        let Some(inside) = rest.strip_prefix('"') else { break };
        let mut text = String::new();
        let mut letters = inside.char_indices();
        let mut end = None;
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    end = Some(at + 1);
                    break;
                }
                '\\' => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, '\n')) => {
                        // A literal of Rust that goes on: the line's end and the next one's indent are not part of it.
                        while letters.clone().next().is_some_and(|(_, c)| c.is_whitespace()) {
                            letters.next();
                        }
                    }
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                letter => text.push(letter),
            }
        }
        let Some(end) = end else { break };
        found.push(text);
        rest = inside[end..].trim_start().trim_start_matches(',').trim_start();
    }
    found
}

/// Place of the first comma outside brackets.
fn comma(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}
