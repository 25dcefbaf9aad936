//! What a file must hash to, as a hub tells it. In: hex text of a listing or an `ETag`; out: a [`Digest`] and the [`Hasher`] that
//! makes one of bytes. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The hash that names a file's content. Hubs keep large files by the former, small ones by the latter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Digest {
    /// SHA-256 of the content, 64 hex digits.
    Sha256(String),
    /// Git's name of the content: SHA-1 of `blob SIZE\0` and the content, 40 hex digits.
    GitSha1(String),
}

impl Digest {
    /// Reads hex text, by its length; `None` for anything else.
    pub(super) fn of_hex(text: &str) -> Option<Self> {
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let text = text.to_ascii_lowercase();
        match text.len() {
            64 => Some(Self::Sha256(text)),
            40 => Some(Self::GitSha1(text)),
            _ => None,
        }
    }

    /// Reads an entity tag: maybe weak, maybe in quotes.
    pub(super) fn of_etag(tag: &str) -> Option<Self> {
        Self::of_hex(tag.trim().trim_start_matches("W/").trim_matches('"'))
    }

    /// The hex digits.
    pub fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitSha1(hex) => hex,
        }
    }

    /// A hasher whose answer can be compared with this digest, for content of `size` bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitSha1(_) => Hasher::GitSha1(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256 {hex}"),
            Self::GitSha1(hex) => write!(f, "git sha1 {hex}"),
        }
    }
}

/// A digest in the making.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(format!("{:x}", hasher.finalize())),
            Self::GitSha1(hasher) => Digest::GitSha1(format!("{:x}", hasher.finalize())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(kind: &Digest, bytes: &[u8]) -> Digest {
        let mut hasher = kind.hasher(bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn content_hashes_to_what_sha256sum_and_git_say() {
        // `printf 'hello\n' | sha256sum` and `printf 'hello\n' | git hash-object --stdin`.
        let sha256 = Digest::of_hex("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").unwrap();
        let git = Digest::of_hex("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        assert_eq!(hash(&sha256, b"hello\n"), sha256);
        assert_eq!(hash(&git, b"hello\n"), git);
    }

    #[test]
    fn entity_tags_are_read_with_and_without_quotes_and_other_hashes_are_not() {
        let hex = "CE013625030ba8dba906f756967f9e9ca394464a";
        for tag in [hex.to_owned(), format!("\"{hex}\""), format!("W/\"{hex}\"")] {
            assert_eq!(Digest::of_etag(&tag), Some(Digest::GitSha1(hex.to_lowercase())), "{tag}");
        }
        for tag in ["", "\"ce01\"", "f0467a3cd7a0a2997c9fdfbccb2fe1fe-8", "../../../../../../../../../../../../../etc"]
        {
            assert_eq!(Digest::of_etag(tag), None, "{tag}");
        }
    }
}
