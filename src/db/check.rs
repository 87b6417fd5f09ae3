//! What is proven before the writable open.

use std::path::Path;
use std::sync::Arc;

use rocksdb::{DB, DBRecoveryMode};

use super::manifest;
use super::options::{descriptors, rocks_options};
use super::{Db, decode_format, found_by_rocks, opening};
use crate::config::{Options, RAFT_COLUMN_FAMILY};
use crate::error::{Error, Result};
use crate::keys;
use crate::live_logs::{self, Log, Standing};
use crate::record::StoreFormat;
use crate::witness;

/// A database without `CURRENT` is a new one, or one whose first open was cut short. RocksDB
/// would make a new one in the place of anything else, over what is left of the old.
pub(super) fn check_is_new(path: &Path) -> Result<()> {
    let listing = match std::fs::read_dir(path) {
        Ok(listing) => listing,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", path, e)),
    };
    for file in listing {
        let name = file.map_err(|e| Error::io("list", path, e))?.file_name();
        let name = name.to_string_lossy();
        let from_a_first_open = ["MANIFEST-000001", "IDENTITY", "LOCK"].contains(&&*name)
            || name.starts_with("LOG")
            || name.ends_with(".dbtmp");
        if !from_a_first_open {
            let key = path.join("CURRENT").display().to_string();
            let found = format!("none, but a file {name}");
            return Err(Error::corruption("database", key, "a file CURRENT", found));
        }
    }
    Ok(())
}

/// What must hold before the writable open, which changes files and would hide it: the format
/// is ours, the live write-ahead logs are whole, and they reach what the witness says.
pub(super) struct Check<'a> {
    /// The store's directory, and the database's in it.
    pub dir: &'a Path,
    pub path: &'a Path,
    pub options: &'a Options,
    pub families: &'a [String],
    pub witness: Option<&'a witness::slot::Record>,
}

/// Whether RocksDB has been seen to recover everything that the logs hold.
enum Reach {
    Proven(Replay),
    Open,
}

/// What the writable open will find in the logs that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    Nothing,
    /// It makes tables of it, and the logs go.
    Batches,
}

impl Replay {
    fn of(standing: &Standing) -> Self {
        match standing.held {
            None => Replay::Nothing,
            Some(_) => Replay::Batches,
        }
    }
}

impl Check<'_> {
    pub(super) fn run(&self) -> Result<Replay> {
        let flushed = manifest::last_sequence(self.path)?;
        let mut logs = live_logs::scan(self.path)?;
        if logs.iter().any(Log::has_tail) {
            if let Reach::Proven(replay) = self.cut_tails(&logs, flushed)? {
                return Ok(replay);
            }
            logs = live_logs::scan(self.path)?;
        }
        let rocks = self.open_read_only(&rocks_options(self.options))?;
        let witnessed = self.witnessed(&rocks)?;
        let recovered = rocks.latest_sequence_number();
        let replay = self.check_reach(&rocks, &logs, flushed)?;
        check_witnessed(recovered, witnessed)?;
        Ok(replay)
    }

    pub(super) fn open_read_only(&self, rocks_options: &rocksdb::Options) -> Result<DB> {
        DB::open_cf_descriptors_read_only(
            rocks_options,
            self.path,
            descriptors(self.options, self.families),
            false,
        )
        .map_err(|e| opening(self.path, e))
    }

    /// The sequence number that the witness says was synced; `None` for a store of before there
    /// were witnesses.
    ///
    /// # Errors
    /// [`Error::Corruption`]: the witness is missing or another store's.
    /// [`Error::UnsupportedFormat`].
    fn witnessed(&self, rocks: &DB) -> Result<Option<u64>> {
        let format = rocks
            .get(keys::FORMAT)
            .map_err(|e| found_by_rocks("read", self.path, e))?;
        let format = format.map(|bytes| decode_format(&bytes)).transpose()?;
        let path = || witness::path(self.dir).display().to_string();
        match (format, self.witness) {
            (Some(format), Some(witness)) if format.store_id != witness.store_id => {
                let expected = "the one of this store";
                let found = "the one of another";
                Err(Error::corruption(witness::WHAT, path(), expected, found))
            }
            (Some(StoreFormat { witness: true, .. }), None) => {
                let expected = "a file: this store has one";
                Err(Error::corruption(witness::WHAT, path(), expected, "none"))
            }
            (_, witness) => Ok(witness.map(|witness| witness.sequence)),
        }
    }

    /// Cuts off what stands behind the whole records of the logs that recovery needs, unless
    /// something in front of the witnessed sequence number is missing: then nothing is touched.
    /// Every recycled log ends in such a tail, so that this must not cost another recovery.
    fn cut_tails(&self, logs: &[Log], flushed: u64) -> Result<Reach> {
        let (rocks, goes_on) = self.open_with_tails()?;
        let witnessed = self.witnessed(&rocks)?;
        let needed = needed_logs(&rocks)?;
        let needed = || logs.iter().filter(|log| log.number >= needed);
        let standing = live_logs::standing(needed(), flushed)?;
        let replay = Replay::of(&standing);
        let Standing { held, damage } = standing;
        let reached = rocks.latest_sequence_number();
        // In the mode that goes on behind everything: where the logs' whole records end, and
        // without damage, the mode that stops at it gets just as far.
        let is_whole = goes_on && damage.is_none();
        let reach = match &held {
            Some(held) if is_whole && held.end == reached + 1 => Reach::Proven(replay),
            _ => Reach::Open,
        };
        let recovered = match (held, &damage) {
            (Some(held), _) => held.end.saturating_sub(1),
            (None, None) => reached,
            // What was recovered may stand behind the damage.
            (None, Some(_)) => self.without_logs()?,
        };
        let checked = check_witnessed(recovered, witnessed);
        match damage {
            // Without a witness nothing says that it was never synced.
            Some(damage) if checked.is_err() || witnessed.is_none() => return Err(damage),
            _ => checked?,
        }
        needed().try_for_each(Log::cut_tail)?;
        Ok(reach)
    }

    /// Opens whatever stands in the logs: only how far it comes is looked at. And whether it went
    /// on behind everything.
    fn open_with_tails(&self) -> Result<(DB, bool)> {
        let mut rocks_options = rocks_options(self.options);
        rocks_options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
        if let Ok(rocks) = self.open_read_only(&rocks_options) {
            return Ok((rocks, true));
        }
        // RocksDB 11.8 takes whole batches behind damage for corrupt in that mode: it goes on with
        // the checksum of the pieces before it (`hash_state_` in `Reader::ReadRecord`). In this
        // mode it does not come to them.
        rocks_options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        Ok((self.open_read_only(&rocks_options)?, false))
    }

    /// The last sequence number outside of the logs.
    fn without_logs(&self) -> Result<u64> {
        let mut rocks_options = rocks_options(self.options);
        // There are no logs in the directory of the store. RocksDB refuses when the MANIFEST
        // says that one was synced: then what has no whole record any more had some.
        rocks_options.set_wal_dir(self.dir);
        let rocks = self.open_read_only(&rocks_options)?;
        Ok(rocks.latest_sequence_number())
    }

    /// Proves that recovery reached everything that the live write-ahead logs hold, and that
    /// they hold every sequence number behind what was flushed: a hole in them, or one before the
    /// first where the MANIFEST has lost what it knew of tables, swallows hard states and
    /// truncations, which neither the contiguity of entries nor the last sequence number shows.
    ///
    /// Logs that recovery skips are no part of it. RocksDB unlinks them newest first, so that a
    /// power cut can bring an old one back without its successor.
    fn check_reach(&self, rocks: &DB, logs: &[Log], flushed: u64) -> Result<Replay> {
        let needed = needed_logs(rocks)?;
        let standing =
            live_logs::standing(logs.iter().filter(|log| log.number >= needed), flushed)?;
        let replay = Replay::of(&standing);
        let Standing { held, damage } = standing;
        if let Some(damage) = damage {
            return Err(damage);
        }
        let recovered = rocks.latest_sequence_number();
        match held {
            Some(held) if held.end != recovered + 1 => Err(Error::corruption(
                "write-ahead log",
                self.path.display().to_string(),
                format!("sequence numbers up to {recovered}, which recovery reached"),
                format!("an end before {}", held.end),
            )),
            _ => Ok(replay),
        }
    }
}

/// Checks the database in `dir` as an open would, cutting torn tails off, and opens it for
/// reading. Nobody else has it open.
pub(super) fn check_and_read(dir: &Path, path: &Path) -> Result<Db> {
    let options = Options::default();
    let families = list_families(path)?;
    let witness = witness::read(dir)?;
    let check = Check {
        dir,
        path,
        options: &options,
        families: &families,
        witness: witness.as_ref().map(|(record, _)| record),
    };
    check.run()?;
    let rocks = check.open_read_only(&rocks_options(&options))?;
    Db::start(Arc::new(rocks), RAFT_COLUMN_FAMILY, None, None)
}

/// The column families of a database, by its MANIFEST, which RocksDB can read to its end.
pub(super) fn list_families(path: &Path) -> Result<Vec<String>> {
    manifest::check(path)?;
    DB::list_cf(&rocks_options(&Options::default()), path).map_err(|e| opening(path, e))
}

fn check_witnessed(recovered: u64, witnessed: Option<u64>) -> Result<()> {
    match witnessed {
        Some(witnessed) if recovered < witnessed => Err(Error::AcknowledgedWritesLost {
            witnessed,
            recovered,
        }),
        _ => Ok(()),
    }
}

/// The number of the first log that recovery reads.
pub(super) fn needed_logs(rocks: &DB) -> Result<u64> {
    let property = rocksdb::properties::MIN_LOG_NUMBER_TO_KEEP;
    let needed = rocks.property_int_value(property);
    Ok(needed
        .map_err(Error::rocks("read a property"))?
        .unwrap_or(0))
}
