//! Models with made-up weights, in a folder that is removed when it is dropped. Comes in: an architecture and precisions;
//! goes out: model directories. Runs on the caller's thread; memory stays at a few times the largest tensor.
//!
//! The folder is in the cache directory, not in `/tmp`, which may be memory and small. Image towers are whole; the text
//! tower, which is not measured, is a stump that makes the directory complete.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::{BenchError, Model};
use crate::model::import::synthetic::Synthetic;
use crate::model::import::write_bundle::{self, ImportOptions, ImportProgress, ImportSource};
use crate::model::import::{Architecture, ImportError, TextPooling, TextTower, Transformer};
use crate::model::onnx::Precision;
use crate::platform::paths;

/// Room that a disk needs beside the weights: graphs, configuration, and whoever else writes meanwhile.
const SPARE: u64 = 64 << 20;

/// Models in a folder of their own.
#[derive(Debug)]
pub struct Drafts {
    folder: PathBuf,
    models: Vec<Model>,
}

impl Drafts {
    /// Writes `arch`, called `name`, in each of `precisions` (none of them twice) below `parent`, which is made if it is not
    /// there. `progress` may end it by giving an error.
    ///
    /// # Errors
    /// [`BenchError::Space`] before anything is written, [`BenchError::Disk`], or what `progress` gives. Nothing is left
    /// behind.
    pub fn write(
        parent: &Path,
        name: &str,
        arch: &Architecture,
        precisions: &[Precision],
        progress: &mut dyn FnMut(ImportProgress) -> Result<(), ImportError>,
    ) -> Result<Self, BenchError> {
        let arch = with_stump(arch);
        let store = Synthetic::of(&arch, 20);
        let sizes: Vec<u64> =
            precisions.iter().map(|precision| write_bundle::weight_bytes(&arch, *precision)).collect();
        let total: u64 = sizes.iter().sum();
        let folder = parent.join(format!("bench-{}", uuid::Uuid::now_v7()));
        let disk = |source| BenchError::Disk { dir: folder.clone(), source };
        fs::create_dir_all(parent).map_err(disk)?;
        room(parent, total + SPARE)?;
        fs::create_dir(&folder).map_err(disk)?;
        info!(architecture = name, folder = %folder.display(), bytes = total, "writing made-up weights");
        // From here on the folder is removed whatever happens.
        let mut drafts = Self { folder, models: Vec::new() };
        let mut before = 0;
        for (precision, size) in precisions.iter().zip(sizes) {
            let dir = drafts.folder.join(precision.as_str());
            fs::create_dir(&dir).map_err(|source| BenchError::Disk { dir: dir.clone(), source })?;
            let source = ImportSource::made_up(name.to_owned(), format!("synthetic:{name}"), &arch, &store);
            let mut advance = |p: ImportProgress| progress(ImportProgress { done: before + p.done, total, ..p });
            write_bundle::draft(&source, &dir, ImportOptions::new(*precision), &mut advance)?;
            drafts.models.push(Model { dir, size: (arch.vision.image_size, arch.vision.image_size) });
            before += size;
        }
        Ok(drafts)
    }

    /// One a precision, in the order given.
    pub fn models(&self) -> &[Model] {
        &self.models
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            warn!(folder = %self.folder.display(), %error, "made-up weights cannot be removed, remove them by hand");
        }
    }
}

/// `arch` with the smallest text tower there can be.
fn with_stump(arch: &Architecture) -> Architecture {
    let body = Transformer { width: 32, layers: 1, heads: 1, mlp: 32, ..arch.text.body.clone() };
    let text = TextTower {
        body,
        vocab: 16,
        context: 8,
        causal: arch.text.causal,
        padding: None,
        pooling: TextPooling::Last,
        projection_bias: false,
    };
    Architecture { text, ..arch.clone() }
}

fn room(dir: &Path, needed: u64) -> Result<(), BenchError> {
    let free = paths::free_bytes(dir).map_err(|source| BenchError::Disk { dir: dir.to_owned(), source })?;
    if free < needed {
        return Err(BenchError::Space { dir: dir.to_owned(), needed, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::infer::byte_sums::{self, tests::PROCESSORS};
    use crate::model::Bundle;
    use crate::model::import::manifest;

    /// ViT-B/32 with two layers: whole ones take their time in a build without optimisation.
    fn short() -> Architecture {
        let (mut arch, _) = Synthetic::new("vit-b-32").unwrap();
        arch.vision.body = Transformer { width: 64, layers: 2, heads: 2, mlp: 128, ..arch.vision.body };
        arch
    }

    #[test]
    fn a_draft_is_a_whole_model_directory_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("cache");
        let (mut done, mut total) = (0, 0);
        let mut progress = |p: ImportProgress| {
            assert!(p.done >= done && p.done <= p.total);
            (done, total) = (p.done, p.total);
            Ok(())
        };
        let drafts = Drafts::write(&parent, "short", &short(), &Precision::ALL, &mut progress).unwrap();
        assert!(done == total && total > 0);
        assert_eq!(drafts.models().len(), Precision::ALL.len());
        for model in drafts.models() {
            let bundle = Bundle::open_with_cache(&model.dir, None).unwrap();
            assert_eq!((bundle.name.as_str(), model.size), ("short", (224, 224)));
        }
        drop(drafts);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
    }

    #[test]
    fn a_draft_is_run_with_the_session_options_of_the_imported_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let (arch, parent) = (with_stump(&short()), dir.path().join("drafts"));
        let drafts = Drafts::write(&parent, "short", &short(), &Precision::ALL, &mut |_| Ok(())).unwrap();
        let store = Synthetic::of(&arch, 20);
        let source = ImportSource::made_up("short".into(), "synthetic:short".into(), &arch, &store);
        let sidecar = |dir: &Path| -> Value {
            let mut value: Value = serde_json::from_slice(&fs::read(dir.join(manifest::FILE)).unwrap()).unwrap();
            // Of files that nobody keeps there is none.
            value["fingerprint"] = json!("");
            value
        };
        for (precision, model) in Precision::ALL.iter().zip(drafts.models()) {
            let out = dir.path().join(precision.as_str());
            write_bundle::run(&source, &out, ImportOptions::new(*precision), None, &mut |_| Ok(())).unwrap();
            assert_eq!(sidecar(&model.dir), sidecar(&out), "{precision}");
            let [draft, imported] = [&model.dir, &out].map(|dir| Bundle::open_with_cache(dir, None).unwrap());
            assert_eq!(
                (draft.logit_parameters, &draft.text_spec),
                (imported.logit_parameters, &imported.text_spec),
                "{precision}"
            );
            for (processor, of, _) in PROCESSORS {
                let option = |bundle: &Bundle| byte_sums::session_option(bundle.byte_sums_fit.into(), of);
                assert_eq!(option(&draft), option(&imported), "{precision} on {processor}");
            }
        }
    }

    #[test]
    fn stopping_while_weights_are_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut calls = 0;
        let mut progress = |_: ImportProgress| {
            calls += 1;
            if calls == 3 { Err(ImportError::Stopped) } else { Ok(()) }
        };
        let error = Drafts::write(dir.path(), "short", &short(), &[Precision::Fp32], &mut progress).unwrap_err();
        assert!(matches!(error, BenchError::Stopped), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_with_what_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(room(dir.path(), 1).is_ok());
        let error = room(dir.path(), 1 << 62).unwrap_err();
        assert!(error.to_string().contains("VTAGD_CACHE") && error.exit_code() == 1, "{error}");
        assert!(paths::free_bytes(Path::new("/no/such/folder")).is_err());
    }
}
