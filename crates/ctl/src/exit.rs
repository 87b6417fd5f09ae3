//! Exit codes.

use std::process::ExitCode;

/// What the exit code says. The worst that was found counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// The store is sound, or what was asked for is done.
    Sound = 0,
    /// A usage error, a file that cannot be read, no store: nothing is said about a store.
    Failed = 1,
    /// Damaged; `repair --yes` mends it without forgetting anything.
    Damaged = 2,
    /// Something that the node acknowledged is gone, or nothing tells that it is not: the node is
    /// to be replaced, or the loss to be accepted.
    Lost = 3,
    /// The store is in use.
    InUse = 4,
    /// A newer raft-rocks wrote the store.
    Newer = 5,
}

/// For `--help`.
pub const HELP: &str = "\
Exit codes:
  0  the store is sound, or what was asked for is done
  1  usage error, or something could not be read or written: nothing is said about the store
  2  the store is damaged; `repair --yes` mends it without forgetting anything
  3  something that the node acknowledged is gone, or nothing tells that it is not:
     replace the node, or accept the loss
  4  the store is in use
  5  a newer raft-rocks wrote the store

inspect, verify, dump and doctor change nothing, not even the time of a file.
docs/operations.md says what to do about each finding.";

impl Exit {
    /// Of an error that ended the tool.
    pub fn of_error(error: &anyhow::Error) -> Exit {
        match error.downcast_ref::<raft_rocks::Error>() {
            Some(error) => Exit::of(error),
            None => Exit::Failed,
        }
    }

    /// Of an error of the library.
    pub fn of(error: &raft_rocks::Error) -> Exit {
        use raft_rocks::Error;
        use raft_rocks::rocksdb::ErrorKind;
        match error {
            Error::Locked { .. } => Exit::InUse,
            Error::UnsupportedFormat { .. } => Exit::Newer,
            Error::Corruption { .. } | Error::AcknowledgedWritesLost { .. } => Exit::Lost,
            // A table that RocksDB met when it read one of our records.
            Error::Rocks { source, .. } if source.kind() == ErrorKind::Corruption => Exit::Lost,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
