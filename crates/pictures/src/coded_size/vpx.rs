//! Frames of VP8 (RFC 6386, 9.1) and VP9 (6.2 of its bitstream specification).

use super::{Bits, Check, Claim, TooLarge};

/// Sizes of `VP8`, of which only keyframes have one.
pub fn vp8(data: &[u8]) -> Option<Claim> {
    let [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] = *data else { return None };
    if tag & 1 != 0 {
        return None;
    }
    let side = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Some(Claim { frames: 4, ..Claim::picture(side(w0, w1), side(h0, h1)) })
}

/// Looks at each frame of a superframe, or at those that can be found without one.
pub fn vp9(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    in_a_row(data, check)?;
    let mut at = 0;
    for size in superframe(data).unwrap_or_default() {
        let rest = data.get(at..).unwrap_or_default();
        in_a_row(&rest[..size.min(rest.len())], check)?;
        at = at.saturating_add(size);
    }
    Ok(())
}

/// Whether a decoder that finds no index looks for another frame where the first one ends, which only decoding tells. An index of one frame keeps it
/// from that; this is the one to append.
pub fn vp9_index(data: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(data.len()).ok().filter(|length| *length > 0)?;
    if superframe(data).is_some() {
        return None;
    }
    // One frame, its length in four bytes.
    let marker = [0xc0 | 3 << 3];
    Some([&marker[..], &length.to_le_bytes(), &marker].concat())
}

/// Looks at a frame, and at what is behind those that only show an earlier one: they are a byte or two, and zeros may follow.
fn in_a_row(mut data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    loop {
        frame(data).map_or(Ok(()), &mut *check)?;
        let Some(behind) = behind_shown(data) else { return Ok(()) };
        data = behind.iter().position(|byte| *byte != 0).and_then(|at| behind.get(at..)).unwrap_or_default();
    }
}

/// What follows a frame that has been decoded already.
fn behind_shown(data: &[u8]) -> Option<&[u8]> {
    match *data {
        // Marker and profile; the highest has a bit more, which goes into another byte.
        [first, _, ref behind @ ..] if first & 0xf4 == 0xb4 => Some(behind),
        [first, ref behind @ ..] if first & 0xf0 != 0xb0 && first & 0xc8 == 0x88 => Some(behind),
        _ => None,
    }
}

/// The sizes of the frames that the index at the end of a superframe names.
fn superframe(data: &[u8]) -> Option<Vec<usize>> {
    let last = *data.last()?;
    if last & 0xe0 != 0xc0 {
        return None;
    }
    let (frames, bytes) = (usize::from(last & 7) + 1, usize::from(last >> 3 & 3) + 1);
    let index = data.len().checked_sub(2 + frames * bytes)?;
    if data[index] != last {
        return None;
    }
    let size = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    Some(data[index + 1..data.len() - 1].chunks_exact(bytes).map(size).collect())
}

fn frame(data: &[u8]) -> Option<Claim> {
    let mut bits = Bits::new(data);
    if bits.number(2)? != 2 {
        return None;
    }
    let profile = bits.number(1)? | bits.number(1)? << 1;
    if profile == 3 {
        bits.skip(1)?;
    }
    if bits.bit()? {
        // It is one that has been decoded already.
        return None;
    }
    let (inter, shown, resilient) = (bits.bit()?, bits.bit()?, bits.bit()?);
    // As much as the profile may have.
    let mut pixel = if profile == 0 { 12 } else { 24 };
    if !inter {
        if bits.number(24)? != SYNC {
            return None;
        }
        pixel = colours(&mut bits, profile)?;
    } else {
        let intra = !shown && bits.bit()?;
        if !resilient {
            bits.skip(2)?;
        }
        if intra {
            if bits.number(24)? != SYNC {
                return None;
            }
            if profile > 0 {
                pixel = colours(&mut bits, profile)?;
            }
        }
        bits.skip(8)?;
        if !intra {
            bits.skip(12)?;
            for _ in 0..3 {
                if bits.bit()? {
                    // The size of a frame before it.
                    return None;
                }
            }
        }
    }
    let (width, height) = (u64::from(bits.number(16)?) + 1, u64::from(bits.number(16)?) + 1);
    Some(Claim { width, height, frames: Claim::USUAL_FRAMES, bits: pixel })
}

const SYNC: u32 = 0x49_83_42;

/// A pixel's bits.
fn colours(bits: &mut Bits<'_>, profile: u32) -> Option<u64> {
    let depth = if profile >= 2 {
        bits.skip(1)?;
        10
    } else {
        8
    };
    const RGB: u32 = 7;
    if bits.number(3)? != RGB {
        bits.skip(1)?;
        if profile & 1 == 1 {
            let (narrow, low) = (bits.bit()?, bits.bit()?);
            bits.skip(1)?;
            return Some(Claim::bits(
                if narrow && low {
                    1
                } else if narrow {
                    2
                } else {
                    3
                },
                depth,
            ));
        }
        return Some(Claim::bits(1, depth));
    }
    if profile & 1 == 1 {
        bits.skip(1)?;
    }
    Some(Claim::bits(3, depth))
}
