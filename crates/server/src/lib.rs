//! A replicated key-value server that speaks the Redis protocol, on raft-rocks.
//!
//! - [`kv`]: the state machine.
//! - [`resp`]: the Redis protocol.
//! - [`expiry`]: what has expired is removed.
//! - [`instance`]: a node with everything that serves it.

pub mod address;
pub mod expiry;
pub mod instance;
pub mod kv;
pub mod resp;
