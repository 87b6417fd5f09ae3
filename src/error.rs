//! The one error type of the crate.
//!
//! An error carries its evidence (which key, what was expected, what was found) and ends with
//! what to do. Whether trying again can help, and whether the store must be reopened, is
//! answered by [`Error::is_retryable`] and [`Error::is_fatal`]; both match every variant by
//! name, so that a new variant cannot slip past them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation was refused or failed, and what to do about it.
///
/// Unless a variant says otherwise, nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system failed. For a write or sync of the log, see also [`Error::Poisoned`].
    #[error("{op} {} failed: {source}; check the disk and its permissions, then try again", path.display())]
    Io {
        /// What was being done, as a verb: `"create"`, `"sync"`.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// RocksDB failed. Whether a failed write reached the disk is known only after reopening.
    #[error(
        "RocksDB: {op} failed: {source}; after a failed write or sync reopen the store, for a \
         failed open or read check the disk and the directory it names"
    )]
    Rocks {
        /// What was being done: `"write"`, `"sync"`, `"open"`.
        op: &'static str,
        /// What RocksDB said.
        source: rocksdb::Error,
    },

    /// Another process, or another handle in this one, has the directory open.
    #[error(
        "{} is in use by another store; close it there (or drop every clone of it in this \
         process) before opening it again",
        path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },

    /// An earlier write or sync failed, so what is on disk is unknown and nothing may be
    /// acknowledged any more. See "fsyncgate": after a failed fsync the kernel may drop the
    /// dirty pages and report success the next time.
    #[error(
        "the store refuses to write since an earlier failure: {cause}; acknowledge nothing, \
         drop the store and open it again"
    )]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },

    /// What is on disk is not what was written there.
    #[error(
        "{what} is damaged at {key}: expected {expected}, found {found}; do not start this node: \
         restore its directory from a backup under a new identity, or remove the node and let it \
         rejoin as a fresh learner under a new id"
    )]
    Corruption {
        /// The kind of record or file: `"entry"`, `"hard state"`, `"write-ahead log"`.
        what: &'static str,
        /// The key or file, printable.
        key: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },

    /// The write-ahead log ends before the point up to which it had been synced: acknowledged
    /// writes are gone, votes among them perhaps. Nothing was touched.
    #[error(
        "acknowledged writes are lost: the log was synced up to sequence number {witnessed}, and \
         ends at {recovered}; do not start this node, it would vote and acknowledge without \
         knowing what it promised: remove it from the cluster and let it rejoin as a fresh \
         learner under a new id"
    )]
    AcknowledgedWritesLost {
        /// RocksDB's sequence number that the last recorded sync covered.
        witnessed: u64,
        /// The last one that is left.
        recovered: u64,
    },

    /// The disk has no room for what an open writes, the reserve is gone already, and nothing is
    /// lost. It may have begun to write: the next open cleans up.
    #[error(
        "the disk is full: {free} bytes are free, and opening the store may take {needed}; free \
         some, then open it again"
    )]
    NoSpace {
        /// What an open may take, in bytes: what the write-ahead logs hold, and a little.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
    },

    /// The store was written by a newer version of this crate. Nothing was touched.
    #[error(
        "the store has format {found}, this version reads up to {supported}; open it with a \
         newer raft-rocks"
    )]
    UnsupportedFormat {
        /// The format on disk.
        found: u32,
        /// The newest format this version reads.
        supported: u32,
    },

    /// An option has a value that cannot work.
    #[error("option {field}: {reason}")]
    InvalidOptions {
        /// The field of [`Options`](crate::Options), or the argument.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },

    /// Entries start past the end of the log, or skip an index.
    #[error(
        "entry {first} does not follow {last}, the last one; append entries without gaps, or \
         install a snapshot first"
    )]
    Gap {
        /// The index the entry had to follow.
        last: u64,
        /// The index it has.
        first: u64,
    },

    /// The index lies before the log.
    #[error(
        "index {index} is compacted, the log starts at {first}; read from {first} on, or send \
         the snapshot"
    )]
    Compacted {
        /// The index asked for.
        index: u64,
        /// The first index there is.
        first: u64,
    },

    /// The index lies past the log.
    #[error("index {index} is past the end of the log, {last}; ask for no more than {last}")]
    Unavailable {
        /// The index asked for.
        index: u64,
        /// The last index there is.
        last: u64,
    },

    /// A snapshot is older than what the store holds already.
    #[error(
        "a snapshot at index {index} is out of date, the store is at {current} already; drop it \
         and take a newer one"
    )]
    SnapshotOutOfDate {
        /// The snapshot's index.
        index: u64,
        /// The index it had to reach.
        current: u64,
    },

    /// Under [`SnapshotPayload::Reference`](crate::SnapshotPayload::Reference) a snapshot was
    /// to be installed whose file has not been staged.
    #[error(
        "the file of the snapshot at index {index}, term {term} is not staged; receive it with \
         stage_snapshot and hand it over with Batch::staged_snapshot"
    )]
    SnapshotNotStaged {
        /// The snapshot's index.
        index: u64,
        /// The snapshot's term.
        term: u64,
    },

    /// A batch contradicts the log or itself.
    #[error("refused: {reason}")]
    InvalidBatch {
        /// Which rule it breaks and what to do.
        reason: String,
    },

    /// Compaction would remove what a lagging follower could then get from nowhere, or what
    /// has not been applied.
    #[error(
        "cannot compact to {to}: applied {applied}, stored snapshot at {snapshot}; apply first, \
         and create a snapshot at {} or later, or register a snapshot producer", to.saturating_sub(1)
    )]
    CompactUnsafe {
        /// The first index that was wanted.
        to: u64,
        /// The applied index.
        applied: u64,
        /// The index of the stored snapshot, 0 when there is none.
        snapshot: u64,
    },

    /// The group has a log or a configuration already.
    #[error("group {group} is initialised already; open it as it is, or destroy it first")]
    AlreadyInitialized {
        /// The group.
        group: u64,
    },

    /// The group was destroyed while this handle to it was held.
    #[error("group {group} was destroyed; drop this handle and open the group anew")]
    GroupDestroyed {
        /// The group.
        group: u64,
    },
}

impl Error {
    /// Whether the same call can succeed later without the store being repaired: the directory
    /// was busy, the disk full, or a snapshot's file had not arrived.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Locked { .. } | Error::NoSpace { .. } | Error::SnapshotNotStaged { .. } => true,
            Error::Io { .. }
            | Error::Rocks { .. }
            | Error::Poisoned { .. }
            | Error::Corruption { .. }
            | Error::AcknowledgedWritesLost { .. }
            | Error::UnsupportedFormat { .. }
            | Error::InvalidOptions { .. }
            | Error::Gap { .. }
            | Error::Compacted { .. }
            | Error::Unavailable { .. }
            | Error::SnapshotOutOfDate { .. }
            | Error::InvalidBatch { .. }
            | Error::CompactUnsafe { .. }
            | Error::AlreadyInitialized { .. }
            | Error::GroupDestroyed { .. } => false,
        }
    }

    /// Whether the node must stop acknowledging and voting on this store: what is on disk is
    /// unknown or wrong.
    pub fn is_fatal(&self) -> bool {
        match self {
            Error::Io { .. }
            | Error::Rocks { .. }
            | Error::Poisoned { .. }
            | Error::Corruption { .. }
            | Error::AcknowledgedWritesLost { .. }
            | Error::UnsupportedFormat { .. } => true,
            Error::Locked { .. }
            | Error::NoSpace { .. }
            | Error::InvalidOptions { .. }
            | Error::Gap { .. }
            | Error::Compacted { .. }
            | Error::Unavailable { .. }
            | Error::SnapshotOutOfDate { .. }
            | Error::SnapshotNotStaged { .. }
            | Error::InvalidBatch { .. }
            | Error::CompactUnsafe { .. }
            | Error::AlreadyInitialized { .. }
            | Error::GroupDestroyed { .. } => false,
        }
    }

    /// Whether a full disk can be the reason. RocksDB tells no more than that it was a failing
    /// call: the room that is left has to be looked at.
    pub(crate) fn may_be_for_want_of_room(&self) -> bool {
        match self {
            Error::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Error::Rocks { source, .. } => source.kind() == rocksdb::ErrorKind::IOError,
            _ => false,
        }
    }

    pub(crate) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io {
            op,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn rocks(op: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Error::Rocks { op, source }
    }

    pub(crate) fn corruption(
        what: &'static str,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Error::Corruption {
            what,
            key: key.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn invalid_batch(reason: impl Into<String>) -> Self {
        Error::InvalidBatch {
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_evidence_and_the_remedy() {
        let gap = Error::Gap { last: 4, first: 9 }.to_string();
        assert!(gap.contains('4') && gap.contains('9') && gap.contains("install a snapshot"));
        let compact = Error::CompactUnsafe {
            to: 8,
            applied: 3,
            snapshot: 0,
        }
        .to_string();
        assert!(compact.contains("snapshot at 7 or later"), "{compact}");
        let lost = Error::AcknowledgedWritesLost {
            witnessed: 12,
            recovered: 8,
        };
        let text = lost.to_string();
        assert!(text.contains("12") && text.contains('8') && text.ends_with("new id"));
        assert!(lost.is_fatal() && !lost.is_retryable());
    }

    #[test]
    fn no_error_is_both_fatal_and_retryable() {
        let locked = Error::Locked {
            path: PathBuf::from("lock"),
        };
        assert!(locked.is_retryable() && !locked.is_fatal());
        let poisoned = Error::Poisoned {
            cause: "sync".into(),
        };
        assert!(poisoned.is_fatal() && !poisoned.is_retryable());
    }
}
