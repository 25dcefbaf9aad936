//! What each route of `route_table.rs` answers.
//!
//! Reading looks at shared state and waits for nothing but a disk. A change is asked of the main thread (`stream/requests.rs`), which answers
//! when it is done; it always needs the token, also on loopback, and leaves a line in the log (target `vtagd::audit`).

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::guard::{CORP, Caller, refusal, refused};
use super::{Shared, openapi, route_table, scrape, stream_detail};
use crate::logs::AUDIT;
use crate::stream::requests::{Action, NoOutcome, RequestOutcome};
use crate::yaml::problem::{Problem, Severity};

/// How long a change may take before the answer is that it goes on.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn healthz(State(shared): State<Shared>) -> Response {
    match shared.board.unhealthy() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

pub(super) async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = shared.board.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!(readiness);
    answer["version"] = json!(env!("CARGO_PKG_VERSION"));
    answer["instance"] = json!(*shared.board.instance.read());
    // Frames flow all the same, so it is ready; but whoever looks should know.
    let outbox = shared.board.outbox().unwrap_or_default();
    if let Some(error) = outbox.error {
        answer["outbox"] = json!(format!("events cannot be stored: {error}"));
    }
    let notices = outbox.sinks.into_iter().filter_map(|sink| Some((sink.name, json!(sink.notice?))));
    let notices: serde_json::Map<_, _> = notices.collect();
    if !notices.is_empty() {
        answer["sinks"] = json!(notices);
    }
    (status, Json(answer)).into_response()
}

pub(super) async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrape::text(&shared, Instant::now()))
        .into_response()
}

pub(super) async fn labels(State(shared): State<Shared>) -> Json<Value> {
    let now = Timestamp::now();
    let sets: Vec<_> = shared.board.sets.read().iter().map(|set| set.clone().at(now)).collect();
    Json(json!({ "sets": sets }))
}

pub(super) async fn sinks(State(shared): State<Shared>) -> Json<Value> {
    let outbox = shared.board.outbox().unwrap_or_default();
    let (path, storing, error, bytes) = (&outbox.path, outbox.storing, &outbox.error, outbox.bytes);
    Json(json!({
        "outbox": { "path": path, "storing": storing, "error": error, "bytes": bytes },
        "sinks": outbox.sinks,
    }))
}

/// A part of a path, which may be any bytes.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
pub(super) fn part(part: Result<Path<String>, PathRejection>) -> Result<String, Response> {
    part.map(|Path(text)| text).map_err(|_| refusal(StatusCode::BAD_REQUEST, "the path is not UTF-8"))
}

pub(super) async fn snapshot(State(shared): State<Shared>, name: Result<Path<String>, PathRejection>) -> Response {
    let name = match part(name) {
        Ok(name) => name,
        Err(refusal) => return refusal,
    };
    let found = match shared.board.gallery() {
        // A disk may be slow.
        Some(gallery) => tokio::task::spawn_blocking(move || gallery.read(&name)).await.ok().flatten(),
        None => None,
    };
    match found {
        // Its address is told to others for their pages to show it.
        Some(jpeg) => ([(header::CONTENT_TYPE.as_str(), "image/jpeg"), (CORP, "cross-origin")], jpeg).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "no such snapshot"),
    }
}

pub(super) async fn description(State(shared): State<Shared>) -> Json<Value> {
    Json(openapi::document(&route_table::all(), shared.access.cookie()))
}

/// Says in the log who changed what, and what came of it.
pub(super) fn audit(
    Caller { peer, authenticate, .. }: Caller,
    action: &str,
    stream: Option<&str>,
    set: Option<&str>,
    outcome: &str,
) {
    if !authenticate.is_known() {
        return refused(peer, &Method::POST);
    }
    tracing::info!(target: AUDIT, by = authenticate.as_str(), %peer, action, stream, set, outcome, "changed by the API");
}

/// Who may change nothing.
pub(super) fn forbidden(caller: Caller) -> Option<(&'static str, Response)> {
    let why = "changes need a token: set `api.token` in the configuration";
    (!caller.authenticate.is_known()).then(|| ("forbidden", refusal(StatusCode::FORBIDDEN, why)))
}

/// What is asked of the main thread, and the answer where it is the same for every request.
pub(super) async fn change(
    shared: &Shared,
    caller: Caller,
    action: Action,
) -> Result<RequestOutcome, (&'static str, Response)> {
    change_within(shared, caller, action, CHANGE_TIMEOUT).await
}

/// The same, for which the answer has so much time left.
pub(super) async fn change_within(
    shared: &Shared,
    caller: Caller,
    action: Action,
    left: Duration,
) -> Result<RequestOutcome, (&'static str, Response)> {
    if let Some(refused) = forbidden(caller) {
        return Err(refused);
    }
    shared.requests.ask(action, left.min(CHANGE_TIMEOUT)).await.map_err(|why| match why {
        NoOutcome::Late => {
            ("under way", (StatusCode::ACCEPTED, Json(json!({ "result": "under way" }))).into_response())
        }
        NoOutcome::Busy => {
            let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "too many changes wait already");
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            ("too many wait", answer)
        }
        NoOutcome::Stopping => ("stopping", refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping")),
    })
}

type Id = Result<Path<String>, PathRejection>;

pub(super) async fn pause(shared: State<Shared>, caller: Extension<Caller>, id: Id) -> Response {
    switch(&shared, caller.0, id, false).await
}

pub(super) async fn resume(shared: State<Shared>, caller: Extension<Caller>, id: Id) -> Response {
    switch(&shared, caller.0, id, true).await
}

async fn switch(shared: &Shared, caller: Caller, id: Id, enabled: bool) -> Response {
    let stream = match part(id) {
        Ok(stream) => stream,
        Err(refusal) => return refusal,
    };
    let action = Action::Switch { stream: stream.clone(), enabled };
    let answer =
        |changed: bool| Json(json!({ "stream": stream, "enabled": enabled, "changed": changed })).into_response();
    let (outcome, answer) = match change(shared, caller, action).await {
        Ok(RequestOutcome::Done) => ("done", answer(true)),
        Ok(RequestOutcome::Already) => ("it was so", answer(false)),
        Ok(RequestOutcome::NoSuchStream | RequestOutcome::NoSuchSet) => {
            ("no such stream", stream_detail::no_such_stream(shared))
        }
        Ok(RequestOutcome::Refused { why, .. } | RequestOutcome::Outdated(why)) => {
            ("refused", refusal(StatusCode::CONFLICT, &why))
        }
        Err(early) => early,
    };
    audit(caller, if enabled { "resume" } else { "pause" }, Some(&stream), None, outcome);
    answer
}

pub(super) async fn reload(shared: State<Shared>, caller: Extension<Caller>) -> Response {
    let (outcome, answer) = match change(&shared, caller.0, Action::Reload).await {
        Ok(RequestOutcome::Refused { why, problems }) => ("refused", with_problems(&why, &problems)),
        Ok(_) => ("done", Json(json!({ "result": "applied" })).into_response()),
        Err(early) => early,
    };
    audit(caller.0, "reload", None, None, outcome);
    answer
}

pub(super) async fn reset_set(shared: State<Shared>, caller: Extension<Caller>, set: Id) -> Response {
    let set = match part(set) {
        Ok(set) => set,
        Err(refusal) => return refusal,
    };
    let answer = |changed: bool| Json(json!({ "set": set, "changed": changed })).into_response();
    let (outcome, answer) = match change(&shared, caller.0, Action::ResetSet { set: set.clone() }).await {
        Ok(RequestOutcome::Done) => ("done", answer(true)),
        Ok(RequestOutcome::Refused { why, problems }) => ("refused", with_problems(&why, &problems)),
        Ok(RequestOutcome::Already) => ("it was so", answer(false)),
        Ok(_) => ("no such set", refusal(StatusCode::NOT_FOUND, "no such label set")),
        Err(early) => early,
    };
    audit(caller.0, "reset labels", None, Some(&set), outcome);
    answer
}

pub(super) fn with_problems(why: &str, problems: &[Problem]) -> Response {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    let body = json!({ "error": why, "problems": errors.map(problem_json).collect::<Vec<_>>() });
    (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
}

/// Without the lines of the file around it: they may hold what is nobody's business.
fn problem_json(problem: &Problem) -> Value {
    json!({
        "file": problem.file,
        "line": problem.position.map(|position| position.0),
        "column": problem.position.map(|position| position.1),
        "field": problem.field,
        "message": problem.message,
        "remedy": problem.remedy,
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use tower_service::Service;

    use super::super::serve::Peer;
    use super::*;
    use crate::stream::requests::{self, RequestSender};

    fn settings(token: Option<&str>) -> super::super::ApiSettings {
        let token = token.map(crate::platform::secret::Secret::new);
        let listen = "127.0.0.1:0".parse().unwrap();
        super::super::ApiSettings { listen, token, tls: None, trusted_proxies: Vec::new() }
    }

    fn shared(requests: RequestSender) -> Shared {
        Shared {
            board: std::sync::Arc::new(super::super::Board::new(std::sync::Arc::default())),
            metrics: metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle(),
            access: std::sync::Arc::new(super::super::Access::new(&settings(None), "").unwrap()),
            requests,
        }
    }

    #[test]
    fn without_a_token_nobody_but_this_machine_is_answered() {
        let mut router: Router = route_table::router(shared(requests::channel().0.api), route_table::all());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for (peer, status) in [([127, 0, 0, 1], StatusCode::OK), ([198, 51, 100, 1], StatusCode::UNAUTHORIZED)] {
            let peer = Peer::from(std::net::IpAddr::from(peer));
            let request = Request::builder().uri("/api/v1/labels").header("Host", "localhost").extension(peer);
            let request = request.body(Body::empty()).unwrap();
            assert_eq!(runtime.block_on(router.call(request)).unwrap().status(), status);
        }
    }

    #[test]
    fn a_token_that_is_set_while_a_request_is_under_way_does_not_let_it_in() {
        let (senders, requests) = requests::channel();
        let shared = shared(senders.api);
        // Past the guard while there was no token yet.
        let caller = Caller {
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
            authenticate: shared.access.authenticate(None),
            grant: Default::default(),
        };
        shared.access.change(&settings(Some("a-token-0123456789abcdef"))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answers = [
            runtime.block_on(reload(State(shared.clone()), Extension(caller))),
            runtime.block_on(pause(State(shared.clone()), Extension(caller), Ok(Path("gate".into())))),
        ];
        for answer in answers {
            assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        }
        assert!(requests.next(Duration::ZERO).is_none());
    }

    #[test]
    fn a_problem_is_told_without_the_lines_around_it() {
        let problem = Problem {
            severity: Severity::Error,
            file: "/etc/vtagd/vtagd.yaml".into(),
            position: Some((3, 7)),
            field: "streams[0].url".into(),
            message: "has the unknown scheme rtps://".into(),
            remedy: "did you mean rtsp?".into(),
            snippet: "3 | url: rtps://viewer:MARKED@10.0.0.1/".into(),
        };
        let told = problem_json(&problem);
        assert_eq!((&told["line"], &told["field"]), (&json!(3), &json!("streams[0].url")));
        assert!(!told.to_string().contains("MARKED"));
    }
}
