//! LoRA and (IA)³ as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.

use std::{io::Write, path::Path};

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::{
    AdaptError, Choice,
    run::head,
    trainable::{Trainable, values},
};
use crate::{
    model::{Architecture, Projection, Site, family::Fused, patch::Part},
    output::{self, Draft, OutputError},
};

/// Prefixes under which transformers' modules are called what the checkpoint's tensors are.
const PREFIXES: [&str; 4] = ["model.", "transformer.", "gpt_neox.", "model.decoder."];

/// Whether a method has a form that PEFT reads, of a model of this architecture.
#[must_use]
pub fn exports(method: &str, architecture: &Architecture) -> bool {
    let projections: &[Projection] = match method {
        "lora" => &[Projection::Gate, Projection::Up, Projection::Down],
        "ia3" => &[Projection::Key, Projection::Value, Projection::Down],
        _ => return false,
    };
    let whole = |projection: &Projection| {
        let place = architecture.place(Site { layer: 0, projection: *projection });
        place.is_none_or(|place| place.cut.part == Part::Whole)
    };
    let apart = method != "ia3" || matches!(architecture.names.attention, Fused::Apart(_));
    apart && PREFIXES.contains(&architecture.names.prefix.as_str()) && projections.iter().all(whole)
}

/// Writes an adapter for PEFT.
///
/// # Errors
/// When the method or the family has no such form, or the folder cannot be written to.
pub fn adapter(
    folder: &Path,
    method: &str,
    base: &str,
    choice: &Choice,
    trainable: &Trainable,
) -> Result<(), AdaptError> {
    let architecture = choice.architecture;
    if !exports(method, architecture) {
        return Err(AdaptError::NoAdapter { method: method.to_owned() });
    }
    let transposed = architecture.names.transposed;
    let mut modules = std::collections::BTreeSet::new();
    let mut feed_forward = std::collections::BTreeSet::new();
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (site, patch) in &trainable.patches {
        let Some(place) = architecture.place(*site) else { continue };
        let module = place.stem.rsplit('.').next().unwrap_or_default().to_owned();
        if site.projection.is_ffn() {
            feed_forward.insert(module.clone());
        }
        modules.insert(module);
        for (name, var) in patch.vars() {
            let stem = format!("base_model.model.{}", place.stem);
            tensors.push(match (method, site.projection) {
                ("lora", _) => (format!("{stem}.{name}.weight"), var.as_tensor().clone()),
                (_, Projection::Down) => (format!("{stem}.ia3_l"), var.unsqueeze(0)?),
                _ => (format!("{stem}.ia3_l"), var.unsqueeze(1)?),
            });
        }
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut config = json!({
        "base_model_name_or_path": base,
        "fan_in_fan_out": transposed,
        "inference_mode": true,
        "modules_to_save": null,
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
    });
    let own = if method == "lora" {
        json!({
            "peft_type": "LORA", "r": choice.rank, "lora_alpha": choice.alpha, "lora_dropout": choice.dropout,
            "bias": "none", "init_lora_weights": true,
        })
    } else {
        json!({ "peft_type": "IA3", "feedforward_modules": feed_forward, "init_ia3_weights": true })
    };
    for (name, value) in own.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    write(&folder.join("adapter_model.safetensors"), &tensors)?;
    output::write(&folder.join("adapter_config.json"), &serde_json::to_vec_pretty(&config).expect("plain data"))?;
    Ok(())
}

fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), AdaptError> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += 4 * tensor.elem_count();
        let entry: Value = json!({ "dtype": "F32", "shape": tensor.dims(), "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let failed = |source| OutputError { path: path.to_owned(), source };
    let mut draft = Draft::new(path)?;
    draft.write_all(&head(&header)).map_err(failed)?;
    for (_, tensor) in tensors {
        for value in values(tensor)? {
            draft.write_all(&value.to_le_bytes()).map_err(failed)?;
        }
    }
    draft.keep()?;
    Ok(())
}
