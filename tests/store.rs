//! Many groups in one store, the application's data beside them, and databases of others.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::sync::Arc;

use common::{conf_state, entries, hard_state, snapshot, snapshot_files, unsynced};
use raft_rocks::rocksdb::{self, DB};
use raft_rocks::{Error, Options, RaftMachineStorage, RaftStore};

const GROUPS: [u64; 5] = [0, 1, 2, 1 << 40, u64::MAX];

fn with_family(name: &str) -> Options {
    let mut options = unsynced();
    options.column_families = vec![name.to_owned()];
    options
}

#[test]
fn groups_are_apart_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    assert_eq!(store.groups().unwrap(), []);
    for (nth, id) in GROUPS.into_iter().enumerate() {
        let group = store.group(id).unwrap();
        assert_eq!(group.last_index(), 0, "group {id} starts empty");
        group.append(&entries(1..3 + nth as u64, 1)).unwrap();
        group.set_hard_state(&hard_state(1, id.max(1), 1)).unwrap();
    }
    drop(store);
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    assert_eq!(store.groups().unwrap(), GROUPS);
    for (nth, id) in GROUPS.into_iter().enumerate() {
        let group = store.group(id).unwrap();
        assert_eq!((group.group_id(), group.last_index()), (id, 2 + nth as u64));
        assert_eq!(group.hard_state().vote, id.max(1));
    }
}

#[test]
fn a_group_that_is_only_opened_is_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    store.group(7).unwrap().append(&[]).unwrap();
    assert_eq!(store.groups().unwrap(), []);
}

#[test]
fn handles_of_a_group_share_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    let (one, other) = (store.group(3).unwrap(), store.group(3).unwrap());
    one.append(&entries(1..5, 1)).unwrap();
    assert_eq!(other.last_index(), 4);
}

#[test]
fn a_destroyed_group_is_gone_and_its_handles_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    for id in GROUPS {
        let group = store.group(id).unwrap();
        group.append(&entries(1..100, 1)).unwrap();
        group
            .create_snapshot(50, &conf_state(&[1]), &[1; 100_000])
            .unwrap();
    }
    for id in [0, 1 << 40, u64::MAX] {
        let held = store.group(id).unwrap();
        store.destroy_group(id).unwrap();
        assert!(matches!(
            held.append(&entries(100..101, 1)),
            Err(Error::GroupDestroyed { .. })
        ));
        assert!(matches!(
            held.entries(1, 5, None),
            Err(Error::GroupDestroyed { .. })
        ));
    }
    assert_eq!(store.groups().unwrap(), [1, 2]);
    assert_eq!(snapshot_files(dir.path()).len(), 2);
    store.destroy_group(77).unwrap();

    let anew = store.group(0).unwrap();
    assert_eq!(
        (
            anew.first_index(),
            anew.last_index(),
            anew.hard_state().term
        ),
        (1, 0, 0)
    );
    anew.append(&entries(1..3, 1)).unwrap();
    drop((anew, store));
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    assert_eq!(store.groups().unwrap(), [0, 1, 2]);
    assert_eq!(store.group(0).unwrap().last_index(), 2);
}

#[test]
fn the_applications_data_and_the_applied_index_are_one_write() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), with_family("kv")).unwrap();
    storage.append(&entries(1..5, 1)).unwrap();
    storage
        .batch()
        .put("kv", "x", "1")
        .put("kv", "y", "2")
        .applied(2)
        .write()
        .unwrap();
    storage
        .batch()
        .delete("kv", "y")
        .applied(3)
        .write()
        .unwrap();
    let refused = storage.batch().put("kv", "x", "lost").applied(9).write();
    assert!(matches!(
        refused,
        Err(Error::Unavailable { index: 9, last: 4 })
    ));
    drop(storage);

    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    let db = storage.store().database();
    let family = db
        .cf_handle("kv")
        .expect("found although the options do not name it");
    assert_eq!(db.get_cf(&family, "x").unwrap().unwrap(), b"1");
    assert_eq!(db.get_cf(&family, "y").unwrap(), None);
    assert_eq!(
        (storage.applied_index(), storage.hard_state().commit),
        (3, 3)
    );
}

#[test]
fn the_application_cannot_write_among_the_raft_records() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    let among = storage
        .batch()
        .put("default", "/raft/hard_state", "x")
        .write()
        .unwrap_err();
    assert!(
        among.to_string().contains("holds the raft records"),
        "{among}"
    );
    let nowhere = storage.batch().put("kv", "k", "v").write().unwrap_err();
    assert!(
        nowhere.to_string().contains("Options::column_families"),
        "{nowhere}"
    );
}

fn foreign_database(dir: &std::path::Path) -> Arc<DB> {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // An extractor and a filter that make a plain seek skip keys: reads must not depend on it.
    options.set_prefix_extractor(rocksdb::SliceTransform::create_fixed_prefix(15));
    options.set_memtable_prefix_bloom_ratio(0.2);
    let families = ["raft", "mine"].map(|name| (name, options.clone()));
    Arc::new(DB::open_cf_with_opts(&options, dir, families).unwrap())
}

#[test]
fn a_column_family_of_somebody_elses_database_serves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs");
    let db = foreign_database(&path);
    let missing = RaftStore::with_db(Arc::clone(&db), "nope", unsynced()).unwrap_err();
    assert!(
        matches!(
            missing,
            Error::InvalidOptions {
                field: "column_family",
                ..
            }
        ),
        "{missing}"
    );
    let store = RaftStore::with_db(Arc::clone(&db), "raft", unsynced()).unwrap();
    for id in GROUPS {
        let group = store.group(id).unwrap();
        group.append(&entries(1..100, 1)).unwrap();
        group
            .batch()
            .put("mine", id.to_be_bytes(), "state")
            .applied(40)
            .write()
            .unwrap();
        group
            .create_snapshot(40, &conf_state(&[1]), &[5; 100_000])
            .unwrap();
        group.compact(41).unwrap();
    }
    assert_eq!(store.groups().unwrap(), GROUPS);
    drop((store, db));

    let db = foreign_database(&path);
    let store = RaftStore::with_db(Arc::clone(&db), "raft", unsynced()).unwrap();
    assert_eq!(store.groups().unwrap(), GROUPS);
    for id in GROUPS {
        let group = store.group(id).unwrap();
        assert_eq!(
            (
                group.first_index(),
                group.last_index(),
                group.applied_index()
            ),
            (41, 99, 40)
        );
        assert_eq!(group.entries(41, 100, None).unwrap().len(), 59);
    }
    assert_eq!(
        db.iterator_cf(&db.cf_handle("mine").unwrap(), rocksdb::IteratorMode::Start)
            .count(),
        5
    );
}

#[test]
fn a_column_family_with_other_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = foreign_database(dir.path());
    db.put_cf(&db.cf_handle("mine").unwrap(), "their key", "their value")
        .unwrap();
    let error = RaftStore::with_db(Arc::clone(&db), "mine", unsynced()).unwrap_err();
    assert!(error.to_string().contains("their key"), "{error}");
}

#[test]
fn the_cache_budget_is_shared_and_reads_do_not_depend_on_it() {
    for budget in [0, 10_000, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = unsynced();
        options.entry_cache_bytes = budget;
        let store = RaftStore::open(dir.path(), options).unwrap();
        for id in 0..4 {
            store
                .group(id)
                .unwrap()
                .append(&entries(1..200, 1))
                .unwrap();
        }
        for id in 0..4 {
            let group = store.group(id).unwrap();
            group.append(&entries(150..180, 2)).unwrap();
            let mut expected = entries(1..150, 1);
            expected.extend(entries(150..180, 2));
            assert_eq!(
                group.entries(1, 180, None).unwrap(),
                expected,
                "budget {budget}"
            );
            assert_eq!(group.entries(170, 180, None).unwrap(), expected[169..]);
        }
    }
}

/// Readers beside a writer see the log as it was before or after a write, never a mixture.
#[test]
fn readers_beside_a_writer_see_whole_states() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = unsynced();
    options.entry_cache_bytes = 0;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    storage.append(&entries(1..50, 1)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| replace_tails(&storage));
        while !writer.is_finished() {
            read_whole_log(&storage);
        }
    });
}

fn replace_tails(storage: &RaftMachineStorage) {
    for round in 2..400u64 {
        let from = storage.uncommitted().start + round % 40;
        storage
            .append(&entries(from..from + 50 + round % 20, round))
            .unwrap();
        if round % 7 == 0 {
            storage
                .create_snapshot(from, &conf_state(&[1]), b"")
                .unwrap();
            storage.compact(from - 1).unwrap();
        }
        if round % 50 == 0 {
            let at = storage.last_index() + 5;
            storage
                .apply_snapshot(&snapshot(at, round, &[1], ""))
                .unwrap();
            storage.append(&entries(at + 1..at + 50, round)).unwrap();
        }
    }
}

fn read_whole_log(storage: &RaftMachineStorage) {
    let (first, last) = (storage.first_index(), storage.last_index());
    match storage.entries(first, last + 1, None) {
        Ok(entries) => {
            assert!(
                entries
                    .iter()
                    .enumerate()
                    .all(|(nth, e)| e.index == first + nth as u64)
            );
            assert!(
                entries.is_sorted_by_key(|e| e.term),
                "a mixture of two logs"
            );
        }
        // The log moved between the two calls.
        Err(Error::Compacted { .. } | Error::Unavailable { .. }) => {}
        Err(e) => panic!("{e}"),
    }
}

/// Two stores in one database used one snapshot directory, and each removed the other's files.
#[test]
fn two_families_of_a_database_are_two_stores() {
    let dir = tempfile::tempdir().unwrap();
    let db = foreign_database(&dir.path().join("theirs"));
    let mut options = unsynced();
    options.snapshot_inline_bytes_max = 0;
    let open = |family| RaftStore::with_db(Arc::clone(&db), family, options.clone());
    let one = open("raft").unwrap().group(0).unwrap();
    one.append(&entries(1..10, 1)).unwrap();
    one.create_snapshot(5, &conf_state(&[1]), b"state").unwrap();
    let two = open("mine").unwrap().group(0).unwrap();
    assert_eq!(two.last_index(), 0);
    assert!(one.open_snapshot().unwrap().is_some());
    let mut elsewhere = options.clone();
    elsewhere.snapshot_dir = Some(dir.path().join("elsewhere"));
    let beside = RaftStore::with_db(Arc::clone(&db), "raft", elsewhere).unwrap_err();
    assert!(
        matches!(beside, Error::Locked { .. }),
        "another snapshot directory: {beside}"
    );
    let again = open("raft").unwrap_err();
    assert!(
        matches!(again, Error::Locked { .. }),
        "one store might vote beside the other: {again}"
    );
}

/// The cache gives way while a reader is between disk and cache: not damage.
#[test]
fn readers_beside_a_shrinking_cache_see_the_whole_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = unsynced();
    options.entry_cache_bytes = 1 << 20;
    let store = RaftStore::open(dir.path(), options).unwrap();
    let group = store.group(0).unwrap();
    let log: Vec<_> = (1..5001)
        .map(|index| common::entry(index, 1, vec![1; 100]))
        .collect();
    group.append(&log).unwrap();
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| (1..300).for_each(|id| drop(store.group(id).unwrap())));
        while !opener.is_finished() {
            assert_eq!(group.entries(1, 5001, None).unwrap().len(), 5000);
        }
    });
}

#[test]
fn destroying_a_group_does_not_hang_on_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    let held = store.group(5).unwrap();
    held.append(&entries(1..10, 1)).unwrap();
    // A directory of that name cannot be removed as a file.
    std::fs::create_dir(dir.path().join("snapshots/0000000000000005-1-1-9.snap")).unwrap();
    store.destroy_group(5).unwrap();
    assert!(matches!(
        held.append(&entries(10..11, 1)),
        Err(Error::GroupDestroyed { group: 5 })
    ));
    assert_eq!(
        (
            store.groups().unwrap(),
            store.group(5).unwrap().last_index()
        ),
        (vec![], 0)
    );
}
