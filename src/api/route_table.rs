//! Every route of the API: its path, how it is guarded, who answers, and how the OpenAPI document describes it. One table: what stands in it is
//! served, guarded and told, and nothing else is.

use axum::Router;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{self, MethodRouter};
use serde_json::{Value, json};

use super::guard::{Expected, guard, refusal};
use super::openapi::{answer, health, of, operation, read, switch, text, with_parameter};
use super::parameters::Parameter;
use super::{
    Shared, browser_session, events, handlers, label_lab, label_reports, live, mark_routes, model_queries, openapi,
    openapi_programs, page, picture_grid, push, scores, search, snapshots, stream_detail, stream_setup,
};

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// As reading, and nothing where a token is set: the page asks for it, and holds nothing itself.
    Page,
    /// The token, where one is set.
    Token,
    /// The token, always. The guard lets in who needs none to read; the route itself refuses him.
    Change,
    /// The token of the stream that it is for, where that has one; as for a change otherwise, but where there is no token at all.
    Push,
}

/// What a route may cost, and so what is let through to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteClass {
    /// Says how the daemon is: answered when no connection has a place left, and to this machine at any rate.
    Health,
    /// Read by machines alone.
    Scrape,
    /// Wants no body.
    Plain,
    /// Wants a few words, which are taken in whole before the route sees them. How many are answered at once is the route's business: it may wait for others.
    Words,
    /// Wants a picture, which is taken in whole before the route sees it.
    Picture,
    /// Answers with a stream that goes on, on a connection of a pool of its own.
    Live,
}

impl RouteClass {
    /// What of a body is taken, in bytes.
    pub fn max_body(self) -> u64 {
        match self {
            Self::Picture => 16 * 1024 * 1024,
            Self::Health | Self::Scrape | Self::Plain | Self::Words | Self::Live => 64 * 1024,
        }
    }

    /// The same for people.
    pub fn max_body_text(self) -> &'static str {
        match self {
            Self::Picture => "16 MiB",
            Self::Health | Self::Scrape | Self::Plain | Self::Words | Self::Live => "64 KiB",
        }
    }

    /// Whether old probes that speak HTTP/1.0 may leave out the host.
    pub fn is_probed(self) -> bool {
        matches!(self, Self::Health | Self::Scrape)
    }

    /// As the document tells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Scrape => "scrape",
            Self::Plain => "plain",
            Self::Words => "words",
            Self::Picture => "picture",
            Self::Live => "live",
        }
    }
}

/// How a route is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub class: RouteClass,
    pub needs: Needs,
}

/// Also for what is no route.
const READ: Rules = Rules { class: RouteClass::Plain, needs: Needs::Token };
const CHANGE: Rules = Rules { class: RouteClass::Plain, needs: Needs::Change };
const ASK: Rules = Rules { class: RouteClass::Words, needs: Needs::Token };
const ASK_CHANGE: Rules = Rules { class: RouteClass::Words, needs: Needs::Change };
/// Its texts may be longer than a few words.
const CHANGE_BODY: Rules = Rules { class: RouteClass::Picture, needs: Needs::Change };
const LIVENESS: Rules = Rules { class: RouteClass::Health, needs: Needs::Nothing };
const READINESS: Rules = Rules { class: RouteClass::Health, needs: Needs::Token };
const PAGE: Rules = Rules { class: RouteClass::Plain, needs: Needs::Page };
const PICTURE: Rules = Rules { class: RouteClass::Picture, needs: Needs::Token };
const PUSH: Rules = Rules { class: RouteClass::Picture, needs: Needs::Push };
const LIVE: Rules = Rules { class: RouteClass::Live, needs: Needs::Token };
const SCRAPE: Rules = Rules { class: RouteClass::Scrape, needs: Needs::Token };

/// A row of the table.
pub(super) struct Route {
    pub path: &'static str,
    /// In lower case, as the document has it.
    pub method: &'static str,
    pub rules: Rules,
    handler: MethodRouter<Shared>,
    /// What may stand behind the question mark.
    pub parameters: &'static [Parameter],
    /// Without what follows from the rules and the parameters.
    pub operation: Value,
}

impl Route {
    pub fn get<T: 'static>(
        path: &'static str,
        rules: Rules,
        handler: impl Handler<T, Shared>,
        operation: Value,
    ) -> Self {
        Self { path, method: "get", rules, handler: routing::get(handler), parameters: &[], operation }
    }

    pub fn post<T: 'static>(
        path: &'static str,
        rules: Rules,
        handler: impl Handler<T, Shared>,
        operation: Value,
    ) -> Self {
        Self { path, method: "post", rules, handler: routing::post(handler), parameters: &[], operation }
    }

    /// The same, which takes `parameters`.
    pub fn taking(self, parameters: &'static [Parameter]) -> Self {
        Self { parameters, ..self }
    }

    pub fn delete<T: 'static>(
        path: &'static str,
        rules: Rules,
        handler: impl Handler<T, Shared>,
        operation: Value,
    ) -> Self {
        Self { path, method: "delete", rules, handler: routing::delete(handler), parameters: &[], operation }
    }
}

/// The table.
pub(super) fn all() -> Vec<Route> {
    let ready = [
        ("200", answer("Frames may flow.", of("Readiness"))),
        ("503", answer("Frames do not flow, and why.", json!({ "anyOf": [of("Readiness"), of("Error")] }))),
    ];
    let metrics = text("Its text format.", "text/plain; version=0.0.4; charset=utf-8");
    let picture = json!({ "description": "The picture.", "content": { "image/jpeg": { "schema": { "type": "string", "contentEncoding": "binary" } } } });
    let snapshot = operation("snapshot", "A picture of a tag, as events name it.", &[("200", picture.clone())]);
    let of_moment = operation("historyPicture", "A picture of a moment, as searches name it.", &[("200", picture)]);
    let reloaded = [
        ("200", answer("The new configuration runs.", of("Reloaded"))),
        ("202", answer("It is not done yet; the log will say what came of it.", of("UnderWay"))),
        ("422", answer("The configuration has problems, and the old one stays.", of("Problems"))),
    ];
    let document = answer("OpenAPI 3.1.", json!({ "type": "object" }));
    vec![
        Route::get("/", PAGE, page::page, page::of_page()),
        Route::get("/page/{version}/{name}", PAGE, page::file, page::of_file()),
        Route::get("/healthz", LIVENESS, handlers::healthz, health("healthz")),
        Route::get("/livez", LIVENESS, handlers::healthz, health("livez")),
        Route::get("/readyz", READINESS, handlers::readyz, operation("readyz", "Whether the model is warm.", &ready)),
        Route::get(
            "/metrics",
            SCRAPE,
            handlers::metrics,
            operation("metrics", "Metrics for Prometheus.", &[("200", metrics)]),
        ),
        Route::get(
            "/api/v1/streams",
            READ,
            stream_detail::streams,
            read("streams", "Every stream with its state and what became of its frames.", "Streams"),
        ),
        Route::post("/api/v1/streams", ASK_CHANGE, stream_setup::add_stream, stream_setup::of_add()),
        Route::get("/api/v1/streams/{id}", READ, stream_detail::stream, stream_detail::of_one()),
        Route::delete("/api/v1/streams/{id}", CHANGE, stream_setup::remove_stream, stream_setup::of_remove()),
        Route::post("/api/v1/discover", ASK_CHANGE, stream_setup::discover, stream_setup::of_discover()),
        Route::post("/api/v1/preview", ASK_CHANGE, stream_setup::preview, stream_setup::of_preview()),
        Route::get("/api/v1/example-sets", READ, stream_setup::example_sets, stream_setup::of_examples()),
        Route::get("/api/v1/streams/{id}/latest.jpg", READ, stream_detail::latest, stream_detail::of_latest())
            .taking(stream_detail::PARAMETERS),
        Route::get("/api/v1/streams/{id}/scores", READ, scores::scores, openapi::scores()).taking(scores::PARAMETERS),
        Route::post("/api/v1/streams/{id}/frames", PUSH, push::frames, push::described()).taking(push::PARAMETERS),
        Route::post(
            "/api/v1/streams/{id}/pause",
            CHANGE,
            handlers::pause,
            switch("pause", "Ends a stream until it is resumed, the file says otherwise, or the daemon starts again."),
        ),
        Route::post(
            "/api/v1/streams/{id}/resume",
            CHANGE,
            handlers::resume,
            switch("resume", "Starts a stream that is switched off."),
        ),
        Route::get("/api/v1/pictures", READ, picture_grid::pictures, picture_grid::described())
            .taking(picture_grid::PARAMETERS),
        Route::get(
            "/api/v1/labels",
            READ,
            handlers::labels,
            read(
                "labels",
                "The label sets: what each says, which thresholds are in force, and whether its file is or a copy of it in the state directory.",
                "Labels",
            ),
        ),
        Route::post("/api/v1/labels/{set}/try", PICTURE, label_lab::try_label, label_lab::of_try()),
        Route::post("/api/v1/labels/{set}/edit", CHANGE_BODY, label_lab::edit_label, label_lab::of_edit()),
        Route::post("/api/v1/labels/{set}/report", ASK, label_reports::report, label_reports::of_report()),
        Route::post(
            "/api/v1/labels/{set}/calibrate",
            ASK_CHANGE,
            label_reports::calibrate,
            label_reports::of_calibrate(),
        ),
        Route::post("/api/v1/labels/{set}/reset", CHANGE, handlers::reset_set, openapi::reset_labels()),
        Route::get(
            "/api/v1/events",
            READ,
            events::events,
            read("events", "Events that are kept, whatever became of them, newest first, a page at a time.", "Events"),
        )
        .taking(events::PARAMETERS),
        Route::post("/api/v1/events/{id}/mark", CHANGE, mark_routes::judge_event, mark_routes::of_verdict())
            .taking(mark_routes::VERDICT),
        Route::get("/api/v1/marks", READ, mark_routes::list_marks, mark_routes::of_list()).taking(mark_routes::FILTER),
        Route::post("/api/v1/marks", CHANGE, mark_routes::add_mark, mark_routes::of_add()).taking(mark_routes::NEW),
        Route::delete("/api/v1/marks/{id}", CHANGE, mark_routes::remove_mark, mark_routes::of_remove()),
        Route::get(
            "/api/v1/snapshots",
            READ,
            snapshots::snapshots,
            read("snapshots", "Pictures of tags that are kept, newest first, a page at a time.", "Snapshots"),
        )
        .taking(snapshots::PARAMETERS),
        Route::get(
            "/api/v1/snapshots/{name}",
            READ,
            handlers::snapshot,
            with_parameter(snapshot, "name", "019a1b2c-0000-7000-8000-000000000000-start.jpg"),
        ),
        Route::get(
            "/api/v1/sinks",
            READ,
            handlers::sinks,
            read("sinks", "The outbox and every sink: what waits, and what is wrong.", "Sinks"),
        ),
        Route::post(
            "/api/v1/reload",
            CHANGE,
            handlers::reload,
            operation("reload", "Reads the configuration again, as SIGHUP does.", &reloaded),
        ),
        Route::get("/api/v1/live", LIVE, live::live, openapi_programs::live()).taking(live::PARAMETERS),
        Route::post("/api/v1/tag", PICTURE, model_queries::tag, openapi_programs::tag())
            .taking(model_queries::PARAMETERS),
        Route::post("/api/v1/embed", PICTURE, model_queries::embed, openapi_programs::embed()),
        Route::get("/api/v1/search", READ, search::by_text, openapi_programs::search()).taking(&search::OF_TEXT),
        Route::post("/api/v1/search", PICTURE, search::by_picture, openapi_programs::search_picture())
            .taking(&search::OF_PICTURE),
        Route::get(
            "/api/v1/history/{name}",
            READ,
            search::picture,
            with_parameter(of_moment, "name", "0000000000000007-12.jpg"),
        ),
        Route::post("/api/v1/session", READ, browser_session::log_in, openapi_programs::log_in()),
        Route::delete("/api/v1/session", CHANGE, browser_session::log_out, openapi_programs::log_out()),
        Route::get(
            "/api/v1/openapi.json",
            READ,
            handlers::description,
            operation("openapi", "This document.", &[("200", document)]),
        ),
    ]
}

/// Serves `routes`, each behind the guard as its rules say; what is no route is guarded as one that is read.
pub(super) fn router(shared: Shared, routes: Vec<Route>) -> Router {
    let guarded =
        |rules, parameters| middleware::from_fn_with_state((shared.clone(), Expected { rules, parameters }), guard);
    let nothing =
        || async { refusal(StatusCode::NOT_FOUND, "there is nothing here; /api/v1/openapi.json has all paths") };
    let other =
        || async { refusal(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods; see the header Allow") };
    let router = routes.into_iter().fold(Router::new(), |router, Route { path, rules, handler, parameters, .. }| {
        // Probes may ask as they like: what makes them fail restarts the daemon.
        let parameters = (rules.class != RouteClass::Health).then_some(parameters);
        router.route(path, handler.layer(guarded(rules, parameters)))
    });
    router
        .fallback(nothing.layer(guarded(READ, None)))
        .method_not_allowed_fallback(other.layer(guarded(READ, None)))
        .with_state(shared.clone())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower_service::Service;

    use super::super::classes_of_routes::{ADDRESS, shared};
    use super::super::serve::Peer;
    use super::*;

    #[test]
    fn the_document_says_of_every_route_who_may_ask_and_the_guard_does_as_it_says() {
        let mut router = router(shared(Some("let-me-in"), &[]), all());
        let document = openapi::document(&all(), "");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut operations = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let open = operation["security"].as_array().unwrap().is_empty();
                let request = Request::builder().method(&*method.to_uppercase()).uri(path.replace(['{', '}'], ""));
                let request = request.header("Host", "x").extension(Peer::from(ADDRESS)).body(Body::empty()).unwrap();
                let status = runtime.block_on(router.call(request)).unwrap().status();
                assert_eq!(status == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {status}");
                assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                assert!(operation["x-guard"].is_string() && operation["responses"]["413"].is_object(), "{path}");
                operations += 1;
            }
        }
        assert_eq!(operations, all().len(), "no row hides another");
    }

    #[test]
    fn no_route_but_the_probes_takes_a_parameter_that_it_does_not_know_or_one_twice() {
        let mut router = router(shared(None, &[]), all());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut ask = |route: &Route, query: &str| {
            let uri = format!("{}?{query}", route.path.replace(['{', '}'], ""));
            let request = Request::builder().method(&*route.method.to_uppercase()).uri(uri).header("Host", "localhost");
            let peer = Peer::from(std::net::IpAddr::from([127, 0, 0, 1]));
            let answer = runtime.block_on(router.call(request.extension(peer).body(Body::empty()).unwrap())).unwrap();
            let (status, body) = (answer.status(), axum::body::to_bytes(answer.into_body(), 1 << 20));
            (status, String::from_utf8_lossy(&runtime.block_on(body).unwrap()).into_owned())
        };
        for route in all() {
            let (status, said) = ask(&route, "no-such=1");
            let what = format!("{} {}: {status} {said}", route.method, route.path);
            if route.rules.class == RouteClass::Health {
                assert_ne!(status, StatusCode::BAD_REQUEST, "{what}");
                continue;
            }
            assert!(status == StatusCode::BAD_REQUEST && said.contains("no-such"), "{what}");
            for parameter in route.parameters {
                assert!(said.contains(parameter.name), "{what}");
                let (status, said) = ask(&route, &format!("{0}=&{0}=", parameter.name));
                assert!(status == StatusCode::BAD_REQUEST && said.contains(parameter.name), "{status} {said}");
            }
        }
    }
}
