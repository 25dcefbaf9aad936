//! What is published of streams and labels, in which order, and what is gone.

use super::*;
use crate::outbox::delivery::published_record::{KnownRecord, Proof};
use crate::outbox::delivery::tests::{delivery, event};
use crate::sink::mqtt::home_assistant::tests::watched;

fn known(topics: Topics, retained: BTreeMap<String, Proof>) -> Published {
    Published::new(topics, KnownRecord { retained, ..KnownRecord::default() })
}

/// What is published, and noted as that.
fn changed_topics(states: &mut States, published: &mut Published, streams: &[(&str, &[&str])]) -> Vec<String> {
    let streams = streams.iter().map(|(id, labels)| watched(id, labels)).collect();
    let messages = states.changes(&Arc::new(streams), published);
    published.before(&messages);
    messages.into_iter().map(|message| message.topic).collect()
}

fn find(states: &mut States, published: &Published, topic: &str, payload: &str) {
    states.found(topic.to_owned(), payload.as_bytes(), digest(payload.as_bytes()), published);
}

#[test]
fn only_what_this_daemon_published_and_nobody_wants_any_more_is_gone_whatever_lies_below_the_prefix() {
    let topics = Topics::new("home");
    let mut states = States::new(topics.clone(), None, Announced { snapshots: true, ..Announced::default() });
    let ours = ["home/gate/car", "home/gate/car/attributes", "home/gate/car/snapshot", "home/gate/status"];
    let kept = ["home/yard/bus", "home/yard/bus/snapshot"];
    let left = ours.iter().chain(&kept).map(|topic| ((*topic).to_owned(), Default::default())).collect();
    let mut published = known(topics, left);
    for theirs in ["home/kitchen/light", "home/hall/lamp/attributes", "home/gate/enabled/state", "home/gate/bus"] {
        find(&mut states, &published, theirs, "ON");
    }
    assert_eq!((states.gone(&published), states.is_wanted(ours[0])), (vec![], true), "until the streams are known");
    changed_topics(&mut states, &mut published, &[("yard", &["bus"])]);
    assert_eq!(states.gone(&published), ours);
    assert!(!states.is_wanted(ours[0]) && states.is_wanted(kept[1]));
}

#[test]
fn a_label_is_on_while_any_region_has_it_and_a_region_that_is_removed_takes_its_own_topics_alone() {
    let topics = Topics::new("home");
    let mut states = States::new(topics.clone(), None, Announced::default());
    let mut published = known(topics, BTreeMap::new());
    let with = |regions: &[&str]| {
        let regions: Vec<Arc<str>> = regions.iter().map(|region| (*region).into()).collect();
        Arc::new(vec![watched("yard", &["bus", "left"]).with_regions(&regions)])
    };
    let messages = states.changes(&with(&["left", "right"]), &mut published);
    published.before(&messages);
    let mut told: Vec<String> = messages.into_iter().map(|message| message.topic).collect();
    told.retain(|topic| topic.ends_with("bus"));
    assert_eq!(told, ["home/yard/bus", "home/yard/left/bus", "home/yard/right/bus"]);

    let mut seq = 0;
    let mut note = |region: &str, kind| {
        seq += 1;
        let mut event = event("yard", "bus", kind);
        event.data.region = Some(region.into());
        let stored = Arc::clone(&delivery(seq, event).stored);
        let (about, told) = states.note(&stored);
        assert!(about.iter().all(|message| message.topic.ends_with("/attributes")));
        let told = told.into_iter();
        told.map(|message| (message.topic, String::from_utf8(message.payload).unwrap())).collect::<Vec<_>>()
    };
    let told = |topics: &[(&str, &str)]| -> Vec<(String, String)> {
        topics.iter().map(|(topic, state)| (format!("home/yard/{topic}"), (*state).to_owned())).collect()
    };
    assert_eq!(note("left", EventKind::Start), told(&[("left/bus", "ON"), ("bus", "ON")]));
    assert_eq!(note("right", EventKind::Start), told(&[("right/bus", "ON")]));
    assert_eq!(note("left", EventKind::End), told(&[("left/bus", "OFF")]), "the other one still has it");
    assert_eq!(note("right", EventKind::End), told(&[("right/bus", "OFF"), ("bus", "OFF")]));
    assert_eq!(states.levels("yard", Some("left"), "lot", "bus"), ["left/bus", "bus"]);

    assert_eq!(states.changes(&with(&["right"]), &mut published).len(), 0, "nothing else changes");
    let of_left = ["bus", "bus/attributes", "left", "left/attributes"].map(|end| format!("home/yard/left/{end}"));
    assert_eq!(states.gone(&published), of_left);
}

#[test]
fn what_the_broker_has_of_us_is_not_published_again_and_what_it_has_of_nobody_knows_is() {
    let topics = Topics::new("home");
    let mut states = States::new(topics.clone(), None, Announced::default());
    let mut published = known(topics, [("home/yard/bus".to_owned(), Default::default())].into());
    for (topic, payload) in [("home/yard/bus", "OFF"), ("home/yard/enabled/state", "ON")] {
        find(&mut states, &published, topic, payload);
    }
    let rest = ["home/yard/bus/attributes", "home/yard/enabled/state", "home/yard/status"];
    assert_eq!(changed_topics(&mut states, &mut published, &[("yard", &["bus"])]), rest);
    find(&mut states, &published, "home/yard/bus", "ON");
    let again = changed_topics(&mut states, &mut published, &[("yard", &["bus"])]);
    assert_eq!(again, ["home/yard/bus"], "somebody else has written it");
}

#[test]
fn a_device_of_another_program_is_not_written_over() {
    let topics = Topics::new("a_b");
    let mut states = States::new(topics.clone(), Some("ha".into()), Announced::default());
    let mut published = known(topics, BTreeMap::new());
    let theirs = home_assistant::document(
        &watched("gate", &[]),
        &Topics::new("a/b"),
        &Default::default(),
        &Announced::default(),
    )
    .to_string();
    // Until it is known what lies there, none is told.
    let early = changed_topics(&mut states, &mut published, &[("gate", &[]), ("yard", &[])]);
    assert!(!early.is_empty() && early.iter().all(|topic| topic.starts_with("a_b/")), "{early:?}");
    assert!(states.introduce_again(&published).is_empty() && states.is_wanted("ha/device/a_b_gate/config"));
    find(&mut states, &published, "ha/device/a_b_gate/config", &theirs);
    states.surveyed();
    let told = changed_topics(&mut states, &mut published, &[("gate", &[]), ("yard", &[])]);
    let devices: Vec<&str> = told.iter().map(String::as_str).filter(|topic| topic.starts_with("ha/")).collect();
    assert_eq!(devices, ["ha/device/a_b_yard/config"]);
    assert_eq!(states.introduce_again(&published).len(), 1);
}

#[test]
fn a_label_that_goes_is_named_by_its_platform_once_and_then_left_out() {
    let mut states = States::new(Topics::new("v"), Some("ha".into()), Announced::default());
    let mut published = known(Topics::new("v"), BTreeMap::new());
    states.surveyed();
    let mut documents = |labels: &[&str]| -> Vec<(bool, serde_json::Value)> {
        let messages = states.changes(&Arc::new(vec![watched("gate", labels)]), &mut published);
        let documents = messages.into_iter().filter(|message| message.topic == "ha/device/v_gate/config");
        documents.map(|message| (message.retain, serde_json::from_slice(&message.payload).unwrap())).collect()
    };
    assert_eq!(documents(&["car", "bus"]).len(), 1);
    let [(kept, parting), (retained, after_document)] = &documents(&["bus"])[..] else { panic!("two documents") };
    assert_eq!((kept, retained), (&false, &true));
    assert_eq!(parting["cmps"]["label_car"], json!({ "p": "binary_sensor" }));
    let (parting, after) = (parting["cmps"].as_object().unwrap(), after_document["cmps"].as_object().unwrap());
    assert!(parting.keys().all(|key| !after.contains_key(key)) && after.contains_key("label_bus"), "nothing else");
    assert_eq!(documents(&["bus", "van"]).len(), 1, "nothing has gone");
    // What an earlier life has published is found at the broker.
    let document = after_document.to_string();
    let mut states = States::new(Topics::new("v"), Some("ha".into()), Announced::default());
    find(&mut states, &published, "ha/device/v_gate/config", &document);
    states.surveyed();
    let messages = states.changes(&Arc::new(vec![watched("gate", &[])]), &mut published);
    let documents = messages.iter().filter(|message| message.topic == "ha/device/v_gate/config");
    assert_eq!(documents.map(|message| message.retain).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_label_that_goes_while_the_broker_has_lost_every_document_is_let_go_of_too() {
    let topics = Topics::new("v");
    let snapshots = Announced { snapshots: true, ..Announced::default() };
    let mut published = known(topics.clone(), BTreeMap::new());
    let mut before = States::new(topics.clone(), Some("ha".into()), snapshots.clone());
    changed_topics(&mut before, &mut published, &[("gate", &["car", "bus"]), ("yard", &["car"])]);

    let mut states = States::new(topics, Some("ha".into()), snapshots);
    let streams = Arc::new(vec![watched("gate", &["bus"]), watched("yard", &["car"])]);
    assert!(
        states.changes(&streams, &mut published).iter().all(|message| message.retain),
        "not before it is known what lies there"
    );
    states.surveyed();
    let messages = states.changes(&streams, &mut published);
    let parting: Vec<&Message> = messages.iter().filter(|message| !message.retain).collect();
    let [parting] = parting[..] else { panic!("of one stream: {messages:?}") };
    assert_eq!(parting.topic, "ha/device/v_gate/config");
    let document: serde_json::Value = serde_json::from_slice(&parting.payload).unwrap();
    let platforms: Vec<String> = document["cmps"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, component)| format!("{key} {}", component["p"]))
        .collect();
    assert_eq!(platforms, ["label_car \"binary_sensor\"", "score_car \"sensor\"", "snapshot_car \"image\""]);
    // Once.
    published.before(&messages);
    states.surveyed();
    assert!(states.changes(&streams, &mut published).iter().all(|message| message.retain));
}

#[test]
fn what_may_not_have_been_heard_is_told_once_a_connection_and_to_home_assistant_when_it_comes() {
    let topics = Topics::new("v");
    let (gate, yard) = ("ha/device/v_gate/config", "ha/device/v_yard/config");
    let unheard = [
        (gate.to_owned(), [("label_bus".to_owned(), "binary_sensor".to_owned())].into()),
        (yard.to_owned(), [(String::new(), String::new())].into()),
        ("ha/device/v_dock/config".to_owned(), [(String::new(), String::new())].into()),
    ];
    let mut published =
        Published::new(topics.clone(), KnownRecord { unheard: unheard.into(), ..KnownRecord::default() });
    let streams = Arc::new(vec![watched("gate", &["car"])]);
    let documents = |messages: Vec<Message>| -> Vec<(String, bool, bool)> {
        let of = messages.into_iter().filter(|message| message.topic.starts_with("ha/"));
        of.map(|message| (message.topic, message.retain, message.payload.is_empty())).collect()
    };
    let said = |topic: &str, retain, empty| (topic.to_owned(), retain, empty);
    let mut states = States::new(topics.clone(), Some("ha".into()), Announced::default());
    // Another has the name of what was ours.
    find(&mut states, &published, "ha/device/v_dock/config", "{}");
    assert!(documents(states.changes(&streams, &mut published)).is_empty(), "not before it is known what lies there");
    states.surveyed();
    let all = [said(yard, false, true), said(gate, false, false), said(gate, true, false)];
    let messages = states.changes(&streams, &mut published);
    published.before(&messages);
    assert_eq!(documents(messages), all);
    states.surveyed();
    assert_eq!(documents(states.changes(&streams, &mut published)), []);
    assert_eq!(documents(states.introduce_again(&published)), all);
    // It comes back.
    let streams = Arc::new(vec![watched("gate", &["car", "bus"]), watched("yard", &["bus"])]);
    let messages = states.changes(&streams, &mut published);
    published.before(&messages);
    assert_eq!(documents(messages), [said(gate, true, false), said(yard, true, false)]);
    assert!(states.introduce_again(&published).iter().all(|message| message.retain));
}

#[test]
fn a_device_that_is_back_before_anybody_heard_that_it_had_gone_is_not_emptied_first() {
    let topics = Topics::new("v");
    let gone = || [(String::new(), String::new())].into();
    let unheard =
        [("ha/device/v_yard/config".to_owned(), gone()), ("ha/device/v_dock/config".to_owned(), gone())].into();
    let mut published = Published::new(topics.clone(), KnownRecord { unheard, ..KnownRecord::default() });
    let mut states = States::new(topics, Some("ha".into()), Announced::default());
    states.surveyed();
    let streams = Arc::new(vec![watched("yard", &["bus"])]);
    let messages = states.changes(&streams, &mut published);
    let yard: Vec<&Message> = messages.iter().filter(|message| message.topic == "ha/device/v_yard/config").collect();
    assert!(
        yard.iter().all(|message| !message.payload.is_empty()) && yard.last().is_some_and(|message| message.retain)
    );
    let dock: Vec<&Message> = messages.iter().filter(|message| message.topic == "ha/device/v_dock/config").collect();
    assert!(dock.len() == 1 && dock[0].payload.is_empty(), "it has gone for good");
    // And it does not go when Home Assistant comes.
    published.before(&messages);
    let again = states.introduce_again(&published);
    assert!(again.iter().any(|message| message.topic == "ha/device/v_yard/config"));
    assert!(again.iter().all(|message| !message.payload.is_empty() || message.topic == "ha/device/v_dock/config"));
}

#[test]
fn a_label_that_goes_and_comes_back_leaves_nothing_to_be_told() {
    let topics = Topics::new("v");
    let mut states = States::new(topics.clone(), Some("ha".into()), Announced::default());
    let mut published = known(topics.clone(), BTreeMap::new());
    states.surveyed();
    for labels in [&["car", "bus"][..], &["bus"], &["car", "bus"]] {
        changed_topics(&mut states, &mut published, &[("gate", labels)]);
        assert_eq!(published.partings.topics().count(), usize::from(labels.len() == 1));
    }
}
