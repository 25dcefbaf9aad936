//! From resized 8-bit samples to the model's floats: colour conversion, rescaling and normalisation in one pass.
//!
//! Input planes are packed and as large as the target; output is planar R, G, B floats. The loops have no branches and no calls, so
//! the compiler turns them into SIMD.
//!
//! YUV follows [`YuvToRgb`]. The result is clipped and rounded to whole levels as
//! in the 8-bit RGB pictures that models learnt from: on flat, grainless video a fraction of a level moves an embedding.

use super::plan::Rect;
use crate::{Matrix, Range, YuvToRgb};

/// Per channel: tensor value = 0–255 sample × scale + bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affine {
    pub scale: [f32; 3],
    pub bias: [f32; 3],
}

/// Constants from YUV samples to 0–255 RGB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yuv {
    luma: f32,
    luma_offset: f32,
    red_v: f32,
    green_u: f32,
    green_v: f32,
    blue_u: f32,
}

impl Yuv {
    pub fn new(matrix: Matrix, range: Range) -> Self {
        let exact = YuvToRgb::new(matrix, range);
        Self {
            luma: exact.luma as f32,
            luma_offset: (-exact.zero * exact.luma) as f32,
            red_v: exact.red_v as f32,
            green_u: exact.green_u as f32,
            green_v: exact.green_v as f32,
            blue_u: exact.blue_u as f32,
        }
    }
}

/// The model's tensor with the rectangle in it that a picture fills.
pub(super) struct Canvas<'a> {
    planes: [&'a mut [f32]; 3],
    width: usize,
    target: Rect,
}

impl<'a> Canvas<'a> {
    /// `out` holds three planes of `width` columns; `target` lies inside and everything around it becomes `surround`.
    pub fn new(out: &'a mut [f32], width: u32, target: Rect, surround: [f32; 3]) -> Self {
        let plane = out.len() / 3;
        let (red, rest) = out.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let width = width as usize;
        let mut planes = [red, green, blue];
        if target.w as usize * (target.h as usize) < plane {
            for (plane, value) in planes.iter_mut().zip(surround) {
                plane.fill(value);
            }
        }
        Self { planes, width, target }
    }

    fn pixels(&self) -> usize {
        self.target.w as usize * self.target.h as usize
    }

    /// Calls `row` with the number of the target's row and its three slices.
    fn rows(&mut self, mut row: impl FnMut(usize, [&mut [f32]; 3])) {
        let (x, y, w) = (self.target.x as usize, self.target.y as usize, self.target.w as usize);
        for line in 0..self.target.h as usize {
            let start = (y + line) * self.width + x;
            row(line, self.planes.each_mut().map(|plane| &mut plane[start..start + w]));
        }
    }

    /// Packed R, G, B triples.
    pub fn rgb(&mut self, rgb: &[u8], affine: Affine) {
        let rgb = &rgb[..3 * self.pixels()];
        let w = self.target.w as usize;
        let Affine { scale, bias } = affine;
        self.rows(|line, [red, green, blue]| {
            let samples = rgb[3 * line * w..][..3 * w].chunks_exact(3);
            for (((sample, red), green), blue) in samples.zip(red).zip(green).zip(blue) {
                *red = f32::from(sample[0]) * scale[0] + bias[0];
                *green = f32::from(sample[1]) * scale[1] + bias[1];
                *blue = f32::from(sample[2]) * scale[2] + bias[2];
            }
        });
    }

    /// Luma alone; R = G = B.
    pub fn grey(&mut self, luma: &[u8], range: Range, affine: Affine) {
        let luma = &luma[..self.pixels()];
        let w = self.target.w as usize;
        let Affine { scale, bias } = affine;
        let yuv = Yuv::new(Matrix::Bt601, range);
        self.rows(|line, [red, green, blue]| {
            let samples = &luma[line * w..][..w];
            for (((&y, red), green), blue) in samples.iter().zip(red).zip(green).zip(blue) {
                let grey = level(f32::from(y) * yuv.luma + yuv.luma_offset);
                *red = grey * scale[0] + bias[0];
                *green = grey * scale[1] + bias[1];
                *blue = grey * scale[2] + bias[2];
            }
        });
    }

    /// Y, U and V, all at the target's size.
    pub fn yuv(&mut self, [luma, u, v]: [&[u8]; 3], yuv: Yuv, affine: Affine) {
        let pixels = self.pixels();
        let (luma, u, v) = (&luma[..pixels], &u[..pixels], &v[..pixels]);
        let w = self.target.w as usize;
        let Affine { scale, bias } = affine;
        self.rows(|line, [red, green, blue]| {
            let at = line * w;
            let (luma, u, v) = (&luma[at..][..w], &u[at..][..w], &v[at..][..w]);
            for (((((&y, &u), &v), red), green), blue) in luma.iter().zip(u).zip(v).zip(red).zip(green).zip(blue) {
                let y = f32::from(y) * yuv.luma + yuv.luma_offset;
                let (u, v) = (f32::from(u) - 128.0, f32::from(v) - 128.0);
                *red = level(y + yuv.red_v * v) * scale[0] + bias[0];
                *green = level(y + yuv.green_u * u + yuv.green_v * v) * scale[1] + bias[1];
                *blue = level(y + yuv.blue_u * u) * scale[2] + bias[2];
            }
        });
    }
}

/// To a whole number from 0 to 255, ties to even. Adding and subtracting 1.5 × 2^23 leaves no room for a fraction in an f32 and,
/// unlike `round`, is plain SIMD on every processor.
fn level(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value.clamp(0.0, 255.0) + SHIFT) - SHIFT
}

/// Interleaved U and V to two planes.
pub(super) fn deinterleave(uv: &[u8], u: &mut Vec<u8>, v: &mut Vec<u8>) {
    u.clear();
    v.clear();
    u.extend(uv.chunks_exact(2).map(|pair| pair[0]));
    v.extend(uv.chunks_exact(2).map(|pair| pair[1]));
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Affine = Affine { scale: [1.0; 3], bias: [0.0; 3] };

    fn rgb(matrix: Matrix, range: Range, [y, u, v]: [u8; 3]) -> [f32; 3] {
        let mut out = [0.0; 3];
        let mut canvas = Canvas::new(&mut out, 1, Rect { x: 0, y: 0, w: 1, h: 1 }, [0.0; 3]);
        canvas.yuv([&[y], &[u], &[v]], Yuv::new(matrix, range), IDENTITY);
        out
    }

    fn near(found: [f32; 3], expected: [f32; 3]) {
        for c in 0..3 {
            assert!((found[c] - expected[c]).abs() < 1.2, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn colour_bars_come_out_as_the_standards_say() {
        // 100 % bars, from the tables of the recommendations.
        near(rgb(Matrix::Bt601, Range::Limited, [81, 90, 240]), [255.0, 0.0, 0.0]);
        near(rgb(Matrix::Bt601, Range::Limited, [145, 54, 34]), [0.0, 255.0, 0.0]);
        near(rgb(Matrix::Bt601, Range::Limited, [41, 240, 110]), [0.0, 0.0, 255.0]);
        near(rgb(Matrix::Bt709, Range::Limited, [63, 102, 240]), [255.0, 0.0, 0.0]);
        near(rgb(Matrix::Bt709, Range::Limited, [173, 42, 26]), [0.0, 255.0, 0.0]);
        near(rgb(Matrix::Bt709, Range::Limited, [32, 240, 118]), [0.0, 0.0, 255.0]);
        near(rgb(Matrix::Bt2020, Range::Limited, [74, 97, 240]), [255.0, 0.0, 0.0]);
        near(rgb(Matrix::Bt601, Range::Full, [76, 85, 255]), [254.0, 0.0, 0.0]);
    }

    #[test]
    fn limited_range_ends_at_black_and_white_and_clips_beyond() {
        for matrix in [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020] {
            near(rgb(matrix, Range::Limited, [16, 128, 128]), [0.0; 3]);
            near(rgb(matrix, Range::Limited, [235, 128, 128]), [255.0; 3]);
            assert_eq!(rgb(matrix, Range::Limited, [255, 128, 128]), [255.0; 3]);
            assert_eq!(rgb(matrix, Range::Limited, [0, 128, 128]), [0.0; 3]);
            assert_eq!(rgb(matrix, Range::Full, [200, 128, 128]), [200.0; 3]);
        }
    }

    #[test]
    fn what_is_around_the_target_gets_the_surrounding_colour() {
        let mut out = vec![f32::NAN; 3 * 3 * 4];
        let mut canvas = Canvas::new(&mut out, 4, Rect { x: 1, y: 2, w: 2, h: 1 }, [-1.0, -2.0, -3.0]);
        canvas.rgb(&[10, 20, 30, 40, 50, 60], Affine { scale: [0.5; 3], bias: [1.0; 3] });
        let mut expected = [vec![-1.0; 12], vec![-2.0; 12], vec![-3.0; 12]];
        for (plane, values) in expected.iter_mut().zip([[6.0, 21.0], [11.0, 26.0], [16.0, 31.0]]) {
            plane[9..11].copy_from_slice(&values);
        }
        assert_eq!(out, expected.concat());
    }
}
