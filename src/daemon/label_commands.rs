//! `labels report` and `labels calibrate` for the API: the commands themselves, as processes of this program beside the daemon, so that what they load is given back
//! and a mistake in them stops nothing.
//!
//! In: a set, a stream, a region, a label. Out: what they print as JSON, or what they say instead. On the caller's thread, which waits, [`COMMAND_TIMEOUT`] at most; then,
//! and when the daemon stops, they are ended. What they print is bounded: [`MOST`] bytes.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::{CommandQuestion, CommandRefusal, LabelCommands};
use crate::config::{Settings, called};
use crate::platform::child_process::OWN_PROGRAM;
use crate::platform::secret;
use crate::platform::shutdown::Shutdown;
use crate::platform::thread_priority;

/// The API's own answer may take thirty seconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(25);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Of what is printed, and of what is said on stderr.
const MOST: u64 = 4 << 20;
/// What a command's refusal begins with.
const ERROR: &str = "error: ";

/// See the module.
pub struct OwnCommands {
    /// The daemon's configuration.
    file: PathBuf,
    /// The state directory that it runs with.
    state: PathBuf,
    shutdown: Shutdown,
}

impl OwnCommands {
    pub fn new(settings: &Settings, shutdown: Shutdown) -> Self {
        Self { file: settings.file.clone(), state: settings.state.path().to_owned(), shutdown }
    }

    fn run(&self, word: &str, set: &str, question: &CommandQuestion, write: bool) -> Result<Value, CommandRefusal> {
        let failed = |error: &dyn std::fmt::Display| CommandRefusal::Failed(format!("`labels {word}`: {error}"));
        if !self.file.is_file() {
            let why = format!("{} can be read by the daemon alone: no command can look at it", called(&self.file));
            return Err(CommandRefusal::Told(why));
        }
        let mut command = Command::new(OWN_PROGRAM);
        command.arg("labels").arg(word).arg("--json").arg("-c").arg(&self.file);
        // One word each: nothing that somebody has called a label becomes an option.
        command.arg(format!("--stream={}", question.stream));
        command.args(question.region.iter().map(|region| format!("--region={region}")));
        command.args(question.label.iter().map(|label| format!("--label={label}")));
        command.args(write.then_some("--write")).arg("--").arg(set);
        // What is in the configuration counts before this; without that both go by the same.
        command.env("STATE_DIRECTORY", &self.state).env("VTAGD_LOG", "error");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A child goes after inference where the thread does that has started it, and the caller's has other things to do at its own place.
        let spawned = std::thread::scope(|scope| {
            let spawn = || {
                thread_priority::lower_priority();
                command.spawn()
            };
            scope.spawn(spawn).join()
        });
        let mut child = spawned
            .map_err(|_| failed(&"starting it panicked; please report this"))?
            .map_err(|error| failed(&error))?;
        let (printed, said) = std::thread::scope(|scope| {
            let out = child.stdout.take().map(|out| scope.spawn(|| bounded(out)));
            let err = child.stderr.take().map(|err| scope.spawn(|| bounded(err)));
            let until = Instant::now() + COMMAND_TIMEOUT;
            let ended = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Ok(Some(status)),
                    Err(error) => break Err(failed(&error)),
                    Ok(None) if Instant::now() >= until || self.shutdown.sleep(POLL_INTERVAL) => break Ok(None),
                    Ok(None) => {}
                }
            };
            // One that has ended already is none the worse for it.
            let _ = child.kill();
            let _ = child.wait();
            let taken = |thread: Option<std::thread::ScopedJoinHandle<'_, String>>| {
                thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
            };
            let (printed, said) = (taken(out), taken(err));
            match ended? {
                None => Err(CommandRefusal::Late),
                Some(_) => Ok((printed, said)),
            }
        })?;
        // Also one that refuses a label may have found others.
        if let Ok(found) = serde_json::from_str::<Value>(printed.trim()) {
            return Ok(found);
        }
        let why: Vec<&str> = said.lines().skip_while(|line| !line.starts_with(ERROR)).collect();
        match &why[..] {
            [] => Err(failed(&secret::scrub(said.lines().last().unwrap_or("it said nothing")))),
            lines => {
                let text = lines.join("\n");
                Err(CommandRefusal::Told(secret::scrub(text.strip_prefix(ERROR).unwrap_or(&text)).into_owned()))
            }
        }
    }
}

impl LabelCommands for OwnCommands {
    fn report(&self, set: &str, question: &CommandQuestion) -> Result<Value, CommandRefusal> {
        self.run("report", set, question, false)
    }

    fn calibrate(&self, set: &str, question: &CommandQuestion, write: bool) -> Result<Value, CommandRefusal> {
        self.run("calibrate", set, question, write)
    }
}

/// All that is printed, up to a bound; what is beyond it is read and forgotten, so that nobody waits for room.
fn bounded(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    // What broke off is as much as there is.
    let _ = from.by_ref().take(MOST).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}
