//! `vtagd explain`: three sentences on why there was an event of a label, or none, and which setting would have made it another way. Read
//! from the API of a running daemon: how the label stands, its peaks, what swallowed its starts, and its events; before the last hour what its history
//! has. On the caller's thread.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::ask::{Daemon, DaemonArgs, Unanswered};
use super::explained_label::{Seen, dated, number, since, text, time};
use super::scores::{path, query};
use super::{plain, say};
use crate::yaml::units;

/// The API knows the best of each minute for so long.
const PEAKS_KNOWN: Duration = Duration::from_hours(1);
/// A start so long before or after a moment belongs to it: of a scene that changes the model is not sure at once.
const NEAR: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream.
    stream: String,
    /// The label.
    label: String,
    /// How far back. Peaks are known for an hour; before, the history is asked when the label's words fitted best.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_since)]
    since: Duration,
    /// In this region of the stream; without it in each that it has.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
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
    let of_label = path(&args.stream, &args.query(&[("label", &args.label), ("history", "true")]));
    let of_stream = path(&args.stream, "");
    let asked = daemon.get_ready(&[of_label.as_str(), &of_stream, "/api/v1/streams"])?;
    let [scores, all, streams] = asked.as_slice() else { return Ok(String::new()) };
    let labels = scores["scores"].as_array().cloned().unwrap_or_default();
    let stream = streams["streams"].as_array().into_iter().flatten().find(|row| row["id"] == *args.stream);
    let state = stream.map_or(Value::Null, |row| row["state"].clone());
    if labels.is_empty() {
        return Err(Unanswered::Input(unknown(args, &all["scores"], &text(&state))));
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
        for set in sets {
            let starts = events.as_array().into_iter().flatten().map(|event| &event["data"]);
            let starts: Vec<&Value> = starts.filter(|data| data["set"] == *set).collect();
            told.extend(prompt(&known, set, &args.label).and_then(|prompt| past(args, daemon, prompt, after, &starts)));
        }
    }
    Ok(told.join("\n\n"))
}

impl Args {
    /// What the API is asked, of the region that is meant.
    fn query(&self, pairs: &[(&str, &str)]) -> String {
        let region = self.region.as_deref().map(|region| ("region", region));
        query(&pairs.iter().copied().chain(region).collect::<Vec<_>>())
    }
}

/// Why nothing is known of the label, among `all` that the stream has.
fn unknown(args: &Args, all: &Value, state: &str) -> String {
    let stream = plain(&args.stream);
    // Each region has the same labels, and each label is in all of them.
    let names = |key: &str| -> BTreeSet<String> {
        let all = all.as_array().into_iter().flatten();
        all.filter(|label| label[key].is_string()).map(|label| text(&label[key])).collect()
    };
    let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
    let (labels, regions) = (names("label"), names("region"));
    match &args.region {
        _ if labels.is_empty() => format!("{stream} is not scored now (it is {state}): nothing is known of its labels"),
        Some(_) if regions.is_empty() => format!("{stream} has no regions: leave out --region"),
        Some(region) if !regions.contains(&plain(region)) => {
            format!("{stream} has no region {}; it has {}", plain(region), list(regions))
        }
        _ => format!("{stream} has no label {}; it has {}", plain(&args.label), list(labels)),
    }
}

/// The first prompt of a label, of what `/api/v1/labels` says.
fn prompt<'a>(known: &'a Value, set: &str, label: &str) -> Option<&'a str> {
    let set = known["sets"].as_array()?.iter().find(|known| known["set"] == *set)?;
    let label = set["details"].as_array()?.iter().find(|known| known["label"] == *label)?;
    label["prompts"][0].as_str()
}

/// What the history has of the time before peaks are known, and whether one of `starts` belongs to it.
fn past(args: &Args, daemon: &Daemon, prompt: &str, after: Timestamp, starts: &[&Value]) -> Option<String> {
    let until = Timestamp::now().saturating_sub(PEAKS_KNOWN).ok()?.to_string();
    let after = after.to_string();
    let asked = [("text", prompt), ("stream", &args.stream), ("since", &after), ("until", &until), ("limit", "1")];
    let found = match daemon.search(&args.query(&asked), None) {
        Ok(found) => found,
        Err(Unanswered::Input(why) | Unanswered::Failed(why)) => {
            return Some(format!("Of the time before the last hour nothing is known: {why}."));
        }
    };
    let words = plain(prompt);
    let Some(best) = found["moments"].as_array()?.first() else {
        return Some(format!("Of the time before the last hour the history has nothing of {}.", plain(&args.stream)));
    };
    let at = best["region"].as_str().map(|region| format!("in region {} ", plain(region))).unwrap_or_default()
        + &format!("at {}", dated(&best["from"]));
    let margin =
        best["margin"].as_f64().map(|margin| format!(", {margin:+.2} over everyday nouns")).unwrap_or_default();
    let stands = if found["stands_out"] == true { "which stands out" } else { "which does not stand out" };
    let (from, until) = (time(&best["from"]), time(&best["until"]));
    let is_near = |start: Timestamp| {
        from.and_then(|from| from.checked_sub(NEAR).ok()).is_some_and(|from| start >= from)
            && until.and_then(|until| until.checked_add(NEAR).ok()).is_some_and(|until| start <= until)
    };
    let is_of_it =
        |start: &&Value| start["region"] == best["region"] && time(&start["sampled_at"]).is_some_and(is_near);
    let told = if starts.iter().any(is_of_it) { "a tag started then" } else { "no tag started then" };
    Some(format!(
        "Before the last hour the history has \"{words}\" best {at} (cosine {:.3}{margin}), {stands}, and {told}: `vtagd search` shows more.",
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
        let page = daemon.get_ready(&[&format!("/api/v1/events{}", args.query(&wanted))])?;
        let Some(page) = page.first() else { break };
        all.extend(page["events"].as_array().into_iter().flatten().cloned());
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    Ok(Value::Array(all))
}
