//! When a tag was, as its events tell it. In: its events, in any order. Out: from when to when, by the clock and in media time. Pure.

use super::{Event, EventKind};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct TagTimes {
    pub stream: String,
    pub region: Option<String>,
    pub set: String,
    pub label: String,
    /// Seconds from the stream's first PTS.
    pub media: (f64, f64),
    pub wall: (jiff::Timestamp, jiff::Timestamp),
    has_ended: bool,
}

impl TagTimes {
    /// As far as one event of it tells.
    pub fn of(event: &Event) -> Self {
        let data = &event.data;
        let lasted = data.sampled_at.duration_since(data.started_at).as_secs_f64().max(0.0);
        Self {
            stream: data.stream.clone(),
            region: data.region.clone(),
            set: data.set.clone(),
            label: data.label.clone(),
            media: (data.media_start, data.media_end.unwrap_or(data.media_start + lasted)),
            wall: (data.started_at, data.ended_at.unwrap_or(data.sampled_at)),
            has_ended: event.kind == EventKind::End,
        }
    }

    /// Takes in another event of the same tag.
    pub fn note(&mut self, event: &Event) {
        let other = Self::of(event);
        if self.has_ended {
            return;
        }
        if other.has_ended {
            *self = other;
        } else {
            (self.media.1, self.wall.1) = (self.media.1.max(other.media.1), self.wall.1.max(other.wall.1));
        }
    }

    /// Whether its end is known.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_as_far_as_it_has_been_told_and_its_end_has_the_last_word() {
        let event = |kind: &str, sampled: u8, end: Option<u8>| -> Event {
            let time = |second: u8| format!("2026-05-01T12:00:{second:02}Z");
            serde_json::from_value(serde_json::json!({
                "specversion": "1.0", "id": "019a1b2c-0000-7000-8000-000000000000", "source": "/a/streams/gate",
                "type": format!("dev.vtagd.tag.{kind}"), "subject": "yard/car", "time": time(sampled), "datacontenttype": "application/json",
                "data": {
                    "stream": "gate", "set": "yard", "label": "car", "tag_id": "019a1b2c-0000-7000-8000-000000000001",
                    "score": 0.9, "peak": 0.9, "started_at": time(10), "ended_at": end.map(time), "sampled_at": time(sampled),
                    "media_start": 4.0, "media_end": end.map(|end| f64::from(end) - 6.0),
                    "model": { "name": "m", "fingerprint": "f" }, "attributes": {}, "snapshot": null,
                },
            }))
            .unwrap()
        };
        let mut tag = TagTimes::of(&event("start", 12, None));
        assert_eq!((tag.media, tag.has_ended()), ((4.0, 6.0), false));
        for other in [event("update", 20, None), event("update", 15, None)] {
            tag.note(&other);
            assert_eq!((tag.media.1, tag.wall.1.to_string().as_str()), (14.0, "2026-05-01T12:00:20Z"));
        }
        tag.note(&event("end", 25, Some(18)));
        tag.note(&event("update", 20, None));
        assert_eq!((tag.media.1, tag.wall.1.to_string().as_str()), (12.0, "2026-05-01T12:00:18Z"));
        assert!(tag.has_ended() && tag.stream == "gate");
    }
}
