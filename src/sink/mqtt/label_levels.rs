//! Which level of a topic each label has, and with it its ids in Home Assistant: found once, and kept for ever. Pure.
//!
//! What the outbox has recorded stands. A label that is new gets its name as an id; where that is taken, would be read as something else, or
//! says less than the name did, a hash of set and name goes behind it, so that it is the same without a record too. Labels that a version
//! without such a record has published keep what they had there. A level stays its label's when the label goes: nobody else gets its past.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::topics::{TAKEN, TAKEN_BELOW, Topics, below, older_region_slugs, older_slugs, slug};
use crate::outbox::delivery::published_record::{LabelPlace, Levels};
use crate::platform::hex::hex;
use crate::stream::registry::RegisteredStream;

/// See the module.
#[derive(Default)]
pub struct LabelLevels {
    of: Levels,
    /// Not in the outbox yet.
    unwritten: Levels,
    /// By stream and whether it is below regions: what is taken.
    used: BTreeSet<(String, bool, String)>,
    /// Ids that Home Assistant has of them, beside the device's part.
    ids: BTreeSet<String>,
    /// Until the streams are known: an older version was here and recorded none.
    older: bool,
}

impl LabelLevels {
    /// Goes on from what is `recorded`; `published`: retained topics of this place are known.
    pub fn new(recorded: Levels, published: bool) -> Self {
        let mut levels = Self { older: recorded.is_empty() && published, ..Self::default() };
        for (of, level) in recorded {
            levels.keep(of, level);
        }
        levels
    }

    /// Of a label in its stream, or below the stream's regions; `None` before it was [assigned](Self::assign).
    pub fn of(&self, stream: &str, set: &str, label: &str, in_regions: bool) -> Option<&str> {
        let of = LabelPlace { stream: stream.into(), set: set.into(), label: label.into(), in_regions };
        self.of.get(&of).map(String::as_str)
    }

    /// (set, label) and level of each label of `stream`.
    pub fn of_stream(&self, stream: &RegisteredStream, in_regions: bool) -> BTreeMap<(String, String), String> {
        let level = |(set, label): &(String, String)| {
            let level = self.of(stream.id(), set, label, in_regions)?;
            Some(((set.clone(), label.clone()), level.to_owned()))
        };
        stream.labels.iter().filter_map(level).collect()
    }

    /// Gives each label of `streams` a level that has none. `published`: what an older version has published.
    pub fn assign(&mut self, streams: &[RegisteredStream], topics: &Topics, published: impl Fn(&str) -> bool) {
        if std::mem::take(&mut self.older) {
            for stream in streams {
                self.adopt(stream, topics, &published);
            }
        }
        for stream in streams {
            for in_regions in [false, true] {
                if !in_regions || !stream.regions.is_empty() {
                    stream.labels.iter().for_each(|(set, label)| self.assign_one(stream.id(), set, label, in_regions));
                }
            }
        }
    }

    fn assign_one(&mut self, stream: &str, set: &str, label: &str, in_regions: bool) {
        let of = LabelPlace { stream: stream.into(), set: set.into(), label: label.into(), in_regions };
        if !self.of.contains_key(&of) {
            let level = self.found(&of);
            self.unwritten.insert(of.clone(), level.clone());
            self.keep(of, level);
        }
    }

    /// What an older version published of the labels of `stream` stays where it is.
    fn adopt(&mut self, stream: &RegisteredStream, topics: &Topics, published: impl Fn(&str) -> bool) {
        let plain = older_slugs(&stream.labels).into_iter().map(|(label, level)| (label, level, false));
        let in_regions = older_region_slugs(&stream.labels).into_iter().map(|(label, level)| (label, level, true));
        for ((set, label), level, in_regions) in plain.chain(in_regions) {
            let id = stream.id();
            let there = if in_regions {
                stream.regions.iter().any(|region| published(&topics.label(id, &below(region, &level))))
            } else {
                published(&topics.label(id, &level))
            };
            if there {
                let of = LabelPlace { stream: id.to_owned(), set, label, in_regions };
                self.unwritten.insert(of.clone(), level.clone());
                self.keep(of, level);
            }
        }
    }

    fn keep(&mut self, of: LabelPlace, level: String) {
        self.ids.extend((!of.in_regions).then(|| id(&of.stream, &level)));
        self.used.insert((of.stream.clone(), of.in_regions, level.clone()));
        self.of.insert(of, level);
    }

    /// A level that nobody has or had.
    fn found(&self, of: &LabelPlace) -> String {
        let short = slug(&of.label);
        let free = |level: &String| {
            !self.used.contains(&(of.stream.clone(), of.in_regions, level.clone()))
                && (of.in_regions || !self.ids.contains(&id(&of.stream, level)))
        };
        if says_it_all(&of.label) && !is_read_otherwise(&short, of.in_regions) && free(&short) {
            return short;
        }
        let base = marked(&of.set, &of.label);
        let numbered = (2..).map(|number: u32| format!("{base}_{number}"));
        std::iter::once(base.clone()).chain(numbered).find(free).unwrap_or(base)
    }

    /// What the outbox does not have.
    pub fn unwritten(&self) -> Levels {
        self.unwritten.clone()
    }

    /// The outbox has `levels`.
    pub fn written(&mut self, levels: &Levels) {
        self.unwritten.retain(|of, _| !levels.contains_key(of));
    }
}

/// The level of a label that has a stream to itself.
pub fn alone(set: &str, label: &str, in_regions: bool) -> String {
    let of = LabelPlace { stream: String::new(), set: set.to_owned(), label: label.to_owned(), in_regions };
    LabelLevels::default().found(&of)
}

/// The levels that a label may have where nobody has recorded them: alone in its stream, or beside one that is alike.
pub fn possible(set: &str, label: &str) -> [String; 2] {
    [alone(set, label, false), marked(set, label)]
}

/// Its name and a hash.
fn marked(set: &str, label: &str) -> String {
    format!("{}_{}", slug(label), mark(set, label))
}

/// Home Assistant's id of a label's sensor, without the prefix's part: `a` with `b_c` and `a_b` with `c` would be one.
fn id(stream: &str, level: &str) -> String {
    format!("{}_{level}", slug(stream))
}

/// Whether the name is an id but for its spaces.
fn says_it_all(label: &str) -> bool {
    let label = label.trim();
    !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_ ".contains(c))
}

/// Whether a topic or an id made of it would be another's: that of a stream, of a picture or of a region.
fn is_read_otherwise(level: &str, in_regions: bool) -> bool {
    TAKEN.contains(&level)
        || in_regions && TAKEN_BELOW.contains(&level)
        || level.ends_with("_snapshot")
        || level.starts_with("region_")
}

/// Eight digits that are of this label alone.
fn mark(set: &str, label: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(set);
    hash.update([0]);
    hash.update(label);
    hex(&hash.finalize()[..4])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::home_assistant::tests::watched;
    use super::*;

    fn assigned(levels: &mut LabelLevels, streams: &[RegisteredStream]) {
        levels.assign(streams, &Topics::new("v"), |_| false);
    }

    /// Of labels of the set `lot` in the stream `gate`.
    fn named(levels: &LabelLevels, labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| levels.of("gate", "lot", label, false).unwrap().to_owned()).collect()
    }

    #[test]
    fn a_label_is_called_by_its_name_where_that_says_it_all_and_is_its_own() {
        let labels = ["red car", "Bus-2", "red_car", "猫", "größe", "status", "car_snapshot", "region_1_a_car"];
        let mut levels = LabelLevels::default();
        assigned(&mut levels, &[watched("gate", &labels)]);
        let named = named(&levels, &labels);
        assert_eq!(named[..2], ["red_car", "Bus-2"]);
        for (level, base) in
            named[2..].iter().zip(["red_car", "_", "gr__e", "status", "car_snapshot", "region_1_a_car"])
        {
            let hash = level.strip_prefix(base).and_then(|rest| rest.strip_prefix('_')).unwrap();
            assert!(hash.len() == 8 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{level}");
        }
    }

    #[test]
    fn what_comes_and_goes_moves_no_other_with_a_record_and_without() {
        let mut first = LabelLevels::default();
        assigned(&mut first, &[watched("gate", &["猫", "犬"])]);
        let before = named(&first, &["猫", "犬"]);
        // A restart, and a label before them.
        for record in [first.unwritten(), Levels::new()] {
            let mut next = LabelLevels::new(record, false);
            assigned(&mut next, &[watched("gate", &["鳥", "猫", "犬"])]);
            assert_eq!(named(&next, &["猫", "犬"]), before);
        }
        // The level of one that has gone is nobody else's, and its own when it comes back.
        let mut levels = LabelLevels::default();
        assigned(&mut levels, &[watched("gate", &["red car"])]);
        let mut levels = LabelLevels::new(levels.unwritten(), false);
        assigned(&mut levels, &[watched("gate", &["red_car"])]);
        assert_ne!(named(&levels, &["red_car"]), ["red_car"]);
        assert_eq!(named(&levels, &["red car"]), ["red_car"]);
        assert!(levels.unwritten().into_keys().map(|of| of.label).eq(["red_car"]));
    }

    #[test]
    fn what_a_version_without_a_record_has_published_stays_where_it_is() {
        let labels = ["gr__e", "größe", "猫"];
        let streams = [watched("gate", &labels).with_regions(&[Arc::from("door")])];
        let mut levels = LabelLevels::new(Levels::new(), true);
        let there = ["v/gate/lot_gr__e", "v/gate/lot_gr__e_2", "v/gate/door/lot_gr__e_2"];
        levels.assign(&streams, &Topics::new("v"), |topic| there.contains(&topic));
        assert_eq!(named(&levels, &labels[..2]), ["lot_gr__e", "lot_gr__e_2"]);
        assert_eq!(levels.of("gate", "lot", "größe", true), Some("lot_gr__e_2"));
        assert!(named(&levels, &["猫"])[0].starts_with("__"), "one that was not there is as any new one");
        assert_eq!(levels.of("gate", "lot", "gr__e", true), Some("gr__e"));
        let recorded = levels.unwritten();
        assert_eq!(recorded.len(), 6);
        levels.written(&recorded);
        assert!(levels.unwritten().is_empty());
    }

    #[test]
    fn no_two_sensors_of_two_streams_have_one_id() {
        let mut levels = LabelLevels::default();
        assigned(&mut levels, &[watched("a", &["b_car"]), watched("a_b", &["car"])]);
        assert_eq!(levels.of("a", "lot", "b_car", false), Some("b_car"));
        assert!(levels.of("a_b", "lot", "car", false).unwrap().starts_with("car_"));
    }
}
