//! Events into a topic of Kafka, from the daemon: each once, in order within each stream and label; brokers that go down and up, partitions
//! without a leader, requests that are refused, and a daemon that is killed. The cluster is librdkafka's own mock (real sockets, the real
//! protocol, errors on demand), as a Kafka would need Java here. Built with the feature `kafka` only.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::arrived::{self, drain, id, route};
use crate::common::authority::Authority;
use crate::common::daemon::{Daemon, eventually, stored};
use crate::common::flood;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

const TOPIC: &str = "vtagd.events";

const PARTITIONS: i32 = 3;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// Two brokers, and the topic.
fn cluster() -> Cluster {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 2).unwrap();
    cluster
}

/// A record as the consumer got it.
#[derive(Clone)]
struct Record {
    partition: i32,
    key: String,
    id: String,
    kind: String,
    event: Value,
}

/// Reads every partition from the beginning, on a thread, whatever goes down meanwhile.
struct Consumer {
    got: Arc<Mutex<Vec<Record>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Consumer {
    fn start(cluster: &Cluster) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .set("reconnect.backoff.max.ms", "200")
            .set("topic.metadata.refresh.interval.ms", "500")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let (got, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (Arc::clone(&got), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let Some(Ok(record)) = consumer.poll(Duration::from_millis(50)) else { continue };
                let headers: HashMap<&str, &[u8]> =
                    record.headers().unwrap().iter().map(|header| (header.key, header.value.unwrap())).collect();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                kept.lock().unwrap().push(Record {
                    partition: record.partition(),
                    key: text(record.key().unwrap()),
                    id: text(headers["ce_id"]),
                    kind: text(headers["content-type"]),
                    event: serde_json::from_slice(record.payload().unwrap()).unwrap(),
                });
            }
        });
        Self { got, stop, thread: Some(thread) }
    }

    fn got(&self) -> Vec<Record> {
        self.got.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn sink(cluster: &Cluster) -> String {
    let brokers: Vec<String> = cluster.bootstrap_servers().split(',').map(|broker| format!("\"{broker}\"")).collect();
    format!("  - {{ type: kafka, name: fleet, brokers: [{}], timeout: 5s }}\n", brokers.join(", "))
}

/// Ends `daemon`, has what is left delivered, and waits for it: what arrived is what was stored but for `dead` events, nothing else, in
/// order within each key. Gives how many were stored, and how many came more than once.
fn check(mut daemon: Daemon, consumer: &Consumer, folder: &Path, config: &str, dead: usize) -> (usize, usize) {
    daemon.stop_cleanly();
    drain(folder, config);
    let mut stored = stored(folder);
    let count = stored.len();
    let arrived = eventually("all have arrived", || {
        let got = consumer.got();
        (arrived::unique(got.iter().map(|record| &record.event)) + dead >= count).then_some(got)
    });
    println!("{count} stored, {dead} dead, {} arrived", arrived.len());
    let by_id: HashMap<String, &Value> = stored.iter().map(|event| (id(event), event)).collect();
    let mut partitions: HashMap<&str, i32> = HashMap::new();
    for record in &arrived {
        assert_eq!(by_id.get(&record.id), Some(&&record.event), "what arrives is what was stored, and says its id");
        assert_eq!(
            (&record.key, record.kind.as_str()),
            (&route(&record.event), "application/cloudevents+json; charset=UTF-8")
        );
        let partition = partitions.entry(&record.key).or_insert(record.partition);
        assert_eq!(*partition, record.partition, "a key has one partition");
    }
    assert!(partitions.values().collect::<HashSet<_>>().len() > 1, "several partitions are used");
    let ids: HashSet<&str> = arrived.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids.len() + dead, count, "none is missing but the dead");
    let again = arrived.len() - ids.len();
    stored.retain(|event| ids.contains(event["id"].as_str().unwrap()));
    let events = arrived.iter().map(|record| &record.event);
    assert!(arrived::lanes(events) == arrived::lanes(&stored), "order within each stream and label");
    (count, again)
}

#[test]
fn every_event_arrives_once_and_in_order_though_the_cluster_hesitates() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let consumer = Consumer::start(&cluster);
    let config = flood::config(folder.path(), &sink(&cluster), "");
    let daemon = Daemon::start(folder.path(), &config);
    eventually("events arrive", || (consumer.count() > 500).then_some(()));
    // Faults that a cluster has every day: librdkafka tries again, and the numbers of its batches keep them apart.
    for _ in 0..3 {
        let before = consumer.count();
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            ],
        );
        eventually("more arrive", || (consumer.count() > before + 300).then_some(()));
    }
    assert!(!daemon.log().contains("cannot deliver"), "{}", daemon.log());
    let (count, again) = check(daemon, &consumer, folder.path(), &config, 0);
    assert_eq!(again, 0, "each once");
    assert!(count > 1000);
}

#[test]
fn brokers_that_go_down_and_a_daemon_that_is_killed_lose_and_reorder_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let consumer = Consumer::start(&cluster);
    let config = flood::config(folder.path(), &sink(&cluster), "");
    let mut daemon = Daemon::start(folder.path(), &config);
    for round in 0..4 {
        let before = consumer.count();
        eventually("events arrive", || (consumer.count() > before + 150).then_some(()));
        // The one that leads some partitions, or both.
        cluster.broker_down(if round % 2 == 0 { -1 } else { 1 }).unwrap();
        let before = stored(folder.path()).len();
        eventually("events are made meanwhile", || (stored(folder.path()).len() > before + 100).then_some(()));
        if round == 0 {
            eventually("it is told", || {
                let told = daemon.get("/api/v1/sinks").1;
                (told.contains("\"state\":\"down\"") && !told.contains("\"pending\":0,")).then_some(())
            });
            assert!(daemon.log().contains("refused") || daemon.log().contains("isconnected"), "{}", daemon.log());
        }
        if round >= 2 {
            daemon.kill();
            daemon = Daemon::start(folder.path(), &config);
        }
        cluster.broker_up(-1).unwrap();
    }
    daemon.wait_ready();
    check(daemon, &consumer, folder.path(), &config, 0);
}

#[test]
fn a_partition_that_takes_nothing_and_a_topic_that_may_not_be_written_are_told_and_the_events_wait() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let consumer = Consumer::start(&cluster);
    let config = flood::config(folder.path(), &sink(&cluster), "");
    // Nobody leads any partition: the daemon waits, and says so.
    for partition in 0..PARTITIONS {
        cluster.partition_leader(TOPIC, partition, None).unwrap();
    }
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_for_log("no broker has acknowledged anything for 5s");
    assert_eq!(consumer.count(), 0);
    for partition in 0..PARTITIONS {
        cluster.partition_leader(TOPIC, partition, Some(1 + partition % 2)).unwrap();
    }
    eventually("events arrive", || (consumer.count() > 200).then_some(()));
    daemon.wait_for_log("delivers again");
    // A refusal that is no use trying again: this producer stops, the next one sends everything that was not taken.
    for _ in 0..2 {
        let before = consumer.count();
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
        daemon.wait_for_log("does not let us write to topic vtagd.events: grant WRITE");
        eventually("events arrive", || (consumer.count() > before + 300).then_some(()));
    }
    check(daemon, &consumer, folder.path(), &config, 0);
}

#[test]
fn an_event_that_the_topic_does_not_take_is_a_dead_letter_and_the_others_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let consumer = Consumer::start(&cluster);
    let config = flood::config(folder.path(), &sink(&cluster), "");
    let mut daemon = Daemon::start(folder.path(), &config);
    eventually("events arrive", || (consumer.count() > 100).then_some(()));
    // Whole batches are refused; then they go one by one, until it is clear which event it is.
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 12]);
    daemon.wait_for_log("larger than the topic's max.message.bytes");
    let mut dead = || {
        let sinks: Value = serde_json::from_str(&daemon.get("/api/v1/sinks").1).unwrap();
        sinks["sinks"][0]["dead"].as_u64().unwrap() as usize
    };
    eventually("a dead letter", || (dead() > 0).then_some(()));
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    let before = consumer.count();
    eventually("others arrive", || (consumer.count() > before + 200).then_some(()));
    let dead = dead();
    check(daemon, &consumer, folder.path(), &config, dead);
}

/// A request as it came: its kind, version and number, and everything after that.
fn request(stream: &mut impl Read) -> Option<(i16, i16, [u8; 4], Vec<u8>)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut bytes).ok()?;
    let number = |at: usize| i16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Some((number(0), number(2), bytes[4..8].try_into().unwrap(), bytes[8..].to_vec()))
}

/// A broker as far as its door: TLS with a certificate of the client, then SASL PLAIN. Counts who got in; those wait for ever.
fn access(tls: Arc<rustls::ServerConfig>, password: &'static str) -> (u16, Arc<AtomicUsize>) {
    const API_VERSIONS: i16 = 18;
    const HANDSHAKE: i16 = 17;
    const AUTHENTICATE: i16 = 36;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let admitted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&admitted);
    let serve = move |stream: &mut dyn ReadWrite| {
        let mut stream = stream;
        while let Some((kind, version, number, rest)) = request(&mut stream) {
            let mut answer = number.to_vec();
            match kind {
                API_VERSIONS if version >= 3 => {
                    let kinds = [(0_i16, 8_i16), (3, 9), (API_VERSIONS, 3), (HANDSHAKE, 1), (AUTHENTICATE, 0), (22, 1)];
                    answer.extend([0, 0, kinds.len() as u8 + 1]);
                    for (kind, most) in kinds {
                        answer.extend([kind.to_be_bytes(), [0, 0], most.to_be_bytes()].concat());
                        answer.push(0);
                    }
                    answer.extend([0; 5]);
                }
                HANDSHAKE => answer.extend(b"\0\0\0\0\0\x01\0\x05PLAIN"),
                AUTHENTICATE => {
                    let wanted = format!("\0vtagd\0{password}");
                    if rest.ends_with(wanted.as_bytes()) {
                        count.fetch_add(1, Ordering::SeqCst);
                        answer.extend([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
                    } else {
                        answer.extend(b"\0\x3a\0\x0ewho are you???\0\0\0\0");
                    }
                }
                _ => continue,
            }
            let length = (answer.len() as u32).to_be_bytes();
            if stream.write_all(&[&length[..], &answer].concat()).is_err() {
                return;
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (tls, serve) = (Arc::clone(&tls), serve.clone());
            std::thread::spawn(move || {
                let session = rustls::ServerConnection::new(tls).unwrap();
                serve(&mut rustls::StreamOwned::new(session, stream.unwrap()));
            });
        }
    });
    (port, admitted)
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

#[test]
fn tls_with_an_authority_a_client_certificate_and_a_password_and_what_is_wrong_is_told() {
    const PASSWORD: &str = "correct horse battery";
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server");
    authority.issue("client");
    Authority::new(folder.path(), "other");
    std::fs::write(folder.path().join("right"), PASSWORD).unwrap();
    std::fs::write(folder.path().join("wrong"), "wrong password").unwrap();
    let (port, admitted) = access(authority.server("server", true), PASSWORD);
    let identity = "cert: client.pem, key: client.key";
    for (name, more, why) in [
        ("right", format!("ca: ca.pem, {identity}, password: {{ file: right }}"), "no broker"),
        ("password", format!("ca: ca.pem, {identity}, password: {{ file: wrong }}"), "who are you???"),
        ("authority", format!("ca: other.pem, {identity}, password: {{ file: right }}"), "`ca`"),
        ("certificate", "ca: ca.pem, password: { file: right }".to_owned(), "`cert` and `key`"),
    ] {
        admitted.store(0, Ordering::SeqCst);
        let sink = format!(
            "  - {{ type: kafka, name: {name}, brokers: [\"localhost:{port}\"], tls: true, sasl: plain, username: vtagd, timeout: 3s, {more} }}\n"
        );
        let mut daemon = Daemon::start(folder.path(), &flood::config(folder.path(), &sink, ""));
        if name == "right" {
            eventually("it gets in", || (admitted.load(Ordering::SeqCst) > 0).then_some(()));
        }
        daemon.wait_for_log("cannot deliver");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("cannot deliver")).unwrap();
        println!("{line}");
        assert!(name == "right" || line.contains(why), "{line}");
        assert!(!log.contains(PASSWORD) && !log.contains("wrong password"), "{log}");
        assert!(name == "right" || admitted.load(Ordering::SeqCst) == 0);
        daemon.stop_cleanly();
    }
}
