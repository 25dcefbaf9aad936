//! The store and the search over it as a whole.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::moment_search::{Found, ViewsInForce, Wanted, sample, search};
use super::name_table::Name;
use super::purge::{Purged, Which, purge};
use super::row_store::{NewRow, Pushed, RetentionLimits, RowStore, StoreError, StoredRows};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn name(stream: &str) -> Name {
    Name { stream: stream.into(), model: "m".into(), ..Name::default() }
}

pub(super) fn limits(max_size: u64) -> RetentionLimits {
    RetentionLimits { max_size, max_age: 14 * DAY, min_change: 0.02 }
}

/// Directions that are far from one another.
pub(super) fn direction(seed: u64, dim: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..dim).map(|_| next()).collect();
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.into_iter().map(|v| v / length).collect()
}

pub(super) fn push(store: &mut RowStore, name: &Name, at: i64, embedding: &[f32]) -> Result<Pushed, StoreError> {
    store.push(&NewRow { name, tile: 0, at, embedding }, Instant::now())
}

pub(super) fn find(stored: &StoredRows, embedding: &[f32]) -> Found {
    search(stored, &Wanted { embedding, model: "m", keep: 100, threads: 2, ..Wanted::default() })
}

pub(super) fn rows(stored: &StoredRows) -> u64 {
    stored.segments().iter().map(|segment| segment.rows()).sum()
}

pub(super) fn open(folder: &Path, max_size: u64) -> RowStore {
    let (store, damage) = RowStore::open(Some(folder), limits(max_size), Instant::now()).unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    store
}

#[test]
fn scores_are_those_of_an_exact_search_whatever_the_embeddings_look_like() {
    for dim in [1, 7, 384, 512, 768, 4096] {
        let mut store = RowStore::open(None, limits(64 << 20), Instant::now()).unwrap().0;
        let exact: Vec<Vec<f32>> = (1..200)
            .map(|seed| {
                let mut row = direction(seed, dim);
                // As CLIP's have it: one number is ten times the others.
                row[dim / 3] += 0.8;
                let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.into_iter().map(|v| v / length).collect()
            })
            .collect();
        for (index, row) in exact.iter().enumerate() {
            push(&mut store, &name("a"), index as i64 * 100_000, row).unwrap();
        }
        let query = direction(1000, dim);
        let found = find(&store.stored(), &query);
        assert_eq!((found.rows, found.damaged, found.moments.len()), (199, 0, 100));
        for moment in &found.moments {
            let row = &exact[(moment.at / 100_000) as usize];
            let want: f64 = row.iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(moment.score) - want).abs() < 0.005, "{dim}: {} and {want}", moment.score);
        }
    }
}

#[test]
fn what_looks_the_same_is_one_row_that_lasts_and_gaps_and_clocks_that_go_back_begin_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 16 << 20);
    let (a, b, one, two) = (name("a"), name("b"), direction(1, 512), direction(2, 512));
    let pushed = [
        (&a, 1_000, &one, Pushed::Stored),
        (&b, 1_500, &one, Pushed::Stored),
        (&a, 2_000, &one, Pushed::Extended),
        (&a, 40_000, &one, Pushed::Extended),
        (&a, 41_000, &two, Pushed::Stored),
        (&a, 200_000, &two, Pushed::Stored), // it was away
        (&a, 120_000, &two, Pushed::Stored), // the clock was put back
        (&a, 110_000, &two, Pushed::Stored),
        (&a, 111_000, &two, Pushed::Extended),
    ];
    for (name, at, embedding, want) in pushed {
        assert_eq!(push(&mut store, name, at, embedding).unwrap(), want, "{at}");
    }
    drop(store);
    let found = find(&StoredRows::open(folder.path()).unwrap().0, &one);
    let of_a: Vec<(i64, i64)> =
        found.moments.iter().filter(|m| m.name.stream == "a" && m.score > 0.9).map(|m| (m.from, m.until)).collect();
    assert_eq!(of_a, [(1_000, 40_000)]);
    assert!(found.moments.iter().all(|moment| moment.until >= moment.from));
}

#[test]
fn a_scene_that_something_passes_through_has_a_row_for_each_time_it_was_seen() {
    let mut store = RowStore::open(None, limits(64 << 20), Instant::now()).unwrap().0;
    let pushed = [(1, 1), (2, 1), (3, 10), (4, 1), (5, 1)]
        .map(|(at, seed)| push(&mut store, &name("a"), at * 1000, &direction(seed, 512)).unwrap());
    // Whoever reads the past takes a row for what was seen all of its time.
    assert_eq!(pushed, [Pushed::Stored, Pushed::Extended, Pushed::Stored, Pushed::Stored, Pushed::Extended]);
}

#[test]
fn what_is_no_embedding_is_refused_and_changes_nothing() {
    let mut store = RowStore::open(None, limits(64 << 20), Instant::now()).unwrap().0;
    for bad in
        [vec![], vec![0.0; 512], vec![f32::NAN; 512], vec![f32::INFINITY; 4], vec![1.0; 4097], vec![f32::MAX; 512]]
    {
        assert!(push(&mut store, &name("a"), 1, &bad).is_err(), "{}", bad.len());
    }
    for at in [i64::MIN, i64::MAX, 0] {
        push(&mut store, &name("a"), at, &direction(1, 8)).unwrap();
    }
    assert_eq!(find(&store.stored(), &direction(1, 8)).rows, 3);
}

#[test]
fn the_oldest_goes_first_and_the_budget_is_never_exceeded() {
    let folder = tempfile::tempdir().unwrap();
    let budget = 1 << 20;
    let mut store = open(folder.path(), budget);
    for index in 0..6000_u64 {
        push(&mut store, &name("a"), index as i64 * 20_000, &direction(index + 1, 512)).unwrap();
        let bytes = store.bytes();
        assert!(bytes <= budget, "{bytes} at {index}");
    }
    let (stored, on_disk) = (store.stored(), |folder: &Path| -> u64 {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        files
            .filter(|file| file.path().extension().is_some_and(|e| e == "rows"))
            .map(|file| file.metadata().unwrap().len())
            .sum()
    });
    assert!(on_disk(folder.path()) <= budget && on_disk(folder.path()) > budget * 8 / 10);
    assert_eq!(find(&stored, &direction(6000, 512)).moments[0].from, 5999 * 20_000, "the newest is there");
    let oldest = find(&stored, &direction(1, 512)).moments.iter().map(|moment| moment.from).min();
    assert!(oldest > Some(1_000_000), "the oldest has gone");
}

#[test]
fn age_counts_by_the_monotonic_clock_and_outlasts_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut store = open(folder.path(), 16 << 20);
    let push = |store: &mut RowStore, at, seed, now| {
        store.push(&NewRow { name: &name("a"), tile: 0, at, embedding: &direction(seed, 64) }, now).unwrap()
    };
    // Rows of 1970: by the wall clock they would be too old.
    push(&mut store, 5, 1, now);
    push(&mut store, 70_000, 2, now + 2 * DAY);
    assert_eq!(store.stored().segments().len(), 2, "a segment ends with time too");
    store.sweep(now + 13 * DAY);
    assert_eq!(rows(&store.stored()), 2);
    store.sweep(now + 15 * DAY);
    assert_eq!(rows(&store.stored()), 1);
    store.sweep(now + 17 * DAY);
    assert_eq!(rows(&store.stored()), 0);
    push(&mut store, 70_001, 3, now + 17 * DAY);
    drop(store);
    assert_eq!(rows(&open(folder.path(), 16 << 20).stored()), 1);
}

#[test]
fn a_second_daemon_on_the_folder_is_refused_while_searches_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 16 << 20);
    let second = RowStore::open(Some(folder.path()), limits(16 << 20), Instant::now());
    assert!(matches!(second, Err(StoreError::InUse(_))));
    push(&mut store, &name("a"), 1, &direction(1, 512)).unwrap();
    assert_eq!(find(&StoredRows::open(folder.path()).unwrap().0, &direction(1, 512)).moments.len(), 1);
    drop(store);
    assert_eq!(rows(&open(folder.path(), 16 << 20).stored()), 1);
}

#[test]
fn rows_of_another_model_are_counted_and_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 16 << 20);
    let other = Name { model: "n".into(), ..name("a") };
    push(&mut store, &other, 1, &direction(1, 512)).unwrap();
    push(&mut store, &other, 100_000, &direction(2, 64)).unwrap();
    push(&mut store, &name("a"), 200_000, &direction(3, 512)).unwrap();
    let found = find(&store.stored(), &direction(1, 512));
    assert_eq!((found.rows, found.other_models, found.moments[0].from), (1, 2, 200_000));
    let old = Wanted { embedding: &direction(1, 512), model: "n", keep: 9, threads: 1, ..Wanted::default() };
    assert_eq!(search(&store.stored(), &old).moments[0].from, 1);
}

#[test]
fn rows_of_another_view_are_compared_unless_those_of_today_are_asked_for() {
    let mut store = RowStore::open(None, limits(64 << 20), Instant::now()).unwrap().0;
    let seen =
        |stream: &str, region: &str, view: &str| Name { region: region.into(), view: view.into(), ..name(stream) };
    let rows = [
        ("a", "", ""),
        ("a", "", "old"),
        ("a", "", "new"),
        ("a", "gone", "new"),
        ("b", "", "any"),
        ("c", "left", "old"),
    ];
    for (at, (stream, region, view)) in rows.into_iter().enumerate() {
        push(&mut store, &seen(stream, region, view), at as i64 * 100_000, &direction(at as u64 + 1, 512)).unwrap();
    }
    let embedding = direction(1, 512);
    let all = Wanted { embedding: &embedding, model: "m", keep: 100, threads: 2, ..Wanted::default() };
    let found = search(&store.stored(), &all);
    assert_eq!((found.rows, found.other_views, found.unknown_views), (6, 0, 0));
    // Of `b` the configuration knows nothing.
    let views = [("a", "", "new"), ("c", "left", "new")];
    let views: ViewsInForce = views.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())).into_iter().collect();
    let now = Wanted { views: Some(&views), ..all };
    let found = search(&store.stored(), &now);
    assert_eq!((found.rows, found.other_views, found.unknown_views, found.damaged), (3, 3, 1, 0));
    let mut from: Vec<i64> = found.moments.iter().map(|moment| moment.from / 100_000).collect();
    from.sort_unstable();
    assert_eq!(from, [0, 2, 4]);
    let mut sampled: Vec<i64> = sample(&store.stored(), &now, 100).iter().map(|moment| moment.from / 100_000).collect();
    sampled.sort_unstable();
    assert_eq!(sampled, [0, 2, 4]);
}

#[test]
fn a_search_takes_the_streams_and_times_that_it_is_asked_for() {
    let mut store = RowStore::open(None, limits(64 << 20), Instant::now()).unwrap().0;
    for index in 0..100 {
        let stream = ["a", "b"][index % 2];
        push(&mut store, &name(stream), index as i64 * 100_000, &direction(index as u64 + 1, 512)).unwrap();
    }
    let embedding = direction(7, 512);
    let wanted = |stream, since, until| Wanted {
        embedding: &embedding,
        model: "m",
        stream,
        since,
        until,
        keep: 100,
        threads: 2,
        ..Wanted::default()
    };
    let from = |wanted: &Wanted<'_>| {
        search(&store.stored(), wanted).moments.iter().map(|m| m.from / 100_000).collect::<Vec<_>>()
    };
    let mut found = from(&wanted(Some("a"), Some(1_000_000), Some(2_000_000)));
    found.sort_unstable();
    assert_eq!(found, [10, 12, 14, 16, 18, 20]);
    assert_eq!(from(&wanted(Some("c"), None, None)).len(), 0);
    assert_eq!(from(&wanted(None, None, None))[0], 6);
}

#[test]
fn moments_that_fit_equally_well_are_found_however_many_there_are() {
    let mut store = RowStore::open(None, limits(64 << 20), Instant::now()).unwrap().0;
    for index in 0..1000 {
        push(&mut store, &name("a"), index * 100_000, &direction(1, 64)).unwrap();
    }
    assert_eq!(find(&store.stored(), &direction(1, 64)).moments.len(), 100);
}

#[test]
fn what_is_purged_is_gone_from_the_disk_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 16 << 20);
    for index in 0..40 {
        push(&mut store, &name(["a", "b"][index % 2]), index as i64 * 100_000, &direction(index as u64 + 1, 64))
            .unwrap();
    }
    assert!(matches!(purge(folder.path(), Which::default()), Err(StoreError::InUse(_))), "a daemon runs");
    drop(store);
    let before = Which { stream: Some("a"), before: Some(1_000_000) };
    assert_eq!(purge(folder.path(), before).unwrap(), Purged { rows: 5, left: 35 });
    assert_eq!(purge(folder.path(), Which { stream: Some("a"), before: None }).unwrap(), Purged { rows: 15, left: 20 });
    let names = std::fs::read_to_string(folder.path().join("names.jsonl")).unwrap();
    assert!(!names.contains("\"a\"") && names.contains("\"b\""), "{names}");
    let found = find(&StoredRows::open(folder.path()).unwrap().0, &direction(1, 64));
    assert_eq!((found.rows, found.damaged), (20, 0));
    assert!(found.moments.iter().all(|moment| moment.name.stream == "b"));
    assert_eq!(purge(folder.path(), Which::default()).unwrap(), Purged { rows: 20, left: 0 });
    let rows = std::fs::read_dir(folder.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "rows"));
    assert_eq!(rows.count(), 0);
}

#[test]
fn what_lies_in_the_way_of_the_next_segment_is_passed_by() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/null", folder.path().join("0000000000000000-64.rows")).unwrap();
    std::fs::create_dir(folder.path().join("0000000000000001-64.rows")).unwrap();
    let (mut store, damage) = RowStore::open(Some(folder.path()), limits(16 << 20), Instant::now()).unwrap();
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert_eq!(push(&mut store, &name("a"), 1, &direction(1, 64)).unwrap(), Pushed::Stored);
    assert_eq!(find(&StoredRows::open(folder.path()).unwrap().0, &direction(1, 64)).moments.len(), 1);
}

#[test]
fn files_are_for_the_daemons_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    push(&mut open(folder.path(), 16 << 20), &name("a"), 1, &direction(1, 64)).unwrap();
    purge(folder.path(), Which { stream: Some("b"), before: None }).unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[test]
fn whatever_is_flipped_or_cut_off_the_rest_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), 16 << 20);
    for index in 0..20 {
        push(&mut store, &name(["a", "b"][index % 2]), index as i64 * 100_000, &direction(index as u64 + 1, 64))
            .unwrap();
    }
    drop(store);
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<(PathBuf, Vec<u8>)> = files.map(|file| (file.clone(), std::fs::read(file).unwrap())).collect();
    for (file, good) in &files {
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            std::fs::write(file, &bad).unwrap();
            let found = find(&StoredRows::open(folder.path()).unwrap().0, &direction(5, 64));
            let whole = if file.extension().is_some_and(|e| e == "rows") { 19 } else { 10 };
            assert!(found.moments.len() >= whole, "{} byte {at}: {}", file.display(), found.moments.len());
            std::fs::write(file, &good[..at]).unwrap();
            let _ = find(&StoredRows::open(folder.path()).unwrap().0, &direction(5, 64));
            let (mut store, _) = RowStore::open(Some(folder.path()), limits(16 << 20), Instant::now()).unwrap();
            push(&mut store, &name("c"), 9_000_000, &direction(50, 64)).unwrap();
            drop(store);
            let found = find(&StoredRows::open(folder.path()).unwrap().0, &direction(50, 64));
            assert_eq!(
                found.moments.first().map(|moment| moment.from),
                Some(9_000_000),
                "{} cut at {at}",
                file.display()
            );
            restore(folder.path(), &files);
        }
    }
}

/// Everything is as it was, and nothing else is there.
fn restore(folder: &Path, files: &[(PathBuf, Vec<u8>)]) {
    std::fs::read_dir(folder).unwrap().for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
    files.iter().for_each(|(path, good)| std::fs::write(path, good).unwrap());
}

#[derive(Clone, Debug)]
enum Step {
    Push { stream: usize, seed: u64, later: i64 },
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_usize, 1..14_u64, prop_oneof![-200_000..200_000_i64, -10_000..20_000_i64]).prop_map(|(stream, seed, later)| Step::Push { stream, seed, later }),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_found_as_the_model_has_it(steps in prop::collection::vec(step(), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path(), 16 << 20);
        let streams = ["a", "b", "c"].map(name);
        let mut at = 1_000_000_i64;
        // (stream, seed, from, until), and which of them a stream may still extend, what was seen last at the end.
        let mut want: Vec<(usize, u64, i64, i64)> = Vec::new();
        let mut recent: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Push { stream, seed, later } => {
                    at += later;
                    let pushed = push(&mut store, &streams[stream], at, &direction(seed, 64)).unwrap();
                    let recent = recent.entry(stream).or_default();
                    let goes_on = recent.iter().rposition(|index| {
                        let (_, was, from, until) = want[*index];
                        was == seed && at >= from && at - until <= 60_000
                    });
                    if let Some(place) = goes_on {
                        let index = recent.remove(place);
                        recent.push(index);
                        want[index].3 = want[index].3.max(at);
                        prop_assert_eq!(pushed, Pushed::Extended);
                    } else {
                        recent.push(want.len());
                        if recent.len() > 1 {
                            recent.remove(0);
                        }
                        want.push((stream, seed, at, at));
                        prop_assert_eq!(pushed, Pushed::Stored);
                    }
                }
                Step::Sync => store.sync().unwrap(),
                Step::Reopen => {
                    drop(store);
                    store = open(folder.path(), 16 << 20);
                    recent.clear();
                }
            }
        }
        prop_assert_eq!(rows(&store.stored()), want.len() as u64);
        for (stream, seed, from, until) in &want {
            let embedding = direction(*seed, 64);
            let wanted = Wanted {
                embedding: &embedding, model: "m", stream: Some(&streams[*stream].stream), since: Some(*from), until: Some(*from),
                keep: 100, threads: 1, ..Wanted::default()
            };
            let found = search(&store.stored(), &wanted);
            prop_assert!(found.moments.iter().any(|m| m.score > 0.99 && m.from <= *from && m.until >= *until), "{seed} at {from}: {found:?}");
        }
    }
}
