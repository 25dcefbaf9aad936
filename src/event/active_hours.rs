//! Hours: when a label is looked for. Days, times of day and a time zone in; whether a moment lies within them, and until when that is so, out.
//!
//! Pure: the moment is a parameter, and a time zone is a table that has been read before. A span belongs to the day on which it begins, and is one
//! piece without a hole: from when the clock first shows `from` to when it last shows `to`. So an hour that a clock shows twice is in it twice,
//! and a time that a clock skips is the moment at which it does.

use std::sync::Arc;

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp};
use serde::Serialize;

/// As they are written, Monday first.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Days that are looked at before a moment and after it: a week, and another one where a clock skips the only span of the first.
const BEFORE: i64 = 2;
const AFTER: i64 = 16;
/// What goes on for longer goes on for ever: a fortnight without a hole has none in the next. A week may be without one because a clock has
/// skipped it.
const FOR_EVER: SignedDuration = SignedDuration::from_hours(15 * 24);

/// A time of day on some days.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveSpan {
    /// Monday first.
    pub days: [bool; 7],
    /// Minutes since midnight, below 1440.
    pub from: u16,
    /// The same. Not after `from`: of the next day.
    pub to: u16,
    pub zone: TimeZone,
}

/// All of a label's spans, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveHours(pub Vec<ActiveSpan>);

/// How it is at a moment, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveWindow {
    pub is_active: bool,
    /// `None`: for ever.
    pub until: Option<Timestamp>,
}

/// A span as others are told of it.
#[derive(Debug, Serialize)]
pub struct SpanView<'a> {
    pub days: Vec<&'static str>,
    pub from: String,
    pub to: String,
    pub timezone: &'a str,
}

impl ActiveSpan {
    /// The IANA name of the time zone; the system's may have none.
    pub fn timezone(&self) -> &str {
        self.zone.iana_name().unwrap_or("system")
    }

    fn view(&self) -> SpanView<'_> {
        let days = DAYS.into_iter().zip(self.days).filter_map(|(day, is_in)| is_in.then_some(day));
        SpanView { days: days.collect(), from: clock(self.from), to: clock(self.to), timezone: self.timezone() }
    }

    /// The piece of time that begins on `date`.
    fn on(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        let day = usize::try_from(date.weekday().to_monday_zero_offset()).ok()?;
        if !*self.days.get(day)? {
            return None;
        }
        let last = if self.to > self.from { date } else { date.tomorrow().ok()? };
        let (from, to) = (self.moment(date, self.from, true)?, self.moment(last, self.to, false)?);
        // A clock may skip all of it.
        (from < to).then_some((from, to))
    }

    /// When the clock shows this, `first` or last.
    fn moment(&self, date: Date, minute: u16, first: bool) -> Option<Timestamp> {
        let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
        let shown = date.to_datetime(Time::new(hour, minute, 0, 0).ok()?);
        let offset = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Fold { before, after } => {
                if first {
                    before
                } else {
                    after
                }
            }
            AmbiguousOffset::Gap { after, .. } => {
                let earlier = after.to_timestamp(shown).ok()?;
                return self.zone.following(earlier).next().map(|skip| skip.timestamp());
            }
        };
        offset.to_timestamp(shown).ok()
    }

    fn around(&self, at: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = self.zone.to_datetime(at).date();
        (-BEFORE..=AFTER).filter_map(move |day| self.on(today.checked_add(Span::new().days(day)).ok()?))
    }
}

impl ActiveHours {
    pub fn views(&self) -> Vec<SpanView<'_>> {
        self.0.iter().map(ActiveSpan::view).collect()
    }

    pub fn window(&self, at: Timestamp) -> ActiveWindow {
        let mut pieces: Vec<(Timestamp, Timestamp)> = self.0.iter().flat_map(|span| span.around(at)).collect();
        pieces.sort_unstable();
        let mut end: Option<Timestamp> = None;
        for (from, to) in pieces.into_iter().filter(|(_, to)| *to > at) {
            match end {
                None if from > at => return ActiveWindow { is_active: false, until: Some(from) },
                Some(end) if from > end => break,
                _ => end = end.max(Some(to)),
            }
        }
        let until = end.filter(|end| end.duration_since(at) < FOR_EVER);
        ActiveWindow { is_active: end.is_some(), until }
    }

    /// `at` as the clock of the first span shows it, for people.
    pub fn told(&self, at: Timestamp) -> String {
        let zone = self.0.first().map_or(TimeZone::UTC, |span| span.zone.clone());
        at.to_zoned_datetime(zone).strftime("%a %F %H:%M %Z").to_string()
    }

    /// "active now, until Mon 2026-11-30 18:00 CET".
    pub fn state_told(&self, at: Timestamp) -> String {
        match self.window(at) {
            ActiveWindow { is_active: true, until: None } => "always active".to_owned(),
            ActiveWindow { is_active: true, until: Some(until) } => format!("active now, until {}", self.told(until)),
            ActiveWindow { is_active: false, until: Some(until) } => {
                format!("outside its hours until {}", self.told(until))
            }
            ActiveWindow { is_active: false, until: None } => "never active".to_owned(),
        }
    }
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// Where a label's hours stand, by the last look at the clock.
#[derive(Clone, Debug, Default)]
pub(super) struct HoursWatch {
    /// `None`: always.
    hours: Option<Arc<ActiveHours>>,
    /// When it was found out, and what.
    known: Option<(Timestamp, ActiveWindow)>,
}

impl HoursWatch {
    /// Outside, where there are hours, until the first [look](Self::look).
    pub fn new(hours: Option<Arc<ActiveHours>>) -> Self {
        Self { hours, known: None }
    }

    pub fn has_hours(&self) -> bool {
        self.hours.is_some()
    }

    pub fn is_active(&self) -> bool {
        self.hours.is_none() || self.known.is_some_and(|(_, window)| window.is_active)
    }

    /// Whether a sample of that moment counts: one of before the hours may be scored within them.
    pub fn counts(&self, sampled: Timestamp) -> bool {
        self.hours.is_none() || self.known.is_some_and(|(since, window)| window.is_active && since <= sampled)
    }

    /// When that changes, as far as it does.
    pub fn until(&self) -> Option<Timestamp> {
        self.known?.1.until
    }

    /// The clock says `now`, which may also be earlier than last time. Whether the label has come into its hours or left them, or
    /// this is the first look.
    pub fn look(&mut self, now: Timestamp) -> bool {
        let Some(hours) = &self.hours else { return false };
        let still = |(since, window): (Timestamp, ActiveWindow)| since <= now && window.until.is_none_or(|u| now < u);
        if self.known.is_some_and(still) {
            return false;
        }
        let window = hours.window(now);
        let before = self.known.replace((now, window));
        before.is_none_or(|(_, before)| before.is_active != window.is_active)
    }
}

#[cfg(test)]
mod tests;
