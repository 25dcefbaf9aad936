//! A real MQTT broker (mosquitto) that goes down and up, and a consumer that never forgets.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc_v4::{AsyncClient, Event, MqttOptions, Packet, QoS};

use super::daemon::eventually;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where Debian puts it, or the path.
fn program() -> PathBuf {
    let debian = Path::new("/usr/sbin/mosquitto");
    if debian.exists() { debian.to_owned() } else { "mosquitto".into() }
}

/// See the module. What it has taken outlives a [`stop`](Self::stop).
pub struct Broker {
    pub port: u16,
    config: PathBuf,
    child: Option<Child>,
}

impl Broker {
    /// Anybody may connect.
    pub fn start(folder: &Path) -> Self {
        Self::configured(folder, "allow_anonymous true\n")
    }

    /// With more lines for its configuration.
    pub fn configured(folder: &Path, more: &str) -> Self {
        let folder = folder.join("broker");
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let mut text = format!("listener {port} 127.0.0.1\n{more}");
        // As root it would become the user mosquitto, who may not write here.
        // SAFETY: plain system call.
        if unsafe { libc::geteuid() } == 0 {
            text.push_str("user root\n");
        }
        writeln!(text, "persistence true\npersistence_location {}/\nmax_queued_messages 0", folder.display()).unwrap();
        writeln!(text, "max_inflight_messages 0\nlog_dest file {}/log", folder.display()).unwrap();
        let config = folder.join("mosquitto.conf");
        std::fs::write(&config, text).unwrap();
        let mut broker = Self { port, config, child: None };
        broker.up();
        broker
    }

    /// Starts it, or starts it again.
    pub fn up(&mut self) {
        let child = Command::new(program())
            .arg("-c")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run `make setup` first: it installs mosquitto");
        self.child = Some(child);
        let port = self.port;
        eventually("the broker listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// It stands still: connections stay, and nothing is answered. There is no way back.
    pub fn freeze(&mut self) {
        if let Some(child) = &self.child {
            // SAFETY: plain system call on a process we started and have not waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) };
        }
    }

    /// It goes down, keeping what it has taken.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SAFETY: plain system call on a process we started and have not waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            child.wait().unwrap();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Everything that lies retained under `filters`, by topic.
pub fn retained(port: u16, filters: &[&str]) -> std::collections::BTreeMap<String, String> {
    let mark = format!("test/mark/{}", uuid::Uuid::new_v4().simple());
    let consumer = Consumer::start(port, &[filters, &["test/#"]].concat());
    // What lies there was sent before this is.
    consumer.publish(&mark, "");
    eventually("the mark", || consumer.last(&mark));
    consumer.got().into_iter().filter(|got| got.retained).map(|got| (got.topic.clone(), got.text())).collect()
}

/// A message as the consumer got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub topic: String,
    pub payload: Vec<u8>,
    /// It lay there when the consumer came.
    pub retained: bool,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|e| panic!("{}: {e}: {}", self.topic, self.text()))
    }
}

/// Subscribed with a session that outlives every connection, so that it misses nothing the broker has taken.
pub struct Consumer {
    got: Arc<Mutex<Vec<Got>>>,
    client: AsyncClient,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Consumer {
    pub fn start(port: u16, filters: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut options = MqttOptions::new(format!("consumer{}", uuid::Uuid::new_v4().simple()), ("127.0.0.1", port));
        options.set_keep_alive(5).set_clean_session(false).set_max_packet_size(16 << 20, 1 << 20);
        let got = Arc::new(Mutex::new(Vec::new()));
        let (kept, filters) = (Arc::clone(&got), filters.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
        let subscribed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (counter, count) = (Arc::clone(&subscribed), filters.len());
        let client = runtime.block_on(async move {
            let (client, mut eventloop) = AsyncClient::builder(options).capacity(64).build();
            let theirs = client.clone();
            tokio::spawn(async move {
                let mut first = true;
                loop {
                    match eventloop.poll().await {
                        Ok(Event::Incoming(Packet::ConnAck(_))) if first => {
                            first = false;
                            for filter in &filters {
                                theirs.try_subscribe(filter.as_str(), QoS::AtLeastOnce).unwrap();
                            }
                        }
                        Ok(Event::Incoming(Packet::SubAck(_))) => {
                            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        }
                        Ok(Event::Incoming(Packet::Publish(publish))) => kept.lock().unwrap().push(Got {
                            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                            payload: publish.payload.to_vec(),
                            retained: publish.retain,
                        }),
                        Ok(_) => {}
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            });
            client
        });
        eventually("the consumer has subscribed", || {
            (subscribed.load(std::sync::atomic::Ordering::SeqCst) >= count).then_some(())
        });
        Self { got, client, runtime: Some(runtime) }
    }

    /// Everything so far, in the order in which it came.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    pub fn forget(&self) {
        self.got.lock().unwrap().clear();
    }

    /// The last message on `topic`.
    pub fn last(&self, topic: &str) -> Option<Got> {
        self.got.lock().unwrap().iter().rfind(|got| got.topic == topic).cloned()
    }

    /// Waits until the last message on `topic` is `text`.
    pub fn wait_for(&self, topic: &str, text: &str) {
        eventually(&format!("{topic} is {text:?}"), || {
            self.last(topic).filter(|got| got.payload == text.as_bytes()).map(drop)
        });
    }

    pub fn publish(&self, topic: &str, payload: &str) {
        let options = rumqttc_v4::PublishOptions::at_least_once();
        self.client.try_publish(topic, payload, options).unwrap();
    }

    /// Publishes what the broker keeps.
    pub fn retain(&self, topic: &str, payload: &str) {
        let options = rumqttc_v4::PublishOptions::at_least_once().retain(true);
        self.client.try_publish(topic, payload, options).unwrap();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
