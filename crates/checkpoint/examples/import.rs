//! Imports a checkpoint folder without measuring it: `cargo run --example import -- CHECKPOINT OUT [fp32|fp16|int8|int4]`.
#![allow(clippy::print_stdout, reason = "a command says what it has done")]

use std::error::Error;
use std::path::Path;

use vtagd_checkpoint::import::open_checkpoint;
use vtagd_checkpoint::import::write_bundle::{ImportOptions, ImportSource, run};
use vtagd_checkpoint::onnx::Precision;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else {
        return Err("usage: import CHECKPOINT OUT [fp32|fp16|int8|int4]".into());
    };
    let named = arguments.next().unwrap_or_else(|| "fp32".to_owned());
    let precision = Precision::ALL.into_iter().find(|one| one.as_str() == named).ok_or("no such precision")?;
    let checkpoint = open_checkpoint(Path::new(&from))?;
    let source = ImportSource::of(&checkpoint);
    let manifest = run(&source, Path::new(&to), ImportOptions::new(precision), None, &mut |_| Ok(()))?;
    println!("{}: {} values, fingerprint {}", manifest.name, manifest.architecture.embed_dim, manifest.fingerprint);
    Ok(())
}
