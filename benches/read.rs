//! What reads cost: entries from the cache and from RocksDB's table files, and terms.
//!
//! Cold means that the entry cache is off and the log has been flushed to table files; those
//! still are in RocksDB's block cache or the system's page cache.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench is no library, and may stop"
)]

mod support;

use std::cell::LazyCell;
use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage};
use tempfile::TempDir;

const ENTRY_BYTES: [usize; 2] = [256, 4096];
const RANGES: [u64; 3] = [1, 16, 64];
const LAST_INDEX: u64 = 4_000;

/// A log that is written once and read at random places.
struct Log {
    storage: RaftMachineStorage,
    random: fastrand::Rng,
    _dir: TempDir,
}

impl Log {
    fn new(options: Options, term_length: u64, bytes: usize) -> Self {
        let dir = support::new_dir();
        let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
        support::fill(&storage, LAST_INDEX, term_length, &support::noise(bytes));
        Log {
            storage,
            random: fastrand::Rng::with_seed(0),
            _dir: dir,
        }
    }

    fn hot(bytes: usize) -> Self {
        let mut options = options();
        options.entry_cache_bytes = 64 << 20;
        Log::new(options, LAST_INDEX, bytes)
    }

    fn cold(bytes: usize) -> Self {
        let mut options = options();
        options.entry_cache_bytes = 0;
        options.memtable_bytes = 64 << 10;
        Log::new(options, LAST_INDEX, bytes)
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.fsync = FsyncPolicy::Never;
    options.reserve_bytes = 0;
    options
}

fn entries(criterion: &mut Criterion) {
    type MakeLog = fn(usize) -> Log;
    for (heat, make) in [("hot", Log::hot as MakeLog), ("cold", Log::cold)] {
        for bytes in ENTRY_BYTES {
            let mut cases = criterion.benchmark_group(format!("entries/{heat}/{bytes}_bytes"));
            let mut log = LazyCell::new(|| make(bytes));
            for range in RANGES {
                cases.throughput(Throughput::Elements(range));
                cases.bench_function(BenchmarkId::from_parameter(range), |bencher| {
                    let Log {
                        storage, random, ..
                    } = &mut *log;
                    bencher.iter_batched(
                        || random.u64(1..=LAST_INDEX - range),
                        |low| storage.entries(low, low + range, None).unwrap(),
                        BatchSize::SmallInput,
                    );
                });
            }
            cases.finish();
        }
    }
}

fn term(criterion: &mut Criterion) {
    let mut cases = criterion.benchmark_group("term");
    for terms in [1, 1_000] {
        let mut log = LazyCell::new(|| Log::new(options(), LAST_INDEX / terms, 16));
        cases.bench_function(BenchmarkId::new("runs", terms), |bencher| {
            let Log {
                storage, random, ..
            } = &mut *log;
            bencher.iter_batched(
                || random.u64(1..=LAST_INDEX),
                |index| black_box(&*storage).term(index).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    cases.finish();
}

criterion_group! {
    name = benches;
    config = support::short_bursts();
    targets = entries, term
}
criterion_main!(benches);
