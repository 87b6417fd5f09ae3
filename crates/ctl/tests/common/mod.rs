//! A store to damage, the tool to look at it, and what it says.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: each test uses some of them, and a failure may stop it"
)]

pub mod damage;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use raft_rocks::raft::eraftpb::{ConfState, Entry, HardState};
use raft_rocks::rocksdb::{self, DB};
use raft_rocks::{Options, RaftStore};
use serde_json::Value;

/// What the tool has printed, and its exit code.
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    /// The codes of all findings.
    pub fn codes(&self) -> Vec<String> {
        let findings = self.json()["findings"].as_array().unwrap().clone();
        findings
            .iter()
            .map(|finding| finding["code"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit code {}\n{}\n{}",
            self.code, self.stdout, self.stderr
        )
    }
}

/// How long a lock may be held by a child of another test between its fork and its exec.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the tool.
pub fn ctl<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Said {
    let args: Vec<OsString> = args
        .into_iter()
        .map(|arg| arg.as_ref().to_owned())
        .collect();
    let start = Instant::now();
    loop {
        let said = ctl_once(&args);
        if said.code != 4 || start.elapsed() > LOCK_TIMEOUT {
            return said;
        }
    }
}

/// As [`ctl`], also when the store is in use.
pub fn ctl_once<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-rocks-ctl"));
    let output = command.args(args).output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Opens a store that this test has closed.
pub fn open(dir: &Path) -> RaftStore {
    let start = Instant::now();
    loop {
        match RaftStore::open(dir, Options::default()) {
            Err(e) if e.is_retryable() && start.elapsed() < LOCK_TIMEOUT => thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Runs a command of the tool on a store.
pub fn on(store: &Path, args: &[&str]) -> Said {
    let (command, options) = args.split_first().unwrap();
    let store = store.to_str().unwrap();
    ctl([command, store].into_iter().chain(options.iter().copied()))
}

pub fn entry(index: u64, term: u64, data: impl Into<Vec<u8>>) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = term;
    entry.data = data.into();
    entry
}

/// Entries of one term whose data names their index.
pub fn entries(range: Range<u64>, term: u64) -> Vec<Entry> {
    range
        .map(|index| entry(index, term, format!("entry {index} of term {term}")))
        .collect()
}

/// A number from the environment.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Entries of one term with `len` bytes each.
pub fn entries_of(range: Range<u64>, term: u64, len: usize) -> Vec<Entry> {
    range
        .map(|index| entry(index, term, vec![index as u8; len]))
        .collect()
}

pub fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

pub fn members() -> ConfState {
    ConfState::from((vec![1, 2, 3], Vec::new()))
}

/// What all stores here have: group 0 with the entries [11, 61), of terms 1 up to 30 and 3 behind
/// it, commit 50, applied 40, a snapshot at 20 in a file; group 7 with 5 entries. Up to 30 it
/// stands in tables, behind that in the log.
pub fn make_store(dir: &Path) {
    let store = open(dir);
    let storage = store.group(0).unwrap();
    storage.initialize_with_conf_state(members()).unwrap();
    storage.append(&entries(1..31, 1)).unwrap();
    storage.set_hard_state(&hard_state(1, 1, 25)).unwrap();
    storage.set_applied(25).unwrap();
    storage
        .create_snapshot(20, &members(), &[7; 100_000])
        .unwrap();
    storage.compact(11).unwrap();
    let other = store.group(7).unwrap();
    other.initialize_with_conf_state(members()).unwrap();
    other.append(&entries(1..6, 1)).unwrap();
    other.set_hard_state(&hard_state(1, 3, 5)).unwrap();
    drop((storage, other));
    store.close().unwrap();

    let storage = open(dir).group(0).unwrap();
    for index in 31..61 {
        storage.append(&entries(index..index + 1, 3)).unwrap();
    }
    storage.set_hard_state(&hard_state(3, 2, 50)).unwrap();
    storage.set_applied(40).unwrap();
    storage.store().sync().unwrap();
}

/// Changes a closed store's records behind its back.
pub fn tamper<R>(store: &Path, change: impl FnOnce(&DB) -> R) -> R {
    let mut options = rocksdb::Options::default();
    options.set_track_and_verify_wals_in_manifest(true);
    change(&DB::open(&options, store.join("db")).unwrap())
}

/// The files of a store's database with this ending, by name.
pub fn files(store: &Path, ending: &str) -> Vec<PathBuf> {
    let listing = fs::read_dir(store.join("db")).unwrap();
    let mut files: Vec<PathBuf> = listing.map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with(ending));
    files.sort();
    files
}

pub fn flip_bit(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

pub fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap()) {
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_store(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).unwrap();
        }
    }
}

/// Every file and directory with its bytes and the time it was changed.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(path) = pending.pop() {
        let metadata = fs::metadata(&path).unwrap();
        let name = path.strip_prefix(dir).unwrap().to_path_buf();
        let bytes = if metadata.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|file| file.unwrap().path()),
            );
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(name, (bytes, metadata.modified().unwrap()));
    }
    found
}

/// The bytes alone, without what no copy has: locks and RocksDB's log of events.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_left_out = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_str().unwrap();
        name == "lock" || name.starts_with("LOG") || name == "LOCK"
    };
    let all = fingerprint(dir).into_iter();
    let all = all.filter(|(path, _)| !is_left_out(path));
    all.map(|(path, (bytes, _))| (path, bytes)).collect()
}
