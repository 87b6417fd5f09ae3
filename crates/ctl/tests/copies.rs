//! `backup` and `restore`: what was there is there again, under another identity; what is not
//! whole is refused.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{Said, contents, ctl, ctl_once, damage, entries, make_store, on, open};
use raft_rocks::{RaftStore, tools};

struct Places {
    _dir: tempfile::TempDir,
    store: PathBuf,
    backup: PathBuf,
    restored: PathBuf,
}

impl Places {
    fn new() -> Places {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        Places {
            store: at("store"),
            backup: at("backup"),
            restored: at("restored"),
            _dir: dir,
        }
    }

    fn run(command: &str, from: &Path, to: &Path) -> Said {
        ctl([command.as_ref(), from.as_os_str(), to.as_os_str()])
    }

    fn backup(&self) -> Said {
        Places::run("backup", &self.store, &self.backup)
    }

    fn restore(&self) -> Said {
        Places::run("restore", &self.backup, &self.restored)
    }
}

fn store_id(dir: &Path) -> String {
    let inspected = on(dir, &["inspect", "--json"]);
    inspected.json()["store_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_restored_store_has_everything_but_the_identity() {
    let places = Places::new();
    make_store(&places.store);
    let before = on(&places.store, &["dump", "--json"]).stdout;
    let backed_up = places.backup();
    assert_eq!(backed_up.code, 0, "{backed_up}");
    let backup = contents(&places.backup);
    let restored = places.restore();
    assert_eq!(restored.code, 0, "{restored}");
    assert!(restored.stderr.contains("new id"), "{restored}");
    assert_eq!(on(&places.restored, &["dump", "--json"]).stdout, before);
    assert_eq!(on(&places.restored, &["verify"]).code, 0);
    assert_eq!(store_id(&places.store), store_id(&places.backup));
    assert_ne!(store_id(&places.restored), store_id(&places.backup));
    assert_eq!(
        contents(&places.backup),
        backup,
        "the backup can be restored again"
    );
    // The witness of the one is refused beside the other.
    fs::copy(
        places.store.join("witness"),
        places.restored.join("witness"),
    )
    .unwrap();
    assert_eq!(
        on(&places.restored, &["verify", "--json"]).codes(),
        ["witness-foreign"]
    );
}

/// The library's backup, taken while threads write, restored and compared.
#[test]
fn a_backup_of_a_store_in_use_can_be_restored() {
    let places = Places::new();
    let store = open(&places.store);
    let (stop, acknowledged) = (AtomicBool::new(false), [0; 3].map(AtomicU64::new));
    let counts = || {
        acknowledged
            .each_ref()
            .map(|count| count.load(Ordering::SeqCst))
    };
    let (before, after) = thread::scope(|scope| {
        for (group, count) in acknowledged.iter().enumerate() {
            let (storage, stop) = (store.group(group as u64).unwrap(), &stop);
            scope.spawn(move || {
                let mut next = 1;
                while !stop.load(Ordering::Relaxed) {
                    storage.append(&entries(next..next + 5, 1)).unwrap();
                    next += 5;
                    count.store(next - 1, Ordering::SeqCst);
                }
            });
        }
        while counts().into_iter().any(|count| count < 100) {
            thread::yield_now();
        }
        let before = counts();
        let taken = store.backup(&places.backup);
        stop.store(true, Ordering::Relaxed);
        taken.unwrap();
        (before, counts())
    });
    let restored = places.restore();
    assert_eq!(restored.code, 0, "{restored}");
    let copy = open(&places.restored);
    for group in 0..3 {
        let storage = copy.group(group as u64).unwrap();
        let last = storage.last_index();
        assert!(
            (before[group]..=after[group] + 5).contains(&last),
            "group {group}: {last}"
        );
        let expected = store
            .group(group as u64)
            .unwrap()
            .entries(1, last + 1, None)
            .unwrap();
        assert_eq!(storage.entries(1, last + 1, None).unwrap(), expected);
    }
    assert_ne!(copy.store_id().unwrap(), store.store_id().unwrap());
}

#[test]
fn a_backup_that_is_not_whole_is_refused() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("no witness", |backup| {
            fs::remove_file(backup.join("witness")).unwrap()
        }),
        ("no snapshots", |backup| {
            fs::remove_dir_all(backup.join("snapshots")).unwrap()
        }),
        ("no table", |backup| {
            fs::remove_file(&common::files(backup, ".sst")[0]).unwrap()
        }),
        ("a flipped bit", |backup| {
            common::flip_bit(&common::files(backup, ".log").pop().unwrap(), 600)
        }),
    ];
    for (name, damage) in damages {
        let places = Places::new();
        make_store(&places.store);
        // Taken by the library, so that the log of the last writes is in it.
        let store = open(&places.store);
        let storage = store.group(0).unwrap();
        storage.append(&entries(61..90, 4)).unwrap();
        store.backup(&places.backup).unwrap();
        drop((storage, store));
        damage(&places.backup);
        let restored = places.restore();
        assert_eq!(restored.code, 3, "{name}: {restored}");
        assert!(!places.restored.exists(), "{name}");
    }
}

/// The witness of a restored store speaks of its own log.
#[test]
fn a_restored_store_is_witnessed_to_its_end() {
    let places = Places::new();
    make_store(&places.store);
    open(&places.store).backup(&places.backup).unwrap();
    tools::restore(&places.backup, &places.restored).unwrap();
    let now = on(&places.restored, &["inspect", "--json"]).json();
    assert_eq!(now["witness"]["sequence"], now["sequence"]);
    assert_eq!(now["witness"]["store_id"], now["store_id"]);
}

#[test]
fn nothing_is_restored_over_something() {
    let places = Places::new();
    make_store(&places.store);
    assert_eq!(places.backup().code, 0);
    assert_eq!(places.backup().code, 1, "over a backup");
    let before = contents(&places.store);
    let restored = Places::run("restore", &places.backup, &places.store);
    assert_eq!(restored.code, 1, "{restored}");
    assert_eq!(contents(&places.store), before);
    let error = tools::restore(&places.backup, &places.store).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn a_damaged_store_is_not_backed_up() {
    for name in [
        "newest_log_deleted",
        "committed_entry_damaged",
        "witness_missing",
    ] {
        let places = Places::new();
        damage::make(name, &places.store);
        let said = places.backup();
        assert_eq!(said.code, 3, "{name}: {said}");
        assert!(!places.backup.exists());
    }
    let places = Places::new();
    assert_eq!(places.backup().code, 1, "no store");
    assert!(!places.store.exists(), "a store was made");
}

#[test]
fn a_store_in_use_is_left_alone() {
    let places = Places::new();
    make_store(&places.store);
    let store: RaftStore = open(&places.store);
    let path = places.store.to_str().unwrap();
    for command in ["inspect", "verify", "dump", "doctor", "repair"] {
        let said = ctl_once([command, path]);
        assert_eq!(said.code, 4, "{command}: {said}");
    }
    assert_eq!(
        ctl_once(["backup", path, places.backup.to_str().unwrap()]).code,
        4
    );
    drop(store);
    assert_eq!(on(&places.store, &["verify"]).code, 0);
}
