//! The names of topics and Home Assistant ids. Pure.
//!
//! ```text
//! <p>/available                     online | stopped | offline (the last will)     retained
//! <p>/owner                         which daemon the prefix belongs to             retained
//! <p>/events                        the CloudEvents JSON
//! <p>/stats                         once a minute, and soon after devices are told
//! <p>/<stream>/status               online | offline | disabled                    retained
//! <p>/<stream>/enabled/state        ON | OFF                                       retained
//! <p>/<stream>/enabled/set          a command: ON | OFF
//! <p>/<stream>/event                for Home Assistant's event entity
//! <p>/<stream>/<label>              ON | OFF; with regions, ON while any has it    retained
//! <p>/<stream>/<label>/attributes   the last event of the label, short             retained
//! <p>/<stream>/<label>/snapshot     the last picture, JPEG                         retained
//! <p>/<stream>/<region>/<label>     the same three of a region                     retained
//! ```
//!
//! A region may be called as a label is: the levels that a label's own topics have are no names of labels below a region.

use std::collections::{BTreeMap, BTreeSet};

/// Levels below a stream that are no label.
pub const TAKEN: [&str; 4] = ["status", "enabled", "event", "snapshot"];

/// Levels below a label, or below `enabled`, that are no label of a region.
pub const TAKEN_BELOW: [&str; 4] = ["attributes", "snapshot", "state", "set"];

/// See the module.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub fn available(&self) -> String {
        self.join(&["available"])
    }

    pub fn owner(&self) -> String {
        self.join(&["owner"])
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn events(&self) -> String {
        self.join(&["events"])
    }

    pub fn stats(&self) -> String {
        self.join(&["stats"])
    }

    pub fn status(&self, stream: &str) -> String {
        self.join(&[stream, "status"])
    }

    pub fn enabled(&self, stream: &str) -> String {
        self.join(&[stream, "enabled", "state"])
    }

    pub fn command(&self, stream: &str) -> String {
        self.join(&[stream, "enabled", "set"])
    }

    pub fn event(&self, stream: &str) -> String {
        self.join(&[stream, "event"])
    }

    /// `level` is a label's, or a region's and a label's: [`below`].
    pub fn label(&self, stream: &str, level: &str) -> String {
        self.join(&[stream, level])
    }

    pub fn attributes(&self, stream: &str, level: &str) -> String {
        self.join(&[stream, level, "attributes"])
    }

    pub fn snapshot(&self, stream: &str, level: &str) -> String {
        self.join(&[stream, level, "snapshot"])
    }

    /// Whether this is where a label's picture lies.
    pub fn is_picture(&self, topic: &str) -> bool {
        self.below(topic).is_some_and(|rest| rest.ends_with("/snapshot") && rest.matches('/').count() >= 2)
    }

    /// The stream whose command topic this is.
    pub fn commanded<'t>(&self, topic: &'t str) -> Option<&'t str> {
        self.below(topic)?.strip_suffix("/enabled/set").filter(|s| !s.contains('/'))
    }

    /// The levels of a topic below those of its stream.
    pub fn levels<'t>(&self, topic: &'t str) -> Vec<&'t str> {
        self.below(topic).map(|rest| rest.split('/').skip(1).collect()).unwrap_or_default()
    }

    /// The stream of a topic below the prefix.
    pub fn stream<'t>(&self, topic: &'t str) -> Option<&'t str> {
        self.below(topic)?.split_once('/').map(|(stream, _)| stream)
    }

    /// Filters for what lies retained below the prefix, pictures left out.
    pub fn retained(&self) -> [String; 3] {
        [self.join(&["+", "+"]), self.join(&["+", "enabled", "state"]), self.join(&["+", "+", "attributes"])]
    }

    /// The region whose label this topic is, if it is one's.
    pub fn region<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let mut levels = self.below(topic)?.split('/').skip(1);
        let (region, label) = (levels.next()?, levels.next()?);
        (!TAKEN_BELOW.contains(&label)).then_some(region)
    }

    /// Filters for what lies retained of a region's labels, in all streams, pictures left out.
    pub fn retained_of(&self, region: &str) -> [String; 2] {
        [self.join(&["+", region, "+"]), self.join(&["+", region, "+", "attributes"])]
    }

    /// Whether this is `<p>/<stream>/<something>`.
    pub fn is_level(&self, topic: &str) -> bool {
        self.below(topic).is_some_and(|rest| rest.matches('/').count() == 1)
    }

    /// Whether this is the state of a label, or its attributes: they change with its events.
    pub fn is_of_label(&self, topic: &str) -> bool {
        let levels: Vec<&str> = self.below(topic).map(|rest| rest.split('/').collect()).unwrap_or_default();
        match levels[..] {
            [_, level] => !TAKEN.contains(&level),
            [_, _, level] => level == "attributes" || !TAKEN_BELOW.contains(&level),
            [_, _, _, level] => level == "attributes",
            _ => false,
        }
    }

    fn below<'t>(&self, topic: &'t str) -> Option<&'t str> {
        topic.strip_prefix(&self.prefix)?.strip_prefix('/')
    }

    /// The prefix as part of an id, so that two daemons with one broker do not take one another's devices for theirs.
    pub fn node(&self) -> String {
        slug(&self.prefix)
    }

    fn join(&self, levels: &[&str]) -> String {
        let mut topic = self.prefix.clone();
        for level in levels {
            topic.push('/');
            topic.push_str(level);
        }
        topic
    }
}

/// `name` in `[a-zA-Z0-9_-]`, everything else as `_`.
pub fn slug(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let slug: String = name.trim().chars().map(keep).collect();
    if slug.is_empty() { "_".to_owned() } else { slug }
}

/// The levels that versions without a record of them gave the labels of one stream: the label's name as an id; with its set's name before it
/// where two would be the same or it would be a level with a meaning; with a number where even that was not enough.
pub fn older_slugs(labels: &[(String, String)]) -> Slugs {
    slugs_beside(labels, &TAKEN)
}

/// The same for the labels below a region.
pub fn older_region_slugs(labels: &[(String, String)]) -> Slugs {
    slugs_beside(labels, &[TAKEN, TAKEN_BELOW].concat())
}

/// Where the topics of a region's label lie.
pub fn below(region: &str, slug: &str) -> String {
    format!("{region}/{slug}")
}

/// By (set, label).
pub type Slugs = BTreeMap<(String, String), String>;

fn slugs_beside(labels: &[(String, String)], taken: &[&str]) -> Slugs {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (_, label) in labels {
        *count.entry(slug(label)).or_default() += 1;
    }
    let mut used: BTreeSet<String> = taken.iter().map(|level| (*level).to_owned()).collect();
    let mut slugs = BTreeMap::new();
    for (set, label) in labels {
        let short = slug(label);
        let alone = count.get(&short) == Some(&1) && !used.contains(&short);
        let base = if alone { short } else { format!("{}_{short}", slug(set)) };
        let mut name = base.clone();
        let mut number = 2;
        while !used.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        slugs.insert((set.clone(), label.clone()), name);
    }
    slugs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::label_levels::LabelLevels;
    use super::*;
    use crate::stream::registry::RegisteredStream;

    fn named(labels: &[(&str, &str)]) -> Vec<String> {
        let labels: Vec<_> = labels.iter().map(|(s, l)| ((*s).to_owned(), (*l).to_owned())).collect();
        let slugs = older_slugs(&labels);
        labels.iter().map(|key| slugs[key].clone()).collect()
    }

    #[test]
    fn a_label_is_called_by_its_name_where_that_is_its_own() {
        assert_eq!(named(&[("lot", "red car"), ("lot", "Bus-2")]), ["red_car", "Bus-2"]);
        assert_eq!(named(&[("lot", "car"), ("dock", "car")]), ["lot_car", "dock_car"]);
        assert_eq!(named(&[("lot", "status"), ("lot", "event")]), ["lot_status", "lot_event"]);
        assert_eq!(named(&[("lot", "größe"), ("lot", "gr__e")]), ["lot_gr__e", "lot_gr__e_2"]);
    }

    #[test]
    fn a_command_names_its_stream_and_nothing_else_is_one() {
        let topics = Topics::new("site/vtagd");
        assert_eq!(topics.commanded("site/vtagd/gate/enabled/set"), Some("gate"));
        for other in ["site/vtagd/gate/enabled/state", "vtagd/gate/enabled/set", "site/vtagd/a/b/enabled/set", "x"] {
            assert_eq!(topics.commanded(other), None, "{other}");
        }
    }

    #[test]
    fn topics_of_labels_are_told_from_the_others() {
        let topics = Topics::new("v");
        for label in ["v/gate/car", "v/gate/car/attributes", "v/gate/left/car", "v/gate/left/car/attributes"] {
            assert!(topics.is_of_label(label), "{label}");
        }
        for other in [
            "v/available",
            "v/owner",
            "v/gate/status",
            "v/gate/enabled/state",
            "v/gate/car/snapshot",
            "w/gate/car",
            "v/gate/left/car/snapshot",
        ] {
            assert!(!topics.is_of_label(other), "{other}");
        }
    }

    #[test]
    fn the_region_of_a_topic_is_known() {
        let topics = Topics::new("v");
        for region in ["v/gate/left/car", "v/gate/left/car/attributes", "v/gate/left/car/snapshot"] {
            assert_eq!(topics.region(region), Some("left"), "{region}");
        }
        assert_eq!(topics.retained_of("left"), ["v/+/left/+", "v/+/left/+/attributes"]);
        for other in
            ["v/gate/car", "v/gate/car/attributes", "v/gate/car/snapshot", "v/gate/enabled/state", "w/gate/left/car"]
        {
            assert_eq!(topics.region(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_two_topics_of_a_stream_are_one_whatever_its_labels_and_regions_are_called(
            labels in prop::collection::btree_set(("[ab]", "(a|b|state|set|status|enabled|attributes|snapshot|event|a_b)"), 1..12),
            regions in prop::collection::btree_set("(a|b|state|set|status|enabled|attributes|snapshot|event|a_b|b_a)", 0..6),
        ) {
            let labels: Vec<(String, String)> = labels.into_iter().collect();
            let topics = Topics::new("v");
            let names: Vec<std::sync::Arc<str>> = regions.iter().map(|region| region.as_str().into()).collect();
            let stream = RegisteredStream::new(&"s".into(), labels).with_regions(&names);
            let mut levels = LabelLevels::default();
            levels.assign(std::slice::from_ref(&stream), &topics, |_| false);
            let of_region = |region: &String| {
                levels.of_stream(&stream, true).into_values().map(|slug| below(region, &slug)).collect::<Vec<_>>()
            };
            let all_levels = levels.of_stream(&stream, false).into_values().chain(regions.iter().flat_map(of_region));
            let mut all: Vec<String> = all_levels
                .flat_map(|level| [topics.label("s", &level), topics.attributes("s", &level), topics.snapshot("s", &level)])
                .collect();
            for label in all.iter().filter(|topic| !topic.ends_with("/snapshot")) {
                prop_assert!(topics.is_of_label(label), "{}", label);
            }
            all.extend([topics.status("s"), topics.enabled("s"), topics.command("s"), topics.event("s")]);
            let count = all.len();
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len(), count, "{:?}", all);
        }

        #[test]
        fn every_label_has_a_level_of_its_own_that_is_an_id(labels in prop::collection::btree_set(("[ab ]{1,3}", "\\PC{1,4}"), 1..12)) {
            let labels: Vec<(String, String)> = labels.into_iter().collect();
            let stream = RegisteredStream::new(&"s".into(), labels.clone());
            let mut levels = LabelLevels::default();
            levels.assign(std::slice::from_ref(&stream), &Topics::new("v"), |_| false);
            let slugs = levels.of_stream(&stream, false);
            let mut names: Vec<&String> = slugs.values().collect();
            prop_assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')));
            prop_assert!(names.iter().all(|n| !TAKEN.contains(&n.as_str())));
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), labels.len());
        }
    }
}
