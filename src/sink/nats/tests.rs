//! The sink beside a server that refuses when it likes: as much of NATS as a publisher sees.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::*;
use crate::event::EventKind;
use crate::outbox::delivery::tests::{delivery, event, eventually};
use crate::outbox::delivery::{self, DeliverySender, Health};
use crate::sink::tests;

/// How a server begins.
const INFO: &str = r#"{"server_id":"x","version":"2.10.0","headers":true,"max_payload":1048576,"proto":1}"#;

/// Ids that were taken, in order, each once, as JetStream does it.
type Taken = Arc<Mutex<Vec<String>>>;

/// What it does with a publish.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Take,
    /// As where no stream takes the subject.
    Refuse,
    /// It is larger than the stream's `max_msg_size`.
    FindTooLarge,
}

/// By how many connections, and publishes on this one, came before.
type Judges = fn(usize, usize) -> Does;

/// Answers what has come once nothing more comes for a moment.
fn server(judges: Judges) -> (u16, Taken) {
    let taken = Taken::default();
    let kept = Arc::clone(&taken);
    let port = tests::listen(move |connection, stream| serve(stream, &|number| judges(connection, number), &kept));
    (port, taken)
}

/// One connection, to its end.
fn serve(mut to: &TcpStream, judges: &dyn Fn(usize) -> Does, taken: &Taken) {
    let mut from = BufReader::new(to);
    write!(to, "INFO {INFO}\r\n").unwrap();
    let (mut line, mut subscriber, mut published) = (String::new(), String::new(), 0);
    let mut waiting: Vec<(String, String)> = Vec::new();
    loop {
        to.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        match from.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                for (id, reply) in waiting.drain(..) {
                    let does = judges(published);
                    published += 1;
                    if does == Does::Refuse {
                        let head = "NATS/1.0 503\r\n\r\n";
                        let length = head.len();
                        let _ = write!(to, "HMSG {reply} {subscriber} {length} {length}\r\n{head}\r\n");
                        continue;
                    }
                    let answer = if does == Does::FindTooLarge {
                        // As nats-server 2.10 words it.
                        let error =
                            r#"{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}"#;
                        format!(r#"{{"error":{error},"stream":"S","seq":0}}"#)
                    } else {
                        let mut taken = taken.lock().unwrap();
                        if !taken.contains(&id) {
                            taken.push(id);
                        }
                        format!(r#"{{"stream":"S","seq":{}}}"#, taken.len())
                    };
                    let _ = write!(to, "MSG {reply} {subscriber} {}\r\n{answer}\r\n", answer.len());
                }
                continue;
            }
            Err(_) => return,
        }
        to.set_read_timeout(None).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["PING"] => to.write_all(b"PONG\r\n").unwrap(),
            ["SUB", _, id] => subscriber = id.to_owned(),
            ["HPUB", _, reply, _, total] => {
                let mut body = vec![0; total.parse::<usize>().unwrap() + 2];
                from.read_exact(&mut body).unwrap();
                let text = String::from_utf8(body).unwrap();
                let id = text.lines().find_map(|line| line.strip_prefix("Nats-Msg-Id: ")).unwrap();
                waiting.push((id.to_owned(), reply.to_owned()));
            }
            _ => {}
        }
        line.clear();
    }
}

fn running(port: u16) -> (DeliverySender, std::thread::JoinHandle<()>) {
    patient(port, Duration::from_secs(20))
}

fn patient(port: u16, timeout: Duration) -> (DeliverySender, std::thread::JoinHandle<()>) {
    let settings = NatsSettings {
        url: format!("nats://127.0.0.1:{port}").parse().unwrap(),
        login: NatsLogin::Nobody,
        subject_prefix: "vtagd".into(),
        inbox_prefix: "_INBOX".into(),
        trust: Trust::default(),
        timeout,
    };
    tests::running(Nats::new(settings))
}

#[test]
fn an_event_that_is_refused_is_overtaken_by_none_of_its_stream_and_label() {
    let (port, taken) =
        server(|connection, number| if (connection, number) == (0, 0) { Does::Refuse } else { Does::Take });
    let (sender, thread) = running(port);
    let mut ids = Vec::new();
    for (position, label) in (1..).zip(["car", "bus", "car", "car", "bus", "car"]) {
        let delivery = delivery(position, event("gate", label, EventKind::Start));
        ids.push((label, delivery.stored.id().to_string()));
        sender.offer(delivery).unwrap();
    }
    let mut settled = HashSet::new();
    eventually("all are delivered", || {
        let outcomes = sender.settled();
        settled
            .extend(outcomes.into_iter().filter(|(_, o)| *o == delivery::DeliveryOutcome::Delivered).map(|(p, _)| p));
        settled.len() == ids.len()
    });
    let taken = taken.lock().unwrap().clone();
    for label in ["car", "bus"] {
        let sent: Vec<&String> = ids.iter().filter(|(l, _)| *l == label).map(|(_, id)| id).collect();
        let got: Vec<&String> = taken.iter().filter(|id| sent.contains(id)).collect();
        assert_eq!(got, sent, "{label}");
    }
    tests::end(&sender, thread);
}

#[test]
fn an_event_that_the_stream_finds_too_large_is_a_dead_letter_and_all_others_go_on_by_the_same_connection() {
    // Whoever came again would get nothing through.
    let (port, taken) = server(|connection, number| match (connection, number) {
        (0, 1) => Does::FindTooLarge,
        (0, _) => Does::Take,
        _ => Does::Refuse,
    });
    let (sender, thread) = running(port);
    let mut ids = Vec::new();
    for (position, label) in (1..).zip(["car", "bus", "van", "bus"]) {
        let delivery = delivery(position, event("gate", label, EventKind::Start));
        ids.push(delivery.stored.id().to_string());
        sender.offer(delivery).unwrap();
    }
    let mut settled = std::collections::BTreeMap::new();
    eventually("all are settled", || {
        settled.extend(sender.settled());
        settled.len() == ids.len()
    });
    let why = "the event is larger than the stream's max_msg_size".to_owned();
    assert_eq!(settled.remove(&2), Some(delivery::DeliveryOutcome::Dead { why }));
    assert!(settled.values().all(|outcome| *outcome == delivery::DeliveryOutcome::Delivered), "{settled:?}");
    ids.remove(1);
    assert_eq!(*taken.lock().unwrap(), ids);
    assert_eq!(sender.health(), Health::Up);
    tests::end(&sender, thread);
}

#[test]
fn a_server_that_is_there_is_told_before_there_is_an_event() {
    let (port, _taken) = server(|_, _| Does::Take);
    let (sender, thread) = running(port);
    eventually("it is up", || sender.health() == Health::Up);
    tests::end(&sender, thread);
}

#[test]
fn a_server_that_says_nothing_is_given_up_after_the_timeout_at_every_step() {
    // The first says nothing at all, the second nothing once it has said who it is, the third nothing once it has let the daemon in.
    let taken = Taken::default();
    let kept = Arc::clone(&taken);
    let port = tests::listen(move |connection, stream| match connection {
        0 => while (&*stream).read(&mut [0; 4096]).is_ok_and(|read| read > 0) {},
        1 => {
            let _ = write!(&*stream, "INFO {INFO}\r\n");
            while (&*stream).read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
        }
        2 => {
            let _ = write!(&*stream, "INFO {INFO}\r\nPONG\r\n");
            while (&*stream).read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
        }
        _ => serve(stream, &|_| Does::Take, &kept),
    });
    let (sender, thread) = patient(port, Duration::from_millis(500));
    sender.offer(delivery(1, event("gate", "car", EventKind::Start))).unwrap();
    eventually("it is delivered", || !taken.lock().unwrap().is_empty());
    tests::end(&sender, thread);
}

/// One connection of a server that says to each publish and each subscription what `answers` gives, for its first word and its subject, and closes
/// the connection after a publish.
fn strict(mut to: &TcpStream, answers: &dyn Fn(&str, &str) -> String) {
    let mut from = BufReader::new(to);
    let mut line = String::new();
    let _ = write!(to, "INFO {INFO}\r\n");
    while from.read_line(&mut line).is_ok_and(|read| read > 0) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["PING"] => drop(to.write_all(b"PONG\r\n")),
            ["SUB", subject, _] => drop(to.write_all(answers("SUB", subject).as_bytes())),
            ["HPUB", subject, .., total] => {
                let mut body = vec![0; total.parse::<usize>().unwrap() + 2];
                from.read_exact(&mut body).unwrap();
                let _ = to.write_all(answers("HPUB", subject).as_bytes());
                return;
            }
            _ => {}
        }
        line.clear();
    }
}

fn is_down(sender: &DeliverySender, why: &str) -> bool {
    sender.health() == Health::Down { why: why.into() }
}

#[test]
fn a_user_that_may_not_hear_acknowledgements_publishes_nothing_and_is_told_what_to_allow() {
    let (connections, published) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (connected, count) = (Arc::clone(&connections), Arc::clone(&published));
    let port = tests::listen(move |_, stream| {
        connected.fetch_add(1, Ordering::SeqCst);
        strict(stream, &|word, subject| {
            if word == "SUB" {
                return format!("-ERR 'Permissions Violation for Subscription to \"{subject}\"'\r\n");
            }
            count.fetch_add(1, Ordering::SeqCst);
            String::new()
        });
    });
    let (sender, thread) = running(port);
    sender.offer(delivery(1, event("gate", "car", EventKind::Start))).unwrap();
    let why = "Permissions Violation for Subscription to \"_INBOX.vtagd.*\": allow this user to publish \
               `vtagd.events.>` and to subscribe to `_INBOX.>`";
    eventually("it is told", || is_down(&sender, why));
    eventually("it has tried again", || connections.load(Ordering::SeqCst) > 5);
    assert!(is_down(&sender, why), "one reason is told once: {:?}", sender.health());
    assert_eq!(published.load(Ordering::SeqCst), 0);
    tests::end(&sender, thread);
}

#[test]
fn what_the_server_says_is_told_whether_or_not_it_closes_the_connection() {
    let denied = "Permissions Violation for Publish to \"vtagd.events.gate\": allow this user to publish \
                  `vtagd.events.>` and to subscribe to `_INBOX.>`";
    for (said, why) in [
        ("Permissions Violation for Publish to \"vtagd.events.gate\"", denied),
        ("User Authentication Expired", "the connection was lost: User Authentication Expired"),
    ] {
        let port = tests::listen(move |_, stream| {
            strict(stream, &|word, _| if word == "SUB" { String::new() } else { format!("-ERR '{said}'\r\n") });
        });
        let (sender, thread) = running(port);
        sender.offer(delivery(1, event("gate", "car", EventKind::Start))).unwrap();
        eventually(why, || is_down(&sender, why));
        tests::end(&sender, thread);
    }
}

#[test]
fn a_right_that_is_missing_is_kept_and_what_a_server_says_is_cut() {
    let events = ConnectionEvents::default();
    let hear = |text: &str| events.hear(Event::ServerError(ServerError::Other(text.to_owned())));
    hear(&"x".repeat(10_000));
    assert_eq!(events.error.lock().as_ref().map(String::len), Some(MAX_ERROR_CHARS));
    hear("permissions violation for publish to \"a\"");
    hear("Stale Connection");
    assert_eq!(events.error.lock().as_deref(), Some("permissions violation for publish to \"a\""));
}
