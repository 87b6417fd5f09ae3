//! A MANIFEST that has lost what was written to it last: tables and removed logs that it no longer
//! tells of. Cut at every record, a store must hold what it held, or be refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{copy_live, copy_store, database_dir, entries, hard_state};
use raft_rocks::rocksdb;
use raft_rocks::{Error, FsyncPolicy, Options, RaftMachineStorage, Result};

const FAMILY: &str = "application";

fn options(recycle_wal: bool, families: &[&str]) -> Options {
    let mut options = Options::default();
    options.recycle_wal = recycle_wal;
    options.fsync = FsyncPolicy::Never;
    options.memtable_bytes = 64 << 10;
    options.reserve_bytes = 0;
    options.column_families = families.iter().map(|&name| name.to_owned()).collect();
    options
}

/// First and last index, the term of the hard state, and how many keys the application has.
type State = (u64, u64, u64, usize);

fn state(storage: &RaftMachineStorage, options: &Options) -> State {
    let database = storage.store().database();
    let keys = options.column_families.first().map_or(0, |name| {
        let family = database.cf_handle(name).unwrap();
        let keys = database.iterator_cf(family, rocksdb::IteratorMode::Start);
        keys.inspect(|key| assert!(key.is_ok())).count()
    });
    let (first, last) = (storage.first_index(), storage.last_index());
    assert_eq!(
        storage.entries(first, last + 1, None).unwrap().len() as u64,
        last + 1 - first
    );
    (first, last, storage.hard_state().term, keys)
}

/// Votes, which nothing misses that looks at entries, until `logs` logs have been begun, and one.
fn write(storage: &RaftMachineStorage, dir: &Path, logs: usize, options: &Options) {
    let newest = || common::wal_files(dir).pop().unwrap();
    let next = storage.last_index() + 1;
    storage.append(&entries(next..next + 3, 1)).unwrap();
    let mut seen = BTreeSet::from([newest()]);
    loop {
        let term = storage.hard_state().term + 1;
        let state = hard_state(term, 1, 0);
        let mut batch = storage.batch().hard_state(&state);
        if let Some(family) = options.column_families.first() {
            batch = batch.put(family, term.to_string(), "");
        }
        batch.write().unwrap();
        seen.insert(newest());
        if seen.len() > logs {
            break;
        }
    }
    storage.sync().unwrap();
}

fn manifest_of(dir: &Path) -> PathBuf {
    let database = database_dir(dir);
    let current = std::fs::read_to_string(database.join("CURRENT")).unwrap();
    database.join(current.trim_end())
}

/// Where the records of a MANIFEST begin: a checksum (4), a length (2), a type (1), the payload.
fn records(manifest: &[u8]) -> Vec<usize> {
    let mut begins = Vec::new();
    let mut at = 0;
    while at < manifest.len() {
        begins.push(at);
        at += 7 + usize::from(u16::from_le_bytes([manifest[at + 4], manifest[at + 5]]));
    }
    assert_eq!(at, manifest.len());
    begins
}

/// Cuts the MANIFEST of the store in `dir` at each of its records, and in their middle. How often
/// the store was refused.
fn cut_everywhere(dir: &Path, options: &Options, held: &State) -> usize {
    let manifest = std::fs::read(manifest_of(dir)).unwrap();
    let mut refused = 0;
    let mut lost = Vec::new();
    for begin in records(&manifest) {
        for cut in [begin, begin + 9] {
            let copied = tempfile::tempdir().unwrap();
            copy_store(dir, copied.path());
            std::fs::write(manifest_of(copied.path()), &manifest[..cut]).unwrap();
            let found = RaftMachineStorage::open(copied.path(), options.clone());
            let what = format!("{cut} of {} bytes", manifest.len());
            match found {
                Ok(storage) => {
                    let found = state(&storage, options);
                    lost.extend(
                        (found != *held).then(|| format!("{what}: {found:?}, held {held:?}")),
                    );
                }
                Err(e) => {
                    assert!(is_loss(&e), "{what}: {e}");
                    refused += 1;
                }
            }
        }
    }
    assert!(lost.is_empty(), "\n{}", lost.join("\n"));
    refused
}

fn is_loss(error: &Error) -> bool {
    matches!(
        error,
        Error::Corruption { .. } | Error::AcknowledgedWritesLost { .. }
    )
}

fn open(dir: &Path, options: &Options) -> Result<RaftMachineStorage> {
    RaftMachineStorage::open(dir, options.clone())
}

/// Lives of a store, each as a kill and as a close leave it. The first few without a compaction: the
/// tables that it removes are missed whatever else is lost.
fn cut_in_every_life(recycle_wal: bool, families: &[&str]) {
    let options = options(recycle_wal, families);
    let live = tempfile::tempdir().unwrap();
    let mut refused = 0;
    let mut held = None;
    for logs in [0, 0, 1, 0, 3] {
        let storage = open(live.path(), &options).unwrap();
        if let Some(held) = held {
            assert_eq!(state(&storage, &options), held);
        }
        write(&storage, live.path(), logs, &options);
        let now = state(&storage, &options);
        let killed = tempfile::tempdir().unwrap();
        copy_live(storage.store(), live.path(), killed.path());
        drop(storage);
        // Not opened here: the next life is to find the logs.
        for dir in [killed.path(), live.path()] {
            refused += cut_everywhere(dir, &options, &now);
        }
        held = Some(now);
    }
    assert!(refused > 20, "{refused}");
}

/// What was never synced, and was found after a kill, has been read: a vote in it binds.
#[test]
fn what_was_recovered_once_is_not_lost_with_the_end_of_a_manifest() {
    for recycle_wal in [false, true] {
        let options = options(recycle_wal, &[]);
        let (live, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let storage = open(live.path(), &options).unwrap();
        write(&storage, live.path(), 1, &options);
        drop(storage);
        // All that was synced is in tables, and the MANIFEST begins with that.
        drop(open(live.path(), &options).unwrap());
        let storage = open(live.path(), &options).unwrap();
        storage.set_hard_state(&hard_state(9_999, 3, 0)).unwrap();
        copy_live(storage.store(), live.path(), killed.path());
        let held = state(&storage, &options);

        let storage = open(killed.path(), &options).unwrap();
        assert_eq!(state(&storage, &options), held);
        let killed_again = tempfile::tempdir().unwrap();
        copy_live(storage.store(), killed.path(), killed_again.path());
        assert!(cut_everywhere(killed_again.path(), &options, &held) > 0);
    }
}

#[test]
fn a_manifest_without_its_last_records_is_refused_or_harmless() {
    cut_in_every_life(false, &[]);
}

#[test]
fn a_manifest_without_its_last_records_beside_recycled_logs() {
    cut_in_every_life(true, &[]);
}

#[test]
fn a_manifest_without_its_last_records_and_a_family_of_the_application() {
    cut_in_every_life(false, &[FAMILY]);
    cut_in_every_life(true, &[FAMILY]);
}

/// The newest record of a log tells how far what is in tables reaches: also one that removes.
#[test]
fn a_log_that_ends_with_a_removal_is_no_loss() {
    let options = options(true, &[FAMILY]);
    let dir = tempfile::tempdir().unwrap();
    for round in 1..4 {
        for removes_a_key in [false, true] {
            let storage = open(dir.path(), &options).unwrap();
            write(&storage, dir.path(), 0, &options);
            if removes_a_key {
                storage.batch().delete(FAMILY, "none").write().unwrap();
            } else {
                let group = storage.store().group(round).unwrap();
                group.append(&entries(1..9, 1)).unwrap();
                drop(group);
                storage.store().destroy_group(round).unwrap();
            }
            storage.sync().unwrap();
            drop(storage);
            // From the logs, and then from tables alone.
            drop(open(dir.path(), &options).unwrap());
            drop(open(dir.path(), &options).unwrap());
        }
    }
}
