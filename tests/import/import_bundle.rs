//! Importing writes whole bundles or nothing, and what it writes does not depend on how it is stored or run.

use std::fs;
use std::path::Path;

use crate::import_support::{Checkpoint, cosine, image_embeds, session};
use vtagd::infer::runtime;
use vtagd::model::Activation;
use vtagd::model::Bundle;
use vtagd::model::import::synthetic::Synthetic;
use vtagd::model::import::write_bundle::{self, ImportOptions, ImportProgress, ImportSource};
use vtagd::model::import::{
    Act, Architecture, ImportError, LayerKind, Projection, Rotary, TensorInfo, TensorStore, TextPooling, TextTower,
    Transformer, VisionPooling, VisionTower,
};
use vtagd::model::onnx::{Precision, file, vision_graph};
use vtagd::model::probe_picture::probe_picture;

fn source(checkpoint: &Checkpoint) -> ImportSource<'_> {
    let read = |name: &str| fs::read(checkpoint.dir.join(name)).unwrap();
    ImportSource {
        name: "tiny".into(),
        from: checkpoint.dir.display().to_string(),
        architecture: &checkpoint.architecture,
        tensors: checkpoint,
        tokenizer: ["tokenizer.json", "tokenizer_config.json"].map(|n| (n.to_owned(), read(n))).into(),
        preprocessor: serde_json::from_slice(&read("preprocessor_config.json")).unwrap(),
        pad_id: (checkpoint.architecture.activation == Activation::Sigmoid).then_some(0),
    }
}

fn quiet(_: ImportProgress) -> Result<(), ImportError> {
    Ok(())
}

/// Everything in `dir`, hidden files included.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_imported_bundle_opens_and_knows_what_was_measured() {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let dir = tempfile::tempdir().unwrap();
    for (folder, precision) in [("hf-clip-quickgelu", Precision::Int8), ("siglip", Precision::Fp32)] {
        let checkpoint = crate::import_support::open(folder);
        let out = dir.path().join("models").join(folder);
        let manifest =
            write_bundle::run(&source(&checkpoint), &out, ImportOptions::new(precision), Some(&runtime), &mut quiet)
                .unwrap();
        let bundle = Bundle::open_with_cache(&out, None).unwrap();
        assert_eq!(bundle.name, "tiny");
        assert_eq!(bundle.logit_parameters.scale, checkpoint.architecture.logit_scale);
        assert_eq!(bundle.logit_parameters.activation, checkpoint.architecture.activation);
        assert_eq!(bundle.text_spec.pad_to, Some(checkpoint.architecture.text.context));
        assert_eq!(bundle.fingerprint, manifest.fingerprint);
        assert_eq!(names(&dir.path().join("models")).len(), 1, "nothing else is left");
        fs::remove_dir_all(dir.path().join("models")).unwrap();

        let m = &manifest.measured[precision.as_str()];
        // Room for neighbours in 16-bit sums costs the tiny towers a little.
        assert!(m.images_per_second > 0.0 && m.bytes > 0 && m.cosine > 0.998, "{m:?}");
        assert!(manifest.measured["fp32"].cosine > 0.999_999);
        let size = checkpoint.architecture.vision.image_size;
        let file_ = dir.path().join(folder);
        file::write(
            &vision_graph::graph(&checkpoint.architecture, Precision::Fp32),
            &checkpoint,
            &file_,
            file::INLINE_LIMIT,
            &mut |_| Ok(()),
        )
        .unwrap();
        let probe = manifest.probe.unwrap();
        let whole = image_embeds(&mut session(&file_), &probe_picture(size, probe.seed), size);
        let cosine = cosine(&whole, &probe.embedding);
        assert!(cosine > 0.999_99, "the tower in parts gives what the whole gives: {cosine}");
    }
}

#[test]
fn the_same_checkpoint_gives_the_same_fingerprint_whatever_was_measured() {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = crate::import_support::open("hf-clip-quickgelu");
    let import = |name: &str, precision, runtime| {
        let out = dir.path().join(name);
        write_bundle::run(&source(&checkpoint), &out, ImportOptions::new(precision), runtime, &mut quiet)
            .unwrap()
            .fingerprint
    };
    let first = import("a", Precision::Fp32, Some(&runtime));
    assert_eq!(first, import("b", Precision::Fp32, None));
    assert_ne!(first, import("c", Precision::Int8, None));
}

#[test]
fn weights_in_a_file_of_their_own_give_the_same_embeddings() {
    let checkpoint = crate::import_support::open("hf-clip-gelu-h14");
    let (dir, size) = (tempfile::tempdir().unwrap(), checkpoint.architecture.vision.image_size);
    let pixels = probe_picture(size, 3);
    let mut found = Vec::new();
    for (name, limit) in [("inside.onnx", file::INLINE_LIMIT), ("outside.onnx", 1000)] {
        let path = dir.path().join(name);
        let graph = vision_graph::graph(&checkpoint.architecture, Precision::Fp32);
        let bytes = file::write(&graph, &checkpoint, &path, limit, &mut |_| Ok(())).unwrap();
        let data = fs::metadata(dir.path().join(format!("{name}_data"))).map_or(0, |m| m.len());
        assert_eq!(data > 0, limit == 1000);
        assert_eq!(bytes, data + fs::metadata(&path).unwrap().len());
        found.push(image_embeds(&mut session(&path), &pixels, size));
    }
    assert_eq!(found[0], found[1]);
}

#[test]
fn an_8_bit_embedding_does_not_depend_on_its_batch() {
    for folder in ["hf-clip-quickgelu", "hf-clip-gelu-h14", "siglip"] {
        let checkpoint = crate::import_support::open(folder);
        let (dir, size) = (tempfile::tempdir().unwrap(), checkpoint.architecture.vision.image_size);
        let path = dir.path().join("v.onnx");
        let graph = vision_graph::graph(&checkpoint.architecture, Precision::Int8);
        file::write(&graph, &checkpoint, &path, file::INLINE_LIMIT, &mut |_| Ok(())).unwrap();
        let mut session = session(&path);
        // One quiet picture among ever louder ones: a range over the whole batch would leave it a few steps.
        let loud = |index: u64| probe_picture(size, index).into_iter().map(move |v| v * (0.1 + 5.0 * index as f32));
        let pixels: Vec<f32> = (0..8).flat_map(loud).collect();
        let together = image_embeds(&mut session, &pixels, size);
        let dim = checkpoint.architecture.embed_dim;
        for (index, row) in together.chunks(dim).enumerate() {
            let alone = image_embeds(&mut session, &pixels[index * 3 * size * size..][..3 * size * size], size);
            let cosine = cosine(row, &alone);
            assert!(cosine >= 0.999_99, "{folder} picture {index}: {cosine}");
        }
    }
}

#[test]
fn an_import_that_ends_early_leaves_nothing() {
    let checkpoint = crate::import_support::open("hf-clip-quickgelu");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let mut steps = 0;
    let mut stop = |_: ImportProgress| {
        steps += 1;
        if steps > 20 { Err(ImportError::Stopped) } else { Ok(()) }
    };
    let error = write_bundle::run(&source(&checkpoint), &out, ImportOptions::new(Precision::Fp32), None, &mut stop)
        .unwrap_err();
    assert!(matches!(error, ImportError::Stopped));
    assert_eq!(names(dir.path()), Vec::<String>::new());

    struct Cut<'a>(&'a Checkpoint);
    impl TensorStore for Cut<'_> {
        fn infos(&self) -> Vec<TensorInfo> {
            self.0.infos()
        }
        fn read(&self, name: &str) -> Result<Vec<f32>, ImportError> {
            let mut values = self.0.read(name)?;
            if name.contains("layers.1") {
                values.pop();
            }
            Ok(values)
        }
    }
    let cut = Cut(&checkpoint);
    let source = ImportSource { tensors: &cut, ..source(&checkpoint) };
    for precision in Precision::ALL {
        let error = write_bundle::run(&source, &out, ImportOptions::new(precision), None, &mut quiet).unwrap_err();
        assert!(error.to_string().contains("vision.layers.1.norm1.weight"), "{error}");
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}

#[test]
fn a_place_that_is_taken_or_cannot_be_written_is_told_and_left_as_it_is() {
    let checkpoint = crate::import_support::open("hf-clip-quickgelu");
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("mine.txt"), "mine").unwrap();
    let import = |out: &Path| {
        write_bundle::run(&source(&checkpoint), out, ImportOptions::new(Precision::Fp32), None, &mut quiet)
    };
    assert!(matches!(import(&taken), Err(ImportError::Exists { .. })));
    assert!(matches!(import(&taken.join("mine.txt")), Err(ImportError::Exists { .. })));
    let error = import(&taken.join("mine.txt/model")).unwrap_err();
    assert!(matches!(error, ImportError::Disk { .. }), "{error:?}");
    assert!(error.to_string().contains("choose another --out"), "{error}");
    assert_eq!(fs::read_to_string(taken.join("mine.txt")).unwrap(), "mine");

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    import(&empty).unwrap();
    assert!(empty.join("vision_model.onnx").is_file(), "an empty folder is filled");
}

/// Widths and depths that no published model has.
#[test]
fn odd_architectures_run_in_every_precision() {
    let act = |index| [Act::Gelu, Act::GeluTanh, Act::QuickGelu][index % 3];
    for index in 0..6 {
        let (heads, size) = ([1, 2, 3, 4, 5, 6][index], [16, 24, 8, 20, 12, 10][index]);
        // Every second text tower is one of BERT's kind, and what is odd of image towers comes in turns.
        let plain = LayerKind::PLAIN;
        let kind = LayerKind { gated: index % 3 == 1, inner_norms: index % 3 != 0, key_bias: index % 2 == 0, ..plain };
        let rotary = Rotary { reference: 3, offset: index as f32 / 5.0, column_first: index == 1 };
        let kind = LayerKind { rotary: (size % 4 == 0).then_some(rotary), ..kind };
        let text_kind = LayerKind { post_norm: index % 2 == 1, ..plain };
        let body = |layers, kind| Transformer {
            width: heads * size,
            layers,
            heads,
            mlp: 50,
            eps: 1e-5,
            act: act(index),
            kind,
        };
        let (patch, image_size) = ([4, 7, 5, 8, 3, 6][index], [16, 21, 25, 17, 20, 30][index]);
        let class_token = index % 2 == 0;
        let pooling =
            if class_token { VisionPooling::ClassToken } else { VisionPooling::AttentionHead { heads, mlp: 40 } };
        let pooling_of_text = [TextPooling::ArgmaxId, TextPooling::FirstId(3), TextPooling::Last][index % 3];
        let arch = Architecture {
            vision: VisionTower {
                body: body(1 + index % 3, kind),
                image_size,
                patch,
                class_token,
                pre_norm: index % 3 == 0,
                patch_bias: !class_token,
                pooling,
                projection: if class_token { Projection::Linear { bias: index == 2 } } else { Projection::None },
            },
            text: TextTower {
                body: body(2, text_kind),
                vocab: 20,
                context: 9,
                causal: index < 3,
                padding: (index % 2 == 1).then_some(3),
                pooling: pooling_of_text,
                projection_bias: !class_token,
            },
            embed_dim: if class_token { 13 } else { heads * size },
            logit_scale: 10.0,
            logit_bias: 0.0,
            activation: Activation::Softmax,
        };
        let store = Synthetic::of(&arch, index as u64);
        let dir = tempfile::tempdir().unwrap();
        let mut reference = Vec::new();
        for precision in Precision::ALL {
            let (v, t) = (dir.path().join(format!("v{precision}")), dir.path().join(format!("t{precision}")));
            file::write(&vision_graph::graph(&arch, precision), &store, &v, file::INLINE_LIMIT, &mut |_| Ok(()))
                .unwrap();
            let text = vtagd::model::onnx::text_graph::graph(&arch, precision);
            file::write(&text, &store, &t, file::INLINE_LIMIT, &mut |_| Ok(())).unwrap();
            let mut ours = image_embeds(&mut session(&v), &probe_picture(image_size, 5), image_size);
            let ids: Vec<i64> = (0..9).map(|i| (i * 7 + 3) % 20).collect();
            ours.extend(crate::import_support::text_embeds(&mut session(&t), &ids, 9));
            if precision == Precision::Fp32 {
                reference.clone_from(&ours);
            }
            let cosine = cosine(&ours, &reference) / 2.0;
            assert!(cosine > 0.98, "architecture {index} {precision}: {cosine}");
        }
    }
}
