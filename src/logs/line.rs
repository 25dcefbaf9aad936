//! An event of the log taken apart: its words, and its fields in the order in which they were given. Pure.

use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub message: String,
    pub fields: Vec<(&'static str, Value)>,
    /// Who tells it, if it came by the crate `log`: all of those have one place in the code and one target.
    pub target: Option<String>,
}

/// A field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As it is.
    pub text: String,
    /// As it stands in a line: texts in quotes.
    pub shown: String,
    /// It was a number, or a duration: what differs between two events of a burst that are otherwise the same.
    pub is_number: bool,
}

impl Line {
    pub fn of(event: &Event<'_>) -> Self {
        let mut line = Self::default();
        event.record(&mut line);
        line
    }

    /// The words and the fields, for a person.
    pub fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let gap = if text.is_empty() { "" } else { " " };
            // A string takes everything.
            let _ = write!(text, "{gap}{name}={}", value.shown);
        }
        text
    }

    /// The field's text, if there is such a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| *n == name).map(|(_, value)| value.text.as_str())
    }

    fn add(&mut self, field: &Field, text: String, shown: String, is_number: bool) {
        match field.name() {
            "message" => self.message = text,
            "log.target" => self.target = Some(text),
            // Where in a library's source: nobody asked.
            name if name.starts_with("log.") => {}
            name => self.fields.push((name, Value { text, shown, is_number })),
        }
    }

    fn number(&mut self, field: &Field, value: impl ToString) {
        let text = value.to_string();
        self.add(field, text.clone(), text, true);
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned(), format!("{value:?}"), false);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        let is_number = is_measure(&text);
        self.add(field, text.clone(), text, is_number);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.number(field, value);
    }
}

/// A number, or a duration as Rust shows it: `7`, `0.98`, `1.25s`, `300ms`.
fn is_measure(text: &str) -> bool {
    let text = text.trim_start_matches('-');
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = &text[digits.len()..];
    ["", "s", "ms", "µs", "ns"].contains(&unit)
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// syslog's number of a level.
pub fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Keep(std::sync::Mutex<Vec<Line>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for &'static Keep {
        fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.lock().unwrap().push(Line::of(event));
        }
    }

    #[test]
    fn what_a_library_tells_by_another_crate_has_its_own_words_alone() {
        use tracing_subscriber::layer::SubscriberExt;
        static KEPT: Keep = Keep(std::sync::Mutex::new(Vec::new()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(&KEPT), || {
            tracing::info!(log.target = "ureq::pool", log.file = "pool.rs", log.line = 7, number = 1, "connected");
        });
        let kept = KEPT.0.lock().unwrap();
        assert_eq!((kept[0].text().as_str(), kept[0].target.as_deref()), ("connected number=1", Some("ureq::pool")));
    }

    #[test]
    fn numbers_and_durations_are_told_apart_from_words() {
        for number in ["7", "-7", "0.98", "1.25s", "300ms", "4.5µs"] {
            assert!(is_measure(number), "{number}");
        }
        for word in ["", "dock-3", "3-dock", "10.0.0.1:8080", "s", "7 apples", "1.5 s", "0x7f"] {
            assert!(!is_measure(word), "{word}");
        }
    }
}
