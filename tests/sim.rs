//! Simulated clusters of driver cores: see `src/testing/sim`. `make sim` runs ten times as many.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use raft_rocks::testing::sim::{self, COUNTED, Options, Report};

fn seeds(otherwise: u64) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().unwrap());
    let count = number("RAFT_ROCKS_SIM_SEEDS").unwrap_or(otherwise);
    (
        number("RAFT_ROCKS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 48)),
        count,
    )
}

/// Runs seeds on all processors; the counts of what happened in them.
fn run(
    from: u64,
    count: u64,
    options: impl Fn(u64) -> Options + Sync,
) -> BTreeMap<&'static str, u64> {
    println!(
        "seeds {from} to {}; RAFT_ROCKS_SEED={from} repeats them",
        from + count - 1
    );
    let next = AtomicU64::new(from);
    let counts = Mutex::new(BTreeMap::new());
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + count {
                return;
            }
            let Report { counts: own, .. } =
                sim::run(&options(seed)).unwrap_or_else(|violation| panic!("{violation}"));
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            for (what, times) in own {
                *counts.entry(what).or_default() += times;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    counts.into_inner().unwrap()
}

#[test]
fn rafts_rules_hold_in_simulated_clusters() {
    let (from, count) = seeds(1_000);
    let counts = run(from, count, Options::new);
    for what in COUNTED {
        let times = counts.get(what).copied().unwrap_or(0);
        println!("{what:28} {times:>10}");
        assert!(times > 0 || count < 500, "{what} never happened");
    }
}

#[test]
fn rafts_rules_hold_on_the_durable_store() {
    let (from, _) = seeds(0);
    let ram = std::path::Path::new("/dev/shm");
    let scratch = match ram.is_dir() {
        true => tempfile::tempdir_in(ram),
        false => tempfile::tempdir(),
    };
    let scratch = scratch.unwrap();
    run(from, 50, |seed| {
        let mut options = Options::new(seed);
        options.events = 800;
        options.durable_dir = Some(scratch.path().join(seed.to_string()));
        options
    });
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let (from, _) = seeds(0);
    println!("seed {from}");
    let mut options = Options::new(from);
    options.trace = true;
    let first = sim::run(&options).unwrap();
    let second = sim::run(&options).unwrap();
    assert_eq!(first.trace, second.trace);
}
