//! The store in bad company: killed writers, searches beside a writer that deletes, clocks that jump, another model.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::moment_search::{Found, Wanted, search};
use super::name_table::Name;
use super::row_store::StoredRows;
use super::tests::{direction, find, name, open, push, rows};

/// Set for the process that writes until it is killed: its folder.
const WRITES_TO: &str = "HISTORY_TEST_WRITES_TO";

#[test]
fn a_writer_that_is_killed_again_and_again_loses_nothing_that_it_said_was_stored() {
    if let Some(folder) = std::env::var_os(WRITES_TO) {
        return write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=4 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "history::fault_tests::a_writer_that_is_killed_again_and_again_loses_nothing_that_it_said_was_stored",
            ])
            .env(WRITES_TO, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        let told = lines.filter_map(|line| line.strip_prefix("stored ")?.parse::<u64>().ok());
        let last = told.take(100 * round).last().unwrap();
        writer.kill().unwrap();
        writer.wait().unwrap();
        let (stored, damage) = StoredRows::open(folder.path()).unwrap();
        assert!(rows(&stored) >= last, "{last} were stored, {} are there", rows(&stored));
        // What it was just writing may be half there; the next writer goes on all the same.
        assert!(damage.iter().all(|damage| damage.contains("no whole row")), "{damage:?}");
        let newest = find(&stored, &direction(last, 64));
        assert_eq!((newest.damaged, newest.moments[0].from), (0, last as i64 * 100_000));
    }
}

/// Says of each row that it is stored, once it is.
fn write_until_killed(folder: &Path) {
    let mut store =
        super::row_store::RowStore::open(Some(folder), super::tests::limits(64 << 20), Instant::now()).unwrap().0;
    let begun = rows(&store.stored());
    let mut out = std::io::stdout();
    for number in begun + 1.. {
        push(&mut store, &name("a"), number as i64 * 100_000, &direction(number, 64)).unwrap();
        if writeln!(out, "stored {number}").is_err() {
            return;
        }
    }
}

#[test]
fn a_search_beside_a_writer_that_deletes_the_oldest_finds_whole_rows_alone() {
    for in_memory in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        // Small segments, some of which go at any time.
        let store = super::row_store::RowStore::open(
            Some(folder.path()).filter(|_| !in_memory),
            super::tests::limits(1 << 20),
            Instant::now(),
        );
        let mut store = store.unwrap().0;
        let (stored, done) = (store.stored(), AtomicBool::new(false));
        push(&mut store, &name("a"), 0, &direction(1, 512)).unwrap();
        std::thread::scope(|scope| {
            let searcher = || {
                let mut searches = 0;
                while !done.load(Ordering::Relaxed) || searches == 0 {
                    let found = find(&stored, &direction(7, 512));
                    assert_eq!((found.damaged, found.other_models), (0, 0));
                    assert!(found.unreadable.is_empty() && !found.moments.is_empty(), "{:?}", found.unreadable);
                    searches += 1;
                }
            };
            let searchers = [scope.spawn(searcher), scope.spawn(searcher)];
            for number in 1..8000 {
                push(&mut store, &name("a"), number * 20_000, &direction(number as u64, 512)).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            searchers.into_iter().for_each(|searcher| searcher.join().unwrap());
        });
        assert_eq!(find(&stored, &direction(7999, 512)).moments[0].from, 7999 * 20_000);
    }
}

#[test]
fn a_clock_that_jumps_by_years_takes_nothing_and_what_comes_then_is_found_where_the_clock_said_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 16 << 20);
    let year = 365 * 86_400_000_i64;
    let clock = [30 * year, 30 * year + 1000, 60 * year, 1000, 30 * year + 2000, -5 * year, i64::MAX / 2];
    for (index, at) in clock.iter().enumerate() {
        push(&mut store, &name("a"), *at, &direction(1 + index as u64, 64)).unwrap();
        store.sweep(Instant::now());
    }
    drop(store);
    let stored = open(folder.path(), 16 << 20).stored();
    for (index, at) in clock.iter().enumerate() {
        let embedding = direction(1 + index as u64, 64);
        let there = Wanted {
            embedding: &embedding,
            model: "m",
            since: Some(*at),
            until: Some(*at),
            keep: 10,
            threads: 1,
            ..Wanted::default()
        };
        let found = search(&stored, &there);
        assert!(found.moments[0].score > 0.99 && found.moments[0].at == *at, "{at}: {found:?}");
    }
}

#[test]
fn each_generation_is_found_with_the_model_that_made_it_also_after_a_restart_and_one_of_another_length() {
    let folder = tempfile::tempdir().unwrap();
    let of = |model: &str| Name { model: model.into(), ..name("a") };
    for (index, (model, dim)) in [("m", 512), ("n", 64), ("m", 512), ("o", 512)].into_iter().enumerate() {
        let mut store = open(folder.path(), 16 << 20);
        push(&mut store, &of(model), index as i64 * 100_000, &direction(1 + index as u64, dim)).unwrap();
    }
    let stored = StoredRows::open(folder.path()).unwrap().0;
    let with = |model, dim| -> Found {
        let embedding = direction(3, dim);
        let all = Wanted { embedding: &embedding, model, keep: 10, threads: 2, ..Wanted::default() };
        search(&stored, &all)
    };
    for (model, dim, own) in [("m", 512, 2), ("n", 64, 1), ("o", 512, 1), ("p", 512, 0), ("m", 64, 0)] {
        let found = with(model, dim);
        assert_eq!((found.rows, found.other_models, found.damaged), (own, 4 - own, 0), "{model} {dim}");
    }
}

/// A version that goes back finds rows in which it cannot read, and leaves them for the one that can.
#[test]
fn rows_of_a_newer_version_are_counted_not_found_and_kept_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let store =
        || super::row_store::RowStore::open(Some(folder.path()), super::tests::limits(64 << 20), Instant::now());
    let mut first = store().unwrap().0;
    for number in 1..=3 {
        push(&mut first, &name("a"), number as i64 * 100_000, &direction(number, 64)).unwrap();
    }
    drop(first);
    let mut files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "rows")).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let row = bytes.len() / 3;
    bytes[row + 26..row + 28].copy_from_slice(&99_u16.to_le_bytes());
    std::fs::write(&file, &bytes).unwrap();
    let mut second = store().unwrap().0;
    push(&mut second, &name("a"), 400_000, &direction(4, 64)).unwrap();
    let found = find(&second.stored(), &direction(2, 64));
    assert_eq!(found.damaged, 1);
    assert!(found.moments.len() == 3 && found.moments.iter().all(|moment| moment.from != 200_000), "{found:?}");
    drop(second);
    assert_eq!(std::fs::read(&file).unwrap()[..bytes.len()], bytes[..]);
}
