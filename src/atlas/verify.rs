//! Is an atlas whole? Sizes and hashes against the manifest, tables against their schemas, masks against tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Serialize;

use super::{Atlas, AtlasError, FileEntry, MANIFEST, Manifest, MaskSet, ModelRow, model_folder, neuron_set};
use crate::profile::{CountsReader, ProfileError, RoutedTable};

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// File, or what was compared.
    pub what: String,
    /// What is wrong, if anything is.
    pub problem: Option<String>,
}

/// Checks everything that can be checked without the model and the corpus.
///
/// # Errors
/// When there is no atlas to check; whatever is wrong inside it is a [`Check`] with a problem.
pub fn verify(path: &Path) -> Result<Vec<Check>, AtlasError> {
    let manifest = Manifest::read(path)?;
    let mut checks: Vec<Check> = manifest.files.iter().map(|file| check_file(path, file)).collect();
    checks.extend(strangers(path, &manifest));
    if checks.iter().any(|check| check.problem.is_some()) {
        return Ok(checks);
    }
    match Atlas::open(path) {
        Err(error) => checks.push(Check { what: "tables".to_owned(), problem: Some(error.to_string()) }),
        Ok(atlas) => {
            checks.extend(check_counts(&atlas));
            checks.extend(check_masks(&atlas));
        }
    }
    Ok(checks)
}

fn check_file(atlas: &Path, file: &FileEntry) -> Check {
    let problem = match FileEntry::measure(atlas, &file.path, file.rows) {
        Err(AtlasError::Broken { problem, .. }) => Some(problem),
        Err(error) => Some(error.to_string()),
        Ok(found) if found.bytes != file.bytes => {
            Some(format!("has {} bytes, but the manifest says {}", found.bytes, file.bytes))
        }
        Ok(found) if found.sha256 != file.sha256 => {
            Some(format!("has SHA-256 {}, but the manifest says {}", found.sha256, file.sha256))
        }
        Ok(_) => None,
    };
    Check { what: file.path.clone(), problem }
}

/// Files that the manifest does not name; names that begin with a dot are the file system's and git's.
fn strangers(atlas: &Path, manifest: &Manifest) -> Vec<Check> {
    let named: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(atlas.join(&folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if name.starts_with('.') || path == MANIFEST {
                continue;
            }
            if entry.path().is_dir() {
                folders.push(path);
            } else if !named.contains(path.as_str()) {
                found.push(Check { what: path, problem: Some("is not in the manifest; delete it".to_owned()) });
            }
        }
    }
    found.sort_by(|a, b| a.what.cmp(&b.what));
    found
}

/// Every part of the counts is a whole number of grids, and no neuron is active in more tokens of a fold than were run, or than went
/// to its expert.
fn check_counts(atlas: &Atlas) -> Vec<Check> {
    let mut checks = Vec::new();
    for model in &atlas.models {
        let prefix = format!("data/counts/{}/", model_folder(&model.id));
        for file in atlas.manifest.files.iter().filter(|file| file.path.starts_with(&prefix)) {
            let problem = counts_problem(atlas, model, &file.path).unwrap_or_else(|error| Some(error.to_string()));
            checks.push(Check { what: format!("{} against coverage", file.path), problem });
        }
    }
    checks
}

/// What is wrong with a part of the counts.
fn counts_problem(atlas: &Atlas, model: &ModelRow, path: &str) -> Result<Option<String>, ProfileError> {
    let (shape, place) = (model.shape(), atlas.path.join(path));
    let reader = CountsReader::open(&place)?;
    let (run, folds) = (reader.metadata("neuroglot.run").unwrap_or_default(), reader.folds());
    let table = reader.read(shape)?;
    let routed = if shape.is_routed() {
        let beside = atlas.path.join(path.replacen("data/counts/", "data/routed/", 1));
        Some(RoutedTable::read(&beside, shape, folds)?)
    } else {
        None
    };
    if routed.as_ref().is_some_and(|routed| routed.run != run) {
        return Ok(Some("the routed tokens beside it are of another run".to_owned()));
    }
    let tokens: BTreeMap<String, &Vec<u64>> = (atlas.coverage.iter())
        .filter(|row| row.run == run)
        .map(|row| (row.language.to_string(), &row.fold_tokens))
        .collect();
    for (language, tally) in table.languages.iter().zip(&table.tallies) {
        // A language that was counted and not compared has counts and no coverage row.
        let tokens = tokens.get(language);
        let routed = match &routed {
            None => None,
            Some(routed) => match routed.of(language) {
                None => return Ok(Some(format!("{language}: no routed tokens stand beside it"))),
                routed => routed,
            },
        };
        for (fold, active) in tally.active.iter().enumerate() {
            let run = tokens.and_then(|tokens| tokens.get(fold)).copied().unwrap_or(u64::MAX);
            let of = |ffn: usize| routed.map_or(run, |routed| routed[fold][ffn]);
            if (0..shape.ffns()).any(|ffn| routed.is_some() && of(ffn) > run) {
                return Ok(Some(format!("{language}: more tokens are routed to an expert than were run")));
            }
            let seen = if routed.is_some() { "were run or routed to its expert" } else { "were run" };
            if active.chunks(shape.width).enumerate().any(|(ffn, part)| part.iter().any(|&n| n > of(ffn))) {
                return Ok(Some(format!("{language}: a neuron is active in more tokens than {seen}")));
            }
        }
    }
    Ok(None)
}

/// Masks and the table of neurons say the same.
fn check_masks(atlas: &Atlas) -> Vec<Check> {
    let mut checks = Vec::new();
    for ((folder, method), tables) in &atlas.methods {
        let Some(model) = atlas.models.iter().find(|model| model_folder(&model.id) == *folder) else { continue };
        let (parameters, result) = match atlas.identification(model, method) {
            Ok((_, parameters, result)) => (parameters, result),
            Err(error) => {
                checks.push(Check { what: format!("run of {folder}/{method}"), problem: Some(error.to_string()) });
                continue;
            }
        };
        for rate in &result.rates {
            let name = if Some(rate) == result.largest() { method.clone() } else { format!("{method}-{}", rate.rate) };
            let path = format!("masks/{folder}/{name}.safetensors");
            let problem = match MaskSet::read(&atlas.path.join(&path), model.shape()) {
                Err(error) => Some(error.to_string()),
                Ok(masks) => parameters.languages.iter().find_map(|&language| {
                    let wanted = neuron_set(model.shape(), tables.of(language), rate);
                    (masks.get(&language) != Some(&wanted)).then(|| format!("{language}: mask and table differ"))
                }),
            };
            checks.push(Check { what: format!("{path} against data/neurons/{folder}/{method}.parquet"), problem });
        }
    }
    checks
}
