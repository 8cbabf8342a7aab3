//! `/owner/name/resolve/revision/path`: where a file's bytes are, as every download begins.
//!
//! As on the Hub, a file that git holds is a redirect within the host, and an LFS object one to another: a client that sends its
//! token after such a redirect, or that takes the headers of the wrong answer, fails here as it would there.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::{
    World,
    access::{Refusal, Wish},
    api::{at, repo_id},
    repository::{Content, Entry, RepoId},
    storage::{Storage, ranged},
};

type File = (String, String, String, String);

pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/{owner}/{name}/resolve/{revision}/{*path}", get(resolve_model))
        .route("/datasets/{owner}/{name}/resolve/{revision}/{*path}", get(resolve_dataset))
        .route("/api/resolve-cache/{kind}/{owner}/{name}/{revision}/{*path}", get(cached))
}

async fn resolve_model(
    world: State<Arc<World>>,
    file: Path<File>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    resolve(world, "models", file, method, headers)
}

async fn resolve_dataset(
    world: State<Arc<World>>,
    file: Path<File>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    resolve(world, "datasets", file, method, headers)
}

/// A file of a revision, and the commit that it was looked for in.
fn find(
    world: &World,
    headers: &HeaderMap,
    id: &RepoId,
    revision: &str,
    path: &str,
) -> Result<(Entry, String), Refusal> {
    world.with(headers, id, Wish::Content, |repository| {
        let commit = at(repository, revision)?;
        let entry = commit.files.get(path).ok_or_else(|| Refusal::no_entry(path, &commit.oid))?;
        Ok((entry.clone(), commit.oid.clone()))
    })
}

fn resolve(
    State(world): State<Arc<World>>,
    kind: &str,
    Path((owner, name, revision, path)): Path<File>,
    method: Method,
    asked: HeaderMap,
) -> Result<Response, Refusal> {
    let id = repo_id(kind, &owner, &name)?;
    let (entry, commit) = find(&world, &asked, &id, &revision, &path)?;
    let etag = format!("\"{}\"", entry.etag());
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, text: String| {
        headers.insert(name, HeaderValue::from_str(&text).expect("hashes, numbers and addresses"));
    };
    set("x-repo-commit", commit.clone());
    set("accept-ranges", "bytes".to_owned());
    if asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        set("etag", etag);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let Content::Lfs { sha256, size } = &entry.content else {
        let place: Uri = format!("/{}/{}/{commit}/{}", kind, id.id(), encoded(&path)).parse().expect("an address");
        set("location", format!("/api/resolve-cache{place}?%2F{}&etag={}", encoded(&path), entry.oid));
        return Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response());
    };
    set("x-linked-size", size.to_string());
    set("x-linked-etag", etag.clone());
    set("etag", etag);
    if let Some(hash) = world.storage.xet_hash(sha256) {
        let refresh = format!("{}/api/{kind}/{}/xet-read-token/{commit}", world.endpoint(), id.id());
        let reconstruction = format!("{}/v1/reconstructions/{hash}", world.storage_endpoint());
        set("x-xet-hash", hash.clone());
        set("x-xet-refresh-route", format!("/api/{kind}/{}/xet-read-token/{commit}", id.id()));
        set("link", format!("<{refresh}>; rel=\"xet-auth\", <{reconstruction}>; rel=\"xet-reconstruction-info\""));
        let understands =
            |accept: &HeaderValue| accept.to_str().is_ok_and(|text| text.contains("vnd.xet-fileinfo+json"));
        if method == Method::GET && asked.get(header::ACCEPT).is_some_and(understands) {
            // To a client that says that it speaks Xet, the answer is what to ask the store for.
            let body = Json(json!({ "hash": hash, "refreshUrl": refresh, "reconstructionUrl": reconstruction }));
            set("content-type", "application/vnd.xet-fileinfo+json".to_owned());
            return Ok((headers, body.0.to_string()).into_response());
        }
    }
    set("location", Storage::signed(&world.storage_endpoint(), "GET", sha256));
    Ok((StatusCode::FOUND, headers).into_response())
}

/// Where the first redirect of a regular file leads: its bytes, whole or in part.
async fn cached(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision, path)): Path<(String, String, String, String, String)>,
    asked: HeaderMap,
) -> Result<Response, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    let (entry, commit) = find(&world, &asked, &id, &revision, &path)?;
    let Content::Regular(bytes) = &entry.content else { return Err(Refusal::no_entry(&path, &commit)) };
    let etag = format!("\"{}\"", entry.oid);
    let value = |text: &str| HeaderValue::from_str(text).expect("hashes");
    let mut response = if asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let len = bytes.len() as u64;
        ranged(&asked, len, |range| Ok(bytes.slice(range.start as usize..range.end as usize)))?
    };
    response.headers_mut().insert(header::ETAG, value(&etag));
    response.headers_mut().insert("x-repo-commit", value(&commit));
    Ok(response)
}

/// A path as it stands in an address.
fn encoded(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
