//! `compare`: the same language in two atlases, languages of one atlas, and what cannot be compared.

use insta::assert_snapshot;
use neuroglot::{
    atlas::{Shared, pth},
    neuron::{FfnShape, NeuronSet},
};
use proptest::prelude::*;
use serde_json::Value;

use crate::harness::{Sandbox, TINY};

/// Two atlases of masks over two layers of 48 neurons: `one` has Welsh, Maltese and French, `other` French, Welsh and Georgian.
fn two() -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.write("model/config.json", std::fs::read(format!("{TINY}/config.json")).unwrap());
    let masks = |name: &str, lists: [[Vec<u32>; 2]; 3]| {
        sandbox.write(name, pth::lists(&lists.iter().map(<[Vec<u32>; 2]>::as_slice).collect::<Vec<_>>()));
    };
    masks("one.pth", [[vec![0, 3, 17, 47], vec![5]], [vec![], vec![]], [vec![1, 3, 40], vec![0, 5, 6, 7, 46]]]);
    masks("other.pth", [[vec![3, 41], vec![5, 6, 7]], [vec![0, 1, 2, 3], vec![]], [vec![9], vec![]]]);
    sandbox.run("import one.pth --model model --model-id base --languages cy,mt,fr --out one").done();
    sandbox
        .run("import other.pth --model model --model-id tuned --languages fr,cy,ka --out other --top-rate 0.1")
        .done();
    sandbox
}

#[test]
fn two_atlases_are_compared_language_by_language() {
    let sandbox = two();
    // Welsh: 5 and 4 neurons, {0, 3} of layer 0 in both: 2 of 7. French: 8 and 5, {3; 5, 6, 7}: 4 of 9.
    assert_snapshot!(sandbox.run("compare one other").done().text(), @r"
    exit code 0
    stdout: A: one, base by lape at 0.1146 among 3 languages, run [HASH], imported from one.pth, SHA-256 [HASH]
    B: other, tuned by lape at 0.1000 among 3 languages, run [HASH], imported from other.pth, SHA-256 [HASH]
    2 layers × 48 neurons

    languages                in A      in B    shared by chance  Jaccard  overlap
    cym_Latn                    5         4         2       0.3    0.286    0.500
    fra_Latn                    8         5         4       0.4    0.444    0.800
    ");
}

#[test]
fn one_language_of_two_atlases_is_compared_layer_by_layer() {
    let sandbox = two();
    assert_snapshot!(sandbox.run("compare one other --languages French").done().text(), @r"
    exit code 0
    stdout: A: one, base by lape at 0.1146 among 3 languages, run [HASH], imported from one.pth, SHA-256 [HASH]
    B: other, tuned by lape at 0.1000 among 3 languages, run [HASH], imported from other.pth, SHA-256 [HASH]
    2 layers × 48 neurons

    languages                in A      in B    shared by chance  Jaccard  overlap
    fra_Latn                    8         5         4       0.4    0.444    0.800

    fra_Latn layer           in A      in B    shared by chance  Jaccard  overlap
    0                           3         2         1       0.1    0.250    0.500
    1                           5         3         3       0.3    0.600    1.000
    ");
}

#[test]
fn languages_of_one_atlas_are_compared_in_pairs() {
    let sandbox = two();
    assert_snapshot!(sandbox.run("compare one --languages Welsh,fr,mt --by-layer").done().text(), @r"
    exit code 0
    stdout: one, base by lape at 0.1146 among 3 languages, run [HASH], imported from one.pth, SHA-256 [HASH]
    2 layers × 48 neurons

    languages                in A      in B    shared by chance  Jaccard  overlap
    cym_Latn fra_Latn           5         8         2       0.4    0.182    0.400
    cym_Latn mlt_Latn           5         0         0       0.0    0.000        –
    fra_Latn mlt_Latn           8         0         0       0.0    0.000        –

    cym_Latn fra_Latn layer      in A      in B    shared by chance  Jaccard  overlap
    0                           4         3         1       0.2    0.167    0.333
    1                           1         5         1       0.1    0.200    1.000

    cym_Latn mlt_Latn layer      in A      in B    shared by chance  Jaccard  overlap
    0                           4         0         0       0.0    0.000        –
    1                           1         0         0       0.0    0.000        –

    fra_Latn mlt_Latn layer      in A      in B    shared by chance  Jaccard  overlap
    0                           3         0         0       0.0    0.000        –
    1                           5         0         0       0.0    0.000        –
    ");
    let all = sandbox.run("compare one --json").done();
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(all["pairs"].as_array().unwrap().len(), 3);
    let pair = &all["pairs"][0];
    assert_eq!((pair["language_a"].as_str(), pair["language_b"].as_str()), (Some("cym_Latn"), Some("fra_Latn")));
    assert_eq!(
        (pair["neurons_a"].as_u64(), pair["neurons_b"].as_u64(), pair["shared"].as_u64()),
        (Some(5), Some(8), Some(2))
    );
    assert_eq!((pair["jaccard"].as_f64(), pair["overlap_coefficient"].as_f64()), (Some(2.0 / 11.0), Some(0.4)));
    assert_eq!(pair["layers"][1]["shared"], 1);
    assert_eq!(pair["layers"][1]["shared_by_chance"].as_f64(), Some(1.0 * 5.0 / 48.0));
    assert!(all["pairs"][1]["overlap_coefficient"].is_null(), "a language without neurons overlaps with none");
    assert_eq!((all["a"]["model"].as_str(), all["shape"]["width"].as_u64()), (Some("base"), Some(48)));
}

#[test]
fn what_cannot_be_compared_is_refused_in_words() {
    let sandbox = two();
    let said = |arguments: &str| sandbox.run(arguments).text();
    assert_snapshot!(said("compare one other --languages mt"), @r"
    exit code 1
    error: other: mlt_Latn is not among the 3 languages of this atlas
    ");
    assert_snapshot!(said("compare one --languages mt"), @"");
    assert_snapshot!(said("compare one --languages mt,mlt"), @"");
    assert_snapshot!(said("compare one other --method random"), @"");
    assert_snapshot!(said("compare one other --model base"), @"");
    assert_snapshot!(said("compare one other --top-rate 0.5"), @"");
    assert_snapshot!(said("compare one model"), @"");
    sandbox.config("intermediate_size", 49);
    sandbox.run("import one.pth --model model --languages ka,de,pl --out wide").done();
    assert_snapshot!(said("compare one wide"), @"");
    sandbox.config("intermediate_size", 48);
    sandbox.run("import one.pth --model model --languages ka,de,pl --out foreign").done();
    assert_snapshot!(said("compare one foreign"), @"");
}

#[test]
fn methods_and_rates_of_one_atlas_are_two_sides_of_it() {
    let sandbox = Sandbox::new().with_atlas();
    sandbox.run("identify out --out atlas --method random --top-rate 0.1").done();
    let said = sandbox.run("compare atlas --method lape --method random --json").done();
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said["a"]["method"].as_str(), said["b"]["method"].as_str()), (Some("lape"), Some("random")));
    assert_eq!(said["pairs"].as_array().unwrap().len(), 3, "every language with itself");
    assert_eq!(said["pairs"][0]["language_a"], said["pairs"][0]["language_b"]);
}

proptest! {
    #[test]
    fn what_two_sets_share_does_not_depend_on_their_order_and_layers_add_up(
        layers in 1usize..5,
        width in 1usize..40,
        places in proptest::collection::vec((0usize..5, 0usize..40, 0u8..4), 0..100),
    ) {
        let shape = FfnShape::dense(layers, width);
        let ids = |bit: u8| {
            let inside = places.iter().filter(move |(layer, index, of)| *layer < layers && *index < width && of & bit != 0);
            inside.map(|&(layer, index, _)| neuroglot::neuron::NeuronId::dense(layer, index))
        };
        let (a, b) = (NeuronSet::new(shape, ids(1)), NeuronSet::new(shape, ids(2)));
        let (one, other) = (Shared::of(&a, &b), Shared::of(&b, &a));
        prop_assert_eq!((one.neurons_a, one.neurons_b), (other.neurons_b, other.neurons_a));
        prop_assert_eq!((one.shared, one.jaccard, one.overlap_coefficient), (other.shared, other.jaccard, other.overlap_coefficient));
        prop_assert_eq!(one.shared, a.iter().filter(|&neuron| b.contains(neuron)).count());
        let by_layer = Shared::by_layer(&a, &b);
        prop_assert_eq!(one.shared, by_layer.iter().map(|layer| layer.shared).sum::<usize>());
        prop_assert!(one.jaccard.is_none_or(|jaccard| (0.0..=1.0).contains(&jaccard)));
        let same = Shared::of(&a, &a);
        prop_assert_eq!((same.jaccard, same.overlap_coefficient), if a.is_empty() { (None, None) } else { (Some(1.0), Some(1.0)) });
    }
}
