//! `vtagd model pull`: fetches a model repository from a Hugging Face hub. The folder's path is the one line on stdout; what was
//! chosen and how far it is goes to stderr. Other commands take `hf:ORG/NAME` for a model and pull it the same way ([`model_folder`]).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::progress::Meter;
use super::{complain, say};
use crate::model::hub::{self, HubError, PullEvent, Pulled, Reference, Repo, Request};
use crate::model::{self, ModelError};
use crate::platform::shutdown::{self, Shutdown};

const BAR: &str = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left  {wide_msg}";

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
    let mut settings = hub::from_env()?;
    settings.offline |= args.offline;
    let request = Request {
        repo: Repo::parse(&args.repo, settings.endpoint_text())?,
        revision: args.revision.clone(),
        include: args.include.clone(),
        out: args.out.clone(),
        retries: args.retries,
    };
    watched(&Reference { repo: request.repo.clone(), revision: request.revision.clone() }, |meter| {
        hub::background::pull_in_background(request, settings, &shutdown, meter)
    })
}

/// The model of a command: `-m`, else `VTAGD_MODEL`, else the starter model. `hf:ORG/NAME` is pulled, once.
///
/// # Errors
/// No such model, or one that cannot be pulled.
pub(super) fn model_folder(given: Option<&Path>, shutdown: &Shutdown) -> Result<PathBuf, ModelError> {
    let variable = || std::env::var_os("VTAGD_MODEL").filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = given.map(Path::to_owned).or_else(variable).unwrap_or_else(|| model::STARTER.into());
    match Reference::read_path(&named) {
        Some(reference) => {
            let reference = reference?;
            Ok(watched(&reference, |meter| hub::background::obtain(&reference, shutdown, meter))?.dir)
        }
        None => model::resolve(&named),
    }
}

/// Runs `pull` with something that shows how far it is.
fn watched<T>(
    what: &Reference,
    pull: impl FnOnce(Box<dyn FnMut(PullEvent<'_>) + Send>) -> Result<T, HubError>,
) -> Result<T, HubError> {
    let name = format!("{} at {}", what.repo, what.revision);
    let meter = Meter::new();
    let mut moved = meter.clone();
    let result = pull(Box::new(move |event| show(&name, &event, &mut moved)));
    drop(meter);
    result
}

/// Says what was chosen, then how far it is.
fn show(name: &str, event: &PullEvent<'_>, meter: &mut Meter) {
    match event {
        PullEvent::Chosen { commit, what, files, bytes, missing, left } => {
            note(&format!("{name} is commit {commit}"));
            note(&format!("taking {what}: {files} files, {}, {} to fetch", size(*bytes), size(*missing)));
            if !left.is_empty() {
                note(&format!("leaving {}", summary(left)));
            }
        }
        PullEvent::Progress { file, done, total } => {
            if meter.show(BAR, file, *done, *total) {
                tracing::info!(file, done, total, "pulling");
            }
        }
        PullEvent::Away { error, commit } => {
            note(&format!("{error}"));
            note(&format!("taking what was pulled before: {name} was commit {commit}"));
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
