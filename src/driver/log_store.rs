//! What the driver needs of a log beside [`raft::Storage`]: the durable one of this crate, or
//! one in memory.

use std::io;
use std::sync::mpsc;

use raft::Ready;
use raft::eraftpb::{ConfState, HardState, SnapshotMetadata};

use crate::error::{Error, Result};
use crate::snapshot::{SnapshotReader, SnapshotWriter, StagedSnapshot};
use crate::storage::{Batch, RaftMachineStorage};

/// The column family in which the driver keeps its own records: one of
/// [`Options::column_families`](crate::Options::column_families) of every store with a driver.
pub const DRIVER_FAMILY: &str = "raft-driver";

/// Called once, when a write is durable or has failed: in order, and never with `Ok` after a
/// failure. It must not block.
pub type OnDurable = Box<dyn FnOnce(Result<()>) + Send>;

/// Changes of keys beside the log, in column families of the application's or the driver's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    pub(crate) puts: Vec<Put>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    pub family: String,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Writes {
    /// Puts a key.
    pub fn put(&mut self, family: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (family, key, value) = (family.to_owned(), key.into(), Some(value.into()));
        self.puts.push(Put { family, key, value });
    }

    /// Deletes a key.
    pub fn delete(&mut self, family: &str, key: impl Into<Vec<u8>>) {
        let (family, key, value) = (family.to_owned(), key.into(), None);
        self.puts.push(Put { family, key, value });
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }
}

/// A log that a driver can run on. A clone is another handle of the same log.
pub trait LogStore: raft::Storage + Clone + Send + Sync + 'static {
    /// A snapshot that is on its way into the store.
    type Writer: io::Write + Send + 'static;
    /// One that is whole and durable, and not installed yet.
    type Staged: Send + 'static;
    /// The stored one's data.
    type Reader: io::Read + Send + 'static;

    /// Submits everything a `Ready` holds as one atomic write, `staged` with it when it holds a
    /// snapshot; it can be read when this returns.
    ///
    /// # Errors
    /// A refusal: the node and its log disagree, and the node must stop. `on_durable` is not
    /// called.
    fn submit_ready(
        &self,
        ready: &Ready,
        staged: Option<Self::Staged>,
        on_durable: OnDurable,
    ) -> Result<()>;

    /// Records in one atomic write, without waiting for a sync, that the machine's state is at `applied`, with
    /// the configuration of that index when it has changed, and `writes` with it.
    ///
    /// # Errors
    /// As [`Batch::write_unsynced`](crate::Batch::write_unsynced).
    fn record_applied(
        &self,
        applied: u64,
        conf_state: Option<&ConfState>,
        writes: &Writes,
    ) -> Result<()>;

    /// Writes keys beside the log, synced.
    ///
    /// # Errors
    /// As [`Batch::write`](crate::Batch::write).
    fn write(&self, writes: &Writes) -> Result<()>;

    /// The value of one key.
    ///
    /// # Errors
    /// [`Error::Rocks`](crate::Error::Rocks): it could not be read.
    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// All keys of a family that begin with `prefix`, with their values, in order.
    ///
    /// # Errors
    /// [`Error::Rocks`](crate::Error::Rocks): they could not be read.
    fn scan(&self, family: &str, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// The term, vote and commit as written last.
    fn hard_state(&self) -> HardState;
    /// The configuration at the recorded applied index.
    fn conf_state(&self) -> ConfState;
    /// The recorded applied index.
    fn applied_index(&self) -> u64;
    /// Metadata of the stored snapshot.
    fn snapshot_metadata(&self) -> Option<SnapshotMetadata>;
    /// 16 random bytes, made with the store: a copy that was restored has others.
    ///
    /// # Errors
    /// They could not be read.
    fn store_id(&self) -> Result<[u8; 16]>;

    /// Starts a snapshot.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): its file could not be created.
    fn stage_snapshot(&self, index: u64, term: u64, conf_state: &ConfState)
    -> Result<Self::Writer>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): nothing is left of it.
    fn finish_snapshot(&self, writer: Self::Writer) -> Result<Self::Staged>;

    /// Stores a snapshot of this node's own state.
    ///
    /// # Errors
    /// [`Error::SnapshotOutOfDate`](crate::Error::SnapshotOutOfDate): a newer one is stored.
    fn create_snapshot(&self, staged: Self::Staged) -> Result<()>;

    /// Makes a snapshot the beginning of a log that has nothing yet.
    ///
    /// # Errors
    /// As [`Batch::write`](crate::Batch::write).
    fn begin_with(&self, staged: Self::Staged, writes: &Writes) -> Result<()>;

    /// What the others are told instead of the data of a staged snapshot.
    fn reference(&self, staged: &Self::Staged) -> Vec<u8>;

    /// Opens the stored snapshot; its index, and its data.
    ///
    /// # Errors
    /// As [`RaftMachineStorage::open_snapshot`].
    fn open_snapshot(&self) -> Result<Option<(u64, Self::Reader)>>;

    /// Removes the entries before `to`.
    ///
    /// # Errors
    /// As [`RaftMachineStorage::compact`].
    fn compact(&self, to: u64) -> Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// As [`RaftMachineStorage::sync`].
    fn sync(&self) -> Result<()>;
}

impl LogStore for RaftMachineStorage {
    type Writer = SnapshotWriter;
    type Staged = StagedSnapshot;
    type Reader = SnapshotReader;

    fn submit_ready(
        &self,
        ready: &Ready,
        staged: Option<StagedSnapshot>,
        on_durable: OnDurable,
    ) -> Result<()> {
        match staged {
            None => RaftMachineStorage::submit_ready(self, ready, on_durable),
            Some(staged) => self
                .batch()
                .ready(ready)
                .staged_snapshot(staged)
                .submit(on_durable),
        }
    }

    fn record_applied(
        &self,
        applied: u64,
        conf_state: Option<&ConfState>,
        writes: &Writes,
    ) -> Result<()> {
        let batch = match conf_state {
            Some(conf_state) => self.batch().conf_state(conf_state, applied),
            None => self.batch().applied(applied),
        };
        with_writes(batch, self, writes).write_unsynced()
    }

    fn write(&self, writes: &Writes) -> Result<()> {
        submit_and_wait(with_writes(self.batch(), self, writes).must_sync(true))
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get_application(family, &own_key(self, family, key))
    }

    fn scan(&self, family: &str, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let low = own_key(self, family, prefix);
        let own_len = low.len() - prefix.len();
        let found = self.scan_application(family, &low)?;
        let without_group =
            |(key, value): (Vec<u8>, _)| (key.get(own_len..).unwrap_or_default().to_vec(), value);
        Ok(found.into_iter().map(without_group).collect())
    }

    fn hard_state(&self) -> HardState {
        RaftMachineStorage::hard_state(self)
    }

    fn conf_state(&self) -> ConfState {
        RaftMachineStorage::conf_state(self)
    }

    fn applied_index(&self) -> u64 {
        RaftMachineStorage::applied_index(self)
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        RaftMachineStorage::snapshot_metadata(self)
    }

    fn store_id(&self) -> Result<[u8; 16]> {
        self.store().store_id()
    }

    fn stage_snapshot(
        &self,
        index: u64,
        term: u64,
        conf_state: &ConfState,
    ) -> Result<SnapshotWriter> {
        RaftMachineStorage::stage_snapshot(self, index, term, conf_state)
    }

    fn finish_snapshot(&self, writer: SnapshotWriter) -> Result<StagedSnapshot> {
        writer.finish()
    }

    fn create_snapshot(&self, staged: StagedSnapshot) -> Result<()> {
        self.create_snapshot_from(staged)
    }

    fn begin_with(&self, staged: StagedSnapshot, writes: &Writes) -> Result<()> {
        let mut snapshot = raft::eraftpb::Snapshot::default();
        let mut metadata = SnapshotMetadata::default();
        metadata.index = staged.index();
        metadata.term = staged.term();
        metadata.set_conf_state(staged.conf_state());
        snapshot.set_metadata(metadata);
        snapshot.data = staged.reference().to_bytes().into();
        let batch = self.batch().snapshot(&snapshot).staged_snapshot(staged);
        with_writes(batch, self, writes).must_sync(true).write()
    }

    fn reference(&self, staged: &StagedSnapshot) -> Vec<u8> {
        staged.reference().to_bytes()
    }

    fn open_snapshot(&self) -> Result<Option<(u64, SnapshotReader)>> {
        let reader = RaftMachineStorage::open_snapshot(self)?;
        Ok(reader.map(|reader| (reader.reference().index, reader)))
    }

    fn compact(&self, to: u64) -> Result<()> {
        RaftMachineStorage::compact(self, to)
    }

    fn sync(&self) -> Result<()> {
        RaftMachineStorage::sync(self)
    }
}

/// As [`Batch::write`], but nobody else who writes to this group waits for it meanwhile: raft's
/// thread does.
fn submit_and_wait(batch: Batch<'_>) -> Result<()> {
    let (told, durable) = mpsc::channel();
    // It is received below.
    batch.submit(move |result| drop(told.send(result)))?;
    let lost = |_| Error::Poisoned {
        cause: "the store dropped a write without a word".into(),
    };
    durable.recv().map_err(lost)?
}

fn with_writes<'a>(batch: Batch<'a>, storage: &RaftMachineStorage, writes: &Writes) -> Batch<'a> {
    writes.puts.iter().fold(batch, |batch, put| {
        let key = own_key(storage, &put.family, &put.key);
        match &put.value {
            Some(value) => batch.put(&put.family, key, value.clone()),
            None => batch.delete(&put.family, key),
        }
    })
}

/// The groups of a store share the driver's family.
fn own_key(storage: &RaftMachineStorage, family: &str, key: &[u8]) -> Vec<u8> {
    let mut own = Vec::with_capacity(8 + key.len());
    if family == DRIVER_FAMILY {
        own.extend_from_slice(&storage.group_id().to_be_bytes());
    }
    own.extend_from_slice(key);
    own
}
