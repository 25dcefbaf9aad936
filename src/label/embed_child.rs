//! Text embedding in a short-lived [child process](crate::platform::child_process), because ONNX Runtime keeps the text tower's memory for as long
//! as the process lives: vtagd starts itself with the hidden command [`SUBCOMMAND`], embeds, and the memory is gone with the child.
//!
//! Its first answer is the fingerprint of the files that it has read, since they may have been changed after the parent opened them; a parent
//! that wants another one refuses it, before anything gets into the cache. Then one answer a text, in order. The parent kills the child on shutdown and when it stays silent too long. Runs on the caller's
//! thread and one reader thread, joined before the call returns; a child that is [kept](ChildTower::kept) serves the next call too, and has its
//! reader thread until then.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::embedder::{EmbedError, InProcessTower, TextEmbedder};
use super::text_encoder::TextEmbedding;
use crate::model::Bundle;
use crate::platform::child_process::{self, Child, ChildError};
use crate::platform::paths;
use crate::platform::shutdown::Shutdown;

/// The command of a child that embeds texts. Not one for people.
pub const SUBCOMMAND: &str = "__embed-texts";

/// It takes no arguments: everything comes on stdin, so that no label text shows up in a process list.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct EmbedChildArgs {}

/// Longest silence of a child that is not taken for a hang: loading gigabytes from a slow disk takes its time.
const CHILD_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Serialize, Deserialize)]
struct Request {
    model: PathBuf,
    library: Option<PathBuf>,
    threads: usize,
    texts: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// [`Bundle::embedding_fingerprint`] of what was read.
    Model {
        fingerprint: String,
    },
    Text {
        index: usize,
        values: Vec<f32>,
        truncated: bool,
    },
}

/// A [`TextEmbedder`] that runs in a child process, started for every call, or kept from one to the next.
pub struct ChildTower {
    program: PathBuf,
    arguments: Vec<String>,
    bundle: Bundle,
    library: Option<PathBuf>,
    threads: usize,
    shutdown: Option<Shutdown>,
    keeps: bool,
    child: Option<Child<Answer>>,
}

impl ChildTower {
    /// For the text tower of `bundle`. The program is this one, which must call [`serve`] when started with [`SUBCOMMAND`].
    pub fn new(bundle: &Bundle, library: Option<PathBuf>, threads: usize) -> Self {
        Self {
            program: child_process::OWN_PROGRAM.into(),
            arguments: vec![SUBCOMMAND.into()],
            bundle: bundle.clone(),
            library,
            threads,
            shutdown: None,
            keeps: false,
            child: None,
        }
    }

    /// Leaves the child, with the tower in its memory, to the next call. It ends with this value.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.keeps = true;
        self
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
}

impl TextEmbedder for ChildTower {
    fn embed(&mut self, texts: &[&str], done: &mut dyn FnMut(usize, TextEmbedding)) -> Result<(), EmbedError> {
        EmbedError::without_tower(&self.bundle, texts)?;
        let dir = &self.bundle.dir;
        let request = Request {
            model: std::path::absolute(dir).unwrap_or_else(|_| dir.clone()),
            library: self.library.clone(),
            threads: self.threads,
            texts: texts.iter().map(|t| (*t).to_owned()).collect(),
        };
        tracing::debug!(texts = texts.len(), "embedding texts in a child process");
        let (next, known, changed) = (Cell::new(0), Cell::new(false), Cell::new(false));
        let mut heard = |answer| match answer {
            Answer::Model { fingerprint } => {
                let same = fingerprint == self.bundle.embedding_fingerprint;
                known.set(same);
                changed.set(!same);
                same && next.get() == 0
            }
            Answer::Text { index, values, truncated } => {
                let expected = known.get() && index == next.get() && index < texts.len();
                if expected {
                    next.set(index + 1);
                    done(index, TextEmbedding { values, truncated });
                }
                expected
            }
        };
        let (stop, patience) = (self.shutdown.as_ref(), Some(CHILD_TIMEOUT));
        let kept = self.child.take();
        let was_kept = kept.is_some();
        let start = || {
            let mut command = Command::new(&self.program);
            command.args(&self.arguments);
            Child::start(command, "embed-reader").map_err(ChildError::Start)
        };
        let mut ask = |child: Result<Child<Answer>, ChildError>| {
            child.and_then(|mut child| child.ask(&request, stop, patience, &mut heard).map(|()| child))
        };
        let mut outcome = ask(kept.map_or_else(start, Ok));
        // One that was kept may have been killed for its memory meanwhile, which says nothing of the texts.
        if was_kept && next.get() == 0 && matches!(outcome, Err(ChildError::Ended(_) | ChildError::Nonsense(_))) {
            outcome = ask(start());
        }
        let outcome = outcome.map(|child| self.child = Some(child).filter(|_| self.keeps));
        let outcome = if outcome.is_ok() && next.get() < texts.len() { Err(ChildError::OutOfOrder) } else { outcome };
        if changed.get() {
            return Err(EmbedError::Changed { dir: self.bundle.dir.clone() });
        }
        outcome.map_err(|error| match error {
            ChildError::Told { message, code: 2 } => EmbedError::Input(message),
            ChildError::Told { message, .. } => EmbedError::Child(message),
            ChildError::Stopped => EmbedError::Cancelled,
            ChildError::Start(error) => {
                EmbedError::Child(format!("cannot start {} to embed texts: {error}", self.program.display()))
            }
            error => EmbedError::Child(format!("the text embedding process {error}")),
        })
    }
}

/// The child's whole life; the exit code.
pub fn serve(_: &EmbedChildArgs) -> u8 {
    let mut loaded = None;
    child_process::serve_all(SUBCOMMAND, |request, say| {
        answer(&request, &mut loaded, say).map_err(|error| (error.to_string(), error.exit_code()))
    })
}

/// `loaded` is the tower of the request before, for a parent that asks of one model alone, and its fingerprint.
fn answer(
    request: &Request,
    loaded: &mut Option<(InProcessTower, String)>,
    say: &mut dyn FnMut(Answer),
) -> Result<(), EmbedError> {
    let open = || Bundle::open_again(&request.model, &paths::cache_dir()).map_err(|e| EmbedError::Input(e.to_string()));
    let texts: Vec<&str> = request.texts.iter().map(String::as_str).collect();
    let (tower, fingerprint) = match loaded {
        Some(loaded) => loaded,
        empty => {
            let bundle = open()?;
            let mut tower = InProcessTower::new(&bundle, request.library.clone(), request.threads);
            tower.load()?;
            // What was the same before and after is what was read between.
            let fingerprint = bundle.embedding_fingerprint;
            if open()?.embedding_fingerprint != fingerprint {
                return Err(EmbedError::Changed { dir: request.model.clone() });
            }
            empty.insert((tower, fingerprint))
        }
    };
    say(Answer::Model { fingerprint: fingerprint.clone() });
    tower.embed(&texts, &mut |index, TextEmbedding { values, truncated }| {
        say(Answer::Text { index, values, truncated });
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bundle::TextSpec;
    use crate::model::{Activation, LogitParameters};
    use crate::platform::shutdown;

    fn bundle() -> Bundle {
        Bundle {
            dir: "m".into(),
            name: "m".into(),
            vision: "v".into(),
            text: Some("t".into()),
            tokenizer: "t".into(),
            preprocessor: "p".into(),
            logit_parameters: LogitParameters { scale: 1.0, bias: 0.0, activation: Activation::Softmax },
            fingerprint: "scores".into(),
            embedding_fingerprint: "f".into(),
            text_spec: TextSpec::default(),
            byte_sums_fit: false,
            known: None,
        }
    }

    fn tower(script: &str) -> ChildTower {
        ChildTower {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            bundle: bundle(),
            library: None,
            threads: 1,
            shutdown: None,
            keeps: false,
            child: None,
        }
    }

    #[test]
    fn a_child_that_is_kept_serves_the_next_call_and_one_that_died_meanwhile_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let started = folder.path().join("started");
        let answer = r#"while read request; do echo '{"answer":{"model":{"fingerprint":"f"}}}'; echo '{"answer":{"text":{"index":0,"values":[1.0],"truncated":false}}}'; echo '"done"'; done"#;
        let mut tower = tower(&format!("echo $$ >> {}; {answer}", started.display())).kept();
        let mut ask = || tower.embed(&["a"], &mut |_, _| {}).unwrap();
        let pids = || std::fs::read_to_string(&started).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
        ask();
        ask();
        assert_eq!(pids().len(), 1);
        assert!(Command::new("kill").args(["-9", &pids()[0]]).status().unwrap().success());
        ask();
        assert_eq!(pids().len(), 2);
        drop(tower);
        assert!(!std::path::Path::new("/proc").join(&pids()[1]).exists(), "it ends with what kept it");
    }

    fn run(mut tower: ChildTower, texts: &[&str]) -> (Vec<usize>, Result<(), EmbedError>) {
        let mut seen = Vec::new();
        let outcome = tower.embed(texts, &mut |index, _| seen.push(index));
        (seen, outcome)
    }

    #[test]
    fn answers_arrive_in_order_and_done_ends_it() {
        let script = r#"read request; echo '{"answer":{"model":{"fingerprint":"f"}}}'; echo '{"answer":{"text":{"index":0,"values":[1.0],"truncated":false}}}'; echo '"done"'; cat >/dev/null"#;
        let (seen, outcome) = run(tower(script), &["a"]);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(seen, [0]);
    }

    #[test]
    fn a_child_that_crashes_is_told_with_how_it_ended_and_keeps_what_it_gave() {
        let script = r#"read request; echo '{"answer":{"model":{"fingerprint":"f"}}}'; echo '{"answer":{"text":{"index":0,"values":[1.0],"truncated":false}}}'; kill -9 $$"#;
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
    fn texts_of_another_model_or_of_an_unnamed_one_are_refused() {
        let text =
            r#"echo '{"answer":{"text":{"index":0,"values":[1.0],"truncated":false}}}'; echo '"done"'; cat >/dev/null"#;
        let (seen, outcome) =
            run(tower(&format!(r#"echo '{{"answer":{{"model":{{"fingerprint":"g"}}}}}}'; {text}"#)), &["a"]);
        assert!(seen.is_empty() && matches!(outcome, Err(EmbedError::Changed { .. })), "{outcome:?}");
        let (seen, outcome) = run(tower(text), &["a"]);
        assert!(seen.is_empty() && outcome.unwrap_err().to_string().contains("out of order"));
    }

    #[test]
    fn a_tower_that_was_removed_is_missed_by_name_and_with_the_texts() {
        let mut tower = tower("exit 0");
        tower.bundle.text = None;
        let texts: Vec<String> = (0..12).map(|n| format!("text {n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (_, outcome) = run(tower, &texts);
        let error = outcome.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        for part in ["text_model.onnx", "12 are not", "\"text 0\"", "4 more"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_request_larger_than_a_pipe_does_not_block() {
        let long = "x".repeat(1 << 20);
        let (_, outcome) = run(tower("exit 0"), &[&long]);
        assert!(outcome.is_err());
    }
}
