//! A cluster of driver cores under one seeded scheduler with simulated time.
//!
//! Everything that happens is an event: a tick, the arrival of a message, a write that becomes
//! durable, a step of a machine, a client's request, a fault. The seed decides their order and
//! their faults; after every event the rules in `checks.rs` must hold; at the end, healed, the
//! cluster must come to rest with equal states, and what its clients saw must be linearizable.
//! The same seed gives the same run.

mod checks;
mod client;
mod faults;
mod machine;
mod network;
mod node;
mod store;
mod world;

pub use faults::COUNTED;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::driver::MemoryLog;

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Events before faults end and the cluster is left to come to rest.
    pub events: u64,
    /// Run on the durable store, in this empty directory; on logs in memory otherwise.
    pub durable_dir: Option<PathBuf>,
    /// Keep a line for everything that happens.
    pub trace: bool,
}

impl Options {
    /// A run of this seed, in memory.
    pub fn new(seed: u64) -> Self {
        Options {
            seed,
            events: 2_000,
            durable_dir: None,
            trace: false,
        }
    }
}

/// A run in which everything held.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events that happened.
    pub events: u64,
    /// Operations that clients had answered.
    pub answered: u64,
    /// Entries that were committed.
    pub committed: u64,
    /// How often each fault, and each thing that is not one but rare, happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// What happened, when asked for.
    pub trace: Vec<String>,
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Replays it.
    pub seed: u64,
    /// The rule.
    pub rule: &'static str,
    /// What was seen.
    pub seen: String,
    /// After how many events.
    pub event: u64,
    /// What happened, when asked for.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation {
            seed,
            rule,
            seen,
            event,
            ..
        } = self;
        write!(f, "seed {seed}, event {event}: {rule}: {seen}")
    }
}

impl std::error::Error for Violation {}

/// Runs one seed.
///
/// # Errors
/// The first rule that was broken.
pub fn run(options: &Options) -> Result<Report, Box<Violation>> {
    let run = || match options.durable_dir {
        None => world::World::<MemoryLog>::new(options).run(),
        Some(_) => world::World::<store::DurableLog>::new(options).run(),
    };
    // raft-rs panics where its own rules are broken.
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Box::new(Violation {
            seed: options.seed,
            rule: "nothing panics",
            seen: text.unwrap_or_default(),
            event: 0,
            trace: Vec::new(),
        }))
    })
}
