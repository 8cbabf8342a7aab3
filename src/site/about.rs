//! What this site is, what it does not do, and how to move about in it.

use serde_json::json;

use super::{Sheet, Spot};

pub fn sheet(spot: &Spot) -> Sheet {
    let models =
        spot.site.views.iter().map(
            |view| json!({ "id": view.model.id, "languages": view.languages.len(), "licence": view.model.licence }),
        );
    Sheet {
        template: "about.html",
        title: "About".to_owned(),
        description: "What this atlas is for, who made its parts, and how to use it by keyboard or screen reader."
            .to_owned(),
        own: json!({ "about": { "models": models.collect::<Vec<_>>() } }),
        art: json!({}),
        figures: Vec::new(),
    }
}
