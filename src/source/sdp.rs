//! A camera's description of its streams (SDP), mended where rtspsrc is stricter than cameras are. Pure.

use std::net::IpAddr;

/// RTP's own clock for pictures (RFC 3551 and those of each format): nothing else is allowed, whatever is said.
const CLOCK: u32 = 90_000;

/// Formats that have it.
const FORMATS: [&str; 14] = [
    "H261",
    "H263",
    "H263-1998",
    "H263-2000",
    "H264",
    "H265",
    "AV1",
    "JPEG",
    "MP2T",
    "MP4V-ES",
    "MPV",
    "THEORA",
    "VP8",
    "VP9",
];

/// What becomes of a multicast group that a description names (`c=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Groups {
    /// It is where nothing is sent: rtspsrc would ask for multicast alone, and for nothing at all where that was not wanted.
    #[default]
    Dropped,
    Kept,
}

/// `description` with an address (`a=control`) for each medium that has none, the clock that a picture format has by its standard, and no multicast groups
/// unless they are kept; `None` where nothing is amiss. A medium without an address has the session's, and if that is none either, `base`.
pub(super) fn mended(description: &str, base: &str, groups: Groups) -> Option<String> {
    let lines: Vec<&str> = description.lines().collect();
    let first = lines.iter().position(|line| line.starts_with("m=")).unwrap_or(lines.len());
    let (session, media) = lines.split_at(first);
    let sessions = session.iter().find_map(|line| control(line)).filter(|control| control.contains("://"));
    let address = sessions.unwrap_or(base);
    let connected = |line: &str| match groups {
        Groups::Dropped => without_group(line),
        Groups::Kept => line.to_owned(),
    };
    let mut mended: Vec<String> = session.iter().map(|line| connected(line)).collect();
    for medium in media.chunk_by(|_, next| !next.starts_with("m=")) {
        let pictures = medium.first().is_some_and(|line| line.starts_with("m=video"));
        let whole = |line: &&str| if pictures { clocked(&connected(line)) } else { connected(line) };
        mended.extend(medium.iter().map(whole));
        if !medium.iter().any(|line| control(line).is_some()) {
            mended.push(format!("a=control:{address}"));
        }
    }
    let changed = mended.len() != lines.len() || mended.iter().zip(&lines).any(|(new, old)| new != old);
    changed.then(|| mended.join("\r\n") + "\r\n")
}

fn control(line: &str) -> Option<&str> {
    line.strip_prefix("a=control:").map(str::trim_ascii).filter(|control| !control.is_empty())
}

/// A line `c=IN IP4 239.1.2.3/127` with the address of nobody.
fn without_group(line: &str) -> String {
    let is_group = || {
        let address = line.strip_prefix("c=")?.split_ascii_whitespace().nth(2)?;
        let address: IpAddr = address.split('/').next()?.parse().ok()?;
        address.is_multicast().then_some(address)
    };
    match is_group() {
        Some(IpAddr::V4(_)) => "c=IN IP4 0.0.0.0".to_owned(),
        Some(IpAddr::V6(_)) => "c=IN IP6 ::".to_owned(),
        None => line.to_owned(),
    }
}

/// A line `a=rtpmap:96 H264/1000` with the clock that H.264 has.
fn clocked(line: &str) -> String {
    let mend = || {
        let (number, format) = line.strip_prefix("a=rtpmap:")?.split_once(' ')?;
        let (name, clock) = format.trim().split_once('/')?;
        let clock = clock.split('/').next()?.trim();
        let known = FORMATS.iter().any(|known| known.eq_ignore_ascii_case(name));
        (known && clock != CLOCK.to_string()).then(|| format!("a=rtpmap:{number} {name}/{CLOCK}"))
    };
    mend().unwrap_or_else(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: &str = "rtsp://10.0.0.1/cam/";

    fn mended(description: &str, base: &str) -> Option<String> {
        super::mended(description, base, Groups::Dropped)
    }

    #[test]
    fn what_is_well_is_left_alone() {
        let text = "v=0\r\na=control:*\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:t0\r\n";
        assert_eq!(mended(text, BASE), None);
        assert_eq!(mended("", BASE), None);
    }

    #[test]
    fn media_without_an_address_have_the_sessions_or_the_base() {
        let text = "v=0\na=control:*\nm=video 0 RTP/AVP 96\nm=audio 0 RTP/AVP 0\na=control:t1\n";
        let expected = "v=0\r\na=control:*\r\nm=video 0 RTP/AVP 96\r\na=control:rtsp://10.0.0.1/cam/\r\n\
                        m=audio 0 RTP/AVP 0\r\na=control:t1\r\n";
        assert_eq!(mended(text, BASE).as_deref(), Some(expected));
        let text = text.replace('*', "rtsp://h/x");
        assert!(mended(&text, BASE).unwrap().contains("96\r\na=control:rtsp://h/x\r\n"));
    }

    #[test]
    fn pictures_have_the_clock_of_their_format_and_sound_has_its_own() {
        let text = "m=video 0 RTP/AVP 96\na=control:a\na=rtpmap:96 h264/1000\nm=audio 0 RTP/AVP 8\na=control:b\na=rtpmap:8 PCMA/8000\n";
        let mended = mended(text, BASE).unwrap();
        assert!(mended.contains("96 h264/90000") && mended.contains("PCMA/8000"), "{mended}");
    }

    #[test]
    fn nothing_is_sent_to_a_group_unless_it_is_kept() {
        let text = "v=0\nc=IN IP4 239.1.2.3/127\nm=video 0 RTP/AVP 96\nc=IN IP6 ff15::101/3\na=control:a\n";
        let expected = "v=0\r\nc=IN IP4 0.0.0.0\r\nm=video 0 RTP/AVP 96\r\nc=IN IP6 ::\r\na=control:a\r\n";
        assert_eq!(mended(text, BASE).as_deref(), Some(expected));
        assert_eq!(super::mended(text, BASE, Groups::Kept), None);
        let alone = "c=IN IP4 10.0.0.1\nc=IN IP6 fe80::1\nc=IN IP4 cam.lan\nc=\n";
        assert_eq!(mended(alone, BASE), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail_and_what_is_mended_stays_so(text in "([vmasc]=[a-z:/*0-9 .]{0,20}\r?\n){0,12}") {
            if let Some(once) = mended(&text, BASE) {
                prop_assert_eq!(mended(&once, BASE), None);
            }
        }
    }
}
