//! Errors, as JSON and with a fitting status.

use axum::Json;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use raft_rocks::driver::RequestError;
use raft_rocks_grpc::AddError;
use serde::Serialize;

use crate::address::Published;
use crate::admin::AdminError;
use crate::frontend::Refused;

/// An election is over by then, most of the time.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request was not carried out.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    problem: String,
    /// Where it can be asked instead, `host:port`.
    elsewhere: Option<String>,
}

#[derive(Serialize)]
pub struct Problem {
    /// What is wrong and what to do.
    error: String,
}

impl ApiError {
    pub fn new(status: StatusCode, problem: impl ToString) -> Self {
        ApiError {
            status,
            problem: problem.to_string(),
            elsewhere: None,
        }
    }

    /// There is no node yet, and why.
    pub fn starting(problem: &str) -> Self {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, problem)
    }

    /// The same can be asked there.
    fn at(self, elsewhere: Option<String>) -> Self {
        ApiError { elsewhere, ..self }
    }

    /// What is wrong.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = self.problem;
        let mut response = (self.status, Json(Problem { error })).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if let Some(location) = self.elsewhere
            && let Ok(location) = HeaderValue::from_str(&location)
        {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let status = match &error {
            RequestError::NotLeader { .. }
            | RequestError::Dropped
            | RequestError::Busy
            | RequestError::Stopped { .. }
            | RequestError::Removed => StatusCode::SERVICE_UNAVAILABLE,
            RequestError::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
            RequestError::ChangeUnderWay | RequestError::Refused(_) | RequestError::Stale => {
                StatusCode::CONFLICT
            }
            RequestError::Rejected(_) => StatusCode::BAD_REQUEST,
            RequestError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, error)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Failed(error) => error.into(),
            Refused::AnswerLost(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, refused),
            Refused::Elsewhere(None) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, refused),
            Refused::Elsewhere(Some(ref leader)) => {
                let http = Published::of(leader).http;
                let problem = match &http {
                    Some(address) => format!("{refused} at {address}"),
                    None => format!("{refused}, whose HTTP address is not known"),
                };
                ApiError::new(StatusCode::MISDIRECTED_REQUEST, problem).at(http)
            }
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let status = match error {
            AdminError::Refused(refused) => return refused.into(),
            AdminError::NoMember(_) => StatusCode::NOT_FOUND,
            AdminError::NotAdded(AddError::Behind { .. } | AddError::NotSeen { .. }) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            AdminError::NotAdded(_) | AdminError::OtherId { .. } | AdminError::IsVoter(_) => {
                StatusCode::CONFLICT
            }
        };
        match error {
            AdminError::NoMember(_) => {
                ApiError::new(status, format!("{error}; GET /cluster names them"))
            }
            error => ApiError::new(status, error),
        }
    }
}
