//! This project, on its default options.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use raft_rocks::raft::eraftpb::{Entry, HardState};
use raft_rocks::{
    FsyncPolicy, Options, RaftMachineStorage, RaftStore, SnapshotProducer, SnapshotRequest,
};

use super::{Contender, Done, Setup};

/// A store and its open groups.
pub struct RaftRocks {
    groups: Vec<RaftMachineStorage>,
}

/// Registered, it lets a log be compacted without a snapshot; nobody asks it for one here.
struct NoSnapshots;

impl SnapshotProducer for NoSnapshots {
    fn request(&self, _request: SnapshotRequest) {}
}

/// RocksDB's own cache of blocks read, where none is configured (its `LRUCache` default).
const BLOCK_CACHE_BYTES: u64 = 32 << 20;

/// What a store is told it may keep in memory.
pub fn budget_bytes() -> u64 {
    let options = Options::default();
    (options.entry_cache_bytes + options.memtable_bytes) as u64 + BLOCK_CACHE_BYTES
}

impl RaftRocks {
    /// Opens the store in `dir` with all its groups, each verified in full.
    pub fn open(dir: &Path, setup: Setup, recycle_wal: bool) -> Result<Self> {
        let mut options = Options::default();
        options.recycle_wal = recycle_wal;
        // Nobody else keeps room for a full disk.
        options.reserve_bytes = 0;
        if !setup.synced {
            options.fsync = FsyncPolicy::Never;
        }
        let store = RaftStore::open(dir, options)?;
        let group = |id| {
            let group = store.group(id)?;
            group.set_snapshot_producer(Some(Arc::new(NoSnapshots)));
            Ok(group)
        };
        let groups = (0..setup.groups).map(group).collect::<Result<_>>()?;
        Ok(RaftRocks { groups })
    }

    /// The storage of one group, for those who call raft-rs's trait.
    pub fn group(&self, id: u64) -> Result<&RaftMachineStorage> {
        self.groups.get(id as usize).context("no such group")
    }
}

impl Contender for RaftRocks {
    fn append(
        &self,
        group: u64,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<()> {
        let group = self.group(group)?;
        match hard_state {
            None => group.append(entries)?,
            Some(hard_state) => {
                let batch = group.batch().entries(entries).hard_state(hard_state);
                batch.write()?;
            }
        }
        Ok(())
    }

    fn submit(
        &self,
        group: u64,
        entries: Vec<Entry>,
        hard_state: Option<HardState>,
        done: Done,
    ) -> Result<()> {
        let mut batch = self.group(group)?.batch().entries(&entries);
        if let Some(hard_state) = &hard_state {
            batch = batch.hard_state(hard_state);
        }
        Ok(batch.submit(move |result| done(result.map_err(Into::into)))?)
    }

    fn set_applied(&self, group: u64, index: u64) -> Result<()> {
        Ok(self.group(group)?.set_applied(index)?)
    }

    fn compact(&self, group: u64, first: u64) -> Result<()> {
        Ok(self.group(group)?.compact(first)?)
    }

    fn fetch(&self, group: u64, low: u64, high: u64) -> Result<Vec<Entry>> {
        Ok(self.group(group)?.entries(low, high, None)?)
    }
}
