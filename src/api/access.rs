//! Who may come in: the token, the certificate, and how much one address may ask. Shared by all connections; a reload changes it while
//! they go on. Nothing here waits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::limits::{ConnectionCounts, Rates};
use super::{ApiSettings, TlsSettings};
use crate::platform::secret::Secret;
use crate::platform::tls;

/// What a connection is made with, and what a request has to show.
#[derive(Clone, Default)]
struct Keys {
    token: Option<Secret>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// What a request has shown, by the token that was in force when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthResult {
    /// There is no token to show.
    NoToken,
    Token,
    /// Another one, or none.
    Wrong,
}

/// See the module.
pub struct Access {
    keys: RwLock<Keys>,
    rates: Mutex<Rates>,
    places: Mutex<ConnectionCounts>,
    /// This machine's name: one of those under which it is asked for.
    host: Option<String>,
}

/// A connection's place; given back when it is dropped.
pub struct ConnectionPermit {
    access: Arc<Access>,
    pub peer: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.access.places.lock().leave(self.peer);
    }
}

impl Access {
    /// # Errors
    /// Which file of `settings.tls` cannot be used.
    pub fn new(settings: &ApiSettings) -> Result<Self, String> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
        let keys = RwLock::new(keys(settings)?);
        Ok(Self { keys, rates: Mutex::default(), places: Mutex::default(), host })
    }

    /// Takes another token and reads the certificate anew. Connections that are open stay; their next request needs the new token.
    ///
    /// # Errors
    /// Which file cannot be used; everything stays as it was.
    pub fn change(&self, settings: &ApiSettings) -> Result<(), String> {
        let new = keys(settings)?;
        *self.keys.write() = new;
        Ok(())
    }

    fn keys(&self) -> Keys {
        self.keys.read().clone()
    }

    /// `None`: plain HTTP.
    pub fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.keys().tls
    }

    /// What somebody who gives `given` has shown.
    pub fn authenticate(&self, given: Option<&[u8]>) -> AuthResult {
        match self.keys().token {
            None => AuthResult::NoToken,
            Some(token) if given.is_some_and(|given| same(given, token.expose().as_bytes())) => AuthResult::Token,
            Some(_) => AuthResult::Wrong,
        }
    }

    /// A place for one more connection of `peer`.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<ConnectionPermit> {
        let entered = self.places.lock().enter(peer);
        entered.then(|| ConnectionPermit { access: Arc::clone(self), peer })
    }

    /// Connections that have a place.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.places.lock().taken()
    }

    /// Counts a request of `peer`; the time after which it may come back where it has asked too much.
    pub fn rate_limit(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        self.rates.lock().take(peer, now)
    }

    /// The request that `peer` was [charged](Self::charge) for came with a wrong token.
    pub fn guessed(&self, peer: IpAddr, now: Instant) {
        self.rates.lock().guessed(peer, now);
    }

    /// Whether `host`, out of a request's `Host`, is a name of this machine. A page from elsewhere whose name has been pointed here
    /// (DNS rebinding) still says its own.
    pub fn is_named(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
            _ => host,
        };
        let name = name.trim_end_matches('.');
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.host.as_ref().is_some_and(|own| name.eq_ignore_ascii_case(own))
    }
}

fn keys(settings: &ApiSettings) -> Result<Keys, String> {
    let load = |TlsSettings { cert, key }: &TlsSettings| tls::server(cert, key);
    Ok(Keys { token: settings.token.clone(), tls: settings.tls.as_ref().map(load).transpose()? })
}

/// Compares in time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
    a.len() == b.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(token: Option<&str>) -> Access {
        let listen = "127.0.0.1:0".parse().unwrap();
        Access::new(&ApiSettings { listen, token: token.map(Secret::new), tls: None }).unwrap()
    }

    #[test]
    fn tokens_are_the_same_only_when_every_byte_is() {
        assert!(same(b"abc", b"abc") && same(b"", b""));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"ab", b"abc") && !same(b"", b"a"));
    }

    #[test]
    fn a_new_token_takes_the_place_of_the_old_one() {
        let access = access(Some("old"));
        assert_eq!(access.authenticate(Some(b"old")), AuthResult::Token);
        assert_eq!(
            (access.authenticate(Some(b"new")), access.authenticate(None)),
            (AuthResult::Wrong, AuthResult::Wrong)
        );
        let mut settings =
            ApiSettings { listen: "127.0.0.1:0".parse().unwrap(), token: Some(Secret::new("new")), tls: None };
        access.change(&settings).unwrap();
        assert_eq!(
            (access.authenticate(Some(b"new")), access.authenticate(Some(b"old"))),
            (AuthResult::Token, AuthResult::Wrong)
        );

        settings.token = None;
        settings.tls = Some(TlsSettings { cert: "/no/such/cert.pem".into(), key: "/no/such/key.pem".into() });
        let error = access.change(&settings).unwrap_err();
        assert!(error.contains("/no/such/cert.pem"), "{error}");
        assert_eq!(access.authenticate(None), AuthResult::Wrong, "all stays as it was");

        settings.tls = None;
        access.change(&settings).unwrap();
        assert_eq!(
            (access.authenticate(None), access.authenticate(Some(b"new"))),
            (AuthResult::NoToken, AuthResult::NoToken)
        );
    }

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        let mut access = access(None);
        access.host = Some("edge-1".into());
        for own in ["127.0.0.1:8642", "[::1]:8642", "localhost:8642", "LOCALHOST", "10.0.0.7", "edge-1:80", "[fe80::1]"]
        {
            assert!(access.is_named(own), "{own}");
        }
        for foreign in ["evil.example:8642", "localhost.evil.example", "127.0.0.1.evil.example", "", ":80", "edge-11"] {
            assert!(!access.is_named(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_place_is_given_back() {
        let access = Arc::new(access(None));
        let peer = IpAddr::from([198, 51, 100, 1]);
        let mut places: Vec<ConnectionPermit> =
            std::iter::repeat_with(|| access.admit(peer)).map_while(|place| place).collect();
        assert!(!places.is_empty() && access.admit(peer).is_none());
        places.pop();
        assert!(access.admit(peer).is_some());
    }
}
