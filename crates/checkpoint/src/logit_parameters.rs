//! How a model's cosine becomes a logit and a probability, read from its JSON files.
//!
//! In order: `vtagd.json`, then `logit_scale`, `logit_bias` and `activation` of `config.json`. A plain Hugging Face
//! configuration holds only `logit_scale_init_value`, where training *started*, which is of no use; then the value that
//! published models of the family ended at is taken, with a warning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ModelError;
use super::import::manifest::{Measurement, Probe, Summary};
use crate::json_text;

/// How the model turns a cosine into a logit and a probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitParameters {
    /// Multiplies the cosine; already exponentiated (about 100 for CLIP).
    pub scale: f32,
    /// Added to the logit (SigLIP); 0 for CLIP.
    pub bias: f32,
    /// What makes a score of a logit.
    pub activation: Activation,
}

impl LogitParameters {
    /// Logit of a cosine.
    pub fn logit(self, cosine: f32) -> f32 {
        cosine * self.scale + self.bias
    }
}

/// What a person says in place of the model's own scale and bias.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogitOverride {
    /// Already exponentiated.
    pub scale: Option<f32>,
    /// Added to a logit.
    pub bias: Option<f32>,
}

/// What the model was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Over all texts that are compared.
    Softmax,
    /// Of each text alone.
    Sigmoid,
}

/// CLIP clips its scale at 100 in training, and every published CLIP and OpenCLIP model ends there (Radford et al. 2021, 2.5).
const CLIP_SCALE: f32 = 100.0;
/// SigLIP B/16 at 224 pixels, as published; other sizes lie between 100 and 120 and between -10 and -17.
const SIGLIP_SCALE: f32 = 117.33;
const SIGLIP_BIAS: f32 = -12.93;

/// `vtagd.json`: what our own bundle knows beyond the exported files. All of it may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Sidecar {
    pub name: Option<String>,
    /// Already exponentiated.
    pub logit_scale: Option<f32>,
    pub logit_bias: Option<f32>,
    pub activation: Option<Activation>,
    /// Written by an import, never by hand.
    pub precision: Option<String>,
    /// Which files to use where the directory holds several variants, relative to it.
    pub vision_model: Option<String>,
    pub text_model: Option<String>,
    /// Our own import writes it; see [`Bundle::byte_sums_fit`](super::Bundle::byte_sums_fit).
    #[serde(default)]
    pub byte_sums_fit: bool,
    /// Written by an import; see [`KnownEmbedding`](super::bundle::KnownEmbedding).
    #[serde(default)]
    pub probe: Option<Probe>,
    #[serde(default)]
    pub measured: BTreeMap<String, Measurement>,
    #[serde(default)]
    pub architecture: Option<Summary>,
}

/// The few words of `config.json` that matter here; everything else is the exporter's business.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub model_type: String,
    logit_scale: Option<f32>,
    logit_bias: Option<f32>,
    activation: Option<Activation>,
    #[serde(default)]
    pub text_config: TextConfig,
    /// OpenCLIP and Immich.
    #[serde(default)]
    pub text_cfg: TextConfig,
}

/// The text tower's part of `config.json`, under the names that Transformers and OpenCLIP use.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TextConfig {
    #[serde(default)]
    pub model_type: String,
    #[serde(alias = "context_length")]
    pub max_position_embeddings: Option<usize>,
    pub vocab_size: Option<u64>,
    pub pad_token_id: Option<u32>,
}

impl Config {
    /// Whether this is a SigLIP: no causal mask, padding is attended to, sigmoid scores.
    pub fn is_siglip(&self) -> bool {
        self.model_type.starts_with("siglip") || self.text_config.model_type.starts_with("siglip")
    }
}

/// Reads a JSON file of at most 16 MiB; `None` when there is none.
///
/// # Errors
/// [`ModelError::Damaged`] for a file that cannot be read, is larger, or is not JSON of this kind.
pub fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Option<T>, ModelError> {
    const LIMIT: u64 = 16 << 20; // configuration files are kilobytes; more is something else
    let damaged = |message: String| ModelError::Damaged { file: file.to_owned(), message };
    match file.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(damaged(format!("cannot be read: {e}"))),
        Ok(meta) if meta.len() > LIMIT => {
            return Err(damaged(format!("has {} bytes, which is no configuration file", meta.len())));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(file).map_err(|e| damaged(format!("cannot be read: {e}")))?;
    json_text::parse(&bytes).map(Some).map_err(damaged)
}

/// The head, and a warning if some of it had to be guessed.
///
/// # Errors
/// A scale that is not a positive number, or a bias that is not finite.
pub fn logit_parameters(
    sidecar: &Sidecar,
    config: &Config,
    file: &Path,
) -> Result<(LogitParameters, Option<String>), ModelError> {
    let natural = if config.is_siglip() { Activation::Sigmoid } else { Activation::Softmax };
    let activation = sidecar.activation.or(config.activation).unwrap_or(natural);
    let scale = sidecar.logit_scale.or(config.logit_scale);
    let bias = sidecar.logit_bias.or(config.logit_bias);

    let (default_scale, default_bias) = match activation {
        Activation::Softmax => (CLIP_SCALE, 0.0),
        Activation::Sigmoid => (SIGLIP_SCALE, SIGLIP_BIAS),
    };
    let logit_parameters =
        LogitParameters { scale: scale.unwrap_or(default_scale), bias: bias.unwrap_or(default_bias), activation };
    if !(logit_parameters.scale.is_finite() && logit_parameters.scale > 0.0 && logit_parameters.bias.is_finite()) {
        let message = format!(
            "logit_scale must be positive and logit_bias a number, not {} and {}",
            logit_parameters.scale, logit_parameters.bias
        );
        return Err(ModelError::Damaged { file: PathBuf::from(file), message });
    }
    let guessed = scale.is_none() || (bias.is_none() && activation == Activation::Sigmoid);
    let warning = guessed.then(|| {
        format!(
            "the model does not hold the trained logit scale{}; using {}{}, put `logit_scale`{} under `model:` in the configuration or into vtagd.json beside the model if you know better",
            if activation == Activation::Sigmoid { " and bias" } else { "" },
            logit_parameters.scale,
            if logit_parameters.bias == 0.0 { String::new() } else { format!(" and {}", logit_parameters.bias) },
            if activation == Activation::Sigmoid { " and `logit_bias`" } else { "" },
        )
    });
    Ok((logit_parameters, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sidecar: &str, config: &str) -> (LogitParameters, Option<String>) {
        let (sidecar, config) = (serde_json::from_str(sidecar).unwrap(), serde_json::from_str(config).unwrap());
        logit_parameters(&sidecar, &config, Path::new("config.json")).unwrap()
    }

    #[test]
    fn a_scale_that_is_written_down_is_taken_without_a_warning() {
        let (logit_parameters, warning) =
            of("{}", r#"{"model_type":"conse","logit_scale":20.0,"activation":"softmax"}"#);
        assert_eq!(logit_parameters, LogitParameters { scale: 20.0, bias: 0.0, activation: Activation::Softmax });
        assert_eq!(warning, None);
        let (logit_parameters, _) = of(r#"{"logit_scale":7,"logit_bias":-1}"#, r#"{"logit_scale":20.0}"#);
        assert_eq!((logit_parameters.scale, logit_parameters.bias), (7.0, -1.0));
    }

    #[test]
    fn the_initial_scale_of_a_hugging_face_export_is_not_taken_for_the_trained_one() {
        let (logit_parameters, warning) = of("{}", r#"{"model_type":"clip","logit_scale_init_value":2.6592}"#);
        assert_eq!((logit_parameters.scale, logit_parameters.activation), (100.0, Activation::Softmax));
        assert!(warning.unwrap().contains("vtagd.json"));
    }

    #[test]
    fn a_siglip_scores_with_a_sigmoid_unless_told_otherwise() {
        let (logit_parameters, warning) = of("{}", r#"{"model_type":"siglip2"}"#);
        assert_eq!(logit_parameters.activation, Activation::Sigmoid);
        assert!(logit_parameters.bias < -5.0 && warning.is_some());
        let (logit_parameters, _) = of(r#"{"activation":"softmax"}"#, r#"{"model_type":"siglip"}"#);
        assert_eq!((logit_parameters.activation, logit_parameters.bias), (Activation::Softmax, 0.0));
    }

    #[test]
    fn a_scale_of_zero_is_refused() {
        let sidecar = Sidecar { logit_scale: Some(0.0), ..Sidecar::default() };
        assert!(logit_parameters(&sidecar, &Config::default(), Path::new("c")).is_err());
    }
}
