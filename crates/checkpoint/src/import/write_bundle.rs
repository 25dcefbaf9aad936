//! Writing a bundle: graphs, tokenizer, preprocessing, configuration and manifest, in a folder that appears whole or not at all.
//!
//! Comes in: a checkpoint's parts. Goes out: a model directory. Everything is written and synced in a hidden folder beside the
//! result, which is then renamed; whatever goes wrong before, the hidden folder is removed, and after a power cut or a `kill -9` it
//! does not have the result's name and the next import removes it. Runs on the caller's thread; memory stays at a few times the largest tensor.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::manifest::{self, Manifest, Measurement, Probe, Summary};
use super::measure::GraphRunner;
use super::synthetic::{self, Synthetic};
use super::{Architecture, Checkpoint, ImportError, TensorStore, measure};
use crate::Activation;
use crate::atomic_file::{self, Durability};
use crate::hub::Origin;
use crate::onnx::{Graph, Precision, file, text_graph, vision_graph};
use crate::unfinished_folder::{IMPORTING, UnfinishedFolder, is_free};
use crate::{Bundle, ModelError};

/// Seed of the probe picture in the manifest.
const PROBE_SEED: u64 = 1;

/// A checkpoint, read and ready to be written.
pub struct ImportSource<'a> {
    /// Shown in events and logs.
    pub name: String,
    /// Where it came from, for the manifest.
    pub from: String,
    /// What the configuration describes, checked against the tensors.
    pub architecture: &'a Architecture,
    /// The weights, under canonical names.
    pub tensors: &'a dyn TensorStore,
    /// `tokenizer.json` and what belongs to it (`tokenizer_config.json`): names and contents.
    pub tokenizer: Vec<(String, Vec<u8>)>,
    /// The content of `preprocessor_config.json`: Hugging Face's object, or OpenCLIP's under `preprocess_cfg`.
    pub preprocessor: Value,
    /// Id that fills texts up, where only the configuration knows.
    pub pad_id: Option<u32>,
}

impl<'a> ImportSource<'a> {
    /// A checkpoint that was read from a folder, under the folder's name.
    pub fn of(checkpoint: &'a Checkpoint) -> Self {
        let folder = checkpoint.dir.canonicalize().unwrap_or_else(|_| checkpoint.dir.clone());
        let name = folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        Self {
            // A folder that was pulled knows its repository and commit.
            from: Origin::read(&folder).map_or_else(|| name.clone(), |origin| origin.short()),
            name,
            architecture: &checkpoint.architecture,
            tensors: checkpoint.tensors.as_ref(),
            tokenizer: vec![("tokenizer.json".into(), checkpoint.tokenizer.json.clone().into_bytes())],
            preprocessor: checkpoint.preprocessor.clone(),
            pad_id: None,
        }
    }

    /// Made-up weights, and a tokenizer and preprocessing that go with them.
    pub fn made_up(name: String, from: String, architecture: &'a Architecture, tensors: &'a Synthetic) -> Self {
        Self {
            name,
            from,
            architecture,
            tensors,
            tokenizer: vec![("tokenizer.json".into(), synthetic::tokenizer(architecture.text.vocab))],
            preprocessor: synthetic::preprocessor(architecture),
            pad_id: None,
        }
    }
}

/// What to make of it.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    /// What the bundle’s weights are stored as.
    pub precision: Precision,
    /// Weights above this are kept in a file of their own; see [`file::INLINE_LIMIT`].
    pub inline_limit: u64,
}

impl ImportOptions {
    /// With the usual limit.
    pub const fn new(precision: Precision) -> Self {
        Self { precision, inline_limit: file::INLINE_LIMIT }
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportProgress {
    /// What is being done.
    pub step: ImportStep,
    /// Bytes of weights, or parts measured.
    pub done: u64,
    /// All of them.
    pub total: u64,
}

/// What an import is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportStep {
    /// Weights are turned and written.
    Writing,
    /// The image tower is run part by part.
    Measuring,
}

/// Writes the bundle `out`. With a `runner` it also measures speed and agreement with 32 bits. `progress` may
/// end the import by giving an error.
///
/// # Errors
/// [`ImportError::Exists`] if `out` is there and not an empty folder; tensors that cannot be read or do not fit; a disk that is
/// full or read-only. Nothing is left behind.
pub fn run(
    source: &ImportSource<'_>,
    out: &Path,
    options: ImportOptions,
    runner: Option<&dyn GraphRunner>,
    progress: &mut dyn FnMut(ImportProgress) -> Result<(), ImportError>,
) -> Result<Manifest, ImportError> {
    if !is_free(out) {
        return Err(ImportError::Exists { dir: out.to_owned() });
    }
    let failed = |source: io::Error, taken| match source.kind() {
        kind if kind == taken => ImportError::Exists { dir: out.to_owned() },
        _ => ImportError::Disk { dir: out.to_owned(), source },
    };
    let folder = UnfinishedFolder::create(out, IMPORTING).map_err(|e| failed(e, io::ErrorKind::InvalidInput))?;
    source.tensors.verify(&mut || progress(ImportProgress { step: ImportStep::Writing, done: 0, total: 0 }))?;
    let bytes = towers(source, &folder.path, options, file::write, progress)?;
    small_files(source, &folder.path)?;

    let mut manifest = unmeasured(source, options.precision);
    if let Some(runner) = runner {
        measured(source, options.precision, bytes, runner, &mut manifest, progress)?;
    }
    write_json(&folder.path, manifest::FILE, &json!(manifest))?;
    // Opening it is the last check that it is whole, and gives the fingerprint.
    let bundle = Bundle::open_with_cache(&folder.path, None).map_err(|e| unreadable(e, out))?;
    manifest.fingerprint = bundle.fingerprint;
    write_json(&folder.path, manifest::FILE, &json!(manifest))?;
    folder.finish(out).map_err(|e| failed(e, io::ErrorKind::AlreadyExists))?;
    Ok(manifest)
}

/// Writes a bundle into the empty folder `dir` that nobody keeps: not measured, without fingerprint, not synced. It says the same of
/// itself as one that [`run`] writes, so that it is run the same way.
///
/// # Errors
/// As [`run`]; what was written until then is left to the caller.
pub fn draft(
    source: &ImportSource<'_>,
    dir: &Path,
    options: ImportOptions,
    progress: &mut dyn FnMut(ImportProgress) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    towers(source, dir, options, file::write_draft, progress)?;
    small_files(source, dir)?;
    write_json(dir, manifest::FILE, &json!(unmeasured(source, options.precision)))
}

/// What is known of a bundle before it is written and measured.
fn unmeasured(source: &ImportSource<'_>, precision: Precision) -> Manifest {
    let arch = source.architecture;
    Manifest {
        name: source.name.clone(),
        source: source.from.clone(),
        precision,
        fingerprint: String::new(),
        logit_scale: arch.logit_scale,
        logit_bias: arch.logit_bias,
        activation: arch.activation,
        architecture: Summary::new(arch),
        preprocessing: source.preprocessor.clone(),
        byte_sums_fit: true,
        probe: None,
        measured: BTreeMap::new(),
    }
}

/// Weight bytes of the bundle that [`run`] or [`draft`] would write.
pub fn weight_bytes(arch: &Architecture, precision: Precision) -> u64 {
    vision_graph::graph(arch, precision).weight_bytes() + text_graph::graph(arch, precision).weight_bytes()
}

fn unreadable(error: ModelError, out: &Path) -> ImportError {
    let message = format!("the bundle that was written does not open: {error}");
    ImportError::Damaged { file: out.to_owned(), message }
}

/// [`file::write`] or [`file::write_draft`].
type WriteGraph = fn(
    &Graph,
    &dyn TensorStore,
    &Path,
    u64,
    &mut dyn FnMut(u64) -> Result<(), ImportError>,
) -> Result<u64, ImportError>;

fn towers(
    source: &ImportSource<'_>,
    dir: &Path,
    options: ImportOptions,
    write: WriteGraph,
    progress: &mut dyn FnMut(ImportProgress) -> Result<(), ImportError>,
) -> Result<u64, ImportError> {
    let arch = source.architecture;
    let graphs: [(&str, Graph); 2] = [
        ("vision_model.onnx", vision_graph::graph(arch, options.precision)),
        ("text_model.onnx", text_graph::graph(arch, options.precision)),
    ];
    let total = graphs.iter().map(|(_, graph)| graph.weight_bytes()).sum();
    let (mut done, mut bytes) = (0, 0);
    for (name, graph) in &graphs {
        let mut advance = |more: u64| {
            done += more;
            progress(ImportProgress { step: ImportStep::Writing, done, total })
        };
        bytes += write(graph, source.tensors, &dir.join(name), options.inline_limit, &mut advance)?;
    }
    Ok(bytes)
}

fn measured(
    source: &ImportSource<'_>,
    precision: Precision,
    bytes: u64,
    runner: &dyn GraphRunner,
    manifest: &mut Manifest,
    progress: &mut dyn FnMut(ImportProgress) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let arch = source.architecture;
    let total = measure::steps(arch, precision);
    let mut done = 0;
    let mut advance = || {
        done += 1;
        progress(ImportProgress { step: ImportStep::Measuring, done, total })
    };
    let found = measure::vision_tower(runner, arch, source.tensors, precision, PROBE_SEED, &mut advance)?;
    let full = weight_bytes(arch, Precision::Fp32);
    let own = found.iter().find(|m| m.precision == precision && precision != Precision::Fp32);
    manifest.probe = found.first().map(|m| Probe {
        seed: PROBE_SEED,
        embedding: m.embedding.clone(),
        own: own.map(|m| m.embedding.clone()),
    });
    for m in found {
        let bytes = if m.precision == precision { bytes } else { full };
        let measurement = Measurement { bytes, images_per_second: m.images_per_second, cosine: m.cosine };
        manifest.measured.insert(m.precision.as_str().to_owned(), measurement);
    }
    Ok(())
}

/// Tokenizer, preprocessing and configuration.
fn small_files(source: &ImportSource<'_>, dir: &Path) -> Result<(), ImportError> {
    for (name, content) in &source.tokenizer {
        // The names come from a checkpoint's reader, but a path that leaves the folder must not be possible at all.
        let plain = Path::new(name).file_name().unwrap_or_default();
        write_file(&dir.join(plain), content)?;
    }
    write_json(dir, "preprocessor_config.json", &source.preprocessor)?;
    write_json(dir, "config.json", &config(source))
}

/// What the loader wants to know about the text tower's input.
fn config(source: &ImportSource<'_>) -> Value {
    let arch = source.architecture;
    let family = if arch.activation == Activation::Sigmoid || !arch.text.causal && arch.text.padding.is_none() {
        "siglip"
    } else {
        "clip"
    };
    json!({
        "model_type": family,
        "logit_scale": arch.logit_scale,
        "logit_bias": arch.logit_bias,
        "activation": arch.activation,
        "projection_dim": arch.embed_dim,
        "text_config": {
            "max_position_embeddings": arch.text.context,
            "vocab_size": arch.text.vocab,
            "pad_token_id": source.pad_id,
        },
        "vision_config": { "image_size": arch.vision.image_size, "patch_size": arch.vision.patch },
    })
}

fn write_json(dir: &Path, name: &str, value: &Value) -> Result<(), ImportError> {
    write_file(&dir.join(name), format!("{value:#}\n").as_bytes())
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), ImportError> {
    atomic_file::write(path, content, Durability::Synced)
        .map_err(|source| ImportError::Disk { dir: path.to_owned(), source })
}
