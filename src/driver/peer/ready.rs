//! The order of a Ready.

use std::sync::Arc;

use raft::eraftpb::{Entry, Message, MessageType, SnapshotMetadata};
use raft::{Ready, SnapshotStatus};

use super::Peer;
use super::membership::decode_change;
use super::output::FaultPoint;
use crate::driver::applier::{self, Change, Committed};
use crate::driver::book;
use crate::driver::error::{Error, Result};
use crate::driver::log_store::LogStore;

/// A Ready that is submitted.
pub(super) struct Unpersisted {
    pub(super) number: u64,
    /// Of its entries.
    pub(super) bytes: u64,
    /// It is durable, or needs no sync; those before it may not be.
    pub(super) settled: bool,
    pub(super) messages: Vec<Message>,
    /// Of the hard state it held, or 0.
    pub(super) term: u64,
    /// Of the snapshot it held; index 0: none.
    pub(super) snapshot: SnapshotMetadata,
}

impl<S: LogStore> Peer<S> {
    pub(super) fn handle_readies(&mut self) -> Result<()> {
        self.check_usable()?;
        loop {
            self.release()?;
            if !self.raw.has_ready() {
                return Ok(());
            }
            self.handle_ready()?;
        }
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        match self.failed {
            true => Err(Error::Store(crate::Error::Poisoned {
                cause: "an earlier step of this node failed".into(),
            })),
            false => Ok(()),
        }
    }

    pub(super) fn handle_ready(&mut self) -> Result<()> {
        let mut ready = self.raw.ready();
        self.fault(FaultPoint::BeforePersist)?;
        let mut messages = ready.take_messages();
        let mut held = ready.take_persisted_messages();
        if self.raw.raft.term > self.durable_term {
            held.append(&mut messages);
        }
        let read_states = ready.take_read_states();
        let committed = ready.take_committed_entries();
        self.submit(&ready, held)?;
        self.fault(FaultPoint::AfterSubmit)?;
        self.raw.advance_append_async(ready);
        // Only from here on raft may be changed.
        self.send(messages);
        for state in read_states {
            self.confirm_reads(state.index, &state.request_ctx);
        }
        self.hand_out(committed)?;
        self.fault(FaultPoint::AfterCommitted)
    }

    pub(super) fn submit(&mut self, ready: &Ready, messages: Vec<Message>) -> Result<()> {
        let number = ready.number();
        let snapshot = ready.snapshot().get_metadata().clone();
        let staged = self.staged.take_if(|(index, _)| *index == snapshot.index);
        let staged = staged.map(|(_, staged)| staged);
        let is_empty =
            ready.hs().is_none() && ready.entries().is_empty() && ready.snapshot().is_empty();
        if !is_empty {
            let on_persisted = Arc::clone(&self.on_persisted);
            let on_durable = Box::new(move |result| on_persisted(number, result));
            self.store().submit_ready(ready, staged, on_durable)?;
        }
        let bytes = ready
            .entries()
            .iter()
            .map(|entry| entry.data.len() + entry.context.len());
        self.unpersisted.push_back(Unpersisted {
            number,
            bytes: bytes.sum::<usize>() as u64,
            settled: !ready.must_sync(),
            messages,
            term: ready.hs().map_or(0, |hard_state| hard_state.term),
            snapshot,
        });
        Ok(())
    }

    /// Lets go what waited for a Ready that is durable by now, with all before it.
    pub(super) fn release(&mut self) -> Result<()> {
        while let Some(ready) = self.unpersisted.pop_front_if(|ready| ready.settled) {
            self.fault(FaultPoint::BeforePersistedMessages)?;
            self.durable_term = self.durable_term.max(ready.term);
            self.raw.on_persist_ready(ready.number);
            self.send(ready.messages);
            if ready.snapshot.index != 0 {
                self.follow_snapshot(&ready.snapshot)?;
            }
        }
        Ok(())
    }

    /// A snapshot is stored: from here on its configuration and its book are in force. What is
    /// committed behind it is handed out only later.
    pub(super) fn follow_snapshot(&mut self, metadata: &SnapshotMetadata) -> Result<()> {
        self.raw.advance_apply_to(metadata.index);
        self.conf_state = metadata.get_conf_state().clone();
        if let Some((_, mut reader)) = self.store().open_snapshot()? {
            self.book = applier::read_header(&mut reader)?.book.unwrap_or_default();
        }
        self.out.restore = true;
        Ok(())
    }

    pub(super) fn send(&mut self, messages: Vec<Message>) {
        let mut unusable = Vec::new();
        for message in messages {
            if message.get_msg_type() != MessageType::MsgSnapshot {
                self.out.messages.push(message);
                continue;
            }
            let conf_state = message.get_snapshot().get_metadata().get_conf_state();
            if book::contains(conf_state, message.to) {
                self.out.snapshots.push(message);
            } else {
                // The receiver would ignore it: it is older than its membership.
                self.out.snapshot_wanted = true;
                unusable.push(message.to);
            }
        }
        for to in unusable {
            self.raw.report_snapshot(to, SnapshotStatus::Failure);
        }
    }

    pub(super) fn hand_out(&mut self, entries: Vec<Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut changes = Vec::new();
        for entry in &entries {
            if let Some((change, told)) = decode_change(entry)? {
                let outcome = self.change(&change, told);
                let index = entry.index;
                changes.push(Change { index, outcome });
            }
        }
        // For raft an entry counts as applied when raft has learned of the change in it; when the
        // machine comes to it is not its concern.
        if let Some(last) = entries.last() {
            self.raw.advance_apply_to(last.index);
        }
        self.out.committed.push(Committed { entries, changes });
        Ok(())
    }

    pub(super) fn fault(&mut self, point: FaultPoint) -> Result<()> {
        let stops = self.fault_hook.as_mut().is_some_and(|hook| hook(point));
        match stops {
            true => Err(Error::Stopped(point)),
            false => Ok(()),
        }
    }
}
