//! Prometheus's own checker, from `make setup`, or from the path where this is no Debian.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::daemon::root;

/// Runs promtool in `folder` with `input` on stdin; what it said, as an error where it did not agree.
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
    let ours = root().join(".setup/promtool");
    let program = if ours.exists() { ours } else { "promtool".into() };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run `make setup` first: it fetches .setup/promtool");
    // One that does not read it has said why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}
