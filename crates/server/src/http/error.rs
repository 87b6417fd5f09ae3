//! Errors, as JSON and with a fitting status.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use raft_rocks::driver::RequestError;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

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

/// Why it was not done.
#[derive(Serialize, ToSchema)]
pub struct Problem {
    /// What is wrong and what to do.
    error: String,
}

/// How every request may fail.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document alone")]
pub enum Failures {
    /// The request makes no sense.
    #[response(status = 400)]
    BadRequest(#[to_schema] Problem),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(#[to_schema] Problem),
    /// There is no such thing.
    #[response(status = 404)]
    NotFound(#[to_schema] Problem),
    /// It does not fit how things stand.
    #[response(status = 409)]
    Conflict(#[to_schema] Problem),
    /// It is too large.
    #[response(status = 413)]
    TooLarge(#[to_schema] Problem),
    /// The body is of another type.
    #[response(status = 415)]
    OtherType(#[to_schema] Problem),
    /// Under `--redirect try`: the leader does it.
    #[response(status = 307)]
    Elsewhere(#[to_schema] Problem),
    /// Under `--redirect try`: the leader does it, and nobody knows where its HTTP is.
    #[response(status = 421)]
    ElsewhereUnknown(#[to_schema] Problem),
    /// Something of the node is broken.
    #[response(status = 500)]
    Broken(#[to_schema] Problem),
    /// Not now: nothing has happened; try again.
    #[response(status = 503)]
    NotNow(#[to_schema] Problem),
    /// It may have taken effect, or may yet.
    #[response(status = 504)]
    OutcomeUnknown(#[to_schema] Problem),
}

/// The leader's `host:port` for HTTP, in the extensions of a response.
#[derive(Clone)]
pub struct Elsewhere(pub String);

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

    /// What is wrong and what to do.
    pub fn into_problem(self) -> String {
        self.problem
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
        if let Some(address) = self.elsewhere {
            response.extensions_mut().insert(Elsewhere(address));
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
            AdminError::NotAdded(ref e) if e.is_open() => StatusCode::GATEWAY_TIMEOUT,
            AdminError::NotAdded(_)
            | AdminError::OtherId { .. }
            | AdminError::IsVoter(_)
            | AdminError::Several { .. } => StatusCode::CONFLICT,
        };
        match error {
            AdminError::NoMember(_) => {
                ApiError::new(status, format!("{error}; GET /cluster names them"))
            }
            error => ApiError::new(status, error),
        }
    }
}
