//! What tests a store: ours, and yours.
//!
//! - [`conformance`]: a suite for any raft-rs storage.
//! - [`linearizability`]: whether what clients saw can have happened one after the other.
//! - [`model`]: random scripts of operations on this crate's store, checked against a model
//!   of it in memory.

pub mod conformance;
pub mod linearizability;
pub mod model;
#[cfg(feature = "driver")]
pub mod sim;
