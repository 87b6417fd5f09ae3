//! A seeded sequence of writes to one group and the state after each: the same in a process
//! that is killed and in the one that checks what it left.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: each test uses some of them, and a failure may stop it"
)]

use std::io::Read;

use raft::eraftpb::{Entry, HardState, Snapshot};
use raft_rocks::{RaftMachineStorage, Result};

use super::{conf_state, entry, hard_state, snapshot};

const FILL: u8 = 7;
/// Larger than a record holds: it gets a file.
const FILE_LEN: usize = 100_000;

/// What a group should hold after a number of writes.
#[derive(Clone, PartialEq, Debug)]
pub struct Expected {
    pub first: u64,
    pub entries: Vec<Entry>,
    pub hard_state: HardState,
    pub applied: u64,
    /// Index and length of the snapshot; zeros without one.
    pub snapshot: (u64, usize),
}

#[derive(Clone)]
pub struct Workload {
    random: fastrand::Rng,
    pub expected: Expected,
    pub snapshot_files: bool,
}

pub enum Op {
    Ready(Vec<Entry>, HardState),
    Vote(HardState),
    Applied(u64),
    Snapshot(u64, usize),
    Install(u64, u64, usize),
    Compact(u64),
}

impl Op {
    /// Whether `FsyncPolicy::Always` syncs it: a commit or applied index that moves alone, and
    /// a compaction, can be learnt or done again.
    pub fn is_synced(&self) -> bool {
        !matches!(self, Op::Applied(_) | Op::Compact(_))
    }

    /// Whether it may be synced under every policy, and everything before it: where a snapshot
    /// has a file, or had one.
    pub fn concerns_snapshots(&self) -> bool {
        matches!(self, Op::Snapshot(..) | Op::Install(..))
    }

    /// Performs it without waiting for the disk where that is possible: the others return when
    /// they are acknowledged, and tell it all the same.
    pub fn submit(
        &self,
        storage: &RaftMachineStorage,
        on_durable: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        let batch = storage.batch();
        match self {
            Op::Ready(entries, state) => {
                batch.entries(entries).hard_state(state).submit(on_durable)
            }
            Op::Vote(state) => batch.hard_state(state).submit(on_durable),
            Op::Applied(index) if index % 2 == 0 => batch.applied(*index).submit(on_durable),
            Op::Applied(index) => {
                batch.applied(*index).write_unsynced()?;
                // Acknowledged in its place.
                storage.batch().submit(on_durable)
            }
            Op::Install(index, term, len) => batch
                .snapshot(&installed(*index, *term, *len))
                .submit(on_durable),
            Op::Snapshot(..) | Op::Compact(_) => {
                self.perform(storage)?;
                on_durable(Ok(()));
                Ok(())
            }
        }
    }

    pub fn perform(&self, storage: &RaftMachineStorage) -> Result<()> {
        match self {
            Op::Ready(entries, state) => storage.batch().entries(entries).hard_state(state).write(),
            Op::Vote(state) => storage.set_hard_state(state),
            // Either way it may be lost, and nothing before it may.
            Op::Applied(index) if index % 2 == 0 => storage.set_applied(*index),
            Op::Applied(index) => storage.batch().applied(*index).write_unsynced(),
            Op::Snapshot(index, len) => {
                storage.create_snapshot(*index, &conf_state(&[1, 2, 3]), &vec![FILL; *len])
            }
            Op::Install(index, term, len) => {
                storage.apply_snapshot(&installed(*index, *term, *len))
            }
            Op::Compact(to) => storage.compact(*to),
        }
    }
}

impl Workload {
    /// `snapshot_files`: whether some snapshots are so large that they get a file, which is
    /// synced under every policy.
    pub fn new(seed: u64, snapshot_files: bool) -> Self {
        let expected = Expected {
            first: 1,
            entries: Vec::new(),
            hard_state: HardState::default(),
            applied: 0,
            snapshot: (0, 0),
        };
        Workload {
            random: fastrand::Rng::with_seed(seed),
            expected,
            snapshot_files,
        }
    }

    /// After `done` writes.
    pub fn after(seed: u64, snapshot_files: bool, done: u64) -> Self {
        let mut workload = Workload::new(seed, snapshot_files);
        (0..done).for_each(|_| drop(workload.next()));
        workload
    }

    pub fn next(&mut self) -> Op {
        let commit = self.expected.hard_state.commit;
        let op = match self.random.u8(..20) {
            0..2 if commit > self.expected.applied => Op::Applied(commit),
            2..4 if self.expected.applied > self.expected.snapshot.0 => {
                Op::Snapshot(self.expected.applied, self.snapshot_len())
            }
            4..6 if self.expected.snapshot.0 >= self.expected.first => {
                Op::Compact(self.expected.snapshot.0 + 1)
            }
            6 if commit > 0 => {
                let index = self.expected.last() + self.random.u64(1..100);
                Op::Install(index, self.expected.hard_state.term, self.snapshot_len())
            }
            7..10 => Op::Vote(in_term(self.expected.hard_state.term + 1, commit)),
            _ => self.next_ready(),
        };
        self.expect(&op);
        op
    }

    /// A vote in the next term, and nothing else: as small as writes get.
    pub fn vote(&mut self) -> Op {
        let state = &self.expected.hard_state;
        let op = Op::Vote(in_term(state.term + 1, state.commit));
        self.expect(&op);
        op
    }

    fn snapshot_len(&mut self) -> usize {
        if self.random.bool() && self.snapshot_files {
            FILE_LEN
        } else {
            10
        }
    }

    /// Entries behind the log, or in place of an uncommitted tail of it by a new leader; the
    /// hard state that goes with them.
    fn next_ready(&mut self) -> Op {
        let (commit, last) = (self.expected.hard_state.commit, self.expected.last());
        let mut term = self.expected.hard_state.term.max(1);
        let mut from = last + 1;
        if self.random.u8(..4) == 0 {
            term += 1;
            from = self.random.u64(commit + 1..=last + 1);
        }
        let count = self.random.u64(1..8);
        let entries: Vec<Entry> = (from..from + count)
            .map(|index| {
                let len = self.random.usize(..2000);
                let data: Vec<u8> = std::iter::repeat_with(|| self.random.u8(..))
                    .take(len)
                    .collect();
                entry(index, term, data)
            })
            .collect();
        let commit = self.random.u64(commit..from + count);
        Op::Ready(entries, in_term(term, commit))
    }

    fn expect(&mut self, op: &Op) {
        let expected = &mut self.expected;
        match op {
            Op::Ready(entries, hard_state) => {
                expected.entries.retain(|e| e.index < entries[0].index);
                expected.entries.extend_from_slice(entries);
                expected.hard_state = hard_state.clone();
            }
            Op::Vote(hard_state) => expected.hard_state = hard_state.clone(),
            Op::Applied(index) => expected.applied = *index,
            Op::Snapshot(index, len) => expected.snapshot = (*index, *len),
            Op::Install(index, _, len) => {
                expected.entries.clear();
                expected.first = index + 1;
                expected.hard_state.commit = *index;
                expected.applied = *index;
                expected.snapshot = (*index, *len);
            }
            Op::Compact(to) => {
                expected.entries.retain(|e| e.index >= *to);
                expected.first = *to;
            }
        }
    }
}

impl Expected {
    pub fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    pub fn found_in(storage: &RaftMachineStorage) -> Expected {
        Expected::read_from(storage).unwrap()
    }

    /// What a group holds that may be damaged.
    pub fn read_from(storage: &RaftMachineStorage) -> Result<Expected> {
        let (first, last) = (storage.first_index(), storage.last_index());
        Ok(Expected {
            first,
            entries: storage.entries(first, last + 1, None)?,
            hard_state: storage.hard_state(),
            applied: storage.applied_index(),
            snapshot: found_snapshot(storage)?,
        })
    }
}

fn installed(index: u64, term: u64, len: usize) -> Snapshot {
    snapshot(index, term, &[1, 2, 3], vec![FILL; len])
}

/// A node votes once in a term.
fn in_term(term: u64, commit: u64) -> HardState {
    hard_state(term, term % 3 + 1, commit)
}

fn found_snapshot(storage: &RaftMachineStorage) -> Result<(u64, usize)> {
    let Some(metadata) = storage.snapshot_metadata() else {
        return Ok((0, 0));
    };
    let mut data = Vec::new();
    let mut reader = storage.open_snapshot()?.expect("a snapshot");
    reader.read_to_end(&mut data).unwrap();
    assert!(data.iter().all(|byte| *byte == FILL), "a snapshot's data");
    Ok((metadata.index, data.len()))
}
