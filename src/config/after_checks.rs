//! Whether a tag can start as `after` says, with the samples that a stream takes.
//!
//! In: checked streams and label sets. Out: warnings where two samples lie further apart than `after`, notes where `unchanged` looks anew less often
//! than that; for each set one for all streams that inherit, and one for each stream that says so itself. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::schema::Stream;
use super::sets_in_force::SetInForce;
use super::{StreamSettings, sets};
use crate::event::Thresholds;
use crate::label::LabelSet;
use crate::sample::Interval;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::problem::Severity;

/// What is told of a label set at one place of the file.
#[derive(Default)]
struct Finding<'a> {
    /// Longest of all.
    time: Duration,
    streams: Vec<&'a str>,
    /// Shortest `after` first, each once.
    labels: BTreeSet<(Duration, &'a str)>,
}

/// Compares the streams with their labels' `after`; what concerns a set is noted in `in_force` too.
pub(super) fn check(
    raw: &[At<Stream>],
    streams: &[StreamSettings],
    label_sets: &[LabelSet],
    in_force: &mut [SetInForce],
    events: &Thresholds,
    reader: &mut Reader<'_>,
) {
    let mut slow: BTreeMap<(String, usize), Finding<'_>> = BTreeMap::new();
    let mut held: BTreeMap<(String, usize), Finding<'_>> = BTreeMap::new();
    for stream in streams {
        let id = &*stream.source.id;
        let own = raw.iter().find(|raw| raw.value.id.given().is_some_and(|given| given.value == *id));
        let sampling = own.and_then(|own| own.value.sampling.given());
        let path = |own: Option<String>, key: &str| own.unwrap_or_else(|| format!("sampling.{key}"));
        for set in &stream.label_sets {
            let Some(labels) = label_sets.get(*set).map(|set| &set.labels) else { continue };
            let afters = labels.iter().map(|label| (sets::thresholds(label, events).after, label.name.as_str()));
            let afters: Vec<_> = afters.filter(|(after, _)| !after.is_zero()).collect();
            if let Interval::Every(interval) = stream.interval {
                let own = sampling.and_then(|sampling| given(&sampling.value.interval));
                note(slow.entry((path(own, "interval"), *set)).or_default(), id, interval, &afters);
            }
            if let Some(unchanged) = stream.unchanged {
                let own = sampling.and_then(|sampling| given(&sampling.value.unchanged));
                note(held.entry((path(own, "unchanged"), *set)).or_default(), id, unchanged.max_age, &afters);
            }
        }
    }
    let told = |(_, finding): &(_, Finding<'_>)| !finding.labels.is_empty();
    for ((path, set), Finding { time, streams, labels }) in slow.into_iter().filter(told) {
        let fact = format!("a sample every {time:?} is longer than `after` of {}{}", named(&labels), of(&streams));
        let message =
            format!("{fact}: what shows in one sample starts nothing, and a tag starts {time:?} after its first");
        let remedy = "sample at least twice in `after`, or write `after: 0s` to start at one sample";
        tell(Severity::Warning, &path, message, remedy, reader);
        if let Some(set) = in_force.get_mut(set) {
            set.warnings.push(fact);
        }
    }
    for ((path, _), Finding { time, streams, labels }) in held.into_iter().filter(told) {
        let message = format!(
            "what changes the view by less than `tolerance` is looked at every {time:?}, longer than `after` of {}{}: something small that \
             shows for less may start nothing",
            named(&labels),
            of(&streams)
        );
        tell(Severity::Notice, &path, message, "lower `max_age` or `tolerance` where small things matter", reader);
    }
}

/// Where it stands, if it does.
fn given<T>(field: &Field<T>) -> Option<String> {
    field.given().map(|at| at.path.clone())
}

/// Adds the labels whose `after` is shorter than `time`.
fn note<'a>(finding: &mut Finding<'a>, stream: &'a str, time: Duration, afters: &[(Duration, &'a str)]) {
    let short: Vec<_> = afters.iter().filter(|(after, _)| *after < time).collect();
    if !short.is_empty() {
        finding.time = finding.time.max(time);
        finding.streams.push(stream);
    }
    finding.labels.extend(short);
}

/// The first of the labels, and how many more.
fn named(labels: &BTreeSet<(Duration, &str)>) -> String {
    let first = labels.first().map(|(after, label)| format!("`{label}` ({after:?})")).unwrap_or_default();
    if labels.len() > 1 { format!("{first} and {} more", labels.len() - 1) } else { first }
}

fn of(streams: &[&str]) -> String {
    match streams {
        [one] => format!(", stream {one}"),
        [first, ..] => format!(", stream {first} and {} more", streams.len() - 1),
        [] => String::new(),
    }
}

/// At the key, or at what is above it where it is left out.
fn tell(severity: Severity, path: &str, message: String, remedy: &str, reader: &mut Reader<'_>) {
    let place = reader.document().find(path).place;
    reader.report(severity, place, path, message, remedy);
}
