//! Marked credentials everywhere the daemon and its commands take one, on good ways and bad ones, with everything logged that can be:
//! none of them turns up in any spelling in what is written, answered, stored or handed to a process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::broker::Broker;
use crate::common::camera::{Auth, Camera, Codec, Content, free_port};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use crate::common::hook::{Hook, Reply};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

const USER: &str = "viewer";

/// A credential with a letter of every kind that is written differently somewhere. What stands between the first and the last
/// of them is in no other text, so that it is found in every spelling that keeps letters.
fn mark(what: &str) -> String {
    format!("p:@/ %\"\\Zq7{what}Xk9 ä+=")
}

/// One that may stand in a header or a query.
fn plain_mark(what: &str) -> String {
    format!("Zq7{what}Xk9-0123456789-0123456789")
}

/// A signing secret of Standard Webhooks.
fn signing_mark(what: &str) -> String {
    format!("whsec_{}", BASE64_STANDARD.encode(format!("Zq7{what}Xk9-{:_<24}", "")))
}

/// Where a credential was found, and how it was spelt.
fn leaks(place: &str, bytes: &[u8], marks: &[String]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let folded = text.to_lowercase();
    let mut found = Vec::new();
    for mark in marks {
        let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let core = mark.find("Zq7").map_or(mark.as_str(), |start| {
            let end = mark.find("Xk9").expect("a mark has both ends");
            &mark[start..end + 3]
        });
        let pair = format!("{USER}:{mark}");
        let spellings = [
            ("letters", core.to_owned()),
            ("base64", BASE64_STANDARD.encode(mark)),
            ("base64 without padding", BASE64_URL_SAFE_NO_PAD.encode(mark)),
            ("base64 with the user", BASE64_STANDARD.encode(&pair)),
            ("bytes", list(core.as_bytes())),
            ("bytes without spaces", list(core.as_bytes()).replace(' ', "")),
            ("hexadecimal", hex(core.as_bytes())),
        ];
        for (how, spelling) in spellings {
            if let Some(at) = text.find(&spelling).or_else(|| folded.find(&spelling.to_lowercase())) {
                let around = text.get(at.saturating_sub(160)..(at + 160).min(text.len())).unwrap_or("(not shown)");
                found.push(format!("{place}: {core} as {how}: …{around}…"));
            }
        }
    }
    found
}

/// Every file below `folder`, but those that the test itself put there with credentials in them.
fn files(folder: &Path, own: &[PathBuf]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if own.contains(&entry) {
            continue;
        }
        if entry.is_dir() {
            all.extend(files(&entry, own));
        } else {
            all.push(entry);
        }
    }
    all
}

const SCANNER: &str = "environment of GStreamer's own child";

/// What others can see of a process and of everything that it starts: command lines of all, environments of what it starts.
struct Watch {
    seen: Arc<Mutex<BTreeMap<String, BTreeSet<Vec<u8>>>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let seen: Arc<Mutex<BTreeMap<String, BTreeSet<Vec<u8>>>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let note = |pid: u32, what: &str, key: &str| {
                if let Ok(bytes) = fs::read(format!("/proc/{pid}/{what}")) {
                    kept.lock().unwrap().entry(key.to_owned()).or_default().insert(bytes);
                }
            };
            let line = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            while !stopped.load(Ordering::SeqCst) {
                note(pid, "cmdline", "command line of the daemon");
                for child in below(pid) {
                    let program = line(child);
                    // Until it has become another program it is the daemon itself, whose own environment holds what it was given.
                    if program.is_empty() || program == line(pid) {
                        continue;
                    }
                    note(child, "cmdline", "command line of a child");
                    let plugins = String::from_utf8_lossy(&program).contains("gst-plugin-scanner");
                    note(child, "environ", if plugins { SCANNER } else { "environment of a child" });
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { seen, stop, thread }
    }

    fn end(self) -> BTreeMap<String, BTreeSet<Vec<u8>>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        Arc::try_unwrap(self.seen).unwrap().into_inner().unwrap()
    }
}

/// Processes that `pid` has started, and those that they have.
fn below(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    children.iter().flat_map(|child| std::iter::once(*child).chain(below(*child))).collect()
}

/// A web server that refuses everybody and repeats what it was sent, as some do.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut asked = String::new();
                while reader.read_line(&mut asked).is_ok_and(|read| read > 2) {}
                let realm = asked.replace(['\r', '\n', '"'], " ");
                let answer = format!(
                    "HTTP/1.1 401 {realm}\r\nWWW-Authenticate: Basic realm=\"{realm}\"\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{asked}",
                    asked.len()
                );
                let _ = (&stream).write_all(answer.as_bytes());
            });
        }
    });
    port
}

/// A NATS server that refuses the password and repeats it.
fn rude_nats() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"headers\":true,\"max_payload\":1048576,\"auth_required\":true}\r\n");
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap_or(0);
            let said = String::from_utf8_lossy(&bytes[..read]).replace(['\r', '\n', '\''], " ");
            let _ = stream.write_all(format!("-ERR 'Authorization Violation {said}'\r\n").as_bytes());
        }
    });
    port
}

/// The places of credentials, and the credentials.
struct Secrets {
    folder: PathBuf,
    marks: Vec<String>,
    env: Vec<(String, String)>,
    own: Vec<PathBuf>,
}

impl Secrets {
    fn new(folder: &Path) -> Self {
        let credentials = folder.join("credentials");
        fs::create_dir(&credentials).unwrap();
        let own = vec![folder.join("vtagd.yaml"), folder.join("secrets"), credentials.clone(), folder.join("broker")];
        fs::create_dir(folder.join("secrets")).unwrap();
        let env = vec![("CREDENTIALS_DIRECTORY".to_owned(), credentials.display().to_string())];
        Self { folder: folder.to_owned(), marks: Vec::new(), env, own }
    }

    fn known(&mut self, mark: String) -> String {
        self.marks.push(mark.clone());
        mark
    }

    fn env(&mut self, name: &str, mark: String) -> String {
        let mark = self.known(mark);
        self.env.push((name.to_owned(), mark));
        format!("{{ env: {name} }}")
    }

    fn file(&mut self, name: &str, mark: String) -> String {
        fs::write(self.folder.join("secrets").join(name), format!("{}\n", self.known(mark))).unwrap();
        format!("{{ file: secrets/{name} }}")
    }

    fn credential(&mut self, name: &str, mark: String) -> String {
        fs::write(self.folder.join("credentials").join(name), format!("{}\n", self.known(mark))).unwrap();
        format!("{{ credential: {name} }}")
    }

    /// In a URL, before its host.
    fn userinfo(&mut self, mark: String) -> String {
        let mut url = url::Url::parse("http://h/").unwrap();
        url.set_password(Some(&self.known(mark))).unwrap();
        format!("{USER}:{}@", url.password().unwrap())
    }

    fn check(&self, place: &str, bytes: &[u8]) -> Vec<String> {
        leaks(place, bytes, &self.marks)
    }
}

#[test]
fn a_planted_credential_is_found_in_every_spelling() {
    let mark = mark("Planted");
    let mut url = url::Url::parse("rtsp://viewer@h/").unwrap();
    url.set_password(Some(&mark)).unwrap();
    let form: String = url::form_urlencoded::byte_serialize(mark.as_bytes()).collect();
    for planted in [
        mark.clone(),
        url.to_string(),
        form.clone(),
        form.to_lowercase(),
        serde_json::json!({ "password": mark }).to_string(),
        format!("{mark:?}"),
        format!("{:?}", mark.as_bytes()),
        format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("{USER}:{mark}"))),
        format!("Bearer {}", BASE64_STANDARD.encode(&mark)),
    ] {
        let bytes = format!("{}{planted}{}", "x".repeat(500), "y".repeat(500));
        assert!(!leaks("here", bytes.as_bytes(), std::slice::from_ref(&mark)).is_empty(), "{planted} is not found");
    }
    assert!(leaks("here", b"p:@/ %\"\\Zq7OtherXk9", &[mark]).is_empty(), "another mark is another");
}

#[test]
fn no_credential_leaves_the_daemon_but_to_whom_it_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = Secrets::new(folder.path());
    let camera = |password: &str, digest| {
        let auth = Auth { user: USER.into(), password: password.to_owned(), digest };
        Camera::start(Content::pattern(160, 120), Codec::H264, Some(auth))
    };
    let (basic, digest) = (camera(&mark("CameraBasic"), false), camera(&mark("CameraDigest"), true));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
    let secure = Camera::start_tls(Content::pattern(160, 120), Codec::H264, pem);
    let (broker, hook) = (Broker::start(folder.path()), Hook::start(|_, _| Reply::Status(204, "")));
    let refusing = Hook::start(|_, _| Reply::Status(401, ""));
    let (echo, nobody) = (echo(), free_port());
    let (nats, other_nats, third_nats) = (rude_nats(), rude_nats(), rude_nats());

    let mut streams = String::new();
    let mut stream = |id: &str, url: String, more: String| {
        streams.push_str(&format!("  - {{ id: {id}, url: \"{url}\"{more} }}\n"));
    };
    let rtsp = |userinfo: &str, port: u16, path: &str| format!("rtsp://{userinfo}127.0.0.1:{port}{path}");
    let fields = |password: String| format!(", username: {USER}, password: {password}");
    let good = secrets.file("camera", mark("CameraBasic"));
    stream("good-fields", rtsp("", basic.port(), "/stream"), fields(good));
    let good = secrets.userinfo(mark("CameraDigest"));
    stream("good-url", rtsp(&good, digest.port(), "/stream"), String::new());
    let wrong = secrets.env("WRONG_ONE", mark("WrongEnv"));
    stream("wrong-fields", rtsp("", digest.port(), "/stream"), fields(wrong));
    let wrong = secrets.userinfo(mark("WrongUrl"));
    stream("wrong-url", rtsp(&wrong, basic.port(), "/stream"), String::new());
    let away = secrets.userinfo(mark("Away"));
    stream("away", rtsp(&away, nobody, "/stream"), String::new());
    let query = secrets.known(plain_mark("Query"));
    stream("query", rtsp("", basic.port(), &format!("/none?user=admin&pwd={query}")), String::new());
    let path = secrets.known(plain_mark("Path"));
    stream("path", rtsp("", nobody, &format!("/user=admin_password={path}_channel=1.sdp")), String::new());
    let tls = secrets.credential("tls", mark("Tls"));
    stream("tls", secure.url().to_string(), fields(tls));
    let web = secrets.userinfo(mark("Web"));
    stream("web", format!("http://{web}127.0.0.1:{echo}/video.mjpg"), String::new());
    let web = secrets.known(plain_mark("WebQuery"));
    stream("web-query", format!("http://127.0.0.1:{echo}/video.mjpg?token={web}"), String::new());
    stream("clip", format!("file://{}/demo/clip.mp4", root().display()), ", loop: true".into());
    let own = secrets.known(plain_mark("OwnPipeline"));
    let template = format!(
        "rtspsrc name=source location=rtsp://{USER}:{own}@127.0.0.1:{nobody}/x ! decodebin ! videoconvert ! appsink name=sink\n"
    );
    fs::write(folder.path().join("own.gst"), template).unwrap();
    secrets.own.push(folder.path().join("own.gst"));
    streams.push_str("  - { id: own, pipeline: own.gst }\n");

    let mut sinks = String::new();
    let mut sink = |name: &str, kind: &str, url: String, more: String| {
        sinks.push_str(&format!("  - {{ name: {name}, type: {kind}, url: \"{url}\", timeout: 5s{more} }}\n"));
    };
    let password = secrets.credential("mqtt", mark("Mqtt"));
    sink("mqtt-good", "mqtt", format!("mqtt://127.0.0.1:{}", broker.port), fields(password));
    let password = secrets.userinfo(mark("MqttUrl"));
    sink("mqtt-away", "mqtt", format!("mqtt://{password}127.0.0.1:{nobody}"), ", topic_prefix: b".into());
    let password = secrets.env("MQTT_TLS", mark("MqttTls"));
    let tls = format!("{}, topic_prefix: c, protocol: 5", fields(password));
    sink("mqtt-tls", "mqtt", format!("mqtts://127.0.0.1:{}", broker.port), tls);
    let token = secrets.known(plain_mark("HookQuery"));
    let header = secrets.env("HOOK_AUTH", format!("Bearer {}", plain_mark("HookHeader")));
    let own = secrets.file("header", plain_mark("HookOwn"));
    let (new, old) = (signing_mark("SignNew"), signing_mark("SignOld"));
    let signed = format!(
        ", secret: {}, previous_secret: {}, headers: {{ Authorization: {header}, X-Own: {own} }}",
        secrets.env("HOOK_SECRET", new.clone()),
        secrets.credential("hook-old", old),
    );
    sink("hook-good", "webhook", format!("{}?token={token}", hook.url()), signed);
    let wrong = secrets.known(plain_mark("HookWrong"));
    let header = secrets.file("wrong-header", plain_mark("HookWrongHeader"));
    let headers = format!(", headers: {{ Authorization: {header} }}");
    sink("hook-refused", "webhook", format!("{}?token={wrong}", refusing.url()), headers.clone());
    sink("hook-echo", "webhook", format!("http://127.0.0.1:{echo}/?key={wrong}"), headers.clone());
    sink("hook-tls", "webhook", format!("https://127.0.0.1:{}/?key={wrong}", hook.port), headers.clone());
    sink("hook-away", "webhook", format!("http://127.0.0.1:{nobody}/?key={wrong}"), headers);
    let password = secrets.file("nats", mark("Nats"));
    sink("nats", "nats", format!("nats://127.0.0.1:{nats}"), fields(password));
    let token = secrets.env("NATS_TOKEN", plain_mark("NatsToken"));
    sink("nats-token", "nats", format!("nats://127.0.0.1:{other_nats}"), format!(", password: {token}"));
    // The seed of a key is made as it is: it cannot be marked, only looked for.
    let seed = secrets.file("nkey", nkeys::KeyPair::new_user().seed().unwrap());
    sink("nats-nkey", "nats", format!("nats://127.0.0.1:{third_nats}"), format!(", nkey: {seed}"));
    sinks.push_str("  - { type: jsonl, path: events.jsonl }\n  - { type: jsonl, path: \"-\" }\n");

    let token = plain_mark("ApiToken");
    let api = secrets.env("API_TOKEN", token.clone());
    for name in ["http_proxy", "HTTPS_PROXY"] {
        let proxy: String = url::form_urlencoded::byte_serialize(secrets.known(mark(name)).as_bytes()).collect();
        let proxy = proxy.replace('+', "%20");
        secrets.env.push((name.to_owned(), format!("http://{USER}:{proxy}@127.0.0.1:{echo}")));
    }
    // Where a proxy is to be asked for the hooks on loopback, none of them would be reached.
    secrets.env.push(("NO_PROXY".into(), "127.0.0.1".into()));
    let hub = secrets.known(plain_mark("HubToken"));
    secrets.env.push(("HF_TOKEN".into(), hub));
    secrets.env.push(("GST_DEBUG".into(), "4,rtsp*:7,souphttpsrc:7,basesrc:6,GST_ELEMENT*:6".into()));
    // No list of plug-ins: GStreamer starts a process that makes one.
    secrets.env.push(("GST_REGISTRY".into(), folder.path().join("registry.bin").display().to_string()));
    secrets.env.push(("VTAGD_LOG".into(), "trace".into()));
    let config = format!(
        "sampling: {{ interval: 500ms }}\nreconnect: {{ first: 1s, max: 5s }}\nstreams:\n{streams}labels: [{}]\n\
         events: {{ enter: 0.3, exit: 0.2, after: 0s, after_exit: 0s, cooldown: 0s }}\noutbox: {{ path: outbox.db }}\n\
         snapshots: {{ path: pictures }}\nsinks:\n{sinks}api: {{ listen: 127.0.0.1:0, token: {api} }}\n",
        root().join("config/labels/demo.yaml").display(),
    );

    let env: Vec<(&str, &str)> = secrets.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut daemon = Daemon::start_with_env(folder.path(), &config, &env);
    let watch = Watch::start(daemon.pid());
    daemon.wait_for_log(" ready ");
    let answers = Mutex::new(Vec::<(String, Vec<u8>)>::new());
    let ask = |url: &str, path: &str, bearer: Option<&str>| -> String {
        let mut answer = eventually("a guess is not in the way any more", || {
            let mut request = ureq::get(format!("{url}{path}")).config().http_status_as_error(false).build();
            if let Some(bearer) = bearer {
                request = request.header("authorization", format!("Bearer {bearer}"));
            }
            let answer = request.call().unwrap_or_else(|error| {
                let log = fs::read_to_string(folder.path().join("stderr")).unwrap();
                panic!("{path}: {error}: {}", log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))
            });
            (answer.status() != 429).then_some(answer)
        });
        let headers = format!("{:?}", answer.headers());
        let body = answer.body_mut().read_to_vec().unwrap();
        let text = format!("{headers}\n{}", String::from_utf8_lossy(&body));
        answers.lock().unwrap().push((format!("answer to {path}"), [headers.as_bytes(), &body].concat()));
        text
    };
    let url = daemon.url();

    // Good ways have been gone …
    eventually("both cameras are looked at", || {
        let text = ask(&url, "/metrics", Some(&token));
        let up = |id: &str| text.contains(&format!("vtagd_stream_up{{stream=\"{id}\"}} 1"));
        (up("good-fields") && up("good-url")).then_some(())
    });
    let request = eventually("a hook is called", || hook.requests().into_iter().next());
    assert!(request.header("authorization").unwrap().contains("HookHeader") && request.is_signed_with(&new));
    // … and so have bad ones.
    let log = eventually("everything else has failed", || {
        let log = daemon.log();
        let told = |what: &str, id: &str| {
            log.lines().any(|line| line.contains(what) && line.contains(id) && !line.contains("gstreamer"))
        };
        let down = ["wrong-fields", "wrong-url", "away", "query", "path", "tls", "web", "web-query", "own"];
        let stuck = [
            "mqtt-away",
            "mqtt-tls",
            "hook-refused",
            "hook-echo",
            "hook-tls",
            "hook-away",
            "nats",
            "nats-token",
            "nats-nkey",
        ];
        let all = down.iter().all(|id| told("the stream is down", &format!("stream={id}")))
            && stuck.iter().all(|id| told("cannot deliver", &format!("sink=\"{id}\"")));
        all.then_some(log)
    });
    assert!(log.contains("credentials were refused") && log.contains("certificate cannot be trusted"), "{log}");
    let streams = eventually("the API tells of the failures", || {
        let text = ask(&url, "/api/v1/streams", Some(&token));
        text.contains("credentials were refused").then_some(text)
    });
    assert!(streams.contains("good-fields"));
    let known = [
        "/",
        "/healthz",
        "/livez",
        "/readyz",
        "/metrics",
        "/api/v1/streams",
        "/api/v1/labels",
        "/api/v1/events",
        "/api/v1/sinks",
        "/api/v1/openapi.json",
        "/openapi.json",
        "/api/v1/config",
        "/api/v1/status",
        "/api/v1/nothing",
    ];
    for path in known {
        ask(&url, path, Some(&token));
        ask(&url, path, None);
        ask(&url, path, Some(&plain_mark("NotTheToken")));
    }
    // What is written to it: refused, and understood.
    for (bearer, path) in [
        (Some(token.as_str()), "/api/v1/streams/nothing/pause"),
        (None, "/api/v1/reload"),
        (Some(query.as_str()), "/api/v1/reload"),
    ] {
        let mut answer = eventually("a guess is not in the way any more", || {
            let mut request = ureq::post(format!("{url}{path}")).config().http_status_as_error(false).build();
            if let Some(bearer) = bearer {
                request = request.header("authorization", format!("Bearer {bearer}"));
            }
            let answer = request.content_type("application/json").send(format!("{{\"password\":{query:?}}}")).unwrap();
            (answer.status() != 429).then_some(answer)
        });
        assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
        let body = answer.body_mut().read_to_vec().unwrap();
        answers.lock().unwrap().push((format!("answer to a POST to {path}"), body));
    }
    // A configuration that cannot be used, and one that can.
    let spoilt = config.replace("outbox:", "password: Zq7SpoiltXk9\noutbox:");
    secrets.marks.push("Zq7SpoiltXk9".into());
    fs::write(folder.path().join("vtagd.yaml"), &spoilt).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the old configuration stays");
    // The same asked of the API, whose answer has the problems.
    let mut answer = eventually("a guess is not in the way any more", || {
        let reload = ureq::post(format!("{url}/api/v1/reload")).config().http_status_as_error(false).build();
        let answer = reload.header("authorization", format!("Bearer {token}")).send_empty().unwrap();
        (answer.status() != 429).then_some(answer)
    });
    let body = answer.body_mut().read_to_vec().unwrap();
    assert_eq!(answer.status(), 422, "{}", String::from_utf8_lossy(&body));
    answers.lock().unwrap().push(("answer to a reload".into(), body));
    fs::write(folder.path().join("vtagd.yaml"), config.replace("interval: 500ms", "interval: 400ms")).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the new configuration runs");
    eventually("a picture is kept", || {
        fs::read_dir(folder.path().join("pictures")).is_ok_and(|files| files.count() > 0).then_some(())
    });
    daemon.signal(libc::SIGTERM);
    eventually("the daemon ends", || (!Path::new(&format!("/proc/{}/fd/0", daemon.pid())).exists()).then_some(()));
    let seen = watch.end();
    let log = daemon.log();

    // What is looked through is there.
    assert!(log.lines().count() > 5_000, "everything is logged: {} lines", log.lines().count());
    assert!(log.contains("TRACE") && log.contains("rtspsrc") && log.contains("souphttpsrc"), "libraries tell too");
    let lines: BTreeSet<String> = seen
        .get("command line of a child")
        .into_iter()
        .flatten()
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    for program in ["embed-texts", "gst-plugin-scanner"] {
        assert!(lines.iter().any(|line| line.contains(program)), "{program} was not seen: {lines:?}");
    }
    let environments = &seen["environment of a child"];
    assert!(environments.iter().any(|e| String::from_utf8_lossy(e).contains("VTAGD_CACHE=")), "they are empty");

    let mut found = Vec::new();
    for (place, all) in &seen {
        let of_proxy = |leak: &String| place == SCANNER && leak.to_lowercase().contains("_proxyxk9");
        // GStreamer's libraries look for proxies in the environment, and so it stays there for what GStreamer itself starts.
        found.extend(all.iter().flat_map(|bytes| secrets.check(place, bytes)).filter(|leak| !of_proxy(leak)));
    }
    for (place, bytes) in answers.lock().unwrap().iter() {
        found.extend(secrets.check(place, bytes));
    }
    let files = files(folder.path(), &secrets.own);
    for wanted in ["stdout", "stderr", "outbox.db", "events.jsonl", ".jpg", "cache/"] {
        assert!(files.iter().any(|file| file.display().to_string().contains(wanted)), "no {wanted} in {files:?}");
    }
    for file in files {
        found.extend(secrets.check(&file.display().to_string(), &fs::read(&file).unwrap()));
    }
    found.sort();
    found.dedup_by_key(|leak| leak.split(": …").next().map(ToOwned::to_owned));
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

/// Everything that a command says.
fn said(mut command: Command, env: &[(String, String)]) -> (Option<i32>, Vec<u8>) {
    let output = command.envs(env.iter().map(|(name, value)| (name, value))).output().unwrap();
    (output.status.code(), [output.stdout, output.stderr].concat())
}

#[test]
fn no_command_tells_a_credential_whatever_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = Secrets::new(folder.path());
    let auth = Auth { user: USER.into(), password: mark("Camera"), digest: false };
    let camera = Camera::start(Content::pattern(160, 120), Codec::H264, Some(auth));
    let (echo, nobody) = (echo(), free_port());
    let good = secrets.file("camera", mark("Camera"));
    let wrong = secrets.env("WRONG", mark("Wrong"));
    let (url, away) = (secrets.userinfo(mark("Url")), secrets.userinfo(mark("Away")));
    let query = secrets.known(plain_mark("Query"));
    let header = secrets.credential("header", plain_mark("Header"));
    let token = secrets.env("TOKEN", plain_mark("Token"));
    let hub = secrets.known(plain_mark("Hub"));
    let proxy = secrets.userinfo(mark("Proxy"));
    let port = camera.port();
    let head = "model: { path: none }\nsinks:\n";
    let config = format!(
        "{head}  - {{ type: webhook, url: \"https://hooks.test/x?key={query}\", headers: {{ Authorization: {header} }} }}\n\
         api: {{ listen: 127.0.0.1:0, token: {token} }}\nstreams:\n\
         \x20 - {{ id: good, url: \"rtsp://127.0.0.1:{port}/stream\", username: {USER}, password: {good} }}\n\
         \x20 - {{ id: wrong, url: \"rtsp://127.0.0.1:{port}/stream\", username: {USER}, password: {wrong} }}\n\
         \x20 - {{ id: url, url: \"rtsp://{url}127.0.0.1:{port}/stream?pwd={query}\" }}\n\
         \x20 - {{ id: away, url: \"rtsp://{away}127.0.0.1:{nobody}/stream\" }}\n\
         \x20 - {{ id: web, url: \"http://{away}127.0.0.1:{echo}/v.mjpg?token={query}\" }}\n"
    );
    let file = folder.path().join("vtagd.yaml");
    fs::write(&file, &config).unwrap();
    let mut env = secrets.env.clone();
    env.push(("VTAGD_LOG".into(), "trace".into()));
    env.push(("GST_DEBUG".into(), "4,rtsp*:7,souphttpsrc:7".into()));

    let mut found = Vec::new();
    let mut run = |what: &str, code: &[i32], arguments: &[&str], env: &[(String, String)]| -> String {
        let mut command = vtagd(folder.path());
        command.args(arguments);
        let (ended, bytes) = said(command, env);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(code.contains(&ended.unwrap_or(-1)), "{what} ends with {ended:?}: {text}");
        found.extend(secrets.check(what, &bytes));
        text
    };
    let path = file.to_str().unwrap();
    run("check", &[0], &["check", "-c", path], &env);
    let shown = run("config show", &[0], &["config", "show", "-c", path], &env);
    assert!(shown.contains("***") && shown.contains("hooks.test"), "{shown}");
    let tried = ["check", "-c", path, "--probe", "--probe-timeout", "10s", "--json"];
    let probed = run("check --probe", &[1], &tried, &env);
    assert!(probed.contains("credentials were refused") && probed.contains("h264"), "{probed}");

    // Files that are wrong, so that the lines with credentials are shown.
    for (number, (spoil, code)) in [
        ("api: { token: Zq7SpoiltXk9 }", 2),
        ("api: { token: { env: \"Zq7SpoiltXk9!\" } }", 2),
        ("api: { tokne: Zq7SpoiltXk9 }", 2),
        ("streams: [{ id: A, url: \"rtsp://viewer:Zq7SpoiltXk9@h/\", password: Zq7SpoiltXk9 }]", 2),
        ("streams: [{ id: a, url: \"xtsp://viewer:Zq7SpoiltXk9@h/?token=Zq7SpoiltXk9\" }]", 2),
        ("streams: [{ id: a, url: \"rtsp://viewer:Zq7SpoiltXk9@h:port/\" }]", 2),
        ("streams: [{ id: a, url: \"rtsp://viewer:Zq7SpoiltXk9@/\" }]", 2),
        ("streams:\n  - id: a\n    password: Zq7SpoiltXk9\n    url: [", 2),
        ("streams:\n  - password: \"Zq7SpoiltXk9\n    Zq7SpoiltXk9\n  - }", 2),
        ("sinks: [{ type: webhook, url: \"http://u:Zq7SpoiltXk9@h/\", secret: Zq7SpoiltXk9 }]", 2),
        ("sinks: [{ type: webhook, url: \"http://h/\", headers: { Authorization: Zq7SpoiltXk9 } }]", 2),
        ("sinks: [{ type: nats, url: \"nats://u:Zq7SpoiltXk9@h/\" }]", 2),
        ("sinks: [{ type: mqtt, url: \"mqtt://u:Zq7SpoiltXk9@h/\", username: u, password: { env: TOKEN } }]", 2),
    ]
    .iter()
    .enumerate()
    {
        fs::write(&file, format!("model: {{ path: none }}\n{spoil}\nnonsense: 1\n")).unwrap();
        for command in [&["check", "-c", path][..], &["config", "show", "-c", path], &["run", "-c", path]] {
            let what = format!("{command:?} of spoilt file {number}");
            let mut command_ = vtagd(folder.path());
            command_.args(command);
            let (ended, bytes) = said(command_, &env);
            assert_eq!(ended, Some(*code), "{what}: {}", String::from_utf8_lossy(&bytes));
            assert!(bytes.windows(11).any(|w| w == b"vtagd.yaml:"), "{what}: {}", String::from_utf8_lossy(&bytes));
            found.extend(leaks(&what, &bytes, &["Zq7SpoiltXk9".to_owned()]));
        }
    }

    // A hub: its token, and a proxy's password.
    let mut hub_env = env.clone();
    hub_env.extend([("HF_TOKEN".into(), hub), ("HF_ENDPOINT".into(), format!("http://127.0.0.1:{echo}"))]);
    let out = folder.path().join("pulled");
    let pull = ["model", "pull", "some/model", "--out", out.to_str().unwrap()];
    let ask = |env: &[(String, String)]| {
        let mut command = vtagd(folder.path());
        command.args(pull);
        said(command, env)
    };
    let (code, bytes) = ask(&hub_env);
    assert!(code.is_some_and(|code| code != 0), "{}", String::from_utf8_lossy(&bytes));
    found.extend(secrets.check("model pull, refused", &bytes));
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"] {
        hub_env.push((name.into(), format!("http://{proxy}127.0.0.1:{echo}")));
    }
    hub_env.push(("HF_ENDPOINT".into(), "http://hub.test".into()));
    let (code, bytes) = ask(&hub_env);
    assert!(code.is_some_and(|code| code != 0), "{}", String::from_utf8_lossy(&bytes));
    found.extend(secrets.check("model pull, by a proxy", &bytes));

    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

/// Passwords in an address, with everything that may end it early. What is looked for stands behind that.
const TAIL: &str = "Zq7TailXk9";

fn awkward() -> Vec<String> {
    // A parser may take the first part for a port, or for a bad one.
    let heads = ["1234", "word", ""];
    let early = ["/", "#", "?"].into_iter().flat_map(|delimiter| heads.map(|head| format!("{head}{delimiter}{TAIL}")));
    let others = ["@", ":", "%", "\\", " ", "%2F", "/x@y/", "'", "&"].map(|delimiter| format!("1234{delimiter}{TAIL}"));
    early.chain(others).collect()
}

/// Everything that `vtagd` says when it is called so.
fn told(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = vtagd(folder);
    command.args(arguments).envs(env.iter().copied());
    let (code, bytes) = said(command, &[]);
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn a_password_that_may_go_on_behind_the_host_is_refused_and_no_file_tells_any() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vtagd.yaml");
    let path = file.to_str().unwrap();
    let mark = [TAIL.to_owned()];
    let mut found = Vec::new();
    for password in awkward() {
        let userinfo = format!("{USER}:{password}@");
        for (kind, text) in [
            ("rtsp", "streams: [{ id: a, url: \"rtsp://USERINFO127.0.0.1:9/x\" }]"),
            ("http", "streams: [{ id: a, url: \"http://USERINFO127.0.0.1:9/x\" }]"),
            ("mqtt", "sinks: [{ type: mqtt, url: \"mqtts://USERINFO127.0.0.1:9\" }]"),
            ("webhook", "sinks: [{ type: webhook, url: \"https://USERINFO127.0.0.1:9/x\" }]"),
            ("nats", "sinks: [{ type: nats, url: \"nats://USERINFO127.0.0.1:9\" }]"),
            ("snapshots", "snapshots: { path: pictures, url: \"https://USERINFO127.0.0.1:9\" }"),
            ("two lines", "streams: [{ id: a, url: \"rtsp://USERINFO127.0.0.1:9/\n    x\" }]\nnonsense: 1"),
            ("no scheme", "streams: [{ id: a, url: \"USERINFO127.0.0.1:9/x\" }]"),
            ("only slashes", "streams: [{ id: a, url: \"//USERINFO127.0.0.1:9/x\" }]"),
            ("another scheme", "streams: [{ id: a, url: \"rtps://USERINFO127.0.0.1:9/x\" }]"),
            ("a file", "streams: [{ id: a, url: \"file://USERINFO127.0.0.1:9/x\" }]"),
            ("a pipeline", "streams: [{ id: a, pipeline: \"rtsp://USERINFO127.0.0.1:9/x\" }]"),
            ("labels", "labels: [\"http://USERINFO127.0.0.1:9/x\"]"),
            ("no YAML", "streams: [{ id: a, url: \"rtsp://USERINFO127.0.0.1:9/x\" }\n]]"),
        ] {
            let written = text.replace("USERINFO", &userinfo.replace('\\', "\\\\"));
            let stream = "streams: [{ id: b, url: \"rtsp://127.0.0.1:9/\" }]\n";
            let more = if text.contains("streams") { "" } else { stream };
            let head = "model: { path: none }\napi: { listen: off }\noutbox: { path: \":memory:\" }\n";
            fs::write(&file, format!("{head}{more}{written}\n")).unwrap();
            let (code, check) = told(folder.path(), &["check", "-c", path], &[]);
            found.extend(leaks(&format!("check of {kind} {userinfo}"), check.as_bytes(), &mark));
            let unclear = password.contains(['/', '#', '?']) || kind == "http" && password.contains('\\');
            if matches!(kind, "rtsp" | "http" | "mqtt") && !unclear {
                assert_eq!(code, Some(0), "{kind} {userinfo}: {check}");
                let (code, shown) = told(folder.path(), &["config", "show", "-c", path], &[]);
                assert!(code == Some(0) && shown.contains("127.0.0.1:9"), "{shown}");
                found.extend(leaks(&format!("config show of {kind} {userinfo}"), shown.as_bytes(), &mark));
            } else {
                assert_eq!(code, Some(2), "{kind} {userinfo}: {check}");
            }
            if matches!(kind, "rtsp" | "mqtt") && unclear {
                assert!(check.contains("%2F") && check.contains("`username`") && check.contains("***"), "{check}");
                let (code, ran) = told(folder.path(), &["run", "-c", path], &[]);
                assert_eq!(code, Some(2), "{ran}");
                found.extend(leaks(&format!("run of {kind} {userinfo}"), ran.as_bytes(), &mark));
            }
        }
        // The same by a variable.
        fs::write(&file, "model: { path: none }\nstreams: [{ id: a, url: \"rtsp://127.0.0.1:9/\" }]\n").unwrap();
        let url = format!("rtsp://{userinfo}127.0.0.1:9/x");
        let (code, check) = told(folder.path(), &["check", "-c", path], &[("VTAGD__STREAMS__0__URL", &url)]);
        assert_eq!(code, Some(2), "{url}: {check}");
        found.extend(leaks(&format!("check with a variable {url}"), check.as_bytes(), &mark));
    }
    // One that can be told apart is used, and a path may have an `@` in it.
    let good = "streams: [{ id: a, url: \"rtsp://viewer:1234%2FZq7TailXk9@127.0.0.1:9/x%40y\" }]";
    fs::write(&file, format!("model: {{ path: none }}\noutbox: {{ path: \":memory:\" }}\n{good}\n")).unwrap();
    let (code, shown) = told(folder.path(), &["config", "show", "-c", path], &[]);
    assert!(code == Some(0) && shown.contains("rtsp://127.0.0.1:9/x%40y"), "{shown}");
    let (code, probed) = told(folder.path(), &["check", "-c", path, "--probe", "--probe-timeout", "5s"], &[]);
    assert_eq!(code, Some(1), "{probed}");
    found.extend(leaks("the good one", format!("{shown}{probed}").as_bytes(), &mark));
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_command_repeats_a_password_of_an_address_that_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let picture = root().join("demo/still.png");
    let picture = picture.to_str().unwrap();
    let mut found = Vec::new();
    for password in awkward() {
        let url = format!("rtsp://{USER}:{password}@127.0.0.1:9/stream");
        let web = url.replace("rtsp:", "http:");
        let commands: &[&[&str]] = &[
            &["tag", "URL", "-l", "a,b", "--json", "-m", "none"],
            &["tag", picture, "--labels", "URL"],
            &["tag", picture, "-l", "a,b", "-m", "URL"],
            &["tag", picture, "-l", "a,b", "--every", "URL"],
            &["embed", "--image", picture, "-m", "URL"],
            &["embed", "--text-file", "URL", "--json"],
            &["model", "pull", "URL"],
            &["model", "pull", "WEB", "--offline"],
            &["model", "import", "URL", "--out", "URL"],
            &["model", "inspect", "URL"],
            &["labels", "check", "URL"],
            &["labels", "embed", "URL"],
            &["check", "-c", "URL"],
            &["check", "URL"],
            &["run", "-c", "URL"],
            &["run", "--config=URL"],
            &["config", "show", "-c", "URL"],
            &["status", "--url", "WEB"],
            &["status", "--url", "URL"],
            &["status", "-c", "URL"],
            &["status", "URL"],
            &["events", "list", "--outbox", "URL"],
            &["events", "export", "-c", "URL"],
            &["discover", "--interface", "URL"],
            &["discover", "--target", "URL"],
            &["discover", "--username", "u", "--password-env", "URL"],
            &["bench", "-m", "URL"],
            &["bench", "--arch", "URL"],
            &["URL"],
        ];
        for command in commands {
            let given = |argument: &&str| argument.replace("URL", &url).replace("WEB", &web);
            let arguments: Vec<String> = command.iter().map(given).collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let (code, text) = told(folder.path(), &arguments, &[]);
            assert!(code.is_some_and(|code| code != 0) && !text.is_empty(), "{arguments:?}: {code:?} {text}");
            found.extend(leaks(&format!("{arguments:?}"), text.as_bytes(), &[TAIL.to_owned()]));
        }
        for (name, value) in [("HF_ENDPOINT", &web), ("http_proxy", &web), ("HTTPS_PROXY", &web), ("VTAGD_MODEL", &url)]
        {
            let mut env = vec![(name, value.as_str()), ("VTAGD_LOG", "trace")];
            if name == "http_proxy" {
                env.push(("HF_ENDPOINT", "http://127.0.0.1:9"));
            }
            let pull = ["model", "pull", "some/model", "--retries", "0"];
            let tag = ["tag", picture, "-l", "a,b"];
            let arguments: &[&str] = if name == "VTAGD_MODEL" { &tag } else { &pull };
            let (code, text) = told(folder.path(), arguments, &env);
            assert!(code.is_some_and(|code| code != 0), "{name}={value}: {code:?} {text}");
            found.extend(leaks(&format!("{name}={value}"), text.as_bytes(), &[TAIL.to_owned()]));
        }
    }
    // An input that is one, with a model that works.
    for password in ["1234/Zq7TailXk9", "Zq7TailXk9 x"] {
        let url = format!("rtsp://{USER}:{password}@127.0.0.1:9/stream");
        let (code, text) = told(folder.path(), &["-v", "tag", &url, "-l", "a,b", "--json"], &[]);
        let shown = ["rtsp://***@127.0.0.1:9", "rtsp://viewer:***@", "rtsp://127.0.0.1:9/stream"];
        assert!(matches!(code, Some(1 | 2)) && shown.iter().any(|address| text.contains(address)), "{text}");
        found.extend(leaks(&url, text.as_bytes(), &[TAIL.to_owned()]));
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_command_repeats_a_password_of_an_address_without_a_scheme() {
    let folder = tempfile::tempdir().unwrap();
    let picture = root().join("demo/still.png");
    let picture = picture.to_str().unwrap();
    let mut found = Vec::new();
    for address in [
        "admin:Zq7TailXk9@10.0.0.5/stream",
        "rtsp:/admin:Zq7TailXk9@cam/x",
        "rtsp//admin:Zq7TailXk9@cam/x",
        "http:\\\\admin:Zq7TailXk9@cam",
        "admin:1@2/Zq7TailXk9@cam",
    ] {
        for command in [
            &["tag", address, "-l", "a,b", "-m", "none"][..],
            &["tag", address, "-l", "a,b", "--json"],
            &["tag", picture, "--labels", address],
            &["embed", "--image", address, "--json"],
            &["embed", "--text-file", address],
            &["labels", "check", address],
            &["check", "-c", address],
            &["config", "show", "-c", address],
            &["run", "-c", address],
            &["model", "pull", address],
            &["status", "--url", address],
            &["events", "list", "--outbox", address],
            &["discover", "--target", address],
            &[address],
        ] {
            let (code, text) = told(folder.path(), command, &[]);
            assert!(code.is_some_and(|code| code != 0) && !text.is_empty(), "{command:?}: {code:?} {text}");
            found.extend(leaks(&format!("{command:?}"), text.as_bytes(), &[TAIL.to_owned()]));
        }
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}
