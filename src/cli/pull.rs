//! `vtagd model pull`: fetches a model repository from a Hugging Face hub. The folder's path is the one line on stdout; what was
//! chosen and how far it is goes to stderr.
//!
//! The pull runs on a thread of its own, `vtagd-pull`: a server that says nothing must not hold up the end when a person has
//! asked for it. The thread then ends with the process, and whatever it leaves is resumed by the next run.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};
use indicatif::{ProgressBar, ProgressStyle};

use super::{complain, say};
use crate::model::hub::{self, HubError, HubSettings, PullEvent, Pulled, Repo, Request};
use crate::platform::shutdown;

/// Between two progress lines where there is no terminal to draw a bar on.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How long the thread may take to clean up after a wish to stop.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// ORG/NAME, also as hf://ORG/NAME or the address of its page.
    #[arg(value_name = "REPO")]
    repo: String,
    /// Directory to make; must not exist yet [default: one in the cache, which is printed].
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Branch, tag or commit. The commit it stands for is written into hub.json.
    #[arg(short, long, default_value = hub::REVISION)]
    revision: String,
    /// Files to fetch instead of what vtagd reads: `*` is any text, `?` a character; may be given several times.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Ask nobody, take what was fetched before; HF_HUB_OFFLINE=1 does the same.
    #[arg(long)]
    offline: bool,
    /// Attempts after the first, when the hub does not answer or a connection breaks.
    #[arg(long, default_value_t = hub::RETRIES, value_parser = clap::value_parser!(u32).range(..=100))]
    retries: u32,
}

/// Does it; the exit code.
pub fn run(args: &Args) -> u8 {
    match pull(args) {
        Ok(pulled) => {
            tracing::debug!(origin = %pulled.origin.short(), fetched = pulled.fetched, "pulled");
            say(&pulled.dir.display().to_string());
            0
        }
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn pull(args: &Args) -> Result<Pulled, HubError> {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    let mut settings = HubSettings::from_env()?;
    settings.offline |= args.offline;
    let request = Request {
        repo: Repo::parse(&args.repo, settings.endpoint_text())?,
        revision: args.revision.clone(),
        include: args.include.clone(),
        out: args.out.clone(),
        retries: args.retries,
    };
    let mut meter = Meter::new(&request);
    let bar = meter.bar.clone();
    let (sender, done) = bounded(1);
    let wish = shutdown.clone();
    let thread = thread::Builder::new().name("vtagd-pull".into()).spawn(move || {
        let result = hub::pull(&request, &settings, &wish, &mut |event| meter.show(&event));
        // Nobody waits any more if a person was in a hurry.
        let _ = sender.send(result);
    });
    let thread = thread.map_err(|source| HubError::Thread { source })?;
    let result = select! {
        recv(done) -> result => result.ok(),
        recv(shutdown.receiver()) -> _ => done.recv_timeout(GRACE).ok(),
    };
    bar.finish_and_clear();
    match result {
        Some(result) => {
            // It has sent its result, which was its last act.
            let _ = thread.join();
            result
        }
        None => Err(HubError::Stopped),
    }
}

/// Says what was chosen; then a bar on a terminal, a line now and then elsewhere.
struct Meter {
    name: String,
    bar: ProgressBar,
    terminal: bool,
    last: Instant,
}

impl Meter {
    fn new(request: &Request) -> Self {
        let terminal = io::stderr().is_terminal();
        let style =
            ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left  {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = if terminal { ProgressBar::no_length().with_style(style) } else { ProgressBar::hidden() };
        Self { name: format!("{} at {}", request.repo, request.revision), bar, terminal, last: Instant::now() }
    }

    fn show(&mut self, event: &PullEvent<'_>) {
        match event {
            PullEvent::Chosen { commit, what, files, bytes, missing, left } => {
                note(&format!("{} is commit {commit}", self.name));
                note(&format!("taking {what}: {files} files, {}, {} to fetch", size(*bytes), size(*missing)));
                if !left.is_empty() {
                    note(&format!("leaving {}", summary(left)));
                }
            }
            PullEvent::Progress { file, done, total } => {
                if self.bar.length() != Some(*total) {
                    self.bar.set_length(*total);
                    // What an earlier run fetched is no part of the speed.
                    self.bar.set_position(*done);
                    self.bar.reset_eta();
                }
                self.bar.set_position(*done);
                self.bar.set_message((*file).to_owned());
                if !self.terminal && self.last.elapsed() >= LINE_EVERY {
                    self.last = Instant::now();
                    tracing::info!(file, done, total, "pulling");
                }
            }
        }
    }
}

/// A line for a person, on stderr: stdout holds the path alone.
fn note(line: &str) {
    // With stderr closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

fn size(bytes: u64) -> String {
    if bytes < 100_000 { format!("{bytes} bytes") } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}

/// Names at the top, folders with the number of their files.
fn summary(names: &[&str]) -> String {
    const MOST: usize = 12;
    let mut counts = BTreeMap::new();
    for name in names {
        let top = name.split_once('/').map_or_else(|| (*name).to_owned(), |(folder, _)| format!("{folder}/"));
        *counts.entry(top).or_insert(0_usize) += 1;
    }
    let more = counts.len().saturating_sub(MOST);
    let mut parts: Vec<String> = counts
        .into_iter()
        .take(MOST)
        .map(|(name, count)| if name.ends_with('/') { format!("{name} ({count})") } else { name })
        .collect();
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_shortly() {
        assert_eq!(summary(&["README.md", "onnx/a", "onnx/b/c", "tf_model.h5"]), "README.md, onnx/ (2), tf_model.h5");
        let many: Vec<String> = (0..20).map(|n| format!("f{n:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(summary(&many).ends_with("f11, 8 more"));
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!((size(900), size(605_247_071)), ("900 bytes".to_owned(), "605.2 MB".to_owned()));
    }
}
