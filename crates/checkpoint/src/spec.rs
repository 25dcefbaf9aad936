//! What a model wants its pictures to look like, read from the file that came with the model.
//!
//! In: the text of a Hugging Face `preprocessor_config.json`, or of OpenCLIP's `preprocess_cfg` (also Immich's
//! `preprocess_cfg.json`). Out: a validated [`Spec`], plain data that any thread may share. The file is not trusted: sizes are
//! bounded, numbers are finite, and every refusal names the file, the field and the remedy.
//!
//! Missing fields get the defaults of the Transformers processor that the file names; a file that names none is taken for CLIP's,
//! and a processor that is not known must say size, mean and standard deviation itself, since guessing them would quietly give
//! wrong embeddings.

mod field;
mod hf;
mod openclip;

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use crate::json_text;

/// Largest side of the model's input, and of the picture between resize and crop along its short side.
pub const MAX_SIDE: u32 = 4096;

/// Largest preprocessor file that is read; real ones have under 2 KiB.
const MAX_FILE: u64 = 1 << 20;

/// What a text without a file is called in messages.
const UNNAMED: &str = "the preprocessor configuration";

/// Kernel of the resize, antialiased as Pillow does it (`Image.Resampling`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeFilter {
    /// The nearest pixel.
    Nearest,
    /// The mean of those covered.
    Box,
    /// A triangle.
    Bilinear,
    /// A Hamming window.
    Hamming,
    /// Catmull-Rom, a = −0.5.
    Bicubic,
    /// Three lobes.
    Lanczos,
}

/// How the picture is resized before the crop. Sizes are `(height, width)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Not at all.
    None,
    /// The shorter side becomes this, the longer one keeps the shape (its fraction is cut off).
    Shortest(u32),
    /// The picture just fits inside, keeping its shape (sides rounded to nearest, ties to even).
    Inside(u32, u32),
    /// The picture just covers it, keeping its shape (sides rounded to nearest, ties to even).
    Cover(u32, u32),
    /// Exactly this, without regard to the shape.
    Exact(u32, u32),
}

/// Which whole pixel the centre crop starts at when the difference is odd. A picture that is smaller than the crop starts at
/// `(crop − side) // 2` of it with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropRounding {
    /// `(side − crop) // 2`, as Transformers.
    Floor,
    /// `round((side − crop) / 2)` with ties to even, as torchvision.
    HalfEven,
}

/// A model's preprocessing. Fields are private so that every value has passed the checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    size: (u32, u32),
    resize: Resize,
    crop_rounding: CropRounding,
    filter: ResizeFilter,
    scale: [f32; 3],
    bias: [f32; 3],
    bars: [f32; 3],
    fill: [f32; 3],
}

/// Why a preprocessor file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the message shows")]
pub enum SpecError {
    /// The file is missing or cannot be read.
    #[error("{file}: cannot be read: {source}; a model directory needs the preprocessor file that came with the model")]
    Read { file: String, source: std::io::Error },
    /// Not JSON, or not an object.
    #[error("{file}: not a JSON object: {reason}; fetch the file again")]
    Syntax { file: String, reason: String },
    /// A field has an impossible value.
    #[error("{file}: field `{field}`: {reason}")]
    Field { file: String, field: String, reason: String },
}

impl SpecError {
    fn of_file(self, path: &Path) -> Self {
        let file = path.display().to_string();
        match self {
            Self::Read { source, .. } => Self::Read { file, source },
            Self::Syntax { reason, .. } => Self::Syntax { file, reason },
            Self::Field { field, reason, .. } => {
                Self::Field { file, field, reason: json_text::explained(path, reason) }
            }
        }
    }
}

/// The numbers both kinds of file come down to, before they are checked together.
struct Parts {
    size: (u32, u32),
    resize: Resize,
    crop_rounding: CropRounding,
    filter: ResizeFilter,
    /// Factor from 0–255 to the model's range, if any.
    rescale: Option<f64>,
    /// Mean and standard deviation after rescaling, if any.
    normalise: Option<([f64; 3], [f64; 3])>,
    /// The same mean, for letterbox bars where nothing is normalised.
    mean: [f64; 3],
    /// 0–255 colour beside a picture that is smaller than the crop.
    fill: f64,
}

impl Spec {
    /// Reads a `preprocessor_config.json`.
    ///
    /// # Errors
    /// A missing, huge or damaged file; a field of the wrong kind or out of bounds.
    pub fn from_file(path: &Path) -> Result<Self, SpecError> {
        Self::from_json(&read(path)?).map_err(|e| e.of_file(path))
    }

    /// As [`Self::from_file`], from the text itself. An object `preprocess_cfg` in it is OpenCLIP's and counts alone: so an
    /// imported OpenCLIP model keeps its own rounding in a file of the usual name.
    ///
    /// # Errors
    /// Text that is not a JSON object; a field of the wrong kind or out of bounds.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        let json = parse(text)?;
        match field::get(field::object(&json)?, "preprocess_cfg") {
            Some(openclip) => Self::from_openclip(openclip, None),
            None => hf::parts(field::object(&json)?)?.check(),
        }
    }

    /// Reads Immich's `visual/preprocess_cfg.json`, which holds OpenCLIP's fields and the size.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_openclip_file(path: &Path) -> Result<Self, SpecError> {
        let spec = |text: &str| Self::from_openclip(&parse(text)?, None);
        spec(&read(path)?).map_err(|e| e.of_file(path))
    }

    /// From OpenCLIP's `preprocess_cfg` object; `image_size` is `model_cfg.vision_cfg.image_size` (a number or `[height, width]`)
    /// and counts when the object has no `size` of its own.
    ///
    /// # Errors
    /// Not an object; a field of the wrong kind or out of bounds; no size at all.
    pub fn from_openclip(config: &Value, image_size: Option<&Value>) -> Result<Self, SpecError> {
        openclip::parts(field::object(config)?, image_size)?.check()
    }

    /// The model's input, `(height, width)`.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// Floats of one picture: `3 × height × width`.
    pub fn place_len(&self) -> usize {
        3 * self.size.0 as usize * self.size.1 as usize
    }

    /// How a picture is resized before the crop.
    pub fn resize(&self) -> Resize {
        self.resize
    }

    /// Which pixel an odd crop starts at.
    pub fn crop_rounding(&self) -> CropRounding {
        self.crop_rounding
    }

    /// The kernel of the resize.
    pub fn filter(&self) -> ResizeFilter {
        self.filter
    }

    /// Per channel: tensor value = 0–255 sample × scale + bias.
    pub fn affine(&self) -> ([f32; 3], [f32; 3]) {
        (self.scale, self.bias)
    }

    /// Tensor value of letterbox bars (the mean colour; 0 where the model normalises).
    pub fn bars(&self) -> [f32; 3] {
        self.bars
    }

    /// Tensor value beside a picture that is smaller than the crop (black).
    pub fn fill(&self) -> [f32; 3] {
        self.fill
    }
}

impl Parts {
    /// Folds rescaling and normalisation into one factor and one offset a channel.
    fn check(self) -> Result<Spec, SpecError> {
        let rescale = self.rescale.unwrap_or(1.0);
        let (mean, std) = self.normalise.unwrap_or(([0.0; 3], [1.0; 3]));
        let mut spec = Spec {
            size: self.size,
            resize: self.resize,
            crop_rounding: self.crop_rounding,
            filter: self.filter,
            scale: [0.0; 3],
            bias: [0.0; 3],
            bars: [0.0; 3],
            fill: [0.0; 3],
        };
        for c in 0..3 {
            spec.scale[c] = (rescale / std[c]) as f32;
            spec.bias[c] = (-mean[c] / std[c]) as f32;
            spec.fill[c] = ((self.fill * rescale - mean[c]) / std[c]) as f32;
            spec.bars[c] = match (self.normalise, self.rescale) {
                (Some(_), _) => 0.0,
                (None, Some(_)) => self.mean[c] as f32,
                (None, None) => (self.mean[c] * 255.0) as f32,
            };
        }
        Ok(spec)
    }
}

fn read(path: &Path) -> Result<String, SpecError> {
    let failed = |source| SpecError::Read { file: path.display().to_string(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE {
        let reason = format!("{length} bytes are too many for a preprocessor file");
        return Err(failed(std::io::Error::other(reason)));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    json_text::text(&bytes).map(Cow::into_owned).map_err(|reason| failed(std::io::Error::other(reason)))
}

fn parse(text: &str) -> Result<Value, SpecError> {
    json_text::parse(text.as_bytes()).map_err(|reason| SpecError::Syntax { file: UNNAMED.to_owned(), reason })
}

#[cfg(test)]
mod tests;
