//! How files become a commit: the Hub is asked how to send each (`preupload`), then given one line of JSON for each (`commit`).

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    World,
    access::{Refusal, Wish},
    api::{at, repo_id},
    repository::{Entry, Repository},
};

pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/api/{kind}/{owner}/{name}/preupload/{revision}", post(preupload))
        .route("/api/{kind}/{owner}/{name}/commit/{revision}", post(commit))
        .layer(DefaultBodyLimit::disable())
}

type AddressAt = (String, String, String, String);

/// `POST …/preupload/revision`: for every file, whether it goes into the commit (`regular`) or before it (`lfs`), and the hash
/// of what is there under its name.
async fn preupload(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision)): Path<AddressAt>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    world.with(&headers, &id, Wish::Write, |repository| {
        let commit = at(repository, &revision)?;
        let answer = |file: &Value| {
            let path = file["path"].as_str().unwrap_or_default();
            let sample = BASE64_STANDARD.decode(file["sample"].as_str().unwrap_or_default());
            let sample = sample.map_err(|_| Refusal::bad(format!("{path}: the sample is not base64")))?;
            let lfs = commit.wants_lfs(path, file["size"].as_u64().unwrap_or(0), &sample);
            Ok(json!({
                "path": path,
                "uploadMode": if lfs { "lfs" } else { "regular" },
                "shouldIgnore": false,
                "oid": commit.files.get(path).map(Entry::etag),
            }))
        };
        let files: Result<Vec<Value>, Refusal> = body["files"].as_array().into_iter().flatten().map(answer).collect();
        Ok(Json(json!({ "files": files?, "commitOid": commit.oid })))
    })
}

/// `POST …/commit/branch`: newline-delimited JSON; a header, then files, LFS files, deletions. All of it happens or nothing.
async fn commit(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, branch)): Path<AddressAt>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    let unreadable = |error| Refusal::bad(format!("a line of the commit is not JSON: {error}"));
    let lines: Result<Vec<Value>, _> =
        body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(serde_json::from_slice).collect();
    let lines = lines.map_err(unreadable)?;
    let author = world.accounts.lock().unwrap().of(&headers)?.map_or_else(String::new, |account| account.user.clone());
    let prefix = format!("{}/{}{}/commit", world.endpoint(), id.kind.prefix(), id.id());
    world.with(&headers, &id, Wish::Write, |repository| {
        let oid = apply(&world, repository, &branch, &author, &lines)?;
        Ok(Json(json!({
            "success": true,
            "commitOid": oid,
            "commitUrl": format!("{prefix}/{oid}"),
            "hookOutput": "",
        })))
    })
}

fn apply(
    world: &World,
    repository: &mut Repository,
    branch: &str,
    author: &str,
    lines: &[Value],
) -> Result<String, Refusal> {
    let head = repository.branches.get(branch).cloned().ok_or_else(|| Refusal::no_revision(branch))?;
    let mut files = at(repository, &head)?.files.clone();
    let (mut title, mut description) = (String::new(), String::new());
    for line in lines {
        let value = &line["value"];
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let path = text("path");
        match line["key"].as_str() {
            Some("header") => {
                (title, description) = (text("summary").to_owned(), text("description").to_owned());
                if value["parentCommit"].as_str().is_some_and(|parent| parent != head) {
                    let message = "A commit has happened since. Please refresh and try again.";
                    return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, None, message));
                }
            }
            Some("file") => {
                let content = BASE64_STANDARD.decode(text("content"));
                let content = content.map_err(|_| Refusal::bad(format!("{path}: the content is not base64")))?;
                files.insert(good_path(path)?, Entry::regular(content.into()));
            }
            Some("lfsFile") => {
                let (oid, size) = (text("oid"), value["size"].as_u64().unwrap_or(0));
                if world.storage.size(oid) != Some(size) {
                    let message =
                        format!("LFS pointer pointed to a file that does not exist: {path} ({oid}, {size} bytes)");
                    return Err(Refusal::bad(message));
                }
                files.insert(good_path(path)?, Entry::lfs(oid, size));
            }
            Some("deletedFile") => {
                let gone = files.remove(path);
                gone.ok_or_else(|| {
                    let message = format!("A file with this name doesn't exist: {path}");
                    Refusal::new(StatusCode::NOT_FOUND, Some("EntryNotFound"), message)
                })?;
            }
            Some("deletedFolder") => {
                let prefix = format!("{}/", path.trim_end_matches('/'));
                files.retain(|path, _| !path.starts_with(&prefix));
            }
            key => return Err(Refusal::bad(format!("the test Hub does not know `{}`", key.unwrap_or_default()))),
        }
    }
    if title.is_empty() {
        return Err(Refusal::bad("\"summary\" is not allowed to be empty"));
    }
    Ok(repository.commit(branch, &title, &description, author, files).oid.clone())
}

/// What the Hub refuses in names of files.
fn good_path(path: &str) -> Result<String, Refusal> {
    let bad = |part: &str| part.is_empty() || matches!(part, "." | ".." | ".git");
    if path.split('/').any(bad) || path.contains('\\') {
        return Err(Refusal::bad(format!("Invalid path: {path}")));
    }
    Ok(path.to_owned())
}
