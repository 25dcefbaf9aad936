//! GPUs: how full their memory is and how busy they are, from NVIDIA's driver (NVML). Readings go out to whoever hears them.
//!
//! One named thread asks every few seconds, so that a driver that hangs holds up nobody but this thread: who reads a
//! [`Gpu`] looks at its age and leaves it out once it is [stale](is_stale). The driver's library is opened at run time. Where
//! there is none, the thread says so at debug level and ends; where the driver fails, it is tried again once a minute.
//! Ends when shutdown is asked for.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::platform::shutdown::Shutdown;

/// Between two readings.
const PERIOD: Duration = Duration::from_secs(5);
/// Between two attempts at a driver that fails.
const RETRY: Duration = Duration::from_secs(60);
/// Three readings in a row that did not come: the driver hangs, or the GPU has gone.
const STALE: Duration = Duration::from_secs(15);
/// GPUs that are told of, at most; a machine has eight or sixteen.
const MOST: u32 = 16;
/// Characters of a name, at most.
const NAME: usize = 64;

/// One GPU as the driver sees it, whoever uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// As NVML and `nvidia-smi` count.
    pub index: u32,
    /// Such as `NVIDIA L4`.
    pub name: String,
    /// Bytes; `None` where the driver does not tell.
    pub memory: Option<GpuMemory>,
    /// Share of the last moment in which something ran on it, 0 to 1; `None` where the driver does not tell (MIG).
    pub utilization: Option<f64>,
}

/// Bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    pub total: u64,
    /// All that is not free, what the driver keeps for itself included.
    pub used: u64,
}

/// Whether a reading from `then` says nothing any more.
pub fn is_stale(then: Instant, now: Instant) -> bool {
    now.saturating_duration_since(then) > STALE
}

/// Starts the thread; `hear` is told every reading and when it was taken.
///
/// # Errors
/// When the system gives no thread.
pub fn watch(hear: impl Fn(Instant, Vec<Gpu>) + Send + 'static, shutdown: Shutdown) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("vtagd-gpu".to_owned()).spawn(move || run(Driver::open, &hear, &shutdown))
}

/// Why there is nothing to read.
#[derive(Debug)]
enum Trouble {
    /// No driver on this machine, and none will come while we run.
    Absent(String),
    /// It may work later.
    Failed(String),
}

/// A driver that can be asked.
trait Readings {
    fn read(&mut self) -> Result<Vec<Gpu>, Trouble>;
}

/// The thread's whole life.
fn run<R: Readings>(open: impl Fn() -> Result<R, Trouble>, hear: &dyn Fn(Instant, Vec<Gpu>), shutdown: &Shutdown) {
    // Told once per run of failures.
    let mut failing = false;
    loop {
        let trouble = match open() {
            Ok(mut driver) => loop {
                match driver.read() {
                    Ok(gpus) => {
                        if std::mem::replace(&mut failing, false) {
                            tracing::info!("the GPU driver answers again");
                        }
                        hear(Instant::now(), gpus);
                    }
                    Err(trouble) => break trouble,
                }
                if shutdown.sleep(PERIOD) {
                    return;
                }
            },
            Err(trouble) => trouble,
        };
        match trouble {
            Trouble::Absent(why) => {
                tracing::debug!(why, "no GPU metrics");
                return;
            }
            Trouble::Failed(why) if !std::mem::replace(&mut failing, true) => {
                tracing::info!(why, "no GPU metrics, the driver is asked again once a minute");
            }
            Trouble::Failed(_) => {}
        }
        if shutdown.sleep(RETRY) {
            return;
        }
    }
}

/// NVML.
struct Driver(Nvml);

impl Driver {
    fn open() -> Result<Self, Trouble> {
        let nvml = Nvml::init().map_err(|error| match error {
            NvmlError::LibloadingError(error) => Trouble::Absent(error.to_string()),
            error => Trouble::Failed(error.to_string()),
        })?;
        Ok(Self(nvml))
    }
}

impl Readings for Driver {
    fn read(&mut self) -> Result<Vec<Gpu>, Trouble> {
        let count = self.0.device_count().map_err(|error| Trouble::Failed(error.to_string()))?;
        let one = |index| {
            // One that has fallen off the bus says nothing; the others are asked all the same.
            let device = self.0.device_by_index(index).ok()?;
            let memory = device.memory_info().ok();
            Some(Gpu {
                index,
                name: device.name().map_or_else(|_| "unknown".to_owned(), |name| name.chars().take(NAME).collect()),
                memory: memory.map(|m| GpuMemory { total: m.total, used: m.total.saturating_sub(m.free) }),
                utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            })
        };
        Ok((0..count.min(MOST)).filter_map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::platform::shutdown;

    fn gpu(utilization: f64) -> Gpu {
        Gpu { index: 0, name: "fake".into(), memory: None, utilization: Some(utilization) }
    }

    /// Answers once with a GPU, then fails.
    struct Once(bool);

    impl Readings for Once {
        fn read(&mut self) -> Result<Vec<Gpu>, Trouble> {
            if std::mem::replace(&mut self.0, false) {
                return Ok(vec![gpu(0.5)]);
            }
            Err(Trouble::Failed("GPU is lost".into()))
        }
    }

    #[test]
    fn a_machine_without_a_driver_is_asked_once_and_never_again() {
        let (_trigger, shutdown) = shutdown::channel();
        let asked = Cell::new(0);
        let open = || {
            asked.set(asked.get() + 1);
            Err::<Once, _>(Trouble::Absent("libnvidia-ml.so.1: cannot open".into()))
        };
        run(open, &|_, _| panic!("there is nothing to hear"), &shutdown);
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn a_reading_is_heard_and_the_thread_ends_with_shutdown() {
        let (trigger, shutdown) = shutdown::channel();
        let heard = RefCell::new(Vec::new());
        let hear = |_, gpus: Vec<Gpu>| {
            heard.borrow_mut().extend(gpus);
            trigger.trigger();
        };
        run(|| Ok(Once(true)), &hear, &shutdown);
        assert_eq!(*heard.borrow(), [gpu(0.5)]);
    }

    #[test]
    fn a_driver_that_fails_is_left_alone_until_the_retry_and_shutdown_ends_the_wait() {
        let (trigger, shutdown) = shutdown::channel();
        let asked = Cell::new(0);
        let open = || {
            asked.set(asked.get() + 1);
            trigger.trigger();
            Ok(Once(false))
        };
        run(open, &|_, _| panic!("there is nothing to hear"), &shutdown);
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn a_reading_is_good_for_three_periods() {
        let now = Instant::now();
        assert!(!is_stale(now, now + 3 * PERIOD));
        assert!(is_stale(now, now + 3 * PERIOD + Duration::from_millis(1)));
    }
}
