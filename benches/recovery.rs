//! What opening a log costs: its length, how much of it is verified, and where it stands.
//!
//! After a crash (or a close, which flushes nothing) the newest part of a log stands in
//! RocksDB's write-ahead log only, which every open replays into table files. `replay` opens a
//! copy in that state each time; `tables` opens a log that has been opened before.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench is no library, and may stop"
)]

mod support;

use std::cell::LazyCell;
use std::fs;
use std::path::Path;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage, VerifyOnOpen};
use tempfile::TempDir;

const LENGTHS: [u64; 2] = [10_000, 100_000];
const ENTRY_BYTES: usize = 256;
const TERM_LENGTH: u64 = 1_000;
const DEPTHS: [(&str, VerifyOnOpen); 2] = [
    ("full", VerifyOnOpen::Full),
    ("bounds", VerifyOnOpen::Bounds),
];

/// Two directories with the same log.
struct Logs {
    /// Written and closed: in the write-ahead log.
    written: TempDir,
    /// Opened once more: in table files.
    flushed: TempDir,
}

impl Logs {
    fn new(length: u64) -> Self {
        let written = support::new_dir();
        let storage = open(written.path(), VerifyOnOpen::Full);
        support::fill(&storage, length, TERM_LENGTH, &support::noise(ENTRY_BYTES));
        drop(storage);
        let flushed = copy(written.path());
        drop(open(flushed.path(), VerifyOnOpen::Bounds));
        Logs { written, flushed }
    }
}

fn open(dir: &Path, verify: VerifyOnOpen) -> RaftMachineStorage {
    let mut options = Options::default();
    options.fsync = FsyncPolicy::Never;
    options.reserve_bytes = 0;
    options.verify = verify;
    RaftMachineStorage::open(dir, options).unwrap()
}

/// A copy of a store that is closed.
fn copy(dir: &Path) -> TempDir {
    let target = support::new_dir();
    copy_all(dir, target.path());
    target
}

fn copy_all(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_all(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).unwrap();
        }
    }
}

fn recovery(criterion: &mut Criterion) {
    for length in LENGTHS {
        let logs = LazyCell::new(|| Logs::new(length));
        let mut cases = criterion.benchmark_group(format!("open/{length}_entries"));
        cases.throughput(Throughput::Elements(length));
        for (depth, verify) in DEPTHS {
            // What an iteration returns is dropped outside its time, so closing is not in it;
            // and before the next one, so the directory is free again.
            let once = BatchSize::PerIteration;
            cases.bench_function(BenchmarkId::new("tables", depth), |bencher| {
                bencher.iter_batched(|| (), |()| open(logs.flushed.path(), verify), once);
            });
            cases.bench_function(BenchmarkId::new("replay", depth), |bencher| {
                let written = || copy(logs.written.path());
                bencher.iter_batched(written, |copy| (open(copy.path(), verify), copy), once);
            });
        }
        cases.finish();
    }
}

criterion_group! {
    name = benches;
    config = support::short_bursts();
    targets = recovery
}
criterion_main!(benches);
