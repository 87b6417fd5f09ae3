//! raft-rs's own storage in memory: how fast a read can be.

use anyhow::Result;
use raft_rocks::raft::eraftpb::Entry;
use raft_rocks::raft::storage::MemStorage;

/// A log that is only read.
pub struct Memory {
    storage: MemStorage,
}

impl Memory {
    /// Without entries.
    pub fn new() -> Self {
        Memory {
            storage: MemStorage::new(),
        }
    }

    /// Adds entries to the log.
    pub fn append(&self, entries: &[Entry]) -> Result<()> {
        Ok(self.storage.wl().append(entries)?)
    }

    /// For those who call raft-rs's trait.
    pub fn storage(&self) -> &MemStorage {
        &self.storage
    }
}
