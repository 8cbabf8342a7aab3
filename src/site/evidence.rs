//! What speaks for the sets and what against: stability of every language, and the ablation matrix where it was measured.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Value, json};

use super::{Sheet, Spot, figure, view::View, words};
use crate::{atlas::AblationRow, language::LanguageCode};

/// Side of the plot of stability, in its own units.
const SIDE: f64 = 1000.0;

pub fn sheet(spot: &Spot) -> Sheet {
    let view = spot.view;
    let model = words::isolated(&view.model.id);
    let points = points(view);
    let ablation = Ablation::new(view);
    let mut figures = vec![("figures/stability.csv".to_owned(), stability_csv(view))];
    if !points.is_empty() {
        figures.push(("figures/stability.svg".to_owned(), stability_picture(spot, &points)));
    }
    let (matrix, art) = match &ablation {
        Some(ablation) => {
            figures.push(("figures/ablation.csv".to_owned(), ablation.csv()));
            figures.push(("figures/ablation.svg".to_owned(), ablation.picture(spot)));
            (ablation.data(spot), ablation.art())
        }
        None => (Value::Null, Value::Null),
    };
    Sheet {
        template: "evidence.html",
        title: spot.say("Evidence for the neurons of {model}", &[("model", &model)]),
        description: spot.say(
            "How stable each language’s set in {model} is, what switching neurons off does, and what neither shows.",
            &[("model", &model)],
        ),
        own: json!({
            "stability": {
                "caption": stability_caption(spot),
                "measured": !points.is_empty(),
                "rows": view.languages.iter().map(|language| stability_row(spot, language.code)).collect::<Vec<_>>(),
            },
            "ablation": matrix,
        }),
        art: json!({ "stability": scatter(&points), "ablation": art }),
        figures,
    }
}

/// Split-half agreement, selection frequency and family key of every language that has both.
fn points(view: &View) -> Vec<(f64, f64, &'static str)> {
    let point = |language: &crate::atlas::LanguageRow| {
        let row = view.stability(language.code)?;
        Some((row.split_half_jaccard?, row.mean_selection_freq?, view.family_key(&language.family)))
    };
    view.languages.iter().copied().filter_map(point).collect()
}

fn scatter(points: &[(f64, f64, &str)]) -> Value {
    let d = points.iter().fold(String::new(), |mut path, (x, y, _)| {
        let _ = write!(path, "M{:.0} {:.0}h.01", x * SIDE, (1.0 - y) * SIDE);
        path
    });
    json!({ "d": d })
}

fn stability_row(spot: &Spot, code: LanguageCode) -> Value {
    let view = spot.view;
    let row = view.stability(code);
    let language = view.language(code).expect("it is one of the languages");
    let tokens = view.coverage(code).map(|row| row.tokens);
    json!({
        "code": code, "name": language.name, "href": format!("{code}.html"), "neurons": view.sizes(code).0,
        "neurons_text": spot.integer(view.sizes(code).0),
        "frequency": row.and_then(|row| row.mean_selection_freq), "frequency_text": spot.decimal(row.and_then(|row| row.mean_selection_freq), 2),
        "halves": row.and_then(|row| row.split_half_jaccard), "halves_text": spot.decimal(row.and_then(|row| row.split_half_jaccard), 2),
        "deff_text": spot.decimal(row.and_then(|row| row.deff), 2),
        "margin_text": spot.decimal(row.and_then(|row| row.margin_to_bar), 3),
        "tokens_text": tokens.map_or_else(|| "–".to_owned(), |tokens| spot.locale.integer(tokens)),
    })
}

/// The middle of the languages' split-half agreements, and the language that stands lowest.
fn stability_caption(spot: &Spot) -> String {
    let view = spot.view;
    let mut found: Vec<(f64, LanguageCode)> = view
        .languages
        .iter()
        .filter_map(|language| Some((view.stability(language.code)?.split_half_jaccard?, language.code)))
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (Some((lowest, code)), Some((highest, _))) = (found.first(), found.last()) else {
        return spot.say("How stable the sets are was not measured for this atlas.", &[]);
    };
    let text = |value: f64| spot.decimal(Some(value), 2);
    let middle = found.len() / 2;
    let median =
        if found.len() % 2 == 1 { found[middle].0 } else { f64::midpoint(found[middle - 1].0, found[middle].0) };
    if text(*lowest) == text(*highest) {
        return spot.count(
            found.len(),
            "From two halves of the documents, the sets of {n} language agree by a Jaccard index of {value}.",
            "From two halves of the documents, the sets of all {n} languages agree by a Jaccard index of {value}.",
            &[("value", &text(*lowest))],
        );
    }
    let name = view.language(*code).map_or_else(|| code.to_string(), |language| words::isolated(&language.name));
    let tied = found.iter().filter(|(value, _)| text(*value) == text(*lowest)).count();
    let end = if tied == 1 {
        spot.say("{name} is the least stable ({lowest}).", &[("name", &name), ("lowest", &text(*lowest))])
    } else {
        spot.say(
            "{count} languages are the least stable ({lowest}).",
            &[("count", &spot.integer(tied)), ("lowest", &text(*lowest))],
        )
    };
    let first = spot.say(
        "From two halves of the documents, the sets of half of the languages agree by a Jaccard index of {median} or more.",
        &[("median", &text(median))],
    );
    format!("{first} {end}")
}

fn stability_csv(view: &View) -> Vec<u8> {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let rows = view.languages.iter().map(|language| {
        let row = view.stability(language.code);
        vec![
            language.code.to_string(),
            view.sizes(language.code).0.to_string(),
            number(row.and_then(|row| row.mean_selection_freq)),
            number(row.and_then(|row| row.split_half_jaccard)),
            number(row.and_then(|row| row.deff)),
            number(row.and_then(|row| row.margin_to_bar)),
        ]
    });
    figure::csv(
        &["language", "neurons", "selection_frequency", "split_half_jaccard", "design_effect", "margin_to_bar"],
        rows,
    )
}

fn stability_picture(spot: &Spot, points: &[(f64, f64, &str)]) -> Vec<u8> {
    let title = format!("Stability of the languages’ sets in {}", spot.view.model.id);
    let mut picture = figure::Picture::new(720, 640, &title, &stability_caption(spot), &figure::source(spot.view));
    let d = scatter(points)["d"].as_str().unwrap_or_default().to_owned();
    let plot = format!(
        "<path class=\"grid\" d=\"M0 0V1000H1000M0 500H1000M500 0V1000M0 250H1000M0 750H1000M250 0V1000M750 0V1000\"/><path class=\"d-dot\" d=\"{d}\"/>"
    );
    for at in [0.0, 0.5, 1.0] {
        picture.text(70.0 + at * 560.0, 590.0, "middle", &format!("{at}"));
        picture.text(62.0, 14.0 + (1.0 - at) * 560.0, "end", &format!("{at}"));
    }
    picture.text(350.0, 612.0, "middle", "Split-half agreement →").text(20.0, 0.0, "start", "↑ Selection frequency");
    picture.plot((70.0, 10.0), (560.0, 560.0), (1000, 1000), &plot);
    picture.finish()
}

/// The ablation matrix of a model, in the order of the tree.
struct Ablation<'a> {
    view: &'a View<'a>,
    /// Languages that were ablated.
    rows: Vec<LanguageCode>,
    /// Languages that were measured.
    columns: Vec<LanguageCode>,
    own: BTreeMap<(LanguageCode, LanguageCode), &'a AblationRow>,
    /// Mean over draws, by control.
    random: BTreeMap<(&'a str, LanguageCode, LanguageCode), f64>,
}

/// Means over a matrix, in nats per token.
struct Means<'a> {
    diagonal: Option<f64>,
    beside: Option<f64>,
    /// Of each control, on the diagonal.
    controls: [(&'a str, Option<f64>); 2],
}

impl<'a> Ablation<'a> {
    fn new(view: &'a View<'a>) -> Option<Self> {
        let cells = &view.tables.ablation;
        let own: BTreeMap<_, _> = cells
            .iter()
            .filter(|row| row.control == AblationRow::OWN)
            .map(|row| ((row.ablated, row.language), row))
            .collect();
        let mut draws: BTreeMap<(&str, LanguageCode, LanguageCode), Vec<f64>> = BTreeMap::new();
        for row in cells.iter().filter(|row| row.control != AblationRow::OWN) {
            draws.entry((row.control.as_str(), row.ablated, row.language)).or_default().push(row.delta);
        }
        let random =
            draws.into_iter().map(|(key, values)| (key, values.iter().sum::<f64>() / values.len() as f64)).collect();
        let order = |keep: &dyn Fn(LanguageCode) -> bool| {
            view.tree.leaves.iter().copied().filter(|code| keep(*code)).collect::<Vec<_>>()
        };
        let rows = order(&|code| own.keys().any(|(ablated, _)| *ablated == code));
        let columns = order(&|code| own.keys().any(|(_, language)| *language == code));
        (!rows.is_empty() && !columns.is_empty()).then_some(Self { view, rows, columns, own, random })
    }

    fn cell(&self, ablated: LanguageCode, language: LanguageCode) -> Option<f64> {
        self.own.get(&(ablated, language)).map(|row| row.delta)
    }

    fn means(&self) -> Means<'a> {
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let of = |on: bool| self.own.iter().filter(|((a, b), _)| (a == b) == on).map(|(_, row)| row.delta).collect();
        let control = |name: &'a str| {
            let values =
                self.random.iter().filter(|((control, a, b), _)| *control == name && a == b).map(|(_, value)| *value);
            (name, mean(values.collect()))
        };
        Means {
            diagonal: mean(of(true)),
            beside: mean(of(false)),
            controls: [AblationRow::PER_LAYER, AblationRow::ANYWHERE].map(control),
        }
    }

    /// Place of a language's own cell in its row, and in its column, from 1; by the size of the rise.
    fn ranks(&self, code: LanguageCode) -> Option<(usize, usize)> {
        let own = self.cell(code, code)?;
        let above =
            |cells: &mut dyn Iterator<Item = Option<f64>>| 1 + cells.flatten().filter(|value| *value > own).count();
        let row = above(&mut self.columns.iter().map(|language| self.cell(code, *language)));
        let column = above(&mut self.rows.iter().map(|ablated| self.cell(*ablated, code)));
        Some((row, column))
    }

    fn largest(&self) -> f64 {
        let largest = self.own.values().map(|row| row.delta).fold(0.0, f64::max);
        figure::ticks(largest).1
    }

    fn caption(&self, spot: &Spot) -> String {
        let Means { diagonal, beside, controls } = self.means();
        let text = |value: f64| spot.decimal(Some(value), 3);
        let Some(diagonal) = diagonal else {
            return spot.say("No language was measured on its own text, so nothing can be said of the diagonal.", &[]);
        };
        let mut said = match beside {
            Some(beside) => {
                let arguments = [("own", text(diagonal)), ("others", text(beside))];
                let arguments: Vec<(&str, &str)> =
                    arguments.iter().map(|(name, value)| (*name, value.as_str())).collect();
                if diagonal > beside && diagonal > 0.0 {
                    spot.say(
                        "Without its own neurons a language’s loss rises by {own} nats per token on average, other languages’ by {others}: the diagonal stands out.",
                        &arguments,
                    )
                } else {
                    spot.say(
                        "Without its own neurons a language’s loss changes by {own} nats per token on average, other languages’ by {others}: the diagonal does not stand out.",
                        &arguments,
                    )
                }
            }
            None => spot.say(
                "Without its own neurons a language’s loss changes by {own} nats per token on average.",
                &[("own", &text(diagonal))],
            ),
        };
        let random = controls
            .iter()
            .filter_map(|(_, value)| *value)
            .fold(None, |most: Option<f64>, value| Some(most.map_or(value, |most| most.max(value))));
        if let Some(random) = random {
            let random_text = text(random);
            said.push(' ');
            said += &if random < diagonal {
                spot.say("As many random neurons do less ({random}).", &[("random", &random_text)])
            } else {
                spot.say("As many random neurons do no less ({random}).", &[("random", &random_text)])
            };
        }
        said
    }

    fn data(&self, spot: &Spot) -> Value {
        let Means { diagonal, beside, controls } = self.means();
        let name = |code: LanguageCode| {
            self.view.language(code).map_or_else(|| code.to_string(), |language| language.name.clone())
        };
        let mut summary = vec![
            (spot.say("Own neurons, own language (diagonal)", &[]), diagonal),
            (spot.say("Own neurons, other languages", &[]), beside),
        ];
        summary.extend(controls.into_iter().map(|(control, value)| {
            let label = if control == AblationRow::PER_LAYER {
                spot.say("Random neurons, as many in each layer", &[])
            } else {
                spot.say("Random neurons, as many over all layers", &[])
            };
            (label, value)
        }));
        let ratio =
            |value: Option<f64>| value.zip(diagonal).filter(|(value, _)| *value > 0.0).map(|(value, own)| own / value);
        let top = self.largest();
        let scale = (0..figure::STEPS).map(
            |step| json!({ "step": step, "text": spot.decimal(Some(top * step as f64 / figure::STEPS as f64), figure::places(top)) }),
        );
        let languages = self.rows.iter().map(|&code| {
            let ranks = self.ranks(code);
            let own = self.own.get(&(code, code));
            let random = [AblationRow::PER_LAYER, AblationRow::ANYWHERE]
                .map(|control| spot.decimal(self.random.get(&(control, code, code)).copied(), 3));
            json!({
                "code": code, "name": name(code), "href": format!("{code}.html"),
                "own": own.map(|row| row.delta), "own_text": spot.decimal(own.map(|row| row.delta), 3),
                "error_text": spot.decimal(own.and_then(|row| row.stderr), 3), "per_layer_text": random[0], "anywhere_text": random[1],
                "row_rank_text": ranks.map_or_else(|| "–".to_owned(), |ranks| spot.integer(ranks.0)),
                "column_rank_text": ranks.map_or_else(|| "–".to_owned(), |ranks| spot.integer(ranks.1)),
            })
        });
        json!({
            "caption": self.caption(spot),
            "summary": summary.into_iter().map(|(label, value)| json!({
                "label": label, "value": value, "value_text": spot.decimal(value, 3), "ratio_text": spot.decimal(ratio(value), 1),
            })).collect::<Vec<_>>(),
            "languages": languages.collect::<Vec<_>>(),
            "columns": self.columns.iter().map(|&code| json!({ "code": code, "name": name(code) })).collect::<Vec<_>>(),
            "scale": scale.collect::<Vec<_>>(),
            "scale_top": spot.decimal(Some(top), figure::places(top)),
            "cells": self.rows.iter().map(|a| self.columns.iter().map(|b| self.cell(*a, *b)).collect::<Vec<_>>()).collect::<Vec<_>>(),
        })
    }

    fn art(&self) -> Value {
        let (rows, columns) = (&self.rows, &self.columns);
        let cells = figure::matrix((rows.len(), columns.len()), |y, x| self.cell(rows[y], columns[x]), self.largest());
        json!({ "height": rows.len(), "width": columns.len(), "cells": cells })
    }

    fn csv(&self) -> Vec<u8> {
        let rows = self.view.tables.ablation.iter().map(|row| {
            vec![
                row.ablated.to_string(),
                row.language.to_string(),
                row.control.clone(),
                row.draw.to_string(),
                row.delta.to_string(),
                row.stderr.map_or_else(String::new, |error| error.to_string()),
            ]
        });
        figure::csv(&["ablated", "language", "control", "draw", "delta_nats_per_token", "standard_error"], rows)
    }

    fn picture(&self, spot: &Spot) -> Vec<u8> {
        let art = self.art();
        let title = format!("Ablation matrix of {}", self.view.model.id);
        let side = 860.0;
        let mut picture =
            figure::Picture::new(1080, side as usize + 74, &title, &self.caption(spot), &figure::source(self.view));
        let cells: String = art["cells"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|cell| format!("<path class=\"q{}\" d=\"{}\"/>", cell["step"], cell["d"].as_str().unwrap_or_default()))
            .collect();
        let square = side / self.rows.len() as f64;
        for (at, code) in self.rows.iter().enumerate() {
            picture.name(170.0, (at as f64 + 0.5) * square + 8.0, square, &code.to_string());
        }
        picture.plot(
            (180.0, 8.0),
            (side, side),
            (self.columns.len(), self.rows.len()),
            &format!("<g class=\"cells\">{cells}</g>"),
        );
        picture.text(
            180.0,
            side + 28.0,
            "start",
            "Rows: neurons switched off. Columns: language measured, in the same order.",
        );
        picture.scale(180.0, side + 40.0, self.largest(), "nats per token").finish()
    }
}
