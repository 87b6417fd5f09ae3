//! The replicated key-value state machine: what Redis' strings are, with times that all nodes
//! agree on.
//!
//! - [`Operation`], [`Answer`], [`encode`]: what is proposed and what comes back.
//! - [`Machine`]: applies it, over [`MemoryRows`] or [`RocksRows`].
//!
//! Time is part of the state: the leader stamps each command with its clock, and the time of the
//! machine is the latest stamp it has applied. A key has expired when its time is not later than
//! that. No node looks at its own clock when it applies, so all agree on which keys there are.

mod command;
mod machine;
mod memory;
mod rocks;
mod rows;
mod snapshot;
mod step;

pub use command::{
    Answer, CommandError, Expiry, OnlyIf, Operation, VALUE_BYTES_MAX, decode_answers, encode,
};
pub use machine::{Due, Entry, Keys, Machine, now};
pub use memory::MemoryRows;
pub use rocks::RocksRows;
pub use rows::{FAMILY, Frozen, Rows};
