//! Every I/O point of the recovery from a crash: an open that fails, or dies, and then a clean one,
//! which has to find what a clean one finds without that.

use std::path::{Path, PathBuf};

use crate::child::{Setup, Task};
use crate::common::copy_store;
use crate::common::workload::Expected;
use crate::io_shim::{Case, Fault, Point, Shim, cases};
use crate::run::{Left, contents, run};
use crate::scratch::scratch;
use crate::{describe, points_of, points_wanted, report, sample, seed, shim, try_all, var};

/// Crashes from which recovery is tried.
const STATES: usize = 20;

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
