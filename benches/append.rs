//! What one append costs: batch and entry sizes, fsync policies, one group or eight at once.
//!
//! The time is that of one call as its caller sees it; with eight groups eight threads call in
//! a closed loop, and the throughput is that of all of them. Under `Never` and `Interval` it is
//! CPU time for the most part, under `Always` the disk's. Absolute numbers say more about the
//! machine than about the engine: compare two builds in alternation, on the same disk.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench is no library, and may stop"
)]

mod support;

use std::cell::LazyCell;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft_rocks::raft::eraftpb::Entry;
use raft_rocks::{
    FsyncPolicy, Options, RaftMachineStorage, RaftStore, SnapshotProducer, SnapshotRequest,
};
use tempfile::TempDir;

const POLICIES: [(&str, FsyncPolicy); 3] = [
    ("always", FsyncPolicy::Always),
    ("interval", FsyncPolicy::Interval(Duration::from_millis(10))),
    ("never", FsyncPolicy::Never),
];
const GROUPS: [u64; 2] = [1, 8];
const ENTRY_BYTES: [usize; 2] = [256, 4096];
const BATCHES: [usize; 3] = [1, 16, 64];

/// Entries a log keeps, and how many more it may have before it is compacted.
const KEPT: u64 = 1_000;

/// A store with all the groups of one case.
struct Contender {
    groups: Vec<Appender>,
    _dir: TempDir,
}

impl Contender {
    fn new(fsync: FsyncPolicy, groups: u64, batch: usize, bytes: usize) -> Self {
        let dir = support::new_dir();
        let mut options = Options::default();
        options.fsync = fsync;
        options.reserve_bytes = 0;
        let store = RaftStore::open(dir.path(), options).unwrap();
        let groups = (0..groups)
            .map(|id| Appender::new(store.group(id).unwrap(), batch, bytes))
            .collect();
        Contender { groups, _dir: dir }
    }

    /// The mean over all groups of the time that `iterations` appends took.
    fn append(&mut self, iterations: u64) -> Duration {
        let count = self.groups.len();
        let start = Barrier::new(count);
        let timed = |group: &mut Appender| {
            start.wait();
            (0..iterations).map(|_| group.append()).sum::<Duration>()
        };
        let total: Duration = thread::scope(|scope| {
            let threads = self
                .groups
                .iter_mut()
                .map(|group| scope.spawn(|| timed(group)));
            let threads: Vec<_> = threads.collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        total / count as u32
    }
}

/// One group, and the entries that it is given again and again.
struct Appender {
    storage: RaftMachineStorage,
    batch: Vec<Entry>,
}

impl Appender {
    fn new(storage: RaftMachineStorage, batch: usize, bytes: usize) -> Self {
        storage.set_snapshot_producer(Some(Arc::new(NoSnapshots)));
        let batch = support::entries(1, batch, 1, &support::noise(bytes));
        Appender { storage, batch }
    }

    /// Only the append is timed, not the work that keeps the log short.
    fn append(&mut self) -> Duration {
        let start = Instant::now();
        self.storage.append(&self.batch).unwrap();
        let elapsed = start.elapsed();

        let count = self.batch.len() as u64;
        self.batch.iter_mut().for_each(|entry| entry.index += count);
        if self.storage.last_index() - self.storage.first_index() >= 2 * KEPT {
            self.compact();
        }
        elapsed
    }

    fn compact(&self) {
        let last = self.storage.last_index();
        self.storage.set_applied(last).unwrap();
        self.storage.compact(last + 1 - KEPT).unwrap();
    }
}

/// Registered, it lets a log be compacted without a snapshot; nobody asks it for one.
struct NoSnapshots;

impl SnapshotProducer for NoSnapshots {
    fn request(&self, _request: SnapshotRequest) {}
}

fn append(criterion: &mut Criterion) {
    for groups in GROUPS {
        for bytes in ENTRY_BYTES {
            for batch in BATCHES {
                let name = format!("append/{groups}_groups/{bytes}_bytes/batch_{batch}");
                let mut cases = criterion.benchmark_group(name);
                cases.throughput(Throughput::Elements(groups * batch as u64));
                // The policies are innermost, so that the disk rests between bursts of syncs.
                for (policy, fsync) in POLICIES {
                    let contender = || Contender::new(fsync, groups, batch, bytes);
                    let mut contender = LazyCell::new(contender);
                    cases.bench_function(BenchmarkId::from_parameter(policy), |bencher| {
                        bencher.iter_custom(|iterations| contender.append(iterations));
                    });
                }
                cases.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = support::short_bursts();
    targets = append
}
criterion_main!(benches);
