//! Keys of a stream about how its pictures come, as written.

use std::time::Duration;

use crate::section;
use crate::source::Transport;
use crate::words;
use crate::yaml::secrets::SecretSource;

section! {
    /// `tls` of a stream; one of its keys.
    pub struct SourceTls {
        /// path | - | PEM file of certificate authorities to trust instead of the system's
        "ca" => ca: String,
        /// 64 hexadecimal digits | - | SHA-256 of the one certificate that the camera may show, whatever name stands in it and
        /// whoever signed it. `vtagd check --probe` prints it
        "fingerprint" => fingerprint: String,
        /// `on`, `off` | `on` | `off`: any certificate will do. Told at every start
        "verify" => verify: Verify,
    }
}

/// Whether a camera's certificate is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    On,
    Off,
}

section! {
    /// `push` of a stream.
    pub struct PushKeys {
        /// credential | - | What who sends pictures shows, as a Bearer token or a Basic password; good for this stream's
        /// route alone. Without one `api.token` is needed, where there is one
        "token" => token: SecretSource,
        /// duration above 0 | one `sampling.interval` | How long a picture stands for what is there; after that nothing is
        "hold" => hold: Duration,
    }
}

words! {
    Verify {
        "on" => Self::On,
        "off" => Self::Off,
    }
    Transport {
        "auto" => Self::Auto,
        "tcp" => Self::Tcp,
        "udp" => Self::Udp,
        "multicast" => Self::Multicast,
    }
}
