//! Durable log storage for [raft-rs](raft) on RocksDB.
//!
//! raft-rs leaves the log, the vote and the snapshot to its user: a node that forgets any of
//! them after it has answered for them breaks Raft's safety. [`RaftMachineStorage`] keeps them:
//! it implements [`raft::Storage`] for reading, and writes everything a [`raft::Ready`] holds
//! in one atomic, synced write. [`RaftStore`] keeps many groups in one database.
//!
//! # A node
//!
//! ```
//! use raft::eraftpb::{ConfState, Entry};
//! use raft::{Config, RawNode};
//! use raft_rocks::{Options, RaftMachineStorage};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let storage = RaftMachineStorage::open(dir.path(), Options::default())?;
//! if storage.conf_state() == ConfState::default() {
//!     storage.initialize_with_conf_state((vec![1], vec![]))?;
//! }
//! let mut config = Config::new(1);
//! config.applied = storage.applied_index();
//! let logger = slog::Logger::root(slog::Discard, slog::o!());
//! let mut node = RawNode::new(&config, storage.clone(), &logger)?;
//! node.campaign()?;
//!
//! let mut applied = Vec::new();
//! # let mut proposed = false;
//! # while applied.len() < 2 {
//! # if node.raft.state == raft::StateRole::Leader && !proposed {
//! #     proposed = true;
//! node.propose(vec![], b"command".to_vec())?;
//! # }
//! // For each Ready, in this order:
//! # while node.has_ready() {
//! let mut ready = node.ready();
//! send(ready.take_messages());
//! storage.write_ready(&ready)?; //                     one write, one sync when it must
//! send(ready.take_persisted_messages()); //            only now may others hear of it
//! apply(&storage, &mut applied, ready.take_committed_entries())?;
//! let mut light = node.advance(ready);
//! send(light.take_messages());
//! apply(&storage, &mut applied, light.take_committed_entries())?;
//! node.advance_apply();
//! # }
//! # }
//! # assert_eq!(&applied[1].data[..], b"command");
//!
//! fn apply(
//!     storage: &RaftMachineStorage,
//!     machine: &mut Vec<Entry>,
//!     entries: Vec<Entry>,
//! ) -> raft_rocks::Result<()> {
//!     let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
//!     machine.extend(entries);
//!     // Here only because this machine's state is taken to be durable: see obligation 5.
//!     storage.set_applied(last)
//! }
//! # fn send(_: Vec<raft::eraftpb::Message>) {}
//! # Ok(())
//! # }
//! ```
//!
//! # What the caller owes
//!
//! The store cannot see these; breaking one breaks Raft or loses data. Each comes from a rule
//! that raft-rs relies on; `docs/testing.md` lists them all.
//!
//! 1. **Order.** For each Ready: `messages` may go out at once; then
//!    [`write_ready`](RaftMachineStorage::write_ready); only after it has returned `Ok` the
//!    `persisted_messages` and `advance`. Persist everything a Ready holds even when sending
//!    fails.
//! 2. **Errors end the node.** When a write returns an error with
//!    [`is_fatal`](Error::is_fatal), send nothing more, drop the node and the store, and open
//!    it again. Do not retry: after a failed sync nobody knows what is on disk.
//! 3. **Commit.** The commit index of a `LightReady` need not be stored.
//! 4. **Configurations.** Store what `apply_conf_change` returned, with the index of the entry
//!    it belongs to, together with that entry's effect: [`Batch::conf_state`]. It records that
//!    index as applied, so a machine in memory creates a snapshot instead (see 5).
//! 5. **Applied** is how far the state machine's state *survives a restart*. A durable machine
//!    records it with its data, at best in one [`batch`](RaftMachineStorage::batch); one whose
//!    data lives elsewhere records it after that data is synced, and tells the store its own
//!    index with [`set_applied`](RaftMachineStorage::set_applied) before `RawNode::new`. One in
//!    memory does not record it at all: its state survives in snapshots, and
//!    [`create_snapshot`](RaftMachineStorage::create_snapshot) records the index and the
//!    configuration. Either way give [`applied_index`](RaftMachineStorage::applied_index) to
//!    `Config::applied`; any other value applies entries twice or skips them.
//! 6. **Snapshots** are labelled with the index their data was taken at and the configuration
//!    *at that index*. After a Ready with a snapshot restore the machine from it before
//!    applying anything behind it. At start, restore from the stored one exactly when its
//!    index is the applied index: a crash may have come between storing it and restoring from
//!    it. raft-rs ignores a snapshot whose configuration lacks the node that receives it: after
//!    adding a node, make one.
//! 7. **Identity.** One node id, one directory, for ever. A directory that was lost, damaged or
//!    restored from a copy has forgotten votes: the node comes back under a new id.
//!
//! # Without waiting for the disk
//!
//! [`submit_ready`](RaftMachineStorage::submit_ready) and [`Batch::submit`] hand a write over and
//! return; what was submitted can be read at once, and a callback tells when it is durable. Use
//! them with `RawNode::advance_append_async`: messages that need persistence, and
//! `on_persist_ready`, wait for the callback; after an error the node stops. The writes of all
//! groups that come together share one write and one sync, blocking ones included.
//! [`set_async_fetch`](RaftMachineStorage::set_async_fetch) does the same for reads: entries for
//! a follower that lags come from the disk while raft goes on.
//!
//! # What is promised
//!
//! Under [`FsyncPolicy::Always`], the default: what a call has acknowledged survives a killed
//! process and a power cut, whole; what it refused left nothing; after a failure nothing is
//! acknowledged any more. Damage to what is on disk is refused at open, or when it is read, by
//! an error that names the key; the end of the write-ahead log is an exception.
//! `docs/durability.md` says how each is tested, and what is not covered.
//!
//! # Features
//!
//! - `prost-codec` (default) or `protobuf-codec`: the codec that `raft` is built with; exactly
//!   one. `raft = "0.7"` with its default features needs `protobuf-codec` and
//!   `default-features = false` here. The bytes on disk are the same under both.
//! - `driver`: a thin driver around `RawNode`, see [`driver`]; brings tokio's channels.
//! - `metrics`: appends, batches, syncs, the queue and the cache, for the recorder of the
//!   [`metrics`](https://docs.rs/metrics) crate; `docs/operations.md` says what to watch.
//! - `testing`: a conformance suite for any raft-rs storage, and a model for random scripts.
//! - `tools`: what an offline tool needs to read, mend and restore a store that [`RaftStore::open`]
//!   refuses; `raft-rocks-ctl` is built on it. Brings no dependency.

#[cfg(all(feature = "prost-codec", feature = "protobuf-codec"))]
compile_error!(
    "raft-rs has one codec per build: enable prost-codec (the default) or protobuf-codec, not \
     both; for protobuf-codec add `default-features = false`"
);
#[cfg(not(any(feature = "prost-codec", feature = "protobuf-codec")))]
compile_error!("raft-rs needs a codec: enable prost-codec or protobuf-codec");

mod async_fetch;
mod batch;
mod changes;
mod config;
mod db;
#[cfg(feature = "driver")]
pub mod driver;
mod entry_cache;
mod error;
mod group_commit;
mod group_state;
pub mod keys;
mod live_logs;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/off.rs"]
mod metrics;
mod raft_log;
pub mod record;
mod recovery;
mod reserve;
mod snapshot;
mod storage;
mod term_index;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tools")]
pub mod tools;
mod version_edit;
mod wal_scan;
mod witness;

pub use config::{FsyncPolicy, Options, SnapshotPayload, VerifyOnOpen, WitnessPolicy};
pub use db::Counters;
pub use error::{Error, Result};
pub use group_commit::queue::{Backlog, CommitStats};
pub use raft;
pub use rocksdb;
pub use snapshot::{SnapshotReader, SnapshotReference, SnapshotWriter, StagedSnapshot};
pub use storage::{Batch, RaftMachineStorage, RaftStore, SnapshotProducer, SnapshotRequest};
