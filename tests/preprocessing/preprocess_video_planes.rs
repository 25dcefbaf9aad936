//! A decoder's planes give nearly the tensor of the long way: the full frame to RGB first, then Pillow's resize.
//!
//! Our RGB way stands for Pillow here; `preprocess_matches_pillow.rs` shows that it is the same to a level.

use crate::preprocess_support::*;
use vtagd::frame::{Matrix, PixelFormat, Range};
use vtagd::preprocess::{Region, View, ViewMode};

const PLANAR: [PixelFormat; 4] = [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Y42b, PixelFormat::Y444];

const COLOURS: [(Matrix, Range); 4] = [
    (Matrix::Bt601, Range::Limited),
    (Matrix::Bt709, Range::Limited),
    (Matrix::Bt601, Range::Full),
    (Matrix::Bt2020, Range::Limited),
];

/// Compares both ways and gives the mean difference in levels.
fn compare(spec: &str, yuv: &Yuv, view: View, what: &str) -> f64 {
    let short = tensor(spec, &yuv.picture(), view, 0);
    let long = tensor(spec, &yuv.to_rgb().picture(), view, 0);
    let std = 0.501_960_8 * 255.0;
    let mean = short.iter().zip(&long).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / short.len() as f64 * std;
    let cosine = cosine(&short, &long);
    println!("{what}: cosine {cosine:.6}, mean {mean:.3} levels");
    assert!(cosine >= 0.9995, "{what}: cosine {cosine}");
    assert!(mean <= 0.9, "{what}: {mean} levels on average");
    mean
}

#[test]
fn planes_of_photographs_match_conversion_of_the_full_frame() {
    for name in ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"] {
        let Some(photograph) = photograph(name) else { continue };
        for format in PLANAR {
            for colour in COLOURS {
                let yuv = Yuv::of(&photograph, format, colour, 0);
                compare(STARTER, &yuv, view(ViewMode::Model), &format!("{name} {format:?} {colour:?}"));
            }
        }
    }
}

#[test]
fn odd_sizes_odd_regions_and_padded_rows_match_too() {
    let photograph = Rgb::open(&data("rocket.jpg"));
    for (width, height) in [(639, 359), (333, 427), (225, 225)] {
        let odd = photograph.cut((1, 0), width, height);
        for format in PLANAR {
            let yuv = Yuv::of(&odd, format, (Matrix::Bt709, Range::Limited), 37);
            for mode in [ViewMode::Model, ViewMode::Squash, ViewMode::Pad, ViewMode::Tiles] {
                let region = Region { x: 0.11, y: 0.07, w: 0.83, h: 0.9 };
                compare(STARTER, &yuv, View { mode, region }, &format!("{width}x{height} {format:?} {mode:?}"));
            }
        }
    }
}

#[test]
fn chroma_is_sited_where_the_standard_puts_it() {
    // Read with the other siting, colours move by half a pixel: that must be worse, or siting is not in force at all.
    let photograph = Rgb::open(&data("chelsea.png"));
    let spec = r#"{"size": {"height": 300, "width": 451}, "do_center_crop": false, "image_mean": 0.498, "image_std": 0.5019608}"#;
    let right = Yuv::of(&photograph, PixelFormat::I420, (Matrix::Bt601, Range::Full), 0);
    let original = tensor(spec, &photograph.picture(), view(ViewMode::Model), 0);
    let distance = |yuv: &Yuv| {
        let found = tensor(spec, &yuv.picture(), view(ViewMode::Model), 0);
        found.iter().zip(&original).map(|(a, b)| f64::from((a - b).powi(2))).sum::<f64>()
    };
    let mut moved = right.clone();
    let limited = Yuv::of(&photograph, PixelFormat::I420, (Matrix::Bt601, Range::Limited), 0);
    // Chroma sited for limited range, values of full range.
    for plane in 1..3 {
        let expand = |&byte: &u8| ((f64::from(byte) - 128.0) * 255.0 / 224.0 + 128.0).round().clamp(0.0, 255.0) as u8;
        moved.planes[plane] = limited.planes[plane].iter().map(expand).collect();
    }
    assert!(distance(&right) < distance(&moved), "{} {}", distance(&right), distance(&moved));
}

#[test]
fn nv12_and_i420_of_the_same_content_are_the_same() {
    let photograph = Rgb::open(&data("chelsea.png")).cut((0, 0), 449, 299);
    for mode in [ViewMode::Model, ViewMode::Squash, ViewMode::Pad, ViewMode::Tiles] {
        let colour = (Matrix::Bt709, Range::Limited);
        let planar = Yuv::of(&photograph, PixelFormat::I420, colour, 3).picture();
        let interleaved = Yuv::of(&photograph, PixelFormat::Nv12, colour, 11).picture();
        let found = tensor(STARTER, &interleaved, view(mode), 0);
        assert_eq!(found, tensor(STARTER, &planar, view(mode), 0), "{mode:?}");
    }
}
