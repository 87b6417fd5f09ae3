//! Whether it lives, and whether clients should be sent to it.

use axum::extract;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use raft_rocks::driver::Status;

use super::leader::LeaderView;
use super::{Serving, State};

/// Entries that a node may be behind.
const BEHIND_MAX: u64 = 1_000;

/// It runs.
#[utoipa::path(
    get, path = "/livez", tag = "node", security(()),
    responses((status = 200, description = "It runs.", content_type = "text/plain", body = String))
)]
pub async fn livez() -> &'static str {
    "ok"
}

/// Whether it serves clients, and if not, why.
#[utoipa::path(
    get, path = "/readyz", tag = "node", security(()),
    responses(
        (status = 200, description = "It serves.", content_type = "text/plain", body = String),
        (status = 503, description = "Why not.", content_type = "text/plain", body = String),
    )
)]
pub async fn readyz(extract::State(state): extract::State<State>) -> Response {
    let problem = match state.place.get() {
        None => Some(state.place.starting().to_owned()),
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
    let leader = serving.leader.view(raft).await.unwrap_or_default();
    behind(raft, &leader)
}

/// Whether it knows enough to serve.
fn behind(raft: &Status, leader: &LeaderView) -> Option<String> {
    if raft.leader == 0 {
        return Some("no leader known".to_owned());
    }
    // Of what is older than its log it has a snapshot alone.
    let stored = raft.first_index.saturating_sub(1);
    if raft.applied < stored {
        return Some(format!("restoring a snapshot, at index {stored}"));
    }
    let pending = leader.of(raft.id).map_or(0, |own| own.pending_snapshot);
    if pending > raft.applied {
        return Some(format!("restoring a snapshot, at index {pending}"));
    }
    let entries = leader.commit.max(raft.commit).saturating_sub(raft.applied);
    (entries > BEHIND_MAX).then(|| format!("behind the leader by {entries} entries"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop")]

    use raft::StateRole;
    use raft::eraftpb::ConfState;
    use raft_rocks::driver::Book;

    use super::super::leader::Progress;
    use super::*;

    /// A follower that has everything up to here.
    fn follower(applied: u64) -> Status {
        Status {
            id: 2,
            role: StateRole::Follower,
            term: 1,
            leader: 1,
            commit: applied,
            applied,
            first_index: 1,
            last_index: applied,
            snapshot_index: 0,
            proposals: 0,
            reads: 0,
            conf_state: ConfState::from((vec![1, 2], vec![])),
            book: Book::default(),
            progress: Vec::new(),
        }
    }

    fn leader(commit: u64, pending_snapshot: u64) -> LeaderView {
        let progress = Progress {
            id: 2,
            matched: 0,
            active: true,
            pending_snapshot,
        };
        LeaderView {
            commit,
            last_index: commit,
            progress: vec![progress],
        }
    }

    #[test]
    fn who_is_a_little_behind_serves() {
        assert_eq!(behind(&follower(100), &leader(1_100, 0)), None);
        // The leader did not answer.
        assert_eq!(behind(&follower(100), &LeaderView::default()), None);
        // It has it, and the leader does not know yet.
        assert_eq!(behind(&follower(100), &leader(100, 90)), None);
    }

    #[test]
    fn who_lacks_much_says_how_much() {
        let reason = behind(&follower(100), &leader(1_101, 0));
        assert_eq!(reason.unwrap(), "behind the leader by 1001 entries");
        let mut slow = follower(100);
        slow.commit = 2_000;
        let reason = behind(&slow, &LeaderView::default());
        assert_eq!(reason.unwrap(), "behind the leader by 1900 entries");
        let reason = behind(&follower(100), &leader(500, 400));
        assert_eq!(reason.unwrap(), "restoring a snapshot, at index 400");
        let mut stored = follower(100);
        stored.first_index = 301;
        let reason = behind(&stored, &leader(500, 0));
        assert_eq!(reason.unwrap(), "restoring a snapshot, at index 300");
        let mut lost = follower(100);
        lost.leader = 0;
        let reason = behind(&lost, &LeaderView::default());
        assert_eq!(reason.unwrap(), "no leader known");
    }
}
