//! `pull` and the remote half of `verify`: a release becomes a folder here, whole or not at all.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use serde::Serialize;

use super::{ReleaseError, manifest};
use crate::{
    atlas::{AtlasError, Check, FileEntry, LanguageRow, MANIFEST, Manifest, model_folder},
    hub::{Content, Hub, HubError, Kind, RemoteFile, RepoId, Snapshot, Watch, unwatched},
    language::Registry,
    output::{self, Draft},
};

/// What of a release a person wants; everything, unless something is said.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Models, by id.
    pub models: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Languages in any spelling: whoever names them wants masks and tables, and the counts only if asked for.
    pub languages: Option<String>,
    /// The counts all the same.
    pub counts: bool,
}

/// A release to be pulled.
pub struct Pull {
    snapshot: Snapshot,
    /// The same commit in a cache that lies beside the files, so that they are moved and not copied.
    aside: Snapshot,
    out: PathBuf,
    manifest: Manifest,
    /// The manifest's text, where all of its files are pulled.
    text: Vec<u8>,
    /// What is not there yet.
    missing: Vec<FileEntry>,
    kept: usize,
}

/// How a pull ended.
#[derive(Clone, Debug, Serialize)]
pub struct Pulled {
    /// `owner/name`.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// The release that it is.
    pub release: Option<String>,
    /// The folder.
    pub out: PathBuf,
    /// Files that were fetched.
    pub fetched: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already.
    pub kept: usize,
    /// Languages that were asked for, where some were.
    pub languages: Vec<String>,
    /// Whether it was interrupted; the same command continues.
    pub interrupted: bool,
}

/// Where files lie until they are whole.
const ASIDE: &str = ".neuroglot-pull.part";

impl Pull {
    /// Asks the Hub what the release holds, and looks at what is here already.
    ///
    /// # Errors
    /// When there is no such release, it does not hold what was asked for, or the folder is another's.
    pub fn new(
        hub: &Hub,
        repo: &RepoId,
        revision: Option<&str>,
        choice: &Choice,
        out: &Path,
    ) -> Result<(Self, Vec<String>), ReleaseError> {
        check_place(out)?;
        if let Some(list) = &choice.languages {
            // A language that nobody knows is said before anybody is asked.
            Registry::builtin().resolve_list(list, &[])?;
        }
        let snapshot = hub.snapshot(Kind::Dataset, repo, revision)?;
        let (whole, text) = manifest(&snapshot)?;
        let chosen = whole.only(chooser(&snapshot, &whole, choice)?);
        let languages = languages(&snapshot, &whole, choice)?;
        agree(&snapshot, &chosen)?;
        let (missing, kept): (Vec<FileEntry>, Vec<FileEntry>) =
            chosen.files.iter().cloned().partition(|file| !is_here(out, file));
        let text = if chosen.files.len() == whole.files.len() { text } else { chosen.json().into_bytes() };
        let aside = hub.with_cache(out.join(ASIDE))?.at(Kind::Dataset, repo, snapshot.commit());
        let pull = Self { aside, snapshot, out: out.to_owned(), manifest: chosen, text, missing, kept: kept.len() };
        Ok((pull, languages))
    }

    /// Bytes to fetch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.missing.iter().map(|file| file.bytes).sum()
    }

    /// Files to fetch.
    #[must_use]
    pub fn files(&self) -> usize {
        self.missing.len()
    }

    /// Fetches what is missing, file by file: checked against the manifest, then moved to its place. The manifest comes last.
    ///
    /// # Errors
    /// The first file that cannot be fetched or is not what the manifest says; files that are finished stay.
    pub fn run(&self, watch: &Watch, stop: &AtomicBool) -> Result<Pulled, ReleaseError> {
        let done = Pulled {
            repo: self.snapshot.repo().to_string(),
            commit: self.snapshot.commit().to_owned(),
            release: self.manifest.release.clone(),
            out: self.out.clone(),
            fetched: self.missing.len(),
            bytes: self.bytes(),
            kept: self.kept,
            languages: Vec::new(),
            interrupted: false,
        };
        let before = Manifest::read(&self.out).ok();
        let mut files = Vec::new();
        for entry in &self.missing {
            let file = self.snapshot.file(&entry.path)?;
            // Others may have brought it into the common cache, `huggingface_hub` for one.
            match self.snapshot.cached(file) {
                Some(place) if output::sha256_file(&place).is_ok_and(|sha256| sha256 == entry.sha256) => {
                    copy(&place, &self.out.join(&entry.path))?;
                    watch(entry.bytes);
                }
                _ => files.push(file),
            }
        }
        let whole = self.aside.fetch_all(&files, watch, stop, |file, place| self.settle(file, &place))?;
        if !whole {
            return Ok(Pulled { interrupted: true, ..done });
        }
        output::write(&self.out.join(MANIFEST), &self.text)?;
        for file in before.iter().flat_map(|before| &before.files) {
            if self.manifest.file(&file.path).is_none() {
                // What stays is in nobody's way: `verify` names it.
                let _ = fs::remove_file(self.out.join(&file.path));
            }
        }
        let _ = fs::remove_dir_all(self.out.join(ASIDE));
        Ok(done)
    }

    /// Moves a fetched file to its place, if it is what the manifest says.
    fn settle(&self, file: &RemoteFile, place: &Path) -> Result<(), HubError> {
        let of = |path: &Path| {
            let path = path.to_owned();
            move |source| HubError::of_file(path, source)
        };
        let entry = self.manifest.file(&file.path).expect("only files of the manifest are fetched");
        let sha256 = output::sha256_file(place).map_err(of(place))?;
        if sha256 != entry.sha256 {
            // Of a file in git itself the tree knows another hash than the manifest, so that this is found out only here.
            let _ = fs::remove_file(place.canonicalize().unwrap_or_else(|_| place.to_owned()));
            return Err(HubError::Corrupt {
                repo: self.snapshot.repo().clone(),
                path: file.path.clone(),
                found: format!("SHA-256 {sha256}"),
                wanted: format!("SHA-256 {} in its manifest", entry.sha256),
            });
        }
        let target = self.out.join(&file.path);
        let folder = target.parent().expect("a file of a folder has one");
        fs::create_dir_all(folder).map_err(of(folder))?;
        // The cache keeps content under its hash and a link under its name: two files of one content are moved once, copied once.
        let blob = place.canonicalize().map_err(of(place))?;
        let twins = self.missing.iter().filter(|other| other.sha256 == entry.sha256).count() > 1;
        if twins {
            return copy(&blob, &target);
        }
        fs::rename(&blob, &target).map_err(of(&target))
    }
}

/// A copy that is whole or not there.
fn copy(from: &Path, to: &Path) -> Result<(), HubError> {
    let failed = |source| HubError::of_file(to.to_owned(), source);
    let mut draft = Draft::new(to).map_err(|error| HubError::of_file(error.path, error.source))?;
    let mut file = fs::File::open(from).map_err(|source| HubError::of_file(from.to_owned(), source))?;
    std::io::copy(&mut file, &mut draft).map_err(failed)?;
    draft.keep().map_err(|error| HubError::of_file(error.path, error.source))
}

/// A folder for a release: a new one, an empty one, an atlas, or one that a pull left unfinished.
fn check_place(out: &Path) -> Result<(), ReleaseError> {
    if out.join(MANIFEST).is_file() || out.join(ASIDE).is_dir() {
        return Ok(());
    }
    match fs::read_dir(out) {
        Ok(_) if output::is_occupied(out, &["data", "masks", "LICENSE", "README.md"]) => {
            Err(ReleaseError::Occupied { path: out.to_owned() })
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(HubError::File { path: out.to_owned(), source }.into()),
    }
}

fn is_here(out: &Path, file: &FileEntry) -> bool {
    let place = out.join(&file.path);
    fs::symlink_metadata(&place).is_ok_and(|about| about.is_file() && about.len() == file.bytes)
        && output::sha256_file(&place).is_ok_and(|sha256| sha256 == file.sha256)
}

/// The parts of a path that say what a file is of: kind, model and method or part.
fn parts(path: &str) -> Option<(&str, &str, &str)> {
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["data", kind, model, file] => Some((kind, model, file.strip_suffix(".parquet").unwrap_or(file))),
        ["masks", model, file] => Some(("masks", model, file.strip_suffix(".safetensors").unwrap_or(file))),
        _ => None,
    }
}

fn is_counts(kind: &str) -> bool {
    ["counts", "routed"].contains(&kind)
}

/// Whether a mask file `lape-0.01` is of the method `lape`.
fn is_of(file: &str, method: &str) -> bool {
    file.strip_prefix(method)
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(|rate| rate.parse::<f64>().is_ok()))
}

/// Which of the manifest's files a choice means.
fn chooser(
    snapshot: &Snapshot,
    manifest: &Manifest,
    choice: &Choice,
) -> Result<impl Fn(&FileEntry) -> bool + use<>, ReleaseError> {
    let named: Vec<_> = manifest.files.iter().filter_map(|file| parts(&file.path)).collect();
    let held = |names: BTreeSet<&str>| names.into_iter().map(|name| name.replacen("__", "/", 1)).collect::<Vec<_>>();
    let unheld =
        |what, asked: &str, held| ReleaseError::Unheld { id: snapshot.id(), what, asked: asked.to_owned(), held };
    for model in &choice.models {
        if !named.iter().any(|(_, folder, _)| *folder == model_folder(model)) {
            return Err(unheld("model", model, held(named.iter().map(|(_, folder, _)| *folder).collect())));
        }
    }
    for method in &choice.methods {
        let methods: BTreeSet<&str> =
            named.iter().filter(|(kind, _, _)| *kind == "neurons").map(|(_, _, method)| *method).collect();
        if !methods.contains(method.as_str()) {
            return Err(unheld("method", method, held(methods)));
        }
    }
    let folders: Vec<String> = choice.models.iter().map(|model| model_folder(model)).collect();
    let methods = choice.methods.clone();
    let counts = choice.counts || choice.languages.is_none();
    Ok(move |file: &FileEntry| match parts(&file.path) {
        None => true,
        Some((kind, model, name)) => {
            let of_model = folders.is_empty() || folders.iter().any(|folder| folder == model);
            let wanted = if is_counts(kind) {
                counts
            } else {
                methods.is_empty() || methods.iter().any(|method| is_of(name, method))
            };
            of_model && wanted
        }
    })
}

/// The languages asked for, as codes; all of them have to be in the release.
fn languages(snapshot: &Snapshot, manifest: &Manifest, choice: &Choice) -> Result<Vec<String>, ReleaseError> {
    let Some(list) = &choice.languages else { return Ok(Vec::new()) };
    let table = "data/languages.parquet";
    let place = snapshot.fetch(snapshot.file(table)?, &unwatched())?;
    let entry = manifest.file(table).ok_or_else(|| ReleaseError::NoRelease { id: snapshot.id() })?;
    let sha256 = output::sha256_file(&place).map_err(|source| HubError::File { path: place.clone(), source })?;
    if sha256 != entry.sha256 {
        return Err(mixed(snapshot, table, format!("SHA-256 {sha256}"), entry));
    }
    let held: Vec<_> = LanguageRow::read(&place)?.into_iter().map(|language| language.code).collect();
    let asked = Registry::builtin().resolve_list(list, &held)?;
    match asked.iter().find(|language| !held.contains(language)) {
        Some(&language) => {
            let (path, languages) = (PathBuf::from(snapshot.id()), held.len());
            Err(AtlasError::WhichLanguage { path, language, languages }.into())
        }
        None => Ok(asked.iter().map(ToString::to_string).collect()),
    }
}

fn mixed(snapshot: &Snapshot, path: &str, found: String, entry: &FileEntry) -> ReleaseError {
    let wanted = format!("{} bytes with SHA-256 {}", entry.bytes, entry.sha256);
    ReleaseError::Mixed { id: snapshot.id(), path: path.to_owned(), found, wanted }
}

/// What is wrong with a file as the Hub's tree has it. Of a file in git itself the tree knows the size only.
fn difference(entry: &FileEntry, file: Option<&RemoteFile>) -> Option<String> {
    match file {
        None => Some("missing".to_owned()),
        Some(file) if file.bytes != entry.bytes => Some(format!("{} bytes long", file.bytes)),
        Some(file) if file.is_large(&entry.sha256, entry.bytes) == Some(false) => Some("of other content".to_owned()),
        Some(_) => None,
    }
}

/// Compares a manifest with the Hub's tree before anything is fetched.
fn agree(snapshot: &Snapshot, manifest: &Manifest) -> Result<(), ReleaseError> {
    let files = snapshot.files()?;
    for entry in &manifest.files {
        if let Some(found) = difference(entry, files.get(&entry.path)) {
            return Err(mixed(snapshot, &entry.path, found, entry));
        }
    }
    Ok(())
}

/// Checks a release on the Hub against its manifest: sizes and hashes as the tree gives them, and the few files that lie in git
/// itself by their content. The commit comes with the checks.
///
/// # Errors
/// When there is no release to check; whatever is wrong with it is a [`Check`] with a problem.
pub fn verify_remote(hub: &Hub, repo: &RepoId, revision: Option<&str>) -> Result<(String, Vec<Check>), ReleaseError> {
    let snapshot = hub.snapshot(Kind::Dataset, repo, revision)?;
    let (manifest, _) = manifest(&snapshot)?;
    let files = snapshot.files()?;
    let mut checks = Vec::new();
    for entry in &manifest.files {
        let file = files.get(&entry.path);
        let problem = match (difference(entry, file), file) {
            (Some(found), _) => {
                Some(format!("is {found}, but the manifest says {} bytes with SHA-256 {}", entry.bytes, entry.sha256))
            }
            (None, Some(file)) if !matches!(file.content, Content::Large { .. }) => {
                let place = snapshot.fetch(file, &unwatched())?;
                let sha256 = output::sha256_file(&place).map_err(|source| HubError::File { path: place, source })?;
                (sha256 != entry.sha256)
                    .then(|| format!("has SHA-256 {sha256}, but the manifest says {}", entry.sha256))
            }
            _ => None,
        };
        checks.push(Check { what: entry.path.clone(), problem });
    }
    let strangers = files.keys().filter(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        *path != MANIFEST && !name.starts_with('.') && manifest.file(path).is_none()
    });
    let stranger = |path: &String| Check { what: path.clone(), problem: Some("is not in the manifest".to_owned()) };
    checks.extend(strangers.map(stranger));
    Ok((snapshot.id(), checks))
}
