//! What the store does about a damaged file: a new one takes its place, and what there was no room for follows when there is
//! ([`damage`](super::super::damage)).

use std::path::Path;

use rusqlite::{Connection, ErrorCode, ffi};

use super::super::damage;
use super::super::route::Route;
use super::super::tables::{self, Opened, OutboxError, STEPS};
use super::sink_registry::{enter, keep_counting};
use super::{EventStore, identity};

/// After a kill while a file was replaced.
pub(super) fn finish(path: &Path) -> Result<(), OutboxError> {
    damage::finish(path).map_err(|error| OutboxError::of_io(path, &error))
}

/// The new file in the place of the damaged one, which nobody has open. What is large is still to be [carried over](carry_over).
pub(super) fn replace(path: &Path, error: &rusqlite::Error) -> Result<Connection, OutboxError> {
    damage::prepare(path)?;
    put_in_place(path, error)
}

fn put_in_place(path: &Path, error: &rusqlite::Error) -> Result<Connection, OutboxError> {
    let aside = damage::swap(path).map_err(|error| OutboxError::of_io(path, &error))?;
    let moved_to = aside.as_deref().unwrap_or_else(|| Path::new("")).display();
    tracing::error!(outbox = %path.display(), %moved_to, %error, "the outbox is damaged, a new one takes its place");
    opened(path, tables::open(Some(path), STEPS))
}

fn opened(path: &Path, opened: Result<Opened, rusqlite::Error>) -> Result<Connection, OutboxError> {
    match opened {
        Ok(Opened::Ready(connection)) => Ok(connection),
        Ok(Opened::Newer(found)) => Err(OutboxError::Newer { path: path.to_owned(), found, known: STEPS.len() }),
        Err(error) => Err(OutboxError::of_open(path, &error)),
    }
}

/// Carries over what damaged files have, if there are any and there is room; the one that is left.
pub(super) fn carry_over(path: &Path, connection: &mut Connection) -> Result<Option<String>, rusqlite::Error> {
    while let Some(file) = damage::waiting(connection)? {
        let done = if damage::has_room(path, &file) {
            damage::salvage(path, &file, connection).map(drop)
        } else {
            Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None))
        };
        match done {
            Ok(()) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                // What was tried takes no room in the log.
                let _ = connection.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
                return Ok(Some(file));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl EventStore {
    /// After an error that [`tables::is_damage`]: the file is moved aside and a new one made of what can be read. Positions stay.
    ///
    /// # Errors
    /// When there is no file to move, or no new one can be made: it is to be called again, and until then nothing can be stored.
    pub fn recover(&mut self, routes: &[Route], error: &rusqlite::Error) -> Result<(), OutboxError> {
        let Some(path) = self.path.clone() else {
            return Err(OutboxError::Open { path: ":memory:".into(), why: error.to_string() });
        };
        let broken = |error| OutboxError::of_open(&path, &error);
        let mut connection = self.replaced(&path, error)?;
        // The numbers of rows that could not be read are not given again: somebody may still hold them.
        keep_counting(&connection, self.highest).map_err(broken)?;
        if let Some(id) = self.identity {
            identity::keep(&connection, id).map_err(broken)?;
        }
        self.salvage = carry_over(&path, &mut connection).map_err(broken)?;
        self.sinks = enter(&connection, routes).map_err(broken)?;
        (self.connection, self.lost) = (connection, false);
        Ok(())
    }

    fn replaced(&mut self, path: &Path, error: &rusqlite::Error) -> Result<Connection, OutboxError> {
        if self.lost {
            // An earlier try broke off behind the renaming.
            finish(path)?;
            match tables::open(Some(path), STEPS) {
                Err(error) if tables::is_damage(&error) => return replace(path, &error),
                other => return opened(path, other),
            }
        }
        // Until the new file is whole, this one stays, as far as it is good for anything.
        damage::prepare(path)?;
        // The old connection still has its name for the file; it is closed before the file gets another.
        self.lost = true;
        self.connection = Connection::open_in_memory().map_err(|error| OutboxError::of_open(path, &error))?;
        put_in_place(path, error)
    }

    /// Whether there is no file open that anything could be written to: [`recover`](Self::recover) is to be called again.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a damaged file is still to be carried over.
    pub fn is_salvaging(&self) -> bool {
        self.salvage.is_some()
    }

    /// Carries a damaged file over, if there is room by now. `true`: there are events and deliveries that were not there before.
    ///
    /// # Errors
    /// As SQLite has it; then nothing has changed.
    pub fn salvage(&mut self) -> Result<bool, rusqlite::Error> {
        let (Some(path), true) = (&self.path, self.salvage.is_some()) else { return Ok(false) };
        self.salvage = carry_over(path, &mut self.connection)?;
        Ok(self.salvage.is_none())
    }
}
