//! Rules 7, 8, 16 and 19: what has been submitted is readable, and becomes durable in order.

use raft::eraftpb::{Entry, MessageType};

use super::super::case::{
    Beyond, Case, bytes, ensure, entry, hard_state, log, must, noise, run, said, snapshot, voters,
};
use super::super::{Checked, Failure, Step};
use super::AsyncStoreUnderTest;
use super::node::{Node, answers, append, heartbeat, install, request_vote};

/// The leader of the checks, and its term.
const LEADER: (u64, u64) = (2, 2);

/// A follower's store: entries 1 to 10 of term 1, applied up to 5.
fn follower<S: AsyncStoreUnderTest>() -> Checked<Case<S>> {
    Case::settled(&run(1..=10, 1), 5, 5)
}

/// A node on it that knows the leader and has nothing under way.
fn follow<S: AsyncStoreUnderTest>(case: &mut Case<S>) -> Checked<Node<S>> {
    let mut node = Node::start(case)?;
    node.step(heartbeat(LEADER, 5))?;
    node.settle(case)?;
    Ok(node)
}

impl<S: AsyncStoreUnderTest> Case<S> {
    fn hold(&mut self) -> Checked {
        must("hold", self.store.hold())
    }

    fn release(&mut self) -> Checked {
        must("release", self.store.release())
    }

    fn break_disk(&mut self) -> Checked {
        must("break_disk", self.store.break_disk())
    }

    fn persisted_index(&self) -> Checked<u64> {
        let index = self.store.persisted_index();
        index.map_err(|error| said("persisted_index()", &error))
    }

    fn expect_persisted(&self, expected: u64) -> Checked {
        let found = self.persisted_index()?;
        ensure!(
            found == expected,
            "the persisted index is {found}, expected {expected}"
        );
        Ok(())
    }
}

pub(super) fn rule_07_entries_are_readable_before_they_are_durable<S: AsyncStoreUnderTest>()
-> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.expect_persisted(10)?;
    case.hold()?;
    let whole = log(&[(1..=10, 1), (11..=13, 2)]);
    let first = node.take(&mut case, append(LEADER, (10, 1), &run(11..=13, 2), 10))?;
    case.expect_log(&whole)?;
    case.expect_persisted(10)?;
    // Raft reads the term at the end to answer, and goes on behind it.
    let second = node.take(&mut case, append(LEADER, (13, 2), &run(14..=14, 2), 13))?;
    let whole = [whole, run(14..=14, 2)].concat();
    case.expect_log(&whole)?;
    case.expect_persisted(10)?;
    case.release()?;
    node.persisted(first.number)?;
    node.persisted(second.number)?;
    case.expect_persisted(14)?;
    node.settle(&mut case)?;
    drop(node);
    case.now_and_reopened(|case| case.expect_log(&whole))
}

pub(super) fn rule_07_unpersisted_entries_stay_readable_however_many<S: AsyncStoreUnderTest>()
-> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let mut whole = run(1..=10, 1);
    let mut numbers = Vec::new();
    for round in 0..8 {
        let first = 11 + round * 25;
        let large = |index| {
            let mut entry = entry(index, 2);
            entry.data = bytes(noise(4 << 10));
            entry
        };
        let entries: Vec<Entry> = (first..first + 25).map(large).collect();
        let previous = whole.last().map_or((0, 0), |last| (last.index, last.term));
        let submitted = node.take(&mut case, append(LEADER, previous, &entries, 10))?;
        numbers.push(submitted.number);
        whole.extend(entries);
    }
    case.expect_log(&whole)?;
    case.release()?;
    for number in numbers {
        node.persisted(number)?;
    }
    node.settle(&mut case)?;
    drop(node);
    case.now_and_reopened(|case| case.expect_log(&whole))
}

pub(super) fn rule_07_a_replaced_tail_is_gone_before_that_is_durable<S: AsyncStoreUnderTest>()
-> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let first = node.take(&mut case, append(LEADER, (5, 1), &run(6..=8, 2), 5))?;
    case.expect_log(&log(&[(1..=5, 1), (6..=8, 2)]))?;
    // What is on disk above 5 is no part of the log any more.
    case.expect_persisted(5)?;
    let second = node.take(&mut case, append((3, 3), (6, 2), &run(7..=7, 3), 5))?;
    let whole = log(&[(1..=5, 1), (6..=6, 2), (7..=7, 3)]);
    case.expect_log(&whole)?;
    case.expect_persisted(5)?;
    case.release()?;
    node.persisted(first.number)?;
    case.expect_log(&whole)?;
    node.persisted(second.number)?;
    case.expect_persisted(7)?;
    node.settle(&mut case)?;
    drop(node);
    case.now_and_reopened(|case| case.expect_log(&whole))
}

pub(super) fn rule_07_a_snapshot_is_in_place_before_it_is_durable<S: AsyncStoreUnderTest>()
-> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let received = snapshot(20, 2, &voters(&[1, 2, 3, 4]), &noise(100));
    let submitted = node.take(&mut case, install(LEADER, received.clone()))?;
    let in_place = |case: &Case<S>| {
        case.expect_empty_log(20, 2)?;
        case.expect_no_entries(6, 8, Beyond::Compacted)?;
        case.expect_hard_state(&hard_state(2, 0, 20))?;
        case.expect_conf_state(&voters(&[1, 2, 3, 4]))?;
        case.expect_applied(20)?;
        case.expect_snapshot(&received)
    };
    in_place(&case)?;
    let persisted = case.persisted_index()?;
    ensure!(
        persisted < 20,
        "the persisted index is {persisted}, and the snapshot at 20 is not durable"
    );
    node.expect_no_report()?;
    case.release()?;
    let sent = node.persisted(submitted.number)?;
    let confirmed = answers(&sent, MessageType::MsgAppendResponse);
    ensure!(
        confirmed == [20],
        "the snapshot at 20 was answered with {confirmed:?}"
    );
    case.expect_persisted(20)?;
    node.settle(&mut case)?;
    drop(node);
    case.now_and_reopened(in_place)
}

pub(super) fn rule_07_entries_follow_a_snapshot_that_is_not_durable<S: AsyncStoreUnderTest>()
-> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let received = snapshot(20, 2, &voters(&[1, 2, 3]), b"state");
    let first = node.take(&mut case, install(LEADER, received))?;
    let second = node.take(&mut case, append(LEADER, (20, 2), &run(21..=23, 2), 21))?;
    case.expect_log(&run(21..=23, 2))?;
    case.expect_term(20, 2)?;
    let persisted = case.persisted_index()?;
    ensure!(
        persisted < 20,
        "the persisted index is {persisted}, and nothing of [20, 23] is durable"
    );
    case.release()?;
    node.persisted(first.number)?;
    node.persisted(second.number)?;
    case.expect_persisted(23)?;
    node.settle(&mut case)?;
    drop(node);
    case.now_and_reopened(|case| {
        case.expect_log(&run(21..=23, 2))?;
        case.expect_term(20, 2)
    })
}

pub(super) fn rule_07_votes_and_commits_are_readable_before_they_are_durable<
    S: AsyncStoreUnderTest,
>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let commit = node.take(&mut case, heartbeat(LEADER, 7))?;
    case.expect_hard_state(&hard_state(2, 0, 7))?;
    let vote = node.take(&mut case, request_vote((3, 3), (10, 1)))?;
    case.expect_hard_state(&hard_state(3, 3, 7))?;
    case.release()?;
    node.persisted(commit.number)?;
    node.persisted(vote.number)?;
    node.settle(&mut case)?;
    drop(node);
    case.now_and_reopened(|case| case.expect_hard_state(&hard_state(3, 3, 7)))
}

pub(super) fn rule_08_acknowledgements_come_once_and_in_order<S: AsyncStoreUnderTest>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let mut numbers = Vec::new();
    for index in 11..16 {
        let term = if index == 11 { 1 } else { 2 };
        let message = append(LEADER, (index - 1, term), &run(index..=index, 2), 10);
        numbers.push(node.take(&mut case, message)?.number);
        // Some of them need no sync.
        let commit = index - 5;
        numbers.push(node.take(&mut case, heartbeat(LEADER, commit))?.number);
    }
    case.release()?;
    for number in numbers {
        node.persisted(number)?;
    }
    node.settle(&mut case)?;
    node.expect_no_report()
}

/// How Readies ended whose disk failed while they were under way.
struct Ended {
    outcomes: Vec<(u64, Step)>,
    /// Whether the last of them was submitted, and accepted, behind the failure.
    with_a_late_one: bool,
}

/// Submits entry 11, which becomes durable, then 12 and 13, which need not, and 14 when the disk
/// has failed.
fn fail_under_way<S: AsyncStoreUnderTest>(
    case: &mut Case<S>,
    node: &mut Node<S>,
) -> Checked<Ended> {
    let sound = node.take(case, append(LEADER, (10, 1), &run(11..=11, 2), 10))?;
    node.persisted(sound.number)?;
    case.hold()?;
    let mut accepted = Vec::new();
    for index in 12..14 {
        let message = append(LEADER, (index - 1, 2), &run(index..=index, 2), 10);
        accepted.push(node.take(case, message)?.number);
    }
    case.break_disk()?;
    node.step(append(LEADER, (13, 2), &run(14..=14, 2), 10))?;
    // The store may know of the failure by now, and refuse.
    let late = node.try_submit(case)?.ok();
    accepted.extend(late.iter().map(|submitted| submitted.number));
    case.release()?;
    let mut outcomes = Vec::new();
    for number in &accepted {
        let report = node.report()?;
        ensure!(
            report.number == *number,
            "Ready {} was told its end, expected Ready {number}",
            report.number
        );
        outcomes.push((report.number, report.outcome));
    }
    Ok(Ended {
        outcomes,
        with_a_late_one: late.is_some(),
    })
}

pub(super) fn rule_08_nothing_is_acknowledged_after_a_failure<S: AsyncStoreUnderTest>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    let ended = fail_under_way(&mut case, &mut node)?.outcomes;
    let ended = ended.iter().skip_while(|(_, outcome)| outcome.is_ok());
    for (number, outcome) in ended {
        ensure!(
            outcome.is_err(),
            "Ready {number} was acknowledged after an earlier one had failed"
        );
    }
    let late = case.store.append(&run(15..=15, 2));
    ensure!(late.is_err(), "a blocking write after a failure succeeded");
    ensure!(
        case.store.set_hard_state(&hard_state(9, 1, 5)).is_err(),
        "a vote was stored after a failure"
    );
    Ok(())
}

pub(super) fn rule_08_a_failure_is_told_to_whoever_waits<S: AsyncStoreUnderTest>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    let ended = fail_under_way(&mut case, &mut node)?;
    if let (true, Some((number, outcome))) = (ended.with_a_late_one, ended.outcomes.last()) {
        ensure!(
            outcome.is_err(),
            "Ready {number} was acknowledged by a disk that refuses every write"
        );
    }
    Ok(())
}

pub(super) fn rule_16_entries_are_acknowledged_after_they_are_durable<S: AsyncStoreUnderTest>()
-> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let before = case.store.syncs();
    let submitted = node.take(&mut case, append(LEADER, (10, 1), &run(11..=13, 2), 10))?;
    ensure!(
        answers(&submitted.messages, MessageType::MsgAppendResponse).is_empty(),
        "raft answers before it is told; the check is mistaken"
    );
    node.expect_no_report()?;
    case.expect_persisted(10)?;
    case.release()?;
    let sent = node.persisted(submitted.number)?;
    let confirmed = answers(&sent, MessageType::MsgAppendResponse);
    ensure!(
        confirmed == [13],
        "an append up to 13 was answered with {confirmed:?}"
    );
    let after = case.store.syncs();
    ensure!(
        before.is_none() || after > before,
        "entries were acknowledged after {after:?} syncs, and there were {before:?} before"
    );
    node.settle(&mut case)?;
    drop(node);
    case.reopen()?;
    case.expect_log(&log(&[(1..=10, 1), (11..=13, 2)]))
}

pub(super) fn rule_16_a_vote_is_granted_after_it_is_durable<S: AsyncStoreUnderTest>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let before = case.store.syncs();
    let submitted = node.take(&mut case, request_vote((3, 3), (10, 1)))?;
    let granted = |messages: &[_]| answers(messages, MessageType::MsgRequestVoteResponse).len();
    ensure!(
        granted(&submitted.messages) == 0,
        "raft votes before it is told; the check is mistaken"
    );
    node.expect_no_report()?;
    case.release()?;
    let sent = node.persisted(submitted.number)?;
    ensure!(granted(&sent) == 1, "the vote was not granted");
    let after = case.store.syncs();
    ensure!(
        before.is_none() || after > before,
        "a vote was acknowledged after {after:?} syncs, and there were {before:?} before"
    );
    drop(node);
    case.reopen()?;
    case.expect_hard_state(&hard_state(3, 3, 5))
}

pub(super) fn rule_16_a_duplicate_append_waits_for_the_entries_it_confirms<
    S: AsyncStoreUnderTest,
>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.hold()?;
    let entries = run(11..=13, 2);
    let first = node.take(&mut case, append(LEADER, (10, 1), &entries, 10))?;
    // Lost on the way back, the answer is asked for again.
    let second = node.take(&mut case, append(LEADER, (10, 1), &entries, 12))?;
    ensure!(
        first.must_sync && !second.must_sync,
        "raft asks for other syncs than the check expects; it is mistaken"
    );
    node.expect_no_report()?;
    case.release()?;
    node.persisted(first.number)?;
    let sent = node.persisted(second.number)?;
    let confirmed = answers(&sent, MessageType::MsgAppendResponse);
    ensure!(
        confirmed == [13],
        "a duplicate append up to 13 was answered with {confirmed:?}"
    );
    case.expect_persisted(13)
}

pub(super) fn rule_16_a_commit_alone_costs_no_sync<S: AsyncStoreUnderTest>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    let before = case.store.syncs();
    for commit in 6..=10 {
        let submitted = node.take(&mut case, heartbeat(LEADER, commit))?;
        ensure!(
            !submitted.must_sync,
            "raft asks for a sync that the check does not expect; it is mistaken"
        );
        node.persisted(submitted.number)?;
        case.expect_hard_state(&hard_state(2, 0, commit))?;
    }
    let after = case.store.syncs();
    ensure!(
        after == before,
        "five commit indexes took the count of syncs from {before:?} to {after:?}"
    );
    Ok(())
}

pub(super) fn rule_19_a_failed_write_changes_nothing_in_memory<S: AsyncStoreUnderTest>() -> Checked
{
    let mut case = follower::<S>()?;
    case.break_disk()?;
    let before = case.observe()?;
    let persisted = case.persisted_index()?;
    let newer = snapshot(20, 2, &voters(&[1, 2, 3, 4]), b"newer");
    type Operation<'a, S> = (&'a str, &'a dyn Fn(&mut S) -> Step);
    let operations: [Operation<'_, S>; 8] = [
        ("append", &|store| store.append(&run(11..=13, 2))),
        ("append over the tail", &|store| {
            store.append(&run(7..=8, 2))
        }),
        ("set_hard_state", &|store| {
            store.set_hard_state(&hard_state(7, 3, 9))
        }),
        ("set_commit", &|store| store.set_commit(8)),
        ("set_conf_state", &|store| {
            store.set_conf_state(&voters(&[1, 2]), 7)
        }),
        ("set_applied", &|store| store.set_applied(8)),
        ("compact", &|store| store.compact(4)),
        ("install", &|store| store.install(&newer)),
    ];
    for (name, operation) in operations {
        ensure!(
            operation(&mut case.store).is_err(),
            "{name} succeeded on a disk that refuses every write"
        );
        let after = case.observe()?;
        ensure!(
            after == before,
            "{name} failed, but it changed what is read\n    from {before}\n    to   {after}"
        );
        case.expect_persisted(persisted)?;
    }
    Ok(())
}

pub(super) fn rule_19_what_failed_is_never_called_persisted<S: AsyncStoreUnderTest>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    case.break_disk()?;
    node.step(append(LEADER, (10, 1), &run(11..=13, 2), 10))?;
    if let Ok(submitted) = node.try_submit(&mut case)? {
        let report = node.report()?;
        ensure!(
            report.outcome.is_err(),
            "Ready {} was acknowledged by a disk that refuses every write",
            submitted.number
        );
    }
    case.expect_persisted(10)?;
    let last = case.last_index()?;
    ensure!(
        last == 10 || last == 13,
        "the last index is {last} after a failed append of 11 to 13 behind 10"
    );
    Ok(())
}

pub(super) fn rule_19_after_a_failure_the_store_opens_with_what_it_acknowledged<
    S: AsyncStoreUnderTest,
>() -> Checked {
    let mut case = follower::<S>()?;
    let mut node = follow(&mut case)?;
    let ended = fail_under_way(&mut case, &mut node)?.outcomes;
    let durable = 11 + ended.iter().filter(|(_, outcome)| outcome.is_ok()).count() as u64;
    drop(node);
    case.reopen()?;
    let last = case.last_index()?;
    ensure!(
        (durable..=14).contains(&last),
        "the last index is {last} after a failure; up to {durable} was acknowledged, up to 14 \
         submitted"
    );
    case.expect_log(&log(&[(1..=10, 1), (11..=last, 2)]))?;
    case.append(&run(last + 1..=last + 2, 3))?;
    case.now_and_reopened(|case| {
        case.expect_log(&log(&[
            (1..=10, 1),
            (11..=last, 2),
            (last + 1..=last + 2, 3),
        ]))
    })
}
