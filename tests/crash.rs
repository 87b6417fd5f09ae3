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

use common::workload::{Expected, Workload};
use raft_rocks::{Options, RaftMachineStorage};

const CHILD_DIR: &str = "RAFT_ROCKS_CRASH_CHILD_DIR";
const CHILD_SEED: &str = "RAFT_ROCKS_CRASH_CHILD_SEED";
const CHILD_DONE: &str = "RAFT_ROCKS_CRASH_CHILD_DONE";
/// Crashes that one directory goes through.
const ROUNDS_PER_STORE: u64 = 20;

fn open(dir: &Path) -> RaftMachineStorage {
    let mut options = Options::default();
    // So small that a crash also falls into flushes and switches of the log.
    options.memtable_bytes = 64 << 10;
    RaftMachineStorage::open(dir, options).unwrap()
}

fn child(dir: &Path) {
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let mut done = number(CHILD_DONE);
    let mut workload = Workload::after(number(CHILD_SEED), true, done);
    let storage = open(dir);
    let mut out = std::io::stdout().lock();
    loop {
        workload.next().perform(&storage).unwrap();
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
            let mut workload = Workload::after(workload_seed, true, acknowledged);
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
