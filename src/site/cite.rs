//! How to cite the atlas, the papers behind it, and one page of it.

use serde_json::json;

use super::{Sheet, Spot, data, words};

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let braces = |text: &str| text.replace(['{', '}', '\\'], "");
    let run = &view.identify.run;
    let url =
        spot.site.url.as_ref().map_or_else(String::new, |url| {
            format!("  url   = {{{}}},\n", url.page(&format!("{}/index", view.folder)))
        });
    let atlas = format!(
        "@misc{{neuroglot-{run},\n  title = {{Language neurons of {}}},\n  note  = {{neuroglot {}, run {run}, {} languages, rate {}}},\n{url}}}",
        braces(&view.model.id),
        env!("CARGO_PKG_VERSION"),
        view.languages.len(),
        view.rate().map(|rate| rate.rate).unwrap_or_default(),
    );
    Sheet {
        template: "cite.html",
        title: "Cite".to_owned(),
        description: format!(
            "How to cite the language neurons of {}, and the papers of the method.",
            words::isolated(&view.model.id)
        ),
        own: json!({ "citation": atlas, "runs": data::runs(spot), "licence": view.atlas.manifest.licence }),
        art: json!({}),
        figures: Vec::new(),
    }
}
