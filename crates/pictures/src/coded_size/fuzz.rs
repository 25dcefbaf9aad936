//! What the fuzzers run over the readers here.

use super::{Codec, Framing, Limits, Reader};

/// One of each.
pub const CODECS: [Codec; 18] = [
    Codec::H264(Framing::StartCodes),
    Codec::H264(Framing::Lengths(4)),
    Codec::H264(Framing::Lengths(1)),
    Codec::H265(Framing::StartCodes),
    Codec::H265(Framing::Lengths(2)),
    Codec::Vp8,
    Codec::Vp9,
    Codec::Av1,
    Codec::Mpeg2,
    Codec::Mpeg4,
    Codec::Theora,
    Codec::Jpeg,
    Codec::Png,
    Codec::Webp,
    Codec::Gif,
    Codec::Bmp,
    Codec::Jpeg2000,
    Codec::Tiff,
];

/// Reads `data` as a coded picture, whole and in two pieces, and as what stands beside one. The first byte says how it is coded.
pub fn any_bytes(data: &[u8]) {
    let Some((codec, data)) = data.split_first() else { return };
    let codec = CODECS[usize::from(*codec) % CODECS.len()];
    let read = |pieces: &[&[u8]]| {
        let mut reader = Reader::new(codec, Limits::CAMERA);
        // Too large or not: only a panic is a fault.
        let _ = reader.header(data);
        pieces.iter().try_for_each(|piece| reader.frame(piece)).is_ok()
    };
    let (first, second) = data.split_at(data.len() / 2);
    let (whole, in_two) = (read(&[data]), read(&[first, second]));
    if matches!(codec, Codec::Png | Codec::Webp) {
        assert!(whole || !in_two, "a size was lost where the pieces meet");
    }
}
