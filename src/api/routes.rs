//! The routes and what they answer. Bodies are limited and there are no changes yet, so only `GET` exists.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Shared, page, scrape};
use crate::shutdown::Shutdown;

/// Requests that have not ended this long after the wish to stop are cut off.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn serve(listener: std::net::TcpListener, shared: Shared, shutdown: Shutdown) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // The one place where a thread-side shutdown meets async code: a blocking wait on its own thread.
    let (stop, stopped) = watch::channel(false);
    tokio::task::spawn_blocking(move || {
        while !shutdown.sleep(Duration::from_secs(3600)) {}
        stop.send_replace(true);
    });
    let asked = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the waiting thread is gone, which is as good a reason to stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let late = async {
        asked(stopped.clone()).await;
        tokio::time::sleep(PATIENCE).await;
    };
    let serving = axum::serve(listener, router(shared)).with_graceful_shutdown(asked(stopped.clone()));
    tokio::select! {
        served = serving.into_future() => served,
        () = late => Ok(()),
    }
}

fn router(shared: Shared) -> Router {
    let guarded = Router::new()
        .route("/", get(status_page))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/streams", get(streams))
        .route("/api/v1/labels", get(labels))
        .route("/api/v1/events", get(events))
        .route("/api/v1/snapshots/{name}", get(snapshot))
        .route("/api/v1/sinks", get(sinks))
        .layer(middleware::from_fn_with_state(shared.clone(), require_token));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .merge(guarded)
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(middleware::map_response(harden))
        .with_state(shared)
}

async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

async fn require_token(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let Some(token) = &shared.token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
    if given.is_some_and(|given| same(given, token.expose().as_bytes())) {
        return next.run(request).await;
    }
    let body = Json(json!({ "error": "a token is required: send the header 'Authorization: Bearer …'" }));
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
}

/// Compares in time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = shared.board.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!(readiness);
    // Frames flow all the same, so it is ready; but whoever looks should know.
    if let Some(error) = shared.board.outbox().and_then(|outbox| outbox.error) {
        answer["outbox"] = json!(format!("events cannot be stored: {error}"));
    }
    (status, Json(answer)).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrape::text(&shared, Instant::now()))
        .into_response()
}

async fn streams(State(shared): State<Shared>) -> Json<Value> {
    let now = Instant::now();
    let streams = shared.board.streams.read().unwrap_or_else(PoisonError::into_inner);
    let rows: Vec<Value> = streams
        .iter()
        .map(|(status, account)| {
            let mut row = json!(status.report(now));
            row["accounting"] = json!(account.totals());
            row
        })
        .collect();
    Json(json!({ "streams": rows }))
}

async fn labels(State(shared): State<Shared>) -> Json<Value> {
    let sets = shared.board.sets.read().unwrap_or_else(PoisonError::into_inner).clone();
    Json(json!({ "sets": sets }))
}

async fn events(State(shared): State<Shared>) -> Json<Value> {
    Json(json!({ "events": shared.board.recent() }))
}

async fn sinks(State(shared): State<Shared>) -> Json<Value> {
    let outbox = shared.board.outbox().unwrap_or_default();
    let (path, storing, error, bytes) = (&outbox.path, outbox.storing, &outbox.error, outbox.bytes);
    Json(json!({
        "outbox": { "path": path, "storing": storing, "error": error, "bytes": bytes },
        "sinks": outbox.sinks,
    }))
}

async fn snapshot(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let found = match shared.board.gallery() {
        // A disk may be slow.
        Some(gallery) => tokio::task::spawn_blocking(move || gallery.read(&name)).await.ok().flatten(),
        None => None,
    };
    match found {
        Some(jpeg) => ([(header::CONTENT_TYPE, "image/jpeg")], jpeg).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "error": "no such snapshot" }))).into_response(),
    }
}

async fn status_page(State(shared): State<Shared>) -> Html<String> {
    let now = Instant::now();
    let streams = shared.board.streams.read().unwrap_or_else(PoisonError::into_inner);
    let streams: Vec<_> = streams.iter().map(|(s, a)| (s.report(now), a.totals())).collect();
    let outbox = shared.board.outbox().unwrap_or_default();
    Html(page::render(&shared.board.readiness(), &streams, &outbox, &shared.board.recent()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_only_when_every_byte_is() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }
}
