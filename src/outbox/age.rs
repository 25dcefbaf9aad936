//! How old an event is, without the wall clock: time that the machine was up since the outbox was made.
//!
//! A wall clock may be wrong by years until the network is there, or be set by hand; ages, and with them what is thrown away, must not
//! jump with it. So the outbox keeps a clock of its own: it goes on with the time since boot (suspend included), also while the daemon
//! is not running, and stands still while the machine is off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the time since boot comes from; tests have their own.
pub trait Uptime: Send {
    /// Which boot this is, and how long ago it was.
    fn read(&self) -> (String, Duration);
}

/// The kernel's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Uptime for Kernel {
    fn read(&self) -> (String, Duration) {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
        (boot.trim().to_owned(), Duration::new(seconds, nanos))
    }
}

/// A reading of the outbox's clock, as it is written into the outbox with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Age of the outbox in milliseconds.
    pub age: u64,
    boot: String,
    /// Milliseconds since that boot.
    uptime: u64,
}

/// The outbox's clock. It never goes back.
pub struct AgeClock {
    source: Box<dyn Uptime>,
    last: Mark,
}

impl AgeClock {
    /// Goes on from `mark`, the last reading that was written down.
    pub fn resume(source: Box<dyn Uptime>, mark: Mark) -> Self {
        Self { source, last: mark }
    }

    /// Now.
    pub fn now(&mut self) -> Mark {
        let (boot, uptime) = self.source.read();
        let uptime = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        // After a boot nobody knows how long the machine was off: what is known is how long it has been on.
        let since = if boot == self.last.boot { uptime.saturating_sub(self.last.uptime) } else { uptime };
        // The first reading of a new outbox.
        let since = if self.last.boot.is_empty() { 0 } else { since };
        let uptime = if boot == self.last.boot { uptime.max(self.last.uptime) } else { uptime };
        self.last = Mark { age: self.last.age.saturating_add(since), boot, uptime };
        self.last.clone()
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A machine whose clock the test turns.
    #[derive(Clone, Default)]
    pub struct Machine(Arc<Mutex<(u64, Duration)>>);

    impl Machine {
        pub fn pass(&self, time: Duration) {
            self.0.lock().unwrap().1 += time;
        }

        pub fn boot(&self) {
            let mut state = self.0.lock().unwrap();
            *state = (state.0 + 1, Duration::ZERO);
        }
    }

    impl Uptime for Machine {
        fn read(&self) -> (String, Duration) {
            let state = self.0.lock().unwrap();
            (format!("boot {}", state.0), state.1)
        }
    }

    #[test]
    fn it_goes_on_while_nobody_looks_and_counts_only_time_that_the_machine_is_on() {
        let machine = Machine::default();
        machine.pass(Duration::from_secs(1000));
        let mut clock = AgeClock::resume(Box::new(machine.clone()), Mark::default());
        assert_eq!(clock.now().age, 0, "a new outbox has no age");
        machine.pass(Duration::from_secs(5));
        let mark = clock.now();
        assert_eq!(mark.age, 5000);
        // The daemon is not there for a minute.
        machine.pass(Duration::from_secs(60));
        let mut clock = AgeClock::resume(Box::new(machine.clone()), mark);
        assert_eq!(clock.now().age, 65_000);
        // The machine boots; 10 s later the daemon is there again.
        let mark = clock.now();
        machine.boot();
        machine.pass(Duration::from_secs(10));
        let mut clock = AgeClock::resume(Box::new(machine.clone()), mark);
        assert_eq!(clock.now().age, 75_000);
    }

    #[test]
    fn the_kernels_clock_does_not_go_back() {
        let mut clock = AgeClock::resume(Box::new(Kernel), Mark::default());
        let first = clock.now();
        assert!(clock.now().age >= first.age && first.uptime > 0);
    }
}
