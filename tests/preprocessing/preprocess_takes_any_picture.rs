//! Properties: whatever the picture, the view and the model's size, every float is written and nothing panics.

use std::sync::Arc;

use proptest::prelude::*;
use vtagd::frame::{Matrix, Picture, PixelFormat, Range};
use vtagd::preprocess::{MAX_TILES, PreprocessError, Preprocessor, Region, Spec, View, ViewMode, tiles};

fn formats() -> impl Strategy<Value = PixelFormat> {
    use PixelFormat::*;
    prop::sample::select(vec![I420, Y42b, Y444, Nv12, Rgb, Gray8])
}

fn colours() -> impl Strategy<Value = (Matrix, Range)> {
    let matrix = prop::sample::select(vec![Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020]);
    (matrix, prop::sample::select(vec![Range::Limited, Range::Full]))
}

fn views() -> impl Strategy<Value = View> {
    let mode = prop::sample::select(vec![ViewMode::Model, ViewMode::Squash, ViewMode::Pad, ViewMode::Tiles]);
    let region = (0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0).prop_map(|(x, y, w, h)| Region {
        x,
        y,
        w: (1.0 - x) * w,
        h: (1.0 - y) * h,
    });
    (mode, prop_oneof![Just(Region::FULL), region]).prop_map(|(mode, region)| View { mode, region })
}

fn specs() -> impl Strategy<Value = String> {
    let resize = prop_oneof![
        (1u32..40, 1u32..40).prop_map(|(h, w)| format!(r#""size": {{"height": {h}, "width": {w}}}"#)),
        (1u32..40).prop_map(|side| format!(r#""size": {{"shortest_edge": {side}}}"#)),
        Just(r#""do_resize": false"#.to_owned()),
    ];
    (resize, 1u32..40, 1u32..40, 0..4)
        .prop_map(|(resize, h, w, filter)| format!(r#"{{{resize}, "crop_size": [{h}, {w}], "resample": {filter}}}"#))
}

/// A picture whose bytes come from `byte(plane, index)`.
fn picture(
    format: PixelFormat,
    (width, height): (u32, u32),
    padding: usize,
    colour: (Matrix, Range),
    byte: impl Fn(usize, usize) -> u8,
) -> Picture {
    let mut strides = [0; 3];
    let planes: Vec<Vec<u8>> = (0..format.planes())
        .map(|plane| {
            let (row, rows) = format.plane_size(plane, width, height);
            strides[plane] = row + padding;
            // The last row without its padding: the shortest plane there may be.
            (0..strides[plane] * (rows - 1) + row).map(|at| byte(plane, at)).collect()
        })
        .collect();
    Picture::new(format, (width, height), strides, colour, Box::new(planes)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_float_of_every_tile_is_written(
        format in formats(), width in 1u32..200, height in 1u32..200, padding in 0usize..9, colour in colours(),
        view in views(), spec in specs(), seed: u8,
    ) {
        let rubbish = |plane: usize, at: usize| (at.wrapping_mul(31) ^ plane.wrapping_mul(77)) as u8 ^ seed;
        let picture = picture(format, (width, height), padding, colour, rubbish);
        let spec = Arc::new(Spec::from_json(&spec).unwrap());
        let mut preprocessor = Preprocessor::new(Arc::clone(&spec));
        let mut out = vec![0.0; spec.place_len()];
        let count = tiles(view, width, height);
        prop_assert!((1..=MAX_TILES).contains(&count));
        for tile in 0..count {
            out.fill(f32::NAN);
            preprocessor.run(&picture, view, tile, &mut out).unwrap();
            prop_assert!(out.iter().all(|value| value.is_finite()));
        }
        let beyond = preprocessor.run(&picture, view, count, &mut out);
        let refused = matches!(beyond, Err(PreprocessError::Tile { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn a_picture_of_one_colour_gives_one_colour(
        format in formats(), width in 1u32..200, height in 1u32..200, padding in 0usize..9, colour in colours(),
        view in views(), side in 1u32..40, filter in 0..4, samples: [u8; 3],
    ) {
        // No crop and no pad: the picture fills the tensor.
        let view = if view.mode == ViewMode::Pad { View { mode: ViewMode::Squash, ..view } } else { view };
        let byte = |plane: usize, at: usize| match (format, plane) {
            (PixelFormat::Rgb, _) => samples[at % (width as usize * 3 + padding) % 3],
            (PixelFormat::Nv12, 1) => samples[1 + at % (width.div_ceil(2) as usize * 2 + padding) % 2],
            _ => samples[plane],
        };
        let picture = picture(format, (width, height), padding, colour, byte);
        let text = format!(r#"{{"size": {{"height": {side}, "width": {side}}}, "do_center_crop": false, "resample": {filter},
            "do_rescale": false, "do_normalize": false}}"#);
        let spec = Arc::new(Spec::from_json(&text).unwrap());
        let mut out = vec![f32::NAN; spec.place_len()];
        Preprocessor::new(spec).run(&picture, view, 0, &mut out).unwrap();
        for channel in out.chunks((side * side) as usize) {
            prop_assert!(channel.iter().all(|&value| value == channel[0]), "{channel:?}");
        }
        if format == PixelFormat::Rgb {
            let found: Vec<f32> = out.chunks((side * side) as usize).map(|channel| channel[0]).collect();
            prop_assert_eq!(found, samples.map(f32::from).to_vec());
        }
    }

    #[test]
    fn a_preprocessor_remembers_nothing(
        first in formats(), second in formats(), width in 1u32..90, height in 1u32..90, colour in colours(), view in views(),
    ) {
        let one = picture(first, (height, width), 0, colour, |plane, at| (at * 7 + plane) as u8);
        let two = picture(second, (width, height), 0, colour, |plane, at| (at * 13 + plane * 5) as u8);
        let spec = Arc::new(Spec::from_json(r#"{"size": 20, "crop_size": 16}"#).unwrap());
        let mut used = Preprocessor::new(Arc::clone(&spec));
        let [mut after, mut fresh] = [(); 2].map(|()| vec![f32::NAN; spec.place_len()]);
        used.run(&one, view, 0, &mut after).unwrap();
        used.run(&two, view, 0, &mut after).unwrap();
        Preprocessor::new(spec).run(&two, view, 0, &mut fresh).unwrap();
        prop_assert_eq!(after, fresh);
    }

    #[test]
    fn any_text_is_a_specification_or_an_error(text in ".{0,200}") {
        let _ = Spec::from_json(&text);
    }

    #[test]
    fn any_numbers_are_a_specification_or_an_error(size: i64, crop: f64, mean: f64, std: f64, factor: f64, resample: i32) {
        let value = serde_json::json!({"size": size, "crop_size": crop, "image_mean": mean, "image_std": std,
            "rescale_factor": factor, "resample": resample});
        if let Ok(spec) = Spec::from_json(&value.to_string()) {
            let (scale, bias) = spec.affine();
            prop_assert!(scale.iter().chain(&bias).chain(&spec.fill()).all(|value| value.is_finite()));
        }
    }
}

#[test]
fn the_largest_pictures_there_may_be_are_taken() {
    let spec = Arc::new(Spec::from_json(r#"{"size": {"shortest_edge": 4096}, "crop_size": 64}"#).unwrap());
    let mut preprocessor = Preprocessor::new(Arc::clone(&spec));
    let mut out = vec![0.0; spec.place_len()];
    for size in [(Picture::MAX_SIDE, 1), (1, Picture::MAX_SIDE), (Picture::MAX_SIDE, 3), (5, Picture::MAX_SIDE)] {
        for format in [PixelFormat::I420, PixelFormat::Rgb] {
            let picture = picture(format, size, 0, (Matrix::Bt601, Range::Full), |_, _| 128);
            for mode in [ViewMode::Model, ViewMode::Squash, ViewMode::Pad, ViewMode::Tiles] {
                let view = View { mode, region: Region::FULL };
                out.fill(f32::NAN);
                preprocessor.run(&picture, view, tiles(view, size.0, size.1) - 1, &mut out).unwrap();
                assert!(out.iter().all(|value| value.is_finite()), "{size:?} {format:?} {mode:?}");
            }
        }
    }
}

#[test]
fn a_place_of_the_wrong_length_is_refused() {
    let spec = Arc::new(Spec::from_json("{}").unwrap());
    let picture = Picture::from_rgb(1, 1, vec![1, 2, 3]).unwrap();
    let error = Preprocessor::new(spec).run(&picture, View::default(), 0, &mut [0.0; 7]).unwrap_err();
    assert!(matches!(error, PreprocessError::Place { found: 7, expected: 150_528 }) && error.is_fatal());
}

#[test]
fn planes_that_shrink_after_the_check_are_an_error() {
    struct Shrinking(std::sync::atomic::AtomicUsize);
    impl vtagd::frame::PlaneStore for Shrinking {
        fn plane(&self, _: usize) -> &[u8] {
            let calls = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if calls == 0 { &[0; 64] } else { &[0; 10] }
        }
    }
    let store = Box::new(Shrinking(0.into()));
    let colour = (Matrix::Bt601, Range::Full);
    let picture = Picture::new(PixelFormat::Gray8, (8, 8), [8, 0, 0], colour, store).unwrap();
    let spec = Arc::new(Spec::from_json("{}").unwrap());
    let mut out = vec![0.0; spec.place_len()];
    let error = Preprocessor::new(spec).run(&picture, View::default(), 0, &mut out).unwrap_err();
    assert!(matches!(error, PreprocessError::Planes));
}
