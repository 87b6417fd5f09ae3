//! Exit codes.

use std::fmt;
use std::process::ExitCode;

use raft_rocks_grpc::ClientError;

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
    /// No node was reached, or one that does not know us: nothing has happened.
    Unreachable = 6,
    /// The cluster, or this tool, refuses it: nothing has happened.
    Refused = 7,
    /// It was not seen to be done in time: it may have happened, or may yet.
    NotSeen = 8,
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

Of what is asked of a cluster:
  0  it is done
  1  usage error, or a file that cannot be read
  6  no node was reached, or the certificates do not fit: nothing has happened
  7  it was refused, or cannot be done now: nothing has happened
  8  it was not seen to be done in time: it may have happened, or may yet

inspect, verify, dump and doctor change nothing, not even the time of a file.
docs/operations.md says what to do about each finding.";

impl Exit {
    /// Of an error that ended the tool.
    pub fn of_error(error: &anyhow::Error) -> Exit {
        let of_client = || error.downcast_ref().map(Exit::of_client);
        let said = || error.downcast_ref().map(|Ended { exit, .. }| *exit);
        let of_library = error.downcast_ref().map(Exit::of);
        of_library
            .or_else(of_client)
            .or_else(said)
            .unwrap_or(Exit::Failed)
    }

    /// Of what a node did not do.
    fn of_client(error: &ClientError) -> Exit {
        match error {
            ClientError::Address(_) => Exit::Failed,
            ClientError::Unreachable { .. }
            | ClientError::Certificate { .. }
            | ClientError::NotANode { .. } => Exit::Unreachable,
            ClientError::NotNow { .. } | ClientError::Refused { .. } => Exit::Refused,
            // Of an outcome that nobody knows, and whatever there will be.
            _ => Exit::NotSeen,
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

/// An error with its exit code.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    pub problem: String,
}

impl Ended {
    /// Nothing has happened.
    pub fn refused(problem: impl Into<String>) -> anyhow::Error {
        let (exit, problem) = (Exit::Refused, problem.into());
        Ended { exit, problem }.into()
    }

    /// It may have, or may yet.
    pub fn not_seen(problem: impl Into<String>) -> anyhow::Error {
        let (exit, problem) = (Exit::NotSeen, problem.into());
        Ended { exit, problem }.into()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Ended {}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
