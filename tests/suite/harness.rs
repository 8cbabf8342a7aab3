//! A folder of its own for every test, the tiny model in it to be damaged, and the real program run inside it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

/// Two layers of 48 neurons, 256 positions, and 64 token ids: one for every ASCII letter and a few signs.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-llama/scaled");
/// The same shape in four shards behind an index, with biases.
pub const SHARDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-llama/biased");

/// What the program said and how it ended.
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Everything that a person sees, in the form of the snapshots. Hashes are cut out: they differ where floats do. So is what a program
    /// built for GPUs says where there is none.
    pub fn text(&self) -> String {
        let stdout = if self.stdout.is_empty() { String::new() } else { format!("stdout: {}", self.stdout) };
        let for_gpus = cfg!(any(feature = "cuda", feature = "metal"));
        let lines =
            self.stderr.split_inclusive('\n').filter(|line| !(for_gpus && line.starts_with("no GPU can be used")));
        without_hashes(&format!("exit code {}\n{stdout}{}", self.code, lines.collect::<String>()))
    }

    /// Asserts that the command did what was asked.
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.text());
        self
    }
}

/// Runs the program in a folder. That it does not panic, whatever it is given, is asserted here for every test.
pub fn neuroglot<S: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = S>) -> Said {
    said(folder, &command(folder, arguments).output().unwrap())
}

/// Every file below a folder, by its path from there.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every file below a folder with its content.
pub fn bytes_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files_below(folder).into_iter().map(|file| (file.clone(), fs::read(folder.join(file)).unwrap())).collect()
}

/// The program in a folder, not started yet; nothing of this machine's terminal or environment reaches it.
pub fn command<S: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neuroglot"));
    command.current_dir(folder).args(arguments).env("RAYON_NUM_THREADS", "1");
    for variable in ["NEUROGLOT_LOG", "RUST_LOG", "RUST_BACKTRACE", "COLUMNS", "LANG"] {
        command.env_remove(variable);
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HF_") || name.starts_with("HUGGING")) {
        command.env_remove(name);
    }
    // No test asks a Hub but its own.
    command.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", folder.join("hf"));
    command
}

/// What an ended process said, with `[DIR]` for the folder that it ran in.
pub fn said(folder: &Path, output: &Output) -> Said {
    let real = folder.canonicalize().unwrap();
    let text = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.replace(real.to_str().unwrap(), "[DIR]").replace(folder.to_str().unwrap(), "[DIR]")
    };
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    Said { code: output.status.code().unwrap_or_else(|| panic!("{}: {stderr}", output.status)), stdout, stderr }
}

/// `[HASH]` for every word of 16 or 64 hexadecimal digits: a run's id or a SHA-256.
fn without_hashes(text: &str) -> String {
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let word = |word: &str| {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_hash =
            [16, 64].contains(&digits.len()) && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hash { format!("[HASH]{}", &word[digits.len()..]) } else { word.to_owned() }
    };
    words.map(word).collect()
}

/// A tensor of a weight file.
#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A temporary folder with the tiny model as `model/` and text in three languages as `text/`.
pub struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub fn empty() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.model(TINY);
        for (seed, code) in ["mlt_Latn", "cym_Latn", "fra_Latn"].iter().enumerate() {
            sandbox.write(&format!("text/{code}.txt"), prose(seed, 12));
        }
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Keeps the first half of a file.
    pub fn halve(&self, name: &str) {
        let bytes = self.read(name);
        self.write(name, &bytes[..bytes.len() / 2]);
    }

    /// Puts a checkpoint into `model/`, in the place of the one that is there.
    pub fn model(&self, fixture: &str) {
        let _ = fs::remove_dir_all(self.path("model"));
        for entry in fs::read_dir(fixture).unwrap() {
            let path = entry.unwrap().path();
            self.write(&format!("model/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
        }
    }

    /// Changes a JSON file.
    pub fn json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&self.read(name)).unwrap();
        change(&mut json);
        self.write(name, serde_json::to_vec(&json).unwrap());
    }

    /// Changes one field of the model's config.
    pub fn config(&self, field: &str, value: impl Into<Value>) {
        self.json("model/config.json", |config| config[field] = value.into());
    }

    /// Changes the tensors of the model's weights.
    pub fn weights(&self, change: impl FnOnce(&mut BTreeMap<String, Stored>)) {
        let bytes = self.read("model/model.safetensors");
        let stored = |view: &TensorView| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = file.iter().map(|(name, view)| (name.to_owned(), stored(&view))).collect();
        change(&mut tensors);
        self.tensors("model/model.safetensors", &tensors);
    }

    /// Writes a safetensors file.
    pub fn tensors(&self, name: &str, tensors: &BTreeMap<String, Stored>) {
        let views = tensors.iter().map(|(name, Stored { dtype, shape, bytes })| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        self.write(name, safetensors::serialize(views, None).unwrap());
    }

    /// Prepared windows of token ids for the `ids:` corpus in `ids/`.
    pub fn ids(&self, code: &str, context: usize, ids: &[u32]) {
        let bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let tensor = Stored { dtype: Dtype::U32, shape: vec![ids.len() / context, context], bytes };
        self.tensors(&format!("ids/{code}.safetensors"), &BTreeMap::from([("input_ids".to_owned(), tensor)]));
    }

    pub fn run(&self, arguments: &str) -> Said {
        neuroglot(self.folder.path(), arguments.split_whitespace())
    }

    /// `profile` of the three languages into `out/`: 64 tokens in windows of 16, except for the options given.
    pub fn profile(&self, options: &[(&str, &str)]) -> Said {
        neuroglot(self.folder.path(), profile_arguments(options))
    }

    /// A finished profile in `out/` and an atlas of it in `atlas/`.
    pub fn with_atlas(self) -> Self {
        self.profile(&[]).done();
        self.run("identify out --out atlas --top-rate 0.1 --resamples 20").done();
        self
    }

    /// Every file, by its path from here.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let from_here = |file: PathBuf| Path::new(folder).join(file).to_str().unwrap().to_owned();
        files_below(&self.path(folder)).into_iter().map(from_here).collect()
    }

    /// Asserts that a refused command left no half of a file, and in its output folder at most the head of a run.
    pub fn holds_nothing_half_written(&self) {
        let files = self.files("");
        assert!(!files.iter().any(|file| Path::new(file).extension() == Some(OsStr::new("part"))), "{files:?}");
        let out: Vec<_> = self.files("out").into_iter().filter(|file| file != "out/profile.json").collect();
        assert!(out.is_empty(), "{out:?}");
    }
}

/// The arguments of [`Sandbox::profile`].
pub fn profile_arguments(options: &[(&str, &str)]) -> Vec<String> {
    let usual =
        [("--model", "model"), ("--corpus", "dir:text"), ("--tokens", "64"), ("--context", "16"), ("--out", "out")];
    let kept = usual.iter().filter(|(name, _)| options.iter().all(|(other, _)| other != name));
    let options = kept.chain(options).flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]);
    std::iter::once("profile".to_owned()).chain(options).collect()
}

/// Paragraphs of letters, other ones for every seed: more than 64 tokens of the tiny tokenizer.
pub fn prose(seed: usize, paragraphs: usize) -> String {
    let word =
        |n: usize| ["sea", "olive", "stone", "a", "the bell", "limestone, lime", "Of"][(n * (seed + 3) + n / 7) % 7];
    let paragraph = |n: usize| (n..n + 4 + n % 3).map(word).collect::<Vec<_>>().join(" ") + ".\n";
    (0..paragraphs).map(paragraph).collect::<Vec<_>>().join("\n")
}
