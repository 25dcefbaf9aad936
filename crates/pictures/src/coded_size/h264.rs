//! Sequence parameter sets of H.264 (7.3.2.1 and annex E of the standard).

use super::nal::{self, Framing};
use super::{Bits, Check, Claim, TooLarge};

/// Longer parameter sets are none: scaling lists and all come to a few hundred bytes.
const MOST: usize = 4096;

/// A parameter set, and the one of a layer beside the base.
const SPS: [u8; 2] = [7, 15];

/// Looks at what `codec_data` holds: an `avcC` record, or parameter sets behind start codes.
pub fn record(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    let [1, _, _, _, _, count, sets @ ..] = data else { return frame(Framing::StartCodes, data, check) };
    // Sequence parameter sets, then picture parameter sets: libav takes either in both places.
    let mut rest = sets;
    let mut count = count & 0x1f;
    for _ in 0..2 {
        for _ in 0..count {
            let Some(([high, low], behind)) = rest.split_first_chunk() else { return Ok(()) };
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
            let (unit, behind) = behind.split_at(length);
            rest = behind;
            nal::with_inner(unit).try_for_each(|unit| one(unit, check))?;
        }
        let Some((next, behind)) = rest.split_first() else { return Ok(()) };
        (count, rest) = (*next, behind);
    }
    Ok(())
}

/// Looks at the parameter sets in `data`.
pub fn frame(framing: Framing, data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    // libav takes a record as such also in the place of a frame.
    if matches!(framing, Framing::Lengths(_)) && matches!(data, [1, _, 0, _, 0xfc..=0xff, ..]) {
        record(data, check)?;
    }
    nal::all_units(framing, data).try_for_each(|unit| one(unit, check))
}

fn one(unit: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    let Some((header, set)) = unit.split_first() else { return Ok(()) };
    if !SPS.contains(&(header & 0x1f)) {
        return Ok(());
    }
    let whole = claims(&nal::unescaped(set, MOST), check)?;
    // libav's second try: as it is.
    if !whole {
        claims(&set[..set.len().min(MOST)], check)?;
    }
    Ok(())
}

/// Looks at what a parameter set claims. Whether it could be read to its end.
fn claims(set: &[u8], check: Check<'_>) -> Result<bool, TooLarge> {
    // Where the standard has grown, not every decoder knows which profiles have the longer form.
    let forms: &[bool] = match set.first() {
        Some(44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 144 | 244) => &[true],
        Some(134 | 135 | 138 | 139) => &[true, false],
        _ => &[false],
    };
    let mut all = true;
    for high in forms {
        let (claim, whole) = read(set, *high);
        claim.map_or(Ok(()), &mut *check)?;
        all &= whole;
    }
    Ok(all)
}

fn read(set: &[u8], high: bool) -> (Option<Claim>, bool) {
    let mut bits = Bits::new(set);
    let Some(mut claim) = size(&mut bits, high) else { return (None, false) };
    let kept = usability(&mut bits);
    if let Some(Some(kept)) = kept {
        claim.frames = claim.frames.max(u64::from(kept) + 1);
    }
    (Some(claim), kept.is_some())
}

fn size(bits: &mut Bits<'_>, high: bool) -> Option<Claim> {
    bits.skip(24)?;
    // No decoder takes more than the standard allows here.
    let _id = bits.up_to(31)?;
    let (mut chroma, mut depth) = (1, 8);
    if high {
        chroma = bits.up_to(3)?;
        if chroma == 3 {
            bits.skip(1)?;
        }
        depth = bits.up_to(6)?.max(bits.up_to(6)?) + 8;
        bits.skip(1)?;
        if bits.bit()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.bit()? {
                    scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    let _log2_max_frame_num = bits.up_to(12)?;
    match bits.up_to(2)? {
        0 => drop(bits.exp_golomb()?),
        1 => {
            bits.skip(1)?;
            bits.signed()?;
            bits.signed()?;
            for _ in 0..bits.exp_golomb()? {
                bits.signed()?;
            }
        }
        _ => {}
    }
    let references = u64::from(bits.exp_golomb()?);
    bits.skip(1)?;
    let width = (u64::from(bits.exp_golomb()?) + 1) * 16;
    let height = (u64::from(bits.exp_golomb()?) + 1) * 16;
    let frames_only = bits.bit()?;
    let height = if frames_only { height } else { height * 2 };
    if !frames_only {
        bits.skip(1)?;
    }
    Some(Claim { width, height, frames: references + 1, bits: Claim::bits(chroma, depth) })
}

fn scaling_list(bits: &mut Bits<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.signed()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// `max_dec_frame_buffering`, where it is told; `None` where the parameter set ends too early.
fn usability(bits: &mut Bits<'_>) -> Option<Option<u32>> {
    bits.skip(1)?;
    if bits.bit()? {
        for _ in 0..4 {
            bits.exp_golomb()?;
        }
    }
    if !bits.bit()? {
        return Some(None);
    }
    if bits.bit()? && bits.number(8)? == 255 {
        bits.skip(32)?;
    }
    if bits.bit()? {
        bits.skip(1)?;
    }
    if bits.bit()? {
        bits.skip(4)?;
        if bits.bit()? {
            bits.skip(24)?;
        }
    }
    if bits.bit()? {
        bits.exp_golomb()?;
        bits.exp_golomb()?;
    }
    if bits.bit()? {
        bits.skip(65)?;
    }
    let nal = bits.bit()?;
    if nal {
        reference_decoder(bits)?;
    }
    let vcl = bits.bit()?;
    if vcl {
        reference_decoder(bits)?;
    }
    if nal || vcl {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    if !bits.bit()? {
        return Some(None);
    }
    bits.skip(1)?;
    for _ in 0..5 {
        bits.exp_golomb()?;
    }
    bits.exp_golomb().map(Some)
}

fn reference_decoder(bits: &mut Bits<'_>) -> Option<()> {
    let count = bits.exp_golomb()?;
    bits.skip(8)?;
    for _ in 0..=count {
        bits.exp_golomb()?;
        bits.exp_golomb()?;
        bits.skip(1)?;
    }
    bits.skip(20)
}
