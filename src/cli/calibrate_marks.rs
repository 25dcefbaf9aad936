//! Which marks `vtagd labels calibrate` goes by: those of a file, or those that are kept; of clips, or of the stream's past.
//!
//! In: the command's arguments and a configuration. Out: [`Marks`], checked against the set and the stream; or why there are none. On the main
//! thread.

use super::calibrate::Args;
use super::marks::{self, Failure};
use super::plural;
use crate::calibrate::marks::SetMarks;
use crate::config::Settings;
use crate::daemon::marking::{MarkedStream, Moments};
use crate::label::mark_store;
use crate::source::Location;

/// What is marked.
pub(super) enum Marks {
    /// Of each clip.
    OfClips(Vec<SetMarks>),
    /// Of the stream's past.
    ByClock(SetMarks),
}

/// Those that are meant.
///
/// # Errors
/// Why there are none, or they cannot be of the stream.
pub(super) fn marks_for(args: &Args, settings: &Settings, known: &[String]) -> Result<Marks, Failure> {
    let mut given = Vec::new();
    for file in &args.marks {
        let marks = marks::read_form(file)?;
        let problems = marks.problems(Some(known));
        if !problems.is_empty() {
            return Err((format!("{}: {}", file.display(), problems.join("\n")), 2));
        }
        given.push((file, marks));
    }
    let wanted = args.clips.len().max(1);
    if !given.is_empty() && given.len() != wanted {
        let (marks, clips) = (plural(given.len(), "--marks"), plural(wanted, "clip"));
        return Err((format!("{marks} for {clips}: give one for each clip"), 2));
    }
    if given.is_empty() && wanted > 1 {
        return Err(("several clips need --marks each".to_owned(), 2));
    }
    if let Some((file, _)) = given.iter().find(|(_, marks)| !args.clips.is_empty() && number(marks, false) > 0) {
        let why = "marks of a clip are seconds from its first picture, not times of day";
        return Err((format!("{}: {why}", file.display()), 2));
    }
    let stream = settings.streams.iter().find(|one| *one.source.id == *args.stream);
    let is_file = stream.is_some_and(|stream| matches!(stream.source.location, Location::File(_)));
    if let Some(stream) = stream {
        let mut of = MarkedStream::of(settings, stream);
        if is_file || !args.clips.is_empty() {
            // What is by the clock of a file is looked up in its history.
            of.moments = Moments::Either;
        }
        for (file, marks) in &given {
            if let Some(why) = marks.all().iter().find_map(|mark| of.problem(mark)) {
                return Err((format!("{}: {why}", file.display()), 2));
            }
        }
    }
    if given.is_empty() {
        if !args.clips.is_empty() && !is_file {
            let why = "is no file, so nothing says what its clips show: give --marks with --clip";
            return Err((format!("stream {} {why}", args.stream), 2));
        }
        let mut kept = mark_store::read(&settings.state).map_err(|error| (error.to_string(), error.exit_code()))?;
        let mut sets = kept.remove(&args.stream).unwrap_or_default();
        let marks = sets.remove(&args.set).ok_or_else(|| {
            let is_gone = |name: &&String| !settings.label_sets.iter().any(|set| set.name == **name);
            let how = sets.keys().find(is_gone).map_or_else(
                || "`vtagd marks add` says what was seen when, or --marks FILE".to_owned(),
                |old| {
                    format!(
                        "marks of `{old}`, if that was its name, are taken over by `vtagd marks export` and `import`"
                    )
                },
            );
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
    match number(&marks, true) {
        0 => Marks::ByClock(marks),
        _ if is_file => Marks::OfClips(vec![marks]),
        // An earlier version took them, or it was a file then.
        seconds => {
            if number(&marks, false) > 0 {
                tracing::warn!("{} in seconds left out: they are not of a camera", plural(seconds, "mark"));
            }
            Marks::ByClock(marks)
        }
    }
}

/// Marks in seconds, or by the clock.
pub(super) fn number(marks: &SetMarks, is_media: bool) -> usize {
    marks.all().iter().filter(|mark| mark.span.0.is_media() == is_media).count()
}
