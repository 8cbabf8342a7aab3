//! Who asks, what they may do, and how the Hub says no.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::repository::{RepoId, Repository};

/// Someone with a token.
#[derive(Clone, Debug)]
pub struct Account {
    pub user: String,
    pub organisations: Vec<String>,
    /// Whether the token may write where its owner may.
    pub writes: bool,
    pub expired: bool,
}

impl Account {
    pub fn owns(&self, namespace: &str) -> bool {
        self.user == namespace || self.organisations.iter().any(|organisation| organisation == namespace)
    }
}

/// All tokens, and which users were let into which gated repositories.
#[derive(Default)]
pub struct Accounts {
    pub by_token: BTreeMap<String, Account>,
    pub admitted: BTreeSet<(String, RepoId)>,
}

/// What a request may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Names, sizes, history: a gated repository shows them to everyone.
    Metadata,
    Content,
    Write,
}

impl Accounts {
    /// The account of a request, none where it carries no token.
    pub fn of(&self, headers: &HeaderMap) -> Result<Option<&Account>, Refusal> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(None) };
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        match self.by_token.get(token) {
            Some(account) if account.expired => {
                let message = format!("User Access Token \"{}\" is expired", account.user);
                Err(Refusal::new(StatusCode::UNAUTHORIZED, None, message))
            }
            Some(account) => Ok(Some(account)),
            None => {
                let message = "Invalid credentials in Authorization header";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, None, message))
            }
        }
    }

    /// Refuses what a request may not do. A repository that one may not see is one that does not exist.
    pub fn admit(&self, headers: &HeaderMap, repository: Option<&Repository>, wish: Wish) -> Result<(), Refusal> {
        let account = self.of(headers)?;
        let visible = repository.filter(|found| !found.private || account.is_some_and(|a| a.owns(&found.id.owner)));
        let Some(repository) = visible else {
            // As the Hub has it: the nameless are told to say who they are, whether or not the repository exists.
            return Err(match account {
                None => Refusal::new(StatusCode::UNAUTHORIZED, Some("RepoNotFound"), "Invalid username or password."),
                Some(_) => Refusal::new(StatusCode::NOT_FOUND, Some("RepoNotFound"), "Repository not found"),
            });
        };
        let owns = account.is_some_and(|account| account.owns(&repository.id.owner));
        let id = repository.id.id();
        match wish {
            Wish::Write if !owns || !account.is_some_and(|account| account.writes) => {
                let (status, message) = match account {
                    None => (StatusCode::UNAUTHORIZED, "Invalid username or password.".to_owned()),
                    Some(_) => (
                        StatusCode::FORBIDDEN,
                        format!("Forbidden: you must use a write token to upload to a repository, here {id}."),
                    ),
                };
                Err(Refusal::new(status, None, message))
            }
            Wish::Content if repository.gated && !owns => match account {
                None => Err(Refusal::new(
                    StatusCode::UNAUTHORIZED,
                    Some("GatedRepo"),
                    format!(
                        "Access to {} {id} is restricted. You must have access to it and be authenticated to access it. \
                         Please log in.",
                        repository.id.kind.singular()
                    ),
                )),
                Some(account) if self.admitted.contains(&(account.user.clone(), repository.id.clone())) => Ok(()),
                Some(_) => Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    Some("GatedRepo"),
                    format!(
                        "Access to {} {id} is restricted and you are not in the authorized list. Visit \
                         https://huggingface.co/{}{id} to ask for access.",
                        repository.id.kind.singular(),
                        repository.id.kind.prefix()
                    ),
                )),
            },
            _ => Ok(()),
        }
    }
}

/// An error answer: status, `X-Error-Code`, `X-Error-Message` and the same in JSON.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: Option<&'static str>,
    message: String,
    /// The commit in which something was looked for and not found: clients remember that it is missing there.
    commit: Option<String>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), commit: None }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    pub fn no_revision(revision: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, Some("RevisionNotFound"), format!("Invalid rev id: {revision}"))
    }

    pub fn no_entry(path: &str, commit: &str) -> Self {
        let mut refusal = Self::new(StatusCode::NOT_FOUND, Some("EntryNotFound"), format!("Entry not found: {path}"));
        refusal.commit = Some(commit.to_owned());
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        let headers = response.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).expect("messages are plain text");
        headers.insert("x-error-message", value(&self.message));
        headers.insert("x-request-id", HeaderValue::from_static("Root=1-test"));
        if let Some(code) = self.code {
            headers.insert("x-error-code", HeaderValue::from_static(code));
        }
        if let Some(commit) = &self.commit {
            headers.insert("x-repo-commit", value(commit));
        }
        response
    }
}
