//! The way through preprocessing: plan, resize each plane's window, convert and normalise into the batch's place.

use std::sync::Arc;

use fast_image_resize::pixels::{U8, U8x2, U8x3};
use fast_image_resize::{ImageBufferError, ResizeError};

use super::colour::{Affine, Canvas, Yuv, deinterleave};
use super::mask;
use super::plan::{self, Plan, Rect, Window};
use super::plane::{Bytes, Plane};
use super::resample::Resampler;
use super::{Polygon, Spec, View};
use crate::{Picture, PixelFormat, Range};

/// Why a picture did not become a tensor. The frame is lost, the next one may work; [`is_fatal`](Self::is_fatal) tells the
/// variants that no later frame will cure.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The caller's slice is not one place of the batch. A mistake in assembly.
    #[error("the place has {found} floats, the model's input has {expected}")]
    Place { found: usize, expected: usize },
    /// The caller asked for a tile that the view does not give.
    #[error("tile {tile} of a picture that gives {tiles}")]
    Tile { tile: usize, tiles: usize },
    /// The planes hold fewer bytes than when the picture was checked.
    #[error("the planes of the picture are shorter than its size asks for")]
    Planes,
    #[error("the picture cannot be resized: {0}")]
    Resize(#[from] ResizeError),
    #[error("the picture cannot be resized: {0}")]
    Buffer(#[from] ImageBufferError),
}

impl PreprocessError {
    /// Whether every later picture would fail as well.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Place { .. })
    }
}

/// Tiles that `view` gives of a `width` × `height` picture, 1 to [`MAX_TILES`](super::MAX_TILES).
pub fn tiles(view: View, width: u32, height: u32) -> usize {
    plan::count(view.mode, plan::region(view.region, width.max(1), height.max(1)))
}

/// One thread's preprocessing, with its scratch memory. Memory grows to what the largest picture needs and is then reused.
pub struct Preprocessor {
    spec: Arc<Spec>,
    affine: Affine,
    resampler: Resampler,
    /// Resized planes.
    first: Vec<u8>,
    second: Vec<u8>,
    third: Vec<u8>,
    /// Resized interleaved chroma.
    pairs: Vec<u8>,
}

impl Preprocessor {
    pub fn new(spec: Arc<Spec>) -> Self {
        let (scale, bias) = spec.affine();
        let resampler = Resampler::new(spec.filter());
        let [first, second, third, pairs] = [const { Vec::new() }; 4];
        Self { spec, affine: Affine { scale, bias }, resampler, first, second, third, pairs }
    }

    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// Writes tile `tile` of `picture`, seen through `view`, to `out`: `3 × height × width` floats, planar R, G, B. Every float is
    /// written. RGB and grey pictures come out as Pillow and Transformers would have them; YUV planes are resized before their
    /// conversion.
    ///
    /// # Errors
    /// A wrong place or tile; planes that shrank. `out` is then unspecified.
    pub fn run(&mut self, picture: &Picture, view: View, tile: usize, out: &mut [f32]) -> Result<(), PreprocessError> {
        let expected = self.spec.place_len();
        if out.len() != expected {
            return Err(PreprocessError::Place { found: out.len(), expected });
        }
        let plan = self.plan(picture, view, tile)?;
        let size = (plan.target.w, plan.target.h);
        let mut canvas = Canvas::new(out, self.spec.size().1, plan.target, plan.surround);
        match picture.format() {
            PixelFormat::Rgb => {
                let plane = plane::<U8x3>(picture, 0, plan.source)?;
                self.resampler.as_pillow(&plane, plan.window, size, &mut self.first)?;
                canvas.rgb(&self.first, self.affine);
                return Ok(());
            }
            PixelFormat::Gray8 => {
                let plane = plane::<U8>(picture, 0, plan.source)?;
                self.resampler.as_pillow(&plane, plan.window, size, &mut self.first)?;
                canvas.grey(&self.first, picture.range(), self.affine);
                return Ok(());
            }
            _ => {}
        }

        let chroma = Chroma::new(picture, &plan);
        self.resampler.fast(&plane::<U8>(picture, 0, plan.source)?, plan.window, size, &mut self.first)?;
        if picture.format() == PixelFormat::Nv12 {
            let plane = plane::<U8x2>(picture, 1, chroma.source)?;
            self.resampler.fast(&plane, chroma.window, size, &mut self.pairs)?;
            deinterleave(&self.pairs[..2 * size.0 as usize * size.1 as usize], &mut self.second, &mut self.third);
        } else {
            for (index, out) in [(1, &mut self.second), (2, &mut self.third)] {
                self.resampler.fast(&plane::<U8>(picture, index, chroma.source)?, chroma.window, size, out)?;
            }
        }
        let yuv = Yuv::new(picture.matrix(), picture.range());
        canvas.yuv([&self.first, &self.second, &self.third], yuv, self.affine);
        Ok(())
    }

    /// The same, and every pixel of the picture whose centre is outside `mask` gets the mean colour.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_masked(
        &mut self,
        picture: &Picture,
        view: View,
        mask: &Polygon,
        tile: usize,
        out: &mut [f32],
    ) -> Result<(), PreprocessError> {
        self.run(picture, view, tile, out)?;
        let plan = self.plan(picture, view, tile)?;
        let size = (picture.width(), picture.height());
        mask::fill_outside(mask, size, &plan, self.spec.size().1, self.spec.bars(), out);
        Ok(())
    }

    fn plan(&self, picture: &Picture, view: View, tile: usize) -> Result<Plan, PreprocessError> {
        let (width, height) = (picture.width(), picture.height());
        Plan::new(&self.spec, view, tile, width, height)
            .ok_or_else(|| PreprocessError::Tile { tile, tiles: tiles(view, width, height) })
    }
}

fn plane<P: Bytes>(picture: &Picture, index: usize, rect: Rect) -> Result<Plane<'_, P>, PreprocessError> {
    let (bytes, stride) = picture.plane(index);
    Plane::new(bytes, stride, rect).ok_or(PreprocessError::Planes)
}

/// A plan's source and window in the samples of a chroma plane.
struct Chroma {
    source: Rect,
    window: Window,
}

impl Chroma {
    /// Where the chroma samples are: vertically between two lines (ITU-R BT.601/709 4:2:0 as H.264 and H.265 default to), and
    /// horizontally on every other luma sample for video; for full range, which is nearly always JPEG, between two of them (JFIF 1.02).
    fn new(picture: &Picture, plan: &Plan) -> Self {
        let (across, down) = match picture.format() {
            PixelFormat::I420 | PixelFormat::Nv12 => (2, 2),
            PixelFormat::Y42b => (2, 1),
            PixelFormat::Y444 | PixelFormat::Rgb | PixelFormat::Gray8 => (1, 1),
        };
        // A luma position X is at X / 2 between two samples, and a quarter of a chroma sample further if they start on the first.
        let shift = if across == 2 && picture.range() == Range::Limited { 0.25 } else { 0.0 };
        let (source, window) = (plan.source, plan.window);
        let (x, w, window_x, window_w) = axis(source.x, source.w, window.x, window.w, across, shift);
        let (y, h, window_y, window_h) = axis(source.y, source.h, window.y, window.h, down, 0.0);
        Self { source: Rect { x, y, w, h }, window: Window { x: window_x, y: window_y, w: window_w, h: window_h } }
    }
}

/// One axis of luma to chroma: first sample, samples, window start and length. `step` is luma samples a chroma sample.
fn axis(start: u32, length: u32, from: f64, span: f64, step: u32, shift: f64) -> (u32, u32, f64, f64) {
    let first = start / step;
    let samples = (start + length).div_ceil(step) - first;
    let step = f64::from(step);
    (first, samples, (f64::from(start) + from) / step + shift - f64::from(first), span / step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chroma_of_an_odd_region_covers_it() {
        // Luma 3..8 needs chroma samples 1..4; the window starts half a sample in.
        assert_eq!(axis(3, 5, 0.0, 5.0, 2, 0.0), (1, 3, 0.5, 2.5));
        assert_eq!(axis(0, 641, 0.0, 641.0, 2, 0.25), (0, 321, 0.25, 320.5));
        assert_eq!(axis(3, 5, 1.5, 2.0, 1, 0.0), (3, 5, 1.5, 2.0));
    }
}
