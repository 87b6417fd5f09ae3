//! The `raft-engine` crate as its API invites: every group's thread writes for itself.

use std::path::Path;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use raft_engine::{Config, Engine, LogBatch, ReadableSize};
use raft_rocks::raft::eraftpb::{Entry, HardState};

use super::message::{self, Entries};
use super::{Contender, Setup};

/// Where TiKV keeps a group's states, too: beside its entries, under a short key.
pub const HARD_STATE_KEY: &[u8] = b"\x01hard_state";

/// `raft-engine`, a batch buffer for each group.
pub struct RaftEngine {
    engine: Engine,
    batches: Vec<Mutex<LogBatch>>,
    synced: bool,
}

impl RaftEngine {
    /// Opens the engine in `dir`.
    pub fn open(dir: &Path, setup: Setup) -> Result<Self> {
        let batches = (0..setup.groups).map(|_| Mutex::default()).collect();
        Ok(RaftEngine {
            engine: open(dir, setup)?,
            batches,
            synced: setup.synced,
        })
    }
}

/// The engine on settings that serve it best here.
pub fn open(dir: &Path, setup: Setup) -> Result<Engine> {
    let file = ReadableSize(setup.file_bytes);
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        // The payloads cannot be compressed; the default would try with every batch over 8 KiB.
        batch_compression_threshold: ReadableSize(0),
        // Half the default: all that a run writes must find files that were written before,
        // and those have to be made first.
        target_file_size: file,
        // By default 10 GB of log are kept before anything is purged, so that nothing would be
        // reused in a run. This leaves room for the longest log that is kept.
        purge_threshold: ReadableSize(4 * setup.file_bytes),
        enable_log_recycle: true,
        // Syncing into a file that has its blocks writes no metadata. Not where a log is
        // opened, which would have to wait for them to be made.
        prefill_for_recycle: setup.prefill,
        prefill_limit: setup.prefill.then_some(ReadableSize(2 * setup.file_bytes)),
        ..Config::default()
    };
    Engine::open(config).context("raft-engine")
}

/// Puts one group's append into a batch.
pub fn add(
    batch: &mut LogBatch,
    group: u64,
    entries: &[message::EntryMessage],
    hard_state: Option<&HardState>,
) -> Result<()> {
    batch.add_entries::<Entries>(group, entries)?;
    if let Some(hard_state) = hard_state {
        let value = message::encode_hard_state(hard_state)?;
        batch.put(group, HARD_STATE_KEY.to_vec(), value)?;
    }
    Ok(())
}

/// The entries `[low, high)` of a group.
pub fn fetch(engine: &Engine, group: u64, low: u64, high: u64) -> Result<Vec<Entry>> {
    let mut messages = Vec::with_capacity((high - low) as usize);
    engine.fetch_entries_to::<Entries>(group, low, high, None, &mut messages)?;
    Ok(message::to_entries(messages))
}

impl Contender for RaftEngine {
    fn append(
        &self,
        group: u64,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<()> {
        let batch = self.batches.get(group as usize).context("no such group")?;
        // Used again and again, as TiKV does: its buffer stays allocated.
        let mut batch = batch.lock();
        let messages = message::to_messages(std::mem::take(entries));
        add(&mut batch, group, &messages, hard_state)?;
        self.engine.write(&mut batch, self.synced)?;
        *entries = message::to_entries(messages);
        Ok(())
    }

    fn compact(&self, group: u64, first: u64) -> Result<()> {
        self.engine.compact_to(group, first);
        Ok(())
    }

    fn purge(&self) -> Result<()> {
        self.engine.purge_expired_files()?;
        Ok(())
    }

    fn fetch(&self, group: u64, low: u64, high: u64) -> Result<Vec<Entry>> {
        fetch(&self.engine, group, low, high)
    }
}
