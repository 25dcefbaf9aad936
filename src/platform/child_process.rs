//! A child process of this program that answers in lines of JSON, for work whose memory must be given back or that must be ended
//! at once: vtagd starts itself with a hidden command.
//!
//! The request is one line of JSON on the child's stdin, the answers are lines on its stdout; its log goes to our stderr. Stdin
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
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::platform::secret;
use crate::platform::shutdown::Shutdown;

/// This program; also right when its file was replaced by an upgrade meanwhile.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Longest answer line: 16 384 values of a dozen characters fit.
const MAX_LINE: u64 = 1 << 20;
/// Longest request line; label sets are kilobytes.
const MAX_REQUEST: u64 = 64 << 20;

/// A started child; dropping it kills and reaps it.
pub struct Child<A> {
    process: process::Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<io::Result<A>>,
    reader: Option<thread::JoinHandle<()>>,
}

/// What came from a child.
#[derive(Debug)]
pub enum ChildAnswer<A> {
    Answer(A),
    /// A line that is no answer.
    Nonsense(io::Error),
    /// It has ended, and this is how.
    Ended(End),
    /// Shutdown was asked for.
    Stopped,
    /// Nothing, for as long as one has patience.
    Silence,
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

impl<A: DeserializeOwned + Send + 'static> Child<A> {
    /// Starts `command`, called vtagd in process lists, with a reader thread called `reader`, and without the
    /// credentials of this process's environment.
    ///
    /// # Errors
    /// When there is no such program, no process or no thread to be had.
    pub fn start(mut command: Command, reader: &str) -> io::Result<Self> {
        // What it is for needs no credential, and its environment is for every process of this user to read.
        for (name, _) in std::env::vars_os().filter(|(name, value)| secret::is_private(name, value)) {
            command.env_remove(name);
        }
        let mut process = command.arg0("vtagd").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (sender, answers) = bounded(16);
        let mut child = Self { process, stdin, answers, reader: None };
        let stdout = stdout.ok_or_else(|| io::Error::other("it has no output"))?;
        let read = move || read_answers(BufReader::new(stdout), &sender);
        child.reader = Some(thread::Builder::new().name(reader.to_owned()).spawn(read)?);
        Ok(child)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends the request.
    ///
    /// # Errors
    /// When the child has ended before it listened; how it ended, which [`Self::hear`] tells, says more.
    pub fn ask(&mut self, request: &impl Serialize) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        say(stdin, request)
    }

    /// The next answer. Without `patience` it may take any time.
    pub fn hear(&mut self, stop: Option<&Shutdown>, patience: Option<Duration>) -> ChildAnswer<A> {
        let stop = stop.map_or_else(never, |stop| stop.receiver().clone());
        let patience = patience.map_or_else(never, after);
        select! {
            recv(self.answers) -> answer => match answer {
                Ok(Ok(answer)) => ChildAnswer::Answer(answer),
                Ok(Err(error)) => ChildAnswer::Nonsense(error),
                Err(_) => ChildAnswer::Ended(self.end()),
            },
            recv(stop) -> _ => ChildAnswer::Stopped,
            recv(patience) -> _ => ChildAnswer::Silence,
        }
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
        self.answers = never();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reader thread: lines to answers, until the end, the first nonsense, or nobody listens.
fn read_answers<A: DeserializeOwned>(mut from: impl BufRead, to: &Sender<io::Result<A>>) {
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

/// The child's side: its request from stdin. From then on it ends as soon as stdin closes.
///
/// # Errors
/// A line that is no request, as when a person typed the hidden command; no thread to be had.
pub fn request<R: DeserializeOwned>() -> io::Result<R> {
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

/// Writes one line of JSON.
///
/// # Errors
/// When nobody reads any more.
pub fn say(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}
