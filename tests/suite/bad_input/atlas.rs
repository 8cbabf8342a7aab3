//! Profiles and atlases that were damaged, and what is asked of them.

use insta::assert_snapshot;

use super::after;
use crate::harness::{Sandbox, command, said};

#[test]
fn a_folder_without_a_profile_is_no_input_of_identify() {
    assert_snapshot!(after(|_| {}, "identify text --out new"), @r"
    exit code 1
    error: text: holds no profile (no profile.json); `neuroglot profile --out text` makes one
    ");
    assert_snapshot!(after(|_| {}, "identify nowhere --out new"), @r"
    exit code 1
    error: nowhere: holds no profile (no profile.json); `neuroglot profile --out nowhere` makes one
    ");
}

#[test]
fn a_profile_without_a_finished_language_cannot_be_identified() {
    let clear = |s: &Sandbox| std::fs::remove_dir_all(s.path("out/counts")).unwrap();
    assert_snapshot!(after(clear, "identify out --out new"), @r"
    exit code 1
    error: out: no language is finished yet; run `neuroglot profile` again
    ");
}

#[test]
fn a_language_that_was_not_profiled_cannot_be_identified() {
    assert_snapshot!(after(|_| {}, "identify out --out new --languages mlt,deu"), @r"
    exit code 1
    error: out: deu_Latn has not been profiled; run `neuroglot profile --languages deu_Latn` with the same settings
    ");
}

#[test]
fn a_rate_above_one_is_wrong_usage() {
    assert_snapshot!(after(|_| {}, "identify out --out new --top-rate 5"), @r"
    exit code 2
    error: invalid value '5' for '--top-rate <R>': `5` is not a rate: give a number above 0 and at most 1, such as 0.05

    For more information, try '--help'.
    ");
}

#[test]
fn a_method_that_does_not_exist_is_wrong_usage() {
    assert_snapshot!(after(|_| {}, "identify out --out new --method lapel"), @r"
    exit code 2
    error: invalid value 'lapel' for '--method <METHOD>'
      [possible values: lape, random]

      tip: a similar value exists: 'lape'

    For more information, try '--help'.
    ");
}

#[test]
fn a_profile_whose_settings_were_changed_by_hand_is_refused() {
    let tamper = |s: &Sandbox| s.json("out/profile.json", |head| head["parameters"]["tokens"] = 128.into());
    assert_snapshot!(after(tamper, "identify out --out new"), @r"
    exit code 1
    error: out/profile.json: its run id does not fit its parameters, for somebody changed them; profile again into another folder
    ");
}

#[test]
fn a_profile_whose_shape_was_changed_by_hand_is_refused() {
    let tamper =
        |s: &Sandbox| s.json("out/profile.json", |head| head["model"]["spec"]["ffn"]["width"] = u64::MAX.into());
    assert_snapshot!(after(tamper, "identify out --out new"), @r"
    exit code 1
    error: out/counts/cym_Latn.parquet: has 96 rows, which is no whole number of languages of 2 × 18446744073709551615 neurons; delete it and make it again
    ");
}

#[test]
fn a_profile_of_a_newer_version_is_refused() {
    let newer = |s: &Sandbox| s.json("out/profile.json", |head| head["schema_version"] = "2.0".into());
    assert_snapshot!(after(newer, "identify out --out new"), @r"
    exit code 1
    error: out/profile.json: is `neuroglot.profile 2.0`, but this neuroglot reads neuroglot.profile 1.0; use a newer one
    ");
}

#[test]
fn counts_that_were_cut_short_are_refused_by_every_reader() {
    let halve = |s: &Sandbox| s.halve("out/counts/fra_Latn.parquet");
    assert_snapshot!(after(halve, "identify out --out new"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is not a readable Parquet file: Parquet error: it has no footer at its end; delete it and profile again
    ");
    assert_snapshot!(after(halve, "profile --model model --corpus dir:text --tokens 64 --context 16 --out out"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is not a readable Parquet file: Parquet error: it has no footer at its end; delete it and profile again
    ");
    assert_snapshot!(after(halve, "merge out --out new"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is not a readable Parquet file: Parquet error: it has no footer at its end; delete it and profile again
    ");
}

#[test]
fn counts_of_another_run_are_refused() {
    let mix = |s: &Sandbox| {
        s.profile(&[("--out", "other"), ("--tokens", "32")]).done();
        s.write("out/counts/fra_Latn.parquet", s.read("other/counts/fra_Latn.parquet"));
    };
    assert_snapshot!(after(mix, "identify out --out new"), @r"
    exit code 1
    error: out/counts/fra_Latn.parquet: is of run `[HASH]`, but profile.json of run `[HASH]`; delete the file and profile again
    ");
}

#[test]
fn counts_under_another_languages_name_are_refused() {
    let mix = |s: &Sandbox| s.write("out/counts/deu_Latn.parquet", s.read("out/counts/fra_Latn.parquet"));
    assert_snapshot!(after(mix, "identify out --out new"), @r#"
    exit code 1
    error: out/counts/deu_Latn.parquet: holds ["fra_Latn"], but deu_Latn is wanted; delete it and make it again
    "#);
}

#[test]
fn profiles_of_two_runs_are_not_merged() {
    let other = |s: &Sandbox| drop(s.profile(&[("--out", "other"), ("--tokens", "32")]).done());
    let sandbox = Sandbox::new().with_atlas();
    other(&sandbox);
    assert_snapshot!(sandbox.run("merge out other --out new").text(), @r"
    exit code 1
    error: other/profile.json: is of another run than out: it differs in tokens (32 there, 64 here); only parts of one run are merged
    ");
}

#[test]
fn an_atlas_is_not_built_over_other_things() {
    assert_snapshot!(after(|_| {}, "identify out --out text"), @r"
    exit code 1
    error: text: is not empty and holds no atlas; choose an empty or new folder with --out
    ");
    assert_snapshot!(after(|_| {}, "identify out --out model/config.json"), @r"
    exit code 1
    error: model/config.json: is a file, but an atlas is a folder, with manifest.json in it; give a folder
    ");
}

#[test]
fn a_mask_of_what_the_atlas_does_not_hold_says_what_it_holds() {
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --method random"), @r"
    exit code 1
    error: atlas: has no neurons of model by `random`; it has lape
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --top-rate 0.2"), @r"
    exit code 1
    error: atlas: was not identified at --top-rate 0.2; it holds 0.1
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language deu --out mask"), @r"
    exit code 1
    error: atlas: deu_Latn is not among the 3 languages of this atlas
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --model meta/llama"), @r"
    exit code 1
    error: atlas: has no model `meta/llama`; it holds model
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language no --out mask"), @r"
    exit code 2
    error: `no` names 2 languages: nno_Latn (Norwegian Nynorsk), nob_Latn (Norwegian Bokmål); write one of these codes
    ");
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out mask --format onnx"), @r"
    exit code 2
    error: invalid value 'onnx' for '--format <FORMAT>'
      [possible values: safetensors, json, parquet, pth]

    For more information, try '--help'.
    ");
    assert_snapshot!(after(|_| {}, "mask out --language mlt --out mask"), @r"
    exit code 1
    error: out: holds no atlas (no manifest.json); `neuroglot identify PROFILE --out out` makes one
    ");
}

#[test]
fn a_mask_is_not_written_over_a_folder() {
    assert_snapshot!(after(|_| {}, "mask atlas --language mlt --out model"), @r"
    exit code 1
    error: model: cannot be written: Is a directory (os error 21); a folder stands where a file is wanted, choose another --out
    ");
}

#[test]
fn a_folder_without_an_atlas_is_not_verified() {
    assert_snapshot!(after(|_| {}, "verify text"), @r"
    exit code 1
    error: text: holds no atlas (no manifest.json); `neuroglot identify PROFILE --out text` makes one
    ");
}

#[test]
fn a_flipped_byte_is_found() {
    let flip = |s: &Sandbox| {
        let mut bytes = s.read("atlas/README.md");
        bytes[9] ^= 1;
        s.write("atlas/README.md", bytes);
    };
    assert_snapshot!(after(flip, "verify atlas"), @r"
    exit code 1
    stdout: README.md: has SHA-256 [HASH], but the manifest says [HASH]
    error: atlas: 1 of 11 checks failed; pull or identify again
    ");
}

#[test]
fn a_missing_file_is_found() {
    assert_snapshot!(after(|s| s.remove("atlas/LICENSE"), "verify atlas"), @r"
    exit code 1
    stdout: LICENSE: cannot be read: No such file or directory (os error 2)
    error: atlas: 1 of 11 checks failed; pull or identify again
    ");
}

#[test]
fn a_file_that_the_manifest_does_not_name_is_found() {
    assert_snapshot!(after(|s| s.write("atlas/data/extra.parquet", "a"), "verify atlas"), @r"
    exit code 1
    stdout: data/extra.parquet: is not in the manifest; delete it
    error: atlas: 1 of 12 checks failed; pull or identify again
    ");
}

#[test]
fn a_manifest_that_leads_out_of_the_atlas_is_refused() {
    let lead_out = |s: &Sandbox| {
        s.json("atlas/manifest.json", |manifest| manifest["files"][0]["path"] = "../text/mlt_Latn.txt".into());
    };
    assert_snapshot!(after(lead_out, "verify atlas"), @r"
    exit code 1
    error: atlas/manifest.json: names `../text/mlt_Latn.txt`, which lies outside the atlas; pull the atlas or make it again
    ");
}

#[test]
fn an_atlas_of_a_newer_major_version_is_refused() {
    let newer = |s: &Sandbox| s.json("atlas/manifest.json", |manifest| manifest["schema_version"] = "2.0".into());
    assert_snapshot!(after(newer, "verify atlas"), @r"
    exit code 1
    error: atlas/manifest.json: is `neuroglot.manifest 2.0`, but this neuroglot reads neuroglot.manifest 1.0; use a newer one
    ");
}

#[test]
fn a_manifest_that_is_not_json_is_refused() {
    assert_snapshot!(after(|s| s.write("atlas/manifest.json", r#"{"schema": "neurog"#), "verify atlas"), @r"
    exit code 1
    error: atlas/manifest.json: is broken: EOF while parsing a string at line 1 column 18; pull the atlas or make it again
    ");
}

#[test]
fn a_failed_process_is_told_from_a_wrong_command_by_its_exit_code() {
    let sandbox = Sandbox::new();
    let output = command(&sandbox.path(""), ["frobnicate"]).output().unwrap();
    assert_eq!(said(&sandbox.path(""), &output).code, 2);
    assert_eq!(sandbox.run("profile").code, 2);
    assert_eq!(sandbox.run("verify text").code, 1);
    assert_eq!(sandbox.run("--help").code, 0);
    assert_eq!(sandbox.run("--version").code, 0);
}
