//! Checks `sinks`.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::routes::{self, Known};
use super::schema::{Sink, SinkKind};
use super::{JsonlTarget, MqttSettings, SinkSettings, WebhookSettings, address, secrets, streams};
use crate::outbox::route::{Filter, Route};
use crate::problem::Severity;
use crate::secret::Secret;
use crate::sink::jsonl::Rotation;
use crate::yaml::reader::{At, Field, Reader};
use crate::yaml::{Value, relative_to};

/// Where events go if nothing is said.
pub fn default() -> (Vec<SinkSettings>, Vec<Route>) {
    let settings = SinkSettings::Jsonl(JsonlTarget::Stdout);
    let (kind, target) = routes::identity(&settings);
    let (name, key) = (format!("{kind}-0"), format!("{kind} {target}"));
    (vec![settings], vec![Route { name, key, only: Filter::default(), rate: None }])
}

/// Checks all sinks and their routes; those with a problem are left out.
pub fn check(list: &[At<Sink>], known: &Known, reader: &mut Reader<'_>) -> (Vec<SinkSettings>, Vec<Route>) {
    let mut targets: HashMap<String, u64> = HashMap::new();
    let mut sinks = Vec::with_capacity(list.len());
    for sink in list {
        let Some(settings) = one(sink, reader) else { continue };
        if let Some(line) = targets.insert(routes::identity(&settings).1, sink.place.line) {
            reader.error(sink, format!("goes to the same place as the sink in line {line}"), "remove one of them");
            continue;
        }
        sinks.push((sink, settings));
    }
    let routes = routes::check(&sinks, known, reader);
    (sinks.into_iter().map(|(_, settings)| settings).collect(), routes)
}

fn one(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<SinkSettings> {
    let kind = match &at.value.kind {
        Field::Missing => {
            reader.missing(at, "type", "write `type: jsonl`, `type: mqtt` or `type: webhook`");
            return None;
        }
        Field::Wrong => return None,
        Field::Given(kind) => kind.value,
    };
    let (name, own): (&str, &[&str]) = match kind {
        SinkKind::Jsonl => ("jsonl", &["path", "max_size", "keep"]),
        SinkKind::Mqtt => {
            ("mqtt", &["url", "topic_prefix", "client_id", "username", "password", "ca", "home_assistant"])
        }
        SinkKind::Webhook => ("webhook", &["url", "secret"]),
    };
    let keys = [&["type"], own, &["name", "only", "rate"]].concat();
    let all = super::keys();
    let mut foreign = false;
    if let Value::Map(entries) = &reader.document().find(&at.path).value {
        for entry in entries {
            let known = all.iter().any(|key| key.strip_prefix("sinks[].") == Some(&entry.key));
            if known && !keys.contains(&entry.key.as_str()) {
                let path = format!("{}.{}", at.path, entry.key);
                let message = format!("is not a key of a sink of type {name}");
                let remedy = format!("its keys: {}", keys.join(", "));
                reader.report(Severity::Error, entry.key_place, &path, message, remedy);
                foreign = true;
            }
        }
    }
    let settings = match kind {
        SinkKind::Jsonl => jsonl(at, reader).map(SinkSettings::Jsonl),
        SinkKind::Mqtt => mqtt(at, reader).map(SinkSettings::Mqtt),
        SinkKind::Webhook => webhook(at, reader).map(SinkSettings::Webhook),
    };
    settings.filter(|_| !foreign)
}

fn jsonl(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<JsonlTarget> {
    let path = match &at.value.path {
        Field::Missing => {
            reader.missing(at, "path", "name a file, or write \"-\" for standard output");
            return None;
        }
        Field::Wrong => return None,
        Field::Given(path) => path,
    };
    let rotation = rotation(at, reader);
    if path.value == "-" {
        if let Some(size) = at.value.max_size.given() {
            reader.error(size, "has no meaning for standard output", "remove it");
        }
        return Some(JsonlTarget::Stdout);
    }
    output(path, false, reader).map(|path| JsonlTarget::File { path, rotation })
}

fn rotation(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<Rotation> {
    const KEEP: usize = 5;
    const MAX_KEEP: usize = 1000;
    let keep = at.value.keep.given();
    if let Some(keep) = keep {
        if at.value.max_size.is_missing() {
            reader.error(keep, "has no meaning without `max_size`", "add `max_size: 100MiB`, or remove it");
        } else if keep.value > MAX_KEEP {
            reader.error(keep, format!("is above {MAX_KEEP}"), "5 is a good start");
        }
    }
    let size = at.value.max_size.given()?;
    if size.value.0 == 0 {
        reader.error(size, "must be above 0", crate::yaml::units::SIZE_HELP);
    }
    Some(Rotation { max_size: size.value.0, keep: keep.map_or(KEEP, |keep| keep.value) })
}

/// A place that can be written once its missing folders are made: a file, or a folder if `folder`. Permissions are not looked at,
/// because `check` may be run by somebody else than the daemon.
pub fn output(at: &At<String>, folder: bool, reader: &mut Reader<'_>) -> Option<PathBuf> {
    if at.value.trim().is_empty() {
        reader.error(at, "is empty", "name a path");
        return None;
    }
    let path = relative_to(reader.document().file(), Path::new(&at.value));
    if !folder && path.is_dir() {
        reader.error(at, format!("{} is a folder", path.display()), "name a file in it");
        return None;
    }
    if let Ok(metadata) = path.metadata()
        && !folder
        && !metadata.is_file()
        && !metadata.file_type().is_char_device()
    {
        reader.error(at, format!("{} is neither a file nor a character device", path.display()), "choose another path");
        return None;
    }
    let above = if folder { Some(path.as_path()) } else { path.parent() };
    let obstacle = above.into_iter().flat_map(Path::ancestors).find(|folder| folder.exists()).filter(|p| !p.is_dir());
    if let Some(obstacle) = obstacle {
        let message = format!("{} cannot be made: {} is not a folder", path.display(), obstacle.display());
        reader.error(at, message, "choose another path");
        return None;
    }
    Some(path)
}

/// The URL of a sink, its scheme checked, its credentials apart.
fn url(at: &At<Sink>, schemes: [&str; 2], reader: &mut Reader<'_>) -> Option<address::Address> {
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

fn mqtt(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<MqttSettings> {
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
        Field::Given(prefix) => {
            let text = &prefix.value;
            let bad = text.is_empty()
                || text.starts_with(['/', '$'])
                || text.ends_with('/')
                || text.contains(['+', '#', ' '])
                || text.chars().any(char::is_control);
            if bad {
                let message = "is not a topic prefix: no `+`, `#`, spaces, leading `$`, or `/` at its ends";
                reader.error(prefix, message, "write, for example, vtagd or site/vtagd");
            }
            (!bad).then(|| text.clone())
        }
    };
    let ca = match &raw.ca {
        Field::Missing => Some(None),
        Field::Wrong => None,
        Field::Given(ca) => {
            let path = relative_to(reader.document().file(), Path::new(&ca.value));
            streams::existing_file(ca, &path, "name a PEM file of certificate authorities", reader).map(Some)
        }
    };
    let address = address?;
    Some(MqttSettings {
        url: address.url,
        client_id: raw.client_id.value(),
        topic_prefix: topic_prefix?,
        username: raw.username.value().or(address.username),
        password: match password {
            Some(resolved) => Some(resolved?),
            None => address.password,
        },
        ca: ca?,
        home_assistant: raw.home_assistant.value().unwrap_or_default(),
    })
}

fn webhook(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<WebhookSettings> {
    let raw = &at.value;
    let address = url(at, ["https", "http"], reader);
    let secret = raw.secret.given().map(|source| {
        let secret = secrets::resolve(source, reader)?;
        if !is_webhook_secret(&secret) {
            let message = "is not a Standard Webhooks secret: `whsec_` and base64 of 24 to 64 bytes";
            reader.error(source, message, "make one: echo whsec_$(openssl rand -base64 32)");
            return None;
        }
        Some(secret)
    });
    let address = address?;
    if let Some(url) = raw.url.given()
        && (address.username.is_some() || address.password.is_some())
    {
        reader.error(url, "holds credentials, which a webhook does not use", "remove them; use `secret` to sign");
        return None;
    }
    let secret = match secret {
        Some(resolved) => Some(resolved?),
        None => None,
    };
    Some(WebhookSettings { url: address.url, secret })
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
