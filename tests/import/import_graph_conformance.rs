//! Graphs written from tiny checkpoints give the embeddings of the reference implementations, in every precision.

use crate::import_support::{Checkpoint, cosine, image_embeds, session, text_embeds};
use vtagd::model::onnx::{Precision, file, text_graph, vision_graph};

const FOLDERS: [&str; 3] = ["hf-clip-gelu-h14", "hf-clip-quickgelu", "siglip"];

/// Least cosine of the one image with its reference, and of all texts with theirs.
fn agreement(checkpoint: &Checkpoint, precision: Precision) -> (f32, f32) {
    let expected = checkpoint.expected();
    let dir = tempfile::tempdir().unwrap();
    let (v, t) = (dir.path().join("v.onnx"), dir.path().join("t.onnx"));
    let arch = &checkpoint.architecture;
    file::write(&vision_graph::graph(arch, precision), checkpoint, &v, file::INLINE_LIMIT, &mut |_| Ok(())).unwrap();
    file::write(&text_graph::graph(arch, precision), checkpoint, &t, file::INLINE_LIMIT, &mut |_| Ok(())).unwrap();

    let dim = arch.embed_dim;
    let ours = image_embeds(&mut session(&v), &expected.pixel_values, arch.vision.image_size);
    // The reference keeps the pixels of its second picture only.
    let image = cosine(&ours, &expected.image_embeds[dim..2 * dim]);
    let ours = text_embeds(&mut session(&t), &expected.input_ids, arch.text.context);
    let texts = ours.chunks(dim).zip(expected.text_embeds.chunks(dim)).map(|(a, b)| cosine(a, b));
    (image, texts.fold(1.0, f32::min))
}

#[test]
fn full_precision_is_the_reference_to_five_nines() {
    for folder in FOLDERS {
        let (image, texts) = agreement(&crate::import_support::open(folder), Precision::Fp32);
        println!("{folder} fp32: image {image} texts {texts}");
        assert!(image >= 0.99999 && texts >= 0.99999, "{folder}: image {image} texts {texts}");
    }
}

#[test]
fn smaller_precisions_stay_near_the_reference() {
    for folder in FOLDERS {
        let checkpoint = crate::import_support::open(folder);
        for (precision, least) in [(Precision::Fp16, 0.9999), (Precision::Int8, 0.995), (Precision::Int4, 0.97)] {
            let (image, texts) = agreement(&checkpoint, precision);
            println!("{folder} {precision}: image {image} texts {texts}");
            assert!(image >= least && texts >= least, "{folder} {precision}: image {image} texts {texts}");
        }
    }
}
