//! What several tests need: entries, states, and the files of a store.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: each test uses some of them, and a failure may stop it"
)]

pub mod groups;
pub mod report;
pub mod workload;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft_rocks::rocksdb::{self, DB, WaitForCompactOptions};
use raft_rocks::{FsyncPolicy, Options, RaftStore};

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

/// Options of a test that is not about syncs, nor about full disks.
pub fn unsynced() -> Options {
    let mut options = Options::default();
    options.fsync = FsyncPolicy::Never;
    options.reserve_bytes = 0;
    options
}

/// The store in `dir` over a database that refuses every write, as a failing disk would: it was
/// opened for reading.
pub fn unwritable(dir: &Path, options: Options) -> RaftStore {
    let path = database_dir(dir);
    let read_only =
        DB::open_cf_for_read_only(&rocksdb::Options::default(), path, ["default"], false);
    RaftStore::with_db(Arc::new(read_only.unwrap()), "default", options).unwrap()
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

/// The file that says how far the log of a store had been synced.
pub fn witness_file(store: &Path) -> PathBuf {
    store.join("witness")
}

/// Copies an open store: what a kill would leave of it when nothing goes on in the background.
pub fn copy_live(store: &RaftStore, from: &Path, to: &Path) {
    let wait = WaitForCompactOptions::default();
    store.database().wait_for_compact(&wait).unwrap();
    copy_store(from, to);
}

/// Copies a closed store, but for its reserve, which holds nothing.
pub fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(|file| file.unwrap()) {
        let target = to.join(file.file_name());
        if file.file_name() == "reserve" {
            continue;
        }
        if file.file_type().unwrap().is_dir() {
            copy_store(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
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
