//! Text towers and tokenizers: the same ids and embeddings as the reference implementations, and tokenizers that do not fit.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vtagd::infer::runtime;
use vtagd::label::text_encoder::{TextEncoder, TextError, TextTokenizer};
use vtagd::model::bundle::TextSpec;
use vtagd::model::{self, Bundle};

const CONFORMANCE: &str = "tests/conformance";

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<i64>,
}

#[derive(Deserialize)]
struct Reference {
    text: String,
    embedding: Vec<f32>,
}

fn json<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_json::from_slice(&fs::read(Path::new(CONFORMANCE).join(file)).unwrap()).unwrap()
}

fn clip_tokenizer(dir: &Path) -> PathBuf {
    let packed = fs::File::open(Path::new(CONFORMANCE).join("clip-tokenizer/tokenizer.json.gz")).unwrap();
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut plain).unwrap();
    let file = dir.join("tokenizer.json");
    fs::write(&file, plain).unwrap();
    file
}

fn starter() -> Bundle {
    let dir = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    Bundle::open_with_cache(&dir, None).unwrap()
}

fn open(bundle: &Bundle) -> Result<TextEncoder, TextError> {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    TextEncoder::open(&runtime, bundle, 1)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn clip_texts_become_the_ids_of_the_reference_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let spec = TextSpec { max_length: Some(77), ..TextSpec::default() };
    let tokenizer = TextTokenizer::open(&clip_tokenizer(dir.path()), &spec).unwrap();
    let cases: Vec<Case> = json("clip-tokenizer/cases.json");
    assert!(cases.len() > 20);
    for case in cases {
        let tokens = tokenizer.encode(&case.text).unwrap();
        assert_eq!(tokens.ids, case.ids, "{:?}", case.text);
        assert_eq!(tokens.truncated, case.ids.len() == 77, "{:?}", case.text);
    }
}

#[test]
fn clip_texts_are_padded_with_their_end_and_the_mask_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let spec = TextSpec { pad_to: Some(77), max_length: Some(77), ..TextSpec::default() };
    let tokens = TextTokenizer::open(&clip_tokenizer(dir.path()), &spec).unwrap().encode("smoke").unwrap();
    assert_eq!(tokens.ids.len(), 77);
    assert_eq!(&tokens.ids[..4], [49406, 6664, 49407, 49407]);
    assert_eq!(tokens.mask.iter().sum::<i64>(), 3);
    let spec = TextSpec { attends_to_padding: true, ..spec };
    let tokens = TextTokenizer::open(&clip_tokenizer(dir.path()), &spec).unwrap().encode("smoke").unwrap();
    assert_eq!(tokens.mask.iter().sum::<i64>(), 77);
}

#[test]
fn the_starter_models_texts_get_the_embeddings_of_the_reference() {
    let mut encoder = open(&starter()).unwrap();
    for reference in json::<Vec<Reference>>("starter/text.json") {
        let ours = encoder.embed(&reference.text).unwrap();
        let cosine = cosine(&ours.values, &reference.embedding);
        assert!(cosine >= 0.9999, "{:?}: {cosine}", reference.text);
        assert!(!ours.truncated);
    }
    assert!(encoder.embed(&"word ".repeat(500)).unwrap().truncated);
}

#[test]
fn texts_get_the_same_embeddings_in_company_and_in_their_order() {
    let mut encoder = open(&starter()).unwrap();
    let texts: Vec<String> = (0..50).map(|n| format!("{} {n}", "one more word ".repeat(1 + n % 4))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut together = Vec::new();
    encoder
        .embed_all(&texts, &mut |index, embedding| {
            assert_eq!(index, together.len());
            together.push(embedding);
        })
        .unwrap();
    assert_eq!(together.len(), texts.len());
    for (text, embedding) in texts.iter().zip(&together) {
        let alone = encoder.embed(text).unwrap();
        assert_eq!(alone.truncated, embedding.truncated);
        assert!(cosine(&alone.values, &embedding.values) > 0.99999, "{text:?}");
    }
}

#[test]
fn a_siglip_like_tower_gets_padded_ids_in_32_bits() {
    let small = Path::new(CONFORMANCE);
    let bundle = Bundle {
        text: Some(small.join("towers/text_siglip.onnx")),
        tokenizer: small.join("tiny-tokenizer/tokenizer.json"),
        text_spec: TextSpec {
            pad_to: Some(64),
            max_length: Some(64),
            pad_id: Some(0),
            attends_to_padding: true,
            vocab_size: Some(192),
            imported: false,
        },
        ..starter()
    };
    let mut encoder = open(&bundle).unwrap();
    for reference in json::<Vec<Reference>>("towers/text_siglip.json") {
        let ours = encoder.embed(&reference.text).unwrap();
        assert!(cosine(&ours.values, &reference.embedding) >= 0.9999, "{:?}", reference.text);
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused_whether_larger_or_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let larger = Bundle { tokenizer: clip_tokenizer(dir.path()), ..starter() };
    let error = open(&larger).err().unwrap().to_string();
    assert!(error.contains("does not fit") && error.contains("text_model.onnx"), "{error}");

    let smaller = Bundle { tokenizer: Path::new(CONFORMANCE).join("tiny-tokenizer/tokenizer.json"), ..starter() };
    let error = open(&smaller).err().unwrap().to_string();
    assert!(error.contains("does not fit"), "{error}");

    let said = TextSpec { vocab_size: Some(100), ..TextSpec::default() };
    let error = open(&Bundle { text_spec: said, ..starter() }).err().unwrap().to_string();
    assert!(error.contains("the model's vocabulary has 100"), "{error}");
}

#[test]
fn a_file_that_is_no_tokenizer_is_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokenizer.json");
    for content in ["", "{}", "[1, 2]", r#"{"model": {"type": "BPE"}}"#] {
        fs::write(&file, content).unwrap();
        let error = TextTokenizer::open(&file, &TextSpec::default()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: is not a tokenizer"), "{error}");
    }
}
