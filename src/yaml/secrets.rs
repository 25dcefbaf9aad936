//! Credentials: never in the configuration file itself, but in the environment, in a file, or in a systemd credential. One that is not here
//! stops the daemon; whoever only looks at a configuration need not have it ([`Absence`]).

use std::path::{Path, PathBuf};

use crate::platform::secret::{Secret, Unreadable};
use crate::yaml::field_reader::{At, FromNode, Reader, join};
use crate::yaml::key_reference::{Key, described};
use crate::yaml::problem::Severity;
use crate::yaml::{Node, Value, nearest};

const KEYS: [&str; 3] = ["env", "file", "credential"];
const DOCS: [&str; 3] = [
    "text | - | Name of an environment variable",
    "path | - | A file that holds it alone; a newline at its end does not count",
    "text | - | Name of a systemd credential (`LoadCredential=`)",
];
const FORMS: &str = "write `{ env: NAME }`, `{ file: PATH }` or `{ credential: NAME }`";

/// What becomes of a credential that is not here: a variable that is not set, a file that is missing or not for this user, a systemd
/// credential outside the service. One that is here and wrong is an error for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absence {
    /// An error: nothing can start without it.
    #[default]
    Refused,
    /// A warning: somebody checks in a shell what a service will run.
    Told,
    /// Nothing: nobody is connected to.
    Passed,
}

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
        let keys = KEYS.iter().zip(DOCS);
        let keys = keys.map(|(key, doc)| ((*key).to_owned(), described(serde_json::json!({ "type": "string" }), doc)));
        let mut schema = crate::yaml::field_reader::object(keys.collect());
        schema["minProperties"] = 1.into();
        schema["maxProperties"] = 1.into();
        schema
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return reader.refuse_node(node, path, "a credential may not stand in this file", FORMS);
        };
        // `{hunter2}` is a mapping too, and its key nothing to repeat.
        if entries.iter().any(|entry| nearest(&entry.key, &KEYS).is_none()) {
            return reader.refuse_node(node, path, "does not say where the credential is", FORMS);
        }
        let before = reader.problems().len();
        let mut map = reader.map(node, path, &KEYS)?;
        let unknown = reader.problems().len() > before;
        let (env, file, credential) = (
            map.field::<String>("env", reader),
            map.field::<String>("file", reader),
            map.field::<String>("credential", reader),
        );
        match (env.given(), file.given(), credential.given()) {
            (Some(name), None, None) => {
                // Not repeated: somebody may have written the password itself.
                let message = "is not the name of an environment variable";
                let good = is_name(&name.value, |_| false);
                reader.accept(name, good, message, "use letters, digits and `_`").map(Self::Env)
            }
            (None, Some(file), None) => Some(Self::File(PathBuf::from(&file.value))),
            (None, None, Some(name)) => {
                let good = is_name(&name.value, |c| c == '-' || c == '.');
                let message = "is not the name of a systemd credential";
                reader.accept(name, good, message, "use letters, digits, `_`, `-` and `.`").map(Self::Credential)
            }
            (None, None, None) if unknown || !(env.is_missing() && file.is_missing() && credential.is_missing()) => {
                None
            }
            _ => reader.refuse_node(node, path, "needs exactly one of env, file and credential", FORMS),
        }
    }

    fn keys(path: &str, out: &mut Vec<Key>) {
        out.extend(KEYS.iter().zip(DOCS).map(|(key, doc)| Key { path: join(path, key), doc, of: "" }));
    }
}

fn is_name(name: &str, more: impl Fn(char) -> bool) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || more(c))
}

/// Fetches the credential. On `None` a problem has been reported; one that is not here may be [`Secret::absent`].
pub fn resolve(source: &At<SecretSource>, reader: &mut Reader<'_>) -> Option<Secret> {
    let lack = match fetch(source, reader) {
        Ok(secret) => return Some(secret),
        Err(lack) => lack,
    };
    match reader.absence() {
        Absence::Told if lack.is_absent => {
            let remedy = format!("`run` needs it: {}", lack.remedy);
            reader.report(Severity::Warning, source.place, &source.path, lack.message, remedy);
            Some(Secret::absent())
        }
        Absence::Passed if lack.is_absent => Some(Secret::absent()),
        _ => reader.refuse(source, lack.message, lack.remedy),
    }
}

/// Why there is no credential.
struct Lack {
    message: String,
    remedy: String,
    /// It is not here, which says nothing of where the daemon runs.
    is_absent: bool,
}

fn fetch(source: &At<SecretSource>, reader: &Reader<'_>) -> Result<Secret, Lack> {
    match &source.value {
        SecretSource::Env(name) => {
            let (why, remedy, is_absent) = match Secret::from_variable(name) {
                Ok(secret) if !secret.is_absent() => return Ok(secret),
                Ok(_) => ("empty", "give it a value", true),
                Err(std::env::VarError::NotPresent) => {
                    ("not set", "set it for this process (systemd: EnvironmentFile=), or use { file: PATH }", true)
                }
                Err(std::env::VarError::NotUnicode(_)) => ("not UTF-8", "use UTF-8 text", false),
            };
            let message = format!("environment variable {name} is {why}");
            Err(Lack { message, remedy: remedy.to_owned(), is_absent })
        }
        SecretSource::File(path) => {
            read(&reader.document().resolve(source.place, path), "check the path and its permissions")
        }
        SecretSource::Credential(name) => {
            let remedy = format!("add LoadCredential={name}:PATH to the systemd unit");
            let Some(path) = file(source, reader) else {
                let message = format!("credential {name} is not there: $CREDENTIALS_DIRECTORY is not set");
                return Err(Lack { message, remedy, is_absent: true });
            };
            read(&path, &remedy)
        }
    }
}

/// Fetches a credential that has to be `good`. On `None` a problem has been reported.
pub fn resolve_if(
    source: &At<SecretSource>,
    good: impl Fn(&Secret) -> bool,
    [message, remedy]: [&str; 2],
    reader: &mut Reader<'_>,
) -> Option<Secret> {
    let secret = resolve(source, reader)?;
    if secret.is_absent() || good(&secret) { Some(secret) } else { reader.refuse(source, message, remedy) }
}

/// The file that the credential is in, if it is in one.
pub fn file(source: &At<SecretSource>, reader: &Reader<'_>) -> Option<PathBuf> {
    match &source.value {
        SecretSource::Env(_) => None,
        SecretSource::File(path) => Some(reader.document().resolve(source.place, path)),
        SecretSource::Credential(name) => {
            std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(name))
        }
    }
}

fn read(path: &Path, remedy: &str) -> Result<Secret, Lack> {
    Secret::read(path).map_err(|error| {
        let (remedy, is_absent) = match &error {
            Unreadable::File(error) => (remedy, is_out_of_reach(error)),
            Unreadable::Empty => ("write the credential into it", false),
            Unreadable::TooLarge | Unreadable::NotText => ("name a file that holds only the credential", false),
        };
        Lack { message: format!("{} {error}", path.display()), remedy: remedy.to_owned(), is_absent }
    })
}

/// Whether a file is missing, or not for this user: another one may have it.
pub fn is_out_of_reach(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied)
}
