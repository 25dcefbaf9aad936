//! A model folder from a hub, as the daemon and its commands ask for it: the environment in, on a thread that a person can stop. The
//! protocol itself is `vtagd_checkpoint::hub`.

pub mod background;
mod settings;

use std::time::Duration;

pub use settings::from_env;
pub use vtagd_checkpoint::hub::*;

use crate::platform::shutdown::Shutdown;

impl StopRequest for Shutdown {
    fn is_requested(&self) -> bool {
        Self::is_requested(self)
    }

    fn sleep(&self, duration: Duration) -> bool {
        Self::sleep(self, duration)
    }
}
