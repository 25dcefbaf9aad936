//! Names that come from people and from hubs, checked before any of them becomes part of a path or an address. Pure.

use std::fmt;

use super::HubError;

/// Longest file name inside a repository; the longest of a published CLIP has 60 characters.
const MAX_LISTING_BYTES: usize = 512;
/// Most folders around a file; ONNX exports have one.
const DEEPEST: usize = 8;

/// `ORG/NAME`, or the bare `NAME` of the first models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo(String);

impl Repo {
    /// Reads `ORG/NAME`, `hf://ORG/NAME` or the address of its page on `endpoint`.
    ///
    /// # Errors
    /// [`HubError::BadRepo`] for anything that a hub cannot call a repository.
    pub fn parse(text: &str, endpoint: &str) -> Result<Self, HubError> {
        let name = ["hf://", "https://huggingface.co/", &format!("{endpoint}/")]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text);
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() <= 2 && parts.iter().all(|part| is_part(part)) {
            return Ok(Self(name.to_owned()));
        }
        Err(HubError::BadRepo { given: shown(text) })
    }

    /// `ORG/NAME`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn model(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// One folder name, different for different repositories: no part of a name holds two hyphens in a row.
    pub(super) fn folder(&self) -> String {
        self.0.replace('/', "--")
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hub's own rule for names, which also keeps them harmless as folders.
fn is_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty()
        && part.len() <= 96
        && part.chars().all(plain)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// A branch, a tag, a commit or `refs/pr/N`.
///
/// # Errors
/// [`HubError::BadRevision`] for what git would not take.
pub(super) fn check_revision(text: &str) -> Result<(), HubError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+' | '#' | '@' | '=');
    let good = !text.is_empty()
        && text.len() <= 200
        && text.chars().all(plain)
        && !text.contains("..")
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']));
    if good { Ok(()) } else { Err(HubError::BadRevision { given: shown(text) }) }
}

/// The full hash of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a file name of a listing can be taken as a path below a folder of ours, on any system and in any address.
pub(super) fn is_plain_file(name: &str) -> bool {
    name.len() <= MAX_LISTING_BYTES
        && name.split('/').count() <= DEEPEST
        && !name.contains(|c: char| c.is_control() || c == '\\' || c == ':')
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Foreign text, fit for a message: escaped and cut.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_repository_is_read_from_its_name_its_hf_address_and_its_page() {
        let hub = "http://hub.example:8080/mirror";
        for text in ["laion/CLIP-ViT-B-32", "hf://laion/CLIP-ViT-B-32", "https://huggingface.co/laion/CLIP-ViT-B-32"] {
            assert_eq!(Repo::parse(text, hub).unwrap().as_str(), "laion/CLIP-ViT-B-32");
        }
        let repo = Repo::parse(&format!("{hub}/laion/CLIP-ViT-B-32"), hub).unwrap();
        assert_eq!((repo.model(), repo.folder().as_str()), ("CLIP-ViT-B-32", "laion--CLIP-ViT-B-32"));
        assert_eq!(Repo::parse("gpt2", hub).unwrap().model(), "gpt2");
    }

    #[test]
    fn names_that_are_no_repository_are_refused() {
        for text in
            ["", "/", "a/b/c", "../x", "a/..", ".a/b", "a/b?x", "a b/c", "a/b--c", "https://other.example/a/b", "a/b\n"]
        {
            assert!(matches!(Repo::parse(text, "https://huggingface.co"), Err(HubError::BadRepo { .. })), "{text:?}");
        }
    }

    #[test]
    fn revisions_are_those_git_knows() {
        for good in ["main", "v1.0", "refs/pr/12", "3b1f0c9d6a7e8f90123456789abcdef012345678"] {
            assert!(check_revision(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "a/../b", "/main", "main/", "-x", "a b", "a\0", "a//b", "a\\b"] {
            assert!(check_revision(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn file_names_that_leave_the_folder_are_not_plain() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\\b", "..\\x", "C:x", "a\nb", "a\0"]
        {
            assert!(!is_plain_file(bad), "{bad:?}");
        }
        for good in ["config.json", "onnx/vision_model.onnx_data", ".gitattributes", "a..b", "with space.txt"] {
            assert!(is_plain_file(good), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_name_never_leaves_its_folder(name in "[a./\\\\ :]{0,12}") {
            if is_plain_file(&name) {
                let path = std::path::Path::new("/folder").join(&name);
                prop_assert!(path.starts_with("/folder"));
                prop_assert!(path.components().skip(1).all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
