//! Texts from the command line, for `tag` and `embed`: templates, checked as those of a label set are, and files that hold
//! a text a line. Runs on the caller's thread; a file may have a mebibyte, a larger one is refused.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::label::{Ensemble, prompt_template};

/// Label sets have the same limit.
const MAX_BYTES: u64 = 1 << 20;
/// Standard input in place of a file.
const STDIN: &str = "-";

/// Templates and what to do with several.
#[derive(Debug, clap::Args)]
pub struct TemplateArgs {
    /// A text around each label or text, with {} for its place, such as "a photo of {}"; may be given several times.
    #[arg(long, value_name = "TEXT", value_parser = parse_template)]
    template: Vec<String>,
    /// A file of templates, one a line; empty lines and lines that begin with # do not count.
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
    /// What is averaged over several templates: embeddings (of the texts; the default) or probabilities.
    #[arg(long, value_enum, value_name = "WHAT", hide_possible_values = true)]
    pub ensemble: Option<Ensemble>,
}

fn parse_template(text: &str) -> Result<String, String> {
    match prompt_template::problem(text) {
        Some(problem) => Err(format!("{problem}; {}", prompt_template::REMEDY)),
        None => Ok(text.trim().to_owned()),
    }
}

impl TemplateArgs {
    /// All templates, in the order given, those of the file last; none is no template at all.
    ///
    /// # Errors
    /// A file that cannot be read or is empty, or a line without its `{}`; says which, and what to do.
    pub fn read(&self) -> Result<Vec<String>, String> {
        let mut templates = self.template.clone();
        if let Some(file) = &self.templates {
            let before = templates.len();
            for (number, line) in lines(file)?.into_iter().filter(|(_, line)| !line.starts_with('#')) {
                templates.push(parse_template(&line).map_err(|e| format!("{}:{number}: {e}", file.display()))?);
            }
            if templates.len() == before {
                return Err(format!("{}: has no template; write one a line, such as a photo of {{}}", file.display()));
            }
        }
        if self.ensemble == Some(Ensemble::Probabilities) && templates.len() == 1 {
            warn!("with one template there is nothing to average: --ensemble changes nothing");
        }
        Ok(templates)
    }
}

/// The lines of `file` (`-`: standard input) that are not empty, without white space around them, with their numbers.
///
/// # Errors
/// A file that cannot be read, is too large, or is no text.
pub fn lines(file: &Path) -> Result<Vec<(usize, String)>, String> {
    let cannot = |error: io::Error| format!("{}: cannot be read: {error}", file.display());
    let reader: Box<dyn Read> =
        if file.as_os_str() == STDIN { Box::new(io::stdin()) } else { Box::new(File::open(file).map_err(cannot)?) };
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("{}: has more than 1 MiB; split it", file.display()));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8; save it as UTF-8", file.display()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim().to_owned()));
    Ok(numbered.filter(|(_, line)| !line.is_empty()).collect())
}
