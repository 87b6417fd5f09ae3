//! One atomic write of a group: snapshot, entries, states, compaction.
//!
//! [`stage`] works on a copy of the group's state and touches no disk: it either refuses the
//! whole write or returns the changes to commit and the state that holds once they are in.
//!
//! The parts of a write take effect in a fixed order, whatever the order they were given in:
//! installed snapshot, entries, hard state, commit, configuration and applied index, created
//! snapshot, compaction.

use std::sync::Arc;

use raft::eraftpb::{Entry, SnapshotMetadata};
use smallvec::SmallVec;

use crate::changes::{Batch, Changes};
use crate::db::Db;
use crate::entry_cache::{Chunk, Places};
use crate::error::{Error, Result};
use crate::group_state::GroupState;
use crate::keys::{self, Meta};
use crate::record::{
    self, AppliedConfState, ConfState, FirstIndex, HardState, LastIndex, MetaRecord,
    SnapshotRecord, UncommitIndex,
};
use crate::snapshot::StagedSnapshot;

/// A tail up to this long is deleted entry by entry: range tombstones cost every later read
/// that crosses them.
const POINT_DELETES_MAX: u64 = 64;

/// What a put of an entry takes beyond its record, at most: tag, lengths, key.
const PUT_OVERHEAD_BYTES: usize = 48;

/// What the last index takes, which changes with every append, and what the other states take
/// that a Ready may bring.
const LAST_INDEX_BYTES: usize = 80;
const STATES_BYTES: usize = 160;

/// The last index a log can have: one more must still be a number.
const INDEX_MAX: u64 = u64::MAX - 1;

/// Whether a commit is synced before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Never: nothing that Raft acknowledges depends on it.
    No,
    /// As [`FsyncPolicy`] says.
    ByPolicy,
    /// Always: files are removed or handed out on the strength of it.
    Force,
}

/// A snapshot on its way into the store: its record, and its file if it has one.
#[derive(Debug)]
pub(crate) struct IncomingSnapshot {
    pub record: SnapshotRecord,
    pub file: Option<StagedSnapshot>,
}

impl IncomingSnapshot {
    pub(crate) fn inline(metadata: &SnapshotMetadata, data: &[u8]) -> Self {
        let record = SnapshotRecord {
            index: metadata.index,
            term: metadata.term,
            conf_state: metadata.get_conf_state().into(),
            data: data.to_vec(),
            file: None,
        };
        IncomingSnapshot { record, file: None }
    }

    pub(crate) fn staged(file: StagedSnapshot) -> Self {
        IncomingSnapshot {
            record: file.record(),
            file: Some(file),
        }
    }
}

/// A change of the application's own data; no value removes the key.
pub(crate) struct ApplicationPut {
    pub family: String,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// What one write holds. Empty by default.
#[derive(Default)]
pub(crate) struct Write<'a> {
    pub install: Option<IncomingSnapshot>,
    pub entries: Vec<&'a [Entry]>,
    pub hard_state: Option<HardState>,
    pub commit: Option<u64>,
    pub conf_state: Option<(ConfState, u64)>,
    pub applied: Option<u64>,
    pub create: Option<IncomingSnapshot>,
    pub compact: Option<Compact>,
    /// Refuse unless the group is fresh, then set the configuration at index 0.
    pub initialize: Option<ConfState>,
    pub application: Vec<ApplicationPut>,
    /// Sync by policy even when nothing that Raft acknowledges has changed.
    pub must_sync: bool,
}

/// A compaction that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compact {
    /// What becomes the first index.
    pub to: u64,
    /// Whether somebody can make a snapshot when a follower needs one.
    pub has_producer: bool,
}

/// A write that has been checked and encoded.
pub(crate) struct Staged {
    pub changes: Arc<Batch>,
    /// The entries it appends, in order, in the bytes of `changes`.
    pub appended: SmallVec<[Chunk; 1]>,
    /// What holds once `changes` are committed.
    pub next: GroupState,
    pub sync: Sync,
    /// Whether every entry before this write is gone.
    pub installed: bool,
    /// The last index that this write leaves as it was.
    pub kept_last: u64,
    /// The files of the snapshots that this write brings.
    pub new_files: Vec<StagedSnapshot>,
    /// Whether there is anything to commit.
    pub is_empty: bool,
}

/// Checks `write` against `state` and encodes it.
///
/// # Errors
/// The refusals of [`RaftMachineStorage`](crate::RaftMachineStorage)'s operations. Nothing
/// was written, and files staged for the write are removed.
pub(crate) fn stage(db: &Db, group: u64, state: &GroupState, write: Write<'_>) -> Result<Staged> {
    let entries = write.entries.iter().flat_map(|entries| entries.iter());
    let bytes = entries.map(|entry| record::entry_len(entry) + PUT_OVERHEAD_BYTES);
    let changes_states = write.hard_state.is_some() || write.commit.is_some();
    let metas = LAST_INDEX_BYTES + usize::from(changes_states) * STATES_BYTES;
    let mut draft = Draft {
        db,
        group,
        next: state.clone(),
        changes: Changes::with_capacity(bytes.sum::<usize>() + metas),
        appended: SmallVec::new(),
        installed: false,
        kept_last: state.last_index(),
        highest: state.last_index(),
        new_files: Vec::new(),
    };
    let has_application = !write.application.is_empty();
    let must_sync = write.must_sync;
    draft.apply(write)?;
    draft.next.check().map_err(|(expected, found)| {
        Error::invalid_batch(format!("it would leave {found} where {expected} is needed"))
    })?;
    draft.delete_tail()?;
    let is_empty = draft.next == *state && draft.kept_last == state.last_index();
    if !is_empty {
        draft.next.exists = true;
        draft.put_metas(state)?;
    }
    let sync = sync_needed(state, &draft, must_sync);
    let changes = Arc::new(draft.changes.finish());
    let chunk = |(first, places)| Chunk {
        first,
        places,
        bytes: Arc::clone(&changes),
    };
    Ok(Staged {
        sync,
        appended: draft.appended.into_iter().map(chunk).collect(),
        changes,
        next: draft.next,
        installed: draft.installed,
        kept_last: draft.kept_last,
        new_files: draft.new_files,
        is_empty: is_empty && !has_application,
    })
}

/// Raft acknowledges entries, terms, votes and snapshots; commit and applied it can learn
/// again (rule 16). A configuration set by hand cannot be learnt again.
fn sync_needed(old: &GroupState, draft: &Draft<'_>, must_sync: bool) -> Sync {
    let next = &draft.next;
    let same_snapshot = old.snapshot == next.snapshot;
    let has_file = |state: &GroupState| state.snapshot.as_ref().is_some_and(|s| s.file.is_some());
    if !same_snapshot && (has_file(old) || has_file(next)) {
        // The old file is removed, and a crash must find the new one named.
        return Sync::Force;
    }
    let moved_only_commit = old.exists
        && same_snapshot
        && !draft.installed
        && old.terms.last() == next.terms.last()
        && draft.kept_last == old.last_index()
        && (old.hard_state.term, old.hard_state.vote)
            == (next.hard_state.term, next.hard_state.vote)
        && old.conf_state == next.conf_state;
    if moved_only_commit && !must_sync {
        Sync::No
    } else {
        Sync::ByPolicy
    }
}

struct Draft<'a> {
    db: &'a Db,
    group: u64,
    next: GroupState,
    changes: Changes,
    /// First index and places of each run of entries.
    appended: SmallVec<[(u64, Places); 1]>,
    installed: bool,
    kept_last: u64,
    /// The highest index that has a key on disk or in `changes`.
    highest: u64,
    new_files: Vec<StagedSnapshot>,
}

impl Draft<'_> {
    fn apply(&mut self, write: Write<'_>) -> Result<()> {
        if let Some(conf_state) = write.initialize {
            self.initialize(conf_state)?;
        }
        if let Some(snapshot) = write.install {
            self.install(snapshot)?;
        }
        for entries in write.entries {
            self.append(entries)?;
        }
        if let Some(hard_state) = write.hard_state {
            self.set_hard_state(&hard_state)?;
        }
        if let Some(commit) = write.commit {
            self.raise_commit(commit)?;
        }
        if let Some((conf_state, applied)) = write.conf_state {
            self.set_applied(applied)?;
            if *self.next.conf_state != conf_state {
                self.next.conf_state = Arc::new(conf_state);
            }
        }
        if let Some(applied) = write.applied {
            self.set_applied(applied)?;
        }
        if let Some(snapshot) = write.create {
            self.create(snapshot)?;
        }
        if let Some(compact) = write.compact {
            self.compact(compact)?;
        }
        for put in write.application {
            let value = put.value.as_deref();
            self.db
                .put_application(&mut self.changes, &put.family, &put.key, value)?;
        }
        Ok(())
    }

    fn initialize(&mut self, conf_state: ConfState) -> Result<()> {
        let state = &self.next;
        if *state.conf_state != ConfState::default() || state.last_index() != 0 {
            return Err(Error::AlreadyInitialized { group: self.group });
        }
        self.next.conf_state = Arc::new(conf_state);
        Ok(())
    }

    /// Rule 9: all entries go, also those past the snapshot's index.
    fn install(&mut self, snapshot: IncomingSnapshot) -> Result<()> {
        let IncomingSnapshot { record, file } = snapshot;
        if record.index == 0 || record.term == 0 {
            return Err(Error::invalid_batch(
                "an empty snapshot (index or term 0) cannot be installed; check Snapshot::is_empty",
            ));
        }
        if record.index > INDEX_MAX {
            return Err(Error::invalid_batch(format!(
                "a snapshot at index {} leaves no index for the log behind it",
                record.index
            )));
        }
        if record.index < self.next.commit() {
            let current = self.next.commit();
            return Err(Error::SnapshotOutOfDate {
                index: record.index,
                current,
            });
        }
        let (low, high) = (
            keys::entry_buf(self.group, 0),
            keys::entries_end(self.group),
        );
        self.db.delete_range(&mut self.changes, &low, &high)?;
        let next = &mut self.next;
        next.terms = crate::term_index::TermIndex::new(record.index, record.term);
        if record.term > next.hard_state.term {
            next.hard_state.term = record.term;
            next.hard_state.vote = 0;
        }
        next.hard_state.commit = record.index;
        next.applied = record.index;
        next.conf_state = Arc::new(record.conf_state.clone());
        next.snapshot = Some(Arc::new(record));
        self.installed = true;
        self.kept_last = 0;
        self.highest = next.last_index();
        self.new_files.extend(file);
        Ok(())
    }

    fn append(&mut self, entries: &[Entry]) -> Result<()> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        self.check_follows(first.index)?;
        self.check_keeps_committed(entries)?;
        self.next.terms.truncate_suffix(first.index - 1);
        self.kept_last = self.kept_last.min(first.index - 1);

        let mut key = keys::entry_buf(self.group, first.index);
        let mut places = Places::with_capacity(entries.len());
        for entry in entries {
            let last = self.next.last_index();
            if entry.index != last + 1 || entry.index > INDEX_MAX {
                return Err(Error::Gap {
                    last,
                    first: entry.index,
                });
            }
            let last_term = self.next.terms.last_term();
            if entry.term == 0 || entry.term < last_term {
                return Err(Error::invalid_batch(format!(
                    "entry {} has term {} behind one of term {last_term}; terms start at 1 and \
                     never fall along a log",
                    entry.index, entry.term
                )));
            }
            keys::set_index(&mut key, entry.index);
            let encode = |out: &mut Vec<u8>| record::append_entry(self.group, entry, out);
            let len = record::entry_len(entry);
            let place = self.db.put_with(&mut self.changes, &key, len, encode)?;
            places.push(place);
            self.next.terms.push(entry.term);
        }
        self.appended.push((first.index, places));
        self.highest = self.highest.max(self.next.last_index());
        Ok(())
    }

    /// Rule 11: no gap before the entries, and nothing below the log.
    fn check_follows(&self, index: u64) -> Result<()> {
        let (first, last) = (self.next.first_index(), self.next.last_index());
        if index < first {
            return Err(Error::Compacted { index, first });
        }
        if index > last + 1 {
            return Err(Error::Gap { last, first: index });
        }
        Ok(())
    }

    /// What is committed may be written again, never changed and never cut off.
    fn check_keeps_committed(&self, entries: &[Entry]) -> Result<()> {
        let commit = self.next.commit();
        let overlap = entries.iter().take_while(|entry| entry.index <= commit);
        for entry in overlap {
            if self.next.terms.term(entry.index) != Some(entry.term) {
                return Err(Error::invalid_batch(format!(
                    "entry {} is committed and has another term than {}; raft never replaces \
                     it: the entries belong to another group or log",
                    entry.index, entry.term
                )));
            }
        }
        Ok(())
    }

    fn set_hard_state(&mut self, new: &HardState) -> Result<()> {
        let old = &self.next.hard_state;
        if new.term < old.term {
            return Err(Error::invalid_batch(format!(
                "the hard state's term would go back from {} to {}",
                old.term, new.term
            )));
        }
        if new.term == old.term && old.vote != 0 && new.vote != old.vote {
            return Err(Error::invalid_batch(format!(
                "node {} has the vote of term {} already, {} cannot get it too",
                old.vote, old.term, new.vote
            )));
        }
        self.next.hard_state.term = new.term;
        self.next.hard_state.vote = new.vote;
        self.raise_commit(new.commit)
    }

    /// Commit never goes back: a lower one is older knowledge (rule 13).
    fn raise_commit(&mut self, commit: u64) -> Result<()> {
        self.check_in_log(commit)?;
        let stored = &mut self.next.hard_state.commit;
        *stored = commit.max(*stored);
        Ok(())
    }

    /// Recording an applied index raises the stored commit to at least it (rule 13).
    fn set_applied(&mut self, applied: u64) -> Result<()> {
        if applied < self.next.applied {
            return Err(Error::invalid_batch(format!(
                "the applied index would go back from {} to {applied}",
                self.next.applied
            )));
        }
        self.raise_commit(applied)?;
        self.next.applied = applied;
        Ok(())
    }

    fn check_in_log(&self, index: u64) -> Result<()> {
        let last = self.next.last_index();
        if index > last {
            Err(Error::Unavailable { index, last })
        } else {
            Ok(())
        }
    }

    fn create(&mut self, snapshot: IncomingSnapshot) -> Result<()> {
        let IncomingSnapshot { record, file } = snapshot;
        let current = self.next.snapshot_index().max(1);
        if record.index < current {
            return Err(Error::SnapshotOutOfDate {
                index: record.index,
                current,
            });
        }
        let term = self.next.term(record.index)?;
        if term != record.term {
            return Err(Error::invalid_batch(format!(
                "the snapshot has term {} at index {}, the log has {term}; it was taken of \
                 entries that have been replaced since",
                record.term, record.index
            )));
        }
        if record.index > self.next.applied {
            // Whoever took the snapshot had applied that far.
            self.set_applied(record.index)?;
            self.next.conf_state = Arc::new(record.conf_state.clone());
        }
        self.next.snapshot = Some(Arc::new(record));
        self.new_files.extend(file);
        Ok(())
    }

    /// Rule 5: never past what was applied, nor past what a snapshot can stand in for.
    fn compact(&mut self, compact: Compact) -> Result<()> {
        let Compact { to, has_producer } = compact;
        let first = self.next.first_index();
        if to <= first {
            return Ok(());
        }
        let (applied, snapshot) = (self.next.applied, self.next.snapshot_index());
        let truncated = to - 1;
        if truncated > applied || (truncated > snapshot && !has_producer) {
            return Err(Error::CompactUnsafe {
                to,
                applied,
                snapshot,
            });
        }
        let (low, high) = (
            keys::entry_buf(self.group, first),
            keys::entry_buf(self.group, to),
        );
        self.db.delete_range(&mut self.changes, &low, &high)?;
        self.next.terms.compact(truncated);
        Ok(())
    }

    /// Rule 11: what stood past the new last entry goes in the same write.
    fn delete_tail(&mut self) -> Result<()> {
        let last = self.next.last_index();
        if self.highest - last > POINT_DELETES_MAX {
            let (low, high) = (
                keys::entry_buf(self.group, last + 1),
                keys::entries_end(self.group),
            );
            return self.db.delete_range(&mut self.changes, &low, &high);
        }
        let mut key = keys::entry_buf(self.group, last);
        for index in last + 1..=self.highest {
            keys::set_index(&mut key, index);
            self.db.delete(&mut self.changes, &key)?;
        }
        Ok(())
    }

    /// Writes the records that differ from what is on disk, all of them the first time.
    fn put_metas(&mut self, old: &GroupState) -> Result<()> {
        let Draft {
            db,
            group,
            next,
            changes,
            ..
        } = self;
        let all = !old.exists;
        let mut metas = Metas {
            db,
            group: *group,
            changes,
        };
        let (terms, old_terms) = (&next.terms, &old.terms);
        let truncated = (
            terms.truncated(),
            terms.term(terms.truncated()).unwrap_or(0),
        );
        if all
            || Some(truncated.1) != old_terms.term(truncated.0)
            || truncated.0 != old_terms.truncated()
        {
            metas.put(&FirstIndex {
                first_index: truncated.0 + 1,
                truncated_index: truncated.0,
                truncated_term: truncated.1,
            })?;
        }
        let last = (terms.last(), terms.last_term());
        if all || last != (old_terms.last(), old_terms.last_term()) {
            metas.put(&LastIndex {
                last_index: last.0,
                last_term: last.1,
            })?;
        }
        if all || next.hard_state != old.hard_state {
            metas.put(&next.hard_state)?;
        }
        if all || next.commit() != old.commit() {
            metas.put(&UncommitIndex {
                uncommit_index: next.commit() + 1,
            })?;
        }
        if all || (next.applied, &next.conf_state) != (old.applied, &old.conf_state) {
            let conf_state = ConfState::clone(&next.conf_state);
            metas.put(&AppliedConfState {
                conf_state,
                applied: next.applied,
            })?;
        }
        if next.snapshot != old.snapshot
            && let Some(snapshot) = &next.snapshot
        {
            metas.put(snapshot.as_ref())?;
        }
        Ok(())
    }
}

/// Where records go that a group has one of.
struct Metas<'a> {
    db: &'a Db,
    group: u64,
    changes: &'a mut Changes,
}

impl Metas<'_> {
    fn put<R: MetaRecord>(&mut self, record: &R) -> Result<()> {
        let key = keys::meta_buf(self.group, R::META);
        let encode = |out: &mut Vec<u8>| {
            record::append_meta(self.group, record, out);
            Ok(())
        };
        let len = record::meta_len(record);
        let put = self.db.put_with(self.changes, &key, len, encode);
        put.map(|_| ())
    }
}

/// The removal of everything a group has.
pub(crate) fn stage_destroy(db: &Db, group: u64) -> Result<Arc<Batch>> {
    let mut changes = Changes::default();
    for meta in Meta::ALL {
        db.delete(&mut changes, &keys::meta_buf(group, meta))?;
    }
    db.delete_range(
        &mut changes,
        &keys::entry_buf(group, 0),
        &keys::entries_end(group),
    )?;
    Ok(Arc::new(changes.finish()))
}
