//! Bodies that other programs understand, made of an event by a template (Jinja's language, `minijinja`). Pure.
//!
//! In: an event. Out: a body and its Content Type, or why there is none. In a body of JSON everything that is printed is printed as JSON, so that
//! what a label is called cannot end a string. What a template names and is not there is an error, found by [`BodyTemplate::try_out`] before there
//! is an event. Bounded: so many steps a body ([`STEPS`]), and [`MAX_BODY`] bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::json;

use crate::event::cloud_event::Data;
use crate::event::{EndReason, Event, EventKind, ModelRef};

/// Steps of a template; ready ones take a few dozen.
const STEPS: u64 = 100_000;

/// Of a body.
const MAX_BODY: usize = 256 << 10;

/// Ready ones, with what each needs to be told.
const READY: [(&str, &str); 5] = [
    ("discord", include_str!("bodies/discord.json.j2")),
    ("gotify", include_str!("bodies/gotify.json.j2")),
    ("ntfy", include_str!("bodies/ntfy.json.j2")),
    ("slack", include_str!("bodies/slack.json.j2")),
    ("telegram", include_str!("bodies/telegram.json.j2")),
];

/// The names of the ready ones.
pub fn ready() -> impl Iterator<Item = &'static str> {
    READY.iter().map(|(name, _)| *name)
}

/// A template as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSettings {
    /// A ready one's name, or the file's.
    pub name: String,
    pub source: String,
    /// The body is JSON; otherwise plain text.
    pub is_json: bool,
    /// What the template calls `values`.
    pub values: BTreeMap<String, String>,
}

impl TemplateSettings {
    /// The ready one of this name.
    pub fn ready(name: &str, values: BTreeMap<String, String>) -> Option<Self> {
        let (name, source) = READY.iter().find(|(known, _)| *known == name)?;
        Some(Self { name: (*name).to_owned(), source: (*source).to_owned(), is_json: true, values })
    }
}

/// See the module.
#[derive(Clone)]
pub struct BodyTemplate {
    environment: Arc<Environment<'static>>,
    is_json: bool,
    values: BTreeMap<String, String>,
}

impl BodyTemplate {
    /// Understands the template.
    ///
    /// # Errors
    /// What is wrong with it, with the line.
    pub fn new(settings: &TemplateSettings) -> Result<Self, String> {
        let TemplateSettings { source, is_json, values, .. } = settings.clone();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(move |_| if is_json { AutoEscape::Json } else { AutoEscape::None });
        environment.set_fuel(Some(STEPS));
        environment.add_template_owned("body", source).map_err(|error| told(&error))?;
        Ok(Self { environment: Arc::new(environment), is_json, values })
    }

    pub fn content_type(&self) -> &'static str {
        if self.is_json { "application/json; charset=utf-8" } else { "text/plain; charset=utf-8" }
    }

    /// The body of `event`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn body(&self, event: &Event) -> Result<String, String> {
        let mut said = serde_json::to_value(event).map_err(|error| error.to_string())?;
        // There in every event, to a template.
        for key in ["region", "reason", "snapshot"] {
            if said["data"].get(key).is_none() {
                said["data"][key] = serde_json::Value::Null;
            }
        }
        let severity = said["data"]["attributes"]["severity"].as_str().unwrap_or("info").to_owned();
        let context = json!({
            "event": said,
            "kind": event.kind.as_str(),
            "title": title(event),
            "message": format!("{}: {}", title(event), what(event)),
            "severity": severity,
            "values": self.values,
        });
        let template = self.environment.get_template("body").map_err(|error| told(&error))?;
        let body = template.render(Value::from(Serde(&context))).map_err(|error| told(&error))?;
        if body.len() > MAX_BODY {
            return Err(format!("gives a body of more than {MAX_BODY} bytes"));
        }
        if self.is_json
            && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&body)
        {
            return Err(format!("gives no JSON: {error}"));
        }
        Ok(body)
    }

    /// Makes bodies of made-up events of every kind.
    ///
    /// # Errors
    /// Why one of them has none.
    pub fn try_out(&self) -> Result<(), String> {
        [EventKind::Start, EventKind::Update, EventKind::End].into_iter().try_for_each(|kind| {
            let [bare, full] = samples(kind);
            self.body(&bare).and_then(|_| self.body(&full)).map(drop)
        })
    }
}

/// Made-up events: one with as little as there can be in it, one with all.
fn samples(kind: EventKind) -> [Event; 2] {
    let time = jiff::Timestamp::UNIX_EPOCH;
    let ended_at = (kind == EventKind::End).then_some(time);
    let data = Data {
        region: None,
        stream: "gate".into(),
        set: "lot".into(),
        label: "\"red\" car\n".into(),
        tag_id: uuid::Uuid::nil(),
        score: 0.93,
        margin: None,
        rival: None,
        peak: 0.97,
        started_at: time,
        ended_at,
        sampled_at: time,
        media_start: 1.5,
        media_end: ended_at.map(|_| 2.5),
        reason: None,
        model: ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None },
        attributes: Arc::default(),
        snapshot: None,
    };
    let full = Data {
        region: Some("left".into()),
        margin: Some(2.5),
        rival: Some("a wall".into()),
        reason: ended_at.map(|_| EndReason::BelowExit),
        attributes: Arc::new([("severity".to_owned(), serde_json::Value::from("error"))].into()),
        snapshot: Some("https://edge-1.example/api/v1/snapshots/x-start.jpg".into()),
        ..data.clone()
    };
    [data, full].map(|data| Event { id: uuid::Uuid::nil(), source: "/edge-1/streams/gate".into(), kind, data })
}

/// What it is about: `car at gate (left)`.
fn title(event: &Event) -> String {
    let data = &event.data;
    let region = data.region.as_ref().map_or_else(String::new, |region| format!(" ({region})"));
    format!("{} at {}{region}", data.label, data.stream)
}

/// What has happened, in a few words.
fn what(event: &Event) -> String {
    let data = &event.data;
    let percent = |score: f32| (score * 100.0).round();
    match event.kind {
        EventKind::Start => format!("seen, {} %", percent(data.score)),
        EventKind::Update => format!("clearer, {} %", percent(data.score)),
        EventKind::End => {
            let seconds = data.ended_at.map_or(0, |ended| ended.duration_since(data.started_at).as_secs().max(0));
            format!("gone after {seconds} s, {} % at best", percent(data.peak))
        }
    }
}

/// With the line, and without what the template was given: that may be long.
fn told(error: &minijinja::Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {detail}"));
    format!("{line}{}{detail}", error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::delivery::tests::event;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn of_text(source: &str, is_json: bool) -> TemplateSettings {
        TemplateSettings { name: "x".into(), source: source.into(), is_json, values: values(&[]) }
    }

    #[test]
    fn each_ready_template_makes_json_of_every_event_and_names_what_it_lacks() {
        for (name, needs) in
            [("slack", ""), ("discord", ""), ("gotify", ""), ("ntfy", "topic"), ("telegram", "chat_id")]
        {
            let given = if needs.is_empty() { values(&[]) } else { values(&[(needs, "x")]) };
            let template = BodyTemplate::new(&TemplateSettings::ready(name, given).unwrap()).unwrap();
            template.try_out().unwrap();
            let mut odd = event("gate", "\"}<!channel> & \u{1}\n", EventKind::Start);
            odd.data.score = 0.934;
            let body: serde_json::Value = serde_json::from_str(&template.body(&odd).unwrap()).unwrap();
            assert!(body.to_string().contains("seen, 93 %"), "{name}: {body}");
            assert!(name != "slack" || body["text"].as_str().unwrap().contains("&lt;!channel&gt; &amp;"), "{body}");
            if !needs.is_empty() {
                let without = BodyTemplate::new(&TemplateSettings::ready(name, values(&[])).unwrap()).unwrap();
                let why = without.try_out().unwrap_err();
                assert!(why.contains("undefined"), "{name}: {why}");
            }
        }
        assert_eq!(TemplateSettings::ready("teams", values(&[])), None);
    }

    #[test]
    fn what_a_template_does_wrong_is_told_with_its_line() {
        let fails = |source: &str, is_json| match BodyTemplate::new(&of_text(source, is_json)) {
            Err(why) => why,
            Ok(template) => template.try_out().unwrap_err(),
        };
        assert!(fails("a\n{{ event.data.label", false).starts_with("line 2: "));
        assert!(fails("a\n{{ event.data.lable }}", false).starts_with("line 2: undefined value"));
        assert!(fails("{\"text\": {{ title }}", true).starts_with("gives no JSON: "));
        assert!(
            fails("{% for i in range(1000) %}{% for j in range(1000) %}x{% endfor %}{% endfor %}", false)
                .contains("fuel")
        );
        let text = BodyTemplate::new(&of_text("{{ kind }} {{ title }} {{ event.data.region }}", false)).unwrap();
        text.try_out().unwrap();
        assert!(text.body(&event("gate", "car", EventKind::End)).unwrap().starts_with("end car at gate"));
    }
}
