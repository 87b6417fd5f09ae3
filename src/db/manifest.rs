//! The MANIFEST, before RocksDB reads it.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::version_edit::Told;
use crate::wal_scan;

/// Of a database whose first open has not come far: it holds nothing.
const FIRST: &str = "MANIFEST-000001";

/// Refuses a `CURRENT` that names no file, of which RocksDB says "no such file" as of any other,
/// and a MANIFEST that RocksDB would read for ever. Any other damage to them RocksDB finds itself.
///
/// # Errors
/// [`Error::Corruption`] names the file. [`Error::Io`]: one of them cannot be read.
pub(super) fn check(path: &Path) -> Result<()> {
    let current = path.join("CURRENT");
    let named = read(&current)?;
    let named = String::from_utf8_lossy(&named);
    let manifest = path.join(named.trim_end());
    if !manifest.is_file() {
        let (expected, found) = ("the name of a file", named.escape_debug().to_string());
        let key = current.display().to_string();
        return Err(Error::corruption("database", key, expected, found));
    }
    if let Some(place) = wal_scan::hangs_rocksdb_at(&read(&manifest)?, 0) {
        let (expected, found) = wal_scan::HANGS;
        let key = format!("byte {place} of {}", manifest.display());
        return Err(Error::corruption("database", key, expected, found));
    }
    Ok(())
}

/// The last sequence number that the MANIFEST knows in a table.
///
/// Also refuses a MANIFEST that is whole as far as it goes but ends within the state it begins
/// with: RocksDB would take a column family that it does not tell of for one that never was.
/// `CURRENT` names a MANIFEST only after that state has been synced.
///
/// # Errors
/// [`Error::Corruption`]: it is not what RocksDB 11.8 writes. [`Error::Io`]: it cannot be read.
pub(super) fn last_sequence(path: &Path) -> Result<u64> {
    let manifest = named(path)?;
    let damaged = |place: usize, expected: &str, found: &str| {
        let key = format!("byte {place} of {}", manifest.display());
        Error::corruption("database", key, expected, found)
    };
    let bytes = read(&manifest)?;
    let edits = wal_scan::payloads(&bytes)
        .map_err(|place| damaged(place, "a whole record", "something else"))?;
    let mut told = Told::default();
    for (number, edit) in edits.iter().enumerate() {
        let found = format!("none, in record {number} of those before it");
        told.add(edit)
            .ok_or_else(|| damaged(bytes.len(), "a version edit of RocksDB 11.8", &found))?;
    }
    if !told.has_whole_state && !manifest.ends_with(FIRST) {
        let expected = "the whole state that a MANIFEST begins with";
        return Err(damaged(bytes.len(), expected, "its end"));
    }
    Ok(told.last_sequence)
}

/// The MANIFEST that `CURRENT` names, which may not be there.
fn named(path: &Path) -> Result<PathBuf> {
    let named = read(&path.join("CURRENT"))?;
    Ok(path.join(String::from_utf8_lossy(&named).trim_end()))
}

/// What a write left of itself at the end of the MANIFEST that was under way at a power cut.
/// RocksDB syncs each record before it acts on it, so that nothing depends on this one; but where
/// the file has got its new length and not all of its pages, RocksDB 11.8 takes it for damage and
/// refuses the database, in a log as in a MANIFEST.
///
/// A synced record that was damaged looks the same. What it told is missing then, as where the
/// MANIFEST ends before it: tables that are gone, which RocksDB notices, or one that was flushed
/// and whose log is gone, which [`last_sequence`] or the witness does (docs/durability.md).
pub(super) struct TornTail {
    manifest: PathBuf,
    from: u64,
    bytes: Vec<u8>,
}

/// Cuts it off; `None` when there is none, or when whole records stand behind: that is damage.
///
/// # Errors
/// [`Error::Io`]: a file could not be read or cut.
pub(super) fn cut_torn_tail(path: &Path) -> Result<Option<TornTail>> {
    let manifest = named(path)?;
    if !manifest.is_file() {
        return Ok(None);
    }
    let bytes = read(&manifest)?;
    let Some(from) = wal_scan::torn_from(&bytes) else {
        return Ok(None);
    };
    let tail = TornTail {
        bytes: bytes.get(from..).unwrap_or_default().to_vec(),
        from: from as u64,
        manifest,
    };
    log::warn!(
        "the last {} bytes of {} are what a power cut left of a write: cut off",
        tail.bytes.len(),
        tail.manifest.display()
    );
    tail.change("cut", |file| file.set_len(tail.from))?;
    Ok(Some(tail))
}

impl TornTail {
    /// Makes the file what it was: the database is refused for another reason.
    ///
    /// # Errors
    /// [`Error::Io`]: it could not be written.
    pub(super) fn put_back(&self) -> Result<()> {
        self.change("write", |file| {
            file.seek(SeekFrom::Start(self.from))?;
            file.write_all(&self.bytes)
        })
    }

    fn change(
        &self,
        op: &'static str,
        change: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<()> {
        let opened = OpenOptions::new().write(true).open(&self.manifest);
        opened
            .and_then(|mut file| {
                change(&mut file)?;
                file.sync_all()
            })
            .map_err(|e| Error::io(op, &self.manifest, e))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("read", path, e))
}
