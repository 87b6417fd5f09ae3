//! `import`: 100,000 entries of each foreign layout come over as they were; what the layout does
//! not know is asked for, and what is damaged is refused.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};

use common::{Said, ctl, entry, fingerprint, hard_state, members, on, open};
use prost::Message as _;
use protobuf::Message as _;
use protobuf::well_known_types::Empty;
use raft_engine::{Config, Engine, LogBatch, MessageExt};
use raft_rocks::raft::eraftpb::{Entry, EntryType, Snapshot};
use raft_rocks::rocksdb::{self, DB, WriteBatch};

const ENTRIES: u64 = 100_000;
const SEED: u64 = 7;

/// Entries of all types, with and without context, of random bytes.
fn random_entries(range: Range<u64>) -> Vec<Entry> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut term = 1;
    range
        .map(|index| {
            term += u64::from(random.u8(..) == 0);
            let len = random.usize(..40);
            let data: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let mut entry = entry(index, term, data);
            if random.u8(..10) == 0 {
                entry.context = b"context".to_vec();
                entry.set_entry_type(EntryType::EntryConfChangeV2);
            }
            entry
        })
        .collect()
}

struct Places {
    _dir: tempfile::TempDir,
    source: PathBuf,
    store: PathBuf,
}

impl Places {
    fn new() -> Places {
        let dir = tempfile::tempdir().unwrap();
        Places {
            source: dir.path().join("source"),
            store: dir.path().join("store"),
            _dir: dir,
        }
    }

    fn import(&self, layout: &str, options: &[&str]) -> Said {
        let (source, store) = (self.source.to_str().unwrap(), self.store.to_str().unwrap());
        let all = ["import", layout, source, store]
            .into_iter()
            .chain(options.iter().copied());
        ctl(all)
    }

    /// The import did nothing, for a reason that says `why`.
    fn refuses(&self, layout: &str, options: &[&str], why: &str) {
        let said = self.import(layout, options);
        assert_eq!(said.code, 1, "{said}");
        assert!(said.stderr.contains(why), "{why}: {said}");
        assert!(!self.store.exists(), "{said}");
        let _ = std::fs::remove_dir_all(self.store.with_extension("partial"));
    }
}

fn assert_imported(store: &Path, group: u64, expected: &[Entry]) {
    assert_eq!(on(store, &["verify"]).code, 0);
    let store = open(store);
    let storage = store.group(group).unwrap();
    let first = expected[0].index;
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (first, first + expected.len() as u64 - 1)
    );
    assert_eq!(
        storage
            .entries(first, storage.last_index() + 1, None)
            .unwrap(),
        expected
    );
}

/// A database as the origin of this layout writes it: one family, JSON, decimal indexes.
struct Origin {
    db: DB,
}

const FAMILY: &str = "cluster";

impl Origin {
    fn new(dir: &Path) -> Origin {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        Origin {
            db: DB::open_cf(&options, dir, ["default", "mqtt", FAMILY]).unwrap(),
        }
    }

    fn put(&self, key: &str, value: impl Into<serde_json::Value>) {
        let family = self.db.cf_handle(FAMILY).unwrap();
        self.db
            .put_cf(&family, key, value.into().to_string())
            .unwrap();
    }

    fn delete(&self, key: &str) {
        let family = self.db.cf_handle(FAMILY).unwrap();
        self.db.delete_cf(&family, key).unwrap();
    }

    fn entries(&self, entries: &[Entry]) {
        let family = self.db.cf_handle(FAMILY).unwrap();
        let mut batch = WriteBatch::default();
        for entry in entries {
            let value = serde_json::to_string(&prost::Message::encode_to_vec(entry)).unwrap();
            batch.put_cf(&family, format!("/raft/entry/{}", entry.index), value);
        }
        self.db.write(batch).unwrap();
    }

    /// With the states it has when `commit` is committed in `term`.
    fn make(dir: &Path, entries: &[Entry], term: u64, commit: u64) -> Origin {
        let origin = Origin::new(dir);
        origin.entries(entries);
        origin.put("/raft/last_index", entries.last().unwrap().index);
        origin.put(
            "/raft/hard_state",
            prost::Message::encode_to_vec(&hard_state(term, 2, commit)),
        );
        origin.put(
            "/raft/conf_state",
            prost::Message::encode_to_vec(&members()),
        );
        origin.put("/raft/uncommit_index", vec![0_u8; 8]);
        origin
    }
}

#[test]
fn entries_of_the_json_layout_come_over_as_they_were() {
    let places = Places::new();
    let expected = random_entries(1..ENTRIES + 1);
    let term = expected.last().unwrap().term;
    drop(Origin::make(&places.source, &expected, term, ENTRIES - 10));
    let before = fingerprint(&places.source);
    let said = places.import("json", &[]);
    assert_eq!(said.code, 0, "{said}");
    assert!(
        fingerprint(&places.source) == before,
        "the source was changed"
    );
    assert_imported(&places.store, 0, &expected);
    let storage = open(&places.store).group(0).unwrap();
    assert_eq!(storage.hard_state(), hard_state(term, 2, ENTRIES - 10));
    assert_eq!(
        (storage.conf_state(), storage.applied_index()),
        (members(), ENTRIES - 10)
    );
}

/// There the first index is that of the snapshot, nothing before it is removed, and a tail that
/// was replaced by a shorter one stays behind the last index.
#[test]
fn a_compacted_json_layout_keeps_its_snapshot_and_loses_what_is_stale() {
    let places = Places::new();
    let entries = random_entries(1..101);
    let origin = Origin::make(&places.source, &entries, 9, 80);
    origin.put("/raft/first_index", 60);
    origin.put("/raft/last_index", 95);
    let mut snapshot = Snapshot::default();
    snapshot.data = b"state at 60".to_vec();
    snapshot.mut_metadata().index = 60;
    snapshot.mut_metadata().term = entries[59].term;
    snapshot.mut_metadata().set_conf_state(members());
    origin.put("/raft/snapshot", prost::Message::encode_to_vec(&snapshot));
    drop(origin);
    let said = places.import("json", &["--group", "4", "--applied", "70"]);
    assert_eq!(said.code, 0, "{said}");
    assert_imported(&places.store, 4, &entries[59..95]);
    let storage = open(&places.store).group(4).unwrap();
    assert_eq!(storage.term(59).unwrap(), entries[58].term);
    assert_eq!(
        (storage.applied_index(), storage.hard_state().commit),
        (70, 80)
    );
    assert_eq!(storage.snapshot_metadata().unwrap().index, 60);
}

#[test]
fn a_json_layout_that_is_not_whole_is_refused() {
    let refused = |damage: fn(&Origin), why: &str| {
        let places = Places::new();
        let origin = Origin::make(&places.source, &random_entries(1..101), 9, 80);
        damage(&origin);
        drop(origin);
        places.refuses("json", &[], why);
    };
    refused(
        |origin| origin.delete("/raft/entry/50"),
        "/raft/entry/50 is missing",
    );
    refused(|origin| origin.delete("/raft/hard_state"), "may vote twice");
    refused(
        |origin| origin.delete("/raft/conf_state"),
        "no /raft/conf_state",
    );
    refused(
        |origin| origin.put("/raft/entry/50", "text"),
        "no array of bytes",
    );
    refused(
        |origin| origin.put("/raft/entry/50", vec![255_u8; 9]),
        "no message of raft",
    );
    refused(
        |origin| {
            origin.put(
                "/raft/entry/50",
                prost::Message::encode_to_vec(&entry(51, 1, "x")),
            )
        },
        "holds the entry 51",
    );
    refused(
        |origin| {
            origin.put(
                "/raft/entry/50",
                prost::Message::encode_to_vec(&entry(50, 40, "x")),
            )
        },
        "behind term 40",
    );
    refused(
        |origin| origin.put("/raft/last_index", 70),
        "outside of its log",
    );
    let places = Places::new();
    places.refuses("json", &[], "is no RocksDB");
}

/// raft-engine's idea of an entry: here any message, as its fields stand.
struct Message;

impl MessageExt for Message {
    type Entry = Empty;

    fn index(entry: &Empty) -> u64 {
        entry.get_unknown_fields().get(3).unwrap().varint[0]
    }
}

const HARD_STATE: &[u8] = b"\x01hard_state";
const CONF_STATE: &[u8] = b"\x02";
const KEYS: [&str; 6] = [
    "--hard-state-key",
    "01686172645f7374617465",
    "--conf-state-key",
    "02",
    "--applied",
    "commit",
];

fn engine(dir: &Path) -> Engine {
    let config = Config {
        dir: dir.to_str().unwrap().to_owned(),
        ..Config::default()
    };
    Engine::open(config).unwrap()
}

fn put_region(engine: &Engine, region: u64, entries: &[Entry], commit: u64) {
    for chunk in entries.chunks(5000) {
        let message =
            |entry: &Entry| Empty::parse_from_bytes(&prost::Message::encode_to_vec(entry)).unwrap();
        let messages: Vec<Empty> = chunk.iter().map(message).collect();
        let mut batch = LogBatch::default();
        batch.add_entries::<Message>(region, &messages).unwrap();
        engine.write(&mut batch, false).unwrap();
    }
    let term = entries.last().unwrap().term;
    let mut batch = LogBatch::default();
    let state = hard_state(term, 2, commit).encode_to_vec();
    batch.put(region, HARD_STATE.to_vec(), state).unwrap();
    batch
        .put(region, CONF_STATE.to_vec(), members().encode_to_vec())
        .unwrap();
    engine.write(&mut batch, true).unwrap();
}

#[test]
fn entries_of_raft_engine_come_over_as_they_were() {
    let places = Places::new();
    let expected = random_entries(1..ENTRIES + 1);
    let term = expected.last().unwrap().term;
    put_region(&engine(&places.source), 3, &expected, ENTRIES - 10);
    let before = fingerprint(&places.source);
    let said = places.import("raft-engine", &KEYS);
    assert_eq!(said.code, 0, "{said}");
    assert!(
        fingerprint(&places.source) == before,
        "the source was changed"
    );
    assert_imported(&places.store, 3, &expected);
    let storage = open(&places.store).group(3).unwrap();
    assert_eq!(storage.hard_state(), hard_state(term, 2, ENTRIES - 10));
    assert_eq!(
        (storage.conf_state(), storage.applied_index()),
        (members(), ENTRIES - 10)
    );
}

#[test]
fn every_region_becomes_a_group_and_a_compacted_one_begins_behind_its_first_entry() {
    let places = Places::new();
    let entries = random_entries(1..101);
    let source = engine(&places.source);
    put_region(&source, 3, &entries, 90);
    put_region(&source, 8, &entries[..50], 50);
    source.compact_to(3, 40);
    drop(source);
    let said = places.import("raft-engine", &KEYS);
    assert_eq!(said.code, 0, "{said}");
    assert_imported(&places.store, 8, &entries[..50]);
    assert_imported(&places.store, 3, &entries[40..]);
    let storage = open(&places.store).group(3).unwrap();
    assert_eq!(storage.term(40).unwrap(), entries[39].term);
}

#[test]
fn what_raft_engine_does_not_know_is_asked_for() {
    let places = Places::new();
    let entries = random_entries(1..101);
    put_region(&engine(&places.source), 3, &entries, 90);
    let states = [
        "--region", "3", "--term", "7", "--vote", "1", "--commit", "60",
    ];
    let conf = ["--voters", "1,2,3"];
    let refuses =
        |options: &[&[&str]], why: &str| places.refuses("raft-engine", &options.concat(), why);
    refuses(&[&conf, &["--applied", "60"]], "where the hard state is");
    refuses(&[&states, &["--applied", "60"]], "who the members are");
    refuses(&[&states, &conf], "has applied");
    refuses(
        &[&states, &conf, &["--applied", "200"]],
        "outside of its log",
    );
    refuses(
        &[&["--hard-state-key", "0177"], &conf, &["--applied", "60"]],
        "no such key",
    );
    refuses(
        &[&["--hard-state-key", "017"], &conf, &["--applied", "60"]],
        "hexadecimal",
    );
    refuses(
        &[
            &["--region", "4"],
            &states[2..],
            &conf,
            &["--applied", "60"],
        ],
        "no region 4",
    );
    refuses(&[&["--term", "7"], &conf, &["--applied", "60"]], "--vote");
    let given = [&states[..], &conf, &["--applied", "50", "--group", "0"]].concat();
    let said = places.import("raft-engine", &given);
    assert_eq!(said.code, 0, "{said}");
    assert_imported(&places.store, 0, &entries);
    let storage = open(&places.store).group(0).unwrap();
    assert_eq!(storage.hard_state(), hard_state(7, 1, 60));
    assert_eq!(
        (storage.conf_state(), storage.applied_index()),
        (members(), 50)
    );
}
