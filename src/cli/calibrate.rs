//! `vtagd labels calibrate` and `confirm`: thresholds out of marks, written below the state directory where that is asked for.
//!
//! In: a configuration, a label set and a stream of it, what the stream was like (clips, or the file that it is), and marks. Out: what was
//! found, for people or as JSON, with a picture on demand; with `--write` the calibration, which a daemon takes at its next reload. Margins
//! are those of the daemon's own scorer. On the main thread, which waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::calibrate_report::{LabelReport, Report};
use super::marks::{self, Failure};
use super::tag::clip_scores::{self, ClipScores, ScoredStream};
use super::{DEFAULT_CONFIG, calibrate_plot, complain, plural, pull, say};
use crate::calibrate::marks::SetMarks;
use crate::calibrate::{self, Recording, Sample, Setting};
use crate::config::{self, ModelChoice, Settings, calibrations};
use crate::daemon::running_streams;
use crate::event::cloud_event::seconds;
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
    /// A video of what the stream sees; may be given several times [default: the stream itself, where it is a file].
    #[arg(long = "clip", value_name = "FILE")]
    clips: Vec<PathBuf>,
    /// What is seen when, in seconds of the clip (YAML or JSON); one for each --clip, in the same order.
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

/// What a clip is held against.
struct MarkedClip {
    scores: ClipScores,
    marks: SetMarks,
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
    let scored = clip_scores::score(&args.config, &args.stream, at_view, &args.set, &args.clips);
    let ScoredStream { settings: own, stream, model, clips } = scored.map_err(|code| (String::new(), code))?;
    let clips: Vec<MarkedClip> =
        clips.into_iter().zip(marks).map(|(scores, marks)| MarkedClip { scores, marks }).collect();
    let configured = settings.streams.iter().find(|one| *one.source.id == *args.stream);
    let view = configured.and_then(|one| one.views.get(at_view));
    let (Some(set), Some(configured), Some(view)) = (own.label_sets.first(), configured, view) else {
        return Err(("the configuration has changed meanwhile".to_owned(), 1));
    };
    let setting = |label| {
        let (thresholds, origin) = calibrations::in_force(&own, 0, label, configured, view, Some(&model));
        Setting {
            every: stream.interval.at_start(),
            gap: running_streams::gap(configured),
            current: Some(thresholds).filter(|_| !origin.is_waiting()),
            base: config::thresholds(label, &own.events),
            origin: Instant::now(),
        }
    };
    let wanted = |name: &String| args.labels.is_empty() || args.labels.contains(name);
    let mut reports = Vec::new();
    for (at, label) in set.labels.iter().enumerate().filter(|(_, label)| wanted(&label.name)) {
        reports.push(LabelReport::new(
            &label.name,
            of_label(&clips, at, &label.name, &setting(label)),
            &setting(label),
        ));
    }
    let mut report = Report {
        set: args.set.clone(),
        stream: args.stream.clone(),
        recordings: clips.iter().map(|clip| clip.scores.name.clone()).collect(),
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

/// The marks of each clip.
fn marks_for(args: &Args, settings: &Settings, known: &[String]) -> Result<Vec<SetMarks>, Failure> {
    if !args.marks.is_empty() {
        if args.marks.len() != args.clips.len().max(1) {
            let (marks, clips) = (args.marks.len(), args.clips.len().max(1));
            return Err((
                format!("{} for {}: give one for each clip", plural(marks, "--marks"), plural(clips, "clip")),
                2,
            ));
        }
        return args
            .marks
            .iter()
            .map(|file| {
                let marks = marks::read_form(file)?;
                let mut problems = marks.problems(Some(known));
                if marks.all().iter().any(|(_, span)| !span.0.is_media()) {
                    problems.push("marks of a clip are seconds from its first picture, not times of day".to_owned());
                }
                match problems[..] {
                    [] => Ok(marks),
                    ref problems => Err((format!("{}: {}", file.display(), problems.join("\n")), 2)),
                }
            })
            .collect();
    }
    let stream = settings.streams.iter().find(|one| *one.source.id == *args.stream);
    if !stream.is_some_and(|stream| matches!(stream.source.location, Location::File(_))) {
        let why = "is no file, so nothing says what its clips show: give --clip and --marks";
        return Err((format!("stream {} {why}", args.stream), 2));
    }
    if args.clips.len() > 1 {
        return Err(("several clips need --marks each".to_owned(), 2));
    }
    let mut kept = mark_store::read(&settings.state).map_err(|error| (error.to_string(), error.exit_code()))?;
    let marks = kept.remove(&args.stream).and_then(|mut sets| sets.remove(&args.set));
    marks.map(|marks| vec![marks]).ok_or_else(|| {
        let how = "`vtagd marks add` says what was seen when, or --marks FILE";
        (format!("nothing is marked of the set `{}` on stream {}: {how}", args.set, args.stream), 2)
    })
}

/// What is found for the label with this index.
fn of_label(clips: &[MarkedClip], at: usize, name: &str, setting: &Setting) -> calibrate::LabelOutcome {
    let samples: Vec<Vec<Sample>> = clips
        .iter()
        .map(|clip| {
            let of = clip.scores.samples.iter();
            of.filter_map(|(time, scores)| Some(Sample::at(seconds(time.media), scores.get(at)?.margin))).collect()
        })
        .collect();
    let spans: Vec<_> = clips.iter().map(|clip| (clip.marks.seen(name, true), clip.marks.absent(name, true))).collect();
    let recordings: Vec<Recording<'_>> =
        samples.iter().zip(&spans).map(|(samples, (seen, absent))| Recording { samples, seen, absent }).collect();
    calibrate::label(&recordings, setting)
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
    if let Some(calibration_file::FoundCalibration::Wrong(why)) = settings.calibrations.get(at) {
        return Err((
            format!("the calibration of the set `{name}` {why}: it cannot be confirmed; --discard forgets it"),
            2,
        ));
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
