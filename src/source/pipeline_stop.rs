//! Stops a pipeline so that it can be let go of.
//!
//! `decodebin` changes to PAUSED asynchronously. An error that an element of it tells meanwhile ends that change: for GStreamer (1.22) the bin
//! is then still READY while its elements play. Where the pipeline goes to READY the bin has nothing to do, and does not even succeed in that if
//! another error is told at that moment, as by a decoder that nobody listens to any more. What stands before it is then not stopped. A
//! pipeline that is let go of so keeps its threads and its connection, and where the bin still holds back a pad, GStreamer ends the process.
//!
//! In: a pipeline in whatever state. Out: whether all of it has stopped; one that has not must be kept. Takes as long as its elements do.

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

/// Brings `bin` and everything in it to NULL; `false`: something of it goes on all the same.
pub(super) fn stop(bin: &gst::Bin) -> bool {
    if bin.set_state(gst::State::Null).is_ok() {
        return true;
    }
    // One by one each element starts from its own state.
    for element in bin.iterate_elements().into_iter().flatten() {
        match element.downcast_ref::<gst::Bin>() {
            Some(inner) => _ = stop(inner),
            None => _ = element.set_state(gst::State::Null),
        }
    }
    bin.set_state(gst::State::Null).is_ok()
}

/// Pipelines that refuse to stop: as long as the process lives, as it does not survive their end. A stream has
/// [`AbandonedPipelines::MOST`](super::run_with_timeout::AbandonedPipelines::MOST) of them at most.
static REFUSING: Mutex<Vec<gst::Pipeline>> = Mutex::new(Vec::new());

/// Stops `pipeline` and drops it. `false`: it refuses, and is never dropped.
pub(super) fn stop_and_let_go(pipeline: gst::Pipeline) -> bool {
    let stopped = stop(pipeline.upcast_ref());
    if !stopped {
        REFUSING.lock().push(pipeline);
    }
    stopped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As with a camera whose first picture is followed by nonsense: the decoder's pad is held back still.
    #[test]
    fn what_fails_before_its_first_picture_is_stopped_and_let_go_of() {
        gst::init().unwrap();
        let description = "videotestsrc is-live=true name=source ! jpegenc ! decodebin ! fakesink async=false";
        let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
        pipeline.connect_deep_element_added(|_, _, element| {
            let is_decoder = element.factory().is_some_and(|factory| factory.name() == "jpegdec");
            let Some(pad) = element.static_pad("sink").filter(|_| is_decoder) else { return };
            let decoder = element.downgrade();
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
                let Some(decoder) = decoder.upgrade() else { return gst::PadProbeReturn::Drop };
                gst::element_error!(decoder, gst::StreamError::Failed, ("broken"));
                while !pad.pad_flags().contains(gst::PadFlags::FLUSHING) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // As decoders do that find nobody behind them any more.
                gst::element_error!(decoder, gst::StreamError::Failed, ("broken"));
                gst::PadProbeReturn::Drop
            });
        });
        let (bus, source) = (pipeline.bus().unwrap(), pipeline.by_name("source").unwrap());
        pipeline.set_state(gst::State::Playing).unwrap();
        let error = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Error]);
        assert!(error.is_some(), "the decoder gets a picture");
        if pipeline.set_state(gst::State::Null).is_ok() {
            eprintln!("skipped: this GStreamer stops it by itself");
            return;
        }
        assert!(stop(pipeline.upcast_ref()));
        assert_eq!(source.state(gst::ClockTime::ZERO).1, gst::State::Null);
        let elements: Vec<_> = pipeline.iterate_recurse().into_iter().flatten().map(|e| e.downgrade()).collect();
        bus.set_flushing(true);
        drop((source, bus, error, pipeline));
        assert!(elements.iter().all(|element| element.upgrade().is_none()));
    }
}
