//! The log of one group: append, truncate, compact, fetch.
//!
//! Invariants:
//! 1. One writer at a time: `writer` is held from checking a write against the state to
//!    putting the new state in place. Readers never wait for a sync.
//! 2. Memory follows disk: for a blocking write `memory` changes only after it has succeeded.
//!    A submitted write is in `memory` at once, marked as not persisted, and its entries are
//!    pinned in the cache until it is acknowledged: nothing on disk can answer for them. So is one
//!    that waits for no sync.
//! 3. What is read from RocksDB is checked against the bounds and terms in memory, and read
//!    again without a writer beside it before it is called damaged: a reader may see a
//!    truncation on disk before it sees it in memory.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use parking_lot::{Mutex, MutexGuard, RwLock};
use protobuf::Message as _;
use raft::eraftpb::{self, Entry, SnapshotMetadata};

use crate::batch::{self, IncomingSnapshot, Staged, Sync, Write};
use crate::config::Options;
use crate::db::Db;
use crate::entry_cache::EntryCache;
use crate::error::{Error, Result};
use crate::group_commit::{Committed, GroupCommit};
use crate::group_state::GroupState;
use crate::keys;
use crate::metrics;
use crate::record::{self, SnapshotFile, SnapshotRecord};
use crate::recovery;
use crate::snapshot::{self, SnapshotDir, SnapshotId, SnapshotReader, SnapshotWriter};

/// Entries to make room for before the number that will be read is known.
const FETCH_CAPACITY_MAX: u64 = 1024;

/// One group of a store.
pub(crate) struct RaftLog {
    db: Arc<Db>,
    commits: Arc<GroupCommit>,
    group: u64,
    snapshot_inline_bytes_max: usize,
    writer: Mutex<()>,
    shared: Arc<Shared>,
    destroyed: AtomicBool,
}

/// What the acknowledgements of submitted writes need too.
struct Shared {
    memory: RwLock<Memory>,
    snapshots: SnapshotDir,
}

struct Memory {
    state: GroupState,
    cache: EntryCache,
    persisted: Persisted,
    pending: Pending,
}

/// What has been submitted and not yet acknowledged.
#[derive(Default)]
struct Pending {
    /// Of each write, in order, the snapshot file that goes once the record that replaces it is
    /// durable.
    replaced: VecDeque<Option<SnapshotFile>>,
    /// (number of the write, what it has changed from where), for writes that no later one
    /// undercuts: numbers and indexes both grow, so the first is the lowest.
    changed: VecDeque<(u64, u64)>,
    acknowledged: u64,
}

impl Pending {
    /// The first index that only memory answers for.
    fn pinned_from(&self) -> u64 {
        self.changed.front().map_or(u64::MAX, |changed| changed.1)
    }

    /// A write that changes the log from `changed_from` on; `u64::MAX` for none of it.
    fn push(&mut self, changed_from: u64) {
        while self
            .changed
            .back()
            .is_some_and(|last| last.1 >= changed_from)
        {
            self.changed.pop_back();
        }
        let number = self.acknowledged + self.replaced.len() as u64;
        self.changed.push_back((number, changed_from));
        self.replaced.push_back(None);
    }

    /// The oldest is acknowledged; returns the file that goes with it.
    fn pop(&mut self) -> Option<SnapshotFile> {
        let replaced = self.replaced.pop_front()?;
        if self
            .changed
            .front()
            .is_some_and(|first| first.0 == self.acknowledged)
        {
            self.changed.pop_front();
        }
        self.acknowledged += 1;
        replaced
    }
}

/// A submitted write is on disk; runs before its callback.
fn acknowledge(shared: &Shared) {
    let mut memory = shared.memory.write();
    let replaced = memory.pending.pop();
    let pinned = memory.pending.pinned_from();
    memory.cache.pin(pinned);
    memory.cache.evict();
    drop(memory);
    if let Some(file) = replaced {
        shared.snapshots.discard(&file);
    }
}

/// How much of the log is durable.
///
/// Two writes are remembered, whatever their number: the newest, and one that waits for a
/// sync while newer ones go on. A sync that covers it moves the floor, so that the index
/// advances under a load that never pauses.
#[derive(Clone, Copy, Debug, Default)]
struct Persisted {
    /// Durable for certain.
    floor: u64,
    waiting: Option<Mark>,
    /// `None`: everything is durable.
    newest: Option<Mark>,
}

/// A write that is not known to be durable: what is once a sync has covered it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    ticket: u64,
    last: u64,
}

impl Persisted {
    /// `durable` is the ticket up to which everything is.
    fn index(&self, last: u64, durable: u64) -> u64 {
        let covered = |mark: &Mark| mark.ticket <= durable;
        match (&self.newest, &self.waiting) {
            (None, _) => last,
            (Some(newest), _) if covered(newest) => last,
            (_, Some(waiting)) if covered(waiting) => waiting.last,
            _ => self.floor,
        }
    }

    /// After an unsynced write to a log that ended at `last`, which left it as it was up to
    /// `kept` and made it end where `newest` says.
    fn after_write(&self, last: u64, kept: u64, newest: Mark, durable: u64) -> Persisted {
        let uncovered = |mark: &Mark| mark.ticket > durable;
        let waiting = self
            .waiting
            .filter(uncovered)
            .or(self.newest.filter(uncovered));
        let waiting = waiting.map(|mark| Mark {
            last: mark.last.min(kept),
            ..mark
        });
        Persisted {
            floor: self.index(last, durable).min(kept),
            waiting: Some(waiting.unwrap_or(newest)),
            newest: Some(newest),
        }
    }
}

impl RaftLog {
    /// Opens a group, verifying what is on disk.
    pub(crate) fn open(
        db: Arc<Db>,
        commits: Arc<GroupCommit>,
        group: u64,
        snapshots: SnapshotDir,
        options: &Options,
    ) -> Result<Self> {
        let state = recovery::load(&db, &snapshots, group, options.verify)?;
        let named = file_of(&state).map(|file| file.name.clone());
        snapshots.remove_orphans(|id, name| id == group && Some(name) != named.as_deref())?;
        let memory = Memory {
            state,
            cache: EntryCache::new(0),
            persisted: Persisted::default(),
            pending: Pending::default(),
        };
        Ok(RaftLog {
            db,
            commits,
            group,
            snapshot_inline_bytes_max: options.snapshot_inline_bytes_max,
            writer: Mutex::new(()),
            shared: Arc::new(Shared {
                memory: RwLock::new(memory),
                snapshots,
            }),
            destroyed: AtomicBool::new(false),
        })
    }

    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    /// Reads the state that the last successful write left.
    pub(crate) fn state<R>(&self, read: impl FnOnce(&GroupState) -> R) -> R {
        read(&self.shared.memory.read().state)
    }

    pub(crate) fn set_cache_bytes_max(&self, bytes_max: usize) {
        self.shared.memory.write().cache.set_bytes_max(bytes_max);
    }

    /// The last index that is durable for certain.
    pub(crate) fn persisted_index(&self) -> u64 {
        let memory = self.shared.memory.read();
        memory
            .persisted
            .index(memory.state.last_index(), self.commits.durable())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.commits.barrier(Sync::Force)
    }

    /// Puts one write on disk, whole or not at all, then takes its result into memory.
    ///
    /// # Errors
    /// Refusals leave everything as it was. [`Error::Rocks`] and [`Error::Poisoned`]: see
    /// [`GroupCommit::commit`].
    pub(crate) fn write(&self, write: Write<'_>) -> Result<()> {
        self.commits.check_thread()?;
        let _writer = self.writer.lock();
        let staged = self.stage(write)?;
        if staged.is_empty {
            // Nothing to write, but what makes it nothing may be submitted and not yet durable.
            return self.commits.barrier(staged.sync);
        }
        let changes = Arc::clone(&staged.changes);
        let committed = self.commits.commit(changes, staged.sync)?;
        let mut memory = self.shared.memory.write();
        let replaced = self.take_into(&mut memory, staged, committed);
        drop(memory);
        // Only now: a reader that finds the file gone must find the new record in memory.
        if let Some(file) = replaced {
            self.shared.snapshots.discard(&file);
        }
        Ok(())
    }

    /// Takes one write into memory and hands it to the group commit; `on_durable` is told how
    /// it ended, in order.
    ///
    /// # Errors
    /// Refusals leave everything as it was, and `on_durable` is not called.
    pub(crate) fn submit(
        &self,
        write: Write<'_>,
        on_durable: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        self.commits.check_thread()?;
        let writer = self.writer.lock();
        let staged = self.stage(write)?;
        self.hand_in(writer, staged, false, on_durable).map(|_| ())
    }

    /// Takes one write into memory, and returns when it is in the log of the store and so is all
    /// that was submitted before: no sync is waited for, and no other writer of the group waits
    /// meanwhile.
    ///
    /// # Errors
    /// As [`RaftLog::write`].
    pub(crate) fn write_unsynced(&self, write: Write<'_>) -> Result<()> {
        self.commits.check_thread()?;
        let writer = self.writer.lock();
        let staged = self.stage(write)?;
        let (told, ended) = mpsc::channel();
        // Nobody listens any more when it has been written.
        let on_durable = move |result| drop(told.send(result));
        let ticket = self.hand_in(writer, staged, true, on_durable)?;
        if self.commits.wait_written(ticket) {
            return Ok(());
        }
        ended.recv().unwrap_or_else(|_| Err(self.db.poisoned()))
    }

    /// Takes one write into memory and queues it; its ticket.
    fn hand_in(
        &self,
        writer: MutexGuard<'_, ()>,
        staged: Staged,
        attended: bool,
        on_durable: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<u64> {
        let changes = (!staged.is_empty).then(|| Arc::clone(&staged.changes));
        let reserved = self.commits.reserve(changes, staged.sync, attended)?;

        // Held until the state is in place: the acknowledgement, which may come at any time
        // from here on, waits for it.
        let mut memory = self.shared.memory.write();
        let shared = Arc::clone(&self.shared);
        let submitted = reserved.submit(move |result: Result<()>| {
            if result.is_ok() {
                acknowledge(&shared);
            }
            on_durable(result);
        });
        let ticket = match submitted {
            Ok(ticket) => ticket,
            Err((error, on_durable)) => {
                // What a callback does when it is dropped may need the locks.
                drop((memory, writer));
                drop(on_durable);
                return Err(error);
            }
        };
        if staged.is_empty {
            memory.pending.push(u64::MAX);
            return Ok(ticket);
        }
        memory.pending.push(staged.kept_last.saturating_add(1));
        let pinned = memory.pending.pinned_from();
        memory.cache.pin(pinned);
        let committed = Committed {
            ticket,
            durable: false,
        };
        let replaced = self.take_into(&mut memory, staged, committed);
        if let Some(newest) = memory.pending.replaced.back_mut() {
            *newest = replaced;
        }
        Ok(ticket)
    }

    /// Checks a write and encodes it; the files it brings are kept from here on.
    fn stage(&self, write: Write<'_>) -> Result<Staged> {
        self.check_alive()?;
        self.db.check_poison()?;
        let old = self.shared.memory.read().state.clone();
        let mut staged = batch::stage(&self.db, self.group, &old, write)?;
        for file in &staged.new_files {
            file.check_present()?;
        }
        // From here on a record may name the files, whatever the write returns.
        staged
            .new_files
            .drain(..)
            .for_each(snapshot::StagedSnapshot::keep);
        Ok(staged)
    }

    /// Puts what a write leaves into memory; returns the snapshot file that it replaces.
    fn take_into(
        &self,
        memory: &mut Memory,
        staged: Staged,
        committed: Committed,
    ) -> Option<SnapshotFile> {
        let old = file_of(&memory.state).cloned();
        let forced = staged.sync == Sync::Force;
        memory.persisted = if committed.durable {
            Persisted::default()
        } else {
            let newest = Mark {
                ticket: committed.ticket,
                last: staged.next.last_index(),
            };
            let (last, durable) = (memory.state.last_index(), self.commits.durable());
            memory
                .persisted
                .after_write(last, staged.kept_last, newest, durable)
        };
        if staged.installed {
            memory.cache.clear();
        }
        memory
            .cache
            .truncate_from(staged.kept_last.saturating_add(1));
        for chunk in staged.appended {
            metrics::appended(chunk.places.iter().map(Range::len));
            memory.cache.append(chunk);
        }
        memory.cache.compact(staged.next.first_index());
        memory.state = staged.next;
        let replaced = old.filter(|file| file_of(&memory.state) != Some(file));
        debug_assert!(
            replaced.is_none() || forced,
            "the record that replaces a file's is durable before it goes"
        );
        replaced
    }

    fn check_alive(&self) -> Result<()> {
        if self.destroyed.load(Ordering::Acquire) {
            return Err(Error::GroupDestroyed { group: self.group });
        }
        Ok(())
    }

    /// Removes everything the group has; later calls are refused.
    pub(crate) fn destroy(&self) -> Result<()> {
        self.commits.check_thread()?;
        let _writer = self.writer.lock();
        self.check_alive()?;
        destroy(&self.db, &self.commits, self.group, &self.shared.snapshots)?;
        self.destroyed.store(true, Ordering::Release);
        self.shared.memory.write().cache.clear();
        Ok(())
    }

    /// The entries in `[low, high)`, at least one, and no more than `max_size` bytes as
    /// raft-rs counts them.
    pub(crate) fn fetch(&self, low: u64, high: u64, max_size: Option<u64>) -> Result<Vec<Entry>> {
        if let Some(entries) = self.try_fetch(low, high, max_size)? {
            return Ok(entries);
        }
        // A write went on beside the read, or the disk is damaged: look again without one.
        self.commits.check_thread()?;
        let _writer = self.writer.lock();
        match self.try_fetch(low, high, max_size)? {
            Some(entries) => Ok(entries),
            None => {
                let key = keys::display(&keys::entry(self.group, low));
                let expected = format!("the entries {low}..{high} with the terms they had");
                Err(Error::corruption(
                    "log",
                    key,
                    expected,
                    "other entries, or none",
                ))
            }
        }
    }

    /// As [`RaftLog::fetch`], when nothing has to be read from RocksDB.
    pub(crate) fn fetch_cached(
        &self,
        low: u64,
        high: u64,
        max_size: Option<u64>,
    ) -> Result<Option<Vec<Entry>>> {
        let mut fetched = Fetched::new(low, high, max_size);
        let cold = self.with_range(low, high, |memory| fetched.take_cached(&memory.cache))?;
        if cold.is_empty() {
            metrics::read(true);
            return Ok(Some(fetched.entries));
        }
        Ok(None)
    }

    /// As [`RaftLog::fetch`], from entries that were fetched before, if they are still those
    /// of the log.
    pub(crate) fn take_fetched(
        &self,
        entries: Vec<Entry>,
        low: u64,
        high: u64,
        max_size: Option<u64>,
    ) -> Result<Option<Vec<Entry>>> {
        let wanted = entries.into_iter().take_while(|entry| entry.index < high);
        let mut fetched = Fetched::new(low, high, max_size);
        self.with_range(low, high, |memory| {
            let terms = &memory.state.terms;
            for entry in wanted {
                if terms.term(entry.index) != Some(entry.term) {
                    return None;
                }
                if !fetched.push(entry) {
                    break;
                }
            }
            (!fetched.entries.is_empty()).then_some(fetched.entries)
        })
    }

    /// `None` when what was read does not fit the bounds and terms in memory.
    fn try_fetch(&self, low: u64, high: u64, max_size: Option<u64>) -> Result<Option<Vec<Entry>>> {
        let mut fetched = Fetched::new(low, high, max_size);
        let mut from_memory = true;
        // The cache may shrink between two rounds; each round gets further.
        loop {
            let cold = self.with_range(low, high, |memory| {
                let terms = &memory.state.terms;
                let fits = fetched
                    .entries
                    .iter()
                    .all(|e| terms.term(e.index) == Some(e.term));
                fits.then(|| fetched.take_cached(&memory.cache))
            })?;
            let Some(cold) = cold else { return Ok(None) };
            if cold.is_empty() {
                metrics::read(from_memory);
                return Ok(Some(fetched.entries));
            }
            from_memory = false;
            let end = cold.end;
            self.read_cold(cold, &mut fetched)?;
            if !fetched.full && fetched.next < end {
                return Ok(None);
            }
        }
    }

    /// Runs `read` on a range that lies within the log.
    fn with_range<R>(&self, low: u64, high: u64, read: impl FnOnce(&Memory) -> R) -> Result<R> {
        self.check_alive()?;
        let memory = self.shared.memory.read();
        let (first, last) = (memory.state.first_index(), memory.state.last_index());
        if low < first {
            return Err(Error::Compacted { index: low, first });
        }
        if low > high || high > last + 1 {
            let index = if low > high { low } else { high - 1 };
            return Err(Error::Unavailable { index, last });
        }
        Ok(read(&memory))
    }

    /// Reads entries from RocksDB up to the end of `range` or of what fits.
    fn read_cold(&self, range: Range<u64>, fetched: &mut Fetched) -> Result<()> {
        let (low, high) = (
            keys::entry_buf(self.group, range.start),
            keys::entry_buf(self.group, range.end),
        );
        self.db.scan(&low, Some(&high), |key, value| {
            let index = fetched.next;
            if keys::parse(key) != Some(keys::Key::Entry(self.group, index)) {
                return Ok(ControlFlow::Break(()));
            }
            let entry = record::decode_entry(self.group, index, value)
                .map_err(|damage| damage.at("entry", keys::display(key)))?;
            Ok(if fetched.push(entry) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })
    }

    /// Starts a snapshot file for an index of this group.
    pub(crate) fn stage_snapshot(
        &self,
        index: u64,
        term: u64,
        conf_state: record::ConfState,
    ) -> Result<SnapshotWriter> {
        self.check_alive()?;
        let id = SnapshotId {
            group: self.group,
            index,
            term,
        };
        SnapshotWriter::create(&self.shared.snapshots, id, conf_state)
    }

    /// Takes snapshot data into the store's hands: in the record when it is small, else in a
    /// file that is durable when this returns.
    pub(crate) fn bring(
        &self,
        metadata: &SnapshotMetadata,
        data: &[u8],
    ) -> Result<IncomingSnapshot> {
        if data.len() <= self.snapshot_inline_bytes_max {
            return Ok(IncomingSnapshot::inline(metadata, data));
        }
        let conf_state = metadata.get_conf_state().into();
        let mut writer = self.stage_snapshot(metadata.index, metadata.term, conf_state)?;
        std::io::Write::write_all(&mut writer, data)
            .map_err(|e| Error::io("write", std::path::Path::new("a snapshot file"), e))?;
        Ok(IncomingSnapshot::staged(writer.finish()?))
    }

    /// The record of the stored snapshot.
    pub(crate) fn snapshot_record(&self) -> Option<Arc<SnapshotRecord>> {
        self.state(|state| state.snapshot.clone())
    }

    /// Opens the stored snapshot's data.
    pub(crate) fn open_snapshot(&self) -> Result<Option<SnapshotReader>> {
        self.with_snapshot(|record| {
            SnapshotReader::open(&self.shared.snapshots, self.group, record)
        })
    }

    /// The stored snapshot's metadata with all of its data.
    pub(crate) fn read_snapshot(&self) -> Result<Option<(Arc<SnapshotRecord>, Vec<u8>)>> {
        self.with_snapshot(|record| {
            let data = snapshot::read_all(&self.shared.snapshots, self.group, record)?;
            Ok((Arc::clone(record), data))
        })
    }

    /// Runs `read` on the stored snapshot, again when a newer one has replaced it (and its
    /// file) meanwhile.
    fn with_snapshot<R>(
        &self,
        mut read: impl FnMut(&Arc<SnapshotRecord>) -> Result<R>,
    ) -> Result<Option<R>> {
        loop {
            self.check_alive()?;
            let Some(record) = self.snapshot_record() else {
                return Ok(None);
            };
            match read(&record) {
                Ok(value) => return Ok(Some(value)),
                Err(e) if self.snapshot_record().as_ref() == Some(&record) => return Err(e),
                Err(_) => {}
            }
        }
    }
}

/// Removes everything that `group` has on disk, durably; nothing of it is read.
pub(crate) fn destroy(
    db: &Db,
    commits: &GroupCommit,
    group: u64,
    snapshots: &SnapshotDir,
) -> Result<()> {
    commits.commit(batch::stage_destroy(db, group)?, Sync::Force)?;
    // The group is gone; a file that stays is removed at the next open.
    if let Err(e) = snapshots.remove_orphans(|id, _| id == group) {
        log::warn!("{e}");
    }
    Ok(())
}

fn file_of(state: &GroupState) -> Option<&SnapshotFile> {
    state
        .snapshot
        .as_ref()
        .and_then(|record| record.file.as_ref())
}

/// The metadata of a snapshot record, as raft-rs has it.
pub(crate) fn metadata_of(record: &SnapshotRecord) -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata::default();
    metadata.index = record.index;
    metadata.term = record.term;
    metadata.set_conf_state(eraftpb::ConfState::from(&record.conf_state));
    metadata
}

/// Entries on their way to a reader, within a limit that is raft-rs's own: the first always
/// fits, then as many as the limit has room for, counted with the first.
struct Fetched {
    entries: Vec<Entry>,
    next: u64,
    high: u64,
    bytes: u64,
    bytes_max: u64,
    full: bool,
}

impl Fetched {
    fn new(low: u64, high: u64, max_size: Option<u64>) -> Self {
        let capacity = high.saturating_sub(low).min(FETCH_CAPACITY_MAX);
        Fetched {
            entries: Vec::with_capacity(usize::try_from(capacity).unwrap_or(0)),
            next: low,
            high,
            bytes: 0,
            bytes_max: max_size.unwrap_or(u64::MAX),
            full: false,
        }
    }

    /// Whether there is room for more.
    #[inline]
    fn push(&mut self, entry: Entry) -> bool {
        if self.bytes_max < u64::MAX {
            self.bytes = self.bytes.saturating_add(u64::from(entry.compute_size()));
        }
        if !self.entries.is_empty() && self.bytes > self.bytes_max {
            self.full = true;
            return false;
        }
        self.entries.push(entry);
        self.next += 1;
        true
    }

    /// Takes what the cache has from `next` on, and returns what has to be read before it has
    /// any: empty when nothing is left to read.
    fn take_cached(&mut self, cache: &EntryCache) -> Range<u64> {
        if self.full || self.next >= self.high {
            return self.next..self.next;
        }
        let held = cache.visit(self.next, |entry| self.push(entry) && self.next < self.high);
        if held {
            return self.next..self.next;
        }
        let cached_from = cache.first_index().filter(|first| *first > self.next);
        self.next..cached_from.map_or(self.high, |first| first.min(self.high))
    }
}
