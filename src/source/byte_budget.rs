//! How much coded data one connection may hold: GStreamer's demuxers, parsers, depayloaders and queues collect without a limit of their
//! own, so what enters a pipeline is counted until it has been let go of.
//!
//! ```text
//! network ─► source ─►│enter│─► typefind, jitter buffer, demuxer, queue, depayloader, parser ─► decoder ─► pictures
//!                      counted here, wherever it is held: given back when its memory is freed
//!                                 │in│ demuxer, depayloader, parser │out│    for those that copy: bytes in since anything came out
//! ```
//!
//! In: buffers of sources (for RTSP of an RTP session), and new elements. Out: the same buffers, in memory that tells when it is freed; beyond
//! a limit [`Report`] gets the error that ends the connection, and the buffer goes no further: an element never sees more than it may hold.
//! Runs on GStreamer's streaming threads. Full: see above. Closed: everything goes with the pipeline. Local files and devices are not counted
//! where they enter: read as they are asked for, or in a pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::downloads::MOST_DOWNLOAD;
use super::error::{At, Excess, SourceError};
use super::rtp_senders::{self, Senders};

/// Bytes that a connection may hold, and that may go into an element before anything comes out of it: a coded picture of the size limit, 2²⁵ pixels,
/// at two bytes a pixel. JPEG at its best quality and lossless H.265 stay below that; what decodebin's queues hold besides is some megabytes. An MP4
/// file whose index is at its end, from a server that knows no ranges, is collected up to its index; GStreamer itself gives up at 10 MiB of it.
pub(super) const MOST_BYTES: u64 = 64 << 20;

/// What a buffer costs besides its bytes. A sender of tiny pieces is stopped too.
const OVERHEAD: u64 = 1 << 10;

/// Memory is there by pages.
const PAGE: usize = 4 << 10;

/// Streams in one connection. Broadcast multiplexes have a dozen, films have subtitles in thirty languages.
const MOST_STREAMS: usize = 40;

/// Some demuxers of several streams copy and keep those of one while others come out (tsdemux does so up to 32 MiB a stream, oggdemux without end), and
/// leave out others rightly. So each time that this much has gone into one of them, the daemon's own memory is looked at: it may not have grown by as much
/// in the meantime. Whatever else grows so just then costs a stream with such a demuxer, and no other, one new connection.
const MOST_GROWTH: u64 = 128 << 20;

/// Elements of a pipeline at a time. Ours have about thirty. An RTP sender that changes its number makes another jitter buffer each time.
const MOST_ELEMENTS: usize = 256;

/// Told why the connection is to end; once.
type Report = Box<dyn Fn(SourceError) + Send + Sync>;

/// What one connection holds.
pub(super) struct ByteBudget {
    at: At,
    report: Report,
    most: u64,
    held: Arc<AtomicU64>,
    elements: AtomicUsize,
    senders: Arc<Senders>,
    exceeded: AtomicBool,
}

impl ByteBudget {
    /// Starts counting for a pipeline that does not run yet. A picture of `max_pixels` may come at two bytes a pixel.
    pub fn watch(
        pipeline: &gst::Pipeline,
        max_pixels: u64,
        at: At,
        report: impl Fn(SourceError) + Send + Sync + 'static,
    ) {
        Self::with_limit(pipeline, at, Box::new(report), MOST_BYTES.max(max_pixels.saturating_mul(2)));
    }

    fn with_limit(pipeline: &gst::Pipeline, at: At, report: Report, most: u64) -> Arc<Self> {
        let budget = Arc::new(Self {
            at,
            report,
            most,
            held: Arc::default(),
            elements: AtomicUsize::new(0),
            senders: Arc::default(),
            exceeded: AtomicBool::new(false),
        });
        for element in pipeline.iterate_recurse().into_iter().flatten() {
            budget.look_at(&element);
        }
        let (come, gone) = (Arc::clone(&budget), Arc::clone(&budget));
        pipeline.connect_deep_element_added(move |_, _, element| come.look_at(element));
        pipeline.connect_deep_element_removed(move |_, _, _| {
            gone.elements.fetch_sub(1, Ordering::Relaxed);
        });
        budget
    }

    fn look_at(self: &Arc<Self>, element: &gst::Element) {
        if self.elements.fetch_add(1, Ordering::Relaxed) >= MOST_ELEMENTS {
            self.exceed(element, Excess::Elements(MOST_ELEMENTS));
        }
        if element.type_().name() == "GstRtpBin" {
            // rtspsrc has its session's packets from nowhere or from sources of its own; elsewhere they have been counted as they came.
            let counts = is_within_rtspsrc(element);
            for pad in element.sink_pads() {
                self.watch_session(&pad, counts);
            }
            let budget = Arc::clone(self);
            element.connect_pad_added(move |_, pad| budget.watch_session(pad, counts));
        } else if element.element_flags().contains(gst::ElementFlags::SOURCE) {
            let entry = element.static_pad("src").filter(|_| !is_local(element) && !is_within_rtspsrc(element));
            if let Some(pad) = entry {
                self.count_held(&pad);
            }
        } else if collects(element) {
            self.count_unanswered(element);
        }
    }

    /// Looks at what enters an RTP session at `pad`.
    fn watch_session(self: &Arc<Self>, pad: &gst::Pad, counts: bool) {
        let rtp = pad.name().starts_with("recv_rtp_sink");
        if !rtp && !pad.name().starts_with("recv_rtcp_sink") {
            return;
        }
        let budget = Arc::clone(self);
        pad.add_probe(BUFFERS, move |pad, info| {
            let now = Instant::now();
            let new = |buffer: &gst::BufferRef| !budget.senders.has_room_for(buffer, rtp, now);
            let many = match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => new(buffer),
                Some(gst::PadProbeData::BufferList(list)) => list.iter().any(new),
                _ => false,
            };
            if many { budget.refuse(pad, info, Excess::Senders(rtp_senders::MOST)) } else { gst::PadProbeReturn::Ok }
        });
        if rtp && counts {
            self.count_held(pad);
        }
    }

    /// Counts what enters at `pad` until it is freed.
    fn count_held(self: &Arc<Self>, pad: &gst::Pad) {
        let budget = Arc::clone(self);
        pad.add_probe(BUFFERS, move |pad, info| {
            if is_raw(pad) {
                return gst::PadProbeReturn::Ok;
            }
            let more = cost(info);
            if budget.held.load(Ordering::Relaxed).saturating_add(more) > budget.most {
                return budget.refuse(pad, info, Excess::Bytes(budget.most));
            }
            match info.data.take() {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    info.data = Some(gst::PadProbeData::Buffer(budget.counted(buffer)));
                }
                Some(gst::PadProbeData::BufferList(list)) => {
                    let counted = list.iter_owned().map(|buffer| budget.counted(buffer)).collect();
                    info.data = Some(gst::PadProbeData::BufferList(counted));
                }
                other => info.data = other,
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// `buffer` in memory that is counted until nobody holds it or a part of it any more. What cannot be mapped is passed as it is.
    fn counted(&self, buffer: gst::Buffer) -> gst::Buffer {
        let cost = cost_of(&buffer);
        let map = match buffer.clone().into_mapped_buffer_readable() {
            Ok(map) if map.size() > 0 => map,
            _ => return buffer,
        };
        let bytes = if is_sparse(&buffer) { Bytes::Copied(map.as_slice().into()) } else { Bytes::Mapped(map) };
        self.held.fetch_add(cost, Ordering::Relaxed);
        let mut counted = gst::Buffer::from_slice(Counted { bytes, cost, held: Arc::clone(&self.held) });
        let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        let copied = counted.get_mut().is_some_and(|counted| buffer.copy_into(counted, what, ..).is_ok());
        if copied { counted } else { buffer }
    }

    /// Counts what goes into `element` since it last gave something, whatever it keeps it in.
    fn count_unanswered(self: &Arc<Self>, element: &gst::Element) {
        let unanswered = Arc::new(AtomicU64::new(0));
        let (outputs, growth) = (Arc::new(AtomicUsize::new(0)), Growth::of(element).map(Arc::new));
        let most = if is_playlist(element) { MOST_DOWNLOAD.min(self.most) } else { self.most };
        for pad in element.sink_pads() {
            let (budget, unanswered) = (Arc::clone(self), Arc::clone(&unanswered));
            let (outputs, growth) = (Arc::clone(&outputs), growth.clone());
            pad.add_probe(BUFFERS, move |pad, info| {
                let more = cost(info);
                if unanswered.fetch_add(more, Ordering::Relaxed).saturating_add(more) > most {
                    return budget.refuse(pad, info, Excess::Bytes(most));
                }
                if let Some(growth) = &growth
                    && outputs.load(Ordering::Relaxed) > 1
                    && growth.is_too_much(more, crate::platform::malloc::in_use)
                {
                    return budget.refuse(pad, info, Excess::Growth(MOST_GROWTH));
                }
                gst::PadProbeReturn::Ok
            });
        }
        for pad in element.src_pads() {
            answers(&pad, &unanswered);
        }
        // Of an RTP session, whose senders are counted as such, and whose elements are.
        let session = element.metadata(gst::ELEMENT_METADATA_KLASS).is_some_and(|class| class.contains("Network"));
        let budget = Arc::clone(self);
        element.connect_pad_added(move |element, pad| {
            if pad.direction() == gst::PadDirection::Src {
                answers(pad, &unanswered);
                outputs.fetch_add(1, Ordering::Relaxed);
                if !session && element.num_src_pads() as usize > MOST_STREAMS {
                    budget.exceed(element, Excess::Streams(MOST_STREAMS));
                }
            }
        });
    }

    /// Ends the connection instead of handing the buffer on.
    fn refuse(&self, pad: &gst::Pad, info: &mut gst::PadProbeInfo<'_>, what: Excess) -> gst::PadProbeReturn {
        if let Some(element) = pad.parent_element() {
            self.exceed(&element, what);
        }
        info.data.take();
        info.flow_res = Err(gst::FlowError::Error);
        gst::PadProbeReturn::Handled
    }

    fn exceed(&self, element: &gst::Element, what: Excess) {
        if !self.exceeded.swap(true, Ordering::Relaxed) {
            let at = At { element: element.name().to_string(), ..self.at.clone() };
            (self.report)(SourceError::TooMuch { at, what });
        }
    }
}

/// Whether the daemon grows by what goes into an element.
#[derive(Debug, Default)]
struct Growth {
    /// Bytes that have gone in since the last look.
    since: AtomicU64,
    /// What was in use then.
    before: Mutex<Option<u64>>,
    /// The least that has ever been in use counts, not what was last.
    endless: bool,
}

impl Growth {
    /// For demuxers that copy and keep each stream for itself; others are bounded by what has gone in since anything came out.
    fn of(element: &gst::Element) -> Option<Self> {
        match element.factory()?.name().as_str() {
            "tsdemux" => Some(Self::default()),
            // It has no limit of its own at all, so growing slowly is no excuse.
            "oggdemux" => Some(Self { endless: true, ..Self::default() }),
            _ => None,
        }
    }

    /// `more` bytes have gone in; `in_use` tells the daemon's memory, where that can be told.
    fn is_too_much(&self, more: u64, in_use: impl FnOnce() -> Option<u64>) -> bool {
        if self.since.fetch_add(more, Ordering::Relaxed).saturating_add(more) < MOST_GROWTH {
            return false;
        }
        self.since.store(0, Ordering::Relaxed);
        let mut before = self.before.lock();
        let Some(now) = in_use() else { return false };
        let last = before.unwrap_or(now);
        *before = Some(if self.endless { last.min(now) } else { now });
        now > last.saturating_add(MOST_GROWTH)
    }
}

/// What is pushed; elements that fetch for themselves know what they ask for.
const BUFFERS: gst::PadProbeType = gst::PadProbeType::from_bits_truncate(
    gst::PadProbeType::BUFFER.bits() | gst::PadProbeType::BUFFER_LIST.bits() | gst::PadProbeType::PUSH.bits(),
);

fn answers(pad: &gst::Pad, unanswered: &Arc<AtomicU64>) {
    let unanswered = Arc::clone(unanswered);
    pad.add_probe(BUFFERS, move |_, _| {
        unanswered.store(0, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
}

/// Whether the element is of a kind that collects until it has a whole something.
fn collects(element: &gst::Element) -> bool {
    let class = element.metadata(gst::ELEMENT_METADATA_KLASS).unwrap_or_default();
    ["Demux", "Parser", "Depayloader"].iter().any(|kind| class.contains(kind))
}

/// Whether the element takes a playlist, which it takes apart into much more than it is.
fn is_playlist(element: &gst::Element) -> bool {
    element.metadata(gst::ELEMENT_METADATA_KLASS).is_some_and(|class| class.contains("Adaptive"))
}

/// Whether `element` reads a file or a device of this machine.
fn is_local(element: &gst::Element) -> bool {
    if let Some(handler) = element.dynamic_cast_ref::<gst::URIHandler>() {
        let local = |scheme: &str| ["file", "v4l2"].contains(&scheme);
        // giosrc reads files and what is on the network.
        return match handler.uri() {
            Some(uri) => uri.split_once(':').is_some_and(|(scheme, _)| local(scheme)),
            None => handler.protocols().iter().all(|protocol| local(protocol)),
        };
    }
    !element.metadata(gst::ELEMENT_METADATA_KLASS).unwrap_or_default().contains("Network")
}

/// Whether `element` is one of those that an rtspsrc is made of.
fn is_within_rtspsrc(element: &gst::Element) -> bool {
    std::iter::successors(element.parent(), gst::Object::parent).any(|parent| parent.type_().name() == "GstRTSPSrc")
}

/// Pictures and sound that are not coded come from devices and test sources, and are large.
fn is_raw(pad: &gst::Pad) -> bool {
    let caps = pad.current_caps();
    caps.as_ref().and_then(|caps| caps.structure(0)).is_some_and(|structure| structure.name().ends_with("/x-raw"))
}

fn cost(info: &gst::PadProbeInfo<'_>) -> u64 {
    match &info.data {
        Some(gst::PadProbeData::Buffer(buffer)) => cost_of(buffer),
        Some(gst::PadProbeData::BufferList(list)) => list.iter().map(cost_of).sum(),
        _ => 0,
    }
}

/// What holding the buffer costs. The memory behind it may be larger than what was written to: souphttpsrc allocates for more than the network gives
/// at once. Of that, only the pages that were touched are there.
fn cost_of(buffer: &gst::BufferRef) -> u64 {
    if is_sparse(buffer) {
        // It is copied into memory of its size.
        return OVERHEAD + buffer.size() as u64;
    }
    let touched = |memory: &gst::MemoryRef| memory.maxsize().min(memory.size().next_multiple_of(PAGE));
    let memory: usize = buffer.iter_memories().map(touched).sum();
    OVERHEAD + memory as u64
}

fn room(buffer: &gst::BufferRef) -> usize {
    buffer.iter_memories().map(gst::MemoryRef::maxsize).sum()
}

/// Whether the memory is far larger than what came: web sources make room for 4 KiB and more, and may get a single segment. Then the bytes are worth a
/// copy, lest a legal picture be refused for room that nobody uses. Crumbs are not.
fn is_sparse(buffer: &gst::BufferRef) -> bool {
    const CRUMB: usize = 16;
    buffer.size() >= CRUMB && room(buffer) / 2 > buffer.size()
}

enum Bytes {
    Mapped(gst::MappedBuffer<gst::buffer::Readable>),
    Copied(Box<[u8]>),
}

/// A buffer that is counted for as long as anybody holds it.
struct Counted {
    bytes: Bytes,
    cost: u64,
    held: Arc<AtomicU64>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map.as_slice(),
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
