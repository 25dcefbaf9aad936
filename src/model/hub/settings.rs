//! Where the hub is, who asks, and whether it may be asked at all: the variables that Hugging Face's own tools read. In: the
//! environment and at most one token file; out: [`HubSettings`]. The token is known as a [`Secret`] from the first line on.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use url::Url;

use vtagd_checkpoint::hub::{HubError, HubSettings, HubToken};

use crate::platform::secret::Secret;
use crate::platform::{paths, tls, userinfo};

/// The hub without `HF_ENDPOINT`.
const ENDPOINT: &str = "https://huggingface.co";
/// Longest token file that is read; a token has some forty characters.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Reads `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, `HF_HUB_DISABLE_IMPLICIT_TOKEN` and `HF_HUB_OFFLINE`; the
/// cache is `hub` in [our cache directory](paths::cache_dir), and the system's certificates count.
///
/// # Errors
/// An endpoint that is no address of a web server; a token that cannot be one, or whose file cannot be read.
pub fn from_env() -> Result<HubSettings, HubError> {
    let settings = read(|name| env::var_os(name).filter(|value| !value.is_empty()), paths::cache_dir().join("hub"))?;
    let (tls, known) = tls::of_the_system();
    Ok(HubSettings { tls: known.then_some(tls), ..settings })
}

fn read(var: impl Fn(&str) -> Option<OsString>, cache: PathBuf) -> Result<HubSettings, HubError> {
    let endpoint = match var("HF_ENDPOINT") {
        Some(text) => endpoint(&text.to_string_lossy())?,
        None => endpoint(ENDPOINT)?,
    };
    let flag = |name: &str| {
        let value = var(name).unwrap_or_default().to_string_lossy().to_ascii_uppercase();
        matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
    };
    let agent = concat!("vtagd/", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(HubSettings { endpoint, token: token(&var, &flag)?, offline: flag("HF_HUB_OFFLINE"), cache, tls: None, agent })
}

fn endpoint(text: &str) -> Result<Url, HubError> {
    // The text may hold a password, so no message repeats it.
    let bad = |message: &str| HubError::BadEndpoint { message: message.to_owned() };
    let mut url = userinfo::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(bad("is not http:// or https:// with a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("holds a user or a password; put a token into HF_TOKEN instead"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("holds a query or a fragment"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// The order is that of Hugging Face's own library: the variable, the named file, the file of `huggingface-cli login`.
fn token(var: &impl Fn(&str) -> Option<OsString>, flag: &impl Fn(&str) -> bool) -> Result<Option<HubToken>, HubError> {
    if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(value) = var(name) {
            let text = value.into_string().map_err(|_| not_a_token(name))?;
            return checked(&text, name);
        }
    }
    if let Some(path) = var("HF_TOKEN_PATH").map(PathBuf::from) {
        return token_file(&path, true);
    }
    let home = var("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache =
            var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(var("HOME")?).join(".cache")));
        Some(cache?.join("huggingface"))
    });
    home.map_or(Ok(None), |home| token_file(&home.join("token"), false))
}

/// A file that was named must be there, the usual one may be missing.
fn token_file(path: &Path, named: bool) -> Result<Option<HubToken>, HubError> {
    let place = path.display().to_string();
    let failed = |source| HubError::TokenFile { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_TOKEN_BYTES => return Err(not_a_token(&place)),
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound && !named => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    checked(&fs::read_to_string(path).map_err(failed)?, &place)
}

/// A token travels in a header: one word of visible ASCII.
fn checked(text: &str, place: &str) -> Result<Option<HubToken>, HubError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    // From here on no line of the log shows it.
    let known = Secret::new(text);
    HubToken::new(known.expose()).map(Some).ok_or_else(|| not_a_token(place))
}

fn not_a_token(place: &str) -> HubError {
    HubError::BadToken { place: place.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Result<HubSettings, HubError> {
        read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)), PathBuf::from("/cache"))
    }

    fn has(settings: &HubSettings, token: &str) -> bool {
        settings.token == HubToken::new(token)
    }

    #[test]
    fn the_endpoint_is_the_public_hub_unless_a_mirror_is_named() {
        assert_eq!(with(&[]).unwrap().endpoint_text(), "https://huggingface.co");
        let mirror = with(&[("HF_ENDPOINT", "http://10.0.0.1:8080/hf/")]).unwrap();
        assert_eq!(mirror.endpoint_text(), "http://10.0.0.1:8080/hf");
    }

    #[test]
    fn an_endpoint_that_is_none_is_refused_without_repeating_it() {
        for bad in ["hub", "ftp://x/", "http://", "https://me:hunter2@hub.example", "https://me:1/hunter2@hub.example"]
        {
            let error = with(&[("HF_ENDPOINT", bad)]).unwrap_err();
            assert!(matches!(error, HubError::BadEndpoint { .. }), "{bad}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_token_is_looked_for_in_the_variable_the_named_file_and_the_home() {
        let folder = tempfile::tempdir().unwrap();
        let (named, home) = (folder.path().join("named"), folder.path().join("home"));
        fs::create_dir(&home).unwrap();
        fs::write(&named, "from-file\n").unwrap();
        fs::write(home.join("token"), "from-home\n").unwrap();
        let all = [
            ("HF_TOKEN", "from-variable"),
            ("HF_TOKEN_PATH", named.to_str().unwrap()),
            ("HF_HOME", home.to_str().unwrap()),
        ];
        assert!(has(&with(&all).unwrap(), "from-variable"));
        assert!(has(&with(&all[1..]).unwrap(), "from-file"));
        assert!(has(&with(&all[2..]).unwrap(), "from-home"));
        assert!(with(&[("HOME", "/no/such/home")]).unwrap().token.is_none());
        let off = with(&[all[0], ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap();
        assert!(off.token.is_none());
    }

    #[test]
    fn what_cannot_be_a_token_is_named_by_its_place_and_not_shown() {
        let error = with(&[("HF_TOKEN", "hunter2\r\nX-Evil: 1")]).unwrap_err();
        assert!(error.to_string().contains("HF_TOKEN") && !format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = with(&[("HF_TOKEN_PATH", "/no/such/token")]).unwrap_err();
        assert!(error.to_string().contains("/no/such/token"), "{error}");
    }

    #[test]
    fn offline_is_asked_for_as_hugging_faces_tools_do() {
        assert!(!with(&[]).unwrap().offline && !with(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert!(
            with(&[("HF_HUB_OFFLINE", "1")]).unwrap().offline && with(&[("HF_HUB_OFFLINE", "true")]).unwrap().offline
        );
    }
}
