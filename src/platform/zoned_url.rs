//! URLs whose host may be an IPv6 address with a zone, `rtsp://[fe80::1%25eth0]/`: an address that every network has means nothing without
//! the interface that it is reached by. URLs as browsers have them know no zone, so it is kept beside one.
//!
//! In: text, or a URL. Out: the same text for GStreamer, configurations and messages (RFC 6874: `%25`), and the host for the resolver, which
//! wants a plain `%`. Pure. Any thread.

use std::fmt::{self, Display};
use std::net::Ipv6Addr;
use std::ops::Deref;
use std::str::FromStr;

use url::{Position, Url};

use super::userinfo::{self, Unfit};

/// See the module. All but its text and its host is the URL's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZonedUrl {
    url: Url,
    zone: Option<String>,
}

impl ZonedUrl {
    /// Parses an address, which may have a zone, with [`userinfo::parse`].
    ///
    /// # Errors
    /// As that one has it.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        match zone(text.trim()) {
            Some((without, zone)) => Ok(Self { url: userinfo::parse(&without)?, zone: Some(zone) }),
            None => userinfo::parse(text).map(Self::from),
        }
    }

    /// The interface behind the host's `%`.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// With the URL that `change` makes of this one, at the same host.
    #[must_use]
    pub fn map(&self, change: impl FnOnce(&Url) -> Url) -> Self {
        Self { url: change(&self.url), zone: self.zone.clone() }
    }

    /// What a resolver is asked for: an IPv6 address stands in brackets in a URL and nowhere else.
    pub fn resolvable_host(&self) -> Option<String> {
        let host = self.url.host_str()?.trim_matches(['[', ']']);
        Some(self.zone.as_ref().map_or_else(|| host.to_owned(), |zone| format!("{host}%{zone}")))
    }
}

impl From<Url> for ZonedUrl {
    fn from(url: Url) -> Self {
        Self { url, zone: None }
    }
}

impl FromStr for ZonedUrl {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        Self::parse(text)
    }
}

impl Deref for ZonedUrl {
    type Target = Url;

    fn deref(&self) -> &Url {
        &self.url
    }
}

impl Display for ZonedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(zone) = &self.zone else { return self.url.fmt(f) };
        let (before, after) = (&self.url[..Position::AfterHost], &self.url[Position::AfterHost..]);
        write!(f, "{}%25{zone}]{after}", before.strip_suffix(']').unwrap_or(before))
    }
}

/// `text` without the zone of its host, and that one, if it has one that may be an interface's name or number.
fn zone(text: &str) -> Option<(String, String)> {
    let authority = text.find("://")? + 3;
    let end = text[authority..].find(['/', '?', '#', '\\']).map_or(text.len(), |end| authority + end);
    let host = text[authority..end].rfind('@').map_or(authority, |at| authority + at + 1);
    let inside = text[host..end].strip_prefix('[')?.split_once(']')?.0;
    let (address, zone) = inside.split_once('%')?;
    let name = zone.strip_prefix("25").unwrap_or(zone);
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-~".contains(c));
    let known = is_name && address.parse::<Ipv6Addr>().is_ok();
    let rest = &text[host + 1 + inside.len()..];
    known.then(|| (format!("{}[{address}{rest}", &text[..host]), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_kept_apart_and_written_as_rfc_6874_has_it() {
        for (text, written, host) in [
            ("rtsp://[fe80::1%25eth0]/s", "rtsp://[fe80::1%25eth0]/s", "fe80::1%eth0"),
            (" mqtt://[FE80::0:1%br-lan.7]:1884 ", "mqtt://[fe80::1%25br-lan.7]:1884", "fe80::1%br-lan.7"),
            ("http://u:p@[fe80::1%2]:8080/x?y#z", "http://u:p@[fe80::1%252]:8080/x?y#z", "fe80::1%2"),
            ("rtsp://[::1%251]:554", "rtsp://[::1%251]:554", "::1%1"),
            ("rtsp://[fe80::1]/%25eth0", "rtsp://[fe80::1]/%25eth0", "fe80::1"),
            ("rtsp://u:%5B@camera.local/[fe80::1%251]", "rtsp://u:%5B@camera.local/[fe80::1%251]", "camera.local"),
        ] {
            let url = ZonedUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), written);
            assert_eq!(url.resolvable_host().as_deref(), Some(host), "{text}");
            assert_eq!(ZonedUrl::parse(written), Ok(url), "what is written is read again");
        }
    }

    #[test]
    fn what_is_no_interface_makes_no_url() {
        for text in ["%", "%25", "%25../x", "%eth 0", "%25%41", "%eth0%25", "%é"] {
            assert!(ZonedUrl::parse(&format!("rtsp://[fe80::1{text}]/s")).is_err(), "{text}");
        }
        for text in ["rtsp://[cam%eth0]/", "rtsp://cam%25eth0:x/", "rtsp://[fe80::1%eth0", "[fe80::1%eth0]", "", "://"]
        {
            assert!(ZonedUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_changed_url_keeps_its_zone() {
        let url = ZonedUrl::parse("rtsp://u:p@[fe80::1%25eth0]/s?q").unwrap();
        let bare = url.map(|url| {
            let mut url = url.clone();
            url.set_query(None);
            url
        });
        assert_eq!(bare.to_string(), "rtsp://u:p@[fe80::1%25eth0]/s");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_url_or_none(text in "(rtsp://)?\\PC{0,8}(\\[fe80::1%)?\\PC{0,20}") {
            if let Ok(url) = ZonedUrl::parse(&text) {
                let _ = (url.to_string(), url.resolvable_host());
            }
        }
    }
}
