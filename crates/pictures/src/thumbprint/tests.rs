//! Properties of thumbprints on made-up pictures.

use proptest::prelude::*;

use super::*;

const COLOUR: (Matrix, Range) = (Matrix::Bt709, Range::Limited);

/// A picture whose first plane is `luma(x, y)`; the others are grey.
fn planar(format: PixelFormat, (width, height): (u32, u32), luma: impl Fn(u32, u32) -> u8) -> Picture {
    let mut strides = [0; 3];
    let planes: Vec<Vec<u8>> = (0..format.planes())
        .map(|plane| {
            let (row, rows) = format.plane_size(plane, width, height);
            // Bytes between the rows, which must never be read as pixels.
            let stride = row + 13;
            strides[plane] = stride;
            let mut bytes = vec![255; stride * rows];
            for (at, byte) in bytes.iter_mut().enumerate().filter(|(at, _)| at % stride < row) {
                *byte = if plane == 0 { luma((at % stride) as u32, (at / stride) as u32) } else { 128 };
            }
            bytes
        })
        .collect();
    Picture::new(format, (width, height), strides, COLOUR, Box::new(planes)).unwrap()
}

fn gray(size: (u32, u32), luma: impl Fn(u32, u32) -> u8) -> Picture {
    planar(PixelFormat::Gray8, size, luma)
}

fn thumbprint(picture: &Picture) -> Thumbprint {
    Thumbprint::of(picture, Region::FULL)
}

fn change(now: &Picture, then: &Picture) -> f32 {
    thumbprint(now).change(&thumbprint(then)).unwrap()
}

/// Something like a scene: smooth light with texture.
fn scene(x: u32, y: u32) -> u8 {
    (60 + (x / 8 + y / 5) % 120 + (x * 7 + y * 13) % 9) as u8
}

/// Noise of a pixel, up to `level` up or down, different in each picture.
fn noise(x: u32, y: u32, seed: u32, level: i32) -> i32 {
    let mut mixed = x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    mixed ^= mixed >> 15;
    mixed = mixed.wrapping_mul(0x2C1B_3C6D);
    mixed ^= mixed >> 13;
    (mixed % (2 * level as u32 + 1)) as i32 - level
}

fn noisy(seed: u32, level: i32) -> impl Fn(u32, u32) -> u8 {
    move |x, y| (i32::from(scene(x, y)) + noise(x, y, seed, level)).clamp(0, 255) as u8
}

#[test]
fn the_same_picture_has_not_changed() {
    let picture = gray((640, 360), scene);
    assert_eq!(change(&picture, &picture), 0.0);
}

#[test]
fn sensor_noise_is_no_change() {
    // A standard deviation of 5 levels: a small sensor at dusk.
    let (then, now) = (gray((1280, 720), noisy(1, 8)), gray((1280, 720), noisy(2, 8)));
    assert!(change(&now, &then) < 2.0, "{}", change(&now, &then));
}

#[test]
fn a_small_thing_that_comes_in_is_a_change_where_the_mean_hardly_moves() {
    let size = (1280, 720);
    let inside = |x: u32, y: u32| (600..616).contains(&x) && (300..340).contains(&y);
    let then = gray(size, noisy(1, 6));
    let now = gray(size, |x, y| if inside(x, y) { 20 } else { noisy(2, 6)(x, y) });
    let mean = |s: &Thumbprint| s.cells.iter().sum::<f32>() / s.cells.len() as f32;
    assert!((mean(&thumbprint(&now)) - mean(&thumbprint(&then))).abs() < 0.2);
    assert!(change(&now, &then) > 10.0, "{}", change(&now, &then));
}

#[test]
fn flicker_of_the_whole_is_no_change_but_a_light_that_goes_on_is() {
    let size = (320, 180);
    let brighter = |by: i32| gray(size, move |x, y| (i32::from(scene(x, y)) + by).clamp(0, 255) as u8);
    let then = brighter(0);
    for by in [-5, 3, 5] {
        assert!(change(&brighter(by), &then) < 0.01, "{by}");
    }
    assert!((change(&brighter(20), &then) - (20.0 - FLICKER)).abs() < 0.01);
}

#[test]
fn a_thing_is_seen_through_flicker() {
    let size = (320, 180);
    let inside = |x: u32, y: u32| (100..110).contains(&x) && (90..100).contains(&y);
    let then = gray(size, scene);
    let now = gray(size, |x, y| if inside(x, y) { 5 } else { scene(x, y) + 4 });
    assert!(change(&now, &then) > 20.0);
}

#[test]
fn pictures_of_another_size_or_format_or_region_cannot_be_compared() {
    let picture = gray((64, 36), scene);
    let larger = gray((64, 38), scene);
    assert_eq!(thumbprint(&picture).change(&thumbprint(&larger)), None);
    let nv12 = planar(PixelFormat::Nv12, (64, 36), scene);
    assert_eq!(thumbprint(&picture).change(&thumbprint(&nv12)), None);
    let part = Thumbprint::of(&picture, Region { x: 0.0, y: 0.0, w: 0.5, h: 1.0 });
    assert_eq!(thumbprint(&picture).change(&part), None);
}

#[test]
fn what_happens_outside_the_region_is_no_change() {
    let region = Region { x: 0.5, y: 0.25, w: 0.5, h: 0.5 };
    let then = gray((200, 100), scene);
    let now = gray((200, 100), |x, y| if x < 100 || !(25..75).contains(&y) { 0 } else { scene(x, y) });
    assert_eq!(Thumbprint::of(&now, region).change(&Thumbprint::of(&then, region)), Some(0.0));
    assert!(change(&now, &then) > 50.0);
}

#[test]
fn planes_of_every_format_give_the_same_cells() {
    let size = (131, 77);
    let expected = thumbprint(&gray(size, scene)).cells;
    for format in [PixelFormat::I420, PixelFormat::Y42b, PixelFormat::Y444, PixelFormat::Nv12] {
        assert_eq!(thumbprint(&planar(format, size, scene)).cells, expected, "{format:?}");
    }
    let rgb = (0..size.0 * size.1).flat_map(|at| [scene(at % size.0, at / size.0); 3]).collect();
    let rgb = thumbprint(&Picture::from_rgb(size.0, size.1, rgb).unwrap()).cells;
    assert!(rgb.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.01));
}

#[test]
fn rows_beyond_what_sixteen_bits_hold_are_added_up_right() {
    // 36 rows of cells, each 700 rows of white.
    let white = thumbprint(&gray((70, 25_200), |_, _| 255));
    assert!(white.cells.iter().all(|cell| *cell == 255.0));
}

proptest! {
    /// Against the definition: the mean of every pixel of a cell; each pixel in exactly one cell.
    #[test]
    fn a_cell_is_the_mean_of_its_pixels(width in 1u32..150, height in 1u32..150, seed in 0u32..1000) {
        let luma = |x: u32, y: u32| (noise(x, y, seed, 127) + 128) as u8;
        let cells = thumbprint(&gray((width, height), luma)).cells;
        let (columns, rows) = if width >= height { GRID } else { (GRID.1, GRID.0) };
        let (columns, rows) = (columns.min(width as usize), rows.min(height as usize));
        prop_assert_eq!(cells.len(), columns * rows);
        let mut pixels = 0;
        for (index, cell) in cells.iter().enumerate() {
            let (column, row) = (index % columns, index / columns);
            let xs = width as usize * column / columns..width as usize * (column + 1) / columns;
            let ys = height as usize * row / rows..height as usize * (row + 1) / rows;
            let values: Vec<f64> = ys
                .flat_map(|y| xs.clone().map(move |x| (x, y)))
                .map(|(x, y)| f64::from(luma(x as u32, y as u32)))
                .collect();
            pixels += values.len();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            prop_assert!((mean - f64::from(*cell)).abs() < 0.01, "{} {}", mean, cell);
        }
        prop_assert_eq!(pixels, (width * height) as usize);
    }

    #[test]
    fn any_region_of_any_picture_has_a_signature(
        width in 1u32..80, height in 1u32..80,
        x in 0.0..1.0_f64, y in 0.0..1.0_f64, w in 0.0..1.5_f64, h in 0.0..1.5_f64,
    ) {
        let picture = planar(PixelFormat::I420, (width, height), scene);
        let thumbprint = Thumbprint::of(&picture, Region { x, y, w, h });
        prop_assert!(!thumbprint.cells.is_empty());
        prop_assert_eq!(thumbprint.change(&thumbprint), Some(0.0));
    }

    #[test]
    fn a_change_is_the_same_in_both_directions(a in 0u32..1000, b in 0u32..1000) {
        let (a, b) = (gray((60, 40), noisy(a, 40)), gray((60, 40), noisy(b, 40)));
        prop_assert!((change(&a, &b) - change(&b, &a)).abs() < 0.01);
    }
}
