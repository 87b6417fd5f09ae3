//! How the node and its cluster stand.

use axum::Json;
use raft::StateRole;
use raft_rocks::driver::{Consistency, NodeInfo, NodeStatus, Status};
use serde::Serialize;
use utoipa::ToSchema;

use super::Serving;
use super::error::{ApiError, Failures};
use super::leader::LeaderView;
use super::routes::Started;
use crate::address::{Published, client_address};
use crate::config::digits;

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
}

/// The cluster as this node sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cluster {
    /// 32 hexadecimal digits.
    cluster_id: String,
    /// Of the server.
    version: &'static str,
    node: This,
    members: Vec<Member>,
    /// Whether the leader told how far the members are.
    from_leader: bool,
}

/// The node that was asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct This {
    id: u64,
    role: Role,
    term: u64,
    /// The leader it knows.
    leader: Option<u64>,
    /// The highest index that is known to be committed.
    commit: u64,
    /// The highest index that it has applied.
    applied: u64,
    /// The first index of its log.
    first_index: u64,
    /// The last index of its log.
    last_index: u64,
    /// The index of its snapshot; 0 without one.
    snapshot_index: u64,
    /// Seconds since it serves clients.
    uptime_s: f64,
    /// It was removed from its cluster.
    removed: bool,
    /// Requests under way.
    requests: usize,
    /// Connections of Redis clients.
    connections: usize,
    /// Keys that it has.
    keys: u64,
}

/// A member of the cluster.
#[derive(Debug, Serialize, ToSchema)]
pub struct Member {
    id: u64,
    /// Where the other nodes reach it.
    address: String,
    /// Where Redis clients reach it.
    client_address: String,
    /// Where HTTP clients reach it.
    http_address: Option<String>,
    role: Role,
    /// Whether it has a vote.
    voter: bool,
    /// The last index that it is known to have.
    matched: Option<u64>,
    /// Entries that it is behind the leader.
    lag: Option<u64>,
    /// Whether the leader has heard of it lately.
    active: Option<bool>,
    /// The index of the snapshot that it is being sent, or 0.
    pending_snapshot: Option<u64>,
}

/// How the cluster stands.
#[utoipa::path(
    get, path = "/cluster", tag = "cluster",
    responses((status = 200, description = "As this node sees it.", body = Cluster), Failures)
)]
pub async fn get(Started(serving): Started) -> Result<Json<Cluster>, ApiError> {
    let node = serving.frontend.node();
    let status = node.status().await?;
    let keys = node.query(Consistency::Stale, |machine| machine.len());
    let keys = keys.await?;
    let leader = serving.leader.view(&status.raft).await;
    let raft = &status.raft;
    let members = raft.book.nodes.iter();
    let members = members.map(|node| member(node, raft, leader.as_ref()));
    Ok(Json(Cluster {
        cluster_id: digits(&node.cluster_id()),
        version: env!("CARGO_PKG_VERSION"),
        members: members.collect(),
        from_leader: leader.is_some(),
        node: this(&serving, &status, keys),
    }))
}

fn this(serving: &Serving, status: &NodeStatus, keys: u64) -> This {
    let raft = &status.raft;
    This {
        id: raft.id,
        role: own_role(raft),
        term: raft.term,
        leader: (raft.leader != 0).then_some(raft.leader),
        commit: raft.commit,
        applied: raft.applied,
        first_index: raft.first_index,
        last_index: raft.last_index,
        snapshot_index: raft.snapshot_index,
        uptime_s: serving.frontend.uptime().as_secs_f64(),
        removed: status.removed,
        requests: status.requests,
        connections: serving.clients.connections(),
        keys,
    }
}

fn member(node: &NodeInfo, status: &Status, leader: Option<&LeaderView>) -> Member {
    let progress = leader.and_then(|leader| leader.of(node.id));
    let last_index = leader.map_or(0, |leader| leader.last_index);
    Member {
        id: node.id,
        address: node.address.clone(),
        client_address: client_address(node),
        http_address: Published::of(node).http,
        role: role_of(status, node.id),
        voter: votes(status, node.id),
        matched: progress.map(|of| of.matched),
        lag: progress.map(|of| last_index.saturating_sub(of.matched)),
        active: progress.map(|of| of.active),
        pending_snapshot: progress.map(|of| of.pending_snapshot),
    }
}

fn own_role(status: &Status) -> Role {
    match status.role {
        StateRole::Leader => Role::Leader,
        StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        StateRole::Follower => role_of(status, status.id),
    }
}

/// As far as somebody else can tell.
fn role_of(status: &Status, id: u64) -> Role {
    match id {
        id if id == status.leader => Role::Leader,
        id if votes(status, id) => Role::Follower,
        _ => Role::Learner,
    }
}

fn votes(status: &Status, id: u64) -> bool {
    status.conf_state.get_voters().contains(&id)
}
