//! The two hosts: every connection, every request noted, and the faults put into its answer.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header},
    response::IntoResponse,
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tower::ServiceExt;

use super::{
    World,
    access::Refusal,
    faults::{Flaw, Host, Part},
};

/// A request as the Hub saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub part: Part,
    pub method: String,
    pub path: String,
    /// None where the connection ended without an answer.
    pub status: Option<u16>,
}

/// The connection is to end without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection ends here on purpose")
    }
}

impl std::error::Error for Cut {}

/// Serves connections until the runtime ends.
pub async fn serve(listener: TcpListener, host: Host, router: Router, world: Arc<World>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (router, world) = (router.clone(), world.clone());
        tokio::spawn(async move {
            let answer = |request| answer(host, router.clone(), world.clone(), request);
            let mut server = http1::Builder::new();
            // An error is a cut connection, on this side or the other: nothing to say about it.
            let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(
    host: Host,
    router: Router,
    world: Arc<World>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let request = request.map(Body::new);
    let (path, part) = (request.uri().to_string(), Part::of(host, request.method(), request.uri().path()));
    let token = text(request.headers(), header::AUTHORIZATION).trim_start_matches("Bearer ").to_owned();
    if host == Host::Storage && world.accounts.lock().unwrap().by_token.contains_key(&token) {
        // Amazon's store, too, wants either a signed address or a header and never both.
        world.leaks.lock().unwrap().push(format!("{} {path}", request.method()));
        return Ok(Refusal::bad("Only one auth mechanism allowed, and a Hub token is none of ours").into_response());
    }
    let method = request.method().to_string();
    let number = {
        let mut seen = world.seen.lock().unwrap();
        seen.push(Seen { part, method, path, status: None });
        seen.len() - 1
    };
    let flaw = world.faults.lock().unwrap().next(part);
    let answer = flawed(flaw, &token, router, &world, request).await;
    if let Ok(response) = &answer
        && let Some(seen) = world.seen.lock().unwrap().get_mut(number)
    {
        seen.status = Some(response.status().as_u16());
    }
    answer
}

async fn flawed(
    flaw: Option<Flaw>,
    token: &str,
    router: Router,
    world: &World,
    mut request: Request<Body>,
) -> Result<Response<Body>, Cut> {
    match flaw {
        Some(Flaw::Status(status)) => {
            // The body is read first: an answer before its end would be a cut connection to many clients.
            let _ = request.into_body().collect().await;
            let status = StatusCode::from_u16(status).expect("a status");
            let mut response = Refusal::new(status, None, format!("Internal: {status}")).into_response();
            if status == StatusCode::TOO_MANY_REQUESTS {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            return Ok(response);
        }
        Some(Flaw::Repeat) => {
            let message = format!("cannot understand `Authorization: Bearer {token}` at {}", request.uri());
            return Ok(Refusal::bad(message).into_response());
        }
        Some(Flaw::CutRequest) => {
            let length = content_length(request.headers());
            let mut body = request.into_body();
            let mut read = 0;
            while read < length / 2 {
                let Some(Ok(frame)) = body.frame().await else { break };
                read += frame.data_ref().map_or(0, Bytes::len);
            }
            return Err(Cut);
        }
        Some(Flaw::Expire) => world.expire(token),
        Some(Flaw::AlteredRequest) => {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
            request = Request::from_parts(head, Body::from(altered(&body)));
        }
        _ => (),
    }
    let response = router.oneshot(request).await.expect("a router does not fail");
    let Some(flaw) = flaw else { return Ok(response) };
    match flaw {
        Flaw::NoAnswer => Err(Cut),
        Flaw::CutResponse | Flaw::Truncated | Flaw::Altered => {
            let (mut head, body) = response.into_parts();
            let whole = body.collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
            if whole.is_empty() {
                // Nothing to spoil in a redirect or a HEAD: the connection ends instead.
                return Err(Cut);
            }
            let half = whole.slice(..whole.len() / 2);
            let body = match flaw {
                Flaw::Truncated => {
                    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(half.len()));
                    Body::from(half)
                }
                Flaw::Altered => Body::from(altered(&whole)),
                _ => {
                    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
                    Body::from_stream(futures_util::stream::unfold(Some(half), cut_after))
                }
            };
            Ok(Response::from_parts(head, body))
        }
        _ => Ok(response),
    }
}

/// The same bytes but for one bit in their middle.
fn altered(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
    bytes
}

/// A stream that ends in an error after its first piece has had the time to leave.
async fn cut_after(half: Option<Bytes>) -> Option<(io::Result<Bytes>, Option<Bytes>)> {
    if let Some(half) = half.filter(|half| !half.is_empty()) {
        Some((Ok(half), None))
    } else {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Err(io::Error::other(Cut)), None))
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn content_length(headers: &HeaderMap) -> usize {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}
