//! What a coded frame is, before any decoder sees it: one that can be decoded alone, or one that needs others. Pure.
//!
//! Depayloaders and parsers flag delta units, but not by the same rules: a depayloader takes every frame with parameter sets for
//! a keyframe, a parser also the recovery points of intra refresh, which give a broken picture when decoded alone. So the first
//! bytes of H.264 and H.265 are read here; for every other codec the flag counts.

use gstreamer as gst;

use crate::frame::coded_size::{Bits, Framing, units};

/// How the frames of a stream are coded, as far as telling keyframes is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    H264(Framing),
    H265(Framing),
    /// JPEG and others that know no delta units.
    Intra,
    /// Frames whose flag says what they are.
    Flagged,
}

/// What a frame needs to be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyframe that nothing behind it reaches back over: what came before may be missing.
    Idr,
    /// Another keyframe.
    Key,
    Delta,
}

impl Kind {
    pub fn is_key(self) -> bool {
        self != Self::Delta
    }
}

/// Headers, parameter sets and messages before the first slice fit in here; what does not is taken by its flag.
const LOOK_AT: usize = 4096;

/// The codec that `caps` describe; `None` where buffers are no whole frames, or it cannot be told whether they are: a depayloader or demuxer may hand on
/// whatever a packet holds, and a parser behind it makes frames of that. Where none does, nothing is known of keyframes.
pub(super) fn codec(caps: &gst::CapsRef) -> Option<Codec> {
    let structure = caps.structure(0)?;
    let name = structure.name().as_str();
    let parsed = structure.get::<bool>("parsed").unwrap_or(false);
    let aligned = |whole: &[&str]| structure.get::<&str>("alignment").ok().map(|alignment| whole.contains(&alignment));
    match name {
        "image/jpeg" => Some(Codec::Intra),
        // Lengths instead of start codes are a container's, which has frames.
        "video/x-h264" if aligned(&["au"]).unwrap_or(!is_byte_stream(structure)) => {
            Some(Codec::H264(framing(structure, 4)))
        }
        "video/x-h265" if aligned(&["au"]).unwrap_or(!is_byte_stream(structure)) => {
            Some(Codec::H265(framing(structure, 21)))
        }
        "video/x-h264" | "video/x-h265" => None,
        // Frames are their only unit, and depayloaders and demuxers say which are keyframes.
        "video/x-vp8" | "video/x-vp9" => Some(Codec::Flagged),
        "video/x-av1" if aligned(&["tu", "frame"]).unwrap_or(true) => Some(Codec::Flagged),
        // Its decoder cannot be drained behind a lone frame.
        "image/gif" | "image/gst-libav-gif" => None,
        _ if parsed => Some(Codec::Flagged),
        _ => None,
    }
}

fn is_byte_stream(structure: &gst::StructureRef) -> bool {
    structure.get::<&str>("stream-format").map_or(true, |format| format == "byte-stream")
}

/// How the NAL units of H.264 or H.265 are told apart. The two low bits of byte `at` of the codec data say how long a length is, less one.
pub(super) fn framing(structure: &gst::StructureRef, at: usize) -> Framing {
    match structure.get::<&str>("stream-format") {
        Ok("byte-stream") | Err(_) => Framing::StartCodes,
        Ok(_) => {
            let mut byte = [3];
            let data = structure.get::<gst::Buffer>("codec_data").ok();
            data.and_then(|data| data.copy_to_slice(at, &mut byte).ok());
            Framing::Lengths(usize::from(byte[0] & 3) + 1)
        }
    }
}

/// A short name for people, such as `h264`.
pub(super) fn name(caps: &gst::CapsRef) -> Option<String> {
    Some(short(caps.structure(0)?.name()).to_owned())
}

/// The same of a media type.
pub(super) fn short(name: &str) -> &str {
    let short = name.split_once('/').map_or(name, |(_, short)| short);
    short.strip_prefix("x-").unwrap_or(short)
}

/// What `buffer` is.
pub(super) fn kind(codec: Codec, buffer: &gst::BufferRef) -> Kind {
    let flagged = if buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) { Kind::Delta } else { Kind::Key };
    match codec {
        Codec::Intra => Kind::Key,
        Codec::Flagged => flagged,
        Codec::H264(framing) | Codec::H265(framing) => {
            let mut start = [0; LOOK_AT];
            let length = buffer.size().min(LOOK_AT);
            let read = buffer.copy_to_slice(0, &mut start[..length]).is_ok();
            let found = read.then(|| first_slice(codec, framing, &start[..length])).flatten();
            match found {
                Some(Slice::Delta) => Kind::Delta,
                Some(Slice::Idr) => Kind::Idr,
                Some(Slice::Key) => Kind::Key,
                // One intra slice does not make an intra picture: the others are looked at too.
                Some(Slice::Intra) => match buffer.map_readable() {
                    Ok(all)
                        if units(framing, &all).filter_map(|unit| slice(codec, unit)).all(|s| s != Slice::Delta) =>
                    {
                        Kind::Key
                    }
                    _ => Kind::Delta,
                },
                None => flagged,
            }
        }
    }
}

/// What one slice says about its picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slice {
    /// The whole picture can be decoded alone, and nothing after it refers to what was before it.
    Idr,
    /// The whole picture can be decoded alone.
    Key,
    /// This slice can.
    Intra,
    Delta,
}

fn first_slice(codec: Codec, framing: Framing, bytes: &[u8]) -> Option<Slice> {
    units(framing, bytes).find_map(|unit| slice(codec, unit))
}

/// What the NAL unit says, if it is a slice.
fn slice(codec: Codec, unit: &[u8]) -> Option<Slice> {
    let header = *unit.first()?;
    if matches!(codec, Codec::H265(_)) {
        // Table 7-1 of H.265: 0 to 31 are slices, 16 to 21 those of random access points (BLA, IDR, CRA).
        return match (header >> 1) & 0x3f {
            19 | 20 => Some(Slice::Idr),
            16..=21 => Some(Slice::Key),
            0..=31 => Some(Slice::Delta),
            _ => None,
        };
    }
    // Table 7-1 of H.264.
    match header & 0x1f {
        5 => Some(Slice::Idr),
        1 | 2 => Some(intra_slice(&unit[1..])),
        _ => None,
    }
}

/// H.264, 7.3.3: the header begins with the number of the first macroblock and the slice's type. 2 and 4 are intra, 5 and more
/// say the same of all slices of the picture.
fn intra_slice(header: &[u8]) -> Slice {
    let mut bits = Bits::new(header);
    match bits.exp_golomb().and_then(|_| bits.exp_golomb()) {
        Some(7 | 9) => Slice::Key,
        Some(2 | 4) => Slice::Intra,
        _ => Slice::Delta,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Codec = Codec::H264(Framing::StartCodes);

    fn stream(units: &[&[u8]]) -> gst::Buffer {
        gst::init().unwrap();
        let bytes: Vec<u8> = units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect();
        gst::Buffer::from_slice(bytes)
    }

    // Slice headers: first macroblock 0 (`1`), then the type.
    const P_SLICE: &[u8] = &[0x41, 0b1100_0000, 0xff];
    const P_ALL: &[u8] = &[0x41, 0b1001_1000, 0xff];
    const I_SLICE: &[u8] = &[0x61, 0b1011_0000, 0xff];
    const I_ALL: &[u8] = &[0x61, 0b1_0001000, 0xff];
    const IDR: &[u8] = &[0x65, 0x88, 0x80];
    const SPS: &[u8] = &[0x67, 0x42, 0, 0x0a];
    const PPS: &[u8] = &[0x68, 0xce];
    const RECOVERY: &[u8] = &[0x06, 0x06, 0x01, 0xc4, 0x80];

    #[test]
    fn an_idr_frame_is_a_keyframe_whatever_stands_before_it() {
        assert_eq!(kind(START, &stream(&[&[0x09, 0x10], SPS, PPS, IDR])), Kind::Idr);
    }

    #[test]
    fn parameter_sets_and_recovery_points_alone_make_no_keyframe() {
        // Intra refresh: the picture is whole only after some frames.
        assert_eq!(kind(START, &stream(&[SPS, PPS, RECOVERY, P_SLICE])), Kind::Delta);
        assert_eq!(kind(START, &stream(&[SPS, PPS, RECOVERY, P_ALL])), Kind::Delta);
    }

    #[test]
    fn a_picture_of_intra_slices_is_a_keyframe_without_being_idr() {
        assert_eq!(kind(START, &stream(&[SPS, PPS, RECOVERY, I_ALL])), Kind::Key);
        assert_eq!(kind(START, &stream(&[I_SLICE, I_SLICE])), Kind::Key);
    }

    #[test]
    fn an_intra_slice_beside_others_makes_no_keyframe() {
        assert_eq!(kind(START, &stream(&[I_SLICE, P_SLICE])), Kind::Delta);
    }

    #[test]
    fn lengths_instead_of_start_codes_are_understood() {
        gst::init().unwrap();
        let bytes: Vec<u8> = [SPS, PPS, IDR].iter().flat_map(|u| [&[0, u.len() as u8], *u].concat()).collect();
        assert_eq!(kind(Codec::H264(Framing::Lengths(2)), &gst::Buffer::from_slice(bytes)), Kind::Idr);
    }

    #[test]
    fn h265_random_access_points_are_keyframes() {
        let of = |kind_of_unit: u8| {
            kind(Codec::H265(Framing::StartCodes), &stream(&[&[64, 1], &[kind_of_unit << 1, 1, 0x80]]))
        };
        for key in 16..=21 {
            assert_eq!(of(key), if matches!(key, 19 | 20) { Kind::Idr } else { Kind::Key }, "{key}");
        }
        for delta in [0, 1, 8, 9] {
            assert_eq!(of(delta), Kind::Delta, "{delta}");
        }
    }

    #[test]
    fn where_no_slice_is_found_the_flag_counts() {
        let mut buffer = stream(&[SPS, PPS]);
        assert_eq!(kind(START, &buffer), Kind::Key);
        buffer.make_mut().set_flags(gst::BufferFlags::DELTA_UNIT);
        assert_eq!(kind(START, &buffer), Kind::Delta);
        assert_eq!(kind(Codec::Intra, &buffer), Kind::Key);
        assert_eq!(kind(Codec::Flagged, &buffer), Kind::Delta);
    }

    #[test]
    fn caps_tell_the_codec_and_parts_of_frames_are_not_judged() {
        gst::init().unwrap();
        let of = |text: &str| codec(&text.parse::<gst::Caps>().unwrap());
        assert_eq!(of("video/x-h264,stream-format=byte-stream,alignment=au"), Some(START));
        assert_eq!(of("video/x-h264,stream-format=byte-stream,alignment=nal"), None);
        let avc = "video/x-h264,stream-format=avc,alignment=au,codec_data=(buffer)01640028fd";
        assert_eq!(of(avc), Some(Codec::H264(Framing::Lengths(2))));
        assert_eq!(of("image/jpeg"), Some(Codec::Intra));
        assert_eq!(of("video/x-vp8"), Some(Codec::Flagged));
        assert_eq!(of("video/x-h264,stream-format=byte-stream"), None);
        for parts in
            ["video/mpegts", "video/mpeg,mpegversion=4", "video/mpeg,mpegversion=2,parsed=false", "video/x-theora"]
        {
            assert_eq!(of(parts), None, "{parts}");
        }
        assert_eq!(of("video/mpeg,mpegversion=4,parsed=true"), Some(Codec::Flagged));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(0u8..8, 0..200), size in 1usize..5, h265 in any::<bool>()) {
            gst::init().unwrap();
            for framing in [Framing::StartCodes, Framing::Lengths(size)] {
                let codec = if h265 { Codec::H265(framing) } else { Codec::H264(framing) };
                kind(codec, &gst::Buffer::from_slice(bytes.clone()));
            }
        }
    }
}
