//! Whether it lives, and whether clients should be sent to it.

use axum::extract;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};

use super::{Serving, State};

/// Entries that a node may be behind.
const BEHIND_MAX: u64 = 1_000;

/// It runs.
#[utoipa::path(
    get, path = "/livez", tag = "node",
    responses((status = 200, description = "It runs.", content_type = "text/plain", body = String))
)]
pub async fn livez() -> &'static str {
    "ok"
}

/// Whether it serves clients, and if not, why.
#[utoipa::path(
    get, path = "/readyz", tag = "node",
    responses(
        (status = 200, description = "It serves.", content_type = "text/plain", body = String),
        (status = 503, description = "Why not.", content_type = "text/plain", body = String),
    )
)]
pub async fn readyz(extract::State(state): extract::State<State>) -> Response {
    let problem = match state.place.get() {
        None => Some(state.starting().to_owned()),
        Some(serving) => problem(serving).await,
    };
    match problem {
        None => "ok".into_response(),
        Some(problem) => {
            let after = [(RETRY_AFTER, "1")];
            (StatusCode::SERVICE_UNAVAILABLE, after, problem).into_response()
        }
    }
}

async fn problem(serving: &Serving) -> Option<String> {
    let node = serving.frontend.node();
    let stopped = node.watch_stopped().borrow().clone();
    if let Some(cause) = stopped {
        return Some(format!("stopped: {cause}"));
    }
    let status = match node.status().await {
        Ok(status) => status,
        Err(e) => return Some(e.to_string()),
    };
    let raft = &status.raft;
    if status.removed {
        return Some("removed: the node is no longer a member of its cluster".to_owned());
    }
    if raft.leader == 0 {
        return Some("no leader known".to_owned());
    }
    if raft.applied + 1 < raft.first_index {
        return Some(format!(
            "restoring a snapshot, at index {}",
            raft.first_index - 1
        ));
    }
    let leader = serving.leader.view(raft).await.unwrap_or_default();
    let pending = leader.of(raft.id).map_or(0, |own| own.pending_snapshot);
    if pending != 0 {
        return Some(format!("restoring a snapshot, at index {pending}"));
    }
    let behind = leader.commit.max(raft.commit).saturating_sub(raft.applied);
    (behind > BEHIND_MAX).then(|| format!("behind the leader by {behind} entries"))
}
