//! `vtagd model export-triton`: a model repository of Triton out of a model directory, and what to write into the boxes' configuration.

use std::path::PathBuf;

use super::{complain, pull, say};
use crate::daemon::engine::spec_of;
use crate::infer::graph::IMAGE_OUTPUTS;
use crate::model::Bundle;
use crate::model::triton_repository::{self, ExportError, TritonBackend, TritonExport};
use crate::platform::{paths, shutdown};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model directory, or hf:ORG/NAME[@REVISION], which is pulled once [default: the starter model, or VTAGD_MODEL].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Model repository; the model becomes a folder in it.
    #[arg(short, long, value_name = "REPO")]
    out: PathBuf,
    /// What boxes call the model [default: the bundle's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What Triton runs it with.
    #[arg(long, default_value = "onnxruntime")]
    backend: TritonBackend,
    /// What the server's model takes: `u8`, bytes that it normalises itself, or `f32`, a picture four times as large.
    #[arg(long, default_value = "u8", value_parser = ["u8", "f32"])]
    input: String,
    /// Most pictures in a run of the server.
    #[arg(long, default_value = "64", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_batch: u32,
}

/// Does it; the exit code.
pub fn run(args: &Args) -> u8 {
    match export(args) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            let disk = matches!(error.downcast_ref(), Some(ExportError::Disk { .. }));
            if disk { 1 } else { 2 }
        }
    }
}

fn export(args: &Args) -> Result<(), anyhow::Error> {
    let dir = pull::model_folder(args.dir.as_deref(), &shutdown::channel().1)?;
    let bundle = Bundle::open_with_cache(&dir, Some(&paths::cache_dir()))?;
    let spec = spec_of(&bundle)?;
    let name = match &args.name {
        Some(name) if is_name(name) => name.clone(),
        Some(name) => anyhow::bail!("--name {}: use letters, digits, `.`, `_` and `-`", name.escape_default()),
        None => named_after(&bundle.name),
    };
    let wanted = TritonExport {
        bundle: &bundle,
        spec: &spec,
        outputs: IMAGE_OUTPUTS,
        name,
        backend: args.backend,
        bytes: args.input == "u8",
        max_batch: args.max_batch,
    };
    let exported = triton_repository::export(&wanted, &args.out)?;
    say(&format!("{}: {} for Triton, input {}", exported.folder.display(), bundle.name, args.input));
    let precision = super::model::manifest(&dir)?.map(|manifest| manifest.precision.to_string());
    if let Some(precision) = precision.filter(|precision| precision.starts_with("int")) {
        say(&format!(
            "note: {precision} is for CPUs; for a GPU import the model with --precision fp16 and export that"
        ));
    }
    if let Some(command) = exported.then {
        say(&format!("then, on the server: {command}"));
    }
    say(&format!(
        "boxes: runtime: {{ providers: [ {{ remote: {{ url: \"grpc://HOST:8001\", model: {} }} }}, cpu ] }}",
        wanted.name
    ));
    Ok(())
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=200).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.')
}

/// A name that a server takes, of one that a person gave.
fn named_after(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let made: String = name.chars().map(plain).take(200).collect();
    let made = made.trim_matches(['-', '.']).to_owned();
    if is_name(&made) { made } else { "vision".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_gets_a_name_that_a_server_takes() {
        assert_eq!(named_after("vit-h-14"), "vit-h-14");
        assert_eq!(named_after("ViT H/14 (laion)"), "ViT-H-14--laion");
        assert_eq!(named_after("狐"), "vision");
        assert!(is_name("a.b_c-1") && !is_name("") && !is_name(".x") && !is_name("a/b"));
    }
}
