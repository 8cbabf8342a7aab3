//! Files of published masks.

use std::{fs, path::Path, process::Command};

use super::{Log, limited};
use crate::{
    harness::{Sandbox, TINY},
    zips::{self, End, Entry},
};

/// One of torch's own files, entry by entry.
pub(super) fn masks() -> Vec<Entry> {
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
