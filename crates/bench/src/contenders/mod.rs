//! The contenders: one small trait, and a file for each.
//!
//! Each is given the settings that serve it best among those its users would run; where a
//! setting differs from the default, a comment says why.

mod memory;
mod message;
mod raft_engine;
mod raft_engine_writer;
mod raft_rocks;
mod raw_file;
mod rocksdb_batch;
mod rocksdb_naive;

use std::path::Path;
use std::sync::Arc;

use ::raft_rocks::raft::eraftpb::{Entry, HardState};
use anyhow::{Result, bail};
use clap::ValueEnum;

pub use self::memory::Memory;
pub use self::raft_rocks::budget_bytes;

/// What is compared, by the name that the report has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// This project. With more than one group: appends are submitted by one driver thread.
    RaftRocks,
    /// This project, a thread per group that waits for its append.
    RaftRocksThreads,
    /// This project without `Options::recycle_wal`.
    RaftRocksPlain,
    /// The `raft-engine` crate, a thread per group.
    RaftEngine,
    /// `raft-engine` behind one writer thread that merges all groups, as TiKV uses it.
    RaftEngineWriter,
    /// The same, with a thread per group that waits for its append.
    RaftEngineWriterThreads,
    /// One synced WriteBatch per append on RocksDB's defaults, a thread per group.
    RocksdbBatch,
    /// Entry, last index and hard state as three synced puts.
    RocksdbNaive,
    /// The same bytes and fdatasync, to a growing file.
    RawAppend,
    /// The same bytes and fdatasync, over what a file has already.
    RawOverwrite,
    /// raft-rs's own storage in memory.
    MemStorage,
}

/// What a system keeps its logs in; two client models may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    /// [`System::RaftRocks`] and its thread model.
    RaftRocks,
    /// [`System::RaftRocksPlain`].
    RaftRocksPlain,
    /// [`System::RaftEngine`].
    RaftEngine,
    /// [`System::RaftEngineWriter`] and its thread model.
    RaftEngineWriter,
    /// [`System::RocksdbBatch`].
    RocksdbBatch,
    /// [`System::RocksdbNaive`].
    RocksdbNaive,
    /// [`System::RawAppend`].
    RawAppend,
    /// [`System::RawOverwrite`].
    RawOverwrite,
}

impl System {
    /// All of them.
    pub fn all() -> &'static [System] {
        System::value_variants()
    }

    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            System::RaftRocks => "raft-rocks",
            System::RaftRocksThreads => "raft-rocks-threads",
            System::RaftRocksPlain => "raft-rocks-plain",
            System::RaftEngine => "raft-engine",
            System::RaftEngineWriter => "raft-engine-writer",
            System::RaftEngineWriterThreads => "raft-engine-writer-threads",
            System::RocksdbBatch => "rocksdb-batch",
            System::RocksdbNaive => "rocksdb-naive",
            System::RawAppend => "raw-append",
            System::RawOverwrite => "raw-overwrite",
            System::MemStorage => "mem-storage",
        }
    }

    /// What it appends to; raft-rs's memory storage is only read.
    pub fn store(self) -> Option<Store> {
        match self {
            System::RaftRocks | System::RaftRocksThreads => Some(Store::RaftRocks),
            System::RaftRocksPlain => Some(Store::RaftRocksPlain),
            System::RaftEngine => Some(Store::RaftEngine),
            System::RaftEngineWriter | System::RaftEngineWriterThreads => {
                Some(Store::RaftEngineWriter)
            }
            System::RocksdbBatch => Some(Store::RocksdbBatch),
            System::RocksdbNaive => Some(Store::RocksdbNaive),
            System::RawAppend => Some(Store::RawAppend),
            System::RawOverwrite => Some(Store::RawOverwrite),
            System::MemStorage => None,
        }
    }
}

/// How a contender is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Groups `0..groups` are used.
    pub groups: u64,
    /// Whether an append is durable when it is acknowledged. Not so where a long log is made,
    /// and where bytes are counted: with a sync for every batch, the kernel counts the page at
    /// the end of the file again and again, whoever wrote it.
    pub synced: bool,
    /// Whether files are allocated beforehand, by those who can.
    pub prefill: bool,
    /// The size of a file that is reused or allocated beforehand.
    pub file_bytes: u64,
}

/// Called once an append that was submitted is durable, or has failed.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A log store that is measured.
pub trait Contender: Send + Sync {
    /// Appends and waits until it is durable. `entries` may be taken.
    fn append(
        &self,
        group: u64,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<()>;

    /// Appends and returns; `done` is called when it is durable.
    fn submit(
        &self,
        _group: u64,
        _entries: Vec<Entry>,
        _hard_state: Option<HardState>,
        _done: Done,
    ) -> Result<()> {
        bail!("this contender can only be waited for")
    }

    /// Says that everything up to `index` is applied, where a store wants to know.
    fn set_applied(&self, _group: u64, _index: u64) -> Result<()> {
        Ok(())
    }

    /// Removes the entries before `first`.
    fn compact(&self, _group: u64, _first: u64) -> Result<()> {
        Ok(())
    }

    /// Gives back the space of what was compacted, where that is a step of its own.
    fn purge(&self) -> Result<()> {
        Ok(())
    }

    /// The entries `[low, high)`.
    fn fetch(&self, _group: u64, _low: u64, _high: u64) -> Result<Vec<Entry>> {
        bail!("this contender cannot be read")
    }
}

/// Opens a contender in `dir`, which exists.
pub fn open(store: Store, dir: &Path, setup: Setup) -> Result<Arc<dyn Contender>> {
    Ok(match store {
        Store::RaftRocks => Arc::new(raft_rocks::RaftRocks::open(dir, setup, true)?),
        Store::RaftRocksPlain => Arc::new(raft_rocks::RaftRocks::open(dir, setup, false)?),
        Store::RaftEngine => Arc::new(raft_engine::RaftEngine::open(dir, setup)?),
        Store::RaftEngineWriter => {
            Arc::new(raft_engine_writer::RaftEngineWriter::open(dir, setup)?)
        }
        Store::RocksdbBatch => Arc::new(rocksdb_batch::RocksdbBatch::open(dir, setup)?),
        Store::RocksdbNaive => Arc::new(rocksdb_naive::RocksdbNaive::open(dir)?),
        Store::RawAppend => Arc::new(raw_file::RawFile::growing(dir)?),
        Store::RawOverwrite => Arc::new(raw_file::RawFile::allocated(dir, setup)?),
    })
}
