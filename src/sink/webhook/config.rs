//! Checks sinks of type `webhook`.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::body_template::{self, BodyTemplate};
use super::{BatchSettings, TemplateSettings, Webhook, WebhookSettings};
use crate::platform::hex::hex;
use crate::platform::secret::{self, Secret};
use crate::platform::secret_path;
use crate::section;
use crate::sink::config::{SinkConfig, SinkItem};
use crate::sink::{Sink, SinkContext, SinkStartError, network_keys};
use crate::yaml::checks::{self, number};
use crate::yaml::field_reader::{At, Field, FromNode, Reader, join};
use crate::yaml::problem::Severity;
use crate::yaml::secrets::{self, SecretSource};
use crate::yaml::{Node, Value, address, units};

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

section! {
    pub struct Keys {
        /// URL | required, or `secret_url` | `http://` or `https://`
        "url" => url: String,
        /// credential | - | instead of `url`: the whole URL, where that is a credential, as Slack's, Discord's and Telegram's
        "secret_url" => secret_url: SecretSource,
        /// `discord`, `gotify`, `ntfy`, `slack`, `telegram` or path | the CloudEvent | [What the body
        /// is](events.md#bodies-for-other-programs)
        "template" => template: String,
        /// names and texts | - | what the template calls `values`, such as `{ topic: alerts }` for ntfy
        "template_values" => template_values: Values,
        /// credential | - | Signs each request, `whsec_` and base64 (Standard Webhooks)
        "secret" => secret: SecretSource,
        /// credential | - | The secret that `secret` replaces; while it is here, requests bear both signatures
        "previous_secret" => previous_secret: SecretSource,
        /// names, each with a credential | - | more headers, such as `{ Authorization: { env: HOOK_AUTH } }`
        "headers" => headers: Headers,
        /// path | the system's | With TLS: PEM file of certificate authorities
        "ca" => ca: String,
        /// path | - | With TLS: PEM file of the daemon's own certificate. All three files are read at every connection
        "cert" => cert: String,
        /// path | - | With TLS: PEM file of the key of `cert`
        "key" => key: String,
        /// 1s to 5m | `20s` | For a whole request
        "timeout" => timeout: Duration,
        /// 1 to 64 | `4` | requests under way at a time. Events of one stream and label go one after the other all the
        /// same
        "concurrency" => concurrency: usize,
        /// section | off | several events in one request, one request at a time
        "batch" => batch: BatchKeys,
    }
}

section! {
    /// Several events in one request.
    pub struct BatchKeys {
        /// 1 to 1000 | `100` | Events in a request
        "max_size" => max_size: usize,
        /// duration up to 1h | `1s` | How long the first one waits for others
        "max_delay" => max_delay: Duration,
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
            return reader.refuse_kind(
                node,
                path,
                "a mapping",
                "write names and values, such as { Authorization: { env: TOKEN } }",
            );
        };
        let names: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let mut map = reader.map(node, path, &names)?;
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

/// Names and texts.
pub struct Values(BTreeMap<String, String>);

impl FromNode for Values {
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        use serde_json::Value::{Bool, Number, Object, String};
        let Object(map) = serde_json::Value::from_node(node, path, reader)? else {
            return reader.refuse_kind(node, path, "a mapping", "write names and texts, such as { topic: alerts }");
        };
        let text = |(name, value)| match value {
            String(text) => Some((name, text)),
            Number(number) => Some((name, number.to_string())),
            Bool(value) => Some((name, value.to_string())),
            _ => None,
        };
        match map.into_iter().map(text).collect() {
            Some(values) => Some(Self(values)),
            None => reader.refuse_node(node, path, "has something else than a text in it", "write names and texts"),
        }
    }
}

impl SinkConfig for WebhookSettings {
    type Keys = Keys;

    fn check(at: &At<SinkItem>, raw: &Keys, reader: &mut Reader<'_>) -> Option<Self> {
        let secret_url = raw.secret_url.given().map(|source| self::secret_url(source, reader));
        if let (Some(url), Some(_)) = (raw.url.given(), raw.secret_url.given()) {
            reader.error(url, "cannot stand beside `secret_url`", "remove one of them");
        }
        let asked = raw.secret_url.is_missing();
        let address = if asked { network_keys::url(at, &raw.url, ["https", "http"], reader) } else { None };
        // `secret` signs, and stays here.
        if let (Some(url), Some(found)) = (raw.url.given(), &address)
            && found.url.scheme() == "http"
        {
            let sent = raw.headers.given().is_some_and(|headers| !headers.value.0.is_empty());
            address::report_plain(url, &found.url, sent, "use https://", reader);
        }
        if let (Some(url), Some(found)) = (raw.url.given(), &address)
            && secret_path::is_credential(&found.url)
        {
            secret::holds_one(found.url.path());
            let remedy = "put the whole URL into a file, a credential or a variable, and name that as `secret_url`";
            reader.warn(url, "has a path that is a credential, and stands where others read it", remedy);
        }
        let secret = raw.secret.given().map(|source| signing(source, reader));
        let previous = raw.previous_secret.given().map(|source| signing(source, reader));
        if let Some(previous) = raw.previous_secret.given()
            && raw.secret.is_missing()
        {
            let remedy = "the new secret is `secret`, the one it replaces this";
            reader.error(previous, "has no meaning without `secret`", remedy);
        }
        let headers = raw.headers.given().map(|headers| headers.value.0.as_slice()).unwrap_or_default();
        let headers: Vec<_> = headers.iter().map(|header| self::header(header, reader)).collect();
        let trust = network_keys::trust_of_url(at, &raw.url, "https", [&raw.ca, &raw.cert, &raw.key], reader);
        let timeout = network_keys::timeout(&raw.timeout, reader);
        let concurrency = number(&raw.concurrency, 4, 64, reader);
        let batch = raw.batch.checked(None, |batch| self::batch(batch, reader).map(Some));
        if let (Some(_), Some(concurrency)) = (raw.batch.given(), raw.concurrency.given()) {
            let message = "has no meaning beside `batch`: batches go one after the other";
            reader.error(concurrency, message, "remove one of them");
        }
        let template = template(raw, reader);
        if let (Some(_), Some(template)) = (raw.batch.given(), raw.template.given()) {
            let message = "makes a body of one event, and `batch` sends several";
            reader.error(template, message, "remove one of them");
        }
        let (url, secret_url) = match secret_url {
            Some(found) => found.map(|(url, secret)| (url, Some(secret)))?,
            None => {
                let address = address?;
                if let Some(url) = raw.url.given().filter(|_| address.had_credentials()) {
                    let remedy = "remove them; use `secret` to sign, or `headers: { Authorization: { env: NAME } }`";
                    return reader.refuse(url, "holds credentials, which a webhook does not use", remedy);
                }
                // From here on as if it had been written so.
                let hidden = secret_path::is_credential(&address.url).then(|| Secret::new(address.url.as_str()));
                (if hidden.is_some() { beginning(address.url) } else { address.url }, hidden)
            }
        };
        Some(Self {
            url,
            secret_url,
            template: template?,
            // The current one first. A problem with any has been reported.
            secrets: [secret, previous].into_iter().flatten().collect::<Option<_>>()?,
            headers: headers.into_iter().collect::<Option<_>>()?,
            trust: trust?,
            timeout: timeout?,
            concurrency: concurrency?,
            batch: batch?,
        })
    }

    /// With a digest in the place of the query, in which tokens tend to stand: the outbox keeps this.
    fn target(&self) -> String {
        let secret = self.secret_url.as_ref().map(Secret::expose);
        with_digest(self.url.clone(), secret.or(self.url.query()))
    }

    /// A path that is a credential once stood there as it is.
    fn former_target(&self) -> Option<String> {
        let whole = url::Url::parse(self.secret_url.as_ref()?.expose().trim()).ok()?;
        Some(with_digest(whole.clone(), whole.query()))
    }

    fn addresses(&self) -> Vec<(String, u16)> {
        // One that is not here is the daemon's to know.
        let url = Some(&self.url).filter(|_| !self.secret_url.as_ref().is_some_and(Secret::is_absent));
        let place = url.and_then(|url| url.host_str().zip(url.port_or_known_default()));
        place.map(|(host, port)| (host.to_owned(), port)).into_iter().collect()
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError> {
        Ok(Box::new(Webhook::new(self.clone())))
    }
}

/// `place` with a digest of `hidden` in the place of its query.
fn with_digest(mut place: url::Url, hidden: Option<&str>) -> String {
    if let Some(hidden) = hidden {
        place.set_query(Some(&hex(&Sha256::digest(hidden)[..8])));
    }
    place.to_string()
}

/// What of an address is no credential.
fn beginning(mut url: url::Url) -> url::Url {
    url.set_path("");
    url.set_query(None);
    url.set_fragment(None);
    let _ = (url.set_username(""), url.set_password(None));
    url
}

/// The beginning of an address that is a credential, and the whole.
fn secret_url(source: &At<SecretSource>, reader: &mut Reader<'_>) -> Option<(url::Url, Secret)> {
    let parsed = |secret: &Secret| {
        let url = url::Url::parse(secret.expose().trim()).ok()?;
        (["https", "http"].contains(&url.scheme()) && url.host().is_some()).then_some(url)
    };
    let told = ["holds no URL of http:// or https://", "write the whole URL into it, as the other side gives it"];
    let secret = secrets::resolve_if(source, |secret| parsed(secret).is_some(), told, reader)?;
    // One that is not here is the daemon's to know.
    let url = beginning(parsed(&secret).or_else(|| url::Url::parse("https://unknown.invalid").ok())?);
    let at = At { value: url.to_string(), place: source.place, path: source.path.clone() };
    if url.scheme() == "http" {
        address::report_plain(&at, &url, true, "use https://", reader);
    }
    Some((url, secret))
}

/// `template` and what it is given; tried out.
fn template(raw: &Keys, reader: &mut Reader<'_>) -> Option<Option<TemplateSettings>> {
    let values = raw.template_values.given().map(|values| values.value.0.clone()).unwrap_or_default();
    let Some(name) = raw.template.given() else {
        if let Some(values) = raw.template_values.given() {
            reader.error(values, "has no meaning without `template`", "add it, or remove this key");
        }
        return (!matches!(raw.template, Field::Wrong)).then_some(None);
    };
    let settings = match TemplateSettings::ready(&name.value, values.clone()) {
        Some(ready) => ready,
        None => {
            let known: Vec<_> = body_template::ready().collect();
            let remedy = format!("ready ones: {}; or name a file with a template of your own", known.join(", "));
            let file = checks::existing_file(name, &remedy, reader)?;
            let source = match std::fs::read_to_string(&file) {
                Ok(source) => source,
                Err(error) => return reader.refuse(name, format!("cannot be read: {error}"), remedy),
            };
            let is_json = [".json", ".json.j2"].iter().any(|end| name.value.ends_with(end));
            TemplateSettings { name: name.value.clone(), source, is_json, values }
        }
    };
    match BodyTemplate::new(&settings).and_then(|template| template.try_out()) {
        Ok(()) => Some(Some(settings)),
        Err(why) => {
            let remedy = "mend it; what it names as `values.NAME` stands in `template_values: { NAME: … }`";
            reader.refuse(name, format!("is a template that fails: {why}"), remedy)
        }
    }
}

fn signing(source: &At<SecretSource>, reader: &mut Reader<'_>) -> Option<Secret> {
    let message = "is not a Standard Webhooks secret: `whsec_` and base64 of 24 to 64 bytes";
    let told = [message, "make one: echo whsec_$(openssl rand -base64 32)"];
    secrets::resolve_if(source, is_webhook_secret, told, reader)
}

fn header(at: &At<(String, SecretSource)>, reader: &mut Reader<'_>) -> Option<(String, Secret)> {
    let (name, source) = &at.value;
    let source = At { value: source.clone(), place: at.place, path: at.path.clone() };
    let fits = |value: &Secret| value.expose().bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let told = ["holds something else than printable ASCII, which a header cannot", "check its content"];
    Some((name.clone(), secrets::resolve_if(&source, fits, told, reader)?))
}

fn batch(at: &At<BatchKeys>, reader: &mut Reader<'_>) -> Option<BatchSettings> {
    let max_size = number(&at.value.max_size, 100, 1000, reader)?;
    let max_delay = at.value.max_delay.checked(Duration::from_secs(1), |delay| {
        reader.accept(delay, delay.value <= Duration::from_secs(3600), "is above 1h", units::DURATION_HELP)
    });
    Some(BatchSettings { max_size, max_delay: max_delay? })
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
