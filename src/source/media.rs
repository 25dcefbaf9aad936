//! What kind of media came: whether the end of a stream is the end of a recording or a live stream that broke off, and whether there
//! ever was a video.
//!
//! In: a pipeline that has come to its end, and how many frames there were. Out: an [`Ending`]. Looks at elements, asks nothing of
//! them that could hang except in [`has_length`]; any thread.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::Location;

/// What the end of a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// A file is at its end.
    Recording,
    /// A live stream that should have gone on.
    Live,
    /// A recording if it has a duration and, over HTTP, a length; else live.
    ByDuration,
    /// There was one picture and nothing to follow, as from a camera's address for snapshots.
    SinglePicture,
}

/// What the end of `pipeline` is, after `frames` frames.
pub(super) fn ending(pipeline: &gst::Pipeline, location: &Location, frames: u64) -> Ending {
    let elements: Vec<gst::Element> = match location {
        Location::File(_) => return Ending::Recording,
        Location::Rtsp(_)
        | Location::V4l2(_)
        | Location::Rtmp(_)
        | Location::Srt(_)
        | Location::Udp(_)
        | Location::Push(_) => return Ending::Live,
        Location::Http(_) | Location::Template(_) => pipeline.iterate_recurse().into_iter().flatten().collect(),
    };
    // An RTSP camera may claim a duration (`a=range`), and multipart pictures may get one by guessing from their sizes.
    let kinds: Vec<Kind> = elements.iter().filter_map(Kind::of).collect();
    if elements.iter().any(|element| reads(element, "rtsp")) || kinds.contains(&Kind::Multipart) {
        return Ending::Live;
    }
    let pictures = kinds.contains(&Kind::Picture) && !kinds.contains(&Kind::Container);
    if pictures && frames <= 1 && elements.iter().any(|element| reads(element, "http")) {
        return Ending::SinglePicture;
    }
    Ending::ByDuration
}

/// Whether whatever comes over HTTP was told to have an end. A live stream in pieces of MP4 has a duration too, that of what has come; a playlist tells
/// by itself whether it is complete.
pub(super) fn has_length(pipeline: &gst::Pipeline) -> bool {
    let elements: Vec<gst::Element> = pipeline.iterate_recurse().into_iter().flatten().collect();
    elements.iter().any(is_adaptive)
        || elements
            .iter()
            .filter(|element| reads(element, "http"))
            .all(|source| source.query_duration::<gst::format::Bytes>().is_some() || told_length(source))
}

/// Whether the server has told it: the source forgets that at the end, not what it has sent of the answer's headers.
fn told_length(source: &gst::Element) -> bool {
    let mut told = false;
    for pad in source.src_pads() {
        pad.sticky_events_foreach(|event| {
            let headers = event.structure().and_then(|event| event.get::<gst::Structure>("response-headers").ok());
            told |= headers.is_some_and(|headers| {
                headers.fields().any(|name| name.as_str().eq_ignore_ascii_case("content-length"))
            });
            std::ops::ControlFlow::Continue(gst::EventForeachAction::Keep)
        });
    }
    told
}

/// Whether `element` follows a playlist (HLS, DASH).
pub(super) fn is_adaptive(element: &gst::Element) -> bool {
    element.metadata(gst::ELEMENT_METADATA_KLASS).is_some_and(|class| class.contains("Adaptive"))
}

/// Whether `element` is a source for this kind of address.
pub(super) fn reads(element: &gst::Element, scheme: &str) -> bool {
    let handler = element.dynamic_cast_ref::<gst::URIHandler>().filter(|h| h.uri_type() == gst::URIType::Src);
    handler.is_some_and(|handler| handler.protocols().iter().any(|protocol| protocol == scheme))
}

/// What an element was fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Multipart,
    Container,
    Picture,
}

impl Kind {
    fn of(element: &gst::Element) -> Option<Self> {
        let class = element.metadata(gst::ELEMENT_METADATA_KLASS).unwrap_or_default();
        if !["Demuxer", "Parser", "Decoder"].iter().any(|kind| class.contains(kind)) {
            return None;
        }
        let caps = element.static_pad("sink")?.current_caps()?;
        let name = caps.structure(0)?.name();
        match name.split_once('/')? {
            ("multipart", _) => Some(Self::Multipart),
            // Also a container for animations, such as GIF.
            ("image", _) => Some(Self::Picture),
            // Titles that a radio station puts in between.
            (_, "x-icy") => None,
            _ if class.contains("Demuxer") => Some(Self::Container),
            _ => None,
        }
    }
}
