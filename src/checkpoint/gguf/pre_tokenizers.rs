//! How byte-level tokenizers cut text into words before they merge: the rows of `tokenizer.ggml.pre`. The patterns are those
//! of the models' own tokenizer.json, which llama.cpp names and rewrites for its regex engine. A new one is a row.

use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, Result, SplitDelimiterBehavior,
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// One way of cutting.
pub struct PreTokenizer {
    /// What `tokenizer.ggml.pre` calls it.
    names: &'static [&'static str],
    cut: Cut,
    /// Whether the text is composed first (Unicode's NFC).
    composed: bool,
    /// Whether a word that is a token is that token, whatever the merges.
    pub whole_words: bool,
}

enum Cut {
    /// GPT-2's pattern, after every digit was cut off or not.
    Gpt2 { digits: bool },
    /// A pattern whose matches and gaps are the words.
    Pattern(&'static str),
}

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

static PRE_TOKENIZERS: [PreTokenizer; 6] = [
    PreTokenizer {
        names: &["gpt-2", "default"],
        cut: Cut::Gpt2 { digits: false },
        composed: false,
        whole_words: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact"],
        cut: Cut::Gpt2 { digits: true },
        composed: false,
        whole_words: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        cut: Cut::Pattern(LLAMA3),
        composed: false,
        whole_words: true,
    },
    PreTokenizer { names: &["smaug-bpe"], cut: Cut::Pattern(LLAMA3), composed: false, whole_words: false },
    PreTokenizer { names: &["qwen2"], cut: Cut::Pattern(QWEN2), composed: true, whole_words: false },
    PreTokenizer { names: &["tekken"], cut: Cut::Pattern(TEKKEN), composed: false, whole_words: true },
];

/// The names that are known.
pub fn known() -> String {
    PRE_TOKENIZERS.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", ")
}

impl PreTokenizer {
    /// The row of a name.
    pub fn of(name: &str) -> Option<&'static Self> {
        PRE_TOKENIZERS.iter().find(|row| row.names.contains(&name))
    }

    pub fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.composed.then(|| NFC.into())
    }

    pub fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper> {
        let bytes = |gpt2| ByteLevel::new(false, true, gpt2).into();
        let steps = match self.cut {
            Cut::Gpt2 { digits: false } => vec![bytes(true)],
            Cut::Gpt2 { digits: true } => vec![Digits::new(true).into(), bytes(true)],
            Cut::Pattern(pattern) => {
                let pattern = SplitPattern::Regex(pattern.to_owned());
                vec![Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into(), bytes(false)]
            }
        };
        Ok(Sequence::new(steps).into())
    }
}
