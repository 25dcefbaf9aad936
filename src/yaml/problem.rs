//! A problem in something a person wrote, told so that they can mend it: file, line, column, what is wrong, what to do.

use std::fmt;
use std::path::PathBuf;

use crate::platform::userinfo::shown;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing stops.
    Notice,
    /// Probably not what was meant.
    Warning,
    /// Cannot be used.
    Error,
}

/// One finding. Never holds a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub file: PathBuf,
    /// 1-based line and column where known.
    pub position: Option<(u64, u64)>,
    /// YAML path such as `streams[2].url`; empty for the whole file.
    pub field: String,
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// A few lines of the file around the position, with a marker; empty where unknown.
    pub snippet: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The file's name may have been written on the command line, where anything may be.
        f.write_str(&shown(&self.file))?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        let kind = match self.severity {
            Severity::Notice => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, ": {kind}: ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        if !self.snippet.is_empty() {
            write!(f, "\n{}", self.snippet.trim_end_matches('\n'))?;
        }
        Ok(())
    }
}
