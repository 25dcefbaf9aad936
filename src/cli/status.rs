//! `vtagd status`: what a running daemon does, read from its API: streams, model, sinks. Once, as JSON, or again and again on a terminal. Several
//! daemons are [`status_boxes`].

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::ask::{Daemon, DaemonArgs, Unanswered};
use super::scores::named;
use super::screen::{Screen, table};
use super::status_boxes::{self, WatchedBox};
use super::{plain, say};
use crate::platform::shutdown;
use crate::platform::signals;

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// Tags of a stream that are shown; the rest are counted.
const TAGS: usize = 4;

/// Labels of a stream that --watch shows with their scores.
const TOP: usize = 3;
/// Streams for which it does: no screen has more lines, and the API takes so many requests.
const TOP_STREAMS: usize = 40;

/// What is asked for.
pub(super) const LOOKED_AT: [&str; 5] =
    ["/readyz", "/api/v1/streams", "/api/v1/sinks", "/api/v1/events", "/api/v1/labels"];

#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Several daemons in one table: a YAML file with name, address and token of each. Without one: --url several times.
    ///
    /// The exit code is 1 where one of them does not answer or is not ready.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "url"])]
    boxes: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Again every two seconds, on a terminal, until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Runs the command; the exit code.
pub fn run(args: &Args) -> u8 {
    match look_at(args) {
        Ok(code) => code,
        Err(why) => why.complain(),
    }
}

fn look_at(args: &Args) -> Result<u8, Unanswered> {
    let named = || -> Result<Option<Vec<WatchedBox>>, Unanswered> {
        let several = args.daemon.several()?;
        Ok(several.map(|daemons| daemons.into_iter().map(WatchedBox::unnamed).collect()))
    };
    let boxes = args.boxes.as_deref().map_or_else(named, |file| status_boxes::read(file).map(Some))?;
    match boxes {
        Some(boxes) if args.watch => status_boxes::watch(&boxes).map(|()| 0),
        Some(boxes) => status_boxes::once(&boxes, args.json).map(|all_ready| u8::from(!all_ready)),
        None => {
            let daemon = args.daemon.daemon()?;
            if args.watch { watch(&daemon) } else { once(&daemon, args.json) }.map(|()| 0)
        }
    }
}

/// What the daemon says, in one object.
fn look(daemon: &Daemon) -> Result<Value, Unanswered> {
    Ok(seen(daemon, daemon.get_all(&LOOKED_AT)?))
}

/// Its `answers` to [`LOOKED_AT`].
pub(super) fn seen(daemon: &Daemon, answers: Vec<Value>) -> Value {
    let mut answers = answers.into_iter();
    let [readiness, streams, sinks, events, labels] = std::array::from_fn(|_| answers.next().unwrap_or_default());
    let mut streams = streams["streams"].clone();
    let mut tags = open_tags(&events["events"]);
    for stream in streams.as_array_mut().into_iter().flatten() {
        stream["tags"] = json!(tags.remove(stream["id"].as_str().unwrap_or_default()).unwrap_or_default());
    }
    json!({
        "url": daemon.address(),
        "instance": readiness["instance"],
        "version": readiness["version"],
        "ready": readiness["ready"],
        "reason": readiness["reason"],
        "model": readiness["model"],
        "provider": readiness["provider"],
        "refused": readiness["refused"],
        "inference": readiness["inference"],
        "server": readiness["server"],
        "streams": streams,
        "labels": labels["sets"],
        "outbox": sinks["outbox"],
        "sinks": sinks["sinks"],
    })
}

/// The tags that are open, by stream, the latest first. `events`: newest first; a tag whose last event is no longer among them is not
/// known to be open.
fn open_tags(events: &Value) -> BTreeMap<String, Vec<Value>> {
    let mut seen = HashSet::new();
    let mut tags: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in events.as_array().into_iter().flatten() {
        let data = &event["data"];
        // Its latest event says how it is.
        if !seen.insert(data["tag_id"].to_string()) || event["type"] == "dev.vtagd.tag.end" {
            continue;
        }
        let mut tag = json!({
            "set": data["set"], "label": data["label"], "score": data["score"], "started_at": data["started_at"],
        });
        if data["region"].is_string() {
            tag["region"] = data["region"].clone();
        }
        tags.entry(data["stream"].as_str().unwrap_or_default().to_owned()).or_default().push(tag);
    }
    tags
}

fn once(daemon: &Daemon, json: bool) -> Result<(), Unanswered> {
    let seen = look(daemon)?;
    if json {
        say(&seen.to_string())
    } else {
        say(&render(&seen))
    }
    Ok(())
}

fn watch(daemon: &Daemon) -> Result<(), Unanswered> {
    if !io::stdout().is_terminal() {
        return Err(Unanswered::Input("--watch needs a terminal; use --json for a program".to_owned()));
    }
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger, None, crate::logs::finish);
    // The screen beside the shell's, without a cursor; both come back at the end.
    let mut screen = Screen::enter();
    loop {
        let text = match look(daemon) {
            // One of an earlier version has no scores to show.
            Ok(seen) => render_for(&seen, screen.columns()) + &top_tags(daemon, &seen).unwrap_or_default(),
            // It may come back.
            Err(Unanswered::Failed(why)) => why,
            Err(wrong) => return Err(wrong),
        };
        screen.show(&text);
        if shutdown.sleep(EVERY) {
            return Ok(());
        }
    }
}

/// The labels that score highest, a line a stream.
fn top_tags(daemon: &Daemon, seen: &Value) -> Result<String, Unanswered> {
    let ids = seen["streams"].as_array().into_iter().flatten().filter_map(|stream| stream["id"].as_str());
    let paths: Vec<String> = ids.take(TOP_STREAMS).map(|id| format!("/api/v1/streams/{id}/scores")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    Ok(top_lines(&daemon.get_all(&paths)?))
}

fn top_lines(streams: &[Value]) -> String {
    let line = |stream: &Value| {
        let mut labels: Vec<&Value> = stream["scores"].as_array()?.iter().filter(|l| l["score"].is_f64()).collect();
        let score = |label: &Value| label["score"].as_f64().unwrap_or_default();
        labels.sort_by(|a, b| score(b).total_cmp(&score(a)));
        let told = labels.iter().take(TOP).map(|label| format!("{} {:.0} %", named(label), score(label) * 100.0));
        let told: Vec<String> = told.collect();
        (!told.is_empty())
            .then(|| format!("\n{}: {}", plain(stream["stream"].as_str().unwrap_or_default()), told.join(", ")))
    };
    let lines: String = streams.iter().filter_map(line).collect();
    if lines.is_empty() { lines } else { format!("\n\ntop tags{lines}") }
}

/// The whole of it for a person whose screen has so many columns: on a narrow one, what matters most.
fn render_for(seen: &Value, columns: usize) -> String {
    let whole = render(seen);
    if whole.lines().all(|line| line.chars().count() <= columns) {
        return whole;
    }
    let mut out = heading(seen);
    let narrow = |row: [String; 8]| {
        let [id, state, _, last, _, _, dropped, tags] = row;
        [id, state, last, dropped, tags]
    };
    let mut rows = vec![["stream", "state", "last frame", "dropped", "tags"].map(str::to_owned)];
    let streams = seen["streams"].as_array().cloned().unwrap_or_default();
    rows.extend(streams.iter().map(|one| narrow(stream(one))));
    out += &table(&rows);
    let mut rows = vec![["sink", "state", "waiting"].map(str::to_owned)];
    let sinks = seen["sinks"].as_array().cloned().unwrap_or_default();
    rows.extend(sinks.iter().map(|one| {
        let [name, state, waiting, ..] = sink(one);
        [name, state, waiting]
    }));
    out + "\n\n" + &table(&rows)
}

/// The whole of it for a person.
fn render(seen: &Value) -> String {
    let mut out = heading(seen);
    let word = |value: &Value| value.as_str().map(plain);
    // Writing into a String cannot fail.
    body(seen, &word, &mut out);
    out
}

/// What is about all streams.
fn heading(seen: &Value) -> String {
    let mut out = String::new();
    let word = |value: &Value| value.as_str().map(plain);
    let state = if seen["ready"] == true { "ready" } else { "NOT READY" };
    let model = word(&seen["model"]).unwrap_or_else(|| "no model".to_owned());
    // Writing into a String cannot fail.
    let _ = write!(out, "{state}: {}\nmodel: {model}", word(&seen["reason"]).unwrap_or_default());
    if let Some(provider) = word(&seen["provider"]) {
        let _ = write!(out, " on {provider}");
    }
    if let Some(plan) = seen["inference"].as_object() {
        let number = |key: &str| plan.get(key).map_or_else(|| "-".to_owned(), Value::to_string);
        let _ = write!(out, ", batch {}, sessions {}", number("max_size"), number("sessions"));
    }
    if seen["server"].is_object() {
        let of = |key: &str| word(&seen["server"][key]).unwrap_or_default();
        let _ = write!(out, "\ninference server: {} {}", of("url"), of("state"));
        if let Some(reason) = word(&seen["server"]["reason"]) {
            let instead = word(&seen["server"]["fallback"])
                .map_or("frames are dropped".to_owned(), |name| format!("{name} computes"));
            let _ = write!(out, " ({reason}); {instead}");
        }
    }
    for refused in seen["refused"].as_array().into_iter().flatten() {
        let (provider, reason) = (word(&refused["provider"]), word(&refused["reason"]));
        let _ = write!(out, "\n{} was refused: {}", provider.unwrap_or_default(), reason.unwrap_or_default());
    }
    out + "\n\n"
}

fn body(seen: &Value, word: &dyn Fn(&Value) -> Option<String>, out: &mut String) {
    let mut rows = vec![
        ["stream", "state", "frames/s", "last frame", "sampled", "looked at", "dropped", "tags"].map(str::to_owned),
    ];
    let streams = seen["streams"].as_array().cloned().unwrap_or_default();
    rows.extend(streams.iter().map(stream));
    *out += &table(&rows);
    for (id, error) in streams.iter().filter_map(|stream| Some((word(&stream["id"])?, word(&stream["error"])?))) {
        let _ = write!(out, "\n{}", of_stream("", &id, &error));
    }
    for stream in &streams {
        *out += &swallowed(stream);
    }
    for set in seen["labels"].as_array().into_iter().flatten() {
        let _ = write!(out, "{}", label_set(set));
    }
    *out += "\n\n";
    let mut rows = vec![["sink", "state", "waiting", "oldest", "dead letters"].map(str::to_owned)];
    let sinks = seen["sinks"].as_array().cloned().unwrap_or_default();
    rows.extend(sinks.iter().map(sink));
    *out += &table(&rows);
    for key in ["why", "notice"] {
        for (name, why) in sinks.iter().filter_map(|sink| Some((word(&sink["name"])?, word(&sink[key])?))) {
            let _ = write!(out, "\n{name}: {why}");
        }
    }
    if let Some(error) = word(&seen["outbox"]["error"]) {
        let _ = write!(out, "\nevents cannot be stored: {error}");
    }
}

/// The `error` of a stream behind its name and, before that, `kind`. Most errors begin with the stream's name already: once is enough.
pub(super) fn of_stream(kind: &str, id: &str, error: &str) -> String {
    let named = error.strip_prefix("stream ").and_then(|rest| rest.strip_prefix(id));
    // A longer name is another one.
    let is_named = named.is_some_and(|rest| rest.starts_with([' ', ':']));
    if is_named { error.to_owned() } else { format!("{kind}{id}: {error}") }
}

/// What is to be told of a label set; nothing of one whose file is in force.
fn label_set(set: &Value) -> String {
    let word = |value: &Value| value.as_str().map(plain).unwrap_or_default();
    let (name, copy) = (word(&set["set"]), &set["copy"]);
    let mut out = String::new();
    // Writing into a String cannot fail.
    if set["in_force"] == "state" {
        let (path, made_at, by) = (word(&copy["path"]), word(&copy["made_at"]), word(&copy["by"]));
        let made_at = made_at.split('.').next().unwrap_or_default().trim_end_matches('Z');
        let _ = write!(out, "\nlabel set {name}: its copy {path} is in force, made {made_at}Z by {by}");
        if copy["file_changed"] == true {
            let _ = write!(out, "; {} has changed since", word(&set["file"]));
        }
    } else if let Some(why) = set["refused"].as_str() {
        let _ = write!(out, "\nlabel set {name}: its copy in the state directory is not in force: {}", plain(why));
    }
    for warning in set["warnings"].as_array().into_iter().flatten() {
        let _ = write!(out, "\nlabel set {name}: {}", word(warning));
    }
    out
}

/// The labels of the stream whose starts were swallowed most. What a rival has kept from `enter` is no fault of the settings, and told by
/// `scores` and `explain`.
fn swallowed(stream: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut labels: Vec<(u64, String)> = Vec::new();
    for label in stream["swallowed_starts"].as_array().into_iter().flatten() {
        let counts = ["after", "cooldown", "gap"].map(|why| (number(&label[why]), why));
        let told = counts.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} by {why}"));
        let told: Vec<String> = told.collect();
        if told.is_empty() {
            continue;
        }
        let name = named(label);
        labels.push((counts.iter().map(|(count, _)| count).sum(), format!("{name} {}", told.join(" and "))));
    }
    labels.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let mut told: Vec<String> = labels.iter().take(TAGS).map(|(_, told)| told.clone()).collect();
    if labels.len() > TAGS {
        told.push(format!("{} more labels", labels.len() - TAGS));
    }
    let id = stream["id"].as_str().map(plain).unwrap_or_default();
    if told.is_empty() { String::new() } else { format!("\n{id}: starts swallowed: {}", told.join(", ")) }
}

fn stream(stream: &Value) -> [String; 8] {
    let accounting = &stream["accounting"];
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let dropped: u64 = accounting["dropped"].as_object().into_iter().flatten().map(|(_, n)| number(n)).sum();
    let state = match stream["state"].as_str().unwrap_or_default() {
        "disabled" => "switched off".to_owned(),
        state => plain(state),
    };
    let tags = stream["tags"].as_array().cloned().unwrap_or_default();
    let mut shown: Vec<String> = tags.iter().take(TAGS).filter(|tag| tag["label"].is_string()).map(named).collect();
    if tags.len() > TAGS {
        shown.push(format!("{} more", tags.len() - TAGS));
    }
    [
        stream["id"].as_str().map(plain).unwrap_or_default(),
        state,
        stream["frame_rate"].as_f64().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")),
        stream["last_frame_age"].as_f64().map_or_else(|| "never".to_owned(), |age| format!("{} ago", time(age))),
        number(&accounting["sampled"]).to_string(),
        (number(&accounting["inferred"]) + number(&accounting["reused"])).to_string(),
        dropped.to_string(),
        if shown.is_empty() { "-".to_owned() } else { shown.join(", ") },
    ]
}

fn sink(sink: &Value) -> [String; 5] {
    let state = match sink["state"].as_str().unwrap_or_default() {
        "starting" => "nothing to deliver yet".to_owned(),
        state => plain(state),
    };
    [
        sink["name"].as_str().map(plain).unwrap_or_default(),
        state,
        sink["pending"].to_string(),
        sink["oldest_pending_seconds"].as_f64().map_or_else(|| "-".to_owned(), time),
        sink["dead"].to_string(),
    ]
}

/// In the unit that a person would use.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, stream: &str, label: &str, tag: u32) -> Value {
        json!({
            "type": format!("dev.vtagd.tag.{kind}"),
            "data": { "stream": stream, "set": "s", "label": label, "tag_id": tag, "score": 0.9, "started_at": "2026-05-01T12:00:00Z" },
        })
    }

    #[test]
    fn a_tag_is_open_until_its_end_and_told_once() {
        let events = json!([
            event("update", "gate", "car", 2),
            event("end", "gate", "dog", 1),
            event("start", "gate", "car", 2),
            event("start", "dock", "van", 3),
            event("start", "gate", "dog", 1),
        ]);
        let tags = open_tags(&events);
        assert_eq!(tags.keys().collect::<Vec<_>>(), ["dock", "gate"]);
        assert_eq!((tags["gate"].len(), &tags["gate"][0]["label"]), (1, &json!("car")));
        assert!(open_tags(&Value::Null).is_empty());
    }

    #[test]
    fn the_tables_line_up_and_say_below_them_what_is_wrong() {
        let seen = json!({
            "ready": true, "reason": "model is warm", "model": "starter", "provider": "cpu",
            "refused": [{ "provider": "cuda", "reason": "no driver" }],
            "inference": { "max_size": 8, "sessions": 2 },
            "streams": [
                { "id": "gate", "state": "up", "frame_rate": 25.0, "last_frame_age": 0.42,
                  "accounting": { "sampled": 100, "inferred": 80, "reused": 15, "dropped": { "superseded": 3, "decode": 2 } },
                  "tags": [{ "label": "car" }, { "label": "dog" }] },
                { "id": "dock-3", "state": "down", "error": "no\u{1b}[2Jway", "last_frame_age": 300.0, "tags": [],
                  "accounting": { "sampled": 0, "inferred": 0, "reused": 0, "dropped": {} } },
            ],
            "outbox": { "error": null },
            "sinks": [{ "name": "hook", "state": "down", "why": "refused", "pending": 7, "oldest_pending_seconds": 7300.0, "dead": 1 }],
        });
        let wanted = "\
ready: model is warm
model: starter on cpu, batch 8, sessions 2
cuda was refused: no driver

stream  state  frames/s  last frame  sampled  looked at  dropped  tags
gate    up     25.0      0.4 s ago   100      95         5        car, dog
dock-3  down   -         5 min ago   0        0          0        -
dock-3: no [2Jway

sink  state  waiting  oldest  dead letters
hook  down   7        2 h     1
hook: refused";
        assert_eq!(render(&seen), wanted);
    }

    #[test]
    fn an_answer_of_something_else_is_no_panic() {
        for odd in [
            json!(null),
            json!([]),
            json!({ "streams": 7, "sinks": { "a": 1 }, "inference": "x" }),
            json!({ "streams": [null, 1], "sinks": ["x"] }),
        ] {
            assert!(render(&odd).contains("stream"));
        }
    }

    #[test]
    fn a_narrow_screen_has_the_streams_their_tags_and_what_scores_highest() {
        let seen = json!({
            "ready": true, "reason": "model is warm", "model": "starter", "provider": "cpu",
            "streams": [{ "id": "gate", "state": "up", "frame_rate": 25.0, "last_frame_age": 0.42, "tags": [{ "label": "car" }],
                "accounting": { "sampled": 100_000, "inferred": 80_000, "reused": 15, "dropped": { "superseded": 3 } } }],
            "sinks": [{ "name": "hook", "state": "up", "pending": 0, "oldest_pending_seconds": null, "dead": 0 }],
        });
        let narrow = render_for(&seen, 60);
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert!(narrow.contains("car") && narrow.contains("hook") && !narrow.contains("frames/s"), "{narrow}");
        assert_eq!(render_for(&seen, 200), render(&seen));
        let label = |name: &str, score: f64| json!({ "label": name, "score": score });
        let scores = json!({ "stream": "gate", "scores": [label("a", 0.1), label("b", 0.93), label("c", 0.2), label("d", 0.3)] });
        let none = json!({ "stream": "door", "scores": [{ "label": "a", "score": null }] });
        assert_eq!(top_lines(&[scores, none.clone()]), "\n\ntop tags\ngate: b 93 %, d 30 %, c 20 %");
        assert_eq!(top_lines(&[none, Value::Null]), "");
    }

    #[test]
    fn times_are_told_in_a_unit_of_their_size() {
        let told: Vec<String> = [0.44, 9.0, 42.0, 600.0, 7200.0, 400_000.0].into_iter().map(time).collect();
        assert_eq!(told, ["0.4 s", "9.0 s", "42 s", "10 min", "2 h", "5 d"]);
    }
}
