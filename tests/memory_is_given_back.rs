//! Freed pictures leave the process, and so does what only warming up took. A program of its own, and one test at a time: others' memory would be
//! counted too.
#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vtagd::infer::session::OrtImageEncoder;
use vtagd::infer::{ImageEncoder, InferSettings, Provider, runtime};
use vtagd::model::{self, Bundle};
use vtagd::platform::malloc::give_back_what_is_freed;

/// Bytes in all.
const PICTURES: usize = 128 << 20;
/// I420 of 1080p, of 640x480 and of 352x288.
const SIZES: [usize; 3] = [1920 * 1080 * 3 / 2, 640 * 480 * 3 / 2, 352 * 288 * 3 / 2];

/// `cargo test` runs the tests of a program beside one another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn pictures_that_are_freed_go_back_to_the_system_though_something_behind_each_of_them_stays() {
    let _alone = alone();
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

#[test]
fn memory_that_only_warming_up_took_goes_back() {
    let _alone = alone();
    let starter = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let settings = InferSettings {
        providers: vec![Provider::Cpu.into()],
        strict: true,
        threads: 1,
        max_delay: Duration::ZERO,
        ..InferSettings::default()
    };
    let bundle = Bundle::open_with_cache(&starter, None).unwrap();
    let mut encoder = OrtImageEncoder::open(&runtime, &bundle, &settings, (224, 224)).unwrap();
    let picture: Vec<f32> = (0..3 * 224 * 224).map(|i| (i % 977) as f32 / 488.0 - 1.0).collect();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    encoder.encode(&picture, 1, &mut before).unwrap();
    encoder.warm_up(32).unwrap();
    let warm = resident();
    encoder.give_back().unwrap();
    // 32 pictures take some 300 MB, one a tenth of it.
    let given_back = warm.saturating_sub(resident()) >> 20;
    assert!(given_back > 100, "{given_back} of {} MiB were given back", warm >> 20);
    encoder.encode(&picture, 1, &mut after).unwrap();
    assert_eq!(before, after);
}
