//! Asking a running daemon: a small HTTP client for its API. In: where it is and its token; out: JSON, or why not in one line.
//!
//! On the caller's thread, one connection for all questions, ten seconds for all of them, thirty for a change, a minute for a search.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::{DEFAULT_CONFIG, complain, plain};
use crate::config::{self, Reach};
use crate::platform::secret::Secret;
use crate::platform::tls::{self, Trust};
use crate::platform::userinfo;
use crate::yaml::address;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the daemon takes to say that a change is still under way.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The first one may wait until the text tower is loaded.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Whether anybody listens shows at once, or over a network soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The route that takes a picture or a text, either of which may be wrong.
const SEARCH: &str = "/api/v1/search";
/// A daemon that has been asked too often says when to come back: so long is waited at most, within the time for all questions.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Largest answer that is read.
const MOST: usize = 32 << 20;

/// Which daemon is asked.
#[derive(Debug, clap::Args)]
pub struct DaemonArgs {
    /// Configuration file of the daemon, for its `api`: address, token and certificate.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The daemon's address, such as http://127.0.0.1:8642; the configuration is not read then.
    #[arg(long, conflicts_with = "config")]
    url: Vec<Url>,
    /// With --url: the file that holds the token.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// With --url: the environment variable that holds the token.
    #[arg(long, value_name = "NAME", requires = "url", conflicts_with = "token_file")]
    token_env: Option<String>,
    /// With --url: PEM file of certificate authorities, instead of the system's.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
}

impl DaemonArgs {
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Whether it is a daemon that is meant, and no configuration.
    pub fn has_url(&self) -> bool {
        !self.url.is_empty()
    }

    /// The daemon that they name.
    ///
    /// # Errors
    /// When they name none.
    pub fn daemon(&self) -> Result<Daemon, Unanswered> {
        let [url] = &self.url[..] else {
            if self.has_url() {
                let why = "several daemons cannot be asked that: give --url once";
                return Err(Unanswered::Input(why.to_owned()));
            }
            let reach = config::reach_of(&self.config).map_err(|why| {
                let remedy = "; name the daemon's configuration with -c, or its address with --url";
                Unanswered::Input(if why.contains("--url") { why } else { why + remedy })
            })?;
            return Daemon::of(reach, &self.config);
        };
        self.daemon_at(url)
    }

    /// Those that --url names, if there are several.
    ///
    /// # Errors
    /// When one of them cannot be asked.
    pub fn several(&self) -> Result<Option<Vec<Daemon>>, Unanswered> {
        if self.url.len() < 2 {
            return Ok(None);
        }
        self.url.iter().map(|url| self.daemon_at(url)).collect::<Result<_, _>>().map(Some)
    }

    fn daemon_at(&self, url: &Url) -> Result<Daemon, Unanswered> {
        let token = match (&self.token_file, &self.token_env) {
            (Some(file), _) => {
                let fault = |error| Unanswered::Input(format!("--token-file: {} {error}", file.display()));
                Some(Secret::read(file).map_err(fault)?)
            }
            (None, Some(name)) => match std::env::var(name) {
                Ok(token) if !token.is_empty() => Some(Secret::new(token)),
                _ => return Err(Unanswered::Input(format!("--token-env: the environment variable {name} is not set"))),
            },
            (None, None) => None,
        };
        if token.is_some() && url.scheme() == "http" && address::is_elsewhere(url.host()) {
            let host = url.host_str().unwrap_or_default();
            let why =
                "goes to another machine without encryption: whoever is on the way can read the token; use https://";
            // With stderr closed there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "warning: --url: {host} {why}");
        }
        Daemon::at(url, token, self.ca.clone(), "--url")
            .map_err(|why| Unanswered::Input(format!("{why}; write --url http://HOST:PORT")))
    }
}

/// A daemon.
pub struct Daemon {
    host: String,
    port: u16,
    /// Before the API's own paths, where a gateway serves it below one; begins with a slash, or is empty.
    base: String,
    tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
    token: Option<Secret>,
    /// Where its address comes from, for messages.
    known_from: String,
}

/// What a question comes to: an answer, or that it is to be asked again after a while.
enum Reply {
    Answer(Value),
    Later(Duration),
}

/// Why it did not answer.
#[derive(Debug)]
pub enum Unanswered {
    /// What was asked for is wrong.
    Input(String),
    Failed(String),
}

impl Unanswered {
    /// Tells a person; the exit code.
    pub fn complain(&self) -> u8 {
        let (why, code) = match self {
            Self::Input(why) => (why, 2),
            Self::Failed(why) => (why, 1),
        };
        complain(why);
        code
    }
}

impl Daemon {
    /// The one that `reach` of the configuration in `file` is for.
    ///
    /// # Errors
    /// When it has no fixed port, or its certificate cannot be read.
    pub fn of(reach: Reach, file: &Path) -> Result<Self, Unanswered> {
        let (ip, port) = (reach.listen.ip(), reach.listen.port());
        if port == 0 {
            let why = "lets the system choose the port: see the log of the daemon, and name it with --url";
            return Err(Unanswered::Input(format!("`api.listen` of {} {why}", file.display())));
        }
        // Who listens everywhere listens here.
        let ip = match ip {
            std::net::IpAddr::V4(v4) if v4.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let name = ServerName::IpAddress(ip.into());
        let tls = reach.cert.as_deref().map(tls::pinned).transpose().map_err(Unanswered::Input)?;
        Ok(Self {
            host: ip.to_string(),
            port,
            base: String::new(),
            tls: tls.map(|tls| (tls, name)),
            token: reach.token,
            known_from: format!("`api.listen` of {}", file.display()),
        })
    }

    /// The one at `url`, which is trusted as `ca` says, or as the system does. `known_from`: where that stands.
    ///
    /// # Errors
    /// When it is no such address, or the certificates cannot be read.
    pub fn at(url: &Url, token: Option<Secret>, ca: Option<PathBuf>, known_from: &str) -> Result<Self, String> {
        let input = str::to_owned;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(input("a URL with credentials is visible to every user of this machine"));
        }
        if userinfo::has_at_behind_host(url) {
            return Err(input("that URL has an `@` behind its host"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(input("that URL has no host"));
        };
        let bare = match &host {
            Host::Domain(name) => (*name).to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let tls = match url.scheme() {
            "http" => None,
            "https" => {
                let name = ServerName::try_from(bare.clone()).map_err(|_| input("that host has no name for TLS"))?;
                Some((tls::client(&Trust { ca, identity: None })?, name))
            }
            _ => return Err(input("that is neither http:// nor https://")),
        };
        let base = url.path().trim_end_matches('/').to_owned();
        Ok(Self { host: bare, port, base, tls, token, known_from: known_from.to_owned() })
    }

    /// Its address, for a person.
    pub fn address(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.base)
    }

    /// Host and port.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Its answers to a GET of each of `paths`.
    ///
    /// # Errors
    /// Why there is none to one of them.
    pub fn get<const N: usize>(&self, paths: [&str; N]) -> Result<[Value; N], Unanswered> {
        let mut answers = self.get_all(&paths)?.into_iter();
        Ok(std::array::from_fn(|_| answers.next().unwrap_or_default()))
    }

    /// The same for paths that are answered with an error while the daemon starts.
    ///
    /// # Errors
    /// As [`get`](Self::get), and that it is not ready.
    pub fn get_ready(&self, paths: &[&str]) -> Result<Vec<Value>, Unanswered> {
        let answers = self.get_all(paths)?;
        match answers.iter().find_map(|answer| answer["error"].as_str()) {
            Some(why) => Err(Unanswered::Failed(format!("{}: {}", self.address(), plain(why)))),
            None => Ok(answers),
        }
    }

    /// The same for any number of paths.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_all(&self, paths: &[&str]) -> Result<Vec<Value>, Unanswered> {
        self.answers(&Method::GET, paths, ANSWER_TIMEOUT)
    }

    /// Its answer to a POST to `path`, for which it has time.
    ///
    /// # Errors
    /// Why nothing was changed, or why it is not known.
    pub fn post(&self, path: &str) -> Result<Value, Unanswered> {
        self.answers(&Method::POST, &[path], CHANGE_TIMEOUT)
            .map(|answers| answers.into_iter().next().unwrap_or_default())
    }

    /// Whether anybody listens there.
    pub fn listens(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.is_ok_and(|runtime| {
            let connect = async {
                tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((self.host.as_str(), self.port))).await
            };
            matches!(runtime.block_on(connect), Ok(Ok(_)))
        })
    }

    /// What its history has for `query`, which begins with `?`, and for a picture of a media type.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn search(&self, query: &str, picture: Option<(&'static str, Vec<u8>)>) -> Result<Value, Unanswered> {
        let path = format!("{SEARCH}{query}");
        let (method, body) = match picture {
            Some((kind, bytes)) => (Method::POST, Some((kind, Bytes::from(bytes)))),
            None => (Method::GET, None),
        };
        let answers = self.answers_to(&method, &[&path], body.as_ref(), SEARCH_TIMEOUT)?;
        let answer = answers.into_iter().next().unwrap_or_default();
        match answer["error"].as_str() {
            Some(why) => Err(Unanswered::Failed(format!("{}: {}", self.address(), plain(why)))),
            None => Ok(answer),
        }
    }

    fn answers(&self, method: &Method, paths: &[&str], timeout: Duration) -> Result<Vec<Value>, Unanswered> {
        self.answers_to(method, paths, None, timeout)
    }

    fn answers_to(
        &self,
        method: &Method,
        paths: &[&str],
        body: Option<&(&'static str, Bytes)>,
        timeout: Duration,
    ) -> Result<Vec<Value>, Unanswered> {
        let failed = |error: &dyn std::fmt::Display| Unanswered::Failed(format!("cannot ask: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
        runtime.block_on(async {
            tokio::time::timeout(timeout, self.ask(method, paths, body)).await.unwrap_or_else(|_| {
                Err(Unanswered::Failed(format!("{} does not answer within {timeout:?}", self.address())))
            })
        })
    }

    /// Its answers, if it can be connected to soon: in three seconds; then it has ten for all of them.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn reached(&self, paths: &[&str]) -> Result<Vec<Value>, Unanswered> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let slow = |after: Duration| Unanswered::Failed(format!("{} does not answer within {after:?}", self.address()));
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected.map_err(|error| self.nobody(&error))?,
            Err(_) => return Err(slow(CONNECT_TIMEOUT)),
        };
        let answers = self.ask_over(stream, &Method::GET, paths, None);
        tokio::time::timeout(ANSWER_TIMEOUT, answers).await.unwrap_or_else(|_| Err(slow(ANSWER_TIMEOUT)))
    }

    fn nobody(&self, error: &std::io::Error) -> Unanswered {
        let (address, from) = (self.address(), &self.known_from);
        let remedy = "is the daemon running? `systemctl status vtagd` or its log says so";
        Unanswered::Failed(format!("nobody answers at {address} ({error}), which is {from}: {remedy}"))
    }

    async fn ask(
        &self,
        method: &Method,
        paths: &[&str],
        body: Option<&(&'static str, Bytes)>,
    ) -> Result<Vec<Value>, Unanswered> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| self.nobody(&error))?;
        self.ask_over(stream, method, paths, body).await
    }

    async fn ask_over(
        &self,
        stream: TcpStream,
        method: &Method,
        paths: &[&str],
        body: Option<&(&'static str, Bytes)>,
    ) -> Result<Vec<Value>, Unanswered> {
        match &self.tls {
            None => self.talk(stream, method, paths, body).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await.map_err(|error| {
                    let address = self.address();
                    let remedy =
                        "is `api.tls` on there, and has the daemon been reloaded since its certificate changed?";
                    Unanswered::Failed(format!("{address} is not trusted or speaks no TLS ({error}): {remedy}"))
                })?;
                self.talk(stream, method, paths, body).await
            }
        }
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: &Method,
        paths: &[&str],
        body: Option<&(&'static str, Bytes)>,
    ) -> Result<Vec<Value>, Unanswered> {
        let other = |error: hyper::Error| {
            Unanswered::Failed(format!("{} does not answer as vtagd does ({error})", self.address()))
        };
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(other)?;
        // Ends with the sender, at the latest with this runtime.
        tokio::spawn(connection);
        let mut answers = Vec::with_capacity(paths.len());
        for path in paths {
            let answer = loop {
                match self.question(&mut sender, method, path, body).await? {
                    Reply::Answer(answer) => break answer,
                    Reply::Later(wait) => tokio::time::sleep(wait).await,
                }
            };
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn question(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        method: &Method,
        path: &str,
        body: Option<&(&'static str, Bytes)>,
    ) -> Result<Reply, Unanswered> {
        let address = self.address();
        let other = |why: &dyn std::fmt::Display| {
            Unanswered::Failed(format!("{address} does not answer as vtagd does ({why})"))
        };
        let uri = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method).uri(uri).header(HOST, self.authority());
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| Unanswered::Input("the token holds a character that no header can carry".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some((kind, _)) = body {
            request = request.header(CONTENT_TYPE, *kind);
        }
        let body = body.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        let request = request.body(Full::new(body)).map_err(|error| other(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| other(&error))?;
        let status = answer.status();
        let later = answer.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(|error| other(&error))?.to_bytes();
        // Nothing was done yet, so a change can be asked for again too.
        if let Some(wait) = later.map(Duration::from_secs).filter(|wait| *wait <= MAX_WAIT)
            && status == StatusCode::TOO_MANY_REQUESTS
        {
            return Ok(Reply::Later(wait));
        }
        let answer = match status {
            StatusCode::UNAUTHORIZED if self.token.is_none() => Err(Unanswered::Input(format!(
                "{address} wants a token: name its configuration with -c, or the token with --token-file"
            ))),
            StatusCode::UNAUTHORIZED => Err(Unanswered::Input(format!(
                "{address} has another token: has the daemon been reloaded since it changed?"
            ))),
            // It says in the same words why it is not ready.
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE if method == Method::GET => {
                serde_json::from_slice(&body).map_err(|e| other(&e))
            }
            StatusCode::OK | StatusCode::ACCEPTED => serde_json::from_slice(&body).map_err(|e| other(&e)),
            // Who names a stream may err.
            StatusCode::NOT_FOUND if path.starts_with("/api/v1/streams/") => {
                let said: Value = serde_json::from_slice(&body).map_err(|e| other(&e))?;
                Err(Unanswered::Input(plain(said["error"].as_str().unwrap_or("no such stream"))))
            }
            status if status.is_client_error() && path.starts_with(SEARCH) => {
                let said: Value = serde_json::from_slice(&body).map_err(|e| other(&e))?;
                Err(Unanswered::Input(plain(said["error"].as_str().unwrap_or("it cannot be searched for"))))
            }
            status => {
                let said: Option<Value> = serde_json::from_slice(&body).ok();
                let said = said.and_then(|said| Some(plain(said["error"].as_str()?)));
                if let Some(why) = said.as_ref().filter(|_| method == Method::POST) {
                    return Err(Unanswered::Failed(format!("the daemon at {address} does not do it: {why}")));
                }
                Err(other(&said.unwrap_or_else(|| status.to_string())))
            }
        };
        answer.map(Reply::Answer)
    }
}
