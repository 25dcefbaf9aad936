//! `vtagd history`: what is kept of the past, taken out by hand. On the folder of a daemon that does not run.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{DEFAULT_CONFIG, complain, pull, say};
use crate::config::{self, Absence, ModelChoice, ModelSettings};
use crate::history::moment_search::ViewsInForce;
use crate::history::purge::{self, Purged, Which};
use crate::history::row_store::StoreError;
use crate::platform::shutdown::Shutdown;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take rows out of the history: of a stream, before a time, or all. The daemon must not run.
    Purge {
        #[command(flatten)]
        place: Place,
        /// Of this stream alone, be it configured or not.
        #[arg(long, value_name = "STREAM")]
        stream: Option<String>,
        /// Only what ended before then: a time such as 2026-05-01T12:00:00Z, or how long ago, such as 7d.
        #[arg(long, value_parser = super::events::time)]
        before: Option<jiff::Timestamp>,
        /// Everything, where nothing else says which.
        #[arg(long, conflicts_with_all = ["stream", "before"])]
        all: bool,
    },
}

/// Where the history is.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Configuration file, for its `history.path` and its model.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The folder itself; the configuration is not read then.
    #[arg(long, value_name = "FOLDER")]
    history: Option<PathBuf>,
}

/// What [`Place::find`] has found.
pub(super) struct FoundHistory {
    pub folder: PathBuf,
    pub model: ModelSettings,
    pub views: Option<ViewsInForce>,
}

impl Place {
    pub(super) fn new(config: &Path, history: Option<&Path>) -> Self {
        Self { config: config.to_owned(), history: history.map(Path::to_owned) }
    }

    /// The folder, the model that is asked for, and the views that streams have now, where they are known.
    ///
    /// # Errors
    /// Why there is none, for a person.
    pub(super) fn find(&self, model: Option<&Path>, shutdown: &Shutdown) -> Result<FoundHistory, String> {
        let given = |_: ()| pull::model_folder(model, shutdown).map(ModelChoice::Path).map(ModelSettings::from);
        if let Some(folder) = &self.history {
            let model = given(()).map_err(|error| error.to_string())?;
            return Ok(FoundHistory { folder: folder.clone(), model, views: None });
        }
        let settings = config::load_for(&self.config, Absence::Passed).map_err(|problems| {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            format!("{first}\nname a configuration with -c, or the folder with --history")
        })?;
        let views = Some(config::views_in_force(&settings.streams));
        let folder = settings.history.and_then(|history| history.path).ok_or_else(|| {
            let file = self.config.display();
            format!("{file} keeps no history on disk; set `history: {{}}` there, or name a folder with --history")
        })?;
        let model = if model.is_some() { given(()).map_err(|error| error.to_string())? } else { settings.model };
        Ok(FoundHistory { folder, model, views })
    }

    fn folder(&self) -> Result<PathBuf, String> {
        match &self.history {
            Some(folder) => Ok(folder.clone()),
            None => {
                let (_, shutdown) = crate::platform::shutdown::channel();
                self.find(None, &shutdown).map(|found| found.folder)
            }
        }
    }
}

/// Does it; the exit code.
pub fn run(command: &Command) -> u8 {
    let Command::Purge { place, stream, before, all } = command;
    if stream.is_none() && before.is_none() && !all {
        complain(&"say what is to go: --stream, --before, or --all");
        return 2;
    }
    let folder = match place.folder() {
        Ok(folder) if folder.is_dir() => folder,
        Ok(folder) => {
            complain(&format!("{} is no folder", folder.display()));
            return 2;
        }
        Err(error) => {
            complain(&error);
            return 2;
        }
    };
    let which = Which { stream: stream.as_deref(), before: before.map(jiff::Timestamp::as_millisecond) };
    match purge::purge(&folder, which) {
        Ok(Purged { rows, left }) => {
            say(&format!("{rows} rows were taken out, {left} are left"));
            0
        }
        Err(error @ StoreError::InUse(_)) => {
            complain(&format!("{error}; stop the daemon first"));
            1
        }
        Err(error) => {
            complain(&error);
            1
        }
    }
}
