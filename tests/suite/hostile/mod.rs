//! Files from strangers that are damaged or made to do harm, met by every command that reads such files. Each is refused in words that name
//! the file and the way out, in a process that may use 256 MB, without a panic, and without leaving anything behind.

mod adapt;
mod atlas;
mod masks;
mod model;

use std::{
    fmt::Write as _,
    process::{Command, Output},
};

use crate::{
    harness::{Said, Sandbox, bytes_below, said},
    zips,
};

/// Memory that a refused command may have, in kB: of data, so that what is reserved and not used does not count. NVIDIA's libraries ask for as
/// much again before a program for GPUs begins.
const LIMIT: usize = if cfg!(feature = "cuda") { 512 << 10 } else { 256 << 10 };

/// Runs the program under the limit, which ends it by a signal where it asks for more; [`said`] fails on signals and on panics.
fn limited(sandbox: &Sandbox, arguments: &str) -> Said {
    said(&sandbox.path(""), &with_memory(LIMIT, sandbox, arguments))
}

fn with_memory(limit: usize, sandbox: &Sandbox, arguments: &str) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -d {limit}; exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_neuroglot"));
    command.current_dir(sandbox.path("")).args(arguments.split_whitespace());
    command.env("RAYON_NUM_THREADS", "1").env_remove("RUST_BACKTRACE").output().unwrap()
}

/// Words of which one at least says what to do.
const WAYS_OUT: [&str; 17] = [
    "download",
    "save `",
    "but this config needs",
    "another model's",
    "again",
    "choose",
    "take ",
    "Take ",
    "name ",
    "convert",
    "is wanted",
    "are wanted",
    "are read",
    "use a newer",
    "known are",
    "CONTRIBUTING",
    "unless you trust",
];

/// What was refused and in which words, and what was not as it should be.
#[derive(Default)]
struct Log {
    words: String,
    wrong: Vec<String>,
    seen: usize,
}

impl Log {
    /// Runs a command that must be refused for the sake of a file.
    fn refused(&mut self, sandbox: &Sandbox, name: &str, arguments: &str, file: &str) {
        let before = bytes_below(&sandbox.path(""));
        let output = with_memory(LIMIT, sandbox, arguments);
        self.seen += 1;
        let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let words = words.replace(sandbox.path("").to_str().unwrap(), "");
        writeln!(self.words, "{name}: {}", words.trim_end().trim_start_matches("error: ")).unwrap();
        let mut wrong = |is: bool, what: &str| {
            if is {
                self.wrong.push(format!("{name}, {arguments}: {what}: {words}"));
            }
        };
        wrong(output.status.code() != Some(1) || words.contains("panicked"), &format!("ends with {}", output.status));
        wrong(!words.contains(file), &format!("does not name {file}"));
        wrong(!WAYS_OUT.iter().any(|way| words.contains(way)), "says no way out");
        wrong(words.len() > 4_000 || words.chars().any(|c| c.is_control() && c != '\n'), "is no text for a terminal");
        wrong(bytes_below(&sandbox.path("")) != before, "something was written");
    }

    /// Asserts that all was as it should be; gives the words.
    fn done(self, at_least: usize) -> String {
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
        assert!(self.seen >= at_least, "only {} cases", self.seen);
        if std::env::var_os("NEUROGLOT_SHOW").is_some() {
            println!("{}", self.words);
        }
        self.words
    }
}

const PROFILE: &str = "profile --model model --corpus dir:text --tokens 64 --context 16 --out new";

/// An atlas with everything that an identification makes, and a profile beside it.
struct Whole {
    sandbox: Sandbox,
}

impl Whole {
    fn new() -> Self {
        Self { sandbox: Sandbox::new().with_atlas() }
    }

    /// The same files in another folder.
    fn copy(&self) -> Sandbox {
        let copy = Sandbox::empty();
        for (file, bytes) in bytes_below(&self.sandbox.path("")) {
            copy.write(file.to_str().unwrap(), bytes);
        }
        copy
    }
}

/// A Parquet table with our schema's name in its metadata.
fn parquet(schema: &str, columns: Vec<(&str, arrow::array::ArrayRef)>, times: usize) -> Vec<u8> {
    use parquet::{arrow::ArrowWriter, file::metadata::KeyValue, file::properties::WriterProperties};
    let batch = arrow::array::RecordBatch::try_from_iter(columns).unwrap();
    let pairs = [("neuroglot.schema", schema), ("neuroglot.schema_version", "1.0")];
    let pairs = pairs.into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned())).collect();
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(pairs))
        .set_compression(parquet::basic::Compression::ZSTD(parquet::basic::ZstdLevel::default()))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    (0..times).for_each(|_| writer.write(&batch).unwrap());
    writer.close().unwrap();
    bytes
}

/// A safetensors file of a header and data.
fn safetensors(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Headers that no reader of safetensors may take for good, for a tensor of this name and number format.
fn hostile_safetensors(name: &str, dtype: &str) -> Vec<(&'static str, Vec<u8>)> {
    let one = |shape: &str, from: &str, to: &str| {
        format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    vec![
        ("nothing", Vec::new()),
        ("seven bytes", vec![1; 7]),
        ("a header of 2^64 - 1 bytes", vec![0xff; 64]),
        ("a header of a hundred megabytes", [&99_999_999u64.to_le_bytes()[..], b"{}"].concat()),
        ("a header longer than the file", [&1000u64.to_le_bytes()[..], b"{}"].concat()),
        ("a header that is no JSON", safetensors("{", &[])),
        ("a header that is a list", safetensors("[]", &[])),
        ("a header that is no text", safetensors([b'{', 0xff, 0xfe, b'}'], &[])),
        ("a header a million lists deep", safetensors(format!("{{\"a\":{}", "[".repeat(1_000_000)), &[])),
        ("a shape that overflows", safetensors(one("[4294967296,4294967296]", "0", "0"), &[])),
        ("a shape that overflows in bytes", safetensors(one("[4611686018427387905]", "0", "4"), &[0; 4])),
        ("a tensor behind the end", safetensors(one("[2]", "0", "1000000"), &[0; 8])),
        (
            "a tensor at the end of all numbers",
            safetensors(one("[2]", "18446744073709551600", "18446744073709551615"), &[0; 8]),
        ),
        ("a tensor that ends before it begins", safetensors(one("[2]", "8", "0"), &[0; 8])),
        ("a negative shape", safetensors(one("[-1]", "0", "8"), &[0; 8])),
        ("a shape of 2^70", safetensors(one("[1180591620717411303424]", "0", "8"), &[0; 8])),
        ("offsets in words", safetensors(one("[2]", "\"a\"", "\"b\""), &[0; 8])),
        ("a hole before the tensor", safetensors(one("[1]", "100", "104"), &[0; 104])),
        ("two tensors at one place", {
            let entry = |name: &str| format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#);
            safetensors(format!("{{{},{}}}", entry(name), entry("other")), &[0; 8])
        }),
        ("a format of numbers that nobody has", safetensors(one("[2]", "0", "8").replace(dtype, "Q4"), &[0; 8])),
    ]
}

#[test]
fn the_limit_is_one_that_whole_files_keep_to() {
    let sandbox = Sandbox::new();
    sandbox.write("masks.pth", zips::archive(&masks::masks()));
    let mut log = String::new();
    for arguments in [
        "import masks.pth --model model --languages cy,mt,fr --out imported",
        "verify imported",
        "mask imported --language all --format pth --out all.pth",
        "compare imported",
        "site imported --out site",
        PROFILE,
        "identify new --out atlas --resamples 20",
        "verify atlas",
    ] {
        let said = limited(&sandbox, arguments);
        writeln!(log, "{arguments}: {}", said.code).unwrap();
        assert_eq!(said.code, 0, "{log}{}", said.text());
    }
    // The limit is kept: with much less, the same commands are ended.
    assert!(!with_memory(4 << 10, &sandbox, "verify atlas").status.success());
}
