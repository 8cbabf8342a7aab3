//! Where the Hub is, where its cache lies and who asks: the variables that Python's `huggingface_hub` reads, read as it does.

use std::{env, fmt, path::PathBuf, sync::RwLock};

/// What the environment says of the Hub.
pub(super) struct Environment {
    /// Base address, without the last slash.
    pub endpoint: String,
    /// The folder that `huggingface_hub` calls `HF_HUB_CACHE`.
    pub cache: PathBuf,
    /// Who asks.
    pub token: Option<Token>,
    /// Whether only the cache may be used.
    pub offline: bool,
}

/// A token and where it was found. It has no text form but a mark.
pub(super) struct Token {
    secret: String,
    /// A variable or a file, for messages.
    pub found_in: String,
}

impl Token {
    /// The secret itself, for nothing but the header of a request.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)
    }
}

/// What stands in the place of a secret.
const MARK: &str = "[token]";

/// Every secret that this process has read: none may leave it but in a request's header.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// A text without secrets: tokens that were read, and whatever follows `Bearer` or begins like a token of the Hub. Servers and
/// libraries may repeat a request in their errors, so all that is printed or logged goes through here.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut clean = secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MARK));
    for (start, shortest) in [("Bearer ", 1), ("hf_", 20)] {
        let mut from = 0;
        while let Some(at) = clean[from..].find(start).map(|at| from + at) {
            let word = clean[at + start.len()..]
                .find(|c: char| !c.is_ascii_alphanumeric() && !"-._~+/=".contains(c))
                .map_or(clean.len(), |length| at + start.len() + length);
            from = at + start.len();
            if word - from >= shortest {
                let begin = if start == "hf_" { at } else { from };
                clean.replace_range(begin..word, MARK);
                from = begin + MARK.len();
            }
        }
    }
    clean
}

impl Environment {
    /// Reads the variables. `offline` is what a command's option says; either is enough.
    pub fn read(offline: bool) -> Self {
        let home = home();
        let cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(variable);
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.map_or_else(|| home.join("hub"), |path| expanded(&path)),
            token: token(&home),
            offline: offline || ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(switched_on),
        }
    }

    /// The endpoint as it may be shown: a user and a password in it are nobody else's.
    pub fn shown_endpoint(&self) -> String {
        match (self.endpoint.split_once("://"), self.endpoint.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => self.endpoint.clone(),
        }
    }
}

/// `HF_HOME`, else `XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`.
fn home() -> PathBuf {
    let caches = || variable("XDG_CACHE_HOME").map_or_else(|| expanded("~/.cache"), |path| expanded(&path));
    variable("HF_HOME").map_or_else(|| caches().join("huggingface"), |path| expanded(&path))
}

/// `HF_TOKEN`, else the file that `HF_TOKEN_PATH` names, else the file that `hf auth login` writes.
fn token(home: &std::path::Path) -> Option<Token> {
    if switched_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    let named = variable("HF_TOKEN_PATH").map(|path| expanded(&path));
    let file = named.unwrap_or_else(|| home.join("token"));
    let of_variable = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
        .into_iter()
        .find_map(|name| Some((clean(&variable(name)?)?, format!("the variable {name}"))));
    let of_file = || Some((clean(&std::fs::read_to_string(&file).ok()?)?, format!("the file {}", file.display())));
    let (secret, found_in) = of_variable.or_else(of_file)?;
    SECRETS.write().unwrap_or_else(std::sync::PoisonError::into_inner).push(secret.clone());
    Some(Token { secret, found_in })
}

/// A token without the line break that editors and `echo` add.
fn clean(text: &str) -> Option<String> {
    let token: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn switched_on(name: &str) -> bool {
    variable(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
}

/// A path with `~` and `$NAME` in it, which a shell leaves alone between quotation marks.
fn expanded(path: &str) -> PathBuf {
    let user = env::var("HOME").unwrap_or_else(|_| "/tmp".to_owned());
    let path = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{user}{rest}"),
        _ => path.to_owned(),
    };
    let mut parts = path.split('$');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = match part.strip_prefix('{').and_then(|part| part.split_once('}')) {
            Some(braced) => braced,
            None => part.split_at(part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len())),
        };
        match env::var(name) {
            Ok(value) => whole.extend([value.as_str(), rest]),
            Err(_) => whole.extend(["$", part]),
        }
    }
    PathBuf::from(whole)
}
