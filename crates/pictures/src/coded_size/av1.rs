//! OBUs of AV1 (5.5 and 5.9 of its specification): sequence headers, and frames that have a size of their own.

use super::{Bits, Check, Claim, TooLarge};

const SEQUENCE: u8 = 1;
/// Frame headers, frames, and headers once more.
const FRAMES: [u8; 3] = [3, 6, 7];

/// What frame headers need of the sequence header.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// A still picture whose frame header says next to nothing.
    reduced: bool,
    /// Bits of a presentation time, where frames have one.
    presentation: Option<u32>,
    /// Bits of a removal time, where frames may have one.
    removal: Option<u32>,
    /// Of each operating point: its layers, and whether removal times are about it.
    points: Vec<(u32, bool)>,
    side_bits: (u32, u32),
    /// Bits of a frame's id and of a difference of two, where frames have one.
    ids: Option<(u32, u32)>,
    /// `None`: each frame says.
    screen_content: Option<bool>,
    whole_vectors: Option<bool>,
    order_bits: u32,
    /// Of a pixel.
    bits: u64,
}

/// Looks at each OBU; `sequence` is what the stream has said before.
pub fn frame(data: &[u8], sequence: &mut Option<Sequence>, check: Check<'_>) -> Result<(), TooLarge> {
    let mut rest = data;
    while let Some((Obu { kind, layers, payload }, behind)) = obu(behind_zeros(rest)) {
        rest = behind;
        if kind == SEQUENCE {
            if let Some((read, claim)) = self::sequence(payload) {
                *sequence = Some(read);
                check(claim)?;
            }
        } else if FRAMES.contains(&kind)
            && let Some(known) = sequence
        {
            frame_size(payload, known, layers).map_or(Ok(()), &mut *check)?;
        }
    }
    Ok(())
}

/// Decoders pass over zeros between two OBUs; as a header, one would be of an OBU of no known kind, up to the end.
fn behind_zeros(data: &[u8]) -> &[u8] {
    data.iter().position(|byte| *byte != 0).and_then(|at| data.get(at..)).unwrap_or_default()
}

struct Obu<'a> {
    kind: u8,
    /// Temporal and spatial.
    layers: Option<(u32, u32)>,
    payload: &'a [u8],
}

/// An OBU, and what is behind it.
fn obu(data: &[u8]) -> Option<(Obu<'_>, &[u8])> {
    let (&header, mut rest) = data.split_first()?;
    let mut layers = None;
    if header & 4 != 0 {
        let (&extension, behind) = rest.split_first()?;
        layers = Some((u32::from(extension >> 5), u32::from(extension >> 3 & 3)));
        rest = behind;
    }
    let mut length = rest.len();
    if header & 2 != 0 {
        let mut size = 0_u64;
        for index in 0..8 {
            let (&byte, behind) = rest.split_first()?;
            size |= u64::from(byte & 0x7f) << (7 * index);
            rest = behind;
            if byte & 0x80 == 0 {
                break;
            }
        }
        length = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
    }
    let (payload, behind) = rest.split_at(length);
    Some((Obu { kind: header >> 3 & 0xf, layers, payload }, behind))
}

fn sequence(data: &[u8]) -> Option<(Sequence, Claim)> {
    let mut bits = Bits::new(data);
    let mut read = Sequence::default();
    let profile = bits.number(3)?;
    bits.skip(1)?;
    read.reduced = bits.bit()?;
    if read.reduced {
        bits.skip(5)?;
    } else {
        operating_points(&mut bits, &mut read)?;
    }
    read.side_bits = (bits.number(4)? + 1, bits.number(4)? + 1);
    let width = u64::from(bits.number(read.side_bits.0)?) + 1;
    let height = u64::from(bits.number(read.side_bits.1)?) + 1;
    // What is behind the size tells of the frames; the size counts also where it cannot be read.
    let deep = tools(&mut bits, &mut read).unwrap_or_default();
    let (chroma, depth) = match (profile, deep) {
        (0, false) => (1, 8),
        (0, true) => (1, 10),
        (1, false) => (3, 8),
        _ => (3, 10),
    };
    read.bits = Claim::bits(chroma, depth);
    let claim = Claim { width, height, frames: Claim::USUAL_FRAMES, bits: read.bits };
    Some((read, claim))
}

fn operating_points(bits: &mut Bits<'_>, read: &mut Sequence) -> Option<()> {
    let mut delay = None;
    if bits.bit()? {
        bits.skip(64)?;
        let even = bits.bit()?;
        if even {
            bits.exp_golomb()?;
        }
        if bits.bit()? {
            delay = Some(bits.number(5)? as usize + 1);
            bits.skip(32)?;
            read.removal = Some(bits.number(5)? + 1);
            let presentation = bits.number(5)? + 1;
            read.presentation = (!even).then_some(presentation);
        }
    }
    let initial_delay = bits.bit()?;
    for _ in 0..=bits.number(5)? {
        let layers = bits.number(12)?;
        if bits.number(5)? > 7 {
            bits.skip(1)?;
        }
        let mut removed = false;
        if let Some(delay) = delay {
            removed = bits.bit()?;
            if removed {
                bits.skip(2 * delay + 1)?;
            }
        }
        if initial_delay && bits.bit()? {
            bits.skip(4)?;
        }
        read.points.push((layers, removed));
    }
    Some(())
}

/// What the frame headers may say. Whether a sample has more than eight bits.
fn tools(bits: &mut Bits<'_>, read: &mut Sequence) -> Option<bool> {
    if !read.reduced && bits.bit()? {
        let difference = bits.number(4)? + 2;
        read.ids = Some((difference + bits.number(3)? + 1, difference));
    }
    bits.skip(3)?;
    if !read.reduced {
        bits.skip(4)?;
        let ordered = bits.bit()?;
        if ordered {
            bits.skip(2)?;
        }
        read.screen_content = if bits.bit()? { None } else { Some(bits.bit()?) };
        if read.screen_content != Some(false) {
            read.whole_vectors = if bits.bit()? { None } else { Some(bits.bit()?) };
        }
        if ordered {
            read.order_bits = bits.number(3)? + 1;
        }
    }
    bits.skip(3)?;
    bits.bit()
}

/// What a frame says of its own size. `None` where it has the sequence's, or that of a frame before it.
fn frame_size(data: &[u8], sequence: &Sequence, layers: Option<(u32, u32)>) -> Option<Claim> {
    const KEY: u32 = 0;
    const INTRA: u32 = 2;
    const SWITCH: u32 = 3;
    if sequence.reduced {
        return None;
    }
    let mut bits = Bits::new(data);
    if bits.bit()? {
        // It is one that has been decoded already.
        return None;
    }
    let kind = bits.number(2)?;
    let shown = bits.bit()?;
    match sequence.presentation.filter(|_| shown) {
        Some(time) => bits.skip(time as usize)?,
        None if !shown => bits.skip(1)?,
        None => {}
    }
    let resilient = kind == SWITCH || kind == KEY && shown || bits.bit()?;
    bits.skip(1)?;
    let screen_content = match sequence.screen_content {
        Some(always) => always,
        None => bits.bit()?,
    };
    if screen_content && sequence.whole_vectors.is_none() {
        bits.skip(1)?;
    }
    if let Some((id, _)) = sequence.ids {
        bits.skip(id as usize)?;
    }
    let own = kind == SWITCH || bits.bit()?;
    if !own {
        return None;
    }
    bits.skip(sequence.order_bits as usize)?;
    let intra = kind == KEY || kind == INTRA;
    if !intra && !resilient {
        bits.skip(3)?;
    }
    if let Some(removal) = sequence.removal
        && bits.bit()?
    {
        for (point, removed) in &sequence.points {
            let about =
                layers.is_none_or(|(temporal, spatial)| point >> temporal & 1 == 1 && point >> (spatial + 8) & 1 == 1);
            if *removed && (*point == 0 || about) {
                bits.skip(removal as usize)?;
            }
        }
    }
    let refreshed = if kind == SWITCH || kind == KEY && shown { 0xff } else { bits.number(8)? };
    if (!intra || refreshed != 0xff) && resilient && sequence.order_bits > 0 {
        bits.skip(8 * sequence.order_bits as usize)?;
    }
    if !intra {
        let short = sequence.order_bits > 0 && bits.bit()?;
        if short {
            bits.skip(6)?;
        }
        for _ in 0..7 {
            bits.skip(if short { 0 } else { 3 } + sequence.ids.map_or(0, |(_, difference)| difference as usize))?;
        }
        if !resilient {
            for _ in 0..7 {
                if bits.bit()? {
                    return None;
                }
            }
        }
    }
    let width = u64::from(bits.number(sequence.side_bits.0)?) + 1;
    let height = u64::from(bits.number(sequence.side_bits.1)?) + 1;
    Some(Claim { width, height, frames: Claim::USUAL_FRAMES, bits: sequence.bits })
}
