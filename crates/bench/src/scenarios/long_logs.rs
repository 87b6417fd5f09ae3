//! What the length of a log costs when it is opened, and when it is cut.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Run, Scenario};
use crate::contenders::System;
use crate::harness::{median, take_turns, timed};
use crate::logs::Logs;
use crate::report::Outcome;

/// Entries that are left of a log that was cut.
const LEFT: u64 = 1_000;

/// Opening a log as its writer left it. raft-rocks reads and verifies every record.
pub fn open(run: &mut Run, scenario: &Scenario, divisor: u64) -> Result<()> {
    let length = run.settings.log_entries / divisor;
    in_turns(run, scenario, |logs, system| {
        let dir = logs.copy(system, length)?;
        let (_open, took) = timed(|| logs.open(system, dir.path()))?;
        Ok(took.as_secs_f64() * 1e3)
    })
}

/// The call that removes all but the newest entries. What a store does later, in the background
/// or when it is told to purge, is not in it.
pub fn compact(run: &mut Run, scenario: &Scenario) -> Result<()> {
    let length = run.settings.log_entries;
    in_turns(run, scenario, |logs, system| {
        let dir = logs.copy(system, length)?;
        let contender = logs.open(system, dir.path())?;
        contender.set_applied(0, length)?;
        let ((), took) = timed(|| contender.compact(0, length - LEFT + 1))?;
        Ok(took.as_secs_f64() * 1e3)
    })
}

/// The median of what each system takes, in milliseconds.
fn in_turns(
    run: &mut Run,
    scenario: &Scenario,
    mut measure: impl FnMut(&mut Logs, System) -> Result<f64>,
) -> Result<()> {
    run.start(scenario);
    let mut systems = scenario.participants(&run.systems);
    let mut times: BTreeMap<System, Vec<f64>> = BTreeMap::new();
    let (rounds, seed) = (scenario.rounds(&run.settings), run.settings.seed);
    let (logs, progress) = (&mut run.logs, &run.progress);
    take_turns(&mut systems, rounds, seed, |system| {
        let took = measure(logs, *system)?;
        times.entry(*system).or_default().push(took);
        progress.inc(1);
        Ok(())
    })?;
    for (system, times) in times {
        let value = median(times);
        run.add(Outcome::value(
            scenario.name,
            system.name(),
            value,
            "ms",
            rounds,
        ));
    }
    Ok(())
}
