//! What of a stream goes into the history: the embeddings of its views, and pictures of them where they are wanted.
//!
//! In: a stream's settings and the history's recorder. Out: what is called on the scoring thread for every frame; it waits for nothing, and what the
//! history has no room for is counted there.

use std::io;
use std::sync::Arc;

use crate::config::StreamSettings;
use crate::event::ModelRef;
use crate::frame::Picture;
use crate::frame::region_picture::region_picture;
use crate::frame::view::NamedView;
use crate::history::name_table::Name;
use crate::history::{PictureEncoder, PictureSettings, Recorder};
use crate::score::score_routes::EmbeddingHandler;

/// What keeps a stream's embeddings.
pub(super) fn embeddings(
    history: Option<&Recorder>,
    stream: &StreamSettings,
    model: &ModelRef,
) -> Option<EmbeddingHandler> {
    let history = history.filter(|_| stream.history)?;
    let of_view = |view: &NamedView| {
        history.stream(Name {
            stream: stream.source.id.to_string(),
            region: view.name.as_deref().unwrap_or_default().to_owned(),
            model: model.fingerprint.to_string(),
            view: view.digest(),
        })
    };
    let mut views: Vec<_> = stream.views.iter().map(|view| (of_view(view), view.clone())).collect();
    let pictures = history.pictures().cloned();
    Some(Box::new(move |time, picture, tiles, embeddings, dim| {
        let mut rest = embeddings;
        for ((record, view), tiles) in views.iter_mut().zip(tiles) {
            let own = rest.split_off(..tiles * dim).unwrap_or_default();
            let encoder = pictures.as_ref().zip(picture).map(|(wanted, picture)| encoder(wanted, picture, view));
            record(time.wall, encoder, own, dim);
        }
    }))
}

/// What makes the JPEG of the view's part of a picture.
fn encoder(wanted: &PictureSettings, picture: &Arc<Picture>, view: &NamedView) -> PictureEncoder {
    let (picture, view) = (Arc::clone(picture), view.clone());
    let (max_side, quality) = (wanted.max_side, wanted.quality);
    Box::new(move || {
        let part = region_picture(&picture, &view).map_err(io::Error::other)?;
        // The decoder may be waiting for it.
        drop(picture);
        crate::snapshot::jpeg(&part, max_side, quality)
    })
}
