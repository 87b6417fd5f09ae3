//! A replicated key-value server that speaks the Redis protocol, on raft-rocks.
//!
//! - [`kv`]: the state machine.

pub mod kv;
