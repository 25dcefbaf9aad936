//! What the outbox knows of a place of a sink.

use super::*;

#[test]
fn what_was_published_is_known_to_the_next_life_of_its_place_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let mut store = open(&path, &machine);
    let change = |topic: &str, proof: Option<Proof>| Change { topic: topic.to_owned(), proof };
    let exact = Proof { digest: Some([1; 32]), before: None };
    store.record("broker v", &update(&[change("v/a", Some(exact)), change("v/b", Some(Proof::default()))])).unwrap();
    let newer = Proof { digest: Some([2; 32]), before: Some([1; 32]) };
    store
        .record("broker v", &update(&[change("v/a", Some(newer)), change("v/c", Some(exact)), change("v/none", None)]))
        .unwrap();
    store.record("broker v", &update(&[change("v/c", None)])).unwrap();
    store.record("broker w", &update(&[change("v/a", None), change("w/a", Some(exact))])).unwrap();
    // As a kill would leave it.
    drop(store);
    let store = open(&path, &machine);
    let known = store.known("broker v").unwrap();
    assert_eq!(known.retained, [("v/a".to_owned(), newer), ("v/b".into(), Proof::default())].into());
    assert_eq!(store.known("broker w").unwrap().retained, [("w/a".to_owned(), exact)].into());
    assert!(store.known("elsewhere").unwrap().retained.is_empty());
}

#[test]
fn what_may_not_have_been_heard_is_known_to_the_next_life_until_it_is_said_to_have_been() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let mut store = open(&path, &machine);
    let of = |count: usize| -> Unheard {
        [("ha/a".to_owned(), (0..count).map(|n| (format!("{n:06}"), "sensor".to_owned())).collect())].into()
    };
    let say = |store: &mut EventStore, unheard: Option<Unheard>| {
        store.record("broker v", &RecordUpdate { unheard, ..RecordUpdate::default() }).unwrap();
    };
    say(&mut store, Some(of(2)));
    say(&mut store, None);
    drop(store);
    let mut store = open(&path, &machine);
    assert_eq!(store.known("broker v").unwrap().unheard, of(2));
    assert!(store.known("broker w").unwrap().unheard.is_empty());
    say(&mut store, Some(of(20_000)));
    assert_eq!(store.known("broker v").unwrap().unheard, of(16_384), "it has an end");
    say(&mut store, Some(Unheard::new()));
    assert!(store.known("broker v").unwrap().unheard.is_empty());
}

#[test]
fn what_is_remembered_of_a_place_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("outbox.db"), &Machine::default());
    let change = |n: usize| Change { topic: format!("v/{n}"), proof: Some(Proof::default()) };
    store.record("broker", &update(&(0..70_000).map(change).collect::<Vec<_>>())).unwrap();
    assert_eq!(store.known("broker").unwrap().retained.len(), 65_536);
    store
        .record("broker", &update(&[Change { topic: "v/1".into(), proof: None }, change(70_001), change(70_002)]))
        .unwrap();
    let left = store.known("broker").unwrap().retained;
    assert!(left.len() == 65_536 && left.contains_key("v/70001") && !left.contains_key("v/1"));
}
