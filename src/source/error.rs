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
use super::{Location, multipart};

/// What is told of a stream that ended although it was live.
pub const LIVE_ENDED: &str = "the live stream ended";

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

/// What there is too much of; each with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Bytes that are held.
    #[error(
        "more than {} MiB came that nothing could be made of: a picture or part without end, or one that is larger; lower the \
         picture's size or quality in the camera, or, if it is a file, let its server answer range requests",
        .0 >> 20
    )]
    Bytes(u64),
    /// Bytes of RTSP messages.
    #[error("its RTSP answer has more than {} MiB and does not end; is a camera there, and is its firmware up to date?", .0 >> 20)]
    Answer(u64),
    /// Bytes by which the daemon has grown.
    #[error("the daemon has grown by more than {} MiB while as much of this stream came, as it does if one of its streams has no end", .0 >> 20)]
    Growth(u64),
    #[error(
        "it names more than {0} senders (SSRC, CSRC) within minutes; is a camera there, and is its firmware up to date?"
    )]
    Senders(usize),
    #[error("it has more than {0} streams; choose one of them in the camera or its server")]
    Streams(usize),
    #[error("its pipeline has grown beyond {0} elements; the camera begins another stream again and again")]
    Elements(usize),
}

/// Why a connection ended. Messages hold no credential.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    #[error("{at}: the credentials were refused: {detail}; check username and password")]
    Credentials { at: At, detail: String },
    #[error(
        "{at}: the certificate cannot be trusted: {detail}; install its authority on this machine, name it (`tls.ca`), or use the name in it"
    )]
    Certificate { at: At, detail: String },
    #[error("{at}: {detail}")]
    Connection { at: At, detail: String },
    #[error("{at}: nothing is there: {detail}; check the address")]
    NotFound { at: At, detail: String },
    #[error("{at}: {LIVE_ENDED}")]
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
    /// What is sent does not fit what a user's own template makes of it.
    #[error(
        "{at}: the parts of the pipeline do not agree on a format: {detail}; end it with `videoconvert ! appsink name=sink`, \
         behind a decoder for what the camera sends"
    )]
    Format { at: At, detail: String },
    /// More than a connection may hold.
    #[error("{at}: {what}")]
    TooMuch { at: At, what: Excess },
    #[error(
        "{at}: a single picture, not a video; a stream's `url` is polled if a still picture is there, a `pipeline` is not: use the camera's MJPEG or \
         RTSP address"
    )]
    SinglePicture { at: At },
    /// What this process may not have, or the machine has not.
    #[error("{at}: {what}")]
    Shortage { at: At, what: String },
    /// It cannot be parsed or linked, or lacks an element that it must have. The configuration is wrong, whatever the camera sends.
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
        &self.at().element
    }

    /// Where it failed.
    pub fn at(&self) -> &At {
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
            | Self::Format { at, .. }
            | Self::TooMuch { at, .. }
            | Self::SinglePicture { at }
            | Self::Shortage { at, .. }
            | Self::Template { at, .. } => at,
        }
    }

    /// What to do. A file does not mend itself, nor does a template that cannot be used; a camera, a server or a device is never given
    /// up for what it sends.
    pub fn decision(&self, location: &Location) -> Decision {
        match self {
            Self::Template { .. } => Decision::GiveUp,
            // Neither a camera's fault nor a file's.
            Self::Shortage { .. } => Decision::Retry,
            _ if matches!(location, Location::File(_)) => Decision::GiveUp,
            Self::Credentials { .. }
            | Self::Certificate { .. }
            | Self::TooLarge { .. }
            | Self::SizeUnknown { .. }
            | Self::Format { .. }
            | Self::Hanging { .. }
            // Each byte of it costs a system call.
            | Self::TooMuch { what: Excess::Answer(_), .. } => Decision::RetrySlowly,
            // A camera that starts shows its login page, or something else that it is not going to send: the first wait is no longer for that.
            Self::NotVideo { .. } | Self::Codec { .. } | Self::SinglePicture { .. } => Decision::Retry,
            Self::Connection { .. }
            | Self::NotFound { .. }
            | Self::Ended { .. }
            | Self::Unresolved { .. }
            | Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::NoPicture { .. }
            | Self::Wedged { .. }
            | Self::TooMuch { .. }
            | Self::Decode { .. } => Decision::Retry,
        }
    }

    /// Tells what an error message on the bus means.
    pub(super) fn from_bus(message: &gst::message::Error, at: At, location: &Location, scrubber: &Scrubber) -> Self {
        let error = message.error();
        let debug = message.debug().map(|d| d.to_string()).unwrap_or_default();
        let element = message.src().map(|s| s.name().to_string()).unwrap_or_default();
        Self::classify(&error, &debug, At { element, ..at }, location, scrubber)
    }

    fn classify(error: &glib::Error, debug: &str, at: At, location: &Location, scrubber: &Scrubber) -> Self {
        let own = matches!(location, Location::Template(_));
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
                gst::StreamError::WrongType if error.message() == multipart::STILL => Self::SinglePicture { at },
                gst::StreamError::TypeNotFound | gst::StreamError::WrongType | gst::StreamError::Demux => {
                    Self::NotVideo { at, detail }
                }
                gst::StreamError::CodecNotFound if is_picture(debug) => Self::Codec { at, detail },
                gst::StreamError::CodecNotFound => Self::NotVideo { at, detail },
                // Also what a demuxer says when none of its streams is a video.
                gst::StreamError::Failed if debug.contains("not-linked") => {
                    Self::NotVideo { at, detail: "it has no video stream".to_owned() }
                }
                // Our own templates take whatever can be decoded: what came was damaged, or became something else.
                gst::StreamError::Failed if own && debug.contains("not-negotiated") => Self::Format { at, detail },
                gst::StreamError::Failed if matches!(location, Location::V4l2(_)) && debug.contains("reason error") => {
                    let detail =
                        "the device gives nothing; is it plugged in, and does no other program use it?".to_owned();
                    Self::Connection { at, detail }
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
            Some(gst::CoreError::Negotiation) if own => Self::Format { at, detail },
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
    use crate::platform::secret::Secret;

    fn classify(error: glib::Error, debug: &str) -> SourceError {
        let at = At { stream: "dock".into(), place: "rtsp://10.0.0.1/a".into(), element: "source".into() };
        SourceError::classify(&error, debug, at, &camera(), &Scrubber::of([Secret::new("hunter2")]))
    }

    fn camera() -> Location {
        Location::Rtsp("rtsp://10.0.0.1/a".parse().unwrap())
    }

    #[test]
    fn a_refused_password_is_retried_slowly_and_never_shown() {
        let error = glib::Error::new(gst::ResourceError::NotAuthorized, "Unauthorized");
        let error = classify(error, "gstrtspsrc.c(1): f (): /x:\nhunter2 was wrong");
        assert_eq!(error.decision(&camera()), Decision::RetrySlowly);
        let text = error.to_string();
        assert!(text.contains("stream dock") && text.contains("check username") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_lost_connection_is_retried_for_a_camera_and_final_for_a_file() {
        let error = classify(glib::Error::new(gst::ResourceError::Read, "Could not read from resource."), "");
        assert_eq!(error.decision(&camera()), Decision::Retry);
        assert_eq!(error.decision(&Location::File("a.mp4".into())), Decision::GiveUp);
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

    /// Every variant, and what is done about it where it is no file.
    fn variants() -> Vec<(SourceError, Decision)> {
        use Decision::{GiveUp, Retry, RetrySlowly};
        let at = || At { stream: "dock".into(), place: "x".into(), element: "source".into() };
        let (detail, silence) = (String::new, Duration::from_secs(1));
        let too_much = |what| SourceError::TooMuch { at: at(), what };
        let all = vec![
            (SourceError::Credentials { at: at(), detail: detail() }, RetrySlowly),
            (SourceError::Certificate { at: at(), detail: detail() }, RetrySlowly),
            (SourceError::Connection { at: at(), detail: detail() }, Retry),
            (SourceError::NotFound { at: at(), detail: detail() }, Retry),
            (SourceError::Ended { at: at() }, Retry),
            (SourceError::Unresolved { at: at(), host: detail(), why: detail() }, Retry),
            (SourceError::Unreachable { at: at(), why: "" }, Retry),
            (SourceError::Stalled { at: at(), silence }, Retry),
            (SourceError::NoPicture { at: at(), silence }, Retry),
            (SourceError::Wedged { at: at(), waited: silence }, Retry),
            (SourceError::Hanging { at: at(), count: 8 }, RetrySlowly),
            (SourceError::NotVideo { at: at(), detail: detail() }, Retry),
            (SourceError::Codec { at: at(), detail: detail() }, Retry),
            (SourceError::TooLarge { at: at(), codec: detail(), why: detail() }, RetrySlowly),
            (SourceError::SizeUnknown { at: at(), codec: detail() }, RetrySlowly),
            (SourceError::Decode { at: at(), detail: detail() }, Retry),
            (SourceError::Format { at: at(), detail: detail() }, RetrySlowly),
            (too_much(Excess::Bytes(64 << 20)), Retry),
            (too_much(Excess::Answer(4 << 20)), RetrySlowly),
            (too_much(Excess::Streams(32)), Retry),
            (too_much(Excess::Elements(256)), Retry),
            (too_much(Excess::Growth(128 << 20)), Retry),
            (too_much(Excess::Senders(256)), Retry),
            (SourceError::SinglePicture { at: at() }, Retry),
            (SourceError::Shortage { at: at(), what: detail() }, Retry),
            (SourceError::Template { at: at(), detail: detail() }, GiveUp),
        ];
        for (error, _) in &all {
            // A variant that is added has no line here: then it is missing above too.
            match error {
                SourceError::Credentials { .. }
                | SourceError::Certificate { .. }
                | SourceError::Connection { .. }
                | SourceError::NotFound { .. }
                | SourceError::Ended { .. }
                | SourceError::Unresolved { .. }
                | SourceError::Unreachable { .. }
                | SourceError::Stalled { .. }
                | SourceError::NoPicture { .. }
                | SourceError::Wedged { .. }
                | SourceError::Hanging { .. }
                | SourceError::NotVideo { .. }
                | SourceError::Codec { .. }
                | SourceError::TooLarge { .. }
                | SourceError::SizeUnknown { .. }
                | SourceError::Decode { .. }
                | SourceError::Format { .. }
                | SourceError::TooMuch { .. }
                | SourceError::SinglePicture { .. }
                | SourceError::Shortage { .. }
                | SourceError::Template { .. } => {}
            }
        }
        all
    }

    fn locations() -> [Location; 9] {
        let url = |text: &str| text.parse().unwrap();
        [
            Location::Rtsp(url("rtsp://10.0.0.1/a")),
            Location::Http(url("http://10.0.0.1/a")),
            Location::Rtmp(url("rtmp://10.0.0.1/a")),
            Location::Srt(url("srt://10.0.0.1:9000")),
            Location::Udp(url("udp://10.0.0.1:5000")),
            Location::Push("door".into()),
            Location::V4l2("/dev/video0".into()),
            Location::Template("mine.gst".into()),
            Location::File("a.mp4".into()),
        ]
    }

    #[test]
    fn only_a_template_that_cannot_be_used_and_a_file_are_ever_given_up() {
        for location in locations() {
            let file = matches!(location, Location::File(_));
            for (error, decision) in variants() {
                let ours = matches!(error, SourceError::Shortage { .. });
                let expected = if file && !ours { Decision::GiveUp } else { decision };
                assert_eq!(error.decision(&location), expected, "{location:?}: {error}");
            }
        }
    }

    #[test]
    fn no_error_of_a_running_pipeline_is_a_fault_of_the_configuration() {
        use gst::{CoreError, LibraryError, ResourceError, StreamError};
        let errors = [
            glib::Error::new(CoreError::Failed, "x"),
            glib::Error::new(CoreError::Negotiation, "x"),
            glib::Error::new(CoreError::Caps, "x"),
            glib::Error::new(CoreError::Pad, "x"),
            glib::Error::new(CoreError::StateChange, "x"),
            glib::Error::new(CoreError::MissingPlugin, "x"),
            glib::Error::new(LibraryError::Init, "x"),
            glib::Error::new(LibraryError::Settings, "x"),
            glib::Error::new(ResourceError::Settings, "x"),
            glib::Error::new(ResourceError::NotFound, "x"),
            glib::Error::new(ResourceError::Busy, "x"),
            glib::Error::new(ResourceError::Read, "x"),
            glib::Error::new(ResourceError::OpenRead, "x"),
            glib::Error::new(ResourceError::NoSpaceLeft, "x"),
            glib::Error::new(ResourceError::NotAuthorized, "x"),
            glib::Error::new(StreamError::Failed, "x"),
            glib::Error::new(StreamError::NotImplemented, "x"),
            glib::Error::new(StreamError::TypeNotFound, "x"),
            glib::Error::new(StreamError::WrongType, "x"),
            glib::Error::new(StreamError::CodecNotFound, "x"),
            glib::Error::new(StreamError::Decode, "x"),
            glib::Error::new(StreamError::Demux, "x"),
            glib::Error::new(StreamError::Format, "x"),
        ];
        let debugs = ["", "c(1): f (): /x:\nstreaming stopped, reason "].map(str::to_owned);
        let reasons = ["not-negotiated (-4)", "error (-5)", "not-linked (-1)", "not-supported (-6)"];
        let debugs = debugs.iter().flat_map(|debug| reasons.map(|reason| format!("{debug}{reason}")));
        for debug in debugs {
            for location in locations() {
                for (element, error) in ["source", "decoder"].iter().flat_map(|e| errors.iter().map(move |x| (e, x))) {
                    let at = At { stream: "dock".into(), place: "x".into(), element: (*element).to_owned() };
                    let error = SourceError::classify(error, &debug, at, &location, &Scrubber::default());
                    let given_up = error.decision(&location) == Decision::GiveUp;
                    assert_eq!(given_up, matches!(location, Location::File(_)), "{location:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn formats_that_do_not_fit_are_the_templates_own_fault_only_where_a_person_wrote_it() {
        let debug = "c(1): f (): /x:\nstreaming stopped, reason not-negotiated (-4)";
        for location in locations() {
            let at = At { stream: "dock".into(), place: "x".into(), element: "source".into() };
            let error = glib::Error::new(gst::StreamError::Failed, "Internal data stream error.");
            let error = SourceError::classify(&error, debug, at, &location, &Scrubber::default());
            let remedy = error.to_string().contains("end it with `videoconvert ! appsink name=sink`");
            assert_eq!(remedy, matches!(location, Location::Template(_)), "{location:?}: {error}");
        }
    }

    #[test]
    fn details_are_one_short_line() {
        let debug = format!("file.c(1): f (): /pipe:\nfirst\n  second {}", "x".repeat(1000));
        let text = detail("Something failed.", &debug);
        assert!(text.starts_with("Something failed: first second x"), "{text}");
        assert!(text.chars().count() <= 301 && !text.contains('\n'));
    }
}
