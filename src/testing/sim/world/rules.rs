//! The rules that are checked against several nodes, or against a node's own past.

use raft::eraftpb::{ConfState, Message, MessageType};

use super::{Step, World};
use crate::testing::sim::checks::is_quorum;
use crate::testing::sim::node::Node;
use crate::testing::sim::store::SimStore;

impl<S: SimStore> World<S> {
    /// What is committed is durable in a quorum.
    pub(super) fn check_quorum(&self, id: u64, before: &ConfState, index: u64, term: u64) -> Step {
        let has = |id: u64| {
            let log = self.nodes.get(&id).and_then(Node::log);
            let durable = log.and_then(|log| log.durable_term(index));
            durable.is_some_and(|found| found.is_none_or(|found| found == term))
        };
        let running = self.nodes.get(&id).and_then(|node| node.running.as_ref());
        let after = running.map(|running| running.peer.conf_state());
        if is_quorum(before, has) || after.is_some_and(|after| is_quorum(after, has)) {
            return Ok(());
        }
        // A leader whose own disk is behind has not come to the last change yet.
        if self
            .checks
            .last_two(index)
            .any(|of_leader| is_quorum(of_leader, has))
        {
            return Ok(());
        }
        let having: Vec<u64> = self.nodes.keys().copied().filter(|id| has(*id)).collect();
        Err((
            "what is committed is durable in a quorum",
            format!("{id} hands out {index}, durable on {having:?} of {before:?}"),
        ))
    }

    /// A learner becomes a voter when it lacks little.
    pub(super) fn check_promotion(
        &mut self,
        id: u64,
        index: u64,
        changes: &[crate::driver::Change],
        before: &ConfState,
    ) -> Step {
        let change = changes.iter().find(|change| change.index == index);
        let Some(Ok((conf_state, _))) = change.map(|change| &change.outcome) else {
            return Ok(());
        };
        let promoted = conf_state.get_voters().iter();
        let promoted: Vec<u64> = promoted
            .copied()
            .filter(|voter| before.get_learners().contains(voter))
            .collect();
        for voter in promoted {
            self.count("learner promoted");
            self.note(|| format!("node {voter} becomes a voter at {index}"));
            let log = self.nodes.get(&voter).and_then(Node::log);
            let has = index.saturating_sub(5);
            if log.and_then(|log| log.durable_term(has)).is_none() {
                return Err((
                    "who becomes a voter has caught up",
                    format!("{id} makes {voter} one at {index}, which lacks {has}"),
                ));
            }
        }
        Ok(())
    }

    /// Looks at what has changed in a node's log since the last time.
    pub(super) fn check_log(&mut self, id: u64) -> Step {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let written = &mut node.written;
        let Some(running) = node.running.as_mut() else {
            return Ok(());
        };
        let store = running.peer.store().clone();
        let raft = |e: raft::Error| ("a log can be read", format!("{id}: {e}"));
        let first = store.first_index().map_err(raft)?;
        let last = store.last_index().map_err(raft)?;
        // Where the log begins anew, behind a snapshot, what follows must follow from it.
        let joins = running.first_index != first && last >= first;
        running.first_index = first;
        if joins {
            let context = raft::GetEntriesContext::empty(false);
            let entries = store.entries(first, first + 1, None, context);
            for entry in entries.map_err(raft)? {
                let before = store.term(first - 1).ok();
                self.checks.written(id, &entry, before)?;
            }
        }
        let mut low = last + 1;
        while low > first {
            let term = store.term(low - 1).map_err(raft)?;
            if running.terms.get(&(low - 1)) == Some(&term) {
                break;
            }
            low -= 1;
        }
        running.terms.split_off(&low);
        if low > last {
            return Ok(());
        }
        let context = raft::GetEntriesContext::empty(false);
        let entries = store.entries(low, last + 1, None, context).map_err(raft)?;
        for entry in entries {
            running.terms.insert(entry.index, entry.term);
            written.insert((entry.index, entry.term));
            let before = store.term(entry.index - 1).ok();
            self.checks.written(id, &entry, before)?;
        }
        Ok(())
    }

    /// A vote counts when it is said: what was not durable by then may be forgotten.
    pub(super) fn check_vote(&mut self, message: &Message) -> Step {
        let (from, term) = (message.from, message.term);
        match message.get_msg_type() {
            MessageType::MsgRequestVote => self.checks.votes(from, term, from),
            MessageType::MsgRequestVoteResponse if !message.reject => {
                self.checks.votes(from, term, message.to)
            }
            _ => Ok(()),
        }
    }

    /// A lease keeps every other leader away, as long as a read is answered under it.
    fn check_leases(&mut self) -> Step {
        let (now, latest) = (self.now(), self.led_term);
        if !self.lease {
            return Ok(());
        }
        for node in self.nodes.values_mut() {
            let Some(running) = node.running.as_mut() else {
                continue;
            };
            if running.peer.term() < latest && running.peer.answers_alone(now) {
                let (id, term) = (node.id, running.peer.term());
                return Err((
                    "a lease keeps other leaders away",
                    format!("{id} holds one in term {term}, and {latest} has a leader"),
                ));
            }
        }
        Ok(())
    }

    /// Neither a sync nor the machine keeps the clock from ticking.
    pub(super) fn check_ticks(&self, id: u64) -> Step {
        let Some(node) = self.nodes.get(&id) else {
            return Ok(());
        };
        let Some(running) = node.running.as_ref() else {
            return Ok(());
        };
        // A pause is a fault of its own: from its end on the node has to be in time again.
        let since = running.ticked.max(node.paused_until);
        let passed = self.now.saturating_sub(since);
        if passed <= 2 * node.tick {
            return Ok(());
        }
        Err((
            "a tick comes within two intervals",
            format!("{id} has had none for {passed} of {} us", node.tick),
        ))
    }

    pub(super) fn check_role(&mut self, id: u64) -> Step {
        let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) else {
            return Ok(());
        };
        if !running.peer.is_leader() {
            return Ok(());
        }
        let status = running.peer.status();
        if running.led_term == status.term {
            return self.check_leases();
        }
        running.led_term = status.term;
        let store = running.peer.store().clone();
        self.note(|| format!("node {id} leads in term {}", status.term));
        self.checks.leads(id, status.term)?;
        self.led_term = self.led_term.max(status.term);
        self.check_leases()?;
        self.checks
            .is_complete(id, status.term, status.first_index, |index| {
                store.term(index).ok()
            })
    }
}
