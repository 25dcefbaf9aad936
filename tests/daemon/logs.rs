//! The log of the real daemon: the journal with fields where stderr goes there, lines elsewhere; repeats summed up; the level changed
//! while it runs. The journal is a socket of the test's own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::daemon::{DEADLINE, Daemon, eventually, root, vtagd};
use crate::common::flicker;
use crate::common::hook::{Hook, Reply};
use crate::common::terminal;
use vtagd::logs::{self, LevelFrom, LogFormat};
use vtagd::platform::secret::Secret;

type Entry = BTreeMap<String, String>;

/// A journal that keeps what it is sent.
struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
    entries: Vec<Entry>,
}

impl Journal {
    fn start(folder: &Path) -> Self {
        let path = folder.join("journal");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self { path, socket, entries: Vec::new() }
    }

    /// The first entry that `fits`, once there is one.
    fn wait_for(&mut self, what: &str, fits: impl Fn(&Entry) -> bool) -> Entry {
        eventually(what, || {
            let mut bytes = vec![0; 1 << 18];
            while let Ok(length) = self.socket.recv(&mut bytes) {
                self.entries.push(entry(&bytes[..length]));
            }
            self.entries.iter().find(|entry| fits(entry)).cloned()
        })
    }
}

/// Reads an entry as systemd's "Native Journal Protocol" says.
fn entry(mut bytes: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a field ends");
        let line = std::str::from_utf8(&bytes[..end]).unwrap();
        let (name, value);
        if let Some((before, after)) = line.split_once('=') {
            (name, value) = (before, after.to_owned());
            bytes = &bytes[end + 1..];
        } else {
            let (length, rest) = bytes[end + 1..].split_at(8);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
            (name, value) = (line, String::from_utf8(rest[..length].to_vec()).unwrap());
            assert_eq!(rest[length], b'\n');
            bytes = &rest[length + 1..];
        }
        let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(fits), "{name}");
        entry.insert(name.to_owned(), value);
    }
    entry
}

/// Two cameras that are not there, and a file to read again.
fn config(log: &str) -> String {
    format!(
        "model: {{ path: none }}\nreconnect: {{ first: 60s }}\nstreams:\n\
         \x20 - {{ id: gate, url: 'rtsp://127.0.0.1:9/' }}\n  - {{ id: dock, url: 'rtsp://127.0.0.1:9/' }}\n\
         api: {{ listen: 127.0.0.1:0 }}\nlog: {log}\n"
    )
}

/// As systemd starts a service whose standard error goes to the journal.
fn started_by_systemd(folder: &Path, journal: &Journal, log: &str) -> Daemon {
    // The daemon's stderr will be this file, emptied.
    let stderr = File::create(folder.join("stderr")).unwrap().metadata().unwrap();
    let stream = format!("{}:{}", stderr.dev(), stderr.ino());
    let env = [("JOURNAL_STREAM", stream), ("VTAGD_JOURNAL_SOCKET", journal.path.display().to_string())];
    Daemon::start_with_env(folder, &config(log), &env)
}

#[test]
fn where_stderr_is_the_journal_events_go_there_with_their_fields() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::start(folder.path());
    let mut daemon = started_by_systemd(folder.path(), &journal, "{ level: info }");
    for stream in ["gate", "dock"] {
        let down = journal.wait_for("the camera is found to be away", |entry| {
            entry.get("STREAM").is_some_and(|s| s == stream) && entry["MESSAGE"].starts_with("the stream is down")
        });
        assert_eq!((down["PRIORITY"].as_str(), down["SYSLOG_IDENTIFIER"].as_str()), ("4", "vtagd"));
        assert_eq!(down["TARGET"], "vtagd::source");
        assert!(
            down["CODE_FILE"].ends_with("src/source/mod.rs") && down["CODE_LINE"].parse::<u32>().is_ok(),
            "{down:?}"
        );
        assert!(down["ERROR"].contains("nobody listens on its port"), "{down:?}");
        assert!(down["MESSAGE"].contains(&format!("stream={stream} ")), "people see the fields too: {down:?}");
    }
    let ready = journal.wait_for("it is ready", |entry| entry["MESSAGE"].starts_with("ready"));
    assert_eq!(ready["PRIORITY"], "6");
    assert_eq!(daemon.log(), "", "nothing is told twice");

    // The journal goes away: lines are better than nothing.
    fs::remove_file(&journal.path).unwrap();
    drop(journal);
    daemon.signal(libc::SIGHUP);
    eventually("a line with its priority", || {
        daemon.log().lines().any(|line| line.starts_with("<6>reading the configuration again")).then_some(())
    });
    assert!(daemon.stop().success());
}

#[test]
fn the_configuration_may_ask_for_lines_all_the_same_and_for_the_journal_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::start(folder.path());
    let mut daemon = started_by_systemd(folder.path(), &journal, "{ format: json }");
    daemon.wait_for_log("the stream is down");
    let line = daemon.log().lines().find(|line| line.contains("the stream is down")).unwrap().to_owned();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(line["level"] == "WARN" && line["stream"].is_string(), "{line}");
    assert!(daemon.stop().success());
    assert!(journal.socket.recv(&mut [0; 16]).is_err(), "the journal gets nothing");

    let daemon_of = |env: &[(&str, &Path)]| Daemon::start_with_env(folder.path(), &config("{ format: journal }"), env);
    let mut daemon = daemon_of(&[("VTAGD_JOURNAL_SOCKET", &journal.path)]);
    journal.wait_for("it is ready", |entry| entry["MESSAGE"].starts_with("ready"));
    assert!(daemon.stop().success());
    assert_eq!(daemon.log(), "");
    let mut daemon = daemon_of(&[("VTAGD_JOURNAL_SOCKET", &folder.path().join("nobody"))]);
    daemon.wait_for_log("the journal cannot be reached");
    daemon.wait_for_log(" ready ");
    assert!(daemon.stop().success());
}

#[test]
fn the_level_follows_the_configuration_at_a_reload_unless_the_command_line_has_said_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &config("{ level: warn }"));
    daemon.wait_for_log("the stream is down");
    assert!(!daemon.log().contains("INFO"), "{}", daemon.log());
    fs::write(folder.path().join("vtagd.yaml"), config("{ level: debug }")).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the log's level changes from=WARN to=DEBUG");
    daemon.wait_for_log("the new configuration runs");
    assert!(!daemon.log().contains("only after a restart"), "{}", daemon.log());
    fs::write(folder.path().join("vtagd.yaml"), config("{ level: error }")).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the log's level changes from=DEBUG to=ERROR");
    let quiet = daemon.log();
    assert!(daemon.stop().success());
    let after = daemon.log()[quiet.len()..].to_owned();
    assert!(!after.contains(" INFO ") && !after.contains(" DEBUG "), "{after}");

    let mut daemon = Daemon::start_with_env(folder.path(), &config("{ level: warn }"), &[("VTAGD_LOG", "info")]);
    daemon.wait_for_log(" ready ");
    fs::write(folder.path().join("vtagd.yaml"), config("{ level: debug }")).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("`log.level` has no effect: -v or VTAGD_LOG says how much is told");
    daemon.wait_for_log("the new configuration runs");
    assert!(daemon.stop().success());
    assert!(!daemon.log().contains(" DEBUG "), "{}", daemon.log());
}

#[test]
fn what_repeats_is_told_once_and_counted_to_the_last() {
    const TIMES: u64 = 5;
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &config("{ level: info }"));
    daemon.wait_for_log("stream=dock");
    daemon.wait_for_log("stream=gate");
    fs::write(folder.path().join("vtagd.yaml"), "nonsense: 1\n").unwrap();
    for number in 1..=TIMES {
        daemon.signal(libc::SIGHUP);
        eventually("it is refused", || {
            let refused = format!("vtagd_config_reloads_total{{result=\"refused\"}} {number}");
            daemon.get("/metrics").1.contains(&refused).then_some(())
        });
    }
    assert!(daemon.stop().success());
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("the old configuration stays")).collect();
    let of_summary = |line: &str| -> Option<u64> {
        Some(line.split("(repeated ").nth(1)?.split(' ').next()?.parse().expect("a number"))
    };
    let told = lines.iter().filter(|line| of_summary(line).is_none()).count() as u64;
    let counted: u64 = lines.iter().filter_map(|line| of_summary(line)).sum();
    assert_eq!(told + counted, TIMES, "{log}");
    assert!(counted >= 1 && lines.iter().all(|line| line.contains("ERROR")), "{log}");
    // Two streams with the same trouble are two lines.
    for stream in ["gate", "dock"] {
        let of_stream = |line: &&str| line.contains("the stream is down") && line.contains(&format!("stream={stream}"));
        assert_eq!(log.lines().filter(of_stream).count(), 1, "{log}");
    }
}

#[test]
fn a_panic_is_told_without_its_credentials_and_in_one_piece() {
    const CHILD: &str = "VTAGD_TEST_PANICS";
    if std::env::var_os(CHILD).is_some() {
        logs::init(LevelFrom::CommandLine("info"), LogFormat::Text);
        let secret = Secret::new("Zq7panicXk9");
        let stage = std::thread::Builder::new().name("stage".to_owned());
        let stage = stage.spawn(move || panic!("a library says\n{}", secret.expose())).unwrap();
        assert!(stage.join().is_err());
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "logs::a_panic_is_told_without_its_credentials_and_in_one_piece", "--nocapture"]);
    let output = command.env(CHILD, "1").env_remove("RUST_BACKTRACE").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("ERROR thread `stage` panicked at tests/daemon/logs.rs:"), "{said}");
    assert!(said.contains(":\n    a library says\n    ***\n") && !said.contains("Zq7"), "{said}");
}

#[test]
fn a_filter_that_is_none_is_told_and_the_configuration_counts() {
    let folder = tempfile::tempdir().unwrap();
    let daemon_of =
        |asked: &str| Daemon::start_with_env(folder.path(), &config("{ level: info }"), &[("VTAGD_LOG", asked)]);
    let mut daemon = daemon_of("inof");
    daemon.wait_for_log("VTAGD_LOG is no filter and is not used");
    daemon.wait_for_log(" ready ");
    assert!(daemon.stop().success());
    let mut daemon = daemon_of("");
    daemon.wait_for_log(" ready ");
    assert!(daemon.stop().success());
    assert!(!daemon.log().contains("no filter"), "{}", daemon.log());
}

/// Numbers with a unit of time, or of fields called `seconds`, that have more digits than anybody reads.
fn too_exact(log: &str) -> Vec<&str> {
    let exact = |word: &&str| {
        let Some((field, value)) = word.split_once('=') else { return false };
        let unit = value.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = &value[..value.len() - unit.len()];
        let time = ["s", "ms", "µs", "ns"].contains(&unit) || field == "seconds" && unit.is_empty();
        time && number.contains('.') && number.bytes().filter(u8::is_ascii_digit).skip_while(|d| *d == b'0').count() > 3
    };
    log.split_whitespace().filter(exact).collect()
}

#[test]
fn colours_are_for_terminals_that_want_them_and_times_for_people() {
    assert_eq!(
        too_exact("a=1.2345s b=1.23s c=951.549236ms d=2.5 seconds=0.5415096 seconds=0.542"),
        ["a=1.2345s", "c=951.549236ms", "seconds=0.5415096"]
    );
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "streams:\n  - {{ id: gate, url: \"file://{}\", loop: true, sampling: {{ interval: 200ms }} }}\n  - {{ id: away, url: \"rtsp://127.0.0.1:9/\" }}\n\
         labels: [{}]\nevents: {{ after: 0s, cooldown: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: \":memory:\" }}\napi: {{ listen: off }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    fs::write(folder.path().join("vtagd.yaml"), config).unwrap();
    for (term, no_color, coloured) in
        [("xterm", None, true), ("xterm", Some(""), true), ("xterm", Some("1"), false), ("dumb", None, false)]
    {
        let (ours, theirs) = terminal::open(200);
        let mut command = vtagd(folder.path());
        command.arg("run").arg("-c").arg(folder.path().join("vtagd.yaml")).stdin(Stdio::null());
        command.stdout(theirs.try_clone().unwrap()).stderr(theirs).env("TERM", term).env_remove("NO_COLOR");
        command.envs(no_color.map(|value| ("NO_COLOR", value)));
        let mut child = command.spawn().unwrap();
        drop(command);
        let (seen, reader) = terminal::read(ours);
        // A log line with a time, and an event.
        loop {
            let all = seen.recv_timeout(DEADLINE).expect("it goes on");
            if all.contains("trying again later") && all.contains('▶') && all.contains("image tower warm") {
                break;
            }
        }
        // The second stops at once.
        for _ in 0..2 {
            // SAFETY: plain system call on a process that this test started and has not waited for.
            unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
        }
        child.wait().unwrap();
        let all = reader.join().unwrap();
        for marked in ["\u{1b}[32m▶", "\u{1b}[32m INFO"] {
            assert_eq!(all.contains(marked), coloured, "{term} {no_color:?} {marked:?}: {all:?}");
        }
        assert_eq!(all.contains('\u{1b}'), coloured, "{term} {no_color:?}: {all:?}");
        assert_eq!(too_exact(&all), [] as [&str; 0], "{all}");
    }
}

/// Level and target of every line of a log in JSON.
fn told(daemon: &Daemon) -> Vec<(String, String)> {
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let line = |line: &str| -> (String, String) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        (word(&line["level"]), word(&line["target"]))
    };
    daemon.log().lines().map(line).collect()
}

#[test]
fn the_http_client_of_a_webhook_tells_no_more_than_was_asked_for_and_never_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let hook = Hook::start(|_, _| Reply::Status(204, ""));
    let away = crate::common::camera::free_port();
    let streams = flicker::config(folder.path(), 1, 1);
    let config = |level: &str| {
        format!(
            "{streams}log: {{ level: {level}, format: json }}\noutbox: {{ path: outbox.db }}\nsinks:\n  - {{ type: webhook, url: \"{}\" }}\n\
             \x20 - {{ type: webhook, name: away, url: \"http://127.0.0.1:{away}/\" }}\n",
            hook.url()
        )
    };
    for (level, asked) in [("info", None), ("error", None), ("info", Some("trace"))] {
        let before = hook.count();
        let env: Vec<(&str, &str)> = asked.map(|asked| ("VTAGD_LOG", asked)).into_iter().collect();
        let mut daemon = Daemon::start_with_env(folder.path(), &config(level), &env);
        eventually("events are sent", || (hook.count() > before + 20).then_some(()));
        daemon.signal(libc::SIGHUP);
        eventually("more events are sent", || (hook.count() > before + 40).then_some(()));
        daemon.stop_cleanly();
        let told = told(&daemon);
        let http = |level: &str| told.iter().any(|(l, target)| l == level && target.starts_with("ureq"));
        let count = |level: &str| told.iter().filter(|(l, _)| l == level).count();
        match (level, asked) {
            ("info", None) => assert!(count("INFO") > 0 && count("DEBUG") + count("TRACE") == 0, "{}", daemon.log()),
            ("error", None) => assert_eq!(count("ERROR"), told.len(), "{}", daemon.log()),
            _ => {
                assert!(http("DEBUG") && count("TRACE") > 0, "everything is told");
                let bytes = told.iter().any(|(l, target)| l == "TRACE" && target.starts_with("ureq_proto"));
                assert!(!bytes, "{}", daemon.log());
            }
        }
    }
}
