//! What sinks tell of the daemon itself, beside its streams. Set by the daemon as each becomes known, read by any thread; nobody waits.

use std::sync::OnceLock;

use parking_lot::Mutex;

/// See the module.
#[derive(Default)]
pub struct DaemonFacts {
    provider: Mutex<Option<&'static str>>,
    url: OnceLock<String>,
    waiting: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

impl DaemonFacts {
    /// What computes: known once the model is loaded, and another when a server that computes comes or goes.
    pub fn set_provider(&self, provider: &'static str) {
        *self.provider.lock() = Some(provider);
    }

    /// Where people reach the API and its page, where others than this machine can.
    pub fn set_url(&self, url: String) {
        let _ = self.url.set(url);
    }

    /// How many events wait for sinks.
    pub fn set_waiting(&self, waiting: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.waiting.set(Box::new(waiting));
    }

    pub fn provider(&self) -> Option<&'static str> {
        *self.provider.lock()
    }

    pub fn url(&self) -> Option<&str> {
        self.url.get().map(String::as_str)
    }

    pub fn waiting(&self) -> u64 {
        self.waiting.get().map_or(0, |waiting| waiting())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_provider_is_the_one_that_was_told_last() {
        let facts = DaemonFacts::default();
        assert_eq!(facts.provider(), None);
        for provider in ["cpu", "remote", "cpu"] {
            facts.set_provider(provider);
            assert_eq!(facts.provider(), Some(provider));
        }
    }
}
