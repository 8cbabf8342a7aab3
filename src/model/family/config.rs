//! config.json as families read it: every field is used, known to change nothing, or an error.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Map, Value};

/// config.json, with a memory of which fields were read.
pub struct Config<'a> {
    has: &'a dyn Fn(&str) -> bool,
    path: PathBuf,
    /// `rope_parameters.` inside that object, nothing at the top.
    prefix: String,
    fields: &'a Map<String, Value>,
    read: BTreeSet<String>,
    aliases: &'static [(&'static str, &'static str)],
}

/// Fields that say nothing about the arithmetic of a forward pass without dropout: names, versions, token ids, training and
/// generation defaults.
const INERT: &[&str] = &[
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "max_length",
    "min_length",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "model_name",
    "name",
    "description",
    "license",
    "repetition_penalty",
    "do_sample",
    "num_beams",
    "problem_type",
    "finetuning_task",
    "chunk_size_feed_forward",
    "pruned_heads",
    "prefix",
    "begin_suppress_tokens",
    "bad_words_ids",
    "sep_token_id",
    "decoder_start_token_id",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "typical_p",
    "early_stopping",
    "diversity_penalty",
    "num_beam_groups",
    "output_scores",
    "remove_invalid_values",
    "suppress_tokens",
    "tf_legacy_loss",
    "use_bfloat16",
    "tie_encoder_decoder",
    "is_encoder_decoder",
    "mlp_dropout",
    "rms_norm_fused",
    "attn_implementation",
    "rope_interleaved",
];

type Harmless = fn(&Value) -> bool;

/// Fields in [`INERT`] that are only inert at this value.
const INERT_AT: &[(&str, Harmless)] = &[
    ("rope_interleaved", |value| value == &Value::Bool(false)),
    ("is_encoder_decoder", |value| value == &Value::Bool(false)),
    ("pruned_heads", |value| value.as_object().is_some_and(Map::is_empty)),
];

impl<'a> Config<'a> {
    /// The fields of the config at `path`, of a checkpoint that `has` tensors by these names.
    pub fn new(path: PathBuf, fields: &'a Map<String, Value>, has: &'a dyn Fn(&str) -> bool) -> Self {
        Self { has, path, prefix: String::new(), fields, read: BTreeSet::new(), aliases: &[] }
    }

    pub fn unknown_family(&self, found: String, known: String) -> ConfigError {
        ConfigError::Family { path: self.path.clone(), found, known }
    }

    /// The first of several prefixes under which the checkpoint has a tensor; the first of all if none has.
    pub fn prefix(&self, tensor: &str, prefixes: &[&str]) -> String {
        let found = prefixes.iter().find(|prefix| (self.has)(&format!("{prefix}{tensor}")));
        found.unwrap_or(&prefixes[0]).to_string()
    }

    /// Says under which other names this family's configs keep fields: pairs of the usual name and another.
    pub fn alias(&mut self, aliases: &'static [(&'static str, &'static str)]) {
        self.aliases = aliases;
    }

    /// The name under which a field is there.
    fn spelled(&self, name: &str) -> String {
        let others = self.aliases.iter().filter(|(usual, _)| *usual == name).map(|(_, other)| *other);
        let there =
            others.into_iter().find(|other| self.fields.contains_key(*other) && !self.fields.contains_key(name));
        there.unwrap_or(name).to_owned()
    }

    /// Whether a field is there, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(&self.spelled(name))
    }

    /// A field that is present and not null.
    pub fn field(&mut self, name: &str) -> Option<&'a Value> {
        let name = self.spelled(name);
        let value = self.fields.get(&name).filter(|value| !value.is_null());
        self.read.insert(name);
        value
    }

    /// Marks fields that change nothing in this family.
    pub fn inert(&mut self, names: &[&str]) {
        self.read.extend(names.iter().map(|&name| name.to_owned()));
    }

    /// A field's name from the top of the file.
    fn name(&self, field: &str) -> String {
        format!("{}{}", self.prefix, self.spelled(field))
    }

    fn malformed(&self, field: &str, found: &Value, wanted: &'static str) -> ConfigError {
        ConfigError::Malformed { path: self.path.clone(), field: self.name(field), found: found.to_string(), wanted }
    }

    /// The error of a field that has to be there.
    pub fn absent(&self, field: &str) -> ConfigError {
        ConfigError::Absent { path: self.path.clone(), field: self.name(field) }
    }

    fn required(&mut self, name: &str) -> Result<&'a Value, ConfigError> {
        self.field(name).ok_or_else(|| self.absent(name))
    }

    /// A string.
    pub fn text(&mut self, name: &str) -> Result<String, ConfigError> {
        let value = self.required(name)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.malformed(name, value, "a string"))
    }

    /// A string, if the field is there.
    pub fn optional_text(&mut self, name: &str) -> Result<Option<String>, ConfigError> {
        if self.field(name).is_some() { self.text(name).map(Some) } else { Ok(None) }
    }

    /// A list of strings, if the field is there.
    pub fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.field(name) else { return Ok(None) };
        let texts =
            value.as_array().and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        texts.map(Some).ok_or_else(|| self.malformed(name, value, "a list of strings"))
    }

    /// A list of positive numbers.
    pub fn numbers(&mut self, name: &str) -> Result<Vec<f64>, ConfigError> {
        let value = self.required(name)?;
        let number = |item: &Value| item.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        let numbers = value.as_array().and_then(|list| list.iter().map(number).collect());
        numbers.ok_or_else(|| self.malformed(name, value, "a list of numbers above 0"))
    }

    /// A list of whole numbers, if the field is there.
    pub fn whole_numbers(&mut self, name: &str) -> Result<Option<Vec<u64>>, ConfigError> {
        let Some(value) = self.field(name) else { return Ok(None) };
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
        numbers.map(Some).ok_or_else(|| self.malformed(name, value, "a list of whole numbers"))
    }

    /// A whole number, if the field is there.
    pub fn optional_whole(&mut self, name: &str) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.field(name) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.malformed(name, value, "a whole number"))
    }

    /// A whole number above 0.
    pub fn size(&mut self, name: &str) -> Result<usize, ConfigError> {
        let value = self.required(name)?;
        self.positive(name, value)
    }

    /// A number of layers; tables number them in 16 bits.
    pub fn layers(&mut self, name: &str) -> Result<usize, ConfigError> {
        let value = self.required(name)?;
        let layers = self.positive(name, value)?;
        if i16::try_from(layers).is_ok() {
            Ok(layers)
        } else {
            Err(self.malformed(name, value, "a whole number below 32,768"))
        }
    }

    /// A whole number above 0, if the field is there.
    pub fn optional_size(&mut self, name: &str) -> Result<Option<usize>, ConfigError> {
        self.field(name).map(|value| self.positive(name, value)).transpose()
    }

    fn positive(&self, name: &str, value: &Value) -> Result<usize, ConfigError> {
        // Sizes of real models stay far below; the bound keeps products of sizes from overflowing.
        let size =
            value.as_u64().filter(|size| (1..1 << 31).contains(size)).and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.malformed(name, value, "a whole number above 0 and below 2^31"))
    }

    /// A positive number, or a default.
    pub fn number(&mut self, name: &str, default: f64) -> Result<f64, ConfigError> {
        match self.field(name) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| *number > 0.0 && number.is_finite())
                .ok_or_else(|| self.malformed(name, value, "a number above 0")),
        }
    }

    /// A positive number that has to be there.
    pub fn required_number(&mut self, name: &str) -> Result<f64, ConfigError> {
        self.required(name)?;
        self.number(name, f64::NAN)
    }

    /// A positive number, if the field is there.
    pub fn optional_number(&mut self, name: &str) -> Result<Option<f64>, ConfigError> {
        if self.field(name).is_some() { self.required_number(name).map(Some) } else { Ok(None) }
    }

    /// A switch, or a default.
    pub fn switch(&mut self, name: &str, default: bool) -> Result<bool, ConfigError> {
        match self.field(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.malformed(name, value, "true or false")),
        }
    }

    /// An object nested in the config, as a config of its own.
    pub fn nested(&mut self, name: &str) -> Result<Option<Config<'a>>, ConfigError> {
        let Some(value) = self.field(name) else { return Ok(None) };
        let fields = value.as_object().ok_or_else(|| self.malformed(name, value, "an object"))?;
        let prefix = format!("{}.", self.name(name));
        let has = self.has;
        Ok(Some(Config { has, path: self.path.clone(), prefix, fields, read: BTreeSet::new(), aliases: &[] }))
    }

    /// Refuses a value that is valid elsewhere and that we do not compute.
    pub fn refuse<T>(&self, field: &str, found: impl ToString, implemented: &str) -> Result<T, ConfigError> {
        Err(ConfigError::NotImplemented {
            path: self.path.clone(),
            field: self.name(field),
            found: found.to_string(),
            implemented: implemented.to_owned(),
        })
    }

    /// Refuses every field that was not read and is not known to be inert. `null` and `false` switch nothing on.
    pub fn finish(&self) -> Result<(), ConfigError> {
        for (name, value) in self.fields {
            let off = value.is_null() || value == &Value::Bool(false);
            let inert = name.starts_with('_') || INERT.contains(&name.as_str());
            let changes = INERT_AT.iter().any(|(field, harmless)| field == name && !harmless(value));
            if !self.read.contains(name) && !off && (!inert || changes) {
                return Err(ConfigError::Unknown {
                    path: self.path.clone(),
                    field: self.name(name),
                    found: value.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// What can be wrong with a config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An architecture that we do not know.
    #[error("{path}: `model_type` is `{found}`; known are {known}. CONTRIBUTING.md says how a family is added")]
    Family {
        /// config.json.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What we know.
        known: String,
    },
    /// A field that has to be there.
    #[error(
        "{path}: has no field `{field}`, and nothing can stand in for it; take the config.json that came with the weights"
    )]
    Absent {
        /// config.json.
        path: PathBuf,
        /// The field.
        field: String,
    },
    /// A field of another type or out of range.
    #[error("{path}: `{field}` is {found}, but {wanted} is wanted")]
    Malformed {
        /// config.json.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A field that nobody here has heard of.
    #[error(
        "{path}: `{field}` is {found}, and no such field is known: it may change the model's arithmetic. Take it out if it does not"
    )]
    Unknown {
        /// config.json.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        found: String,
    },
    /// A field that changes the arithmetic in a way that is not implemented.
    #[error(
        "{path}: `{field}` is {found}, which changes the model's arithmetic and is not implemented; {implemented} is wanted"
    )]
    NotImplemented {
        /// config.json.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What works.
        implemented: String,
    },
}
