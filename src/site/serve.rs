//! Looking at a site over HTTP before it is hosted: this machine only, files of one folder only, nothing but GET and HEAD.
//! In: a folder and a port. Out: responses with the types and the compression that a host would give.

use std::{
    fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};

/// Bytes of a request's head that are read at most.
const HEAD: u64 = 16_384;
/// How long a visitor may be silent.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often the server looks whether it is to end.
const PULSE: Duration = Duration::from_millis(20);
/// Connections served at a time; a browser opens six.
const CONNECTIONS: usize = 64;

/// Types by extension; a host would give the same.
const TYPES: &[(&str, &str)] = &[
    ("html", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("csv", "text/csv; charset=utf-8"),
    ("tsv", "text/tab-separated-values; charset=utf-8"),
    ("txt", "text/plain; charset=utf-8"),
    ("md", "text/markdown; charset=utf-8"),
    ("xml", "application/xml"),
    ("webmanifest", "application/manifest+json"),
    ("zip", "application/zip"),
];

/// Serves a folder on the loopback address until `stop` is set. Port 0 takes one that is free; `ready` is told which.
///
/// # Errors
/// When the folder does not exist or the port is taken.
pub fn serve(folder: &Path, port: u16, stop: &AtomicBool, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let root: Arc<Path> = folder.canonicalize()?.into();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    ready(listener.local_addr()?);
    let open = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) if open.load(Ordering::Relaxed) < CONNECTIONS => {
                let (root, open) = (root.clone(), open.clone());
                open.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    // A visitor that goes away is no fault of anyone's.
                    let _ = visit(&root, stream);
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            // Dropped: the browser asks again.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PULSE),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Answers the requests of one connection.
fn visit(root: &Path, stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let Some(request) = Request::read(&mut reader)? else { return Ok(()) };
        let answer = request.answer(root);
        answer.write(&mut writer, &request)?;
        if request.close {
            return Ok(());
        }
    }
}

/// What matters of a request.
#[derive(Default)]
struct Request {
    method: String,
    target: String,
    host: String,
    gzip: bool,
    close: bool,
    known: String,
}

impl Request {
    /// The next request; none when the visitor has hung up or does not speak HTTP.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = reader.take(HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            close: version != "HTTP/1.1",
            ..Self::default()
        };
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "host" => value.clone_into(&mut request.host),
                "accept-encoding" => request.gzip = value.split(',').any(|coding| coding.trim().starts_with("gzip")),
                "connection" => request.close |= value.eq_ignore_ascii_case("close"),
                "if-none-match" => value.clone_into(&mut request.known),
                // A body would be taken for the next request.
                "content-length" | "transfer-encoding" => request.close = true,
                _ => {}
            }
        }
        Ok(Some(request))
    }

    fn answer(&self, root: &Path) -> Answer {
        if self.method != "GET" && self.method != "HEAD" {
            return Answer::plain("405 Method Not Allowed", "only GET and HEAD\n");
        }
        // A page elsewhere that has its own name point to this machine must not read what stands here.
        let host = self.host.rsplit_once(':').map_or(self.host.as_str(), |(host, _)| host);
        if !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            return Answer::plain("421 Misdirected Request", "this server answers to localhost only\n");
        }
        let path = self.target.split(['?', '#']).next().unwrap_or_default();
        let Some(place) = place(root, path) else { return Answer::missing(root) };
        if place.is_dir() {
            if !path.ends_with('/') {
                return Answer { location: Some(format!("{path}/")), ..Answer::plain("301 Moved Permanently", "") };
            }
            return Answer::file(&place.join("index.html")).unwrap_or_else(|| Answer::missing(root));
        }
        Answer::file(&place).unwrap_or_else(|| Answer::missing(root))
    }
}

/// The file that a path names, if it lies in the folder: no way up, no link that leads out, nothing hidden.
fn place(root: &Path, path: &str) -> Option<PathBuf> {
    let decoded = decoded(path.strip_prefix('/')?)?;
    let relative = Path::new(&decoded);
    let plain = |part: Component| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    };
    if decoded.contains(['\\', '\0']) || decoded.contains("//") || !relative.components().all(plain) {
        return None;
    }
    let place = root.join(relative).canonicalize().ok()?;
    place.starts_with(root).then_some(place)
}

/// A path without its percent signs; none where they are not those of UTF-8.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// An answer.
struct Answer {
    status: &'static str,
    kind: &'static str,
    location: Option<String>,
    tag: String,
    body: Vec<u8>,
}

impl Answer {
    fn plain(status: &'static str, text: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", location: None, tag: String::new(), body: text.into() }
    }

    /// The site's own page for what is not there, as hosts use it.
    fn missing(root: &Path) -> Self {
        let page = Self::file(&root.join("404.html"));
        page.map_or_else(
            || Self::plain("404 Not Found", "no such file in this site\n"),
            |page| Self { status: "404 Not Found", tag: String::new(), ..page },
        )
    }

    fn file(place: &Path) -> Option<Self> {
        let body = fs::read(place).ok()?;
        let extension = place.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let kind =
            TYPES.iter().find(|(known, _)| *known == extension).map_or("application/octet-stream", |(_, kind)| kind);
        let tag = format!("\"{}\"", &crate::output::sha256(&body)[..16]);
        Some(Self { status: "200 OK", kind, location: None, tag, body })
    }

    fn write(mut self, writer: &mut impl Write, request: &Request) -> io::Result<()> {
        if !self.tag.is_empty() && request.known == self.tag {
            self.status = "304 Not Modified";
            self.body.clear();
        }
        let text = self.kind.starts_with("text/") || self.kind.ends_with("json") || self.kind.ends_with("xml");
        let packed = text && request.gzip && self.body.len() > 256;
        if packed {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&self.body)?;
            self.body = encoder.finish()?;
        }
        let mut head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-cache\r\nVary: Accept-Encoding\r\n",
            self.status,
            self.kind,
            self.body.len()
        );
        for (name, value) in
            [("ETag", Some(&self.tag).filter(|tag| !tag.is_empty())), ("Location", self.location.as_ref())]
        {
            if let Some(value) = value.filter(|value| !value.contains(['\r', '\n'])) {
                head.extend([name, ": ", value, "\r\n"]);
            }
        }
        if packed {
            head += "Content-Encoding: gzip\r\n";
        }
        head += if request.close { "Connection: close\r\n\r\n" } else { "\r\n" };
        writer.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            writer.write_all(&self.body)?;
        }
        writer.flush()
    }
}
