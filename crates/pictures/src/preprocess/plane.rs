//! One plane of a picture as the resizer wants to see it: a rectangle of pixels in rows a stride apart, borrowed from the decoder.

use std::num::NonZeroUsize;

use fast_image_resize::ImageView;
use fast_image_resize::pixels::{InnerPixel, U8, U8x2, U8x3};

use super::plan::Rect;

/// A pixel of one to three bytes.
///
/// # Safety
/// Implement it only for types that are valid for any bytes, have an alignment of 1 and no padding.
pub(super) unsafe trait Bytes: InnerPixel<Component = u8> {}

// SAFETY: these are `repr(C)` wrappers of `u8` and `[u8; N]` with a zero-sized marker.
unsafe impl Bytes for U8 {}
// SAFETY: as above.
unsafe impl Bytes for U8x2 {}
// SAFETY: as above.
unsafe impl Bytes for U8x3 {}

/// Rows of `width` pixels, `stride` bytes apart, in borrowed bytes.
#[derive(Clone, Copy)]
pub(super) struct Plane<'a, P> {
    bytes: &'a [u8],
    stride: NonZeroUsize,
    width: u32,
    height: u32,
    pixel: std::marker::PhantomData<P>,
}

impl<'a, P: Bytes> Plane<'a, P> {
    /// The pixels of `rect` in `bytes`; `None` if they do not all lie there.
    pub fn new(bytes: &'a [u8], stride: usize, rect: Rect) -> Option<Self> {
        let row = (rect.w as usize).checked_mul(P::size())?;
        let start = (rect.y as usize).checked_mul(stride)?.checked_add((rect.x as usize).checked_mul(P::size())?)?;
        let length = stride.checked_mul((rect.h as usize).checked_sub(1)?)?.checked_add(row)?;
        let bytes = bytes.get(start..start.checked_add(length)?)?;
        let stride = NonZeroUsize::new(stride).filter(|stride| stride.get() >= row)?;
        Some(Self { bytes, stride, width: rect.w, height: rect.h, pixel: std::marker::PhantomData })
    }

    /// The same plane, columns `left..left + width` only.
    pub fn columns(self, left: u32, width: u32) -> Option<Self> {
        Self::new(self.bytes, self.stride.get(), Rect { x: left, y: 0, w: width, h: self.height })
    }

    /// The same plane, rows `top..top + height` only.
    pub fn rows(self, top: u32, height: u32) -> Option<Self> {
        Self::new(self.bytes, self.stride.get(), Rect { x: 0, y: top, w: self.width, h: height })
    }
}

// SAFETY: the trait asks for rows of at least `width` pixels. `iter_rows` cuts every row to exactly `width` pixels, and panics
// rather than give a shorter one (`new` has made sure that it never does).
unsafe impl<P: Bytes> ImageView for Plane<'_, P> {
    type Pixel = P;

    fn width(&self) -> u32 {
        self.width
    }

    fn height(&self) -> u32 {
        self.height
    }

    fn iter_rows(&self, start_row: u32) -> impl Iterator<Item = &[P]> {
        let row = self.width as usize * P::size();
        let bytes = (start_row as usize).checked_mul(self.stride.get()).and_then(|start| self.bytes.get(start..));
        bytes.unwrap_or_default().chunks(self.stride.get()).map(move |chunk| {
            // SAFETY: `Bytes` says that any bytes are a valid `P` and that its alignment is 1, so the middle part is everything.
            let (_, pixels, _) = unsafe { chunk[..row].align_to::<P>() };
            pixels
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_skip_what_the_stride_pads() {
        let bytes: Vec<u8> = (0..23).collect();
        let plane = Plane::<U8x3>::new(&bytes, 8, Rect { x: 0, y: 0, w: 2, h: 3 }).unwrap();
        let rows: Vec<Vec<[u8; 3]>> = plane.iter_rows(1).map(|row| row.iter().map(|p| p.0).collect()).collect();
        assert_eq!(rows, vec![vec![[8, 9, 10], [11, 12, 13]], vec![[16, 17, 18], [19, 20, 21]]]);
    }

    #[test]
    fn a_rectangle_outside_the_bytes_is_refused() {
        let bytes = [0; 24];
        for (stride, rect) in [
            (8, Rect { x: 0, y: 0, w: 3, h: 1 }),
            (8, Rect { x: 2, y: 0, w: 2, h: 3 }),
            (8, Rect { x: 0, y: 0, w: 2, h: 4 }),
            (8, Rect { x: 0, y: 3, w: 2, h: 1 }),
            (8, Rect { x: 0, y: 0, w: 2, h: 0 }),
            (0, Rect { x: 0, y: 0, w: 0, h: 1 }),
            (usize::MAX, Rect { x: 0, y: 1, w: 1, h: 2 }),
        ] {
            assert!(Plane::<U8x3>::new(&bytes, stride, rect).is_none(), "{stride} {rect:?}");
        }
        assert!(Plane::<U8x3>::new(&bytes, 8, Rect { x: 0, y: 0, w: 2, h: 3 }).is_some());
    }
}
