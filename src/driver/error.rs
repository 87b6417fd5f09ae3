//! Why a node stops.

use std::io;

use super::peer::FaultPoint;

/// What stops a node. It has to be opened again: what it had not made durable is not known to
/// anybody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log refused or failed.
    #[error("the log: {0}")]
    Store(#[from] crate::Error),
    /// raft-rs refused to start, or an entry of its log cannot be understood.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// The state machine failed to apply, to snapshot or to restore.
    #[error("the state machine, {doing}: {source}")]
    Machine {
        /// What it was doing.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The stored state is not what a driver writes.
    #[error(
        "{what} is not what this driver writes: {found}; was this store written by another program?"
    )]
    Format {
        /// Of which record.
        what: &'static str,
        /// What was found.
        found: String,
    },
    /// A test stopped the node at this point.
    #[error("stopped at fault point {0:?}")]
    Stopped(FaultPoint),
}

/// The driver's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn machine(doing: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::Machine { doing, source }
    }

    pub(crate) fn format(what: &'static str, found: impl ToString) -> Error {
        let found = found.to_string();
        Error::Format { what, found }
    }
}
