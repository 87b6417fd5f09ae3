//! The last minutes, second by second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use parking_lot::Mutex;
use raft_rocks::driver::{Leadership, Node, Status};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};

use super::Serving;
use super::error::{ApiError, Failures};
use super::extract::Asked;
use super::routes::Started;
use crate::kv::{Machine, now};
use crate::latency::Onlooker;
use crate::metrics;

const INTERVAL: Duration = Duration::from_secs(1);
/// Five minutes.
const SAMPLES_MAX: usize = 300;

/// What an int64 of OpenAPI holds.
const SINCE_MAX: u64 = i64::MAX as u64;

/// One second.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Sample {
    /// Its end, in milliseconds since 1970.
    at_ms: u64,
    /// Changes that clients of this node asked for, and that were committed and answered.
    commits: u64,
    /// From the proposal to its answer.
    commit_p50_ms: Option<f64>,
    commit_p99_ms: Option<f64>,
    /// Syncs of the log.
    syncs: u64,
    sync_p50_ms: Option<f64>,
    sync_p99_ms: Option<f64>,
    /// The first index of the log.
    first_index: u64,
    /// The last index of the log.
    last_index: u64,
    commit: u64,
    applied: u64,
}

/// What was seen of the last minutes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Samples {
    /// Seconds from one to the next.
    interval_s: u64,
    /// The oldest first, 300 at the most.
    samples: Vec<Sample>,
}

/// From when on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// Only samples after this, in milliseconds since 1970.
    since: Option<u64>,
}

/// What is kept of the past.
#[derive(Default)]
pub struct History {
    samples: Mutex<VecDeque<Sample>>,
    leader_changes: AtomicU64,
}

impl History {
    /// How often the node learned of another leader.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.samples.lock();
        if samples.len() >= SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

/// How the last minutes were, on this node.
#[utoipa::path(
    get, path = "/cluster/history", tag = "cluster",
    params(From),
    responses((status = 200, description = "A sample for each second.", body = Samples), Failures)
)]
pub async fn get(
    Started(serving): Started,
    Asked(from): Asked<From>,
) -> Result<Json<Samples>, ApiError> {
    let since = from.since.unwrap_or(0);
    if since > SINCE_MAX {
        let problem = format!("since={since}: give milliseconds since 1970");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, problem));
    }
    let samples = serving.history.samples.lock();
    let later = samples.iter().filter(|sample| sample.at_ms > since);
    Ok(Json(Samples {
        interval_s: INTERVAL.as_secs(),
        samples: later.cloned().collect(),
    }))
}

/// Looks every second, until the node stops.
pub async fn sample(serving: Arc<Serving>) {
    let node = serving.frontend.node();
    let proposals = &serving.frontend.proposals().latencies;
    let syncs = metrics::process().syncs();
    let (mut commits_seen, mut syncs_seen) = (Onlooker::new(proposals), Onlooker::new(syncs));
    let mut period = interval(INTERVAL);
    period.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first is at once.
    period.tick().await;
    let mut last = Leadership::default();
    loop {
        count_leaders(node, &serving.history, &mut last, &mut period).await;
        metrics::process().upkeep();
        serving.frontend.proposals().upkeep();
        let Ok(status) = node.status().await else {
            return;
        };
        let Status {
            first_index,
            last_index,
            commit,
            applied,
            ..
        } = status.raft;
        let (commits, syncs) = (commits_seen.look(proposals), syncs_seen.look(syncs));
        serving.history.push(Sample {
            at_ms: now(),
            commits: commits.count,
            commit_p50_ms: commits.p50_ms,
            commit_p99_ms: commits.p99_ms,
            syncs: syncs.count,
            sync_p50_ms: syncs.p50_ms,
            sync_p99_ms: syncs.p99_ms,
            first_index,
            last_index,
            commit,
            applied,
        });
    }
}

/// Counts leaders until the period is over.
async fn count_leaders(
    node: &Node<Machine>,
    history: &History,
    last: &mut Leadership,
    period: &mut tokio::time::Interval,
) {
    let mut leaders = node.watch_leader();
    loop {
        let known = *leaders.borrow_and_update();
        if known.leader != 0 && (known.leader, known.term) != (last.leader, last.term) {
            *last = known;
            history.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        let changed = tokio::select! {
            _ = period.tick() => return,
            changed = leaders.changed() => changed,
        };
        if changed.is_err() {
            // The node is gone.
            return;
        }
    }
}
