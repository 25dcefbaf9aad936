//! What this machine's GStreamer can take in and decode: its registry is asked for the elements that a stream would need, and hardware decoders
//! are opened. Nothing is connected to. For `vtagd doctor`; on the caller's thread, but for devices, which are opened on threads of their own.

use gstreamer as gst;

use super::decoders;

/// Something that streams may need, and what gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ability {
    /// As a user would say it: `H.264`, `rtsp://`.
    pub what: &'static str,
    /// Without it most cameras cannot be watched.
    pub is_basic: bool,
    /// Any of them will do.
    elements: &'static [&'static str],
    /// Debian's package with the first of them.
    pub package: &'static str,
    /// The element that is there.
    pub found: Option<&'static str>,
}

const fn ability(
    what: &'static str,
    is_basic: bool,
    elements: &'static [&'static str],
    package: &'static str,
) -> Ability {
    Ability { what, is_basic, elements, package, found: None }
}

const BASE: &str = "gstreamer1.0-plugins-base";
const GOOD: &str = "gstreamer1.0-plugins-good";
const BAD: &str = "gstreamer1.0-plugins-bad";
const LIBAV: &str = "gstreamer1.0-libav";

static KINDS: [Ability; 8] = [
    ability("rtsp://", true, &["rtspsrc"], GOOD),
    ability("http://", true, &["souphttpsrc"], GOOD),
    ability("files", true, &["decodebin", "decodebin3"], BASE),
    ability("udp://", false, &["tsdemux"], BAD),
    ability("srt://", false, &["srtsrc"], BAD),
    ability("rtmp://", false, &["rtmp2src", "rtmpsrc"], BAD),
    ability("HLS", false, &["hlsdemux", "hlsdemux2"], BAD),
    ability("v4l2://", false, &["v4l2src"], GOOD),
];

static CODECS: [Ability; 8] = [
    ability("H.264", true, &["avdec_h264", "openh264dec"], LIBAV),
    ability("H.265", true, &["avdec_h265", "libde265dec"], LIBAV),
    ability("JPEG", true, &["jpegdec", "avdec_mjpeg"], GOOD),
    ability("MPEG-4", false, &["avdec_mpeg4"], LIBAV),
    ability("MPEG-2", false, &["avdec_mpeg2video", "mpeg2dec"], LIBAV),
    ability("VP8", false, &["vp8dec", "avdec_vp8"], GOOD),
    ability("VP9", false, &["vp9dec", "avdec_vp9"], GOOD),
    ability("AV1", false, &["dav1ddec", "av1dec", "avdec_av1"], BAD),
];

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Such as `GStreamer 1.22.0`.
    pub version: String,
    pub kinds: Vec<Ability>,
    pub codecs: Vec<Ability>,
    /// Families of hardware decoders; why one cannot be used.
    pub hardware: Vec<(&'static str, Result<(), String>)>,
}

/// Which version of GStreamer this is, such as `GStreamer 1.22.0`.
///
/// # Errors
/// GStreamer does not start.
pub fn version() -> Result<String, String> {
    gst::init().map_err(|error| error.to_string())?;
    Ok(gst::version_string().to_string())
}

/// Looks at all of it.
///
/// # Errors
/// As [`version`].
pub fn look() -> Result<Abilities, String> {
    let version = version()?;
    let find = |table: &[Ability]| table.iter().map(|ability| Ability { found: first(ability), ..*ability }).collect();
    Ok(Abilities { version, kinds: find(&KINDS), codecs: find(&CODECS), hardware: decoders::survey() })
}

fn first(ability: &Ability) -> Option<&'static str> {
    ability.elements.iter().copied().find(|element| gst::ElementFactory::find(element).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_set_up_installs_is_found_and_what_nobody_has_is_not() {
        let found = look().unwrap();
        assert!(found.version.starts_with("GStreamer 1."), "{}", found.version);
        for ability in found.kinds.iter().chain(&found.codecs).filter(|ability| ability.is_basic) {
            assert!(ability.found.is_some(), "{ability:?}");
        }
        assert_eq!(found.hardware.len(), 4);
        assert_eq!(first(&ability("nothing", false, &["no-such-element"], BASE)), None);
    }
}
