//! A log in memory: for tests, and for a cluster that is to survive the loss of any minority of
//! its nodes but not of all.
//!
//! Invariants:
//! 1. What is read is what was written last; what survives a crash is a prefix of the writes,
//!    never less than what has been synced.
//! 2. Callbacks run in the order of the writes, outside of every lock.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Cursor, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Ready, StorageError};

use super::log_store::{LogStore, OnDurable, Writes};
use crate::error::{Error, Result};
use crate::snapshot::SnapshotReference;

/// A log in memory. A clone is another handle of the same log.
#[derive(Clone)]
pub struct MemoryLog {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    /// What is read.
    image: Image,
    /// What survives a crash for sure, and what may: only kept when syncs are held.
    held: Option<Held>,
    store_id: [u8; 16],
    failed: bool,
}

struct Held {
    durable: Image,
    unsynced: VecDeque<(Change, Option<OnDurable>)>,
}

#[derive(Clone, Default)]
struct Image {
    /// From `truncated + 1` on.
    entries: VecDeque<Entry>,
    truncated: u64,
    truncated_term: u64,
    hard_state: HardState,
    conf_state: ConfState,
    applied: u64,
    snapshot: Option<Stored>,
    keys: BTreeMap<(String, Vec<u8>), Vec<u8>>,
}

#[derive(Clone)]
struct Stored {
    metadata: SnapshotMetadata,
    data: Arc<[u8]>,
}

/// One atomic write.
#[derive(Clone, Default)]
struct Change {
    install: Option<Stored>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    applied: Option<(u64, Option<ConfState>)>,
    create: Option<Stored>,
    compact: Option<u64>,
    writes: Writes,
}

/// A snapshot that is written to memory.
pub struct MemorySnapshot {
    metadata: SnapshotMetadata,
    data: Vec<u8>,
}

impl Write for MemorySnapshot {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.data.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Image {
    fn last(&self) -> u64 {
        self.truncated + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated {
            return Ok(self.truncated_term);
        }
        if index < self.truncated {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let at = (index - self.truncated - 1) as usize;
        let entry = self.entries.get(at);
        entry
            .map(|entry| entry.term)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn apply(&mut self, change: &Change) {
        if let Some(stored) = &change.install {
            self.entries.clear();
            self.truncated = stored.metadata.index;
            self.truncated_term = stored.metadata.term;
            self.conf_state = stored.metadata.get_conf_state().clone();
            self.applied = stored.metadata.index;
            self.hard_state.commit = self.hard_state.commit.max(stored.metadata.index);
            self.hard_state.term = self.hard_state.term.max(stored.metadata.term);
            self.snapshot = Some(stored.clone());
        }
        if let Some(first) = change.entries.first() {
            let keep = first.index.saturating_sub(self.truncated + 1);
            self.entries.truncate(keep as usize);
            self.entries.extend(change.entries.iter().cloned());
        }
        if let Some(hard_state) = &change.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some((applied, conf_state)) = &change.applied {
            self.set_applied(*applied, conf_state.as_ref());
        }
        if let Some(stored) = &change.create {
            let metadata = &stored.metadata;
            if metadata.index > self.applied {
                self.set_applied(metadata.index, Some(metadata.get_conf_state()));
            }
            self.snapshot = Some(stored.clone());
        }
        if let Some(to) = change.compact {
            self.compact(to);
        }
        for put in &change.writes.puts {
            let key = (put.family.clone(), put.key.clone());
            match &put.value {
                Some(value) => self.keys.insert(key, value.clone()),
                None => self.keys.remove(&key),
            };
        }
    }

    fn set_applied(&mut self, applied: u64, conf_state: Option<&ConfState>) {
        self.applied = applied;
        self.hard_state.commit = self.hard_state.commit.max(applied);
        if let Some(conf_state) = conf_state {
            self.conf_state = conf_state.clone();
        }
    }

    fn compact(&mut self, to: u64) {
        let drop = to.saturating_sub(self.truncated + 1) as usize;
        let dropped = self.entries.drain(..drop.min(self.entries.len()));
        if let Some(last) = { dropped }.next_back() {
            self.truncated_term = last.term;
            self.truncated = last.index;
        }
    }
}

impl MemoryLog {
    /// A log whose writes count as durable at once.
    pub fn new(store_id: [u8; 16]) -> Self {
        MemoryLog::with(Image::default(), None, store_id)
    }

    /// A log whose writes become durable when [`sync_one`](MemoryLog::sync_one) is called: for
    /// tests.
    pub fn with_held_syncs(store_id: [u8; 16]) -> Self {
        let held = Held {
            durable: Image::default(),
            unsynced: VecDeque::new(),
        };
        MemoryLog::with(Image::default(), Some(held), store_id)
    }

    fn with(image: Image, held: Option<Held>, store_id: [u8; 16]) -> Self {
        let inner = Inner {
            image,
            held,
            store_id,
            failed: false,
        };
        MemoryLog {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Writes that are not durable.
    pub fn unsynced(&self) -> usize {
        let inner = self.inner.lock();
        inner.held.as_ref().map_or(0, |held| held.unsynced.len())
    }

    /// Makes the oldest write durable that is not, and says so to who waits. `false` when there
    /// is none.
    pub fn sync_one(&self) -> bool {
        let synced = {
            let mut inner = self.inner.lock();
            inner.held.as_mut().and_then(|held| {
                let (change, on_durable) = held.unsynced.pop_front()?;
                held.durable.apply(&change);
                Some(on_durable)
            })
        };
        let any = synced.is_some();
        if let Some(on_durable) = synced.flatten() {
            on_durable(Ok(()));
        }
        any
    }

    /// The disk fails: nothing that is not durable will be, and every later write fails.
    pub fn fail(&self) {
        let callbacks: Vec<_> = {
            let mut inner = self.inner.lock();
            inner.failed = true;
            let held = inner.held.as_mut();
            let unsynced = held.map(|held| std::mem::take(&mut held.unsynced));
            let callbacks = unsynced.into_iter().flatten();
            callbacks.filter_map(|(_, on_durable)| on_durable).collect()
        };
        for on_durable in callbacks {
            on_durable(Err(poisoned()));
        }
    }

    /// What is left after a crash: what was durable, and the first `kept` writes that were not.
    #[must_use]
    pub fn after_crash(&self, kept: usize) -> Self {
        let inner = self.inner.lock();
        let mut image = match &inner.held {
            Some(held) => held.durable.clone(),
            None => Image::default(),
        };
        let unsynced = inner.held.iter().flat_map(|held| &held.unsynced);
        for (change, _) in unsynced.take(kept) {
            image.apply(change);
        }
        let held = inner.held.is_some().then(|| Held {
            durable: image.clone(),
            unsynced: VecDeque::new(),
        });
        MemoryLog::with(image, held, inner.store_id)
    }

    /// The term of an entry that would survive a crash; `Some(None)` where a snapshot stands for
    /// it.
    pub fn durable_term(&self, index: u64) -> Option<Option<u64>> {
        let inner = self.inner.lock();
        let held = inner.held.as_ref();
        let image = held.map_or(&inner.image, |held| &held.durable);
        match index <= image.truncated {
            true => Some(None),
            false => image.term(index).ok().map(Some),
        }
    }

    fn submit(&self, change: Change, on_durable: Option<OnDurable>) -> Result<()> {
        let done = {
            let mut inner = self.inner.lock();
            if inner.failed {
                return Err(poisoned());
            }
            inner.image.apply(&change);
            match &mut inner.held {
                None => on_durable,
                Some(held) => {
                    held.unsynced.push_back((change, on_durable));
                    None
                }
            }
        };
        if let Some(on_durable) = done {
            on_durable(Ok(()));
        }
        Ok(())
    }

    /// As [`submit`](MemoryLog::submit), durable on return.
    fn submit_synced(&self, change: Change) -> Result<()> {
        self.submit(change, None)?;
        LogStore::sync(self)
    }
}

fn poisoned() -> Error {
    Error::Poisoned {
        cause: "a test failed the disk".into(),
    }
}

impl raft::Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let image = &self.inner.lock().image;
        Ok(RaftState::new(
            image.hard_state.clone(),
            image.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let image = &self.inner.lock().image;
        if low <= image.truncated {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(
            high <= image.last() + 1,
            "entries [{low}, {high}) reach past the last index {}",
            image.last()
        );
        let skip = (low - image.truncated - 1) as usize;
        let take = high.saturating_sub(low) as usize;
        let found = image.entries.iter().skip(skip).take(take);
        let mut entries: Vec<Entry> = found.cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.inner.lock().image.term(index)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.inner.lock().image.truncated + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.inner.lock().image.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let image = &self.inner.lock().image;
        let needed = request_index.max(image.truncated).max(1);
        match &image.snapshot {
            Some(stored) if stored.metadata.index >= needed => {
                let mut snapshot = Snapshot::default();
                snapshot.set_metadata(stored.metadata.clone());
                snapshot.data = reference_of(stored).into();
                Ok(snapshot)
            }
            _ => Err(raft::Error::Store(
                StorageError::SnapshotTemporarilyUnavailable,
            )),
        }
    }
}

fn reference_of(stored: &Stored) -> Vec<u8> {
    SnapshotReference {
        index: stored.metadata.index,
        term: stored.metadata.term,
        data_bytes: stored.data.len() as u64,
        data_crc: crc32c::crc32c(&stored.data),
    }
    .to_bytes()
}

/// A snapshot in memory that is not installed yet.
pub struct MemoryStaged(Stored);

impl LogStore for MemoryLog {
    type Writer = MemorySnapshot;
    type Staged = MemoryStaged;
    type Reader = Cursor<Arc<[u8]>>;

    fn submit_ready(
        &self,
        ready: &Ready,
        staged: Option<MemoryStaged>,
        on_durable: OnDurable,
    ) -> Result<()> {
        let install = staged.map(|MemoryStaged(stored)| stored);
        if install.is_none() && !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let (index, term) = (metadata.index, metadata.term);
            return Err(Error::SnapshotNotStaged { index, term });
        }
        let change = Change {
            install,
            entries: ready.entries().clone(),
            hard_state: ready.hs().cloned(),
            ..Change::default()
        };
        self.submit(change, Some(on_durable))
    }

    fn record_applied(
        &self,
        applied: u64,
        conf_state: Option<&ConfState>,
        writes: &Writes,
    ) -> Result<()> {
        if applied < self.applied_index() {
            return Err(Error::invalid_batch("the applied index would go back"));
        }
        let change = Change {
            applied: Some((applied, conf_state.cloned())),
            writes: writes.clone(),
            ..Change::default()
        };
        self.submit(change, None)
    }

    fn write(&self, writes: &Writes) -> Result<()> {
        let writes = writes.clone();
        self.submit_synced(Change {
            writes,
            ..Change::default()
        })
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let key = (family.to_owned(), key.to_vec());
        Ok(self.inner.lock().image.keys.get(&key).cloned())
    }

    fn scan(&self, family: &str, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let low = (family.to_owned(), prefix.to_vec());
        let inner = self.inner.lock();
        let found = inner.image.keys.range(low..);
        let own = found.take_while(|((of, key), _)| of == family && key.starts_with(prefix));
        Ok(own
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn hard_state(&self) -> HardState {
        self.inner.lock().image.hard_state.clone()
    }

    fn conf_state(&self) -> ConfState {
        self.inner.lock().image.conf_state.clone()
    }

    fn applied_index(&self) -> u64 {
        self.inner.lock().image.applied
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        let inner = self.inner.lock();
        let stored = inner.image.snapshot.as_ref();
        stored.map(|stored| stored.metadata.clone())
    }

    fn store_id(&self) -> Result<[u8; 16]> {
        Ok(self.inner.lock().store_id)
    }

    fn stage_snapshot(
        &self,
        index: u64,
        term: u64,
        conf_state: &ConfState,
    ) -> Result<MemorySnapshot> {
        let mut metadata = SnapshotMetadata::default();
        metadata.index = index;
        metadata.term = term;
        metadata.set_conf_state(conf_state.clone());
        let data = Vec::new();
        Ok(MemorySnapshot { metadata, data })
    }

    fn finish_snapshot(&self, writer: MemorySnapshot) -> Result<MemoryStaged> {
        Ok(MemoryStaged(Stored {
            metadata: writer.metadata,
            data: writer.data.into(),
        }))
    }

    fn create_snapshot(&self, MemoryStaged(stored): MemoryStaged) -> Result<()> {
        let index = stored.metadata.index;
        let current = self.snapshot_metadata().map_or(0, |stored| stored.index);
        if index < current {
            return Err(Error::SnapshotOutOfDate { index, current });
        }
        self.submit_synced(Change {
            create: Some(stored),
            ..Change::default()
        })
    }

    fn begin_with(&self, MemoryStaged(stored): MemoryStaged, writes: &Writes) -> Result<()> {
        self.submit_synced(Change {
            install: Some(stored),
            writes: writes.clone(),
            ..Change::default()
        })
    }

    fn reference(&self, MemoryStaged(stored): &MemoryStaged) -> Vec<u8> {
        reference_of(stored)
    }

    fn open_snapshot(&self) -> Result<Option<(u64, Self::Reader)>> {
        let inner = self.inner.lock();
        let stored = inner.image.snapshot.as_ref();
        Ok(stored.map(|stored| (stored.metadata.index, Cursor::new(Arc::clone(&stored.data)))))
    }

    fn compact(&self, to: u64) -> Result<()> {
        {
            let inner = self.inner.lock();
            let applied = inner.image.applied;
            let stored = inner.image.snapshot.as_ref();
            let covered = stored.map_or(0, |stored| stored.metadata.index);
            if to > applied + 1 || to > covered + 1 {
                return Err(Error::CompactUnsafe {
                    to,
                    applied,
                    snapshot: covered,
                });
            }
        }
        self.submit(
            Change {
                compact: Some(to),
                ..Change::default()
            },
            None,
        )
    }

    fn sync(&self) -> Result<()> {
        while self.sync_one() {}
        match self.inner.lock().failed {
            true => Err(poisoned()),
            false => Ok(()),
        }
    }
}
