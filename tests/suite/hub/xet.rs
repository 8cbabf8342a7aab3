//! The content-addressed store behind the storage host: the official simulation of it, a door in front that asks for the
//! tokens that the Hub gives out, and the list of which SHA-256 is which file in it.

use std::{
    collections::BTreeMap,
    io::Cursor,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::PathAndQuery},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, sync::oneshot};
use xet_client::{
    cas_client::{DirectAccessClient, LocalClient, LocalServer, MemoryClient},
    cas_types::FileRange,
};
use xet_core_structures::{
    merklehash::MerkleHash,
    metadata_shard::{file_structs::MDBFileInfo, streaming_shard::MDBMinimalShard},
};
use xet_runtime::core::XetContext;

use super::{
    World,
    access::{Refusal, Wish},
    api::repo_id,
    repository::hex,
};

/// What a token of the store is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Read,
    Write,
}

/// A token of the store.
#[derive(Clone, Debug)]
pub struct Token {
    pub secret: String,
    /// Seconds since 1970.
    pub expires: u64,
    scope: Scope,
}

/// The store.
pub struct Xet {
    files: Arc<dyn DirectAccessClient>,
    simulation: SocketAddr,
    client: Client<HttpConnector, Body>,
    tokens: Mutex<BTreeMap<String, Token>>,
    /// How long a token is good, in seconds.
    lifetime: u64,
    _stop: oneshot::Sender<()>,
}

impl Xet {
    /// Starts the simulation: in memory, or in a temporary folder.
    pub async fn start(disk: bool, lifetime: u64) -> Self {
        let context = XetContext::default().expect("a Xet context");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let simulation = listener.local_addr().unwrap();
        let files: Arc<dyn DirectAccessClient> =
            if disk { LocalClient::temporary(context).await.unwrap() } else { MemoryClient::new(context) };
        let server = LocalServer::from_client(files.clone(), None, "127.0.0.1".to_owned(), simulation.port());
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(async move { server.serve_until_stopped(listener, stopped).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { files, simulation, client, tokens: Mutex::default(), lifetime, _stop: stop }
    }

    /// A new token.
    pub fn token(&self, scope: Scope) -> Token {
        let mut tokens = self.tokens.lock().unwrap();
        let secret = format!("xet_{}", &hex(&Sha256::digest(format!("{scope:?} {}", tokens.len())))[..40]);
        let token = Token { secret: secret.clone(), expires: now() + self.lifetime, scope };
        tokens.insert(secret, token.clone());
        token
    }

    /// Tokens of the store as they were given out.
    pub fn secrets(&self) -> Vec<String> {
        self.tokens.lock().unwrap().keys().cloned().collect()
    }

    fn admits(&self, headers: &HeaderMap, scope: Scope) -> bool {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let tokens = self.tokens.lock().unwrap();
        let token = token.and_then(|token| tokens.get(token));
        token.is_some_and(|token| token.scope >= scope && token.expires > now())
    }

    /// Bytes of a file.
    pub async fn read(&self, hash: &str, range: Range<u64>) -> Result<Bytes, Refusal> {
        let hash = MerkleHash::from_hex(hash).expect("a hash of the store's own");
        let bytes = self.files.get_file_data(&hash, Some(FileRange::new(range.start, range.end))).await;
        bytes.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, None, error.to_string()))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// On the Hub: a token of the store for whoever may read or write a repository.
pub fn hub_routes() -> Router<Arc<World>> {
    Router::new()
        .route("/api/{kind}/{owner}/{name}/xet-read-token/{revision}", get(read_token))
        .route("/api/{kind}/{owner}/{name}/xet-write-token/{revision}", get(write_token))
}

/// On the storage host: the store itself.
pub fn routes() -> Router<Arc<World>> {
    Router::new().fallback(forward)
}

type AddressAt = (String, String, String, String);

async fn read_token(
    world: State<Arc<World>>,
    address: Path<AddressAt>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    token(world, address, &headers, Scope::Read)
}

async fn write_token(
    world: State<Arc<World>>,
    address: Path<AddressAt>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    token(world, address, &headers, Scope::Write)
}

fn token(
    State(world): State<Arc<World>>,
    Path((kind, owner, name, revision)): Path<AddressAt>,
    headers: &HeaderMap,
    scope: Scope,
) -> Result<Response, Refusal> {
    let id = repo_id(&kind, &owner, &name)?;
    let wish = if scope == Scope::Read { Wish::Content } else { Wish::Write };
    world.with(headers, &id, wish, |repository| {
        repository.resolve(&revision).map(|_| ()).ok_or_else(|| Refusal::no_revision(&revision))
    })?;
    if !world.options.xet {
        return Err(Refusal::new(StatusCode::NOT_FOUND, None, "Xet is not enabled for this repository"));
    }
    let token = world.xet.token(scope);
    let place = world.storage_endpoint();
    let body = json!({ "accessToken": token.secret, "exp": token.expires, "casUrl": place });
    let mut response = Json(body).into_response();
    let texts = [
        ("x-xet-cas-url", place),
        ("x-xet-access-token", token.secret),
        ("x-xet-token-expiration", token.expires.to_string()),
    ];
    for (name, text) in texts {
        response.headers_mut().insert(name, HeaderValue::from_str(&text).expect("plain text"));
    }
    Ok(response)
}

/// Passes a request on to the simulation, if its token is good. Addresses that the store itself gave out (`fetch_term`, the
/// places for granted uploads) are as good as signed and need none.
async fn forward(State(world): State<Arc<World>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let given_out = path == "/v1/fetch_term" || path.starts_with("/simulation/xorb-uploads/");
    let known = given_out || path.starts_with("/v1/") || path.starts_with("/v2/");
    let writes = *request.method() != Method::GET && *request.method() != Method::HEAD;
    let scope = if writes && path != "/v1/telemetry" { Scope::Write } else { Scope::Read };
    if !known {
        return Refusal::new(StatusCode::NOT_FOUND, None, format!("No such place: {path}")).into_response();
    }
    if !given_out && !world.xet.admits(request.headers(), scope) {
        return Refusal::new(StatusCode::UNAUTHORIZED, None, "The store's token is missing, expired or too weak")
            .into_response();
    }
    let shard = writes && path.ends_with("/shards");
    let (mut head, body) = request.into_parts();
    // Collected: what is cut on its way here must not reach the store as a short but whole body.
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Refusal::bad("the body ends too early").into_response();
    };
    let query = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    head.uri = format!("http://{}{query}", world.xet.simulation).parse::<Uri>().expect("an address");
    let answer = world.xet.client.request(Request::from_parts(head, Body::from(body.clone()))).await;
    let Ok(answer) = answer else {
        return Refusal::new(StatusCode::BAD_GATEWAY, None, "the simulation does not answer").into_response();
    };
    if shard && answer.status().is_success() {
        note_files(&world, &body);
    }
    answer.map(Body::new)
}

/// Notes which files a shard says are now in the store: it holds their SHA-256, by which commits name them.
fn note_files(world: &World, shard: &[u8]) {
    let Ok(shard) = MDBMinimalShard::from_reader(&mut Cursor::new(shard), true, false) else { return };
    for file in (0..shard.num_files()).filter_map(|number| shard.file(number)).map(MDBFileInfo::from) {
        let size = file.segments.iter().map(|segment| u64::from(segment.unpacked_segment_bytes)).sum();
        if let Some(metadata) = file.metadata_ext {
            world.storage.put_xet(metadata.sha256.hex(), size, file.metadata.file_hash.hex());
        }
    }
}
