//! Atlases, and the profiles that they are made of.

use std::fs;

use neuroglot::output::sha256;
use serde_json::{Value, json};

use super::{Log, Whole, hostile_safetensors, parquet, safetensors};
use crate::harness::Sandbox;

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
