//! What is told of a tag: a CloudEvents 1.0 event in structured JSON, the same body on every sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::EndReason;

/// The three things that happen to a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    Start,
    Update,
    End,
}

impl EventKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Update => "update",
            Self::End => "end",
        }
    }

    /// The kind of a CloudEvents `type`.
    pub fn of_cloud_type(name: &str) -> Option<Self> {
        [Self::Start, Self::Update, Self::End].into_iter().find(|kind| kind.cloud_type() == name)
    }

    /// CloudEvents `type`.
    pub const fn cloud_type(self) -> &'static str {
        match self {
            Self::Start => "dev.vtagd.tag.start",
            Self::Update => "dev.vtagd.tag.update",
            Self::End => "dev.vtagd.tag.end",
        }
    }
}

/// Which model gave the scores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    pub name: Arc<str>,
    pub fingerprint: Arc<str>,
    /// What computed it: a provider of this machine, or `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Arc<str>>,
}

/// The event's `data`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Data {
    pub stream: String,
    /// The part of the picture, where the stream has named ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub set: String,
    pub label: String,
    /// The same from start to end.
    pub tag_id: Uuid,
    /// Score of the sample that caused the event, 0..=1.
    pub score: f32,
    /// Its logit: by how much the label leads what it competes with. `None` where it competes with nothing.
    #[serde(default)]
    pub margin: Option<f32>,
    /// The strongest of that: a label's name, or a prompt.
    #[serde(default)]
    pub rival: Option<String>,
    /// Best score of the tag so far.
    pub peak: f32,
    pub started_at: jiff::Timestamp,
    pub ended_at: Option<jiff::Timestamp>,
    /// When the sample that caused the event was taken.
    pub sampled_at: jiff::Timestamp,
    /// Seconds from the stream's first PTS.
    pub media_start: f64,
    pub media_end: Option<f64>,
    /// Only on `end`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    pub model: ModelRef,
    pub attributes: Arc<BTreeMap<String, serde_json::Value>>,
    /// URL or MQTT topic of the picture, never the picture.
    pub snapshot: Option<String>,
}

impl Data {
    /// The stream, with the region where there is one: for people.
    pub fn place(&self) -> String {
        self.region.as_ref().map_or_else(|| self.stream.clone(), |region| format!("{}/{region}", self.stream))
    }
}

/// One event. `id` is made once and never changes on a retry.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: Uuid,
    /// CloudEvents `source`, see [`source_uri`].
    pub source: String,
    pub kind: EventKind,
    pub data: Data,
}

impl Event {
    /// Counts it among those that were made.
    pub fn count(&self) {
        let Data { stream, region, set, label, .. } = &self.data;
        let (stream, set, label, kind) = (stream.clone(), set.clone(), label.clone(), self.kind.as_str());
        let counter = match region.clone() {
            None => {
                metrics::counter!("vtagd_events_total", "stream" => stream, "set" => set, "label" => label, "type" => kind)
            }
            Some(region) => {
                metrics::counter!("vtagd_events_total", "stream" => stream, "region" => region, "set" => set, "label" => label, "type" => kind)
            }
        };
        counter.increment(1);
    }

    /// The end of the tag that this event, its latest, left open when the daemon was killed. It ended when it was last heard of.
    #[must_use]
    pub fn interrupted(&self) -> Self {
        let since = self.data.sampled_at.as_millisecond() - self.data.started_at.as_millisecond();
        let data = Data {
            ended_at: Some(self.data.sampled_at),
            // Media time goes with the wall clock of the samples, as far as anybody can still tell.
            media_end: Some(self.data.media_start + since.max(0) as f64 / 1000.0),
            reason: Some(EndReason::Interrupted),
            ..self.data.clone()
        };
        Self { id: Uuid::now_v7(), source: self.source.clone(), kind: EventKind::End, data }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Event", 8)?;
        s.serialize_field("specversion", "1.0")?;
        s.serialize_field("id", &self.id)?;
        s.serialize_field("source", &self.source)?;
        s.serialize_field("type", self.kind.cloud_type())?;
        s.serialize_field("subject", &format!("{}/{}", self.data.set, self.data.label))?;
        s.serialize_field("time", &self.data.sampled_at)?;
        s.serialize_field("datacontenttype", "application/json")?;
        s.serialize_field("data", &self.data)?;
        s.end()
    }
}

/// As it was stored; what a later version may have added is passed over.
impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            id: Uuid,
            source: String,
            r#type: String,
            data: Data,
        }
        let Wire { id, source, r#type, data } = Wire::deserialize(deserializer)?;
        let kind = EventKind::of_cloud_type(&r#type)
            .ok_or_else(|| D::Error::custom(format!("unknown event type {}", r#type)))?;
        Ok(Self { id, source, kind, data })
    }
}

/// `/<instance>/streams/<id>`, the instance percent-encoded so that any name gives a URI reference.
pub fn source_uri(instance: &str, stream: &str) -> String {
    let instance: String = url::form_urlencoded::byte_serialize(instance.as_bytes()).collect();
    format!("/{}/streams/{stream}", instance.replace('+', "%20"))
}

/// Media time as seconds, to the millisecond: finer digits are noise of the container's time base.
pub fn seconds(media: Duration) -> f64 {
    (media.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_cloudevents_object_with_every_field_of_the_contract() {
        let event = Event {
            id: Uuid::now_v7(),
            source: source_uri("edge 1", "dock-3"),
            kind: EventKind::Start,
            data: Data {
                stream: "dock-3".into(),
                region: None,
                set: "dock-safety".into(),
                label: "forklift".into(),
                tag_id: Uuid::now_v7(),
                score: 0.75,
                margin: Some(1.098_612_3),
                rival: Some("an empty loading dock".into()),
                peak: 0.75,
                started_at: jiff::Timestamp::UNIX_EPOCH,
                ended_at: None,
                sampled_at: jiff::Timestamp::UNIX_EPOCH,
                media_start: seconds(Duration::from_millis(4500)),
                media_end: None,
                reason: None,
                model: ModelRef { name: "starter".into(), fingerprint: "ab".into(), provider: None },
                attributes: Arc::new(BTreeMap::from([("severity".to_owned(), "warning".into())])),
                snapshot: None,
            },
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["type"], "dev.vtagd.tag.start");
        assert_eq!(json["source"], "/edge%201/streams/dock-3");
        assert_eq!(json["time"], "1970-01-01T00:00:00Z");
        assert_eq!(json["id"].as_str().map(str::len), Some(36));
        let data = json["data"].as_object().unwrap();
        let wanted = [
            "stream",
            "set",
            "label",
            "tag_id",
            "score",
            "margin",
            "rival",
            "peak",
            "started_at",
            "ended_at",
            "sampled_at",
            "media_start",
            "media_end",
            "model",
            "attributes",
            "snapshot",
        ];
        for key in wanted {
            assert!(data.contains_key(key), "data.{key} is missing");
        }
        assert_eq!(data.len(), wanted.len());
        assert!(data["media_end"].is_null() && data["media_start"] == 4.5);
        let back: Event = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), json, "what was stored is what is sent");
    }
}
