//! What every request passes before its route, and every answer after it: rate, size, host, token, time; headers that keep browsers from
//! doing more with an answer than showing it. There are no CORS headers, so no page from elsewhere may read anything.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::access::AuthResult;
use super::serve::Peer;
use super::{Shared, handlers};
use crate::logs::AUDIT;

/// Largest body; no route wants one.
const MAX_BODY: u64 = 64 * 1024;

/// Which pages may show an answer, as far as they may have it at all.
pub(super) const CORP: &str = "cross-origin-resource-policy";

/// A route's answer may take so long, reloading included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer that tells what went wrong, and nothing that the asker did not say himself.
pub(super) fn refusal(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

/// Why something was not taken: values of `vtagd_api_refused_total`'s label.
pub(super) const REASONS: &[&str] = &["rate", "token", "host", "size", "connections"];

/// Who asks, as the guard has found him. Routes go by this and not by the access control: a reload may change it while a request is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub peer: IpAddr,
    pub authenticate: AuthResult,
}

fn count(reason: &'static str) {
    metrics::counter!("vtagd_api_refused_total", "reason" => reason).increment(1);
}

pub(super) async fn guard(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let answer = match judge(&shared, &request, Instant::now()) {
        Err(refusal) => refusal,
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
                Ok(answer) => answer,
                Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "no answer in time"),
            }
        }
    };
    harden(answer)
}

fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CORP).or_insert(HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn judge(shared: &Shared, request: &Request, now: Instant) -> Result<Caller, Response> {
    let path = request.uri().path();
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else {
        return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, "a request from nowhere"));
    };
    let local = peer.to_canonical().is_loopback();
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let authenticate = shared.access.authenticate(given);
    // The service manager of this machine is never told to come back later, unless it is to show the token: there it could be guessed.
    let guessable = authenticate != AuthResult::NoToken && !handlers::OPEN.contains(&path);
    if guessable || !local || !handlers::HEALTH.contains(&path) {
        shared.access.rate_limit(peer, now).map_err(|wait| {
            count("rate");
            let mut answer = refusal(StatusCode::TOO_MANY_REQUESTS, "too many requests: come back later");
            // Whole seconds, and at least one.
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            answer
        })?;
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > MAX_BODY) {
        count("size");
        let mut answer = refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB");
        // Nobody is going to read it.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Err(answer);
    }
    let caller = Caller { peer, authenticate };
    match authenticate {
        _ if handlers::OPEN.contains(&path) => return Ok(caller),
        AuthResult::Token => return Ok(caller),
        AuthResult::NoToken if local => return host(shared, request).map(|()| caller),
        // The configuration wants one wherever others can ask; this is the place that keeps the promise.
        AuthResult::NoToken | AuthResult::Wrong => {}
    }
    count("token");
    // Paid for by whoever guesses; the answer is the same.
    shared.access.guessed(peer, now);
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        refused(peer, request.method());
    }
    let mut answer =
        refusal(StatusCode::UNAUTHORIZED, "a token is required: send the header 'Authorization: Bearer …'");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(answer)
}

/// Says in the log that somebody without the token wanted to change something. Nothing that he wrote himself stands there: a line that is
/// always the same is told once and then summed up, however often he asks.
pub(super) fn refused(peer: IpAddr, method: &Method) {
    let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let method = known.iter().find(|known| *known == method).map_or("another", Method::as_str);
    tracing::warn!(target: AUDIT, %peer, method, "a change without the token was refused");
}

/// The scheme's name is written as anybody likes (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Without a token, what keeps a web page whose name was pointed at this machine from reading along is that it says its own name.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn host(shared: &Shared, request: &Request) -> Result<(), Response> {
    let host = request.headers().get(header::HOST);
    // HTTP/1.0 has none, and no browser speaks it.
    if host.is_none_or(|host| host.to_str().is_ok_and(|host| shared.access.is_named(host))) {
        return Ok(());
    }
    count("host");
    let why = "this name is not this machine's: without `api.token` the API answers only to its address, to localhost and to its host name";
    Err(refusal(StatusCode::FORBIDDEN, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_follows_the_scheme() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc"), Some(&b" abc"[..]));
        for other in [&b"Basic abc"[..], b"Bearer", b"", b"abc", b"Bearerabc"] {
            assert_eq!(bearer(other), None);
        }
    }
}
