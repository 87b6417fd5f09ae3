//! The builder of one atomic write of a group.

use std::fmt;

use raft::Ready;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

use super::RaftMachineStorage;
use crate::batch::{ApplicationPut, IncomingSnapshot, Write};
use crate::config::SnapshotPayload;
use crate::error::{Error, Result};
use crate::snapshot::{SnapshotReference, StagedSnapshot};

/// One atomic write of several parts. Nothing is checked or written before
/// [`write`](Batch::write). The parts take effect in this order, whatever the order of the
/// calls: snapshot, entries, hard state, commit, configuration, applied index.
#[must_use = "nothing is written before `write` is called"]
pub struct Batch<'a> {
    storage: &'a RaftMachineStorage,
    write: Write<'a>,
    snapshot: Option<&'a Snapshot>,
    staged: Option<StagedSnapshot>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(storage: &'a RaftMachineStorage) -> Self {
        Batch {
            storage,
            write: Write::default(),
            snapshot: None,
            staged: None,
        }
    }

    /// Everything the Ready wants persisted: snapshot, entries, hard state.
    pub fn ready(mut self, ready: &'a Ready) -> Self {
        if !ready.snapshot().is_empty() {
            self.snapshot = Some(ready.snapshot());
        }
        if let Some(hard_state) = ready.hs() {
            self = self.hard_state(hard_state);
        }
        self.entries(ready.entries()).must_sync(ready.must_sync())
    }

    /// Installs a received snapshot.
    pub fn snapshot(mut self, snapshot: &'a Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// The file of the snapshot to install, when that is a reference.
    pub fn staged_snapshot(mut self, staged: StagedSnapshot) -> Self {
        self.staged = Some(staged);
        self
    }

    /// Appends entries, behind those of earlier calls.
    pub fn entries(mut self, entries: &'a [Entry]) -> Self {
        if !entries.is_empty() {
            self.write.entries.push(entries);
        }
        self
    }

    /// Stores term, vote and commit.
    pub fn hard_state(mut self, hard_state: &HardState) -> Self {
        self.write.hard_state = Some(hard_state.into());
        self
    }

    /// Stores the configuration and the applied index it belongs to.
    pub fn conf_state(mut self, conf_state: &ConfState, applied: u64) -> Self {
        self.write.conf_state = Some((conf_state.into(), applied));
        self
    }

    /// Raises the stored commit.
    pub fn commit(mut self, index: u64) -> Self {
        self.write.commit = Some(index);
        self
    }

    /// Records the applied index.
    pub fn applied(mut self, index: u64) -> Self {
        self.write.applied = Some(index);
        self
    }

    /// Puts a key of the application's own into one of its column families.
    pub fn put(
        mut self,
        family: impl Into<String>,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> Self {
        let (family, key, value) = (family.into(), key.into(), Some(value.into()));
        self.write
            .application
            .push(ApplicationPut { family, key, value });
        self
    }

    /// Deletes a key of the application's own.
    pub fn delete(mut self, family: impl Into<String>, key: impl Into<Vec<u8>>) -> Self {
        let (family, key, value) = (family.into(), key.into(), None);
        self.write
            .application
            .push(ApplicationPut { family, key, value });
        self
    }

    /// Asks for a sync by policy even where none is needed for Raft: the application's own
    /// data together with an applied index is not synced otherwise, because the log still has
    /// what it was made from.
    pub fn must_sync(mut self, must_sync: bool) -> Self {
        self.write.must_sync |= must_sync;
        self
    }

    /// Writes everything, or nothing.
    ///
    /// # Errors
    /// The refusals of the operations that the parts stand for; nothing was written.
    /// [`Error::Poisoned`]: an earlier write or sync failed; nothing was written.
    /// [`Error::Rocks`]: this write or its sync failed; what is on disk is known after
    /// reopening, and nothing may be acknowledged.
    pub fn write(mut self) -> Result<()> {
        self.prepare()?;
        self.storage.group.log.write(self.write)
    }

    /// Writes everything, or nothing, and waits for no sync, neither its own nor one of what was
    /// submitted before: what is written survives the end of this process, and is lost with the
    /// power unless a later sync comes first. It is never there without what was submitted
    /// before it. For what is made from committed entries again when it is lost: the applied
    /// index, the configuration at it, a raised commit, and the application's keys.
    ///
    /// Two things can make it wait for a sync all the same: a full queue
    /// ([`Options::write_queue_bytes`](crate::Options::write_queue_bytes)), and, once per
    /// memtable, the change to a new write-ahead log.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`]: there is a snapshot, an entry or a hard state in it, or
    /// [`must_sync`](Batch::must_sync) was asked for. Else as [`write`](Batch::write).
    pub fn write_unsynced(mut self) -> Result<()> {
        let write = &self.write;
        let promised = self.snapshot.is_some()
            || self.staged.is_some()
            || !write.entries.is_empty()
            || write.hard_state.is_some()
            || write.must_sync;
        if promised {
            return Err(Error::invalid_batch(
                "a write that no sync follows has a snapshot, entries or a hard state in it, or \
                 must_sync; use Batch::write or Batch::submit",
            ));
        }
        self.prepare()?;
        self.storage.group.log.write_unsynced(self.write)
    }

    /// Hands everything to the store's writer and returns without waiting for the disk. What
    /// was submitted can be read at once; `on_durable` is told when it is as durable as
    /// [`write`](Batch::write) makes it before it returns.
    ///
    /// Callbacks run in the order of submission, one at a time, on a thread of the store:
    /// they must not block, and must not call the store (a write there is refused). Send a
    /// message. After a failed write or sync no callback gets `Ok` any more; each still gets
    /// its error. A batch that needs no sync waits for those submitted before it, which spares
    /// its own sync only (rule 16 of `docs/testing.md`).
    ///
    /// Blocks while the store holds [`Options::write_queue_bytes`] of writes that are not
    /// acknowledged; [`RaftStore::backlog`] tells how much there is.
    ///
    /// [`Options::write_queue_bytes`]: crate::Options::write_queue_bytes
    /// [`RaftStore::backlog`]: crate::RaftStore::backlog
    ///
    /// # Errors
    /// Those of [`write`](Batch::write) that are refusals, and [`Error::Poisoned`]: nothing
    /// was or will be written, and `on_durable` is not called.
    pub fn submit(mut self, on_durable: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
        self.prepare()?;
        self.storage.group.log.submit(self.write, on_durable)
    }

    fn prepare(&mut self) -> Result<()> {
        if let Some(snapshot) = self.snapshot.take() {
            self.write.install = Some(self.incoming(snapshot)?);
        } else if self.staged.is_some() {
            return Err(Error::invalid_batch(
                "a staged snapshot without the snapshot it belongs to; add Batch::snapshot, or \
                 use create_snapshot_from for one made here",
            ));
        }
        Ok(())
    }

    fn incoming(&mut self, snapshot: &Snapshot) -> Result<IncomingSnapshot> {
        let metadata = snapshot.get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let staged = self.staged.take();
        if self.storage.store.inner.options.snapshot_payload == SnapshotPayload::Inline {
            if staged.is_some() {
                return Err(Error::invalid_batch(
                    "a staged snapshot needs snapshot_payload Reference",
                ));
            }
            return self.storage.group.log.bring(metadata, &snapshot.data);
        }
        if snapshot.data.is_empty() && staged.is_none() {
            // A first snapshot that only carries a configuration.
            return Ok(IncomingSnapshot::inline(metadata, &[]));
        }
        let reference = SnapshotReference::from_bytes(&snapshot.data)?;
        let Some(staged) = staged else {
            return Err(Error::SnapshotNotStaged { index, term });
        };
        self.storage.check_own(&staged)?;
        if staged.reference() != reference || (reference.index, reference.term) != (index, term) {
            return Err(Error::invalid_batch(format!(
                "the staged file is not the one that the snapshot at index {index}, term {term} \
                 refers to; fetch it again"
            )));
        }
        let mut incoming = IncomingSnapshot::staged(staged);
        incoming.record.conf_state = metadata.get_conf_state().into();
        Ok(incoming)
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("storage", self.storage)
            .finish_non_exhaustive()
    }
}
