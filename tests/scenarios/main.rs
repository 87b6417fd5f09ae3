//! Scenarios that storage under raft-rs usually gets wrong, each by itself. Those that need
//! failing I/O or a full disk are `tests/io_faults/` and `tests/disk_full.rs`; docs/testing.md
//! has the list.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod crash_states;
#[path = "../common/scratch.rs"]
mod scratch;

use std::cell::Cell;

use cluster::{Cluster, Node, count};
use common::{entries, entry, hard_state, snapshot, tamper, unsynced, wal_files};
use raft::eraftpb::ConfChangeType;
use raft_rocks::{Error, FsyncPolicy, RaftMachineStorage, RaftStore, keys};

/// A follower acknowledged entries, and its newest log is gone. raft-rs would be told a commit
/// past its last index and panic, again after each restart; a vote may be forgotten too. It is
/// refused, and a new node takes its place.
#[test]
fn scenario_1_a_follower_that_lost_an_acknowledged_suffix_stays_out_and_is_replaced() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.leader();
    cluster.increment(20);
    let lame = *cluster
        .nodes
        .iter()
        .find(|(_, node)| !node.is_leader())
        .unwrap()
        .0;
    cluster.stop(lame);
    let newest = wal_files(&cluster.dir(lame)).pop().unwrap();
    std::fs::remove_file(newest).unwrap();
    let refused = cluster.start(lame, &[]).unwrap_err();
    assert!(
        matches!(refused, Error::AcknowledgedWritesLost { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("new id"), "{refused}");
    assert!(refused.is_fatal() && !refused.is_retryable());

    // The way back that the error names.
    cluster.change(ConfChangeType::RemoveNode, lame);
    cluster.change(ConfChangeType::AddLearnerNode, 4);
    cluster.leader().snapshot();
    cluster.start(4, &[]).unwrap();
    cluster.until("the new node has caught up", |c| {
        count(&c.nodes[&4].storage) == 20
    });
    cluster.change(ConfChangeType::AddNode, 4);
    cluster.increment(5);
    cluster.until("all have counted alike", |c| {
        c.nodes.values().all(|node| count(&node.storage) == 25)
    });
}

/// A log with an entry missing in its middle would be served with the wrong entries, or end the
/// node in an assertion long after.
#[test]
fn scenario_2_a_hole_in_the_log_is_refused_and_its_index_named() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..31, 1)).unwrap();
    let store = storage.store().clone();
    drop(storage);
    store.close().unwrap();
    tamper(dir.path(), |rocks| {
        rocks.delete(keys::entry(0, 17)).unwrap();
        rocks.flush_wal(true).unwrap();
    });
    let refused = RaftMachineStorage::open(dir.path(), unsynced()).unwrap_err();
    assert!(matches!(refused, Error::Corruption { .. }), "{refused}");
    assert!(refused.to_string().contains("/raft/entry/17"), "{refused}");
}

fn group(store: &RaftStore) -> RaftMachineStorage {
    store.group(0).unwrap()
}

/// Log, states and snapshot change together or not at all; a file that no record names yet goes.
#[test]
fn scenario_5_a_crash_at_any_step_of_a_snapshot_install_leaves_the_old_log_or_the_new_one() {
    let (old, new) = (Cell::new(0), Cell::new(0));
    let before = |store: &RaftStore| {
        let storage = group(store);
        let batch = storage.batch().hard_state(&hard_state(1, 2, 20));
        // Past the snapshot too: nothing of that may stay.
        batch
            .entries(&entries(1..141, 1))
            .applied(15)
            .write()
            .unwrap();
        storage
            .create_snapshot(10, &common::conf_state(&[1, 2, 3]), b"old")
            .unwrap();
    };
    let installed = snapshot(100, 7, &[1, 2, 3], vec![5; 200_000]);
    let install = |store: &RaftStore| {
        let storage = group(store);
        // A log ends where another follows: entries behind the snapshot come with it.
        let batch = storage.batch().snapshot(&installed);
        batch.entries(&entries(101..105, 7)).write().unwrap();
    };
    crash_states::each(&unsynced(), before, install, |dir| {
        let storage = RaftMachineStorage::open(dir, unsynced()).unwrap();
        let (first, last) = (storage.first_index(), storage.last_index());
        let applied = storage.applied_index();
        assert!(
            first <= applied + 1 && applied <= last,
            "{first} {applied} {last}"
        );
        let files = common::snapshot_files(dir).len();
        let metadata = storage.snapshot_metadata().unwrap();
        if metadata.index == 10 {
            assert_eq!((first, last, applied, files), (1, 140, 15, 0));
            assert_eq!(storage.hard_state(), hard_state(1, 2, 20));
            old.set(old.get() + 1);
        } else {
            assert_eq!((first, last, applied, files), (101, 104, 100, 1));
            assert_eq!(storage.hard_state(), hard_state(7, 0, 100));
            assert_eq!(storage.term(100).unwrap(), 7);
            new.set(new.get() + 1);
        }
        let read = storage.entries(first, last + 1, None).unwrap();
        assert_eq!(read.len() as u64, last + 1 - first, "no gap");
    });
    assert!(old.get() > 10 && new.get() > 0, "{old:?} {new:?}");
}

/// Entries of the old leader behind the new tail would come back as if they had been accepted.
#[test]
fn scenario_6_a_crash_in_a_conflict_truncation_brings_no_old_entry_back_behind_the_new_tail() {
    let (old, new) = (Cell::new(0), Cell::new(0));
    let before = |store: &RaftStore| {
        let batch = group(store);
        let batch = batch.batch().hard_state(&hard_state(1, 1, 5));
        batch.entries(&entries(1..141, 1)).write().unwrap();
    };
    // Far enough back for a range deletion.
    let conflict = |store: &RaftStore| {
        let storage = group(store);
        let batch = storage.batch().hard_state(&hard_state(2, 2, 5));
        batch.entries(&entries(10..13, 2)).write().unwrap();
    };
    crash_states::each(&unsynced(), before, conflict, |dir| {
        let storage = RaftMachineStorage::open(dir, unsynced()).unwrap();
        let last = storage.last_index();
        let (expected, terms) = match last {
            140 => (
                hard_state(1, 1, 5),
                (10..=140).map(|_| 1).collect::<Vec<_>>(),
            ),
            12 => (hard_state(2, 2, 5), vec![2; 3]),
            other => panic!("a log that never was: it ends at {other}"),
        };
        assert_eq!(storage.hard_state(), expected);
        let read = storage.entries(10, last + 1, None).unwrap();
        assert_eq!(read.iter().map(|e| e.term).collect::<Vec<_>>(), terms);
        // Growing over the old tail shows nothing of it either.
        storage.append(&[entry(last + 1, 3, "next")]).unwrap();
        assert_eq!(storage.last_index(), last + 1);
        assert!(storage.entries(last + 2, last + 3, None).is_err());
        let seen = if last == 140 { &old } else { &new };
        seen.set(seen.get() + 1);
    });
    assert!(old.get() > 5 && new.get() > 0, "{old:?} {new:?}");
}

/// The count and the applied index are one write: restarted from any crash, the node applies the
/// rest of the log once.
#[test]
fn scenario_7_a_crash_between_applying_and_recording_it_applies_nothing_twice() {
    const INCREMENTS: u64 = 12;
    let before = |store: &RaftStore| {
        group(store)
            .initialize_with_conf_state((vec![1], vec![]))
            .unwrap();
    };
    let live = |store: &RaftStore| {
        let mut node = Node::on(1, group(store));
        node.campaign();
        node.handle_readies();
        for _ in 0..INCREMENTS {
            node.increment();
            node.handle_readies();
        }
        assert_eq!(count(&node.storage), INCREMENTS);
    };
    let (states, partly) = (Cell::new(0), Cell::new(0));
    let mut options = cluster::options();
    options.fsync = FsyncPolicy::Never;
    crash_states::each(&options, before, live, |dir| {
        let mut node = Node::open(1, dir, &[], options.clone()).unwrap();
        let applied = node.storage.applied_index();
        let counted = count(&node.storage);
        assert_eq!(
            counted,
            applied.saturating_sub(1),
            "the first entry is the leader's own"
        );
        let accepted = node.storage.last_index();
        node.campaign();
        node.handle_readies();
        // All that was in the log is committed by the new leader, and counted once.
        assert_eq!(count(&node.storage), accepted.saturating_sub(1));
        states.set(states.get() + 1);
        partly.set(partly.get() + u64::from(counted + 1 < accepted));
    });
    assert!(
        states.get() > 20 && partly.get() > 5,
        "{states:?} {partly:?}"
    );
}
