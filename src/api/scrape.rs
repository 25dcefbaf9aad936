//! The text of `/metrics`: what the recorder has counted, then what is read when somebody asks: streams, GPUs, this process.
//!
//! In: shared state; out: Prometheus's text format. On the API's thread; nothing here waits for a camera, a driver or a disk.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Board, Shared};
use crate::metrics::Exposition;
use crate::platform::gpu::{self, Gpu};
use crate::platform::process::Process;

/// Labels of streams whose scores are told: a server that scrapes has to keep a series for each.
const MOST_SCORES: usize = 2000;

pub(super) fn text(shared: &Shared, now: Instant) -> String {
    let mut text = Exposition::after(shared.metrics.render());
    streams(&mut text, &shared.board);
    if shared.board.scores_in_metrics.load(Ordering::Relaxed) {
        scores(&mut text, &shared.board);
    }
    drifts(&mut text, &shared.board, now);
    label_sets(&mut text, &shared.board);
    let gpus = shared.board.gpus.lock().clone();
    // A driver that hangs says nothing more; the last it said is no news after a while.
    if let Some((then, gpus)) = gpus
        && !gpu::is_stale(then, now)
    {
        cards(&mut text, &gpus);
    }
    if let Some(process) = Process::read() {
        this_process(&mut text, &process);
    }
    text.into_text()
}

fn streams(text: &mut Exposition, board: &Board) {
    for stream in board.streams().iter() {
        if let Some(up) = stream.status.is_up() {
            text.sample("vtagd_stream_up", &[("stream", stream.id())], f64::from(u8::from(up)));
        }
    }
}

/// The latest margin of each label, in the order of the configuration as far as [`MOST_SCORES`] goes.
fn scores(text: &mut Exposition, board: &Board) {
    let mut left = MOST_SCORES;
    for stream in board.streams().iter() {
        // One with nothing to be compared with has none.
        for latest in board.live_scores().latest(stream.id()).iter().filter(|latest| latest.score.margin.is_finite()) {
            if left == 0 {
                return;
            }
            left -= 1;
            let region = latest.region.as_deref().map(|region| ("region", region));
            let labels = [("stream", stream.id()), ("set", &*latest.set), ("label", &*latest.label)];
            let labels: Vec<(&str, &str)> = labels.into_iter().chain(region).collect();
            text.sample("vtagd_label_margin", &labels, f64::from(latest.score.margin));
        }
    }
}

/// How far each calibrated label has drifted, in the order of the configuration as far as [`MOST_SCORES`] goes.
fn drifts(text: &mut Exposition, board: &Board, now: Instant) {
    let mut left = MOST_SCORES;
    for stream in board.streams().iter() {
        for drift in board.live_scores().drifts(stream.id(), now) {
            if left == 0 {
                return;
            }
            left -= 1;
            let region = drift.region.as_deref().map(|region| ("region", region));
            let labels = [("stream", stream.id()), ("set", &*drift.set), ("label", &*drift.label)];
            let labels: Vec<(&str, &str)> = labels.into_iter().chain(region).collect();
            text.sample("vtagd_calibration_drift", &labels, f64::from(drift.share));
        }
    }
}

/// Those that are in force; the recorder would go on telling those that were.
fn label_sets(text: &mut Exposition, board: &Board) {
    let sets = board.sets.read();
    for set in sets.iter() {
        text.sample("vtagd_label_set_info", &[("set", &*set.set), ("sha256", &*set.sha256)], 1.0);
    }
    for set in sets.iter() {
        text.sample("vtagd_label_set_warnings", &[("set", &set.set)], set.warnings.len() as f64);
    }
}

fn cards(text: &mut Exposition, gpus: &[Gpu]) {
    let indices: Vec<String> = gpus.iter().map(|gpu| gpu.index.to_string()).collect();
    let with_labels =
        || gpus.iter().zip(&indices).map(|(gpu, index)| (gpu, [("index", &**index), ("name", &*gpu.name)]));
    for (gpu, labels) in with_labels() {
        if let Some(memory) = gpu.memory {
            text.sample("vtagd_gpu_memory_used_bytes", &labels, memory.used as f64);
        }
    }
    for (gpu, labels) in with_labels() {
        if let Some(memory) = gpu.memory {
            text.sample("vtagd_gpu_memory_total_bytes", &labels, memory.total as f64);
        }
    }
    for (gpu, labels) in with_labels() {
        if let Some(utilization) = gpu.utilization {
            text.sample("vtagd_gpu_utilization_ratio", &labels, utilization);
        }
    }
}

fn this_process(text: &mut Exposition, process: &Process) {
    text.sample("vtagd_available_cpus", &[], process.cpus as f64);
    text.sample("process_cpu_seconds_total", &[], process.cpu_seconds);
    text.sample("process_resident_memory_bytes", &[], process.resident_bytes as f64);
    text.sample("process_virtual_memory_bytes", &[], process.virtual_bytes as f64);
    text.sample("process_open_fds", &[], process.open_fds as f64);
    if let Some(most) = process.max_fds {
        text.sample("process_max_fds", &[], most as f64);
    }
    text.sample("process_threads", &[], process.threads as f64);
    text.sample("process_start_time_seconds", &[], process.start_seconds);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::platform::gpu::GpuMemory;
    use crate::stream::registry::{RegisteredStream, StreamRegistry};
    use crate::stream::status::StreamState;

    #[test]
    fn a_stream_from_which_nothing_is_expected_has_no_series() {
        let registry = Arc::new(StreamRegistry::default());
        let board = Board::new(Arc::clone(&registry));
        let down = StreamState::Down { error: "refused".into() };
        let failed = StreamState::Failed { error: "no video".into() };
        let states =
            [StreamState::Connecting, StreamState::Up, down, StreamState::Disabled, StreamState::Ended, failed];
        let streams = states.into_iter().zip('a'..).map(|(state, id)| {
            let stream = RegisteredStream::new(&id.to_string().into(), Vec::new());
            stream.status.set(state);
            stream
        });
        registry.set(streams.collect());
        let mut text = Exposition::default();
        super::streams(&mut text, &board);
        let text = text.into_text();
        let told: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("vtagd_stream_up")).collect();
        assert_eq!(told, [r#"{stream="a"} 0"#, r#"{stream="b"} 1"#, r#"{stream="c"} 0"#, r#"{stream="f"} 0"#]);
    }

    #[test]
    fn several_label_sets_are_told_without_a_metric_beginning_twice() {
        let board = Board::new(Arc::default());
        let set = |name: &str| crate::api::SetView {
            set: name.to_owned(),
            labels: Vec::new(),
            sha256: "0".to_owned(),
            warnings: vec!["it has no background".to_owned()],
            source: serde_json::Value::Null,
            details: serde_json::Value::Null,
            hours: Vec::new(),
        };
        board.set_labels(vec![set("dock"), set("yard")]);
        let mut text = Exposition::default();
        label_sets(&mut text, &board);
        let text = text.into_text();
        let begins: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        assert_eq!(begins, ["# TYPE vtagd_label_set_info gauge", "# TYPE vtagd_label_set_warnings gauge"]);
        assert!(text.contains("vtagd_label_set_warnings{set=\"yard\"} 1"), "{text}");
    }

    #[test]
    fn what_a_gpu_does_not_tell_is_left_out() {
        let memory = Some(GpuMemory { total: 100, used: 40 });
        let gpus = [
            Gpu { index: 0, name: "A".into(), memory, utilization: None },
            Gpu { index: 3, name: "B".into(), memory: None, utilization: Some(0.25) },
        ];
        let mut text = Exposition::default();
        cards(&mut text, &gpus);
        let text = text.into_text();
        let told: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let wanted = [
            r#"vtagd_gpu_memory_used_bytes{index="0",name="A"} 40"#,
            r#"vtagd_gpu_memory_total_bytes{index="0",name="A"} 100"#,
            r#"vtagd_gpu_utilization_ratio{index="3",name="B"} 0.25"#,
        ];
        assert_eq!(told, wanted);
    }
}
