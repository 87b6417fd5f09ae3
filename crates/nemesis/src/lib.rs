//! Real clusters of `raft-rocks-server` under faults, and a judgement of what their clients saw.
//!
//! - [`process`], [`proxy`], [`shim`]: one node's process, the network between nodes, and the disk
//!   and the clock under a node; each with what can be done to it.
//! - [`cluster`]: the nodes of a cluster on this machine.
//! - [`history`], [`load`], [`judge`]: what clients ask and see, and whether it can be.
//! - [`fault`]: what is done to a cluster while they ask.
//! - [`run`], [`demo`]: many histories under drawn faults; one that is told as a story.

pub mod admin;
pub mod cluster;
pub mod demo;
pub mod dialer;
pub mod fault;
pub mod history;
pub mod judge;
pub mod load;
pub mod node;
pub mod process;
pub mod proxy;
pub mod report;
pub mod run;
pub mod shim;

use std::future::Future;
use std::time::{Duration, Instant};

/// For whatever takes a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until it is so.
///
/// # Errors
/// It was not so for [`PATIENCE`].
pub async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
