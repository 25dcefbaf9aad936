//! Checks sinks of type `nats`.

use super::remote::{timeout, trust, url};
use super::schema::Sink;
use super::secrets;
use crate::sink::nats::{NatsLogin, NatsSettings, is_credentials, is_user_seed};
use crate::yaml::field_reader::{At, Field, Reader};

/// Keys, beside those that every sink has.
pub const KEYS: &[&str] =
    &["url", "subject_prefix", "username", "password", "nkey", "creds", "ca", "cert", "key", "timeout"];

/// `type: nats`.
pub fn nats(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<NatsSettings> {
    let raw = &at.value;
    let address = url(at, ["nats", "tls"], reader);
    let login = login(raw, reader);
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
    Some(NatsSettings {
        url: address.url,
        login: login?,
        subject_prefix: subject_prefix?,
        trust: trust?,
        timeout: timeout?,
    })
}

/// One of three: a user or a token, a key, a credentials file. `None`: a problem has been reported.
fn login(raw: &Sink, reader: &mut Reader<'_>) -> Option<NatsLogin> {
    let named = !raw.username.is_missing() || !raw.password.is_missing();
    if let Some(creds) = raw.creds.given() {
        if named || !raw.nkey.is_missing() {
            reader.error(creds, "and `username`, `password` or `nkey` are two ways to log in", "remove one of them");
            return None;
        }
        let secret = secrets::resolve(creds, reader)?;
        if !is_credentials(&secret) {
            let message = "is not the content of a .creds file: a user's JWT and the seed of its key";
            reader.error(creds, message, "make one: nsc generate creds, or nats auth user credentials");
            return None;
        }
        return Some(NatsLogin::Credentials(secret));
    }
    if let Some(nkey) = raw.nkey.given() {
        if named {
            reader.error(nkey, "and `username` or `password` are two ways to log in", "remove one of them");
            return None;
        }
        let secret = secrets::resolve(nkey, reader)?;
        if !is_user_seed(&secret) {
            let message = "is not the seed of a user's key: SU and 56 more letters and digits";
            reader.error(nkey, message, "make one: nk -gen user -pubout; the server gets the line that begins with U");
            return None;
        }
        return Some(NatsLogin::Nkey(secret));
    }
    let password = match raw.password.given().map(|password| secrets::resolve(password, reader)) {
        Some(resolved) => Some(resolved?),
        None => None,
    };
    Some(match (raw.username.value(), password) {
        (Some(name), password) => NatsLogin::User { name, password },
        (None, Some(token)) => NatsLogin::Token(token),
        (None, None) => NatsLogin::Nobody,
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
