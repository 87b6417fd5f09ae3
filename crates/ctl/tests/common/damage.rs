//! The set of damaged stores: how each is made, and what the tool has to say of it.

use std::fs;
use std::path::Path;

use raft_rocks::keys::{self, Meta};
use raft_rocks::record::{self, FirstIndex, LastIndex, MetaRecord, StoreFormat, UncommitIndex};
use raft_rocks::rocksdb::DB;

use super::{files, flip_bit, make_store, tamper};

/// What `repair` does about a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `--yes` mends it, and nothing is forgotten.
    Mended(After),
    /// `--yes` refuses, `--yes --accept-loss` goes on with what is left.
    Accepted(After),
    /// Both refuse.
    Impossible,
}

/// Group 0 after a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    pub first: u64,
    pub last: u64,
    pub has_snapshot: bool,
}

const fn after(first: u64, last: u64) -> After {
    After {
        first,
        last,
        has_snapshot: true,
    }
}

pub struct Damage {
    pub name: &'static str,
    pub make: fn(&Path),
    /// Of `verify`, `doctor` and `repair` without `--yes`.
    pub exit: i32,
    /// Among the codes of the findings.
    pub code: &'static str,
    /// Where it is, as the finding names it; an ending.
    pub at: &'static str,
    pub way: Way,
}

macro_rules! damages {
    ($($name:ident: $exit:literal $code:literal $at:literal $way:expr, $make:expr;)+) => {
        pub const ALL: &[Damage] = &[$(Damage {
            name: stringify!($name),
            make: $make,
            exit: $exit,
            code: $code,
            at: $at,
            way: $way,
        }),+];

        /// A test for each.
        #[macro_export]
        macro_rules! test_each_damage {
            ($check:path) => {
                $(#[test]
                fn $name() {
                    $check(stringify!($name));
                })+
            };
        }
    };
}

use Way::{Accepted, Impossible, Mended};

damages! {
    newest_log_deleted: 3 "acknowledged-writes-lost" "write-ahead log" Accepted(after(11, 30)),
        |store| fs::remove_file(newest_log(store)).unwrap();
    newest_log_cut: 3 "acknowledged-writes-lost" "write-ahead log" Accepted(after(11, 59)),
        |store| shorten(&newest_log(store));
    bit_flip_in_the_log: 3 "log-damaged" ".log" Accepted(after(11, 43)),
        |store| flip_bit(&newest_log(store), 1500);
    bit_flip_in_a_table: 3 "database-damaged" "/db" Impossible,
        |store| flip_bit(&files(store, ".sst")[0], 200);
    table_missing: 3 "database-damaged" "/db" Impossible,
        |store| fs::remove_file(&files(store, ".sst")[0]).unwrap();
    manifest_damaged: 3 "database-damaged" "/db" Impossible,
        |store| flip_manifest(store);
    witness_missing: 3 "witness-missing" "witness" Accepted(after(11, 60)),
        |store| fs::remove_file(store.join("witness")).unwrap();
    witness_damaged: 3 "witness-damaged" "witness" Accepted(after(11, 60)),
        |store| fs::write(store.join("witness"), vec![0; 8192]).unwrap();
    witness_of_another_store: 3 "witness-foreign" "witness" Accepted(after(11, 60)),
        |store| put_witness_of_another(store);
    current_missing: 2 "current-missing" "CURRENT" Mended(after(11, 60)),
        |store| fs::remove_file(store.join("db/CURRENT")).unwrap();
    format_missing: 3 "format-damaged" "/format" Impossible,
        |store| tamper(store, |db| db.delete(keys::FORMAT).unwrap());
    format_newer: 5 "format-newer" "the store" Impossible,
        |store| tamper(store, newer_format);
    hole_behind_the_commit: 3 "hole" "/raft/entry/55" Accepted(after(11, 54)),
        |store| tamper(store, |db| db.delete(keys::entry(0, 55)).unwrap());
    hole_in_what_is_committed: 3 "hole" "/raft/entry/45" Impossible,
        |store| tamper(store, |db| db.delete(keys::entry(0, 45)).unwrap());
    hole_that_the_snapshot_covers: 2 "hole" "/raft/entry/15" Mended(after(21, 60)),
        |store| tamper(store, |db| db.delete(keys::entry(0, 15)).unwrap());
    first_entry_missing: 2 "hole" "/raft/entry/11" Mended(after(21, 60)),
        |store| tamper(store, |db| db.delete(keys::entry(0, 11)).unwrap());
    last_entry_missing: 3 "hole" "/raft/entry/60" Accepted(after(11, 59)),
        |store| tamper(store, |db| db.delete(keys::entry(0, 60)).unwrap());
    last_index_too_low: 2 "last-index-wrong" "/raft/last_index" Mended(after(11, 60)),
        |store| put(store, &LastIndex { last_index: 58, last_term: 3 });
    last_index_too_high: 3 "hole" "/raft/entry/61" Accepted(after(11, 60)),
        |store| put(store, &LastIndex { last_index: 62, last_term: 3 });
    last_index_of_another_term: 2 "last-index-wrong" "/raft/last_index" Mended(after(11, 60)),
        |store| put(store, &LastIndex { last_index: 60, last_term: 2 });
    last_index_missing: 2 "record-missing" "/raft/last_index" Mended(after(11, 60)),
        |store| delete(store, Meta::LastIndex);
    first_index_missing: 2 "record-missing" "/raft/first_index" Mended(after(21, 60)),
        |store| delete(store, Meta::FirstIndex);
    first_index_contradicts_itself: 3 "invariant" "/raft/first_index" Impossible,
        |store| put(store, &FirstIndex { first_index: 11, truncated_index: 9, truncated_term: 1 });
    uncommit_index_wrong: 2 "uncommit-index-wrong" "/raft/uncommit_index" Mended(after(11, 60)),
        |store| put(store, &UncommitIndex { uncommit_index: 7 });
    hard_state_missing: 3 "record-missing" "/raft/hard_state" Impossible,
        |store| delete(store, Meta::HardState);
    conf_state_damaged: 3 "record-damaged" "/raft/conf_state" Impossible,
        |store| flip_record(store, &keys::meta(0, Meta::ConfState));
    uncommitted_entry_damaged: 3 "entry-damaged" "/raft/entry/57" Accepted(after(11, 56)),
        |store| flip_record(store, &keys::entry(0, 57));
    committed_entry_damaged: 3 "entry-damaged" "/raft/entry/45" Impossible,
        |store| flip_record(store, &keys::entry(0, 45));
    terms_fall_behind_the_commit: 3 "terms-fall" "/raft/entry/58" Accepted(after(11, 57)),
        |store| put_entry(store, 58, 2);
    snapshot_file_missing: 3 "snapshot-file" ".snap"
        Accepted(After { first: 11, last: 60, has_snapshot: false }),
        |store| fs::remove_file(snapshot_file(store)).unwrap();
    snapshot_file_damaged: 3 "snapshot-file" ".snap"
        Accepted(After { first: 11, last: 60, has_snapshot: false }),
        |store| flip_bit(&snapshot_file(store), 50_000);
}

/// Makes a store and damages it.
pub fn make(name: &str, store: &Path) -> &'static Damage {
    let damage = ALL.iter().find(|damage| damage.name == name).unwrap();
    make_store(store);
    (damage.make)(store);
    damage
}

fn newest_log(store: &Path) -> std::path::PathBuf {
    files(store, ".log").pop().unwrap()
}

/// Takes the last writes away, and the end of one with them.
fn shorten(log: &Path) {
    let len = fs::metadata(log).unwrap().len();
    let file = fs::File::options().write(true).open(log).unwrap();
    file.set_len(len - 150).unwrap();
}

fn flip_manifest(store: &Path) {
    let listing = fs::read_dir(store.join("db")).unwrap();
    let names = listing.map(|file| file.unwrap().path());
    let manifest = names
        .filter(|path| path.to_str().unwrap().contains("MANIFEST"))
        .max()
        .unwrap();
    flip_bit(&manifest, 20);
}

fn put_witness_of_another(store: &Path) {
    let other = tempfile::tempdir().unwrap();
    make_store(other.path());
    fs::copy(other.path().join("witness"), store.join("witness")).unwrap();
}

fn newer_format(db: &DB) {
    let newer = StoreFormat {
        version: 2,
        store_id: vec![7; 16],
        witness: true,
    };
    db.put(keys::FORMAT, record::encode_format(&newer)).unwrap();
}

fn put<R: MetaRecord>(store: &Path, record: &R) {
    let value = record::encode_meta(0, record);
    tamper(store, |db| db.put(keys::meta(0, R::META), value).unwrap());
}

fn delete(store: &Path, meta: Meta) {
    tamper(store, |db| db.delete(keys::meta(0, meta)).unwrap());
}

fn put_entry(store: &Path, index: u64, term: u64) {
    let mut value = Vec::new();
    record::encode_entry(0, &super::entry(index, term, "x"), &mut value).unwrap();
    tamper(store, |db| db.put(keys::entry(0, index), value).unwrap());
}

fn flip_record(store: &Path, key: &[u8]) {
    tamper(store, |db| {
        let mut value = db.get(key).unwrap().unwrap();
        let middle = value.len() / 2;
        value[middle] ^= 0x10;
        db.put(key, value).unwrap();
    });
}

fn snapshot_file(store: &Path) -> std::path::PathBuf {
    let listing = fs::read_dir(store.join("snapshots")).unwrap();
    let mut paths = listing.map(|file| file.unwrap().path());
    paths
        .find(|path| path.extension().is_some_and(|ending| ending == "snap"))
        .unwrap()
}
