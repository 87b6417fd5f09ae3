//! What a request holds, with errors as all others are.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Whole numbers below are exact in floating point.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A body of JSON.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(body) = Json::from_request(request, state).await?;
        Ok(Body(body))
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let status = match rejection.status() {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        ApiError::new(status, rejection.body_text())
    }
}

/// What stands behind the question mark.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let asked = Query::from_request_parts(parts, state).await;
        let Query(asked) = asked.map_err(|rejection: QueryRejection| {
            ApiError::new(StatusCode::BAD_REQUEST, rejection.body_text())
        })?;
        Ok(Asked(asked))
    }
}

/// A number in the path.
pub struct Id(pub u64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::from_request_parts(parts, state).await;
        let Path(id) = id.map_err(|rejection: PathRejection| {
            ApiError::new(StatusCode::BAD_REQUEST, rejection.body_text())
        })?;
        Ok(Id(id))
    }
}

/// A number in JSON, where 2.0 is as whole as 2.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "serde_json::Number")]
pub struct Whole(pub u64);

impl TryFrom<serde_json::Number> for Whole {
    type Error = String;

    fn try_from(number: serde_json::Number) -> Result<Self, String> {
        let is_whole = |number: &f64| number.fract() == 0.0 && (0.0..EXACT_MAX).contains(number);
        let of_fraction = || number.as_f64().filter(is_whole).map(|number| number as u64);
        let whole = number.as_u64().or_else(of_fraction);
        let wrong = || format!("{number} is no whole number of 0 or more");
        whole.map(Whole).ok_or_else(wrong)
    }
}

/// A key in the path: any bytes, as percents where they are no letters.
pub struct Key(pub Bytes);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let key = parts.uri.path().strip_prefix("/kv/").unwrap_or_default();
        let key: Vec<u8> = percent_decode_str(key).collect();
        Ok(Key(key.into()))
    }
}
