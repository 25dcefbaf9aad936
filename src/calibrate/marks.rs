//! Marks: what a person says of the past. Of a stream and a label set, intervals in which a label was `seen` or `absent`, and `empty` ones,
//! in which no label of the set was there; of all regions of the stream, or of one. What is not marked is unknown.
//!
//! In: marks as they are written (`--marks`, `marks import`). Out: [`SetMarks`], checked, sorted, and as intervals of seconds for
//! calibration. Pure. Bounded: [`MAX_SPANS`] a set.

use std::collections::{BTreeMap, BTreeSet};
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

/// Of a label set on one stream; the form of `--marks`, `import` and `export`. What is not of one region is of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetMarks {
    pub labels: BTreeMap<String, LabelMarks>,
    /// No label of the set was there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub empty: Vec<Span>,
    /// By the name of the region.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<String, SetMarks>,
}

/// What an interval says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Seen(String),
    Absent(String),
    /// Of all labels.
    Empty,
}

/// An interval with what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// `None`: of all regions, or of a stream that has none.
    pub region: Option<String>,
    pub kind: MarkKind,
    pub span: Span,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.span)?;
        self.region.iter().try_for_each(|region| write!(f, " in region `{region}`"))
    }
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
        let of_labels = self.labels.values().map(|label| label.seen.len() + label.absent.len()).sum::<usize>();
        of_labels + self.empty.len() + self.regions.values().map(Self::len).sum::<usize>()
    }

    /// The intervals of the region and kind of `mark`.
    fn beside(&mut self, mark: &Mark) -> &mut Vec<Span> {
        let of = match &mark.region {
            Some(region) => self.regions.entry(region.clone()).or_default(),
            None => self,
        };
        match &mark.kind {
            MarkKind::Seen(label) => &mut of.labels.entry(label.clone()).or_default().seen,
            MarkKind::Absent(label) => &mut of.labels.entry(label.clone()).or_default().absent,
            MarkKind::Empty => &mut of.empty,
        }
    }

    /// Every interval with what it says.
    pub fn all(&self) -> Vec<Mark> {
        let mut out = Vec::with_capacity(self.len());
        let mut put = |kind: &MarkKind, spans: &[Span]| {
            out.extend(spans.iter().map(|span| Mark { region: None, kind: kind.clone(), span: *span }));
        };
        for (label, marks) in &self.labels {
            put(&MarkKind::Seen(label.clone()), &marks.seen);
            put(&MarkKind::Absent(label.clone()), &marks.absent);
        }
        put(&MarkKind::Empty, &self.empty);
        for (region, marks) in &self.regions {
            out.extend(marks.all().into_iter().map(|mark| Mark { region: Some(region.clone()), ..mark }));
        }
        out
    }

    /// Adds an interval; one that is there already is there once.
    pub fn add(&mut self, mark: &Mark) {
        let spans = self.beside(mark);
        if !spans.contains(&mark.span) {
            spans.push(mark.span);
        }
    }

    /// Takes an interval away; whether it was there.
    pub fn remove(&mut self, mark: &Mark) -> bool {
        let spans = self.beside(mark);
        let before = spans.len();
        spans.retain(|one| *one != mark.span);
        let removed = spans.len() < before;
        self.tidy();
        removed
    }

    /// Sorted, and without labels and regions that have none.
    pub fn tidy(&mut self) {
        let sort = |spans: &mut Vec<Span>| spans.sort_by(|a, b| a.0.seconds().total_cmp(&b.0.seconds()));
        for marks in self.labels.values_mut() {
            sort(&mut marks.seen);
            sort(&mut marks.absent);
        }
        sort(&mut self.empty);
        self.labels.retain(|_, marks| !marks.seen.is_empty() || !marks.absent.is_empty());
        self.regions.values_mut().for_each(Self::tidy);
        self.regions.retain(|_, marks| !marks.is_empty());
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
        if let Some(region) = self.regions.iter().find_map(|(name, of)| (!of.regions.is_empty()).then_some(name)) {
            problems.push(format!("region `{region}`: a region has no regions of its own"));
        }
        let labels: BTreeSet<&String> =
            std::iter::once(self).chain(self.regions.values()).flat_map(|of| of.labels.keys()).collect();
        if let Some(known) = known {
            let strange = labels.iter().filter(|label| !known.contains(label));
            problems
                .extend(strange.map(|label| format!("the set has no label `{label}` (it has {})", known.join(", "))));
        }
        let wrong = self.all().into_iter().filter_map(|mark| Some(format!("{}: {}", mark.kind, mark.span.problem()?)));
        let wrong: Vec<String> = wrong.collect();
        let is_sound = wrong.is_empty();
        problems.extend(wrong);
        if is_sound {
            for label in labels {
                problems.extend([true, false].into_iter().filter_map(|is_media| self.contradiction(label, is_media)));
            }
        }
        problems.truncate(MOST);
        problems
    }

    /// Where the label is said to have been seen and not, in any region: the first such place.
    fn contradiction(&self, label: &str, is_media: bool) -> Option<String> {
        let places = std::iter::once(None).chain(self.regions.keys().map(|region| Some(&**region)));
        places.into_iter().find_map(|region| {
            let (a, b) = contradict(&self.seen(label, region, is_media), &self.absent(label, region, is_media))?;
            let place = region.map(|region| format!(" in region `{region}`")).unwrap_or_default();
            let moment = |at: f64| match Timestamp::from_millisecond((at * 1000.0).round() as i64) {
                Ok(time) if !is_media => time.to_string(),
                _ => format!("{at:.2} s"),
            };
            let when = format!("from {} to {}", moment(a), moment(b));
            Some(format!("`{label}` is marked as seen and as absent (or empty) at the same time{place}, {when}"))
        })
    }

    /// Those that are of `region`: what is said of all, and what is said of it alone.
    fn parts(&self, region: Option<&str>) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(region.and_then(|region| self.regions.get(region)))
    }

    /// In which the label was seen in the region, of a clip or by the clock.
    pub fn seen(&self, label: &str, region: Option<&str>, is_media: bool) -> Vec<(f64, f64)> {
        let of_label = self.parts(region).filter_map(|part| part.labels.get(label));
        of_label.flat_map(|marks| pairs(&marks.seen, is_media)).collect()
    }

    /// In which it was not.
    pub fn absent(&self, label: &str, region: Option<&str>, is_media: bool) -> Vec<(f64, f64)> {
        let of_label = self.parts(region).filter_map(|part| part.labels.get(label)).map(|marks| &marks.absent);
        let spans = of_label.chain(self.parts(region).map(|part| &part.empty));
        spans.flat_map(|spans| pairs(spans, is_media)).collect()
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
