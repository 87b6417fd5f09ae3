//! Damage to the write-ahead log is noticed at open: a hole in it can swallow hard states,
//! which neither the contiguity of entries nor the last sequence number would show.
//!
//! Of plain logs, whose ends are zeros; `tests/wal_recycling.rs` damages those that are written
//! over old ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{copy_live, database_dir, entries, hard_state, wal_files};
use raft_rocks::rocksdb::{self, DB};
use raft_rocks::{Error, Options, RaftMachineStorage};

const BLOCK: usize = 32 << 10;
const TERMS: u64 = 20_000;
/// Types of log records: whole, or the first of several fragments.
const STARTS: [u8; 2] = [1, 2];

fn unsynced() -> Options {
    let mut options = common::unsynced();
    options.recycle_wal = false;
    options
}

/// A store whose write-ahead log holds entries, then several blocks of hard states alone,
/// then entries again. All of it was synced.
fn store_with_blocks_of_hard_states(dir: &Path) -> PathBuf {
    let storage = fill(dir);
    storage.store().clone().close().unwrap();
    drop(storage);
    wal_files(dir).pop().unwrap()
}

/// The same as a crash leaves it: nothing was synced but the creation.
fn unsynced_store_with_blocks_of_hard_states() -> (tempfile::TempDir, PathBuf) {
    let (live, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = fill(live.path());
    copy_live(storage.store(), live.path(), dir.path());
    drop(storage);
    let wal = wal_files(dir.path()).pop().unwrap();
    (dir, wal)
}

fn fill(dir: &Path) -> RaftMachineStorage {
    let storage = RaftMachineStorage::open(dir, unsynced()).unwrap();
    storage.append(&entries(1..101, 1)).unwrap();
    for term in 2..TERMS {
        storage.set_hard_state(&hard_state(term, 1, 0)).unwrap();
    }
    for index in 101..1000 {
        storage.append(&entries(index..index + 1, TERMS)).unwrap();
    }
    let wal = wal_files(dir).pop().unwrap();
    assert!(
        std::fs::metadata(&wal).unwrap().len() > 4 * BLOCK as u64,
        "a log of several blocks"
    );
    storage
}

/// Where a record of the log starts, at least `skip` bytes into the block at `block`: a
/// record is a checksum (4), a length (2, little-endian), a type (1) and the payload.
fn record_boundary(log: &[u8], block: usize, skip: usize) -> usize {
    let mut at = block;
    while at < block + skip {
        at += 7 + usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
    }
    at
}

fn open_error(dir: &Path) -> Error {
    RaftMachineStorage::open(dir, unsynced()).expect_err("a damaged log was taken for whole")
}

fn refused_for_its_log(dir: &Path) {
    let error = open_error(dir);
    let what = "write-ahead log";
    assert!(
        matches!(error, Error::Corruption { what: w, .. } if w == what),
        "{error}"
    );
}

#[test]
fn an_undamaged_log_opens() {
    let dir = tempfile::tempdir().unwrap();
    store_with_blocks_of_hard_states(dir.path());
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    assert_eq!(
        (storage.last_index(), storage.hard_state().term),
        (999, TERMS - 1)
    );
}

/// RocksDB takes zeros for the preallocated end of a block, and goes on with the next: where
/// that starts with a whole record it opens without a word, with entries, last index and
/// last sequence number as they were.
#[test]
fn a_hole_that_holds_only_hard_states_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = store_with_blocks_of_hard_states(dir.path());
    let mut bytes = std::fs::read(&wal).unwrap();
    let block = (2..15)
        .map(|n| n * BLOCK)
        .find(|at| STARTS.contains(&bytes[at + BLOCK + 6]));
    let block = block.expect("a block that ends with a whole record");
    let hole = record_boundary(&bytes, block, BLOCK / 2)..block + BLOCK;
    bytes[hole].fill(0);
    std::fs::write(&wal, bytes).unwrap();

    refused_for_its_log(dir.path());
}

#[test]
fn a_flipped_bit_in_the_middle_is_refused() {
    for at in [BLOCK + 77, 2 * BLOCK + 1003, 3 * BLOCK + 6] {
        let dir = tempfile::tempdir().unwrap();
        let wal = store_with_blocks_of_hard_states(dir.path());
        let mut bytes = std::fs::read(&wal).unwrap();
        bytes[at] ^= 4;
        std::fs::write(&wal, bytes).unwrap();
        let error = open_error(dir.path());
        assert!(error.is_fatal(), "at {at}: {error}");
    }
}

#[test]
fn a_torn_last_record_is_cut_off_unless_it_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let wal = store_with_blocks_of_hard_states(dir.path());
    let bytes = std::fs::read(&wal).unwrap();
    std::fs::write(&wal, &bytes[..bytes.len() - 3]).unwrap();
    let error = open_error(dir.path());
    assert!(
        matches!(error, Error::AcknowledgedWritesLost { .. }),
        "{error}"
    );

    let (dir, wal) = unsynced_store_with_blocks_of_hard_states();
    let bytes = std::fs::read(&wal).unwrap();
    std::fs::write(&wal, &bytes[..bytes.len() - 3]).unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    assert_eq!(storage.last_index(), 998);
    let log = storage.entries(1, 999, None).unwrap();
    assert_eq!(log.len(), 998);
}

/// RocksDB unlinks logs it no longer needs newest first, and a power cut can undo any of the
/// unlinks: an old log may be there without the one that followed it. Taking that for a hole
/// refused a store that had lost nothing.
#[test]
fn a_log_that_is_no_longer_needed_is_no_part_of_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = Vec::new();
    for round in 0..4 {
        // Each open flushes what it recovers and starts a new log.
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        let next = storage.last_index() + 1;
        storage.append(&entries(next..next + 10, 1)).unwrap();
        drop(storage);
        let log = wal_files(dir.path()).pop().unwrap();
        old.push((log.clone(), std::fs::read(&log).unwrap()));
        assert_eq!(wal_files(dir.path()).len(), 1, "round {round}");
    }
    let (path, bytes) = &old[0];
    assert!(!path.exists());
    // As a power cut may bring back what was never synced, too.
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    for bytes in [bytes, &damaged] {
        std::fs::write(path, bytes).unwrap();
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        assert_eq!(storage.last_index(), 40);
        assert!(!path.exists(), "removed by the open");
    }
}

/// A log whose first blocks are zeros, up to one that starts with a whole record: recovery
/// goes on from there, without the votes that stood before.
#[test]
fn a_hole_at_the_start_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = store_with_blocks_of_hard_states(dir.path());
    let mut bytes = std::fs::read(&wal).unwrap();
    let block = (2..15)
        .map(|n| n * BLOCK)
        .find(|at| STARTS.contains(&bytes[at + 6]));
    bytes[..block.unwrap()].fill(0);
    std::fs::write(&wal, bytes).unwrap();
    refused_for_its_log(dir.path());
}

/// The first record of a new log, torn: nothing in it was acknowledged.
#[test]
fn a_log_torn_within_its_first_record_opens_without_it() {
    for cut in [1, 7, 20] {
        let (live, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        store_with_blocks_of_hard_states(live.path());
        let storage = RaftMachineStorage::open(live.path(), unsynced()).unwrap();
        storage.append(&entries(1000..1001, TERMS)).unwrap();
        copy_live(storage.store(), live.path(), dir.path());
        let wal = wal_files(dir.path()).pop().unwrap();
        let bytes = std::fs::read(&wal).unwrap();
        std::fs::write(&wal, &bytes[..cut]).unwrap();
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        assert_eq!(storage.last_index(), 999, "cut at {cut}");
    }
}

/// RocksDB alone drops what follows in one case of six, and in a few reads one place for ever:
/// its checksum does not cover the length, and it does not expect a recycled record here.
#[test]
fn every_flipped_bit_of_a_record_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for from in [1, 6] {
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        storage.append(&entries(from..from + 5, 1)).unwrap();
        storage.set_hard_state(&hard_state(from + 1, 2, 0)).unwrap();
        storage.set_hard_state(&hard_state(from + 2, 3, 0)).unwrap();
    }
    let log = wal_files(dir.path()).pop().unwrap();
    let whole = std::fs::read(&log).unwrap();
    let mut header = 0;
    while header < whole.len() {
        for bit in header * 8..(header + 7) * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&log, damaged).unwrap();
            let error = open_error(dir.path());
            assert!(error.is_fatal(), "header at {header}, bit {bit}: {error}");
        }
        header += 7 + usize::from(u16::from_le_bytes([whole[header + 4], whole[header + 5]]));
    }
    std::fs::write(&log, &whole).unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    assert_eq!((storage.last_index(), storage.hard_state().vote), (10, 3));
}

/// The end of a log that another follows, cut off at a record's boundary or turned into zeros:
/// whole in itself. RocksDB tracks the length of logs that it synced; zeros of the same length
/// only the sequence numbers show. The witness knows nothing of it: the logs were written
/// behind its back.
#[test]
fn a_log_that_ends_too_early_before_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = unsynced();
    options.column_families = vec!["kv".to_owned()];
    drop(RaftMachineStorage::open(dir.path(), options.clone()).unwrap());
    let mut theirs = rocksdb::Options::default();
    theirs.set_track_and_verify_wals_in_manifest(true);
    let database = database_dir(dir.path());
    let db = DB::open_cf(&theirs, database, ["default", "kv"]).unwrap();
    // Never flushed, so that the logs from here on are needed; a store flushes all families.
    let family = db.cf_handle("kv").unwrap();
    db.put_cf(&family, "key", "value").unwrap();
    for _ in 0..3 {
        for n in 0..1000u64 {
            db.put_cf(&family, n.to_le_bytes(), [7; 90]).unwrap();
        }
        db.put("key", "value").unwrap();
        db.flush_wal(true).unwrap();
        db.flush().unwrap();
    }
    db.put_cf(&family, "last", "value").unwrap();
    db.delete("key").unwrap();
    drop(db);
    let logs = wal_files(dir.path());
    assert!(logs.len() >= 3, "{logs:?}");
    let log = &logs[1];
    let whole = std::fs::read(log).unwrap();
    let last_block = (whole.len() - 1) / BLOCK * BLOCK;
    let cut = record_boundary(&whole, last_block, whole.len() - last_block - 160);

    let mut zeroed = whole.clone();
    zeroed[cut..].fill(0);
    for (damaged, named) in [
        (&whole[..cut], "Size mismatch"),
        (&zeroed[..], "sequence number"),
    ] {
        std::fs::write(log, damaged).unwrap();
        let error = RaftMachineStorage::open(dir.path(), options.clone()).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
    std::fs::write(log, whole).unwrap();
    assert!(RaftMachineStorage::open(dir.path(), options).is_ok());
}
