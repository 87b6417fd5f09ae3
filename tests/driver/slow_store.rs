//! A log whose disk takes its time to sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Ready, Storage};
use raft_rocks::driver::{LogStore, OnDurable, Writes};
use raft_rocks::{RaftMachineStorage, Result};

use crate::machines::pause;

/// A sync takes `delay_ms`; what is written meanwhile shares the next one.
#[derive(Clone)]
pub struct SlowStore {
    inner: RaftMachineStorage,
    pub delay_ms: Arc<AtomicU64>,
    late: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl SlowStore {
    pub fn new(inner: RaftMachineStorage) -> Self {
        let delay_ms = Arc::new(AtomicU64::new(0));
        let (late, told) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let delay = Arc::clone(&delay_ms);
        std::thread::spawn(move || {
            while let Ok(first) = told.recv() {
                let mut batch = vec![first];
                batch.extend(told.try_iter());
                pause(Duration::from_millis(delay.load(Ordering::SeqCst)));
                batch.into_iter().for_each(|tell| tell());
            }
        });
        SlowStore {
            inner,
            delay_ms,
            late,
        }
    }
}

impl Storage for SlowStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        self.inner.initial_state()
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        Storage::entries(&self.inner, low, high, max_size, context)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        Storage::term(&self.inner, index)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Storage::first_index(&self.inner)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Storage::last_index(&self.inner)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        Storage::snapshot(&self.inner, request_index, to)
    }
}

type Inner = RaftMachineStorage;

impl LogStore for SlowStore {
    type Writer = <Inner as LogStore>::Writer;
    type Staged = <Inner as LogStore>::Staged;
    type Reader = <Inner as LogStore>::Reader;

    fn submit_ready(
        &self,
        ready: &Ready,
        staged: Option<Self::Staged>,
        on_durable: OnDurable,
    ) -> Result<()> {
        let late = self.late.clone();
        let on_durable = Box::new(move |result| {
            let tell = Box::new(move || on_durable(result));
            late.send(tell).unwrap();
        });
        LogStore::submit_ready(&self.inner, ready, staged, on_durable)
    }

    fn record_applied(
        &self,
        applied: u64,
        conf_state: Option<&ConfState>,
        writes: &Writes,
    ) -> Result<()> {
        self.inner.record_applied(applied, conf_state, writes)
    }

    fn write(&self, writes: &Writes) -> Result<()> {
        LogStore::write(&self.inner, writes)
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        LogStore::get(&self.inner, family, key)
    }

    fn scan(&self, family: &str, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        LogStore::scan(&self.inner, family, prefix)
    }

    fn hard_state(&self) -> HardState {
        LogStore::hard_state(&self.inner)
    }

    fn conf_state(&self) -> ConfState {
        LogStore::conf_state(&self.inner)
    }

    fn applied_index(&self) -> u64 {
        LogStore::applied_index(&self.inner)
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        LogStore::snapshot_metadata(&self.inner)
    }

    fn store_id(&self) -> Result<[u8; 16]> {
        LogStore::store_id(&self.inner)
    }

    fn stage_snapshot(
        &self,
        index: u64,
        term: u64,
        conf_state: &ConfState,
    ) -> Result<Self::Writer> {
        LogStore::stage_snapshot(&self.inner, index, term, conf_state)
    }

    fn finish_snapshot(&self, writer: Self::Writer) -> Result<Self::Staged> {
        self.inner.finish_snapshot(writer)
    }

    fn create_snapshot(&self, staged: Self::Staged) -> Result<()> {
        LogStore::create_snapshot(&self.inner, staged)
    }

    fn begin_with(&self, staged: Self::Staged, writes: &Writes) -> Result<()> {
        self.inner.begin_with(staged, writes)
    }

    fn reference(&self, staged: &Self::Staged) -> Vec<u8> {
        LogStore::reference(&self.inner, staged)
    }

    fn open_snapshot(&self) -> Result<Option<(u64, Self::Reader)>> {
        LogStore::open_snapshot(&self.inner)
    }

    fn compact(&self, to: u64) -> Result<()> {
        LogStore::compact(&self.inner, to)
    }

    fn sync(&self) -> Result<()> {
        LogStore::sync(&self.inner)
    }
}
