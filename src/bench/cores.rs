//! `runtime.sessions: auto`: how the cores of this box are shared out between sessions, measured once for each model, in a child
//! process, whose memory goes back with it. In: the settings; out: settings with a number. On the caller's thread, at start-up, for
//! half a minute at most where nothing is remembered; whatever goes wrong, one session has all cores.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::bench_child::{self, Setup};
use super::{BenchError, Model};
use crate::infer::measurement_cache::MeasurementKey;
use crate::infer::session_threads::{self, SessionThreads};
use crate::infer::{BatchSize, InferSettings, Provider, Sessions};
use crate::model::Bundle;
use crate::platform::paths;
use crate::platform::processor::Processor;
use crate::platform::shutdown::Shutdown;

/// Measuring of one split, and between two signs of life of the child: it loads the model several times.
const TIMES: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_secs(30));
/// What is measured where the batch size is to be found later.
const BATCH: usize = 8;

/// `settings` with a number of sessions, and their threads, for pictures of `size`; `runtime` is ONNX Runtime's version.
pub fn choose(
    settings: &InferSettings,
    bundle: &Bundle,
    size: (usize, usize),
    runtime: &str,
    shutdown: &Shutdown,
) -> InferSettings {
    let Sessions::Auto { cores: least } = settings.sessions else { return settings.clone() };
    let one = InferSettings { sessions: Sessions::Number(1), ..settings.clone() };
    // On a GPU batches run one after the other anyway, and OpenVINO has streams of its own. Who says how many threads there are, has
    // decided.
    let [choice] = settings.providers.as_slice() else { return one };
    if choice.provider() != Provider::Cpu || choice.threads(settings.threads) > 0 {
        return one;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let splits = session_threads::candidates(cores, least);
    if splits.len() < 2 {
        return one;
    }
    let batch = match settings.max_size {
        BatchSize::Pictures(size) => size,
        BatchSize::Auto => BATCH,
    };
    let key = MeasurementKey {
        question: "sessions".to_owned(),
        model: bundle.embedding_fingerprint.clone(),
        cpu: Processor::this().identity,
        cores,
        runtime: runtime.to_owned(),
        batch,
        options: String::new(),
    };
    let folder = paths::cache_dir();
    let before = key.load(&folder).filter(|split: &SessionThreads| split.fits(cores));
    let chosen = before.inspect(|split| debug!(?split, "sessions as measured before")).or_else(|| {
        let model = Model { dir: bundle.dir.clone(), size };
        let setup = Setup { provider: choice.clone(), library: settings.library.clone(), threads: 0 };
        let chosen = measured(bench_child::splits(&model, batch, &splits, TIMES, &setup, shutdown), &splits)?;
        if let Err(error) = key.keep(&folder, chosen) {
            warn!(folder = %folder.display(), %error, "the number of sessions is measured again at the next start");
        }
        Some(chosen)
    });
    let Some(SessionThreads { sessions, threads }) = chosen else { return one };
    // With all cores the runtime decides, as without any of this.
    let threads = if sessions == 1 { settings.threads } else { threads };
    InferSettings { sessions: Sessions::Number(sessions), threads, ..one }
}

fn measured(rates: Result<Vec<f64>, BenchError>, splits: &[SessionThreads]) -> Option<SessionThreads> {
    let rates = rates.inspect_err(|error| warn!(%error, "sessions cannot be measured, one has all cores")).ok()?;
    let measured: Vec<(SessionThreads, f64)> = splits.iter().copied().zip(rates).collect();
    let chosen = session_threads::choose(&measured)?;
    let told: Vec<String> =
        measured.iter().map(|(split, rate)| format!("{}x{}: {rate:.1}/s", split.sessions, split.threads)).collect();
    info!(sessions = chosen.sessions, threads = chosen.threads, measured = told.join(", "), "sessions found");
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_that_fails_leaves_all_cores_to_one_session() {
        let splits = session_threads::candidates(8, session_threads::UNASKED_CORES);
        assert_eq!(measured(Err(BenchError::Stopped), &splits), None);
        let rates = vec![100.0, 130.0, 131.0, 90.0];
        assert_eq!(measured(Ok(rates), &splits), Some(SessionThreads { sessions: 2, threads: 4 }));
    }
}
