//! Whether this process lacks what every connection needs: GStreamer, out of file descriptors or memory, says that a plug-in is missing or a camera away.
//!
//! In: an error, as soon as it is known. Out: the same, or what is behind it. Tries to have a few descriptors and a little memory, and gives
//! them back at once. Any thread.

use std::io::ErrorKind;

use super::error::SourceError;

/// A connection needs about so many at once: sockets, wake-up pipes, a library.
const DESCRIPTORS: usize = 6;

/// One library, or the stack of one thread.
const MEMORY: usize = 8 << 20;

/// `error`, or the lack that has brought it about.
pub(super) fn explain(error: SourceError) -> SourceError {
    match found() {
        Some(what) => SourceError::Shortage { at: error.at().clone(), what },
        None => error,
    }
}

fn found() -> Option<String> {
    let mut held = Vec::with_capacity(DESCRIPTORS);
    for _ in 0..DESCRIPTORS {
        match std::fs::File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => return descriptors(&error),
        }
    }
    drop(held);
    // SAFETY: asks for fresh memory and touches none of it.
    let memory = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), MEMORY, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if memory == libc::MAP_FAILED {
        return Some(
            "this process may have no more memory; give it more (`MemoryMax=`, `LimitAS=`), or watch fewer streams"
                .to_owned(),
        );
    }
    // SAFETY: it is ours, and nobody knows of it.
    unsafe { libc::munmap(memory, MEMORY) };
    None
}

fn descriptors(error: &std::io::Error) -> Option<String> {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            let limit = limit.map_or_else(String::new, |limit| format!(", of {limit}"));
            Some(format!(
                "this process has no file descriptor left{limit}; raise `LimitNOFILE=` of its unit (`ulimit -n`), or watch fewer streams"
            ))
        }
        Some(libc::ENFILE) => Some("this machine has no file descriptor left; raise `fs.file-max`".to_owned()),
        _ if error.kind() == ErrorKind::OutOfMemory => Some("this machine has no memory left".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_missing_here_and_a_lack_of_descriptors_is_called_so() {
        assert_eq!(found(), None);
        let text = |code| descriptors(&std::io::Error::from_raw_os_error(code));
        assert!(text(libc::EMFILE).unwrap().contains("LimitNOFILE"));
        assert!(text(libc::ENFILE).unwrap().contains("fs.file-max"));
        assert_eq!(text(libc::ENOENT), None);
    }
}
