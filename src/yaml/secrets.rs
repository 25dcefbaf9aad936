//! Credentials: never in the configuration file itself, but in the environment, in a file, or in a systemd credential.

use std::path::{Path, PathBuf};

use crate::platform::secret::{Secret, Unreadable};
use crate::yaml::field_reader::{At, FromNode, Reader, join};
use crate::yaml::problem::Severity;
use crate::yaml::{Node, Value, nearest, relative_to};

const KEYS: [&str; 3] = ["env", "file", "credential"];
const FORMS: &str = "write `{ env: NAME }`, `{ file: PATH }` or `{ credential: NAME }`";

/// Where a credential comes from.
#[derive(Clone)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// The content of a file, without the newline at its end.
    File(PathBuf),
    /// A file of this name in `$CREDENTIALS_DIRECTORY` (systemd `LoadCredential=`).
    Credential(String),
}

impl FromNode for SecretSource {
    fn schema() -> serde_json::Value {
        let keys = KEYS.map(|key| (key.to_owned(), serde_json::json!({ "type": "string" })));
        let mut schema = crate::yaml::field_reader::object(keys.into_iter().collect());
        schema["minProperties"] = 1.into();
        schema["maxProperties"] = 1.into();
        schema
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.report(Severity::Error, node.place, path, "a credential may not stand in this file", FORMS);
            return None;
        };
        // `{hunter2}` is a mapping too, and its key nothing to repeat.
        if entries.iter().any(|entry| nearest(&entry.key, &KEYS).is_none()) {
            reader.report(Severity::Error, node.place, path, "does not say where the credential is", FORMS);
            return None;
        }
        let before = reader.problems().len();
        let map = reader.map(node, path, &KEYS)?;
        let unknown = reader.problems().len() > before;
        let (env, file, credential) = (
            map.field::<String>("env", reader),
            map.field::<String>("file", reader),
            map.field::<String>("credential", reader),
        );
        match (env.given(), file.given(), credential.given()) {
            (Some(name), None, None) if is_name(&name.value, |_| false) => Some(Self::Env(name.value.clone())),
            (Some(name), None, None) => {
                // Not repeated: somebody may have written the password itself.
                reader.error(name, "is not the name of an environment variable", "use letters, digits and `_`");
                None
            }
            (None, Some(file), None) => Some(Self::File(PathBuf::from(&file.value))),
            (None, None, Some(name)) if is_name(&name.value, |c| c == '-' || c == '.') => {
                Some(Self::Credential(name.value.clone()))
            }
            (None, None, Some(name)) => {
                reader.error(name, "is not the name of a systemd credential", "use letters, digits, `_`, `-` and `.`");
                None
            }
            (None, None, None) if unknown || !(env.is_missing() && file.is_missing() && credential.is_missing()) => {
                None
            }
            _ => {
                reader.report(
                    Severity::Error,
                    node.place,
                    path,
                    "needs exactly one of env, file and credential",
                    FORMS,
                );
                None
            }
        }
    }

    fn keys(path: &str, out: &mut Vec<String>) {
        out.extend(KEYS.map(|key| join(path, key)));
    }
}

fn is_name(name: &str, more: impl Fn(char) -> bool) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || more(c))
}

/// Fetches the credential. On `None` a problem has been reported.
pub fn resolve(source: &At<SecretSource>, reader: &mut Reader<'_>) -> Option<Secret> {
    match &source.value {
        SecretSource::Env(name) => match Secret::from_variable(name) {
            Ok(secret) if !secret.expose().is_empty() => Some(secret),
            Ok(_) => {
                reader.error(source, format!("environment variable {name} is empty"), "give it a value");
                None
            }
            Err(std::env::VarError::NotPresent) => {
                let remedy = "set it for this process (systemd: EnvironmentFile=), or use { file: PATH }";
                reader.error(source, format!("environment variable {name} is not set"), remedy);
                None
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                reader.error(source, format!("environment variable {name} is not UTF-8"), "use UTF-8 text");
                None
            }
        },
        SecretSource::File(path) => {
            let path = relative_to(reader.document().file(), path);
            read(source, &path, "check the path and its permissions", reader)
        }
        SecretSource::Credential(name) => {
            let remedy = format!("add LoadCredential={name}:PATH to the systemd unit");
            match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => read(source, &Path::new(&folder).join(name), &remedy, reader),
                None => {
                    let message = format!("credential {name} is not there: $CREDENTIALS_DIRECTORY is not set");
                    reader.error(source, message, remedy);
                    None
                }
            }
        }
    }
}

/// The file that the credential is in, if it is in one.
pub fn file(source: &At<SecretSource>, reader: &Reader<'_>) -> Option<PathBuf> {
    match &source.value {
        SecretSource::Env(_) => None,
        SecretSource::File(path) => Some(relative_to(reader.document().file(), path)),
        SecretSource::Credential(name) => {
            std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(name))
        }
    }
}

fn read(source: &At<SecretSource>, path: &Path, remedy: &str, reader: &mut Reader<'_>) -> Option<Secret> {
    match Secret::read(path) {
        Ok(secret) => Some(secret),
        Err(error) => {
            let remedy = match error {
                Unreadable::File(_) => remedy,
                Unreadable::Empty => "write the credential into it",
                Unreadable::TooLarge | Unreadable::NotText => "name a file that holds only the credential",
            };
            reader.error(source, format!("{} {error}", path.display()), remedy);
            None
        }
    }
}
