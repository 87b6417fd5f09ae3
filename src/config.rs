//! What a store can be told, with units, defaults and what each value costs.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// When a write is made to survive a power cut.
///
/// Raft's safety rests on one promise: what a node has acknowledged (an entry, a vote) it
/// still knows after any crash. Only [`FsyncPolicy::Always`] keeps it through a power cut or
/// a kernel crash; under the others a restarted node may have forgotten a vote and give it
/// again, or have lost entries that a leader counted as replicated. They are for tests, for
/// data that may be lost, and for a cluster whose nodes never lose power together *and* whose
/// operator replaces any node that lost power instead of restarting it.
///
/// | policy | process killed | power cut |
/// |---|---|---|
/// | `Always` | nothing acknowledged is lost | nothing acknowledged is lost |
/// | `Interval(d)` | nothing acknowledged is lost | the last `d`, and what was written while the sync ran, may be lost |
/// | `Never` | nothing acknowledged is lost | anything since the last [`sync`](crate::RaftStore::sync) may be lost |
///
/// What is lost is always a suffix: writes reach the log in order and are atomic. Whatever the
/// policy, a write-ahead log is synced before the next one is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Synced before the call returns. The only policy under which Raft's promises hold.
    Always,
    /// A background thread syncs this often when something was written; at least 1 ms.
    Interval(Duration),
    /// The operating system decides; [`sync`](crate::RaftStore::sync) and close still sync.
    Never,
}

/// When the witness is synced: the file beside the database that says how far the log had been
/// synced, so that a log that lost its end is told from a shorter one.
///
/// It is written after every sync of the log, before anything is acknowledged; a process that
/// is killed leaves it as it was. The policies differ in what a power cut leaves of it, and so
/// in what is noticed when the disk also loses or damages acknowledged records *after* it said
/// that they were durable. A power cut alone loses nothing acknowledged under either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WitnessPolicy {
    /// In the background, within about a second, and at close. Damage to what was synced in the
    /// last second before a power cut is taken for a torn write and cut off.
    Background,
    /// Before each acknowledgement: a second sync for every one of the log.
    Strict,
}

/// How much is read when a group is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyOnOpen {
    /// Every record of the log, its checksum and its place, and the snapshot's file.
    Full,
    /// The bounds, the states and the boundaries between terms (found by bisection): for logs
    /// so long that reading them takes too long. A damaged entry is then found when it is read.
    Bounds,
}

/// What [`raft::Storage::snapshot`] hands to raft as the snapshot's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotPayload {
    /// The data itself. Any `RawNode` can send it; the whole state is held in memory, more
    /// than once, since raft-rs clones it.
    Inline,
    /// A small [`SnapshotReference`](crate::SnapshotReference); the data travels apart, read
    /// through [`open_snapshot`](crate::RaftMachineStorage::open_snapshot) and received with
    /// [`stage_snapshot`](crate::RaftMachineStorage::stage_snapshot). For states larger than
    /// memory. All nodes of a group must agree.
    Reference,
}

/// The options of a store. Start from [`Options::default`] and set what differs.
///
/// ```
/// let mut options = raft_rocks::Options::default();
/// options.entry_cache_bytes = 8 << 20;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// When writes are synced. Default: [`FsyncPolicy::Always`].
    pub fsync: FsyncPolicy,

    /// When the witness is synced. Default: [`WitnessPolicy::Background`]. Ignored by
    /// [`with_db`](crate::RaftStore::with_db), whose log is not ours to bear witness to.
    pub witness: WitnessPolicy,

    /// How much is checked at open. Default: [`VerifyOnOpen::Full`], which reads the log once
    /// at about the speed of the disk.
    pub verify: VerifyOnOpen,

    /// Memory for the tails of all logs of the store together, in bytes; each open group gets
    /// an equal share. What has been submitted and is not acknowledged is held beyond it, up
    /// to [`write_queue_bytes`](Options::write_queue_bytes). Followers that keep up and the
    /// application are served from it. Default: 32 MiB. Zero: no cache, every read goes to
    /// RocksDB.
    pub entry_cache_bytes: usize,

    /// What submitted writes of all groups may hold together before they are acknowledged, in
    /// bytes; [`submit`](crate::Batch::submit) and
    /// [`write_unsynced`](crate::Batch::write_unsynced) block beyond it. A single larger write is
    /// taken when nothing else is under way. Default: 64 MiB. Minimum: 64 KiB.
    pub write_queue_bytes: usize,

    /// The size of RocksDB's memtables, in bytes: when this much has been written, all are
    /// flushed together and a new write-ahead log is begun. They may grow half as large again.
    /// Entries that are compacted away before they are flushed never reach a table file, so a
    /// larger size writes less. Default: 64 MiB.
    /// Minimum: 64 KiB. Ignored by [`with_db`](crate::RaftStore::with_db).
    pub memtable_bytes: usize,

    /// Snapshot data up to this many bytes stands in the record itself, larger data in a file
    /// of its own. Default: 64 KiB. Zero: always a file. Maximum: 64 MiB.
    pub snapshot_inline_bytes_max: usize,

    /// What raft is handed as a snapshot's data. Default: [`SnapshotPayload::Inline`].
    pub snapshot_payload: SnapshotPayload,

    /// Where snapshot files stand. Default: `snapshots` in the store's directory; with
    /// [`with_db`](crate::RaftStore::with_db) the database's path with `.raft-snapshots-` and
    /// the column family's name appended. One store locks it: files that no record names are
    /// removed at open.
    pub snapshot_dir: Option<PathBuf>,

    /// Column families for the application's own data, created when missing, so that it can
    /// be written in the same atomic batch as the applied index. Default: none. Ignored by
    /// [`with_db`](crate::RaftStore::with_db), whose database has its own.
    pub column_families: Vec<String>,

    /// Whether write-ahead logs are written over old ones instead of growing new ones, which
    /// spares each sync the file system's own journal. Behind the end of such a log stands what
    /// is left of an older one, so that only the witness tells a last write that was damaged from
    /// one that a power cut tore. Default: on. Ignored by [`with_db`](crate::RaftStore::with_db).
    pub recycle_wal: bool,

    /// Room kept for a full disk, in bytes: a file that is removed when an open finds no room, so
    /// that the store can still be opened, vote and compact. An open needs as much as the
    /// write-ahead logs hold, which is about [`memtable_bytes`](Options::memtable_bytes), and what
    /// was written while they were flushed. Made where twice as much is free, at an open or after a
    /// compaction. Default: 64 MiB. Zero: none, and one that is there is removed. Ignored by
    /// [`with_db`](crate::RaftStore::with_db).
    pub reserve_bytes: u64,

    /// Whether RocksDB counts its syncs and bytes, for
    /// [`counters`](crate::RaftStore::counters). Costs a little on every write. Default: off.
    /// Ignored by [`with_db`](crate::RaftStore::with_db).
    pub statistics: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            fsync: FsyncPolicy::Always,
            witness: WitnessPolicy::Background,
            verify: VerifyOnOpen::Full,
            entry_cache_bytes: 32 << 20,
            write_queue_bytes: 64 << 20,
            memtable_bytes: 64 << 20,
            snapshot_inline_bytes_max: 64 << 10,
            snapshot_payload: SnapshotPayload::Inline,
            snapshot_dir: None,
            column_families: Vec::new(),
            recycle_wal: true,
            reserve_bytes: 64 << 20,
            statistics: false,
        }
    }
}

/// The column family that holds the raft records of a store that owns its database.
pub(crate) const RAFT_COLUMN_FAMILY: &str = "default";

const WRITE_QUEUE_BYTES_MIN: usize = 64 << 10;
const MEMTABLE_BYTES_MIN: usize = 64 << 10;
const SNAPSHOT_INLINE_BYTES_MAX: usize = 64 << 20;
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(1);

impl Options {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] names the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        if let FsyncPolicy::Interval(interval) = self.fsync
            && interval < SYNC_INTERVAL_MIN
        {
            return invalid("fsync", "an interval is at least 1 ms; use Always for less");
        }
        if self.write_queue_bytes < WRITE_QUEUE_BYTES_MIN {
            return invalid("write_queue_bytes", "at least 65536 (64 KiB)");
        }
        if self.memtable_bytes < MEMTABLE_BYTES_MIN {
            return invalid("memtable_bytes", "at least 65536 (64 KiB)");
        }
        if self.snapshot_inline_bytes_max > SNAPSHOT_INLINE_BYTES_MAX {
            return invalid("snapshot_inline_bytes_max", "at most 67108864 (64 MiB)");
        }
        for name in &self.column_families {
            if name.is_empty() || name == RAFT_COLUMN_FAMILY || name.contains('\0') {
                return invalid(
                    "column_families",
                    "a name is not empty, not \"default\", without NUL",
                );
            }
            if self
                .column_families
                .iter()
                .filter(|other| *other == name)
                .count()
                > 1
            {
                return invalid("column_families", "each name once");
            }
        }
        Ok(())
    }
}

fn invalid<T>(field: &'static str, reason: &str) -> Result<T> {
    Err(Error::InvalidOptions {
        field,
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_field(change: impl FnOnce(&mut Options)) -> &'static str {
        let mut options = Options::default();
        change(&mut options);
        match options.validate() {
            Err(Error::InvalidOptions { field, .. }) => field,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_valid() {
        assert!(Options::default().validate().is_ok());
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        assert_eq!(
            refused_field(|o| o.fsync = FsyncPolicy::Interval(Duration::ZERO)),
            "fsync"
        );
        assert_eq!(refused_field(|o| o.memtable_bytes = 1), "memtable_bytes");
        assert_eq!(
            refused_field(|o| o.write_queue_bytes = 1),
            "write_queue_bytes"
        );
        assert_eq!(
            refused_field(|o| o.snapshot_inline_bytes_max = usize::MAX),
            "snapshot_inline_bytes_max"
        );
        assert_eq!(
            refused_field(|o| o.column_families = vec!["default".to_owned()]),
            "column_families"
        );
    }
}
