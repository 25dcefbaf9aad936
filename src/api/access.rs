//! Who may come in: the token, the certificate, the proxies that are believed, and how much may be asked. Shared by all connections; a
//! reload changes it while they go on. Nothing here waits, but for room for a picture.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use super::browser_session::{self, SessionKey, Sessions};
use super::forwarded_for::{self, AddressRange};
use super::limits::{Budget, ConnectionCounts, MAX_PICTURES, Rates, Seat};
use super::{ApiSettings, TlsSettings};
use crate::platform::secret::Secret;
use crate::platform::tls;

/// What a connection is made with, and what a request has to show.
#[derive(Clone, Default)]
struct Keys {
    token: Option<Secret>,
    tls: Option<Arc<rustls::ServerConfig>>,
    trusted_proxies: Arc<[AddressRange]>,
    /// Grows with every other token.
    version: u64,
}

/// What a request has shown, by the token that was in force when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthResult {
    /// There is no token to show.
    NoToken,
    Token,
    /// The cookie of a session that was begun with it.
    Session,
    /// Another one, or none.
    Wrong,
}

impl AuthResult {
    /// Whether it has the token, or had it when its session began.
    pub fn is_known(self) -> bool {
        matches!(self, Self::Token | Self::Session)
    }

    /// What a change is put down to. There is one token, so its name is its key.
    pub fn as_str(self) -> &'static str {
        if self == Self::Session { "session" } else { "api.token" }
    }
}

/// What a request was let in by, for one that goes on: it is to end when that is not good any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    version: u64,
    session: Option<SessionKey>,
}

/// See the module.
pub struct Access {
    keys: RwLock<Keys>,
    rates: Mutex<Rates>,
    places: Mutex<ConnectionCounts>,
    /// Room for pictures that are sent here. Whoever finds none waits, his picture unread.
    pub pictures: Arc<Semaphore>,
    /// This machine's name: one of those under which it is asked for.
    host: Option<String>,
    /// What the cookie of its sessions is called.
    cookie: String,
    sessions: Mutex<Sessions>,
    /// The daemon ends, and so do live streams.
    stopping: AtomicBool,
}

/// A connection's place; given back when it is dropped.
pub struct ConnectionPermit {
    access: Arc<Access>,
    pub peer: IpAddr,
    seat: Mutex<Seat>,
}

impl ConnectionPermit {
    /// The connection is to carry a live stream for `client` from here on: it takes one of those places and gives its own back. Whether there
    /// is one.
    pub fn go_live(&self, client: IpAddr) -> bool {
        let mut seat = self.seat.lock();
        let mut places = self.access.places.lock();
        let Some(live) = places.enter_live(client) else { return false };
        places.leave(std::mem::replace(&mut seat, live));
        true
    }

    pub fn is_live(&self) -> bool {
        matches!(*self.seat.lock(), Seat::Live(_))
    }

    /// Whether there was no place, so that it is served for what is always answered alone.
    pub fn is_reserve(&self) -> bool {
        *self.seat.lock() == Seat::Reserve
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.access.places.lock().leave(*self.seat.get_mut());
    }
}

impl Access {
    /// # Errors
    /// Which file of `settings.tls` cannot be used.
    pub fn new(settings: &ApiSettings, instance: &str) -> Result<Self, String> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
        let keys = RwLock::new(keys(settings)?);
        let pictures = Arc::new(Semaphore::new(MAX_PICTURES));
        Ok(Self {
            keys,
            rates: Mutex::default(),
            places: Mutex::default(),
            pictures,
            host,
            cookie: browser_session::cookie_name(instance, settings.listen),
            sessions: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// What the cookie of its sessions is called.
    pub(super) fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Takes another token and other proxies, and reads the certificate anew. Connections that are open stay; their next request needs the new token.
    ///
    /// # Errors
    /// Which file cannot be used; everything stays as it was.
    pub fn change(&self, settings: &ApiSettings) -> Result<(), String> {
        let mut new = keys(settings)?;
        let mut keys = self.keys.write();
        let is_another = keys.token != new.token;
        new.version = keys.version + u64::from(is_another);
        *keys = new;
        drop(keys);
        if is_another {
            self.sessions.lock().end_all();
        }
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

    /// The same of a request with this token or this cookie, and what it is let in by. A token counts alone, right or wrong.
    pub fn identify(&self, token: Option<&[u8]>, cookie: Option<&[u8]>, now: Instant) -> (AuthResult, Grant) {
        let version = self.keys.read().version;
        match (self.authenticate(token), cookie) {
            (AuthResult::Wrong, Some(cookie)) if token.is_none() => {
                let session = self.sessions.lock().find(cookie, version, now);
                let found = if session.is_some() { AuthResult::Session } else { AuthResult::Wrong };
                (found, Grant { version, session })
            }
            (other, _) => (other, Grant { version, session: None }),
        }
    }

    /// Whether what somebody was let in by is still good.
    pub fn is_in_force(&self, grant: &Grant, now: Instant) -> bool {
        self.keys.read().version == grant.version
            && grant.session.is_none_or(|session| self.sessions.lock().is_there(&session, now))
    }

    /// Whether somebody who was let in by `grant` may change anything, as far as the token against forged requests goes that he gives.
    pub fn is_not_forged(&self, grant: &Grant, given: Option<&[u8]>) -> bool {
        grant.session.is_none_or(|session| self.sessions.lock().allows_change(&session, given))
    }

    /// A session begins, for who was let in by `grant`; the one that he may have had (`cookie`) ends.
    pub fn log_in(&self, id: &str, csrf: &str, grant: &Grant, cookie: Option<&[u8]>, now: Instant) {
        self.log_out(cookie, now);
        self.sessions.lock().begin(id, csrf, grant.version, now);
    }

    /// The session of `cookie` ends. Whether there was one.
    pub fn log_out(&self, cookie: Option<&[u8]>, now: Instant) -> bool {
        let version = self.keys.read().version;
        let mut sessions = self.sessions.lock();
        let key = cookie.and_then(|cookie| sessions.find(cookie, version, now));
        key.is_some_and(|key| sessions.end(&key))
    }

    /// Whether a request through `peer` came over TLS, up to here or up to a proxy that is believed.
    pub fn is_encrypted(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let Keys { tls, trusted_proxies, .. } = self.keys();
        let told = || {
            headers.get("x-forwarded-proto").is_some_and(|schemes| {
                // Of several proxies the one in front says how the client came.
                let first = schemes.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
                first.trim_ascii().eq_ignore_ascii_case(b"https")
            })
        };
        tls.is_some() || (forwarded_for::is_trusted(&trusted_proxies, peer) && told())
    }

    /// Live streams are to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A place for one more connection of `peer`; where none is left, one in reserve.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> ConnectionPermit {
        let for_others = forwarded_for::is_trusted(&self.keys().trusted_proxies, peer);
        let seat = self.places.lock().enter(peer, for_others).unwrap_or(Seat::Reserve);
        ConnectionPermit { access: Arc::clone(self), peer, seat: Mutex::new(seat) }
    }

    /// Who asks through `peer`, as `headers` say if it is a proxy that is believed.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        forwarded_for::client(&self.keys().trusted_proxies, peer, headers)
    }

    /// Connections that have a place.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.places.lock().taken()
    }

    /// Counts a request of `client`; the time after which it may come back where it has asked too much.
    pub fn rate_limit(&self, client: IpAddr, budget: Budget, now: Instant) -> Result<(), Duration> {
        self.rates.lock().take(client, budget, now)
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
    Ok(Keys {
        token: settings.token.clone(),
        tls: settings.tls.as_ref().map(load).transpose()?,
        trusted_proxies: settings.trusted_proxies.clone().into(),
        version: 0,
    })
}

/// Compares in time that depends on the lengths only.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
    a.len() == b.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(token: Option<&str>) -> Access {
        let listen = "127.0.0.1:0".parse().unwrap();
        let token = token.map(Secret::new);
        Access::new(&ApiSettings { listen, token, tls: None, trusted_proxies: Vec::new() }, "").unwrap()
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
        let mut settings = ApiSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            token: Some(Secret::new("new")),
            tls: None,
            trusted_proxies: Vec::new(),
        };
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
    fn a_place_is_given_back_whatever_became_of_the_connection() {
        let access = Arc::new(access(None));
        let peer = IpAddr::from([198, 51, 100, 1]);
        let mut permits: Vec<ConnectionPermit> = (0..17).map(|_| access.admit(peer)).collect();
        assert_eq!(permits.iter().filter(|permit| permit.is_reserve()).count(), 1);
        permits.remove(0);
        let permit = access.admit(peer);
        assert!(!permit.is_reserve() && access.admit(peer).is_reserve());

        assert!(permit.go_live(peer) && permit.is_live());
        permits.push(access.admit(peer));
        assert!(!permits[16].is_reserve(), "a live stream has left its place to others");
        drop((permit, permits));
        assert_eq!(access.taken(), 0);
    }

    #[test]
    fn other_proxies_are_believed_after_a_change() {
        let access = access(None);
        let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), "203.0.113.5".parse().unwrap())]);
        let (proxy, client) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([203, 0, 113, 5]));
        assert_eq!(access.client(proxy, &headers), proxy);
        let listen = "127.0.0.1:0".parse().unwrap();
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        access.change(&ApiSettings { listen, token: None, tls: None, trusted_proxies }).unwrap();
        assert_eq!(access.client(proxy, &headers), client);
    }
}
