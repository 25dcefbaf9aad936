//! What a playlist on the web (HLS, DASH) may name: addresses of the web. GStreamer would open files and devices of this machine for it too, and show them to
//! whoever may add a stream.
//!
//! In: every element that is added to the pipeline of a web source. Out: one that reads something else is told, which ends the connection, and gives
//! nothing. On GStreamer's streaming threads, one of which waits until the pipeline is stopped.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::Location;
use super::error::{At, SourceError};

/// To be called before `pipeline`, which plays what is at `location`, runs.
pub(super) fn watch(
    pipeline: &gst::Pipeline,
    location: &Location,
    at: At,
    refuse: impl Fn(SourceError) + Send + Sync + 'static,
) {
    if !matches!(location, Location::Http(_)) {
        return;
    }
    pipeline.connect_deep_element_added(move |_, _, element| {
        if is_from_elsewhere(element) {
            if let Some(pad) = element.static_pad("src") {
                pad.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| gst::PadProbeReturn::Ok);
            }
            let detail = "what is there names something that is not on the web (a file or device of this machine, another way of sending), which is not read; give that as the stream's `url` instead".to_owned();
            refuse(SourceError::Connection { at: at.clone(), detail });
        }
    });
}

fn is_from_elsewhere(element: &gst::Element) -> bool {
    let handler =
        element.dynamic_cast_ref::<gst::URIHandler>().filter(|handler| handler.uri_type() == gst::URIType::Src);
    let is_web = |scheme: &str| ["http", "https", "data"].iter().any(|web| web.eq_ignore_ascii_case(scheme));
    handler.is_some_and(|handler| match handler.uri() {
        Some(uri) => !uri.split_once(':').is_some_and(|(scheme, _)| is_web(scheme)),
        None => !handler.protocols().iter().any(|scheme| is_web(scheme)),
    })
}
