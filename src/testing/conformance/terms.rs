//! Rules 1, 2 and 18: bounds and terms.

use super::case::{Beyond, Case, hard_state, log, run, snapshot, voters};
use super::{Checked, StoreUnderTest};

pub(super) fn rule_01_fresh_store_is_an_empty_log<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.now_and_reopened(|case| {
        case.expect_bounds(1, 0)?;
        case.expect_hard_state(&hard_state(0, 0, 0))?;
        case.expect_conf_state(&voters(&[]))?;
        case.expect_applied(0)
    })
}

pub(super) fn rule_01_bounds_answer_after_every_operation<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.append(&run(1..=8, 1))?;
    case.expect_bounds(1, 8)?;
    case.append(&run(6..=7, 2))?;
    case.expect_bounds(1, 7)?;
    case.set_hard_state(&hard_state(2, 1, 6))?;
    case.set_conf_state(&voters(&[1]), 6)?;
    case.create_snapshot(5, &voters(&[1]), b"state")?;
    case.expect_bounds(1, 7)?;
    case.compact(4)?;
    case.expect_bounds(4, 7)?;
    case.install(&snapshot(20, 3, &voters(&[1]), b"state"))?;
    case.expect_bounds(21, 20)?;
    case.append(&run(21..=21, 3))?;
    case.now_and_reopened(|case| case.expect_bounds(21, 21))
}

pub(super) fn rule_02_fresh_store_answers_term_zero<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.now_and_reopened(|case| {
        case.expect_term(0, 0)?;
        case.expect_no_term(1, Beyond::Unavailable)
    })
}

pub(super) fn rule_02_every_index_of_the_log_has_its_term<S: StoreUnderTest>() -> Checked {
    let entries = log(&[(1..=3, 1), (4..=4, 2), (5..=9, 7), (10..=10, u64::MAX)]);
    let mut case = Case::<S>::with_log(&entries)?;
    case.now_and_reopened(|case| {
        case.expect_term(0, 0)?;
        for entry in &entries {
            case.expect_term(entry.index, entry.term)?;
        }
        Ok(())
    })
}

pub(super) fn rule_02_above_the_log_is_unavailable<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 3))?;
    case.now_and_reopened(|case| {
        for index in [6, 7, 1_000_000, u64::MAX - 1, u64::MAX] {
            case.expect_no_term(index, Beyond::Unavailable)?;
        }
        Ok(())
    })
}

pub(super) fn rule_02_below_the_log_is_compacted<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 8, 6)?;
    case.compact(5)?;
    case.now_and_reopened(|case| {
        for index in [3, 2, 1, 0] {
            case.expect_no_term(index, Beyond::Compacted)?;
        }
        Ok(())
    })
}

pub(super) fn rule_02_term_of_first_minus_one_survives_compaction<S: StoreUnderTest>() -> Checked {
    // The truncated entry is the last of its run: nothing else holds term 2 afterwards.
    let mut case = Case::<S>::settled(&log(&[(1..=3, 1), (4..=5, 2), (6..=9, 4)]), 8, 7)?;
    case.compact(6)?;
    case.now_and_reopened(|case| {
        case.expect_bounds(6, 9)?;
        case.expect_term(5, 2)
    })
}

pub(super) fn rule_02_term_of_first_minus_one_survives_full_compaction<S: StoreUnderTest>()
-> Checked {
    let mut case = Case::<S>::settled(&log(&[(1..=3, 1), (4..=6, 5)]), 6, 6)?;
    case.compact(7)?;
    case.now_and_reopened(|case| case.expect_empty_log(6, 5))
}

pub(super) fn rule_02_term_of_first_minus_one_survives_install<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    case.install(&snapshot(30, 9, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(|case| {
        case.expect_empty_log(30, 9)?;
        case.expect_no_term(29, Beyond::Compacted)?;
        case.expect_no_term(5, Beyond::Compacted)
    })?;
    case.append(&run(31..=33, 9))?;
    case.now_and_reopened(|case| case.expect_term(30, 9))
}

pub(super) fn rule_02_terms_follow_an_overwritten_tail<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&log(&[(1..=4, 1), (5..=9, 2)]))?;
    case.append(&run(4..=6, 3))?;
    case.now_and_reopened(|case| {
        case.expect_term(3, 1)?;
        for index in 4..=6 {
            case.expect_term(index, 3)?;
        }
        case.expect_no_term(7, Beyond::Unavailable)
    })
}

/// The walk of a leader who looks for the place where a follower's log departs from its
/// own: every index, downwards.
fn walk<S: StoreUnderTest>(case: &Case<S>, entries: &[raft::eraftpb::Entry]) -> Checked {
    for entry in entries.iter().rev() {
        case.expect_term(entry.index, entry.term)?;
    }
    Ok(())
}

/// Runs of 1, 2, 3, .. entries, so that borders fall on many different indexes.
fn growing_runs(runs: u64) -> Vec<raft::eraftpb::Entry> {
    let mut next = 1;
    let mut entries = Vec::new();
    for length in 1..=runs {
        entries.extend(run(next..=next + length - 1, length * 2));
        next += length;
    }
    entries
}

pub(super) fn rule_18_the_walk_finds_every_term<S: StoreUnderTest>() -> Checked {
    let entries = growing_runs(40);
    let mut case = Case::<S>::new()?;
    for part in entries.chunks(97) {
        case.append(part)?;
    }
    case.now_and_reopened(|case| {
        walk(case, &entries)?;
        case.expect_term(0, 0)
    })
}

pub(super) fn rule_18_the_walk_crosses_a_cut_inside_a_run<S: StoreUnderTest>() -> Checked {
    let mut entries = growing_runs(12);
    let mut case = Case::<S>::with_log(&entries)?;
    // Index 60 stands inside the run of term 22, index 50 inside that of term 20, and
    // index 46 is the first of the latter.
    for (cut, term) in [(60, 30), (50, 31), (46, 32)] {
        entries.retain(|entry| entry.index < cut);
        entries.extend(run(cut..=cut + 1, term));
        case.append(&run(cut..=cut + 1, term))?;
        case.now_and_reopened(|case| {
            walk(case, &entries)?;
            case.expect_no_term(cut + 2, Beyond::Unavailable)
        })?;
    }
    Ok(())
}

pub(super) fn rule_18_the_walk_ends_at_a_compaction_inside_a_run<S: StoreUnderTest>() -> Checked {
    let mut entries = growing_runs(12);
    let mut case = Case::<S>::settled(&entries, 70, 70)?;
    // Index 40 stands inside the run of term 18, index 46 is the first of term 20, and
    // index 55 the last of it.
    for to in [40, 46, 55, 56] {
        case.compact(to)?;
        entries.retain(|entry| entry.index >= to - 1);
        case.now_and_reopened(|case| {
            walk(case, &entries)?;
            case.expect_no_term(to - 2, Beyond::Compacted)
        })?;
    }
    Ok(())
}
