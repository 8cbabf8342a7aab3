//! Written languages and their names: what a code means, and which language a person's spelling means.
//! In: `atlas/languages.tsv`, compiled in, and the spellings that people type. Out: [`LanguageCode`] and [`Language`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::LazyLock,
};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// A written language: ISO 639-3 code and ISO 15924 script, as in `mlt_Latn`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LanguageCode {
    iso639_3: [u8; 3],
    script: [u8; 4],
}

impl LanguageCode {
    /// The ISO 639-3 part, `mlt`.
    #[must_use]
    pub fn iso639_3(&self) -> &str {
        std::str::from_utf8(&self.iso639_3).expect("checked when parsed")
    }

    /// The ISO 15924 part, `Latn`.
    #[must_use]
    pub fn script(&self) -> &str {
        std::str::from_utf8(&self.script).expect("checked when parsed")
    }
}

impl FromStr for LanguageCode {
    type Err = LanguageError;

    fn from_str(text: &str) -> Result<Self, LanguageError> {
        let malformed = || LanguageError::Malformed(text.to_owned());
        let (language, script) = text.split_once('_').ok_or_else(malformed)?;
        let iso639_3: [u8; 3] = language.as_bytes().try_into().map_err(|_| malformed())?;
        let script: [u8; 4] = script.as_bytes().try_into().map_err(|_| malformed())?;
        let well_formed = iso639_3.iter().all(u8::is_ascii_lowercase)
            && script[0].is_ascii_uppercase()
            && script[1..].iter().all(u8::is_ascii_lowercase);
        if well_formed { Ok(Self { iso639_3, script }) } else { Err(malformed()) }
    }
}

impl TryFrom<String> for LanguageCode {
    type Error = LanguageError;

    fn try_from(text: String) -> Result<Self, LanguageError> {
        text.parse()
    }
}

impl From<LanguageCode> for String {
    fn from(code: LanguageCode) -> Self {
        code.to_string()
    }
}

impl fmt::Display for LanguageCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}_{}", self.iso639_3(), self.script()))
    }
}

impl fmt::Debug for LanguageCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The direction in which a script is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Left to right.
    Ltr,
    /// Right to left.
    Rtl,
}

impl Direction {
    /// As HTML's `dir` attribute spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ltr => "ltr",
            Self::Rtl => "rtl",
        }
    }
}

/// One written language of the registry. A cell that the sources leave blank is `None` or empty, never guessed.
#[derive(Clone, Debug, PartialEq)]
pub struct Language {
    /// Its code in corpora and files.
    pub code: LanguageCode,
    /// Two-letter ISO 639-1 code.
    pub iso639_1: Option<String>,
    /// BCP 47 tag, for HTML's `lang` attribute.
    pub bcp47: String,
    /// Glottolog's code.
    pub glottocode: Option<String>,
    /// English name.
    pub name: String,
    /// The language's own name, in this row's script.
    pub autonym: Option<String>,
    /// Reading direction of the script.
    pub direction: Direction,
    /// Top-level family, as Glottolog names it.
    pub family: String,
    /// A branch that readers know, such as Germanic.
    pub subfamily: Option<String>,
    /// Glottolog's macro-area.
    pub area: Option<String>,
    /// Degrees north and east.
    pub coordinates: Option<(f64, f64)>,
    /// Estimate of the number of speakers.
    pub speakers: Option<u64>,
    /// ISO 639-3 macrolanguage that it belongs to.
    pub macrolanguage: Option<String>,
    /// Further spellings that mean this language and no other.
    pub aliases: Vec<String>,
    /// Where the row's facts come from.
    pub sources: Vec<String>,
}

impl Language {
    /// The language's own name, or the English one where the registry has no other.
    #[must_use]
    pub fn autonym(&self) -> &str {
        self.autonym.as_deref().unwrap_or(&self.name)
    }
}

/// What can be wrong with a language's spelling.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// Not of the form `mlt_Latn`.
    #[error("`{0}` is not a language code such as `mlt_Latn` (ISO 639-3 code, underscore, ISO 15924 script)")]
    Malformed(String),
    /// No language is spelt so.
    #[error("no language is called `{spelling}`{}; a language is written as `mt`, `mlt`, `mlt_Latn`, `Maltese` or `Malti`", nearest(.similar))]
    Unknown {
        /// What was typed.
        spelling: String,
        /// Spellings that differ little from it.
        similar: Vec<String>,
    },
    /// Several languages are spelt so.
    #[error("`{spelling}` names {} languages: {}; write one of these codes", .candidates.len(), .candidates.join(", "))]
    Ambiguous {
        /// What was typed.
        spelling: String,
        /// `code (name)` of each.
        candidates: Vec<String>,
    },
    /// A list whose order means something names a language twice.
    #[error(
        "{code} stands twice in the list of languages, and each place of it means another list of neurons; name each once"
    )]
    Repeated {
        /// The language.
        code: LanguageCode,
    },
    /// A list of languages names none.
    #[error("the list of languages is empty; write codes separated by commas, `all`, or `@FILE`")]
    EmptyList,
    /// A `@FILE` that cannot be read.
    #[error("{path}: cannot read the list of languages: {source}")]
    List {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn nearest(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!(" (did you mean {}?)", similar.join(" or ")) }
}

/// The languages that neuroglot knows, and an index of their spellings.
#[derive(Debug)]
pub struct Registry {
    languages: Vec<Language>,
    /// Every kind of spelling, strongest first.
    spellings: Vec<Spellings>,
    /// The same without accents; looked at second, for `Lü` is not `lu`.
    bare: Vec<Spellings>,
}

/// One kind of spelling and the rows that it names.
type Spellings = BTreeMap<String, BTreeSet<usize>>;

static BUILTIN: LazyLock<Registry> = LazyLock::new(|| {
    Registry::parse(include_str!("../atlas/languages.tsv")).expect("a test parses the table that is compiled in")
});

/// The columns of `atlas/languages.tsv`.
const COLUMNS: [&str; 16] = [
    "code",
    "iso639_1",
    "bcp47",
    "glottocode",
    "name",
    "autonym",
    "direction",
    "family",
    "subfamily",
    "area",
    "latitude",
    "longitude",
    "speakers",
    "macrolanguage",
    "aliases",
    "sources",
];

impl Registry {
    /// The registry that is compiled in.
    #[must_use]
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// Reads a table: `#` comments, a header, then one tab-separated row per language.
    ///
    /// # Errors
    /// A sentence that names the row and the column that is wrong.
    pub fn parse(table: &str) -> Result<Self, String> {
        let mut lines = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
        if header != COLUMNS {
            return Err(format!("the columns are {header:?}, but {COLUMNS:?} are wanted"));
        }
        let mut languages = lines.map(parse_row).collect::<Result<Vec<_>, _>>()?;
        languages.sort_by_key(|language| language.code);
        if let Some(pair) = languages.windows(2).find(|pair| pair[0].code == pair[1].code) {
            return Err(format!("{} stands in two rows", pair[0].code));
        }
        let spellings = index(&languages);
        let bare = spellings.iter().map(bare).collect();
        Ok(Self { languages, spellings, bare })
    }

    /// Every language, by code.
    #[must_use]
    pub fn languages(&self) -> &[Language] {
        &self.languages
    }

    /// The language of a code, if the registry has it.
    #[must_use]
    pub fn get(&self, code: LanguageCode) -> Option<&Language> {
        self.languages.binary_search_by_key(&code, |language| language.code).ok().map(|at| &self.languages[at])
    }

    /// The one language that a person's spelling means: a code of any standard, a tag, a name or an autonym.
    ///
    /// # Errors
    /// When no language or several languages are spelt so; the error lists the candidates.
    pub fn resolve(&self, spelling: &str) -> Result<&Language, LanguageError> {
        let wanted = fold(spelling);
        let found = self.candidates(&wanted);
        match found.len() {
            0 => Err(LanguageError::Unknown { spelling: spelling.trim().to_owned(), similar: self.similar(&wanted) }),
            1 => Ok(&self.languages[*found.first().expect("there is one")]),
            _ => Err(LanguageError::Ambiguous {
                spelling: spelling.trim().to_owned(),
                candidates: found
                    .iter()
                    .map(|&at| &self.languages[at])
                    .map(|l| format!("{} ({})", l.code, l.name))
                    .collect(),
            }),
        }
    }

    /// Reads `mt,cym_Latn,Welsh`, `all` (the `available` ones) or `@FILE` (one spelling a line, `#` comments).
    ///
    /// # Errors
    /// As [`Registry::resolve`]; also when the list is empty or its file cannot be read.
    pub fn resolve_list(&self, list: &str, available: &[LanguageCode]) -> Result<Vec<LanguageCode>, LanguageError> {
        if list.trim() == "all" {
            return Ok(available.to_vec());
        }
        let codes: BTreeSet<LanguageCode> = self.spelt(list)?.into_iter().collect();
        Ok(codes.into_iter().collect())
    }

    /// As [`Registry::resolve_list`], but in the order of the list, where the order means something.
    ///
    /// # Errors
    /// As [`Registry::resolve_list`]; also when a language stands twice.
    pub fn resolve_order(&self, list: &str, available: &[LanguageCode]) -> Result<Vec<LanguageCode>, LanguageError> {
        if list.trim() == "all" {
            return Ok(available.to_vec());
        }
        let codes = self.spelt(list)?;
        let mut seen = BTreeSet::new();
        match codes.iter().find(|&&code| !seen.insert(code)) {
            Some(&code) => Err(LanguageError::Repeated { code }),
            None => Ok(codes),
        }
    }

    /// The languages of a list or a file, one after the other.
    fn spelt(&self, list: &str) -> Result<Vec<LanguageCode>, LanguageError> {
        let text = match list.trim().strip_prefix('@') {
            Some(file) => read_list(Path::new(file))?,
            None => list.to_owned(),
        };
        let codes: Vec<LanguageCode> = text
            .split([',', '\n'])
            .map(|spelling| spelling.split('#').next().unwrap_or_default().trim())
            .filter(|spelling| !spelling.is_empty())
            .map(|spelling| self.resolve(spelling).map(|language| language.code))
            .collect::<Result<_, _>>()?;
        if codes.is_empty() { Err(LanguageError::EmptyList) } else { Ok(codes) }
    }

    fn candidates(&self, wanted: &str) -> BTreeSet<usize> {
        if let Some(found) = self.named(wanted).first() {
            return (*found).clone();
        }
        // `mt_latn`, `pt_br`, `zh_hant_tw`: a base, perhaps with a script, perhaps with a region.
        let Some((base, last)) = wanted.rsplit_once('_') else { return BTreeSet::new() };
        let is_region = last.len() == 2 || (last.len() == 3 && last.bytes().all(|b| b.is_ascii_digit()));
        if is_region {
            return self.candidates(base);
        }
        let in_script = |at: &usize| self.languages[*at].code.script().eq_ignore_ascii_case(last);
        let rows = |found: &BTreeSet<usize>| found.iter().copied().filter(in_script).collect::<BTreeSet<usize>>();
        self.named(base).into_iter().map(rows).find(|rows| !rows.is_empty()).unwrap_or_default()
    }

    /// The rows that are spelt so, by every kind of spelling that knows it.
    fn named(&self, wanted: &str) -> Vec<&BTreeSet<usize>> {
        let bare = without_accents(wanted);
        let written = self.spellings.iter().filter_map(|kind| kind.get(wanted));
        written.chain(self.bare.iter().filter_map(|kind| kind.get(&bare))).collect()
    }

    /// Up to three spellings within two edits.
    fn similar(&self, wanted: &str) -> Vec<String> {
        let wanted = &without_accents(wanted);
        let names =
            |language: &Language| [language.name.clone(), language.autonym().to_owned(), language.code.to_string()];
        let distance = |spelling: &String| edits(&without_accents(&fold(spelling)), wanted);
        let mut near: Vec<(usize, String)> = self
            .languages
            .iter()
            .filter_map(|language| Some((names(language).iter().map(distance).min()?, language)))
            .filter(|(distance, _)| *distance <= 2 && wanted.chars().count() > 3)
            .map(|(distance, language)| (distance, format!("{} ({})", language.code, language.name)))
            .collect();
        near.sort();
        near.into_iter().map(|(_, name)| name).take(3).collect()
    }
}

fn read_list(path: &Path) -> Result<String, LanguageError> {
    std::fs::read_to_string(path).map_err(|source| LanguageError::List { path: path.to_owned(), source })
}

fn parse_row(line: &str) -> Result<Language, String> {
    let cells: Vec<&str> = line.split('\t').collect();
    if cells.len() != COLUMNS.len() {
        return Err(format!("`{line}` has {} columns, but {} are wanted", cells.len(), COLUMNS.len()));
    }
    let text = |at: usize| (!cells[at].is_empty()).then(|| cells[at].to_owned());
    let wrong = |at: usize| format!("{}: `{}` is no {}", cells[0], cells[at], COLUMNS[at]);
    let number = |at: usize| text(at).map(|cell| cell.parse::<f64>().map_err(|_| wrong(at))).transpose();
    let list = |at: usize| cells[at].split(';').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    Ok(Language {
        code: cells[0].parse().map_err(|error: LanguageError| error.to_string())?,
        iso639_1: text(1),
        bcp47: text(2).ok_or_else(|| wrong(2))?,
        glottocode: text(3),
        name: text(4).ok_or_else(|| wrong(4))?,
        autonym: text(5),
        direction: match cells[6] {
            "ltr" => Direction::Ltr,
            "rtl" => Direction::Rtl,
            _ => return Err(wrong(6)),
        },
        family: text(7).ok_or_else(|| wrong(7))?,
        subfamily: text(8),
        area: text(9),
        coordinates: number(10)?.zip(number(11)?),
        speakers: text(12).map(|cell| cell.parse().map_err(|_| wrong(12))).transpose()?,
        macrolanguage: text(13),
        aliases: list(14),
        sources: list(15),
    })
}

/// What people call several languages at once, where no row says so: names and old codes of macrolanguages.
const SHARED: [(&str, &str); 7] = [
    ("no", "nor"),
    ("Norwegian", "nor"),
    ("sh", "hbs"),
    ("Serbo-Croatian", "hbs"),
    ("Kurdish", "kur"),
    ("Quechua", "que"),
    ("oj", "oji"),
];

/// Codes as the registry writes them; tags, ISO codes and aliases; English names; autonyms; what several rows share.
fn index(languages: &[Language]) -> Vec<Spellings> {
    let mut kinds: Vec<Spellings> = vec![Spellings::new(); 5];
    let mut add = |kind: usize, spelling: &str, at: usize| {
        kinds[kind].entry(fold(spelling)).or_default().insert(at);
    };
    for (at, language) in languages.iter().enumerate() {
        add(0, &language.code.to_string(), at);
        add(1, &language.bcp47, at);
        language.aliases.iter().for_each(|alias| add(1, alias, at));
        if is_usual_script(language, languages) {
            iso_codes(language).into_iter().flatten().for_each(|code| add(1, code, at));
        }
        add(2, &language.name, at);
        language.autonym.iter().for_each(|autonym| add(3, autonym, at));
        // `Serbian` and `Chinese` name both of their scripts, `Tonga` two languages.
        let names = std::iter::once(&language.name).chain(&language.aliases);
        names.filter_map(|name| name.split_once(" (")).for_each(|(name, _)| add(4, name, at));
        // So does `cmn`, of which the table has `cmn_Hans` and `cmn_Hant`.
        let codes = language.aliases.iter().filter_map(|alias| alias.parse::<LanguageCode>().ok());
        codes.for_each(|code| add(4, code.iso639_3(), at));
        if let Some(macrolanguage) = &language.macrolanguage {
            add(4, macrolanguage, at);
            SHARED.iter().filter(|(_, code)| code == macrolanguage).for_each(|(spelling, _)| add(4, spelling, at));
        }
    }
    kinds
}

fn iso_codes(language: &Language) -> [Option<&str>; 3] {
    [language.iso639_1.as_deref(), Some(language.code.iso639_3()), language.glottocode.as_deref()]
}

/// Whether a code that says nothing of the script can mean this row. Of the rows that share a code it is the one named without
/// a bracket: `hin` is Hindi, not Hindi (Latin). Where all names have one (Serbian, Chinese) every row is meant, and where BCP 47
/// gives the bare code to another script (`crh`, `lad`) both are: the sources disagree, so a person has to say.
fn is_usual_script(language: &Language, languages: &[Language]) -> bool {
    let plain = |language: &Language| !language.name.contains('(');
    let shares = |other: &&Language| other.code.iso639_3() == language.code.iso639_3();
    plain(language) || !languages.iter().filter(shares).any(plain)
}

/// The spellings of one kind without their accents.
fn bare(kind: &Spellings) -> Spellings {
    let mut bare = Spellings::new();
    for (spelling, rows) in kind {
        bare.entry(without_accents(spelling)).or_default().extend(rows);
    }
    bare
}

/// Spellings are compared without case, apostrophes, and the difference of `-`, `_` and space.
fn fold(spelling: &str) -> String {
    let apostrophe = |c: &char| matches!(c, '\'' | '`' | '\u{2b9}'..='\u{2bf}' | '\u{2018}' | '\u{2019}');
    let joined = |c: char| if matches!(c, '-' | ' ') { '_' } else { c };
    spelling.trim().nfc().filter(|c| !apostrophe(c)).flat_map(char::to_lowercase).map(joined).collect()
}

fn without_accents(spelling: &str) -> String {
    spelling.nfd().filter(|c| !('\u{300}'..='\u{36f}').contains(c)).nfc().collect()
}

/// Levenshtein distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
