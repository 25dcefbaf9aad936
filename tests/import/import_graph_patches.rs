//! The first layer of an image tower is written as a matrix product over patches; what it computes is the convolution it stands for.

use vtagd::infer::runtime;
use vtagd::infer::single_input::{InputValues, SingleInputSession};
use vtagd::model::import::synthetic::Synthetic;
use vtagd::model::import::{Architecture, TensorStore, Transformer};
use vtagd::model::onnx::vision_graph::{self, Part};
use vtagd::model::onnx::{Precision, file};

/// A tower without class token and norm in front, so that its stem is convolution and positions.
fn tower(image_size: usize, patch: usize, bias: bool) -> (Architecture, Synthetic) {
    let (mut arch, _) = Synthetic::new("siglip-b-16-224").unwrap();
    let body = Transformer { width: 12, layers: 1, heads: 2, mlp: 24, ..arch.vision.body.clone() };
    arch.vision = vtagd::model::import::VisionTower { body, image_size, patch, patch_bias: bias, ..arch.vision };
    let store = Synthetic::of(&arch, 7);
    (arch, store)
}

/// The textbook's loops.
fn convolved(arch: &Architecture, store: &dyn TensorStore, pixels: &[f32], count: usize) -> Vec<f32> {
    let (size, patch, width) = (arch.vision.image_size, arch.vision.patch, arch.vision.body.width);
    let weight = store.read("vision.patch.weight").unwrap();
    let bias = if arch.vision.patch_bias { store.read("vision.patch.bias").unwrap() } else { vec![0.0; width] };
    let position = store.read("vision.position").unwrap();
    let side = size / patch;
    let mut out = Vec::new();
    for picture in 0..count {
        for token in 0..side * side {
            let (top, left) = (token / side * patch, token % side * patch);
            for to in 0..width {
                let mut sum = f64::from(bias[to] + position[token * width + to]);
                for channel in 0..3 {
                    for y in 0..patch {
                        for x in 0..patch {
                            let w = weight[((to * 3 + channel) * patch + y) * patch + x];
                            let pixel = pixels[((picture * 3 + channel) * size + top + y) * size + left + x];
                            sum += f64::from(w) * f64::from(pixel);
                        }
                    }
                }
                out.push(sum as f32);
            }
        }
    }
    out
}

#[test]
fn patches_are_convolved_and_what_fills_no_patch_is_left_out() {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    for (size, patch, bias) in [(24, 8, true), (24, 8, false), (23, 7, true), (15, 7, false)] {
        let (arch, store) = tower(size, patch, bias);
        let pixels: Vec<f32> = (0..2 * 3 * size * size).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
        let wanted = convolved(&arch, &store, &pixels, 2);
        for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Int8, 0.05), (Precision::Fp16, 1e-2)] {
            let model = file::to_bytes(&vision_graph::part(&arch, Part::Stem, precision), &store).unwrap();
            let mut session = SingleInputSession::from_bytes(&runtime, &model, 1).unwrap();
            let got = session.run(&[2, 3, size, size], InputValues::Floats(&pixels)).unwrap();
            assert_eq!(got.len(), wanted.len(), "{size} by {patch} in {precision}");
            let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{size} by {patch} in {precision}: off by {worst}");
        }
    }
}
