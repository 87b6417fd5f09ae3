//! Opening a store against its own better knowledge: a loss that was accepted, a copy that is to
//! become a store of its own. Both get a new identity.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rocksdb::DB;

use super::check::list_families;
use super::options::{descriptors, rocks_options};
use super::view::View;
use super::{DATABASE_DIR, Db, lock_store, new_format, opening, store_id};
use crate::config::{Options, RAFT_COLUMN_FAMILY};
use crate::error::{Error, Result};
use crate::witness;

/// Takes the lock of a store that exists.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    if !dir.join(DATABASE_DIR).is_dir() {
        let none = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::io("find", &dir.join(DATABASE_DIR), none));
    }
    lock_store(dir)
}

/// Opens a store whose lock is held, with all checks.
pub(crate) fn open(dir: &Path, lock: File) -> Result<Db> {
    Db::open_locked(dir, &Options::default(), lock)
}

/// Whether what `view` has found to stand can become a store.
///
/// # Errors
/// [`Error::Corruption`]: RocksDB can make nothing of what is left, or its families would be of
/// different times.
pub(crate) fn check_acceptable(dir: &Path, view: &View) -> Result<()> {
    let found = if view.is_torn_apart {
        "column families that were flushed further than the log reaches"
    } else if view.db.is_none() {
        "a database that RocksDB cannot read"
    } else {
        return Ok(());
    };
    let key = dir.join(DATABASE_DIR).display().to_string();
    let expected = "a state that all column families had together";
    Err(Error::corruption("database", key, expected, found))
}

/// Makes a store out of what `view` has found to stand: removes what is behind the first damage to
/// the log, and begins a new history there. The lock is held, and it was checked.
pub(crate) fn accept_loss(dir: &Path, view: &View) -> Result<()> {
    let path = dir.join(DATABASE_DIR);
    view.cuts.iter().try_for_each(|cut| cut.apply(&path))?;
    renew_identity(dir)
}

/// Gives a store that nobody has open a new identity, and a witness for the log as it is.
///
/// A crash in between leaves a format record and a witness of different stores, which an open
/// refuses.
pub(crate) fn renew_identity(dir: &Path) -> Result<()> {
    let path = dir.join(DATABASE_DIR);
    let families = list_families(&path)?;
    let options = Options::default();
    let mut rocks_options = rocks_options(&options);
    // Logs that were cut are shorter than the MANIFEST knows them. This makes it forget them.
    rocks_options.set_track_and_verify_wals_in_manifest(false);
    rocks_options.create_if_missing(false);
    let descriptors = descriptors(&options, &families).into_iter();
    let rocks = DB::open_cf_descriptors(&rocks_options, &path, descriptors)
        .map_err(|e| opening(&path, e))?;
    let db = Db::start(Arc::new(rocks), RAFT_COLUMN_FAMILY, None, None)?;
    let mut format = new_format()?;
    format.witness = true;
    db.write_format(&format)?;
    let sequence = db.rocks.latest_sequence_number();
    drop(db);
    witness::write_new(dir, store_id(&format)?, sequence).map(drop)
}
