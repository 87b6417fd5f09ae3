//! The witness says how far the log had been synced: a log that ends before that has lost
//! acknowledged writes and is refused, whatever it looks like; what is damaged behind it was
//! never acknowledged, and is cut off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{
    copy_live, copy_store, database_dir, entries, entry, hard_state, unsynced, wal_files,
};
use common::{tamper, witness_file};
use raft_rocks::rocksdb::{self, DB};
use raft_rocks::{
    Error, FsyncPolicy, Options, RaftMachineStorage, RaftStore, Result, WitnessPolicy, keys, record,
};

const PAGE: usize = 4096;
const BOTH: [bool; 2] = [false, true];

fn options(recycle_wal: bool) -> Options {
    let mut options = unsynced();
    options.memtable_bytes = 256 << 10;
    options.recycle_wal = recycle_wal;
    options
}

/// A store as a crash leaves it: a newest log in which some writes were synced, with more
/// behind. Each is of several pages and raises the term by one.
struct Crashed {
    dir: tempfile::TempDir,
    recycle_wal: bool,
    log: PathBuf,
    bytes: Vec<u8>,
    /// Where each write in the log ends, and its term.
    ends: Vec<(usize, u64)>,
    /// How many of them were synced.
    synced: usize,
}

impl Crashed {
    fn new(recycle_wal: bool, synced: usize, unsynced: usize) -> Self {
        let (live, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let storage = RaftMachineStorage::open(live.path(), options(recycle_wal)).unwrap();
        let write = || {
            let index = storage.last_index() + 1;
            let entries = [entry(index, index, vec![index as u8; 5 * PAGE])];
            let state = hard_state(index, 1, 0);
            let batch = storage.batch().entries(&entries).hard_state(&state);
            batch.write().unwrap();
            let log = wal_files(live.path()).pop().unwrap();
            (used(&log), index, log)
        };
        // Enough logs for one that is an old one, when they are recycled.
        let (mut newest, mut logs, mut ends) = (PathBuf::new(), 0, Vec::new());
        while logs < 5 || ends.len() < synced + unsynced {
            let (end, term, log) = write();
            if log != newest {
                (newest, logs) = (log, logs + 1);
                ends.clear();
            }
            ends.push((end, term));
            if ends.len() == synced {
                storage.store().sync().unwrap();
            }
        }
        copy_live(storage.store(), live.path(), dir.path());
        let log = database_dir(dir.path()).join(newest.file_name().unwrap());
        Crashed {
            recycle_wal,
            bytes: fs::read(&log).unwrap(),
            dir,
            log,
            ends,
            synced,
        }
    }

    /// Where the synced writes end, and the term they left.
    fn synced(&self) -> (usize, u64) {
        self.ends[self.synced - 1]
    }

    fn last(&self) -> (usize, u64) {
        self.ends[self.ends.len() - 1]
    }

    fn open_with(&self, log: &[u8]) -> Result<RaftMachineStorage> {
        fs::write(&self.log, log).unwrap();
        RaftMachineStorage::open(self.dir.path(), options(self.recycle_wal))
    }

    /// The term that a copy is opened with.
    fn term_with(&self, log: &[u8]) -> Result<u64> {
        fs::write(&self.log, log).unwrap();
        let copied = tempfile::tempdir().unwrap();
        copy_store(self.dir.path(), copied.path());
        let open = || RaftMachineStorage::open(copied.path(), options(self.recycle_wal));
        let storage = open()?;
        let term = storage.hard_state().term;
        assert_eq!(
            storage.term(storage.last_index()).unwrap(),
            term,
            "one write each"
        );
        // It goes on from there, and what was cut off never comes back.
        let next = storage.last_index() + 1;
        storage.append(&entries(next..next + 3, term)).unwrap();
        drop(storage);
        let storage = open()?;
        assert_eq!(
            (storage.last_index(), storage.hard_state().term),
            (next + 2, term)
        );
        Ok(term)
    }

    fn is_lost(&self, log: &[u8]) {
        let before = files(self.dir.path(), &self.log);
        let error = self.open_with(log).unwrap_err();
        let Error::AcknowledgedWritesLost {
            witnessed,
            recovered,
        } = error
        else {
            panic!("{error}");
        };
        assert!(witnessed > recovered && error.is_fatal() && !error.is_retryable());
        assert_eq!(
            files(self.dir.path(), &self.log),
            before,
            "a refusal changes no file"
        );
        assert_eq!(fs::read(&self.log).unwrap(), log);
    }
}

/// Where the records of a log end: its own ones, when it is a recycled one.
fn used(log: &Path) -> usize {
    let bytes = fs::read(log).unwrap();
    let number: u32 = log.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let mut at = 0;
    loop {
        let block_left = 32768 - at % 32768;
        let Some(header) = bytes.get(at..at + 11) else {
            return at;
        };
        let recyclable = (5..=8).contains(&header[6]);
        let header_len = if recyclable { 11 } else { 7 };
        if block_left < header_len {
            at += block_left;
            continue;
        }
        let is_own = if recyclable {
            header[7..11] == number.to_le_bytes()
        } else {
            header[6] != 0
        };
        if !is_own {
            return at;
        }
        at += header_len + usize::from(u16::from_le_bytes([header[4], header[5]]));
    }
}

/// Every file of a store but for one and RocksDB's log of events.
fn files(store: &Path, but: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![store.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for file in fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            if file.is_dir() {
                pending.push(file);
            } else if file != but && !name.starts_with("LOG") {
                found.insert(file.clone(), fs::read(&file).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_log_that_lost_its_end_is_refused() {
    for recycle_wal in BOTH {
        let crashed = Crashed::new(recycle_wal, 6, 0);
        assert_eq!(crashed.term_with(&crashed.bytes).unwrap(), crashed.last().1);
        // Cut at the boundaries of records, or turned into zeros from there on.
        for (end, _) in [(0, 0), crashed.ends[0], crashed.ends[4]] {
            crashed.is_lost(&crashed.bytes[..end]);
            let mut zeroed = crashed.bytes.clone();
            zeroed[end..].fill(0);
            crashed.is_lost(&zeroed);
        }
        crashed.is_lost(&crashed.bytes[..crashed.last().0 - 9]);
        fs::remove_file(&crashed.log).unwrap();
        let error = RaftMachineStorage::open(crashed.dir.path(), options(recycle_wal));
        let error = error.unwrap_err();
        assert!(
            matches!(error, Error::AcknowledgedWritesLost { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_last_write_of_a_recycled_log_is_refused_when_it_was_synced() {
    for (synced, unsynced) in [(6, 0), (5, 1)] {
        let crashed = Crashed::new(true, synced, unsynced);
        let mut damaged = crashed.bytes.clone();
        damaged[crashed.last().0 - 100] ^= 1;
        if unsynced == 0 {
            crashed.is_lost(&damaged);
        } else {
            assert_eq!(crashed.term_with(&damaged).unwrap(), crashed.synced().1);
        }
    }
}

/// A write of several pages that was under way at a power cut, and of which some reached the
/// disk and some did not. Whole writes in several pieces may stand behind: in the mode in which
/// RocksDB 11.8 goes on behind damage it adds the piece before it to the checksum of the next
/// write in several pieces (`hash_state_` in `db/log_reader.cc`), and refused stores that had lost
/// nothing: 1 of some 6,000 power cuts.
#[test]
fn pages_missing_behind_the_witnessed_end_leave_exactly_what_was_whole_before() {
    for recycle_wal in BOTH {
        let crashed = Crashed::new(recycle_wal, 3, 7);
        let (synced, end) = (crashed.synced().0, crashed.last().0);
        for missing in synced.div_ceil(PAGE)..end / PAGE {
            let whole = crashed.ends.iter().rfind(|(end, _)| *end <= missing * PAGE);
            for pages in [1, 2, 5] {
                let mut torn = crashed.bytes.clone();
                let hole = missing * PAGE..((missing + pages) * PAGE).min(torn.len());
                torn[hole].fill(0);
                let found = crashed.term_with(&torn).unwrap();
                assert_eq!(found, whole.unwrap().1, "{pages} pages from {missing} on");
            }
        }
    }
}

#[test]
fn the_same_before_the_witnessed_end_is_refused_and_nothing_is_touched() {
    for recycle_wal in BOTH {
        let crashed = Crashed::new(recycle_wal, 6, 2);
        let others = files(crashed.dir.path(), &crashed.log);
        for missing in 0..crashed.synced().0 / PAGE {
            let mut damaged = crashed.bytes.clone();
            damaged[missing * PAGE..(missing + 1) * PAGE].fill(0);
            let error = crashed.open_with(&damaged).unwrap_err();
            assert!(is_log_damage(&error), "page {missing}: {error}");
            assert_eq!(fs::read(&crashed.log).unwrap(), damaged);
            assert_eq!(files(crashed.dir.path(), &crashed.log), others);
        }
    }
}

fn is_log_damage(error: &Error) -> bool {
    let named = "write-ahead log";
    matches!(error, Error::Corruption { what, .. } if *what == named)
}

/// Nothing whole is left of the newest log: how far the older ones reached is in RocksDB's
/// MANIFEST alone.
#[test]
fn a_newest_log_damaged_at_its_start_is_cut_or_refused() {
    for (recycle_wal, synced) in [(false, 0), (false, 3), (true, 0), (true, 3)] {
        let (live, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |dir: &Path| RaftMachineStorage::open(dir, options(recycle_wal));
        let storage = open(live.path()).unwrap();
        storage.append(&entries(1..50, 1)).unwrap();
        drop(storage);
        // What is recovered is flushed, and a new log begun.
        let storage = open(live.path()).unwrap();
        for index in 50..55 {
            let large = [entry(index, 2, vec![7; 5 * PAGE])];
            storage.append(&large).unwrap();
            if index - 49 == synced {
                storage.store().sync().unwrap();
            }
        }
        copy_live(storage.store(), live.path(), dir.path());
        let log = wal_files(dir.path()).pop().unwrap();
        let mut bytes = fs::read(&log).unwrap();
        bytes[..PAGE].fill(0);
        fs::write(&log, &bytes).unwrap();
        let before = files(dir.path(), Path::new("none"));
        if synced == 0 {
            assert_eq!(open(dir.path()).unwrap().last_index(), 49);
        } else {
            let error = open(dir.path()).unwrap_err();
            assert!(is_log_damage(&error), "{error}");
            assert_eq!(files(dir.path(), Path::new("none")), before);
        }
    }
}

/// A second crash, between the cut and the open: the same as a log that ends there.
#[test]
fn a_log_that_was_cut_and_not_yet_opened_opens() {
    for recycle_wal in BOTH {
        let crashed = Crashed::new(recycle_wal, 3, 3);
        let (end, term) = crashed.synced();
        assert_eq!(crashed.term_with(&crashed.bytes[..end]).unwrap(), term);
    }
}

/// A directory with a closed store of ten entries, all witnessed.
fn closed_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(1..11, 1)).unwrap();
    storage.store().clone().close().unwrap();
    drop(storage);
    dir
}

fn open_error(dir: &Path) -> Error {
    RaftMachineStorage::open(dir, unsynced()).unwrap_err()
}

fn refused_for_its_witness(dir: &Path, found: &str) {
    let error = open_error(dir);
    let text = error.to_string();
    assert!(
        matches!(
            error,
            Error::Corruption {
                what: "witness",
                ..
            }
        ) && text.contains(found),
        "{text}"
    );
}

#[test]
fn a_missing_witness_is_refused() {
    let dir = closed_store();
    fs::remove_file(witness_file(dir.path())).unwrap();
    refused_for_its_witness(dir.path(), "found none");
    refused_for_its_witness(dir.path(), "found none");
}

#[test]
fn the_witness_of_another_store_is_refused() {
    let (one, two) = (closed_store(), closed_store());
    fs::copy(witness_file(two.path()), witness_file(one.path())).unwrap();
    refused_for_its_witness(one.path(), "another");
}

#[test]
fn a_torn_slot_falls_back_to_the_other_and_two_are_refused() {
    let dir = closed_store();
    RaftMachineStorage::open(dir.path(), unsynced())
        .unwrap()
        .append(&entries(11..13, 1))
        .unwrap();
    let whole = fs::read(witness_file(dir.path())).unwrap();
    let torn = |slots: &[usize]| {
        let mut bytes = whole.clone();
        slots
            .iter()
            .for_each(|slot| bytes[slot * PAGE + 30..slot * PAGE + 35].fill(0xee));
        fs::write(witness_file(dir.path()), bytes).unwrap();
    };
    torn(&[0, 1]);
    refused_for_its_witness(dir.path(), "8192 bytes");
    for slot in [0, 1] {
        torn(&[slot]);
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        assert_eq!(storage.last_index(), 12);
    }
}

/// As after a power cut, which may take the last second of it.
#[test]
fn an_older_witness_protects_less_and_opens() {
    let dir = closed_store();
    let older = fs::read(witness_file(dir.path())).unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    storage.append(&entries(11..13, 1)).unwrap();
    drop(storage);
    fs::write(wal_files(dir.path()).pop().unwrap(), "").unwrap();
    assert!(matches!(
        open_error(dir.path()),
        Error::AcknowledgedWritesLost { .. }
    ));
    fs::write(witness_file(dir.path()), older).unwrap();
    let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
    assert_eq!(storage.last_index(), 10);
}

#[test]
fn a_database_that_is_gone_is_not_taken_for_a_new_one() {
    let dir = closed_store();
    fs::remove_dir_all(database_dir(dir.path())).unwrap();
    let error = open_error(dir.path());
    assert!(
        matches!(error, Error::AcknowledgedWritesLost { recovered: 0, .. }),
        "{error}"
    );
}

/// The creation of a store may be cut short when there is a witness and no record yet.
#[test]
fn a_witness_that_never_recorded_anything_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    // As `docs/format.md` has it.
    let mut slot = b"RRWITN\0\x01an id of 16 byte".to_vec();
    slot.extend(1u64.to_be_bytes());
    slot.extend(0u64.to_be_bytes());
    slot.extend(crc32c::crc32c(&slot).to_be_bytes());
    slot.resize(2 * PAGE, 0);
    fs::write(witness_file(dir.path()), slot).unwrap();
    for last in [0, 1, 2] {
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        assert_eq!(storage.last_index(), last);
        storage.append(&entries(last + 1..last + 2, 1)).unwrap();
    }
}

/// Stores of before there was a witness have none: it is made, and must be there from then on.
#[test]
fn a_store_without_a_witness_gets_one_at_its_first_open() {
    // A crash may leave the file, and the record that does not know of it yet.
    for file_is_there in BOTH {
        let dir = closed_store();
        tamper(dir.path(), forget_the_witness);
        if !file_is_there {
            fs::remove_file(witness_file(dir.path())).unwrap();
        }
        let storage = RaftMachineStorage::open(dir.path(), unsynced()).unwrap();
        assert_eq!(storage.last_index(), 10);
        drop(storage);
        fs::remove_file(witness_file(dir.path())).unwrap();
        refused_for_its_witness(dir.path(), "found none");
    }
}

/// Without a witness nothing says that what looks damaged was never synced.
#[test]
fn damage_in_a_store_without_a_witness_is_refused() {
    let dir = closed_store();
    tamper(dir.path(), |db| {
        forget_the_witness(db);
        (0..4u8).for_each(|n| db.put([b'z', n], vec![n; 3 * PAGE]).unwrap());
    });
    fs::remove_file(witness_file(dir.path())).unwrap();
    let log = wal_files(dir.path()).pop().unwrap();
    let mut damaged = fs::read(&log).unwrap();
    damaged[4 * PAGE..5 * PAGE].fill(0);
    fs::write(&log, damaged).unwrap();
    let error = open_error(dir.path());
    assert!(is_log_damage(&error), "{error}");
}

/// Makes the format record of a store one of before there were witnesses.
fn forget_the_witness(db: &DB) {
    let bytes = db.get(keys::FORMAT).unwrap().unwrap();
    let mut format = record::decode_format(&bytes).unwrap();
    assert!(format.witness);
    format.witness = false;
    db.put(keys::FORMAT, record::encode_format(&format))
        .unwrap();
}

#[test]
fn strict_syncs_the_witness_before_each_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.statistics = true;
    options.witness = WitnessPolicy::Strict;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    let syncs = || {
        let counted = storage.store().counters().unwrap();
        (counted.wal_syncs, counted.witness_syncs)
    };
    for index in 1..20 {
        let before = syncs();
        storage.append(&entries(index..index + 1, 1)).unwrap();
        assert_eq!(syncs(), (before.0 + 1, before.1 + 1), "append {index}");
    }
    let before = syncs();
    storage.set_commit(5).unwrap();
    assert_eq!(syncs(), before, "what is not synced is not witnessed");
}

/// What each acknowledgement under `Always` promises is in the file when it is given: a store
/// copied then, and deprived of its log, is refused.
#[test]
fn every_acknowledgement_is_witnessed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.fsync = FsyncPolicy::Always;
    let storage = RaftMachineStorage::open(dir.path(), options).unwrap();
    for term in 1..20 {
        let witnessed = fs::read(witness_file(dir.path())).unwrap();
        storage.set_hard_state(&hard_state(term, 1, 0)).unwrap();
        assert_ne!(
            fs::read(witness_file(dir.path())).unwrap(),
            witnessed,
            "term {term}"
        );
    }
    let copied = tempfile::tempdir().unwrap();
    copy_live(storage.store(), dir.path(), copied.path());
    let log = wal_files(copied.path()).pop().unwrap();
    let len = fs::metadata(&log).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(len - 1)
        .unwrap();
    assert!(matches!(
        open_error(copied.path()),
        Error::AcknowledgedWritesLost { .. }
    ));
}

#[test]
fn somebody_elses_database_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    let db = Arc::new(DB::open_cf(&options, dir.path().join("theirs"), ["default"]).unwrap());
    let store = RaftStore::with_db(db, "default", unsynced()).unwrap();
    store.group(0).unwrap().append(&entries(1..3, 1)).unwrap();
    store.close().unwrap();
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert!(!names.iter().any(|name| name == "witness"), "{names:?}");
}
