//! sd_notify: telling systemd that the daemon is ready, reloads, what it is doing, that it needs more time to start, and that it is well.
//!
//! One datagram to the socket that `NOTIFY_SOCKET` names; without the variable nothing is sent, so everything works the same outside
//! of a service. Sending never blocks and never fails loudly: a service manager that does not listen is no reason to stop.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// Set by systemd for services of `Type=notify`.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// Between two signs of life of a long step.
const EVERY: Duration = Duration::from_secs(10);
/// What each sign of life asks for: the next one may be late on a box that compiles on all cores.
const EXTENSION: Duration = Duration::from_secs(60);

/// Whether this is a process of a service: what it is to have is here by now, or will not come. A shell of a desktop is a descendant of some
/// service too and bears its variables, but has a terminal.
pub fn is_in_unit() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("CREDENTIALS_DIRECTORY") || is_set(VARIABLE) || (is_set("INVOCATION_ID") && !std::io::stderr().is_terminal())
}

/// Start-up is over.
pub fn ready() {
    send("READY=1\nSTATUS=running");
}

/// The configuration is being read again: `systemctl reload` waits until [`reloaded`].
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    send(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the configuration again", microseconds(now)));
}

/// Reading the configuration again is over, whether it could be used or not.
pub fn reloaded(used: bool) {
    if used {
        ready();
    } else {
        send("READY=1\nSTATUS=running; the changed configuration was refused, the old one stays");
    }
}

fn microseconds(time: rustix::time::Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000)
}

/// The daemon ends.
pub fn stopping() {
    send("STOPPING=1\nSTATUS=stopping");
}

/// What is going on, for `systemctl status`.
pub fn status(text: &str) {
    send(&format!("STATUS={}", one_line(text)));
}

/// Asks for [`EXTENSION`] from now on before start-up counts as hung.
fn extend(status: Option<&str>) {
    let mut message = format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros());
    if let Some(status) = status {
        message.push_str(&format!("\nSTATUS={}", one_line(status)));
    }
    send(&message);
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn send(message: &str) {
    if let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty())
        && let Err(error) = send_to(&name, message)
    {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn send_to(name: &OsStr, message: &str) -> std::io::Result<()> {
    let address = match name.as_bytes() {
        // systemd writes the zero byte of an abstract socket as `@`.
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

/// systemd's watchdog (`WatchdogSec=`): a service that does not say for so long that it is well is killed and started again.
/// Time is a parameter.
#[derive(Debug)]
pub struct Watchdog {
    every: Duration,
    fed: Option<Instant>,
}

impl Watchdog {
    /// `None` where nobody watches.
    pub fn from_environment() -> Option<Self> {
        let text = |name: &str| std::env::var(name).ok();
        Self::from_values(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), std::process::id())
    }

    fn from_values(microseconds: Option<&str>, process: Option<&str>, own: u32) -> Option<Self> {
        // A child inherits the variables; only the process that they name is watched.
        if process.is_some_and(|process| process.parse() != Ok(own)) {
            return None;
        }
        let patience = Duration::from_micros(microseconds?.parse().ok().filter(|time| *time > 0)?);
        // Half of it is what sd_watchdog_enabled(3) advises; a third leaves room for a box that swaps.
        Some(Self { every: patience / 3, fed: None })
    }

    /// Everything is well. To be called at least as often as is to be said.
    pub fn feed(&mut self, now: Instant) {
        if self.is_due(now) {
            send("WATCHDOG=1");
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.fed.is_none_or(|fed| now.saturating_duration_since(fed) >= self.every);
        if due {
            self.fed = Some(now);
        }
        due
    }
}

/// A step of start-up that may take long. While it lives, systemd is asked for more time every [`EVERY`], and, if the step
/// has a name, the log and systemd's status tell how long it has taken. Ends when dropped.
pub struct LongStep {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LongStep {
    /// Asks for time and tells nobody else.
    pub fn quiet() -> Self {
        extend(None);
        Self::start(EVERY, |_| extend(None))
    }

    /// As [`Self::quiet`], visible as `name`.
    pub fn named(name: String) -> Self {
        extend(Some(&name));
        tracing::info!(step = name, "this takes a while");
        Self::start(EVERY, move |elapsed| {
            let seconds = elapsed.as_secs();
            tracing::info!(step = name, seconds, "still at it");
            extend(Some(&format!("{name}, {seconds} s so far")));
        })
    }

    fn start(every: Duration, tell: impl Fn(Duration) + Send + 'static) -> Self {
        // Nothing is ever sent: its end is the message.
        let (end, ended) = bounded::<()>(0);
        let work = move || {
            let started = Instant::now();
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                tell(started.elapsed());
            }
        };
        // Without a thread to spare the step goes on unseen.
        let thread = std::thread::Builder::new().name("vtagd-progress".into()).spawn(work).ok();
        Self { end: Some(end), thread }
    }
}

impl Drop for LongStep {
    fn drop(&mut self) {
        // A closed channel ends the thread at once.
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn sockets_are_reached_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send_to(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(heard(&socket), "READY=1");

        let name = format!("vtagd-test-{}", uuid::Uuid::now_v7());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send_to(OsStr::new(&format!("@{name}")), "STATUS=x").unwrap();
        assert_eq!(heard(&socket), "STATUS=x");
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_an_error_and_no_wait() {
        assert!(send_to(OsStr::new("/no/such/socket"), "READY=1").is_err());
    }

    #[test]
    fn a_status_cannot_smuggle_in_another_assignment() {
        assert_eq!(one_line("model x\nREADY=1"), "model x READY=1");
    }

    #[test]
    fn a_moment_of_the_monotonic_clock_is_told_in_microseconds() {
        assert_eq!(microseconds(rustix::time::Timespec { tv_sec: 7, tv_nsec: 12_345_678 }), 7_012_345);
    }

    #[test]
    fn the_watchdog_is_fed_three_times_in_its_patience_and_only_where_there_is_one() {
        let mut watchdog = Watchdog::from_values(Some("30000000"), Some("7"), 7).unwrap();
        let start = Instant::now();
        let fed: Vec<u64> = (0..31).filter(|s| watchdog.is_due(start + Duration::from_secs(*s))).collect();
        assert_eq!(fed, [0, 10, 20, 30]);
        assert!(Watchdog::from_values(Some("30000000"), None, 7).is_some());
        for (time, process) in [(None, None), (Some("0"), None), (Some("soon"), None), (Some("30000000"), Some("8"))] {
            assert!(Watchdog::from_values(time, process, 7).is_none(), "{time:?} {process:?}");
        }
    }

    #[test]
    fn a_long_step_gives_signs_of_life_until_it_ends() {
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let step = LongStep::start(Duration::from_millis(1), move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while told.load(Ordering::SeqCst) < 3 {
            assert!(Instant::now() < deadline, "no sign of life");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(step);
        let before = told.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(told.load(Ordering::SeqCst), before, "the thread is joined");
    }
}
