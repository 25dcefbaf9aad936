//! Checks sinks of type `mqtt`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Mqtt, MqttSettings, Protocol};
use crate::section;
use crate::sink::config::{SinkConfig, SinkItem};
use crate::sink::{Sink, SinkContext, SinkKeys, SinkSettings, SinkStartError, network_keys};
use crate::yaml::field_reader::{At, FromNode, Reader};
use crate::yaml::problem::Severity;
use crate::yaml::secrets::{self, SecretSource};
use crate::yaml::{Node, Place, Value, address};

section! {
    pub struct Keys {
        /// URL | required | `mqtt://` or `mqtts://`
        "url" => url: String,
        /// `3.1.1` or `5` | `3.1.1` | Version of MQTT
        "protocol" => protocol: Protocol,
        /// text | `vtagd` | first part of every topic. Each daemon at one broker [needs its
        /// own](events.md#several-boxes-on-one-broker), such as `vtagd/warehouse-1`
        "topic_prefix" => topic_prefix: String,
        /// text | made up at every start | A broker lets in one client of a name at a time, so no two sinks may share
        /// one
        "client_id" => client_id: String,
        /// text | - | User name
        "username" => username: String,
        /// credential | - | Password
        "password" => password: SecretSource,
        /// path | the system's | With TLS: PEM file of certificate authorities
        "ca" => ca: String,
        /// path | - | With TLS: PEM file of the daemon's own certificate. All three files are read at every connection
        "cert" => cert: String,
        /// path | - | With TLS: PEM file of the key of `cert`
        "key" => key: String,
        /// 1s to 5m | `20s` | For connecting, and for an acknowledgement
        "timeout" => timeout: Duration,
        /// bool | `false` | announce streams and labels to Home Assistant
        "home_assistant" => home_assistant: bool,
        /// bool | `false` | with `home_assistant`: a number for each label, the score of its last event in percent
        "home_assistant_scores" => home_assistant_scores: bool,
        /// text | `homeassistant` | Home Assistant's own setting of that name
        "discovery_prefix" => discovery_prefix: String,
    }
}

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
                reader.refuse_node(node, path, message, "write 3.1.1 or 5")
            }
        }
    }
}

impl SinkConfig for MqttSettings {
    type Keys = Keys;

    fn check(at: &At<SinkItem>, raw: &Keys, reader: &mut Reader<'_>) -> Option<Self> {
        let address = network_keys::zoned_url(at, &raw.url, ["mqtts", "mqtt"], reader);
        let password = raw.password.checked(None, |password| secrets::resolve(password, reader).map(Some));
        if let Some(url) = raw.url.given().filter(|_| address.as_ref().is_some_and(address::Address::had_credentials)) {
            let twice = !raw.username.is_missing() || !raw.password.is_missing();
            address::report_credentials(url, twice, reader);
        }
        if let (Some(url), Some(found)) = (raw.url.given(), &address)
            && found.url.scheme() == "mqtt"
        {
            let sent = !raw.password.is_missing() || found.password.is_some();
            address::report_plain(url, &found.url, sent, "use mqtts://", reader);
        }
        let topic_prefix =
            raw.topic_prefix.checked("vtagd".to_owned(), |prefix| topic(prefix, "vtagd or site/vtagd", reader));
        if let Some(prefix) = raw.topic_prefix.given().filter(|prefix| prefix.value.contains('.')) {
            let message = "has a dot: RabbitMQ makes `/` of it, and no consumer finds these topics there";
            let remedy = "write `-` or `_` instead, unless the broker is another one";
            reader.report(Severity::Notice, prefix.place, &prefix.path, message, remedy);
        }
        let trust = network_keys::trust_of_url(at, &raw.url, "mqtts", [&raw.ca, &raw.cert, &raw.key], reader);
        let timeout = network_keys::timeout(&raw.timeout, reader);
        let discovery_prefix =
            raw.discovery_prefix.checked("homeassistant".to_owned(), |prefix| topic(prefix, "homeassistant", reader));
        let home_assistant = raw.home_assistant.value().unwrap_or_default();
        if let Some(prefix) = raw.discovery_prefix.given().filter(|_| !home_assistant) {
            reader.error(prefix, "has no meaning without `home_assistant: true`", "add it, or remove this key");
        }
        if let Some(scores) = raw.home_assistant_scores.given().filter(|_| !home_assistant) {
            reader.error(scores, "has no meaning without `home_assistant: true`", "add it, or remove this key");
        }
        let client_id = network_keys::client_id(&raw.client_id, "leave it out, and one is made up", reader);
        let address = address?;
        Some(Self {
            url: address.url,
            protocol: raw.protocol.value().unwrap_or_default(),
            client_id: client_id?,
            topic_prefix: topic_prefix?,
            username: raw.username.value().or(address.username),
            password: password?.or(address.password),
            trust: trust?,
            timeout: timeout?,
            home_assistant: home_assistant.then_some(discovery_prefix?),
            home_assistant_scores: raw.home_assistant_scores.value().unwrap_or_default(),
        })
    }

    fn target(&self) -> String {
        self.place()
    }

    fn addresses(&self) -> Vec<(String, u16)> {
        vec![(self.host(), self.port())]
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError> {
        let SinkContext { registry, gallery, owner, facts } = context;
        let (registry, facts) = (Arc::clone(registry), Arc::clone(facts));
        Ok(Box::new(Mqtt::new(self.clone(), registry, gallery.clone(), owner.clone(), facts)))
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
    let message = "is not a topic prefix: no `+`, `#`, spaces, leading `$`, or `/` at its ends";
    reader.accept(at, !bad, message, format!("write, for example, {example}"))
}

/// What sinks of type mqtt must not share at one broker: by its address and what it is, where it stands.
#[derive(Default)]
pub struct Brokers(HashMap<(String, &'static str, String), Place>);

impl Brokers {
    /// Looks at one more sink, of any type.
    pub fn check(&mut self, sink: &At<SinkItem>, settings: &SinkSettings, reader: &mut Reader<'_>) {
        let (SinkSettings::Mqtt(mqtt), Some(SinkKeys::Mqtt(raw))) = (settings, &sink.value.keys) else { return };
        let host = mqtt.host().to_lowercase();
        let host = if matches!(&*host, "localhost" | "::1") { "127.0.0.1" } else { &host };
        let broker = format!("{host}:{}", mqtt.port());
        let mut taken =
            |what: &'static str, value: &str| self.0.insert((broker.clone(), what, value.to_owned()), sink.place);
        if let Some(other) = taken("topic_prefix", &mqtt.topic_prefix) {
            let line = reader.line(other, sink.place);
            let message = format!("has the broker and the topic prefix of the sink in {line}");
            // Both are this daemon's, and it worked: what stays at the broker is published twice.
            let remedy = "give each a `topic_prefix` of its own, or remove one of them";
            reader.report(Severity::Warning, sink.place, &sink.path, message, remedy);
        }
        if let Some(id) = raw.client_id.given()
            && let Some(other) = taken("client_id", &id.value)
        {
            let line = reader.line(other, id.place);
            let message =
                format!("is the client id of the sink in {line} too: the broker would let in one of them at a time");
            reader.error(id, message, "leave it out, and one is made up, or give each its own");
        }
    }
}
