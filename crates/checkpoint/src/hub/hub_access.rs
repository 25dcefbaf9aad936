//! How a hub is reached: where it is, who asks, and what ends the asking. Handed in by the program that pulls.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ureq::tls::TlsConfig;
use url::Url;

use super::HubError;

/// How to reach a hub, and where what it gives is kept.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// `http` or `https`, without user, password, query and fragment; [`pull`](super::pull) refuses others. A slash at its end does not count.
    pub endpoint: Url,
    /// For private and gated repositories.
    pub token: Option<HubToken>,
    /// Only what was fetched before may be used.
    pub offline: bool,
    /// Where fetched files and interrupted ones are kept.
    pub cache: PathBuf,
    /// Whom to trust, ureq's own type; `None` where no authority is known, and then `https` is refused, in a redirect too. Certificates and rustls'
    /// provider of cryptography are the program's: ureq is built here without any, and its default is refused.
    pub tls: Option<TlsConfig>,
    /// The program that asks, `NAME/VERSION`.
    pub agent: String,
}

impl HubSettings {
    /// The endpoint as people write it.
    pub fn endpoint_text(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// # Errors
    /// An endpoint that is no address of a hub, or says more than where it is: it is written into `hub.json`, and a password must not be.
    pub(super) fn check(&self) -> Result<(), HubError> {
        let url = &self.endpoint;
        let bad = |message: &str| Err(HubError::BadEndpoint { message: message.to_owned() });
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return bad("is not http:// or https:// with a host");
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return bad("holds a user, a password, a query or a fragment");
        }
        Ok(())
    }
}

/// A hub's token: one word of visible ASCII. It goes into a header, and neither `Debug` nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct HubToken(String);

impl HubToken {
    /// `None` for a text that cannot be one.
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without the token, if it is in it.
    pub(super) fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The wish to stop, which a pull asks for between two buffers and while it waits.
pub trait StopRequest {
    /// Whether somebody has asked.
    fn is_requested(&self) -> bool;
    /// Sleeps for `duration`, or less if somebody asks meanwhile; `true` if so.
    fn sleep(&self, duration: Duration) -> bool;
}

/// Nobody ever asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeverStopped;

impl StopRequest for NeverStopped {
    fn is_requested(&self) -> bool {
        false
    }

    fn sleep(&self, duration: Duration) -> bool {
        std::thread::sleep(duration);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_never_shown() {
        let token = HubToken::new("hf_hunter2").unwrap();
        assert!(token.expose() == "hf_hunter2" && !format!("{token:?}").contains("hunter2"));
        for no in ["", "two words", "line\n", "ä"] {
            assert_eq!(HubToken::new(no), None, "{no:?}");
        }
    }
}
