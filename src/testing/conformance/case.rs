//! One store with a story behind it, and the questions that checks ask it.

use std::fmt;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata};
use raft::storage::GetEntriesContext;
use raft::{Storage, StorageError};

use super::{Checked, Failure, ReadyWrite, Step, StepError, StoreUnderTest};

/// Ends the check with a failure unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(Failure::new(format!($($text)+)));
        }
    };
}
pub(super) use ensure;

/// The codecs keep payloads as different types.
pub(super) fn bytes<T: From<Vec<u8>>>(payload: Vec<u8>) -> T {
    payload.into()
}

/// An entry whose payload tells its index and term, so that a leftover of an older tail
/// can never pass for the entry that replaced it.
pub(super) fn entry(index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryNormal);
    entry.index = index;
    entry.term = term;
    entry.data = bytes(format!("{index}@{term}").into_bytes());
    entry
}

/// The entries of one term.
pub(super) fn run(indexes: RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| entry(index, term)).collect()
}

/// Several runs one after the other.
pub(super) fn log(runs: &[(RangeInclusive<u64>, u64)]) -> Vec<Entry> {
    runs.iter()
        .flat_map(|(indexes, term)| run(indexes.clone(), *term))
        .collect()
}

pub(super) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut hard_state = HardState::default();
    hard_state.term = term;
    hard_state.vote = vote;
    hard_state.commit = commit;
    hard_state
}

pub(super) fn voters(ids: &[u64]) -> ConfState {
    let mut conf_state = ConfState::default();
    conf_state.set_voters(ids.to_vec());
    conf_state
}

/// A conf state in the middle of a joint change, with every field in use.
pub(super) fn joint() -> ConfState {
    let mut conf_state = voters(&[1, 2, 4]);
    conf_state.set_learners(vec![7, u64::MAX]);
    conf_state.set_voters_outgoing(vec![1, 2, 3]);
    conf_state.set_learners_next(vec![3]);
    conf_state.auto_leave = true;
    conf_state
}

pub(super) fn snapshot(index: u64, term: u64, conf_state: &ConfState, data: &[u8]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.data = bytes(data.to_vec());
    let metadata = snapshot.mut_metadata();
    metadata.index = index;
    metadata.term = term;
    metadata.set_conf_state(conf_state.clone());
    snapshot
}

/// Bytes without a pattern that a compressor or a truncation could hide behind.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(step).take(length).collect()
}

/// The two errors by which a storage tells raft-rs where its log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    Compacted,
    Unavailable,
}

/// Everything that raft-rs and a restart can read from a store.
#[derive(PartialEq)]
pub(super) struct Observed {
    bounds: (u64, u64),
    terms: Vec<u64>,
    entries: Vec<Entry>,
    hard_state: HardState,
    conf_state: ConfState,
    applied: u64,
    snapshot: Result<Snapshot, String>,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[{}, {}]: {}; {}; {}; applied {}; snapshot {}",
            self.bounds.0,
            self.bounds.1,
            show(&self.entries),
            show_hard_state(&self.hard_state),
            show_conf_state(&self.conf_state),
            self.applied,
            match &self.snapshot {
                Ok(snapshot) => show_metadata(snapshot.get_metadata()),
                Err(error) => error.clone(),
            }
        )
    }
}

/// A store under test, with every answer either checked or turned into a [`Failure`].
pub(super) struct Case<S> {
    pub(super) store: S,
}

impl<S: StoreUnderTest> Case<S> {
    pub(super) fn new() -> Checked<Self> {
        let store = S::fresh().map_err(|error| said("fresh()", &error))?;
        Ok(Case { store })
    }

    /// A store that holds `entries`, which start at index 1.
    pub(super) fn with_log(entries: &[Entry]) -> Checked<Self> {
        let mut case = Self::new()?;
        case.append(entries)?;
        Ok(case)
    }

    /// A store that holds `entries`, has applied up to `applied` under voters 1, 2 and 3,
    /// and has a snapshot at `snapshot_index`.
    pub(super) fn settled(entries: &[Entry], applied: u64, snapshot_index: u64) -> Checked<Self> {
        let mut case = Self::with_log(entries)?;
        let term = entries.last().map_or(0, |entry| entry.term);
        case.set_hard_state(&hard_state(term, 1, applied))?;
        case.set_conf_state(&voters(&[1, 2, 3]), applied)?;
        case.create_snapshot(snapshot_index, &voters(&[1, 2, 3]), b"state")?;
        Ok(case)
    }

    pub(super) fn append(&mut self, entries: &[Entry]) -> Checked {
        must(
            &format!("append of {}", show(entries)),
            self.store.append(entries),
        )
    }

    pub(super) fn set_hard_state(&mut self, state: &HardState) -> Checked {
        must(
            &format!("set_hard_state({})", show_hard_state(state)),
            self.store.set_hard_state(state),
        )
    }

    pub(super) fn set_commit(&mut self, commit: u64) -> Checked {
        must(
            &format!("set_commit({commit})"),
            self.store.set_commit(commit),
        )
    }

    pub(super) fn set_conf_state(&mut self, state: &ConfState, applied: u64) -> Checked {
        must(
            &format!("set_conf_state({}, {applied})", show_conf_state(state)),
            self.store.set_conf_state(state, applied),
        )
    }

    pub(super) fn set_applied(&mut self, applied: u64) -> Checked {
        must(
            &format!("set_applied({applied})"),
            self.store.set_applied(applied),
        )
    }

    pub(super) fn write(&mut self, write: &ReadyWrite) -> Checked {
        must("write of a Ready", self.store.write(write))
    }

    pub(super) fn install(&mut self, snapshot: &Snapshot) -> Checked {
        must(
            &format!("install at {}", snapshot.get_metadata().index),
            self.store.install(snapshot),
        )
    }

    pub(super) fn create_snapshot(
        &mut self,
        index: u64,
        state: &ConfState,
        data: &[u8],
    ) -> Checked {
        must(
            &format!("create_snapshot({index})"),
            self.store.create_snapshot(index, state, data),
        )
    }

    pub(super) fn compact(&mut self, to: u64) -> Checked {
        must(&format!("compact({to})"), self.store.compact(to))
    }

    pub(super) fn reopen(&mut self) -> Checked {
        must("reopen", self.store.reopen())
    }

    /// Asks twice: of the open store, and of what it finds on disk.
    pub(super) fn now_and_reopened(&mut self, ask: impl Fn(&Self) -> Checked) -> Checked {
        ask(self)?;
        self.reopen()?;
        ask(self).map_err(|failure| Failure::new(format!("after reopening: {failure}")))
    }

    /// The operation must answer an error and leave everything as it was, on disk too.
    pub(super) fn refuses(
        &mut self,
        what: &str,
        operation: impl FnOnce(&mut S) -> Step,
    ) -> Checked {
        let before = self.observe()?;
        ensure!(operation(&mut self.store).is_err(), "{what} was accepted");
        self.now_and_reopened(|case| {
            let after = case.observe()?;
            ensure!(
                after == before,
                "{what} was refused, but it changed the store\n    from {before}\n    to   {after}"
            );
            Ok(())
        })
    }

    /// The operation may answer either way.
    pub(super) fn may_refuse(&mut self, operation: impl FnOnce(&mut S) -> Step) {
        let _either = operation(&mut self.store);
    }

    /// The operation may answer either way, but must leave everything as it was.
    pub(super) fn unchanged_by(
        &mut self,
        what: &str,
        operation: impl FnOnce(&mut S) -> Step,
    ) -> Checked {
        let before = self.observe()?;
        let _either = operation(&mut self.store);
        self.now_and_reopened(|case| {
            let after = case.observe()?;
            ensure!(
                after == before,
                "{what} changed the store\n    from {before}\n    to   {after}"
            );
            Ok(())
        })
    }

    pub(super) fn observe(&self) -> Checked<Observed> {
        let (first, last) = (self.first_index()?, self.last_index()?);
        let state = self.initial_state()?;
        Ok(Observed {
            bounds: (first, last),
            terms: (first..=last)
                .map(|index| self.term(index))
                .collect::<Checked<_>>()?,
            entries: if first <= last {
                self.entries(first, last + 1, None)?
            } else {
                Vec::new()
            },
            hard_state: state.hard_state,
            conf_state: state.conf_state,
            applied: self.applied()?,
            snapshot: self
                .storage()
                .snapshot(0, 2)
                .map_err(|error| error.to_string()),
        })
    }

    pub(super) fn storage(&self) -> &S::Storage {
        self.store.storage()
    }

    pub(super) fn first_index(&self) -> Checked<u64> {
        self.storage()
            .first_index()
            .map_err(|error| said("first_index()", &error))
    }

    pub(super) fn last_index(&self) -> Checked<u64> {
        self.storage()
            .last_index()
            .map_err(|error| said("last_index()", &error))
    }

    fn initial_state(&self) -> Checked<raft::RaftState> {
        self.storage()
            .initial_state()
            .map_err(|error| said("initial_state()", &error))
    }

    pub(super) fn hard_state(&self) -> Checked<HardState> {
        Ok(self.initial_state()?.hard_state)
    }

    pub(super) fn conf_state(&self) -> Checked<ConfState> {
        Ok(self.initial_state()?.conf_state)
    }

    pub(super) fn applied(&self) -> Checked<u64> {
        self.store
            .applied()
            .map_err(|error: StepError| said("applied()", &error))
    }

    fn term(&self, index: u64) -> Checked<u64> {
        let what = format!("term({index})");
        self.storage()
            .term(index)
            .map_err(|error| said(&what, &error))
    }

    /// What `[low, high)` holds, without asynchrony.
    pub(super) fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
    ) -> Checked<Vec<Entry>> {
        let what = format!("entries({low}, {high})");
        self.storage()
            .entries(low, high, max_size, GetEntriesContext::empty(false))
            .map_err(|error| said(&what, &error))
    }

    /// As [`entries`](Self::entries), for a caller who could be told to wait.
    pub(super) fn entries_or_wait(&self, low: u64, high: u64) -> Checked<Option<Vec<Entry>>> {
        let context = GetEntriesContext::empty(true);
        match self.storage().entries(low, high, None, context) {
            Ok(entries) => Ok(Some(entries)),
            Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable)) => Ok(None),
            Err(error) => Err(said(&format!("entries({low}, {high})"), &error)),
        }
    }

    /// The newest snapshot, for a follower who asks for nothing in particular.
    pub(super) fn snapshot(&self) -> Checked<Snapshot> {
        self.snapshot_from(0)
    }

    pub(super) fn snapshot_from(&self, request_index: u64) -> Checked<Snapshot> {
        let what = format!("snapshot({request_index}, 2)");
        self.storage()
            .snapshot(request_index, 2)
            .map_err(|error| said(&what, &error))
    }

    pub(super) fn expect_no_snapshot(&self, request_index: u64) -> Checked {
        match self.storage().snapshot(request_index, 2) {
            Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)) => Ok(()),
            Err(error) => Err(said(&format!("snapshot({request_index}, 2)"), &error)),
            Ok(snapshot) => Err(Failure::new(format!(
                "snapshot({request_index}, 2) answered {}, expected SnapshotTemporarilyUnavailable",
                show_metadata(snapshot.get_metadata())
            ))),
        }
    }

    pub(super) fn expect_bounds(&self, first: u64, last: u64) -> Checked {
        let found = (self.first_index()?, self.last_index()?);
        ensure!(
            found == (first, last),
            "first and last index are {found:?}, expected ({first}, {last})"
        );
        Ok(())
    }

    pub(super) fn expect_term(&self, index: u64, term: u64) -> Checked {
        let found = self.term(index)?;
        ensure!(found == term, "term({index}) is {found}, expected {term}");
        Ok(())
    }

    pub(super) fn expect_no_term(&self, index: u64, beyond: Beyond) -> Checked {
        let found = self.storage().term(index);
        ensure!(
            found.as_ref().err().and_then(beyond_of) == Some(beyond),
            "term({index}) answered {found:?}, expected {beyond:?}"
        );
        Ok(())
    }

    pub(super) fn expect_no_entries(&self, low: u64, high: u64, beyond: Beyond) -> Checked {
        let context = GetEntriesContext::empty(false);
        let found = self.storage().entries(low, high, None, context);
        ensure!(
            found.as_ref().err().and_then(beyond_of) == Some(beyond),
            "entries({low}, {high}) answered {found:?}, expected {beyond:?}"
        );
        Ok(())
    }

    /// raft-rs documents a panic where a caller asks beyond the log's end.
    pub(super) fn expect_entries_panic(&self, low: u64, high: u64) -> Checked {
        let context = GetEntriesContext::empty(false);
        let read = || self.storage().entries(low, high, None, context);
        if let Ok(found) = catch_unwind(AssertUnwindSafe(read)) {
            return Err(Failure::new(format!(
                "entries({low}, {high}) answered {found:?}, expected a panic"
            )));
        }
        Ok(())
    }

    /// The log holds exactly `entries`, which are not empty: bounds, terms, the entries as
    /// a range and one by one, and nothing above.
    pub(super) fn expect_log(&self, entries: &[Entry]) -> Checked {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(Failure::new(
                "the check expects an empty log; it is mistaken",
            ));
        };
        self.expect_bounds(first.index, last.index)?;
        for entry in entries {
            self.expect_term(entry.index, entry.term)?;
            let alone = self.entries(entry.index, entry.index + 1, None)?;
            expect_entries(&alone, std::slice::from_ref(entry))?;
        }
        expect_entries(&self.entries(first.index, last.index + 1, None)?, entries)?;
        self.expect_no_term(last.index + 1, Beyond::Unavailable)
    }

    /// The log is empty and continues after `truncated`, whose term is known.
    pub(super) fn expect_empty_log(&self, truncated: u64, term: u64) -> Checked {
        self.expect_bounds(truncated + 1, truncated)?;
        self.expect_term(truncated, term)?;
        self.expect_no_term(truncated + 1, Beyond::Unavailable)
    }

    pub(super) fn expect_hard_state(&self, expected: &HardState) -> Checked {
        let found = self.hard_state()?;
        ensure!(
            found == *expected,
            "the hard state is {}, expected {}",
            show_hard_state(&found),
            show_hard_state(expected)
        );
        Ok(())
    }

    pub(super) fn expect_conf_state(&self, expected: &ConfState) -> Checked {
        let found = self.conf_state()?;
        ensure!(
            found == *expected,
            "the conf state is {}, expected {}",
            show_conf_state(&found),
            show_conf_state(expected)
        );
        Ok(())
    }

    pub(super) fn expect_applied(&self, expected: u64) -> Checked {
        let found = self.applied()?;
        ensure!(
            found == expected,
            "the applied index is {found}, expected {expected}"
        );
        Ok(())
    }

    pub(super) fn expect_snapshot(&self, expected: &Snapshot) -> Checked {
        let found = self.snapshot()?;
        ensure!(
            found.get_metadata() == expected.get_metadata(),
            "the snapshot is {}, expected {}",
            show_metadata(found.get_metadata()),
            show_metadata(expected.get_metadata())
        );
        ensure!(
            found.data == expected.data,
            "the snapshot's data are {} bytes that differ from the {} bytes it was made with",
            found.data.len(),
            expected.data.len()
        );
        Ok(())
    }
}

pub(super) fn expect_entries(found: &[Entry], expected: &[Entry]) -> Checked {
    let (named, wanted) = (show(found), show(expected));
    ensure!(
        named == wanted,
        "the entries are {named}, expected {wanted}"
    );
    let differs = found
        .iter()
        .zip(expected)
        .find(|(found, expected)| found != expected);
    if let Some((found, expected)) = differs {
        return Err(Failure::new(format!(
            "entry {} came back changed: {}, expected {}",
            expected.index,
            show_whole(found),
            show_whole(expected)
        )));
    }
    Ok(())
}

/// The entries as `index@term`, long stretches shortened.
pub(super) fn show(entries: &[Entry]) -> String {
    let name = |entry: &Entry| format!("{}@{}", entry.index, entry.term);
    match entries {
        [] => "none".to_string(),
        [first, .., last] if entries.len() > 24 => {
            format!("{} entries {}..={}", entries.len(), name(first), name(last))
        }
        _ => entries.iter().map(name).collect::<Vec<_>>().join(" "),
    }
}

fn show_whole(entry: &Entry) -> String {
    format!(
        "{}@{} {:?} data of {} bytes, context of {} bytes, sync_log {}",
        entry.index,
        entry.term,
        entry.get_entry_type(),
        entry.data.len(),
        entry.context.len(),
        entry.sync_log
    )
}

fn show_hard_state(state: &HardState) -> String {
    format!(
        "term {} vote {} commit {}",
        state.term, state.vote, state.commit
    )
}

fn show_conf_state(state: &ConfState) -> String {
    format!(
        "voters {:?} learners {:?} outgoing {:?} next {:?} auto_leave {}",
        state.get_voters(),
        state.get_learners(),
        state.get_voters_outgoing(),
        state.get_learners_next(),
        state.auto_leave
    )
}

fn show_metadata(metadata: &SnapshotMetadata) -> String {
    let conf_state = show_conf_state(metadata.get_conf_state());
    format!("{}@{} with {conf_state}", metadata.index, metadata.term)
}

pub(super) fn beyond_of(error: &raft::Error) -> Option<Beyond> {
    match error {
        raft::Error::Store(StorageError::Compacted) => Some(Beyond::Compacted),
        raft::Error::Store(StorageError::Unavailable) => Some(Beyond::Unavailable),
        _ => None,
    }
}

pub(super) fn must(what: &str, outcome: Step) -> Checked {
    outcome.map_err(|error| said(what, &error))
}

pub(super) fn said(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{what} answered an error: {error}"))
}
