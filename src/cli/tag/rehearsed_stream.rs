//! Where `tag` takes a video from and how it is watched: a file, an address, a stream of a configuration, or one in the place of another.
//!
//! In: arguments. Out: a stream as a daemon would have it, or what is wrong. An address passes the checks of the configuration's own, as a
//! configuration that has nothing else; what it says of user and password is known from then on, and shown nowhere. On the caller's thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::Args;
use super::given_inputs::GivenInputs;
use crate::config::{self, Absence, Settings, StreamSettings};
use crate::frame::view::{NamedView, View, Views};
use crate::label::LabelSet;
use crate::label::calibration_file::FoundCalibration;
use crate::platform::secret::Secret;
use crate::platform::userinfo::shown;
use crate::sample::Interval;
use crate::source::{Decode, Decoder, Location, Pace, SourceSettings};
use crate::stream::StreamId;
use crate::yaml::address;
use crate::yaml::problem::{Problem, Severity};

/// What stands for the address where a file takes its place: a file may have a name that no configuration can hold.
const PLACEHOLDER: &str = "v4l2:///dev/video0";

/// What is said of streams that nothing can be asked of.
const PUSHED: &str = "its pictures are sent to a daemon; give the pictures";

/// How videos are watched.
pub(super) struct Watching {
    /// Of `--stream`'s configuration, or one with nothing in it; the label sets are put in later.
    pub settings: Settings,
    /// `--stream`, or one with every default.
    base: StreamSettings,
    is_configured: bool,
    /// `--events` or `--plot`.
    is_rehearsal: bool,
    /// The arguments, once they have been [read](Self::inputs).
    pub given: GivenInputs,
}

impl Input {
    /// With its number, if it is a file.
    pub fn file((number, input): (usize, &Self)) -> Option<(usize, &Path)> {
        match input {
            Self::File(file) => Some((number, file)),
            Self::Stream(..) => None,
        }
    }
}

/// What is to be tagged, in the order of the arguments.
pub(super) enum Input {
    /// A picture or a video.
    File(PathBuf),
    /// What a source connects to, and what it is called.
    Stream(Box<StreamSettings>, String),
}

impl Watching {
    /// # Errors
    /// What is wrong with the arguments, or with the configuration.
    pub fn new(args: &Args) -> Result<Self, String> {
        let plain = of_address(PLACEHOLDER, args)?;
        let is_rehearsal = args.is_rehearsal();
        let (settings, mut base, is_configured) = match &args.stream {
            Some(id) => {
                let settings = config::load_for(&args.config, Absence::Told).map_err(|problems| told(&problems))?;
                let stream = named(&settings, id)?;
                (settings, stream, true)
            }
            None => {
                let base = only_stream(&plain)?;
                (plain.clone(), base, false)
            }
        };
        base.views = overridden(&base.views, only_stream(&plain)?.views.first().view, args);
        base.interval = Interval::Every(args.every.unwrap_or_else(|| base.interval.at_start()));
        Ok(Self { settings, base, is_configured, is_rehearsal, given: GivenInputs::default() })
    }

    /// Of the configured stream's label sets only `name` is looked for.
    ///
    /// # Errors
    /// The stream has no such set.
    pub fn keep_only(&mut self, name: &str) -> Result<(), String> {
        let Self { settings, base, .. } = self;
        let found = |set: &usize| settings.label_sets.get(*set).is_some_and(|set| set.name == name);
        let known: Vec<&str> =
            base.label_sets.iter().filter_map(|set| Some(&*settings.label_sets.get(*set)?.name)).collect();
        if !base.label_sets.iter().any(found) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("stream {} has no label set `{name}` (it has {known})", base.source.id));
        }
        base.label_sets.retain(found);
        Ok(())
    }

    /// What is looked for: `given`, or what the configured stream has. Whether some of it has hours, which do not count here: a video has no time of day,
    /// and who watches a camera wants to see what would be told.
    ///
    /// # Errors
    /// A label whose tags could never end, or nothing to look for.
    pub fn watch_for(&mut self, given: Option<Vec<LabelSet>>) -> Result<bool, String> {
        let settings = &mut self.settings;
        let (mut sets, calibrations): (Vec<LabelSet>, Vec<FoundCalibration>) = match given {
            // Of sets that are given here nobody has calibrated anything.
            Some(given) => given.into_iter().map(|set| (set, FoundCalibration::Absent)).unzip(),
            None => {
                let of = |set: &usize| {
                    Some((settings.label_sets.get(*set)?.clone(), settings.calibrations.get(*set)?.clone()))
                };
                self.base.label_sets.iter().filter_map(of).unzip()
            }
        };
        if sets.is_empty() {
            return Err(format!("stream {} has no label set: give -l or --labels", self.base.source.id));
        }
        for label in sets.iter().flat_map(|set| &set.labels).filter(|_| self.is_rehearsal) {
            let thresholds = config::thresholds(label, &settings.events);
            if !thresholds.is_ordered() {
                let (exit, enter) = (thresholds.exit, thresholds.enter);
                return Err(format!("label {}: its exit, {exit}, is above its enter, {enter}", label.name));
            }
        }
        let labels = sets.iter_mut().flat_map(|set| &mut set.labels);
        // All of them, also behind the first one.
        let had_hours = labels.filter_map(|label| label.hours.take()).count() > 0;
        self.base.label_sets = (0..sets.len()).collect();
        (settings.label_sets, settings.calibrations) = (sets, calibrations);
        Ok(had_hours)
    }

    /// `stream`, as it was before it was known [what is looked for](Self::watch_for).
    pub fn with_labels(&self, stream: StreamSettings) -> StreamSettings {
        StreamSettings { label_sets: self.base.label_sets.clone(), ..stream }
    }

    /// The view of everything.
    pub fn base(&self) -> &StreamSettings {
        &self.base
    }

    /// Everything that is to be tagged; without arguments the configured stream itself.
    ///
    /// # Errors
    /// What is wrong with an address.
    pub fn inputs(&mut self, args: &Args) -> Result<Vec<Input>, String> {
        if args.inputs.is_empty() {
            let source = &self.base.source;
            if matches!(source.location, Location::Push(_)) {
                return Err(format!("stream {}: {PUSHED}", source.id));
            }
            if source.password.as_ref().is_some_and(Secret::is_absent) {
                return Err(format!("stream {}: its password is not here", source.id));
            }
            let mut stream = self.base.clone();
            if matches!(source.location, Location::File(_)) {
                (stream.source.pace, stream.source.looped) = (Pace::Fast, false);
            }
            return Ok(vec![Input::Stream(Box::new(stream), source.id.to_string())]);
        }
        self.given = GivenInputs::read(&args.inputs)?;
        self.given.paths.iter().map(|input| self.input(input, args)).collect()
    }

    fn input(&self, input: &Path, args: &Args) -> Result<Input, String> {
        let address = input.to_str().filter(|text| address::scheme(text).is_some() && !input.exists());
        let Some(address) = address else { return Ok(Input::File(input.to_owned())) };
        let mut given = only_stream(&of_address(address, args)?)?.source;
        if let Location::File(file) = given.location {
            return Ok(Input::File(file));
        }
        if matches!(given.location, Location::Push(_)) {
            return Err(format!("{}: {PUSHED}", shown(input)));
        }
        let own = self.base.source.clone();
        if self.is_configured {
            let SourceSettings { location, username, password, .. } = given;
            given = SourceSettings { location, username, password, password_file: None, ..own };
        }
        let source = SourceSettings { pace: Pace::Live, looped: false, ..given };
        Ok(Input::Stream(Box::new(StreamSettings { source, ..self.base.clone() }), shown(input)))
    }

    /// The stream of a video file: every sampled frame is looked at, as fast as that goes.
    pub fn file(&self, file: &Path) -> StreamSettings {
        let own = self.base.source.clone();
        let (id, decode, decoder) = match (self.is_configured, self.is_rehearsal) {
            (true, _) => (Arc::clone(&own.id), own.decode, own.decoder),
            // As a daemon would, or its samples would not be these.
            (false, true) => (StreamId::from("file"), own.decode, Decoder::Software),
            (false, false) => (StreamId::from("file"), Decode::All, Decoder::Software),
        };
        let source = SourceSettings {
            id,
            location: Location::File(file.to_owned()),
            username: None,
            password: None,
            password_file: None,
            pace: Pace::Fast,
            looped: false,
            decode,
            decoder,
            ..own
        };
        StreamSettings { source, ..self.base.clone() }
    }
}

/// A configuration that has nothing but one stream at `address`, seen as the arguments say.
fn of_address(address: &str, args: &Args) -> Result<Settings, String> {
    let mut view = serde_json::Map::new();
    view.extend(args.view.as_ref().map(|mode| ("mode".to_owned(), json!(mode))));
    view.extend(args.region.as_ref().map(|region| ("region".to_owned(), json!(region))));
    let text = json!({ "model": { "path": "none" }, "streams": [{ "id": "camera", "url": address, "view": view }] });
    config::of_text("command line", &text.to_string()).map_err(|problems| {
        let place = |problem: &Problem| match problem.field.as_str() {
            field if field.contains(".view") => "--region".to_owned(),
            _ => shown(Path::new(address)),
        };
        let line = |problem: &Problem| format!("{}: {}; {}", place(problem), problem.message, problem.remedy);
        errors(&problems).map(line).collect::<Vec<_>>().join("\n")
    })
}

/// The views of a stream, as the arguments want them: a part that is given stands for all regions.
fn overridden(own: &Views, given: View, args: &Args) -> Views {
    let mode = |own: View| if args.view.is_some() { given.mode } else { own.mode };
    if args.region.is_some() {
        return View { mode: mode(own.first().view), region: given.region }.into();
    }
    own.map(|view| NamedView { view: View { mode: mode(view.view), ..view.view }, ..view.clone() })
}

fn only_stream(settings: &Settings) -> Result<StreamSettings, String> {
    settings.streams.first().cloned().ok_or_else(|| "no stream is left of what was given".to_owned())
}

fn named(settings: &Settings, id: &str) -> Result<StreamSettings, String> {
    let found = settings.streams.iter().find(|stream| *stream.source.id == *id).cloned();
    found.ok_or_else(|| {
        let known: Vec<&str> = settings.streams.iter().map(|stream| &*stream.source.id).collect();
        format!("--stream {id}: {} has no stream of that name; it has {}", shown(&settings.file), known.join(", "))
    })
}

fn errors(problems: &[Problem]) -> impl Iterator<Item = &Problem> {
    problems.iter().filter(|problem| problem.severity == Severity::Error)
}

fn told(problems: &[Problem]) -> String {
    errors(problems).map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
