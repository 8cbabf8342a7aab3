//! Files from strangers that are damaged or made to do harm, met by every command that reads such files. Each is refused in words that name
//! the file and the way out, in a process that may use 256 MB, without a panic, and without leaving anything behind.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use neuroglot::output::sha256;
use serde_json::{Value, json};

use crate::{
    gguf_parts::{self, Parts},
    harness::{Sandbox, TINY, bytes_below, said},
    zips::{self, End, Entry},
};

/// Memory that a refused command may have, in kB: of data, so that what is reserved and not used does not count. NVIDIA's libraries bring theirs.
const LIMIT: usize = if cfg!(feature = "cuda") { 768 << 10 } else { 256 << 10 };

/// Runs the program under the limit, which ends it by a signal where it asks for more; [`said`] fails on signals and on panics.
fn limited(sandbox: &Sandbox, arguments: &str) -> crate::harness::Said {
    said(&sandbox.path(""), &with_memory(LIMIT, sandbox, arguments))
}

fn with_memory(limit: usize, sandbox: &Sandbox, arguments: &str) -> std::process::Output {
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

// Files of published masks.

/// One of torch's own files, entry by entry.
fn masks() -> Vec<Entry> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/published-masks/torch-2.15.0.pth");
    zips::entries(&fs::read(file).unwrap())
}

fn entry<'a>(entries: &'a mut [Entry], end: &str) -> &'a mut Entry {
    entries.iter_mut().find(|entry| entry.name.ends_with(end.as_bytes())).unwrap()
}

fn changed(change: impl FnOnce(&mut Vec<Entry>)) -> Vec<u8> {
    let mut entries = masks();
    change(&mut entries);
    zips::archive(&entries)
}

/// The file with another pickle in it.
fn pickled(pickle: impl AsRef<[u8]>) -> Vec<u8> {
    changed(|entries| entry(entries, "/data.pkl").data = pickle.as_ref().to_vec())
}

/// A pickle of protocol 2 around opcodes.
fn opcodes(codes: impl AsRef<[u8]>) -> Vec<u8> {
    pickled([b"\x80\x02", codes.as_ref()].concat())
}

/// The file with a part of its pickle replaced, wherever it stands.
fn replaced(from: &[u8], to: &[u8]) -> Vec<u8> {
    changed(|entries| {
        let pickle = &mut entry(entries, "/data.pkl").data;
        let at = pickle.windows(from.len()).position(|window| window == from).expect("the pickle has such a part");
        pickle.splice(at..at + from.len(), to.iter().copied());
    })
}

/// `[[tensor, tensor]] * 3` of one storage with the key `k`, of so many values, as so many from an offset on.
fn tensor(key: &str, held: i64, offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let number = |n: i64| [&[0x8a, 8][..], &n.to_le_bytes()].concat();
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let tuple =
        |numbers: &[i64]| [b"(".to_vec(), numbers.iter().flat_map(|&n| number(n)).collect(), b"t".to_vec()].concat();
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nLongStorage\n".to_vec(),
        text(key),
        text("cpu"),
        number(held),
        b"tQ".to_vec(),
    ];
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        number(offset),
        tuple(size),
        tuple(stride),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// A file of three languages of two layers, every layer the same tensor over one storage of these values.
fn alike(tensor: &[u8], values: &[i64]) -> Vec<u8> {
    let language = [b"](", tensor, tensor, b"e"].concat();
    let pickle = [b"\x80\x02](", language.repeat(3).as_slice(), b"e."].concat();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    zips::archive(&[
        Entry::stored("m/data.pkl", pickle),
        Entry::stored("m/data/0", bytes),
        Entry::stored("m/version", "3\n"),
    ])
}

/// Layers of these indices.
fn indices(values: &[i64]) -> Vec<u8> {
    alike(&tensor("0", values.len() as i64, 0, &[values.len() as i64], &[1]), values)
}

fn hostile_pickles() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let call = |name: &[u8]| [b"c", name, b"(", &text("touch pwned"), b"tR."].concat();
    let short = |text: &str| [&[0x8c, text.len() as u8][..], text.as_bytes()].concat();
    let laughs: Vec<u8> = std::iter::once(b"]q\x00".to_vec())
        .chain((1..=40u8).map(|n| [b"](h", &[n - 1][..], b"h", &[n - 1], b"eq", &[n]].concat()))
        .flatten()
        .chain(*b".")
        .collect();
    vec![
        ("a pickle that runs a program", opcodes(call(b"os\nsystem\n"))),
        ("a pickle that runs code", opcodes(call(b"builtins\neval\n"))),
        (
            "a pickle that calls by the stack",
            pickled([b"\x80\x04", &short("posix")[..], &short("system"), b"\x93(X\x01\x00\x00\x00xtR."].concat()),
        ),
        ("a pickle inside a pickle", opcodes(call(b"torch.storage\n_load_from_bytes\n"))),
        ("an array of numpy", opcodes(call(b"numpy.core.multiarray\n_reconstruct\n"))),
        ("a name with a terminal's commands in it", opcodes(call(b"os\n\x1b[2J\x07system\n"))),
        ("a class of torch's own", opcodes(call(b"torch\nTensor\n"))),
        ("an object that is built", opcodes(b"](}b.")),
        ("an object that is made anew", opcodes(b"ccollections\nOrderedDict\n)\x81.")),
        ("an instance by name", opcodes(b"(ios\nsystem\n.")),
        ("a registered extension", opcodes(b"\x82\x01.")),
        ("a reference outside the file", opcodes(b"P../../secret\n.")),
        ("a dictionary", opcodes(b"}.")),
        ("a set", pickled(b"\x80\x04\x8f.")),
        ("a fraction", opcodes(b"G\x3f\xf0\x00\x00\x00\x00\x00\x00.")),
        ("a text of four gigabytes", opcodes(b"X\xff\xff\xff\xffabc.")),
        ("a text that is no text", opcodes(b"X\x02\x00\x00\x00\xff\xfe.")),
        ("an integer of 255 bytes", opcodes([&[0x8a, 255][..], &[1; 255], b"."].concat())),
        ("an integer of two gigabytes", opcodes(b"\x8b\xff\xff\xff\x7f.")),
        ("bytes of 2^63", pickled(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.")),
        ("a frame that ends early", pickled(b"\x80\x04\x95\xff\xff")),
        ("an older protocol", pickled(b"(lp0\n.")),
        ("a protocol of the future", pickled(b"\x80\x09].")),
        ("a value that was not kept", opcodes(b"h\x07.")),
        ("more taken than there is", opcodes(b"]\x87.")),
        ("no mark to end", opcodes(b"]e.")),
        ("a mark that stays", opcodes(b"](.")),
        ("no end", opcodes(b"](")),
        ("more after the end", opcodes(b"].cos\nsystem\n")),
        ("two values at the end", opcodes(b"]].")),
        ("nothing at the end", opcodes(b".")),
        ("an empty pickle", pickled(b"")),
        ("four million lists", opcodes([&b"]".repeat(5_000_000)[..], b"."].concat())),
        ("seven million marks", opcodes([&b"(".repeat(7_000_000)[..], b"."].concat())),
        (
            "seven million values kept",
            opcodes(
                [
                    b"]".to_vec(),
                    (0..1_400_000u32).flat_map(|n| [b"r".to_vec(), n.to_le_bytes().to_vec()].concat()).collect(),
                ]
                .concat(),
            ),
        ),
        ("a pickle of ten megabytes", opcodes(b"N".repeat(10_000_000))),
        ("lists of lists of lists, two to the fortieth", opcodes(laughs)),
        ("a list that holds itself", opcodes(b"]q\x00h\x00a.")),
        ("a number for a language", opcodes(b"](K\x01K\x02K\x03e.")),
        ("a number for a layer", opcodes(b"]((K\x01te.")),
        ("a tensor of a negative size", alike(&tensor("0", 4, 0, &[-1], &[1]), &[0, 1, 2, 3])),
        ("a tensor before its storage", alike(&tensor("0", 4, -1, &[2], &[1]), &[0, 1, 2, 3])),
        ("a tensor behind its storage", alike(&tensor("0", 4, 3, &[2], &[1]), &[0, 1, 2, 3])),
        ("a tensor with a step of 2^63", alike(&tensor("0", 4, 1, &[3], &[i64::MAX]), &[0, 1, 2, 3])),
        ("a tensor with a step of nothing", alike(&tensor("0", 4, 0, &[4], &[0]), &[0, 1, 2, 3])),
        ("a tensor of two dimensions", alike(&tensor("0", 4, 0, &[2, 2], &[2, 1]), &[0, 1, 2, 3])),
        ("a tensor of no dimension", alike(&tensor("0", 4, 0, &[], &[]), &[0, 1, 2, 3])),
        ("a storage of 2^62 values", alike(&tensor("0", 1 << 62, 0, &[1], &[1]), &[0])),
        (
            "a storage of 2^61 + 1 values, whose bytes are 8 again",
            alike(&tensor("0", (1 << 61) + 1, 0, &[1], &[1]), &[0]),
        ),
        ("a storage that leads out of the archive", alike(&tensor("../../../etc/passwd", 1, 0, &[1], &[1]), &[0])),
        ("a storage that is not there", alike(&tensor("7", 1, 0, &[1], &[1]), &[0])),
        ("a storage that is too short", alike(&tensor("0", 3, 0, &[3], &[1]), &[0, 1])),
        ("a storage that is too long", alike(&tensor("0", 1, 0, &[1], &[1]), &[0, 1])),
        ("a storage in two ways", {
            let (one, other) = (tensor("0", 2, 0, &[2], &[1]), tensor("0", 1, 0, &[1], &[1]));
            zips::archive(&[
                Entry::stored("m/data.pkl", [b"\x80\x02]((", &one[..], &other, b"ee."].concat()),
                Entry::stored("m/data/0", [0; 16]),
            ])
        }),
        ("indices in fractions", replaced(b"LongStorage", b"FloatStorage")),
        ("a negative index", indices(&[-1, 3])),
        ("an index of 2^40", indices(&[1 << 40])),
        ("an index beyond the layer", indices(&[48])),
        ("indices out of order", indices(&[3, 2])),
        ("an index twice", indices(&[3, 3])),
        ("more indices than neurons", indices(&(0..49).collect::<Vec<_>>())),
        ("no languages", opcodes(b"].")),
        ("languages without layers", opcodes(b"](]]]e.")),
    ]
}

fn hostile_archives() -> Vec<(&'static str, Vec<u8>)> {
    let whole = zips::archive(&masks());
    let named = |name: &'static str| changed(|entries| entries.push(Entry::stored(name, "x")));
    let with_end = |end: End| zips::archive_with(&masks(), &end);
    vec![
        ("an empty file", Vec::new()),
        ("a page of a website", b"<!DOCTYPE html><title>404</title>".repeat(40)),
        ("a pointer of git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 390194\n".to_vec()),
        ("only the first bytes of an archive", b"PK\x03\x04".to_vec()),
        ("an archive without an entry", [&b"PK\x05\x06"[..], &[0; 18]].concat()),
        ("something before the archive", [b"#!/bin/sh\n".to_vec(), whole.clone()].concat()),
        ("an archive before the archive", [zips::archive(&[Entry::stored("x/y", "z")]), whole.clone()].concat()),
        ("65,535 entries declared", with_end(End { entries: Some(u16::MAX), ..End::default() })),
        ("2^63 entries declared", with_end(End { zip64: Some(1 << 63), ..End::default() })),
        ("2^32 entries declared", with_end(End { zip64: Some(1 << 32), ..End::default() })),
        ("one entry fewer declared", with_end(End { entries: Some(masks().len() as u16 - 1), ..End::default() })),
        ("a directory behind the end", with_end(End { directory: Some((0xffff_fff0, 400)), ..End::default() })),
        ("a directory at the beginning", with_end(End { directory: Some((0, 400)), ..End::default() })),
        (
            "an entry that is two",
            changed(|entries| entries.push(Entry { shares: Some(2), ..Entry::stored("x/data/99", "") })),
        ),
        (
            "a thousand entries that are one",
            changed(|entries| {
                for n in 0..1000 {
                    entries.push(Entry { shares: Some(4), ..Entry::stored(format!("x/data/{n}"), "") });
                }
            }),
        ),
        (
            "a name that stands twice",
            changed(|entries| {
                let twice = entries[4].clone();
                entries.push(twice);
            }),
        ),
        ("an entry above the archive", named("../evil")),
        ("an entry above its folder", named("torch-2.15.0/../../evil")),
        ("an entry of the system", named("/etc/cron.d/evil")),
        ("an entry as Windows writes it", named("torch-2.15.0\\..\\evil")),
        ("an entry with a null in its name", named("torch-2.15.0/data/0\0.png")),
        ("an entry beside the folder", named("elsewhere/data.pkl")),
        ("an entry in no folder", named("data.pkl")),
        (
            "a link",
            changed(|entries| {
                entries.push(Entry { mode: 0o120_777, ..Entry::stored("torch-2.15.0/link", "/etc/passwd") });
            }),
        ),
        ("an encrypted entry", changed(|entries| entry(entries, "/data/0").flags = 1)),
        ("an entry packed by bzip2", changed(|entries| entry(entries, "/data/0").method = 12)),
        ("an entry packed in no way", changed(|entries| entry(entries, "/data/0").method = 99)),
        (
            "another name before the data",
            changed(|entries| entry(entries, "/data/0").local_name = Some(b"torch-2.15.0/data/9".to_vec())),
        ),
        ("a check sum of other bytes", changed(|entries| entry(entries, "/data/0").sum = Some(0))),
        (
            "a pickle with the check sum of another",
            changed(|entries| entry(entries, "/data.pkl").sum = Some(0xdead_beef)),
        ),
        (
            "a bomb in the pickle's place",
            changed(|entries| {
                let zeros = std::io::Read::take(std::io::repeat(0), 1 << 30);
                *entry(entries, "/data.pkl") = Entry::deflated("torch-2.15.0/data.pkl", zeros, None);
            }),
        ),
        (
            "a bomb that says it is small",
            changed(|entries| {
                let zeros = std::io::Read::take(std::io::repeat(0), 1 << 30);
                *entry(entries, "/data.pkl") = Entry::deflated("torch-2.15.0/data.pkl", zeros, Some(400));
            }),
        ),
        (
            "a bomb in a storage's place",
            changed(|entries| {
                let zeros = std::io::Read::take(std::io::repeat(0), 1 << 30);
                *entry(entries, "/data/0") = Entry::deflated("torch-2.15.0/data/0", zeros, Some(32));
            }),
        ),
        ("a byte order that is not there", changed(|entries| entry(entries, "/byteorder").data = b"mixed".to_vec())),
        (
            "a byte order of a gigabyte",
            changed(|entries| {
                let zeros = std::io::Read::take(std::io::repeat(0), 1 << 30);
                *entry(entries, "/byteorder") = Entry::deflated("torch-2.15.0/byteorder", zeros, None);
            }),
        ),
        ("the other byte order", changed(|entries| entry(entries, "/byteorder").data = b"big".to_vec())),
        ("no pickle", changed(|entries| entries.retain(|entry| !entry.name.ends_with(b"data.pkl")))),
        ("sizes of four gigabytes", changed(|entries| entry(entries, "/data.pkl").sizes = Some((u32::MAX, u32::MAX)))),
        (
            "a comment that ends the archive again",
            with_end(End { comment: [&b"PK\x05\x06"[..], &[0; 18]].concat(), ..End::default() }),
        ),
    ]
}

#[test]
fn masks_that_are_no_masks_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::empty();
    sandbox.write("model/config.json", fs::read(Path::new(TINY).join("config.json")).unwrap());
    let cases = hostile_pickles().into_iter().chain(hostile_archives());
    for (name, bytes) in cases {
        sandbox.write("masks.pth", bytes);
        log.refused(&sandbox, name, "import masks.pth --model model --languages cy,mt,fr --out atlas", "masks.pth");
    }
    // Most for a reason of their own: an archive that our own writer had broken would be refused for one and the same.
    let words = log.done(95);
    let reasons: std::collections::BTreeSet<&str> =
        words.lines().filter_map(|line| line.split_once(": ")).map(|(_, reason)| reason).collect();
    assert!(reasons.len() >= 60, "{} reasons:\n{words}", reasons.len());
}

#[test]
fn masks_that_end_anywhere_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::empty();
    sandbox.write("model/config.json", fs::read(Path::new(TINY).join("config.json")).unwrap());
    let whole = zips::archive(&masks());
    let mut pickle = entry(&mut masks(), "/data.pkl").data.clone();
    for cut in (1..whole.len()).step_by(whole.len() / 24) {
        sandbox.write("masks.pth", &whole[..cut]);
        log.refused(
            &sandbox,
            &format!("{cut} bytes"),
            "import masks.pth --model model --languages cy,mt,fr --out atlas",
            "masks.pth",
        );
    }
    while pickle.len() > 16 {
        pickle.truncate(pickle.len() - pickle.len() / 12 - 1);
        sandbox.write("masks.pth", pickled(&pickle));
        let name = format!("{} bytes of pickle", pickle.len());
        log.refused(&sandbox, &name, "import masks.pth --model model --languages cy,mt,fr --out atlas", "masks.pth");
    }
    log.done(40);
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let sandbox = Sandbox::empty();
    sandbox.write("model/config.json", fs::read(Path::new(TINY).join("config.json")).unwrap());
    let made = Command::new("mkfifo").arg(sandbox.path("pipe.pth")).status().unwrap();
    assert!(made.success());
    for (file, what) in
        [("pipe.pth", "a pipe"), ("/dev/zero", "a device"), ("model", "a folder"), ("nowhere.pth", "nothing")]
    {
        let said = limited(&sandbox, &format!("import {file} --model model --languages cy,mt,fr --out atlas"));
        assert!(said.code == 1 && said.stderr.contains(file), "{what}: {}", said.text());
    }
    assert!(!sandbox.path("pwned").exists() && !sandbox.path("atlas").exists());
}

// Atlases.

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

/// Puts bytes into the atlas in the place of a file, with the size and the hash that the manifest wants, so that they are read.
fn seal(sandbox: &Sandbox, path: &str, bytes: &[u8]) {
    sandbox.write(&format!("atlas/{path}"), bytes);
    sandbox.json("atlas/manifest.json", |manifest| {
        for file in manifest["files"].as_array_mut().unwrap() {
            if file["path"] == path {
                file["bytes"] = bytes.len().into();
                file["sha256"] = sha256(bytes).into();
            }
        }
    });
}

/// All commands that open an atlas refuse it, and name the file.
fn refused_by_all(log: &mut Log, whole: &Whole, name: &str, file: &str, damage: impl Fn(&Sandbox)) {
    for arguments in [
        "verify atlas",
        "mask atlas --language mt --out mask.safetensors",
        "site atlas --out site",
        "compare atlas --languages mt,cy",
        "identify out --out atlas",
    ] {
        let sandbox = whole.copy();
        damage(&sandbox);
        log.refused(&sandbox, &format!("{name} by {arguments}"), arguments, file);
    }
}

#[test]
fn manifests_that_lie_are_refused() {
    let mut log = Log::default();
    let whole = Whole::new();
    let manifest: Value = serde_json::from_slice(&whole.sandbox.read("atlas/manifest.json")).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        serde_json::to_vec(&manifest).unwrap()
    };
    let path = |path: &'static str| with(&move |manifest| manifest["files"][0]["path"] = path.into());
    let nested = |open: &str, depth: usize| open.repeat(depth).into_bytes();
    for (name, bytes) in [
        ("an empty manifest", Vec::new()),
        ("a manifest of zeros", vec![0; 4096]),
        ("a manifest that ends early", serde_json::to_vec(&manifest).unwrap()[..300].to_vec()),
        ("a list in a list, a million deep", nested("[", 1_000_000)),
        ("an object in an object, a million deep", nested("{\"a\":", 1_000_000)),
        (
            "nesting inside a field that is not read",
            with(&|manifest| {
                let mut deep = json!(1);
                for _ in 0..120 {
                    deep = json!([deep]);
                }
                manifest["more"] = deep;
                manifest["files"] = json!(7);
            }),
        ),
        ("a path above the atlas", path("../../etc/passwd")),
        ("a path of the system", path("/etc/passwd")),
        ("a path as Windows writes it", path("data\\..\\..\\x")),
        ("an empty path", path("")),
        ("the atlas itself", path(".")),
        (
            "a file of 2^70 bytes",
            String::from_utf8(with(&|_| {}))
                .unwrap()
                .replacen("\"bytes\":", "\"bytes\":1180591620717411303424,\"was\":", 1)
                .into_bytes(),
        ),
        ("a negative size", with(&|manifest| manifest["files"][0]["bytes"] = (-1).into())),
        ("a number for a hash", with(&|manifest| manifest["files"][0]["sha256"] = 7.into())),
        ("no files", with(&|manifest| drop(manifest.as_object_mut().unwrap().remove("files")))),
        ("another schema", with(&|manifest| manifest["schema"] = "pwned".into())),
        ("a version of the future", with(&|manifest| manifest["schema_version"] = "2.0".into())),
        (
            "a path that stands twice",
            with(&|manifest| {
                let twice = manifest["files"][0].clone();
                manifest["files"].as_array_mut().unwrap().push(twice);
            }),
        ),
    ] {
        refused_by_all(&mut log, &whole, name, "manifest.json", |sandbox| sandbox.write("atlas/manifest.json", &bytes));
    }
    log.done(80);
}

/// The tables that every command reads.
const TABLES: [&str; 7] = [
    "data/models.parquet",
    "data/languages.parquet",
    "data/runs.parquet",
    "data/coverage.parquet",
    "data/neurons/model/lape.parquet",
    "data/overlap/model/lape.parquet",
    "data/stability/model/lape.parquet",
];

#[test]
fn tables_that_end_anywhere_or_are_others_are_refused() {
    let mut log = Log::default();
    let whole = Whole::new();
    for (at, table) in TABLES.into_iter().enumerate() {
        let bytes = whole.sandbox.read(&format!("atlas/{table}"));
        let other = whole.sandbox.read(&format!("atlas/{}", TABLES[(at + 1) % TABLES.len()]));
        let mut absurd = bytes.clone();
        let end = absurd.len() - 8;
        absurd[end..end + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        let mut spoilt = bytes.clone();
        // In the footer: field headers and lengths of its Thrift structures turn into others.
        (end - 400..end).step_by(13).for_each(|at| spoilt[at] = 0xff);
        for (name, bytes) in [
            ("an empty table", Vec::new()),
            ("half a table", bytes[..bytes.len() / 2].to_vec()),
            ("a table without its last byte", bytes[..bytes.len() - 1].to_vec()),
            ("only the ends", b"PAR1\x00\x00\x00\x00PAR1".to_vec()),
            ("a footer of two gigabytes", absurd),
            ("a footer with lists of two thousand million nothings", {
                // Field 1 of the footer's structure, then an unknown field: a list of 2^31 truth values, a hundred times.
                let lists = [0x29, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07].repeat(100);
                let footer = [&[0x15, 0x04][..], &lists, &[0]].concat();
                [b"PAR1", &footer[..], &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
            }),
            ("a footer of other bytes", spoilt),
            ("another table", other),
        ] {
            let sandbox = whole.copy();
            seal(&sandbox, table, &bytes);
            log.refused(&sandbox, &format!("{name} for {table}"), "verify atlas", table);
            log.refused(&sandbox, &format!("{name} for {table}"), "mask atlas --language mt --out mask.json", table);
        }
    }
    log.done(90);
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

/// A table of the atlas with one of its columns replaced; none takes it out.
fn with_column(whole: &Whole, table: &str, name: &str, column: Option<arrow::array::ArrayRef>) -> Vec<u8> {
    let file = fs::File::open(whole.sandbox.path(&format!("atlas/{table}"))).unwrap();
    let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let pairs = builder.metadata().file_metadata().key_value_metadata().unwrap();
    let schema = pairs.iter().find(|pair| pair.key == "neuroglot.schema").unwrap().value.clone().unwrap();
    let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
    let batch = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    let fields = batch.schema();
    let columns = fields.fields().iter().zip(batch.columns()).filter_map(|(field, held)| {
        let here = field.name() == name;
        let column = if here { column.clone()? } else { held.clone() };
        // Every row but the first keeps its value where the column has only one.
        let column = if here && column.len() == 1 && held.len() > 1 {
            let rest = arrow::compute::cast(&held.slice(1, held.len() - 1), column.data_type()).unwrap();
            arrow::compute::concat(&[column.as_ref(), rest.as_ref()]).unwrap()
        } else {
            column
        };
        Some((field.name().clone(), column))
    });
    let columns: Vec<(String, arrow::array::ArrayRef)> = columns.collect();
    parquet(&schema, columns.iter().map(|(name, column)| (name.as_str(), column.clone())).collect(), 1)
}

#[test]
fn tables_that_say_what_cannot_be_are_refused() {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;
    let mut log = Log::default();
    let whole = Whole::new();
    let number = |n: i64| Some(Arc::new(Int64Array::from(vec![n])) as ArrayRef);
    let text = |text: &str| Some(Arc::new(StringArray::from(vec![text])) as ArrayRef);
    let open = || Some(Arc::new(Int64Array::from(vec![None])) as ArrayRef);
    let (models, neurons, runs) = (TABLES[0], TABLES[4], TABLES[2]);
    let languages = TABLES[1];
    let cases = [
        ("a layer beyond the model", neurons, "layer", number(2)),
        ("a layer of 2^62", neurons, "layer", number(1 << 62)),
        ("a negative layer", neurons, "layer", number(-1)),
        ("a layer that is not there", neurons, "layer", open()),
        ("a layer in words", neurons, "layer", text("the second")),
        ("an expert of a model without experts", neurons, "expert", number(1)),
        ("a neuron beyond the layer", neurons, "neuron", number(48)),
        ("a neuron of 2^31", neurons, "neuron", number(1 << 31)),
        ("a negative rank", neurons, "rank", number(-7)),
        ("a language that is none", neurons, "language", text("<script>")),
        ("languages out of order", neurons, "language", text("zul_Latn")),
        ("no column of neurons", neurons, "neuron", None),
        ("a model without layers", models, "layers", number(0)),
        ("a model of two thousand million layers", models, "layers", number(2_000_000_000)),
        ("a model of 2^40 neurons a layer", models, "width", number(1 << 40)),
        ("a model without neurons", models, "width", number(0)),
        ("a model of 32,767 experts as wide as that", models, "experts", number(1 << 50)),
        ("another model", models, "id", text("someone/else")),
        ("a language of the registry's dreams", languages, "code", text("x")),
        ("parameters that are no JSON", runs, "parameters", text("{")),
    ];
    for (name, table, column, value) in cases {
        let bytes = with_column(&whole, table, column, value);
        let named = if table == models && name == "another model" { "data/neurons/model/lape.parquet" } else { table };
        for arguments in ["verify atlas", "mask atlas --language mt --out mask.json", "site atlas --out site"] {
            // Parameters are read when something is made of them, and by `verify` as a check of their own.
            let sandbox = whole.copy();
            seal(&sandbox, table, &bytes);
            let named = if table == runs && arguments.starts_with("verify") { "run of" } else { named };
            log.refused(&sandbox, &format!("{name} by {arguments}"), arguments, named);
        }
    }

    // Thirty million rows of nothing new fit into a few kilobytes.
    let zeros = Arc::new(Int64Array::from(vec![0; 1 << 20])) as ArrayRef;
    let fractions = Arc::new(Float64Array::from(vec![0.5; 1 << 20])) as ArrayRef;
    for (table, schema) in
        TABLES.into_iter().zip(["models", "languages", "runs", "coverage", "neurons", "overlap", "stability"])
    {
        let bytes =
            parquet(&format!("neuroglot.{schema}"), vec![("layer", zeros.clone()), ("cosine", fractions.clone())], 30);
        assert!(bytes.len() < 400_000, "{}", bytes.len());
        let sandbox = whole.copy();
        seal(&sandbox, table, &bytes);
        log.refused(&sandbox, &format!("thirty million rows for {table}"), "verify atlas", table);
    }
    let counts = "data/counts/model/part-00000.parquet";
    let bytes = whole.sandbox.read(&format!("atlas/{counts}"));
    for (name, bytes) in [
        ("half the counts", bytes[..bytes.len() / 2].to_vec()),
        ("thirty million counts", parquet("neuroglot.counts", vec![("layer", zeros)], 30)),
        ("another table's counts", whole.sandbox.read(&format!("atlas/{neurons}"))),
        (
            "a negative count",
            with_column(&whole, counts, "active_0", Some(Arc::new(arrow::array::Int32Array::from(vec![-1])))),
        ),
        (
            "more active tokens than there were",
            with_column(&whole, counts, "active_0", Some(Arc::new(arrow::array::Int32Array::from(vec![i32::MAX])))),
        ),
    ] {
        let sandbox = whole.copy();
        seal(&sandbox, counts, &bytes);
        log.refused(&sandbox, name, "verify atlas", counts);
    }
    log.done(70);
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
fn masks_of_an_atlas_that_lie_are_refused() {
    let mut log = Log::default();
    let whole = Whole::new();
    let mask = "masks/model/lape.safetensors";
    let held = |shape: &str, data: &[u8], dtype: &str| {
        let entry =
            |name: &str| format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}"#, data.len());
        safetensors(format!("{{{}}}", entry("mlt_Latn")), data)
    };
    let mut cases = hostile_safetensors("mlt_Latn", "U8");
    cases.extend([
        ("a mask of another shape", held("[3,6]", &[0; 18], "U8")),
        ("a mask in signed bytes", held("[2,6]", &[0; 12], "I8")),
        (
            "a mask of no language",
            safetensors(r#"{"<script>":{"dtype":"U8","shape":[2,6],"data_offsets":[0,12]}}"#, &[0; 12]),
        ),
        ("a mask of one language only", held("[2,6]", &[0; 12], "U8")),
        ("a mask with other bits", held("[2,6]", &[0xff; 12], "U8")),
    ]);
    for (name, bytes) in cases {
        let sandbox = whole.copy();
        seal(&sandbox, mask, &bytes);
        log.refused(&sandbox, name, "verify atlas", mask);
    }
    log.done(25);
}

// Profiles.

#[test]
fn profile_folders_that_lie_are_refused() {
    let mut log = Log::default();
    let whole = Whole::new();
    let head = whole.sandbox.read("out/profile.json");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut head: Value = serde_json::from_slice(&head).unwrap();
        change(&mut head);
        serde_json::to_vec(&head).unwrap()
    };
    for (name, bytes) in [
        ("an empty profile", Vec::new()),
        ("half a profile", head[..head.len() / 2].to_vec()),
        ("a profile a million lists deep", "[".repeat(1_000_000).into_bytes()),
        ("a model of 2^63 layers", with(&|head| head["model"]["spec"]["ffn"]["layers"] = json!(u64::MAX / 2))),
        ("a model of 2^40 neurons", with(&|head| head["model"]["spec"]["ffn"]["width"] = json!(1u64 << 40))),
        ("a model without neurons", with(&|head| head["model"]["spec"]["ffn"]["width"] = json!(0))),
        ("folds without end", with(&|head| head["parameters"]["folds"] = json!(u64::MAX))),
        ("another run", with(&|head| head["run"] = json!("0123456789abcdef"))),
    ] {
        let sandbox = whole.copy();
        sandbox.write("out/profile.json", bytes);
        // Where the head itself holds, the counts do not fit it, and either is named.
        log.refused(&sandbox, name, "identify out --out new", "out/");
    }
    let counts = "out/counts/mlt_Latn.parquet";
    let bytes = whole.sandbox.read(counts);
    let zeros = std::sync::Arc::new(arrow::array::Int64Array::from(vec![0; 1 << 20])) as arrow::array::ArrayRef;
    for (name, bytes) in [
        ("empty counts", Vec::new()),
        ("counts of zeros", vec![0; 4096]),
        ("thirty million counts", parquet("neuroglot.counts", vec![("layer", zeros)], 30)),
        ("another language's counts", whole.sandbox.read("out/counts/cym_Latn.parquet")),
    ]
    .into_iter()
    .chain((1..8).map(|eighth| ("counts that end early", bytes[..bytes.len() * eighth / 8].to_vec())))
    {
        let sandbox = whole.copy();
        sandbox.write(counts, bytes);
        log.refused(&sandbox, name, "identify out --out new", counts);
    }
    log.done(18);
}

// Checkpoints.

const PROFILE: &str = "profile --model model --corpus dir:text --tokens 64 --context 16 --out new";

#[test]
fn checkpoints_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let weights = sandbox.read("model/model.safetensors");
    let cuts = (1..10).map(|tenth| ("weights that end early", weights[..weights.len() * tenth / 10].to_vec()));
    for (name, bytes) in hostile_safetensors("model.norm.weight", "F32").into_iter().chain(cuts) {
        sandbox.write("model/model.safetensors", bytes);
        log.refused(&sandbox, name, PROFILE, "model/model.safetensors");
    }
    sandbox.remove("model/model.safetensors");
    for (name, index) in [
        ("an index that is no JSON", "{".to_owned()),
        ("an index that leads away", json!({ "weight_map": { "a": "../../secret.safetensors" } }).to_string()),
        ("an index to a folder", json!({ "weight_map": { "a": "." } }).to_string()),
        ("an index to itself", json!({ "weight_map": { "a": "model.safetensors.index.json" } }).to_string()),
        ("an index a million lists deep", "[".repeat(1_000_000)),
        ("an index without files", "{}".to_owned()),
    ] {
        sandbox.write("model/model.safetensors.index.json", index);
        log.refused(&sandbox, name, PROFILE, "model/model.safetensors.index.json");
    }
    log.done(30);
}

#[test]
fn configs_and_tokenizers_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let config = sandbox.read("model/config.json");
    for (field, value) in [
        ("vocab_size", json!(1u64 << 62)),
        ("hidden_size", json!(2_147_483_647)),
        ("num_hidden_layers", json!(32_000)),
        ("num_attention_heads", json!(0)),
        ("intermediate_size", json!(-48)),
        ("rms_norm_eps", json!("small")),
        ("max_position_embeddings", json!(1e300)),
        ("model_type", json!("../../llama")),
    ] {
        sandbox.config(field, value);
        // A size that could be one is held against the weights.
        log.refused(&sandbox, field, PROFILE, "model/");
        sandbox.write("model/config.json", &config);
    }
    for (name, bytes) in [
        ("a config a million lists deep", "[".repeat(1_000_000)),
        ("an empty config", String::new()),
        ("a config that is a word", "\"llama\"".to_owned()),
    ] {
        sandbox.write("model/config.json", bytes);
        log.refused(&sandbox, name, PROFILE, "model/config.json");
    }
    sandbox.write("model/config.json", &config);
    let whole = sandbox.read("model/tokenizer.json");
    let tokenizer: Value = serde_json::from_slice(&whole).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut tokenizer = tokenizer.clone();
        change(&mut tokenizer);
        tokenizer.to_string().into_bytes()
    };
    for (name, bytes) in [
        ("an empty tokenizer", Vec::new()),
        ("half a tokenizer", whole[..whole.len() / 2].to_vec()),
        ("a tokenizer a million lists deep", "[".repeat(1_000_000).into_bytes()),
        ("a tokenizer that is a number", b"7".to_vec()),
        // Found by fuzzing: the crate panics where a decoder is no JSON.
        (
            "a decoder that is no JSON",
            String::from_utf8(whole.clone())
                .unwrap()
                .replacen("\"decoder\":", "\"decoder\":{7:1},\"was\":", 1)
                .into_bytes(),
        ),
        ("a tokenizer of an unknown kind", with(&|tokenizer| tokenizer["model"]["type"] = "Evil".into())),
        ("a token with the last of all ids", with(&|tokenizer| tokenizer["model"]["vocab"]["a"] = u32::MAX.into())),
        ("a token with a negative id", with(&|tokenizer| tokenizer["model"]["vocab"]["a"] = (-1).into())),
        (
            "merges of tokens that are not there",
            with(&|tokenizer| tokenizer["model"]["merges"] = json!(["no such", "q q"])),
        ),
        (
            "a pattern that is none",
            with(&|tokenizer| {
                tokenizer["pre_tokenizer"] =
                    json!({ "type": "Split", "pattern": { "Regex": "(" }, "behavior": "Isolated", "invert": false });
            }),
        ),
    ] {
        sandbox.write("model/tokenizer.json", bytes);
        log.refused(&sandbox, name, PROFILE, "model/tokenizer.json");
    }
    log.done(20);
}

#[test]
fn gguf_files_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-gguf/scaled.gguf");
    let whole = fs::read(path).unwrap();
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::read(&whole);
        change(&mut parts);
        parts.bytes()
    };
    let first = Parts::read(&whole).tensors[0].name.clone();
    let place = |change: &dyn Fn(&mut gguf_parts::Place)| with(&|parts| change(parts.tensor(&first)));
    // A list in a list, as deep as a hundred thousand.
    let deep: Vec<u8> = (0..100_000).fold(Vec::new(), |mut bytes, _| {
        bytes.extend(gguf_parts::LIST.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes
    });
    let mut cases = vec![
        ("only the signature", b"GGUF".to_vec()),
        ("a version of the future", with(&|parts| parts.version = 99)),
        ("2^64 - 1 tensors", with(&|parts| parts.counts = Some((u64::MAX, 1)))),
        ("2^63 entries", with(&|parts| parts.counts = Some((1, 1 << 63)))),
        ("2^32 tensors", with(&|parts| parts.counts = Some((1 << 32, parts.metadata.len() as u64)))),
        (
            "a text of 2^63 bytes",
            with(&|parts| parts.set("general.name", gguf_parts::TEXT, (1u64 << 63).to_le_bytes())),
        ),
        (
            "a list of 2^61 numbers",
            with(&|parts| parts.set("general.tags", gguf_parts::LIST, gguf_parts::list(gguf_parts::U32, 1 << 61, &[]))),
        ),
        (
            "a list of 2^40 texts",
            with(&|parts| {
                parts.set("general.tags", gguf_parts::LIST, gguf_parts::list(gguf_parts::TEXT, 1 << 40, &[]));
            }),
        ),
        ("lists a hundred thousand deep", with(&|parts| parts.set("general.tags", gguf_parts::LIST, deep.clone()))),
        ("a value of an unknown type", with(&|parts| parts.set("general.name", 77, [0; 8]))),
        (
            "a key that stands twice",
            with(&|parts| {
                let twice = parts.metadata[0].clone();
                parts.metadata.push(twice);
            }),
        ),
        ("an alignment of nothing", with(&|parts| parts.set("general.alignment", gguf_parts::U32, 0u32.to_le_bytes()))),
        (
            "an alignment of 2^31",
            with(&|parts| parts.set("general.alignment", gguf_parts::U32, (1u32 << 31).to_le_bytes())),
        ),
        ("a tensor of 2^62 values", place(&|place| place.dimensions = vec![1 << 31, 1 << 31])),
        ("a tensor of 2^64 values", place(&|place| place.dimensions = vec![1 << 32, 1 << 32])),
        ("a tensor of no values", place(&|place| place.dimensions = vec![0])),
        ("a tensor of a hundred dimensions", place(&|place| place.dimensions = vec![1; 100])),
        ("a tensor behind the end", place(&|place| place.offset = 1 << 40)),
        ("a tensor at the end of all numbers", place(&|place| place.offset = u64::MAX - 31)),
        ("a tensor between two places", place(&|place| place.offset = 7)),
        ("a tensor of an unknown format", place(&|place| place.format = 4_000_000_000)),
        (
            "two tensors of one name",
            with(&|parts| {
                let twice = parts.tensors[0].clone();
                parts.tensors.push(twice);
            }),
        ),
        ("layers without end", with(&|parts| parts.set("llama.block_count", gguf_parts::U32, u32::MAX.to_le_bytes()))),
        (
            "neurons without end",
            with(&|parts| parts.set("llama.feed_forward_length", gguf_parts::U32, u32::MAX.to_le_bytes())),
        ),
    ];
    cases.extend((1..16).map(|part| ("a file that ends early", whole[..whole.len() * part / 16].to_vec())));
    for (name, bytes) in cases {
        sandbox.write("m.gguf", bytes);
        log.refused(&sandbox, name, &PROFILE.replace("--model model", "--model m.gguf"), "m.gguf");
    }
    log.done(35);
}

// Deltas, and records to evaluate on.

#[test]
fn deltas_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    sandbox.write("text/mlt_Latn.txt", crate::harness::prose(0, 60));
    let sandbox = sandbox.with_atlas();
    let run = "adapt --model model --atlas atlas --language mlt --corpus dir:text --tokens 96 --context 16 --lr 3e-2 --out run";
    sandbox.run(run).done();
    let file = "run/delta.safetensors";
    let whole = sandbox.read(file);
    let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header: Value = serde_json::from_slice(&whole[8..end]).unwrap();
        change(&mut header);
        safetensors(header.to_string(), &whole[end..])
    };
    let said = |key: &'static str, value: Value| with(&|header| header["__metadata__"][key] = value.clone());
    let neurons = |values: &[u32]| {
        let header: Value = serde_json::from_slice(&whole[8..end]).unwrap();
        let from = header["layers.0.mlp.neurons"]["data_offsets"][0].as_u64().unwrap() as usize;
        let mut bytes = whole.clone();
        for (value, to) in values.iter().zip(bytes[end + from..].chunks_exact_mut(4)) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    };
    let mut cases = hostile_safetensors("layers.0.mlp.gate", "F32");
    cases.extend([
        ("a head a million lists deep", said("head", json!("[".repeat(1_000_000)))),
        ("hashes that are no list", said("sha256", json!("7"))),
        ("hashes of nothing", said("base_sha256", json!("{}"))),
        ("no hashes", with(&|header| drop(header["__metadata__"].as_object_mut().unwrap().remove("sha256")))),
        ("a newer version", said("version", json!("2"))),
        ("a neuron beyond the model", neurons(&[4_000_000_000])),
        (
            "layer 2^64 - 1",
            with(&|header| {
                let gate = header["layers.0.mlp.gate"].take();
                header.as_object_mut().unwrap().remove("layers.0.mlp.gate");
                header["layers.18446744073709551615.mlp.gate"] = gate;
            }),
        ),
        (
            "a tensor that leads away",
            with(&|header| {
                let gate = header["layers.0.mlp.gate"].take();
                header.as_object_mut().unwrap().remove("layers.0.mlp.gate");
                header["tensor.../../../../etc/passwd"] = gate;
            }),
        ),
        ("rows of another width", with(&|header| header["layers.0.mlp.gate"]["shape"] = json!([1, 1]))),
        ("rows in another format", with(&|header| header["layers.0.mlp.gate"]["dtype"] = json!("F64"))),
    ]);
    cases.extend((1..8).map(|eighth| ("a delta that ends early", whole[..whole.len() * eighth / 8].to_vec())));
    for (name, bytes) in cases {
        sandbox.write(file, bytes);
        log.refused(&sandbox, name, "apply run --model model --out applied", file);
    }
    sandbox.write(file, whole.clone());
    limited(&sandbox, "apply run --model model --out applied").done();
    log.done(35);
}

#[test]
fn records_that_lie_are_refused() {
    let mut log = Log::default();
    let sandbox = Sandbox::new();
    let evaluate = |file: &str| format!("evaluate --model model --task belebele --data {file} --out new.json");
    let texts = |text: &str| {
        std::sync::Arc::new(arrow::array::StringArray::from(vec![text; 1 << 16])) as arrow::array::ArrayRef
    };
    let bomb = parquet("none", vec![("question", texts(&"a".repeat(1000)))], 100);
    assert!(bomb.len() < 4 << 20);
    let whole = parquet("none", vec![("question", texts("Why?"))], 1);
    let cuts = (1..4).map(|quarter| ("a table that ends early", whole[..whole.len() * quarter / 4].to_vec()));
    let cases = [
        ("no table", Vec::new()),
        ("a table of zeros", vec![0; 4096]),
        ("six gigabytes of questions", bomb),
        ("no answers", whole.clone()),
        (
            "no text",
            parquet(
                "none",
                vec![("question", std::sync::Arc::new(arrow::array::BinaryArray::from(vec![&b"\xff"[..]])) as _)],
                1,
            ),
        ),
    ];
    for (name, bytes) in cases.into_iter().chain(cuts) {
        sandbox.write("eng_Latn.parquet", bytes);
        log.refused(&sandbox, name, &evaluate("eng_Latn.parquet"), "eng_Latn.parquet");
    }
    for (name, text) in [
        ("a list", "[1]\n".to_owned()),
        ("an object a million lists deep", format!("{{\"question\":{}\n", "[".repeat(1_000_000))),
        ("a number for a question", "{\"question\":1}\n".to_owned()),
        ("a line without end", "x".repeat(80 << 20)),
    ] {
        sandbox.write("eng_Latn.jsonl", text);
        log.refused(&sandbox, name, &evaluate("eng_Latn.jsonl"), "eng_Latn.jsonl");
    }
    for (name, text) in [("a row of one cell", "a\tb\nc\n"), ("no text", "question\n\u{0}\n")] {
        sandbox.write("eng_Latn.tsv", text);
        log.refused(&sandbox, name, &evaluate("eng_Latn.tsv"), "eng_Latn.tsv");
    }
    log.done(14);
}

#[test]
fn the_limit_is_one_that_whole_files_keep_to() {
    let sandbox = Sandbox::new();
    sandbox.write("masks.pth", zips::archive(&masks()));
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
