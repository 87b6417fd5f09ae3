//! Where a peer stands, and what of its log it needs.

use super::Peer;
use super::output::{PeerProgress, Status};
use crate::driver::log_store::LogStore;

impl<S: LogStore> Peer<S> {
    /// Where the log may be compacted to, when the snapshot is at `snapshot_index`: `keep` entries
    /// stay for those who lag, and what a live follower still needs, up to `keep_max`.
    pub fn compact_to(&self, snapshot_index: u64, keep: u64, keep_max: u64) -> u64 {
        let last = self.raw.raft.raft_log.last_index();
        let mut to = (snapshot_index + 1).saturating_sub(keep);
        if self.is_leader() {
            let live = self.raw.raft.prs().iter();
            let needed = live
                .filter(|(id, progress)| **id != self.options.id && progress.recent_active)
                .map(|(_, progress)| progress.matched + 1);
            to = to.min(needed.min().unwrap_or(u64::MAX));
        }
        to.max((last + 1).saturating_sub(keep_max))
            .min(snapshot_index + 1)
    }

    /// Where this node stands.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let progress = match self.is_leader() {
            true => progress_of(raft.prs()),
            false => Vec::new(),
        };
        let snapshot = self.raw.store().snapshot_metadata();
        Status {
            id: self.options.id,
            role: raft.state,
            term: raft.term,
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            applied: self.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            snapshot_index: snapshot.map_or(0, |snapshot| snapshot.index),
            proposals: self.proposals.len(),
            reads: self.reads.len(),
            conf_state: self.conf_state.clone(),
            book: self.book.clone(),
            progress,
        }
    }
}

fn progress_of(tracker: &raft::ProgressTracker) -> Vec<PeerProgress> {
    let mut all: Vec<_> = tracker
        .iter()
        .map(|(id, progress)| PeerProgress {
            id: *id,
            matched: progress.matched,
            next_index: progress.next_idx,
            recent_active: progress.recent_active,
            pending_snapshot: progress.pending_snapshot,
        })
        .collect();
    all.sort_unstable_by_key(|progress| progress.id);
    all
}
