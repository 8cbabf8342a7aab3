//! Where results go: folders in the way, full disks, signals.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use insta::assert_snapshot;

use super::asked;
use crate::harness::{Sandbox, command, profile_arguments, prose};

#[test]
fn a_folder_of_another_run_says_where_the_runs_differ() {
    let sandbox = Sandbox::new();
    sandbox.profile(&[]).done();
    let before = sandbox.read("out/profile.json");
    assert_snapshot!(sandbox.profile(&[("--tokens", "32"), ("--folds", "2")]).text(), @r"
    exit code 1
    error: out/profile.json: holds another run, which differs in folds (4 there, 2 here), tokens (64 there, 32 here); choose another --out, or the same settings to continue it
    ");
    assert_eq!(sandbox.read("out/profile.json"), before);
}

#[test]
fn a_run_that_finished_no_language_gives_way_to_the_corrected_command() {
    let sandbox = Sandbox::new();
    sandbox.ids("mlt_Latn", 8, &[5; 64]);
    assert_eq!(sandbox.profile(&[("--corpus", "ids:ids")]).code, 1);
    sandbox.profile(&[("--corpus", "ids:ids"), ("--context", "8")]).done();
}

#[test]
fn a_folder_with_other_things_in_it_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.write("out/thesis.tex", "a");
    assert_snapshot!(sandbox.profile(&[]).text(), @r"
    exit code 1
    error: out: is not empty and holds no profile; choose an empty or new folder with --out
    ");
    assert_eq!(sandbox.files("out"), ["out/thesis.tex"]);
}

#[test]
fn a_file_in_the_way_of_the_output_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.write("out", "a");
    assert_snapshot!(sandbox.profile(&[]).text(), @r"
    exit code 1
    error: out/profile.json: cannot be written: File exists (os error 17); a file stands where a folder is wanted, choose another --out
    ");
    assert_snapshot!(sandbox.profile(&[("--out", "out/deeper")]).text(), @r"
    exit code 1
    error: out/deeper/profile.json: cannot be written: Not a directory (os error 20); a file stands where a folder is wanted, choose another --out
    ");
    assert_eq!(sandbox.read("out"), b"a");
}

#[test]
fn a_folder_where_nothing_can_be_written_is_named() {
    assert_snapshot!(asked(&[("--out", "/proc/neuroglot")]), @r"
    exit code 1
    error: /proc/neuroglot/profile.json: cannot be written: No such file or directory (os error 2)
    ");
}

#[test]
fn a_read_only_disk_is_named() {
    let sandbox = Sandbox::new();
    let Some(_disk) = Disk::mount(&sandbox.path("disk"), "ro") else { return };
    assert_snapshot!(sandbox.profile(&[("--out", "disk/out")]).text(), @r"
    exit code 1
    error: disk/out/profile.json: cannot be written: Read-only file system (os error 30); choose a folder that you may write to with --out
    ");
}

#[test]
fn on_a_full_disk_what_is_finished_is_kept_and_the_same_command_continues() {
    let sandbox = Sandbox::new();
    let Some(disk) = Disk::mount(&sandbox.path("disk"), "size=12k") else { return };
    let full = sandbox.profile(&[("--out", "disk/out")]);
    assert_snapshot!(full.text(), @r"
    exit code 1
    cym_Latn         64 tokens of 4 documents
    error: disk/out/counts/fra_Latn.parquet: cannot be written: No space left on device (os error 28); make room and run the same command again, what is finished is kept
    ");
    let finished = sandbox.files("disk/out");
    assert!(finished.iter().all(|file| !file.contains(".part")), "{finished:?}");
    let kept = sandbox.read(&finished[0]);
    disk.grow();
    sandbox.profile(&[("--out", "disk/out")]).done();
    assert_eq!(sandbox.read(&finished[0]), kept);
    sandbox.profile(&[]).done();
    for language in sandbox.files("out/counts") {
        assert_eq!(sandbox.read(&language), sandbox.read(&format!("disk/{language}")));
    }
}

#[test]
fn an_atlas_on_a_full_disk_is_not_taken_for_an_atlas() {
    let sandbox = Sandbox::new();
    sandbox.profile(&[]).done();
    let Some(_disk) = Disk::mount(&sandbox.path("disk"), "size=16k") else { return };
    // Which file is the first that does not fit depends on how well the others pack.
    let text = sandbox.run("identify out --out disk/atlas").text();
    assert!(text.starts_with("exit code 1\nerror: disk/atlas/"), "{text}");
    assert!(text.contains("cannot be written: No space left on device"), "{text}");
    assert!(text.contains("; make room and run the same command again, what is finished is kept"), "{text}");
    assert!(!sandbox.path("disk/atlas/manifest.json").exists());
    assert_snapshot!(sandbox.run("verify disk/atlas").text(), @r"
    exit code 1
    error: disk/atlas: holds no atlas (no manifest.json); `neuroglot identify PROFILE --out disk/atlas` makes one
    ");
}

#[test]
fn an_interrupted_run_is_resumable_and_its_counts_are_those_of_a_run_without_a_break() {
    let sandbox = Sandbox::new();
    let codes = [
        "afr", "dan", "deu", "eng", "est", "eus", "fin", "fra", "gle", "hun", "isl", "ita", "lit", "mlt", "nld", "swe",
    ];
    for (seed, code) in codes.iter().enumerate() {
        sandbox.write(&format!("many/{code}.txt"), prose(seed, 1_000));
    }
    let options = [("--corpus", "dir:many"), ("--tokens", "16384"), ("--batch-tokens", "64")];
    let mut child = command(&sandbox.path(""), profile_arguments(&options))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first language is finished, fifteen are not.
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    talk.read_line(&mut first).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    talk.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{first}{rest}");
    assert!(rest.contains("of 16 languages are finished in out; the same command continues"), "{rest}");
    assert!(sandbox.files("").iter().all(|file| !file.contains(".part")));

    sandbox.profile(&options).done();
    sandbox.profile(&[options.as_slice(), &[("--out", "whole")]].concat()).done();
    for language in sandbox.files("whole/counts") {
        assert_eq!(sandbox.read(&language), sandbox.read(&language.replace("whole", "out")), "{language}");
    }
}

/// A file system of its own, gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Says loudly where this machine does not let a test mount one.
    fn mount(place: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(place.to_owned()));
        }
        // Written past the test harness, which would swallow it.
        let _ =
            writeln!(std::io::stderr(), "NOT RUN: a test that mounts a tmpfs with {options}; run the suite as root");
        None
    }

    fn grow(&self) {
        assert!(Command::new("mount").args(["-o", "remount,size=4m"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
