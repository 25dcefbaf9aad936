//! One librdkafka producer at a time. The only file that knows `rdkafka`.
//!
//! In: deliveries. Out: records, acknowledged by all replicas in sync (`acks=all`), numbered by the producer (idempotence), so that what
//! librdkafka sends again by itself is stored once and in order. It sends again without end; when it has to give one up, it stops
//! altogether (`enable.gapless.guarantee`), so nothing overtakes what failed. Then, and when no broker has acknowledged anything for
//! `timeout`, this run ends; the next one has a new producer and sends everything that was not acknowledged again, in order.
//!
//! Runs on the sink's thread; reports come from a thread of `rdkafka`. Asking for metadata and taking a producer down block, on the
//! runtime's pool. Full: [`IN_FLIGHT`] records without a report; then nothing more is taken. Closed: [`DRAIN_TIMEOUT`] for reports.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::{KafkaSettings, Mechanism};
use crate::outbox::delivery::{Delivery, DeliveryReceiver};
use crate::platform::tls;
use crate::sink::in_flight::{DRAIN_TIMEOUT, OrderingGate};
use crate::sink::{Running, Sink, SinkError};

/// Records without a report; a few batches for each of several partitions.
const IN_FLIGHT: usize = 512;

/// What librdkafka says of connections and waits to be looked at; more is forgotten.
const TOLD: usize = 64;

/// For a producer to take itself down; with [`DRAIN_TIMEOUT`] a little less than the runner's patience.
const FAREWELL: Duration = Duration::from_millis(400);

/// A request for metadata cannot be called off: it is made in pieces.
const PIECE: Duration = Duration::from_secs(2);

/// Longest answer of a broker: librdkafka makes room for it as soon as its length is announced, 100 MB if nothing is said. The longest that a
/// producer gets names all brokers and all partitions of one topic, some forty bytes each.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// What became of a record: its position, and why not.
type Report = (u64, Option<Code>);

/// Called by threads of librdkafka.
struct Reports {
    reports: mpsc::Sender<Report>,
    told: mpsc::Sender<(Code, String)>,
}

impl ClientContext for Reports {
    /// Our own log says what matters, once.
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::trace!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let _ = self.told.try_send((error.rdkafka_error_code().unwrap_or(Code::Fail), reason.to_owned()));
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, position: usize) {
        let refused = result.as_ref().err().map(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::Fail));
        // There is room: each record has one report, and no more are sent than fit.
        let _ = self.reports.try_send((position as u64, refused));
    }
}

/// See the module.
pub struct Kafka {
    settings: KafkaSettings,
    /// A batch with an event that the broker does not take is refused as a whole: up to this position they go one by one, to find it.
    singly: u64,
}

impl Kafka {
    pub fn new(settings: KafkaSettings) -> Self {
        Self { settings, singly: 0 }
    }

    async fn work(&mut self, receiver: &mut DeliveryReceiver) -> Result<(), SinkError> {
        let mut session = Session::open(&self.settings)?;
        let closed = receiver.closed();
        let ended = tokio::select! {
            greeted = session.greet() => match greeted {
                Ok(()) => {
                    // What waits for an acknowledgement tells with it: a topic that takes nothing would be up and down without end.
                    if receiver.held() == 0 {
                        receiver.up();
                    }
                    session.serve(receiver, &mut self.singly).await
                }
                Err(fault) => Err(fault),
            },
            () = closed => Ok(()),
        };
        // Nothing more goes out, from here on.
        let producer = session.producer;
        producer.purge(PurgeConfig::default().queue());
        // Its threads should not outlive the daemon; one that still waits for an answer has to.
        let _ = timeout(FAREWELL, tokio::task::spawn_blocking(move || drop(producer))).await;
        ended
    }
}

impl Sink for Kafka {
    fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a> {
        Box::pin(self.work(receiver))
    }
}

/// One producer.
struct Session<'a> {
    settings: &'a KafkaSettings,
    producer: Arc<ThreadedProducer<Reports>>,
    reports: mpsc::Receiver<Report>,
    told: mpsc::Receiver<(Code, String)>,
    /// What was last said of a connection.
    reason: Option<String>,
    /// Why the producer has stopped, while reports are still to come.
    fatal: Option<String>,
    /// Sent, not reported. Reports are taken in the order in which they are made, not in that of sending: several partitions do not wait for
    /// one another, and the first record that is refused says why, while all others fail because the producer has stopped.
    in_flight: BTreeSet<u64>,
    /// When a broker last acknowledged anything, or when there began to be something to acknowledge.
    heard: Instant,
}

impl<'a> Session<'a> {
    /// Connects in the background.
    fn open(settings: &'a KafkaSettings) -> Result<Self, SinkError> {
        // Before librdkafka does it: OpenSSL is not to clear up when the process ends, as a thread that waits for a broker may still use it.
        openssl_sys::init();
        if let Some(trust) = &settings.tls {
            // librdkafka's words for a file that cannot be used do not name it.
            tls::client(trust).map_err(SinkError::retry)?;
        }
        let ((reports, reported), (tell, told)) = (mpsc::channel(IN_FLIGHT), mpsc::channel(TOLD));
        let context = Reports { reports, told: tell };
        let producer = ThreadedProducer::from_config_and_context(&configuration(settings), context);
        let producer = producer.map_err(|error| SinkError::retry(scrubbed(settings, &error.to_string())))?;
        Ok(Self {
            settings,
            producer: Arc::new(producer),
            reports: reported,
            told,
            reason: None,
            fatal: None,
            in_flight: BTreeSet::new(),
            heard: Instant::now(),
        })
    }

    /// A broker is there, and has the topic.
    async fn greet(&mut self) -> Result<(), SinkError> {
        let (producer, topic) = (Arc::clone(&self.producer), self.settings.topic.clone());
        let deadline = Instant::now() + self.settings.timeout;
        let given_up = GivenUp::default();
        let flag = Arc::clone(&given_up.0);
        let mut asked = tokio::task::spawn_blocking(move || ask(&producer, &topic, deadline, &flag));
        loop {
            tokio::select! {
                answered = &mut asked => return match answered {
                    Ok(Ok(None)) => Ok(()),
                    Ok(Ok(Some(code))) => Err(SinkError::retry(explained(code, &self.settings.topic))),
                    Ok(Err(_)) => {
                        let nobody = || format!("no broker has answered for {:?}", self.settings.timeout);
                        Err(SinkError::retry(self.reason.take().unwrap_or_else(nobody)))
                    }
                    Err(_) => Err(SinkError::retry("asking for the topic panicked; please report this")),
                },
                Some((code, reason)) = self.told.recv() => self.hear(code, &reason, true)?,
            }
        }
    }

    async fn serve(&mut self, receiver: &mut DeliveryReceiver, singly: &mut u64) -> Result<(), SinkError> {
        // Nothing is held back for its key: the producer itself keeps the order.
        let mut gate = OrderingGate::default();
        loop {
            let room = match self.in_flight.first() {
                // It would take nothing.
                _ if self.fatal.is_some() => 0,
                Some(first) if *first <= *singly => 1,
                _ => IN_FLIGHT,
            };
            let late = self.heard + self.settings.timeout;
            tokio::select! {
                taken = gate.take(receiver, self.in_flight.len() < room) => match taken {
                    Some(delivery) => self.send(&delivery, receiver)?,
                    None => break,
                },
                Some(report) = self.reports.recv() => self.settle(report, receiver, singly)?,
                Some((code, reason)) = self.told.recv() => self.hear(code, &reason, !self.in_flight.is_empty())?,
                () = sleep_until(late), if !self.in_flight.is_empty() => {
                    let timeout = self.settings.timeout;
                    let why = self.fatal.take().or_else(|| self.reason.take());
                    let why = why.map_or_else(String::new, |reason| format!(": {reason}"));
                    return Err(SinkError::retry(format!("no broker has acknowledged anything for {timeout:?}{why}")));
                }
            }
        }
        let rest = async {
            while !self.in_flight.is_empty()
                && let Some((position, refused)) = self.reports.recv().await
            {
                self.in_flight.remove(&position);
                if refused.is_none() {
                    receiver.delivered(position);
                }
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, rest).await;
        Ok(())
    }

    fn send(&mut self, delivery: &Delivery, receiver: &mut DeliveryReceiver) -> Result<(), SinkError> {
        let (stored, position) = (&delivery.stored, delivery.position);
        let (stream, label) = stored.ordering_key();
        let (id, key) = (stored.id().to_string(), format!("{stream}/{label}"));
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(header("content-type", "application/cloudevents+json; charset=UTF-8"))
            .insert(header("ce_id", &id));
        let opaque = usize::try_from(position).map_err(SinkError::retry)?;
        let record = BaseRecord::with_opaque_to(&self.settings.topic, opaque);
        let sent = self.producer.send(record.key(&key).payload(stored.body.as_bytes()).headers(headers));
        match sent.map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::Fail)) {
            Ok(()) => {
                if self.in_flight.is_empty() {
                    self.heard = Instant::now();
                }
                self.in_flight.insert(position);
            }
            // The producer has stopped; the report of what stopped it is on its way and says why. This one comes again with the next.
            Err(Code::Fatal) if !self.in_flight.is_empty() => {}
            Err(Code::MessageSizeTooLarge) => {
                receiver.dead(position, "the event is larger than a record may be (1 MB)")
            }
            Err(code) => {
                let why = explained(code, &self.settings.topic);
                receiver.failed(position, &why);
                return Err(SinkError::retry(why));
            }
        }
        Ok(())
    }

    fn settle(
        &mut self,
        (position, refused): Report,
        receiver: &mut DeliveryReceiver,
        singly: &mut u64,
    ) -> Result<(), SinkError> {
        let alone = self.in_flight.len() == 1;
        let last = self.in_flight.last().copied().unwrap_or(position);
        self.in_flight.remove(&position);
        self.heard = Instant::now();
        let Some(code) = refused else {
            self.reason = None;
            receiver.up();
            receiver.delivered(position);
            let ended = self.fatal.take_if(|_| self.in_flight.is_empty());
            return ended.map_or(Ok(()), |why| Err(SinkError::retry(why)));
        };
        let why = explained(code, &self.settings.topic);
        match code {
            Code::MessageSizeTooLarge if alone => receiver.dead(position, &why),
            Code::MessageSizeTooLarge => *singly = last,
            _ => drop(receiver.failed(position, &why)),
        }
        // What comes after it was not taken either: the producer has stopped.
        Err(SinkError::retry(why))
    }

    /// Something about connections. Idle ones may be closed by the other side, which is no fault; `waiting` is when it is.
    fn hear(&mut self, code: Code, reason: &str, waiting: bool) -> Result<(), SinkError> {
        let reason = scrubbed(self.settings, reason);
        match code {
            Code::AllBrokersDown if waiting => {
                Err(SinkError::retry(self.reason.take().unwrap_or_else(|| "no broker can be reached".to_owned())))
            }
            Code::AllBrokersDown => Ok(()),
            // It comes before the reports of the batch that it is about, and only those say which event it is.
            Code::Fatal if !self.in_flight.is_empty() => {
                self.fatal = Some(reason);
                Ok(())
            }
            Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL | Code::Fatal => {
                Err(SinkError::retry(reason))
            }
            _ => {
                self.reason = Some(reason);
                Ok(())
            }
        }
    }
}

/// Set when nobody waits for the answer any more.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for `topic` until there is an answer; gives what is wrong with the topic, if anything is.
fn ask(
    producer: &ThreadedProducer<Reports>,
    topic: &str,
    deadline: Instant,
    given_up: &AtomicBool,
) -> Result<Option<Code>, KafkaError> {
    loop {
        let answered = producer.client().fetch_metadata(Some(topic), PIECE);
        match answered {
            Ok(metadata) => {
                let code = metadata.topics().first().and_then(|topic| topic.error()).map(Code::from);
                // Without a leader yet: it has just been made, or one is being elected.
                return Ok(code.filter(|code| !matches!(code, Code::LeaderNotAvailable | Code::NoError)));
            }
            Err(error) if given_up.load(Ordering::Relaxed) || Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
}

fn configuration(settings: &KafkaSettings) -> ClientConfig {
    let milliseconds = settings.timeout.as_millis().to_string();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", settings.brokers.join(","))
        .set("client.id", &settings.client_id)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("enable.gapless.guarantee", "true")
        // We decide when it has lasted too long; a record that is given up alone could be overtaken.
        .set("message.timeout.ms", "0")
        .set("request.timeout.ms", &milliseconds)
        .set("socket.timeout.ms", &milliseconds)
        .set("socket.connection.setup.timeout.ms", &milliseconds)
        .set("receive.message.max.bytes", MAX_ANSWER_BYTES.to_string())
        // What Java's producers do, so that others who write the same keys reach the same partitions.
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", (2 * IN_FLIGHT).to_string())
        .set("queue.buffering.max.kbytes", "65536");
    let mut protocol = if settings.sasl.is_some() { "sasl_" } else { "" }.to_owned();
    protocol += if settings.tls.is_some() { "ssl" } else { "plaintext" };
    config.set("security.protocol", protocol);
    if let Some(trust) = &settings.tls {
        if let Some(ca) = &trust.ca {
            config.set("ssl.ca.location", ca.to_string_lossy());
        } else if ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().all(|name| std::env::var_os(name).is_none()) {
            // OpenSSL knows the folders of the system it was built for, which need not be this one.
            config.set("ssl.ca.location", "probe");
        }
        if let Some((certificate, key)) = &trust.identity {
            config.set("ssl.certificate.location", certificate.to_string_lossy());
            config.set("ssl.key.location", key.to_string_lossy());
        }
    }
    if let Some(sasl) = &settings.sasl {
        let mechanism = match sasl.mechanism {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        config.set("sasl.mechanism", mechanism).set("sasl.username", &sasl.username);
        config.set("sasl.password", sasl.password.expose());
    }
    config
}

/// What librdkafka says, without the password, and with our names for what a person may change.
fn scrubbed(settings: &KafkaSettings, text: &str) -> String {
    let text = settings.sasl.as_ref().map_or_else(|| text.to_owned(), |sasl| sasl.password.scrub(text));
    let text = text.replace("ssl.ca.location", "`ca`");
    if text.contains("certificate verify failed") && !text.contains("`ca`") {
        format!("{text}; name the authority's PEM file with `ca`")
    } else if text.contains("SSL alert number") && text.contains("certificate") {
        format!("{text}; check `cert` and `key`")
    } else {
        text
    }
}

fn explained(code: Code, topic: &str) -> String {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            format!("the cluster has no topic {topic}; make it: kafka-topics.sh --create --topic {topic}")
        }
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            format!(
                "the cluster does not let us write to topic {topic}: grant WRITE on it (before Kafka 3.0 also IDEMPOTENT_WRITE)"
            )
        }
        Code::MessageSizeTooLarge => "the event is larger than the topic's max.message.bytes".to_owned(),
        // The second is said of those that were sent along.
        Code::InvalidRecord | Code::InvalidDifferentRecord => {
            format!(
                "the cluster finds the event invalid: topic {topic} has schema validation, it seems, and vtagd \
                 registers no schema; switch it off for this topic (confluent.value.schema.validation=false)"
            )
        }
        code => code.to_string(),
    }
}

#[cfg(test)]
mod tests;
