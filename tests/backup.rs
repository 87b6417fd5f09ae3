//! A backup that is taken while threads write holds everything that was acknowledged before it,
//! and is one moment of all groups.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{conf_state, entry, hard_state, snapshot_files, wal_files};
use raft_rocks::{Error, Options, RaftMachineStorage, RaftStore};

const PAIRS: u64 = 2;

fn options(recycle_wal: bool) -> Options {
    let mut options = Options::default();
    // Logs are switched, flushed and recycled all the time.
    options.memtable_bytes = 64 << 10;
    options.recycle_wal = recycle_wal;
    options.column_families = vec!["machine".to_owned()];
    options.snapshot_inline_bytes_max = 0;
    options
}

/// Writes to one group after the other, so that the second is never ahead of the first; with each
/// entry of the first its effect on the machine, and often a snapshot in a file.
struct Writer {
    first: RaftMachineStorage,
    second: RaftMachineStorage,
    acknowledged: AtomicU64,
}

impl Writer {
    fn new(store: &RaftStore, pair: u64) -> Self {
        Writer {
            first: store.group(2 * pair).unwrap(),
            second: store.group(2 * pair + 1).unwrap(),
            acknowledged: AtomicU64::new(0),
        }
    }

    fn run(&self, stop: &AtomicBool) {
        let mut index = 0;
        while !stop.load(Ordering::Relaxed) {
            index += 1;
            let entries = [entry(index, index, vec![index as u8; 2000])];
            let state = hard_state(index, 1, index);
            let batch = self.first.batch().entries(&entries).hard_state(&state);
            let key = self.first.group_id().to_be_bytes();
            let batch = batch
                .put("machine", key, index.to_be_bytes())
                .applied(index);
            batch.write().unwrap();
            self.second.append(&entries).unwrap();
            if index % 3 == 0 {
                let data = vec![index as u8; 3000];
                self.first
                    .create_snapshot(index, &conf_state(&[1]), &data)
                    .unwrap();
                self.first.compact(index - 1).unwrap();
            }
            self.acknowledged.store(index, Ordering::SeqCst);
        }
    }
}

/// What a backup must hold, at least and at most.
struct Bounds {
    before: Vec<u64>,
    after: Vec<u64>,
}

fn backups_under_load(recycle_wal: bool) {
    let (live, backups) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = RaftStore::open(live.path(), options(recycle_wal)).unwrap();
    let writers: Vec<Writer> = (0..PAIRS).map(|pair| Writer::new(&store, pair)).collect();
    let acknowledged = || -> Vec<u64> {
        let all = writers.iter();
        all.map(|writer| writer.acknowledged.load(Ordering::SeqCst))
            .collect()
    };
    let stop = AtomicBool::new(false);
    let taken: Vec<Bounds> = thread::scope(|scope| {
        writers.iter().for_each(|writer| {
            scope.spawn(|| writer.run(&stop));
        });
        let take = |number: u64| {
            // Some writes between one and the next.
            let goal = number * 20;
            while acknowledged().iter().any(|done| *done < goal) {
                thread::yield_now();
            }
            let before = acknowledged();
            let taken = store.backup(backups.path().join(number.to_string()));
            if taken.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            taken.unwrap();
            let after = acknowledged();
            Bounds { before, after }
        };
        let taken = (0..8).map(take).collect();
        stop.store(true, Ordering::Relaxed);
        taken
    });
    // What was kept for the backups is gone since.
    assert_eq!(snapshot_files(live.path()).len() as u64, PAIRS);
    for (number, bounds) in taken.iter().enumerate() {
        check_backup(
            &backups.path().join(number.to_string()),
            recycle_wal,
            bounds,
        );
    }
}

fn check_backup(dir: &Path, recycle_wal: bool, bounds: &Bounds) {
    let files = snapshot_files(dir).len();
    let store = RaftStore::open(dir, options(recycle_wal)).unwrap();
    let mut snapshots = 0;
    for (pair, (before, after)) in bounds.before.iter().zip(&bounds.after).enumerate() {
        let [first, second] = [0, 1].map(|n| store.group(2 * pair as u64 + n).unwrap());
        let (ahead, behind) = (first.last_index(), second.last_index());
        assert!(
            behind <= ahead && ahead <= behind + 1,
            "of two moments: {ahead}, {behind}"
        );
        assert!(
            *before <= behind && behind <= after + 1,
            "{before} <= {behind} <= {after} + 1"
        );
        assert_eq!(first.applied_index(), ahead);
        let machine = store.database().cf_handle("machine").unwrap();
        let key = first.group_id().to_be_bytes();
        let applied = store.database().get_cf(&machine, key).unwrap();
        assert_eq!(
            applied.unwrap_or(vec![0; 8]),
            ahead.to_be_bytes(),
            "the machine"
        );
        let from = first.first_index();
        for entry in first.entries(from, ahead + 1, None).unwrap() {
            assert_eq!(
                (entry.term, &entry.data[..]),
                (entry.index, &[entry.index as u8; 2000][..])
            );
        }
        snapshots += usize::from(first.snapshot_metadata().is_some());
    }
    assert_eq!(files, snapshots, "files that no record names");
}

#[test]
fn a_backup_under_load_is_one_moment_of_all_groups() {
    backups_under_load(false);
}

#[test]
fn so_is_one_of_a_store_that_recycles_its_logs() {
    backups_under_load(true);
}

/// Tables are shared with the store, logs are not: a log that is cut or written over in one of the
/// two must not change in the other.
#[test]
fn a_backup_and_its_store_go_separate_ways() {
    use std::os::unix::fs::MetadataExt;
    let (live, backups) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let backup = backups.path().join("backup");
    let storage = RaftMachineStorage::open(live.path(), options(false)).unwrap();
    for index in 1..200 {
        storage.append(&[entry(index, 1, vec![1; 2000])]).unwrap();
    }
    // The log before the newest one is needed as long as one family was not flushed.
    let machine = [0_u8; 8];
    let batch = storage.batch().put("machine", machine, machine);
    batch.must_sync(true).write().unwrap();
    storage.store().database().flush().unwrap();
    storage.store().sync().unwrap();
    storage.store().backup(&backup).unwrap();
    assert!(wal_files(&backup).len() > 1);
    for log in wal_files(&backup) {
        assert_eq!(
            std::fs::metadata(&log).unwrap().nlink(),
            1,
            "{}",
            log.display()
        );
    }
    let copy = RaftMachineStorage::open(&backup, options(false)).unwrap();
    assert_eq!(
        copy.store().store_id().unwrap(),
        storage.store().store_id().unwrap()
    );
    copy.append(&[entry(200, 2, "copy")]).unwrap();
    storage.append(&[entry(200, 1, "store")]).unwrap();
    drop((storage, copy));
    let data = |dir: &Path| {
        let storage = RaftMachineStorage::open(dir, options(false)).unwrap();
        storage.entries(200, 201, None).unwrap()[0].data.to_vec()
    };
    assert_eq!(
        (data(live.path()), data(&backup)),
        (b"store".to_vec(), b"copy".to_vec())
    );
}

/// Whatever the fsync policy: what is in a backup cannot get lost from it without a word.
#[test]
fn a_backup_is_witnessed_to_its_end() {
    let (live, backups) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let backup = backups.path().join("backup");
    let storage = RaftMachineStorage::open(live.path(), common::unsynced()).unwrap();
    storage
        .append(&[entry(1, 1, "first"), entry(2, 1, "second")])
        .unwrap();
    storage.store().backup(&backup).unwrap();
    let log = wal_files(&backup).pop().unwrap();
    let len = std::fs::metadata(&log).unwrap().len();
    let file = std::fs::File::options().write(true).open(&log).unwrap();
    file.set_len(len - 1).unwrap();
    let error = RaftStore::open(&backup, common::unsynced()).unwrap_err();
    assert!(
        matches!(error, Error::AcknowledgedWritesLost { .. }),
        "{error}"
    );
}

#[test]
fn nothing_is_overwritten_and_a_refusal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(dir.path().join("store"), options(false)).unwrap();
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let error = store.backup(&taken).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOptions {
                field: "backup",
                ..
            }
        ),
        "{error}"
    );
    // A file where the snapshots' directory would be.
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(store.backup(file.join("below")).is_err());
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 3, "something was left");
    store
        .group(0)
        .unwrap()
        .append(&[entry(1, 1, "goes on")])
        .unwrap();
}

#[test]
fn somebody_elses_database_is_theirs_to_back_up() {
    let dir = tempfile::tempdir().unwrap();
    drop(RaftStore::open(dir.path(), common::unsynced()).unwrap());
    let store = common::unwritable(dir.path(), common::unsynced());
    let error = store.backup(dir.path().join("backup")).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOptions {
                field: "backup",
                ..
            }
        ),
        "{error}"
    );
}
