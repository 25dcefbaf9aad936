//! Text embedding in a short-lived child process, because ONNX Runtime keeps the text tower's memory for as long as the
//! process lives: vtagd starts itself with the hidden command [`SUBCOMMAND`], embeds, and the memory is gone with the child.
//!
//! The request is one line of JSON on the child's stdin, the answers are lines of JSON on its stdout, one a text; its log
//! goes to our stderr. Stdin stays open: when it closes, because the parent is done, was stopped or was killed, the child
//! ends at once. The parent kills the child on shutdown and when it stays silent too long. Runs on the caller's thread and
//! one reader thread, joined before the call returns.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::embed::{EmbedError, InProcessTower, TextTower};
use super::text::TextEmbedding;
use crate::model::Bundle;
use crate::shutdown::Shutdown;

/// The command of a child that embeds texts. Not one for people.
pub const SUBCOMMAND: &str = "__embed-texts";

/// It takes no arguments: everything comes on stdin, so that no label text shows up in a process list.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Args {}

/// Longest silence of a child that is not taken for a hang: loading gigabytes from a slow disk takes its time.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest answer line: 16 384 values of a dozen characters.
const MAX_LINE: u64 = 1 << 20;
/// Longest request line; label sets are kilobytes.
const MAX_REQUEST: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Request {
    model: PathBuf,
    fingerprint: String,
    library: Option<PathBuf>,
    threads: usize,
    texts: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Text {
        index: usize,
        values: Vec<f32>,
        truncated: bool,
    },
    Done,
    Error {
        message: String,
        /// 2 where the input is wrong, 1 where the machine failed.
        code: u8,
    },
}

/// A [`TextTower`] that runs in a child process, started for every call.
pub struct ChildTower {
    program: PathBuf,
    arguments: Vec<String>,
    model: PathBuf,
    fingerprint: String,
    library: Option<PathBuf>,
    threads: usize,
    shutdown: Option<Shutdown>,
}

impl ChildTower {
    /// For the text tower of `bundle`. The program is this one, which must call [`serve`] when started with [`SUBCOMMAND`].
    pub fn new(bundle: &Bundle, library: Option<PathBuf>, threads: usize) -> Self {
        Self {
            // Also right when the file was replaced by an upgrade meanwhile.
            program: "/proc/self/exe".into(),
            arguments: vec![SUBCOMMAND.into()],
            model: bundle.dir.clone(),
            fingerprint: bundle.fingerprint.clone(),
            library,
            threads,
            shutdown: None,
        }
    }

    /// Runs another program, as tests do.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        self.program = program.into();
        self.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// Gives up, and kills the child, when shutdown is asked for.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    fn spawn(&self) -> Result<Running, EmbedError> {
        let mut child = Command::new(&self.program)
            .arg0("vtagd")
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| EmbedError::Child(format!("cannot start {} to embed texts: {e}", self.program.display())))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, answers) = bounded(16);
        let reader = stdout.map(|stdout| {
            thread::Builder::new()
                .name("embed-reader".into())
                .spawn(move || read_answers(BufReader::new(stdout), &sender))
        });
        let mut running = Running { child, stdin, answers, reader: None };
        match reader {
            Some(Ok(thread)) => running.reader = Some(thread),
            Some(Err(e)) => return Err(EmbedError::Child(format!("cannot start a thread: {e}"))),
            None => return Err(EmbedError::Child("the text embedding process has no output".into())),
        }
        Ok(running)
    }
}

impl TextTower for ChildTower {
    fn embed(&mut self, texts: &[&str], done: &mut dyn FnMut(usize, TextEmbedding)) -> Result<(), EmbedError> {
        let request = Request {
            model: std::path::absolute(&self.model).unwrap_or_else(|_| self.model.clone()),
            fingerprint: self.fingerprint.clone(),
            library: self.library.clone(),
            threads: self.threads,
            texts: texts.iter().map(|t| (*t).to_owned()).collect(),
        };
        let mut line = serde_json::to_vec(&request).map_err(|e| EmbedError::Child(e.to_string()))?;
        line.push(b'\n');
        let mut running = self.spawn()?;
        debug!(pid = running.child.id(), texts = texts.len(), "embedding texts in a child process");
        if let Some(stdin) = &mut running.stdin
            && let Err(error) = stdin.write_all(&line).and_then(|()| stdin.flush())
        {
            // It ended before it listened; how it ended says more than the broken pipe.
            debug!(%error, "the text embedding process does not listen");
        }
        let stop = self.shutdown.as_ref().map_or_else(never, |s| s.receiver().clone());
        let mut next = 0;
        loop {
            let answer = select! {
                recv(running.answers) -> answer => answer.ok(),
                recv(stop) -> _ => return Err(EmbedError::Cancelled),
                default(PATIENCE) => {
                    let seconds = PATIENCE.as_secs();
                    return Err(EmbedError::Child(format!("the text embedding process said nothing for {seconds} s, stopped it")));
                }
            };
            match answer {
                Some(Ok(Answer::Text { index, values, truncated })) if index == next && index < texts.len() => {
                    next += 1;
                    done(index, TextEmbedding { values, truncated });
                }
                Some(Ok(Answer::Done)) if next == texts.len() => return Ok(()),
                Some(Ok(Answer::Error { message, code: 2 })) => return Err(EmbedError::Input(message)),
                Some(Ok(Answer::Error { message, .. })) => return Err(EmbedError::Child(message)),
                Some(Ok(Answer::Text { .. } | Answer::Done)) => {
                    return Err(EmbedError::Child("the text embedding process answers out of order".into()));
                }
                Some(Err(error)) => {
                    return Err(EmbedError::Child(format!("the text embedding process answers nonsense: {error}")));
                }
                None => return Err(EmbedError::Child(running.epitaph())),
            }
        }
    }
}

/// A started child; dropping it ends and reaps it.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<io::Result<Answer>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Running {
    /// How a child ended that was not done.
    fn epitaph(&mut self) -> String {
        // Its stdout is closed; if it lives on without one, it will not for long.
        self.stdin = None;
        let ended = self.child.wait();
        let how = match ended.as_ref().map(|s: &ExitStatus| (s.signal(), s.code())) {
            Ok((Some(libc::SIGKILL), _)) => "was killed; is there enough memory for the text tower?".to_owned(),
            Ok((Some(signal), _)) => format!("died of signal {signal}"),
            Ok((_, Some(code))) => format!("ended with exit code {code}"),
            Ok(_) => "ended".to_owned(),
            Err(e) => format!("cannot be waited for: {e}"),
        };
        format!("the text embedding process {how} before all texts were embedded; its log is above")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stdin = None;
        // Fails if it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A reader that waits for room finds nobody to send to any more.
        self.answers = never();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reader thread: lines to answers, until the end, the first nonsense, or nobody listens.
fn read_answers(mut from: impl BufRead, to: &Sender<io::Result<Answer>>) {
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

/// The child's whole life: one request from stdin, answers to stdout. The exit code.
pub fn serve(_: &Args) -> u8 {
    let mut line = Vec::new();
    let mut stdin = BufReader::new(io::stdin());
    let request = stdin
        .by_ref()
        .take(MAX_REQUEST)
        .read_until(b'\n', &mut line)
        .and_then(|_| serde_json::from_slice::<Request>(&line).map_err(io::Error::from));
    let mut stdout = io::stdout().lock();
    let outcome = match request {
        Ok(request) => watch_parent(stdin).and_then(|()| answer(&request, &mut stdout)),
        Err(error) => Err(EmbedError::Input(format!("`{SUBCOMMAND}` is for vtagd itself, not for people ({error})"))),
    };
    let (last, code) = match outcome {
        Ok(()) => (Answer::Done, 0),
        Err(error) => {
            let code = error.exit_code();
            (Answer::Error { message: error.to_string(), code }, code)
        }
    };
    let _ = say(&mut stdout, &last);
    code
}

/// Ends this process as soon as stdin closes: then the parent is gone or done.
fn watch_parent(mut stdin: impl Read + Send + 'static) -> Result<(), EmbedError> {
    thread::Builder::new()
        .name("embed-parent".into())
        .spawn(move || {
            let _ = io::copy(&mut stdin, &mut io::sink());
            // SAFETY: `_exit` takes no pointer and does not return. Ending through `exit` would run destructors under ONNX
            // Runtime's running threads.
            unsafe { libc::_exit(3) }
        })
        .map(|_| ())
        .map_err(|e| EmbedError::Child(format!("cannot start a thread: {e}")))
}

fn answer(request: &Request, stdout: &mut impl Write) -> Result<(), EmbedError> {
    let bundle = Bundle::open_known(&request.model, request.fingerprint.clone())
        .map_err(|e| EmbedError::Input(e.to_string()))?;
    let texts: Vec<&str> = request.texts.iter().map(String::as_str).collect();
    let mut tower = InProcessTower::new(&bundle, request.library.clone(), request.threads);
    tower.embed(&texts, &mut |index, TextEmbedding { values, truncated }| {
        // A parent that does not listen any more has closed stdin too.
        let _ = say(stdout, &Answer::Text { index, values, truncated });
    })
}

fn say(to: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown;

    fn tower(script: &str) -> ChildTower {
        ChildTower {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            model: "m".into(),
            fingerprint: "f".into(),
            library: None,
            threads: 1,
            shutdown: None,
        }
    }

    fn run(mut tower: ChildTower, texts: &[&str]) -> (Vec<usize>, Result<(), EmbedError>) {
        let mut seen = Vec::new();
        let outcome = tower.embed(texts, &mut |index, _| seen.push(index));
        (seen, outcome)
    }

    #[test]
    fn answers_arrive_in_order_and_done_ends_it() {
        let script = r#"read request; echo '{"text":{"index":0,"values":[1.0],"truncated":false}}'; echo '"done"'; cat >/dev/null"#;
        let (seen, outcome) = run(tower(script), &["a"]);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(seen, [0]);
    }

    #[test]
    fn a_child_that_crashes_is_told_with_how_it_ended_and_keeps_what_it_gave() {
        let script = r#"read request; echo '{"text":{"index":0,"values":[1.0],"truncated":false}}'; kill -9 $$"#;
        let (seen, outcome) = run(tower(script), &["a", "b"]);
        assert_eq!(seen, [0]);
        assert!(outcome.unwrap_err().to_string().contains("enough memory"));
        let (_, outcome) = run(tower("exit 7"), &["a"]);
        assert!(outcome.unwrap_err().to_string().contains("exit code 7"));
    }

    #[test]
    fn nonsense_a_missing_program_and_the_childs_own_error_are_told() {
        let (_, outcome) = run(tower("echo hello; cat >/dev/null"), &["a"]);
        assert!(outcome.unwrap_err().to_string().contains("nonsense"));
        let (_, outcome) = run(tower("echo '\"done\"'; cat >/dev/null"), &["a"]);
        assert!(outcome.unwrap_err().to_string().contains("out of order"));
        let (_, outcome) =
            run(tower(r#"echo '{"error":{"message":"no such model","code":2}}'; cat >/dev/null"#), &["a"]);
        let error = outcome.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), ("no such model", 2));
        let (_, outcome) = run(ChildTower { program: "/no/such/program".into(), ..tower("") }, &["a"]);
        assert!(outcome.unwrap_err().to_string().contains("/no/such/program"));
    }

    #[test]
    fn shutdown_kills_a_child_that_is_still_busy() {
        let (trigger, shutdown) = shutdown::channel();
        trigger.trigger();
        let (_, outcome) = run(tower("exec sleep 3600").with_shutdown(shutdown), &["a"]);
        assert!(matches!(outcome, Err(EmbedError::Cancelled)));
    }

    #[test]
    fn a_request_larger_than_a_pipe_does_not_block() {
        let long = "x".repeat(1 << 20);
        let (_, outcome) = run(tower("exit 0"), &[&long]);
        assert!(outcome.is_err());
    }
}
