//! `vtagd status` beside a real daemon: a table, JSON, a terminal that is written anew, and what it says where nobody answers.

use std::io::Read;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::common::daemon::{Daemon, eventually, root, vtagd, without_numbers};
use crate::common::terminal;
use serde_json::Value;

const TOKEN: &str = "marked-token-0123456789abcdef";

/// Each look is some requests, and who looks again and again is told to come back in a second.
fn status(folder: &Path, arguments: &[&str]) -> Output {
    eventually("the API takes requests again", || {
        let output = vtagd(folder).arg("status").args(arguments).output().unwrap();
        let refused = String::from_utf8_lossy(&output.stderr).contains("too many requests");
        if refused {
            std::thread::sleep(Duration::from_secs(1));
        }
        (!refused).then_some(output)
    })
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn start(folder: &Path, token: &str) -> Daemon {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let config = format!(
        "streams:\n  - {{ id: gate, url: \"file://{}\", loop: true, sampling: {{ interval: 200ms }} }}\n\
         \x20 - {{ id: away, url: \"rtsp://127.0.0.1:9/\" }}\n  - {{ id: off, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\n\
         labels: [{}]\nevents: {{ after: 0s, cooldown: 0s }}\n\
         sinks:\n  - {{ type: jsonl, path: events.jsonl, name: lines }}\n  - {{ type: webhook, url: \"http://127.0.0.1:9/\", name: hook }}\n\
         outbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0{token} }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    Daemon::start(folder, &config)
}

#[test]
fn streams_model_and_sinks_are_shown_as_a_table_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), ", token: { file: token }");
    let url = daemon.url();
    // The port was the system's choice; a copy of the configuration has it.
    let file = folder.path().join("copy.yaml");
    let text = std::fs::read_to_string(folder.path().join("vtagd.yaml")).unwrap();
    std::fs::write(&file, text.replace("127.0.0.1:0", url.strip_prefix("http://").unwrap())).unwrap();
    let file = file.to_str().unwrap().to_owned();

    let seen: Value = eventually("tags, an outage and something that waits", || {
        let output = status(folder.path(), &["-c", &file, "--json"]);
        assert!(output.status.success(), "{output:?}");
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = |list: &str, key: &str, name: &str| {
            seen[list].as_array().unwrap().iter().find(|row| row[key] == name).cloned().unwrap_or_default()
        };
        let tagged = row("streams", "id", "gate")["tags"].as_array().is_some_and(|tags| !tags.is_empty());
        let down = row("streams", "id", "away")["error"].is_string();
        let waits = row("sinks", "name", "hook")["pending"].as_u64() > Some(0)
            && row("sinks", "name", "hook")["why"].is_string();
        (tagged && down && waits).then_some(seen)
    });
    assert_eq!(
        (seen["ready"].as_bool(), seen["model"].as_str(), seen["provider"].as_str()),
        (Some(true), Some("starter"), Some("cpu"))
    );
    assert_eq!(seen["inference"]["max_size"], 8);
    assert_eq!(seen["url"], url);

    let table = eventually("the camera that is away is not being tried again just now", || {
        let output = status(folder.path(), &["-c", &file]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let table = told(&output.stdout);
        table.contains("away: stream away").then_some(table)
    });
    for part in
        ["ready: model is warm", "model: starter on cpu, batch 8", "stream  state", "off     switched off", "hook: "]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains('\u{1b}'), "{table}");
    // The whole of it, as a person reads it, but for what moves: when the last frame came, what it shows, whether a sink tries again.
    let still = |line: &str| match line.split_once(' ') {
        Some((name @ ("gate" | "lines" | "hook"), _)) => format!("{name} …"),
        _ => line.to_owned(),
    };
    let table: Vec<_> = without_numbers(&table).lines().map(still).collect();
    insta::assert_snapshot!("status", table.join("\n"));

    // The address by hand: a token is needed, and where it comes from is never an argument of its own.
    let output = status(folder.path(), &["--url", &url]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(told(&output.stderr).contains("--token-file"), "{output:?}");
    let token = folder.path().join("token");
    let output = status(folder.path(), &["--url", &url, "--token-file", token.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let mut command = vtagd(folder.path());
    let output =
        command.args(["status", "--url", &url, "--token-env", "MARKED"]).env("MARKED", "wrong-token").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        told(&output.stderr).contains("another token") && !told(&output.stderr).contains("wrong-token"),
        "{output:?}"
    );

    // No terminal, no pictures of one.
    let output = status(folder.path(), &["-c", &file, "--watch"]);
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{output:?}");
    assert!(told(&output.stderr).contains("needs a terminal"), "{output:?}");

    daemon.stop();
    let output = status(folder.path(), &["-c", &file]);
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{output:?}");
    let error = told(&output.stderr);
    assert!(error.contains("nobody answers at") && error.contains("is the daemon running?"), "{error}");
    assert!(error.contains("api.listen") && error.contains("copy.yaml"), "{error}");
}

#[test]
fn what_cannot_be_asked_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    let path = file.to_str().unwrap();
    for (text, told_) in [
        ("api: { listen: off }\n", "the API is off"),
        ("api: { listen: 127.0.0.1:0 }\n", "--url"),
        ("api: { token: { env: VTAGD_TEST_NOT_SET } }\n", "VTAGD_TEST_NOT_SET is not set"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = status(folder.path(), &["-c", path]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(told(&output.stderr).contains(told_), "{output:?}");
    }
    let output = status(folder.path(), &["-c", "/no/such/file.yaml"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(told(&output.stderr).contains("/no/such/file.yaml"), "{output:?}");
    let output = status(folder.path(), &["--url", "ftp://127.0.0.1"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // Nobody has these names.
    for (urls, warned) in [
        (&["http://box-1.invalid:1"][..], 1),
        (&["http://box-1.invalid:1", "https://box-2.invalid:1", "http://box-3.invalid:1", "http://127.0.0.1:1"], 2),
    ] {
        let named = urls.iter().flat_map(|url| ["--url", url]);
        let mut command = vtagd(folder.path());
        let output = command
            .arg("status")
            .args(named)
            .args(["--token-env", "MARKED"])
            .env("MARKED", "hunter2")
            .output()
            .unwrap();
        let said = told(&output.stderr);
        assert_eq!(said.matches("without encryption").count(), warned, "{said}");
        assert!(output.status.code() == Some(1) && !said.contains("hunter2"), "{output:?}");
    }
    let output = status(folder.path(), &["--url", "http://box-1.invalid:1"]);
    assert!(!told(&output.stderr).contains("without encryption"), "no token, no warning: {output:?}");

    // Something else that listens there.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"220 mail.example ready\r\n").unwrap();
    });
    let output = status(folder.path(), &["--url", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(told(&output.stderr).contains("does not answer as vtagd does"), "{output:?}");
    talker.join().unwrap();
}

#[test]
fn what_answers_has_no_say_about_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        // An answer before there is a question is none.
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        let body = r#"{"error":"MARKED\u001b]0;a title\u0007\u001b[2J\u009b2Jend"}"#;
        let length = body.len();
        let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        // Until the other side has read it.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = status(folder.path(), &["--url", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = told(&output.stderr);
    assert!(said.contains("MARKED") && said.contains("end"), "{said:?}");
    assert!(!said.trim_end().contains(char::is_control), "{said:?}");
    talker.join().unwrap();
}

#[test]
fn on_a_terminal_it_shows_again_and_again_and_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), "");
    let url = daemon.url();
    daemon.wait_ready();
    let (ours, theirs) = terminal::open(60);
    let mut command = vtagd(folder.path());
    command.args(["status", "--url", &url, "--watch"]).stdin(Stdio::null()).stdout(theirs).stderr(Stdio::null());
    let mut child = command.env("TERM", "xterm").spawn().unwrap();
    drop(command);
    let (seen, reader) = terminal::read(ours);
    let screens = |text: &str| text.matches("\u{1b}[H").count();
    loop {
        let text = seen.recv_timeout(crate::common::daemon::DEADLINE).expect("it goes on");
        if screens(&text) >= 3 {
            break;
        }
    }
    // Ctrl-C.
    // SAFETY: plain system call on a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) }, 0);
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    let all = reader.join().unwrap();
    assert!(all.starts_with("\u{1b}[?1049h\u{1b}[?25l") && all.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{all:?}");
    let screen = all.split("\u{1b}[H").nth(1).unwrap();
    assert!(screen.contains("stream") && screen.contains("more lines"), "{screen:?}");
    assert!(screen.matches('\n').count() < 10, "{screen:?}");
    assert!(daemon.stop().code() == Some(0) || daemon.log().contains("events could not be delivered"));
}

#[test]
fn a_dumb_terminal_is_told_one_look_after_the_other_without_a_sequence_that_it_would_show() {
    // Nobody answers, and may come back.
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = terminal::open(200);
    let mut command = vtagd(folder.path());
    command.args(["status", "--url", "http://127.0.0.1:9", "--watch"]).stdin(Stdio::null()).stdout(theirs);
    let mut child = command.stderr(Stdio::null()).env("TERM", "dumb").spawn().unwrap();
    drop(command);
    let (seen, reader) = terminal::read(ours);
    while seen.recv_timeout(crate::common::daemon::DEADLINE).expect("it goes on").matches("nobody answers").count() < 2
    {
    }
    // SAFETY: plain system call on a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) }, 0);
    assert!(eventually("it ends", || child.try_wait().unwrap()).success());
    let all = reader.join().unwrap();
    assert!(!all.contains('\u{1b}'), "{all:?}");
}

#[test]
fn the_address_may_come_from_the_environment_as_that_of_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vtagd.yaml");
    std::fs::write(&file, "api: { listen: 'off' }\n").unwrap();
    let ask = |listen: &str| {
        let output = vtagd(folder.path()).args(["status", "-c"]).arg(&file).env("VTAGD__API__LISTEN", listen).output();
        output.map(|output| (output.status.code(), told(&output.stderr))).unwrap()
    };
    let (code, said) = ask("127.0.0.1:9");
    assert!(code == Some(1) && said.contains("nobody answers at http://127.0.0.1:9"), "{said}");
    let (code, said) = ask("here");
    assert!(code == Some(2) && said.contains("VTAGD__API__LISTEN: error: api.listen: is not an IP"), "{said}");
}
