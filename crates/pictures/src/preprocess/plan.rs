//! Geometry alone: which part of the picture lands in which part of the tensor. Pure numbers, no pixels.
//!
//! Every view comes down to a [`Plan`]: pixels of `source` may be looked at (a region's border is an edge like that of a picture
//! cropped beforehand), `window` of it is resized onto `target`, the rest of the tensor gets one colour. A crop that follows a resize
//! is folded into `window`, at fractions of a pixel, so only what the crop keeps is ever computed.

use super::{CropRounding, Region, Resize, Spec, View, ViewMode};

/// Most tiles that `tiles` cuts a picture into. Longer shapes get as many rectangles, each squashed a little.
pub const MAX_TILES: usize = 8;

/// Shapes whose sides differ by no more than a part in this many are square enough for one tile: a region's rounding to whole pixels
/// must not double the work.
const SQUARE_TOLERANCE: u64 = 64;

/// Whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub x: u32,
    pub y: u32,
    pub w: u32,
    pub h: u32,
}

/// Fractions of pixels, relative to a [`Rect`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl Window {
    fn whole(rect: Rect) -> Self {
        Self { x: 0.0, y: 0.0, w: f64::from(rect.w), h: f64::from(rect.h) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    /// Pixels of the picture that may be looked at.
    pub source: Rect,
    /// The part of `source` that is resized onto `target`.
    pub window: Window,
    /// Where it goes in the tensor.
    pub target: Rect,
    /// Tensor value of everything around `target`.
    pub surround: [f32; 3],
}

impl Plan {
    /// The plan for tile `tile` of a `width` × `height` picture; `None` when there is no such tile.
    pub fn new(spec: &Spec, view: View, tile: usize, width: u32, height: u32) -> Option<Self> {
        let region = region(view.region, width, height);
        if tile >= count(view.mode, region) {
            return None;
        }
        Some(match view.mode {
            ViewMode::Model => Self::model(spec, region),
            ViewMode::Squash => Self::squash(spec, region),
            ViewMode::Pad => Self::pad(spec, region),
            ViewMode::Tiles => Self::squash(spec, square(region, tile)),
        })
    }

    fn squash(spec: &Spec, source: Rect) -> Self {
        let (h, w) = spec.size();
        Self { source, window: Window::whole(source), target: Rect { x: 0, y: 0, w, h }, surround: spec.bars() }
    }

    fn pad(spec: &Spec, source: Rect) -> Self {
        let (height, width) = spec.size();
        let (x_scale, y_scale) = (f64::from(width) / f64::from(source.w), f64::from(height) / f64::from(source.h));
        let scale = x_scale.min(y_scale);
        let w = (f64::from(source.w) * scale).round().clamp(1.0, f64::from(width)) as u32;
        let h = (f64::from(source.h) * scale).round().clamp(1.0, f64::from(height)) as u32;
        let target = Rect { x: (width - w) / 2, y: (height - h) / 2, w, h };
        Self { source, window: Window::whole(source), target, surround: spec.bars() }
    }

    fn model(spec: &Spec, source: Rect) -> Self {
        let (out_h, out_w) = spec.size();
        let (resized_w, resized_h) = resized(spec.resize(), source.w, source.h);
        let across = Span::new(source.w, resized_w, out_w, spec.crop_rounding());
        let down = Span::new(source.h, resized_h, out_h, spec.crop_rounding());
        Self {
            source,
            window: Window { x: across.from, y: down.from, w: across.length, h: down.length },
            target: Rect { x: across.at, y: down.at, w: across.pixels, h: down.pixels },
            surround: spec.fill(),
        }
    }
}

/// One axis of resize and centre crop: `from` and `length` in the source, `at` and `pixels` in the tensor.
struct Span {
    from: f64,
    length: f64,
    at: u32,
    pixels: u32,
}

impl Span {
    fn new(source: u32, resized: u64, out: u32, rounding: CropRounding) -> Self {
        let wide = u64::from(out);
        let (skipped, at, pixels) = if resized >= wide {
            let difference = resized - wide;
            let odd_up = rounding == CropRounding::HalfEven && difference % 4 == 3;
            (difference / 2 + u64::from(odd_up), 0, out)
        } else {
            // Smaller than the crop: it is placed in the middle.
            let difference = (wide - resized) as u32;
            (0, difference / 2, resized as u32)
        };
        // Product before quotient, so that an uncropped axis comes out at exactly the source's size.
        let scaled = |n: f64| n * f64::from(source) / resized as f64;
        Self { from: scaled(skipped as f64), length: scaled(f64::from(pixels)), at, pixels }
    }
}

/// Size of the whole picture after the resize, `(width, height)`, of which only the crop is ever computed.
fn resized(resize: Resize, width: u32, height: u32) -> (u64, u64) {
    let (w, h) = (u64::from(width), u64::from(height));
    let keep_shape = |ratio: f64| {
        let side = |n: u32| (f64::from(n) / ratio).round_ties_even().max(1.0) as u64;
        (side(width), side(height))
    };
    match resize {
        Resize::None => (w, h),
        Resize::Exact(height, width) => (width.into(), height.into()),
        Resize::Shortest(side) => {
            let side = u64::from(side);
            if w <= h { (side, side * h / w) } else { (side * w / h, side) }
        }
        Resize::Inside(height_out, width_out) => {
            keep_shape((f64::from(width) / f64::from(width_out)).max(f64::from(height) / f64::from(height_out)))
        }
        Resize::Cover(height_out, width_out) => {
            keep_shape((f64::from(width) / f64::from(width_out)).min(f64::from(height) / f64::from(height_out)))
        }
    }
}

/// The region in whole pixels, at least one a side, inside the picture whatever the numbers are.
pub(super) fn region(region: Region, width: u32, height: u32) -> Rect {
    let axis = |from: f64, length: f64, side: u32| {
        // A cast of NaN gives 0, of anything out of range the nearest end.
        let pixel = |at: f64| (at * f64::from(side)).round() as u32;
        let start = pixel(from).min(side - 1);
        let end = pixel(from + length).clamp(start + 1, side);
        (start, end - start)
    };
    let (x, w) = axis(region.x, region.w, width);
    let (y, h) = axis(region.y, region.h, height);
    Rect { x, y, w, h }
}

/// Tiles that a view of `region` gives.
pub(super) fn count(mode: ViewMode, region: Rect) -> usize {
    if mode != ViewMode::Tiles {
        return 1;
    }
    let (short, long) = (u64::from(region.w.min(region.h)), u64::from(region.w.max(region.h)));
    if (long - short) * SQUARE_TOLERANCE <= short {
        return 1;
    }
    usize::try_from(long.div_ceil(short)).map_or(MAX_TILES, |n| n.clamp(2, MAX_TILES))
}

/// Tile `tile` of `region`: evenly spaced along the longer side, the first and the last at its ends.
fn square(region: Rect, tile: usize) -> Rect {
    let tiles = count(ViewMode::Tiles, region) as u64;
    if tiles == 1 {
        return region;
    }
    let wide = region.w > region.h;
    let (short, long) = (u64::from(region.w.min(region.h)), u64::from(region.w.max(region.h)));
    // More than `MAX_TILES` tiles would be needed: longer pieces, so that nothing is left out.
    let side = short.max(long.div_ceil(tiles));
    let spare = long - side;
    let last = tiles - 1;
    // Both fit: `side` is at most `long`, which is a u32.
    let (start, side) = (((spare * tile as u64 + last / 2) / last) as u32, side as u32);
    if wide { Rect { x: region.x + start, w: side, ..region } } else { Rect { y: region.y + start, h: side, ..region } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTER: &str = r#"{"size": {"shortest_edge": 256}, "crop_size": 224}"#;

    fn view(mode: ViewMode) -> View {
        View { mode, region: Region::FULL }
    }

    fn plan(spec: &str, mode: ViewMode, width: u32, height: u32) -> Plan {
        Plan::new(&Spec::from_json(spec).unwrap(), view(mode), 0, width, height).unwrap()
    }

    #[test]
    fn resize_and_crop_become_one_window() {
        // 451x300 becomes 384x256 (384.85 cut off); the crop starts at (80, 16).
        let plan = plan(STARTER, ViewMode::Model, 451, 300);
        assert_eq!(plan.target, Rect { x: 0, y: 0, w: 224, h: 224 });
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(plan.window.x, 80.0 * 451.0 / 384.0);
        near(plan.window.w, 224.0 * 451.0 / 384.0);
        near(plan.window.y, 16.0 * 300.0 / 256.0);
        near(plan.window.h, 224.0 * 300.0 / 256.0);
    }

    #[test]
    fn an_axis_without_crop_keeps_its_exact_size() {
        for height in 1..300 {
            let plan = plan("{}", ViewMode::Model, 1000, height);
            assert_eq!((plan.window.y, plan.window.h), (0.0, f64::from(height)));
        }
    }

    #[test]
    fn a_picture_smaller_than_the_crop_stands_in_the_middle_on_black() {
        let spec = r#"{"do_resize": false, "crop_size": 10}"#;
        let plan = plan(spec, ViewMode::Model, 3, 21);
        // The odd pixel comes behind the picture, as in Transformers' torchvision processors, and the crop's start is floored.
        assert_eq!(plan.target, Rect { x: 3, y: 0, w: 3, h: 10 });
        assert_eq!((plan.window.y, plan.window.h), (5.0, 10.0));
        assert_eq!(plan.surround, Spec::from_json(spec).unwrap().fill());
    }

    #[test]
    fn torchvision_rounds_an_odd_crop_to_even() {
        for (resized, start) in [(224, 0.0), (225, 0.0), (226, 1.0), (227, 2.0), (228, 2.0), (229, 2.0), (231, 4.0)] {
            assert_eq!(Span::new(resized, resized.into(), 224, CropRounding::HalfEven).from, start, "{resized}");
        }
        assert_eq!(Span::new(227, 227, 224, CropRounding::Floor).from, 1.0);
    }

    #[test]
    fn openclips_longest_mode_fits_the_picture_inside() {
        assert_eq!(resized(Resize::Inside(224, 224), 640, 427), (224, 149));
        assert_eq!(resized(Resize::Cover(224, 112), 640, 427), (336, 224));
        assert_eq!(resized(Resize::Inside(224, 224), 32_768, 1), (224, 1));
    }

    #[test]
    fn padding_centres_the_whole_picture() {
        let plan = plan("{}", ViewMode::Pad, 1920, 1080);
        assert_eq!(plan.target, Rect { x: 0, y: 49, w: 224, h: 126 });
        assert_eq!((plan.window, plan.surround), (Window::whole(plan.source), [0.0; 3]));
    }

    #[test]
    fn a_16_to_9_picture_gives_two_squares_that_cover_it() {
        let spec = Spec::from_json(STARTER).unwrap();
        let tile = |n| Plan::new(&spec, view(ViewMode::Tiles), n, 1920, 1080).map(|p| p.source);
        assert_eq!(tile(0), Some(Rect { x: 0, y: 0, w: 1080, h: 1080 }));
        assert_eq!(tile(1), Some(Rect { x: 840, y: 0, w: 1080, h: 1080 }));
        assert_eq!(tile(2), None);
    }

    #[test]
    fn almost_square_is_one_tile() {
        let tiles = |w, h| count(ViewMode::Tiles, Rect { x: 0, y: 0, w, h });
        assert_eq!((tiles(640, 640), tiles(1080, 1079), tiles(640, 480), tiles(480, 1000)), (1, 1, 2, 3));
    }

    #[test]
    fn tiles_cover_every_pixel_of_the_region_and_stay_inside() {
        for (width, height) in [(100, 40), (40, 100), (101, 100), (4000, 3), (3, 32_768), (7, 2), (2, 1), (1920, 1080)]
        {
            let region = region(Region { x: 0.1, y: 0.2, w: 0.85, h: 0.8 }, width, height);
            let n = count(ViewMode::Tiles, region);
            let mut covered_to = if region.w > region.h { region.x } else { region.y };
            let end = if region.w > region.h { region.x + region.w } else { region.y + region.h };
            for tile in (0..n).map(|n| square(region, n)) {
                let (start, length) = if region.w > region.h { (tile.x, tile.w) } else { (tile.y, tile.h) };
                assert!(start <= covered_to, "{width}x{height}: a gap before {start}");
                covered_to = covered_to.max(start + length);
            }
            assert_eq!(covered_to, end, "{width}x{height}");
        }
    }

    #[test]
    fn a_region_is_whole_pixels_inside_the_picture_whatever_the_numbers_are() {
        assert_eq!(region(Region { x: 0.25, y: 0.0, w: 0.5, h: 1.0 }, 641, 359), Rect { x: 160, y: 0, w: 321, h: 359 });
        for odd in [f64::NAN, f64::INFINITY, -1.0, 1e300, 0.999_999] {
            let rect = region(Region { x: odd, y: odd, w: odd, h: 1e-9 }, 7, 5);
            assert!(rect.w >= 1 && rect.h >= 1 && rect.x + rect.w <= 7 && rect.y + rect.h <= 5, "{odd}: {rect:?}");
        }
    }
}
