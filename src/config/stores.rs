//! What is kept on disk: `outbox`, `snapshots` and `history`. In: their sections and the state directory, where they lie unless they say otherwise. Out: their
//! settings, and what is wrong with them. Pure, but for a look at the folders.

use std::path::PathBuf;
use std::time::Duration;

use super::SnapshotSettings;
use super::schema::{History, HistoryPictures, Snapshots, Store};
use crate::history::{HistorySettings, PictureSettings};
use crate::outbox::OutboxSettings;
use crate::platform::state_folder::StateFolder;
use crate::platform::userinfo;
use crate::sink::SinkKind;
use crate::sink::config::SinkItem;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::values::Bytes;
use crate::yaml::{checks, units};

/// `path` of an outbox without a file, as SQLite has it.
const MEMORY: &str = ":memory:";
/// An outbox of less would be full of its own tables.
const MIN_SIZE: u64 = 1 << 20;

/// `outbox`. Left out, it is a file where there is a place for one (`state.path`, `$STATE_DIRECTORY`) or a sink that needs one; otherwise, when all
/// sinks only write files and standard output, it is in memory: a first try by a plain user needs no folder of the system's.
pub(super) fn outbox(
    field: &Field<Store>,
    sinks: &Field<Vec<At<SinkItem>>>,
    state: &StateFolder,
    reader: &mut Reader<'_>,
) -> OutboxSettings {
    let list = sinks.given().map(|list| list.value.as_slice()).unwrap_or_default();
    let local = list.iter().all(|sink| sink.value.common.kind.value().is_none_or(|kind| kind == SinkKind::Jsonl));
    let default = || state.path().join("outbox.db");
    let path = match field.given().map(|store| &store.value.path) {
        Some(Field::Given(path)) if path.value == MEMORY => None,
        // With a problem the settings are not used.
        Some(Field::Given(path)) => checks::output(path, false, reader).or_else(|| Some(PathBuf::new())),
        Some(_) => Some(default()),
        None if local && !state.is_given() => None,
        None => Some(default()),
    };
    if let Some(size) = field.given().and_then(|store| store.value.max_size.given())
        && (1..MIN_SIZE).contains(&size.value.0)
    {
        reader.error(size, "is below 1MiB", units::SIZE_HELP);
    }
    let none = Store::default();
    let raw = field.given().map_or(&none, |store| &store.value);
    let (max_size, max_age) = limits(&raw.max_size, &raw.max_age, reader);
    OutboxSettings { path, max_size, max_age }
}

/// The limits of a store: size and age.
fn limits(max_size: &Field<Bytes>, max_age: &Field<Duration>, reader: &mut Reader<'_>) -> (u64, Duration) {
    if let Some(size) = max_size.given().filter(|size| size.value.0 == 0) {
        reader.error(size, "must be above 0", units::SIZE_HELP);
    }
    if let Some(age) = max_age.given().filter(|age| age.value.is_zero()) {
        reader.error(age, "must be above 0", units::DURATION_HELP);
    }
    let size = max_size.value().map_or(1 << 30, |bytes| bytes.0);
    (size, max_age.value().unwrap_or(Duration::from_secs(7 * 86_400)))
}

/// `snapshots`. Left out, no pictures are kept.
pub(super) fn snapshots(
    field: &Field<Snapshots>,
    state: &StateFolder,
    reader: &mut Reader<'_>,
) -> Option<SnapshotSettings> {
    let raw = &field.given()?.value;
    let path = raw.path.checked(state.path().join("snapshots"), |path| checks::output(path, true, reader))?;
    let (max_size, max_age) = limits(&raw.max_size, &raw.max_age, reader);
    let max_side = checks::number(&raw.max_side, 1280, 8192, reader)?;
    let quality = checks::number(&raw.quality, 85, 100, reader)?;
    let url = raw.url.checked(None, |text| {
        let fits = |url: &url::Url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
        };
        let url = userinfo::parse(&text.value).ok().filter(fits);
        if url.is_none() {
            let message = "is not an http:// or https:// address without credentials";
            reader.error(text, message, "write, for example, https://edge-1.example");
        }
        url.map(Some)
    })?;
    // In range: they were checked.
    let (max_side, quality) = (u32::try_from(max_side).ok()?, u8::try_from(quality).ok()?);
    Some(SnapshotSettings { path, max_size, max_age, max_side, quality, url })
}

/// Without the key: what is kept in memory.
const IN_MEMORY: HistorySettings = HistorySettings {
    path: None,
    max_size: 64 << 20,
    max_age: Duration::from_secs(3600),
    min_change: MIN_CHANGE as f32,
    pictures: None,
};
/// Measured (docs/benchmarks.md): the first that stores less than 30 % of the footage, at one frame a second and at two, and finds the same in it.
const MIN_CHANGE: f64 = 0.04;

/// `history`. `None`: nothing is kept.
pub(super) fn history(field: &Field<History>, state: &StateFolder, reader: &mut Reader<'_>) -> Option<HistorySettings> {
    let raw = match field.given().map(|history| &history.value) {
        None => return Some(IN_MEMORY),
        Some(History::Off) => return None,
        Some(History::On(raw)) => raw,
    };
    let path = raw.path.checked(state.path().join("history"), |path| checks::output(path, true, reader))?;
    if let Some(size) = raw.max_size.given().filter(|size| size.value.0 < MIN_SIZE) {
        reader.error(size, "is below 1MiB", units::SIZE_HELP);
    }
    if let Some(age) = raw.max_age.given().filter(|age| age.value.is_zero()) {
        reader.error(age, "must be above 0", units::DURATION_HELP);
    }
    let min_change = raw.min_change.checked(MIN_CHANGE, |change| {
        reader.accept(
            change,
            (0.0..=1.0).contains(&change.value),
            "is not a number from 0 to 1",
            "write, for example, 0.02",
        )
    })?;
    Some(HistorySettings {
        path: Some(path),
        max_size: raw.max_size.value().map_or(2 << 30, |size| size.0),
        max_age: raw.max_age.value().unwrap_or(Duration::from_secs(14 * 86_400)),
        min_change: min_change as f32,
        pictures: history_pictures(&raw.pictures, reader),
    })
}

fn history_pictures(field: &Field<HistoryPictures>, reader: &mut Reader<'_>) -> Option<PictureSettings> {
    let given = field.given()?;
    let HistoryPictures::On(raw) = &given.value else { return None };
    if let Some(size) = raw.max_size.given().filter(|size| size.value.0 == 0) {
        reader.error(size, "must be above 0", units::SIZE_HELP);
    }
    let max_side = checks::number(&raw.max_side, 320, 8192, reader)?;
    let quality = checks::number(&raw.quality, 60, 100, reader)?;
    let (max_side, quality) = (u32::try_from(max_side).ok()?, u8::try_from(quality).ok()?);
    Some(PictureSettings { max_side, quality, max_size: raw.max_size.value().map_or(4 << 30, |size| size.0) })
}
