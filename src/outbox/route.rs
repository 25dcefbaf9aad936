//! Which sinks an event is for: filters, and limits on how many. Pure; time is a parameter, on the monotonic clock.
//!
//! A limit works on whole tags: a start that is over it is kept from the sink together with the updates and the end of that tag, and
//! the end of a tag whose start went out always goes out too, so nobody is left with a tag that never ends.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::event::{Event, EventKind};

/// How serious a label is, from its attribute `severity`; the words of syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventSeverity {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
}

impl EventSeverity {
    /// All of them, rising, with the word for each.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("debug", Self::Debug),
        ("info", Self::Info),
        ("notice", Self::Notice),
        ("warning", Self::Warning),
        ("error", Self::Error),
        ("critical", Self::Critical),
    ];

    pub fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, severity)| *severity)
    }
}

/// What a sink wants; an empty list wants everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Filter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// Of a stream with regions; events of whole views are of none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<EventKind>,
    /// Each must be there with one of these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Vec<Value>>,
    /// A label without a severity, or with an unknown one, counts as `info`.
    pub min_severity: Option<EventSeverity>,
}

impl Filter {
    pub fn takes(&self, event: &Event) -> bool {
        let data = &event.data;
        let within = |list: &[String], name: &str| list.is_empty() || list.iter().any(|wanted| wanted == name);
        let severe = |wanted: EventSeverity| {
            let given = data.attributes.get("severity").and_then(Value::as_str).and_then(EventSeverity::parse);
            given.unwrap_or(EventSeverity::Info) >= wanted
        };
        within(&self.streams, &data.stream)
            && within(&self.regions, data.region.as_deref().unwrap_or_default())
            && within(&self.sets, &data.set)
            && within(&self.labels, &data.label)
            && (self.types.is_empty() || self.types.contains(&event.kind))
            && self.attributes.iter().all(|(key, values)| data.attributes.get(key).is_some_and(|v| values.contains(v)))
            && self.min_severity.is_none_or(severe)
    }
}

/// At most `events` starts and updates in any `per`, after a burst of as many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    pub events: u32,
    pub per: Duration,
}

/// One sink as the outbox knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// In logs, metrics and commands; unique.
    pub name: String,
    /// What its pending events belong to over restarts; unique.
    pub key: String,
    /// What that was in an earlier version, if it was another.
    pub former_key: Option<String>,
    pub only: Filter,
    pub rate: Option<Rate>,
}

/// A token bucket and the tags it keeps back.
struct Limit {
    rate: Rate,
    tokens: f64,
    filled: Instant,
    /// Open tags whose start was over the limit; bounded by the labels of all streams.
    kept_back: HashSet<Uuid>,
}

impl Limit {
    fn admits(&mut self, event: &Event, now: Instant) -> bool {
        let tag = event.data.tag_id;
        if event.kind == EventKind::End {
            return !self.kept_back.remove(&tag);
        }
        if event.kind == EventKind::Update && self.kept_back.contains(&tag) {
            return false;
        }
        let full = f64::from(self.rate.events);
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() / self.rate.per.as_secs_f64() * full;
        self.filled = now;
        self.tokens = (self.tokens + gained).min(full);
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        } else if event.kind == EventKind::Start {
            self.kept_back.insert(tag);
        }
        admitted
    }
}

/// Where one event goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Indices of sinks that get it.
    pub to: Vec<u16>,
    /// Indices of sinks that want it and are over their limit.
    pub over: Vec<u16>,
}

/// All sinks' filters and limits.
pub struct Router {
    sinks: Vec<(Filter, Option<Limit>)>,
}

impl Router {
    pub fn new(routes: &[Route], now: Instant) -> Self {
        let limit = |rate: Rate| Limit { rate, tokens: f64::from(rate.events), filled: now, kept_back: HashSet::new() };
        Self { sinks: routes.iter().map(|route| (route.only.clone(), route.rate.map(limit))).collect() }
    }

    pub fn route(&mut self, event: &Event, now: Instant) -> Routed {
        let mut routed = Routed::default();
        for (index, (filter, limit)) in (0..).zip(&mut self.sinks) {
            if filter.takes(event) {
                let admitted = limit.as_mut().is_none_or(|limit| limit.admits(event, now));
                if admitted { &mut routed.to } else { &mut routed.over }.push(index);
            } else if let Some(limit) = limit.as_mut().filter(|_| event.kind == EventKind::End) {
                // A tag that has ended is kept back no longer, also where its end is not wanted.
                limit.kept_back.remove(&event.data.tag_id);
            }
        }
        routed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outbox::delivery::tests::event;

    fn tagged(kind: EventKind, tag: u128) -> Event {
        let mut event = event("gate", "car", kind);
        event.data.tag_id = Uuid::from_u128(tag);
        event
    }

    #[test]
    fn a_filter_looks_at_stream_region_set_label_type_attributes_and_severity() {
        let mut car = event("gate", "car", EventKind::Start);
        car.data.attributes = Arc::new(
            [("severity", Value::from("warning")), ("zone", Value::from(3))].map(|(k, v)| (k.to_owned(), v)).into(),
        );
        let list = |name: &str| vec![name.to_owned()];
        let attribute = |key: &str, value: Value| BTreeMap::from([(key.to_owned(), vec![Value::from("x"), value])]);
        let filters = [
            (Filter::default(), true),
            (Filter { streams: list("gate"), sets: list("lot"), labels: list("car"), ..Filter::default() }, true),
            (Filter { streams: list("door"), ..Filter::default() }, false),
            (Filter { sets: list("door"), ..Filter::default() }, false),
            (Filter { labels: list("bus"), ..Filter::default() }, false),
            (Filter { types: vec![EventKind::End], ..Filter::default() }, false),
            (Filter { attributes: attribute("zone", 3.into()), ..Filter::default() }, true),
            (Filter { attributes: attribute("zone", 4.into()), ..Filter::default() }, false),
            (Filter { attributes: attribute("area", 3.into()), ..Filter::default() }, false),
            (Filter { min_severity: Some(EventSeverity::Warning), ..Filter::default() }, true),
            (Filter { min_severity: Some(EventSeverity::Error), ..Filter::default() }, false),
        ];
        for (filter, wanted) in filters {
            assert_eq!(filter.takes(&car), wanted, "{filter:?}");
        }
        let of_left = Filter { regions: list("left"), ..Filter::default() };
        assert!(!of_left.takes(&car), "a whole view is no region");
        car.data.region = Some("left".into());
        let of_others = Filter { regions: list("right"), ..Filter::default() };
        assert!(of_left.takes(&car) && !of_others.takes(&car) && Filter::default().takes(&car));
        let plain = event("gate", "car", EventKind::Start);
        let least = |severity| Filter { min_severity: Some(severity), ..Filter::default() }.takes(&plain);
        assert!(least(EventSeverity::Info) && !least(EventSeverity::Notice), "without a severity it counts as info");
    }

    #[test]
    fn a_tag_that_was_kept_back_is_forgotten_at_its_end_even_where_ends_are_not_wanted() {
        let start = Instant::now();
        let only = Filter { types: vec![EventKind::Start, EventKind::Update], ..Filter::default() };
        let rate = Some(Rate { events: 1, per: Duration::from_secs(3600) });
        let mut router =
            Router::new(&[Route { name: "a".into(), key: "a".into(), former_key: None, only, rate }], start);
        for tag in 0..1000 {
            router.route(&tagged(EventKind::Start, tag), start);
            assert_eq!(router.route(&tagged(EventKind::End, tag), start), Routed::default());
        }
        assert_eq!(router.sinks[0].1.as_ref().map(|limit| limit.kept_back.len()), Some(0));
    }

    #[test]
    fn a_limit_keeps_whole_tags_back_and_lets_every_admitted_tag_end() {
        let start = Instant::now();
        let rate = Some(Rate { events: 2, per: Duration::from_secs(60) });
        let route = |name: &str, rate| Route {
            name: name.into(),
            key: name.into(),
            former_key: None,
            only: Filter::default(),
            rate,
        };
        let mut router = Router::new(&[route("limited", rate), route("free", None)], start);
        let mut to_limited = |seconds, kind, tag| {
            let routed = router.route(&tagged(kind, tag), start + Duration::from_secs(seconds));
            assert!(routed.to.contains(&1), "one sink's limit is not another's");
            assert_eq!(routed.over, if routed.to.contains(&0) { vec![] } else { vec![0] });
            routed.to.contains(&0)
        };
        assert!(to_limited(0, EventKind::Start, 1) && to_limited(0, EventKind::Start, 2));
        assert!(!to_limited(1, EventKind::Start, 3), "the third within a minute");
        assert!(!to_limited(40, EventKind::Update, 3), "there is a token, but nobody knows of this tag");
        assert!(!to_limited(41, EventKind::End, 3));
        assert!(to_limited(42, EventKind::End, 1), "ends need no token");
        assert!(to_limited(43, EventKind::Start, 4));
        assert!(to_limited(44, EventKind::End, 3), "forgotten at its end: nothing is kept for ever");
    }
}
