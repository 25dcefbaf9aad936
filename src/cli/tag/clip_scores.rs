//! A label set's margins over clips, as a stream of a configuration would see them: its view, interval and model, the daemon's own scorer.
//!
//! In: a configuration, a stream, a set, and clips (none: the stream's own file). Out: each clip's scores, kept in memory, at most
//! [`MAX_SCORES`]. On the caller's thread, which waits; frames go the way of `tag`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use parking_lot::Mutex;

use super::rehearsed_stream::Input;
use super::score_lines::Printer;
use super::watched_video::Watch;
use super::{Args, complain, prepare};
use crate::config::Settings;
use crate::frame::FrameTime;
use crate::platform::shutdown;
use crate::platform::userinfo::shown;
use crate::score::LabelScore;
use crate::score::learning::LearnedLabel;
use crate::source::Location;

/// Of all clips and labels together: a hundred megabytes.
const MAX_SCORES: usize = 8_000_000;

/// A clip's samples, in the order of time.
#[derive(Default)]
pub(in crate::cli) struct ClipScores {
    pub name: String,
    /// Each with a score a label.
    pub samples: Vec<(FrameTime, Vec<LabelScore>)>,
    /// What became of labels with examples.
    pub learned: Vec<LearnedLabel>,
}

/// Where scores are collected while a clip is watched.
pub(super) struct ScoreCollector {
    pub samples: Vec<(FrameTime, Vec<LabelScore>)>,
    /// Number of the view that is meant.
    view: usize,
    room: usize,
    pub is_full: bool,
}

impl ScoreCollector {
    /// Takes the scores of the only set in the view.
    pub fn note(&mut self, time: FrameTime, scores: &[Vec<LabelScore>]) {
        let Some(scores) = scores.get(self.view) else { return };
        match self.room.checked_sub(scores.len()) {
            Some(room) => self.room = room,
            None => return self.is_full = true,
        }
        self.samples.push((time, scores.clone()));
    }
}

/// All that was seen.
pub(in crate::cli) struct ScoredStream {
    /// As the configuration has them, with this set alone.
    pub settings: Settings,
    /// The model's fingerprint.
    pub model: String,
    pub clips: Vec<ClipScores>,
}

/// The arguments of `tag`, of which most are left as they are.
#[derive(Parser)]
struct TagLine {
    #[command(flatten)]
    args: Args,
}

/// Watches the clips with the set alone; `view`: number of the stream's view that is meant.
///
/// # Errors
/// The exit code; what was wrong has been told.
pub(in crate::cli) fn score(
    config: &Path,
    stream: &str,
    view: usize,
    set: &str,
    clips: &[PathBuf],
) -> Result<ScoredStream, u8> {
    let words =
        ["tag".into(), "--stream".into(), stream.into(), "-c".into(), config.as_os_str().to_owned(), "--".into()];
    let line = words.into_iter().chain(clips.iter().map(|clip| clip.as_os_str().to_owned()));
    let args = TagLine::try_parse_from(line)
        .map_err(|error| {
            complain(&error);
            2
        })?
        .args;
    let (trigger, shutdown) = shutdown::channel();
    let prepared = prepare(&args, &shutdown, Some(set))?;
    let (watching, settings) = (&prepared.watching, &prepared.watching.settings);
    let is_clip = |input: &Input| match input {
        Input::File(_) => true,
        Input::Stream(stream, _) => matches!(stream.source.location, Location::File(_)),
    };
    if !prepared.inputs.iter().all(is_clip) {
        complain(&format!("stream {stream} is no file: say with --clip what it was like"));
        return Err(2);
    }
    let printer = Printer::new(&settings.label_sets, &watching.base().views, true, 0);
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    let mut clips = Vec::new();
    let mut room = MAX_SCORES;
    for input in &prepared.inputs {
        let (name, stream) = match input {
            Input::Stream(stream, name) => (name.clone(), watching.with_labels((**stream).clone())),
            Input::File(file) => (shown(file), watching.file(file)),
        };
        let collector = Arc::new(Mutex::new(ScoreCollector { samples: Vec::new(), view, room, is_full: false }));
        let watch = Watch {
            engine: &prepared.engine,
            encoder: &prepared.encoder,
            printer: &printer,
            settings,
            args: &args,
            shutdown: &shutdown,
            collector: Some(Arc::clone(&collector)),
        };
        let code = watch.video(&name, stream, None);
        if code != 0 {
            return Err(code);
        }
        let mut collected = collector.lock();
        if collected.is_full {
            complain(&format!(
                "{name}: it is too long for so many labels; what comes after the first part is left out"
            ));
        }
        room = collected.room;
        let learned = prepared.engine.scorers.first().map(|scorer| scorer.learned_labels().to_vec());
        let samples = std::mem::take(&mut collected.samples);
        clips.push(ClipScores { name, samples, learned: learned.unwrap_or_default() });
    }
    let model = prepared.engine.model.fingerprint.to_string();
    Ok(ScoredStream { settings: settings.clone(), model, clips })
}
