//! The proxy that a web source goes through: the one that `http_proxy` names, unless `no_proxy` excepts the host. One rule for streams and for stills that are polled.
//!
//! In: the environment, an address. Out: whether it is used, how to call it in a message, and how to reach it. GStreamer knows the first variable alone, and GIO
//! would lead RTSP through such a proxy too ([`go_directly`]). Any thread.

use url::Url;

use crate::platform::{no_proxy, userinfo};

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
    let proxy = used(url)?;
    let host = proxy.host_str()?;
    Some(proxy.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// The same for requests of our own.
pub(super) fn for_agent(url: &Url) -> Option<ureq::Proxy> {
    ureq::Proxy::new(used(url)?.as_str()).ok()
}

fn used(url: &Url) -> Option<Url> {
    let named = std::env::var("http_proxy").ok().filter(|named| !named.is_empty() && is_proxy(Some(named.as_str())))?;
    if no_proxy::excepts(url) {
        return None;
    }
    userinfo::parse(&if named.contains("://") { named } else { format!("http://{named}") }).ok()
}

/// Whether souphttpsrc survives what the variable says: one that it cannot parse ends the process as soon as it connects.
pub(super) fn is_proxy(variable: Option<&str>) -> bool {
    let Some(text) = variable else { return true };
    let address = if text.starts_with("http://") { text.to_owned() } else { format!("http://{text}") };
    // GLib knows no stray `%`, which others let pass.
    let hex = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    text.is_empty() || (userinfo::parse(&address).is_ok() && address.split('%').skip(1).all(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_no_address_is_told_apart() {
        for good in [None, Some(""), Some("10.0.0.1:3128"), Some("http://u:p%40@h:3128/")] {
            assert!(is_proxy(good), "{good:?}");
        }
        for bad in ["http://u:p%%@h:3128", "http://u:p%zz@h", "http://[::1"] {
            assert!(!is_proxy(Some(bad)), "{bad}");
        }
    }
}
