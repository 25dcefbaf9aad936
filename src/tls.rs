//! Whom outgoing HTTPS trusts: the system's certificates, so that a company's own authority works. Read anew at each call.

use std::sync::Arc;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Settings for `ureq`, and whether the system knows any authority at all.
pub fn of_the_system() -> (TlsConfig, bool) {
    let found = rustls_native_certs::load_native_certs();
    let roots: Vec<_> = found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let known = !roots.is_empty();
    let config = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build();
    (config, known)
}
