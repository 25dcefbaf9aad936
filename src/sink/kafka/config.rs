//! Checks sinks of type `kafka`.

use std::time::Duration;

use super::{BUILT, KafkaSettings, Mechanism, Sasl};
use crate::sink::config::{SinkConfig, SinkItem};
use crate::sink::{Sink, SinkContext, SinkStartError, network_keys};
use crate::yaml::address;
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::secrets::{self, SecretSource};
use crate::{section, words};

/// Where brokers listen if nothing is said.
const PORT: u16 = 9092;

section! {
    pub struct Keys {
        /// list of `host:port` | required | some of the cluster's brokers, which name the others; port 9092 if none is
        /// given
        "brokers" => brokers: Vec<At<String>>,
        /// name | `vtagd.events` | where events go
        "topic" => topic: String,
        /// text | `vtagd` | What the brokers call this client
        "client_id" => client_id: String,
        /// bool | `false` | Whether brokers are reached with TLS
        "tls" => tls: bool,
        /// path | the system's | With TLS: PEM file of certificate authorities
        "ca" => ca: String,
        /// path | - | With TLS: PEM file of the daemon's own certificate. All three files are read at every connection
        "cert" => cert: String,
        /// path | - | With TLS: PEM file of the key of `cert`
        "key" => key: String,
        /// `plain`, `scram-sha-256` or `scram-sha-512` | none | how `username` and `password` are shown
        "sasl" => sasl: Mechanism,
        /// text | - | User name
        "username" => username: String,
        /// credential | - | Password
        "password" => password: SecretSource,
        /// 1s to 5m | `20s` | For connecting, and for an acknowledgement
        "timeout" => timeout: Duration,
    }
}

words! {
    Mechanism {
        "plain" => Self::Plain,
        "scram-sha-256" => Self::ScramSha256,
        "scram-sha-512" => Self::ScramSha512,
    }
}

impl SinkConfig for KafkaSettings {
    type Keys = Keys;

    fn check(at: &At<SinkItem>, raw: &Keys, reader: &mut Reader<'_>) -> Option<Self> {
        kafka(at, raw, BUILT, reader)
    }

    fn target(&self) -> String {
        format!("{} {}", self.brokers.join(","), self.topic)
    }

    fn addresses(&self) -> Vec<(String, u16)> {
        let parts = |broker: &String| {
            let (host, port) = broker.rsplit_once(':')?;
            Some((host.to_owned(), port.parse().ok()?))
        };
        self.brokers.iter().filter_map(parts).collect()
    }

    #[cfg(feature = "kafka")]
    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError> {
        Ok(Box::new(super::producer::Kafka::new(self.clone())))
    }

    /// The configuration was refused.
    #[cfg(not(feature = "kafka"))]
    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError> {
        Err(SinkStartError::NotBuilt)
    }
}

/// `built`: whether this binary has the client.
fn kafka(at: &At<SinkItem>, raw: &Keys, built: bool, reader: &mut Reader<'_>) -> Option<KafkaSettings> {
    if let Some(kind) = at.value.common.kind.given().filter(|_| !built) {
        let message = "is kafka, and this vtagd was built without it: its client is a C library";
        let remedy = "build it with `cargo build --release --features kafka`, or use another type";
        reader.error(kind, message, remedy);
    }
    let brokers = brokers(at, raw, reader);
    let topic = raw.topic.checked("vtagd.events".to_owned(), |topic| self::topic(topic, reader));
    let secure = raw.tls.value().unwrap_or_default();
    let plain = !secure && raw.brokers.given().is_some();
    let without = plain.then_some("write `tls: true`, or remove it");
    let trust = network_keys::trust(at, without, [&raw.ca, &raw.cert, &raw.key], reader);
    let timeout = network_keys::timeout(&raw.timeout, reader);
    let sasl = sasl(at, raw, reader);
    let elsewhere = |broker: &At<String>| {
        url::Url::parse(&format!("kafka://{}", broker.value)).is_ok_and(|url| address::is_elsewhere(url.host()))
    };
    // Of SCRAM, only what a password makes goes over the wire.
    if let Some(list) = raw.brokers.given().filter(|list| list.value.iter().any(elsewhere))
        && !secure
        && matches!(&sasl, Some(Some(sasl)) if sasl.mechanism == Mechanism::Plain)
    {
        let message = "are other machines, reached without encryption: whoever is on the way can read the credential";
        reader.warn(list, message, "add `tls: true`");
    }
    let client_id = network_keys::client_id(&raw.client_id, "leave it out, and it is vtagd", reader);
    let trust = trust?;
    Some(KafkaSettings {
        brokers: brokers?,
        topic: topic?,
        client_id: client_id?.unwrap_or_else(|| "vtagd".to_owned()),
        tls: secure.then_some(trust),
        sasl: sasl?,
        timeout: timeout?,
    })
    .filter(|_| built)
}

fn brokers(at: &At<SinkItem>, raw: &Keys, reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let remedy = "write `brokers: [kafka-1.example:9092, kafka-2.example:9092]`";
    let list = reader.required(at, "brokers", &raw.brokers, remedy)?;
    if list.value.is_empty() {
        return reader.refuse(list, "is empty", remedy);
    }
    let checked: Vec<_> = list.value.iter().map(|broker| self::broker(broker, reader)).collect();
    checked.into_iter().collect()
}

/// `host`, `host:port`, `[address]:port`.
fn broker(at: &At<String>, reader: &mut Reader<'_>) -> Option<String> {
    // A URL's rules for hosts and ports are those that are wanted; what else a URL may have is not.
    let parsed = url::Url::parse(&format!("kafka://{}", at.value)).ok();
    let parsed = parsed.filter(|url| url.username().is_empty() && url.password().is_none() && url.port() != Some(0));
    let host = parsed.as_ref().and_then(url::Url::host_str).filter(|host| !host.is_empty());
    match (host, &parsed) {
        (Some(host), Some(url)) if !at.value.contains(['/', '?', '#', ',', '@', '%', ' ']) => {
            Some(format!("{host}:{}", url.port().unwrap_or(PORT)))
        }
        _ => reader.refuse(at, "is not a host and a port", "write, for example, kafka-1.example:9092"),
    }
}

fn topic(at: &At<String>, reader: &mut Reader<'_>) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = &at.value;
    let good = (1..=249).contains(&name.len()) && name.chars().all(fits) && name != "." && name != "..";
    let message = "is not the name of a topic: 1 to 249 letters, digits, `.`, `_` and `-`";
    reader.accept(at, good, message, "write, for example, vtagd.events")
}

/// `sasl`, `username` and `password`: all of them or none. `None`: a problem has been reported.
fn sasl(at: &At<SinkItem>, raw: &Keys, reader: &mut Reader<'_>) -> Option<Option<Sasl>> {
    let given = [raw.sasl.is_missing(), raw.username.is_missing(), raw.password.is_missing()].map(|missing| !missing);
    if given == [false; 3] {
        return Some(None);
    }
    let remedy = "SASL needs `sasl: plain` (or scram-sha-256, scram-sha-512), `username` and `password`";
    if let Some((key, _)) = ["sasl", "username", "password"].into_iter().zip(given).find(|(_, given)| !given) {
        reader.missing(at, key, remedy);
    }
    let password = raw.password.given().and_then(|password| secrets::resolve(password, reader));
    Some(Some(Sasl { mechanism: raw.sasl.value()?, username: raw.username.value()?, password: password? }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sink::SinkKeys;
    use crate::yaml::Document;
    use crate::yaml::field_reader::FromNode;

    /// The settings, and what was said of `text`.
    fn read(text: &str, built: bool) -> (Option<KafkaSettings>, String) {
        let document = Document::parse(Path::new("vtagd.yaml"), text.as_bytes()).unwrap();
        let mut reader = Reader::new(&document);
        let value = SinkItem::from_node(document.root(), "", &mut reader).unwrap();
        let at = At { value, place: document.root().place, path: String::new() };
        let Some(SinkKeys::Kafka(keys)) = &at.value.keys else { panic!("a sink of type kafka") };
        let settings = kafka(&at, keys, built, &mut reader);
        let told = reader.problems().iter().map(|problem| format!("{problem}\n")).collect();
        (settings, told)
    }

    #[test]
    fn brokers_get_the_usual_port_and_are_hosts_not_urls() {
        let (settings, told) = read("{ type: kafka, brokers: [kafka-1, \"k2:9093\", \"[::1]:7\"] }", true);
        assert_eq!(settings.map(|s| s.brokers), Some(["kafka-1:9092", "k2:9093", "[::1]:7"].map(Into::into).to_vec()));
        assert_eq!(told, "");
        for wrong in ["kafka://k", "k:0", "k:99999", "", "u:p@k", "a b", "k,l", "k/x", ":9092"] {
            let (settings, told) = read(&format!("{{ type: kafka, brokers: [\"{wrong}\"] }}"), true);
            assert!(settings.is_none() && told.contains("write, for example, kafka-1.example:9092"), "{wrong}: {told}");
        }
    }

    #[test]
    fn a_vtagd_without_the_client_says_how_to_get_one() {
        let (settings, told) = read("{ type: kafka, brokers: [k] }", false);
        assert_eq!(settings, None);
        assert!(told.contains("type: is kafka") && told.contains("--features kafka"), "{told}");
    }
}
