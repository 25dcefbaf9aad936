//! The three sentences of `vtagd explain`, out of what the API says of a label: what was told, why no more, and which setting would have told
//! it. Pure; whatever the answers hold is taken.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{plain, plural};

/// "1 h", "10 min".
pub(super) fn since(time: Duration) -> String {
    match time.as_secs() {
        s if s >= 3600 && s.is_multiple_of(3600) => format!("{} h", s / 3600),
        s if s >= 60 && s.is_multiple_of(60) => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().map(plain).unwrap_or_default()
}

/// A text between two others; nothing where there is none.
fn text_before(value: &Value, before: &str, after: &str) -> String {
    value.as_str().map(|text| format!("{before}{}{after}", plain(text))).unwrap_or_default()
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Of the last hour's samples without a tag, as in the alert rules: from this share on a calibrated label is said to have drifted.
const DRIFTED: f64 = 0.5;

/// The share, where it is that large.
pub(super) fn drifted(label: &Value) -> Option<f64> {
    label["drift"].as_f64().filter(|share| *share > DRIFTED)
}

/// The day and the time of day.
pub(super) fn dated(value: &Value) -> String {
    time(value).map_or_else(|| "an unknown time".to_owned(), |at| at.strftime("%F %H:%M:%SZ").to_string())
}

/// The time of day.
fn clock(value: &Value) -> String {
    time(value).map_or_else(|| "an unknown time".to_owned(), |at| at.strftime("%H:%M:%SZ").to_string())
}

/// A duration as it is written in the configuration, rounded down.
fn written(seconds: f64) -> String {
    let millis = (seconds.max(0.0) * 1000.0 + 0.5).floor() as u64;
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

fn seconds(value: f64) -> String {
    format!("{} s", (value * 10.0).round() / 10.0)
}

/// A margin with the score that it is.
fn lead(told: &Value) -> String {
    match told["margin"].as_f64() {
        Some(margin) => format!("{:.3}, margin {margin:+.2}", number(&told["score"])),
        None => format!("{:.3}", number(&told["score"])),
    }
}

fn against(told: &Value) -> String {
    match (text(&told["rival"]), told["rival_kind"].as_str()) {
        (rival, _) if rival.is_empty() => String::new(),
        (rival, Some("label")) => format!(" against the label \"{rival}\""),
        (rival, Some("negative")) => format!(" against its negative \"{rival}\""),
        (rival, _) => format!(" against the background \"{rival}\""),
    }
}

/// What is known of a label.
pub(super) struct Seen<'a> {
    pub stream: &'a str,
    pub label: &'a Value,
    /// Newest first.
    pub events: &'a Value,
    pub state: &'a str,
    /// Nothing before this counts.
    pub after: Timestamp,
}

/// A time in which the label was at or above `enter`, in media seconds.
#[derive(Clone, Copy)]
struct Chance {
    since: f64,
    until: f64,
}

impl Seen<'_> {
    pub fn explain(&self, since: &str) -> String {
        let [what, why, how] = self.sentences(since);
        format!("{what}\n{why}\n{how}")
    }

    fn starts(&self) -> Vec<&Value> {
        let data = self.events.as_array().into_iter().flatten().filter(|event| event["type"] == "dev.vtagd.tag.start");
        let own = data.map(|event| &event["data"]).filter(|data| {
            let same = |key: &str| data[key] == self.label[key];
            data["stream"] == *self.stream && same("region") && same("label") && same("set")
        });
        own.filter(|data| time(&data["sampled_at"]).is_some_and(|at| at >= self.after)).collect()
    }

    fn swallowed(&self, by: &[&str]) -> Vec<&Value> {
        let all = self.label["swallowed_latest"].as_array().into_iter().flatten();
        let counts = |one: &&Value| time(&one["at"]).is_some_and(|at| at >= self.after);
        all.filter(counts).filter(|one| by.contains(&one["by"].as_str().unwrap_or_default())).collect()
    }

    fn peak(&self) -> Option<&Value> {
        let all = self.label["peaks"].as_array()?.iter();
        let margin = |peak: &Value| peak["margin"].as_f64().unwrap_or(f64::NEG_INFINITY);
        all.filter(|peak| time(&peak["at"]).is_some_and(|at| at >= self.after))
            .max_by(|a, b| margin(a).total_cmp(&margin(b)))
    }

    fn enter(&self) -> String {
        let calibrated = if self.label["thresholds_from"] == "calibration" { ", calibrated" } else { "" };
        let told = |share| format!("; of the last hour {:.0} % lie beyond what it was calibrated on", share * 100.0);
        lead(&self.label["enter"]) + calibrated + &drifted(self.label).map(told).unwrap_or_default()
    }

    fn sentences(&self, since: &str) -> [String; 3] {
        let label = self.label;
        let starts = self.starts();
        let stands = match label["state"].as_str() {
            Some("open") => format!("the tag is open since {}", clock(&label["since"])),
            Some("rising") => format!("it is at or above `enter` since {}", clock(&label["since"])),
            Some("cooldown") => format!("no start may come before {}", clock(&label["until"])),
            Some("inactive") if label["until"].is_null() => "it is outside its hours".to_owned(),
            Some("inactive") => format!("it is outside its hours until {}", dated(&label["until"])),
            _ => "no tag is open".to_owned(),
        };
        let mut what = format!(
            "{} on {} ({}set {}) had {} in the last {since}; {stands}",
            text(&label["label"]),
            plain(self.stream),
            text_before(&label["region"], "region ", ", "),
            text(&label["set"]),
            plural(starts.len(), "start"),
        );
        if label["thresholds_from"] == "waiting" {
            let _ = write!(what, ".");
            let why = format!("It waits, and no tag can start: {}.", text(&label["waits"]));
            let how =
                "`vtagd labels calibrate` makes thresholds that fit; `vtagd labels confirm` lets the old ones count.";
            return [what, why, how.to_owned()];
        }
        let is_inactive = label["state"] == "inactive";
        if is_inactive && starts.is_empty() && self.swallowed(&["after", "cooldown", "gap"]).is_empty() {
            let why = "Nothing is told of it now, whatever is seen, and its tag ended when its hours did.".to_owned();
            return [what + ".", why, "`active` of the label, or of its set, would have it told.".to_owned()];
        }
        if label["score"].is_null() && !is_inactive {
            let why = "No sample of the stream has been scored yet.".to_owned();
            let how = format!("The stream is {}: see `vtagd status`.", self.state);
            return [what + ".", why, how];
        }
        // Writing into a String cannot fail.
        let _ = match label["score"].is_null() {
            true => write!(what, "."),
            false => write!(what, ", and it scores {} now{}.", lead(label), against(label)),
        };
        if label["margin"].is_null() && !label["score"].is_null() {
            let why = "It has nothing to be compared with, so its score is 1 whatever is seen.".to_owned();
            return [what, why, "`background` prompts or `negatives` in its set would give it a meaning.".to_owned()];
        }
        let close = self.swallowed(&["after", "cooldown"]);
        if !close.is_empty() {
            return [what, self.why_close(&close), self.how_close(&close, &starts)];
        }
        if let Some(start) = starts.first() {
            let why = format!(
                "The last start, at {}, came because the score was at or above `enter` ({}) on every sample for {}.",
                dated(&start["started_at"]),
                self.enter(),
                seconds(number(&label["after"])),
            );
            return [what, why, "No other start was swallowed by `after` or `cooldown`.".to_owned()];
        }
        if let Some(cut) = self.swallowed(&["gap"]).last() {
            let why = format!(
                "It was at or above `enter` ({}) at {}, and then no sample came for so long that nothing is known of it.",
                self.enter(),
                clock(&cut["at"]),
            );
            return [
                what,
                why,
                "A shorter `sampling.interval`, or a camera that stays, would have told it.".to_owned(),
            ];
        }
        let near = self.swallowed(&["rival"]);
        let best = near.iter().copied().max_by(|a, b| number(&a["margin"]).total_cmp(&number(&b["margin"])));
        let Some(best) = best.or_else(|| self.peak()) else {
            let why = format!("No sample has been scored in the last {since}.");
            return [what, why, format!("The stream is {}: see `vtagd status`.", self.state)];
        };
        let came = if near.is_empty() {
            "It never came near".to_owned()
        } else {
            format!("It came above `exit` and not to `enter` {}", times(near.len()))
        };
        let why = format!(
            "{came}: its best score was {} at {}{}, and `enter` is {}.",
            lead(best),
            clock(&best["at"]),
            against(best),
            self.enter(),
        );
        let margin = (number(&best["margin"]) * 100.0).floor() / 100.0;
        let words = "if it held for `after`; other prompts for the label, or for what it lost to, reach further than a low threshold";
        [what, why, format!("Only `enter: {{ margin: {margin} }}` or lower would have told it, {words}.")]
    }

    fn why_close(&self, close: &[&Value]) -> String {
        let by = |cause: &str| close.iter().copied().filter(|one| one["by"] == cause).collect::<Vec<_>>();
        let (after, cooldown) = (by("after"), by("cooldown"));
        let lasted = |all: &[&Value]| {
            let all: Vec<String> = all.iter().map(|one| seconds(number(&one["lasted"]))).collect();
            all.join(", ")
        };
        let mut parts = Vec::new();
        if !after.is_empty() {
            parts.push(format!(
                "{} by `after`: at or above `enter` ({}) for {}, and `after` is {}",
                swallowed(after.len()),
                self.enter(),
                lasted(&after),
                seconds(number(&self.label["after"])),
            ));
        }
        if !cooldown.is_empty() {
            let missing = cooldown.iter().map(|one| seconds(number(&one["short_by"]))).collect::<Vec<_>>();
            parts.push(format!(
                "{} by `cooldown`: over {} before the {} since the start before had passed",
                if parts.is_empty() {
                    swallowed(cooldown.len())
                } else {
                    swallowed(cooldown.len()).replace("One", "one")
                },
                missing.join(", "),
                seconds(number(&self.label["cooldown"])),
            ));
        }
        let latest = close.last().map(|one| clock(&one["at"])).unwrap_or_default();
        format!("{}; the latest began at {latest}.", parts.join("; "))
    }

    /// Which `after` and `cooldown` would have told all of them.
    fn how_close(&self, close: &[&Value], starts: &[&Value]) -> String {
        let (after, cooldown) = (number(&self.label["after"]), number(&self.label["cooldown"]));
        let shortest = close.iter().map(|one| number(&one["lasted"])).fold(after, f64::min);
        let chance = |one: &&Value| {
            let since = number(&one["media_start"]);
            Chance { since, until: since + number(&one["lasted"]) }
        };
        let mut chances: Vec<Chance> = close.iter().map(chance).collect();
        // Those that were told lasted for `after` at least.
        chances.extend(starts.iter().map(|start| {
            let since = number(&start["media_start"]);
            Chance { since, until: since + after }
        }));
        chances.sort_by(|a, b| a.since.total_cmp(&b.since));
        let room = chances.windows(2).map(|pair| pair[1].until - (pair[0].since + shortest)).fold(cooldown, f64::min);
        let mut settings = Vec::new();
        if shortest < after {
            // Samples of a camera are not spaced as evenly as those that were seen.
            settings.push(format!("`after: {}`", written((shortest * 10.0).floor() / 10.0)));
        }
        if room < cooldown {
            settings.push(format!("`cooldown: {}`", written(room.floor())));
        }
        let all = if close.len() == 1 { "it".to_owned() } else { format!("all {}", close.len()) };
        format!("{} would have told {all}.", settings.join(" with "))
    }
}

fn swallowed(count: usize) -> String {
    if count == 1 { "One start was swallowed".to_owned() } else { format!("{count} starts were swallowed") }
}

fn times(count: usize) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn swallowed(by: &str, second: u32, lasted: f64, short_by: f64, margin: f64) -> Value {
        json!({
            "by": by, "at": format!("2026-05-01T12:00:{second:02}Z"), "media_start": second, "lasted": lasted,
            "short_by": short_by, "score": 0.9, "margin": margin, "rival": "an empty street", "rival_kind": "background",
        })
    }

    fn label(swallowed: &[Value], peak: f64) -> Value {
        json!({
            "set": "street", "label": "car", "score": 0.02, "margin": -3.9, "rival": "an empty street", "rival_kind": "background",
            "enter": { "score": 0.6, "margin": 0.405 }, "exit": { "score": 0.4, "margin": -0.405 },
            "after": 2.0, "after_exit": 2.0, "cooldown": 30.0, "state": "idle", "since": null, "until": null,
            "peaks": [
                { "at": "2026-05-01T11:00:00Z", "score": 1.0, "margin": 9.0, "rival": null, "rival_kind": null },
                { "at": "2026-05-01T12:00:10Z", "score": 0.2, "margin": peak, "rival": "a bus", "rival_kind": "label" },
            ],
            "swallowed_latest": swallowed,
        })
    }

    fn explained(label: &Value, events: &Value) -> [String; 3] {
        let after = "2026-05-01T11:30:00Z".parse().unwrap();
        Seen { stream: "gate", label, events, state: "up", after }.sentences("1 h")
    }

    fn start(second: u32) -> Value {
        let at = format!("2026-05-01T12:00:{second:02}Z");
        let data = json!({
            "stream": "gate", "set": "street", "label": "car", "media_start": second, "started_at": at, "sampled_at": at,
        });
        json!({ "type": "dev.vtagd.tag.start", "data": data })
    }

    #[test]
    fn runs_that_were_too_short_say_which_after_would_have_told_them() {
        let label = label(&[swallowed("after", 4, 1.0, 1.0, 2.0), swallowed("after", 50, 0.5, 1.5, 2.5)], 2.5);
        let [what, why, how] = explained(&label, &json!([]));
        assert_eq!(
            what,
            "car on gate (set street) had 0 starts in the last 1 h; no tag is open, and it scores 0.020, margin -3.90 now \
             against the background \"an empty street\"."
        );
        assert!(why.starts_with("2 starts were swallowed by `after`: at or above `enter` (0.600, margin +0.41) for 1 s, 0.5 s, and `after` is 2 s"));
        assert_eq!(how, "`after: 500ms` would have told all 2.");
    }

    #[test]
    fn a_start_within_a_cooldown_says_which_cooldown_would_have_told_it() {
        let close = [swallowed("cooldown", 14, 4.0, 12.0, 2.0), swallowed("after", 25, 1.0, 1.0, 2.0)];
        let [what, why, how] = explained(&label(&close, 2.5), &json!([start(4)]));
        assert!(what.contains("had 1 start in"), "{what}");
        assert!(why.contains("one start was swallowed by `cooldown`: over 12 s before the 30 s"), "{why}");
        // 4 + 1 starts the first, 14 to 18 the second, which starts at 15 then, 25 to 26 the third.
        assert_eq!(how, "`after: 1s` with `cooldown: 11s` would have told all 2.");
    }

    #[test]
    fn a_label_that_was_never_near_says_by_how_much_and_against_what() {
        let [_, why, how] = explained(&label(&[], -1.234), &json!([]));
        assert_eq!(
            why,
            "It never came near: its best score was 0.200, margin -1.23 at 12:00:10Z against the label \"a bus\", and `enter` \
             is 0.600, margin +0.41."
        );
        assert!(how.contains("`enter: { margin: -1.24 }` or lower"), "{how}");
        let near = label(&[swallowed("rival", 9, 1.0, 0.2, 0.2)], 0.2);
        let [_, why, how] = explained(&near, &json!([]));
        assert!(why.starts_with("It came above `exit` and not to `enter` once: its best score"), "{why}");
        assert!(how.contains("{ margin: 0.2 }"), "{how}");
    }

    #[test]
    fn an_event_that_was_told_says_why_and_one_of_another_label_is_not_counted() {
        let mut other = start(5);
        other["data"]["label"] = json!("bus");
        let [what, why, how] = explained(&label(&[], 2.5), &json!([start(4), other]));
        assert!(
            what.contains("had 1 start in") && why.contains("at 2026-05-01 12:00:04Z, came because"),
            "{what} {why}"
        );
        assert_eq!(how, "No other start was swallowed by `after` or `cooldown`.");
    }

    #[test]
    fn thresholds_of_a_calibration_are_told_as_such_and_a_label_that_waits_says_why() {
        let mut label = label(&[], -1.2);
        label["thresholds_from"] = json!("calibration");
        assert!(explained(&label, &json!([]))[1].ends_with("margin +0.41, calibrated."));
        label["drift"] = json!(0.64);
        assert!(explained(&label, &json!([]))[1].contains("calibrated; of the last hour 64 % lie beyond"));
        label["thresholds_from"] = json!("waiting");
        label["waits"] = json!("changed since it was calibrated: view");
        let [_, why, how] = explained(&label, &json!([]));
        assert_eq!(why, "It waits, and no tag can start: changed since it was calibrated: view.");
        assert!(how.contains("labels calibrate") && how.contains("labels confirm"), "{how}");
    }

    #[test]
    fn a_label_outside_its_hours_says_until_when_and_which_key_it_is() {
        let mut label = label(&[], -1.2);
        (label["state"], label["until"]) = (json!("inactive"), json!("2026-05-04T06:00:00Z"));
        let [what, why, how] = explained(&label, &json!([]));
        assert_eq!(
            what,
            "car on gate (set street) had 0 starts in the last 1 h; it is outside its hours until 2026-05-04 06:00:00Z."
        );
        assert!(why.starts_with("Nothing is told of it now") && how.contains("`active`"), "{why} {how}");
        // What was before its hours ended is still explained.
        (label["score"], label["margin"]) = (Value::Null, Value::Null);
        let [what, why, _] = explained(&label, &json!([start(4)]));
        assert!(
            what.ends_with("outside its hours until 2026-05-04 06:00:00Z.") && why.contains("came because"),
            "{what} {why}"
        );
        label["until"] = Value::Null;
        assert!(explained(&label, &json!([]))[0].ends_with("it is outside its hours."));
    }

    #[test]
    fn a_label_without_samples_or_rivals_says_so_and_any_answer_is_taken() {
        let mut label = label(&[], 2.5);
        label["margin"] = Value::Null;
        assert!(explained(&label, &json!([]))[1].contains("nothing to be compared with"));
        label["score"] = Value::Null;
        assert!(explained(&label, &json!([]))[2].contains("The stream is up"));
        for odd in [json!(null), json!({ "score": 1, "margin": 1, "swallowed_latest": [3, null], "peaks": 5 })] {
            explained(&odd, &json!({ "x": 1 }));
        }
    }
}
