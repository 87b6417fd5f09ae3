//! [`RaftStore`], [`RaftMachineStorage`] and the implementation of raft's trait: the only
//! place that produces raft-rs's errors.

mod backup;
mod builder;
mod producer;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Ready, StorageError};

use crate::async_fetch::{Fetcher, Fetches, Told};
use crate::batch::{self, Compact, IncomingSnapshot, Write};
use crate::config::{Options, SnapshotPayload};
use crate::db::{self, Counters, Database, Db};
use crate::error::{Error, Result};
use crate::group_commit::GroupCommit;
use crate::group_commit::queue::{Backlog, CommitStats};
use crate::metrics;
use crate::raft_log::{self, RaftLog, metadata_of};
use crate::record;
use crate::recovery;
use crate::snapshot::{SnapshotDir, SnapshotReader, SnapshotWriter, StagedSnapshot, reference_of};

pub use self::builder::Batch;
pub use self::producer::{SnapshotProducer, SnapshotRequest};

/// One RocksDB that holds the logs of many raft groups. A clone is another handle to the same
/// store; the directory is free again when the last handle, of the store or of any of its
/// groups, and every snapshot that is staged or being staged, is dropped.
#[derive(Clone)]
pub struct RaftStore {
    inner: Arc<StoreInner>,
}

struct StoreInner {
    /// Dropped first: what it reads keeps the rest alive.
    fetcher: Mutex<Option<Fetcher>>,
    db: Arc<Db>,
    commits: Arc<GroupCommit>,
    options: Options,
    snapshots: SnapshotDir,
    groups: Mutex<BTreeMap<u64, Arc<Group>>>,
}

/// What all handles of a group share.
struct Group {
    log: Arc<RaftLog>,
    fetches: RwLock<Option<Arc<Fetches>>>,
    producer: RwLock<Option<Arc<dyn SnapshotProducer>>>,
    producing: Arc<AtomicBool>,
}

impl RaftStore {
    /// Opens the store in `dir`, creating it when there is none. What the store relies on is
    /// checked first; `docs/operations.md` says what to do about each error.
    ///
    /// # Errors
    /// [`Error::Locked`]: another process, or another handle in this one, has it open.
    /// [`Error::NoSpace`]: the disk is full, and the reserve of no help any more.
    /// [`Error::AcknowledgedWritesLost`]: the log ends before the point up to which it had been
    /// synced. [`Error::UnsupportedFormat`]: written by a newer version; nothing was touched.
    /// [`Error::Corruption`], [`Error::Rocks`], [`Error::Io`]: what is on disk cannot be
    /// relied on or read. [`Error::InvalidOptions`]: nothing was touched.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        options.validate()?;
        let dir = dir.as_ref();
        let db = Db::open(dir, &options)?;
        let snapshots = options.snapshot_dir.clone();
        let snapshots = snapshots.unwrap_or_else(|| db::default_snapshot_dir(dir));
        RaftStore::start(db, SnapshotDir::open(snapshots)?, options)
    }

    /// Keeps the logs in a column family of a database that you opened yourself. The family
    /// is this store's alone; its options are yours, and so is the recovery mode of the
    /// write-ahead log, which decides what damage is noticed (`docs/durability.md`). The
    /// checks that need a read-only open beforehand, and the directory lock, are not made; and
    /// there is no witness of how far the log was synced: it is not this store's to read.
    ///
    /// # Errors
    /// As [`RaftStore::open`]; [`Error::Locked`] when another store uses the same family or
    /// snapshot directory, [`Error::InvalidOptions`] when the database has no such column family.
    pub fn with_db(db: Arc<Database>, column_family: &str, options: Options) -> Result<Self> {
        options.validate()?;
        let snapshots = options.snapshot_dir.clone();
        let snapshots =
            snapshots.unwrap_or_else(|| db::snapshot_dir_of_family(db.path(), column_family));
        let db = Db::with_db(db, column_family)?;
        RaftStore::start(db, SnapshotDir::open(snapshots)?, options)
    }

    fn start(db: Db, snapshots: SnapshotDir, options: Options) -> Result<Self> {
        db::report_slow_build();
        let known = recovery::list_groups(&db)?;
        snapshots.remove_orphans(|group, _| known.binary_search(&group).is_err())?;
        let groups = Mutex::new(BTreeMap::new());
        let db = Arc::new(db);
        let commits = GroupCommit::start(Arc::clone(&db), &options)?;
        let inner = StoreInner {
            fetcher: Mutex::new(None),
            db,
            commits: Arc::new(commits),
            options,
            snapshots,
            groups,
        };
        Ok(RaftStore {
            inner: Arc::new(inner),
        })
    }

    /// The storage of one group, verified when it is opened for the first time. Any id will
    /// do; 0 is the one that [`RaftMachineStorage::open`] uses. A group that is not on disk
    /// starts empty, and is there from its first write on.
    ///
    /// # Errors
    /// [`Error::Corruption`]: the group's records contradict each other or their checksums.
    /// [`Error::Rocks`], [`Error::Io`]: reading failed.
    pub fn group(&self, id: u64) -> Result<RaftMachineStorage> {
        self.inner.commits.check_thread()?;
        let mut groups = self.inner.groups.lock();
        if let Some(group) = groups.get(&id) {
            return Ok(RaftMachineStorage {
                store: self.clone(),
                group: Arc::clone(group),
            });
        }
        let (db, commits) = (Arc::clone(&self.inner.db), Arc::clone(&self.inner.commits));
        let snapshots = self.inner.snapshots.clone();
        let log = RaftLog::open(db, commits, id, snapshots, &self.inner.options)?;
        let producing = Arc::new(AtomicBool::new(false));
        let group = Arc::new(Group {
            log: Arc::new(log),
            fetches: RwLock::new(None),
            producer: RwLock::new(None),
            producing,
        });
        groups.insert(id, Arc::clone(&group));
        self.share_cache(&groups);
        Ok(RaftMachineStorage {
            store: self.clone(),
            group,
        })
    }

    /// An equal share for each open group, so that all of them together keep the budget.
    fn share_cache(&self, groups: &BTreeMap<u64, Arc<Group>>) {
        let share = self.inner.options.entry_cache_bytes / groups.len().max(1);
        groups
            .values()
            .for_each(|group| group.log.set_cache_bytes_max(share));
    }

    /// The ids of the groups on disk, ascending.
    ///
    /// # Errors
    /// [`Error::Rocks`]: reading failed.
    pub fn groups(&self) -> Result<Vec<u64>> {
        recovery::list_groups(&self.inner.db)
    }

    /// Removes everything a group has, durably, whatever the fsync policy. Handles to it that
    /// are still held refuse every later write. A group that is not there is no error, and one
    /// that cannot be opened because it is damaged can still be destroyed.
    ///
    /// # Errors
    /// [`Error::Rocks`], [`Error::Poisoned`]: whether it is gone is known after reopening.
    pub fn destroy_group(&self, id: u64) -> Result<()> {
        self.inner.commits.check_thread()?;
        let mut groups = self.inner.groups.lock();
        match groups.get(&id) {
            Some(group) => group.log.destroy()?,
            None => {
                let inner = &self.inner;
                raft_log::destroy(&inner.db, &inner.commits, id, &inner.snapshots)?;
            }
        }
        groups.remove(&id);
        self.share_cache(&groups);
        Ok(())
    }

    /// Makes everything written so far durable, whatever the fsync policy.
    ///
    /// # Errors
    /// [`Error::Rocks`]: the sync failed, and the store is poisoned. [`Error::Poisoned`]: an
    /// earlier write or sync failed.
    pub fn sync(&self) -> Result<()> {
        self.inner.commits.barrier(batch::Sync::Force)
    }

    /// Syncs, and reports what dropping the handle could only log. The directory is free when
    /// the last handle is gone.
    ///
    /// # Errors
    /// As [`RaftStore::sync`].
    pub fn close(self) -> Result<()> {
        self.sync()
    }

    /// The database, for reading the application's own column families. Writes go through
    /// [`RaftMachineStorage::batch`]: what is written here directly is not poisoned with the
    /// store, and a write without the log or an ingested file would make the next open refuse
    /// the store.
    pub fn database(&self) -> &Database {
        self.inner.db.rocks()
    }

    /// What has been submitted and not yet acknowledged, in all groups: a driver that sees it
    /// grow slows its proposals down before [`Batch::submit`] blocks.
    pub fn backlog(&self) -> Backlog {
        self.inner.commits.backlog()
    }

    /// What has gone through the group commit since the store was opened: how many writes
    /// became one, how often one sync served several.
    pub fn commit_stats(&self) -> CommitStats {
        self.inner.commits.stats()
    }

    /// RocksDB's own counters; `None` unless [`Options::statistics`] is on.
    pub fn counters(&self) -> Option<Counters> {
        self.inner.db.counters()
    }
}

impl fmt::Debug for RaftStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftStore")
            .field("path", &self.database().path())
            .finish_non_exhaustive()
    }
}

/// The durable log and states of one raft group: raft-rs's `Storage`. A clone is another
/// handle to the same group.
///
/// Reads come from memory, but for entries that the cache no longer holds. A write is atomic;
/// it is checked against the log first, and a refused one leaves everything as it was. Under
/// [`FsyncPolicy::Always`](crate::FsyncPolicy::Always) everything Raft acknowledges (entries,
/// term and vote, snapshots, configurations set by hand) is durable when the call returns;
/// commit and applied indexes alone are not synced, since a restarted node learns them again.
///
/// Any write can return [`Error::Poisoned`] (nothing was written), [`Error::Rocks`] (whether
/// it was written is unknown; the store is poisoned) and [`Error::GroupDestroyed`].
#[derive(Clone)]
pub struct RaftMachineStorage {
    store: RaftStore,
    group: Arc<Group>,
}

impl RaftMachineStorage {
    /// Opens the store in `dir` and its group 0: the plain case of one group.
    ///
    /// # Errors
    /// As [`RaftStore::open`] and [`RaftStore::group`].
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        RaftStore::open(dir, options)?.group(0)
    }

    /// The group's id.
    pub fn group_id(&self) -> u64 {
        self.group.log.group()
    }

    /// The store this group is part of.
    pub fn store(&self) -> &RaftStore {
        &self.store
    }

    /// Persists everything a `Ready` holds in one atomic write: the snapshot, the entries in
    /// place of the tail they conflict with, the hard state. One sync when it must, none
    /// otherwise. Send the Ready's `persisted_messages` only after this has returned `Ok`.
    ///
    /// # Errors
    /// As [`Batch::write`].
    pub fn write_ready(&self, ready: &Ready) -> Result<()> {
        self.batch().ready(ready).write()
    }

    /// Submits everything a `Ready` holds as one atomic write, and returns without waiting for
    /// the disk: for use with `RawNode::advance_append_async`. What it held can be read when this returns, as raft expects (rule 7 of
    /// `docs/testing.md`); `on_durable` gets `Ok` when `RawNode::on_persist_ready` may be
    /// called with the Ready's number and its `persisted_messages` may leave. See
    /// [`Batch::submit`] for the rules of the callback.
    ///
    /// ```
    /// # use raft_rocks::raft::{Config, RawNode};
    /// # use raft_rocks::{Options, RaftMachineStorage};
    /// # use std::sync::mpsc;
    /// # let dir = tempfile::tempdir()?;
    /// # let storage = RaftMachineStorage::open(dir.path(), Options::default())?;
    /// # storage.initialize_with_conf_state((vec![1], vec![]))?;
    /// # let config = Config { id: 1, ..Default::default() };
    /// # let logger = slog::Logger::root(slog::Discard, slog::o!());
    /// # let mut node = RawNode::new(&config, storage.clone(), &logger)?;
    /// let (persisted, reports) = mpsc::channel();
    /// node.campaign()?;
    /// let mut ready = node.ready();
    /// // (send ready.take_messages(), apply ready.take_committed_entries() here)
    /// let number = ready.number();
    /// let messages = ready.take_persisted_messages();
    /// storage.submit_ready(&ready, move |result| {
    ///     // The raft thread may be gone.
    ///     let _ = persisted.send((number, messages, result));
    /// })?;
    /// node.advance_append_async(ready);
    ///
    /// // Later, on the raft thread, which went on meanwhile:
    /// let (number, messages, result) = reports.recv()?;
    /// result?; // After an error: stop the node.
    /// node.on_persist_ready(number);
    /// # drop(messages); // Send them now.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::submit`]. A refusal means that the node and its storage disagree: stop the
    /// node.
    pub fn submit_ready(
        &self,
        ready: &Ready,
        on_durable: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        self.batch().ready(ready).submit(on_durable)
    }

    #[cfg(feature = "driver")]
    pub(crate) fn get_application(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.store.inner.db.get_application(family, key)
    }

    #[cfg(feature = "driver")]
    pub(crate) fn scan_application(
        &self,
        family: &str,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.store.inner.db.scan_application(family, prefix)
    }

    /// Starts one atomic write of several parts.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Appends `entries`, in place of the tail from their first index on. No entries: nothing
    /// happens.
    ///
    /// # Errors
    /// [`Error::Gap`]: they start past `last_index + 1` or skip an index.
    /// [`Error::Compacted`]: they start before `first_index`. [`Error::InvalidBatch`]: terms
    /// fall, or a committed entry would change. Nothing was written.
    pub fn append(&self, entries: &[Entry]) -> Result<()> {
        self.batch().entries(entries).write()
    }

    /// Stores term, vote and commit. A commit below the stored one keeps the stored one.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`]: the term would go back, or a vote of its term would change.
    /// [`Error::Unavailable`]: the commit is past the log. Nothing was written.
    pub fn set_hard_state(&self, hard_state: &HardState) -> Result<()> {
        self.batch().hard_state(hard_state).write()
    }

    /// Stores the configuration and the applied index it belongs to.
    ///
    /// # Errors
    /// As [`RaftMachineStorage::set_applied`].
    pub fn set_conf_state(&self, conf_state: &ConfState, applied: u64) -> Result<()> {
        self.batch().conf_state(conf_state, applied).write()
    }

    /// Raises the stored commit to `index`; a lower one changes nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: past the log. Nothing was written.
    pub fn set_commit(&self, index: u64) -> Result<()> {
        self.batch().commit(index).write()
    }

    /// Records that the state machine has applied everything up to `index`, and with it that
    /// it is committed.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`]: it would go back. [`Error::Unavailable`]: past the log.
    /// Nothing was written.
    pub fn set_applied(&self, index: u64) -> Result<()> {
        self.batch().applied(index).write()
    }

    /// Gives a fresh group its first configuration, at index 0. Use the same on every node of
    /// the group, or install a first snapshot instead.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialized`]: there is a configuration or a log. Nothing was written.
    pub fn initialize_with_conf_state(&self, conf_state: impl Into<ConfState>) -> Result<()> {
        let initialize = Some(record::ConfState::from(&conf_state.into()));
        self.group.log.write(Write {
            initialize,
            ..Write::default()
        })
    }

    /// Removes the entries before `to`, which becomes the first index. At or below the first
    /// index nothing happens. The term at `to - 1` stays known. Where the reserve for a full disk
    /// is missing and there is room for it, it is made again.
    ///
    /// # Errors
    /// [`Error::CompactUnsafe`]: `to` is past `applied + 1`, or `to - 1` is past the stored
    /// snapshot and no producer is registered. Nothing was written.
    pub fn compact(&self, to: u64) -> Result<()> {
        let has_producer = self.group.producer.read().is_some();
        let compact = Some(Compact { to, has_producer });
        self.group.log.write(Write {
            compact,
            ..Write::default()
        })?;
        self.store.inner.db.refill_reserve();
        Ok(())
    }

    /// Stores `data`, the state machine's state at `index`, as the group's snapshot.
    /// `conf_state` is the configuration at that index. An `index` past the applied one is
    /// recorded as applied, with its configuration.
    ///
    /// # Errors
    /// [`Error::SnapshotOutOfDate`]: older than the stored one. [`Error::Compacted`],
    /// [`Error::Unavailable`]: not in the log, so that its term is unknown. [`Error::Io`]: its
    /// file could not be written. Nothing was changed.
    pub fn create_snapshot(&self, index: u64, conf_state: &ConfState, data: &[u8]) -> Result<()> {
        let mut metadata = SnapshotMetadata::default();
        metadata.index = index;
        metadata.term = self.snapshot_term(index)?;
        metadata.set_conf_state(conf_state.clone());
        let create = Some(self.group.log.bring(&metadata, data)?);
        self.group.log.write(Write {
            create,
            ..Write::default()
        })
    }

    /// The term at an index that a snapshot is to be created at.
    fn snapshot_term(&self, index: u64) -> Result<u64> {
        self.group.log.state(|state| {
            let current = state.snapshot_index().max(1);
            if index < current {
                return Err(Error::SnapshotOutOfDate { index, current });
            }
            state.term(index)
        })
    }

    /// Starts a snapshot file for data that is made or received piece by piece: for
    /// [`create_snapshot_from`](RaftMachineStorage::create_snapshot_from) with the term of
    /// the log at `index`, or for [`Batch::staged_snapshot`] with the metadata of the received
    /// snapshot.
    ///
    /// # Errors
    /// [`Error::Io`]: the file could not be created.
    pub fn stage_snapshot(
        &self,
        index: u64,
        term: u64,
        conf_state: &ConfState,
    ) -> Result<SnapshotWriter> {
        self.group
            .log
            .stage_snapshot(index, term, conf_state.into())
    }

    /// As [`create_snapshot`](RaftMachineStorage::create_snapshot), with data that is staged
    /// already.
    ///
    /// # Errors
    /// As there; [`Error::InvalidBatch`] when it was staged for another group or with another
    /// term than the log's. The file is removed when it is refused.
    pub fn create_snapshot_from(&self, staged: StagedSnapshot) -> Result<()> {
        self.check_own(&staged)?;
        let create = Some(IncomingSnapshot::staged(staged));
        self.group.log.write(Write {
            create,
            ..Write::default()
        })
    }

    fn check_own(&self, staged: &StagedSnapshot) -> Result<()> {
        if staged.group() != self.group_id() {
            return Err(Error::invalid_batch(format!(
                "the snapshot was staged for group {}, not {}",
                staged.group(),
                self.group_id()
            )));
        }
        Ok(())
    }

    /// Installs a snapshot received from the leader: all entries go, the log starts behind it,
    /// and applied and commit are at its index. In a driver use
    /// [`write_ready`](RaftMachineStorage::write_ready), which also stores what the Ready
    /// holds beside it.
    ///
    /// # Errors
    /// [`Error::SnapshotOutOfDate`]: older than what is committed. [`Error::InvalidBatch`]: it
    /// is empty. [`Error::SnapshotNotStaged`]: it is a reference, see
    /// [`Batch::staged_snapshot`]. Nothing was written.
    pub fn apply_snapshot(&self, snapshot: &Snapshot) -> Result<()> {
        self.batch().snapshot(snapshot).write()
    }

    /// Opens the stored snapshot's data for reading; `None` when there is no snapshot.
    ///
    /// # Errors
    /// [`Error::Corruption`]: its file is not what was written. [`Error::Io`]: reading failed.
    pub fn open_snapshot(&self) -> Result<Option<SnapshotReader>> {
        self.group.log.open_snapshot()
    }

    /// Index, term and configuration of the stored snapshot.
    pub fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        self.group
            .log
            .snapshot_record()
            .map(|record| metadata_of(&record))
    }

    /// Registers who makes a snapshot when a follower needs a newer one than is stored, or
    /// removes it. With one registered, [`compact`](RaftMachineStorage::compact) may go past
    /// the stored snapshot.
    pub fn set_snapshot_producer(&self, producer: Option<Arc<dyn SnapshotProducer>>) {
        let old = std::mem::replace(&mut *self.group.producer.write(), producer);
        // Outside the lock: what it does when it is dropped may come back here.
        drop(old);
    }

    /// Lets raft go on while entries for a lagging follower are read from the disk: reads to
    /// send that the cache cannot answer get "temporarily unavailable", and `on_fetched` is
    /// called with their context once the entries are there. It runs on a thread of the store
    /// and must not block: send the context to raft's thread, and call
    /// `RawNode::on_entries_fetched` there. `None`, the default, reads in place.
    ///
    /// One thread reads for all groups of the store. A group holds up to 16 answers, each of
    /// [`raft::Config::max_size_per_msg`] bytes, until raft comes for them. An `on_fetched`
    /// that keeps a storage keeps the store open.
    ///
    /// # Errors
    /// [`Error::Io`]: the thread could not be started.
    pub fn set_async_fetch(
        &self,
        on_fetched: Option<Arc<dyn Fn(GetEntriesContext) + Send + std::marker::Sync>>,
    ) -> Result<()> {
        let fetches = match on_fetched {
            Some(on_fetched) => {
                let mut fetcher = self.store.inner.fetcher.lock();
                let jobs = match &mut *fetcher {
                    Some(fetcher) => fetcher.jobs(),
                    none => none.insert(Fetcher::start()?).jobs(),
                };
                Some(Fetches::new(jobs, on_fetched))
            }
            None => None,
        };
        let old = std::mem::replace(&mut *self.group.fetches.write(), fetches);
        // Outside the lock: what it does when it is dropped may come back here.
        drop(old);
        Ok(())
    }

    /// The first index that can be read, at least 1.
    pub fn first_index(&self) -> u64 {
        self.group.log.state(|state| state.first_index())
    }

    /// The last index, `first_index - 1` when the log is empty.
    pub fn last_index(&self) -> u64 {
        self.group.log.state(|state| state.last_index())
    }

    /// The last index that a completed sync has covered for certain. Equal to `last_index`
    /// under [`FsyncPolicy::Always`](crate::FsyncPolicy::Always) whenever no call is under
    /// way; under the others what has been written since the last sync is missing.
    pub fn persisted_index(&self) -> u64 {
        self.group.log.persisted_index()
    }

    /// The applied index: the one to give to [`raft::Config::applied`] when the state machine
    /// is restored to exactly there.
    pub fn applied_index(&self) -> u64 {
        self.group.log.state(|state| state.applied)
    }

    /// The tail that a new leader may still replace: everything past the stored commit.
    pub fn uncommitted(&self) -> Range<u64> {
        self.group
            .log
            .state(|state| state.commit() + 1..state.last_index() + 1)
    }

    /// Term, vote and commit.
    pub fn hard_state(&self) -> HardState {
        self.group.log.state(|state| (&state.hard_state).into())
    }

    /// The configuration at the applied index.
    pub fn conf_state(&self) -> ConfState {
        self.group
            .log
            .state(|state| state.conf_state.as_ref().into())
    }

    /// The term at `index`, for any in `[first_index - 1, last_index]`. From memory.
    ///
    /// # Errors
    /// [`Error::Compacted`] below, [`Error::Unavailable`] above.
    pub fn term(&self, index: u64) -> Result<u64> {
        self.group.log.state(|state| state.term(index))
    }

    /// The entries in `[low, high)`, from their start up to `max_size` bytes as raft-rs counts
    /// them (the size of the encoded entry), at least one; `None` and `u64::MAX` are no limit.
    ///
    /// With the protobuf codec, whose entries hold shared bytes, those of the log's tail share
    /// the bytes of the write they came with: copy what is to be kept for long.
    ///
    /// # Errors
    /// [`Error::Compacted`]: `low` is before the log. [`Error::Unavailable`]: `high - 1` is
    /// past it, or `low` is past `high`. [`Error::Corruption`], [`Error::Rocks`]: what is on
    /// disk cannot be read.
    pub fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
    ) -> Result<Vec<Entry>> {
        self.group.log.fetch(low, high, max_size.into())
    }

    /// Makes everything written so far durable, in every group of the store.
    ///
    /// # Errors
    /// As [`RaftStore::sync`].
    pub fn sync(&self) -> Result<()> {
        self.group.log.sync()
    }

    /// Entries for a follower, fetched beside raft's thread unless the cache has them.
    fn entries_to_send(
        &self,
        fetches: &Arc<Fetches>,
        (low, high): (u64, u64),
        max_size: Option<u64>,
        context: GetEntriesContext,
    ) -> Result<Option<Vec<Entry>>> {
        let log = &self.group.log;
        if let Some(cached) = log.fetch_cached(low, high, max_size)? {
            return Ok(Some(cached));
        }
        match fetches.ask(log, low, high, max_size, context) {
            Told::Later => {
                metrics::fetched_later();
                return Ok(None);
            }
            Told::Entries(entries) => {
                if let Some(entries) = log.take_fetched(entries, low, high, max_size)? {
                    return Ok(Some(entries));
                }
            }
            Told::ReadInPlace => {}
        }
        log.fetch(low, high, max_size).map(Some)
    }

    /// What raft is to be told of the stored snapshot; `None` when it does not serve.
    fn stored_snapshot(&self, request_index: u64) -> Result<Option<Snapshot>> {
        let needed = request_index.max(self.first_index() - 1).max(1);
        if self.group.log.state(|state| state.snapshot_index()) < needed {
            return Ok(None);
        }
        let (record, data) = match self.store.inner.options.snapshot_payload {
            SnapshotPayload::Inline => match self.group.log.read_snapshot()? {
                Some(read) => read,
                None => return Ok(None),
            },
            SnapshotPayload::Reference => match self.group.log.snapshot_record() {
                Some(record) => {
                    let reference = reference_of(&record).to_bytes();
                    (record, reference)
                }
                None => return Ok(None),
            },
        };
        if record.index < needed {
            return Ok(None);
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata_of(&record));
        snapshot.data = data.into();
        Ok(Some(snapshot))
    }

    /// Asks the producer, unless it is at work already.
    fn request_snapshot(&self, index: u64, to: u64) {
        let Some(producer) = self.group.producer.read().clone() else {
            log::warn!(
                "group {}: node {to} needs a snapshot at {index} or later, the stored one is at \
                 {}, and no producer is registered; create one",
                self.group_id(),
                self.snapshot_metadata()
                    .map_or(0, |metadata| metadata.index)
            );
            return;
        };
        if !self.group.producing.swap(true, Ordering::AcqRel) {
            let producing = Arc::clone(&self.group.producing);
            producer.request(SnapshotRequest::new(self.clone(), index, to, producing));
        }
    }
}

impl fmt::Debug for RaftMachineStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftMachineStorage")
            .field("group", &self.group_id())
            .field("first_index", &self.first_index())
            .field("last_index", &self.last_index())
            .field("applied_index", &self.applied_index())
            .finish_non_exhaustive()
    }
}

/// The read half, as raft-rs sees it. `first_index`, `last_index`, `term` and `initial_state`
/// are answered from memory and cannot fail (rules 1 and 18 of `docs/testing.md`).
impl raft::Storage for RaftMachineStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state(), self.conf_state()))
    }

    /// # Panics
    /// When `high` is past `last_index + 1`, as the trait demands. The inherent
    /// [`entries`](RaftMachineStorage::entries) returns an error instead.
    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_size = max_size.into();
        let fetches = self.group.fetches.read().clone();
        let fetched = match fetches.filter(|_| context.can_async()) {
            Some(fetches) => self.entries_to_send(&fetches, (low, high), max_size, context),
            None => self.group.log.fetch(low, high, max_size).map(Some),
        };
        match fetched {
            Ok(Some(entries)) => Ok(entries),
            Ok(None) => Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable)),
            Err(Error::Unavailable { index, last }) => {
                panic!("entries [{low}, {high}) reach {index}, past the last index {last}")
            }
            Err(e) => Err(to_raft(e)),
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        RaftMachineStorage::term(self, index).map_err(to_raft)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(RaftMachineStorage::first_index(self))
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(RaftMachineStorage::last_index(self))
    }

    /// A snapshot that does not serve, or cannot be read, is "temporarily unavailable": any
    /// other error would stop the node (rule 15), and a leader whose snapshot file is damaged
    /// can still lead.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match self.stored_snapshot(request_index) {
            Ok(Some(snapshot)) => return Ok(snapshot),
            Ok(None) => {}
            Err(e) => log::error!("group {}: the stored snapshot: {e}", self.group_id()),
        }
        let needed = request_index
            .max(RaftMachineStorage::first_index(self) - 1)
            .max(1);
        self.request_snapshot(needed, to);
        Err(raft::Error::Store(
            StorageError::SnapshotTemporarilyUnavailable,
        ))
    }
}

fn to_raft(error: Error) -> raft::Error {
    raft::Error::Store(match error {
        Error::Compacted { .. } => StorageError::Compacted,
        Error::Unavailable { .. } => StorageError::Unavailable,
        Error::SnapshotOutOfDate { .. } => StorageError::SnapshotOutOfDate,
        other => StorageError::Other(Box::new(other)),
    })
}
