//! Events that repeat: told once, then summed up. Pure: time is a parameter.
//!
//! In: every event that passes the filter, with the time. Out: whether it is to be told, and now and then how often something that was
//! told has happened since. Two events are the same if they come from the same place in the code with the same words and
//! fields. Those that differ in numbers only, as a flood of "lost 17 packets" does, are told [`MAX_ALIKE`] times and then summed up too.
//! Streams and sinks are told apart always. Bounded: at most [`MAX_EVENTS`] kinds of events are watched; what comes when all
//! places are taken is told as it is, so no count is ever lost.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};

use super::line::Line;

/// So long an event is not told again.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Events in a window that differ in their numbers only, and are told.
const MAX_ALIKE: usize = 20;

/// Kinds of events that are watched at a time; with what is kept of each, about 1 MB.
const MAX_EVENTS: usize = 1024;

/// Longest text that is kept of an event.
const MAX_CHARS: usize = 512;

/// What has repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub level: Level,
    /// What happened: the event's words and fields as they were the first time that was not told.
    pub what: String,
    pub stream: Option<String>,
    pub sink: Option<String>,
    /// How often, beside what was told.
    pub times: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Repeats {
    hasher: RandomState,
    kinds: HashMap<u64, Kind>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    /// Exactly these were told in this window.
    told: Vec<u64>,
    untold: Option<Summary>,
}

impl Repeats {
    /// Whether the event is to be told now.
    pub fn admit(&mut self, now: Instant, metadata: &Metadata<'static>, line: &Line) -> bool {
        let callsite = metadata.callsite();
        let named = |name: &str| name == "stream" || name == "sink";
        let words = line.fields.iter().filter(|(name, value)| named(name) || !value.is_number);
        let words: Vec<_> = words.map(|(name, value)| (*name, value.text.as_str())).collect();
        let alike = self.hasher.hash_one((&callsite, &line.target, &line.message, words));
        let exactly = self.hasher.hash_one((&callsite, &line.target, line.text()));
        if !self.kinds.contains_key(&alike) && self.kinds.len() >= MAX_EVENTS {
            // Those that have nothing to tell make room.
            self.kinds.retain(|_, kind| kind.untold.is_some() || now.saturating_duration_since(kind.since) < WINDOW);
            if self.kinds.len() >= MAX_EVENTS {
                return true;
            }
        }
        let kind = self.kinds.entry(alike).or_insert_with(|| Kind { since: now, told: Vec::new(), untold: None });
        if kind.untold.is_none() && now.saturating_duration_since(kind.since) >= WINDOW {
            (kind.since, kind.told) = (now, Vec::new());
        }
        if !kind.told.contains(&exactly) && kind.told.len() < MAX_ALIKE {
            kind.told.push(exactly);
            return true;
        }
        let first = || Summary {
            level: *metadata.level(),
            what: cut(line.text()),
            stream: line.get("stream").map(ToOwned::to_owned),
            sink: line.get("sink").map(ToOwned::to_owned),
            times: 0,
        };
        let untold = kind.untold.get_or_insert_with(first);
        untold.times = untold.times.saturating_add(1);
        false
    }

    /// What is to be summed up by now. What goes on repeating is summed up once a window.
    pub fn due(&mut self, now: Instant) -> Vec<Summary> {
        let mut due = Vec::new();
        self.kinds.retain(|_, kind| {
            if now.saturating_duration_since(kind.since) < WINDOW {
                return true;
            }
            let untold = kind.untold.take();
            kind.since = now;
            let goes_on = untold.is_some();
            due.extend(untold);
            goes_on
        });
        due.sort_by(|a, b| a.what.cmp(&b.what));
        due
    }

    /// Everything that was not told, whether it is due or not: the end.
    pub fn rest(&mut self) -> Vec<Summary> {
        let mut rest: Vec<Summary> = self.kinds.drain().filter_map(|(_, kind)| kind.untold).collect();
        rest.sort_by(|a, b| a.what.cmp(&b.what));
        rest
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use tracing::callsite::Callsite;
    use tracing::field::FieldSet;
    use tracing::metadata::Kind as EventKind;
    use tracing::subscriber::Interest;

    use super::super::line::Value;
    use super::*;

    struct Place;
    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            &METADATA
        }
    }
    static PLACE: Place = Place;
    static METADATA: Metadata<'static> = Metadata::new(
        "event",
        "vtagd::x",
        Level::WARN,
        None,
        None,
        None,
        FieldSet::new(&["message"], tracing::callsite::Identifier(&PLACE)),
        EventKind::EVENT,
    );

    fn line(message: &str, fields: &[(&'static str, &str)]) -> Line {
        let value = |text: &str| Value {
            text: text.to_owned(),
            shown: text.to_owned(),
            is_number: text.chars().all(|c| c.is_ascii_digit()),
        };
        let fields = fields.iter().map(|(name, text)| (*name, value(text))).collect();
        Line { message: message.to_owned(), fields, target: None }
    }

    #[test]
    fn the_same_event_is_told_once_and_then_as_a_number() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let lost = line("lost", &[("stream", "a")]);
        assert!(repeats.admit(start, &METADATA, &lost));
        for _ in 0..500 {
            assert!(!repeats.admit(start + WINDOW / 2, &METADATA, &lost));
        }
        assert!(repeats.due(start + WINDOW / 2).is_empty());
        let summary = |times| Summary {
            level: Level::WARN,
            what: "lost stream=a".into(),
            stream: Some("a".into()),
            sink: None,
            times,
        };
        assert_eq!(repeats.due(start + WINDOW), [summary(500)]);
        // It goes on: no line, and once a window its number.
        assert!(!repeats.admit(start + WINDOW * 3 / 2, &METADATA, &lost));
        assert_eq!(repeats.due(start + WINDOW * 2), [summary(1)]);
        // A window without it, and it is news again.
        assert!(repeats.due(start + WINDOW * 3).is_empty());
        assert!(repeats.admit(start + WINDOW * 3, &METADATA, &lost));
    }

    #[test]
    fn streams_and_sinks_and_words_are_told_apart_and_numbers_only_a_few_times() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for field in ["stream", "sink"] {
            for id in ["1", "2", "3"] {
                assert!(repeats.admit(now, &METADATA, &line("lost", &[(field, id)])));
            }
        }
        assert!(repeats.admit(now, &METADATA, &line("lost", &[("why", "no route")])));
        assert!(repeats.admit(now, &METADATA, &line("lost", &[("why", "no host")])));
        let told = (0..100).filter(|n| repeats.admit(now, &METADATA, &line("held", &[("count", &n.to_string())])));
        assert_eq!(told.count(), MAX_ALIKE);
        let rest = repeats.rest();
        assert_eq!((rest.len(), rest[0].times), (1, 100 - MAX_ALIKE as u64));
        assert_eq!(rest[0].what, format!("held count={MAX_ALIKE}"));
    }

    #[test]
    fn memory_is_bounded_and_no_count_is_lost() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let mut told = 0_u64;
        for round in 0..3 {
            for kind in 0..MAX_EVENTS * 2 {
                told += u64::from(repeats.admit(now, &METADATA, &line(&format!("kind {kind}"), &[])));
            }
            assert_eq!(repeats.kinds.len(), MAX_EVENTS, "{round}");
        }
        let untold: u64 = repeats.rest().iter().map(|summary| summary.times).sum();
        assert_eq!(told + untold, 3 * 2 * MAX_EVENTS as u64);
        assert!(repeats.rest().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_either_told_or_counted(events in proptest::collection::vec((0_u8..6, 0_u64..40), 0..300)) {
            let (mut repeats, mut now) = (Repeats::default(), Instant::now());
            let (mut told, mut untold) = (0_u64, 0_u64);
            for (kind, wait) in &events {
                now += Duration::from_secs(*wait);
                told += u64::from(repeats.admit(now, &METADATA, &line(&format!("kind {kind}"), &[("stream", "a")])));
                if wait % 3 == 0 {
                    untold += repeats.due(now).iter().map(|summary| summary.times).sum::<u64>();
                }
            }
            untold += repeats.rest().iter().map(|summary| summary.times).sum::<u64>();
            proptest::prop_assert_eq!(told + untold, events.len() as u64);
        }
    }
}
