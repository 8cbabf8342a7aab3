//! `data/languages.parquet`: one row per language.

use std::path::Path;

use serde::Serialize;

use super::{Columns, Table};
use crate::{
    atlas::AtlasError,
    language::{Language, LanguageCode},
};

/// A language, `data/languages.parquet`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LanguageRow {
    /// `mlt_Latn`.
    pub code: LanguageCode,
    /// ISO 639-1.
    pub iso639_1: Option<String>,
    /// BCP 47 tag.
    pub bcp47: String,
    /// Glottolog's code.
    pub glottocode: Option<String>,
    /// `ltr` or `rtl`.
    pub direction: String,
    /// English name.
    pub name: String,
    /// Its own name for itself.
    pub autonym: Option<String>,
    /// Family.
    pub family: String,
    /// Branch.
    pub subfamily: Option<String>,
    /// Macro-area.
    pub area: Option<String>,
    /// Speakers, estimated.
    pub speakers: Option<u64>,
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
}

impl From<&Language> for LanguageRow {
    fn from(language: &Language) -> Self {
        Self {
            code: language.code,
            iso639_1: language.iso639_1.clone(),
            bcp47: language.bcp47.clone(),
            glottocode: language.glottocode.clone(),
            direction: language.direction.as_str().to_owned(),
            name: language.name.clone(),
            autonym: language.autonym.clone(),
            family: language.family.clone(),
            subfamily: language.subfamily.clone(),
            area: language.area.clone(),
            speakers: language.speakers,
            latitude: language.coordinates.map(|(latitude, _)| latitude),
            longitude: language.coordinates.map(|(_, longitude)| longitude),
        }
    }
}

impl LanguageRow {
    const SCHEMA: (&str, &str) = ("neuroglot.languages", "1.0");

    pub(in crate::atlas) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Table::default()
            .text("code", rows.iter().map(|row| row.code.to_string()))
            .text("iso639_3", rows.iter().map(|row| row.code.iso639_3().to_owned()))
            .optional_text("iso639_1", rows.iter().map(|row| row.iso639_1.as_ref()))
            .text("bcp47", rows.iter().map(|row| &row.bcp47))
            .optional_text("glottocode", rows.iter().map(|row| row.glottocode.as_ref()))
            .text("script", rows.iter().map(|row| row.code.script().to_owned()))
            .text("direction", rows.iter().map(|row| &row.direction))
            .text("name", rows.iter().map(|row| &row.name))
            .optional_text("autonym", rows.iter().map(|row| row.autonym.as_ref()))
            .text("family", rows.iter().map(|row| &row.family))
            .optional_text("subfamily", rows.iter().map(|row| row.subfamily.as_ref()))
            .optional_text("area", rows.iter().map(|row| row.area.as_ref()))
            .optional_i64("speakers", rows.iter().map(|row| row.speakers.map(|n| n as i64)))
            .optional_f64("latitude", rows.iter().map(|row| row.latitude))
            .optional_f64("longitude", rows.iter().map(|row| row.longitude))
            .write(place, Self::SCHEMA)
    }

    /// Reads the table.
    ///
    /// # Errors
    /// When it is none, or of a newer major version.
    pub fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let codes = table.parsed("code")?;
        let (iso639_1, bcp47, glottocodes) =
            (table.optional_text("iso639_1")?, table.text("bcp47")?, table.optional_text("glottocode")?);
        let (directions, names, autonyms) =
            (table.text("direction")?, table.text("name")?, table.optional_text("autonym")?);
        let (families, subfamilies, areas) =
            (table.text("family")?, table.optional_text("subfamily")?, table.optional_text("area")?);
        let (latitudes, longitudes) = (table.optional_float("latitude")?, table.optional_float("longitude")?);
        let speakers = table.optional_integer("speakers")?;
        let row = |i: usize| Self {
            code: codes[i],
            iso639_1: iso639_1[i].clone(),
            bcp47: bcp47[i].clone(),
            glottocode: glottocodes[i].clone(),
            direction: directions[i].clone(),
            name: names[i].clone(),
            autonym: autonyms[i].clone(),
            family: families[i].clone(),
            subfamily: subfamilies[i].clone(),
            area: areas[i].clone(),
            speakers: speakers[i].and_then(|n| u64::try_from(n).ok()),
            latitude: latitudes[i],
            longitude: longitudes[i],
        };
        Ok((0..table.rows()).map(row).collect())
    }
}
