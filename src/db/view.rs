//! A store as it stands, read without changing anything of it: also one that an open refuses.
//!
//! RocksDB writes beside what it only reads (its log of events), refuses a database without
//! `CURRENT`, and drops, or reads for ever, what stands in a damaged log. So it is given a
//! *replica* in a scratch directory: links to the tables, which it never writes to, and copies of
//! everything else. On the replica the checks of an open run as they would on the store, the
//! cutting of torn tails included; what they say is what the open would say.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{DB, DBRecoveryMode};

use super::check::{Check, check_is_new, list_families, needed_logs};
use super::manifest;
use super::options::{descriptors, rocks_options};
use super::{DATABASE_DIR, Db, opening};
use crate::config::{Options, RAFT_COLUMN_FAMILY};
use crate::error::{Error, Result};
use crate::live_logs::{self, Cut};
use crate::witness;

/// The file that says which MANIFEST is the database's.
#[derive(Debug)]
#[non_exhaustive]
pub enum Current {
    /// It is there.
    Present,
    /// It is missing, and this is the only MANIFEST: the one it must have named.
    Known {
        /// The file's name.
        manifest: String,
        /// What an open would be refused with if the file were there.
        refusal: Option<Error>,
    },
    /// It is missing, and nothing says what it named.
    Unknown {
        /// How many files it could have been.
        manifests: usize,
    },
}

/// A store that is only read.
pub(crate) struct View {
    /// What an open would refuse the store with, before it looks at any group.
    pub refusal: Option<Error>,
    pub current: Current,
    /// What RocksDB can make of the database; `None` when it can make nothing of it.
    pub db: Option<Db>,
    pub families: Vec<String>,
    /// What of the logs of a refused store is left out of what is read, because it is damaged,
    /// torn, or stands behind that.
    pub cuts: Vec<Cut>,
    /// Families were flushed further than the logs reach without what is left out: together
    /// they are no state that ever was.
    pub is_torn_apart: bool,
}

impl View {
    /// Reads the store in `dir` with the help of the empty directory `scratch`.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no store, or files cannot be read or copied.
    pub(crate) fn open(dir: &Path, scratch: &Path) -> Result<View> {
        let replica = scratch.join(DATABASE_DIR);
        let source = dir.join(DATABASE_DIR);
        replicate(&source, &replica)?;
        let mut current = find_current(&replica)?;
        let refused = || {
            refusal(dir, scratch)
                .err()
                .map(|e| renamed(e, scratch, dir))
        };
        let refusal = match &mut current {
            Current::Present => refused(),
            Current::Unknown { .. } => without_database(dir, &source).err(),
            Current::Known { manifest, refusal } => {
                write_current(&replica, manifest)?;
                *refusal = refused();
                without_database(dir, &source).err()
            }
        };
        let mut view = View {
            refusal,
            current,
            db: None,
            families: Vec::new(),
            cuts: Vec::new(),
            is_torn_apart: false,
        };
        if !matches!(view.current, Current::Unknown { .. }) {
            match view.read_database(&replica, scratch) {
                Ok(()) => {}
                Err(e @ Error::Io { .. }) => return Err(e),
                // More than what an open says of it is not known.
                Err(e) => {
                    let e = renamed(e, scratch, dir);
                    view.refusal = view.refusal.take().or(Some(e));
                }
            }
        }
        Ok(view)
    }

    fn read_database(&mut self, replica: &Path, scratch: &Path) -> Result<()> {
        self.families = list_families(replica)?;
        let mut has_all_logs = true;
        if self.refusal.is_some() {
            let base = Base::find(replica, &self.families, scratch)?;
            has_all_logs = base.has_all_logs;
            // None of them fits what was flushed when one before them is missing.
            let flushed = has_all_logs.then_some(base.sequence);
            let (cuts, end) = live_logs::whole_prefix(replica, base.needed, flushed)?;
            self.is_torn_apart =
                !cuts.is_empty() && self.families.len() > 1 && end <= base.sequence;
            cuts.iter().try_for_each(|cut| cut.blank(replica))?;
            self.cuts = cuts;
        }
        let rocks = if has_all_logs {
            open_leniently(replica, replica, &self.families)?
        } else {
            open_without_logs(replica, &scratch.join("no-logs"), &self.families)?
        };
        self.db = Some(Db::start(Arc::new(rocks), RAFT_COLUMN_FAMILY, None, None)?);
        Ok(())
    }
}

/// The database without its logs.
struct Base {
    /// The number of the first log that recovery reads.
    needed: u64,
    /// The last sequence number in the tables, or that the MANIFEST knows of.
    sequence: u64,
    /// Every log that the MANIFEST says was synced is there, and as long.
    has_all_logs: bool,
}

impl Base {
    fn find(replica: &Path, families: &[String], scratch: &Path) -> Result<Base> {
        // Logs of the same names and lengths with nothing in them: only their being there is
        // looked at.
        let blank = scratch.join("blank-logs");
        make(&blank)?;
        for (_, log) in live_logs::list(replica)? {
            let len = fs::metadata(&log)
                .map_err(|e| Error::io("find", &log, e))?
                .len();
            let name = log.file_name().unwrap_or_default();
            let made = fs::File::create(blank.join(name)).and_then(|file| file.set_len(len));
            made.map_err(|e| Error::io("create", &blank, e))?;
        }
        if let Ok(rocks) = open_leniently(replica, &blank, families) {
            return Ok(Base {
                needed: needed_logs(&rocks)?,
                sequence: rocks.latest_sequence_number(),
                has_all_logs: true,
            });
        }
        // This one changes what it opens.
        let copy = scratch.join("base");
        replicate(replica, &copy)?;
        let rocks = open_without_logs(&copy, &copy.join("no-logs"), families)?;
        Ok(Base {
            needed: 0,
            sequence: rocks.latest_sequence_number(),
            has_all_logs: false,
        })
    }
}

/// What an open of the store would be refused with, found on its replica.
fn refusal(dir: &Path, scratch: &Path) -> Result<()> {
    let replica = scratch.join(DATABASE_DIR);
    let options = Options::default();
    let witness = witness::read(dir)?;
    // Of the replica alone, whatever comes of it.
    manifest::cut_torn_tail(&replica)?;
    let families = list_families(&replica)?;
    let check = Check {
        dir: scratch,
        path: &replica,
        options: &options,
        families: &families,
        witness: witness.as_ref().map(|(record, _)| record),
    };
    check.run()?;
    // What an open finds when it starts.
    let rocks = check.open_read_only(&rocks_options(&options))?;
    let db = Db::start(Arc::new(rocks), RAFT_COLUMN_FAMILY, None, None)?;
    match (db.format()?, witness) {
        (None, Some((record, _))) if record.sequence > 0 => {
            let expected = "the record of a store that has been synced";
            Err(super::no_format(expected, "none".to_owned()))
        }
        _ => Ok(()),
    }
}

/// As an open that finds no `CURRENT`.
fn without_database(dir: &Path, path: &Path) -> Result<()> {
    check_is_new(path)?;
    match witness::read(dir)? {
        Some((record, _)) if record.sequence > 0 => Err(Error::AcknowledgedWritesLost {
            witnessed: record.sequence,
            recovered: 0,
        }),
        _ => Ok(()),
    }
}

/// Links to the tables, copies of everything else but RocksDB's own log of events.
fn replicate(from: &Path, to: &Path) -> Result<()> {
    make(to)?;
    let from = fs::canonicalize(from).map_err(|e| Error::io("find", from, e))?;
    let listing = fs::read_dir(&from).map_err(|e| Error::io("list", &from, e))?;
    for file in listing {
        let file = file.map_err(|e| Error::io("list", &from, e))?;
        let (path, target) = (file.path(), to.join(file.file_name()));
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with("LOG") || !path.is_file() {
            continue;
        }
        let made = if name.ends_with(".sst") || name.ends_with(".blob") {
            std::os::unix::fs::symlink(&path, &target)
        } else {
            fs::copy(&path, &target).map(drop)
        };
        made.map_err(|e| Error::io("copy", &path, e))?;
    }
    Ok(())
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))
}

fn find_current(path: &Path) -> Result<Current> {
    if path.join("CURRENT").exists() {
        return Ok(Current::Present);
    }
    let listing = fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    let mut manifests = Vec::new();
    for file in listing {
        let name = file.map_err(|e| Error::io("list", path, e))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("MANIFEST-") {
            manifests.push(name.into_owned());
        }
    }
    Ok(match <[String; 1]>::try_from(manifests) {
        Ok([manifest]) => Current::Known {
            manifest,
            refusal: None,
        },
        Err(manifests) => Current::Unknown {
            manifests: manifests.len(),
        },
    })
}

/// Makes `CURRENT` name a MANIFEST, whole or not at all.
pub(crate) fn write_current(path: &Path, manifest: &str) -> Result<()> {
    let tmp = path.join("CURRENT.dbtmp");
    let written = fs::write(&tmp, format!("{manifest}\n"))
        .and_then(|()| fs::File::open(&tmp)?.sync_all())
        .and_then(|()| fs::rename(&tmp, path.join("CURRENT")));
    written.map_err(|e| Error::io("write", &tmp, e))?;
    crate::snapshot::sync_dir(path)
}

/// Opens a replica for reading, whatever is missing or damaged in it but its logs, as far as
/// RocksDB can.
fn open_leniently(path: &Path, logs: &Path, families: &[String]) -> Result<DB> {
    let open = |mode| {
        let mut options = lenient(logs);
        options.set_wal_recovery_mode(mode);
        let descriptors = descriptors(&Options::default(), families);
        DB::open_cf_descriptors_read_only(&options, path, descriptors, false)
    };
    // The first may refuse whole batches behind damage: see `Check::open_with_tails`.
    open(DBRecoveryMode::SkipAnyCorruptedRecord)
        .or_else(|_| open(DBRecoveryMode::PointInTime))
        .map_err(|e| opening(path, e))
}

/// Opens a replica some logs of which are missing, as it is without any. For writing: where the
/// MANIFEST knows of logs, RocksDB 11.8 dereferences a null pointer when it is opened for reading
/// and told not to look for them (`recovery_ctx` in `DBImpl::Recover`).
fn open_without_logs(path: &Path, logs: &Path, families: &[String]) -> Result<DB> {
    make(logs)?;
    let mut options = lenient(logs);
    options.set_track_and_verify_wals_in_manifest(false);
    let descriptors = descriptors(&Options::default(), families);
    DB::open_cf_descriptors(&options, path, descriptors).map_err(|e| opening(path, e))
}

fn lenient(logs: &Path) -> rocksdb::Options {
    let mut options = rocks_options(&Options::default());
    options.create_if_missing(false);
    options.set_wal_dir(logs);
    options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
    // A table that is missing or damaged is then met when it is read.
    options.set_paranoid_checks(false);
    options
}

/// The error with the store's own paths in it.
fn renamed(error: Error, scratch: &Path, dir: &Path) -> Error {
    let rename = |text: String| {
        let scratch = scratch.display().to_string();
        text.replace(&scratch, &dir.display().to_string())
    };
    match error {
        Error::Corruption {
            what,
            key,
            expected,
            found,
        } => Error::Corruption {
            what,
            key: rename(key),
            expected: rename(expected),
            found: rename(found),
        },
        Error::Io { op, path, source } => Error::Io {
            op,
            path: PathBuf::from(rename(path.display().to_string())),
            source,
        },
        other => other,
    }
}
