//! The part of a picture that a view looks at, as a picture of its own: nothing beside it is in there. In: a picture and a view; out: a copy of its
//! pixels, grey where the view's polygon does not reach. On the caller's thread. Pure.

use std::ops::Range;

use super::view::{NamedView, Polygon, Region};
use super::{Picture, PictureError, PixelFormat};

/// Of what lies outside: mid-grey, in every format.
const OUTSIDE: u8 = 128;

/// The pixels of `picture` inside the view's region, whole ones alone; chroma that is shared begins with them.
///
/// # Errors
/// As [`Picture::new`], which no picture that is one comes to.
pub fn region_picture(picture: &Picture, view: &NamedView) -> Result<Picture, PictureError> {
    let Region { x, y, w, h } = view.view.region;
    let (columns, rows) = (inside(x, w, picture.width()), inside(y, h, picture.height()));
    let (width, height) = (columns.end - columns.start, rows.end - rows.start);
    let format = picture.format();
    let mut strides = [0; 3];
    let planes = (0..format.planes())
        .map(|plane| {
            let (across, down, bytes) = samples(format, plane);
            let (left, top) = ((columns.start / across) as usize * bytes, (rows.start / down) as usize);
            let (row, count) = format.plane_size(plane, width, height);
            let (from, stride) = picture.plane(plane);
            let mut out = Vec::with_capacity(row * count);
            (top..top + count).for_each(|y| out.extend_from_slice(&from[y * stride + left..y * stride + left + row]));
            strides[plane] = row;
            if let Some(mask) = &view.mask {
                let place = |at: u32, start: u32, step: u32, of: u32| {
                    (f64::from(start + at * step) + f64::from(step) / 2.0) / f64::from(of)
                };
                for (y, line) in out.chunks_exact_mut(row).enumerate() {
                    let y = place(y as u32, rows.start, down, picture.height());
                    let crossed = crossings(mask, y);
                    for (x, sample) in line.chunks_exact_mut(bytes).enumerate() {
                        let x = place(x as u32, columns.start, across, picture.width());
                        if crossed.iter().filter(|at| **at < x).count() % 2 == 0 {
                            sample.fill(OUTSIDE);
                        }
                    }
                }
            }
            out
        })
        .collect::<Vec<Vec<u8>>>();
    Picture::new(format, (width, height), strides, (picture.matrix(), picture.range()), Box::new(planes))
}

/// The pixels of a side that lie wholly between `start` and `start + length`, from an even one on; one at least.
fn inside(start: f64, length: f64, side: u32) -> Range<u32> {
    let pixels = f64::from(side);
    // A region of 0.1 to 0.3 is not to lose a pixel to how 0.3 is written.
    let near = 1e-6;
    let first = ((start * pixels - near).ceil().max(0.0) as u32).next_multiple_of(2).min(side.saturating_sub(1) & !1);
    let end = (((start + length) * pixels + near).floor() as u32).clamp(first + 1, side.max(first + 1));
    first..end
}

/// Pixels across and down that share a sample of a plane, and its bytes.
fn samples(format: PixelFormat, plane: usize) -> (u32, u32, usize) {
    match (format, plane) {
        (PixelFormat::Rgb, _) => (1, 1, 3),
        (_, 0) | (PixelFormat::Y444 | PixelFormat::Gray8, _) => (1, 1, 1),
        (PixelFormat::I420, _) => (2, 2, 1),
        (PixelFormat::Y42b, _) => (2, 1, 1),
        (PixelFormat::Nv12, _) => (2, 2, 2),
    }
}

/// Where the sides of `mask` cross the line at height `y`.
fn crossings(mask: &Polygon, y: f64) -> Vec<f64> {
    let corners = mask.corners();
    let next = corners.iter().cycle().skip(1);
    let crossing = |([x, a], [next_x, b]): (&[f64; 2], &[f64; 2])| {
        ((*a <= y) != (*b <= y)).then(|| x + (y - a) / (b - a) * (next_x - x))
    };
    corners.iter().zip(next).filter_map(crossing).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::view::{View, ViewMode};
    use super::super::{Matrix, Range as Levels};
    use super::*;

    const FORMATS: [PixelFormat; 6] = [
        PixelFormat::I420,
        PixelFormat::Y42b,
        PixelFormat::Y444,
        PixelFormat::Nv12,
        PixelFormat::Rgb,
        PixelFormat::Gray8,
    ];

    /// Whose every sample says where it is: 1 in the quarter at the right bottom, else 0.
    fn quarters(format: PixelFormat, (width, height): (u32, u32)) -> Picture {
        let mut strides = [0; 3];
        let planes = (0..format.planes()).map(|plane| {
            let (row, rows) = format.plane_size(plane, width, height);
            strides[plane] = row + 5;
            let at = |x: usize, y: usize| u8::from(x >= row / 2 && y >= rows / 2);
            (0..rows).flat_map(|y| (0..row + 5).map(move |x| at(x, y))).collect()
        });
        let planes: Vec<Vec<u8>> = planes.collect();
        Picture::new(format, (width, height), strides, (Matrix::Bt601, Levels::Full), Box::new(planes)).unwrap()
    }

    fn view(region: Region, mask: Option<Polygon>) -> NamedView {
        NamedView { view: View { mode: ViewMode::Model, region }, mask, name: None }
    }

    fn bytes(picture: &Picture) -> Vec<u8> {
        (0..picture.format().planes()).flat_map(|plane| picture.plane(plane).0.to_vec()).collect()
    }

    #[test]
    fn nothing_beside_the_region_is_in_its_picture() {
        for format in FORMATS {
            let picture = quarters(format, (40, 24));
            let half = |x, y| view(Region { x, y, w: 0.5, h: 0.5 }, None);
            for (x, y, value) in [(0.5, 0.5, 1), (0.0, 0.0, 0), (0.5, 0.0, 0), (0.0, 0.5, 0)] {
                let part = region_picture(&picture, &half(x, y)).unwrap();
                assert_eq!((part.width(), part.height()), (20, 12), "{format:?}");
                assert!(bytes(&part).iter().all(|byte| *byte == value), "{format:?} {x} {y}");
            }
            let whole = region_picture(&picture, &NamedView::default()).unwrap();
            assert_eq!((whole.width(), whole.height()), (40, 24));
        }
    }

    #[test]
    fn what_lies_outside_the_polygon_is_grey() {
        let corners = [[0.5, 0.5], [1.0, 0.5], [1.0, 1.0], [0.5, 1.0]];
        for format in FORMATS {
            let mask = Polygon::new(&corners);
            let part = region_picture(&quarters(format, (40, 24)), &view(Region::FULL, mask)).unwrap();
            let (grey, ones) = (
                bytes(&part).iter().filter(|b| **b == OUTSIDE).count(),
                bytes(&part).iter().filter(|b| **b == 1).count(),
            );
            assert_eq!((grey, ones), (bytes(&part).len() / 4 * 3, bytes(&part).len() / 4), "{format:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_region_of_every_size_has_a_picture(
            width in 1_u32..60, height in 1_u32..60, x in 0.0_f64..1.0, y in 0.0_f64..1.0, w in 1e-9_f64..1.0, h in 1e-9_f64..1.0
        ) {
            for format in FORMATS {
                let region = Region { x, y, w: w.min(1.0 - x), h: h.min(1.0 - y) };
                let part = region_picture(&quarters(format, (width, height)), &view(region, None)).unwrap();
                prop_assert!(part.width() <= width && part.height() <= height);
            }
        }
    }
}
