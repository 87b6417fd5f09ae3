//! The write-ahead logs of a database, as files that nobody writes to: what each holds, whether
//! they hold together, and the cutting of what a power cut has torn.
//!
//! [`wal_scan`] tells what is whole from what is not. What is not whole may be a torn write or
//! damage; which of the two is decided by how far the log had been synced. A torn write is cut
//! off before RocksDB reads the log, so that it never meets one.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::wal_scan::{self, Finding, Whole};

/// A write-ahead log and what [`wal_scan`] found in it.
pub(crate) struct Log {
    pub number: u64,
    path: PathBuf,
    len: usize,
    scanned: std::result::Result<Whole, Finding>,
}

/// Reads every log, oldest first, before RocksDB reads any. What is found in one that recovery
/// does not need is no damage: a power cut can bring back what was removed, and the first
/// records of a recycled log without its new name.
pub(crate) fn scan(dir: &Path) -> Result<Vec<Log>> {
    let mut logs = Vec::new();
    for (number, path) in list(dir)? {
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let log = Log {
            number,
            path,
            len: bytes.len(),
            scanned: wal_scan::check(&bytes, number),
        };
        if let Some(place) = wal_scan::hangs_rocksdb_at(&bytes, log.whole().end) {
            let (expected, found) = wal_scan::HANGS;
            return Err(log.damaged(place, expected, found));
        }
        logs.push(log);
    }
    Ok(logs)
}

/// The logs, oldest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let listing = std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    let mut logs = Vec::new();
    for file in listing {
        let file = file.map_err(|e| Error::io("list", dir, e))?.path();
        if file.extension().is_some_and(|extension| extension == "log")
            && let Some(number) = file
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok())
        {
            logs.push((number, file));
        }
    }
    logs.sort_unstable();
    Ok(logs)
}

impl Log {
    /// What stands up to the first thing that is not whole.
    fn whole(&self) -> &Whole {
        match &self.scanned {
            Ok(whole) => whole,
            Err(finding) => &finding.before,
        }
    }

    /// Whether something stands behind what is whole.
    pub(crate) fn has_tail(&self) -> bool {
        self.len > self.whole().end
    }

    /// Whether nothing in it is, or ever was, a batch.
    fn is_blank(&self) -> bool {
        matches!(&self.scanned, Ok(whole) if whole.held.is_none())
    }

    /// The error for what was found, when it looks like damage.
    fn damage(&self) -> Option<Error> {
        let finding = self.scanned.as_ref().err()?;
        let next = finding.before.held.as_ref().map_or_else(
            || "its first sequence number".to_owned(),
            |held| format!("sequence number {}", held.end),
        );
        let expected = "records to the end, or a torn one with nothing behind it";
        let found = format!("{} where {next} should stand", finding.what);
        Some(self.damaged(finding.place, expected, &found))
    }

    fn damaged(&self, place: usize, expected: &str, found: &str) -> Error {
        let key = format!("byte {place} of {}", self.path.display());
        Error::corruption("write-ahead log", key, expected, found)
    }

    /// Removes what stands behind what is whole, durably. A crash in the middle leaves the
    /// file as it was or cut, and either is judged as before.
    pub(crate) fn cut_tail(&self) -> Result<()> {
        if !self.has_tail() {
            return Ok(());
        }
        let Whole { held, end } = self.whole();
        log::info!(
            "{}: {} bytes behind byte {end} (sequence numbers {held:?}) are no whole writes and \
             were never synced: cut off",
            self.path.display(),
            self.len - end
        );
        let cut = || {
            let file = File::options().write(true).open(&self.path)?;
            file.set_len(*end as u64)?;
            file.sync_all()
        };
        cut().map_err(|e| Error::io("cut", &self.path, e))
    }
}

/// What logs hold together when their tails are cut off.
pub(crate) struct Standing {
    /// Their sequence numbers, without a gap; `None` when there is no batch.
    pub held: Option<Range<u64>>,
    /// What stands behind them looks like damage.
    pub damage: Option<Error>,
}

/// Puts together what the logs of one recovery hold, behind what was `flushed`: the last sequence
/// number that the MANIFEST knows in a table.
///
/// # Errors
/// [`Error::Corruption`]: a hole that no power cut leaves. Each log is synced before the next
/// is begun, so that one with something behind it is whole; and one is removed only after the
/// MANIFEST was synced that knows all of it in tables.
pub(crate) fn standing<'a>(logs: impl Iterator<Item = &'a Log>, flushed: u64) -> Result<Standing> {
    let mut held: Option<Range<u64>> = None;
    let mut blank: Option<&Log> = None;
    let mut damage = None;
    for log in logs {
        // Only the newest may be new, or torn before its first record ended.
        if log.is_blank() {
            blank = blank.or((log.len > 0).then_some(log));
            continue;
        }
        if let Some(damage) = damage {
            return Err(damage);
        }
        if let Some(blank) = blank {
            return Err(blank.damaged(0, "a record at its start", "none, but a log behind it"));
        }
        if let Some(next) = &log.whole().held {
            if held.is_none() && next.start > flushed.saturating_add(1) {
                let expected = format!(
                    "sequence number {} or less, as the MANIFEST knows those up to {flushed} in \
                     tables",
                    flushed.saturating_add(1)
                );
                return Err(log.damaged(0, &expected, &next.start.to_string()));
            }
            let first = held.as_ref().map_or(next.start, |held| held.start);
            if let Some(held) = held.filter(|held| held.end != next.start) {
                let expected = format!("sequence number {}", held.end);
                return Err(log.damaged(0, &expected, &next.start.to_string()));
            }
            held = Some(first..next.end);
        }
        damage = log.damage();
    }
    Ok(Standing { held, damage })
}

/// What of a log has to go so that what is left holds together.
#[cfg(feature = "tools")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The file's name.
    pub name: std::ffi::OsString,
    /// The bytes that stay, and those there are.
    pub kept: u64,
    pub len: u64,
}

#[cfg(feature = "tools")]
impl Cut {
    /// Cuts the log of the database in `dir`, durably.
    pub(crate) fn apply(&self, dir: &Path) -> Result<()> {
        self.set_lens(dir, &[self.kept])
    }

    /// Makes zeros of what would be cut off: the MANIFEST knows how long a log was.
    pub(crate) fn blank(&self, dir: &Path) -> Result<()> {
        self.set_lens(dir, &[self.kept, self.len])
    }

    fn set_lens(&self, dir: &Path, lens: &[u64]) -> Result<()> {
        let path = dir.join(&self.name);
        let cut = || {
            let file = File::options().write(true).open(&path)?;
            lens.iter().try_for_each(|len| file.set_len(*len))?;
            file.sync_all()
        };
        cut().map_err(|e| Error::io("cut", &path, e))
    }
}

/// What has to go of the logs from number `needed` on so that those left follow each other and
/// what was flushed, without a hole: everything behind the first place that is not whole. Without
/// `flushed` all of it. Also returns where what stays ends, 0 for nowhere.
#[cfg(feature = "tools")]
pub(crate) fn whole_prefix(
    dir: &Path,
    needed: u64,
    flushed: Option<u64>,
) -> Result<(Vec<Cut>, u64)> {
    let (mut cuts, mut end) = (Vec::new(), None);
    let mut goes_on = flushed.is_some();
    for (number, path) in list(dir)? {
        if number < needed {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let (whole, is_sound) = match wal_scan::check(&bytes, number) {
            Ok(whole) => (whole, true),
            Err(finding) => (finding.before, false),
        };
        let next = end.or(flushed.map(|flushed| flushed + 1));
        if let (Some(held), Some(next)) = (&whole.held, next) {
            // Only the first may begin before: with what was flushed already.
            goes_on &= held.start == next || (end.is_none() && held.start < next);
        }
        let kept = if goes_on { whole.end } else { 0 };
        if kept < bytes.len() {
            cuts.push(Cut {
                name: path.file_name().unwrap_or_default().to_owned(),
                kept: kept as u64,
                len: bytes.len() as u64,
            });
        }
        if goes_on && let Some(held) = whole.held {
            end = Some(held.end);
        }
        goes_on &= is_sound && kept == bytes.len();
    }
    Ok((cuts, end.unwrap_or(0)))
}
