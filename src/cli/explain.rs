//! `vtagd explain`: three sentences on why there was an event of a label, or none, and which setting would have made it another way. Read
//! from the API of a running daemon: how the label stands, its peaks, what swallowed its starts, and its events; before the last hour what its history
//! has. On the caller's thread.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::ask::{Daemon, DaemonArgs, Unanswered};
use super::scores::{path, query};
use super::{plain, plural, say};
use crate::yaml::units;

/// The API knows the best of each minute for so long.
const PEAKS_KNOWN: Duration = Duration::from_hours(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream.
    stream: String,
    /// The label.
    label: String,
    /// How far back. Peaks are known for an hour; before, the history is asked when the label's words fitted best.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_since)]
    since: Duration,
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn parse_since(text: &str) -> Result<Duration, String> {
    let fits = |time: &Duration| !time.is_zero() && *time <= Duration::from_hours(24 * 7);
    units::duration(text).filter(fits).ok_or_else(|| "write a duration such as 10m or 1h, up to 7d".to_owned())
}

/// Pages of a thousand starts that are read: who wants to know more than these say has other means.
const MAX_PAGES: usize = 10;

/// Runs the command; the exit code.
pub fn run(args: &Args) -> u8 {
    match args.daemon.daemon().and_then(|daemon| ask(args, &daemon)) {
        Ok(text) => {
            say(&text);
            0
        }
        Err(why) => why.complain(),
    }
}

fn ask(args: &Args, daemon: &Daemon) -> Result<String, Unanswered> {
    let of_label = path(&args.stream, &query(&[("label", &args.label), ("history", "true")]));
    let of_stream = path(&args.stream, "");
    let asked = daemon.get_ready(&[of_label.as_str(), &of_stream, "/api/v1/streams"])?;
    let [scores, all, streams] = asked.as_slice() else { return Ok(String::new()) };
    let labels = scores["scores"].as_array().cloned().unwrap_or_default();
    let stream = streams["streams"].as_array().into_iter().flatten().find(|row| row["id"] == *args.stream);
    let state = stream.map_or(Value::Null, |row| row["state"].clone());
    if labels.is_empty() {
        let known = all["scores"].as_array().into_iter().flatten().map(|label| text(&label["label"]));
        // Each region has them again.
        let known: std::collections::BTreeSet<String> = known.collect();
        let known: Vec<String> = known.into_iter().collect();
        return Err(Unanswered::Input(if known.is_empty() {
            format!(
                "{} is not scored now (it is {}): nothing is known of its labels",
                plain(&args.stream),
                text(&state)
            )
        } else {
            format!("{} has no label {}; it has {}", plain(&args.stream), plain(&args.label), known.join(", "))
        }));
    }
    let after = Timestamp::now().saturating_sub(args.since).unwrap_or(Timestamp::UNIX_EPOCH);
    let events = starts(args, daemon, after)?;
    let told = labels.iter().map(|label| {
        let seen = Seen { stream: &args.stream, label, events: &events, state: &text(&state), after };
        seen.explain(&since(args.since))
    });
    let mut told: Vec<String> = told.collect();
    if args.since > PEAKS_KNOWN {
        let sets: BTreeSet<&str> = labels.iter().filter_map(|label| label["set"].as_str()).collect();
        let [known] = daemon.get(["/api/v1/labels"])?;
        told.extend(sets.iter().filter_map(|set| past(args, daemon, prompt(&known, set, &args.label)?, after)));
    }
    Ok(told.join("\n\n"))
}

/// The first prompt of a label, of what `/api/v1/labels` says.
fn prompt<'a>(known: &'a Value, set: &str, label: &str) -> Option<&'a str> {
    let set = known["sets"].as_array()?.iter().find(|known| known["set"] == *set)?;
    let label = set["details"].as_array()?.iter().find(|known| known["label"] == *label)?;
    label["prompts"][0].as_str()
}

/// What the history has of the time before peaks are known.
fn past(args: &Args, daemon: &Daemon, prompt: &str, after: Timestamp) -> Option<String> {
    let until = Timestamp::now().saturating_sub(PEAKS_KNOWN).ok()?.to_string();
    let after = after.to_string();
    let asked = [("text", prompt), ("stream", &args.stream), ("since", &after), ("until", &until), ("limit", "1")];
    let found = match daemon.search(&query(&asked), None) {
        Ok(found) => found,
        Err(Unanswered::Input(why) | Unanswered::Failed(why)) => {
            return Some(format!("Of the time before the last hour nothing is known: {why}."));
        }
    };
    let words = plain(prompt);
    let Some(best) = found["moments"].as_array()?.first() else {
        return Some(format!("Of the time before the last hour the history has nothing of {}.", plain(&args.stream)));
    };
    let at =
        time(&best["from"]).map_or_else(|| "an unknown time".to_owned(), |at| at.strftime("%F %H:%M:%SZ").to_string());
    let margin =
        best["margin"].as_f64().map(|margin| format!(", {margin:+.2} over everyday nouns")).unwrap_or_default();
    let stands = if found["stands_out"] == true { "which stands out" } else { "which does not stand out" };
    Some(format!(
        "Before the last hour the history has \"{words}\" best at {at} (cosine {:.3}{margin}), {stands}: `vtagd search` shows more.",
        number(&best["score"]),
    ))
}

/// The starts of the label since `after`, newest first: those of [`MAX_PAGES`] pages at most.
fn starts(args: &Args, daemon: &Daemon, after: Timestamp) -> Result<Value, Unanswered> {
    let (after, mut cursor, mut all) = (after.to_string(), None, Vec::new());
    for _ in 0..MAX_PAGES {
        let mut wanted = vec![
            ("stream", args.stream.as_str()),
            ("label", args.label.as_str()),
            ("type", "start"),
            ("since", after.as_str()),
            ("limit", "1000"),
        ];
        wanted.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = daemon.get_ready(&[&format!("/api/v1/events{}", query(&wanted))])?;
        let Some(page) = page.first() else { break };
        all.extend(page["events"].as_array().into_iter().flatten().cloned());
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    Ok(Value::Array(all))
}

/// "1 h", "10 min".
fn since(time: Duration) -> String {
    match time.as_secs() {
        s if s >= 3600 && s.is_multiple_of(3600) => format!("{} h", s / 3600),
        s if s >= 60 && s.is_multiple_of(60) => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map(plain).unwrap_or_default()
}

/// A text between two others; nothing where there is none.
fn text_before(value: &Value, before: &str, after: &str) -> String {
    value.as_str().map(|text| format!("{before}{}{after}", plain(text))).unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
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
struct Seen<'a> {
    stream: &'a str,
    label: &'a Value,
    /// Newest first.
    events: &'a Value,
    state: &'a str,
    /// Nothing before this counts.
    after: Timestamp,
}

/// A time in which the label was at or above `enter`, in media seconds.
#[derive(Clone, Copy)]
struct Chance {
    since: f64,
    until: f64,
}

impl Seen<'_> {
    fn explain(&self, since: &str) -> String {
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
        lead(&self.label["enter"]) + calibrated
    }

    fn sentences(&self, since: &str) -> [String; 3] {
        let label = self.label;
        let starts = self.starts();
        let stands = match label["state"].as_str() {
            Some("open") => format!("the tag is open since {}", clock(&label["since"])),
            Some("rising") => format!("it is at or above `enter` since {}", clock(&label["since"])),
            Some("cooldown") => format!("no start may come before {}", clock(&label["until"])),
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
        if label["score"].is_null() {
            let why = "No sample of the stream has been scored yet.".to_owned();
            let how = format!("The stream is {}: see `vtagd status`.", self.state);
            return [what + ".", why, how];
        }
        // Writing into a String cannot fail.
        let _ = write!(what, ", and it scores {} now{}.", lead(label), against(label));
        if label["margin"].is_null() {
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
                clock(&start["started_at"]),
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
        assert!(what.contains("had 1 start in") && why.contains("at 12:00:04Z, came because"), "{what} {why}");
        assert_eq!(how, "No other start was swallowed by `after` or `cooldown`.");
    }

    #[test]
    fn thresholds_of_a_calibration_are_told_as_such_and_a_label_that_waits_says_why() {
        let mut label = label(&[], -1.2);
        label["thresholds_from"] = json!("calibration");
        assert!(explained(&label, &json!([]))[1].contains("margin +0.41, calibrated"));
        label["thresholds_from"] = json!("waiting");
        label["waits"] = json!("changed since it was calibrated: view");
        let [_, why, how] = explained(&label, &json!([]));
        assert_eq!(why, "It waits, and no tag can start: changed since it was calibrated: view.");
        assert!(how.contains("labels calibrate") && how.contains("labels confirm"), "{how}");
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
