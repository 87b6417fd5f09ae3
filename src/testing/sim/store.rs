//! Logs that a simulation can crash: one in memory that loses what was not synced, and the
//! durable one, whose process is killed.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Ready};

use super::machine::MACHINE_FAMILY;
use crate::config::{Options, SnapshotPayload};
use crate::driver::{DRIVER_FAMILY, LogStore, MemoryLog, OnDurable, Writes};
use crate::error::Result;
use crate::snapshot::{SnapshotReader, SnapshotWriter, StagedSnapshot};
use crate::storage::RaftMachineStorage;

/// A log whose syncs and crashes the simulation decides.
pub(crate) trait SimStore: LogStore {
    /// The log of a new node.
    fn create(id: u64, scratch: Option<&PathBuf>) -> io::Result<Self>;
    /// Writes that are not durable.
    fn unsynced(&self) -> usize;
    /// Makes the oldest of them durable, and says so.
    fn sync_one(&self) -> bool;
    /// The disk fails.
    fn fail(&self);
    /// What is left after a crash; of what was not durable `kept` writes.
    fn after_crash(self, kept: usize) -> io::Result<Self>;
    /// The term of an entry that would survive a crash; `None` where there is none. What a
    /// snapshot stands for counts as there, with any term.
    fn durable_term(&self, index: u64) -> Option<Option<u64>>;
}

impl SimStore for MemoryLog {
    fn create(id: u64, _scratch: Option<&PathBuf>) -> io::Result<Self> {
        let mut store_id = [0; 16];
        store_id[..8].copy_from_slice(&id.to_be_bytes());
        Ok(MemoryLog::with_held_syncs(store_id))
    }

    fn unsynced(&self) -> usize {
        MemoryLog::unsynced(self)
    }

    fn sync_one(&self) -> bool {
        MemoryLog::sync_one(self)
    }

    fn fail(&self) {
        MemoryLog::fail(self);
    }

    fn after_crash(self, kept: usize) -> io::Result<Self> {
        Ok(MemoryLog::after_crash(&self, kept))
    }

    fn durable_term(&self, index: u64) -> Option<Option<u64>> {
        MemoryLog::durable_term(self, index)
    }
}

/// The durable log. What it has written survives the crashes of this simulation, which kill
/// processes only: the power-cut tests are for the rest. Its acknowledgements wait until the
/// simulation lets them through.
#[derive(Clone)]
pub(crate) struct DurableLog {
    storage: RaftMachineStorage,
    dir: PathBuf,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    waiting: std::collections::VecDeque<OnDurable>,
    failed: bool,
}

fn poisoned() -> crate::Error {
    crate::Error::Poisoned {
        cause: "the simulation failed the disk".into(),
    }
}

impl DurableLog {
    fn open(dir: PathBuf) -> io::Result<Self> {
        let mut options = Options::default();
        options.column_families = vec![DRIVER_FAMILY.to_owned(), MACHINE_FAMILY.to_owned()];
        options.snapshot_payload = SnapshotPayload::Reference;
        options.reserve_bytes = 0;
        options.memtable_bytes = 1 << 20;
        let storage = RaftMachineStorage::open(&dir, options).map_err(io::Error::other)?;
        Ok(DurableLog {
            storage,
            dir,
            held: Arc::default(),
        })
    }

    fn check(&self) -> Result<()> {
        match self.held.lock().failed {
            true => Err(poisoned()),
            false => Ok(()),
        }
    }
}

impl SimStore for DurableLog {
    fn create(id: u64, scratch: Option<&PathBuf>) -> io::Result<Self> {
        let scratch = scratch.ok_or_else(|| io::Error::other("no directory for the stores"))?;
        DurableLog::open(scratch.join(format!("node-{id}")))
    }

    fn unsynced(&self) -> usize {
        self.held.lock().waiting.len()
    }

    fn sync_one(&self) -> bool {
        let next = self.held.lock().waiting.pop_front();
        let any = next.is_some();
        if let Some(on_durable) = next {
            on_durable(Ok(()));
        }
        any
    }

    fn fail(&self) {
        let waiting = {
            let mut held = self.held.lock();
            held.failed = true;
            std::mem::take(&mut held.waiting)
        };
        for on_durable in waiting {
            on_durable(Err(poisoned()));
        }
    }

    fn after_crash(self, _kept: usize) -> io::Result<Self> {
        let DurableLog { storage, dir, .. } = self;
        storage.set_snapshot_producer(None);
        drop(storage);
        DurableLog::open(dir)
    }

    fn durable_term(&self, index: u64) -> Option<Option<u64>> {
        if index < self.storage.first_index() {
            return Some(None);
        }
        self.storage.term(index).ok().map(Some)
    }
}

impl raft::Storage for DurableLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        self.storage.initial_state()
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        raft::Storage::entries(&self.storage, low, high, max_size, context)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        raft::Storage::term(&self.storage, index)
    }

    fn first_index(&self) -> raft::Result<u64> {
        raft::Storage::first_index(&self.storage)
    }

    fn last_index(&self) -> raft::Result<u64> {
        raft::Storage::last_index(&self.storage)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        raft::Storage::snapshot(&self.storage, request_index, to)
    }
}

impl LogStore for DurableLog {
    type Writer = SnapshotWriter;
    type Staged = StagedSnapshot;
    type Reader = SnapshotReader;

    fn submit_ready(
        &self,
        ready: &Ready,
        staged: Option<StagedSnapshot>,
        on_durable: OnDurable,
    ) -> Result<()> {
        self.check()?;
        let (done, outcome) = mpsc::channel();
        let report = Box::new(move |result| drop(done.send(result)));
        LogStore::submit_ready(&self.storage, ready, staged, report)?;
        // Waited for, so that a seed always gives the same run.
        outcome.recv().map_err(|_| poisoned())??;
        self.held.lock().waiting.push_back(on_durable);
        Ok(())
    }

    fn record_applied(
        &self,
        applied: u64,
        conf_state: Option<&ConfState>,
        writes: &Writes,
    ) -> Result<()> {
        self.check()?;
        self.storage.record_applied(applied, conf_state, writes)
    }

    fn write(&self, writes: &Writes) -> Result<()> {
        self.check()?;
        self.storage.write(writes)
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.storage.get(family, key)
    }

    fn scan(&self, family: &str, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.storage.scan(family, prefix)
    }

    fn hard_state(&self) -> HardState {
        self.storage.hard_state()
    }

    fn conf_state(&self) -> ConfState {
        self.storage.conf_state()
    }

    fn applied_index(&self) -> u64 {
        self.storage.applied_index()
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        self.storage.snapshot_metadata()
    }

    fn store_id(&self) -> Result<[u8; 16]> {
        LogStore::store_id(&self.storage)
    }

    fn stage_snapshot(
        &self,
        index: u64,
        term: u64,
        conf_state: &ConfState,
    ) -> Result<SnapshotWriter> {
        LogStore::stage_snapshot(&self.storage, index, term, conf_state)
    }

    fn finish_snapshot(&self, writer: SnapshotWriter) -> Result<StagedSnapshot> {
        self.storage.finish_snapshot(writer)
    }

    fn create_snapshot(&self, staged: StagedSnapshot) -> Result<()> {
        self.check()?;
        LogStore::create_snapshot(&self.storage, staged)
    }

    fn begin_with(&self, staged: StagedSnapshot, writes: &Writes) -> Result<()> {
        self.storage.begin_with(staged, writes)
    }

    fn reference(&self, staged: &StagedSnapshot) -> Vec<u8> {
        self.storage.reference(staged)
    }

    fn open_snapshot(&self) -> Result<Option<(u64, SnapshotReader)>> {
        LogStore::open_snapshot(&self.storage)
    }

    fn compact(&self, to: u64) -> Result<()> {
        self.check()?;
        LogStore::compact(&self.storage, to)
    }

    fn sync(&self) -> Result<()> {
        self.check()?;
        LogStore::sync(&self.storage)
    }
}
