//! The test Hub itself, asked over plain HTTP: redirects, ranges, pages, refusals, and each fault as a client meets it.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::hub::{Fault, Flaw, Hub, Kind, Options, Part};

/// An answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// One request on a connection of its own, no redirect followed; none where the connection ends before a whole answer.
fn ask(method: Method, url: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Option<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let asked = client.request(request.body(body.into()).unwrap());
        let response = tokio::time::timeout(Duration::from_secs(10), asked).await.expect("an answer in time").ok()?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Answer { status: head.status, headers: head.headers, body })
    })
}

fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    ask(Method::GET, url, headers, Body::empty()).expect("an answer")
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn post(hub: &Hub, token: &str, path: &str, body: &Value) -> Answer {
    let url = format!("{}{path}", hub.endpoint());
    let headers = [("authorization", &*bearer(token)), ("content-type", "application/json")];
    ask(Method::POST, &url, &headers, body.to_string()).expect("an answer")
}

/// A commit of these lines on `main` of the data set `atlas/open`.
fn commit(hub: &Hub, token: &str, lines: &[Value]) -> Answer {
    let url = format!("{}/api/datasets/atlas/open/commit/main", hub.endpoint());
    let headers = [("authorization", &*bearer(token)), ("content-type", "application/x-ndjson")];
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    ask(Method::POST, &url, &headers, body).expect("an answer")
}

fn head_line(parent: Option<&str>) -> Value {
    json!({ "key": "header", "value": { "summary": "a commit", "parentCommit": parent } })
}

fn file_line(path: &str, content: &str) -> Value {
    let value = json!({ "path": path, "content": BASE64_STANDARD.encode(content), "encoding": "base64" });
    json!({ "key": "file", "value": value })
}

/// A Hub with the public data set `atlas/open`: a README and 3,000 bytes of a Parquet file.
fn with_open(options: Options) -> (Hub, Vec<u8>) {
    let hub = Hub::with(options);
    let large: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
    hub.push(
        "atlas",
        Kind::Dataset,
        "atlas/open",
        [("README.md", b"# Open\n".to_vec()), ("data/x.parquet", large.clone())],
    );
    (hub, large)
}

#[test]
fn a_regular_file_is_behind_a_redirect_within_the_host_and_an_lfs_object_behind_one_to_another() {
    let (hub, large) = with_open(Options::default());
    let resolve = format!("{}/datasets/atlas/open/resolve/main", hub.endpoint());
    let regular = get(&format!("{resolve}/README.md"), &[]);
    assert_eq!(regular.status, StatusCode::TEMPORARY_REDIRECT);
    assert!(regular.header("location").starts_with("/api/resolve-cache/"), "{}", regular.header("location"));
    let bytes = get(&format!("{}{}", hub.endpoint(), regular.header("location")), &[]);
    assert_eq!((bytes.status, &bytes.body[..]), (StatusCode::OK, &b"# Open\n"[..]));
    // What `git hash-object` says of it.
    assert_eq!(bytes.header("etag"), "\"dd3f4516b08dfa9bbb9b35f0e053bc912f57410b\"");

    let lfs = get(&format!("{resolve}/data/x.parquet"), &[]);
    let sha256 = format!("{:x}", HexOf(&Sha256::digest(&large)));
    assert_eq!((lfs.status, lfs.header("x-linked-size")), (StatusCode::FOUND, "3000"));
    assert_eq!(lfs.header("x-linked-etag"), format!("\"{sha256}\""));
    assert_eq!(lfs.header("x-repo-commit"), hub.repo(Kind::Dataset, "atlas/open").unwrap().branches["main"]);
    let location = lfs.header("location");
    assert!(location.starts_with("http://localhost:") && !location.contains("127.0.0.1"), "{location}");
    assert_eq!(get(location, &[]).body, large);
    assert_eq!(get(location.split('?').next().unwrap(), &[]).status, StatusCode::FORBIDDEN);
    for (range, wanted) in
        [("bytes=0-0", 0..1), ("bytes=10-19", 10..20), ("bytes=2990-", 2990..3000), ("bytes=-5", 2995..3000)]
    {
        let part = get(location, &[("range", range)]);
        assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &large[wanted.clone()]), "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {}-{}/3000", wanted.start, wanted.end - 1));
    }
    assert_eq!(get(location, &[("range", "bytes=3000-")]).status, StatusCode::RANGE_NOT_SATISFIABLE);
    let head = ask(Method::HEAD, location, &[], Body::empty()).unwrap();
    assert_eq!((head.header("content-length"), head.body.len()), ("3000", 0));
    // As at Amazon's: a signed address and a header are one too many, and the test hears of it.
    assert!(hub.leaks().is_empty());
    assert_eq!(get(location, &[("authorization", &bearer(Hub::TOKEN))]).status, StatusCode::BAD_REQUEST);
    assert_eq!(hub.leaks().len(), 1);
}

struct HexOf<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn git_blob(bytes: &[u8]) -> String {
    use sha1::Sha1;
    let mut whole = format!("blob {}\0", bytes.len()).into_bytes();
    whole.extend_from_slice(bytes);
    format!("{:x}", HexOf(&Sha1::digest(whole)))
}

#[test]
fn a_tree_comes_in_pages_with_folders_below_a_path_and_with_the_ids_that_git_would_give() {
    let (hub, large) = with_open(Options { page: 3, ..Options::default() });
    let files: Vec<(String, Vec<u8>)> = (0..5).map(|n| (format!("data/deep/{n}.txt"), vec![b'a' + n])).collect();
    hub.push("atlas", Kind::Dataset, "atlas/open", files.iter().map(|(path, bytes)| (&**path, bytes.clone())));
    let tree = |path: &str| {
        let mut url = format!("{}/api/datasets/atlas/open/tree/main{path}", hub.endpoint());
        let mut rows = Vec::new();
        for page in 0.. {
            let answer = get(&url, &[]);
            assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
            let found = answer.json().as_array().unwrap().clone();
            assert!(found.len() <= 3 && page < 10, "{found:?}");
            rows.extend(found);
            match answer.header("link").split_once(">; rel=\"next\"") {
                Some((next, _)) => next[1..].clone_into(&mut url),
                None => break,
            }
        }
        rows
    };
    let paths = |rows: &[Value]| -> Vec<String> {
        rows.iter().map(|row| format!("{} {}", row["type"].as_str().unwrap(), row["path"].as_str().unwrap())).collect()
    };
    assert_eq!(paths(&tree("")), ["directory data", "file .gitattributes", "file README.md"]);
    assert_eq!(paths(&tree("/data")), ["directory data/deep", "file data/x.parquet"]);
    let all = tree("?recursive=true");
    assert_eq!(all.len(), 10, "{all:?}");
    assert_eq!(paths(&tree("/data/deep?recursive=true")).len(), 5);
    assert_eq!(
        get(&format!("{}/api/datasets/atlas/open/tree/main/nowhere", hub.endpoint()), &[]).header("x-error-code"),
        "EntryNotFound"
    );
    let row = |path: &str| all.iter().find(|row| row["path"] == path).unwrap();
    assert_eq!(row("data/deep/0.txt")["oid"], git_blob(b"a"));
    let sha256 = format!("{:x}", HexOf(&Sha256::digest(&large)));
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 3000\n");
    assert_eq!(row("data/x.parquet")["oid"], git_blob(pointer.as_bytes()));
    assert_eq!(row("data/x.parquet")["lfs"], json!({ "oid": sha256, "size": 3000, "pointerSize": pointer.len() }));
}

#[test]
fn a_commit_on_a_stale_parent_or_with_an_object_that_was_never_sent_changes_nothing() {
    let (hub, _) = with_open(Options::default());
    let before = hub.repo(Kind::Dataset, "atlas/open").unwrap();
    let head = before.branches["main"].clone();
    let first = commit(&hub, Hub::TOKEN, &[head_line(Some(&head)), file_line("a.txt", "one")]);
    assert_eq!(first.status, StatusCode::OK);
    let second = commit(&hub, Hub::TOKEN, &[head_line(Some(&head)), file_line("a.txt", "two")]);
    assert_eq!(second.status, StatusCode::PRECONDITION_FAILED);
    let oid = "a".repeat(64);
    let lfs = json!({ "key": "lfsFile", "value": { "path": "b.parquet", "algo": "sha256", "oid": oid, "size": 9 } });
    let refused = commit(&hub, Hub::TOKEN, &[head_line(None), file_line("a.txt", "three"), lfs]);
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.header("x-error-message").contains("does not exist"));
    for path in ["../a.txt", "/a.txt", "a//b", ".git/config", "a/./b", ""] {
        let refused = commit(&hub, Hub::TOKEN, &[head_line(None), file_line(path, "x")]);
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(commit(&hub, Hub::READER, &[head_line(None), file_line("a.txt", "x")]).status, StatusCode::FORBIDDEN);
    let after = hub.repo(Kind::Dataset, "atlas/open").unwrap();
    assert_eq!(after.commits.len(), before.commits.len() + 1);
    assert_eq!(after.files("main")["a.txt"].text.as_deref(), Some(&b"one"[..]));
}

#[test]
fn what_one_may_not_see_does_not_exist_and_what_one_may_not_read_says_why() {
    let (hub, _) = with_open(Options::default());
    hub.push("atlas", Kind::Dataset, "atlas/hidden", [("README.md", b"# Hidden\n".to_vec())]);
    hub.push("atlas", Kind::Dataset, "lab/gated", [("README.md", b"# Gated\n".to_vec())]);
    hub.restrict(Kind::Dataset, "atlas/hidden", true, false);
    hub.restrict(Kind::Dataset, "lab/gated", false, true);
    let ask = |token: Option<&str>, path: &str| {
        let token = token.map(bearer);
        let headers: Vec<(&str, &str)> = token.iter().map(|token| ("authorization", &**token)).collect();
        let answer = get(&format!("{}{path}", hub.endpoint()), &headers);
        (answer.status.as_u16(), answer.header("x-error-code").to_owned())
    };
    let error = |status, code: &str| (status, code.to_owned());
    let hidden = "/datasets/atlas/hidden/resolve/main/README.md";
    assert_eq!(ask(None, hidden), error(401, "RepoNotFound"));
    assert_eq!(ask(Some(Hub::STRANGER), hidden), error(404, "RepoNotFound"));
    assert_eq!(ask(Some(Hub::READER), hidden), error(307, ""));
    assert_eq!(ask(Some("hf_wrong"), hidden), error(401, ""));
    assert_eq!(ask(None, "/datasets/atlas/nothing/resolve/main/README.md"), error(401, "RepoNotFound"));
    assert_eq!(ask(None, "/datasets/atlas/open/resolve/v9/README.md"), error(404, "RevisionNotFound"));
    assert_eq!(ask(None, "/datasets/atlas/open/resolve/main/nothing"), error(404, "EntryNotFound"));
    let gated = "/datasets/lab/gated/resolve/main/README.md";
    assert_eq!(ask(None, gated), error(401, "GatedRepo"));
    assert_eq!(ask(Some(Hub::STRANGER), gated), error(403, "GatedRepo"));
    assert_eq!(ask(Some(Hub::STRANGER), "/api/datasets/lab/gated"), error(200, ""));
    hub.admit("stranger", Kind::Dataset, "lab/gated");
    assert_eq!(ask(Some(Hub::STRANGER), gated), error(307, ""));
    hub.expire(Hub::TOKEN);
    assert_eq!(ask(Some(Hub::TOKEN), "/api/whoami-v2"), error(401, ""));
    hub.renew();
    assert_eq!(ask(Some(Hub::TOKEN), "/api/whoami-v2"), error(200, ""));
}

#[test]
fn repositories_and_tags_are_made_once() {
    let hub = Hub::start();
    let create = |token: &str, owner: &str| {
        let body = json!({ "name": "new", "organization": owner, "type": "dataset", "private": true });
        post(&hub, token, "/api/repos/create", &body).status.as_u16()
    };
    assert_eq!([create(Hub::TOKEN, "lab"), create(Hub::TOKEN, "lab"), create(Hub::RIVAL, "lab")], [200, 409, 409]);
    assert_eq!([create(Hub::TOKEN, "rival"), create(Hub::READER, "atlas")], [403, 403]);
    let made = hub.repo(Kind::Dataset, "lab/new").unwrap();
    assert!(made.private && made.files("main").contains_key(".gitattributes"));
    let tag = |name: &str, at: &str| {
        post(&hub, Hub::TOKEN, &format!("/api/datasets/lab/new/tag/{at}"), &json!({ "tag": name })).status.as_u16()
    };
    assert_eq!([tag("v1", "main"), tag("v1", "main"), tag("v2", "v1"), tag("v3", "nowhere")], [200, 409, 200, 404]);
    assert_eq!(hub.repo(Kind::Dataset, "lab/new").unwrap().tags["v2"], made.branches["main"]);
}

#[test]
fn every_fault_strikes_where_it_is_put_and_nowhere_else() {
    let (hub, large) = with_open(Options::default());
    let resolve = format!("{}/datasets/atlas/open/resolve/main/data/x.parquet", hub.endpoint());
    let location = get(&resolve, &[]).header("location").to_owned();
    let fetch = || ask(Method::GET, &location, &[], Body::empty());
    // The third of the requests that follow, once.
    hub.fail(Fault::new(Flaw::Status(429)).on(Part::Download).at(2));
    let found: Vec<u16> = (0..4).map(|_| fetch().unwrap().status.as_u16()).collect();
    assert_eq!((found, hub.struck()), (vec![200, 200, 429, 200], 1));
    hub.heal();
    hub.fail(Fault::new(Flaw::Status(500)).on(Part::Download).at(1).lasting());
    let found: Vec<u16> = (0..4).map(|_| fetch().unwrap().status.as_u16()).collect();
    assert_eq!((found, hub.struck()), (vec![200, 500, 500, 500], 3));
    hub.heal();
    let with = |flaw| {
        hub.heal();
        hub.fail(Fault::new(flaw));
        fetch().map(|answer| answer.body)
    };
    assert_eq!(with(Flaw::CutResponse), None);
    assert_eq!(with(Flaw::CutRequest), None);
    assert_eq!(with(Flaw::NoAnswer), None);
    assert_eq!(with(Flaw::Truncated).unwrap(), large[..1500]);
    let altered = with(Flaw::Altered).unwrap();
    assert_eq!(altered.iter().zip(&large).filter(|(a, b)| a != b).count(), 1);
    assert_eq!(fetch().unwrap().body, large);
    // What is cut on its way in is not done; what is only not answered is.
    let line = [head_line(None), file_line("late.txt", "late")];
    let url = format!("{}/api/datasets/atlas/open/commit/main", hub.endpoint());
    let send =
        || ask(Method::POST, &url, &[("authorization", &bearer(Hub::TOKEN))], format!("{}\n{}\n", line[0], line[1]));
    let there = || hub.repo(Kind::Dataset, "atlas/open").unwrap().files("main").contains_key("late.txt");
    hub.heal();
    hub.fail(Fault::new(Flaw::CutRequest).on(Part::Commit));
    assert!(send().is_none() && !there());
    hub.heal();
    hub.fail(Fault::new(Flaw::NoAnswer).on(Part::Commit));
    assert!(send().is_none() && there());
    hub.heal();
    hub.fail(Fault::new(Flaw::Expire).at(1));
    let whoami =
        || get(&format!("{}/api/whoami-v2", hub.endpoint()), &[("authorization", &bearer(Hub::TOKEN))]).status.as_u16();
    assert_eq!([whoami(), whoami(), whoami()], [200, 401, 401]);
}

#[test]
fn the_store_asks_for_a_token_of_its_own_that_may_write() {
    let (hub, _) = with_open(Options::default());
    let token = |token: &str, scope: &str| {
        let url = format!("{}/api/datasets/atlas/open/xet-{scope}-token/main", hub.endpoint());
        get(&url, &[("authorization", &bearer(token))])
    };
    assert_eq!(token(Hub::READER, "write").status, StatusCode::FORBIDDEN);
    let read = token(Hub::READER, "read").json();
    let place = format!("{}/v1/xorbs/default/{}", read["casUrl"].as_str().unwrap(), "0".repeat(64));
    let upload = |secret: &str| {
        let answer = ask(Method::POST, &place, &[("authorization", &bearer(secret))], "not a xorb");
        answer.unwrap().status
    };
    assert_eq!(upload("xet_unknown"), StatusCode::UNAUTHORIZED);
    assert_eq!(upload(read["accessToken"].as_str().unwrap()), StatusCode::UNAUTHORIZED);
    let write = token(Hub::TOKEN, "write").json();
    // Let in, and found to be no xorb by the simulation itself.
    assert_eq!(upload(write["accessToken"].as_str().unwrap()), StatusCode::INTERNAL_SERVER_ERROR);
}
