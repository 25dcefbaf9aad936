//! The effective configuration: [`Settings`] in, the mapping that a person could have written to get them out, under the file's own
//! keys. Streams show what they inherit. Credentials appear as `***` (invariant 4), and so do queries of URLs, where tokens tend to
//! stand. Pure.

use std::fmt::Debug;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{ModelChoice, Settings, SinkSettings, StreamSettings};
use crate::event::Thresholds;
use crate::frame::thumbprint::Unchanged;
use crate::infer::options::ProviderChoice;
use crate::infer::{BatchSize, Sessions};
use crate::outbox::route::{Filter, Route};
use crate::platform::secret;
use crate::platform::tls::Trust;
use crate::sample::Interval;
use crate::sink::JsonlTarget;
use crate::sink::nats::NatsLogin;
use crate::source::{Decode, Decoder, Location, Reconnect};

const HIDDEN: &str = "***";

/// See the module.
pub fn effective(settings: &Settings) -> Value {
    let infer = &settings.infer;
    let sessions = match infer.sessions {
        Sessions::Number(number) => json!(number),
        Sessions::Auto { .. } => json!("auto"),
    };
    let max_size = match infer.max_size {
        BatchSize::Pictures(size) => json!(size),
        BatchSize::Auto => json!("auto"),
    };
    let sinks = settings.sinks.iter().zip(&settings.routes);
    let defaults = &settings.defaults;
    let origins = Some(&settings.origins).filter(|origins| !origins.is_empty());
    without_nulls(json!({
        // A key that begins so may stand in a file, and means nothing there.
        "x-environment": origins,
        "instance": settings.instance,
        "model": { "path": match &settings.model {
            ModelChoice::Starter => "starter".to_owned(),
            ModelChoice::None => "none".to_owned(),
            ModelChoice::Path(path) => path.display().to_string(),
        } },
        "runtime": {
            "library": infer.library,
            "providers": infer.providers.iter().map(provider).collect::<Vec<_>>(),
            "strict": infer.strict,
            "probe": { "min_cosine": number(infer.min_cosine) },
            "threads": infer.threads,
            "sessions": sessions,
            "devices": infer.devices,
            "run_limit": infer.run_limit.map(time),
            "batch": { "max_size": max_size, "max_delay": time(infer.max_delay) },
        },
        "sampling": with_pixels(
            sampling(defaults.interval, defaults.unchanged.as_ref(), defaults.decode, defaults.decoder),
            defaults.max_pixels,
        ),
        "reconnect": reconnect(&defaults.reconnect),
        "streams": settings.streams.iter().map(|one| stream(one, settings)).collect::<Vec<_>>(),
        "labels": settings.label_sets.iter().map(|set| set.name.clone()).collect::<Vec<_>>(),
        "events": events(&settings.events),
        "sinks": sinks.map(|(sink, route)| with_route(self::sink(sink), route)).collect::<Vec<_>>(),
        "outbox": {
            "path": settings.outbox.path.as_ref().map_or(":memory:".to_owned(), |path| path.display().to_string()),
            "max_size": size(settings.outbox.max_size),
            "max_age": time(settings.outbox.max_age),
        },
        "snapshots": settings.snapshots.as_ref().map(|snapshots| json!({
            "path": snapshots.path,
            "max_size": size(snapshots.max_size),
            "max_age": time(snapshots.max_age),
            "max_side": snapshots.max_side,
            "quality": snapshots.quality,
            "url": snapshots.url.as_ref().map(url),
        })),
        "api": match &settings.api {
            None => json!({ "listen": "off" }),
            Some(api) => json!({
                "listen": api.listen.to_string(),
                "token": api.token.as_ref().map(|_| HIDDEN),
                "tls": api.tls.as_ref().map(|tls| json!({ "cert": tls.cert, "key": tls.key })),
                // What is not wanted is not shown.
                "trusted_proxies": Some(&api.trusted_proxies)
                    .filter(|proxies| !proxies.is_empty())
                    .map(|proxies| proxies.iter().map(ToString::to_string).collect::<Vec<_>>()),
            }),
        },
        "log": { "level": settings.log.level.to_string().to_lowercase(), "format": word(&settings.log.format) },
    }))
}

fn stream(stream: &StreamSettings, settings: &Settings) -> Value {
    let source = &stream.source;
    let (key, place) = match &source.location {
        Location::Rtsp(address) | Location::Http(address) => ("url", url(address)),
        Location::File(path) => ("url", format!("file://{}", path.display())),
        Location::V4l2(path) => ("url", format!("v4l2://{}", path.display())),
        Location::Template(path) => ("pipeline", path.display().to_string()),
    };
    let sets = stream.label_sets.iter().filter_map(|set| settings.label_sets.get(*set));
    let region = &stream.view.region;
    let mut shown = json!({
        "id": source.id.to_string(),
        "enabled": stream.enabled,
        "username": source.username,
        "password": source.password.as_ref().map(|_| HIDDEN),
        "labels": sets.map(|set| set.name.clone()).collect::<Vec<_>>(),
        "sampling": with_pixels(
            sampling(stream.interval, stream.unchanged.as_ref(), source.decode, source.decoder),
            Some(source.sizes().max_pixels),
        ),
        "reconnect": reconnect(&source.reconnect),
        "view": { "mode": word(&stream.view.mode), "region": [region.x, region.y, region.w, region.h] },
        "pace": word(&source.pace),
        "loop": source.looped,
    });
    shown[key] = place.into();
    shown
}

fn sampling(interval: Interval, unchanged: Option<&Unchanged>, decode: Decode, decoder: Decoder) -> Value {
    json!({
        "interval": match interval {
            Interval::Every(interval) => time(interval),
            Interval::Auto => "auto".to_owned(),
        },
        "unchanged": match unchanged {
            None => json!("off"),
            Some(gate) => json!({ "tolerance": number(gate.tolerance), "max_age": time(gate.max_age) }),
        },
        "decode": word(&decode),
        "decoder": word(&decoder),
    })
}

fn with_pixels(mut sampling: Value, max_pixels: Option<u64>) -> Value {
    sampling["max_pixels"] = max_pixels.into();
    sampling
}

fn reconnect(reconnect: &Reconnect) -> Value {
    let (ladder, limits) = (&reconnect.ladder, &reconnect.limits);
    json!({
        "first": ladder.steps.first().copied().map(time),
        "max": ladder.steps.last().copied().map(time),
        "stable": time(ladder.stable),
        "first_frame": time(limits.first_frame),
        "stall": time(limits.stall),
    })
}

fn events(events: &Thresholds) -> Value {
    json!({
        "enter": number(events.enter),
        "exit": number(events.exit),
        "after": time(events.after),
        "after_exit": time(events.after_exit),
        "cooldown": time(events.cooldown),
    })
}

fn sink(sink: &SinkSettings) -> Value {
    match sink {
        SinkSettings::Jsonl(JsonlTarget::Stdout) => json!({ "type": "jsonl", "path": "-" }),
        SinkSettings::Jsonl(JsonlTarget::File { path, rotation }) => json!({
            "type": "jsonl",
            "path": path,
            "max_size": rotation.as_ref().map(|rotation| size(rotation.max_size)),
            "keep": rotation.as_ref().map(|rotation| rotation.keep),
        }),
        SinkSettings::Mqtt(mqtt) => trusting(
            json!({
                "type": "mqtt",
                "url": url(&mqtt.url),
                "protocol": match mqtt.protocol {
                    crate::sink::mqtt::Protocol::V311 => "3.1.1",
                    crate::sink::mqtt::Protocol::V5 => "5",
                },
                "client_id": mqtt.client_id,
                "topic_prefix": mqtt.topic_prefix,
                "username": mqtt.username,
                "password": mqtt.password.as_ref().map(|_| HIDDEN),
                "timeout": time(mqtt.timeout),
                "home_assistant": mqtt.home_assistant.is_some(),
                "discovery_prefix": mqtt.home_assistant,
            }),
            &mqtt.trust,
        ),
        SinkSettings::Webhook(webhook) => trusting(
            json!({
                "type": "webhook",
                "url": url(&webhook.url),
                "secret": webhook.secrets.first().map(|_| HIDDEN),
                "previous_secret": webhook.secrets.get(1).map(|_| HIDDEN),
                "headers": webhook.headers.iter().map(|(name, _)| (name.clone(), HIDDEN.into())).collect::<Map<_, _>>(),
                "timeout": time(webhook.timeout),
                "concurrency": webhook.concurrency,
                "batch": webhook.batch.map(|batch| json!({ "max_size": batch.max_size, "max_delay": time(batch.max_delay) })),
            }),
            &webhook.trust,
        ),
        SinkSettings::Nats(nats) => trusting(
            json!({
                "type": "nats",
                "url": url(&nats.url),
                "subject_prefix": nats.subject_prefix,
                "username": match &nats.login { NatsLogin::User { name, .. } => Some(name), _ => None },
                "password": matches!(nats.login, NatsLogin::User { password: Some(_), .. } | NatsLogin::Token(_)).then_some(HIDDEN),
                "nkey": matches!(nats.login, NatsLogin::Nkey(_)).then_some(HIDDEN),
                "creds": matches!(nats.login, NatsLogin::Credentials(_)).then_some(HIDDEN),
                "timeout": time(nats.timeout),
            }),
            &nats.trust,
        ),
        SinkSettings::Kafka(kafka) => trusting(
            json!({
                "type": "kafka",
                "brokers": kafka.brokers,
                "topic": kafka.topic,
                "client_id": kafka.client_id,
                "tls": kafka.tls.is_some(),
                "sasl": kafka.sasl.as_ref().map(|sasl| sasl.mechanism.as_str()),
                "username": kafka.sasl.as_ref().map(|sasl| &sasl.username),
                "password": kafka.sasl.as_ref().map(|_| HIDDEN),
                "timeout": time(kafka.timeout),
            }),
            &kafka.tls.clone().unwrap_or_default(),
        ),
    }
}

fn trusting(mut sink: Value, trust: &Trust) -> Value {
    sink["ca"] = json!(trust.ca);
    sink["cert"] = json!(trust.identity.as_ref().map(|(cert, _)| cert));
    sink["key"] = json!(trust.identity.as_ref().map(|(_, key)| key));
    sink
}

fn with_route(mut sink: Value, route: &Route) -> Value {
    sink["name"] = route.name.clone().into();
    let Filter { streams, sets, labels, types, attributes, min_severity } = &route.only;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let only = without_nulls(json!({
        "streams": some(streams),
        "sets": some(sets),
        "labels": some(labels),
        "types": (!types.is_empty()).then(|| types.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()),
        "attributes": (!attributes.is_empty()).then_some(attributes),
        "min_severity": min_severity.as_ref().map(word),
    }));
    if only.as_object().is_some_and(|only| !only.is_empty()) {
        sink["only"] = only;
    }
    sink["rate"] = json!(route.rate.map(|rate| json!({ "events": rate.events, "per": time(rate.per) })));
    sink
}

fn provider(provider: &ProviderChoice) -> Value {
    let (name, options) = match provider {
        ProviderChoice::Tensorrt(options) => ("tensorrt", json!(options)),
        ProviderChoice::Cuda(options) => {
            let mut options = json!(options);
            // The only thing that may be written there.
            options["fp16"] = false.into();
            ("cuda", options)
        }
        ProviderChoice::Openvino(options) => ("openvino", json!(options)),
        ProviderChoice::Cpu(options) => ("cpu", json!(options)),
    };
    json!({ name: options })
}

/// Names of words are those of the enum, in small letters.
fn word(value: &impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn url(url: &url::Url) -> String {
    let mut shown = secret::without_path(url);
    if shown.query().is_some() {
        shown.set_query(Some(HIDDEN));
    }
    if shown.fragment().is_some() {
        shown.set_fragment(Some(HIDDEN));
    }
    shown.to_string()
}

/// Through decimal digits: 0.6 is no 0.6000000238418579.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn time(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_secs_f64() * 1000.0)
    }
}

fn size(bytes: u64) -> String {
    format!("{bytes}B")
}

/// A key that is not set is not shown.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_read_as_they_are_written() {
        assert_eq!([time(Duration::from_millis(1500)), time(Duration::from_mins(1))], ["1500ms", "60s"]);
        assert_eq!(number(0.6).to_string(), "0.6");
        assert_eq!(size(1 << 20), "1048576B");
    }

    #[test]
    fn a_credential_in_a_query_or_a_path_is_hidden() {
        let shown = url(&url::Url::parse("https://hub.test/events?key=marked").unwrap());
        assert_eq!(shown, "https://hub.test/events?***");
        let shown = url(&url::Url::parse("rtsp://cam.test/user=admin_password=marked_channel=1.sdp").unwrap());
        assert_eq!(shown, "rtsp://cam.test/***");
    }
}
