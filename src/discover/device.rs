//! One device, asked over HTTP for its streams.
//!
//! In: what it said about itself, and perhaps user and password. Out: its streams, or why it did not tell. Blocks the caller's
//! thread, at most [`DEVICE_TIMEOUT`]. Whatever a device says, nothing but the address that it answered from is connected to: a stranger
//! must not be able to send this machine, let alone a password's digest, elsewhere. Full: answers over [`LARGEST`] are refused,
//! more profiles than [`soap::MOST_PROFILES`] left out.

use std::cell::Cell;
use std::io::Read;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::StatusCode;
use url::Url;
use uuid::Uuid;

use super::plain_text::{self, ShownUrl, clean};
use super::soap::{self, BODY, Media, OnvifLogin, Profile, Question, SoapFault};
use super::ws_discovery::Found;
use super::xml::{Tree, Unreadable};
use super::{Secure, Stream};
use crate::platform::tls;

/// How long a device may take in all.
pub(super) const DEVICE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take for one answer. Small cameras need seconds to list their profiles.
const ANSWER: Duration = Duration::from_secs(8);
/// Largest answer.
const LARGEST: u64 = 1024 * 1024;
/// Addresses of its own that are tried.
const MOST_ADDRESSES: usize = 4;

/// Why a device did not tell its streams. Messages hold no credential, and nothing of a device's that is not cleaned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("it named no web address of its own, and others are not trusted")]
    NoAddress,
    #[error("it wants a user; give --username and --password-env or --password-file")]
    Anonymous,
    #[error("it refused the username or the password, or has no such ONVIF user")]
    Refused,
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it answered with HTTP status {0}")]
    Status(u16),
    #[error("its answer cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    #[error("its answer is larger than 1 MiB")]
    TooLarge,
    #[error("it answered with a fault: {0}")]
    SoapFault(String),
    #[error("it names no media service")]
    NoMedia,
    #[error("it has no stream that it gives an address of")]
    NoStreams,
    #[error("it took longer than 20 s in all")]
    Late,
}

/// The way to devices, shared by all of them.
#[derive(Clone, Debug)]
pub(super) struct Client {
    agent: Agent,
}

impl Client {
    pub fn new() -> Self {
        let (tls, _) = tls::of_the_system();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // A redirect leads elsewhere; a proxy is for the internet, and not for a camera in the next room.
            .max_redirects(0)
            .proxy(None)
            .accept_encoding("identity")
            .user_agent(concat!("vtagd/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into() }
    }

    /// The streams of `found`, within the time of a device and not later than `until`.
    pub fn streams(
        &self,
        found: &Found,
        login: Option<&OnvifLogin>,
        until: Option<Instant>,
    ) -> Result<Vec<Stream>, DeviceError> {
        let own = Instant::now() + DEVICE_TIMEOUT;
        let deadline = until.map_or(own, |until| until.min(own));
        let own = found.xaddrs.iter().filter(|url| plain_text::host(url) == Some(found.sender)).take(MOST_ADDRESSES);
        let mut last = DeviceError::NoAddress;
        for url in own {
            let talk =
                Talk { client: self, home: found.sender, login, skew: None, guarded: Cell::new(false), deadline };
            match talk.streams(url) {
                // The same device on its other address: another network, or without encryption.
                Err(error @ (DeviceError::Unreachable(_) | DeviceError::Status(_) | DeviceError::Unreadable(_))) => {
                    tracing::debug!(device = %found.sender, %error, "trying its next address");
                    last = error;
                }
                result => return result,
            }
        }
        Err(last)
    }
}

/// One conversation.
struct Talk<'a> {
    client: &'a Client,
    /// The one address that is connected to.
    home: IpAddr,
    login: Option<&'a OnvifLogin>,
    /// How far its clock is ahead of ours.
    skew: Option<jiff::SignedDuration>,
    /// It has refused a question without credentials; the next ones come with them.
    guarded: Cell<bool>,
    deadline: Instant,
}

impl Talk<'_> {
    fn streams(mut self, device: &Url) -> Result<Vec<Stream>, DeviceError> {
        match self.ask(device, Question::Clock, Secure::No) {
            Ok(tree) => self.skew = soap::clock(&tree).map(|clock| clock.duration_since(jiff::Timestamp::now())),
            Err(error @ (DeviceError::Unreachable(_) | DeviceError::Late)) => return Err(error),
            // Some want credentials even for the time. They are signed for ours then.
            Err(error) => tracing::debug!(device = %self.home, %error, "it does not tell the time"),
        }
        let mut services = self.media(device)?.into_iter();
        // The newer service also knows what the older one cannot say; where it does not work, the older one does.
        let mut last = DeviceError::NoMedia;
        for (media, url) in services.by_ref() {
            match self.profiles(media, &url) {
                Ok(streams) => return Ok(streams),
                // A password that was refused is not shown again: many cameras lock the account after a few.
                Err(error @ (DeviceError::Refused | DeviceError::Anonymous)) => return Err(error),
                Err(error) => {
                    tracing::debug!(device = %self.home, ?media, %error, "trying its other media service");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Its media services, the newer one first.
    fn media(&self, device: &Url) -> Result<Vec<(Media, Url)>, DeviceError> {
        let services = self.ask_gently(device, Question::Services);
        let mut found = Vec::new();
        if let Ok(tree) = &services {
            let of = |media| Some((media, self.at_home(soap::service(tree, media)?)));
            found.extend([Media::Two, Media::One].into_iter().filter_map(of));
        }
        if found.is_empty() {
            // Older than GetServices.
            if let Err(error @ (DeviceError::Refused | DeviceError::Anonymous)) = services {
                return Err(error);
            }
            let tree = self.ask_gently(device, Question::Capabilities)?;
            found.extend(soap::capability(&tree).map(|url| (Media::One, self.at_home(url))));
        }
        if found.is_empty() { Err(DeviceError::NoMedia) } else { Ok(found) }
    }

    /// A service's address with the host that answered us: cameras behind a router, or with two networks, name another one.
    fn at_home(&self, mut url: Url) -> Url {
        if plain_text::host(&url) != Some(self.home) {
            tracing::debug!(device = %self.home, %url, "it names another host for a service; staying with this one");
            // Cannot fail: the scheme is HTTP's.
            let _ = url.set_ip_host(self.home);
        }
        url
    }

    fn profiles(&self, media: Media, service: &Url) -> Result<Vec<Stream>, DeviceError> {
        let tree = self.ask_gently(service, Question::Profiles(media))?;
        let mut streams = Vec::new();
        let mut last = DeviceError::NoStreams;
        for profile in soap::profiles(&tree) {
            match self.ask_gently(service, Question::StreamUri(media, &profile.token)) {
                Ok(tree) => match soap::stream_uri(&tree) {
                    Some(url) => streams.push(self.stream(profile, &url)),
                    None => tracing::debug!(device = %self.home, profile = profile.name, "no address of a stream"),
                },
                Err(error @ (DeviceError::Late | DeviceError::Unreachable(_) | DeviceError::Refused)) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(device = %self.home, profile = profile.name, %error, "no address of a stream");
                    last = error;
                }
            }
        }
        if streams.is_empty() { Err(last) } else { Ok(streams) }
    }

    fn stream(&self, profile: Profile, url: &Url) -> Stream {
        let password =
            self.login.and_then(|login| login.password.as_ref()).map(crate::platform::secret::Secret::expose);
        let shown = plain_text::without_credentials(url, password);
        let Profile { token, name, codec, width, height, frame_rate } = profile;
        let profile = if name.is_empty() { clean(&token) } else { name };
        let elsewhere = plain_text::host(url) != Some(self.home);
        let ShownUrl { url, incomplete } = shown;
        Stream { profile, url, codec, width, height, frame_rate, incomplete, elsewhere }
    }

    /// Asks without credentials and, if they are wanted and there, again with them.
    fn ask_gently(&self, url: &Url, question: Question<'_>) -> Result<Tree, DeviceError> {
        if self.guarded.get() && self.login.is_some() {
            return self.ask(url, question, Secure::Yes);
        }
        match self.ask(url, question, Secure::No) {
            Err(DeviceError::Refused) if self.login.is_some() => {
                self.guarded.set(true);
                self.ask(url, question, Secure::Yes)
            }
            Err(DeviceError::Refused) => Err(DeviceError::Anonymous),
            result => result,
        }
    }

    fn ask(&self, url: &Url, question: Question<'_>, secure: Secure) -> Result<Tree, DeviceError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DeviceError::Late);
        }
        let body = match self.login.filter(|_| secure == Secure::Yes) {
            Some(login) => {
                let now = jiff::Timestamp::now();
                let theirs = self.skew.and_then(|skew| now.checked_add(skew).ok()).unwrap_or(now);
                let created = theirs.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                question.envelope(Some((login, Uuid::new_v4().as_bytes(), &created)))
            }
            None => question.envelope(None),
        };
        let request = self.client.agent.post(url.as_str()).header("content-type", question.content_type());
        let request = request.config().timeout_global(Some(left.min(ANSWER))).build();
        let lost = |error: &dyn std::fmt::Display| DeviceError::Unreachable(clean(&error.to_string()));
        let answer = request.send(body.as_bytes()).map_err(|error| lost(&error))?;
        let (status, mut bytes) = (answer.status(), Vec::new());
        let read = answer.into_body().into_reader().take(LARGEST + 1).read_to_end(&mut bytes);
        read.map_err(|error| lost(&error))?;
        if bytes.len() as u64 > LARGEST {
            return Err(DeviceError::TooLarge);
        }
        let tree = Tree::parse(&bytes, BODY);
        // A fault comes with a status of 400 or 500, and says more than it.
        match tree.as_ref().ok().and_then(soap::fault) {
            Some(SoapFault::Refused) => return Err(DeviceError::Refused),
            Some(SoapFault::Other(reason)) => return Err(DeviceError::SoapFault(reason)),
            None => {}
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(DeviceError::Refused),
            status if status.is_success() => Ok(tree?),
            status => Err(DeviceError::Status(status.as_u16())),
        }
    }
}
