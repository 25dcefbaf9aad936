//! Which of two is in force: a label set's file, or the copy of it in the state directory, and what is told of that.
//!
//! In: a set as its file has it, the state directory, the defaults for its thresholds. Out: the set that counts, a [`SetInForce`] that
//! says which of the two it is, and notices: a copy counts, its file has changed since, a copy is wrong and does not count. Reads the copy,
//! on the caller's thread.

use std::path::PathBuf;

use serde::Serialize;

use super::schema::{Root, State};
use super::{sets, validate};
use crate::event::Thresholds;
use crate::label::set::Parsed;
use crate::label::state_copy::{self, NoCopy, StateCopy};
use crate::platform::state_folder::StateFolder;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::{Document, checks};

/// Which of the two counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InForce {
    File,
    /// The copy in the state directory.
    State,
}

/// Where a label set that runs comes from. Stable as JSON; fields may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetInForce {
    pub in_force: InForce,
    /// The configuration's file of the set.
    pub file: PathBuf,
    /// The copy, where it counts.
    pub copy: Option<CopyInForce>,
    /// Why the copy that there is does not count.
    pub refused: Option<String>,
    /// What is doubtful about the set, as far as it can be told without a model.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// Its examples could not be used when it was put in force: it goes by its texts alone.
    #[serde(skip)]
    pub is_by_texts: bool,
}

impl SetInForce {
    /// From now on the set has no examples, and `warning` says so.
    pub fn goes_by_texts(&mut self, warning: String) {
        self.warnings.push(warning);
        self.is_by_texts = true;
    }

    /// Whether there is a copy, right or wrong.
    pub fn has_copy(&self) -> bool {
        self.copy.is_some() || self.refused.is_some()
    }
}

/// A copy that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyInForce {
    pub path: PathBuf,
    pub made_at: jiff::Timestamp,
    pub by: String,
    /// The file has changed since the copy was made of it.
    pub file_changed: bool,
}

/// A label set as it is in force, for whoever wants to have it.
#[derive(Debug)]
pub struct SetOnDisk {
    pub name: String,
    /// The label-set file.
    pub text: String,
    pub in_force: SetInForce,
}

/// The set that counts of `parsed`, which `at` of the configuration names.
pub(super) fn choose(
    parsed: Parsed,
    at: &At<String>,
    state: &StateFolder,
    events: Option<&Thresholds>,
    reader: &mut Reader<'_>,
) -> (Parsed, SetInForce) {
    let name = &parsed.set.name;
    let file = parsed.set.file.clone();
    let mut in_force = SetInForce {
        in_force: InForce::File,
        file,
        copy: None,
        refused: None,
        warnings: Vec::new(),
        is_by_texts: false,
    };
    let fits =
        |copy: StateCopy| match events.and_then(|events| sets::check_merged(&copy.parsed, events).into_iter().next()) {
            None => Ok(copy),
            Some(Problem { field, message, .. }) => Err(NoCopy::Wrong(format!("{field}: {message}"))),
        };
    let copy = match state_copy::read(state, name, &in_force.file).and_then(fits) {
        Ok(copy) => copy,
        Err(NoCopy::Absent) => return (parsed, in_force),
        Err(NoCopy::Unreadable(why)) => {
            let message = format!(
                "whether a copy of the set `{name}` in {} is in force cannot be told ({why}); its file is shown",
                state.path().display()
            );
            reader.report(Severity::Notice, at.place, &at.path, message, "try it as the daemon's user or as root");
            return (parsed, in_force);
        }
        Err(NoCopy::Wrong(why)) => {
            let place = state.place(&state_copy::name_of(name));
            let message = format!("the copy of the set `{name}`, {}, is not in force: {why}", place.display());
            reader.warn(at, message, "this file is; `vtagd labels reset` with the set's name removes the copy");
            in_force.refused = Some(why);
            return (parsed, in_force);
        }
    };
    let file_changed = copy.origin.file_sha256 != state_copy::fingerprint(parsed.document.text());
    let (path, made_at, by) = (copy.path.display(), copy.origin.made_at, &copy.origin.by);
    let message = format!("not this file is in force but its copy {path}, made {made_at:.0} by {by}");
    if file_changed {
        let remedy =
            "`vtagd labels export` prints the copy, to be merged by hand; `vtagd labels reset` goes back to this file";
        reader.warn(at, format!("{message}: this file has changed since"), remedy);
    } else {
        reader.report(Severity::Notice, at.place, &at.path, message, "`vtagd labels reset` goes back to this file");
    }
    in_force.in_force = InForce::State;
    in_force.copy = Some(CopyInForce { path: copy.path, made_at, by: copy.origin.by, file_changed });
    (copy.parsed, in_force)
}

/// Says which copies are of no set of the configuration.
pub(super) fn tell_left_over(state: &StateFolder, names: &[&str], at: &At<Vec<At<String>>>, reader: &mut Reader<'_>) {
    let left: Vec<String> =
        state_copy::names(state).into_iter().filter(|name| !names.contains(&name.as_str())).collect();
    if let Some(first) = left.first() {
        let more = if left.len() > 1 { format!(" and {} more", left.len() - 1) } else { String::new() };
        let folder = state.path().display();
        let message =
            format!("{folder} has a copy of the set `{first}`{more}, which no file here is of: it counts for nothing");
        reader.report(
            Severity::Notice,
            at.place,
            &at.path,
            message,
            "`vtagd labels reset` with the set's name removes it",
        );
    }
}

/// `state`. Left out, it is the default place.
pub(super) fn state(field: &Field<State>, reader: &mut Reader<'_>) -> Option<StateFolder> {
    let default = StateFolder::default_place();
    let Some(path) = field.checked(None, |state| state.value.path.checked(None, |at| Some(Some(at.clone()))))? else {
        return Some(default);
    };
    let folder = checks::output(&path, true, reader)?;
    if StateFolder::is_forbidden(&folder) {
        let message = format!("{} lies below /etc, where people write and the service cannot", folder.display());
        return reader.refuse(&path, message, "name a folder such as /var/lib/vtagd, or remove the key");
    }
    Some(StateFolder::configured(folder))
}

/// The state directory of `document` and its label sets as they are in force, and nothing else; `None` if it cannot be told. Sets that
/// cannot be read are left out.
pub(super) fn alone(document: &Document) -> Option<(StateFolder, Vec<SetOnDisk>)> {
    let mut reader = Reader::new(document);
    let root = reader.root::<Root>()?.value;
    let state = state(&root.state, &mut reader)?;
    let labels = root.labels.given().map(|labels| labels.value.as_slice()).unwrap_or_default();
    let events = validate::events(&root.events, &mut reader);
    let found = sets::load(labels, &state, events.as_ref(), &mut reader);
    let sets = found.sets.into_iter().zip(found.in_force).zip(found.documents);
    let sets = sets.map(|((set, in_force), document)| {
        let text = if in_force.copy.is_some() { state_copy::body(document.text()) } else { document.text() };
        SetOnDisk { name: set.name, text: text.to_owned(), in_force }
    });
    let sets = sets.collect();
    Some((state, sets))
}
