//! Random scripts of operations, checked against a model of the store in plain memory.
//!
//! [`Script::from_bytes`] makes a script of any bytes, so that a property test and a fuzzer
//! share one decoder and one distribution; [`check`] plays it on a store in a directory and
//! on the model side by side. After every step everything that can be read must be equal:
//! bounds, terms, entries (also with size limits), states, snapshots, the application's own
//! keys, and which groups there are. An operation that the model refuses must be refused by
//! the store for the same reason, and change nothing.
//!
//! The positions in a script are relative (so many behind the end of the log, so many past
//! the applied index), so that a script stays meaningful when steps are removed from it.
//!
//! ```
//! use raft_rocks::testing::model::{Script, check};
//!
//! # let dir = tempfile::tempdir()?;
//! let script = Script::from_bytes(b"any bytes will do");
//! check(&script, dir.path())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compare;
mod group;
mod harness;
mod resolve;
mod script;

pub use harness::{Divergence, check};
pub use script::{Ballot, Image, Op, Parts, STEP_BYTES, Script, Settings, Step, Tail};

/// The groups that a script works on.
pub const GROUPS: u64 = 3;
