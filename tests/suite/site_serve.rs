//! `site --serve` and `--zip`: this machine only, this folder only, and the same bytes every time.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use neuroglot::{
    atlas::Atlas,
    site::{self, Options},
};
use tempfile::TempDir;

use crate::{demo::committed, harness::bytes_below};

/// A served folder; dropped, the server ends.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
    outside: TempDir,
}

impl Server {
    fn new() -> Self {
        let outside = TempDir::new().unwrap();
        let folder = outside.path().join("site");
        fs::create_dir_all(folder.join("model")).unwrap();
        fs::write(outside.path().join("secret.txt"), "secret").unwrap();
        fs::write(folder.join("index.html"), "<p>home</p>".repeat(100)).unwrap();
        fs::write(folder.join("model/index.html"), "model").unwrap();
        fs::write(folder.join("model/a b.json"), "{}").unwrap();
        fs::write(folder.join("model/mask.safetensors"), [0, 255]).unwrap();
        fs::write(folder.join(".hidden"), "hidden").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(outside.path().join("secret.txt"), folder.join("link.txt")).unwrap();
        let (stop, (tell, told)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
        let ends = stop.clone();
        let thread = std::thread::spawn(move || site::serve(&folder, 0, &ends, |address| tell.send(address).unwrap()));
        Self { address: told.recv_timeout(Duration::from_secs(10)).unwrap(), stop, thread: Some(thread), outside }
    }

    /// Head and body of the answer to a raw request.
    fn ask(&self, request: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let cut = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
        let head = String::from_utf8(answer[..cut].to_vec()).unwrap();
        (head, answer.get(cut + 4..).unwrap_or_default().to_vec())
    }

    fn get(&self, path: &str, more: &str) -> (String, Vec<u8>) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost:1\r\n{more}Connection: close\r\n\r\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

#[test]
fn files_come_with_their_types_packed_and_known() {
    let server = Server::new();
    assert!(server.address.ip().is_loopback());
    for (path, kind, body) in [
        ("/model/index.html", "text/html; charset=utf-8", &b"model"[..]),
        ("/model/", "text/html; charset=utf-8", b"model"),
        ("/model/a%20b.json?x=1", "application/json", b"{}"),
        ("/model/mask.safetensors", "application/octet-stream", &[0, 255]),
    ] {
        let (head, found) = server.get(path, "");
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains(&format!("Content-Type: {kind}\r\n")),
            "{path}: {head}"
        );
        assert!(head.contains("X-Content-Type-Options: nosniff"));
        assert_eq!(found, body, "{path}");
    }
    let (head, packed) = server.get("/", "Accept-Encoding: br, gzip\r\n");
    assert!(head.contains("Content-Encoding: gzip"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "<p>home</p>".repeat(100));
    let tag = head.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap();
    let (head, body) = server.get("/", &format!("If-None-Match: {tag}\r\n"));
    assert!(head.starts_with("HTTP/1.1 304 ") && body.is_empty(), "{head}");
    let (head, _) = server.get("/model", "");
    assert!(head.starts_with("HTTP/1.1 301 ") && head.contains("Location: /model/"), "{head}");
    let (head, body) = server.ask("HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 1100") && body.is_empty(), "{head}");
}

#[test]
fn no_path_leaves_the_folder_and_no_other_host_is_served() {
    let server = Server::new();
    for path in [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/model/../../secret.txt",
        "/model/..%2f..%2fsecret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/link.txt",
        "/.hidden",
        "/model/%00",
        "/..%5csecret.txt",
        "/%zz",
        "/%c3%28",
        "secret.txt",
        "/nothing.html",
        &server.outside.path().join("secret.txt").display().to_string(),
    ] {
        let (head, body) = server.get(path, "");
        assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
        assert!(!String::from_utf8_lossy(&body).contains("secret"), "{path}");
    }
    for host in ["evil.example", "evil.example:80", "localhost.evil.example", ""] {
        let (head, _) = server.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 421 "), "{host}: {head}");
    }
    let (head, _) = server.ask("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("Connection: close"), "{head}");
    // What is no HTTP, or never ends, gets no answer, and the server goes on.
    assert!(server.ask("nonsense\r\n\r\n").0.is_empty());
    assert!(server.ask(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000))).0.is_empty());
    assert!(server.get("/", "").0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_zip_holds_the_whole_site_and_is_the_same_every_time() {
    let folder = TempDir::new().unwrap();
    let render = |name: &str| {
        let (place, zip) = (folder.path().join(name), folder.path().join(format!("{name}.zip")));
        let options = Options { locales: Some(vec!["en".to_owned()]), zip: Some(zip.clone()), ..Options::default() };
        site::render_with(&[Atlas::open(&committed()).unwrap()], &place, &options).unwrap();
        (place, fs::read(zip).unwrap())
    };
    let ((place, first), (_, second)) = (render("a"), render("b"));
    assert!(first == second, "two zips of one site differ");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&first)).unwrap();
    let mut unpacked = BTreeMap::new();
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).unwrap();
        let name = entry.enclosed_name().unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        unpacked.insert(name.strip_prefix("neuroglot-site").unwrap().to_owned(), bytes);
    }
    let mut there = bytes_below(&place);
    // The list of files that is written last, for the next rendering.
    there.retain(|path, _| unpacked.contains_key(path) || path != Path::new("neuroglot-site.txt"));
    assert_eq!(there.keys().collect::<Vec<_>>(), unpacked.keys().collect::<Vec<_>>());
    assert!(there == unpacked);
}
