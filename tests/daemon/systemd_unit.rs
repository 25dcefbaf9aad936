//! The unit as systemd sees it: how much it may do, whether every line of it is understood once installed, and what a reload tells.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::daemon::{DEADLINE, eventually, root, vtagd};

fn systemd_analyze(arguments: &[&str]) -> Output {
    let found = Command::new("systemd-analyze").env("LC_ALL", "C").arg("--no-pager").args(arguments).output();
    found.expect("systemd-analyze is needed: install the package systemd, or run make setup")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn unit() -> String {
    root().join("systemd/vtagd.service").display().to_string()
}

#[test]
fn the_unit_is_exposed_no_more_than_fifteen_tenths() {
    let output = systemd_analyze(&["security", "--offline=yes", "--threshold=15", &unit()]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("Overall exposure level for vtagd.service"), "{}", told(&output));
}

#[test]
fn the_unit_makes_the_state_directory_and_may_not_write_where_people_do() {
    let text = fs::read_to_string(unit()).unwrap();
    for line in ["StateDirectory=vtagd", "StateDirectoryMode=0750", "ProtectSystem=strict"] {
        assert!(text.lines().any(|there| there == line), "{line}");
    }
}

#[test]
fn a_unit_without_its_limits_would_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("vtagd.service");
    fs::write(&bare, "[Service]\nUser=vtagd\nExecStart=/usr/bin/vtagd run\n").unwrap();
    let output = systemd_analyze(&["security", "--offline=yes", "--threshold=15", &bare.display().to_string()]);
    assert!(!output.status.success(), "{}", told(&output));
}

/// What `systemd-analyze verify` says about the unit where everything lies as `make install` and the package put it. It looks for
/// the programs of a unit on the real file system, so `/usr/bin/vtagd` is the binary under test here; nothing else differs.
fn verify(change: impl FnOnce(String) -> String, drop_in: Option<&Path>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(unit()).unwrap().replace("/usr/bin/vtagd", env!("CARGO_BIN_EXE_vtagd"));
    let file = folder.path().join("vtagd.service");
    fs::write(&file, change(text)).unwrap();
    if let Some(drop_in) = drop_in {
        let drop_ins = folder.path().join("vtagd.service.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::copy(drop_in, drop_ins.join("10-test.conf")).unwrap();
    }
    systemd_analyze(&["verify", "--man=no", "--recursive-errors=no", &file.display().to_string()])
}

#[test]
fn systemd_understands_every_line_of_the_unit_and_of_the_drop_in_for_nvidia() {
    for drop_in in [None, Some(root().join("systemd/nvidia.conf"))] {
        let output = verify(|text| text, drop_in.as_deref());
        assert!(output.status.success() && told(&output).trim().is_empty(), "{drop_in:?}: {}", told(&output));
    }
}

/// A unit's limits on devices count for all of its commands, whatever stands before them: what makes devices has a unit of its own.
#[test]
fn the_unit_that_makes_devices_of_nvidia_is_understood_and_wanted() {
    let unit = root().join("systemd/vtagd-nvidia.service");
    let output = systemd_analyze(&["verify", "--man=no", "--recursive-errors=no", &unit.display().to_string()]);
    // The tool need not be here.
    let said = told(&output).lines().filter(|line| !line.contains("nvidia-modprobe")).collect::<String>();
    assert!(said.trim().is_empty(), "{said}");
    let drop_in = fs::read_to_string(root().join("systemd/nvidia.conf")).unwrap();
    for line in ["After=vtagd-nvidia.service", "Wants=vtagd-nvidia.service"] {
        assert!(drop_in.lines().any(|one| one == line), "{line}");
    }
    assert!(!drop_in.contains("ExecStartPre"));
}

#[test]
fn a_line_that_systemd_does_not_understand_is_found() {
    let output = verify(|text| text.replace("[Service]", "[Service]\nWatchdogSecond=60s"), None);
    assert!(told(&output).contains("WatchdogSecond"), "{}", told(&output));
}

#[test]
fn an_installation_elsewhere_names_its_own_places() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, into) = (folder.path().join("a tree"), folder.path().join("in to"));
    for part in ["tools", "systemd", "config", "pipelines", "ops", "docs", "examples"] {
        fs::create_dir_all(&tree).unwrap();
        let copied = Command::new("cp").arg("-r").arg(root().join(part)).arg(&tree).status().unwrap();
        assert!(copied.success());
    }
    // What is built and fetched is not what this is about.
    for (file, mode) in [
        ("target/release/vtagd", 0o755),
        ("runtime/libonnxruntime.so", 0o644),
        ("runtime/LICENSE.onnxruntime", 0o644),
        ("runtime/ThirdPartyNotices.onnxruntime.txt", 0o644),
        ("models/starter/config.json", 0o644),
        ("LICENSE", 0o644),
        ("README.md", 0o644),
        ("CHANGELOG.md", 0o644),
    ] {
        let file = tree.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    // It writes its own manual pages and completions.
    let built = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_vtagd"));
    fs::write(tree.join("target/release/vtagd"), built).unwrap();
    let install_into = |destination: &Path, prefix: &str, etc: &str| {
        let mut command = Command::new(tree.join("tools/install.sh"));
        command.env("DESTDIR", destination).env("PREFIX", prefix).env("SYSCONFDIR", etc);
        let output = command.env("UNITDIR", format!("{prefix}/lib/systemd/system")).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
    };
    let install = |prefix: &str, etc: &str| {
        install_into(&into, prefix, etc);
        let read = |file: &str| fs::read_to_string(into.join(file)).unwrap();
        let prefix = prefix.trim_start_matches('/');
        (
            read(&format!("{prefix}/lib/systemd/system/vtagd.service")),
            read(&format!("{prefix}/lib/tmpfiles.d/vtagd.conf")),
        )
    };
    let ours = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    assert_eq!(install("/usr", "/etc"), (ours("systemd/vtagd.service"), ours("systemd/vtagd.tmpfiles")));
    let (unit, folders) = install("/opt/a&b", "/opt/etc");
    assert!(unit.contains("ExecStart=/opt/a&b/bin/vtagd run -c /opt/etc/vtagd/vtagd.yaml\n"), "{unit}");
    assert!(unit.contains("\nExecStartPre=-/opt/a&b/bin/vtagd check -c /opt/etc/vtagd/vtagd.yaml\n"), "{unit}");
    assert!(folders.contains("\nd /opt/etc/vtagd/secrets 0750 "), "{folders}");
    assert!(into.join("opt/etc/vtagd/vtagd.yaml").is_file());
    // As `sudo make install` does it, without a DESTDIR: the paths are this machine's.
    let machine = folder.path().join("machine");
    install_into(Path::new(""), &machine.join("usr").display().to_string(), &machine.join("etc").display().to_string());
    assert!(machine.join("usr/bin/vtagd").is_file() && machine.join("etc/vtagd/vtagd.yaml").is_file());
    for (prefix, zsh) in [("usr", "vendor-completions"), ("opt/a&b", "site-functions")] {
        for file in [
            "man/man1/vtagd.1",
            "bash-completion/completions/vtagd",
            "fish/vendor_completions.d/vtagd.fish",
            &format!("zsh/{zsh}/_vtagd"),
        ] {
            let text = fs::read_to_string(into.join(prefix).join("share").join(file)).unwrap();
            assert!(text.contains("discover"), "{file}: {text}");
        }
    }
}

/// What it does first may be an import of minutes, and systemd would end it after 90 s.
#[test]
fn the_check_before_the_start_asks_for_time_and_is_listened_to() {
    let text = fs::read_to_string(unit()).unwrap();
    let says = |line: &str| text.lines().any(|l| l.starts_with(line));
    assert!(says("ExecStartPre=-/usr/bin/vtagd check ") && says("NotifyAccess=exec"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let file = folder.path().join("vtagd.yaml");
    fs::write(&file, "model: { path: none }\nstreams: [{ id: a, url: rtsp://127.0.0.1:9/ }]\napi: { listen: off }\n")
        .unwrap();
    let mut command = vtagd(folder.path());
    command.arg("check").arg("-c").arg(&file).env("NOTIFY_SOCKET", folder.path().join("notify"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).expect("a message");
    assert_eq!(&buffer[..length], b"EXTEND_TIMEOUT_USEC=60000000");
}

/// A reload with good and with bad settings: each is announced with its moment on the monotonic clock, and over afterwards.
#[test]
fn systemd_is_told_when_a_reload_begins_and_ends_even_if_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let file = folder.path().join("vtagd.yaml");
    let good = "model: { path: none }\nstreams: [{ id: off, url: rtsp://127.0.0.1:9/, enabled: false }]\n\
                sinks: [{ type: jsonl, path: \"-\" }]\noutbox: { path: \":memory:\" }\napi: { listen: \"off\" }\n";
    fs::write(&file, good).unwrap();
    let log = folder.path().join("log");
    let mut command = vtagd(folder.path());
    command.arg("run").arg("-c").arg(&file).env("NOTIFY_SOCKET", folder.path().join("notify"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let next = || {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}: {}", fs::read_to_string(&log).unwrap()));
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let wait_for = |wanted: &str| loop {
        let message = next();
        if message.lines().any(|line| line == wanted) {
            break message;
        }
    };
    let send = |signal| {
        // SAFETY: plain system call on a process that this test started and has not waited for.
        assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), signal) }, 0);
    };
    wait_for("READY=1");
    let mut moments = Vec::new();
    for (text, end) in [(good, "STATUS=running"), ("streams: 7\n", "refused"), (good, "STATUS=running")] {
        fs::write(&file, text).unwrap();
        send(libc::SIGHUP);
        let begun = wait_for("RELOADING=1");
        let moment = begun.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a moment");
        moments.push(moment.parse::<u64>().unwrap());
        let over = wait_for("READY=1");
        assert!(over.contains(end), "{over}");
    }
    assert!(moments.is_sorted() && moments[0] > 0, "{moments:?}");
    send(libc::SIGTERM);
    wait_for("STOPPING=1");
    let status = eventually("the end", || child.try_wait().unwrap());
    assert!(status.success(), "{status}: {}", fs::read_to_string(&log).unwrap());
}
