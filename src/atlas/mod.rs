//! The atlas on disk: Parquet tables, masks and a manifest, readable without this program (see the format in CONTRIBUTING.md).
//! In: a profile and the selections made from it. Out: a folder, and the same folder read back, checked or queried.

mod build;
mod card;
mod compare;
mod import;
mod manifest;
mod masks;
pub mod pth;
mod rows;
mod table;
mod verify;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use self::{
    build::{Evidence, Identification, Release, add_adaptation, build, check_place},
    card::Place,
    compare::{Chosen, Comparison, Pair, Shared, Side, compare},
    import::{Import, UNKNOWN_LICENCE, import},
    manifest::{FileEntry, MANIFEST, Manifest},
    masks::{Mask, MaskFormat, MaskSet},
    rows::{
        AblationRow, AdaptationRow, CoverageRow, IdentifyParameters, IdentifyResult, LanguageRow, ModelRow, NeuronRow,
        Origin, OverlapRow, RateResult, RunRow, StabilityRow,
    },
    verify::{Check, verify},
};
use crate::{
    identify::IdentifyError,
    language::{LanguageCode, LanguageError},
    neuron::{FfnShape, NeuronSet},
    output::{self, OutputError},
    profile::ProfileError,
};

/// What can be wrong with an atlas.
#[derive(Debug, thiserror::Error)]
pub enum AtlasError {
    /// A folder without a manifest.
    #[error("{path}: holds no atlas (no {MANIFEST}); `neuroglot identify PROFILE --out {path}` makes one")]
    NoAtlas {
        /// The folder.
        path: PathBuf,
    },
    /// A file.
    #[error("{path}: is a file, but an atlas is a folder, with {MANIFEST} in it; give a folder")]
    File {
        /// The file.
        path: PathBuf,
    },
    /// A folder with other things in it.
    #[error("{path}: is not empty and holds no atlas; choose an empty or new folder with --out")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is not what it should be.
    #[error("{path}: {problem}{}", output::unless_said(.problem, "; pull the atlas or make it again"))]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A model that the atlas does not hold, or several where one is wanted.
    #[error("{path}: {}; it holds {}", unlisted(.asked.as_deref()), .models.join(", "))]
    WhichModel {
        /// The atlas.
        path: PathBuf,
        /// Its models.
        models: Vec<String>,
        /// What was asked for.
        asked: Option<String>,
    },
    /// A method that the atlas does not hold.
    #[error("{path}: has no neurons of {model} by `{method}`; it has {}", .methods.join(", "))]
    WhichMethod {
        /// The atlas.
        path: PathBuf,
        /// The model.
        model: String,
        /// What was asked for.
        method: String,
        /// What there is.
        methods: Vec<String>,
    },
    /// A language that was not identified.
    #[error("{path}: {language} is not among the {languages} languages of this atlas")]
    WhichLanguage {
        /// The atlas.
        path: PathBuf,
        /// What was asked for.
        language: LanguageCode,
        /// How many there are.
        languages: usize,
    },
    /// A mask of experts in a format that has no place for them.
    #[error(
        "a pth mask lists the neurons of each layer, as published code reads them, and has no place for experts (the model has \
         {shape}); choose safetensors, json or parquet"
    )]
    ExpertsInPth {
        /// The model's grid.
        shape: FfnShape,
    },
    /// A file of masks that others made cannot be read.
    #[error("{path}: {source}")]
    Pth {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        source: pth::PthError,
    },
    /// Two models whose neurons cannot be told to be the same.
    #[error(
        "{model_a} has {shape_a}, but {model_b} has {shape_b}: a neuron of one is none of the other; compare models of one shape, such as a \
         base and its fine-tuned model"
    )]
    Shapes {
        /// The one.
        model_a: String,
        /// Its grid.
        shape_a: FfnShape,
        /// The other.
        model_b: String,
        /// Its grid.
        shape_b: FfnShape,
    },
    /// Two atlases without a common language.
    #[error(
        "{a} and {b} have no language in common ({} against {}); `compare ATLAS --languages A,B` compares two languages of one atlas", .held_a.join(", "), .held_b.join(", ")
    )]
    NothingInCommon {
        /// The one.
        a: PathBuf,
        /// The other.
        b: PathBuf,
        /// The first languages of the one.
        held_a: Vec<String>,
        /// The first languages of the other.
        held_b: Vec<String>,
    },
    /// A rate that the atlas does not hold.
    #[error("{path}: was not identified at --top-rate {asked}; it holds {held}")]
    WhichRate {
        /// The atlas.
        path: PathBuf,
        /// What was asked for.
        asked: f64,
        /// The rates that there are.
        held: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The profile cannot be read.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The counts cannot be identified.
    #[error(transparent)]
    Identify(#[from] IdentifyError),
    /// A language's spelling.
    #[error(transparent)]
    Language(#[from] LanguageError),
}

fn unlisted(model: Option<&str>) -> String {
    model.map_or_else(|| "name one of its models with --model".to_owned(), |model| format!("has no model `{model}`"))
}

impl AtlasError {
    fn broken(path: &Path, problem: impl ToString) -> Self {
        Self::Broken { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// `org__model`, the folder of a model inside an atlas: letters, digits, `-`, `_` and `.` of its id.
#[must_use]
pub fn model_folder(id: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let parts: Vec<String> = id.split('/').map(|part| part.chars().map(safe).collect()).collect();
    parts.join("__").trim_start_matches('.').to_owned()
}

/// An atlas, its tables in memory; counts stay on the disk.
pub struct Atlas {
    path: PathBuf,
    /// What the folder holds.
    pub manifest: Manifest,
    /// The models.
    pub models: Vec<ModelRow>,
    /// The languages, by code.
    pub languages: Vec<LanguageRow>,
    /// Profiling and identification runs.
    pub runs: Vec<RunRow>,
    /// What of each language was run.
    pub coverage: Vec<CoverageRow>,
    /// Identifications, by model folder and method.
    pub methods: BTreeMap<(String, String), MethodTables>,
    /// What adaptations changed, by model folder, in the order of the files.
    pub adaptation: BTreeMap<String, Vec<AdaptationRow>>,
}

/// What one method found in one model.
#[derive(Clone, Debug, Default)]
pub struct MethodTables {
    /// Neurons of every language, by language, layer, expert and neuron.
    pub neurons: Vec<NeuronRow>,
    /// Pairs of languages.
    pub overlap: Vec<OverlapRow>,
    /// One row per language.
    pub stability: Vec<StabilityRow>,
    /// What switching neurons off does, where it was measured.
    pub ablation: Vec<AblationRow>,
}

impl Atlas {
    /// Opens an atlas and reads all tables but the counts.
    ///
    /// # Errors
    /// When there is none, it is of a newer major version, or a table is broken.
    pub fn open(path: &Path) -> Result<Self, AtlasError> {
        let manifest = Manifest::read(path)?;
        let mut methods: BTreeMap<(String, String), MethodTables> = BTreeMap::new();
        let mut adaptation: BTreeMap<String, Vec<AdaptationRow>> = BTreeMap::new();
        for entry in &manifest.files {
            let parts: Vec<&str> = entry.path.split('/').collect();
            let ["data", kind, model, file] = parts.as_slice() else { continue };
            let Some(method) = file.strip_suffix(".parquet") else { continue };
            let tables = || (model.to_string(), method.to_owned());
            let file = path.join(&entry.path);
            match *kind {
                "neurons" => methods.entry(tables()).or_default().neurons = NeuronRow::read(&file)?,
                "overlap" => methods.entry(tables()).or_default().overlap = OverlapRow::read(&file)?,
                "ablation" => methods.entry(tables()).or_default().ablation = AblationRow::read(&file)?,
                "adaptation" => {
                    adaptation.entry((*model).to_owned()).or_default().extend(AdaptationRow::read(&file)?);
                }
                "stability" => methods.entry(tables()).or_default().stability = StabilityRow::read(&file)?,
                _ => {}
            }
        }
        let models = ModelRow::read(&path.join("data/models.parquet"))?;
        for ((folder, method), tables) in &methods {
            let file = path.join(format!("data/neurons/{folder}/{method}.parquet"));
            let model = models.iter().find(|model| model_folder(&model.id) == *folder);
            let model = model.ok_or_else(|| AtlasError::broken(&file, "belongs to no model of models.parquet"))?;
            check_places(&file, model, &tables.neurons)?;
        }
        Ok(Self {
            models,
            languages: LanguageRow::read(&path.join("data/languages.parquet"))?,
            runs: RunRow::read(&path.join("data/runs.parquet"))?,
            coverage: CoverageRow::read(&path.join("data/coverage.parquet"))?,
            manifest,
            methods,
            adaptation,
            path: path.to_owned(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The one model, or the one with this id.
    ///
    /// # Errors
    /// When it is not there, or several are and none is named.
    pub fn model(&self, id: Option<&str>) -> Result<&ModelRow, AtlasError> {
        let found = match id {
            Some(id) => self.models.iter().find(|model| model.id == id),
            None if self.models.len() == 1 => self.models.first(),
            None => None,
        };
        found.ok_or_else(|| AtlasError::WhichModel {
            path: self.path.clone(),
            models: self.models.iter().map(|model| model.id.clone()).collect(),
            asked: id.map(str::to_owned),
        })
    }

    /// What a method found in a model.
    ///
    /// # Errors
    /// When the atlas does not hold it.
    pub fn method(&self, model: &ModelRow, method: &str) -> Result<&MethodTables, AtlasError> {
        let key = (model_folder(&model.id), method.to_owned());
        self.methods.get(&key).ok_or_else(|| AtlasError::WhichMethod {
            path: self.path.clone(),
            model: model.id.clone(),
            method: method.to_owned(),
            methods: self
                .methods
                .keys()
                .filter(|(folder, _)| *folder == key.0)
                .map(|(_, method)| method.clone())
                .collect(),
        })
    }

    /// The identification run of a method: its parameters and what came out.
    ///
    /// # Errors
    /// When the runs table has no such row.
    pub fn identification(
        &self,
        model: &ModelRow,
        method: &str,
    ) -> Result<(&RunRow, IdentifyParameters, IdentifyResult), AtlasError> {
        let path = self.path.join("data/runs.parquet");
        let run = self
            .runs
            .iter()
            .find(|run| run.kind != "profile" && run.model == model.id && run.method.as_deref() == Some(method));
        let run = run.ok_or_else(|| AtlasError::broken(&path, format!("has no run of `{method}` on {}", model.id)))?;
        let broken =
            |error: serde_json::Error| AtlasError::broken(&path, format!("run {} is broken: {error}", run.run));
        let parameters = serde_json::from_str(&run.parameters).map_err(broken)?;
        let result = serde_json::from_str(run.result.as_deref().unwrap_or("null")).map_err(broken)?;
        Ok((run, parameters, result))
    }

    /// The neurons that serve a language, as a set; at a smaller rate than the atlas' largest, the first ranks.
    ///
    /// # Errors
    /// When the language was not identified or the rate is not one of the atlas'.
    pub fn set(
        &self,
        model: &ModelRow,
        method: &str,
        language: LanguageCode,
        rate: Option<f64>,
    ) -> Result<(NeuronSet, RateResult), AtlasError> {
        let tables = self.method(model, method)?;
        let (_, parameters, result) = self.identification(model, method)?;
        if !parameters.languages.contains(&language) {
            let languages = parameters.languages.len();
            return Err(AtlasError::WhichLanguage { path: self.path.clone(), language, languages });
        }
        let rate = result.rate(rate).ok_or_else(|| AtlasError::WhichRate {
            path: self.path.clone(),
            asked: rate.unwrap_or_default(),
            held: result.rates.iter().map(|rate| rate.rate.to_string()).collect::<Vec<_>>().join(", "),
        })?;
        Ok((neuron_set(model.shape(), tables.of(language), rate), rate.clone()))
    }
}

impl MethodTables {
    /// Rows of one language.
    #[must_use]
    pub fn of(&self, language: LanguageCode) -> &[NeuronRow] {
        let start = self.neurons.partition_point(|row| row.language < language);
        let end = self.neurons.partition_point(|row| row.language <= language);
        &self.neurons[start..end]
    }
}

/// What everything else takes for granted of a table: every row is a neuron of the model, and none stands twice.
fn check_places(file: &Path, model: &ModelRow, rows: &[NeuronRow]) -> Result<(), AtlasError> {
    let shape = model.shape();
    let wrong = |row: &NeuronRow, what: &str| {
        let problem = format!("{} {} {what} ({} has {shape})", row.language, shape.words(row.id()), model.id);
        Err(AtlasError::broken(file, problem))
    };
    if let Some(row) = rows.iter().find(|row| !shape.holds(row.id())) {
        return wrong(row, "lies outside the model");
    }
    match rows.windows(2).find(|pair| (pair[0].language, pair[0].id()) == (pair[1].language, pair[1].id())) {
        Some(pair) => wrong(&pair[1], "stands twice"),
        None => Ok(()),
    }
}

/// The rows' neurons up to a rate.
fn neuron_set(shape: FfnShape, rows: &[NeuronRow], rate: &RateResult) -> NeuronSet {
    let within = rows.iter().filter(|row| rate.includes(row.rank));
    NeuronSet::new(shape, within.map(NeuronRow::id))
}
