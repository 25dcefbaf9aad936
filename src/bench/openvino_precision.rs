//! `precision: auto` of OpenVINO on a CPU: whether bf16 is faster than 32 bits there. In: the settings; out: settings that say so.
//! On the caller's thread, at start-up: each is measured for a second, one after the other, in a child process, whose memory goes back with
//! it. That is remembered. Whatever goes wrong, it is 32 bits, and measured again at the next start.
//!
//! Instructions for bf16 do not make it faster: on an Intel Xeon that has them without AMX it is 0.6 of 32 bits, on an AMD EPYC 1.8 times.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::bench_child::{self, Setup};
use super::{BenchError, Model};
use crate::infer::measurement_cache::MeasurementKey;
use crate::infer::options::{OpenvinoOptions, OpenvinoPrecision};
use crate::infer::runtime::{self, Runtime};
use crate::infer::session_threads::SessionThreads;
use crate::infer::{BatchSize, InferSettings, Provider, ProviderChoice, libraries, provider};
use crate::model::Bundle;
use crate::platform::paths;
use crate::platform::processor::Processor;
use crate::platform::shutdown::Shutdown;

/// Measuring of one precision, and between two signs of life of the child: it loads and compiles the model.
const TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// What is measured where the batch size is to be found later.
const BATCH: usize = 8;
/// What bf16 must gain over 32 bits, which are exact.
const WORTH: f64 = 1.1;

/// Images a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct PrecisionRates {
    f32: f64,
    bf16: f64,
}

impl PrecisionRates {
    fn bf16_is_worth_it(self) -> bool {
        self.bf16 >= self.f32 * WORTH
    }
}

/// `settings` with what an OpenVINO that is to choose for itself computes in, for pictures of `size`.
pub fn choose(
    settings: &InferSettings,
    runtime: &Runtime,
    bundle: &Bundle,
    size: (usize, usize),
    shutdown: &Shutdown,
) -> InferSettings {
    let mut chosen = settings.clone();
    let tried = if settings.strict { 1 } else { settings.providers.len() };
    // The CPU always works: what the list has behind it is never tried.
    let tried = chosen.providers.iter_mut().take(tried).take_while(|choice| choice.provider() != Provider::Cpu);
    for choice in tried {
        let threads = choice.threads(settings.threads);
        let ProviderChoice::Openvino(options) = choice else { continue };
        if !options.may_choose() || provider::check(runtime, Provider::Openvino).is_err() {
            continue;
        }
        let processor = Processor::this();
        let batch = match settings.max_size {
            BatchSize::Pictures(size) => size,
            BatchSize::Auto => BATCH,
        };
        let openvino = libraries::linked_beside(runtime.library(), Provider::Openvino, "libopenvino.so.");
        let key = MeasurementKey {
            question: "openvino-precision".to_owned(),
            model: bundle.embedding_fingerprint.clone(),
            cpu: processor.identity.clone(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            runtime: format!("{} {}", runtime::version(), openvino.unwrap_or_default()),
            batch,
            options: format!("threads {threads}, streams {}", options.streams.unwrap_or(1)),
        };
        let asked = options.clone();
        let model = Model { dir: bundle.dir.clone(), size };
        let mut measure = |precision| {
            let provider = ProviderChoice::Openvino(OpenvinoOptions { precision, ..asked.clone() });
            let setup = Setup { provider, library: settings.library.clone(), threads: settings.threads };
            let split = SessionThreads { sessions: 1, threads: settings.threads };
            let rates = bench_child::splits(&model, batch, &[split], TIMES, &setup, shutdown)?;
            rates.first().copied().ok_or_else(|| BenchError::Child("gave no result".into()))
        };
        options.bf16_is_faster = bf16_is_faster(&processor, &key, &paths::cache_dir(), &mut measure);
    }
    chosen
}

/// The same for what `vtagd bench` measures, anew each time. A library or model that does not open is for the measuring to tell.
pub fn choose_setup(setup: Setup, model: &Model, batch: usize, shutdown: &Shutdown) -> Setup {
    if !matches!(&setup.provider, ProviderChoice::Openvino(options) if options.may_choose()) {
        return setup;
    }
    let Ok(runtime) = runtime::load(setup.library.as_deref()) else { return setup };
    let Ok(bundle) = Bundle::open_unmarked(&model.dir) else { return setup };
    let infer = InferSettings {
        providers: vec![setup.provider.clone()],
        library: setup.library.clone(),
        threads: setup.threads,
        max_size: BatchSize::Pictures(batch),
        ..InferSettings::default()
    };
    let chosen = choose(&infer, &runtime, &bundle, model.size, shutdown);
    Setup { provider: chosen.providers.into_iter().next().unwrap_or(setup.provider), ..setup }
}

/// Whether bf16 is worth it on `processor`: as remembered in `folder`, else by what `measure` says of both.
fn bf16_is_faster(
    processor: &Processor,
    key: &MeasurementKey,
    folder: &Path,
    measure: &mut dyn FnMut(OpenvinoPrecision) -> Result<f64, BenchError>,
) -> bool {
    let cpu = &*processor.name;
    if !processor.bf16 {
        info!(precision = "f32", cpu, "openvino computes in 32 bits: this processor has no instructions for bf16");
        return false;
    }
    // Without a fingerprint, any model would be taken for this one.
    let known = !key.model.is_empty();
    let before: Option<PrecisionRates> = if known { key.load(folder) } else { None };
    let mut both = || -> Result<PrecisionRates, BenchError> {
        Ok(PrecisionRates { f32: measure(OpenvinoPrecision::F32)?, bf16: measure(OpenvinoPrecision::Bf16)? })
    };
    let rates = match before.map_or_else(&mut both, Ok) {
        Ok(rates) => rates,
        Err(error) => {
            warn!(precision = "f32", cpu, %error, "whether bf16 is faster cannot be measured, openvino computes in 32 bits");
            return false;
        }
    };
    if known
        && before.is_none()
        && let Err(error) = key.keep(folder, rates)
    {
        warn!(folder = %folder.display(), %error, "openvino's precision is measured again at the next start");
    }
    let (precision, why) = match rates.bf16_is_worth_it() {
        true => ("bf16", "bf16 is faster"),
        false => ("f32", "bf16 is not a tenth faster"),
    };
    let measured = format!("f32: {:.1}/s, bf16: {:.1}/s", rates.f32, rates.bf16);
    info!(precision, why, measured, remembered = before.is_some(), cpu, "openvino precision found");
    rates.bf16_is_worth_it()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::platform::processor::tests::processors;

    fn key(cpu: &str) -> MeasurementKey {
        MeasurementKey {
            question: "openvino-precision".into(),
            model: "abc".into(),
            cpu: cpu.into(),
            cores: 2,
            runtime: "1.24".into(),
            batch: 8,
            options: String::new(),
        }
    }

    fn with_bf16() -> Processor {
        Processor { name: "x".into(), identity: "x".into(), flags: Vec::new(), bf16: true }
    }

    /// What is chosen in `folder` where the two run at these rates, and what was measured for it.
    fn chosen(folder: &Path, f32: f64, bf16: Option<f64>) -> (bool, Vec<OpenvinoPrecision>) {
        let mut asked = Vec::new();
        let bf16 = bf16_is_faster(&with_bf16(), &key("x"), folder, &mut |precision| {
            asked.push(precision);
            match precision {
                OpenvinoPrecision::F32 => Ok(f32),
                _ => bf16.ok_or(BenchError::Stopped),
            }
        });
        (bf16, asked)
    }

    #[test]
    fn what_is_faster_is_measured_once_and_remembered() {
        const BOTH: [OpenvinoPrecision; 2] = [OpenvinoPrecision::F32, OpenvinoPrecision::Bf16];
        // The Xeon without AMX, a gain that may be chance, and the EPYC of docs/benchmarks.md.
        for (f32, bf16, faster) in [(18.4, 11.2, false), (18.4, 19.0, false), (47.0, 88.0, true)] {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(chosen(folder.path(), f32, Some(bf16)), (faster, BOTH.to_vec()), "{f32} {bf16}");
            assert_eq!(
                chosen(folder.path(), 1.0, Some(if faster { 0.1 } else { 10.0 })),
                (faster, vec![]),
                "remembered"
            );
        }
    }

    #[test]
    fn a_measurement_that_fails_or_is_interrupted_is_32_bits_and_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!chosen(folder.path(), 10.0, None).0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is remembered of it");
        assert!(!chosen(folder.path(), f64::NAN, Some(10.0)).0, "nonsense is no gain");
        let folder = tempfile::tempdir().unwrap();
        assert!(chosen(folder.path(), 10.0, Some(20.0)).0);
        for file in fs::read_dir(folder.path()).unwrap() {
            fs::write(file.unwrap().path(), b"{\"key\":").unwrap();
        }
        assert_eq!(chosen(folder.path(), 20.0, Some(10.0)).1.len(), 2, "half a file is measured again");
    }

    #[test]
    fn a_cache_folder_that_cannot_be_written_costs_the_memory_and_not_the_choice() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, b"x").unwrap();
        assert!(chosen(&blocked, 10.0, Some(20.0)).0);
    }

    #[test]
    fn only_processors_with_bf16_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        for (what, text, measured) in processors() {
            let processor = Processor::parse(&text);
            let mut asked = 0;
            let bf16 = bf16_is_faster(&processor, &key(&processor.identity), folder.path(), &mut |precision| {
                asked += 1;
                Ok(if precision == OpenvinoPrecision::Bf16 { 2.0 } else { 1.0 })
            });
            assert_eq!((bf16, asked), (measured, if measured { 2 } else { 0 }), "{what}");
        }
    }

    #[test]
    fn a_model_without_a_fingerprint_is_measured_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let key = MeasurementKey { model: String::new(), ..key("x") };
        for faster in [true, false] {
            let found = bf16_is_faster(&with_bf16(), &key, folder.path(), &mut |precision| {
                Ok(if (precision == OpenvinoPrecision::Bf16) == faster { 2.0 } else { 1.0 })
            });
            assert_eq!(found, faster);
        }
    }
}
