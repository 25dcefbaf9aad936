//! What a process costs: CPU time, in all and thread by thread. CPU time is counted by the kernel, so that whatever else the machine does
//! while a test looks is not in it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// For so long a process is looked at. A spinning thread has used all of it.
const WINDOW: Duration = Duration::from_secs(10);

/// Windows one after the other in which it has to be idle …
const IN_A_ROW: usize = 2;

/// … of so many at most: it may still have had something to do in the first.
const MOST: usize = 9;

/// CPU time of the process or thread whose `stat` this is.
fn cpu_time(stat: &Path) -> Duration {
    let Ok(text) = fs::read_to_string(stat) else { return Duration::ZERO };
    // The name, in brackets, may hold anything; `utime` and `stime` are the 12th and 13th word behind it.
    let words: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = words[11..13].iter().map(|word| word.parse::<u64>().unwrap()).sum();
    // SAFETY: plain question.
    let second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Duration::from_secs_f64(ticks as f64 / second)
}

/// CPU time by thread, and its name.
fn threads(pid: u32) -> Vec<(String, String, Duration)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let id = task.file_name().to_string_lossy().into_owned();
        (id, name.trim().to_owned(), cpu_time(&task.path().join("stat")))
    };
    tasks.map(of).collect()
}

/// Sees that process `pid` uses less than `share` of a core, once it has come to rest. `state`: what it is meant to rest in.
pub fn is_idle(pid: u32, share: f64, state: &str) {
    let stat = format!("/proc/{pid}/stat");
    let mut in_a_row = 0;
    let mut told = String::new();
    for _ in 0..MOST {
        let (began, before, threads_before) = (Instant::now(), cpu_time(Path::new(&stat)), threads(pid));
        std::thread::sleep(WINDOW);
        let used = cpu_time(Path::new(&stat)).saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
        let mut by_thread: Vec<(Duration, String)> = threads(pid)
            .into_iter()
            .map(|(id, name, time)| {
                let known = threads_before.iter().find(|(other, ..)| *other == id);
                (time.saturating_sub(known.map_or(Duration::ZERO, |(.., time)| *time)), name)
            })
            .filter(|(time, _)| !time.is_zero())
            .collect();
        by_thread.sort();
        by_thread.reverse();
        by_thread.truncate(6);
        told = format!("{:.2} % of a core, of it in {WINDOW:?}: {by_thread:?}", used * 100.0);
        eprintln!("{state}: {told}");
        in_a_row = if used < share { in_a_row + 1 } else { 0 };
        if in_a_row == IN_A_ROW {
            return;
        }
    }
    panic!("{state}: {told}");
}
