//! Checks keys that several kinds of sink over the network have: `url`, `ca`, `cert` and `key`, `timeout`, `client_id`.

use std::path::PathBuf;
use std::time::Duration;

use super::config::SinkItem;
use crate::platform::tls::Trust;
use crate::platform::zoned_url::ZonedUrl;
use crate::yaml::address::{self, Address};
use crate::yaml::checks;
use crate::yaml::field_reader::{At, Field, Reader};

/// How long a broker or an endpoint has if nothing is said: what Standard Webhooks advises is 15 to 30 s.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The URL of a sink, its scheme checked, its credentials apart.
pub fn url(at: &At<SinkItem>, field: &Field<String>, schemes: [&str; 2], reader: &mut Reader<'_>) -> Option<Address> {
    known(at, field, schemes, reader).and_then(|url| address::network(url, reader))
}

/// As [`url`], where the first of the schemes, with TLS, takes no zone and the other one does: no certificate is made out to one.
pub fn zoned_url(
    at: &At<SinkItem>,
    field: &Field<String>,
    schemes: [&str; 2],
    reader: &mut Reader<'_>,
) -> Option<Address<ZonedUrl>> {
    let url = known(at, field, schemes, reader)?;
    let found = address::zoned(url, reader)?;
    if found.url.scheme() == schemes[0] {
        address::without_zone(url, found.url.clone(), "no place in a certificate", reader)?;
    }
    Some(found)
}

/// The URL, if its scheme is one of these.
fn known<'f>(
    at: &At<SinkItem>,
    field: &'f Field<String>,
    schemes: [&str; 2],
    reader: &mut Reader<'_>,
) -> Option<&'f At<String>> {
    let remedy = format!("write {}://host or {}://host", schemes[0], schemes[1]);
    let url = reader.required(at, "url", field, &remedy)?;
    match address::scheme(url.value.trim()) {
        Some(scheme) if schemes.contains(&scheme.as_str()) => return Some(url),
        Some(scheme) => {
            reader.error(url, format!("has the scheme {scheme}://, which this sink does not speak"), remedy);
        }
        None => reader.error(url, "has no scheme", remedy),
    }
    None
}

/// `ca`, `cert` and `key` of a sink with that `url`, which has TLS with the scheme `secure`.
pub fn trust_of_url(
    at: &At<SinkItem>,
    url: &Field<String>,
    secure: &str,
    files: [&Field<String>; 3],
    reader: &mut Reader<'_>,
) -> Option<Trust> {
    let plain = url.given().is_some_and(|url| address::scheme(url.value.trim()).as_deref() != Some(secure));
    trust(at, plain.then_some("use mqtts://, https:// or tls://, or remove it"), files, reader)
}

/// `ca`, `cert` and `key` of `at`, a section. The files must be there; what is in them is read when a connection is made. Without TLS they have no meaning,
/// and `without` is what to do.
pub fn trust<T>(
    at: &At<T>,
    without: Option<&str>,
    [ca, cert, key]: [&Field<String>; 3],
    reader: &mut Reader<'_>,
) -> Option<Trust> {
    let mut file = |field: &Field<String>, what: &str| -> Option<Option<PathBuf>> {
        field.checked(None, |at| {
            if let Some(remedy) = without {
                reader.error(at, "has no meaning without TLS", remedy);
            }
            checks::existing_file(at, what, reader).map(Some)
        })
    };
    let ca = file(ca, "name a PEM file of certificate authorities");
    let cert = file(cert, "name a PEM file of this daemon's certificate");
    let key = key.checked(None, |at| {
        if let Some(remedy) = without {
            reader.error(at, "has no meaning without TLS", remedy);
        }
        checks::private_file(at, "name the PEM file of its key", reader).map(|(path, _)| Some(path))
    });
    let identity = match (cert?, key?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (cert, _) => {
            let missing = if cert.is_some() { "key" } else { "cert" };
            reader.missing(at, missing, "a client certificate needs both `cert` and `key`");
            return None;
        }
    };
    Some(Trust { ca: ca?, identity })
}

/// `timeout`.
pub fn timeout(field: &Field<Duration>, reader: &mut Reader<'_>) -> Option<Duration> {
    field.checked(TIMEOUT, |time| {
        let good = (Duration::from_secs(1)..=Duration::from_secs(300)).contains(&time.value);
        reader.accept(time, good, "is not within 1s and 5m", "20s is a good start")
    })
}

/// `client_id`; `remedy`: what becomes of one that is left out.
pub fn client_id(field: &Field<String>, remedy: &str, reader: &mut Reader<'_>) -> Option<Option<String>> {
    field.checked(None, |id| {
        let good = (1..=256).contains(&id.value.len()) && !id.value.chars().any(char::is_control);
        reader.accept(id, good, "is not a client id (1 to 256 characters)", remedy).map(Some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Document;
    use crate::yaml::field_reader::FromNode;

    #[test]
    fn a_scheme_in_capitals_has_tls_too() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), "").unwrap();
        for (kind, url, told) in [
            ("mqtt", "MQTTS://h", ""),
            ("nats", "TLS://h", ""),
            ("webhook", "Https://h", ""),
            ("mqtt", "MQTT://h", "has no meaning without TLS"),
        ] {
            let text = format!("{{ type: {kind}, url: \"{url}\", ca: ca.pem }}");
            let document = Document::parse(&folder.path().join("vtagd.yaml"), text.as_bytes()).unwrap();
            let mut reader = Reader::new(&document);
            let value = SinkItem::from_node(document.root(), "", &mut reader).unwrap();
            let at = At { value, place: document.root().place, path: String::new() };
            let settings = at.value.keys.as_ref().and_then(|keys| keys.check(&at, &mut reader));
            let problems: Vec<_> = reader.problems().iter().map(|problem| problem.message.as_str()).collect();
            assert_eq!((problems.concat().as_str(), settings.is_some()), (told, true), "{text}");
        }
    }
}
