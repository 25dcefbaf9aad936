//! Resizing a window of one plane, antialiased as Pillow does it, by `fast_image_resize`.
//!
//! Two orders of the two passes. Still pictures ([`Resampler::as_pillow`]) go across first and then down, with a rounding to 8 bits
//! between, which gives Pillow's numbers to a level. Video planes ([`Resampler::fast`]) go down first: whole rows are added up, which
//! SIMD likes best, and the numbers differ by the same rounding only.
//!
//! Each pass is a call of its own: asked for both at once, `fast_image_resize` 6.1 sizes the picture between them by its first and
//! last kernel alone, and when enlarging another kernel may reach further, beyond that memory.

use fast_image_resize::images::TypedImage;
use fast_image_resize::{FilterType, ImageView, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use super::plan::Window;
use super::plane::{Bytes, Plane};
use super::{PreprocessError, ResizeFilter};

/// The resizer and its buffers, reused from picture to picture. Only its small coefficient tables are made anew each time.
pub(super) struct Resampler {
    resizer: Resizer,
    algorithm: ResizeAlg,
    support: f64,
    /// Between the passes.
    between: Vec<u8>,
}

impl Resampler {
    pub fn new(filter: ResizeFilter) -> Self {
        // Radius of the kernel in pixels of the smaller picture.
        let (algorithm, support) = match filter {
            ResizeFilter::Nearest => (ResizeAlg::Nearest, 0.5),
            ResizeFilter::Box => (ResizeAlg::Convolution(FilterType::Box), 0.5),
            ResizeFilter::Hamming => (ResizeAlg::Convolution(FilterType::Hamming), 1.0),
            ResizeFilter::Bilinear => (ResizeAlg::Convolution(FilterType::Bilinear), 1.0),
            ResizeFilter::Bicubic => (ResizeAlg::Convolution(FilterType::CatmullRom), 2.0),
            ResizeFilter::Lanczos => (ResizeAlg::Convolution(FilterType::Lanczos3), 3.0),
        };
        Self { resizer: Resizer::new(), algorithm, support, between: Vec::new() }
    }

    /// Resizes `window` of `plane` to `width` × `height` packed pixels in `out`, which grows as needed: down, then across.
    pub fn fast<P: Bytes + PixelTrait>(
        &mut self,
        plane: &Plane<'_, P>,
        window: Window,
        (width, height): (u32, u32),
        out: &mut Vec<u8>,
    ) -> Result<(), PreprocessError> {
        let Window { x, y, w, h } = inside(window, plane);
        let (left, columns) = self.touched(x, w, width, plane.width());
        let part = plane.columns(left, columns).ok_or(PreprocessError::Planes)?;

        let mut between = image::<P>(&mut self.between, columns, height)?;
        let down = options(self.algorithm, Window { x: 0.0, y, w: f64::from(columns), h });
        self.resizer.resize_typed(&part, &mut between, &down)?;
        let mut image = image::<P>(out, width, height)?;
        let across = options(self.algorithm, Window { x: x - f64::from(left), y: 0.0, w, h: f64::from(height) });
        self.resizer.resize_typed(&between, &mut image, &across)?;
        Ok(())
    }

    /// As [`Self::fast`], in Pillow's order: across, then down.
    pub fn as_pillow<P: Bytes + PixelTrait>(
        &mut self,
        plane: &Plane<'_, P>,
        window: Window,
        (width, height): (u32, u32),
        out: &mut Vec<u8>,
    ) -> Result<(), PreprocessError> {
        let Window { x, y, w, h } = inside(window, plane);
        let (top, rows) = self.touched(y, h, height, plane.height());
        let part = plane.rows(top, rows).ok_or(PreprocessError::Planes)?;

        let mut between = image::<P>(&mut self.between, width, rows)?;
        let across = options(self.algorithm, Window { x, y: 0.0, w, h: f64::from(rows) });
        self.resizer.resize_typed(&part, &mut between, &across)?;
        let mut image = image::<P>(out, width, height)?;
        let down = options(self.algorithm, Window { x: 0.0, y: y - f64::from(top), w: f64::from(width), h });
        self.resizer.resize_typed(&between, &mut image, &down)?;
        Ok(())
    }

    /// First sample and number of samples of one axis that the kernel may look at, one more on each side against rounding.
    fn touched(&self, from: f64, length: f64, out: u32, side: u32) -> (u32, u32) {
        let reach = self.support * (length / f64::from(out)).max(1.0) + 1.0;
        let first = (from - reach).floor().max(0.0) as u32;
        (first, ((from + length + reach).ceil() as u32).min(side) - first)
    }
}

/// Two bytes a pixel are U and V to us, not grey and alpha.
fn options(algorithm: ResizeAlg, window: Window) -> ResizeOptions {
    ResizeOptions::new().resize_alg(algorithm).crop(window.x, window.y, window.w, window.h).use_alpha(false)
}

/// A packed picture in `buffer`, which grows but never shrinks.
fn image<P: Bytes>(buffer: &mut Vec<u8>, width: u32, height: u32) -> Result<TypedImage<'_, P>, PreprocessError> {
    let length = width as usize * height as usize * P::size();
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    Ok(TypedImage::from_buffer(width, height, &mut buffer[..length])?)
}

/// Keeps a window inside its plane: rounding may put its end beyond by a hair, chroma siting by a quarter of a sample.
fn inside<P: Bytes>(window: Window, plane: &Plane<'_, P>) -> Window {
    let axis = |from: f64, length: f64, side: u32| {
        let side = f64::from(side);
        let from = from.max(0.0);
        let kept = side - from;
        if kept > length / 2.0 {
            (from, length.min(kept))
        } else {
            let length = length.min(side);
            (side - length, length)
        }
    };
    let (x, w) = axis(window.x, window.w, plane.width());
    let (y, h) = axis(window.y, window.h, plane.height());
    Window { x, y, w, h }
}

#[cfg(test)]
mod tests {
    use fast_image_resize::CpuExtensions;
    use fast_image_resize::pixels::{U8, U8x2, U8x3};

    use super::super::plan::Rect;
    use super::*;

    #[cfg(target_arch = "x86_64")]
    const INSTRUCTION_SETS: &[CpuExtensions] = &[CpuExtensions::Sse4_1, CpuExtensions::Avx2];
    #[cfg(target_arch = "aarch64")]
    const INSTRUCTION_SETS: &[CpuExtensions] = &[CpuExtensions::Neon];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const INSTRUCTION_SETS: &[CpuExtensions] = &[];

    /// A plane of noise, resized in both orders without any special instructions, and with `extensions`.
    fn resized<P: Bytes + PixelTrait>(filter: ResizeFilter, extensions: CpuExtensions) -> (Vec<u8>, Vec<u8>) {
        let (width, height) = (211_u32, 157_u32);
        let length = (width * height) as usize * P::size();
        let noise = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
        let bytes: Vec<u8> = (0..length).map(noise).collect();
        let rect = Rect { x: 0, y: 0, w: width, h: height };
        let plane = Plane::<P>::new(&bytes, width as usize * P::size(), rect).unwrap();
        let window = Window { x: 3.5, y: 2.25, w: 190.0, h: 140.0 };
        let mut resampler = Resampler::new(filter);
        // SAFETY: the caller has asked whether this processor has them.
        unsafe { resampler.resizer.set_cpu_extensions(extensions) };
        let (mut fast, mut as_pillow) = (Vec::new(), Vec::new());
        resampler.fast(&plane, window, (64, 48), &mut fast).unwrap();
        resampler.as_pillow(&plane, window, (64, 48), &mut as_pillow).unwrap();
        (fast, as_pillow)
    }

    #[test]
    fn every_instruction_set_gives_the_same_picture() {
        for extensions in INSTRUCTION_SETS.iter().filter(|extensions| extensions.is_supported()) {
            for filter in [ResizeFilter::Bilinear, ResizeFilter::Bicubic, ResizeFilter::Lanczos, ResizeFilter::Box] {
                let plain = CpuExtensions::None;
                assert_eq!(
                    resized::<U8>(filter, *extensions),
                    resized::<U8>(filter, plain),
                    "{extensions:?} {filter:?}"
                );
                assert_eq!(
                    resized::<U8x2>(filter, *extensions),
                    resized::<U8x2>(filter, plain),
                    "{extensions:?} {filter:?}"
                );
                assert_eq!(
                    resized::<U8x3>(filter, *extensions),
                    resized::<U8x3>(filter, plain),
                    "{extensions:?} {filter:?}"
                );
            }
        }
    }
}
