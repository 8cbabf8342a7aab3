//! The page of one language in one model: the page that people link to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Value, json};

use super::{Page, Site, SiteError, family_key, family_keys, joined, view::View, words};
use crate::{
    atlas::{FileEntry, LanguageRow, Mask, MaskFormat, MaskSet, NeuronRow},
    language::LanguageCode,
    neuron::{FfnShape, NeuronId, NeuronSet},
    output,
};

/// Neurons that the table shows.
const SHOWN: usize = 100;
/// Names that a cell shows before "and 12 more".
const NAMED: usize = 4;

pub fn page(site: &Site, view: &View, language: &LanguageRow, place: &Path) -> Result<Page, SiteError> {
    let name = words::isolated(&language.name);
    let model = words::isolated(&view.model.id);
    let description = format!(
        "The feed-forward neurons of {model} that serve {name}: map, depth profile, nearest languages, downloads."
    );
    let common = site.common(view, "language", "../", &format!("{name} in {model}"), &description);
    let subject = Subject::new(view, language);
    let own = json!({
        "language": subject.facts(),
        "rate_label": subject.rate,
        "finding": subject.finding(),
        "counts": subject.counts(),
        "map": subject.map(),
        "depth": subject.depth(),
        "classes": subject.classes(),
        "neurons": subject.neurons(),
        "neighbours": subject.neighbours(),
        "confidence": subject.confidence(),
        "downloads": subject.downloads(place)?,
        "snippets": subject.snippets(),
        "citation": subject.citation(),
        "provenance": subject.provenance(),
        "caveats": [
            "Activation is not cause: these neurons fire for the language; whether the model needs them is a separate question.",
            format!("The set depends on the {} languages in the comparison. Add or remove one, and every set changes.", view.languages.len()),
            "Much of what such neurons follow can be the script rather than the language.",
        ],
        "previous": subject.beside(-1),
        "next": subject.beside(1),
    });
    let path = format!("{}/{}.html", view.folder, language.code);
    Ok(Page { path, template: "language.html", data: joined(common, own) })
}

/// A language and its rows.
struct Subject<'a> {
    view: &'a View<'a>,
    language: &'a LanguageRow,
    rows: &'a [NeuronRow],
    specific: usize,
    rate: String,
    name: String,
}

impl<'a> Subject<'a> {
    fn new(view: &'a View<'a>, language: &'a LanguageRow) -> Self {
        let rows = view.tables.of(language.code);
        Self {
            specific: rows.iter().filter(|row| row.languages == 1).count(),
            rate: view.rate().map_or_else(String::new, |rate| words::percent(rate.rate)),
            name: words::isolated(&language.name),
            view,
            language,
            rows,
        }
    }

    fn facts(&self) -> Value {
        let language = self.language;
        let keys = family_keys(self.view);
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
            "family_key": family_key(&keys, &language.family),
            "subfamily": language.subfamily,
            "area": language.area,
            "speakers_text": language.speakers.map(|speakers| format!("about {}", words::size(speakers))),
            "quality_note": self.view.coverage(language.code).and_then(|row| row.remark.clone()),
        })
    }

    /// Neurons in the last quarter of the layers, and how many layers that is.
    fn late(&self) -> (usize, usize) {
        let layers = self.view.model.layers;
        let quarter = layers.div_ceil(4);
        (self.rows.iter().filter(|row| row.layer >= layers - quarter).count(), quarter)
    }

    /// `layer 3`, or `expert 7 of layer 3`.
    fn network(&self, row: &NeuronRow) -> String {
        if self.view.model.shape().is_routed() {
            format!("expert {} of layer {}", row.expert, row.layer)
        } else {
            format!("layer {}", row.layer)
        }
    }

    fn finding(&self) -> String {
        let all = words::thousands(self.view.model.shape().neurons() as u64);
        let name = &self.name;
        let (late, quarter) = self.late();
        let alone = match self.specific {
            0 => "none of them serves this language alone".to_owned(),
            1 => "1 of them serves no other language".to_owned(),
            n => format!("{} of them serve no other language", words::thousands(n as u64)),
        };
        match self.rows.len() {
            0 => {
                format!("At the {} rate, none of the {all} neurons serves {name} more than other languages.", self.rate)
            }
            1 => {
                let own =
                    if self.specific == 1 { "it serves no other language" } else { "it serves other languages too" };
                format!("1 of {all} neurons serves {name}; {own}, and it lies in {}.", self.network(&self.rows[0]))
            }
            n => format!(
                "{} of {all} neurons serve {name}; {alone}, and {} in the last {quarter} of {} layers.",
                words::thousands(n as u64),
                match late {
                    0 => "none lies".to_owned(),
                    1 => "1 lies".to_owned(),
                    late if late == n => "all lie".to_owned(),
                    late => format!("{} lie", words::thousands(late as u64)),
                },
                self.view.model.layers
            ),
        }
    }

    fn counts(&self) -> Value {
        let text = |n: usize| words::thousands(n as u64);
        let shared = self.rows.len() - self.specific;
        let rates = self.view.result.rates.iter().rev().map(|rate| {
            let count = self.rows.iter().filter(|row| rate.includes(row.rank)).count();
            let default = Some(rate) == self.view.rate();
            json!({ "label": words::percent(rate.rate), "count": count, "count_text": text(count), "default": default })
        });
        json!({
            "total": self.rows.len(),
            "specific": self.specific,
            "shared": shared,
            "total_text": text(self.rows.len()),
            "specific_text": text(self.specific),
            "shared_text": text(shared),
            "by_rate": rates.collect::<Vec<_>>(),
        })
    }

    fn map(&self) -> Value {
        let view = self.view;
        let mut layers: Vec<[BTreeSet<usize>; 3]> = vec![Default::default(); view.model.layers];
        let mut totals = vec![0usize; view.model.layers];
        for (&NeuronId { layer, .. }, served) in &view.neurons {
            let own = served.rows.iter().any(|row| row.language == self.language.code);
            let kind = match served.rows.len() {
                _ if !own => 2,
                1 => 0,
                _ => 1,
            };
            layers[layer][kind].insert(served.column);
            totals[layer] += usize::from(own);
        }
        let rows = layers.iter().zip(&totals).enumerate().map(|(layer, ([specific, shared, others], total))| {
            json!({ "layer": layer, "total": total, "specific": specific, "shared": shared, "others": others })
        });
        let width = view.model.shape().layer_width();
        let binned = if view.columns() < width {
            format!(" {} neurons share {} columns.", words::thousands(width as u64), view.columns())
        } else {
            String::new()
        };
        json!({
            "layers": view.model.layers,
            "width": view.columns(),
            "caption": self.map_caption(),
            "order_note": format!(
                "Within a layer, neurons that serve the same languages stand side by side. The order is the same on every language’s map \
                 of this model.{binned}"
            ),
            "rows": rows.collect::<Vec<_>>(),
        })
    }

    fn map_caption(&self) -> String {
        let name = &self.name;
        if self.rows.is_empty() {
            return format!("No neuron serves {name} at this rate; the faint marks serve other languages.");
        }
        let mut layers: Vec<(usize, usize)> = self.view.per_layer(self.language.code).into_iter().enumerate().collect();
        layers.sort_by_key(|&(layer, count)| (std::cmp::Reverse(count), layer));
        let (layer, most) = layers[0];
        let marks = match self.specific {
            0 => "All of them are shared with other languages: half-height marks",
            n if n == self.rows.len() => "All of them are tall marks: they serve no other language",
            _ => "Tall marks serve no other language",
        };
        format!("Layer {layer} holds the most neurons that serve {name}: {most} of {}. {marks}.", self.rows.len())
    }

    /// Per layer the share of the language's neurons, beside the mean of all languages and the band that eight in ten lie in.
    fn depth(&self) -> Value {
        let view = self.view;
        let shares = |code: LanguageCode| -> Option<Vec<f64>> {
            let counts = view.per_layer(code);
            let total: usize = counts.iter().sum();
            (total > 0).then(|| counts.iter().map(|&count| count as f64 / total as f64).collect())
        };
        let all: Vec<Vec<f64>> = view.languages.iter().filter_map(|language| shares(language.code)).collect();
        let own = shares(self.language.code);
        let counts = view.per_layer(self.language.code);
        let mut largest = 0.0f64;
        let mut above: Option<(f64, usize)> = None;
        let mut rows = Vec::new();
        for layer in 0..view.model.layers {
            let mut column: Vec<f64> = all.iter().map(|shares| shares[layer]).collect();
            column.sort_by(f64::total_cmp);
            let mean = column.iter().sum::<f64>() / column.len().max(1) as f64;
            let (low, high) = (quantile(&column, 0.1), quantile(&column, 0.9));
            let share = own.as_ref().map(|own| own[layer]);
            largest = largest.max(high).max(mean).max(share.unwrap_or_default());
            if let Some(share) = share
                && above.is_none_or(|(difference, _)| share - mean > difference)
            {
                above = Some((share - mean, layer));
            }
            rows.push(json!({
                "layer": layer, "count": counts[layer], "share": share, "mean": mean, "low": low, "high": high,
                "share_text": share.map_or_else(|| "–".to_owned(), words::percent),
                "mean_text": words::percent(mean),
                "band_text": format!("{} to {}", words::percent(low), words::percent(high)),
            }));
        }
        let step = if largest > 0.5 {
            0.25
        } else if largest > 0.2 {
            0.1
        } else {
            0.05
        };
        let steps = (largest / step).ceil().max(1.0);
        let ticks =
            (0..=steps as usize).map(|i| json!({ "value": i as f64 * step, "text": words::percent(i as f64 * step) }));
        let caption = match (own, above) {
            (Some(own), Some((difference, layer))) if difference > 0.005 => format!(
                "Against the mean of all languages, {} has more of its neurons in layer {layer}: {} of them, where the mean is {}.",
                self.name,
                words::percent(own[layer]),
                words::percent(own[layer] - difference)
            ),
            (Some(_), _) => {
                format!("The neurons of {} lie in the layers where those of most languages lie.", self.name)
            }
            _ => format!("{} has no neurons at this rate; the line shows the mean of all languages.", self.name),
        };
        json!({ "caption": caption, "axis_max": steps * step, "ticks": ticks.collect::<Vec<_>>(), "rows": rows })
    }

    fn classes(&self) -> Value {
        let half = self.view.languages.len().div_ceil(2);
        let kinds = [
            ("exclusive", format!("serve {} alone", self.name)),
            ("family", "serve several languages, all of one family".to_owned()),
            ("shared", "serve languages of several families".to_owned()),
            ("general", format!("serve at least {half} languages")),
        ];
        let count = |kind: &str| self.rows.iter().filter(|row| row.class.as_deref() == Some(kind)).count();
        kinds
            .into_iter()
            .map(|(name, explanation)| {
                let count = count(name);
                json!({ "name": name, "count": count, "text": words::thousands(count as u64), "explanation": explanation })
            })
            .collect()
    }

    fn neurons(&self) -> Value {
        let mut rows: Vec<&NeuronRow> = self.rows.iter().collect();
        rows.sort_by_key(|row| row.rank);
        let shown_text = match rows.len() {
            0 => format!(
                "No neuron serves {} at the {} rate: none has a probability above the bar for it and a low enough entropy.",
                self.name, self.rate
            ),
            1 => "The only one is listed.".to_owned(),
            n if n <= SHOWN => format!("All {n} are listed."),
            n => format!("The first {SHOWN} of {} are listed; the downloads hold all.", words::thousands(n as u64)),
        };
        json!({
            "caption": format!("Neurons that serve {}, most selective first.", self.name),
            "shown_text": shown_text,
            "rows": rows.iter().take(SHOWN).map(|row| self.neuron(row)).collect::<Vec<_>>(),
        })
    }

    fn neuron(&self, row: &NeuronRow) -> Value {
        let view = self.view;
        let mut others: Vec<&NeuronRow> = view.neurons[&row.id()].rows.clone();
        others.retain(|other| other.language != self.language.code);
        others.sort_by(|a, b| {
            b.probability.unwrap_or(0.0).total_cmp(&a.probability.unwrap_or(0.0)).then(a.language.cmp(&b.language))
        });
        let named = others.iter().take(NAMED).filter_map(|other| view.language(other.language));
        let decimals =
            |value: Option<f32>, n: usize| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.n$}"));
        let mut data = json!({
            "id": format!("L{}·N{}", row.layer, row.neuron),
            "anchor": format!("n-{}-{}", row.layer, row.neuron),
            "layer": row.layer,
            "index": row.neuron,
            "rank": row.rank,
            "rank_text": row.rank.map_or_else(|| "–".to_owned(), |rank| words::thousands(u64::from(rank) + 1)),
            "probability": row.probability.unwrap_or(0.0),
            "probability_text": decimals(row.probability, 3),
            "entropy_text": decimals(row.entropy, 2),
            "share_text": row.share.map_or_else(|| "–".to_owned(), |share| words::percent(f64::from(share))),
            "mean_activation_text": decimals(row.mean_activation, 2),
            "stability_text": row.selection_freq.map(|frequency| format!("{frequency:.2}")),
            "class": row.class.clone().unwrap_or_else(|| "–".to_owned()),
            "others_text": words::count(others.len(), "other language"),
            "others": named.map(|other| json!({ "name": other.name, "bcp47": other.bcp47, "href": format!("{}.html", other.code) })).collect::<Vec<_>>(),
            "more": others.len().saturating_sub(NAMED),
        });
        if view.model.shape().is_routed() {
            data["id"] = format!("L{}·E{}·N{}", row.layer, row.expert, row.neuron).into();
            data["anchor"] = format!("n-{}-{}-{}", row.layer, row.expert, row.neuron).into();
            data["expert"] = row.expert.into();
        }
        data
    }

    fn neighbours(&self) -> Value {
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
            near.into_iter()
                .take(8)
                .map(|(language, jaccard, shared)| self.neighbour(language, *jaccard, *shared))
                .collect::<Vec<_>>()
        };
        let by_neurons = nearest(&|_, shared| shared > 0);
        let caption = match by_neurons.first() {
            Some(first) => format!(
                "By neurons, {} stands nearest to {} ({} in common, Jaccard {}).",
                self.name,
                words::isolated(first["name"].as_str().unwrap_or_default()),
                words::count(first["shared"].as_u64().unwrap_or_default() as usize, "neuron"),
                first["jaccard_text"].as_str().unwrap_or_default()
            ),
            None => format!("{} shares no neuron with another language.", self.name),
        };
        json!({
            "caption": caption,
            "by_neurons": by_neurons,
            "relatives": nearest(&|language, _| language.family == own.family),
            "script": nearest(&|language, _| language.code.script() == own.code.script()),
        })
    }

    fn neighbour(&self, language: &LanguageRow, jaccard: f64, shared: usize) -> Value {
        let own = self.language;
        let relation = match (&own.subfamily, &language.subfamily) {
            (Some(a), Some(b)) if a == b && own.family == language.family => format!("Both {a}"),
            _ if own.family == language.family => format!("Both {}", own.family),
            _ if own.code.script() == language.code.script() => "Same script, other family".to_owned(),
            _ => "Other family, other script".to_owned(),
        };
        json!({
            "code": language.code,
            "name": language.name,
            "autonym": language.autonym.as_ref().unwrap_or(&language.name),
            "bcp47": language.bcp47,
            "direction": language.direction,
            "href": format!("{}.html", language.code),
            "jaccard": jaccard,
            "jaccard_text": format!("{jaccard:.2}"),
            "shared": shared,
            "relation": relation,
        })
    }

    fn confidence(&self) -> Value {
        let code = self.language.code;
        let coverage = self.view.coverage(code);
        let tokens = coverage.map_or(0, |row| row.tokens);
        let stability = self.view.stability(code);
        let frequency = stability.and_then(|row| row.mean_selection_freq);
        let halves = stability.and_then(|row| row.split_half_jaccard);
        let (level, sentence) = verdict(self.rows.len(), tokens, frequency, halves);
        let all: Vec<u64> =
            self.view.languages.iter().filter_map(|l| self.view.coverage(l.code)).map(|row| row.tokens).collect();
        let (fewest, most) = (all.iter().min().copied().unwrap_or(0), all.iter().max().copied().unwrap_or(0));
        let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let range = if fewest == most {
            "The same for every language.".to_owned()
        } else {
            format!("Over all languages: {} to {}.", words::thousands(fewest), words::thousands(most))
        };
        json!({ "level": level, "sentence": sentence, "rows": [
            { "label": "Tokens", "value": words::thousands(tokens), "explanation": range },
            { "label": "Documents", "value": words::thousands(coverage.map_or(0, |row| row.documents)),
              "explanation": format!("{} of text read.", words::bytes(coverage.map_or(0, |row| row.bytes))) },
            { "label": "Selection frequency", "value": text(frequency),
              "explanation": format!("How often, on average, a neuron of this set is chosen again in {} resamples.", self.view.parameters.resamples) },
            { "label": "Split-half agreement", "value": text(halves),
              "explanation": "Jaccard of the sets from one half of the documents and from the other; 1 would be the same set." },
            { "label": "Design effect", "value": text(stability.and_then(|row| row.deff)),
              "explanation": "Variance between documents against independent tokens; 1 would be no clustering." },
        ]})
    }

    /// Writes the mask in every format and lists the files.
    fn downloads(&self, place: &Path) -> Result<Value, SiteError> {
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
        let indices = if shape.is_routed() { "indices per layer and expert" } else { "indices per layer" };
        let formats = [
            (MaskFormat::Safetensors, "safetensors", "safetensors", "mask as bits, one row per layer"),
            (MaskFormat::Json, "mask.json", "JSON", indices),
            (MaskFormat::Parquet, "parquet", "Parquet", "the table above in full, with exact values"),
            (MaskFormat::Pth, "pth", "PyTorch", "lists for torch.load(…, weights_only=True)"),
        ];
        let mut files = Vec::new();
        for (format, extension, name, what) in formats.into_iter().filter(|(format, ..)| format.holds(shape)) {
            let file = format!("{code}.{extension}");
            let path = format!("{}/{file}", view.folder);
            match masks.bytes(format)? {
                Some(bytes) => output::write(&place.join(&path), &bytes)?,
                None => drop(NeuronRow::write(self.rows, &place.join(&path))?),
            }
            let entry = FileEntry::measure(place, &path, None)?;
            files.push(json!({
                "label": file, "format": name, "href": file, "bytes": entry.bytes, "bytes_text": words::bytes(entry.bytes),
                "sha256": entry.sha256, "description": what,
            }));
        }
        Ok(Value::Array(files))
    }

    fn snippets(&self) -> Value {
        let code = self.language.code;
        let python = if self.view.model.shape().is_routed() { self.list_experts() } else { self.switch_off() };
        json!({
            "command": format!("neuroglot mask ATLAS --language {code} --format safetensors --out {code}.safetensors"),
            "python": python,
            "adapt": null,
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

    fn provenance(&self) -> Value {
        let view = self.view;
        let none = || "–".to_owned();
        let mut rows = vec![("Model", view.model.id.clone())];
        rows.extend(view.model.revision.clone().map(|revision| ("Revision", revision)));
        let weights = view.model.weights_sha256.as_ref();
        rows.push(("Weights", weights.map_or_else(none, |hashes| hashes.trim_matches(['{', '}']).replace('"', ""))));
        if let Some(run) = view.profile {
            rows.push(("Text", run.corpus.clone().unwrap_or_else(none)));
            rows.push(("Split", run.split.clone().unwrap_or_else(none)));
            rows.push(("Tokens asked", run.tokens.map_or_else(none, words::thousands)));
            rows.push((
                "Window",
                run.context.map_or_else(none, |context| format!("{context} tokens, full, not padded")),
            ));
            rows.push(("Between documents", run.separator.clone().unwrap_or_else(none)));
            rows.push(("Folds of documents", run.folds.map_or_else(none, |folds| folds.to_string())));
            rows.push((
                "Computed in",
                format!(
                    "{} on {}",
                    run.precision.clone().unwrap_or_else(none),
                    run.device.clone().unwrap_or_else(none)
                ),
            ));
            rows.push(("Profile run", run.run.clone()));
        }
        let parameters = &view.parameters;
        let arithmetic = parameters.arithmetic.as_ref().map(|kind| format!(", {kind} arithmetic"));
        rows.push(("Method", format!("{}{}", view.method, arithmetic.unwrap_or_default())));
        rows.extend(view.identify.origin.clone().map(|origin| ("Imported from", origin)));
        rows.push(("Top rate", parameters.top_rates.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")));
        rows.push(("Filter rate", parameters.filter_rate.map_or_else(none, |rate| rate.to_string())));
        rows.push(("Activation bar", parameters.activation_bar.map_or_else(none, |rate| rate.to_string())));
        rows.push(("Languages compared", parameters.languages.len().to_string()));
        rows.push(("Identification run", view.identify.run.clone()));
        if let Some(coverage) = view.coverage(self.language.code) {
            rows.push(("Text SHA-256", coverage.text_sha256.clone()));
        }
        rows.push(("Program", format!("neuroglot {}", view.identify.tool_version)));
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

/// One word and one sentence on how far a set can be trusted: by the less favourable of its two measures.
fn verdict(neurons: usize, tokens: u64, frequency: Option<f64>, halves: Option<f64>) -> (&'static str, String) {
    let Some(agreement) = frequency.into_iter().chain(halves).min_by(f64::total_cmp).filter(|_| neurons > 0) else {
        let reason = match neurons {
            0 => "there are no neurons to judge",
            _ => "the documents were not enough to tell how stable the set is",
        };
        return ("unknown", format!("Nothing can be said of its stability: {reason}."));
    };
    let tokens_text = words::thousands(tokens);
    let seen = match words::percent((1.0 - agreement).max(0.0)).as_str() {
        "0 %" => "text of the same kind gave the same set again".to_owned(),
        change => format!("text of the same kind would change about {change} of the set"),
    };
    let other = "text of another kind may change more";
    match agreement {
        _ if tokens < 10_000 => {
            ("low", format!("Treat single neurons as candidates: {tokens_text} tokens are few. Here, {seen}; {other}."))
        }
        a if a >= 0.9 => ("good", format!("With {tokens_text} tokens read, {seen}; {other}.")),
        a if a >= 0.7 => (
            "moderate",
            format!("With {tokens_text} tokens read, {seen}; {other}. Trust the set more than its single neurons."),
        ),
        _ => ("low", format!("Treat single neurons as candidates: with {tokens_text} tokens read, {seen}; {other}.")),
    }
}

/// Quantile of sorted values, linear between neighbours.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = q * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}
