//! What sinks tell of the daemon itself, beside its streams. Set by the daemon as each becomes known, read by any thread; nobody waits.

use std::sync::OnceLock;

/// See the module.
#[derive(Default)]
pub struct DaemonFacts {
    provider: OnceLock<String>,
    url: OnceLock<String>,
    waiting: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

impl DaemonFacts {
    /// What computes: known once the model is loaded.
    pub fn set_provider(&self, provider: &str) {
        let _ = self.provider.set(provider.to_owned());
    }

    /// Where people reach the API and its page, where others than this machine can.
    pub fn set_url(&self, url: String) {
        let _ = self.url.set(url);
    }

    /// How many events wait for sinks.
    pub fn set_waiting(&self, waiting: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.waiting.set(Box::new(waiting));
    }

    pub fn provider(&self) -> Option<&str> {
        self.provider.get().map(String::as_str)
    }

    pub fn url(&self) -> Option<&str> {
        self.url.get().map(String::as_str)
    }

    pub fn waiting(&self) -> u64 {
        self.waiting.get().map_or(0, |waiting| waiting())
    }
}
