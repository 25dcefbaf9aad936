//! A credential that cannot be printed (invariant 4): `Debug` and `Display` show `***`, there is no `Serialize`.

use std::fmt;
use std::sync::Arc;

/// A password, token or key. Read it with [`Secret::expose`] at the place that needs the bytes and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
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
