//! How an inference server stands, as the link tells it to whoever asks.

use crate::infer::Provider;

/// How the server stands, for `/readyz`, `status` and the log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ServerView {
    pub url: String,
    pub model: String,
    /// `up`, or what was wrong last: `away`, `slow`, `full`, `refused`, `wrong`.
    pub state: &'static str,
    /// In words, while it is not up.
    pub reason: Option<String>,
    /// Since when it is, or is not, up.
    pub since: jiff::Timestamp,
    /// What pictures are sent as: `u8`, `f32`, `f16`.
    pub input: Option<&'static str>,
    /// The provider that computes while it is not up; without one, frames are dropped.
    pub fallback: Option<&'static str>,
}

impl ServerView {
    /// The provider that computes now, or would if the server were there.
    pub fn provider(&self) -> &'static str {
        let remote = Provider::Remote.as_str();
        if self.state == "up" { remote } else { self.fallback.unwrap_or(remote) }
    }
}
