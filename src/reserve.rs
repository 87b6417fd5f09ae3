//! The reserve: a file that holds nothing but room, so that a store whose disk is full can be
//! opened all the same, vote, and compact.
//!
//! An open writes: RocksDB makes tables of what the write-ahead logs hold, a new MANIFEST and a
//! new log. Where there is no room for that, the file is removed first. It is made again at an
//! open or after a compaction that finds twice its size free: not sooner, because it must not
//! take the room that it has just given.
//!
//! Nothing depends on the file. It is never synced: a power cut that takes it, or a crash that
//! leaves it half made, costs no more than making it again. Only its removal is followed by a
//! sync of the directory, after which the file system lets others have the room.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::snapshot::sync_dir;

const FILE: &str = "reserve";
/// What an open writes beside tables, and what the first writes after it take: a MANIFEST, the
/// options, the first blocks of a log.
const OPEN_BYTES: u64 = 1 << 20;
/// This much has to be free before the file is made, in its own size.
const FREE_TO_MAKE: u64 = 2;
/// `st_blocks` counts these, whatever the file system's own blocks are (`stat(2)`).
const STAT_BLOCK_LEN: u64 = 512;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The reserve of a store that owns its directory.
pub(crate) struct Reserve {
    dir: PathBuf,
    bytes: u64,
    /// What this open needs.
    needed: u64,
    /// Whether it has been removed, or could not be made; also who makes it.
    missing: Mutex<bool>,
}

impl Reserve {
    /// Removes the file when there is less room than an open of `database` needs.
    ///
    /// # Errors
    /// [`Error::Io`]: the logs cannot be listed, or the file cannot be removed.
    pub(crate) fn make_room(dir: &Path, database: &Path, bytes: u64) -> Result<Reserve> {
        let reserve = Reserve {
            dir: dir.to_path_buf(),
            bytes,
            needed: logs_len(database)?.saturating_add(OPEN_BYTES),
            missing: Mutex::new(false),
        };
        let path = reserve.path();
        if path.exists() && (bytes == 0 || free(dir)? < reserve.needed) {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            sync_dir(dir)?;
            log::warn!("{} was removed: its room is needed", path.display());
        }
        Ok(reserve)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// The error of an open that failed: [`Error::NoSpace`] where it found no room.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match free(&self.dir) {
            Ok(free) if error.may_be_for_want_of_room() && free < self.needed => {
                log::error!("{error}");
                Error::NoSpace {
                    needed: self.needed,
                    free,
                }
            }
            _ => error,
        }
    }

    /// Makes the file where it is missing and there is room. A store works without one, so a
    /// failure is logged and not returned.
    pub(crate) fn refill(&self) {
        let mut missing = self.missing.lock();
        *missing = self.bytes > 0 && !self.is_whole();
        if *missing {
            match self.make() {
                Ok(made) => *missing = !made,
                Err(e) => log::warn!("no reserve for a full disk: {e}"),
            }
        }
    }

    /// The same, after what may have freed room.
    pub(crate) fn refill_if_missing(&self) {
        if *self.missing.lock() {
            self.refill();
        }
    }

    /// Whether it is there and its room is taken: a file with holes would keep none.
    fn is_whole(&self) -> bool {
        fs::metadata(self.path()).is_ok_and(|file| {
            let taken = file.blocks().saturating_mul(STAT_BLOCK_LEN);
            file.len() == self.bytes && taken >= self.bytes
        })
    }

    fn make(&self) -> Result<bool> {
        let path = self.path();
        // One of another size, or half made.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, e));
            }
            _ => {}
        }
        let free = free(&self.dir)?;
        if free < self.bytes.saturating_mul(FREE_TO_MAKE) {
            log::warn!(
                "no reserve for a full disk: {free} bytes are free, and it is made when twice \
                 its {} are; free some, or set Options::reserve_bytes lower",
                self.bytes
            );
            return Ok(false);
        }
        let made = File::create(&path).and_then(|file| allocate(&file, self.bytes));
        made.map(|()| true).map_err(|e| {
            // Half of it would only be in the way.
            let _ = fs::remove_file(&path);
            Error::io("allocate", &path, e)
        })
    }
}

/// What whoever is not root may still take.
fn free(dir: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).map_err(|e| Error::io("find", dir, e.into()))?;
    // Their types differ between systems.
    #[allow(clippy::useless_conversion, reason = "not on every system")]
    let (blocks, len) = (
        u64::from(stat.blocks_available()),
        u64::from(stat.fragment_size()),
    );
    Ok(blocks.saturating_mul(len))
}

/// The bytes of the write-ahead logs, which an open makes tables of.
fn logs_len(database: &Path) -> Result<u64> {
    let listing = match fs::read_dir(database) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(Error::io("list", database, e)),
    };
    let mut len = 0u64;
    for file in listing {
        let file = file.map_err(|e| Error::io("list", database, e))?;
        if file.path().extension().is_some_and(|end| end == "log") {
            let found = file.metadata();
            let found = found.map_err(|e| Error::io("find", &file.path(), e))?;
            len = len.saturating_add(found.len());
        }
    }
    Ok(len)
}

/// Takes the room now.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use nix::fcntl::{FallocateFlags, fallocate};
        let len = i64::try_from(bytes).map_err(io::Error::other)?;
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Err(nix::errno::Errno::EOPNOTSUPP) => {}
            done => return done.map_err(io::Error::from),
        }
    }
    fill(file, bytes)
}

/// Where room cannot be had by asking for it.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let len = left.min(ZEROS.len() as u64);
        let zeros = ZEROS.get(..len as usize).unwrap_or(&ZEROS);
        file.write_all(zeros)?;
        left -= len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 200_000;

    fn reserve(dir: &Path, bytes: u64) -> Reserve {
        Reserve::make_room(dir, &dir.join("db"), bytes).unwrap()
    }

    fn taken(dir: &Path) -> Option<u64> {
        let file = fs::metadata(dir.join(FILE)).ok()?;
        Some(file.blocks() * STAT_BLOCK_LEN)
    }

    #[test]
    fn its_room_is_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        reserve(dir.path(), BYTES).refill();
        assert!(taken(dir.path()) >= Some(BYTES));
        // One that has holes, or another size, is made anew.
        for len in [BYTES, 1, 2 * BYTES] {
            File::create(dir.path().join(FILE))
                .unwrap()
                .set_len(len)
                .unwrap();
            reserve(dir.path(), BYTES).refill();
            assert!(taken(dir.path()) >= Some(BYTES));
        }
        reserve(dir.path(), 0).refill();
        assert_eq!(taken(dir.path()), None);
    }

    #[test]
    fn one_written_takes_as_much() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join(FILE)).unwrap();
        fill(&file, BYTES).unwrap();
        file.sync_all().unwrap();
        assert!(reserve(dir.path(), BYTES).is_whole());
    }

    #[test]
    fn more_than_half_of_what_is_free_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = free(dir.path()).unwrap() / 2 + (1 << 30);
        let reserve = reserve(dir.path(), bytes);
        reserve.refill();
        assert_eq!(taken(dir.path()), None);
        assert!(*reserve.missing.lock());
    }

    #[test]
    fn an_open_that_failed_for_want_of_room_says_how_much() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = reserve(dir.path(), BYTES);
        let full = || Error::io("create", dir.path(), io::ErrorKind::StorageFull.into());
        assert!(matches!(reserve.explain(full()), Error::Io { .. }));
        reserve.needed = u64::MAX;
        let found = reserve.explain(full());
        assert!(matches!(
            found,
            Error::NoSpace {
                needed: u64::MAX,
                ..
            }
        ));
        let other = Error::io("create", dir.path(), io::ErrorKind::PermissionDenied.into());
        assert!(matches!(reserve.explain(other), Error::Io { .. }));
    }
}
