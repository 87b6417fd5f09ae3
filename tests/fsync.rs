//! A kill does not prove a sync: the page cache survives it. RocksDB's own counters do.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::time::{Duration, Instant};

use common::{conf_state, entries, hard_state, snapshot};
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage};

fn open(dir: &std::path::Path, fsync: FsyncPolicy) -> RaftMachineStorage {
    let mut options = Options::default();
    options.fsync = fsync;
    options.statistics = true;
    options.column_families = vec!["kv".to_owned()];
    options.snapshot_inline_bytes_max = 1024;
    RaftMachineStorage::open(dir, options).unwrap()
}

/// The syncs and bytes of the log that `run` causes.
fn cost(storage: &RaftMachineStorage, run: impl FnOnce()) -> (u64, u64) {
    let before = storage.store().counters().unwrap();
    run();
    let after = storage.store().counters().unwrap();
    (
        after.wal_syncs - before.wal_syncs,
        after.wal_bytes - before.wal_bytes,
    )
}

#[test]
fn every_acknowledgement_under_always_follows_a_sync_that_covers_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), FsyncPolicy::Always);
    for index in 1..50 {
        let batch = entries(index..index + 1, 1);
        let bytes = batch.iter().map(|e| e.data.len() as u64).sum::<u64>();
        let (syncs, logged) = cost(&storage, || storage.append(&batch).unwrap());
        // One writer: the sync that was counted came after the bytes that were counted.
        assert_eq!(syncs, 1, "append {index}");
        assert!(logged > bytes, "append {index} logged {logged} bytes");
        assert_eq!(storage.persisted_index(), index);
    }
    let vote = hard_state(2, 3, 10);
    assert_eq!(
        cost(&storage, || storage.set_hard_state(&vote).unwrap()).0,
        1,
        "a vote"
    );
    let received = snapshot(60, 2, &[1, 2], "state");
    assert_eq!(
        cost(&storage, || storage.apply_snapshot(&received).unwrap()).0,
        1,
        "a snapshot"
    );
    let voters = conf_state(&[1, 2, 3]);
    let set = || storage.set_conf_state(&voters, 60).unwrap();
    assert_eq!(cost(&storage, set).0, 1, "a configuration");
}

/// Rule 16: a write that moves nothing but the commit is not synced, nor is the application's
/// own data, which the log can make again.
#[test]
fn commit_and_applied_alone_are_written_without_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), FsyncPolicy::Always);
    storage.append(&entries(1..10, 1)).unwrap();
    storage.set_hard_state(&hard_state(1, 1, 0)).unwrap();
    let commit_only = hard_state(1, 1, 4);
    assert_eq!(
        cost(&storage, || storage.set_hard_state(&commit_only).unwrap()).0,
        0
    );
    let put = || {
        storage
            .batch()
            .put("kv", "a", "1")
            .applied(5)
            .write()
            .unwrap()
    };
    let (syncs, logged) = cost(&storage, put);
    assert_eq!(syncs, 0);
    assert!(logged > 0);
    let forced = || {
        storage
            .batch()
            .put("kv", "a", "2")
            .applied(6)
            .must_sync(true)
            .write()
            .unwrap()
    };
    assert_eq!(cost(&storage, forced).0, 1, "asked for");
    assert_eq!(
        cost(&storage, || storage.append(&[]).unwrap()),
        (0, 0),
        "nothing to write"
    );
}

#[test]
fn never_syncs_when_asked_and_at_close_alone() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), FsyncPolicy::Never);
    let append = || storage.append(&entries(1..10, 1)).unwrap();
    assert_eq!(cost(&storage, append).0, 0);
    assert_eq!((storage.last_index(), storage.persisted_index()), (9, 0));
    assert_eq!(cost(&storage, || storage.sync().unwrap()).0, 1);
    assert_eq!(storage.persisted_index(), 9);
    storage.append(&entries(7..8, 2)).unwrap();
    assert_eq!(
        (storage.last_index(), storage.persisted_index()),
        (7, 6),
        "7 was replaced"
    );
    let store = storage.store().clone();
    assert_eq!(cost(&storage, || store.close().unwrap()).0, 1);
    assert_eq!(storage.persisted_index(), 7);
}

/// The file that a snapshot's record names replaces another, which is then removed: a crash
/// must not find the old record, so this is synced under every policy.
#[test]
fn a_snapshot_with_a_file_is_synced_under_every_policy() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), FsyncPolicy::Never);
    storage.append(&entries(1..10, 1)).unwrap();
    let voters = conf_state(&[1]);
    let create = |at: u64, len: usize| {
        cost(&storage, || {
            storage.create_snapshot(at, &voters, &vec![1; len]).unwrap()
        })
        .0
    };
    assert_eq!(create(3, 10), 0, "in the record");
    assert_eq!(create(4, 5000), 1, "in a file");
    assert_eq!(create(5, 10), 1, "its file is removed");
}

#[test]
fn interval_syncs_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), FsyncPolicy::Interval(Duration::from_millis(5)));
    storage.append(&entries(1..10, 1)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while storage.persisted_index() < 9 {
        assert!(
            Instant::now() < deadline,
            "no background sync within a minute"
        );
        std::thread::yield_now();
    }
    assert!(storage.store().counters().unwrap().wal_syncs >= 1);
}

/// The index advances under a load that never pauses: a sync covers what was written before
/// it, whatever is written meanwhile.
#[test]
fn what_a_sync_covers_is_persisted_although_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), FsyncPolicy::Never);
    let mut floor = 0;
    for round in 1..20u64 {
        let last = storage.last_index();
        storage.append(&entries(last + 1..last + 3, round)).unwrap();
        storage.sync().unwrap();
        storage.append(&entries(last + 3..last + 5, round)).unwrap();
        assert!(storage.persisted_index() >= last, "round {round}");
        assert!(storage.persisted_index() >= floor && storage.persisted_index() < last + 5);
        floor = storage.persisted_index();
    }
}

/// A sync that begins just before a write does not cover it; the next one has to.
#[test]
fn interval_syncs_the_last_write_too() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), FsyncPolicy::Interval(Duration::from_millis(1)));
    for burst in 0..100 {
        for _ in 0..20 {
            let next = storage.last_index() + 1;
            storage.append(&entries(next..next + 1, 1)).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while storage.persisted_index() < storage.last_index() {
            assert!(Instant::now() < deadline, "burst {burst} is never synced");
            std::thread::yield_now();
        }
    }
}
