//! A thin driver around raft-rs's `RawNode`: the order of a Ready, and what must be remembered
//! beside the log.
//!
//! - [`StateMachine`]: three methods, and more where they are wanted.
//! - [`Peer`]: one node of one group as a machine without threads, clock or sockets.
//! - [`Applier`]: what is committed, on its way to the state machine.
//! - [`LogStore`]: the durable log, or [`MemoryLog`].

mod applier;
mod book;
mod error;
mod log_store;
mod memory_log;
mod peer;
mod proposals;
mod reads;
mod sessions;
mod state_machine;

pub use applier::{Answer, Applied, Applier, Change, Committed, SnapshotJob};
pub use book::{Book, NodeInfo, Refusal};
pub use error::{Error, Result};
pub use log_store::{DRIVER_FAMILY, LogStore, OnDurable, Writes};
pub use memory_log::{MemoryLog, MemorySnapshot, MemoryStaged};
pub use peer::{
    Consistency, FaultHook, FaultPoint, Finished, Outcome, Output, Peer, PeerOptions, PeerProgress,
    PersistedHook, Status, single_change,
};
pub use proposals::RequestId;
pub use sessions::Session;
pub use state_machine::{Command, Durability, Preprocessor, SnapshotSource, StateMachine};
