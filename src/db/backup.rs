//! A checkpoint of the database while it is written to, and what a store is known by.

use std::fs;
use std::path::Path;

use rocksdb::checkpoint::Checkpoint;

use super::check::check_and_read;
use super::{DATABASE_DIR, Db, no_format, store_id};
use crate::error::{Error, Result};
use crate::live_logs;
use crate::snapshot::sync_dir;
use crate::witness::{self, slot};

/// RocksDB's number for "copy the logs as they are". A flush would begin a new log without
/// syncing the old one, which invariant 5 of [`Db`] forbids.
const NO_FLUSH: u64 = u64::MAX;

/// What is being done, in errors.
pub(crate) const CHECKPOINT: &str = "make a checkpoint";

impl Db {
    /// The identity that was made with the store.
    ///
    /// # Errors
    /// [`Error::Corruption`]: there is no format record, or it is damaged.
    pub(crate) fn store_id(&self) -> Result<[u8; 16]> {
        let none = || no_format("a format record", "none".to_owned());
        store_id(&self.format()?.ok_or_else(none)?)
    }

    /// What has been synced so far, as the witness says it.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`]: the database is not ours.
    pub(crate) fn witnessed(&self) -> Result<slot::Record> {
        let witness = self.witness.as_ref().ok_or_else(|| Error::InvalidOptions {
            field: "backup",
            reason: "the database is not this store's own: back it up with whatever its owner \
                     uses, the snapshot directory with it"
                .to_owned(),
        })?;
        Ok(witness.last())
    }

    /// Makes a copy of the database in `dir`, which exists, and the witness beside it, which says
    /// `witnessed`: read before, so that it is not ahead of what is copied.
    pub(crate) fn checkpoint(&self, dir: &Path, witnessed: &slot::Record) -> Result<()> {
        self.poison.check()?;
        Checkpoint::new(&self.rocks)
            .and_then(|checkpoint| {
                checkpoint.create_checkpoint_with_log_size(dir.join(DATABASE_DIR), NO_FLUSH)
            })
            .map_err(Error::rocks(CHECKPOINT))?;
        unlink_logs(&dir.join(DATABASE_DIR))?;
        witness::write_new(dir, witnessed.store_id, witnessed.sequence).map(drop)
    }

    /// Checks the copy as an open would, and opens it for reading.
    pub(crate) fn open_checkpoint(dir: &Path) -> Result<Db> {
        check_and_read(dir, &dir.join(DATABASE_DIR))
    }
}

/// Gives the copy logs of its own: where RocksDB made hard links, what an open cuts off, or a
/// log that is written over later, would be the store's.
fn unlink_logs(path: &Path) -> Result<()> {
    for (_, log) in live_logs::list(path)? {
        let copy = log.with_extension("copy");
        let copied = fs::copy(&log, &copy).and_then(|_| {
            fs::File::open(&copy)?.sync_all()?;
            fs::rename(&copy, &log)
        });
        copied.map_err(|e| Error::io("copy", &log, e))?;
    }
    sync_dir(path)
}
