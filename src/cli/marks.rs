//! `vtagd marks`: what a person says of the past, kept below the state directory, for `labels calibrate`.
//!
//! In: a configuration, for its streams, label sets and `state`, and what was seen when; or an event of the outbox that was right or wrong.
//! Out: marks, changed or printed. A daemon that runs need not know: marks count once something is calibrated with them. On the main thread.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde_json::json;

use super::events::Place;
use super::screen::table;
use super::{DEFAULT_CONFIG, complain, plain, plural, say};
use crate::calibrate::marks::{Mark, MarkKind, MarkTime, SetMarks, Span};
use crate::config::{self, Absence, Settings};
use crate::daemon::marking::{self, MarkedStream};
use crate::event::Event;
use crate::event::tag_times::TagTimes;
use crate::label::mark_store::{self, MarksByStream};
use crate::outbox::history_reader::{OutboxReader, Query};
use crate::platform::atomic_file::{self, Durability};
use crate::platform::state_folder::StateFolder;
use crate::platform::userinfo::shown;
use crate::yaml::Document;
use crate::yaml::field_reader::{FromNode, Reader};
use crate::yaml::problem::Severity;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say when a label was seen, when it was not there, and when nothing of the set was.
    ///
    /// Times are seconds of the clip, where the stream is a file, and otherwise such as 2026-05-01T12:00:00Z. What is not marked is unknown;
    /// the half second at each end of a mark does not count. Without --region it is said of all regions of the stream.
    Add(Marked),
    /// Print marks.
    List {
        #[command(flatten)]
        of: Which,
        /// As JSON: {"streams": {stream: {set: marks}}}.
        #[arg(long)]
        json: bool,
    },
    /// Take marks away again, said as `add` was; or --all of a stream and set.
    Remove {
        #[command(flatten)]
        marked: Marked,
        /// All marks of the set on the stream, or of --label, or of --region.
        #[arg(long)]
        all: bool,
    },
    /// Add the marks of a file (YAML or JSON), in the form that `export` writes.
    Import {
        /// The file; - is standard input.
        file: PathBuf,
        #[command(flatten)]
        on: On,
        /// Instead of what is marked of the set on the stream, not besides.
        #[arg(long)]
        replace: bool,
    },
    /// Print the marks of a set on a stream, as --marks and `import` take them.
    Export {
        #[command(flatten)]
        on: On,
        /// Write them into a file instead of to standard output.
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Say that an event was right, or wrong: its time is marked as with its label, or as without it.
    Event {
        /// CloudEvents id of any event of the tag, as `vtagd events list` prints it, or the tag's own id.
        id: String,
        /// Which of the two.
        verdict: Verdict,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    Right,
    Wrong,
}

/// A set on a stream.
#[derive(Debug, ClapArgs)]
pub struct On {
    /// Configuration file of the daemon.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Id of the stream.
    #[arg(long, value_name = "ID")]
    stream: String,
    /// Name of the label set.
    #[arg(long, value_name = "SET")]
    set: String,
}

#[derive(Debug, ClapArgs)]
pub struct Which {
    /// Configuration file of the daemon.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Of this stream only.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Of this label set only.
    #[arg(long, value_name = "SET")]
    set: Option<String>,
}

/// Intervals of one label, or empty ones.
#[derive(Debug, ClapArgs)]
pub struct Marked {
    #[command(flatten)]
    on: On,
    /// Name of the label that --seen and --absent are of.
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Of this region of the stream alone.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// The label was there; may be given several times.
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], requires = "label", allow_hyphen_values = true)]
    seen: Vec<MarkTime>,
    /// The label was not there; may be given several times.
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], requires = "label", allow_hyphen_values = true)]
    absent: Vec<MarkTime>,
    /// No label of the set was there; may be given several times.
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], allow_hyphen_values = true)]
    empty: Vec<MarkTime>,
}

impl Marked {
    fn all(&self) -> Vec<Mark> {
        let label = || self.label.clone().unwrap_or_default();
        let of = |times: &[MarkTime], kind: MarkKind| {
            let span = |pair: &[MarkTime]| {
                let span = Span(*pair.first()?, *pair.get(1)?);
                Some(Mark { region: self.region.clone(), kind: kind.clone(), span })
            };
            times.chunks(2).filter_map(span).collect::<Vec<_>>()
        };
        let mut all = of(&self.seen, MarkKind::Seen(label()));
        all.extend(of(&self.absent, MarkKind::Absent(label())));
        all.extend(of(&self.empty, MarkKind::Empty));
        all
    }
}

/// Why it was not done, and the exit code.
pub(super) type Failure = (String, u8);

/// Does it; the exit code.
pub fn run(command: &Command) -> u8 {
    let done = match command {
        Command::Add(marked) => add(marked),
        Command::List { of, json } => list(of, *json),
        Command::Remove { marked, all } => remove(marked, *all),
        Command::Import { file, on, replace } => import(file, on, *replace),
        Command::Export { on, out } => export(on, out.as_deref()),
        Command::Event { id, verdict, place } => event(id, *verdict, place),
    };
    done.map_or_else(
        |(why, code)| {
            complain(&why);
            code
        },
        |()| 0,
    )
}

/// The configuration, whose credentials need not be here.
pub(super) fn settings(config: &Path) -> Result<Settings, Failure> {
    config::load_for(config, Absence::Told).map_err(|problems| {
        let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
        (errors.map(ToString::to_string).collect::<Vec<_>>().join("\n"), 2)
    })
}

fn state_of(config: &Path) -> Result<StateFolder, Failure> {
    config::sets_of(config)
        .map(|(state, _)| state)
        .map_err(|why| (format!("{why}; name the daemon's configuration with -c"), 2))
}

/// The labels of the set, if the stream has it.
pub(super) fn labels_of(settings: &Settings, stream: &str, set: &str) -> Result<Vec<String>, Failure> {
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let streams = || list(settings.streams.iter().map(|stream| &*stream.source.id).collect());
    let found = settings.streams.iter().find(|one| *one.source.id == *stream);
    let found = found.ok_or_else(|| (format!("there is no stream `{stream}` (known: {})", streams()), 2))?;
    let sets = || found.label_sets.iter().filter_map(|at| settings.label_sets.get(*at));
    let of = sets().find(|one| one.name == set);
    let of = of.ok_or_else(|| {
        (
            format!(
                "stream {stream} has no label set `{set}` (it has {})",
                list(sets().map(|set| &*set.name).collect())
            ),
            2,
        )
    })?;
    Ok(of.labels.iter().map(|label| label.name.clone()).collect())
}

/// Why marks of the stream would never be used, if so; the first.
///
/// # Errors
/// That.
pub(super) fn check<'a>(
    settings: &Settings,
    stream: &str,
    marks: impl IntoIterator<Item = &'a Mark>,
) -> Result<(), Failure> {
    let found = settings.streams.iter().find(|one| *one.source.id == *stream);
    let Some(of) = found.map(|found| MarkedStream::of(settings, found)) else { return Ok(()) };
    marks.into_iter().find_map(|mark| of.problem(mark)).map_or(Ok(()), |why| Err((why, 2)))
}

/// Changes the marks of a set on a stream.
fn change<T>(
    state: &StateFolder,
    stream: &str,
    set: &str,
    known: Option<&[String]>,
    change: impl FnOnce(&mut SetMarks) -> Result<T, String>,
) -> Result<T, Failure> {
    let changed = marking::change(state, stream, set, known, change);
    let (done, aside) = changed.map_err(|error| (error.to_string(), error.exit_code()))?;
    if let Some(aside) = aside {
        complain(&format!("the marks that there were are damaged; they are kept as {}", aside.display()));
    }
    Ok(done)
}

fn add(marked: &Marked) -> Result<(), Failure> {
    let On { config, stream, set } = &marked.on;
    let settings = settings(config)?;
    let known = labels_of(&settings, stream, set)?;
    let all = marked.all();
    if all.is_empty() {
        return Err((
            "say what was when: --label NAME --seen FROM TO, --absent FROM TO, or --empty FROM TO".to_owned(),
            2,
        ));
    }
    check(&settings, stream, &all)?;
    let number = all.len();
    change(&settings.state, stream, set, Some(&known), |marks| {
        all.iter().for_each(|mark| marks.add(mark));
        Ok(())
    })?;
    let place = place(stream, marked.region.as_deref());
    say(&format!("{} of the set `{set}` on stream {place}", plural(number, "mark")));
    Ok(())
}

/// A stream, or a region of one, as everywhere else.
fn place(stream: &str, region: Option<&str>) -> String {
    region.map_or_else(|| stream.to_owned(), |region| format!("{stream}/{region}"))
}

fn read(state: &StateFolder) -> Result<MarksByStream, Failure> {
    mark_store::read(state).map_err(|error| (error.to_string(), error.exit_code()))
}

fn list(of: &Which, as_json: bool) -> Result<(), Failure> {
    let mut streams = read(&state_of(&of.config)?)?;
    streams.retain(|stream, _| of.stream.as_ref().is_none_or(|wanted| wanted == stream));
    for sets in streams.values_mut() {
        sets.retain(|set, _| of.set.as_ref().is_none_or(|wanted| wanted == set));
    }
    if as_json {
        say(&json!({ "streams": streams }).to_string());
        return Ok(());
    }
    let mut rows = vec![["stream", "set", "label", "marked", "from", "to"].map(str::to_owned)];
    for (stream, sets) in &streams {
        for (set, marks) in sets {
            rows.extend(marks.all().into_iter().map(|Mark { region, kind, span }| {
                let stream = place(stream, region.as_deref());
                let (label, said) = match kind {
                    MarkKind::Seen(label) => (label, "seen"),
                    MarkKind::Absent(label) => (label, "absent"),
                    MarkKind::Empty => ("(all)".to_owned(), "empty"),
                };
                [plain(&stream), plain(set), plain(&label), said.to_owned(), span.0.to_string(), span.1.to_string()]
            }));
        }
    }
    say(&table(&rows));
    Ok(())
}

fn remove(marked: &Marked, all: bool) -> Result<(), Failure> {
    let On { config, stream, set } = &marked.on;
    let state = state_of(config)?;
    let wanted = marked.all();
    if wanted.is_empty() != all {
        return Err(("say which marks, as they were added, or --all".to_owned(), 2));
    }
    let removed = change(&state, stream, set, None, |marks| {
        let before = marks.len();
        if !all {
            if let Some(unknown) = wanted.iter().find(|mark| !marks.remove(mark)) {
                return Err(format!("there is no mark {unknown} of the set `{set}` on stream {stream}"));
            }
            return Ok(before - marks.len());
        }
        let is_meant = |mark: &Mark| {
            let (MarkKind::Seen(of) | MarkKind::Absent(of)) = &mark.kind else { return marked.label.is_none() };
            marked.label.as_ref().is_none_or(|label| label == of)
        };
        let in_region = |mark: &Mark| marked.region.is_none() || mark.region == marked.region;
        let kept: Vec<Mark> = marks.all().into_iter().filter(|mark| !(is_meant(mark) && in_region(mark))).collect();
        *marks = SetMarks::default();
        kept.iter().for_each(|mark| marks.add(mark));
        Ok(before - marks.len())
    })?;
    say(&format!("{} removed of the set `{set}` on stream {stream}", plural(removed, "mark")));
    Ok(())
}

/// Marks as a person writes them, in `file`.
pub(super) fn read_form(file: &Path) -> Result<SetMarks, Failure> {
    let read = if file == Path::new("-") {
        crate::yaml::bounded(std::io::stdin().lock())
            .map_err(|error| (format!("standard input cannot be read: {error}"), 2))
            .and_then(|bytes| Document::parse(file, &bytes).map_err(|problem| (problem.to_string(), 2)))
    } else {
        Document::read(file).map_err(|problem| (problem.to_string(), 2))
    };
    let document = read?;
    let mut reader = Reader::new(&document);
    let value = serde_json::Value::from_node(document.root(), "", &mut reader);
    if let Some(problem) = reader.finish().into_iter().find(|problem| problem.severity == Severity::Error) {
        return Err((problem.to_string(), 2));
    }
    let form = "labels: { car: { seen: [[4.5, 8.2]], absent: [[20, 24]] } }, empty: [[0, 4]]";
    serde_json::from_value(value.unwrap_or_default())
        .map_err(|error| (format!("{}: these are no marks: {error}; they look so: {form}", shown(file)), 2))
}

fn import(file: &Path, on: &On, replace: bool) -> Result<(), Failure> {
    let settings = settings(&on.config)?;
    let known = labels_of(&settings, &on.stream, &on.set)?;
    let new = read_form(file)?;
    let problems = new.problems(Some(&known));
    if !problems.is_empty() {
        return Err((format!("{}: {}", shown(file), problems.join("\n")), 2));
    }
    let all = new.all();
    check(&settings, &on.stream, &all).map_err(|(why, code)| (format!("{}: {why}", shown(file)), code))?;
    let number = all.len();
    change(&settings.state, &on.stream, &on.set, Some(&known), |marks| {
        if replace {
            *marks = SetMarks::default();
        }
        all.iter().for_each(|mark| marks.add(mark));
        Ok(())
    })?;
    say(&format!("{} of the set `{}` on stream {}", plural(number, "mark"), on.set, on.stream));
    Ok(())
}

fn export(on: &On, out: Option<&Path>) -> Result<(), Failure> {
    let mut streams = read(&state_of(&on.config)?)?;
    let marks = streams.remove(&on.stream).and_then(|mut sets| sets.remove(&on.set)).unwrap_or_default();
    let text = serde_json::to_string_pretty(&marks).map_err(|error| (error.to_string(), 1))?;
    let Some(out) = out else {
        say(&text);
        return Ok(());
    };
    let written = atomic_file::replace(out, format!("{text}\n").as_bytes(), Durability::Synced);
    written.map_err(|error| (format!("{} cannot be written: {error}", out.display()), 1))
}

fn event(id: &str, verdict: Verdict, place: &Place) -> Result<(), Failure> {
    let settings = settings(&place.config)?;
    let tag = found(id, place)?;
    // A set or a label that is gone has nothing to be calibrated.
    let known = labels_of(&settings, &tag.stream, &tag.set)?;
    if !known.contains(&tag.label) {
        return Err((format!("the set `{}` has no label `{}` any more", tag.set, tag.label), 2));
    }
    let stream = settings.streams.iter().find(|stream| *stream.source.id == *tag.stream);
    let Some(of) = stream.map(|stream| MarkedStream::of(&settings, stream)) else {
        return Err(("the configuration has changed meanwhile".to_owned(), 1));
    };
    if let Some(why) = of.region_problem(tag.region.as_deref()) {
        return Err((why, 2));
    }
    let span = marking::span_of(&tag, of.moments);
    let (Mark { region, kind, span }, _) = change(&settings.state, &tag.stream, &tag.set, Some(&known), |marks| {
        Ok(marking::mark_tag(marks, &tag, span, matches!(verdict, Verdict::Right)))
    })?;
    let kept = marking::keep_verdict(&settings.state, &tag, matches!(verdict, Verdict::Right));
    if let Some(aside) = kept.map_err(|error| (error.to_string(), error.exit_code()))? {
        complain(&format!("the verdicts that there were are damaged; they are kept as {}", aside.display()));
    }
    let stream = self::place(&tag.stream, region.as_deref());
    say(&format!("marked: {kind} {span}, set `{}` on stream {stream}", tag.set));
    Ok(())
}

/// The tag that the event is of, as far as the outbox knows it.
fn found(id: &str, place: &Place) -> Result<TagTimes, Failure> {
    let failed = |error: super::events::Failure| (error.to_string(), error.exit_code());
    let outbox = |error: crate::outbox::OutboxError| (error.to_string(), error.exit_code());
    let reader = OutboxReader::open(&place.outbox().map_err(failed)?).map_err(outbox)?;
    let parse = |body: &str| serde_json::from_str::<Event>(body).ok();
    let by_id = Query { ids: vec![id.to_owned()], ..Query::default() };
    let named = reader.latest(&by_id, 1).map_err(outbox)?.first().and_then(|row| parse(&row.body));
    let tag_id = match &named {
        Some(event) => event.data.tag_id,
        None => id
            .parse()
            .map_err(|_| (format!("the outbox has no event `{id}`; `vtagd events list` prints their ids"), 2))?,
    };
    // A tag's events come after its start; of an id alone nothing narrows the search.
    let query = named.as_ref().map_or_else(Query::default, |event| Query {
        streams: vec![event.data.stream.clone()],
        sets: vec![event.data.set.clone()],
        labels: vec![event.data.label.clone()],
        ..Query::default()
    });
    let (mut found, mut after): (Option<TagTimes>, u64) = (None, 0);
    loop {
        let rows = reader.page(&query, after).map_err(outbox)?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for event in rows.iter().filter_map(|row| parse(&row.body)).filter(|event| event.data.tag_id == tag_id) {
            found.get_or_insert_with(|| TagTimes::of(&event)).note(&event);
        }
    }
    found.ok_or_else(|| (format!("the outbox has no event `{id}`; `vtagd events list` prints their ids"), 2))
}
