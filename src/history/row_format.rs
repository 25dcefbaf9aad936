//! How a row lies in its file: bytes in, a row or the reason why it is none out. On the caller's thread. Pure; whatever the bytes are, it
//! never fails otherwise.
//!
//! ```text
//! 0   from        i64   ms since 1970 (UTC), when the frame was sampled
//! 8   picture     u64   1: it had a picture when it was stored (`picture_files.rs`); 0: none
//! 16  scale       f32   what the numbers are multiplied by
//! 20  name        u32   number of the stream, region and model in the table of names; 0: no row (taken out)
//! 24  tile        u16
//! 26  version     u16   1
//! 28  crc         u32   CRC-32 of what its name stands for, of all above and of the numbers
//! 32  span        u32   ms from `from` until the last frame that looked the same
//! 36  span check  u32   CRC-32 of `crc` and `span`
//! 40  numbers     i8    turned (`rotation.rs`), as many as the model has, then zeros up to a multiple of 8
//! ```
//!
//! Little-endian. `span` and its check are written again in place; they lie in 8 bytes at a multiple of 8, which no sector's border cuts, so
//! that a write which is cut off takes neither them nor the row along. A span whose check is wrong counts as 0.

use crc32fast::Hasher;

/// Bytes before the numbers.
pub const HEADER: usize = 40;
/// Where `span` lies.
pub const SPAN: usize = 32;
const CRC: usize = 28;
const VERSION: u16 = 1;
/// Longest embedding.
pub const MAX_DIM: usize = 4096;

/// Bytes of a row of `dim` numbers.
pub fn row_len(dim: usize) -> usize {
    HEADER + dim.next_multiple_of(8)
}

/// What a row says besides its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowHead {
    /// Milliseconds since 1970.
    pub from: i64,
    pub until: i64,
    pub name: u32,
    pub tile: u16,
    pub scale: f32,
    pub picture: u64,
}

impl RowHead {
    /// Of a whole row, of which nothing is checked: what a search needs of each. `None`: there is no row.
    pub fn read(row: &[u8]) -> Option<Self> {
        let name = u32::from_le_bytes(field(row, 20)?);
        if name == 0 {
            return None;
        }
        let from = i64::from_le_bytes(field(row, 0)?);
        let span = u32::from_le_bytes(field(row, SPAN)?);
        Some(Self {
            from,
            until: from.saturating_add(i64::from(span)),
            name,
            tile: u16::from_le_bytes(field(row, 24)?),
            scale: f32::from_le_bytes(field(row, 16)?),
            picture: u64::from_le_bytes(field(row, 8)?),
        })
    }

    /// The same with a span that was checked: one that is wrong is none.
    pub fn checked(mut self, row: &[u8]) -> Self {
        let span = field(row, SPAN).map(u32::from_le_bytes).zip(field(row, SPAN + 4));
        if span.is_none_or(|(span, check): (u32, [u8; 4])| span_check(crc(row), span).to_le_bytes() != check) {
            self.until = self.from;
        }
        self
    }
}

/// A row's numbers, signed bytes.
pub fn numbers(row: &[u8]) -> &[u8] {
    row.get(HEADER..).unwrap_or_default()
}

/// Whether the row is as it was written, for the name whose [`seed`](super::name_table::Name::seed) is given.
pub fn is_whole(row: &[u8], seed: u32) -> bool {
    field(row, 26) == Some(VERSION.to_le_bytes())
        && field(row, CRC) == Some(checksum(row, seed).to_le_bytes())
        && field(row, 16).is_some_and(|scale| f32::from_le_bytes(scale).is_finite())
}

/// Writes a row of `values`, which are turned, into `out`.
pub fn write(out: &mut Vec<u8>, head: &RowHead, values: &[f32], seed: u32) {
    out.clear();
    let (scale, by) = scale(values);
    out.extend(head.from.to_le_bytes());
    out.extend(head.picture.to_le_bytes());
    out.extend(scale.to_le_bytes());
    out.extend(head.name.to_le_bytes());
    out.extend(head.tile.to_le_bytes());
    out.extend(VERSION.to_le_bytes());
    out.extend([0; HEADER - CRC]);
    out.extend(values.iter().map(|value| ((value * by).round() as i8).to_le_bytes()[0]));
    out.resize(row_len(values.len()), 0);
    let crc = checksum(out, seed).to_le_bytes();
    out[CRC..SPAN].copy_from_slice(&crc);
    out[SPAN..HEADER].copy_from_slice(&span(crc, head.until.saturating_sub(head.from)));
}

/// The 8 bytes of a span, clamped to what they can say.
pub fn span(crc: [u8; 4], milliseconds: i64) -> [u8; 8] {
    let span = u32::try_from(milliseconds.max(0)).unwrap_or(u32::MAX);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&span.to_le_bytes());
    bytes[4..].copy_from_slice(&span_check(crc, span).to_le_bytes());
    bytes
}

/// The checksum that a row carries.
pub fn crc(row: &[u8]) -> [u8; 4] {
    field(row, CRC).unwrap_or_default()
}

/// The scale of a row of `values`, and what they are multiplied by.
fn scale(values: &[f32]) -> (f32, f32) {
    let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    if largest > 0.0 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) }
}

fn span_check(crc: [u8; 4], span: u32) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&crc);
    hasher.update(&span.to_le_bytes());
    hasher.finalize()
}

fn checksum(row: &[u8], seed: u32) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(row.get(..CRC).unwrap_or_default());
    hasher.update(row.get(HEADER..).unwrap_or_default());
    hasher.finalize()
}

fn field<const N: usize>(row: &[u8], at: usize) -> Option<[u8; N]> {
    row.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Vec<u8> {
        let head = RowHead { from: -5, until: 70_000, name: 3, tile: 2, scale: 0.0, picture: 9 };
        let mut row = Vec::new();
        write(&mut row, &head, &[0.5, -1.0, 0.25], 77);
        row
    }

    #[test]
    fn a_row_comes_back_as_it_was_and_is_small() {
        let row = row();
        let head = RowHead::read(&row).unwrap().checked(&row);
        assert_eq!((head.from, head.until, head.name, head.tile, head.picture), (-5, 70_000, 3, 2, 9));
        assert_eq!(numbers(&row), [64, 129, 32, 0, 0, 0, 0, 0]);
        assert!(is_whole(&row, 77) && !is_whole(&row, 78));
        assert!(row_len(512) <= 560);
    }

    #[test]
    fn every_flipped_bit_is_found_and_takes_the_span_alone_where_it_lies_there() {
        let good = row();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let span = (SPAN..HEADER).contains(&(bit / 8));
            assert_eq!(is_whole(&bad, 77), span, "bit {bit}");
            if span {
                assert_eq!(RowHead::read(&bad).unwrap().checked(&bad).until, -5, "bit {bit}");
            }
        }
        for length in 0..good.len() {
            assert!(!is_whole(&good[..length], 77));
            let _ = RowHead::read(&good[..length]);
        }
    }
}
