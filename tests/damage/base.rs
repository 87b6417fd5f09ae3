//! The stores that are damaged, and what each may be found to hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use raft::eraftpb::ConfState;
use raft_rocks::{FsyncPolicy, Options, RaftStore, Result, VerifyOnOpen};

use crate::common::workload::{Expected, Workload};
use crate::common::{copy_live, copy_store, wal_files};

/// All that is compared, of every group by its id.
pub type State = BTreeMap<u64, (Expected, ConfState)>;

/// Some hundred KiB of log.
const VOTES: u64 = 4_000;

/// A store as it was left, once.
pub struct Base {
    pub dir: tempfile::TempDir,
    pub options: Options,
    /// What it may hold: each state from the last synced write on, in order. A store that was
    /// closed has one.
    pub states: Vec<State>,
    /// What was never synced, for a store that was not closed.
    pub unsynced: Option<Unsynced>,
    pub story: String,
}

/// The newest log, as it was synced last.
pub struct Unsynced {
    pub log: PathBuf,
    pub synced: Vec<u8>,
    /// Where what was written behind begins.
    pub from: usize,
}

impl Base {
    /// Groups with files of every kind: tables, logs, a witness, snapshots. `open`: as a crash
    /// leaves it, with writes behind the last sync.
    pub fn new(seed: u64, open: bool) -> Base {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut options = Options::default();
        options.memtable_bytes = [64 << 10, 1 << 20][random.usize(..2)];
        options.recycle_wal = random.bool();
        options.verify = VerifyOnOpen::Full;
        // A full disk is another test's.
        options.reserve_bytes = 0;
        let story = format!(
            "base {seed}: {} bytes of memtable, {} logs, {}",
            options.memtable_bytes,
            if options.recycle_wal {
                "recycled"
            } else {
                "plain"
            },
            if open { "crashed" } else { "closed" }
        );
        let live = scratch();
        let mut groups = Groups::open(live.path(), &options, &mut random);
        (0..random.u64(60..200)).for_each(|_| groups.write(&mut random));
        if random.u8(..4) == 0 {
            // So many small records that some end with a block: what is missing before the next
            // block is noticed by nothing in the log's own format.
            (0..VOTES).for_each(|_| groups.vote());
        }
        let dir = scratch();
        let (states, unsynced) = if open {
            crash(groups, live.path(), dir.path(), &options, &mut random)
        } else {
            let states = vec![groups.state()];
            groups.close();
            copy_store(live.path(), dir.path());
            (states, None)
        };
        Base {
            dir,
            options,
            states,
            unsynced,
            story,
        }
    }
}

impl Base {
    /// A crashed one of which something was never synced.
    pub fn torn(seed: u64) -> Base {
        (seed..seed + 1_000)
            .map(|seed| Base::new(seed, true))
            .find(|base| base.unsynced.is_some())
            .unwrap()
    }
}

/// Nothing here depends on a disk.
pub fn scratch() -> tempfile::TempDir {
    crate::scratch::scratch().unwrap()
}

/// Everything is synced; then come a few more writes, of which a power cut may take any.
fn crash(
    mut groups: Groups,
    live: &Path,
    dir: &Path,
    options: &Options,
    random: &mut fastrand::Rng,
) -> (Vec<State>, Option<Unsynced>) {
    groups.close();
    let mut unsynced = options.clone();
    unsynced.fsync = FsyncPolicy::Never;
    groups.reopen(live, &unsynced);
    (0..random.u64(1..20)).for_each(|_| groups.write(random));
    groups.store().sync().unwrap();
    groups.synced_by_files = 0;
    let before = scratch();
    copy_live(groups.store(), live, before.path());
    let mut states = vec![groups.state()];
    for _ in 0..random.u64(1..12) {
        groups.write(random);
        states.push(groups.state());
    }
    copy_live(groups.store(), live, dir);
    let logs = (wal_files(before.path()), wal_files(dir));
    let (Some(old), Some(new)) = (logs.0.last(), logs.1.last()) else {
        return (states, None);
    };
    // A snapshot's file, or a log that was full, has synced some of it: then there is damage to
    // find in it, and no torn write.
    let same = old.file_name() == new.file_name() && groups.synced_by_files == 0;
    let synced = std::fs::read(old).unwrap();
    let written = std::fs::read(new).unwrap();
    let from = synced
        .iter()
        .zip(&written)
        .take_while(|(a, b)| a == b)
        .count();
    let unsynced = (same && from < written.len()).then(|| Unsynced {
        log: new.clone(),
        synced,
        from,
    });
    if unsynced.is_none() {
        // Nobody knows how much of it was synced: all of it may have been.
        states = states.split_off(states.len() - 1);
        let store = groups.store();
        store.sync().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        copy_live(store, live, dir);
    }
    (states, unsynced)
}

/// The open groups of a store, written to in turn.
struct Groups {
    store: Option<RaftStore>,
    workloads: Vec<Workload>,
    /// Writes that synced everything before them, whatever the policy.
    synced_by_files: u64,
}

impl Groups {
    fn open(dir: &Path, options: &Options, random: &mut fastrand::Rng) -> Groups {
        let count = [1, 3, 12][random.usize(..3)];
        let workloads = (0..count).map(|_| Workload::new(random.u64(..), random.u8(..3) == 0));
        Groups {
            store: Some(RaftStore::open(dir, options.clone()).unwrap()),
            workloads: workloads.collect(),
            synced_by_files: 0,
        }
    }

    fn store(&self) -> &RaftStore {
        self.store.as_ref().unwrap()
    }

    fn write(&mut self, random: &mut fastrand::Rng) {
        let id = random.usize(..self.workloads.len());
        let workload = &mut self.workloads[id];
        let op = workload.next();
        self.synced_by_files += u64::from(workload.snapshot_files && op.concerns_snapshots());
        op.perform(&self.store().group(id as u64).unwrap()).unwrap();
    }

    fn vote(&mut self) {
        let op = self.workloads[0].vote();
        op.perform(&self.store().group(0).unwrap()).unwrap();
    }

    fn state(&self) -> State {
        read(self.store()).unwrap()
    }

    fn close(&mut self) {
        self.store.take().unwrap().close().unwrap();
    }

    fn reopen(&mut self, dir: &Path, options: &Options) {
        self.store = Some(RaftStore::open(dir, options.clone()).unwrap());
        self.synced_by_files = 0;
    }
}

/// Everything that can be read of a store.
pub fn read(store: &RaftStore) -> Result<State> {
    let mut state = State::new();
    for id in store.groups()? {
        let group = store.group(id)?;
        state.insert(id, (Expected::read_from(&group)?, group.conf_state()));
    }
    Ok(state)
}
