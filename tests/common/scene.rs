//! A bad day in short: the daemon with one stream behind a [`Proxy`] that will go wrong, and one beside it that must not notice.
//!
//! Waits and limits are a fraction of the real ones, set in the daemon's own configuration. Nothing is judged by a stop watch:
//! "soon again" is the number of attempts that the daemon needed, "never paused" is the daemon's own watchdog on the healthy stream.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::camera::{Camera, Codec, Content};
use super::daemon::{Daemon, eventually, root};
use super::proxy::Proxy;

/// The ladder and the limits of the stream that goes wrong: waits of 0.2, 0.4, 0.8 and 1 s.
pub const QUICK: &str = "{ first: 200ms, max: 1s, stable: 60s, first_frame: 6s, stall: 2s }";

/// The healthy stream may not pause for longer than `stall`, or it counts a reconnect.
const CONTROL: &str = "{ first_frame: 60s, stall: 10s }";

pub struct Scene {
    pub daemon: Daemon,
    pub proxy: Proxy,
    pub control: Camera,
    before: u64,
    folder: tempfile::TempDir,
}

/// A small test picture.
pub fn small() -> Content {
    Content::pattern(160, 120)
}

impl Scene {
    /// The daemon watches the camera on `port` through a proxy, and a healthy one. `more` goes into the first stream.
    pub fn start(port: u16, more: &str) -> Self {
        Self::with_files(port, more, &[])
    }

    pub fn with_files(port: u16, more: &str, files: &[(&str, &str)]) -> Self {
        Self::at("127.0.0.1", port, more, files)
    }

    /// The same, with the first camera under the name `host`. One of the `files` may be called `hosts`: it is the daemon's `/etc/hosts`.
    pub fn at(host: &str, port: u16, more: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let control = Camera::start(small(), Codec::H264, None);
        let proxy = Proxy::start(port, 7);
        let config = format!(
            "model: {{ path: none }}\nsampling: {{ interval: 100ms }}\napi: {{ listen: 127.0.0.1:0 }}\nreconnect: {QUICK}\n\
             streams:\n  - {{ id: faulty, url: \"rtsp://{host}:{}/stream\"{more} }}\n\
             \x20 - {{ id: control, url: \"{}\", reconnect: {CONTROL} }}\n",
            proxy.port(),
            control.url()
        );
        let hosts = folder.path().join("hosts");
        let mut daemon = if hosts.exists() {
            Daemon::start_with_hosts(folder.path(), &config, &hosts)
        } else {
            Daemon::start(folder.path(), &config)
        };
        daemon.wait_ready();
        let mut scene = Self { daemon, proxy, control, before: 0, folder };
        scene.wait_frames("control", 5);
        scene.before = scene.number("control", "frames");
        scene
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces `from` in the daemon's configuration with `to` and lets it read that again.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let file = self.folder().join("vtagd.yaml");
        let old = std::fs::read_to_string(&file).unwrap();
        let new = old.replace(from, to);
        assert_ne!(new, old);
        std::fs::write(&file, new).unwrap();
        self.daemon.signal(libc::SIGHUP);
    }

    /// What the API says of a stream.
    pub fn row(&mut self, id: &str) -> Value {
        let (_, body) = self.daemon.get("/api/v1/streams");
        let rows: Value = serde_json::from_str(&body).unwrap();
        rows["streams"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone()
    }

    pub fn number(&mut self, id: &str, field: &str) -> u64 {
        self.row(id)[field].as_u64().unwrap()
    }

    /// Waits until so many more frames of a stream have come and it is up.
    pub fn wait_frames(&mut self, id: &str, more: u64) {
        let before = self.number(id, "frames");
        eventually(&format!("{more} more frames of {id}"), || {
            let row = self.row(id);
            (row["state"] == "up" && row["frames"].as_u64().unwrap() >= before + more).then_some(())
        });
    }

    /// Waits until the log names the faulty stream and says why it is down.
    pub fn wait_told(&mut self, why: &str) {
        self.wait_any_told(&[why]);
    }

    /// The same where the moment decides which of several reasons it is.
    pub fn wait_any_told(&mut self, reasons: &[&str]) {
        eventually(&format!("the log says {reasons:?}"), || {
            let log = self.daemon.log();
            let said = |line: &str| {
                line.contains("stream is down")
                    && line.contains("stream=faulty")
                    && reasons.iter().any(|r| line.contains(r))
            };
            log.lines().any(said).then_some(())
        });
    }

    /// Ends the fault with `lift` and sees that pictures flow again with the first attempt that could find all well: beside it
    /// there may be one that was under way and one whose answer came too late on a busy machine.
    pub fn recovers(&mut self, lift: impl FnOnce(&mut Self)) {
        let (attempts, lifted) = (self.number("faulty", "reconnects"), Instant::now());
        lift(self);
        self.wait_frames("faulty", 10);
        let took = lifted.elapsed();
        let needed = self.number("faulty", "reconnects") - attempts;
        eprintln!("back after {took:.1?} and {needed} attempts");
        assert!(needed <= 3, "{needed} attempts were needed");
    }

    /// The healthy stream never noticed, nothing was forgotten, and the daemon ends as it should.
    pub fn ends_well(mut self) -> String {
        let row = self.row("control");
        assert_eq!((&row["state"], &row["reconnects"]), (&Value::from("up"), &Value::from(0)), "{row}");
        assert!(row["frames"].as_u64().unwrap() > self.before + 10, "{row}");
        assert!(self.daemon.stop().success());
        let log = self.daemon.log();
        // Two streams, and each that a reload has replaced.
        let accounts = log.matches("frames accounted").count();
        assert!(accounts >= 2 && log.matches("unaccounted=0").count() == accounts, "{log}");
        log
    }
}

/// A camera that is a process of its own, so that it can be stopped and killed: `examples/rtsp_server` with the demo clip.
pub struct CameraProcess {
    child: Child,
    port: u16,
}

impl CameraProcess {
    pub fn start() -> Self {
        let (child, port) = launch(0);
        Self { child, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: plain system call on a process we started and have not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port again.
    pub fn restart(&mut self) {
        let (child, port) = launch(self.port);
        assert_eq!(port, self.port);
        self.child = child;
    }
}

impl Drop for CameraProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An example's program: Cargo builds it beside the tests.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_vtagd")).parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --examples` before a single test file", path.display());
    path
}

fn launch(port: u16) -> (Child, u16) {
    use std::io::BufRead;
    let mut child = Command::new(example("rtsp_server"))
        .args(["--mount", "/stream", "--port", &port.to_string(), "--file"])
        .arg(root().join("demo/clip.mp4"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().strip_prefix("rtsp://127.0.0.1:").unwrap().split('/').next().unwrap().parse().unwrap();
    (child, port)
}
