//! What several tests need: entries, states, and the files of a store.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: each test uses some of them, and a failure may stop it"
)]

pub mod workload;

use std::ops::Range;
use std::path::{Path, PathBuf};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft_rocks::{FsyncPolicy, Options};

pub fn entry(index: u64, term: u64, data: impl Into<Vec<u8>>) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = term;
    entry.data = data.into().into();
    entry
}

/// Entries of one term whose data names their index.
pub fn entries(range: Range<u64>, term: u64) -> Vec<Entry> {
    range
        .map(|index| entry(index, term, format!("entry {index} of term {term}")))
        .collect()
}

pub fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    state.term = term;
    state.vote = vote;
    state.commit = commit;
    state
}

pub fn snapshot(index: u64, term: u64, voters: &[u64], data: impl Into<Vec<u8>>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.data = data.into().into();
    snapshot.mut_metadata().index = index;
    snapshot.mut_metadata().term = term;
    snapshot.mut_metadata().set_conf_state(conf_state(voters));
    snapshot
}

pub fn conf_state(voters: &[u64]) -> ConfState {
    ConfState::from((voters.to_vec(), Vec::new()))
}

/// Options of a test that is not about syncs.
pub fn unsynced() -> Options {
    let mut options = Options::default();
    options.fsync = FsyncPolicy::Never;
    options
}

/// The RocksDB directory of a store.
pub fn database_dir(store: &Path) -> PathBuf {
    store.join("db")
}

/// The write-ahead logs of a store, oldest first.
pub fn wal_files(store: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(database_dir(store))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .collect();
    files.sort();
    files
}

/// Changes a closed store's database behind its back.
pub fn tamper<R>(store: &Path, change: impl FnOnce(&raft_rocks::rocksdb::DB) -> R) -> R {
    let mut options = raft_rocks::rocksdb::Options::default();
    options.set_track_and_verify_wals_in_manifest(true);
    change(&raft_rocks::rocksdb::DB::open(&options, database_dir(store)).unwrap())
}

/// The snapshot files of a store, finished and unfinished.
pub fn snapshot_files(store: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(store.join("snapshots")).unwrap();
    let paths = listing.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.display().to_string().contains(".snap"))
        .collect()
}
