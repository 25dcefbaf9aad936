//! `vtagd labels calibrate` and `confirm`: thresholds out of marks, written below the state directory where that is asked for.
//!
//! In: a configuration, a label set and a stream of it, what the stream was like (its history, clips, or the file that it is), and marks. Out: what was
//! found, for people or as JSON, with a picture on demand; with `--write` the calibration, which a daemon takes at its next reload. Margins
//! are those of the daemon's own scorer. On the main thread, which waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::calibrate_past::{self, PastScores};
use super::calibrate_report::{LabelReport, Report, ReportedRecording};
use super::marks::{self, Failure};
use super::tag::clip_scores::{self, ClipScores, ScoredStream};
use super::{DEFAULT_CONFIG, calibrate_plot, complain, plural, pull, say};
use crate::calibrate::marks::SetMarks;
use crate::calibrate::past_samples;
use crate::calibrate::{self, Recording, Sample, Setting};
use crate::config::{self, ModelChoice, Settings, calibrations};
use crate::daemon::running_streams;
use crate::event::ThresholdOrigin;
use crate::event::cloud_event::seconds;
use crate::event::drift::UsualRange;
use crate::label::calibration_file::{self, CalibratedLabel};
use crate::label::{LabelSet, mark_store};
use crate::model::prepared;
use crate::platform::shutdown;
use crate::platform::writable;
use crate::source::Location;

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
    /// What is seen when (YAML or JSON), in seconds of a clip: one for each --clip, in the same order; of a camera by the clock [default: what
    /// `vtagd marks` keeps].
    #[arg(long = "marks", value_name = "FILE")]
    marks: Vec<PathBuf>,
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

#[derive(Debug, clap::Args)]
pub struct Confirm {
    /// Name of the label set.
    set: String,
    /// Configuration file of the daemon.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Only on this stream.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Forget the calibration instead: the thresholds of the configuration count again.
    #[arg(long)]
    discard: bool,
}

/// Does it; the exit code.
pub fn run(args: &Args) -> u8 {
    end(calibrated(args))
}

/// Lets calibrations count; the exit code.
pub fn confirm(args: &Confirm) -> u8 {
    end(confirmed(args).map(|()| 0))
}

fn end(done: Result<u8, Failure>) -> u8 {
    done.unwrap_or_else(|(why, code)| {
        if !why.is_empty() {
            complain(&why);
        }
        code
    })
}

/// What marks are held against.
struct MarkedRecording {
    name: String,
    scores: Scores,
    marks: SetMarks,
}

enum Scores {
    /// By seconds from its first picture.
    Clip(ClipScores),
    /// By the clock.
    Past(PastScores),
}

/// All that was seen of the stream.
struct Observed {
    settings: Settings,
    /// Index of the set there.
    set: usize,
    /// The model's fingerprint.
    model: String,
    recordings: Vec<MarkedRecording>,
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
    let Observed { settings: own, set: at_set, model, recordings } = observed(args, &settings, at_view, marks)?;
    let configured = own.streams.iter().find(|one| *one.source.id == *args.stream);
    let view = configured.and_then(|one| one.views.get(at_view));
    let (Some(set), Some(configured), Some(view)) = (own.label_sets.get(at_set), configured, view) else {
        return Err(("the configuration has changed meanwhile".to_owned(), 1));
    };
    let wanted = |name: &String| args.labels.is_empty() || args.labels.contains(name);
    let mut reports = Vec::new();
    for (at, label) in set.labels.iter().enumerate().filter(|(_, label)| wanted(&label.name)) {
        let (thresholds, origin) = calibrations::in_force(&own, at_set, label, configured, view, Some(&model));
        let setting = Setting {
            every: configured.interval.at_start(),
            gap: running_streams::gap(configured),
            current: Some(thresholds).filter(|_| !origin.is_waiting()),
            base: config::thresholds(label, &own.events),
            origin: Instant::now(),
        };
        let usual = if let ThresholdOrigin::Calibration(usual) = origin { Some(usual) } else { None };
        reports.push(of_label(&recordings, at, &label.name, &setting, usual));
    }
    let mut report = Report {
        set: args.set.clone(),
        stream: args.stream.clone(),
        region: args.region.clone(),
        recordings: recordings.iter().map(MarkedRecording::reported).collect(),
        labels: reports,
        written: None,
    };
    if let Some(plot) = &args.plot {
        let svg = calibrate_plot::svg(&report).map_err(|error| (error, 1))?;
        std::fs::write(plot, svg).map_err(|error| (format!("{}: cannot be written ({error})", plot.display()), 1))?;
    }
    let found = report.labels.iter().filter(|label| label.outcome.found.is_ok()).count();
    if args.write && found > 0 {
        report.written = Some(write(args, &settings, set, &report, |label| {
            calibrations::binding(set, label, configured, view, &model)
        })?);
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
fn observed(args: &Args, settings: &Settings, at_view: usize, marks: Marks) -> Result<Observed, Failure> {
    let marks = match marks {
        Marks::OfClips(marks) => marks,
        Marks::ByClock(marks) => {
            let stream = settings.streams.iter().find(|one| *one.source.id == *args.stream);
            let at_set = settings.label_sets.iter().position(|set| set.name == args.set);
            let view = stream.and_then(|stream| stream.views.get(at_view));
            let set = at_set.and_then(|at| settings.label_sets.get(at));
            let (Some(stream), Some(view), Some(set), Some(at_set)) = (stream, view, set, at_set) else {
                return Err(("the configuration has changed meanwhile".to_owned(), 1));
            };
            let past = calibrate_past::read(settings, stream, view, set, &marks)?;
            let (model, name) = (past.model.clone(), "its history".to_owned());
            let recordings = vec![MarkedRecording { name, scores: Scores::Past(past), marks }];
            return Ok(Observed { settings: settings.clone(), set: at_set, model, recordings });
        }
    };
    let scored = clip_scores::score(&args.config, &args.stream, at_view, &args.set, &args.clips);
    let ScoredStream { settings, model, clips } = scored.map_err(|code| (String::new(), code))?;
    let recordings = clips.into_iter().zip(marks).map(|(clip, marks)| MarkedRecording {
        name: clip.name.clone(),
        scores: Scores::Clip(clip),
        marks,
    });
    Ok(Observed { recordings: recordings.collect(), settings, set: 0, model })
}

impl MarkedRecording {
    fn is_clip(&self) -> bool {
        matches!(self.scores, Scores::Clip(_))
    }

    fn reported(&self) -> ReportedRecording {
        ReportedRecording { name: self.name.clone(), is_clip: self.is_clip() }
    }

    /// Of the label with this index.
    fn samples(&self, label: usize) -> Vec<Sample> {
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
fn view_of(args: &Args, settings: &Settings) -> Result<usize, Failure> {
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

/// What is marked.
enum Marks {
    /// Of each clip.
    OfClips(Vec<SetMarks>),
    /// Of the stream's past.
    ByClock(SetMarks),
}

fn marks_for(args: &Args, settings: &Settings, known: &[String]) -> Result<Marks, Failure> {
    let mut given = Vec::new();
    for file in &args.marks {
        let marks = marks::read_form(file)?;
        let problems = marks.problems(Some(known));
        if !problems.is_empty() {
            return Err((format!("{}: {}", file.display(), problems.join("\n")), 2));
        }
        given.push((file, marks));
    }
    let is_clock = |marks: &SetMarks| marks.all().iter().any(|(_, span)| !span.0.is_media());
    let wanted = args.clips.len().max(1);
    if !given.is_empty() && given.len() != wanted {
        let (marks, clips) = (plural(given.len(), "--marks"), plural(wanted, "clip"));
        return Err((format!("{marks} for {clips}: give one for each clip"), 2));
    }
    if given.is_empty() && wanted > 1 {
        return Err(("several clips need --marks each".to_owned(), 2));
    }
    if let Some((file, _)) = given.iter().find(|(_, marks)| !args.clips.is_empty() && is_clock(marks)) {
        let why = "marks of a clip are seconds from its first picture, not times of day";
        return Err((format!("{}: {why}", file.display()), 2));
    }
    let stream = settings.streams.iter().find(|one| *one.source.id == *args.stream);
    let is_file = stream.is_some_and(|stream| matches!(stream.source.location, Location::File(_)));
    if given.is_empty() {
        if !args.clips.is_empty() && !is_file {
            let why = "is no file, so nothing says what its clips show: give --marks with --clip";
            return Err((format!("stream {} {why}", args.stream), 2));
        }
        let mut kept = mark_store::read(&settings.state).map_err(|error| (error.to_string(), error.exit_code()))?;
        let marks = kept.remove(&args.stream).and_then(|mut sets| sets.remove(&args.set));
        let marks = marks.ok_or_else(|| {
            let how = "`vtagd marks add` says what was seen when, or --marks FILE";
            (format!("nothing is marked of the set `{}` on stream {}: {how}", args.set, args.stream), 2)
        })?;
        return Ok(if args.clips.is_empty() { by_kind(marks, is_file) } else { Marks::OfClips(vec![marks]) });
    }
    let mut marks = given.into_iter().map(|(_, marks)| marks);
    match (&args.clips[..], marks.next()) {
        ([], Some(marks)) => Ok(by_kind(marks, is_file)),
        (_, first) => Ok(Marks::OfClips(first.into_iter().chain(marks).collect())),
    }
}

/// A file can be looked at again, unless all that is marked of it is by the clock: then there is only the past.
fn by_kind(marks: SetMarks, is_file: bool) -> Marks {
    let has_seconds = marks.all().iter().any(|(_, span)| span.0.is_media());
    if is_file && has_seconds { Marks::OfClips(vec![marks]) } else { Marks::ByClock(marks) }
}

/// What is found for the label with this index; `usual`: the margins that it was calibrated on before.
fn of_label(
    marked: &[MarkedRecording],
    at: usize,
    name: &str,
    setting: &Setting,
    usual: Option<UsualRange>,
) -> LabelReport {
    let samples: Vec<Vec<Sample>> = marked.iter().map(|recording| recording.samples(at)).collect();
    let spans: Vec<_> =
        marked.iter().map(|one| (one.marks.seen(name, one.is_clip()), one.marks.absent(name, one.is_clip()))).collect();
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
        calibration_file::put(entries, &args.stream, args.region.as_deref(), labels)
    })?;
    Ok(settings.state.place(&calibration_file::place_of(&args.set)))
}

fn change(
    settings: &Settings,
    set: &str,
    change: impl FnOnce(&mut Vec<calibration_file::CalibrationEntry>),
) -> Result<(), Failure> {
    let aside = calibration_file::change(&settings.state, set, change);
    if let Some(aside) = aside.map_err(|error| (error.to_string(), error.exit_code()))? {
        complain(&format!("the calibration that there was cannot be read; it is kept as {}", aside.display()));
    }
    Ok(())
}

/// The fingerprint that the daemon's model has.
fn fingerprint(settings: &Settings) -> Result<String, Failure> {
    let path = match &settings.model.choice {
        ModelChoice::None => return Err(("the configuration has no model".to_owned(), 2)),
        ModelChoice::Starter => PathBuf::from(crate::model::STARTER),
        ModelChoice::Path(path) => path.clone(),
        ModelChoice::Hub(reference) => reference.to_string().into(),
    };
    let (_trigger, shutdown) = shutdown::channel();
    let bundle = pull::model_folder(Some(Path::new(&path)), &shutdown)
        .and_then(|dir| prepared::open_with(&dir, settings.model.logits, &|| shutdown.is_requested()));
    bundle.map(|bundle| bundle.fingerprint).map_err(|error| (error.to_string(), error.exit_code()))
}

fn confirmed(Confirm { set: name, config, stream, discard }: &Confirm) -> Result<(), Failure> {
    let settings = marks::settings(config)?;
    let at = settings.label_sets.iter().position(|set| set.name == *name);
    let Some((at, set)) = at.and_then(|at| Some((at, settings.label_sets.get(at)?))) else {
        let known: Vec<&str> = settings.label_sets.iter().map(|set| &*set.name).collect();
        return Err((format!("there is no label set `{name}` (known: {})", known.join(", ")), 2));
    };
    if let Some(stream) = stream {
        marks::labels_of(&settings, stream, name)?;
    }
    let is_meant = |id: &str| stream.as_ref().is_none_or(|wanted| wanted == id);
    let mut changed = 0;
    if *discard {
        change(&settings, name, |entries| {
            changed = entries.iter().filter(|entry| is_meant(&entry.stream)).map(|entry| entry.labels.len()).sum();
            entries.retain(|entry| !is_meant(&entry.stream));
        })?;
        say(&format!(
            "the calibration of {} is forgotten; the configuration's thresholds count from the next reload on",
            plural(changed, "label")
        ));
        return Ok(());
    }
    match settings.calibrations.get(at) {
        Some(calibration_file::FoundCalibration::Wrong(why)) => {
            let why =
                format!("the calibration of the set `{name}` {why}: it cannot be confirmed; --discard forgets it");
            return Err((why, 2));
        }
        // Whoever writes says what to do.
        Some(calibration_file::FoundCalibration::Newer(_)) => change(&settings, name, |_| {})?,
        _ => {}
    }
    let model = fingerprint(&settings)?;
    change(&settings, name, |entries| {
        for entry in entries.iter_mut().filter(|entry| is_meant(&entry.stream)) {
            let Some(stream) = settings.streams.iter().find(|one| *one.source.id == *entry.stream) else { continue };
            let Some(view) = stream.views.iter().find(|view| view.name.as_deref() == entry.region.as_deref()) else {
                continue;
            };
            for (label, calibrated) in &mut entry.labels {
                let Some(label) = set.labels.iter().find(|one| one.name == *label) else { continue };
                let now = calibrations::binding(set, label, stream, view, &model);
                if calibrated.bound != now {
                    (calibrated.bound, changed) = (now, changed + 1);
                }
            }
        }
    })?;
    say(&match changed {
        0 => format!("no label of the set `{name}` waits"),
        changed => {
            format!("the calibrated thresholds of {} count again, from the next reload on", plural(changed, "label"))
        }
    });
    Ok(())
}

/// A time as a person writes it.
pub(super) fn written(time: Duration) -> String {
    match time.as_millis() {
        millis if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}
