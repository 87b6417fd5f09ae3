//! Every metric that the table names is recorded by some workload, with the kind, unit and
//! meaning that it states there, and none that the table does not name.
#![cfg(feature = "metrics")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread;

use common::{database_dir, entries, entry, unsynced};
use metrics::{Key, KeyName, SharedString};
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use raft::{GetEntriesContext, Storage};
use raft_rocks::metrics::{Kind, METRICS, Metric};
use raft_rocks::rocksdb::{self, DB};
use raft_rocks::{Options, RaftMachineStorage, RaftStore, Result};

/// What has been recorded since it was asked last.
struct Recorded(Snapshotter);

impl Recorded {
    fn take(&self) -> BTreeMap<String, DebugValue> {
        let mut taken = BTreeMap::new();
        for (key, unit, description, value) in self.0.snapshot().into_vec() {
            let name = key.key().name().to_owned();
            let metric = METRICS.iter().find(|metric| metric.name == name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table"));
            assert_eq!(kind(metric), key.kind(), "{name}");
            assert_eq!(unit, Some(metric.unit), "{name}");
            assert_eq!(description.as_deref(), Some(metric.description));
            taken.insert(name, value);
        }
        taken
    }
}

fn kind(metric: &Metric) -> MetricKind {
    match metric.kind {
        Kind::Counter => MetricKind::Counter,
        Kind::Gauge => MetricKind::Gauge,
        Kind::Histogram => MetricKind::Histogram,
    }
}

fn counter(recorded: &BTreeMap<String, DebugValue>, name: &str) -> u64 {
    match recorded.get(name) {
        Some(DebugValue::Counter(value)) => *value,
        None => 0,
        other => panic!("{name} is {other:?}"),
    }
}

fn gauge(recorded: &BTreeMap<String, DebugValue>, name: &str) -> f64 {
    match &recorded[name] {
        DebugValue::Gauge(value) => value.into_inner(),
        other => panic!("{name} is {other:?}"),
    }
}

fn histogram(recorded: &BTreeMap<String, DebugValue>, name: &str) -> Vec<f64> {
    match &recorded[name] {
        DebugValue::Histogram(values) => values.iter().map(|value| value.into_inner()).collect(),
        other => panic!("{name} is {other:?}"),
    }
}

/// One test: there is one recorder in a process.
#[test]
fn every_metric_of_the_table_is_recorded_and_no_other() {
    let recorder = DebuggingRecorder::new();
    let recorded = Recorded(recorder.snapshotter());
    recorder.install().unwrap();
    raft_rocks::metrics::describe();

    appends_batches_and_syncs(&recorded);
    queue(&recorded);
    reads(&recorded);
    poisoning(&recorded);

    let names: Vec<String> = recorded.take().into_keys().collect();
    let mut expected = METRICS.map(|metric| metric.name.to_owned());
    expected.sort();
    assert_eq!(names, expected);
}

fn appends_batches_and_syncs(recorded: &Recorded) {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    recorded.take();
    storage.append(&entries(1..8, 1)).unwrap();
    storage.append(&[entry(8, 1, vec![7; 1000])]).unwrap();
    storage.set_commit(3).unwrap();
    let taken = recorded.take();
    assert_eq!(counter(&taken, "raft_rocks_appended_entries_total"), 8);
    let bytes = counter(&taken, "raft_rocks_appended_bytes_total");
    assert!((1000..2000).contains(&bytes), "{bytes}");
    let writes = histogram(&taken, "raft_rocks_batch_writes");
    assert_eq!(writes, [1.0, 1.0, 1.0]);
    let batches: f64 = histogram(&taken, "raft_rocks_batch_bytes").iter().sum();
    assert!(batches > bytes as f64, "{batches}");
    let syncs = histogram(&taken, "raft_rocks_sync_seconds");
    assert_eq!(syncs.len(), 2, "the commit alone needs none");
    assert!(syncs.iter().all(|seconds| (0.0..60.0).contains(seconds)));
    let stats = storage.store().commit_stats();
    assert_eq!((stats.writes, stats.batches, stats.syncs), (3, 3, 2));
}

fn queue(recorded: &Recorded) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = unsynced();
    options.write_queue_bytes = 64 << 10;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (reached, at_it) = mpsc::channel();
    let held = move |_: Result<()>| {
        reached.send(()).unwrap();
        // An error: the sender is gone, which is what this waits for.
        let _ = released.recv();
    };
    storage.batch().submit(held).unwrap();
    at_it.recv().unwrap();
    recorded.take();
    let submitter = thread::spawn({
        let storage = storage.clone();
        move || {
            for index in 1..9 {
                let append = [entry(index, 1, vec![7; 16 << 10])];
                storage.batch().entries(&append).submit(|_| {}).unwrap();
            }
        }
    });
    while storage.store().commit_stats().stalls == 0 {
        thread::yield_now();
    }
    let taken = recorded.take();
    let backlog = storage.store().backlog();
    assert_eq!(
        gauge(&taken, "raft_rocks_queue_writes"),
        backlog.writes as f64
    );
    assert_eq!(
        gauge(&taken, "raft_rocks_queue_bytes"),
        backlog.bytes as f64
    );
    assert!(backlog.writes > 1, "{backlog:?}");
    let stalls = counter(&taken, "raft_rocks_queue_stalls_total");
    drop(release);
    submitter.join().unwrap();
    storage.sync().unwrap();
    let taken = recorded.take();
    let later = counter(&taken, "raft_rocks_queue_stalls_total");
    assert_eq!(stalls + later, storage.store().commit_stats().stalls);
    assert_eq!(gauge(&taken, "raft_rocks_queue_writes"), 0.0);
    assert_eq!(gauge(&taken, "raft_rocks_queue_bytes"), 0.0);
}

fn reads(recorded: &Recorded) {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..20, 1)).unwrap();
    recorded.take();
    let read = |storage: &RaftMachineStorage| storage.entries(3, 10, None).unwrap();
    read(&storage);
    read(&storage);
    let counts = || {
        let taken = recorded.take();
        [
            "raft_rocks_cache_hits_total",
            "raft_rocks_cache_misses_total",
            "raft_rocks_fetched_later_total",
        ]
        .map(|name| counter(&taken, name))
    };
    assert_eq!(counts(), [2, 0, 0]);
    drop(storage);

    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    read(&storage);
    assert_eq!(counts(), [0, 1, 0], "nothing is in the cache after opening");
    let (told, fetched) = mpsc::channel();
    let notify = Arc::new(move |_| told.send(()).unwrap_or_default());
    storage.set_async_fetch(Some(notify)).unwrap();
    let ask = || Storage::entries(&storage, 3, 10, None, GetEntriesContext::empty(true));
    ask().unwrap_err();
    fetched.recv().unwrap();
    assert_eq!(ask().unwrap(), entries(3..10, 1));
    assert_eq!(counts(), [0, 1, 1], "fetched once, and taken");
}

fn poisoning(recorded: &Recorded) {
    let dir = tempfile::tempdir().unwrap();
    drop(RaftStore::open(dir.path(), unsynced()).unwrap());
    // A database that was opened for reading refuses every write, as a failing disk would.
    let path = database_dir(dir.path());
    let read_only =
        DB::open_cf_for_read_only(&rocksdb::Options::default(), path, ["default"], false);
    let store = RaftStore::with_db(Arc::new(read_only.unwrap()), "default", unsynced()).unwrap();
    let storage = store.group(0).unwrap();
    recorded.take();
    for _ in 0..3 {
        storage.append(&entries(1..4, 1)).unwrap_err();
    }
    let taken = recorded.take();
    assert_eq!(counter(&taken, "raft_rocks_poisonings_total"), 1);
    assert_eq!(counter(&taken, "raft_rocks_appended_entries_total"), 0);
    assert_eq!(histogram(&taken, "raft_rocks_batch_writes"), []);
}

#[test]
fn the_operators_guide_names_every_metric() {
    let guide = include_str!("../docs/operations.md");
    for metric in METRICS {
        let named = format!("| `{}` |", metric.name);
        assert!(guide.contains(&named), "{} is missing", metric.name);
    }
}

struct Panics;

impl metrics::CounterFn for Panics {
    fn increment(&self, _: u64) {
        panic!("counter");
    }

    fn absolute(&self, _: u64) {
        panic!("counter");
    }
}

impl metrics::GaugeFn for Panics {
    fn increment(&self, _: f64) {
        panic!("gauge");
    }

    fn decrement(&self, _: f64) {
        panic!("gauge");
    }

    fn set(&self, _: f64) {
        panic!("gauge");
    }
}

impl metrics::HistogramFn for Panics {
    fn record(&self, _: f64) {
        panic!("histogram");
    }
}

impl metrics::Recorder for Panics {
    fn describe_counter(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(Arc::new(Panics))
    }

    fn register_gauge(&self, _: &Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(Arc::new(Panics))
    }

    fn register_histogram(&self, _: &Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::from_arc(Arc::new(Panics))
    }
}

/// The thread that wrote had the role of the writer then, and nobody got it after it.
#[test]
fn a_recorder_that_panics_stops_no_write() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    metrics::with_local_recorder(&Panics, || {
        storage.append(&entries(1..4, 1)).unwrap();
        storage.batch().applied(3).write_unsynced().unwrap();
        let (told, durable) = mpsc::channel();
        let more = entries(4..6, 1);
        let submitted = storage.batch().entries(&more);
        submitted
            .submit(move |result| told.send(result).unwrap())
            .unwrap();
        durable.recv().unwrap().unwrap();
        assert_eq!(storage.entries(1, 6, None).unwrap().len(), 5);
    });
    assert_eq!(storage.persisted_index(), 5);
}
