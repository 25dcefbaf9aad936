//! Streams that are added and removed while the daemon runs: the file that says so in the state directory, and the passwords beside it.
//!
//! In: a stream as somebody wants it, or the id of one that was added. Out: what was written, to be taken back where the configuration with it is refused. Writes
//! there, on the caller's thread: the main thread, which has the configuration read again afterwards.

use super::state_change::StateChange;
use crate::api::Additions;
use crate::config::{Settings, added_streams};
use crate::platform::state_folder::StateFolder;
use crate::stream::requests::{NewStream, RequestOutcome};
use crate::yaml::MAX_BYTES;

/// Why nothing can be added; `None`: it can.
pub fn obstacle(state: &StateFolder) -> Option<String> {
    let why = "what is added is kept in the state directory, and nobody has said which one is: write `state: { path: /var/lib/vtagd }`, or another \
               folder of this daemon's own, into the configuration, and start it again";
    (!state.is_given()).then(|| why.to_owned())
}

/// What is told of that.
pub fn additions(state: &StateFolder) -> Additions {
    Additions { streams: added_streams::ids(state), obstacle: obstacle(state) }
}

/// Keeps a stream.
///
/// # Errors
/// What is told instead: nothing has changed then.
pub fn add(current: &Settings, new: &NewStream) -> Result<StateChange, RequestOutcome> {
    let state = &current.state;
    let refused = |why: String| RequestOutcome::Refused { why, problems: Vec::new() };
    if let Some(why) = obstacle(state) {
        return Err(RequestOutcome::Outdated(why));
    }
    let stream = added_streams::checked(new)
        .map_err(|problems| RequestOutcome::Refused { why: "the stream cannot be added".to_owned(), problems })?;
    let id = &stream.source.id;
    if current.streams.iter().any(|one| one.source.id == *id)
        || added_streams::ids(state).iter().any(|one| **one == **id)
    {
        return Err(RequestOutcome::Outdated(format!("there is a stream `{id}` already: give this one another id")));
    }
    let text = added_streams::with(state, &stream).map_err(refused)?;
    let password = added_streams::password_name(id);
    let failed = |error: &dyn std::fmt::Display| refused(error.to_string());
    let before = state.read(&added_streams::name(), MAX_BYTES).map_err(|error| failed(&error))?;
    if let Some(secret) = &stream.source.password {
        state.write_private(&password, secret.expose().as_bytes()).map_err(|error| failed(&error))?;
    }
    let change = StateChange::of(added_streams::name(), before).and(password, None);
    match state.write(&added_streams::name(), text.as_bytes()) {
        Ok(()) => Ok(change.expecting(&stream.source)),
        Err(error) => {
            let _ = change.restore(state);
            Err(failed(&error))
        }
    }
}

/// Lets go of a stream that was added.
///
/// # Errors
/// What is told instead: nothing has changed then.
pub fn remove(current: &Settings, id: &str) -> Result<StateChange, RequestOutcome> {
    let state = &current.state;
    let refused = |why: String| RequestOutcome::Refused { why, problems: Vec::new() };
    if !added_streams::ids(state).iter().any(|one| one == id) {
        let known = current.streams.iter().any(|one| *one.source.id == *id);
        let why = "this stream stands in the configuration: remove it there, and reload";
        return Err(if known { RequestOutcome::Outdated(why.to_owned()) } else { RequestOutcome::NoSuchStream });
    }
    let name = added_streams::name();
    let before = state.read(&name, MAX_BYTES).map_err(|error| refused(error.to_string()))?;
    let text = added_streams::without(state, id).map_err(refused)?;
    let written = match text {
        Some(text) => state.write(&name, text.as_bytes()),
        None => state.remove(&name).map(|_| ()),
    };
    written.map_err(|error| refused(error.to_string()))?;
    let change = StateChange::of(name, before);
    // The file may have been written by hand: what is no id of ours leads to no file of ours.
    let is_id = id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
    Ok(if is_id { change.freeing(added_streams::password_name(id)) } else { change })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config;
    use crate::platform::secret::Secret;

    fn settings(folder: &std::path::Path, streams: &str) -> Settings {
        let text = format!("model: {{ path: none }}\nstreams: {streams}\nsinks: [{{ type: jsonl, path: '-' }}]\n");
        Settings { state: StateFolder::configured(folder.join("state")), ..config::of_text("a test", &text).unwrap() }
    }

    #[test]
    fn a_password_lies_in_a_file_for_the_daemon_alone_and_goes_with_its_stream() {
        let folder = tempfile::tempdir().unwrap();
        let current = settings(folder.path(), "[]");
        let password = folder.path().join("state/passwords/gate");
        let new = NewStream {
            id: "gate".to_owned(),
            url: "rtsp://10.0.0.12/1".to_owned(),
            username: Some("viewer".to_owned()),
            password: Some(Secret::new("a-hidden-word")),
        };
        let change = add(&current, &new).unwrap();
        assert_eq!(change.stream.as_ref().map(|(id, _)| &**id), Some("gate"));
        // The configuration has got one of its own since it was read.
        assert!(change.is_missed_in(&settings(folder.path(), "[{ id: gate, url: 'rtsp://10.0.0.1/' }]")));
        assert!(!change.is_missed_in(&settings(folder.path(), "[{ id: gate, url: 'rtsp://10.0.0.12/1' }]")));
        assert_eq!(password.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&password).unwrap(), "a-hidden-word");
        let file = folder.path().join("state/streams.yaml");
        assert!(!std::fs::read_to_string(&file).unwrap().contains("a-hidden-word"));
        assert!(matches!(add(&current, &new), Err(RequestOutcome::Outdated(_))));
        // The configuration with it was refused.
        change.restore(&current.state).unwrap();
        assert!(!password.exists() && !file.exists());
        add(&current, &new).unwrap().settle(&current.state);
        let change = remove(&current, "gate").unwrap();
        assert!(password.exists() && !file.exists(), "until it is in force");
        change.settle(&current.state);
        assert!(!password.exists());
        assert!(matches!(remove(&current, "gate"), Err(RequestOutcome::NoSuchStream)));
    }

    #[test]
    fn nothing_is_added_where_nobody_has_said_which_folder_is_the_state_directory() {
        assert_eq!(obstacle(&StateFolder::configured("/nonexistent".into())), None);
        let by_default = StateFolder::default_place();
        assert_eq!(obstacle(&by_default).is_some(), !by_default.is_given());
    }

    #[test]
    fn a_stream_of_the_configuration_is_neither_shadowed_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let current = settings(folder.path(), "[{ id: gate, url: 'rtsp://10.0.0.1/' }]");
        let new =
            |id: &str, url: &str| NewStream { id: id.to_owned(), url: url.to_owned(), username: None, password: None };
        assert!(matches!(add(&current, &new("gate", "rtsp://10.0.0.2/")), Err(RequestOutcome::Outdated(_))));
        assert!(
            matches!(remove(&current, "gate"), Err(RequestOutcome::Outdated(why)) if why.contains("configuration"))
        );
        assert!(matches!(add(&current, &new("yard", "file:///etc/passwd")), Err(RequestOutcome::Refused { .. })));
        assert!(!folder.path().join("state").exists(), "nothing was written");
    }
}
