//! What reads cost: from memory beside raft-rs's own storage, and from disk.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use raft_rocks::raft::{GetEntriesContext, Storage};
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage};

use super::{Run, Scenario};
use crate::child::{BATCH, BYTES};
use crate::contenders::{Memory, System};
use crate::entries::Source;
use crate::harness::{Samples, take_turns};
use crate::report::Outcome;

/// Entries of the logs that are read in memory.
const HOT_LOG: u64 = 50_000;
const TERM_LENGTH: u64 = 5_000;
const COLD_ENTRIES: u64 = 1_000;
/// A call is over before a clock can tell; so many are timed together.
const CALLS: usize = 1_000;

/// A system that is read, and what was found.
struct Reader<'a> {
    system: System,
    read: Box<dyn FnMut() -> Result<f64> + 'a>,
    samples: Samples,
}

/// The newest entries, which every follower that keeps up is sent, through raft-rs's trait.
pub fn hot(run: &mut Run, scenario: &Scenario) -> Result<()> {
    in_memory(run, scenario, &newest, &newest)
}

/// Terms at random places, which raft-rs asks for with every message, through its trait.
pub fn terms(run: &mut Run, scenario: &Scenario) -> Result<()> {
    let places = places(run.settings.seed, HOT_LOG, CALLS);
    let (rocks, memory) = (places.clone(), places);
    in_memory(
        run,
        scenario,
        &move |storage| some_terms(storage, &rocks),
        &move |storage| some_terms(storage, &memory),
    )
}

fn newest(storage: &impl Storage) -> Result<f64> {
    let last = storage.last_index()?;
    let low = last + 1 - BATCH as u64;
    let start = Instant::now();
    let entries = storage.entries(low, last + 1, None, GetEntriesContext::empty(false))?;
    let nanos = start.elapsed().as_nanos() as f64;
    black_box(entries);
    Ok(nanos)
}

fn some_terms(storage: &impl Storage, places: &[u64]) -> Result<f64> {
    let start = Instant::now();
    for index in places {
        black_box(storage.term(*index)?);
    }
    Ok(start.elapsed().as_nanos() as f64 / places.len() as f64)
}

fn places(seed: u64, last: u64, count: usize) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.u64(1..=last)).collect()
}

/// The same log in this project's store and in raft-rs's memory.
fn in_memory(
    run: &mut Run,
    scenario: &Scenario,
    rocks: &dyn Fn(&RaftMachineStorage) -> Result<f64>,
    memory: &dyn Fn(&raft_rocks::raft::storage::MemStorage) -> Result<f64>,
) -> Result<()> {
    run.start(scenario);
    let dir = run.logs.empty()?;
    let mut options = Options::default();
    options.fsync = FsyncPolicy::Never;
    options.reserve_bytes = 0;
    let storage = RaftMachineStorage::open(dir.path(), options)?;
    let in_memory = Memory::new();
    let mut source = Source::new(run.noise.clone(), 0).with_terms(TERM_LENGTH);
    let mut entries = Vec::new();
    while source.last_index() < HOT_LOG {
        let count = (HOT_LOG - source.last_index()).min(BATCH as u64);
        source.fill(&mut entries, count as usize, BYTES);
        storage.append(&entries)?;
        in_memory.append(&entries)?;
    }
    let reader = |system| Reader {
        system,
        read: match system {
            System::MemStorage => Box::new(|| memory(in_memory.storage())),
            _ => Box::new(|| rocks(&storage)),
        },
        samples: Samples::default(),
    };
    let systems = scenario.participants(&run.systems);
    let mut readers: Vec<_> = systems.into_iter().map(reader).collect();
    measure(run, &mut readers)?;
    finish(run, scenario, readers);
    Ok(())
}

/// A thousand entries at random places of a log that was reopened, so that nothing of it is in
/// memory that the store calls a cache of entries. What the system keeps of the files in its page
/// cache stays there, for all contenders.
pub fn cold(run: &mut Run, scenario: &Scenario) -> Result<()> {
    run.start(scenario);
    let length = run.settings.log_entries;
    let mut opened = Vec::new();
    for system in scenario.participants(&run.systems) {
        let dir = run.logs.copy(system, length)?;
        let contender = run.logs.open(system, dir.path())?;
        opened.push((system, contender, dir));
    }
    let lows = places(run.settings.seed, length - COLD_ENTRIES, 4_096);
    let mut readers = Vec::new();
    for (system, contender, _) in &opened {
        let mut lows = lows.iter().copied().cycle();
        let read = move || {
            let low = lows.next().context("no place to read")?;
            let start = Instant::now();
            let entries = contender.fetch(0, low, low + COLD_ENTRIES)?;
            let nanos = start.elapsed().as_nanos() as f64;
            let ends = (
                entries.first().map(|e| e.index),
                entries.last().map(|e| e.index),
            );
            let expected = (Some(low), Some(low + COLD_ENTRIES - 1));
            anyhow::ensure!(ends == expected, "read {ends:?} instead of {expected:?}");
            Ok(nanos)
        };
        readers.push(Reader {
            system: *system,
            read: Box::new(read),
            samples: Samples::default(),
        });
    }
    measure(run, &mut readers)?;
    finish(run, scenario, readers);
    Ok(())
}

fn measure(run: &Run, readers: &mut [Reader<'_>]) -> Result<()> {
    let settings = &run.settings;
    take_turns(readers, settings.rounds, settings.seed, |reader| {
        let nanos = read_for(&mut reader.read, settings.burst);
        let nanos = nanos.with_context(|| reader.system.name().to_owned())?;
        reader.samples.add(nanos, None);
        run.progress.inc(1);
        Ok(())
    })
}

fn read_for(read: &mut dyn FnMut() -> Result<f64>, length: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut nanos = vec![read()?];
    while start.elapsed() < length {
        nanos.push(read()?);
    }
    Ok(nanos)
}

fn finish(run: &mut Run, scenario: &Scenario, readers: Vec<Reader<'_>>) {
    for reader in readers {
        let summary = reader.samples.summary();
        run.add(Outcome::timed(scenario.name, reader.system.name(), summary));
    }
}
