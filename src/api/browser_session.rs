//! `/api/v1/session`: a browser logs in with the token once, and shows a cookie from then on.
//!
//! In: the token, as with every request. Out: a cookie with a random id, and a token against forged requests (CSRF), which every change made with
//! the cookie has to bear. Of both only hashes are kept, in memory: they end with the process, with the token that they were made with, after
//! [`LIFE`], by logging out, and where there are more than [`MAX_SESSIONS`] the one that has been unused for longest goes. [`Sessions`] is
//! pure, time and chance are parameters; the routes run on the API's thread.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Shared;
use super::access::{AuthResult, same};
use super::guard::{Caller, refusal};
use super::handlers::audit;
use super::serve::Peer;
use crate::platform::hex::hex;

/// What every cookie's name begins with.
const COOKIE: &str = "vtagd-session";
/// Bears the token against forged requests.
pub(super) const CSRF_HEADER: &str = "x-csrf-token";
/// From logging in until it has to be done again, used or not.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// A few people with a few browsers each.
const MAX_SESSIONS: usize = 64;

/// Bytes of a random id.
const ID_BYTES: usize = 32;

/// What a session is known by here: the hash of its id.
pub type SessionKey = [u8; 32];

fn hash(text: &[u8]) -> SessionKey {
    Sha256::digest(text).into()
}

/// What the cookie of a daemon is called. Browsers share cookies among all ports of a host, and so do paths of a proxy's one name: by name and address each
/// daemon has a cookie of its own, and lets the others' be. Neither changes while it runs.
pub(super) fn cookie_name(instance: &str, listen: SocketAddr) -> String {
    format!("{COOKIE}-{}", &hex(&Sha256::digest(format!("{instance} {listen}").as_bytes()))[..8])
}

/// The session's id in a request's cookies, of which one is called `name`.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let named = |pair: &'_ [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::len);
    pairs.into_iter().find_map(|pair| {
        let length = named(pair)?;
        let pair = pair.trim_ascii();
        Some(&pair[pair.len() - length..])
    })
}

#[derive(Debug)]
struct Session {
    csrf: SessionKey,
    /// Which token it was made with, see [`Access`](super::access::Access).
    token: u64,
    expires: Instant,
    used: Instant,
}

/// All that there are.
#[derive(Debug, Default)]
pub struct Sessions(HashMap<SessionKey, Session>);

impl Sessions {
    /// A session of this `id` begins.
    pub fn begin(&mut self, id: &str, csrf: &str, token: u64, now: Instant) {
        self.0.retain(|_, session| now < session.expires);
        if self.0.len() >= MAX_SESSIONS {
            let oldest = self.0.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key);
            oldest.map(|oldest| self.0.remove(&oldest));
        }
        let session = Session { csrf: hash(csrf.as_bytes()), token, expires: now + LIFE, used: now };
        self.0.insert(hash(id.as_bytes()), session);
    }

    /// The session of this `id`, which was made with this token, if it goes on; it is used.
    pub fn find(&mut self, id: &[u8], token: u64, now: Instant) -> Option<SessionKey> {
        let key = hash(id);
        let session = self.0.get_mut(&key).filter(|session| session.token == token && now < session.expires)?;
        session.used = session.used.max(now);
        Some(key)
    }

    pub fn is_there(&self, key: &SessionKey, now: Instant) -> bool {
        self.0.get(key).is_some_and(|session| now < session.expires)
    }

    /// Whether `given` is its token against forged requests.
    pub fn allows_change(&self, key: &SessionKey, given: Option<&[u8]>) -> bool {
        self.0.get(key).zip(given).is_some_and(|(session, given)| same(&hash(given), &session.csrf))
    }

    /// Whether it was there.
    pub fn end(&mut self, key: &SessionKey) -> bool {
        self.0.remove(key).is_some()
    }

    pub fn end_all(&mut self) {
        self.0.clear();
    }
}

/// Of 256 bits from the operating system; `None` where it gives none.
fn random() -> Option<String> {
    let mut bytes = [0; ID_BYTES];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

fn with_cookie(mut answer: Response, name: &str, id: &str, age: Duration, is_secure: bool) -> Response {
    let secure = if is_secure { "; Secure" } else { "" };
    let seconds = age.as_secs();
    let cookie = format!("{name}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}

pub(super) async fn log_in(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    match caller.authenticate {
        AuthResult::Token => {}
        AuthResult::Session => {
            return refusal(StatusCode::FORBIDDEN, "a session begins with the token: send 'Authorization: Bearer …'");
        }
        AuthResult::NoToken | AuthResult::Wrong => {
            return refusal(
                StatusCode::FORBIDDEN,
                "there is no token to log in with: set `api.token` in the configuration",
            );
        }
    }
    let Some((id, csrf)) = random().zip(random()) else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the system gives no random numbers");
    };
    let now = Instant::now();
    let name = shared.access.cookie();
    shared.access.log_in(&id, &csrf, &caller.grant, cookie(&headers, name), now);
    audit(caller, "log in", None, None, "done");
    let expires = jiff::Timestamp::now().saturating_add(LIFE).unwrap_or(jiff::Timestamp::MAX);
    let answer = Json(json!({ "csrf_token": csrf, "expires_at": expires })).into_response();
    with_cookie(answer, name, &id, LIFE, shared.access.is_encrypted(peer.address, &headers))
}

pub(super) async fn log_out(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    if !caller.authenticate.is_known() {
        return refusal(StatusCode::FORBIDDEN, "without `api.token` in the configuration there are no sessions");
    }
    let name = shared.access.cookie();
    let ended = shared.access.log_out(cookie(&headers, name), Instant::now());
    audit(caller, "log out", None, None, if ended { "done" } else { "it was so" });
    let answer = Json(json!({ "ended": ended })).into_response();
    with_cookie(answer, name, "", Duration::ZERO, shared.access.is_encrypted(peer.address, &headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_good_for_its_token_and_its_time() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        sessions.begin("id", "csrf", 1, start);
        let key = sessions.find(b"id", 1, start).unwrap();
        assert!(sessions.find(b"ie", 1, start).is_none() && sessions.find(b"id", 2, start).is_none());
        assert!(sessions.allows_change(&key, Some(b"csrf")));
        assert!(!sessions.allows_change(&key, Some(b"csrg")) && !sessions.allows_change(&key, None));
        let last = start + LIFE - Duration::from_secs(1);
        assert!(sessions.find(b"id", 1, last).is_some(), "however often it was used");
        assert!(sessions.find(b"id", 1, start + LIFE).is_none() && !sessions.is_there(&key, start + LIFE));
        assert!(sessions.end(&key) && !sessions.end(&key) && sessions.find(b"id", 1, start).is_none());
    }

    #[test]
    fn the_session_that_was_unused_for_longest_makes_room() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let at = |n: usize| start + Duration::from_secs(n as u64);
        for n in 0..MAX_SESSIONS {
            sessions.begin(&format!("id {n}"), "", 0, at(n));
        }
        assert!(sessions.find(b"id 0", 0, at(100)).is_some());
        sessions.begin("one more", "", 0, at(101));
        assert_eq!(sessions.0.len(), MAX_SESSIONS);
        assert!(sessions.find(b"id 1", 0, at(102)).is_none() && sessions.find(b"id 0", 0, at(102)).is_some());
    }

    #[test]
    fn nothing_that_is_kept_is_the_id_and_no_two_ids_are_the_same() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(one.len() >= 43 && one != other);
        let mut sessions = Sessions::default();
        sessions.begin(&one, &other, 0, Instant::now());
        let kept = format!("{sessions:?}");
        assert!(!kept.contains(&one) && !kept.contains(&other));
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let headers = |lines: &[&str]| {
            lines.iter().map(|line| (header::COOKIE, HeaderValue::from_str(line).unwrap())).collect::<HeaderMap>()
        };
        let found = |lines: &[&str]| cookie(&headers(lines), "vtagd-session-1").map(<[u8]>::to_vec);
        assert_eq!(found(&["a=b; vtagd-session-1=xy; c=d"]), Some(b"xy".to_vec()));
        assert_eq!(found(&["a=b", "vtagd-session-1=xy"]), Some(b"xy".to_vec()));
        for other in ["", "vtagd-session-1", "vtagd-session-12=xy", "xvtagd-session-1=xy", "vtagd-session=xy"] {
            assert_eq!(found(&[other]), None, "{other}");
        }
    }

    #[test]
    fn daemons_on_one_host_find_their_own_cookies_in_one_header() {
        let listen = |text: &str| text.parse::<SocketAddr>().unwrap();
        let one = cookie_name("dock", listen("127.0.0.1:8642"));
        let others = [("dock", "127.0.0.1:8643"), ("yard", "127.0.0.1:8642")];
        for other in others.map(|(instance, address)| cookie_name(instance, listen(address))) {
            assert!(one != other && one.len() == "vtagd-session-".len() + 8, "{one} {other}");
            let line = HeaderValue::try_from(format!("{one}=mine; {other}=theirs")).unwrap();
            let both = HeaderMap::from_iter([(header::COOKIE, line)]);
            assert_eq!(cookie(&both, &one), Some(&b"mine"[..]));
            assert_eq!(cookie(&both, &other), Some(&b"theirs"[..]));
        }
    }
}
