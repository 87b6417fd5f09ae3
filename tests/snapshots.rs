//! Snapshots: in the record or in a file, made here or received, whole or by reference.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::io::{Read, Write};
use std::sync::{Arc, mpsc};

use common::{conf_state, entries, hard_state, snapshot, snapshot_files, unsynced};
use raft::{Storage, StorageError};
use raft_rocks::{
    Error, Options, RaftMachineStorage, RaftStore, SnapshotPayload, SnapshotProducer,
    SnapshotReference, SnapshotRequest,
};

const LARGE: usize = 700_000;

fn by_reference() -> Options {
    let mut options = unsynced();
    options.snapshot_payload = SnapshotPayload::Reference;
    options
}

fn data(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

fn read_data(storage: &RaftMachineStorage) -> Vec<u8> {
    let mut out = Vec::new();
    storage
        .open_snapshot()
        .unwrap()
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    out
}

#[test]
fn small_and_large_data_come_back_after_reopening() {
    for len in [0, 10, LARGE] {
        let dir = tempfile::tempdir().unwrap();
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        storage.append(&entries(1..10, 2)).unwrap();
        storage
            .create_snapshot(6, &conf_state(&[1, 2]), &data(len))
            .unwrap();
        drop(storage);
        assert_eq!(
            snapshot_files(dir.path()).len(),
            usize::from(len == LARGE),
            "{len} bytes"
        );

        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        let snapshot = storage.snapshot(0, 2).unwrap();
        assert_eq!(snapshot.get_metadata().index, 6);
        assert_eq!(snapshot.get_metadata().term, 2);
        assert_eq!(
            snapshot.get_metadata().get_conf_state(),
            &conf_state(&[1, 2])
        );
        assert_eq!(&snapshot.data[..], data(len));
        assert_eq!(read_data(&storage), data(len));
    }
}

#[test]
fn a_newer_snapshot_takes_the_place_and_the_file_of_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..10, 1)).unwrap();
    storage
        .create_snapshot(3, &conf_state(&[1]), &data(LARGE))
        .unwrap();
    let first = snapshot_files(dir.path());
    storage
        .create_snapshot(5, &conf_state(&[1]), &data(LARGE + 1))
        .unwrap();
    let second = snapshot_files(dir.path());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    storage
        .create_snapshot(5, &conf_state(&[1]), b"small")
        .unwrap();
    assert!(snapshot_files(dir.path()).is_empty());
    let older = storage
        .create_snapshot(4, &conf_state(&[1]), b"")
        .unwrap_err();
    assert!(
        matches!(
            older,
            Error::SnapshotOutOfDate {
                index: 4,
                current: 5
            }
        ),
        "{older}"
    );
}

#[test]
fn refused_snapshots_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..10, 1)).unwrap();
    storage.set_hard_state(&hard_state(1, 1, 8)).unwrap();
    let old = storage
        .apply_snapshot(&snapshot(5, 1, &[1], data(LARGE)))
        .unwrap_err();
    assert!(
        matches!(
            old,
            Error::SnapshotOutOfDate {
                index: 5,
                current: 8
            }
        ),
        "{old}"
    );
    let ahead = storage
        .create_snapshot(10, &conf_state(&[1]), &data(LARGE))
        .unwrap_err();
    assert!(
        matches!(ahead, Error::Unavailable { index: 10, last: 9 }),
        "{ahead}"
    );
    let mut staged = storage.stage_snapshot(6, 9, &conf_state(&[1])).unwrap();
    staged.write_all(b"of another term").unwrap();
    assert!(
        storage
            .create_snapshot_from(staged.finish().unwrap())
            .is_err()
    );
    assert!(snapshot_files(dir.path()).is_empty());
    assert!(storage.snapshot_metadata().is_none());
}

#[test]
fn a_file_that_no_record_names_is_removed_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..10, 1)).unwrap();
    storage
        .create_snapshot(6, &conf_state(&[1]), &data(LARGE))
        .unwrap();
    drop(storage);
    // As crashes would leave them: before the rename, before the record, after destroying.
    for name in [(0, 7, ".snap.tmp"), (0, 8, ".snap"), (77, 1, ".snap")] {
        let name = format!("{:016x}-{:016x}-{:016x}-0{}", name.0, name.1, 1, name.2);
        std::fs::write(dir.path().join("snapshots").join(name), "").unwrap();
    }
    let stranger = dir.path().join("snapshots/notes.snap");
    std::fs::write(&stranger, "not ours").unwrap();
    assert_eq!(snapshot_files(dir.path()).len(), 5);

    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    assert_eq!(
        snapshot_files(dir.path()).len(),
        2,
        "{:?}",
        snapshot_files(dir.path())
    );
    assert!(stranger.exists());
    assert_eq!(read_data(&storage), data(LARGE));
}

#[test]
fn by_reference_raft_carries_a_descriptor_and_the_file_travels_apart() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let leader = RaftMachineStorage::open(from.path(), by_reference()).unwrap();
    leader.append(&entries(1..10, 3)).unwrap();
    let mut writer = leader.stage_snapshot(7, 3, &conf_state(&[1, 2])).unwrap();
    writer.write_all(&data(LARGE)).unwrap();
    leader
        .create_snapshot_from(writer.finish().unwrap())
        .unwrap();
    let message = leader.snapshot(0, 2).unwrap();
    assert!(message.data.len() < 100);
    let reference = SnapshotReference::from_bytes(&message.data).unwrap();
    assert_eq!((reference.index, reference.data_bytes), (7, LARGE as u64));

    let follower = RaftMachineStorage::open(to.path(), by_reference()).unwrap();
    let missing = follower.apply_snapshot(&message).unwrap_err();
    assert!(
        matches!(missing, Error::SnapshotNotStaged { index: 7, term: 3 }),
        "{missing}"
    );
    assert!(missing.is_retryable());

    let receive = |bytes: &[u8]| {
        let mut writer = follower.stage_snapshot(7, 3, &conf_state(&[1, 2])).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    let wrong = receive(&data(LARGE - 1));
    assert!(
        follower
            .batch()
            .snapshot(&message)
            .staged_snapshot(wrong)
            .write()
            .is_err()
    );
    assert_eq!(
        (follower.last_index(), snapshot_files(to.path()).len()),
        (0, 0),
        "nothing was kept"
    );

    let mut sent = leader.open_snapshot().unwrap().unwrap();
    assert_eq!(*sent.reference(), reference);
    let mut writer = follower.stage_snapshot(7, 3, &conf_state(&[1, 2])).unwrap();
    std::io::copy(&mut sent, &mut writer).unwrap();
    let staged = writer.finish().unwrap();
    follower
        .batch()
        .snapshot(&message)
        .staged_snapshot(staged)
        .write()
        .unwrap();
    assert_eq!((follower.first_index(), follower.last_index()), (8, 7));
    assert_eq!(read_data(&follower), data(LARGE));
}

#[test]
fn a_file_staged_for_another_group_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), by_reference()).unwrap();
    let (one, two) = (store.group(1).unwrap(), store.group(2).unwrap());
    for group in [&one, &two] {
        group.append(&entries(1..3, 1)).unwrap();
    }
    let staged = one
        .stage_snapshot(2, 1, &conf_state(&[1]))
        .unwrap()
        .finish()
        .unwrap();
    let error = two.create_snapshot_from(staged).unwrap_err();
    assert!(error.to_string().contains("staged for group 1"), "{error}");
}

struct Channel(mpsc::Sender<SnapshotRequest>);

impl SnapshotProducer for Channel {
    fn request(&self, request: SnapshotRequest) {
        self.0.send(request).unwrap();
    }
}

/// Rule 15: while one is being made raft hears "temporarily unavailable" and nothing else.
#[test]
fn a_producer_is_asked_once_until_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..10, 1)).unwrap();
    storage.set_applied(8).unwrap();
    assert_unavailable(&storage, 0);
    assert!(matches!(
        storage.compact(6),
        Err(Error::CompactUnsafe {
            to: 6,
            applied: 8,
            snapshot: 0
        })
    ));

    let (sender, requests) = mpsc::channel();
    storage.set_snapshot_producer(Some(Arc::new(Channel(sender))));
    storage.compact(6).unwrap();
    assert_unavailable(&storage, 0);
    assert_unavailable(&storage, 0);
    let request = requests.try_recv().unwrap();
    assert_eq!(
        (request.index(), request.to()),
        (5, 2),
        "no snapshot before first_index - 1 serves"
    );
    assert!(requests.try_recv().is_err(), "one request at a time");

    request
        .storage()
        .create_snapshot(8, &conf_state(&[1]), b"state")
        .unwrap();
    drop(request);
    assert_eq!(storage.snapshot(8, 2).unwrap().get_metadata().index, 8);
    assert_unavailable(&storage, 9);
    assert_eq!(requests.try_recv().unwrap().index(), 9);
    drop(storage);
    assert!(
        RaftStore::open(dir.path(), unsynced()).is_ok(),
        "a request does not keep it open"
    );
}

fn assert_unavailable(storage: &RaftMachineStorage, request_index: u64) {
    let error = storage.snapshot(request_index, 2).unwrap_err();
    assert_eq!(
        error,
        raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)
    );
}

/// Compaction past the stored snapshot makes it useless: handing it out would leave a gap.
#[test]
fn a_snapshot_older_than_the_log_is_never_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..10, 1)).unwrap();
    storage
        .create_snapshot(3, &conf_state(&[1]), b"old")
        .unwrap();
    storage.set_applied(8).unwrap();
    let (sender, _requests) = mpsc::channel();
    storage.set_snapshot_producer(Some(Arc::new(Channel(sender))));
    storage.compact(7).unwrap();
    assert_unavailable(&storage, 0);
}

/// A file is removed only when the snapshot that replaces it is in memory: a reader in between
/// took the missing file for damage.
#[test]
fn readers_beside_new_snapshots_always_find_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = unsynced();
    options.snapshot_inline_bytes_max = 0;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    storage.append(&entries(1..600, 1)).unwrap();
    storage
        .create_snapshot(1, &conf_state(&[1]), b"state")
        .unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for index in 2..600 {
                storage
                    .create_snapshot(index, &conf_state(&[1]), b"state")
                    .unwrap();
            }
        });
        while !writer.is_finished() {
            assert_eq!(read_data(&storage), b"state");
        }
    });
}

/// The file went with the group; a record that names it would make the store refuse to open.
#[test]
fn a_file_staged_before_its_group_was_destroyed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), unsynced()).unwrap();
    store.group(5).unwrap().append(&entries(1..10, 1)).unwrap();
    let stage = || {
        store
            .group(5)
            .unwrap()
            .stage_snapshot(5, 1, &conf_state(&[1]))
            .unwrap()
    };
    let staged = stage().finish().unwrap();
    store.destroy_group(5).unwrap();
    let anew = store.group(5).unwrap();
    anew.append(&entries(1..10, 1)).unwrap();
    let error = anew.create_snapshot_from(staged).unwrap_err();
    assert!(
        error.to_string().contains("its group was destroyed"),
        "{error}"
    );
    assert!(anew.snapshot_metadata().is_none());
}

/// Open removes what no record names, so nothing may be staged while it does.
#[test]
fn a_staged_file_keeps_its_store_locked() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    let staged = storage
        .stage_snapshot(5, 1, &conf_state(&[1]))
        .unwrap()
        .finish()
        .unwrap();
    drop(storage);
    assert!(matches!(
        RaftStore::open(dir.path(), unsynced()),
        Err(Error::Locked { .. })
    ));
    drop(staged);
    RaftStore::open(dir.path(), unsynced()).unwrap();
}

struct LastWill(RaftMachineStorage);

impl SnapshotProducer for LastWill {
    fn request(&self, _request: SnapshotRequest) {}
}

impl Drop for LastWill {
    fn drop(&mut self) {
        self.0.compact(1).unwrap();
    }
}

/// It was dropped under the lock that its last call needs.
#[test]
fn a_producer_may_use_the_storage_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.set_snapshot_producer(Some(Arc::new(LastWill(storage.clone()))));
    storage.set_snapshot_producer(None);
}
