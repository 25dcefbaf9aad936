//! `vtagd labels report`: how far the labels of a set can be trusted on a stream, as they are.
//!
//! In: a configuration, a label set and a stream of it, what the stream was like (as `labels calibrate` has it), and marks. Out: for each label, with the
//! thresholds that are in force: strict F1, how much of the time without it is tagged and of the time with it covered, drift; and the *intruder rate*:
//! how often it is told where strangers were pasted into empty moments. For people, as JSON, as a page. Changes nothing. On the main thread, which waits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::ArrayView1;

use super::calibrate::{self, Observed, Scores};
use super::calibrate_marks;
use super::intruder_pictures::{self, EmptyFrame};
use super::marks::{self, Failure};
use super::report_text::{Intruders, LabelTrust, TrustReport};
use super::{DEFAULT_CONFIG, complain, say};
use crate::calibrate::marked_samples::EDGE;
use crate::calibrate::{self as calibration, Recording, Setting, past_samples};
use crate::config::{self, Settings, StreamSettings, calibrations};
use crate::daemon::engine::{Engine, EngineError};
use crate::daemon::example_embeddings::{ExampleViews, PictureEmbedder, SessionEmbedder};
use crate::daemon::{clip_frame, running_streams};
use crate::event::ThresholdOrigin;
use crate::frame::Picture;
use crate::frame::view::NamedView;
use crate::infer::InferSettings;
use crate::label::LabelSet;
use crate::platform::atomic_file::{self, Durability};
use crate::platform::shutdown;
use crate::score::{LabelScore, Scorer};
use crate::source::Location;

/// Empty moments that strangers are pasted into.
const MOMENTS: usize = 3;
/// Between two moments that are tried for whether they are empty, in seconds.
const STEP: f64 = 0.5;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the label set.
    set: String,
    /// Configuration file of the daemon.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Id of the stream.
    #[arg(long, value_name = "ID")]
    stream: String,
    /// The region, of a stream that has some.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// A video of what the stream sees; may be given several times [default: the stream's history, or the stream itself where it is a file].
    #[arg(long = "clip", value_name = "FILE")]
    clips: Vec<PathBuf>,
    /// What is seen when, as `labels calibrate` takes it [default: what `vtagd marks` keeps].
    #[arg(long = "marks", value_name = "FILE")]
    marks: Vec<PathBuf>,
    /// Only this label; may be given several times.
    #[arg(long = "label", value_name = "NAME")]
    labels: Vec<String>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Also write a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Does it; the exit code.
pub fn run(args: &Args) -> u8 {
    match report(args) {
        Ok(()) => 0,
        Err((why, code)) => {
            if !why.is_empty() {
                complain(&why);
            }
            code
        }
    }
}

fn report(args: &Args) -> Result<(), Failure> {
    let given = calibrate::Args::of_report(
        (&args.set, &args.config, &args.stream, args.region.as_deref()),
        (&args.clips, &args.marks, &args.labels),
    );
    let settings = marks::settings(&args.config)?;
    let known = marks::labels_of(&settings, &args.stream, &args.set)?;
    if let Some(strange) = args.labels.iter().find(|label| !known.contains(label)) {
        return Err((format!("the set `{}` has no label `{strange}` (it has {})", args.set, known.join(", ")), 2));
    }
    let at_view = calibrate::view_of(&given, &settings)?;
    let marks = calibrate_marks::marks_for(&given, &settings, &known)?;
    // As it is: what the past would teach is no part of it.
    let observed = calibrate::observed(&given, &settings, at_view, marks, false)?;
    let own = &observed.settings;
    let stream = own.streams.iter().find(|one| *one.source.id == *args.stream);
    let view = stream.and_then(|one| one.views.get(at_view));
    let (Some(set), Some(stream), Some(view)) = (own.label_sets.get(observed.set), stream, view) else {
        return Err(("the configuration has changed meanwhile".to_owned(), 1));
    };
    let found = intruders(args, &settings, &observed, (set, stream, view))?;
    let is_wanted = |name: &String| args.labels.is_empty() || args.labels.contains(name);
    let wanted = set.labels.iter().enumerate().filter(|(_, label)| is_wanted(&label.name));
    let labels = wanted.map(|(at, _)| of_label(&observed, at, (set, stream, view), &found));
    let report = TrustReport {
        set: args.set.clone(),
        stream: args.stream.clone(),
        region: args.region.clone(),
        model: observed.model.clone(),
        recordings: observed.recordings.iter().map(|one| one.name.clone()).collect(),
        no_intruders: found.as_ref().err().cloned(),
        labels: labels.collect(),
    };
    if let Some(page) = &args.html {
        let written = atomic_file::replace(page, report.html().as_bytes(), Durability::Synced);
        written.map_err(|error| (format!("--html {}: cannot be written ({error})", page.display()), 1))?;
    }
    say(&if args.json { report.json().to_string() } else { report.text() });
    Ok(())
}

/// What the label with this index does with what is marked, and with strangers.
fn of_label(
    observed: &Observed,
    at: usize,
    (set, stream, view): (&LabelSet, &StreamSettings, &NamedView),
    found: &Result<Pasted, String>,
) -> LabelTrust {
    let label = &set.labels[at];
    let (thresholds, origin) =
        calibrations::in_force(&observed.settings, observed.set, label, stream, view, Some(&observed.model));
    let (is_waiting, is_calibrated) = (origin.is_waiting(), matches!(origin, ThresholdOrigin::Calibration(_)));
    let setting = Setting {
        every: stream.interval.at_start(),
        gap: running_streams::gap(stream),
        current: Some(thresholds).filter(|_| !is_waiting),
        base: config::thresholds(label, &observed.settings.events),
        origin: Instant::now(),
        counter_examples: &[],
    };
    let samples: Vec<_> = observed.recordings.iter().map(|recording| recording.samples(at)).collect();
    let region = view.name.as_deref();
    let marks = |one: &calibrate::MarkedRecording| {
        (one.marks.seen(&label.name, region, one.is_clip()), one.marks.absent(&label.name, region, one.is_clip()))
    };
    let spans: Vec<_> = observed.recordings.iter().map(marks).collect();
    let recordings: Vec<Recording<'_>> =
        samples.iter().zip(&spans).map(|(samples, (seen, absent))| Recording { samples, seen, absent }).collect();
    let enter = thresholds.enter.margin();
    let drift = match origin {
        ThresholdOrigin::Calibration(usual) => {
            recordings.last().and_then(|last| past_samples::drift(last.samples, setting.every, &usual, enter))
        }
        _ => None,
    };
    let intruders = found.as_ref().ok().filter(|_| !is_waiting).map(|pasted| {
        let texts: Vec<String> = label.prompts.iter().chain([&label.name]).cloned().collect();
        pasted.told(at, enter, &texts)
    });
    let learned = found.as_ref().ok().and_then(|pasted| pasted.learned.iter().find(|one| one.label == at).cloned());
    LabelTrust {
        label: label.name.clone(),
        is_waiting,
        is_calibrated,
        enter,
        tally: calibration::as_it_is(&recordings, &setting),
        drift,
        learned,
        intruders,
    }
}

/// Margins of all labels where strangers stand in empty moments.
struct Pasted {
    /// Of each stranger by its number: the margins of all labels, of each picture.
    margins: Vec<Vec<Vec<f32>>>,
    /// The same of the empty moments themselves.
    empty: Vec<Vec<f32>>,
    learned: Vec<crate::score::learning::LearnedLabel>,
}

impl Pasted {
    /// How often the label with this index is told at `enter`.
    fn told(&self, label: usize, enter: f32, texts: &[String]) -> Intruders {
        let is_told = |margins: &&Vec<f32>| margins.get(label).is_some_and(|margin| *margin >= enter);
        let mut told = Intruders {
            pictures: 0,
            told: 0,
            empty: self.empty.len(),
            empty_told: self.empty.iter().filter(is_told).count(),
            by_kind: Vec::new(),
            left_out: Vec::new(),
        };
        for (intruder, margins) in intruder_pictures::ALL.iter().zip(&self.margins) {
            if intruder.is_meant(texts) {
                told.left_out.push(intruder.name);
                continue;
            }
            let count = margins.iter().filter(is_told).count();
            told.by_kind.push((intruder.name, count as f64 / margins.len().max(1) as f64));
            told.pictures += margins.len();
            told.told += count;
        }
        told
    }
}

/// Pastes strangers into empty moments of the clips. The inner error says why there are none to paste into.
fn intruders(
    args: &Args,
    settings: &Settings,
    observed: &Observed,
    (set, stream, view): (&LabelSet, &StreamSettings, &NamedView),
) -> Result<Result<Pasted, String>, Failure> {
    let files: Vec<&Path> = match &stream.source.location {
        _ if !args.clips.is_empty() => args.clips.iter().map(PathBuf::as_path).collect(),
        Location::File(file) => vec![file],
        _ => {
            return Ok(Err(
                "strangers are pasted into pictures of empty moments: --clip has some, with --marks".to_owned()
            ));
        }
    };
    let mut moments = Vec::new();
    for (file, recording) in files.iter().zip(&observed.recordings) {
        let Scores::Clip(clip) = &recording.scores else { continue };
        let length = clip.samples.last().map_or(0.0, |(time, _)| time.media.as_secs_f64());
        let absent: Vec<_> =
            set.labels.iter().map(|label| recording.marks.absent(&label.name, args.region.as_deref(), true)).collect();
        let is_empty =
            |at: &f64| absent.iter().all(|spans| spans.iter().any(|(from, to)| from + EDGE <= *at && *at <= to - EDGE));
        let all = (0..).map(|step| f64::from(step) * STEP).take_while(|at| *at <= length).filter(is_empty);
        moments.extend(all.map(|at| (*file, at)));
    }
    if moments.is_empty() {
        return Ok(Err("no moment is marked as without all labels of the set: mark some `empty`".to_owned()));
    }
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    let failed = |error: EngineError| (error.to_string(), error.exit_code());
    let one = InferSettings { sessions: InferSettings::default().sessions, ..settings.infer.clone() };
    let sets = std::slice::from_ref(set);
    let mut engine = Engine::build(&settings.model, &one, sets, &shutdown).map_err(failed)?;
    engine.learn(sets, &ExampleViews::of(settings), &shutdown).map_err(failed)?;
    let (Some(scorer), Some(mut encoder)) = (engine.scorers.pop(), engine.encoders.pop()) else {
        return Ok(Err("there is no model".to_owned()));
    };
    let mut embedder = SessionEmbedder { spec: &engine.spec, encoder: encoder.as_mut() };
    let mut look = |picture: &Arc<Picture>| -> Result<Vec<f32>, String> {
        let tiles = embedder.embed(picture, view)?;
        Ok(margins(&scorer, &tiles))
    };
    let mut pasted = Pasted {
        margins: vec![Vec::new(); intruder_pictures::ALL.len()],
        empty: Vec::new(),
        learned: scorer.learned_labels().to_vec(),
    };
    // Evenly spread over all of them.
    let count = moments.len().min(MOMENTS);
    for number in 0..count {
        let (file, at) = moments[(2 * number + 1) * moments.len() / (2 * count)];
        let told = |why: String| (format!("{}: {why}", file.display()), 1);
        let frame = clip_frame::at(file, Duration::from_secs_f64(at), &shutdown).map_err(told)?;
        let frame = EmptyFrame::new(&frame).map_err(told)?;
        pasted.empty.push(look(&Arc::new(frame.picture().map_err(told)?)).map_err(told)?);
        for (intruder, margins) in intruder_pictures::ALL.iter().zip(&mut pasted.margins) {
            let shown = |picture: Picture| {
                if shutdown.is_requested() {
                    return Err("interrupted".to_owned());
                }
                margins.push(look(&Arc::new(picture))?);
                Ok(())
            };
            intruder.paste_into(&frame, shown).map_err(told)?;
        }
    }
    Ok(Ok(pasted))
}

/// Of each label the best margin of several tiles.
fn margins(scorer: &Scorer, tiles: &[f32]) -> Vec<f32> {
    let of_tiles = tiles.chunks_exact(scorer.dim().max(1)).map(|tile| scorer.score(ArrayView1::from(tile)));
    let best = |a: Vec<LabelScore>, b: Vec<LabelScore>| a.into_iter().zip(b).map(|(a, b)| a.best(b)).collect();
    of_tiles.reduce(best).unwrap_or_default().into_iter().map(|score| score.margin).collect()
}
