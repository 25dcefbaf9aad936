//! Why a model cannot be pulled. Every text names what it is about and what to do; none holds a token or a signed address.

use std::io;
use std::path::PathBuf;

use super::digest::Digest;

/// Why a pull failed. What was fetched and checked until then stays in the cache.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the message shows")]
pub enum HubError {
    /// Not a repository's name.
    #[error("`{given}` is no repository: give ORG/NAME, as in laion/CLIP-ViT-B-32-laion2B-s34B-b79K")]
    BadRepo { given: String },
    /// Not a revision's name.
    #[error("`{given}` is no revision: give a branch, a tag or a commit")]
    BadRevision { given: String },
    /// `HF_ENDPOINT` is no address of a hub.
    #[error("HF_ENDPOINT {message}: give an address like https://huggingface.co")]
    BadEndpoint { message: String },
    /// A token that could not be sent.
    #[error("{place} holds no token: one is a single word like hf_…; see the hub's settings, under access tokens")]
    BadToken { place: String },
    /// The token's file.
    #[error("the token file {} cannot be read: {source}; see HF_TOKEN_PATH", path.display())]
    TokenFile { path: PathBuf, source: io::Error },
    /// No authority to check certificates with.
    #[error("this system knows no certificate authority: install ca-certificates, or name a file in SSL_CERT_FILE")]
    NoCertificates,
    /// A [`TlsConfig`](super::TlsConfig) that names no provider of cryptography or no authorities.
    #[error(
        "the TLS configuration has no provider of cryptography or no certificates: give `TlsConfig` both, as README.md of vtagd-checkpoint shows"
    )]
    BadTls,
    /// No repository, or one that is hidden from this user.
    #[error(
        "there is no repository {repo} at {hub}, or it is private: check the name{}",
        if *token { " and whether the token may read it" } else { "; for a private one, put a token into HF_TOKEN" }
    )]
    NoRepo { repo: String, hub: String, token: bool },
    /// No such branch, tag or commit.
    #[error("{repo} has no revision `{revision}`: see its page for branches and tags, or leave out --revision")]
    NoRevision { repo: String, revision: String },
    /// A file of the list is not there.
    #[error("{repo} lists `{file}` at {revision} and does not have it: try again, or another --revision")]
    NoFile { repo: String, file: String, revision: String },
    /// The repository's conditions are not accepted, or nobody said who asks.
    #[error(
        "{repo} may only be read by those who were let in: open {hub}/{repo} and accept its conditions{}",
        if *token {
            " with the account that the token belongs to".to_owned()
        } else {
            format!(", make a token at {hub}/settings/tokens, and put it into HF_TOKEN or the file HF_TOKEN_PATH names")
        }
    )]
    Gated { repo: String, hub: String, token: bool },
    /// The token is not good.
    #[error(
        "the hub refuses the token for {repo}{}: see {hub}/settings/tokens for whether it is valid and may read this repository",
        message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default()
    )]
    Refused { repo: String, hub: String, message: Option<String> },
    /// Another answer than the file.
    #[error(
        "the hub answers with status {status} for {what}{}: try again later",
        message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default()
    )]
    Status { what: String, status: u16, message: Option<String> },
    /// No answer.
    #[error("{host} cannot be reached: {reason}; check the network, HF_ENDPOINT and HTTPS_PROXY, or use --offline")]
    Unreachable { host: String, reason: String },
    /// An encrypted connection that cannot be trusted.
    #[error("{host} is not who it should be: {reason}; a company's own authority belongs into SSL_CERT_FILE")]
    Tls { host: String, reason: String },
    /// The connection broke in the middle of a file.
    #[error("`{file}` was cut off: {reason}; run it again to go on from there")]
    Cut { file: String, reason: String },
    /// An answer that no hub gives.
    #[error("{what} {message}; check HF_ENDPOINT")]
    BadAnswer { what: String, message: String },
    /// A name that points out of the folder.
    #[error("refused: the repository lists `{name}`, which would be written outside its folder; do not trust it")]
    Hostile { name: String },
    /// Nothing to check a file against.
    #[error("{host} tells no size and hash of `{file}`, so it could not be checked; use a hub that does (HF_ENDPOINT)")]
    NoHash { file: String, host: String },
    /// More than there should be.
    #[error(
        "`{file}` goes on after the {size} bytes it should have; it was thrown away: try again, or another HF_ENDPOINT"
    )]
    TooLong { file: String, size: u64 },
    /// Another content than the hub promised.
    #[error(
        "`{file}` is damaged or was tampered with: it should have {wanted}, it has {found}; it was thrown away: try again"
    )]
    WrongHash { file: String, wanted: Digest, found: Digest },
    /// No model that we read.
    #[error(
        "nothing in it can be read: wanted is a CLIP, SigLIP or OpenCLIP checkpoint or its ONNX export (docs/models.md), there is {names}"
    )]
    Unusable { names: String },
    /// Files of weights under names of their own, none of which is more usual than another.
    #[error(
        "it holds several files that could be the weights ({names}): choose one, as in --include '*.json' --include '*.txt' --include '{first}'"
    )]
    SeveralWeights { names: String, first: String },
    /// Weights in several folders, and nothing at the top.
    #[error(
        "nothing at its top can be read, and several folders hold weights ({names}): choose one, as in --include '{first}/*', and name that folder of what was pulled, DIR/{first}"
    )]
    SeveralFolders { names: String, first: String },
    /// `--include` selects nothing, or everything of something huge.
    #[error("--include {patterns} matches {found} files, it should be 1 to {most}")]
    NothingMatches { patterns: String, found: usize, most: usize },
    /// Offline, and never pulled.
    #[error("offline, and {repo} at {revision} was never pulled into {}: run it once without --offline and HF_HUB_OFFLINE", cache.display())]
    NeverPulled { repo: String, revision: String, cache: PathBuf },
    /// Offline, and not complete.
    #[error("offline, and the cache lacks {} of {repo}: run it once without --offline and HF_HUB_OFFLINE", missing.join(", "))]
    Missing { repo: String, missing: Vec<String> },
    /// The disk.
    #[error("{}: cannot be written: {source}; check free space and permissions, or set VTAGD_CACHE or --out to another disk", path.display())]
    Disk { path: PathBuf, source: io::Error },
    /// The disk, before anything is fetched.
    #[error(
        "{} has {} MB free, {} MB are needed; make room, or set VTAGD_CACHE or --out to another disk",
        dir.display(), free / 1_000_000, needed.div_ceil(1_000_000)
    )]
    NoSpace { dir: PathBuf, needed: u64, free: u64 },
    /// Something else is at the place of the result.
    #[error("{} exists already and is not this model; remove it or choose another --out", dir.display())]
    Exists { dir: PathBuf },
    /// The system gives no thread.
    #[error("no thread could be started: {source}; see the limits of this user's processes")]
    Thread { source: io::Error },
    /// Asked to stop.
    #[error("stopped; run it again to go on from there")]
    Stopped,
}

impl HubError {
    /// Whether the hub, or the way to it, is not there now: nothing is said about the repository.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Tls { .. } | Self::Cut { .. } | Self::BadAnswer { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// 2 where the request is wrong or cannot be served as it is, 1 where the network, the hub or the machine failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BadRepo { .. }
            | Self::BadRevision { .. }
            | Self::BadEndpoint { .. }
            | Self::BadToken { .. }
            | Self::TokenFile { .. }
            | Self::NoRepo { .. }
            | Self::NoRevision { .. }
            | Self::Gated { .. }
            | Self::Refused { .. }
            | Self::Hostile { .. }
            | Self::Unusable { .. }
            | Self::SeveralWeights { .. }
            | Self::SeveralFolders { .. }
            | Self::NothingMatches { .. }
            | Self::NeverPulled { .. }
            | Self::Missing { .. }
            | Self::Exists { .. } => 2,
            _ => 1,
        }
    }
}
