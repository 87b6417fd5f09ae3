//! Damage to every kind of file of a store. The store must hold what it held before, in every
//! group, or be refused by an error that says what is damaged; it must never open with anything
//! else. A write that was torn by a power cut before it was ever synced is no damage: it must
//! open.
//!
//! `RAFT_ROCKS_DAMAGE_CASES` scales it (1,000, and a tenth of that torn writes),
//! `RAFT_ROCKS_SEED` replays a run, `RAFT_ROCKS_DAMAGE_CASE` one case by the number that a
//! failure names.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod base;
#[path = "../common/mod.rs"]
mod common;
mod damage;
#[path = "../common/scratch.rs"]
mod scratch;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use base::{Base, State, read, scratch};
use common::{copy_store, report};
use damage::Damage;
use raft_rocks::{Error, RaftStore};

/// Stores that are made anew for so many cases.
const CASES_PER_BASE: u64 = 100;
const TEARS_PER_BASE: u64 = 25;

fn var(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Opened, and holds what it may.
    Same,
    /// Refused by an error of ours that names what is damaged.
    Refused(&'static str),
    /// Opened, and lacks something or holds something else. Never.
    Silent,
    /// Nothing was changed: no case.
    Nothing,
}

/// What became of a damaged store.
fn open(dir: &Path, base: &Base) -> (End, String) {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let store = RaftStore::open(dir, base.options.clone())?;
        let state = read(&store)?;
        store.close()?;
        Ok(state)
    }));
    match opened {
        Err(_) => (End::Silent, "it panicked".to_owned()),
        Ok(Err(e)) => (named(&e), e.to_string()),
        Ok(Ok(state)) if base.states.contains(&state) => (End::Same, String::new()),
        Ok(Ok(state)) => (End::Silent, difference(&state, &base.states)),
    }
}

/// The variant of an error, when it says what is damaged.
fn named(error: &Error) -> End {
    End::Refused(match error {
        Error::Corruption { .. } => "Corruption",
        Error::AcknowledgedWritesLost { .. } => "AcknowledgedWritesLost",
        Error::UnsupportedFormat { .. } => "UnsupportedFormat",
        Error::Rocks { op: "open", .. } => "Rocks",
        Error::Io { .. } => "Io",
        // An error that would send an operator looking in the wrong place.
        _ => return End::Silent,
    })
}

fn difference(found: &State, allowed: &[State]) -> String {
    let last = allowed.last().unwrap();
    let groups: Vec<_> = found.keys().copied().collect();
    let expected: Vec<_> = last.keys().copied().collect();
    let differing = last.iter().find(|(id, group)| found.get(id) != Some(group));
    let text = differing.map(|(id, (group, _))| {
        let has = found.get(id).map(|(has, _)| {
            (
                has.first,
                has.last(),
                has.hard_state.clone(),
                has.applied,
                has.snapshot,
            )
        });
        let had = (
            group.first,
            group.last(),
            &group.hard_state,
            group.applied,
            group.snapshot,
        );
        format!("group {id} holds {has:?}, and held {had:?}")
    });
    format!(
        "groups {groups:?} of {expected:?}; {}",
        text.unwrap_or_default()
    )
}

/// A file of the store, each kind of file as often as any other.
fn victim(dir: &Path, random: &mut fastrand::Rng) -> (String, PathBuf, Vec<PathBuf>) {
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for file in std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap()) {
            if file.file_type().unwrap().is_dir() {
                pending.push(file.path());
            } else {
                let kind = kind(&file.path());
                kinds.entry(kind).or_default().push(file.path());
            }
        }
    }
    let kind = random.choice(kinds.keys()).unwrap().clone();
    let mut files = kinds.remove(&kind).unwrap();
    files.sort();
    let file = random.choice(&files).unwrap().clone();
    files.retain(|other| *other != file);
    (kind, file, files)
}

fn kind(file: &Path) -> String {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    if let Some((_, extension)) = name.rsplit_once('.')
        && !name.starts_with("LOG")
    {
        return extension.to_owned();
    }
    let letters = |c: &char| c.is_ascii_alphabetic();
    name.chars().take_while(letters).collect()
}

/// Counts of all cases.
#[derive(Default)]
struct Seen {
    ends: BTreeMap<(String, Damage), BTreeMap<End, u64>>,
    torn: u64,
    torn_refused: u64,
    failures: Vec<String>,
}

impl Seen {
    fn count(&self, of: impl Fn(&End) -> bool) -> u64 {
        let all = self.ends.values().flatten();
        all.filter(|(end, _)| of(end)).map(|(_, count)| count).sum()
    }

    fn figures(&self) -> [(&'static str, u64); 6] {
        let cases = self.count(|end| *end != End::Nothing);
        let silent = self.count(|end| *end == End::Silent);
        let same = self.count(|end| *end == End::Same);
        [
            ("damage_cases", cases),
            ("damage_silent", silent),
            ("damage_refused", cases - silent - same),
            ("damage_harmless", same),
            ("torn_cases", self.torn),
            ("torn_refused", self.torn_refused),
        ]
    }

    /// Which files and kinds of damage were met, and how they ended.
    fn table(&self) -> String {
        let mut by_file: BTreeMap<&str, BTreeMap<End, u64>> = BTreeMap::new();
        for ((file, _), ends) in &self.ends {
            for (end, count) in ends {
                *by_file.entry(file).or_default().entry(*end).or_default() += count;
            }
        }
        by_file
            .iter()
            .map(|(file, ends)| format!("{file:>12} {ends:?}\n"))
            .collect()
    }
}

/// One case; its number tells all of it, given the store.
fn damage_case(base: &Base, number: u64, seen: &Mutex<Seen>) {
    let mut random = fastrand::Rng::with_seed(number);
    let dir = scratch();
    copy_store(base.dir.path(), dir.path());
    let (file_kind, file, others) = victim(dir.path(), &mut random);
    let damage = *random.choice(&Damage::ALL).unwrap();
    let name = file.strip_prefix(dir.path()).unwrap().display().to_string();
    let struck = damage.strike(&file, &others, &mut random);
    let (end, why) = match &struck {
        Some(_) => open(dir.path(), base),
        None => (End::Nothing, String::new()),
    };
    let place = struck.unwrap_or_default();
    if var("RAFT_ROCKS_DAMAGE_CASE").is_some() {
        eprintln!(
            "{}; {damage:?} at {place} of {name}: {end:?} {why}",
            base.story
        );
    }
    let mut seen = seen.lock().unwrap();
    if end == End::Silent {
        seen.failures.push(format!(
            "RAFT_ROCKS_DAMAGE_CASE={number}: {}; {damage:?} at {place} of {name}: {why}",
            base.story
        ));
    }
    let ends = seen.ends.entry((file_kind, damage)).or_default();
    *ends.entry(end).or_default() += 1;
}

fn torn_case(base: &Base, number: u64, seen: &Mutex<Seen>) {
    let Some(unsynced) = &base.unsynced else {
        return;
    };
    let mut random = fastrand::Rng::with_seed(number);
    let dir = scratch();
    copy_store(base.dir.path(), dir.path());
    let log = dir
        .path()
        .join(unsynced.log.strip_prefix(base.dir.path()).unwrap());
    let how = damage::tear(&log, &unsynced.synced, unsynced.from, &mut random);
    let (end, why) = open(dir.path(), base);
    let mut seen = seen.lock().unwrap();
    seen.torn += 1;
    if end != End::Same {
        seen.torn_refused += 1;
        seen.failures.push(format!(
            "RAFT_ROCKS_DAMAGE_CASE={number} (torn): {}; {how}: {end:?} {why}",
            base.story
        ));
    }
}

/// A case that takes longer hangs: that is no refusal either.
const HANGS_AFTER: Duration = Duration::from_secs(100);

/// The case that each thread is at, and since when.
type UnderWay = Mutex<BTreeMap<usize, (Instant, u64)>>;

/// Ends the process when a case hangs; returns when `done` is closed.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing else ends a thread that hangs in RocksDB"
)]
fn watch(under_way: &UnderWay, done: &Receiver<()>) {
    while done.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
        let oldest = under_way.lock().unwrap().values().min().copied();
        if let Some((since, number)) = oldest
            && since.elapsed() > HANGS_AFTER
        {
            eprintln!("RAFT_ROCKS_DAMAGE_CASE={number} hangs");
            std::process::exit(1);
        }
    }
}

/// Runs `cases`, so many of each store, on all processors; the same cases for the same seed.
fn run(
    seed: u64,
    (cases, per_base): (u64, u64),
    base: impl Fn(u64) -> Base + Sync,
    case: impl Fn(&Base, u64, &Mutex<Seen>) + Sync,
) -> Seen {
    let (seen, under_way) = (Mutex::new(Seen::default()), UnderWay::default());
    let next = AtomicU64::new(0);
    let bases = cases.div_ceil(per_base);
    let work = |thread: usize, _done: Sender<()>| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= bases {
                return;
            }
            let base = base(number);
            let first = number * per_base;
            for at in first..(first + per_base).min(cases) {
                let at = seed.wrapping_mul(31).wrapping_add(at);
                under_way
                    .lock()
                    .unwrap()
                    .insert(thread, (Instant::now(), at));
                case(&base, at, &seen);
                under_way.lock().unwrap().remove(&thread);
            }
            report::progress((number + 1) * per_base, cases);
        }
    };
    let (working, done) = mpsc::channel();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for thread in 0..threads {
            let working = working.clone();
            let work = &work;
            scope.spawn(move || work(thread, working));
        }
        drop(working);
        watch(&under_way, &done);
    });
    seen.into_inner().unwrap()
}

fn seed() -> u64 {
    let seed = var("RAFT_ROCKS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("RAFT_ROCKS_SEED={seed}");
    seed
}

#[test]
fn damage_is_refused_or_changes_nothing() {
    let seed = seed();
    let cases = var("RAFT_ROCKS_DAMAGE_CASES").unwrap_or(1_000);
    let only = var("RAFT_ROCKS_DAMAGE_CASE");
    let wanted = |number: u64| only.is_none_or(|only| only == number);
    let any = |number: u64| Base::new(seed.wrapping_add(number), number.is_multiple_of(2));
    let damaged = run(seed, (cases, CASES_PER_BASE), any, |base, number, seen| {
        if wanted(number) {
            damage_case(base, number, seen);
        }
    });
    let torn = |number: u64| Base::torn(seed.wrapping_add(number * 1_000));
    let torn = run(
        seed,
        (cases / 10, TEARS_PER_BASE),
        torn,
        |base, number, seen| {
            if wanted(number) {
                torn_case(base, number, seen);
            }
        },
    );
    let failures: Vec<String> = damaged
        .failures
        .iter()
        .chain(&torn.failures)
        .cloned()
        .collect();
    let all = Seen {
        ends: damaged.ends,
        torn: torn.torn,
        torn_refused: torn.torn_refused,
        failures: Vec::new(),
    };
    eprintln!("{}{:?}", all.table(), all.figures());
    report::figures(&all.figures());
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    if only.is_none() && cases >= 1_000 {
        check_variety(&all);
    }
}

/// A harness that damages nothing finds nothing.
fn check_variety(seen: &Seen) {
    let kinds: std::collections::BTreeSet<_> = seen.ends.keys().map(|(_, damage)| damage).collect();
    assert!(kinds.len() >= 10, "{kinds:?}");
    for file in ["log", "sst", "MANIFEST", "CURRENT", "witness", "snap"] {
        let refused = seen.ends.iter().filter(|((kind, _), _)| kind == file);
        let refused = refused.flat_map(|(_, ends)| ends.keys());
        let refused = refused.filter(|end| matches!(end, End::Refused(_))).count();
        assert!(refused > 0, "no damage to a {file} was refused");
    }
    let refused = seen.count(|end| matches!(end, End::Refused(_)));
    assert!(
        refused * 4 > seen.count(|end| *end != End::Nothing),
        "{}",
        seen.table()
    );
    assert!(seen.torn > 0, "no write was torn");
}
