//! What goes wrong on purpose: the n-th request of some part of the Hub is answered badly or not at all.

use axum::http::Method;

/// Which of the two hosts was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// `127.0.0.1`: the Hub.
    Hub,
    /// `localhost`, another port: objects and the content-addressed store, as on the Hub's delivery network.
    Storage,
}

/// A part of the Hub's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Whatever is asked.
    Any,
    /// Everything that is none of the three below.
    Api,
    /// `POST …/commit/…`.
    Commit,
    /// Bytes on their way in: LFS objects, xorbs, shards.
    Upload,
    /// Bytes on their way out: files, LFS objects, reconstructions, ranges of xorbs.
    Download,
}

impl Part {
    /// The part that a request belongs to; never [`Part::Any`].
    pub fn of(host: Host, method: &Method, path: &str) -> Self {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match host {
            Host::Storage if reads => Self::Download,
            Host::Storage => Self::Upload,
            Host::Hub if *method == Method::POST && path.contains("/commit/") => Self::Commit,
            Host::Hub if reads && (path.contains("/resolve-cache/") || path.contains("/resolve/")) => Self::Download,
            Host::Hub => Self::Api,
        }
    }

    fn holds(self, part: Self) -> bool {
        self == Self::Any || self == part
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// This status and nothing done; 429 with `Retry-After`.
    Status(u16),
    /// The connection ends in the middle of the request's body (at once, where it has none): nothing done, no answer.
    CutRequest,
    /// All is done as asked, but the connection ends before the answer.
    NoAnswer,
    /// The connection ends in the middle of the answer's body.
    CutResponse,
    /// Half of the body, with the length of that half: it looks complete.
    Truncated,
    /// One bit of the body is another.
    Altered,
    /// One bit of the request's body is another.
    AlteredRequest,
    /// The token that asks is expired from now on.
    Expire,
    /// An error whose message repeats the token that was sent, as careless servers and proxies do.
    Repeat,
}

/// A flaw at a place.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    flaw: Flaw,
    part: Part,
    at: usize,
    lasting: bool,
}

impl Fault {
    /// At the very next request of any part, once.
    pub fn new(flaw: Flaw) -> Self {
        Self { flaw, part: Part::Any, at: 0, lasting: false }
    }

    /// Counts only requests of this part.
    pub fn on(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// After so many requests have gone well.
    pub fn at(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// And at every request after it.
    pub fn lasting(self) -> Self {
        Self { lasting: true, ..self }
    }
}

/// The faults that wait for their request.
#[derive(Default)]
pub struct Faults {
    armed: Vec<(Fault, usize)>,
    struck: usize,
}

impl Faults {
    pub fn arm(&mut self, fault: Fault) {
        self.armed.push((fault, 0));
    }

    pub fn clear(&mut self) {
        self.armed.clear();
        self.struck = 0;
    }

    /// How many requests went wrong since the last [`Self::clear`].
    pub fn struck(&self) -> usize {
        self.struck
    }

    /// Counts a request, and says what is wrong with it.
    pub fn next(&mut self, part: Part) -> Option<Flaw> {
        let mut found = None;
        for (fault, seen) in self.armed.iter_mut().filter(|(fault, _)| fault.part.holds(part)) {
            if *seen == fault.at || (fault.lasting && *seen > fault.at) {
                found = found.or(Some(fault.flaw));
            }
            *seen += 1;
        }
        self.struck += usize::from(found.is_some());
        found
    }
}
