//! What has expired is removed: the leader proposes it when something is due.

use std::time::Duration;

use raft_rocks::driver::Node;
use tokio::time::{MissedTickBehavior, interval};

use crate::kv::{Due, Machine, Operation, encode, now};

const PERIOD: Duration = Duration::from_millis(20);

/// Goes on until it is dropped.
pub async fn purge(node: Node<Machine>, due: Due) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let purge = encode(&[Operation::Purge]);
    loop {
        period.tick().await;
        if node.leader().leader != node.id() || !due.is_due(now()) {
            continue;
        }
        // Whoever leads next looks, too.
        if let Err(e) = node.propose(purge.clone()).await {
            tracing::debug!("what has expired was not removed: {e}");
        }
    }
}
