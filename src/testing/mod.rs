//! What tests a store: ours, and yours.
//!
//! - [`conformance`]: a suite for any raft-rs storage.
//! - [`model`]: random scripts of operations on this crate's store, checked against a model
//!   of it in memory.

pub mod conformance;
pub mod model;
