//! The JSONL sink behind a link, without an outbox.

use super::*;
use crate::outbox::delivery::tests::{delivery, event, eventually};
use crate::outbox::delivery::{DeliverySender, Health};
use crate::sink::tests;

fn file(path: &Path, rotation: Option<Rotation>) -> JsonlTarget {
    JsonlTarget::File { path: path.to_owned(), rotation }
}

/// A sink of `target` that runs, its sender, and a function that ends it.
fn running(target: &JsonlTarget) -> (DeliverySender, impl FnOnce(DeliverySender) + use<>) {
    let (sender, thread) = tests::running(Writer::open(target).unwrap());
    (sender, |sender: DeliverySender| tests::end(&sender, thread))
}

fn offer(sender: &DeliverySender, positions: std::ops::RangeInclusive<u64>) {
    for position in positions {
        sender.offer(delivery(position, event("gate", "car", EventKind::Start))).unwrap();
    }
}

fn settle(sender: &DeliverySender, count: usize) {
    let mut settled = 0;
    eventually("all are settled", || {
        settled += sender.settled().len();
        settled == count
    });
}

/// A file is turned over when it has two lines.
fn two_lines() -> Rotation {
    let line = delivery(1, event("gate", "car", EventKind::Start)).stored.body.len() as u64 + 1;
    Rotation { max_size: line * 2, keep: 2 }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_file_gets_one_json_object_a_line_and_is_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/events.jsonl");
    for _ in 0..2 {
        let (sender, end) = running(&file(&path, None));
        offer(&sender, 1..=1);
        settle(&sender, 1);
        end(sender);
    }
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["data"]["label"], "car");
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_settled() {
    let (sender, end) = running(&file(Path::new("/dev/full"), None));
    offer(&sender, 1..=3);
    eventually("the sink is down", || matches!(sender.health(), Health::Down { .. }));
    assert!(sender.settled().is_empty() && !sender.is_gone());
    end(sender);
}

#[test]
fn half_a_line_that_a_crash_left_spoils_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    std::fs::write(&path, "{\"a\":1}\n{\"b").unwrap();
    let (sender, end) = running(&file(&path, None));
    offer(&sender, 1..=1);
    settle(&sender, 1);
    end(sender);
    let text = std::fs::read_to_string(&path).unwrap();
    let whole = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
    assert_eq!((text.lines().count(), whole), (3, 2), "{text}");
}

#[test]
fn a_file_is_turned_over_by_size_and_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let (sender, end) = running(&file(&path, Some(two_lines())));
    offer(&sender, 1..=9);
    settle(&sender, 9);
    end(sender);
    let old = |n: usize| PathBuf::from(format!("{}.{n}", path.display()));
    assert_eq!([lines(&path).len(), lines(&old(1)).len(), lines(&old(2)).len()], [1, 2, 2]);
    assert!(!old(3).exists());
}

#[test]
fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, away) = (folder.path().join("events.jsonl"), folder.path().join("moved"));
    let (sender, end) = running(&file(&path, None));
    offer(&sender, 1..=1);
    settle(&sender, 1);
    std::fs::rename(&path, &away).unwrap();
    // Who moved it may have packed it already: nothing more goes there.
    offer(&sender, 2..=2);
    settle(&sender, 1);
    offer(&sender, 3..=3);
    settle(&sender, 1);
    end(sender);
    assert_eq!((lines(&away).len(), lines(&path).len()), (1, 2));
}

#[test]
fn no_event_goes_into_a_file_that_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let (sender, end) = running(&file(&path, None));
    for position in 1..=3 {
        offer(&sender, position..=position);
        settle(&sender, 1);
        assert_eq!(lines(&path).len(), 1);
        std::fs::remove_file(&path).unwrap();
    }
    end(sender);
}

#[test]
fn files_of_others_among_the_old_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let old = |number: usize| folder.path().join(format!("events.jsonl.{number}"));
    std::fs::write(&path, "notes of somebody else\n").unwrap();
    std::fs::write(old(2), "logrotate's\n").unwrap();
    for keep in [2, 0] {
        let (sender, end) = running(&file(&path, Some(Rotation { keep, ..two_lines() })));
        offer(&sender, 1..=9);
        settle(&sender, 9);
        end(sender);
    }
    let text = |number| std::fs::read_to_string(old(number)).unwrap();
    let all: String = (1..5).filter(|n| old(*n).exists()).map(text).collect();
    assert!(all.contains("notes of somebody else") && text(2) == "logrotate's\n", "{all}");
    assert!(!old(5).exists(), "ours are no more than they may be");
}

#[test]
fn a_file_that_was_emptied_is_turned_over_by_the_size_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let (sender, end) = running(&file(&path, Some(two_lines())));
    for position in 1..=3 {
        offer(&sender, position..=position);
        settle(&sender, 1);
        // As `copytruncate` does.
        std::fs::write(&path, "").unwrap();
    }
    end(sender);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "never as large as that");
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let error = Writer::open(&file(Path::new("/proc/nowhere/events.jsonl"), None)).err().unwrap();
    assert!(error.to_string().contains("/proc/nowhere/events.jsonl"), "{error}");
}

#[test]
fn a_person_reads_label_stream_and_duration() {
    let mut event = event("gate", "car", EventKind::Start);
    assert_eq!(readable(&event, false), "00:00:00Z  gate         ▶ car              93 %");
    (event.kind, event.data.media_end) = (EventKind::End, Some(4.0));
    let end = readable(&event, false);
    assert!(end.ends_with("after 2.5 s, peak 97 %"), "{end}");
}
