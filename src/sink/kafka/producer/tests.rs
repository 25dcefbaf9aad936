//! The sink beside librdkafka's own mock cluster, and beside a broker that says what none should.

use std::io::{Read, Write};
use std::net::TcpStream;

use crossbeam_channel::bounded;
use rdkafka::mocking::MockCluster;

use super::*;
use crate::event::EventKind;
use crate::outbox::delivery::tests::{delivery, event, eventually};
use crate::outbox::delivery::{self, DeliveryOutcome, DeliverySender, Health, States};
use crate::sink::tests;

const TOPIC: &str = "vtagd.events";

const TIMEOUT: Duration = Duration::from_secs(2);

fn settings(brokers: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        topic: TOPIC.into(),
        client_id: "vtagd".into(),
        tls: None,
        sasl: None,
        timeout: TIMEOUT,
    }
}

/// The outbox's end of a link, and the sink's, which holds one event.
fn holding_one() -> (DeliverySender, DeliveryReceiver) {
    let (sender, mut receiver) = delivery::link("fleet", States::default(), bounded(1).0);
    sender.offer(delivery(1, event("gate", "car", EventKind::Start))).unwrap();
    assert_eq!(receiver.try_next().map(|delivery| delivery.position), Some(1));
    (sender, receiver)
}

#[test]
fn a_topic_that_takes_nothing_is_not_up_again_at_every_connection() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    // The cluster knows the topic, and nobody leads it.
    cluster.partition_leader(TOPIC, 0, None).unwrap();
    let (sender, thread) = tests::running(Kafka::new(settings(&cluster.bootstrap_servers())));
    sender.offer(delivery(1, event("gate", "car", EventKind::Start))).unwrap();
    eventually("it is down", || matches!(sender.health(), Health::Down { .. }));
    let began = Instant::now();
    // Three more connections.
    eventually("some time has gone by", || {
        assert!(matches!(sender.health(), Health::Down { .. }), "{:?}", sender.health());
        began.elapsed() > 3 * TIMEOUT
    });
    cluster.partition_leader(TOPIC, 0, Some(1)).unwrap();
    eventually("it is delivered", || sender.settled().get(&1) == Some(&DeliveryOutcome::Delivered));
    eventually("it is up", || sender.health() == Health::Up);
    tests::end(&sender, thread);
}

#[test]
fn what_stopped_the_producer_is_told_by_its_report_though_the_producer_says_first_that_it_has_stopped() {
    let settings = settings("127.0.0.1:9");
    let mut session = Session::open(&settings).unwrap();
    let (sender, mut receiver) = holding_one();
    session.in_flight.insert(1);
    assert_eq!(session.hear(Code::Fatal, "Fatal error: gap-less guarantee", true), Ok(()));
    let why = "the event is larger than the topic's max.message.bytes";
    let ended = session.settle((1, Some(Code::MessageSizeTooLarge)), &mut receiver, &mut 0);
    assert_eq!(ended, Err(SinkError::retry(why)));
    assert_eq!(sender.settled().remove(&1), Some(DeliveryOutcome::Dead { why: why.into() }));
}

#[test]
fn a_producer_that_has_stopped_ends_its_run_once_nothing_is_on_its_way() {
    let settings = settings("127.0.0.1:9");
    let mut session = Session::open(&settings).unwrap();
    let (sender, mut receiver) = holding_one();
    session.in_flight.insert(1);
    assert_eq!(session.hear(Code::Fatal, "Fatal error: fenced", true), Ok(()));
    assert_eq!(session.settle((1, None), &mut receiver, &mut 0), Err(SinkError::retry("Fatal error: fenced")));
    assert_eq!(sender.settled().remove(&1), Some(DeliveryOutcome::Delivered));
    assert_eq!(
        session.hear(Code::Fatal, "Fatal error: again", false),
        Err(SinkError::retry("Fatal error: again")),
        "nothing is on its way"
    );
}

#[test]
fn an_event_that_is_found_invalid_waits_and_schema_validation_is_named() {
    let settings = settings("127.0.0.1:9");
    let mut session = Session::open(&settings).unwrap();
    let (sender, mut receiver) = holding_one();
    session.in_flight.insert(1);
    let ended = session.settle((1, Some(Code::InvalidRecord)), &mut receiver, &mut 0);
    assert!(matches!(&ended, Err(SinkError::Retry { why, .. }) if why.contains("schema validation")), "{ended:?}");
    let outcome = sender.settled().remove(&1);
    assert!(matches!(outcome, Some(DeliveryOutcome::Failed { attempts: 1, .. })), "{outcome:?}");
}

#[test]
fn a_broker_that_announces_an_answer_of_fifty_megabytes_gets_no_memory_for_it() {
    let port = tests::listen(|_, mut stream: &TcpStream| {
        let mut asked = [0; 4096];
        while stream.read(&mut asked).is_ok_and(|read| read > 0) {
            // A length, the number of a request, and nothing more.
            let _ = stream.write_all(&[50_000_000_u32.to_be_bytes(), [0; 4]].concat());
        }
    });
    let (sender, thread) = tests::running(Kafka::new(settings(&format!("127.0.0.1:{port}"))));
    let told =
        |health: Health| matches!(health, Health::Down { why } if why.contains("Invalid response size 50000000"));
    eventually("it is told", || told(sender.health()));
    tests::end(&sender, thread);
}
