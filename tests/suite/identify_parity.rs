//! The published script's own answer on real counts, reproduced to the bit.

use std::path::PathBuf;

use neuroglot::identify::{Arithmetic, Identifier, LanguageCounts, Lape, Profiles};
use neuroglot::language::LanguageCode;
use neuroglot::neuron::FfnShape;
use safetensors::SafeTensors;
use serde_json::Value;

#[test]
#[ignore = "needs the reference counts: set NEUROGLOT_SHARED"]
fn reference_arithmetic_reproduces_the_published_masks_bit_for_bit() {
    let folder =
        PathBuf::from(std::env::var("NEUROGLOT_SHARED").expect("NEUROGLOT_SHARED names a folder")).join("reference");
    let published: Value = json(&folder.join("lape-smollm2-top0.05.json"));
    let codes: Vec<LanguageCode> =
        published["languages"].as_array().unwrap().iter().map(|code| code.as_str().unwrap().parse().unwrap()).collect();
    let meta = json(&folder.join("smollm2-counts/meta.json"));
    let counts = codes.iter().map(|&code| counts(&folder, code, meta[code.to_string()]["n"].as_u64().unwrap()));
    let profiles = Profiles::new(FfnShape::dense(30, 1536), counts.collect()).unwrap();

    let selection = Lape { arithmetic: Arithmetic::Reference, ..Lape::default() }.identify(&profiles).unwrap();

    assert_eq!(selection.filter_bar, Some(0.932_617_187_5));
    assert_eq!(selection.activation_bar, Some(0.932_617_187_5));
    assert_eq!(selection.finite as u64, published["neurons_after_filter"].as_u64().unwrap());
    assert_eq!(selection.neurons.len() as u64, published["selected"].as_u64().unwrap());
    assert_eq!(selection.union().len() as u64, published["union"].as_u64().unwrap());
    for (language, code) in codes.iter().enumerate() {
        let set = selection.set(language);
        let mask: Vec<Vec<u32>> = serde_json::from_value(published["masks"][code.to_string()].clone()).unwrap();
        assert_eq!(set.layers(), mask, "{code}");
        assert_eq!(set.len() as u64, published["per_language"][code.to_string()].as_u64().unwrap(), "{code}");
    }
    // Equal to the bit with glibc's logarithm; another library's may differ in the last bits of an f32.
    let cut = published["entropy_cut"].as_f64().unwrap();
    assert!((selection.entropy_cut.unwrap() - cut).abs() < 1e-6);
}

fn json(path: &PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn counts(folder: &std::path::Path, language: LanguageCode, tokens: u64) -> LanguageCounts {
    let bytes = std::fs::read(folder.join(format!("smollm2-counts/{language}.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let active = tensors.tensor("active").unwrap();
    assert_eq!((active.dtype(), active.shape()), (safetensors::Dtype::I32, &[30, 1536][..]));
    let active = active.data().chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
    LanguageCounts { language, fold_tokens: vec![tokens], active, fold_active: Vec::new(), fold_routed: Vec::new() }
}
