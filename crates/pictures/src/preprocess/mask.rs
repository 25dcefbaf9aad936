//! The mask of a view: pixels of the tensor that lie outside a polygon of the picture get one colour. Pure.
//!
//! Row by row: where the polygon's sides cross the row's middle, inside and outside change. It is done to the finished tensor, so it costs
//! nothing that grows with the picture; at the rim a pixel that is kept has a little of its neighbours, as all resized ones have.

use super::Polygon;
use super::plan::Plan;

/// Gives every pixel of `out` that `plan` takes from a place outside `mask` the `colour`. `size` is that of the picture, `columns` the
/// tensor's.
pub(super) fn fill_outside(
    mask: &Polygon,
    (width, height): (u32, u32),
    plan: &Plan,
    columns: u32,
    colour: [f32; 3],
    out: &mut [f32],
) {
    let Plan { source, window, target, .. } = plan;
    let (columns, length) = (columns as usize, out.len() / 3);
    // From the picture to columns of the target, and from rows of it to the picture.
    let across = f64::from(target.w) / window.w;
    let column = |x: f64| (x * f64::from(width) - f64::from(source.x) - window.x) * across;
    let middle = |row: u32| {
        let y = (f64::from(row) + 0.5) * window.h / f64::from(target.h) + window.y + f64::from(source.y);
        y / f64::from(height)
    };
    let corners = mask.corners();
    let sides = || corners.iter().zip(corners.iter().cycle().skip(1));
    let mut crossings = Vec::with_capacity(corners.len());
    for row in 0..target.h {
        let y = middle(row);
        let crossed = sides().filter(|([_, from], [_, to])| (*from <= y) != (*to <= y));
        crossings.clear();
        crossings.extend(crossed.map(|([x, from], [to_x, to])| column(x + (y - from) / (to - from) * (to_x - x))));
        crossings.sort_unstable_by(f64::total_cmp);
        let start = (target.y + row) as usize * columns + target.x as usize;
        let mut fill = |from: usize, to: usize| {
            for (plane, value) in out.chunks_exact_mut(length).zip(colour) {
                plane[start + from..start + to].fill(value);
            }
        };
        // A pixel is where its middle is. Casts end at 0.
        let pixel = |crossing: f64| ((crossing - 0.5).ceil() as usize).min(target.w as usize);
        let mut outside = 0;
        for inside in crossings.chunks_exact(2) {
            let (from, to) = (pixel(inside[0]), pixel(inside[1]));
            fill(outside, from);
            outside = to;
        }
        fill(outside, target.w as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Preprocessor, Region, Spec, View, ViewMode, tiles};
    use super::*;
    use crate::{Matrix, Picture, PixelFormat, Range};

    /// Another way to find out: the angle that the corners go round a point.
    fn goes_round(corners: &[[f64; 2]], (x, y): (f64, f64)) -> bool {
        let angle = |corner: &[f64; 2]| (corner[1] - y).atan2(corner[0] - x);
        let turn = |(from, to): (&[f64; 2], &[f64; 2])| {
            let turn = angle(to) - angle(from);
            // The shorter way round.
            turn - std::f64::consts::TAU * (turn / std::f64::consts::TAU).round()
        };
        let turned: f64 = corners.iter().zip(corners.iter().cycle().skip(1)).map(turn).sum();
        turned.abs() > 1.0
    }

    /// A picture in which every pixel is far from the mean colour.
    fn picture(format: PixelFormat, (width, height): (u32, u32)) -> Picture {
        let planes = (0..format.planes()).map(|plane| {
            let (row, rows) = format.plane_size(plane, width, height);
            vec![250; row * rows]
        });
        let strides =
            [0, 1, 2].map(|plane| if plane < format.planes() { format.plane_size(plane, width, height).0 } else { 0 });
        Picture::new(
            format,
            (width, height),
            strides,
            (Matrix::Bt601, Range::Full),
            Box::new(planes.collect::<Vec<_>>()),
        )
        .unwrap()
    }

    #[test]
    fn what_is_outside_a_polygon_has_the_mean_colour_and_what_is_inside_is_as_without_it() {
        let spec = r#"{"size": {"shortest_edge": 64}, "crop_size": 64, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3]}"#;
        let spec = Arc::new(Spec::from_json(spec).unwrap());
        let mut preprocessor = Preprocessor::new(Arc::clone(&spec));
        // Convex; with a dent; all there is; a sliver; with sides along rows and columns. Of odd numbers: no side goes through a pixel's middle.
        let shapes: [&[[f64; 2]]; 5] = [
            &[[0.1031, 0.2017], [0.8311, 0.1123], [0.7019, 0.9337]],
            &[[0.0537, 0.1019], [0.5071, 0.5523], [0.9511, 0.1033], [0.9047, 0.9071], [0.1013, 0.9029]],
            &[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]],
            &[[0.3011, 0.3023], [0.3137, 0.3041], [0.7013, 0.7039]],
            &[
                [0.2513, 0.2531],
                [0.7541, 0.2531],
                [0.7541, 0.5017],
                [0.5039, 0.5017],
                [0.5039, 0.7523],
                [0.2513, 0.7523],
            ],
        ];
        let formats = [PixelFormat::Rgb, PixelFormat::I420, PixelFormat::Gray8];
        for ((corners, format), size) in shapes
            .iter()
            .flat_map(|shape| formats.map(|format| (shape, format)))
            .zip([(160, 90), (91, 203), (64, 64)].into_iter().cycle())
        {
            let mask = Polygon::new(corners).unwrap();
            let picture = picture(format, size);
            for mode in [ViewMode::Model, ViewMode::Squash, ViewMode::Pad, ViewMode::Tiles] {
                let view = View { mode, region: mask.bounds() };
                for tile in 0..tiles(view, size.0, size.1) {
                    let (mut plain, mut masked) = (vec![0.0; spec.place_len()], vec![0.0; spec.place_len()]);
                    preprocessor.run(&picture, view, tile, &mut plain).unwrap();
                    preprocessor.run_masked(&picture, view, &mask, tile, &mut masked).unwrap();
                    let plan = Plan::new(&spec, view, tile, size.0, size.1).unwrap();
                    let mut kept = 0;
                    for at in 0..64 * 64 {
                        let (column, row) = ((at % 64) as u32, (at / 64) as u32);
                        let (target, window) = (plan.target, plan.window);
                        let within = (target.x..target.x + target.w).contains(&column)
                            && (target.y..target.y + target.h).contains(&row);
                        let part = |at: u32, from: u32, pixels: u32| (f64::from(at - from) + 0.5) / f64::from(pixels);
                        let is_kept = !within || {
                            let x = part(column, target.x, target.w) * window.w + window.x + f64::from(plan.source.x);
                            let y = part(row, target.y, target.h) * window.h + window.y + f64::from(plan.source.y);
                            goes_round(corners, (x / f64::from(size.0), y / f64::from(size.1)))
                        };
                        kept += usize::from(is_kept);
                        for channel in 0..3 {
                            let found = masked[channel * 64 * 64 + at];
                            let wanted = if is_kept { plain[channel * 64 * 64 + at] } else { spec.bars()[channel] };
                            assert_eq!(found, wanted, "{corners:?} {format:?} {size:?} {mode:?} {tile} {column},{row}");
                        }
                    }
                    let outside = plain.iter().zip(&masked).any(|(plain, masked)| plain != masked);
                    assert_eq!(outside, kept < 64 * 64, "the picture is nowhere of the mean colour");
                }
            }
        }
    }

    #[test]
    fn whatever_the_numbers_are_the_mask_stays_inside_the_tensor() {
        let spec = Spec::from_json(r#"{"size": 8, "crop_size": 8}"#).unwrap();
        let mask = Polygon::new(&[[-7.0, 0.3], [0.5, 9.0], [1e9, -4.0], [0.2, 0.2]]).unwrap();
        for region in [Region::FULL, Region { x: 0.9, y: 0.9, w: 0.1, h: 0.05 }] {
            let view = View { mode: ViewMode::Pad, region };
            let plan = Plan::new(&spec, view, 0, 7, 5).unwrap();
            let mut out = vec![1.0; 3 * 8 * 8];
            fill_outside(&mask, (7, 5), &plan, 8, [0.0; 3], &mut out);
        }
    }
}
