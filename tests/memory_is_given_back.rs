//! Freed pictures leave the process. A file of its own: other tests' memory would be counted too.
#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use vtagd::memory::give_back_what_is_freed;

const PICTURES: usize = 64;
const PICTURE: usize = 2 << 20;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn pictures_that_are_freed_go_back_to_the_system_though_something_behind_each_of_them_stays() {
    give_back_what_is_freed();
    // Freeing one teaches glibc, if it was not told otherwise, to take the next ones from an arena.
    drop(vec![1_u8; PICTURE]);
    let both = |_| (vec![1_u8; PICTURE], vec![1_u8; 4000]);
    let (pictures, small): (Vec<_>, Vec<_>) = (0..PICTURES).map(both).unzip();
    let full = resident();
    drop(pictures);
    let freed = full.saturating_sub(resident());
    assert!(freed > PICTURES * PICTURE * 9 / 10, "{} MiB went back", freed >> 20);
    assert_eq!(small.len(), PICTURES);
}
