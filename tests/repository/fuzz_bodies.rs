//! The bodies of the fuzz targets, bounded, on every machine: good input with a few changes, and any bytes. What each of them checks for
//! itself is in src/fuzzing/; here they only must not panic, and must see good input as such.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::daemon::root;
use proptest::prelude::*;
use vtagd::fuzzing;
use vtagd::fuzzing::http::{MARKED, TOKEN};
use vtagd::history::name_table::Name;
use vtagd::history::row_store::{NewRow, RetentionLimits, RowStore};

/// Files of a folder of the repository.
fn seeds(folder: &str, extension: Option<&str>) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let files =
        entries.filter(|path| path.is_file() && extension.is_none_or(|e| path.extension().is_some_and(|x| x == e)));
    let mut seeds: Vec<Vec<u8>> = files.map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{folder} has no seeds");
    seeds.sort();
    seeds
}

/// A model directory as the body takes it: a kind, then its files.
fn folder_seed(kind: u8) -> Vec<u8> {
    let read = |name: &str| fs::read(root().join("models/starter").join(name)).unwrap();
    let onnx = |name: &str| read(name).into_iter().filter(|byte| *byte != 255).take(2000).collect();
    let files: [Vec<u8>; 6] = [
        read("config.json"),
        read("preprocessor_config.json"),
        b"{}".to_vec(),
        b"{}".to_vec(),
        onnx("text_model.onnx"),
        read("vision_model.onnx")[..2000].to_vec(),
    ];
    [vec![kind], files.join(&255)].concat()
}

/// A history as the body takes it: how long a row is, names, rows.
fn history_seed() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let limits = RetentionLimits { max_size: 1 << 20, max_age: Duration::from_secs(3600), min_change: 0.0 };
    let (mut store, _) = RowStore::open(Some(folder.path()), limits, Instant::now()).unwrap();
    for at in 0..4 {
        let name = Name { stream: format!("s{}", at % 2), model: "m".into(), ..Name::default() };
        let embedding: Vec<f32> = (0..16).map(|n| ((n + at) as f32).sin()).collect();
        store
            .push(&NewRow { name: &name, tile: 0, at: i64::from(at) * 100_000, embedding: &embedding }, Instant::now())
            .unwrap();
    }
    let names = fs::read(folder.path().join("names.jsonl")).unwrap();
    let rows = fs::read(folder.path().join("0000000000000000-16.rows")).unwrap();
    [&[16], names.as_slice(), &[255], &rows].concat()
}

/// Changed, inserted and removed bytes.
type Changes = Vec<(prop::sample::Index, u8, u8)>;

fn changes() -> impl Strategy<Value = Changes> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..12)
}

fn changed(seed: &[u8], changes: &Changes) -> Vec<u8> {
    let mut data = seed.to_vec();
    for (place, value, how) in changes {
        if data.is_empty() {
            break;
        }
        let at = place.index(data.len());
        match how {
            0 => data[at] = *value,
            1 => data.insert(at, *value),
            2 => drop(data.remove(at)),
            _ => data.truncate(at),
        }
    }
    data
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_damaged_configuration_is_taken_or_refused(changes in changes(), any_bytes: Vec<u8>) {
        for seed in seeds("config", Some("yaml")) {
            fuzzing::settings(&changed(&seed, &changes));
        }
        fuzzing::settings(&any_bytes);
    }

    #[test]
    fn a_damaged_label_set_is_taken_or_refused(changes in changes(), any_bytes: Vec<u8>) {
        for seed in seeds("config/labels", Some("yaml")) {
            fuzzing::labels(&changed(&seed, &changes));
        }
        fuzzing::labels(&any_bytes);
    }

    #[test]
    fn a_damaged_preprocessor_file_is_taken_or_refused(changes in changes(), any_bytes: Vec<u8>, size in 0..600_u32, crop in 0..600_u32) {
        let starter = fs::read(root().join("models/starter/preprocessor_config.json")).unwrap();
        fuzzing::preprocessor(&changed(&starter, &changes));
        fuzzing::preprocessor(format!(
            r#"{{"size": {{"shortest_edge": {size}}}, "crop_size": {{"height": {crop}, "width": {size}}}, "do_center_crop": true}}"#
        ).as_bytes());
        fuzzing::preprocessor(format!(r#"{{"size": [{size}, {crop}], "mode": "RGB", "resize_mode": "longest"}}"#).as_bytes());
        fuzzing::preprocessor(&any_bytes);
    }

    #[test]
    fn a_damaged_model_directory_is_taken_or_refused(changes in changes(), kind in 0..3_u8, any_bytes: Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("model");
        fuzzing::model_folder(&place, &changed(&folder_seed(kind), &changes));
        fuzzing::model_folder(&place, &any_bytes);
    }

    #[test]
    fn a_damaged_history_is_searched_and_written_to(changes in changes(), any_bytes: Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("history");
        fuzzing::history(&place, &changed(&history_seed(), &changes));
        fuzzing::history(&place, &any_bytes);
    }

    #[test]
    fn a_damaged_request_is_answered_or_refused(changes in changes(), any_bytes: Vec<u8>) {
        for seed in seeds("tests/data/http", None) {
            fuzzing::http::fuzz(&changed(&seed, &changes));
        }
        fuzzing::http::fuzz(&any_bytes);
    }

    #[test]
    fn a_damaged_picture_has_a_size_or_none(changes in changes(), any_bytes: Vec<u8>) {
        let bomb = fs::read(root().join("tests/data/bomb65500.jpg")).unwrap();
        for codec in 0..18 {
            fuzzing::coded_size(&[&[codec], changed(&bomb, &changes).as_slice()].concat());
            fuzzing::coded_size(&[&[codec], any_bytes.as_slice()].concat());
        }
    }

    #[test]
    fn any_answer_of_an_endpoint_has_a_meaning(status: u16, retry_after in "\\PC{0,40}", seconds: u64) {
        for text in [retry_after, seconds.to_string(), format!("Wed, 21 Oct {} 07:28:00 GMT", seconds % 12_000)] {
            fuzzing::answers(&[&status.to_be_bytes()[..], text.as_bytes()].concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..config() })]

    #[test]
    fn every_number_of_a_tensor_is_written_whatever_the_picture_is_like(data in prop::collection::vec(any::<u8>(), 14..80)) {
        fuzzing::geometry(&data);
    }
}

#[test]
fn good_requests_are_answered_as_such() {
    let say = |name: &str| {
        let request = fs::read(root().join("tests/data/http").join(name)).unwrap();
        String::from_utf8(fuzzing::http::fuzz(&request)).unwrap()
    };
    let answer = say("get");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(MARKED), "{answer}");
    assert!(say("no-token").starts_with("HTTP/1.1 401"));
    assert!(say("pause").starts_with("HTTP/1.1 503"), "nobody takes wishes");
    assert!(say("two").matches("HTTP/1.1 ").count() == 2);
    assert!(say("chunks").contains("503"));
    assert!(say("snapshot").starts_with("HTTP/1.0 404"));
    let options = say("options");
    assert!(options.starts_with("HTTP/1.1 4") && !options.to_lowercase().contains("access-control"), "{options}");
    assert!(fs::read_to_string(root().join("tests/data/http/get")).unwrap().contains(TOKEN));
}

#[test]
fn every_fuzz_target_is_listed() {
    let listed = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap() {
        let name = entry.unwrap().path();
        let name = Path::new(name.file_stem().unwrap()).display().to_string();
        assert!(listed.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
