//! One frame of a video file: the nearest to a moment. In: a file and a time from its first frame. Out: the picture, or why there is none. The clip goes
//! a stream's way, through a pipeline of its own with nothing but a decoder in it; only the first frame and the wanted one are sampled. The caller waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use serde_json::json;
use url::Url;

use crate::config;
use crate::frame::{FrameTime, Picture};
use crate::infer::{ImageEncoder, InferError, Provider};
use crate::pipeline::intake::StreamPart;
use crate::pipeline::{self, Stages};
use crate::platform::shutdown::{self, Shutdown};
use crate::preprocess::Spec;
use crate::sample::Interval;
use crate::score::LabelScore;
use crate::score::score_routes::ScoreRoute;
use crate::source::{Decode, Decoder, Ended, Pace};
use crate::stream::registry::RegisteredStream;

/// What metrics call it; no stream can be called so.
const STREAM: &str = "@examples";
/// How often it is looked whether the clip has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How far from the wanted moment the frame may lie: beyond, the clip was over before.
const NEAR: Duration = Duration::from_secs(1);

/// Whether a frame at `media` may be the wanted one; the clip's first, which always comes, is not that of any later moment.
fn is_reached(media: Duration, at: Duration) -> bool {
    media + NEAR.min(at / 2) >= at
}

/// Embeds nothing: only the picture is wanted.
struct NoModel;

impl ImageEncoder for NoModel {
    fn dim(&self) -> usize {
        1
    }

    fn provider(&self) -> Provider {
        Provider::Cpu
    }

    fn encode(&mut self, _: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        embeddings.clear();
        embeddings.resize(count, 1.0);
        Ok(())
    }
}

/// See the module.
///
/// # Errors
/// Why there is no such frame.
pub fn at(file: &Path, at: Duration, shutdown: &Shutdown) -> Result<Arc<Picture>, String> {
    let path = file.canonicalize().map_err(|error| format!("cannot be read: {error}"))?;
    let url = Url::from_file_path(&path).map_err(|()| "has a name that no address can hold".to_owned())?;
    let text = json!({ "model": { "path": "none" }, "streams": [{ "id": "clip", "url": url.as_str() }] }).to_string();
    let settings = config::of_text("clip", &text).map_err(|problems| {
        problems.into_iter().next().map_or_else(|| "cannot be read".to_owned(), |problem| problem.message)
    })?;
    let mut source = settings.streams.into_iter().next().ok_or("cannot be read")?.source;
    (source.id, source.pace, source.looped) = (STREAM.into(), Pace::Fast, false);
    (source.decode, source.decoder) = (Decode::All, Decoder::Software);
    let (found, frame) = bounded(1);
    let handler = Box::new(move |time: FrameTime, picture: Option<&Arc<Picture>>, _: &[Vec<LabelScore>]| {
        if is_reached(time.media, at)
            && let Some(picture) = picture
        {
            // The first of them; nobody waits for another.
            let _ = found.try_send((time.media, Arc::clone(picture)));
        }
    });
    let stages = Stages {
        spec: Arc::new(Spec::from_json("{}").map_err(|error| error.to_string())?),
        encoders: vec![Box::new(NoModel)],
        runs: Arc::default(),
        max_size: 1,
        max_delay: Duration::ZERO,
        threads: 1,
    };
    let (trigger, own) = shutdown::channel();
    let (mut intake, mut threads) = pipeline::start(stages, &own).map_err(|error| error.to_string())?;
    intake.keep_pictures();
    let part = StreamPart {
        record: RegisteredStream::new(&source.id, Vec::new()),
        source,
        // The grid's first point is the clip's beginning, the second one the moment.
        interval: Interval::Every(if at.is_zero() { Duration::MAX } else { at }),
        unchanged: None,
        views: Default::default(),
        route: ScoreRoute { scorers: Vec::new(), skipped: Vec::new(), handler, embeddings: None },
    };
    let member = intake.join(part).map_err(|error| error.to_string())?;
    let mut ended = None;
    let picture = loop {
        match frame.recv_timeout(POLL_INTERVAL) {
            Ok((media, picture)) if media <= at + NEAR => break Ok(picture),
            Ok(_) => break Err("has no frame near that moment".to_owned()),
            Err(RecvTimeoutError::Disconnected) => break Err("was lost on its way".to_owned()),
            Err(RecvTimeoutError::Timeout) if shutdown.is_requested() => break Err("was not waited for".to_owned()),
            Err(RecvTimeoutError::Timeout) if ended.is_none() => ended = member.ended(),
            // Its last frames may still be on their way.
            Err(RecvTimeoutError::Timeout) if !member.is_drained() => {}
            Err(RecvTimeoutError::Timeout) => match (frame.try_recv(), ended.flatten()) {
                (Ok((media, picture)), _) if media <= at + NEAR => break Ok(picture),
                (_, Some(Ended::Failed(error))) => break Err(error.to_string()),
                _ => break Err(format!("is over before {} s", at.as_secs_f64())),
            },
        }
    };
    member.stop();
    trigger.trigger();
    threads.push(member.into_thread());
    intake.close().clear();
    let panicked = threads.into_iter().filter_map(|(_, thread)| thread.join().err()).count() > 0;
    if panicked { Err("could not be read: a stage panicked; please report this".to_owned()) } else { picture }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_is_that_of_the_beginning_alone() {
        let ms = Duration::from_millis;
        assert!(is_reached(ms(0), ms(0)));
        for at in [1, 40, 500, 1000, 5000] {
            assert!(
                !is_reached(ms(0), ms(at)) && is_reached(ms(at), ms(at)) && is_reached(ms(at + 20), ms(at)),
                "{at}"
            );
        }
        assert!(is_reached(ms(4990), ms(5000)), "a frame shortly before, where frames are far apart");
    }
}
