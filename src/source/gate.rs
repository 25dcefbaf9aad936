//! The gate before the decoder: asks the feed about each coded frame and lets through what is to be decoded.
//!
//! ```text
//! depayloader ─►│gate│─► parser ─►│drain│─► decoder ─► … ─►│entry│─► convert       cameras: as early as possible
//! demuxer ─► parser ─►│gate, drain│─► decoder ─► … ─►│entry│─► convert             files, own templates
//! ```
//!
//! In: coded frames, on the streaming thread. Out: those that are to be decoded. A lone keyframe comes out of the decoder at
//! once: a still-frame event behind it drains the decoder, which would otherwise keep it until it knows what follows. Full: what
//! is held back for `auto` is bounded by [`super::gop::Chooser::MAX_HELD`]. Closed: everything goes with the pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

use super::coded::{self, Codec};
use super::gop::{Mode, Verdict};
use super::pipeline_tap::{CodedFrame, PipelineTap};
use super::rtp_clock::RtpClock;
use super::tap_probes;

/// One connection's gate.
struct Gate {
    feed: Arc<PipelineTap>,
    connection: u64,
    /// Frames that do not come by RTP go by PTS alone.
    clock: Arc<RtpClock>,
    held: Mutex<Vec<gst::Buffer>>,
    /// Frames are judged behind the depayloader; before the decoder nothing is left to do but to drain it.
    early: AtomicBool,
    /// The hardware that is to decode.
    family: Option<&'static str>,
    /// Recordings that are played in real time: `pace` stands behind the decoder and never sees what ends here, so frames that
    /// end here take their time too. Without it a file would run ahead to its end between two wanted keyframes.
    paced: bool,
}

/// A pad that is flushing, or an element that plays, is noticed after so long at most.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A probe that pushes on through its own pad: what it pushes has been judged and passes.
#[derive(Default)]
struct Point {
    pushing: AtomicBool,
}

impl Point {
    fn is_pushing(&self) -> bool {
        self.pushing.load(Ordering::Relaxed)
    }

    /// A pad has one streaming thread at a time, which comes back through this probe while it pushes.
    fn push(&self, pad: &gst::Pad, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.pushing.store(true, Ordering::Relaxed);
        let result = match pad.direction() {
            gst::PadDirection::Src => pad.push(buffer),
            _ => pad.chain(buffer),
        };
        self.pushing.store(false, Ordering::Relaxed);
        result
    }
}

/// Watches `pipeline` for depayloaders and video decoders, those that are there and those that come. In a user's own template
/// (`own`) only a decoder that is called `decoder`, or that is in a bin called so, is gated: what else a person does with
/// their stream before decoding it is theirs.
pub(super) fn attach(
    feed: &Arc<PipelineTap>,
    connection: u64,
    pipeline: &gst::Pipeline,
    own: bool,
    family: Option<&'static str>,
) {
    let paced = pipeline.by_name("pace").is_some_and(|pace| {
        pace.find_property("sync").is_some_and(|property| property.value_type() == bool::static_type())
            && pace.property("sync")
    });
    let gate = Arc::new(Gate {
        feed: Arc::clone(feed),
        connection,
        clock: Arc::default(),
        held: Mutex::default(),
        early: AtomicBool::new(false),
        family,
        paced,
    });
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        gate.watch(&element, own);
    }
    pipeline.connect_deep_element_added(move |_, _, element| gate.watch(element, own));
}

/// Whether the element is a decoder of pictures.
pub(super) fn is_decoder(element: &gst::Element) -> bool {
    let class = element.metadata(gst::ELEMENT_METADATA_KLASS).unwrap_or_default();
    class.starts_with("Codec/Decoder") && (class.contains("Video") || class.contains("Image"))
}

fn is_depayloader(element: &gst::Element) -> bool {
    element.metadata(gst::ELEMENT_METADATA_KLASS).is_some_and(|class| class.starts_with("Codec/Depayloader"))
}

/// `element` and the bins around it.
fn with_parents(element: &gst::Element) -> impl Iterator<Item = gst::Object> {
    std::iter::successors(Some(element.clone().upcast::<gst::Object>()), |object| object.parent())
}

/// Whether `element`, or a bin around it, is called `decoder`.
fn is_named(element: &gst::Element) -> bool {
    with_parents(element).any(|object| object.name() == "decoder")
}

/// Whether `element` is a part of a decoder that is made of several.
pub(super) fn is_inside_another(element: &gst::Element) -> bool {
    with_parents(element).skip(1).filter_map(|object| object.downcast().ok()).any(|parent| is_decoder(&parent))
}

impl Gate {
    fn watch(self: &Arc<Self>, element: &gst::Element, own: bool) {
        let (gate, point) = (Arc::clone(self), Point::default());
        if is_decoder(element) {
            if is_inside_another(element) || own && !is_named(element) {
                return;
            }
            let Some(pad) = element.static_pad("sink") else { return };
            let name = element.factory().map(|factory| factory.name().to_string()).unwrap_or_default();
            self.feed.decoder(self.connection, &name, self.family);
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| gate.before_decoder(&point, pad, info));
        } else if !own && is_depayloader(element) {
            let Some(pad) = element.static_pad("src") else { return };
            if let Some(packets) = element.static_pad("sink") {
                self.clock.watch(&packets);
            }
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| gate.behind_depayloader(&point, pad, info));
        }
    }

    fn behind_depayloader(
        &self,
        point: &Point,
        pad: &gst::Pad,
        info: &mut gst::PadProbeInfo<'_>,
    ) -> gst::PadProbeReturn {
        let caps = if point.is_pushing() { None } else { pad.current_caps() };
        // Parts of frames cannot be judged here; the parser makes them whole.
        let Some(codec) = caps.as_ref().and_then(|caps| coded::codec(caps)) else { return gst::PadProbeReturn::Ok };
        self.early.store(true, Ordering::Relaxed);
        self.verdict(point, pad, info, codec)
    }

    fn before_decoder(&self, point: &Point, pad: &gst::Pad, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
        let caps = if point.is_pushing() { None } else { pad.current_caps() };
        let Some(codec) = caps.as_ref().and_then(|caps| coded::codec(caps)) else { return gst::PadProbeReturn::Ok };
        if !self.early.load(Ordering::Relaxed) {
            let judged = self.verdict(point, pad, info, codec);
            if judged != gst::PadProbeReturn::Ok {
                return judged;
            }
        }
        if codec == Codec::Intra || self.feed.mode() == Mode::All {
            return gst::PadProbeReturn::Ok;
        }
        // A keyframe on its own: the decoder is to give it back before anything else comes.
        if let Some(buffer) = take(info) {
            info.flow_res = point.push(pad, buffer);
            pad.send_event(gst_video::StillFrameEvent::builder(true).build());
        }
        gst::PadProbeReturn::Handled
    }

    /// Does with the frame in `info` what the feed says.
    fn verdict(
        &self,
        point: &Point,
        pad: &gst::Pad,
        info: &mut gst::PadProbeInfo<'_>,
        codec: Codec,
    ) -> gst::PadProbeReturn {
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let stamped = tap_probes::time_of(pad, buffer);
        let at = self.feed.placed(self.connection, stamped, Instant::now(), false);
        let frame = CodedFrame {
            at,
            // A camera whose stamps stand still has no clock to go by.
            camera: self.clock.place(at, buffer.pts().filter(|_| at == stamped)),
            pts: buffer.pts(),
            kind: coded::kind(codec, buffer),
            size: buffer.size(),
            after_loss: self.clock.packets_lost(),
        };
        let early = self.feed.is_before_beginning(self.connection, tap_probes::beginning(pad), buffer.pts());
        let verdict = self.feed.verdict(self.connection, frame, || pad.current_caps());
        // What is held may never get behind the decoder either.
        if matches!(verdict, Verdict::Drop | Verdict::Forget | Verdict::Hold) {
            self.take_its_time(frame, pad);
        }
        let mut held = self.held.lock();
        match verdict {
            Verdict::Decode => {
                held.clear();
                gst::PadProbeReturn::Ok
            }
            Verdict::Ask { hold } => {
                held.clear();
                if hold {
                    held.push(buffer.clone());
                }
                drop(held);
                if !early && self.feed.is_coded_sampled(self.connection, frame) {
                    gst::PadProbeReturn::Ok
                } else {
                    self.take_its_time(frame, pad);
                    gst::PadProbeReturn::Handled
                }
            }
            Verdict::Hold => {
                held.extend(take(info));
                gst::PadProbeReturn::Handled
            }
            Verdict::Release => {
                let mut all = std::mem::take(&mut *held);
                drop(held);
                all.extend(take(info));
                for buffer in all {
                    info.flow_res = point.push(pad, buffer);
                    if info.flow_res.is_err() {
                        break;
                    }
                }
                gst::PadProbeReturn::Handled
            }
            Verdict::Forget => {
                // Its memory too: this stream's frames do not fit.
                *held = Vec::new();
                gst::PadProbeReturn::Handled
            }
            Verdict::Drop => gst::PadProbeReturn::Handled,
        }
    }

    /// Holds up the streaming thread of a paced recording until a frame that ends here is due, or the pad is taken down.
    fn take_its_time(&self, frame: CodedFrame, pad: &gst::Pad) {
        let Some(element) = pad.parent_element().filter(|_| self.paced) else { return };
        loop {
            // Before it plays, as between two turns, the running time is still that of the turn before.
            let left = match element.current_state() {
                gst::State::Playing => {
                    let now = element.current_running_time().map(Duration::from);
                    now.map_or(Duration::ZERO, |now| frame.at.saturating_sub(now))
                }
                // What does not pass would never fill the sink that playing waits for.
                _ if is_prerolling(&element) => return,
                _ => POLL_INTERVAL,
            };
            if left.is_zero() || pad.pad_flags().contains(gst::PadFlags::FLUSHING) {
                return;
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
    }
}

/// Whether the pipeline around `element` waits for its first picture.
fn is_prerolling(element: &gst::Element) -> bool {
    let pipeline = with_parents(element).last().and_then(|object| object.downcast::<gst::Element>().ok());
    pipeline.is_some_and(|pipeline| pipeline.state(gst::ClockTime::ZERO).0 == Ok(gst::StateChangeSuccess::Async))
}

fn take(info: &mut gst::PadProbeInfo<'_>) -> Option<gst::Buffer> {
    match info.data.take() {
        Some(gst::PadProbeData::Buffer(buffer)) => Some(buffer),
        other => {
            info.data = other;
            None
        }
    }
}

/// Ends the still-frame events of the gate where the pictures have come out: nobody behind needs them.
pub(super) fn end_events(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| match info.event() {
        Some(event) if gst_video::StillFrameEvent::parse(event).is_ok() => gst::PadProbeReturn::Handled,
        _ => gst::PadProbeReturn::Ok,
    });
}
