//! `check` tries what `run` would open: the API's address, folders and files that are written, certificates; and leaves nothing behind,
//! neither a file nor a trace in a daemon that runs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::camera::free_port;
use crate::common::daemon::{Daemon, can_have_hosts, root, vtagd};

fn check(folder: &Path, text: &str) -> (Output, String) {
    let file = folder.join("vtagd.yaml");
    fs::write(&file, text).unwrap();
    let output = vtagd(folder).args(["check", "-c"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// Everything in a folder, and when it was changed.
fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        all.push(format!("{} {:?}", entry.path().display(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            all.extend(listing(&entry.path()));
        }
    }
    all.sort();
    all
}

const STREAM: &str = "model: { path: none }\nstreams: [{ id: a, url: 'rtsp://127.0.0.1:9/' }]\n";

#[test]
fn a_taken_port_and_an_address_of_nobody_are_told_at_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (listen, told) in [
        (format!("127.0.0.1:{port}"), "cannot be listened on (Address already in use"),
        // Set aside for documentation: no interface has it.
        ("192.0.2.1:8642".to_owned(), "no interface of this machine has that address"),
    ] {
        let token = "token: { env: VTAGD_TEST_ABSENT }";
        let (output, said) = check(folder.path(), &format!("{STREAM}api: {{ listen: '{listen}', {token} }}\n"));
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("vtagd.yaml:3:16: error: api.listen: ") && said.contains(told), "{said}");
    }
    // Whoever listens has not been called.
    taken.set_nonblocking(true).unwrap();
    assert!(taken.accept().is_err());
}

#[test]
fn what_cannot_be_written_is_told_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody makes files there, not even root.
    let (output, said) = check(
        folder.path(),
        &format!(
            "{STREAM}api: {{ listen: off }}\noutbox: {{ path: /proc/vtagd/outbox.db }}\nsnapshots: {{ path: /proc/pictures }}\n\
             sinks:\n  - {{ type: jsonl, path: /proc/vtagd/events.jsonl }}\n  - {{ type: jsonl, path: /proc/other.jsonl }}\n"
        ),
    );
    assert_eq!(output.status.code(), Some(2), "{said}");
    for told in [
        ":4:17: error: outbox.path: /proc cannot be written",
        ":5:20: error: snapshots.path: /proc cannot be written",
        ":7:26: error: sinks[0].path: /proc cannot be written",
        ":8:26: error: sinks[1].path: /proc cannot be written",
        "4 errors",
    ] {
        assert!(said.contains(told), "{told} is not in\n{said}");
    }
}

#[test]
fn what_can_be_made_is_not_made_by_check() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{STREAM}api: {{ listen: '127.0.0.1:0' }}\noutbox: {{ path: a/b/outbox.db }}\nsnapshots: {{ path: c/d }}\n\
         state: {{ path: f/state }}\n\
         sinks: [{{ type: jsonl, path: e/events.jsonl, max_size: 1MiB }}, {{ type: jsonl, path: there.jsonl, max_size: 1MiB }}]\n"
    );
    fs::write(folder.path().join("there.jsonl"), "").unwrap();
    fs::write(folder.path().join("vtagd.yaml"), &text).unwrap();
    let before = listing(folder.path()).len();
    let (output, said) = check(folder.path(), &text);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    assert_eq!(listing(folder.path()).len(), before, "{:?}", listing(folder.path()));
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told_once_and_not_for_all_that_lies_below_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("odd")).unwrap();
    // Where the lock should be.
    fs::create_dir(folder.path().join("odd/vtagd.lock")).unwrap();
    let missing = "/proc/vtagd cannot be written (".replace("/vtagd", "");
    for (path, told) in [("/proc/vtagd/state", &*missing), ("odd", "odd/vtagd.lock cannot be written (Is a directory")]
    {
        let text = format!(
            "{STREAM}api: {{ listen: off }}\nstate: {{ path: {path} }}\noutbox: {{ max_age: 1d }}\nsnapshots: {{}}\n"
        );
        let (output, said) = check(folder.path(), &text);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(":4:16: error: state.path: ") && said.contains(told) && said.contains("1 error,"),
            "{said}"
        );
        let run = vtagd(folder.path()).args(["run", "-c"]).arg(folder.path().join("vtagd.yaml")).output().unwrap();
        assert_eq!(run.status.code(), Some(2), "run says the same: {run:?}");
    }
}

#[test]
fn the_state_directory_of_another_daemon_is_told_and_that_of_the_own_one_is_not() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = folder.path().join("shared");
    let text = format!(
        "{STREAM}api: {{ listen: '127.0.0.1:0' }}\nstate: {{ path: {} }}\noutbox: {{ path: ':memory:' }}\n",
        state.display()
    );
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    let before = listing(&state);
    let (output, said) = check(folder.path(), &text);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(&format!("a daemon runs already (process {})", daemon.pid())), "{said}");
    let (output, said) = check(other.path(), &text);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let told = format!(":4:16: error: state.path: is in use by another daemon (process {}, of ", daemon.pid());
    assert!(said.contains(&told) && said.contains("1 error,"), "{said}");
    assert_eq!(listing(&state), before);
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    assert_eq!(check(other.path(), &text).0.status.code(), Some(0));
}

#[test]
fn certificates_that_do_not_fit_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        fs::write(folder.path().join(format!("{name}.crt")), made.cert.pem()).unwrap();
        fs::write(folder.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    fs::write(folder.path().join("no.pem"), "nothing of the kind\n").unwrap();
    let (output, said) = check(
        folder.path(),
        &format!(
            "{STREAM}api: {{ listen: off }}\noutbox: {{ path: ':memory:' }}\nsinks:\n\
             \x20 - {{ type: mqtt, url: 'mqtts://127.0.0.1:9', cert: one.crt, key: two.key }}\n\
             \x20 - {{ type: webhook, url: 'https://127.0.0.1:9/', ca: no.pem }}\n\
             \x20 - {{ type: nats, url: 'tls://127.0.0.1:9', ca: one.crt, cert: two.crt, key: two.key }}\n"
        ),
    );
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(":6:53: error: sinks[0].cert: ") && said.contains("cannot be used together"), "{said}");
    assert!(said.contains(":7:55: error: sinks[1].ca: ") && said.contains("no.pem: holds no certificate"), "{said}");
    assert!(said.contains("2 errors"), "{said}");
}

#[test]
fn a_daemon_of_the_same_configuration_is_told_and_not_disturbed() {
    for outbox in ["outbox.db", ":memory:"] {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let text = format!(
            "{STREAM}api: {{ listen: '127.0.0.1:{port}' }}\noutbox: {{ path: '{outbox}' }}\nsnapshots: {{ path: pictures }}\n\
             sinks: [{{ type: jsonl, path: events.jsonl }}]\n"
        );
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon.wait_ready();
        let (output, said) = check(folder.path(), &text);
        assert_eq!(output.status.code(), Some(0), "{outbox}: {said}");
        assert!(said.contains("note: ") && said.contains("a daemon runs already (process "), "{outbox}: {said}");
        // A second daemon of another file is another matter.
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        let text = text.replace("outbox.db", "../outbox.db");
        let (output, said) = check(&other, &text);
        assert_eq!(output.status.code(), Some(2), "{outbox}: {said}");
        assert!(said.contains("error: api.listen: "), "{said}");
        assert_eq!(said.contains("error: outbox.path: is in use by another daemon"), outbox != ":memory:", "{said}");
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    }
}

/// As with what is laid out beside the configuration in force, and only put in its place once nothing is wrong with it.
#[test]
fn what_is_to_replace_a_configuration_is_not_in_the_way_of_its_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (place, own_port) = (folder.path().display(), free_port());
    let text = format!(
        "{STREAM}api: {{ listen: '127.0.0.1:{own_port}' }}\nstate: {{ path: '{place}/state' }}\noutbox: {{ path: '{place}/outbox.db' }}\n\
         sinks: [{{ type: jsonl, path: '{place}/events.jsonl' }}]\n"
    );
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    let next = folder.path().join(".next");
    fs::create_dir(&next).unwrap();
    let (output, said) = check(&next, &text);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for field in ["state.path", "outbox.path", "api.listen"] {
        assert!(said.contains(&format!("error: {field}: ")), "{field}: {said}");
    }
    let in_force = folder.path().join("vtagd.yaml");
    let mut command = vtagd(&next);
    let output = command.args(["check", "-c"]).arg(next.join("vtagd.yaml")).arg("--instead-of").arg(&in_force).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("a daemon runs already (process "), "{said}");
    // What another program holds is not the daemon's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(next.join("vtagd.yaml"), text.replace(&format!(":{own_port}'"), &format!(":{port}'"))).unwrap();
    let mut command = vtagd(&next);
    let output = command.args(["check", "-c"]).arg(next.join("vtagd.yaml")).arg("--instead-of").arg(&in_force).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("error: api.listen: "), "{said}");
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    // The play does so.
    let play = fs::read_to_string(root().join("ops/ansible/vtagd.yaml")).unwrap();
    assert!(play.contains("vtagd check -c {{ vtagd_next }}/vtagd.yaml --instead-of {{ vtagd_etc }}/vtagd.yaml\n"));
}

#[test]
fn root_tries_what_the_unit_names_as_the_user_of_the_unit() {
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 || !can_have_hosts() {
        println!("skipped: this needs root and mounts");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["units", "units/vtagd.service.d", "mine", "roots"] {
        fs::create_dir(at(name)).unwrap();
    }
    let file = at("vtagd.yaml");
    let unit = fs::read_to_string(root().join("systemd/vtagd.service")).unwrap();
    let unit = unit.replace("/etc/vtagd/vtagd.yaml", file.to_str().unwrap());
    fs::write(at("units/vtagd.service"), unit).unwrap();
    fs::write(at("units/vtagd.service.d/user.conf"), "[Service]\nUser=watcher\n").unwrap();
    fs::write(at("passwd"), "root:x:0:0::/root:/bin/sh\nwatcher:x:64321:64321::/:/usr/sbin/nologin\n").unwrap();
    std::os::unix::fs::chown(at("mine"), Some(64321), Some(64321)).unwrap();
    fs::write(at("token"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(at("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let run = |outbox: &str| {
        fs::write(
            &file,
            format!(
                "{STREAM}api: {{ listen: '127.0.0.1:0', token: {{ file: token }} }}\noutbox: {{ path: {outbox} }}\n"
            ),
        )
        .unwrap();
        let mut command = Command::new("unshare");
        let mounts =
            "mount --bind \"$0/units\" /etc/systemd/system && mount --bind \"$0/passwd\" /etc/passwd && exec \"$@\"";
        command.args(["--mount", "sh", "-c", mounts]).arg(folder.path()).arg(env!("CARGO_BIN_EXE_vtagd"));
        for name in ["INVOCATION_ID", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"] {
            command.env_remove(name);
        }
        let output = command.args(["check", "-c"]).arg(&file).env("VTAGD_CACHE", at("cache")).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run("roots/outbox.db");
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("files were tried as watcher, the user of vtagd.service; what ProtectHome=, ProtectSystem= "),
        "{said}"
    );
    assert!(
        said.contains("error: outbox.path: ") && said.contains("roots cannot be written (Permission denied"),
        "{said}"
    );
    assert!(
        said.contains("warning: api.token: ") && said.contains("token cannot be read (Permission denied"),
        "{said}"
    );
    let (code, said) = run("mine/outbox.db");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((fs::read_dir(at("mine")).unwrap().count(), fs::read_dir(at("roots")).unwrap().count()), (0, 0));
}
