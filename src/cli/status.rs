//! `vtagd status`: what a running daemon does, read from its API: streams, model, sinks. Once, as JSON, or again and again on a terminal.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use url::Url;

use super::ask::{Daemon, Unanswered};
use super::{DEFAULT_CONFIG, complain, plain, say};
use crate::config;
use crate::platform::secret::Secret;
use crate::platform::shutdown;
use crate::platform::signals;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// Tags of a stream that are shown; the rest are counted.
const TAGS: usize = 4;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Configuration file of the daemon, for its `api`: address, token and certificate.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The daemon's address, such as http://127.0.0.1:8642; the configuration is not read then.
    #[arg(long, conflicts_with = "config")]
    url: Option<Url>,
    /// With --url: the file that holds the token.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// With --url: the environment variable that holds the token.
    #[arg(long, value_name = "NAME", requires = "url", conflicts_with = "token_file")]
    token_env: Option<String>,
    /// With --url: PEM file of certificate authorities, instead of the system's.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Again every two seconds, on a terminal, until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Runs the command; the exit code.
pub fn run(args: &Args) -> u8 {
    let done = daemon(args).and_then(|daemon| if args.watch { watch(&daemon) } else { once(&daemon, args.json) });
    let (why, code) = match done {
        Ok(()) => return 0,
        Err(Unanswered::Input(why)) => (why, 2),
        Err(Unanswered::Failed(why)) => (why, 1),
    };
    complain(&why);
    code
}

fn daemon(args: &Args) -> Result<Daemon, Unanswered> {
    let Some(url) = &args.url else {
        let reach = config::reach_of(&args.config).map_err(|why| {
            Unanswered::Input(format!("{why}; name the daemon's configuration with -c, or its address with --url"))
        })?;
        return Daemon::of(reach, &args.config);
    };
    let token = match (&args.token_file, &args.token_env) {
        (Some(file), _) => {
            let fault = |error| Unanswered::Input(format!("--token-file: {} {error}", file.display()));
            Some(Secret::read(file).map_err(fault)?)
        }
        (None, Some(name)) => match std::env::var(name) {
            Ok(token) if !token.is_empty() => Some(Secret::new(token)),
            _ => return Err(Unanswered::Input(format!("--token-env: the environment variable {name} is not set"))),
        },
        (None, None) => None,
    };
    Daemon::at(url, token, args.ca.clone())
}

/// What the daemon says, in one object.
fn look(daemon: &Daemon) -> Result<Value, Unanswered> {
    let [readiness, streams, sinks, events, labels] =
        daemon.get(["/readyz", "/api/v1/streams", "/api/v1/sinks", "/api/v1/events", "/api/v1/labels"])?;
    let mut streams = streams["streams"].clone();
    let mut tags = open_tags(&events["events"]);
    for stream in streams.as_array_mut().into_iter().flatten() {
        stream["tags"] = json!(tags.remove(stream["id"].as_str().unwrap_or_default()).unwrap_or_default());
    }
    Ok(json!({
        "url": daemon.address(),
        "ready": readiness["ready"],
        "reason": readiness["reason"],
        "model": readiness["model"],
        "provider": readiness["provider"],
        "refused": readiness["refused"],
        "inference": readiness["inference"],
        "streams": streams,
        "labels": labels["sets"],
        "outbox": sinks["outbox"],
        "sinks": sinks["sinks"],
    }))
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
        let tag = json!({
            "set": data["set"], "label": data["label"], "score": data["score"], "started_at": data["started_at"],
        });
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
            Ok(seen) => render(&seen),
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

struct Screen;

impl Screen {
    fn enter() -> Self {
        write("\x1b[?1049h\x1b[?25l");
        Self
    }

    fn show(&mut self, text: &str) {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let (rows, columns) = size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
        write(&format!("\x1b[H{}\x1b[J", fit(text, rows.max(2), columns.max(20))));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write("\x1b[?25h\x1b[?1049l");
    }
}

/// A terminal that is gone ends the loop by SIGHUP.
fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// `text` cut to the screen, each line to its end erased; the last line says what is left out.
fn fit(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let cut = |line: &str| line.chars().take(columns).collect::<String>() + "\x1b[K";
    if lines.len() <= rows {
        return lines.into_iter().map(cut).collect::<Vec<_>>().join("\n");
    }
    let more = format!("… {} more lines", lines.len() - (rows - 1));
    lines[..rows - 1].iter().copied().chain([more.as_str()]).map(cut).collect::<Vec<_>>().join("\n")
}

/// The whole of it for a person.
fn render(seen: &Value) -> String {
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
    for refused in seen["refused"].as_array().into_iter().flatten() {
        let (provider, reason) = (word(&refused["provider"]), word(&refused["reason"]));
        let _ = write!(out, "\n{} was refused: {}", provider.unwrap_or_default(), reason.unwrap_or_default());
    }
    out += "\n\n";
    let mut rows = vec![
        ["stream", "state", "frames/s", "last frame", "sampled", "looked at", "dropped", "tags"].map(str::to_owned),
    ];
    let streams = seen["streams"].as_array().cloned().unwrap_or_default();
    rows.extend(streams.iter().map(stream));
    out += &table(&rows);
    for (id, error) in streams.iter().filter_map(|stream| Some((word(&stream["id"])?, word(&stream["error"])?))) {
        let _ = write!(out, "\n{id}: {error}");
    }
    for stream in &streams {
        out += &swallowed(stream);
    }
    for set in seen["labels"].as_array().into_iter().flatten() {
        let _ = write!(out, "{}", label_set(set));
    }
    out += "\n\n";
    let mut rows = vec![["sink", "state", "waiting", "oldest", "dead letters"].map(str::to_owned)];
    let sinks = seen["sinks"].as_array().cloned().unwrap_or_default();
    rows.extend(sinks.iter().map(sink));
    out += &table(&rows);
    for key in ["why", "notice"] {
        for (name, why) in sinks.iter().filter_map(|sink| Some((word(&sink["name"])?, word(&sink[key])?))) {
            let _ = write!(out, "\n{name}: {why}");
        }
    }
    if let Some(error) = word(&seen["outbox"]["error"]) {
        let _ = write!(out, "\nevents cannot be stored: {error}");
    }
    out
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

/// The labels of the stream whose starts were swallowed most.
fn swallowed(stream: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut labels: Vec<(u64, String)> = Vec::new();
    for label in stream["swallowed_starts"].as_array().into_iter().flatten() {
        let counts = ["after", "cooldown", "gap"].map(|why| (number(&label[why]), why));
        let told = counts.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} by {why}"));
        let told: Vec<String> = told.collect();
        let name = label["label"].as_str().map(plain).unwrap_or_default();
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
    let mut shown: Vec<String> = tags.iter().take(TAGS).filter_map(|tag| tag["label"].as_str().map(plain)).collect();
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
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
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
    fn a_screen_takes_as_many_lines_and_columns_as_it_has() {
        assert_eq!(fit("abc\nde", 2, 20), "abc\x1b[K\nde\x1b[K");
        assert_eq!(fit("abcdef\nb\nc\nd", 3, 4), "abcd\x1b[K\nb\x1b[K\n… 2 \x1b[K");
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
    fn times_are_told_in_a_unit_of_their_size() {
        let told: Vec<String> = [0.44, 9.0, 42.0, 600.0, 7200.0, 400_000.0].into_iter().map(time).collect();
        assert_eq!(told, ["0.4 s", "9.0 s", "42 s", "10 min", "2 h", "5 d"]);
    }
}
