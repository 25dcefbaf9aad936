//! A credential that cannot be printed (invariant 4): `Debug` and `Display` show `***`, there is no `Serialize`.
//!
//! Every one that is made is also remembered by this process, in each spelling in which a library may repeat it, so that [`scrub`] can
//! take it out of text that somebody else wrote: the log does that with every line. What is remembered is bounded; beyond it the
//! oldest are forgotten, which are those of configurations long gone. Any thread.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parking_lot::{Mutex, RwLock};
use strsim::osa_distance;
use url::Url;

use crate::platform::userinfo;

/// Largest secret we read: a token or key is far smaller, a wrong file usually is not.
const MAX_BYTES: u64 = 64 * 1024;

/// Secrets that are remembered: more than a configuration of a thousand cameras has, each with its URL's query.
const MOST_KNOWN: usize = 4096;

/// A shorter one is not taken out of foreign text: it would take half of the text along.
const SHORTEST_KNOWN: usize = 4;

static KNOWN: RwLock<Known> = RwLock::new(Known { values: VecDeque::new(), spellings: Vec::new() });

/// Environment variables that credentials have come from, with the value of those that were [withdrawn](withdraw_variables).
static VARIABLES: Mutex<BTreeMap<String, Option<Secret>>> = Mutex::new(BTreeMap::new());

struct Known {
    values: VecDeque<Arc<str>>,
    /// Of all values, the longest first: one may be part of another.
    spellings: Vec<String>,
}

impl Known {
    fn add(&mut self, value: &Arc<str>) {
        if self.values.contains(value) {
            return;
        }
        self.values.push_back(Arc::clone(value));
        if self.values.len() > MOST_KNOWN {
            self.values.pop_front();
            // A spelling of the one that is gone may be one of another too.
            self.spellings.clear();
            self.values.clone().iter().for_each(|value| self.spell(value));
        } else {
            self.spell(value);
        }
    }

    fn spell(&mut self, value: &str) {
        for spelling in spellings(value) {
            let order = |known: &String| spelling.len().cmp(&known.len()).then_with(|| known.cmp(&spelling));
            if let Err(at) = self.spellings.binary_search_by(order) {
                self.spellings.insert(at, spelling);
            }
        }
    }
}

/// Shorter lines of a secret of several, such as the heading of a key, are no secret by themselves.
const SHORTEST_LINE: usize = 16;

fn remember(value: &Arc<str>) {
    if value.len() < SHORTEST_KNOWN {
        return;
    }
    if value.contains('\n') {
        // A certificate's key, say: others tell it line by line.
        let lines = value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("--"));
        lines.for_each(|line| remember(&line.into()));
    }
    let known = KNOWN.read().values.contains(value);
    if !known {
        KNOWN.write().add(value);
    }
}

/// How `value` may be written: as it is, escaped as in JSON or in Rust, percent-encoded as in a form, in a URL's user part or
/// wholly, in base64, and as a list of bytes.
fn spellings(value: &str) -> Vec<String> {
    let form: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let percent = form.replace('+', "%20");
    let mut all = vec![value.to_owned(), BASE64_STANDARD.encode(value)];
    let json = |value: &str| serde_json::to_string(value).map_or_else(|_| value.to_owned(), |json| inner(&json));
    // A message in JSON may itself be shown so, or as Rust shows a text.
    all.extend([json(value), json(&json(value)), inner(&format!("{value:?}")), inner(&format!("{:?}", json(value)))]);
    all.push(value.escape_debug().to_string());
    // As libraries show what they send: a list of bytes.
    all.push(format!("{:?}", value.as_bytes()).trim_matches(['[', ']']).to_owned());
    let mut encoded = vec![form, percent];
    if let Ok(mut url) = Url::parse("http://x/")
        && url.set_password(Some(value)).is_ok()
    {
        encoded.extend(url.password().map(ToOwned::to_owned));
    }
    // GLib leaves more as it is than others.
    encoded.push(value.bytes().map(user_part).collect());
    all.extend(encoded.iter().map(|encoded| lower_hex(encoded)).collect::<Vec<_>>());
    all.extend(encoded);
    all.retain(|spelling| spelling.len() >= SHORTEST_KNOWN);
    all.sort_unstable();
    all.dedup();
    all
}

/// A byte in the user part of an address, as RFC 3986 has it.
fn user_part(byte: u8) -> String {
    let stays = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&byte);
    if stays { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

/// Without the quotes around it.
fn inner(quoted: &str) -> String {
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(quoted).to_owned()
}

/// `%2F` as `%2f`.
fn lower_hex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut hex = 0;
    for c in text.chars() {
        out.push(if hex > 0 { c.to_ascii_lowercase() } else { c });
        hex = if c == '%' { 2 } else { usize::saturating_sub(hex, 1) };
    }
    out
}

/// `text` with `***` in place of every secret that this process knows, however it is spelt, and of user and password in any address. For
/// what libraries wrote.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read();
    let mut text = Cow::Borrowed(text);
    for spelling in &known.spellings {
        if text.contains(spelling.as_str()) {
            text = Cow::Owned(text.replace(spelling.as_str(), "***"));
        }
    }
    match userinfo::masked(&text) {
        Cow::Owned(masked) => Cow::Owned(masked),
        Cow::Borrowed(_) => text,
    }
}

/// Whether so many are known that one more from outside would push one of the configuration's out.
pub fn is_full() -> bool {
    KNOWN.read().values.len() >= MOST_KNOWN
}

/// Text that holds a credential somewhere, such as the query of an address.
pub fn holds_one(text: &str) {
    remember(&text.into());
}

/// Path segments of an address that hold a credential, as some cameras have it: `/user=admin_password=…_channel=1.sdp`.
pub fn in_path(url: &Url) -> impl Iterator<Item = &str> {
    url.path_segments().into_iter().flatten().filter(|segment| segment.contains('=') && is_secret_key(segment))
}

/// `url` with `***` in the place of those.
pub fn without_path(url: &Url) -> Url {
    let mut bare = url.clone();
    for segment in in_path(url) {
        let path = bare.path().replace(segment, "***");
        bare.set_path(&path);
    }
    bare
}

/// `user` goes with `password`: HTTP's and RTSP's basic authentication write both as one word.
pub fn goes_with(user: &str, password: &Secret) {
    remember(&BASE64_STANDARD.encode(format!("{user}:{}", password.expose())).into());
}

/// Whether a process that this one starts must not get the variable: a credential came from it, its name says that it holds one, or
/// its value is an address with a password, as that of a proxy may be.
pub fn is_private(name: &OsStr, value: &OsStr) -> bool {
    let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
    let taken = VARIABLES.lock().contains_key(&*name);
    let address = value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    taken || address || names_a_secret(&name, &value)
}

/// Judged by its name. A path says only where something is, and our own variables never say more.
fn names_a_secret(name: &str, value: &str) -> bool {
    is_secret_key(name) && !name.starts_with("VTAGD") && !(value.starts_with('/') && Path::new(value).exists())
}

/// Takes the variables that hold credentials, by what the configuration or their names say, out of this process's environment, so that
/// nobody inherits them, not even what a library starts. They are still there for [`Secret::from_variable`]. Where other threads
/// run already, nothing is done. Addresses of proxies stay: libraries look for them when they connect.
pub fn withdraw_variables() {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if !alone {
        return;
    }
    let mut variables = VARIABLES.lock();
    for (name, value) in std::env::vars() {
        if variables.contains_key(&name) || names_a_secret(&name, &value) {
            // Not made known: what only looks like a credential may be a word that the log needs.
            variables.insert(name.clone(), Some(Secret(value.into())));
            // SAFETY: there is no other thread that could read the environment meanwhile.
            unsafe { std::env::remove_var(&name) };
        }
    }
}

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
        let value = value.into();
        remember(&value);
        Self(value)
    }

    /// The value of an environment variable, which processes that we start will not get.
    ///
    /// # Errors
    /// When it is not set, or no text.
    pub fn from_variable(name: &str) -> Result<Self, std::env::VarError> {
        let mut variables = VARIABLES.lock();
        if let Some(kept) = variables.entry(name.to_owned()).or_default() {
            remember(&kept.0);
            return Ok(kept.clone());
        }
        std::env::var(name).map(Self::new)
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

    /// In the place of one that is not here, for whoever looks at a configuration and connects to nobody. No real one is empty.
    pub fn absent() -> Self {
        Self("".into())
    }

    pub fn is_absent(&self) -> bool {
        self.0.is_empty()
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret, in any spelling, replaced by `***`. For messages of libraries that may
    /// repeat what they were given.
    pub fn scrub(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let mut spellings = spellings(&self.0);
        spellings.sort_unstable_by_key(|spelling| std::cmp::Reverse(spelling.len()));
        let text = spellings.iter().fold(text.to_owned(), |text, spelling| text.replace(spelling.as_str(), "***"));
        text.replace(&*self.0, "***")
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

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a key looks as if its value were a credential; misspelt words count.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    let parts =
        ["pass", "pwd", "secret", "token", "auth", "credential", "api_key", "api-key", "access_key", "access-key"];
    // Parts of other words too.
    let words = ["nkey", "creds", "apikey", "loginpas", "pas", "psw", "pw"];
    parts.iter().any(|part| key.contains(part))
        || key.split(|c: char| !c.is_alphanumeric()).any(|word| words.contains(&word))
        || (key.len() < 32
            && [("password", 3), ("secret", 2), ("token", 1)]
                .iter()
                .any(|(word, near)| osa_distance(&key, word) <= *near))
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
    fn every_spelling_of_a_known_secret_is_taken_out_of_foreign_text() {
        let secret = Secret::new("M4rk\"ed p/ä~w+d");
        goes_with("viewer", &secret);
        let mut url = Url::parse("rtsp://viewer@h/").unwrap();
        url.set_password(Some(secret.expose())).unwrap();
        let form: String = url::form_urlencoded::byte_serialize(secret.expose().as_bytes()).collect();
        for text in [
            secret.expose().to_owned(),
            serde_json::json!({ "a": secret.expose() }).to_string(),
            format!("{:?}", secret.expose()),
            url.to_string(),
            lower_hex(url.as_str()),
            secret.expose().bytes().map(user_part).collect(),
            lower_hex(&form),
            form.replace('+', "%20"),
            form,
            format!("Basic {}", BASE64_STANDARD.encode(format!("viewer:{}", secret.expose()))),
            format!("{:?}", secret.expose().as_bytes()),
            format!("Bearer {}", BASE64_STANDARD.encode(secret.expose())),
        ] {
            let scrubbed = scrub(&text);
            assert!(scrubbed.contains("***") && !scrubbed.contains("M4rk"), "{text}: {scrubbed}");
            assert!(!scrubbed.contains("w+d") && !scrubbed.contains("w%2"), "{text}: {scrubbed}");
        }
        assert!(matches!(scrub("nothing of the kind"), Cow::Borrowed("nothing of the kind")));
    }

    #[test]
    fn each_line_of_a_secret_of_several_is_one() {
        Secret::new("-----BEGIN USER NKEY SEED-----\nSUAMARKEDSEEDOFMANYLETTERS\n------END USER NKEY SEED------\n");
        assert_eq!(scrub("it was SUAMARKEDSEEDOFMANYLETTERS"), "it was ***");
        assert_eq!(scrub("-----BEGIN USER NKEY SEED-----"), "-----BEGIN USER NKEY SEED-----");
    }

    #[test]
    fn what_is_known_is_bounded_and_the_oldest_goes_first() {
        let mut known = Known { values: VecDeque::new(), spellings: Vec::new() };
        for number in 0..MOST_KNOWN + 3 {
            known.add(&format!("secret-{number:06}").into());
        }
        assert_eq!(known.values.len(), MOST_KNOWN);
        assert!(!known.spellings.contains(&"secret-000002".to_owned()));
        assert!(known.spellings.contains(&"secret-000003".to_owned()));
    }

    #[test]
    fn variables_with_credentials_are_private() {
        let private = |name: &str, value: &str| is_private(name.as_ref(), value.as_ref());
        assert!(private("HF_TOKEN", "x") && private("DB_PASSWORD", "x") && private("http_proxy", "http://u:p@h:1"));
        assert!(!private("PATH", "/usr/bin") && !private("http_proxy", "http://h:1") && !private("VTAGD_CACHE", "/x"));
        assert!(!private("CREDENTIALS_DIRECTORY", "/proc") && !private("VTAGD__API__TOKEN__FILE", "secrets/token"));
        assert!(!private("DOCK3", "x"));
        assert!(Secret::from_variable("DOCK3").is_err());
        assert!(private("DOCK3", "x"), "a configuration has named it");
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
