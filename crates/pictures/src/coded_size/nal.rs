//! NAL units, as H.264 and H.265 share them.

use memchr::memmem;

/// How NAL units are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    StartCodes,
    /// Each with its length before it, in so many bytes.
    Lengths(usize),
}

/// The NAL units in `bytes`; the last one may be cut off.
pub fn units(framing: Framing, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = match framing {
        Framing::StartCodes => after_start_code(bytes),
        Framing::Lengths(_) => bytes,
    };
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let unit;
        match framing {
            Framing::StartCodes => {
                let next = after_start_code(rest);
                // What belongs to the next start code, and zeros before it, does no harm at the end of this one.
                unit = &rest[..rest.len() - next.len()];
                rest = next;
            }
            Framing::Lengths(size) => {
                let (length, behind) = rest.split_at_checked(size)?;
                let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (unit, rest) = behind.split_at(length.min(behind.len()));
            }
        }
        Some(unit)
    })
}

/// As [`units`], and [`with_inner`]; and those behind start codes where lengths are expected and there are none.
pub fn all_units(framing: Framing, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let other: &[u8] = match framing {
        Framing::Lengths(size) if has_start_codes(size, bytes) => bytes,
        _ => &[],
    };
    units(framing, bytes).flat_map(with_inner).chain(units(Framing::StartCodes, other))
}

/// Whether `bytes` begin with a start code rather than with a length of `size` bytes. A length may look like one (0, 0, 1 of a unit of
/// 256 to 511 bytes): then there are start codes if the lengths do not come out even. What looks like a parameter set in the middle of a picture
/// would be no reason to refuse it.
fn has_start_codes(size: usize, bytes: &[u8]) -> bool {
    if !bytes.starts_with(&[0, 0, 1]) {
        // As a length: a unit of one byte.
        return bytes.starts_with(&[0, 0, 0, 1]);
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((length, behind)) = rest.split_at_checked(size) else { return true };
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        match behind.get(length..) {
            Some(behind) => rest = behind,
            None => return true,
        }
    }
    false
}

/// A unit, and those that begin at a start code within it. The standards know none there, and libav looks for them all the same.
pub fn with_inner(unit: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::once(unit).chain(units(Framing::StartCodes, unit))
}

fn after_start_code(bytes: &[u8]) -> &[u8] {
    memmem::find(bytes, &[0, 0, 1]).map_or(&[], |at| &bytes[at + 3..])
}

/// The first `most` bytes of a unit without the bytes that keep start codes out of it.
pub fn unescaped(unit: &[u8], most: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(unit.len().min(most));
    let mut zeros = 0;
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        if plain.len() >= most {
            break;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        plain.push(byte);
    }
    plain
}
