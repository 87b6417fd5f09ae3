//! How long an append takes, and how many there are in a second.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{Kind, Run, Scenario};
use crate::clients::{self, Client, Model, Shape};
use crate::contenders::{self, Contender, Setup, Store};
use crate::disk::{self, Pace};
use crate::harness::{Samples, take_turns};
use crate::logs::new_dir;
use crate::report::Outcome;

/// Entries of one append, and bytes of each, while a contender is warmed up.
const WARM_UP: Shape = super::append(64, 1024, 1);

/// An open contender, and those who append to it.
struct Instance {
    contender: Arc<dyn Contender>,
    clients: Vec<Client>,
    _dir: TempDir,
}

type Instances = BTreeMap<Store, Instance>;

/// The scenarios on the disk.
pub fn on_disk(run: &mut Run, scenarios: &[Scenario]) -> Result<()> {
    let settings = &run.settings;
    let pace = Pace::new(&settings.dir, settings.pause, settings.recovery)?;
    let dir = settings.dir.clone();
    let shape = |kind| match kind {
        Kind::Append(shape) => Some(shape),
        _ => None,
    };
    all(run, scenarios, &dir, pace, shape)
}

/// The scenarios in RAM.
pub fn in_ram(run: &mut Run, scenarios: &[Scenario]) -> Result<()> {
    let dir = run.settings.ram_dir.clone();
    let shape = |kind| match kind {
        Kind::AppendCpu(shape) => Some(shape),
        _ => None,
    };
    let settings = &run.settings;
    let pace = Pace::in_ram(&dir, settings.pause, settings.touched_bytes);
    all(run, scenarios, &dir, pace, shape)
}

fn all(
    run: &mut Run,
    scenarios: &[Scenario],
    dir: &Path,
    mut pace: Pace,
    shape: impl Fn(Kind) -> Option<Shape>,
) -> Result<()> {
    let with_shape = |scenario: &Scenario| Some((*scenario, shape(scenario.kind)?));
    let scenarios: Vec<_> = scenarios.iter().filter_map(with_shape).collect();
    let mut instances = open_all(run, &scenarios, dir)?;
    for (scenario, shape) in scenarios {
        let here = || format!("scenario {}", scenario.name);
        one(run, scenario, shape, &mut instances, &mut pace).with_context(here)?;
    }
    run.report.waited(pace.waited());
    Ok(())
}

/// Opens and warms up every contender that takes part in one of the scenarios.
fn open_all(run: &Run, scenarios: &[(Scenario, Shape)], dir: &Path) -> Result<Instances> {
    let groups = scenarios.iter().map(|(_, shape)| shape.groups).max();
    let mut instances = Instances::new();
    for (scenario, _) in scenarios {
        for system in scenario.participants(&run.systems) {
            let store = system.store().context("it cannot be appended to")?;
            if let Entry::Vacant(place) = instances.entry(store) {
                let warming_up = format!("{} warms up", system.name());
                run.progress.set_message(warming_up.clone());
                let instance = open(run, store, dir, groups.unwrap_or(1) as u64);
                place.insert(instance.context(warming_up)?);
            }
        }
    }
    Ok(instances)
}

fn open(run: &Run, store: Store, dir: &Path, groups: u64) -> Result<Instance> {
    let settings = &run.settings;
    let setup = Setup {
        groups,
        synced: true,
        prefill: true,
        file_bytes: settings.file_bytes,
    };
    let dir = new_dir(dir)?;
    let contender = contenders::open(store, dir.path(), setup)?;
    let client = |group| Client::new(group, &run.noise);
    let mut clients: Vec<_> = (0..groups).map(client).collect();
    if let Some(client) = clients.first_mut() {
        warm_up(&*contender, client, store, settings.file_bytes)?;
    }
    disk::settle(dir.path())?;
    Ok(Instance {
        contender,
        clients,
        _dir: dir,
    })
}

/// Writes more than a file that is reused holds: then the files that are written to next are
/// those that were there before. The others need a first write only.
fn warm_up(
    contender: &dyn Contender,
    client: &mut Client,
    store: Store,
    file_bytes: u64,
) -> Result<()> {
    let reuses = matches!(
        store,
        Store::RaftRocks | Store::RaftEngine | Store::RaftEngineWriter
    );
    let bytes = match store {
        // The first log is free for reuse once the second is full: a third begins in it.
        Store::RaftRocks => file_bytes * 5 / 2,
        _ if reuses => file_bytes * 5 / 4,
        _ => 0,
    };
    let per_append = (WARM_UP.batch * WARM_UP.bytes) as u64;
    let shape = if reuses {
        WARM_UP
    } else {
        super::append(1, 256, 1)
    };
    for _ in 0..=bytes / per_append {
        client.append(contender, shape)?;
    }
    client.shorten(contender)?;
    contender.purge()
}

/// One system in one scenario.
struct Entrant {
    name: &'static str,
    store: Store,
    model: Model,
    samples: Samples,
}

fn one(
    run: &mut Run,
    scenario: Scenario,
    shape: Shape,
    instances: &mut Instances,
    pace: &mut Pace,
) -> Result<()> {
    run.start(&scenario);
    let mut entrants = Vec::new();
    for system in scenario.participants(&run.systems) {
        if let (Some(store), Some(model)) = (system.store(), Model::of(system, shape.groups)) {
            entrants.push(Entrant {
                name: system.name(),
                store,
                model,
                samples: Samples::default(),
            });
        }
    }
    let settings = &run.settings;
    take_turns(&mut entrants, settings.rounds, settings.seed, |entrant| {
        let instance = instances.get_mut(&entrant.store);
        let instance = instance.context("it is not open")?;
        pace.wait()?;
        turn(entrant, instance, shape, settings.burst).with_context(|| entrant.name.to_owned())?;
        run.progress.inc(1);
        Ok(())
    })?;
    for entrant in entrants {
        let summary = entrant.samples.summary();
        run.add(Outcome::timed(scenario.name, entrant.name, summary));
    }
    Ok(())
}

fn turn(
    entrant: &mut Entrant,
    instance: &mut Instance,
    shape: Shape,
    length: std::time::Duration,
) -> Result<()> {
    let contender = &*instance.contender;
    let clients = &mut instance.clients;
    let burst = clients::burst(contender, entrant.model, clients, shape, length)?;
    let entries = (burst.latencies.len() * shape.batch) as f64;
    let per_s = entries / burst.elapsed.as_secs_f64();
    let nanos = burst.latencies.into_iter().map(|nanos| nanos as f64);
    entrant.samples.add(nanos, Some(per_s));
    // Between the turns, so that no append waits for it; `stall_max` is where one may.
    for client in clients {
        client.shorten(contender)?;
    }
    contender.purge()
}
