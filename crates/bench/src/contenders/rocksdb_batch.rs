//! What most have who put a log into RocksDB: one synced batch per append, a key per entry, and
//! RocksDB's defaults. Its own group commit merges what threads write at once.

use std::path::Path;

use anyhow::{Context as _, Result};
use raft_rocks::raft::eraftpb::{Entry, HardState};
use raft_rocks::rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use super::{Contender, Setup, message};

/// RocksDB, as it comes.
pub struct RocksdbBatch {
    rocks: DB,
    synced: bool,
}

impl RocksdbBatch {
    /// Opens the database in `dir`.
    pub fn open(dir: &Path, setup: Setup) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        Ok(RocksdbBatch {
            rocks: DB::open(&options, dir)?,
            synced: setup.synced,
        })
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(self.synced);
        Ok(self.rocks.write_opt(batch, &options)?)
    }
}

const LEN: usize = 17;

/// In the order of the log.
fn key(group: u64, kind: u8, index: u64) -> [u8; LEN] {
    let mut key = [0; LEN];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&group.to_be_bytes());
    if let Some((first, rest)) = tail.split_first_mut() {
        *first = kind;
        rest.copy_from_slice(&index.to_be_bytes());
    }
    key
}

const HARD_STATE: u8 = 0;
const ENTRY: u8 = 1;

impl Contender for RocksdbBatch {
    fn append(
        &self,
        group: u64,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<()> {
        let mut batch = WriteBatch::default();
        let mut value = Vec::new();
        for entry in entries.iter() {
            value.clear();
            message::encode(entry, &mut value)?;
            batch.put(key(group, ENTRY, entry.index), &value);
        }
        if let Some(hard_state) = hard_state {
            let value = message::encode_hard_state(hard_state)?;
            batch.put(key(group, HARD_STATE, 0), value);
        }
        self.write(batch)
    }

    fn compact(&self, group: u64, first: u64) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.delete_range(key(group, ENTRY, 0), key(group, ENTRY, first));
        self.write(batch)
    }

    fn fetch(&self, group: u64, low: u64, high: u64) -> Result<Vec<Entry>> {
        let start = key(group, ENTRY, low);
        let records = self
            .rocks
            .iterator(IteratorMode::From(&start, Direction::Forward));
        let count = (high - low) as usize;
        let mut entries = Vec::with_capacity(count);
        for record in records.take(count) {
            let (_, value) = record.context("read the log")?;
            entries.push(message::decode(&value)?);
        }
        Ok(entries)
    }
}
