//! The page of one language in one model: the page that people link to.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Data, Files, Sheet, SiteError, Spot,
    figure::{self, MapRow},
    view::{Band, View},
    words,
};
use crate::{
    atlas::{AblationRow, LanguageRow, Mask, MaskFormat, MaskSet, NeuronRow},
    neuron::{FfnShape, NeuronSet},
    output,
};

/// Neurons that the table shows.
const SHOWN: usize = 100;
/// The same where layers are wide: the tables of a hundred languages must fit on a phone's plan.
const SHOWN_OF_MANY: usize = 25;
/// Names that a cell shows before "and 12 more".
const NAMED: usize = 4;

/// A language and its rows.
pub struct Subject<'a> {
    view: &'a View<'a>,
    language: &'a LanguageRow,
    rows: &'a [NeuronRow],
    specific: usize,
    map: Vec<MapRow>,
    /// Whether the model has too many neurons to draw or list one by one.
    crowded: bool,
    /// The name inside a sentence.
    name: String,
}

impl<'a> Subject<'a> {
    pub fn new(view: &'a View<'a>, language: &'a LanguageRow) -> Self {
        let (_, specific) = view.sizes(language.code);
        Self {
            map: figure::map_rows(view, language.code),
            crowded: figure::crowded(view),
            rows: view.tables.of(language.code),
            name: words::isolated(&language.name),
            view,
            language,
            specific,
        }
    }

    pub fn sheet(&self, spot: &Spot, downloads: &Value) -> Sheet {
        let (name, model) = (&self.name, words::isolated(&self.view.model.id));
        let depth = self.depth(spot);
        let map = self.map(spot);
        let art = json!({
            "map": figure::map(self.view, &self.map),
            "depth": figure::depth(
                &self.view.bands, self.view.shares(self.language.code).as_deref(), depth["axis_max"].as_f64().unwrap_or(1.0)
            ),
        });
        let figures = if spot.locale.is_english() { self.figures(&map, &depth, &art) } else { Vec::new() };
        let own = json!({
            "language": self.facts(spot),
            "rate_label": self.rate(spot),
            "finding": self.finding(spot),
            "counts": self.counts(spot),
            "map": map,
            "depth": depth,
            "classes": self.classes(spot),
            "neurons": self.neurons(spot),
            "neighbours": self.neighbours(spot),
            "confidence": self.confidence(spot),
            "downloads": downloads,
            "snippets": self.snippets(),
            "citation": self.citation(),
            "provenance": self.provenance(spot),
            "caveats": super::home::imported(spot).into_iter().chain([
                spot.say("Activation is not cause: these neurons fire for the language; whether the model needs them is a separate question.", &[]),
                spot.count(
                    self.view.languages.len(),
                    "The set depends on the {n} language in the comparison. Add one, and every set changes.",
                    "The set depends on the {n} languages in the comparison. Add or remove one, and every set changes.",
                    &[],
                ),
                spot.say("Much of what such neurons follow can be the script rather than the language.", &[]),
            ]).collect::<Vec<_>>(),
            "previous": self.beside(-1),
            "next": self.beside(1),
        });
        Sheet {
            template: "language.html",
            title: spot.say("{name} in {model}", &[("name", name), ("model", &model)]),
            description: spot.say(
                "The feed-forward neurons of {model} that serve {name}: map, depth profile, nearest languages, downloads.",
                &[("name", name), ("model", &model)],
            ),
            own,
            art,
            figures,
        }
    }

    fn rate(&self, spot: &Spot) -> String {
        self.view.rate().map_or_else(String::new, |rate| spot.percent(rate.rate))
    }

    fn facts(&self, spot: &Spot) -> Value {
        let language = self.language;
        json!({
            "code": language.code,
            "iso639_1": language.iso639_1,
            "iso639_3": language.code.iso639_3(),
            "bcp47": language.bcp47,
            "glottocode": language.glottocode,
            "name": language.name,
            "autonym": language.autonym.as_ref().unwrap_or(&language.name),
            "direction": language.direction,
            "script": language.code.script(),
            "script_name": words::script(language.code.script()),
            "family": language.family,
            "family_key": self.view.family_key(&language.family),
            "subfamily": language.subfamily,
            "area": language.area,
            "speakers_text": language.speakers.map(|speakers| spot.say("about {number}", &[("number", &spot.size(speakers))])),
            "quality_note": self.view.coverage(language.code).and_then(|row| row.remark.clone()),
        })
    }

    /// Neurons in the last quarter of the layers.
    fn late(&self) -> usize {
        let first = self.view.model.layers - self.view.late_layers();
        self.rows.iter().filter(|row| row.layer >= first).count()
    }

    fn finding(&self, spot: &Spot) -> String {
        let all = spot.integer(self.view.model.shape().neurons());
        let name = self.name.as_str();
        let total = self.rows.len();
        if total == 0 {
            return spot.say(
                "At the {rate} rate, none of the {all} neurons is selected for {name}.",
                &[("rate", &self.rate(spot)), ("all", &all), ("name", name)],
            );
        }
        let first = spot.count(
            total,
            "{n} of {all} neurons serves {name}.",
            "{n} of {all} neurons serve {name}.",
            &[("all", &all), ("name", name)],
        );
        [first, self.alone(spot), self.lateness(spot)].join(" ").trim_end().to_owned()
    }

    /// How many of the neurons serve the language alone, as a sentence.
    fn alone(&self, spot: &Spot) -> String {
        match (self.rows.len(), self.specific) {
            (1, 1) => spot.say("It serves no other language.", &[]),
            (1, _) => spot.say("It serves other languages too.", &[]),
            (2.., 0) => spot.say("None of them serves this language alone.", &[]),
            (total, specific) if total == specific => spot.say("None of them serves any other language.", &[]),
            (_, specific) => spot.count(
                specific,
                "{n} of them serves no other language.",
                "{n} of them serve no other language.",
                &[],
            ),
        }
    }

    /// How many of the neurons lie in the last layers, as a sentence; nothing where all layers are last ones.
    fn lateness(&self, spot: &Spot) -> String {
        let (total, late, quarter) = (self.rows.len(), self.late(), self.view.late_layers());
        let layers = spot.integer(self.view.model.layers);
        if quarter >= self.view.model.layers {
            return String::new();
        }
        if total == 1 {
            let row = &self.rows[0];
            let (layer, expert) = (row.layer.to_string(), row.expert.to_string());
            return if self.view.model.shape().is_routed() {
                spot.say("It lies in expert {expert} of layer {layer}.", &[("expert", &expert), ("layer", &layer)])
            } else {
                spot.say("It lies in layer {layer}.", &[("layer", &layer)])
            };
        }
        let last = if quarter == 1 {
            spot.say("the last of {layers} layers", &[("layers", &layers)])
        } else {
            spot.say(
                "the last {quarter} of {layers} layers",
                &[("quarter", &spot.integer(quarter)), ("layers", &layers)],
            )
        };
        match late {
            0 => spot.say("None lies in {last}.", &[("last", &last)]),
            late if late == total => spot.say("All lie in {last}.", &[("last", &last)]),
            late => spot.count(late, "{n} lies in {last}.", "{n} lie in {last}.", &[("last", &last)]),
        }
    }

    fn counts(&self, spot: &Spot) -> Value {
        let shared = self.rows.len() - self.specific;
        let rates = self.view.result.rates.iter().rev().map(|rate| {
            let count = self.rows.iter().filter(|row| rate.includes(row.rank)).count();
            let default = Some(rate) == self.view.rate();
            json!({ "label": spot.percent(rate.rate), "count": count, "count_text": spot.integer(count), "default": default })
        });
        json!({
            "total": self.rows.len(),
            "specific": self.specific,
            "shared": shared,
            "total_text": spot.integer(self.rows.len()),
            "specific_text": spot.integer(self.specific),
            "shared_text": spot.integer(shared),
            "by_rate": rates.collect::<Vec<_>>(),
        })
    }

    fn map(&self, spot: &Spot) -> Value {
        let view = self.view;
        // Where silhouettes are drawn, the columns of single neurons are neither seen nor listed.
        let listed = |columns: &Vec<usize>| (!self.crowded).then(|| columns.clone());
        let rows = self.map.iter().enumerate().map(|(layer, row)| {
            json!({
                "layer": layer, "total": row.specific.len() + row.shared.len(), "specific_count": row.specific.len(),
                "shared_count": row.shared.len(), "others_count": row.others.len(), "specific": listed(&row.specific),
                "shared": listed(&row.shared), "others": listed(&row.others),
            })
        });
        let width = view.model.shape().layer_width();
        let mut order = spot.say(
            "Within a layer, neurons that serve the same languages stand side by side. The order is the same on every language’s map of this model.",
            &[],
        );
        if view.columns() < width {
            let columns = if self.crowded { figure::BINS } else { view.columns() };
            let (neurons, columns) = (spot.integer(width), spot.integer(columns));
            order.push(' ');
            order += &spot
                .say("{neurons} neurons share {columns} columns.", &[("neurons", &neurons), ("columns", &columns)]);
        }
        json!({
            "layers": view.model.layers,
            "width": view.columns(),
            "caption": self.map_caption(spot),
            "order_note": order,
            "rows": rows.collect::<Vec<_>>(),
        })
    }

    fn map_caption(&self, spot: &Spot) -> String {
        let name = self.name.as_str();
        let total = self.rows.len();
        if total == 0 {
            return spot.say(
                "No neuron serves {name} at this rate; the faint marks serve other languages.",
                &[("name", name)],
            );
        }
        let counts = self.view.per_layer(self.language.code);
        let most = counts.iter().copied().max().unwrap_or(0);
        let fullest: Vec<String> = counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count == most)
            .map(|(layer, _)| layer.to_string())
            .collect();
        let (most_text, total_text) = (spot.integer(most), spot.integer(total));
        let first = match fullest.as_slice() {
            [layer] if total == 1 => spot
                .say("The only neuron that serves {name} lies in layer {layer}.", &[("name", name), ("layer", layer)]),
            [layer] if most == total => spot.say(
                "All {total} neurons that serve {name} lie in layer {layer}.",
                &[("total", &total_text), ("name", name), ("layer", layer)],
            ),
            [layer] => spot.say(
                "Layer {layer} holds the most neurons that serve {name}: {most} of {total}.",
                &[("layer", layer), ("name", name), ("most", &most_text), ("total", &total_text)],
            ),
            [a, b] => spot.say(
                "Layers {a} and {b} hold the most neurons that serve {name}: {most} each, of {total}.",
                &[("a", a), ("b", b), ("name", name), ("most", &most_text), ("total", &total_text)],
            ),
            many => spot.say(
                "No one layer stands out: {layers} layers hold {most} each of the {total} neurons that serve {name}.",
                &[("layers", &spot.integer(many.len())), ("most", &most_text), ("total", &total_text), ("name", name)],
            ),
        };
        format!("{first} {}", self.alone(spot))
    }

    /// Per layer the share of the language's neurons, beside the mean of all languages and the band that eight in ten lie in.
    fn depth(&self, spot: &Spot) -> Value {
        let view = self.view;
        let own = view.shares(self.language.code);
        let counts = view.per_layer(self.language.code);
        let mut largest = 0.0f64;
        let mut rows = Vec::new();
        for (layer, band) in view.bands.iter().enumerate() {
            let share = own.as_ref().map(|own| own[layer]);
            largest = largest.max(band.high).max(band.mean).max(share.unwrap_or_default());
            rows.push(json!({
                "layer": layer, "count": counts[layer], "share": share, "mean": band.mean, "low": band.low, "high": band.high,
                "share_text": share.map_or_else(|| "–".to_owned(), |share| spot.percent(share)),
                "mean_text": spot.percent(band.mean),
                "band_text": spot.say("{low} to {high}", &[("low", &spot.percent(band.low)), ("high", &spot.percent(band.high))]),
            }));
        }
        let (ticks, axis_max) = figure::ticks(largest);
        let ticks = ticks.into_iter().map(|value| json!({ "value": value, "text": spot.percent(value) }));
        json!({ "caption": self.depth_caption(spot, own.as_deref()), "axis_max": axis_max, "ticks": ticks.collect::<Vec<_>>(), "rows": rows })
    }

    /// The layer that stands out most: of those beyond what eight languages in ten have, else of those above the mean.
    fn depth_caption(&self, spot: &Spot, own: Option<&[f64]>) -> String {
        let (view, name) = (self.view, self.name.as_str());
        let others = view.languages.iter().filter(|other| other.code != self.language.code);
        let compared = others.filter(|other| !view.tables.of(other.code).is_empty()).count();
        let Some(own) = own else {
            return if compared == 0 {
                spot.say("No language has neurons at this rate.", &[])
            } else {
                spot.say(
                    "{name} has no neurons at this rate; the line shows the mean of the other languages.",
                    &[("name", name)],
                )
            };
        };
        if compared == 0 {
            return spot.say("No other language has neurons at this rate to compare {name} with.", &[("name", name)]);
        }
        let most = |keep: &dyn Fn(f64, &Band) -> bool| {
            let layers = own.iter().zip(&view.bands).enumerate().filter(|(_, (share, band))| keep(**share, band));
            layers.map(|(layer, (share, band))| (share - band.mean, layer)).fold(
                None,
                |most: Option<(f64, usize)>, next| {
                    if most.is_none_or(|most| next.0.abs() > most.0.abs()) { Some(next) } else { most }
                },
            )
        };
        let told = |difference: f64| difference.abs() >= 0.002;
        let found = most(&|share, band| (share > band.high || share < band.low) && told(share - band.mean))
            .or_else(|| most(&|share, band| share - band.mean >= 0.01));
        let Some((difference, layer)) = found else {
            return spot
                .say("The neurons of {name} lie in the layers where those of most languages lie.", &[("name", name)]);
        };
        let (share, mean) = (spot.percent(own[layer]), spot.percent(view.bands[layer].mean));
        let layer = layer.to_string();
        let words: [(&str, &str); 4] = [("name", name), ("layer", &layer), ("share", &share), ("mean", &mean)];
        if difference > 0.0 {
            spot.say(
                "Against the mean of all languages, {name} has more of its neurons in layer {layer}: {share} of them, where the mean is {mean}.",
                &words,
            )
        } else {
            spot.say(
                "Against the mean of all languages, {name} has fewer of its neurons in layer {layer}: {share} of them, where the mean is {mean}.",
                &words,
            )
        }
    }

    fn classes(&self, spot: &Spot) -> Value {
        let half = self.view.languages.len().div_ceil(2);
        let kinds = [
            ("exclusive", spot.say("exclusive", &[]), spot.say("serve {name} alone", &[("name", &self.name)])),
            ("family", spot.say("family", &[]), spot.say("serve several languages, all of one family", &[])),
            ("shared", spot.say("shared", &[]), spot.say("serve languages of several families", &[])),
            (
                "general",
                spot.say("general", &[]),
                spot.say("serve at least {half} languages", &[("half", &spot.integer(half))]),
            ),
        ];
        let count = |kind: &str| self.rows.iter().filter(|row| row.class.as_deref() == Some(kind)).count();
        kinds
            .into_iter()
            .map(|(kind, name, explanation)| {
                let count = count(kind);
                json!({ "name": name, "count": count, "text": spot.integer(count), "explanation": explanation })
            })
            .collect()
    }

    fn neurons(&self, spot: &Spot) -> Value {
        let shown = if self.crowded { SHOWN_OF_MANY } else { SHOWN };
        let mut rows: Vec<&NeuronRow> = self.rows.iter().collect();
        rows.sort_by_key(|row| row.rank);
        let name = self.name.as_str();
        let shown_text = match rows.len() {
            0 => spot.say(
                "No neuron serves {name} at the {rate} rate: none has a probability above the bar for it and a low enough entropy.",
                &[("name", name), ("rate", &self.rate(spot))],
            ),
            1 => spot.say("The only one is listed.", &[]),
            n if n <= shown => spot.say("All {total} are listed.", &[("total", &spot.integer(n))]),
            n => spot.say(
                "The first {shown} of {total} are listed; the downloads hold all.",
                &[("shown", &spot.integer(shown)), ("total", &spot.integer(n))],
            ),
        };
        json!({
            "caption": if rows.iter().any(|row| row.rank.is_some()) {
                spot.say("Neurons that serve {name}, most selective first.", &[("name", name)])
            } else {
                spot.say("Neurons that serve {name}, by layer.", &[("name", name)])
            },
            "shown_text": shown_text,
            "rows": rows.iter().take(shown).map(|row| self.neuron(spot, row)).collect::<Vec<_>>(),
        })
    }

    fn neuron(&self, spot: &Spot, row: &NeuronRow) -> Value {
        let view = self.view;
        let mut others: Vec<&NeuronRow> = view.neurons[&row.id()].rows.clone();
        others.retain(|other| other.language != self.language.code);
        others.sort_by(|a, b| {
            b.probability.unwrap_or(0.0).total_cmp(&a.probability.unwrap_or(0.0)).then(a.language.cmp(&b.language))
        });
        let named = others.iter().take(NAMED).filter_map(|other| view.language(other.language));
        let decimals = |value: Option<f32>, places: usize| spot.decimal(value.map(f64::from), places);
        let class = match row.class.as_deref() {
            Some("exclusive") => spot.say("exclusive", &[]),
            Some("family") => spot.say("family", &[]),
            Some("shared") => spot.say("shared", &[]),
            Some("general") => spot.say("general", &[]),
            other => other.unwrap_or("–").to_owned(),
        };
        let mut data = json!({
            "id": format!("L{}·N{}", row.layer, row.neuron),
            "anchor": format!("n-{}-{}", row.layer, row.neuron),
            "layer": row.layer,
            "index": row.neuron,
            "rank": row.rank,
            "rank_text": row.rank.map_or_else(|| "–".to_owned(), |rank| spot.integer(rank as usize + 1)),
            "probability": row.probability,
            "probability_text": decimals(row.probability, 3),
            "entropy_text": decimals(row.entropy, 2),
            "share_text": row.share.map_or_else(|| "–".to_owned(), |share| spot.percent(f64::from(share))),
            "mean_activation_text": decimals(row.mean_activation, 2),
            "stability_text": decimals(row.selection_freq, 2),
            "class": class,
            "others_count": others.len(),
            "others_text": spot.count(others.len(), "{n} other language", "{n} other languages", &[]),
            "others": named.map(|other| json!({ "name": other.name, "href": format!("{}.html", other.code) })).collect::<Vec<_>>(),
            "more": others.len().saturating_sub(NAMED),
        });
        if view.model.shape().is_routed() {
            data["id"] = format!("L{}·E{}·N{}", row.layer, row.expert, row.neuron).into();
            data["anchor"] = format!("n-{}-{}-{}", row.layer, row.expert, row.neuron).into();
            data["expert"] = row.expert.into();
        }
        data
    }

    fn neighbours(&self, spot: &Spot) -> Value {
        let own = self.language;
        let all: Vec<(&LanguageRow, f64, usize)> = self
            .view
            .languages
            .iter()
            .filter(|language| language.code != own.code)
            .map(|language| {
                let overlap = self.view.overlap(own.code, language.code);
                (*language, overlap.and_then(|row| row.jaccard).unwrap_or(0.0), overlap.map_or(0, |row| row.shared))
            })
            .collect();
        let nearest = |keep: &dyn Fn(&LanguageRow, usize) -> bool| {
            let mut near: Vec<_> = all.iter().filter(|(language, _, shared)| keep(language, *shared)).collect();
            near.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.name.cmp(&b.0.name)));
            near
        };
        let list = |near: Vec<&(&LanguageRow, f64, usize)>| {
            let near = near.into_iter().take(8);
            near.map(|(language, jaccard, shared)| self.neighbour(spot, language, *jaccard, *shared))
                .collect::<Vec<_>>()
        };
        let by_neurons = nearest(&|_, shared| shared > 0);
        json!({
            "caption": self.neighbours_caption(spot, &by_neurons),
            "by_neurons": list(by_neurons),
            "relatives": list(nearest(&|language, _| language.family == own.family)),
            "script": list(nearest(&|language, _| language.code.script() == own.code.script())),
        })
    }

    fn neighbours_caption(&self, spot: &Spot, near: &[&(&LanguageRow, f64, usize)]) -> String {
        let name = self.name.as_str();
        let Some((_, jaccard, shared)) = near.first() else {
            return spot.say("{name} shares no neuron with another language.", &[("name", name)]);
        };
        let jaccard_text = spot.decimal(Some(*jaccard), 2);
        let names: Vec<String> = near
            .iter()
            .take_while(|(_, other, _)| (other - jaccard).abs() < 1e-12)
            .map(|(language, ..)| words::isolated(&language.name))
            .collect();
        match names.as_slice() {
            [other] => spot.count(
                *shared,
                "By neurons, {name} stands nearest to {other}: {n} in common, a Jaccard index of {jaccard}.",
                "By neurons, {name} stands nearest to {other}: {n} in common, a Jaccard index of {jaccard}.",
                &[("name", name), ("other", other), ("jaccard", &jaccard_text)],
            ),
            [a, b] => spot.say(
                "By neurons, {name} stands equally near to {a} and {b}, at a Jaccard index of {jaccard}.",
                &[("name", name), ("a", a), ("b", b), ("jaccard", &jaccard_text)],
            ),
            many => spot.say(
                "By neurons, {name} stands equally near to {count} languages, at a Jaccard index of {jaccard}.",
                &[("name", name), ("count", &spot.integer(many.len())), ("jaccard", &jaccard_text)],
            ),
        }
    }

    fn neighbour(&self, spot: &Spot, language: &LanguageRow, jaccard: f64, shared: usize) -> Value {
        let own = self.language;
        let relation = match (&own.subfamily, &language.subfamily) {
            (Some(a), Some(b)) if a == b && own.family == language.family => {
                spot.say("Both {family}", &[("family", a)])
            }
            _ if own.family == language.family => spot.say("Both {family}", &[("family", &own.family)]),
            _ if own.code.script() == language.code.script() => spot.say("Same script, other family", &[]),
            _ => spot.say("Other family, other script", &[]),
        };
        json!({
            "code": language.code,
            "name": language.name,
            "autonym": language.autonym.as_ref().unwrap_or(&language.name),
            "bcp47": language.bcp47,
            "href": format!("{}.html", language.code),
            "compare": format!("compare.html#a={}&b={}", own.code, language.code),
            "jaccard": jaccard,
            "jaccard_text": spot.decimal(Some(jaccard), 2),
            "shared": shared,
            "shared_text": spot.count(shared, "{n} neuron in common", "{n} neurons in common", &[]),
            "relation": relation,
        })
    }

    fn confidence(&self, spot: &Spot) -> Value {
        let code = self.language.code;
        let coverage = self.view.coverage(code);
        let tokens = coverage.map(|row| row.tokens);
        let stability = self.view.stability(code);
        let frequency = stability.and_then(|row| row.mean_selection_freq);
        let halves = stability.and_then(|row| row.split_half_jaccard);
        let (level, sentence) = verdict(spot, self.rows.len(), tokens, frequency, halves);
        let all: Vec<u64> =
            self.view.languages.iter().filter_map(|l| self.view.coverage(l.code)).map(|row| row.tokens).collect();
        let (fewest, most) = (all.iter().min().copied().unwrap_or(0), all.iter().max().copied().unwrap_or(0));
        let range = if fewest == most {
            spot.say("The same for every language.", &[])
        } else {
            let (fewest, most) = (spot.locale.integer(fewest), spot.locale.integer(most));
            spot.say("Over all languages: {fewest} to {most}.", &[("fewest", &fewest), ("most", &most)])
        };
        let read = words::bytes(coverage.map_or(0, |row| row.bytes));
        let resamples = spot.integer(self.view.parameters.resamples as usize);
        let whole = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| spot.locale.integer(n));
        let mut rows = vec![
            (spot.say("Tokens", &[]), whole(tokens), range),
            (
                spot.say("Documents", &[]),
                whole(coverage.map(|row| row.documents)),
                spot.say("{size} of text read.", &[("size", &read)]),
            ),
            (
                spot.say("Selection frequency", &[]),
                spot.decimal(frequency, 2),
                spot.say(
                    "How often, on average, a neuron of this set is chosen again in {resamples} resamples.",
                    &[("resamples", &resamples)],
                ),
            ),
            (
                spot.say("Split-half agreement", &[]),
                spot.decimal(halves, 2),
                spot.say(
                    "Jaccard of the sets from one half of the documents and from the other; 1 would be the same set.",
                    &[],
                ),
            ),
            (
                spot.say("Design effect", &[]),
                spot.decimal(stability.and_then(|row| row.deff), 2),
                spot.say("Variance between documents against independent tokens; 1 would be no clustering.", &[]),
            ),
        ];
        if let Some((own, random)) = self.ablation() {
            rows.push((
                spot.say("Effect of switching off", &[]),
                spot.decimal(Some(own), 3),
                match random {
                    Some(random) => spot.say(
                        "Nats per token that this language’s loss rises without these neurons; without as many random ones, {random}.",
                        &[("random", &spot.decimal(Some(random), 3))],
                    ),
                    None => spot.say("Nats per token that this language’s loss rises without these neurons.", &[]),
                },
            ));
        }
        // Of masks that others made, nobody knows any of this.
        let known = |row: &(String, String, String)| self.view.identify.origin.is_none() || row.1 != "–";
        let rows = rows.into_iter().filter(known);
        let rows = rows
            .map(|(label, value, explanation)| json!({ "label": label, "value": value, "explanation": explanation }));
        json!({ "level": level, "sentence": sentence, "rows": rows.collect::<Vec<_>>() })
    }

    /// What switching this language's neurons off does to it, and what as many random ones do, where it was measured.
    fn ablation(&self) -> Option<(f64, Option<f64>)> {
        let code = self.language.code;
        let cells = self.view.tables.ablation.iter().filter(|row| row.ablated == code && row.language == code);
        let of = |own: bool| -> Vec<f64> {
            cells.clone().filter(|row| (row.control == AblationRow::OWN) == own).map(|row| row.delta).collect()
        };
        let random = of(false);
        let mean = (!random.is_empty()).then(|| random.iter().sum::<f64>() / random.len() as f64);
        of(true).first().map(|own| (*own, mean))
    }

    /// Writes the mask in every format and lists the files.
    pub fn downloads(&self, files: &Files, data: Data) -> Result<Value, SiteError> {
        let (view, code) = (self.view, self.language.code);
        let Some(rate) = view.rate() else { return Ok(json!([])) };
        let table = format!("data/neurons/{}/{}.parquet", view.folder, view.method);
        let ids = self.rows.iter().map(NeuronRow::id);
        let masks = MaskSet {
            mask: Mask {
                model: view.model.id.clone(),
                revision: view.model.revision.clone(),
                method: view.method.clone(),
                top_rate: rate.rate,
                asked: rate.asked,
                run: view.identify.run.clone(),
                table_sha256: view.atlas.manifest.file(&table).map(|file| file.sha256.clone()).unwrap_or_default(),
            },
            sets: BTreeMap::from([(code, NeuronSet::new(view.model.shape(), ids))]),
        };
        let shape = view.model.shape();
        let formats = [
            (MaskFormat::Safetensors, "safetensors", "safetensors"),
            (MaskFormat::Json, "mask.json", "JSON"),
            (MaskFormat::Parquet, "parquet", "Parquet"),
            (MaskFormat::Pth, "pth", "PyTorch"),
        ];
        let mut listed = Vec::new();
        // Lists of integers for old scripts are as large as all the others together, and `mask --format pth` makes them.
        let wanted = |format: MaskFormat| format.holds(shape) && (format != MaskFormat::Pth || data == Data::Full);
        for (format, extension, name) in formats.into_iter().filter(|(format, ..)| wanted(*format)) {
            let file = format!("{code}.{extension}");
            let bytes = match masks.bytes(format)? {
                Some(bytes) => bytes,
                None => NeuronRow::bytes(self.rows)?,
            };
            files.put(&format!("{}/{file}", view.folder), &bytes)?;
            listed.push(json!({
                "label": file, "format": name, "bytes": bytes.len(), "bytes_text": words::bytes(bytes.len() as u64),
                "sha256": output::sha256(&bytes),
            }));
        }
        Ok(Value::Array(listed))
    }

    fn figures(&self, map: &Value, depth: &Value, art: &Value) -> Vec<(String, Vec<u8>)> {
        let (view, code) = (self.view, self.language.code);
        let title = |what: &str| format!("{what}: {} in {}", self.language.name, view.model.id);
        let caption = map["caption"].as_str().unwrap_or_default();
        let text = |value: &Value| if value.is_null() { String::new() } else { value.to_string() };
        let layers =
            depth["rows"].as_array().into_iter().flatten().map(|row| {
                ["layer", "count", "share", "mean", "low", "high"].map(|column| text(&row[column])).to_vec()
            });
        let number = |value: Option<f32>| value.map_or_else(String::new, |value| value.to_string());
        let neurons = self.rows.iter().map(|row| {
            let column = view.neurons[&row.id()].column;
            vec![
                row.layer.to_string(),
                row.expert.to_string(),
                row.neuron.to_string(),
                column.to_string(),
                row.languages.to_string(),
                row.rank.map_or_else(String::new, |rank| (rank + 1).to_string()),
                number(row.probability),
                number(row.entropy),
            ]
        });
        let head = ["layer", "expert", "neuron", "column", "languages", "rank", "probability", "entropy"];
        // A figure's file holds what the figure shows; single neurons of a large model are in the Parquet file.
        let map_csv = if self.crowded {
            let head = ["layer", "place_of_128", "selected_neurons", "of_this_language", "of_this_language_only"];
            figure::csv(&head, figure::map_bins(view, &self.map))
        } else {
            figure::csv(&head, neurons)
        };
        vec![
            (format!("figures/{code}-map.svg"), figure::map_picture(view, &art["map"], &title("Neuron map"), caption)),
            (format!("figures/{code}-map.csv"), map_csv),
            (
                format!("figures/{code}-depth.svg"),
                figure::depth_picture(view, &art["depth"], depth, &title("Depth profile")),
            ),
            (
                format!("figures/{code}-depth.csv"),
                figure::csv(
                    &["layer", "neurons", "share", "mean_of_all", "tenth_percentile", "ninetieth_percentile"],
                    layers,
                ),
            ),
        ]
    }

    fn snippets(&self) -> Value {
        let code = self.language.code;
        let shape = self.view.model.shape();
        let hooked = HOOKED.contains(&self.view.model.architecture.as_str());
        let (kind, python) = match (shape.is_routed(), hooked) {
            (true, _) => ("list", self.list_experts()),
            (false, true) => ("switch_off", self.switch_off()),
            (false, false) => ("list", self.list()),
        };
        json!({
            "command": format!("neuroglot mask ATLAS --language {code} --format safetensors --out {code}.safetensors"),
            "python": python,
            "kind": kind,
        })
    }

    /// Where a model keeps its experts differs between families and versions of their code: what holds for all is the mask.
    fn list_experts(&self) -> String {
        let code = self.language.code;
        let FfnShape { layers, experts, width } = self.view.model.shape();
        format!(
            "import numpy as np\nfrom safetensors import safe_open\n\n\
             with safe_open(\"{code}.safetensors\", \"np\") as file:\n    bits = file.get_tensor(\"{code}\")  # uint8 [layers, ceil(experts * width / 8)]\n\
             mask = np.unpackbits(bits, axis=1, bitorder=\"little\")[:, : {experts} * {width}].astype(bool)\n\n\
             for layer, expert, neuron in np.argwhere(mask.reshape({layers}, {experts}, {width})):\n    print(layer, expert, neuron)"
        )
    }

    fn list(&self) -> String {
        let code = self.language.code;
        let width = self.view.model.width;
        format!(
            "import numpy as np\nfrom safetensors import safe_open\n\n\
             with safe_open(\"{code}.safetensors\", \"np\") as file:\n    bits = file.get_tensor(\"{code}\")  # uint8 [layers, ceil(width / 8)]\n\
             mask = np.unpackbits(bits, axis=1, bitorder=\"little\")[:, :{width}].astype(bool)\n\n\
             for layer, neuron in np.argwhere(mask):\n    print(layer, neuron)"
        )
    }

    fn switch_off(&self) -> String {
        let (code, model) = (self.language.code, &self.view.model.id);
        format!(
            "import numpy as np\nimport torch\nfrom safetensors import safe_open\nfrom transformers import AutoModelForCausalLM\n\n\
             model = AutoModelForCausalLM.from_pretrained({model:?})\n\
             with safe_open(\"{code}.safetensors\", \"np\") as file:\n    bits = file.get_tensor(\"{code}\")  # uint8 [layers, ceil(width / 8)]\n\
             masks = torch.from_numpy(np.unpackbits(bits, axis=1, bitorder=\"little\")).bool()\n\n\
             for layer, off in zip(model.model.layers, masks):\n    off = off[: layer.mlp.gate_proj.out_features]\n    \
             layer.mlp.act_fn.register_forward_hook(\n        lambda module, inputs, a, off=off: a.masked_fill(off, 0.0))"
        )
    }

    fn citation(&self) -> String {
        let run = &self.view.identify.run;
        let braces = |text: &str| text.replace(['{', '}', '\\'], "");
        format!(
            "@misc{{neuroglot-{run}-{code},\n  title = {{Language neurons of {model}: {name}}},\n  note  = {{neuroglot {version}, run {run}, rate {rate}}},\n}}",
            code = self.language.code,
            model = braces(&self.view.model.id),
            name = braces(&self.language.name),
            version = env!("CARGO_PKG_VERSION"),
            rate = self.view.rate().map(|rate| rate.rate).unwrap_or_default(),
        )
    }

    fn provenance(&self, spot: &Spot) -> Value {
        let mut rows = super::data::provenance(spot);
        if let Some(coverage) = self.view.coverage(self.language.code) {
            rows.push((spot.say("Text SHA-256", &[]), coverage.text_sha256.clone()));
        }
        rows.push((spot.say("Program", &[]), format!("neuroglot {}", self.view.identify.tool_version)));
        rows.into_iter().map(|(label, value)| json!({ "label": label, "value": value })).collect()
    }

    /// The language before or after this one by name, if there is one.
    fn beside(&self, step: isize) -> Value {
        let languages = &self.view.languages;
        let here = languages.iter().position(|language| language.code == self.language.code);
        let there = here.and_then(|at| at.checked_add_signed(step)).and_then(|at| languages.get(at));
        there.map_or(Value::Null, |language| {
            json!({ "name": language.name, "href": format!("{}.html", language.code), "bcp47": language.bcp47 })
        })
    }
}

/// What the pages of a model's languages are made of, as far as it decides how large they are.
pub struct Size {
    pub shape: FfnShape,
    pub languages: u64,
    /// Neurons of all languages together.
    pub rows: u64,
}

impl Size {
    /// Pages of the languages in so many locales, their twins and their figures.
    pub fn pages(&self, locales: u64) -> u64 {
        let (layers, mean) = (self.shape.layers as u64, self.rows / self.languages.max(1));
        let crowded = mean > 200;
        let shown = mean.min(if crowded { SHOWN_OF_MANY as u64 } else { SHOWN as u64 });
        let map = if crowded { 350 * layers } else { 9 * mean + 300 * layers };
        let page = 34_000 + 850 * shown + 420 * layers + map;
        let twin = 13_500 + 430 * shown + 260 * layers;
        let figures = 6_500 + 110 * layers + map + if crowded { 600 * layers } else { 45 * mean };
        self.languages * (page * locales + twin + figures)
    }

    /// Masks of the languages in every format.
    pub fn downloads(&self, data: Data) -> u64 {
        let bits = (self.shape.layers * self.shape.layer_width().div_ceil(8)) as u64;
        let lists = if data == Data::Full { 1_500 * self.languages + 9 * self.rows } else { 0 };
        self.languages * (bits + 500 + 400 + 3_600) + (6 + 28) * self.rows + lists
    }

    /// Pages of all languages together.
    pub fn overviews(&self, locales: u64) -> u64 {
        let pairs = self.languages * self.languages / 2;
        self.languages * (2_200 * locales + 1_200) + pairs * (60 + 4 * locales) + 120_000 * locales
    }
}

/// Architectures whose feed-forward networks transformers names `model.layers[i].mlp` with `gate_proj` and `act_fn`.
const HOOKED: [&str; 11] =
    ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "cohere", "cohere2", "smollm3"];

/// One word and one sentence on how far a set can be trusted: by the less favourable of its two measures.
fn verdict(
    spot: &Spot,
    neurons: usize,
    tokens: Option<u64>,
    frequency: Option<f64>,
    halves: Option<f64>,
) -> (String, String) {
    let Some(agreement) = frequency.into_iter().chain(halves).min_by(f64::total_cmp).filter(|_| neurons > 0) else {
        let sentence = match (neurons, tokens) {
            (0, _) => spot.say("Nothing can be said of its stability: there are no neurons to judge.", &[]),
            (_, None) => spot
                .say("Nothing can be said of its stability: the atlas does not tell from how much text it comes.", &[]),
            _ => spot.say(
                "Nothing can be said of its stability: the documents were not enough to tell how stable the set is.",
                &[],
            ),
        };
        return (spot.say("unknown", &[]), sentence);
    };
    let tokens = tokens.unwrap_or(0);
    let tokens_text = spot.locale.integer(tokens);
    let change = spot.percent((1.0 - agreement).max(0.0));
    let seen = if change == spot.percent(0.0) {
        spot.say("Text of the same kind gave the same set again; text of another kind may change it.", &[])
    } else {
        spot.say(
            "Text of the same kind would change about {change} of the set; text of another kind may change more.",
            &[("change", &change)],
        )
    };
    let read = spot.say("{tokens} tokens were read.", &[("tokens", &tokens_text)]);
    let candidates = spot.say("Treat single neurons as candidates.", &[]);
    match agreement {
        _ if tokens < 10_000 => {
            let few = spot.say("{tokens} tokens are few.", &[("tokens", &tokens_text)]);
            (spot.say("low", &[]), format!("{candidates} {few} {seen}"))
        }
        a if a >= 0.9 => (spot.say("good", &[]), format!("{read} {seen}")),
        a if a >= 0.7 => {
            let set = spot.say("Trust the set more than its single neurons.", &[]);
            (spot.say("moderate", &[]), format!("{read} {seen} {set}"))
        }
        _ => (spot.say("low", &[]), format!("{candidates} {read} {seen}")),
    }
}
