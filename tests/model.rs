//! Random scripts of all operations, on the store and on a model of it in memory.
//!
//! A failure prints the script it was shrunk to, the steps with their answers, and two ways
//! to see it again: `RAFT_ROCKS_SEED` runs the same scripts, `RAFT_ROCKS_SCRIPT` this one
//! alone. `RAFT_ROCKS_SCRIPTS` sets how many there are.
#![cfg(feature = "testing")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

#[path = "common/scratch.rs"]
mod scratch;

use std::fmt;

use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use raft_rocks::testing::model::{STEP_BYTES, Script, check};

/// The scripts of one run, and the steps of each.
const SCRIPTS: u32 = 1_200;
const STEPS: usize = 40;

/// Threads that share the scripts. A fixed number, so that a seed gives the same scripts on
/// every machine; a store waits for its files more than it computes.
const WORKERS: u32 = 4;

/// The bytes a script is made of. Shown as the script, and as text to repeat it from.
#[derive(Clone)]
struct ScriptBytes(Vec<u8>);

impl ScriptBytes {
    fn from_hex(text: &str) -> Self {
        let digits = text.trim().as_bytes().chunks_exact(2);
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        ScriptBytes(digits.map(byte).collect())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let dir = scratch::scratch()?;
        let played = check(&Script::from_bytes(&self.0), dir.path());
        played.map_err(|divergence| TestCaseError::fail(divergence.to_string()))
    }
}

impl fmt::Debug for ScriptBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\nRAFT_ROCKS_SCRIPT=", Script::from_bytes(&self.0))?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Draws scripts of [`STEPS`] steps, and shrinks them by whole steps first.
#[derive(Debug)]
struct Scripts;

impl Strategy for Scripts {
    type Tree = Shrinking;
    type Value = ScriptBytes;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let bytes = 1 + STEPS * STEP_BYTES;
        let drawn = proptest::collection::vec(proptest::num::u8::ANY, bytes);
        let script = drawn.new_tree(runner)?.current();
        Ok(Shrinking {
            best: script.clone(),
            trial: script,
            next: Move::Remove(STEPS / 2, 0),
        })
    }
}

/// Looks for a shorter script that fails as well.
struct Shrinking {
    /// The shortest known to fail.
    best: Vec<u8>,
    /// The one to try.
    trial: Vec<u8>,
    next: Move,
}

#[derive(Clone, Copy)]
enum Move {
    /// Remove this many steps from this one on.
    Remove(usize, usize),
    /// Set this byte to zero, the simplest value of everything.
    Zero(usize),
}

impl Shrinking {
    /// Makes the next trial from the best script; `false` when there is none left.
    fn advance(&mut self) -> bool {
        loop {
            self.trial.clone_from(&self.best);
            match self.next {
                Move::Remove(0, _) => self.next = Move::Zero(0),
                Move::Remove(steps, at) if 1 + (at + steps) * STEP_BYTES > self.best.len() => {
                    self.next = Move::Remove(steps / 2, 0);
                }
                Move::Remove(steps, at) => {
                    self.trial
                        .drain(1 + at * STEP_BYTES..1 + (at + steps) * STEP_BYTES);
                    self.next = Move::Remove(steps, at + steps);
                    return true;
                }
                Move::Zero(at) if at >= self.best.len() => return false,
                Move::Zero(at) => {
                    self.next = Move::Zero(at + 1);
                    if self.best[at] != 0 {
                        self.trial[at] = 0;
                        return true;
                    }
                }
            }
        }
    }
}

impl ValueTree for Shrinking {
    type Value = ScriptBytes;

    fn current(&self) -> ScriptBytes {
        ScriptBytes(self.trial.clone())
    }

    /// The trial has failed too: it is the best now.
    fn simplify(&mut self) -> bool {
        if let Move::Remove(steps, at) = self.next
            && self.trial.len() < self.best.len()
        {
            // What stood behind the removed steps has taken their place.
            self.next = Move::Remove(steps, at - steps);
        }
        self.best.clone_from(&self.trial);
        self.advance()
    }

    /// The trial has passed: try another.
    fn complicate(&mut self) -> bool {
        self.advance()
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .ok()
            .unwrap_or_else(|| panic!("{name}={text} is not a number")),
    )
}

#[test]
fn random_scripts_match_the_model() {
    if let Ok(script) = std::env::var("RAFT_ROCKS_SCRIPT") {
        return ScriptBytes::from_hex(&script).check().unwrap();
    }
    let seed = variable("RAFT_ROCKS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let scripts = variable("RAFT_ROCKS_SCRIPTS")
        .unwrap_or(SCRIPTS)
        .div_ceil(WORKERS);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || run(scripts, seed, worker));
        }
    });
}

fn run(scripts: u32, seed: u64, worker: u32) {
    let config = Config {
        cases: scripts,
        rng_seed: RngSeed::Fixed(seed.wrapping_add(worker.into())),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    match TestRunner::new(config).run(&Scripts, |script| script.check()) {
        Ok(()) => {}
        Err(TestError::Fail(reason, script)) => {
            panic!("{reason}\n{script:?}\nRAFT_ROCKS_SEED={seed}");
        }
        Err(error) => panic!("{error}\nRAFT_ROCKS_SEED={seed}"),
    }
}
