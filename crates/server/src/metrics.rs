//! What Prometheus is told.
//!
//! The store records for the whole process: all nodes of one share its figures. Everything else is
//! of one node, and made when it is asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ::metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, counter,
    describe_counter, describe_gauge, describe_histogram, gauge, histogram, set_global_recorder,
    with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;
use raft_rocks::driver::NodeStatus;

use crate::latency::Latencies;

/// Of the store: how long a sync took.
const STORE_SYNC: &str = "raft_rocks_sync_seconds";
const SYNC: &str = "raft_rocks_server_wal_fsync_duration_seconds";
const COMMIT: &str = "raft_rocks_server_commit_duration_seconds";

/// From what memory takes to what makes clients give up.
const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// What the stores of this process record.
pub struct Process {
    store: Option<PrometheusHandle>,
    syncs: Arc<Latencies>,
}

impl Process {
    /// How long the syncs took, of all stores.
    pub fn syncs(&self) -> &Latencies {
        &self.syncs
    }

    /// Makes figures of what was recorded, which takes memory until then: to be called now and
    /// then, since perhaps nobody asks for `/metrics`.
    pub fn upkeep(&self) {
        self.store.iter().for_each(PrometheusHandle::run_upkeep);
    }

    fn render(&self) -> String {
        self.upkeep();
        let store = self.store.as_ref();
        store.map(PrometheusHandle::render).unwrap_or_default()
    }
}

/// The recorder of this process, installed at the first call: before the first store is opened.
pub fn process() -> &'static Process {
    static PROCESS: OnceLock<Process> = OnceLock::new();
    PROCESS.get_or_init(install)
}

fn install() -> Process {
    let recorder = builder().build_recorder();
    let handle = recorder.handle();
    let exported = with_local_recorder(&recorder, || {
        let what = "Time that one sync of the write-ahead log took.";
        describe_histogram!(SYNC, Unit::Seconds, what);
        histogram!(SYNC)
    });
    let syncs = Arc::new(Latencies::new(exported));
    let both = FanoutBuilder::default()
        .add_recorder(recorder)
        .add_recorder(Syncs(Arc::clone(&syncs)))
        .build();
    let store = match set_global_recorder(both) {
        Ok(()) => Some(handle),
        Err(_) => {
            tracing::warn!("/metrics lacks the store's: this process has another recorder");
            None
        }
    };
    raft_rocks::metrics::describe();
    Process { store, syncs }
}

/// Times as histograms that can be added up over nodes.
fn builder() -> PrometheusBuilder {
    let times = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(times, &SECONDS);
    // It fails without buckets alone; then they are summaries.
    builder.unwrap_or_default()
}

/// Takes what the store says of its syncs.
struct Syncs(Arc<Latencies>);

impl Recorder for Syncs {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            STORE_SYNC => Histogram::from_arc(Arc::clone(&self.0)),
            _ => Histogram::noop(),
        }
    }
}

/// Proposals of the clients of one node.
pub struct Proposals {
    /// From a proposal to its answer, of those that were carried out.
    pub latencies: Latencies,
    failed: AtomicU64,
    handle: PrometheusHandle,
}

impl Proposals {
    /// As [`Process::upkeep`].
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl Default for Proposals {
    fn default() -> Self {
        let recorder = builder().build_recorder();
        let exported = with_local_recorder(&recorder, || {
            let what = "Time from a client's proposal at this node to its answer.";
            describe_histogram!(COMMIT, Unit::Seconds, what);
            histogram!(COMMIT)
        });
        Proposals {
            latencies: Latencies::new(exported),
            failed: AtomicU64::new(0),
            handle: recorder.handle(),
        }
    }
}

impl Proposals {
    /// One was not carried out, or nobody knows.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is told of a node beside its status.
pub struct Told<'a> {
    /// Where it stands.
    pub status: &'a NodeStatus,
    /// Its clients' proposals.
    pub proposals: &'a Proposals,
    /// How often it saw another leader.
    pub leader_changes: u64,
    /// Commands of Redis clients that were answered.
    pub commands: u64,
    /// Connections of Redis clients.
    pub connections: usize,
}

/// In Prometheus' text format.
pub fn render(told: &Told<'_>) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        counters(told);
        gauges(told);
        peers(told.status);
    });
    told.proposals.upkeep();
    let mut text = process().render();
    text.push_str(&told.proposals.handle.render());
    text.push_str(&recorder.handle().render());
    text
}

fn counters(told: &Told<'_>) {
    let raft = &told.status.raft;
    let failed = told.proposals.failed.load(Ordering::Relaxed);
    for (name, value, what) in [
        (
            "raft_rocks_server_leader_changes_seen_total",
            told.leader_changes,
            "Times that this node learned of another leader.",
        ),
        (
            "raft_rocks_server_proposals_committed_total",
            raft.commit,
            "Entries that are known to be committed: the commit index.",
        ),
        (
            "raft_rocks_server_proposals_applied_total",
            raft.applied,
            "Entries that are applied: the applied index.",
        ),
        (
            "raft_rocks_server_proposals_failed_total",
            failed,
            "Proposals of clients of this node that failed, or whose outcome is unknown.",
        ),
        (
            "raft_rocks_server_commands_total",
            told.commands,
            "Commands of Redis clients that were answered.",
        ),
        (
            "raft_rocks_server_messages_dropped_total",
            told.status.messages_dropped,
            "Messages of other nodes that were dropped because too many waited.",
        ),
        (
            "raft_rocks_server_packets_refused_total",
            told.status.packets_refused,
            "Packets of another cluster, store or node.",
        ),
    ] {
        describe_counter!(name, Unit::Count, what);
        counter!(name).absolute(value);
    }
}

fn gauges(told: &Told<'_>) {
    let raft = &told.status.raft;
    let flag = |is_so: bool| u64::from(is_so);
    for (name, value, what) in [
        (
            "raft_rocks_server_has_leader",
            flag(raft.leader != 0),
            "Whether this node knows a leader.",
        ),
        (
            "raft_rocks_server_is_leader",
            flag(raft.leader == raft.id),
            "Whether this node leads.",
        ),
        (
            "raft_rocks_server_proposals_pending",
            raft.proposals as u64,
            "Proposals that wait for their outcome.",
        ),
        ("raft_rocks_server_term", raft.term, "The term of raft."),
        (
            "raft_rocks_server_log_first_index",
            raft.first_index,
            "The first index of the log.",
        ),
        (
            "raft_rocks_server_log_last_index",
            raft.last_index,
            "The last index of the log.",
        ),
        (
            "raft_rocks_server_snapshot_index",
            raft.snapshot_index,
            "The index of the last snapshot, or 0.",
        ),
        (
            "raft_rocks_server_connections",
            told.connections as u64,
            "Connections of Redis clients.",
        ),
    ] {
        describe_gauge!(name, what);
        gauge!(name).set(value as f64);
    }
}

/// On the leader.
fn peers(status: &NodeStatus) {
    let name = "raft_rocks_server_peer_lag_entries";
    describe_gauge!(
        name,
        "Entries that another node is behind this one, which leads."
    );
    let raft = &status.raft;
    for of in raft.progress.iter().filter(|of| of.id != raft.id) {
        let lag = raft.last_index.saturating_sub(of.matched);
        gauge!(name, "peer" => of.id.to_string()).set(lag as f64);
    }
}
