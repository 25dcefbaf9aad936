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

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::coded;
use super::error::{At, SourceError};
use super::gate;
use crate::coded_size::{Claim, Codec, Limits, Reader, TooLarge};

/// One connection's limit.
struct SizeLimit {
    limits: Limits,
    /// What no size can be read of is refused, not still images alone.
    strict: bool,
    at: At,
    tell: Box<dyn Fn(SourceError) + Send + Sync>,
    refused: AtomicBool,
}

/// What goes into one decoder.
#[derive(Default)]
struct Stream {
    name: String,
    /// One; where nobody says what comes, one for everything that the decoder knows.
    readers: Vec<(Codec, Reader)>,
    /// Caps have come, or their lack has been dealt with.
    described: bool,
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
    let limit = Arc::new(SizeLimit { limits, strict, at, tell: Box::new(tell), refused: AtomicBool::new(false) });
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
        let stream = Mutex::new(Stream::default());
        pad.add_probe(mask, move |pad, info| {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            limit.before_decoder(&mut stream, pad, info)
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
            let unknown = caps.structure(0).is_some_and(|structure| self.refuses_unknown(structure));
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
        for structure in all.iter() {
            match codec(structure) {
                Some(codec) if stream.readers.iter().any(|(known, _)| *known == codec) => {}
                Some(codec) => stream.readers.push((codec, Reader::new(codec, self.limits))),
                None => drop(self.refuses_unknown(structure)),
            }
        }
    }

    /// Tells that no size can be read of what `structure` of caps describes, where that matters. Whether it does.
    fn refuses_unknown(&self, structure: &gst::StructureRef) -> bool {
        let kind = structure.name().as_str();
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
        self.readers.iter_mut().try_for_each(|(_, reader)| look(reader, &bytes))
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
mod tests {
    use super::*;
    use crate::coded_size::Framing;

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

    #[test]
    fn sizes_are_read_from_numbers_and_from_texts() {
        gst::init().unwrap();
        let limit = SizeLimit {
            limits: Limits::CAMERA,
            strict: true,
            at: At { stream: String::new(), place: String::new(), element: String::new() },
            tell: Box::new(|_| {}),
            refused: AtomicBool::new(false),
        };
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
