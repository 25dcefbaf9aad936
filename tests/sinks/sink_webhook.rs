//! Webhooks against real HTTP servers: what is sent and how it is signed, and endpoints that hang, fail, redirect, or answer without end.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::common::authority::Authority;
use crate::common::daemon::{Daemon, eventually};
use crate::common::flicker;
use crate::common::hook::{Hook, Reply};
use serde_json::Value;

const NEW: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn ok(_: usize, _: &crate::common::hook::Request) -> Reply {
    Reply::Status(200, "")
}

fn word(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn events_arrive_signed_in_order_within_each_label_and_never_too_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("new", NEW), ("old", OLD), ("token", "Bearer hunter2")] {
        std::fs::write(folder.path().join(name), value).unwrap();
    }
    // Every fifth is refused for the moment: its label waits for it, the others do not.
    let hook =
        Hook::start(|n, _| if n % 5 == 4 { Reply::Status(503, "retry-after: 0\r\n") } else { Reply::Status(204, "") });
    let batches = Hook::start(ok);
    let mut text = flicker::config(folder.path(), 2, 2);
    text.push_str(&format!(
        "outbox: {{ path: outbox.db }}\nsinks:\n  - {{ type: jsonl, path: \"-\" }}\n  - type: webhook\n    url: \"{}\"\n    \
         secret: {{ file: new }}\n    previous_secret: {{ file: old }}\n    headers: {{ Authorization: {{ file: token }} }}\n    \
         concurrency: 3\n  - {{ type: webhook, url: \"{}\", batch: {{ max_size: 20, max_delay: 200ms }} }}\n",
        hook.url(),
        batches.url()
    ));
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    eventually("events", || (hook.count() > 20 && batches.count() > 3).then_some(()));
    daemon.stop_cleanly();
    let stored: Vec<Value> = daemon.events();
    let bodies: BTreeMap<&str, &Value> = stored.iter().map(|event| (event["id"].as_str().unwrap(), event)).collect();

    let mut lanes: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for request in hook.requests() {
        assert!(request.is_signed_with(NEW) && request.is_signed_with(OLD));
        assert_eq!(request.header("authorization"), Some("Bearer hunter2"));
        assert!(request.header("content-type").unwrap().starts_with("application/cloudevents+json"));
        let event = request.json();
        assert_eq!(request.header("webhook-id"), event["id"].as_str());
        assert_eq!(bodies.get(event["id"].as_str().unwrap()), Some(&&event), "the same body as on every sink");
        if seen.insert(event["id"].to_string()) {
            let key = (word(&event["data"]["stream"]), word(&event["data"]["label"]));
            lanes.entry(key).or_default().push(event["id"].as_str().unwrap().to_owned());
        }
    }
    for ((stream, label), ids) in &lanes {
        let of_lane =
            stored.iter().filter(|e| e["data"]["stream"] == stream.as_str() && e["data"]["label"] == label.as_str());
        let wanted: Vec<&str> = of_lane.map(|e| e["id"].as_str().unwrap()).take(ids.len()).collect();
        assert_eq!(*ids, wanted, "{stream} {label}");
    }
    assert!(hook.most_at_once() <= 3, "{}", hook.most_at_once());
    let first = &batches.requests()[0];
    assert!(first.header("content-type").unwrap().starts_with("application/cloudevents-batch+json"));
    assert!(first.header("webhook-signature").is_none(), "no secret, no signature");
    let order: Vec<String> = batches
        .requests()
        .iter()
        .flat_map(|request| request.json().as_array().unwrap().clone())
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    let wanted: Vec<&str> = stored.iter().map(|event| event["id"].as_str().unwrap()).take(order.len()).collect();
    assert_eq!(order, wanted, "batches keep the order of everything");
    assert!(order.len() > batches.count(), "several in one request");
    assert!(!daemon.log().contains("hunter2") && !daemon.log().contains("whsec_"));
}

#[test]
fn over_tls_with_an_authority_and_a_client_certificate_and_what_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server");
    authority.issue("client");
    Authority::new(folder.path(), "other").issue("stranger");
    let hook = Hook::start_tls(authority.server("server", true), ok);
    let identity = ", cert: client.pem, key: client.key";
    let all = [
        ("good", format!(", ca: ca.pem{identity}"), ""),
        ("systems-authorities", identity.to_owned(), "name the authority's PEM file with `ca`"),
        ("other-authority", format!(", ca: other.pem{identity}"), "name the authority's PEM file with `ca`"),
        ("no-certificate", ", ca: ca.pem".to_owned(), "`cert` and `key`"),
        ("strange-certificate", ", ca: ca.pem, cert: stranger.pem, key: stranger.key".to_owned(), "`cert` and `key`"),
    ];
    let mut text = flicker::config(folder.path(), 1, 1);
    text.push_str("outbox: { path: outbox.db }\nsinks:\n");
    for (name, more, _) in &all {
        // By name, and so each at an address of its own.
        let url = format!("{}/{name}", hook.url());
        text.push_str(&format!("  - {{ type: webhook, name: {name}, url: \"{url}\", timeout: 10s{more} }}\n"));
    }
    // The certificate is for another name than this.
    let elsewhere = hook.url().replace("localhost", "127.0.0.1");
    text.push_str(&format!("  - {{ type: webhook, name: other-name, url: \"{elsewhere}\", ca: ca.pem{identity} }}\n"));
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    eventually("the good one is served", || (hook.count() > 20).then_some(()));
    let told = all.iter().map(|(name, _, why)| (*name, *why)).chain([("other-name", "for another name")]);
    for (name, why) in told.filter(|(_, why)| !why.is_empty()) {
        let line = eventually(name, || {
            let log = daemon.log();
            log.lines()
                .find(|l| l.contains("cannot deliver") && l.contains(&format!("sink=\"{name}\"")))
                .map(str::to_owned)
        });
        assert!(line.contains(why), "{line}");
    }
    assert!(!daemon.log().contains("cannot deliver, trying again; its events wait sink=\"good\""), "{}", daemon.log());
    daemon.stop_cleanly();
    assert!(hook.requests().iter().all(|request| request.path.ends_with("/good")), "nobody else got through");
}

#[test]
fn endpoints_that_misbehave_cost_no_memory_and_no_other_sink() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = Hook::start(ok);
    let location: &'static str =
        Box::leak(format!("location: http://localhost:{}/\r\n", elsewhere.port).into_boxed_str());
    let good = Hook::start(ok);
    let limited =
        Hook::start(|n, _| if n == 0 { Reply::Status(429, "retry-after: 3\r\n") } else { Reply::Status(200, "") });
    let redirect = Hook::start(move |_, _| Reply::Status(307, location));
    let endless = Hook::start(|_, _| Reply::Endless(1 << 30));
    let hanging = Hook::start(|_, _| Reply::Hang);
    let failing = Hook::start(|_, _| Reply::Status(500, ""));
    let rubbish = Hook::start(|_, _| Reply::Rubbish);
    let gone = Hook::start(|_, _| Reply::Status(410, ""));
    // As fast as it can be played, a busy machine could not store what is left for eight sinks within the seconds of a stop.
    let mut text = flicker::config(folder.path(), 1, 5).replace("pace: fast", "pace: live");
    text.push_str("outbox: { path: outbox.db }\nsinks:\n");
    let all = [
        ("good", &good),
        ("limited", &limited),
        ("redirect", &redirect),
        ("endless", &endless),
        ("hanging", &hanging),
        ("failing", &failing),
        ("rubbish", &rubbish),
        ("gone", &gone),
    ];
    for (name, hook) in all {
        text.push_str(&format!("  - {{ type: webhook, name: {name}, url: \"{}\", timeout: 2s }}\n", hook.url()));
    }
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    eventually("the good one is served", || (good.count() > 50).then_some(()));
    let before = daemon.rss();
    for (name, hook) in all {
        let wanted = if name == "gone" { 1 } else { 3 };
        eventually(name, || (hook.count() >= wanted).then_some(()));
    }
    let served = good.count();
    eventually("the good one is still served", || (good.count() > served + 50).then_some(()));
    let grown = daemon.rss().saturating_sub(before) >> 20;
    eprintln!("memory grew by {grown} MiB");
    assert!(grown < 100, "memory grew by {grown} MiB");
    assert_eq!(elsewhere.count(), 0, "redirects are not followed");

    // What was under way when it asked for three seconds still comes; then nothing does for so long. Our own first wait is one second.
    let early = eventually("the one that asked for three seconds is left alone so long, and asked again", || {
        let asked = limited.requests();
        asked.windows(2).position(|pair| pair[1].at - pair[0].at > Duration::from_millis(2500))
    });
    assert!(early < 16, "{early}");
    assert!(gone.count() <= 4, "{}", gone.count());
    let log = daemon.log();
    for wanted in
        ["answers 307", "no answer in time", "answers 500", "answers 410", "answers 429", "does not speak HTTP"]
    {
        assert!(log.contains(wanted), "{wanted}:\n{log}");
    }
    daemon.stop_cleanly();
}

#[test]
fn a_template_makes_the_body_and_an_address_that_is_a_credential_is_told_nowhere() {
    const TOKEN: &str = "T0-B0-correct-horse";
    let folder = tempfile::tempdir().unwrap();
    let (chat, own) = (Hook::start(ok), Hook::start(|_, _| Reply::Status(500, "")));
    std::fs::write(folder.path().join("address"), format!("{}/{TOKEN}", chat.url())).unwrap();
    std::fs::write(folder.path().join("other"), format!("{}/{TOKEN}", own.url())).unwrap();
    std::fs::write(folder.path().join("say.txt.j2"), "{{ kind }}: {{ event.data.label }} for {{ values.who }}")
        .unwrap();
    let mut text = flicker::config(folder.path(), 1, 1);
    text.push_str(
        "outbox: { path: outbox.db }\nsinks:\n  - { type: webhook, name: chat, secret_url: { file: address }, template: slack }\n  \
         - { type: webhook, name: own, secret_url: { file: other }, template: say.txt.j2, template_values: { who: us } }\n",
    );
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    eventually("both are asked", || (chat.count() > 5 && own.count() > 1).then_some(()));
    let request = &chat.requests()[0];
    assert_eq!(request.path, format!("/hook/{TOKEN}"));
    assert!(request.header("content-type").unwrap().starts_with("application/json"), "{request:?}");
    let said = word(&request.json()["text"]);
    assert!(said.contains(" at cam0: seen, ") && said.ends_with(" %"), "{said}");
    let request = &own.requests()[0];
    assert!(request.header("content-type").unwrap().starts_with("text/plain"));
    let said = String::from_utf8(request.body.clone()).unwrap();
    assert!(said.starts_with("start: ") && said.ends_with(" for us"), "{said}");
    daemon.wait_for_log("cannot deliver");
    let told: Vec<String> = ["/api/v1/sinks", "/metrics", "/readyz"].iter().map(|path| daemon.get(path).1).collect();
    daemon.stop_cleanly();
    for text in told.iter().chain([&daemon.log()]) {
        assert!(!text.contains(TOKEN), "{text}");
    }
    let outbox = std::fs::read(folder.path().join("outbox.db")).unwrap();
    assert!(!outbox.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "nor kept");
}
