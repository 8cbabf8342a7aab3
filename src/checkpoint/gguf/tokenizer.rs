//! A GGUF file's tokenizer, rebuilt as the one that its model's tokenizer.json describes.
//! In: the vocabulary and what llama.cpp notes about it. Out: a `tokenizers` BPE, either over bytes (`gpt2`: merges are
//! listed) or as `SentencePiece` has it (`llama`: merges follow from the vocabulary). Nothing is added before or after a text,
//! whatever `add_bos_token` says: `tokens` decides about that with `--document-separator`.
//!
//! Where sentencepiece and Hugging Face's form of the same vocabulary part, this is Hugging Face's: a run of spaces longer than
//! the longest token of spaces is cut by the merges, and the `▁` before a text goes to the first piece that is no added token.

use std::{cmp::Reverse, collections::HashMap};

use tokenizers::{
    AddedToken, DecoderWrapper, Result, Tokenizer,
    decoders::{byte_fallback::ByteFallback, byte_level::ByteLevel, fuse::Fuse, sequence::Sequence, strip::Strip},
    models::bpe::{BPE, BpeBuilder, Vocab},
    normalizers::{self, Prepend, Replace},
};

use super::{
    GgufError,
    architecture::Architecture,
    file::GgufFile,
    pre_tokenizers::{self, PreTokenizer},
};

/// What `tokenizer.ggml.token_type` calls them.
const NORMAL: f64 = 1.0;
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;
const UNUSED: f64 = 5.0;
const BYTE: f64 = 6.0;

/// What `SentencePiece` writes for a space.
const SPACE: &str = "▁";

/// Builds the tokenizer of a file.
pub fn tokenizer(file: &GgufFile, architecture: &Architecture) -> std::result::Result<Tokenizer, GgufError> {
    let key = "tokenizer.ggml.model";
    let vocabulary = Vocabulary::read(file)?;
    match file.text(key)?.ok_or_else(|| absent(file, key))? {
        "gpt2" => vocabulary.byte_level(),
        "llama" => vocabulary.sentence_piece(architecture.gemma),
        other => Err(GgufError::Tokenizer {
            path: file.path.clone(),
            key,
            found: other.to_owned(),
            known: "`gpt2` (byte-level BPE) and `llama` (SentencePiece)".to_owned(),
        }),
    }
}

fn absent(file: &GgufFile, key: &str) -> GgufError {
    GgufError::Absent { path: file.path.clone(), key: key.to_owned() }
}

/// The tokens of a file by their ids, and what kind each is.
struct Vocabulary<'a> {
    file: &'a GgufFile,
    tokens: Vec<&'a str>,
    kinds: Vec<f64>,
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile) -> std::result::Result<Self, GgufError> {
        let (tokens_key, kinds_key) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
        let tokens = file.texts(tokens_key)?.ok_or_else(|| absent(file, tokens_key))?;
        if u32::try_from(tokens.len()).is_err() {
            return Err(file.metadata_error(tokens_key, "fewer than 2^32 tokens"));
        }
        let kinds = file.numbers(kinds_key, "one number for every token")?.ok_or_else(|| absent(file, kinds_key))?;
        if kinds.len() != tokens.len() {
            return Err(file.metadata_error(kinds_key, "one number for every token"));
        }
        Ok(Self { file, tokens, kinds })
    }

    /// Every token that text can become, with its id and kind. Unused ones pad the embedding; some files repeat an empty one.
    fn used(&self) -> impl Iterator<Item = (u32, &'a str, f64)> {
        let all = self.tokens.iter().zip(&self.kinds).zip(0..);
        all.map(|((&token, &kind), id)| (id, token, kind))
            .filter(|(_, token, kind)| *kind != UNUSED && !token.is_empty())
    }

    /// The model, its two inputs checked: the library takes for granted that no token is there twice, and merges make one.
    fn model(
        &self,
        tokens: impl Iterator<Item = (u32, String)>,
        merges: Vec<(String, String)>,
        settings: impl Fn(BpeBuilder) -> BpeBuilder,
    ) -> std::result::Result<BPE, GgufError> {
        let mut ids = Vocab::default();
        for (id, token) in tokens {
            if let Some(twin) = ids.insert(token, id) {
                return Err(self.broken(format!("the tokens {twin} and {id} are the same")));
            }
        }
        let unknown = |(left, right): &&(String, String)| {
            ![left, right, &format!("{left}{right}")].into_iter().all(|token| ids.contains_key(token))
        };
        if let Some((left, right)) = merges.iter().find(unknown) {
            return Err(self.broken(format!("it merges `{left}` and `{right}`, but not all three are tokens")));
        }
        settings(BPE::builder().vocab_and_merges(ids, merges)).build().map_err(|error| self.failed(&error))
    }

    fn broken(&self, problem: String) -> GgufError {
        GgufError::Vocabulary { path: self.file.path.clone(), problem }
    }

    fn failed(&self, error: &tokenizers::Error) -> GgufError {
        self.broken(error.to_string())
    }

    /// Byte-level BPE, as GPT-2 began it: tokens are spelled in 256 printable letters, one for every byte.
    fn byte_level(&self) -> std::result::Result<Tokenizer, GgufError> {
        let key = "tokenizer.ggml.pre";
        let pre = self.file.text(key)?.ok_or_else(|| absent(self.file, key))?;
        let cut = PreTokenizer::of(pre).ok_or_else(|| GgufError::Tokenizer {
            path: self.file.path.clone(),
            key,
            found: pre.to_owned(),
            known: pre_tokenizers::known(),
        })?;
        let tokens = self.used().map(|(id, token, _)| (id, token.to_owned()));
        let model = self.model(tokens, self.listed_merges()?, |bpe| bpe.ignore_merges(cut.whole_words))?;
        let mut tokenizer = Tokenizer::new(model);
        let finish = |tokenizer: &mut Tokenizer| -> Result<()> {
            tokenizer.with_normalizer(cut.normalizer())?;
            tokenizer.with_pre_tokenizer(Some(cut.pre_tokenizer()?));
            tokenizer.with_decoder(Some(ByteLevel::default()));
            self.add_special(tokenizer, str::to_owned)
        };
        finish(&mut tokenizer).map_err(|error| self.failed(&error))?;
        Ok(tokenizer)
    }

    fn listed_merges(&self) -> std::result::Result<Vec<(String, String)>, GgufError> {
        let key = "tokenizer.ggml.merges";
        // An empty list is not written; without one, no token of several letters can ever be reached.
        let Some(merges) = self.file.texts(key)? else {
            let merged = self.used().any(|(_, token, kind)| kind == NORMAL && token.chars().nth(1).is_some());
            return if merged { Err(absent(self.file, key)) } else { Ok(Vec::new()) };
        };
        let pair = |merge: &str| {
            // A token may begin with the space itself.
            let first = merge.chars().next()?.len_utf8();
            let (left, right) = (&merge[..first], &merge[first..]);
            let (rest, right) = right.split_once(' ')?;
            Some((format!("{left}{rest}"), right.to_owned()))
        };
        let pairs = merges
            .iter()
            .map(|merge| pair(merge).ok_or_else(|| self.broken(format!("its merge `{merge}` is no pair of tokens"))));
        pairs.collect()
    }

    /// `SentencePiece`'s BPE: the text is one word with `▁` for spaces, and what no token spells falls back to its bytes.
    fn sentence_piece(&self, gemma: bool) -> std::result::Result<Tokenizer, GgufError> {
        let prefix = self.file.switch("tokenizer.ggml.add_space_prefix")?.unwrap_or(!gemma);
        // llama.cpp writes spaces into user-defined tokens; everywhere else they are `▁`.
        let spelled = |token: &str| token.replace(' ', SPACE);
        let tokens: Vec<(u32, String, f64)> = self.used().map(|(id, token, kind)| (id, spelled(token), kind)).collect();
        let merges = self.implied_merges(&tokens, gemma)?;
        let unknown = tokens.iter().find(|(_, _, kind)| *kind == UNKNOWN).or_else(|| {
            let id = self.file.whole("tokenizer.ggml.unknown_token_id").ok().flatten()?;
            tokens.iter().find(|(other, ..)| u64::from(*other) == id)
        });
        let unknown = unknown.map(|(_, token, _)| token.clone());
        let falls_back = tokens.iter().any(|(_, _, kind)| *kind == BYTE);
        let ids = tokens.into_iter().map(|(id, token, _)| (id, token));
        let model = self.model(ids, merges, |bpe| {
            let bpe = bpe.byte_fallback(falls_back).fuse_unk(true);
            unknown.iter().fold(bpe, |bpe, token| bpe.unk_token(token.clone()))
        })?;
        let mut tokenizer = Tokenizer::new(model);
        let finish = |tokenizer: &mut Tokenizer| -> Result<()> {
            let mut steps = vec![Replace::new(" ", SPACE)?.into()];
            let mut back: Vec<DecoderWrapper> =
                vec![Replace::new(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
            if prefix {
                steps.insert(0, Prepend::new(SPACE.to_owned()).into());
                back.push(Strip::new(' ', 1, 0).into());
            }
            tokenizer.with_normalizer(Some(normalizers::Sequence::new(steps)))?;
            tokenizer.with_decoder(Some(Sequence::new(back)));
            self.add_special(tokenizer, spelled)
        };
        finish(&mut tokenizer).map_err(|error| self.failed(&error))?;
        Ok(tokenizer)
    }

    /// The merges that a vocabulary implies: every way of cutting a token into two others, the likeliest token first, in the
    /// order in which transformers' converter has them. Control tokens and bytes come from no merge.
    fn implied_merges(
        &self,
        tokens: &[(u32, String, f64)],
        by_id: bool,
    ) -> std::result::Result<Vec<(String, String)>, GgufError> {
        let key = "tokenizer.ggml.scores";
        let scores = self.file.numbers(key, "one number for every token")?.ok_or_else(|| absent(self.file, key))?;
        if scores.len() != self.tokens.len() || scores.iter().any(|score| !score.is_finite()) {
            return Err(self.file.metadata_error(key, "one number for every token"));
        }
        let pieces = || tokens.iter().filter(|(_, _, kind)| ![CONTROL, UNKNOWN, BYTE].contains(kind));
        let ids: HashMap<&str, u32> = pieces().map(|(id, token, _)| (token.as_str(), *id)).collect();
        let mut merges = Vec::new();
        for (id, token, _) in pieces() {
            let mut cuts: Vec<_> = token
                .char_indices()
                .skip(1)
                .map(|(at, _)| token.split_at(at))
                .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
                .collect();
            cuts.sort_unstable();
            let rank = if by_id { -f64::from(*id) } else { scores[*id as usize] };
            merges.extend(cuts.into_iter().map(|(_, _, left, right)| (rank, left, right)));
        }
        // Of equals, the one with the longer left half; a stable sort, for what is equal in all of it stays in order.
        let length = |text: &str| Reverse(text.chars().count());
        merges.sort_by(|a, b| {
            let lengths = |merge: &(f64, &str, &str)| (length(merge.1), length(merge.2));
            b.0.total_cmp(&a.0).then_with(|| lengths(a).cmp(&lengths(b)))
        });
        Ok(merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect())
    }

    /// Control tokens and user-defined ones are found in the text before anything else, and stay whole.
    fn add_special(&self, tokenizer: &mut Tokenizer, spelled: impl Fn(&str) -> String) -> Result<()> {
        let added = self.used().filter(|(_, _, kind)| [CONTROL, USER_DEFINED].contains(kind));
        let added = added.map(|(_, token, kind)| AddedToken::from(spelled(token), kind == CONTROL).normalized(false));
        tokenizer.add_tokens(added)?;
        Ok(())
    }
}
