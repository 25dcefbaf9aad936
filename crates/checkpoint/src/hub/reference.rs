//! A model on a hub as a person writes it where a folder could stand: `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`. Pure.

use std::fmt;
use std::path::Path;

use super::name::{Repo, check_revision};
use super::{HubError, REVISION};

/// Before the name of a repository.
const SCHEME: &str = "hf:";

/// A repository and a revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The repository.
    pub repo: Repo,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Reference {
    /// Reads `text`; `None` where it is a path.
    ///
    /// # Errors
    /// [`HubError::BadRepo`] or [`HubError::BadRevision`].
    pub fn read(text: &str) -> Option<Result<Self, HubError>> {
        let name = text.strip_prefix(SCHEME)?;
        let name = name.strip_prefix("//").unwrap_or(name);
        let (repo, revision) = name.split_once('@').unwrap_or((name, REVISION));
        let repo = Repo::parse(repo, SCHEME);
        Some(repo.and_then(|repo| check_revision(revision).map(|()| Self { repo, revision: revision.to_owned() })))
    }

    /// As [`Self::read`], of what may be a path.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_path(path: &Path) -> Option<Result<Self, HubError>> {
        path.to_str().and_then(Self::read)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        if self.revision == REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_and_written_the_same() {
        for (text, repo, revision, shown) in [
            ("hf:acme/clip", "acme/clip", "main", "hf:acme/clip"),
            ("hf://acme/clip", "acme/clip", "main", "hf:acme/clip"),
            ("hf:acme/clip@main", "acme/clip", "main", "hf:acme/clip"),
            ("hf:acme/clip@v1.0", "acme/clip", "v1.0", "hf:acme/clip@v1.0"),
            ("hf:gpt2@refs/pr/3", "gpt2", "refs/pr/3", "hf:gpt2@refs/pr/3"),
        ] {
            let found = Reference::read(text).unwrap().unwrap();
            assert_eq!(
                (found.repo.as_str(), found.revision.as_str(), found.to_string().as_str()),
                (repo, revision, shown)
            );
        }
        for text in ["", "starter", "models/clip", "/hf:a/b", "HF:a/b"] {
            assert!(Reference::read(text).is_none(), "{text}");
        }
        for text in ["hf:", "hf:a/b/c", "hf:../x", "hf:a/b@", "hf:a/b@..", "hf:a b/c"] {
            assert!(Reference::read(text).unwrap().is_err(), "{text}");
        }
    }
}
