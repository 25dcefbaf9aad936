//! What the API asks of the running daemon, and what becomes of it.
//!
//! A request puts a [`Wish`] into a bounded channel and waits for its [`CommandOutcome`], a while; the assembly on the main thread takes one at a
//! time. When the channel is full the newest wish is refused; once the daemon stops, so are all.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;

use crate::stream::registry::Command;
use crate::yaml::problem::Problem;

/// Wishes that wait for the assembly. A person or a script asks for one at a time.
const WISHES: usize = 16;

/// What somebody wants.
#[derive(Debug)]
pub enum Wish {
    /// To switch a stream on or off.
    Switch(Command),
    /// To read the configuration again, as SIGHUP does.
    Reload,
}

/// What became of a wish.
#[derive(Debug)]
pub enum CommandOutcome {
    Done,
    /// It was so before.
    Already,
    NoSuchStream,
    /// Nothing has changed.
    Refused {
        why: String,
        problems: Vec<Problem>,
    },
}

/// Why a wish has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCommandOutcome {
    /// Too many wait already.
    Busy,
    /// It was taken and is not done yet.
    Late,
    /// The daemon ends.
    Stopping,
}

/// A wish and where its outcome is to be told.
#[derive(Debug)]
pub struct Asked {
    pub wish: Wish,
    pub answer: oneshot::Sender<CommandOutcome>,
}

/// The asking side.
#[derive(Clone, Debug)]
pub struct Asker(Sender<Asked>);

/// Both sides.
pub fn channel() -> (Asker, Receiver<Asked>) {
    let (sender, receiver) = bounded(WISHES);
    (Asker(sender), receiver)
}

impl Asker {
    /// Asks, and waits at most `patience` for what comes of it.
    ///
    /// # Errors
    /// Why nothing is known of it.
    pub async fn ask(&self, wish: Wish, patience: Duration) -> Result<CommandOutcome, NoCommandOutcome> {
        let (answer, outcome) = oneshot::channel();
        self.0.try_send(Asked { wish, answer }).map_err(|error| match error {
            crossbeam_channel::TrySendError::Full(_) => NoCommandOutcome::Busy,
            crossbeam_channel::TrySendError::Disconnected(_) => NoCommandOutcome::Stopping,
        })?;
        match tokio::time::timeout(patience, outcome).await {
            Err(_) => Err(NoCommandOutcome::Late),
            Ok(outcome) => outcome.map_err(|_| NoCommandOutcome::Stopping),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_wish_is_answered_or_it_is_told_why_not() {
        let (asker, asked) = channel();
        let assembly = std::thread::spawn(move || {
            let Asked { wish, answer } = asked.recv().unwrap();
            assert!(matches!(wish, Wish::Reload));
            answer.send(CommandOutcome::Already).unwrap();
            // The second is taken and never answered: the daemon ends.
            drop(asked.recv().unwrap());
        });
        let patience = Duration::from_secs(600);
        assert!(matches!(wait(asker.ask(Wish::Reload, patience)), Ok(CommandOutcome::Already)));
        assert_eq!(wait(asker.ask(Wish::Reload, patience)).unwrap_err(), NoCommandOutcome::Stopping);
        assembly.join().unwrap();
        assert_eq!(wait(asker.ask(Wish::Reload, patience)).unwrap_err(), NoCommandOutcome::Stopping);
    }

    #[test]
    fn a_wish_that_nobody_takes_is_late_and_no_more_than_a_few_wait() {
        let (asker, _asked) = channel();
        for _ in 0..WISHES {
            assert_eq!(wait(asker.ask(Wish::Reload, Duration::ZERO)).unwrap_err(), NoCommandOutcome::Late);
        }
        assert_eq!(wait(asker.ask(Wish::Reload, Duration::ZERO)).unwrap_err(), NoCommandOutcome::Busy);
    }
}
