//! Signals in two steps: the first SIGTERM or SIGINT drains, the second stops at once. One named thread waits for them.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::shutdown::Trigger;

/// The thread that waits for signals; dropping it gives the signals back.
pub struct Listener {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Takes over SIGTERM, SIGINT and SIGHUP. The first of the former two asks for shutdown through `trigger`.
///
/// # Errors
/// When the system refuses the handlers or the thread.
pub fn listen(trigger: Trigger) -> io::Result<Listener> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new().name("vtagd-signals".to_owned()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                // Left to its default it would end the daemon, which is not what a reload is for.
                SIGHUP => tracing::warn!("reloading has no effect yet, restart to read the configuration again"),
                _ if stopping => {
                    tracing::warn!("second signal, stopping at once");
                    // Not `process::exit`: exit handlers of libraries could wait for threads that hang.
                    signal_hook::low_level::exit(1);
                }
                _ => {
                    stopping = true;
                    tracing::info!(
                        signal,
                        "stopping: sources end, what was taken is finished; a second signal stops at once"
                    );
                    trigger.trigger();
                }
            }
        }
    })?;
    Ok(Listener { handle, thread: Some(thread) })
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It only waits for signals; a panic in it has been logged.
            let _ = thread.join();
        }
    }
}
