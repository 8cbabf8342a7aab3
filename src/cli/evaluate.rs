//! `neuroglot evaluate`.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{
    Outcome, STOP, Talk,
    hub::{HubArgs, Located, NameArgs},
    place::{Place, PlaceArgs},
    profile::{corpus_help, model_help},
    usage,
};
use crate::{
    adapt::Delta,
    atlas::{self, AdaptationRow, Atlas},
    checkpoint::Checkpoint,
    corpus::{CorpusOptions, CorpusSpec, DocumentUnit, RecordsSpec, Split},
    evaluate::{
        self, Better, Difference, EvaluateError, Evaluation, FORMATS, Parameters, Report, Score, Store,
        SubjectSettings, TASKS, Task, TaskOptions, TaskParameters,
    },
    language::{LanguageCode, Registry},
    model::{self, Architecture, Decoder, device},
    output::{self, count, thousands},
};

/// Measure what a model can do in each language, with standard errors, and what changed since another evaluation.
///
/// Every finished task and language is kept: a run that is interrupted continues with the same command.
#[derive(Args)]
pub struct EvaluateArgs {
    #[arg(long, value_name = "DIR|FILE.gguf|OWNER/NAME", help = model_help())]
    model: PathBuf,
    #[arg(long = "task", value_name = "NAME[=DATA]", required = true, value_delimiter = ',', help = task_help())]
    tasks: Vec<String>,
    #[arg(long, value_name = "KIND:PATH|NAME", help = corpus_help())]
    corpus: Option<String>,
    /// Questions and answers of multiple-choice tasks, where they are not to be fetched from where they are published: jsonl:PATH,
    /// parquet:PATH, tsv:PATH (a file or folder per language, or one file with a language field), or
    /// hub:OWNER/NAME[/FOLDER][@REVISION].
    #[arg(long, value_name = "KIND:PATH")]
    data: Option<String>,
    /// Languages in any usual spelling, separated by commas; `all` that a task has text for; or @FILE.
    #[arg(long, default_value = "all", value_name = "LIST")]
    languages: String,
    /// Where the results go: one FILE.json, or a folder with a file per task and language. An unfinished one is continued.
    #[arg(long, value_name = "FILE.json|DIR")]
    out: PathBuf,
    /// An earlier evaluation: differences to it are paired document by document and item by item.
    #[arg(long, value_name = "FILE.json|DIR", conflicts_with = "base")]
    compare: Option<PathBuf>,
    /// What an adaptation changed: delta.safetensors, or the folder of the run that made it. The model is then its base.
    #[arg(long, value_name = "DELTA")]
    delta: Option<PathBuf>,
    /// Evaluate the model before it was adapted as well, and show differences to it. It is named unless --delta is given, whose base is
    /// --model.
    #[arg(long, value_name = "DIR|FILE.gguf|OWNER/NAME", num_args = 0..=1, default_missing_value = "")]
    base: Option<String>,
    /// The base's name in the results, as --model-id.
    #[arg(long, value_name = "ID", requires = "base")]
    base_id: Option<String>,
    /// Write the differences into this atlas, which holds the base model: they are published and drawn with it.
    #[arg(long, value_name = "ATLAS")]
    into: Option<PathBuf>,
    /// The language that the model was adapted to, where no --delta says it.
    #[arg(long, value_name = "LANGUAGE", requires = "into", conflicts_with = "delta")]
    target: Option<String>,
    /// How it was adapted, where no --delta says it: full, lora and so on.
    #[arg(long, value_name = "METHOD", requires = "into", conflicts_with = "delta")]
    method: Option<String>,
    /// How many parameters that touched, where no --delta says it.
    #[arg(long, value_name = "N", requires = "into", conflicts_with = "delta")]
    parameters: Option<u64>,
    #[command(flatten)]
    settings: EvaluateSettings,
}

/// How tasks are run.
#[derive(Args, Clone)]
pub struct EvaluateSettings {
    /// Documents, items or sentences per language; all unless said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Which documents of the corpus.
    #[arg(long, value_enum, default_value_t)]
    split: Split,
    /// How text files are cut into documents; parallel ones always by lines.
    #[arg(long, value_enum, default_value_t)]
    document: DocumentUnit,
    /// Column or field that holds the text, for parquet: and jsonl: corpora.
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// The language that is translated from, and that others are aligned with.
    #[arg(long, default_value = "eng_Latn", value_name = "LANGUAGE")]
    source: String,
    /// Translated lines in a prompt: the first ones of the corpus, which are then not translated.
    #[arg(long, default_value_t = 4, value_name = "N")]
    shots: u16,
    /// Tokens that a translation may have.
    #[arg(long, default_value_t = 192, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    new_tokens: u16,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Tokens that the model sees at most; what it was made for, up to 2,048, unless said.
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens that go through the model together; unless said, 2,048 on the CPU, more for more than eight threads, and what
    /// free memory allows on a GPU.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_tokens: Option<u32>,
    #[command(flatten)]
    place: PlaceArgs,
    /// The model's name in the results, owner/name; the one on the Hub, or the folder's or the GGUF file's name, unless said.
    #[arg(long, value_name = "ID")]
    model_id: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
}

fn task_help() -> String {
    let kinds = TASKS.iter().map(|kind| format!("{}: {}", kind.name, kind.help));
    let formats = FORMATS.iter().map(|format| format!("{} ({}; {})", format.name, format.help, format.published));
    format!(
        "Tasks, separated by commas, each with its own data behind `=` where it is not that of --corpus or --data. {}. Multiple choice is asked for by its format: {}",
        kinds.collect::<Vec<_>>().join("; "),
        formats.collect::<Vec<_>>().join(", ")
    )
}

impl EvaluateArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let interrupted = || {
            talk.say(format!("interrupted; the same command continues in {}", self.out.display()));
            Ok(Outcome::Interrupted)
        };
        if self.base.as_deref() == Some("") && self.delta.is_none() {
            return Err(usage(anyhow::anyhow!(
                "--base names no model; name one, or give --delta, whose base is --model"
            )));
        }
        if self.into.is_some() && self.base.is_none() && self.compare.is_none() {
            return Err(usage(anyhow::anyhow!("--into takes differences; give --base or --compare")));
        }
        let mut before = self.compare.as_deref().map(Evaluation::read).transpose()?;
        let tasks = self.open(talk)?;
        let Some(model) = self.settings.hub.locate(&self.model, talk)? else { return interrupted() };
        let plan = |located: &Located, delta: Option<&Path>, name: &Option<String>| {
            Plan::new(located, delta, tasks.as_slice(), &self.settings, name.clone())
        };
        let adapted = plan(&model, self.delta.as_deref(), &self.settings.model_id)?;
        let base = match self.base.as_deref() {
            None => None,
            Some("") => {
                Some(plan(&model, None, self.base_id.as_ref().map_or(&self.settings.model_id, |_| &self.base_id))?)
            }
            Some(base) => match self.settings.hub.locate(Path::new(base), talk)? {
                None => return interrupted(),
                Some(base) => Some(plan(&base, None, &self.base_id)?),
            },
        };
        let earlier = base.as_ref().map(|base| &base.parameters).or(before.as_ref().map(|before| &before.parameters));
        let adaptation = match (&self.into, earlier) {
            (Some(atlas), Some(base)) => Some(self.adaptation(atlas, base, adapted.delta.as_ref())?),
            _ => None,
        };
        if let Some(base) = base {
            let Some(evaluation) = base.run(&beside(&self.out), talk)? else { return interrupted() };
            before = Some(evaluation);
        }
        let Some(after) = adapted.run(&self.out, talk)? else { return interrupted() };
        let differences = before.map(|before| evaluate::compare(&before, &after)).transpose()?;
        let table_of = match (&self.into, adaptation, &differences) {
            (Some(atlas), Some(adaptation), Some(differences)) => {
                let rows = differences.iter().map(|difference| adaptation.row(difference, &after.run)).collect();
                let path = atlas::add_adaptation(atlas, rows)?;
                talk.say(format!("{path} is in {}; `neuroglot site` draws it", atlas.display()));
                Some(path)
            }
            _ => None,
        };
        let reports: Vec<Value> = after.reports.iter().map(short).collect();
        let result = json!({
            "run": after.run, "out": self.out, "reports": reports, "differences": differences, "table": table_of,
        });
        talk.result(&result, || match &differences {
            None => table(&after.reports),
            Some(differences) => changes(differences),
        })?;
        Ok(Outcome::Done)
    }

    /// What the rows of an atlas say of an adaptation beside its differences. That the atlas holds the base is asked before anything
    /// is run.
    fn adaptation(&self, place: &Path, base: &Parameters, delta: Option<&Delta>) -> anyhow::Result<Adaptation> {
        let atlas = Atlas::open(place)?;
        let model = atlas.model(Some(&base.model))?;
        let weights = serde_json::to_string(&base.hashes.weights).expect("plain data");
        if model.weights_sha256.as_ref().is_some_and(|held| *held != weights) {
            return Err(anyhow::anyhow!(
                "{}: its {} has other weights than the one that was evaluated; name this one otherwise with --base-id",
                place.display(),
                base.model
            ));
        }
        let model = base.model.clone();
        if let Some(delta) = delta {
            let head = &delta.head;
            let (run, parameters) = (Some(head.run.clone()), Some(head.trained));
            return Ok(Adaptation { model, run, method: head.method.clone(), target: head.language, parameters });
        }
        let (Some(target), Some(method)) = (&self.target, &self.method) else {
            return Err(usage(anyhow::anyhow!("--into needs --target and --method, unless --delta says them")));
        };
        let target = Registry::builtin().resolve(target).map_err(usage)?.code;
        Ok(Adaptation { model, run: None, method: method.clone(), target, parameters: self.parameters })
    }

    /// The tasks with the languages of each.
    fn open(&self, talk: &Talk) -> anyhow::Result<Vec<Asked>> {
        let settings = &self.settings;
        let source = Registry::builtin().resolve(&settings.source).map_err(usage)?.code;
        let options = TaskOptions {
            corpus: self.corpus.as_deref().map(str::parse::<CorpusSpec>).transpose().map_err(usage)?,
            reading: CorpusOptions {
                unit: settings.document,
                text_column: settings.text_column.clone(),
                offline: settings.hub.offline,
            },
            split: settings.split,
            data: self.data.as_deref().map(str::parse::<RecordsSpec>).transpose().map_err(usage)?,
            limit: settings.limit.map(|limit| limit as usize),
            source,
            shots: settings.shots.into(),
            new_tokens: settings.new_tokens.into(),
            seed: settings.seed,
        };
        let mut asked: Vec<Asked> = Vec::new();
        for typed in &self.tasks {
            let (name, data) = typed.split_once('=').map_or((typed.as_str(), None), |(name, data)| (name, Some(data)));
            let mut options = options.clone();
            match data {
                Some(data) if FORMATS.iter().any(|format| format.name == name) => {
                    options.data = Some(data.parse().map_err(usage)?);
                }
                Some(data) => options.corpus = Some(data.parse().map_err(usage)?),
                None => {}
            }
            let task = evaluate::open(name, &options).map_err(|error| match error {
                EvaluateError::NoTask { .. } | EvaluateError::NoCorpus { .. } => usage(error),
                error => error.into(),
            })?;
            if asked.iter().any(|other| other.task.name() == task.name()) {
                return Err(usage(anyhow::anyhow!("--task names {} twice; give each its own --out", task.name())));
            }
            let there = task.languages();
            let wanted = Registry::builtin().resolve_list(&self.languages, &there).map_err(usage)?;
            let (languages, missing): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|code| there.contains(code));
            // With several tasks, each takes those of the languages that it has.
            if languages.is_empty() || (self.tasks.len() == 1 && !missing.is_empty()) {
                let (name, missing) = (task.name(), listed(&missing));
                return Err(anyhow::anyhow!("{name}: there is nothing in {missing}; there is {}", listed(&there)));
            }
            if !missing.is_empty() {
                talk.say(format!("{}: there is nothing in {}", task.name(), listed(&missing)));
            }
            asked.push(Asked { task, languages });
        }
        Ok(asked)
    }
}

/// The first few of some languages.
fn listed(codes: &[LanguageCode]) -> String {
    let names = codes.iter().take(8).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if codes.len() > 8 { format!("{names} and {} more", codes.len() - 8) } else { names }
}

/// Where the evaluation of the base goes.
fn beside(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{}.base.json", name.strip_suffix(".json").unwrap_or(&name)))
}

/// What is known of an adaptation.
struct Adaptation {
    model: String,
    run: Option<String>,
    method: String,
    target: LanguageCode,
    parameters: Option<u64>,
}

impl Adaptation {
    fn row(&self, difference: &Difference, evaluation: &str) -> AdaptationRow {
        AdaptationRow {
            model: self.model.clone(),
            run: self.run.clone().unwrap_or_else(|| evaluation.to_owned()),
            method: self.method.clone(),
            target: self.target,
            parameters: self.parameters,
            task: difference.task.clone(),
            language: difference.language,
            metric: difference.metric.clone(),
            better: difference.better.as_str().to_owned(),
            units: difference.units as u64,
            before: difference.before,
            after: difference.after,
            difference: difference.difference,
            stderr: difference.stderr,
        }
    }
}

/// A task and the languages that it is run in.
struct Asked {
    task: Box<dyn Task>,
    languages: Vec<LanguageCode>,
}

/// An evaluation that can be run: paths there, tensors checked.
struct Plan<'a> {
    tasks: &'a [Asked],
    parameters: Parameters,
    checkpoint: Checkpoint,
    architecture: Architecture,
    delta: Option<Delta>,
    settings: SubjectSettings,
    batch_tokens: Option<u32>,
    vocabulary: usize,
    place: Place,
}

/// Unless asked for, the model sees no more than this.
const CONTEXT: usize = 2048;

impl<'a> Plan<'a> {
    fn new(
        model: &Located,
        delta: Option<&Path>,
        tasks: &'a [Asked],
        settings: &EvaluateSettings,
        name: Option<String>,
    ) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(&model.path)?;
        let architecture = model::family::read(&checkpoint).map_err(model::ModelError::from)?;
        checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name))?;
        let delta = delta.map(|path| {
            let file = if path.is_dir() { path.join("delta.safetensors") } else { path.to_owned() };
            let delta = Delta::open(&file, &checkpoint)?;
            let sha256 = output::sha256_file(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
            Ok::<_, anyhow::Error>((delta, sha256))
        });
        let delta = delta.transpose()?;
        let spec = &architecture.spec;
        let context = settings.context.unwrap_or(spec.positions.min(CONTEXT));
        if !(2..=spec.positions).contains(&context) {
            return Err(usage(EvaluateError::Context { context, positions: spec.positions }));
        }
        let tokens = |field: &str| tokens(checkpoint.config().get(field).unwrap_or(&Value::Null));
        let (begins, ends) = (tokens("bos_token_id"), tokens("eos_token_id"));
        let prefix = begins.first().or(ends.first()).copied();
        let prefix = prefix.filter(|&id| (id as usize) < spec.vocabulary);
        let prefix = prefix.ok_or_else(|| EvaluateError::NoPrefix { path: checkpoint.config_path() })?;
        let place = settings.place.open()?;
        let precision = device::precision(place.dtype).to_owned();
        let (id, revision) = model.name(&NameArgs { id: name, ..NameArgs::default() })?;
        let of_task =
            |asked: &Asked| TaskParameters { task: asked.task.name().to_owned(), settings: asked.task.settings() };
        let parameters = Parameters {
            model: id,
            revision,
            hashes: checkpoint.hashes()?,
            delta: delta.as_ref().map(|(_, sha256)| sha256.clone()),
            precision: precision.clone(),
            device: device::kind(&place.device).to_owned(),
            context,
            tasks: tasks.iter().map(of_task).collect(),
        };
        let vocabulary = spec.vocabulary;
        let settings_of = SubjectSettings { prefix, ends, context, batch_tokens: 0, precision };
        let batch_tokens = settings.batch_tokens;
        Ok(Self {
            tasks,
            parameters,
            checkpoint,
            architecture,
            delta: delta.map(|(delta, _)| delta),
            settings: settings_of,
            batch_tokens,
            vocabulary,
            place,
        })
    }

    /// Runs what is not there yet; nothing comes back when it was interrupted.
    fn run(&self, out: &Path, talk: &Talk) -> anyhow::Result<Option<Evaluation>> {
        let mut store = Store::begin(out, self.parameters.clone())?;
        let pairs = self.tasks.iter().flat_map(|asked| asked.languages.iter().map(move |&language| (asked, language)));
        let (kept, open): (Vec<_>, Vec<_>) =
            pairs.partition(|(asked, language)| store.evaluation.report(asked.task.name(), *language).is_some());
        if !kept.is_empty() {
            talk.say(format!(
                "{} of {} reports were finished before and are kept",
                kept.len(),
                kept.len() + open.len()
            ));
        }
        if open.is_empty() {
            return Ok(Some(store.evaluation));
        }
        self.place.tell(talk);
        let Place { device, dtype, .. } = &self.place;
        let tokenizer = self.checkpoint.tokenizer(self.vocabulary)?;
        let weight = |name: &str| match &self.delta {
            Some(delta) => delta.tensor(&self.checkpoint, name, *dtype, device),
            None => self.checkpoint.tensor(name, *dtype, device),
        };
        let decoder = Decoder::build(&self.architecture, model::Path::Inference, weight)?;
        let fitting = || device::batch_tokens(decoder.spec(), *dtype, device, self.settings.context.min(2048));
        let mut settings = self.settings.clone();
        settings.batch_tokens = self.batch_tokens.map_or_else(fitting, |tokens| tokens as usize);
        let subject = evaluate::subject(&decoder, &tokenizer, settings, &STOP);
        let progress = talk.steps(open.len() as u64);
        let (begun, mut tokens) = (Instant::now(), 0);
        for (asked, language) in open {
            let name = asked.task.name();
            progress.now(format!("{name} {language}"));
            let mut told = |more: u64| {
                tokens += more;
                let seconds = begun.elapsed().as_secs_f64().max(1e-3);
                progress.now(format!("{name} {language}, {} tokens/s", thousands((tokens as f64 / seconds) as u64)));
            };
            let report = asked.task.run(&subject, language, &mut told);
            let Some(report) =
                report.map_err(|error| anyhow::Error::new(error).context(format!("{name}, {language}")))?
            else {
                progress.end();
                return Ok(None);
            };
            progress.line(line(&report));
            store.add(report)?;
            progress.advance(1);
        }
        progress.end();
        let seconds = begun.elapsed().as_secs_f64();
        talk.say(format!(
            "{}: {} tokens in {seconds:.1} s, {} tokens/s",
            self.parameters.model,
            thousands(tokens),
            thousands((tokens as f64 / seconds.max(1e-3)) as u64)
        ));
        Ok(Some(store.evaluation))
    }
}

/// Token ids of a field of a config: one, or a list.
fn tokens(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    one(value).map_or_else(|| value.as_array().into_iter().flatten().filter_map(one).collect(), |id| vec![id])
}

/// The measures that tables for people show: layers are in the files.
fn shown(metric: &str) -> bool {
    !metric.starts_with("layer_")
}

fn short(report: &Report) -> Value {
    let score = |score: &Score| json!({ "metric": score.metric, "value": score.value, "stderr": score.stderr, "better": score.better });
    json!({
        "task": report.task, "language": report.language, "unit": report.unit, "units": report.units,
        "tokens": report.tokens, "prompt": report.prompt, "remarks": report.remarks,
        "scores": report.scores.iter().map(score).collect::<Vec<_>>(),
    })
}

/// A value with its standard error, to the digit that the error leaves.
fn measured(value: f64, stderr: Option<f64>) -> String {
    match stderr {
        Some(stderr) if stderr > 0.0 => {
            let digits = (1.0 - stderr.log10().floor()).clamp(0.0, 6.0) as usize;
            format!("{value:.digits$} ± {stderr:.digits$}")
        }
        _ => format!("{value:.4}"),
    }
}

fn line(report: &Report) -> String {
    let score = |score: &&Score| shown(&score.metric);
    let scores = report.scores.iter().filter(score);
    let scores = scores.map(|score| format!("{} {}", score.metric, measured(score.value, score.stderr)));
    let remarks = if report.remarks.is_empty() { String::new() } else { format!(" ({})", report.remarks.join("; ")) };
    format!("{}  {}  {}{remarks}", report.task, report.language, scores.collect::<Vec<_>>().join(", "))
}

fn table(reports: &[Report]) -> String {
    let mut lines = vec![format!("{:<12} {:<9} {:>16}  {:<14} value", "task", "language", "of", "measure")];
    for report in reports {
        for score in report.scores.iter().filter(|score| shown(&score.metric)) {
            lines.push(format!(
                "{:<12} {:<9} {:>16}  {:<14} {}",
                report.task,
                report.language.to_string(),
                count(report.units, &report.unit),
                score.metric,
                measured(score.value, score.stderr)
            ));
        }
    }
    lines.join("\n")
}

fn changes(differences: &[Difference]) -> String {
    let mut lines = vec![format!(
        "{:<12} {:<9} {:>7}  {:<14} {:>10} {:>10}  {:<22} in standard errors",
        "task", "language", "units", "measure", "before", "after", "difference"
    )];
    for difference in differences.iter().filter(|difference| shown(&difference.metric)) {
        let gain = difference.gain().map_or_else(String::new, |gain| {
            let word = match difference.difference {
                0.0 => "",
                change if (change > 0.0) == (difference.better == Better::Higher) => " better",
                _ => " worse",
            };
            format!("{:.1}{word}", gain.abs())
        });
        lines.push(format!(
            "{:<12} {:<9} {:>7}  {:<14} {:>10.4} {:>10.4}  {:<22} {gain}",
            difference.task,
            difference.language.to_string(),
            thousands(difference.units as u64),
            difference.metric,
            difference.before,
            difference.after,
            measured(difference.difference, difference.stderr),
        ));
    }
    lines.join("\n")
}
