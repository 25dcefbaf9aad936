//! What a repository holds at one commit. In: the hub's answer to `/api/models/REPO/revision/REV?blobs=true`, or the copy of it
//! that we kept; out: a [`Listing`] with plain names only. The answer is untrusted: its size, the number of its names and every
//! name in it are checked. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::HubError;
use super::digest::Digest;
use super::name::{is_commit, is_plain_file, shown};

/// Longest answer that is read. A thousand files make 300 kB.
pub(super) const MAX_LISTING_BYTES: u64 = 32 << 20;
/// Most files of a repository.
const MOST_FILES: usize = 100_000;

/// The files of a repository at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, Entry>,
}

/// What is known of a file; what a hub leaves out of its listing, its answer to a question about the file tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Reads the hub's answer.
    ///
    /// # Errors
    /// [`HubError::BadAnswer`] for what is no such answer, [`HubError::Hostile`] for a name that would leave the folder.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, HubError> {
        let bad = |message: String| HubError::BadAnswer { what: "the list of files".into(), message };
        let answer: Answer = serde_json::from_slice(bytes).map_err(|e| bad(format!("is not what a hub says: {e}")))?;
        if !is_commit(&answer.sha) {
            return Err(bad(format!("names the commit `{}`, which is no hash", shown(&answer.sha))));
        }
        if answer.siblings.len() > MOST_FILES {
            return Err(bad(format!("names more than {MOST_FILES} files")));
        }
        let mut files = BTreeMap::new();
        for sibling in answer.siblings {
            let entry = sibling.entry();
            let name = sibling.rfilename;
            if !is_plain_file(&name) {
                // Git takes backslashes and colons, so such a name may be honest; it is only never fetched.
                if name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..") {
                    return Err(HubError::Hostile { name: shown(&name) });
                }
                tracing::warn!(target: "vtagd::model::hub::listing", file = %shown(&name), "left out: no plain file name");
                continue;
            }
            if files.insert(name.clone(), entry).is_some() {
                return Err(bad(format!("names `{}` twice", shown(&name))));
            }
        }
        Ok(Self { commit: answer.sha, files })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// What lies in `folder`, by its names there.
    pub(super) fn below(&self, folder: &str) -> Self {
        let below = |(name, entry): (&String, &Entry)| {
            Some((name.strip_prefix(folder)?.strip_prefix('/')?.to_owned(), entry.clone()))
        };
        Self { commit: self.commit.clone(), files: self.files.iter().filter_map(below).collect() }
    }
}

impl Sibling {
    fn entry(&self) -> Entry {
        match &self.lfs {
            // Its blob is the pointer, not the file.
            Some(lfs) => Entry {
                size: lfs.size.or(self.size),
                digest: lfs.sha256.as_deref().map(|t| t.strip_prefix("sha256:").unwrap_or(t)).and_then(sha256),
            },
            None => Entry {
                size: self.size,
                digest: self.blob_id.as_deref().and_then(Digest::of_hex).filter(|d| matches!(d, Digest::GitSha1(_))),
            },
        }
    }
}

fn sha256(text: &str) -> Option<Digest> {
    Digest::of_hex(text).filter(|d| matches!(d, Digest::Sha256(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn read(siblings: serde_json::Value) -> Result<Listing, HubError> {
        Listing::read(json!({"sha": COMMIT, "siblings": siblings, "likes": 3}).to_string().as_bytes())
    }

    #[test]
    fn large_files_have_their_own_hash_and_small_ones_gits() {
        let hash = "ab".repeat(32);
        let listing = read(json!([
            {"rfilename": "model.safetensors", "size": 9, "blobId": COMMIT, "lfs": {"sha256": hash, "size": 9, "pointerSize": 134}},
            {"rfilename": "config.json", "size": 5, "blobId": COMMIT},
            {"rfilename": "README.md"},
        ]))
        .unwrap();
        assert_eq!(listing.files["model.safetensors"], Entry { size: Some(9), digest: Some(Digest::Sha256(hash)) });
        assert_eq!(listing.files["config.json"], Entry { size: Some(5), digest: Some(Digest::GitSha1(COMMIT.into())) });
        assert_eq!(listing.files["README.md"], Entry::default());
    }

    #[test]
    fn a_name_that_would_leave_the_folder_spoils_the_whole_list() {
        for name in ["../../etc/cron.d/x", "/etc/passwd", "onnx/../../x", "..\\x"] {
            assert!(matches!(read(json!([{"rfilename": name}])), Err(HubError::Hostile { .. })), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_only_odd_is_left_out() {
        let listing = read(json!([{"rfilename": "a\\b.json"}, {"rfilename": "config.json"}])).unwrap();
        assert_eq!(listing.files.keys().collect::<Vec<_>>(), ["config.json"]);
    }

    #[test]
    fn answers_that_are_none_are_told() {
        for bytes in [&b"<html>"[..], b"{}", b"[]", br#"{"sha": "../x", "siblings": []}"#] {
            assert!(matches!(Listing::read(bytes), Err(HubError::BadAnswer { .. })));
        }
        assert!(read(json!([{"rfilename": "a"}, {"rfilename": "a"}])).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Listing::read(&bytes);
        }
    }
}
