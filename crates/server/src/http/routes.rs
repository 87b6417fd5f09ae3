//! Which paths there are, and who may ask for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, ORIGIN, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Router, extract};
use tokio::time::timeout;

use super::error::{ApiError, Elsewhere, Failures};
use super::{Serving, State, backup, cluster, eosc, health, history, kv, members, openapi};
use crate::metrics;

/// A request is answered within this time, its body included.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// A body that is larger is refused before it is read.
const BODY_BYTES_MAX: usize = 1 << 20;

pub fn router(state: State) -> Router {
    let open = Router::new()
        .route("/", get(page))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz));
    let kv = get(kv::get).put(kv::put).delete(kv::delete);
    let in_turn = || from_fn_with_state(state.clone(), kv::in_turn);
    let kv = kv.layer(in_turn());
    let guarded = Router::new()
        .route("/cluster", get(cluster::get))
        .route("/cluster/history", get(history::get))
        .route("/cluster/members", post(members::add))
        .route("/cluster/members/{id}", delete(members::remove))
        .route("/cluster/transfer", post(members::transfer))
        .route("/snapshot", post(members::snapshot))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::get))
        .route("/kv/{*key}", kv)
        .route("/raft/api/set", post(eosc::set).layer(in_turn()))
        .route("/raft/api/addNode", post(eosc::add_node))
        .route("/raft/api/deleteNode", post(eosc::delete_node))
        .route("/raft/api/getPeerList", get(eosc::peer_list));
    let guard = || from_fn_with_state(state.clone(), known);
    // It takes as long as it takes, while somebody reads it.
    let long = Router::new().route("/backup", get(backup::get));
    open.merge(guarded.route_layer(guard()))
        .layer(from_fn(in_time))
        .merge(long.route_layer(guard()))
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(to_leader))
        .with_state(state)
}

/// What Prometheus reads.
#[utoipa::path(
    get, path = "/metrics", tag = "node",
    responses((status = 200, description = "Prometheus' text format.", content_type = "text/plain", body = String), Failures)
)]
pub async fn metrics(Started(serving): Started) -> Result<impl IntoResponse, ApiError> {
    let status = serving.frontend.node().status().await?;
    let text = metrics::render(&metrics::Told {
        status: &status,
        proposals: serving.frontend.proposals(),
        leader_changes: serving.history.leader_changes(),
        commands: serving.clients.commands(),
        connections: serving.clients.connections(),
    });
    let format = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, format)], text))
}

/// The status page.
#[utoipa::path(
    get, path = "/", tag = "node", security(()),
    responses((status = 200, description = "For a browser.", content_type = "text/html", body = String))
)]
pub async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

async fn nowhere() -> ApiError {
    let problem = "there is nothing at this path; GET /openapi.json names what there is";
    ApiError::new(StatusCode::NOT_FOUND, problem)
}

async fn not_so() -> ApiError {
    let problem = "not with this method; GET /openapi.json names those that do";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, problem)
}

/// Lets those pass who show the token.
async fn known(
    extract::State(state): extract::State<State>,
    request: Request,
    next: Next,
) -> Response {
    let shown = request.headers().get(AUTHORIZATION);
    let token = shown.and_then(|shown| shown.as_bytes().strip_prefix(b"Bearer "));
    let is_known = match &state.secret {
        None if is_ours(request.headers(), state.name.as_deref()) => true,
        None => {
            let problem = "a page of another site asks, or under a name that this node does not \
                           have; ask by address, set --http-advertise, or give --auth-token-file";
            return ApiError::new(StatusCode::FORBIDDEN, problem).into_response();
        }
        Some(secret) => token.is_some_and(|token| secret.is(token)),
    };
    if is_known {
        return next.run(request).await;
    }
    let problem = "show the token of --auth-token-file: Authorization: Bearer <token>";
    let mut response = ApiError::new(StatusCode::UNAUTHORIZED, problem).into_response();
    let scheme = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    response
}

/// Whether no page of another site asks through the browser of somebody who may: it would come with
/// its own origin, or, where its name has been turned to this address, under that name.
fn is_ours(headers: &HeaderMap, name: Option<&str>) -> bool {
    let text = |header| headers.get(header).and_then(|value| value.to_str().ok());
    let Some(host) = text(HOST) else {
        // No browser leaves it out.
        return headers.get(ORIGIN).is_none();
    };
    let without_port = |host: &str| {
        let authority = host.parse::<Authority>();
        authority.map_or_else(|_| String::new(), |it| it.host().to_ascii_lowercase())
    };
    let bare = without_port(host);
    let is_address = bare.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_named = !bare.is_empty() && name.is_some_and(|name| without_port(name) == bare);
    let same = |origin: &str| {
        origin
            .split_once("://")
            .is_some_and(|(_, from)| from == host)
    };
    (is_address || is_named || bare == "localhost")
        && (headers.get(ORIGIN).is_none() || text(ORIGIN).is_some_and(same))
}

/// Who asks the wrong node asks the same of the leader.
async fn to_leader(request: Request, next: Next) -> Response {
    let asked = request.uri().path_and_query().cloned();
    let mut response = next.run(request).await;
    if let (Some(Elsewhere(address)), Some(asked)) = (response.extensions_mut().remove(), asked)
        && let Ok(location) = HeaderValue::from_str(&format!("http://{address}{asked}"))
    {
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

async fn in_time(request: Request, next: Next) -> Response {
    match timeout(REQUEST_PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let problem = "not in time: it may have taken effect, or may yet; look, or try again";
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, problem).into_response()
        }
    }
}

/// The node, once it has started.
pub struct Started(pub Arc<Serving>);

impl FromRequestParts<State> for Started {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let starting = || ApiError::starting(state.place.starting());
        let serving = state.place.get().ok_or_else(starting)?;
        Ok(Started(Arc::clone(serving)))
    }
}
