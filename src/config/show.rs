//! The effective configuration: [`Settings`] in, the mapping that a person could have written to get them out, under the file's own
//! keys. Streams show what they inherit. Credentials appear as `***` (invariant 4), and so do queries of URLs, where tokens tend to
//! stand. What a section's settings derive from serde is shown, so that a new key cannot be forgotten. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{HistorySettings, ModelChoice, Settings, SinkSettings, StreamSettings, calibrations};
use crate::frame::thumbprint::Unchanged;
use crate::frame::view::{NamedView, Region};
use crate::infer::options::ProviderChoice;
use crate::infer::{BatchSize, Sessions};
use crate::outbox::route::{Filter, Route};
use crate::platform::secret;
use crate::platform::tls::Trust;
use crate::sample::Interval;
use crate::sink::JsonlTarget;
use crate::sink::nats::NatsLogin;
use crate::source::{CameraTls, Decode, Decoder, Location, Reconnect};

const HIDDEN: &str = "***";

/// See the module.
pub fn effective(settings: &Settings) -> Value {
    let infer = &settings.infer;
    let sessions = match infer.sessions {
        Sessions::Number(number) => json!(number),
        Sessions::Auto { .. } => json!("auto"),
    };
    let preprocess_threads = infer.preprocess_threads.map_or_else(|| json!("auto"), |number| json!(number));
    let max_size = match infer.max_size {
        BatchSize::Pictures(size) => json!(size),
        BatchSize::Auto => json!("auto"),
    };
    let sinks = settings.sinks.iter().zip(&settings.routes);
    let defaults = &settings.defaults;
    let origins = Some(&settings.origins).filter(|origins| !origins.is_empty());
    readable(json!({
        // A key that begins so may stand in a file, and means nothing there.
        "x-environment": origins,
        // Its files' lists stand below already: the key itself would bring them a second time.
        "x-include": Some(&settings.included).filter(|files| !files.is_empty()),
        "instance": settings.instance,
        "model": {
            "path": match &settings.model.choice {
                ModelChoice::Starter => "starter".to_owned(),
                ModelChoice::None => "none".to_owned(),
                ModelChoice::Path(path) => path.display().to_string(),
                ModelChoice::Hub(reference) => reference.to_string(),
            },
            "logit_scale": settings.model.logits.scale,
            "logit_bias": settings.model.logits.bias,
        },
        "runtime": {
            "library": infer.library,
            "providers": infer.providers.iter().map(provider).collect::<Vec<_>>(),
            "strict": infer.strict,
            "probe": { "min_cosine": infer.min_cosine },
            "threads": infer.threads,
            "sessions": sessions,
            "devices": infer.devices,
            "preprocess_threads": preprocess_threads,
            "run_limit": infer.run_limit,
            "batch": { "max_size": max_size, "max_delay": infer.max_delay },
        },
        "sampling": sampling(defaults.interval, defaults.unchanged, defaults.decode, defaults.decoder, defaults.max_pixels),
        "reconnect": reconnect(&defaults.reconnect),
        "streams": settings.streams.iter().map(|one| stream(one, settings)).collect::<Vec<_>>(),
        "labels": settings.label_sets.iter().map(|set| set.name.clone()).collect::<Vec<_>>(),
        "x-label-sets": copies(settings),
        "x-calibrations": calibrations::shown(settings),
        "events": settings.events,
        "sinks": sinks.map(|(sink, route)| with_route(self::sink(sink), route)).collect::<Vec<_>>(),
        "outbox": {
            "path": settings.outbox.path.as_ref().map_or(":memory:".to_owned(), |path| path.display().to_string()),
            "max_size": size(settings.outbox.max_size),
            "max_age": settings.outbox.max_age,
        },
        "snapshots": settings.snapshots.as_ref().map(|snapshots| {
            let mut shown = json!(snapshots);
            shown["max_size"] = size(snapshots.max_size).into();
            shown["url"] = snapshots.url.as_ref().map(|url| bare(url).to_string()).into();
            shown
        }),
        "history": settings.history.as_ref().map_or_else(|| json!("off"), history),
        "state": { "path": settings.state.path() },
        "api": settings.api.as_ref().map_or_else(|| json!({ "listen": "off" }), |api| json!(api)),
        "metrics": { "scores": settings.scores_in_metrics },
        "log": { "level": settings.log.level.to_string().to_lowercase(), "format": settings.log.format },
    }))
}

/// The sets of which there is a copy, and which of the two is in force.
fn copies(settings: &Settings) -> Option<serde_json::Map<String, Value>> {
    let sets = settings.label_sets.iter().zip(&settings.in_force);
    let sets = sets.filter(|(_, set)| set.has_copy());
    let sets: serde_json::Map<_, _> = sets.map(|(set, in_force)| (set.name.clone(), json!(in_force))).collect();
    Some(sets).filter(|sets| !sets.is_empty())
}

fn stream(stream: &StreamSettings, settings: &Settings) -> Value {
    let source = &stream.source;
    let (key, place) = match &source.location {
        Location::Rtsp(address)
        | Location::Http(address)
        | Location::Rtmp(address)
        | Location::Srt(address)
        | Location::Udp(address) => ("url", address.map(bare).to_string()),
        Location::Push(name) => ("url", format!("push://{name}")),
        Location::File(path) => ("url", format!("file://{}", path.display())),
        Location::V4l2(path) => ("url", format!("v4l2://{}", path.display())),
        Location::Template(path) => ("pipeline", path.display().to_string()),
    };
    let sets = stream.label_sets.iter().filter_map(|set| settings.label_sets.get(*set));
    let mut shown = json!({
        "id": source.id.to_string(),
        "enabled": stream.enabled,
        "username": source.username,
        "password": source.password,
        "transport": source.transport,
        "labels": sets.map(|set| set.name.clone()).collect::<Vec<_>>(),
        "sampling": sampling(
            stream.interval,
            stream.unchanged,
            source.decode,
            source.decoder,
            Some(source.sizes().max_pixels),
        ),
        "reconnect": reconnect(&source.reconnect),
        "view": view(&stream.views),
        "pace": source.pace,
        "loop": source.looped,
        "history": if stream.history { "on" } else { "off" },
    });
    shown[key] = place.into();
    match &source.tls {
        CameraTls::System => {}
        CameraTls::Ca(path) => shown["tls"] = json!({ "ca": path }),
        CameraTls::Fingerprint(fingerprint) => shown["tls"] = json!({ "fingerprint": fingerprint.to_string() }),
        CameraTls::Off => shown["tls"] = json!({ "verify": "off" }),
    }
    if let Some(push) = &source.push {
        let hold = push.hold.unwrap_or_else(|| stream.interval.at_start());
        shown["push"] = json!({ "token": push.token, "hold": hold });
    }
    shown
}

fn view(views: &[NamedView]) -> Value {
    let rectangle = |region: Region| json!([region.x, region.y, region.w, region.h]);
    let shown = |NamedView { name, view, mask }: &NamedView| {
        let mut shown = json!({ "mode": view.mode });
        match mask {
            None => shown["region"] = rectangle(view.region),
            Some(mask) => shown["polygon"] = json!(mask.corners()),
        }
        if let Some(name) = name {
            shown["name"] = json!(**name);
        }
        shown
    };
    match views {
        [one @ NamedView { name: None, .. }] => shown(one),
        regions => json!({ "regions": regions.iter().map(shown).collect::<Vec<_>>() }),
    }
}

/// As the key is written; what is in memory has no path.
fn history(history: &HistorySettings) -> Value {
    let mut shown = json!(history);
    shown["max_size"] = size(history.max_size).into();
    // Not the digits that it has as a 32-bit number.
    shown["min_change"] = json!((f64::from(history.min_change) * 1e6).round() / 1e6);
    shown["pictures"] = history.pictures.as_ref().map_or_else(
        || json!("off"),
        |pictures| {
            let mut shown = json!(pictures);
            shown["max_size"] = size(pictures.max_size).into();
            shown
        },
    );
    shown
}

fn sampling(
    interval: Interval,
    unchanged: Option<Unchanged>,
    decode: Decode,
    decoder: Decoder,
    max_pixels: Option<u64>,
) -> Value {
    json!({
        "interval": match interval {
            Interval::Every(interval) => json!(interval),
            Interval::Auto => json!("auto"),
        },
        "unchanged": unchanged.map_or_else(|| json!("off"), |unchanged| json!(unchanged)),
        "decode": decode,
        "decoder": decoder,
        "max_pixels": max_pixels,
    })
}

fn reconnect(Reconnect { ladder, limits }: &Reconnect) -> Value {
    let mut shown = json!(limits);
    shown["first"] = json!(ladder.steps.first());
    shown["max"] = json!(ladder.steps.last());
    shown["stable"] = json!(ladder.stable);
    shown
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
                "url": mqtt.url.map(bare).to_string(),
                "protocol": match mqtt.protocol {
                    crate::sink::mqtt::Protocol::V311 => "3.1.1",
                    crate::sink::mqtt::Protocol::V5 => "5",
                },
                "client_id": mqtt.client_id,
                "topic_prefix": mqtt.topic_prefix,
                "username": mqtt.username,
                "password": mqtt.password,
                "timeout": mqtt.timeout,
                "home_assistant": mqtt.home_assistant.is_some(),
                "home_assistant_scores": mqtt.home_assistant_scores,
                "discovery_prefix": mqtt.home_assistant,
            }),
            &mqtt.trust,
        ),
        SinkSettings::Webhook(webhook) => trusting(
            json!({
                "type": "webhook",
                "url": bare(&webhook.url).to_string(),
                "secret_url": webhook.secret_url,
                "template": webhook.template.as_ref().map(|template| &template.name),
                "template_values": webhook.template.as_ref().map(|template| &template.values),
                "secret": webhook.secrets.first(),
                "previous_secret": webhook.secrets.get(1),
                "headers": webhook.headers.iter().cloned().collect::<BTreeMap<_, _>>(),
                "timeout": webhook.timeout,
                "concurrency": webhook.concurrency,
                "batch": webhook.batch.map(|batch| json!({ "max_size": batch.max_size, "max_delay": batch.max_delay })),
            }),
            &webhook.trust,
        ),
        SinkSettings::Nats(nats) => trusting(
            json!({
                "type": "nats",
                "url": bare(&nats.url).to_string(),
                "subject_prefix": nats.subject_prefix,
                "inbox_prefix": nats.inbox_prefix,
                "username": match &nats.login { NatsLogin::User { name, .. } => Some(name), _ => None },
                "password": matches!(nats.login, NatsLogin::User { password: Some(_), .. } | NatsLogin::Token(_)).then_some(HIDDEN),
                "nkey": matches!(nats.login, NatsLogin::Nkey(_)).then_some(HIDDEN),
                "creds": matches!(nats.login, NatsLogin::Credentials(_)).then_some(HIDDEN),
                "timeout": nats.timeout,
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
                "timeout": kafka.timeout,
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
    sink["name"] = json!(route.name);
    sink["only"] = json!(Some(&route.only).filter(|only| **only != Filter::default()));
    sink["rate"] = json!(route.rate);
    sink
}

fn provider(provider: &ProviderChoice) -> Value {
    let (name, options) = match provider {
        ProviderChoice::Tensorrt(options) => {
            let mut shown = json!(options);
            shown["workspace"] = json!(options.workspace.map(size));
            ("tensorrt", shown)
        }
        ProviderChoice::Cuda(options) => {
            let mut shown = json!(options);
            shown["memory_limit"] = json!(options.memory_limit.map(size));
            // The only thing that may be written there.
            shown["fp16"] = false.into();
            ("cuda", shown)
        }
        ProviderChoice::Openvino(options) => ("openvino", json!(options)),
        ProviderChoice::Cpu(options) => ("cpu", json!(options)),
        ProviderChoice::Remote(options) => {
            let shown = json!({
                "url": options.urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "model": options.model,
                "input": options.input.as_str(),
                "timeout": options.timeout,
                "max_message": size(options.max_message),
                "token": options.token,
            });
            ("remote", trusting(shown, &options.trust))
        }
    };
    json!({ name: options })
}

/// Without what may be a credential.
fn bare(url: &url::Url) -> url::Url {
    let mut shown = secret::without_path(url);
    if shown.query().is_some() {
        shown.set_query(Some(HIDDEN));
    }
    if shown.fragment().is_some() {
        shown.set_fragment(Some(HIDDEN));
    }
    shown
}

/// A size in the unit in which it is shortest: `100MB`, `1GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1000),
    ];
    let whole = UNITS.iter().filter(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    let written = whole.map(|(name, unit)| format!("{}{name}", bytes / unit));
    written.chain([format!("{bytes}B")]).min_by_key(String::len).unwrap_or_default()
}

/// A duration in the largest unit of which it is a whole number.
fn duration(seconds: u64, nanos: f64) -> String {
    if nanos > 0.0 {
        return format!("{}ms", (seconds as f64 * 1e9 + nanos) / 1e6);
    }
    let units = [("d", 86_400), ("h", 3600), ("m", 60)];
    let whole = units.iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(name, unit)| format!("{}{name}", seconds / unit))
}

/// As people write it: durations with their unit, 0.6 instead of 0.6000000238418579, and no key that is not set.
fn readable(value: Value) -> Value {
    match value {
        Value::Object(map) => match (map.len(), map.get("secs").and_then(Value::as_u64), map.get("nanos")) {
            (2, Some(seconds), Some(nanos)) => duration(seconds, nanos.as_f64().unwrap_or_default()).into(),
            _ => map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, readable(v))).collect(),
        },
        Value::Array(items) => items.into_iter().map(readable).collect(),
        Value::Number(number) => match number.as_f64() {
            // It was one of 32 bits.
            Some(value) if number.is_f64() && f64::from(value as f32) == value => {
                (value as f32).to_string().parse::<f64>().map_or(Value::Null, Value::from)
            }
            _ => Value::Number(number),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::yaml::units;

    #[test]
    fn times_and_numbers_read_as_they_are_written() {
        let durations = [1_500_000, 60_000_000, 0, 1, 999_999_999_001].map(Duration::from_micros);
        assert_eq!(readable(json!(durations)), json!(["1500ms", "1m", "0s", "0.001ms", "999999999.001ms"]));
        let numbers = json!([0.6_f32, 0.6, 0.1_f32 + 0.2_f32, 1.0, 7, u64::MAX, { "secs": 1 }, { "a": null }]);
        let shown = "[0.6,0.6,0.3,1.0,7,18446744073709551615,{\"secs\":1},{}]";
        assert_eq!(readable(numbers).to_string(), shown);
        for (bytes, written) in [
            (1 << 20, "1MiB"),
            (100_000_000, "100MB"),
            (1 << 30, "1GiB"),
            (1_234_567, "1234567B"),
            (1536, "1536B"),
            (0, "0B"),
        ] {
            assert_eq!(size(bytes), written);
        }
        for (seconds, written) in [(604_800, "7d"), (90, "90s"), (5400, "90m"), (7200, "2h"), (86_400, "1d")] {
            assert_eq!(readable(json!(Duration::from_secs(seconds))), written);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back_the_same(bytes in 0_u64..1 << 52, micros in 0_u64..1 << 48, unit in 0_usize..4, number in 1_u64..4000) {
            let shown = readable(json!(Duration::from_micros(micros)));
            proptest::prop_assert_eq!(units::duration(shown.as_str().unwrap()), Some(Duration::from_micros(micros)));
            for bytes in [bytes, number * [1000, 1 << 20, 1_000_000_000, 1 << 30][unit]] {
                proptest::prop_assert_eq!(units::size(&size(bytes)), Some(bytes));
            }
        }
    }

    #[test]
    fn a_credential_in_a_query_or_a_path_is_hidden() {
        let shown = bare(&url::Url::parse("https://hub.test/events?key=marked").unwrap());
        assert_eq!(shown.as_str(), "https://hub.test/events?***");
        let shown = bare(&url::Url::parse("rtsp://cam.test/user=admin_password=marked_channel=1.sdp").unwrap());
        assert_eq!(shown.as_str(), "rtsp://cam.test/***");
    }
}
