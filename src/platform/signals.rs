//! Signals in two steps: the first SIGTERM or SIGINT drains, the second stops at once. SIGHUP asks for a reload. One named thread
//! waits for them.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::platform::shutdown::Trigger;

/// The thread that waits for signals; dropping it gives the signals back.
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Takes over SIGTERM and SIGINT, the first of which asks for shutdown through `trigger`, and SIGHUP where there is a
/// `reload`, which asks for one and must not wait. `before_exit` runs before the second signal ends the process.
///
/// # Errors
/// When the system refuses the handlers or the thread.
pub fn listen(trigger: Trigger, reload: Option<Box<dyn Fn() + Send>>, before_exit: fn()) -> io::Result<SignalThread> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if reload.is_some() {
        signals.add_signal(SIGHUP)?;
    }
    let handle = signals.handle();
    let thread = std::thread::Builder::new().name("vtagd-signals".to_owned()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => reload.iter().for_each(|reload| reload()),
                _ if stopping => {
                    tracing::warn!("second signal, stopping at once");
                    before_exit();
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
    Ok(SignalThread { handle, thread: Some(thread) })
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It only waits for signals; a panic in it has been logged.
            let _ = thread.join();
        }
    }
}
