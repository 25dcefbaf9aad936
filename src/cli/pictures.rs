//! Still pictures through preprocessing and the image tower, for `tag` and `embed`. A picture that cannot be used costs itself only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::frame::still_image::{self, StillImageError};
use crate::frame::view::NamedView;
use crate::infer::{ImageEncoder, InferError};
use crate::preprocess::{self, PreprocessError, Preprocessor, Spec};

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

/// A picture's embedding, L2-normalised; one behind the other where the view has several tiles.
pub type Embedded = Result<Vec<f32>, Unusable>;

/// Embeds `files` (as many as [`BatchArgs`] says), seen through `view`, as many tiles in one run as there are files. Gives each its embedding, or
/// why it has none, in order.
///
/// # Errors
/// When a run itself fails.
pub fn embed(
    files: &[impl AsRef<Path>],
    view: &NamedView,
    spec: &Arc<Spec>,
    encoder: &mut dyn ImageEncoder,
) -> Result<Vec<Embedded>, InferError> {
    let place = spec.place_len();
    let mut preprocessor = Preprocessor::new(Arc::clone(spec));
    let mut pixels = Vec::new();
    let prepared: Vec<Result<usize, Unusable>> = files
        .iter()
        .map(|file| {
            let picture = still_image::load(file.as_ref())?;
            let (start, tiles) = (pixels.len(), preprocess::tiles(view.view, picture.width(), picture.height()));
            pixels.resize(start + tiles * place, 0.0);
            for (tile, place) in pixels[start..].chunks_exact_mut(place).enumerate() {
                let done = match &view.mask {
                    Some(mask) => preprocessor.run_masked(&picture, view.view, mask, tile, place),
                    None => preprocessor.run(&picture, view.view, tile, place),
                };
                if let Err(error) = done {
                    pixels.truncate(start);
                    return Err(Unusable::Preprocess { file: file.as_ref().to_owned(), error });
                }
            }
            Ok(tiles)
        })
        .collect();
    let (mut embeddings, mut some) = (Vec::new(), Vec::new());
    for pixels in pixels.chunks(place * files.len().max(1)) {
        encoder.encode(pixels, pixels.len() / place, &mut some)?;
        embeddings.append(&mut some);
    }
    let mut rows = embeddings.chunks_exact(encoder.dim());
    let mut embedding = |tiles: usize| rows.by_ref().take(tiles).flatten().copied().collect();
    Ok(prepared.into_iter().map(|tiles| tiles.map(&mut embedding)).collect())
}
