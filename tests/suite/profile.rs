//! Runs that are interrupted, killed, split and joined: the bytes are those of a run that was left alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use neuroglot::{
    checkpoint::Checkpoint,
    corpus::{self, Corpus, CorpusOptions, Document, Split},
    model::{Decoder, Path as Operators},
    profile::{CountsReader, ProfileFolder},
};
use tempfile::TempDir;

use crate::harness::bytes_below;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/atlas/demo");

/// Enough languages for a second or two of work.
const LANGUAGES: &str =
    "afr,amh,bel,ben,cat,ces,cym,dan,deu,ell,eng,est,eus,fin,fra,gle,glg,guj,heb,hin_Deva,hun,isl,ita,jpn";

fn profile(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neuroglot"));
    command.args([
        "profile",
        "--quiet",
        "--model",
        &format!("{DEMO}/model"),
        "--corpus",
        &format!("dir:{DEMO}/sentences"),
    ]);
    command
        .args(["--document", "line", "--context", "128", "--tokens", "1024", "--languages", LANGUAGES, "--out"])
        .arg(out);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn finished(folder: &Path) -> usize {
    fs::read_dir(folder.join("counts")).map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "parquet"))
            .count()
    })
}

/// Waits until a run has finished `languages`, or has ended by itself.
fn wait_for(run: &mut Child, folder: &Path, languages: usize) {
    let patience = Instant::now() + Duration::from_secs(120);
    while finished(folder) < languages && run.try_wait().unwrap().is_none() {
        assert!(Instant::now() < patience, "no language was finished in two minutes");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_that_is_killed_twenty_times_ends_with_the_bytes_of_one_that_was_not() {
    let folder = TempDir::new().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    assert!(profile(&whole).status().unwrap().success());
    // A multiplicative generator: other moments in every round, the same in every run of the test.
    let mut seed: u64 = 20_261_124;
    for _ in 0..20 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut run = profile(&killed).spawn().unwrap();
        thread::sleep(Duration::from_millis(5 + (seed >> 33) % 250));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    assert!(profile(&killed).status().unwrap().success());
    assert_eq!(bytes_below(&whole), bytes_below(&killed));
}

#[test]
fn a_run_that_was_killed_in_its_first_breath_is_begun_again() {
    let folder = TempDir::new().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    assert!(profile(&whole).status().unwrap().success());
    // Killed between the first file's draft and its name.
    fs::create_dir(&killed).unwrap();
    fs::write(killed.join(".profile.json.part"), b"{").unwrap();
    assert!(profile(&killed).status().unwrap().success());
    assert_eq!(bytes_below(&whole), bytes_below(&killed));
}

#[test]
fn ctrl_c_ends_with_exit_code_3_and_the_same_command_recomputes_nothing_that_was_finished() {
    let folder = TempDir::new().unwrap();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    assert!(profile(&whole).status().unwrap().success());
    let mut run = profile(&stopped).spawn().unwrap();
    wait_for(&mut run, &stopped, 3);
    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(3));
    let times = |folder: &Path| -> BTreeMap<PathBuf, std::time::SystemTime> {
        let entries = fs::read_dir(folder.join("counts")).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::metadata(&path).unwrap().modified().unwrap())).collect()
    };
    let before = times(&stopped);
    assert!((3..24).contains(&before.len()), "{} languages were finished", before.len());
    assert!(profile(&stopped).status().unwrap().success());
    let after = times(&stopped);
    assert!(before.iter().all(|(path, time)| after[path] == *time));
    assert_eq!(bytes_below(&whole), bytes_below(&stopped));
}

#[test]
fn shards_merged_are_the_bytes_of_one_run() {
    let folder = TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name);
    assert!(profile(&place("whole")).status().unwrap().success());
    for shard in ["1/3", "2/3", "3/3"] {
        let out = place(&shard.replace('/', "-"));
        assert!(profile(&out).args(["--shard", shard]).status().unwrap().success());
        assert_eq!(finished(&out), 8);
    }
    let mut merge = Command::new(env!("CARGO_BIN_EXE_neuroglot"));
    merge.arg("merge").args([place("1-3"), place("2-3"), place("3-3")]).arg("--out").arg(place("merged"));
    assert!(merge.stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(bytes_below(&place("whole")), bytes_below(&place("merged")));
}

#[test]
fn a_profile_read_back_has_the_tokens_and_counts_that_were_run() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    assert!(profile(&out).status().unwrap().success());
    let profile = ProfileFolder::open(&out).unwrap();
    for language in profile.languages().unwrap() {
        let found = profile.read(language).unwrap();
        assert_eq!(found.coverage.tokens, 1024);
        assert_eq!(found.coverage.fold_tokens.iter().sum::<u64>(), 1024);
        for (active, &tokens) in found.tally.active.iter().zip(&found.coverage.fold_tokens) {
            assert!(active.iter().all(|&n| n <= tokens));
            assert!(active.iter().any(|&n| n > 0));
        }
        // Σx² ≥ (Σx)² / n for any numbers (Cauchy and Schwarz).
        for (sum, sum_sq) in found.tally.sum.iter().zip(&found.tally.sum_sq) {
            assert!(sum_sq * 1024.0 >= sum * sum * (1.0 - 1e-9));
        }
    }
}

fn shared(path: &str) -> PathBuf {
    let folder =
        std::env::var_os("NEUROGLOT_SHARED").expect("NEUROGLOT_SHARED names the folder with the reference counts");
    PathBuf::from(folder).join(path)
}

fn smollm2() -> PathBuf {
    std::env::var_os("NEUROGLOT_SMOLLM2").expect("NEUROGLOT_SMOLLM2 names the folder of SmolLM2-135M in f32").into()
}

#[test]
#[ignore = "needs SmolLM2-135M and its reference counts: set NEUROGLOT_SMOLLM2 and NEUROGLOT_SHARED"]
fn smollm2s_counts_on_twelve_languages_are_those_of_transformers() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let counts = shared("reference/smollm2-counts");
    let mut command = Command::new(env!("CARGO_BIN_EXE_neuroglot"));
    command.args(["profile", "--quiet", "--tokens", "4096", "--model"]).arg(smollm2());
    command.args(["--corpus", &format!("ids:{}", counts.display()), "--out"]).arg(&out);
    assert!(command.status().unwrap().success());
    let profile = ProfileFolder::open(&out).unwrap();
    let languages = profile.languages().unwrap();
    assert_eq!(languages.len(), 12);
    for language in languages {
        let file = fs::read(counts.join(format!("{language}.safetensors"))).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&file).unwrap();
        let (active, near_zero) = (integers(&reference, "active"), integers(&reference, "near_zero"));
        let reader = CountsReader::open(&out.join(format!("counts/{language}.parquet"))).unwrap();
        let table = reader.read(profile.head.model.spec.ffn).unwrap();
        let folds = &table.tallies[0].active;
        let mut total = 0;
        for (neuron, &wanted) in active.iter().enumerate() {
            let found: u64 = folds.iter().map(|fold| fold[neuron]).sum();
            let difference = found.abs_diff(wanted);
            total += difference;
            assert!(difference <= near_zero[neuron * 3 + 2], "{language} neuron {neuron}: {found}, reference {wanted}");
        }
        let allowed = 1e-6 * 4096.0 * active.len() as f64;
        assert!(total as f64 <= allowed, "{language}: {total} differences, {allowed} allowed");
        println!("{language}: {total} of {allowed:.0} allowed differences");
    }
}

fn integers(file: &safetensors::SafeTensors, name: &str) -> Vec<u64> {
    let tensor = file.tensor(name).unwrap();
    let width = tensor.data().len() / tensor.shape().iter().product::<usize>();
    let value = |bytes: &[u8]| match width {
        4 => u64::try_from(i32::from_le_bytes(bytes.try_into().unwrap())).unwrap(),
        8 => u64::try_from(i64::from_le_bytes(bytes.try_into().unwrap())).unwrap(),
        2 => u64::try_from(i16::from_le_bytes(bytes.try_into().unwrap())).unwrap(),
        other => panic!("{name} has integers of {other} bytes"),
    };
    tensor.data().chunks_exact(width).map(value).collect()
}

#[test]
#[ignore = "needs SmolLM2-135M and its reference counts: set NEUROGLOT_SMOLLM2 and NEUROGLOT_SHARED"]
fn smollm2s_perplexities_are_those_of_transformers() {
    let counts = shared("reference/smollm2-counts");
    let meta: serde_json::Value = serde_json::from_slice(&fs::read(counts.join("meta.json")).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&smollm2()).unwrap();
    let cpu = candle_core::Device::Cpu;
    let decoder = Decoder::load(&checkpoint, candle_core::DType::F32, &cpu, Operators::Inference).unwrap();
    let spec = format!("ids:{}", counts.display()).parse().unwrap();
    let corpus: Box<dyn Corpus> = corpus::open(&spec, &CorpusOptions::default()).unwrap();
    for language in corpus.languages() {
        // The reference scored the first two windows: 2 · 511 next tokens.
        let windows = corpus.documents(language, Split::All).unwrap().take(2);
        let ids: Vec<u32> = windows
            .flat_map(|window| match window.unwrap() {
                Document::Ids(ids) => ids,
                Document::Text(_) => unreachable!("an ids corpus has ids"),
            })
            .collect();
        let ids = candle_core::Tensor::from_vec(ids, (2, 512), &cpu).unwrap();
        let nll: f64 =
            decoder.nll(&ids).unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).sum::<f64>() / 2.0;
        let wanted = meta[language.to_string()]["ppl"].as_f64().unwrap();
        let difference = (nll.exp() - wanted).abs() / wanted;
        assert!(difference < 1e-3, "{language}: perplexity {} here, {wanted} in the reference", nll.exp());
        println!(
            "{language}: perplexity {:.4}, reference {wanted:.4}, relative difference {difference:.1e}",
            nll.exp()
        );
    }
}
