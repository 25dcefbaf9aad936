//! How to reach a daemon: `api` of its configuration as somebody outside needs it, who may not be able to read its key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::schema::{Api, Root};
use super::{DEFAULT_LISTEN, validate};
use crate::platform::secret::Secret;
use crate::yaml::field_reader::{Field, Reader};
use crate::yaml::problem::Severity;
use crate::yaml::{Document, relative_to, secrets};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// Where it listens, as written.
    pub listen: SocketAddr,
    pub token: Option<Secret>,
    /// The certificate that it shows; `None`: plain HTTP.
    pub cert: Option<PathBuf>,
}

/// See the module.
///
/// # Errors
/// What is wrong with `api`, or that the API is off.
pub fn of(document: &Document) -> Result<Reach, String> {
    let mut reader = Reader::new(document);
    let default = Api::default();
    let root = reader.root::<Root>();
    let raw = match root.as_ref().map(|root| &root.value.api) {
        Some(Field::Given(api)) => &api.value,
        Some(Field::Missing) => &default,
        Some(Field::Wrong) | None => return Err(wrong(reader, document)),
    };
    // What is wrong elsewhere has been reported by now, and is nobody's business here.
    let mut reader = Reader::new(document);
    let listen = match &raw.listen {
        Field::Given(listen) if listen.value == "off" => {
            return Err(format!("the API is off in {} (`api.listen: off`)", document.file().display()));
        }
        Field::Given(listen) => validate::listen(listen, &mut reader),
        Field::Missing => DEFAULT_LISTEN.parse().ok(),
        Field::Wrong => None,
    };
    let token = raw.token.given().map(|token| secrets::resolve(token, &mut reader));
    let cert = match raw.tls.given().map(|tls| &tls.value.cert) {
        Some(Field::Given(cert)) => Some(relative_to(document.file(), Path::new(&cert.value))),
        _ => None,
    };
    match (listen, token) {
        (Some(listen), None) => Ok(Reach { listen, token: None, cert }),
        (Some(listen), Some(Some(token))) => Ok(Reach { listen, token: Some(token), cert }),
        // The address is right, so the token is what is wrong.
        (Some(listen), Some(None)) => Err(without_token(reader, listen, cert.is_some())),
        _ => Err(wrong(reader, document)),
    }
}

fn wrong(reader: Reader<'_>, document: &Document) -> String {
    let problems = reader.finish();
    let first = problems.iter().find(|problem| problem.severity == Severity::Error);
    first.map_or_else(|| format!("`api` of {} cannot be read", document.file().display()), ToString::to_string)
}

/// What somebody can do who may not have the token where the configuration says that it is.
fn without_token(reader: Reader<'_>, listen: SocketAddr, tls: bool) -> String {
    let problems = reader.finish();
    let why = problems.first().map_or("", |problem| problem.message.as_str());
    let host = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let (scheme, place) = (if tls { "https" } else { "http" }, SocketAddr::new(host, listen.port()));
    let ca = if tls { " --ca CERTIFICATE" } else { "" };
    format!(
        "the API's token is not here ({why}): ask with --url {scheme}://{place}{ca} --token-file PATH (or --token-env NAME), as somebody who may read it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(text: &str) -> Result<Reach, String> {
        of(&Document::parse("/etc/vtagd/x.yaml".as_ref(), text.as_bytes()).expect("YAML"))
    }

    #[test]
    fn an_address_is_read_whatever_else_is_wrong() {
        let default = reach("streams: 7\n").unwrap();
        assert_eq!((default.listen.to_string().as_str(), default.token, default.cert), (DEFAULT_LISTEN, None, None));
        let other = reach("sinks: x\napi: { listen: \"[::]:9\", tls: { cert: a.crt, key: /none } }\n").unwrap();
        assert_eq!((other.listen.port(), other.cert), (9, Some("/etc/vtagd/a.crt".into())));
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        for (text, told) in [
            ("api: { listen: off }", "the API is off in /etc/vtagd/x.yaml"),
            ("api: { listen: here }", "api.listen: is not an IP address"),
            ("api: { token: { env: VTAGD_TEST_NOT_SET } }", "VTAGD_TEST_NOT_SET is not set"),
            ("api: 7", "api"),
            ("[]", "x.yaml"),
        ] {
            let error = reach(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
