//! Addresses: URLs without their credentials, whether these would be seen on the way, and the paths inside `file://` and `v4l2://`. Nothing here repeats a URL that may
//! hold a password.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use url::{Host, Url};

use crate::platform::secret::{self, Secret};
use crate::platform::userinfo::{self, Unfit, percent_decode};
use crate::platform::zoned_url::ZonedUrl;
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::problem::Severity;

/// What is wrong with credentials inside a URL, and where they belong.
pub const VISIBLE: &str = "holds credentials, which anybody who can read this file sees";
pub const MOVE_THEM: &str = "move them to `username: NAME` and `password: { env: NAME }` (or file, credential)";

/// A URL and the credentials that were inside it.
pub struct Address<U = Url> {
    pub url: U,
    pub username: Option<String>,
    pub password: Option<Secret>,
}

impl<U> Address<U> {
    /// The URL had credentials in it.
    pub fn had_credentials(&self) -> bool {
        self.username.is_some() || self.password.is_some()
    }
}

/// Reports credentials inside `url`, which is allowed; `twice`: they stand beside it too, which is not.
pub fn report_credentials(url: &At<String>, twice: bool, reader: &mut Reader<'_>) {
    if twice {
        reader.error(url, "holds credentials, and `username` or `password` is given too", "remove them from the URL");
    } else {
        reader.warn(url, VISIBLE, MOVE_THEM);
    }
}

/// Warns of credentials that would go to another machine without encryption. `sent`: there are some, at `at`.
pub fn report_plain<T>(at: &At<T>, url: &Url, sent: bool, remedy: &str, reader: &mut Reader<'_>) {
    let query = url.query_pairs().any(|(key, _)| secret::is_secret_key(&key)) || secret::in_path(url).next().is_some();
    if (sent || query) && is_elsewhere(url.host()) {
        reader.warn(
            at,
            "goes to another machine without encryption: whoever is on the way can read the credential",
            remedy,
        );
    }
}

/// Whether a host is another machine than this one, as far as its name tells.
pub fn is_elsewhere(host: Option<Host<&str>>) -> bool {
    match host {
        Some(Host::Ipv4(ip)) => !ip.is_loopback(),
        Some(Host::Ipv6(ip)) => !ip.to_canonical().is_loopback(),
        // Schemes that are not the web's have every host as a name.
        Some(Host::Domain(name)) => {
            let name = name.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
            let ip = name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
            !(ip || name == "localhost" || name.ends_with(".localhost"))
        }
        None => false,
    }
}

/// The scheme of `text` in lower case, if it has one.
pub fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    ok.then(|| scheme.to_ascii_lowercase())
}

/// Parses a network URL whose host has no zone, and takes its credentials out. On `None` a problem has been reported.
pub fn network(at: &At<String>, reader: &mut Reader<'_>) -> Option<Address> {
    let Address { url, username, password } = zoned(at, reader)?;
    let url = without_zone(at, url, "no place in a URL here", reader)?;
    Some(Address { url, username, password })
}

/// `url` if it has no zone. `place`: what one has here.
pub fn without_zone(at: &At<String>, url: ZonedUrl, place: &str, reader: &mut Reader<'_>) -> Option<Url> {
    let message = format!("has an IPv6 zone, which means something on this machine alone and has {place}");
    let remedy = "name an address that needs none (not fe80::…), or a name, such as camera.local";
    reader.accept(at, url.zone().is_none(), message, remedy).map(|_| (*url).clone())
}

/// As [`network`], where the host may be an IPv6 address with a zone.
pub fn zoned(at: &At<String>, reader: &mut Reader<'_>) -> Option<Address<ZonedUrl>> {
    let remedy = "write scheme://host:port/path; user and password belong under `username` and `password`";
    let parsed = match ZonedUrl::parse(&at.value) {
        Ok(url) => url,
        Err(error) => {
            let remedy = match error {
                Unfit::Unclear => userinfo::REMEDY,
                Unfit::NoUrl(url::ParseError::InvalidIpv6Address) => {
                    "write an IPv6 address in brackets: [fd00::1], or [fe80::1%25eth0] with the interface of this machine behind %25"
                }
                Unfit::NoUrl(_) => remedy,
            };
            return reader.refuse(at, error.to_string(), remedy);
        }
    };
    let mut url = (*parsed).clone();
    if url.host_str().is_none_or(str::is_empty) {
        return reader.refuse(at, "has no host", remedy);
    }
    // Known from here on, so that no message about the address shows them.
    secret::in_path(&url).for_each(secret::holds_one);
    if let Some(query) = url.query() {
        secret::holds_one(query);
    }
    let username = Some(url.username()).filter(|name| !name.is_empty()).map(percent_decode);
    let password = url.password().map(|password| Secret::new(percent_decode(password)));
    // Cannot fail: there is a host. If it did, the credentials would stay in the URL, so refuse it.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return reader.refuse(at, "is a URL that cannot hold credentials", remedy);
    }
    if userinfo::has_at_behind_host(&url) {
        let message = "has an `@` behind its host, which is taken for a part of the path or query";
        reader.report(Severity::Warning, at.place, &at.path, message, userinfo::REMEDY);
    }
    Some(Address { url: parsed.map(|_| url), username, password })
}

/// The path of a `file://` or `v4l2://` URL, percent-decoded, relative to the configuration's folder if it does not begin with a
/// slash. A file whose name really holds `%20` is found too.
pub fn local(text: &str, base: &Path) -> PathBuf {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let rest = rest.strip_prefix("localhost/").map_or_else(|| rest.to_owned(), |path| format!("/{path}"));
    let literal = crate::yaml::relative_to(base, Path::new(&rest));
    if literal.exists() {
        return literal;
    }
    crate::yaml::relative_to(base, Path::new(&percent_decode(&rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_recognised_in_any_case() {
        assert_eq!(scheme("RTSP://host").as_deref(), Some("rtsp"));
        assert_eq!(scheme("/dev/video0"), None);
        assert_eq!(scheme("://x"), None);
        assert_eq!(scheme("c:\\x://"), None);
    }

    #[test]
    fn this_machine_is_known_by_name_and_number() {
        for (url, elsewhere) in [
            ("http://localhost/", false),
            ("mqtt://localhost", false),
            ("mqtt://127.8.8.8:1", false),
            ("http://[::1]/", false),
            ("nats://[::1]", false),
            ("http://[::ffff:127.0.0.1]/", false),
            ("http://a.localhost./", false),
            ("mqtt://broker", true),
            ("http://10.0.0.1/", true),
            ("nats://[fd00::1]", true),
        ] {
            assert_eq!(is_elsewhere(Url::parse(url).unwrap().host()), elsewhere, "{url}");
        }
    }

    #[test]
    fn file_urls_may_be_relative_to_the_configuration() {
        let base = Path::new("/etc/vtagd/vtagd.yaml");
        assert_eq!(local("file:///srv/a%20b.mp4", base), Path::new("/srv/a b.mp4"));
        assert_eq!(local("file://clips/a.mp4", base), Path::new("/etc/vtagd/clips/a.mp4"));
        assert_eq!(local("file://localhost/srv/a.mp4", base), Path::new("/srv/a.mp4"));
        assert_eq!(local("v4l2:///dev/video0", base), Path::new("/dev/video0"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_scheme_or_none(text in "\\PC{0,40}") {
            let _ = scheme(&text);
        }
    }
}
