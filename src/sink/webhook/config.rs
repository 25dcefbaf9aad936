//! Checks sinks that talk to something else over the network: `mqtt` and `webhook`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::schema::{EventBatch, Sink};
use super::secrets::{self, SecretSource};
use super::{MqttSettings, WebhookSettings, address, streams};
use crate::platform::secret::Secret;
use crate::platform::tls::Trust;
use crate::sink::mqtt::Protocol;
use crate::sink::webhook::BatchSettings;
use crate::yaml::field_reader::{At, Field, FromNode, Reader, join};
use crate::yaml::problem::Severity;
use crate::yaml::{Node, Value, relative_to, units};

/// Keys of each kind, beside those that every sink has.
pub const MQTT_KEYS: &[&str] = &[
    "url",
    "protocol",
    "topic_prefix",
    "client_id",
    "username",
    "password",
    "ca",
    "cert",
    "key",
    "timeout",
    "home_assistant",
    "discovery_prefix",
];
pub const WEBHOOK_KEYS: &[&str] =
    &["url", "secret", "previous_secret", "headers", "ca", "cert", "key", "timeout", "concurrency", "batch"];

/// How long a broker or an endpoint has if nothing is said: what Standard Webhooks advises is 15 to 30 s.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Headers that the sink itself writes, or that change how the body is understood.
const OURS: [&str; 8] = [
    "host",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "expect",
    "upgrade",
];

/// `3.1.1` or `5`.
impl FromNode for Protocol {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "enum": ["3.1.1", "5", "5.0", 5] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        match text.as_str() {
            "3.1.1" => Some(Self::V311),
            "5" | "5.0" => Some(Self::V5),
            _ => {
                let message = "is not a version of MQTT that vtagd speaks";
                reader.report(Severity::Error, node.place, path, message, "write 3.1.1 or 5");
                None
            }
        }
    }
}

/// Names of headers, and where their values come from.
pub struct Headers(Vec<At<(String, SecretSource)>>);

impl FromNode for Headers {
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "object", "additionalProperties": SecretSource::schema() })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.mismatch(
                node,
                path,
                "a mapping",
                "write names and values, such as { Authorization: { env: TOKEN } }",
            );
            return None;
        };
        let names: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let map = reader.map(node, path, &names)?;
        let mut headers = Vec::new();
        for entry in entries {
            let name = entry.key.to_ascii_lowercase();
            let path = join(path, &entry.key);
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            let message = if name.is_empty() || !name.chars().all(token) {
                "is not the name of a header"
            } else if OURS.contains(&name.as_str()) || name.starts_with("webhook-") || name.starts_with("ce-") {
                "is a header that the sink writes itself"
            } else {
                if let Field::Given(at) = map.field::<SecretSource>(&entry.key, reader) {
                    headers.push(At { value: (entry.key.clone(), at.value), place: at.place, path: at.path });
                }
                continue;
            };
            reader.report(Severity::Error, entry.key_place, &path, message, "remove it, or write another");
        }
        Some(Self(headers))
    }
}

/// The URL of a sink, its scheme checked, its credentials apart.
pub(super) fn url(at: &At<Sink>, schemes: [&str; 2], reader: &mut Reader<'_>) -> Option<address::Address> {
    let remedy = format!("write {}://host or {}://host", schemes[0], schemes[1]);
    let url = match &at.value.url {
        Field::Missing => {
            reader.missing(at, "url", remedy);
            return None;
        }
        Field::Wrong => return None,
        Field::Given(url) => url,
    };
    match address::scheme(url.value.trim()) {
        Some(scheme) if schemes.contains(&scheme.as_str()) => {}
        Some(scheme) => {
            reader.error(url, format!("has the scheme {scheme}://, which this sink does not speak"), remedy);
            return None;
        }
        None => {
            reader.error(url, "has no scheme", remedy);
            return None;
        }
    }
    address::network(url, reader)
}

/// `type: mqtt`.
pub fn mqtt(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<MqttSettings> {
    let raw = &at.value;
    let address = url(at, ["mqtts", "mqtt"], reader);
    let password = raw.password.given().map(|password| secrets::resolve(password, reader));
    if let (Some(url), Some(address)) = (raw.url.given(), &address)
        && (address.username.is_some() || address.password.is_some())
    {
        if raw.username.is_missing() && raw.password.is_missing() {
            reader.warn(
                url,
                "holds credentials, which anybody who can read this file sees",
                "move them to `username: NAME` and `password: { env: NAME }` (or file, credential)",
            );
        } else {
            reader.error(
                url,
                "holds credentials, and `username` or `password` is given too",
                "remove them from the URL",
            );
        }
    }
    let topic_prefix = match &raw.topic_prefix {
        Field::Missing => Some("vtagd".to_owned()),
        Field::Wrong => None,
        Field::Given(prefix) => topic(prefix, "vtagd or site/vtagd", reader),
    };
    let trust = trust(at, raw.url.given().is_some_and(|url| url.value.trim().starts_with("mqtts:")), reader);
    let timeout = timeout(&raw.timeout, reader);
    let discovery_prefix = match &raw.discovery_prefix {
        Field::Missing => Some("homeassistant".to_owned()),
        Field::Wrong => None,
        Field::Given(prefix) => topic(prefix, "homeassistant", reader),
    };
    if let Some(prefix) = raw.discovery_prefix.given()
        && !raw.home_assistant.value().unwrap_or_default()
    {
        reader.error(prefix, "has no meaning without `home_assistant: true`", "add it, or remove this key");
    }
    let client_id = match &raw.client_id {
        Field::Given(id) if id.value.is_empty() || id.value.len() > 256 || id.value.chars().any(char::is_control) => {
            reader.error(id, "is not a client id (1 to 256 characters)", "leave it out, and one is made up");
            return None;
        }
        field => field.value(),
    };
    let address = address?;
    Some(MqttSettings {
        url: address.url,
        protocol: raw.protocol.value().unwrap_or_default(),
        client_id,
        topic_prefix: topic_prefix?,
        username: raw.username.value().or(address.username),
        password: match password {
            Some(resolved) => Some(resolved?),
            None => address.password,
        },
        trust: trust?,
        timeout: timeout?,
        home_assistant: raw.home_assistant.value().unwrap_or_default().then_some(discovery_prefix?),
    })
}

/// `type: webhook`.
pub fn webhook(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<WebhookSettings> {
    let raw = &at.value;
    let address = url(at, ["https", "http"], reader);
    let secret = raw.secret.given().map(|source| signing(source, reader));
    let previous = raw.previous_secret.given().map(|source| signing(source, reader));
    if let Some(previous) = raw.previous_secret.given()
        && raw.secret.is_missing()
    {
        reader.error(
            previous,
            "has no meaning without `secret`",
            "the new secret is `secret`, the one it replaces this",
        );
    }
    let headers: Vec<Option<(String, Secret)>> = raw
        .headers
        .given()
        .map(|headers| headers.value.0.iter().map(|header| self::header(header, reader)).collect())
        .unwrap_or_default();
    let trust = trust(at, raw.url.given().is_some_and(|url| url.value.trim().starts_with("https:")), reader);
    let timeout = timeout(&raw.timeout, reader);
    let concurrency = number(&raw.concurrency, 4, 64, reader);
    let batch = match &raw.batch {
        Field::Missing => Some(None),
        Field::Wrong => None,
        Field::Given(batch) => self::batch(batch, reader).map(Some),
    };
    if let (Some(_), Some(concurrency)) = (raw.batch.given(), raw.concurrency.given()) {
        reader.error(
            concurrency,
            "has no meaning beside `batch`: batches go one after the other",
            "remove one of them",
        );
    }
    let address = address?;
    if let Some(url) = raw.url.given()
        && (address.username.is_some() || address.password.is_some())
    {
        let remedy = "remove them; use `secret` to sign, or `headers: { Authorization: { env: NAME } }`";
        reader.error(url, "holds credentials, which a webhook does not use", remedy);
        return None;
    }
    // The current one first. A problem with any has been reported.
    let secrets = [secret, previous].into_iter().flatten().collect::<Option<Vec<_>>>()?;
    Some(WebhookSettings {
        url: address.url,
        secrets,
        headers: headers.into_iter().collect::<Option<_>>()?,
        trust: trust?,
        timeout: timeout?,
        concurrency: concurrency?,
        batch: batch?,
    })
}

fn signing(source: &At<SecretSource>, reader: &mut Reader<'_>) -> Option<Secret> {
    let secret = secrets::resolve(source, reader)?;
    if !is_webhook_secret(&secret) {
        let message = "is not a Standard Webhooks secret: `whsec_` and base64 of 24 to 64 bytes";
        reader.error(source, message, "make one: echo whsec_$(openssl rand -base64 32)");
        return None;
    }
    Some(secret)
}

fn header(at: &At<(String, SecretSource)>, reader: &mut Reader<'_>) -> Option<(String, Secret)> {
    let (name, source) = &at.value;
    let source = At { value: source.clone(), place: at.place, path: at.path.clone() };
    let value = secrets::resolve(&source, reader)?;
    if !value.expose().bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        reader.error(at, "holds something else than printable ASCII, which a header cannot", "check its content");
        return None;
    }
    Some((name.clone(), value))
}

fn batch(at: &At<EventBatch>, reader: &mut Reader<'_>) -> Option<BatchSettings> {
    let max_size = number(&at.value.max_size, 100, 1000, reader)?;
    let max_delay = match &at.value.max_delay {
        Field::Missing => Duration::from_secs(1),
        Field::Wrong => return None,
        Field::Given(delay) if delay.value > Duration::from_secs(3600) => {
            reader.error(delay, "is above 1h", units::DURATION_HELP);
            return None;
        }
        Field::Given(delay) => delay.value,
    };
    Some(BatchSettings { max_size, max_delay })
}

/// A number from 1 to `max`.
pub fn number(field: &Field<usize>, default: usize, max: usize, reader: &mut Reader<'_>) -> Option<usize> {
    match field {
        Field::Missing => Some(default),
        Field::Wrong => None,
        Field::Given(number) if (1..=max).contains(&number.value) => Some(number.value),
        Field::Given(number) => {
            reader.error(number, format!("is not a number from 1 to {max}"), format!("{default} is a good start"));
            None
        }
    }
}

pub(super) fn timeout(field: &Field<Duration>, reader: &mut Reader<'_>) -> Option<Duration> {
    match field {
        Field::Missing => Some(TIMEOUT),
        Field::Wrong => None,
        Field::Given(time) if (Duration::from_secs(1)..=Duration::from_secs(300)).contains(&time.value) => {
            Some(time.value)
        }
        Field::Given(time) => {
            reader.error(time, "is not within 1s and 5m", "20s is a good start");
            None
        }
    }
}

/// A topic, or the beginning of some.
fn topic(at: &At<String>, example: &str, reader: &mut Reader<'_>) -> Option<String> {
    let text = &at.value;
    let bad = text.is_empty()
        || text.starts_with(['/', '$'])
        || text.ends_with('/')
        || text.contains(['+', '#', ' '])
        || text.chars().any(char::is_control);
    if bad {
        let message = "is not a topic prefix: no `+`, `#`, spaces, leading `$`, or `/` at its ends";
        reader.error(at, message, format!("write, for example, {example}"));
    }
    (!bad).then(|| text.clone())
}

/// `ca`, `cert` and `key`. The files must be there; what is in them is read when a connection is made.
pub(super) fn trust(at: &At<Sink>, secure: bool, reader: &mut Reader<'_>) -> Option<Trust> {
    let raw = &at.value;
    let mut file = |field: &Field<String>, what: &str| -> Option<Option<PathBuf>> {
        match field {
            Field::Missing => Some(None),
            Field::Wrong => None,
            Field::Given(at) => {
                if !secure && raw.url.given().is_some() {
                    reader.error(at, "has no meaning without TLS", "use mqtts://, https:// or tls://, or remove it");
                } else if !secure && raw.brokers.given().is_some() {
                    reader.error(at, "has no meaning without TLS", "write `tls: true`, or remove it");
                }
                let path = relative_to(reader.document().file(), Path::new(&at.value));
                streams::existing_file(at, &path, what, reader).map(Some)
            }
        }
    };
    let ca = file(&raw.ca, "name a PEM file of certificate authorities");
    let cert = file(&raw.cert, "name a PEM file of this daemon's certificate");
    let key = file(&raw.key, "name the PEM file of its key");
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

/// Standard Webhooks 1.0: `whsec_` and base64 of 24 to 64 bytes.
fn is_webhook_secret(secret: &Secret) -> bool {
    let Some(base64) = secret.expose().strip_prefix("whsec_") else { return false };
    let digits = base64.trim_end_matches('=');
    let alphabet = digits.chars().all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '/');
    alphabet && base64.len().is_multiple_of(4) && (24..=64).contains(&(digits.len() * 3 / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_secrets_are_whsec_and_base64_of_24_to_64_bytes() {
        for good in ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            assert!(is_webhook_secret(&Secret::new(good)), "{good}");
        }
        for bad in [
            "",
            "whsec_",
            "whsec_short===",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!w",
        ] {
            assert!(!is_webhook_secret(&Secret::new(bad)), "{bad}");
        }
    }
}
