//! Checks where the pictures of a stream come from, and how they come: its address, its credentials, `transport`, `tls`, `push`.
//!
//! In: a stream as written. Out: a [`Location`] and what goes with it, or what is wrong. Reads the files that are named; any thread.

use std::path::Path;

use super::schema::Stream;
use super::schema_sources::{SourceTls, Verify};
use crate::platform::secret::{Secret, is_secret_key};
use crate::platform::tls::{self, CertificateFingerprint, Trust};
use crate::platform::zoned_url::ZonedUrl;
use crate::source::{CameraTls, Location, PushSettings, Transport};
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::{address, checks, secrets};

const SCHEMES: &str = "use rtsp://, rtsps://, http://, https://, file://, v4l2://, rtmp://, rtmps://, srt://, udp:// or \
                       push://";

/// How pictures come from where they come from.
#[derive(Default)]
pub(super) struct Way {
    pub transport: Transport,
    pub tls: CameraTls,
    pub push: Option<PushSettings>,
}

/// `transport`, `tls` and `push` of `raw`, whose pictures come from `location`. `None`: a problem has been reported.
pub(super) fn way(raw: &Stream, location: &Location, reader: &mut Reader<'_>) -> Option<Way> {
    let is_rtsp = matches!(location, Location::Rtsp(_));
    if let Some(at) = raw.transport.given().filter(|_| !is_rtsp) {
        reader.warn(at, "is not used: only rtsp:// and rtsps:// have a choice", "remove it");
    }
    let encrypted = location.url().is_some_and(|url| matches!(url.scheme(), "rtsps" | "https" | "rtmps"));
    if let Some(at) = raw.tls.given().filter(|_| !encrypted) {
        let message = "is not used: only rtsps://, https:// and rtmps:// are encrypted";
        reader.warn(at, message, "remove it, or use such an address");
    }
    let tls = match raw.tls.given() {
        Some(given) => {
            let tls = trusted(given, reader)?;
            let of_rtmp = location.url().is_some_and(|url| url.scheme() == "rtmps");
            if of_rtmp && matches!(tls, CameraTls::Ca(_) | CameraTls::Fingerprint(_)) {
                let message = "cannot be had with rtmps://: what reads it knows the authorities of this machine alone";
                return reader.refuse(given, message, "install its authority on this machine, or write `verify: off`");
            }
            tls
        }
        None => CameraTls::default(),
    };
    let is_pushed = matches!(location, Location::Push(_));
    if let Some(at) = raw.push.given().filter(|_| !is_pushed) {
        return reader.refuse(at, "is only for a `url` of push://NAME", "remove it, or let the pictures be sent here");
    }
    let push = raw.push.given().map(|at| &at.value);
    let token = push.and_then(|push| push.token.given()).map(|token| (token, secrets::resolve(token, reader)));
    let token = match token {
        Some((_, None)) => return None,
        Some((at, Some(token))) => {
            let good = token.is_absent() || token.expose().bytes().all(|byte| byte.is_ascii_graphic());
            if !good {
                return reader.refuse(
                    at,
                    "holds a space, or a character that no header can carry",
                    "openssl rand -hex 32",
                );
            }
            Some(token)
        }
        None => None,
    };
    if matches!(push.map(|push| &push.token), Some(Field::Wrong)) {
        return None;
    }
    let hold = match push.and_then(|push| push.hold.given()) {
        Some(at) if at.value.is_zero() => return reader.refuse(at, "must be above 0", "write, for example, 1s"),
        hold => hold.map(|at| at.value),
    };
    let transport = raw.transport.value().unwrap_or_default();
    Some(Way { transport, tls, push: is_pushed.then_some(PushSettings { token, hold }) })
}

fn trusted(at: &At<SourceTls>, reader: &mut Reader<'_>) -> Option<CameraTls> {
    let raw = &at.value;
    let given = usize::from(!raw.ca.is_missing())
        + usize::from(!raw.fingerprint.is_missing())
        + usize::from(!raw.verify.is_missing());
    if given > 1 {
        return reader.refuse(at, "has more than one of `ca`, `fingerprint` and `verify`", "keep one of them");
    }
    if let Some(file) = raw.ca.given() {
        let path = checks::existing_file(file, "name a PEM file of certificate authorities", reader)?;
        if let Err(error) = tls::of(&Trust { ca: Some(path.clone()), identity: None }) {
            return reader.refuse(file, error, "name a PEM file of certificate authorities");
        }
        return Some(CameraTls::Ca(path));
    }
    if let Some(fingerprint) = raw.fingerprint.given() {
        return match fingerprint.value.parse::<CertificateFingerprint>() {
            Ok(parsed) => Some(CameraTls::Fingerprint(parsed)),
            Err(why) => {
                let remedy = "`vtagd check --probe` prints it: 64 hexadecimal digits, with colons or without";
                reader.refuse(fingerprint, format!("is not the SHA-256 of a certificate: {why}"), remedy)
            }
        };
    }
    match raw.verify.given() {
        Some(verify) if verify.value == Verify::Off => {
            let message = "whoever is on the way can be the camera, read its password and show what he likes";
            reader.warn(
                verify,
                message,
                "pin the camera's certificate with `fingerprint`, which `vtagd check --probe` prints",
            );
            Some(CameraTls::Off)
        }
        _ if given == 0 || matches!(raw.verify, Field::Given(_)) => Some(CameraTls::System),
        _ => None,
    }
}

/// Whether `url` has a port, which nobody can guess here.
fn with_port(at: &At<String>, url: &ZonedUrl, example: &str, reader: &mut Reader<'_>) -> Option<()> {
    let found = url.port();
    reader.accept(at, found.is_some(), "has no port", format!("write, for example, {example}")).map(drop)
}

pub(super) type Target = (Location, Option<String>, Option<Secret>);

/// Where the frames come from, and the credentials for it.
pub(super) fn place(at: &At<Stream>, reader: &mut Reader<'_>) -> Option<Target> {
    let raw = &at.value;
    let password = raw.password.given().and_then(|password| secrets::resolve(password, reader));
    let username = raw.username.value();
    let location = match (&raw.url, &raw.pipeline) {
        (Field::Missing, Field::Missing) => {
            reader.missing(at, "url", format!("{SCHEMES}, or name your own template with `pipeline`"));
            None
        }
        (Field::Given(_), Field::Given(pipeline)) => {
            reader.refuse(pipeline, "cannot stand beside `url`", "keep one of them; a template names its own source")
        }
        (_, Field::Given(pipeline)) => checks::existing_file(pipeline, "name a pipeline template", reader)
            .map(|path| (Location::Template(path), None, None)),
        (Field::Given(url), _) => url_location(url, !raw.password.is_missing(), reader),
        _ => None,
    };
    let (location, url_username, url_password) = location?;
    let has_none = match location {
        Location::File(_) | Location::V4l2(_) => Some("a file or device"),
        Location::Udp(_) => Some("what is sent over UDP"),
        Location::Push(_) => Some("who sends pictures shows `push.token`; the stream itself"),
        _ => None,
    };
    if let Some(what) = has_none {
        if let Some(username) = raw.username.given() {
            reader.warn(username, format!("is not used: {what} has no user"), "remove it");
        }
        if let Some(password) = raw.password.given() {
            reader.warn(password, format!("is not used: {what} has no password"), "remove it");
        }
    }
    if let Some(url) = raw.url.given()
        && (url_username.is_some() || url_password.is_some())
    {
        if (url_username.is_some() && !raw.username.is_missing())
            || (url_password.is_some() && !raw.password.is_missing())
        {
            address::report_credentials(url, true, reader);
            return None;
        }
        address::report_credentials(url, false, reader);
    }
    let password = password.or(url_password);
    if matches!(raw.password, Field::Wrong) || (raw.password.given().is_some() && password.is_none()) {
        return None;
    }
    Some((location, username.or(url_username), password))
}

fn url_location(url: &At<String>, has_password: bool, reader: &mut Reader<'_>) -> Option<Target> {
    let text = url.value.trim();
    match address::scheme(text).as_deref() {
        Some(scheme @ ("rtsp" | "rtsps" | "http" | "https")) => {
            let address = address::zoned(url, reader)?;
            if address.url.query_pairs().any(|(key, _)| is_secret_key(&key)) {
                let message = "seems to hold a credential in its query, which cannot be kept apart from the address";
                reader.warn(url, message, "use `username` and `password` if the camera takes them");
            }
            // Cameras that speak RTSPS are few, and most take RTSP's passwords as digests.
            if scheme == "http" {
                let sent = has_password || address.password.is_some();
                address::report_plain(url, &address.url, sent, "use https:// if the camera has it", reader);
            }
            let location = if scheme.starts_with("rtsp") { Location::Rtsp } else { Location::Http };
            Some((location(address.url), address.username, address.password))
        }
        Some(scheme @ ("rtmp" | "rtmps")) => {
            let address = address::zoned(url, reader)?;
            if scheme == "rtmp" {
                let sent = has_password || address.password.is_some();
                address::report_plain(url, &address.url, sent, "use rtmps:// if the server has it", reader);
            }
            Some((Location::Rtmp(address.url), address.username, address.password))
        }
        Some("srt") => {
            let address = address::zoned(url, reader)?;
            with_port(url, &address.url, "srt://192.0.2.7:9000", reader)?;
            if address.url.query_pairs().any(|(key, _)| key == "passphrase") {
                let message = "holds a passphrase in its query, which cannot be kept apart from the address";
                reader.warn(url, message, "write it as `password`");
            }
            Some((Location::Srt(address.url), address.username, address.password))
        }
        Some("udp") => {
            let address = address::zoned(url, reader)?;
            with_port(url, &address.url, "udp://0.0.0.0:5000, or udp://239.1.2.3:5000 for a group", reader)?;
            Some((Location::Udp(address.url), None, None))
        }
        Some("push") => {
            let name = text.split_once("://").map_or("", |(_, name)| name);
            let name = At { value: name.trim_end_matches('/').to_owned(), ..url.clone() };
            super::streams::is_name(&name, "a name behind push://", "front-door", reader).then_some((
                Location::Push(name.value),
                None,
                None,
            ))
        }
        Some("file") => {
            let path = address::local(text, reader.document().file_of(url.place));
            checks::is_file(url, path, "name a video file, such as file:///srv/clip.mp4", reader)
                .map(|path| (Location::File(path), None, None))
        }
        Some("v4l2") => {
            let path = address::local(text, Path::new("/"));
            if path == Path::new("/") || !path.is_absolute() {
                return reader.refuse(url, "names no device", "write, for example, v4l2:///dev/video0");
            }
            Some((Location::V4l2(path), None, None))
        }
        Some(scheme) => {
            let known = ["rtsp", "rtsps", "http", "https", "file", "v4l2", "rtmp", "rtmps", "srt", "udp", "push"];
            let remedy = match crate::yaml::nearest(scheme, &known) {
                Some(near) => format!("did you mean {near}://? Known: {}", known.join(", ")),
                None => SCHEMES.to_owned(),
            };
            reader.refuse(url, format!("has the unknown scheme {scheme}://"), remedy)
        }
        None => {
            let remedy = match text {
                device if device.starts_with("/dev/") => format!("write v4l2://{device}"),
                path if path.starts_with('/') => format!("write file://{path}"),
                _ => SCHEMES.to_owned(),
            };
            reader.refuse(url, "has no scheme", remedy)
        }
    }
}
