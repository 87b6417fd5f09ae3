//! As `crash.rs`, with many groups that submit their writes from one thread and go on: the
//! group commit makes one write of several, and each group has several under way. After each
//! kill every group holds what was acknowledged to it, and a prefix of what was under way.
//!
//! `RAFT_ROCKS_CRASH_ROUNDS` scales it (40 by default), `RAFT_ROCKS_SEED` replays it.
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
use std::sync::mpsc;

use common::workload::{Expected, Workload};
use raft_rocks::{Options, RaftStore};

const CHILD_DIR: &str = "RAFT_ROCKS_CRASH_CHILD_DIR";
const CHILD_SEED: &str = "RAFT_ROCKS_CRASH_CHILD_SEED";
const CHILD_DONE: &str = "RAFT_ROCKS_CRASH_CHILD_DONE";
const GROUPS: u64 = 24;
/// Writes that a group has under way.
const UNDER_WAY_MAX: u64 = 3;
/// Crashes that one directory goes through.
const ROUNDS_PER_STORE: u64 = 20;

fn open(dir: &Path) -> RaftStore {
    let mut options = Options::default();
    // So small that a crash also falls into flushes and switches of the log.
    options.memtable_bytes = 64 << 10;
    RaftStore::open(dir, options).unwrap()
}

fn seed_of(seed: u64, group: u64) -> u64 {
    seed.wrapping_add(group)
}

/// Submits to all groups, and again to each when it is acknowledged.
fn child(dir: &Path) {
    let text = |name| std::env::var(name).unwrap();
    let seed = text(CHILD_SEED).parse().unwrap();
    let done: Vec<u64> = text(CHILD_DONE)
        .split(' ')
        .map(|n| n.parse().unwrap())
        .collect();
    let store = open(dir);
    let (acknowledged, acknowledgements) = mpsc::channel();
    let mut groups: Vec<_> = (0..GROUPS)
        .map(|group| {
            let done = done[group as usize];
            let workload = Workload::after(seed_of(seed, group), true, done);
            (store.group(group).unwrap(), workload, done)
        })
        .collect();
    let mut submit = |group: u64| {
        let (storage, workload, done) = &mut groups[group as usize];
        *done += 1;
        let (done, acknowledged) = (*done, acknowledged.clone());
        let op = workload.next();
        op.submit(storage, move |result| {
            result.unwrap();
            acknowledged.send((group, done)).unwrap_or_default();
        })
        .unwrap();
    };
    for _ in 0..UNDER_WAY_MAX {
        (0..GROUPS).for_each(&mut submit);
    }
    let mut out = std::io::stdout().lock();
    for (group, done) in acknowledgements {
        // In one write each: a line is there whole or not at all.
        out.write_all(format!("acknowledged {group} {done}\n").as_bytes())
            .unwrap();
        out.flush().unwrap();
        submit(group);
    }
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let (group, done) = line.split("acknowledged ").nth(1)?.split_once(' ')?;
    Some((group.parse().ok()?, done.parse().ok()?))
}

/// Runs the child until it has acknowledged some writes, kills it, and returns how many each
/// group has had acknowledged altogether.
fn run_and_kill(dir: &Path, seed: u64, done: &[u64], random: &mut fastrand::Rng) -> Vec<u64> {
    let text: Vec<String> = done.iter().map(u64::to_string).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_was_acknowledged_to_any_group_survives_a_kill",
            "--nocapture",
        ])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .env(CHILD_DONE, text.join(" "))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = done.to_vec();
    let mut take = |line: &str| {
        if let Some((group, done)) = parse(line) {
            acknowledged[group as usize] = done;
        }
    };
    for _ in 0..random.u64(1..400) {
        take(&lines.next().expect("the child ended by itself").unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines.map_while(Result::ok).for_each(|line| take(&line));
    acknowledged
}

#[test]
fn what_was_acknowledged_to_any_group_survives_a_kill() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return child(Path::new(&dir));
    }
    let rounds = std::env::var("RAFT_ROCKS_CRASH_ROUNDS").map_or(40, |n| n.parse().unwrap());
    let seed =
        std::env::var("RAFT_ROCKS_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    eprintln!("RAFT_ROCKS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut total, mut under_way) = (0, 0);
    for number in 0..u64::div_ceil(rounds, ROUNDS_PER_STORE) {
        let dir = tempfile::tempdir().unwrap();
        let workload_seed = random.u64(..);
        let mut done = vec![0; GROUPS as usize];
        for round in 0..ROUNDS_PER_STORE.min(rounds - number * ROUNDS_PER_STORE) {
            let acknowledged = run_and_kill(dir.path(), workload_seed, &done, &mut random);
            total += acknowledged.iter().sum::<u64>() - done.iter().sum::<u64>();
            let store = open(dir.path());
            for (group, acknowledged) in (0..).zip(acknowledged) {
                let found = Expected::found_in(&store.group(group).unwrap());
                let seed = seed_of(workload_seed, group);
                let mut workload = Workload::after(seed, true, acknowledged);
                let mut beyond = 0;
                while found != workload.expected {
                    assert!(
                        beyond < UNDER_WAY_MAX,
                        "store {number}, round {round}, group {group}, write {acknowledged}: \
                         found {found:?}"
                    );
                    workload.next();
                    beyond += 1;
                }
                done[group as usize] = acknowledged + beyond;
                under_way += beyond;
            }
        }
    }
    eprintln!(
        "{rounds} kills, {total} writes acknowledged in {GROUPS} groups, none lost; {under_way} \
         that were under way are there too"
    );
}
