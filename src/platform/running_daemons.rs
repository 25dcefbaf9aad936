//! Daemons that run on this machine, as far as this user can see them: `/proc` in, processes and their configurations out. Any thread.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Processes `vtagd run`, by number, with the file that each was started on: as they were told, from where they stand, as far as this
/// user may know that.
pub fn all() -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|number| *number != std::process::id())
        .filter_map(|number| Some((number, started_on(number)?)))
        .collect()
}

fn started_on(process: u32) -> Option<PathBuf> {
    let line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let words: Vec<OsString> = line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    if Path::new(words.first()?).file_name()? != "vtagd" || !words.iter().any(|word| word == "run") {
        return None;
    }
    let text = |word: &OsString| word.to_str().map(ToOwned::to_owned);
    let file = words.iter().enumerate().skip(1).find_map(|(at, word)| {
        let word = text(word)?;
        match word.as_str() {
            "-c" | "--config" => text(words.get(at + 1)?),
            _ => word.strip_prefix("--config=").or_else(|| word.strip_prefix("-c")).map(ToOwned::to_owned),
        }
    });
    let file = PathBuf::from(file.unwrap_or_else(|| "/etc/vtagd/vtagd.yaml".to_owned()));
    let file = match fs::read_link(format!("/proc/{process}/cwd")) {
        Ok(here) => here.join(file),
        Err(_) => file,
    };
    Some(file.canonicalize().unwrap_or(file))
}

/// The process that holds a lock (`flock`) on `file`.
pub fn holder(file: &fs::File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino();
    // `1: FLOCK  ADVISORY  WRITE 4711 fe:01:131074 0 EOF`; the device is not always the one that the file tells.
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "FLOCK").skip(3);
        let process = words.next()?.parse().ok()?;
        let held: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
        (held == inode).then_some(process)
    })
}
