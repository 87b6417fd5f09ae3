//! Entries for followers that lag are fetched beside raft's thread.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

mod common;

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};

use common::{entries, unsynced};
use raft::eraftpb::Entry;
use raft::{Error, GetEntriesContext, Storage, StorageError};
use raft_rocks::{RaftMachineStorage, RaftStore};

/// A storage whose cache is empty, and what its notifier is told.
fn cold(dir: &std::path::Path, upto: u64) -> (RaftMachineStorage, Receiver<GetEntriesContext>) {
    let mut options = unsynced();
    options.entry_cache_bytes = 0;
    let store = RaftStore::open(dir, options).unwrap();
    let storage = store.group(0).unwrap();
    storage.append(&entries(1..upto + 1, 1)).unwrap();
    let (told, fetched) = mpsc::channel();
    let notify = Arc::new(move |context| told.send(context).unwrap_or_default());
    storage.set_async_fetch(Some(notify)).unwrap();
    (storage, fetched)
}

fn ask(storage: &RaftMachineStorage, low: u64, high: u64) -> Option<Vec<Entry>> {
    match Storage::entries(storage, low, high, None, GetEntriesContext::empty(true)) {
        Ok(entries) => Some(entries),
        Err(Error::Store(StorageError::LogTemporarilyUnavailable)) => None,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_cold_read_is_answered_once_it_was_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, fetched) = cold(dir.path(), 20);
    assert_eq!(ask(&storage, 3, 10), None);
    assert!(fetched.recv().unwrap().can_async());
    assert_eq!(ask(&storage, 3, 10), Some(entries(3..10, 1)));
    assert_eq!(
        ask(&storage, 3, 10),
        None,
        "answered once, then fetched anew"
    );
    fetched.recv().unwrap();
    assert_eq!(
        ask(&storage, 3, 5),
        Some(entries(3..5, 1)),
        "less was asked"
    );
}

#[test]
fn a_read_that_cannot_wait_or_is_cached_is_answered_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, fetched) = cold(dir.path(), 20);
    let context = GetEntriesContext::empty(false);
    let read = Storage::entries(&storage, 3, 10, None, context).unwrap();
    assert_eq!(read, entries(3..10, 1));
    drop((storage, fetched));

    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    let (told, fetched) = mpsc::channel();
    let notify = Arc::new(move |context| told.send(context).unwrap_or_default());
    storage.set_async_fetch(Some(notify)).unwrap();
    storage.append(&entries(21..25, 1)).unwrap();
    assert_eq!(ask(&storage, 21, 25), Some(entries(21..25, 1)));
    assert_eq!(ask(&storage, 20, 25), None, "the first of them is cold");
    fetched.recv().unwrap();
    storage.set_async_fetch(None).unwrap();
    assert_eq!(ask(&storage, 20, 25), Some(entries(20..25, 1)));
}

#[test]
fn what_was_replaced_since_it_was_fetched_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, fetched) = cold(dir.path(), 20);
    assert_eq!(ask(&storage, 3, 10), None);
    fetched.recv().unwrap();
    storage.append(&entries(5..12, 2)).unwrap();
    let read = ask(&storage, 3, 10).unwrap();
    assert_eq!(read, [entries(3..5, 1), entries(5..10, 2)].concat());
}

#[test]
fn what_was_compacted_since_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, fetched) = cold(dir.path(), 20);
    assert_eq!(ask(&storage, 3, 10), None);
    fetched.recv().unwrap();
    storage
        .create_snapshot(15, &common::conf_state(&[1]), b"")
        .unwrap();
    storage.compact(12).unwrap();
    let context = GetEntriesContext::empty(true);
    let refused = Storage::entries(&storage, 3, 10, None, context).unwrap_err();
    assert!(matches!(refused, Error::Store(StorageError::Compacted)));
}

#[test]
fn a_fetch_that_fails_is_reported_and_the_read_tells_why() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, fetched) = cold(dir.path(), 20);
    let damaged = raft_rocks::keys::entry(0, 6);
    storage.store().database().delete(damaged).unwrap();
    assert_eq!(ask(&storage, 3, 10), None);
    fetched.recv().unwrap();
    let context = GetEntriesContext::empty(true);
    let error = Storage::entries(&storage, 3, 10, None, context).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

/// The panic once ended the thread that reads for all groups: nobody's answer came any more.
#[test]
fn a_notifier_that_panics_stops_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = cold(dir.path(), 20);
    let other = storage.store().group(1).unwrap();
    other.append(&entries(1..9, 1)).unwrap();
    let (told, fetched) = mpsc::channel();
    let notify = Arc::new(move |context| told.send(context).unwrap_or_default());
    other.set_async_fetch(Some(notify)).unwrap();
    let panics = Arc::new(|_| panic!("on purpose"));
    storage.set_async_fetch(Some(panics)).unwrap();
    assert_eq!(ask(&storage, 3, 10), None);
    assert_eq!(ask(&other, 2, 5), None);
    fetched.recv().unwrap();
    assert_eq!(ask(&other, 2, 5), Some(entries(2..5, 1)));
}

#[test]
fn more_fetches_than_are_kept_are_read_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = cold(dir.path(), 100);
    let (entered, inside) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let notify = move |_| {
        entered.send(()).unwrap_or_default();
        let _ = released.lock().unwrap().recv();
    };
    storage.set_async_fetch(Some(Arc::new(notify))).unwrap();
    assert_eq!(ask(&storage, 1, 3), None);
    inside.recv().unwrap();
    // The fetching thread is held in the notifier: the next ones stay under way.
    let (mut later, mut low) = (0, 2);
    let read = loop {
        match ask(&storage, low, low + 2) {
            None => later += 1,
            Some(read) => break read,
        }
        low += 1;
    };
    assert_eq!(later, 16, "the answered one made room");
    assert_eq!(read, entries(low..low + 2, 1));
    drop(release);
    for _ in 0..later {
        inside.recv().unwrap();
    }
    assert_eq!(ask(&storage, 5, 7), Some(entries(5..7, 1)));
}

#[test]
fn the_store_closes_although_fetches_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, fetched) = cold(dir.path(), 100);
    for low in 1..17 {
        assert_eq!(ask(&storage, low, 90), None);
    }
    drop((storage, fetched));
    RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
}
