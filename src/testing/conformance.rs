//! A conformance suite for any raft-rs storage.
//!
//! `raft::Storage` has a reading half only, so what a storage must do when it is written
//! to is stated nowhere in types. This suite states it: one small check for each promise
//! that raft-rs relies on, numbered after the rules in [`RULES`]. Implement
//! [`StoreUnderTest`] for your store and let the macro write the tests:
//!
//! ```
//! use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
//! use raft::storage::MemStorage;
//! use raft_rocks::testing::conformance::{ReadyWrite, Step, StepError, StoreUnderTest};
//!
//! struct Memory(MemStorage);
//!
//! impl StoreUnderTest for Memory {
//!     type Storage = MemStorage;
//!     fn fresh() -> Result<Self, StepError> {
//!         Ok(Memory(MemStorage::new()))
//!     }
//!     fn storage(&self) -> &MemStorage {
//!         &self.0
//!     }
//!     fn append(&mut self, entries: &[Entry]) -> Step {
//!         Ok(self.0.wl().append(entries)?)
//!     }
//!     // ... and the other operations of the trait.
//! #   fn applied(&self) -> Result<u64, StepError> { Ok(0) }
//! #   fn set_hard_state(&mut self, _: &HardState) -> Step { Ok(()) }
//! #   fn set_conf_state(&mut self, _: &ConfState, _: u64) -> Step { Ok(()) }
//! #   fn set_applied(&mut self, _: u64) -> Step { Ok(()) }
//! #   fn write(&mut self, _: &ReadyWrite) -> Step { Ok(()) }
//! #   fn install(&mut self, _: &Snapshot) -> Step { Ok(()) }
//! #   fn create_snapshot(&mut self, _: u64, _: &ConfState, _: &[u8]) -> Step { Ok(()) }
//! #   fn compact(&mut self, _: u64) -> Step { Ok(()) }
//! #   fn reopen(&mut self) -> Step { Ok(()) }
//! }
//!
//! raft_rocks::conformance_tests!(memory, Memory);
//! # fn main() {
//! #     raft_rocks::testing::conformance::verify::<Memory>("rule_11_append_extends_the_log");
//! # }
//! ```
//!
//! This makes a module `memory` with one `#[test]` per check. Wrap the adapter in
//! [`ReopenAfterEveryStep`] to run the same checks with nothing surviving in memory, and
//! give the macro a list of [`Deviation`]s for a store that is known to break some rules.
//!
//! A store that persists or reads beside raft's thread is bound by more rules (6, 7, 8, 16 and
//! 19): implement [`AsyncStoreUnderTest`] too, and see
//! [`async_conformance_tests!`](crate::async_conformance_tests). Rule 17 binds drivers alone and
//! has no check.

mod asynchronous;
mod case;
mod catalogue;
mod compaction;
mod entries;
mod snapshots;
mod states;
mod terms;

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

pub use asynchronous::{
    ASYNC_RULES, AsyncStoreUnderTest, OnDurable, OnFetched, async_checks, verify_async,
};
pub use catalogue::{RULES, Rule, checks};

/// Why a store refused an operation, in its own words.
pub type StepError = Box<dyn StdError + Send + Sync>;

/// What an operation of the writing half answers.
pub type Step = Result<(), StepError>;

/// What one `Ready` asks to be stored: all of it in one atomic write, the snapshot first,
/// then the entries, then the hard state.
#[derive(Clone, Debug, Default)]
pub struct ReadyWrite {
    /// A received snapshot; `None` where a `Ready` would hold an empty one.
    pub snapshot: Option<Snapshot>,
    /// Entries to append; they follow the snapshot when there is one.
    pub entries: Vec<Entry>,
    /// The hard state, when it changed.
    pub hard_state: Option<HardState>,
}

/// The writing half of a raft-rs storage, as the suite drives it.
///
/// Every operation is durable, or as durable as the store makes it, when it returns, and
/// an operation that answers `Err` has changed nothing. A panic counts as a failure of the
/// check that caused it.
pub trait StoreUnderTest: Sized {
    /// The store's implementation of raft-rs's trait.
    type Storage: raft::Storage;

    /// Makes a new, empty store which shares nothing with any other.
    ///
    /// # Errors
    /// The store could not be made; the check fails.
    fn fresh() -> Result<Self, StepError>;

    /// What raft-rs would read from. It is a reference, so that no check can keep a handle
    /// over a [`reopen`](Self::reopen).
    fn storage(&self) -> &Self::Storage;

    /// The applied index which the store would offer as `Config.applied` at a start; 0
    /// when nothing was applied.
    ///
    /// # Errors
    /// The store could not tell; the check fails.
    fn applied(&self) -> Result<u64, StepError>;

    /// Appends `entries`, replacing the tail from the first of them on.
    ///
    /// # Errors
    /// Entries that start below `first_index` or leave a gap.
    fn append(&mut self, entries: &[Entry]) -> Step;

    /// Stores the hard state.
    ///
    /// # Errors
    /// A commit index outside `[first_index - 1, last_index]`.
    fn set_hard_state(&mut self, hard_state: &HardState) -> Step;

    /// Raises the commit index alone. The default rewrites the hard state that
    /// `initial_state` answers.
    ///
    /// # Errors
    /// As [`set_hard_state`](Self::set_hard_state).
    fn set_commit(&mut self, commit: u64) -> Step {
        let mut hard_state = raft::Storage::initial_state(self.storage())?.hard_state;
        hard_state.commit = commit;
        self.set_hard_state(&hard_state)
    }

    /// Stores the conf state together with the applied index it belongs to.
    ///
    /// # Errors
    /// An applied index above `last_index`.
    fn set_conf_state(&mut self, conf_state: &ConfState, applied: u64) -> Step;

    /// Records the applied index.
    ///
    /// # Errors
    /// An applied index above `last_index`.
    fn set_applied(&mut self, applied: u64) -> Step;

    /// Writes what one `Ready` holds, whole or not at all.
    ///
    /// # Errors
    /// Any part that would be refused alone, judged after the parts before it.
    fn write(&mut self, write: &ReadyWrite) -> Step;

    /// Installs a snapshot received from a leader, in place of the whole log.
    ///
    /// # Errors
    /// A snapshot that is older than what the store has committed.
    fn install(&mut self, snapshot: &Snapshot) -> Step;

    /// Stores a snapshot of the local state machine, taken at `index` under `conf_state`.
    /// The log is untouched.
    ///
    /// # Errors
    /// An index that the state machine cannot have reached.
    fn create_snapshot(&mut self, index: u64, conf_state: &ConfState, data: &[u8]) -> Step;

    /// Makes `to` the first index. At or below the first index it does nothing.
    ///
    /// # Errors
    /// `to` is above `applied + 1`, or above the stored snapshot's index plus one.
    fn compact(&mut self, to: u64) -> Step;

    /// Closes the store and opens it again from what it has stored. A store without
    /// storage does nothing.
    ///
    /// # Errors
    /// The store could not be opened; the check fails.
    fn reopen(&mut self) -> Step;
}

/// The same store, closed and opened again after every operation, also after a refused one:
/// what a check then finds can only come from disk.
#[derive(Debug)]
pub struct ReopenAfterEveryStep<S>(S);

impl<S: StoreUnderTest> ReopenAfterEveryStep<S> {
    fn step(&mut self, operation: impl FnOnce(&mut S) -> Step) -> Step {
        let outcome = operation(&mut self.0);
        if let Err(error) = self.0.reopen() {
            // As an answer it would pass for the refusal of the operation.
            panic!("reopening failed: {error}");
        }
        outcome
    }
}

impl<S: StoreUnderTest> StoreUnderTest for ReopenAfterEveryStep<S> {
    type Storage = S::Storage;

    fn fresh() -> Result<Self, StepError> {
        let mut store = S::fresh()?;
        store.reopen()?;
        Ok(ReopenAfterEveryStep(store))
    }

    fn storage(&self) -> &S::Storage {
        self.0.storage()
    }

    fn applied(&self) -> Result<u64, StepError> {
        self.0.applied()
    }

    fn append(&mut self, entries: &[Entry]) -> Step {
        self.step(|store| store.append(entries))
    }

    fn set_hard_state(&mut self, hard_state: &HardState) -> Step {
        self.step(|store| store.set_hard_state(hard_state))
    }

    fn set_commit(&mut self, commit: u64) -> Step {
        self.step(|store| store.set_commit(commit))
    }

    fn set_conf_state(&mut self, conf_state: &ConfState, applied: u64) -> Step {
        self.step(|store| store.set_conf_state(conf_state, applied))
    }

    fn set_applied(&mut self, applied: u64) -> Step {
        self.step(|store| store.set_applied(applied))
    }

    fn write(&mut self, write: &ReadyWrite) -> Step {
        self.step(|store| store.write(write))
    }

    fn install(&mut self, snapshot: &Snapshot) -> Step {
        self.step(|store| store.install(snapshot))
    }

    fn create_snapshot(&mut self, index: u64, conf_state: &ConfState, data: &[u8]) -> Step {
        self.step(|store| store.create_snapshot(index, conf_state, data))
    }

    fn compact(&mut self, to: u64) -> Step {
        self.step(|store| store.compact(to))
    }

    fn reopen(&mut self) -> Step {
        self.0.reopen()
    }
}

/// What a check found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    pub(in crate::testing) fn new(found: impl Into<String>) -> Self {
        Failure(found.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Failure {}

/// What a check answers.
pub(in crate::testing) type Checked<T = ()> = Result<T, Failure>;

/// One promise, as a function over any store.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    name: &'static str,
    rule: Rule,
    reason: &'static str,
    run: fn() -> Checked,
}

impl Check {
    /// The name of the check, and of the test that the macro makes of it:
    /// `rule_<number>_<behaviour>`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The rule it checks.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// What goes wrong under raft-rs in a store that fails it.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// Runs the check on a fresh store.
    ///
    /// # Errors
    /// [`Failure`] when the store breaks the rule or panics. Its text names the rule, what
    /// was found, and why it matters.
    pub fn run(&self) -> Result<(), Failure> {
        let found = match catch_unwind(AssertUnwindSafe(self.run)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure.0,
            Err(payload) => format!("the store panicked: {}", panic_text(payload.as_ref())),
        };
        Err(Failure(format!(
            "rule {} is broken: {}\n  check:  {}\n  found:  {found}\n  reason: {}",
            self.rule.number, self.rule.title, self.name, self.reason
        )))
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

/// A check that a store is known to fail.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// The name of the check.
    pub check: &'static str,
    /// A part of the failure's text: the check must fail in the way that is known.
    pub shows: &'static str,
}

/// Runs the check called `name`; a test of [`conformance_tests!`](crate::conformance_tests)
/// is this call.
///
/// # Panics
/// The check fails, or no check has that name.
pub fn verify<S: StoreUnderTest>(name: &str) {
    judge(&checks::<S>(), name, &[]);
}

/// Runs the check called `name` on a store with known deviations: a check that stands in
/// `deviations` must fail as described, any other must pass.
///
/// # Panics
/// The check fails and should not, passes and should not, fails otherwise than described,
/// or no check has that name.
pub fn verify_deviating<S: StoreUnderTest>(name: &str, deviations: &[Deviation]) {
    judge(&checks::<S>(), name, deviations);
}

fn judge(checks: &[Check], name: &str, deviations: &[Deviation]) {
    let Some(check) = checks.iter().find(|check| check.name == name) else {
        panic!("there is no conformance check called {name}");
    };
    let outcome = check.run();
    let known = deviations.iter().find(|known| known.check == name);
    match (outcome, known) {
        (Ok(()), None) => {}
        (Err(failure), None) => panic!("{failure}"),
        (Ok(()), Some(known)) => panic!(
            "{name} passes, but is listed as a deviation ({:?}); remove it from the list",
            known.shows
        ),
        (Err(failure), Some(known)) => assert!(
            failure.0.contains(known.shows),
            "{name} is a known deviation, but fails otherwise than {:?}:\n{failure}",
            known.shows
        ),
    }
}

/// Writes a module of tests, one for each check of the
/// [conformance suite](crate::testing::conformance).
///
/// `conformance_tests!(module_name, Adapter)` expects the adapter, which implements
/// [`StoreUnderTest`](crate::testing::conformance::StoreUnderTest), to pass every check.
/// With `deviations = LIST`, a slice of
/// [`Deviation`](crate::testing::conformance::Deviation)s, the listed checks must fail as
/// described: the list cannot go stale.
#[macro_export]
macro_rules! conformance_tests {
    ($module:ident, $adapter:ty $(,)?) => {
        $crate::conformance_tests!($module, $adapter, deviations = &[]);
    };
    ($module:ident, $adapter:ty, deviations = $deviations:expr $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "an adapter may be named by its whole path")]
            use super::*;
            $crate::__conformance_catalogue!(@tests $adapter, $deviations);

            #[test]
            fn every_listed_deviation_names_a_check() {
                let deviations: &[$crate::testing::conformance::Deviation] = $deviations;
                let checks = $crate::testing::conformance::checks::<$adapter>();
                for known in deviations {
                    assert!(
                        checks.iter().any(|check| check.name() == known.check),
                        "there is no check called {}",
                        known.check
                    );
                }
            }
        }
    };
}

/// Hands the catalogue's rows to whoever needs one item per check.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_rows {
    (@tests $adapter:ty, $deviations:expr; $($name:ident, $rule:literal, $reason:literal;)+) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::conformance::verify_deviating::<$adapter>(
                    stringify!($name),
                    $deviations,
                );
            }
        )+
    };
    (@async_tests $adapter:ty; $($name:ident, $rule:literal, $reason:literal;)+) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::conformance::verify_async::<$adapter>(stringify!($name));
            }
        )+
    };
    (@list $store:ident; $($name:ident, $rule:literal, $reason:literal;)+) => {
        vec![$(Check {
            name: stringify!($name),
            rule: rule($rule),
            reason: $reason,
            run: $name::<$store>,
        }),+]
    };
}
