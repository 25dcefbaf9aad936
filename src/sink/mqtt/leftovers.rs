//! Which retained topics below a prefix an older version of this program left, which kept no record of what it had published. Pure.
//!
//! Judged by what lies there, and never by a topic's name alone: an older vtagd gave each stream a status and a switch, and each label a state
//! with attributes beside it. Where something else lies among a stream's topics, another program uses the same names, and only what says a
//! tag's id is ours; what cannot be told apart is named and left.

use std::collections::{BTreeMap, BTreeSet};

use super::home_assistant;
use super::label_levels;
use super::owner::is_status;
use super::published::is_attributes;
use super::topics::{Topics, older_slugs};
use crate::outbox::delivery::published_record::Levels;

/// Topics that are looked at; what lies beyond them is left.
const MOST: usize = 262_144;

/// A stream as the configuration has it: its id, and set and label of each of its labels.
pub type Stream = (String, Vec<(String, String)>);

/// What lies under a topic, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    On,
    Off,
    Status,
    /// `{}`: those of a label that never had an event.
    NoAttributes,
    Attributes,
    /// A discovery document of this prefix.
    Document,
    Else,
}

/// What is to be done; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Topics that were this program's, and what they were.
    pub ours: Vec<(String, &'static str)>,
    /// Labels whose pictures go with them, if there are any: their topics.
    pub pictures: Vec<String>,
    /// Topics that may be another program's.
    pub unsure: Vec<String>,
}

/// What was seen at the broker.
pub struct Seen {
    topics: Topics,
    discovery: String,
    lies: BTreeMap<String, Lies>,
}

impl Seen {
    /// Nothing yet. `discovery`: the prefix of Home Assistant's documents.
    pub fn new(topics: Topics, discovery: &str) -> Self {
        Self { topics, discovery: discovery.to_owned(), lies: BTreeMap::new() }
    }

    /// `payload` lies under `topic`; an empty one is one too large to be looked at.
    pub fn note(&mut self, topic: String, payload: &[u8]) {
        let document = home_assistant::is_document(&self.discovery, &topic);
        let lies = match payload {
            b"ON" => Lies::On,
            b"OFF" => Lies::Off,
            b"{}" => Lies::NoAttributes,
            status if is_status(status) => Lies::Status,
            said if document && home_assistant::is_ours_at(&self.discovery, &topic, said, &self.topics) => {
                Lies::Document
            }
            said if !document && is_attributes(said) => Lies::Attributes,
            _ => Lies::Else,
        };
        if (!document || lies == Lies::Document) && self.lies.len() < MOST {
            self.lies.insert(topic, lies);
        }
    }

    /// What of it `streams` do not have; `announced`: they are told to Home Assistant.
    pub fn decide(&self, streams: &[Stream], announced: bool, levels: &Levels) -> Found {
        let mut found = Found::default();
        let documents = self.lies.iter().filter(|(_, lies)| **lies == Lies::Document).map(|(topic, _)| topic);
        let of = |(id, _): &Stream| home_assistant::topic(&self.discovery, &self.topics, id);
        let device = home_assistant::box_topic(&self.discovery, &self.topics);
        let kept: BTreeSet<String> = streams.iter().map(of).chain([device]).filter(|_| announced).collect();
        found
            .ours
            .extend(documents.filter(|t| !kept.contains(*t)).map(|t| (t.clone(), "a device of Home Assistant's")));
        let ids: BTreeSet<&str> = self.lies.keys().filter_map(|topic| self.topics.stream(topic)).collect();
        ids.into_iter().for_each(|id| self.judge_stream(id, streams, levels, &mut found));
        found
    }

    fn judge_stream(&self, id: &str, streams: &[Stream], levels: &Levels, found: &mut Found) {
        let topics = &self.topics;
        let at = |topic: &str| self.lies.get(topic).copied();
        let (status, switch) = (topics.status(id), topics.enabled(id));
        if at(&status) != Some(Lies::Status) || !matches!(at(&switch), Some(Lies::On | Lies::Off)) {
            return;
        }
        let configured = streams.iter().find(|(stream, _)| stream == id);
        // Whatever a label of the configuration may be called: by the daemon that runs, or by one of the version before.
        let labels = configured.map(|(_, labels)| labels.as_slice()).unwrap_or_default();
        let recorded = levels.iter().filter(|(of, _)| {
            of.stream == id && !of.in_regions && labels.iter().any(|(set, label)| *set == of.set && *label == of.label)
        });
        let kept: BTreeSet<String> = older_slugs(labels)
            .into_values()
            .chain(labels.iter().flat_map(|(set, label)| label_levels::possible(set, label)))
            .chain(recorded.map(|(_, level)| level.clone()))
            .map(|level| topics.label(id, &level))
            .collect();
        let levels = self.lies.range(format!("{}/{id}/", topics.prefix())..);
        let levels = levels.take_while(|(topic, _)| topics.stream(topic) == Some(id));
        let levels: Vec<(&String, Lies)> =
            levels.filter(|(t, _)| topics.is_level(t) && **t != status).map(|(t, lies)| (t, *lies)).collect();
        let attributes = |label: &str| at(&format!("{label}/attributes"));
        let is_label = |label: &str, lies| {
            let both = (lies, attributes(label));
            matches!(both, (Lies::On | Lies::Off, Some(Lies::Attributes)) | (Lies::Off, Some(Lies::NoAttributes)))
        };
        let alone = levels.iter().all(|(label, lies)| is_label(label, *lies));
        for (label, lies) in levels.into_iter().filter(|(label, _)| !kept.contains(*label)) {
            if is_label(label, lies) && (alone || attributes(label) == Some(Lies::Attributes)) {
                found.ours.push((label.clone(), "the state of a label"));
                found.ours.push((format!("{label}/attributes"), "its attributes"));
                found.pictures.push(format!("{label}/snapshot"));
            } else if is_label(label, lies) {
                found.unsure.extend([label.clone(), format!("{label}/attributes")]);
            }
        }
        match configured {
            Some(_) => {}
            None if alone => found.ours.extend([(status, "the status of a stream"), (switch, "its switch")]),
            None => found.unsure.extend([status, switch]),
        }
    }
}

/// Whether this is a picture.
pub fn is_picture(payload: &[u8]) -> bool {
    payload.starts_with(&[0xff, 0xd8, 0xff])
}

#[cfg(test)]
mod tests {
    use super::super::home_assistant::tests::watched;
    use super::*;

    const ABOUT: &str = r#"{"set":"lot","tag_id":"x","score":0.9,"peak":0.9,"started_at":"x","ended_at":null}"#;

    fn judged(lies: &[(&str, &str)], streams: &[Stream], announced: bool) -> (Vec<String>, Vec<String>) {
        let mut seen = Seen::new(Topics::new("p"), "ha");
        lies.iter().for_each(|(topic, payload)| seen.note((*topic).to_owned(), payload.as_bytes()));
        let found = seen.decide(streams, announced, &Levels::new());
        (found.ours.into_iter().map(|(topic, _)| topic).collect(), found.unsure)
    }

    fn stream(id: &str, labels: &[&str]) -> Stream {
        (id.to_owned(), labels.iter().map(|label| ("lot".to_owned(), (*label).to_owned())).collect())
    }

    #[test]
    fn a_stream_that_nobody_has_any_more_goes_with_its_labels_and_its_device() {
        let document = home_assistant::document(
            &watched("yard", &[]),
            &Topics::new("p"),
            &Default::default(),
            &Default::default(),
        )
        .to_string();
        let theirs = home_assistant::document(
            &watched("yard", &[]),
            &Topics::new("q"),
            &Default::default(),
            &Default::default(),
        )
        .to_string();
        let lies = [
            ("p/yard/status", "offline"),
            ("p/yard/enabled/state", "ON"),
            ("p/yard/car", "ON"),
            ("p/yard/car/attributes", ABOUT),
            ("p/yard/bus", "OFF"),
            ("p/yard/bus/attributes", "{}"),
            ("ha/device/p_yard/config", &document),
            ("ha/device/q_yard/config", &theirs),
            ("ha/device/p_copy/config", &document),
        ];
        let (ours, unsure) = judged(&lies, &[], true);
        assert_eq!(
            ours,
            [
                "ha/device/p_yard/config",
                "p/yard/bus",
                "p/yard/bus/attributes",
                "p/yard/car",
                "p/yard/car/attributes",
                "p/yard/status",
                "p/yard/enabled/state"
            ]
        );
        assert!(unsure.is_empty());
        // As the configuration has it, nothing goes; of a label less, that label.
        assert_eq!(judged(&lies, &[stream("yard", &["car", "bus"])], true).0, [""; 0]);
        assert_eq!(judged(&lies, &[stream("yard", &["car"])], true).0, ["p/yard/bus", "p/yard/bus/attributes"]);
        assert_eq!(judged(&lies, &[stream("yard", &["car", "bus"])], false).0, ["ha/device/p_yard/config"]);
    }

    /// Of an outbox in memory nobody knows afterwards which of two alike came first.
    #[test]
    fn without_a_record_no_label_of_the_configuration_loses_its_topics_to_one_that_is_alike() {
        let labels = ["red car", "red_car", "größe", "car_snapshot"];
        let mut levels = label_levels::LabelLevels::default();
        levels.assign(&[watched("yard", &labels)], &Topics::new("p"), |_| false);
        let backwards: Vec<&str> = labels.iter().rev().copied().collect();
        let mut others = label_levels::LabelLevels::default();
        others.assign(&[watched("yard", &backwards)], &Topics::new("p"), |_| false);
        let level =
            |label: &str| [&levels, &others].map(|levels| levels.of("yard", "lot", label, false).unwrap().to_owned());
        let mut lies = vec![("p/yard/status".to_owned(), "online"), ("p/yard/enabled/state".to_owned(), "ON")];
        for topic in labels.iter().flat_map(|label| level(label)).map(|level| format!("p/yard/{level}")) {
            lies.push((format!("{topic}/attributes"), ABOUT));
            lies.push((topic, "ON"));
        }
        let lies: Vec<(&str, &str)> = lies.iter().map(|(topic, said)| (topic.as_str(), *said)).collect();
        assert_eq!(judged(&lies, &[stream("yard", &labels)], true), (vec![], vec![]));
        // One of them has gone: what it may have had is the other's too, and what was its alone goes.
        let (ours, _) = judged(&lies, &[stream("yard", &["red car", "größe", "car_snapshot"])], true);
        let gone = level("red_car").into_iter().find(|level| level != "red_car").unwrap();
        assert_eq!(ours, [format!("p/yard/{gone}"), format!("p/yard/{gone}/attributes")]);
    }

    #[test]
    fn what_another_program_publishes_below_the_same_prefix_is_not_touched() {
        let frigate = [
            ("p/gate/person", "1"),
            ("p/gate/motion", "OFF"),
            ("p/gate/detect/state", "ON"),
            ("p/gate/enabled/state", "ON"),
            ("p/yard/person", "2"),
            ("p/available", "online"),
            ("p/kitchen/temperature", "21.5"),
            ("p/kitchen/lamp/attributes", r#"{"watts":4}"#),
            ("p/cellar/humidity", "60"),
            ("p/stove/status", "online"),
        ];
        assert_eq!(judged(&frigate, &[], true), (vec![], vec![]));
        // An older vtagd had a stream of the same name there: only what bears a tag's id is surely its.
        let both = [
            &frigate[..],
            &[
                ("p/gate/status", "online"),
                ("p/gate/car", "OFF"),
                ("p/gate/car/attributes", ABOUT),
                ("p/gate/bus", "OFF"),
                ("p/gate/bus/attributes", "{}"),
            ],
        ]
        .concat();
        let (ours, unsure) = judged(&both, &[], true);
        assert_eq!(ours, ["p/gate/car", "p/gate/car/attributes"]);
        assert_eq!(unsure, ["p/gate/bus", "p/gate/bus/attributes", "p/gate/status", "p/gate/enabled/state"]);
    }
}
