//! Still pictures give the numbers of the reference: Pillow's resize with Transformers' sizes and crops.
//!
//! `tests/data/preprocess/make_goldens.py` made the goldens. A JPEG may decode a level differently from Pillow's decoder, so its
//! tolerance is the product's promise (2 levels, 0.3 on average); pictures without loss are held to less.

use crate::preprocess_support::*;
use vtagd::frame::{Matrix, Picture, PixelFormat, Range};
use vtagd::preprocess::{Region, View, ViewMode};

const BICUBIC_256_224: &str = r#""size": {"shortest_edge": 256}, "crop_size": 224"#;

fn compare(what: &str, tensor: &[f32], golden: &str, most: f64, on_average: f64) {
    let (largest, mean) = difference(tensor, &Rgb::open(&data(golden)));
    println!("{what}: largest {largest}, mean {mean:.5}");
    assert!(largest <= most, "{what}: differs by {largest} levels");
    assert!(mean <= on_average, "{what}: differs by {mean} levels on average");
}

#[test]
fn photographs_match_the_reference_within_two_levels() {
    for name in ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"] {
        let Some(photograph) = photograph(name) else { continue };
        let found = tensor(&raw(BICUBIC_256_224), &photograph.picture(), view(ViewMode::Model), 0);
        let (most, on_average) = if name.ends_with("jpg") { (2.0, 0.3) } else { (1.0, 0.02) };
        compare(name, &found, &format!("{}-256-224.golden.png", &name[..name.len() - 4]), most, on_average);
    }
}

#[test]
fn the_sizes_of_clip_and_siglip_match_too() {
    let picture = Rgb::open(&data("chelsea.png")).picture();
    let clip = tensor(&raw(r#""size": 224, "crop_size": 224"#), &picture, view(ViewMode::Model), 0);
    compare("clip", &clip, "chelsea-224-224.golden.png", 1.0, 0.02);
    let siglip = raw(r#""image_processor_type": "SiglipImageProcessor""#);
    compare("siglip", &tensor(&siglip, &picture, view(ViewMode::Model), 0), "chelsea-squash.golden.png", 1.0, 0.02);
}

#[test]
fn every_filter_matches_on_noise_up_and_down() {
    let noise = Rgb::open(&data("noise.png")).picture();
    for (number, name) in ["nearest", "lanczos", "bilinear", "bicubic"].into_iter().enumerate() {
        for (direction, height, width) in [("down", 40, 24), ("up", 70, 130)] {
            let size = format!(r#""size": {{"height": {height}, "width": {width}}}, "resample": {number}"#);
            let spec = raw(&format!(r#"{size}, "do_center_crop": false"#));
            let found = tensor(&spec, &noise, view(ViewMode::Model), 0);
            compare(&format!("{direction} {name}"), &found, &format!("noise-{direction}-{name}.golden.png"), 1.0, 0.1);
        }
    }
}

#[test]
fn an_odd_crop_of_noise_starts_at_transformers_pixel() {
    let noise = Rgb::open(&data("noise.png")).picture();
    let found = tensor(&raw(r#""size": 50, "crop_size": 33"#), &noise, view(ViewMode::Model), 0);
    compare("50 to 33", &found, "noise-50-33.golden.png", 1.0, 0.1);
}

#[test]
fn grey_pictures_match_and_repeat_in_all_channels() {
    let grey = image::open(data("grey.png")).unwrap().into_luma8();
    let size = (grey.width(), grey.height());
    let strides = [grey.width() as usize, 0, 0];
    let store = Box::new(vec![grey.into_raw()]);
    let picture = Picture::new(PixelFormat::Gray8, size, strides, (Matrix::Bt601, Range::Full), store).unwrap();
    let spec = raw(r#""size": {"height": 40, "width": 24}, "do_center_crop": false"#);
    let found = tensor(&spec, &picture, view(ViewMode::Model), 0);
    assert_eq!(found[..40 * 24], found[40 * 24..2 * 40 * 24]);
    compare("grey", &found, "grey-down-bicubic.golden.png", 1.0, 0.1);
}

#[test]
fn a_region_is_the_same_as_a_picture_cut_beforehand() {
    let photograph = Rgb::open(&data("chelsea.png"));
    let region = Region { x: 101.0 / 451.0, y: 33.0 / 300.0, w: 251.0 / 451.0, h: 177.0 / 300.0 };
    let cut = photograph.cut((101, 33), 251, 177).picture();
    for mode in [ViewMode::Model, ViewMode::Squash, ViewMode::Pad, ViewMode::Tiles] {
        let found = tensor(STARTER, &photograph.picture(), View { mode, region }, 0);
        assert_eq!(found, tensor(STARTER, &cut, view(mode), 0), "{mode:?}");
    }
}

#[test]
fn two_tiles_are_the_two_squares_resized() {
    let photograph = Rgb::open(&data("chelsea.png"));
    for (tile, left) in [(0, 0), (1, 151)] {
        let square = photograph.cut((left, 0), 300, 300).picture();
        let found = tensor(STARTER, &photograph.picture(), view(ViewMode::Tiles), tile);
        assert_eq!(found, tensor(STARTER, &square, view(ViewMode::Squash), 0), "tile {tile}");
    }
}

#[test]
fn padding_is_zero_after_normalisation_and_the_whole_picture_is_there() {
    let photograph = Rgb::open(&data("chelsea.png"));
    let found = tensor(STARTER, &photograph.picture(), view(ViewMode::Pad), 0);
    // 451x300 becomes 224x149, with 37 rows above.
    let whole = STARTER.replacen("\"size\"", "\"ignored\"", 1).replacen(
        "\"crop_size\": {\"height\": 224, \"width\": 224}",
        "\"do_center_crop\": false, \"size\": {\"height\": 149, \"width\": 224}",
        1,
    );
    let inner = tensor(&whole, &photograph.picture(), view(ViewMode::Model), 0);
    for channel in 0..3 {
        let plane = &found[channel * 224 * 224..][..224 * 224];
        assert!(plane[..37 * 224].iter().chain(&plane[(37 + 149) * 224..]).all(|&value| value == 0.0));
        assert_eq!(plane[37 * 224..(37 + 149) * 224], inner[channel * 149 * 224..][..149 * 224]);
    }
}

#[test]
fn a_picture_smaller_than_the_crop_stands_on_black() {
    let picture = Picture::from_rgb(2, 2, vec![200; 12]).unwrap();
    let spec = r#"{"do_resize": false, "crop_size": 5}"#;
    let found = tensor(spec, &picture, view(ViewMode::Model), 0);
    let level = |value: f32, channel: usize| {
        let (mean, std) = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);
        ((f64::from(value) * std[channel] + mean[channel]) * 255.0).round() as u8
    };
    // The odd pixel is behind the picture (`TorchvisionBackend.center_crop` in Transformers 5).
    for (at, &value) in found.iter().enumerate() {
        let (x, y) = (at % 5, at % 25 / 5);
        // The odd pixel of the border is on the right and below, as Transformers 5 has it.
        let inside = (1..3).contains(&x) && (1..3).contains(&y);
        assert_eq!(level(value, at / 25), if inside { 200 } else { 0 }, "({x}, {y})");
    }
}
