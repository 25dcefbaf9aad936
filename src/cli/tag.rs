//! `vtagd tag`: pictures and videos in, the best labels out, once.
//!
//! A video goes the daemon's own way (`pace: fast`, so every sampled frame is looked at); pictures go in batches through the
//! same preprocessing, session and scorer. One input that cannot be read does not stop the others.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ndarray::ArrayView1;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use super::pictures::{self, BatchArgs, Unusable};
use super::progress::{self, Meter};
use super::texts::TemplateArgs;
use super::{complain, pull, say};
use crate::config::ModelChoice;
use crate::daemon::engine::Engine;
use crate::event::cloud_event::seconds;
use crate::frame::still_image::StillImageError;
use crate::frame::view::View;
use crate::frame::{FrameTime, Picture};
use crate::infer::{BatchSize, ImageEncoder, InferError, InferSettings, Provider};
use crate::label::{Label, LabelSet, prompt_template, set};
use crate::model::Activation;
use crate::model::prepared;
use crate::pipeline::intake::StreamPart;
use crate::pipeline::{self, Stages};
use crate::platform::shutdown;
use crate::platform::userinfo::shown;
use crate::score::score_routes::ScoreRoute;
use crate::score::{LabelScore, Scoring};
use crate::source::{Decode, Decoder, Ended, Location, Pace, Reconnect, SourceSettings};
use crate::stream::StreamId;
use crate::stream::registry::RegisteredStream;
use crate::yaml::problem::Severity;
use crate::yaml::text_form::folded;
use crate::yaml::units;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pictures or videos.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// Labels, separated by commas, used as prompts as they are, or within --template; a comma within one is \,.
    #[arg(short = 'l', value_name = "LABELS", conflicts_with = "files", required_unless_present = "files")]
    list: Option<String>,
    /// A label set file, which brings its own templates and scoring; may be given several times.
    #[arg(long = "labels", value_name = "FILE", conflicts_with_all = ["template", "templates", "scoring"])]
    files: Vec<PathBuf>,
    #[command(flatten)]
    templates: TemplateArgs,
    /// How the labels of -l are scored: exclusive (they compete) or independent (each for itself, for models trained with a
    /// sigmoid) [default: as the model was trained].
    #[arg(long, value_enum, value_name = "HOW", hide_possible_values = true)]
    scoring: Option<Scoring>,
    /// Model directory, or hf:ORG/NAME[@REVISION], which is pulled once [default: the starter model, or VTAGD_MODEL].
    #[arg(short, long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    batch: BatchArgs,
    /// Videos: one frame this often.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    every: Duration,
    /// Labels shown for each picture or frame, unless --json.
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// One JSON object a picture or frame, with every label.
    #[arg(long)]
    json: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text).filter(|d| !d.is_zero());
    duration.ok_or_else(|| "write a duration such as 500ms, 1s or 2m".to_owned())
}

/// One picture or sampled frame, as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    /// As text: a name that is not UTF-8 has `\u{fffd}` in place of what is not.
    file: Cow<'a, str>,
    /// Seconds from the video's start; null for a picture.
    pts: Option<f64>,
    /// Best first.
    tags: Vec<Tag<'a>>,
}

#[derive(Serialize)]
struct Tag<'a> {
    set: &'a str,
    label: &'a str,
    score: f32,
}

/// Prints scores, readable or as JSON.
#[derive(Clone)]
struct Printer {
    sets: Arc<[LabelSet]>,
    json: bool,
    top: usize,
}

impl Printer {
    fn print<'a>(&self, file: &Path, pts: Option<f64>, scores: impl Iterator<Item = (usize, &'a [LabelScore])>) {
        let mut tags: Vec<Tag<'_>> = scores
            .flat_map(|(set, scores)| {
                let set = &self.sets[set];
                set.labels.iter().zip(scores).map(|(label, score)| Tag {
                    set: &set.name,
                    label: &label.name,
                    score: score.probability(),
                })
            })
            .collect();
        tags.sort_by(|a, b| b.score.total_cmp(&a.score));
        if self.json {
            match serde_json::to_string(&Line { file: shown(file).into(), pts, tags }) {
                Ok(line) => say(&line),
                Err(error) => complain(&format!("{}: {error}", file.display())),
            }
            return;
        }
        let place = pts.map_or_else(String::new, |s| format!(" {s:>8.2} s"));
        let best: Vec<String> =
            tags.iter().take(self.top).map(|t| format!("{:>3.0} % {}", t.score * 100.0, t.label)).collect();
        let line = format!("{}{place}  {}", shown(file), best.join("   "));
        // Names and labels are a stranger's text: on a terminal they must not move the cursor.
        say(&line.replace(char::is_control, "\u{fffd}"));
    }
}

/// Tags every input; the exit code.
pub fn run(args: &Args) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    let (mut engine, sets) = match prepare(args, &shutdown) {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let Some(encoder) = engine.encoders.pop() else { return 1 };
    let mut encoder = Shared(Arc::new(Mutex::new(encoder)));
    let printer = Printer { sets: sets.into(), json: args.json, top: args.top };
    let mut code = 0;
    let mut videos = Vec::new();
    let batch = args.batch.size();
    // Without `--json` the lines themselves show how far it is.
    let mut meter = (args.inputs.len() > batch && args.json).then(Meter::new);
    let mut done = 0;
    for chunk in args.inputs.chunks(batch) {
        code = code.max(pictures(chunk, &engine, &mut encoder, &printer, &mut videos));
        done += chunk.len();
        if meter.as_mut().is_some_and(|meter| meter.show(progress::FILES, "", done as u64, args.inputs.len() as u64)) {
            tracing::info!(done, total = args.inputs.len(), "tagging");
        }
    }
    drop(meter);
    // Only now: a pipeline is drained, everything before may just end.
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    for file in videos {
        code = code.max(video(file, &engine, &encoder, &printer, args, &shutdown));
    }
    code
}

fn prepare(args: &Args, shutdown: &shutdown::Shutdown) -> Result<(Engine, Vec<LabelSet>), u8> {
    let fail = |error: &dyn std::fmt::Display, code| {
        complain(error);
        Err(code)
    };
    let bundle = pull::model_folder(args.model.as_deref(), shutdown)
        .and_then(|dir| prepared::open(&dir, &|| shutdown.is_requested()));
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => return fail(&error, error.exit_code()),
    };
    let sets = match label_sets(args, bundle.logit_parameters.activation) {
        Ok(sets) => sets,
        Err(message) => return fail(&message, 2),
    };
    let infer = InferSettings { max_size: BatchSize::Pictures(args.batch.size()), ..InferSettings::default() };
    let choice = ModelChoice::Path(bundle.dir.clone()).into();
    match Engine::build(&choice, &infer, &sets, shutdown) {
        Ok(engine) => Ok((engine, sets)),
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn label_sets(args: &Args, activation: Activation) -> Result<Vec<LabelSet>, String> {
    let Some(list) = &args.list else {
        let mut sets = load_sets(&args.files)?;
        if let Some(ensemble) = args.templates.ensemble {
            sets.iter_mut().for_each(|set| set.ensemble = ensemble);
        }
        return Ok(sets);
    };
    let mut labels: Vec<Label> = Vec::new();
    for name in separated(list) {
        if labels.iter().any(|l| folded(&l.name) == folded(&name)) {
            return Err(format!("label '{name}' is given twice"));
        }
        labels.push(Label::plain(&name));
    }
    if labels.is_empty() {
        return Err("no label is given; try -l \"a cat,a dog\"".to_owned());
    }
    // Without competitors a softmax of one is always 1: a sigmoid model can score labels on their own, others compare them.
    let scoring = match (args.scoring, activation) {
        (Some(Scoring::Independent), Activation::Softmax) => {
            let message = "this model can only compare, and labels of -l have nothing but each other to be compared with; \
                           use --scoring exclusive, or a label set file with `background`";
            return Err(format!("--scoring independent: {message}"));
        }
        (Some(scoring), _) => scoring,
        (None, Activation::Softmax) => Scoring::Exclusive,
        (None, Activation::Sigmoid) => Scoring::Independent,
    };
    let mut templates = args.templates.read()?;
    if templates.is_empty() {
        templates.push(prompt_template::SLOT.to_owned());
    }
    let set = LabelSet {
        name: "labels".to_owned(),
        scoring,
        templates,
        ensemble: args.templates.ensemble.unwrap_or_default(),
        background: Vec::new(),
        labels,
        file: PathBuf::new(),
        sha256: String::new(),
    };
    Ok(vec![set])
}

/// The texts of a list with commas between them. A comma that belongs to a text has a backslash in front of it; others stay as they are.
fn separated(list: &str) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, texts.last_mut()) {
            (',', _) => texts.push(String::new()),
            ('\\', Some(text)) => text.push(characters.next_if_eq(&',').unwrap_or(c)),
            (c, Some(text)) => text.push(c),
            (_, None) => {}
        }
    }
    texts.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

fn load_sets(files: &[PathBuf]) -> Result<Vec<LabelSet>, String> {
    let (mut sets, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        match set::load(file) {
            Ok((set, _)) if sets.iter().any(|s: &LabelSet| s.name == set.name) => {
                problems.push(format!("{}: a set named {} is given already", file.display(), set.name));
            }
            Ok((set, warnings)) => {
                sets.push(set);
                warnings.iter().filter(|w| w.severity > Severity::Notice).for_each(|w| complain(w));
            }
            Err(found) => problems.extend(found.iter().map(ToString::to_string)),
        }
    }
    if problems.is_empty() { Ok(sets) } else { Err(problems.join("\n")) }
}

/// Tags the pictures among `files` as one batch and puts the others aside; the exit code.
fn pictures<'a>(
    files: &'a [PathBuf],
    engine: &Engine,
    encoder: &mut Shared,
    printer: &Printer,
    videos: &mut Vec<&'a Path>,
) -> u8 {
    let embedded = match pictures::embed(files, &engine.spec, encoder) {
        Ok(embedded) => embedded,
        Err(error) => {
            complain(&error);
            return 1;
        }
    };
    let mut code = 0;
    for (file, embedding) in embedded {
        match embedding {
            Ok(embedding) => {
                let embedding = ArrayView1::from(&embedding);
                let scores: Vec<Vec<LabelScore>> = engine.scorers.iter().map(|s| s.score(embedding)).collect();
                printer.print(file, None, scores.iter().map(Vec::as_slice).enumerate());
            }
            Err(Unusable::Still(StillImageError::Format { .. })) => videos.push(file),
            Err(error) => {
                complain(&error);
                code = 2;
            }
        }
    }
    code
}

/// Tags one video, frame by frame; the exit code.
fn video(
    file: &Path,
    engine: &Engine,
    encoder: &Shared,
    printer: &Printer,
    args: &Args,
    shutdown: &shutdown::Shutdown,
) -> u8 {
    let source = SourceSettings {
        id: StreamId::from("file"),
        location: Location::File(file.to_owned()),
        username: None,
        password: None,
        password_file: None,
        pace: Pace::Fast,
        looped: false,
        decode: Decode::All,
        decoder: Decoder::Software,
        max_pixels: None,
        any_codec: false,
        templates: crate::platform::paths::templates_dir(),
        reconnect: Reconnect::default(),
    };
    let stages = Stages {
        spec: Arc::clone(&engine.spec),
        encoders: vec![Box::new(encoder.clone())],
        runs: Arc::default(),
        max_size: args.batch.size(),
        max_delay: Duration::from_millis(50),
        threads: crate::daemon::engine::preprocessing_threads(None),
    };
    let (printer, path) = (printer.clone(), file.to_owned());
    let handler = Box::new(move |time: FrameTime, _: Option<&Arc<Picture>>, scores: &[Vec<LabelScore>]| {
        printer.print(&path, Some(seconds(time.media)), scores.iter().map(Vec::as_slice).enumerate());
    });
    let route = ScoreRoute { scorers: engine.scorers.clone(), handler, embeddings: None };
    let record = RegisteredStream::new(&source.id, Vec::new());
    let interval = args.every.into();
    let part = StreamPart { record, source, interval, unchanged: None, view: View::default(), route };
    let started = pipeline::start(stages, shutdown)
        .and_then(|(mut intake, threads)| intake.join(part).map(|member| (member, threads)));
    let (member, mut threads) = match started {
        Ok(started) => started,
        Err(error) => {
            complain(&error);
            return 1;
        }
    };
    let how = member.wait();
    let accounting = Arc::clone(&member.accounting);
    threads.push(member.into_thread());
    let panicked = threads.into_iter().map(|(_, t)| t.join()).filter(Result::is_err).count() > 0;
    let totals = accounting.totals();
    match how {
        Some(Ended::EndOfFile) if !panicked && totals.inferred < totals.sampled => {
            let lost = totals.sampled - totals.inferred;
            complain(&format!("{}: {lost} of {} sampled frames could not be tagged", file.display(), totals.sampled));
            1
        }
        Some(Ended::EndOfFile) if !panicked => 0,
        Some(Ended::Failed(error)) => {
            complain(&format!("{}: {error}", file.display()));
            2
        }
        Some(Ended::Shutdown) => 1,
        _ => {
            complain(&format!("{}: a stage panicked; please report this", file.display()));
            1
        }
    }
}

/// One session for all inputs: pictures use it here, a video's pipeline on its session thread, one after the other.
#[derive(Clone)]
struct Shared(Arc<Mutex<Box<dyn ImageEncoder>>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Box<dyn ImageEncoder>> {
        self.0.lock()
    }
}

impl ImageEncoder for Shared {
    fn dim(&self) -> usize {
        self.lock().dim()
    }

    fn provider(&self) -> Provider {
        self.lock().provider()
    }

    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        self.lock().encode(pixels, count, embeddings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_with_a_backslash_belongs_to_its_label() {
        for (list, labels) in [
            ("a cat,a dog", &["a cat", "a dog"][..]),
            (r"a man\, running , a dog,", &["a man, running", "a dog"]),
            (r"a\b,c\\,d", &[r"a\b", r"c\,d"]),
            (r"end\", &[r"end\"]),
            (" , ", &[]),
        ] {
            assert_eq!(separated(list), labels, "{list}");
        }
    }
}
