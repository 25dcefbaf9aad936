//! Pictures as a server wants them, and embeddings out of what it answers. Pure.
//!
//! Preprocessing ends in whole numbers from 0 to 255, which it scales to the model's floats; so the way back to bytes loses nothing, and a
//! picture is a quarter as large on its way. The server's model scales again (see `vtagd model export-triton`).

use half::f16;
use vtagd_pictures::rows::normalise;

use super::RemoteError;

/// From a sample of 0 to 255 to the model's float: × `scale` + `bias`, for each channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelScale {
    pub scale: [f32; 3],
    pub bias: [f32; 3],
}

impl PixelScale {
    /// The nearest byte that `value` of `channel` may have come from.
    fn byte(&self, channel: usize, value: f32) -> u8 {
        // Out of range, and what is no number, ends at 0 or 255.
        ((value - self.bias[channel]) / self.scale[channel] + 0.5) as u8
    }

    /// `pixels` (`[n, 3, side…]`) as a server of bytes sees them.
    pub fn rounded(&self, pixels: &[f32], plane: usize) -> Vec<f32> {
        let value = |(index, value): (usize, &f32)| {
            let channel = index / plane % 3;
            f32::from(self.byte(channel, *value)) * self.scale[channel] + self.bias[channel]
        };
        pixels.iter().enumerate().map(value).collect()
    }
}

/// Type and order of a picture's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Bytes, height × width × channel.
    BytesHwc,
    /// Bytes, channel × height × width.
    BytesChw,
    /// Normalised floats, channel × height × width.
    F32,
    /// The same in 16 bits.
    F16,
}

impl Layout {
    /// As the protocol calls the type.
    pub const fn datatype(self) -> &'static str {
        match self {
            Self::BytesHwc | Self::BytesChw => "UINT8",
            Self::F32 => "FP32",
            Self::F16 => "FP16",
        }
    }

    /// A word for states and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BytesHwc | Self::BytesChw => "u8",
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    pub const fn is_bytes(self) -> bool {
        matches!(self, Self::BytesHwc | Self::BytesChw)
    }

    const fn value_size(self) -> usize {
        match self {
            Self::BytesHwc | Self::BytesChw => 1,
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Bytes of a picture of `size` (height, width).
    pub const fn picture_bytes(self, size: (usize, usize)) -> usize {
        3 * size.0 * size.1 * self.value_size()
    }

    /// The tensor's shape for `count` pictures.
    pub fn shape(self, count: usize, (height, width): (usize, usize)) -> Vec<i64> {
        let shape = match self {
            Self::BytesHwc => [count, height, width, 3],
            _ => [count, 3, height, width],
        };
        shape.map(|side| i64::try_from(side).unwrap_or(i64::MAX)).to_vec()
    }

    /// Appends one picture (`[3, height, width]`, normalised floats).
    pub fn append(self, picture: &[f32], affine: &PixelScale, out: &mut Vec<u8>) {
        let plane = (picture.len() / 3).max(1);
        match self {
            Self::F32 => picture.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::F16 => picture.iter().for_each(|value| out.extend_from_slice(&f16::from_f32(*value).to_le_bytes())),
            Self::BytesChw => {
                let planes = picture.chunks_exact(plane).take(3).enumerate();
                planes.for_each(|(channel, plane)| out.extend(plane.iter().map(|value| affine.byte(channel, *value))));
            }
            Self::BytesHwc => append_pixels(picture, plane, affine, out),
        }
    }
}

/// As [`PixelScale::byte`] for what has come from whole numbers, and several values at a time: a batch of eight is 1.2 million of them.
/// Half way between two bytes the even one is taken, where [`PixelScale::byte`] takes the larger; whole numbers never lie there.
#[expect(clippy::manual_clamp, reason = "what is no number becomes 0, where clamp would leave it")]
fn append_pixels(picture: &[f32], plane: usize, affine: &PixelScale, out: &mut Vec<u8>) {
    /// Pixels that are turned into bytes together, before their channels are put side by side.
    const TOGETHER: usize = 128;
    /// From here on floats are whole numbers: what is added to it is rounded, and stands in the lowest bits.
    const WHOLE: f32 = 8_388_608.0;
    let [red, green, blue] = [0, 1, 2].map(|channel| picture.get(channel * plane..).unwrap_or_default());
    let mut bytes = [[0_u8; TOGETHER]; 3];
    for from in (0..plane.min(blue.len())).step_by(TOGETHER) {
        let many = TOGETHER.min(plane - from);
        for (channel, values) in [red, green, blue].iter().enumerate() {
            let (factor, shift) = (1.0 / affine.scale[channel], -affine.bias[channel] / affine.scale[channel]);
            let places = bytes[channel].iter_mut().zip(&values[from..from + many]);
            places.for_each(|(place, value)| {
                *place = ((value * factor + shift).max(0.0).min(255.0) + WHOLE).to_bits() as u8;
            });
        }
        let [red, green, blue] = &bytes;
        let pixels = red.iter().zip(green).zip(blue).take(many);
        out.extend(pixels.flat_map(|((red, green), blue)| [*red, *green, *blue]));
    }
}

/// The values of an answer: `count` rows of `dim`.
#[derive(Clone, Debug)]
pub struct AnswerTensor {
    pub datatype: String,
    pub shape: Vec<i64>,
    pub bytes: prost::bytes::Bytes,
    /// Of the model that computed it; empty where the server does not say.
    pub version: String,
}

impl AnswerTensor {
    /// Appends its rows, of length 1 each, to `rows`.
    ///
    /// # Errors
    /// [`RemoteError::Wrong`]: another shape or type, too few values, and values that are no embedding.
    pub fn append_rows(&self, count: usize, dim: usize, rows: &mut Vec<f32>) -> Result<(), RemoteError> {
        let wrong = |what: String| Err(RemoteError::Wrong(format!("the server's answer is wrong: {what}")));
        let wanted = [count, dim].map(|side| i64::try_from(side).unwrap_or(i64::MAX));
        if self.shape != wanted {
            let shape = &self.shape[..self.shape.len().min(8)];
            return wrong(format!("shape {shape:?} for {count} pictures, whose embeddings have {dim} values"));
        }
        let size = match self.datatype.as_str() {
            "FP32" => 4,
            "FP16" => 2,
            other => return wrong(format!("embeddings of type {}", super::told(other))),
        };
        if self.bytes.len() != count * dim * size {
            return wrong(format!("{} bytes for {count} × {dim} values of {size}", self.bytes.len()));
        }
        let start = rows.len();
        match size {
            4 => rows.extend(self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            _ => rows.extend(self.bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
        }
        if rows[start..].chunks_exact_mut(dim).all(normalise) {
            return Ok(());
        }
        rows.truncate(start);
        wrong("an embedding that is zero or not finite".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As CLIP's preprocessor file says.
    fn clip() -> PixelScale {
        let (mean, std) = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);
        PixelScale {
            scale: std.map(|std: f64| (1.0 / 255.0 / std) as f32),
            bias: [0, 1, 2].map(|c| (-mean[c] / std[c]) as f32),
        }
    }

    #[test]
    fn every_byte_comes_back_as_it_was_in_either_order() {
        for affine in [
            clip(),
            PixelScale { scale: [1.0 / 128.0; 3], bias: [-127.0 / 128.0; 3] },
            PixelScale { scale: [2.0 / 255.0; 3], bias: [-1.0; 3] },
        ] {
            let bytes: Vec<u8> = (0..3 * 256).map(|i| (i % 256) as u8).collect();
            let float = |(i, byte): (usize, &u8)| f32::from(*byte) * affine.scale[i / 256] + affine.bias[i / 256];
            let picture: Vec<f32> = bytes.iter().enumerate().map(float).collect();
            let mut chw = Vec::new();
            Layout::BytesChw.append(&picture, &affine, &mut chw);
            assert_eq!(chw, bytes);
            let mut hwc = vec![9];
            Layout::BytesHwc.append(&picture, &affine, &mut hwc);
            let wanted: Vec<u8> = (0..256).flat_map(|i| [i as u8; 3]).collect();
            assert_eq!(hwc[1..], wanted, "behind what was there");
            let odd = Layout::BytesHwc;
            let mut pixels = Vec::new();
            odd.append(&[f32::NAN, f32::INFINITY, -1e9, f32::NEG_INFINITY, 1e9, 0.0], &affine, &mut pixels);
            assert_eq!(pixels[..5], [0, 0, 255, 255, 0], "out of range, and no number");
            let rounded = affine.rounded(&picture, 256);
            assert!(rounded.iter().zip(&picture).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn floats_and_halves_lie_in_little_endian_order_and_a_shape_goes_with_each() {
        let picture = [1.0, -2.0, 0.5];
        let mut out = Vec::new();
        Layout::F32.append(&picture, &clip(), &mut out);
        Layout::F16.append(&picture, &clip(), &mut out);
        assert_eq!(out[..8], [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(out[12..], [0, 0x3c, 0, 0xc0, 0, 0x38]);
        assert_eq!(Layout::F32.picture_bytes((224, 224)), 602_112);
        assert_eq!(Layout::BytesHwc.picture_bytes((224, 224)), 150_528);
        assert_eq!(Layout::BytesHwc.shape(8, (224, 336)), [8, 224, 336, 3]);
        assert_eq!(Layout::F16.shape(1, (224, 336)), [1, 3, 224, 336]);
    }

    fn answer(shape: &[i64], values: &[f32]) -> AnswerTensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        AnswerTensor { datatype: "FP32".into(), shape: shape.to_vec(), bytes: bytes.into(), version: String::new() }
    }

    #[test]
    fn rows_get_length_1_and_what_is_no_embedding_is_refused_whole() {
        let mut rows = vec![7.0];
        answer(&[2, 2], &[3.0, 4.0, 0.0, 2.0]).append_rows(2, 2, &mut rows).unwrap();
        assert_eq!(rows, [7.0, 0.6, 0.8, 0.0, 1.0]);
        for (tensor, told) in [
            (answer(&[2, 2], &[3.0, 4.0, 0.0, f32::NAN]), "not finite"),
            (answer(&[2, 2], &[3.0, 4.0, 0.0, 0.0]), "zero"),
            (answer(&[2, 2], &[3.0, f32::INFINITY, 0.0, 1.0]), "not finite"),
            (answer(&[1, 2], &[3.0, 4.0]), "shape [1, 2] for 2 pictures"),
            (answer(&[4], &[3.0, 4.0, 1.0, 1.0]), "shape [4]"),
            (answer(&[2, 2], &[3.0, 4.0, 1.0]), "12 bytes for 2 × 2 values"),
            (AnswerTensor { datatype: "INT64".into(), ..answer(&[2, 2], &[0.0; 4]) }, "type INT64"),
        ] {
            let fault = tensor.append_rows(2, 2, &mut rows).unwrap_err();
            assert!(matches!(&fault, RemoteError::Wrong(why) if why.contains(told)), "{fault}");
            assert_eq!(rows.len(), 5, "nothing of it stays");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            shape in prop::collection::vec(any::<i64>(), 0..4),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            half in any::<bool>(),
        ) {
            let datatype = if half { "FP16" } else { "FP32" };
            let tensor = AnswerTensor { datatype: datatype.into(), shape, bytes: bytes.into(), version: String::new() };
            let _ = tensor.append_rows(2, 4, &mut Vec::new());
        }
    }
}
