//! Joins a pipeline to the [`PipelineTap`]: a probe behind the decoder asks whether a frame is wanted, the pipeline's end hands over the wanted ones.
//!
//! In: a pipeline that does not run yet. Out: what comes of it, to the tap, on GStreamer's streaming threads. Holds nothing. Full, closed: see the tap.

use std::sync::Arc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::pipeline_tap::PipelineTap;
use super::pipeline_template::Parts;
use super::{gate, picture};

/// Joins a pipeline to `feed`: `entry` is the pad behind the decoder where unwanted frames end, `sink` the pipeline's end. Coded
/// frames end at the [`gate`]; `own` says that the pipeline is a user's own template.
pub(super) fn attach(feed: &Arc<PipelineTap>, connection: u64, parts: &Parts) {
    let Parts { pipeline, entry, sink, own, family } = parts;
    gate::attach(feed, connection, pipeline, *own, *family);
    gate::end_events(entry);
    let probe = Arc::clone(feed);
    entry.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        if !probe.is_clipped(connection, buffer.pts())
            && probe.is_decoded_sampled(connection, time_of(pad, buffer), buffer.pts())
        {
            gst::PadProbeReturn::Ok
        } else {
            // Not `Drop`: the bindings have taken the buffer out by then, and GStreamer before 1.24 would complain about that
            // for every frame. `Handled` lets go of it just the same.
            gst::PadProbeReturn::Handled
        }
    });
    if let Some(pad) = sink.static_pad("sink") {
        picture::ask_for_room(&pad, *own || family.is_some());
    }
    let feed = Arc::clone(feed);
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
            feed.deliver(connection, &sample, sink.upcast_ref());
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    sink.set_callbacks(callbacks);
}

/// A frame's place on its pipeline's line of running time. Some containers (AVI) tell when a frame is decoded, not when it is shown: that counts where nothing else
/// does. A frame without any time stamp gets the time of its arrival.
pub(super) fn time_of(pad: &gst::Pad, buffer: &gst::BufferRef) -> Duration {
    let running = buffer.pts().or(buffer.dts()).map(|pts| {
        let segment = pad.sticky_event::<gst::event::Segment>(0);
        let segment = segment.as_ref().and_then(|event| event.segment().downcast_ref::<gst::ClockTime>());
        segment.map_or(pts, |segment| match segment.start() {
            // The line begins there.
            Some(start) if pts < start => gst::ClockTime::ZERO,
            _ => segment.to_running_time(pts).unwrap_or(pts),
        })
    });
    let arrival = || pad.parent_element().and_then(|element| element.current_running_time());
    running.or_else(arrival).map(Duration::from).unwrap_or_default()
}

/// The time stamp from which on something is to be played: an edit list may leave out what is before.
pub(super) fn beginning(pad: &gst::Pad) -> Option<gst::ClockTime> {
    let segment = pad.sticky_event::<gst::event::Segment>(0)?;
    let segment = segment.segment().downcast_ref::<gst::ClockTime>()?;
    segment.start().filter(|_| segment.rate() > 0.0)
}
