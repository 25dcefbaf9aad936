//! A terminal that a program writes to and a test reads from.

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

/// A terminal of 10 lines and `columns` columns: our side and the program's.
pub fn open(columns: u16) -> (File, File) {
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 10, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: two places for the descriptors and a size, all alive; no name and no settings are wanted.
    let result = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null(), &raw const size)
    };
    assert_eq!(result, 0);
    // SAFETY: both were just opened and belong to nobody else.
    unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) }
}

/// Reads `ours` until the other side is gone: all so far, now and then, and all of it in the end.
pub fn read(mut ours: File) -> (Receiver<String>, JoinHandle<String>) {
    let (sender, seen) = std::sync::mpsc::sync_channel(64);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        // Linux ends a terminal without another side by an error.
        while let Ok(length @ 1..) = ours.read(&mut buffer) {
            all.extend_from_slice(&buffer[..length]);
            let _ = sender.try_send(String::from_utf8_lossy(&all).into_owned());
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    (seen, reader)
}
