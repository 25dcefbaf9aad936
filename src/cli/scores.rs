//! `vtagd scores`: how a running daemon scores each label right now, read from its API: bars that move, with the thresholds as ticks, on a
//! terminal; a table elsewhere, or JSON. On the caller's thread.

use std::io::{self, IsTerminal};
use std::time::Duration;

use serde_json::{Value, json};

use super::ask::{Daemon, DaemonArgs, Unanswered};
use super::explained_label::drifted;
use super::screen::{Screen, table};
use super::{plain, say};
use crate::platform::{shutdown, signals, terminal};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Streams that are asked for in a second: the API takes 50 requests a second of one address, and 200 at once.
const A_SECOND: usize = 40;
const AT_ONCE: usize = 160;

/// A bar goes from minus this margin to plus this margin, unless a threshold is further out.
const REACH: f64 = 8.0;

/// Characters of a label's name beside its bar.
const NAME: usize = 16;

/// Columns that are taken by what stands beside a bar.
const BESIDE: usize = NAME + 26;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Streams [default: all].
    streams: Vec<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Only labels of this set.
    #[arg(long, value_name = "SET")]
    set: Option<String>,
    /// Only in regions of this name.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Once, as a table, also on a terminal.
    #[arg(long)]
    once: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command; the exit code.
pub fn run(args: &Args) -> u8 {
    match args.daemon.daemon().and_then(|daemon| show(args, &daemon)) {
        Ok(()) => 0,
        Err(why) => why.complain(),
    }
}

fn show(args: &Args, daemon: &Daemon) -> Result<(), Unanswered> {
    let dumb = terminal::is_dumb();
    if args.json || args.once || dumb || !io::stdout().is_terminal() {
        let seen = look(args, daemon)?;
        say(&if args.json { json!({ "streams": seen }).to_string() } else { rows(&seen) });
        return Ok(());
    }
    // What is wrong with the question is said before the screen is taken.
    let mut seen = look(args, daemon)?;
    let colour = terminal::wants_colours(&io::stdout());
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger, None, crate::logs::finish);
    let mut screen = Screen::enter();
    loop {
        screen.show(&bars(&seen, screen.columns(), colour));
        if shutdown.sleep(EVERY * (seen.len().div_ceil(A_SECOND).max(1) as u32)) {
            return Ok(());
        }
        match look(args, daemon) {
            Ok(new) => seen = new,
            // It may come back.
            Err(Unanswered::Failed(why)) => screen.show(&why),
            Err(wrong) => return Err(wrong),
        }
    }
}

/// What the daemon says of each stream.
fn look(args: &Args, daemon: &Daemon) -> Result<Vec<Value>, Unanswered> {
    let all = |streams: &Value| {
        let ids = streams["streams"].as_array().into_iter().flatten();
        ids.filter_map(|stream| stream["id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let streams = if args.streams.is_empty() {
        let [streams] = daemon.get(["/api/v1/streams"])?;
        all(&streams)
    } else {
        args.streams.clone()
    };
    let wanted = [("set", args.set.as_deref()), ("region", args.region.as_deref())];
    let wanted: Vec<(&str, &str)> = wanted.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let wanted = if wanted.is_empty() { String::new() } else { query(&wanted) };
    let paths: Vec<String> = streams.iter().map(|stream| path(stream, &wanted)).collect();
    let mut seen = Vec::with_capacity(paths.len());
    for (index, part) in paths.chunks(A_SECOND).enumerate() {
        if index * A_SECOND >= AT_ONCE {
            std::thread::sleep(EVERY);
        }
        seen.extend(daemon.get_ready(&part.iter().map(String::as_str).collect::<Vec<_>>())?);
    }
    Ok(seen)
}

/// Where the scores of a stream are.
pub(super) fn path(stream: &str, query: &str) -> String {
    let stream: String = url::form_urlencoded::byte_serialize(stream.as_bytes()).collect();
    format!("/api/v1/streams/{}/scores{query}", stream.replace('+', "%20"))
}

pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    format!("?{}", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

fn text(value: &Value) -> String {
    value.as_str().map(plain).unwrap_or_default()
}

/// A label, with its region before it where it has one.
pub(super) fn named(label: &Value) -> String {
    label["region"].as_str().map(|region| format!("{}/", plain(region))).unwrap_or_default() + &text(&label["label"])
}

/// A margin as it is told: with its sign.
fn signed(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |margin| format!("{margin:+.2}"))
}

fn state(label: &Value) -> String {
    if label["thresholds_from"] == "waiting" {
        return "waits for a calibration".to_owned();
    }
    let drift = if drifted(label).is_some() { ", drifted" } else { "" };
    match text(&label["state"]) {
        state if state.is_empty() => "-".to_owned(),
        state if state == "inactive" => "outside its hours".to_owned(),
        state if state == "cooldown" && label["since"].is_string() => format!("cooldown, rising{drift}"),
        state => state + drift,
    }
}

/// The table.
fn rows(streams: &[Value]) -> String {
    let heading = [
        "stream",
        "set",
        "label",
        "score",
        "margin",
        "enter",
        "exit",
        "state",
        "best rival",
        "peak",
        "after",
        "cooldown",
        "rival",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    for stream in streams {
        for label in stream["scores"].as_array().into_iter().flatten() {
            let swallowed = &label["swallowed"];
            let rival = text(&label["rival"]);
            rows.push([
                text(&stream["stream"]),
                text(&label["set"]),
                named(label),
                label["score"].as_f64().map_or_else(|| "-".to_owned(), |score| format!("{score:.3}")),
                signed(&label["margin"]),
                signed(&label["enter"]["margin"]),
                signed(&label["exit"]["margin"]),
                state(label),
                if rival.is_empty() { "-".to_owned() } else { rival },
                signed(&label["peak"]["margin"]),
                swallowed["after"].to_string(),
                swallowed["cooldown"].to_string(),
                swallowed["rival"].to_string(),
            ]);
        }
    }
    table(&rows)
}

/// The bars, as wide as the screen.
fn bars(streams: &[Value], columns: usize, colour: bool) -> String {
    let width = columns.saturating_sub(BESIDE).clamp(8, 48);
    let mut out = Vec::new();
    for stream in streams {
        let age = stream["age"].as_f64().map_or_else(|| "no sample yet".to_owned(), |age| format!("{age:.0} s ago"));
        out.push(format!("{}  {age}", text(&stream["stream"])));
        for label in stream["scores"].as_array().into_iter().flatten() {
            let rival = text(&label["rival"]);
            let wide = columns >= 100 && !rival.is_empty();
            let against = if wide { format!("  against {rival}") } else { String::new() };
            out.push(bar(label, width, colour) + &against);
        }
        out.push(String::new());
    }
    out.join("\n")
}

/// One label: name, bar with `exit` and `enter` as ticks, score, margin, state.
fn bar(label: &Value, width: usize, colour: bool) -> String {
    let margin = |value: &Value| value["margin"].as_f64();
    let (enter, exit) = (margin(&label["enter"]), margin(&label["exit"]));
    let reach = [enter, exit].into_iter().flatten().fold(REACH, |reach, threshold| reach.max(threshold.abs() * 1.25));
    let place = |margin: f64| (((margin / reach + 1.0) / 2.0).clamp(0.0, 1.0) * width as f64) as usize;
    let filled = margin(label).map_or(0, place);
    let tick = |threshold: Option<f64>| threshold.map(|threshold| place(threshold).min(width - 1));
    let cell = |at: usize| match at {
        at if Some(at) == tick(enter) => '┃',
        at if Some(at) == tick(exit) => '│',
        at if at < filled => '█',
        _ => '·',
    };
    let drawn: String = (0..width).map(cell).collect();
    let name: String = named(label).chars().take(NAME).collect();
    let score = label["score"].as_f64().map_or_else(|| "-".to_owned(), |score| format!("{:.1} %", score * 100.0));
    let drawn = match label["state"].as_str() {
        Some("open") if colour => format!("\x1b[32m{drawn}\x1b[0m"),
        Some("rising" | "cooldown") if colour => format!("\x1b[33m{drawn}\x1b[0m"),
        _ => drawn,
    };
    format!("{name:NAME$} {drawn} {score:>7} {:>7} {}", signed(&label["margin"]), text(&label["state"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(margin: f64, state: &str) -> Value {
        json!({
            "set": "street", "label": "car", "score": 0.5, "margin": margin, "rival": "an empty street", "state": state,
            "enter": { "score": 0.6, "margin": 0.41 }, "exit": { "score": 0.4, "margin": -0.41 }, "since": null,
            "peak": { "margin": 2.0 }, "swallowed": { "after": 2, "cooldown": 0, "rival": 1 },
        })
    }

    #[test]
    fn a_bar_has_both_thresholds_as_ticks_and_fills_with_the_margin() {
        let drawn = |margin| bar(&label(margin, "idle"), 16, false).split_whitespace().nth(1).unwrap().to_owned();
        assert_eq!(drawn(-8.0), "·······│┃·······");
        assert_eq!(drawn(4.0), "███████│┃███····");
        assert_eq!(drawn(100.0), "███████│┃███████");
        assert!(bar(&label(4.0, "open"), 16, true).contains("\x1b[32m"));
        assert!(!bar(&label(4.0, "open"), 16, false).contains('\x1b'));
        // Thresholds further out than the bar is wide make it reach further.
        let mut far = label(0.0, "idle");
        far["enter"] = json!({ "score": 1.0, "margin": 20.0 });
        assert!(bar(&far, 16, false).contains("█│······┃·"), "{}", bar(&far, 16, false));
    }

    #[test]
    fn a_screen_of_60_columns_is_wide_enough() {
        let seen = [json!({ "stream": "gate", "age": 0.5, "scores": [label(4.0, "cooldown")] })];
        let text = bars(&seen, 60, false);
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(bars(&seen, 160, false).contains("against an empty street"));
    }

    #[test]
    fn the_table_has_a_row_a_label_and_takes_any_answer() {
        let seen = [json!({ "stream": "gate", "age": 0.5, "scores": [label(4.0, "idle")] })];
        let wanted = "\
stream  set     label  score  margin  enter  exit   state  best rival       peak   after  cooldown  rival
gate    street  car    0.500  +4.00   +0.41  -0.41  idle   an empty street  +2.00  2      0         1";
        assert_eq!(rows(&seen), wanted);
        for odd in [json!(null), json!({ "scores": 7 }), json!({ "scores": [null, 1, "x", { "enter": 3 }] })] {
            assert!(rows(std::slice::from_ref(&odd)).contains("stream"));
            bars(&[odd], 60, true);
        }
    }

    #[test]
    fn a_label_of_a_region_says_which() {
        let mut of_region = label(4.0, "idle");
        of_region["region"] = json!("left");
        let seen = [json!({ "stream": "gate", "age": 0.5, "scores": [of_region] })];
        assert!(rows(&seen).contains("left/car") && bars(&seen, 60, false).contains("left/car"));
    }

    #[test]
    fn what_is_asked_for_is_escaped() {
        assert_eq!(
            path("a b/../x", &query(&[("set", "a&b=c")])),
            "/api/v1/streams/a%20b%2F..%2Fx/scores?set=a%26b%3Dc"
        );
    }
}
