//! What eosc's raft answers, in its envelope: whatever happens, the status is 200.

use std::collections::BTreeMap;

use axum::Json;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{ApiError, Problem};
use super::extract::Body;
use super::kv::one;
use super::routes::Started;
use crate::address::client_address;
use crate::admin::{self, Newcomer};
use crate::kv::{Answer, Expiry, OnlyIf, Operation};

const SUCCESS: &str = "000000";
/// The request makes no sense.
const BAD_REQUEST: &str = "000001";
/// It was not carried out.
const FAILED: &str = "000002";

/// What came of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Envelope {
    /// 000000: success; 000001: the request makes no sense; 000002: it was not carried out.
    #[schema(example = "000000")]
    code: String,
    /// success or fail.
    #[schema(example = "success")]
    msg: String,
    /// What was asked for.
    data: Value,
    /// What is wrong and what to do.
    error: String,
}

/// A key and its value.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Setting {
    #[schema(min_length = 1)]
    key: String,
    value: String,
}

/// A node to be added.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NodeAndHost {
    #[schema(value_type = u64)]
    id: NodeId,
    /// `host:port`.
    host: String,
}

/// A node to be removed.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NodeAlone {
    #[schema(value_type = u64)]
    id: NodeId,
}

/// Some clients send their numbers as text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NodeId {
    Number(u64),
    Text(String),
}

impl NodeId {
    fn number(&self) -> Result<u64, Failure> {
        match self {
            NodeId::Number(id) => Ok(*id),
            NodeId::Text(text) => text
                .parse()
                .map_err(|_| Failure(BAD_REQUEST, format!("id: {text:?} is no number"))),
        }
    }
}

/// Code and error.
struct Failure(&'static str, String);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure(FAILED, error.into_problem())
    }
}

type Asked<T> = Result<Body<T>, ApiError>;

fn asked<T>(asked: Asked<T>) -> Result<T, Failure> {
    match asked {
        Ok(Body(body)) => Ok(body),
        Err(e) => Err(Failure(BAD_REQUEST, e.into_problem())),
    }
}

fn enveloped<T: Into<Value>>(ended: Result<T, Failure>) -> Json<Envelope> {
    let (code, msg, data, error) = match ended {
        Ok(data) => (SUCCESS, "success", data.into(), String::new()),
        Err(Failure(code, error)) => (code, "fail", Value::Null, error),
    };
    Json(Envelope {
        code: code.to_owned(),
        msg: msg.to_owned(),
        data,
        error,
    })
}

/// Sets the value of a key.
#[utoipa::path(
    post, path = "/raft/api/set", tag = "eosc",
    request_body = Setting,
    responses(
        (status = 200, description = "What came of it.", body = Envelope),
        (status = 401, description = "The token is missing or wrong.", body = Problem),
        (status = "5XX", description = "The node is starting, or too late.", body = Problem),
    )
)]
pub async fn set(Started(serving): Started, setting: Asked<Setting>) -> Json<Envelope> {
    let ended = async {
        let Setting { key, value } = asked(setting)?;
        if key.is_empty() {
            return Err(Failure(BAD_REQUEST, "key: give one".to_owned()));
        }
        let set = Operation::Set {
            key: Bytes::from(key),
            value: Bytes::from(value),
            expiry: Expiry::Never,
            only_if: OnlyIf::Always,
            return_old: false,
        };
        match one(&serving, set).await? {
            Answer::Failed(problem) => Err(Failure(FAILED, problem)),
            _ => Ok(Value::Null),
        }
    };
    enveloped(ended.await)
}

/// Adds a node.
#[utoipa::path(
    post, path = "/raft/api/addNode", tag = "eosc",
    request_body = NodeAndHost,
    responses(
        (status = 200, description = "What came of it.", body = Envelope),
        (status = 401, description = "The token is missing or wrong.", body = Problem),
        (status = "5XX", description = "The node is starting, or too late.", body = Problem),
    )
)]
pub async fn add_node(Started(serving): Started, node: Asked<NodeAndHost>) -> Json<Envelope> {
    let ended = async {
        let NodeAndHost { id, host } = asked(node)?;
        let newcomer = Newcomer {
            id: Some(id.number()?),
            address: host,
            voter: true,
        };
        let added = admin::add(&serving.frontend, &newcomer).await;
        added.map_err(|e| ApiError::from(e).into())
    };
    enveloped(ended.await.map(|_id| Value::Null))
}

/// Removes a node.
#[utoipa::path(
    post, path = "/raft/api/deleteNode", tag = "eosc",
    request_body = NodeAlone,
    responses(
        (status = 200, description = "What came of it.", body = Envelope),
        (status = 401, description = "The token is missing or wrong.", body = Problem),
        (status = "5XX", description = "The node is starting, or too late.", body = Problem),
    )
)]
pub async fn delete_node(Started(serving): Started, node: Asked<NodeAlone>) -> Json<Envelope> {
    let ended = async {
        let id = asked(node)?.id.number()?;
        let removed = admin::remove(&serving.frontend, &id.to_string()).await;
        removed.map_err(|e| Failure::from(ApiError::from(e)))
    };
    enveloped(ended.await.map(|()| Value::Null))
}

/// The members, by their numbers, and how many there are.
#[utoipa::path(
    get, path = "/raft/api/getPeerList", tag = "eosc",
    responses(
        (status = 200, description = "The members.", body = Envelope),
        (status = 401, description = "The token is missing or wrong.", body = Problem),
        (status = "5XX", description = "The node is starting, or too late.", body = Problem),
    )
)]
pub async fn peer_list(Started(serving): Started) -> Json<Envelope> {
    let book = serving.frontend.node().book();
    let peers = book.nodes.iter();
    let peers: BTreeMap<String, String> = peers
        .map(|node| (node.id.to_string(), client_address(node)))
        .collect();
    let count = peers.len();
    enveloped(Ok(serde_json::json!({ "peers": peers, "count": count })))
}
