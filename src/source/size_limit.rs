//! Before every decoder: how large the picture says that it is, and what happens if that is too large.
//!
//! ```text
//! … ─► parser ─►│gate│─►│size limit│─► decoder ─►│size│─► …      also of decoders within others
//!               caps, codec data, every header                    caps alone
//! ```
//!
//! In: caps, on their way into any element, and coded bytes, on their way into a decoder, on the streaming threads. Out: a
//! [`SourceError`] for the connection, once; from then on nothing goes into a decoder any more. It stands behind the gate, so frames that
//! are not decoded cost nothing. Holds no frame. Closed: everything goes with the pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::coded;
use super::error::{At, SourceError};
use super::gate;
use crate::frame::coded_size::{self, Claim, Codec, Limits, Reader, TooLarge};

/// One connection's limit.
struct SizeLimit {
    limits: Limits,
    /// What no size can be read of is refused, not still images alone.
    strict: bool,
    at: At,
    tell: Box<dyn Fn(SourceError) + Send + Sync>,
    refused: AtomicBool,
    /// Bytes of what all decoders have to keep.
    together: Arc<AtomicU64>,
}

/// What goes into one decoder.
#[derive(Default)]
struct Stream {
    name: String,
    /// One; where nobody says what comes, one for everything that the decoder knows.
    readers: Vec<(Codec, Reader)>,
    /// Caps have come, or their lack has been dealt with.
    described: bool,
    /// Absent of a part of another decoder, which is counted with that.
    share: Option<Share>,
}

/// What one decoder has to keep of what all of them may; given back when it goes.
struct Share {
    bytes: u64,
    together: Arc<AtomicU64>,
}

impl Share {
    /// Whether `bytes` are within `max`, with the others.
    fn grow_to(&mut self, bytes: u64, max: u64) -> Result<(), TooLarge> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        self.bytes = bytes;
        let all = self.together.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        // One alone has been told of already.
        if all > max && all > bytes { Err(TooLarge::Together { bytes: all, max }) } else { Ok(()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.together.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Watches `pipeline` for decoders, those that are there and those that come, and calls `tell` when a picture is too large. `strict`: also
/// when a video is coded in a way of which no size can be read, as is always done with still images. To be called after the gate was attached.
pub(super) fn attach(
    pipeline: &gst::Pipeline,
    limits: Limits,
    strict: bool,
    at: At,
    tell: impl Fn(SourceError) + Send + Sync + 'static,
) {
    let (refused, together) = (AtomicBool::new(false), Arc::default());
    let limit = Arc::new(SizeLimit { limits, strict, at, tell: Box::new(tell), refused, together });
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        limit.watch(&element);
    }
    pipeline.connect_deep_element_added(move |_, _, element| limit.watch(element));
}

impl SizeLimit {
    fn watch(self: &Arc<Self>, element: &gst::Element) {
        let Some(pad) = element.static_pad("sink") else { return };
        let limit = Arc::clone(self);
        if !gate::is_decoder(element) {
            // What depayloaders, converters and the like are told in caps, they make room for.
            pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                if caps(info).is_some_and(|caps| limit.refuses(&name(&caps), limit.told(&caps))) {
                    not_to_be_taken(info);
                }
                gst::PadProbeReturn::Ok
            });
            return;
        }
        let mask = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        let outermost = !gate::is_inside_another(element);
        let share = outermost.then(|| Share { bytes: 0, together: Arc::clone(&self.together) });
        let stream = Mutex::new(Stream { share, ..Stream::default() });
        let searches = element.factory().is_some_and(|factory| factory.name() == "vp9dec");
        pad.add_probe(mask, move |pad, info| {
            let mut stream = stream.lock();
            let passed = limit.before_decoder(&mut stream, pad, info);
            if searches && passed == gst::PadProbeReturn::Ok {
                index_vp9(info);
            }
            passed
        });
    }

    fn before_decoder(
        &self,
        stream: &mut Stream,
        pad: &gst::Pad,
        info: &mut gst::PadProbeInfo<'_>,
    ) -> gst::PadProbeReturn {
        if let Some(caps) = caps(info) {
            if self.new_caps(stream, &caps) {
                not_to_be_taken(info);
            }
            return gst::PadProbeReturn::Ok;
        }
        if !stream.described && info.event().is_none() {
            self.no_caps(stream, &pad.pad_template_caps());
        }
        let looked = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => stream.look(buffer, Reader::frame),
            Some(gst::PadProbeData::BufferList(list)) => {
                list.iter().try_for_each(|buffer| stream.look(buffer, Reader::frame))
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        if self.refuses(&stream.name, looked) || self.refused.load(Ordering::Relaxed) {
            info.flow_res = Err(gst::FlowError::Error);
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    }

    /// Whether what comes now is refused as it is described.
    fn new_caps(&self, stream: &mut Stream, caps: &gst::CapsRef) -> bool {
        stream.name = name(caps);
        stream.described = true;
        let Some(codec) = caps.structure(0).and_then(codec) else {
            stream.readers.clear();
            let unknown = caps.structure(0).is_some_and(|structure| self.refuses_unknown(structure.name()));
            return unknown || self.refuses(&stream.name, self.told(caps));
        };
        // The same stream goes on: what it has said before still holds.
        if !matches!(stream.readers.as_slice(), [(was, _)] if *was == codec) {
            stream.readers = vec![(codec, Reader::new(codec, self.limits))];
        }
        let beside = headers(caps).iter().try_for_each(|header| stream.look(header, Reader::header));
        self.refuses(&stream.name, self.told(caps).and(beside))
    }

    /// Some decoders of still images take bytes of which nobody has said what they are; then they are one of `all` that it knows.
    fn no_caps(&self, stream: &mut Stream, all: &gst::CapsRef) {
        stream.name = name(all);
        stream.described = true;
        if all.is_any() {
            "unnamed".clone_into(&mut stream.name);
            self.refuses_unknown("unnamed");
        }
        for structure in all.iter() {
            match codec(structure) {
                Some(codec) if stream.readers.iter().any(|(known, _)| *known == codec) => {}
                Some(codec) => stream.readers.push((codec, Reader::new(codec, self.limits))),
                None => drop(self.refuses_unknown(structure.name())),
            }
        }
    }

    /// Tells that no size can be read of what caps call `kind`, where that matters. Whether it does.
    fn refuses_unknown(&self, kind: &str) -> bool {
        // Subtitles are no picture of ours, and small.
        let other = ["subpicture/", "text/", "closedcaption/"].iter().any(|other| kind.starts_with(other));
        // A container says how large the pictures of a video are, and decoders believe it or compare; nobody does for a still image.
        let refused = (self.strict || kind.starts_with("image/")) && !other;
        if refused {
            self.refuse(SourceError::SizeUnknown { at: self.at.clone(), codec: coded::short(kind).to_owned() });
        }
        refused
    }

    /// Whether the size in `caps`, if there is one, may be.
    fn told(&self, caps: &gst::CapsRef) -> Result<(), TooLarge> {
        let Some(structure) = caps.structure(0) else { return Ok(()) };
        let side = |name: &str| match structure.get::<i32>(name) {
            Ok(side) => u64::try_from(side).ok(),
            Err(_) => leading_number(structure.get::<&str>(name).ok()?),
        };
        match (side("width"), side("height")) {
            (Some(width), Some(height)) => self.limits.check(Claim::picture(width, height)),
            _ => Ok(()),
        }
    }

    /// Tells of what is too large. Whether it is.
    fn refuses(&self, codec: &str, looked: Result<(), TooLarge>) -> bool {
        let Err(why) = looked else { return false };
        let (at, codec) = (self.at.clone(), codec.to_owned());
        self.refuse(match why {
            TooLarge::Untold => SourceError::SizeUnknown { at, codec },
            why => SourceError::TooLarge { at, codec, why: why.to_string() },
        });
        true
    }

    fn refuse(&self, error: SourceError) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            (self.tell)(error);
        }
    }
}

impl Stream {
    fn look(
        &mut self,
        buffer: &gst::BufferRef,
        look: fn(&mut Reader, &[u8]) -> Result<(), TooLarge>,
    ) -> Result<(), TooLarge> {
        // What cannot be mapped here, no decoder can map.
        let Ok(bytes) = buffer.map_readable() else { return Ok(()) };
        for (_, reader) in &mut self.readers {
            look(reader, &bytes)?;
            if let Some(share) = &mut self.share {
                share.grow_to(reader.bytes(), reader.limits().max_bytes)?;
            }
        }
        Ok(())
    }
}

/// libvpx looks for another frame where one ends, and where that is nobody knows who does not decode it: its size could not be read. Told that there is
/// one frame, it does not.
fn index_vp9(info: &mut gst::PadProbeInfo<'_>) {
    let Some(buffer) = info.buffer_mut() else { return };
    let index = buffer.map_readable().ok().and_then(|bytes| coded_size::vp9_index(&bytes));
    if let Some(index) = index {
        buffer.make_mut().append_memory(gst::Memory::from_slice(index));
    }
}

fn name(caps: &gst::CapsRef) -> String {
    coded::name(caps).unwrap_or_default()
}

fn caps(info: &gst::PadProbeInfo<'_>) -> Option<gst::Caps> {
    match info.event()?.view() {
        gst::EventView::Caps(event) => Some(event.caps_owned()),
        _ => None,
    }
}

/// Puts caps that nobody takes in the place of those that come. Were they only dropped, whoever sends them would not know, and a decoder
/// would make room for a picture of them.
fn not_to_be_taken(info: &mut gst::PadProbeInfo<'_>) {
    let caps = gst::Caps::new_empty_simple("application/x-refused");
    info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
}

/// The number that a text begins with, as C's `atoi` reads it: a session's description has texts.
fn leading_number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX))
}

/// What stands in caps beside the stream.
fn headers(caps: &gst::CapsRef) -> Vec<gst::Buffer> {
    let Some(structure) = caps.structure(0) else { return Vec::new() };
    let data = structure.get::<gst::Buffer>("codec_data").ok();
    let stream = structure.get::<gst::Array>("streamheader").ok();
    let stream = stream.iter().flat_map(|array| array.as_slice()).filter_map(|value| value.get().ok());
    data.into_iter().chain(stream).collect()
}

/// What `structure` of caps describes; `None` where no size can be read.
fn codec(structure: &gst::StructureRef) -> Option<Codec> {
    let version = |name| structure.get::<i32>(name).unwrap_or_default();
    Some(match structure.name().as_str() {
        "video/x-h264" => Codec::H264(coded::framing(structure, 4)),
        "video/x-h265" => Codec::H265(coded::framing(structure, 21)),
        "video/x-vp8" => Codec::Vp8,
        "video/x-vp9" => Codec::Vp9,
        "video/x-av1" if structure.get::<&str>("stream-format").is_ok_and(|format| format == "annexb") => return None,
        "video/x-av1" => Codec::Av1,
        "video/mpeg" if version("mpegversion") == 4 => Codec::Mpeg4,
        "video/mpeg" => Codec::Mpeg2,
        "video/x-divx" if version("divxversion") >= 4 => Codec::Mpeg4,
        "video/x-xvid" => Codec::Mpeg4,
        "video/x-theora" => Codec::Theora,
        "image/jpeg" => Codec::Jpeg,
        "image/x-j2c" | "image/x-jpc" | "image/jp2" | "image/x-jpc-striped" => Codec::Jpeg2000,
        "image/png" => Codec::Png,
        "image/webp" => Codec::Webp,
        "image/gif" | "image/gst-libav-gif" => Codec::Gif,
        "image/bmp" | "image/x-bmp" | "image/x-MS-bmp" => Codec::Bmp,
        "image/tiff" => Codec::Tiff,
        // A few fixed sizes, or 11 bits a side at most; Microsoft's have the size of their container, which is in the caps.
        "video/x-h261" | "video/x-h263" | "video/x-dv" | "video/x-msmpeg" | "video/x-divx" => Codec::Small,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "../../tests/common/bombs.rs"]
mod bombs;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::coded_size::Framing;

    #[test]
    fn caps_tell_what_can_be_read() {
        gst::init().unwrap();
        let of = |text: &str| codec(text.parse::<gst::Caps>().unwrap().structure(0).unwrap());
        assert_eq!(of("video/x-h264,alignment=nal"), Some(Codec::H264(Framing::StartCodes)));
        let avc = "video/x-h264,stream-format=avc,codec_data=(buffer)01640028fd";
        assert_eq!(of(avc), Some(Codec::H264(Framing::Lengths(2))));
        assert_eq!(of("video/mpeg,mpegversion=4"), Some(Codec::Mpeg4));
        assert_eq!(of("video/mpeg,mpegversion=2"), Some(Codec::Mpeg2));
        assert_eq!(of("video/x-divx,divxversion=3"), Some(Codec::Small));
        for unknown in ["image/svg+xml", "video/x-prores", "image/x-exr", "video/x-av1,stream-format=annexb"] {
            assert_eq!(of(unknown), None, "{unknown}");
        }
    }

    fn limit(strict: bool) -> SizeLimit {
        gst::init().unwrap();
        SizeLimit {
            limits: Limits::CAMERA,
            strict,
            at: At { stream: String::new(), place: String::new(), element: String::new() },
            tell: Box::new(|_| {}),
            refused: AtomicBool::new(false),
            together: Arc::default(),
        }
    }

    #[test]
    fn all_decoders_of_a_connection_share_what_may_be_kept() {
        let limit = limit(true);
        let together = Arc::clone(&limit.together);
        let track = || {
            let share = Some(Share { bytes: 0, together: Arc::clone(&together) });
            let mut stream = Stream { share, ..Stream::default() };
            let caps = "image/jpeg".parse::<gst::Caps>().unwrap();
            assert!(!limit.new_caps(&mut stream, &caps));
            stream
        };
        // 5792 by 5792 is what a picture may have; a JPEG of three components keeps three bytes a pixel.
        let (small, large) = (bombs::jpeg(640, 480), bombs::jpeg(5792, 5792));
        let look = |stream: &mut Stream, picture: &[u8]| {
            stream.look(&gst::Buffer::from_slice(picture.to_vec()), Reader::frame)
        };
        let mut tracks: Vec<Stream> = (0..7).map(|_| track()).collect();
        let kept: Vec<_> = tracks.iter_mut().map(|track| look(track, &large)).collect();
        assert!(kept[..6].iter().all(Result::is_ok), "{kept:?}");
        assert!(matches!(kept[6], Err(TooLarge::Together { .. })), "{kept:?}");
        // One that ends leaves its room to others, and one that goes on takes none anew.
        tracks.truncate(5);
        assert_eq!(look(&mut track(), &large), Ok(()));
        assert_eq!((look(&mut tracks[0], &small), look(&mut tracks[0], &large)), (Ok(()), Ok(())));
        drop(tracks);
        assert_eq!(together.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_vp9_frame_behind_another_in_one_buffer_is_not_decoded() {
        gst::init().unwrap();
        let frame = |width: u32| {
            let encoder = format!("videotestsrc num-buffers=1 ! video/x-raw,width={width},height=48 ! vp9enc");
            let (_, buffers) = through(&encoder, &[], false);
            buffers[0].clone()
        };
        let (first, second) = (frame(64), frame(320));
        let decode = |buffer: Vec<u8>, limited| {
            through("appsrc name=source format=time caps=video/x-vp9 ! vp9dec", &[buffer], limited).0
        };
        let both = [first.clone(), second].concat();
        assert_eq!(decode(both.clone(), false), [320], "libvpx shows the last of them");
        assert_eq!(decode(both, true), [64]);
        assert_eq!(decode(first, true), [64]);
    }

    /// What comes out of `elements`, of which `source` is given `buffers`: widths, and bytes.
    fn through(elements: &str, buffers: &[Vec<u8>], limited: bool) -> (Vec<i32>, Vec<Vec<u8>>) {
        let description = format!("{elements} ! appsink name=sink sync=false");
        let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
        if limited {
            let at = At { stream: String::new(), place: String::new(), element: String::new() };
            attach(&pipeline, Limits::CAMERA, true, at, |error| panic!("{error}"));
        }
        let sink = pipeline.by_name("sink").unwrap().downcast::<gstreamer_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        if let Some(source) = pipeline.by_name("source") {
            let source = source.downcast::<gstreamer_app::AppSrc>().unwrap();
            for bytes in buffers {
                let mut buffer = gst::Buffer::from_slice(bytes.clone());
                buffer.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
                source.push_buffer(buffer).unwrap();
            }
            source.end_of_stream().unwrap();
        }
        let (mut widths, mut came) = (Vec::new(), Vec::new());
        while let Ok(sample) = sink.pull_sample() {
            widths.push(sample.caps().unwrap().structure(0).unwrap().get("width").unwrap());
            came.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
        }
        pipeline.set_state(gst::State::Null).unwrap();
        (widths, came)
    }

    #[test]
    fn a_decoder_that_takes_anything_is_told_what_comes() {
        for strict in [true, false] {
            let limit = limit(strict);
            limit.no_caps(&mut Stream::default(), &gst::Caps::new_any());
            assert_eq!(limit.refused.load(Ordering::Relaxed), strict);
        }
    }

    #[test]
    fn sizes_are_read_from_numbers_and_from_texts() {
        let limit = limit(true);
        let told = |text: &str| limit.told(&text.parse::<gst::Caps>().unwrap());
        assert!(told("video/x-raw,width=7680,height=4320").is_ok());
        assert!(told("video/x-raw,width=16384,height=16384").is_err());
        assert!(told("video/x-raw,width=20000,height=2").is_err());
        assert!(told("application/x-rtp,encoding-name=RAW,width=(string)30000,height=(string)30000").is_err());
        assert!(
            told("application/x-rtp,encoding-name=RAW,width=(string)\" +30000x\",height=(string)\"30000;\"").is_err()
        );
        assert!(told("application/x-rtp,width=(string)99999999999999999999999,height=(string)1").is_err());
        assert!(told("application/x-rtp,width=(string)wide,height=(string)1").is_ok());
        assert!(told("video/x-h264,width=[1,30000],height=[1,30000]").is_ok());
    }
}
