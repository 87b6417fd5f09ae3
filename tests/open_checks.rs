//! Open believes nothing because it is there: each breach is refused, with an error that names
//! the key, what was expected and what was found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::path::Path;

use common::{conf_state, database_dir, entries, hard_state, snapshot, tamper, unsynced};
use raft_rocks::keys::{self, Meta};
use raft_rocks::record::{self, FirstIndex, HardState, LastIndex, UncommitIndex};
use raft_rocks::rocksdb::DB;
use raft_rocks::{Error, Options, RaftMachineStorage, RaftStore, Result, VerifyOnOpen};

/// Entries 3..=9 behind a truncation at 2; terms 1, 2, 2, 2, 3, 3, 3, 3; commit 6, applied 5.
fn make_store(dir: &Path) {
    let storage = RaftMachineStorage::open(dir, unsynced()).unwrap();
    storage
        .initialize_with_conf_state((vec![1, 2, 3], vec![]))
        .unwrap();
    storage.append(&entries(1..3, 1)).unwrap();
    storage.append(&entries(3..6, 2)).unwrap();
    storage.append(&entries(6..10, 3)).unwrap();
    storage.set_hard_state(&hard_state(3, 1, 6)).unwrap();
    storage.set_applied(5).unwrap();
    storage
        .create_snapshot(4, &conf_state(&[1, 2, 3]), b"state at 4")
        .unwrap();
    storage.compact(3).unwrap();
}

fn open(dir: &Path, verify: VerifyOnOpen) -> Result<RaftMachineStorage> {
    let mut options = unsynced();
    options.verify = verify;
    RaftMachineStorage::open(dir, options)
}

/// Makes a store, damages it, and asserts that open names `key`.
fn refused(key: &[u8], damage: impl FnOnce(&DB)) {
    let error = damaged(VerifyOnOpen::Full, damage).expect_err("the damage was not noticed");
    let named = keys::display(key);
    assert!(
        matches!(&error, Error::Corruption { key, .. } if *key == named),
        "{named}: {error}"
    );
}

fn damaged(verify: VerifyOnOpen, damage: impl FnOnce(&DB)) -> Result<RaftMachineStorage> {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    tamper(dir.path(), damage);
    open(dir.path(), verify)
}

fn encoded(index: u64, term: u64) -> Vec<u8> {
    let mut out = Vec::new();
    record::encode_entry(0, &common::entry(index, term, "x"), &mut out).unwrap();
    out
}

#[test]
fn an_undamaged_store_opens_as_it_was() {
    for verify in [VerifyOnOpen::Full, VerifyOnOpen::Bounds] {
        let storage = damaged(verify, |_| {}).unwrap();
        assert_eq!((storage.first_index(), storage.last_index()), (3, 9));
        assert_eq!(
            (storage.applied_index(), storage.hard_state().commit),
            (5, 6)
        );
        let terms: Vec<u64> = (2..=9).map(|i| storage.term(i).unwrap()).collect();
        assert_eq!(terms, [1, 2, 2, 2, 3, 3, 3, 3], "{verify:?}");
        assert_eq!(storage.entries(3, 10, None).unwrap().len(), 7);
    }
}

#[test]
fn a_flipped_bit_in_any_record_is_refused() {
    let metas = Meta::ALL.map(|meta| keys::meta(0, meta));
    let all = metas
        .into_iter()
        .chain((3..10).map(|index| keys::entry(0, index)));
    for key in all {
        refused(&key, |db| {
            let mut value = db.get(&key).unwrap().unwrap();
            let middle = value.len() / 2;
            value[middle] ^= 0x10;
            db.put(&key, value).unwrap();
        });
    }
}

#[test]
fn a_missing_record_is_refused() {
    let required = [
        Meta::FirstIndex,
        Meta::LastIndex,
        Meta::HardState,
        Meta::ConfState,
        Meta::UncommitIndex,
    ];
    for key in required.map(|meta| keys::meta(0, meta)) {
        refused(&key, |db| db.delete(&key).unwrap());
    }
}

#[test]
fn a_hole_in_the_log_is_refused_and_its_index_named() {
    for index in [3, 6, 9] {
        refused(&keys::entry(0, index), |db| {
            db.delete(keys::entry(0, index)).unwrap()
        });
    }
}

#[test]
fn an_entry_past_the_last_index_is_refused() {
    refused(&keys::entry(0, 10), |db| {
        db.put(keys::entry(0, 10), encoded(10, 3)).unwrap()
    });
    refused(&keys::entry(0, 400), |db| {
        db.put(keys::entry(0, 400), encoded(400, 3)).unwrap()
    });
}

#[test]
fn an_entry_of_another_place_is_refused() {
    refused(&keys::entry(0, 7), |db| {
        db.put(keys::entry(0, 7), encoded(8, 3)).unwrap()
    });
}

#[test]
fn terms_that_fall_are_refused() {
    refused(&keys::entry(0, 7), |db| {
        db.put(keys::entry(0, 7), encoded(7, 2)).unwrap()
    });
}

#[test]
fn bounds_that_contradict_the_log_are_refused() {
    let last = |last_index, last_term| {
        record::encode_meta(
            0,
            &LastIndex {
                last_index,
                last_term,
            },
        )
    };
    refused(&keys::entry(0, 10), |db| {
        db.put(keys::meta(0, Meta::LastIndex), last(10, 3)).unwrap();
    });
    refused(&keys::entry(0, 9), |db| {
        db.put(keys::meta(0, Meta::LastIndex), last(8, 3)).unwrap();
    });
    refused(&keys::meta(0, Meta::LastIndex), |db| {
        db.put(keys::meta(0, Meta::LastIndex), last(9, 4)).unwrap();
    });
    refused(&keys::meta(0, Meta::LastIndex), |db| {
        db.put(keys::meta(0, Meta::LastIndex), last(1, 1)).unwrap();
    });
    let first = FirstIndex {
        first_index: 3,
        truncated_index: 1,
        truncated_term: 1,
    };
    refused(&keys::meta(0, Meta::FirstIndex), |db| {
        db.put(
            keys::meta(0, Meta::FirstIndex),
            record::encode_meta(0, &first),
        )
        .unwrap();
    });
}

fn put_commit(db: &DB, commit: u64) {
    let state = HardState {
        term: 3,
        vote: 1,
        commit,
    };
    let uncommit = UncommitIndex {
        uncommit_index: commit + 1,
    };
    db.put(
        keys::meta(0, Meta::HardState),
        record::encode_meta(0, &state),
    )
    .unwrap();
    db.put(
        keys::meta(0, Meta::UncommitIndex),
        record::encode_meta(0, &uncommit),
    )
    .unwrap();
}

/// raft-rs panics at start when the commit is outside the log (rule 12).
#[test]
fn a_commit_outside_the_log_is_refused() {
    for commit in [0, 1, 10, u64::MAX - 1] {
        let error = damaged(VerifyOnOpen::Full, |db| put_commit(db, commit)).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::Corruption { .. }) && text.contains("commit"),
            "{text}"
        );
    }
}

#[test]
fn a_commit_below_the_applied_index_is_refused() {
    let error = damaged(VerifyOnOpen::Full, |db| put_commit(db, 4)).unwrap_err();
    assert!(error.to_string().contains("applied 5"), "{error}");
}

#[test]
fn a_commit_and_an_uncommit_index_that_disagree_are_refused() {
    refused(&keys::meta(0, Meta::UncommitIndex), |db| {
        let wrong = UncommitIndex { uncommit_index: 9 };
        db.put(
            keys::meta(0, Meta::UncommitIndex),
            record::encode_meta(0, &wrong),
        )
        .unwrap();
    });
}

#[test]
fn bounds_alone_still_notice_what_their_probes_meet() {
    let at_the_end = |db: &DB| db.delete(keys::entry(0, 9)).unwrap();
    assert!(damaged(VerifyOnOpen::Bounds, at_the_end).is_err());
    let past_the_end = |db: &DB| db.put(keys::entry(0, 10), encoded(10, 3)).unwrap();
    assert!(damaged(VerifyOnOpen::Bounds, past_the_end).is_err());
}

/// What open did not look at is refused when it is read.
#[test]
fn damage_that_bounds_do_not_notice_is_noticed_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..1001, 1)).unwrap();
    drop(storage);
    tamper(dir.path(), |db| db.delete(keys::entry(0, 77)).unwrap());
    let storage = open(dir.path(), VerifyOnOpen::Bounds).unwrap();
    assert!(matches!(
        storage.entries(70, 80, None),
        Err(Error::Corruption { .. })
    ));
    assert_eq!(storage.entries(78, 1001, None).unwrap().len(), 923);
    drop(storage);
    assert!(open(dir.path(), VerifyOnOpen::Full).is_err());
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    tamper(dir.path(), |db| {
        let newer = record::StoreFormat {
            version: 2,
            store_id: vec![7; 16],
            witness: true,
        };
        db.put(keys::FORMAT, record::encode_format(&newer)).unwrap();
    });
    let before = listing(dir.path());
    let error = open(dir.path(), VerifyOnOpen::Full).unwrap_err();
    assert!(
        matches!(
            error,
            Error::UnsupportedFormat {
                found: 2,
                supported: 1
            }
        ),
        "{error}"
    );
    assert_eq!(listing(dir.path()), before, "a refused store was changed");
}

/// Every file with its length, but RocksDB's own text logs.
fn listing(store: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<(String, u64)> = std::fs::read_dir(database_dir(store))
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| {
            (
                file.file_name().into_string().unwrap(),
                file.metadata().unwrap().len(),
            )
        })
        .filter(|(name, _)| !name.starts_with("LOG"))
        .collect();
    files.sort();
    files
}

#[test]
fn records_without_a_format_are_refused() {
    refused(keys::FORMAT, |db| db.delete(keys::FORMAT).unwrap());
}

#[test]
fn a_directory_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    let error = RaftStore::open(dir.path(), unsynced()).unwrap_err();
    assert!(
        matches!(error, Error::Locked { .. }) && error.is_retryable(),
        "{error}"
    );
    let clone = first.clone();
    drop(first);
    assert!(
        RaftStore::open(dir.path(), unsynced()).is_err(),
        "a clone still holds it"
    );
    drop(clone);
    RaftStore::open(dir.path(), unsynced()).unwrap();
}

#[test]
fn refused_options_touch_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut options = Options::default();
    options.memtable_bytes = 0;
    assert!(RaftStore::open(&path, options).is_err());
    assert!(!path.exists());
}

#[test]
fn a_damaged_group_does_not_keep_others_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    for id in [1, 2] {
        store.group(id).unwrap().append(&entries(1..4, 1)).unwrap();
    }
    drop(store);
    tamper(dir.path(), |db| db.delete(keys::entry(1, 2)).unwrap());
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    assert!(store.group(1).is_err());
    assert_eq!(store.group(2).unwrap().last_index(), 3);
    store.destroy_group(1).unwrap();
    assert_eq!(
        store.group(1).unwrap().last_index(),
        0,
        "destroyed without being read"
    );
}

#[test]
fn a_snapshot_that_contradicts_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    tamper(dir.path(), |db| {
        let wrong = record::SnapshotRecord {
            index: 4,
            term: 9,
            conf_state: (&conf_state(&[1])).into(),
            ..record::SnapshotRecord::default()
        };
        db.put(
            keys::meta(0, Meta::Snapshot),
            record::encode_meta(0, &wrong),
        )
        .unwrap();
    });
    let error = open(dir.path(), VerifyOnOpen::Full).unwrap_err();
    assert!(
        error.to_string().contains("snapshot of term 2 at index 4"),
        "{error}"
    );
}

#[test]
fn a_damaged_snapshot_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage
        .apply_snapshot(&snapshot(5, 2, &[1, 2], vec![7; 300_000]))
        .unwrap();
    drop(storage);
    let path = common::snapshot_files(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = open(dir.path(), VerifyOnOpen::Full).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Corruption {
                what: "snapshot file",
                ..
            }
        ),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(
        open(dir.path(), VerifyOnOpen::Bounds).is_err(),
        "a missing file"
    );
}

/// RocksDB would create a new database over what is left of the old one.
#[test]
fn a_database_that_lost_its_current_file_is_not_taken_for_a_new_one() {
    for also_its_log in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        make_store(dir.path());
        std::fs::remove_file(database_dir(dir.path()).join("CURRENT")).unwrap();
        if also_its_log {
            for log in common::wal_files(dir.path()) {
                std::fs::remove_file(log).unwrap();
            }
        }
        let error = open(dir.path(), VerifyOnOpen::Full).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::Corruption { .. }) && text.contains("CURRENT"),
            "{text}"
        );
    }
}

/// What a kill within the very first open leaves.
#[test]
fn a_first_open_that_was_cut_short_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let database = database_dir(dir.path());
    std::fs::create_dir_all(&database).unwrap();
    for name in ["MANIFEST-000001", "IDENTITY", "000001.dbtmp", "LOCK", "LOG"] {
        std::fs::write(database.join(name), "").unwrap();
    }
    RaftMachineStorage::open(dir.path(), unsynced())
        .unwrap()
        .append(&entries(1..3, 1))
        .unwrap();
}

/// Open removes files that no record names; those of a damaged group are evidence.
#[test]
fn the_files_of_a_damaged_group_are_kept() {
    for damage in [
        keys::meta(3, Meta::FirstIndex),
        keys::meta(0, Meta::FirstIndex),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = unsynced();
        options.snapshot_inline_bytes_max = 0;
        let store = RaftStore::open(dir.path(), options).unwrap();
        for id in [0, 3, 4] {
            let group = store.group(id).unwrap();
            group.append(&entries(1..10, 1)).unwrap();
            group
                .create_snapshot(5, &conf_state(&[1]), b"state")
                .unwrap();
        }
        drop(store);
        tamper(dir.path(), |db| {
            db.delete(&damage).unwrap();
            // A key that no group has must not hide the groups behind it.
            db.put(
                [&keys::meta(3, Meta::FirstIndex)[..15], b"/a"].concat(),
                "x",
            )
            .unwrap();
        });
        let store = RaftStore::open(dir.path(), unsynced()).unwrap();
        assert_eq!(store.groups().unwrap(), [0, 3, 4]);
        let damaged = if damage.starts_with(b"/raft") { 0 } else { 3 };
        assert!(store.group(damaged).is_err());
        assert_eq!(common::snapshot_files(dir.path()).len(), 3);
    }
}

/// RocksDB 11.8 reads one place for ever where it comes to a header of a recycled log in a file of
/// that format that began without: found in a MANIFEST that had got bytes it never had, which hung
/// the open (`tests/damage/`). Logs had been looked at before, MANIFESTs had not.
#[test]
fn a_manifest_that_rocksdb_would_read_for_ever_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    let database = database_dir(dir.path());
    let current = std::fs::read_to_string(database.join("CURRENT")).unwrap();
    let manifest = database.join(current.trim_end());
    let mut bytes = std::fs::read(&manifest).unwrap();
    // Checksum, length, type.
    bytes.extend([7, 7, 7, 7, 0, 0, 5]);
    std::fs::write(&manifest, bytes).unwrap();

    let (opened, outcome) = std::sync::mpsc::channel();
    let path = dir.path().to_owned();
    std::thread::spawn(move || opened.send(open(&path, VerifyOnOpen::Full).map(|_| ())));
    let outcome = outcome.recv_timeout(std::time::Duration::from_secs(60));
    let error = outcome.expect("it hangs").unwrap_err();
    assert!(matches!(error, Error::Corruption { .. }), "{error}");
    assert!(error.to_string().contains("MANIFEST"), "{error}");
}

/// RocksDB says "no such file" of it as of any other, and names none.
#[test]
fn a_current_that_names_no_file_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    for named in ["MANIFEST-000099\n", "", "/dev/zero\n"] {
        std::fs::write(database_dir(dir.path()).join("CURRENT"), named).unwrap();
        let error = open(dir.path(), VerifyOnOpen::Full).map(drop).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
        assert!(error.to_string().contains("CURRENT"), "{error}");
    }
}

fn manifest_of(dir: &Path) -> std::path::PathBuf {
    let database = database_dir(dir);
    let current = std::fs::read_to_string(database.join("CURRENT")).unwrap();
    database.join(current.trim_end())
}

/// Puts a torn write behind a MANIFEST: checksum, length and type; the payload did not come.
fn tear_manifest(dir: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let manifest = manifest_of(dir);
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes.extend([7, 7, 7, 7, 40, 0, 1]);
    bytes.extend([0; 40]);
    std::fs::write(&manifest, &bytes).unwrap();
    (manifest, bytes)
}

/// A power cut while RocksDB wrote a record to its MANIFEST: the file had got its length, and one
/// page of the two that the record was on. RocksDB 11.8 refused the store, which had lost nothing:
/// 1 of 501 cuts (`tests/power_cut/`).
#[test]
fn a_manifest_with_a_torn_write_at_its_end_opens() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    tear_manifest(dir.path());
    let storage = open(dir.path(), VerifyOnOpen::Full).unwrap();
    assert_eq!((storage.first_index(), storage.last_index()), (3, 9));
}

#[test]
fn a_refused_store_keeps_the_torn_write_of_its_manifest() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    let (manifest, bytes) = tear_manifest(dir.path());
    for file in std::fs::read_dir(database_dir(dir.path())).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "log") {
            std::fs::write(path, b"").unwrap();
        }
    }
    let error = open(dir.path(), VerifyOnOpen::Full).map(drop).unwrap_err();
    assert!(
        matches!(error, Error::AcknowledgedWritesLost { .. }),
        "{error}"
    );
    assert_eq!(std::fs::read(&manifest).unwrap(), bytes);
}

#[test]
fn a_manifest_damaged_before_whole_records_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    let manifest = manifest_of(dir.path());
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&manifest, &bytes).unwrap();
    let error = open(dir.path(), VerifyOnOpen::Full).map(drop).unwrap_err();
    assert!(error.to_string().contains("MANIFEST"), "{error}");
}
