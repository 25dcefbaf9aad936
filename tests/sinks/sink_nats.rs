//! Events into a stream of JetStream (a real nats-server) that goes down and up, from a daemon that is killed: each once, in order.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::arrived::drain;
use crate::common::daemon::{Daemon, eventually, stored};
use crate::common::flood;
use async_nats::jetstream::{self, stream};
use serde_json::Value;

/// A server that keeps what it has taken in `folder`.
struct Server {
    program: PathBuf,
    port: u16,
    folder: PathBuf,
    more: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `None`, with a message, where there is no nats-server.
    fn start(folder: &Path, more: &[&str]) -> Option<Self> {
        let debian = Path::new("/usr/sbin/nats-server");
        let program = if debian.exists() { debian.to_owned() } else { "nats-server".into() };
        if Command::new(&program).arg("--version").output().is_err() {
            eprintln!("skipped: no nats-server here; Debian has it as nats-server");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self {
            program,
            port,
            folder: folder.join("nats"),
            more: more.iter().map(ToString::to_string).collect(),
            child: None,
        };
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
async fn make_stream_as(options: async_nats::ConnectOptions, server: &Server) {
    let context = jetstream::new(options.connect(server.url()).await.unwrap());
    let config = stream::Config { name: "VTAGD".into(), subjects: vec!["vtagd.events.>".into()], ..Default::default() };
    context.create_stream(config).await.unwrap();
}

/// Every message of the stream, in order: subject and event.
fn messages(server: &Server) -> Vec<(String, Value)> {
    messages_as(async_nats::ConnectOptions::new(), server)
}

fn messages_as(options: async_nats::ConnectOptions, server: &Server) -> Vec<(String, Value)> {
    block(async {
        let context = jetstream::new(options.connect(server.url()).await.unwrap());
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
    block(make_stream_as(async_nats::ConnectOptions::new(), &server));
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
    daemon.stop_cleanly();
    drain(folder.path(), &config);
    let (stored, arrived) = (stored(folder.path()), messages(&server));
    println!("{} stored, {} in the stream", stored.len(), arrived.len());
    assert!(arrived.iter().all(|(subject, _)| subject == "vtagd.events.a"));
    let arrived: Vec<Value> = arrived.into_iter().map(|(_, event)| event).collect();
    assert!(stored.len() > 1000);
    assert!(arrived == stored, "each once, in the order in which they were stored");
}

/// Starts the daemon with `login` and waits until its events have begun to arrive; gives the log.
fn delivers(folder: &Path, server: &Server, login: &str) -> String {
    let sink = sink(server).replace("timeout", &format!("{login}, timeout"));
    let mut daemon = Daemon::start(folder, &flood::config(folder, &sink, ""));
    eventually("events have been delivered", || {
        let metrics = daemon.get("/metrics").1;
        let delivered = metrics.lines().find(|line| line.starts_with("vtagd_events_delivered_total"));
        delivered.filter(|line| !line.ends_with(" 0")).map(drop)
    });
    daemon.stop_cleanly();
    daemon.log()
}

#[test]
fn a_user_is_known_by_its_key_and_the_seed_is_told_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (right, other) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    for (name, pair) in [("right.nk", &right), ("other.nk", &other)] {
        std::fs::write(folder.path().join(name), format!("{}\n", pair.seed().unwrap())).unwrap();
    }
    let config = folder.path().join("nats.conf");
    std::fs::write(&config, format!("authorization {{ users: [{{ nkey: {} }}] }}\n", right.public_key())).unwrap();
    let Some(server) = Server::start(folder.path(), &["-c", config.to_str().unwrap()]) else { return };
    let seed = right.seed().unwrap();
    block(make_stream_as(async_nats::ConnectOptions::with_nkey(seed.clone()), &server));
    let sink = sink(&server).replace("timeout", "nkey: { file: other.nk }, timeout");
    let mut daemon = Daemon::start(folder.path(), &flood::config(folder.path(), &sink, ""));
    daemon.wait_for_log("cannot deliver");
    assert!(daemon.log().contains("uthorization"), "{}", daemon.log());
    assert!(!daemon.log().contains(&other.seed().unwrap()));
    daemon.stop_cleanly();
    let log = delivers(folder.path(), &server, "nkey: { file: right.nk }");
    assert!(!log.contains(&seed));
}

/// A JWT as NATS has them, signed by `issuer`.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, kind: &str, mut claims: Value) -> String {
    use base64::Engine as _;
    let part = |value: &Value| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    claims["type"] = kind.into();
    claims["version"] = 2.into();
    let now = jiff::Timestamp::now().as_second();
    let (iss, sub) = (issuer.public_key(), subject.public_key());
    let body = serde_json::json!({
        "jti": uuid::Uuid::new_v4().simple().to_string(), "iat": now, "iss": iss, "name": kind, "sub": sub, "nats": claims
    });
    let text = format!("{}.{}", part(&serde_json::json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&body));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_credentials_file_logs_in_to_a_server_that_knows_only_its_operator() {
    let folder = tempfile::tempdir().unwrap();
    let (operator, system) = (nkeys::KeyPair::new_operator(), nkeys::KeyPair::new_account());
    let (accounting, user) = (nkeys::KeyPair::new_account(), nkeys::KeyPair::new_user());
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1
    });
    let of_account = jwt(&operator, &accounting, "account", serde_json::json!({ "limits": limits }));
    let mut plain = limits.clone();
    ["mem_storage", "disk_storage"].iter().for_each(|key| plain[*key] = 0.into());
    let of_system = jwt(&operator, &system, "account", serde_json::json!({ "limits": plain }));
    let of_operator =
        jwt(&operator, &operator, "operator", serde_json::json!({ "system_account": system.public_key() }));
    let of_user = jwt(&accounting, &user, "user", serde_json::json!({ "subs": -1, "data": -1, "payload": -1 }));
    let config = folder.path().join("nats.conf");
    let text = format!(
        "operator: {of_operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account}, {}: {of_system} }}\n",
        system.public_key(),
        accounting.public_key(),
        system.public_key()
    );
    std::fs::write(&config, text).unwrap();
    let seed = user.seed().unwrap();
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(folder.path().join("vtagd.creds"), &creds).unwrap();
    let Some(server) = Server::start(folder.path(), &["-c", config.to_str().unwrap()]) else { return };
    block(make_stream_as(async_nats::ConnectOptions::with_credentials(&creds).unwrap(), &server));
    let log = delivers(folder.path(), &server, "creds: { file: vtagd.creds }");
    assert!(!log.contains(&seed) && !log.contains(&of_user));
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
    daemon.stop_cleanly();
    std::fs::write(folder.path().join("password"), "right").unwrap();
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_for_log("no stream of JetStream takes the subject");
    eventually("it is told, and the events wait", || {
        let told = daemon.get("/api/v1/sinks").1;
        (told.contains("\"state\":\"down\"") && !told.contains("\"pending\":0,")).then_some(())
    });
    daemon.stop_cleanly();
}

/// A server with the stream, a user `admin` who may do everything, and a user `box` who has these rights.
fn server_with_rights(folder: &Path, rights: &str) -> Option<Server> {
    let config = folder.join("nats.conf");
    let admin = "{ user: admin, password: admin-password }";
    let limited = format!("{{ user: box, password: box-password, permissions: {{ {rights} }} }}");
    std::fs::write(&config, format!("authorization {{ users: [ {admin}, {limited} ] }}\n")).unwrap();
    std::fs::write(folder.join("password"), "box-password").unwrap();
    let server = Server::start(folder, &["-c", config.to_str().unwrap()])?;
    block(make_stream_as(admin_login(), &server));
    Some(server)
}

fn admin_login() -> async_nats::ConnectOptions {
    async_nats::ConnectOptions::with_user_and_password("admin".to_owned(), "admin-password".to_owned())
}

/// The sink as `box`.
fn limited_sink(server: &Server) -> String {
    sink(server).replace("timeout", "username: box, password: { file: password }, timeout")
}

#[test]
fn a_user_that_may_not_hear_acknowledgements_publishes_nothing_until_its_inbox_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let rights = "publish: \"vtagd.events.>\", subscribe: \"_INBOX_box.>\"";
    let Some(server) = server_with_rights(folder.path(), rights) else { return };
    let sink = limited_sink(&server);
    let mut daemon = Daemon::start(folder.path(), &flood::config(folder.path(), &sink, ""));
    daemon.wait_for_log("Permissions Violation for Subscription to");
    assert!(daemon.log().contains("publish `vtagd.events.>` and to subscribe to `_INBOX.>`"), "{}", daemon.log());
    eventually("events wait", || (stored(folder.path()).len() > 100).then_some(()));
    daemon.stop_cleanly();
    assert!(messages_as(admin_login(), &server).is_empty(), "what nobody would hear of is not stored");
    let config = flood::config(folder.path(), &sink.replace("timeout", "inbox_prefix: _INBOX_box, timeout"), "");
    drain(folder.path(), &config);
    let arrived: Vec<Value> = messages_as(admin_login(), &server).into_iter().map(|(_, event)| event).collect();
    assert!(arrived == stored(folder.path()), "each once, in the order in which they were stored");
}

#[test]
fn a_user_that_may_not_publish_is_told_so_and_the_events_wait() {
    let folder = tempfile::tempdir().unwrap();
    let rights = "publish: \"other.>\", subscribe: \"_INBOX.>\"";
    let Some(server) = server_with_rights(folder.path(), rights) else { return };
    let mut daemon = Daemon::start(folder.path(), &flood::config(folder.path(), &limited_sink(&server), ""));
    daemon.wait_for_log("Permissions Violation for Publish to");
    assert!(daemon.log().contains("allow this user to publish `vtagd.events.>`"), "{}", daemon.log());
    eventually("it is down, and the events wait", || {
        let told = daemon.get("/api/v1/sinks").1;
        (told.contains("\"state\":\"down\"") && !told.contains("\"pending\":0,")).then_some(())
    });
    assert!(!daemon.log().contains("box-password"), "no credential is told: {}", daemon.log());
    daemon.stop_cleanly();
}
