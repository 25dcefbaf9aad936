//! Still pictures through preprocessing and the image tower, for `tag` and `embed`. A picture that cannot be used costs itself only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::frame::still_image::{self, StillImageError};
use crate::infer::{ImageEncoder, InferError};
use crate::preprocess::{PreprocessError, Preprocessor, Spec, View};

/// Pictures looked at together.
pub const BATCH: usize = 8;

/// Why one picture has no embedding.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(transparent)]
    Still(#[from] StillImageError),
    #[error("{}: {error}", file.display())]
    Preprocess { file: PathBuf, error: PreprocessError },
}

/// A file and its embedding, L2-normalised.
pub type Embedded<'a> = (&'a Path, Result<Vec<f32>, Unusable>);

/// Embeds `files` (at most [`BATCH`] at a time make sense) in one run. Gives each its embedding, or why it has none, in order.
///
/// # Errors
/// When the run itself fails.
pub fn embed<'a>(
    files: &'a [PathBuf],
    spec: &Arc<Spec>,
    encoder: &mut dyn ImageEncoder,
) -> Result<Vec<Embedded<'a>>, InferError> {
    let place = spec.place_len();
    let mut preprocessor = Preprocessor::new(Arc::clone(spec));
    let mut pixels = Vec::new();
    let prepared: Vec<Result<(), Unusable>> = files
        .iter()
        .map(|file| {
            let picture = still_image::load(file)?;
            let start = pixels.len();
            pixels.resize(start + place, 0.0);
            preprocessor.run(&picture, View::default(), 0, &mut pixels[start..]).map_err(|error| {
                pixels.truncate(start);
                Unusable::Preprocess { file: file.clone(), error }
            })
        })
        .collect();
    let mut embeddings = Vec::new();
    if !pixels.is_empty() {
        encoder.encode(&pixels, pixels.len() / place, &mut embeddings)?;
    }
    let mut rows = embeddings.chunks_exact(encoder.dim());
    let one = |(file, prepared): (&'a PathBuf, Result<(), Unusable>)| {
        let embedding = prepared.map(|()| rows.next().map(<[f32]>::to_vec).unwrap_or_default());
        (file.as_path(), embedding)
    };
    Ok(files.iter().zip(prepared).map(one).collect())
}
