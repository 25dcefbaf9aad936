//! What every request passes before its route, and every answer after it, as the route's class asks (`route_table.rs`): rate, host, size, token,
//! parameters, room, time; headers that keep browsers from doing more with an answer than showing it. There are no CORS headers, so no page from elsewhere
//! may read anything.
//!
//! Wrong tokens are paid for from a budget of their own. A used-up one changes no answer: whoever lacks the token gets the same 401 before and
//! after, and whoever has it is let in, so there is nothing to learn from it and nobody to lock out. It is told in the log. What keeps the token from
//! being guessed is its length, and that it is compared in the same time whatever is wrong with it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::access::{AuthResult, Grant};
use super::browser_session;
use super::limits::Budget;
use super::parameters::{Parameter, Parameters};
use super::push;
use super::route_table::{Needs, RouteClass, Rules};
use super::serve::Peer;
use crate::logs::AUDIT;

/// Which pages may show an answer, as far as they may have it at all.
pub(super) const CORP: &str = "cross-origin-resource-policy";

/// A route's answer may take so long, reloading included, and a picture until it is here.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer that tells what went wrong, and nothing that the asker did not say himself.
pub(super) fn refusal(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

/// Why something was not taken: values of `vtagd_api_refused_total`'s label.
pub(super) const REASONS: &[&str] = &["rate", "token", "host", "size", "connections"];

/// Who asks, as the guard has found him. Routes go by this and not by the access control: a reload may change it while a request is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// Whoever a proxy that is believed asks for, else who is connected.
    pub peer: IpAddr,
    pub authenticate: AuthResult,
    pub grant: Grant,
}

fn count(reason: &'static str) {
    metrics::counter!("vtagd_api_refused_total", "reason" => reason).increment(1);
}

/// `answer`, after which the connection ends.
fn last(mut answer: Response) -> Response {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// `answer`, which says when to come back: in whole seconds, and at least one.
pub(super) fn later(mut answer: Response, wait: Duration) -> Response {
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
    answer
}

/// What a request has to be for its route to see it.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    pub rules: Rules,
    /// What its query may hold; `None`: nobody looks at it.
    pub parameters: Option<&'static [Parameter]>,
}

pub(super) async fn guard(
    State((shared, expected)): State<(Shared, Expected)>,
    mut request: Request,
    next: Next,
) -> Response {
    let rules = expected.rules;
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return harden(refusal(StatusCode::INTERNAL_SERVER_ERROR, "a request from nowhere"));
    };
    let caller = match verdict(&shared, rules, &peer, &request, Instant::now()) {
        Ok(caller) => with_parameters(&mut request, expected.parameters).map(|()| caller),
        Err(refusal) => Err(refusal),
    };
    let answer = match caller {
        Err(refusal) => refusal,
        Ok(caller) => {
            match tokio::time::timeout(ANSWER_TIMEOUT, pass(&shared, rules, &peer, caller, request, next)).await {
                Ok(answer) => answer,
                Err(_) => {
                    let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "no answer in time");
                    later(answer, Duration::from_secs(4))
                }
            }
        }
    };
    harden(if peer.is_reserve() { last(answer) } else { answer })
}

/// Reads the query for the route.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn with_parameters(request: &mut Request, known: Option<&'static [Parameter]>) -> Result<(), Response> {
    let Some(known) = known else { return Ok(()) };
    let read = Parameters::read(request.uri().query(), known, jiff::Timestamp::now());
    let parameters = read.map_err(|why| refusal(StatusCode::BAD_REQUEST, &why))?;
    request.extensions_mut().insert(parameters);
    Ok(())
}

/// The route's own answer. A change is made to its end, and told in the log, whether or not somebody still waits for it; `room` is taken as long.
async fn run(rules: Rules, request: Request, next: Next, room: Option<OwnedSemaphorePermit>) -> Response {
    let work = async move {
        let _room = room;
        next.run(request).await
    };
    if rules.needs != Needs::Change {
        return work.await;
    }
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
    }
}

/// The route's own answer, once there is room for what it costs.
async fn pass(
    shared: &Shared,
    rules: Rules,
    peer: &Peer,
    caller: Caller,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(caller);
    match rules.class {
        RouteClass::Health | RouteClass::Scrape | RouteClass::Plain => run(rules, request, next, None).await,
        RouteClass::Words => match with_whole_body(request, rules.class).await {
            Ok(request) => run(rules, request, next, None).await,
            Err(refusal) => refusal,
        },
        RouteClass::Picture => {
            // Held until the answer is there: so many pictures are in memory at most. It is never closed.
            let room = Arc::clone(&shared.access.pictures).acquire_owned().await.ok();
            match with_whole_body(request, rules.class).await {
                Ok(request) => run(rules, request, next, room).await,
                Err(refusal) => refusal,
            }
        }
        RouteClass::Live => {
            if peer.permit.as_ref().is_some_and(|permit| !permit.go_live(caller.peer)) {
                count("connections");
                let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "too many live streams: come back later");
                return later(answer, Duration::from_secs(4));
            }
            // Its connection has no place for another request.
            last(next.run(request).await)
        }
    }
}

/// Reads the body, whether or not its length was told.
async fn with_whole_body(request: Request, class: RouteClass) -> Result<Request, Response> {
    let (parts, body) = request.into_parts();
    let most = usize::try_from(class.max_body()).unwrap_or(usize::MAX);
    match Limited::new(body, most).collect().await {
        Ok(whole) => {
            let mut request = Request::from_parts(parts, Body::from(whole.to_bytes()));
            // What is here is bounded; the usual limit of 2 MB is not for this class.
            DefaultBodyLimit::disable().apply(&mut request);
            Ok(request)
        }
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(class)),
        Err(_) => Err(last(refusal(StatusCode::BAD_REQUEST, "the body broke off"))),
    }
}

/// Nobody is going to read it.
fn too_large(class: RouteClass) -> Response {
    count("size");
    last(refusal(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is larger than {}", class.max_body_text())))
}

fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CORP).or_insert(HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(policy));
    response
}

#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn verdict(shared: &Shared, rules: Rules, peer: &Peer, request: &Request, now: Instant) -> Result<Caller, Response> {
    if peer.is_reserve() && rules.class != RouteClass::Health {
        let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "too many connections: come back later");
        return Err(later(answer, Duration::from_secs(4)));
    }
    let client = shared.access.client(peer.address, request.headers());
    // Who is behind a proxy on this machine is not on it, and a proxy elsewhere has a loopback of its own.
    let local = peer.address.to_canonical().is_loopback() && client.is_loopback();
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let cookie = browser_session::cookie(request.headers(), shared.access.cookie());
    let (authenticate, grant) = shared.access.identify(given, cookie, now);
    let caller = Caller { peer: client, authenticate, grant };
    let own = if rules.needs == Needs::Push {
        push::own_token(shared, request.uri().path(), request.headers())
    } else {
        None
    };
    let budget = match caller.authenticate {
        _ if rules.needs == Needs::Nothing => Budget::Open,
        AuthResult::Wrong if rules.needs == Needs::Page => Budget::Open,
        _ if own == Some(true) => Budget::Entitled,
        AuthResult::NoToken if own == Some(false) => Budget::WrongToken,
        AuthResult::Token | AuthResult::Session => Budget::Entitled,
        AuthResult::NoToken if local => Budget::Entitled,
        // The configuration wants one wherever others can ask; this is the place that keeps the promise.
        AuthResult::NoToken | AuthResult::Wrong => Budget::WrongToken,
    };
    // The service manager of this machine is never told to come back later.
    let exempt = local && rules.class == RouteClass::Health && budget != Budget::WrongToken;
    if !exempt && let Err(wait) = shared.access.rate_limit(client, budget, now) {
        if budget == Budget::WrongToken {
            // Always the same line, so it is told once and then summed up.
            tracing::warn!(target: AUDIT, peer = %client, "wrong tokens come faster than anybody mistypes them");
        } else {
            count("rate");
            return Err(later(refusal(StatusCode::TOO_MANY_REQUESTS, "too many requests: come back later"), wait));
        }
    }
    one_host(rules, request)?;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > rules.class.max_body()) {
        return Err(too_large(rules.class));
    }
    match budget {
        Budget::Open => Ok(caller),
        Budget::Entitled if own == Some(true) => Ok(caller),
        Budget::Entitled if matches!(rules.needs, Needs::Change | Needs::Push) => {
            not_forged(shared, &caller, request).map(|()| caller)
        }
        Budget::Entitled if caller.authenticate.is_known() => Ok(caller),
        Budget::Entitled => named_host(shared, request).map(|()| caller),
        Budget::WrongToken => {
            count("token");
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                refused(client, request.method());
            }
            let mut answer =
                refusal(StatusCode::UNAUTHORIZED, "a token is required: send the header 'Authorization: Bearer …'");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            if rules.needs == Needs::Push {
                // Cameras log in when they are asked to.
                answer
                    .headers_mut()
                    .append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"vtagd\""));
            }
            Err(answer)
        }
    }
}

/// A request without a host, or with two, may be read otherwise by a proxy on the way (RFC 9112, 3.2). Old probes speak HTTP/1.0, which has none.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn one_host(rules: Rules, request: &Request) -> Result<(), Response> {
    let old = matches!(request.version(), Version::HTTP_09 | Version::HTTP_10);
    match request.headers().get_all(header::HOST).iter().count() {
        1 => Ok(()),
        0 if old && rules.class.is_probed() => Ok(()),
        _ => {
            count("host");
            Err(refusal(StatusCode::BAD_REQUEST, "a request has one header Host, and no more"))
        }
    }
}

/// Says in the log that somebody without the token wanted to change something. Nothing that he wrote himself stands there: a line that is
/// always the same is told once and then summed up, however often he asks.
pub(super) fn refused(peer: IpAddr, method: &Method) {
    let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let method = known.iter().find(|known| *known == method).map_or("another", Method::as_str);
    tracing::warn!(target: AUDIT, %peer, method, "a change without the token was refused");
}

/// A browser sends the cookie of a session along whoever makes it ask. What a page from elsewhere cannot know is the token that was given
/// when the session began.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn not_forged(shared: &Shared, caller: &Caller, request: &Request) -> Result<(), Response> {
    if !caller.authenticate.is_known() {
        return named_host(shared, request);
    }
    let given = request.headers().get(browser_session::CSRF_HEADER).map(HeaderValue::as_bytes);
    if !is_same_origin(request.headers()) {
        refused(caller.peer, request.method());
        return Err(refusal(StatusCode::FORBIDDEN, "a change is asked for by a page of another origin"));
    }
    if shared.access.is_not_forged(&caller.grant, given) {
        return Ok(());
    }
    refused(caller.peer, request.method());
    let why = "a change in a session needs the header X-CSRF-Token, with the token that was given when it began";
    Err(refusal(StatusCode::FORBIDDEN, why))
}

/// Whether the page that asks, where a browser says which, is one of the host that is asked. The scheme is left out: a proxy may speak TLS for us.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let origin = origin.as_bytes();
    let of = |scheme: &[u8]| origin.strip_prefix(scheme);
    let authority = of(b"https://").or_else(|| of(b"http://"));
    authority.zip(host).is_some_and(|(own, host)| own.eq_ignore_ascii_case(host))
}

/// The scheme's name is written as anybody likes (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Without a token, what keeps a web page whose name was pointed at this machine from reading along is that it says its own name.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn named_host(shared: &Shared, request: &Request) -> Result<(), Response> {
    let host = request.headers().get(header::HOST);
    // A probe that speaks HTTP/1.0 may have none, and no browser speaks it.
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
    fn a_page_of_another_origin_is_told_by_host_and_port() {
        let is_same = |origin: Option<&'static str>| {
            let given = origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin)));
            let host = (header::HOST, HeaderValue::from_static("edge:8642"));
            is_same_origin(&given.into_iter().chain([host]).collect())
        };
        assert!(is_same(None) && is_same(Some("http://edge:8642")) && is_same(Some("https://Edge:8642")));
        for other in [
            "null",
            "",
            "http://edge",
            "http://edge:8643",
            "http://evil.example",
            "edge:8642",
            "http://edge:8642.evil.example",
        ] {
            assert!(!is_same(Some(other)), "{other}");
        }
    }

    #[test]
    fn a_token_is_what_follows_the_scheme() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc"), Some(&b" abc"[..]));
        for other in [&b"Basic abc"[..], b"Bearer", b"", b"abc", b"Bearerabc"] {
            assert_eq!(bearer(other), None);
        }
    }
}
