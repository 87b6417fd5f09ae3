//! The storage of this crate.

use std::path::PathBuf;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft_rocks::testing::conformance::{ReadyWrite, Step, StepError, StoreUnderTest};
use raft_rocks::{Options, RaftMachineStorage};
use tempfile::TempDir;

/// A store in a directory of its own, with small limits, so that short logs reach both the
/// cache and the disk, and short snapshots both the record and a file.
pub struct Rocks {
    /// `None` only while it is closed.
    storage: Option<RaftMachineStorage>,
    dir: TempDir,
}

impl Rocks {
    fn open(path: PathBuf) -> raft_rocks::Result<RaftMachineStorage> {
        let mut options = Options::default();
        options.entry_cache_bytes = 16 << 10;
        options.snapshot_inline_bytes_max = 4 << 10;
        RaftMachineStorage::open(path, options)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }
}

impl StoreUnderTest for Rocks {
    type Storage = RaftMachineStorage;

    fn fresh() -> Result<Self, StepError> {
        let dir = crate::scratch::scratch()?;
        let mut rocks = Rocks { storage: None, dir };
        rocks.storage = Some(Rocks::open(rocks.path())?);
        Ok(rocks)
    }

    fn storage(&self) -> &RaftMachineStorage {
        self.storage.as_ref().expect("the store is open")
    }

    fn applied(&self) -> Result<u64, StepError> {
        Ok(self.storage().applied_index())
    }

    fn append(&mut self, entries: &[Entry]) -> Step {
        Ok(self.storage().append(entries)?)
    }

    fn set_hard_state(&mut self, hard_state: &HardState) -> Step {
        Ok(self.storage().set_hard_state(hard_state)?)
    }

    fn set_commit(&mut self, commit: u64) -> Step {
        Ok(self.storage().set_commit(commit)?)
    }

    fn set_conf_state(&mut self, conf_state: &ConfState, applied: u64) -> Step {
        Ok(self.storage().set_conf_state(conf_state, applied)?)
    }

    fn set_applied(&mut self, applied: u64) -> Step {
        Ok(self.storage().set_applied(applied)?)
    }

    fn write(&mut self, write: &ReadyWrite) -> Step {
        let mut batch = self.storage().batch().entries(&write.entries);
        if let Some(snapshot) = &write.snapshot {
            batch = batch.snapshot(snapshot);
        }
        if let Some(hard_state) = &write.hard_state {
            batch = batch.hard_state(hard_state);
        }
        Ok(batch.write()?)
    }

    fn install(&mut self, snapshot: &Snapshot) -> Step {
        Ok(self.storage().apply_snapshot(snapshot)?)
    }

    fn create_snapshot(&mut self, index: u64, conf_state: &ConfState, data: &[u8]) -> Step {
        Ok(self.storage().create_snapshot(index, conf_state, data)?)
    }

    fn compact(&mut self, to: u64) -> Step {
        Ok(self.storage().compact(to)?)
    }

    fn reopen(&mut self) -> Step {
        // The directory is locked until the old handle is gone.
        self.storage = None;
        self.storage = Some(Rocks::open(self.path())?);
        Ok(())
    }
}
