//! A raw checkpoint folder, recognised and checked as a whole. In: a folder; out: a [`Checkpoint`] with everything an import
//! needs. The weights stay in their files until they are asked for; everything else is in memory.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tracing::{info, warn};

use super::bytes::shown;
use super::config_openclip::{self, Hints};
use super::fields::{Fields, damaged, read_json, unsupported};
use super::layout::{Canonical, canonical};
use super::raw::RawStore;
use super::tokenizer::{Clean, Padding, TokenizerSource, Wanted};
use super::{
    Act, Architecture, ImportError, TensorStore, TextPooling, config_hf, config_timm, names_hf, names_openclip,
    names_timm, prefixes, preprocessor, tokenizer, weight_files,
};
use crate::logit_parameters::{Config, Sidecar, logit_parameters};
use crate::{Activation, LogitParameters};

/// Where a checkpoint's layout comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `config.json` of Hugging Face's CLIP, or of its MetaCLIP 2, which has the same towers.
    HuggingFaceClip,
    /// `config.json` of Hugging Face's Chinese CLIP: a CLIP image tower, and BERT for texts.
    HuggingFaceChineseClip,
    /// `config.json` of Hugging Face's SigLIP, or of a SigLIP2 of fixed resolution.
    HuggingFaceSiglip,
    /// `open_clip_config.json`.
    OpenClip,
}

/// A checkpoint whose parts fit together.
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// Whose layout it is.
    pub family: Family,
    /// What the configuration describes, checked against the tensors.
    pub architecture: Architecture,
    /// Under the [canonical](super::canonical) names.
    pub tensors: Box<dyn TensorStore + Send + Sync>,
    /// The text of `tokenizer.json`, and what it was made from.
    pub tokenizer: TokenizerSource,
    /// For `preprocessor_config.json`; [`Spec`](crate::spec::Spec) reads it.
    pub preprocessor: Value,
    /// Every file that was read, the configuration first.
    pub files: Vec<PathBuf>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Checkpoint");
        out.field("dir", &self.dir).field("family", &self.family).field("architecture", &self.architecture);
        out.field("preprocessor", &self.preprocessor).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Opens a Hugging Face or OpenCLIP checkpoint: a folder, or the one of its files of weights that is meant.
///
/// A folder that holds both layouts of one model, as LAION's do, is read by Hugging Face's. Weights of another name than a layout has are
/// taken where they are the only ones.
///
/// # Errors
/// Parts that are missing, damaged, hostile or of another model; a kind of model that is not served.
pub fn open_checkpoint(path: &Path) -> Result<Checkpoint, ImportError> {
    let failed = |source| ImportError::Io { file: path.to_owned(), source };
    let (dir, given) = match path.metadata().map_err(failed)?.is_dir() {
        true => (path, None),
        false if path.file_name().is_some_and(|name| weight_files::is_weights_name(&name.to_string_lossy())) => {
            let around = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            (around.unwrap_or(Path::new(".")), Some(path.to_owned()))
        }
        false => return Err(damaged(path, "is a file; give the folder around it")),
    };
    let (hf_file, oc_file) = (dir.join("config.json"), dir.join("open_clip_config.json"));
    let (mut hf, mut oc) = (read_json(&hf_file)?, read_json(&oc_file)?);
    let mut hf_weights = weight_files::find(dir, weight_files::HUGGING_FACE);
    let mut oc_weights = weight_files::find(dir, weight_files::OPEN_CLIP);
    let usual = hf.is_some() && hf_weights.is_some() || oc.is_some() && oc_weights.is_some();
    let unusual = match given {
        None if usual || hf.is_none() && oc.is_none() => None,
        None => weight_files::other(dir)?,
        given => given,
    };
    if let Some(file) = unusual {
        info!(target: "vtagd::model::import::checkpoint", file = %file.display(), "weights of another name than the layout has");
        if hf.is_some() && oc.is_some() {
            // Its name does not tell whose it is; its tensors do.
            match is_open_clip(&file)? {
                true => hf = None,
                false => oc = None,
            }
        }
        (hf_weights, oc_weights) = (Some(file.clone()), Some(file));
    }
    let checkpoint = match (hf, oc, hf_weights, oc_weights) {
        // timm's folders have a `config.json` and weights of their own beside OpenCLIP's.
        (Some(config), oc, Some(weights), oc_weights)
            if oc.is_none() || oc_weights.is_none() || config_hf::family(&config, &hf_file).is_ok() =>
        {
            hugging_face(dir, &hf_file, &config, &weights)?
        }
        (_, Some(config), _, Some(weights)) => open_clip(dir, &oc_file, &config, &weights)?,
        (None, None, ..) => {
            let message = "holds neither config.json (Hugging Face) nor open_clip_config.json (OpenCLIP): it is no checkpoint folder";
            return Err(damaged(dir, message));
        }
        (hf, ..) => {
            let wanted = if hf.is_some() { weight_files::HUGGING_FACE } else { weight_files::OPEN_CLIP };
            let wanted = wanted.join(", ");
            let instead = weight_files::instead(dir).map_or(String::new(), |instead| format!("; {instead}"));
            return Err(damaged(
                dir,
                format!("holds no weights: one of {wanted} is needed, or a single file of another name{instead}"),
            ));
        }
    };
    info!(target: "vtagd::model::import::checkpoint", dir = %dir.display(), family = ?checkpoint.family, files = checkpoint.files.len(), "checkpoint read");
    Ok(checkpoint)
}

/// Whether a file of weights has OpenCLIP's names in it.
fn is_open_clip(weights: &Path) -> Result<bool, ImportError> {
    let mut raw = weight_files::open(weights)?;
    prefixes::strip(&mut raw, weights, names_openclip::is_image, names_openclip::is_text)?;
    Ok(raw.tensors.keys().any(|name| names_openclip::is_image(name)))
}

fn hugging_face(dir: &Path, file: &Path, config: &Value, weights: &Path) -> Result<Checkpoint, ImportError> {
    let kind = config_hf::family(config, file)?;
    let siglip = kind == config_hf::Family::Siglip;
    let mut raw = weight_files::open(weights)?;
    prefixes::strip(
        &mut raw,
        weights,
        |name| name.starts_with("vision_model."),
        |name| name.starts_with("text_model."),
    )?;
    prefixes::known(&raw, weights, &["vision_model.", "text_model."])?;
    for (prefix, what) in [("vision_model.", "a text-only tower"), ("text_model.", "an image-only tower")] {
        if !raw.tensors.keys().any(|name| name.starts_with(prefix)) {
            return Err(unsupported(weights, format!("{what}, without any tensor of `{prefix}*`,")));
        }
    }
    let mut problems = Vec::new();
    let natural = if siglip { Activation::Sigmoid } else { Activation::Softmax };
    let names = if siglip { ["logit_scale", "logit_bias"].as_slice() } else { &["logit_scale"] };
    let head = head(dir, &raw, names, natural, &mut problems)?;
    let architecture = config_hf::architecture(config, file, head)?;
    let (preprocessor, preprocessor_file) = preprocessor::hugging_face(dir, architecture.vision.image_size)?;
    let layout = match kind {
        config_hf::Family::Clip => names_hf::Layout::Clip,
        config_hf::Family::ChineseClip => names_hf::Layout::ChineseClip(config_hf::bert_rows(config, file)?),
        config_hf::Family::Siglip => names_hf::Layout::Siglip,
    };
    let origin = |name: &str| names_hf::origin(name, layout);
    let files = files(file, &raw, Some(preprocessor_file));
    let tensors = canonical(&architecture, raw, weights, origin, problems, names)?;
    let text = Fields::of(file, config)?.inner("text_config")?;
    let otherwise = text.get("pad_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let (family, usual) = match kind {
        config_hf::Family::Clip => (Family::HuggingFaceClip, 1),
        config_hf::Family::ChineseClip => (Family::HuggingFaceChineseClip, 0),
        config_hf::Family::Siglip => (Family::HuggingFaceSiglip, 1),
    };
    let parts = Parts { family, architecture, tensors, preprocessor, files };
    finish(dir, parts, Padding::Named { otherwise: otherwise.unwrap_or(usual) }, Clean::No)
}

fn open_clip(dir: &Path, file: &Path, config: &Value, weights: &Path) -> Result<Checkpoint, ImportError> {
    let mut raw = weight_files::open(weights)?;
    prefixes::strip(&mut raw, weights, names_openclip::is_image, names_openclip::is_text)?;
    prefixes::known(&raw, weights, &["visual.", "token_embedding.", "text."])?;
    let has = |prefix: &str| raw.tensors.keys().any(|name| name.starts_with(prefix));
    let text = if has("text.") { "text." } else { "" };
    let linear = has(&format!("{text}text_projection.weight"));
    let bias = has(&format!("{text}text_projection.bias"));
    // OpenCLIP trains a bias exactly where it trains with a sigmoid.
    let (names, activation) = if has("logit_bias") {
        (["logit_scale", "logit_bias"].as_slice(), Activation::Sigmoid)
    } else {
        (["logit_scale"].as_slice(), Activation::Softmax)
    };
    let mut problems = Vec::new();
    let head = head(dir, &raw, names, activation, &mut problems)?;
    let (timm, timm_names) = config_timm::shapes(&raw).unzip();
    if has("visual.trunk.") && !config_timm::is_named(&model_cfg(config, file)?.inner("vision_cfg")?) {
        return Err(unsupported(weights, "a timm image tower that its configuration does not name (`visual.trunk.*`)"));
    }
    let hints = Hints { head, projection_bias: bias, timm };
    let architecture = config_openclip::architecture(config, file, hints)?;
    let named = dir.canonicalize().unwrap_or_default();
    if named.file_name().is_some_and(|name| config_openclip::is_quick_gelu(&name.to_string_lossy()))
        && architecture.vision.body.act != Act::QuickGelu
    {
        warn!(target: "vtagd::model::import::checkpoint", dir = %dir.display(), "called quickgelu, but `quick_gelu` is not set in its configuration, which counts");
    }
    for (name, what) in [
        ("visual.layer1.", "a ResNet image tower"),
        ("visual.attn_pool.", "an image tower with attentional pooling"),
        ("text.transformer.embeddings.", "a text tower of Transformers"),
    ] {
        if has(name) {
            return Err(unsupported(weights, format!("{what}, as in the tensors `{name}*`,")));
        }
    }
    let preprocessor = preprocessor::open_clip(config, file, architecture.vision.image_size)?;
    let style = names_openclip::Style { text, linear_projection: linear };
    let files = files(file, &raw, None);
    let origin = |name: &str| match timm_names {
        Some(names) if name.starts_with("vision.") => names_timm::origin(name, names),
        _ => names_openclip::origin(name, style),
    };
    let tensors = canonical(&architecture, raw, weights, origin, problems, names)?;
    let (padding, clean) = open_clip_texts(config, file)?;
    let parts = Parts { family: Family::OpenClip, architecture, tensors, preprocessor, files };
    finish(dir, parts, padding, clean)
}

/// The file in a model's folder has `model_cfg`; those of the library itself are what is in it.
fn model_cfg<'a>(config: &'a Value, file: &'a Path) -> Result<Fields<'a>, ImportError> {
    let whole = Fields::of(file, config)?;
    if whole.get("model_cfg").is_some() { whole.inner("model_cfg") } else { Ok(whole) }
}

/// OpenCLIP's own tokenizer fills up with 0; one of Transformers' with its own token. What it does to texts before is in its settings.
fn open_clip_texts(config: &Value, file: &Path) -> Result<(Padding, Clean), ImportError> {
    let text = model_cfg(config, file)?.inner("text_cfg")?;
    if text.text("tokenizer_mode")?.is_some_and(|mode| !mode.is_empty()) {
        return Err(text.unsupported("tokenizer_mode", "a tokenizer with a mode of its own"));
    }
    let settings = text.inner("tokenizer_kwargs")?;
    let clean = match settings.text("clean")? {
        None | Some("whitespace") => Clean::No,
        Some("lower") => Clean::Lower,
        Some("canonicalize") => Clean::Canonical,
        Some(other) => return Err(settings.unsupported("clean", format!("texts cleaned by `{}`", shown(other)))),
    };
    let mut others = text.get("tokenizer_kwargs").and_then(Value::as_object).into_iter().flatten();
    if let Some((name, _)) = others.find(|(name, _)| *name != "clean") {
        let what = format!("a tokenizer with settings of its own (`{}`)", shown(name));
        return Err(text.unsupported("tokenizer_kwargs", what));
    }
    if text.text("hf_tokenizer_name")?.is_none_or(str::is_empty) {
        return Ok((Padding::Zero, clean));
    }
    let otherwise = text.get("pad_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    Ok((Padding::Named { otherwise }, clean))
}

/// What both layouts have made by then.
struct Parts {
    family: Family,
    architecture: Architecture,
    tensors: Canonical,
    preprocessor: Value,
    files: Vec<PathBuf>,
}

fn finish(dir: &Path, parts: Parts, padding: Padding, clean: Clean) -> Result<Checkpoint, ImportError> {
    let Parts { family, mut architecture, tensors, preprocessor, mut files } = parts;
    let text = &architecture.text;
    let left = !text.causal && text.pooling == TextPooling::Last && padding != Padding::Zero;
    let wanted = Wanted { context: text.context, vocab: text.vocab, padding, left, clean };
    let tokenizer = tokenizer::read(dir, wanted)?;
    files.extend(tokenizer.files.iter().cloned());
    // What the tokenizer fills up with counts, as in Transformers, whose mask is the tokenizer's.
    architecture.text.padding = architecture.text.padding.map(|_| tokenizer.pad_id);
    Ok(Checkpoint {
        dir: dir.to_owned(),
        family,
        architecture,
        tensors: Box::new(tensors),
        tokenizer,
        preprocessor,
        files,
    })
}

fn files(config: &Path, raw: &RawStore, more: Option<PathBuf>) -> Vec<PathBuf> {
    let weights = raw.parts.iter().map(|part| part.path.clone());
    [config.to_owned()].into_iter().chain(weights).chain(more).collect()
}

/// Logit scale and bias, single numbers named `names`; what is wrong goes to `problems`. What `vtagd.json` in the folder says counts
/// first, and a scale that is nowhere is the usual one of such models, as for exports.
fn head(
    dir: &Path,
    raw: &RawStore,
    names: &[&str],
    activation: Activation,
    problems: &mut Vec<String>,
) -> Result<LogitParameters, ImportError> {
    let file = dir.join("vtagd.json");
    let sidecar: Sidecar = match read_json(&file)? {
        Some(json) => serde_json::from_value(json).map_err(|e| damaged(&file, e.to_string()))?,
        None => Sidecar::default(),
    };
    let mut said = [sidecar.logit_scale, sidecar.logit_bias];
    for (at, (said, name)) in said.iter_mut().zip(names).enumerate().filter(|(_, (said, _))| said.is_none()) {
        match raw.tensors.get(*name) {
            None if at == 0 => {}
            None => problems.push(format!(
                "`{name}` is missing, and there is no usual one: if you know it, write it into {}, as {{\"{name}\": -12.9}}",
                file.display()
            )),
            Some(tensor) if tensor.shape.iter().any(|dim| *dim != 1) => {
                problems.push(format!("`{name}` has the shape {:?}, not a single number", tensor.shape));
            }
            Some(_) => {
                let number = raw.read(name, None)?.first().copied().unwrap_or(f32::NAN);
                let value = if at == 0 { number.exp() } else { number };
                if !value.is_finite() || at == 0 && value <= 0.0 {
                    problems.push(format!("`{name}` holds {number}, which is no scale or bias"));
                }
                *said = Some(value);
            }
        }
    }
    if !problems.is_empty() {
        // They are told with everything else that is wrong.
        return Ok(LogitParameters { scale: 1.0, bias: 0.0, activation });
    }
    let [logit_scale, logit_bias] = said;
    let sidecar = Sidecar { logit_scale, logit_bias, activation: Some(activation), ..Sidecar::default() };
    let (head, warning) =
        logit_parameters(&sidecar, &Config::default(), &file).map_err(|error| damaged(dir, error.to_string()))?;
    if let Some(warning) = warning {
        warn!(target: "vtagd::model::import::checkpoint", model = %dir.display(), "{warning}");
    }
    Ok(head)
}
