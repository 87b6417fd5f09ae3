//! Recycled write-ahead logs: behind the end of one stands what is left of an older one. A torn
//! last write opens, whatever it was written over; damage before it is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{copy_live, copy_store, database_dir, entries, entry, hard_state, wal_files};
use raft_rocks::rocksdb;
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage, RaftStore, Result};

const HEADER_LEN: usize = 11;
/// Hard states written into the recycled log, in a write each.
const STATES: u64 = 5;

fn options() -> Options {
    let mut options = Options::default();
    options.recycle_wal = true;
    options.fsync = FsyncPolicy::Never;
    options.memtable_bytes = 64 << 10;
    options
}

fn open(dir: &Path) -> Result<RaftMachineStorage> {
    RaftMachineStorage::open(dir, options())
}

/// A store as a crash leaves it, and its newest log: a recycled one, with a few records and
/// much of an older log behind them.
struct Crashed {
    dir: tempfile::TempDir,
    log: PathBuf,
    bytes: Vec<u8>,
    /// Where the headers of its own records stand.
    headers: Vec<usize>,
    end: usize,
    last_index: u64,
    term: u64,
}

impl Crashed {
    /// All of it was synced, the last write only if it is said so.
    fn new(last_is_synced: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let live = tempfile::tempdir().unwrap();
        let storage = open(live.path()).unwrap();
        let newest = || wal_files(live.path()).pop().unwrap();
        let mut logs = std::collections::BTreeSet::from([newest()]);
        // The log after the first two is the first to be an old one.
        while logs.len() < 6 {
            let next = storage.last_index() + 1;
            storage.append(&entries(next..next + 20, 1)).unwrap();
            logs.insert(newest());
        }
        let last_index = storage.last_index();
        for term in 2..2 + STATES {
            if term == 1 + STATES && !last_is_synced {
                storage.store().sync().unwrap();
            }
            storage.set_hard_state(&hard_state(term, 1, 0)).unwrap();
        }
        if last_is_synced {
            storage.store().sync().unwrap();
        }
        copy_live(storage.store(), live.path(), dir.path());
        let log = database_dir(dir.path()).join(newest().file_name().unwrap());
        let bytes = std::fs::read(&log).unwrap();
        let (headers, end) = own_records(&log, &bytes);
        assert!(bytes.len() > end + 10_000, "much of an older log");
        Crashed {
            dir,
            log,
            bytes,
            headers,
            end,
            last_index,
            term: 1 + STATES,
        }
    }

    /// Opens the store with another content of the log. A refusal changes no file.
    fn open_with(&self, log: &[u8]) -> Result<RaftMachineStorage> {
        std::fs::write(&self.log, log).unwrap();
        open(self.dir.path())
    }

    /// The same in a copy, so that the next can be tried.
    fn state_with(&self, log: &[u8]) -> (u64, u64) {
        let copied = tempfile::tempdir().unwrap();
        copy_store(self.dir.path(), copied.path());
        let named = self.log.file_name().unwrap();
        std::fs::write(database_dir(copied.path()).join(named), log).unwrap();
        let storage = open(copied.path()).unwrap();
        (storage.last_index(), storage.hard_state().term)
    }
}

/// Where the headers of the records stand that bear the log's number, and where they end: a
/// record is a checksum (4), a length (2), a type (1), the log's number (4) and the payload.
fn own_records(log: &Path, bytes: &[u8]) -> (Vec<usize>, usize) {
    let number: u32 = log.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let mut headers = Vec::new();
    let mut at = 0;
    while bytes[at + 7..at + HEADER_LEN] == number.to_le_bytes() {
        assert!((5..=8).contains(&bytes[at + 6]), "a recyclable record");
        headers.push(at);
        at += HEADER_LEN + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    assert!(headers.len() > STATES as usize);
    (headers, at)
}

#[test]
fn a_recycled_log_opens_with_all_it_holds() {
    let crashed = Crashed::new(true);
    let storage = crashed.open_with(&crashed.bytes).unwrap();
    assert_eq!(storage.last_index(), crashed.last_index);
    assert_eq!(storage.hard_state().term, crashed.term);
    assert!(storage.entries(1, crashed.last_index + 1, None).is_ok());
}

#[test]
fn every_flipped_bit_of_a_record_header_before_the_stale_bytes_is_refused() {
    let crashed = Crashed::new(true);
    for header in &crashed.headers {
        for bit in header * 8..(header + HEADER_LEN) * 8 {
            let mut damaged = crashed.bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = crashed.open_with(&damaged).err();
            let error = error.unwrap_or_else(|| panic!("header at {header}, bit {bit}"));
            assert!(error.is_fatal(), "header at {header}, bit {bit}: {error}");
        }
    }
    assert!(crashed.open_with(&crashed.bytes).is_ok());
}

#[test]
fn a_write_torn_over_stale_bytes_opens_without_it() {
    let crashed = Crashed::new(false);
    let last = crashed.headers[crashed.headers.len() - 1];
    let cuts = (last..crashed.end)
        .step_by(3)
        .chain([last + 10, crashed.end - 1]);
    for cut in cuts {
        // What stood here before is not known: something else of the older log does as well.
        let mut torn = crashed.bytes.clone();
        torn.copy_within(
            crashed.end + 1000..crashed.end + 1000 + (crashed.end - cut),
            cut,
        );
        let found = crashed.state_with(&torn);
        assert_eq!(
            found,
            (crashed.last_index, crashed.term - 1),
            "cut at {cut}"
        );
    }
}

#[test]
fn a_damaged_payload_before_the_last_write_is_refused() {
    let crashed = Crashed::new(false);
    let before_last = &crashed.headers[..crashed.headers.len() - 1];
    for header in before_last {
        let mut damaged = crashed.bytes.clone();
        damaged[header + HEADER_LEN + 14] ^= 4;
        let error = crashed.open_with(&damaged).err();
        assert!(error.is_some_and(|e| e.is_fatal()), "record at {header}");
    }
}

/// A power cut can undo the renaming of a log, and keep what was written under its new name:
/// then records of a later log stand in one that recovery no longer needs.
#[test]
fn a_log_that_was_overwritten_and_lost_its_new_name_is_no_damage() {
    let crashed = Crashed::new(true);
    let first = wal_files(crashed.dir.path()).swap_remove(0);
    let old = first.with_file_name("000002.log");
    for from in [0, 500] {
        let mut torn = crashed.bytes.clone();
        torn[..from].fill(7);
        std::fs::write(&old, &torn).unwrap();
        assert_eq!(
            crashed.state_with(&crashed.bytes),
            (crashed.last_index, crashed.term)
        );
    }
}

/// A log is switched when nothing in it is unsynced: what is damaged before another is no torn
/// write. When RocksDB switches by itself, its own log of events names another reason than a
/// flush by hand.
#[test]
fn rocksdb_never_switches_logs_by_itself() {
    for recycle_wal in [false, true] {
        write_and_read_the_reasons_of_flushes(recycle_wal);
    }
}

fn write_and_read_the_reasons_of_flushes(recycle_wal: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.recycle_wal = recycle_wal;
    options.column_families = vec!["kv".to_owned()];
    let store = RaftStore::open(dir.path(), options).unwrap();
    std::thread::scope(|threads| {
        for group in 1..=4 {
            let storage = store.group(group).unwrap();
            threads.spawn(move || {
                for index in 1..500 {
                    // Smaller than a memtable together, and now and then larger.
                    let len = if index % 50 == 0 { 200_000 } else { 600 };
                    let entries = [entry(index, 1, vec![7; len])];
                    let batch = storage.batch().entries(&entries).put("kv", "key", "value");
                    batch.submit(|result| result.unwrap()).unwrap();
                }
            });
        }
    });
    store.sync().unwrap();
    let events = std::fs::read_to_string(database_dir(dir.path()).join("LOG")).unwrap();
    let reasons: Vec<&str> = events
        .lines()
        .filter_map(|line| line.split(r#""flush_reason": "#).nth(1))
        .collect();
    assert!(reasons.len() > 5, "{} flushes", reasons.len());
    for reason in reasons {
        assert!(reason.starts_with(r#""Manual Flush""#), "{reason}");
    }
    assert_eq!(events.contains("reusing log"), recycle_wal);
}

/// The older log, which one of the families still needs, ends in what it was written over; the
/// other family was flushed, and nothing follows in the newer log.
#[test]
fn a_crash_between_the_flushes_of_two_families_loses_nothing() {
    let (live, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut options = options();
    options.column_families = vec!["kv".to_owned()];
    let storage = RaftMachineStorage::open(live.path(), options.clone()).unwrap();
    for _ in 0..200 {
        let next = storage.last_index() + 1;
        let entries = entries(next..next + 20, 1);
        let batch = storage.batch().entries(&entries).put("kv", "key", "value");
        batch.write().unwrap();
    }
    storage.sync().unwrap();
    // Only the raft family: by hand, for the moment between the two.
    storage.store().database().flush().unwrap();
    copy_live(storage.store(), live.path(), dir.path());
    let found = RaftMachineStorage::open(dir.path(), options).unwrap();
    assert_eq!(found.last_index(), storage.last_index());
}

#[test]
fn recycling_may_be_switched_on_and_off() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let mut options = options();
        options.recycle_wal = round % 2 == 0;
        let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
        for _ in 0..100 {
            let next = storage.last_index() + 1;
            storage.append(&entries(next..next + 20, 1)).unwrap();
        }
        assert_eq!(storage.last_index(), (round + 1) * 2000);
    }
}

/// A file that is ingested takes a sequence number that no log has: recovery of recycled logs
/// stops there, and drops what was synced behind it. The store never ingests one; whoever does so
/// behind its back is told at the next open, and nothing is dropped in silence.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "what must not be done is done here to see it refused"
)]
fn a_sequence_number_spent_outside_of_the_logs_is_refused() {
    const FAMILY: &str = "application";
    let mut options = options();
    options.memtable_bytes = 8 << 20;
    options.column_families = vec![FAMILY.to_owned()];
    let (live, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = RaftMachineStorage::open(live.path(), options.clone()).unwrap();
    let put = |index: u64| {
        let entries = entries(index..index + 1, 1);
        let batch = storage.batch().entries(&entries);
        batch.put(FAMILY, "key", "old").write().unwrap();
    };
    put(1);
    let file = live.path().join("file.sst");
    let rocks_options = rocksdb::Options::default();
    let mut writer = rocksdb::SstFileWriter::create(&rocks_options);
    writer.open(&file).unwrap();
    writer.put("key", "new").unwrap();
    writer.finish().unwrap();
    let database = storage.store().database();
    let before = database.latest_sequence_number();
    let family = database.cf_handle(FAMILY).unwrap();
    database
        .ingest_external_file_cf(family, vec![file])
        .unwrap();
    assert!(
        database.latest_sequence_number() > before,
        "it took a number"
    );
    put(2);
    storage.store().sync().unwrap();
    copy_live(storage.store(), live.path(), dir.path());

    let refused = RaftMachineStorage::open(dir.path(), options).unwrap_err();
    assert!(
        matches!(refused, raft_rocks::Error::Corruption { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("sequence number"), "{refused}");
}
