//! A Hugging Face hub on loopback: the API's listing, `resolve` with its headers, and a file store of another origin that large
//! files are sent on to. Tests twist single answers.
#![allow(dead_code, reason = "each test uses what it needs")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::common::daemon::{root, vtagd};

pub const REPO: &str = "acme/clip-tiny";
pub const COMMIT: &str = "1111111111111111111111111111111111111111";

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether the file store got it, not the hub.
    pub store: bool,
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// How many with this method and path came before.
    pub before: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Another answer than the right one.
pub enum Twist {
    /// Status line, headers, body.
    Answer(&'static str, String, Vec<u8>),
    /// So many bytes of the right body, then the connection is lost.
    Cut(usize),
    /// So many bytes of the right body, then nothing any more until the test ends.
    Hang(usize),
    /// Another body under the right headers.
    Body(Vec<u8>),
    /// The right body, and then more without an end, with no length told.
    Endless,
    /// The whole file although a part was asked for.
    Whole,
}

type Rule = Box<dyn Fn(&Seen) -> Option<Twist> + Send + Sync>;

/// What a repository holds.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Who asks must send this token.
    pub token: Option<String>,
    /// The listing has no sizes and hashes, as some mirrors'.
    pub bare: bool,
    /// Neither has an answer.
    pub mute: bool,
    /// Revision to commit; `main` is [`COMMIT`].
    pub revisions: BTreeMap<String, String>,
    /// Replaces the listing's `siblings`.
    pub siblings: Option<Value>,
}

impl Repository {
    pub fn of(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Self { files, ..Self::default() }
    }

    /// A conformance checkpoint without its reference answers.
    pub fn checkpoint(name: &str) -> Self {
        let folder = root().join("tests/conformance/checkpoints").join(name);
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if !name.starts_with("expected") {
                files.insert(name, fs::read(entry.path()).unwrap());
            }
        }
        Self { files, ..Self::default() }
    }
}

struct Shared {
    repository: Mutex<Repository>,
    seen: Mutex<Vec<Seen>>,
    rule: Mutex<Rule>,
    store: SocketAddr,
    stop: AtomicBool,
    /// Connections that hang.
    hanging: Mutex<Vec<TcpStream>>,
}

/// A running hub and its file store.
pub struct Hub {
    shared: Arc<Shared>,
    pub hub: SocketAddr,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Hub {
    pub fn start(repository: Repository) -> Self {
        let listeners = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let [hub, store] = [0, 1].map(|n: usize| listeners[n].local_addr().unwrap());
        let shared = Arc::new(Shared {
            repository: Mutex::new(repository),
            seen: Mutex::default(),
            rule: Mutex::new(Box::new(|_| None)),
            store,
            stop: AtomicBool::new(false),
            hanging: Mutex::default(),
        });
        let threads = listeners
            .into_iter()
            .enumerate()
            .map(|(n, listener)| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        if shared.stop.load(Ordering::Acquire) {
                            return;
                        }
                        let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                        std::thread::spawn(move || {
                            // A client that leaves early is no failure of the server's.
                            let _ = shared.serve(stream, n == 1);
                        });
                    }
                })
            })
            .collect();
        Self { shared, hub, threads }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.hub)
    }

    pub fn repository(&self) -> MutexGuard<'_, Repository> {
        self.shared.repository.lock().unwrap()
    }

    /// From now on answers are twisted by `rule`.
    pub fn twist(&self, rule: impl Fn(&Seen) -> Option<Twist> + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// Everything that was asked since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    /// Whether a connection hangs, which means that its client has what it was sent.
    pub fn hangs(&self) -> bool {
        !self.shared.hanging.lock().unwrap().is_empty()
    }

    /// `vtagd model pull REPO` against this hub, with a cache and a home of its own in `folder`.
    pub fn pull(&self, folder: &Path) -> Command {
        let mut command = self.vtagd(folder);
        command.args(["model", "pull", REPO]);
        command
    }

    /// `vtagd` that knows this hub, with a cache and a home of its own in `folder`.
    pub fn vtagd(&self, folder: &Path) -> Command {
        let mut command = vtagd(folder);
        for name in [
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN",
            "XDG_CACHE_HOME",
            "HTTP_PROXY",
            "http_proxy",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", self.url()).env("HF_HOME", folder.join("hf"));
        command
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for stream in self.shared.hanging.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for address in [self.hub, self.shared.store] {
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

pub fn git_sha1(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    format!("{:x}", hasher.finalize())
}

/// As `.gitattributes` of model repositories have it.
pub fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".onnx", "tokenizer.json"].iter().any(|end| name.ends_with(end))
}

impl Shared {
    fn serve(&self, stream: TcpStream, store: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
        let Some(first) = lines.next() else { return Ok(()) };
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let headers = lines.by_ref().take_while(|l| !l.is_empty());
        let headers = headers.filter_map(|l| l.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())));
        let mut seen = Seen { store, method, path, headers: headers.collect(), before: 0 };
        {
            let mut all = self.seen.lock().unwrap();
            seen.before = all.iter().filter(|s| (&s.method, &s.path) == (&seen.method, &seen.path)).count();
            all.push(seen.clone());
        }
        let twist = (self.rule.lock().unwrap())(&seen);
        let (status, headers, body) = match twist {
            Some(Twist::Answer(status, headers, body)) => {
                return send(&stream, &seen, status, &headers, &body, body.len());
            }
            Some(Twist::Whole) => self.answer(&Seen { headers: BTreeMap::new(), ..seen.clone() }),
            _ => self.answer(&seen),
        };
        match twist {
            Some(Twist::Cut(most)) => send(&stream, &seen, status, &headers, &body[..most.min(body.len())], body.len()),
            Some(Twist::Hang(most)) => {
                send(&stream, &seen, status, &headers, &body[..most.min(body.len())], body.len())?;
                self.hanging.lock().unwrap().push(stream.try_clone()?);
                // Until the client or the test ends.
                let _ = (&stream).read(&mut [0]);
                Ok(())
            }
            Some(Twist::Body(other)) => send(&stream, &seen, status, &headers, &other, other.len()),
            Some(Twist::Endless) => {
                write!(&stream, "HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n")?;
                loop {
                    (&stream).write_all(&body)?;
                }
            }
            _ => send(&stream, &seen, status, &headers, &body, body.len()),
        }
    }

    /// The right answer: status, headers, body.
    fn answer(&self, seen: &Seen) -> (&'static str, String, Vec<u8>) {
        let repository = self.repository.lock().unwrap();
        let refuse =
            |status, code: &str| (status, format!("X-Error-Code: {code}\r\nX-Error-Message: no\r\n"), Vec::new());
        let path = seen.path.split('?').next().unwrap();
        if seen.store {
            let wanted = repository.files.values().find(|bytes| path == format!("/{}", sha256(bytes)));
            let Some(bytes) = wanted else { return refuse("403 Forbidden", "") };
            return part(seen, bytes, "ETag: \"0123-4\"\r\n".into());
        }
        if let Some(token) = &repository.token {
            match seen.header("authorization") {
                Some(given) if given == format!("Bearer {token}") => {}
                Some(_) => return refuse("401 Unauthorized", ""),
                None => return refuse("401 Unauthorized", "GatedRepo"),
            }
        }
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
            let revision = revision.replace("%2F", "/");
            let known = |r: &str| (r == "main" || r == COMMIT).then(|| COMMIT.to_owned());
            let Some(commit) = repository.revisions.get(&revision).cloned().or_else(|| known(&revision)) else {
                return refuse("404 Not Found", "RevisionNotFound");
            };
            let siblings = repository.siblings.clone().unwrap_or_else(|| listing(&repository));
            let body = json!({"id": REPO, "sha": commit, "private": false, "siblings": siblings}).to_string();
            return ("200 OK", "Content-Type: application/json\r\n".into(), body.into_bytes());
        }
        let resolved = path.strip_prefix(&format!("/{REPO}/resolve/")).and_then(|rest| rest.split_once('/'));
        let Some((commit, file)) = resolved else { return refuse("404 Not Found", "RepoNotFound") };
        let Some(bytes) = repository.files.get(file) else { return refuse("404 Not Found", "EntryNotFound") };
        if is_large(file) {
            let hash = sha256(bytes);
            let tag = if repository.mute { String::new() } else { format!("X-Linked-Etag: \"{hash}\"\r\n") };
            let headers = format!(
                "X-Repo-Commit: {commit}\r\n{tag}X-Linked-Size: {}\r\nLocation: http://{}/{hash}?signature=key\r\n",
                bytes.len(),
                self.store
            );
            return ("302 Found", headers, b"Found. Redirecting".to_vec());
        }
        let tag = if repository.mute { String::new() } else { format!("ETag: W/\"{}\"\r\n", git_sha1(bytes)) };
        part(seen, bytes, format!("X-Repo-Commit: {commit}\r\n{tag}"))
    }
}

fn listing(repository: &Repository) -> Value {
    let entries = repository.files.iter().map(|(name, bytes)| match (repository.bare, is_large(name)) {
        (true, _) => json!({"rfilename": name}),
        (_, true) => json!({"rfilename": name, "size": bytes.len(), "blobId": git_sha1(b"pointer"),
            "lfs": {"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130}}),
        _ => json!({"rfilename": name, "size": bytes.len(), "blobId": git_sha1(bytes)}),
    });
    entries.collect()
}

/// The whole, or what `Range: bytes=N-` asks for.
fn part(seen: &Seen, bytes: &[u8], headers: String) -> (&'static str, String, Vec<u8>) {
    let from = seen.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        None => ("200 OK", headers, bytes.to_vec()),
        Some(from) if from < bytes.len() => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            ("206 Partial Content", headers + &range, bytes[from..].to_vec())
        }
        Some(_) => ("416 Range Not Satisfiable", headers, Vec::new()),
    }
}

fn send(
    mut stream: &TcpStream,
    seen: &Seen,
    status: &str,
    headers: &str,
    body: &[u8],
    length: usize,
) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
    if seen.method != "HEAD" {
        stream.write_all(body)?;
    }
    stream.flush()
}

/// The folder that was printed.
pub fn folder(output: &Output) -> std::path::PathBuf {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one line is printed: {text}");
    text.trim_end().into()
}

/// Its exit code and what it said.
pub fn failure(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.stdout.is_empty(), "nothing is printed as a result: {text}");
    (output.status.code().unwrap_or_else(|| panic!("killed: {text}")), text)
}

/// Names of all files below `folder`, relative and sorted.
pub fn tree(folder: &Path) -> Vec<String> {
    fn walk(at: &Path, top: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(at).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), top, found);
            } else {
                found.push(entry.path().strip_prefix(top).unwrap().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// What was asked of files' contents: GET requests of the hub for small ones and of the store for large ones.
pub fn fetched(seen: &[Seen]) -> Vec<&Seen> {
    seen.iter().filter(|s| s.method == "GET" && !s.path.starts_with("/api/")).collect()
}
