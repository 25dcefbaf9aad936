//! The sink beside a broker of MQTT 5 that refuses and sends what it likes: as much of one as a publisher sees.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread::JoinHandle;

use super::home_assistant::tests::watched;
use super::*;
use crate::event::EventKind;
use crate::outbox::delivery::tests::{delivery, event, eventually};
use crate::outbox::delivery::{DeliveryOutcome, DeliverySender, Health};
use crate::sink::tests;
use crate::stream::requests::{self, Action, RequestReceiver};

const EVENTS: &str = "v/events";

/// What the sink says to be.
const OWNER: &str = r#"{"id":"00000000-0000-0000-0000-000000000007","instance":"edge","program":"vtagd"}"#;

/// Topic and payload of what was taken, in order.
type Taken = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Filters that were unsubscribed from, in order.
type Unsubscribed = Arc<Mutex<Vec<String>>>;

/// What it does with a publish.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Take,
    /// And send it again and again.
    Repeat,
    Refuse,
    /// Its payload.
    FindMalformed,
    HangUp,
}

impl From<bool> for Does {
    fn from(refuses: bool) -> Self {
        if refuses { Self::Refuse } else { Self::Take }
    }
}

/// By its topic, and how many events of the connection, and connections, came before.
type Judges = fn(&str, usize, usize) -> Does;

/// What it sends to who subscribes to a topic, or to that of all streams: topic, payload, retained.
type Sends = &'static [(&'static str, &'static str, bool)];

/// Accepts, and says nothing more of itself.
const ACCEPTS: &[u8] = &[0x20, 3, 0, 0, 0];

fn broker(judges: Judges, sends: Sends) -> (u16, Taken) {
    let (port, taken, _) = telling_broker(judges, ACCEPTS, sends);
    (port, taken)
}

/// One that greets as it likes, and tells what is unsubscribed from.
fn telling_broker(judges: Judges, greets: &'static [u8], sends: Sends) -> (u16, Taken, Unsubscribed) {
    let (taken, unsubscribed) = (Taken::default(), Unsubscribed::default());
    let (kept, told) = (Arc::clone(&taken), Arc::clone(&unsubscribed));
    let port = tests::listen(move |connection, stream| {
        serve(stream, |topic, n| judges(topic, n, connection), greets, sends, &kept, &told);
    });
    (port, taken, unsubscribed)
}

fn text(bytes: &[u8]) -> (String, &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    (String::from_utf8(bytes[2..2 + length].to_vec()).unwrap(), &bytes[2 + length..])
}

/// A short message, with QoS 0.
fn publish(topic: &str, payload: &[u8], retained: bool) -> Vec<u8> {
    let size = u8::try_from(3 + topic.len() + payload.len()).unwrap();
    let length: &[u8] = if size < 0x80 { &[size] } else { &[size, 1] };
    let topic = [&[0, topic.len() as u8], topic.as_bytes()].concat();
    [&[0x30 | u8::from(retained)], length, &topic, &[0], payload].concat()
}

/// One connection, to its end. Publishes are answered once nothing more comes for a moment.
fn serve(
    stream: &TcpStream,
    judges: impl Fn(&str, usize) -> Does,
    greets: &[u8],
    sends: Sends,
    taken: &Taken,
    unsubscribed: &Unsubscribed,
) {
    let (mut from, mut to) = (BufReader::new(stream), stream);
    let (mut waiting, mut count) = (Vec::<([u8; 2], String, Vec<u8>)>::new(), 0);
    let mut repeated = Vec::new();
    loop {
        let mut kind = [0];
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        match from.read(&mut kind) {
            Ok(1) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                for (id, topic, payload) in waiting.drain(..) {
                    let [high, low] = id;
                    let reason = match judges(&topic, count) {
                        Does::HangUp => return,
                        Does::Repeat => {
                            repeated = publish(&topic, &payload, false);
                            0
                        }
                        Does::Take => 0,
                        // Not authorized; payload format invalid.
                        Does::Refuse => 0x87,
                        Does::FindMalformed => 0x99,
                    };
                    count += usize::from(topic == EVENTS);
                    if reason == 0 {
                        taken.lock().unwrap().push((topic, payload));
                    }
                    let _ = to.write_all(&[0x40, 4, high, low, reason, 0]);
                }
                let _ = to.write_all(&repeated);
                continue;
            }
            _ => return,
        }
        stream.set_read_timeout(None).unwrap();
        let (mut length, mut shift) = (0, 0);
        loop {
            let mut byte = [0];
            from.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).unwrap();
        let mut answer = Vec::new();
        match kind[0] >> 4 {
            1 => answer.extend(greets),
            3 => {
                let (topic, rest) = text(&body);
                let (properties, payload) = rest[3..].split_at(usize::from(rest[2]));
                // 3: Content Type.
                let typed =
                    properties.first() == Some(&3) && text(&properties[1..]).0 == "application/cloudevents+json";
                assert_eq!((typed, properties.is_empty()), (topic == EVENTS, topic != EVENTS), "{topic}");
                waiting.push(([rest[0], rest[1]], topic, payload.to_vec()));
            }
            8 => {
                let (filter, _) = text(&body[3..]);
                answer.extend([0x90, 4, body[0], body[1], 0, 0]);
                let matches =
                    |topic: &str| topic == filter || filter.starts_with("v/+") && topic.ends_with(&filter[3..]);
                for (topic, payload, retained) in sends.iter().filter(|(topic, ..)| matches(topic)) {
                    answer.extend(publish(topic, payload.as_bytes(), *retained));
                }
            }
            10 => {
                unsubscribed.lock().unwrap().push(text(&body[3..]).0);
                answer.extend([0xb0, 4, body[0], body[1], 0, 0]);
            }
            12 => answer.extend([0xd0, 0]),
            _ => return,
        }
        let _ = to.write_all(&answer);
    }
}

/// A sink of the prefix `v` that knows a stream `gate` with a label `car`.
fn running(port: u16) -> (DeliverySender, JoinHandle<()>, RequestReceiver) {
    announcing(port, None)
}

/// … and tells Home Assistant's devices there.
fn announcing(port: u16, home_assistant: Option<&str>) -> (DeliverySender, JoinHandle<()>, RequestReceiver) {
    let (sender, thread, requests, registry) = starting(port, home_assistant);
    registry.set(vec![watched("gate", &["car"])]);
    (sender, thread, requests)
}

/// As a daemon that does not know its streams yet: its model is not loaded.
fn starting(
    port: u16,
    home_assistant: Option<&str>,
) -> (DeliverySender, JoinHandle<()>, RequestReceiver, Arc<StreamRegistry>) {
    let settings = MqttSettings {
        url: format!("mqtt://127.0.0.1:{port}").parse().unwrap(),
        protocol: Protocol::V5,
        client_id: None,
        topic_prefix: "v".into(),
        username: None,
        password: None,
        trust: Trust::default(),
        timeout: Duration::from_secs(60),
        home_assistant: home_assistant.map(str::to_owned),
        home_assistant_scores: false,
    };
    let owner = Owner { id: uuid::Uuid::from_u128(7), instance: "edge".into() };
    let (senders, requests) = requests::channel();
    let registry = Arc::new(StreamRegistry::new(senders.mqtt));
    let (sender, thread) = tests::running(Mqtt::new(settings, Arc::clone(&registry), None, owner, Arc::default()));
    (sender, thread, requests, registry)
}

/// Offers events of these labels and waits until they are delivered; label and payload of each.
fn deliver(sender: &DeliverySender, labels: &[&'static str]) -> Vec<(&'static str, Vec<u8>)> {
    let mut sent = Vec::new();
    for (position, label) in (1..).zip(labels) {
        let delivery = delivery(position, event("gate", label, EventKind::Start));
        sent.push((*label, delivery.stored.body.as_bytes().to_vec()));
        sender.offer(delivery).unwrap();
    }
    let mut delivered = 0;
    eventually("all are delivered", || {
        delivered += sender.settled().into_values().filter(|outcome| *outcome == DeliveryOutcome::Delivered).count();
        delivered == sent.len()
    });
    sent
}

#[test]
fn an_event_that_is_refused_comes_again_and_is_overtaken_by_none_of_its_stream_and_label() {
    let (port, taken) = broker(|topic, n, connection| (topic == EVENTS && n == 0 && connection == 1).into(), &[]);
    let (sender, thread, _commands) = running(port);
    let sent = deliver(&sender, &["car", "bus", "car", "car", "bus", "car"]);
    let taken: Vec<_> = taken.lock().unwrap().iter().filter(|(topic, _)| topic == EVENTS).cloned().collect();
    for label in ["car", "bus"] {
        let wanted: Vec<&Vec<u8>> = sent.iter().filter(|(l, _)| *l == label).map(|(_, body)| body).collect();
        let mut got: Vec<&Vec<u8>> = taken.iter().map(|(_, body)| body).filter(|body| wanted.contains(body)).collect();
        got.dedup();
        assert_eq!(got, wanted, "{label}");
    }
    tests::end(&sender, thread);
}

/// Offers three events, the second a long one: that is a dead letter for this reason, and the others are delivered.
fn only_the_second_is_dead(port: u16, taken: &Taken, reason: &str) {
    let (sender, thread, _commands) = running(port);
    let long = "car ".repeat(500);
    for (position, label) in (1..).zip(["car", &long, "bus"]) {
        sender.offer(delivery(position, event("gate", label, EventKind::Start))).unwrap();
    }
    let mut settled = std::collections::BTreeMap::new();
    eventually("all are settled", || {
        settled.extend(sender.settled());
        settled.len() == 3
    });
    let dead = settled.remove(&2);
    assert!(matches!(&dead, Some(DeliveryOutcome::Dead { why }) if why.contains(reason)), "{dead:?}");
    assert!(settled.values().all(|outcome| *outcome == DeliveryOutcome::Delivered), "{settled:?}");
    let events = taken.lock().unwrap().iter().filter(|(topic, _)| topic == EVENTS).count();
    assert_eq!((events, sender.health()), (2, Health::Up), "each once");
    tests::end(&sender, thread);
}

#[test]
fn an_event_whose_payload_the_broker_refuses_is_a_dead_letter_and_stops_none() {
    // Whoever came again with it would get it through.
    let judges: Judges = |topic, n, _| if topic == EVENTS && n == 1 { Does::FindMalformed } else { Does::Take };
    let (port, taken) = broker(judges, &[]);
    only_the_second_is_dead(port, &taken, "PayloadFormatInvalid");
}

#[test]
fn an_event_larger_than_the_broker_has_said_to_take_is_a_dead_letter_and_stops_none() {
    // 0x27: the largest packet, of 2,000 bytes.
    const TAKES_2000: &[u8] = &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0x07, 0xd0];
    let (port, taken, _) = telling_broker(|_, _, _| Does::Take, TAKES_2000, &[]);
    only_the_second_is_dead(port, &taken, "larger than the 2000 bytes");
}

#[test]
fn what_is_refused_beside_events_stops_none() {
    let (port, taken) = broker(|topic, _, _| (topic != EVENTS).into(), &[]);
    let (sender, thread, _commands) = running(port);
    deliver(&sender, &["car", "car", "car"]);
    assert_eq!(sender.health(), Health::Up);
    assert_eq!(taken.lock().unwrap().len(), 3, "on one connection, each once");
    tests::end(&sender, thread);
}

#[test]
fn a_broker_that_hangs_up_on_the_owners_name_gets_events_and_nothing_else() {
    let (port, taken) = broker(|topic, _, _| if topic == "v/owner" { Does::HangUp } else { Does::Take }, &[]);
    let (sender, thread, _commands) = running(port);
    deliver(&sender, &["car", "bus"]);
    assert!(taken.lock().unwrap().iter().all(|(topic, _)| topic == EVENTS), "whose the prefix is nobody knows");
    tests::end(&sender, thread);
}

#[test]
fn a_command_is_obeyed_and_one_that_lay_retained_is_not() {
    let (port, _taken) =
        broker(|_, _, _| Does::Take, &[("v/gate/enabled/set", "OFF", true), ("v/gate/enabled/set", "ON", false)]);
    let (sender, thread, requests) = running(port);
    let request = requests.next(Duration::from_secs(60)).unwrap();
    assert_eq!(request.action, Action::Switch { stream: "gate".into(), enabled: true });
    tests::end(&sender, thread);
    assert!(requests.next(Duration::ZERO).is_none());
}

#[test]
fn a_broker_that_repeats_the_owners_name_without_end_holds_no_event_up() {
    let (port, _taken) = broker(|topic, _, _| if topic == "v/owner" { Does::Repeat } else { Does::Take }, &[]);
    let (sender, thread, _commands) = running(port);
    deliver(&sender, &["car"]);
    tests::end(&sender, thread);
}

/// As RabbitMQ: nothing comes of `ha/device/+/config`. `known_late`: the streams are known only after everybody has been listened to.
fn sees_another_programs_device(known_late: bool) {
    const DOCUMENT: &str = "ha/device/v_gate/config";
    let lies: Sends = &[("v/owner", OWNER, true), (DOCUMENT, r#"{"o":{"name":"another"}}"#, true)];
    let (port, taken, unsubscribed) = telling_broker(|_, _, _| Does::Take, ACCEPTS, lies);
    let (sender, thread, _commands, registry) = starting(port, Some("ha"));
    if known_late {
        std::thread::sleep(2 * ownership::SURVEY);
    }
    registry.set(vec![watched("gate", &["car"])]);
    eventually("it is known what lies there", || unsubscribed.lock().unwrap().contains(&DOCUMENT.to_owned()));
    // What would have been told by then comes before this.
    deliver(&sender, &["car"]);
    let topics: Vec<String> = taken.lock().unwrap().iter().map(|(topic, _)| topic.clone()).collect();
    assert!(topics.contains(&"v/gate/status".to_owned()) && !topics.contains(&DOCUMENT.to_owned()), "{topics:?}");
    tests::end(&sender, thread);
}

#[test]
fn another_programs_device_is_seen_at_a_broker_that_shows_only_what_is_asked_for_by_name() {
    sees_another_programs_device(false);
}

#[test]
fn another_programs_device_is_seen_there_too_by_a_daemon_that_takes_long_to_start() {
    sees_another_programs_device(true);
}

#[test]
fn a_device_that_is_told_late_gets_its_numbers_soon_after_it() {
    // Something of ours lies there, so it is known at once what does.
    let lies: Sends = &[("v/owner", OWNER, true), ("v/gate/enabled/state", "ON", true)];
    let (port, taken) = broker(|_, _, _| Does::Take, lies);
    let (sender, thread, _commands, registry) = starting(port, Some("ha"));
    std::thread::sleep(2 * ownership::SURVEY);
    registry.set(vec![watched("gate", &["car"])]);
    let uptimes = || -> Vec<u64> {
        let taken = taken.lock().unwrap();
        let stats = taken.iter().filter(|(topic, _)| topic == "v/stats");
        stats
            .map(|(_, said)| serde_json::from_slice::<serde_json::Value>(said).unwrap()["uptime"].as_u64().unwrap())
            .collect()
    };
    eventually("statistics, twice", || uptimes().len() > 1);
    // By the sink's own clock: not a minute later, when it would be their turn.
    assert!(uptimes()[1] - uptimes()[0] < 55, "{:?}", uptimes());
    tests::end(&sender, thread);
}

#[test]
fn a_broker_of_the_older_version_and_another_client_of_our_name_are_told_as_such() {
    // As 3.1.1 has it: `unacceptable protocol version`. Success, and then DISCONNECT: session taken over.
    for (answers, told) in [
        (vec![0x20, 2, 0, 1], "write `protocol: 3.1.1`"),
        (vec![0x20, 3, 0, 0, 0, 0xe0, 2, 0x8e, 0], "another client has connected with the same client id"),
    ] {
        let port = tests::listen(move |_, mut stream| {
            let mut connect = [0; 1024];
            let _ = stream.read(&mut connect);
            stream.write_all(&answers).unwrap();
            // Who refuses hangs up; who throws out waits for the other to go.
            while answers.len() > 4 && stream.read(&mut connect).is_ok_and(|read| read > 0) {}
        });
        let (sender, thread, _commands) = running(port);
        eventually(told, || matches!(sender.health(), Health::Down { why } if why.contains(told)));
        tests::end(&sender, thread);
    }
}
