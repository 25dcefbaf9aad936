//! The proxy that a web source goes through: the one that `http_proxy` names, unless `no_proxy` excepts the host, as for everything else that goes out.
//!
//! In: the environment, an address. Out: whether it is used, and how to call it in a message. GStreamer knows the first variable alone, and GIO would lead RTSP
//! through such a proxy too ([`go_directly`]). Any thread.

use url::Url;

use crate::platform::userinfo;

/// Keeps GIO from sending whatever it connects (RTSP above all) through a proxy that is meant for the web, unless somebody has told it how to choose.
/// To be called before there is a second thread.
#[expect(clippy::disallowed_methods, reason = "no other thread runs yet, and GIO has no other setting")]
pub fn go_directly() {
    const RESOLVER: &str = "GIO_USE_PROXY_RESOLVER";
    if std::env::var_os(RESOLVER).is_none() {
        // SAFETY: nobody else reads or writes the environment yet.
        unsafe { std::env::set_var(RESOLVER, "dummy") };
    }
}

/// The proxy for `url`, as host and port; `None`: it is gone to directly.
pub(super) fn of(url: &Url) -> Option<String> {
    let named = std::env::var("http_proxy").ok().filter(|named| !named.is_empty())?;
    let named = if named.contains("://") { named } else { format!("http://{named}") };
    let proxy = userinfo::parse(&named).ok()?;
    let excepted = || {
        let uri: ureq::http::Uri = format!("http://{}/", url.host_str()?).parse().ok()?;
        Some(ureq::Proxy::try_from_env()?.is_no_proxy(&uri))
    };
    if excepted().unwrap_or(false) {
        return None;
    }
    let host = proxy.host_str()?;
    Some(proxy.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}
