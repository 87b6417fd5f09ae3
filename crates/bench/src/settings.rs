//! How much is measured, derived from the command line once.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::args::CompareArgs;

/// How much is measured. Written into the report.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// On the disk that is measured.
    pub dir: PathBuf,
    /// In RAM.
    pub ram_dir: PathBuf,
    /// Of everything random.
    pub seed: u64,
    /// `full`, `quick` or `smoke`.
    pub scale: &'static str,
    /// Turns each contender gets in an append or read scenario.
    pub rounds: u32,
    /// Turns in scenarios where one takes seconds: opening and compacting long logs.
    pub long_rounds: u32,
    /// How long a turn lasts.
    #[serde(serialize_with = "seconds")]
    pub burst: Duration,
    /// How long the disk rests between two turns.
    #[serde(serialize_with = "seconds")]
    pub pause: Duration,
    /// How long a run waits, all in all, for a disk that has slowed down to recover.
    #[serde(serialize_with = "seconds")]
    pub recovery: Duration,
    /// Memory that is used once before each turn in RAM: more than a turn takes.
    pub touched_bytes: u64,
    /// Entries of the logs that are read, opened and compacted.
    pub log_entries: u64,
    /// Entries that are written where bytes written are counted.
    pub counted_entries: u64,
    /// How long appending goes on where the longest append is looked for.
    #[serde(serialize_with = "seconds")]
    pub stall: Duration,
    /// The size of a log file where files are reused, and of everything allocated beforehand.
    pub file_bytes: u64,
}

impl Settings {
    /// What the command line asks for.
    pub fn new(args: &CompareArgs) -> Self {
        let mut settings = match (args.smoke, args.quick) {
            (true, _) => Settings::smoke(args),
            (false, true) => Settings::quick(args),
            (false, false) => Settings::full(args),
        };
        if let Some(rounds) = args.rounds {
            settings.rounds = rounds;
            settings.long_rounds = settings.long_rounds.min(rounds);
        }
        settings
    }

    fn full(args: &CompareArgs) -> Self {
        Settings {
            dir: args.dir.clone(),
            ram_dir: args.ram_dir.clone(),
            seed: args.seed,
            scale: "full",
            rounds: 20,
            long_rounds: 5,
            burst: Duration::from_millis(100),
            pause: Duration::from_millis(200),
            recovery: Duration::from_secs(120),
            touched_bytes: 256 << 20,
            log_entries: 1_000_000,
            counted_entries: 4_000_000,
            stall: Duration::from_secs(60),
            file_bytes: 64 << 20,
        }
    }

    fn quick(args: &CompareArgs) -> Self {
        Settings {
            scale: "quick",
            rounds: 5,
            long_rounds: 3,
            burst: Duration::from_millis(60),
            pause: Duration::from_millis(60),
            recovery: Duration::from_secs(15),
            touched_bytes: 128 << 20,
            counted_entries: 1_000_000,
            stall: Duration::from_secs(10),
            ..Settings::full(args)
        }
    }

    fn smoke(args: &CompareArgs) -> Self {
        Settings {
            scale: "smoke",
            rounds: 2,
            long_rounds: 1,
            burst: Duration::from_millis(5),
            pause: Duration::from_millis(1),
            recovery: Duration::ZERO,
            touched_bytes: 1 << 20,
            log_entries: 4_000,
            counted_entries: 30_000,
            stall: Duration::from_millis(50),
            file_bytes: 1 << 20,
            ..Settings::full(args)
        }
    }
}

fn seconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.as_secs_f64())
}
