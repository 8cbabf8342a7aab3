//! Releases: atlases and adapted models as repositories of a Hub. In: an atlas and a name there, or a name and a folder here.
//! Out: a repository with its card, tagged and compared file by file, or a folder that is known to be whole.

mod model_card;
mod publish;
mod pull;

use std::path::PathBuf;

pub use self::{
    model_card::{AdaptedModel, Artefact, Measurement, model_card},
    publish::{Plan, Published, Settings, Step},
    pull::{Choice, Pull, Pulled, verify_remote},
};
use crate::{
    atlas::{AtlasError, MANIFEST, Manifest},
    hub::{HubError, Snapshot, unwatched},
    language::LanguageError,
    output::OutputError,
};

/// What can be wrong with a release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The Hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The atlas.
    #[error(transparent)]
    Atlas(#[from] AtlasError),
    /// A language's spelling.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// An atlas that is not whole.
    #[error(
        "{path}: {wrong} of {checks} checks failed, the first: {first}; nothing was published. Mend it, or identify again"
    )]
    Unsound {
        /// The atlas.
        path: PathBuf,
        /// Checks that failed.
        wrong: usize,
        /// Checks.
        checks: usize,
        /// The first of them.
        first: String,
    },
    /// A link where a file is wanted.
    #[error("{path}: is a symbolic link; a release holds files only: put the file itself there")]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A tag that says nothing of order.
    #[error("--tag `{0}` is no release; write vX.Y.Z, as in v1.0.0")]
    Tag(String),
    /// A repository that holds no release.
    #[error(
        "`{id}` holds no atlas (no {MANIFEST}); it may be another kind of data set, or a publication that was interrupted"
    )]
    NoRelease {
        /// `owner/name@commit`.
        id: String,
    },
    /// A release whose manifest and files do not agree.
    #[error("`{id}`: {path} is {found} there, but its manifest says {wanted}; tell the repository's owner")]
    Mixed {
        /// `owner/name@commit`.
        id: String,
        /// The file.
        path: String,
        /// What the repository holds.
        found: String,
        /// What the manifest says.
        wanted: String,
    },
    /// Something that a release does not hold.
    #[error("`{id}` has no {what} `{asked}`; it has {}", .held.join(", "))]
    Unheld {
        /// `owner/name@commit`.
        id: String,
        /// Model or method.
        what: &'static str,
        /// What was asked for.
        asked: String,
        /// What there is.
        held: Vec<String>,
    },
    /// A folder with other things in it.
    #[error("{path}: is not empty and holds no atlas; choose an empty or new folder with --out")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
}

/// The manifest of a release at a commit, and its text.
fn manifest(snapshot: &Snapshot) -> Result<(Manifest, Vec<u8>), ReleaseError> {
    let file = match snapshot.file(MANIFEST) {
        Err(HubError::NoFile { .. }) => return Err(ReleaseError::NoRelease { id: snapshot.id() }),
        file => file?,
    };
    let place = snapshot.fetch(file, &unwatched())?;
    let text = std::fs::read(&place).map_err(|source| HubError::File { path: place.clone(), source })?;
    let from = PathBuf::from(format!("{}/{MANIFEST}", snapshot.id()));
    Ok((Manifest::parse(&from, &text)?, text))
}
