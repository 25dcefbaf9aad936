//! Image towers in the forms that exports have: fixed batch, half precision, dynamic quantisation, no embedding.

use std::path::Path;
use std::time::Duration;

use vtagd::infer::session::OrtImageEncoder;
use vtagd::infer::{ImageEncoder, InferError, InferSettings, Provider, runtime};
use vtagd::model::{self, Bundle};

const PICTURE: usize = 3 * 8 * 8;

fn settings(providers: &[Provider], strict: bool) -> InferSettings {
    InferSettings {
        providers: providers.iter().map(|provider| (*provider).into()).collect(),
        strict,
        threads: 1,
        max_delay: Duration::ZERO,
        ..InferSettings::default()
    }
}

fn bundle(tower: &Path) -> Bundle {
    let starter = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    Bundle { vision: tower.to_owned(), ..Bundle::open_with_cache(&starter, None).unwrap() }
}

fn open_with(tower: &Path, settings: &InferSettings, size: (usize, usize)) -> Result<OrtImageEncoder, InferError> {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    OrtImageEncoder::open(&runtime, &bundle(tower), settings, size)
}

fn open(name: &str) -> Result<OrtImageEncoder, InferError> {
    let tower = Path::new("tests/conformance/towers").join(name).with_extension("onnx");
    open_with(&tower, &settings(&[Provider::Cpu], false), (8, 8))
}

/// `count` pictures, the first quiet, the others louder and louder.
fn pictures(count: usize) -> Vec<f32> {
    let pixel = |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0) * (1 + 40 * (i / PICTURE)) as f32;
    (0..count * PICTURE).map(pixel).collect()
}

fn encode(encoder: &mut OrtImageEncoder, count: usize) -> Vec<f32> {
    let mut out = vec![9.0; 3];
    encoder.encode(&pictures(count), count, &mut out).unwrap();
    assert_eq!(out.len(), count * encoder.dim());
    out
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn a_fixed_batch_is_filled_up_and_gives_the_same_as_a_free_one() {
    let (mut free, mut fixed) = (open("plain").unwrap(), open("fixed_batch").unwrap());
    for count in 1..=5 {
        let (a, b) = (encode(&mut free, count), encode(&mut fixed, count));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{count} pictures: {a:?} {b:?}");
        assert!(a.chunks(4).all(|row| (cosine(row, row) - 1.0).abs() < 1e-5), "rows are L2-normalised");
    }
    fixed.warm_up(8).unwrap();
}

#[test]
fn a_half_precision_tower_agrees_with_the_full_one() {
    let (mut full, mut half) = (open("plain").unwrap(), open("half").unwrap());
    let (a, b) = (encode(&mut full, 3), encode(&mut half, 3));
    for (a, b) in a.chunks(4).zip(b.chunks(4)) {
        assert!(cosine(a, b) > 0.9999, "{a:?} {b:?}");
    }
}

#[test]
fn a_dynamically_quantised_tower_is_run_one_by_one_after_warm_up() {
    let mut encoder = open("dynamic_quant").unwrap();
    let alone = encode(&mut encoder, 1);
    assert!(cosine(&alone, &encode(&mut encoder, 4)) < 0.9999, "the fixture must show the effect");
    encoder.warm_up(4).unwrap();
    let cosine = cosine(&alone, &encode(&mut encoder, 4)[..4]);
    assert!(cosine > 0.999_999, "{cosine}");
}

#[test]
fn an_embedding_does_not_depend_on_what_else_is_in_its_batch() {
    let starter = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    let mut encoder =
        open_with(&starter.join("vision_model.onnx"), &settings(&[Provider::Cpu], true), (224, 224)).unwrap();
    encoder.warm_up(4).unwrap();
    let picture = 3 * 224 * 224;
    let pixels: Vec<f32> =
        (0..4 * picture).map(|i| ((i % 977) as f32 / 488.0 - 1.0) * (i / picture + 1) as f32 / 2.0).collect();
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    encoder.encode(&pixels, 4, &mut together).unwrap();
    for (index, row) in together.chunks(384).enumerate() {
        encoder.encode(&pixels[index * picture..][..picture], 1, &mut alone).unwrap();
        assert!(cosine(row, &alone) > 0.999_99, "picture {index}");
    }
}

/// Which sizes are fast depends on the machine; whatever is chosen, nobody can see it in the answers.
#[test]
fn a_batch_that_is_cut_into_chunks_gives_what_its_pictures_give_alone() {
    let mut encoder = open("plain").unwrap();
    encoder.warm_up(8).unwrap();
    assert!(encoder.chunk().is_none_or(|chunk| [1, 2, 4].contains(&chunk)), "{:?}", encoder.chunk());
    for count in 1..=9 {
        let together = encode(&mut encoder, count);
        let mut alone = Vec::new();
        for (index, row) in together.chunks(encoder.dim()).enumerate() {
            encoder.encode(&pictures(count)[index * PICTURE..], 1, &mut alone).unwrap();
            assert!(cosine(row, &alone) > 0.999_99, "picture {index} of {count}");
        }
    }
}

#[test]
fn a_run_that_goes_on_can_be_ended_from_another_thread_and_the_next_one_works() {
    let starter = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    let mut encoder =
        open_with(&starter.join("vision_model.onnx"), &settings(&[Provider::Cpu], true), (224, 224)).unwrap();
    let pixels: Vec<f32> = (0..16 * 3 * 224 * 224).map(|i| (i % 977) as f32 / 488.0 - 1.0).collect();
    let (mut right, mut embeddings) = (Vec::new(), Vec::new());
    encoder.encode(&pixels, 16, &mut right).unwrap();
    let stopper = encoder.stopper().expect("ONNX Runtime can end a run");
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    // Again and again, so that it does not matter when the run begins.
    let busybody = std::thread::spawn(move || {
        while ended.recv_timeout(Duration::from_millis(1)) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            stopper.stop();
        }
    });
    let failed = encoder.encode(&pixels, 16, &mut embeddings).unwrap_err();
    drop(end);
    busybody.join().unwrap();
    assert!(matches!(&failed, InferError::Run(message) if message.contains("terminate")), "{failed}");
    encoder.encode(&pixels, 16, &mut embeddings).unwrap();
    assert!(cosine(&embeddings, &right) > 0.999_99 * 16.0, "the answer is the right one again");
}

#[test]
fn pictures_behind_the_last_one_do_not_change_the_answer() {
    let mut encoder = open("plain").unwrap();
    let pixels = pictures(4);
    let (mut more, mut exact) = (Vec::new(), Vec::new());
    encoder.encode(&pixels, 3, &mut more).unwrap();
    encoder.encode(&pixels[..3 * PICTURE], 3, &mut exact).unwrap();
    assert_eq!(more, exact);
    assert!(encoder.encode(&pixels, 5, &mut more).is_err(), "four are not five");
}

#[test]
fn unsuitable_and_damaged_towers_are_told_by_file() {
    let error = open("no_embedding").err().unwrap().to_string();
    assert!(error.contains("no_embedding.onnx") && error.contains("last_hidden_state"), "{error}");

    let wrong = settings(&[Provider::Cpu], false);
    let error = open_with(Path::new("tests/conformance/towers/plain.onnx"), &wrong, (224, 224)).err().unwrap();
    assert!(error.to_string().contains("preprocessor_config.json makes 224x224"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.onnx");
    let whole = std::fs::read("tests/conformance/towers/plain.onnx").unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let error = open_with(&cut, &wrong, (8, 8)).err().unwrap();
    assert!(matches!(error, InferError::Model(_)));
    assert!(error.to_string().contains("cut.onnx is damaged or incomplete"), "{error}");

    let mut encoder = open("plain").unwrap();
    assert!(matches!(encoder.encode(&[0.0; 10], 1, &mut Vec::new()), Err(InferError::Run(_))));
    assert!(matches!(encoder.encode(&[0.0; PICTURE], 1, &mut Vec::new()), Err(InferError::Run(_))), "a zero embedding");
}

/// The CPU build has no CUDA; where a GPU build is installed there is nothing to fall through.
#[test]
fn a_provider_that_is_missing_falls_through_unless_strict() {
    let tower = Path::new("tests/conformance/towers/plain.onnx");
    let strict = open_with(tower, &settings(&[Provider::Cuda, Provider::Cpu], true), (8, 8));
    let Err(error) = strict else { return };
    assert!(matches!(error, InferError::Provider(_)));
    assert!(error.to_string().contains("cuda") && error.to_string().contains("runtime.strict"), "{error}");
    let encoder = open_with(tower, &settings(&[Provider::Cuda, Provider::Cpu], false), (8, 8)).unwrap();
    assert_eq!(encoder.provider(), Provider::Cpu);
}

#[test]
fn encoders_beside_each_other_give_at_once_what_each_gives_alone() {
    let starter = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    let bundle = Bundle::open_with_cache(&starter, None).unwrap();
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let size = (224, 224);
    let mut first = OrtImageEncoder::open(&runtime, &bundle, &settings(&[Provider::Cpu], true), size).unwrap();
    let len = 3 * size.0 * size.1;
    let pixels: Vec<f32> =
        (0..8 * len).map(|i| ((i * 7919 % 251) as f32 / 125.0 - 1.0) * (1 + i / len) as f32).collect();
    let alone: Vec<Vec<f32>> = (1..=8)
        .map(|count| {
            let mut out = Vec::new();
            first.encode(&pixels, count, &mut out).unwrap();
            out
        })
        .collect();
    let others: Vec<OrtImageEncoder> = (0..3).map(|_| first.beside().expect("the CPU shares its session")).collect();
    let told_to_end = others[0].stopper().unwrap();
    std::thread::scope(|scope| {
        for (at, mut encoder) in others.into_iter().chain([first]).enumerate() {
            let (pixels, alone) = (&pixels, &alone);
            scope.spawn(move || {
                let mut out = Vec::new();
                for round in 0..24 {
                    let count = 1 + (round + 3 * at) % 8;
                    match encoder.encode(pixels, count, &mut out) {
                        Ok(()) => assert_eq!(out, alone[count - 1], "encoder {at}, round {round}"),
                        // Ending one's run is nobody else's business.
                        Err(InferError::Run(_)) if at == 0 => {}
                        Err(error) => panic!("encoder {at}, round {round}: {error}"),
                    }
                }
            });
        }
        for _ in 0..20 {
            told_to_end.stop();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
