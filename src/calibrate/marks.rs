//! Marks: what a person says of the past. Of a stream and a label set, intervals in which a label was `seen` or `absent`, and `empty` ones,
//! in which no label of the set was there. What is not marked is unknown.
//!
//! In: marks as they are written (`--marks`, `marks import`). Out: [`SetMarks`], checked, sorted, and as intervals of seconds for
//! calibration. Pure. Bounded: [`MAX_SPANS`] a set.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::marked_samples::EDGE;

/// Intervals of one set of one stream, at most.
pub const MAX_SPANS: usize = 20_000;

/// A moment: of a clip, in seconds from its first picture, or of a stream, by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MarkTime {
    Media(f64),
    Wall(Timestamp),
}

impl MarkTime {
    /// On a line of seconds of its own kind.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Media(seconds) => seconds,
            Self::Wall(at) => at.as_nanosecond() as f64 / 1e9,
        }
    }

    pub fn is_media(self) -> bool {
        matches!(self, Self::Media(_))
    }
}

impl fmt::Display for MarkTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Media(seconds) => write!(f, "{seconds}"),
            Self::Wall(at) => write!(f, "{at}"),
        }
    }
}

impl std::str::FromStr for MarkTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "write seconds of a clip, such as 4.5, or a time such as 2026-05-01T12:00:00Z";
        match text.trim().parse::<f64>() {
            Ok(seconds) => Ok(Self::Media(seconds)),
            Err(_) => text.trim().parse().map(Self::Wall).map_err(|_| wrong.to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for MarkTime {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl serde::de::Visitor<'_> for Reader {
            type Value = MarkTime;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds of a clip, such as 4.5, or a time such as 2026-05-01T12:00:00Z")
            }

            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<MarkTime, E> {
                Ok(MarkTime::Media(seconds))
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<MarkTime, E> {
                Ok(MarkTime::Media(seconds as f64))
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<MarkTime, E> {
                Ok(MarkTime::Media(seconds as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MarkTime, E> {
                text.parse().map(MarkTime::Wall).map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Reader)
    }
}

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span(pub MarkTime, pub MarkTime);

impl Span {
    fn problem(&self) -> Option<String> {
        let (from, to) = (self.0.seconds(), self.1.seconds());
        if self.0.is_media() != self.1.is_media() {
            return Some(format!("{self}: one end is in seconds, the other a time; write both the same way"));
        }
        if !from.is_finite() || !to.is_finite() || (self.0.is_media() && from < 0.0) {
            return Some(format!("{self}: seconds are numbers from 0 on"));
        }
        (from >= to).then(|| format!("{self}: the end is not after the beginning"))
    }

    fn pair(&self) -> (f64, f64) {
        (self.0.seconds(), self.1.seconds())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.0, self.1)
    }
}

/// Of one label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelMarks {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<Span>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Span>,
}

/// Of a label set on one stream; the form of `--marks`, `import` and `export`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetMarks {
    pub labels: BTreeMap<String, LabelMarks>,
    /// No label of the set was there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub empty: Vec<Span>,
}

/// What an interval says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Seen(String),
    Absent(String),
    /// Of all labels.
    Empty,
}

impl fmt::Display for MarkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen(label) => write!(f, "`{label}` seen"),
            Self::Absent(label) => write!(f, "`{label}` absent"),
            Self::Empty => f.write_str("empty"),
        }
    }
}

impl SetMarks {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Intervals.
    pub fn len(&self) -> usize {
        self.labels.values().map(|label| label.seen.len() + label.absent.len()).sum::<usize>() + self.empty.len()
    }

    /// The intervals of one kind.
    fn of(&mut self, kind: &MarkKind) -> &mut Vec<Span> {
        match kind {
            MarkKind::Seen(label) => &mut self.labels.entry(label.clone()).or_default().seen,
            MarkKind::Absent(label) => &mut self.labels.entry(label.clone()).or_default().absent,
            MarkKind::Empty => &mut self.empty,
        }
    }

    /// Every interval with what it says.
    pub fn all(&self) -> Vec<(MarkKind, Span)> {
        let mut out = Vec::with_capacity(self.len());
        for (label, marks) in &self.labels {
            out.extend(marks.seen.iter().map(|span| (MarkKind::Seen(label.clone()), *span)));
            out.extend(marks.absent.iter().map(|span| (MarkKind::Absent(label.clone()), *span)));
        }
        out.extend(self.empty.iter().map(|span| (MarkKind::Empty, *span)));
        out
    }

    /// Adds an interval; one that is there already is there once.
    pub fn add(&mut self, kind: &MarkKind, span: Span) {
        let spans = self.of(kind);
        if !spans.contains(&span) {
            spans.push(span);
        }
    }

    /// Takes an interval away; whether it was there.
    pub fn remove(&mut self, kind: &MarkKind, span: Span) -> bool {
        let spans = self.of(kind);
        let before = spans.len();
        spans.retain(|one| *one != span);
        let removed = spans.len() < before;
        self.tidy();
        removed
    }

    /// Sorted, and without labels that have none.
    pub fn tidy(&mut self) {
        let sort = |spans: &mut Vec<Span>| spans.sort_by(|a, b| a.0.seconds().total_cmp(&b.0.seconds()));
        for marks in self.labels.values_mut() {
            sort(&mut marks.seen);
            sort(&mut marks.absent);
        }
        sort(&mut self.empty);
        self.labels.retain(|_, marks| !marks.seen.is_empty() || !marks.absent.is_empty());
    }

    /// What is wrong with them, the first few; `known`: the set's labels, if they are to be held against them.
    pub fn problems(&self, known: Option<&[String]>) -> Vec<String> {
        const MOST: usize = 20;
        if self.len() > MAX_SPANS {
            return vec![format!(
                "{} intervals are too many for one set of one stream: {MAX_SPANS} at most",
                self.len()
            )];
        }
        let mut problems: Vec<String> = Vec::new();
        if let Some(known) = known {
            let strange = self.labels.keys().filter(|label| !known.contains(label));
            problems
                .extend(strange.map(|label| format!("the set has no label `{label}` (it has {})", known.join(", "))));
        }
        let wrong = self.all().into_iter().filter_map(|(kind, span)| Some(format!("{kind}: {}", span.problem()?)));
        let wrong: Vec<String> = wrong.collect();
        let is_sound = wrong.is_empty();
        problems.extend(wrong);
        if is_sound {
            for label in self.labels.keys() {
                for media in [true, false] {
                    if let Some((a, b)) = contradict(&self.seen(label, media), &self.absent(label, media)) {
                        problems.push(format!(
                            "`{label}` is marked as seen and as absent (or empty) at the same time, from {a:.2} to {b:.2}{}",
                            if media { " s" } else { " s since 1970" }
                        ));
                    }
                }
            }
        }
        problems.truncate(MOST);
        problems
    }

    /// In which the label was seen, of a clip or by the clock.
    pub fn seen(&self, label: &str, is_media: bool) -> Vec<(f64, f64)> {
        self.labels.get(label).map(|marks| pairs(&marks.seen, is_media)).unwrap_or_default()
    }

    /// In which it was not.
    pub fn absent(&self, label: &str, is_media: bool) -> Vec<(f64, f64)> {
        let mut out = self.labels.get(label).map(|marks| pairs(&marks.absent, is_media)).unwrap_or_default();
        out.extend(pairs(&self.empty, is_media));
        out
    }
}

fn pairs(spans: &[Span], is_media: bool) -> Vec<(f64, f64)> {
    spans.iter().filter(|span| span.0.is_media() == is_media).map(Span::pair).collect()
}

/// Where something is said to have been there and not to have been there, edges aside.
pub fn contradict(seen: &[(f64, f64)], absent: &[(f64, f64)]) -> Option<(f64, f64)> {
    let (seen, absent) = (super::marked_samples::joined(seen), super::marked_samples::joined(absent));
    let mut next = 0;
    for (from, to) in seen {
        while absent.get(next).is_some_and(|(_, end)| *end <= from) {
            next += 1;
        }
        for (other_from, other_to) in absent[next..].iter().take_while(|(begin, _)| *begin < to) {
            let (a, b) = (from.max(*other_from), to.min(*other_to));
            if b - a > 2.0 * EDGE {
                return Some((a, b));
            }
        }
    }
    None
}
