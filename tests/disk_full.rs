//! A disk that fills up under a store, on small file systems: what could not be written is not
//! acknowledged, the store opens while the disk is full, votes and compacts, and goes on when
//! there is room again.
//!
//! `RAFT_ROCKS_FULL_ROUNDS` scales it (1 on each file system), `RAFT_ROCKS_SEED` replays it,
//! `RAFT_ROCKS_FULL_MEMTABLE` fixes the memtable's bytes, with a reserve as large and a disk of
//! twelve times as much. Needs root, ext4 and loop devices; says so where they are missing, and
//! fails under `CI=true`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;
#[path = "common/disk.rs"]
mod disk;

use std::os::unix::fs::MetadataExt;

use common::groups::Group;
use common::workload::{Expected, Workload};
use common::{conf_state, entry, hard_state, report};
use disk::Disk;
use raft_rocks::{Error, Options, RaftMachineStorage, RaftStore};

const GROUPS: u64 = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}

fn memtable_bytes() -> Option<u64> {
    number("RAFT_ROCKS_FULL_MEMTABLE")
}

fn reserve_bytes() -> u64 {
    memtable_bytes().unwrap_or(4 << 20)
}

fn disk_bytes() -> u64 {
    memtable_bytes().map_or(64 << 20, |bytes| 12 * bytes)
}

fn options(memtable: usize) -> Options {
    let mut options = Options::default();
    options.memtable_bytes = memtable_bytes().map_or(memtable, |bytes| bytes as usize);
    options.reserve_bytes = reserve_bytes();
    options
}

/// What the reserve takes of the disk.
fn reserved(disk: &Disk) -> u64 {
    let file = std::fs::metadata(disk.store().join("reserve"));
    file.map_or(0, |file| file.blocks() * 512)
}

fn groups(seed: u64) -> Vec<Group> {
    // Without snapshot files: one that cannot be written is refused without harm, and it is
    // the failed write of the log that is looked for.
    let workload = |id: u64| Workload::new(seed ^ (id << 32), false);
    (0..GROUPS).map(|id| Group::new(id, workload(id))).collect()
}

/// Writes until the disk is full. Returns how many writes of each group were acknowledged.
fn write_until_full(store: &RaftStore, seed: u64) -> Vec<u64> {
    let mut groups = groups(seed);
    let mut acknowledged = vec![0; groups.len()];
    loop {
        for (n, group) in groups.iter_mut().enumerate() {
            let storage = store.group(group.id).unwrap();
            let last = storage.last_index();
            let op = group.workload.next();
            if let Err(e) = op.perform(&storage) {
                assert!(e.is_fatal(), "{e}");
                assert_eq!(storage.last_index(), last, "memory follows disk");
                check_poisoned(store);
                return acknowledged;
            }
            acknowledged[n] += 1;
        }
    }
}

fn check_poisoned(store: &RaftStore) {
    let poisoned = |result: raft_rocks::Result<()>| matches!(result, Err(Error::Poisoned { .. }));
    assert!(poisoned(store.sync()));
    for group in 0..GROUPS {
        let storage = store.group(group).unwrap();
        assert!(poisoned(storage.set_hard_state(&hard_state(1 << 40, 1, 0))));
    }
}

/// A vote, and a compaction of all that is committed, in each group.
fn vote_and_compact(storage: &RaftMachineStorage) {
    let mut vote = storage.hard_state();
    vote.term += 1;
    vote.vote = 2;
    storage.set_hard_state(&vote).unwrap();
    let commit = vote.commit;
    let of_snapshot = storage
        .snapshot_metadata()
        .map_or(0, |snapshot| snapshot.index);
    if commit > of_snapshot {
        let voters = conf_state(&[1, 2, 3]);
        storage.create_snapshot(commit, &voters, &[7; 5]).unwrap();
        storage.compact(commit + 1).unwrap();
        assert_eq!(storage.first_index(), commit + 1);
    }
    assert_eq!(storage.hard_state(), vote);
}

fn contents(store: &RaftStore) -> Vec<Expected> {
    let found = |id| Expected::found_in(&store.group(id).unwrap());
    (0..GROUPS).map(found).collect()
}

/// A store's life on one disk: it fills up, is opened full, and has room again.
fn live(disk: &Disk, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let options = options([64 << 10, 512 << 10, 1 << 20][random.usize(..3)]);
    let open = || RaftStore::open(disk.store(), options.clone());

    let store = open().unwrap();
    assert!(reserved(disk) >= reserve_bytes());
    let filled = disk.fill();
    disk.make_room(filled - random.u64(..reserve_bytes() / 2 * 3));
    let acknowledged = write_until_full(&store, seed);
    drop(store);

    disk.fill();
    assert!(reserved(disk) >= reserve_bytes(), "kept until it is needed");
    let store = open().unwrap();
    assert_eq!(reserved(disk), 0, "it made the room");
    for (mut group, acknowledged) in groups(seed).into_iter().zip(acknowledged) {
        let place = group.check(&store, acknowledged, 1).unwrap().unwrap();
        assert!(place.done >= acknowledged, "group {}: lost", group.id);
        vote_and_compact(&store.group(group.id).unwrap());
    }
    let before = contents(&store);
    drop(store);

    disk.fill();
    let error = open().unwrap_err();
    match &error {
        Error::NoSpace { needed, free } => assert!(free < needed, "{error}"),
        _ => panic!("{error:?}"),
    }
    assert!(error.is_retryable());

    disk.make_room(0);
    let store = open().unwrap();
    assert!(reserved(disk) >= reserve_bytes(), "made again");
    assert_eq!(contents(&store), before);
    for group in 0..GROUPS {
        let storage = store.group(group).unwrap();
        let (next, term) = (storage.last_index() + 1, storage.hard_state().term);
        storage.append(&[entry(next, term, "after")]).unwrap();
    }
    store.close().unwrap();
}

fn on(name: &str, disk: impl Fn() -> Result<Disk, String>, check: impl Fn(&Disk, u64)) {
    let seed = number("RAFT_ROCKS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("RAFT_ROCKS_SEED={seed}");
    let rounds = number("RAFT_ROCKS_FULL_ROUNDS").unwrap_or(1);
    for round in 0..rounds {
        report::progress(round, rounds);
        match disk() {
            Ok(disk) => check(&disk, seed.wrapping_add(round)),
            Err(lacking) => {
                let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(
                    !ci,
                    "a full disk needs root, {name} and loop devices: {lacking}"
                );
                eprintln!("NOT RUN: needs root, {name} and loop devices: {lacking}");
                return;
            }
        }
    }
    // A violation has ended the test.
    report::figures(&[("disk_full_runs", rounds), ("disk_full_violations", 0)]);
    eprintln!("{name}: disk_full_runs={rounds} disk_full_violations=0");
}

#[test]
fn a_store_lives_through_a_full_ext4() {
    on("ext4", || Disk::ext4(disk_bytes()), live);
}

#[test]
fn a_store_lives_through_a_full_tmpfs() {
    on("tmpfs", || Disk::tmpfs(disk_bytes()), live);
}

/// What the reserve is for: without one the store is refused until there is room.
#[test]
fn without_a_reserve_a_full_disk_refuses_and_loses_nothing() {
    let check = |disk: &Disk, seed| {
        let mut options = options(64 << 10);
        options.reserve_bytes = 0;
        let store = RaftStore::open(disk.store(), options.clone()).unwrap();
        assert_eq!(reserved(disk), 0);
        let filled = disk.fill();
        disk.make_room(filled - (1 << 20));
        let acknowledged = write_until_full(&store, seed);
        drop(store);
        disk.fill();
        let error = RaftStore::open(disk.store(), options.clone()).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
        disk.make_room(0);
        let store = RaftStore::open(disk.store(), options).unwrap();
        for (mut group, acknowledged) in groups(seed).into_iter().zip(acknowledged) {
            let place = group.check(&store, acknowledged, 1).unwrap().unwrap();
            assert!(place.done >= acknowledged, "group {}: lost", group.id);
        }
    };
    on("ext4", || Disk::ext4(disk_bytes()), check);
}

/// A node that is not restarted gets its reserve back as well.
#[test]
fn the_reserve_comes_back_after_a_compaction() {
    let check = |disk: &Disk, _| {
        let open = || RaftStore::open(disk.store(), options(64 << 10)).unwrap();
        drop(open());
        disk.fill();
        let store = open();
        assert_eq!(reserved(disk), 0);
        let storage = store.group(0).unwrap();
        storage
            .append(&[entry(1, 1, "one"), entry(2, 1, "two")])
            .unwrap();
        let voters = conf_state(&[1]);
        storage.set_hard_state(&hard_state(1, 1, 2)).unwrap();
        storage.create_snapshot(1, &voters, b"state").unwrap();
        disk.make_room(0);
        assert_eq!(reserved(disk), 0, "nobody has looked yet");
        storage.compact(2).unwrap();
        assert!(reserved(disk) >= reserve_bytes());
    };
    on("ext4", || Disk::ext4(disk_bytes()), check);
}

/// Room that would be missed is not taken.
#[test]
fn no_reserve_is_made_on_a_disk_that_is_nearly_full() {
    let check = |disk: &Disk, _| {
        let filled = disk.fill();
        disk.make_room(filled - reserve_bytes());
        let store = RaftStore::open(disk.store(), options(64 << 10)).unwrap();
        assert_eq!(reserved(disk), 0);
        store
            .group(0)
            .unwrap()
            .append(&[entry(1, 1, "one")])
            .unwrap();
    };
    on("tmpfs", || Disk::tmpfs(disk_bytes()), check);
}
