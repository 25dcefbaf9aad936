//! Limits of the real daemon's API, over real sockets: peers that never read, never end a TLS handshake, guess the token, or are not on
//! loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::daemon::{DEADLINE, Daemon, eventually};

const TOKEN: &str = "marked-token-0123456789abcdef";
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const LABELS: &str = "GET /api/v1/labels HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A daemon with a camera that is away and nothing else to do; where its API listens.
fn start(folder: &Path, api: &str) -> (Daemon, SocketAddr) {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let config = format!(
        "model: {{ path: none }}\nstreams: [{{ id: away, url: \"rtsp://127.0.0.1:9/\" }}]\nsinks: [{{ type: jsonl, path: \"-\" }}]\n\
         outbox: {{ path: \":memory:\" }}\napi: {{ {api} }}\n"
    );
    let mut daemon = Daemon::start(folder, &config);
    let address = daemon.url().strip_prefix("http://").unwrap().parse().unwrap();
    (daemon, address)
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What is answered to `request` until the connection ends; nothing where it is closed at once.
fn say(to: SocketAddr, request: &str) -> String {
    let mut stream = connect(to);
    let mut answer = Vec::new();
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// The answers to `request`, said `times` times over one connection without waiting, each from its status on and without its date.
fn answers(to: SocketAddr, request: &str, times: usize) -> Vec<String> {
    let mut stream = connect(to);
    let mut reading = stream.try_clone().unwrap();
    let all = request.repeat(times);
    let writer = std::thread::spawn(move || {
        stream.write_all(all.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let mut answers = String::new();
    reading.read_to_string(&mut answers).unwrap();
    writer.join().unwrap();
    let undated =
        |answer: &str| answer.lines().filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\n");
    let answers: Vec<String> = answers.split("HTTP/1.1 ").skip(1).map(undated).collect();
    assert_eq!(answers.len(), times);
    answers
}

/// The statuses alone, and how long it took.
fn flood(to: SocketAddr, request: &str, times: usize) -> (Vec<String>, Duration) {
    let begun = Instant::now();
    let answers = answers(to, request, times);
    (answers.iter().map(|answer| answer[..3].to_owned()).collect(), begun.elapsed())
}

fn count(statuses: &[String], status: &str) -> usize {
    statuses.iter().filter(|s| *s == status).count()
}

/// A connection between whose two sides little fits, however much the system would like to keep.
fn narrow(to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mss: libc::c_int = 536;
    let size = libc::socklen_t::try_from(size_of_val(&mss)).unwrap();
    // SAFETY: plain system call on a socket that is open, with a number that lives longer.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, (&raw const mss).cast(), size)
    };
    assert_eq!(set, 0);
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn whoever_never_reads_is_cut_off_and_the_place_is_free_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut daemon, address) = start(folder.path(), "listen: 127.0.0.1:0");
    // All places of this machine. Each asks on and on, until its side is closed.
    let deaf: Vec<_> = (0..64).map(|_| narrow(address)).collect();
    let deaf: Vec<_> = deaf
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                let asks = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
                loop {
                    if let Err(error) = stream.write_all(asks.as_bytes()) {
                        return error.kind();
                    }
                }
            })
        })
        .collect();
    eventually("one more is refused", || say(address, LABELS).starts_with("HTTP/1.1 503").then_some(()));
    assert!(say(address, HEALTH).starts_with("HTTP/1.1 200"), "whether it lives is told all the same");
    for deaf in deaf {
        let ended = deaf.join().unwrap();
        assert!(matches!(ended, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "it is cut off: {ended}");
    }
    eventually("there is room again", || say(address, LABELS).starts_with("HTTP/1.1 200").then_some(()));
    assert!(daemon.stop().success());
}

#[test]
fn a_tls_handshake_that_never_ends_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    std::fs::write(folder.path().join("api.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("api.key"), made.signing_key.serialize_pem()).unwrap();
    let (mut daemon, address) = start(folder.path(), "listen: 127.0.0.1:0, tls: { cert: api.crt, key: api.key }");
    let mut silent = connect(address);
    // A handshake record of 16 KiB, of which a byte comes now and then.
    let mut dripping = connect(address);
    dripping.write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03").unwrap();
    let begun = Instant::now();
    while dripping.write_all(b"x").is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it goes on for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).expect("the connection ends");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(daemon.stop().success());
}

/// Tokens are guessed at, far beyond what anybody mistypes, and the right one is let in meanwhile and afterwards.
fn guess(listen: &str, hosts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (mut daemon, address) = start(folder.path(), &format!("listen: \"{listen}\", token: {{ file: token }}"));
    for host in hosts {
        let to = SocketAddr::new(host.parse().unwrap(), address.port());
        let right = format!(
            "GET /api/v1/labels HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        );
        for path in ["/api/v1/labels", "/readyz", "/metrics", "/nowhere"] {
            let wrong = "Authorization: Bearer marked-token-0123456789abcdee\r\n";
            let all: Vec<String> = ["", wrong, "Authorization: Bearer x\r\n"]
                .into_iter()
                .flat_map(|shown| answers(to, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{shown}\r\n"), 100))
                .collect();
            assert!(all[0].starts_with("401 Unauthorized"), "{}", all[0]);
            assert!(all.iter().all(|answer| *answer == all[0]), "the first and the last are the same: {path}");
            assert!(say(to, &right).starts_with("HTTP/1.1 200"), "{host} {path}");
        }
        assert!(say(to, HEALTH).starts_with("HTTP/1.1 200"), "whether it lives is told all the same");
    }
    assert!(daemon.log().contains("wrong tokens come faster than anybody mistypes them"), "{}", daemon.log());
    assert!(daemon.stop().success());
}

#[test]
fn wrong_tokens_lock_nobody_out_who_has_the_right_one_and_are_always_answered_alike() {
    guess("127.0.0.1:0", &["127.0.0.1"]);
}

#[test]
fn it_is_the_same_with_ipv6_and_ipv4_at_one_socket() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    guess("[::]:0", &["127.0.0.1", "::1"]);
}

#[test]
fn with_ipv6_too_a_health_check_is_answered_while_others_hold_every_connection() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut daemon, address) = start(folder.path(), "listen: \"[::]:0\", token: { file: token }");
    let [v4, v6] = ["127.0.0.1", "::1"].map(|host| SocketAddr::new(host.parse().unwrap(), address.port()));
    let held: Vec<TcpStream> = (0..80).map(|n| connect(if n % 2 == 0 { v4 } else { v6 })).collect();
    for to in [v4, v6] {
        eventually("others are refused", || say(to, LABELS).starts_with("HTTP/1.1 503").then_some(()));
        assert!(say(to, HEALTH).starts_with("HTTP/1.1 200"), "{to}");
        assert!(say(to, "GET /healthz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"), "{to}");
    }
    drop(held);
    assert!(daemon.stop().success());
}

#[test]
fn who_is_behind_a_trusted_proxy_stands_in_the_audit_and_after_a_reload_without_it_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let api = "listen: 127.0.0.1:0, token: { file: token }";
    let (mut daemon, address) =
        start(folder.path(), &format!("{api}, trusted_proxies: [10.0.0.0/8, \"::1\", 127.0.0.1]"));
    let pause = |client: &str, token: &str| {
        let request = format!(
            "POST /api/v1/streams/away/pause HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: 127.0.0.1, {client}, 10.1.1.1\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        say(address, &request)
    };
    assert!(pause("203.0.113.77", TOKEN).starts_with("HTTP/1.1 200"));
    assert!(pause("2001:db8::77", "wrong").starts_with("HTTP/1.1 401"));
    assert!(pause("203.0.113.oops", "wrong").starts_with("HTTP/1.1 401"));
    let lines = |daemon: &Daemon, peer: &str| {
        daemon.log().lines().filter(|line| line.contains(&format!("peer={peer}"))).count()
    };
    assert_eq!(
        [lines(&daemon, "203.0.113.77"), lines(&daemon, "2001:db8::77"), lines(&daemon, "127.0.0.1")],
        [1, 1, 1],
        "{}",
        daemon.log()
    );

    let config = std::fs::read_to_string(folder.path().join("vtagd.yaml")).unwrap();
    std::fs::write(folder.path().join("vtagd.yaml"), config.replace(", \"::1\", 127.0.0.1]", "]")).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the new configuration runs");
    assert!(pause("203.0.113.78", TOKEN).starts_with("HTTP/1.1 200"));
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("changed by the API") && line.contains("peer=127.0.0.1")), "{log}");
    assert!(daemon.stop().success());
}

/// An address of this machine that is not loopback. What is sent to it does not leave the machine.
fn elsewhere() -> Option<IpAddr> {
    // Nothing is sent by connecting a datagram socket: the system only says from where it would be.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let address = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr()).ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
#[ignore = "talks to an address of this machine that is not loopback; run by hand with --run-ignored all"]
fn whoever_is_not_on_loopback_has_fewer_places_a_rate_for_everything_and_nothing_without_the_token() {
    let Some(other) = elsewhere() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut daemon, address) = start(folder.path(), "listen: \"0.0.0.0:0\", token: { file: token }");
    let (here, there) =
        (SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())), SocketAddr::from((other, address.port())));
    let ask = |to: SocketAddr, path: &str, token: &str| {
        say(
            to,
            &format!("GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"),
        )
    };
    for path in ["/readyz", "/metrics", "/api/v1/streams"] {
        assert!(ask(there, path, "none").starts_with("HTTP/1.1 401"), "{path}");
    }
    assert!(ask(there, "/api/v1/streams", TOKEN).starts_with("HTTP/1.1 200"));

    let held: Vec<TcpStream> = (0..16).map(|_| connect(there)).collect();
    eventually("a seventeenth is not served", || {
        ask(there, "/api/v1/streams", TOKEN).starts_with("HTTP/1.1 503").then_some(())
    });
    assert!(say(there, HEALTH).starts_with("HTTP/1.1 200"), "but told whether it lives");
    assert!(say(here, HEALTH).starts_with("HTTP/1.1 200"), "loopback has places of its own");
    drop(held);
    eventually("there is room again", || {
        ask(there, "/api/v1/streams", TOKEN).starts_with("HTTP/1.1 200").then_some(())
    });

    // Far more than anybody may: even a slow machine takes them faster than they are allowed.
    let (statuses, took) = flood(there, "HEAD /healthz HTTP/1.1\r\nHost: edge\r\n\r\n", 12_000);
    let served = count(&statuses, "200");
    assert_eq!(served + count(&statuses, "429"), statuses.len());
    assert!(served as f64 <= 201.0 + 50.0 * took.as_secs_f64(), "{served} in {took:?}");
    assert!(served < statuses.len());
    assert!(ask(here, "/api/v1/streams", TOKEN).starts_with("HTTP/1.1 200"), "loopback has a rate of its own");
    assert!(daemon.stop().success());
}
