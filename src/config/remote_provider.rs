//! `remote` of `runtime.providers`: an inference server, checked into what connects to it. No connection is made here.

use std::time::Duration;

use super::schema_runtime::ProviderItem;
use crate::infer::options::ProviderChoice;
use crate::infer::remote::{self, Carrier, RemoteOptions, ServerUrl, TileInput};
use crate::section;
use crate::sink::network_keys;
use crate::words;
use crate::yaml::field_reader::{At, Field, FromNode, Reader};
use crate::yaml::key_reference::Key;
use crate::yaml::secrets::{self, SecretSource};
use crate::yaml::values::Bytes;
use crate::yaml::{Node, Value, address};

/// Where Triton listens for gRPC if nobody tells it otherwise.
const GRPC_PORT: u16 = 8001;
/// A picture of 224 × 224 as floats fits; beyond, servers take more than any batch has.
const MESSAGE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
const MAX_URLS: usize = 16;
const URL_REMEDY: &str = "write grpc://host:8001, grpcs://, http://host:8000 or https://";

section! {
    pub struct RemoteKeys {
        /// URL, or list of them | required | `grpc://`, `grpcs://` (TLS), `http://`, `https://`: servers with the same
        /// model, tried in turn
        "url" => url: Urls,
        /// name | required | What the server calls the model
        "model" => model: String,
        /// `u8`, `f32` | `u8` | Pictures as bytes where the server's model takes them, a quarter of the floats; `f32`:
        /// floats always
        "input" => input: TileInput,
        /// 100ms to 60s | `2s` | For a batch, its one retry included
        "timeout" => timeout: Duration,
        /// 1MiB to 1GiB | `4MiB` | Largest request; batches beyond it go in parts. Most servers take no more unless told
        /// to
        "max_message" => max_message: Bytes,
        /// path | the system's | With TLS: PEM file of certificate authorities
        "ca" => ca: String,
        /// path | - | With TLS: PEM file of the daemon's own certificate. All three files are read at every connection
        "cert" => cert: String,
        /// path | - | With TLS: PEM file of the key of `cert`
        "key" => key: String,
        /// credential | - | Sent as `authorization: Bearer …`
        "token" => token: SecretSource,
    }
}

/// One URL, or several.
pub struct Urls(Vec<At<String>>);

impl FromNode for Urls {
    fn schema() -> serde_json::Value {
        let one = String::schema();
        serde_json::json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(node.value, Value::List(_)) {
            return Vec::from_node(node, path, reader).map(Self);
        }
        let value = String::from_node(node, path, reader)?;
        Some(Self(vec![At { value, place: node.place, path: path.to_owned() }]))
    }

    fn keys(_: &str, _: &mut Vec<Key>) {}
}

words! {
    TileInput {
        "u8" => Self::U8,
        "f32" => Self::F32,
    }
}

/// The server of `item`. On `None` a problem has been reported.
pub fn choice(item: &At<ProviderItem>, raw: &RemoteKeys, reader: &mut Reader<'_>) -> Option<ProviderChoice> {
    let urls = urls(item, raw, reader);
    let remedy = "name it as the server does, such as the folder in Triton's model repository";
    let model = reader.required(item, "remote.model", &raw.model, remedy).cloned();
    let model = model.and_then(|model| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let good =
            (1..=200).contains(&model.value.len()) && model.value.chars().all(plain) && !model.value.starts_with('.');
        reader.accept(&model, good, "is not the name of a model on a server", remedy)
    });
    let timeout = raw.timeout.checked(remote::TIMEOUT, |time| {
        let good = (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&time.value);
        reader.accept(time, good, "is not within 100ms and 60s", "2s is a good start")
    });
    let max_message = raw.max_message.checked(remote::MAX_MESSAGE, |size| {
        let remedy = "4MiB is what servers take unless they are told otherwise";
        reader.accept(size, MESSAGE.contains(&size.value.0), "is not within 1MiB and 1GiB", remedy).map(|size| size.0)
    });
    let plain = raw.url.given().is_some_and(|_| urls.as_ref().is_some_and(|urls| urls.iter().all(|url| !url.tls)));
    let without = plain.then_some("use grpcs:// or https://, or remove it");
    let trust = network_keys::trust(item, without, [&raw.ca, &raw.cert, &raw.key], reader);
    let token = raw.token.given().map(|token| secrets::resolve(token, reader));
    let token = match token {
        Some(token) => Some(token?),
        None => None,
    };
    Some(ProviderChoice::Remote(Box::new(RemoteOptions {
        urls: urls?,
        model: model?,
        input: raw.input.value().unwrap_or_default(),
        timeout: timeout?,
        max_message: max_message?,
        trust: trust?,
        token,
    })))
}

fn urls(item: &At<ProviderItem>, raw: &RemoteKeys, reader: &mut Reader<'_>) -> Option<Vec<ServerUrl>> {
    let list = &reader.required(item, "remote.url", &raw.url, URL_REMEDY)?.value.0;
    if list.is_empty() || list.len() > MAX_URLS {
        reader.missing(item, "url", format!("name 1 to {MAX_URLS} servers"));
        return None;
    }
    let found: Vec<Option<ServerUrl>> = list.iter().map(|at| url(at, &raw.token, reader)).collect();
    found.into_iter().collect()
}

fn url(at: &At<String>, token: &Field<SecretSource>, reader: &mut Reader<'_>) -> Option<ServerUrl> {
    let (carrier, tls) = match address::scheme(at.value.trim()).as_deref() {
        Some("grpc") => (Carrier::Grpc, false),
        Some("grpcs") => (Carrier::Grpc, true),
        Some("http") => (Carrier::Http, false),
        Some("https") => (Carrier::Http, true),
        Some(scheme) => {
            let message = format!("has the scheme {scheme}://, which is none of an inference server");
            return reader.refuse(at, message, URL_REMEDY);
        }
        None => return reader.refuse(at, "has no scheme", URL_REMEDY),
    };
    let found = address::network(at, reader)?;
    if found.had_credentials() {
        return reader.refuse(
            at,
            "holds credentials, which an inference server does not use",
            "remove them; a token goes into `token`",
        );
    }
    let (url, path) = (&found.url, found.url.path().trim_end_matches('/'));
    if url.query().is_some() || url.fragment().is_some() || carrier == Carrier::Grpc && !path.is_empty() {
        return reader.refuse(at, "has more than an address", URL_REMEDY);
    }
    if !tls {
        address::report_plain(at, url, token.given().is_some(), "use grpcs:// or https://", reader);
    }
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let port = if carrier == Carrier::Grpc { url.port().unwrap_or(GRPC_PORT) } else { url.port_or_known_default()? };
    Some(ServerUrl { carrier, tls, host, port, base: path.to_owned() })
}
