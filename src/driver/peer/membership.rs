//! Changes of the configuration: proposed, and followed when they are committed.

use prost::Message as _;
use raft::ProgressState;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
};

use super::Peer;
use super::output::Outcome;
use crate::driver::book::{self, Book, ChangeContext, NodeInfo, Refusal};
use crate::driver::error::{Error, Result};
use crate::driver::log_store::LogStore;
use crate::driver::proposals::RequestId;

impl<S: LogStore> Peer<S> {
    /// Proposes a change of the configuration; `nodes` says where those that it adds are reached.
    /// It ends in [`Output::finished`](super::Output::finished).
    pub fn propose_change(&mut self, id: RequestId, change: &ConfChangeV2, nodes: Vec<NodeInfo>) {
        if !self.is_leader() {
            let leader = self.leader();
            return self.finish(id, Outcome::NotLeader { leader });
        }
        if let Err(refusal) = self.book.check(change, &nodes) {
            return self.finish(id, Outcome::Refused(refusal));
        }
        if !self.raw.raft.apply_to_current_term() {
            // It has just been elected: changes before its time may be under way.
            return self.finish(id, Outcome::Dropped);
        }
        // raft would put an empty entry in the place of the change, and say nothing.
        if self.raw.raft.has_pending_conf() {
            return self.finish(id, Outcome::ChangeUnderWay);
        }
        let leaving = !self.conf_state.get_voters_outgoing().is_empty();
        if leaving != change.get_changes().is_empty() {
            return self.finish(id, Outcome::ChangeUnderWay);
        }
        let context = ChangeContext { nodes }.encode_to_vec();
        match self.raw.propose_conf_change(context, change.clone()) {
            Ok(()) => self.proposed(id),
            Err(_) => self.finish(id, Outcome::Dropped),
        }
    }

    pub(super) fn change(
        &mut self,
        change: &ConfChangeV2,
        told: Vec<NodeInfo>,
    ) -> std::result::Result<(ConfState, Book), Refusal> {
        self.book.check(change, &told)?;
        let conf_state = self
            .raw
            .apply_conf_change(change)
            .map_err(|e| Refusal::Raft(e.to_string()))?;
        self.book.follow(&conf_state, told);
        let id = self.options.id;
        self.out.removed |=
            book::contains(&self.conf_state, id) && !book::contains(&conf_state, id);
        let votes = [conf_state.get_voters(), conf_state.get_voters_outgoing()];
        if !votes.iter().any(|voters| voters.contains(&id)) {
            self.step_down();
        }
        self.conf_state = conf_state.clone();
        Ok((conf_state, self.book.clone()))
    }

    /// A leader that has committed its own removal, or that it becomes a learner. raft-rs would
    /// let it go on: it panics at the next acknowledgement (`Raft::maybe_commit` looks for the
    /// leader's own progress), and a learner that leads a single voter answers reads alone.
    pub(super) fn step_down(&mut self) {
        if self.is_leader() {
            // The others learn that the removal is committed, so that they need not ask.
            self.raw.ping();
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    pub(super) fn promote_who_has_caught_up(&mut self) {
        let raft = &self.raw.raft;
        if raft.has_pending_conf()
            || !raft.apply_to_current_term()
            || raft.lead_transferee.is_some()
        {
            return;
        }
        let last = raft.raft_log.last_index();
        let lag_max = self.options.promote_lag_max;
        let caught_up = self.book.nodes.iter().find(|node| {
            let progress = raft.prs().get(node.id);
            // One that has everything stays in raft's probing state until there is more.
            let close = progress.is_some_and(|progress| {
                let follows = progress.state == ProgressState::Replicate;
                let lag_max = if follows { lag_max } else { 0 };
                progress.recent_active && progress.matched + lag_max >= last
            });
            node.promote && close && self.conf_state.get_learners().contains(&node.id)
        });
        let Some(id) = caught_up.map(|node| node.id) else {
            return;
        };
        let change = single_change(ConfChangeType::AddNode, id);
        // Where it is refused or lost, it is tried again.
        let _ = self
            .raw
            .propose_conf_change(ChangeContext::default().encode_to_vec(), change);
    }
}

/// A change of one node.
pub fn single_change(kind: ConfChangeType, id: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = id;
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
}

/// The change that an entry holds, and what it tells of its nodes.
pub(in crate::driver) fn decode_change(
    entry: &Entry,
) -> Result<Option<(ConfChangeV2, Vec<NodeInfo>)>> {
    let what = "a configuration change in the log";
    let format = |e: protobuf::ProtobufError| Error::format(what, e);
    let change = match entry.get_entry_type() {
        EntryType::EntryNormal => return Ok(None),
        EntryType::EntryConfChange => {
            let mut change = ConfChange::default();
            protobuf::Message::merge_from_bytes(&mut change, &entry.data).map_err(format)?;
            single_change(change.get_change_type(), change.node_id)
        }
        EntryType::EntryConfChangeV2 => {
            let mut change = ConfChangeV2::default();
            protobuf::Message::merge_from_bytes(&mut change, &entry.data).map_err(format)?;
            change
        }
    };
    let told = ChangeContext::decode(&entry.context[..]).map_err(|e| Error::format(what, e))?;
    Ok(Some((change, told.nodes)))
}
