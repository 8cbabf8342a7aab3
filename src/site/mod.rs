//! The website: static pages from an atlas, complete without JavaScript, without a server and without a network.
//! In: atlases. Out: a folder of HTML with its JSON twins, downloads and assets, every link relative.

mod activity;
mod files;
mod home;
mod language;
pub mod locale;
mod method;
pub mod serve;
pub mod shards;
mod view;
mod words;
pub mod zip;

use std::path::{Path, PathBuf};

use minijinja::{Environment, UndefinedBehavior, value::Serde};
use rayon::prelude::*;
use serde_json::{Value, json};

use self::view::View;
use crate::{
    atlas::{Atlas, AtlasError},
    output::{self, OutputError},
};

/// A website that was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SiteReport {
    /// The page to open.
    pub index: PathBuf,
    /// Number of HTML pages.
    pub pages: usize,
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
    /// A locale that there is not.
    #[error("--locales: `{asked}` is not one of {known}")]
    Locale {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
    /// Nothing to show.
    #[error("{path}: holds no neurons of any model; identify first")]
    Nothing {
        /// The atlas.
        path: PathBuf,
    },
}

const TEMPLATES: &[(&str, &str)] = &[
    ("base.html", include_str!("../../templates/base.html")),
    ("parts.html", include_str!("../../templates/parts.html")),
    ("figures.html", include_str!("../../templates/figures.html")),
    ("home.html", include_str!("../../templates/home.html")),
    ("language.html", include_str!("../../templates/language.html")),
    ("method.html", include_str!("../../templates/method.html")),
];

/// A file of the site that every page uses, its name changing with its content so that caches may keep it for ever.
struct Asset {
    name: String,
    content: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content: &'static str) -> Self {
        Self { name: format!("{stem}.{}.{extension}", &output::sha256(content.as_bytes())[..10]), content }
    }
}

/// What all pages of a site share.
struct Site<'a> {
    views: Vec<View<'a>>,
    css: Asset,
    js: Asset,
    environment: Environment<'static>,
}

/// One rendered page: its path within the site and its data.
struct Page {
    path: String,
    template: &'static str,
    data: Value,
}

/// Renders the site of one or more atlases. Pages of a site that was there before are replaced.
///
/// # Errors
/// When the folder holds anything but a site, an atlas lacks a table, or the disk is full.
pub fn render(atlases: &[Atlas], place: &Path) -> Result<SiteReport, SiteError> {
    guard(place)?;
    let files = files::Files::new(place)?;
    let site = Site::new(atlases)?;
    for asset in [&site.css, &site.js] {
        output::write(&place.join("assets").join(&asset.name), asset.content.as_bytes())?;
    }
    let mut pages = 0;
    for (at, view) in site.views.iter().enumerate() {
        shards::write(view, &view.activity, &files, shards::Data::Default)?;
        let languages: Vec<Page> = view
            .languages
            .par_iter()
            .map(|language| language::page(&site, view, language, place))
            .collect::<Result<_, SiteError>>()?;
        let mut all = vec![home::page(&site, view, Home::Model), method::page(&site, view)];
        if at == 0 {
            all.push(home::page(&site, view, Home::Site));
        }
        all.extend(languages);
        all.par_iter().try_for_each(|page| site.write(place, page))?;
        pages += all.len();
    }
    output::write(&place.join(MARK), b"A website rendered by neuroglot; open index.html.\n")?;
    Ok(SiteReport { index: place.join("index.html"), pages })
}

/// A file by which a site is known to be ours.
const MARK: &str = "neuroglot-site.txt";

fn guard(place: &Path) -> Result<(), SiteError> {
    let mut entries = std::fs::read_dir(place).into_iter().flatten().flatten().peekable();
    let ours = |name: &std::ffi::OsStr| name == MARK || name == "assets" || name == "index.html";
    if entries.peek().is_some() && !entries.any(|entry| ours(&entry.file_name())) {
        return Err(SiteError::Occupied { path: place.to_owned() });
    }
    Ok(())
}

/// Which of the two places of a home page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    /// `index.html` of the site, for the first model.
    Site,
    /// `MODEL/index.html`.
    Model,
}

impl<'a> Site<'a> {
    fn new(atlases: &'a [Atlas]) -> Result<Self, SiteError> {
        let mut views = Vec::new();
        for atlas in atlases {
            for model in &atlas.models {
                let folder = crate::atlas::model_folder(&model.id);
                let mut methods =
                    atlas.methods.keys().filter(|(of, _)| *of == folder).map(|(_, method)| method.as_str());
                // A control is evidence for another method, not a map of its own.
                if let Some(method) = methods.find(|method| *method != "random") {
                    views.push(View::new(atlas, model, method)?);
                }
            }
        }
        if views.is_empty() {
            return Err(SiteError::Nothing {
                path: atlases.first().map(|atlas| atlas.path().to_owned()).unwrap_or_default(),
            });
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, text) in TEMPLATES {
            environment
                .add_template(name, text)
                .map_err(|source| SiteError::Template { page: (*name).to_owned(), source })?;
        }
        let css = Asset::new("site", "css", include_str!("../../templates/site.css"));
        let js = Asset::new("site", "js", include_str!("../../templates/js/site.js"));
        Ok(Self { views, css, js, environment })
    }

    /// What every page's data begins with; `root` leads from the page to the site's folder.
    fn common(&self, view: &View, kind: &str, root: &str, title: &str, description: &str) -> Value {
        let models: Vec<Value> = self
            .views
            .iter()
            .map(|other| {
                let current = other.folder == view.folder;
                json!({ "slug": other.folder, "id": other.model.id, "current": current, "href": format!("{root}{}/index.html", other.folder) })
            })
            .collect();
        let home = if self.views.len() == 1 {
            format!("{root}index.html")
        } else {
            format!("{root}{}/index.html", view.folder)
        };
        let model = view.model;
        let mut common = json!({
            "page": { "kind": kind, "title": title, "description": description, "root": root },
            "site": {
                "name": "neuroglot atlas",
                "tool": "neuroglot",
                "tool_version": env!("CARGO_PKG_VERSION"),
                "css": self.css.name,
                "js": self.js.name,
                "home_href": home,
                "method_href": format!("{root}{}/method.html", view.folder),
                "models": models,
            },
            "model": {
                "slug": view.folder,
                "id": model.id,
                "revision": model.revision,
                "architecture": model.architecture,
                "layers": model.layers,
                "width": model.width,
                "neurons_text": words::thousands(model.shape().neurons() as u64),
                "parameters_text": words::size(model.parameters),
                "licence": model.licence,
                "weights_note": null,
            },
        });
        if model.shape().is_routed() {
            common["model"]["experts"] = model.experts.into();
        }
        common
    }

    fn write(&self, place: &Path, page: &Page) -> Result<(), SiteError> {
        let failed = |source| SiteError::Template { page: page.path.clone(), source };
        let template = self.environment.get_template(page.template).map_err(failed)?;
        let html = template.render(Serde(page.data.clone())).map_err(failed)?;
        output::write(&place.join(&page.path), html.as_bytes())?;
        // The twin: what the page shows, as data.
        let twin = page.path.replace(".html", ".json");
        let json = serde_json::to_string(&page.data).expect("plain data") + "\n";
        Ok(output::write(&place.join(twin), json.as_bytes())?)
    }
}

/// The common data and a page's own, in one object.
fn joined(mut common: Value, own: Value) -> Value {
    if let (Some(all), Value::Object(own)) = (common.as_object_mut(), own) {
        all.extend(own);
    }
    common
}

/// Families by number of languages: the eight largest have a colour and a letter of their own.
fn family_keys(view: &View) -> Vec<(String, String, usize)> {
    let mut sizes: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    view.languages.iter().for_each(|language| *sizes.entry(&language.family).or_default() += 1);
    let mut sizes: Vec<(&str, usize)> = sizes.into_iter().collect();
    sizes.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let key = |at: usize| if at < 8 { char::from(b'a' + at as u8).to_string() } else { "other".to_owned() };
    sizes.into_iter().enumerate().map(|(at, (name, size))| (key(at), name.to_owned(), size)).collect()
}

fn family_key(keys: &[(String, String, usize)], family: &str) -> String {
    keys.iter().find(|(_, name, _)| name == family).map_or_else(|| "other".to_owned(), |(key, _, _)| key.clone())
}
