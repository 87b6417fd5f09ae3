//! What an offline tool needs: reading a store without changing anything of it, also one that
//! [`RaftStore::open`](crate::RaftStore::open) refuses; mending one; restoring a backup. Feature
//! `tools`. `raft-rocks-ctl` is built on it.
//!
//! [`View`] reads. [`Locked`] is the right to act on a store: it holds the store's lock. What is
//! changed through it is checked by nothing but the next open: read `docs/operations.md` first.

mod copy;

use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::changes::Changes;
use crate::config::VerifyOnOpen;
use crate::db::view::{self, write_current};
use crate::db::{self, Db, salvage};
use crate::error::{Error, Result};
use crate::record::SnapshotRecord;
use crate::recovery;
use crate::snapshot::{self, SnapshotDir, SnapshotReader, sync_dir};
use crate::witness;

pub use crate::db::view::Current;

/// A store that is only read. While it lives, nobody can open the store, provided that it was
/// opened before: then it has a lock file, which is shared.
pub struct View {
    view: view::View,
    dir: PathBuf,
    snapshots: SnapshotDir,
    _lock: Option<File>,
}

/// What the witness says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Witnessed {
    /// The store that it belongs to.
    pub store_id: [u8; 16],
    /// RocksDB's sequence number up to which the log had been synced.
    pub sequence: u64,
}

/// A write-ahead log of which something is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogCut {
    /// The file's name.
    pub name: String,
    /// The bytes that are read, from its start.
    pub kept: u64,
    /// The bytes there are.
    pub len: u64,
}

impl View {
    /// Reads the store in `dir`, with its snapshot files in `snapshots` if they are not in the
    /// usual place. `scratch` is an empty directory for copies of its logs.
    ///
    /// # Errors
    /// [`Error::Locked`]: it is in use. [`Error::Io`]: there is no store, or its files cannot be
    /// read. Whatever is wrong with the store itself is no error, but said by the view.
    pub fn open(dir: &Path, snapshots: Option<&Path>, scratch: &Path) -> Result<View> {
        let lock = share_lock(&db::lock_path(dir))?;
        View::unlocked(dir, snapshots, scratch, lock)
    }

    fn unlocked(
        dir: &Path,
        snapshots: Option<&Path>,
        scratch: &Path,
        lock: Option<File>,
    ) -> Result<View> {
        let snapshots = snapshots.map_or_else(|| db::default_snapshot_dir(dir), Path::to_path_buf);
        let mut view = view::View::open(dir, scratch)?;
        if let (None, Some(db)) = (&view.refusal, &view.db) {
            // The last thing that an open looks at.
            view.refusal = recovery::list_groups(db).err();
        }
        Ok(View {
            view,
            dir: dir.to_path_buf(),
            snapshots: SnapshotDir::unlocked(snapshots),
            _lock: lock,
        })
    }

    /// What [`RaftStore::open`](crate::RaftStore::open) would refuse the store with. `None`: it
    /// would open; whether its groups would is told by [`View::check_group`].
    pub fn refusal(&self) -> Option<&Error> {
        self.view.refusal.as_ref()
    }

    /// Whether the file `CURRENT` is there, and what could stand in for it.
    pub fn current(&self) -> &Current {
        &self.view.current
    }

    /// Whether RocksDB can read anything at all.
    pub fn is_readable(&self) -> bool {
        self.view.db.is_some()
    }

    /// The last sequence number of what is read.
    pub fn sequence(&self) -> Option<u64> {
        Some(self.view.db.as_ref()?.rocks().latest_sequence_number())
    }

    /// The database's column families.
    pub fn families(&self) -> &[String] {
        &self.view.families
    }

    /// What is left out of the logs of a refused store: from the first damage on, everything.
    pub fn log_cuts(&self) -> Vec<LogCut> {
        let cuts = self.view.cuts.iter().map(|cut| LogCut {
            name: cut.name.to_string_lossy().into_owned(),
            kept: cut.kept,
            len: cut.len,
        });
        cuts.collect()
    }

    /// Whether column families were flushed further than what is left of the logs reaches, so
    /// that together they are no state that ever was.
    pub fn is_torn_apart(&self) -> bool {
        self.view.is_torn_apart
    }

    /// What the witness says; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Corruption`]: neither of its slots is whole. [`Error::Io`].
    pub fn witness(&self) -> Result<Option<Witnessed>> {
        let found = witness::read(&self.dir)?;
        Ok(found.map(|(record, _)| Witnessed {
            store_id: record.store_id,
            sequence: record.sequence,
        }))
    }

    /// The groups that have a key, ascending.
    ///
    /// # Errors
    /// [`Error::Rocks`], [`Error::Corruption`]: RocksDB cannot read them.
    pub fn groups(&self) -> Result<Vec<u64>> {
        recovery::list_groups(self.db()?)
    }

    /// The bytes of one record.
    ///
    /// # Errors
    /// As [`View::groups`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db()?.get(key)
    }

    /// Visits the records in `[low, high)` in order, until `visit` breaks off.
    ///
    /// # Errors
    /// As [`View::groups`], and those of `visit`.
    pub fn scan(
        &self,
        low: &[u8],
        high: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.db()?.scan(low, Some(high), visit)
    }

    /// Checks one group as an open does, snapshot file included.
    ///
    /// # Errors
    /// The first breach, as [`RaftStore::group`](crate::RaftStore::group) returns it.
    pub fn check_group(&self, group: u64) -> Result<()> {
        recovery::load(self.db()?, &self.snapshots, group, VerifyOnOpen::Full).map(drop)
    }

    /// Checks the file of a snapshot, if it has one, to its end.
    ///
    /// # Errors
    /// [`Error::Corruption`]: it is missing or not what was written. [`Error::Io`].
    pub fn check_snapshot(&self, group: u64, record: &SnapshotRecord) -> Result<()> {
        snapshot::verify(&self.snapshots, group, record, true)
    }

    /// Reads a snapshot's data.
    ///
    /// # Errors
    /// As [`View::check_snapshot`].
    pub fn open_snapshot(&self, group: u64, record: &SnapshotRecord) -> Result<SnapshotReader> {
        SnapshotReader::open(&self.snapshots, group, record)
    }

    fn db(&self) -> Result<&Db> {
        self.view.db.as_ref().ok_or_else(|| {
            let path = self.dir.display().to_string();
            Error::corruption("database", path, "one that RocksDB can read", "none")
        })
    }
}

/// A change of one record, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Puts a value, in the format of [`record`](crate::record), under a key of
    /// [`keys`](crate::keys).
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Vec<u8>),
    /// Removes the keys in `[low, high)`.
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// The right to act on a store that nobody has open: its lock is held.
pub struct Locked {
    dir: PathBuf,
    lock: File,
}

impl Locked {
    /// Takes the lock of the store in `dir`.
    ///
    /// # Errors
    /// [`Error::Locked`]: it is in use. [`Error::Io`]: there is no store.
    pub fn take(dir: &Path) -> Result<Locked> {
        Ok(Locked {
            lock: salvage::lock(dir)?,
            dir: dir.to_path_buf(),
        })
    }

    /// As [`View::open`].
    ///
    /// # Errors
    /// As there.
    pub fn view(&self, snapshots: Option<&Path>, scratch: &Path) -> Result<View> {
        View::unlocked(&self.dir, snapshots, scratch, None)
    }

    /// Copies everything but the lock file and RocksDB's log of events to `dir`, which must not
    /// exist. What RocksDB never writes to again, and snapshot files, are hard links where that is
    /// possible.
    ///
    /// # Errors
    /// [`Error::Io`]: there may be part of a copy.
    pub fn copy_to(&self, dir: &Path) -> Result<()> {
        copy::copy_store(&self.dir, dir)
    }

    /// Makes `CURRENT` name `manifest` again.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing was changed.
    pub fn write_current(&self, manifest: &str) -> Result<()> {
        write_current(&db::database_path(&self.dir), manifest)
    }

    /// Makes a store out of what a view of it finds to stand, whatever is missing: cuts the logs
    /// at the first damage, makes a new witness for what is left, and a new store id. From here on
    /// nothing tells that acknowledged writes are gone.
    ///
    /// # Errors
    /// [`Error::Corruption`]: RocksDB can read nothing, or column families are of different times;
    /// nothing was changed. [`Error::Rocks`], [`Error::Io`]: what was done is unknown; an open
    /// refuses the store, or takes it as it is now.
    pub fn accept_loss(&self, view: &View) -> Result<()> {
        salvage::check_acceptable(&self.dir, &view.view)?;
        if let Current::Known { manifest, .. } = view.current() {
            self.write_current(manifest)?;
        }
        salvage::accept_loss(&self.dir, &view.view)
    }

    /// Opens the store, with all the checks of an open but those of its groups, to change records.
    ///
    /// # Errors
    /// As [`RaftStore::open`](crate::RaftStore::open).
    pub fn edit(self) -> Result<Editor> {
        let db = salvage::open(&self.dir, self.lock)?;
        Ok(Editor { db })
    }
}

/// A store whose records are changed as they are, past every rule of
/// [`Batch`](crate::Batch).
pub struct Editor {
    db: Db,
}

impl Editor {
    /// Makes a new store in `dir`, which does not exist or is empty.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`]: there is something. Otherwise as
    /// [`RaftStore::open`](crate::RaftStore::open).
    pub fn create(dir: &Path) -> Result<Editor> {
        copy::check_absent(dir)?;
        let options = crate::Options::default();
        let db = Db::open(dir, &options)?;
        Ok(Editor { db })
    }

    /// Makes `changes` in one atomic write, in order, and syncs it.
    ///
    /// # Errors
    /// [`Error::Rocks`], [`Error::Io`], [`Error::Poisoned`]: whether they were made is known after
    /// reopening.
    pub fn write(&self, changes: &[Change]) -> Result<()> {
        let mut staged = Changes::default();
        for change in changes {
            match change {
                Change::Put(key, value) => self.db.put(&mut staged, key, value)?,
                Change::Delete(key) => self.db.delete(&mut staged, key)?,
                Change::DeleteRange(low, high) => self.db.delete_range(&mut staged, low, high)?,
            }
        }
        self.db.write(&[&staged.finish()])?;
        self.db.sync()
    }
}

/// Makes a store in `dir`, which does not exist or is empty, from a
/// [backup](crate::RaftStore::backup). It gets a **new store id**: it has forgotten what the old
/// one acknowledged after the backup. A node on it must be a new node, with a new id; under the
/// old one it may vote twice.
///
/// # Errors
/// [`Error::Corruption`], [`Error::AcknowledgedWritesLost`]: the backup is not whole.
/// [`Error::InvalidOptions`]: `dir` has something in it. [`Error::Io`], [`Error::Rocks`]: there is
/// no store in `dir`; part of a copy may stand beside it.
pub fn restore(backup: &Path, dir: &Path) -> Result<()> {
    copy::check_absent(dir)?;
    let partial = copy::partial(dir);
    copy::remove(&partial)?;
    copy::copy_store(backup, &partial)?;
    let lock = salvage::lock(&partial)?;
    // Proves that the backup is whole: with a new witness nothing could.
    let db = salvage::open(&partial, lock)?;
    let snapshots = SnapshotDir::unlocked(db::default_snapshot_dir(&partial));
    for group in recovery::list_groups(&db)? {
        recovery::load(&db, &snapshots, group, VerifyOnOpen::Full)?;
    }
    drop(db);
    salvage::renew_identity(&partial)?;
    if dir.exists() {
        std::fs::remove_dir(dir).map_err(|e| Error::io("remove", dir, e))?;
    }
    std::fs::rename(&partial, dir).map_err(|e| Error::io("rename", &partial, e))?;
    let parent = dir.parent().filter(|path| !path.as_os_str().is_empty());
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// `None` for a store that was never opened where locks were known.
fn share_lock(path: &Path) -> Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}
