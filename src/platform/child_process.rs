//! A child process of this program that answers in lines of JSON, for work whose memory must be given back or that must be ended
//! at once: vtagd starts itself with a hidden command.
//!
//! A request is one line of JSON on the child's stdin, the answers are lines on its stdout; its log goes to our stderr. Stdin
//! stays open: when it closes, because the parent is done, was stopped or was killed, the child ends at once. The parent
//! kills the child when it drops it. Runs on the caller's thread and one reader thread, joined when the child is dropped; answers
//! that nobody takes fill a short queue, then the pipe, and then the child waits.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::platform::secret;
use crate::platform::shutdown::Shutdown;

/// This program; also right when its file was replaced by an upgrade meanwhile.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Longest answer line: 16 384 values of a dozen characters fit.
const MAX_LINE: u64 = 1 << 20;
/// Longest request line; label sets are kilobytes.
const MAX_REQUEST: u64 = 64 << 20;

/// What the child says, a line each.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<A> {
    Answer(A),
    Done,
    Error { message: String, code: u8 },
}

/// A started child; dropping it kills and reaps it.
pub struct Child<A> {
    process: process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<io::Result<Line<A>>>,
    reader: Option<thread::JoinHandle<()>>,
}

/// Why a child has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("cannot be started: {0}")]
    Start(io::Error),
    /// What it says itself, with the exit code that is meant.
    #[error("{message}")]
    Told { message: String, code: u8 },
    #[error("{0}; its log is above")]
    Ended(End),
    #[error("answers nonsense: {0}")]
    Nonsense(io::Error),
    /// An answer that was not to come.
    #[error("answers out of order")]
    OutOfOrder,
    /// Nothing, for as long as one has patience.
    #[error("said nothing for {} s, stopped it", .0.as_secs())]
    Silence(Duration),
    /// Shutdown was asked for.
    #[error("was stopped")]
    Stopped,
}

/// How a child ended.
#[derive(Debug)]
pub enum End {
    Signal(i32),
    Code(i32),
    Unknown(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(libc::SIGKILL) => f.write_str("was killed; is there enough memory?"),
            Self::Signal(signal) => write!(f, "died of signal {signal}"),
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Unknown(error) => write!(f, "cannot be waited for: {error}"),
        }
    }
}

/// Starts `command`, asks it for `request` and hands its answers on until it is done; `heard` says `false` to one that was not to come.
/// `reader` is the name of the reader thread. Without `patience` it may be silent for any time.
///
/// # Errors
/// See [`ChildError`]; the child is killed.
pub fn ask<A: DeserializeOwned + Send + 'static>(
    command: Command,
    reader: &str,
    request: &impl Serialize,
    stop: Option<&Shutdown>,
    patience: Option<Duration>,
    heard: &mut dyn FnMut(A) -> bool,
) -> Result<(), ChildError> {
    Child::start(command, reader).map_err(ChildError::Start)?.ask(request, stop, patience, heard)
}

impl<A: DeserializeOwned + Send + 'static> Child<A> {
    /// As [`ask`], of a child that [serves](serve_all) more than one request. After an error it is of no use any more.
    ///
    /// # Errors
    /// See [`ChildError`].
    pub fn ask(
        &mut self,
        request: &impl Serialize,
        stop: Option<&Shutdown>,
        patience: Option<Duration>,
        heard: &mut dyn FnMut(A) -> bool,
    ) -> Result<(), ChildError> {
        if let Some(Err(error)) = self.stdin.as_mut().map(|stdin| say(stdin, request)) {
            // How it ended says more than the broken pipe.
            tracing::debug!(%error, "the child process does not listen");
        }
        let stop = stop.map_or_else(never, |stop| stop.receiver().clone());
        loop {
            let silence = patience.map_or_else(never, after);
            let line = select! {
                recv(self.lines) -> line => line,
                recv(stop) -> _ => return Err(ChildError::Stopped),
                recv(silence) -> _ => return Err(ChildError::Silence(patience.unwrap_or_default())),
            };
            match line {
                Ok(Ok(Line::Answer(answer))) => {
                    if !heard(answer) {
                        return Err(ChildError::OutOfOrder);
                    }
                }
                Ok(Ok(Line::Done)) => return Ok(()),
                Ok(Ok(Line::Error { message, code })) => return Err(ChildError::Told { message, code }),
                Ok(Err(error)) => return Err(ChildError::Nonsense(error)),
                Err(_) => return Err(ChildError::Ended(self.end())),
            }
        }
    }

    /// Starts `command`, called vtagd in process lists, with a reader thread called `reader`, and without the
    /// credentials of this process's environment.
    ///
    /// # Errors
    /// As the system has it.
    pub fn start(mut command: Command, reader: &str) -> io::Result<Self> {
        // What it is for needs no credential, and its environment is for every process of this user to read.
        for (name, _) in std::env::vars_os().filter(|(name, value)| secret::is_private(name, value)) {
            command.env_remove(name);
        }
        let mut process = command.arg0("vtagd").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (sender, lines) = bounded(16);
        let mut child = Self { process, stdin, lines, reader: None };
        let stdout = stdout.ok_or_else(|| io::Error::other("it has no output"))?;
        let read = move || read_lines(BufReader::new(stdout), &sender);
        child.reader = Some(thread::Builder::new().name(reader.to_owned()).spawn(read)?);
        tracing::debug!(pid = child.process.id(), "started a child process");
        Ok(child)
    }

    /// Waits for a child whose stdout is closed; if it lives on without one, it will not for long.
    fn end(&mut self) -> End {
        self.stdin = None;
        match self.process.wait().map(|status| (status.signal(), status.code())) {
            Ok((Some(signal), _)) => End::Signal(signal),
            Ok((_, Some(code))) => End::Code(code),
            Ok(_) => End::Unknown(io::Error::other("neither a signal nor an exit code")),
            Err(error) => End::Unknown(error),
        }
    }
}

impl<A> Drop for Child<A> {
    fn drop(&mut self) {
        self.stdin = None;
        // Fails if it has ended already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // A reader that waits for room finds nobody to send to any more.
        self.lines = never();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reader thread: lines, until the end, the first nonsense, or nobody listens.
fn read_lines<A: DeserializeOwned>(mut from: impl BufRead, to: &Sender<io::Result<A>>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let answer = match from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => serde_json::from_slice(&line).map_err(io::Error::from),
            Err(error) => Err(error),
        };
        let last = answer.is_err();
        if to.send(answer).is_err() || last {
            return;
        }
    }
}

/// The child's whole life: one request from stdin, what `work` answers to it on stdout, and an end. Gives the exit code, which comes
/// with the message where `work` fails. `command` is how the child was started.
pub fn serve<R: DeserializeOwned, A: Serialize>(
    command: &str,
    work: impl FnOnce(R, &mut dyn FnMut(A)) -> Result<(), (String, u8)>,
) -> u8 {
    let mut stdout = io::stdout().lock();
    // A parent that does not listen any more has closed stdin too, which ends this process.
    let mut tell = |line: Line<A>| {
        let _ = say(&mut stdout, &line);
    };
    let outcome = match request() {
        Ok(request) => work(request, &mut |answer| tell(Line::Answer(answer))),
        Err(error) => Err((format!("`{command}` is for vtagd itself, not for people ({error})"), 2)),
    };
    let (last, code) = match outcome {
        Ok(()) => (Line::Done, 0),
        Err((message, code)) => (Line::Error { message, code }, code),
    };
    tell(last);
    code
}

/// The same for a child that is asked again and again, until stdin closes, which ends it, or `work` fails.
pub fn serve_all<R: DeserializeOwned + Send + 'static, A: Serialize>(
    command: &str,
    mut work: impl FnMut(R, &mut dyn FnMut(A)) -> Result<(), (String, u8)>,
) -> u8 {
    let (sender, requests) = bounded(1);
    let read = move || {
        let mut stdin = BufReader::new(io::stdin());
        let mut line = Vec::new();
        loop {
            line.clear();
            match stdin.by_ref().take(MAX_REQUEST).read_until(b'\n', &mut line) {
                // SAFETY: as in `request`.
                Ok(0) | Err(_) => unsafe { libc::_exit(3) },
                Ok(_) if sender.send(serde_json::from_slice::<R>(&line)).is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let started = thread::Builder::new().name("vtagd-parent".into()).spawn(read);
    let mut stdout = io::stdout().lock();
    let mut tell = |line: Line<A>| {
        let _ = say(&mut stdout, &line);
    };
    let fault = |error: &dyn fmt::Display| (format!("`{command}` is for vtagd itself, not for people ({error})"), 2);
    let (message, code) = match started {
        Err(error) => fault(&error),
        Ok(_) => loop {
            // The reader lives as long as this process.
            let Ok(request) = requests.recv() else { return 0 };
            let outcome = request
                .map_err(|error| fault(&error))
                .and_then(|request| work(request, &mut |answer| tell(Line::Answer(answer))));
            match outcome {
                Ok(()) => tell(Line::Done),
                Err(failed) => break failed,
            }
        },
    };
    tell(Line::Error { message, code });
    code
}

/// The request. From then on this process ends as soon as stdin closes.
fn request<R: DeserializeOwned>() -> io::Result<R> {
    let mut line = Vec::new();
    let mut stdin = BufReader::new(io::stdin());
    stdin.by_ref().take(MAX_REQUEST).read_until(b'\n', &mut line)?;
    let request = serde_json::from_slice(&line)?;
    thread::Builder::new().name("vtagd-parent".into()).spawn(move || {
        let _ = io::copy(&mut stdin, &mut io::sink());
        // SAFETY: `_exit` takes no pointer and does not return. Ending through `exit` would run destructors under ONNX
        // Runtime's running threads.
        unsafe { libc::_exit(3) }
    })?;
    Ok(request)
}

fn say(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}
