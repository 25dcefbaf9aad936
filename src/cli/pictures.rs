//! Still pictures through preprocessing and the image tower, for `tag` and `embed`. A picture that cannot be used costs itself only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::frame::still_image::{self, StillImageError};
use crate::infer::{ImageEncoder, InferError};
use crate::preprocess::{PreprocessError, Preprocessor, Spec, View};

/// How many pictures are looked at together.
#[derive(Debug, clap::Args)]
pub struct BatchArgs {
    /// Pictures looked at together, 1 to 1024: more are faster on a GPU and take more memory.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
}

impl BatchArgs {
    pub fn size(&self) -> usize {
        usize::from(self.batch)
    }
}

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

/// Embeds `files` (as many as [`BatchArgs`] says) in one run. Gives each its embedding, or why it has none, in order.
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
