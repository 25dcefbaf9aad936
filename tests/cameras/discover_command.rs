//! `vtagd discover` against cameras on loopback: honest, hostile, mute.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Output;

use crate::common::daemon::vtagd;
use crate::common::onvif::{Behaviour, Device, Instead, Responder, answer, scopes};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Long enough for a busy machine; the command takes this long.
const TIME: &str = "4s";
const PASSWORD: &str = "hunter2-äß&<";

fn discover(responder: &Responder, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = vtagd(folder.path());
    // A proxy is not for the camera in the next room.
    command
        .env("CAMERA_PASSWORD", PASSWORD)
        .env("http_proxy", "http://127.0.0.1:9")
        .env("HTTP_PROXY", "http://127.0.0.1:9");
    command
        .args(["discover", "--timeout", TIME, "--target", &responder.address.to_string()])
        .args(more)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The devices in `--json`, after a run that ended well.
fn devices(responder: &Responder, more: &[&str]) -> Vec<Value> {
    let output = discover(responder, &[more, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A camera that answers every probe.
fn camera(device: &Device, name: &str) -> Responder {
    let (xaddr, scopes) = (device.xaddr(), scopes(name));
    Responder::start(move |id| vec![answer(id, "urn:uuid:cam-1", &scopes, &xaddr)])
}

/// Feeds a printed block to `vtagd check`.
fn check(folder: &Path, block: &str) -> Output {
    let file = folder.join("vtagd.yaml");
    fs::write(&file, format!("model: {{ path: none }}\n{block}")).unwrap();
    vtagd(folder)
        .env("CAMERA_PASSWORD", PASSWORD)
        .env("VTAGD__API__LISTEN", "127.0.0.1:0")
        .args(["check", "-c"])
        .arg(&file)
        .output()
        .unwrap()
}

const LOGIN: [&str; 4] = ["--username", "viewer", "--password-env", "CAMERA_PASSWORD"];

#[test]
fn a_camera_that_wants_a_password_gives_a_block_that_check_accepts() {
    // Its clock stands in another year: a request must be signed for its time.
    let behaviour = Behaviour { login: Some(("viewer", PASSWORD)), skew: -500_000_000, ..Behaviour::default() };
    let device = Device::start(behaviour);
    let responder = camera(&device, "Dock%20Camera%203");
    let output = discover(&responder, &[&LOGIN[..], &["-vv"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let block = out(&output);
    for wanted in [
        "streams:\n",
        "# Dock Camera 3, at 127.0.0.1",
        "# hardware: HW-1",
        "# location: city/x",
        "# profile mainStream: h264, 1920x1080, 25 frames/s",
        "- id: dock-camera-3\n    url: \"rtsp://127.0.0.1:554/live/1?unicast=1&x=y\"\n    username: \"viewer\"\n    password: { env: \"CAMERA_PASSWORD\" }",
        "- id: dock-camera-3-substream\n    enabled: false\n    url: \"rtsp://127.0.0.1:554/live/2?unicast=1&x=y\"",
    ] {
        assert!(block.contains(wanted), "no {wanted:?} in:\n{block}");
    }
    let folder = tempfile::tempdir().unwrap();
    let checked = check(folder.path(), &block);
    assert!(checked.status.success() && out(&checked).contains("ok: 2 streams"), "{}{}", out(&checked), err(&checked));
    // Neither shown nor sent.
    for text in [&block, &err(&output), &device.heard()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_password_may_come_from_a_file_wherever_the_block_goes() {
    let device = Device::start(Behaviour { login: Some(("viewer", PASSWORD)), ..Behaviour::default() });
    let responder = camera(&device, "gate");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pass word"), format!("{PASSWORD}\n")).unwrap();
    let mut command = vtagd(folder.path());
    command.current_dir(folder.path()).args([
        "discover",
        "--timeout",
        TIME,
        "--target",
        &responder.address.to_string(),
    ]);
    let output = command.args(["--username", "viewer", "--password-file", "pass word"]).output().unwrap();
    assert!(out(&output).contains("/live/1?"), "{}{}", out(&output), err(&output));
    let elsewhere = tempfile::tempdir().unwrap();
    let checked = check(elsewhere.path(), &out(&output));
    assert!(checked.status.success(), "{}{}", out(&output), err(&checked));
}

#[test]
fn the_newer_media_service_is_preferred_as_only_it_knows_h265() {
    let device = Device::start(Behaviour { new: true, ..Behaviour::default() });
    let found = devices(&camera(&device, "gate"), &[]);
    assert_eq!(found.len(), 1);
    let expected = serde_json::json!({
        "id": "gate",
        "name": "gate",
        "address": "127.0.0.1",
        "xaddrs": [device.xaddr()],
        "scopes": ["onvif://www.onvif.org/name/gate", "onvif://www.onvif.org/hardware/HW-1", "onvif://www.onvif.org/location/city/x"],
        "hardware": "HW-1",
        "location": "city/x",
        "streams": [
            { "profile": "mainStream", "url": "rtsp://127.0.0.1:554/live/1?unicast=1&x=y", "codec": "h265", "width": 1920, "height": 1080, "frame_rate": 25.0, "incomplete": false, "elsewhere": false },
            { "profile": "subStream", "url": "rtsp://127.0.0.1:554/live/2?unicast=1&x=y", "codec": "jpeg", "width": 640, "height": 360, "frame_rate": 5.0, "incomplete": false, "elsewhere": false },
        ],
        "error": null,
    });
    assert_eq!(found[0], expected);
}

#[test]
fn a_wrong_password_is_told_and_the_block_says_how_to_go_on() {
    let device = Device::start(Behaviour { login: Some(("viewer", "another")), new: true, ..Behaviour::default() });
    let output = discover(&camera(&device, "gate"), &LOGIN);
    assert_eq!(output.status.code(), Some(0));
    // Once: cameras lock accounts.
    assert_eq!(device.heard().matches("<s:UsernameToken>").count(), 1, "{}", device.heard());
    let block = out(&output);
    assert!(block.contains("# it refused the username or the password"), "{block}");
    assert!(block.contains("is a guess") && block.contains("url: \"rtsp://127.0.0.1:554/\""), "{block}");
    let folder = tempfile::tempdir().unwrap();
    assert!(check(folder.path(), &block).status.success(), "{block}");
    assert!(!format!("{block}{}", err(&output)).contains("hunter2"));
}

#[test]
fn without_a_user_a_camera_that_wants_one_says_so() {
    let device = Device::start(Behaviour { login: Some(("viewer", PASSWORD)), ..Behaviour::default() });
    let found = devices(&camera(&device, "gate"), &[]);
    assert!(found[0]["error"].as_str().unwrap().contains("--username"), "{found:?}");
    assert_eq!(found[0]["streams"], serde_json::json!([]));
    assert!(!device.heard().contains("UsernameToken"));
}

#[test]
fn who_does_not_ask_for_credentials_does_not_see_any() {
    let device = Device::start(Behaviour::default());
    let found = devices(&camera(&device, "gate"), &LOGIN);
    assert_eq!(found[0]["streams"].as_array().unwrap().len(), 2);
    assert!(!device.heard().contains("UsernameToken"), "{}", device.heard());
}

#[test]
fn credentials_inside_a_streams_address_are_not_shown() {
    let device =
        Device::start(Behaviour { stream: "admin:topsecret@127.0.0.1:554/live".into(), ..Behaviour::default() });
    let output = discover(&camera(&device, "gate"), &[]);
    assert!(out(&output).contains("url: \"rtsp://127.0.0.1:554/live/1?unicast=1&x=y\""), "{}", out(&output));
    let device = Device::start(Behaviour {
        stream: "127.0.0.1:554/user=admin_password=topsecret_x".into(),
        ..Behaviour::default()
    });
    let hidden = discover(&camera(&device, "gate"), &[]);
    assert!(out(&hidden).contains("its address holds a credential"), "{}", out(&hidden));
    assert!(!format!("{}{}{}{}", out(&output), err(&output), out(&hidden), err(&hidden)).contains("topsecret"));
    let folder = tempfile::tempdir().unwrap();
    assert!(check(folder.path(), &out(&hidden)).status.success());
}

#[test]
fn a_stream_on_another_host_is_printed_switched_off() {
    let device = Device::start(Behaviour { stream: "192.0.2.9:554/live".into(), ..Behaviour::default() });
    let block = out(&discover(&camera(&device, "gate"), &[]));
    assert!(
        block.contains("- id: gate-mainstream\n    enabled: false\n    url: \"rtsp://192.0.2.9:554/live/1"),
        "{block}"
    );
    assert!(block.contains("names another host"), "{block}");
}

#[test]
fn a_camera_that_answers_many_times_is_listed_once() {
    let device = Device::start(Behaviour::default());
    let (xaddr, other) = (device.xaddr(), format!("https://{}/onvif/other", device.address));
    let responder = Responder::start(move |id| {
        let first = answer(id, "urn:uuid:cam-1", &scopes("gate"), &xaddr);
        vec![
            first.clone(),
            first,
            answer(id, "urn:uuid:cam-1", "", &other),
            answer(id, "urn:uuid:cam-2", &scopes("gate"), &xaddr),
        ]
    });
    let found = devices(&responder, &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0]["xaddrs"].as_array().unwrap().len(), 2, "{found:?}");
    // The same name twice: the address tells them apart, and the same address is followed by a number.
    assert_eq!((found[0]["id"].as_str(), found[1]["id"].as_str()), (Some("gate-127-0-0-1"), Some("gate-127-0-0-1-2")));
}

#[test]
fn answers_that_are_damaged_or_meant_for_others_do_no_harm_to_the_one_that_is_good() {
    let device = Device::start(Behaviour::default());
    let xaddr = device.xaddr();
    let responder = Responder::start(move |id| {
        let good = answer(id, "urn:uuid:good", &scopes("good"), &xaddr);
        let foreign =
            answer("uuid:00000000-0000-4000-8000-000000000000", "urn:uuid:foreign", &scopes("foreign"), &xaddr);
        let lol = format!(
            "<!DOCTYPE x [<!ENTITY a \"{}\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]><x>&b;&b;&b;</x>",
            "lol".repeat(1000)
        );
        let bomb = [lol.into_bytes(), answer(id, "urn:uuid:bomb", &scopes("bomb"), &xaddr)].concat();
        let deep = "<a>".repeat(20_000).into_bytes();
        let wide = format!("<a {}/>", (0..8000).map(|n| format!("b{n}=''")).collect::<String>()).into_bytes();
        let cut = good[..good.len() / 2].to_vec();
        vec![
            vec![],
            vec![0; 60_000],
            vec![0xff; 1000],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            foreign,
            bomb,
            deep,
            wide,
            cut,
            good,
        ]
    });
    let output = discover(&responder, &["--json", "-vv"]);
    assert_eq!(output.status.code(), Some(0));
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = found.iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["good"]);
    assert!(!err(&output).contains("panicked"), "{}", err(&output));
}

#[test]
fn a_name_full_of_escapes_reaches_neither_terminal_nor_yaml() {
    let device = Device::start(Behaviour::default());
    // ESC, BEL, CR LF, CSI, next line, line separator, right-to-left override; then YAML.
    let name = "a%1B%5D0;owned%07%0D%0A%C2%9B2J%C2%85%E2%80%A8%E2%80%AE%0A%20%20-%20id:%20evil%0A%20%20%20%20url:%20rtsp://evil/";
    let responder = camera(&device, name);
    let output = discover(&responder, &["-vv"]);
    let block = out(&output);
    for text in [&block, &err(&output)] {
        let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{2028}' | '\u{202e}'));
        assert_eq!(bad, None, "{text:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let checked = check(folder.path(), &block);
    assert!(checked.status.success() && out(&checked).contains("ok: 2 streams"), "{block}\n{}", err(&checked));
}

#[test]
fn only_the_address_that_answered_is_connected_to() {
    // 127.0.0.2 stands for somebody else's server.
    let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let other = elsewhere.local_addr().unwrap();
    let device = Device::start(Behaviour {
        instead: Some(Instead::Redirect(format!("http://{other}/x"))),
        ..Behaviour::default()
    });
    let redirecting = device.xaddr();
    let responder = Responder::start(move |id| {
        vec![
            answer(
                id,
                "urn:1",
                &scopes("elsewhere"),
                &format!("http://{other}/x http://localhost:{}/x file:///etc/passwd", other.port()),
            ),
            answer(id, "urn:2", &scopes("redirects"), &redirecting),
        ]
    });
    let found = devices(&responder, &LOGIN);
    assert!(found[0]["error"].as_str().unwrap().contains("no web address of its own"), "{found:?}");
    assert!(found[1]["error"].as_str().unwrap().contains("302"), "{found:?}");
    assert!(elsewhere.accept().is_err(), "somebody came");
}

#[test]
fn a_media_service_with_another_host_is_asked_at_the_cameras_own() {
    let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let device = Device::start(Behaviour { new: true, ..Behaviour::default() });
    // A camera with two networks names the other one; its port is its own.
    let behaviour = Behaviour {
        new: true,
        media_host: Some(format!("127.0.0.2:{}", device.address.port())),
        ..Behaviour::default()
    };
    let first = Device::start(behaviour);
    let found = devices(&camera(&first, "gate"), &[]);
    assert_eq!(found[0]["streams"].as_array().unwrap().len(), 2, "{found:?}");
    assert!(device.heard().contains("GetProfiles") && !first.heard().contains("GetProfiles"));
}

#[test]
fn services_that_answer_too_much_or_nonsense_are_given_up() {
    let flood = Device::start(Behaviour { instead: Some(Instead::Flood(64)), ..Behaviour::default() });
    let junk =
        Device::start(Behaviour { instead: Some(Instead::Body("<html>\u{1b}[2J".into())), ..Behaviour::default() });
    let gone = format!("http://127.0.0.1:{}/x", crate::common::camera::free_port());
    let addresses = [flood.xaddr(), junk.xaddr(), gone];
    let responder = Responder::start(move |id| {
        let one = |(number, xaddr): (usize, &String)| {
            answer(id, &format!("urn:{number}"), &scopes(&format!("c{number}")), xaddr)
        };
        addresses.iter().enumerate().map(one).collect()
    });
    let found = devices(&responder, &[]);
    let errors: Vec<&str> = found.iter().map(|device| device["error"].as_str().unwrap()).collect();
    let [flood, junk, gone] = errors[..] else { panic!("{found:?}") };
    assert!(
        flood.contains("larger than 1 MiB") && junk.contains("cannot be read") && gone.contains("cannot be reached"),
        "{errors:?}"
    );
}

#[test]
fn nobody_there_is_no_failure() {
    let responder = Responder::start(|_| Vec::new());
    let output = discover(&responder, &["--json"]);
    assert_eq!((output.status.code(), out(&output).trim()), (Some(0), "[]"));
    assert_eq!(err(&output).trim(), "no camera answered");
    let output = discover(&responder, &[]);
    assert_eq!((output.status.code(), out(&output)), (Some(0), String::new()));
}

#[test]
fn the_question_goes_out_by_multicast_on_the_interface_that_was_named() {
    let device = Device::start(Behaviour::default());
    let xaddr = device.xaddr();
    let socket = group();
    let responder =
        Responder::on(socket, move |id| vec![answer(id, "urn:uuid:multicast", &scopes("multicast"), &xaddr)]);
    let folder = tempfile::tempdir().unwrap();
    let mut command = vtagd(folder.path());
    let output = command.args(["discover", "--timeout", TIME, "--interface", "127.0.0.1", "--json"]).output().unwrap();
    drop(responder);
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.iter().filter(|device| device["name"] == "multicast").count(), 1, "{found:?}{}", err(&output));
}

/// A member of WS-Discovery's group on loopback; others may be one too.
fn group() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let group = Ipv4Addr::new(239, 255, 255, 250);
    socket.bind(&SocketAddrV4::new(group, 3702).into()).unwrap();
    let socket = UdpSocket::from(socket);
    socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
    socket
}

#[test]
fn wrong_input_ends_with_2_and_repeats_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let mut command = vtagd(folder.path());
        let output = command.args(["discover", "--timeout", "1s"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
        err(&output)
    };
    assert!(refused(&["--username", "a", "--password-env", "NOT_SET"]).contains("NOT_SET is not set"));
    assert!(refused(&["--username", "a", "--password-file", "absent"]).contains("absent"));
    assert!(!refused(&["--username", "a", "--password-env", "hunter2!"]).contains("hunter2"));
    refused(&["--password-env", "HOME"]);
    refused(&["--target", "camera.local"]);
    refused(&["--timeout", "1h"]);
    // An address of no machine (RFC 5737).
    assert!(refused(&["--interface", "203.0.113.1"]).contains("no address of this machine"));
}
