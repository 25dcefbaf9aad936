//! Small headers that ask for large pictures, by hand: what a decoder would make room for before it finds nothing behind them.
#![allow(dead_code)] // every scenario uses a part of it

/// Writes bits, first the highest of each byte.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    bits: usize,
}

impl Writer {
    pub fn bits(&mut self, count: u32, value: u64) -> &mut Self {
        for bit in (0..count).rev() {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (7 - self.bits % 8);
            self.bits += 1;
        }
        self
    }

    /// An unsigned Exp-Golomb code.
    pub fn code(&mut self, value: u64) -> &mut Self {
        let length = 64 - (value + 1).leading_zeros();
        self.bits(length - 1, 0).bits(length, value + 1)
    }

    /// A one and zeros up to a whole byte.
    pub fn end(&mut self) -> Vec<u8> {
        self.bits(1, 1);
        std::mem::take(self).bytes
    }
}

/// A NAL unit in which no start code can be found.
pub fn escaped(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut unit = header.to_vec();
    let mut zeros = 0;
    for &byte in payload {
        if zeros >= 2 && byte <= 3 {
            unit.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        unit.push(byte);
    }
    unit
}

/// A sequence parameter set of H.264, Main profile, sides in whole macroblocks.
pub fn h264_sps(width: u64, height: u64, references: u64) -> Vec<u8> {
    let mut sps = Writer::default();
    sps.bits(8, 77).bits(8, 0).bits(8, 62);
    // Id, frame numbers, order counts as the frames come, references, no gaps.
    sps.code(0).code(0).code(2).code(references).bits(1, 0);
    sps.code(width.div_ceil(16) - 1).code(height.div_ceil(16) - 1);
    // Whole frames, direct 8x8, no cropping, nothing else.
    sps.bits(1, 1).bits(1, 1).bits(1, 0).bits(1, 0);
    escaped(&[0x67], &sps.end())
}

/// A sequence parameter set of H.265, Main profile.
pub fn h265_sps(width: u64, height: u64, pictures: u64) -> Vec<u8> {
    let mut sps = Writer::default();
    sps.bits(4, 0).bits(3, 0).bits(1, 1);
    sps.bits(8, 1).bits(32, 0x6000_0000).bits(48, 0).bits(8, 186);
    // Id, 4:2:0, sides, no cropping, eight bits, order counts.
    sps.code(0).code(1).code(width).code(height).bits(1, 0).code(0).code(0).code(4);
    sps.bits(1, 1).code(pictures - 1).code(0).code(0);
    escaped(&[0x42, 0x01], &sps.bits(32, 0).end())
}

/// Units behind start codes.
pub fn annex_b(units: &[Vec<u8>]) -> Vec<u8> {
    units.iter().flat_map(|unit| [&[0, 0, 0, 1], unit.as_slice()].concat()).collect()
}

/// An H.264 stream whose one picture has a parameter set, a slice, and no more.
pub fn h264(width: u64, height: u64, references: u64) -> Vec<u8> {
    let mut pps = Writer::default();
    // Ids, CAVLC, one slice group, a reference each, no weights, QP, and so on: all zeros.
    pps.code(0).code(0).bits(2, 0).code(0).code(0).code(0).bits(3, 0).code(0).code(0).code(0).bits(3, 0);
    let slice = [0x88, 0x84, 0x00, 0x10, 0xff, 0xfe, 0xf6, 0xf0].repeat(40);
    annex_b(&[
        vec![0x09, 0x10],
        h264_sps(width, height, references),
        escaped(&[0x68], &pps.end()),
        escaped(&[0x65], &slice),
    ])
}

/// A baseline JPEG of which only the header is told.
pub fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([90; 3]));
    image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
    let at = bytes.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    bytes[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
    bytes[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

/// A PNG of zeros, with as many of its rows as come to a few kilobytes.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [kind.as_slice(), data].concat();
        let crc = crc32fast::hash(&body).to_be_bytes();
        [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc].concat()
    };
    let mut zeros = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut zeros, &vec![0; 4 << 20]).unwrap();
    // 16 bits, colours and alpha.
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[16, 6, 0, 0, 0]].concat();
    let start = b"\x89PNG\r\n\x1a\n".to_vec();
    [start, chunk(b"IHDR", &header), chunk(b"IDAT", &zeros.finish().unwrap()), chunk(b"IEND", b"")].concat()
}

/// A GIF with a screen, and a frame of another size.
pub fn gif(screen: (u16, u16), frame: (u16, u16)) -> Vec<u8> {
    let sides = |(width, height): (u16, u16)| [width.to_le_bytes(), height.to_le_bytes()].concat();
    let comment = b"\x21\xfe\x05hello\x00";
    let start = [b"GIF89a".as_slice(), &sides(screen), &[0x80, 0, 0, 0, 0, 0, 9, 9, 9], comment].concat();
    [start, b"\x2c\0\0\0\0".to_vec(), sides(frame), b"\x00\x02\x02\x4c\x01\x00\x3b".to_vec()].concat()
}

/// A lossless WebP.
pub fn webp(width: u32, height: u32) -> Vec<u8> {
    let mut body = vec![0x2f];
    body.extend(((width - 1) | ((height - 1) << 14)).to_le_bytes());
    body.extend([0; 27]);
    let chunk = [b"WEBPVP8L".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat();
    [b"RIFF".as_slice(), &(chunk.len() as u32).to_le_bytes(), &chunk].concat()
}

/// The header of a WebP's canvas.
pub fn webp_canvas(width: u32, height: u32) -> Vec<u8> {
    let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
    let body = [vec![0; 4], side(width), side(height)].concat();
    let chunk = [b"WEBPVP8X".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat();
    [b"RIFF".as_slice(), &(chunk.len() as u32).to_le_bytes(), &chunk].concat()
}

/// A BMP with 24 bits, from top to bottom.
pub fn bmp(width: i32, height: i32) -> Vec<u8> {
    let header = [[54, 0, 0, 0], [40, 0, 0, 0], width.to_le_bytes(), (-height).to_le_bytes(), [1, 0, 24, 0]].concat();
    [b"BM".as_slice(), &[0; 8], &header, &[0; 224]].concat()
}

/// A TIFF whose directory stands behind so many bytes of nothing.
pub fn tiff(width: u32, height: u32, gap: usize) -> Vec<u8> {
    let entry = |tag: u16, value: u32| {
        [&tag.to_be_bytes()[..], &4_u16.to_be_bytes(), &1_u32.to_be_bytes(), &value.to_be_bytes()].concat()
    };
    let entries =
        [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 64)];
    let directory: Vec<u8> = entries.iter().flat_map(|(tag, value)| entry(*tag, *value)).collect();
    let start = [b"MM\0\x2a".as_slice(), &(8 + gap as u32).to_be_bytes(), &vec![0; gap]].concat();
    [start, (entries.len() as u16).to_be_bytes().to_vec(), directory, vec![0; 4]].concat()
}
