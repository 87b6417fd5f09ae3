//! Reads: when they may be served.

use std::time::Duration;

use super::Peer;
use super::output::{Consistency, Outcome};
use crate::driver::log_store::LogStore;
use crate::driver::proposals::RequestId;

impl<S: LogStore> Peer<S> {
    /// Asks when something may be read; it ends in [`Output::finished`](super::Output::finished).
    pub fn read(&mut self, id: RequestId, consistency: Consistency, now: Duration) {
        self.see(now);
        let index = self.applied;
        match consistency {
            Consistency::Stale => self.finish(id, Outcome::Readable { index }),
            Consistency::Leader if self.is_leader() => self.finish(id, Outcome::Readable { index }),
            Consistency::Leader => {
                let leader = self.leader();
                self.finish(id, Outcome::NotLeader { leader });
            }
            Consistency::Lease if self.holds_lease() => {
                let committed = self.raw.raft.raft_log.committed;
                self.reads.wait_for(committed, id, self.ticks);
                self.serve_reads();
            }
            Consistency::Lease | Consistency::Linearizable => {
                self.reads.arrive(id);
                self.begin_round();
            }
        }
    }

    fn see(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Whether a lease read at `now` would be answered without asking anybody: as long as it is,
    /// nobody else is elected.
    pub fn answers_alone(&mut self, now: Duration) -> bool {
        self.see(now);
        self.holds_lease()
    }

    pub(super) fn holds_lease(&self) -> bool {
        self.is_leader()
            && self.raw.raft.commit_to_current_term()
            && self.reads.has_lease(self.now, self.raw.raft.term)
    }

    pub(super) fn begin_round(&mut self) {
        let term = self.raw.raft.term;
        if let Some(question) = self.reads.begin(self.now, term, self.ticks) {
            self.ask(question);
        }
    }

    pub(super) fn ask(&mut self, question: u64) {
        // raft drops it where there is no leader, or none that has committed yet: it is asked
        // again.
        self.raw.read_index(self.question_context(question));
    }

    pub(super) fn question_context(&self, question: u64) -> Vec<u8> {
        let parts = [self.options.id, self.options.incarnation, question];
        parts.iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    pub(super) fn confirm_reads(&mut self, index: u64, context: &[u8]) {
        let own = self.question_context(0);
        let Some((own, _)) = own.split_at_checked(16) else {
            return;
        };
        let number = context
            .strip_prefix(own)
            .and_then(|rest| rest.try_into().ok());
        let Some(number) = number.map(u64::from_be_bytes) else {
            return;
        };
        let lease = self.options.lease.filter(|_| self.is_leader());
        let term = self.raw.raft.term;
        self.reads.confirm(number, index, term, lease);
        self.serve_reads();
        self.begin_round();
    }

    pub(super) fn serve_reads(&mut self) {
        let index = self.applied;
        for id in self.reads.serve(index) {
            self.finish(id, Outcome::Readable { index });
        }
    }
}
