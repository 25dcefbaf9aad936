//! Imports to places that are full, read-only or no folder at all, and imports that are killed: through the real binary, on real
//! file systems where this machine lets us mount them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use vtagd::model::Bundle;

use crate::common::daemon::{eventually, root, vtagd};

/// 0.9 MB as a bundle.
fn checkpoint() -> PathBuf {
    root().join("tests/conformance/checkpoints/openclip-vit")
}

fn import(temporary: &Path, source: &Path, out: &Path) -> Command {
    let mut command = vtagd(temporary);
    command.args(["model", "import", "--no-measure"]).arg(source).arg("--out").arg(out);
    command
}

/// Runs `command` behind `script`, which ends in `exec "$@"`.
fn behind(script: &str, shell: &[&str], command: &Command) -> Command {
    let mut whole = Command::new(shell[0]);
    whole.args(&shell[1..]).args(["sh", "-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    whole.current_dir(root());
    whole
}

/// Names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// That the import failed at run time and says where and what to do.
fn refused(output: &Output, out: &Path, why: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let place = out.to_str().unwrap();
    for part in [place.trim_end_matches('/'), why, "check free space and permissions, or choose another --out"] {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// Whether a user and mount namespace of our own can be had here.
fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: this machine does not let an ordinary user mount a file system of its own (unshare -Urm)");
    }
    can
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path().join("models");
    let out = place.join("bundle");
    let limited = import(temporary.path(), &checkpoint(), &out);
    // In units of 512 bytes; the signal that would end the process is ignored, so that writing fails.
    let output = behind("trap '' XFSZ; ulimit -f 100; exec \"$@\"", &["env"], &limited).output().unwrap();
    refused(&output, &place, "File too large");
    assert_eq!(names(&place), [""; 0]);
    assert!(import(temporary.path(), &checkpoint(), &out).output().unwrap().status.success());
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let disk = temporary.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let command = import(temporary.path(), &checkpoint(), &disk.join("bundle"));
    let script =
        format!("mount -t tmpfs -o size=200k tmpfs '{0}' && \"$@\"; code=$?; ls -A '{0}'; exit $code", disk.display());
    let output = behind(&script, &["unshare", "-Urm"], &command).output().unwrap();
    refused(&output, &disk, "No space left on device");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "");
}

#[test]
fn a_read_only_disk_is_an_error() {
    if !can_mount() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let disk = temporary.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let out = disk.join("models/bundle");
    let command = import(temporary.path(), &checkpoint(), &out);
    let script = format!("mount -t tmpfs -o ro tmpfs '{}' && exec \"$@\"", disk.display());
    let output = behind(&script, &["unshare", "-Urm"], &command).output().unwrap();
    refused(&output, &out, "Read-only file system");
}

#[test]
fn a_place_under_a_file_is_an_error() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    fs::write(&file, "x").unwrap();
    let out = file.join("models/bundle");
    let output = import(temporary.path(), &checkpoint(), &out).output().unwrap();
    refused(&output, &out, "Not a directory");
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn a_cache_that_cannot_be_written_is_named_when_a_raw_checkpoint_is_used() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    fs::write(&file, "x").unwrap();
    let mut embed = vtagd(temporary.path());
    embed.env("VTAGD_CACHE", file.join("cache")).args(["embed", "--json", "--text", "a cat", "-m"]).arg(checkpoint());
    let output = embed.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{message}");
    assert!(message.contains(file.join("cache").to_str().unwrap()), "{message}");
}

/// An import that takes long enough to be caught at it: 0.6 GB of made-up weights.
struct Long(Child);

impl Long {
    /// Starts it and waits until it writes weights; gives its hidden folder too.
    fn start(temporary: &Path, out: &Path) -> (Self, PathBuf) {
        let mut command = import(temporary, Path::new("synthetic:vit-b-32"), out);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let long = Self(child);
        let place = out.parent().unwrap();
        let folder = eventually("the import writes", || {
            let found = fs::read_dir(place).ok()?.flatten().map(|entry| entry.path());
            let mut hidden = found.filter(|p| p.file_name().unwrap().to_string_lossy().contains(".importing-"));
            hidden.find(|path| path.join("vision_model.onnx").metadata().is_ok_and(|meta| meta.len() > 1 << 20))
        });
        (long, folder)
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_killed_import_has_left_is_removed_by_the_next_one_there() {
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path().join("models");
    let out = place.join("bundle");
    let (long, folder) = Long::start(temporary.path(), &out);
    drop(long);
    assert!(folder.is_dir(), "a killed import cannot tidy up");
    assert!(import(temporary.path(), &checkpoint(), &out).output().unwrap().status.success());
    assert_eq!(names(&place), ["bundle"]);
}

/// Files of a bundle in the order in which an import writes them.
const STAGES: [&str; 7] = [
    "",
    "vision_model.onnx",
    "text_model.onnx",
    "tokenizer.json",
    "preprocessor_config.json",
    "config.json",
    "vtagd.json",
];

/// Starts `command` and kills it as soon as `when` says so, if it is not through by then.
fn kill_when(mut command: Command, mut when: impl FnMut() -> bool) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !when() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    // SIGKILL.
    let _ = child.kill();
    child.wait().unwrap();
}

/// Whether an unfinished folder in `place` holds `file`.
fn has_begun(place: &Path, file: &str) -> bool {
    let folders = fs::read_dir(place).into_iter().flatten().flatten();
    folders
        .filter(|entry| entry.file_name().to_string_lossy().contains(".importing-"))
        .any(|entry| entry.path().join(file).exists())
}

fn is_left_over(name: &str) -> bool {
    name.starts_with('.') && name.contains(".importing-")
}

/// Moments of a run that takes `whole`: two in each of a dozen parts of it, and one behind its end.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..=13).map(move |step| whole * step / 12)
}

#[test]
fn an_import_that_is_killed_at_any_stage_leaves_nothing_that_is_taken_for_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path().join("models");
    let out = place.join("bundle");
    let measured = || {
        let mut command = vtagd(temporary.path());
        command.args(["model", "import"]).arg(checkpoint()).arg("--out").arg(&out);
        command
    };
    let begun = Instant::now();
    assert!(measured().output().unwrap().status.success());
    let whole = begun.elapsed();
    let wanted = Bundle::open_with_cache(&out, None).unwrap().fingerprint;
    fs::remove_dir_all(&out).unwrap();

    let check = |what: &str| {
        let left = names(&place);
        for name in left.iter().filter(|name| *name != "bundle") {
            assert!(is_left_over(name), "{what}: {name}");
        }
        // There only where it is whole.
        if left.iter().any(|name| name == "bundle") {
            assert_eq!(Bundle::open_with_cache(&out, None).unwrap().fingerprint, wanted, "{what}");
            fs::remove_dir_all(&out).unwrap();
        }
        assert!(Bundle::open_with_cache(&out, None).is_err());
        let output = import(temporary.path(), &checkpoint(), &out).output().unwrap();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(names(&place), ["bundle"], "{what}: what was left is swept");
        assert_eq!(Bundle::open_with_cache(&out, None).unwrap().fingerprint, wanted, "{what}");
        fs::remove_dir_all(&out).unwrap();
    };
    for stage in STAGES {
        kill_when(measured(), || has_begun(&place, stage));
        check(&format!("killed with {stage:?}"));
    }
    for moment in moments(whole) {
        let begun = Instant::now();
        kill_when(measured(), || begun.elapsed() >= moment);
        check(&format!("killed after {moment:?}"));
    }
}

#[test]
fn an_import_into_the_cache_that_is_killed_at_any_moment_is_made_again() {
    let temporary = tempfile::tempdir().unwrap();
    let models = temporary.path().join("cache/models");
    let embed = || {
        let mut command = vtagd(temporary.path());
        command.args(["embed", "--json", "--text", "a cat", "-m"]).arg(checkpoint());
        command
    };
    let begun = Instant::now();
    let wanted = embed().output().unwrap().stdout;
    let whole = begun.elapsed();
    for moment in moments(whole) {
        fs::remove_dir_all(&models).unwrap();
        fs::create_dir_all(&models).unwrap();
        let begun = Instant::now();
        kill_when(embed(), || begun.elapsed() >= moment);
        for name in names(&models).iter().filter(|name| !is_left_over(name)) {
            Bundle::open_with_cache(&models.join(name), None)
                .unwrap_or_else(|e| panic!("after {moment:?}: {name}: {e}"));
        }
        // Where it had not come to its end, it is swept by the one that does.
        let output = embed().output().unwrap();
        assert_eq!(output.stdout, wanted, "{}", String::from_utf8_lossy(&output.stderr));
        let left = names(&models);
        assert!(left.len() == 1 && left[0].starts_with("openclip-vit-"), "after {moment:?}: {left:?}");
    }
}

#[test]
fn an_import_does_not_touch_the_folder_of_one_that_is_still_at_work() {
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path().join("models");
    let out = place.join("bundle");
    let (mut long, folder) = Long::start(temporary.path(), &out);
    assert!(import(temporary.path(), &checkpoint(), &out).output().unwrap().status.success());
    assert!(out.join("vtagd.json").is_file());
    assert!(long.0.try_wait().unwrap().is_none(), "the first import ended before the second: it proves nothing");
    assert!(folder.join("vision_model.onnx").is_file());
    drop(long);
}

#[test]
fn the_cache_is_swept_when_a_raw_checkpoint_is_imported_into_it() {
    let temporary = tempfile::tempdir().unwrap();
    let models = temporary.path().join("cache/models");
    let (long, folder) = Long::start(temporary.path(), &models.join("another-model"));
    drop(long);
    assert!(folder.is_dir());
    let mut embed = vtagd(temporary.path());
    embed.args(["embed", "--json", "--text", "a cat", "-m"]).arg(checkpoint());
    let output = embed.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = names(&models);
    assert!(left.len() == 1 && left[0].starts_with("openclip-vit-"), "{left:?}");
}

#[test]
fn a_changed_byte_in_a_pytorch_file_is_refused_by_its_checksum() {
    let temporary = tempfile::tempdir().unwrap();
    let copy = temporary.path().join("checkpoint");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(root().join("tests/conformance/checkpoints/openclip-vit-pickle")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let weights = copy.join("open_clip_pytorch_model.bin");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&weights, bytes).unwrap();
    let out = temporary.path().join("models/bundle");
    let output = import(temporary.path(), &copy, &out).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("open_clip_pytorch_model.bin") && message.contains("checksum"), "{message}");
    assert_eq!(names(out.parent().unwrap()), [""; 0]);
}
