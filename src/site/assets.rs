//! What every page is made with: style sheet, scripts and templates, all compiled into the program.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, value::Serde};

use super::{Files, Locale, Sheet, SiteError};
use crate::output;

const TEMPLATES: &[(&str, &str)] = &[
    ("base.html", include_str!("../../templates/base.html")),
    ("parts.html", include_str!("../../templates/parts.html")),
    ("figures.html", include_str!("../../templates/figures.html")),
    ("about.html", include_str!("../../templates/about.html")),
    ("adaptation.html", include_str!("../../templates/adaptation.html")),
    ("cite.html", include_str!("../../templates/cite.html")),
    ("compare.html", include_str!("../../templates/compare.html")),
    ("data.html", include_str!("../../templates/data.html")),
    ("evidence.html", include_str!("../../templates/evidence.html")),
    ("families.html", include_str!("../../templates/families.html")),
    ("home.html", include_str!("../../templates/home.html")),
    ("language.html", include_str!("../../templates/language.html")),
    ("method.html", include_str!("../../templates/method.html")),
    ("models.html", include_str!("../../templates/models.html")),
    ("overlap.html", include_str!("../../templates/overlap.html")),
];

const CSS: &str = concat!(include_str!("../../templates/site.css"), include_str!("../../templates/js/enhance.css"));
const SITE_JS: &str = include_str!("../../templates/js/site.js");
/// For pages with a map or a matrix.
const MAP_JS: &str = concat!(
    include_str!("../../templates/js/shards.js"),
    include_str!("../../templates/js/map.js"),
    include_str!("../../templates/js/panel.js"),
    include_str!("../../templates/js/compare.js"),
    include_str!("../../templates/js/overlap.js"),
);

/// A file of the site that many pages use, its name changing with its content so that caches may keep it for ever.
pub struct Asset {
    pub name: String,
    content: String,
}

impl Asset {
    fn new(stem: &str, extension: &str, content: &str) -> Self {
        let name = format!("{stem}.{}.{extension}", &output::sha256(content.as_bytes())[..10]);
        Self { name, content: content.to_owned() }
    }
}

/// Style sheet, scripts, and the templates and words of every locale.
pub struct Assets {
    pub css: Asset,
    pub js: Asset,
    pub map_js: Asset,
    words: BTreeMap<&'static str, Asset>,
    environments: BTreeMap<&'static str, Environment<'static>>,
}

impl Assets {
    pub fn new(locales: &[&'static Locale]) -> Result<Self, SiteError> {
        let environments = locales.iter().map(|&locale| Ok((locale.code, environment(locale)?)));
        let scripts = format!("{SITE_JS}{MAP_JS}");
        let words = locales
            .iter()
            .filter(|locale| !locale.is_english())
            .map(|locale| (locale.code, Asset::new(&format!("words.{}", locale.code), "js", &locale.script(&scripts))));
        Ok(Self {
            css: Asset::new("site", "css", CSS),
            js: Asset::new("site", "js", &lean(SITE_JS)),
            map_js: Asset::new("map", "js", &lean(MAP_JS)),
            words: words.collect(),
            environments: environments.collect::<Result<_, SiteError>>()?,
        })
    }

    pub fn write(&self, files: &Files) -> Result<(), SiteError> {
        for asset in [&self.css, &self.js, &self.map_js].into_iter().chain(self.words.values()) {
            files.put(&format!("assets/{}", asset.name), asset.content.as_bytes())?;
        }
        Ok(())
    }

    /// Name of the script with a locale's words; English needs none.
    pub fn words(&self, locale: &Locale) -> Option<&str> {
        self.words.get(locale.code).map(|asset| asset.name.as_str())
    }

    /// A page as HTML.
    pub fn render(
        &self,
        locale: &Locale,
        page: &str,
        sheet: &Sheet,
        frame: &serde_json::Value,
    ) -> Result<String, SiteError> {
        let failed = |source| SiteError::Template { page: page.to_owned(), source };
        let context = Context { frame, own: &sheet.own, art: &sheet.art };
        let template = self.environments[locale.code].get_template(sheet.template).map_err(failed)?;
        template.render(Serde(&context)).map_err(failed)
    }
}

#[derive(serde::Serialize)]
struct Context<'a> {
    #[serde(flatten)]
    frame: &'a serde_json::Value,
    #[serde(flatten)]
    own: &'a serde_json::Value,
    art: &'a serde_json::Value,
}

/// A script without its remarks and indents, which are for those who read the source. Remarks stand on lines of their own, and no text
/// goes over several lines.
fn lean(script: &str) -> String {
    let lines = script.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.fold(String::with_capacity(script.len()), |text, line| text + line + "\n")
}

/// The templates with the words of one locale.
fn environment(locale: &'static Locale) -> Result<Environment<'static>, SiteError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    locale.register(&mut environment);
    for (name, text) in TEMPLATES {
        environment
            .add_template(name, text)
            .map_err(|source| SiteError::Template { page: (*name).to_owned(), source })?;
    }
    Ok(environment)
}
