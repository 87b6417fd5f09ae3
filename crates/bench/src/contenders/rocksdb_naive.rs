//! The layout this project descends from: entry, last index and hard state, each put by itself
//! and each synced. An append is not atomic, its keys are not in the order of the log, and it
//! costs three syncs.

use std::path::Path;

use anyhow::Result;
use raft_rocks::raft::eraftpb::{Entry, HardState};
use raft_rocks::rocksdb::{DB, Options, WriteOptions};

use super::{Contender, message};

/// RocksDB, one put at a time.
pub struct RocksdbNaive {
    rocks: DB,
}

impl RocksdbNaive {
    /// Opens the database in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        let rocks = DB::open(&options, dir)?;
        Ok(RocksdbNaive { rocks })
    }

    fn put(&self, key: String, value: &[u8]) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.rocks.put_opt(key, value, &options)?)
    }
}

/// It knows one log only; further ones get a prefix.
fn key(group: u64, name: &str) -> String {
    match group {
        0 => format!("/raft/{name}"),
        other => format!("/{other}/raft/{name}"),
    }
}

impl Contender for RocksdbNaive {
    fn append(
        &self,
        group: u64,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<()> {
        let mut value = Vec::new();
        for entry in entries.iter() {
            value.clear();
            message::encode(entry, &mut value)?;
            self.put(key(group, &format!("entry/{}", entry.index)), &value)?;
        }
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let index = last.index.to_string();
        self.put(key(group, "last_index"), index.as_bytes())?;
        // It stores one with every append, whether it has changed or not.
        let mut unchanged = HardState::default();
        (unchanged.term, unchanged.vote) = (last.term, 1);
        let hard_state = message::encode_hard_state(hard_state.unwrap_or(&unchanged))?;
        self.put(key(group, "hard_state"), &hard_state)
    }
}
