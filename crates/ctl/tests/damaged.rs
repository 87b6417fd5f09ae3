//! `verify`, `doctor` and `repair` give the documented answer on each store of the damaged set
//! (`common/damage.rs`), and only what was accepted changes anything.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::path::Path;

use common::damage::{self, After, Way};
use common::{Said, contents, entries, fingerprint, make_store, on, open};
use raft_rocks::{Options, RaftStore};

test_each_damage!(check);

fn check(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let damage = damage::make(name, &store);
    assert!(!opens(&store), "an open takes it");
    let before = fingerprint(&store);

    let verified = on(&store, &["verify", "--json"]);
    assert_eq!(verified.code, damage.exit, "{verified}");
    assert!(
        verified.codes().contains(&damage.code.to_owned()),
        "{verified}"
    );
    let findings = verified.json()["findings"].as_array().unwrap().clone();
    let is_there = |at: &str| at.ends_with(damage.at);
    assert!(
        findings
            .iter()
            .any(|found| is_there(found["at"].as_str().unwrap())),
        "{verified}"
    );

    let doctor = on(&store, &["doctor"]);
    assert_eq!(doctor.code, damage.exit, "{doctor}");
    assert_doctor(&doctor, &damage.way, damage.code);
    for command in ["inspect", "dump"] {
        let said = on(&store, &[command]);
        assert_ne!(said.code, 1, "{command}: {said}");
        assert!(!said.stderr.contains("panicked"), "{said}");
    }
    let dry = on(&store, &["repair", "--json"]);
    assert_eq!(dry.code, damage.exit, "{dry}");
    assert_unchanged(&store, &before, "without --yes");

    let undo = dir.path().join("undo");
    let repair = |accept: &[&str]| {
        let mut args = vec![
            "repair",
            "--json",
            "--yes",
            "--undo",
            undo.to_str().unwrap(),
        ];
        args.extend(accept);
        on(&store, &args)
    };
    let damaged = contents(&store);
    let (done, after) = match damage.way {
        Way::Mended(after) => (repair(&[]), after),
        Way::Accepted(after) => {
            let refused = repair(&[]);
            assert_eq!(refused.code, 3, "{refused}");
            assert_eq!(refused.json()["outcome"], "not accepted");
            assert_unchanged(&store, &before, "without --accept-loss");
            (repair(&["--accept-loss"]), after)
        }
        Way::Impossible => {
            let refused = repair(&["--accept-loss"]);
            assert_eq!(refused.code, damage.exit, "{refused}");
            assert_eq!(refused.json()["outcome"], "impossible", "{refused}");
            assert_unchanged(&store, &before, "where nothing can be done");
            return;
        }
    };
    assert_eq!(done.code, 0, "{done}");
    assert_eq!(done.json()["outcome"], "done");
    assert_eq!(contents(&undo), damaged, "the undo copy");
    assert_mended(&store, after);
    let again = on(&store, &["repair", "--yes", "--json"]);
    assert_eq!(again.json()["outcome"], "sound", "{again}");
}

fn opens(store: &Path) -> bool {
    let copy = tempfile::tempdir().unwrap();
    common::copy_store(store, copy.path());
    let opened = RaftStore::open(copy.path(), Options::default());
    opened.is_ok_and(|store| {
        store
            .groups()
            .unwrap()
            .into_iter()
            .all(|id| store.group(id).is_ok())
    })
}

/// Everything but the lock that a repair has to take.
fn assert_unchanged(
    store: &Path,
    before: &std::collections::BTreeMap<std::path::PathBuf, (Vec<u8>, std::time::SystemTime)>,
    when: &str,
) {
    let now = fingerprint(store);
    let names = |all: &std::collections::BTreeMap<std::path::PathBuf, _>| {
        all.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names(&now), names(before), "{when}");
    for (name, found) in &now {
        assert!(
            found == &before[name],
            "{} was changed {when}",
            name.display()
        );
    }
}

fn assert_doctor(said: &Said, way: &Way, code: &str) {
    let text = &said.stdout;
    assert!(text.contains(&format!("[{code}]")), "{said}");
    assert!(
        text.contains("The rule:") && text.contains("What it means:"),
        "{said}"
    );
    let offers = |what: &str| text.contains(what);
    match way {
        Way::Mended(_) => assert!(offers("nothing is forgotten") && !offers("accept the loss")),
        Way::Accepted(_) => assert!(offers("accept the loss") && offers("(forgets what was")),
        Way::Impossible => assert!(offers("cannot be mended") && !offers("--yes"), "{said}"),
    }
    if said.code == 3 {
        assert!(offers("replace the node"), "{said}");
    }
}

fn assert_mended(store: &Path, after: After) {
    let verified = on(store, &["verify"]);
    assert_eq!(verified.code, 0, "{verified}");
    let store = open(store);
    let storage = store.group(0).unwrap();
    let (first, last) = (storage.first_index(), storage.last_index());
    assert_eq!((first, last), (after.first, after.last));
    assert_eq!(storage.snapshot_metadata().is_some(), after.has_snapshot);
    let mut expected = entries(1..31, 1);
    expected.extend(entries(31..61, 3));
    assert_eq!(
        storage.entries(first, last + 1, None).unwrap(),
        expected[first as usize - 1..last as usize]
    );
    assert_eq!(storage.term(first - 1).unwrap(), 1);
    // It goes on from there.
    storage.append(&entries(last + 1..last + 3, 5)).unwrap();
    let other = store.group(7).unwrap();
    assert_eq!(other.entries(1, 6, None).unwrap(), entries(1..6, 1));
    assert_eq!(other.hard_state(), common::hard_state(1, 3, 5));
}

/// The set, to be looked at by hand.
#[test]
#[ignore = "writes to the directory that RAFT_ROCKS_DAMAGED_DIR names"]
fn write_the_set() {
    let dir = std::env::var("RAFT_ROCKS_DAMAGED_DIR").unwrap();
    for damage in damage::ALL {
        damage::make(damage.name, &Path::new(&dir).join(damage.name));
    }
}

#[test]
fn a_sound_store_is_called_sound_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    let before = fingerprint(dir.path());
    for command in ["inspect", "verify", "dump", "doctor"] {
        for format in ["--json", "--snapshots=snapshots-elsewhere"] {
            let said = on(dir.path(), &[command, format]);
            let is_judged = format != "--json" && ["verify", "doctor"].contains(&command);
            assert_eq!(
                said.code,
                if is_judged { 3 } else { 0 },
                "{command}: {said}"
            );
        }
    }
    let repaired = on(dir.path(), &["repair", "--yes", "--accept-loss", "--json"]);
    assert_eq!(
        (repaired.code, repaired.json()["outcome"].as_str()),
        (0, Some("sound"))
    );
    assert_unchanged(dir.path(), &before, "though it is sound");
}

/// A loss that was accepted is the beginning of another store: a node that remembers which store
/// it had can tell.
#[test]
fn an_accepted_loss_gives_the_store_another_identity() {
    let id = |dir: &Path| on(dir, &["inspect", "--json"]).json()["store_id"].clone();
    for (name, changes) in [("newest_log_deleted", true), ("last_index_too_low", false)] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        damage::make(name, &store);
        let before = id(&store);
        assert_eq!(on(&store, &["repair", "--yes", "--accept-loss"]).code, 0);
        assert_eq!(id(&store) != before, changes, "{name}");
        let now = on(&store, &["inspect", "--json"]).json();
        if changes {
            assert_eq!(
                now["witness"]["sequence"], now["sequence"],
                "nothing was written since"
            );
        }
    }
}

/// `raft-rocks-ctl ... | head` is no reason to panic.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure_to_talk_of() {
    let dir = tempfile::tempdir().unwrap();
    make_store(dir.path());
    for command in ["inspect", "verify", "dump", "doctor"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut tool = std::process::Command::new(env!("CARGO_BIN_EXE_raft-rocks-ctl"));
        let tool = tool.arg(command).arg(dir.path()).stdout(writer);
        let output = tool.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            !stderr.contains("panicked") && !stderr.contains("pipe"),
            "{command}: {stderr}"
        );
    }
}

/// What was forgotten comes back when the undo copy is moved into the store's place.
#[test]
fn an_undo_copy_is_the_store_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    damage::make("uncommitted_entry_damaged", &store);
    let before = on(&store, &["dump", "--json"]);
    let repaired = on(&store, &["repair", "--yes", "--accept-loss", "--json"]);
    let undo = repaired.json()["undo"].as_str().unwrap().to_owned();
    assert_ne!(on(&store, &["dump", "--json"]).stdout, before.stdout);
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(undo, &store).unwrap();
    assert_eq!(on(&store, &["dump", "--json"]).stdout, before.stdout);
    assert_eq!(on(&store, &["verify"]).code, 3);
}

/// What an open asks first, which groups there are, may be all that it cannot read.
#[test]
fn no_block_of_a_table_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    make_store(&sound);
    let opened = open(&sound);
    for group in [0, 9] {
        let storage = opened.group(group).unwrap();
        let next = storage.last_index() + 1;
        let entries = common::entries_of(next..next + 60, 4, 1000);
        storage.append(&entries).unwrap();
    }
    drop(opened);
    drop(open(&sound));
    let table = common::files(&sound, ".sst").pop().unwrap();
    let len = std::fs::metadata(&table).unwrap().len() as usize;
    assert!(len > 100_000, "several blocks");
    let name = table.file_name().unwrap();
    for place in (500..len - 8000).step_by(8000) {
        let store = dir.path().join(format!("at-{place}"));
        common::copy_store(&sound, &store);
        common::flip_bit(&store.join("db").join(name), place);
        let said = on(&store, &["verify"]);
        assert_eq!(said.code, 3, "{place}: {said}");
        assert!(!opens(&store));
    }
}

/// Whatever is damaged, the tool and an open agree on whether the store is sound.
/// `RAFT_ROCKS_SEED` and `RAFT_ROCKS_CTL_CASES` replay or extend it.
#[test]
fn verify_calls_sound_what_an_open_takes_and_nothing_else() {
    let (seed, cases) = (
        common::from_env("RAFT_ROCKS_SEED", 11),
        common::from_env("RAFT_ROCKS_CTL_CASES", 100),
    );
    println!("seed {seed}, {cases} cases");
    let (mut random, mut refused) = (fastrand::Rng::with_seed(seed), 0);
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    make_store(&sound);
    // Tables of several blocks, and a log of several.
    let opened = open(&sound);
    let storage = opened.group(0).unwrap();
    storage
        .append(&common::entries_of(61..161, 4, 1000))
        .unwrap();
    drop((storage, opened));
    let opened = open(&sound);
    opened
        .group(9)
        .unwrap()
        .append(&common::entries_of(1..81, 1, 1000))
        .unwrap();
    drop(opened);
    let files: Vec<_> = contents(&sound)
        .into_iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    for case in 0..cases {
        let store = dir.path().join(format!("case-{case}"));
        common::copy_store(&sound, &store);
        let (name, bytes) = &files[random.usize(..files.len())];
        let (place, mut damaged) = (random.usize(..bytes.len()), bytes.clone());
        let what = random.u8(..4);
        match what {
            0 => damaged[place] ^= 1 << random.u8(..8),
            1 => damaged.truncate(place),
            2 => damaged[place..].fill(0),
            _ => {}
        }
        if what == 3 {
            std::fs::remove_file(store.join(name)).unwrap();
        } else {
            std::fs::write(store.join(name), damaged).unwrap();
        }
        let said = on(&store, &["verify"]);
        let opens = opens(&store);
        let at = format!(
            "case {case}, {} at {place}, kind {what}: {said}",
            name.display()
        );
        assert_eq!(said.code == 0, opens, "{at}");
        assert!(said.code == 0 || said.code == 2 || said.code == 3, "{at}");
        refused += u64::from(!opens);
        std::fs::remove_dir_all(store).unwrap();
    }
    assert!(
        (cases / 3..cases).contains(&refused),
        "{refused} of {cases} refused"
    );
}
