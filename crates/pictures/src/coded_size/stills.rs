//! Headers of still images: JPEG, JPEG 2000, PNG, WebP, GIF, BMP and TIFF.
//!
//! JPEG, JPEG 2000, PNG and WebP are searched for headers wherever they stand, in whatever pieces they come: decoders look for one behind
//! damage too, and what a header looks like is no picture's content by chance.

use memchr::{memchr_iter, memmem};

use super::{Check, Claim, TooLarge};

/// Looks at every frame header of a JPEG. A thumbnail in front of them, within metadata, is not of the picture.
pub fn jpeg(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    let mut rest = data;
    if let [0xff, 0xd8, behind @ ..] = data {
        rest = behind;
        // Application data and comments, as far as they are whole: every decoder skips those.
        while let [0xff, 0xe0..=0xef | 0xfe, high, low, ..] = *rest {
            let length = 2 + usize::from(u16::from_be_bytes([high, low]));
            match rest.get(length..) {
                Some(behind) if length >= 4 => rest = behind,
                _ => break,
            }
        }
    }
    jpeg_scan(rest, check)
}

/// Looks at every frame header in `data`. Entropy-coded data hold none: a 0 follows each of their 255s.
pub fn jpeg_scan(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    for at in memchr_iter(0xff, data) {
        let [_, marker, l0, l1, precision, h0, h1, w0, w1, components, ..] = data[at..] else { continue };
        // Not DHT, JPG and DAC, which are among them; JPEG-LS has a number of its own.
        if !matches!(marker, 0xc0..=0xcf | 0xf7) || matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            continue;
        }
        let components = u64::from(components);
        if components == 0 || u64::from(u16::from_be_bytes([l0, l1])) != 8 + 3 * components {
            continue;
        }
        let side = |high, low| u64::from(u16::from_be_bytes([high, low]));
        // 0: a marker behind the picture tells how many lines it had.
        let height = if (h0, h1) == (0, 0) { u64::from(u16::MAX) } else { side(h0, h1) };
        let sample = if precision > 8 { 16 } else { 8 };
        // Those that refine a picture scan by scan keep two bytes a coefficient.
        let refined = matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce);
        let bits = components * (sample + if refined { 16 } else { 0 });
        check(Claim { width: side(w0, w1), height, frames: 1, bits })?;
    }
    Ok(())
}

/// Looks at every size in a JPEG 2000, whose codestream begins with it.
pub fn jpeg2000(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    for at in memmem::find_iter(data, b"\xff\x4f\xff\x51") {
        // Length and profile, then where the picture ends.
        let [_, _, _, _, x0, x1, x2, x3, y0, y1, y2, y3, ref rest @ ..] = data[at + 4..] else { continue };
        // Where it begins, and its tiles; then how many components it has, of which decoders keep four bytes a pixel.
        let components = rest.get(24..26).map_or(4, |bytes| u64::from(bytes[0]) << 8 | u64::from(bytes[1]));
        let (width, height) = (u32::from_be_bytes([x0, x1, x2, x3]), u32::from_be_bytes([y0, y1, y2, y3]));
        check(Claim { width: width.into(), height: height.into(), frames: 1, bits: components * 32 })?;
    }
    Ok(())
}

/// Looks at every image header of a PNG.
pub fn png(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    for at in memmem::find_iter(data, b"\0\0\0\x0dIHDR") {
        if let [w0, w1, w2, w3, h0, h1, h2, h3, depth, ..] = data[at + 8..] {
            let width = u64::from(u32::from_be_bytes([w0, w1, w2, w3]));
            let height = u64::from(u32::from_be_bytes([h0, h1, h2, h3]));
            // With colours and alpha at the end, whatever it begins with.
            check(Claim { width, height, frames: 1, bits: if depth > 8 { 64 } else { 32 } })?;
        }
    }
    Ok(())
}

/// Looks at the canvas of a WebP and at every picture in it.
pub fn webp(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    for at in memmem::find_iter(data, b"VP8") {
        let (width, height) = match data[at + 3..] {
            [b' ', _, _, _, _, tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] if tag & 1 == 0 => {
                let side = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
                (side(w0, w1), side(h0, h1))
            }
            [b'L', _, _, _, _, 0x2f, a, b, c, d, ..] => {
                let sides = u32::from_le_bytes([a, b, c, d]);
                (u64::from(sides & 0x3fff) + 1, u64::from(sides >> 14 & 0x3fff) + 1)
            }
            [b'X', 10, 0, 0, 0, _, _, _, _, w0, w1, w2, h0, h1, h2, ..] => {
                let side = |a, b, c| u64::from(u32::from_le_bytes([a, b, c, 0])) + 1;
                (side(w0, w1, w2), side(h0, h1, h2))
            }
            _ => continue,
        };
        check(Claim { width, height, frames: 2, bits: 32 })?;
    }
    Ok(())
}

/// Looks at a GIF's screen and at every frame that follows it in the same piece.
pub fn gif(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    let [b'G', b'I', b'F', b'8', _, _, ref rest @ ..] = *data else { return Ok(()) };
    let side = |low, high| u64::from(u16::from_le_bytes([low, high]));
    let mut look = |w0, w1, h0, h1| check(Claim { width: side(w0, w1), height: side(h0, h1), frames: 3, bits: 32 });
    let [w0, w1, h0, h1, flags, _, _, ref rest @ ..] = *rest else { return Ok(()) };
    look(w0, w1, h0, h1)?;
    let mut rest = behind_table(flags, rest);
    loop {
        rest = match *rest {
            [0x21, _, ref blocks @ ..] => behind_blocks(blocks),
            [0x2c, _, _, _, _, w0, w1, h0, h1, flags, ref behind @ ..] => {
                look(w0, w1, h0, h1)?;
                behind_blocks(behind_table(flags, behind).get(1..).unwrap_or_default())
            }
            // Its end.
            [] | [0x3b, ..] => return Ok(()),
            // Some decoders pass over what they do not know.
            [_, ref behind @ ..] => behind,
        };
    }
}

/// What follows a table of colours, if `flags` tell of one.
fn behind_table(flags: u8, data: &[u8]) -> &[u8] {
    let length = if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    data.get(length..).unwrap_or_default()
}

/// What follows blocks, each with its length before it, of which the last is empty.
fn behind_blocks(mut data: &[u8]) -> &[u8] {
    while let Some((&length, behind)) = data.split_first() {
        data = behind.get(usize::from(length)..).unwrap_or_default();
        if length == 0 {
            break;
        }
    }
    data
}

/// The size of a BMP, whose header has had many forms.
pub fn bmp(data: &[u8]) -> Option<Claim> {
    let [a, b, c, d, ref rest @ ..] = *data.strip_prefix(b"BM")?.get(12..)? else { return None };
    let (width, height) = match (u32::from_le_bytes([a, b, c, d]), rest) {
        (12, &[w0, w1, h0, h1, ..]) => {
            (u64::from(u16::from_le_bytes([w0, w1])), u64::from(u16::from_le_bytes([h0, h1])))
        }
        // Below zero: from top to bottom.
        (16..=1024, &[w0, w1, w2, w3, h0, h1, h2, h3, ..]) => (
            u64::from(i32::from_le_bytes([w0, w1, w2, w3]).unsigned_abs()),
            u64::from(i32::from_le_bytes([h0, h1, h2, h3]).unsigned_abs()),
        ),
        _ => return None,
    };
    Some(Claim { width, height, frames: 1, bits: 32 })
}

/// Looks at each page of a TIFF. Its directories may stand anywhere; one that is not in this piece is not told.
pub fn tiff(data: &[u8], check: Check<'_>) -> Result<(), TooLarge> {
    /// Decoders show the first one.
    const PAGES: usize = 64;
    let (little, rest) = match *data {
        [b'I', b'I', 42, 0, ref rest @ ..] => (true, rest),
        [b'M', b'M', 0, 42, ref rest @ ..] => (false, rest),
        // The form with 64 bits.
        [b'I', b'I', 43, 0, ..] | [b'M', b'M', 0, 43, ..] => return Err(TooLarge::Untold),
        _ => return Ok(()),
    };
    let tiff = Tiff { data, little };
    let mut offset = rest.first_chunk().map(|bytes| tiff.long(*bytes)).ok_or(TooLarge::Untold)?;
    for _ in 0..PAGES {
        if offset == 0 {
            break;
        }
        offset = tiff.page(offset as usize, check).ok_or(TooLarge::Untold)??;
    }
    Ok(())
}

struct Tiff<'a> {
    data: &'a [u8],
    little: bool,
}

impl Tiff<'_> {
    fn short(&self, bytes: [u8; 2]) -> u32 {
        u32::from(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn long(&self, bytes: [u8; 4]) -> u32 {
        if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }

    /// Looks at a directory and gives the place of the next one; `None` if it does not end in this piece.
    fn page(&self, offset: usize, check: Check<'_>) -> Option<Result<u32, TooLarge>> {
        let (count, rest) = self.data.get(offset..)?.split_first_chunk()?;
        let count = self.short(*count) as usize;
        let (entries, rest) = rest.split_at_checked(count * 12)?;
        let (mut sides, mut tile, mut samples, mut depth) = ((0, 0), (0, 0), 1, 16);
        for entry in entries.chunks_exact(12) {
            let [t0, t1, k0, k1, c0, c1, c2, c3, v0, v1, v2, v3] = *entry else { continue };
            let short = self.short([k0, k1]) == 3;
            let value = u64::from(if short { self.short([v0, v1]) } else { self.long([v0, v1, v2, v3]) });
            match self.short([t0, t1]) {
                256 => sides.0 = value,
                257 => sides.1 = value,
                // Of one sample, or of two; more are written elsewhere.
                258 if self.long([c0, c1, c2, c3]) <= 2 => depth = value,
                277 => samples = value,
                322 => tile.0 = value,
                323 => tile.1 = value,
                _ => {}
            }
        }
        let bits = samples.clamp(4, 1 << 16) * depth.clamp(8, 64).next_multiple_of(8);
        for (width, height) in [sides, tile] {
            if let Err(error) = check(Claim { width, height, frames: 1, bits }) {
                return Some(Err(error));
            }
        }
        Some(Ok(self.long(*rest.first_chunk()?)))
    }
}
