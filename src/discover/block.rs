//! Devices as a `streams:` block for the configuration. Pure.
//!
//! Values are written as JSON strings, which are YAML too, and comments from clean text alone, so that nothing a device says can
//! become more than a value or a comment.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Device, Ids, Stream, guess, plain_text};

/// Where the configuration will find the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordFrom {
    /// An environment variable.
    Env(String),
    File(PathBuf),
}

/// One `streams:` block with every stream of `devices`; empty without any. Of a device with several streams the first is switched
/// on, as all of them show the same.
pub fn block(devices: &[Device], username: Option<&str>, password: Option<&PasswordFrom>) -> String {
    let mut out = String::new();
    if devices.is_empty() {
        return out;
    }
    let mut login = String::new();
    if let Some(username) = username {
        login = format!("    username: {}\n", quoted(username));
    }
    match password {
        Some(PasswordFrom::Env(name)) => login.push_str(&format!("    password: {{ env: {} }}\n", quoted(name))),
        Some(PasswordFrom::File(path)) => {
            login.push_str(&format!("    password: {{ file: {} }}\n", quoted(&path.display().to_string())));
        }
        None => {}
    }
    let mut ids = Ids::default();
    // No stream may take the id of a device that comes later.
    for device in devices {
        ids.take(&device.id);
    }
    out.push_str("streams:\n");
    for device in devices {
        one(&mut out, device, &login, &mut ids);
    }
    out
}

fn one(out: &mut String, device: &Device, login: &str, ids: &mut Ids) {
    // Writing into a string cannot fail.
    let mut line = |text: &str| {
        let _ = writeln!(out, "{text}");
    };
    let name = device.name.as_deref().unwrap_or("a camera without a name");
    line(&format!("  # {name}, at {}", device.address));
    let facts = [("hardware", &device.hardware), ("location", &device.location)];
    for (what, fact) in facts.into_iter().filter_map(|(what, fact)| Some((what, fact.as_ref()?))) {
        line(&format!("  # {what}: {fact}"));
    }
    let mut first = true;
    for stream in &device.streams {
        if stream.incomplete {
            line(&format!("  # {}", told(stream)));
            line(&format!("  # its address holds a credential, which is not shown: {}", stream.url));
            continue;
        }
        // Whoever connects to it shows it the camera's password, so a person has to want that.
        let on = first && !stream.elsewhere;
        let id = if on { device.id.clone() } else { ids.take(&format!("{}-{}", device.id, part(stream))) };
        line(&format!("  # {}", told(stream)));
        if stream.elsewhere {
            line("  # its address names another host than the one that answered: look at it before you switch it on");
        }
        line(&format!("  - id: {id}"));
        if !on {
            line("    enabled: false");
        }
        line(format!("    url: {}\n{login}", quoted(&stream.url)).trim_end());
        first &= !on;
    }
    if !first {
        return;
    }
    if let Some(error) = &device.error {
        line(&format!("  # {error}"));
    }
    line("  # this address is a guess: look up the path in the camera's manual, and try it with `vtagd check --probe`");
    line(&format!("  - id: {}", device.id));
    line(format!("    url: {}\n{login}", quoted(&guess(&device.address))).trim_end());
}

/// The part of an id that tells a device's streams apart.
fn part(stream: &Stream) -> String {
    Some(plain_text::slug(&stream.profile)).filter(|slug| !slug.is_empty()).unwrap_or_else(|| "stream".to_owned())
}

/// "profile main: h264, 1920x1080, 25 frames/s".
fn told(stream: &Stream) -> String {
    let size = stream.width.zip(stream.height).map(|(width, height)| format!("{width}x{height}"));
    let rate = stream.frame_rate.map(|rate| format!("{rate} frames/s"));
    let facts: Vec<String> = [stream.codec.clone(), size, rate].into_iter().flatten().collect();
    let told = if facts.is_empty() { "not told how it is coded".to_owned() } else { facts.join(", ") };
    format!("profile {}: {told}", stream.profile)
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{name, soap};
    use super::*;
    use crate::config;
    use crate::source::Location;

    fn stream(profile: &str, url: &str) -> Stream {
        Stream { profile: profile.into(), url: url.into(), ..Stream::default() }
    }

    /// Ids, addresses and whether they are on, as our own loader reads the block.
    fn loaded(block: &str, folder: &std::path::Path) -> Vec<(String, String, bool)> {
        let file = folder.join("vtagd.yaml");
        std::fs::write(&file, format!("model: {{ path: none }}\n{block}")).unwrap();
        let settings = config::load(&file).unwrap_or_else(|problems| panic!("{problems:#?}\n{block}"));
        let of = |stream: &config::StreamSettings| {
            let Location::Rtsp(url) = &stream.source.location else { panic!("no RTSP: {block}") };
            (stream.source.id.to_string(), url.to_string(), stream.enabled)
        };
        settings.streams.iter().map(of).collect()
    }

    #[test]
    fn the_block_is_a_configuration_with_the_first_stream_of_each_camera_switched_on() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("a \"secret\" # here");
        std::fs::write(&secret, "hunter2\n").unwrap();
        let mut devices = [
            Device {
                name: Some("Gate: # north".into()),
                address: "10.0.0.1".into(),
                location: Some("city/x".into()),
                streams: vec![
                    stream("main", "rtsp://10.0.0.1/1"),
                    stream("main", "rtsp://10.0.0.1/2"),
                    stream("副", "rtsp://10.0.0.1/3"),
                ],
                ..Device::default()
            },
            Device { address: "10.0.0.2".into(), error: Some("it wants a user".into()), ..Device::default() },
        ];
        name(&mut devices);
        let block = block(&devices, Some("o'neil: \"x\""), Some(&PasswordFrom::File(secret)));
        let wanted = [
            ("gate-north", "rtsp://10.0.0.1/1", true),
            ("gate-north-main", "rtsp://10.0.0.1/2", false),
            ("gate-north-stream", "rtsp://10.0.0.1/3", false),
            ("camera-10-0-0-2", "rtsp://10.0.0.2:554/", true),
        ];
        assert_eq!(loaded(&block, folder.path()), wanted.map(|(id, url, on)| (id.to_owned(), url.to_owned(), on)));
        assert!(
            block.contains("# location: city/x") && block.contains("# it wants a user") && block.contains("is a guess"),
            "{block}"
        );
        assert!(!block.contains("hunter2"));
    }

    #[test]
    fn an_address_with_a_credential_is_a_comment() {
        let folder = tempfile::tempdir().unwrap();
        let hidden = Stream { incomplete: true, ..stream("main", "rtsp://10.0.0.1/***") };
        let mut devices = [Device { address: "10.0.0.1".into(), streams: vec![hidden], ..Device::default() }];
        name(&mut devices);
        let block = block(&devices, None, None);
        assert_eq!(loaded(&block, folder.path()), [("camera-10-0-0-1".into(), "rtsp://10.0.0.1:554/".into(), true)]);
        assert!(block.contains("# its address holds a credential"), "{block}");
    }

    #[test]
    fn a_stream_on_another_host_is_not_switched_on() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = Stream { elsewhere: true, ..stream("main", "rtsp://192.0.2.9/1") };
        let own = stream("sub", "rtsp://10.0.0.1/2");
        let block_of = |streams: Vec<Stream>| {
            let mut devices = [Device { address: "10.0.0.1".into(), streams, ..Device::default() }];
            name(&mut devices);
            let block = block(&devices, None, None);
            assert!(block.contains("# its address names another host"), "{block}");
            loaded(&block, folder.path())
        };
        let wanted = |list: &[(&str, &str, bool)]| -> Vec<(String, String, bool)> {
            list.iter().map(|(id, url, on)| ((*id).to_owned(), (*url).to_owned(), *on)).collect()
        };
        let main = ("camera-10-0-0-1-main", "rtsp://192.0.2.9/1", false);
        let both = block_of(vec![elsewhere.clone(), own]);
        assert_eq!(both, wanted(&[main, ("camera-10-0-0-1", "rtsp://10.0.0.1/2", true)]));
        let alone = block_of(vec![elsewhere]);
        assert_eq!(alone, wanted(&[main, ("camera-10-0-0-1", "rtsp://10.0.0.1:554/", true)]));
    }

    #[test]
    fn nobody_makes_no_block() {
        assert_eq!(block(&[], Some("x"), None), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever a device calls itself and its profiles, its block parses, and it says what it should and nothing more.
        #[test]
        fn no_name_of_a_device_breaks_out_of_the_block(names in prop::collection::vec((any::<String>(), any::<String>()), 1..6)) {
            let folder = tempfile::tempdir().unwrap();
            let mut devices: Vec<Device> = names.iter().enumerate().map(|(number, (text, profile))| {
                let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
                let scopes = ["name", "hardware", "location"].map(|key| format!("onvif://www.onvif.org/{key}/{encoded}"));
                Device {
                    name: soap::said(&scopes, "name"),
                    hardware: soap::said(&scopes, "hardware"),
                    location: soap::said(&scopes, "location"),
                    address: format!("10.0.0.{number}"),
                    streams: vec![stream(&plain_text::clean(profile), "rtsp://10.0.0.1/1"), stream(&plain_text::clean(text), "rtsp://10.0.0.1/2")],
                    error: Some(plain_text::clean(text)),
                    ..Device::default()
                }
            }).collect();
            name(&mut devices);
            let block = block(&devices, None, None);
            prop_assert!(block.lines().all(|line| !line.chars().any(char::is_control)), "{block:?}");
            let loaded = loaded(&block, folder.path());
            prop_assert_eq!(loaded.len(), devices.len() * 2);
            prop_assert_eq!(loaded.iter().filter(|(.., on)| *on).count(), devices.len());
        }
    }
}
