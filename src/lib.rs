//! Durable log storage for [raft-rs](raft) on RocksDB.

#[cfg(all(feature = "prost-codec", feature = "protobuf-codec"))]
compile_error!(
    "raft-rs has one codec per build: enable prost-codec (the default) or protobuf-codec, not \
     both; for protobuf-codec add `default-features = false`"
);
#[cfg(not(any(feature = "prost-codec", feature = "protobuf-codec")))]
compile_error!("raft-rs needs a codec: enable prost-codec or protobuf-codec");

mod batch;
mod config;
mod db;
mod entry_cache;
mod error;
mod group_state;
pub mod keys;
mod raft_log;
pub mod record;
mod recovery;
mod snapshot;
mod storage;
mod term_index;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::{FsyncPolicy, Options, SnapshotPayload, VerifyOnOpen};
pub use db::Counters;
pub use error::{Error, Result};
pub use raft;
pub use rocksdb;
pub use snapshot::{SnapshotReader, SnapshotReference, SnapshotWriter, StagedSnapshot};
pub use storage::{Batch, RaftMachineStorage, RaftStore, SnapshotProducer, SnapshotRequest};
