//! Backups of a store that is in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::RaftStore;
use crate::batch::Sync;
use crate::db::{self, CHECKPOINT, Db};
use crate::error::{Error, Result};
use crate::recovery;
use crate::snapshot::{self, SnapshotDir, make_dir, sync_dir};

/// A recycled log may get another name while RocksDB copies it.
const ATTEMPTS: usize = 5;

impl RaftStore {
    /// The 16 random bytes that were made with the store: its identity. A store that was restored
    /// from a backup has another one, because it has forgotten what came after the backup, votes
    /// perhaps. A node that remembers it beside its node id can refuse to start on such a store.
    ///
    /// # Errors
    /// [`Error::Corruption`]: the format record is damaged. [`Error::Rocks`]: reading failed.
    pub fn store_id(&self) -> Result<[u8; 16]> {
        self.inner.db.store_id()
    }

    /// Copies the store to `dir`, which must not exist, while it goes on being used: the database
    /// with the application's column families, the witness, the snapshot files. Everything that
    /// was acknowledged before the call is in it, and it is one moment of all groups: no write is
    /// there in part. Tables and snapshot files are hard links where `dir` is on the same file
    /// system, which costs next to nothing, and is no protection from a failing disk: move the
    /// copy to another one.
    ///
    /// A backup is for restoring a *new* node from (`raft-rocks-ctl restore`, or
    /// `raft_rocks::tools::restore`): an older log under an older identity may vote twice.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`]: the database is not the store's own
    /// ([`with_db`](RaftStore::with_db)), or `dir` exists. [`Error::Poisoned`],
    /// [`Error::Rocks`], [`Error::Io`]: there is no backup; what was begun is removed.
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        self.inner.db.witnessed()?;
        if dir.exists() {
            return Err(Error::InvalidOptions {
                field: "backup",
                reason: format!("{} exists; name a directory that does not", dir.display()),
            });
        }
        let partial = partial(dir);
        let mut copied = self.copy_to(&partial);
        for _ in 1..ATTEMPTS {
            if matches!(copied, Err(Error::Rocks { op: CHECKPOINT, .. })) {
                copied = self.copy_to(&partial);
            }
        }
        if let Err(e) = copied {
            discard(&partial)?;
            return Err(e);
        }
        fs::rename(&partial, dir).map_err(|e| Error::io("rename", &partial, e))?;
        sync_dir(parent(dir))
    }

    /// One attempt.
    fn copy_to(&self, dir: &Path) -> Result<()> {
        discard(dir)?;
        make_dir(dir)?;
        self.inner.commits.barrier(Sync::Force)?;
        let witnessed = self.inner.db.witnessed()?;
        // What the copied records name is kept until it is copied.
        let _hold = self.inner.snapshots.hold();
        self.inner.db.checkpoint(dir, &witnessed)?;
        let snapshots = db::default_snapshot_dir(dir);
        make_dir(&snapshots)?;
        copy_snapshots(self.inner.snapshots.path(), &snapshots)?;
        keep_named(dir, &snapshots)?;
        sync_dir(&snapshots)?;
        sync_dir(dir)
    }
}

fn partial(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".raft-rocks-partial");
    name.into()
}

fn parent(dir: &Path) -> &Path {
    let parent = dir.parent().filter(|path| !path.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn discard(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir, e)),
        _ => Ok(()),
    }
}

/// Every finished snapshot file.
fn copy_snapshots(from: &Path, to: &Path) -> Result<()> {
    let listing = fs::read_dir(from).map_err(|e| Error::io("list", from, e))?;
    for file in listing {
        let name = file.map_err(|e| Error::io("list", from, e))?.file_name();
        let is_finished = name.to_str().is_some_and(|name| {
            name.ends_with(snapshot::FINAL_SUFFIX) && snapshot::group_of_file(name).is_some()
        });
        if is_finished {
            link_or_copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        fs::copy(from, to)?;
        fs::File::open(to)?.sync_all()
    };
    fs::hard_link(from, to)
        .or_else(|_| copy())
        .map_err(|e| Error::io("copy", from, e))
}

/// Checks that the copy opens and that the files its records name are there; removes the others.
fn keep_named(dir: &Path, snapshots: &Path) -> Result<()> {
    let db = Db::open_checkpoint(dir)?;
    let mut named = BTreeSet::new();
    for group in recovery::list_groups(&db)? {
        let Some(file) = recovery::snapshot_file(&db, group)? else {
            continue;
        };
        let path = snapshots.join(&file.name);
        fs::metadata(&path).map_err(|e| Error::io("find", &path, e))?;
        named.insert(file.name);
    }
    drop(db);
    SnapshotDir::unlocked(snapshots.to_path_buf()).remove_orphans(|_, name| !named.contains(name))
}
