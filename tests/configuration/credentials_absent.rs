//! Credentials that are not here: `run`, and `check` in its unit, refuse; `check` in a shell warns; `config show` and `status` do without.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use crate::common::daemon::{root, vtagd};

/// Credentials of every kind that has one, none of which is here.
const EVERYWHERE: &str = "\
model: { path: none }
streams:
  - { id: a, url: 'rtsp://127.0.0.1:9/', username: u, password: { credential: cam-a } }
  - { id: b, url: 'rtsp://127.0.0.1:9/2', username: u, password: { file: nowhere/cam-b } }
sinks:
  - { type: mqtt, url: 'mqtt://127.0.0.1:9', username: u, password: { env: VTAGD_TEST_ABSENT } }
  - { type: webhook, url: 'http://127.0.0.1:9/', secret: { credential: hook }, headers: { X-A: { credential: header } } }
  - { type: nats, url: 'nats://127.0.0.1:9', subject_prefix: a, nkey: { credential: nkey } }
  - { type: nats, url: 'nats://127.0.0.1:9', subject_prefix: b, creds: { file: creds } }
outbox: { path: ':memory:' }
api: { listen: '127.0.0.1:1', token: { credential: token } }
";

fn run(folder: &Path, text: &str, command: &[&str], env: &[(&str, &str)]) -> (Output, String) {
    let file = folder.join("vtagd.yaml");
    fs::write(&file, text).unwrap();
    let output = vtagd(folder).args(command).arg("-c").arg(&file).envs(env.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn check_warns_in_a_shell_and_refuses_in_a_unit_as_run_does() {
    let folder = tempfile::tempdir().unwrap();
    let (output, said) = run(folder.path(), EVERYWHERE, &["check"], &[]);
    // A taken or forbidden port is another matter, so that none is listened on here.
    let off = EVERYWHERE.replace("listen: '127.0.0.1:1'", "listen: '127.0.0.1:0'");
    let (quiet, _) = run(folder.path(), &off, &["check"], &[]);
    assert_eq!(quiet.status.code(), Some(0), "{said} {output:?}");
    for told in [
        "warning: streams[0].password: credential cam-a is not there",
        "warning: streams[1].password: ",
        "warning: sinks[0].password: environment variable VTAGD_TEST_ABSENT is not set",
        "warning: sinks[1].secret: ",
        "warning: sinks[1].headers.X-A: ",
        "warning: sinks[2].nkey: ",
        "warning: sinks[3].creds: ",
        "warning: api.token: credential token is not there",
        "`run` needs it: add LoadCredential=token:PATH to the systemd unit",
    ] {
        assert!(said.contains(told), "{told} is not in\n{said}");
    }
    let nothing = tempfile::tempdir().unwrap();
    let nothing = nothing.path().to_str().unwrap();
    for (command, env) in [
        ("run", ("X", "")),
        ("check", ("INVOCATION_ID", "0123456789abcdef0123456789abcdef")),
        ("check", ("CREDENTIALS_DIRECTORY", nothing)),
        ("check", ("NOTIFY_SOCKET", "/nonexistent/socket")),
    ] {
        let (output, said) = run(folder.path(), &off, &[command], &[env]);
        assert_eq!(output.status.code(), Some(2), "{command} {env:?}: {said}");
        assert!(said.contains("error: streams[0].password") && said.contains("error: api.token"), "{said}");
    }
}

#[test]
fn a_credential_that_is_here_and_wrong_is_an_error_in_a_shell_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("creds"), "no such thing\n").unwrap();
    fs::write(folder.path().join("empty"), "\n").unwrap();
    let text = EVERYWHERE.replace("file: nowhere/cam-b", "file: empty");
    let (output, said) = run(folder.path(), &text, &["check"], &[]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("error: sinks[3].creds: is not the content of a .creds file"), "{said}");
    assert!(said.contains("error: streams[1].password") && said.contains("is empty"), "{said}");
    assert_eq!(said.matches(" error: ").count(), 2, "{said}");
}

#[test]
fn show_needs_no_credential_and_says_nothing_of_those_that_are_not_here() {
    let folder = tempfile::tempdir().unwrap();
    let (output, said) = run(folder.path(), EVERYWHERE, &["config", "show"], &[]);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for pointer in ["/streams/0/password", "/sinks/0/password", "/sinks/1/secret", "/sinks/2/nkey", "/api/token"] {
        assert_eq!(shown.pointer(pointer), Some(&"***".into()), "{pointer}: {shown:#}");
    }
}

#[test]
fn status_needs_the_token_of_the_api_alone_and_says_how_to_bring_it() {
    let folder = tempfile::tempdir().unwrap();
    let (output, said) = run(folder.path(), EVERYWHERE, &["status"], &[]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let told = "ask with --url http://127.0.0.1:1 --token-file PATH (or --token-env NAME), as somebody who may read it";
    assert!(said.contains("credential token is not there") && said.contains(told), "{said}");
    // The others are nobody's business here: what is wrong is only that no daemon runs.
    let open = EVERYWHERE.replace(", token: { credential: token }", "");
    let (output, said) = run(folder.path(), &open, &["status"], &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is the daemon running?"), "{said}");
}

#[test]
fn the_check_line_of_the_readme_works_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("# camera.yaml\n").expect("the README's configuration");
    let (text, rest) = rest.split_once("```").unwrap();
    assert!(rest.contains("\ntarget/release/vtagd check -c camera.yaml\n"), "the README checks without a variable");
    std::os::unix::fs::symlink(root().join("config"), folder.path().join("config")).unwrap();
    // The model is another matter, which takes seconds.
    let without_model = [("VTAGD__MODEL__PATH", "none"), ("VTAGD__API__LISTEN", "off")];
    let (output, said) = run(folder.path(), text, &["check"], &without_model);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("warning: streams[0].password: environment variable GATE_PASSWORD is not set"), "{said}");
}

#[test]
fn a_camera_is_not_asked_without_the_password_that_it_is_to_have() {
    let folder = tempfile::tempdir().unwrap();
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    camera.set_nonblocking(true).unwrap();
    let text = format!(
        "model: {{ path: none }}\napi: {{ listen: off }}\nstreams: [{{ id: a, url: 'rtsp://{}/', username: u, password: {{ credential: cam }} }}]\n",
        camera.local_addr().unwrap()
    );
    let (output, said) = run(folder.path(), &text, &["check", "--probe", "--json"], &[]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found[0]["error"], "not tried: its password is not here");
    assert!(camera.accept().is_err(), "somebody connected");
}

#[test]
fn a_file_that_is_for_the_daemons_user_alone_is_no_error_of_anybody_elses_check() {
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can be somebody else");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::create_dir(folder.path().join("secrets")).unwrap();
    let secrets = [("token", "0123456789abcdef0123".to_owned()), ("api.key", made.signing_key.serialize_pem())];
    for (name, text) in &secrets {
        fs::write(folder.path().join("secrets").join(name), text).unwrap();
    }
    fs::write(folder.path().join("api.crt"), made.cert.pem()).unwrap();
    fs::set_permissions(folder.path().join("secrets"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("vtagd.yaml");
    let text = "model: { path: none }\nstreams: [{ id: a, url: 'rtsp://h/' }]\noutbox: { path: ':memory:' }\n\
        api: { listen: '127.0.0.1:0', token: { file: secrets/token }, tls: { cert: api.crt, key: secrets/api.key } }\n";
    fs::write(&file, text).unwrap();
    // A copy that everybody may run, wherever this checkout lies.
    let program = folder.path().join("vtagd");
    fs::copy(env!("CARGO_BIN_EXE_vtagd"), &program).unwrap();
    let as_nobody = |command: &[&str]| {
        let mut process = std::process::Command::new(&program);
        process.args(command).arg("-c").arg(&file).env_clear().current_dir(folder.path());
        process.env("VTAGD_CACHE", folder.path().join("cache")).uid(65534).gid(65534).output().unwrap()
    };
    let checked = as_nobody(&["check"]);
    let said = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(said.contains("warning: api.token: ") && said.contains("warning: api.tls.key: "), "{said}");
    assert_eq!(as_nobody(&["config", "show"]).status.code(), Some(0));
    assert_eq!(as_nobody(&["run"]).status.code(), Some(2));
}
