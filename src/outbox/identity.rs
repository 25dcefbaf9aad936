//! Which outbox this is: a UUID that is made once and kept in the file, so that others can tell one daemon from another.
//!
//! A copy stands in the lock file beside it, so that it is found again when the outbox could not be read at all. An outbox in memory
//! has none; what stands in for it is made of the machine and the configuration ([`of_machine`]), so that a restart does not change it.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::tables::{self, OutboxError};

/// The identity of the outbox of `connection`, whose lock is `lock`: made if there is none yet.
///
/// # Errors
/// As SQLite has it.
pub(super) fn of(connection: &Connection, lock: &File) -> Result<Uuid, rusqlite::Error> {
    let beside = copy(lock);
    let id = match read(connection)? {
        Some(id) => id,
        None => {
            let id = beside.unwrap_or_else(Uuid::new_v4);
            keep(connection, id)?;
            id
        }
    };
    if beside != Some(id)
        && let Err(error) = write(lock, id)
    {
        tracing::warn!(%error, "the outbox's identity cannot be written into its lock file; it stands in the outbox alone");
    }
    Ok(id)
}

/// Writes `id` into the outbox.
///
/// # Errors
/// As SQLite has it.
pub(super) fn keep(connection: &Connection, id: Uuid) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO identity (one, id) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET id = excluded.id";
    connection.execute(sql, [id.to_string()]).map(drop)
}

/// `None` too if what stands there is no UUID.
fn read(connection: &Connection) -> Result<Option<Uuid>, rusqlite::Error> {
    let id: Option<String> = connection.query_row("SELECT id FROM identity", [], |row| row.get(0)).optional()?;
    Ok(id.and_then(|id| Uuid::parse_str(&id).ok()))
}

fn copy(mut lock: &File) -> Option<Uuid> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(64).read_to_string(&mut text).ok()?;
    Uuid::parse_str(text.trim()).ok()
}

fn write(mut lock: &File, id: Uuid) -> std::io::Result<()> {
    lock.rewind()?;
    lock.write_all(format!("{id}\n").as_bytes())?;
    lock.set_len(37)?;
    lock.sync_data()
}

/// The identity of the outbox in `path`, whether a daemon runs or not; `None`: no daemon of this version has opened it yet.
///
/// # Errors
/// When there is no outbox, or it cannot be read.
pub fn of_file(path: &Path) -> Result<Option<Uuid>, OutboxError> {
    let (connection, _) = tables::open_to_read(path)?;
    let failed = |error| OutboxError::Sql { path: path.to_owned(), error };
    let there =
        connection.prepare("SELECT 1 FROM sqlite_master WHERE name = 'identity'").and_then(|mut s| s.exists([]));
    if there.map_err(failed)? { read(&connection).map_err(failed) } else { Ok(None) }
}

/// The identity of a daemon whose outbox is in memory: the same after each start of this configuration on this machine.
pub fn of_machine(configuration: &Path, instance: &str) -> Uuid {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let file = configuration.canonicalize().unwrap_or_else(|_| configuration.to_owned());
    let mut hash = Sha256::new();
    for part in [b"vtagd".as_slice(), &machine, file.as_os_str().as_encoded_bytes(), instance.as_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_without_a_file_is_the_same_after_a_restart_and_another_than_its_neighbour() {
        let [a, b] = ["/etc/vtagd/a.yaml", "/etc/vtagd/b.yaml"].map(Path::new);
        assert_eq!(of_machine(a, "edge"), of_machine(a, "edge"));
        assert!(of_machine(a, "edge") != of_machine(b, "edge") && of_machine(a, "edge") != of_machine(a, "other"));
    }
}
