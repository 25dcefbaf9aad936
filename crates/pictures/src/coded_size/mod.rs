//! How large a coded picture says that it is, read from its header before any decoder sees it. Pure, any thread.
//!
//! In: the bytes on their way to a decoder, and what stands beside them (codec data). Out: [`TooLarge`] for the first picture that
//! claims more than [`Limits`] allow. Decoders allocate what a header asks for, and a header of a few bytes can ask for gigabytes.
//! Every header is looked at, also one that a decoder would not come to: a camera has no reason to send such a thing. What cannot be
//! read is left to the decoder, which cannot read it either; so readers here must be at least as lenient as decoders are, which is why
//! ready-made ones are no help: they stop at the first size that they find, or at the first value that the standard does not allow.

mod av1;
mod bits;
pub mod fuzz;
mod h264;
mod h265;
mod mpeg;
mod nal;
mod stills;
mod vpx;

#[cfg(test)]
#[path = "../../../../tests/common/bombs.rs"]
pub mod bombs;
#[cfg(test)]
mod tests;

pub use bits::Bits;
pub use nal::{Framing, units};
pub use vpx::vp9_index;

/// How large pictures may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_pixels: u64,
    /// Of either side.
    pub max_side: u64,
    /// Of all pictures that a decoder keeps at a time.
    pub max_bytes: u64,
}

impl Limits {
    /// 8K, which is 7680 by 4320, and a little more.
    pub const MAX_PIXELS: u64 = 1 << 25;
    const MAX_SIDE: u64 = 16_384;
    /// The highest levels of H.264 and H.265 (6.2) allow six pictures of the largest size, and one pixel has up to three bytes in
    /// 4:2:0 with ten bits.
    const BYTES_PER_PIXEL: u64 = 6 * 3;
    /// A 100-megapixel picture with 16 bits and alpha needs 800 MB; a bomb claims more.
    const MAX_BYTES: u64 = 1 << 30;

    /// For what comes from a camera, over the network or through the API.
    pub const CAMERA: Self = Self::of(Self::MAX_PIXELS);
    /// For files that a person has named.
    pub const FILE: Self = Self::of(Self::MOST_PIXELS);

    /// What `max_pixels` may be at most: beyond it even the decoded picture would be too much.
    pub const MOST_PIXELS: u64 = 200_000_000;
    /// And at least: below it hardly a camera is left, and somebody has written megapixels.
    pub const LEAST_PIXELS: u64 = 1 << 16;

    /// The limits that go with so many pixels.
    pub const fn of(max_pixels: u64) -> Self {
        let more = max_pixels > Self::MAX_PIXELS;
        let max_side = if more { crate::Picture::MAX_SIDE as u64 } else { Self::MAX_SIDE };
        let bytes = if more { max_pixels } else { Self::MAX_PIXELS } * Self::BYTES_PER_PIXEL;
        let max_bytes = if bytes > Self::MAX_BYTES { Self::MAX_BYTES } else { bytes };
        Self { max_pixels, max_side, max_bytes }
    }

    /// Whether a picture that claims so much may be decoded.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self, claim: Claim) -> Result<(), TooLarge> {
        let Claim { width, height, frames, .. } = claim;
        if width > self.max_side || height > self.max_side {
            return Err(TooLarge::Side { width, height, max: self.max_side });
        }
        // Sides are bounded now, so nothing overflows.
        let pixels = width * height;
        if pixels > self.max_pixels {
            return Err(TooLarge::Pixels { width, height, max: self.max_pixels });
        }
        let bytes = claim.bytes();
        if bytes > self.max_bytes {
            return Err(TooLarge::Bytes { width, height, frames, bytes, max: self.max_bytes });
        }
        Ok(())
    }
}

/// What a header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub width: u64,
    pub height: u64,
    /// Pictures that the decoder has to keep at a time, this one among them.
    pub frames: u64,
    /// Of a pixel, in all its planes.
    pub bits: u64,
}

impl Claim {
    /// Decoders of codecs that do not say how many pictures they keep have eight places at most, of which the same picture fills several.
    const USUAL_FRAMES: u64 = 6;

    /// One picture in 4:2:0 with eight bits.
    pub const fn picture(width: u64, height: u64) -> Self {
        Self { width, height, frames: 1, bits: 12 }
    }

    /// Of all the pictures that it asks for.
    const fn bytes(self) -> u64 {
        (self.width.saturating_mul(self.height) / 8).saturating_mul(self.bits).saturating_mul(self.frames)
    }

    /// A pixel's bits with `chroma_format_idc` and a sample's bits.
    const fn bits(chroma: u32, depth: u32) -> u64 {
        let sample = if depth > 8 { 16 } else { 8 };
        match chroma {
            0 => sample,
            1 => sample * 3 / 2,
            2 => sample * 2,
            _ => sample * 3,
        }
    }
}

/// A picture that claims more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    #[error("{width}x{height}, and a side may have {max} pixels")]
    Side { width: u64, height: u64, max: u64 },
    #[error("{width}x{height}, and a picture may have {max} pixels")]
    Pixels { width: u64, height: u64, max: u64 },
    #[error("{width}x{height}, and {frames} of them at a time need {bytes} bytes of at most {max}")]
    Bytes { width: u64, height: u64, frames: u64, bytes: u64, max: u64 },
    #[error("its streams together need {bytes} bytes of at most {max}")]
    Together { bytes: u64, max: u64 },
    #[error("of a size that is not told where a picture begins")]
    Untold,
}

/// What is coded how, as far as sizes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    H264(Framing),
    H265(Framing),
    Vp8,
    Vp9,
    Av1,
    /// MPEG-1 and MPEG-2.
    Mpeg2,
    /// MPEG-4 part 2.
    Mpeg4,
    Theora,
    Jpeg,
    Jpeg2000,
    Png,
    Webp,
    Gif,
    Bmp,
    Tiff,
    /// No header of it can ask for more than a few megapixels.
    Small,
}

/// Reads one stream on its way to a decoder.
#[derive(Debug)]
pub struct Reader {
    codec: Codec,
    limits: Limits,
    /// The end of what came before, where headers may be cut in two.
    tail: Vec<u8>,
    av1: Option<av1::Sequence>,
    mpeg2: mpeg::Size,
    /// The most that a header has asked for so far.
    bytes: u64,
}

/// No header of a picture in pieces is longer.
const TAIL: usize = 32;

impl Reader {
    pub fn new(codec: Codec, limits: Limits) -> Self {
        let (tail, av1, mpeg2) = (Vec::new(), None, mpeg::Size::default());
        Self { codec, limits, tail, av1, mpeg2, bytes: 0 }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What a decoder has to keep at most of what has been looked at.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Looks at what stands beside the stream: codec data, stream headers.
    ///
    /// # Errors
    /// When it claims too much.
    pub fn header(&mut self, data: &[u8]) -> Result<(), TooLarge> {
        match self.codec {
            Codec::H264(_) => self.checked(|_, check| h264::record(data, check)),
            Codec::H265(_) => self.checked(|_, check| h265::record(data, check)),
            // Marker, version, profile and level; then OBUs.
            Codec::Av1 => self.frame(data.get(4..).unwrap_or_default()),
            // Its codec data describe the profile.
            Codec::Vp8 | Codec::Vp9 => Ok(()),
            _ => self.frame(data),
        }
    }

    /// Looks at the next bytes: a frame, or, of still images, a piece of one.
    ///
    /// # Errors
    /// When they claim too much.
    pub fn frame(&mut self, data: &[u8]) -> Result<(), TooLarge> {
        self.checked(|reader, check| reader.look(data, check))
    }

    fn checked(&mut self, look: impl FnOnce(&mut Self, Check<'_>) -> Result<(), TooLarge>) -> Result<(), TooLarge> {
        let (limits, mut bytes) = (self.limits, self.bytes);
        let looked = look(self, &mut |claim| {
            bytes = bytes.max(claim.bytes());
            limits.check(claim)
        });
        self.bytes = bytes;
        looked
    }

    fn look(&mut self, data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
        match self.codec {
            Codec::H264(framing) => h264::frame(framing, data, check),
            Codec::H265(framing) => h265::frame(framing, data, check),
            Codec::Vp8 => vpx::vp8(data).map_or(Ok(()), check),
            Codec::Vp9 => vpx::vp9(data, check),
            Codec::Av1 => av1::frame(data, &mut self.av1, check),
            Codec::Mpeg2 => mpeg::mpeg2(data, &mut self.mpeg2, check),
            Codec::Mpeg4 => mpeg::mpeg4(data, check),
            Codec::Theora => mpeg::theora(data).map_or(Ok(()), check),
            Codec::Gif => stills::gif(data, check),
            Codec::Bmp => stills::bmp(data).map_or(Ok(()), check),
            Codec::Tiff => stills::tiff(data, check),
            Codec::Jpeg => {
                self.seam(data, stills::jpeg_scan, check)?;
                stills::jpeg(data, check)
            }
            Codec::Jpeg2000 => {
                self.seam(data, stills::jpeg2000, check)?;
                stills::jpeg2000(data, check)
            }
            Codec::Png => {
                self.seam(data, stills::png, check)?;
                stills::png(data, check)
            }
            Codec::Webp => {
                self.seam(data, stills::webp, check)?;
                stills::webp(data, check)
            }
            Codec::Small => Ok(()),
        }
    }

    /// Looks at where the bytes before meet `data`.
    fn seam(&mut self, data: &[u8], look: Looking, check: Check<'_>) -> Result<(), TooLarge> {
        self.tail.extend_from_slice(&data[..data.len().min(TAIL)]);
        let looked = look(&self.tail, check);
        if data.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&data[data.len() - TAIL..]);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        }
        looked
    }
}

type Looking = fn(&[u8], Check<'_>) -> Result<(), TooLarge>;

/// What readers do with each size that they find.
type Check<'a> = &'a mut dyn FnMut(Claim) -> Result<(), TooLarge>;
