//! Sequence parameter sets of H.265 (7.3.2.2 of the standard), as far as sizes go.

use super::nal::{self, Framing};
use super::{Bits, Check, Claim, TooLarge};

/// What is read of a parameter set is shorter by far.
const MOST: usize = 1024;
const SPS: u8 = 33;

/// Looks at what `codec_data` holds: an `hvcC` record, or parameter sets behind start codes.
pub fn record(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    let Some([first, second, third]) = data.first_chunk() else { return Ok(()) };
    // A start code is 0, 0, 0 or 1.
    if *first == 0 && *second == 0 && *third <= 1 {
        return frame(Framing::StartCodes, data, check);
    }
    let mut rest = data.get(22..).unwrap_or_default();
    let Some((&arrays, behind)) = rest.split_first() else { return Ok(()) };
    rest = behind;
    for _ in 0..arrays {
        let Some(([_, high, low], behind)) = rest.split_first_chunk() else { return Ok(()) };
        rest = behind;
        for _ in 0..u16::from_be_bytes([*high, *low]) {
            let Some(([high, low], behind)) = rest.split_first_chunk() else { return Ok(()) };
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
            let (unit, behind) = behind.split_at(length);
            rest = behind;
            nal::with_inner(unit).try_for_each(|unit| one(unit, check))?;
        }
    }
    Ok(())
}

/// Looks at the parameter sets in `data`.
pub fn frame(framing: Framing, data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    nal::all_units(framing, data).try_for_each(|unit| one(unit, check))
}

fn one(unit: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    let Some(([high, low], set)) = unit.split_first_chunk() else { return Ok(()) };
    if high >> 1 & 0x3f != SPS {
        return Ok(());
    }
    let layer = (high & 1) << 5 | low >> 3;
    size(&nal::unescaped(set, MOST), layer != 0).map_or(Ok(()), check)
}

fn size(set: &[u8], enhancement: bool) -> Option<Claim> {
    let mut bits = Bits::new(set);
    bits.skip(4)?;
    let layers = bits.number(3)?;
    // A layer beside the base, which no decoder here decodes, writes something else from here on.
    if enhancement && layers == 7 {
        return None;
    }
    bits.skip(1)?;
    profile(&mut bits, layers)?;
    // No decoder takes more than the standard allows here.
    let _id = bits.up_to(15)?;
    let chroma = bits.up_to(3)?;
    if chroma == 3 {
        bits.skip(1)?;
    }
    let (width, height) = (u64::from(bits.exp_golomb()?), u64::from(bits.exp_golomb()?));
    let (frames, bits) = kept(&mut bits, layers, chroma).unwrap_or((1, 12));
    Some(Claim { width, height, frames, bits })
}

fn profile(bits: &mut Bits<'_>, layers: u32) -> Option<()> {
    bits.skip(96)?;
    let mut present = Vec::new();
    for _ in 0..layers {
        present.push((bits.bit()?, bits.bit()?));
    }
    if layers > 0 {
        bits.skip(2 * (8_usize.saturating_sub(layers as usize)))?;
    }
    for (profile, level) in present {
        bits.skip(if profile { 88 } else { 0 } + if level { 8 } else { 0 })?;
    }
    Some(())
}

/// How many pictures are kept at a time, and a pixel's bits.
fn kept(bits: &mut Bits<'_>, layers: u32, chroma: u32) -> Option<(u64, u64)> {
    if bits.bit()? {
        for _ in 0..4 {
            bits.exp_golomb()?;
        }
    }
    let depth = bits.exp_golomb()?.max(bits.exp_golomb()?).saturating_add(8);
    bits.exp_golomb()?;
    let each = bits.bit()?;
    let mut frames = 1;
    for _ in if each { 0 } else { layers }..=layers {
        frames = frames.max(u64::from(bits.exp_golomb()?) + 1);
        bits.exp_golomb()?;
        bits.exp_golomb()?;
    }
    Some((frames, Claim::bits(chroma, depth)))
}
