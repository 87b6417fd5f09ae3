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
mod run;
#[path = "../common/scratch.rs"]
mod scratch;
mod vote;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use child::{Job, Setup, Task};
use common::copy_store;
use common::workload::Expected;
use io_shim::{Case, Fault, Places, Point, Shim, cases, lacking, unknown_to};
use run::{CHILD, Left, contents, run};
use scratch::scratch;

/// Crashes from which recovery is tried.
const STATES: usize = 20;
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

/// A crash, and how it leaves the store.
struct Crash {
    case: Case,
    left: Left,
}

impl Crash {
    fn name(&self) -> String {
        format!("{}/{}", self.case, self.left.name())
    }

    fn from_name(name: &str) -> Crash {
        let (case, left) = name.split_once('/').unwrap();
        Crash {
            case: case.parse().unwrap(),
            left: *Left::ALL.iter().find(|known| known.name() == left).unwrap(),
        }
    }

    /// Crashes, and leaves the store below `root`.
    fn leave(&self, shim: &Shim, setup: &Setup, root: &Path) {
        let ran = run(shim, setup, Task::Write, None, Some(&self.case));
        copy_store(&ran.left(self.left), root);
    }
}

/// Of as many kinds of points as there are, in all ways.
fn crashes(points: Vec<Point>, random: &mut fastrand::Rng) -> Vec<Crash> {
    let chosen = sample(points, 2 * STATES, random).into_iter();
    let chosen = chosen.take(STATES).enumerate();
    let crash = |(n, point): (usize, Point)| Crash {
        case: Case {
            fault: if point.writes() {
                Fault::Short
            } else {
                Fault::Die
            },
            point,
        },
        left: Left::ALL[n % 3],
    };
    chosen.map(crash).collect()
}

/// A crash, what it left, and what a clean open finds there.
struct Base {
    crash: Crash,
    root: PathBuf,
    contents: Vec<Expected>,
    /// Those that an open comes by.
    points: Vec<Point>,
}

impl Base {
    fn new(shim: &Shim, setup: &Setup, crash: Crash, root: PathBuf) -> Base {
        crash.leave(shim, setup, &root);
        let counted = run(shim, setup, Task::Open, Some(&root), None);
        let checked = counted.check_end(None);
        checked.unwrap_or_else(|wrong| panic!("{}: {wrong}", crash.name()));
        let clean = scratch().unwrap();
        copy_store(&root, clean.path());
        let contents = contents(setup, clean.path());
        Base {
            contents: contents.unwrap_or_else(|wrong| panic!("{}: {wrong}", crash.name())),
            points: points_of(&counted.places),
            crash,
            root,
        }
    }

    /// An open that fails, or dies, and then a clean one.
    fn try_case(&self, shim: &Shim, setup: &Setup, case: &Case) -> Result<bool, String> {
        let ran = run(shim, setup, Task::Open, Some(&self.root), Some(case));
        let happened = ran.places.happened();
        let checked = ran.check_end(Some(case)).and_then(|()| {
            for left in Left::ALL {
                let found = contents(setup, &ran.left(left));
                let found = found.map_err(|e| format!("after a {}: {e}", left.name()))?;
                if found != self.contents {
                    return Err(format!("after a {}: another store", left.name()));
                }
            }
            Ok(())
        });
        let replay = format!(
            "RAFT_ROCKS_SEED={} RAFT_ROCKS_IO_STATE={} RAFT_ROCKS_IO_CASE={case}",
            setup.seed,
            self.crash.name()
        );
        if var::<Case>("RAFT_ROCKS_IO_CASE").is_some() {
            describe(case, ran);
        }
        checked.map_err(|wrong| format!("{replay}: {wrong}"))?;
        Ok(happened)
    }
}

fn every_point_of_recovery(recycle_wal: bool) {
    let Some(shim) = shim() else { return };
    let setup = Setup {
        seed: seed(),
        recycle_wal,
        strict: false,
    };
    let mut random = fastrand::Rng::with_seed(setup.seed);
    let crashes = match var::<String>("RAFT_ROCKS_IO_STATE") {
        Some(name) => vec![Crash::from_name(&name)],
        None => {
            let counted = run(&shim, &setup, Task::Write, None, None);
            crashes(points_of(&counted.places), &mut random)
        }
    };
    let states = scratch().unwrap();
    let root = |n: usize| states.path().join(n.to_string());
    let numbered = crashes.into_iter().enumerate();
    let bases = numbered.map(|(n, crash)| Base::new(&shim, &setup, crash, root(n)));
    let bases: Vec<Base> = bases.collect();
    let (mut points, mut tries) = (0, Vec::new());
    for base in &bases {
        let wanted = points_wanted(usize::MAX).div_ceil(STATES);
        let chosen = match var::<Case>("RAFT_ROCKS_IO_CASE") {
            Some(case) => vec![case],
            None => {
                let chosen = sample(base.points.clone(), wanted, &mut random);
                points += chosen.len();
                cases(&chosen)
            }
        };
        tries.extend(chosen.into_iter().map(|case| (base, case)));
    }
    let seen = try_all(&tries, |(base, case)| base.try_case(&shim, &setup, case));
    report("recovery", points, &seen);
}

#[test]
fn a_failure_at_any_io_point_of_recovery_changes_nothing() {
    every_point_of_recovery(false);
}

#[test]
fn a_failure_at_any_io_point_of_recovery_changes_nothing_in_recycled_logs() {
    every_point_of_recovery(true);
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

/// Scenario 3 of the design: nothing leaves a node whose vote could not be synced, and it does
/// not vote twice.
#[test]
fn a_vote_whose_sync_failed_never_leaves_and_is_never_given_twice() {
    let Some(shim) = shim() else { return };
    for task in [Task::Vote, Task::SubmitVote] {
        let setup = Setup {
            seed: 0,
            recycle_wal: false,
            strict: false,
        };
        let clean = run(&shim, &setup, task, None, None);
        assert_eq!(clean.lines("voted").next().unwrap()[1], "1", "{task:?}");
        let syncs = |point: &Point| point.kind == "wal" && point.function.ends_with("sync");
        let mut of_votes = 0;
        for point in clean.places.points().into_iter().filter(syncs) {
            for fault in [Fault::Eio, Fault::Enospc] {
                let point = point.clone();
                of_votes += usize::from(try_vote(&shim, &setup, task, Case { point, fault }));
            }
        }
        assert!(of_votes >= 2, "the sync of the vote was not hit");
    }
}

/// Returns whether it was the vote that failed.
fn try_vote(shim: &Shim, setup: &Setup, task: Task, case: Case) -> bool {
    let ran = run(shim, setup, task, None, Some(&case));
    ran.check_end(Some(&case)).unwrap();
    let failed: Vec<_> = ran
        .lines("vote-failed")
        .map(|words| words[1] == "1")
        .collect();
    assert!(
        failed.iter().all(|poisoned| *poisoned),
        "{case}: {:?}",
        ran.report
    );
    let left: usize = ran
        .lines("voted")
        .map(|words| words[1].parse::<usize>().unwrap())
        .sum();
    assert!(failed.is_empty() || left == 0, "{case}: {:?}", ran.report);
    let syncs = ran.places.points().into_iter();
    // When there is no space RocksDB flushes on its own account, and syncs the log for it. What
    // it saves so was never acknowledged, and may be there or not.
    let by_rocksdb = case.fault == Fault::Enospc;
    let mut syncs =
        syncs.filter(|point| point.kind == "wal" && point.function == case.point.function);
    let last = syncs.next_back().unwrap();
    assert!(by_rocksdb || last == case.point, "{case}: synced again");
    for at in Left::ALL {
        let store =
            raft_rocks::RaftStore::open(ran.left(at).join("store"), setup.options()).unwrap();
        let storage = store.group(0).unwrap();
        if storage.conf_state() == Default::default() {
            continue;
        }
        let second = vote::vote_waiting(&storage, vote::SECOND).unwrap();
        assert!(
            left == 0 || second == 0,
            "{case}, {at:?}: two votes in term {}",
            vote::TERM
        );
    }
    !failed.is_empty()
}
