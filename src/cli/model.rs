//! `vtagd model`: `import` makes a model directory of a checkpoint, `inspect` tells what a model directory holds;
//! `pull` is in [`pull`], `export-triton` in [`export_triton`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::progress::Meter;
use super::{complain, export_triton, pull, say};
use crate::daemon::engine::spec_of;
use crate::infer::runtime;
use crate::model::import::manifest::{self, Manifest};
use crate::model::import::measure::GraphRunner;
use crate::model::import::synthetic::{self, Synthetic};
use crate::model::import::write_bundle::{self, ImportOptions, ImportProgress, ImportSource, ImportStep};
use crate::model::import::{ImportError, open_checkpoint};
use crate::model::onnx::Precision;
use crate::model::{self, Bundle, ModelError};
use crate::platform::paths;
use crate::platform::shutdown::{self, Shutdown};

/// What stands before a made-up checkpoint's name.
const SYNTHETIC: &str = "synthetic:";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a model directory of a checkpoint.
    Import {
        /// Checkpoint folder, or `synthetic:vit-b-32` for made-up weights (also vit-b-16, vit-l-14, vit-h-14,
        /// siglip-b-16-224, siglip2-b-16-224, siglip2-so400m-14-224).
        #[arg(value_name = "SRC")]
        source: PathBuf,
        /// Directory to make; must not exist yet.
        #[arg(short, long, value_name = "DIR")]
        out: PathBuf,
        /// What weights are stored as and computed with.
        #[arg(short, long, default_value = "fp32")]
        precision: Precision,
        /// Leave out measuring speed and agreement with 32 bits.
        #[arg(long)]
        no_measure: bool,
    },
    /// Fetch a model from a Hugging Face hub; prints the folder, which `import`, `-m` and `model.path` take.
    ///
    /// HF_ENDPOINT names another hub. A token for private and gated models comes from HF_TOKEN, the file HF_TOKEN_PATH names, or
    /// the one of `huggingface-cli login`. An interrupted pull goes on where it was.
    Pull(pull::Args),
    /// Tell what a model directory holds.
    Inspect {
        /// Model directory, or hf:ORG/NAME[@REVISION], which is pulled once [default: the starter model, or VTAGD_MODEL].
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make a model repository for Triton of a model directory: a GPU server that many boxes share.
    ExportTriton(export_triton::Args),
}

/// Does it; the exit code.
pub fn run(command: &Command) -> u8 {
    match command {
        Command::Import { source, out, precision, no_measure } => import(source, out, *precision, !no_measure),
        Command::Pull(args) => pull::run(args),
        Command::ExportTriton(args) => export_triton::run(args),
        Command::Inspect { dir, json } => match inspect(dir.as_deref(), *json) {
            Ok(()) => 0,
            Err(error) => {
                complain(&error);
                2
            }
        },
    }
}

fn import(source: &Path, out: &Path, precision: Precision, measure: bool) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    let started = Instant::now();
    match import_or_fail(source, out, precision, measure, &shutdown) {
        Ok(manifest) => {
            say(&format!(
                "{}: {} in {precision}, {:.1} s",
                out.display(),
                manifest.name,
                started.elapsed().as_secs_f32()
            ));
            for (precision, m) in &manifest.measured {
                say(&measurement_line(precision, m));
            }
            0
        }
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn import_or_fail(
    source: &Path,
    out: &Path,
    precision: Precision,
    measure: bool,
    shutdown: &Shutdown,
) -> Result<Manifest, ImportError> {
    let runtime =
        if measure { Some(runtime::load(None).map_err(|e| ImportError::Measure(e.to_string()))?) } else { None };
    let runner = runtime.as_ref().map(|runtime| runtime as &dyn GraphRunner);
    let mut meter = Meter::new();
    let mut progress = |ImportProgress { step, done, total }: ImportProgress| {
        let template = match step {
            ImportStep::Writing => "writing   {bar:30} {bytes}/{total_bytes}, {eta} left",
            ImportStep::Measuring => "measuring {bar:30} {pos}/{len} parts, {eta} left",
        };
        if meter.show(template, "", done, total) {
            tracing::info!(?step, done, total, "importing");
        }
        if shutdown.is_requested() { Err(ImportError::Stopped) } else { Ok(()) }
    };
    let options = ImportOptions::new(precision);
    let Some(name) = source.to_str().and_then(|s| s.strip_prefix(SYNTHETIC)) else {
        let checkpoint = open_checkpoint(source)?;
        return write_bundle::run(&ImportSource::of(&checkpoint), out, options, runner, &mut progress);
    };
    let (architecture, tensors) = Synthetic::new(name).ok_or_else(|| ImportError::Unsupported {
        file: source.to_owned(),
        what: "this made-up architecture".into(),
        remedy: format!("choose one of {}", synthetic::NAMES.join(", ")),
    })?;
    let (name, from) = (format!("{name}-synthetic"), source.display().to_string());
    let source = ImportSource::made_up(name, from, &architecture, &tensors);
    write_bundle::run(&source, out, options, runner, &mut progress)
}

fn measurement_line(precision: &str, m: &manifest::Measurement) -> String {
    let megabytes = m.bytes as f64 / 1e6;
    let speed = m.images_per_second;
    format!("  {precision}  {megabytes:.1} MB  {speed:.2} images/s  cosine with fp32 {:.5}", m.cosine)
}

/// What `inspect --json` prints. Stable; fields may be added.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    dir: PathBuf,
    fingerprint: String,
    /// Whether it is the one that was written down at import; `None` for bundles that were not imported.
    unchanged: Option<bool>,
    bytes: u64,
    files: Vec<FileReport>,
    logit_scale: f32,
    logit_bias: f32,
    activation: crate::model::Activation,
    /// Height and width of the pictures it takes.
    input: (u32, u32),
    preprocessing: String,
    /// `vtagd.json`, where the directory is our own bundle.
    manifest: Option<Manifest>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    file: PathBuf,
    bytes: u64,
}

fn inspect(dir: Option<&Path>, json: bool) -> Result<(), anyhow::Error> {
    let dir = pull::model_folder(dir, &shutdown::channel().1)?;
    let report = report(&dir)?;
    if json {
        say(&serde_json::to_string(&report)?);
        return Ok(());
    }
    say(&format!("{}  ({})", report.name, report.dir.display()));
    let changed = match report.unchanged {
        Some(false) => "  (files were changed since the import)",
        _ => "",
    };
    say(&format!("fingerprint    {}{changed}", report.fingerprint));
    say(&format!("scores         {:?}, scale {}, bias {}", report.activation, report.logit_scale, report.logit_bias));
    say(&format!("input          {}x{}", report.input.1, report.input.0));
    say(&format!("preprocessing  {}", report.preprocessing));
    if let Some(manifest) = &report.manifest {
        let s = &manifest.architecture;
        say(&format!("source         {}", manifest.source));
        say(&format!("precision      {}", manifest.precision));
        for (name, t) in [("image tower", &s.vision), ("text tower", &s.text)] {
            say(&format!(
                "{name:14} {} layers, width {}, {} heads, mlp {}, {}, pooled by {}",
                t.layers, t.width, t.heads, t.mlp, t.activation, t.pooling
            ));
        }
        say(&format!("embedding      {} values", s.embed_dim));
        say(&format!("               patches of {}, {} tokens of text, vocabulary {}", s.patch, s.context, s.vocab));
        manifest.measured.iter().for_each(|(precision, m)| say(&measurement_line(precision, m)));
    }
    say(&format!("files          {:.1} MB", report.bytes as f64 / 1e6));
    for file in &report.files {
        say(&format!("  {:>12}  {}", file.bytes, file.file.display()));
    }
    Ok(())
}

fn report(dir: &Path) -> Result<Report, anyhow::Error> {
    let bundle = Bundle::open_with_cache(dir, Some(&paths::cache_dir()))?;
    let spec = spec_of(&bundle)?;
    let manifest = manifest(dir)?;
    let mut files = Vec::new();
    for file in bundle.files() {
        let bytes = fs::metadata(&file)?.len();
        files.push(FileReport { file: file.strip_prefix(dir).unwrap_or(&file).to_owned(), bytes });
    }
    Ok(Report {
        name: bundle.name,
        dir: dir.to_owned(),
        unchanged: manifest.as_ref().map(|m| m.fingerprint == bundle.fingerprint),
        fingerprint: bundle.fingerprint,
        bytes: files.iter().map(|f| f.bytes).sum(),
        files,
        logit_scale: bundle.logit_parameters.scale,
        logit_bias: bundle.logit_parameters.bias,
        activation: bundle.logit_parameters.activation,
        input: spec.size(),
        preprocessing: bundle.preprocessor.strip_prefix(dir).unwrap_or(&bundle.preprocessor).display().to_string(),
        manifest,
    })
}

/// The manifest, where `vtagd.json` is one; a hand-written one with a scale alone is not.
pub(super) fn manifest(dir: &Path) -> Result<Option<Manifest>, ModelError> {
    let value: Option<serde_json::Value> = model::read_json(&dir.join(manifest::FILE))?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}
