//! `vtagd labels calibrate`: thresholds out of marks, written below the state directory where that is asked for.
//!
//! In: a configuration, a label set and a stream of it, what the stream was like (its history, clips, or the file that it is), and marks. Out: what was
//! found, for people or as JSON, with a picture on demand; with `--write` the calibration, which a daemon takes at its next reload. Margins
//! are those of the daemon's own scorer. On the main thread, which waits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::calibrate_confirm::change;
use super::calibrate_marks::{Marks, marks_for, number};
use super::calibrate_past::{self, PastScores};
use super::calibrate_report::{LabelReport, Report, ReportedRecording};
use super::marks::{self, Failure};
use super::tag::clip_scores::{self, ClipScores, ScoredStream};
use super::{DEFAULT_CONFIG, calibrate_plot, complain, plural, say};
use crate::calibrate::marks::SetMarks;
use crate::calibrate::past_samples;
use crate::calibrate::{self, Recording, Sample, Setting};
use crate::config::{self, Settings, calibrations};
use crate::daemon::running_streams;
use crate::event::ThresholdOrigin;
use crate::event::cloud_event::seconds;
use crate::event::drift::UsualRange;
use crate::frame::view::NamedView;
use crate::label::LabelSet;
use crate::label::calibration_file::{self, CalibratedLabel};
use crate::label::kept_examples::{self, KeptExamples};
use crate::platform::writable;
use crate::score::learning::LearnedLabel;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the label set.
    pub(super) set: String,
    /// Configuration file of the daemon.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Id of the stream.
    #[arg(long, value_name = "ID")]
    pub(super) stream: String,
    /// The region, of a stream that has some.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// A video of what the stream sees; may be given several times [default: the stream's history, or the stream itself where it is a file].
    #[arg(long = "clip", value_name = "FILE")]
    pub(super) clips: Vec<PathBuf>,
    /// What is seen when (YAML or JSON), in seconds of a clip: one for each --clip, in the same order; of a camera by the clock [default: what
    /// `vtagd marks` keeps].
    #[arg(long = "marks", value_name = "FILE")]
    pub(super) marks: Vec<PathBuf>,
    /// Only this label; may be given several times.
    #[arg(long = "label", value_name = "NAME")]
    labels: Vec<String>,
    /// Keep what was found, for the daemon's next reload.
    #[arg(long)]
    write: bool,
    /// Everything as one JSON object.
    #[arg(long)]
    json: bool,
    /// Draw how the margins of what was seen and of what was not lie, as SVG.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Args {
    /// What `labels report` is told, as this is told it.
    pub(super) fn of_report(
        (set, config, stream, region): (&str, &std::path::Path, &str, Option<&str>),
        (clips, marks, labels): (&[PathBuf], &[PathBuf], &[String]),
    ) -> Self {
        Self {
            set: set.to_owned(),
            config: config.to_owned(),
            stream: stream.to_owned(),
            region: region.map(str::to_owned),
            clips: clips.to_vec(),
            marks: marks.to_vec(),
            labels: labels.to_vec(),
            write: false,
            json: false,
            plot: None,
        }
    }
}

/// Does it; the exit code.
pub fn run(args: &Args) -> u8 {
    end(calibrated(args))
}

pub(super) fn end(done: Result<u8, Failure>) -> u8 {
    done.unwrap_or_else(|(why, code)| {
        if !why.is_empty() {
            complain(&why);
        }
        code
    })
}

/// What marks are held against.
pub(super) struct MarkedRecording {
    pub name: String,
    pub scores: Scores,
    pub marks: SetMarks,
}

pub(super) enum Scores {
    /// By seconds from its first picture.
    Clip(ClipScores),
    /// By the clock.
    Past(Box<PastScores>),
}

/// All that was seen of the stream.
pub(super) struct Observed {
    pub settings: Settings,
    /// Index of the set there.
    pub set: usize,
    /// The model's fingerprint.
    pub model: String,
    pub recordings: Vec<MarkedRecording>,
    /// What the set's labels have learned from the past of the view, which is part of the settings here, and is to be kept with the thresholds.
    learned: BTreeMap<String, KeptExamples>,
}

fn calibrated(args: &Args) -> Result<u8, Failure> {
    let settings = marks::settings(&args.config)?;
    let known = marks::labels_of(&settings, &args.stream, &args.set)?;
    if let Some(strange) = args.labels.iter().find(|label| !known.contains(label)) {
        return Err((format!("the set `{}` has no label `{strange}` (it has {})", args.set, known.join(", ")), 2));
    }
    let at_view = view_of(args, &settings)?;
    let marks = marks_for(args, &settings, &known)?;
    if let Some(plot) = &args.plot {
        writable::file(plot).map_err(|error| (format!("--plot {}: {error}", plot.display()), 2))?;
    }
    let region = args.region.as_deref();
    let Observed { settings: own, set: at_set, model, recordings, learned } =
        observed(args, &settings, at_view, marks, true)?;
    let configured = own.streams.iter().find(|one| *one.source.id == *args.stream);
    let view = configured.and_then(|one| one.views.get(at_view));
    let (Some(set), Some(configured), Some(view)) = (own.label_sets.get(at_set), configured, view) else {
        return Err(("the configuration has changed meanwhile".to_owned(), 1));
    };
    let wanted = |name: &String| args.labels.is_empty() || args.labels.contains(name);
    let counter: Vec<LearnedLabel> = recordings.iter().flat_map(MarkedRecording::learned).cloned().collect();
    let mut reports = Vec::new();
    for (at, label) in set.labels.iter().enumerate().filter(|(_, label)| wanted(&label.name)) {
        let (thresholds, origin) = calibrations::in_force(&own, at_set, label, configured, view, Some(&model));
        let setting = Setting {
            every: configured.interval.at_start(),
            gap: running_streams::gap(configured),
            current: Some(thresholds).filter(|_| !origin.is_waiting()),
            base: config::thresholds(label, &own.events),
            origin: Instant::now(),
            counter_examples: counter_examples(&counter, at),
        };
        let usual = if let ThresholdOrigin::Calibration(usual) = origin { Some(usual) } else { None };
        reports.push(of_label(&recordings, (at, &label.name), region, &setting, usual));
    }
    let mut report = Report {
        set: args.set.clone(),
        stream: args.stream.clone(),
        region: args.region.clone(),
        recordings: recordings.iter().map(MarkedRecording::reported).collect(),
        labels: reports,
        learned: learned.iter().filter(|(_, kept)| kept.has_any()).map(|(name, _)| name.clone()).collect(),
        written: None,
        waiting: Vec::new(),
    };
    if let Some(plot) = &args.plot {
        let svg = calibrate_plot::svg(&report).map_err(|error| (error, 1))?;
        std::fs::write(plot, svg).map_err(|error| (format!("{}: cannot be written ({error})", plot.display()), 1))?;
    }
    let found = report.labels.iter().filter(|label| label.outcome.found.is_ok()).count();
    if args.write && found > 0 {
        let learns = !learned.is_empty();
        // Before the thresholds, which are bound to it.
        if learns {
            keep(&settings, args, view, learned)?;
        }
        report.written = Some(write(args, &settings, set, &report, |label| {
            calibrations::binding(set, label, configured, view, &model)
        })?);
        if learns {
            // All streams of the set go by one scorer.
            let mut after = own.clone();
            if let Some(found) = after.calibrations.get_mut(at_set) {
                *found = calibration_file::read(&settings.state, &args.set);
            }
            let before = calibrations::calibrated(&settings, &model);
            report.waiting = calibrations::newly_waiting(&before, calibrations::calibrated(&after, &model));
        }
    }
    if args.json {
        say(&report.json().to_string());
    } else {
        say(&report.text());
    }
    if found == 0 {
        return Err(("no label could be calibrated".to_owned(), 2));
    }
    Ok(0)
}

/// What the stream was like, with what is marked of it.
///
/// # Errors
/// Why that cannot be told.
pub(super) fn observed(
    args: &Args,
    settings: &Settings,
    at_view: usize,
    marks: Marks,
    learns: bool,
) -> Result<Observed, Failure> {
    let marks = match marks {
        Marks::OfClips(marks) => marks,
        Marks::ByClock(marks) => {
            let (at_set, mut past) = of_past(args, settings, at_view, learns.then_some(&args.labels), &marks)?;
            let (model, name) = (past.model.clone(), "its history".to_owned());
            let mut settings = settings.clone();
            settings.label_sets[at_set] = past.set.clone();
            let learned = std::mem::take(&mut past.learned);
            let recordings = vec![MarkedRecording { name, scores: Scores::Past(Box::new(past)), marks }];
            return Ok(Observed { settings, set: at_set, model, recordings, learned });
        }
    };
    let scored = clip_scores::score(&args.config, &args.stream, at_view, &args.set, &args.clips);
    let ScoredStream { settings: own, model, clips } = scored.map_err(|code| (String::new(), code))?;
    let recordings = clips.into_iter().zip(marks).map(|(clip, marks)| MarkedRecording {
        name: clip.name.clone(),
        scores: Scores::Clip(clip),
        marks,
    });
    let mut recordings: Vec<MarkedRecording> = recordings.collect();
    recordings.extend(shown_before(args, settings, at_view, &recordings));
    Ok(Observed { recordings, settings: own, set: 0, model, learned: BTreeMap::new() })
}

/// What is marked by the clock of a file beside its seconds: when it was shown, as its history has it.
fn shown_before(
    args: &Args,
    settings: &Settings,
    at_view: usize,
    clips: &[MarkedRecording],
) -> Option<MarkedRecording> {
    let marks = clips.iter().map(|clip| &clip.marks).find(|marks| number(marks, false) > 0)?;
    let past = if args.clips.is_empty() {
        of_past(args, settings, at_view, None, marks)
    } else {
        Err(("they are not of a clip".to_owned(), 2))
    };
    match past {
        Ok((_, past)) => Some(MarkedRecording {
            name: "its history".to_owned(),
            scores: Scores::Past(Box::new(past)),
            marks: marks.clone(),
        }),
        Err((why, _)) => {
            tracing::warn!("{} by the clock left out: {why}", plural(number(marks, false), "mark"));
            None
        }
    }
}

/// What the history has, and the index of the set; `learning`: the labels that learn from it.
fn of_past(
    args: &Args,
    settings: &Settings,
    at_view: usize,
    learning: Option<&[String]>,
    marks: &SetMarks,
) -> Result<(usize, PastScores), Failure> {
    let stream = settings.streams.iter().find(|one| *one.source.id == *args.stream);
    let at_set = settings.label_sets.iter().position(|set| set.name == args.set);
    let view = stream.and_then(|stream| stream.views.get(at_view));
    let set = at_set.and_then(|at| settings.label_sets.get(at));
    let (Some(stream), Some(view), Some(set), Some(at_set)) = (stream, view, set, at_set) else {
        return Err(("the configuration has changed meanwhile".to_owned(), 1));
    };
    Ok((at_set, calibrate_past::read(settings, stream, view, (set, learning), marks)?))
}

/// Margins of the counter-examples of the label with this index; the same of every recording.
fn counter_examples(learned: &[LearnedLabel], label: usize) -> &[f32] {
    learned.iter().find(|one| one.label == label).map_or(&[], |one| &one.counter_margins)
}

impl MarkedRecording {
    /// What became of labels with examples.
    fn learned(&self) -> &[LearnedLabel] {
        match &self.scores {
            Scores::Clip(clip) => &clip.learned,
            Scores::Past(past) => &past.labels,
        }
    }

    pub fn is_clip(&self) -> bool {
        matches!(self.scores, Scores::Clip(_))
    }

    fn reported(&self) -> ReportedRecording {
        ReportedRecording { name: self.name.clone(), is_clip: self.is_clip() }
    }

    /// Of the label with this index.
    pub fn samples(&self, label: usize) -> Vec<Sample> {
        match &self.scores {
            Scores::Clip(clip) => {
                let of = clip.samples.iter();
                of.filter_map(|(time, scores)| Some(Sample::at(seconds(time.media), scores.get(label)?.margin)))
                    .collect()
            }
            Scores::Past(past) => past.margins.samples(&past.moments, label),
        }
    }
}

/// Which of the stream's views is meant.
///
/// # Errors
/// There is no such region.
pub(super) fn view_of(args: &Args, settings: &Settings) -> Result<usize, Failure> {
    let stream = settings.streams.iter().find(|one| *one.source.id == *args.stream);
    let views = stream.map(|one| &*one.views).unwrap_or_default();
    let found = views.iter().position(|view| view.name.as_deref() == args.region.as_deref());
    found.ok_or_else(|| {
        let names: Vec<&str> = views.iter().filter_map(|view| view.name.as_deref()).collect();
        let why = match (&args.region, names.is_empty()) {
            (_, true) => format!("stream {} has no regions: leave out --region", args.stream),
            (None, false) => {
                format!("stream {} has regions: say with --region which one ({})", args.stream, names.join(", "))
            }
            (Some(region), false) => {
                format!("stream {} has no region {region} (it has {})", args.stream, names.join(", "))
            }
        };
        (why, 2)
    })
}

/// What is found for the label with this index and name; `usual`: the margins that it was calibrated on before.
fn of_label(
    marked: &[MarkedRecording],
    (at, name): (usize, &str),
    region: Option<&str>,
    setting: &Setting<'_>,
    usual: Option<UsualRange>,
) -> LabelReport {
    let samples: Vec<Vec<Sample>> = marked.iter().map(|recording| recording.samples(at)).collect();
    let of = |one: &MarkedRecording| {
        (one.marks.seen(name, region, one.is_clip()), one.marks.absent(name, region, one.is_clip()))
    };
    let spans: Vec<_> = marked.iter().map(of).collect();
    let recordings: Vec<Recording<'_>> =
        samples.iter().zip(&spans).map(|(samples, (seen, absent))| Recording { samples, seen, absent }).collect();
    let of_both = recordings.iter().map(|one| past_samples::of_both(one.samples, one.seen, one.absent)).sum();
    let enter = setting.current.map(|current| current.enter.margin());
    let drift = usual.zip(enter).and_then(|(usual, enter)| {
        let samples = &recordings.last()?.samples;
        past_samples::drift(samples, setting.every, &usual, enter)
    });
    let outcome = calibrate::label(&recordings, setting);
    LabelReport { label: name.to_owned(), outcome, current: setting.current, of_both, drift }
}

/// Keeps what was learned.
fn keep(
    settings: &Settings,
    args: &Args,
    view: &NamedView,
    learned: BTreeMap<String, KeptExamples>,
) -> Result<(), Failure> {
    let place = calibrate_past::source_of(&args.stream, view);
    let kept = kept_examples::keep(&settings.state, &args.set, &place, learned);
    if let Some(aside) = kept.map_err(|error| (error.to_string(), 1))? {
        complain(&format!("the examples that there were are damaged; they are kept as {}", aside.display()));
    }
    Ok(())
}

/// Keeps what was found; where.
fn write(
    args: &Args,
    settings: &Settings,
    set: &LabelSet,
    report: &Report,
    bound: impl Fn(&crate::label::Label) -> calibration_file::Binding,
) -> Result<PathBuf, Failure> {
    let made_at = jiff::Timestamp::now();
    let mut labels = BTreeMap::new();
    for one in &report.labels {
        let (Ok((fit, thresholds)), Some(label)) =
            (&one.outcome.found, set.labels.iter().find(|label| label.name == one.label))
        else {
            continue;
        };
        let calibrated = CalibratedLabel {
            enter: fit.enter,
            exit: fit.exit,
            after: thresholds.after.as_secs_f64(),
            after_exit: thresholds.after_exit.as_secs_f64(),
            cooldown: thresholds.cooldown.as_secs_f64(),
            cautious: fit.cautious,
            seen: fit.seen,
            not_seen: fit.not_seen,
            not_seen_range: [fit.not_seen_range.0, fit.not_seen_range.1],
            made_at,
            bound: bound(label),
        };
        labels.insert(one.label.clone(), calibrated);
    }
    change(settings, &args.set, |entries| {
        calibration_file::put(entries, &args.stream, args.region.as_deref(), labels);
        // Labels that the set has no more.
        for entry in entries.iter_mut().filter(|entry| entry.stream == args.stream) {
            entry.labels.retain(|name, _| set.labels.iter().any(|label| label.name == *name));
        }
    })?;
    Ok(settings.state.place(&calibration_file::place_of(&args.set)))
}

/// A time as a person writes it.
pub(super) fn written(time: Duration) -> String {
    match time.as_millis() {
        millis if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}
