//! A child process writes and reports each acknowledged write; its parent kills it at a random
//! moment, opens the store, and finds exactly what was acknowledged, or that and the one write
//! that was under way. The child then goes on from there, in the same directory.
//!
//! `RAFT_ROCKS_CRASH_ROUNDS` scales it (200 by default), `RAFT_ROCKS_SEED` replays it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{conf_state, entry, hard_state};
use raft::eraftpb::{Entry, HardState};
use raft_rocks::{Options, RaftMachineStorage, Result};

const CHILD_DIR: &str = "RAFT_ROCKS_CRASH_CHILD_DIR";
const CHILD_SEED: &str = "RAFT_ROCKS_CRASH_CHILD_SEED";
const CHILD_DONE: &str = "RAFT_ROCKS_CRASH_CHILD_DONE";
/// Crashes that one directory goes through.
const ROUNDS_PER_STORE: u64 = 20;

/// What the store should hold after a number of writes, and how the next write changes it:
/// the same in parent and child, from the same seed.
#[derive(Clone, PartialEq, Debug)]
struct Expected {
    first: u64,
    entries: Vec<Entry>,
    hard_state: HardState,
    applied: u64,
    snapshot: u64,
}

struct Workload {
    random: fastrand::Rng,
    expected: Expected,
}

enum Op {
    Ready(Vec<Entry>, HardState),
    Applied(u64),
    Snapshot(u64, usize),
    Compact(u64),
}

impl Workload {
    fn new(seed: u64) -> Self {
        let expected = Expected {
            first: 1,
            entries: Vec::new(),
            hard_state: hard_state(1, 1, 0),
            applied: 0,
            snapshot: 0,
        };
        Workload {
            random: fastrand::Rng::with_seed(seed),
            expected,
        }
    }

    /// After `done` writes.
    fn after(seed: u64, done: u64) -> Self {
        let mut workload = Workload::new(seed);
        (0..done).for_each(|_| drop(workload.next()));
        workload
    }

    fn next(&mut self) -> Op {
        let commit = self.expected.hard_state.commit;
        let op = match self.random.u8(..10) {
            0 if commit > self.expected.applied => Op::Applied(commit),
            1 if self.expected.applied > self.expected.snapshot => {
                let len = if self.random.bool() { 10 } else { 100_000 };
                Op::Snapshot(self.expected.applied, len)
            }
            2 if self.expected.snapshot >= self.expected.first => {
                Op::Compact(self.expected.snapshot + 1)
            }
            _ => self.next_ready(),
        };
        self.expect(&op);
        op
    }

    /// Entries behind the log, or in place of an uncommitted tail of it by a new leader; the
    /// hard state that goes with them.
    fn next_ready(&mut self) -> Op {
        let (commit, last) = (self.expected.hard_state.commit, self.expected.last());
        let mut term = self.expected.hard_state.term;
        let mut from = last + 1;
        if self.random.u8(..4) == 0 {
            term += 1;
            from = self.random.u64(commit + 1..=last + 1);
        }
        let count = self.random.u64(1..8);
        let entries: Vec<Entry> = (from..from + count)
            .map(|index| {
                entry(
                    index,
                    term,
                    vec![self.random.u8(..); self.random.usize(..2000)],
                )
            })
            .collect();
        let commit = self.random.u64(commit..from + count);
        Op::Ready(entries, hard_state(term, term % 3 + 1, commit))
    }

    fn expect(&mut self, op: &Op) {
        let expected = &mut self.expected;
        match op {
            Op::Ready(entries, hard_state) => {
                expected.entries.retain(|e| e.index < entries[0].index);
                expected.entries.extend_from_slice(entries);
                expected.hard_state = hard_state.clone();
            }
            Op::Applied(index) => expected.applied = *index,
            Op::Snapshot(index, _) => expected.snapshot = *index,
            Op::Compact(to) => {
                expected.entries.retain(|e| e.index >= *to);
                expected.first = *to;
            }
        }
    }
}

impl Expected {
    fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    fn found_in(storage: &RaftMachineStorage) -> Expected {
        let (first, last) = (storage.first_index(), storage.last_index());
        Expected {
            first,
            entries: storage.entries(first, last + 1, None).unwrap(),
            hard_state: storage.hard_state(),
            applied: storage.applied_index(),
            snapshot: storage
                .snapshot_metadata()
                .map_or(0, |metadata| metadata.index),
        }
    }
}

fn perform(storage: &RaftMachineStorage, op: &Op) -> Result<()> {
    match op {
        Op::Ready(entries, state) => storage.batch().entries(entries).hard_state(state).write(),
        Op::Applied(index) => storage.set_applied(*index),
        Op::Snapshot(index, len) => {
            storage.create_snapshot(*index, &conf_state(&[1, 2, 3]), &vec![7; *len])
        }
        Op::Compact(to) => storage.compact(*to),
    }
}

fn open(dir: &Path) -> RaftMachineStorage {
    let mut options = Options::default();
    // So small that a crash also falls into flushes and switches of the log.
    options.memtable_bytes = 64 << 10;
    RaftMachineStorage::open(dir, options).unwrap()
}

fn child(dir: &Path) {
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let mut done = number(CHILD_DONE);
    let mut workload = Workload::after(number(CHILD_SEED), done);
    let storage = open(dir);
    let mut out = std::io::stdout().lock();
    loop {
        perform(&storage, &workload.next()).unwrap();
        done += 1;
        // In one write each: a line is there whole or not at all.
        out.write_all(format!("acknowledged {done}\n").as_bytes())
            .unwrap();
        out.flush().unwrap();
    }
}

/// Runs the child until it has acknowledged some writes, kills it, and returns how many it
/// had acknowledged altogether.
fn run_and_kill(dir: &Path, seed: u64, done: u64, random: &mut fastrand::Rng) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_was_acknowledged_survives_a_kill",
            "--nocapture",
        ])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .env(CHILD_DONE, done.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = done;
    let until = done + random.u64(1..40);
    while acknowledged < until {
        let line = lines.next().expect("the child ended by itself").unwrap();
        acknowledged = number_in(&line).unwrap_or(acknowledged);
    }
    // Somewhere within the write that comes next, or the one after it.
    (0..random.u32(..100_000)).for_each(|_| std::hint::spin_loop());
    child.kill().unwrap();
    child.wait().unwrap();
    lines
        .filter_map(|line| number_in(&line.ok()?))
        .fold(acknowledged, u64::max)
}

fn number_in(line: &str) -> Option<u64> {
    line.split("acknowledged ").nth(1)?.parse().ok()
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return child(Path::new(&dir));
    }
    let rounds = std::env::var("RAFT_ROCKS_CRASH_ROUNDS").map_or(200, |n| n.parse().unwrap());
    let seed =
        std::env::var("RAFT_ROCKS_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    eprintln!("RAFT_ROCKS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut total, mut under_way) = (0, 0);
    for store in 0..u64::div_ceil(rounds, ROUNDS_PER_STORE) {
        let dir = tempfile::tempdir().unwrap();
        let workload_seed = random.u64(..);
        let mut done = 0;
        for round in 0..ROUNDS_PER_STORE.min(rounds - store * ROUNDS_PER_STORE) {
            let acknowledged = run_and_kill(dir.path(), workload_seed, done, &mut random);
            let found = Expected::found_in(&open(dir.path()));
            let mut workload = Workload::after(workload_seed, acknowledged);
            total += acknowledged - done;
            done = acknowledged;
            if found != workload.expected {
                workload.next();
                assert_eq!(
                    found, workload.expected,
                    "store {store}, round {round}, write {done}"
                );
                done += 1;
                under_way += 1;
            }
        }
    }
    eprintln!(
        "{rounds} kills, {total} writes acknowledged, none lost; {under_way} kills left the write under way"
    );
}
