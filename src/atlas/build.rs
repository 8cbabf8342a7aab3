//! From a profile and the selections made from it, or from masks that others made, to a folder of tables, masks, card and manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    AblationRow, AdaptationRow, Atlas, AtlasError, CoverageRow, FileEntry, IdentifyParameters, IdentifyResult,
    LanguageRow, Manifest, Mask, MaskFormat, MaskSet, MethodTables, ModelRow, NeuronRow, OverlapRow, RateResult,
    RunRow, StabilityRow, card::Facts, import::UNKNOWN_LICENCE, model_folder, neuron_set, rows::IMPORT,
};
use crate::{
    identify::{Class, Overlap, SelectedNeuron, Selection, Stability, class},
    language::{LanguageCode, Registry},
    neuron::NeuronSet,
    output,
    profile::{Profile, ProfileFolder, TableLayout, canonical, write_counts, write_routed},
    tokens::Coverage,
};

/// What a release says of itself.
#[derive(Clone, Debug)]
pub struct Release {
    /// SPDX identifier of the licence of tables and masks.
    pub licence: String,
    /// What a reader should know of text and models, in sentences.
    pub remarks: Vec<String>,
    /// What a reader should know of one language's text.
    pub language_remarks: BTreeMap<LanguageCode, String>,
}

/// One identification and what it was made from.
pub struct Identification<'a> {
    /// The profile.
    pub profile: &'a ProfileFolder,
    /// Coverage of every language compared, by code.
    pub coverage: Vec<Coverage>,
    /// Mean activation of every neuron, per language compared.
    pub means: Vec<Vec<f32>>,
    /// What was asked.
    pub parameters: IdentifyParameters,
    /// The answer at the largest rate.
    pub selection: Selection,
    /// The answers at every rate, ascending.
    pub rates: Vec<(f64, Selection)>,
    /// Evidence beside it.
    pub evidence: Evidence,
}

/// Evidence beside an identification.
pub struct Evidence {
    /// Pairs of languages.
    pub overlaps: Vec<Overlap>,
    /// How far the sets can be trusted; a control has none.
    pub stability: Option<Stability>,
}

/// What one method found in one model, as rows: from counts, or from masks that others made.
pub(super) struct Entry<'a> {
    pub model: ModelRow,
    /// The run of the method last, after those that it was made from.
    pub runs: Vec<RunRow>,
    pub coverage: Vec<CoverageRow>,
    pub method: String,
    pub languages: Vec<LanguageCode>,
    pub tables: MethodTables,
    pub result: IdentifyResult,
    /// Where the counts of the model are, if there are any.
    pub counts: Option<&'a ProfileFolder>,
}

/// Rows of a row group of counts before it ends with a language.
const GROUP_ROWS: usize = 50_000;
/// Rows of a part of the counts: about 200 MB.
const PART_ROWS: usize = 16_000_000;

impl Identification<'_> {
    fn entry(&self, release: &Release) -> Entry<'_> {
        Entry {
            model: self.model_row(),
            runs: self.run_rows().into(),
            coverage: self.coverage_rows(release).collect(),
            method: self.parameters.method.clone(),
            languages: self.selection.languages.clone(),
            tables: MethodTables {
                neurons: self.neuron_rows(),
                overlap: self.overlap_rows(),
                stability: self.stability_rows(),
                ablation: Vec::new(),
            },
            result: self.result(),
            counts: Some(self.profile),
        }
    }

    fn run_id(&self) -> String {
        output::sha256(self.parameters_json().as_bytes())[..16].to_owned()
    }

    fn parameters_json(&self) -> String {
        canonical(&serde_json::to_value(&self.parameters).expect("plain data"))
    }

    fn result(&self) -> IdentifyResult {
        let rates = self.rates.iter().map(|(rate, selection)| RateResult {
            rate: *rate,
            asked: selection.asked,
            selected: selection.neurons.len(),
            entropy_cut: selection.entropy_cut,
            tied: Some(selection.ties_at_cut.tied),
            taken: Some(selection.ties_at_cut.taken),
        });
        let mut notes: Vec<String> = Vec::new();
        for (rate, selection) in &self.rates {
            for note in &selection.notes {
                let note = note.to_string();
                // What is true of all rates is said once.
                if !notes.iter().any(|said| said == &note) {
                    notes.push(if note.contains("cut") || note.contains("asked") {
                        format!("at rate {rate}: {note}")
                    } else {
                        note
                    });
                }
            }
        }
        IdentifyResult {
            filter_bar: self.selection.filter_bar,
            activation_bar: self.selection.activation_bar,
            finite: Some(self.selection.finite),
            rates: rates.collect(),
            notes,
        }
    }

    fn model_row(&self) -> ModelRow {
        let head = &self.profile.head;
        let (card, hashes) = (&head.model, &head.parameters.hashes);
        ModelRow {
            id: card.id.clone(),
            revision: card.revision.clone(),
            architecture: card.architecture.clone(),
            layers: card.spec.ffn.layers,
            experts: card.spec.ffn.experts,
            width: card.spec.ffn.width,
            parameters: card.parameters,
            dtype: Some(card.dtype.clone()),
            config_sha256: Some(hashes.config.clone()),
            tokenizer_sha256: Some(hashes.tokenizer.clone()),
            weights_sha256: Some(serde_json::to_string(&hashes.weights).expect("plain data")),
            licence: card.licence.clone(),
        }
    }

    fn run_rows(&self) -> [RunRow; 2] {
        let head = &self.profile.head;
        let asked = &head.parameters;
        let word = |value: serde_json::Value| value.as_str().map(str::to_owned);
        let profile = RunRow {
            run: head.run.clone(),
            kind: "profile".to_owned(),
            parent: None,
            model: head.model.id.clone(),
            revision: head.model.revision.clone(),
            corpus: Some(asked.corpus.clone()),
            split: word(serde_json::to_value(asked.split).expect("a word")),
            tokens: Some(asked.tokens),
            context: Some(asked.context as u64),
            separator: word(serde_json::to_value(asked.separator).expect("a word")),
            folds: Some(asked.folds as u64),
            seed: None,
            precision: Some(asked.precision.clone()),
            device: Some(asked.device.clone()),
            method: None,
            tool_version: head.tool_version.clone(),
            parameters: canonical(&serde_json::to_value(asked).expect("plain data")),
            result: None,
            origin: None,
        };
        let identify = RunRow {
            run: self.run_id(),
            kind: "identify".to_owned(),
            parent: Some(head.run.clone()),
            seed: Some(self.parameters.seed),
            method: Some(self.parameters.method.clone()),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            parameters: self.parameters_json(),
            result: Some(canonical(&serde_json::to_value(self.result()).expect("plain data"))),
            corpus: None,
            split: None,
            tokens: None,
            context: None,
            separator: None,
            folds: None,
            precision: None,
            device: None,
            ..profile.clone()
        };
        [profile, identify]
    }

    fn coverage_rows(&self, release: &Release) -> impl Iterator<Item = CoverageRow> {
        self.coverage.iter().map(|coverage| CoverageRow {
            remark: release.language_remarks.get(&coverage.language).cloned(),
            run: self.profile.head.run.clone(),
            language: coverage.language,
            status: coverage.status.as_str().to_owned(),
            tokens: coverage.tokens,
            tokens_read: coverage.tokens_read,
            documents: coverage.notes.documents,
            empty_documents: coverage.notes.empty_documents,
            invalid_utf8: coverage.notes.invalid_utf8,
            byte_order_marks: coverage.notes.byte_order_marks,
            bytes: coverage.notes.bytes,
            tokens_per_byte: (coverage.notes.bytes > 0)
                .then(|| coverage.tokens_read as f64 / coverage.notes.bytes as f64),
            fold_tokens: coverage.fold_tokens.clone(),
            fold_documents: coverage.fold_documents.clone(),
            text_sha256: coverage.text_sha256.clone(),
        })
    }

    fn neuron_rows(&self) -> Vec<NeuronRow> {
        let (model, run) = (&self.profile.head.model.id, self.run_id());
        let family = |code| Registry::builtin().get(code).map_or("", |language| language.family.as_str());
        let mut rows = Vec::new();
        for (at, neuron) in self.selection.neurons.iter().enumerate() {
            let class = class(&self.selection, neuron, family).map(|class: Class| class.name().to_owned());
            for (place, &language) in neuron.assigned.iter().enumerate() {
                let frequency =
                    self.evidence.stability.as_ref().and_then(|stability| stability.selection_freq[at][place]);
                rows.push(NeuronRow {
                    model: model.clone(),
                    run: run.clone(),
                    method: self.parameters.method.clone(),
                    class: class.clone(),
                    selection_freq: frequency,
                    ..self.neuron_row(neuron, usize::from(language))
                });
            }
        }
        rows.sort_by_key(|row| (row.language, row.id()));
        rows
    }

    /// What the counts say of a neuron in one language.
    fn neuron_row(&self, neuron: &SelectedNeuron, language: usize) -> NeuronRow {
        let (probability, sum) = (neuron.probabilities[language], neuron.probabilities.iter().sum::<f64>());
        NeuronRow {
            model: String::new(),
            run: String::new(),
            method: String::new(),
            language: self.selection.languages[language],
            layer: neuron.id.layer,
            expert: neuron.id.expert,
            neuron: neuron.id.index,
            rank: Some(neuron.rank),
            entropy: Some(neuron.entropy as f32),
            probability: Some(probability as f32),
            share: (sum > 0.0).then(|| (probability / sum) as f32),
            mean_activation: Some(self.means[language][self.selection.shape.flat(neuron.id)]),
            margin: self.selection.activation_bar.map(|bar| (probability - bar) as f32),
            selection_freq: None,
            languages: neuron.assigned.len() as u16,
            class: None,
        }
    }

    fn overlap_rows(&self) -> Vec<OverlapRow> {
        let codes = &self.selection.languages;
        let row = |overlap: &Overlap| OverlapRow {
            model: self.profile.head.model.id.clone(),
            run: self.run_id(),
            method: self.parameters.method.clone(),
            language_a: codes[usize::from(overlap.a)],
            language_b: codes[usize::from(overlap.b)],
            shared: overlap.shared,
            jaccard: overlap.jaccard,
            overlap_coefficient: overlap.coefficient,
            cosine: overlap.cosine,
        };
        self.evidence.overlaps.iter().map(row).collect()
    }

    fn stability_rows(&self) -> Vec<StabilityRow> {
        let codes = self.selection.languages.iter().enumerate();
        codes
            .map(|(at, &language)| {
                let found = self.evidence.stability.as_ref().map(|stability| &stability.languages[at]);
                StabilityRow {
                    model: self.profile.head.model.id.clone(),
                    run: self.run_id(),
                    method: self.parameters.method.clone(),
                    language,
                    neurons: self.selection.set(at).len(),
                    deff: found.and_then(|found| found.deff),
                    mean_selection_freq: found.and_then(|found| found.mean_selection_freq).map(f64::from),
                    split_half_jaccard: found.and_then(|found| found.split_half_jaccard).map(f64::from),
                    margin_to_bar: found.and_then(|found| found.margin_to_bar),
                }
            })
            .collect()
    }
}

/// Writes identifications into an atlas: a new folder, or one that holds an atlas already, whose other models and methods stay.
/// The manifest is the last file to be written, so that a folder that was interrupted is none.
///
/// # Errors
/// When the folder holds anything else, a profile cannot be read again, or the disk is full.
pub fn build(place: &Path, release: &Release, identifications: &[Identification]) -> Result<Manifest, AtlasError> {
    let entries: Vec<Entry> = identifications.iter().map(|found| found.entry(release)).collect();
    write_atlas(place, release, &entries, &BTreeMap::new())
}

/// Adds what an adaptation changed to an atlas that holds its base model; of what the atlas has of the same method and run, the same
/// measures of the same languages are replaced. Returns the path of the table.
///
/// # Errors
/// When there is no atlas, it does not hold the model, there are no rows, or the disk is full.
pub fn add_adaptation(place: &Path, mut rows: Vec<AdaptationRow>) -> Result<String, AtlasError> {
    let atlas = Atlas::open(place)?;
    let first = rows.first().ok_or_else(|| AtlasError::broken(place, "there are no results to add"))?.clone();
    atlas.model(Some(&first.model))?;
    let name = model_folder(&format!("{}-{}", first.method, first.run));
    let folder = model_folder(&first.model);
    let path = format!("data/adaptation/{folder}/{name}.parquet");
    let of_run = |row: &&AdaptationRow| (&row.method, &row.run) == (&first.method, &first.run);
    let measured = |row: &AdaptationRow| (row.task.clone(), row.language, row.metric.clone());
    let new: BTreeSet<_> = rows.iter().map(measured).collect();
    let there = atlas.adaptation.get(&folder).into_iter().flatten().filter(of_run);
    rows.extend(there.filter(|row| !new.contains(&measured(row))).cloned());
    rows.sort_by(|a, b| (&a.task, a.language).cmp(&(&b.task, b.language)));
    let (licence, language_remarks) = (atlas.manifest.licence.clone(), BTreeMap::new());
    let release = Release { licence, remarks: Vec::new(), language_remarks };
    write_atlas(place, &release, &[], &BTreeMap::from([(path.clone(), rows)]))?;
    Ok(path)
}

/// Writes entries into an atlas, as [`build`] says.
pub(super) fn write_atlas(
    place: &Path,
    release: &Release,
    entries: &[Entry],
    adaptation: &BTreeMap<String, Vec<AdaptationRow>>,
) -> Result<Manifest, AtlasError> {
    let before = existing(place)?;
    check_shapes(place, before.as_ref(), entries)?;
    // From here on the folder is unfinished: without a manifest nobody takes it for an atlas.
    let counting = entries.iter().filter(|entry| entry.counts.is_some());
    let folders: BTreeSet<String> = counting.map(|entry| model_folder(&entry.model.id)).collect();
    let mut rows: BTreeMap<String, Option<usize>> = BTreeMap::new();
    if let Some(before) = &before {
        for file in &before.manifest.files {
            let of_counts = |folder| ["counts", "routed"].map(|kind| format!("data/{kind}/{folder}/"));
            let replaced = folders.iter().flat_map(of_counts).any(|folder| file.path.starts_with(&folder));
            if !replaced {
                rows.insert(file.path.clone(), file.rows);
            }
        }
    }
    let mut counted = BTreeSet::new();
    for entry in entries {
        write_method(place, entry, &mut rows)?;
        if let Some(profile) = entry.counts
            && counted.insert(entry.model.id.clone())
        {
            write_all_counts(place, profile, &mut rows)?;
        }
    }
    for (path, adapted) in adaptation {
        rows.insert(path.clone(), Some(AdaptationRow::write(adapted, &place.join(path))?));
    }
    let tables = Common::merge(before.as_ref(), entries);
    tables.write(place, &mut rows)?;
    output::write(&place.join("LICENSE"), licence_text(&release.licence).as_bytes())?;
    rows.insert("LICENSE".to_owned(), None);
    let mut remarks = before.as_ref().map_or_else(Vec::new, |before| before.manifest.remarks.clone());
    remarks.extend(release.remarks.iter().filter(|remark| !remarks.contains(remark)).cloned().collect::<Vec<_>>());
    let mut files = measured(place, &rows)?;
    let card = tables.card(place, release, &remarks, &files)?;
    output::write(&place.join("README.md"), card.as_bytes())?;
    files.push(FileEntry::measure(place, "README.md", None)?);
    let runs = tables.runs.iter().map(|run| run.run.clone()).collect();
    let manifest = Manifest::new(&release.licence, remarks, runs, tables.models.len(), tables.languages.len(), files);
    manifest.write(place)?;
    sweep(place, &manifest, before.as_ref());
    Ok(manifest)
}

fn measured(place: &Path, rows: &BTreeMap<String, Option<usize>>) -> Result<Vec<FileEntry>, AtlasError> {
    let written = rows.iter().filter(|(path, _)| *path != "README.md");
    written.map(|(path, rows)| FileEntry::measure(place, path, *rows)).collect()
}

/// Says whether an atlas may be written to a folder, before anything is computed for it.
///
/// # Errors
/// When the folder holds anything but an atlas, or a broken one.
pub fn check_place(place: &Path) -> Result<(), AtlasError> {
    existing(place).map(drop)
}

/// The atlas that is there, if one is. Anything else in the folder is refused.
fn existing(place: &Path) -> Result<Option<Atlas>, AtlasError> {
    match Atlas::open(place) {
        Ok(atlas) => Ok(Some(atlas)),
        Err(AtlasError::NoAtlas { .. }) => {
            if output::is_occupied(place, &["data", "masks", "LICENSE", "README.md"]) {
                return Err(AtlasError::Occupied { path: place.to_owned() });
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Removes files of the earlier atlas that the new one does not name.
fn sweep(place: &Path, manifest: &Manifest, before: Option<&Atlas>) {
    for file in before.iter().flat_map(|before| &before.manifest.files) {
        if manifest.file(&file.path).is_none() {
            // A file that stays is in nobody's way: `verify` names it.
            let _ = std::fs::remove_file(place.join(&file.path));
        }
    }
}

/// A model's tables are of one grid: another model under the same name is refused before anything is written.
fn check_shapes(place: &Path, before: Option<&Atlas>, entries: &[Entry]) -> Result<(), AtlasError> {
    for Entry { model, .. } in entries {
        let there = before.and_then(|before| before.models.iter().find(|there| there.id == model.id));
        if let Some(there) = there.filter(|there| there.shape() != model.shape()) {
            let (id, held, new) = (&model.id, there.shape(), model.shape());
            let problem = format!("holds {id} with {held}, but this {id} has {new}; name it otherwise with --model-id");
            return Err(AtlasError::broken(place, problem));
        }
    }
    Ok(())
}

fn write_method(place: &Path, entry: &Entry, rows: &mut BTreeMap<String, Option<usize>>) -> Result<(), AtlasError> {
    let (folder, method) = (model_folder(&entry.model.id), &entry.method);
    let path = |kind: &str| format!("data/{kind}/{folder}/{method}.parquet");
    let MethodTables { neurons, overlap, stability, ablation } = &entry.tables;
    rows.insert(path("neurons"), Some(NeuronRow::write(neurons, &place.join(path("neurons")))?));
    rows.insert(path("overlap"), Some(OverlapRow::write(overlap, &place.join(path("overlap")))?));
    rows.insert(path("stability"), Some(StabilityRow::write(stability, &place.join(path("stability")))?));
    // What switching the earlier neurons off did says nothing of these.
    rows.remove(&path("ablation"));
    if !ablation.is_empty() {
        rows.insert(path("ablation"), Some(AblationRow::write(ablation, &place.join(path("ablation")))?));
    }
    let table = FileEntry::measure(place, &path("neurons"), None)?;
    let (result, run) = (&entry.result, entry.runs.last().expect("an entry has the run of its method"));
    rows.retain(|path, _| {
        !(path.starts_with(&format!("masks/{folder}/{method}-"))
            || *path == format!("masks/{folder}/{method}.safetensors"))
    });
    for rate in &result.rates {
        let name = if Some(rate) == result.largest() { method.clone() } else { format!("{method}-{}", rate.rate) };
        let mask = MaskSet {
            mask: Mask {
                model: entry.model.id.clone(),
                revision: entry.model.revision.clone(),
                method: method.clone(),
                top_rate: rate.rate,
                asked: rate.asked,
                run: run.run.clone(),
                table_sha256: table.sha256.clone(),
            },
            sets: entry.languages.iter().map(|&code| (code, set(entry, code, rate))).collect(),
        };
        let path = format!("masks/{folder}/{name}.safetensors");
        mask.write(&place.join(&path), MaskFormat::Safetensors)?;
        rows.insert(path, None);
    }
    Ok(())
}

fn set(entry: &Entry, language: LanguageCode, rate: &RateResult) -> NeuronSet {
    neuron_set(entry.model.shape(), entry.tables.of(language), rate)
}

/// The counts of every language of the profile, in parts, each language's rows in one group; beside them, of a model with experts,
/// the tokens that were routed to each.
fn write_all_counts(
    place: &Path,
    profile: &ProfileFolder,
    rows: &mut BTreeMap<String, Option<usize>>,
) -> Result<(), AtlasError> {
    let head = &profile.head;
    let (shape, languages) = (head.model.spec.ffn, profile.languages()?);
    let layout = TableLayout {
        run: head.run.clone(),
        tokens: head.parameters.tokens,
        folds: head.parameters.folds,
        experts: true,
        further: vec![("neuroglot.run".to_owned(), head.run.clone())],
        group_rows: GROUP_ROWS,
    };
    let per_part = (PART_ROWS / shape.neurons()).max(1);
    for (part, languages) in languages.chunks(per_part).enumerate() {
        let path = |kind: &str| format!("data/{kind}/{}/part-{part:05}.parquet", model_folder(&head.model.id));
        let profiles = languages.iter().map(|&language| profile.read(language).map(published));
        let written = write_counts(&place.join(path("counts")), &layout, profiles)?;
        rows.insert(path("counts"), Some(written));
        if shape.is_routed() {
            let routed = languages.iter().map(|&language| Ok((language, profile.routed(language)?)));
            let written = write_routed(&place.join(path("routed")), &layout, shape, routed)?;
            rows.insert(path("routed"), Some(written));
        }
    }
    Ok(())
}

/// A profile as an atlas holds it: counts exact, moments rounded to the 24 bits of f32, for bits beyond them are noise that no
/// compression takes away. The profile's own files keep them.
fn published(mut profile: Profile) -> Profile {
    let round = |sums: &mut Vec<f64>| sums.iter_mut().for_each(|sum| *sum = f64::from(*sum as f32));
    round(&mut profile.tally.sum);
    round(&mut profile.tally.sum_sq);
    profile
}

/// The tables that all models of an atlas share.
struct Common {
    models: Vec<ModelRow>,
    languages: Vec<LanguageRow>,
    runs: Vec<RunRow>,
    coverage: Vec<CoverageRow>,
}

impl Common {
    /// What was there, less what the new identifications replace, and the new.
    fn merge(before: Option<&Atlas>, entries: &[Entry]) -> Self {
        let mut models: BTreeMap<String, ModelRow> = BTreeMap::new();
        let mut runs: BTreeMap<(String, String, String), RunRow> = BTreeMap::new();
        let mut coverage: BTreeMap<(String, LanguageCode), CoverageRow> = BTreeMap::new();
        let key = |run: &RunRow| (run.model.clone(), run.kind.clone(), run.method.clone().unwrap_or_default());
        if let Some(before) = before {
            models.extend(before.models.iter().map(|model| (model.id.clone(), model.clone())));
            runs.extend(before.runs.iter().map(|run| (key(run), run.clone())));
            coverage.extend(before.coverage.iter().map(|row| ((row.run.clone(), row.language), row.clone())));
        }
        for entry in entries {
            // An import knows less of a model than a profile that is there already.
            if entry.counts.is_some() || !models.contains_key(&entry.model.id) {
                models.insert(entry.model.id.clone(), entry.model.clone());
            }
            // A method has one run, whether it was identified or imported.
            runs.retain(|(model, _, method), _| (model, method) != (&entry.model.id, &entry.method));
            runs.extend(entry.runs.iter().map(|run| (key(run), run.clone())));
            coverage.extend(entry.coverage.iter().map(|row| ((row.run.clone(), row.language), row.clone())));
        }
        let kept: BTreeSet<&String> = runs.values().map(|run| &run.run).collect();
        coverage.retain(|(run, _), _| kept.contains(run));
        let imported = runs.values().filter(|run| run.kind == IMPORT).filter_map(RunRow::compared).flatten();
        let codes: BTreeSet<LanguageCode> = coverage.keys().map(|(_, language)| *language).chain(imported).collect();
        let languages = codes.iter().filter_map(|&code| Registry::builtin().get(code)).map(LanguageRow::from).collect();
        Self {
            models: models.into_values().collect(),
            languages,
            runs: runs.into_values().collect(),
            coverage: coverage.into_values().collect(),
        }
    }

    fn write(&self, place: &Path, rows: &mut BTreeMap<String, Option<usize>>) -> Result<(), AtlasError> {
        let mut put = |name: &str, written: Result<usize, AtlasError>| {
            rows.insert(format!("data/{name}.parquet"), Some(written?));
            Ok::<_, AtlasError>(())
        };
        let at = |name: &str| place.join(format!("data/{name}.parquet"));
        put("models", ModelRow::write(&self.models, &at("models")))?;
        put("languages", LanguageRow::write(&self.languages, &at("languages")))?;
        put("runs", RunRow::write(&self.runs, &at("runs")))?;
        put("coverage", CoverageRow::write(&self.coverage, &at("coverage")))
    }

    fn card(
        &self,
        place: &Path,
        release: &Release,
        remarks: &[String],
        files: &[FileEntry],
    ) -> Result<String, AtlasError> {
        let mut stability = BTreeMap::new();
        for file in files {
            if let ["data", "stability", model, table] = file.path.split('/').collect::<Vec<_>>().as_slice() {
                let method = table.trim_end_matches(".parquet").to_owned();
                stability.insert((model.to_string(), method), StabilityRow::read(&place.join(&file.path))?);
            }
        }
        let facts = Facts {
            licence: &release.licence,
            remarks,
            models: &self.models,
            languages: &self.languages,
            runs: &self.runs,
            coverage: &self.coverage,
            stability: &stability,
            files: &files.iter().map(|file| (file.path.clone(), file.bytes, file.rows)).collect::<Vec<_>>(),
            version: env!("CARGO_PKG_VERSION"),
        };
        Ok(facts.card(None))
    }
}

fn licence_text(licence: &str) -> String {
    if licence == UNKNOWN_LICENCE {
        return "The tables and masks of this atlas were imported from files that others published, whose licence is unknown here: ask \
                them.\nThey were computed from language models and texts that have licences of their own; neither is part of this \
                atlas.\n"
            .to_owned();
    }
    format!(
        "The tables and masks of this atlas are offered under {licence} (SPDX identifier; text at spdx.org/licenses).\n\
         They were computed from language models and texts that have licences of their own; neither is part of this atlas.\n"
    )
}
