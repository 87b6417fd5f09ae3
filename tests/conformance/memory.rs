//! raft-rs's own `MemStorage`, and what it does otherwise than a store must.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::storage::MemStorage;
use raft_rocks::testing::conformance::{Deviation, ReadyWrite, Step, StepError, StoreUnderTest};

/// `MemStorage` as its users drive it. It has nowhere to put an applied index or a
/// snapshot's data, so those operations do nothing; by its own comment it takes everything
/// up to the commit index for applied.
pub struct Memory(MemStorage);

impl StoreUnderTest for Memory {
    type Storage = MemStorage;

    fn fresh() -> Result<Self, StepError> {
        Ok(Memory(MemStorage::new()))
    }

    fn storage(&self) -> &MemStorage {
        &self.0
    }

    fn applied(&self) -> Result<u64, StepError> {
        Ok(self.0.rl().hard_state().commit)
    }

    fn append(&mut self, entries: &[Entry]) -> Step {
        Ok(self.0.wl().append(entries)?)
    }

    fn set_hard_state(&mut self, hard_state: &HardState) -> Step {
        self.0.wl().set_hardstate(hard_state.clone());
        Ok(())
    }

    fn set_commit(&mut self, commit: u64) -> Step {
        Ok(self.0.wl().commit_to(commit)?)
    }

    fn set_conf_state(&mut self, conf_state: &ConfState, _applied: u64) -> Step {
        self.0.wl().set_conf_state(conf_state.clone());
        Ok(())
    }

    fn set_applied(&mut self, _applied: u64) -> Step {
        Ok(())
    }

    fn write(&mut self, write: &ReadyWrite) -> Step {
        let mut core = self.0.wl();
        if let Some(snapshot) = &write.snapshot {
            core.apply_snapshot(snapshot.clone())?;
        }
        core.append(&write.entries)?;
        if let Some(hard_state) = &write.hard_state {
            core.set_hardstate(hard_state.clone());
        }
        Ok(())
    }

    fn install(&mut self, snapshot: &Snapshot) -> Step {
        Ok(self.0.wl().apply_snapshot(snapshot.clone())?)
    }

    fn create_snapshot(&mut self, _index: u64, _conf_state: &ConfState, _data: &[u8]) -> Step {
        Ok(())
    }

    fn compact(&mut self, to: u64) -> Step {
        Ok(self.0.wl().compact(to)?)
    }

    fn reopen(&mut self) -> Step {
        Ok(())
    }
}

const fn known(check: &'static str, shows: &'static str) -> Deviation {
    Deviation { check, shows }
}

/// Every check that `MemStorage` of raft-rs 0.7 fails, and how.
pub const DEVIATIONS: &[Deviation] = &[
    // compact() forgets the term before the first index, and remembers that of index 0.
    known(
        "rule_02_term_of_first_minus_one_survives_compaction",
        "term(5) answered an error: log compacted",
    ),
    known(
        "rule_02_below_the_log_is_compacted",
        "term(0) answered Ok(0), expected Compacted",
    ),
    known(
        "rule_18_the_walk_ends_at_a_compaction_inside_a_run",
        "term(39) answered an error: log compacted",
    ),
    // Without entries the first index falls back behind what was compacted.
    known(
        "rule_02_term_of_first_minus_one_survives_full_compaction",
        "are (1, 0), expected (7, 6)",
    ),
    known(
        "rule_05_full_compaction_keeps_first_index",
        "are (1, 0), expected (7, 6)",
    ),
    known(
        "rule_05_append_continues_after_full_compaction",
        "panicked: index out of bounds",
    ),
    // commit_to() sets the term to that of the entry.
    known(
        "rule_03_commit_keeps_term_and_vote",
        "is term 1 vote 3 commit 4, expected term 6",
    ),
    // snapshot() makes one up, at the commit index, of the current configuration, without data.
    known(
        "rule_03_a_snapshot_is_labelled_with_what_was_applied",
        "labelled 10, but the state machine had applied 6",
    ),
    known(
        "rule_14_a_snapshot_carries_the_conf_state_at_its_index",
        "10@1 with voters [1, 2, 3, 4]",
    ),
    known("rule_15_a_fresh_store_has_no_snapshot", "answered 0@0 with"),
    known(
        "rule_15_no_snapshot_is_made_up_from_the_log",
        "expected SnapshotTemporarilyUnavailable",
    ),
    known(
        "rule_15_the_snapshot_is_served_after_compaction",
        "is 10@2 with",
    ),
    known("rule_15_data_come_back_as_they_were_given", "is 9@3 with"),
    known(
        "rule_15_an_installed_snapshot_is_served",
        "0 bytes that differ from the 100 bytes",
    ),
    // One older than requested is relabelled.
    known(
        "rule_15_a_snapshot_reaches_the_requested_index",
        "snapshot(9, 2) answered",
    ),
    // It knows neither what was applied nor what a snapshot covers.
    known(
        "rule_05_compact_beyond_applied_is_refused",
        "compact(8) with 6 applied was accepted",
    ),
    known(
        "rule_05_compact_reaches_the_snapshot_and_no_further",
        "compact(8) with a snapshot at 6 was accepted",
    ),
    known(
        "rule_05_compact_without_a_snapshot_is_refused",
        "compact(5) without any snapshot was accepted",
    ),
    known(
        "rule_10_a_ready_stores_its_snapshot_before_its_entries",
        "the applied index is 12, expected 10",
    ),
    known(
        "rule_13_applied_is_offered_after_a_restart",
        "the applied index is 9, expected 1",
    ),
    known(
        "rule_13_applied_raises_commit",
        "commit 4, expected term 3 vote 1 commit 7",
    ),
    known(
        "rule_13_applied_beyond_last_is_refused",
        "applied 6 with last index 5 was accepted",
    ),
    known(
        "rule_14_conf_state_and_applied_are_stored_together",
        "the applied index is 10, expected 3",
    ),
    known(
        "rule_14_later_applies_keep_the_conf_state",
        "the applied index is 10, expected 8",
    ),
    known(
        "rule_15_a_snapshot_beyond_the_log_is_refused",
        "was accepted",
    ),
    // A hard state is stored as it comes, whatever the log holds or held.
    known(
        "rule_12_commit_beyond_last_is_refused",
        "commit 1 on an empty log was accepted",
    ),
    known(
        "rule_12_a_refused_ready_leaves_nothing_behind",
        "last index 7 and commit 8 was accepted",
    ),
    known(
        "rule_13_a_lagging_hard_state_does_not_undo_applied",
        "commit is 4, below the applied index 7",
    ),
    known(
        "rule_09_a_snapshot_below_commit_is_refused",
        "at 7 for a store that has committed 8 was accepted",
    ),
    // It panics where it refuses; a gap between entries it does not see.
    known(
        "rule_05_compact_beyond_last_is_refused",
        "panicked: compact not received raft logs",
    ),
    known(
        "rule_10_entries_must_follow_their_snapshot",
        "panicked: overwrite compacted raft logs",
    ),
    known(
        "rule_11_entries_below_first_are_refused",
        "panicked: overwrite compacted raft logs",
    ),
    known(
        "rule_11_index_zero_is_refused",
        "panicked: overwrite compacted raft logs",
    ),
    known(
        "rule_11_a_gap_before_the_entries_is_refused",
        "panicked: raft logs should be continuous",
    ),
    known(
        "rule_11_a_gap_between_the_entries_is_refused",
        "an append with a gap inside was accepted",
    ),
];
