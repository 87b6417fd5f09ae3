//! The RocksDB handle; the only place that writes or syncs.
//!
//! Invariants:
//! 1. A change reaches RocksDB in one atomic write batch, through [`Db::write`] alone.
//! 2. A sync is asked for explicitly, and happens in [`Db::sync`] alone.
//! 3. After a write or sync has failed, no later write or sync succeeds: the handle is
//!    poisoned until the store is opened again. What the failed one left on disk is unknown,
//!    and the kernel may report a later fsync as successful although pages were dropped
//!    (PostgreSQL's "fsyncgate", 2018).
//! 4. No write bypasses the write-ahead log, and nothing is ingested: sequence numbers in the
//!    live logs are adjacent, which is what [`Check`] proves at open.
//! 5. In a database of our own a log is synced before the next one is begun, and what a sync
//!    covered is in the [`witness`] before it is acknowledged.
//!
//! An iterator's end is believed only after its status was checked, every iterator seeks in
//! total order, and none reads below a group's first entry (rule 20 of the contract).

mod backup;
mod check;
mod manifest;
mod options;
#[cfg(feature = "tools")]
pub(crate) mod salvage;
#[cfg(feature = "tools")]
pub(crate) mod view;

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rocksdb::statistics::Ticker;
use rocksdb::{DB, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

pub(crate) use self::backup::CHECKPOINT;
use self::check::{Check, Replay, check_is_new, list_families};
pub(crate) use self::options::report_slow_build;
use self::options::{descriptors, rocks_options};
use crate::changes::{self, Batch, Changes, PutTag};
use crate::config::{Options, RAFT_COLUMN_FAMILY, WitnessPolicy};
use crate::error::{Error, Result};
use crate::keys;
use crate::metrics;
use crate::record::{self, StoreFormat};
use crate::reserve::Reserve;
use crate::snapshot::{lock, make_dir};
use crate::witness::{self, Witness};

/// What a scan reads ahead: RocksDB alone begins with 8 KiB and doubles that.
const READAHEAD_LEN: usize = 256 << 10;
const DATABASE_DIR: &str = "db";
const LOCK_FILE: &str = "lock";

/// The database type of [`RaftStore::with_db`](crate::RaftStore::with_db).
pub type Database = DB;

/// RocksDB's own counters, since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Syncs of write-ahead logs.
    pub wal_syncs: u64,
    /// Bytes written to write-ahead logs.
    pub wal_bytes: u64,
    /// Syncs of the witness.
    pub witness_syncs: u64,
}

/// The database, shared by every group of a store.
pub(crate) struct Db {
    rocks: Arc<DB>,
    column_family: String,
    put_tag: PutTag,
    poison: Poison,
    /// `None` for a database that is not ours: its owner switches logs.
    wal_switch: Option<WalSwitch>,
    /// `None` for a database that is not ours.
    witness: Option<Witness>,
    /// `None` for a database that is not ours.
    reserve: Option<Reserve>,
    statistics: Option<rocksdb::Options>,
    /// `None` for a database of our own: its directory is locked.
    claim: Option<FamilyClaim>,
    /// `None` for a database that is not ours. Fields are dropped in order: the directory is
    /// unlocked when RocksDB is closed.
    _lock: Option<File>,
}

/// When to start a new write-ahead log, before RocksDB does.
struct WalSwitch {
    families: Vec<String>,
    bytes_max: u64,
    /// What the memtables have got since the last switch, at least.
    bytes: AtomicU64,
}

impl WalSwitch {
    /// More than a record takes in a memtable beside its key and value: a node of a skip list
    /// and a sequence number.
    const RECORD_OVERHEAD_BYTES: usize = 64;

    fn new(families: impl IntoIterator<Item = String>, options: &Options) -> Self {
        WalSwitch {
            families: families.into_iter().collect(),
            bytes_max: options.memtable_bytes as u64,
            bytes: AtomicU64::new(0),
        }
    }

    fn is_due(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }

    fn add(&self, batch: &WriteBatch) {
        let bytes = batch.size_in_bytes() + batch.len() * Self::RECORD_OVERHEAD_BYTES;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A column family of somebody else's database, claimed in this process: two stores on it
/// would give a vote each.
struct FamilyClaim {
    family: (usize, String),
}

static CLAIMED: Mutex<BTreeSet<(usize, String)>> = Mutex::new(BTreeSet::new());

impl FamilyClaim {
    fn new(rocks: &Arc<DB>, family: &str) -> Result<Self> {
        // The store keeps the database alive, so its address is not given to another.
        let family = (Arc::as_ptr(rocks).addr(), family.to_owned());
        if !CLAIMED.lock().insert(family.clone()) {
            return Err(Error::Locked {
                path: rocks.path().join(family.1),
            });
        }
        Ok(FamilyClaim { family })
    }
}

impl Drop for FamilyClaim {
    fn drop(&mut self) {
        CLAIMED.lock().remove(&self.family);
    }
}

#[derive(Default)]
struct Poison {
    cause: OnceLock<Arc<str>>,
}

impl Poison {
    fn check(&self) -> Result<()> {
        match self.cause.get() {
            None => Ok(()),
            Some(_) => Err(self.refusal()),
        }
    }

    fn refusal(&self) -> Error {
        let cause = self.cause.get().map(Arc::clone);
        Error::Poisoned {
            cause: cause.unwrap_or_else(|| "a write or sync failed".into()),
        }
    }

    /// Only the first failure is kept: the later ones follow from it.
    fn set(&self, cause: &Error) {
        if self.cause.set(cause.to_string().into()).is_ok() {
            metrics::poisoned();
        }
    }
}

/// The handle of the raft column family. A macro, because its type depends on whether the
/// embedder builds `rocksdb` with `multi-threaded-cf`.
macro_rules! raft_family {
    ($db:expr) => {
        $db.rocks
            .cf_handle(&$db.column_family)
            .ok_or_else(|| Error::InvalidOptions {
                field: "column_family",
                reason: format!("{:?} was dropped from the database", $db.column_family),
            })?
    };
}

macro_rules! application_family {
    ($db:expr, $family:expr) => {
        $db.rocks.cf_handle($family).ok_or_else(|| {
            let family = $family;
            Error::invalid_batch(format!(
                "there is no column family {family:?}; name it in Options::column_families"
            ))
        })?
    };
}

impl Db {
    /// Opens, or creates, the database of a store that owns its directory.
    pub(crate) fn open(dir: &Path, options: &Options) -> Result<Db> {
        make_dir(dir)?;
        Db::open_locked(dir, options, lock_store(dir)?)
    }

    fn open_locked(dir: &Path, options: &Options, lock: File) -> Result<Db> {
        let path = dir.join(DATABASE_DIR);
        // Before anything is written: everything below may need the room.
        let reserve = Reserve::make_room(dir, &path, options.reserve_bytes)?;
        let mut db =
            Db::open_database(dir, &path, options, lock).map_err(|e| reserve.explain(e))?;
        reserve.refill();
        db.reserve = Some(reserve);
        Ok(db)
    }

    fn open_database(dir: &Path, path: &Path, options: &Options, lock: File) -> Result<Db> {
        let witness = witness::read(dir)?;
        let (existing, replay) = if path.join("CURRENT").exists() {
            let torn = manifest::cut_torn_tail(path)?;
            let checked = Db::check_existing(dir, path, options, witness.as_ref());
            if let (Err(_), Some(torn)) = (&checked, torn) {
                torn.put_back()?;
            }
            checked?
        } else {
            check_is_new(path)?;
            if let Some((record, _)) = &witness
                && record.sequence > 0
            {
                return Err(Error::AcknowledgedWritesLost {
                    witnessed: record.sequence,
                    recovered: 0,
                });
            }
            make_dir(path)?;
            (Vec::new(), Replay::Nothing)
        };
        let wanted = options
            .column_families
            .iter()
            .filter(|name| !existing.contains(name));
        let families: Vec<&String> = existing.iter().chain(wanted).collect();
        let rocks_options = rocks_options(options);
        let open = || {
            let descriptors = descriptors(options, families.iter().copied());
            DB::open_cf_descriptors(&rocks_options, path, descriptors).map_err(|e| opening(path, e))
        };
        let mut rocks = open()?;
        let has_several = families.iter().any(|name| *name != RAFT_COLUMN_FAMILY);
        if has_several && (families.len() > existing.len() || replay == Replay::Batches) {
            // New families, and the tables made of the logs, one edit for each family, are told of
            // behind the state that a MANIFEST begins with: one without its end would not know
            // some of them. From the next open on they are in that state, which is whole.
            drop(rocks);
            rocks = open()?;
        }
        let statistics = options.statistics.then_some(rocks_options);
        let mut db = Db::start(Arc::new(rocks), RAFT_COLUMN_FAMILY, statistics, Some(lock))?;
        let others = families
            .into_iter()
            .filter(|name| *name != RAFT_COLUMN_FAMILY);
        let families = others.map(String::as_str).chain([RAFT_COLUMN_FAMILY]);
        db.wal_switch = Some(WalSwitch::new(families.map(str::to_owned), options));
        db.start_witness(dir, witness, options.witness)?;
        Ok(db)
    }

    /// The column families of a database that may be opened, and what its logs hold.
    fn check_existing(
        dir: &Path,
        path: &Path,
        options: &Options,
        witness: Option<&(witness::slot::Record, witness::slot::Slot)>,
    ) -> Result<(Vec<String>, Replay)> {
        let families = list_families(path)?;
        let check = Check {
            dir,
            path,
            options,
            families: &families,
            witness: witness.map(|(record, _)| record),
        };
        let replay = check.run()?;
        Ok((families, replay))
    }

    /// Uses a column family of a database that somebody else opened.
    pub(crate) fn with_db(rocks: Arc<DB>, column_family: &str) -> Result<Db> {
        if rocks.cf_handle(column_family).is_none() {
            return Err(Error::InvalidOptions {
                field: "column_family",
                reason: format!(
                    "the database has no column family {column_family:?} open; create it and \
                     open it by name"
                ),
            });
        }
        let claim = FamilyClaim::new(&rocks, column_family)?;
        let mut db = Db::start(rocks, column_family, None, None)?;
        db.claim = Some(claim);
        if db.format()?.is_none() {
            db.write_format(&new_format()?)?;
        }
        Ok(db)
    }

    fn start(
        rocks: Arc<DB>,
        column_family: &str,
        statistics: Option<rocksdb::Options>,
        lock: Option<File>,
    ) -> Result<Db> {
        Ok(Db {
            put_tag: learn_put_tag(&rocks, column_family)?,
            rocks,
            column_family: column_family.to_owned(),
            poison: Poison::default(),
            wal_switch: None,
            witness: None,
            reserve: None,
            statistics,
            claim: None,
            _lock: lock,
        })
    }

    /// Goes on with the witness that was found, which has been checked, or makes the first one,
    /// of a new store or of one of before there were any. The format record says that there is
    /// one only after there is.
    fn start_witness(
        &mut self,
        dir: &Path,
        found: Option<(witness::slot::Record, witness::slot::Slot)>,
        policy: WitnessPolicy,
    ) -> Result<()> {
        let known = self.format()?;
        let is_new = known.is_none();
        if is_new && found.is_some_and(|(record, _)| record.sequence > 0) {
            let expected = "the record of a store that has been synced";
            return Err(no_format(expected, "none".to_owned()));
        }
        let mut format = match known {
            Some(format) => format,
            None => new_format()?,
        };
        self.witness = Some(match found {
            Some(found) if !is_new => Witness::open(dir, found, policy)?,
            _ => Witness::create(dir, store_id(&format)?, policy)?,
        });
        if let Some(witness) = &self.witness {
            // What was recovered stands in tables now, synced, however far the log had been, and
            // what is read from here on may be acted upon.
            witness.record(self.rocks.latest_sequence_number())?;
        }
        if !format.witness {
            format.witness = true;
            self.write_format(&format)?;
        }
        Ok(())
    }

    /// The format record; `None` in an empty column family.
    fn format(&self) -> Result<Option<StoreFormat>> {
        if let Some(bytes) = self.get(keys::FORMAT)? {
            return decode_format(&bytes).map(Some);
        }
        let mut stray = None;
        self.scan(b"", None, |key, _| {
            stray = Some(keys::display(key));
            Ok(ControlFlow::Break(()))
        })?;
        match stray {
            None => Ok(None),
            Some(key) => {
                let found = format!("no such record, but a key {key}");
                Err(no_format("a format record", found))
            }
        }
    }

    fn write_format(&self, format: &StoreFormat) -> Result<()> {
        let mut changes = Changes::default();
        self.put(&mut changes, keys::FORMAT, &record::encode_format(format))?;
        self.write(&[&changes.finish()])?;
        self.sync()
    }

    /// The database itself, for reading the application's column families.
    pub(crate) fn rocks(&self) -> &DB {
        &self.rocks
    }

    /// RocksDB's counters, when they are kept.
    pub(crate) fn counters(&self) -> Option<Counters> {
        self.statistics.as_ref().map(|options| Counters {
            wal_syncs: options.get_ticker_count(Ticker::WalFileSynced),
            wal_bytes: options.get_ticker_count(Ticker::WalFileBytes),
            witness_syncs: self.witness.as_ref().map_or(0, Witness::syncs),
        })
    }

    /// Refuses when an earlier write or sync has failed.
    pub(crate) fn check_poison(&self) -> Result<()> {
        self.poison.check()
    }

    /// The error of everything after a failure.
    pub(crate) fn poisoned(&self) -> Error {
        self.poison.refusal()
    }

    /// Adds a raft record to `changes`.
    pub(crate) fn put(&self, changes: &mut Changes, key: &[u8], value: &[u8]) -> Result<()> {
        let copy = |out: &mut Vec<u8>| {
            out.extend_from_slice(value);
            Ok(())
        };
        self.put_with(changes, key, value.len(), copy).map(|_| ())
    }

    /// Adds a raft record of `len` bytes, which `encode` appends; returns where it stands.
    pub(crate) fn put_with(
        &self,
        changes: &mut Changes,
        key: &[u8],
        len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<Range<usize>> {
        check_len(|| keys::display(key), len)?;
        changes.put(&self.put_tag, key, len, encode)
    }

    /// Adds the removal of a raft record to `changes`.
    pub(crate) fn delete(&self, changes: &mut Changes, key: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(&raft_family!(self), key);
        changes.append(batch.data());
        Ok(())
    }

    /// Adds the removal of every raft record in `[low, high)` to `changes`.
    pub(crate) fn delete_range(
        &self,
        changes: &mut Changes,
        low: &[u8],
        high: &[u8],
    ) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(&raft_family!(self), low, high);
        changes.append(batch.data());
        Ok(())
    }

    /// Adds a change of the application's own data to `changes`; `None` removes the key.
    pub(crate) fn put_application(
        &self,
        changes: &mut Changes,
        family: &str,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        if family == self.column_family {
            return Err(Error::invalid_batch(format!(
                "column family {family:?} holds the raft records; put the application's data \
                 into another one"
            )));
        }
        let handle = application_family!(self, family);
        let len = key.len().max(value.map_or(0, <[u8]>::len));
        check_len(|| format!("a key of column family {family:?}"), len)?;
        let mut batch = WriteBatch::default();
        match value {
            Some(value) => batch.put_cf(&handle, key, value),
            None => batch.delete_cf(&handle, key),
        }
        changes.append(batch.data());
        Ok(())
    }

    /// Writes all `batches`, in order, as one: all or none of them. Not synced.
    ///
    /// # Errors
    /// [`Error::Rocks`]: whether the changes reached the disk is unknown; the handle is
    /// poisoned. [`Error::Poisoned`]: nothing was written.
    pub(crate) fn write(&self, batches: &[&Batch]) -> Result<()> {
        self.poison.check()?;
        let batch = match batches {
            [only] => WriteBatch::from_data(only.bytes()),
            all => WriteBatch::from_data(changes::join(all.iter().copied()).bytes()),
        };
        if let Some(switch) = &self.wal_switch {
            if switch.is_due() {
                self.switch_wal(switch)?;
            }
            switch.add(&batch);
        }
        self.rocks
            .write_opt(batch, &WriteOptions::default())
            .map_err(|e| self.fail(Error::rocks("write")(e)))
    }

    /// Starts a new write-ahead log while nothing in the old one is unsynced: nobody else
    /// writes. Memtables are flushed in the background, so that the old one can be recycled.
    fn switch_wal(&self, switch: &WalSwitch) -> Result<()> {
        self.sync()?;
        let mut flush = FlushOptions::default();
        flush.set_wait(false);
        for family in &switch.families {
            // Only the first starts a log: a new one is empty.
            let Some(handle) = self.rocks.cf_handle(family) else {
                continue;
            };
            match self.rocks.flush_cf_opt(&handle, &flush) {
                Ok(()) => {}
                // Flushes have fallen behind. What comes next waits for them, and then RocksDB
                // may switch: all there is has been synced.
                Err(e) if e.kind() == rocksdb::ErrorKind::TryAgain => return Ok(()),
                Err(e) => return Err(self.fail(Error::rocks("switch the write-ahead log")(e))),
            }
        }
        switch.bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Makes everything written so far durable, and records it in the witness.
    ///
    /// # Errors
    /// As [`Db::write`], and [`Error::Io`] of the witness.
    pub(crate) fn sync(&self) -> Result<()> {
        self.poison.check()?;
        // Before the sync: it need not cover what is written while it runs.
        let covered = self.rocks.latest_sequence_number();
        let synced = self.rocks.flush_wal(true).map_err(Error::rocks("sync"));
        let witnessed = synced.and_then(|()| match &self.witness {
            Some(witness) => witness.record(covered),
            None => Ok(()),
        });
        witnessed.map_err(|e| self.fail(e))
    }

    /// Makes the reserve for a full disk again, where it is missing and there is room.
    pub(crate) fn refill_reserve(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.refill_if_missing();
        }
    }

    fn fail(&self, error: Error) -> Error {
        self.poison.set(&error);
        log::error!("the store refuses to write from here on: {error}");
        error
    }

    /// Refuses from here on, because a write or sync did not return.
    pub(crate) fn panicked(&self) -> Error {
        let cause = "a write or sync panicked, perhaps in the logger".into();
        self.poison.set(&Error::Poisoned { cause });
        self.poison.refusal()
    }

    /// The value of one raft record.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.rocks
            .get_cf(&raft_family!(self), key)
            .map_err(|e| self.reading(e))
    }

    /// Visits the raft records in `[low, high)` in order, to the end without `high`, until
    /// `visit` breaks off.
    pub(crate) fn scan(
        &self,
        low: &[u8],
        high: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut read = ReadOptions::default();
        read.set_total_order_seek(true);
        // A log is read once from one end to the other: blocks in a cache would serve nobody.
        read.fill_cache(false);
        read.set_readahead_size(READAHEAD_LEN);
        if let Some(high) = high {
            read.set_iterate_upper_bound(high);
        }
        let mut iterator = self.rocks.raw_iterator_cf_opt(&raft_family!(self), read);
        iterator.seek(low);
        while let Some((key, value)) = iterator.item() {
            if visit(key, value)?.is_break() {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|e| self.reading(e))
    }

    /// The value of a key of the application's own.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`]: there is no such column family.
    #[cfg(feature = "driver")]
    pub(crate) fn get_application(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let handle = application_family!(self, family);
        self.rocks.get_cf(&handle, key).map_err(|e| self.reading(e))
    }

    /// The keys of the application's own that begin with `prefix`, in order.
    ///
    /// # Errors
    /// As [`get_application`](Db::get_application).
    #[cfg(feature = "driver")]
    pub(crate) fn scan_application(
        &self,
        family: &str,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let handle = application_family!(self, family);
        let mut iterator = self.rocks.raw_iterator_cf(&handle);
        iterator.seek(prefix);
        let mut found = Vec::new();
        while let Some((key, value)) = iterator.item() {
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_vec(), value.to_vec()));
            iterator.next();
        }
        iterator.status().map_err(|e| self.reading(e))?;
        Ok(found)
    }

    fn reading(&self, error: rocksdb::Error) -> Error {
        found_by_rocks("read", self.rocks.path(), error)
    }
}

/// Ours, not RocksDB's: the checks before the writable open must not read a database that another
/// process is writing to.
fn lock_store(dir: &Path) -> Result<File> {
    lock(&dir.join(LOCK_FILE))
}

/// How RocksDB begins a put into this column family.
fn learn_put_tag(rocks: &DB, column_family: &str) -> Result<PutTag> {
    const KEY: &[u8] = b"key";
    let mut batch = WriteBatch::default();
    if let Some(family) = rocks.cf_handle(column_family) {
        batch.put_cf(&family, KEY, b"");
    }
    PutTag::learn(batch.data(), KEY).ok_or_else(|| Error::InvalidOptions {
        field: "column_family",
        reason: format!(
            "a write batch of this RocksDB for {column_family:?} is not laid out as this version \
             of raft-rocks knows it; use the RocksDB it was released with"
        ),
    })
}

/// RocksDB's C interface drops what is longer from a batch without a word.
fn check_len(what: impl Fn() -> String, len: usize) -> Result<()> {
    // Keys may have eight bytes less: RocksDB adds a sequence number to them.
    if u32::try_from(len).is_ok_and(|len| len <= u32::MAX - 8) {
        return Ok(());
    }
    Err(Error::invalid_batch(format!(
        "{}: {len} bytes, and RocksDB takes less than 4 GiB; store it in pieces",
        what()
    )))
}

/// What RocksDB itself finds damaged gets our error, which says what to do about it.
fn found_by_rocks(op: &'static str, path: &Path, error: rocksdb::Error) -> Error {
    if error.kind() == rocksdb::ErrorKind::Corruption {
        let expected = "files as RocksDB wrote them";
        return Error::corruption(
            "database",
            path.display().to_string(),
            expected,
            error.to_string(),
        );
    }
    Error::Rocks { op, source: error }
}

fn opening(path: &Path, error: rocksdb::Error) -> Error {
    found_by_rocks("open", path, error)
}

fn decode_format(bytes: &[u8]) -> Result<StoreFormat> {
    let format =
        record::decode_format(bytes).map_err(|damage| damage.at("format record", "/format"))?;
    let supported = u32::from(record::FORMAT_VERSION);
    if format.version != supported {
        return Err(Error::UnsupportedFormat {
            found: format.version,
            supported,
        });
    }
    Ok(format)
}

fn no_format(expected: &str, found: String) -> Error {
    Error::corruption("format record", "/format", expected, found)
}

fn new_format() -> Result<StoreFormat> {
    let mut store_id = vec![0; 16];
    getrandom::getrandom(&mut store_id)
        .map_err(|e| Error::io("read", Path::new("the system's random source"), e.into()))?;
    Ok(StoreFormat {
        version: u32::from(record::FORMAT_VERSION),
        store_id,
        witness: false,
    })
}

fn store_id(format: &StoreFormat) -> Result<[u8; 16]> {
    let id = format.store_id.as_slice();
    id.try_into()
        .map_err(|_| no_format("a store id of 16 bytes", format!("{} bytes", id.len())))
}

/// The database of a store.
#[cfg(feature = "tools")]
pub(crate) fn database_path(dir: &Path) -> PathBuf {
    dir.join(DATABASE_DIR)
}

/// The file that an open store has locked.
#[cfg(feature = "tools")]
pub(crate) fn lock_path(dir: &Path) -> PathBuf {
    dir.join(LOCK_FILE)
}

/// The directory of snapshot files, unless the options name another.
pub(crate) fn default_snapshot_dir(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// The same beside a database that is not ours: one for each column family.
pub(crate) fn snapshot_dir_of_family(database: &Path, family: &str) -> PathBuf {
    let escaped: String = family
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02x}"),
        })
        .collect();
    let mut path = database.as_os_str().to_owned();
    path.push(format!(".raft-snapshots-{escaped}"));
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rocksdb_would_drop_from_a_batch_is_refused() {
        let check = |len: usize| check_len(|| "a key".to_owned(), len);
        assert!(check(u32::MAX as usize - 8).is_ok());
        let error = check(u32::MAX as usize - 7).unwrap_err();
        assert!(error.to_string().contains("4 GiB"), "{error}");
    }

    #[test]
    fn batches_are_what_rocksdb_makes_of_the_same_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let rocks = DB::open_cf(&options, dir.path(), ["default", "other"]).unwrap();
        for family in ["default", "other"] {
            let tag = learn_put_tag(&rocks, family).unwrap();
            let handle = rocks.cf_handle(family).unwrap();
            let (mut changes, mut theirs) = (Changes::default(), WriteBatch::default());
            for len in [0, 1, 127, 128, 300, 70_000] {
                let (key, value) = (vec![b'k'; len / 7], vec![b'v'; len]);
                let copy = |out: &mut Vec<u8>| {
                    out.extend_from_slice(&value);
                    Ok(())
                };
                changes.put(&tag, &key, len, copy).unwrap();
                theirs.put_cf(&handle, &key, &value);
                let mut single = WriteBatch::default();
                single.delete_range_cf(&handle, b"a", b"b");
                changes.append(single.data());
                theirs.delete_range_cf(&handle, b"a", b"b");
            }
            assert_eq!(changes.finish().bytes(), theirs.data(), "{family}");
        }
    }

    /// A database that was opened for reading refuses to sync, as a failing disk would.
    #[test]
    fn a_sync_that_failed_is_not_witnessed() {
        let dir = tempfile::tempdir().unwrap();
        drop(Db::open(dir.path(), &Options::default()).unwrap());
        let path = dir.path().join(DATABASE_DIR);
        let read_only = rocksdb::Options::default();
        let rocks = DB::open_cf_for_read_only(&read_only, path, [RAFT_COLUMN_FAMILY], false);
        let mut db = Db::start(Arc::new(rocks.unwrap()), RAFT_COLUMN_FAMILY, None, None).unwrap();
        let beside = tempfile::tempdir().unwrap();
        let policy = WitnessPolicy::Strict;
        db.witness = Some(Witness::create(beside.path(), [0; 16], policy).unwrap());
        assert!(db.rocks.latest_sequence_number() > 0);
        assert!(matches!(db.sync(), Err(Error::Rocks { op: "sync", .. })));
        let (record, _) = witness::read(beside.path()).unwrap().unwrap();
        assert_eq!(record.sequence, 0);
    }

    /// What the witness has not recorded must not be acknowledged: it fails as a sync does.
    #[test]
    fn a_witness_that_cannot_be_written_poisons() {
        for policy in [WitnessPolicy::Background, WitnessPolicy::Strict] {
            let dir = tempfile::tempdir().unwrap();
            let mut db = Db::open(dir.path(), &Options::default()).unwrap();
            db.witness = Some(Witness::read_only(dir.path(), policy).unwrap());
            let error = db.sync().unwrap_err();
            assert!(matches!(error, Error::Io { op: "write", .. }), "{error}");
            assert!(matches!(db.sync(), Err(Error::Poisoned { .. })));
            assert!(matches!(db.write(&[]), Err(Error::Poisoned { .. })));
        }
    }

    #[test]
    fn families_have_directories_of_their_own() {
        let of = |family| snapshot_dir_of_family(Path::new("/data/db"), family);
        assert_eq!(of("raft_1"), Path::new("/data/db.raft-snapshots-raft_1"));
        assert_eq!(of("../a"), Path::new("/data/db.raft-snapshots-%2e%2e%2fa"));
    }
}
