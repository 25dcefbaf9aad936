//! Freed pictures leave the process. A file of its own: other tests' memory would be counted too.
#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use vtagd::platform::malloc::give_back_what_is_freed;

/// Bytes in all.
const PICTURES: usize = 128 << 20;
/// I420 of 1080p, of 640x480 and of 352x288.
const SIZES: [usize; 3] = [1920 * 1080 * 3 / 2, 640 * 480 * 3 / 2, 352 * 288 * 3 / 2];

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn pictures_that_are_freed_go_back_to_the_system_though_something_behind_each_of_them_stays() {
    give_back_what_is_freed();
    for size in SIZES {
        // Freeing one teaches glibc, if it was not told otherwise, to take the next ones from an arena.
        drop(vec![1_u8; size]);
        let both = |_| (vec![1_u8; size], vec![1_u8; 4000]);
        let (pictures, small): (Vec<_>, Vec<_>) = (0..PICTURES / size).map(both).unzip();
        let full = resident();
        drop(pictures);
        let freed = full.saturating_sub(resident());
        assert!(freed > PICTURES * 9 / 10, "of pictures of {size} bytes {} MiB went back", freed >> 20);
        assert_eq!(small.len(), PICTURES / size);
    }
}
