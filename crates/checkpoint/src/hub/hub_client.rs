//! The hub's protocol over HTTP. In: names of repositories and files; out: answers with their facts, or one error that says
//! what to do. Blocks the caller's thread; an answer's body is read by the caller, at most as much as it wants.
//!
//! Redirects are followed here and not by the library: the token goes to the endpoint's own scheme, host and port and nowhere
//! else, and what is said about a file (hash, size, commit) counts only when the endpoint said it. What may go better
//! next time (a lost connection, 429, 5xx) is asked for again, a bounded number of times, with growing waits.

use std::io::Read;
use std::time::{Duration, SystemTime};

use tracing::warn;
use ureq::Agent;
use ureq::http::{HeaderMap, HeaderValue, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use url::Url;

use super::HubError;
use super::digest::Digest;
use super::hub_access::{HubSettings, HubToken, StopRequest};
use super::listing::{self, Entry, Listing};
use super::name::{Repo, shown};
use crate::probe_picture::Random;
use crate::rounding;

/// Until a connection stands, name look-up apart.
const CONNECT: Duration = Duration::from_secs(20);
/// A server or network that is silent for so long is taken for dead, and the connection is made anew.
const SILENCE: Duration = Duration::from_secs(60);
/// Most redirects of one request; a hub needs two (a renamed repository, then its file store).
const MOST_HOPS: usize = 6;
/// Longest wait that a server may ask for. Beyond it a person can decide better.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Waits between attempts. A hub that does not answer for a quarter of a minute is told to a person, who waits for it.
const WAITS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

/// A wait, a fifth longer or shorter, so that programs that began together do not ask together.
fn spread(wait: Duration, random: &mut Random) -> Duration {
    let unit = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
    wait.mul_f64(0.8 + 0.4 * unit)
}

/// Why an attempt failed.
pub(super) enum Failure {
    /// Another attempt may go better.
    Again {
        error: HubError,
        /// As the server asked.
        after: Option<Duration>,
        /// It brought enough to start counting attempts anew.
        moved: bool,
    },
    /// None will.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// An answer of the hub, or of the store it pointed to.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: ureq::Body,
    /// What the endpoint itself said about the file.
    pub(super) entry: Entry,
    /// The endpoint itself answered.
    own: bool,
}

/// A hub.
pub(super) struct Client<'a> {
    agent: Agent,
    /// There is somebody to trust.
    encrypts: bool,
    endpoint: Url,
    token: Option<HubToken>,
    repo: Repo,
    retries: u32,
    shutdown: &'a dyn StopRequest,
}

impl<'a> Client<'a> {
    /// # Errors
    /// [`HubError::NoCertificates`] where the endpoint is `https` and the system knows no authority; [`HubError::BadTls`].
    pub(super) fn new(
        settings: &HubSettings,
        repo: &Repo,
        retries: u32,
        shutdown: &'a dyn StopRequest,
    ) -> Result<Self, HubError> {
        let encrypts = settings.tls.is_some();
        if !encrypts && settings.endpoint.scheme() == "https" {
            return Err(HubError::NoCertificates);
        }
        if settings.tls.as_ref().is_some_and(|tls| !is_complete(tls)) {
            return Err(HubError::BadTls);
        }
        // With the default nothing is ever encrypted: see `send`.
        let tls = settings.tls.clone().unwrap_or_default();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            // A compressed answer has neither the size nor the hash of the file.
            .accept_encoding("identity")
            .user_agent(settings.agent.as_str())
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build();
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        if token.is_some() && endpoint.scheme() == "http" && !is_loopback(&endpoint) {
            warn!(target: "vtagd::model::hub::hub_client", host = %place(&endpoint), "HF_ENDPOINT is not encrypted: the token is sent for everyone on the way to read");
        }
        Ok(Self { agent: config.into(), encrypts, endpoint, token, repo: repo.clone(), retries, shutdown })
    }

    /// What the repository holds at `revision`.
    ///
    /// # Errors
    /// No such repository or revision; one that may not be read; a hub that cannot be reached or answers something else.
    pub(super) fn listing(&self, revision: &str) -> Result<Listing, HubError> {
        let mut url = self.address(&["api", "models"], &["revision", revision]);
        url.set_query(Some("blobs=true"));
        let bytes = self.persist("the list of files", &mut || {
            let answer = self.send(&url, false, None)?;
            let answer = self.expect(answer, revision, None)?;
            let mut bytes = Vec::new();
            let read = answer.body.into_reader().take(listing::MAX_LISTING_BYTES + 1).read_to_end(&mut bytes);
            read.map_err(|e| self.lost(&url, &e.to_string()))?;
            if bytes.len() as u64 > listing::MAX_LISTING_BYTES {
                let message = format!("is longer than {} MiB", listing::MAX_LISTING_BYTES >> 20);
                return Err(HubError::BadAnswer { what: "the list of files".into(), message }.into());
            }
            Ok(bytes)
        })?;
        Listing::read(&bytes)
    }

    /// Size and hash of a file, asked for by itself because the listing left them out.
    ///
    /// # Errors
    /// As [`Self::listing`]; [`HubError::NoHash`] for a hub that does not tell them.
    pub(super) fn entry(&self, commit: &str, file: &str) -> Result<Entry, HubError> {
        let url = self.file(commit, file);
        let entry = self.persist(file, &mut || {
            let answer = self.send(&url, true, None)?;
            Ok(self.expect(answer, commit, Some(file))?.entry)
        })?;
        if entry.size.is_none() || entry.digest.is_none() {
            return Err(HubError::NoHash { file: file.to_owned(), host: place(&self.endpoint) });
        }
        Ok(entry)
    }

    /// A file from byte `from` on: an answer of 200, 206 or 416.
    pub(super) fn open(&self, commit: &str, file: &str, from: u64) -> Result<Answer, Failure> {
        let answer = self.send(&self.file(commit, file), false, Some(from).filter(|from| *from > 0))?;
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE && from > 0 {
            return Ok(answer);
        }
        self.expect(answer, commit, Some(file))
    }

    /// Repeats `attempt` for as long as it makes sense.
    pub(super) fn persist<T>(
        &self,
        what: &str,
        attempt: &mut dyn FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut random = Random(u64::from(std::process::id()));
        let (mut left, mut tried) = (self.retries, 0);
        loop {
            if self.shutdown.is_requested() {
                return Err(HubError::Stopped);
            }
            let (error, after, moved) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, after, moved }) => (error, after, moved),
            };
            if moved {
                (left, tried) = (self.retries, 0);
            }
            if left == 0 || after.is_some_and(|after| after > MAX_WAIT) {
                return Err(error);
            }
            left -= 1;
            let wait = spread(WAITS[tried.min(WAITS.len() - 1)], &mut random).max(after.unwrap_or_default());
            tried += 1;
            warn!(target: "vtagd::model::hub::hub_client", what, %error, wait = ?rounding::duration(wait), "asking again");
            if self.shutdown.sleep(wait) {
                return Err(HubError::Stopped);
            }
        }
    }

    /// A connection that broke, to be tried again.
    pub(super) fn lost(&self, url: &Url, reason: &str) -> Failure {
        let error = HubError::Unreachable { host: place(url), reason: self.scrubbed(reason) };
        Failure::Again { error, after: None, moved: false }
    }

    /// As [`Self::lost`], for a body.
    pub(super) fn cut(&self, file: &str, reason: &str, moved: bool) -> Failure {
        let error = HubError::Cut { file: file.to_owned(), reason: self.scrubbed(reason) };
        Failure::Again { error, after: None, moved }
    }

    /// Sends one request and follows its redirects. With `facts`, only the headers matter.
    fn send(&self, url: &Url, facts: bool, from: Option<u64>) -> Result<Answer, Failure> {
        let (mut url, mut entry) = (url.clone(), Entry::default());
        for _ in 0..MOST_HOPS {
            // A redirect leads here from `http` too; ureq would panic.
            if url.scheme() == "https" && !self.encrypts {
                return Err(HubError::NoCertificates.into());
            }
            let own = self.is_own(&url);
            let mut request = if facts { self.agent.head(url.as_str()) } else { self.agent.get(url.as_str()) };
            if let Some(token) = self.token.as_ref().filter(|_| own) {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                    .map_err(|_| HubError::BadToken { place: "its place".into() })?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let answer = request.call().map_err(|e| self.failed(&url, &e))?;
            let (parts, body) = answer.into_parts();
            if own {
                note(&mut entry, &parts.headers, parts.status);
            }
            if !parts.status.is_redirection() || parts.status == StatusCode::NOT_MODIFIED {
                return Ok(Answer { status: parts.status, headers: parts.headers, body, entry, own });
            }
            let next = parts.headers.get(header::LOCATION).and_then(|v| v.to_str().ok()).and_then(|v| url.join(v).ok());
            let Some(next) = next.filter(|next| matches!(next.scheme(), "http" | "https")) else {
                let message = "sends on to no address".to_owned();
                return Err(HubError::BadAnswer { what: place(&url), message }.into());
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                let message = format!("sends on to {} without encryption", place(&next));
                return Err(HubError::BadAnswer { what: place(&url), message }.into());
            }
            // Whoever is next knows nothing about the file that counts.
            if facts && !self.is_own(&next) {
                return Ok(Answer { status: StatusCode::OK, headers: parts.headers, body, entry, own });
            }
            url = next;
        }
        let message = format!("sends on more than {MOST_HOPS} times");
        Err(HubError::BadAnswer { what: place(&url), message }.into())
    }

    fn failed(&self, url: &Url, error: &ureq::Error) -> Failure {
        let reason = error.to_string();
        let certificate = match error {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
            // The handshake's errors come wrapped.
            ureq::Error::Io(e) => e.kind() == std::io::ErrorKind::InvalidData,
            _ => false,
        };
        if certificate {
            return HubError::Tls { host: place(url), reason }.into();
        }
        self.lost(url, &reason)
    }

    /// The answer, if it is what was asked for.
    fn expect(&self, answer: Answer, revision: &str, file: Option<&str>) -> Result<Answer, Failure> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let text = |name: &str| {
            let value = answer.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
            value.filter(|v| !v.is_empty()).map(|v| shown(&self.scrubbed(&v)))
        };
        let (code, message) = (text("x-error-code").unwrap_or_default(), text("x-error-message"));
        let repo = self.repo.to_string();
        let hub = self.endpoint.as_str().trim_end_matches('/').to_owned();
        let status = answer.status.as_u16();
        let error = match (status, code.as_str()) {
            // A file store knows nothing of repositories and tokens.
            _ if !answer.own => HubError::Status { what: file.unwrap_or_default().to_owned(), status, message: None },
            (401 | 403, "GatedRepo") => HubError::Gated { repo, hub, token: self.token.is_some() },
            (401 | 403 | 404, "RepoNotFound") => HubError::NoRepo { repo, hub, token: self.token.is_some() },
            (404, "RevisionNotFound") => HubError::NoRevision { repo, revision: revision.to_owned() },
            (404, _) if file.is_some() => {
                HubError::NoFile { repo, file: file.unwrap_or_default().to_owned(), revision: revision.to_owned() }
            }
            (401 | 403, _) if self.token.is_some() => HubError::Refused { repo, hub, message },
            (401 | 403, _) => HubError::Gated { repo, hub, token: false },
            (404, _) => HubError::NoRepo { repo, hub, token: self.token.is_some() },
            _ => HubError::Status { what: file.unwrap_or("the list of files").to_owned(), status, message },
        };
        if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) {
            let asked = answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let after = asked.and_then(|asked| retry_after(asked, SystemTime::now()));
            return Err(Failure::Again { error, after, moved: false });
        }
        Err(error.into())
    }

    /// `ENDPOINT/before/ORG/NAME/after`, every part encoded.
    fn address(&self, before: &[&str], after: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(before).extend(self.repo.as_str().split('/')).extend(after);
        }
        url
    }

    fn file(&self, commit: &str, file: &str) -> Url {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(file.split('/')).collect();
        self.address(&[], &parts)
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    fn scrubbed(&self, text: &str) -> String {
        self.token.as_ref().map_or_else(|| text.to_owned(), |token| token.scrub(text))
    }
}

/// `Retry-After`: seconds, or a date of HTTP; one that has passed is at once.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// What the endpoint's headers say about a file. The linked ones speak of the file itself; the plain ones do so only in the
/// last answer, as a redirect has a body of its own.
fn note(entry: &mut Entry, headers: &HeaderMap, status: StatusCode) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (tag, size) = (text("x-linked-etag"), text("x-linked-size"));
    let (tag, size) =
        if status == StatusCode::OK { (tag.or(text("etag")), size.or(text("content-length"))) } else { (tag, size) };
    entry.digest = entry.digest.take().or_else(|| tag.and_then(Digest::of_etag));
    entry.size = entry.size.or_else(|| size.and_then(|size| size.parse().ok()));
}

/// Whether ureq can encrypt with it: it has neither cryptography nor authorities of its own here, and panics where they are missing.
fn is_complete(tls: &TlsConfig) -> bool {
    let trusts = tls.disable_verification() || matches!(tls.root_certs(), RootCerts::Specific(_));
    tls.provider() == TlsProvider::Rustls && tls.unversioned_rustls_crypto_provider().is_some() && trusts
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Host and port. The rest of an address may be signed, which makes it a key.
fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_777_636_800);
        for (text, wait) in [
            (" 7 ", Some(7)),
            ("Fri, 01 May 2026 12:00:30 GMT", Some(30)),
            ("Friday, 01-May-26 12:00:30 GMT", Some(30)),
            ("Fri, 01 May 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(text, now), wait.map(Duration::from_secs), "{text}");
        }
    }
}
