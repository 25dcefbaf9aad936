//! `vtagd status` for several boxes: each asked at the same time, one line a box, and what is wrong with any of them below. Once, as JSON, or again
//! and again on a terminal. Which boxes: several `--url`, or a file ([`BoxList`]) with a token of its own for each.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use url::Url;

use super::ask::{Daemon, Unanswered};
use super::ask_many::get_from_each;
use super::screen::{Screen, table};
use super::status::{EVERY, LOOKED_AT, of_stream, seen, time};
use super::{plain, say};
use crate::platform::shutdown;
use crate::platform::signals;
use crate::section;
use crate::yaml::Document;
use crate::yaml::address;
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::secrets::{self, SecretSource};

/// Boxes of one table.
const MOST: usize = 1000;

section! {
    struct BoxKeys {
        /// text | what the box says, else its address | What it is called in the table
        "name" => name: String,
        /// URL | required | its API, `http://` or `https://`
        "url" => url: String,
        /// credential | none | the API's token
        "token" => token: SecretSource,
        /// path | the system's | PEM file of certificate authorities
        "ca" => ca: String,
    }
}

section! {
    struct BoxList {
        /// list | required | the boxes
        "boxes" => boxes: Vec<At<BoxKeys>>,
    }
}

/// One of those that are looked at.
pub struct WatchedBox {
    name: Option<String>,
    daemon: Arc<Daemon>,
}

impl WatchedBox {
    /// One that says itself what it is called.
    pub fn unnamed(daemon: Daemon) -> Self {
        Self { name: None, daemon: Arc::new(daemon) }
    }
}

/// The boxes that `file` names. What is no error is told on stderr.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(file: &Path) -> Result<Vec<WatchedBox>, Unanswered> {
    let (boxes, warnings) = read_quietly(file)?;
    // With stderr closed there is nobody left to tell.
    let _ = super::check::report(&warnings, &mut io::stderr());
    Ok(boxes)
}

/// The boxes that `file` names, and what is no error.
fn read_quietly(file: &Path) -> Result<(Vec<WatchedBox>, Vec<Problem>), Unanswered> {
    let document = Document::read(file).map_err(|problem| Unanswered::Input(problem.to_string()))?;
    let mut reader = Reader::new(&document);
    let boxes = reader.root::<BoxList>().map(|root| checked(&root, &mut reader)).unwrap_or_default();
    let (wrong, warnings): (Vec<_>, Vec<_>) =
        reader.finish().into_iter().partition(|problem| problem.severity == Severity::Error);
    if wrong.is_empty() {
        return Ok((boxes, warnings));
    }
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    Err(Unanswered::Input(wrong.join("\n")))
}

fn checked(root: &At<BoxList>, reader: &mut Reader<'_>) -> Vec<WatchedBox> {
    let remedy = "write `boxes: [{ name: edge-1, url: \"https://10.0.0.11:8642\", token: { file: edge-1.token } }]`";
    let Some(list) = reader.required(root, "boxes", &root.value.boxes, remedy) else { return Vec::new() };
    if list.value.is_empty() {
        reader.error(list, "is empty", remedy);
    }
    if list.value.len() > MOST {
        reader.error(list, format!("has more than {MOST} boxes"), "look at them in several files");
    }
    let mut names: Vec<&str> = Vec::new();
    let mut boxes = Vec::new();
    for at in list.value.iter().take(MOST) {
        let keys = &at.value;
        if let Some(name) = keys.name.given() {
            if names.contains(&&*name.value) {
                reader.error(name, "is another box's name too", "give each a name of its own");
            }
            names.push(&name.value);
        }
        let token = keys.token.checked(None, |token| secrets::resolve(token, reader).map(Some));
        let ca = keys.ca.given().map(|ca| reader.path(ca));
        let url = reader.required(at, "url", &keys.url, "write `url: https://HOST:PORT`");
        let daemon = url.and_then(|url| match Url::parse(&url.value) {
            Ok(parsed) => {
                if parsed.scheme() == "http" {
                    address::report_plain(url, &parsed, keys.token.given().is_some(), "use https://", reader);
                }
                Daemon::at(&parsed, token?, ca, &format!("`{}` of {}", url.path, reader.document().file().display()))
                    .map_err(|why| reader.error(url, why, "write `https://HOST:PORT`"))
                    .ok()
            }
            Err(error) => reader.refuse(url, format!("is no address ({error})"), "write `https://HOST:PORT`"),
        });
        boxes.extend(daemon.map(|daemon| WatchedBox { name: keys.name.value(), daemon: Arc::new(daemon) }));
    }
    boxes
}

/// How a box is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BoxState {
    Ready,
    Unready,
    /// It answers, and says nothing to us.
    Refused,
    Down,
}

impl BoxState {
    /// For programs.
    const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Refused => "refused",
            Self::Down => "down",
        }
    }

    /// For people.
    const fn shown(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unready => "NOT READY",
            Self::Refused => "REFUSED",
            Self::Down => "DOWN",
        }
    }
}

/// Looks once, and prints it. Whether every box answers and is ready.
pub fn once(boxes: &[WatchedBox], json: bool) -> Result<bool, Unanswered> {
    let looked = look(boxes)?;
    let all_ready = looked.iter().all(|one| one["state"] == BoxState::Ready.word());
    if json {
        say(&json!({ "boxes": looked }).to_string());
    } else {
        say(&render(&looked));
    }
    Ok(all_ready)
}

/// Again and again, on a terminal, until Ctrl-C.
pub fn watch(boxes: &[WatchedBox]) -> Result<(), Unanswered> {
    if !io::stdout().is_terminal() {
        return Err(Unanswered::Input("--watch needs a terminal; use --json for a program".to_owned()));
    }
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger, None, crate::logs::finish);
    let mut screen = Screen::enter();
    loop {
        screen.show(&render(&look(boxes)?));
        if shutdown.sleep(EVERY) {
            return Ok(());
        }
    }
}

/// What each box says, in their order.
fn look(boxes: &[WatchedBox]) -> Result<Vec<Value>, Unanswered> {
    let daemons: Vec<Arc<Daemon>> = boxes.iter().map(|one| Arc::clone(&one.daemon)).collect();
    let answers = get_from_each(&daemons, &LOOKED_AT)?;
    Ok(boxes.iter().zip(answers).map(|(one, answer)| told(one, answer)).collect())
}

fn told(one: &WatchedBox, answer: Result<Vec<Value>, Unanswered>) -> Value {
    let address = one.daemon.address();
    let (state, mut said) = match answer {
        Ok(answers) => {
            let said = seen(&one.daemon, answers);
            (if said["ready"] == true { BoxState::Ready } else { BoxState::Unready }, said)
        }
        Err(why) => {
            let (state, why) = match why {
                Unanswered::Input(why) => (BoxState::Refused, why),
                Unanswered::Failed(why) => (BoxState::Down, why),
            };
            (state, json!({ "url": address, "error": why }))
        }
    };
    let called = one.name.clone().or_else(|| said["instance"].as_str().map(plain)).unwrap_or(address);
    said["box"] = json!(called);
    said["state"] = json!(state.word());
    said
}

/// The whole of it for a person.
fn render(boxes: &[Value]) -> String {
    let states = [BoxState::Ready, BoxState::Unready, BoxState::Refused, BoxState::Down];
    let count = |state: &BoxState| boxes.iter().filter(|one| one["state"] == state.word()).count();
    let counts: Vec<String> = states
        .iter()
        .map(|state| (state, count(state)))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.shown()))
        .collect();
    let number = if boxes.len() == 1 { "1 box".to_owned() } else { format!("{} boxes", boxes.len()) };
    let mut out = format!("{number}: {}\n\n", counts.join(", "));
    let head = ["box", "state", "version", "provider", "streams up", "tags", "dropped", "waiting", "oldest", "dead"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(boxes.iter().map(|one| row(one, &states)));
    out += &table(&rows);
    let mut faults = String::new();
    boxes.iter().for_each(|one| faults += &wrong(one));
    if faults.is_empty() { out } else { out + "\n" + &faults }
}

fn row(one: &Value, states: &[BoxState]) -> [String; 10] {
    let word = |value: &Value| value.as_str().map(plain);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let state = states.iter().find(|state| one["state"] == state.word()).map(|state| state.shown().to_owned());
    let name = word(&one["box"]).unwrap_or_default();
    let (Some(streams), Some(sinks)) = (one["streams"].as_array(), one["sinks"].as_array()) else {
        let mut cells = std::array::from_fn(|_| "-".to_owned());
        [cells[0], cells[1]] = [name, or_dash(state)];
        return cells;
    };
    // What is switched off, or has ended, is not missed.
    let wanted = |stream: &&Value| !["disabled", "ended"].iter().any(|state| stream["state"] == *state);
    let up = streams.iter().filter(|stream| stream["state"] == "up").count();
    let tags: usize = streams.iter().filter_map(|stream| Some(stream["tags"].as_array()?.len())).sum();
    let dropped = |stream: &Value| {
        stream["accounting"]["dropped"].as_object().into_iter().flatten().map(|(_, n)| number(n)).sum::<u64>()
    };
    let oldest = sinks.iter().filter_map(|sink| sink["oldest_pending_seconds"].as_f64()).max_by(f64::total_cmp);
    [
        name,
        or_dash(state),
        or_dash(word(&one["version"])),
        or_dash(word(&one["provider"])),
        format!("{up} of {}", streams.iter().filter(wanted).count()),
        tags.to_string(),
        streams.iter().map(dropped).sum::<u64>().to_string(),
        sinks.iter().map(|sink| number(&sink["pending"])).sum::<u64>().to_string(),
        or_dash(oldest.map(time)),
        sinks.iter().map(|sink| number(&sink["dead"])).sum::<u64>().to_string(),
    ]
}

/// What is wrong with a box, a line each.
fn wrong(one: &Value) -> String {
    let word = |value: &Value| value.as_str().map(plain);
    let name = word(&one["box"]).unwrap_or_default();
    let mut out = String::new();
    let mut say = |what: String| {
        // Writing into a String cannot fail.
        let _ = write!(out, "\n{name}: {what}");
    };
    if let Some(why) = word(&one["error"]) {
        say(why);
    } else if one["ready"] != true {
        say(word(&one["reason"]).unwrap_or_else(|| "it does not say why it is not ready".to_owned()));
    }
    for stream in one["streams"].as_array().into_iter().flatten() {
        if let (Some(id), Some(error)) = (word(&stream["id"]), word(&stream["error"])) {
            say(of_stream("stream ", &id, &error));
        }
    }
    for sink in one["sinks"].as_array().into_iter().flatten() {
        for why in ["why", "notice"].iter().filter_map(|key| word(&sink[*key])) {
            say(format!("sink {}: {why}", word(&sink["name"]).unwrap_or_default()));
        }
    }
    if let Some(error) = word(&one["outbox"]["error"]) {
        say(format!("events cannot be stored: {error}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    fn boxes(text: &str) -> Result<usize, String> {
        with_warnings(text).map(|(boxes, _)| boxes)
    }

    fn with_warnings(text: &str) -> Result<(usize, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("boxes.yaml");
        std::fs::write(&file, text).unwrap();
        std::fs::write(folder.path().join("token"), "a-secret-token\n").unwrap();
        match read_quietly(&file) {
            Ok((boxes, warnings)) => Ok((boxes.len(), warnings.iter().map(ToString::to_string).collect())),
            Err(Unanswered::Input(why)) => Err(why),
            Err(Unanswered::Failed(why)) => panic!("{why}"),
        }
    }

    #[test]
    fn everything_that_is_wrong_with_a_list_of_boxes_is_told_with_its_line_and_what_to_do() {
        let good = "boxes:\n  - { name: a, url: \"http://127.0.0.1:8642\", token: { file: token } }\n  - { url: https://b.example }\n";
        assert_eq!(boxes(good), Ok(2));
        let why = boxes(
            "boxes:\n  - { name: a, url: http://a }\n  - { name: a, url: \"ftp://b\" }\n  - { token: hunter2, url: http://c }\n  \
             - { url: \"http://user:hunter2@d\" }\n  - { name: e }\n  - { url: \"no address\", colour: red }\n",
        )
        .unwrap_err();
        for part in [
            "boxes.yaml:3",
            "is another box's name too",
            "neither http:// nor https://",
            "a credential may not stand in this file",
            "credentials is visible",
            "boxes[4].url",
            "is missing",
            "is no address",
            "colour",
        ] {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert!(!why.contains("hunter2"), "{why}");
        assert!(boxes("boxes: []").unwrap_err().contains("is empty"));
        assert!(boxes("{}").unwrap_err().contains("edge-1.token"), "it is told what to write");
        assert!(boxes("boxes: [{ url: http://a, token: { file: none } }]").unwrap_err().contains("none"));
    }

    #[test]
    fn a_token_that_anybody_on_the_way_can_read_is_warned_of() {
        let list = "boxes:\n  - { url: \"http://10.0.0.11:8642\", token: { file: token } }\n  - { url: \"http://10.0.0.12:8642\" }\n  \
                    - { url: \"http://127.0.0.1:8642\", token: { file: token } }\n  - { url: \"https://10.0.0.13:8642\", token: { file: token } }\n";
        let (boxes, mut warnings) = with_warnings(list).unwrap();
        // The umask may let others read the file.
        warnings.retain(|warning| warning.contains("without encryption"));
        assert_eq!((boxes, warnings.len()), (4, 1), "{warnings:?}");
        assert!(warnings[0].contains("boxes.yaml:2") && warnings[0].contains("boxes[0].url"), "{warnings:?}");
    }

    /// Answers each question on one connection with an empty object, to its end: the questions.
    fn gateway(listener: &TcpListener) -> Vec<String> {
        let (stream, _) = listener.accept().unwrap();
        let (mut from, mut heads) = (BufReader::new(&stream), Vec::new());
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if from.read_line(&mut head).unwrap_or(0) == 0 {
                    return heads;
                }
            }
            heads.push(head);
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
    }

    #[test]
    fn a_box_behind_a_gateway_is_asked_below_its_path() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || gateway(&listener));
        let url = format!("http://{host}/site/edge-1/").parse().unwrap();
        let daemon = Daemon::at(&url, None, None, "--url").unwrap();
        assert_eq!(daemon.address(), format!("http://{host}/site/edge-1"));
        look(&[WatchedBox::unnamed(daemon)]).unwrap();
        let heads = asked.join().unwrap();
        assert_eq!(heads.len(), LOOKED_AT.len());
        for (head, path) in heads.iter().zip(LOOKED_AT) {
            assert!(head.starts_with(&format!("GET /site/edge-1{path} HTTP/1.1\r\n")), "{head}");
            assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
        }
    }

    #[test]
    fn a_line_a_box_and_below_what_is_wrong_with_any_of_them() {
        let edge = json!({
            "box": "edge-1", "state": "ready", "ready": true, "version": "0.1.0", "provider": "cpu",
            "streams": [
                { "id": "gate", "state": "up", "tags": [{}], "accounting": { "dropped": { "superseded": 3, "decode": 2 } } },
                { "id": "yard", "state": "down", "error": "stream yard (rtsp://10.0.0.7/1): no\u{1b}[2Jroute", "tags": [], "accounting": { "dropped": {} } },
                { "id": "dock", "state": "failed", "error": "stream dock-2 is not it", "tags": [], "accounting": {} },
                { "id": "old", "state": "disabled", "tags": [], "accounting": { "dropped": {} } },
            ],
            "sinks": [{ "name": "broker", "pending": 7, "oldest_pending_seconds": 7300.0, "dead": 1, "why": "refused" }],
            "outbox": { "error": null },
        });
        let loads = json!({ "box": "edge-2", "state": "unready", "ready": false, "reason": "model is loading", "streams": [], "sinks": [] });
        let gone = json!({ "box": "edge-3", "state": "down", "error": "nobody answers at http://10.0.0.13:8642" });
        let wanted = "\
3 boxes: 1 ready, 1 NOT READY, 1 DOWN

box     state      version  provider  streams up  tags  dropped  waiting  oldest  dead
edge-1  ready      0.1.0    cpu       1 of 3      1     5        7        2 h     1
edge-2  NOT READY  -        -         0 of 0      0     0        0        -       0
edge-3  DOWN       -        -         -           -     -        -        -       -

edge-1: stream yard (rtsp://10.0.0.7/1): no [2Jroute
edge-1: stream dock: stream dock-2 is not it
edge-1: sink broker: refused
edge-2: model is loading
edge-3: nobody answers at http://10.0.0.13:8642";
        assert_eq!(render(&[edge, loads, gone]), wanted);
        for odd in [json!(null), json!({ "streams": 7, "sinks": "x" }), json!({ "streams": [null], "sinks": [1] })] {
            assert!(render(&[odd]).starts_with("1 box:"));
        }
    }
}
