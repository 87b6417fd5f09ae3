//! One group as it should be: a list of entries and a few fields, with the refusals of the
//! store written out plainly.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

use crate::Error;

/// Why the model refuses an operation; the store must answer the error of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Gap,
    Compacted,
    Unavailable,
    InvalidBatch,
    SnapshotOutOfDate,
    CompactUnsafe,
    AlreadyInitialized,
    GroupDestroyed,
}

impl Refusal {
    /// The refusal that an error of the store stands for; `None` for failures.
    pub(super) fn of(error: &Error) -> Option<Refusal> {
        match error {
            Error::Gap { .. } => Some(Refusal::Gap),
            Error::Compacted { .. } => Some(Refusal::Compacted),
            Error::Unavailable { .. } => Some(Refusal::Unavailable),
            Error::InvalidBatch { .. } => Some(Refusal::InvalidBatch),
            Error::SnapshotOutOfDate { .. } => Some(Refusal::SnapshotOutOfDate),
            Error::CompactUnsafe { .. } => Some(Refusal::CompactUnsafe),
            Error::AlreadyInitialized { .. } => Some(Refusal::AlreadyInitialized),
            Error::GroupDestroyed { .. } => Some(Refusal::GroupDestroyed),
            _ => None,
        }
    }
}

pub(super) type Outcome = Result<(), Refusal>;

/// What one write holds, in the order in which the parts take effect.
#[derive(Clone, Debug, Default)]
pub(super) struct Write {
    pub snapshot: Option<Snapshot>,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    pub commit: Option<u64>,
    pub conf_state: Option<(ConfState, u64)>,
    pub applied: Option<u64>,
}

/// What a group should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Group {
    /// Whether anything was ever written, so that a reopened store knows the group.
    pub exists: bool,
    /// The index and term before the first entry.
    pub truncated: (u64, u64),
    pub entries: Vec<Entry>,
    pub hard_state: HardState,
    pub conf_state: ConfState,
    pub applied: u64,
    pub snapshot: Option<Snapshot>,
    /// Forgotten when the store is closed.
    pub has_producer: bool,
}

impl Group {
    pub(super) fn first_index(&self) -> u64 {
        self.truncated.0 + 1
    }

    pub(super) fn last_index(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    pub(super) fn commit(&self) -> u64 {
        self.hard_state.commit
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.get_metadata().index)
    }

    /// The entries in `[low, high)`, as far as there are any.
    pub(super) fn entries(&self, low: u64, high: u64) -> Vec<Entry> {
        let within = |entry: &&Entry| (low..high).contains(&entry.index);
        self.entries.iter().filter(within).cloned().collect()
    }

    pub(super) fn term(&self, index: u64) -> Result<u64, Refusal> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(Refusal::Compacted);
        }
        let found = self.entries.iter().find(|entry| entry.index == index);
        found.map(|entry| entry.term).ok_or(Refusal::Unavailable)
    }

    /// Runs a change on a copy and keeps it only when it is accepted.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Group) -> Outcome) -> Outcome {
        let mut draft = self.clone();
        change(&mut draft)?;
        if draft.last_index() < draft.commit() {
            return Err(Refusal::InvalidBatch);
        }
        draft.exists |= draft != *self;
        *self = draft;
        Ok(())
    }

    pub(super) fn install(&mut self, snapshot: &Snapshot) -> Outcome {
        let metadata = snapshot.get_metadata();
        if metadata.index == 0 || metadata.index == u64::MAX || metadata.term == 0 {
            return Err(Refusal::InvalidBatch);
        }
        if metadata.index < self.commit() {
            return Err(Refusal::SnapshotOutOfDate);
        }
        self.entries.clear();
        self.truncated = (metadata.index, metadata.term);
        if metadata.term > self.hard_state.term {
            self.hard_state.term = metadata.term;
            self.hard_state.vote = 0;
        }
        self.hard_state.commit = metadata.index;
        self.applied = metadata.index;
        self.conf_state = metadata.get_conf_state().clone();
        self.snapshot = Some(snapshot.clone());
        Ok(())
    }

    pub(super) fn append(&mut self, entries: &[Entry]) -> Outcome {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        if first.index < self.first_index() {
            return Err(Refusal::Compacted);
        }
        if first.index > self.last_index() + 1 {
            return Err(Refusal::Gap);
        }
        for entry in entries.iter().take_while(|e| e.index <= self.commit()) {
            if self.term(entry.index) != Ok(entry.term) {
                return Err(Refusal::InvalidBatch);
            }
        }
        self.entries.retain(|entry| entry.index < first.index);
        for entry in entries {
            if entry.index != self.last_index() + 1 {
                return Err(Refusal::Gap);
            }
            let term_before = self.term(self.last_index())?;
            if entry.term == 0 || entry.term < term_before {
                return Err(Refusal::InvalidBatch);
            }
            self.entries.push(entry.clone());
        }
        Ok(())
    }

    pub(super) fn set_hard_state(&mut self, new: &HardState) -> Outcome {
        let old = &self.hard_state;
        let second_vote = new.term == old.term && old.vote != 0 && new.vote != old.vote;
        if new.term < old.term || second_vote {
            return Err(Refusal::InvalidBatch);
        }
        self.hard_state.term = new.term;
        self.hard_state.vote = new.vote;
        self.set_commit(new.commit)
    }

    pub(super) fn set_commit(&mut self, commit: u64) -> Outcome {
        if commit > self.last_index() {
            return Err(Refusal::Unavailable);
        }
        self.hard_state.commit = commit.max(self.hard_state.commit);
        Ok(())
    }

    pub(super) fn set_applied(&mut self, applied: u64) -> Outcome {
        if applied < self.applied {
            return Err(Refusal::InvalidBatch);
        }
        self.set_commit(applied)?;
        self.applied = applied;
        Ok(())
    }

    pub(super) fn set_conf_state(&mut self, conf_state: &ConfState, applied: u64) -> Outcome {
        self.set_applied(applied)?;
        self.conf_state = conf_state.clone();
        Ok(())
    }

    /// All parts, or none.
    pub(super) fn write(&mut self, write: &Write) -> Outcome {
        if let Some(snapshot) = &write.snapshot {
            self.install(snapshot)?;
        }
        self.append(&write.entries)?;
        if let Some(hard_state) = &write.hard_state {
            self.set_hard_state(hard_state)?;
        }
        if let Some(commit) = write.commit {
            self.set_commit(commit)?;
        }
        if let Some((conf_state, applied)) = &write.conf_state {
            self.set_conf_state(conf_state, *applied)?;
        }
        if let Some(applied) = write.applied {
            self.set_applied(applied)?;
        }
        Ok(())
    }

    pub(super) fn create_snapshot(&mut self, snapshot: &Snapshot) -> Outcome {
        let metadata = snapshot.get_metadata();
        if metadata.index < self.snapshot_index().max(1) {
            return Err(Refusal::SnapshotOutOfDate);
        }
        if self.term(metadata.index)? != metadata.term {
            return Err(Refusal::InvalidBatch);
        }
        if metadata.index > self.applied {
            self.set_conf_state(metadata.get_conf_state(), metadata.index)?;
        }
        self.snapshot = Some(snapshot.clone());
        Ok(())
    }

    pub(super) fn compact(&mut self, to: u64) -> Outcome {
        if to <= self.first_index() {
            return Ok(());
        }
        let truncated = to - 1;
        let covered = self.has_producer || truncated <= self.snapshot_index();
        if truncated > self.applied || !covered {
            return Err(Refusal::CompactUnsafe);
        }
        self.truncated = (truncated, self.term(truncated)?);
        self.entries.retain(|entry| entry.index >= to);
        Ok(())
    }

    pub(super) fn initialize(&mut self, conf_state: &ConfState) -> Outcome {
        if self.conf_state != ConfState::default() || self.last_index() != 0 {
            return Err(Refusal::AlreadyInitialized);
        }
        self.conf_state = conf_state.clone();
        Ok(())
    }
}
