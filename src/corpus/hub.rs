//! `glotcc`, `fineweb2`, `flores`, `wikipedia` and `hub:OWNER/NAME`: data sets on a Hub, of which whole files are fetched one after
//! another, and no more of them than a run reads.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Corpus, CorpusError, CorpusOptions, Documents, Raw, Split, jsonl, parquet};
use crate::{
    hub::{Hub, HubPath, Kind, Snapshot, unwatched},
    language::{LanguageCode, Registry},
};

/// A data set whose layout we know.
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// `owner/name` on the Hub.
    pub repo: &'static str,
    /// Column of the text.
    text: &'static str,
    layout: Layout,
    /// Names of its configurations that mean another language than they say, or none (an empty code).
    names: &'static [(&'static str, &'static str)],
    /// Whether its conditions have to be accepted before a file is given out.
    gated: bool,
}

/// Where a data set keeps a language's files.
enum Layout {
    /// `ROOT/NAME/PART/*.parquet`; parts in this order.
    Folders { root: &'static str, parts: &'static [&'static str] },
    /// `DATE.NAME/*.parquet` of the latest date.
    Dated,
    /// `FOLDER/NAME.parquet`; folders in this order.
    Files { folders: &'static [&'static str] },
}

/// Labels of `GlotLID`, which names the individual language where the registry has the code that other data sets use.
const GLOTLID: &[(&str, &str)] = &[
    ("cmn_Hani", "zho_Hans"),
    ("yue_Hani", "yue_Hant"),
    ("lzh_Hani", "lzh_Hant"),
    ("wuu_Hani", "wuu_Hans"),
    ("gan_Hani", "gan_Hans"),
    ("hak_Hani", "hak_Hant"),
    ("nan_Hani", "nan_Hant"),
    ("ekk_Latn", "est_Latn"),
    ("fas_Arab", "pes_Arab"),
    ("gug_Latn", "grn_Latn"),
];

/// Names of Wikipedias that are no code of their language, or the code of another one.
const WIKIPEDIA: &[(&str, &str)] = &[
    ("ak", "aka_Latn"),
    ("als", "gsw_Latn"),
    ("ar", "arb_Arab"),
    ("ay", "ayr_Latn"),
    ("az", "azj_Latn"),
    ("bat-smg", "sgs_Latn"),
    ("be-tarask", ""),
    ("be-x-old", ""),
    ("cbk-zam", "cbk_Latn"),
    ("cr", ""),
    ("eml", "egl_Latn"),
    ("fa", "pes_Arab"),
    ("fiu-vro", "vro_Latn"),
    ("gn", "grn_Latn"),
    ("ik", ""),
    ("iu", "ike_Cans"),
    ("kk", "kaz_Cyrl"),
    ("ku", "kmr_Latn"),
    ("kv", "kpv_Cyrl"),
    ("lv", "lvs_Latn"),
    ("map-bms", ""),
    ("mg", "plt_Latn"),
    ("mn", "khk_Cyrl"),
    ("ms", "zsm_Latn"),
    ("nah", ""),
    ("nds-nl", ""),
    ("ne", "npi_Deva"),
    ("no", "nob_Latn"),
    ("om", "gaz_Latn"),
    ("or", "ory_Orya"),
    ("pa", "pan_Guru"),
    ("ps", "pbt_Arab"),
    ("qu", "quy_Latn"),
    ("roa-rup", "rup_Latn"),
    ("roa-tara", ""),
    ("sd", "snd_Arab"),
    ("sh", ""),
    ("simple", ""),
    ("sq", "als_Latn"),
    ("sr", "srp_Cyrl"),
    ("sw", "swh_Latn"),
    ("tg", "tgk_Cyrl"),
    ("tk", "tuk_Latn"),
    ("tl", "tgl_Latn"),
    ("ug", "uig_Arab"),
    ("uz", "uzn_Latn"),
    ("yi", "ydd_Hebr"),
    ("zh", "zho_Hans"),
    ("zh-classical", "lzh_Hant"),
    ("zh-min-nan", "nan_Latn"),
    ("zh-yue", "yue_Hant"),
];

/// Every data set whose layout we know.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "glotcc",
        help: "GlotCC-V1, web pages in over 1,000 languages",
        repo: "cis-lmu/GlotCC-V1",
        text: "content",
        layout: Layout::Folders { root: "v1.0", parts: &[""] },
        names: GLOTLID,
        gated: false,
    },
    Preset {
        name: "fineweb2",
        help: "FineWeb-2, filtered web pages in over 1,000 languages (English is not among them)",
        repo: "HuggingFaceFW/fineweb-2",
        text: "text",
        // The files of `train` are 5 GB each, those of `test` are a hundredth of it and are enough for most profiles.
        layout: Layout::Folders { root: "data", parts: &["test", "train"] },
        names: GLOTLID,
        gated: false,
    },
    Preset {
        name: "flores",
        help: "FLORES+, 2,009 parallel sentences in over 200 languages; gated",
        repo: "openlanguagedata/flores_plus",
        text: "text",
        layout: Layout::Files { folders: &["dev", "devtest"] },
        names: &[
            ("cmn_Hans", "zho_Hans"),
            ("cmn_Hant", "zho_Hant"),
            ("ekk_Latn", "est_Latn"),
            ("gug_Latn", "grn_Latn"),
        ],
        gated: true,
    },
    Preset {
        name: "wikipedia",
        help: "articles of Wikipedia in over 300 languages",
        repo: "wikimedia/wikipedia",
        text: "text",
        layout: Layout::Dated,
        names: WIKIPEDIA,
        gated: false,
    },
];

/// A data set at one commit.
struct HubCorpus {
    id: String,
    snapshot: Arc<Snapshot>,
    column: String,
    languages: BTreeMap<LanguageCode, Place>,
}

/// Where a language's files are: listed when they are asked for, for a listing of all is long.
#[derive(Clone)]
enum Place {
    /// All files below these folders.
    Below(Vec<String>),
    /// These files, as far as they are there.
    Files(Vec<String>),
}

/// Opens a preset at a revision, `main` unless said.
pub fn open_preset(preset: &Preset, revision: &Path, options: &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError> {
    let revision = revision.to_str().filter(|revision| !revision.is_empty());
    let repo = preset.repo.parse().expect("a constant that a test parses");
    let snapshot = Hub::open(options.offline)?.snapshot(Kind::Dataset, &repo, revision)?;
    let languages = preset.languages(&snapshot)?;
    if languages.is_empty() {
        return Err(CorpusError::NoHubLanguages { corpus: snapshot.id() });
    }
    if preset.gated
        && let Some(place) = languages.values().next()
        && let Some(first) = files(&snapshot, place)?.first()
    {
        snapshot.check_access(first)?;
    }
    let column = options.text_column.clone().unwrap_or_else(|| preset.text.to_owned());
    let id = format!("{}:{}", preset.name, snapshot.id());
    Ok(Box::new(HubCorpus { id, snapshot: Arc::new(snapshot), column, languages }))
}

/// Opens any data set: `OWNER/NAME[/FOLDER][@REVISION]`, whose Parquet or JSONL files say their language in their path.
pub fn open(place: &Path, options: &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError> {
    let place: HubPath = place.to_string_lossy().parse()?;
    let snapshot = Hub::open(options.offline)?.snapshot(Kind::Dataset, &place.repo, place.revision.as_deref())?;
    let folder = place.path.as_deref().unwrap_or_default();
    let mut languages: BTreeMap<LanguageCode, Vec<String>> = BTreeMap::new();
    for path in snapshot.below(folder)?.into_keys().filter(|path| is_table(path)) {
        let inside = path.strip_prefix(folder).unwrap_or(&path);
        if let Some(language) = inside.split(['/', '.']).find_map(|part| language_of(part, &[])) {
            languages.entry(language.code).or_default().push(path);
        }
    }
    if languages.is_empty() {
        return Err(CorpusError::NoHubLanguages { corpus: snapshot.id() });
    }
    let column = options.text_column.clone().unwrap_or_else(|| "text".to_owned());
    let id = match &place.path {
        Some(folder) => format!("hub:{}/{folder}@{}", snapshot.repo(), snapshot.commit()),
        None => format!("hub:{}", snapshot.id()),
    };
    let languages = languages.into_iter().map(|(language, files)| (language, Place::Files(files))).collect();
    Ok(Box::new(HubCorpus { id, snapshot: Arc::new(snapshot), column, languages }))
}

fn is_table(path: &str) -> bool {
    [".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst"].iter().any(|extension| path.ends_with(extension))
}

/// What a name in a data set means, and how surely.
struct Named {
    code: LanguageCode,
    doubt: u8,
}

/// The language of a configuration's name.
fn language_of(name: &str, names: &[(&str, &str)]) -> Option<Named> {
    let registry = Registry::builtin();
    let spelling = name.replace('-', "_");
    if let Some((_, code)) = names.iter().find(|(theirs, _)| *theirs == name || *theirs == spelling) {
        return Some(Named { code: code.parse().ok()?, doubt: 1 });
    }
    if let Some(language) = spelling.parse().ok().and_then(|code| registry.get(code)) {
        return Some(Named { code: language.code, doubt: 0 });
    }
    let resolved =
        |spelling: &str, doubt| registry.resolve(spelling).ok().map(|language| Named { code: language.code, doubt });
    match spelling.split('_').collect::<Vec<_>>().as_slice() {
        // A code of two or three letters; a longer word is the name of a folder, not of a language.
        [code] if (2..=3).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase()) => resolved(code, 2),
        [code, script] if code.len() == 3 && script.len() == 4 => resolved(&spelling, 2),
        // FLORES+ tells variants apart by a code of Glottolog behind the script.
        [code, script, variety] if code.len() == 3 && script.len() == 4 && is_glottocode(variety) => {
            resolved(&format!("{code}_{script}"), 3)
        }
        _ => None,
    }
}

/// The language that a part of a path means, by the codes that most data sets use and else by those of Wikipedia.
pub(super) fn language_in(part: &str) -> Option<LanguageCode> {
    let of = |names| language_of(part, names).map(|named| named.code);
    let short = (2..=3).contains(&part.len());
    if short { of(WIKIPEDIA).or_else(|| of(&[])) } else { of(&[]) }
}

/// Four letters or digits and four digits.
fn is_glottocode(text: &str) -> bool {
    text.len() == 8 && text.is_char_boundary(4) && text[4..].bytes().all(|b| b.is_ascii_digit())
}

impl Preset {
    /// The language that a configuration's name means, if it means one that we know.
    #[must_use]
    pub fn language(&self, name: &str) -> Option<LanguageCode> {
        language_of(name, self.names).map(|named| named.code)
    }

    /// Names of configurations that mean another language than they say, or (an empty code) none.
    #[must_use]
    pub fn exceptions(&self) -> &'static [(&'static str, &'static str)] {
        self.names
    }

    /// The languages that the data set has, and where; of two names for a language, the one that says so more plainly.
    fn languages(&self, snapshot: &Snapshot) -> Result<BTreeMap<LanguageCode, Place>, CorpusError> {
        let mut found: BTreeMap<LanguageCode, (u8, Place)> = BTreeMap::new();
        for (name, place) in self.places(snapshot)? {
            let Some(named) = language_of(&name, self.names) else { continue };
            if found.get(&named.code).is_none_or(|(doubt, _)| named.doubt < *doubt) {
                found.insert(named.code, (named.doubt, place));
            }
        }
        Ok(found.into_iter().map(|(language, (_, place))| (language, place)).collect())
    }

    /// Every name of a configuration and where its files are, by name.
    fn places(&self, snapshot: &Snapshot) -> Result<BTreeMap<String, Place>, CorpusError> {
        match self.layout {
            Layout::Folders { root, parts } => {
                let place = |name: &str| {
                    let part = |part: &&str| {
                        if part.is_empty() { format!("{root}/{name}") } else { format!("{root}/{name}/{part}") }
                    };
                    Place::Below(parts.iter().map(part).collect())
                };
                Ok(snapshot.folders(root)?.into_iter().map(|name| (name.clone(), place(&name))).collect())
            }
            Layout::Dated => {
                let folders = snapshot.folders("")?;
                let dated = |folder: &String| {
                    let (date, name) = folder.split_once('.')?;
                    date.bytes().all(|b| b.is_ascii_digit()).then(|| (date.to_owned(), name.to_owned()))
                };
                let latest = folders.iter().filter_map(dated).map(|(date, _)| date).max().unwrap_or_default();
                let of_latest = folders.iter().filter_map(dated).filter(|(date, _)| *date == latest);
                Ok(of_latest.map(|(date, name)| (name.clone(), Place::Below(vec![format!("{date}.{name}")]))).collect())
            }
            Layout::Files { folders } => {
                let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for folder in folders {
                    for path in snapshot.below(folder)?.into_keys() {
                        let file = path.rsplit('/').next().unwrap_or(&path);
                        if let Some(name) = file.strip_suffix(".parquet") {
                            places.entry(name.to_owned()).or_default().push(path);
                        }
                    }
                }
                Ok(places.into_iter().map(|(name, files)| (name, Place::Files(files))).collect())
            }
        }
    }
}

/// The files of a language, in the order in which they are read.
fn files(snapshot: &Snapshot, place: &Place) -> Result<Vec<crate::hub::RemoteFile>, CorpusError> {
    match place {
        Place::Files(paths) => paths.iter().map(|path| Ok(snapshot.file(path)?.clone())).collect(),
        Place::Below(folders) => {
            let mut files = Vec::new();
            for folder in folders {
                files.extend(snapshot.below(folder)?.into_values().filter(|file| is_table(&file.path)));
            }
            Ok(files)
        }
    }
}

type Rows = Box<dyn Iterator<Item = Result<Raw, CorpusError>> + Send>;

/// The rows of one fetched file.
fn rows(path: PathBuf, column: &str) -> Result<Rows, CorpusError> {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        let rows = parquet::texts(path, column, None)?;
        Ok(Box::new(rows.map(|row| row.map(parquet::raw))))
    } else {
        Ok(Box::new(jsonl::texts(path, column.to_owned(), None)?))
    }
}

fn failed(error: impl Into<CorpusError>) -> Rows {
    Box::new(std::iter::once(Err(error.into())))
}

impl Corpus for HubCorpus {
    fn id(&self) -> &str {
        &self.id
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.languages.keys().copied().collect()
    }

    fn unit(&self) -> &'static str {
        "row"
    }

    fn documents(&self, language: LanguageCode, split: Split) -> Result<Documents, CorpusError> {
        let place = self.languages.get(&language).cloned().ok_or_else(|| CorpusError::NoText {
            corpus: self.id.clone(),
            language,
            available: self.languages(),
        })?;
        let (snapshot, column) = (self.snapshot.clone(), self.column.clone());
        // Nothing is listed or fetched before the first document is asked for, and no file before the one ahead of it is read.
        let listing = std::iter::once_with({
            let snapshot = snapshot.clone();
            move || files(&snapshot, &place)
        });
        let documents = listing.flat_map(move |files| -> Rows {
            let files = match files {
                Ok(files) => files,
                Err(error) => return failed(error),
            };
            let (snapshot, column) = (snapshot.clone(), column.clone());
            Box::new(files.into_iter().flat_map(move |file| {
                if snapshot.cached(&file).is_none() {
                    tracing::info!("fetching {} ({})", file.path, crate::output::size(file.bytes));
                }
                match snapshot.fetch(&file, &unwatched()) {
                    Ok(path) => rows(path, &column).unwrap_or_else(failed),
                    Err(error) => failed(error),
                }
            }))
        });
        Ok(Documents::new(split, documents))
    }
}
