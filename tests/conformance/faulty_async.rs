//! The store of [`faulty`](crate::faulty) with asynchronous paths, sound until it is told to
//! break one rule. It has no threads: a callback runs when the operation that causes it does, so
//! that a check sees the same at every run.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Ready, StorageError};
use raft_rocks::testing::conformance::{
    AsyncStoreUnderTest, OnDurable, OnFetched, ReadyWrite, Step, StepError, StoreUnderTest,
};

use crate::faulty::Data;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    // Fetching.
    NothingIsFetched,
    EverythingIsFetched,
    EveryoneHasToWait,
    FetchesAreNotReported,
    FetchesAreReportedTwice,
    FetchesAreReportedWithoutContext,
    FetchedEntriesAreForgotten,
    FetchedEntriesAreKept,
    OneReportPerPlace,
    // What is submitted.
    SubmittedIsInvisible,
    SubmittedEntriesAreEvicted,
    SubmittedTailStays,
    SubmittedSnapshotIsInvisible,
    SubmittedHardStateIsInvisible,
    SubmittedIsPersisted,
    // Acknowledging.
    AcknowledgesAtOnce,
    AcknowledgesInReverse,
    AcknowledgesTheNewestOnly,
    AcknowledgesAfterAFailure,
    WritesAfterAFailure,
    FailuresAreNotTold,
    UnsyncedOvertakes,
    EntriesAreNotSynced,
    VotesAreNotSynced,
    CommitsAreSynced,
    // Failing.
    FailedWritesStay,
    FailedIsPersisted,
    FailureLosesWhatWasAcknowledged,
    FailureOutlivesReopening,
}

thread_local! {
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

/// Makes every store of this thread break one rule from now on.
pub fn break_rule(fault: Fault) {
    FAULT.set(fault);
}

fn has(fault: Fault) -> bool {
    FAULT.get() == fault
}

/// A Ready on its way to the disk.
struct Submitted {
    /// The store behind it.
    after: Data,
    /// The log as it was up to here; what is above is not durable yet.
    kept: u64,
    entries: bool,
    sync: bool,
    on_durable: OnDurable,
}

#[derive(Default)]
struct State {
    /// What can be read.
    memory: Data,
    /// What a restart finds.
    disk: Data,
    submitted: VecDeque<Submitted>,
    /// The least index above which something failed to be written.
    lost_above: Option<u64>,
    /// Up to here entries are only on disk.
    cold_to: u64,
    syncs: u64,
    held: bool,
    fetches_held: bool,
    /// Contexts whose answers are there.
    unreported: Vec<GetEntriesContext>,
    broken: bool,
    failed: bool,
    on_fetched: Option<OnFetched>,
    answers: Vec<Answer>,
}

/// Entries that have been fetched.
struct Answer {
    low: u64,
    context: String,
    entries: Vec<Entry>,
}

/// A handle to the store.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A check that panicked inside has failed anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store.
#[derive(Default)]
pub struct FaultyAsync(Shared);

impl State {
    fn check(&self) -> Step {
        if self.failed && !has(Fault::WritesAfterAFailure) {
            return Err("an earlier write failed".into());
        }
        Ok(())
    }

    /// A blocking write: in memory only when it is on disk.
    fn change(&mut self, change: impl FnOnce(&mut Data) -> Step) -> Step {
        self.check()?;
        let mut draft = self.memory.clone();
        change(&mut draft)?;
        if self.broken && !has(Fault::WritesAfterAFailure) {
            self.failed = true;
            if has(Fault::FailedWritesStay) {
                self.memory = draft;
            }
            return Err("the disk refuses".into());
        }
        (self.memory, self.disk) = (draft.clone(), draft);
        self.syncs += 1;
        Ok(())
    }

    fn persisted_index(&self) -> u64 {
        if has(Fault::SubmittedIsPersisted) {
            return self.memory.last();
        }
        let pending = self.submitted.iter().map(|submitted| submitted.kept);
        let persisted = pending.chain(self.lost_above).min();
        persisted.map_or(self.memory.last(), |kept| kept.min(self.disk.last()))
    }

    fn submit(&mut self, ready: &Ready, on_durable: OnDurable) -> Step {
        self.check()?;
        let write = ReadyWrite {
            snapshot: Some(ready.snapshot().clone()).filter(|snapshot| !snapshot.is_empty()),
            entries: ready.entries().clone(),
            hard_state: ready.hs().cloned(),
        };
        let mut after = self.memory.clone();
        after.write(&write)?;
        let kept = match (&write.snapshot, write.entries.first()) {
            (Some(_), _) => 0,
            (None, Some(first)) => first.index - 1,
            (None, None) => u64::MAX,
        };
        let mut visible = self.memory.clone();
        if !has(Fault::SubmittedIsInvisible) {
            self.write_visibly(&mut visible, &write)?;
        }
        self.memory = visible;
        let (entries, sync) = (kept < u64::MAX, ready.must_sync());
        if has(Fault::AcknowledgesAtOnce) || (has(Fault::UnsyncedOvertakes) && !sync) {
            on_durable(Ok(()));
            self.disk = after;
            return Ok(());
        }
        self.submitted.push_back(Submitted {
            after,
            kept,
            entries,
            sync,
            on_durable,
        });
        if !self.held {
            self.drain();
        }
        Ok(())
    }

    fn write_visibly(&self, visible: &mut Data, write: &ReadyWrite) -> Step {
        let mut write = write.clone();
        if has(Fault::SubmittedSnapshotIsInvisible) {
            (write.snapshot, write.hard_state) = (None, None);
        }
        if has(Fault::SubmittedHardStateIsInvisible) {
            write.hard_state = None;
        }
        let replaces = write
            .entries
            .first()
            .is_some_and(|first| first.index <= self.memory.last());
        if has(Fault::SubmittedTailStays) && replaces {
            write.entries.clear();
        }
        visible.write(&write)
    }

    /// Everything that has been submitted reaches the disk, or fails.
    fn drain(&mut self) {
        let mut submitted = std::mem::take(&mut self.submitted);
        if has(Fault::AcknowledgesInReverse) {
            submitted.make_contiguous().reverse();
        }
        let count = submitted.len();
        for (at, submitted) in submitted.into_iter().enumerate() {
            let outcome = self.persist(&submitted);
            let told = match &outcome {
                Ok(()) => !has(Fault::AcknowledgesTheNewestOnly) || at + 1 == count,
                Err(_) => !has(Fault::FailuresAreNotTold),
            };
            if told {
                (submitted.on_durable)(outcome);
            }
        }
    }

    fn persist(&mut self, submitted: &Submitted) -> Step {
        let acknowledged_all_the_same = self.failed && has(Fault::AcknowledgesAfterAFailure);
        if self.broken && !acknowledged_all_the_same {
            self.failed = true;
            if !has(Fault::FailedIsPersisted) {
                let lost = self.lost_above.unwrap_or(u64::MAX);
                self.lost_above = Some(lost.min(submitted.kept));
            } else {
                self.disk = self.memory.clone();
            }
            return Err("the disk refuses".into());
        }
        let sync = if submitted.entries {
            submitted.sync && !has(Fault::EntriesAreNotSynced)
        } else if submitted.sync {
            !has(Fault::VotesAreNotSynced)
        } else {
            has(Fault::CommitsAreSynced)
        };
        self.syncs += u64::from(sync);
        if sync || !submitted.sync {
            self.disk = submitted.after.clone();
        }
        if has(Fault::SubmittedIsInvisible) {
            self.memory = submitted.after.clone();
        }
        Ok(())
    }

    /// The answer of a cold read, when it has been fetched.
    fn fetch(
        &mut self,
        low: u64,
        context: GetEntriesContext,
        read: impl FnOnce(&Data) -> raft::Result<Vec<Entry>>,
    ) -> raft::Result<Vec<Entry>> {
        let wait = || Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable));
        let name = format!("{context:?}");
        let asked = |answer: &Answer| answer.low == low && answer.context == name;
        if let Some(at) = self.answers.iter().position(asked) {
            let answer = self.answers.remove(at);
            if has(Fault::FetchedEntriesAreForgotten) {
                return wait();
            }
            if has(Fault::FetchedEntriesAreKept) {
                return Ok(answer.entries);
            }
            return read(&self.memory);
        }
        let under_way = self.answers.iter().any(|answer| answer.low == low);
        let entries = read(&self.memory)?;
        self.answers.push(Answer {
            low,
            context: name,
            entries,
        });
        if has(Fault::FetchesAreNotReported) || (under_way && has(Fault::OneReportPerPlace)) {
            return wait();
        }
        if has(Fault::FetchesAreReportedTwice) {
            self.unreported.push(GetEntriesContext::empty(true));
        }
        let lost = has(Fault::FetchesAreReportedWithoutContext);
        self.unreported.push(if lost {
            GetEntriesContext::empty(true)
        } else {
            context
        });
        if !self.fetches_held {
            self.report();
        }
        wait()
    }

    fn report(&mut self) {
        if let Some(on_fetched) = &self.on_fetched {
            self.unreported
                .drain(..)
                .for_each(|context| on_fetched(context));
        }
    }
}

impl raft::Storage for Shared {
    fn initial_state(&self) -> raft::Result<RaftState> {
        self.lock().memory.initial_state()
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_size = max_size.into();
        let mut state = self.lock();
        let pinned = state.submitted.len() > 4;
        assert!(
            !(pinned && has(Fault::SubmittedEntriesAreEvicted)),
            "neither in memory nor on disk"
        );
        let may_wait = context.can_async() || has(Fault::EveryoneHasToWait);
        let cold = low <= state.cold_to || has(Fault::EverythingIsFetched);
        let fetched = state.on_fetched.is_some() && may_wait && cold;
        let plain = GetEntriesContext::empty(false);
        if !fetched || has(Fault::NothingIsFetched) {
            return state.memory.entries(low, high, max_size, plain);
        }
        state.fetch(low, context, |data| {
            data.entries(low, high, max_size, plain)
        })
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.lock().memory.term(index)
    }

    fn first_index(&self) -> raft::Result<u64> {
        self.lock().memory.first_index()
    }

    fn last_index(&self) -> raft::Result<u64> {
        self.lock().memory.last_index()
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        self.lock().memory.snapshot(request_index, to)
    }
}

impl FaultyAsync {
    fn change(&mut self, change: impl FnOnce(&mut Data) -> Step) -> Step {
        self.0.lock().change(change)
    }
}

impl StoreUnderTest for FaultyAsync {
    type Storage = Shared;

    fn fresh() -> Result<Self, StepError> {
        Ok(FaultyAsync::default())
    }

    fn storage(&self) -> &Shared {
        &self.0
    }

    fn applied(&self) -> Result<u64, StepError> {
        Ok(self.0.lock().memory.applied())
    }

    fn append(&mut self, entries: &[Entry]) -> Step {
        self.change(|data| data.append(entries))
    }

    fn set_hard_state(&mut self, hard_state: &HardState) -> Step {
        self.change(|data| data.set_hard_state(hard_state))
    }

    fn set_commit(&mut self, commit: u64) -> Step {
        self.change(|data| data.set_commit(commit))
    }

    fn set_conf_state(&mut self, conf_state: &ConfState, applied: u64) -> Step {
        self.change(|data| data.set_conf_state(conf_state, applied))
    }

    fn set_applied(&mut self, applied: u64) -> Step {
        self.change(|data| data.set_applied(applied))
    }

    fn write(&mut self, write: &ReadyWrite) -> Step {
        self.change(|data| data.write(write))
    }

    fn install(&mut self, snapshot: &Snapshot) -> Step {
        self.change(|data| data.install(snapshot))
    }

    fn create_snapshot(&mut self, index: u64, conf_state: &ConfState, data: &[u8]) -> Step {
        self.change(|stored| stored.create_snapshot(index, conf_state, data))
    }

    fn compact(&mut self, to: u64) -> Step {
        self.change(|data| data.compact(to))
    }

    /// As after a power cut: only what was synced is left.
    fn reopen(&mut self) -> Step {
        let state = std::mem::take(&mut *self.0.lock());
        let mut found = state.disk;
        if state.failed && has(Fault::FailureLosesWhatWasAcknowledged) {
            found = Data::default();
        }
        let failed = state.failed && has(Fault::FailureOutlivesReopening);
        *self.0.lock() = State {
            memory: found.clone(),
            disk: found,
            failed,
            ..State::default()
        };
        Ok(())
    }
}

impl AsyncStoreUnderTest for FaultyAsync {
    fn submit_ready(&mut self, ready: &mut Ready, on_durable: OnDurable) -> Step {
        self.0.lock().submit(ready, on_durable)
    }

    fn persisted_index(&self) -> Result<u64, StepError> {
        Ok(self.0.lock().persisted_index())
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.0.lock().syncs)
    }

    fn hold(&mut self) -> Step {
        self.0.lock().held = true;
        Ok(())
    }

    fn hold_fetches(&mut self) -> Step {
        self.0.lock().fetches_held = true;
        Ok(())
    }

    fn release(&mut self) -> Step {
        let mut state = self.0.lock();
        (state.held, state.fetches_held) = (false, false);
        state.drain();
        state.report();
        Ok(())
    }

    fn break_disk(&mut self) -> Step {
        self.0.lock().broken = true;
        Ok(())
    }

    fn cool(&mut self) -> Step {
        let mut state = self.0.lock();
        state.cold_to = state.memory.last();
        Ok(())
    }

    fn set_async_fetch(&mut self, on_fetched: OnFetched) -> Step {
        self.0.lock().on_fetched = Some(on_fetched);
        Ok(())
    }

    fn patience() -> Duration {
        Duration::ZERO
    }
}

/// For each fault the checks that must notice it; others may too. Every asynchronous check
/// stands here at least once.
pub const NOTICED_BY: &[(Fault, &[&str])] = &[
    (
        Fault::NothingIsFetched,
        &["rule_06_a_cold_read_waits_once_and_is_answered"],
    ),
    (
        Fault::EverythingIsFetched,
        &["rule_06_what_is_in_memory_is_answered_at_once"],
    ),
    (
        Fault::EveryoneHasToWait,
        &["rule_06_who_may_not_wait_is_answered_at_once"],
    ),
    (
        Fault::FetchesAreNotReported,
        &[
            "rule_06_a_cold_read_waits_once_and_is_answered",
            "rule_06_a_lagging_follower_gets_its_entries",
            "rule_06_two_followers_lag_at_the_same_place",
        ],
    ),
    (
        Fault::FetchesAreReportedTwice,
        &[
            "rule_06_a_cold_read_waits_once_and_is_answered",
            "rule_06_a_lagging_follower_gets_its_entries",
        ],
    ),
    (
        Fault::FetchesAreReportedWithoutContext,
        &[
            "rule_06_a_lagging_follower_gets_its_entries",
            "rule_06_two_followers_lag_at_the_same_place",
        ],
    ),
    (
        Fault::FetchedEntriesAreForgotten,
        &[
            "rule_06_a_cold_read_waits_once_and_is_answered",
            "rule_06_a_lagging_follower_gets_its_entries",
        ],
    ),
    (
        Fault::FetchedEntriesAreKept,
        &[
            "rule_06_the_answer_is_that_of_the_log_it_is_given_from",
            "rule_06_what_was_compacted_meanwhile_is_compacted",
        ],
    ),
    (
        Fault::OneReportPerPlace,
        &["rule_06_two_followers_lag_at_the_same_place"],
    ),
    (
        Fault::SubmittedIsInvisible,
        &[
            "rule_07_entries_are_readable_before_they_are_durable",
            "rule_07_a_snapshot_is_in_place_before_it_is_durable",
            "rule_07_entries_follow_a_snapshot_that_is_not_durable",
        ],
    ),
    (
        Fault::SubmittedEntriesAreEvicted,
        &["rule_07_unpersisted_entries_stay_readable_however_many"],
    ),
    (
        Fault::SubmittedTailStays,
        &["rule_07_a_replaced_tail_is_gone_before_that_is_durable"],
    ),
    (
        Fault::SubmittedSnapshotIsInvisible,
        &[
            "rule_07_a_snapshot_is_in_place_before_it_is_durable",
            "rule_07_entries_follow_a_snapshot_that_is_not_durable",
        ],
    ),
    (
        Fault::SubmittedHardStateIsInvisible,
        &["rule_07_votes_and_commits_are_readable_before_they_are_durable"],
    ),
    (
        Fault::SubmittedIsPersisted,
        &[
            "rule_07_entries_are_readable_before_they_are_durable",
            "rule_07_a_replaced_tail_is_gone_before_that_is_durable",
            "rule_07_a_snapshot_is_in_place_before_it_is_durable",
            "rule_07_entries_follow_a_snapshot_that_is_not_durable",
        ],
    ),
    (
        Fault::AcknowledgesAtOnce,
        &[
            "rule_16_entries_are_acknowledged_after_they_are_durable",
            "rule_16_a_vote_is_granted_after_it_is_durable",
            "rule_16_a_duplicate_append_waits_for_the_entries_it_confirms",
        ],
    ),
    (
        Fault::AcknowledgesInReverse,
        &["rule_08_acknowledgements_come_once_and_in_order"],
    ),
    (
        Fault::AcknowledgesTheNewestOnly,
        &["rule_08_acknowledgements_come_once_and_in_order"],
    ),
    (
        Fault::AcknowledgesAfterAFailure,
        &[
            "rule_08_nothing_is_acknowledged_after_a_failure",
            "rule_08_a_failure_is_told_to_whoever_waits",
        ],
    ),
    (
        Fault::WritesAfterAFailure,
        &["rule_08_nothing_is_acknowledged_after_a_failure"],
    ),
    (
        Fault::FailuresAreNotTold,
        &["rule_08_a_failure_is_told_to_whoever_waits"],
    ),
    (
        Fault::UnsyncedOvertakes,
        &[
            "rule_08_acknowledgements_come_once_and_in_order",
            "rule_16_a_duplicate_append_waits_for_the_entries_it_confirms",
        ],
    ),
    (
        Fault::EntriesAreNotSynced,
        &["rule_16_entries_are_acknowledged_after_they_are_durable"],
    ),
    (
        Fault::VotesAreNotSynced,
        &["rule_16_a_vote_is_granted_after_it_is_durable"],
    ),
    (
        Fault::CommitsAreSynced,
        &["rule_16_a_commit_alone_costs_no_sync"],
    ),
    (
        Fault::FailedWritesStay,
        &["rule_19_a_failed_write_changes_nothing_in_memory"],
    ),
    (
        Fault::FailedIsPersisted,
        &["rule_19_what_failed_is_never_called_persisted"],
    ),
    (
        Fault::FailureLosesWhatWasAcknowledged,
        &["rule_19_after_a_failure_the_store_opens_with_what_it_acknowledged"],
    ),
    (
        Fault::FailureOutlivesReopening,
        &["rule_19_after_a_failure_the_store_opens_with_what_it_acknowledged"],
    ),
];
