//! The Hub's JSON interface over repositories: who am I, create and delete, info, tree, paths, refs, tags, branches, history.
//! Commits have their own file.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Form, Json, Router,
    extract::{FromRequest, Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};

use super::{
    World,
    access::{Refusal, Wish},
    repository::{Commit, Content, Entry, Kind, RepoId, Repository, Row, pointer},
};

type Address = (String, String, String);
type AddressAt = (String, String, String, String);

pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/api/whoami-v2", get(whoami))
        .route("/api/validate-yaml", post(validate_yaml))
        .route("/api/repos/create", post(create))
        .route("/api/repos/delete", delete(remove))
        .route("/api/{kind}/{owner}/{name}", get(info))
        .route("/api/{kind}/{owner}/{name}/revision/{revision}", get(info_at))
        .route("/api/{kind}/{owner}/{name}/tree/{revision}", get(tree))
        .route("/api/{kind}/{owner}/{name}/tree/{revision}/", get(tree))
        .route("/api/{kind}/{owner}/{name}/tree/{revision}/{*path}", get(tree_below))
        .route("/api/{kind}/{owner}/{name}/paths-info/{revision}", post(paths_info))
        .route("/api/{kind}/{owner}/{name}/refs", get(refs))
        .route("/api/{kind}/{owner}/{name}/commits/{revision}", get(commits))
        .route("/api/{kind}/{owner}/{name}/tag/{revision}", post(tag).delete(untag))
        .route("/api/{kind}/{owner}/{name}/branch/{branch}", post(branch).delete(unbranch))
}

/// The repository that an address names.
pub fn repo_id(kind: &str, owner: &str, name: &str) -> Result<RepoId, Refusal> {
    let unknown =
        || Refusal::new(StatusCode::NOT_FOUND, None, format!("Sorry, we can't find /api/{kind}/{owner}/{name}"));
    Ok(RepoId { kind: Kind::parse(kind).ok_or_else(unknown)?, owner: owner.to_owned(), name: name.to_owned() })
}

/// The commit that a revision names, or the Hub's answer where there is none.
pub fn at<'a>(repository: &'a Repository, revision: &str) -> Result<&'a Commit, Refusal> {
    repository.resolve(revision).ok_or_else(|| Refusal::no_revision(revision))
}

/// `GET /api/whoami-v2`: whose token it is and what it may do.
async fn whoami(State(world): State<Arc<World>>, headers: HeaderMap) -> Result<Json<Value>, Refusal> {
    let accounts = world.accounts.lock().unwrap();
    let nobody = || Refusal::new(StatusCode::UNAUTHORIZED, None, "Invalid username or password.");
    let account = accounts.of(&headers)?.ok_or_else(nobody)?;
    let role = if account.writes { "write" } else { "read" };
    let organisations: Vec<Value> =
        account.organisations.iter().map(|name| json!({ "type": "org", "name": name, "fullname": name })).collect();
    Ok(Json(json!({
        "type": "user",
        "id": format!("id-{}", account.user),
        "name": account.user,
        "fullname": account.user,
        "isPro": false,
        "orgs": organisations,
        "auth": { "type": "access_token", "accessToken": { "displayName": "test", "role": role } },
    })))
}

/// `POST /api/validate-yaml`: Python asks before it uploads a README. Only what breaks every reader is refused here: a card
/// whose metadata do not begin or do not end.
async fn validate_yaml(Json(body): Json<Value>) -> Response {
    let text = body["content"].as_str().unwrap_or_default();
    let whole = text.strip_prefix("---\n").is_some_and(|rest| rest.contains("\n---\n"));
    let warnings =
        if whole { json!([]) } else { json!([{ "message": "empty or missing yaml metadata in repo card" }]) };
    Json(json!({ "errors": [], "warnings": warnings })).into_response()
}

/// The repository that a body of `create` or `delete` names; without an organisation it is the asker's own.
fn named(world: &World, headers: &HeaderMap, body: &Value) -> Result<(RepoId, String), Refusal> {
    let accounts = world.accounts.lock().unwrap();
    let nobody = || Refusal::new(StatusCode::UNAUTHORIZED, None, "Invalid username or password.");
    let account = accounts.of(headers)?.ok_or_else(nobody)?;
    let owner = body["organization"].as_str().unwrap_or(&account.user).to_owned();
    let kind = body["type"].as_str().map_or(Some(Kind::Model), Kind::parse);
    let kind = kind.ok_or_else(|| Refusal::bad("`type` must be model or dataset"))?;
    let name = body["name"].as_str().unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 96 || !name.chars().all(good) || name.contains("..") || name.contains("--") {
        return Err(Refusal::bad(format!("\"name\" with value \"{name}\" fails to match the required pattern")));
    }
    if !account.owns(&owner) || !account.writes {
        let message =
            format!("You don't have the rights to create a {} under the namespace \"{owner}\"", kind.singular());
        return Err(Refusal::new(StatusCode::FORBIDDEN, None, message));
    }
    Ok((RepoId { kind, owner, name: name.to_owned() }, account.user.clone()))
}

/// `POST /api/repos/create`: 409 where there is one already, whoever asks.
async fn create(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Response, Refusal> {
    let (id, user) = named(&world, &headers, &body)?;
    let private = body["private"].as_bool().unwrap_or(body["visibility"] == "private");
    let url = format!("{}/{}{}", world.endpoint(), id.kind.prefix(), id.id());
    let answer = json!({ "url": url, "name": id.id(), "id": format!("id-{}", id.id()) });
    let mut repositories = world.repositories.lock().unwrap();
    if repositories.contains_key(&id) {
        let message = format!("You already created this {} repo: {}", id.kind.singular(), id.id());
        let mut response = Refusal::new(StatusCode::CONFLICT, None, message.clone()).into_response();
        // Python reads the address of the repository from the refusal, too.
        *response.body_mut() = json!({ "error": message, "url": url }).to_string().into();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        return Ok(response);
    }
    repositories.insert(id.clone(), Repository::new(id, private, &user));
    Ok(Json(answer).into_response())
}

/// `DELETE /api/repos/delete`.
async fn remove(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<&'static str, Refusal> {
    let (id, _) = named(&world, &headers, &body)?;
    let gone = world.repositories.lock().unwrap().remove(&id);
    gone.map(|_| "OK").ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, Some("RepoNotFound"), "Repository not found"))
}

async fn info(
    world: State<Arc<World>>,
    Path((kind, owner, name)): Path<Address>,
    query: Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    info_at(world, Path((kind, owner, name, "main".to_owned())), query, headers).await
}

/// `GET /api/datasets/owner/name/revision/…`: the commit's id and its files; with `blobs` also their sizes and hashes.
async fn info_at(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision)): Path<AddressAt>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    let blobs = truthy(&query, "blobs");
    world.with(&headers, &id, Wish::Metadata, |repository| {
        let commit = at(repository, &revision)?;
        let sibling = |(path, file): (&String, &Entry)| {
            let mut sibling = json!({ "rfilename": path });
            if blobs {
                sibling["size"] = json!(file.size());
                sibling["blobId"] = json!(file.oid);
                if let Content::Lfs { sha256, size } = &file.content {
                    sibling["lfs"] =
                        json!({ "sha256": sha256, "size": size, "pointerSize": pointer(sha256, *size).len() });
                }
            }
            sibling
        };
        Ok(Json(json!({
            "_id": format!("id-{}", id.id()),
            "id": id.id(),
            "author": id.owner,
            "sha": commit.oid,
            "createdAt": repository.commits[0].date,
            "lastModified": commit.date,
            "private": repository.private,
            "gated": if repository.gated { json!("manual") } else { json!(false) },
            "disabled": false,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "usedStorage": commit.files.values().map(Entry::size).sum::<u64>(),
            "siblings": commit.files.iter().map(sibling).collect::<Vec<_>>(),
        })))
    })
}

fn truthy(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|value| matches!(&*value.to_lowercase(), "true" | "1"))
}

/// A file or folder in a tree listing. `lfs.oid` is the SHA-256; `oid` is the git blob's, for an LFS object the pointer's.
fn row(world: &World, repository: &Repository, commit: &Commit, row: &Row<'_>, expand: bool) -> Value {
    let mut value = match row {
        Row::Directory(path, oid) => json!({ "type": "directory", "oid": oid, "size": 0, "path": path }),
        Row::File(path, file) => {
            let mut value = json!({ "type": "file", "oid": file.oid, "size": file.size(), "path": path });
            if let Content::Lfs { sha256, size } = &file.content {
                value["lfs"] = json!({ "oid": sha256, "size": size, "pointerSize": pointer(sha256, *size).len() });
                if let Some(hash) = world.storage.xet_hash(sha256) {
                    value["xetHash"] = json!(hash);
                }
            }
            value
        }
    };
    if expand {
        let changed = match row {
            Row::Directory(..) => commit,
            Row::File(path, _) => repository.last_change(commit, path),
        };
        value["lastCommit"] = json!({ "id": changed.oid, "title": changed.title, "date": changed.date });
    }
    value
}

/// The answer of a listing: a page, and in `Link` the address of the next.
fn page(world: &World, rows: Vec<Value>, query: &HashMap<String, String>, path: &str) -> Response {
    let most = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX).min(world.options.page);
    let from: usize = query.get("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
    let (total, next) = (rows.len(), from.saturating_add(most));
    let mut response = Json(rows.into_iter().skip(from).take(most).collect::<Vec<_>>()).into_response();
    if next < total {
        let mut kept: Vec<String> =
            query.iter().filter(|(name, _)| *name != "cursor").map(|(name, value)| format!("{name}={value}")).collect();
        kept.push(format!("cursor={next}"));
        let link = format!("<{}{path}?{}>; rel=\"next\"", world.endpoint(), kept.join("&"));
        response.headers_mut().insert(header::LINK, HeaderValue::from_str(&link).expect("an address"));
    }
    response
}

async fn tree(
    world: State<Arc<World>>,
    Path((kind, owner, name, revision)): Path<AddressAt>,
    query: Query<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Refusal> {
    let below = (kind, owner, name, revision, String::new());
    tree_below(world, Path(below), query, request).await
}

/// `GET /api/…/tree/revision/folder?recursive=&expand=&cursor=`.
async fn tree_below(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision, folder)): Path<(String, String, String, String, String)>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    let (recursive, expand) = (truthy(&query, "recursive"), truthy(&query, "expand"));
    world.with(request.headers(), &id, Wish::Metadata, |repository| {
        let commit = at(repository, &revision)?;
        let rows = commit.tree(&folder, recursive).ok_or_else(|| Refusal::no_entry(&folder, &commit.oid))?;
        let rows = rows.iter().map(|each| row(&world, repository, commit, each, expand)).collect();
        Ok(page(&world, rows, &query, request.uri().path()))
    })
}

/// `POST /api/…/paths-info/revision`: like a tree listing for chosen paths, those that do not exist left out. The question is
/// JSON from JavaScript and Rust and a form from Python.
async fn paths_info(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision)): Path<AddressAt>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    let headers = request.headers().clone();
    let form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www"));
    let unreadable = || Refusal::bad("paths-info: the body cannot be read");
    let (paths, expand): (Vec<String>, bool) = if form {
        let Form(fields) = Form::<Vec<(String, String)>>::from_request(request, &()).await.map_err(|_| unreadable())?;
        let expand = fields.iter().any(|(name, value)| name == "expand" && value.eq_ignore_ascii_case("true"));
        (fields.into_iter().filter(|(name, _)| name == "paths").map(|(_, value)| value).collect(), expand)
    } else {
        let Json(body) = Json::<Value>::from_request(request, &()).await.map_err(|_| unreadable())?;
        let paths = body["paths"].as_array().into_iter().flatten().filter_map(|path| Some(path.as_str()?.to_owned()));
        (paths.collect(), body["expand"] == true)
    };
    world.with(&headers, &id, Wish::Metadata, |repository| {
        let commit = at(repository, &revision)?;
        let found = paths.iter().filter_map(|path| {
            let path = path.trim_matches('/');
            if let Some(file) = commit.files.get(path) {
                return Some(Row::File(path, file));
            }
            let folder = !path.is_empty() && commit.tree(path, false).is_some();
            folder.then(|| Row::Directory(path.to_owned(), commit.tree_id(path)))
        });
        Ok(Json(Value::Array(found.map(|each| row(&world, repository, commit, &each, expand)).collect())))
    })
}

/// `GET /api/…/refs`.
async fn refs(
    State(world): State<Arc<World>>,
    Path((kind, owner, name)): Path<Address>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    world.with(&headers, &id, Wish::Metadata, |repository| {
        let list = |refs: &std::collections::BTreeMap<String, String>, folder: &str| -> Vec<Value> {
            let value =
                |(name, oid)| json!({ "name": name, "ref": format!("refs/{folder}/{name}"), "targetCommit": oid });
            refs.iter().map(value).collect()
        };
        Ok(Json(json!({
            "branches": list(&repository.branches, "heads"),
            "tags": list(&repository.tags, "tags"),
            "converts": [],
        })))
    })
}

/// `GET /api/…/commits/revision`: newest first.
async fn commits(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision)): Path<AddressAt>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    world.with(request.headers(), &id, Wish::Metadata, |repository| {
        let history = repository.history(at(repository, &revision)?);
        let value = |commit: &&Commit| {
            json!({
                "id": commit.oid,
                "title": commit.title,
                "message": commit.description,
                "authors": [{ "user": commit.author }],
                "date": commit.date,
            })
        };
        Ok(page(&world, history.iter().map(value).collect(), &query, request.uri().path()))
    })
}

/// `POST /api/…/tag/revision` with the tag's name in the body: a tag is never moved, 409 where there is one.
async fn tag(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision)): Path<AddressAt>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    world.with(&headers, &id, Wish::Write, |repository| {
        let oid = at(repository, &revision)?.oid.clone();
        let tag = body["tag"].as_str().filter(|tag| !tag.is_empty() && !tag.contains([' ', '~', '^', ':', '?', '*']));
        let tag = tag.ok_or_else(|| Refusal::bad("\"tag\" is not the name of a tag"))?;
        if repository.tags.contains_key(tag) {
            return Err(Refusal::new(StatusCode::CONFLICT, None, "Tag reference exists already"));
        }
        repository.tags.insert(tag.to_owned(), oid);
        Ok(Json(json!({})))
    })
}

/// `DELETE /api/…/tag/name`.
async fn untag(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, tag)): Path<AddressAt>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    world.with(&headers, &id, Wish::Write, |repository| {
        repository.tags.remove(&tag).map(|_| Json(json!({}))).ok_or_else(|| Refusal::no_revision(&tag))
    })
}

/// `POST /api/…/branch/name`, from `startingPoint` or `main`.
async fn branch(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, branch)): Path<AddressAt>,
    headers: HeaderMap,
    body: Option<Json<Value>>,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    world.with(&headers, &id, Wish::Write, |repository| {
        let start = body.as_ref().and_then(|Json(body)| body["startingPoint"].as_str()).unwrap_or("main");
        let oid = at(repository, start)?.oid.clone();
        if repository.branches.contains_key(&branch) {
            return Err(Refusal::new(StatusCode::CONFLICT, None, format!("Reference already exists: {branch}")));
        }
        repository.branches.insert(branch.clone(), oid);
        Ok(Json(json!({})))
    })
}

/// `DELETE /api/…/branch/name`; never `main`.
async fn unbranch(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, branch)): Path<AddressAt>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    world.with(&headers, &id, Wish::Write, |repository| {
        if branch == "main" {
            return Err(Refusal::new(StatusCode::FORBIDDEN, None, "Cannot delete the default branch"));
        }
        repository.branches.remove(&branch).map(|_| Json(json!({}))).ok_or_else(|| Refusal::no_revision(&branch))
    })
}
