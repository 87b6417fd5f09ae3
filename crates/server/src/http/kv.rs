//! Keys and values.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{self, FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use utoipa::IntoParams;

use super::State;
use super::error::{ApiError, Failures};
use super::extract::{Asked, Key};
use super::routes::Started;
use crate::kv::{Answer, Entry, Expiry, OnlyIf, Operation};

/// A hundred years.
const TTL_MS_MAX: i64 = 3_153_600_000_000;

/// How a value is set.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// It expires after this many milliseconds; without, never.
    #[param(minimum = 1, maximum = 3_153_600_000_000i64)]
    ttl_ms: Option<i64>,
}

/// Values take memory until they are sent: so many requests at a time.
pub async fn in_turn(
    extract::State(state): extract::State<State>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(turn) = Arc::clone(&state.turns).acquire_owned().await else {
        // It is never closed.
        return ApiError::starting(state.place.starting()).into_response();
    };
    let response = next.run(request).await;
    response.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        Body::new(body.map_frame(move |frame| {
            let _until_it_is_sent = &turn;
            frame
        }))
    })
}

/// The value of a key.
#[utoipa::path(
    get, path = "/kv/{key}", tag = "keys",
    params(("key" = String, Path, description = "Any bytes but none, percent-encoded.", min_length = 1)),
    responses(
        (status = 200, description = "The value.", content_type = "application/octet-stream", body = Vec<u8>),
        Failures,
    )
)]
pub async fn get(Started(serving): Started, Key(key): Key) -> Result<Response, ApiError> {
    let question = || {
        let key = key.clone();
        move |machine: &crate::kv::Machine| machine.get(&key)
    };
    let found: Option<Entry> = serving.frontend.query(question).await?.map_err(|e| {
        tracing::error!("the state could not be read: {e}");
        let problem = "the state could not be read; the log of this node says why";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, problem)
    })?;
    let value = found.ok_or_else(no_such_key)?.data;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], value).into_response())
}

/// Sets the value of a key, whether there was one or not.
#[utoipa::path(
    put, path = "/kv/{key}", tag = "keys",
    params(
        ("key" = String, Path, description = "Any bytes but none, percent-encoded.", min_length = 1),
        Setting,
    ),
    request_body(content = Option<Vec<u8>>,
        content_type = "application/octet-stream", description = "Up to 1 MiB; none: an empty value."),
    responses((status = 204, description = "It is set."), Failures)
)]
pub async fn put(
    Started(serving): Started,
    Key(key): Key,
    Asked(setting): Asked<Setting>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let value = Bytes::from_request(request, &()).await;
    let value = value.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(rejection.status(), "a value has at most 1 MiB; split it")
        }
        status => ApiError::new(status, rejection.body_text()),
    })?;
    let expiry = match setting.ttl_ms {
        None => Expiry::Never,
        Some(ms @ 1..=TTL_MS_MAX) => Expiry::In(ms),
        Some(ms) => {
            let problem = format!("ttl_ms={ms}: give 1 to {TTL_MS_MAX}");
            return Err(ApiError::new(StatusCode::BAD_REQUEST, problem));
        }
    };
    let set = Operation::Set {
        key,
        value,
        expiry,
        only_if: OnlyIf::Always,
        return_old: false,
    };
    match one(&serving, set).await? {
        Answer::Failed(problem) => Err(ApiError::new(StatusCode::BAD_REQUEST, problem)),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// Deletes a key.
#[utoipa::path(
    delete, path = "/kv/{key}", tag = "keys",
    params(("key" = String, Path, description = "Any bytes but none, percent-encoded.", min_length = 1)),
    responses((status = 204, description = "It was there, and is not any more."), Failures)
)]
pub async fn delete(Started(serving): Started, Key(key): Key) -> Result<StatusCode, ApiError> {
    match one(&serving, Operation::Delete(vec![key])).await? {
        Answer::Integer(0) => Err(no_such_key()),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// Carries out one operation.
pub async fn one(serving: &super::Serving, operation: Operation) -> Result<Answer, ApiError> {
    let mut answers = serving.frontend.change(&[operation]).await?;
    // There are as many as there were operations.
    Ok(answers.pop().unwrap_or(Answer::Done))
}

fn no_such_key() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is no such key; PUT sets it")
}
