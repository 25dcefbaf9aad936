//! Runs the real binary as a user would, in the repository root, and looks at what it says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long enough for a loaded two-core machine; tests wait for conditions, not for this.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// Waits until `probe` gives something.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen in {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The real footage beside the repository, or `None` with a message where it is absent.
pub fn footage(clip: &str) -> Option<PathBuf> {
    let path = root().join("../shared/footage").join(clip);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// `vtagd` with everything a clean machine would not have removed.
pub fn vtagd(folder: &Path) -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_vtagd")), folder)
}

/// `unshare` with a mount namespace of its own, as root or as anybody where the system lets anybody have one.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--mount");
    command
}

/// Whether [`Daemon::start_with_hosts`] works here; if not, it is said why.
pub fn can_have_hosts() -> bool {
    let tried = unshare().args(["mount", "--bind", "/etc/hosts", "/etc/hosts"]).output();
    let able = tried.as_ref().is_ok_and(|output| output.status.success());
    if !able {
        eprintln!("skipped: no mount namespace here: {tried:?}");
    }
    able
}

/// Every event that the outbox in `folder` has stored, in order.
pub fn stored(folder: &Path) -> Vec<Value> {
    let output = vtagd(folder).args(["events", "export", "--outbox"]).arg(folder.join("outbox.db")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn clean(mut command: Command, folder: &Path) -> Command {
    command
        .current_dir(root())
        .env("VTAGD_CACHE", folder.join("cache"))
        // Many daemons run at once, each with a state of its own.
        .env("STATE_DIRECTORY", folder.join("state"))
        .env_remove("VTAGD_MODEL")
        // Whoever runs the tests may be a service.
        .env_remove("INVOCATION_ID")
        .env_remove("CREDENTIALS_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("VTAGD_LOG");
    command
}

/// A running `vtagd run`.
pub struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Writes `config` to `folder/vtagd.yaml` and starts the daemon on it. Its output goes to files in `folder`.
    pub fn start(folder: &Path, config: &str) -> Self {
        Self::launch(vtagd(folder), folder, config)
    }

    /// The same with more variables in its environment.
    pub fn start_with_env<V: AsRef<std::ffi::OsStr>>(folder: &Path, config: &str, env: &[(&str, V)]) -> Self {
        let mut command = vtagd(folder);
        command.envs(env.iter().map(|(name, value)| (name, value.as_ref())));
        Self::launch(command, folder, config)
    }

    /// The same with `hosts` in the place of `/etc/hosts`, for the daemon alone: names come and go with what is written into it.
    pub fn start_with_hosts(folder: &Path, config: &str, hosts: &Path) -> Self {
        let mut command = unshare();
        // Everything hands over to the next by `exec`: the process that is started is the daemon in the end.
        command.args(["sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        command.arg(hosts).arg(env!("CARGO_BIN_EXE_vtagd"));
        Self::launch(clean(command, folder), folder, config)
    }

    /// The same with a disk of `size` (such as `4m`) mounted on `disk`, for the daemon alone. Everybody else finds it under
    /// `/proc/<pid>/root`. Works where [`can_have_hosts`] says so.
    pub fn start_on_small_disk(folder: &Path, config: &str, disk: &Path, size: &str) -> Self {
        let mut command = unshare();
        command.args(["sh", "-c", "mount -t tmpfs -o size=\"$0\" tmpfs \"$1\" && shift && exec \"$@\""]);
        command.arg(size).arg(disk).arg(env!("CARGO_BIN_EXE_vtagd"));
        Self::launch(clean(command, folder), folder, config)
    }

    fn launch(mut command: Command, folder: &Path, config: &str) -> Self {
        let file = folder.join("vtagd.yaml");
        std::fs::write(&file, config).unwrap();
        let out = File::create(folder.join("stdout")).unwrap();
        let err = File::create(folder.join("stderr")).unwrap();
        command.arg("run").arg("-c").arg(&file).stdin(Stdio::null()).stdout(out).stderr(err);
        Self { child: command.spawn().unwrap(), folder: folder.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// Everything it has written to stdout so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.folder.join("stdout")).unwrap()
    }

    /// Every whole event line on stdout.
    pub fn events(&self) -> Vec<Value> {
        let text = self.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the log holds `text`.
    pub fn wait_for_log(&mut self, text: &str) {
        eventually(text, || {
            let log = self.log();
            assert!(log.contains(text) || self.child.try_wait().unwrap().is_none(), "ended without {text:?}:\n{log}");
            log.contains(text).then_some(())
        });
    }

    /// Base URL of the API, once it listens.
    pub fn url(&mut self) -> String {
        self.wait_for_log("API listens");
        let log = self.log();
        let line = log.lines().find(|line| line.contains("API listens")).unwrap();
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        format!("http://{address}")
    }

    /// Status and body of a GET.
    pub fn get(&mut self, path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.url());
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .into();
        let mut answer = agent.get(&url).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// Waits until `/readyz` says 200.
    pub fn wait_ready(&mut self) {
        self.wait_for_log(" ready");
        eventually("readyz", || (self.get("/readyz").0 == 200).then_some(()));
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: plain system call on a process we started and have not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for its end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let end = eventually("the daemon ends", || self.child.try_wait().unwrap());
        eprintln!("{}", self.log());
        end
    }

    /// SIGKILL: it ends at once, in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        eventually("the daemon is gone", || self.child.try_wait().unwrap());
    }

    /// SIGTERM, then waits.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// SIGTERM, then waits, and the exit code is 0: outbox and sinks ended in time, and nothing was lost. The one excuse is a machine so busy that
    /// the frames under way were not finished within the daemon's seven seconds; that is told, and is no matter of sinks.
    pub fn stop_cleanly(&mut self) {
        let ended = self.stop();
        if ended.success() {
            return;
        }
        let log = self.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
        let never_late = ["sink", "outbox", "history", "snapshots"];
        let excused = |line: &&str| line.contains("left behind") && !never_late.iter().any(|late| line.contains(late));
        assert!(ended.code() == Some(1) && errors.len() == 1 && errors.iter().all(excused), "{ended}: {errors:?}");
    }

    /// As [`start`](Self::start), with a folder of shared libraries that are found before the system's.
    pub fn start_with_libraries(folder: &Path, config: &str, libraries: &Path, env: &[(&str, &Path)]) -> Self {
        let file = folder.join("vtagd.yaml");
        std::fs::write(&file, config).unwrap();
        let out = File::create(folder.join("stdout")).unwrap();
        let err = File::create(folder.join("stderr")).unwrap();
        let mut command = vtagd(folder);
        command.arg("run").arg("-c").arg(&file).env("LD_LIBRARY_PATH", libraries).envs(env.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        Self { child, folder: folder.to_owned() }
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, in bytes.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A text that a person reads, without what differs from one machine and moment to another: each number is `N`, blanks are one.
pub fn without_numbers(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words = line.split_whitespace().map(|word| {
            let mut plain = String::new();
            for letter in word.chars() {
                if !letter.is_ascii_digit() {
                    plain.push(letter);
                } else if !plain.ends_with('N') {
                    plain.push('N');
                }
            }
            plain
        });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}
