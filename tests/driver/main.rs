//! Nodes of the driver as a user runs them, with their threads: on durable stores, over a network
//! within the process. Each pitfall of a driver has a test that is named after it
//! (`pitfall_1_..` to `pitfall_10_..`).
//!
//! Random faults follow from a seed that is printed; `RAFT_ROCKS_SEED` runs it again, as far as
//! threads allow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod cluster;
mod faults;
mod large_snapshot;
mod lifecycles;
mod machines;
mod membership;
mod pitfalls;
mod requests;
#[path = "../common/scratch.rs"]
mod scratch;
mod slow_store;
mod ticks;
