//! A profile on disk: `profile.json` says which run it is, `counts/CODE.parquet` holds one finished language each, and of a model
//! with experts `routed/CODE.parquet` says how many of its tokens went to each.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    CountsReader, ModelCard, Profile, ProfileError, Routed, RoutedTable, RunParameters, TableLayout, differences,
    write_counts, write_routed,
};
use crate::{language::LanguageCode, output, tokens::Coverage};

/// `profile.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileHead {
    /// `neuroglot.profile`.
    pub schema: String,
    /// Version of this file and its tables.
    pub schema_version: String,
    /// Id of the run.
    pub run: String,
    /// What decides its counts.
    pub parameters: RunParameters,
    /// The model.
    pub model: ModelCard,
    /// Version of the program that began it.
    pub tool_version: String,
}

impl ProfileHead {
    /// The head of a run.
    #[must_use]
    pub fn new(parameters: RunParameters, model: ModelCard) -> Self {
        Self {
            schema: "neuroglot.profile".to_owned(),
            // 1.1 knows experts.
            schema_version: if model.spec.ffn.is_routed() { "1.1" } else { "1.0" }.to_owned(),
            run: parameters.id(),
            parameters,
            model,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// A folder that holds a run's finished languages.
#[derive(Clone, Debug)]
pub struct ProfileFolder {
    path: PathBuf,
    /// What the run is.
    pub head: ProfileHead,
}

impl ProfileFolder {
    /// Opens a profile.
    ///
    /// # Errors
    /// When there is none, or its head is broken.
    pub fn open(path: &Path) -> Result<Self, ProfileError> {
        let file = path.join("profile.json");
        let json = match std::fs::read(&file) {
            Ok(json) => json,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(ProfileError::NoProfile { path: path.to_owned() });
            }
            Err(error) => return Err(broken(&file, format!("cannot be read: {error}"))),
        };
        let head: ProfileHead =
            serde_json::from_slice(&json).map_err(|error| broken(&file, format!("is broken: {error}")))?;
        if head.schema != "neuroglot.profile" || !head.schema_version.starts_with("1.") {
            let found = format!("{} {}", head.schema, head.schema_version);
            return Err(broken(
                &file,
                format!("is `{found}`, but this neuroglot reads neuroglot.profile 1.0; use a newer one"),
            ));
        }
        if head.run != head.parameters.id() {
            return Err(broken(
                &file,
                "its run id does not fit its parameters, for somebody changed them; profile again into another folder"
                    .to_owned(),
            ));
        }
        Ok(Self { path: path.to_owned(), head })
    }

    /// Opens the profile of a run to add to it, or begins one in a new or empty folder. A run that finished no language, be it
    /// that its settings were wrong, gives way to another.
    ///
    /// # Errors
    /// When the folder holds another run or anything else, or cannot be written to.
    pub fn begin(path: &Path, head: ProfileHead) -> Result<Self, ProfileError> {
        match Self::open(path) {
            Ok(found) if found.head.parameters == head.parameters => Ok(found),
            Ok(found) if found.languages()?.is_empty() => Self::create(path, head),
            Ok(found) => Err(ProfileError::OtherRun {
                path: path.join("profile.json"),
                difference: difference(&found.head.parameters, &head.parameters),
            }),
            Err(ProfileError::NoProfile { .. }) if output::is_occupied(path, &[]) => {
                Err(ProfileError::Occupied { path: path.to_owned() })
            }
            Err(ProfileError::NoProfile { .. }) => Self::create(path, head),
            Err(error) => Err(error),
        }
    }

    fn create(path: &Path, head: ProfileHead) -> Result<Self, ProfileError> {
        let json = serde_json::to_string_pretty(&head).expect("plain data") + "\n";
        output::write(&path.join("profile.json"), json.as_bytes())?;
        Ok(Self { path: path.to_owned(), head })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, language: LanguageCode) -> PathBuf {
        self.path.join("counts").join(format!("{language}.parquet"))
    }

    fn routed_file(&self, language: LanguageCode) -> PathBuf {
        self.path.join("routed").join(format!("{language}.parquet"))
    }

    /// Whether a language is finished.
    #[must_use]
    pub fn has(&self, language: LanguageCode) -> bool {
        self.file(language).is_file()
    }

    /// The finished languages, by code.
    ///
    /// # Errors
    /// When the folder cannot be read or holds a file that is no language's.
    pub fn languages(&self) -> Result<Vec<LanguageCode>, ProfileError> {
        let folder = self.path.join("counts");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(broken(&folder, format!("cannot be read: {error}"))),
        };
        let mut languages = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| broken(&folder, format!("cannot be read: {error}")))?.path();
            if path.extension().is_some_and(|extension| extension == "parquet") {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                languages.push(stem.parse().map_err(|error| broken(&path, format!("{error}")))?);
            }
        }
        languages.sort();
        Ok(languages)
    }

    /// Stores a finished language.
    ///
    /// # Errors
    /// When it cannot be written; nothing half-written stays.
    pub fn write(&self, profile: &Profile) -> Result<(), ProfileError> {
        let (language, parameters) = (profile.coverage.language, &self.head.parameters);
        let mut layout = TableLayout {
            run: self.head.run.clone(),
            tokens: parameters.tokens,
            folds: parameters.folds,
            experts: profile.tally.shape().is_routed(),
            further: vec![("neuroglot.run".to_owned(), self.head.run.clone())],
            group_rows: usize::MAX,
        };
        if layout.experts {
            // Before the counts, which say that the language is finished.
            let routed = [Ok((language, profile.tally.routed.clone()))];
            write_routed(&self.routed_file(language), &layout, profile.tally.shape(), routed)?;
        }
        let coverage = serde_json::to_string(&profile.coverage).expect("plain data");
        layout.further.push(("neuroglot.coverage".to_owned(), coverage));
        write_counts(&self.file(language), &layout, [Ok(profile)])?;
        Ok(())
    }

    /// Reads a finished language.
    ///
    /// # Errors
    /// When its file is missing, broken, or of another run.
    pub fn read(&self, language: LanguageCode) -> Result<Profile, ProfileError> {
        let path = self.file(language);
        let reader = self.reader(language)?;
        let coverage = reader.coverage()?;
        let mut table = reader.read(self.head.model.spec.ffn)?;
        match table.tallies.pop() {
            Some(mut tally) if table.tallies.is_empty() && table.languages == [language.to_string()] => {
                if tally.shape().is_routed() {
                    tally.routed = self.routed(language)?;
                }
                Ok(Profile { coverage, tally })
            }
            _ => Err(broken(&path, format!("holds {:?}, but {language} is wanted", table.languages))),
        }
    }

    /// Tokens of a finished language that were routed to every expert; there are none of a dense model.
    ///
    /// # Errors
    /// As [`ProfileFolder::read`].
    pub fn routed(&self, language: LanguageCode) -> Result<Routed, ProfileError> {
        let path = self.routed_file(language);
        if !path.is_file() {
            let problem =
                format!("is not there, but the model has experts; delete counts/{language}.parquet and profile again");
            return Err(broken(&path, problem));
        }
        let mut table = RoutedTable::read(&path, self.head.model.spec.ffn, self.head.parameters.folds)?;
        if table.run != self.head.run {
            return Err(self.other_run(&path, &table.run));
        }
        match table.languages.pop() {
            Some((code, routed)) if table.languages.is_empty() && code == language.to_string() => Ok(routed),
            _ => Err(broken(&path, format!("does not hold {language} alone; delete it and profile again"))),
        }
    }

    /// Coverage of a finished language, from its file's metadata alone.
    ///
    /// # Errors
    /// As [`ProfileFolder::read`].
    pub fn coverage(&self, language: LanguageCode) -> Result<Coverage, ProfileError> {
        self.reader(language)?.coverage()
    }

    fn reader(&self, language: LanguageCode) -> Result<CountsReader, ProfileError> {
        let path = self.file(language);
        let reader = CountsReader::open(&path)?;
        let run = reader.metadata("neuroglot.run").unwrap_or_default();
        if run == self.head.run { Ok(reader) } else { Err(self.other_run(&path, &run)) }
    }

    fn other_run(&self, path: &Path, run: &str) -> ProfileError {
        let own = &self.head.run;
        broken(path, format!("is of run `{run}`, but profile.json of run `{own}`; delete the file and profile again"))
    }

    /// Whether another folder can be taken over: it is of the same run, and every file of it can be read.
    ///
    /// # Errors
    /// What stands against it.
    pub fn accepts(&self, other: &Self) -> Result<(), ProfileError> {
        if other.head.parameters != self.head.parameters {
            let difference = difference(&other.head.parameters, &self.head.parameters);
            let here = self.path.display();
            let problem =
                format!("is of another run than {here}: it differs in {difference}; only parts of one run are merged");
            return Err(broken(&other.path.join("profile.json"), problem));
        }
        let routed = other.head.model.spec.ffn.is_routed();
        other.languages()?.into_iter().try_for_each(|language| {
            other.coverage(language)?;
            if routed { other.routed(language).map(drop) } else { Ok(()) }
        })
    }

    /// Takes over the finished languages of another folder of the same run.
    ///
    /// # Errors
    /// As [`ProfileFolder::accepts`]; also when both hold a language with different counts.
    pub fn absorb(&self, other: &Self) -> Result<usize, ProfileError> {
        self.accepts(other)?;
        let mut taken = 0;
        for language in other.languages()? {
            // The counts last: they say that the language is finished.
            let pairs = [Self::routed_file, Self::file].map(|file| (file(other, language), file(self, language)));
            let files = if self.head.model.spec.ffn.is_routed() { &pairs[..] } else { &pairs[1..] };
            let new = !self.has(language);
            for (from, to) in files {
                let found = bytes(from)?;
                if new {
                    output::write(to, &found)?;
                } else if bytes(to)? != found {
                    let problem = format!("and {} hold different counts of {language}; keep one", to.display());
                    return Err(broken(from, problem));
                }
            }
            taken += usize::from(new);
        }
        Ok(taken)
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, ProfileError> {
    std::fs::read(path).map_err(|error| broken(path, format!("cannot be read: {error}")))
}

/// `tokens (2048 there, 4096 here), …`: where two runs differ.
fn difference(there: &RunParameters, here: &RunParameters) -> String {
    let settings = |parameters: &RunParameters| {
        let mut settings = serde_json::to_value(parameters).expect("plain data");
        // Hashes tell nobody anything.
        settings.as_object_mut().expect("a struct is an object").remove("hashes");
        settings
    };
    let files = (there.hashes != here.hashes).then(|| "the model's files".to_owned());
    files.into_iter().chain(differences(&settings(there), &settings(here))).collect::<Vec<_>>().join(", ")
}

fn broken(path: &Path, problem: impl ToString) -> ProfileError {
    ProfileError::Broken { path: path.to_owned(), problem: problem.to_string() }
}
