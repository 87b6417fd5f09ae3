//! What a node does after every event: its outputs, and what it has to do of itself.

use std::io::Read;

use raft::eraftpb::{ConfState, Message, MessageType};

use super::{Event, Step, World, io, unexplained};
use crate::driver::Output;
use crate::testing::sim::network::MILLISECOND;
use crate::testing::sim::node::{LONG_APPLY, LONG_SYNC, Node, ToApply};
use crate::testing::sim::store::SimStore;

impl<S: SimStore> World<S> {
    /// What every event on a node ends with: the node's outputs, and the rules.
    pub(super) fn after(&mut self, id: u64) -> Step {
        loop {
            let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) else {
                return Ok(());
            };
            let before = running.peer.conf_state().clone();
            let reports: Vec<_> = running.persisted.lock().drain(..).collect();
            let none = reports.is_empty();
            let mut outcome = Ok(());
            for (number, result) in reports {
                outcome = outcome.and_then(|()| running.peer.on_persisted(number, result));
            }
            let output = match outcome.and_then(|()| running.peer.drain()) {
                Ok(output) => output,
                Err(e) => return self.stopped(id, e),
            };
            self.check_log(id)?;
            self.carry_out(id, output, &before)?;
            self.check_role(id)?;
            self.check_ticks(id)?;
            self.go_on(id);
            if none {
                return Ok(());
            }
        }
    }

    /// Schedules what a node has to do of itself.
    fn go_on(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let start = node.start;
        let (slow_disk, slow_machine) = (
            node.slow_disk_until > self.now,
            node.slow_machine_until > self.now,
        );
        let Some(running) = node.running.as_mut() else {
            return;
        };
        let syncs = !running.is_syncing && running.peer.store().unsynced() > 0;
        let applies = !running.is_applying && !running.to_apply.is_empty();
        running.is_syncing |= syncs;
        running.is_applying |= applies;
        let long_sync = syncs && std::mem::take(&mut node.long_sync);
        let long_apply = applies && std::mem::take(&mut node.long_apply);
        if syncs {
            let takes = self.rng.u64(200..5 * MILLISECOND);
            let took = match long_sync {
                true => LONG_SYNC,
                false => takes * if slow_disk { 100 } else { 1 },
            };
            let event = Event::Sync {
                node: id,
                start,
                took,
            };
            self.schedule(self.now + took, event);
        }
        if applies {
            let takes = self.rng.u64(10..MILLISECOND);
            let took = match long_apply {
                true => LONG_APPLY,
                false => takes * if slow_machine { 500 } else { 1 },
            };
            let event = Event::Apply {
                node: id,
                start,
                took,
            };
            self.schedule(self.now + took, event);
        }
    }

    fn carry_out(&mut self, id: u64, output: Output, before: &ConfState) -> Step {
        for message in output.messages {
            self.send(message)?;
        }
        for message in output.snapshots {
            self.stream(message)?;
        }
        if output.restore
            && let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut())
        {
            running.to_apply.push_back(ToApply::Restore);
        }
        let term = self.status(id).map_or(0, |status| status.term);
        for committed in output.committed {
            for entry in &committed.entries {
                if self.checks.commits(id, entry, term)? {
                    self.check_quorum(id, before, entry.index, entry.term)?;
                    self.check_promotion(id, entry.index, &committed.changes, before)?;
                }
            }
            for change in &committed.changes {
                if let Ok((conf_state, _)) = &change.outcome {
                    self.checks.changes(id, change.index, conf_state)?;
                }
            }
            if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
                running.to_apply.push_back(ToApply::Committed(committed));
            }
        }
        for finished in output.finished {
            self.finish(id, finished)?;
        }
        if output.snapshot_wanted {
            self.make_snapshot(id)?;
        }
        if output.removed
            && let Some(node) = self.nodes.get_mut(&id)
        {
            node.removed = true;
            self.note(|| format!("node {id} has left"));
        }
        Ok(())
    }

    fn send(&mut self, message: Message) -> Step {
        self.check_vote(&message)?;
        let voted =
            message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject;
        if voted && !self.calm && self.rng.u32(0..8) == 0 {
            // What it has said it must know afterwards.
            self.count("crash after a vote");
            let at = self.now + self.rng.u64(0..3 * MILLISECOND);
            let (node, start) = (message.from, self.start_of(message.from));
            self.schedule(at, Event::Crash { node, start });
        }
        let fate = self.network.send(&mut self.rng, self.now, &message);
        for what in fate.counted {
            self.count(what);
        }
        for at in fate.arrivals {
            self.schedule(at, Event::Deliver(Box::new(message.clone())));
        }
        Ok(())
    }

    /// The data of a snapshot is read when it is sent, and may break off on its way.
    fn stream(&mut self, message: Message) -> Step {
        let (from, to) = (message.from, message.to);
        let index = message.get_snapshot().get_metadata().index;
        let mut data = Vec::new();
        let mut found = 0;
        if let Some(store) = self.nodes.get(&from).and_then(Node::log) {
            let opened = store
                .open_snapshot()
                .map_err(|e| unexplained(from)(e.into()))?;
            if let Some((at, mut reader)) = opened {
                found = at;
                reader.read_to_end(&mut data).map_err(io(from))?;
            }
        }
        let lost = self.network.is_cut(from, to) || self.rng.u32(0..10) == 0;
        let broken = lost || found != index;
        let at = self.now + self.rng.u64(MILLISECOND..100 * MILLISECOND);
        self.note(|| format!("snapshot {index} from {from} to {to}, broken off: {broken}"));
        self.schedule(
            at,
            Event::DeliverSnapshot {
                message: Box::new(message),
                data,
                broken,
            },
        );
        Ok(())
    }
}
