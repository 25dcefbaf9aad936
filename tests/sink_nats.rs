//! Events into a stream of JetStream (a real nats-server) that goes down and up, from a daemon that is killed: each once, in order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::{self, stream};
use common::daemon::{Daemon, eventually, stored};
use common::flood;
use serde_json::Value;

/// A server that keeps what it has taken in `folder`.
struct Server {
    program: PathBuf,
    port: u16,
    folder: PathBuf,
    more: Vec<&'static str>,
    child: Option<Child>,
}

impl Server {
    /// `None`, with a message, where there is no nats-server.
    fn start(folder: &Path, more: &[&'static str]) -> Option<Self> {
        let debian = Path::new("/usr/sbin/nats-server");
        let program = if debian.exists() { debian.to_owned() } else { "nats-server".into() };
        if Command::new(&program).arg("--version").output().is_err() {
            eprintln!("skipped: no nats-server here; Debian has it as nats-server");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { program, port, folder: folder.join("nats"), more: more.to_vec(), child: None };
        server.up();
        Some(server)
    }

    fn up(&mut self) {
        let child = Command::new(&self.program)
            .args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"])
            .arg(&self.folder)
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let port = self.port;
        eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Makes a stream that takes everything below `vtagd.events`.
fn make_stream(server: &Server) {
    block(async {
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let config =
            stream::Config { name: "VTAGD".into(), subjects: vec!["vtagd.events.>".into()], ..Default::default() };
        context.create_stream(config).await.unwrap();
    });
}

/// Every message of the stream, in order: subject and event.
fn messages(server: &Server) -> Vec<(String, Value)> {
    block(async {
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let stream = context.get_stream("VTAGD").await.unwrap();
        let count = stream.get_info().await.unwrap().state.messages;
        let mut messages = Vec::new();
        for sequence in 1..=count {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let kind = message.headers.get("Content-Type").map(ToString::to_string);
            assert_eq!(kind.as_deref(), Some("application/cloudevents+json"));
            messages.push((message.subject.to_string(), serde_json::from_slice(&message.payload).unwrap()));
        }
        messages
    })
}

fn sink(server: &Server) -> String {
    format!("  - {{ type: nats, name: fleet, url: \"{}\", timeout: 5s }}\n", server.url())
}

#[test]
fn every_stored_event_is_in_the_stream_once_and_in_order_though_server_and_daemon_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut server) = Server::start(folder.path(), &[]) else { return };
    make_stream(&server);
    let config = flood::config(folder.path(), &sink(&server), "");
    let mut daemon = Daemon::start(folder.path(), &config);
    for round in 0..6 {
        daemon.wait_for_log("fleet");
        let before = stored(folder.path()).len();
        eventually("more events", || (stored(folder.path()).len() >= before + 150).then_some(()));
        server.kill();
        let before = stored(folder.path()).len();
        eventually("events are made while the server is away", || {
            (stored(folder.path()).len() > before + 50).then_some(())
        });
        if round % 2 == 1 {
            daemon.signal(libc::SIGKILL);
            daemon.wait();
            daemon = Daemon::start(folder.path(), &config);
        }
        server.up();
    }
    daemon.wait_ready();
    daemon.stop();
    // What is left is delivered by a daemon that makes no more.
    let mut daemon = Daemon::start(folder.path(), &config.replace("loop: true", "enabled: false"));
    daemon.wait_ready();
    eventually("nothing waits", || daemon.get("/api/v1/sinks").1.contains("\"pending\":0,").then_some(()));
    assert!(daemon.stop().success());
    let (stored, arrived) = (stored(folder.path()), messages(&server));
    println!("{} stored, {} in the stream", stored.len(), arrived.len());
    assert!(arrived.iter().all(|(subject, _)| subject == "vtagd.events.a"));
    let arrived: Vec<Value> = arrived.into_iter().map(|(_, event)| event).collect();
    assert!(stored.len() > 1000);
    assert!(arrived == stored, "each once, in the order in which they were stored");
}

#[test]
fn a_server_without_a_stream_or_with_another_password_is_told_and_the_events_wait() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(folder.path(), &["--user", "vtagd", "--pass", "right"]) else { return };
    std::fs::write(folder.path().join("password"), "wrong").unwrap();
    let sink = sink(&server).replace("timeout", "username: vtagd, password: { file: password }, timeout");
    let config = flood::config(folder.path(), &sink, "");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_for_log("cannot deliver");
    assert!(daemon.log().contains("uthorization"), "{}", daemon.log());
    assert!(!daemon.log().contains("wrong"), "no credential is told: {}", daemon.log());
    daemon.stop();
    std::fs::write(folder.path().join("password"), "right").unwrap();
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_for_log("no stream of JetStream takes the subject");
    eventually("it is told, and the events wait", || {
        let told = daemon.get("/api/v1/sinks").1;
        (told.contains("\"state\":\"down\"") && !told.contains("\"pending\":0,")).then_some(())
    });
    assert!(daemon.stop().success(), "they wait in the outbox");
}
