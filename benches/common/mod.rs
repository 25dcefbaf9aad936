//! Tells what a bench has measured to `benches/guard.py`: one JSON object a line, appended to the file that `VTAGD_BENCH_RESULTS` names;
//! nothing without it. On the bench's main thread.
#![allow(clippy::expect_used, reason = "a bench is a program for a terminal and fails by panicking")]

use std::io::Write;

/// One number, and that of its peer in the same run. `ratio` is larger where vtagd is better.
pub fn tell(name: &str, unit: &str, (value, peer): (f64, f64), peer_name: &str, ratio: f64) {
    let Some(file) = std::env::var_os("VTAGD_BENCH_RESULTS") else { return };
    let line = serde_json::json!({
        "name": name, "unit": unit, "value": value, "peer": peer_name, "peer_value": peer, "ratio": ratio,
    });
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).expect("the file of results");
    writeln!(file, "{line}").expect("room for a line");
}
