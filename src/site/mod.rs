//! The website: static pages from an atlas, complete without JavaScript, without a server and without a network.
//! In: atlases. Out: a folder of HTML with its JSON twins, figures, downloads and assets, every link relative.

mod about;
mod activity;
mod adaptation;
mod assets;
mod cite;
mod compare;
mod data;
mod evidence;
mod families;
mod figure;
mod files;
mod home;
mod host;
mod language;
mod locale;
mod method;
mod models;
mod overlap;
mod serve;
mod shards;
mod view;
mod words;
mod zip;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde_json::{Value, json};

use self::{
    activity::Activity,
    assets::Assets,
    files::{Files, Written},
    view::View,
};
pub use self::{
    host::SiteUrl,
    locale::{LOCALES, Locale, texts},
    serve::serve,
    shards::Data,
};
use crate::{
    atlas::{Atlas, AtlasError, LanguageRow, ModelRow, NeuronRow},
    neuron::NeuronId,
    output::OutputError,
};

/// How a site is rendered.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the site will stand, for what cannot be relative: canonical links, the sitemap, images of shared links.
    pub url: Option<SiteUrl>,
    /// Locales of the interface beside English, by code, or `all`; none named means all where they fit (see [`plan`]).
    pub locales: Option<Vec<String>>,
    /// How much of the activity goes to the browser.
    pub data: Data,
    /// Where the whole site is put as one zip file, too.
    pub zip: Option<PathBuf>,
}

/// A website that was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SiteReport {
    /// The page to open.
    pub index: PathBuf,
    /// Number of HTML pages.
    pub pages: usize,
    /// Number of all files.
    pub files: usize,
    /// Their bytes together.
    pub bytes: u64,
    /// Files that were new or not what an earlier run had left.
    pub changed: usize,
    /// Files of an earlier run that went.
    pub removed: usize,
}

/// What can go wrong while rendering.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The atlas does not hold what a page shows.
    #[error(transparent)]
    Atlas(#[from] AtlasError),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A template and its data do not fit; a fault of this program.
    #[error("{page}: cannot be rendered: {source:#}; please report this with the atlas")]
    Template {
        /// The page.
        page: String,
        /// What the template engine said.
        source: minijinja::Error,
    },
    /// The folder holds other things.
    #[error("{path}: is not empty and holds no site of ours; choose an empty or new folder with --out")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// Nothing to show.
    #[error("{path}: holds no neurons of any model; identify first")]
    Nothing {
        /// The atlas.
        path: PathBuf,
    },
    /// Two atlases with one model: their pages would stand at the same place.
    #[error(
        "{first} and {second}: both hold {model}, whose pages would stand in one folder; render them to two folders"
    )]
    Twice {
        /// The first atlas.
        first: PathBuf,
        /// The second.
        second: PathBuf,
        /// The model.
        model: String,
    },
    /// A locale that there is not.
    #[error("--locales: `{asked}` is not one of {known}")]
    Locale {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
}

/// A kind of page that every model has one of: a file in this folder and a row here.
struct Kind {
    /// Its name in templates, and in file names.
    name: &'static str,
    /// Whether it is there in every locale; long prose is in English only.
    translated: bool,
    /// What it says.
    sheet: fn(&Spot) -> Sheet,
}

const KINDS: &[Kind] = &[
    Kind { name: "index", translated: true, sheet: home::sheet },
    Kind { name: "compare", translated: true, sheet: compare::sheet },
    Kind { name: "overlap", translated: true, sheet: overlap::sheet },
    Kind { name: "families", translated: true, sheet: families::sheet },
    Kind { name: "evidence", translated: true, sheet: evidence::sheet },
    Kind { name: "adaptation", translated: true, sheet: adaptation::sheet },
    Kind { name: "method", translated: false, sheet: method::sheet },
    Kind { name: "data", translated: false, sheet: data::sheet },
    Kind { name: "cite", translated: false, sheet: cite::sheet },
];

/// What all pages of a site share.
struct Site<'a> {
    views: Vec<View<'a>>,
    locales: Vec<&'static Locale>,
    assets: Assets,
    url: Option<SiteUrl>,
    data: Data,
}

/// What a page says: its data, of which the JSON twin is made, and the paths of its pictures, which are none.
struct Sheet {
    template: &'static str,
    title: String,
    description: String,
    own: Value,
    art: Value,
    /// Figures as files of their own, by path from the model's folder.
    figures: Vec<(String, Vec<u8>)>,
}

/// Where a page stands, what it is about, and whose words it speaks.
struct Spot<'a> {
    site: &'a Site<'a>,
    view: &'a View<'a>,
    locale: &'static Locale,
    /// The file's name without its ending.
    name: String,
    /// Whether the page stands beside the models' folders and not in one.
    top: bool,
}

/// A number of bytes as people read it.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    words::bytes(bytes)
}

/// Says whether every locale asked for is there.
///
/// # Errors
/// When one is not.
pub fn check_locales(asked: Option<&[String]>) -> Result<(), SiteError> {
    locale::chosen(asked).map(drop)
}

/// What a site will be, before anything is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Locales of the interface, English first.
    pub locales: Vec<&'static str>,
    /// About how many bytes it will take.
    pub bytes: u64,
    /// Whether other locales were left out since they would take more room than most hosts of pages like.
    pub short: bool,
}

/// Bytes of a model's pages beyond which only English is written unless other locales are asked for.
fn room(data: Data) -> u64 {
    match data {
        Data::Default => 60_000_000,
        Data::Full => 130_000_000,
    }
}

/// Plans a site: how large it will be, by the sizes of tables and of pages that were measured, and in which locales.
///
/// # Errors
/// When a locale is asked for that there is not, or an atlas lacks a run.
pub fn plan(atlases: &[Atlas], options: &Options) -> Result<Plan, SiteError> {
    let mut locales = locale::chosen(options.locales.as_deref())?;
    let mut bytes = estimate(atlases, options.data, locales.len() as u64)?;
    let models = atlases.iter().map(|atlas| atlas.models.len() as u64).sum::<u64>().max(1);
    let short = options.locales.is_none() && bytes > room(options.data) * models;
    if short {
        locales.truncate(1);
        bytes = estimate(atlases, options.data, 1)?;
    }
    Ok(Plan { locales: locales.iter().map(|locale| locale.code).collect(), bytes, short })
}

fn estimate(atlases: &[Atlas], data: Data, locales: u64) -> Result<u64, SiteError> {
    let mut bytes = 150_000;
    for atlas in atlases {
        for model in &atlas.models {
            let Some(method) = shown(atlas, model) else { continue };
            let tables = atlas.method(model, method)?;
            let (_, parameters, _) = atlas.identification(model, method)?;
            let selected: BTreeSet<NeuronId> = tables.neurons.iter().map(NeuronRow::id).collect();
            let (shape, languages) = (model.shape(), parameters.languages.len());
            let size = language::Size { shape, languages: languages as u64, rows: tables.neurons.len() as u64 };
            bytes += shards::estimate(shape, languages, selected.len(), data);
            bytes += size.pages(locales) + size.downloads(data) + size.overviews(locales);
        }
    }
    Ok(bytes)
}

/// The method whose neurons the pages of a model show: a control is evidence for another, not a map of its own.
fn shown<'a>(atlas: &'a Atlas, model: &ModelRow) -> Option<&'a str> {
    let folder = crate::atlas::model_folder(&model.id);
    let mut methods = atlas.methods.keys().filter(|(of, _)| *of == folder).map(|(_, method)| method.as_str());
    methods.find(|method| *method != "random")
}

/// Renders the site of one or more atlases with the usual options.
///
/// # Errors
/// As [`render_with`].
pub fn render(atlases: &[Atlas], place: &Path) -> Result<SiteReport, SiteError> {
    render_with(atlases, place, &Options::default())
}

/// Renders the site of one or more atlases. Of a site that was there before, files that stay the same are not touched, and those that
/// the new one does not have are removed.
///
/// # Errors
/// When the folder holds anything but a site, an atlas lacks a table, or the disk is full.
pub fn render_with(atlases: &[Atlas], place: &Path, options: &Options) -> Result<SiteReport, SiteError> {
    let files = Files::new(place)?;
    let plan = plan(atlases, options)?;
    let site = Site::new(atlases, options, &plan, &files)?;
    site.assets.write(&files)?;
    for view in &site.views {
        let chores = KINDS.iter().flat_map(|kind| {
            let locales = site.locales.iter().filter(|locale| kind.translated || locale.is_english());
            locales.map(move |locale| (kind, *locale))
        });
        let chores: Vec<(&Kind, &Locale)> = chores.collect();
        chores
            .par_iter()
            .try_for_each(|(kind, locale)| site.spot(view, locale, kind.name).write(&files, kind.sheet))?;
        view.languages.par_iter().try_for_each(|language| site.write_language(&files, view, language))?;
    }
    let first = &site.views[0];
    for locale in &site.locales {
        Spot { top: true, ..site.spot(first, locale, "index") }.write(&files, home::sheet)?;
    }
    Spot { top: true, ..site.spot(first, locale::ENGLISH, "about") }.write(&files, about::sheet)?;
    if site.views.len() > 1 {
        Spot { top: true, ..site.spot(first, locale::ENGLISH, "models") }.write(&files, models::sheet)?;
    }
    host::write(&site, &files)?;
    let is_page = |path: &&String| Path::new(path).extension().is_some_and(|extension| extension == "html");
    let pages = files.paths().iter().filter(is_page).count();
    let paths = files.paths();
    let Written { files, bytes, changed, removed } = files.finish()?;
    if let Some(zip) = &options.zip {
        zip::write(place, &paths, "neuroglot-site", zip)?;
    }
    Ok(SiteReport { index: place.join("index.html"), pages, files, bytes, changed, removed })
}

impl<'a> Site<'a> {
    /// Reads every model and writes its shards: the counts of one model at a time are enough to hold.
    fn new(atlases: &'a [Atlas], options: &Options, plan: &Plan, files: &Files) -> Result<Self, SiteError> {
        let codes: Vec<String> = plan.locales.iter().map(|code| (*code).to_owned()).collect();
        let locales = locale::chosen(Some(&codes))?;
        let mut views: Vec<View> = Vec::new();
        for atlas in atlases {
            for model in &atlas.models {
                let folder = crate::atlas::model_folder(&model.id);
                let Some(method) = shown(atlas, model) else { continue };
                if let Some(other) = views.iter().find(|other| other.folder == folder) {
                    let (first, second) = (other.atlas.path().to_owned(), atlas.path().to_owned());
                    return Err(SiteError::Twice { first, second, model: model.id.clone() });
                }
                let mut view = View::new(atlas, model, method)?;
                let codes: Vec<_> = view.languages.iter().map(|language| language.code).collect();
                let activity = Activity::read(atlas, model, view.profile, &view.tables.neurons, &codes, &view.angles)?;
                view.place(&activity);
                shards::write(&view, &activity, files, options.data)?;
                views.push(view);
            }
        }
        if views.is_empty() {
            return Err(SiteError::Nothing {
                path: atlases.first().map(|atlas| atlas.path().to_owned()).unwrap_or_default(),
            });
        }
        let assets = Assets::new(&locales)?;
        Ok(Self { views, locales, assets, url: options.url.clone(), data: options.data })
    }

    fn spot(&self, view: &'a View<'a>, locale: &'static Locale, name: &str) -> Spot<'_> {
        Spot { site: self, view, locale, name: name.to_owned(), top: false }
    }

    fn write_language(&self, files: &Files, view: &'a View<'a>, language: &LanguageRow) -> Result<(), SiteError> {
        let subject = language::Subject::new(view, language);
        let downloads = subject.downloads(files, self.data)?;
        let code = language.code.to_string();
        for locale in &self.locales {
            let spot = self.spot(view, locale, &code);
            spot.write(files, |spot| subject.sheet(spot, &downloads))?;
        }
        Ok(())
    }
}

impl Spot<'_> {
    /// A text of the interface with its `{names}` filled in.
    fn say(&self, english: &str, arguments: &[(&str, &str)]) -> String {
        self.locale.say(english, arguments)
    }

    /// The form of a text that goes with a number.
    fn count(&self, n: usize, one: &str, other: &str, arguments: &[(&str, &str)]) -> String {
        self.locale.count(n, one, other, arguments)
    }

    /// A share as people read it.
    fn percent(&self, share: f64) -> String {
        self.locale.percent(share)
    }

    fn integer(&self, n: usize) -> String {
        self.locale.integer(n as u64)
    }

    /// `2.7 million`, `135 million`, `8.03 billion`: three significant digits.
    fn size(&self, n: u64) -> String {
        let text = |value: f64| {
            let decimals = [100.0, 10.0].iter().filter(|bar| value < **bar).count();
            let digits = format!("{value:.decimals$}");
            let zeros = if digits.contains('.') { digits.len() - digits.trim_end_matches('0').len() } else { 0 };
            self.locale.decimal(value, decimals - zeros)
        };
        match n {
            1_000_000_000.. => self.say("{number} billion", &[("number", &text(n as f64 / 1e9))]),
            1_000_000.. => self.say("{number} million", &[("number", &text(n as f64 / 1e6))]),
            _ => self.locale.integer(n),
        }
    }

    /// A number, or a dash where there is none.
    fn decimal(&self, value: Option<f64>, places: usize) -> String {
        value.map_or_else(|| "–".to_owned(), |value| self.locale.decimal(value, places))
    }

    /// The page's path within the site, without its ending.
    fn path(&self) -> String {
        let model = if self.top { String::new() } else { format!("{}/", self.view.folder) };
        format!("{}{model}{}", folder(self.locale), self.name)
    }

    /// From the page to the site's folder.
    fn root(&self) -> String {
        "../".repeat(self.path().matches('/').count())
    }

    /// From the page to the folder of a model's pages in the page's own locale.
    fn pages(&self, view: &View) -> String {
        match (self.top, self.view.folder == view.folder) {
            (false, true) => String::new(),
            (false, false) => format!("../{}/", view.folder),
            (true, _) => format!("{}/", view.folder),
        }
    }

    /// From the page to what its model has once for all locales: figures, downloads, pages in English.
    fn shared(&self) -> String {
        if self.locale.is_english() { self.pages(self.view) } else { format!("{}{}/", self.root(), self.view.folder) }
    }

    fn write(&self, files: &Files, sheet: impl FnOnce(&Self) -> Sheet) -> Result<(), SiteError> {
        let sheet = sheet(self);
        let path = self.path();
        let html = self.site.assets.render(self.locale, &path, &sheet, &self.frame(&sheet))?;
        files.put(&format!("{path}.html"), html.as_bytes())?;
        if self.locale.is_english() {
            // The twin: what the page shows, as data.
            let mut data = json!({
                "page": { "kind": self.kind(), "title": sheet.title, "description": sheet.description },
                "model": self.model(),
            });
            if let (Some(all), Value::Object(own)) = (data.as_object_mut(), sheet.own) {
                all.extend(own);
            }
            let json = serde_json::to_string(&data).expect("plain data") + "\n";
            files.put(&format!("{path}.json"), json.as_bytes())?;
            for (name, bytes) in sheet.figures {
                files.put(&format!("{}/{name}", self.view.folder), &bytes)?;
            }
        }
        Ok(())
    }

    /// What the page is: `home`, `language` or the name of its file.
    fn kind(&self) -> &str {
        match self.name.as_str() {
            "index" => "home",
            "about" | "models" => &self.name,
            name if KINDS.iter().any(|kind| kind.name == name) => name,
            _ => "language",
        }
    }

    fn model(&self) -> Value {
        let model = self.view.model;
        let mut data = json!({
            "slug": self.view.folder,
            "id": model.id,
            "revision": model.revision,
            "architecture": model.architecture,
            "layers": model.layers,
            "width": model.width,
            "neurons_text": self.integer(model.shape().neurons()),
            "parameters_text": self.size(model.parameters),
            "licence": model.licence,
        });
        if model.shape().is_routed() {
            data["experts"] = model.experts.into();
        }
        data
    }

    /// What every page has around what it says: links to the other pages, to itself in other locales and models, and assets.
    fn frame(&self, sheet: &Sheet) -> Value {
        let (root, shared) = (self.root(), self.shared());
        let base = format!("{root}{}", folder(self.locale));
        let pages = self.pages(self.view);
        let models = self.site.views.iter().map(|other| {
            let name = if self.kind() == "language" && !other.has(&self.name) || self.top { "index" } else { &self.name };
            json!({ "id": other.model.id, "current": other.folder == self.view.folder, "href": format!("{}{name}.html", self.pages(other)) })
        });
        let translated = !matches!(self.name.as_str(), "about" | "models")
            && KINDS.iter().find(|kind| kind.name == self.name).is_none_or(|kind| kind.translated);
        let locales = self.site.locales.iter().filter(|_| translated).map(|other| {
            let (from, to) = (self.path(), Spot { locale: other, name: self.name.clone(), ..*self }.path());
            json!({
                "code": other.code, "bcp47": other.bcp47, "name": other.name, "direction": other.direction,
                "current": other.code == self.locale.code, "href": format!("{root}{to}.html"),
                "url": self.site.url.as_ref().map(|url| url.page(&to)), "same": from == to,
            })
        });
        let home = if self.site.views.len() == 1 || self.top && self.view.folder == self.site.views[0].folder {
            format!("{base}index.html")
        } else {
            format!("{pages}index.html")
        };
        let assets = &self.site.assets;
        // The first model's page of languages is the site's first page too: one address of the two is the one to link to.
        let first = self.name == "index" && self.view.folder == self.site.views[0].folder;
        let main = Spot { top: self.top || first, name: self.name.clone(), ..*self }.path();
        json!({
            "page": {
                "kind": self.kind(), "title": sheet.title, "description": sheet.description, "root": root, "pages": pages, "shared": shared,
                "twin": format!("{root}{}.json", Spot { locale: locale::ENGLISH, name: self.name.clone(), ..*self }.path()),
                "canonical": self.site.url.as_ref().map(|url| url.page(&main)),
                "image": self.site.url.as_ref().map(|url| url.file(&host::image(self))),
                "wants_map": matches!(self.kind(), "language" | "compare" | "overlap"),
            },
            "site": {
                "name": "neuroglot atlas",
                "tool": "neuroglot",
                "tool_version": env!("CARGO_PKG_VERSION"),
                "css": assets.css.name,
                "js": assets.js.name,
                "map_js": assets.map_js.name,
                "words": assets.words(self.locale),
                "home": home,
                "about": format!("{root}about.html"),
                "compare_models": (self.site.views.len() > 1).then(|| format!("{root}models.html")),
                "models": models.collect::<Vec<_>>(),
            },
            "locales": locales.collect::<Vec<_>>(),
            "locale": { "code": self.locale.code, "bcp47": self.locale.bcp47, "dir": self.locale.direction, "english": self.locale.is_english() },
            "model": self.model(),
        })
    }
}

/// Folder of a locale's pages.
fn folder(locale: &Locale) -> String {
    if locale.is_english() { String::new() } else { format!("{}/", locale.code) }
}
