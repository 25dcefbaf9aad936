//! A folder in, a model directory out, as the README shows it: without a runtime, and the same each time.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use vtagd_checkpoint::Bundle;
use vtagd_checkpoint::import::manifest::{self, Manifest};
use vtagd_checkpoint::import::measure::{GraphRunner, LoadedGraph};
use vtagd_checkpoint::import::open_checkpoint;
use vtagd_checkpoint::import::write_bundle::{ImportOptions, ImportSource, run};
use vtagd_checkpoint::onnx::Precision;
use vtagd_checkpoint::onnx_file;

use crate::import_folders::{checkpoint, repository};

#[test]
fn a_checkpoint_becomes_a_model_directory_in_every_precision_without_a_runtime() {
    for name in ["hf-clip-quickgelu", "openclip-vit", "siglip"] {
        let read = open_checkpoint(&checkpoint(name)).unwrap();
        let source = ImportSource::of(&read);
        let folder = tempfile::tempdir().unwrap();
        for precision in Precision::ALL {
            let [first, second] = ["first", "second"].map(|out| {
                let out = folder.path().join(format!("{out}-{}", precision.as_str()));
                let manifest = run(&source, &out, ImportOptions::new(precision), None, &mut |_| Ok(())).unwrap();
                let bundle = Bundle::open_with_cache(&out, None).unwrap();
                assert_eq!(bundle.fingerprint, manifest.fingerprint, "{name} {}", precision.as_str());
                assert_eq!(onnx_file::picture_input(&bundle.vision).as_deref(), Some("pixel_values"), "{name}");
                let written: Manifest = serde_json::from_slice(&fs::read(out.join(manifest::FILE)).unwrap()).unwrap();
                assert_eq!(written, manifest, "{name}");
                assert!(written.measured.is_empty(), "nothing was handed in that measures");
                (bundle.fingerprint, fs::read(&bundle.vision).unwrap())
            });
            assert!(first == second, "{name} {}: the same bytes each time", precision.as_str());
        }
    }
}

/// Counts what it loads, and runs none of it.
struct BrokenRunner<'a>(&'a RefCell<usize>);

struct BrokenGraph;

impl GraphRunner for BrokenRunner<'_> {
    fn load(&self, model: &[u8]) -> Result<Box<dyn LoadedGraph>, String> {
        assert!(!model.is_empty());
        *self.0.borrow_mut() += 1;
        Ok(Box::new(BrokenGraph))
    }
}

impl LoadedGraph for BrokenGraph {
    fn run(&mut self, shape: &[usize], values: &[f32]) -> Result<Vec<f32>, String> {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Err("no runtime on this machine".into())
    }
}

#[test]
fn a_runner_that_fails_is_told_with_its_words_and_nothing_is_left() {
    let read = open_checkpoint(&checkpoint("hf-clip-quickgelu")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let loaded = RefCell::new(0);
    let out = folder.path().join("out");
    let options = ImportOptions::new(Precision::Int8);
    let failed = run(&ImportSource::of(&read), &out, options, Some(&BrokenRunner(&loaded)), &mut |_| Ok(()));
    assert!(failed.unwrap_err().to_string().contains("no runtime on this machine"));
    assert!(*loaded.borrow() > 0 && fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn the_input_for_pictures_is_found_by_its_shape() {
    let towers = repository().join("tests/conformance/towers");
    assert_eq!(onnx_file::picture_input(&towers.join("plain.onnx")).as_deref(), Some("pixel_values"));
    assert_eq!(onnx_file::picture_input(&towers.join("fixed_batch.onnx")), None, "its batch is not free");
    assert_eq!(onnx_file::picture_input(Path::new("Cargo.toml")), None);
    assert_eq!(onnx_file::picture_input(Path::new("/no/such/file.onnx")), None);
}
