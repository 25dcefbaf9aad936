//! What `check` says of texts that are valid and rarely meant: placeholders, `~`, characters that nobody sees, names that look alike,
//! credentials that others can read on their way.

use std::fs;
use std::path::Path;

use crate::common::daemon::vtagd;

const REST: &str = "model: { path: none }\napi: { listen: off }\noutbox: { path: ':memory:' }\n";

/// What `check` says of `text`, and how it ends.
fn told(folder: &Path, text: &str) -> (Option<i32>, String) {
    let file = folder.join("vtagd.yaml");
    fs::write(&file, text).unwrap();
    let output = vtagd(folder).args(["check", "-c"]).arg(&file).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn placeholders_that_nothing_replaces_are_told_with_what_does() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{REST}streams:\n\
         \x20 - {{ id: a, url: \"rtsp://${{CAM_HOST}}:554/s\" }}\n\
         \x20 - {{ id: b, url: \"rtsp://viewer:{{FRIGATE_RTSP_PASSWORD}}@127.0.0.1:9/s\" }}\n\
         \x20 - {{ id: c, url: \"rtsp://h/s\", username: \"$CAM_USER\" }}\n\
         sinks:\n\
         \x20 - {{ type: jsonl, path: \"~/events.jsonl\" }}\n\
         \x20 - {{ type: mqtt, url: \"mqtt://h\", topic_prefix: \"vtagd/{{{{ inventory_hostname }}}}\" }}\n"
    );
    let (_, said) = told(folder.path(), &text);
    for wanted in [
        "warning: streams[0].url: has `${CAM_HOST}` in it, which nothing replaces; set the whole key by VTAGD__STREAMS__0__URL in the environment",
        "a credential comes by `password: { env: NAME }`",
        "warning: streams[1].url: has a placeholder in front of its `@` in it, which nothing replaces",
        "warning: streams[2].username: has `$CAM_USER` in it",
        "warning: sinks[0].path: begins with `~`, which only a shell replaces",
        "warning: sinks[1].topic_prefix: has `{{ inventory_hostname }}` in it",
    ] {
        assert!(said.contains(wanted), "{wanted} is not in\n{said}");
    }
    assert!(!said.contains("FRIGATE_RTSP_PASSWORD"), "{said}");
    let (code, said) = told(
        folder.path(),
        "x-note: '${ANY}'\nmodel: { path: none }\napi: { listen: off }\nstreams: [{ id: a, url: 'rtsp://h/$1' }]\n",
    );
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn a_dot_in_a_topic_prefix_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let streams = "streams: [{ id: a, url: 'rtsp://h/s' }]\n";
    let sinks = "sinks: [{ type: mqtt, url: 'mqtts://h', topic_prefix: site.1/vtagd }]\n";
    let (code, said) = told(folder.path(), &format!("{REST}{streams}{sinks}"));
    assert!(code == Some(0) && said.contains("sinks[0].topic_prefix: has a dot: RabbitMQ makes `/` of it"), "{said}");
}

#[test]
fn a_webhook_whose_address_is_a_credential_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let streams = "streams: [{ id: a, url: 'rtsp://h/s' }]\n";
    for (url, hidden) in [
        ("https://hooks.slack.com/services/T0/B0/xyz", Some("xyz")),
        ("https://api.telegram.org/bot1:abc/sendMessage", Some("bot1")),
        ("https://ha.example/api/webhook/door7", Some("door7")),
        ("https://chat.example/hooks/ki1x8twm5pnd7g9ujqedh4rz3c", Some("ki1x8")),
        ("https://hub.example/alarms", None),
    ] {
        let sinks = format!("sinks: [{{ type: webhook, url: '{url}' }}]\n");
        let (code, said) = told(folder.path(), &format!("{REST}{streams}{sinks}"));
        assert!(code == Some(0) && said.contains("`secret_url`") == hidden.is_some(), "{url}: {said}");
        let file = folder.path().join("vtagd.yaml");
        let shown = vtagd(folder.path()).args(["config", "show", "-c"]).arg(file).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        match hidden {
            Some(hidden) => assert!(!shown.contains(hidden) && !said.contains(hidden), "{url}: {shown}{said}"),
            None => assert!(shown.contains(url), "{shown}"),
        }
    }
}

#[test]
fn characters_that_nobody_sees_are_told_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{REST}streams: [{{ id: a, url: \"rtsp://10.0.0.7/str\u{200b}eam\" }}]\nsinks: [{{ type: jsonl, path: \"ev\u{ad}ents\" }}]\n"
    );
    let (code, said) = told(folder.path(), &text);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("streams[0].url: has a character in it that cannot be seen (U+200B)"), "{said}");
    assert!(said.contains("sinks[0].path: has a character in it that cannot be seen (U+00AD)"), "{said}");
}

#[test]
fn names_that_look_alike_are_refused_and_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (composed, apart) = ("caf\u{e9}", "cafe\u{301}");
    let set = |name: &str, labels: &str| format!("set: {name}\nbackground: [a wall]\nlabels: {labels}\n");
    fs::write(folder.path().join("one.yaml"), set(composed, &format!("[{{ name: {composed} }}, {{ name: {apart} }}]")))
        .unwrap();
    let streams = "streams: [{ id: a, url: 'rtsp://h/' }]\n";
    let (code, said) = told(folder.path(), &format!("{REST}{streams}labels: [one.yaml]\n"));
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("labels[1].name: ")
            && said.contains("looks like the label in line 3: differs from it only by its Unicode form"),
        "{said}"
    );

    fs::write(folder.path().join("one.yaml"), set(composed, "[{ name: a }, { name: 'b\u{2060}' }]")).unwrap();
    fs::write(folder.path().join("two.yaml"), set(apart, "[{ name: a }, { name: b }]")).unwrap();
    let (code, said) = told(folder.path(), &format!("{REST}{streams}labels: [one.yaml, two.yaml]\n"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("labels[1]: the set name ") && said.contains("looks like that of "), "{said}");
    assert!(said.contains("labels[1].name: has a character in it that cannot be seen (U+2060)"), "{said}");

    let (code, said) = told(
        folder.path(),
        &format!("{REST}streams: [{{ id: a, url: 'rtsp://h/', labels: [\"{apart}\"] }}]\nlabels: [one.yaml]\n"),
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("differs from it only by its Unicode form or by characters that cannot be seen: copy it"),
        "{said}"
    );
}

#[test]
fn credentials_that_cross_the_network_in_clear_text_are_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("s"), "0123456789abcdef\n").unwrap();
    let clear = "goes to another machine without encryption";
    for (text, warned) in [
        ("streams: [{ id: a, url: 'http://10.0.0.7/mjpeg', username: u, password: { file: s } }]", true),
        ("streams: [{ id: a, url: 'http://127.0.0.1:9/mjpeg', username: u, password: { file: s } }]", false),
        ("streams: [{ id: a, url: 'https://10.0.0.7/mjpeg', username: u, password: { file: s } }]", false),
        ("streams: [{ id: a, url: 'http://10.0.0.7/mjpeg' }]", false),
        ("streams: [{ id: a, url: 'rtsp://10.0.0.7/', username: u, password: { file: s } }]", false),
        ("sinks: [{ type: mqtt, url: 'mqtt://broker', username: u, password: { file: s } }]", true),
        ("sinks: [{ type: mqtt, url: 'mqtt://localhost', username: u, password: { file: s } }]", false),
        ("sinks: [{ type: mqtt, url: 'mqtts://broker', username: u, password: { file: s } }]", false),
        ("sinks: [{ type: nats, url: 'nats://[fd00::7]', password: { file: s } }]", true),
        ("sinks: [{ type: nats, url: 'nats://[::1]', password: { file: s } }]", false),
        ("sinks: [{ type: webhook, url: 'http://hub/', headers: { Authorization: { file: s } } }]", true),
        ("sinks: [{ type: webhook, url: 'http://hub/?token=x' }]", true),
        ("sinks: [{ type: webhook, url: 'http://hub/' }]", false),
    ] {
        let streams = if text.starts_with("sinks") { "streams: [{ id: a, url: 'rtsp://h/' }]\n" } else { "" };
        let (code, said) = told(folder.path(), &format!("{REST}{streams}{text}\n"));
        assert_eq!((code, said.contains(clear)), (Some(0), warned), "{text}: {said}");
    }
}

#[test]
fn the_zone_of_an_address_is_an_interface_of_this_machine_and_refused_where_nothing_behind_it_understands_one() {
    let folder = tempfile::tempdir().unwrap();
    let listening = |zone: &str| {
        let text = format!(
            "model: {{ path: none }}\nstreams: [{{ id: a, url: 'rtsp://h/' }}]\napi: {{ listen: '[::1%{zone}]:0' }}\n"
        );
        told(folder.path(), &text)
    };
    for zone in ["lo", "1"] {
        let (code, said) = listening(zone);
        // A machine without IPv6 has no such address, which is another matter.
        assert!(code == Some(0) || said.contains("cannot be listened on"), "{zone}: {said}");
    }
    for zone in ["nowhere", "../lo"] {
        let (code, said) = listening(zone);
        assert_eq!(code, Some(2), "{zone}: {said}");
        assert!(said.contains("[fe80::1%eth0]:8642 with an interface of this machine"), "{zone}: {said}");
    }
    for (stream, sink, refused) in [
        ("rtsp://[fe80::1%25eth0]/s", "{ type: mqtt, url: 'mqtt://[fe80::1%2]' }", None),
        ("https://[fe80::1%eth0]/s", "{ type: mqtt, url: 'mqtt://h' }", None),
        ("rtsp://h", "{ type: mqtt, url: 'mqtts://[fe80::1%2]' }", Some("url: has an IPv6 zone, ")),
        ("rtsp://h", "{ type: webhook, url: 'https://[fe80::1%25eth0]/x' }", Some("url: has an IPv6 zone, ")),
        ("rtsp://h", "{ type: nats, url: 'nats://[fe80::1%eth0]' }", Some("url: has an IPv6 zone, ")),
        ("rtsp://[fe80::1%25]/s", "{ type: jsonl, path: '-' }", Some("with the interface of this machine behind %25")),
        (
            "rtsp://[fe80::1%eth 0]/s",
            "{ type: jsonl, path: '-' }",
            Some("with the interface of this machine behind %25"),
        ),
    ] {
        let text = format!("{REST}streams: [{{ id: a, url: '{stream}' }}]\nsinks: [{sink}]\n");
        let (code, said) = told(folder.path(), &text);
        assert_eq!(code, Some(if refused.is_some() { 2 } else { 0 }), "{said}");
        assert!(said.contains(refused.unwrap_or_default()), "{said}");
    }
}
