//! The MANIFEST, before RocksDB reads it.

use std::fs;
use std::path::Path;

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

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("read", path, e))
}
