//! Whom outgoing TLS trusts, and as whom it and the API show themselves. By default the system's certificates are trusted, so that a company's
//! own authority works. Files are read anew at each call, so a renewed certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore};
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
    let own = certificates(cert)?.swap_remove(0);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.dangerous();
    Ok(Arc::new(builder.with_custom_certificate_verifier(Arc::new(Pin { own, algorithms })).with_no_client_auth()))
}

/// Trusts one certificate: a reader of the file knows whom he asks better than any authority.
#[derive(Debug)]
struct Pin {
    own: CertificateDer<'static>,
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
        if *shown == self.own {
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
