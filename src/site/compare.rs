//! Two languages side by side: the nearest pair without JavaScript, any pair with it.

use std::{collections::BTreeSet, fmt::Write};

use serde_json::{Value, json};

use super::{Sheet, Spot, figure, view::View, words};
use crate::{
    atlas::{LanguageRow, NeuronRow},
    neuron::NeuronId,
};

/// Pairs that the table lists.
const PAIRS: usize = 50;
/// Shared neurons that the table lists.
const SHOWN: usize = 40;

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let model = words::isolated(&view.model.id);
    let pairs = closest(view);
    let pair = pairs.first().and_then(|pair| Some((view.language(pair.0)?, view.language(pair.1)?)));
    let (compared, art, figures) = pair.map_or_else(
        || (Value::Null, json!({}), Vec::new()),
        |(a, b)| {
            let pair = Pair::new(view, a, b);
            let data = pair.data(spot);
            let art = pair.art();
            let figures = pair.figures(&data);
            (data, art, figures)
        },
    );
    let listed = pairs.iter().take(PAIRS).filter_map(|&(a, b, jaccard, shared)| {
        let (first, second) = (view.language(a)?, view.language(b)?);
        let relation = if first.family == second.family {
            spot.say("one family", &[])
        } else if a.script() == b.script() {
            spot.say("one script", &[])
        } else {
            spot.say("neither family nor script", &[])
        };
        Some(json!({
            "a": name(spot, first), "b": name(spot, second), "jaccard": jaccard, "jaccard_text": spot.decimal(Some(jaccard), 2),
            "shared": shared, "shared_text": spot.integer(shared), "relation": relation,
            "href": format!("compare.html#a={a}&b={b}"),
        }))
    });
    Sheet {
        template: "compare.html",
        title: spot.say("Compare two languages in {model}", &[("model", &model)]),
        description: spot.say(
            "Neurons of {model} that two languages share and those that each has for itself, side by side.",
            &[("model", &model)],
        ),
        own: json!({
            "languages": view.languages.iter().map(|language| json!({ "code": language.code, "name": language.name })).collect::<Vec<_>>(),
            "compared": compared,
            "pairs": listed.collect::<Vec<_>>(),
            "pairs_caption": pairs_caption(spot, &pairs),
        }),
        art,
        figures,
    }
}

type Near = (crate::language::LanguageCode, crate::language::LanguageCode, f64, usize);

/// Pairs that share a neuron, the nearest first.
pub fn closest(view: &View) -> Vec<Near> {
    let mut pairs: Vec<Near> = view
        .tables
        .overlap
        .iter()
        .filter(|row| row.shared > 0)
        .filter_map(|row| Some((row.language_a, row.language_b, row.jaccard?, row.shared)))
        .collect();
    pairs.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.3.cmp(&a.3)).then((a.0, a.1).cmp(&(b.0, b.1))));
    pairs
}

fn pairs_caption(spot: &Spot, pairs: &[Near]) -> String {
    let view = spot.view;
    let Some((.., largest, _)) = pairs.first() else {
        return spot.say("No two languages share a neuron.", &[]);
    };
    let shown: Vec<&Near> = pairs.iter().take(PAIRS).collect();
    let related = shown
        .iter()
        .filter(|(a, b, ..)| view.language(*a).zip(view.language(*b)).is_some_and(|(a, b)| a.family == b.family));
    spot.say(
        "The {pairs} closest pairs of languages; {related} of them are of one family. The closest has a Jaccard index of {largest}.",
        &[
            ("pairs", &spot.integer(shown.len())),
            ("related", &spot.integer(related.count())),
            ("largest", &spot.decimal(Some(*largest), 2)),
        ],
    )
}

fn name(spot: &Spot, language: &LanguageRow) -> Value {
    json!({
        "code": language.code, "name": language.name, "autonym": language.autonym.as_ref().unwrap_or(&language.name),
        "bcp47": language.bcp47, "href": format!("{}{}.html", spot.pages(spot.view), language.code),
    })
}

/// Two languages and their neurons.
struct Pair<'a> {
    view: &'a View<'a>,
    a: &'a LanguageRow,
    b: &'a LanguageRow,
    both: Vec<(&'a NeuronRow, &'a NeuronRow)>,
    only: [Vec<&'a NeuronRow>; 2],
}

impl<'a> Pair<'a> {
    fn new(view: &'a View<'a>, a: &'a LanguageRow, b: &'a LanguageRow) -> Self {
        let [rows_a, rows_b] = [a, b].map(|language| view.tables.of(language.code));
        let find = |rows: &'a [NeuronRow], id: NeuronId| {
            rows.binary_search_by_key(&id, NeuronRow::id).ok().map(|at| &rows[at])
        };
        let mut both: Vec<_> = rows_a.iter().filter_map(|row| Some((row, find(rows_b, row.id())?))).collect();
        both.sort_by_key(|(row, _)| row.rank);
        let alone = |rows: &'a [NeuronRow], others: &'a [NeuronRow]| {
            rows.iter().filter(|row| find(others, row.id()).is_none()).collect()
        };
        Self { view, a, b, both, only: [alone(rows_a, rows_b), alone(rows_b, rows_a)] }
    }

    fn data(&self, spot: &Spot) -> Value {
        let view = self.view;
        let [a, b] = [self.a, self.b].map(|language| words::isolated(&language.name));
        let totals = [self.a, self.b].map(|language| view.sizes(language.code).0);
        let overlap = view.overlap(self.a.code, self.b.code);
        let shares = |language: &LanguageRow| view.shares(language.code);
        let (of_a, of_b) = (shares(self.a), shares(self.b));
        let layers = (0..view.model.layers).map(|layer| {
            let of = |shares: &Option<Vec<f64>>| shares.as_ref().map(|shares| shares[layer]);
            let text = |share: Option<f64>| share.map_or_else(|| "–".to_owned(), |share| spot.percent(share));
            let both = self.both.iter().filter(|(row, _)| row.layer == layer).count();
            json!({
                "layer": layer, "a": of(&of_a), "b": of(&of_b), "a_text": text(of(&of_a)), "b_text": text(of(&of_b)), "both": both,
            })
        });
        let largest = of_a.iter().chain(&of_b).flatten().copied().fold(0.0, f64::max);
        let (ticks, axis_max) = figure::ticks(largest);
        let shared = self.both.iter().take(SHOWN).map(|(row_a, row_b)| {
            let anchor = if view.model.shape().is_routed() {
                format!("n-{}-{}-{}", row_a.layer, row_a.expert, row_a.neuron)
            } else {
                format!("n-{}-{}", row_a.layer, row_a.neuron)
            };
            let number = |value: Option<f32>| spot.decimal(value.map(f64::from), 3);
            json!({
                "id": anchor.replacen("n-", "L", 1).replace('-', "·"), "href": format!("{}.html#{anchor}", self.a.code),
                "a_text": number(row_a.probability), "b_text": number(row_b.probability), "languages": row_a.languages,
                "entropy_text": spot.decimal(row_a.entropy.map(f64::from), 2),
            })
        });
        json!({
            "a": name(spot, self.a), "b": name(spot, self.b),
            "finding": spot.count(
                self.both.len(),
                "{a} and {b} share {n} neuron, out of {total_a} that serve {a} and {total_b} that serve {b}.",
                "{a} and {b} share {n} neurons, out of {total_a} that serve {a} and {total_b} that serve {b}.",
                &[("a", &a), ("b", &b), ("total_a", &spot.integer(totals[0])), ("total_b", &spot.integer(totals[1]))],
            ),
            "both": self.both.len(), "both_text": spot.integer(self.both.len()),
            "only_a": self.only[0].len(), "only_a_text": spot.integer(self.only[0].len()),
            "only_b": self.only[1].len(), "only_b_text": spot.integer(self.only[1].len()),
            "jaccard": overlap.and_then(|row| row.jaccard), "jaccard_text": spot.decimal(overlap.and_then(|row| row.jaccard), 2),
            "coefficient_text": spot.decimal(overlap.and_then(|row| row.overlap_coefficient), 2),
            "cosine_text": spot.decimal(overlap.and_then(|row| row.cosine), 3),
            "layers": layers.collect::<Vec<_>>(),
            "ticks": ticks.into_iter().map(|value| json!({ "value": value, "text": spot.percent(value) })).collect::<Vec<_>>(),
            "axis_max": axis_max,
            "neurons": shared.collect::<Vec<_>>(),
        })
    }

    /// Up serves the one, down the other, through the line serves both.
    fn art(&self) -> Value {
        let view = self.view;
        let height = figure::row_height(view.model.layers).max(16);
        let reach = height / 2 - 1;
        let layers = view.model.layers;
        let columns = |rows: &mut dyn Iterator<Item = &NeuronRow>| {
            let mut columns = vec![BTreeSet::new(); layers];
            for row in rows {
                columns[row.layer].insert(view.neurons[&row.id()].column);
            }
            columns
        };
        let up = columns(&mut self.only[0].iter().copied());
        let down = columns(&mut self.only[1].iter().copied());
        let through = columns(&mut self.both.iter().map(|(row, _)| *row));
        let path = |columns: &BTreeSet<usize>, tail: &str| {
            columns.iter().fold(String::new(), |mut path, x| {
                let _ = write!(path, "M{x} {tail}");
                path
            })
        };
        let rows = (0..layers).map(|layer| {
            json!({
                "y": (layers - layer) * height - height / 2,
                "a": path(&up[layer], &format!("0v-{reach}")), "b": path(&down[layer], &format!("0v{reach}")),
                "both": path(&through[layer], &format!("-{reach}v{}", reach * 2)),
            })
        });
        let axis =
            (0..layers).filter(|&layer| layers <= 12 || layer + 1 == layers || layer % 5 == 0 && layer + 2 < layers);
        let axis = axis.map(|layer| json!({ "y": (layers - layer) * height - height / 2 + 4, "text": layer }));
        json!({
            "row": height, "height": layers * height, "width": view.columns(), "rows": rows.collect::<Vec<_>>(),
            "axis": axis.collect::<Vec<_>>(), "lines": self.lines(height),
        })
    }

    /// Two depth profiles in one plot, as thousandths of the axis.
    fn lines(&self, height: usize) -> Value {
        let view = self.view;
        let [a, b] = [self.a, self.b].map(|language| view.shares(language.code));
        let largest = a.iter().chain(&b).flatten().copied().fold(0.0, f64::max);
        let (_, axis_max) = figure::ticks(largest);
        let layers = view.model.layers;
        let line = |shares: &Option<Vec<f64>>| {
            let mut path = String::new();
            for (layer, share) in shares.iter().flatten().enumerate() {
                let sign = if layer == 0 { 'M' } else { 'L' };
                let _ =
                    write!(path, "{sign}{:.0} {}", share / axis_max * 1000.0, (layers - layer) * height - height / 2);
            }
            path
        };
        json!({ "a": line(&a), "b": line(&b) })
    }

    /// The depth profiles as a picture.
    fn profiles(&self, art: &Value, data: &Value) -> Vec<u8> {
        let height = art["height"].as_u64().unwrap_or(0) as usize;
        let title = format!("Depth profiles of {} and {} in {}", self.a.name, self.b.name, self.view.model.id);
        let caption = "Where the neurons of each lie: share per layer.";
        let mut picture = figure::Picture::new(720, height + 66, &title, caption, &figure::source(self.view));
        let axis_max = data["axis_max"].as_f64().unwrap_or(1.0);
        let mut grid = String::new();
        for tick in data["ticks"].as_array().into_iter().flatten() {
            let x = tick["value"].as_f64().unwrap_or(0.0) / axis_max;
            let _ = write!(grid, "M{:.0} 0v{height}", x * 1000.0);
            picture.text(56.0 + x * 620.0, height as f64 + 32.0, "middle", tick["text"].as_str().unwrap_or_default());
        }
        for tick in art["axis"].as_array().into_iter().flatten() {
            picture.text(46.0, tick["y"].as_f64().unwrap_or(0.0) + 14.0, "end", &tick["text"].to_string());
        }
        let line = |name: &str| art["lines"][name].as_str().unwrap_or_default();
        let plot = format!(
            "<path class=\"grid\" d=\"{grid}\"/><path class=\"m-shared\" stroke-dasharray=\"6 4\" d=\"{}\"/><path class=\"m-own\" d=\"{}\"/>",
            line("b"),
            line("a")
        );
        let key = format!("Whole line, blue: {}. Broken line, amber: {}.", self.a.name, self.b.name);
        picture.text(20.0, 8.0, "start", "Layer").text(56.0, height as f64 + 54.0, "start", &key);
        picture.plot((56.0, 14.0), (620.0, height as f64), (1000, height), &plot);
        picture.finish()
    }

    fn figures(&self, data: &Value) -> Vec<(String, Vec<u8>)> {
        let number = |value: Option<f32>| value.map_or_else(String::new, |value| value.to_string());
        let rows = self.both.iter().map(|(a, b)| {
            vec![
                a.layer.to_string(),
                a.expert.to_string(),
                a.neuron.to_string(),
                number(a.probability),
                number(b.probability),
            ]
        });
        let [a, b] = [self.a, self.b].map(|language| language.code);
        let (head_a, head_b) = (format!("probability_{a}"), format!("probability_{b}"));
        let art = self.art();
        let height = art["height"].as_u64().unwrap_or(0) as usize;
        let title = format!("{} and {} in {}", self.a.name, self.b.name, self.view.model.id);
        let finding = data["finding"].as_str().unwrap_or_default();
        let mut picture = figure::Picture::new(960, height + 46, &title, finding, &figure::source(self.view));
        let mut plot = String::new();
        for row in art["rows"].as_array().into_iter().flatten() {
            let text = |kind: &str| row[kind].as_str().unwrap_or_default().to_owned();
            let _ = write!(
                plot,
                "<g transform=\"translate(.5 {})\"><path class=\"rule\" d=\"M0 0h{}\"/><path class=\"m-own\" d=\"{}\"/><path class=\"m-shared\" d=\"{}\"/>\
                 <path class=\"d-mean\" d=\"{}\"/></g>",
                row["y"],
                self.view.columns(),
                text("a"),
                text("b"),
                text("both")
            );
        }
        for tick in art["axis"].as_array().into_iter().flatten() {
            picture.text(46.0, tick["y"].as_f64().unwrap_or(0.0) + 14.0, "end", &tick["text"].to_string());
        }
        let key = format!(
            "Up, blue: serves {} only. Down, amber: {} only. Through the line, grey: both.",
            self.a.name, self.b.name
        );
        picture.text(56.0, height as f64 + 34.0, "start", &key);
        picture.plot((56.0, 14.0), (850.0, height as f64), (self.view.columns(), height), &plot);
        let layers = data["layers"].as_array().into_iter().flatten();
        let layers = layers.map(|row| ["layer", "a", "b", "both"].map(|column| row[column].to_string()).to_vec());
        vec![
            ("figures/compare-map.svg".to_owned(), picture.finish()),
            ("figures/compare-map.csv".to_owned(), figure::csv(&["layer", "expert", "neuron", &head_a, &head_b], rows)),
            ("figures/compare-depth.svg".to_owned(), self.profiles(&art, data)),
            (
                "figures/compare-depth.csv".to_owned(),
                figure::csv(&["layer", &format!("share_{a}"), &format!("share_{b}"), "shared_neurons"], layers),
            ),
        ]
    }
}
