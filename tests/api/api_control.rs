//! Changes by the API of the real daemon: streams are paused and resumed, the configuration is read again, token and certificate are
//! exchanged by SIGHUP; each change leaves a line in the log.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::Value;

const TOKEN: &str = "first-token-0123456789abcdef";

fn config(more: &str) -> String {
    format!(
        "model: {{ path: none }}\nstreams:\n  - {{ id: one, url: \"file://{clip}\", loop: true }}\n\
         \x20 - {{ id: two, url: \"file://{clip}\", loop: true }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\n\
         outbox: {{ path: \":memory:\" }}\n{more}",
        clip = root().join("demo/clip.mp4").display(),
    )
}

fn with_token(more: &str) -> String {
    config(&format!("api: {{ listen: 127.0.0.1:0, token: {{ file: token }}{more} }}\n"))
}

fn agent(certificate: Option<&Path>) -> ureq::Agent {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};
    let mut config = ureq::Agent::config_builder().http_status_as_error(false);
    if let Some(file) = certificate {
        let root = Certificate::from_pem(&std::fs::read(file).unwrap()).unwrap();
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(vec![root])))
            .build();
        config = config.tls_config(tls);
    }
    config.build().into()
}

fn post(url: &str, path: &str, token: &str) -> (u16, Value) {
    let request = agent(None).post(format!("{url}{path}")).header("Authorization", format!("Bearer {token}"));
    let mut answer = request.send_empty().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap())
}

fn get(agent: &ureq::Agent, url: &str, path: &str, token: &str) -> Result<(u16, Value), ureq::Error> {
    let mut answer = agent.get(format!("{url}{path}")).header("Authorization", format!("Bearer {token}")).call()?;
    let status = answer.status().as_u16();
    Ok((status, serde_json::from_str(&answer.body_mut().read_to_string()?).unwrap()))
}

fn stream(url: &str, id: &str) -> Value {
    let (_, body) = get(&agent(None), url, "/api/v1/streams", TOKEN).unwrap();
    body["streams"].as_array().unwrap().iter().find(|row| row["id"] == id).cloned().unwrap_or_default()
}

#[test]
fn a_stream_is_paused_and_resumed_and_the_other_does_not_notice() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    let mut daemon = Daemon::start(folder.path(), &with_token(""));
    let url = daemon.url();
    eventually("both run", || {
        (stream(&url, "one")["state"] == "up" && stream(&url, "two")["state"] == "up").then_some(())
    });

    let (status, body) = post(&url, "/api/v1/streams/one/pause", TOKEN);
    assert_eq!((status, body["changed"].as_bool()), (200, Some(true)), "{body}");
    assert_eq!(stream(&url, "one")["state"], "disabled", "the answer comes when it is done");
    assert_eq!(post(&url, "/api/v1/streams/one/pause", TOKEN).1["changed"], false);
    assert_eq!(post(&url, "/api/v1/streams/three/pause", TOKEN).0, 404);
    assert_eq!(post(&url, "/api/v1/streams/one/resume", "a-token-that-somebody-guessed").0, 401);
    assert_eq!(stream(&url, "one")["state"], "disabled");

    let (status, body) = post(&url, "/api/v1/streams/one/resume", TOKEN);
    assert_eq!((status, body["changed"].as_bool()), (200, Some(true)), "{body}");
    eventually("it runs again", || (stream(&url, "one")["state"] == "up").then_some(()));
    assert_eq!(stream(&url, "two")["reconnects"], 0);

    // A change is told each time, be it the same as the one before; and none of them is a reload.
    for action in ["pause", "resume"] {
        assert_eq!(post(&url, &format!("/api/v1/streams/one/{action}"), TOKEN).0, 200);
    }
    let metrics = agent(None).get(format!("{url}/metrics")).header("Authorization", format!("Bearer {TOKEN}"));
    let metrics = metrics.call().unwrap().body_mut().read_to_string().unwrap();
    assert!(!metrics.contains("vtagd_config_reloads_total{"), "{metrics}");

    assert!(daemon.stop().success());
    let log = daemon.log();
    let told = |action: &str| {
        let action = format!("action=\"{action}\" stream=\"one\" outcome=\"done\"");
        log.lines().filter(|line| line.contains(&action)).count()
    };
    assert_eq!((told("pause"), told("resume")), (2, 2), "{log}");
    assert!(!log.contains("the new configuration runs"), "{log}");
    let audit = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    let who = ["by=\"api.token\"", "peer=127.0.0.1"];
    assert!(audit(&[&who[..], &["action=\"pause\"", "stream=\"one\"", "outcome=\"done\""]].concat()), "{log}");
    assert!(
        audit(&[&who[..], &["action=\"pause\"", "stream=\"three\"", "outcome=\"no such stream\""]].concat()),
        "{log}"
    );
    assert!(audit(&["a change without the token was refused", "peer=127.0.0.1"]), "{log}");
    assert!(!log.contains(TOKEN) && !log.contains("somebody-guessed"), "{log}");
}

#[test]
fn a_reload_is_answered_with_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    let mut daemon = Daemon::start(folder.path(), &with_token(""));
    let url = daemon.url();
    daemon.wait_for_log(" ready");

    let file = folder.path().join("vtagd.yaml");
    let broken = with_token("") + "sampling: { interval: often }\nsinks_: 'http://viewer:MARKED@h'\n";
    std::fs::write(&file, broken).unwrap();
    let (status, body) = post(&url, "/api/v1/reload", TOKEN);
    assert_eq!(status, 422, "{body}");
    let fields: Vec<&str> = body["problems"].as_array().unwrap().iter().filter_map(|p| p["field"].as_str()).collect();
    assert_eq!(fields, ["sampling.interval", "sinks_"], "{body}");
    assert!(!body.to_string().contains("MARKED"), "{body}");

    std::fs::write(&file, with_token("").replace("id: two", "id: three")).unwrap();
    let (status, body) = post(&url, "/api/v1/reload", TOKEN);
    assert_eq!((status, body["result"].as_str()), (200, Some("applied")), "{body}");
    assert_ne!(stream(&url, "three"), Value::Null);
    assert!(daemon.stop().success());
    assert!(daemon.log().contains("action=\"reload\" outcome=\"refused\""), "{}", daemon.log());
}

#[test]
fn labels_that_cannot_be_embedded_leave_the_old_token_in_force() {
    const NEW: &str = "second-token-0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let set = "set: things\nbackground: [an empty room]\nlabels: [{ name: cat }]\n";
    write("things.yaml", set);
    write("token", TOKEN);
    // A model of the test's own, whose text tower goes away.
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(root().join("models/starter")).unwrap().map(Result::unwrap) {
        std::os::unix::fs::symlink(file.path(), model.join(file.file_name())).unwrap();
    }
    let config = format!(
        "model: {{ path: model }}\nstreams: [{{ id: one, url: \"file://{}\", loop: true, enabled: false }}]\n\
         labels: [things.yaml]\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: \":memory:\" }}\n\
         api: {{ listen: 127.0.0.1:0, token: {{ file: token }} }}\nlog: {{ level: info }}\n",
        root().join("demo/clip.mp4").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    let url = daemon.url();
    daemon.wait_for_log("ready streams=");

    write("token", NEW);
    write("things.yaml", &set.replace("name: cat", "name: zebra"));
    write("vtagd.yaml", &config.replace("level: info", "level: error"));
    std::fs::remove_file(model.join("text_model.onnx")).unwrap();
    let (status, body) = post(&url, "/api/v1/reload", TOKEN);
    assert_eq!(status, 422, "{body}: {}", daemon.log());
    assert_eq!(get(&agent(None), &url, "/api/v1/streams", TOKEN).unwrap().0, 200, "the old token is the token");
    assert_eq!(get(&agent(None), &url, "/api/v1/streams", NEW).unwrap().0, 401);

    // Once the labels can be embedded, all of it takes hold.
    let file = root().join("models/starter/text_model.onnx");
    std::os::unix::fs::symlink(file, model.join("text_model.onnx")).unwrap();
    let (status, body) = post(&url, "/api/v1/reload", TOKEN);
    assert_eq!(status, 200, "{body}: {}", daemon.log());
    assert_eq!(get(&agent(None), &url, "/api/v1/streams", NEW).unwrap().0, 200);
    let log = daemon.log();
    let (refused, level) = (log.find("the old configuration stays"), log.find("the log's level changes"));
    assert!(refused.is_some() && refused < level, "{log}");
    assert!(daemon.stop().success());
}

/// A certificate for loopback and its key, in `folder`.
fn certify(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    std::fs::write(folder.join("api.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("api.key"), made.signing_key.serialize_pem()).unwrap();
}

#[test]
fn sighup_takes_a_renewed_certificate_and_another_token() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    certify(folder.path());
    let tls = ", tls: { cert: api.crt, key: api.key }";
    let mut daemon = Daemon::start(folder.path(), &with_token(tls));
    let url = daemon.url().replace("http://", "https://");
    daemon.wait_for_log(" ready");
    let old = folder.path().join("old.crt");
    std::fs::copy(folder.path().join("api.crt"), &old).unwrap();
    assert_eq!(get(&agent(Some(&old)), &url, "/api/v1/streams", TOKEN).unwrap().0, 200);

    // `vtagd status` trusts the very certificate that the configuration names.
    let port = url.rsplit(':').next().unwrap();
    let beside = with_token(tls).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    std::fs::write(folder.path().join("beside.yaml"), beside).unwrap();
    let status =
        || vtagd(folder.path()).args(["status", "-c"]).arg(folder.path().join("beside.yaml")).output().unwrap();
    let output = status();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("one"), "{output:?}");

    certify(folder.path());
    let output = status();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("reloaded since its certificate changed"), "{output:?}");

    std::fs::write(folder.path().join("token"), "second-token-0123456789abcdef").unwrap();
    daemon.signal(libc::SIGHUP);
    let new = folder.path().join("api.crt");
    eventually("the new certificate is shown", || {
        let answer = get(&agent(Some(&new)), &url, "/api/v1/streams", "second-token-0123456789abcdef");
        answer.is_ok_and(|(status, _)| status == 200).then_some(())
    });
    assert_eq!(get(&agent(Some(&new)), &url, "/api/v1/streams", TOKEN).unwrap().0, 401);
    assert!(get(&agent(Some(&old)), &url, "/api/v1/streams", TOKEN).is_err());
    assert!(status().status.success());

    // A certificate that cannot be used changes nothing, and is told as any other mistake.
    std::fs::write(&new, "no certificate").unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("holds no certificate");
    daemon.wait_for_log("the old configuration stays");
    assert!(daemon.stop().success());
}

#[test]
fn no_reload_takes_the_token_away_from_a_daemon_that_others_can_reach() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    let open = config("api: { listen: \"0.0.0.0:0\", token: { file: token } }\n");
    let mut daemon = Daemon::start(folder.path(), &open);
    let url = daemon.url().replace("0.0.0.0", "127.0.0.1");
    daemon.wait_for_log(" ready");
    // Right for who starts with it: on loopback no token is needed. But where it listens changes with a restart only.
    std::fs::write(folder.path().join("vtagd.yaml"), config("api: { listen: 127.0.0.1:0 }\n")).unwrap();
    assert_eq!(post(&url, "/api/v1/reload", TOKEN).0, 200);
    daemon.wait_for_log("take effect only after a restart");
    daemon.wait_for_log("the API keeps its token until a restart");
    assert_eq!(get(&agent(None), &url, "/api/v1/streams", "none").unwrap().0, 401);
    assert_eq!(get(&agent(None), &url, "/api/v1/streams", TOKEN).unwrap().0, 200);
    assert!(daemon.stop().success());
}

#[test]
fn another_token_counts_although_tls_has_to_wait_for_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    certify(folder.path());
    let mut daemon = Daemon::start(folder.path(), &with_token(""));
    let url = daemon.url();
    daemon.wait_for_log(" ready");
    std::fs::write(folder.path().join("token"), "second-token-0123456789abcdef").unwrap();
    let file = folder.path().join("vtagd.yaml");
    std::fs::write(&file, with_token(", tls: { cert: api.crt, key: api.key }")).unwrap();
    assert_eq!(post(&url, "/api/v1/reload", TOKEN).0, 200);
    assert_eq!(get(&agent(None), &url, "/api/v1/streams", TOKEN).unwrap().0, 401, "the old one is worth nothing");
    assert_eq!(get(&agent(None), &url, "/api/v1/streams", "second-token-0123456789abcdef").unwrap().0, 200);
    assert!(daemon.log().contains("api.tls (switched on or off)"), "{}", daemon.log());
    assert!(daemon.stop().success());
}

/// The statuses of answers to `requests`, sent one after the other over one connection.
fn pipeline(url: &str, requests: &str) -> Vec<String> {
    let mut stream = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(crate::common::daemon::DEADLINE)).unwrap();
    stream.write_all(requests.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
}

#[test]
fn whoever_has_no_token_cannot_write_into_the_log() {
    let long = "x".repeat(4000);
    for (api, wanted) in [("", "403"), (", token: { file: token }", "401")] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        let text = config(&format!("api: {{ listen: 127.0.0.1:0{api} }}\n"));
        let mut daemon = Daemon::start(folder.path(), &text);
        let url = daemon.url();
        let requests: String = (0..150)
            .map(|n| format!("POST /api/v1/streams/{n}MARKED%0AERROR{long}/pause HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .chain((0..150).map(|n| format!("{n}MARKED{long} /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")))
            .collect();
        let statuses = pipeline(&url, &requests);
        assert!(statuses.len() == 300 && statuses.iter().any(|status| status == wanted), "{statuses:?}");
        assert!(!statuses.iter().any(|status| status.starts_with('2')), "{statuses:?}");
        assert!(daemon.stop().success());
        let log = daemon.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("without the token")).collect();
        assert!(!log.contains("MARKED"), "{wanted}: {} bytes of log", log.len());
        // One and how often, for each method that the protocol knows and the rest together, and again every ten seconds.
        assert!(!lines.is_empty() && lines.iter().all(|line| line.len() < 300), "{wanted}: {lines:?}");
    }
}

#[test]
fn a_daemon_whose_model_cannot_be_loaded_ends_with_its_api_and_not_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = "model: { path: ./empty }\nstreams: [{ id: a, url: rtsp://127.0.0.1:9/x }]\n\
                  labels: [set.yaml]\nhistory: {}\nstate: { path: state }\napi: { listen: 127.0.0.1:0 }\n";
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::write(folder.path().join("vtagd.yaml"), config).unwrap();
    std::fs::write(
        folder.path().join("set.yaml"),
        "set: s\nbackground: [a wall]\nlabels: [{ name: cat, prompts: [a cat] }]\n",
    )
    .unwrap();
    let output = vtagd(folder.path()).args(["run", "-c"]).arg(folder.path().join("vtagd.yaml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("empty") && said.contains("API listens"), "{said}");
    assert!(!said.contains("left behind"), "{said}");
}
