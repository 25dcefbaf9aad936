//! A run that never ends, in the real daemon: the thread that computes is stopped from outside (ptrace), as a call into a driver that does
//! not return would stop it. `/healthz` says so, systemd's watchdog goes hungry, and all is well again when the run comes back.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::daemon::{DEADLINE, eventually, root, vtagd};

/// A thread of another process that stands still while this lives. Linux wants everything of it done by one thread.
struct Stopped(libc::pid_t);

impl Stopped {
    /// # Errors
    /// When this system does not let a process stop its child.
    fn new(thread: libc::pid_t) -> std::io::Result<Self> {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: PTRACE_SEIZE and PTRACE_INTERRUPT take no memory of ours.
        if unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) }, 0);
        let mut status = 0;
        // SAFETY: waits for the stop of a thread that this one has seized.
        assert_eq!(unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) }, thread);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        Ok(Self(thread))
    }

    /// After the end of its process: until its tracer has looked at it, a thread is not gone.
    fn bury(self) {
        let mut status = 0;
        // SAFETY: a thread that this one has seized.
        unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        std::mem::drop(self);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: takes no memory of ours; fails where the thread has gone, which is as good.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

/// The daemon as systemd would start it, with a watchdog of three seconds.
struct RegisteredStream {
    child: Child,
    folder: tempfile::TempDir,
    notify: UnixDatagram,
    url: String,
}

impl RegisteredStream {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clip = root().join("demo/clip.mp4");
        let stream = |id: &str| {
            format!(
                "  - {{ id: {id}, url: \"file://{}\", pace: fast, loop: true, view: {{ mode: tiles }} }}\n",
                clip.display()
            )
        };
        let config = format!(
            "runtime: {{ run_limit: 1s, sessions: 1, threads: 1, batch: {{ max_size: 64, max_delay: 0s }} }}\nsampling: {{ interval: 40ms }}\n\
             streams:\n{}{}{}labels: [{}]\nsinks: [{{ type: jsonl, path: events.jsonl }}]\noutbox: {{ path: \":memory:\" }}\n\
             api: {{ listen: 127.0.0.1:0 }}\n",
            stream("one"),
            stream("two"),
            stream("three"),
            root().join("config/labels/demo.yaml").display()
        );
        let file = folder.path().join("vtagd.yaml");
        std::fs::write(&file, config).unwrap();
        let socket = folder.path().join("notify");
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = vtagd(folder.path());
        command.arg("run").arg("-c").arg(&file).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "3000000");
        command.env_remove("WATCHDOG_PID").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(folder.path().join("log")).unwrap());
        let child = command.spawn().unwrap();
        let mut watched = Self { child, folder, notify, url: String::new() };
        eventually("it listens", || watched.log().contains("API listens").then_some(()));
        let log = watched.log();
        let address = log.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        watched.url = format!("http://{address}");
        eventually("it is ready", || (watched.get("/readyz").0 == 200).then_some(()));
        watched
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(format!("{}{path}", self.url)).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// The thread that runs the model.
    fn session(&self) -> libc::pid_t {
        let tasks = Path::new("/proc").join(self.child.id().to_string()).join("task");
        let named =
            |task: &Path| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("vtagd-infer-"));
        let found: Vec<_> =
            std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path()).filter(|task| named(task)).collect();
        let [session] = &found[..] else { panic!("one session: {found:?}") };
        session.file_name().unwrap().to_str().unwrap().parse().unwrap()
    }

    /// Stops the session in the middle of a run; `None`, with a message, where the system does not allow it.
    fn hang(&self) -> Option<Stopped> {
        let thread = self.session();
        loop {
            let before = self.log().matches("takes far too long").count();
            let stopped = match Stopped::new(thread) {
                Ok(stopped) => stopped,
                Err(error) => {
                    eprintln!("skipped: a child cannot be traced here: {error}");
                    return None;
                }
            };
            // It was in a run if the daemon notices; else it was between two, and is tried again.
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline {
                if self.log().matches("takes far too long").count() > before {
                    return Some(stopped);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Whether the watchdog was fed; waits for a message at most so long.
    fn fed_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 1024];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.notify.set_read_timeout(Some(left)).unwrap();
            match self.notify.recv(&mut buffer) {
                Ok(length) if buffer[..length].starts_with(b"WATCHDOG=1") => return true,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        false
    }

    /// What came before counts no more.
    fn forget_messages(&self) {
        self.notify.set_nonblocking(true).unwrap();
        while self.notify.recv(&mut [0; 1024]).is_ok() {}
        self.notify.set_nonblocking(false).unwrap();
    }
}

impl Drop for RegisteredStream {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn a_run_that_never_ends_is_told_by_healthz_and_starves_the_watchdog_until_it_comes_back() {
    let daemon = RegisteredStream::start();
    assert!(daemon.fed_within(DEADLINE), "while it is well, it is fed");
    assert_eq!(daemon.get("/healthz").0, 200);

    let Some(stopped) = daemon.hang() else { return };
    let said = eventually("it is found out", || {
        let (status, said) = daemon.get("/healthz");
        (status == 503).then_some(said)
    });
    assert!(said.contains("inference hangs: session 0"), "{said}");
    let (status, ready) = daemon.get("/readyz");
    assert!(status == 503 && ready.contains("inference hangs"), "{ready}");
    daemon.forget_messages();
    // Three times what systemd would wait for: it would have started it again.
    assert!(!daemon.fed_within(Duration::from_secs(9)), "the watchdog was fed while inference hung");
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.lines().any(|line| line == "vtagd_inference_hung_total 1"), "{metrics}");
    assert!(metrics.contains("reason=\"inference\""), "{metrics}");

    drop(stopped);
    eventually("the run comes back", || (daemon.get("/healthz").0 == 200).then_some(()));
    assert!(daemon.fed_within(DEADLINE), "and the watchdog is fed again");
    assert!(daemon.log().contains("a run that had been given up came back"), "{}", daemon.log());
    eventually("frames are looked at again", || (daemon.get("/readyz").0 == 200).then_some(()));
}

#[test]
fn a_daemon_whose_inference_hangs_still_ends_in_time_and_says_what_it_leaves_behind() {
    let mut daemon = RegisteredStream::start();
    let Some(stopped) = daemon.hang() else { return };
    eventually("it is found out", || (daemon.get("/healthz").0 == 503).then_some(()));
    // SAFETY: plain system call on a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(daemon.child.id()).unwrap(), libc::SIGTERM) }, 0);
    eventually("it says what is late", || daemon.log().contains("did not stop in time, left behind").then_some(()));
    eventually("it has stopped", || daemon.log().contains(" stopped").then_some(()));
    stopped.bury();
    let status = eventually("it has ended", || daemon.child.try_wait().unwrap());
    let log = daemon.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.lines().filter(|l| l.contains("frames accounted")).all(|l| l.contains("unaccounted=0")), "{log}");
    assert!(log.contains("frames accounted"), "{log}");
}
