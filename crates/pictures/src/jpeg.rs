//! A frame as JPEG, scaled down. Pure.
//!
//! Colours as the frame's own matrix and range say. Chroma is taken from the nearest sample: this is a picture to look at, the model sees
//! another one. Memory is bounded whatever the frame's size: rows and columns that scaling would not see are left out beforehand.

use std::io;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::{Matrix, Picture, PixelFormat, Range, YuvToRgb};

/// The JPEG of `picture`, its longest side at most `max_side`.
///
/// # Errors
/// When it cannot be scaled or encoded.
pub fn jpeg(picture: &Picture, max_side: u32, quality: u8) -> io::Result<Vec<u8>> {
    let (pixels, (width, height)) = rgb(picture, max_side);
    let longest = width.max(height);
    let (pixels, width, height) = if longest <= max_side {
        (pixels, width, height)
    } else {
        let scaled = |side: u32| (u64::from(side) * u64::from(max_side) / u64::from(longest)).max(1) as u32;
        let (w, h) = (scaled(width), scaled(height));
        let mut smaller = vec![0; w as usize * h as usize * 3];
        // The kind of pixel is known while compiling: the kernels of all others, 3 MB, are not in the program.
        let source = TypedImageRef::<U8x3>::from_buffer(width, height, &pixels).map_err(io::Error::other)?;
        let mut target = TypedImage::<U8x3>::from_buffer(w, h, &mut smaller).map_err(io::Error::other)?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        Resizer::new().resize_typed(&source, &mut target, &options).map_err(io::Error::other)?;
        (smaller, w, h)
    };
    let mut out = Vec::with_capacity(64 * 1024);
    let mut encoder = JpegEncoder::new_with_quality(&mut out, quality);
    encoder.encode(&pixels, width, height, ExtendedColorType::Rgb8).map_err(io::Error::other)?;
    Ok(out)
}

/// Packed RGB of every n-th pixel, with n so that the longest side is below twice `max_side`, and its size.
fn rgb(picture: &Picture, max_side: u32) -> (Vec<u8>, (u32, u32)) {
    let (width, height) = (picture.width(), picture.height());
    let step = (width.max(height) / max_side.max(1)).max(1) as usize;
    let (w, h) = ((width as usize).div_ceil(step), (height as usize).div_ceil(step));
    let mut out = Vec::with_capacity(w * h * 3);
    let convert = Convert::new(picture.matrix(), picture.range());
    let (first, stride) = picture.plane(0);
    for y in (0..height as usize).step_by(step) {
        let row = &first[y * stride..];
        let xs = (0..width as usize).step_by(step);
        match picture.format() {
            PixelFormat::Rgb => xs.for_each(|x| out.extend_from_slice(&row[3 * x..3 * x + 3])),
            PixelFormat::Gray8 => xs.for_each(|x| out.extend([convert.grey(row[x]); 3])),
            PixelFormat::Nv12 => {
                let (pairs, stride) = picture.plane(1);
                let pairs = &pairs[y / 2 * stride..];
                xs.for_each(|x| out.extend(convert.rgb(row[x], pairs[x / 2 * 2], pairs[x / 2 * 2 + 1])));
            }
            format => {
                let (across, down) = match format {
                    PixelFormat::I420 => (2, 2),
                    PixelFormat::Y42b => (2, 1),
                    _ => (1, 1),
                };
                let plane = |index| {
                    let (bytes, stride): (&[u8], usize) = picture.plane(index);
                    &bytes[y / down * stride..]
                };
                let (u, v) = (plane(1), plane(2));
                xs.for_each(|x| out.extend(convert.rgb(row[x], u[x / across], v[x / across])));
            }
        }
    }
    (out, (w as u32, h as u32))
}

/// YUV to RGB in 16.16 fixed point.
struct Convert {
    luma: (i32, i32),
    red: i32,
    green: (i32, i32),
    blue: i32,
}

impl Convert {
    fn new(matrix: Matrix, range: Range) -> Self {
        let exact = YuvToRgb::new(matrix, range);
        let fixed = |value: f64| (value * 65536.0).round() as i32;
        Self {
            luma: (exact.zero as i32, fixed(exact.luma)),
            red: fixed(exact.red_v),
            green: (fixed(exact.green_u), fixed(exact.green_v)),
            blue: fixed(exact.blue_u),
        }
    }

    fn grey(&self, y: u8) -> u8 {
        byte((i32::from(y) - self.luma.0) * self.luma.1)
    }

    fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let y = (i32::from(y) - self.luma.0) * self.luma.1;
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        [byte(y + self.red * v), byte(y + self.green.0 * u + self.green.1 * v), byte(y + self.blue * u)]
    }
}

fn byte(fixed: i32) -> u8 {
    ((fixed + 0x8000) >> 16).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yuv(format: PixelFormat, (width, height): (u32, u32), value: [u8; 3], range: Range) -> Picture {
        let size = |plane| format.plane_size(plane, width, height);
        let planes: Vec<Vec<u8>> = (0..format.planes())
            .map(|plane| {
                let (row, rows) = size(plane);
                match (format, plane) {
                    (PixelFormat::Nv12, 1) => [value[1], value[2]].repeat(row / 2 * rows),
                    _ => vec![value[plane]; row * rows],
                }
            })
            .collect();
        let strides = [0, 1, 2].map(|plane| if plane < format.planes() { size(plane).0 } else { 0 });
        Picture::new(format, (width, height), strides, (Matrix::Bt709, range), Box::new(planes)).unwrap()
    }

    #[test]
    fn colours_come_out_as_the_standard_has_them() {
        // BT.709, limited: red is 63, 102, 240 and white 235, 128, 128.
        for format in [PixelFormat::I420, PixelFormat::Y42b, PixelFormat::Y444, PixelFormat::Nv12] {
            for (size, value, wanted) in
                [((5, 3), [63, 102, 240], [255_u8, 0, 0]), ((4, 4), [235, 128, 128], [255, 255, 255])]
            {
                let (pixels, found) = rgb(&yuv(format, size, value, Range::Limited), 100);
                assert_eq!(found, size);
                let near = pixels.chunks(3).all(|p| p.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 2));
                assert!(near, "{format:?} {:?}", &pixels[..3]);
            }
        }
        let (pixels, _) = rgb(&yuv(PixelFormat::Gray8, (2, 2), [100, 0, 0], Range::Full), 100);
        assert_eq!(pixels, [100; 12]);
    }

    #[test]
    fn a_large_picture_is_scaled_and_can_be_opened_again() {
        let picture = yuv(PixelFormat::I420, (1921, 1081), [63, 102, 240], Range::Limited);
        let bytes = jpeg(&picture, 640, 85).unwrap();
        let back = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(back.dimensions(), (640, 360));
        let pixel = back.get_pixel(320, 180).0;
        assert!(pixel[0] > 245 && pixel[1] < 12 && pixel[2] < 12, "{pixel:?}");
        assert!(bytes.len() < 20_000);
        let (pixels, size) = rgb(&yuv(PixelFormat::Gray8, (8000, 2), [9, 0, 0], Range::Full), 100);
        assert!(size.0 < 200 && pixels.len() < 1000, "{size:?}");
    }
}
