//! `vtagd labels`: check label-set files, and fill the text-embedding cache so that the daemon starts without the text tower.
//! `labels_state.rs` has what is about the daemon's copies of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::progress::Meter;
use super::{calibrate, calibrate_confirm, check, complain, labels_state, plural, pull, report, say, search};
use crate::daemon::engine;
use crate::label::cache::EmbeddingCache;
use crate::label::embed_child::ChildTower;
use crate::label::embedder::{EmbedProgress, EmbedReport, Embedder};
use crate::label::{LabelSet, set};
use crate::model::{Bundle, prepared};
use crate::platform::paths;
use crate::platform::shutdown;
use crate::score::{Scorer, SetEmbeddings};
use crate::yaml::problem::Problem;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check label-set files and print every problem.
    Check {
        /// Label-set files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Also ask a model directory, `starter` or hf:ORG/NAME[@REVISION]: labels that are nearer to the background than to anything else.
        #[arg(short, long, value_name = "DIR")]
        model: Option<PathBuf>,
    },
    /// Print the JSON Schema of label-set files, for editors.
    Schema,
    /// Embed the texts of label-set files into the cache.
    Embed {
        /// Label-set files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Model directory, or hf:ORG/NAME[@REVISION], which is pulled once [default: the starter model, or VTAGD_MODEL].
        #[arg(short, long, value_name = "DIR")]
        model: Option<PathBuf>,
    },
    /// Find the thresholds of a label set's labels on a stream, from what it has shown and marks.
    ///
    /// What it has shown is its history, from a minute before the first mark on; or clips, which are seen as the stream would see them: its view,
    /// its interval, its model. --marks has what is seen when in the clip of the same place; without it the marks are those of `vtagd marks`.
    /// Nothing changes without --write.
    Calibrate(calibrate::Args),
    /// Say how far the labels of a set can be trusted on a stream, as they are: how they do on what is marked, and how often strangers are told.
    ///
    /// What the stream was like, and marks, are given as for `calibrate`. Pictures of things that the set does not mean are pasted into empty moments
    /// of the clips, at several places and sizes: the intruder rate is how often a label is told all the same. Nothing changes.
    Report(report::Args),
    /// Let calibrated thresholds count that wait, as the model, a prompt, the view or the interval is another now.
    Confirm(calibrate_confirm::Confirm),
    /// Try a phrase on the history, before it becomes a label: how its margins are spread, and its best moments. No set is touched.
    Try(search::TryArgs),
    /// Print a label set of a configuration as it is in force: its file, or the copy of it that the daemon keeps.
    Export(labels_state::Export),
    /// Remove the daemon's copy of a label set, so that its file is in force again.
    ///
    /// A daemon that runs does it itself and goes on with the file at once; that needs its API and `api.token`.
    Reset(labels_state::Reset),
}

/// Does it; the exit code.
pub fn run(command: Command) -> u8 {
    match command {
        Command::Check { files, model } => {
            let (sets, code) = read(&files);
            match model {
                Some(model) if code == 0 => compare(&sets, &model),
                _ => code,
            }
        }
        Command::Schema => {
            say(&format!("{:#}", set::json_schema()));
            0
        }
        Command::Embed { files, model } => {
            let (sets, code) = read(&files);
            if code != 0 {
                return code;
            }
            embed(&sets, model.as_deref())
        }
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Confirm(args) => calibrate_confirm::confirm(&args),
        Command::Try(args) => search::run_try(&args),
        Command::Export(args) => labels_state::export(&args),
        Command::Reset(args) => labels_state::reset(&args),
    }
}

/// The sets of the files that are right, and 2 if any is not. A set that is fine is told in one line.
fn read(files: &[PathBuf]) -> (Vec<LabelSet>, u8) {
    let (mut sets, mut code) = (Vec::<LabelSet>::new(), 0);
    for file in files {
        match set::load(file) {
            Ok((set, warnings)) => {
                tell(&warnings);
                if let Some(other) = sets.iter().find(|other| other.name == set.name) {
                    let (file, other) = (file.display(), other.file.display());
                    say(&format!(
                        "{file}: error: the set is called `{}`, as in {other}; give each set its own name",
                        set.name
                    ));
                    code = 2;
                    continue;
                }
                let prompts: usize = set.labels.iter().map(|l| l.prompts.len() + l.negatives.len()).sum();
                say(&format!(
                    "{}: ok, set `{}`, {}, {}, {}, {} background",
                    file.display(),
                    set.name,
                    plural(set.labels.len(), "label"),
                    plural(prompts, "prompt"),
                    plural(set.templates.len(), "template"),
                    set.background_prompts().len()
                ));
                sets.push(set);
            }
            Err(problems) => {
                tell(&problems);
                code = 2;
            }
        }
    }
    (sets, code)
}

/// As [`check::report`] has it, on standard output: here they are the results.
fn tell(problems: &[Problem]) {
    let mut text = Vec::new();
    // A vector takes everything.
    let _ = check::report(problems, &mut text);
    if let Some(text) = String::from_utf8_lossy(&text).strip_suffix('\n') {
        say(text);
    }
}

fn embed(sets: &[LabelSet], model: Option<&Path>) -> u8 {
    embedded(sets, model, &mut |bundle, _, report| {
        let cut = if report.truncated > 0 {
            format!(", {} longer than the model reads", report.truncated)
        } else {
            String::new()
        };
        say(&format!(
            "{} texts embedded with {}, {} were in the cache ({}){cut}",
            report.embedded,
            bundle.name,
            report.cached,
            paths::cache_dir().display()
        ));
    })
}

/// Says what the model makes doubtful about the sets.
fn compare(sets: &[LabelSet], model: &Path) -> u8 {
    embedded(sets, Some(model), &mut |bundle, embeddings, _| {
        let scorer = |set| Scorer::new(set, bundle.logit_parameters).map(Arc::new);
        let scorers = match embeddings.iter().map(scorer).collect::<Result<Vec<_>, _>>() {
            Ok(scorers) => scorers,
            Err(error) => return complain(&format!("the embeddings of {} do not fit together: {error}", bundle.name)),
        };
        for (set, doubts) in sets.iter().zip(engine::doubts(sets, &scorers)) {
            let mut text = Vec::new();
            // A vector takes everything.
            let _ = check::tell_doubts(&set.file, &doubts, &mut text);
            if let Some(text) = String::from_utf8_lossy(&text).strip_suffix('\n') {
                say(text);
            }
        }
    })
}

/// The embeddings of the sets, which `done` is told of; the exit code.
fn embedded(
    sets: &[LabelSet],
    model: Option<&Path>,
    done: &mut dyn FnMut(&Bundle, &[SetEmbeddings], &EmbedReport),
) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    let bundle =
        match pull::model_folder(model, &shutdown).and_then(|dir| prepared::open(&dir, &|| shutdown.is_requested())) {
            Ok(bundle) => bundle,
            Err(error) => {
                complain(&error);
                return error.exit_code();
            }
        };
    let cache_dir = paths::cache_dir();
    let mut cache = EmbeddingCache::new(&cache_dir, &bundle.embedding_fingerprint);
    let mut tower = ChildTower::new(&bundle, None, 0).with_shutdown(shutdown);
    let mut meter = Meter::new();
    let mut progress = |EmbedProgress { ready, total }: EmbedProgress| {
        let template = "embedding {bar:30} {pos}/{len} texts, {eta} left";
        if meter.show(template, "", ready as u64, total as u64) {
            tracing::info!(ready, total, "embedding texts");
        }
    };
    let outcome = Embedder { cache: &mut cache, tower: &mut tower, dim: None, progress: &mut progress }.sets(sets);
    drop(meter);
    match outcome {
        Ok((embeddings, report)) => {
            done(&bundle, &embeddings, &report);
            0
        }
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}
