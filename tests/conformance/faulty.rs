//! A store in memory that keeps every rule, and breaks one when told to: the proof that no
//! check of the suite passes whatever a store does.

use std::cell::Cell;
use std::collections::BTreeMap;

use protobuf::Message;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::storage::GetEntriesContext;
use raft::{RaftState, StorageError};
use raft_rocks::testing::conformance::{ReadyWrite, Step, StepError, StoreUnderTest};

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    // Bounds and terms.
    FreshStoreStartsAtZero,
    LastIndexCountsEntries,
    TermZeroIsCompacted,
    TermIsThatOfTheNext,
    TermAboveIsCompacted,
    TermBelowIsUnavailable,
    TermBelowIsTheOldestKnown,
    CompactionForgetsTheTerm,
    ReopenForgetsTheTruncatedTerm,
    InstallForgetsTheTerm,
    TermsOfTheOldTailStay,
    // Reading entries.
    RangesAreClosed,
    LimitAppliesToTheFirst,
    LimitCountsPayloads,
    LimitIsExclusive,
    NoLimitIsHalfAMegabyte,
    ReadsBelowFirst,
    ReadsBelowFirstAreUnavailable,
    ReadsBeyondLastAreCutOff,
    TypeIsLost,
    ContextIsLost,
    SyncLogIsLost,
    LongReadsSkipAnEntry,
    EveryoneMustWait,
    WhoMayWaitGetsLess,
    // Compaction.
    CompactsOneTooFew,
    CompactsOneTooMany,
    CompactsBackwards,
    CompactionTouchesTheStates,
    CompactsPastTheSnapshot,
    CompactsPastApplied,
    CompactsAnything,
    FullCompactionFallsBack,
    AppendAfterFullCompactionStartsAnywhere,
    // Installing snapshots.
    InstallKeepsTheEntriesAbove,
    InstallLeavesOldKeys,
    InstallNeedsALongerLog,
    InstallNeedsALog,
    InstallKeepsCommit,
    InstallKeepsTerm,
    InstallKeepsApplied,
    InstallSetsTerm,
    InstallForgetsVote,
    InstallKeepsConfState,
    InstallNeedsMoreThanCommit,
    InstallTakesAnything,
    InstallTakesWhatIsCommitted,
    EntriesComeBeforeTheirSnapshot,
    HardStateComesBeforeTheSnapshot,
    // Appending.
    OverlapKeepsTheOldTail,
    OverlapLeavesOldKeys,
    OverlapOfALongTailStopsEarly,
    OverlapNeverReachesTheFirst,
    OverlapNeverGrows,
    OverlapOfTheSameLengthIsSkipped,
    OlderTermsAreRefused,
    EmptyAppendTruncates,
    AppendsAnywhere,
    AppendsGapsInside,
    AppendsOneEntryOnly,
    ReadiesDoNotTruncate,
    // States.
    WritesPartByPart,
    ReopenForgetsTheVote,
    CommitIsUnchecked,
    CommitSetsTheTerm,
    CommitGoesBack,
    CommitLagsBehindEntries,
    CommitIsNotRaisedByApplied,
    CommitIsLoweredByApplied,
    ReopenForgetsApplied,
    AppliedIsUnchecked,
    CompactionForgetsApplied,
    ConfStateForgetsItsIndex,
    AppliedForgetsTheConfState,
    ConfStatesAreMerged,
    // Snapshots.
    SnapshotIsLabelledWithCommit,
    SnapshotHasTheCurrentConfState,
    SnapshotIsMadeUp,
    SnapshotIsRelabelled,
    SnapshotGoesWithTheLog,
    SnapshotDataAreCut,
    InstalledDataAreDropped,
    OldSnapshotsWin,
    SnapshotsOfTheCompactedAreTaken,
    SnapshotsBeyondTheLogAreTaken,
    SnapshotsLeaveAppliedBehind,
    SnapshotsAheadKeepTheConfState,
    // Keys.
    KeysSortAsText,
    StoresShareTheirKeys,
}

thread_local! {
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
    static SHARED: Cell<u64> = const { Cell::new(0) };
}

/// Makes every store of this thread break one rule from now on.
pub fn break_rule(fault: Fault) {
    FAULT.set(fault);
    SHARED.set(0);
}

fn has(fault: Fault) -> bool {
    FAULT.get() == fault
}

/// What would be on disk.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// By index; what lies outside the bounds is invisible in a sound store.
    keys: BTreeMap<u64, Entry>,
    truncated: (u64, u64),
    last: u64,
    hard_state: HardState,
    conf_state: ConfState,
    applied: u64,
    snapshot: Option<Snapshot>,
    /// Terms that a broken store has not cut off.
    stale_terms: BTreeMap<u64, u64>,
}

/// The store.
pub struct Faulty(Data);

impl Data {
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    fn first(&self) -> u64 {
        self.truncated.0 + 1
    }

    fn snapshot_index(&self) -> u64 {
        self.snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.get_metadata().index)
    }

    pub fn append(&mut self, entries: &[Entry]) -> Step {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            if has(Fault::EmptyAppendTruncates) {
                self.keys.pop_last();
                self.last -= 1;
            }
            return Ok(());
        };
        let empty_after_compaction = self.first() > 1 && self.last < self.first();
        let anywhere = has(Fault::AppendsAnywhere)
            || (empty_after_compaction && has(Fault::AppendAfterFullCompactionStartsAnywhere));
        if !anywhere && (first < self.first() || first > self.last + 1) {
            return Err(format!("{first} does not follow {}", self.last).into());
        }
        if has(Fault::OverlapNeverReachesTheFirst) && first == self.first() && self.last >= first {
            return Err("the first entry is never replaced".into());
        }
        let indexes = entries.iter().map(|entry| entry.index);
        if !has(Fault::AppendsGapsInside) && !indexes.eq((first..).take(entries.len())) {
            return Err("a gap inside".into());
        }
        let old_last = self.last;
        let last_term = self.keys.get(&old_last).map_or(0, |entry| entry.term);
        if has(Fault::OlderTermsAreRefused) && entries.iter().any(|entry| entry.term < last_term) {
            return Err(format!("terms start at {last_term}").into());
        }
        if has(Fault::OverlapOfTheSameLengthIsSkipped)
            && entries.last().is_some_and(|entry| entry.index == old_last)
        {
            return Ok(());
        }
        for entry in entries {
            if has(Fault::OverlapNeverGrows) && first <= old_last && entry.index > old_last {
                break;
            }
            self.keys.insert(entry.index, store(entry));
            self.last = entry.index;
            if has(Fault::AppendsOneEntryOnly) {
                break;
            }
        }
        if has(Fault::TermsOfTheOldTailStay) {
            for (index, entry) in self.keys.range(first..) {
                self.stale_terms.entry(*index).or_insert(entry.term);
            }
        }
        if has(Fault::OverlapKeepsTheOldTail) {
            self.last = self.last.max(old_last);
        } else if first <= old_last && !has(Fault::OverlapLeavesOldKeys) {
            let last = self.last;
            let stops_early = has(Fault::OverlapOfALongTailStopsEarly);
            let stop = if stops_early { last + 64 } else { u64::MAX };
            self.keys.retain(|index, _| *index <= last || *index > stop);
        }
        Ok(())
    }

    pub fn set_hard_state(&mut self, new: &HardState) -> Step {
        let commit = self.hard_state.commit;
        self.hard_state = new.clone();
        if !has(Fault::CommitGoesBack) {
            self.hard_state.commit = commit;
        }
        self.set_commit(new.commit)
    }

    pub fn set_commit(&mut self, commit: u64) -> Step {
        if commit > self.last && !has(Fault::CommitIsUnchecked) {
            return Err(format!("commit {commit} with last {}", self.last).into());
        }
        let hard_state = &mut self.hard_state;
        if commit > hard_state.commit && has(Fault::CommitSetsTheTerm) {
            hard_state.term = self.keys.get(&commit).map_or(0, |entry| entry.term);
        }
        hard_state.commit = commit.max(hard_state.commit);
        Ok(())
    }

    pub fn set_applied(&mut self, applied: u64) -> Step {
        if applied > self.last && !has(Fault::AppliedIsUnchecked) {
            return Err(format!("applied {applied} with last {}", self.last).into());
        }
        self.applied = applied.max(self.applied);
        if has(Fault::CommitIsLoweredByApplied) {
            self.hard_state.commit = applied;
        }
        if !has(Fault::CommitIsNotRaisedByApplied) {
            self.hard_state.commit = applied.max(self.hard_state.commit);
        }
        if has(Fault::AppliedForgetsTheConfState) {
            self.conf_state = ConfState::default();
        }
        Ok(())
    }

    pub fn set_conf_state(&mut self, conf_state: &ConfState, applied: u64) -> Step {
        let before = self.applied;
        self.set_applied(applied)?;
        if has(Fault::ConfStateForgetsItsIndex) {
            self.applied = before;
        }
        let old = std::mem::replace(&mut self.conf_state, conf_state.clone());
        if has(Fault::ConfStatesAreMerged) && self.conf_state.get_voters_outgoing().is_empty() {
            self.conf_state
                .set_voters_outgoing(old.get_voters_outgoing().to_vec());
        }
        Ok(())
    }

    pub fn install(&mut self, snapshot: &Snapshot) -> Step {
        let metadata = snapshot.get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let commit = self.hard_state.commit;
        let old = if has(Fault::InstallTakesWhatIsCommitted) {
            index < self.truncated.0
        } else {
            index < commit || (has(Fault::InstallNeedsMoreThanCommit) && index == commit)
        };
        let unwanted = (has(Fault::InstallNeedsALongerLog) && index > self.last && self.last > 0)
            || (has(Fault::InstallNeedsALog) && self.last == 0);
        if (old && !has(Fault::InstallTakesAnything)) || unwanted {
            return Err(format!("a snapshot at {index} with commit {commit}").into());
        }
        self.truncated = (
            index,
            if has(Fault::InstallForgetsTheTerm) {
                0
            } else {
                term
            },
        );
        if has(Fault::InstallKeepsTheEntriesAbove) {
            self.last = self.last.max(index);
        } else {
            self.last = index;
            if !has(Fault::InstallLeavesOldKeys) {
                self.keys.clear();
            }
        }
        if !has(Fault::InstallKeepsCommit) {
            self.hard_state.commit = index;
        }
        if has(Fault::InstallSetsTerm) {
            self.hard_state.term = term;
        } else if !has(Fault::InstallKeepsTerm) {
            self.hard_state.term = term.max(self.hard_state.term);
        }
        if has(Fault::InstallForgetsVote) {
            self.hard_state.vote = 0;
        }
        if !has(Fault::InstallKeepsApplied) {
            self.applied = index;
        }
        if !has(Fault::InstallKeepsConfState) {
            self.conf_state = metadata.get_conf_state().clone();
        }
        let mut snapshot = snapshot.clone();
        if has(Fault::InstalledDataAreDropped) {
            snapshot.data = Vec::new().into();
        }
        self.snapshot = Some(snapshot);
        Ok(())
    }

    pub fn write(&mut self, write: &ReadyWrite) -> Step {
        if has(Fault::HardStateComesBeforeTheSnapshot)
            && let Some(hard_state) = &write.hard_state
        {
            self.set_hard_state(hard_state)?;
        }
        let snapshot = write.snapshot.as_ref();
        if let (Some(snapshot), false) = (snapshot, has(Fault::EntriesComeBeforeTheirSnapshot)) {
            self.install(snapshot)?;
        }
        let old_last = self.last;
        self.append(&write.entries)?;
        if has(Fault::ReadiesDoNotTruncate) {
            self.last = self.last.max(old_last);
        }
        if let (Some(snapshot), true) = (snapshot, has(Fault::EntriesComeBeforeTheirSnapshot)) {
            self.install(snapshot)?;
        }
        if let Some(hard_state) = &write.hard_state {
            let commit = self.hard_state.commit;
            self.set_hard_state(hard_state)?;
            if has(Fault::CommitLagsBehindEntries) && !write.entries.is_empty() {
                self.hard_state.commit = commit;
            }
        }
        Ok(())
    }

    pub fn create_snapshot(&mut self, index: u64, conf_state: &ConfState, data: &[u8]) -> Step {
        let old = index < self.snapshot_index() && !has(Fault::OldSnapshotsWin);
        let compacted = index < self.truncated.0.max(1);
        let beyond = index > self.last && !has(Fault::SnapshotsBeyondTheLogAreTaken);
        if has(Fault::SnapshotsOfTheCompactedAreTaken) && compacted {
            self.snapshot = None;
        } else if old || compacted || beyond {
            return Err(format!("a snapshot at {index}").into());
        }
        let ahead = index > self.applied && index <= self.last;
        if ahead && has(Fault::SnapshotsAheadKeepTheConfState) {
            self.set_applied(index)?;
        } else if ahead && !has(Fault::SnapshotsLeaveAppliedBehind) {
            self.set_conf_state(conf_state, index)?;
        }
        let mut snapshot = Snapshot::default();
        let cut = if has(Fault::SnapshotDataAreCut) {
            65_536
        } else {
            usize::MAX
        };
        snapshot.data = data.iter().copied().take(cut).collect::<Vec<u8>>().into();
        let term = raft::Storage::term(self, index).unwrap_or(0);
        let metadata = snapshot.mut_metadata();
        metadata.index = index;
        metadata.term = term;
        metadata.set_conf_state(conf_state.clone());
        self.snapshot = Some(snapshot);
        Ok(())
    }

    pub fn compact(&mut self, to: u64) -> Step {
        if to <= self.first() {
            if has(Fault::CompactsBackwards) && to > 0 {
                self.truncated.0 = to - 1;
            }
            return Ok(());
        }
        let mut truncated = to - 1;
        let mut furthest = self.applied.min(self.snapshot_index());
        if has(Fault::CompactsPastTheSnapshot) {
            furthest = self.applied;
        }
        if has(Fault::CompactsPastApplied) {
            furthest = self.hard_state.commit;
        }
        if truncated > furthest && !has(Fault::CompactsAnything) {
            return Err(format!("compact({to})").into());
        }
        if has(Fault::CompactsOneTooFew) {
            truncated -= 1;
        }
        if has(Fault::CompactsOneTooMany) {
            truncated += 1;
        }
        let term = raft::Storage::term(self, truncated).unwrap_or(0);
        self.truncated = (
            truncated,
            if has(Fault::CompactionForgetsTheTerm) {
                0
            } else {
                term
            },
        );
        if truncated == self.last && has(Fault::FullCompactionFallsBack) {
            (self.truncated, self.last) = ((0, 0), 0);
        }
        if !has(Fault::ReadsBelowFirst) {
            self.keys.retain(|index, _| *index > truncated);
        }
        if has(Fault::CompactionTouchesTheStates) {
            self.hard_state.vote = 0;
        }
        if has(Fault::CompactionForgetsApplied) {
            self.applied = 0;
        }
        if has(Fault::SnapshotGoesWithTheLog) {
            self.snapshot = None;
        }
        Ok(())
    }

    fn reopen(&mut self) {
        if has(Fault::ReopenForgetsTheTruncatedTerm) {
            self.truncated.1 = 0;
        }
        if has(Fault::ReopenForgetsTheVote) {
            self.hard_state.vote = 0;
        }
        if has(Fault::ReopenForgetsApplied) {
            self.applied = 0;
        }
        if has(Fault::OverlapLeavesOldKeys)
            || has(Fault::OverlapOfALongTailStopsEarly)
            || has(Fault::InstallLeavesOldKeys)
        {
            // The end of the log is found by looking.
            while self.keys.contains_key(&(self.last + 1)) {
                self.last += 1;
            }
        }
    }
}

fn store(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if has(Fault::TypeIsLost) {
        entry.set_entry_type(EntryType::EntryNormal);
    }
    if has(Fault::ContextIsLost) {
        entry.context = Vec::new().into();
    }
    if has(Fault::SyncLogIsLost) {
        entry.sync_log = false;
    }
    entry
}

fn cut(entries: &mut Vec<Entry>, max_size: Option<u64>) {
    let max_size = match max_size {
        Some(u64::MAX) | None if has(Fault::NoLimitIsHalfAMegabyte) => 500_000,
        Some(max_size) => max_size,
        None => return,
    };
    let mut sum = 0_u64;
    let fits = entries.iter().take_while(|entry| {
        sum += if has(Fault::LimitCountsPayloads) {
            entry.data.len() as u64
        } else {
            u64::from(entry.compute_size())
        };
        if has(Fault::LimitIsExclusive) {
            sum < max_size
        } else {
            sum <= max_size
        }
    });
    let least = if has(Fault::LimitAppliesToTheFirst) {
        0
    } else {
        1
    };
    let count = fits.count().max(least);
    entries.truncate(count);
}

impl raft::Storage for Data {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() && !has(Fault::ReadsBelowFirst) {
            return Err(raft::Error::Store(
                if has(Fault::ReadsBelowFirstAreUnavailable) {
                    StorageError::Unavailable
                } else {
                    StorageError::Compacted
                },
            ));
        }
        assert!(
            high <= self.last + 1 || has(Fault::ReadsBeyondLastAreCutOff),
            "beyond the log"
        );
        if has(Fault::EveryoneMustWait) {
            return Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable));
        }
        let high = if has(Fault::RangesAreClosed) {
            high + 1
        } else {
            high
        };
        let within = self
            .keys
            .iter()
            .filter(|(index, _)| (low..high).contains(index));
        let mut entries: Vec<Entry> = within.map(|(_, entry)| entry.clone()).collect();
        if has(Fault::KeysSortAsText) {
            entries.sort_by_key(|entry| entry.index.to_string());
        }
        if has(Fault::LongReadsSkipAnEntry) && entries.len() > 500 {
            entries.remove(250);
        }
        if has(Fault::WhoMayWaitGetsLess) && context.can_async() {
            entries.clear();
        }
        cut(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = |compacted: bool| {
            Err(raft::Error::Store(if compacted {
                StorageError::Compacted
            } else {
                StorageError::Unavailable
            }))
        };
        if index < self.truncated.0 {
            if has(Fault::TermBelowIsTheOldestKnown) {
                return Ok(self.truncated.1);
            }
            return missing(!has(Fault::TermBelowIsUnavailable));
        }
        if index == self.truncated.0 {
            if index == 0 && has(Fault::TermZeroIsCompacted) {
                return missing(true);
            }
            return Ok(self.truncated.1);
        }
        if index > self.last {
            return missing(has(Fault::TermAboveIsCompacted));
        }
        if let Some(stale) = self.stale_terms.get(&index) {
            return Ok(*stale);
        }
        let next = (index + 1).min(self.last);
        let asked = if has(Fault::TermIsThatOfTheNext) {
            next
        } else {
            index
        };
        match self.keys.get(&asked) {
            Some(entry) => Ok(entry.term),
            None => missing(false),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        let fresh = has(Fault::FreshStoreStartsAtZero) && self.truncated.0 == 0;
        Ok(if fresh { 0 } else { self.first() })
    }

    fn last_index(&self) -> raft::Result<u64> {
        if has(Fault::LastIndexCountsEntries) {
            return Ok(self.keys.len() as u64);
        }
        let shared = if has(Fault::StoresShareTheirKeys) {
            SHARED.get()
        } else {
            0
        };
        Ok(self.last.max(shared))
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let made_up = has(Fault::SnapshotIsMadeUp).then(|| {
            let mut snapshot = Snapshot::default();
            snapshot.mut_metadata().index = self.hard_state.commit;
            snapshot
        });
        let mut snapshot = match self.snapshot.clone().or(made_up) {
            Some(snapshot) => snapshot,
            None => {
                return Err(raft::Error::Store(
                    StorageError::SnapshotTemporarilyUnavailable,
                ));
            }
        };
        let metadata = snapshot.mut_metadata();
        if has(Fault::SnapshotIsLabelledWithCommit) {
            metadata.index = self.hard_state.commit;
        }
        if has(Fault::SnapshotHasTheCurrentConfState) {
            metadata.set_conf_state(self.conf_state.clone());
        }
        if has(Fault::SnapshotIsRelabelled) {
            metadata.index = metadata.index.max(request_index);
        }
        if metadata.index < request_index {
            return Err(raft::Error::Store(
                StorageError::SnapshotTemporarilyUnavailable,
            ));
        }
        Ok(snapshot)
    }
}

impl Faulty {
    /// Whole or not at all.
    fn change(&mut self, change: impl FnOnce(&mut Data) -> Step) -> Step {
        let mut draft = self.0.clone();
        let outcome = change(&mut draft);
        if outcome.is_ok() || has(Fault::WritesPartByPart) {
            self.0 = draft;
        }
        if has(Fault::StoresShareTheirKeys) {
            SHARED.set(SHARED.get().max(self.0.last));
        }
        outcome
    }
}

impl StoreUnderTest for Faulty {
    type Storage = Data;

    fn fresh() -> Result<Self, StepError> {
        Ok(Faulty(Data::default()))
    }

    fn storage(&self) -> &Data {
        &self.0
    }

    fn applied(&self) -> Result<u64, StepError> {
        Ok(self.0.applied)
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

    fn reopen(&mut self) -> Step {
        self.0.reopen();
        Ok(())
    }
}

/// For each fault the checks that must notice it; others may too. Every check of the suite
/// stands here at least once.
pub const NOTICED_BY: &[(Fault, &[&str])] = &[
    (
        Fault::FreshStoreStartsAtZero,
        &["rule_01_fresh_store_is_an_empty_log"],
    ),
    (
        Fault::LastIndexCountsEntries,
        &["rule_01_bounds_answer_after_every_operation"],
    ),
    (
        Fault::TermZeroIsCompacted,
        &["rule_02_fresh_store_answers_term_zero"],
    ),
    (
        Fault::TermIsThatOfTheNext,
        &[
            "rule_02_every_index_of_the_log_has_its_term",
            "rule_18_the_walk_finds_every_term",
        ],
    ),
    (
        Fault::TermAboveIsCompacted,
        &["rule_02_above_the_log_is_unavailable"],
    ),
    (
        Fault::TermBelowIsUnavailable,
        &["rule_02_below_the_log_is_compacted"],
    ),
    (
        Fault::TermBelowIsTheOldestKnown,
        &["rule_02_below_the_log_is_compacted"],
    ),
    (
        Fault::CompactionForgetsTheTerm,
        &[
            "rule_02_term_of_first_minus_one_survives_compaction",
            "rule_02_term_of_first_minus_one_survives_full_compaction",
            "rule_18_the_walk_ends_at_a_compaction_inside_a_run",
        ],
    ),
    (
        Fault::ReopenForgetsTheTruncatedTerm,
        &[
            "rule_02_term_of_first_minus_one_survives_compaction",
            "rule_02_term_of_first_minus_one_survives_full_compaction",
            "rule_02_term_of_first_minus_one_survives_install",
        ],
    ),
    (
        Fault::InstallForgetsTheTerm,
        &["rule_02_term_of_first_minus_one_survives_install"],
    ),
    (
        Fault::TermsOfTheOldTailStay,
        &[
            "rule_02_terms_follow_an_overwritten_tail",
            "rule_18_the_walk_crosses_a_cut_inside_a_run",
        ],
    ),
    (
        Fault::RangesAreClosed,
        &["rule_04_every_range_is_half_open_and_contiguous"],
    ),
    (
        Fault::LimitAppliesToTheFirst,
        &["rule_04_one_entry_comes_whatever_the_limit"],
    ),
    (
        Fault::LimitCountsPayloads,
        &["rule_04_sizes_count_as_raft_counts_them"],
    ),
    (
        Fault::LimitIsExclusive,
        &["rule_04_sizes_count_as_raft_counts_them"],
    ),
    (
        Fault::NoLimitIsHalfAMegabyte,
        &["rule_04_none_and_u64_max_mean_no_limit"],
    ),
    (
        Fault::ReadsBelowFirst,
        &[
            "rule_04_below_first_is_compacted",
            "rule_20_a_compacted_prefix_is_never_visible",
        ],
    ),
    (
        Fault::ReadsBelowFirstAreUnavailable,
        &["rule_04_below_first_is_compacted"],
    ),
    (
        Fault::ReadsBeyondLastAreCutOff,
        &["rule_04_beyond_last_panics"],
    ),
    (
        Fault::TypeIsLost,
        &["rule_04_every_kind_of_entry_round_trips"],
    ),
    (
        Fault::ContextIsLost,
        &["rule_04_every_kind_of_entry_round_trips"],
    ),
    (
        Fault::SyncLogIsLost,
        &["rule_04_every_kind_of_entry_round_trips"],
    ),
    (
        Fault::LongReadsSkipAnEntry,
        &["rule_04_a_long_log_reads_back_from_anywhere"],
    ),
    (
        Fault::EveryoneMustWait,
        &["rule_05_a_caller_who_may_wait_gets_entries_or_is_told_so"],
    ),
    (
        Fault::WhoMayWaitGetsLess,
        &["rule_05_a_caller_who_may_wait_gets_entries_or_is_told_so"],
    ),
    (
        Fault::CompactsOneTooFew,
        &["rule_05_compact_makes_to_the_first_index"],
    ),
    (
        Fault::CompactsOneTooMany,
        &["rule_05_compact_makes_to_the_first_index"],
    ),
    (
        Fault::CompactsBackwards,
        &["rule_05_compact_at_or_below_first_changes_nothing"],
    ),
    (
        Fault::CompactionTouchesTheStates,
        &["rule_05_compact_keeps_states_and_snapshot"],
    ),
    (
        Fault::CompactsPastTheSnapshot,
        &[
            "rule_05_compact_reaches_the_snapshot_and_no_further",
            "rule_05_compact_without_a_snapshot_is_refused",
        ],
    ),
    (
        Fault::CompactsPastApplied,
        &["rule_05_compact_beyond_applied_is_refused"],
    ),
    (
        Fault::CompactsAnything,
        &["rule_05_compact_beyond_last_is_refused"],
    ),
    (
        Fault::FullCompactionFallsBack,
        &["rule_05_full_compaction_keeps_first_index"],
    ),
    (
        Fault::AppendAfterFullCompactionStartsAnywhere,
        &["rule_05_append_continues_after_full_compaction"],
    ),
    (
        Fault::InstallKeepsTheEntriesAbove,
        &[
            "rule_09_install_removes_the_entries_above_its_index",
            "rule_10_a_ready_with_only_a_snapshot",
        ],
    ),
    (
        Fault::InstallLeavesOldKeys,
        &["rule_09_no_old_entry_returns_after_an_install"],
    ),
    (
        Fault::InstallNeedsALongerLog,
        &["rule_09_install_beyond_the_log"],
    ),
    (
        Fault::InstallNeedsALog,
        &["rule_09_install_on_an_empty_store"],
    ),
    (
        Fault::InstallKeepsCommit,
        &[
            "rule_09_install_raises_commit_term_and_applied",
            "rule_12_commit_stays_within_the_log",
        ],
    ),
    (
        Fault::InstallKeepsTerm,
        &["rule_09_install_raises_commit_term_and_applied"],
    ),
    (
        Fault::InstallKeepsApplied,
        &[
            "rule_09_install_raises_commit_term_and_applied",
            "rule_13_applied_stays_within_the_log",
        ],
    ),
    (
        Fault::InstallSetsTerm,
        &["rule_09_install_keeps_a_newer_term_and_its_vote"],
    ),
    (
        Fault::InstallForgetsVote,
        &["rule_09_install_keeps_a_newer_term_and_its_vote"],
    ),
    (
        Fault::InstallKeepsConfState,
        &["rule_14_an_installed_conf_state_becomes_current"],
    ),
    (
        Fault::InstallNeedsMoreThanCommit,
        &["rule_09_a_snapshot_at_the_commit_index_is_installed"],
    ),
    (
        Fault::InstallTakesAnything,
        &["rule_09_a_snapshot_below_the_log_is_refused"],
    ),
    (
        Fault::InstallTakesWhatIsCommitted,
        &["rule_09_a_snapshot_below_commit_is_refused"],
    ),
    (
        Fault::EntriesComeBeforeTheirSnapshot,
        &["rule_10_a_ready_stores_its_snapshot_before_its_entries"],
    ),
    (
        Fault::HardStateComesBeforeTheSnapshot,
        &["rule_10_a_ready_stores_its_snapshot_before_its_entries"],
    ),
    (
        Fault::OverlapKeepsTheOldTail,
        &[
            "rule_11_overlap_deletes_the_old_tail",
            "rule_11_overlap_deletes_a_long_tail",
            "rule_20_many_truncations_leave_one_log",
        ],
    ),
    (
        Fault::OverlapLeavesOldKeys,
        &["rule_11_no_old_entry_returns_after_an_overlap"],
    ),
    (
        Fault::OverlapOfALongTailStopsEarly,
        &["rule_11_overlap_deletes_a_long_tail"],
    ),
    (
        Fault::OverlapNeverReachesTheFirst,
        &[
            "rule_11_overlap_from_the_first_entry",
            "rule_11_overlap_from_the_first_entry_after_compaction",
        ],
    ),
    (
        Fault::OverlapNeverGrows,
        &["rule_11_overlap_may_extend_the_log"],
    ),
    (
        Fault::OverlapOfTheSameLengthIsSkipped,
        &["rule_11_overlap_may_keep_the_length"],
    ),
    (
        Fault::OlderTermsAreRefused,
        &["rule_11_overlap_may_bring_older_terms"],
    ),
    (
        Fault::EmptyAppendTruncates,
        &["rule_11_empty_append_changes_nothing"],
    ),
    (
        Fault::AppendsAnywhere,
        &[
            "rule_10_entries_must_follow_their_snapshot",
            "rule_11_a_gap_before_the_entries_is_refused",
            "rule_11_entries_below_first_are_refused",
            "rule_11_index_zero_is_refused",
        ],
    ),
    (
        Fault::AppendsGapsInside,
        &["rule_11_a_gap_between_the_entries_is_refused"],
    ),
    (
        Fault::AppendsOneEntryOnly,
        &["rule_11_append_extends_the_log"],
    ),
    (
        Fault::ReadiesDoNotTruncate,
        &["rule_11_a_ready_truncates_as_an_append_does"],
    ),
    (
        Fault::WritesPartByPart,
        &["rule_12_a_refused_ready_leaves_nothing_behind"],
    ),
    (
        Fault::ReopenForgetsTheVote,
        &["rule_12_hard_state_survives_a_restart"],
    ),
    (
        Fault::CommitIsUnchecked,
        &["rule_12_commit_beyond_last_is_refused"],
    ),
    (
        Fault::CommitSetsTheTerm,
        &["rule_03_commit_keeps_term_and_vote"],
    ),
    (
        Fault::CommitGoesBack,
        &["rule_13_a_lagging_hard_state_does_not_undo_applied"],
    ),
    (
        Fault::CommitLagsBehindEntries,
        &["rule_12_entries_and_hard_state_share_one_write"],
    ),
    (
        Fault::CommitIsNotRaisedByApplied,
        &["rule_13_applied_raises_commit"],
    ),
    (
        Fault::CommitIsLoweredByApplied,
        &["rule_13_applied_is_offered_after_a_restart"],
    ),
    (
        Fault::ReopenForgetsApplied,
        &[
            "rule_13_applied_is_offered_after_a_restart",
            "rule_14_conf_state_and_applied_are_stored_together",
        ],
    ),
    (
        Fault::AppliedIsUnchecked,
        &["rule_13_applied_beyond_last_is_refused"],
    ),
    (
        Fault::CompactionForgetsApplied,
        &["rule_13_applied_stays_within_the_log"],
    ),
    (
        Fault::ConfStateForgetsItsIndex,
        &["rule_14_conf_state_and_applied_are_stored_together"],
    ),
    (
        Fault::AppliedForgetsTheConfState,
        &["rule_14_later_applies_keep_the_conf_state"],
    ),
    (
        Fault::ConfStatesAreMerged,
        &["rule_14_a_joint_conf_state_round_trips"],
    ),
    (
        Fault::SnapshotIsLabelledWithCommit,
        &["rule_03_a_snapshot_is_labelled_with_what_was_applied"],
    ),
    (
        Fault::SnapshotHasTheCurrentConfState,
        &["rule_14_a_snapshot_carries_the_conf_state_at_its_index"],
    ),
    (
        Fault::SnapshotIsMadeUp,
        &[
            "rule_15_a_fresh_store_has_no_snapshot",
            "rule_15_no_snapshot_is_made_up_from_the_log",
        ],
    ),
    (
        Fault::SnapshotIsRelabelled,
        &["rule_15_a_snapshot_reaches_the_requested_index"],
    ),
    (
        Fault::SnapshotGoesWithTheLog,
        &["rule_15_the_snapshot_is_served_after_compaction"],
    ),
    (
        Fault::SnapshotDataAreCut,
        &["rule_15_data_come_back_as_they_were_given"],
    ),
    (
        Fault::InstalledDataAreDropped,
        &["rule_15_an_installed_snapshot_is_served"],
    ),
    (
        Fault::OldSnapshotsWin,
        &["rule_15_an_older_snapshot_replaces_no_newer_one"],
    ),
    (
        Fault::SnapshotsOfTheCompactedAreTaken,
        &["rule_15_a_snapshot_below_the_log_is_not_taken"],
    ),
    (
        Fault::SnapshotsBeyondTheLogAreTaken,
        &["rule_15_a_snapshot_beyond_the_log_is_refused"],
    ),
    (
        Fault::SnapshotsLeaveAppliedBehind,
        &["rule_15_a_snapshot_is_never_ahead_of_applied"],
    ),
    (
        Fault::SnapshotsAheadKeepTheConfState,
        &["rule_15_a_snapshot_is_never_ahead_of_applied"],
    ),
    (Fault::KeysSortAsText, &["rule_20_indexes_sort_as_numbers"]),
    (
        Fault::StoresShareTheirKeys,
        &["rule_20_stores_share_nothing"],
    ),
];
