//! Sequence headers of MPEG-1 and MPEG-2, video object layers of MPEG-4 part 2, and the first header of Theora.

use super::nal::{Framing, units};
use super::{Bits, Check, Claim, TooLarge};

/// What the last sequence header has said; its extension, which may come later, adds two bits to each side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    width: u64,
    height: u64,
}

/// A frame and the two that it refers to.
const FRAMES: u64 = 3;

/// Looks at the sequence headers and their extensions in `data`.
pub fn mpeg2(data: &[u8], size: &mut Size, check: Check<'_>) -> Result<(), TooLarge> {
    for unit in units(Framing::StartCodes, data) {
        match *unit {
            [0xb3, a, b, c, ..] => {
                size.width = u64::from(a) << 4 | u64::from(b >> 4);
                size.height = u64::from(b & 0xf) << 8 | u64::from(c);
                check(Claim { frames: FRAMES, ..Claim::picture(size.width, size.height) })?;
            }
            // 4 bits say that it is the sequence's extension; profile and level, progressive, chroma, then the sides.
            [0xb5, a, b, c, ..] if a >> 4 == 1 => {
                let width = size.width | u64::from(b & 1) << 13 | u64::from(c >> 7) << 12;
                let height = size.height | u64::from(c >> 5 & 3) << 12;
                let bits = Claim::bits(u32::from(b >> 1 & 3), 8);
                check(Claim { width, height, frames: FRAMES, bits })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Looks at the video object layers in `data`.
pub fn mpeg4(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    for unit in units(Framing::StartCodes, data) {
        if let Some((0x20..=0x2f, layer)) = unit.split_first() {
            object_layer(layer).map_or(Ok(()), &mut *check)?;
        }
    }
    Ok(())
}

fn object_layer(layer: &[u8]) -> Option<Claim> {
    const RECTANGULAR: u32 = 0;
    const GREY: u32 = 3;
    let mut bits = Bits::new(layer);
    bits.skip(1)?;
    let kind = bits.number(8)?;
    // The two kinds of the studio profile are written in another way.
    if kind == 14 || kind == 15 {
        bits.skip(4)?;
        if bits.number(2)? != RECTANGULAR {
            return None;
        }
        bits.skip(4 + 1 + 1 + 2 + 4 + 1)?;
        let width = u64::from(bits.number(14)?);
        bits.skip(1)?;
        let height = u64::from(bits.number(14)?);
        return Some(Claim { width, height, frames: FRAMES, bits: Claim::bits(3, 10) });
    }
    let mut version = 1;
    if bits.bit()? {
        version = bits.number(4)?;
        bits.skip(3)?;
    }
    const OWN_ASPECT: u32 = 15;
    if bits.number(4)? == OWN_ASPECT {
        bits.skip(16)?;
    }
    if bits.bit()? {
        bits.skip(3)?;
        if bits.bit()? {
            bits.skip(79)?;
        }
    }
    let shape = bits.number(2)?;
    if shape == GREY && version != 1 {
        bits.skip(4)?;
    }
    bits.skip(1)?;
    let resolution = bits.number(16)?;
    bits.skip(1)?;
    if bits.bit()? {
        // As many bits as the largest increment below the resolution takes, at least one.
        let most = resolution.saturating_sub(1).max(1);
        bits.skip((u32::BITS - most.leading_zeros()) as usize)?;
    }
    if shape != RECTANGULAR {
        return None;
    }
    bits.skip(1)?;
    let width = u64::from(bits.number(13)?);
    bits.skip(1)?;
    let height = u64::from(bits.number(13)?);
    Some(Claim { frames: FRAMES, ..Claim::picture(width, height) })
}

/// The size in a Theora identification header, in blocks of 16 pixels.
pub fn theora(data: &[u8]) -> Option<Claim> {
    let [w0, w1, h0, h1, ..] = *data.strip_prefix(b"\x80theora")?.get(3..)? else { return None };
    let side = |high, low| u64::from(u16::from_be_bytes([high, low])) * 16;
    // 4:4:4 at most.
    Some(Claim { width: side(w0, w1), height: side(h0, h1), frames: FRAMES, bits: 24 })
}
