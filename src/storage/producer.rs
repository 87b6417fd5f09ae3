//! Who makes the snapshots that raft asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::RaftMachineStorage;

/// Makes snapshots when raft needs one that is not stored: registered with
/// [`RaftMachineStorage::set_snapshot_producer`].
pub trait SnapshotProducer: Send + Sync {
    /// Starts making a snapshot, elsewhere: this is called on raft's thread and must not
    /// block. Raft asks again until one is stored, but there is one request at a time: the
    /// next comes only after this one has been dropped.
    fn request(&self, request: SnapshotRequest);
}

/// A snapshot that is wanted. Store it with
/// [`create_snapshot`](RaftMachineStorage::create_snapshot) on [`storage`](Self::storage),
/// then drop the request; dropping it without says that none could be made.
#[derive(Debug)]
pub struct SnapshotRequest {
    storage: RaftMachineStorage,
    index: u64,
    to: u64,
    producing: Arc<AtomicBool>,
}

impl SnapshotRequest {
    /// `producing` is set until the request is dropped.
    pub(super) fn new(
        storage: RaftMachineStorage,
        index: u64,
        to: u64,
        producing: Arc<AtomicBool>,
    ) -> Self {
        SnapshotRequest {
            storage,
            index,
            to,
            producing,
        }
    }

    /// Where to store it. A producer that keeps a storage of its own would keep the store
    /// open for ever.
    pub fn storage(&self) -> &RaftMachineStorage {
        &self.storage
    }

    /// The index it has to reach.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The node that needs it.
    pub fn to(&self) -> u64 {
        self.to
    }
}

impl Drop for SnapshotRequest {
    fn drop(&mut self) {
        self.producing.store(false, Ordering::Release);
    }
}
