//! The group commit: writes of all groups become one, syncs cover several, callbacks come in
//! order, and a failure reaches everyone who waits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

mod common;

use std::sync::Barrier;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use common::{entries, entry, hard_state, unsynced, unwritable};
use raft::eraftpb::Snapshot;
use raft_rocks::{Error, FsyncPolicy, Options, RaftMachineStorage, RaftStore, Result};

fn counted() -> Options {
    let mut options = Options::default();
    options.statistics = true;
    options
}

/// A callback that reports what it was told, and how to hear of it.
fn report() -> (
    impl FnOnce(Result<()>) + Send + 'static,
    Receiver<Result<()>>,
) {
    let (told, reports) = mpsc::channel();
    let callback = move |result| told.send(result).unwrap_or_default();
    (callback, reports)
}

/// Holds up acknowledgements until the sender is dropped; returns once it does.
fn hold_up(storage: &RaftMachineStorage) -> Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (reached, at_it) = mpsc::channel();
    let held = move |_: Result<()>| {
        reached.send(()).unwrap();
        // An error: the sender is gone, which is what this waits for.
        let _ = released.recv();
    };
    storage.batch().must_sync(true).submit(held).unwrap();
    at_it.recv().unwrap();
    release
}

#[test]
fn a_lone_caller_writes_and_syncs_itself() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    for index in 1..11 {
        storage.append(&[entry(index, 1, "x")]).unwrap();
    }
    let stats = storage.store().commit_stats();
    assert_eq!(
        (stats.writes, stats.batches, stats.inline, stats.syncs),
        (10, 10, 10, 10)
    );
}

#[test]
fn blocking_calls_of_many_groups_share_batches_and_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), counted()).unwrap();
    let (threads, mut next) = (16, 1);
    // One round is enough in practice; which calls meet is the scheduler's choice.
    while store.commit_stats().batches == store.commit_stats().writes
        || store.commit_stats().syncs == store.commit_stats().writes
    {
        let start = Barrier::new(threads);
        thread::scope(|scope| {
            for group in 0..threads as u64 {
                let (storage, start) = (store.group(group).unwrap(), &start);
                scope.spawn(move || {
                    start.wait();
                    for index in next..next + 20 {
                        storage.append(&[entry(index, 1, "x")]).unwrap();
                        assert_eq!(storage.persisted_index(), index, "acknowledged is durable");
                    }
                });
            }
        });
        next += 20;
    }
    drop(store);
    let store = RaftStore::open(dir.path(), counted()).unwrap();
    for group in 0..threads as u64 {
        assert_eq!(store.group(group).unwrap().last_index(), next - 1);
    }
}

#[test]
fn blocking_and_submitted_writes_of_a_group_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    let release = hold_up(&storage);
    let (callback, submitted) = report();
    let first = entries(1..4, 1);
    storage.batch().entries(&first).submit(callback).unwrap();
    assert_eq!(storage.last_index(), 3);
    let blocking = thread::spawn({
        let storage = storage.clone();
        move || storage.append(&entries(3..6, 2))
    });
    drop(release);
    submitted.recv().unwrap().unwrap();
    blocking.join().unwrap().unwrap();
    let terms = |storage: &RaftMachineStorage| {
        let read = storage.entries(1, 6, None).unwrap();
        read.iter().map(|entry| entry.term).collect::<Vec<_>>()
    };
    assert_eq!(terms(&storage), [1, 1, 2, 2, 2]);
    drop(storage);
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    assert_eq!(terms(&storage), [1, 1, 2, 2, 2]);
}

#[test]
fn what_waits_together_is_written_and_synced_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), Options::default()).unwrap();
    let release = hold_up(&store.group(0).unwrap());
    let (told, reports) = mpsc::channel();
    let submit = |index| {
        for group in 1..101 {
            let (storage, told) = (store.group(group).unwrap(), told.clone());
            let callback = move |result: Result<()>| told.send((group, result)).unwrap();
            let append = entries(index..index + 1, 1);
            storage.batch().entries(&append).submit(callback).unwrap();
        }
    };
    submit(1);
    assert_eq!(
        store.backlog().writes,
        100,
        "behind the one that is held up"
    );
    drop(release);
    let mut index = 1;
    loop {
        for expected in 1..101 {
            let (group, result) = reports.recv().unwrap();
            result.unwrap();
            assert_eq!(group, expected, "in the order of submission");
        }
        // One round is enough in practice; which writes meet is the scheduler's choice.
        let stats = store.commit_stats();
        assert_eq!(stats.writes, 1 + 100 * index);
        if stats.batches < stats.writes && stats.syncs < stats.writes {
            break;
        }
        index += 1;
        submit(index);
    }
}

#[test]
fn every_acknowledgement_of_a_submitted_write_follows_a_sync_that_covers_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), counted()).unwrap();
    let storage = store.group(3).unwrap();
    for index in 1..50 {
        let syncs = store.counters().unwrap().wal_syncs;
        let (callback, reports) = report();
        let append = [entry(index, 1, "x")];
        storage.batch().entries(&append).submit(callback).unwrap();
        reports.recv().unwrap().unwrap();
        assert!(store.counters().unwrap().wal_syncs > syncs, "entry {index}");
        assert_eq!(storage.persisted_index(), index);
    }
}

#[test]
fn what_is_submitted_is_readable_and_not_yet_persisted() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    // Pinned entries are held even so.
    options.entry_cache_bytes = 0;
    let storage = RaftMachineStorage::open(dir.path(), options.clone()).unwrap();
    storage.append(&entries(1..6, 1)).unwrap();
    let release = hold_up(&storage);
    let (callback, reports) = report();
    let tail = entries(4..9, 2);
    let state = hard_state(2, 1, 3);
    let batch = storage.batch().entries(&tail).hard_state(&state);
    batch.submit(callback).unwrap();
    assert_eq!((storage.last_index(), storage.persisted_index()), (8, 3));
    assert_eq!(storage.term(5).unwrap(), 2);
    assert_eq!(storage.hard_state(), state);
    let read = storage.entries(1, 9, None).unwrap();
    assert_eq!(read[..3], entries(1..4, 1)[..]);
    assert_eq!(read[3..], tail[..]);
    drop(release);
    reports.recv().unwrap().unwrap();
    assert_eq!((storage.last_index(), storage.persisted_index()), (8, 8));
    assert_eq!(
        storage.entries(1, 9, None).unwrap(),
        read,
        "from the disk now"
    );
}

#[test]
fn a_write_that_needs_no_sync_waits_for_those_before_it_and_costs_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path(), Options::default()).unwrap();
    let storage = store.group(0).unwrap();
    storage.append(&entries(1..6, 1)).unwrap();
    let release = hold_up(&storage);
    let syncs = store.commit_stats().syncs;
    let (told, reports) = mpsc::channel();
    let callback = |name: &'static str| {
        let told = told.clone();
        move |result: Result<()>| told.send((name, result)).unwrap()
    };
    let append = entries(6..7, 1);
    let synced = storage.batch().entries(&append);
    synced.submit(callback("entries")).unwrap();
    storage
        .batch()
        .commit(3)
        .submit(callback("commit"))
        .unwrap();
    storage.batch().submit(callback("nothing")).unwrap();
    drop(release);
    let order: Vec<_> = (0..3).map(|_| reports.recv().unwrap().0).collect();
    assert_eq!(order, ["entries", "commit", "nothing"]);
    assert_eq!(store.commit_stats().syncs - syncs, 1);
    storage.batch().commit(4).submit(callback("alone")).unwrap();
    reports.recv().unwrap().1.unwrap();
    assert_eq!(store.commit_stats().syncs - syncs, 1, "nothing to wait for");
}

#[test]
fn an_unsynced_write_waits_for_no_sync_and_no_acknowledgement_and_keeps_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.column_families = vec!["application".to_owned()];
    let store = RaftStore::open(dir.path(), options).unwrap();
    let storage = store.group(0).unwrap();
    // From here on nobody is acknowledged, and the thread that writes and syncs is held.
    let release = hold_up(&storage);
    let (callback, reports) = report();
    let append = entries(1..6, 1);
    let submitted = storage.batch().entries(&append);
    submitted.submit(callback).unwrap();
    let (wrote, written) = mpsc::channel();
    let (other, own) = (store.group(1).unwrap(), storage.clone());
    let writer = thread::spawn(move || {
        let put = other.batch().put("application", "key", "value");
        put.write_unsynced().unwrap();
        let applied = own.batch().applied(5).put("application", "k", "v");
        applied.write_unsynced().unwrap();
        wrote.send(()).unwrap();
    });
    let waited = written.recv_timeout(Duration::from_secs(60));
    waited.expect("it does not wait for who is held up");
    assert_eq!(storage.applied_index(), 5);
    assert_eq!(storage.persisted_index(), 0, "the entries wait for theirs");
    let family = store.database().cf_handle("application").unwrap();
    let read = |key: &str| store.database().get_cf(&family, key).unwrap().unwrap();
    assert_eq!((read("k"), read("key")), (b"v".to_vec(), b"value".to_vec()));
    drop(release);
    reports.recv().unwrap().unwrap();
    assert_eq!(storage.persisted_index(), 5);
    writer.join().unwrap();
}

#[test]
fn what_raft_promises_is_not_written_without_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    let (append, vote) = (entries(1..2, 1), hard_state(5, 2, 0));
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().index = 5;
    snapshot.mut_metadata().term = 1;
    let refused = [
        storage.batch().snapshot(&snapshot).write_unsynced(),
        storage.batch().entries(&append).write_unsynced(),
        storage.batch().hard_state(&vote).write_unsynced(),
        storage.batch().applied(0).must_sync(true).write_unsynced(),
    ];
    for result in refused {
        assert!(matches!(result.unwrap_err(), Error::InvalidBatch { .. }));
    }
    assert_eq!((storage.last_index(), storage.hard_state().term), (0, 0));
}

#[test]
fn an_unsynced_write_that_fails_tells_why_and_stops_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..4, 1)).unwrap();
    drop(storage);
    let store = unwritable(dir.path(), unsynced());
    let storage = store.group(0).unwrap();
    let failed = storage.batch().applied(2).write_unsynced().unwrap_err();
    assert!(
        matches!(failed, Error::Rocks { op: "write", .. }),
        "{failed}"
    );
    let refused = storage.batch().applied(3).write_unsynced().unwrap_err();
    assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
}

/// `set_hard_state` once returned at once when memory had the vote already, which a submitted
/// write had put there and no sync had covered: the vote could have left before it was durable.
#[test]
fn a_blocking_write_that_changes_nothing_waits_for_what_made_it_so() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    let release = hold_up(&storage);
    let (callback, reports) = report();
    let vote = hard_state(5, 2, 0);
    storage.batch().hard_state(&vote).submit(callback).unwrap();
    let again = thread::spawn({
        let storage = storage.clone();
        move || storage.set_hard_state(&hard_state(5, 2, 0))
    });
    // Both wait behind the one that is held up.
    while storage.store().backlog().writes < 2 {
        assert!(!again.is_finished(), "acknowledged from memory");
        thread::yield_now();
    }
    drop(release);
    reports.recv().unwrap().unwrap();
    again.join().unwrap().unwrap();
}

#[test]
fn a_blocking_write_of_nothing_that_must_sync_waits_for_what_was_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    let append = entries(1..4, 1);
    let batch = storage.batch().entries(&append);
    batch.submit(|result| result.unwrap()).unwrap();
    storage.batch().must_sync(true).write().unwrap();
    assert_eq!(storage.persisted_index(), 3);
}

#[test]
fn a_refused_submission_changes_nothing_and_calls_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    let (callback, reports) = report();
    let gap = entries(5..6, 1);
    let refused = storage.batch().entries(&gap).submit(callback).unwrap_err();
    assert!(
        matches!(refused, Error::Gap { last: 0, first: 5 }),
        "{refused}"
    );
    assert!(reports.recv().is_err(), "dropped, not called");
    assert_eq!(storage.last_index(), 0);
}

#[test]
fn after_a_failure_everyone_who_waits_gets_an_error_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..4, 1)).unwrap();
    drop(storage);
    let mut options = unsynced();
    options.entry_cache_bytes = 0;
    let store = unwritable(dir.path(), options);

    let (told, reports) = mpsc::channel();
    // It has nothing to write, so it fails nowhere.
    let release = hold_up(&store.group(0).unwrap());
    let mut accepted = 0;
    for group in 1..20 {
        let (storage, told) = (store.group(group).unwrap(), told.clone());
        let callback = move |result: Result<()>| told.send((group, result)).unwrap();
        let append = entries(1..2, 1);
        // The failure of the first may come before the last has been submitted.
        match storage.batch().entries(&append).submit(callback) {
            Ok(()) => accepted += 1,
            Err(refused) => assert!(matches!(refused, Error::Poisoned { .. }), "{refused}"),
        }
    }
    drop((release, told));
    let answers: Vec<_> = reports.iter().collect();
    assert_eq!(answers.len(), accepted, "each is answered once");
    let groups: Vec<u64> = answers.iter().map(|(group, _)| *group).collect();
    assert!(groups.is_sorted(), "{groups:?}");
    for (at, (_, result)) in answers.iter().enumerate() {
        let error = result.as_ref().unwrap_err();
        let cause = matches!(error, Error::Rocks { op: "write", .. });
        let refusal = matches!(error, Error::Poisoned { .. });
        assert!(if at == 0 { cause } else { refusal }, "{at}: {error}");
    }
    let late = store.group(1).unwrap().append(&entries(2..3, 1));
    assert!(matches!(late.unwrap_err(), Error::Poisoned { .. }));
    let one = store.group(1).unwrap();
    assert_eq!((one.last_index(), one.persisted_index()), (1, 0));
    let read = one.entries(1, 2, None).unwrap();
    assert_eq!(
        read,
        entries(1..2, 1),
        "pinned, whatever the cache may hold"
    );
}

#[test]
fn submitters_wait_for_room_and_the_backlog_tells() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = unsynced();
    options.write_queue_bytes = 64 << 10;
    let store = RaftStore::open(dir.path(), options).unwrap();
    let release = hold_up(&store.group(0).unwrap());
    let submitter = thread::spawn({
        let storage = store.group(1).unwrap();
        move || {
            for index in 1..9 {
                let append = [entry(index, 1, vec![7; 16 << 10])];
                let (callback, _) = report();
                storage.batch().entries(&append).submit(callback).unwrap();
            }
        }
    });
    while store.commit_stats().stalls == 0 {
        thread::yield_now();
    }
    let backlog = store.backlog();
    assert!(backlog.bytes <= 64 << 10, "{backlog:?}");
    assert!((2..8).contains(&backlog.writes), "{backlog:?}");
    assert!(!submitter.is_finished());
    drop(release);
    submitter.join().unwrap();
    store.sync().unwrap();
    assert_eq!(store.backlog(), raft_rocks::Backlog::default());
    assert_eq!(store.group(1).unwrap().last_index(), 8);
}

#[test]
fn a_write_larger_than_the_whole_queue_is_taken_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.write_queue_bytes = 64 << 10;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    let (callback, reports) = report();
    let append = [entry(1, 1, vec![7; 1 << 20])];
    storage.batch().entries(&append).submit(callback).unwrap();
    reports.recv().unwrap().unwrap();
}

#[test]
fn a_callback_cannot_write_which_would_wait_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    let (told, reports) = mpsc::channel();
    let inside = storage.clone();
    let callback = move |_: Result<()>| {
        let append = entries(1..2, 1);
        let blocking = inside.append(&append).unwrap_err();
        let submitted = inside.batch().entries(&append).submit(|_| {}).unwrap_err();
        let unsynced = inside.batch().applied(0).write_unsynced().unwrap_err();
        let sync = inside.sync().unwrap_err();
        let opened = inside.store().group(7).unwrap_err();
        let destroyed = inside.store().destroy_group(7).unwrap_err();
        drop(inside);
        let refused = [blocking, submitted, unsynced, sync, opened, destroyed];
        told.send(refused).unwrap();
    };
    storage.batch().submit(callback).unwrap();
    for error in reports.recv().unwrap() {
        assert!(error.to_string().contains("on_durable"), "{error}");
    }
    assert_eq!(storage.last_index(), 0);
    storage.append(&entries(1..2, 1)).unwrap();
}

#[test]
fn a_panicking_callback_stops_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), Options::default()).unwrap();
    let callback = |_: Result<()>| panic!("on purpose");
    storage.batch().submit(callback).unwrap();
    storage.append(&entries(1..2, 1)).unwrap();
    let (callback, reports) = report();
    storage.batch().submit(callback).unwrap();
    reports.recv().unwrap().unwrap();
}

#[test]
fn the_last_handle_answers_everything_and_frees_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    for policy in [FsyncPolicy::Always, FsyncPolicy::Never] {
        let mut options = Options::default();
        options.fsync = policy;
        let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
        let (told, reports) = mpsc::channel();
        let from = storage.last_index() + 1;
        for index in from..from + 50 {
            let told = told.clone();
            let callback = move |result: Result<()>| told.send(result).unwrap();
            let append = [entry(index, 1, "x")];
            storage.batch().entries(&append).submit(callback).unwrap();
        }
        drop((storage, told));
        let answers: Vec<_> = reports.try_iter().collect();
        assert_eq!(answers.len(), 50, "all are there when the drop returns");
        assert!(answers.iter().all(Result::is_ok));
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        assert_eq!(storage.last_index(), from + 49);
    }
}

/// Under `Interval` this once waited for ever: the thread that ticks waited for the committer to
/// acknowledge its sync, and the committer, in the callback, for that thread to end.
#[test]
fn a_callback_may_hold_the_last_handle() {
    for policy in [
        FsyncPolicy::Always,
        FsyncPolicy::Never,
        FsyncPolicy::Interval(std::time::Duration::from_millis(1)),
    ] {
        drop_in_callback(policy);
    }
}

fn drop_in_callback(policy: FsyncPolicy) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.fsync = policy;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    storage.append(&entries(1..3, 1)).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (callback, reports) = report();
    let inside = storage.clone();
    let hold = move |result: Result<()>| {
        let _ = released.recv();
        drop(inside);
        callback(result);
    };
    storage.batch().must_sync(true).submit(hold).unwrap();
    drop(storage);
    drop(release);
    reports.recv().unwrap().unwrap();
    // The thread that ran it closes the store behind it.
    let reopened = loop {
        match RaftMachineStorage::open(dir.path(), Options::default()) {
            Err(Error::Locked { .. }) => thread::yield_now(),
            other => break other,
        }
    };
    reopened.unwrap();
}

#[test]
fn a_snapshot_file_goes_only_after_the_record_that_replaces_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.snapshot_inline_bytes_max = 0;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    storage.append(&entries(1..4, 1)).unwrap();
    storage
        .create_snapshot(2, &common::conf_state(&[1]), b"old")
        .unwrap();
    let files = || {
        let listing = std::fs::read_dir(dir.path().join("snapshots")).unwrap();
        let names = listing.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "lock").count()
    };
    let one = files();
    let release = hold_up(&storage);
    let (callback, reports) = report();
    let newer = common::snapshot(9, 2, &[1, 2], "new");
    storage.batch().snapshot(&newer).submit(callback).unwrap();
    assert_eq!((storage.first_index(), storage.last_index()), (10, 9));
    assert_eq!(files(), one + 1, "both are there");
    drop(release);
    reports.recv().unwrap().unwrap();
    assert_eq!(files(), one);
}
