//! The MANIFEST, before RocksDB reads it.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::wal_scan;

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

/// What a write left of itself at the end of the MANIFEST that was under way at a power cut.
/// RocksDB syncs each record before it acts on it, so that nothing depends on this one; but where
/// the file has got its new length and not all of its pages, RocksDB 11.8 takes it for damage and
/// refuses the database, in a log as in a MANIFEST.
///
/// A synced record that was damaged looks the same. What it told is missing then: tables that are
/// gone, which RocksDB notices, or a log that recovery does not reach, which the witness does.
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
    let named = read(&path.join("CURRENT"))?;
    let manifest = path.join(String::from_utf8_lossy(&named).trim_end());
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
