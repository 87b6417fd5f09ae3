//! What a store tells an observer, through the recorder that the process has installed with the
//! crate [`metrics`] (feature `metrics`).
//!
//! [`METRICS`] has every name, with its kind, unit and meaning; `docs/operations.md` says which
//! to watch. All stores of a process share the names: the figures are those of all of them
//! together.
//!
//! ```
//! // Install a recorder, of your choice, before the first store is opened; then:
//! raft_rocks::metrics::describe();
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ::metrics::Unit;
use ::metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; from 0 when the process starts.
    Counter,
    /// Goes up and down; the last value holds.
    Gauge,
    /// One value for each event.
    Histogram,
}

/// A metric, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// As the recorder gets it.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What its value counts.
    pub unit: Unit,
    /// What it means.
    pub description: &'static str,
}

/// Every metric that a store records.
pub const METRICS: [Metric; 12] = [
    APPENDED_ENTRIES,
    APPENDED_BYTES,
    BATCH_WRITES,
    BATCH_BYTES,
    SYNC_SECONDS,
    QUEUE_WRITES,
    QUEUE_BYTES,
    QUEUE_STALLS,
    CACHE_HITS,
    CACHE_MISSES,
    FETCHED_LATER,
    POISONINGS,
];

const APPENDED_ENTRIES: Metric = Metric {
    name: "raft_rocks_appended_entries_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    description: "Entries that were appended, in all groups.",
};

const APPENDED_BYTES: Metric = Metric {
    name: "raft_rocks_appended_bytes_total",
    kind: Kind::Counter,
    unit: Unit::Bytes,
    description: "Bytes of these entries, as they are stored.",
};

const BATCH_WRITES: Metric = Metric {
    name: "raft_rocks_batch_writes",
    kind: Kind::Histogram,
    unit: Unit::Count,
    description: "Writes, of all groups, that became one write of RocksDB.",
};

const BATCH_BYTES: Metric = Metric {
    name: "raft_rocks_batch_bytes",
    kind: Kind::Histogram,
    unit: Unit::Bytes,
    description: "Bytes of one write of RocksDB.",
};

const SYNC_SECONDS: Metric = Metric {
    name: "raft_rocks_sync_seconds",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    description: "Time that one sync of the write-ahead log took.",
};

const QUEUE_WRITES: Metric = Metric {
    name: "raft_rocks_queue_writes",
    kind: Kind::Gauge,
    unit: Unit::Count,
    description: "Writes that are queued and not yet acknowledged.",
};

const QUEUE_BYTES: Metric = Metric {
    name: "raft_rocks_queue_bytes",
    kind: Kind::Gauge,
    unit: Unit::Bytes,
    description: "Bytes that these writes hold in memory.",
};

const QUEUE_STALLS: Metric = Metric {
    name: "raft_rocks_queue_stalls_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    description: "Writes that had to wait for room in the queue.",
};

const CACHE_HITS: Metric = Metric {
    name: "raft_rocks_cache_hits_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    description: "Reads of entries that needed nothing from RocksDB.",
};

const CACHE_MISSES: Metric = Metric {
    name: "raft_rocks_cache_misses_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    description: "Reads of entries that needed some from RocksDB.",
};

const FETCHED_LATER: Metric = Metric {
    name: "raft_rocks_fetched_later_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    description: "Reads that were told to wait until their entries are fetched.",
};

const POISONINGS: Metric = Metric {
    name: "raft_rocks_poisonings_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    description: "Stores that refuse to write because a write or sync has failed.",
};

/// Tells the installed recorder kind, unit and meaning of every metric.
pub fn describe() {
    for metric in METRICS {
        let Metric {
            name,
            unit,
            description,
            ..
        } = metric;
        match metric.kind {
            Kind::Counter => describe_counter!(name, unit, description),
            Kind::Gauge => describe_gauge!(name, unit, description),
            Kind::Histogram => describe_histogram!(name, unit, description),
        }
    }
}

/// Entries of these sizes were appended.
pub(crate) fn appended(sizes: impl Iterator<Item = usize>) {
    recorded(|| {
        let (entries, bytes) = sum(sizes);
        counter!(APPENDED_ENTRIES.name).increment(entries);
        counter!(APPENDED_BYTES.name).increment(bytes);
    });
}

/// Writes of these sizes became one.
pub(crate) fn wrote(sizes: impl Iterator<Item = usize>) {
    recorded(|| {
        let (writes, bytes) = sum(sizes);
        histogram!(BATCH_WRITES.name).record(writes as f64);
        histogram!(BATCH_BYTES.name).record(bytes as f64);
    });
}

/// A sync has ended.
pub(crate) fn synced(took: Duration) {
    recorded(|| {
        histogram!(SYNC_SECONDS.name).record(took);
    });
}

/// So much is accepted and not yet acknowledged.
pub(crate) fn queue(writes: usize, bytes: usize) {
    recorded(|| {
        gauge!(QUEUE_WRITES.name).set(writes as f64);
        gauge!(QUEUE_BYTES.name).set(bytes as f64);
    });
}

/// A write has to wait for room.
pub(crate) fn stalled() {
    recorded(|| {
        counter!(QUEUE_STALLS.name).increment(1);
    });
}

/// A read of entries was answered, from memory alone or not.
pub(crate) fn read(from_memory: bool) {
    recorded(|| {
        let metric = if from_memory {
            CACHE_HITS
        } else {
            CACHE_MISSES
        };
        counter!(metric.name).increment(1);
    });
}

/// A read was told to wait.
pub(crate) fn fetched_later() {
    recorded(|| {
        counter!(FETCHED_LATER.name).increment(1);
    });
}

/// A store refuses to write from here on.
pub(crate) fn poisoned() {
    recorded(|| {
        counter!(POISONINGS.name).increment(1);
    });
}

/// The recorder is the application's. One that panics must not end a thread of the store, nor a
/// write half way.
fn recorded(record: impl FnOnce()) {
    // The hook for panics has told it.
    let _ = catch_unwind(AssertUnwindSafe(record));
}

fn sum(sizes: impl Iterator<Item = usize>) -> (u64, u64) {
    sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size as u64))
}
