//! Checks sinks of type `nats`.

use super::remote::{timeout, trust, url};
use super::schema::Sink;
use super::secrets;
use crate::sink::nats::NatsSettings;
use crate::yaml::reader::{At, Field, Reader};

/// Keys, beside those that every sink has.
pub const KEYS: &[&str] = &["url", "subject_prefix", "username", "password", "ca", "cert", "key", "timeout"];

/// `type: nats`.
pub fn nats(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<NatsSettings> {
    let raw = &at.value;
    let address = url(at, ["nats", "tls"], reader);
    let password = raw.password.given().map(|password| secrets::resolve(password, reader));
    let subject_prefix = match &raw.subject_prefix {
        Field::Missing => Some("vtagd".to_owned()),
        Field::Wrong => None,
        Field::Given(prefix) => subject(prefix, reader),
    };
    let trust = trust(at, raw.url.given().is_some_and(|url| url.value.trim().starts_with("tls:")), reader);
    let timeout = timeout(&raw.timeout, reader);
    let address = address?;
    if let Some(url) = raw.url.given()
        && (address.username.is_some() || address.password.is_some())
    {
        let remedy = "move them to `username: NAME` and `password: { env: NAME }` (or file, credential)";
        reader.error(url, "holds credentials, which anybody who can read this file sees", remedy);
        return None;
    }
    let password = match password {
        Some(resolved) => Some(resolved?),
        None => None,
    };
    Some(NatsSettings {
        url: address.url,
        username: raw.username.value(),
        password,
        subject_prefix: subject_prefix?,
        trust: trust?,
        timeout: timeout?,
    })
}

/// Tokens with dots between them.
fn subject(at: &At<String>, reader: &mut Reader<'_>) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let good = at.value.split('.').all(|token| !token.is_empty() && token.chars().all(fits));
    if !good {
        let message = "is not a subject prefix: words of letters, digits, `_` and `-`, with dots between them";
        reader.error(at, message, "write, for example, vtagd or site.vtagd");
    }
    good.then(|| at.value.clone())
}
