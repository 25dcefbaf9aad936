//! What can go wrong with a source, told apart by what to do about it.
//!
//! In: GStreamer's bus errors and what this stage finds out itself. Out: [`SourceError`]s that name stream, place (without
//! credentials), element and remedy. Pure, any thread.

use std::fmt;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::scrub::Scrubber;

/// Which stream, where, and in which element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub stream: String,
    /// URL or path, without credentials and query.
    pub place: String,
    /// Name of the GStreamer element; empty where none is to blame.
    pub element: String,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} ({}", self.stream, self.place)?;
        if !self.element.is_empty() {
            write!(f, ", element {}", self.element)?;
        }
        f.write_str(")")
    }
}

/// Why a connection ended. Messages hold no credential.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    #[error("{at}: the credentials were refused: {detail}; check username and password")]
    Credentials { at: At, detail: String },
    #[error(
        "{at}: the certificate cannot be trusted: {detail}; install its authority on this machine or use the name in it"
    )]
    Certificate { at: At, detail: String },
    #[error("{at}: {detail}")]
    Connection { at: At, detail: String },
    #[error("{at}: nothing is there: {detail}; check the address")]
    NotFound { at: At, detail: String },
    #[error("{at}: the live stream ended")]
    Ended { at: At },
    #[error("{at}: the name {host} cannot be resolved: {why}; check its spelling and this machine's DNS")]
    Unresolved { at: At, host: String, why: String },
    #[error("{at}: cannot connect: {why}")]
    Unreachable { at: At, why: &'static str },
    /// Nothing comes at all.
    #[error("{at}: no picture for {silence:.1?}: nothing arrives; the camera or the network on the way to it hangs")]
    Stalled { at: At, silence: Duration },
    /// Data comes, and nothing can be made of it.
    #[error(
        "{at}: no picture for {silence:.1?}, though data arrives; it is damaged or too slow, or the camera's keyframes are \
         further apart than that (shorten their interval in the camera, or raise `reconnect.first_frame`)"
    )]
    NoPicture { at: At, silence: Duration },
    /// A state change did not return.
    #[error("{at}: its pipeline does not start within {waited:.1?}; a device, a driver or a file system hangs")]
    Wedged { at: At, waited: Duration },
    #[error(
        "{at}: {count} pipelines of it hang and could not be stopped, no more are made until one ends; look at the device \
         and its driver, and restart vtagd"
    )]
    Hanging { at: At, count: usize },
    #[error("{at}: this is not a video that can be read: {detail}")]
    NotVideo { at: At, detail: String },
    #[error("{at}: no decoder for it: {detail}; install the GStreamer plug-in or choose H.264, H.265 or MJPEG")]
    Codec { at: At, detail: String },
    #[error(
        "{at}: its {codec} pictures are too large, not decoded: {why}; raise `sampling.max_pixels` if they are to be"
    )]
    TooLarge { at: At, codec: String, why: String },
    #[error(
        "{at}: how large its {codec} pictures are cannot be told before they are decoded, so they are not; choose H.264, H.265 \
         or MJPEG"
    )]
    SizeUnknown { at: At, codec: String },
    #[error("{at}: decoding failed: {detail}")]
    Decode { at: At, detail: String },
    #[error("{at}: the pipeline template cannot be used: {detail}")]
    Template { at: At, detail: String },
}

/// What to do about a [`SourceError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again soon; cameras come back.
    Retry,
    /// Try again, but seldom: only a person can mend it, and trying often makes it worse.
    RetrySlowly,
    /// Trying again cannot help.
    GiveUp,
}

impl SourceError {
    /// The GStreamer element that failed; empty where none is to blame.
    pub fn element(&self) -> &str {
        match self {
            Self::Credentials { at, .. }
            | Self::Certificate { at, .. }
            | Self::Connection { at, .. }
            | Self::NotFound { at, .. }
            | Self::Ended { at }
            | Self::Stalled { at, .. }
            | Self::Unresolved { at, .. }
            | Self::Unreachable { at, .. }
            | Self::NoPicture { at, .. }
            | Self::Wedged { at, .. }
            | Self::Hanging { at, .. }
            | Self::NotVideo { at, .. }
            | Self::Codec { at, .. }
            | Self::TooLarge { at, .. }
            | Self::SizeUnknown { at, .. }
            | Self::Decode { at, .. }
            | Self::Template { at, .. } => &at.element,
        }
    }

    /// What to do when the source is a camera or a server (`file` false), or a file, which does not mend itself.
    pub fn decision(&self, file: bool) -> Decision {
        match self {
            Self::Template { .. } => Decision::GiveUp,
            _ if file => Decision::GiveUp,
            Self::Credentials { .. }
            | Self::Certificate { .. }
            | Self::NotVideo { .. }
            | Self::Codec { .. }
            | Self::TooLarge { .. }
            | Self::SizeUnknown { .. }
            | Self::Hanging { .. } => Decision::RetrySlowly,
            Self::Connection { .. }
            | Self::NotFound { .. }
            | Self::Ended { .. }
            | Self::Unresolved { .. }
            | Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::NoPicture { .. }
            | Self::Wedged { .. }
            | Self::Decode { .. } => Decision::Retry,
        }
    }

    /// Tells what an error message on the bus means.
    pub(super) fn from_bus(message: &gst::message::Error, at: At, scrubber: &Scrubber) -> Self {
        let error = message.error();
        let debug = message.debug().map(|d| d.to_string()).unwrap_or_default();
        let element = message.src().map(|s| s.name().to_string()).unwrap_or_default();
        Self::classify(&error, &debug, At { element, ..at }, scrubber)
    }

    fn classify(error: &glib::Error, debug: &str, at: At, scrubber: &Scrubber) -> Self {
        // Before it is cut: half a password is too much.
        let detail = detail(&scrubber.scrub(error.message()), &scrubber.scrub(debug));
        if let Some(kind) = error.kind::<gst::ResourceError>() {
            return match kind {
                gst::ResourceError::NotAuthorized => Self::Credentials { at, detail },
                gst::ResourceError::NotFound => Self::NotFound { at, detail },
                _ if is_certificate(error.message()) || is_certificate(debug) => Self::Certificate { at, detail },
                _ => Self::Connection { at, detail },
            };
        }
        if let Some(kind) = error.kind::<gst::StreamError>() {
            return match kind {
                gst::StreamError::TypeNotFound | gst::StreamError::WrongType | gst::StreamError::Demux => {
                    Self::NotVideo { at, detail }
                }
                gst::StreamError::CodecNotFound if is_picture(debug) => Self::Codec { at, detail },
                gst::StreamError::CodecNotFound => Self::NotVideo { at, detail },
                // Also what a demuxer says when none of its streams is a video.
                gst::StreamError::Failed if debug.contains("not-linked") => {
                    Self::NotVideo { at, detail: "it has no video stream".to_owned() }
                }
                gst::StreamError::Failed if debug.contains("not-negotiated") => {
                    let detail = format!("{detail}; end it with `videoconvert ! appsink name=sink`");
                    Self::Template { at, detail }
                }
                // A web source that cannot connect says no more than that its loop ended with an error.
                gst::StreamError::Failed if at.element == "source" && debug.contains("reason error") => {
                    let detail = "cannot connect; check host and port, and that the camera is on".to_owned();
                    Self::Connection { at, detail }
                }
                _ => Self::Decode { at, detail },
            };
        }
        match error.kind::<gst::CoreError>() {
            Some(gst::CoreError::MissingPlugin) if is_picture(debug) => Self::Codec { at, detail },
            Some(gst::CoreError::MissingPlugin) => Self::NotVideo { at, detail },
            _ => Self::Connection { at, detail },
        }
    }
}

/// Whether what could not be decoded is a picture at all: a decoder may also be missing for a web page.
fn is_picture(debug: &str) -> bool {
    ["(video/", "(image/", "media=(string)video"].iter().any(|kind| debug.contains(kind))
}

/// GIO's TLS errors come as text only.
fn is_certificate(text: &str) -> bool {
    text.contains("certificate") || text.contains("Certificate")
}

/// GStreamer's message and the part of its debug text that a person can use: what follows the source position and the path
/// of the element, on one line and not too long.
fn detail(message: &str, debug: &str) -> String {
    const LIMIT: usize = 300;
    let rest = debug.split_once('\n').map_or("", |(_, rest)| rest);
    let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = message.trim().trim_end_matches('.').to_owned();
    if !rest.is_empty() {
        text.push_str(": ");
        text.push_str(&rest);
    }
    if let Some((end, _)) = text.char_indices().nth(LIMIT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn classify(error: glib::Error, debug: &str) -> SourceError {
        let at = At { stream: "dock".into(), place: "rtsp://10.0.0.1/a".into(), element: "source".into() };
        SourceError::classify(&error, debug, at, &Scrubber::of([Secret::new("hunter2")]))
    }

    #[test]
    fn a_refused_password_is_retried_slowly_and_never_shown() {
        let error = glib::Error::new(gst::ResourceError::NotAuthorized, "Unauthorized");
        let error = classify(error, "gstrtspsrc.c(1): f (): /x:\nhunter2 was wrong");
        assert_eq!(error.decision(false), Decision::RetrySlowly);
        let text = error.to_string();
        assert!(text.contains("stream dock") && text.contains("check username") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_lost_connection_is_retried_for_a_camera_and_final_for_a_file() {
        let error = classify(glib::Error::new(gst::ResourceError::Read, "Could not read from resource."), "");
        assert_eq!(error.decision(false), Decision::Retry);
        assert_eq!(error.decision(true), Decision::GiveUp);
    }

    #[test]
    fn an_untrusted_certificate_is_told_apart_from_a_dead_camera() {
        let error = glib::Error::new(gst::ResourceError::OpenReadWrite, "Could not open resource");
        let error = classify(error, "c(1): f (): /x:\nFailed to connect. (Unacceptable TLS certificate)");
        assert!(matches!(error, SourceError::Certificate { .. }), "{error}");
    }

    #[test]
    fn a_missing_decoder_for_a_page_of_text_means_that_it_is_no_video() {
        let missing = |what: &str| {
            let error = glib::Error::new(gst::CoreError::MissingPlugin, "Your installation is missing a plug-in");
            classify(error, &format!("c(1): f (): /x:\nMissing decoder: {what}"))
        };
        assert!(matches!(missing("AV1 (video/x-av1, width=(int)320)"), SourceError::Codec { .. }));
        assert!(matches!(missing("text/html (text/html)"), SourceError::NotVideo { .. }));
    }

    #[test]
    fn details_are_one_short_line() {
        let debug = format!("file.c(1): f (): /pipe:\nfirst\n  second {}", "x".repeat(1000));
        let text = detail("Something failed.", &debug);
        assert!(text.starts_with("Something failed: first second x"), "{text}");
        assert!(text.chars().count() <= 301 && !text.contains('\n'));
    }
}
