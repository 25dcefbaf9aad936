//! Hours against formulas that know no calendar library: days since 1970 and seconds within them, and Central Europe's rule for the clock.

use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;

/// Central Europe, without the system's zones.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn span(days: &[usize], from: u16, to: u16, zone: &TimeZone) -> ActiveSpan {
    let mut named = [false; 7];
    days.iter().for_each(|day| named[*day] = true);
    ActiveSpan { days: named, from, to, zone: zone.clone() }
}

fn hours(days: &[usize], from: &str, to: &str, zone: &TimeZone) -> ActiveHours {
    let minute = |text: &str| text[..2].parse::<u16>().unwrap() * 60 + text[3..].parse::<u16>().unwrap();
    ActiveHours(vec![span(days, minute(from), minute(to), zone)])
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[track_caller]
fn assert_window(hours: &ActiveHours, moment: &str, is_active: bool, until: &str) {
    assert_eq!(hours.window(at(moment)), ActiveWindow { is_active, until: Some(at(until)) }, "at {moment}");
}

const ALL: [usize; 7] = [0, 1, 2, 3, 4, 5, 6];

#[test]
fn a_working_week_ends_on_friday_and_begins_on_monday() {
    let office = hours(&[0, 1, 2, 3, 4], "08:00", "18:00", &berlin());
    // 2026-11-27 is a Friday; Berlin is an hour ahead.
    assert_window(&office, "2026-11-27T06:59:59.999Z", false, "2026-11-27T07:00:00Z");
    assert_window(&office, "2026-11-27T07:00:00Z", true, "2026-11-27T17:00:00Z");
    assert_window(&office, "2026-11-27T16:59:59.999Z", true, "2026-11-27T17:00:00Z");
    assert_window(&office, "2026-11-27T17:00:00Z", false, "2026-11-30T07:00:00Z");
}

#[test]
fn a_span_over_midnight_belongs_to_the_day_on_which_it_begins() {
    let night = hours(&[4], "22:00", "06:00", &TimeZone::UTC);
    assert_window(&night, "2026-11-27T05:00:00Z", false, "2026-11-27T22:00:00Z");
    assert_window(&night, "2026-11-28T05:59:59Z", true, "2026-11-28T06:00:00Z");
    assert_window(&night, "2026-11-28T23:00:00Z", false, "2026-12-04T22:00:00Z");
}

#[test]
fn equal_times_are_a_whole_day_and_all_days_never_end() {
    let friday = hours(&[4], "06:00", "06:00", &TimeZone::UTC);
    assert_window(&friday, "2026-11-27T06:00:00Z", true, "2026-11-28T06:00:00Z");
    for from in ["00:00", "17:30"] {
        let always = hours(&ALL, from, from, &berlin());
        assert_eq!(always.window(at("2026-03-29T00:59:00Z")), ActiveWindow { is_active: true, until: None });
        assert_eq!(always.state_told(at("2026-10-25T00:59:00Z")), "always active");
    }
}

#[test]
fn an_hour_that_the_clock_shows_twice_is_in_a_span_twice() {
    // Berlin's clocks go from 03:00 back to 02:00 at 01:00 UTC.
    let zone = berlin();
    let ends = hours(&ALL, "22:00", "02:30", &zone);
    assert_window(&ends, "2026-10-24T21:00:00Z", true, "2026-10-25T01:30:00Z");
    let begins = hours(&ALL, "02:30", "06:00", &zone);
    assert_window(&begins, "2026-10-24T23:00:00Z", false, "2026-10-25T00:30:00Z");
    assert_window(&begins, "2026-10-25T01:10:00Z", true, "2026-10-25T05:00:00Z");
    let within = hours(&ALL, "02:15", "02:45", &zone);
    assert_window(&within, "2026-10-25T00:15:00Z", true, "2026-10-25T01:45:00Z");
}

#[test]
fn a_time_that_the_clock_skips_is_the_moment_at_which_it_does() {
    // From 02:00 to 03:00 at 01:00 UTC.
    let zone = berlin();
    assert_window(&hours(&ALL, "02:30", "06:00", &zone), "2026-03-29T00:00:00Z", false, "2026-03-29T01:00:00Z");
    assert_window(&hours(&ALL, "22:00", "02:30", &zone), "2026-03-28T22:00:00Z", true, "2026-03-29T01:00:00Z");
    // All of it is skipped: it is the next day's.
    assert_window(&hours(&ALL, "02:15", "02:45", &zone), "2026-03-29T00:00:00Z", false, "2026-03-30T00:15:00Z");
    // A week without it: 2026-03-29 is a Sunday.
    assert_window(&hours(&[6], "02:15", "02:45", &zone), "2026-03-29T00:00:00Z", false, "2026-04-05T00:15:00Z");
}

#[test]
fn spans_that_touch_are_one_and_each_has_a_zone_of_its_own() {
    let both = ActiveHours(vec![span(&ALL, 480, 720, &TimeZone::UTC), span(&ALL, 780, 840, &berlin())]);
    assert_window(&both, "2026-11-27T08:30:00Z", true, "2026-11-27T13:00:00Z");
    let views = serde_json::to_value(both.views()).unwrap();
    assert_eq!(views[0]["from"], "08:00");
    assert_eq!(views[0]["timezone"], "UTC");
    assert_eq!(views[1]["days"].as_array().map(Vec::len), Some(7));
}

#[test]
fn what_is_told_to_people_is_in_the_zone_of_the_hours() {
    let office = hours(&[0], "08:00", "18:00", &berlin());
    assert_eq!(office.state_told(at("2026-11-27T07:00:00Z")), "outside its hours until Mon 2026-11-30 08:00 CET");
    assert_eq!(office.state_told(at("2026-11-30T07:00:00Z")), "active now, until Mon 2026-11-30 18:00 CET");
}

#[test]
fn a_clock_that_jumps_either_way_is_followed_at_the_next_look() {
    let mut watch = HoursWatch::new(Some(Arc::new(hours(&ALL, "08:00", "18:00", &TimeZone::UTC))));
    assert!(!watch.is_active(), "nothing is told before anybody has looked at the clock");
    assert!(watch.look(at("2026-11-27T09:00:00Z")) && watch.is_active());
    assert!(watch.counts(at("2026-11-27T09:00:00Z")) && !watch.counts(at("2026-11-27T08:59:59Z")));
    assert!(!watch.look(at("2026-11-27T17:59:59Z")) && watch.is_active());
    assert!(watch.look(at("2026-11-27T07:00:00Z")) && !watch.is_active(), "back before the hours");
    assert_eq!(watch.until(), Some(at("2026-11-27T08:00:00Z")));
    assert!(!watch.look(at("2026-11-28T07:00:00Z")) && !watch.is_active(), "on by a day, into the same state");
    assert_eq!(watch.until(), Some(at("2026-11-28T08:00:00Z")));
    assert!(watch.look(at("2026-11-28T12:00:00Z")) && watch.is_active());
    let mut always = HoursWatch::new(None);
    assert!(always.is_active() && !always.look(at("2026-11-27T09:00:00Z")));
}

/// Days since 1970 of a date, by Howard Hinnant's formula.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Monday is 0: the first day of 1970 was a Thursday.
fn weekday(day: i64) -> usize {
    usize::try_from((day + 3).rem_euclid(7)).unwrap()
}

/// Seconds that Central Europe's clocks are ahead of UTC: two hours from 01:00 UTC of the last Sunday of March to that of October.
fn ahead(second: i64) -> i64 {
    let about = 1970 + second.div_euclid(31_556_952);
    let year = (about - 1..=about + 1).rev().find(|year| days_of(*year, 1, 1) * DAY <= second).unwrap();
    let turn = |month| {
        let last = days_of(year, month, 31);
        (last - i64::try_from((weekday(last) + 1) % 7).unwrap()) * DAY + 3600
    };
    if (turn(3)..turn(10)).contains(&second) { 7200 } else { 3600 }
}

/// Whether a second is in a span, by asking what the clock shows minute for minute.
fn is_in(span: &ActiveSpan, second: i64, ahead: impl Fn(i64) -> i64) -> bool {
    let today = (second + ahead(second)).div_euclid(DAY);
    (today - 2..=today).filter(|day| span.days[weekday(*day)]).any(|day| {
        let length = (i64::from(span.to) - i64::from(span.from) - 1).rem_euclid(1440) + 1;
        let (from, to) = (day * DAY + i64::from(span.from) * 60, day * DAY + (i64::from(span.from) + length) * 60);
        let shows = |second: i64| second + ahead(second);
        let minutes = |local: i64| (local - 7200..=local).step_by(60);
        let first = |local| minutes(local).find(|second| shows(*second) >= local).unwrap();
        let last =
            |local| minutes(local).filter(|second| shows(*second) == local).last().unwrap_or_else(|| first(local));
        (first(from)..last(to)).contains(&second)
    })
}

/// Around the hour that comes twice, or not at all, more than elsewhere.
fn minutes() -> impl Strategy<Value = u16> {
    prop_oneof![0..1440_u16, 110..190_u16]
}

fn spans(zone: TimeZone) -> impl Strategy<Value = ActiveSpan> {
    (any::<[bool; 7]>(), minutes(), minutes()).prop_map(move |(days, from, to)| ActiveSpan {
        days,
        from,
        to,
        zone: zone.clone(),
    })
}

/// Around the changes of the clock more than elsewhere.
fn seconds() -> impl Strategy<Value = i64> {
    let turns = [days_of(2026, 3, 29), days_of(2026, 10, 25), days_of(2027, 3, 28)].map(|day| day * DAY);
    prop_oneof![
        days_of(2020, 1, 1) * DAY..days_of(2040, 1, 1) * DAY,
        (proptest::sample::select(turns.to_vec()), -2 * DAY..2 * DAY).prop_map(|(turn, before)| turn + before),
        (proptest::sample::select(turns.to_vec()), -7200..4 * 3600_i64).prop_map(|(turn, before)| turn + before),
    ]
}

fn check(hours: &ActiveHours, second: i64, ahead: impl Fn(i64) -> i64 + Copy) -> Result<(), TestCaseError> {
    let expected = |second| hours.0.iter().any(|span| is_in(span, second, ahead));
    let now = Timestamp::from_second(second).unwrap();
    let window = hours.window(now);
    prop_assert_eq!(window.is_active, expected(second));
    let Some(until) = window.until else { return Ok(()) };
    prop_assert!(until > now);
    prop_assert_eq!(expected(until.as_second()), !window.is_active, "it changes then");
    let between = until.as_second() - second;
    for part in 0..8 {
        prop_assert_eq!(expected(second + between * part / 8), window.is_active, "and not before");
    }
    prop_assert_eq!(expected(until.as_second() - 1), window.is_active);
    Ok(())
}

proptest! {
    #[test]
    fn in_utc_a_moment_is_in_the_hours_that_arithmetic_says(
        spans in proptest::collection::vec(spans(TimeZone::UTC), 1..4), second in seconds(),
    ) {
        check(&ActiveHours(spans), second, |_| 0)?;
    }

    #[test]
    fn where_clocks_change_a_moment_is_in_the_hours_that_arithmetic_says(
        spans in proptest::collection::vec(spans(berlin()), 1..4), second in seconds(),
    ) {
        check(&ActiveHours(spans), second, ahead)?;
    }

    #[test]
    fn looks_at_a_clock_that_goes_any_way_find_what_a_first_look_finds(
        span in spans(berlin()), seconds in proptest::collection::vec(seconds(), 1..12),
    ) {
        let hours = Arc::new(ActiveHours(vec![span]));
        let mut watch = HoursWatch::new(Some(Arc::clone(&hours)));
        for second in seconds {
            let now = Timestamp::from_second(second).unwrap();
            let before = watch.known.map(|(_, window)| window.is_active);
            let changed = watch.look(now);
            prop_assert_eq!(watch.is_active(), hours.window(now).is_active);
            prop_assert_eq!(changed, before != Some(watch.is_active()));
        }
    }
}
