//! A store of format 1, as it stood on disk when the format was fixed. A later version that
//! cannot read it, or that writes other bytes for the same operations, fails here.
//!
//! The fixture was written by `RAFT_ROCKS_WRITE_FIXTURE=<new directory> cargo test --test
//! format_fixture`, under the prost codec; the test runs under both. It is never written anew:
//! a new format gets a fixture of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use common::{database_dir, entries, hard_state, snapshot, unsynced};
use raft::eraftpb::{ConfState, Entry, EntryType};
use raft_rocks::record::SnapshotRecord;
use raft_rocks::rocksdb::{DB, IteratorMode, Options as RocksOptions};
use raft_rocks::{RaftStore, keys, record};

const LARGE: usize = 3000;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

fn open(dir: &Path) -> RaftStore {
    let mut options = unsynced();
    options.snapshot_inline_bytes_max = 1000;
    options.column_families = vec!["kv".to_owned()];
    RaftStore::open(dir, options).unwrap()
}

fn joint_conf_state() -> ConfState {
    let mut state = ConfState::from((vec![1, 2, 3], vec![4]));
    state.voters_outgoing = vec![1, 2, 300];
    state.learners_next = vec![300];
    state.auto_leave = true;
    state
}

/// One entry of each type, one with a context, one with the deprecated flag, one without data.
fn entries_of_every_kind() -> Vec<Entry> {
    let mut all = entries(4..9, 3);
    all[0].set_entry_type(EntryType::EntryConfChange);
    all[1].set_entry_type(EntryType::EntryConfChangeV2);
    all[2].context = b"a context".to_vec().into();
    all[3].sync_log = true;
    all[4].data = Vec::new().into();
    all
}

/// Everything the format can hold: group 0 with a joint configuration, a truncated tail and a
/// small snapshot; group 7, received by a large one. Part of it in a table file, part in the
/// log.
fn write(dir: &Path) {
    let store = open(dir);
    let zero = store.group(0).unwrap();
    zero.initialize_with_conf_state((vec![1, 2, 3], vec![]))
        .unwrap();
    zero.append(&entries(1..12, 2)).unwrap();
    zero.append(&entries_of_every_kind()).unwrap();
    zero.set_hard_state(&hard_state(3, 2, 7)).unwrap();
    drop((zero, store));

    let store = open(dir);
    let zero = store.group(0).unwrap();
    zero.set_conf_state(&joint_conf_state(), 6).unwrap();
    zero.create_snapshot(
        3,
        &ConfState::from((vec![1, 2, 3], vec![])),
        b"a small state",
    )
    .unwrap();
    zero.compact(4).unwrap();
    zero.batch()
        .put("kv", "key", "value")
        .applied(7)
        .write()
        .unwrap();
    let seven = store.group(7).unwrap();
    let received = snapshot(100, 9, &[7, 8], vec![0x5a; LARGE]);
    seven
        .batch()
        .snapshot(&received)
        .entries(&entries(101..103, 9))
        .write()
        .unwrap();
    store.close().unwrap();
}

fn check(dir: &Path) {
    let store = open(dir);
    assert_eq!(store.groups().unwrap(), [0, 7]);
    let zero = store.group(0).unwrap();
    assert_eq!(
        (zero.first_index(), zero.last_index(), zero.applied_index()),
        (4, 8, 7)
    );
    assert_eq!((zero.term(3).unwrap(), zero.uncommitted()), (2, 8..9));
    assert_eq!(zero.entries(4, 9, None).unwrap(), entries_of_every_kind());
    assert_eq!(zero.hard_state(), hard_state(3, 2, 7));
    assert_eq!(zero.conf_state(), joint_conf_state());
    let snapshot = zero.snapshot_metadata().unwrap();
    assert_eq!((snapshot.index, snapshot.term), (3, 2));
    assert_eq!(
        snapshot.get_conf_state(),
        &ConfState::from((vec![1, 2, 3], vec![]))
    );
    let family = store.database().cf_handle("kv").unwrap();
    assert_eq!(
        store.database().get_cf(&family, "key").unwrap().unwrap(),
        b"value"
    );

    let seven = store.group(7).unwrap();
    assert_eq!(
        (
            seven.first_index(),
            seven.last_index(),
            seven.term(100).unwrap()
        ),
        (101, 102, 9)
    );
    assert_eq!(seven.entries(101, 103, None).unwrap(), entries(101..103, 9));
    assert_eq!(
        (seven.hard_state().term, seven.hard_state().commit),
        (9, 100)
    );
    let mut data = Vec::new();
    seven
        .open_snapshot()
        .unwrap()
        .unwrap()
        .read_to_end(&mut data)
        .unwrap();
    assert_eq!(data, vec![0x5a; LARGE]);
}

/// Every record as it stands, but for what differs from store to store: the random id, and
/// the number in the name of a snapshot file.
fn records(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = database_dir(dir);
    let options = RocksOptions::default();
    let db = DB::open_cf_for_read_only(&options, path, ["default", "kv"], false).unwrap();
    let mut all: BTreeMap<String, Vec<u8>> = db
        .iterator(IteratorMode::Start)
        .map(|item| item.unwrap())
        .map(|(key, value)| (keys::display(&key), value.into_vec()))
        .collect();
    assert!(all.remove("/format").is_some());
    let named = all.get_mut("/group/7/raft/snapshot").unwrap();
    let mut decoded: SnapshotRecord = record::decode_meta(7, named).unwrap();
    decoded.file.as_mut().unwrap().name.clear();
    *named = record::encode_meta(7, &decoded);
    all
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap()) {
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).unwrap();
        }
    }
}

#[test]
fn a_store_of_format_1_opens_and_holds_what_was_written() {
    if let Some(dir) = std::env::var_os("RAFT_ROCKS_WRITE_FIXTURE") {
        return write(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    check(dir.path());
    check(dir.path());
}

#[test]
fn the_same_operations_still_write_the_same_records() {
    let (new, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(new.path());
    check(new.path());
    copy(&fixture(), old.path());
    let (new, old) = (records(new.path()), records(old.path()));
    assert!(old.len() >= 18, "{:?}", old.keys());
    assert_eq!(new, old);
}
