//! Whether anything arrives from the camera at all, counted before anything is decoded.
//!
//! In: the buffers that source elements give, and the packets that an RTP session is handed. Out: how many bytes came and how
//! long ago the last of them did, so that a camera that has gone silent is told apart from one whose data gives no picture.
//! Runs on GStreamer's streaming threads, with two atomic writes a packet; it holds nothing but its own numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;

/// What has arrived on one connection.
#[derive(Debug)]
pub(super) struct Arrivals {
    started: Instant,
    bytes: AtomicU64,
    /// Milliseconds from `started` to the last arrival.
    last: AtomicU64,
}

impl Arrivals {
    /// Starts counting for a pipeline that does not run yet.
    pub fn watch(pipeline: &gst::Pipeline) -> Arc<Self> {
        let arrivals = Arc::new(Self { started: Instant::now(), bytes: AtomicU64::new(0), last: AtomicU64::new(0) });
        for element in pipeline.iterate_recurse().into_iter().flatten() {
            arrivals.look_at(&element);
        }
        // rtspsrc makes its RTP session when it knows the streams.
        let later = Arc::clone(&arrivals);
        pipeline.connect_deep_element_added(move |_, _, element| later.look_at(element));
        arrivals
    }

    fn look_at(self: &Arc<Self>, element: &gst::Element) {
        if element.type_().name() == "GstRtpBin" {
            let arrivals = Arc::clone(self);
            element.connect_pad_added(move |_, pad| {
                if pad.name().starts_with("recv_rtp_sink") {
                    arrivals.count(pad);
                }
            });
        } else if element.element_flags().contains(gst::ElementFlags::SOURCE)
            && let Some(pad) = element.static_pad("src")
        {
            self.count(&pad);
        }
    }

    fn count(self: &Arc<Self>, pad: &gst::Pad) {
        let arrivals = Arc::clone(self);
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, info| {
            let bytes = match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => buffer.size(),
                Some(gst::PadProbeData::BufferList(list)) => list.iter().map(gst::BufferRef::size).sum(),
                _ => 0,
            };
            arrivals.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            let last = arrivals.started.elapsed().as_millis();
            arrivals.last.store(u64::try_from(last).unwrap_or(u64::MAX), Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether something has arrived within the last `time`.
    pub fn within(&self, time: Duration) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.bytes.load(Ordering::Relaxed) > 0 && self.started.elapsed().saturating_sub(last) <= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_gives_is_counted_before_it_is_understood() {
        gst::init().unwrap();
        let pipeline = gst::parse::launch("fakesrc num-buffers=3 sizetype=fixed sizemax=100 ! fakesink").unwrap();
        let pipeline: gst::Pipeline = pipeline.downcast().unwrap();
        let arrivals = Arrivals::watch(&pipeline);
        assert!(!arrivals.within(Duration::from_secs(60)));
        pipeline.set_state(gst::State::Playing).unwrap();
        let bus = pipeline.bus().unwrap();
        bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Eos]).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(arrivals.bytes.load(Ordering::Relaxed), 300);
        assert!(arrivals.within(Duration::from_secs(60)));
    }
}
