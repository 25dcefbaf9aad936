//! `active` in YAML: days, times of day and a time zone, once or as a list. A node in, checked [`ActiveHours`] out. On the caller's thread; time zones are
//! read from the system's files.

use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::event::active_hours::{ActiveHours, ActiveSpan, DAYS};
use crate::section;
use crate::yaml::field_reader::{At, FromNode, Reader};
use crate::yaml::key_reference::Key;
use crate::yaml::{Node, Value, suggest};

/// Of one label.
const MAX_SPANS: usize = 32;
const DAY: u16 = 24 * 60;
/// The word for the zone that the machine is set to.
const SYSTEM: &str = "system";

section! {
    /// A span as written.
    struct RawSpan {
        /// `mon` to `sun`, a range such as `mon-fri`, or a list of them | all | Days on which the span begins
        "days" => days: Days,
        /// HH:MM | `00:00` | When it begins
        "from" => from: TimeOfDay,
        /// HH:MM, up to `24:00` | `24:00` | When it ends: not after `from` is the next day, equal a whole day
        "to" => to: TimeOfDay,
        /// IANA name such as `Europe/Berlin`, or `system` | `system` | Whose clock counts
        "timezone" => timezone: Zone,
    }
}

/// Monday first.
struct Days([bool; 7]);

/// In minutes, up to 24:00.
struct TimeOfDay(u16);

struct Zone(TimeZone);

impl FromNode for ActiveHours {
    // As for a section: all of its lines may be commented out.
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        let spans =
            serde_json::json!({ "type": "array", "items": RawSpan::schema(), "minItems": 1, "maxItems": MAX_SPANS });
        serde_json::json!({ "anyOf": [RawSpan::schema(), spans] })
    }

    fn keys(path: &str, out: &mut Vec<Key>) {
        RawSpan::keys(path, out);
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let spans = match &node.value {
            Value::List(_) => Vec::<At<RawSpan>>::from_node(node, path, reader)?,
            _ => vec![At { value: RawSpan::from_node(node, path, reader)?, place: node.place, path: path.to_owned() }],
        };
        if spans.is_empty() {
            return reader.refuse_node(
                node,
                path,
                "is empty",
                "write a span, or remove the key: without it, it is always",
            );
        }
        if spans.len() > MAX_SPANS {
            let message = format!("has {} spans, {MAX_SPANS} are possible", spans.len());
            return reader.refuse_node(node, path, message, "join some, or give the label's hours in fewer");
        }
        let spans: Vec<Option<ActiveSpan>> = spans.iter().map(|span| checked(span, reader)).collect();
        spans.into_iter().collect::<Option<Vec<_>>>().map(Self)
    }
}

fn checked(span: &At<RawSpan>, reader: &mut Reader<'_>) -> Option<ActiveSpan> {
    let RawSpan { days, from, to, timezone } = &span.value;
    let is_whole = days.is_missing() && from.is_missing() && to.is_missing();
    let days = days.checked([true; 7], |days| Some(days.value.0));
    let from = from.checked(0, |from| match from.value {
        TimeOfDay(DAY) => reader.refuse(from, "is the end of a day, at which nothing begins", "write 00:00"),
        TimeOfDay(minute) => Some(minute),
    });
    let to = to.checked(0, |to| Some(to.value.0 % DAY));
    let zone = match timezone.given() {
        Some(zone) => Some(zone.value.0.clone()),
        // What is wrong with it has been reported.
        None if !timezone.is_missing() => None,
        // `{}` is always, by any clock.
        None if is_whole => Some(TimeZone::UTC),
        None => system_zone().or_else(|| reader.refuse(span, NO_SYSTEM_ZONE, NAME_A_ZONE)),
    };
    Some(ActiveSpan { days: days?, from: from?, to: to?, zone: zone? })
}

const NO_SYSTEM_ZONE: &str = "needs the system's time zone, which is not set";
const NAME_A_ZONE: &str = "name one: `timezone: Europe/Berlin`, or `timezone: UTC`";

fn system_zone() -> Option<TimeZone> {
    TimeZone::try_system().ok().filter(|zone| !zone.is_unknown())
}

impl FromNode for Days {
    fn schema() -> serde_json::Value {
        let word = serde_json::json!({ "type": "string", "pattern": format!("^({0})(-({0}))?$", DAYS.join("|")) });
        serde_json::json!({ "anyOf": [word, { "type": "array", "items": word, "minItems": 1 }] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const REMEDY: &str = "write days such as `mon`, `mon-fri` or [mon-thu, sat]";
        let written = match &node.value {
            Value::List(_) => Vec::<At<String>>::from_node(node, path, reader)?,
            Value::Text(text) => vec![At { value: text.clone(), place: node.place, path: path.to_owned() }],
            _ => return reader.refuse_kind(node, path, "days", REMEDY),
        };
        if written.is_empty() {
            return reader.refuse_node(node, path, "is empty", REMEDY);
        }
        let mut days = [false; 7];
        let mut right = true;
        for item in &written {
            match range(&item.value) {
                Some((first, count)) => (first..=first + count).for_each(|day| days[day % 7] = true),
                None => {
                    reader.error(item, "is no day and no range of days", REMEDY);
                    right = false;
                }
            }
        }
        right.then_some(Self(days))
    }
}

/// The first day of `mon-fri`, and how many follow.
fn range(text: &str) -> Option<(usize, usize)> {
    let day = |word: &str| DAYS.iter().position(|day| word.trim().eq_ignore_ascii_case(day));
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (day(first)?, day(last)?);
            Some((first, (last + 7 - first) % 7))
        }
        None => Some((day(text)?, 0)),
    }
}

impl FromNode for TimeOfDay {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^([01]?[0-9]|2[0-3]):[0-5][0-9]$|^24:00$" })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::from_node(node, path, reader)?;
        let time = minute(text.trim()).map(Self);
        time.or_else(|| {
            reader.refuse_node(node, path, "is no time of day", "write hours and minutes, such as \"08:00\"")
        })
    }
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str, most: usize| {
        let fits = (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2).filter(|_| minutes.len() == 2)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

impl FromNode for Zone {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string" })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::from_node(node, path, reader)?;
        let name = text.trim();
        if name.eq_ignore_ascii_case(SYSTEM) {
            let zone = system_zone().map(Self);
            return zone.or_else(|| reader.refuse_node(node, path, NO_SYSTEM_ZONE, NAME_A_ZONE));
        }
        match named_zone(name, jiff::tz::db()) {
            Ok(zone) => Some(Self(zone)),
            Err((message, remedy)) => reader.refuse_node(node, path, message, remedy),
        }
    }
}

/// The zone of this name, or what is wrong and what to do.
fn named_zone(name: &str, known: &TimeZoneDatabase) -> Result<TimeZone, (&'static str, String)> {
    if let Ok(zone) = known.get(name) {
        return Ok(zone);
    }
    let names: Vec<String> = known.available().map(|name| name.to_string()).collect();
    // UTC is always there.
    if names.len() < 2 {
        let remedy = "install tzdata, or use `system` or `UTC`";
        return Err(("is a time zone that this system does not have, as it has none", remedy.to_owned()));
    }
    const EXAMPLE: &str = "such as Europe/Berlin: see /usr/share/zoneinfo";
    let folded = |name: &str| name.to_lowercase().replace(['-', ' '], "_");
    let (written, folded_names): (_, Vec<String>) = (folded(name), names.iter().map(|name| folded(name)).collect());
    // Of `Berlin` or `Germany/Berlin` the town is meant.
    let town = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let same_town = || folded_names.iter().position(|name| name.contains('/') && town(name) == town(&written));
    let known: Vec<&str> = folded_names.iter().map(String::as_str).collect();
    let near = || suggest::nearest(&written, &known).and_then(|near| known.iter().position(|name| *name == near));
    let remedy = match near().or_else(same_town).and_then(|at| names.get(at)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("write an IANA name {EXAMPLE}"),
    };
    Err(("is an unknown time zone", remedy))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::yaml::Document;

    section! {
        struct Whole {
            /// - | - | -
            "active" => active: ActiveHours,
        }
    }

    /// What is read, or field and message of each problem.
    fn read(text: &str) -> Result<ActiveHours, Vec<String>> {
        let document = Document::parse(Path::new("a.yaml"), text.as_bytes()).unwrap();
        let mut reader = Reader::new(&document);
        let read = reader.root::<Whole>().and_then(|whole| whole.value.active.value());
        let problems = reader.finish();
        match read {
            Some(hours) if problems.is_empty() => Ok(hours),
            _ => Err(problems.iter().map(|p| format!("{}: {}; {}", p.field, p.message, p.remedy)).collect()),
        }
    }

    fn span(text: &str) -> ActiveSpan {
        let mut hours = read(text).unwrap();
        assert_eq!(hours.0.len(), 1);
        hours.0.remove(0)
    }

    #[test]
    fn days_are_words_ranges_and_lists_and_left_out_all() {
        let days = |text: &str| {
            let days = span(&format!("active: {{ {text}, timezone: UTC }}")).days;
            DAYS.iter().zip(days).filter_map(|(day, is_in)| is_in.then_some(*day)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(days("days: mon-fri"), "mon tue wed thu fri");
        assert_eq!(days("days: [Sat-mon, wed]"), "mon wed sat sun");
        assert_eq!(days("days: sun"), "sun");
        assert_eq!(days("days: mon-mon"), "mon");
        assert_eq!(days("from: 08:00"), DAYS.join(" "));
        let always = span("active: {}");
        assert_eq!((always.days, always.from, always.to, always.zone), ([true; 7], 0, 0, TimeZone::UTC));
    }

    #[test]
    fn times_are_written_with_and_without_quotes_and_the_day_ends_at_24() {
        let times = |text: &str| {
            let span = span(&format!("active: {{ {text}, timezone: utc }}"));
            (span.from, span.to)
        };
        assert_eq!(times("from: 08:00, to: \"18:30\""), (480, 1110));
        assert_eq!(times("from: 7:05, to: 24:00"), (425, 0));
        assert_eq!(times("days: mon"), (0, 0));
        assert_eq!(times("from: 22:00, to: 06:00"), (1320, 360));
    }

    #[test]
    fn several_spans_are_a_list_each_with_a_zone_of_its_own() {
        let hours = read("active:\n- { from: 08:00, to: 12:00, timezone: UTC }\n- { from: 13:00, timezone: UTC }\n");
        assert_eq!(hours.unwrap().0.len(), 2);
    }

    #[test]
    fn every_mistake_is_named_with_its_key_and_what_to_write() {
        let wrong = [
            ("active: []", "active: is empty"),
            ("active: mon", "active: expected a mapping"),
            ("active: { day: mon }", "active.day: is an unknown key; did you mean `days`?"),
            ("active: { days: [] , timezone: UTC }", "active.days: is empty"),
            ("active: { days: monday, timezone: UTC }", "active.days: is no day"),
            ("active: { days: [mon, tus-fri], timezone: UTC }", "active.days[1]: is no day"),
            ("active: { days: 1, timezone: UTC }", "active.days: expected days"),
            ("active: { from: 8, timezone: UTC }", "active.from: is no time of day; write hours and minutes"),
            ("active: { from: 24:00, timezone: UTC }", "active.from: is the end of a day"),
            ("active: { to: 24:01, timezone: UTC }", "active.to: is no time of day"),
            ("active: { to: 12:60, timezone: UTC }", "active.to: is no time of day"),
            ("active: { to: 12:5, timezone: UTC }", "active.to: is no time of day"),
            ("active: { to: 123:05, timezone: UTC }", "active.to: is no time of day"),
            ("active: { to: -1:05, timezone: UTC }", "active.to: is no time of day"),
            ("active: { timezone: ../../etc/passwd }", "active.timezone: is "),
            ("active: [{ timezone: UTC }, { days: x, timezone: UTC }]", "active[1].days: is no day"),
        ];
        for (text, expected) in wrong {
            let problems = read(text).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with(expected), "{text}: {problems:?}");
        }
        let many = format!("active: [{}]", vec!["{ timezone: UTC }"; MAX_SPANS + 1].join(", "));
        assert!(read(&many).unwrap_err()[0].starts_with("active: has 33 spans"));
    }

    #[test]
    fn an_unknown_zone_is_answered_with_one_that_is_near() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["Europe/Berlin", "Europe/Vienna", "America/Port-au-Prince"] {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, zone_file()).unwrap();
        }
        let known = TimeZoneDatabase::from_dir(folder.path()).unwrap();
        let remedy = |name: &str| named_zone(name, &known).unwrap_err().1;
        assert!(named_zone("europe/vienna", &known).is_ok(), "as it is written does not matter");
        assert_eq!(remedy("Europe/Berlim"), "did you mean `Europe/Berlin`?");
        assert_eq!(remedy("berlin"), "did you mean `Europe/Berlin`?");
        assert_eq!(remedy("America/Port au Prince"), "did you mean `America/Port-au-Prince`?");
        assert!(remedy("CEST").contains("an IANA name"), "{}", remedy("CEST"));
        let none = tempfile::tempdir().unwrap();
        let none = TimeZoneDatabase::from_dir(none.path()).unwrap_or_else(|_| TimeZoneDatabase::none());
        assert!(named_zone("Europe/Berlin", &none).unwrap_err().1.contains("install tzdata"));
    }

    /// The smallest file of a zone: one offset, for ever (RFC 9636).
    fn zone_file() -> Vec<u8> {
        let header = |version: u8| {
            let counts = [0u32, 0, 0, 0, 1, 4].map(u32::to_be_bytes).concat();
            [b"TZif".as_slice(), &[version], &[0; 15], &counts].concat()
        };
        let body = [0i32.to_be_bytes().as_slice(), &[0, 0], b"TST\0"].concat();
        [header(b'2'), body.clone(), header(b'2'), body, b"\nTST0\n".to_vec()].concat()
    }
}
