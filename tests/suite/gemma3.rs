//! Gemma 3 270M from its GGUF file against transformers (recorded by tests/oracles/gemma3.py).

use std::path::{Path as FilePath, PathBuf};

use candle_core::{DType, Device, IndexOp, Tensor};
use neuroglot::{
    checkpoint::Checkpoint,
    model::{Decoder, Path, Unobserved},
};

use crate::tensors::{counts_agree, fixture, ids, largest_difference, tally};

fn file() -> PathBuf {
    PathBuf::from(std::env::var("NEUROGLOT_GEMMA3_GGUF").expect("NEUROGLOT_GEMMA3_GGUF names the file"))
}

fn reference() -> std::collections::HashMap<String, Tensor> {
    fixture(&FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gemma3-270m.safetensors"))
}

#[test]
#[ignore = "needs Gemma-3-270M as GGUF: set NEUROGLOT_GEMMA3_GGUF"]
fn gemma_3_in_five_languages_has_the_logits_and_counts_of_transformers() {
    let checkpoint = Checkpoint::open(&file()).unwrap();
    let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap();
    let reference = reference();
    let positions = Tensor::from_iter((0..8u32).map(|i| 16 * i + 15), &Device::Cpu).unwrap();
    let vocabulary = Tensor::from_iter((0..512u32).map(|i| 512 * i), &Device::Cpu).unwrap();
    for code in ["fra_Latn", "hin_Deva", "jpn_Jpan", "mlt_Latn", "rus_Cyrl"] {
        let ids = ids(&reference[&format!("ids_{code}")]);
        let logits = decoder.logits(&ids, &mut Unobserved).unwrap().i(0).unwrap();
        let picked = logits.index_select(&positions, 0).unwrap().index_select(&vocabulary, 1).unwrap();
        let difference = largest_difference(&picked, &reference[&format!("logits_{code}")]);
        assert!(difference < 1e-3, "{code}: logits differ by {difference}");
        let counted = tally(&decoder, &ids, |tally| decoder.observe(&ids, tally).unwrap());
        let (active, near_zero) = (&reference[&format!("active_{code}")], &reference[&format!("near_zero_{code}")]);
        counts_agree(&counted.active[0], active, near_zero).unwrap_or_else(|why| panic!("{code}: {why}"));
        println!("{code}: logits within {difference:.1e}");
    }
}

#[test]
#[ignore = "needs Gemma-3-270M as GGUF: set NEUROGLOT_GEMMA3_GGUF"]
fn gemma_3_continues_text_as_in_transformers() {
    let checkpoint = Checkpoint::open(&file()).unwrap();
    let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap();
    let tokenizer = checkpoint.tokenizer(decoder.spec().vocabulary).unwrap();
    let reference = reference();
    for code in ["fra_Latn", "hin_Deva", "jpn_Jpan", "rus_Cyrl"] {
        let mut text: Vec<u32> = ids(&reference[&format!("prompt_{code}")]).flatten_all().unwrap().to_vec1().unwrap();
        let wanted: Vec<u32> = ids(&reference[&format!("continuation_{code}")]).to_vec1().unwrap();
        let start = text.len();
        for _ in 0..wanted.len() {
            let window = Tensor::new(text.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let logits = decoder.logits(&window, &mut Unobserved).unwrap();
            let last = logits.i((0, text.len() - 1)).unwrap();
            text.push(last.argmax(0).unwrap().to_scalar().unwrap());
        }
        println!("{code}: {}", tokenizer.decode(&text, true).unwrap());
        assert_eq!(text[start..], wanted, "{code}");
    }
}
