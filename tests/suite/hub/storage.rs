//! LFS objects: the batch interface on the Hub, and the storage host where their bytes come and go by signed addresses.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    World,
    access::{Refusal, Wish},
    api::repo_id,
    repository::hex,
    xet::{Scope, Xet},
};

/// Where an object's bytes are.
#[derive(Clone)]
enum Place {
    Memory(Bytes),
    /// In the content-addressed store, under this hash.
    Xet(String),
}

/// All objects of all repositories, by SHA-256.
#[derive(Default)]
pub struct Storage {
    objects: Mutex<BTreeMap<String, (u64, Place)>>,
    /// Parts of uploads in many parts.
    parts: Mutex<BTreeMap<(String, usize), Bytes>>,
}

impl Storage {
    pub fn size(&self, sha256: &str) -> Option<u64> {
        self.objects.lock().unwrap().get(sha256).map(|(size, _)| *size)
    }

    /// The hash of an object in the content-addressed store, if it came that way.
    pub fn xet_hash(&self, sha256: &str) -> Option<String> {
        match self.objects.lock().unwrap().get(sha256) {
            Some((_, Place::Xet(hash))) => Some(hash.clone()),
            _ => None,
        }
    }

    pub fn put(&self, bytes: Bytes) -> String {
        let sha256 = hex(&Sha256::digest(&bytes));
        let object = (bytes.len() as u64, Place::Memory(bytes));
        self.objects.lock().unwrap().entry(sha256.clone()).or_insert(object);
        sha256
    }

    /// An object's bytes.
    pub async fn read(&self, xet: &Xet, sha256: &str) -> Result<Bytes, String> {
        let object = self.objects.lock().unwrap().get(sha256).cloned();
        match object.ok_or("nobody brought it")? {
            (_, Place::Memory(bytes)) => Ok(bytes),
            (size, Place::Xet(hash)) => xet.read(&hash, 0..size).await.map_err(|refusal| format!("{refusal:?}")),
        }
    }

    /// Notes that the content-addressed store has a file.
    pub fn put_xet(&self, sha256: String, size: u64, hash: String) {
        self.objects.lock().unwrap().entry(sha256).or_insert((size, Place::Xet(hash)));
    }

    /// An address on the storage host that is good without a token.
    pub fn signed(host: &str, method: &str, sha256: &str) -> String {
        format!("{host}/lfs/{sha256}?Signature={}", signature(method, sha256))
    }
}

fn signature(method: &str, path: &str) -> String {
    hex(&Sha256::digest(format!("the test Hub's secret, {method} {path}")))[..32].to_owned()
}

/// On the Hub.
pub fn hub_routes() -> Router<Arc<World>> {
    Router::new()
        .route("/{owner}/{name}/info/lfs/objects/batch", post(batch_model))
        .route("/datasets/{owner}/{name}/info/lfs/objects/batch", post(batch_dataset))
        .route("/api/complete_multipart/{sha256}", post(complete))
        .route("/api/verify/{sha256}", post(verify))
}

/// On the storage host.
pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/lfs/{sha256}", get(download).put(upload))
        .route("/lfs/{sha256}/{part}", axum::routing::put(upload_part))
        .layer(DefaultBodyLimit::disable())
}

async fn batch_model(
    world: State<Arc<World>>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    batch(world, "models", &owner, &name, &headers, &body)
}

async fn batch_dataset(
    world: State<Arc<World>>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    batch(world, "datasets", &owner, &name, &headers, &body)
}

/// `POST …/name.git/info/lfs/objects/batch`: how each object is to be sent, or that it is there already.
fn batch(
    State(world): State<Arc<World>>,
    kind: &str,
    owner: &str,
    name: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Refusal> {
    let id = repo_id(kind, owner, name.strip_suffix(".git").unwrap_or(name))?;
    let body: Value = serde_json::from_slice(body).map_err(|error| Refusal::bad(error.to_string()))?;
    let upload = body["operation"] == "upload";
    world.with(headers, &id, if upload { Wish::Write } else { Wish::Content }, |_| Ok(()))?;
    let offers = |transfer: &str| body["transfers"].as_array().is_some_and(|all| all.iter().any(|one| one == transfer));
    let xet = world.options.xet && upload && offers("xet");
    let answer = |object: &Value| {
        let (oid, size) = (object["oid"].as_str().unwrap_or_default(), object["size"].as_u64().unwrap_or(0));
        let mut answer = json!({ "oid": oid, "size": size, "authenticated": true });
        let stored = world.storage.size(oid).is_some();
        if !upload && !stored {
            answer["error"] = json!({ "code": 404, "message": "Object does not exist" });
        } else if !upload {
            answer["actions"]["download"] = json!({ "href": Storage::signed(&world.storage_endpoint(), "GET", oid) });
        } else if !stored && xet {
            let revision = body["ref"]["name"].as_str().unwrap_or("main");
            let token = world.xet.token(Scope::Write);
            answer["actions"]["upload"] = json!({
                "href": format!("{}/api/{kind}/{}/xet-write-token/{revision}", world.endpoint(), id.id()),
                "header": {
                    "X-Xet-Cas-Url": world.storage_endpoint(),
                    "X-Xet-Access-Token": token.secret,
                    "X-Xet-Token-Expiration": token.expires.to_string(),
                    "X-Xet-Session-Id": "test",
                },
            });
        } else if !stored {
            answer["actions"] = upload_actions(&world, oid, size, offers("multipart"));
        }
        answer
    };
    let objects: Vec<Value> = body["objects"].as_array().into_iter().flatten().map(answer).collect();
    let many = !xet && objects.iter().any(|object| !object["actions"]["upload"]["header"]["chunk_size"].is_null());
    let transfer = if xet {
        "xet"
    } else if many {
        "multipart"
    } else {
        "basic"
    };
    let body = json!({ "transfer": transfer, "objects": objects }).to_string();
    Ok(([(header::CONTENT_TYPE, "application/vnd.git-lfs+json")], body).into_response())
}

/// One PUT, or for a large object many and a word that they are all sent.
fn upload_actions(world: &World, oid: &str, size: u64, multipart: bool) -> Value {
    let host = world.storage_endpoint();
    let verify = json!({ "href": format!("{}/api/verify/{oid}", world.endpoint()) });
    let part = world.options.part;
    if !multipart || size <= part {
        return json!({ "upload": { "href": Storage::signed(&host, "PUT", oid) }, "verify": verify });
    }
    let mut header = json!({ "chunk_size": part.to_string() });
    for number in 1..=size.div_ceil(part) {
        let signature = signature("PUT", &format!("{oid}/{number}"));
        header[number.to_string()] = json!(format!("{host}/lfs/{oid}/{number}?Signature={signature}"));
    }
    let href = format!("{}/api/complete_multipart/{oid}", world.endpoint());
    json!({ "upload": { "href": href, "header": header }, "verify": verify })
}

fn check(query: &BTreeMap<String, String>, method: &str, path: &str) -> Result<(), Refusal> {
    if query.get("Signature").is_some_and(|given| *given == signature(method, path)) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, None, "SignatureDoesNotMatch"))
}

/// `PUT /lfs/sha256` at the storage host. As with Amazon's, bytes of another hash are refused.
async fn upload(
    State(world): State<Arc<World>>,
    Path(sha256): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Result<Response, Refusal> {
    check(&query, "PUT", &sha256)?;
    keep(&world, &sha256, body)
}

fn keep(world: &World, sha256: &str, body: Bytes) -> Result<Response, Refusal> {
    let found = hex(&Sha256::digest(&body));
    if found != sha256 {
        return Err(Refusal::bad(format!("BadDigest: {sha256} was announced, {found} came")));
    }
    world.storage.put(body);
    Ok(StatusCode::OK.into_response())
}

/// `PUT /lfs/sha256/number`.
async fn upload_part(
    State(world): State<Arc<World>>,
    Path((sha256, part)): Path<(String, usize)>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Result<Response, Refusal> {
    check(&query, "PUT", &format!("{sha256}/{part}"))?;
    let etag = format!("\"{}\"", &hex(&Sha256::digest(&body))[..32]);
    world.storage.parts.lock().unwrap().insert((sha256, part), body);
    Ok(([(header::ETAG, etag)], StatusCode::OK).into_response())
}

/// The Hub's word that all parts are sent.
async fn complete(
    State(world): State<Arc<World>>,
    Path(sha256): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let body: Value = serde_json::from_slice(&body).map_err(|error| Refusal::bad(error.to_string()))?;
    let mut whole = Vec::new();
    let mut parts = world.storage.parts.lock().unwrap();
    for part in body["parts"].as_array().into_iter().flatten() {
        let number = part["partNumber"].as_u64().unwrap_or(0) as usize;
        let bytes = parts.get(&(sha256.clone(), number));
        let bytes = bytes.filter(|bytes| part["etag"] == format!("\"{}\"", &hex(&Sha256::digest(bytes))[..32]));
        whole.extend_from_slice(bytes.ok_or_else(|| Refusal::bad(format!("InvalidPart: {number}")))?);
    }
    parts.retain(|(oid, _), _| *oid != sha256);
    keep(&world, &sha256, whole.into())
}

/// Asked by the client after an upload: whether the object is there, and of this size.
async fn verify(
    State(world): State<Arc<World>>,
    Path(sha256): Path<String>,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Refusal> {
    if world.storage.size(&sha256) != body["size"].as_u64() {
        return Err(Refusal::new(StatusCode::NOT_FOUND, None, format!("The object {sha256} is not there")));
    }
    Ok(Json(json!({})))
}

/// `GET` and `HEAD /lfs/sha256` at the storage host, whole or in part; also of files that came through the content-addressed
/// store, for clients that do not speak to it.
async fn download(
    State(world): State<Arc<World>>,
    Path(sha256): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    check(&query, "GET", &sha256)?;
    let object = world.storage.objects.lock().unwrap().get(&sha256).cloned();
    let missing = || Refusal::new(StatusCode::NOT_FOUND, None, "NoSuchKey");
    let (size, place) = object.ok_or_else(missing)?;
    let mut response = match place {
        Place::Memory(bytes) => {
            ranged(&headers, size, |range| Ok(bytes.slice(range.start as usize..range.end as usize)))?
        }
        Place::Xet(hash) => {
            let range = wanted(&headers, size)?.unwrap_or(0..size);
            let bytes = world.xet.read(&hash, range.clone()).await?;
            ranged(&headers, size, |_| Ok(bytes))?
        }
    };
    let etag = HeaderValue::from_str(&format!("\"{sha256}\"")).expect("a hash");
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

/// The range that a request wants; 416 where there is nothing in it.
fn wanted(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, Refusal> {
    let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let unsatisfiable =
        || Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, None, format!("{text} of {size} bytes cannot be given"));
    let (from, to) = text.strip_prefix("bytes=").and_then(|text| text.split_once('-')).ok_or_else(unsatisfiable)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| unsatisfiable());
    let range = match (from, to) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (from, "") => number(from)?..size,
        (from, to) => number(from)?..number(to)?.saturating_add(1).min(size),
    };
    if range.start >= range.end { Err(unsatisfiable()) } else { Ok(Some(range)) }
}

/// Bytes, or the part of them that is asked for.
pub fn ranged(
    headers: &HeaderMap,
    size: u64,
    read: impl FnOnce(Range<u64>) -> Result<Bytes, Refusal>,
) -> Result<Response, Refusal> {
    // An empty file has no part; it is given whole, as the delivery network does.
    let range = if size == 0 { None } else { wanted(headers, size)? };
    let mut response = read(range.clone().unwrap_or(0..size))?.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(range) = range {
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(&text).expect("numbers"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}
