//! Streams that the page or the API has added: a file in the state directory, of the form of those that `include` names, whose streams come behind the
//! configuration's own.
//!
//! In: the state directory, and a document or a stream that is wanted. Out: the document with its items; the file's text with one stream more or less. What was
//! clicked must not keep a daemon from starting: a file that is damaged, a stream in it that is wrong or has the id of one of the configuration is told and left
//! out. Passwords lie beside the file, each in one of its own, which only the daemon's user can read. On the caller's thread. Bounded: [`MOST`] streams.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::schema::Root;
use super::streams::{self, Surroundings};
use super::{StreamSettings, sets_in_force};
use crate::platform::atomic_file;
use crate::platform::paths;
use crate::platform::secret;
use crate::platform::state_folder::StateFolder;
use crate::sample::Interval;
use crate::source::{Decode, Decoder, Location, Reconnect};
use crate::stream::requests::NewStream;
use crate::yaml::field_reader::Reader;
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::secrets::Absence;
use crate::yaml::{Document, MAX_BYTES, Node, Value};

/// Below the state directory.
const FILE: &str = "streams.yaml";
/// Below it too: a file for each password.
const PASSWORDS: &str = "passwords";
/// What such a file may hold.
const KEYS: [&str; 1] = ["streams"];
/// Streams that may be added. Whoever has more writes a configuration.
pub const MOST: usize = 256;
/// What stands on top.
const HEAD: &str =
    "# vtagd keeps this file: streams that were added by the page or the API, which removes them too.\nstreams:\n";
/// What each line of a stream begins with.
const ITEM: &str = "  - ";

/// Where the file is, below the state directory.
pub fn name() -> PathBuf {
    PathBuf::from(FILE)
}

/// Where the password of the stream `id` is, below the state directory.
pub fn password_name(id: &str) -> PathBuf {
    Path::new(PASSWORDS).join(id)
}

/// Removes what is left of passwords that were being written when a daemon died. Who has the state directory's lock writes them alone.
pub fn sweep_passwords(state: &StateFolder) {
    atomic_file::sweep_older(&state.place(Path::new(PASSWORDS)), Duration::ZERO);
}

/// The state directory of `document`, as far as it can be told.
pub(super) fn state_of(document: &Document) -> StateFolder {
    let mut reader = Reader::new(document);
    let root = reader.root::<Root>();
    root.and_then(|root| sets_in_force::state(&root.value.state, &mut reader))
        .unwrap_or_else(StateFolder::default_place)
}

/// Adds the streams of the file to those of `document`; what is to be told of it.
pub(super) fn append(document: &mut Document, state: &StateFolder) -> Vec<Problem> {
    let place = state.place(&name());
    let bare = |severity, message: String, remedy: &str| Problem {
        severity,
        file: place.clone(),
        position: None,
        field: String::new(),
        message,
        remedy: remedy.to_owned(),
        snippet: String::new(),
    };
    let bytes = match state.read(&name(), MAX_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Vec::new(),
        Err(error) => {
            let message = format!("whether streams were added cannot be told ({error})");
            let severity =
                if error.kind() == ErrorKind::PermissionDenied { Severity::Notice } else { Severity::Warning };
            return vec![bare(severity, message, "try it as the daemon's user or as root")];
        }
    };
    let mut file = match Document::parse(&place, &bytes) {
        Ok(file) => file,
        Err(problem) => {
            let remedy = format!("{}; until then none of its streams runs", problem.remedy);
            return vec![Problem { severity: Severity::Warning, remedy, ..*problem }];
        }
    };
    let own: HashSet<String> = list(document).iter().filter_map(id).map(str::to_owned).collect();
    let mut told = Vec::new();
    let added = list(&file);
    let mut seen = HashSet::new();
    let mut keep = Vec::with_capacity(added.len());
    for (at, item) in added.iter().enumerate() {
        let id = id(item);
        let (message, remedy) = match id {
            Some(id) if own.contains(id) => (
                format!("the configuration has a stream `{id}` of its own, which counts"),
                "remove this one on the page or by the API, or give that one another id",
            ),
            Some(id) if !seen.insert(id) => {
                (format!("there is a stream `{id}` further up, which counts"), "give this one another id, or remove it")
            }
            _ => {
                keep.push(true);
                continue;
            }
        };
        keep.push(false);
        told.push(file.problem(Severity::Warning, item.place, &format!("streams[{at}]"), message, remedy));
    }
    let number = added.len();
    let mut keep = keep.into_iter();
    file.retain("streams", |_| keep.next().unwrap_or(true));
    told.extend(document.append(file, &KEYS));
    if number > 0 {
        let what = if number == 1 { "one stream that was".to_owned() } else { format!("{number} streams that were") };
        told.push(bare(
            Severity::Notice,
            format!("holds {what} added by the page or the API"),
            "these remove them too",
        ));
    }
    told
}

/// What is wrong with the file leaves a stream of it out, and stops nothing.
pub(super) fn soften(problems: &mut [Problem], state: &StateFolder) {
    let place = state.place(&name());
    for problem in problems.iter_mut().filter(|one| one.severity == Severity::Error && one.file == place) {
        problem.severity = Severity::Warning;
        problem.remedy.push_str("; until then this stream is left out");
    }
}

/// The ids of the streams in the file, right or wrong.
pub fn ids(state: &StateFolder) -> Vec<String> {
    let bytes = state.read(&name(), MAX_BYTES).ok().flatten().unwrap_or_default();
    let file = Document::parse(&state.place(&name()), &bytes);
    file.map_or_else(|_| Vec::new(), |file| list(&file).iter().filter_map(id).map(str::to_owned).collect())
}

fn list(document: &Document) -> &[Node] {
    match document.find_exactly("streams").map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

fn id(item: &Node) -> Option<&str> {
    let Value::Map(entries) = &item.value else { return None };
    match &entries.iter().find(|entry| entry.key == "id")?.value.value {
        Value::Text(id) => Some(id),
        _ => None,
    }
}

/// Checks a stream that is to be added, and makes of it what its line says: an address of a camera in the network, credentials apart from it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn checked(new: &NewStream) -> Result<StreamSettings, Vec<Problem>> {
    let text = format!("streams:\n{}", line(&new.id, new.url.trim(), new.username.as_deref(), false));
    let document = Document::parse(Path::new("the new stream"), text.as_bytes()).map_err(|problem| vec![*problem])?;
    let mut reader = Reader::with(&document, Absence::Passed);
    let root = reader.root::<Root>();
    let around = Surroundings {
        interval: Interval::Every(Duration::from_secs(1)),
        unchanged: None,
        decode: Decode::default(),
        reconnect: Reconnect::default(),
        decoder: Decoder::default(),
        max_pixels: None,
        sets: &[],
        sets_incomplete: true,
        templates: paths::templates_dir(),
    };
    let raw = root.as_ref().and_then(|root| root.value.streams.given()).map(|list| list.value.as_slice());
    let stream = streams::check(raw.unwrap_or_default(), &around, &mut reader).into_iter().next();
    let url = raw.and_then(|list| list.first()).and_then(|one| one.value.url.given());
    if let (Some(stream), Some(at)) = (&stream, url) {
        match &stream.source.location {
            Location::Rtsp(url) | Location::Http(url) => {
                let in_query = url.query_pairs().any(|(key, _)| secret::is_secret_key(&key));
                if in_query || secret::in_path(url).next().is_some() {
                    let message =
                        "holds a credential in its path or query, which cannot be kept apart from the address";
                    reader.error(
                        at,
                        message,
                        "give user and password beside it, or write the stream into the configuration",
                    );
                }
            }
            _ => reader.error(
                at,
                "is no camera's address in the network",
                "give rtsp://, rtsps://, http:// or https://; files, devices and pipelines stand in the configuration",
            ),
        }
        if new.password.is_some() && stream.source.password.is_some() {
            reader.error(at, "holds a password, and another one is given beside it", "remove it from the address");
        }
    }
    let problems = reader.finish();
    match stream {
        Some(mut stream) if !problems.iter().any(|problem| problem.severity == Severity::Error) => {
            stream.source.password = stream.source.password.or_else(|| new.password.clone());
            Ok(stream)
        }
        _ => Err(problems),
    }
}

/// A stream as it stands in the file.
fn line(id: &str, url: &str, username: Option<&str>, has_password: bool) -> String {
    // JSON is YAML, wherever it stands.
    let username = username.map_or_else(String::new, |name| format!(", username: {}", json!(name)));
    let file = has_password.then(|| json!(password_name(id).display().to_string()));
    let password = file.map_or_else(String::new, |file| format!(", password: {{ file: {file} }}"));
    format!("{ITEM}{{ id: {}, url: {}{username}{password} }}\n", json!(id), json!(url))
}

/// The file with `stream` too.
///
/// # Errors
/// Why not, for people.
pub fn with(state: &StateFolder, stream: &StreamSettings) -> Result<String, String> {
    let Some(url) = stream.source.location.url() else { return Err("it is no camera's address".to_owned()) };
    let mut text = read(state)?;
    let known = ids(state);
    if known.len() >= MOST {
        return Err(format!("{MOST} streams are added already: write others into the configuration"));
    }
    if text.is_empty() {
        HEAD.clone_into(&mut text);
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let has_password = stream.source.password.is_some();
    text.push_str(&line(&stream.source.id, &url.to_string(), stream.source.username.as_deref(), has_password));
    // Whatever was written there by hand: this is what it has to say now.
    let wanted: Vec<&str> = known.iter().map(String::as_str).chain([&*stream.source.id]).collect();
    is_right(&text, state, &wanted)?;
    Ok(text)
}

/// The file without the stream `id`; `None`: nothing else is in it.
///
/// # Errors
/// Why not, for people.
pub fn without(state: &StateFolder, id: &str) -> Result<Option<String>, String> {
    let text = read(state)?;
    let known = ids(state);
    let wanted: Vec<&str> = known.iter().map(String::as_str).filter(|one| *one != id).collect();
    let begins = format!("{ITEM}{{ id: {}, ", json!(id));
    let text: String = text.split_inclusive('\n').filter(|line| !line.starts_with(&begins)).collect();
    if wanted.is_empty() && text == HEAD {
        return Ok(None);
    }
    is_right(&text, state, &wanted)?;
    Ok(Some(text))
}

fn read(state: &StateFolder) -> Result<String, String> {
    let place = state.place(&name());
    let bytes =
        state.read(&name(), MAX_BYTES).map_err(|error| format!("{} cannot be read: {error}", place.display()))?;
    String::from_utf8(bytes.unwrap_or_default()).map_err(|_| format!("{} is damaged: not UTF-8 text", place.display()))
}

/// Whether `text` is a file with these streams, and can be read again.
fn is_right(text: &str, state: &StateFolder, wanted: &[&str]) -> Result<(), String> {
    let place = state.place(&name());
    let parsed = Document::parse(&place, text.as_bytes());
    let is_so = parsed.is_ok_and(|file| list(&file).iter().map(id).eq(wanted.iter().map(|id| Some(*id))));
    let odd = || {
        format!(
            "{} was edited by hand, in a way that cannot be changed here: change it there, and reload",
            place.display()
        )
    };
    is_so.then_some(()).ok_or_else(odd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::secret::Secret;

    fn new(id: &str, url: &str) -> NewStream {
        NewStream { id: id.to_owned(), url: url.to_owned(), username: None, password: None }
    }

    fn folder() -> (tempfile::TempDir, StateFolder) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(folder.path().join("state"));
        (folder, state)
    }

    fn keep(state: &StateFolder, stream: &NewStream) {
        let text = with(state, &checked(stream).unwrap()).unwrap();
        state.write(&name(), text.as_bytes()).unwrap();
    }

    #[test]
    fn only_cameras_in_the_network_are_added_and_their_credentials_stand_apart() {
        let with_password =
            NewStream { password: Some(Secret::new("pa ss\"'#")), ..new("gate", "rtsps://viewer@10.0.0.12/1") };
        let stream = checked(&with_password).unwrap();
        assert_eq!(stream.source.username.as_deref(), Some("viewer"));
        assert_eq!(stream.source.location.url().unwrap().to_string(), "rtsps://10.0.0.12/1");
        let in_url = checked(&new("gate", " http://a:b%20c@10.0.0.12/x?y=1 ")).unwrap();
        assert_eq!(in_url.source.password.unwrap().expose(), "b c");
        let both =
            NewStream { password: Some(Secret::new("other")), ..new("gate", "rtsp://a:hidden-word@10.0.0.12/1") };
        let told = checked(&both).unwrap_err();
        assert!(!told.iter().any(|problem| problem.to_string().contains("hidden-word")), "{told:?}");
        for wrong in [
            new("gate", "file:///etc/passwd"),
            new("gate", "v4l2:///dev/video0"),
            new("gate", "push://gate"),
            new("gate", "udp://0.0.0.0:5000"),
            new("gate", "srt://10.0.0.1:9000"),
            new("gate", "rtmp://10.0.0.1/x"),
            new("gate", "/dev/video0"),
            new("gate", "videotestsrc ! fakesink"),
            new("gate", "rtsp://"),
            new("gate", ""),
            new("gate", "http://10.0.0.1/snap.cgi?user=a&pwd=hidden-word"),
            new("gate", "http://10.0.0.1/snap.cgi?loginuse=a&loginpas=hidden-word"),
            new("gate", "http://10.0.0.1/snap.cgi?usr=a&psw=hidden-word"),
            new("gate", "http://10.0.0.1/snap.cgi?u=a&pw=hidden-word"),
            new("Gate", "rtsp://10.0.0.1/"),
            new("../gate", "rtsp://10.0.0.1/"),
            new("", "rtsp://10.0.0.1/"),
            new("gate\n  - {id: x}", "rtsp://10.0.0.1/"),
        ] {
            let told = checked(&wrong).expect_err(&wrong.url);
            assert!(told.iter().any(|problem| problem.severity == Severity::Error), "{}: {told:?}", wrong.url);
        }
    }

    #[test]
    fn a_file_grows_and_shrinks_by_lines_and_is_read_as_what_was_wanted() {
        let (_folder, state) = folder();
        keep(&state, &new("gate", "rtsp://10.0.0.12/1?a=\"b\"#c: {d}"));
        let odd = NewStream {
            username: Some("o'neil: \"x\" # y".to_owned()),
            password: Some(Secret::new("word")),
            ..new("yard", "https://camera.local/")
        };
        keep(&state, &odd);
        assert_eq!(ids(&state), ["gate", "yard"]);
        let text = read(&state).unwrap();
        assert!(
            text.contains("password: { file: \"passwords/yard\" }") && !text.contains("word\" }\n  - word"),
            "{text}"
        );
        let mut document = Document::parse(Path::new("x.yaml"), b"streams: []\n").unwrap();
        let told = append(&mut document, &state);
        assert!(told.iter().all(|problem| problem.severity == Severity::Notice), "{told:?}");
        assert_eq!(list(&document).len(), 2);
        let Value::Map(entries) = &list(&document)[1].value else { panic!("a map") };
        let Value::Text(username) = &entries[2].value.value else { panic!("a text") };
        assert_eq!(username, "o'neil: \"x\" # y");
        let left = without(&state, "gate").unwrap().unwrap();
        assert!(!left.contains("gate") && left.contains("yard"), "{left}");
        state.write(&name(), left.as_bytes()).unwrap();
        assert_eq!(without(&state, "yard").unwrap(), None);
    }

    #[test]
    fn one_that_the_configuration_has_too_and_a_damaged_file_stop_nothing() {
        let (_folder, state) = folder();
        let appended = |text: &str| {
            let mut document = Document::parse(Path::new("x.yaml"), text.as_bytes()).unwrap();
            let told = append(&mut document, &state);
            assert!(told.iter().all(|problem| problem.severity < Severity::Error), "{told:?}");
            (list(&document).len(), told)
        };
        assert_eq!(appended("streams: []\n"), (0, Vec::new()));
        keep(&state, &new("gate", "rtsp://10.0.0.12/1"));
        let (number, told) = appended("streams: [{ id: gate, url: 'rtsp://10.0.0.1/' }]\n");
        assert!(number == 1 && told[0].message.contains("`gate` of its own"), "{told:?}");
        state.write(&name(), b"streams: [\n").unwrap();
        let (number, told) = appended("streams: []\n");
        assert!(number == 0 && told[0].severity == Severity::Warning, "{told:?}");
        // What was written by hand stays as it is.
        state
            .write(
                &name(),
                b"streams:\n  - id: hand\n    url: rtsp://10.0.0.1/\n  - { id: \"gate\", url: \"rtsp://h/\" }\n",
            )
            .unwrap();
        assert!(without(&state, "hand").unwrap_err().contains("by hand"));
        assert!(without(&state, "gate").unwrap().unwrap().contains("id: hand"));
        // Also of the only one.
        state.write(&name(), b"streams:\n  - id: hand\n    url: rtsp://10.0.0.1/\n").unwrap();
        assert!(without(&state, "hand").unwrap_err().contains("by hand"));
        state.write(&name(), b"# mine\nstreams:\n  - { id: \"gate\", url: \"rtsp://h/\" }\n").unwrap();
        assert_eq!(without(&state, "gate").unwrap().as_deref(), Some("# mine\nstreams:\n"));
    }

    #[test]
    fn what_a_crash_has_left_of_a_password_is_removed() {
        let (_folder, state) = folder();
        state.write_private(&password_name("gate"), b"word").unwrap();
        let left = state.place(&password_name(".gate.0190a1b2-0000-7000-8000-000000000000.tmp"));
        std::fs::write(&left, "wo").unwrap();
        sweep_passwords(&state);
        assert!(!left.exists() && state.place(&password_name("gate")).exists());
    }

    #[test]
    fn of_two_with_one_id_the_first_runs() {
        let (_folder, state) = folder();
        let two = b"streams:\n  - { id: \"gate\", url: \"rtsp://a/\" }\n  - { id: \"gate\", url: \"rtsp://b/\" }\n  - { id: yard, url: \"rtsp://c/\" }\n";
        state.write(&name(), two).unwrap();
        let mut document = Document::parse(Path::new("x.yaml"), b"streams: []\n").unwrap();
        let told = append(&mut document, &state);
        assert!(told[0].severity == Severity::Warning && told[0].message.contains("`gate` further up"), "{told:?}");
        assert_eq!(list(&document).iter().filter_map(id).collect::<Vec<_>>(), ["gate", "yard"]);
    }
}
