//! What a change has written into the state directory, until the configuration has been read again with it and runs, or is refused.
//!
//! In: what lay there before, of each file. Out: that again, where the change comes to nothing. Also a file that is to go once nothing needs it any more. On the
//! main thread, which waits for the disk.

use std::path::PathBuf;

use crate::config::Settings;
use crate::platform::state_folder::{StateError, StateFolder};
use crate::source::{Location, SourceSettings};
use crate::stream::StreamId;

/// See the module.
#[derive(Debug, Default)]
pub struct StateChange {
    /// Names below the state directory, and what they held; `None`: nothing.
    before: Vec<(PathBuf, Option<Vec<u8>>)>,
    /// What is removed once the change is in force.
    needless: Option<PathBuf>,
    /// A stream that there has to be with it, and where it has to be of.
    pub stream: Option<(StreamId, Location)>,
}

impl StateChange {
    /// A file that held this was written, or removed.
    pub fn of(name: PathBuf, content: Option<Vec<u8>>) -> Self {
        Self { before: vec![(name, content)], ..Self::default() }
    }

    /// Another one too.
    #[must_use]
    pub fn and(mut self, name: PathBuf, content: Option<Vec<u8>>) -> Self {
        self.before.push((name, content));
        self
    }

    /// A file goes once the change is in force.
    #[must_use]
    pub fn freeing(self, name: PathBuf) -> Self {
        Self { needless: Some(name), ..self }
    }

    /// There has to be this stream with it, and no other of its id.
    #[must_use]
    pub fn expecting(self, stream: &SourceSettings) -> Self {
        Self { stream: Some((stream.id.clone(), stream.location.clone())), ..self }
    }

    /// Whether the stream that there has to be is not among those of `settings`.
    pub fn is_missed_in(&self, settings: &Settings) -> bool {
        let is_there = |(id, location): &(StreamId, Location)| {
            settings.streams.iter().any(|one| one.source.id == *id && one.source.location == *location)
        };
        self.stream.as_ref().is_some_and(|wanted| !is_there(wanted))
    }

    /// Puts back what there was, all that can be.
    ///
    /// # Errors
    /// The first file that the disk does not take.
    pub fn restore(self, state: &StateFolder) -> Result<(), StateError> {
        let back = |(name, content): (PathBuf, Option<Vec<u8>>)| match content {
            Some(content) => state.write(&name, &content),
            None => state.remove(&name).map(|_| ()),
        };
        self.before.into_iter().map(back).fold(Ok(()), Result::and)
    }

    /// It is in force.
    pub fn settle(self, state: &StateFolder) {
        if let Some(name) = self.needless
            && let Err(error) = state.remove(&name)
        {
            tracing::warn!(%error, "a file that nothing needs any more could not be removed");
        }
    }
}
