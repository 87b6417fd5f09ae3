//! Rule 6: a read that is told to wait.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use raft::eraftpb::{Entry, Message};
use raft::{GetEntriesContext, Storage, StorageError};

use super::super::case::{
    Beyond, Case, beyond_of, ensure, expect_entries, log, must, run, said, show, voters,
};
use super::super::{Checked, Failure};
use super::AsyncStoreUnderTest;
use super::node::{Node, appended, grant, reject};

fn show_answer(answer: &raft::Result<Vec<Entry>>) -> String {
    match answer {
        Ok(entries) => show(entries),
        Err(error) => format!("an error: {error}"),
    }
}

/// A store with a cold log, and where it reports what it has fetched.
struct Cold<S> {
    case: Case<S>,
    fetched: Receiver<GetEntriesContext>,
}

impl<S: AsyncStoreUnderTest> Cold<S> {
    fn new(entries: &[Entry], applied: u64) -> Checked<Self> {
        let mut case = Case::<S>::settled(entries, applied, applied)?;
        must("cool", case.store.cool())?;
        let (told, fetched) = mpsc::channel();
        let on_fetched = Arc::new(move |context| {
            // An error: the check has ended.
            let _ = told.send(context);
        });
        must("set_async_fetch", case.store.set_async_fetch(on_fetched))?;
        Ok(Cold { case, fetched })
    }

    /// What a caller who may wait is told, as raft-rs's own words have it.
    fn ask(&self, low: u64, high: u64) -> raft::Result<Vec<Entry>> {
        let context = GetEntriesContext::empty(true);
        self.case.storage().entries(low, high, None, context)
    }

    fn expect_wait(&self, low: u64, high: u64) -> Checked {
        let answer = self.ask(low, high);
        ensure!(
            matches!(
                answer,
                Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable))
            ),
            "entries({low}, {high}) of a cold log answered {}, expected \
             LogTemporarilyUnavailable",
            show_answer(&answer)
        );
        Ok(())
    }

    fn expect_answer(&self, low: u64, high: u64, expected: &[Entry]) -> Checked {
        let what = format!("entries({low}, {high})");
        let found = self.ask(low, high).map_err(|error| said(&what, &error))?;
        expect_entries(&found, expected)
    }

    /// The context of a read whose answer is there.
    fn fetched(&self) -> Checked<GetEntriesContext> {
        self.fetched
            .recv_timeout(S::patience())
            .map_err(|_| Failure::new("a read was told to wait, and nobody was told of its answer"))
    }

    fn expect_nothing_fetched(&self) -> Checked {
        match self.fetched.try_recv() {
            Ok(context) => Err(Failure::new(format!(
                "{context:?} was reported once too often"
            ))),
            Err(_) => Ok(()),
        }
    }
}

pub(super) fn rule_06_a_cold_read_waits_once_and_is_answered<S: AsyncStoreUnderTest>() -> Checked {
    let whole = run(1..=50, 1);
    let cold = Cold::<S>::new(&whole, 50)?;
    for (low, high) in [(3, 10), (1, 51), (40, 41)] {
        cold.expect_wait(low, high)?;
        let context = cold.fetched()?;
        ensure!(
            context.can_async(),
            "what was reported is not the context of the read"
        );
        cold.expect_nothing_fetched()?;
        let expected: Vec<Entry> = whole
            .iter()
            .filter(|entry| (low..high).contains(&entry.index))
            .cloned()
            .collect();
        cold.expect_answer(low, high, &expected)?;
    }
    cold.expect_nothing_fetched()
}

pub(super) fn rule_06_who_may_not_wait_is_answered_at_once<S: AsyncStoreUnderTest>() -> Checked {
    let whole = run(1..=50, 1);
    let cold = Cold::<S>::new(&whole, 50)?;
    expect_entries(&cold.case.entries(1, 51, None)?, &whole)?;
    cold.expect_nothing_fetched()
}

pub(super) fn rule_06_what_is_in_memory_is_answered_at_once<S: AsyncStoreUnderTest>() -> Checked {
    let mut cold = Cold::<S>::new(&run(1..=50, 1), 50)?;
    cold.case.append(&run(51..=53, 2))?;
    cold.expect_answer(51, 54, &run(51..=53, 2))?;
    cold.expect_nothing_fetched()
}

pub(super) fn rule_06_the_answer_is_that_of_the_log_it_is_given_from<S: AsyncStoreUnderTest>()
-> Checked {
    let mut cold = Cold::<S>::new(&run(1..=50, 1), 4)?;
    cold.expect_wait(3, 10)?;
    cold.fetched()?;
    cold.case.append(&run(6..=12, 2))?;
    let expected = log(&[(3..=5, 1), (6..=9, 2)]);
    if let Some(found) = cold.case.entries_or_wait(3, 10)? {
        return expect_entries(&found, &expected);
    }
    // It may fetch anew.
    cold.fetched()?;
    cold.expect_answer(3, 10, &expected)
}

pub(super) fn rule_06_what_was_compacted_meanwhile_is_compacted<S: AsyncStoreUnderTest>() -> Checked
{
    let mut cold = Cold::<S>::new(&run(1..=50, 1), 40)?;
    cold.expect_wait(3, 10)?;
    cold.fetched()?;
    cold.case.compact(20)?;
    let answer = cold.ask(3, 10);
    ensure!(
        answer.as_ref().err().and_then(beyond_of) == Some(Beyond::Compacted),
        "entries(3, 10) of a log that starts at 20 answered {}, expected Compacted",
        show_answer(&answer)
    );
    cold.case.expect_bounds(20, 50)
}

/// A leader of term 2 whose log was cold when it was elected; it has just appended entry 51.
fn lead<S: AsyncStoreUnderTest>(cold: &mut Cold<S>) -> Checked<Node<S>> {
    let mut node = Node::start(&cold.case)?;
    node.raft
        .campaign()
        .map_err(|error| said("campaign()", &error))?;
    node.settle(&mut cold.case)?;
    node.step(grant((2, 2)))?;
    let sent = node.settle(&mut cold.case)?;
    ensure!(
        appended(&sent, 2).len() == 1 && appended(&sent, 3).len() == 1,
        "the new leader did not append to its followers; the check is mistaken"
    );
    Ok(node)
}

/// Exactly the entries that `to` lacks.
fn expect_sent(messages: &[Message], to: u64, behind: u64, expected: &[Entry]) -> Checked {
    let sent = appended(messages, to);
    let [append] = sent.as_slice() else {
        return Err(Failure::new(format!(
            "node {to} was sent {} appends, expected one",
            sent.len()
        )));
    };
    ensure!(
        append.index == behind,
        "node {to} was sent entries behind {}, expected {behind}",
        append.index
    );
    let (stored, own) = append
        .get_entries()
        .split_at(expected.len().min(append.get_entries().len()));
    ensure!(
        own.len() == 1,
        "node {to} was sent {} entries, expected {} and the leader's own",
        append.get_entries().len(),
        expected.len()
    );
    expect_entries(stored, expected)
}

pub(super) fn rule_06_a_lagging_follower_gets_its_entries<S: AsyncStoreUnderTest>() -> Checked {
    let mut cold = Cold::<S>::new(&run(1..=50, 1), 50)?;
    let mut node = lead(&mut cold)?;
    node.step(reject((2, 2), 50, (10, 1)))?;
    let early = node.settle(&mut cold.case)?;
    ensure!(
        appended(&early, 2).is_empty(),
        "a follower was sent entries of a cold log before they were fetched"
    );
    node.raft.on_entries_fetched(cold.fetched()?);
    let sent = node.settle(&mut cold.case)?;
    expect_sent(&sent, 2, 10, &run(11..=50, 1))?;
    cold.expect_nothing_fetched()
}

pub(super) fn rule_06_two_followers_lag_at_the_same_place<S: AsyncStoreUnderTest>() -> Checked {
    let mut cold = Cold::<S>::new(&run(1..=50, 1), 50)?;
    cold.case.expect_conf_state(&voters(&[1, 2, 3]))?;
    let mut node = lead(&mut cold)?;
    must("hold_fetches", cold.case.store.hold_fetches())?;
    node.step(reject((2, 2), 50, (10, 1)))?;
    node.step(reject((3, 2), 50, (10, 1)))?;
    let mut sent = node.settle(&mut cold.case)?;
    ensure!(
        appended(&sent, 2).is_empty() && appended(&sent, 3).is_empty(),
        "a follower was sent entries that nobody has fetched"
    );
    cold.expect_nothing_fetched()?;
    must("release", cold.case.store.release())?;
    // One may take the other's answer, which is then fetched anew.
    for _ in 0..4 {
        if !appended(&sent, 2).is_empty() && !appended(&sent, 3).is_empty() {
            break;
        }
        node.raft.on_entries_fetched(cold.fetched()?);
        sent.extend(node.settle(&mut cold.case)?);
    }
    expect_sent(&sent, 2, 10, &run(11..=50, 1))?;
    expect_sent(&sent, 3, 10, &run(11..=50, 1))
}
