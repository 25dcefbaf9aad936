//! `vtagd tag`: pictures, videos and cameras in, the best labels out, or what a daemon would tell of them.
//!
//! A video goes the daemon's own way (a file with `pace: fast`, so every sampled frame is looked at); pictures go in batches through the
//! same preprocessing, session and scorer. One input that cannot be read does not stop the others.

pub(super) mod clip_scores;
mod given_inputs;
mod given_labels;
pub(super) mod plot;
mod rehearsal;
mod rehearsed_stream;
mod score_curve;
mod score_lines;
mod watched_video;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ndarray::ArrayView1;
use parking_lot::{Mutex, MutexGuard};

use super::pictures::{self, BatchArgs, Unusable};
use super::progress::{self, Meter};
use super::texts::TemplateArgs;
use super::{complain, pull};
use crate::config::{ModelChoice, ModelSettings};
use crate::daemon::engine::Engine;
use crate::daemon::example_embeddings::ExampleViews;
use crate::frame::still_image::StillImageError;
use crate::infer::{BatchSize, ImageEncoder, InferError, InferSettings, Provider};
use crate::label::LabelSet;
use crate::model::{LogitOverride, prepared};
use crate::platform::secret;
use crate::platform::shutdown::{self, Shutdown};
use crate::platform::writable;
use crate::score::{LabelScore, Scorer, Scoring};
use crate::source::Location;
use crate::yaml::units;
use rehearsed_stream::{Input, Watching};
use score_lines::Printer;
use watched_video::Watch;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pictures, videos, folders of them, - for one on standard input, or cameras by their addresses (rtsp://, http://, v4l2://, srt://, …). A camera is
    /// watched until --seconds are over, or Ctrl-C. A password in an address can be seen by everybody on this machine; --stream has it from a configuration.
    #[arg(required_unless_present = "stream")]
    inputs: Vec<PathBuf>,
    /// Labels, separated by commas, used as prompts as they are, or within --template; a comma within one is \,.
    #[arg(short = 'l', value_name = "LABELS", conflicts_with = "files", required_unless_present_any = ["files", "stream"])]
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
    /// Model directory, or hf:ORG/NAME[@REVISION], which is pulled once [default: that of --stream's configuration, or the starter
    /// model, or VTAGD_MODEL].
    #[arg(short, long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    batch: BatchArgs,
    /// A stream of a configuration: its source, unless inputs are given, and its view, interval, label sets, thresholds and model,
    /// as far as nothing else is given.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// The configuration that has --stream.
    #[arg(short, long, value_name = "FILE", default_value = super::DEFAULT_CONFIG, requires = "stream")]
    config: PathBuf,
    /// How pictures and frames become the model's input: model, squash, pad or tiles, as `view.mode` of a configuration.
    #[arg(long, value_name = "MODE", value_parser = ["model", "squash", "pad", "tiles"], hide_possible_values = true)]
    view: Option<String>,
    /// The part that is looked at: x,y,w,h from 0 to 1, as `view.region` of a configuration.
    #[arg(long, value_name = "X,Y,W,H", value_parser = parse_region, allow_hyphen_values = true)]
    region: Option<RegionArg>,
    /// Videos: one frame this often [default: 1s, or as --stream has it].
    #[arg(long, value_parser = parse_duration)]
    every: Option<Duration>,
    /// Videos and cameras: so many seconds of each from its first picture. A camera goes on for ever without.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Videos: the tags that `run` would make of them with these labels and thresholds, in place of the scores; then a summary of
    /// each label on stderr. With --json the events as sinks get them, and a last line {"file", "summary"}.
    #[arg(long)]
    events: bool,
    /// Videos: draw each label's scores over time with its thresholds and tags, as SVG; of several inputs FILE-1.svg, FILE-2.svg, …
    /// in their order. The 12 labels with the highest scores are drawn.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Draw this label instead; may be given several times.
    #[arg(long = "label", value_name = "NAME", requires = "plot")]
    drawn: Vec<String>,
    /// Labels shown for each picture or frame, unless --json.
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// One JSON object a picture or frame, with every label.
    #[arg(long)]
    json: bool,
}

/// `--region`, checked where that of a configuration is.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(transparent)]
struct RegionArg(Vec<f64>);

fn parse_region(text: &str) -> Result<RegionArg, String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let numbers = numbers.ok().filter(|numbers| numbers.len() == 4 && numbers.iter().all(|number| number.is_finite()));
    numbers.map(RegionArg).ok_or_else(|| "write four numbers: x,y,w,h, such as 0.5,0,0.5,1".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text).filter(|d| !d.is_zero());
    duration.ok_or_else(|| "write a duration such as 500ms, 1s or 2m".to_owned())
}

impl Args {
    /// Whether a daemon's tags are wanted.
    fn is_rehearsal(&self) -> bool {
        self.events || self.plot.is_some()
    }

    /// Where the plot of input `number` of so many goes, counted from 0.
    fn plot_of(&self, number: usize, of: usize) -> Option<PathBuf> {
        let plot = self.plot.as_ref()?;
        if of < 2 {
            return Some(plot.clone());
        }
        let mut name = plot.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{}", number + 1));
        if let Some(extension) = plot.extension() {
            name.push(".");
            name.push(extension);
        }
        Some(plot.with_file_name(name))
    }
}

/// Tells a person something that is no error, on stderr.
fn remark(text: &dyn std::fmt::Display) {
    // With stderr closed there is nobody left to tell.
    let text = secret::scrub(&text.to_string()).replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Tags every input; the exit code.
pub fn run(args: &Args) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    match prepare(args, &shutdown, None) {
        Ok(prepared) => prepared.run(args, trigger, &shutdown),
        Err(code) => code,
    }
}

/// Everything that is needed to look at the inputs.
struct Prepared {
    watching: Watching,
    inputs: Vec<Input>,
    engine: Engine,
    encoder: SharedEncoder,
}

/// `only`: the one set of `--stream` that is looked for.
fn prepare(args: &Args, shutdown: &Shutdown, only: Option<&str>) -> Result<Prepared, u8> {
    let fail = |error: &dyn std::fmt::Display, code| {
        complain(error);
        code
    };
    let mut watching = Watching::new(args).map_err(|error| fail(&error, 2))?;
    if let Some(set) = only {
        watching.keep_only(set).map_err(|error| fail(&error, 2))?;
    }
    let inputs = watching.inputs(args).map_err(|error| fail(&error, 2))?;
    check_inputs(args, &inputs).map_err(|error| fail(&error, 2))?;

    let configured = args.stream.is_some() && args.model.is_none();
    let (path, logits) = if configured {
        let ModelSettings { choice, logits } = &watching.settings.model;
        let path = match choice {
            ModelChoice::None => return Err(fail(&"the configuration has no model: -m names one", 2)),
            ModelChoice::Starter => PathBuf::from(crate::model::STARTER),
            ModelChoice::Path(path) => path.clone(),
            ModelChoice::Hub(reference) => reference.to_string().into(),
        };
        (Some(path), *logits)
    } else {
        (args.model.clone(), LogitOverride::default())
    };
    let bundle = pull::model_folder(path.as_deref(), shutdown)
        .and_then(|dir| prepared::open_with(&dir, logits, &|| shutdown.is_requested()))
        .map_err(|error| fail(&error, error.exit_code()))?;
    // As the daemon of the configuration has them, whatever part of it is looked at here.
    let example_views = ExampleViews::of(&watching.settings).otherwise(&watching.base().views);
    let given = given_labels::read(args, bundle.logit_parameters.activation).map_err(|error| fail(&error, 2))?;
    let had_hours = watching.watch_for(given).map_err(|error| fail(&error, 2))?;
    if had_hours && args.is_rehearsal() {
        remark(&"note: `active` counts in a daemon alone: here labels are looked for at any time of day");
    }
    let sets = &watching.settings.label_sets;
    let is_left = |set: &&LabelSet| set.scoring == Scoring::Independent && set.has_background();
    // Where one set alone is looked for, nobody reads what is left to the background.
    for set in sets.iter().filter(is_left).filter(|_| only.is_none()) {
        let name = &set.name;
        remark(&format!(
            "note: set {name}: its labels do not share 100 %, and (background) is what the best of them leaves"
        ));
    }
    if let Some(name) = args.drawn.iter().find(|name| !has_label(sets, name)) {
        return Err(fail(&format!("--label {name}: no set has a label of that name"), 2));
    }
    let infer = if configured { watching.settings.infer.clone() } else { InferSettings::default() };
    // One session is asked for, whatever the daemon has: nothing is to be measured for more.
    let sessions = InferSettings::default().sessions;
    let infer = InferSettings { max_size: BatchSize::Pictures(args.batch.size()), sessions, ..infer };
    let model = ModelSettings { choice: ModelChoice::Path(bundle.dir.clone()), logits };
    let mut engine = Engine::build(&model, &infer, sets, shutdown).map_err(|error| fail(&error, error.exit_code()))?;
    let learned = engine.learn(sets, &example_views, shutdown);
    learned.map_err(|error| fail(&error, error.exit_code()))?;
    let encoder = engine.encoders.pop().ok_or(1)?;
    Ok(Prepared { watching, inputs, engine, encoder: SharedEncoder(Arc::new(Mutex::new(encoder))) })
}

fn has_label(sets: &[LabelSet], name: &str) -> bool {
    sets.iter().flat_map(|set| &set.labels).any(|label| label.name == *name)
}

/// What can be told before any work is done.
fn check_inputs(args: &Args, inputs: &[Input]) -> Result<(), String> {
    let is_endless = |input: &&Input| match input {
        Input::Stream(stream, _) => !matches!(stream.source.location, Location::File(_)),
        Input::File(_) => false,
    };
    if args.seconds.is_none() && inputs.len() > 1 && inputs.iter().any(|input| is_endless(&input)) {
        return Err("a camera is watched for ever, and what comes after it never: say --seconds".to_owned());
    }
    for place in (0..inputs.len()).filter_map(|number| args.plot_of(number, inputs.len())) {
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(format!("--plot {}: there is no folder {}", place.display(), folder.display()));
        }
        writable::file(&place).map_err(|error| format!("--plot {}: {error}", place.display()))?;
    }
    Ok(())
}

impl Prepared {
    fn run(mut self, args: &Args, trigger: shutdown::Trigger, shutdown: &Shutdown) -> u8 {
        let printer =
            Printer::new(&self.watching.settings.label_sets, &self.watching.base().views, args.json, args.top);
        let mut code = 0;
        let files: Vec<(usize, &Path)> = self.inputs.iter().enumerate().filter_map(Input::file).collect();
        let mut videos: Vec<(usize, &Path)> = Vec::new();
        let batch = args.batch.size();
        // Without `--json` the lines themselves show how far it is.
        let mut meter = (files.len() > batch && args.json).then(Meter::new);
        let mut done = 0;
        for chunk in files.chunks(batch) {
            let look = Pictures { engine: &self.engine, printer: &printer, args, watching: &self.watching };
            code = code.max(look.tag(chunk, &mut self.encoder, &mut videos));
            done += chunk.len();
            if meter.as_mut().is_some_and(|meter| meter.show(progress::FILES, "", done as u64, files.len() as u64)) {
                tracing::info!(done, total = files.len(), "tagging");
            }
        }
        drop(meter);
        // Only now: a pipeline is drained, everything before may just end.
        let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
        let watch = Watch {
            engine: &self.engine,
            encoder: &self.encoder,
            printer: &printer,
            settings: &self.watching.settings,
            args,
            shutdown,
            collector: None,
        };
        for (number, input) in self.inputs.iter().enumerate() {
            let (name, stream) = match input {
                Input::Stream(stream, name) => (name.clone(), self.watching.with_labels((**stream).clone())),
                Input::File(file) if videos.contains(&(number, file)) => {
                    (self.watching.given.name(file), self.watching.file(file))
                }
                Input::File(_) => continue,
            };
            if shutdown.is_requested() {
                return code.max(1);
            }
            code = code.max(watch.video(&name, stream, args.plot_of(number, self.inputs.len()).as_deref()));
        }
        code
    }
}

/// What pictures are looked at with.
struct Pictures<'a> {
    engine: &'a Engine,
    printer: &'a Printer,
    args: &'a Args,
    watching: &'a Watching,
}

impl Pictures<'_> {
    /// Tags the pictures among `files` as one batch and notes the others as videos; the exit code.
    fn tag<'a>(
        &self,
        files: &[(usize, &'a Path)],
        encoder: &mut SharedEncoder,
        videos: &mut Vec<(usize, &'a Path)>,
    ) -> u8 {
        let paths: Vec<&Path> = files.iter().map(|(_, file)| *file).collect();
        let views = &self.watching.base().views;
        let embed = |view| pictures::embed(&paths, view, &self.engine.spec, encoder).map(Vec::into_iter);
        let mut by_view = match views.iter().map(embed).collect::<Result<Vec<_>, _>>() {
            Ok(by_view) => by_view,
            Err(error) => {
                complain(&error);
                return 1;
            }
        };
        let mut code = 0;
        for (number, file) in files {
            let embedded: Result<Vec<Vec<f32>>, Unusable> = by_view.iter_mut().filter_map(Iterator::next).collect();
            match embedded {
                Ok(_) if self.args.is_rehearsal() => {
                    let what = "is a picture: --events and --plot need time, which a video has";
                    complain(&format!("{}: {what}; without them its scores are shown", self.watching.given.name(file)));
                    code = 2;
                }
                Ok(views) => {
                    let dim = encoder.dim();
                    let of_view = |tiles: &Vec<f32>| {
                        self.engine.scorers.iter().map(|s| best_of(s, tiles, dim)).collect::<Vec<_>>()
                    };
                    let scores: Vec<_> = views.iter().flat_map(of_view).collect();
                    self.printer.print(&self.watching.given.name(file), None, &scores);
                }
                Err(Unusable::Still(StillImageError::Format { .. })) => videos.push((*number, file)),
                Err(error) => {
                    complain(&self.watching.given.about(file, &error.to_string()));
                    code = 2;
                }
            }
        }
        code
    }
}

/// Each label's best score of several tiles.
fn best_of(scorer: &Scorer, tiles: &[f32], dim: usize) -> Vec<LabelScore> {
    let of_tiles = tiles.chunks_exact(dim).map(|tile| scorer.score(ArrayView1::from(tile)));
    of_tiles.reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| a.best(b)).collect()).unwrap_or_default()
}

/// One session for all inputs: pictures use it here, a video's pipeline on its session thread, one after the other.
#[derive(Clone)]
struct SharedEncoder(Arc<Mutex<Box<dyn ImageEncoder>>>);

impl SharedEncoder {
    fn lock(&self) -> MutexGuard<'_, Box<dyn ImageEncoder>> {
        self.0.lock()
    }
}

impl ImageEncoder for SharedEncoder {
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
