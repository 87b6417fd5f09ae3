//! What the benches share: where the data goes, and what it is.
#![allow(
    dead_code,
    reason = "each bench is a crate of its own and uses its part of this"
)]

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use criterion::Criterion;
use raft_rocks::RaftMachineStorage;
use raft_rocks::raft::eraftpb::Entry;
use tempfile::TempDir;

/// Names the directory that the stores are made in. Point it at the disk to be measured, or at
/// a RAM disk to see what the CPU costs.
const DIR_VARIABLE: &str = "RAFT_ROCKS_BENCH_DIR";

/// Short samples: a virtual disk that meters its syncs slows down within seconds, and would
/// make the last contender look like the slowest.
pub fn short_bursts() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

/// A new directory for one store, removed when dropped.
pub fn new_dir() -> TempDir {
    let parent = env::var_os(DIR_VARIABLE);
    let parent = parent
        .as_deref()
        .map_or(Path::new(env!("CARGO_TARGET_TMPDIR")), Path::new);
    fs::create_dir_all(parent).unwrap();
    TempDir::with_prefix_in("bench-", parent).unwrap()
}

/// Bytes that no compression makes smaller, the same in every run.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0);
    std::iter::repeat_with(|| random.u8(..))
        .take(bytes)
        .collect()
}

/// Entries from index `first` on.
pub fn entries(first: u64, count: usize, term: u64, payload: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(count);
    for index in (first..).take(count) {
        let mut entry = Entry::default();
        entry.index = index;
        entry.term = term;
        entry.data = payload.to_vec().into();
        entries.push(entry);
    }
    entries
}

/// Fills a log up to `last`, a thousand entries at a time. Each `term_length` entries share a
/// term.
pub fn fill(storage: &RaftMachineStorage, last: u64, term_length: u64, payload: &[u8]) {
    let mut next = storage.last_index() + 1;
    while next <= last {
        let count = (last + 1 - next).min(1_000) as usize;
        let mut batch = entries(next, count, 0, payload);
        batch
            .iter_mut()
            .for_each(|entry| entry.term = 1 + entry.index / term_length);
        storage.append(&batch).unwrap();
        next += count as u64;
    }
}
