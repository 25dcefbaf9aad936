//! Tokenizers built from their parts, their padding, and folders that lack one.

use std::fs;

use super::*;

const WANTED: Wanted =
    Wanted { context: 8, vocab: 12, padding: Padding::Named { otherwise: 1 }, left: false, clean: Clean::No };

/// A folder with a tiny CLIP tokenizer in the old form.
fn folder(config: &str, map: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let vocab = r#"{"!":0,"a":1,"b":2,"a</w>":3,"b</w>":4,"ab</w>":5,"?</w>":6,"1</w>":7,"<|startoftext|>":8,"<|endoftext|>":9,"[S]":10,"[E]":11}"#;
    fs::write(dir.path().join("vocab.json"), vocab).unwrap();
    fs::write(dir.path().join("merges.txt"), "#version: 0.2\na b</w>\n").unwrap();
    for (name, text) in [("tokenizer_config.json", config), ("special_tokens_map.json", map)] {
        if !text.is_empty() {
            fs::write(dir.path().join(name), text).unwrap();
        }
    }
    dir
}

fn ids(dir: &Path, wanted: Wanted, text: &str) -> Vec<u32> {
    let source = read(dir, wanted).unwrap();
    let tokenizer = Tokenizer::from_bytes(source.json.as_bytes()).unwrap();
    tokenizer.encode(text, true).unwrap().get_ids().to_vec()
}

#[test]
fn vocabulary_and_merges_make_clips_tokenizer() {
    let dir = folder("", "");
    assert_eq!(ids(dir.path(), WANTED, "AB  b?1"), [8, 5, 4, 6, 7, 9, 9, 9]);
    assert_eq!(ids(dir.path(), WANTED, "b b b b b b b b b"), [8, 4, 4, 4, 4, 4, 4, 9]);
    assert_eq!(ids(dir.path(), Wanted { padding: Padding::Zero, ..WANTED }, "ab"), [8, 5, 9, 0, 0, 0, 0, 0]);
}

#[test]
fn special_tokens_are_those_that_the_folder_names() {
    let map = r#"{"bos_token": {"content": "[S]", "lstrip": false}, "eos_token": "[E]", "pad_token": "!"}"#;
    let old = folder(r#"{"pad_token": "<|endoftext|>"}"#, map);
    assert_eq!(ids(old.path(), WANTED, "a"), [10, 3, 11, 0, 0, 0, 0, 0]);
    assert_eq!(ids(old.path(), WANTED, "a[E]"), [10, 3, 11, 11, 0, 0, 0, 0]);
    let new = folder(r#"{"pad_token": "b", "added_tokens_decoder": {}}"#, map);
    assert_eq!(ids(new.path(), WANTED, "a"), [10, 3, 11, 2, 2, 2, 2, 2]);
}

#[test]
fn a_tokenizer_that_is_read_again_stays_the_same() {
    let dir = folder("", "");
    let first = read(dir.path(), WANTED).unwrap();
    fs::write(dir.path().join("tokenizer.json"), &first.json).unwrap();
    let second = read(dir.path(), WANTED).unwrap();
    assert_eq!(first.json, second.json);
    assert!(second.files.iter().all(|file| file.ends_with("tokenizer.json")), "{:?}", second.files);
}

#[test]
fn siglip2_texts_become_lower_case_even_where_the_file_forgets_it() {
    let dir = folder("", "");
    let json = read(dir.path(), WANTED).unwrap().json.replace(r#",{"type":"Lowercase"}"#, "");
    fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    assert_eq!(ids(dir.path(), WANTED, "ab")[1], 5);
    assert_ne!(ids(dir.path(), WANTED, "AB")[1], 5);
    fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"tokenizer_class": "Siglip2Tokenizer", "padding_side": "right"}"#,
    )
    .unwrap();
    assert_eq!(ids(dir.path(), WANTED, "AB")[1], 5);
}

#[test]
fn texts_are_filled_up_and_cut_on_the_side_that_the_file_or_its_class_says() {
    let side = |config: &str, text: &str| {
        let dir = folder("", "");
        let json = read(dir.path(), WANTED).unwrap().json;
        fs::write(dir.path().join("tokenizer.json"), json).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        ids(dir.path(), Wanted { left: true, ..WANTED }, text)
    };
    let right = side("{}", "ab");
    let left = side(r#"{"padding_side": "left"}"#, "ab");
    assert_eq!((&right[..3], &left[5..]), (&left[5..], &right[..3]));
    assert_eq!(side(r#"{"tokenizer_class": "GemmaTokenizer"}"#, "ab"), left);
    assert_eq!(side(r#"{"tokenizer_class": "GemmaTokenizer", "padding_side": "right"}"#, "ab"), right);
    let long = "ab b b b b b b b b";
    assert_ne!(side(r#"{"truncation_side": "left"}"#, long), side("{}", long));
}

#[test]
fn what_is_missing_or_does_not_fit_is_said() {
    let refusal = |dir: &Path, wanted| read(dir, wanted).unwrap_err().to_string();
    let dir = folder("", "");
    assert!(refusal(dir.path(), Wanted { vocab: 11, ..WANTED }).contains("highest token id is 11"));
    fs::write(dir.path().join("merges.txt"), "#version: 0.2\na b c\n").unwrap();
    assert!(refusal(dir.path(), WANTED).contains("line 2 is not a pair"));
    fs::write(dir.path().join("merges.txt"), "x y\n").unwrap();
    assert!(refusal(dir.path(), WANTED).contains("does not fit merges.txt"));
    fs::remove_file(dir.path().join("merges.txt")).unwrap();
    assert!(refusal(dir.path(), WANTED).contains("vocab.json and merges.txt"));
    fs::write(dir.path().join("spiece.model"), "x").unwrap();
    assert!(refusal(dir.path(), WANTED).contains("SentencePiece"));
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(refusal(dir.path(), WANTED).contains("tokenizer.json: is not a tokenizer"));
    let left = folder(r#"{"padding_side": "left"}"#, "");
    assert!(refusal(left.path(), WANTED).contains("padding_side"));
    let lacking = folder("", r#"{"eos_token": "[X]"}"#);
    assert!(refusal(lacking.path(), WANTED).contains("`[X]`"));
}
