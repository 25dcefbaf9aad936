//! A credential that cannot be printed (invariant 4): `Debug` and `Display` show `***`, there is no `Serialize`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Largest secret we read: a token or key is far smaller, a wrong file usually is not.
const MAX_BYTES: u64 = 64 * 1024;

/// Why a file holds no credential.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("cannot be read ({0})")]
    File(#[from] io::Error),
    #[error("is larger than 64 KiB")]
    TooLarge,
    #[error("is empty")]
    Empty,
    #[error("is not UTF-8 text")]
    NotText,
}

/// A password, token or key. Read it with [`Secret::expose`] at the place that needs the bytes and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The content of a file, without the newline at its end.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or is no credential but something larger.
    pub fn read(path: &Path) -> Result<Self, Unreadable> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Unreadable::TooLarge);
        }
        let text = String::from_utf8(bytes).map_err(|_| Unreadable::NotText)?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(Unreadable::Empty),
            secret => Ok(Self::new(secret)),
        }
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret, plain or percent-encoded, replaced by `***`. For messages of libraries
    /// that may repeat what they were given.
    pub fn scrub(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let encoded: String = url::form_urlencoded::byte_serialize(self.0.as_bytes()).collect();
        text.replace(&*self.0, "***").replace(&encoded, "***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    }

    #[test]
    fn scrubbing_removes_plain_and_encoded_forms() {
        let secret = Secret::new("p@ss/word");
        assert_eq!(
            secret.scrub("rtsp://u:p@ss/word@h and rtsp://u:p%40ss%2Fword@h"),
            "rtsp://u:***@h and rtsp://u:***@h"
        );
    }
}
