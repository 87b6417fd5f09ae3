//! After a failed write nothing is acknowledged any more, until the store is opened again.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::{entries, hard_state, unsynced, unwritable};
use raft_rocks::{Error, RaftMachineStorage};

#[test]
fn a_failed_write_poisons_the_store_and_reopening_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..4, 1)).unwrap();
    drop(storage);

    let store = unwritable(dir.path(), unsynced());
    let (one, two) = (store.group(0).unwrap(), store.group(2).unwrap());

    let first = one.append(&entries(4..6, 1)).unwrap_err();
    assert!(
        matches!(first, Error::Rocks { op: "write", .. }) && first.is_fatal(),
        "{first}"
    );
    assert_eq!(
        (one.last_index(), one.persisted_index()),
        (3, 3),
        "memory follows disk"
    );
    assert_eq!(one.entries(1, 4, None).unwrap().len(), 3, "reads go on");

    let poisoned = |error: Error| matches!(error, Error::Poisoned { .. });
    assert!(
        poisoned(one.append(&entries(4..6, 1)).unwrap_err()),
        "the same write again"
    );
    assert!(
        poisoned(one.set_hard_state(&hard_state(2, 1, 0)).unwrap_err()),
        "a vote"
    );
    assert!(
        poisoned(two.append(&entries(1..2, 1)).unwrap_err()),
        "another group"
    );
    assert!(poisoned(store.sync().unwrap_err()), "a sync");
    assert!(poisoned(store.destroy_group(2).unwrap_err()));
    let named = one.set_commit(2).unwrap_err().to_string();
    assert!(named.contains("read only"), "the cause is named: {named}");
    drop((one, two, store));

    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(4..6, 1)).unwrap();
    assert_eq!(storage.last_index(), 5);
}
