//! What a log takes in memory, and what is written for it; each in processes of its own.

use anyhow::Result;

use super::{Run, Scenario};
use crate::child;
use crate::contenders::{System, budget_bytes};
use crate::report::Outcome;

const KIB_PER_MIB: f64 = 1024.0;

/// What is resident once a log is open, less the same of an empty log. The value leaves out
/// what the store was told it may use for caches and memtables.
pub fn resident(run: &mut Run, scenario: &Scenario) -> Result<()> {
    run.start(scenario);
    let entries = run.settings.log_entries;
    for system in scenario.participants(&run.systems) {
        let empty = run.logs.empty()?;
        let base = child::resident_kib(&run.settings, system, empty.path())?;
        let full = run.logs.copy(system, entries)?;
        let resident = child::resident_kib(&run.settings, system, full.path())?;
        let raw = (resident as f64 - base as f64) / KIB_PER_MIB;
        let budget = match system {
            System::RaftRocks => budget_bytes() as f64 / (1 << 20) as f64,
            _ => 0.0,
        };
        let beyond = (raw - budget).max(0.0);
        let outcome = Outcome::value(scenario.name, system.name(), beyond, "MiB", 1)
            .with("raw_mib", raw)
            .with("budget_mib", budget);
        run.add(outcome);
        run.progress.inc(1);
    }
    Ok(())
}

/// Bytes written for each byte of the entries' data, with a log that is cut as it grows.
pub fn written(run: &mut Run, scenario: &Scenario, keep: u64) -> Result<()> {
    run.start(scenario);
    let entries = run.settings.counted_entries;
    // A log that never gets so long would never be cut.
    let keep = keep.min(entries / 4);
    for system in scenario.participants(&run.systems) {
        let dir = run.logs.empty()?;
        let found = child::written(&run.settings, system, dir.path(), entries, keep)?;
        let value = found.written as f64 / found.entry_bytes as f64;
        run.add(Outcome::value(scenario.name, system.name(), value, "x", 1));
        run.progress.inc(1);
    }
    Ok(())
}
