//! What a crash may leave of a few writes: every part of the log that they wrote, from none of
//! it to all.

use std::path::{Path, PathBuf};

use raft_rocks::{FsyncPolicy, Options, RaftStore};

use crate::common::{copy_live, copy_store, wal_files};
use crate::scratch::scratch;

/// More states than that are sampled evenly.
const STATES_MAX: usize = 200;

/// Runs `before`, syncs it, then `writes`, of which nothing is synced by policy; gives `check`
/// each state that a crash may leave, opened by itself. Files that `writes` made beside the log
/// are there in half of the states: a crash may leave one that no record names yet.
pub fn each(
    options: &Options,
    before: impl FnOnce(&RaftStore),
    writes: impl FnOnce(&RaftStore),
    mut check: impl FnMut(&Path),
) {
    let new_dir = || scratch().unwrap();
    let (live, old, new) = (new_dir(), new_dir(), new_dir());
    let mut options = options.clone();
    options.fsync = FsyncPolicy::Never;
    // Cut where the writes end, and not behind what an older log left.
    options.recycle_wal = false;
    let store = RaftStore::open(live.path(), options).unwrap();
    before(&store);
    store.sync().unwrap();
    copy_live(&store, live.path(), old.path());
    writes(&store);
    copy_live(&store, live.path(), new.path());
    let (from, log) = written(old.path(), new.path());
    let bytes = std::fs::read(new.path().join(&log)).unwrap();
    assert!(from < bytes.len(), "something was written");
    let step = (bytes.len() - from).div_ceil(STATES_MAX);
    let mut ends: Vec<usize> = (from..bytes.len()).step_by(step).collect();
    ends.push(bytes.len());
    for end in ends {
        for with_files in [false, true] {
            // A record that names a file is written when the file is durable.
            if !with_files && end == bytes.len() {
                continue;
            }
            let state = new_dir();
            copy_store(old.path(), state.path());
            if with_files {
                let (from, to) = (new.path().join("snapshots"), state.path().join("snapshots"));
                copy_store(&from, &to);
            }
            std::fs::write(state.path().join(&log), &bytes[..end]).unwrap();
            check(state.path());
        }
    }
}

/// The log, and where what was written behind the sync begins.
fn written(old: &Path, new: &Path) -> (usize, PathBuf) {
    let (before, after) = (wal_files(old).pop().unwrap(), wal_files(new).pop().unwrap());
    let log = after.strip_prefix(new).unwrap().to_owned();
    assert_eq!(before.strip_prefix(old).unwrap(), log, "one log throughout");
    let (before, after) = (
        std::fs::read(before).unwrap(),
        std::fs::read(after).unwrap(),
    );
    let same = before
        .iter()
        .zip(&after)
        .take_while(|(a, b)| a == b)
        .count();
    (same, log)
}
