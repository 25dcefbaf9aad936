//! A camera's address for still pictures, polled: one request a sample, over a connection that is kept.
//!
//! In: the address of a stream whose answer has turned out to be a single picture. Out: pictures for the source's [`PipelineTap`]; what has not changed since (ETag, Last-Modified) is
//! the same picture again, with the same number, so that nobody has to look at it twice. On the source's thread, each request on one of its own for as long as it takes: ten
//! seconds at most. Holds one picture. Full: a picture of more than [`MOST_BYTES`] is none. Closed: on shutdown, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::Agent;
use ureq::http::header;

use super::byte_budget::MOST_BYTES;
use super::connection::End;
use super::error::{At, SourceError};
use super::http_login::Login;
use super::pipeline_tap::PipelineTap;
use super::run_with_timeout::{Late, run_with_timeout};
use super::{CameraTls, Location, SourceSettings, pinned_https, scrub, web_proxy};
use crate::frame::still_image::{self, Animated, StillImageError};
use crate::frame::{Picture, coded_size};
use crate::platform::secret::Secret;
use crate::platform::shutdown::Shutdown;
use crate::platform::tls;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// However often frames are wanted, a server is not asked more often.
pub(super) const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Numbers of pictures, of all streams: one of an earlier connection is never taken for one of this.
static PICTURES: AtomicU64 = AtomicU64::new(0);

/// A number that no other picture has.
pub(super) fn next_number() -> u64 {
    PICTURES.fetch_add(1, Ordering::Relaxed)
}

/// `picture`, to be given away. Decoded still pictures are RGB without gaps.
pub(super) fn copy_of(picture: &Picture) -> Option<Picture> {
    Picture::from_rgb(picture.width(), picture.height(), picture.plane(0).0.to_vec()).ok()
}

/// What came of a request.
enum Fetched {
    New,
    Same,
}

/// The last picture and what its server said of it.
#[derive(Default)]
struct Last {
    tag: Option<String>,
    modified: Option<String>,
    picture: Option<Picture>,
    /// Its own, see [`PICTURES`].
    number: u64,
}

/// One address.
struct Poller {
    agent: Agent,
    url: String,
    path: String,
    credentials: Option<(String, Secret)>,
    login: Option<Login>,
    at: At,
    sizes: coded_size::Limits,
    last: Last,
}

/// Polls the address in `settings` until shutdown is asked for, or it fails: at once where asking again does not help, else when there was no picture for as long as `stall` says.
pub(super) fn run(settings: &SourceSettings, feed: &PipelineTap, shutdown: &Shutdown) -> Result<End, SourceError> {
    let at = At { stream: settings.id.to_string(), place: scrub::place(settings), element: String::new() };
    let stall = settings.reconnect.limits.stall;
    let poller = Arc::new(Mutex::new(Poller::new(settings, at.clone())?));
    let connection = feed.connect();
    let started = Instant::now();
    let mut last: Option<Instant> = None;
    loop {
        let (due, asked) = (Instant::now(), Arc::clone(&poller));
        let work = move || asked.lock().fetch();
        let fetched =
            match run_with_timeout(&format!("poll-{}", settings.id), REQUEST_TIMEOUT * 2, Some(shutdown), work) {
                Ok(fetched) => fetched,
                Err(Late::Shutdown) => return Ok(End::Shutdown),
                Err(Late::Deadline(_)) => return Err(SourceError::Wedged { at, waited: REQUEST_TIMEOUT * 2 }),
                Err(Late::NoThread(error)) => Err(SourceError::Connection {
                    at: at.clone(),
                    detail: format!("the system gives no thread to poll it: {error}"),
                }),
            };
        match fetched {
            Ok(fetched) => {
                last = Some(Instant::now());
                if let Some((picture, number)) = poller.lock().copy() {
                    feed.still(connection, due.saturating_duration_since(started), picture, number);
                }
                if matches!(fetched, Fetched::Same) {
                    tracing::trace!(stream = %settings.id, "the picture is the same");
                }
            }
            Err(error)
                if is_passing(&error)
                    && last.is_some_and(|last| last.elapsed() < stall.max(feed.interval().unwrap_or_default() * 2)) =>
            {
                tracing::debug!(stream = %settings.id, %error, "a sample is missed, asking again at the next");
            }
            Err(error) => return Err(error),
        }
        let wait = feed.interval().unwrap_or_default().max(SHORTEST_INTERVAL);
        if shutdown.sleep(wait.saturating_sub(due.elapsed())) {
            return Ok(End::Shutdown);
        }
    }
}

/// Whether the next request may well be answered: a server that is busy, a picture that was just being written.
fn is_passing(error: &SourceError) -> bool {
    matches!(error, SourceError::Connection { .. } | SourceError::Decode { .. } | SourceError::Stalled { .. })
}

impl Poller {
    fn new(settings: &SourceSettings, at: At) -> Result<Self, SourceError> {
        let Location::Http(url) = &settings.location else {
            return Err(SourceError::SinglePicture { at });
        };
        let (user, password) = scrub::credentials(settings);
        // An empty password is one, as for GStreamer's sources.
        let credentials = user.map(|user| (user, password.unwrap_or_else(|| Secret::new(""))));
        let untrusted = |detail| SourceError::Certificate { at: at.clone(), detail };
        let (trusted, pinned) = match &settings.tls {
            CameraTls::System => (tls::of_the_system().0, None),
            CameraTls::Ca(file) => {
                let trust = tls::Trust { ca: Some(file.clone()), identity: None };
                (tls::of(&trust).map_err(untrusted)?, None)
            }
            CameraTls::Fingerprint(one) => {
                (tls::of_the_system().0, Some(tls::with_fingerprint(*one).map_err(untrusted)?))
            }
            CameraTls::Off => (tls::of_the_system().0, Some(tls::without_verification().map_err(untrusted)?)),
        };
        let config = Agent::config_builder()
            .tls_config(trusted)
            .http_status_as_error(false)
            // With credentials they would leak to another host.
            .max_redirects(if credentials.is_some() { 0 } else { 5 })
            .proxy(web_proxy::for_agent(url))
            .user_agent(concat!("vtagd/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(REQUEST_TIMEOUT))
            .build();
        let bare = scrub::without_userinfo(url);
        let path = &bare[url::Position::BeforePath..url::Position::AfterQuery];
        let (path, url) = (path.to_owned(), bare.to_string());
        let agent = match pinned {
            Some(pinned) => pinned_https::agent(config, pinned),
            None => config.into(),
        };
        Ok(Self { agent, url, path, credentials, login: None, at, sizes: settings.sizes(), last: Last::default() })
    }

    fn fetch(&mut self) -> Result<Fetched, SourceError> {
        let failed = |detail: String| SourceError::Connection { at: self.at.clone(), detail };
        let mut again = true;
        let answer = loop {
            let mut request =
                self.agent.get(&self.url).header(header::ACCEPT, "image/jpeg, image/png, image/webp, */*");
            if let (Some((user, password)), Some(login)) = (&self.credentials, &mut self.login) {
                let chance = uuid::Uuid::new_v4().simple().to_string();
                let mut value =
                    header::HeaderValue::from_str(&login.header(user, password.expose(), &self.path, &chance))
                        .map_err(|_| failed("its challenge cannot be answered".to_owned()))?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            if self.last.picture.is_some() {
                for (name, value) in
                    [(header::IF_NONE_MATCH, &self.last.tag), (header::IF_MODIFIED_SINCE, &self.last.modified)]
                {
                    if let Some(value) = value {
                        request = request.header(name, value);
                    }
                }
            }
            let answer = request.call().map_err(|error| self.unreachable(&error))?;
            let challenges = answer.headers().get_all(header::WWW_AUTHENTICATE);
            if answer.status().as_u16() == 401 && self.credentials.is_some() && again {
                // Once: a nonce grows old, a wrong password stays wrong.
                again = false;
                self.login = Login::of(challenges.iter().filter_map(|value| value.to_str().ok()));
                if self.login.is_some() {
                    continue;
                }
            }
            break answer;
        };
        let status = answer.status();
        match status.as_u16() {
            200 => {}
            304 if self.last.picture.is_some() => return Ok(Fetched::Same),
            401 | 403 => {
                return Err(SourceError::Credentials { at: self.at.clone(), detail: format!("it answers {status}") });
            }
            404 | 410 => {
                return Err(SourceError::NotFound { at: self.at.clone(), detail: format!("it answers {status}") });
            }
            _ => return Err(failed(format!("it answers {status}"))),
        }
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (tag, modified) = (text(header::ETAG), text(header::LAST_MODIFIED));
        let kind = text(header::CONTENT_TYPE).unwrap_or_default();
        if kind.starts_with("multipart/") || kind.starts_with("video/") {
            return Err(SourceError::Ended { at: self.at.clone() });
        }
        let mut body = answer.into_body();
        let bytes = body.with_config().limit(MOST_BYTES).read_to_vec().map_err(|error| self.unreachable(&error))?;
        if bytes.is_empty() {
            return Err(SourceError::Connection { at: self.at.clone(), detail: "its answer is empty".to_owned() });
        }
        let picture = still_image::decode_within(&bytes, self.sizes, Animated::FirstFrame).map_err(|error| {
            let at = self.at.clone();
            match error {
                StillImageError::TooLarge { message, .. } => {
                    SourceError::TooLarge { at, codec: "still".to_owned(), why: message }
                }
                error => SourceError::Decode { at, detail: error.to_string() },
            }
        })?;
        self.last = Last { tag, modified, picture: Some(picture), number: next_number() };
        Ok(Fetched::New)
    }

    fn unreachable(&self, error: &ureq::Error) -> SourceError {
        let at = self.at.clone();
        match error {
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => SourceError::Certificate { at, detail: error.to_string() },
            // The address itself may hold a secret.
            ureq::Error::Io(error) => SourceError::Connection { at, detail: format!("cannot connect: {error}") },
            ureq::Error::Timeout(_) => SourceError::Stalled { at, silence: REQUEST_TIMEOUT },
            ureq::Error::BodyExceedsLimit(_) => {
                SourceError::TooMuch { at, what: super::error::Excess::Bytes(MOST_BYTES) }
            }
            _ => SourceError::Connection {
                at,
                detail: "cannot connect; it does not answer as a web server does".to_owned(),
            },
        }
    }

    /// The last picture, to be given away.
    fn copy(&self) -> Option<(Picture, u64)> {
        let copy = copy_of(self.last.picture.as_ref()?)?;
        Some((copy, self.last.number))
    }
}
