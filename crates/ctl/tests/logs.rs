//! Stores with several write-ahead logs that recovery needs: what a repair keeps is always a
//! state that was, without a hole.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{contents, entries, entry, files, hard_state, members, on, open};
use raft_rocks::keys::{self, Meta};
use raft_rocks::record::{self, HardState, LastIndex};
use raft_rocks::rocksdb::{self, DB, WriteBatch};
use raft_rocks::{Options, RaftStore};

/// What each log here adds to the 10 entries in the tables.
const PER_LOG: u64 = 5;

/// Opens the database so that what is in its logs stays there, and a new one is begun.
fn open_without_flush(store: &Path, families: &[&str]) -> DB {
    let mut options = rocksdb::Options::default();
    options.set_track_and_verify_wals_in_manifest(true);
    let options = options
        .get_options_from_string("avoid_flush_during_recovery=true")
        .unwrap();
    DB::open_cf(&options, store.join("db"), families).unwrap()
}

fn append(db: &DB, index: u64) {
    let (mut batch, mut value) = (WriteBatch::default(), Vec::new());
    let last = LastIndex {
        last_index: index,
        last_term: 1,
    };
    record::encode_entry(
        0,
        &entry(index, 1, format!("entry {index} of term 1")),
        &mut value,
    )
    .unwrap();
    batch.put(keys::entry(0, index), value);
    batch.put(
        keys::meta(0, Meta::LastIndex),
        record::encode_meta(0, &last),
    );
    // As a node that votes in a term of its own before each: entries do not show a vote that is
    // missing.
    let state = HardState {
        term: index,
        vote: 1,
        commit: 3,
    };
    batch.put(
        keys::meta(0, Meta::HardState),
        record::encode_meta(0, &state),
    );
    db.write(batch).unwrap();
    db.flush_wal(true).unwrap();
}

/// A store with three logs that hold entries; returns those.
fn several_logs(store: &Path) -> Vec<PathBuf> {
    let opened = open(store);
    let storage = opened.group(0).unwrap();
    storage.initialize_with_conf_state(members()).unwrap();
    storage.append(&entries(1..11, 1)).unwrap();
    storage.set_hard_state(&hard_state(1, 1, 3)).unwrap();
    drop((storage, opened));
    // Flushes all that, and empties its own log.
    drop(open(store));
    let mut next = 11;
    for _ in 0..3 {
        let db = open_without_flush(store, &["default"]);
        for index in next..next + PER_LOG {
            append(&db, index);
        }
        next += PER_LOG;
    }
    let mut logs = files(store, ".log");
    logs.retain(|log| fs::metadata(log).unwrap().len() > 0);
    assert_eq!(logs.len(), 3, "{logs:?}");
    logs
}

/// Damages one of the logs, and asserts what is left after a loss was accepted: the last index, and
/// the term.
fn left_with(damage: impl FnOnce(&[PathBuf]), last: u64, term: u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    damage(&several_logs(&store));
    let verified = on(&store, &["verify"]);
    assert_eq!(verified.code, 3, "{verified}");
    let repaired = on(&store, &["repair", "--yes", "--accept-loss"]);
    assert_eq!(repaired.code, 0, "{repaired}");
    let storage = open(&store).group(0).unwrap();
    assert_eq!(storage.last_index(), last);
    assert_eq!(storage.hard_state().term, term, "of another time");
    assert_eq!(
        storage.entries(1, last + 1, None).unwrap(),
        entries(1..last + 1, 1)
    );
}

#[test]
fn several_logs_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    several_logs(dir.path());
    assert_eq!(on(dir.path(), &["verify"]).code, 0);
    assert_eq!(open(dir.path()).group(0).unwrap().last_index(), 25);
}

#[test]
fn behind_a_missing_log_nothing_is_kept() {
    left_with(|logs| fs::remove_file(&logs[1]).unwrap(), 15, 15);
    // Only what the MANIFEST knows in tables says that there was one before.
    left_with(|logs| fs::remove_file(&logs[0]).unwrap(), 10, 1);
}

#[test]
fn behind_a_damaged_log_nothing_is_kept() {
    left_with(|logs| common::flip_bit(&logs[0], 20), 10, 1);
    left_with(|logs| common::flip_bit(&logs[1], 400), 17, 17);
}

/// Whole in itself, and yet not what was written.
#[test]
fn behind_a_log_that_ends_too_early_nothing_is_kept() {
    let zero = |log: &PathBuf, from: usize| {
        let mut bytes = fs::read(log).unwrap();
        bytes[from..].fill(0);
        fs::write(log, bytes).unwrap();
    };
    left_with(|logs| zero(&logs[1], 0), 15, 15);
    left_with(|logs| zero(&logs[0], 0), 10, 1);
}

/// A store with a family of the application that was never flushed, while group 0 was: its older
/// log is needed, and known to the MANIFEST. Returns that log.
fn families_flushed_apart(store: &Path) -> PathBuf {
    let mut options = Options::default();
    options.column_families = vec!["machine".to_owned()];
    drop(RaftStore::open(store, options).unwrap());
    let opened = open(store);
    opened.group(0).unwrap().append(&entries(1..11, 1)).unwrap();
    drop(opened);
    drop(open(store));
    let db = open_without_flush(store, &["default", "machine"]);
    let machine = db.cf_handle("machine").unwrap();
    db.put_cf(&machine, "key", "never flushed").unwrap();
    (11..16).for_each(|index| append(&db, index));
    db.flush().unwrap();
    append(&db, 16);
    drop(db);
    let mut logs = files(store, ".log").into_iter();
    logs.find(|log| fs::metadata(log).unwrap().len() > 0)
        .unwrap()
}

/// A family that was flushed further than the others would be ahead of them.
#[test]
fn families_of_different_times_are_not_put_together() {
    let damages: [fn(&Path); 2] = [
        |log| common::flip_bit(log, 300),
        |log| fs::remove_file(log).unwrap(),
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        damage(&families_flushed_apart(&store));
        let before = contents(&store);
        let repaired = on(&store, &["repair", "--yes", "--accept-loss", "--json"]);
        assert_eq!(repaired.code, 3, "{repaired}");
        assert_eq!(repaired.json()["outcome"], "impossible", "{repaired}");
        assert_eq!(contents(&store), before);
    }
}

/// With one family the flushed state is one that was. The MANIFEST knows of the log that is
/// missing.
#[test]
fn without_a_log_that_was_synced_only_the_tables_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let log = families_flushed_apart(&store);
    let mut options = rocksdb::Options::default();
    options.set_track_and_verify_wals_in_manifest(true);
    let options = options
        .get_options_from_string("avoid_flush_during_recovery=true")
        .unwrap();
    let mut db = DB::open_cf(&options, store.join("db"), ["default", "machine"]).unwrap();
    // The older logs stay needed until something is flushed.
    db.drop_cf("machine").unwrap();
    drop(db);
    fs::remove_file(log).unwrap();
    let repaired = on(&store, &["repair", "--yes", "--accept-loss"]);
    assert_eq!(repaired.code, 0, "{repaired}");
    let storage = open(&store).group(0).unwrap();
    assert_eq!(storage.entries(1, 16, None).unwrap(), entries(1..16, 1));
    assert_eq!(storage.last_index(), 15);
}

/// Behind the end of a recycled log stands what is left of an older one.
#[test]
fn recycled_logs_are_read_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut options = Options::default();
    options.memtable_bytes = 64 << 10;
    options.recycle_wal = true;
    let opened = RaftStore::open(&store, options).unwrap();
    let storage = opened.group(0).unwrap();
    for index in 1..401 {
        storage.append(&[entry(index, 1, vec![7; 1000])]).unwrap();
    }
    drop((storage, opened));
    assert_eq!(on(&store, &["verify"]).code, 0);
    let newest = files(&store, ".log").pop().unwrap();
    common::flip_bit(&newest, 700);
    let verified = on(&store, &["verify"]);
    assert_eq!(verified.code, 3, "{verified}");
    let repaired = on(&store, &["repair", "--yes", "--accept-loss"]);
    assert_eq!(repaired.code, 0, "{repaired}");
    let storage = open(&store).group(0).unwrap();
    let last = storage.last_index();
    assert!((300..400).contains(&last), "{last}");
    assert_eq!(
        storage.entries(1, last + 1, None).unwrap().len() as u64,
        last
    );
}
