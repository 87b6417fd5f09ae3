//! Changes of the membership and of the leadership, and snapshots.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Failures};
use super::extract::{Body, Id};
use super::routes::Started;
use crate::admin::{self, Newcomer};

/// A node that is to be a member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adding {
    /// What it is to be; without, whatever the leader gives.
    id: Option<u64>,
    /// `host:port`, where the other nodes or clients reach it.
    address: String,
    /// Whether it gets a vote. Default: true.
    voter: Option<bool>,
}

/// A member.
#[derive(Debug, Serialize, ToSchema)]
pub struct Added {
    id: u64,
}

/// Who is to lead.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// A voter.
    to: u64,
}

/// A snapshot is made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Requested {
    requested: bool,
    /// The index of the last one there is, or 0.
    snapshot_index: u64,
}

/// Sees to it that a node is a member.
#[utoipa::path(
    post, path = "/cluster/members", tag = "cluster",
    request_body = Adding,
    responses((status = 200, description = "It is a member.", body = Added), Failures)
)]
pub async fn add(
    Started(serving): Started,
    Body(adding): Body<Adding>,
) -> Result<Json<Added>, ApiError> {
    let newcomer = Newcomer {
        id: adding.id,
        address: adding.address,
        voter: adding.voter.unwrap_or(true),
    };
    let id = admin::add(&serving.frontend, &newcomer).await?;
    Ok(Json(Added { id }))
}

/// Removes a member; its id is never used again.
#[utoipa::path(
    delete, path = "/cluster/members/{id}", tag = "cluster",
    params(("id" = u64, Path, description = "The member's number.")),
    responses((status = 204, description = "It is no member any more."), Failures)
)]
pub async fn remove(Started(serving): Started, Id(id): Id) -> Result<StatusCode, ApiError> {
    admin::remove(&serving.frontend, &id.to_string()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Hands leadership over.
#[utoipa::path(
    post, path = "/cluster/transfer", tag = "cluster",
    request_body = Transfer,
    responses((status = 204, description = "It leads."), Failures)
)]
pub async fn transfer(
    Started(serving): Started,
    Body(Transfer { to }): Body<Transfer>,
) -> Result<StatusCode, ApiError> {
    admin::transfer(&serving.frontend, &to.to_string()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a snapshot of this node's state, in the background.
#[utoipa::path(
    post, path = "/snapshot", tag = "node",
    responses((status = 202, description = "It is being made.", body = Requested), Failures)
)]
pub async fn snapshot(
    Started(serving): Started,
) -> Result<(StatusCode, Json<Requested>), ApiError> {
    let node = serving.frontend.node();
    let status = node.status().await?;
    node.snapshot_now();
    let requested = Requested {
        requested: true,
        snapshot_index: status.raft.snapshot_index,
    };
    Ok((StatusCode::ACCEPTED, Json(requested)))
}
