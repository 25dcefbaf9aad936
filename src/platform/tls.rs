//! Whom outgoing TLS trusts, and as whom it and the API show themselves. By default the system's certificates are trusted, so that a company's
//! own authority works. Files are read anew at each call, so a renewed certificate needs no restart.

use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore};
use sha2::{Digest as _, Sha256};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// What a configuration says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM file of certificate authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Settings for `ureq`, and whether the system knows any authority at all.
pub fn of_the_system() -> (TlsConfig, bool) {
    let roots = system();
    let known = !roots.is_empty();
    (http(roots, None), known)
}

/// Settings for `ureq` with `trust`.
///
/// # Errors
/// Which file cannot be used.
pub fn of(trust: &Trust) -> Result<TlsConfig, String> {
    let identity = trust.identity.as_ref().map(identity).transpose()?;
    let identity = identity.map(|(chain, key)| {
        let chain: Vec<_> = chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        ClientCert::new_with_certs(&chain, key)
    });
    Ok(http(roots(trust)?, identity))
}

/// Settings for a connection of our own with `trust`.
///
/// # Errors
/// Which file cannot be used.
pub fn client(trust: &Trust) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    // The system's may hold some that rustls does not take; there are others.
    let (added, _) = store.add_parsable_certificates(roots(trust)?);
    if added == 0 {
        return Err("no certificate authority is known: install ca-certificates, or name one with `ca`".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(store);
    let config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = certificates(&files.0)?;
            let key = PrivateKeyDer::from_pem_file(&files.1).map_err(|error| unusable(&files.1, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&files.1, &error))?
        }
    };
    Ok(Arc::new(config))
}

/// Settings for a server that shows itself as `cert`, a chain that begins with its own certificate.
///
/// # Errors
/// Which file cannot be used.
pub fn server(cert: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, String> {
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
    // Whether the two belong together is found out here.
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(|error| format!("{} and {}: cannot be used together: {error}", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Settings for a connection to a server that shows exactly the first certificate in `cert`, under whatever name and of whatever authority.
///
/// # Errors
/// When the file cannot be used.
pub fn pinned(cert: &Path) -> Result<Arc<rustls::ClientConfig>, String> {
    by_itself(Expected::Certificate(certificates(cert)?.swap_remove(0)))
}

/// The same for a server that shows the certificate with this fingerprint.
///
/// # Errors
/// When there is no TLS here.
pub fn with_fingerprint(fingerprint: CertificateFingerprint) -> Result<Arc<rustls::ClientConfig>, String> {
    by_itself(Expected::Fingerprint(fingerprint))
}

/// The same for a server that shows anything at all: whoever is on the way can be that server.
///
/// # Errors
/// When there is no TLS here.
pub fn without_verification() -> Result<Arc<rustls::ClientConfig>, String> {
    by_itself(Expected::Anything(Arc::default()))
}

/// The fingerprint of what is shown at this place. Connects, and hangs up; waits `timeout` for each step.
pub fn shown_at(host: &str, port: u16, timeout: Duration) -> Option<CertificateFingerprint> {
    let seen = Arc::new(Mutex::new(None));
    let config = by_itself(Expected::Anything(Arc::clone(&seen))).ok()?;
    // Whatever becomes of the handshake: what was shown was seen before.
    let _ = handshake(config, host, port, timeout);
    *seen.lock()
}

/// Why the certificate that is shown at this place is refused by `config`. `None`: it is not, or nobody is there.
pub fn refused_at(config: Arc<rustls::ClientConfig>, host: &str, port: u16, timeout: Duration) -> Option<String> {
    let error = handshake(config, host, port, timeout).err()?;
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure) => {
            Some("it is another one than the one that is pinned".to_owned())
        }
        rustls::Error::InvalidCertificate(why) => Some(why.to_string()),
        _ => None,
    }
}

fn handshake(config: Arc<rustls::ClientConfig>, host: &str, port: u16, timeout: Duration) -> std::io::Result<()> {
    use std::io::{Error, ErrorKind};
    let address = (host, port).to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
    let mut socket = TcpStream::connect_timeout(&address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    let name = ServerName::try_from(host.to_owned()).map_err(Error::other)?;
    let mut connection = rustls::ClientConnection::new(config, name).map_err(Error::other)?;
    connection.complete_io(&mut socket).map(drop)
}

fn by_itself(expected: Expected) -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.dangerous();
    Ok(Arc::new(builder.with_custom_certificate_verifier(Arc::new(Pin { expected, algorithms })).with_no_client_auth()))
}

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateFingerprint([u8; 32]);

impl CertificateFingerprint {
    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

/// As `openssl x509 -fingerprint -sha256` and browsers write it.
impl fmt::Display for CertificateFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, byte)| {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")
        })
    }
}

/// In either case, with colons or blanks or without.
impl FromStr for CertificateFingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !b": ".contains(byte)).collect();
        if digits.len() != 64 {
            return Err(format!("it has {} digits, 64 are needed", digits.len()));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *byte = pair
                .bytes()
                .all(|digit| digit.is_ascii_hexdigit())
                .then(|| u8::from_str_radix(pair, 16).ok())
                .flatten()
                .ok_or_else(|| "there is something else than hexadecimal digits in it".to_owned())?;
        }
        Ok(Self(bytes))
    }
}

/// What a server is to show.
#[derive(Debug)]
enum Expected {
    Certificate(CertificateDer<'static>),
    Fingerprint(CertificateFingerprint),
    /// Whatever it is; what it was is written down.
    Anything(Arc<Mutex<Option<CertificateFingerprint>>>),
}

/// Trusts one certificate: a reader of the file knows whom he asks better than any authority.
#[derive(Debug)]
struct Pin {
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let good = match &self.expected {
            Expected::Certificate(own) => *shown == *own,
            Expected::Fingerprint(fingerprint) => CertificateFingerprint::of(shown) == *fingerprint,
            Expected::Anything(seen) => {
                *seen.lock() = Some(CertificateFingerprint::of(shown));
                true
            }
        };
        if good {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    // That it also has the certificate's key is proved as with any other.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What is wrong with TLS, for a person who may change `ca`, `cert` and `key`; `None` if `error` is about something else.
pub fn explained(error: &(dyn std::error::Error + 'static), trust: &Trust) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        let inner = io.and_then(std::io::Error::get_ref).map(|inner| inner as &(dyn std::error::Error + 'static));
        let found = error.downcast_ref::<Error>().or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        if let Some(found) = found {
            return Some(match found {
                Error::InvalidCertificate(Bad::UnknownIssuer) => {
                    "TLS: its certificate is of an authority that is not trusted; name the authority's PEM file with `ca`".to_owned()
                }
                Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
                    "TLS: its certificate is for another name; write one of its names into the address".to_owned()
                }
                Error::AlertReceived(Alert::CertificateRequired) => {
                    "TLS: it wants a certificate of ours; name one with `cert` and `key`".to_owned()
                }
                Error::AlertReceived(
                    alert @ (Alert::BadCertificate
                    | Alert::UnsupportedCertificate
                    | Alert::CertificateRevoked
                    | Alert::CertificateExpired
                    | Alert::CertificateUnknown
                    | Alert::UnknownCA
                    | Alert::AccessDenied
                    | Alert::DecryptError
                    | Alert::HandshakeFailure),
                ) => format!("TLS: it does not take our certificate, or wants one ({alert:?}); check `cert` and `key`"),
                error => format!("TLS: {error}"),
            });
        }
        let gone = io.is_some_and(|io| {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            matches!(io.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
        });
        if gone {
            return Some(hung_up(error, trust));
        }
        next = error.source();
    }
    None
}

/// A server may hang up without saying why, or so fast that what it said is lost.
pub fn hung_up(error: &dyn std::error::Error, trust: &Trust) -> String {
    let remedy = match trust.identity {
        None => "it may want a certificate of ours, `cert` and `key`",
        Some(_) => "it may not take our certificate, `cert` and `key`",
    };
    format!("{error}; {remedy}")
}

fn http(roots: Vec<CertificateDer<'static>>, identity: Option<ClientCert>) -> TlsConfig {
    let roots: Vec<_> = roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .client_cert(identity)
        .build()
}

fn system() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

fn roots(trust: &Trust) -> Result<Vec<CertificateDer<'static>>, String> {
    trust.ca.as_ref().map_or_else(|| Ok(system()), |file| certificates(file))
}

fn identity((chain, key): &(PathBuf, PathBuf)) -> Result<(Vec<CertificateDer<'static>>, PrivateKey<'static>), String> {
    let chain = certificates(chain)?;
    let text = std::fs::read(key).map_err(|error| unusable(key, &error))?;
    let key = PrivateKey::from_pem(&text).map_err(|error| unusable(key, &error))?;
    Ok((chain, key))
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(format!("{}: holds no certificate (PEM)", file.display())),
        Ok(all) => Ok(all),
        Err(error) => Err(unusable(file, &error)),
    }
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: cannot be used: {error}", file.display())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fingerprint_is_read_however_it_is_written() {
        let fingerprint = CertificateFingerprint::of(b"certificate");
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 95);
        for text in [text.clone(), text.to_lowercase(), text.replace(':', ""), text.replace(':', " ")] {
            assert_eq!(text.parse(), Ok(fingerprint), "{text}");
        }
        for wrong in ["", "ab", &text[..94], &format!("{text}:00"), &text.replace('A', "G"), &"+1".repeat(32)] {
            assert!(wrong.parse::<CertificateFingerprint>().is_err() || !text.contains('A'), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(text in "[0-9a-fA-Fé:]{0,70}") {
            let _ = text.parse::<CertificateFingerprint>();
        }
    }
}
