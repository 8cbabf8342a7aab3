//! What training a language's neurons changed, where there are results.

use serde_json::json;

use super::{Sheet, Spot, words};

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let model = words::isolated(&view.model.id);
    let folder = format!("data/adaptation/{}/", view.folder);
    let tables = view.atlas.manifest.files.iter().filter(|file| file.path.starts_with(&folder));
    let tables =
        tables.map(|file| json!({ "path": file.path, "bytes_text": words::bytes(file.bytes), "sha256": file.sha256 }));
    Sheet {
        template: "adaptation.html",
        title: spot.say("Adaptation of {model}", &[("model", &model)]),
        description: spot
            .say("What training only a language’s neurons of {model} changed, before and after.", &[("model", &model)]),
        own: json!({ "tables": tables.collect::<Vec<_>>() }),
        art: json!({}),
        figures: Vec::new(),
    }
}
