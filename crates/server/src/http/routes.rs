//! Which paths there are, and who may ask for them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Router, extract};
use tokio::time::timeout;

use super::error::ApiError;
use super::{Serving, State, cluster, health};

/// A request is answered within this time, its body included.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// A body that is larger is refused before it is read.
const BODY_BYTES_MAX: usize = 1 << 20;

pub fn router(state: State) -> Router {
    let open = Router::new()
        .route("/", get(page))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz));
    let guarded = Router::new()
        .route("/cluster", get(cluster::get))
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(from_fn_with_state(state.clone(), known));
    open.merge(guarded)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(in_time))
        .with_state(state)
}

/// The status page.
async fn page() -> Html<&'static str> {
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
        None => true,
        Some(secret) => token.is_some_and(|token| secret.is(token)),
    };
    if is_known {
        return next.run(request).await;
    }
    let problem = "show the token of --auth-token-file: Authorization: Bearer <token>";
    let mut response = ApiError::new(StatusCode::UNAUTHORIZED, problem).into_response();
    let scheme = axum::http::HeaderValue::from_static("Bearer");
    response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
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
        let starting = || ApiError::starting(state.starting());
        let serving = state.place.get().ok_or_else(starting)?;
        Ok(Started(Arc::clone(serving)))
    }
}
