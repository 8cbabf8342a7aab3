//! Figures as paths: what the pages draw inline, and the same as SVG and CSV files of their own.
//!
//! Layer 0 is the bottom row. A kind of mark is one path per row, so that a page with thousands of marks stays small.

use std::fmt::Write;

use serde_json::{Value, json};

use super::view::{Band, View};
use crate::language::LanguageCode;

/// Bins of a layer where there are too many neurons for marks.
pub const BINS: usize = 128;
/// Colours of a scale, `q0` to `q9` in the style sheet.
pub const STEPS: usize = 10;

/// A text inside HTML or XML.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // XML knows no other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t') => {}
            c => safe.push(c),
        }
    }
    safe
}

/// Height of a layer's row, in pixels.
pub fn row_height(layers: usize) -> usize {
    match layers {
        0..=8 => 36,
        9..=16 => 24,
        17..=40 => 16,
        _ => 11,
    }
}

/// How a language's neurons are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// A mark with a head for every neuron.
    Pins,
    /// A mark for every neuron.
    Strokes,
    /// A silhouette of how many neurons stand at a place.
    Ridges,
}

impl Marks {
    fn of(view: &View, total: usize) -> Self {
        match total {
            _ if crowded(view) => Self::Ridges,
            ..=80 if view.model.layers <= 40 => Self::Pins,
            _ => Self::Strokes,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pins => "pins",
            Self::Strokes => "strokes",
            Self::Ridges => "ridges",
        }
    }
}

/// Whether a layer has more selected neurons than its columns can show one by one.
pub fn crowded(view: &View) -> bool {
    let mut fullest = vec![0usize; view.model.layers];
    view.neurons.keys().for_each(|id| fullest[id.layer] += 1);
    fullest.into_iter().max().is_some_and(|most| most > view.columns() / 2)
}

/// The silhouettes of a map as numbers: layer, bin, and the neurons that stand there (all selected, the language's, its alone).
pub fn map_bins(view: &View, rows: &[MapRow]) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for (layer, row) in rows.iter().enumerate() {
        let [all, own, specific] = binned(row, view.columns());
        for bin in (0..BINS).filter(|&bin| own[bin] > 0) {
            lines.push([layer, bin, all[bin], own[bin], specific[bin]].map(|n| n.to_string()).to_vec());
        }
    }
    lines
}

/// One layer of a neuron map: columns of the neurons that serve the language alone, it and others, and others only.
#[derive(Clone, Debug, Default)]
pub struct MapRow {
    pub specific: Vec<usize>,
    pub shared: Vec<usize>,
    pub others: Vec<usize>,
}

/// The rows of a language's map, the first layer first; columns ascend, one entry per neuron.
pub fn map_rows(view: &View, language: LanguageCode) -> Vec<MapRow> {
    let mut rows = vec![MapRow::default(); view.model.layers];
    for (id, served) in &view.neurons {
        let own = served.rows.iter().any(|row| row.language == language);
        let row = &mut rows[id.layer];
        let kind = match served.rows.len() {
            _ if !own => &mut row.others,
            1 => &mut row.specific,
            _ => &mut row.shared,
        };
        kind.push(served.column);
    }
    for row in &mut rows {
        [&mut row.specific, &mut row.shared, &mut row.others].into_iter().for_each(|columns| columns.sort_unstable());
    }
    rows
}

/// The paths of a neuron map.
pub fn map(view: &View, rows: &[MapRow]) -> Value {
    let total = rows.iter().map(|row| row.specific.len() + row.shared.len()).sum();
    map_as(Marks::of(view, total), view.columns(), rows)
}

/// The paths of rows of marks in so many columns.
pub fn map_as(marks: Marks, columns: usize, rows: &[MapRow]) -> Value {
    let layers = rows.len();
    let height = row_height(layers);
    let scale = |share: f64| (height as f64 * share).round() as usize;
    let (full, half, low) = (scale(0.84), scale(0.46), scale(0.2));
    let bins: Vec<[Vec<usize>; 3]> =
        if marks == Marks::Ridges { rows.iter().map(|row| binned(row, columns)).collect() } else { Vec::new() };
    let most = bins.iter().flat_map(|[all, ..]| all).copied().max().unwrap_or(1).max(1);
    let rows = rows.iter().enumerate().map(|(layer, row)| {
        let y = (layers - layer) * height;
        let count = row.specific.len() + row.shared.len();
        let mut drawn = json!({ "layer": layer, "y": y, "text_y": y - height / 2 + 4, "total": count });
        if marks == Marks::Ridges {
            let ridge = |counts: &[usize]| {
                // By the square root: a layer with few neurons is still seen beside one with many.
                let tops: Vec<usize> = counts
                    .iter()
                    .map(|&n| {
                        if n == 0 {
                            0
                        } else {
                            (((n as f64 / most as f64).sqrt() * (height - 2) as f64).round() as usize).max(1)
                        }
                    })
                    .collect();
                silhouette(&tops)
            };
            let [all, own, specific] = &bins[layer];
            // What all languages' maps have behind them is drawn half as fine.
            let behind: Vec<usize> =
                all.chunks(2).flat_map(|pair| [pair.iter().sum::<usize>().div_ceil(2); 2]).collect();
            drawn["others"] = ridge(&behind).into();
            drawn["shared"] = ridge(own).into();
            drawn["specific"] = ridge(specific).into();
        } else {
            drawn["others"] = strokes(&row.others, low).into();
            drawn["shared"] = strokes(&row.shared, half).into();
            drawn["specific"] = strokes(&row.specific, full).into();
            if marks == Marks::Pins {
                drawn["rings"] = dots(&row.shared, half).into();
                drawn["discs"] = dots(&row.specific, full).into();
            }
        }
        drawn
    });
    json!({
        "marks": marks.name(), "row": height, "height": layers * height, "width": if marks == Marks::Ridges { BINS } else { columns },
        "rows": rows.collect::<Vec<_>>(), "axis": layer_axis(layers, height),
    })
}

/// How many neurons stand in each bin: of all that are selected, of the language's, of those that serve it alone.
fn binned(row: &MapRow, columns: usize) -> [Vec<usize>; 3] {
    let mut bins = [vec![0; BINS], vec![0; BINS], vec![0; BINS]];
    let mut add = |columns_of: &[usize], into: &[usize]| {
        for column in columns_of {
            into.iter().for_each(|&kind| bins[kind][column * BINS / columns] += 1);
        }
    };
    add(&row.others, &[0]);
    add(&row.shared, &[0, 1]);
    add(&row.specific, &[0, 1, 2]);
    bins
}

/// A filled outline over columns of these heights.
fn silhouette(tops: &[usize]) -> String {
    let mut path = String::new();
    let mut at = 0;
    while at < tops.len() {
        if tops[at] == 0 {
            at += 1;
            continue;
        }
        let _ = write!(path, "M{at} 0");
        while at < tops.len() && tops[at] > 0 {
            let run = tops[at..].iter().take_while(|top| **top == tops[at]).count();
            let _ = write!(path, "V-{}h{run}", tops[at]);
            at += run;
        }
        path.push_str("V0z");
    }
    path
}

fn strokes(columns: &[usize], height: usize) -> String {
    let mut columns = columns.to_vec();
    columns.dedup();
    columns.iter().map(|x| format!("M{x} 0v-{height}")).collect()
}

fn dots(columns: &[usize], height: usize) -> String {
    let mut columns = columns.to_vec();
    columns.dedup();
    columns.iter().map(|x| format!("M{x}-{height}h.01")).collect()
}

/// Layer numbers beside a plot: all where there is room, else every fifth and the last.
fn layer_axis(layers: usize, height: usize) -> Vec<Value> {
    let every = if height < 12 { 10 } else { 5 };
    (0..layers)
        .filter(|&layer| layers <= 12 || layer == layers - 1 || (layer % every == 0 && layer + 2 < layers))
        .map(|layer| json!({ "y": (layers - layer) * height - height / 2 + 4, "text": layer }))
        .collect()
}

/// The paths of a depth profile; shares as thousandths of the axis.
pub fn depth(bands: &[Band], own: Option<&[f64]>, axis_max: f64) -> Value {
    let layers = bands.len();
    let height = row_height(layers) as f64;
    let x = |share: f64| trimmed(share / axis_max * 1000.0);
    let (mut band, mut mean, mut stem, mut dot) = (String::new(), String::new(), String::new(), String::new());
    for (layer, found) in bands.iter().enumerate() {
        let middle = (layers - layer) as f64 * height - height / 2.0;
        let _ = write!(band, "M{} {}H{}", x(found.low), trimmed(middle), x(found.high.max(found.low + 1e-4)));
        let _ = write!(mean, "M{} {}v{}", x(found.mean), trimmed(middle - height * 0.33), trimmed(height * 0.66));
        if let Some(own) = own {
            let _ = write!(stem, "M0 {}H{}", trimmed(middle), x(own[layer]));
            let _ = write!(dot, "M{} {}h.01", x(own[layer]), trimmed(middle));
        }
    }
    json!({
        "row": height, "height": layers * height as usize, "band_width": (height * 0.66).round(),
        "band": band, "mean": mean, "stem": stem, "dot": dot, "axis": layer_axis(layers, height as usize),
    })
}

fn trimmed_to(value: f64, places: usize) -> String {
    format!("{value:.places$}")
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// Squares of a matrix by colour: for each step of the scale one path, a run of like squares one stroke. Where `value` is none,
/// nothing is drawn.
pub fn matrix(side: (usize, usize), value: impl Fn(usize, usize) -> Option<f64>, largest: f64) -> Vec<Value> {
    let (rows, columns) = side;
    let mut paths = vec![String::new(); STEPS];
    for y in 0..rows {
        let mut x = 0;
        while x < columns {
            let Some(step) = value(y, x).map(|value| step(value, largest)) else {
                x += 1;
                continue;
            };
            let run =
                (x..columns).take_while(|&x| value(y, x).map(|value| self::step(value, largest)) == Some(step)).count();
            let _ = write!(paths[step], "M{x} {y}.5h{run}");
            x += run;
        }
    }
    let drawn = paths.into_iter().enumerate().filter(|(_, path)| !path.is_empty());
    drawn.map(|(step, d)| json!({ "step": step, "d": d })).collect()
}

/// Colour of a value between nothing and the largest.
pub fn step(value: f64, largest: f64) -> usize {
    if largest <= 0.0 {
        return 0;
    }
    ((value / largest * STEPS as f64).max(0.0) as usize).min(STEPS - 1)
}

/// The branches of a tree of languages that lies on its side, its leaves one unit apart and its root at the left; depths as
/// hundredths of `width`.
pub fn dendrogram(view: &View, width: f64) -> String {
    let tree = &view.tree;
    let leaves = view.languages.len();
    let place = |code| tree.leaves.iter().position(|leaf| *leaf == code).unwrap_or(0) as f64 + 0.5;
    let mut nodes: Vec<(f64, f64)> = view.languages.iter().map(|language| (place(language.code), 0.0)).collect();
    let deepest = tree.forks.iter().map(|(.., distance)| *distance).fold(1e-9, f64::max);
    let x = |distance: f64| trimmed(width * (1.0 - distance / deepest));
    let mut path = String::with_capacity(leaves * 40);
    for &(a, b, distance) in &tree.forks {
        let ((ya, da), (yb, db)) = (nodes[a], nodes[b]);
        let _ = write!(path, "M{} {}H{}V{}H{}", x(da), trimmed(ya), x(distance), trimmed(yb), x(db));
        nodes.push((f64::midpoint(ya, yb), distance));
    }
    path
}

/// Decimals that tell the steps of a scale apart.
pub fn places(largest: f64) -> usize {
    match largest {
        n if n >= 0.5 => 2,
        n if n >= 0.05 => 3,
        _ => 4,
    }
}

/// Ticks from nothing to what holds `largest`, and that end: steps of 1, 2 or 5, four to eight of them.
pub fn ticks(largest: f64) -> (Vec<f64>, f64) {
    if largest <= 0.0 {
        return (vec![0.0, 0.5, 1.0], 1.0);
    }
    let power = 10f64.powf((largest / 4.0).log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| largest / step <= 5.0).unwrap_or(power);
    let steps = (largest / step - 1e-9).ceil().max(1.0);
    ((0..=steps as usize).map(|i| i as f64 * step).collect(), steps * step)
}

/// A figure that stands alone: its title and what it says above, its source below, colours fixed for a white page.
pub struct Picture {
    width: usize,
    top: usize,
    height: usize,
    head: String,
    body: String,
    source: String,
}

const STYLE: &str = "text{font:12px system-ui,'Noto Sans',Arial,sans-serif;fill:#565d66}.h{font-size:17px;font-weight:600;fill:#1b1f24}\
.c{font-size:13px;fill:#1b1f24}path{fill:none;vector-effect:non-scaling-stroke}.rule,.grid{stroke:#dcddd6}.m-own,.d-stem,.d-dot{stroke:#0b3d91;stroke-width:2}\
.m-shared{stroke:#a5620a;stroke-width:2}.m-other{stroke:#8b9097}.r-own{fill:#0b3d91}.r-shared{fill:#d08a2e}.r-all{fill:#d3d6cf}.disc,.ring{stroke-width:9;stroke-linecap:round}\
.hole{stroke:#fff;stroke-width:4.5;stroke-linecap:round}.d-band{stroke:#d3d6cf}.d-mean{stroke:#565d66;stroke-width:2}.d-dot{stroke-width:8;stroke-linecap:round}\
.branch{stroke:#868c93}.o-bar{fill:#0b3d91}.cells path{vector-effect:none;shape-rendering:crispEdges}";
const CIVIDIS: [&str; STEPS] =
    ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];

impl Picture {
    /// A picture whose plot is `height` pixels high.
    pub fn new(width: usize, height: usize, title: &str, caption: &str, source: &str) -> Self {
        let lines = wrapped(caption, width / 7);
        let mut head = format!("<text class=\"h\" x=\"20\" y=\"32\">{}</text>", escaped(title));
        for (at, line) in lines.iter().enumerate() {
            let _ = write!(head, "<text class=\"c\" x=\"20\" y=\"{}\">{}</text>", 54 + at * 18, escaped(line));
        }
        Self { width, top: 54 + lines.len() * 18 + 8, height, head, body: String::new(), source: source.to_owned() }
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) -> &mut Self {
        let y = y + self.top as f64;
        let _ = write!(
            self.body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            trimmed(x),
            trimmed(y),
            escaped(text)
        );
        self
    }

    /// A name beside a row that is so high: as large as fits.
    pub fn name(&mut self, x: f64, y: f64, row: f64, text: &str) -> &mut Self {
        let (size, y) = (row.clamp(2.0, 12.0), y + self.top as f64 + row.min(12.0) * 0.35);
        let _ = write!(
            self.body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" style=\"font-size:{}px\">{}</text>",
            trimmed(x),
            trimmed(y),
            trimmed(size),
            escaped(text)
        );
        self
    }

    /// The colours of a matrix from nothing to the largest value.
    pub fn scale(&mut self, x: f64, y: f64, largest: f64, label: &str) -> &mut Self {
        let boxes: String = (0..STEPS).map(|step| format!("<path class=\"q{step}\" d=\"M{step}.5 0v1\"/>")).collect();
        self.plot((x, y), (300.0, 12.0), (STEPS, 1), &format!("<g class=\"cells\">{boxes}</g>"));
        let end = trimmed_to(largest, places(largest));
        self.text(x, y + 26.0, "start", "0").text(x + 300.0, y + 26.0, "end", &end).text(
            x + 312.0,
            y + 11.0,
            "start",
            label,
        )
    }

    /// A part with its own coordinates, stretched to a box.
    pub fn plot(&mut self, at: (f64, f64), size: (f64, f64), view_box: (usize, usize), content: &str) -> &mut Self {
        let _ = write!(
            self.body,
            "<svg x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\" overflow=\"visible\">{content}</svg>",
            trimmed(at.0),
            trimmed(at.1 + self.top as f64),
            trimmed(size.0),
            trimmed(size.1),
            view_box.0,
            view_box.1
        );
        self
    }

    pub fn finish(&self) -> Vec<u8> {
        let total = self.top + self.height + 34;
        let mut style = STYLE.to_owned();
        for (step, colour) in CIVIDIS.iter().enumerate() {
            let _ = write!(style, ".q{step}{{stroke:{colour};fill:{colour}}}");
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{total}\" viewBox=\"0 0 {w} {total}\"><style>{style}</style>\
             <rect width=\"{w}\" height=\"{total}\" fill=\"#fff\"/>{}{}<text x=\"20\" y=\"{}\">{}</text></svg>\n",
            self.head, self.body, total - 12, escaped(&self.source), w = self.width
        )
        .into_bytes()
    }
}

/// A text in lines of about so many letters.
fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The map as a picture.
pub fn map_picture(view: &View, art: &Value, title: &str, caption: &str) -> Vec<u8> {
    let height = art["height"].as_u64().unwrap_or(0) as usize;
    let mut picture = Picture::new(960, height + 46, title, caption, &source(view));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ridges = art["marks"] == "ridges";
    let classes = if ridges { ["r-all", "r-shared", "r-own"] } else { ["m-other", "m-shared", "m-own"] };
    let width = art["width"].as_u64().unwrap_or(1) as usize;
    let mut plot = String::new();
    for row in art["rows"].as_array().into_iter().flatten() {
        let _ = write!(
            plot,
            "<g transform=\"translate({} {})\"><path class=\"rule\" d=\"M0-.5h{width}\"/>",
            if ridges { "0" } else { ".5" },
            row["y"]
        );
        for (class, kind) in classes.iter().zip(["others", "shared", "specific"]) {
            if row[kind] != "" {
                let _ = write!(plot, "<path class=\"{class}\" d=\"{}\"/>", text(&row[kind]));
            }
            let heads = match kind {
                "shared" => vec![("m-shared ring", "rings"), ("hole", "rings")],
                "specific" => vec![("m-own disc", "discs")],
                _ => Vec::new(),
            };
            for (class, heads) in heads.into_iter().filter(|(_, heads)| row.get(*heads).is_some_and(|path| path != ""))
            {
                let _ = write!(plot, "<path class=\"{class}\" d=\"{}\"/>", text(&row[heads]));
            }
        }
        plot.push_str("</g>");
        picture.text(950.0, row["text_y"].as_f64().unwrap_or(0.0) + 14.0, "end", &row["total"].to_string());
    }
    for tick in art["axis"].as_array().into_iter().flatten() {
        picture.text(46.0, tick["y"].as_f64().unwrap_or(0.0) + 14.0, "end", &tick["text"].to_string());
    }
    picture.text(20.0, 8.0, "start", "Layer").text(950.0, 8.0, "end", "Neurons");
    let key = if ridges {
        "Grey: selected neurons at this place of the layer’s order. Amber: those that serve the language. Blue: those that serve it alone. Heights by the square root."
    } else {
        "Tall, blue: serves this language only. Half, amber: shared with other languages. Short, grey: serves other languages."
    };
    picture.text(56.0, height as f64 + 34.0, "start", key);
    picture.plot((56.0, 14.0), (850.0, height as f64), (width, height), &plot);
    picture.finish()
}

/// The depth profile as a picture.
pub fn depth_picture(view: &View, art: &Value, data: &Value, title: &str) -> Vec<u8> {
    let height = art["height"].as_u64().unwrap_or(0) as usize;
    let caption = data["caption"].as_str().unwrap_or_default();
    let mut picture = Picture::new(720, height + 66, title, caption, &source(view));
    let text = |name: &str| art[name].as_str().unwrap_or_default();
    let axis_max = data["axis_max"].as_f64().unwrap_or(1.0);
    let mut grid = String::new();
    for tick in data["ticks"].as_array().into_iter().flatten() {
        let x = tick["value"].as_f64().unwrap_or(0.0) / axis_max;
        let _ = write!(grid, "M{} 0v{height}", trimmed(x * 1000.0));
        picture.text(56.0 + x * 620.0, height as f64 + 32.0, "middle", tick["text"].as_str().unwrap_or_default());
    }
    let plot = format!(
        "<path class=\"grid\" d=\"{grid}\"/><path class=\"d-band\" stroke-width=\"{}\" d=\"{}\"/><path class=\"d-mean\" d=\"{}\"/>\
         <path class=\"d-stem\" d=\"{}\"/><path class=\"d-dot\" d=\"{}\"/>",
        art["band_width"],
        text("band"),
        text("mean"),
        text("stem"),
        text("dot")
    );
    for tick in art["axis"].as_array().into_iter().flatten() {
        picture.text(46.0, tick["y"].as_f64().unwrap_or(0.0) + 14.0, "end", &tick["text"].to_string());
    }
    picture.text(20.0, 8.0, "start", "Layer");
    picture.text(
        56.0,
        height as f64 + 54.0,
        "start",
        "Dot: this language. Upright line: mean of all languages. Grey: 10–90 % of the languages.",
    );
    picture.plot((56.0, 14.0), (620.0, height as f64), (1000, height), &plot);
    picture.finish()
}

/// What a picture says below of where it is from.
pub fn source(view: &View) -> String {
    format!("{} · {} · run {} · neuroglot {}", view.model.id, view.method, view.identify.run, env!("CARGO_PKG_VERSION"))
}

/// Rows as CSV (RFC 4180). A cell that a spreadsheet would take for a formula is kept from being one.
pub fn csv(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<u8> {
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.map(|cell| quoted(&cell)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    };
    line(&mut head.iter().map(|cell| (*cell).to_owned()));
    rows.into_iter().for_each(|row| line(&mut row.into_iter()));
    text.into_bytes()
}

fn quoted(cell: &str) -> String {
    let formula =
        cell.starts_with(['=', '+', '@', '\t', '\r']) || cell.starts_with('-') && cell.parse::<f64>().is_err();
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}
