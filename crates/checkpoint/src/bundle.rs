//! A model directory as it lies on the disk: which files are its towers, its tokenizer and its preprocessing, and how its
//! scores are made. Nothing is loaded; whatever can be told from names, sizes and JSON is checked here.
//!
//! Layouts: (a) our own bundle, (b) an Optimum or transformers.js export, maybe under `onnx/` and in several precisions,
//! (c) Immich's `visual/` and `textual/`. Raw checkpoints are recognised and refused with a remedy.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::fingerprint::{self, RoleDigest};
use super::logit_parameters::{self, Config, Sidecar, TextConfig};
use super::{ModelError, import, onnx_file};
use crate::json_text;
use crate::{LogitOverride, LogitParameters};

/// Variants of an export, best first: what a plain name is called, then full to low precision. `_int8`, `_uint8` and
/// `_quantized` are transformers.js' names for 8-bit weights, `_q4`, `_bnb4` for 4-bit ones.
pub(super) const VARIANTS: [&str; 10] =
    ["", "_fp32", "_fp16", "_int8", "_uint8", "_quantized", "_q8", "_q4f16", "_q4", "_bnb4"];

/// What a raw checkpoint directory is recognised by.
const CHECKPOINTS: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
];

/// A model directory that has all its parts.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder.
    pub dir: PathBuf,
    /// Shown in events and logs: `name` of `vtagd.json`, else the directory's name.
    pub name: String,
    /// The image tower.
    pub vision: PathBuf,
    /// The text tower; `None` where it was removed, which is enough while every text is in the cache.
    pub text: Option<PathBuf>,
    /// `tokenizer.json` of the Hugging Face tokenizers library.
    pub tokenizer: PathBuf,
    /// `preprocessor_config.json`, or OpenCLIP's `preprocess_cfg.json` in Immich's layout.
    pub preprocessor: PathBuf,
    /// Scale, bias and activation.
    pub logit_parameters: LogitParameters,
    /// Hex SHA-256 over the contents of all parts and the head: what decides a score.
    pub fingerprint: String,
    /// The same with the scale and bias that the folder itself says: what decides an embedding, whatever is made of it.
    pub embedding_fingerprint: String,
    /// What the text tower expects.
    pub text_spec: TextSpec,
    /// Neighbouring 8-bit weights are known to fit the 16-bit sums of CPUs without VNNI, so that the fast kernels are exact.
    pub byte_sums_fit: bool,
    /// What the image tower is known to give; `None` where no import has measured it.
    pub known: Option<KnownEmbedding>,
}

/// A made-up picture's embedding, written down by the import.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownEmbedding {
    /// For [`probe_picture`](super::probe_picture::probe_picture).
    pub seed: u64,
    /// Height and width of the picture.
    pub image_size: usize,
    /// In 32 bits, L2-normalised.
    pub embedding: Vec<f32>,
    /// In the bundle's own precision, where that is another one.
    pub own: Option<Vec<f32>>,
    /// Least cosine of the two, where it was measured.
    pub own_cosine: Option<f32>,
}

/// What the JSON files say about the text tower's input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextSpec {
    /// Pads to this many tokens; `None` where the model takes any length.
    pub pad_to: Option<usize>,
    /// Longest input in tokens, special ones included, where it is known.
    pub max_length: Option<usize>,
    /// Id that fills up; `None` where only the tokenizer's own files can tell.
    pub pad_id: Option<u32>,
    /// Whether the model attends to padding (SigLIP), so that a mask, if there is one, is all ones.
    pub attends_to_padding: bool,
    /// Rows of the token embedding, where the configuration says.
    pub vocab_size: Option<u64>,
    /// Tokenizer and weights come from one checkpoint, whose import has seen that they fit: a tokenizer that knows only a
    /// corner of the vocabulary is meant so.
    pub imported: bool,
}

impl Bundle {
    /// Reads `dir`. Digests of its files are remembered in the folder `cache`, if there is one, so that gigabytes are hashed once.
    ///
    /// # Errors
    /// All missing parts in one [`ModelError::Missing`]; a raw checkpoint; files that are damaged on the face of it.
    pub fn open_with_cache(dir: &Path, cache: Option<&Path>) -> Result<Self, ModelError> {
        Self::open_with(dir, LogitOverride::default(), cache)
    }

    /// As [`Self::open_with_cache`], with another scale and bias than the folder says.
    ///
    /// # Errors
    /// As [`Self::open_with_cache`].
    pub fn open_with(dir: &Path, logits: LogitOverride, cache: Option<&Path>) -> Result<Self, ModelError> {
        let (bundle, warning) = Self::read(dir, logits, |files| digests(files, cache))?;
        if let Some(warning) = warning {
            warn!(target: "vtagd::model::bundle", model = %dir.display(), "{warning}");
        }
        info!(target: "vtagd::model::bundle",
            model = %bundle.name,
            vision = %bundle.vision.display(),
            text = %bundle.text.as_deref().unwrap_or(Path::new("none")).display(),
            fingerprint = %&bundle.fingerprint[..12],
            "model directory read"
        );
        Ok(bundle)
    }

    /// Reads `dir` again as a child process does, which says nothing that its parent has said.
    ///
    /// # Errors
    /// As [`Self::open_with_cache`].
    pub fn open_again(dir: &Path, cache: &Path) -> Result<Self, ModelError> {
        Ok(Self::read(dir, LogitOverride::default(), |files| digests(files, Some(cache)))?.0)
    }

    /// As [`Self::open_again`], without a fingerprint, which takes seconds for gigabytes.
    ///
    /// # Errors
    /// As [`Self::open_with_cache`].
    pub fn open_unmarked(dir: &Path) -> Result<Self, ModelError> {
        let (bundle, _) = Self::read(dir, LogitOverride::default(), |_| Ok(Vec::new()))?;
        Ok(Self { fingerprint: String::new(), embedding_fingerprint: String::new(), ..bundle })
    }

    /// All files that make up the model, `vtagd.json` included.
    pub fn files(&self) -> Vec<PathBuf> {
        let config = self.dir.join("config.json");
        let (vision, text) = (self.vision.clone(), self.text.clone());
        let (tokenizer, preprocessor) = (self.tokenizer.clone(), self.preprocessor.clone());
        let parts = Parts { vision, text, tokenizer, preprocessor, config };
        let sidecar = Some(self.dir.join("vtagd.json")).filter(|file| file.is_file());
        parts.all().into_iter().map(|(_, file)| file).chain(sidecar).collect()
    }

    fn read(
        dir: &Path,
        logits: LogitOverride,
        digests: impl FnOnce(&[(&str, PathBuf)]) -> Result<Vec<RoleDigest>, ModelError>,
    ) -> Result<(Self, Option<String>), ModelError> {
        if !dir.is_dir() {
            return Err(ModelError::NotFound { path: dir.to_owned(), remedy: "check the path".into() });
        }
        let sidecar: Sidecar = logit_parameters::read_json(&dir.join("vtagd.json"))?.unwrap_or_default();
        let parts = Parts::find(dir, &sidecar)?;
        for (_, file) in parts.all() {
            if json_text::is_lfs_pointer_file(&file) {
                return Err(ModelError::Damaged { file, message: json_text::LFS_POINTER.into() });
            }
        }
        for tower in [Some(&parts.vision), parts.text.as_ref()].into_iter().flatten() {
            onnx_file::check(tower)?;
        }
        let config: Config = logit_parameters::read_json(&parts.config)?.unwrap_or_default();
        let (own, _) = logit_parameters::logit_parameters(&sidecar, &config, &parts.config)?;
        let said = Sidecar {
            logit_scale: logits.scale.or(sidecar.logit_scale),
            logit_bias: logits.bias.or(sidecar.logit_bias),
            ..sidecar.clone()
        };
        let (logit_parameters, warning) = logit_parameters::logit_parameters(&said, &config, &parts.config)?;
        let digests = digests(&parts.all())?;
        let bundle = Self {
            name: sidecar.name.clone().or_else(|| own_name(dir)).unwrap_or_else(|| "model".into()),
            logit_parameters,
            fingerprint: fingerprint::of_digests(&digests, &logit_parameters),
            embedding_fingerprint: fingerprint::of_digests(&digests, &own),
            text_spec: TextSpec { imported: sidecar.precision.is_some(), ..text_spec(&config, &parts.tokenizer)? },
            byte_sums_fit: sidecar.byte_sums_fit,
            known: known(&sidecar),
            dir: dir.to_owned(),
            vision: parts.vision,
            text: parts.text,
            tokenizer: parts.tokenizer,
            preprocessor: parts.preprocessor,
        };
        Ok((bundle, warning))
    }
}

/// Digests of the files of a bundle; a text tower that is no longer there is remembered in `cache`.
fn digests(files: &[(&str, PathBuf)], cache: Option<&Path>) -> Result<Vec<RoleDigest>, ModelError> {
    let mut digests = fingerprint::digests(files, cache)?;
    if let Some(cache) = cache {
        fingerprint::recall_text_tower(&mut digests, cache);
    }
    Ok(digests)
}

/// What an import wrote down about the image tower. A sidecar that names its own files is somebody's work by hand, and may
/// mean another tower.
fn known(sidecar: &Sidecar) -> Option<KnownEmbedding> {
    let (probe, architecture) = sidecar.probe.as_ref().zip(sidecar.architecture.as_ref())?;
    if sidecar.vision_model.is_some() {
        return None;
    }
    let measured = sidecar.precision.as_ref().and_then(|precision| sidecar.measured.get(precision));
    Some(KnownEmbedding {
        seed: probe.seed,
        image_size: architecture.image_size,
        embedding: probe.embedding.clone(),
        own: probe.own.clone(),
        own_cosine: measured.map(|measured| measured.cosine),
    })
}

struct Parts {
    vision: PathBuf,
    /// Need not exist.
    text: Option<PathBuf>,
    tokenizer: PathBuf,
    preprocessor: PathBuf,
    /// May not exist.
    config: PathBuf,
}

impl Parts {
    fn find(dir: &Path, sidecar: &Sidecar) -> Result<Self, ModelError> {
        let vision = match &sidecar.vision_model {
            Some(name) => Some(inside(dir, name)?),
            None => tower(dir, "vision_model", "visual/model"),
        };
        let text = match &sidecar.text_model {
            Some(name) => Some(inside(dir, name)?),
            None => tower(dir, "text_model", "textual/model"),
        };
        let tokenizer = first(dir, &["tokenizer.json", "textual/tokenizer.json"]);
        let preprocessor =
            first(dir, &["preprocessor_config.json", "preprocess_cfg.json", "visual/preprocess_cfg.json"]);
        let config = first(dir, &["config.json"]).unwrap_or_else(|| dir.join("config.json"));
        match (vision, text, tokenizer, preprocessor) {
            (Some(vision), text, Some(tokenizer), Some(preprocessor)) => {
                Ok(Self { vision, text, tokenizer, preprocessor, config })
            }
            (vision, text, tokenizer, preprocessor) => {
                let described = first(dir, &["config.json", "open_clip_config.json"]).is_some();
                let unusual = || if described { import::other_weights(dir).into_iter().next() } else { None };
                let found = first(dir, &CHECKPOINTS).or_else(unusual);
                if let (None, None, Some(found)) = (&vision, &text, found) {
                    let found = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Err(ModelError::Checkpoint { dir: dir.to_owned(), found });
                }
                let missing = [
                    ("vision_model.onnx", vision.is_some()),
                    ("text_model.onnx", text.is_some()),
                    ("tokenizer.json", tokenizer.is_some()),
                    ("preprocessor_config.json", preprocessor.is_some()),
                ];
                let missing: Vec<_> =
                    missing.iter().filter(|(_, there)| !there).map(|(n, _)| (*n).to_owned()).collect();
                let remedy =
                    if vision.is_none() && text.is_none() && first(dir, &["model.onnx", "onnx/model.onnx"]).is_some() {
                        "its model.onnx holds both towers in one graph; export again with the towers apart \
                     (transformers.js' conversion script with `--split_modalities`)"
                    } else {
                        "copy them from the export they belong to, or export the model again"
                    };
                Err(ModelError::Missing { dir: dir.to_owned(), missing, remedy: remedy.into() })
            }
        }
    }

    /// Everything that decides what an embedding or a score is, in a fixed order, with roles that do not depend on where
    /// the directory lies or which layout it has. What `vtagd.json` decides is the head, which is told apart: its name
    /// and what an import measured change nothing.
    fn all(&self) -> Vec<(&'static str, PathBuf)> {
        let mut files = vec![("vision", self.vision.clone())];
        files.extend(onnx_file::external_data(&self.vision).into_iter().map(|f| ("vision data", f)));
        if let Some(text) = &self.text {
            files.push(("text", text.clone()));
            files.extend(onnx_file::external_data(text).into_iter().map(|f| ("text data", f)));
        }
        files.push(("tokenizer", self.tokenizer.clone()));
        files.push(("preprocessor", self.preprocessor.clone()));
        let optional = [
            ("config", self.config.clone()),
            ("tokenizer config", self.tokenizer.with_file_name("tokenizer_config.json")),
        ];
        files.extend(optional.into_iter().filter(|(_, file)| file.is_file()));
        files
    }
}

/// The best variant of a tower; says so in the log when there was a choice.
fn tower(dir: &Path, name: &str, immich: &str) -> Option<PathBuf> {
    let mut found = Vec::new();
    for variant in VARIANTS {
        for folder in [dir.to_owned(), dir.join("onnx")] {
            let file = folder.join(format!("{name}{variant}.onnx"));
            if file.is_file() {
                found.push(file);
            }
        }
    }
    found.extend(Some(dir.join(format!("{immich}.onnx"))).filter(|file| file.is_file()));
    let mut found = found.into_iter();
    let best = found.next()?;
    let others: Vec<_> = found.map(|f| f.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
    if !others.is_empty() {
        info!(target: "vtagd::model::bundle", file = %best.display(), others = %others.join(" "), "several variants of a tower, using the first");
    }
    Some(best)
}

fn first(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| dir.join(name)).find(|file| file.is_file())
}

/// A file that `vtagd.json` names. It must lie inside the directory: a model is data and may not point elsewhere.
fn inside(dir: &Path, name: &str) -> Result<PathBuf, ModelError> {
    let plain = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    let file = dir.join(name);
    if plain && file.is_file() {
        return Ok(file);
    }
    let message = format!("names the model file `{name}`, which is not a file inside this directory");
    Err(ModelError::Damaged { file: dir.join("vtagd.json"), message })
}

fn own_name(dir: &Path) -> Option<String> {
    Some(dir.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned())
}

fn text_spec(config: &Config, tokenizer: &Path) -> Result<TextSpec, ModelError> {
    #[derive(serde::Deserialize, Default)]
    struct TokenizerConfig {
        /// Transformers writes 1e30 for "no limit", Python `Infinity`.
        model_max_length: Option<serde_json::Value>,
    }
    let tokenizer_config: TokenizerConfig =
        logit_parameters::read_json(&tokenizer.with_file_name("tokenizer_config.json"))?.unwrap_or_default();
    let TextConfig { max_position_embeddings: positions, vocab_size, pad_token_id, .. } = &config.text_config;
    let positions = positions.or(config.text_cfg.max_position_embeddings);
    let siglip = config.is_siglip();
    let clip = config.model_type == "clip" || config.text_cfg.max_position_embeddings.is_some();
    let stated = tokenizer_config
        .model_max_length
        .and_then(|n| n.as_f64())
        .filter(|n| (1.0..100_000.0).contains(n))
        .map(|n| n as usize);
    let pad_to = if siglip {
        // Radford's CLIP pads to 77, SigLIP to 64 (Zhai et al. 2023); both are also what the exporters write down.
        Some(positions.unwrap_or(64))
    } else if clip {
        Some(positions.unwrap_or(77))
    } else {
        None
    };
    Ok(TextSpec {
        pad_to,
        max_length: pad_to.or(positions).or(stated),
        // The `pad_token_id: 1` of early CLIP configurations is a leftover of another model family.
        pad_id: pad_token_id.filter(|_| siglip),
        attends_to_padding: siglip,
        vocab_size: vocab_size.or(config.text_cfg.vocab_size),
        imported: false,
    })
}

#[cfg(test)]
mod tests;
