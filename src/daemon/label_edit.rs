//! A label as the page wants it: what the set is with it, and the copy of the set that says so.
//!
//! In: a label set as it runs or as its file has it, and a [`LabelDraft`]. Out: the set with it; or its text as the copy in the state directory, with what
//! there was of one before. Reads and writes there, on the caller's thread: the main thread, which has the configuration read again afterwards.

use std::path::Path;

use super::state_change::StateChange;
use crate::label::background_field::NOUNS;
use crate::label::examples::Example;
use crate::label::set::{self, Parsed};
use crate::label::state_copy::{self, CopyError, NoCopy};
use crate::label::{Label, LabelSet, set_edit};
use crate::platform::state_folder::StateFolder;
use crate::score::Threshold;
use crate::stream::requests::{LabelDraft, PastMoment, RequestOutcome};
use crate::yaml::problem::Problem;
use crate::yaml::{Document, MAX_BYTES};

/// Beside the text of a set there is a line of vtagd's own in its copy.
const MOST: u64 = 2 * MAX_BYTES;

/// Who made a copy.
const BY: &str = "the page";

/// `set` with a label as `draft` has it, at its place or behind the others.
pub fn drafted(set: &LabelSet, draft: &LabelDraft) -> LabelSet {
    let mut set = set.clone();
    // As they are read again.
    let texts = |list: &[String]| list.iter().map(|text| text.trim().to_owned()).collect::<Vec<_>>();
    if let Some(background) = &draft.background {
        let (nouns, prompts): (Vec<_>, Vec<_>) = texts(background).into_iter().partition(|text| text == NOUNS);
        (set.background, set.has_nouns) = (prompts, !nouns.is_empty());
    }
    let at = set.labels.iter().position(|label| label.name == draft.label).unwrap_or_else(|| {
        set.labels.push(Label { hours: set.hours.clone(), ..Label::plain(&draft.label) });
        set.labels.len() - 1
    });
    let label = &mut set.labels[at];
    if !draft.prompts.is_empty() {
        label.prompts = texts(&draft.prompts);
    }
    label.negatives = texts(&draft.negatives);
    let margin = |threshold: Option<f64>, before: Option<Threshold>| threshold.map(Threshold::Margin).or(before);
    label.thresholds.enter = margin(draft.enter, label.thresholds.enter);
    label.thresholds.exit = margin(draft.exit, label.thresholds.exit);
    add(&mut label.examples, &draft.examples);
    add(&mut label.counter_examples, &draft.counter_examples);
    set
}

/// Moments behind the examples that there are, each once.
fn add(examples: &mut Vec<Example>, moments: &[PastMoment]) {
    let of = |one: &PastMoment| Example::of_history(&one.stream, one.region.as_deref(), one.at).ok();
    for new in moments.iter().filter_map(of) {
        if !examples.iter().any(|one| one.digest == new.digest) {
            examples.push(new);
        }
    }
}

/// Keeps the set of the configuration's `file`, with the label, as a copy, if what is in force of it still has the hash `sha256`.
///
/// # Errors
/// What is told instead: nothing has changed then.
pub fn keep(
    state: &StateFolder,
    name: &str,
    file: &Path,
    sha256: &str,
    draft: &LabelDraft,
) -> Result<StateChange, RequestOutcome> {
    let refused = |why: String| RequestOutcome::Refused { why, problems: Vec::new() };
    let with_problems =
        |problems: Vec<Problem>| RequestOutcome::Refused { why: format!("the set `{name}` has problems"), problems };
    let original = Document::read(file).map_err(|problem| with_problems(vec![*problem]))?;
    let parsed: Parsed = match state_copy::read(state, name, file) {
        Ok(copy) if copy.origin.file_sha256 != state_copy::fingerprint(original.text()) => {
            let why = "its file has changed since its copy was made, and one of the two would be lost: `vtagd labels export` prints the copy, \
                       `vtagd labels reset` goes back to the file";
            return Err(RequestOutcome::Outdated(why.to_owned()));
        }
        Ok(copy) => copy.parsed,
        Err(NoCopy::Absent) => {
            let again =
                Document::parse(file, original.text().as_bytes()).map_err(|problem| with_problems(vec![*problem]))?;
            let mut parsed = set::check(again).map_err(with_problems)?;
            // Of the file's bytes, with its byte-order mark.
            original.sha256().clone_into(&mut parsed.set.sha256);
            parsed
        }
        Err(NoCopy::Unreadable(why) | NoCopy::Wrong(why)) => {
            let why = format!("its copy is not in force: {why}; `vtagd labels reset` removes it");
            return Err(RequestOutcome::Outdated(why));
        }
    };
    if parsed.set.sha256 != sha256 {
        let why = "the set has changed since it was read, perhaps on the disk: read it again; what the file says comes into force with a reload";
        return Err(RequestOutcome::Outdated(why.to_owned()));
    }
    let wanted = drafted(&parsed.set, draft);
    if wanted == parsed.set {
        return Err(RequestOutcome::Already);
    }
    let text = set_edit::edited(&parsed.document, &parsed.set, &wanted, &draft.label).map_err(refused)?;
    let place = state_copy::name_of(name);
    let content = state.read(&place, MOST).map_err(|error| refused(format!("its copy cannot be read: {error}")))?;
    match state_copy::put(state, name, state_copy::body(&text), &original, BY) {
        Ok(()) => Ok(StateChange::of(place, content)),
        Err(CopyError::Set(problems)) => Err(with_problems(problems)),
        Err(other) => Err(refused(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const SET: &str = "# ours\nset: yard\nbackground: [an empty yard] # seen at night\nlabels:\n  - name: car # any\n    enter: 0.7\n";

    fn draft(label: &str) -> LabelDraft {
        let prompts = vec![format!("a {label}")];
        LabelDraft { label: label.to_owned(), prompts, enter: Some(2.5), exit: Some(1.5), ..LabelDraft::default() }
    }

    fn folder() -> (tempfile::TempDir, StateFolder, PathBuf, String) {
        folder_with(SET)
    }

    fn folder_with(text: &str) -> (tempfile::TempDir, StateFolder, PathBuf, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("yard.yaml");
        std::fs::write(&file, text).unwrap();
        let state = StateFolder::configured(folder.path().join("state"));
        let sha256 = set::read(&file).unwrap().set.sha256;
        (folder, state, file, sha256)
    }

    #[test]
    fn a_label_is_added_to_a_copy_and_the_next_needs_the_hash_of_that() {
        let (_folder, state, file, sha256) = folder();
        let before = keep(&state, "yard", &file, &sha256, &draft("dog")).unwrap();
        let copy = state_copy::read(&state, "yard", &file).unwrap();
        assert!(copy.text.starts_with(SET), "what was there stays as it was: {}", copy.text);
        let dog = copy.parsed.set.labels.last().unwrap();
        assert_eq!((&*dog.name, &dog.prompts[..]), ("dog", &["a dog".to_owned()][..]));
        assert_eq!(dog.thresholds.enter, Some(Threshold::Margin(2.5)));
        assert_eq!(copy.origin.by, BY);
        assert!(matches!(keep(&state, "yard", &file, &sha256, &draft("cat")), Err(RequestOutcome::Outdated(_))));
        let second = keep(&state, "yard", &file, &copy.parsed.set.sha256, &draft("cat")).unwrap();
        assert_eq!(state_copy::read(&state, "yard", &file).unwrap().parsed.set.labels.len(), 3);
        second.restore(&state).unwrap();
        assert_eq!(state_copy::read(&state, "yard", &file).unwrap().text, copy.text);
        before.restore(&state).unwrap();
        assert_eq!(state_copy::read(&state, "yard", &file).unwrap_err(), NoCopy::Absent);
    }

    #[test]
    fn a_file_that_changed_on_the_disk_meanwhile_is_not_overwritten() {
        let (_folder, state, file, sha256) = folder();
        std::fs::write(&file, SET.replace("0.7", "0.8")).unwrap();
        assert!(matches!(keep(&state, "yard", &file, &sha256, &draft("dog")), Err(RequestOutcome::Outdated(_))));
        std::fs::write(&file, SET).unwrap();
        keep(&state, "yard", &file, &sha256, &draft("dog")).unwrap();
        let copy = state_copy::read(&state, "yard", &file).unwrap();
        std::fs::write(&file, SET.replace("0.7", "0.8")).unwrap();
        let told = keep(&state, "yard", &file, &copy.parsed.set.sha256, &draft("cat")).unwrap_err();
        assert!(matches!(told, RequestOutcome::Outdated(why) if why.contains("labels reset")));
        assert_eq!(state_copy::read(&state, "yard", &file).unwrap().text, copy.text);
    }

    #[test]
    fn what_is_so_already_and_what_is_no_label_changes_nothing() {
        let (_folder, state, file, sha256) = folder();
        let same = LabelDraft { label: "car".into(), prompts: vec!["car".into()], ..LabelDraft::default() };
        assert!(matches!(keep(&state, "yard", &file, &sha256, &same), Err(RequestOutcome::Already)));
        for wrong in [draft(" "), LabelDraft { exit: Some(9.0), ..draft("dog") }] {
            let told = keep(&state, "yard", &file, &sha256, &wrong).unwrap_err();
            assert!(matches!(told, RequestOutcome::Refused { .. }), "{told:?}");
        }
        assert_eq!(state_copy::read(&state, "yard", &file).unwrap_err(), NoCopy::Absent);
    }

    #[test]
    fn a_new_label_has_the_hours_of_its_set_and_nouns_are_no_prompt() {
        let text = "set: yard\nactive: { days: mon-fri, from: '08:00', to: '18:00', timezone: UTC }\nbackground: [nouns, an empty yard] # both\nlabels:\n  - name: car\n";
        let (_folder, state, file, sha256) = folder_with(text);
        keep(&state, "yard", &file, &sha256, &draft("dog")).unwrap();
        let copy = state_copy::read(&state, "yard", &file).unwrap();
        let set = &copy.parsed.set;
        assert!(set.hours.is_some() && set.labels[1].hours == set.hours);
        // What the page is told, and one more.
        let mut background = set.background_as_written();
        assert_eq!(background, ["an empty yard", "nouns"]);
        background.push("rain ".to_owned());
        let rain = LabelDraft { background: Some(background), ..draft("dog") };
        assert_eq!(drafted(set, &rain).background, ["an empty yard", "rain"]);
        keep(&state, "yard", &file, &set.sha256, &rain).unwrap();
        let copy = state_copy::read(&state, "yard", &file).unwrap();
        assert!(copy.text.contains("background: [nouns, an empty yard, \"rain\"] # both\n"), "{}", copy.text);
        assert!(copy.parsed.set.has_nouns);
        for (background, has_nouns) in [(vec!["rain".to_owned()], false), (vec!["nouns".to_owned()], true)] {
            let copy = state_copy::read(&state, "yard", &file).unwrap();
            let other = LabelDraft { background: Some(background), ..draft("dog") };
            keep(&state, "yard", &file, &copy.parsed.set.sha256, &other).unwrap();
            assert_eq!(state_copy::read(&state, "yard", &file).unwrap().parsed.set.has_nouns, has_nouns);
        }
    }

    #[test]
    fn pictures_beside_the_sets_file_stay_examples_of_its_copy() {
        let text = "set: yard\nbackground: [an empty yard]\nlabels:\n  - name: car\n    examples: [car.jpg]\n    counter_examples: [pictures/none.jpg]\n";
        let (folder, state, file, _) = folder_with("set: yard\nbackground: [x]\nlabels: [{ name: car }]\n");
        std::fs::create_dir(folder.path().join("pictures")).unwrap();
        for picture in ["car.jpg", "pictures/none.jpg"] {
            std::fs::write(folder.path().join(picture), picture).unwrap();
        }
        std::fs::write(&file, text).unwrap();
        let original = set::read(&file).unwrap().set;
        // The lines of the examples move: a prompt and a threshold come to stand before them.
        keep(&state, "yard", &file, &original.sha256, &draft("car")).unwrap();
        let copy = state_copy::read(&state, "yard", &file).unwrap();
        let source = |set: &LabelSet| set.labels[0].examples[0].source.clone();
        assert_eq!(source(&copy.parsed.set), source(&original));
        keep(&state, "yard", &file, &copy.parsed.set.sha256, &draft("dog")).unwrap();
        let copy = state_copy::read(&state, "yard", &file).unwrap();
        assert_eq!(copy.parsed.set.labels[0].counter_examples[0].digest, original.labels[0].counter_examples[0].digest);
        assert_eq!(copy.parsed.set.labels.len(), 2);
    }
}
