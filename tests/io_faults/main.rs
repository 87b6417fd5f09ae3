//! Every I/O point: a process writes to a few groups under a shim that counts the calls which
//! open or change a file of the store. Then it does the same again and again, and at each point
//! in turn the call fails with EIO, with ENOSPC, on a disk that stays full, or the process dies
//! in front of it or in the middle of a write. After each run the store is opened as the process
//! left it, and as a power cut would have, in part or whole: every group holds what was acknowledged, or that and
//! what was under way, and nothing was acknowledged after a failure.
//!
//! `RAFT_ROCKS_IO_POINTS=n|all` says how many points are tried (40), `RAFT_ROCKS_SEED` replays
//! which, `RAFT_ROCKS_IO_CASE=fdatasync:wal:17:eio` runs one, as a failure names it; with
//! `RAFT_ROCKS_IO_STATE=write:table:3:die/cut` one in the recovery from that crash.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod child;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/io_shim/mod.rs"]
mod io_shim;
mod recovery;
mod run;
#[path = "../common/scratch.rs"]
mod scratch;
mod vote;
mod votes;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use child::{Job, Setup, Task};
use common::report::progress;
use io_shim::{Case, Places, Point, Shim, cases, lacking, unknown_to};
use run::{CHILD, Left, run};

const POINTS: usize = 40;
/// Points of a run that another run may lack, of a hundred: threads meet differently.
const MISSED_MAX_PERCENT: usize = 40;

/// The process itself; nothing when it was not started as one.
#[test]
fn process_under_the_shim() {
    if let Ok(job) = std::env::var(CHILD) {
        Job::from_text(&job).run();
    }
}

fn var<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn seed() -> u64 {
    let seed = var("RAFT_ROCKS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("RAFT_ROCKS_SEED={seed}");
    seed
}

/// How many points are tried of `all`.
fn points_wanted(all: usize) -> usize {
    match std::env::var("RAFT_ROCKS_IO_POINTS").as_deref() {
        Ok("all") => all,
        Ok(n) => n.parse().unwrap(),
        Err(_) => POINTS,
    }
}

fn shim() -> Option<Shim> {
    match Shim::compile() {
        Ok(shim) => Some(shim),
        Err(why) => {
            lacking("failing I/O needs cc", &why);
            None
        }
    }
}

/// `wanted` of `points`: half of them of different kinds, so that the rare ones are there.
fn sample(mut points: Vec<Point>, wanted: usize, random: &mut fastrand::Rng) -> Vec<Point> {
    if wanted >= points.len() {
        return points;
    }
    random.shuffle(&mut points);
    let mut kinds = BTreeSet::new();
    let (mut chosen, rest): (Vec<Point>, Vec<Point>) = points.into_iter().partition(|point| {
        kinds.len() < wanted.div_ceil(2)
            && kinds.insert((point.function.clone(), point.kind.clone()))
    });
    chosen.extend(rest);
    chosen.truncate(wanted);
    chosen
}

/// What was seen over many runs.
#[derive(Debug, Default)]
struct Seen {
    runs: usize,
    /// Whose point did not come.
    missed: usize,
    violations: Vec<String>,
}

/// Runs `check` for each case, as many at a time as there are processors.
fn try_all<T: Sync>(cases: &[T], check: impl Fn(&T) -> Result<bool, String> + Sync) -> Seen {
    let (next, seen) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let checked = check(case);
            let mut seen = seen.lock().unwrap();
            seen.runs += 1;
            match checked {
                Ok(happened) => seen.missed += usize::from(!happened),
                Err(violation) => {
                    eprintln!("{violation}");
                    seen.violations.push(violation);
                }
            }
            if seen.runs.is_multiple_of(500) {
                eprintln!("{} of {} runs", seen.runs, cases.len());
            }
            progress(seen.runs as u64, cases.len() as u64);
        }
    };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    seen.into_inner().unwrap()
}

fn report(what: &str, points: usize, seen: &Seen) {
    eprintln!(
        "{what}: io_points={points} io_point_runs={} io_point_violations={} missed={}",
        seen.runs,
        seen.violations.len(),
        seen.missed
    );
    common::report::figures(&[
        ("io_points", points as u64),
        ("io_point_runs", seen.runs as u64),
        ("io_point_violations", seen.violations.len() as u64),
    ]);
    assert_eq!(seen.violations, [] as [String; 0]);
    assert!(
        seen.missed * 100 <= seen.runs * MISSED_MAX_PERCENT,
        "too many points did not come again: {seen:?}"
    );
}

/// Replays one: prints what the process reported, and keeps what it left.
fn describe(case: &Case, ran: run::Ran) {
    eprintln!("{case}: {:#?}", ran.report);
    eprintln!("kept in {}", ran.places.keep().display());
}

fn try_case(shim: &Shim, setup: &Setup, case: &Case) -> Result<bool, String> {
    let ran = run(shim, setup, Task::Write, None, Some(case));
    let happened = ran.places.happened();
    let checked = ran.check_end(Some(case)).and_then(|()| {
        ran.check_silence(case)?;
        Left::ALL
            .into_iter()
            .try_for_each(|left| ran.check_store(setup, left))
    });
    let replay = format!(
        "RAFT_ROCKS_SEED={} RAFT_ROCKS_IO_CASE={case} ({setup:?})",
        setup.seed
    );
    if var::<Case>("RAFT_ROCKS_IO_CASE").is_some() {
        describe(case, ran);
    }
    checked.map_err(|wrong| format!("{replay}: {wrong}"))?;
    Ok(happened)
}

fn points_of(places: &Places) -> Vec<Point> {
    let points = places.points();
    assert!(points.len() > 50, "the shim saw {} points", points.len());
    points
}

fn every_point(recycle_wal: bool, strict: bool) {
    let Some(shim) = shim() else { return };
    let setup = Setup {
        seed: seed(),
        recycle_wal,
        strict,
    };
    if let Some(case) = var::<Case>("RAFT_ROCKS_IO_CASE") {
        assert_eq!(try_case(&shim, &setup, &case), Ok(true));
        return;
    }
    let counted = run(&shim, &setup, Task::Write, None, None);
    counted.check_end(None).unwrap();
    for left in Left::ALL {
        counted.check_store(&setup, left).unwrap();
    }
    let points = points_of(&counted.places);
    let wanted = points_wanted(points.len());
    let mut random = fastrand::Rng::with_seed(setup.seed);
    let chosen = sample(points, wanted, &mut random);
    let seen = try_all(&cases(&chosen), |case| try_case(&shim, &setup, case));
    report("writes", chosen.len(), &seen);
}

#[test]
fn a_failure_at_any_io_point_loses_nothing_acknowledged() {
    every_point(false, false);
}

#[test]
fn a_failure_at_any_io_point_loses_nothing_acknowledged_in_recycled_logs() {
    every_point(true, true);
}

/// A function that the shim lets by would make all of the above prove less than they say.
#[test]
fn the_shim_knows_every_function_that_changes_files() {
    let Some(shim) = shim() else { return };
    let program = std::env::current_exe().unwrap();
    match unknown_to(&shim.library(), &program) {
        Ok(unknown) => assert_eq!(unknown, [] as [String; 0]),
        Err(why) => lacking("the check of imports needs nm", &why),
    }
}
