//! Power cuts: a child process writes to many groups of a store on an ext4 image and reports
//! each acknowledged write outside of it. Some dirty pages are written back at random, then the
//! file system is shut down with everything else that was not synced, mounted again, and the
//! store opened: every group holds what was acknowledged, or that and writes that were under
//! way. The child then goes on from there.
//!
//! `RAFT_ROCKS_CUT_ROUNDS` scales it, `RAFT_ROCKS_SEED` replays it (as far as threads and a
//! disk can be), `RAFT_ROCKS_CUT_MEMTABLE` fixes the size of the memtable,
//! `RAFT_ROCKS_CUT_KEEP=1` counts failures to the end instead of stopping at the first.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/disk.rs"]
mod disk;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use common::groups::{Group, Place};
use common::report;
use common::workload::{Expected, Workload};
use disk::Disk;
use raft::eraftpb::HardState;
use raft_rocks::{FsyncPolicy, Options, RaftStore, Result, WitnessPolicy};

const CHILD: &str = "RAFT_ROCKS_CUT_CHILD";
const DISK_BYTES: u64 = 256 << 20;
/// Power cuts that one file system goes through.
const CUTS_PER_DISK: u64 = 20;
/// Writes of a group that may be under way: it may be that far beyond the reported ones.
const UNDER_WAY_MAX: u64 = 8;

/// When a write is synced, and so what a power cut may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syncs {
    /// Each write is waited for: nothing is lost.
    Always,
    /// Writes are submitted, several at a time, and acknowledged later: nothing is lost.
    Submitted,
    /// Not at all: the control.
    Never,
}

impl Syncs {
    const ALL: [Syncs; 3] = [Syncs::Always, Syncs::Submitted, Syncs::Never];

    fn may_lose(self) -> bool {
        self == Syncs::Never
    }
}

/// What one disk is used for. Handed to the child as text.
#[derive(Clone, Debug)]
struct Setup {
    store: PathBuf,
    /// A slot of eight bytes for each group: how many of its writes were acknowledged.
    acknowledged: PathBuf,
    seed: u64,
    groups: u64,
    memtable_bytes: usize,
    syncs: Syncs,
    recycle_wal: bool,
    /// Whether the witness is synced before each acknowledgement.
    strict: bool,
    /// Whether the application has a column family, whose memtable is flushed apart.
    application: bool,
    /// Acknowledgements in this life of the child after which it asks for the cut; zero asks
    /// before the store is opened.
    cut_after: u64,
}

impl Setup {
    fn to_text(&self) -> String {
        [
            self.store.display().to_string(),
            self.acknowledged.display().to_string(),
            self.seed.to_string(),
            self.groups.to_string(),
            self.memtable_bytes.to_string(),
            (self.syncs as u8).to_string(),
            u8::from(self.recycle_wal).to_string(),
            u8::from(self.strict).to_string(),
            u8::from(self.application).to_string(),
            self.cut_after.to_string(),
        ]
        .join("\n")
    }

    fn from_text(text: &str) -> Setup {
        let mut parts = text.split('\n');
        let mut part = || parts.next().unwrap();
        let (store, acknowledged) = (part().into(), part().into());
        let mut number = || part().parse::<u64>().unwrap();
        Setup {
            store,
            acknowledged,
            seed: number(),
            groups: number(),
            memtable_bytes: number() as usize,
            syncs: Syncs::ALL[number() as usize],
            recycle_wal: number() == 1,
            strict: number() == 1,
            application: number() == 1,
            cut_after: number(),
        }
    }

    /// Says whether it is refused again, and keeps a copy of it, to be looked into.
    fn keep_refused(&self, test: &str, cuts: u64) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refused");
        let kept = kept.join(format!("{test}-{}-{cuts}", self.seed));
        common::copy_store(&self.store, &kept);
        eprintln!("kept at {}", kept.display());
        match self.open() {
            Ok(_) => eprintln!("opened the second time"),
            Err(e) => eprintln!("refused again: {e}"),
        }
    }

    fn open(&self) -> Result<RaftStore> {
        let mut options = Options::default();
        options.memtable_bytes = self.memtable_bytes;
        options.recycle_wal = self.recycle_wal;
        // There, and without many pages to write back.
        options.reserve_bytes = 1 << 20;
        if self.strict {
            options.witness = WitnessPolicy::Strict;
        }
        if self.application {
            options.column_families = vec!["kv".to_owned()];
        }
        if self.syncs.may_lose() {
            options.fsync = FsyncPolicy::Never;
        }
        RaftStore::open(&self.store, options)
    }

    /// The writes of a group, from the first on after `done` of them. Snapshot files are
    /// synced under every policy: a control has none.
    fn workload(&self, group: u64, done: u64) -> Workload {
        Workload::after(self.seed ^ (group << 32), !self.syncs.may_lose(), done)
    }

    fn read_acknowledged(&self) -> Vec<u64> {
        let bytes = std::fs::read(&self.acknowledged).unwrap();
        let slots = bytes.chunks_exact(8);
        slots
            .map(|slot| u64::from_le_bytes(slot.try_into().unwrap()))
            .collect()
    }

    fn write_acknowledged(&self, done: &[u64]) {
        let bytes: Vec<u8> = done.iter().flat_map(|n| n.to_le_bytes()).collect();
        std::fs::write(&self.acknowledged, bytes).unwrap();
    }
}

fn child(setup: &Setup) {
    if setup.cut_after == 0 {
        println!("cut me");
    }
    let store = setup.open().unwrap();
    if setup.cut_after == 0 {
        // Only opened: nothing is written that the parent does not know of.
        std::thread::park();
    }
    let report = File::options()
        .write(true)
        .open(&setup.acknowledged)
        .unwrap();
    let reports = Arc::new(Reports {
        file: report,
        total: AtomicU64::new(0),
        cut_after: setup.cut_after,
    });
    std::thread::scope(|threads| {
        for (group, done) in (0..).zip(setup.read_acknowledged()) {
            let (store, reports) = (&store, Arc::clone(&reports));
            threads.spawn(move || write_group(setup, store, group, done, &reports));
        }
    });
}

/// Where the child tells what has been acknowledged.
struct Reports {
    file: File,
    total: AtomicU64,
    cut_after: u64,
}

impl Reports {
    fn acknowledged(&self, group: u64, done: u64) {
        self.file
            .write_all_at(&done.to_le_bytes(), group * 8)
            .unwrap();
        if self.total.fetch_add(1, Ordering::Relaxed) + 1 == self.cut_after {
            println!("cut me");
        }
    }
}

/// Writes to one group until the power is gone.
fn write_group(setup: &Setup, store: &RaftStore, group: u64, mut done: u64, to: &Arc<Reports>) {
    let storage = store.group(group).unwrap();
    let mut workload = setup.workload(group, done);
    let (ended, ends) = mpsc::channel();
    let mut under_way = 0;
    loop {
        done += 1;
        let op = workload.next();
        if setup.application && done.is_multiple_of(16) {
            let batch = storage
                .batch()
                .put("kv", group.to_le_bytes(), done.to_le_bytes());
            if batch.write().is_err() {
                return;
            }
        }
        let (to, ended) = (Arc::clone(to), ended.clone());
        let on_durable = move |result: Result<()>| {
            if result.is_ok() {
                to.acknowledged(group, done);
            }
            let _ = ended.send(result);
        };
        let submitted = if setup.syncs == Syncs::Submitted {
            op.submit(&storage, on_durable)
        } else {
            on_durable(op.perform(&storage));
            Ok(())
        };
        under_way += 1;
        let has_to_wait = setup.syncs != Syncs::Submitted || under_way == UNDER_WAY_MAX;
        let result = submitted.and_then(|()| {
            if has_to_wait {
                under_way -= 1;
                return ends.recv().unwrap();
            }
            Ok(())
        });
        if let Err(e) = result {
            // The power is gone; whatever else it is, the parent misses the child's word.
            eprintln!("group {group}, write {done}: {e}");
            return;
        }
    }
}

/// The child, killed when dropped: what it has open keeps the disk mounted.
struct Child {
    process: std::process::Child,
    stderr: PathBuf,
}

impl Child {
    fn start(setup: &Setup, test: &str) -> Child {
        let stderr = setup.acknowledged.with_file_name("stderr");
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, setup.to_text())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Child { process, stderr }
    }

    fn wait_for_its_word(&mut self) {
        let mut lines = BufReader::new(self.process.stdout.take().unwrap()).lines();
        let said = lines.any(|line| line.is_ok_and(|line| line.contains("cut me")));
        let stderr = || std::fs::read_to_string(&self.stderr).unwrap();
        assert!(said, "the child ended by itself: {}", stderr());
    }

    fn pause(&self) {
        let pid = self.process.id().to_string();
        let paused = Command::new("sh")
            .args(["-c", "kill -s STOP $0", &pid])
            .status();
        assert!(paused.unwrap().success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// What was seen over many cuts.
#[derive(Debug, Default)]
struct Seen {
    cuts: u64,
    /// Cuts while the store was recovering from another.
    cuts_in_recovery: u64,
    acknowledged: u64,
    /// Groups that were found with writes that had not been acknowledged.
    under_way: u64,
    /// Stores refused.
    refused: u64,
    /// Cuts after which a group lacked an acknowledged write.
    lost: u64,
    /// Groups in a state that they never had.
    wrong: u64,
    /// Groups whose term, vote or commit was older than a synced one.
    regressed: u64,
    /// Groups whose entries do not follow each other.
    holes: u64,
}

impl Seen {
    /// For the report of the harness as a whole.
    fn figures(&self, syncs: Syncs) {
        if syncs.may_lose() {
            let rounds = self.cuts - self.cuts_in_recovery;
            return report::figures(&[
                ("control_rounds", rounds),
                ("control_rounds_with_loss", self.lost),
            ]);
        }
        report::figures(&[
            ("power_cuts", self.cuts),
            ("cut_refused", self.refused),
            ("acknowledged", self.acknowledged),
            ("lost", self.lost),
            ("power_cut_wrong", self.wrong),
            ("hard_state_regressed", self.regressed),
            ("holes", self.holes),
        ]);
    }
}

/// Whether a hard state is older than another.
fn is_older(found: &HardState, than: &HardState) -> bool {
    let forgot_vote = than.vote != 0 && found.vote != than.vote;
    found.term < than.term
        || (found.term == than.term && (forgot_vote || found.commit < than.commit))
}

fn has_hole(found: &Expected) -> bool {
    (found.first..)
        .zip(&found.entries)
        .any(|(index, entry)| entry.index != index)
}

/// The test that runs, its knobs, and what it has seen.
struct Run {
    test: &'static str,
    syncs: Syncs,
    recycle_wal: bool,
    stop_at_first: bool,
    memtable_bytes: Option<usize>,
    random: fastrand::Rng,
    seen: Seen,
}

impl Run {
    fn new(test: &'static str, syncs: Syncs, recycle_wal: bool) -> Run {
        let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
        let seed = number("RAFT_ROCKS_SEED").unwrap_or_else(|| fastrand::u64(..));
        eprintln!("RAFT_ROCKS_SEED={seed}");
        Run {
            test,
            syncs,
            recycle_wal: number("RAFT_ROCKS_CUT_RECYCLE").map_or(recycle_wal, |on| on == 1),
            stop_at_first: !syncs.may_lose() && number("RAFT_ROCKS_CUT_KEEP") != Some(1),
            memtable_bytes: number("RAFT_ROCKS_CUT_MEMTABLE").map(|n| n as usize),
            random: fastrand::Rng::with_seed(seed),
            seen: Seen::default(),
        }
    }

    fn cut_many(&mut self, cuts: u64) -> std::result::Result<(), String> {
        while self.seen.cuts < cuts {
            let disk = Disk::ext4(DISK_BYTES)?;
            self.use_up(disk, (cuts - self.seen.cuts).min(CUTS_PER_DISK));
            eprintln!("{}: {:?}", self.test, self.seen);
            report::progress(self.seen.cuts, cuts);
        }
        Ok(())
    }

    /// Cuts the power of one disk again and again, until the store on it is refused.
    fn use_up(&mut self, mut disk: Disk, cuts: u64) {
        // A flush, and the switch of logs, sync what was written: small memtables are for the stores that may lose nothing.
        let sizes: &[usize] = if self.syncs.may_lose() {
            &[64 << 20]
        } else {
            &[64 << 10, 256 << 10, 4 << 20]
        };
        let mut setup = Setup {
            store: disk.store(),
            acknowledged: disk.outside("acknowledged"),
            seed: self.random.u64(..),
            groups: [1, 8, 32][self.random.usize(..3)],
            memtable_bytes: self
                .memtable_bytes
                .unwrap_or(sizes[self.random.usize(..sizes.len())]),
            syncs: self.syncs,
            recycle_wal: self.recycle_wal,
            strict: self.random.u8(..4) == 0,
            application: self.random.bool(),
            cut_after: 0,
        };
        let mut groups: Vec<Group> = (0..setup.groups)
            .map(|id| Group::new(id, setup.workload(id, 0)))
            .collect();
        for _ in 0..cuts {
            setup.write_acknowledged(&groups.iter().map(|group| group.done).collect::<Vec<_>>());
            // A control has written enough to lose some of it.
            let at_least = if self.syncs.may_lose() { 20 } else { 1 };
            setup.cut_after = at_least + self.random.u64(..40 * (1 + setup.groups / 2));
            let (acknowledged, reported) = self.cut(&mut disk, &setup);
            if self.random.u8(..4) == 0 {
                setup.cut_after = 0;
                self.seen.cuts_in_recovery += 1;
                self.cut(&mut disk, &setup);
            }
            let checked = setup.open().and_then(|store| {
                self.check(&store, &mut groups, &acknowledged, &reported)?;
                store.close()
            });
            if let Err(e) = checked {
                eprintln!("refused after {setup:?}: {e}");
                setup.keep_refused(self.test, self.seen.cuts);
                self.seen.refused += 1;
                assert!(!self.stop_at_first, "{:?}", self.seen);
                return;
            }
            assert!(!self.stop_at_first || (self.seen.lost, self.seen.wrong) == (0, 0));
        }
    }

    /// Returns what each group had acknowledged before the cut, and what it reported in all:
    /// a sync that is under way at the cut may succeed on a journal that is gone.
    fn cut(&mut self, disk: &mut Disk, setup: &Setup) -> (Vec<u64>, Vec<u64>) {
        self.seen.cuts += 1;
        let mut child = Child::start(setup, self.test);
        child.wait_for_its_word();
        (0..self.random.u32(..1_000_000)).for_each(|_| std::hint::spin_loop());
        // Half of the cuts hit a running process, the others one that stands still: what it has
        // not synced is not synced by its next write, and is written back in part.
        if self.random.bool() {
            child.pause();
        }
        if self.random.u8(..4) > 0 {
            let whole_files = !self.syncs.may_lose();
            disk.write_back_some(&mut self.random, whole_files).unwrap();
        }
        let acknowledged = setup.read_acknowledged();
        disk.cut().unwrap();
        drop(child);
        let reported = setup.read_acknowledged();
        disk.remount().unwrap();
        (acknowledged, reported)
    }

    fn check(
        &mut self,
        store: &RaftStore,
        groups: &mut [Group],
        acknowledged: &[u64],
        reported: &[u64],
    ) -> Result<()> {
        let mut lost = false;
        for (group, (acknowledged, reported)) in
            groups.iter_mut().zip(acknowledged.iter().zip(reported))
        {
            self.seen.acknowledged += acknowledged - group.done;
            let found = Expected::read_from(&store.group(group.id)?)?;
            let synced = group.synced_hard_state(*acknowledged);
            let regressed = !self.syncs.may_lose() && is_older(&found.hard_state, &synced);
            self.seen.regressed += u64::from(regressed);
            self.seen.holes += u64::from(has_hole(&found));
            let Some(Place {
                done,
                synced: needed,
            }) = group.go_to(&found, *acknowledged, reported + UNDER_WAY_MAX)
            else {
                self.seen.wrong += 1;
                eprintln!(
                    "group {}: neither its state after {acknowledged} writes nor a later or \
                     earlier one; hard state {:?}, last index {}",
                    group.id,
                    found.hard_state,
                    found.last()
                );
                return Ok(());
            };
            self.seen.under_way += u64::from(done > *acknowledged);
            if done < needed {
                lost = true;
                if !self.syncs.may_lose() {
                    eprintln!("group {}: {done} writes of {needed} synced ones", group.id);
                }
            }
        }
        self.seen.lost += u64::from(lost);
        Ok(())
    }
}

/// Runs the test, or the child that it starts. `None` where no disk can be made; an error
/// under `CI=true`, so that it cannot go unnoticed.
fn run(test: &'static str, syncs: Syncs, recycle_wal: bool) -> Option<Seen> {
    if let Ok(setup) = std::env::var(CHILD) {
        child(&Setup::from_text(&setup));
        return None;
    }
    let mut run = Run::new(test, syncs, recycle_wal);
    let cuts = std::env::var("RAFT_ROCKS_CUT_ROUNDS").map_or(20, |n| n.parse().unwrap());
    if let Err(lacking) = run.cut_many(cuts) {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !ci,
            "power cuts need root, ext4 and loop devices: {lacking}"
        );
        eprintln!("NOT RUN: power cuts need root, ext4 and loop devices: {lacking}");
        return None;
    }
    run.seen.figures(syncs);
    Some(run.seen)
}

/// A test in which nothing may be lost, and no store refused.
macro_rules! nothing_is_lost {
    ($test:ident, $syncs:expr, $recycle_wal:expr) => {
        #[test]
        fn $test() {
            if let Some(seen) = run(stringify!($test), $syncs, $recycle_wal) {
                let found = [
                    seen.refused,
                    seen.lost,
                    seen.wrong,
                    seen.regressed,
                    seen.holes,
                ];
                assert_eq!(found, [0; 5], "{seen:?}");
            }
        }
    };
}

nothing_is_lost!(synced_writes_survive, Syncs::Always, false);
nothing_is_lost!(synced_writes_survive_in_recycled_logs, Syncs::Always, true);
nothing_is_lost!(submitted_writes_survive, Syncs::Submitted, false);
nothing_is_lost!(
    submitted_writes_survive_in_recycled_logs,
    Syncs::Submitted,
    true
);

/// The same without syncs must lose something, or the tests above prove nothing.
#[test]
fn unsynced_writes_are_lost() {
    if let Some(seen) = run("unsynced_writes_are_lost", Syncs::Never, false) {
        assert_eq!((seen.wrong, seen.refused), (0, 0), "{seen:?}");
        let cuts = seen.cuts - seen.cuts_in_recovery;
        assert!(seen.lost * 20 > cuts * 19, "{seen:?}");
    }
}
