//! The rules of stores that persist or read beside raft's thread, and how they are checked.
//!
//! "Not yet durable" is a moment that passes by itself; here it is a state that a check can look
//! at. A store under test can be told to make nothing durable for a while, and to let its disk
//! fail.

mod fetches;
mod node;
mod persistence;

use std::sync::Arc;
use std::time::Duration;

use raft::{GetEntriesContext, Ready};

use self::fetches::*;
use self::persistence::*;
use super::{Check, Rule, Step, StepError, StoreUnderTest, judge};

/// Told once how a submitted Ready ended.
pub type OnDurable = Box<dyn FnOnce(Step) + Send>;

/// Told that the answer to a read which had to wait is there, with that read's context.
pub type OnFetched = Arc<dyn Fn(GetEntriesContext) + Send + Sync>;

/// The asynchronous half of a raft-rs storage, as the suite drives it; see
/// [`async_conformance_tests!`](crate::async_conformance_tests).
///
/// A clone of the storage is another handle to the same store. A check drops its clones before
/// it closes the store ([`reopen`](StoreUnderTest::reopen), [`cool`](Self::cool)), which then
/// holds nothing up any more. Callbacks may run on any thread, also before the call that caused
/// them returns.
///
/// `tests/conformance/` of this crate implements it twice: for the store of this crate, and for
/// one in memory that does all of it in the caller's thread.
pub trait AsyncStoreUnderTest: StoreUnderTest<Storage: Clone> {
    /// Takes everything a `Ready` holds, for one atomic write, and returns without waiting for
    /// the disk. `on_durable` is told once when the write is as durable as a blocking one, or
    /// that it has failed.
    ///
    /// # Errors
    /// Nothing of the `Ready` was or will be stored, and `on_durable` is not called.
    fn submit_ready(&mut self, ready: &mut Ready, on_durable: OnDurable) -> Step;

    /// The last index of the log that is durable for certain.
    ///
    /// # Errors
    /// The store could not tell; the check fails.
    fn persisted_index(&self) -> Result<u64, StepError>;

    /// How often the store has synced. A store that does not count cannot show that it spares a
    /// sync; the default is `None`.
    fn syncs(&self) -> Option<u64> {
        None
    }

    /// From here on nothing that is submitted becomes durable, and best of all nothing reaches the
    /// disk, until [`release`](Self::release). Nothing is under way when this is called.
    ///
    /// # Errors
    /// It could not be done; the check fails.
    fn hold(&mut self) -> Step;

    /// From here on no answer to a read that waits is there, until [`release`](Self::release).
    /// Asynchronous reads are [on](Self::set_async_fetch), and the log is [cold](Self::cool).
    ///
    /// # Errors
    /// It could not be done; the check fails.
    fn hold_fetches(&mut self) -> Step;

    /// What was held up goes on; it need not have ended when this returns.
    ///
    /// # Errors
    /// It could not be done; the check fails.
    fn release(&mut self) -> Step;

    /// From here on the disk refuses every write, until the store is
    /// [reopened](StoreUnderTest::reopen). What was submitted earlier and is held up may still
    /// become durable.
    ///
    /// # Errors
    /// It could not be done; the check fails.
    fn break_disk(&mut self) -> Step;

    /// Makes the store forget the entries that it holds in memory and on disk alike, so that the
    /// next read of one goes to the disk. The store may be closed and opened for that.
    ///
    /// # Errors
    /// It could not be done; the check fails.
    fn cool(&mut self) -> Step;

    /// From here on a caller who may wait is told `LogTemporarilyUnavailable` when entries have
    /// to come from the disk, and `on_fetched` is called once they are there.
    ///
    /// # Errors
    /// It could not be done; the check fails.
    fn set_async_fetch(&mut self, on_fetched: OnFetched) -> Step;

    /// How long a callback may stay away before a check calls it lost. The default is a minute,
    /// which no sound store needs; zero serves a store that has made every call when its own
    /// operation returns.
    fn patience() -> Duration {
        Duration::from_secs(60)
    }
}

/// The rules that bind stores with asynchronous paths, in order.
pub const ASYNC_RULES: &[Rule] = &[
    Rule {
        number: 6,
        title: "a read that is told to wait is told when its answer is there, and then gets it",
    },
    Rule {
        number: 7,
        title: "what a Ready held is readable once it is submitted, and persisted only later",
    },
    Rule {
        number: 8,
        title: "acknowledgements come once, in order, and never after a failure",
    },
    Rule {
        number: 16,
        title: "a Ready is acknowledged when it and every earlier one are durable; a commit alone \
                costs no sync",
    },
    Rule {
        number: 19,
        title: "memory follows disk: what failed to be written is not taken for stored",
    },
];

fn rule(number: u32) -> Rule {
    match ASYNC_RULES.iter().find(|rule| rule.number == number) {
        Some(rule) => *rule,
        None => panic!("the catalogue names rule {number}, which is not in ASYNC_RULES"),
    }
}

/// Every check of the asynchronous rules, for a store of your own loop; most stores want
/// [`async_conformance_tests!`](crate::async_conformance_tests).
pub fn async_checks<S: AsyncStoreUnderTest>() -> Vec<Check> {
    crate::__async_conformance_catalogue!(@list S)
}

/// Runs the asynchronous check called `name`; a test of
/// [`async_conformance_tests!`](crate::async_conformance_tests) is this call.
///
/// # Panics
/// The check fails, or no check has that name.
pub fn verify_async<S: AsyncStoreUnderTest>(name: &str) {
    judge(&async_checks::<S>(), name, &[]);
}

/// Writes a module of tests, one for each check of the rules that bind stores with asynchronous
/// paths: `async_conformance_tests!(module_name, Adapter)`.
///
/// The adapter implements
/// [`AsyncStoreUnderTest`](crate::testing::conformance::AsyncStoreUnderTest). The rules that bind
/// every store have a macro of their own, [`conformance_tests!`](crate::conformance_tests); use
/// both.
#[macro_export]
macro_rules! async_conformance_tests {
    ($module:ident, $adapter:ty $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "an adapter may be named by its whole path")]
            use super::*;
            $crate::__async_conformance_catalogue!(@async_tests $adapter);
        }
    };
}

/// One row per check: its name, the rule's number, and what goes wrong without it.
#[doc(hidden)]
#[macro_export]
macro_rules! __async_conformance_catalogue {
    ($($for_whom:tt)+) => {
        $crate::__conformance_rows! { $($for_whom)+;
            rule_06_a_cold_read_waits_once_and_is_answered, 6,
                "raft-rs asks again when it is told that entries were fetched; told to wait once \
                 more, it would fetch for ever and never send.";
            rule_06_who_may_not_wait_is_answered_at_once, 6,
                "a Ready that cannot get its committed entries stops the node.";
            rule_06_what_is_in_memory_is_answered_at_once, 6,
                "followers that keep up would wait for a disk that has nothing to tell.";
            rule_06_the_answer_is_that_of_the_log_it_is_given_from, 6,
                "entries of a replaced tail would be sent as the log of a term they do not \
                 belong to.";
            rule_06_what_was_compacted_meanwhile_is_compacted, 6,
                "Compacted is what makes a leader send a snapshot instead.";
            rule_06_a_lagging_follower_gets_its_entries, 6,
                "on_entries_fetched() needs the context of the very read that had to wait: it \
                 names the follower.";
            rule_06_two_followers_lag_at_the_same_place, 6,
                "one read may serve both, but each has a context of its own; a follower whose \
                 context is dropped waits for the next heartbeat, and again.";
            rule_07_entries_are_readable_before_they_are_durable, 7,
                "after advance_append_async raft-rs has forgotten them and reads them, and their \
                 terms, from the storage.";
            rule_07_unpersisted_entries_stay_readable_however_many, 7,
                "they are nowhere but in memory; a cache that drops them loses the log's tail.";
            rule_07_a_replaced_tail_is_gone_before_that_is_durable, 7,
                "raft-rs compares terms when a persist is reported; the old tail's confirm \
                 entries that are not there.";
            rule_07_a_snapshot_is_in_place_before_it_is_durable, 7,
                "raft-rs takes bounds, and the term at the snapshot, from the storage at once.";
            rule_07_entries_follow_a_snapshot_that_is_not_durable, 7,
                "the leader sends on as soon as the snapshot is accepted.";
            rule_07_votes_and_commits_are_readable_before_they_are_durable, 7,
                "initial_state() and the log would disagree about one and the same Ready.";
            rule_08_acknowledgements_come_once_and_in_order, 8,
                "on_persist_ready(n) acknowledges every Ready up to n.";
            rule_08_nothing_is_acknowledged_after_a_failure, 8,
                "nobody knows what is on disk after a failed sync, and a later acknowledgement \
                 would cover it.";
            rule_08_a_failure_is_told_to_whoever_waits, 8,
                "a driver that is never told waits for ever, as a leader in office.";
            rule_16_entries_are_acknowledged_after_they_are_durable, 16,
                "the leader counts a replica that a power cut can still take back.";
            rule_16_a_vote_is_granted_after_it_is_durable, 16,
                "a node that forgets a vote gives it twice.";
            rule_16_a_duplicate_append_waits_for_the_entries_it_confirms, 16,
                "its own Ready needs no sync, but its answer acknowledges the entries of an \
                 earlier one.";
            rule_16_a_commit_alone_costs_no_sync, 16,
                "must_sync is false for most Readies of a follower; a sync for each halves what \
                 a disk can do.";
            rule_19_a_failed_write_changes_nothing_in_memory, 19,
                "raft-rs would answer from a log that the next start does not find.";
            rule_19_what_failed_is_never_called_persisted, 19,
                "whoever asks takes a persisted index for a promise.";
            rule_19_after_a_failure_the_store_opens_with_what_it_acknowledged, 19,
                "a failure may cost what was under way, never what was acknowledged.";
        }
    };
}
