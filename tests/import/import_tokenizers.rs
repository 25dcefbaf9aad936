//! Tokenizers of checkpoints, as they are written into a bundle, give the ids that the reference libraries give.

use std::fs;
use std::io::Read;

use crate::import_folders::{copy, edit_json, read, repository, write};
use serde::Deserialize;
use serde_json::Value;
use vtagd::label::text_encoder::TextTokenizer;
use vtagd::model::bundle::TextSpec;
use vtagd::model::import::{TextPooling, open_checkpoint};

#[test]
fn the_ids_of_every_prompt_are_those_of_the_reference() {
    for entry in fs::read_dir(repository().join("tests/conformance/checkpoints")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().display();
        let checkpoint = open_checkpoint(&folder).unwrap_or_else(|e| panic!("{name}: {e}"));
        let context = checkpoint.architecture.text.context;
        let reference = fs::read(folder.join("expected.safetensors")).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&reference).unwrap();
        let ids = reference.tensor("input_ids").unwrap();
        let ids: Vec<i64> = ids.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokenizer.json");
        fs::write(&file, &checkpoint.tokenizer.json).unwrap();
        let spec = TextSpec { pad_to: Some(context), max_length: Some(context), ..TextSpec::default() };
        let tokenizer = TextTokenizer::open(&file, &spec).unwrap();
        let scores: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let prompts: Vec<String> = serde_json::from_value(scores["prompts"].clone()).unwrap();
        assert_eq!(ids.len(), prompts.len() * context);
        for (prompt, expected) in prompts.iter().zip(ids.chunks(context)) {
            assert_eq!(tokenizer.encode(prompt).unwrap().ids, expected, "{name} {prompt:?}");
        }
    }
}

/// `clip-tokenizer/tokenizer.json.gz` taken apart into the older files, in a CLIP folder with its vocabulary.
#[test]
fn clips_full_vocabulary_from_its_parts_gives_the_reference_ids() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<i64>,
    }
    let set = repository().join("tests/conformance/clip-tokenizer");
    let mut text = String::new();
    let packed = fs::File::open(set.join("tokenizer.json.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(set.join("cases.json")).unwrap()).unwrap();

    let dir = copy("hf-clip-quickgelu");
    let vocab = &json["model"]["vocab"];
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    let rows = vocab.as_object().unwrap().len();
    edit_json(&dir.path().join("config.json"), |config| config["text_config"]["vocab_size"] = rows.into());
    let file = dir.path().join("model.safetensors");
    let mut tensors = read(&file);
    let embedding = ("F32".into(), vec![rows, 48], vec![0; rows * 48 * 4]);
    tensors.insert("text_model.embeddings.token_embedding.weight".into(), embedding);
    write(&file, &tensors);
    let given = dir.path().join("tokenizer.json");

    for parts in [false, true] {
        if parts {
            fs::remove_file(&given).unwrap();
            fs::write(dir.path().join("vocab.json"), vocab.to_string()).unwrap();
            fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{}", merges.concat())).unwrap();
        } else {
            fs::write(&given, &text).unwrap();
        }
        let checkpoint = open_checkpoint(dir.path()).unwrap();
        assert_eq!(checkpoint.architecture.text.pooling, TextPooling::ArgmaxId);
        let out = dir.path().join("out.json");
        fs::write(&out, &checkpoint.tokenizer.json).unwrap();
        let spec = TextSpec { pad_to: Some(77), ..TextSpec::default() };
        let tokenizer = TextTokenizer::open(&out, &spec).unwrap();
        assert!(cases.len() > 30);
        for case in &cases {
            let tokens = tokenizer.encode(&case.text).unwrap();
            let length = tokens.mask.iter().sum::<i64>() as usize;
            assert_eq!(tokens.ids[..length], case.ids, "{:?}", case.text);
            assert!(tokens.ids[length..].iter().all(|id| *id == 49_407));
        }
    }
}
